//! Endpoints that are told what happens to an account's records, as they are written down. What is sent there is `notices`.

mod reach;
#[cfg(test)]
mod tests;

use std::{fs, net::IpAddr, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use secrecy::{ExposeSecret, SecretSlice, SecretString};

use super::{
    raw::unreadable,
    remote::{host, is_local, secret},
    table::{Read, Table, at_least, duration, flag, text, texts},
    validate::Needs,
};

pub use reach::is_public;

/// Before `retain_until`.
pub const DUE_SOON: &str = "retention.purge.due_soon";
/// Every type of notice.
pub const TYPES: [&str; 11] = [
    "retention.purge.scheduled",
    "retention.purge.rescheduled",
    "retention.purge.cancelled",
    DUE_SOON,
    "retention.purge.started",
    "retention.purge.completed",
    "retention.purge.overdue",
    "retention.hold.placed",
    "retention.hold.released",
    "retention.guard.tripped",
    "retention.guard.released",
];

/// When an endpoint is warned, unless it says otherwise.
const AHEAD: [Duration; 2] = [Duration::from_hours(7 * 24), Duration::from_hours(24)];
/// How long a notice is tried, unless it says otherwise.
const TRIED_FOR: Duration = Duration::from_hours(3 * 24);
/// Warnings of one job at most.
const MOST_WARNINGS: usize = 8;
/// Secrets of one endpoint at most: each is a signature in every request.
const MOST_SECRETS: usize = 4;
/// What a secret begins with.
const PREFIX: &str = "whsec_";

/// An endpoint that is told.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// What logs, figures and the command line call it.
    pub name: String,
    /// Where it is; may hold a token, so it is never printed. Empty when nobody needs it now.
    pub url: SecretString,
    /// The host of the address, for messages.
    pub host: String,
    /// What requests are signed with, each for itself: the new and the old one while they are changed.
    pub secrets: Vec<SecretSlice<u8>>,
    /// Types that it wants, of [`TYPES`].
    pub types: Vec<String>,
    /// How long before `retain_until` it is warned, the longest first.
    pub due_soon: Vec<Duration>,
    /// How long a notice is tried.
    pub give_up_after: Duration,
    /// It may be in a private network.
    pub allow_private: bool,
}

/// Reads the endpoints. Two of one name are a fault.
pub(super) fn endpoints(root: &mut Table<'_>, needs: Needs) -> Vec<Endpoint> {
    let label = |tree: &super::raw::Tree| tree.get("name").and_then(|name| text(name).ok());
    let mut names = Vec::new();
    let read = root.list("notices", label, |t| {
        let endpoint = endpoint(t, needs);
        if let Some(endpoint) = &endpoint {
            if names.contains(&endpoint.name) {
                t.fault("name", format!("{:?} is the name of two endpoints", endpoint.name));
            }
            names.push(endpoint.name.clone());
        }
        endpoint
    });
    if cfg!(not(feature = "notices")) && !read.is_empty() {
        root.fault("notices", "this program was built without the feature `notices`: leave them out, or build with it");
    }
    read.into_iter().flatten().collect()
}

fn endpoint(t: &mut Table<'_>, needs: Needs) -> Option<Endpoint> {
    let name = t.need("name", "logs and figures call the endpoint by it", name);
    let allow_private = t.maybe("allow_private", flag).unwrap_or_default();
    let url = secret(t, "url", "url_file", needs);
    let host = url.as_ref().and_then(|url| match url.expose_secret() {
        "" if needs == Needs::Nothing => Some(String::new()),
        url => address(url, allow_private).map_err(|why| t.fault("url", why)).ok(),
    });
    let secrets = secrets(t, needs);
    let types = t.maybe("types", types).unwrap_or_else(|| TYPES.map(str::to_owned).to_vec());
    let due_soon = t.maybe("due_soon", warnings).unwrap_or_else(|| AHEAD.to_vec());
    let give_up_after = t.maybe("give_up_after", at_least(Duration::from_mins(1))).unwrap_or(TRIED_FOR);
    Some(Endpoint { name: name?, url: url?, host: host?, secrets: secrets?, types, due_soon, give_up_after, allow_private })
}

/// A name that is safe as a label and a word of the command line.
fn name(value: &::config::Value) -> Read<String> {
    let given = text(value)?;
    let sound = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    if given.len() <= 64 && given.chars().all(sound) {
        Ok(given)
    } else {
        Err(format!("{given:?} is no name: at most 64 lower-case letters, digits, - and _"))
    }
}

