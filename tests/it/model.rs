//! Long random histories, told to the daemon and to a model of a few dozen lines, and compared record by record after each pass.
//!
//! The model (`model/promise.rs`) restates the promise in its own words. Time passes by moving every instant of the world into the past,
//! which is the same to a program that only ever compares with the database's clock. A pass that crashes leaves the world somewhere on its
//! way, so the model keeps every world it may have left, until what is found tells which it was.
//! `PROPTEST_CASES=10000` runs more histories; a failure shrinks and prints its history.

mod promise;
mod told;

use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner},
};

use promise::{ACCOUNTS, DAY, Model, POINTS, Point, Request, STAGES};
use told::Told;

/// Instants are offsets in days from the start of a history; these are far enough from every boundary that its length does not matter.
const AGES: [i64; 7] = [-3, 1, 6, 8, 29, 31, 400];
/// More steps than most passes take.
const STEPS: u16 = 400;

#[derive(Debug, Clone)]
enum Act {
    /// A starting point is set, so many days before now, or withdrawn.
    Set(usize, Point, Option<i64>),
    /// The same in a transaction that stays open, with its row locked, until it is committed or rolled back.
    SetLate(usize, Point, Option<i64>),
    Commit(bool),
    /// The account's row is hard-deleted and its subscription's with it, or that alone.
    Vanish(usize, usize),
    /// Such a row is inserted again, with a starting point or without.
    ComeBack(usize, usize, Option<(bool, i64)>),
    /// The customer's programs write a record into each place.
    Write(usize),
    /// A hold on the account, or on one of its classes.
    Hold(usize, Option<usize>),
    /// Every hold of the account is released.
    Release(usize),
    /// Somebody asks that the account's records be deleted early, all or those of one class.
    Request(usize, Option<usize>),
    /// Whatever was asked for the account is withdrawn.
    Withdraw(usize),
    Pause(bool),
    /// The guard trips, or is released.
    Guard(bool),
    /// Days pass.
    Wait(i64),
    /// The next look at everything purged comes with the next pass.
    Look,
    /// The daemon runs and is killed after so many steps.
    Crash(u16),
    /// The daemon runs: one full comparison, then everything that is due.
    Pass,
}

fn act() -> impl Strategy<Value = Act> {
    let account = || 0..ACCOUNTS;
    let point = || proptest::sample::select(&POINTS[..]);
    let age = || proptest::sample::select(&AGES[..]);
    let set = || prop_oneof![2 => age().prop_map(Some), 1 => Just(None)];
    prop_oneof![
        6 => (account(), point(), set()).prop_map(|(a, p, age)| Act::Set(a, p, age)),
        2 => (account(), point(), set()).prop_map(|(a, p, age)| Act::SetLate(a, p, age)),
        2 => any::<bool>().prop_map(Act::Commit),
        2 => (account(), 0..2_usize).prop_map(|(a, row)| Act::Vanish(a, row)),
        2 => (account(), 0..2_usize, proptest::option::of((any::<bool>(), age()))).prop_map(|(a, row, set)| Act::ComeBack(a, row, set)),
        2 => account().prop_map(Act::Write),
        1 => (account(), proptest::option::of(0..2_usize)).prop_map(|(a, class)| Act::Hold(a, class)),
        1 => account().prop_map(Act::Release),
        2 => (account(), proptest::option::of(0..2_usize)).prop_map(|(a, class)| Act::Request(a, class)),
        1 => account().prop_map(Act::Withdraw),
        1 => Just(Act::Pause(true)),
        2 => Just(Act::Pause(false)),
        1 => Just(Act::Guard(true)),
        2 => Just(Act::Guard(false)),
        3 => proptest::sample::select(&[2, 5, 25][..]).prop_map(Act::Wait),
        1 => Just(Act::Look),
        2 => (0..STEPS).prop_map(Act::Crash),
        5 => Just(Act::Pass),
    ]
}

/// A history under way: the database, every world it may be, and the change that has not been committed.
struct History<'t> {
    told: &'t mut Told,
    worlds: Vec<Model>,
    late: Option<(usize, Point, Option<i64>)>,
}

