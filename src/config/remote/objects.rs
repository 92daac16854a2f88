//! Objects in a bucket of S3 or COS, or in a folder of this machine; and the prefix that the keys of one account begin with.

use std::{net::IpAddr, path::PathBuf};

use secrecy::SecretString;

use super::{ACCOUNT, Needs, Protocol, Read, Remote, Table, is_local, secret, text};
use crate::config::table::word;

/// Where objects are.
#[derive(Debug, Clone)]
pub enum Objects {
    /// In a bucket.
    Bucket(Bucket),
    /// In a folder, for development.
    Folder(PathBuf),
}

/// Whose interface a bucket has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Amazon S3, and what speaks like it.
    S3,
    /// Tencent Cloud Object Storage.
    Cos,
}

/// A bucket and how it is reached.
#[derive(Debug, Clone)]
pub struct Bucket {
    /// Whose interface it has.
    pub service: Service,
    /// Scheme, host and port.
    pub endpoint: String,
    /// The region that is signed for.
    pub region: String,
    /// Its name.
    pub name: String,
    /// Whose key it is.
    pub access_key_id: SecretString,
    /// The key.
    pub secret_access_key: SecretString,
}

impl Bucket {
    /// Scheme, host and port that requests go to, and what stands before each key.
    #[must_use]
    pub fn address(&self) -> (String, String) {
        let (scheme, authority) = self.endpoint.split_once("://").unwrap_or(("https", &self.endpoint));
        let host = host(authority);
        if authority.starts_with(&format!("{}.", self.name)) {
            return (self.endpoint.clone(), "/".to_owned());
        }
        let numbered = is_local(host) || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        let named = self.service == Service::Cos || host.ends_with(".amazonaws.com") || host.ends_with(".amazonaws.com.cn");
        // No certificate is for a name with more dots.
        if named && !numbered && !self.name.contains('.') {
            (format!("{scheme}://{}.{authority}", self.name), "/".to_owned())
        } else {
            (self.endpoint.clone(), format!("/{}/", self.name))
        }
    }

    /// Whether it is on this machine.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.endpoint.split_once("://").is_some_and(|(_, authority)| is_local(host(authority)))
    }

    /// Whether what is said to it can be read on the way.
    #[must_use]
    pub fn in_the_clear(&self) -> bool {
        self.endpoint.starts_with("http://") && !self.is_local()
    }
}

/// The host of an authority; an IPv6 address keeps its brackets.
fn host(authority: &str) -> &str {
    let (host, port) = authority.rsplit_once(':').unwrap_or((authority, ""));
    if port.bytes().all(|b| b.is_ascii_digit()) { host } else { authority }
}

/// Reads a store of objects.
pub(super) fn store(t: &mut Table<'_>, needs: Needs) -> Option<Remote> {
    let services = [("s3", Some(Service::S3)), ("cos", Some(Service::Cos)), ("fs", None)];
    let Some(service) = t.need("service", "write \"cos\", \"s3\", or \"fs\" for a folder of this machine", word(&services))? else {
        let root = t.need("root", "which folder holds them?", folder)?;
        return Some(Remote { at: format!("file://{}", root.display()), protocol: Protocol::Objects(Objects::Folder(root)) });
    };
    let region = t.need("region", "which region is the bucket in?", host_part);
    let name = t.need("bucket", "what is the bucket called?", |value| bucket(service, host_part(value)?));
    let given = t.has("endpoint");
    let endpoint = t.maybe("endpoint", endpoint);
    let access_key_id = secret(t, "access_key_id", "access_key_id_file", needs);
    let secret_access_key = secret(t, "secret_access_key", "secret_access_key_file", needs);
    let (region, name) = (region?, name?);
    let endpoint = match endpoint {
        Some(endpoint) => endpoint,
        None if given => return None,
        None if service == Service::Cos => format!("https://cos.{region}.myqcloud.com"),
        None => format!("https://s3.{region}.amazonaws.com"),
    };
    let authority = endpoint.split_once("://").map_or("", |(_, authority)| authority);
    // A cloud has many names for one bucket, and no two buckets of one name.
    let cloud = ["amazonaws.com", "amazonaws.com.cn", "myqcloud.com", "tencentcos.cn"].iter().find(|cloud| authority.ends_with(*cloud));
    let at = match cloud {
        Some(cloud) if cloud.starts_with("amazonaws") => format!("objects://s3/{name}"),
        Some(_) => format!("objects://cos/{name}"),
        None => format!("objects://{}/{name}", authority.strip_prefix(&format!("{name}.")).unwrap_or(authority)),
    };
    let (access_key_id, secret_access_key) = (access_key_id?, secret_access_key?);
    let bucket = Bucket { service, endpoint, region, name, access_key_id, secret_access_key };
    Some(Remote { at, protocol: Protocol::Objects(Objects::Bucket(bucket)) })
}

