//! What a batch comes to for each of its jobs, and how long whoever has to wait waits. Pure.

use std::{collections::BTreeMap, time::Duration};

use super::away::Away;
use crate::{
    jobs::{self, Claimed, Next, PATIENT_LOOKS, Progress},
    policy::Class,
};

/// Its records or its source row are held by somebody else.
pub(super) const LOCKED: &str = "locked";
/// Its records can be locked but do not go.
pub(super) const UNDELETABLE: &str = "undeletable";
/// How long a job steps aside for whoever holds its records or its source row.
pub(super) const LOCKED_PAUSE: Duration = Duration::from_secs(1);
/// How long a job waits for the planner to settle what changed under it.
const CHANGED_PAUSE: Duration = Duration::from_secs(5);
/// How long a job waits for what stands in its way.
pub(super) fn pause(reason: &str, attempts: i32) -> Duration {
    match reason {
        LOCKED => LOCKED_PAUSE,
        // Longer each time, to a minute: a vanished row is missed for an hour before it counts.
        "changed" | "missing" => CHANGED_PAUSE * 12.min(1 << attempts.clamp(1, 5) >> 1),
        // A hold, a pause or the guard is asked at every claim; the job is ready the moment it is lifted.
        _ => Duration::ZERO,
    }
}

/// What one batch did to one job.
#[derive(Debug, Default)]
pub(super) struct Purged<'a> {
    /// Records that could be locked.
    pub(super) found: i64,
    /// Records that are gone, by target.
    pub(super) records: BTreeMap<&'a str, i64>,
}

/// Adds a batch to what the job has come to so far.
pub(super) fn account(
    class: &Class,
    job: &Claimed,
    next: Next,
    purged: &Purged<'_>,
    left: Option<&Vec<String>>,
    away: Option<&Away>,
) -> Progress {
    let mut counts = job.records_deleted.0.clone();
    for target in class.target_names() {
        let here = purged.records.get(target.as_str()).copied().unwrap_or(0);
        *counts.entry(target).or_insert(0) += here;
    }
    let outcomes = if next == Next::Complete { outcomes(class, job, &counts) } else { BTreeMap::new() };
    let stuck = matches!(next, Next::Wait(LOCKED | UNDELETABLE, _)) && left.is_some();
    let looks = match next {
        Next::Crowded => job.looks,
        _ if stuck => job.looks.saturating_add(1),
        Next::Complete | Next::Continue | Next::Wait(..) | Next::Retry(_) => 0,
    };
    let remain =
        || left.into_iter().flatten().chain(away.iter().flat_map(|away| &away.left)).map(String::as_str).collect::<Vec<_>>().join(", ");
    let residue = (looks >= PATIENT_LOOKS).then(|| format!("records remain that could not be deleted: {}", remain()));
    Progress {
        id: job.id,
        fence: job.fence,
        next,
        records_deleted: counts,
        outcomes,
        began: next == Next::Complete || purged.records.values().any(|records| *records > 0),
        looks,
        error: away.and_then(Away::error).or(residue),
        requests: job.requests.clone(),
    }
}

/// What became of each target, in the words of R27.
fn outcomes(class: &Class, job: &Claimed, counts: &jobs::Counts) -> BTreeMap<String, &'static str> {
    let remote = |name: &String| class.remote.iter().any(|target| target.name == *name);
    let word = |name: &String| match (counts.get(name).copied().unwrap_or(0), &job.seen) {
        (1.., _) => "deleted",
        (_, None) => "unknown",
        // Nobody looks there while a job is scheduled.
        _ if remote(name) => "unknown",
        (_, Some(seen)) if seen.contains(name) => "already gone",
        (_, Some(_)) => "never existed",
    };
    class.target_names().into_iter().map(|name| (name.clone(), word(&name))).collect()
}
