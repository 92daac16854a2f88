//! Reads what decides about deletion: stores, starting points, data classes and their targets, each by itself.
//! What they must not do to each other is judged in `overlap.rs`.

use std::collections::BTreeMap;

use super::{
    CustomerPlace, DataClass, DeleteBy, Exemption, Needs, Owner, Protocol, Remote, RemoteTarget, StartingPoint, Store, Target,
    overlap::{Class, Place, Point},
    remote::{place, remote},
    table::{Read, Table, period, text, texts, word},
};
use crate::model::{Ident, REQUEST, RetentionPeriod, TableName};

/// `None` is a store that was named but cannot be used; its fault is on record.
pub(super) fn store(t: &mut Table<'_>, needs: Needs) -> Option<Store> {
    let kinds = ["postgres", "mysql", "mongodb", "objects", "cmq", "amqp", "expiring"];
    let kind = t.need("kind", "write kind = \"postgres\"", |value| word(&kinds.map(|kind| (kind, kind)))(value))?;
    if kind == "postgres" && !t.has("url") && !t.has("url_file") {
        return Some(Store::MainPostgres);
    }
    let remote = remote(t, kind, needs);
    if remote.is_none() {
        // What else is in a table that could not be read says nothing about its keys.
        t.ignore_the_rest();
    }
    remote.map(Store::Remote)
}

pub(super) fn starting_point(t: &mut Table<'_>) -> Point {
    let name = t.need("name", "classes, jobs and logs refer to it", |value| match text(value)? {
        name if name == REQUEST => Err("\"request\" is what jobs on request are called; choose another name".to_owned()),
        name => Ok(name),
    });
    let table = t.need("table", "which table holds it?", table_name);
    let account_column = t.need("account_column", "which column names the account?", column);
    let feature_column = t.maybe("feature_column", column);
    let since_column = t.need("since_column", "which column says since when?", column);
    let region_column = t.maybe("region_column", column);
    if t.has("region_column") && t.has("feature_column") {
        t.fault("region_column", "belongs to an account-level starting point, without feature_column");
    }
    let whole = (|| {
        Some(StartingPoint {
            name: name.clone()?,
            table: table.clone()?,
            account_column: account_column?,
            feature_column,
            since_column: since_column?,
            region_column,
        })
    })();
    Point { name, table, whole }
}

pub(super) fn data_class(t: &mut Table<'_>, stores: &BTreeMap<String, Option<Store>>, points: &[Point]) -> Class {
    let feature = t.need("feature", "which feature does it belong to?", unslashed);
    let name = t.need("name", "what is it called within its feature?", unslashed);
    let controller = t.maybe("controlled_by", |value| {
        let only = "; leave it out for a class that is purged";
        word(&[("customer", ())])(value).map_err(|problem| problem + only)
    });
    let label = feature.clone().zip(name.clone());
    let mut class = Class { feature, name, ..Class::default() };
    if controller.is_some() {
        for key in ["starting_points", "retain_for", "delete_within", "delete_by_after", "targets"] {
            t.refuse(key, "has no place in a class that the customer controls: it is never purged");
        }
        let places = t.need("places", "name the tables that must never be purged", texts).unwrap_or_default();
        for place in places {
            match protected(&place, stores, label.as_ref()) {
                Ok(place) => class.places.push(place),
                Err(problem) => t.fault("places", problem),
            }
        }
        return class;
    }
    t.refuse("places", "belongs to a class with controlled_by = \"customer\"");
    class.starting_points = starting_points(t, points).unwrap_or_default();
    let retain_for = t.need("retain_for", "write a period like retain_for = \"30d\"", period);
    let delete_by = delete_by(t, retain_for);
    let feature = label.as_ref().map(|(feature, _)| feature);
    let listed = t.list("targets", |_| None, |t| target(t, stores, feature));
    if listed.is_empty() {
        t.fault("targets", "is missing: write [[data_classes.targets]] for every place that holds this class");
    }
    let (mut targets, mut remote) = (Vec::new(), Vec::new());
    for (key, target) in listed {
        match target {
            Some(Listed::Remote(target)) => remote.push((key, target)),
            Some(Listed::Main(target)) => targets.push((key, Some(target))),
            None => targets.push((key, None)),
        }
    }
    class.targets.clone_from(&targets);
    class.remote.clone_from(&remote);
    class.whole = (|| {
        let (feature, name) = label?;
        Some(DataClass {
            feature,
            name,
            starting_points: class.starting_points.clone(),
            retain_for: retain_for?,
            delete_by: delete_by?,
            targets: targets.into_iter().filter_map(|(_, target)| target).collect(),
            remote: remote.into_iter().map(|(_, target)| target).collect(),
        })
    })();
    class
}

fn starting_points(t: &mut Table<'_>, points: &[Point]) -> Option<Vec<usize>> {
    let names = t.need("starting_points", "name the starting points that its period runs from", texts)?;
    let defined: Vec<_> = points.iter().filter_map(|point| point.name.as_deref()).collect();
    let mut indices = Vec::new();
    for name in names {
        match points.iter().position(|point| point.name.as_ref() == Some(&name)) {
            Some(at) => indices.push(at),
            None => t.fault("starting_points", format!("{name:?} is not defined; defined: {}", defined.join(", "))),
        }
    }
    indices.sort_unstable();
    Some(indices)
}

