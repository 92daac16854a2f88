//! The promise, restated: what stands, what is scheduled, what is deleted. It shares no code with the daemon and knows no database.

use std::collections::BTreeMap;

pub(super) const ACCOUNTS: usize = 4;
pub(super) const DAY: i64 = 86_400;
/// A second full comparison confirms what the first has missed, from this many seconds later on.
const CONFIRMED_AFTER: i64 = 3_600;
/// What one pass does, in this order; a crash leaves it done up to some point.
pub(super) const STAGES: usize = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Point {
    Deleted,
    Terminated,
    CmqDisabled,
    /// Somebody asked for it, whatever the source says.
    Request,
}

pub(super) const POINTS: [Point; 3] = [Point::Deleted, Point::Terminated, Point::CmqDisabled];

impl Point {
    /// The row it is a column of: the account (0) or its subscription (1).
    pub(super) fn row(self) -> usize {
        usize::from(self != Self::Deleted)
    }

    /// Configuration is class 0, the queue class 1.
    fn counts(self, class: usize) -> bool {
        class == 1 || self != Self::CmqDisabled
    }
}

/// A row of the source, and what full comparisons noticed of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "four facts, each by itself")]
pub(super) struct Row {
    pub(super) there: bool,
    pub(super) points: BTreeMap<Point, i64>,
    /// Somebody else's transaction has it.
    pub(super) locked: bool,
    /// The last full comparison saw it.
    seen: bool,
    first_missed: Option<i64>,
    confirmed: bool,
}

/// Somebody asks that records be deleted early: since when, and for which of the classes that has not been done yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) at: i64,
    pub(super) open: [bool; 2],
}

/// What a purge is for. Of several points since the same instant each would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Purge {
    pub(super) at: i64,
    pub(super) point: Point,
    pub(super) ties: Vec<Point>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Class {
    pub(super) job: Option<Purge>,
    pub(super) done: Option<Purge>,
    residue: bool,
    /// Something that was asked for has been carried out.
    fulfilled: bool,
    /// Records in each place of the class.
    pub(super) records: i64,
    /// What each completed job deleted in each place.
    pub(super) deleted: Vec<i64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) rows: [Row; 2],
    pub(super) classes: [Class; 2],
    /// Each covers one class, or all.
    pub(super) holds: Vec<Option<usize>>,
    /// Those that were not withdrawn.
    pub(super) requests: Vec<Request>,
    pub(super) media: i64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Model {
    pub(super) now: i64,
    pub(super) paused: bool,
    pub(super) guarded: bool,
    pub(super) looking: bool,
    pub(super) accounts: Vec<Account>,
}

/// How long a class is kept.
fn period(class: usize) -> i64 {
    if class == 1 { 7 * DAY } else { 30 * DAY }
}

impl Account {
    /// What is to be done: what a request asks for, unless a purge that is still to be done was due when it came and waits for no row.
    fn stands(&self, class: usize) -> Option<Purge> {
        let (point, job) = (self.earliest(class), &self.classes[class].job);
        let asked: Vec<i64> = self.requests.iter().filter(|request| request.open[class]).map(|request| request.at).collect();
        let its_own = job.as_ref().filter(|job| job.point == Point::Request && asked.contains(&job.at)).map(|job| job.at);
        let Some(at) = its_own.or(asked.into_iter().min()) else { return point };
        let sure = |purge: &Purge| purge.ties.iter().any(|point| self.rows[point.row()].there || self.rows[point.row()].confirmed);
        let due = |purge: &Purge| purge.at + period(class) <= at && sure(purge) && !self.carried_out(class, purge);
        point.filter(due).or(Some(Purge { at, point: Point::Request, ties: vec![Point::Request] }))
    }

    fn carried_out(&self, class: usize, purge: &Purge) -> bool {
        let Class { done, residue, .. } = &self.classes[class];
        purge.point != Point::Request && done.as_ref().is_some_and(|done| done.at == purge.at) && !residue
    }

    /// The earliest point that stands. A row that is there says so itself. Of one that is not, what was scheduled or carried out goes on
    /// standing; once it was missed twice, everything in it counts since it was first missed.
    fn earliest(&self, class: usize) -> Option<Purge> {
        let Class { job, done, .. } = &self.classes[class];
        let since = |point: Point| {
            let row = &self.rows[point.row()];
            let remembered = || job.iter().chain(done).find(|purge| purge.point == point).map(|purge| purge.at);
            if row.there { row.points.get(&point).copied() } else { remembered().or(row.first_missed.filter(|_| row.confirmed)) }
        };
        let standing: Vec<(i64, Point)> = POINTS.into_iter().filter(|p| p.counts(class)).filter_map(|p| Some((since(p)?, p))).collect();
        let at = standing.iter().map(|(at, _)| *at).min()?;
        let ties: Vec<Point> = standing.into_iter().filter(|(other, _)| *other == at).map(|(_, point)| point).collect();
        Some(Purge { at, point: ties[0], ties })
    }

    fn held(&self, class: usize) -> bool {
        self.holds.iter().any(|hold| hold.is_none_or(|only| only == class))
    }
}

