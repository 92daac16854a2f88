//! Stores outside the main database, and the places in them that hold records: what they are called and how they are reached.
//! The address of a store is a secret; `at` is what of it may be said, and tells whether two names mean one store.

mod amqp;
mod cmq;
mod mongodb;
mod objects;
#[cfg(test)]
mod tests;

use std::{fs, net::IpAddr, path::Path};

use secrecy::{ExposeSecret, SecretString};

pub use cmq::{Cmq, Named};

use super::{
    Needs, TargetTerms,
    raw::unreadable,
    table::{Read, Table, period, text},
};
use crate::model::{Ident, RetentionPeriod, TableName};

pub use objects::{Bucket, Objects, Service};

/// What stands for the account in the name of a place (R8).
pub const ACCOUNT: &str = "{account_id}";

/// A store that is reached by a protocol of its own.
#[derive(Debug, Clone)]
pub struct Remote {
    /// Where it is, without credentials: two names for one store have one of these.
    pub at: String,
    /// How it is reached.
    pub protocol: Protocol,
}

impl Remote {
    /// What this store has in common with another one that is not the same: the key that says so, and what. The DNS and the file system know more, and
    /// are not asked here.
    pub(super) fn shares(&self, other: &Self) -> Option<(&'static str, &'static str)> {
        let (here, there) = (self.at.split_once("://")?, other.at.split_once("://")?);
        if self == other || here.0 != there.0 {
            return None;
        }
        match here.0 {
            "file" => {
                let (here, there) = (Path::new(here.1), Path::new(there.1));
                (here.starts_with(there) || there.starts_with(here)).then_some(("root", "one of the two lies in the folder"))
            }
            "mongodb" => {
                let ((hosts, database), (others, another)) = (here.1.split_once('/')?, there.1.split_once('/')?);
                let common = hosts.split(',').any(|host| others.split(',').any(|other| host == other));
                (common && database == another).then_some(("url", "some of its hosts, and the database, are those"))
            }
            "cmq" => {
                let common = here.1.split(',').any(|region| there.1.split(',').any(|other| region == other));
                common.then_some(("regions", "some of its regions are those"))
            }
            _ => None,
        }
    }
}

impl PartialEq for Remote {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Remote {}

/// How a store is reached.
#[derive(Debug, Clone)]
pub enum Protocol {
    /// Another Postgres, by its address.
    Postgres(SecretString),
    /// MySQL, MariaDB, TencentDB for MySQL, by its address.
    Mysql(SecretString),
    /// Objects, in a bucket or a folder.
    Objects(Objects),
    /// A database of MongoDB, by its address.
    Mongodb(SecretString),
    /// A broker that speaks AMQP 0-9-1, by its address.
    Amqp(SecretString),
    /// TDMQ for CMQ, by its API.
    Cmq(Cmq),
    /// Copies that cannot be deleted one by one: nothing is reached, and each is gone after its time.
    Expiring,
}

impl Protocol {
    /// The kind of its stores, as the configuration spells it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Postgres(_) => "postgres",
            Self::Mysql(_) => "mysql",
            Self::Objects(_) => "objects",
            Self::Mongodb(_) => "mongodb",
            Self::Amqp(_) => "amqp",
            Self::Cmq(_) => "cmq",
            Self::Expiring => "expiring",
        }
    }
}

/// One place in a remote store that holds records of a data class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteTarget {
    /// `store/place` as spelt in the configuration, with the account's name unexpanded (R29).
    pub name: String,
    /// The store's name.
    pub store: String,
    /// The place.
    pub place: Place,
}

/// What a target in a remote store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A table, as the parts of its name; the column that names the account; the column that names the feature, and the feature.
    Table {
        /// Schema or database, where one is named, and table.
        table: Vec<String>,
        /// The column that names the account.
        account_column: String,
        /// The column that names the feature, and which it is.
        feature: Option<(String, String)>,
    },
    /// Objects whose keys begin with it.
    Prefix {
        /// Ends in `/`, and holds [`ACCOUNT`] once.
        prefix: String,
    },
    /// A collection of documents.
    Collection {
        /// Its name.
        collection: String,
        /// The field that names the account.
        account_field: String,
    },
    /// A queue of each account's own, whose name holds [`ACCOUNT`] once.
    Queue {
        /// Its name for all accounts.
        queue: String,
    },
    /// A queue or topic of TDMQ for CMQ, in each region of its store.
    Cmq {
        /// A topic, and no queue.
        topic: bool,
        /// Its name.
        name: Named,
        /// The queue that its dead letters go to.
        dead_letter_queue: Option<Named>,
    },
    /// Copies that are gone so long after the last record in them was deleted.
    Copies {
        /// The longest that one of them is kept.
        expires_after: RetentionPeriod,
    },
}

