//! What data classes must not do to each other, to media and to the sources (R13, I4), as far as spelling shows it.
//! Identity in the catalogue (views, partitions, cascades) is looked at when the daemon starts, not here.

use std::collections::BTreeMap;

use super::{CustomerPlace, DataClass, Owner, RemoteTarget, StartingPoint, Store, Target, table::Table};
use crate::model::TableName;

/// A starting point as far as it could be read.
#[derive(Debug, Default)]
pub(super) struct Point {
    pub(super) name: Option<String>,
    pub(super) table: Option<TableName>,
    pub(super) whole: Option<StartingPoint>,
}

/// A data class as far as it could be read: faults elsewhere in it do not hide those found here.
#[derive(Debug, Default)]
pub(super) struct Class {
    pub(super) feature: Option<String>,
    pub(super) name: Option<String>,
    pub(super) starting_points: Vec<usize>,
    /// With the key of each.
    pub(super) targets: Vec<(String, Option<Target>)>,
    /// Those in remote stores, likewise.
    pub(super) remote: Vec<(String, RemoteTarget)>,
    pub(super) places: Vec<Place>,
    pub(super) whole: Option<DataClass>,
}

/// A place under the customer's control, with its spelling parsed.
#[derive(Debug)]
pub(super) struct Place {
    /// As a table, where it can be one.
    pub(super) table: Option<TableName>,
    pub(super) place: CustomerPlace,
}

type Stores = BTreeMap<String, Option<Store>>;

/// Reports every overlap that spelling shows.
pub(super) fn judge(root: &Table<'_>, stores: &Stores, points: &[Point], classes: &[Class]) {
    let mut names = Vec::new();
    for name in points.iter().filter_map(|point| point.name.as_ref()) {
        if names.contains(&name) {
            root.fault(&format!("starting_points[{name}].name"), format!("{name:?} is defined twice"));
        }
        names.push(name);
    }
    let mut names = Vec::new();
    for class in classes {
        if let (Some(feature), Some(name)) = (&class.feature, &class.name) {
            if names.contains(&(feature, name)) {
                let problem = format!("feature {feature:?} has a class {name:?} already");
                root.fault(&format!("data_classes[{feature}/{name}].name"), problem);
            }
            names.push((feature, name));
        }
    }
    judge_remote(root, stores, classes);
    let targets: Vec<_> = classes
        .iter()
        .flat_map(|class| class.targets.iter().map(move |(key, target)| (class, key, target.as_ref())))
        .filter_map(|(class, key, target)| Some((class, key, target?)))
        .collect();
    for (at, &(class, key, target)) in targets.iter().enumerate() {
        let spelt = target.table.spelt();
        if target.table.schema() == "retention" {
            root.fault(key, format!("{spelt:?} lies in schema retention, which is the daemon's own"));
        }
        for point in points.iter().filter(|point| point.table.as_ref() == Some(&target.table)) {
            let name = point.name.as_deref().unwrap_or("?");
            root.fault(key, format!("{spelt:?} holds the starting point {name:?}; what tells us to delete is never deleted"));
        }
        for place in classes.iter().flat_map(|class| &class.places) {
            let store = place.place.store.as_ref();
            let everywhere = store.is_none();
            if place.table.as_ref() == Some(&target.table) && (everywhere || same(stores, store, Some(&target.store))) {
                let owner = &place.place.class;
                root.fault(key, format!("{spelt:?} is under the customer's control ({owner}) and can never be a target"));
            }
        }
        if let Some(problem) = orphaned(stores, class, target) {
            root.fault(&format!("{}parent", key.trim_end_matches("table")), problem);
        }
        let earlier = targets[..at]
            .iter()
            .filter(|(_, _, other)| other.table == target.table && same(stores, Some(&other.store), Some(&target.store)));
        for &(owner, _, other) in earlier {
            if std::ptr::eq(owner, class) {
                root.fault(key, format!("this class names {spelt:?} twice"));
            } else if let Some(problem) = shared(owner, other, class, target) {
                root.fault(key, problem);
            }
        }
    }
}