impl Model {
    pub(super) fn new() -> Self {
        let row = Row { there: true, ..Row::default() };
        let class = Class { records: 1, ..Class::default() };
        let account =
            Account { rows: [row.clone(), row], classes: [class.clone(), class], holds: Vec::new(), requests: Vec::new(), media: 1 };
        Self { accounts: vec![account; ACCOUNTS], ..Self::default() }
    }

    pub(super) fn stage(&mut self, stage: usize) {
        match (stage / 2, stage % 2) {
            (0, class) => self.look(class),
            (1, row) => self.miss(row),
            (2, class) => self.settle(class, |_| true),
            (3, class) => self.purge(class),
            // A last short look: what stands where a request has been carried out before it.
            (_, class) => self.settle(class, |account| account.classes[class].fulfilled),
        }
    }

    /// Looks again at what was purged: what came back opens the class again.
    fn look(&mut self, class: usize) {
        let looking = self.looking;
        for class in self.accounts.iter_mut().map(|a| &mut a.classes[class]).filter(|_| looking) {
            class.residue = class.done.is_some() && class.records > 0;
        }
    }

    /// A full comparison: who was there and is not any more.
    fn miss(&mut self, row: usize) {
        self.now += 1;
        for row in self.accounts.iter_mut().map(|a| &mut a.rows[row]) {
            if row.there {
                (row.first_missed, row.confirmed) = (None, false);
            } else if row.seen {
                row.first_missed = row.first_missed.or(Some(self.now));
            }
            row.seen = row.there;
            row.confirmed |= row.first_missed.is_some_and(|first| first + CONFIRMED_AFTER <= self.now);
        }
    }

    /// What stands has its job, and what does not has none.
    fn settle(&mut self, class: usize, seen: impl Fn(&Account) -> bool) {
        for account in self.accounts.iter_mut().filter(|account| seen(account)) {
            let stands = account.stands(class);
            let done = stands.as_ref().is_some_and(|stands| account.carried_out(class, stands));
            let says_so = |purge: &Purge| account.rows[purge.point.row()].points.get(&purge.point) == Some(&purge.at);
            let its_own = |purge: &Purge| purge.point != Point::Request && account.rows[purge.point.row()].there && says_so(purge);
            let of = &mut account.classes[class];
            of.job = match (stands, of.job.take()) {
                (Some(stands), Some(job)) if stands.point != Point::Request && job.at == stands.at && its_own(&job) => {
                    Some(Purge { ties: stands.ties, ..job })
                }
                (Some(_), None) if done => None,
                (Some(_), Some(job)) if done && job.point == Point::Request => None,
                (stands, _) => stands,
            };
            if of.job.is_none() && account.stands(class).is_none() {
                let of = &mut account.classes[class];
                (of.done, of.residue) = (None, false);
            }
        }
    }

    /// What stands between a job that is due and its purge.
    fn stopped(&self, account: &Account, class: usize) -> bool {
        self.paused || account.held(class)
    }

    fn due(&self, account: &Account, class: usize) -> bool {
        let waits = |job: &Purge| if job.point == Point::Request { 0 } else { period(class) };
        account.classes[class].job.as_ref().is_some_and(|job| job.at + waits(job) <= self.now)
    }

    fn purge(&mut self, class: usize) {
        for i in 0..self.accounts.len() {
            let account = &self.accounts[i];
            let job = account.classes[class].job.as_ref();
            let on_request = job.is_some_and(|job| job.point == Point::Request);
            let row = job.map(|job| &account.rows[job.point.row()]);
            let sure = on_request || row.is_some_and(|row| if row.there { !row.locked } else { row.confirmed });
            if self.due(account, class) && sure && !self.guarded && !self.stopped(account, class) {
                // Whatever it was for, nothing is left of what was asked for.
                let asked = self.accounts[i].requests.iter_mut().map(|request| std::mem::take(&mut request.open[class]));
                let fulfilled = asked.fold(false, |one, other| one | other);
                let of = &mut self.accounts[i].classes[class];
                of.fulfilled |= fulfilled;
                match of.job.take() {
                    Some(job) if job.point == Point::Request => {}
                    job => (of.done, of.residue) = (job, false),
                }
                of.deleted.push(std::mem::take(&mut of.records));
            }
        }
    }

    /// What `run --once` ends with: something due remains that nobody holds or paused.
    pub(super) fn exit_code(&self) -> u8 {
        let waits = |a: &Account| (0..2).any(|class| self.due(a, class) && !self.stopped(a, class));
        match self.accounts.iter().any(waits) {
            false => 0,
            true if self.guarded => 13,
            true => 1,
        }
    }

    /// Every instant of the world moves into the past.
    pub(super) fn wait(&mut self, seconds: i64) {
        for account in &mut self.accounts {
            for row in &mut account.rows {
                row.points.values_mut().chain(&mut row.first_missed).for_each(|at| *at -= seconds);
            }
            account.requests.iter_mut().for_each(|request| request.at -= seconds);
            for class in &mut account.classes {
                class.job.iter_mut().chain(&mut class.done).for_each(|purge| purge.at -= seconds);
            }
        }
    }
}