impl Place {
    /// How the policy tells its records.
    pub(super) fn terms(&self) -> TargetTerms {
        let (table, account_column, feature_column, expires_after) = match self {
            Self::Table { table, account_column, feature } => {
                (table.join("."), Some(account_column.clone()), feature.as_ref().map(|(column, _)| column.clone()), None)
            }
            Self::Prefix { prefix } => (prefix.clone(), None, None, None),
            Self::Collection { collection, account_field } => (collection.clone(), Some(account_field.clone()), None, None),
            Self::Queue { queue } => (queue.clone(), None, None, None),
            Self::Cmq { topic, name, dead_letter_queue } => (cmq::terms(*topic, name, dead_letter_queue.as_ref()), None, None, None),
            Self::Copies { expires_after } => (String::new(), None, None, Some(expires_after.to_string())),
        };
        TargetTerms { table, account_column, feature_column, parent: None, expires_after }
    }

    /// Whether a record could be in both places of one store.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Table { table, feature, .. }, Self::Table { table: another, feature: of_another, .. }) => {
                let apart = match (feature, of_another) {
                    (Some((column, feature)), Some((another, of_another))) => column == another && feature != of_another,
                    _ => false,
                };
                one_table(table, another) && !apart
            }
            (Self::Prefix { prefix }, Self::Prefix { prefix: another }) => objects::overlap(prefix, another),
            (Self::Queue { queue }, Self::Queue { queue: another }) => collide(queue, another),
            (Self::Collection { collection, .. }, Self::Collection { collection: another, .. }) => collection == another,
            (
                Self::Cmq { topic, name, dead_letter_queue },
                Self::Cmq { topic: other_topic, name: other_name, dead_letter_queue: other_dead },
            ) => cmq::overlap((*topic, name, dead_letter_queue.as_ref()), (*other_topic, other_name, other_dead.as_ref())),
            // One store holds places of one kind; copies hold nothing that could be asked for.
            (
                Self::Table { .. }
                | Self::Prefix { .. }
                | Self::Collection { .. }
                | Self::Queue { .. }
                | Self::Cmq { .. }
                | Self::Copies { .. },
                _,
            ) => false,
        }
    }

    /// Whether a place under the customer's control, as spelt, could hold a record of this one.
    pub(super) fn overlaps_spelt(&self, spelt: &str) -> bool {
        match self {
            Self::Table { table, .. } => {
                // As each kind of database would read it; a name without a schema or database may be in any.
                let literal = spelt.split('.').map(str::to_owned).collect();
                let folded = TableName::parse(spelt).map(|name| vec![name.schema().to_owned(), name.table().to_owned()]);
                let bare = TableName::parse(spelt).ok().filter(|_| !spelt.contains('.')).map(|name| vec![name.table().to_owned()]);
                let readings: [Option<Vec<String>>; 3] = [Some(literal), folded.ok(), bare];
                readings.into_iter().flatten().any(|other| one_table(table, &other))
            }
            Self::Prefix { prefix } => objects::overlap(prefix, spelt),
            Self::Collection { collection, .. } => mongodb::is_spelt(collection, spelt),
            Self::Queue { queue } => collide(queue, spelt),
            Self::Cmq { name, dead_letter_queue, .. } => cmq::overlap_spelt(spelt, name, dead_letter_queue.as_ref()),
            Self::Copies { .. } => false,
        }
    }
}