/// Reports what targets in remote stores do to each other and to media, and stores that are one in part: what their places are to each other nobody could
/// tell.
fn judge_remote(root: &Table<'_>, stores: &Stores, classes: &[Class]) {
    let remote = |(name, store): (&String, &Option<Store>)| match store {
        Some(Store::Remote(remote)) => Some((name.clone(), remote.clone())),
        _ => None,
    };
    let remotes: Vec<_> = stores.iter().filter_map(remote).collect();
    for (at, (name, store)) in remotes.iter().enumerate() {
        for (other, another) in &remotes[..at] {
            if let Some((key, problem)) = store.shares(another) {
                root.fault(
                    &format!("stores.{name}.{key}"),
                    format!("{problem} of stores.{other}; write both the same, or two that have nothing in common"),
                );
            }
        }
    }
    let targets: Vec<_> = classes.iter().flat_map(|class| class.remote.iter().map(move |(key, target)| (class, key, target))).collect();
    for (at, &(_, key, target)) in targets.iter().enumerate() {
        for place in classes.iter().flat_map(|class| &class.places) {
            let store = place.place.store.as_ref();
            if target.place.overlaps_spelt(&place.place.place) && (store.is_none() || same(stores, store, Some(&target.store))) {
                let owner = &place.place.class;
                root.fault(key, format!("{:?} is under the customer's control ({owner}) and can never be a target", target.name));
            }
        }
        for (owner, _, other) in targets[..at].iter().filter(|(.., other)| same(stores, Some(&other.store), Some(&target.store))) {
            if target.place.overlaps(&other.place) {
                let owner = format!("{}/{}", owner.feature.as_deref().unwrap_or("?"), owner.name.as_deref().unwrap_or("?"));
                root.fault(
                    key,
                    format!("{:?} overlaps {:?}, a target of {owner}; nothing tells their records apart", target.name, other.name),
                );
            } else if target.name == other.name {
                root.fault(key, format!("{:?} names two places; define the store a second time, under another name", target.name));
            }
        }
    }
}

/// What is wrong with the parent of a target: from parent to parent one must come to a target that names the account itself.
fn orphaned(stores: &Stores, class: &Class, target: &Target) -> Option<String> {
    let mut child = target;
    for _ in 0..=class.targets.len() {
        let Owner::Parent(parent) = &child.owner else { return None };
        let of_class = class.targets.iter().filter_map(|(_, other)| other.as_ref());
        let found = of_class.filter(|t| t.table == *parent).find(|t| same(stores, Some(&t.store), Some(&target.store)));
        let Some(found) = found else {
            return Some(format!("{:?} is no target of this class in the same store; list it too", parent.spelt()));
        };
        child = found;
    }
    Some("leads in a circle: no record ever tells whose it is".to_owned())
}

/// Two names may stand for one store.
fn same(stores: &Stores, a: Option<&String>, b: Option<&String>) -> bool {
    let store = |name: Option<&String>| name.and_then(|name| stores.get(name)).and_then(Option::as_ref);
    a == b || store(a).is_some_and(|a| Some(a) == store(b))
}

/// What is wrong with two classes that share a table: only the feature can tell whose a record is.
fn shared(owner: &Class, other: &Target, class: &Class, target: &Target) -> Option<String> {
    let spelt = target.table.spelt();
    let by = format!("{spelt:?} is a target of {}/{} too", owner.feature.as_deref().unwrap_or("?"), owner.name.as_deref().unwrap_or("?"));
    if target.feature_column().is_none() || other.feature_column().is_none() {
        Some(format!("{by}; classes that share a table need feature_column on both"))
    } else if target.feature_column() != other.feature_column() {
        Some(format!("{by}, with another feature_column; a record could belong to both"))
    } else if owner.feature == class.feature {
        Some(format!("{by}, for the same feature; nothing tells their records apart"))
    } else {
        None
    }
}
