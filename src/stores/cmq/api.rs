//! The control API of TDMQ for CMQ: one request, its answer, and what an error means. It never asks more often than is allowed, and of what the service says
//! it repeats codes and request ids alone.

use std::{
    collections::BTreeMap,
    num::NonZeroU32,
    time::{Duration, SystemTime},
};

use governor::{DefaultDirectRateLimiter, Quota};
use secrecy::SecretString;
use serde_json::Value;
use tokio::time::Instant;

use super::tc3;
use crate::{
    config::Cmq,
    stores::{StoreError, Until},
};

const VERSION: &str = "2020-02-17";
const SERVICE: &str = "tdmq";
/// What an answer may hold at most.
const LARGEST: usize = 4 << 20;
/// What is asked for, and how often: so many at once, and so many in a second. Together they stay below what is allowed in any second, which is 20 for all
/// regions together where nothing else is said, and 100 for the first.
const ACTIONS: [(&str, u32, u32); 11] = [
    ("DescribeCmqQueueDetail", 15, 75),
    ("DescribeCmqQueues", 4, 14),
    ("ModifyCmqQueueAttribute", 4, 14),
    ("UnbindCmqDeadLetter", 4, 14),
    ("ClearCmqQueue", 4, 14),
    ("DeleteCmqQueue", 4, 14),
    ("DescribeCmqTopicDetail", 4, 14),
    ("DescribeCmqTopics", 4, 14),
    ("DescribeCmqSubscriptionDetail", 4, 14),
    ("DeleteCmqSubscribe", 4, 14),
    ("DeleteCmqTopic", 4, 14),
];
/// What was begun in time may take so long.
const LONGEST: Duration = Duration::from_millis(1200);

/// What a request came to when it was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failed {
    /// What it is about is not there.
    NotThere,
    /// Something else is bound to it still.
    InUse(String),
    /// The key may not ask for it.
    Forbidden(String),
    /// Anything else.
    Error(StoreError),
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Error(error)
    }
}

impl From<Failed> for StoreError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::NotThere => Self::Refused("what it is about is not there".to_owned()),
            Failed::InUse(what) | Failed::Forbidden(what) => Self::Refused(what),
            Failed::Error(error) => error,
        }
    }
}

