//! The job protocol of `docs/architecture.md` as a model small enough to be searched whole: two workers, a planner, a customer who changes
//! his mind, somebody who holds, crashes, leases that lapse, workers that freeze and thaw (a worker may rest between any two of its steps).
//!
//! The protocol as it is keeps every property in every state; each variant with one rule left out is caught by a property by name.
#![expect(clippy::print_stdout, reason = "how many states there are says how much was searched")]

use stateright::{Checker, Model, Property};

/// From a starting point to its purge, and how long a claim is good, in ticks.
const PERIOD: u8 = 1;
const LEASE: u8 = 1;
/// People act until then, and every order of things is searched until the horizon; a daemon that is left alone has until the end.
const LAST_ACT: u8 = 3;
const HORIZON: u8 = 6;
const END: u8 = 8;
/// Records that one batch deletes at most: fewer than there are, so that a purge takes two batches.
const BUDGET: u8 = 2;
const WORKERS: usize = 2;

const EARLY: &str = "never early";
const REACTIVATED: &str = "never a reactivated account";
const HELD: &str = "never a held account";
const EMPTY: &str = "completed means that a look found nothing";
const ONCE: &str = "one completion for one starting point";
const OWNER: &str = "only who claimed a job last changes it";
const LEASED: &str = "no batch on a lapsed lease";
const RECOVERS: &str = "left alone, it completes whatever stands";

/// Which rules are kept.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a rule that can be left out")]
struct Protocol {
    /// Every statement about a claimed job carries its fence.
    fence: bool,
    /// The batch asks again whether the point stands and is due.
    ask_again: bool,
    /// The batch asks for holds.
    ask_holds: bool,
    /// The batch asks whether its lease still runs.
    ask_lease: bool,
    /// Completion needs a look.
    look: bool,
    /// What was carried out is marked.
    mark: bool,
    /// Lapsed leases are taken back.
    reclaim: bool,
    /// Holding and withdrawing wait for a batch under way.
    locks: bool,
}

const AS_IT_IS: Protocol =
    Protocol { fence: true, ask_again: true, ask_holds: true, ask_lease: true, look: true, mark: true, reclaim: true, locks: true };

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct Job {
    at: u8,
    fence: u8,
    /// Running until then; scheduled without.
    lease: Option<u8>,
    began: bool,
    /// Who claimed it last: what the fence stands for, and no part of the protocol.
    owner: usize,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, PartialOrd, Ord)]
enum Worker {
    Idle,
    Claimed {
        fence: u8,
    },
    /// In the transaction: what it has deleted is gone when it commits.
    Batch {
        fence: u8,
        step: u8,
        gone: [u8; 2],
        empty: bool,
    },
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct State {
    now: u8,
    /// Since when the starting point stands.
    point: Option<u8>,
    held: bool,
    /// By target.
    records: [u8; 2],
    job: Option<Job>,
    done: Option<u8>,
    /// Grows with each claim and each change of plan. One number for every job stands for their ids as well.
    fence: u8,
    workers: [Worker; WORKERS],
    crashes: u8,
    written: bool,
    /// The property that was broken on the way here.
    broken: Option<&'static str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Action {
    Tick,
    Terminate,
    Withdraw,
    Hold,
    Release,
    Write,
    Plan,
    Reclaim,
    Claim(usize),
    Step(usize),
    Crash(usize),
}

impl State {
    fn in_batch(&self) -> bool {
        self.workers.iter().any(|w| matches!(w, Worker::Batch { .. }))
    }

    /// Fences are compared with the job's and with nothing else, and it does not matter which worker is which: fewer states say the same.
    fn simplified(mut self) -> Self {
        let current = self.job.as_ref().map(|job| job.fence);
        for worker in &mut self.workers {
            if let Worker::Claimed { fence } | Worker::Batch { fence, .. } = worker {
                *fence = u8::from(current == Some(*fence));
            }
        }
        self.fence = 1;
        if self.workers[0] > self.workers[1] {
            self.workers.swap(0, 1);
            if let Some(job) = &mut self.job
                && job.owner < WORKERS
            {
                job.owner = 1 - job.owner;
            }
        }
        if let Some(job) = &mut self.job {
            job.fence = 1;
        }
        self
    }

    fn break_if(&mut self, is: bool, what: &'static str) {
        if is && self.broken.is_none() {
            self.broken = Some(what);
        }
    }
}

impl Protocol {
    /// What stands is compared with what is scheduled. A job in a batch is skipped.
    fn plan(&self, s: &mut State) {
        match (s.point, &mut s.job) {
            (None, _) => (s.job, s.done) = (None, None),
            (Some(at), None) if s.done != Some(at) || !self.mark => {
                s.fence += 1;
                s.job = Some(Job { at, fence: s.fence, lease: None, began: false, owner: WORKERS });
            }
            (Some(at), Some(job)) if job.at != at && job.began => s.job = None,
            (Some(at), Some(job)) if job.at != at => {
                s.fence += 1;
                *job = Job { at, fence: s.fence, lease: None, began: false, owner: WORKERS };
            }
            _ => {}
        }
    }

