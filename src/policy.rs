//! The policy in force: each data class with its rule, its starting points and its targets, ready to be asked. Made once from configuration and catalogue.

mod orphans;

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    catalog::{KeyType, Layout},
    config::{self, Config, StartingPoint, Terms},
    jobs,
    retention::Rule,
    source::Source,
    stores::{self, RemoteTarget, postgres::Target},
};

pub use orphans::{Homeless, Orphans};

/// Everything the passes need to know about what is deleted and when.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The classes, in the order of the configuration.
    pub classes: Vec<Class>,
    /// The same as one value, to be compared with the accepted one.
    pub terms: Terms,
    /// Every starting point.
    pub points: Vec<StartingPoint>,
    /// Tables under the customer's control, which no target may come to hold (I4).
    pub media: Vec<i64>,
    /// Every table the passes touch with the oid it had at start (R16).
    pub pinned: BTreeMap<String, i64>,
}

/// One data class, ready to be asked.
#[derive(Debug, Clone)]
pub struct Class {
    /// The rule as configured.
    pub rule: crate::config::DataClass,
    /// Its rows in the job table.
    pub jobs: jobs::Class,
    /// Its starting points.
    pub source: Source,
    /// Its targets in the main database.
    pub targets: Vec<Target>,
    /// Those in other stores, in the order in which they are purged.
    pub remote: Vec<RemoteTarget>,
}

impl Policy {
    /// Joins the configuration with what the catalogue says.
    #[must_use]
    pub fn new(config: &Config, layout: &Layout) -> Self {
        let accepted = config.terms().hash();
        let stores = stores::open(config);
        let remote = |rule: &config::DataClass| {
            let target = |t: &config::RemoteTarget| {
                let client = Arc::clone(stores.get(&t.store)?);
                Some(RemoteTarget { name: t.name.clone(), store: t.store.clone(), place: t.place.clone(), client })
            };
            rule.remote.iter().filter_map(target).collect()
        };
        let classes = config
            .data_classes
            .iter()
            .zip(&layout.targets)
            .enumerate()
            .map(|(index, (rule, tables))| (rule, tables, Source::new(config, layout, index)));
        let classes = classes.map(|(rule, tables, source)| Class {
            rule: rule.clone(),
            jobs: jobs::Class {
                feature: rule.feature.clone(),
                name: rule.name.clone(),
                policy: rule.policy(&config.starting_points),
                places: rule.places_fingerprint(),
                accepted: accepted.clone(),
                elsewhere: !rule.remote.is_empty(),
                copies: last_copy(rule),
                ours: source.ours(),
            },
            source,
            targets: children_first(Target::of_class(rule, tables)),
            remote: remote(rule),
        });
        Self {
            classes: classes.collect(),
            terms: config.terms(),
            points: config.starting_points.clone(),
            media: layout.media.clone(),
            pinned: layout.pinned().into_iter().map(|(name, oid)| (name.to_owned(), oid)).collect(),
        }
    }
}

/// See [`jobs::Class::copies`].
fn last_copy(rule: &config::DataClass) -> Option<String> {
    let gone = |target: &config::RemoteTarget| match &target.place {
        config::Place::Copies { expires_after } => Some(format!("{{completed_at}} + {}", expires_after.interval())),
        config::Place::Table { .. }
        | config::Place::Prefix { .. }
        | config::Place::Collection { .. }
        | config::Place::Queue { .. }
        | config::Place::Cmq { .. } => None,
    };
    let gone: Vec<String> = rule.remote.iter().filter_map(gone).collect();
    (!gone.is_empty()).then(|| format!("greatest({})", gone.join(", ")))
}

/// Rows that point at others go before them, or else those would wait for another batch.
fn children_first(mut targets: Vec<Target>) -> Vec<Target> {
    let mut ordered = Vec::new();
    while !targets.is_empty() {
        let free = targets.iter().position(|t| !targets.iter().any(|other| other.points_at(t)));
        ordered.push(targets.remove(free.unwrap_or(0)));
    }
    ordered
}

impl Class {
    /// The pure rule, for [`crate::retention::decide`].
    #[must_use]
    pub fn as_rule<'a>(&'a self, points: &'a [StartingPoint]) -> Rule<'a> {
        Rule { class: &self.rule, points, policy: &self.jobs.policy, places: &self.jobs.places }
    }

    /// Feature and name.
    #[must_use]
    pub fn named(&self) -> (&str, &str) {
        (&self.jobs.feature, &self.jobs.name)
    }

    /// The names of its targets.
    #[must_use]
    pub fn target_names(&self) -> Vec<String> {
        self.targets.iter().map(|t| &t.name).chain(self.remote.iter().map(|t| &t.name)).cloned().collect()
    }

    /// Every table it asks has an index on its account column: a nested loop is the right plan, whatever the statistics say (R18).
    #[must_use]
    pub fn indexed(&self) -> bool {
        self.source.indexed() && self.targets.iter().all(Target::indexed)
    }

    /// The first target whose column cannot hold the account's id literally: no predicate there could name it (R8).
    #[must_use]
    pub fn cannot_hold(&self, account: &str) -> Option<(&Target, KeyType)> {
        self.targets.iter().find(|t| !t.key().holds(account)).map(|t| (t, t.key()))
    }
}
