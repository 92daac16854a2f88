//! Which entries are told to endpoints, and how much of each: ids, dates and counts. Who did it and why stay here.

use serde_json::{Map, Value};

use super::number::Pending;
use crate::notices::Fact;

/// What a notice may hold of an entry.
const TOLD: [&str; 14] = [
    "feature",
    "data_class",
    "starting_point",
    "started_at",
    "retain_until",
    "delete_by",
    "purge_began_at",
    "records_deleted",
    "count_exact",
    "outcomes",
    "cancel_reason",
    "last_copy_gone_at",
    "until",
    "request",
];

/// What this entry tells, if it tells anything.
pub(super) fn fact(entry: &Pending, index: i64) -> Option<Fact> {
    let kind = match (entry.kind.as_str(), entry.event.as_str()) {
        ("job", "scheduled") => "retention.purge.scheduled",
        ("job", "rescheduled") => "retention.purge.rescheduled",
        ("job", "cancelled") => "retention.purge.cancelled",
        ("job", "intent") => "retention.purge.started",
        ("job", "completed") => "retention.purge.completed",
        ("job", "overdue") => "retention.purge.overdue",
        ("hold", "held") => "retention.hold.placed",
        ("hold", "released") => "retention.hold.released",
        ("guard", "guard_tripped") => "retention.guard.tripped",
        ("guard", "guard_released") => "retention.guard.released",
        _ => return None,
    };
    let mut data: Map<String, Value> =
        entry.body.iter().filter(|(name, _)| TOLD.contains(&name.as_str())).map(|(name, value)| (name.clone(), value.clone())).collect();
    if let Some(reference) = entry.reference {
        data.insert(format!("{}_id", entry.kind), Value::String(reference.to_string()));
    }
    if matches!(entry.event.as_str(), "completed" | "cancelled") {
        data.insert(format!("{}_at", entry.event), Value::String(crate::model::rfc3339(entry.at)));
    }
    Some(Fact {
        id: format!("entry-{index}"),
        kind,
        account: entry.subject.clone(),
        at: entry.at,
        data: Value::Object(data),
        plan_of: entry.reference.filter(|_| entry.event == "intent"),
        dated: entry.reference.filter(|_| matches!(entry.event.as_str(), "scheduled" | "rescheduled")),
    })
}
