//! What the rules of a configuration say, as a record of processing activities asks for it (Art. 30 GDPR): deletion classes, each with its period, what the period
//! runs from, every place, and what is never deleted. Asks no database: it is what is configured, not what was done.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::{
    config::{Config, DataClass, DeleteBy, Owner, Place, RemoteTarget, Store, Target},
    model::{Ident, RetentionPeriod},
};

/// The answer of `report art30`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Art30 {
    /// The only regions whose accounts are touched; none is all.
    pub regions: Option<Vec<String>>,
    /// Which classes share a period and what it runs from, the shortest period first.
    pub matrix: Vec<DeletionClass>,
    /// Every data class that is deleted.
    pub classes: Vec<Rule>,
    /// Under the customer's control, and never deleted by us.
    pub customer: Vec<Customer>,
    /// Tables that name accounts and are none of ours to delete, by somebody's decision.
    pub exemptions: Vec<Exempted>,
}

/// One cell of the matrix: a period, and the starting points that it runs from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeletionClass {
    /// The period.
    pub retain_for: String,
    /// The starting points; the earliest that stands counts.
    pub starting_points: Vec<String>,
    /// The data classes, as `feature/name`.
    pub classes: Vec<String>,
}

/// The rule of one data class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// The feature.
    pub feature: String,
    /// The data class.
    pub data_class: String,
    /// What its period runs from; the earliest that stands counts.
    pub starting_points: Vec<Start>,
    /// How long it is kept from there.
    pub retain_for: String,
    /// How long after that it is gone; or
    pub delete_within: Option<String>,
    /// how long after the starting point.
    pub delete_by_after: Option<String>,
    /// Every place that it is deleted from.
    pub targets: Vec<Kept>,
    /// Copies that cannot be deleted one by one.
    pub copies: Vec<Copies>,
}

/// A starting point, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Start {
    /// Its name.
    pub name: String,
    /// `table.column` of the instant.
    pub column: String,
    /// `every feature` or `that feature`.
    pub counts_for: &'static str,
}

/// A place that records are deleted from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// The target's name.
    pub name: String,
    /// The kind of its store.
    pub store_kind: &'static str,
    /// The column or field that names the account, or the table that tells whose a record is; none where the place's own name does.
    pub identified_by: Option<String>,
}

/// Copies that are gone by themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Copies {
    /// What they are called.
    pub name: String,
    /// How long after the deletion the last of them is gone.
    pub expires_after: String,
}

/// A place under the customer's control.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Customer {
    /// The class that names it, as `feature/name`.
    pub class: String,
    /// The place, with its store where one is named.
    pub place: String,
}

/// A table that somebody exempted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exempted {
    /// The table.
    pub table: String,
    /// Why.
    pub reason: String,
}

/// Reads the rules out of a configuration.
#[must_use]
pub fn art30(config: &Config) -> Art30 {
    let place = |p: &crate::config::CustomerPlace| Customer {
        class: p.class.clone(),
        place: p.store.as_ref().map_or_else(|| p.place.clone(), |store| format!("{store}/{}", p.place)),
    };
    let exempted = |e: &crate::config::Exemption| Exempted { table: e.table.spelt().to_owned(), reason: e.reason.clone() };
    Art30 {
        regions: config.regions.clone(),
        matrix: matrix(config),
        classes: config.data_classes.iter().map(|class| rule(config, class)).collect(),
        customer: config.customer_places.iter().map(place).collect(),
        exemptions: config.exemptions.iter().map(exempted).collect(),
    }
}

fn names(config: &Config, class: &DataClass) -> Vec<String> {
    class.starting_points.iter().filter_map(|&at| config.starting_points.get(at)).map(|point| point.name.clone()).collect()
}

fn matrix(config: &Config) -> Vec<DeletionClass> {
    let mut cells: BTreeMap<(Option<DateTime<Utc>>, Vec<String>), DeletionClass> = BTreeMap::new();
    for class in &config.data_classes {
        // From one day on, the shortest ends first.
        let (ends, starting_points) = (class.retain_for.after(DateTime::UNIX_EPOCH), names(config, class));
        let empty =
            || DeletionClass { retain_for: class.retain_for.to_string(), starting_points: starting_points.clone(), classes: Vec::new() };
        let cell = cells.entry((ends, starting_points.clone())).or_insert_with(empty);
        cell.classes.push(format!("{}/{}", class.feature, class.name));
    }
    cells.into_values().collect()
}

fn rule(config: &Config, class: &DataClass) -> Rule {
    let start = |at: &usize| {
        let point = config.starting_points.get(*at)?;
        Some(Start {
            name: point.name.clone(),
            column: format!("{}.{}", point.table.spelt(), point.since_column.as_str()),
            counts_for: if point.feature_column.is_some() { "that feature" } else { "every feature" },
        })
    };
    let (delete_within, delete_by_after) = match class.delete_by {
        DeleteBy::Within(period) => (Some(period.to_string()), None),
        DeleteBy::AfterStart(period) => (None, Some(period.to_string())),
    };
    let here = |t: &Target| Kept { name: t.name.clone(), store_kind: Store::MainPostgres.kind(), identified_by: Some(owner(&t.owner)) };
    let there = |t: &RemoteTarget| Kept {
        name: t.name.clone(),
        store_kind: config.stores.get(&t.store).map_or("", Store::kind),
        identified_by: identified_by(&t.place),
    };
    let copies = |t: &RemoteTarget| Some(Copies { name: t.name.clone(), expires_after: expires_after(&t.place)?.to_string() });
    let reached = |t: &&RemoteTarget| expires_after(&t.place).is_none();
    Rule {
        feature: class.feature.clone(),
        data_class: class.name.clone(),
        starting_points: class.starting_points.iter().filter_map(start).collect(),
        retain_for: class.retain_for.to_string(),
        delete_within,
        delete_by_after,
        targets: class.targets.iter().map(here).chain(class.remote.iter().filter(reached).map(there)).collect(),
        copies: class.remote.iter().filter_map(copies).collect(),
    }
}

fn expires_after(place: &Place) -> Option<RetentionPeriod> {
    match place {
        Place::Copies { expires_after } => Some(*expires_after),
        Place::Table { .. } | Place::Prefix { .. } | Place::Collection { .. } | Place::Queue { .. } | Place::Cmq { .. } => None,
    }
}

fn owner(owner: &Owner) -> String {
    match owner {
        Owner::Columns { account, feature } => {
            [Some(account), feature.as_ref()].into_iter().flatten().map(Ident::as_str).collect::<Vec<_>>().join(", ")
        }
        Owner::Parent(parent) => format!("parent {}", parent.spelt()),
    }
}

fn identified_by(place: &Place) -> Option<String> {
    match place {
        Place::Table { account_column, feature, .. } => {
            let feature = feature.as_ref().map_or_else(String::new, |(column, _)| format!(", {column}"));
            Some(format!("{account_column}{feature}"))
        }
        Place::Collection { account_field, .. } => Some(account_field.clone()),
        Place::Prefix { .. } | Place::Queue { .. } | Place::Cmq { .. } | Place::Copies { .. } => None,
    }
}
