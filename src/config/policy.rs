//! The policy as one value: everything that decides what is deleted and when, and how two of them differ (R11). Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Config, DataClass, DeleteBy, Owner, StartingPoint, rules::never_before};
use crate::model::{Ident, RetentionPeriod};

/// Everything that decides what is deleted and when. The accepted one is kept in the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// By `feature/name`.
    pub classes: BTreeMap<String, ClassTerms>,
    /// Places under the customer's control, as spelt.
    pub customer_places: Vec<String>,
    /// Only accounts of some regions are touched. Which ones is each daemon's own: those of several regions may share a database.
    #[serde(default)]
    pub limited_to_regions: bool,
}

/// The rule of one data class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassTerms {
    /// A period like `30d`.
    pub retain_for: String,
    /// A period from `retain_until` on.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub delete_within: Option<String>,
    /// A period from the starting point on.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub delete_by_after: Option<String>,
    /// By name.
    pub starting_points: BTreeMap<String, PointTerms>,
    /// By target name.
    pub targets: BTreeMap<String, TargetTerms>,
}

/// Where a starting point is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointTerms {
    /// Quoted and schema-qualified.
    pub table: String,
    /// The column that names the account.
    pub account_column: String,
    /// The column that names the feature.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub feature_column: Option<String>,
    /// The nullable instant.
    pub since_column: String,
    /// The column that names the account's region.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub region_column: Option<String>,
}

/// How the records of a target are told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetTerms {
    /// Quoted and schema-qualified; of a place in a remote store its name.
    pub table: String,
    /// The column that names the account.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub account_column: Option<String>,
    /// The column that names the feature.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub feature_column: Option<String>,
    /// The table whose records its own belong to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub parent: Option<String>,
    /// How long copies are kept that cannot be deleted one by one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expires_after: Option<String>,
}

/// One difference between the accepted policy and another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The class or place it is about.
    pub subject: String,
    /// In words.
    pub what: String,
    /// It would delete more or sooner: somebody has to accept it.
    pub needs_acceptance: bool,
}

impl Config {
    /// The policy this configuration asks for.
    #[must_use]
    pub fn terms(&self) -> Terms {
        let class = |c: &DataClass| (format!("{}/{}", c.feature, c.name), c.terms(&self.starting_points));
        let place = |p: &super::CustomerPlace| p.store.as_ref().map_or_else(|| p.place.clone(), |store| format!("{store}/{}", p.place));
        let mut customer_places: Vec<String> = self.customer_places.iter().map(place).collect();
        customer_places.sort_unstable();
        customer_places.dedup();
        let limited_to_regions = self.regions.is_some();
        Terms { classes: self.data_classes.iter().map(class).collect(), customer_places, limited_to_regions }
    }
}

impl DataClass {
    pub(super) fn terms(&self, points: &[StartingPoint]) -> ClassTerms {
        let point = |p: &StartingPoint| PointTerms {
            table: p.table.quoted(),
            account_column: p.account_column.as_str().to_owned(),
            feature_column: p.feature_column.as_ref().map(Ident::as_str).map(str::to_owned),
            since_column: p.since_column.as_str().to_owned(),
            region_column: p.region_column.as_ref().map(Ident::as_str).map(str::to_owned),
        };
        let target = |t: &super::Target| {
            let (account_column, parent) = match &t.owner {
                Owner::Columns { account, .. } => (Some(account.as_str().to_owned()), None),
                Owner::Parent(parent) => (None, Some(parent.quoted())),
            };
            let feature_column = t.feature_column().map(Ident::as_str).map(str::to_owned);
            TargetTerms { table: t.table.quoted(), account_column, feature_column, parent, expires_after: None }
        };
        let (delete_within, delete_by_after) = match self.delete_by {
            DeleteBy::Within(period) => (Some(period.to_string()), None),
            DeleteBy::AfterStart(period) => (None, Some(period.to_string())),
        };
        ClassTerms {
            retain_for: self.retain_for.to_string(),
            delete_within,
            delete_by_after,
            starting_points: self.starting_points.iter().filter_map(|&i| points.get(i)).map(|p| (p.name.clone(), point(p))).collect(),
            targets: self
                .targets
                .iter()
                .map(|t| (t.name.clone(), target(t)))
                .chain(self.remote.iter().map(|t| (t.name.clone(), t.place.terms())))
                .collect(),
        }
    }
}