fn folder(value: &::config::Value) -> Read<PathBuf> {
    let root: PathBuf = text(value)?.into();
    let plain = root.components().all(|part| !matches!(part, std::path::Component::ParentDir));
    // The same folder has one spelling.
    let root: PathBuf = root.components().collect();
    if root.is_absolute() && root.parent().is_some() && plain {
        Ok(root)
    } else {
        Err(format!("{:?} is no folder that can be named: write its whole path, without ..", root.display().to_string()))
    }
}

/// What may stand in the name of a host.
fn host_part(value: &::config::Value) -> Read<String> {
    let given = text(value)?;
    let sound = given.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) && !given.contains("..");
    if sound { Ok(given) } else { Err(format!("{given:?} holds more than letters, digits, -, _ and dots")) }
}

fn bucket(service: Service, name: String) -> Read<String> {
    let owner = name.rsplit_once('-').map_or("", |(_, owner)| owner);
    if service == Service::Cos && (owner.is_empty() || !owner.bytes().all(|b| b.is_ascii_digit())) {
        return Err(format!("{name:?} does not end in the number of its owner: write it like \"{name}-1250000000\""));
    }
    if name.len() < 3 { Err(format!("{name:?} is too short for a bucket")) } else { Ok(name) }
}

/// Scheme, host and port: TLS, unless it is spelt otherwise or stays on this machine.
fn endpoint(value: &::config::Value) -> Read<String> {
    let given = text(value)?;
    // It is not repeated: it may hold a password.
    let remedy = "must be like \"https://cos.ap-singapore.myqcloud.com\", without a path or a password";
    let (scheme, authority) = match given.split_once("://") {
        Some((scheme @ ("http" | "https"), authority)) => (scheme, authority),
        Some(_) => return Err(remedy.to_owned()),
        None if is_local(host(&given)) => ("http", given.as_str()),
        None => ("https", given.as_str()),
    };
    let authority = authority.strip_suffix('/').unwrap_or(authority).to_ascii_lowercase();
    let sound = |b: u8| b.is_ascii_alphanumeric() || b"-_.:[]".contains(&b);
    if host(&authority).is_empty() || !authority.bytes().all(sound) {
        return Err(remedy.to_owned());
    }
    let usual = if scheme == "https" { ":443" } else { ":80" };
    Ok(format!("{scheme}://{}", authority.strip_suffix(usual).unwrap_or(&authority)))
}

/// A prefix that no two accounts share: it holds the account once, and a `/` ends the part that holds it.
pub(super) fn prefix(value: &::config::Value) -> Read<String> {
    let given = text(value)?;
    let wrong = |why: &str| Err(format!("{given:?} {why}"));
    let Some(inner) = given.strip_suffix('/') else {
        return wrong("must end in \"/\": without it the prefix of account 1 is one of account 10 too");
    };
    match given.matches(ACCOUNT).count() {
        0 => return wrong("does not hold {account_id}: it would be everybody's"),
        1 => {}
        _ => return wrong("holds {account_id} more than once"),
    }
    if inner.split('/').any(|part| part.is_empty() || part == "." || part == "..") || given.contains(|c: char| c.is_control() || c == '\\')
    {
        return wrong("holds an empty part, ., .., a backslash or a control character");
    }
    if given.replacen(ACCOUNT, "", 1).contains(['{', '}']) {
        return wrong("holds a brace; only {account_id} stands for something");
    }
    Ok(given)
}

/// Whether a key could begin with both, whatever the accounts are called.
pub(super) fn overlap(one: &str, other: &str) -> bool {
    let parts = |prefix: &str| prefix.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    parts(one).iter().zip(&parts(other)).all(|(one, other)| could_be_one(one, other))
}

/// Whether two parts, each with an account in it or not, could be the same text.
fn could_be_one(one: &str, other: &str) -> bool {
    match (one.split_once(ACCOUNT), other.split_once(ACCOUNT)) {
        (None, None) => one == other,
        (Some((head, tail)), None) => fits(other, head, tail),
        (None, Some((head, tail))) => fits(one, head, tail),
        (Some((head, tail)), Some((another, end))) => {
            (head.starts_with(another) || another.starts_with(head)) && (tail.ends_with(end) || end.ends_with(tail))
        }
    }
}

/// Whether there is room for an account between head and tail.
fn fits(text: &str, head: &str, tail: &str) -> bool {
    text.len() > head.len() + tail.len() && text.starts_with(head) && text.ends_with(tail)
}

#[cfg(test)]
mod tests;