/// Judges an address without repeating it; its host.
fn address(url: &str, allow_private: bool) -> Read<String> {
    if url.contains(|c: char| c.is_whitespace() || c.is_control() || c == '\\') {
        return Err("holds a space, a control character or a backslash".to_owned());
    }
    let Some((scheme @ ("https" | "http"), rest)) = url.split_once("://") else {
        return Err("must start with https:// (http:// is for this machine alone)".to_owned());
    };
    if rest.split(['/', '?', '#']).next().is_some_and(|authority| authority.contains('@')) {
        return Err("holds a user or a password; requests are signed, so leave it out".to_owned());
    }
    if url.contains('#') {
        return Err("holds a bare #; write it as %23".to_owned());
    }
    let host = host(url);
    if host.is_empty() {
        return Err("names no host".to_owned());
    }
    if scheme == "http" && !is_local(&host) {
        return Err("must start with https://: http:// is for this machine alone".to_owned());
    }
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let private = is_local(&host) || ip.is_ok_and(|ip| !is_public(ip));
    if private && !allow_private {
        return Err("is in a private network; if that is meant, set allow_private = true".to_owned());
    }
    Ok(host)
}

/// What requests are signed with: texts, or files that hold them, one or a list.
fn secrets(t: &mut Table<'_>, needs: Needs) -> Option<Vec<SecretSlice<u8>>> {
    if t.has("secret") && t.has("secret_file") {
        t.fault("secret_file", "secret is set too; keep one of them");
    }
    if t.has("secret_file") {
        return t.maybe("secret_file", |value| {
            let paths = one_or_more(value)?;
            if needs == Needs::Nothing {
                return Ok(Vec::new());
            }
            let read = |path: &String| {
                let content = fs::read_to_string(path).map_err(|error| format!("{path:?} {}", unreadable(&error)))?;
                signing(content.trim()).map_err(|why| format!("what {path:?} holds {why}"))
            };
            paths.iter().map(read).collect()
        });
    }
    t.need(
        "secret",
        "write it, or the path of a file that holds it as secret_file; `openssl rand -base64 32` makes one, after whsec_",
        |value| one_or_more(value)?.iter().map(|secret| signing(secret).map_err(|why| format!("it {why}"))).collect(),
    )
}

fn one_or_more(value: &::config::Value) -> Read<Vec<String>> {
    // A list's own fault would repeat a secret that stands there twice.
    let given =
        text(value).map(|one| vec![one]).or_else(|_| texts(value).map_err(|_| "must be a text, or a list of different ones".to_owned()))?;
    if given.len() > MOST_SECRETS { Err(format!("names {}: {MOST_SECRETS} at most", given.len())) } else { Ok(given) }
}

/// A secret of Standard Webhooks, never repeated.
fn signing(secret: &str) -> Read<SecretSlice<u8>> {
    let Some(encoded) = secret.strip_prefix(PREFIX) else {
        return Err(format!("must start with {PREFIX}"));
    };
    match BASE64_STANDARD.decode(encoded) {
        Ok(key) if (24..=64).contains(&key.len()) => Ok(key.into()),
        Ok(key) => Err(format!("has {} bytes, and must have 24 to 64", key.len())),
        Err(_) => Err(format!("is not base64 after {PREFIX}")),
    }
}

fn types(value: &::config::Value) -> Read<Vec<String>> {
    let given = texts(value)?;
    match given.iter().find(|given| !TYPES.contains(&given.as_str())) {
        Some(unknown) => Err(format!("{unknown:?} is no type of notice; there are {}", TYPES.join(", "))),
        None => Ok(given),
    }
}

/// How long ahead, the longest first. None is allowed, and never warns.
fn warnings(value: &::config::Value) -> Read<Vec<Duration>> {
    let ::config::ValueKind::Array(items) = &value.kind else {
        return Err("must be a list, like [\"7d\", \"1d\"]".to_owned());
    };
    let mut ahead: Vec<Duration> = items.iter().map(duration).collect::<Result<_, _>>()?;
    ahead.sort_unstable_by(|a, b| b.cmp(a));
    ahead.dedup();
    if let Some(short) = ahead.iter().find(|ahead| ahead.subsec_nanos() > 0 || ahead.as_secs() < 60) {
        return Err(format!("{} is less than a minute, or no whole seconds", humantime::format_duration(*short)));
    }
    if ahead.len() > MOST_WARNINGS { Err(format!("has {} entries: {MOST_WARNINGS} at most", ahead.len())) } else { Ok(ahead) }
}

/// What is wrong with a notice's period: it would be forgotten while it is still tried.
pub(super) fn judge_period(root: &Table<'_>, endpoints: &[Endpoint], keep: Option<Duration>) {
    let longest = endpoints.iter().map(|endpoint| endpoint.give_up_after).max();
    if let (Some(keep), Some(longest)) = (keep, longest)
        && keep < longest
    {
        let shown = humantime::format_duration;
        root.fault(
            "records.keep_notices",
            format!("{} is shorter than a give_up_after of {}: notices would be forgotten unsent", shown(keep), shown(longest)),
        );
    }
}