/// The API of one store.
pub(super) struct Api {
    client: reqwest::Client,
    endpoint: String,
    host: String,
    secret_id: String,
    secret_key: SecretString,
    pace: BTreeMap<&'static str, DefaultDirectRateLimiter>,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Api {
    /// Opens no connection.
    pub(super) fn new(cmq: &Cmq) -> Result<Self, StoreError> {
        // Whoever was first has set the same one.
        let _set = rustls::crypto::ring::default_provider().install_default();
        let builder = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).user_agent("retentiond");
        // What stays on this machine goes through no proxy.
        let builder = if cmq.endpoint.starts_with("http://") { builder.no_proxy() } else { builder };
        let client = builder.build().map_err(|error| StoreError::Refused(format!("no client for HTTP: {}", chain(&error))))?;
        let host = cmq.endpoint.split_once("://").map_or("", |(_, host)| host);
        let default = if cmq.endpoint.starts_with("https://") { ":443" } else { ":80" };
        let some = |n: u32| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
        let quota = |burst: u32, often: u32| Quota::per_second(some(often)).allow_burst(some(burst));
        Ok(Self {
            client,
            endpoint: cmq.endpoint.clone(),
            host: host.strip_suffix(default).unwrap_or(host).to_owned(),
            secret_id: cmq.secret_id.clone(),
            secret_key: cmq.secret_key.clone(),
            pace: ACTIONS.iter().map(|&(action, burst, often)| (action, DefaultDirectRateLimiter::direct(quota(burst, often)))).collect(),
        })
    }

    /// Asks for one thing in one region, waiting for its turn until `by` at most, and for the answer a little longer; for a change only as long as that may
    /// begin. What the service answers, without its envelope.
    pub(super) async fn ask(
        &self,
        region: &str,
        action: &'static str,
        body: &Value,
        by: Instant,
        change: Option<Until>,
    ) -> Result<Value, Failed> {
        if Instant::now() >= by {
            return Err(StoreError::Away(format!("{region}, {action}: it answers too slowly to be asked for more")).into());
        }
        if let Some(pace) = self.pace.get(action)
            && tokio::time::timeout_at(by, pace.until_ready()).await.is_err()
        {
            let what = format!("{action} is asked for as often as it may be");
            return Err(StoreError::Busy { what, pause: Duration::from_secs(1) }.into());
        }
        if change.is_some_and(Until::passed) {
            return Err(StoreError::Later { what: "there was no time left to go on".to_owned(), pause: Duration::ZERO }.into());
        }
        let body = body.to_string();
        #[expect(clippy::disallowed_methods, reason = "a signature says when it was made; nothing is decided by it")]
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let timestamp = i64::try_from(now).unwrap_or(i64::MAX);
        let request = self
            .client
            .post(&self.endpoint)
            .header("Content-Type", tc3::CONTENT_TYPE)
            .header("Host", &self.host)
            .header("Authorization", tc3::authorization(&self.secret_id, &self.secret_key, (SERVICE, &self.host), &body, timestamp))
            .header("X-TC-Action", action)
            .header("X-TC-Version", VERSION)
            .header("X-TC-Timestamp", timestamp.to_string())
            .header("X-TC-Region", region)
            .timeout(by.saturating_duration_since(Instant::now()) + LONGEST)
            .body(body);
        let away = |error: &reqwest::Error| StoreError::Away(format!("{region}, {action}: {}", chain(error)));
        let mut response = request.send().await.map_err(|error| away(&error))?;
        let (status, pause) = (response.status(), retry_after(response.headers()));
        let mut answer = Vec::new();
        while let Some(part) = response.chunk().await.map_err(|error| away(&error))? {
            answer.extend_from_slice(&part);
            if answer.len() > LARGEST {
                return Err(StoreError::Away(format!("{region}, {action}: an answer without an end")).into());
            }
        }
        let answer = serde_json::from_slice::<Value>(&answer).ok().and_then(|mut whole| whole.get_mut("Response").map(Value::take));
        let id = answer.as_ref().map_or_else(String::new, |answer| request_id(&answer["RequestId"]));
        let what = |said: &str| format!("{region}, {action}: {said}{id}");
        let code = answer.as_ref().and_then(|answer| answer["Error"]["Code"].as_str()).map(str::to_owned);
        match (code, answer) {
            (Some(code), _) => Err(sorted(&code, &what(&word(&code)), pause)),
            (None, Some(answer)) if status.is_success() && answer.is_object() => Ok(answer),
            (None, _) => Err(by_status(status.as_u16(), &what(&format!("HTTP {}", status.as_u16())), pause).into()),
        }
    }
}

/// What a code of the service means.
fn sorted(code: &str, what: &str, pause: Option<Duration>) -> Failed {
    let is = |family: &str| code == family || code.strip_prefix(family).is_some_and(|rest| rest.starts_with('.'));
    let refused = |why: &str| Failed::Error(StoreError::Refused(format!("{what}{why}")));
    if is("ResourceNotFound") {
        Failed::NotThere
    } else if is("ResourceInUse") || is("FailedOperation.DeleteTopics") {
        Failed::InUse(what.to_owned())
    } else if is("RequestLimitExceeded") {
        StoreError::Throttled { what: what.to_owned(), pause }.into()
    } else if is("InternalError") || is("ServiceUnavailable") || is("FailedOperation.OperateLater") || is("FailedOperation.CmqBackendError")
    {
        StoreError::Away(what.to_owned()).into()
    } else if is("AuthFailure.SignatureExpire") {
        refused("; the clock of this machine is wrong by minutes")
    } else if is("AuthFailure.UnauthorizedOperation") || is("UnauthorizedOperation") {
        Failed::Forbidden(format!("{what}; the key lacks the permission for it"))
    } else if is("AuthFailure") {
        refused("; the key is not accepted")
    } else if is("ResourceUnavailable.FundRequired") {
        refused("; the account is in arrears, and nothing can be looked at until that is settled")
    } else {
        refused("")
    }
}