impl History<'_> {
    fn each(&mut self, change: impl Fn(&mut Model)) {
        self.worlds.iter_mut().for_each(change);
    }

    /// The row as every world has it; what is open elsewhere cannot be changed here.
    fn there(&self, account: usize, row: usize) -> bool {
        self.worlds[0].accounts[account].rows[row].there
    }

    fn free(&self, account: usize) -> bool {
        self.late.is_none_or(|(locked, ..)| locked != account)
    }

    fn change(&mut self, account: usize, point: Point, at: Option<i64>) {
        self.each(|model| {
            let points = &mut model.accounts[account].rows[point.row()].points;
            match at {
                Some(at) => points.insert(point, at),
                None => points.remove(&point),
            };
        });
    }

    async fn act(&mut self, act: &Act) -> Result<(), TestCaseError> {
        match *act {
            Act::Set(account, point, age) if self.free(account) && self.there(account, point.row()) => {
                self.told.set(account, point, age).await;
                self.change(account, point, age.map(|age| -age * DAY));
            }
            Act::SetLate(account, point, age) if self.late.is_none() && self.there(account, point.row()) => {
                self.told.set_late(account, point, age).await;
                self.late = Some((account, point, age.map(|age| -age * DAY)));
                self.each(|model| model.accounts[account].rows[point.row()].locked = true);
            }
            Act::Commit(keep) => {
                self.told.commit(keep).await;
                let Some((account, point, at)) = self.late.take() else { return Ok(()) };
                self.each(|model| model.accounts[account].rows[point.row()].locked = false);
                if keep {
                    self.change(account, point, at);
                }
            }
            Act::Vanish(account, row) if self.free(account) => {
                self.told.vanish(account, row).await;
                self.each(|model| {
                    for row in &mut model.accounts[account].rows[row..] {
                        row.there = false;
                        row.points.clear();
                    }
                });
            }
            Act::ComeBack(account, row, set) if self.free(account) && !self.there(account, row) && (row == 0 || self.there(account, 0)) => {
                let point = |cmq| POINTS[row + usize::from(cmq && row == 1)];
                let set = set.map(|(cmq, age)| (point(cmq), age));
                self.told.come_back(account, row, set).await;
                self.each(|model| model.accounts[account].rows[row].there = true);
                if let Some((point, age)) = set {
                    self.change(account, point, Some(-age * DAY));
                }
            }
            Act::Write(account) => {
                self.told.write(account).await;
                self.each(|model| {
                    let account = &mut model.accounts[account];
                    account.classes.iter_mut().for_each(|class| class.records += 1);
                    account.media += 1;
                });
            }
            Act::Hold(account, class) => {
                self.told.hold(account, class).await;
                self.each(|model| model.accounts[account].holds.push(class));
            }
            Act::Release(account) => {
                self.told.release(account).await;
                self.each(|model| model.accounts[account].holds.clear());
            }
            Act::Request(account, class) => {
                self.told.request(account, class).await;
                let open = [0, 1].map(|of| class.is_none_or(|only| only == of));
                self.each(|model| {
                    let at = model.now;
                    model.accounts[account].requests.push(Request { at, open });
                });
            }
            Act::Withdraw(account) => {
                self.told.withdraw(account).await;
                self.each(|model| model.accounts[account].requests.clear());
            }
            Act::Pause(paused) => {
                self.told.pause(paused).await;
                self.each(|model| model.paused = paused);
            }
            Act::Guard(tripped) => {
                self.told.guard(tripped).await;
                self.each(|model| model.guarded = tripped);
            }
            Act::Wait(days) => {
                self.told.wait(days).await;
                self.each(|model| model.wait(days * DAY));
                self.late = self.late.map(|(account, point, at)| (account, point, at.map(|at| at - days * DAY)));
            }
            Act::Look => self.each(|model| model.looking = true),
            Act::Crash(steps) => {
                self.told.crash(self.worlds[0].looking, steps).await;
                self.compare(0..=STAGES).await?;
            }
            Act::Pass => {
                let code = self.told.pass(self.worlds[0].looking).await;
                self.compare(STAGES..=STAGES).await?;
                if let Some(code) = code {
                    prop_assert_eq!(self.worlds[0].exit_code(), code, "exit code: {:?}", self.worlds);
                }
            }
            // What cannot happen does not.
            Act::Set(..) | Act::SetLate(..) | Act::Vanish(..) | Act::ComeBack(..) => {}
        }
        Ok(())
    }

    /// Keeps the worlds that agree with what is found, after so many stages of a pass.
    async fn compare(&mut self, stages: std::ops::RangeInclusive<usize>) -> Result<(), TestCaseError> {
        let found = self.told.found().await;
        let (mut agree, mut otherwise) = (Vec::new(), Vec::new());
        for mut world in self.worlds.clone() {
            for stage in 0..=STAGES {
                if stages.contains(&stage) {
                    let mut world = Model { looking: false, ..world.clone() };
                    match found.against(&mut world) {
                        Ok(()) if !agree.contains(&world) => agree.push(world),
                        Ok(()) => {}
                        Err(why) => otherwise.push(format!("after stage {stage}: {why}")),
                    }
                }
                if stage < STAGES {
                    world.stage(stage);
                }
            }
        }
        prop_assert!(!agree.is_empty(), "{}\nbefore: {:?}", otherwise.join("\n"), self.worlds);
        self.worlds = agree;
        Ok(())
    }
}

/// Histories that every run of the tests takes, always the same ones.
const FEW: u32 = 24;
/// Databases that take turns; more of them than cores, for each waits for the other side most of the time.
const DATABASES: u32 = 3;
/// The same when there is much to do.
const MANY_DATABASES: u32 = 6;

/// Few by default, so that every run of the tests takes them; `PROPTEST_CASES` asks for more.
fn cases() -> u32 {
    std::env::vars().find(|(name, _)| name == "PROPTEST_CASES").and_then(|(_, n)| n.parse().ok()).unwrap_or(FEW)
}

#[expect(clippy::await_holding_refcell_ref, reason = "one history at a time; the runner wants a closure that can be called again")]
fn histories(database: u32, cases: u32, random: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut told = runtime.block_on(Told::new());
    let told = std::cell::RefCell::new(&mut told);
    let config = Config { failure_persistence: None, max_shrink_iters: 2_000, cases, ..Config::default() };
    let seed = [u8::try_from(database).unwrap(); 32];
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = if random { TestRunner::new(config) } else { TestRunner::new_with_rng(config, rng) };
    let ran = runner.run(&proptest::collection::vec(act(), 1..40), |history| {
        runtime.block_on(async {
            let told = &mut **told.borrow_mut();
            told.start_over().await;
            let mut under_way = History { told, worlds: vec![Model::new()], late: None };
            for act in history.iter().chain([&Act::Commit(true), &Act::Pass]) {
                under_way.act(act).await?;
            }
            Ok(())
        })
    });
    if let Err(failed) = ran {
        panic!("{failed}");
    }
}

#[test]
fn the_daemon_and_the_model_agree_on_every_history() {
    let cases = cases();
    let databases = if cases > FEW { MANY_DATABASES } else { DATABASES };
    std::thread::scope(|scope| {
        for database in 0..databases {
            scope.spawn(move || histories(database, cases.div_ceil(databases), cases > FEW));
        }
    });
}
