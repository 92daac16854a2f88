//! The rule, branch by branch, against a restatement of it, and carried out to the end.

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
    Standing { start: Start::Point(point), since: at(since) }
}

fn asked(since: i64) -> Standing {
    Standing { start: Start::Request, since: at(since) }
}

/// The period of the queue, in microseconds.
const WEEK: i64 = 7 * 86_400_000_000;

type Case = (&'static str, [PointState; 3], Option<Open>, Option<Done>, Decision);
type Asked = (&'static str, [PointState; 3], &'static [i64], Option<Open>, Option<Done>, Decision);

#[test]
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
        ("not listed any more, another stands", [since(4), NotSet, NotSet], Some(open("gone", 0)), None, Reschedule(standing(DELETED, 4))),
        ("its value became impossible", [impossible(), NotSet, NotSet], Some(open(deleted, 0)), None, Keep),
        ("another value is impossible", [NotSet, impossible(), NotSet], Some(open(deleted, 0)), None, Cancel(CancelReason::Reactivated)),
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
        ("begun, another stands since then too", [NotSet, NotSet, since(0)], began(open(deleted, 0)), None, Reschedule(standing(CMQ, 0))),
        // Done.
        ("carried out", [since(0), NotSet, NotSet], None, Some(done(deleted, 0)), Keep),
        ("carried out, a later one too", [since(0), since(1), NotSet], None, Some(done(deleted, 0)), Keep),
        ("carried out, moved back", [since(-1), NotSet, NotSet], None, Some(done(deleted, 0)), Schedule(standing(DELETED, -1))),
        ("carried out, terminated anew", [since(1), NotSet, NotSet], None, Some(done(deleted, 0)), Schedule(standing(DELETED, 1))),
        ("carried out, another counts now", [NotSet, since(7), NotSet], None, Some(done(deleted, 0)), Schedule(standing(TERMINATED, 7))),
        ("carried out, and records came back", [since(0), NotSet, NotSet], None, residue(done(deleted, 0)), Schedule(standing(DELETED, 0))),
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
        assert_eq!(decide(queue(&config), &states, &[], open.as_ref(), done.as_ref()), want, "{case}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table, read from top to bottom")]