impl Terms {
    /// The fingerprint that replicas compare.
    #[must_use]
    pub fn hash(&self) -> String {
        fingerprint(self)
    }

    /// What `new` changes, and which of it somebody has to accept first.
    #[must_use]
    pub fn changes(&self, new: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (name, class) in &new.classes {
            match self.classes.get(name) {
                Some(old) => old.changes(name, class, &mut changes),
                None => changes.push(Change::more(name, "is a new data class".to_owned())),
            }
        }
        for name in self.classes.keys().filter(|name| !new.classes.contains_key(*name)) {
            changes.push(Change::less(name, "is no longer a data class: its open jobs are cancelled".to_owned()));
        }
        match (self.limited_to_regions, new.limited_to_regions) {
            (true, false) => changes.push(Change::more("regions", "accounts of every region are touched".to_owned())),
            (false, true) => changes.push(Change::less("regions", "only accounts of some regions are touched".to_owned())),
            (true, true) | (false, false) => {}
        }
        for place in self.customer_places.iter().filter(|p| !new.customer_places.contains(p)) {
            changes.push(Change::more(place, "is no longer under the customer's control".to_owned()));
        }
        for place in new.customer_places.iter().filter(|p| !self.customer_places.contains(p)) {
            changes.push(Change::less(place, "is under the customer's control now".to_owned()));
        }
        changes
    }
}

impl ClassTerms {
    fn changes(&self, name: &str, new: &Self, changes: &mut Vec<Change>) {
        if self.retain_for != new.retain_for {
            let what = format!("retain_for changes from {} to {}", self.retain_for, new.retain_for);
            let longer = match (RetentionPeriod::parse(&self.retain_for), RetentionPeriod::parse(&new.retain_for)) {
                (Ok(old), Ok(new)) => never_before(new, old),
                _ => false,
            };
            changes.push(if longer { Change::less(name, what) } else { Change::more(name, what) });
        }
        let (old_by, new_by) = (self.delete_by(), new.delete_by());
        if old_by != new_by {
            changes.push(Change::less(name, format!("{old_by} becomes {new_by}")));
        }
        changed(name, "starting point", &self.starting_points, &new.starting_points, changes);
        changed(name, "target", &self.targets, &new.targets, changes);
    }

    fn delete_by(&self) -> String {
        match (&self.delete_within, &self.delete_by_after) {
            (Some(within), _) => format!("delete_within = {within}"),
            (None, after) => format!("delete_by_after = {}", after.as_deref().unwrap_or_default()),
        }
    }
}

/// Whatever is added or told in another way may delete more; what is taken away deletes less.
fn changed<T: PartialEq>(name: &str, kind: &str, old: &BTreeMap<String, T>, new: &BTreeMap<String, T>, changes: &mut Vec<Change>) {
    for (key, value) in new {
        match old.get(key) {
            None => changes.push(Change::more(name, format!("{kind} {key} is new"))),
            Some(before) if before != value => changes.push(Change::more(name, format!("{kind} {key} is read in another way"))),
            Some(_) => {}
        }
    }
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        changes.push(Change::less(name, format!("{kind} {key} is left out")));
    }
}

impl Change {
    fn more(subject: &str, what: String) -> Self {
        Self { subject: subject.to_owned(), what, needs_acceptance: true }
    }

    fn less(subject: &str, what: String) -> Self {
        Self { subject: subject.to_owned(), what, needs_acceptance: false }
    }
}

