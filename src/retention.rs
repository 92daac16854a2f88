//! The rules, pure: from what stands in the source and what is scheduled, to one decision with its reason.
//! No database, no clock, no logging; values in, values out.

use chrono::{DateTime, Utc};

use crate::config::{DataClass, StartingPoint};

/// What the source says about one starting point of one subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PointState {
    /// There is no row. That withdraws nothing (R6): the row may have vanished.
    Missing,
    /// There is no row, and two full comparisons say so: as if set since it was first missed (R6).
    Vanished(DateTime<Utc>),
    /// There is a row and it is not in force, or one of several rows is not (R2).
    NotSet,
    /// In force since then; of several rows the latest (R2).
    Since(DateTime<Utc>),
    /// The value is impossible (R4): neither in force nor withdrawn.
    Implausible(String),
}

/// A starting point in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Index into the configuration's starting points.
    pub point: usize,
    /// The instant it has been in force since.
    pub since: DateTime<Utc>,
}

/// An open job, as far as the rules care.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// The name of the starting point it was made for.
    pub starting_point: String,
    /// That point's instant.
    pub started_at: DateTime<Utc>,
    /// Nothing is deleted before.
    pub retain_until: DateTime<Utc>,
    /// Fingerprint of the rule it was made under.
    pub policy: String,
    /// A batch has run.
    pub began: bool,
}

/// A purge that was carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// The name of the starting point.
    pub starting_point: String,
    /// Its instant.
    pub started_at: DateTime<Utc>,
    /// Fingerprint of the places that were purged.
    pub places: String,
    /// A later look found records again (R24).
    pub residue: bool,
}

/// One data class with the fingerprints that its jobs and done-marks are compared with.
#[derive(Debug, Clone, Copy)]
pub struct Rule<'a> {
    /// The class.
    pub class: &'a DataClass,
    /// Every configured starting point.
    pub points: &'a [StartingPoint],
    /// [`DataClass::policy`]
    pub policy: &'a str,
    /// [`DataClass::places_fingerprint`]
    pub places: &'a str,
}

/// Why a job is cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelReason {
    /// The starting point was withdrawn and no other stands.
    Reactivated,
    /// The class no longer lists the starting point.
    Policy,
}

impl CancelReason {
    /// The word in `cancel_reason`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reactivated => "reactivated",
            Self::Policy => "policy",
        }
    }
}

/// What to do about one subject and data class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// What is scheduled is what stands.
    Keep,
    /// A job is missing.
    Schedule(Standing),
    /// The open job is for something else.
    Reschedule(Standing),
    /// The open job is for nothing.
    Cancel(CancelReason),
    /// The done-mark is for something that no longer stands.
    Forget,
}

/// The one rule of the promise: the earliest starting point that stands is what must be scheduled.
///
/// A row that is missing keeps what was seen of it (vanishing withdraws nothing), and an impossible value decides nothing by itself.
#[must_use]
pub fn decide(rule: Rule<'_>, states: &[(usize, PointState)], open: Option<&Open>, done: Option<&Done>) -> Decision {
    let earliest = states
        .iter()
        .filter_map(|(point, state)| match state {
            PointState::Since(since) => Some(Standing { point: *point, since: *since }),
            PointState::Missing => remembered(rule, *point, open, done).map(|since| Standing { point: *point, since }),
            PointState::Vanished(first_missed) => {
                Some(Standing { point: *point, since: remembered(rule, *point, open, done).unwrap_or(*first_missed) })
            }
            PointState::NotSet | PointState::Implausible(_) => None,
        })
        .min_by_key(|s| s.since);
    match (earliest, open) {
        (Some(standing), Some(open)) => {
            let same_point = rule.points.get(standing.point).is_some_and(|p| p.name == open.starting_point);
            if same_point && standing.since == open.started_at && rule.policy == open.policy {
                Decision::Keep
            } else if open.began && standing.since != open.started_at {
                // What began under another instant is over; the next look schedules what stands now.
                Decision::Cancel(CancelReason::Reactivated)
            } else {
                Decision::Reschedule(standing)
            }
        }
        (Some(standing), None) => match done {
            Some(done) if done.started_at == standing.since && done.places == rule.places && !done.residue => Decision::Keep,
            _ => Decision::Schedule(standing),
        },
        (None, Some(open)) => match state_of(rule, states, &open.starting_point) {
            None => Decision::Cancel(CancelReason::Policy),
            Some(PointState::Implausible(_)) => Decision::Keep,
            Some(PointState::Missing | PointState::Vanished(_) | PointState::NotSet | PointState::Since(_)) => {
                Decision::Cancel(CancelReason::Reactivated)
            }
        },
        (None, None) => match done {
            Some(done) if !matches!(state_of(rule, states, &done.starting_point), Some(PointState::Implausible(_))) => Decision::Forget,
            _ => Decision::Keep,
        },
    }
}

/// The dates of an open job under the rule as it is now. A changed rule may lengthen them by itself, never shorten them (R11).
#[must_use]
pub fn dates(rule: Rule<'_>, standing: Standing, open: Option<&Open>) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
    let (retain_until, delete_by) = rule.class.dates(standing.since)?;
    let kept = open
        .filter(|o| o.started_at == standing.since && o.policy != rule.policy)
        .map_or(retain_until, |o| retain_until.max(o.retain_until));
    Some((kept, delete_by.max(kept)))
}

fn remembered(rule: Rule<'_>, point: usize, open: Option<&Open>, done: Option<&Done>) -> Option<DateTime<Utc>> {
    let name = &rule.points.get(point)?.name;
    open.filter(|o| &o.starting_point == name)
        .map(|o| o.started_at)
        .or_else(|| done.filter(|d| &d.starting_point == name).map(|d| d.started_at))
}

fn state_of<'s>(rule: Rule<'_>, states: &'s [(usize, PointState)], name: &str) -> Option<&'s PointState> {
    states.iter().find(|(point, _)| rule.points.get(*point).is_some_and(|p| p.name == name)).map(|(_, state)| state)
}
