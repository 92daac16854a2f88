//! The rules, pure: from what stands in the source and what is scheduled, to one decision with its reason.
//! No database, no clock, no logging; values in, values out.

use chrono::{DateTime, Utc};

use crate::{
    config::{DataClass, StartingPoint},
    model::REQUEST,
};

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

/// What a period starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// A configured starting point, by its index.
    Point(usize),
    /// A request that was accepted: due at once (R30).
    Request,
}

impl Start {
    /// The name in `starting_point`.
    #[must_use]
    pub fn name(self, points: &[StartingPoint]) -> Option<&str> {
        match self {
            Self::Point(point) => points.get(point).map(|point| point.name.as_str()),
            Self::Request => Some(REQUEST),
        }
    }
}

/// A starting point in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Which.
    pub start: Start,
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
    /// Fingerprints of the places that were purged, joined by commas.
    pub places: String,
    /// A later look found records again (R24).
    pub residue: bool,
}

impl Done {
    /// Whether each of these places was among those that were purged.
    fn covers(&self, places: &str) -> bool {
        places.split(',').all(|place| self.places.split(',').any(|purged| purged == place))
    }

    /// Whether what stands has been carried out in each of these places, and nothing came back. A request leaves no mark.
    fn carried_out(&self, standing: Standing, places: &str) -> bool {
        standing.start != Start::Request && self.started_at == standing.since && self.covers(places) && !self.residue
    }
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
    /// The request was withdrawn.
    Withdrawn,
}

impl CancelReason {
    /// The word in `cancel_reason`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reactivated => "reactivated",
            Self::Policy => "policy",
            Self::Withdrawn => "withdrawn",
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

/// What must be scheduled: the earliest starting point that stands, or a request, whose instant is when it was accepted.
///
/// A request decides, unless the purge for the point is due already when it is accepted: that one carries it out. A row that is missing keeps what was seen of
/// it (vanishing withdraws nothing), and an impossible value decides nothing by itself.
#[must_use]
pub fn stands(
    rule: Rule<'_>,
    states: &[(usize, PointState)],
    requests: &[DateTime<Utc>],
    open: Option<&Open>,
    done: Option<&Done>,
) -> Option<Standing> {
    let point = states
        .iter()
        .filter_map(|(point, state)| {
            let since = match state {
                PointState::Since(since) => Some(*since),
                PointState::Missing => remembered(rule, *point, open, done),
                PointState::Vanished(first_missed) => Some(remembered(rule, *point, open, done).unwrap_or(*first_missed)),
                PointState::NotSet | PointState::Implausible(_) => None,
            }?;
            Some((Standing { start: Start::Point(*point), since }, state))
        })
        .min_by_key(|(standing, _)| standing.since);
    // The one that the job was made for as long as it stands, whichever else come.
    let accepted_at = open.filter(|open| on_request(open, requests)).map(|open| open.started_at).or(requests.iter().min().copied());
    match (point, accepted_at) {
        (point, None) => point.map(|(standing, _)| standing),
        (Some((standing, state)), Some(at)) if fulfils(rule, standing, state, at, open, done) => Some(standing),
        (_, Some(since)) => Some(Standing { start: Start::Request, since }),
    }
}

/// Whether the purge for a point also carries out a request that was accepted `at`: it is still to be done, was due by then, and waits for no row that
/// is missing; or it has begun.
fn fulfils(rule: Rule<'_>, standing: Standing, state: &PointState, at: DateTime<Utc>, open: Option<&Open>, done: Option<&Done>) -> bool {
    let begun = open.is_some_and(|open| open.began && open.starting_point != REQUEST && open.started_at == standing.since);
    let due = rule.class.dates(standing.since).is_some_and(|(retain_until, _)| retain_until <= at);
    let carried_out = done.is_some_and(|done| done.carried_out(standing, rule.places));
    !carried_out && (begun || (due && *state != PointState::Missing))
}

/// Whether the job is for a request that stands.
fn on_request(open: &Open, requests: &[DateTime<Utc>]) -> bool {
    open.starting_point == REQUEST && requests.contains(&open.started_at)
}

/// The one rule of the promise: what [`stands`] is what must be scheduled, unless it has been carried out. `requests` are the instants of those that were
/// accepted, not withdrawn and not fulfilled.
#[must_use]
pub fn decide(
    rule: Rule<'_>,
    states: &[(usize, PointState)],
    requests: &[DateTime<Utc>],
    open: Option<&Open>,
    done: Option<&Done>,
) -> Decision {
    let carried_out = |standing| done.is_some_and(|done: &Done| done.carried_out(standing, rule.places));
    match (stands(rule, states, requests, open, done), open) {
        (Some(standing), Some(open)) => {
            let same_start = standing.start.name(rule.points) == Some(open.starting_point.as_str());
            let asked = open.starting_point == REQUEST;
            if same_start && standing.since == open.started_at && rule.policy == open.policy {
                Decision::Keep
            } else if asked && !on_request(open, requests) && (open.began || carried_out(standing)) {
                // What began on request is over, and what was carried out before is not carried out again.
                Decision::Cancel(CancelReason::Withdrawn)
            } else if !asked && open.began && standing.since != open.started_at {
                // What began under another instant is over; the next look schedules what stands now.
                Decision::Cancel(CancelReason::Reactivated)
            } else {
                Decision::Reschedule(standing)
            }
        }
        (Some(standing), None) if carried_out(standing) => Decision::Keep,
        (Some(standing), None) => Decision::Schedule(standing),
        (None, Some(open)) if open.starting_point == REQUEST => Decision::Cancel(CancelReason::Withdrawn),
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

fn remembered(rule: Rule<'_>, point: usize, open: Option<&Open>, done: Option<&Done>) -> Option<DateTime<Utc>> {
    let name = &rule.points.get(point)?.name;
    open.filter(|o| &o.starting_point == name)
        .map(|o| o.started_at)
        .or_else(|| done.filter(|d| &d.starting_point == name).map(|d| d.started_at))
}

fn state_of<'s>(rule: Rule<'_>, states: &'s [(usize, PointState)], name: &str) -> Option<&'s PointState> {
    states.iter().find(|(point, _)| rule.points.get(*point).is_some_and(|p| p.name == name)).map(|(_, state)| state)
}

#[cfg(test)]
mod tests;