    /// The batch begins: the job is ours, and it stands, is due, and nobody holds it. Or else it is given back.
    fn license(&self, s: &mut State, worker: usize, fence: u8) {
        s.workers[worker] = Worker::Idle;
        let (now, point, held) = (s.now, s.point, s.held);
        let Some(job) = &mut s.job else { return };
        let Some(lease) = job.lease else { return };
        if (self.fence && job.fence != fence) || (self.ask_lease && lease <= now) {
            return;
        }
        if (self.ask_again && (point != Some(job.at) || job.at + PERIOD > now)) || (self.ask_holds && held) {
            job.lease = None;
            return;
        }
        s.workers[worker] = Worker::Batch { fence, step: 0, gone: [0, 0], empty: false };
        s.break_if(lease <= now, LEASED);
    }

    fn commit(&self, s: &mut State, worker: usize, gone: [u8; 2], empty: bool) {
        s.workers[worker] = Worker::Idle;
        let deleted = gone != [0, 0];
        s.break_if(deleted && s.point.is_none(), REACTIVATED);
        s.break_if(deleted && s.point.is_some_and(|at| at + PERIOD > s.now), EARLY);
        s.break_if(deleted && s.held, HELD);
        for (records, gone) in s.records.iter_mut().zip(gone) {
            *records -= gone;
        }
        let Some(mut job) = s.job.take() else { return };
        s.break_if(job.owner != worker, OWNER);
        let complete = if self.look { empty } else { gone[0] + gone[1] < BUDGET };
        if complete {
            s.break_if(!empty, EMPTY);
            s.break_if(s.done == Some(job.at), ONCE);
            s.done = Some(job.at);
        } else {
            (job.lease, job.began) = (None, true);
            s.job = Some(job);
        }
    }

    fn step(&self, s: &mut State, worker: usize) {
        match s.workers[worker].clone() {
            Worker::Idle => {}
            Worker::Claimed { fence } => self.license(s, worker, fence),
            Worker::Batch { fence, step, mut gone, mut empty } => {
                match step {
                    0 => gone[0] = s.records[0].min(BUDGET),
                    1 => gone[1] = s.records[1].min(BUDGET - gone[0]),
                    2 => empty = s.records == gone,
                    _ => return self.commit(s, worker, gone, empty),
                }
                s.workers[worker] = Worker::Batch { fence, step: step + 1, gone, empty };
            }
        }
    }

    /// Nobody touches it any more, and nobody dies: every worker goes on in turn, and time passes.
    fn recovers(&self, from: &State) -> bool {
        let mut s = from.clone();
        let go = |s: &mut State, action: Action| {
            if self.may(s, &action) {
                *s = self.after(s, &action);
            }
        };
        while s.now < END {
            go(&mut s, Action::Release);
            go(&mut s, Action::Reclaim);
            for _ in 0..2 {
                go(&mut s, Action::Plan);
            }
            go(&mut s, Action::Claim(0));
            for worker in 0..WORKERS {
                for _ in 0..5 {
                    go(&mut s, Action::Step(worker));
                }
            }
            go(&mut s, Action::Tick);
        }
        s.point.is_none() || s.done == s.point
    }

    fn may(&self, s: &State, action: &Action) -> bool {
        let free = !s.in_batch();
        let people = s.now <= LAST_ACT && (free || !self.locks);
        match action {
            Action::Tick => s.now < END,
            Action::Terminate => people && s.point.is_none(),
            Action::Withdraw => people && s.point.is_some(),
            Action::Hold => people && !s.held,
            Action::Release => s.held,
            Action::Write => s.now <= LAST_ACT && !s.written,
            Action::Plan => free,
            Action::Reclaim => self.reclaim && free && s.job.as_ref().and_then(|job| job.lease).is_some_and(|lease| lease <= s.now),
            Action::Claim(worker) => {
                let ready = |job: &Job| job.lease.is_none() && job.at + PERIOD <= s.now;
                s.workers[*worker] == Worker::Idle && !s.held && s.job.as_ref().is_some_and(ready)
            }
            // Who comes second waits for the rows of who came first.
            Action::Step(worker) => match s.workers[*worker] {
                Worker::Idle => false,
                Worker::Claimed { .. } => free,
                Worker::Batch { .. } => true,
            },
            Action::Crash(worker) => s.crashes < 2 && s.workers[*worker] != Worker::Idle,
        }
    }

