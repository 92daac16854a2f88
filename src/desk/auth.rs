//! Who asks: a bearer token, the same token in the cookie that the sign-in page sets, a name that a trusted proxy gives, or, where none of these is
//! configured and only this machine can reach us, anybody as a viewer.

use std::net::IpAddr;

use axum::{
    extract::Request,
    http::{HeaderMap, Method, header},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};

use super::problem::Problem;
use crate::config::{Config, Proxy, Role};

/// The cookie that holds the token of a browser.
pub(super) const COOKIE: &str = "retentiond_token";
/// What tokens begin with, so that scanners for leaked secrets find them.
const PREFIX: &str = "rtd_";
/// The longest token that is looked at.
const LONGEST: usize = 512;

/// Who asks, and what they may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The name: the actor of what is done.
    pub name: String,
    /// What they may do.
    pub role: Role,
}

/// A token of 256 random bits, to be given to whoever it is for and kept nowhere.
///
/// # Errors
/// When the system has no randomness to give.
pub fn fresh_token() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

/// What is configured of a token. Without salt or stretching: the token is as random as its hash.
#[must_use]
pub fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Who it is. A token that is wrong is refused, also where anybody might read without one.
pub(super) fn authenticate(config: &Config, headers: &HeaderMap, peer: Option<IpAddr>) -> Result<Principal, Problem> {
    // First, for what it forwards of the headers it was sent is not for us.
    if let Some(principal) = config.http.proxy.as_ref().and_then(|proxy| vouched(proxy, headers, peer)) {
        return principal;
    }
    if let Some(token) = bearer(headers)? {
        return known(config, token);
    }
    if let Some(token) = cookie(headers) {
        return known(config, token);
    }
    if config.http.tokens.is_empty() && config.http.proxy.is_none() {
        return anonymous(headers);
    }
    Err(Problem::unauthorized("send `Authorization: Bearer` with a token of http.tokens, or sign in at /sign-in"))
}

fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let token = value.to_str().ok().and_then(|text| text.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    token.map(|(_, token)| Some(token.trim())).ok_or_else(|| Problem::unauthorized("write `Authorization: Bearer` and the token"))
}

/// Whether a browser has signed in.
pub(super) fn has_session(headers: &HeaderMap) -> bool {
    cookie(headers).is_some()
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    cookies
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| *name == COOKIE)
        .map(|(_, token)| token)
}

pub(super) fn known(config: &Config, token: &str) -> Result<Principal, Problem> {
    let refused = || Problem::unauthorized("this token is none of http.tokens, or counts no longer");
    if token.len() > LONGEST {
        return Err(refused());
    }
    // Of hashes nothing is learned by how long they take to compare.
    let given = hash(token);
    let found = config.http.tokens.iter().find(|token| token.sha256 == given).ok_or_else(refused)?;
    if found.until.is_some_and(|until| until <= now()) {
        return Err(refused());
    }
    Ok(Principal { name: found.name.clone(), role: found.role })
}

/// The host's clock, for what no deletion rests on.
#[expect(clippy::disallowed_methods, reason = "how long a token counts is between its owner and this host; no deletion rests on it")]
pub(super) fn now() -> DateTime<Utc> {
    Utc::now()
}

/// Whom the proxy names, if it is the proxy that asks and it names somebody.
fn vouched(proxy: &Proxy, headers: &HeaderMap, peer: Option<IpAddr>) -> Option<Result<Principal, Problem>> {
    let one = |name: &str| {
        let mut values = headers.get_all(name).iter();
        let value = values.next()?.to_str().ok()?.trim();
        // Two of them: somebody sent one past the proxy.
        (values.next().is_none() && !value.is_empty()).then_some(value)
    };
    if !peer.is_some_and(|peer| proxy.from.contains(&peer.to_canonical())) || !headers.contains_key(proxy.user_header.as_str()) {
        return None;
    }
    let Some(name) = one(&proxy.user_header).filter(|name| name.len() <= LONGEST) else {
        return Some(Err(Problem::unauthorized("the proxy gives no name, or more than one")));
    };
    let role = match proxy.role_header.as_deref().map(|header| (headers.contains_key(header), one(header))) {
        None | Some((false, _)) => Some(Role::Viewer),
        Some((true, given)) => given.and_then(role),
    };
    Some(
        role.map(|role| Principal { name: name.to_owned(), role })
            .ok_or_else(|| Problem::forbidden("the role that the proxy gives is none of viewer, operator, officer, ingest")),
    )
}

fn role(word: &str) -> Option<Role> {
    [Role::Ingest, Role::Viewer, Role::Operator, Role::Officer].into_iter().find(|role| role.as_str() == word)
}

/// Only a loopback address is listened on then. A page from elsewhere may have a name of its own resolve to it, and would call us by that name.
fn anonymous(headers: &HeaderMap) -> Result<Principal, Problem> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if is_loopback(host) {
        return Ok(Principal { name: "anonymous".to_owned(), role: Role::Viewer });
    }
    Err(Problem::forbidden("without http.tokens this is answered under localhost, 127.0.0.1 or [::1] only"))
}

/// Whether a `Host` is this machine's, as seen from itself.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Whatever a browser sends from another site's page changes nothing here, whoever is signed in.
pub(super) fn same_origin(request: &Request) -> Result<(), Problem> {
    if [Method::GET, Method::HEAD].contains(request.method()) {
        return Ok(());
    }
    let text = |name: header::HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
    let elsewhere = || Problem::forbidden("this was sent by a page of another site");
    match text(header::HeaderName::from_static("sec-fetch-site")) {
        Some("same-origin" | "none") => return Ok(()),
        Some(_) => return Err(elsewhere()),
        None => {}
    }
    // Older browsers; programs send neither.
    match (text(header::ORIGIN), text(header::HOST)) {
        (None, _) => Ok(()),
        (Some(origin), Some(host)) if origin.split_once("://").is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(host)) => Ok(()),
        (Some(_), _) => Err(elsewhere()),
    }
}