/// Whether two names, of which the first holds [`ACCOUNT`], can come to the same, for two accounts that may be different ones.
fn collide(template: &str, other: &str) -> bool {
    let (head, tail) = template.split_once(ACCOUNT).unwrap_or((template, ""));
    match other.split_once(ACCOUNT) {
        Some((of_other, end)) => (head.starts_with(of_other) || of_other.starts_with(head)) && (tail.ends_with(end) || end.ends_with(tail)),
        None => other.strip_prefix(head).is_some_and(|rest| rest.ends_with(tail)),
    }
}

/// Whether two names can be of one table: whatever is not said may be the same.
fn one_table(one: &[String], other: &[String]) -> bool {
    one.iter().rev().zip(other.iter().rev()).all(|(one, other)| one.eq_ignore_ascii_case(other))
}

/// Reads a store of a kind that is not the main database.
pub(super) fn remote(t: &mut Table<'_>, kind: &str, needs: Needs) -> Option<Remote> {
    match kind {
        "postgres" => database(t, 5432, needs, Protocol::Postgres, |url| Ok(super::address::address(url)?.url)),
        "mysql" => database(t, 3306, needs, Protocol::Mysql, mysql_address),
        "objects" => objects::store(t, needs),
        "mongodb" => mongodb::store(t, needs),
        "amqp" => amqp::store(t, needs),
        "cmq" => cmq::store(t, needs),
        "expiring" => Some(Remote { at: t.key(""), protocol: Protocol::Expiring }),
        other => {
            t.fault("kind", format!("kind {other:?} is not known"));
            None
        }
    }
}

/// A store that is reached by an address alone. Of one that nobody needs now and that lies in a file, nothing is known but its name.
fn database(
    t: &mut Table<'_>,
    port: u16,
    needs: Needs,
    protocol: fn(SecretString) -> Protocol,
    judge: fn(&str) -> Read<SecretString>,
) -> Option<Remote> {
    let url = secret(t, "url", "url_file", needs)?;
    if url.expose_secret().is_empty() && needs == Needs::Nothing {
        return Some(Remote { at: t.key(""), protocol: protocol(url) });
    }
    let url = judge(url.expose_secret()).map_err(|why| t.fault("url", why)).ok()?;
    let protocol = protocol(url.clone());
    let at = identity(url.expose_secret(), port);
    // Its databases are within reach of each other; those of Postgres are not.
    let at = if matches!(protocol, Protocol::Mysql(_)) { at.trim_end_matches(|c| c != '/').to_owned() } else { at };
    Some(Remote { at, protocol })
}

/// Judges an address without repeating it, and makes TLS with proof of identity the default off this machine.
fn mysql_address(url: &str) -> Read<SecretString> {
    if !url.starts_with("mysql://") {
        return Err("must start with mysql://".to_owned());
    }
    let spelt = url.to_ascii_lowercase();
    if is_local(&host(url)) || spelt.contains("ssl-mode=") || spelt.contains("sslmode=") {
        return Ok(url.into());
    }
    let joint = if url.contains('?') { '&' } else { '?' };
    Ok(format!("{url}{joint}ssl-mode=VERIFY_IDENTITY").into())
}

/// A secret that is written down or lies in a file, which is read only by whoever is going to use it. Empty when nobody is.
pub(super) fn secret(t: &mut Table<'_>, key: &'static str, file: &'static str, needs: Needs) -> Option<SecretString> {
    if t.has(key) && t.has(file) {
        t.fault(file, format!("{key} is set too; keep one of them"));
    }
    if t.has(file) {
        return t.maybe(file, |value| {
            let path = text(value)?;
            if needs == Needs::Nothing {
                return Ok(SecretString::default());
            }
            let content = fs::read_to_string(&path).map_err(|error| format!("{path:?} {}", unreadable(&error)))?;
            Ok(content.trim().to_owned().into())
        });
    }
    t.need(key, &format!("write it, or the path of a file that holds it as {file}"), |value| Ok(text(value)?.into()))
}