    fn after(&self, s: &State, action: &Action) -> State {
        let mut s = s.clone();
        match *action {
            Action::Tick => s.now += 1,
            Action::Terminate => s.point = Some(s.now),
            Action::Withdraw => s.point = None,
            Action::Hold => s.held = true,
            Action::Release => s.held = false,
            Action::Write => (s.records[0], s.written) = (s.records[0] + 1, true),
            Action::Plan => self.plan(&mut s),
            Action::Reclaim => {
                if let Some(job) = &mut s.job {
                    s.fence += 1;
                    (job.lease, job.fence, job.owner) = (None, s.fence, WORKERS);
                }
            }
            Action::Claim(worker) => {
                if let Some(job) = &mut s.job {
                    s.fence += 1;
                    (job.lease, job.fence, job.owner) = (Some(s.now + LEASE), s.fence, worker);
                    s.workers[worker] = Worker::Claimed { fence: job.fence };
                }
            }
            Action::Step(worker) => self.step(&mut s, worker),
            Action::Crash(worker) => (s.workers[worker], s.crashes) = (Worker::Idle, s.crashes + 1),
        }
        s.simplified()
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let workers = [Worker::Idle, Worker::Idle];
        let (records, crashes) = ([2, 1], 0);
        vec![State {
            now: 0,
            point: Some(0),
            held: false,
            records,
            job: None,
            done: None,
            fence: 0,
            workers,
            crashes,
            written: false,
            broken: None,
        }]
    }

    fn actions(&self, s: &State, actions: &mut Vec<Action>) {
        let people = [Action::Terminate, Action::Withdraw, Action::Hold, Action::Release, Action::Write];
        let of_worker = |worker| [Action::Claim(worker), Action::Step(worker), Action::Crash(worker)];
        let all = people.into_iter().chain([Action::Tick, Action::Plan, Action::Reclaim]).chain((0..WORKERS).flat_map(of_worker));
        actions.extend(all.filter(|action| (s.now < HORIZON || *action != Action::Tick) && self.may(s, action)));
    }

    fn next_state(&self, s: &State, action: Action) -> Option<State> {
        let after = self.after(s, &action);
        (after != *s).then_some(after)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        fn unbroken(what: &'static str) -> Property<Protocol> {
            // A function and no closure, so the word cannot be captured; each is written out.
            match what {
                EARLY => Property::always(EARLY, |_, s: &State| s.broken != Some(EARLY)),
                REACTIVATED => Property::always(REACTIVATED, |_, s: &State| s.broken != Some(REACTIVATED)),
                HELD => Property::always(HELD, |_, s: &State| s.broken != Some(HELD)),
                EMPTY => Property::always(EMPTY, |_, s: &State| s.broken != Some(EMPTY)),
                ONCE => Property::always(ONCE, |_, s: &State| s.broken != Some(ONCE)),
                OWNER => Property::always(OWNER, |_, s: &State| s.broken != Some(OWNER)),
                _ => Property::always(LEASED, |_, s: &State| s.broken != Some(LEASED)),
            }
        }
        let mut properties: Vec<_> = [EARLY, REACTIVATED, HELD, EMPTY, ONCE, OWNER, LEASED].map(unbroken).into();
        properties.push(Property::always(RECOVERS, |protocol: &Protocol, s: &State| s.now != LAST_ACT + 1 || protocol.recovers(s)));
        properties.push(Property::sometimes("completed after a crash", |_, s: &State| s.done.is_some() && s.crashes > 0));
        properties.push(Property::sometimes("withdrawn in the middle", |_, s: &State| {
            s.point.is_none() && s.records == [0, 1] && s.job.as_ref().is_some_and(|job| job.began)
        }));
        properties.push(Property::sometimes("held in the middle", |_, s: &State| s.held && s.job.as_ref().is_some_and(|job| job.began)));
        properties
    }
}

#[test]
fn i8_the_protocol_keeps_every_property_in_every_state() {
    let checker = AS_IT_IS.checker().threads(2).spawn_bfs().join();
    println!("{} states", checker.unique_state_count());
    checker.assert_properties();
}

#[test]
fn each_rule_that_is_left_out_is_missed_by_a_property() {
    for (left_out, protocol, caught) in [
        ("the fence", Protocol { fence: false, ..AS_IT_IS }, &[OWNER][..]),
        ("asking again", Protocol { ask_again: false, ..AS_IT_IS }, &[REACTIVATED, EARLY]),
        ("the locks", Protocol { locks: false, ..AS_IT_IS }, &[REACTIVATED, EARLY, HELD]),
        ("asking for holds", Protocol { ask_holds: false, ..AS_IT_IS }, &[HELD]),
        ("asking for the lease", Protocol { ask_lease: false, ..AS_IT_IS }, &[LEASED]),
        ("the look", Protocol { look: false, ..AS_IT_IS }, &[EMPTY]),
        ("the mark", Protocol { mark: false, ..AS_IT_IS }, &[ONCE]),
        ("taking back", Protocol { reclaim: false, ..AS_IT_IS }, &[RECOVERS]),
    ] {
        for property in caught {
            let checker =
                protocol.clone().checker().threads(2).finish_when(stateright::HasDiscoveries::AllOf([*property].into())).spawn_bfs().join();
            assert!(checker.discovery(property).is_some(), "without {left_out}, \"{property}\" still holds");
            println!("without {left_out}: {property}: {} states", checker.unique_state_count());
        }
    }
}
