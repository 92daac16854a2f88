//! One request to an endpoint: over TLS, to an address of the open internet as it resolves at that very moment, without redirects and proxies. Of the answer only the
//! status is used.

use std::{error::Error, net::IpAddr, net::SocketAddr, sync::Arc, time::Duration};

use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};
use secrecy::ExposeSecret;

use super::event::sign;
use crate::config::{Endpoint, is_public};

/// How long a request may take.
pub(super) const TIMEOUT: Duration = Duration::from_secs(15);
/// Of a body so much is read, so that the connection can be used again.
const READ: usize = 1_024;

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// Any 2xx.
    Taken,
    /// 410: gone for good.
    Gone,
    /// Anything else, in a few words that hold nothing secret.
    Failed(String),
}

/// Speaks to one endpoint.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    url: Url,
}

impl Client {
    /// Opens no connection.
    ///
    /// # Errors
    /// Why no request can be made.
    pub(super) fn new(endpoint: &Endpoint) -> Result<Self, String> {
        let url = Url::parse(endpoint.url.expose_secret()).map_err(|error| format!("its address is none: {error}"))?;
        let host = url.host_str().unwrap_or_default();
        // The resolver is not asked about an address that is spelt out, in whatever way.
        let spelt = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
        if spelt.is_some_and(|ip| !may_reach(ip, endpoint.allow_private)) {
            return Err(PRIVATE.to_owned());
        }
        if url.scheme() != "https" && !(host.eq_ignore_ascii_case("localhost") || spelt.is_some_and(|ip| ip.is_loopback())) {
            return Err("its address is not https://".to_owned());
        }
        // Somebody else may have installed it: there is only this one.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let here_alone = url.scheme() != "https";
        let http = reqwest::Client::builder()
            .user_agent("retentiond")
            .redirect(redirect::Policy::none())
            // A proxy would resolve the name once more, out of our sight.
            .no_proxy()
            .dns_resolver(Arc::new(Guarded { allow_private: endpoint.allow_private, here_alone }))
            .connect_timeout(Duration::from_secs(5))
            .timeout(TIMEOUT)
            .pool_idle_timeout(Duration::from_secs(30))
            .build()
            .map_err(|error| format!("TLS cannot be used: {}", root_cause(&error)))?;
        Ok(Self { http, url })
    }

    /// Sends a body under this id, signed now.
    pub(super) async fn send(&self, endpoint: &Endpoint, id: &str, timestamp: i64, body: String) -> Answer {
        let request = self
            .http
            .post(self.url.clone())
            .header("content-type", "application/cloudevents+json; charset=utf-8")
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", sign(&endpoint.secrets, id, timestamp, &body))
            .body(body);
        let mut answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) if error.is_timeout() => return Answer::Failed(format!("no answer within {} s", TIMEOUT.as_secs())),
            Err(error) => return Answer::Failed(root_cause(&error)),
        };
        let status = answer.status();
        let mut read = 0;
        while read < READ {
            match answer.chunk().await {
                Ok(Some(chunk)) => read += chunk.len(),
                // The status is what counts.
                Ok(None) | Err(_) => break,
            }
        }
        match status.as_u16() {
            200..300 => Answer::Taken,
            410 => Answer::Gone,
            300..400 => Answer::Failed(format!("status {}: redirects are not followed", status.as_u16())),
            other => Answer::Failed(format!("status {other}")),
        }
    }
}

const PRIVATE: &str = "its address is in a private network, and allow_private is not set";

fn may_reach(ip: IpAddr, allow_private: bool) -> bool {
    allow_private || is_public(ip)
}

/// What is at the bottom of an error: without the address, which may hold a token.
fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    match cause.downcast_ref::<reqwest::Error>() {
        Some(_) => "the request could not be made".to_owned(),
        None => cause.to_string(),
    }
}

/// Resolves names, and leaves out addresses that must not be reached.
#[derive(Debug, Clone, Copy)]
struct Guarded {
    allow_private: bool,
    /// Without TLS nothing leaves this machine.
    here_alone: bool,
}

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = *self;
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let reachable = guard.among(found);
            if reachable.is_empty() {
                return Err(PRIVATE.into());
            }
            Ok::<Addrs, _>(Box::new(reachable.into_iter()))
        })
    }
}

impl Guarded {
    fn among(self, mut found: Vec<SocketAddr>) -> Vec<SocketAddr> {
        found.retain(|at| may_reach(at.ip(), self.allow_private) && (!self.here_alone || at.ip().is_loopback()));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str, allow_private: bool) -> Endpoint {
        let hour = Duration::from_hours(1);
        Endpoint {
            name: "e".to_owned(),
            url: url.into(),
            host: String::new(),
            secrets: vec![vec![7; 32].into()],
            types: Vec::new(),
            due_soon: Vec::new(),
            give_up_after: hour,
            allow_private,
        }
    }

    #[test]
    fn a_private_address_is_refused_however_it_is_spelt() {
        for url in [
            "https://10.0.0.1/",
            "https://0x7f.1/",
            "https://2130706433/",
            "https://[::ffff:10.0.0.1]/",
            "https://[::1]/",
            "http://127.0.0.1/",
        ] {
            assert_eq!(Client::new(&endpoint(url, false)).unwrap_err(), PRIVATE, "{url}");
            assert!(Client::new(&endpoint(url, true)).is_ok(), "{url}");
        }
        assert!(Client::new(&endpoint("http://platform.example/", true)).is_err());
        assert!(Client::new(&endpoint("https://8.8.8.8/", false)).is_ok());
    }

    #[test]
    fn of_what_a_name_resolves_to_only_what_may_be_reached_is_left() {
        let [here, inside, outside] = ["127.0.0.1:0", "10.1.2.3:0", "8.8.8.8:0"].map(|at| at.parse::<SocketAddr>().unwrap());
        let all = || vec![here, inside, outside];
        assert_eq!(Guarded { allow_private: false, here_alone: false }.among(all()), [outside]);
        assert_eq!(Guarded { allow_private: true, here_alone: false }.among(all()), all());
        assert_eq!(Guarded { allow_private: true, here_alone: true }.among(all()), [here]);
    }

    #[tokio::test]
    async fn a_name_that_resolves_to_this_machine_is_refused_when_it_is_connected_to() {
        // Judged as a name it could be anywhere: only the resolver knows.
        let answer =
            Client::new(&endpoint("https://localhost:9/", false)).unwrap().send(&endpoint("", false), "id", 1, String::new()).await;
        assert_eq!(answer, Answer::Failed(PRIVATE.to_owned()));
    }
}