/// Reads the place of a target in a remote store, and how it is spelt.
pub(super) fn place(t: &mut Table<'_>, protocol: &Protocol, feature: Option<&String>) -> Option<(String, Place)> {
    match protocol {
        Protocol::Postgres(_) | Protocol::Mysql(_) => {
            let parse: fn(&str) -> Read<Vec<String>> = if matches!(protocol, Protocol::Mysql(_)) { mysql_name } else { postgres_name };
            let spelt = t.need("table", "which table holds it?", text)?;
            let mut table = parse(&spelt).map_err(|why| t.fault("table", why)).ok();
            if let (Protocol::Mysql(url), Some(table)) = (protocol, &mut table)
                && table.len() == 1
                && let Some(database) =
                    identity(url.expose_secret(), 0).rsplit_once('/').map(|(_, path)| path.to_owned()).filter(|path| !path.is_empty())
            {
                table.insert(0, database);
            }
            let account_column = t.need("account_column", "which column names the account?", column);
            let feature_column = t.maybe("feature_column", column);
            let feature = feature_column.zip(feature.cloned());
            Some((spelt, Place::Table { table: table?, account_column: account_column?, feature }))
        }
        Protocol::Objects(_) => {
            let prefix =
                t.need("prefix", "how do the keys of an account begin? Write it like \"backups/{account_id}/\"", objects::prefix)?;
            Some((prefix.clone(), Place::Prefix { prefix }))
        }
        Protocol::Mongodb(_) => {
            let collection = t.need("collection", "which collection holds it?", mongodb::collection);
            let account_field = t.need("account_field", "which field of a document names the account?", mongodb::field);
            let collection = collection?;
            Some((collection.clone(), Place::Collection { collection, account_field: account_field? }))
        }
        Protocol::Amqp(_) => {
            let queue = t.need("queue", "which queue holds it? Write queue = \"mps.{account_id}\"", amqp::queue)?;
            Some((queue.clone(), Place::Queue { queue }))
        }
        Protocol::Cmq(_) => cmq::place(t),
        Protocol::Expiring => {
            let name = t.need("name", "what are these copies called?", text);
            let expires_after =
                t.need("expires_after", "how long is a copy kept at most? Write a period like expires_after = \"7d\"", period);
            Some((name?, Place::Copies { expires_after: expires_after? }))
        }
    }
}

fn column(value: &::config::Value) -> Read<String> {
    let given = text(value)?;
    Ident::literal(&given).map(|_| given.clone()).map_err(|error| format!("{given:?}: {error}"))
}

fn postgres_name(spelt: &str) -> Read<Vec<String>> {
    let name = TableName::parse(spelt).map_err(|error| format!("{spelt:?}: {error}"))?;
    Ok(vec![name.schema().to_owned(), name.table().to_owned()])
}

/// A name that tells the accounts apart: [`ACCOUNT`] stands in it once (R8).
fn of_each_account(value: &::config::Value) -> Read<String> {
    let given = text(value)?;
    if given.chars().any(char::is_control) {
        return Err(format!("{given:?} holds a control character"));
    }
    match given.matches(ACCOUNT).count() {
        1 => Ok(given),
        0 => Err(format!("{given:?} is one place for all accounts: write {ACCOUNT} where the account's id stands")),
        _ => Err(format!("{given:?} names {ACCOUNT} more than once: keep one of them")),
    }
}

/// `table` or `database.table`, taken literally.
fn mysql_name(spelt: &str) -> Read<Vec<String>> {
    let parts: Vec<String> = spelt.split('.').map(str::to_owned).collect();
    let sound = |part: &String| !part.is_empty() && part.chars().count() <= 64 && !part.contains(['\0', '`']) && !part.ends_with(' ');
    if parts.len() <= 2 && parts.iter().all(sound) { Ok(parts) } else { Err(format!("{spelt:?} is neither a table nor database.table")) }
}

/// Scheme, host, port and path of an address, without credentials and parameters.
fn identity(url: &str, port: u16) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host).to_ascii_lowercase();
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
    let authority = if has_port { authority } else { format!("{authority}:{port}") };
    format!("{scheme}://{authority}/{path}")
}

/// The host of an address.
pub(super) fn host(url: &str) -> String {
    let identity = identity(url, 0);
    let authority = identity.split_once("://").map_or("", |(_, rest)| rest).split('/').next().unwrap_or_default();
    authority.rsplit_once(':').map_or(authority, |(host, _)| host).to_owned()
}

/// Whether what is said to the host stays on this machine.
pub(super) fn is_local(host: &str) -> bool {
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback())
}