fn r30_a_request_decides_unless_the_purge_for_a_point_was_due_when_it_was_accepted() {
    use Decision::{Cancel, Forget, Keep, Reschedule, Schedule};
    use PointState::{Missing, NotSet};
    let live = || [NotSet, NotSet, NotSet];
    let began = |open: Open| Some(Open { began: true, ..open });
    let old = |open: Open| Some(Open { policy: "old".to_owned(), ..open });
    let residue = |done: Done| Some(Done { residue: true, ..done });
    let deleted = "account_deleted";
    let table: Vec<Asked> = vec![
        // It stands.
        ("a live customer", live(), &[0], None, None, Schedule(asked(0))),
        ("an account that nobody knows", [Missing, Missing, Missing], &[0], None, None, Schedule(asked(0))),
        ("an impossible value", [impossible(), NotSet, NotSet], &[0], None, None, Schedule(asked(0))),
        ("two: the earlier", live(), &[5, 0], None, None, Schedule(asked(0))),
        ("two: the one that was scheduled", live(), &[0, 5], Some(open(REQUEST, 5)), None, Keep),
        ("as scheduled", live(), &[0], Some(open(REQUEST, 0)), None, Keep),
        ("as scheduled, begun", live(), &[0], began(open(REQUEST, 0)), None, Keep),
        (
            "the rule changed in the middle",
            live(),
            &[0],
            Some(Open { began: true, ..old(open(REQUEST, 0)).unwrap() }),
            None,
            Reschedule(asked(0)),
        ),
        ("it advances a job", [since(-9), NotSet, NotSet], &[0], Some(open(deleted, -9)), None, Reschedule(asked(0))),
        ("its account was deleted afterwards", [since(1), NotSet, NotSet], &[0], Some(open(REQUEST, 0)), None, Keep),
        // A purge that is due anyway carries it out.
        ("due a microsecond later", [since(1 - WEEK), NotSet, NotSet], &[0], Some(open(deleted, 1 - WEEK)), None, Reschedule(asked(0))),
        ("due that very instant", [since(-WEEK), NotSet, NotSet], &[0], Some(open(deleted, -WEEK)), None, Keep),
        ("due, and not scheduled yet", [since(-WEEK), NotSet, NotSet], &[0], None, None, Schedule(standing(DELETED, -WEEK))),
        (
            "due, as turned out later",
            [since(-WEEK), NotSet, NotSet],
            &[0],
            Some(open(REQUEST, 0)),
            None,
            Reschedule(standing(DELETED, -WEEK)),
        ),
        (
            "the same when it has begun",
            [since(-WEEK), NotSet, NotSet],
            &[0],
            began(open(REQUEST, 0)),
            None,
            Reschedule(standing(DELETED, -WEEK)),
        ),
        (
            "due, its row vanished for good",
            [PointState::Vanished(at(-WEEK)), NotSet, NotSet],
            &[0],
            None,
            None,
            Schedule(standing(DELETED, -WEEK)),
        ),
        ("due, its row is missing", [Missing, NotSet, NotSet], &[0], Some(open(deleted, -WEEK)), None, Reschedule(asked(0))),
        ("begun, its row is missing", [Missing, NotSet, NotSet], &[0], began(open(deleted, -WEEK)), None, Keep),
        ("begun after it was accepted", [since(1 - WEEK), NotSet, NotSet], &[0], began(open(deleted, 1 - WEEK)), None, Keep),
        // What was withdrawn in the middle of its purge is over, whatever else stands.
        ("begun, reactivated", live(), &[0], began(open(deleted, -WEEK)), None, Cancel(CancelReason::Reactivated)),
        // A purge that was carried out carries out nothing more.
        ("carried out before", [since(-WEEK), NotSet, NotSet], &[0], None, Some(done(deleted, -WEEK)), Schedule(asked(0))),
        (
            "carried out before, as scheduled",
            [since(-WEEK), NotSet, NotSet],
            &[0],
            Some(open(REQUEST, 0)),
            Some(done(deleted, -WEEK)),
            Keep,
        ),
        (
            "records came back",
            [since(-WEEK), NotSet, NotSet],
            &[0],
            None,
            residue(done(deleted, -WEEK)),
            Schedule(standing(DELETED, -WEEK)),
        ),
        // Withdrawn, or fulfilled.
        ("withdrawn", live(), &[], Some(open(REQUEST, 0)), None, Cancel(CancelReason::Withdrawn)),
        ("withdrawn, begun", live(), &[], began(open(REQUEST, 0)), None, Cancel(CancelReason::Withdrawn)),
        ("withdrawn, another stands", live(), &[3], Some(open(REQUEST, 0)), None, Reschedule(asked(3))),
        ("withdrawn, begun, another stands", live(), &[3], began(open(REQUEST, 0)), None, Cancel(CancelReason::Withdrawn)),
        ("withdrawn, a point stands", [since(-9), NotSet, NotSet], &[], Some(open(REQUEST, 0)), None, Reschedule(standing(DELETED, -9))),
        (
            "withdrawn, begun, a point stands",
            [since(-9), NotSet, NotSet],
            &[],
            began(open(REQUEST, 0)),
            None,
            Cancel(CancelReason::Withdrawn),
        ),
        (
            "withdrawn, carried out before",
            [since(-9), NotSet, NotSet],
            &[],
            Some(open(REQUEST, 0)),
            Some(done(deleted, -9)),
            Cancel(CancelReason::Withdrawn),
        ),
        ("withdrawn, a mark for nothing", live(), &[], None, Some(done(deleted, -9)), Forget),
        ("fulfilled, a point stands", [since(-9), NotSet, NotSet], &[], None, None, Schedule(standing(DELETED, -9))),
    ];
    let config = promise();
    for (case, states, requests, open, done, want) in table {
        let (states, requests): (Vec<_>, Vec<_>) = (states.into_iter().enumerate().collect(), requests.iter().map(|t| at(*t)).collect());
        assert_eq!(decide(queue(&config), &states, &requests, open.as_ref(), done.as_ref()), want, "{case}");
    }
}

#[test]
fn r11_r22_a_cancelled_job_says_why_in_the_contracts_words() {
    let reasons = [CancelReason::Reactivated, CancelReason::Policy, CancelReason::Withdrawn];
    assert_eq!(reasons.map(CancelReason::as_str), ["reactivated", "policy", "withdrawn"]);
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
fn restated(states: &[PointState; 3], requests: &[DateTime<Utc>], open: Option<&Open>, done: Option<&Done>) -> Decision {
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
    let earliest = stand.first().map(|(t, p)| Standing { start: Start::Point(*p), since: *t });
    let purged =
        |s: Standing| done.is_some_and(|d| s.start != Start::Request && d.started_at == s.since && d.places == "here" && !d.residue);
    let for_request = open.filter(|o| o.starting_point == "request");
    let its_own = for_request.map(|o| o.started_at).filter(|t| requests.contains(t));
    let request = its_own.or_else(|| requests.iter().copied().min());
    let stands = match (earliest, request) {
        (Some(s), Some(t)) => {
            let Start::Point(p) = s.start else { unreachable!() };
            let due = s.since + TimeDelta::days(7) <= t && states[p] != PointState::Missing;
            let begun = for_request.is_none() && open.is_some_and(|o| o.began && o.started_at == s.since);
            if (due || begun) && !purged(s) { Some(s) } else { Some(Standing { start: Start::Request, since: t }) }
        }
        (s, t) => s.or(t.map(|since| Standing { start: Start::Request, since })),
    };
    let name = |s: Standing| if let Start::Point(p) = s.start { names[p] } else { "request" };
    let about = |name: &str| names.iter().position(|n| *n == name).map(|p| states[p].clone());
    let withdrawn = for_request.is_some() && its_own.is_none();
    if let Some(open) = open {
        return match (stands, about(&open.starting_point)) {
            (None, _) if withdrawn => Decision::Cancel(CancelReason::Withdrawn),
            (None, Some(PointState::Implausible(_))) => Decision::Keep,
            (None, None) => Decision::Cancel(CancelReason::Policy),
            (None, Some(_)) => Decision::Cancel(CancelReason::Reactivated),
            (Some(s), _) if (s.since, name(s)) == (open.started_at, open.starting_point.as_str()) && open.policy == "now" => Decision::Keep,
            (Some(s), _) if withdrawn && (open.began || purged(s)) => Decision::Cancel(CancelReason::Withdrawn),
            (Some(s), _) if for_request.is_none() && open.began && s.since != open.started_at => {
                Decision::Cancel(CancelReason::Reactivated)
            }
            (Some(s), _) => Decision::Reschedule(s),
        };
    }
    match (stands, done) {
        (Some(s), _) if purged(s) => Decision::Keep,
        (Some(s), _) => Decision::Schedule(s),
        (None, Some(d)) if !matches!(about(&d.starting_point), Some(PointState::Implausible(_))) => Decision::Forget,
        (None, _) => Decision::Keep,
    }
}

/// An instant, now and then one whose period ends at such an instant.
fn an_instant() -> impl Strategy<Value = i64> {
    (-2_i64..3, prop_oneof![2 => Just(0), 1 => Just(-WEEK)]).prop_map(|(t, before)| t + before)
}

fn a_state() -> impl Strategy<Value = PointState> {
    let vanished = an_instant().prop_map(|t| PointState::Vanished(at(t)));
    prop_oneof![Just(PointState::Missing), Just(PointState::NotSet), Just(impossible()), an_instant().prop_map(since), vanished]
}

fn some_requests() -> impl Strategy<Value = Vec<DateTime<Utc>>> {
    proptest::collection::vec((-2_i64..3).prop_map(at), 0..3)
}

fn a_point() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("account_deleted"), Just("feature_terminated"), Just("cmq_disabled"), Just("gone")]
}

