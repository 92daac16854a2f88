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
            Some(done) if done.started_at == standing.since && done.covers(rule.places) && !done.residue => Decision::Keep,
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
mod tests {
    use std::collections::BTreeMap;

    use chrono::TimeDelta;
    use proptest::prelude::*;

    use super::*;
    use crate::config::{self, Config, Needs};

    const DELETED: usize = 0;
    const TERMINATED: usize = 1;
    const CMQ: usize = 2;

    /// The shipped promise; its second class, the queue, knows all three starting points.
    fn promise() -> Config {
        let files = [("shipped", config::SHIPPED), ("mine", "mode = \"observe\"")];
        config::parse(&files, &BTreeMap::new(), Needs::Nothing).unwrap()
    }

    fn queue(config: &Config) -> Rule<'_> {
        Rule { class: &config.data_classes[1], points: &config.starting_points, policy: "now", places: "here" }
    }

    /// An instant so many microseconds after a fixed one.
    fn at(micros: i64) -> DateTime<Utc> {
        "2026-03-01T00:00:00Z".parse::<DateTime<Utc>>().unwrap() + TimeDelta::microseconds(micros)
    }

    fn since(micros: i64) -> PointState {
        PointState::Since(at(micros))
    }

    fn impossible() -> PointState {
        PointState::Implausible("infinity".to_owned())
    }

    fn open(starting_point: &str, started_at: i64) -> Open {
        Open { starting_point: starting_point.to_owned(), started_at: at(started_at), policy: "now".to_owned(), began: false }
    }

    fn done(starting_point: &str, started_at: i64) -> Done {
        Done { starting_point: starting_point.to_owned(), started_at: at(started_at), places: "here".to_owned(), residue: false }
    }

    fn standing(point: usize, since: i64) -> Standing {
        Standing { point, since: at(since) }
    }

    type Case = (&'static str, [PointState; 3], Option<Open>, Option<Done>, Decision);

    #[test]
    #[expect(clippy::too_many_lines, reason = "one table, read from top to bottom")]
    fn every_branch_of_the_rule_decides_as_the_promise_says() {
        use Decision::{Cancel, Forget, Keep, Reschedule, Schedule};
        use PointState::{Missing, NotSet};
        let began = |open: Open| Some(Open { began: true, ..open });
        let old = |open: Open| Some(Open { policy: "old".to_owned(), ..open });
        let residue = |done: Done| Some(Done { residue: true, ..done });
        let both = |done: Done| Some(Done { places: "elsewhere,here".to_owned(), ..done });
        let elsewhere = |done: Done| Some(Done { places: "elsewhere".to_owned(), ..done });
        let (deleted, terminated, cmq) = ("account_deleted", "feature_terminated", "cmq_disabled");
        let table: Vec<Case> = vec![
            // Nothing scheduled, nothing done.
            ("a live customer", [NotSet, NotSet, NotSet], None, None, Keep),
            ("nobody knows the account", [Missing, Missing, Missing], None, None, Keep),
            ("one stands", [NotSet, since(0), NotSet], None, None, Schedule(standing(TERMINATED, 0))),
            ("earliest, a microsecond before", [since(0), since(-1), since(1)], None, None, Schedule(standing(TERMINATED, -1))),
            ("earliest, at the same instant", [since(0), since(0), since(0)], None, None, Schedule(standing(DELETED, 0))),
            ("earliest, a microsecond after", [since(0), since(1), since(1)], None, None, Schedule(standing(DELETED, 0))),
            ("an impossible value alone", [impossible(), NotSet, NotSet], None, None, Keep),
            ("carried out here and elsewhere", [since(0), NotSet, NotSet], None, both(done(deleted, 0)), Keep),
            ("an impossible value beside another", [impossible(), NotSet, since(5)], None, None, Schedule(standing(CMQ, 5))),
            // Scheduled.
            ("as scheduled", [since(0), NotSet, NotSet], Some(open(deleted, 0)), None, Keep),
            ("as scheduled, later ones beside it", [since(0), since(1), since(9)], Some(open(deleted, 0)), None, Keep),
            ("moved back a microsecond", [since(-1), NotSet, NotSet], Some(open(deleted, 0)), None, Reschedule(standing(DELETED, -1))),
            ("moved on a microsecond", [since(1), NotSet, NotSet], Some(open(deleted, 0)), None, Reschedule(standing(DELETED, 1))),
            ("an earlier one appeared", [since(0), since(-1), NotSet], Some(open(deleted, 0)), None, Reschedule(standing(TERMINATED, -1))),
            ("the earliest was withdrawn", [NotSet, since(3), NotSet], Some(open(deleted, 0)), None, Reschedule(standing(TERMINATED, 3))),
            ("another point, same instant", [NotSet, since(0), NotSet], Some(open(deleted, 0)), None, Reschedule(standing(TERMINATED, 0))),
            ("the rule changed", [since(0), NotSet, NotSet], old(open(deleted, 0)), None, Reschedule(standing(DELETED, 0))),
            ("reactivated", [NotSet, NotSet, NotSet], Some(open(deleted, 0)), None, Cancel(CancelReason::Reactivated)),
            ("its point is not listed any more", [NotSet, NotSet, NotSet], Some(open("gone", 0)), None, Cancel(CancelReason::Policy)),
            (
                "not listed any more, another stands",
                [since(4), NotSet, NotSet],
                Some(open("gone", 0)),
                None,
                Reschedule(standing(DELETED, 4)),
            ),
            ("its value became impossible", [impossible(), NotSet, NotSet], Some(open(deleted, 0)), None, Keep),
            (
                "another value is impossible",
                [NotSet, impossible(), NotSet],
                Some(open(deleted, 0)),
                None,
                Cancel(CancelReason::Reactivated),
            ),
            // R6: vanishing withdraws nothing.
            ("its row vanished", [NotSet, Missing, NotSet], Some(open(terminated, 0)), None, Keep),
            ("its row vanished, a later one stands", [since(1), Missing, NotSet], Some(open(terminated, 0)), None, Keep),
            (
                "its row vanished, an earlier one appeared",
                [since(-1), Missing, NotSet],
                Some(open(terminated, 0)),
                None,
                Reschedule(standing(DELETED, -1)),
            ),
            ("missed twice", [PointState::Vanished(at(5)), NotSet, NotSet], None, None, Schedule(standing(DELETED, 5))),
            ("missed twice, it stood before", [PointState::Vanished(at(5)), NotSet, NotSet], Some(open(deleted, 0)), None, Keep),
            ("missed twice, carried out before", [PointState::Vanished(at(5)), NotSet, NotSet], None, Some(done(deleted, 0)), Keep),
            (
                "missed twice, another stood before",
                [PointState::Vanished(at(5)), since(4), NotSet],
                None,
                None,
                Schedule(standing(TERMINATED, 4)),
            ),
            ("another's row vanished", [NotSet, Missing, NotSet], Some(open(deleted, 0)), None, Cancel(CancelReason::Reactivated)),
            // Begun.
            ("begun, as scheduled", [since(0), NotSet, NotSet], began(open(deleted, 0)), None, Keep),
            ("begun, moved a microsecond", [since(1), NotSet, NotSet], began(open(deleted, 0)), None, Cancel(CancelReason::Reactivated)),
            ("begun, another stands later", [NotSet, NotSet, since(1)], began(open(deleted, 0)), None, Cancel(CancelReason::Reactivated)),
            (
                "begun, another stands since then too",
                [NotSet, NotSet, since(0)],
                began(open(deleted, 0)),
                None,
                Reschedule(standing(CMQ, 0)),
            ),
            // Done.
            ("carried out", [since(0), NotSet, NotSet], None, Some(done(deleted, 0)), Keep),
            ("carried out, a later one too", [since(0), since(1), NotSet], None, Some(done(deleted, 0)), Keep),
            ("carried out, moved back", [since(-1), NotSet, NotSet], None, Some(done(deleted, 0)), Schedule(standing(DELETED, -1))),
            ("carried out, terminated anew", [since(1), NotSet, NotSet], None, Some(done(deleted, 0)), Schedule(standing(DELETED, 1))),
            (
                "carried out, another counts now",
                [NotSet, since(7), NotSet],
                None,
                Some(done(deleted, 0)),
                Schedule(standing(TERMINATED, 7)),
            ),
            (
                "carried out, and records came back",
                [since(0), NotSet, NotSet],
                None,
                residue(done(deleted, 0)),
                Schedule(standing(DELETED, 0)),
            ),
            ("records came back, reactivated", [NotSet, NotSet, NotSet], None, residue(done(deleted, 0)), Forget),
            ("carried out elsewhere", [since(0), NotSet, NotSet], None, elsewhere(done(deleted, 0)), Schedule(standing(DELETED, 0))),
            ("carried out, reactivated", [NotSet, NotSet, NotSet], None, Some(done(cmq, 0)), Forget),
            ("carried out, the row vanished", [NotSet, NotSet, Missing], None, Some(done(cmq, 0)), Keep),
            ("carried out, the value is impossible now", [NotSet, NotSet, impossible()], None, Some(done(cmq, 0)), Keep),
            ("carried out for a point not listed any more", [NotSet, NotSet, NotSet], None, Some(done("gone", 0)), Forget),
        ];
        let config = promise();
        for (case, states, open, done, want) in table {
            let states: Vec<_> = states.into_iter().enumerate().collect();
            assert_eq!(decide(queue(&config), &states, open.as_ref(), done.as_ref()), want, "{case}");
        }
    }

    #[test]
    fn r11_r22_a_cancelled_job_says_why_in_the_contracts_words() {
        assert_eq!([CancelReason::Reactivated, CancelReason::Policy].map(CancelReason::as_str), ["reactivated", "policy"]);
    }

    #[test]
    fn i1_the_dates_are_exact_to_the_microsecond() {
        let config = promise();
        for micros in [-1, 0, 1] {
            let (retain_until, delete_by) = queue(&config).class.dates(at(micros)).unwrap();
            assert_eq!(retain_until - at(0), TimeDelta::days(7) + TimeDelta::microseconds(micros));
            assert_eq!(delete_by - retain_until, TimeDelta::hours(24));
        }
    }

    /// The rule once more, in the order of the promise's own sentences.
    fn restated(states: &[PointState; 3], open: Option<&Open>, done: Option<&Done>) -> Decision {
        let names = ["account_deleted", "feature_terminated", "cmq_disabled"];
        let mut stand: Vec<(DateTime<Utc>, usize)> = Vec::new();
        for (point, name) in names.into_iter().enumerate() {
            let seen = match (open, done) {
                (Some(o), _) if o.starting_point == name => Some(o.started_at),
                (_, Some(d)) if d.starting_point == name => Some(d.started_at),
                _ => None,
            };
            match &states[point] {
                PointState::Since(t) => stand.push((*t, point)),
                PointState::Missing => stand.extend(seen.map(|t| (t, point))),
                PointState::Vanished(missed) => stand.push((seen.unwrap_or(*missed), point)),
                PointState::NotSet | PointState::Implausible(_) => {}
            }
        }
        stand.sort_unstable();
        let about = |name: &str| names.iter().position(|n| *n == name).map(|p| states[p].clone());
        if let Some(open) = open {
            return match (stand.first(), about(&open.starting_point)) {
                (None, Some(PointState::Implausible(_))) => Decision::Keep,
                (None, None) => Decision::Cancel(CancelReason::Policy),
                (None, Some(_)) => Decision::Cancel(CancelReason::Reactivated),
                (Some((t, p)), _) if (*t, names[*p]) == (open.started_at, open.starting_point.as_str()) && open.policy == "now" => {
                    Decision::Keep
                }
                (Some((t, _)), _) if open.began && *t != open.started_at => Decision::Cancel(CancelReason::Reactivated),
                (Some((t, p)), _) => Decision::Reschedule(Standing { point: *p, since: *t }),
            };
        }
        match (stand.first(), done) {
            (Some((t, _)), Some(d)) if d.started_at == *t && d.places == "here" && !d.residue => Decision::Keep,
            (Some((t, p)), _) => Decision::Schedule(Standing { point: *p, since: *t }),
            (None, Some(d)) if !matches!(about(&d.starting_point), Some(PointState::Implausible(_))) => Decision::Forget,
            (None, _) => Decision::Keep,
        }
    }

    fn a_state() -> impl Strategy<Value = PointState> {
        let vanished = (-2_i64..3).prop_map(|t| PointState::Vanished(at(t)));
        prop_oneof![Just(PointState::Missing), Just(PointState::NotSet), Just(impossible()), (-2_i64..3).prop_map(since), vanished]
    }

    fn a_point() -> impl Strategy<Value = &'static str> {
        prop_oneof![Just("account_deleted"), Just("feature_terminated"), Just("cmq_disabled"), Just("gone")]
    }

    fn a_job() -> impl Strategy<Value = Option<Open>> {
        let fields = (a_point(), -2_i64..3, any::<bool>(), any::<bool>());
        proptest::option::of(fields.prop_map(|(point, started, old, began)| Open {
            policy: if old { "old" } else { "now" }.to_owned(),
            began,
            ..open(point, started)
        }))
    }

    fn a_mark() -> impl Strategy<Value = Option<Done>> {
        let fields = (a_point(), -2_i64..3, any::<bool>(), any::<bool>());
        proptest::option::of(fields.prop_map(|(point, started, elsewhere, residue)| Done {
            places: if elsewhere { "elsewhere" } else { "here" }.to_owned(),
            residue,
            ..done(point, started)
        }))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_rule_agrees_with_its_restatement(states in [a_state(), a_state(), a_state()], open in a_job(), done in a_mark()) {
            let config = promise_once();
            let listed: Vec<_> = states.iter().cloned().enumerate().collect();
            prop_assert_eq!(decide(queue(config), &listed, open.as_ref(), done.as_ref()), restated(&states, open.as_ref(), done.as_ref()));
        }

        /// Level-triggered: carrying a decision out leaves nothing to decide, after three steps at most.
        #[test]
        fn carrying_decisions_out_comes_to_rest(states in [a_state(), a_state(), a_state()], open in a_job(), done in a_mark()) {
            let config = promise_once();
            let rule = queue(config);
            let listed: Vec<_> = states.iter().cloned().enumerate().collect();
            let (mut open, mut done) = (open, done);
            for _ in 0..3 {
                match decide(rule, &listed, open.as_ref(), done.as_ref()) {
                    Decision::Keep => {}
                    Decision::Forget => done = None,
                    Decision::Cancel(_) => open = None,
                    Decision::Schedule(s) | Decision::Reschedule(s) => {
                        let name = &rule.points[s.point].name;
                        open = Some(Open { starting_point: name.clone(), started_at: s.since, ..self::open("", 0) });
                    }
                }
            }
            prop_assert_eq!(decide(rule, &listed, open.as_ref(), done.as_ref()), Decision::Keep);
            // What stands is scheduled or done, for exactly the earliest instant that is known.
            let known = states.iter().filter_map(|s| if let PointState::Since(t) = s { Some(*t) } else { None }).min();
            if let Some(known) = known {
                let answered = open.as_ref().map(|o| o.started_at).or(done.as_ref().map(|d| d.started_at));
                prop_assert!(answered.is_some_and(|t| t <= known));
            }
        }
    }

    fn promise_once() -> &'static Config {
        static PROMISE: std::sync::OnceLock<Config> = std::sync::OnceLock::new();
        PROMISE.get_or_init(promise)
    }
}