pub(super) fn fingerprint(value: &impl Serialize) -> String {
    // The parts are strings and maps of them, which serde_json always writes.
    let text = serde_json::to_string(value).unwrap_or_default();
    hex::encode(Sha256::digest(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Needs};

    fn terms(edit: impl Fn(String) -> String) -> Terms {
        let mine = "mode = \"observe\"";
        config::parse(&[("shipped", &edit(config::SHIPPED.to_owned())), ("mine", mine)], &BTreeMap::new(), Needs::Nothing).unwrap().terms()
    }

    fn swapped(from: &'static str, to: &'static str) -> Terms {
        assert!(config::SHIPPED.contains(from), "{from}");
        terms(|text| text.replace(from, to))
    }

    #[test]
    fn r11_what_deletes_more_or_sooner_needs_acceptance_and_nothing_else() {
        let accepted = terms(|text| text);
        assert_eq!(accepted.changes(&accepted), []);
        for (from, to, needs) in [
            ("retain_for = \"30d\"", "retain_for = \"29d\"", true),
            ("retain_for = \"30d\"", "retain_for = \"31d\"", false),
            // February has 28 days.
            ("retain_for = \"30d\"", "retain_for = \"1months\"", true),
            ("retain_for = \"30d\"", "retain_for = \"2months\"", false),
            ("delete_within = \"24h\"", "delete_within = \"1h\"", false),
            ("since_column = \"terminated_at\"", "since_column = \"activated_at\"", true),
            ("table = \"accounts\"", "table = \"customers\"", true),
            ("starting_points = [\"account_deleted\", \"feature_terminated\"]", "starting_points = [\"account_deleted\"]", false),
            (
                "starting_points = [\"account_deleted\", \"feature_terminated\"]",
                "starting_points = [\"account_deleted\", \"feature_terminated\", \"cmq_disabled\"]",
                true,
            ),
            ("table = \"queue_messages\"", "table = \"messages\"", true),
            ("places = [\"media_objects\"]", "places = [\"media_objects\", \"more_media\"]", false),
            ("places = [\"media_objects\"]", "places = [\"other_media\"]", true),
            ("name = \"queue\"", "name = \"messages\"", true),
            ("since_column = \"deleted_at\"", "since_column = \"deleted_at\"\nregion_column = \"region\"", true),
        ] {
            let changes = accepted.changes(&swapped(from, to));
            assert!(!changes.is_empty(), "{to}");
            assert_eq!(changes.iter().any(|c| c.needs_acceptance), needs, "{to}: {changes:?}");
            // The way back from what needs none needs it, unless only a deadline moves.
            if !needs && !from.starts_with("delete_within") {
                assert!(swapped(from, to).changes(&accepted).iter().any(|c| c.needs_acceptance), "back from {to}");
            }
        }
    }

    #[test]
    fn r11_touching_every_region_where_some_were_touched_needs_acceptance() {
        let region =
            |text: String| text.replace("since_column = \"deleted_at\"", "since_column = \"deleted_at\"\nregion_column = \"region\"");
        let all = terms(region);
        let some = |regions: &str| terms(|text| format!("regions = [{regions}]\n{}", region(text)));
        assert!(some("\"a\"").changes(&all).iter().any(|c| c.needs_acceptance));
        assert!(all.changes(&some("\"a\"")).iter().all(|c| !c.needs_acceptance));
        // Daemons of several regions share one database.
        assert_eq!(some("\"a\"").hash(), some("\"b\", \"c\"").hash());
    }

    #[test]
    fn r11_the_hash_follows_every_term_and_survives_the_database() {
        let accepted = terms(|text| text);
        let stored: Terms = serde_json::from_str(&serde_json::to_string(&accepted).unwrap()).unwrap();
        assert_eq!((stored.hash(), &stored), (accepted.hash(), &accepted));
        assert_ne!(accepted.hash(), swapped("delete_within = \"24h\"", "delete_within = \"25h\"").hash());
        // Words that decide nothing about deletion are not part of it.
        assert_eq!(accepted.hash(), terms(|text| text.replace("interval = \"5s\"", "interval = \"6s\"")).hash());
    }
}
