//! Which of the licensed jobs travel in one batch, once it is known how many records they have. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::jobs::Claimed;

/// Of the jobs, in their order, those that fit into `budget` records as a whole; the first alone where it has more. Of the others nobody knows how many there
/// are where a target was counted up to `large`. And the ids of the rest.
pub(super) fn fit<'a>(jobs: &[&'a Claimed], sizes: &BTreeMap<i64, Vec<i64>>, large: i64, budget: i64) -> (Vec<&'a Claimed>, BTreeSet<i64>) {
    let size = |job: &Claimed| {
        let by_target = sizes.get(&job.id).map_or(&[][..], Vec::as_slice);
        let unknown = jobs.first().is_none_or(|first| first.id != job.id) && by_target.contains(&large);
        if unknown { i64::MAX } else { by_target.iter().sum() }
    };
    if jobs.first().is_some_and(|job| size(job) > budget) {
        return first(jobs, 1);
    }
    let mut left = budget;
    let (fitting, crowded): (Vec<_>, Vec<_>) = jobs.iter().partition(|job| {
        let fits = size(job) <= left;
        left -= if fits { size(job) } else { 0 };
        fits
    });
    (fitting, crowded.iter().map(|job| job.id).collect())
}

/// The first `n` jobs, and the ids of the rest.
pub(super) fn first<'a>(jobs: &[&'a Claimed], n: usize) -> (Vec<&'a Claimed>, BTreeSet<i64>) {
    let (some, rest) = jobs.split_at(n.min(jobs.len()));
    (some.to_vec(), rest.iter().map(|job| job.id).collect())
}