fn a_start() -> impl Strategy<Value = &'static str> {
    prop_oneof![2 => a_point(), 1 => Just(REQUEST)]
}

fn a_job() -> impl Strategy<Value = Option<Open>> {
    let fields = (a_start(), an_instant(), any::<bool>(), any::<bool>());
    proptest::option::of(fields.prop_map(|(point, started, old, began)| Open {
        policy: if old { "old" } else { "now" }.to_owned(),
        began,
        ..open(point, started)
    }))
}

fn a_mark() -> impl Strategy<Value = Option<Done>> {
    let fields = (a_point(), an_instant(), any::<bool>(), any::<bool>());
    proptest::option::of(fields.prop_map(|(point, started, elsewhere, residue)| Done {
        places: if elsewhere { "elsewhere" } else { "here" }.to_owned(),
        residue,
        ..done(point, started)
    }))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_rule_agrees_with_its_restatement(
        states in [a_state(), a_state(), a_state()],
        requests in some_requests(),
        open in a_job(),
        done in a_mark(),
    ) {
        let config = promise_once();
        let listed: Vec<_> = states.iter().cloned().enumerate().collect();
        let decision = decide(queue(config), &listed, &requests, open.as_ref(), done.as_ref());
        prop_assert_eq!(decision, restated(&states, &requests, open.as_ref(), done.as_ref()));
    }

    /// Level-triggered: carrying a decision out leaves nothing to decide, after three steps at most.
    #[test]
    fn carrying_decisions_out_comes_to_rest(
        states in [a_state(), a_state(), a_state()],
        requests in some_requests(),
        open in a_job(),
        done in a_mark(),
    ) {
        let config = promise_once();
        let rule = queue(config);
        let listed: Vec<_> = states.iter().cloned().enumerate().collect();
        let (mut open, mut done) = (open, done);
        for _ in 0..3 {
            match decide(rule, &listed, &requests, open.as_ref(), done.as_ref()) {
                Decision::Keep => {}
                Decision::Forget => done = None,
                Decision::Cancel(_) => open = None,
                Decision::Schedule(s) | Decision::Reschedule(s) => {
                    let name = s.start.name(rule.points).unwrap().to_owned();
                    open = Some(Open { starting_point: name, started_at: s.since, ..self::open("", 0) });
                }
            }
        }
        prop_assert_eq!(decide(rule, &listed, &requests, open.as_ref(), done.as_ref()), Decision::Keep);
        // What stands is scheduled or done, for exactly the earliest instant that is known, or for a request in its stead.
        let known = states.iter().filter_map(|s| if let PointState::Since(t) = s { Some(*t) } else { None }).min();
        let answered = open.as_ref().map(|o| o.started_at).or(done.as_ref().map(|d| d.started_at));
        match (known, requests.is_empty()) {
            (_, false) => prop_assert!(open.is_some_and(|o| requests.contains(&o.started_at) || o.began || o.started_at + TimeDelta::days(7) <= at(2))),
            (Some(known), true) => prop_assert!(answered.is_some_and(|t| t <= known)),
            (None, true) => {}
        }
    }
}

fn promise_once() -> &'static Config {
    static PROMISE: std::sync::OnceLock<Config> = std::sync::OnceLock::new();
    PROMISE.get_or_init(promise)
}
