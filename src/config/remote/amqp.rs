//! A broker that speaks AMQP 0-9-1, as it is written down.

use secrecy::{ExposeSecret, SecretString};

use super::{Needs, Protocol, Read, Remote, Table, host, identity, is_local, of_each_account, secret};

/// Parameters of an address that mean something here; the driver would ignore any other.
const PARAMETERS: [&str; 3] = ["auth_mechanism", "cacertfile", "heartbeat"];
/// The longest name of a queue, in bytes.
const LONGEST: usize = 255;

/// Reads the store.
pub(super) fn store(t: &mut Table<'_>, needs: Needs) -> Option<Remote> {
    let url = secret(t, "url", "url_file", needs)?;
    if url.expose_secret().is_empty() && needs == Needs::Nothing {
        return Some(Remote { at: t.key(""), protocol: Protocol::Amqp(url) });
    }
    let (url, at) = address(url.expose_secret()).map_err(|why| t.fault("url", why)).ok()?;
    Some(Remote { at, protocol: Protocol::Amqp(url) })
}

/// Reads the name of a queue.
pub(super) fn queue(value: &::config::Value) -> Read<String> {
    let given = of_each_account(value)?;
    if given.starts_with("amq.") {
        return Err(format!("{given:?}: names that start with amq. are the broker's own"));
    }
    if given.len() > LONGEST {
        return Err(format!("{given:?} is longer than the {LONGEST} bytes of a queue's name"));
    }
    Ok(given)
}

/// Judges an address without repeating it: nothing in it that would be ignored, TLS wherever it leaves this machine. What may be said of it comes along.
fn address(url: &str) -> Read<(SecretString, String)> {
    let port = match url.split_once("://") {
        Some(("amqps", _)) => 5671,
        Some(("amqp", _)) => 5672,
        _ => return Err("must start with amqps:// (on this machine amqp:// will do)".to_owned()),
    };
    if url.contains('#') {
        return Err("holds a bare #; write it as %23".to_owned());
    }
    let parameters = url.split_once('?').map_or("", |(_, parameters)| parameters).split('&').filter(|one| !one.is_empty());
    if let Some(unknown) = parameters.map(|one| one.split('=').next().unwrap_or(one)).find(|name| !PARAMETERS.contains(name)) {
        return Err(format!("has an unknown parameter {unknown:?}; known: {}", PARAMETERS.join(", ")));
    }
    let host = host(url);
    // The driver takes either for localhost.
    if host.is_empty() || host.starts_with('[') {
        return Err("names no host that can be reached: write a name or an IPv4 address".to_owned());
    }
    if port == 5672 && !is_local(&host) {
        return Err("would send its password over the network as it is: write amqps:// (TLS, port 5671)".to_owned());
    }
    let at = identity(url, port);
    let (broker, vhost) = at.rsplit_once('/').unwrap_or((&at, ""));
    let vhost = match url.split('?').next().unwrap_or(url).matches('/').count() {
        2 => "/".to_owned(),
        3 if !vhost.is_empty() => decoded(vhost),
        3 => return Err("ends in a slash, which means the vhost without a name: leave it out, or write /%2f for the vhost /".to_owned()),
        _ => return Err("names a vhost with a bare slash; write it as %2f".to_owned()),
    };
    Ok((url.into(), format!("{broker}/{vhost}")))
}

/// What `%2f` and its like stand for.
fn decoded(spelt: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = spelt.as_bytes();
    while let [first, more @ ..] = rest {
        let coded = more.get(..2).filter(|_| *first == b'%').and_then(|pair| hex::decode(pair).ok());
        rest = if coded.is_some() { more.get(2..).unwrap_or_default() } else { more };
        bytes.extend(coded.unwrap_or_else(|| vec![*first]));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
