//! A MongoDB, as it is written down.

use secrecy::{ExposeSecret, SecretString};

use super::{Needs, Protocol, Read, Remote, Table, is_local, secret, text};

/// Reads the store.
pub(super) fn store(t: &mut Table<'_>, needs: Needs) -> Option<Remote> {
    let url = secret(t, "url", "url_file", needs)?;
    if url.expose_secret().is_empty() && needs == Needs::Nothing {
        return Some(Remote { at: t.key(""), protocol: Protocol::Mongodb(url) });
    }
    let (url, at) = address(url.expose_secret()).map_err(|why| t.fault("url", why)).ok()?;
    Some(Remote { at, protocol: Protocol::Mongodb(url) })
}

/// Reads the name of a collection.
pub(super) fn collection(value: &::config::Value) -> Read<String> {
    let given = text(value)?;
    if given.contains(['$', '\0']) || given.starts_with('.') || given.ends_with('.') {
        return Err(format!("{given:?} is no name of a collection"));
    }
    if given.starts_with("system.") {
        return Err(format!("{given:?}: names that start with system. are the server's own"));
    }
    Ok(given)
}

/// Reads the name of a field; a dot leads into a document within.
pub(super) fn field(value: &::config::Value) -> Read<String> {
    let given = text(value)?;
    if given.contains('\0') || given.split('.').any(|part| part.is_empty() || part.starts_with('$')) {
        return Err(format!("{given:?} is no name of a field"));
    }
    Ok(given)
}

/// Whether a place under the customer's control, as spelt, means this collection.
pub(super) fn is_spelt(collection: &str, spelt: &str) -> bool {
    let (collection, spelt) = (collection.to_lowercase(), spelt.replace('"', "").to_lowercase());
    spelt == collection || spelt.strip_suffix(&collection).is_some_and(|database| database.ends_with('.'))
}

/// Judges an address without repeating it: it names its database, and has TLS wherever it leaves this machine. What may be said of it comes along.
fn address(url: &str) -> Read<(SecretString, String)> {
    let Some((scheme @ ("mongodb" | "mongodb+srv"), rest)) = url.split_once("://") else {
        return Err("must start with mongodb:// or mongodb+srv://".to_owned());
    };
    if url.contains('#') {
        return Err("holds a bare #; write it as %23".to_owned());
    }
    let (place, parameters) = rest.split_once('?').unwrap_or((rest, ""));
    let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
    let (hosts, database) = place.split_once('/').unwrap_or((place, ""));
    if database.is_empty() {
        return Err("names no database: write it after the hosts, like mongodb://host/DATABASE".to_owned());
    }
    let mut hosts: Vec<String> = hosts.split(',').map(str::to_ascii_lowercase).collect();
    if hosts.iter().any(String::is_empty) {
        return Err("names no host".to_owned());
    }
    let named = |host: &String| host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map(|(host, _)| host.to_owned());
    // Of a socket in the file system.
    let path = |host: &String| host.starts_with("%2f");
    let local = |host: &String| path(host) || is_local(&named(host).unwrap_or_else(|| host.clone()));
    let spelt = parameters.to_ascii_lowercase().split('&').any(|one| one.starts_with("tls=") || one.starts_with("ssl="));
    // What a record of the DNS leads to has TLS unless the address says otherwise.
    let url = if scheme == "mongodb+srv" || spelt || hosts.iter().all(local) {
        url.to_owned()
    } else {
        format!("{url}{}tls=true", if url.contains('?') { '&' } else { '?' })
    };
    if scheme == "mongodb" {
        for host in hosts.iter_mut().filter(|host| named(host).is_none() && !path(host)) {
            host.push_str(":27017");
        }
    }
    hosts.sort_unstable();
    Ok((url.into(), format!("{scheme}://{}/{database}", hosts.join(","))))
}