/// What a status means that came without a code.
fn by_status(status: u16, what: &str, pause: Option<Duration>) -> StoreError {
    match status {
        429 | 503 => StoreError::Throttled { what: what.to_owned(), pause },
        // A success without an answer is none.
        200..=299 | 408 | 500..=599 => StoreError::Away(what.to_owned()),
        _ => StoreError::Refused(what.to_owned()),
    }
}

/// So long it asks to be left alone, if it says so in seconds; never longer than five minutes.
fn retry_after(headers: &reqwest::header::HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get("Retry-After")?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(Duration::from_mins(5)))
}

/// A code as it may be repeated: what is none is not.
fn word(code: &str) -> String {
    code.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '.' || *c == '_').take(80).collect()
}

fn request_id(id: &Value) -> String {
    let id: String = id.as_str().unwrap_or_default().chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(64).collect();
    if id.is_empty() { id } else { format!(" (request {id})") }
}

/// An error with its causes; it holds addresses, and neither bodies nor headers.
fn chain(error: &reqwest::Error) -> String {
    let mut whole = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        whole = format!("{whole}: {error}");
        source = error.source();
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_second_sees_more_requests_than_are_allowed() {
        for (action, burst, often) in ACTIONS {
            let allowed = if action == "DescribeCmqQueueDetail" { 100 } else { 20 };
            assert!(burst + often < allowed, "{action}");
        }
    }

    #[test]
    fn a_code_says_whether_waiting_may_help() {
        let says = |code: &str| sorted(code, "w", Some(Duration::from_secs(7)));
        let refused = |code: &str| matches!(says(code), Failed::Error(StoreError::Refused(_)) | Failed::Forbidden(_));
        for gone in ["ResourceNotFound", "ResourceNotFound.Queue"] {
            assert_eq!(says(gone), Failed::NotThere);
        }
        for throttled in
            ["RequestLimitExceeded", "RequestLimitExceeded.UinLimitExceeded", "RequestLimitExceeded.GlobalRegionUinLimitExceeded"]
        {
            assert_eq!(says(throttled), Failed::Error(StoreError::Throttled { what: "w".to_owned(), pause: Some(Duration::from_secs(7)) }));
        }
        for away in ["InternalError", "InternalError.Retry", "FailedOperation.CmqBackendError", "FailedOperation.OperateLater"] {
            assert_eq!(says(away), Failed::Error(StoreError::Away("w".to_owned())), "{away}");
        }
        assert_eq!(says("ResourceInUse.Topic"), Failed::InUse("w".to_owned()));
        for code in [
            "AuthFailure.SecretIdNotFound",
            "AuthFailure.UnauthorizedOperation",
            "ResourceUnavailable.FundRequired",
            "ResourceNotFoundish",
            "",
            "Other",
        ] {
            assert!(refused(code), "{code}");
        }
    }

    #[test]
    fn a_status_without_an_answer_is_never_a_success() {
        for (status, throttled, away) in
            [(429, true, false), (503, true, false), (200, false, true), (500, false, true), (403, false, false)]
        {
            let error = by_status(status, "w", None);
            assert_eq!(matches!(error, StoreError::Throttled { .. }), throttled, "{status}");
            assert_eq!(matches!(error, StoreError::Away(_)), away, "{status}");
        }
    }

    #[test]
    fn only_what_looks_like_a_code_or_an_id_is_repeated() {
        assert_eq!(word("A.B_c not to be logged\n"), "A.B_cnottobelogged");
        assert_eq!(request_id(&Value::from("e9a7-\"x")), " (request e9a7-x)");
        assert_eq!(request_id(&Value::Null), "");
    }
}