fn delete_by(t: &mut Table<'_>, retain_for: Option<RetentionPeriod>) -> Option<DeleteBy> {
    let (both, neither) = (t.has("delete_within") && t.has("delete_by_after"), !t.has("delete_within") && !t.has("delete_by_after"));
    let within = t.maybe("delete_within", period);
    let after = t.maybe("delete_by_after", period);
    if both {
        t.fault("delete_by_after", "delete_within is set too; keep one of them");
        return None;
    }
    if neither {
        return Some(DeleteBy::Within(RetentionPeriod::Seconds(86_400)));
    }
    if let (Some(after), Some(retain_for)) = (after, retain_for)
        && !never_before(after, retain_for)
    {
        let problem = format!("{after} can end before retain_for = {retain_for} does; it must never be the shorter one");
        t.fault("delete_by_after", problem);
    }
    within.map(DeleteBy::Within).or(after.map(DeleteBy::AfterStart))
}

/// Whether `later` ends no earlier than `earlier` from every day of a century that holds a leap year left out (2100):
/// months differ in length, so one day would prove nothing.
pub(super) fn never_before(later: RetentionPeriod, earlier: RetentionPeriod) -> bool {
    let day = |n: i64| chrono::DateTime::from_timestamp(n * 86_400, 0);
    // 2000-01-01 to 2110-01-01, the plausible starting points (R4).
    (10_957..51_134).filter_map(day).all(|start| later.after(start) >= earlier.after(start))
}

/// A target, by which database its purge is a part of.
enum Listed {
    Main(Target),
    Remote(RemoteTarget),
}

fn target(t: &mut Table<'_>, stores: &BTreeMap<String, Option<Store>>, feature: Option<&String>) -> (String, Option<Listed>) {
    let key = t.key(if t.has("prefix") { "prefix" } else { "table" });
    let defined = || stores.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let store = t.need("store", "which of [stores.…] holds it?", |value| {
        let store = text(value)?;
        if stores.contains_key(&store) {
            Ok(store)
        } else if stores.is_empty() {
            Err(format!("{store:?} is not defined: write [stores.{store}] with kind = \"postgres\""))
        } else {
            Err(format!("{store:?} is not defined; defined: {}", defined()))
        }
    });
    match store.as_ref().and_then(|store| stores.get(store)) {
        // A store that could not be read: its own fault is on record.
        Some(None) => {
            t.ignore_the_rest();
            return (key, None);
        }
        Some(Some(Store::Remote(remote))) => {
            let listed = place(t, &remote.protocol, feature).zip(store).map(|((spelt, place), store)| {
                let name = format!("{store}/{spelt}");
                Listed::Remote(RemoteTarget { name, store, place })
            });
            return (key, listed);
        }
        Some(Some(Store::MainPostgres)) | None => {}
    }
    let table = t.need("table", "which table holds it?", table_name);
    let parent = t.maybe("parent", table_name);
    let owner = if t.has("parent") {
        for key in ["account_column", "feature_column"] {
            t.refuse(key, "has no place beside parent: the record it points at tells whose it is");
        }
        parent.map(Owner::Parent)
    } else {
        let account = t.need("account_column", "which column names the account? (or parent, the table its foreign key points at)", column);
        let feature = t.maybe("feature_column", column);
        account.map(|account| Owner::Columns { account, feature })
    };
    for key in ["collection", "account_field", "prefix", "queue", "topic", "expires_after"] {
        t.refuse(key, "names a place in another kind of store; a target in postgres has table and account_column");
    }
    let target = (|| {
        let (store, table) = (store?, table?);
        let name = format!("{store}/{}", table.spelt());
        Some(Listed::Main(Target { name, store, table, owner: owner? }))
    })();
    (key, target)
}

/// A table that names accounts and is none of ours to purge.
pub(super) fn exemption(t: &mut Table<'_>) -> Option<Exemption> {
    let table = t.need("table", "which table is exempted?", table_name);
    let reason = t.need("reason", "say why nothing in it belongs to a data class", text);
    Some(Exemption { table: table?, reason: reason? })
}

/// A place under the customer's control, spelt `[store/]place` (R13).
fn protected(spelt: &str, stores: &BTreeMap<String, Option<Store>>, class: Option<&(String, String)>) -> Read<Place> {
    let (store, place) = match spelt.split_once('/') {
        Some((store, place)) if stores.contains_key(store) => (Some(store.to_owned()), place),
        _ => (None, spelt),
    };
    let named = store.as_ref().and_then(|store| stores.get(store)).and_then(Option::as_ref);
    // What cannot be a place there would protect nothing, and nobody would notice.
    let table = match TableName::parse(place) {
        _ if matches!(named, Some(Store::Remote(Remote { protocol: Protocol::Objects(_), .. }))) => {
            if !place.is_empty() && !place.ends_with('/') {
                return Err(format!("{spelt:?} must end in \"/\": keys that begin with it are protected"));
            }
            None
        }
        Ok(table) => Some(table),
        Err(_) if named.is_some_and(Store::holds_no_tables) => None,
        Err(error) => return Err(format!("{spelt:?} is neither a table nor store/table: {error}")),
    };
    let class = class.map_or_else(String::new, |(feature, name)| format!("{feature}/{name}"));
    Ok(Place { table, place: CustomerPlace { class, store, place: place.to_owned() } })
}

/// A name that is joined with another by a slash.
fn unslashed(value: &::config::Value) -> Read<String> {
    let given = text(value)?;
    if given.contains('/') { Err(format!("{given:?} holds a slash, which separates feature and class: leave it out")) } else { Ok(given) }
}

fn table_name(value: &::config::Value) -> Read<TableName> {
    let given = text(value)?;
    TableName::parse(&given).map_err(|error| format!("{given:?}: {error}"))
}

fn column(value: &::config::Value) -> Read<Ident> {
    let given = text(value)?;
    Ident::literal(&given).map_err(|error| format!("{given:?}: {error}"))
}
