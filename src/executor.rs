//! The pass that purges: it claims due jobs of one data class as a group, purges them in one bounded transaction, and records what came of it.
//!
//! Every predicate is asked again inside that transaction (`executor/batch.rs`); what the planner wrote is never trusted. Each step is bounded,
//! so that a stop, a hold or a neighbour waits for one batch at most.

mod account;
mod away;
pub mod batch;
mod cursor;
mod pace;
mod patience;
mod tell;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{Mutex, OnceCell};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::{self, Clock},
    config::Config,
    crash,
    database::{Database, DatabaseError, Kind, Purpose, Tx},
    jobs::{self, Claimed, Lane, Next, PATIENT_LOOKS, Progress},
    ledger::Seen,
    metrics,
    policy::{Class, Policy},
    pressure::Pressure,
    requests, safeguards, spans,
    stores::{Until, postgres::Target},
};

use account::{LOCKED, LOCKED_PAUSE, Purged, UNDELETABLE, account, pause};
use away::Away;
use batch::{Batch, Extent, Gone, Verdict};
use cursor::Cursor;
use pace::Pace;

/// Large accounts whose purge is remembered to have arrived somewhere.
const CURSORS: usize = 1_000;

/// What all workers share.
#[derive(Debug, Clone)]
pub struct Executor {
    database: Database,
    config: Arc<Config>,
    policy: Arc<Policy>,
    batches: Arc<Vec<Batch>>,
    clock: Arc<Clock>,
    /// The ledger as this process has seen it.
    seen: Seen,
    pressure: Pressure,
    /// While others are at work, whoever holds it may run a batch.
    turn: Arc<Mutex<()>>,
    /// What was due at the start of this process has been weighed.
    weighed: Arc<OnceCell<bool>>,
    /// How far large accounts have been purged, by job and target. To lose it costs a look at where that was.
    cursors: Arc<std::sync::Mutex<BTreeMap<(i64, String), Cursor>>>,
    /// Jobs completed by this process.
    completed: Arc<AtomicU64>,
}

impl Executor {
    /// An executor for this policy.
    #[must_use]
    pub fn new(database: Database, config: Arc<Config>, policy: Arc<Policy>, clock: Arc<Clock>, seen: Seen) -> Self {
        let batches = policy.classes.iter().map(|class| Batch::new(class, &policy)).collect();
        let pressure = Pressure::new(database.clone(), config.pressure.clone());
        Self {
            database,
            config,
            policy,
            batches: Arc::new(batches),
            clock,
            seen,
            pressure,
            turn: Arc::default(),
            weighed: Arc::default(),
            cursors: Arc::default(),
            completed: Arc::default(),
        }
    }

    /// A worker with a name of its own.
    #[must_use]
    pub fn worker(&self, name: String) -> Worker {
        let pace = Pace::new(self.config.executor.max_rows_per_batch);
        Worker {
            executor: self.clone(),
            name,
            stop: CancellationToken::new(),
            turn: 0,
            lanes: vec![Lane::Fresh; self.policy.classes.len()],
            pace,
            worked: false,
        }
    }

    /// Jobs completed by this process.
    #[must_use]
    pub fn completed(&self) -> u64 {
        self.completed.load(Ordering::Relaxed)
    }

    /// Whether a due job waits for a second look at a store or, if that counts, steps aside for somebody who holds its records, or is in a worker's hands:
    /// waiting may help.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn someone_waits(&self, locked: bool) -> Result<bool, DatabaseError> {
        let mut tx = self.database.begin(Purpose::Work).await?;
        jobs::stepping_aside(&mut tx, &self.classes(), locked).await
    }

    /// Says which jobs have become overdue, and which requests are fulfilled. Cheap; called between looks.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn tidy(&self) -> Result<(), DatabaseError> {
        let mut tx = self.database.begin(Purpose::Write).await?;
        let overdue = jobs::newly_overdue(&mut tx).await?;
        let fulfilled = requests::newly_fulfilled(&mut tx).await?;
        Database::commit(tx).await?;
        crash::point("executor.tidied");
        overdue.iter().for_each(tell::overdue);
        fulfilled.iter().for_each(tell::fulfilled);
        Ok(())
    }

    /// How long a worker may rest: until the next job is ready, and never longer than `at_most`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn rest(&self, at_most: Duration) -> Result<Duration, DatabaseError> {
        let mut tx = self.database.begin(Purpose::Work).await?;
        let next = jobs::next_ready(&mut tx, &self.classes()).await?;
        Ok(next.map_or(at_most, |next| next.min(at_most)))
    }

    fn classes(&self) -> Vec<jobs::Class> {
        self.policy.classes.iter().map(|c| c.jobs.clone()).collect()
    }

    /// Where the purge of a large account goes on, once.
    fn leave(&self, job: i64, target: &str) -> Option<Cursor> {
        self.cursors.lock().unwrap_or_else(PoisonError::into_inner).remove(&(job, target.to_owned()))
    }

    /// Where it has arrived, for the next batch.
    fn arrive(&self, at: Option<((i64, String), Cursor)>) {
        let mut cursors = self.cursors.lock().unwrap_or_else(PoisonError::into_inner);
        // Those whose jobs ended elsewhere are left over.
        if cursors.len() >= CURSORS {
            cursors.clear();
        }
        cursors.extend(at);
    }

    fn backoff(&self, attempts: i32) -> Duration {
        let doublings = u32::try_from(attempts.clamp(1, 20) - 1).unwrap_or(0);
        Duration::from_secs(1).saturating_mul(1 << doublings).min(self.config.executor.max_backoff)
    }
}

/// What one step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing can be claimed now.
    Idle,
    /// A group was claimed and dealt with.
    Worked,
}

/// One purging worker. It holds one connection while a batch runs and none between batches.
#[derive(Debug)]
pub struct Worker {
    executor: Executor,
    name: String,
    /// Once cancelled, nothing is claimed any more.
    stop: CancellationToken,
    /// The class that is asked first; moves on so that no class starves another.
    turn: usize,
    /// Whom the next claim in each class prefers: large accounts and all others take turns.
    lanes: Vec<Lane>,
    /// How much at once: follows how long batches take, how large accounts are, and how hard the database is pressed.
    pace: Pace,
    /// The last step did something.
    worked: bool,
}

impl Worker {
    /// The same worker, which claims nothing any more once `stop` is cancelled. What it has claimed by then it finishes.
    #[must_use]
    pub fn until(self, stop: CancellationToken) -> Self {
        Self { stop, ..self }
    }

    /// Claims and purges one group, or finds that there is none.
    ///
    /// # Errors
    /// Those of the database, when it is the connection that failed; what was claimed comes back when its lease lapses.
    pub async fn step(&mut self) -> Result<Step, DatabaseError> {
        let executor = self.executor.clone();
        let _turn = self.yield_to_the_platform(&executor).await;
        self.worked = false;
        // Limits may have been lowered since the accounts were let in that count now.
        executor.weighed.get_or_try_init(|| self.weigh_all(true)).await?;
        let classes = executor.policy.classes.len();
        for _ in 0..classes {
            let index = self.turn % classes;
            // Also when it fails: the others have their turn.
            self.turn = index + 1;
            let (Some(class), Some(batch), Some(&lane)) =
                (executor.policy.classes.get(index), executor.batches.get(index), self.lanes.get(index))
            else {
                continue;
            };
            let asked = if class.remote.is_empty() { self.pace.jobs() } else { self.pace.jobs().min(away::GROUP) };
            let claimed_at = Until::in_time(Duration::ZERO);
            // Boxed, as the purge is: whoever takes steps would carry it all.
            let mut claimed = Box::pin(spans::claim(class.named(), self.claim(class, lane, asked))).await?;
            // Somebody may wait to be weighed, also at the head of a long queue.
            let passed_over = claimed.first().is_none_or(|job| job.passed_over);
            if passed_over && self.weigh(class).await? && claimed.is_empty() {
                claimed = Box::pin(spans::claim(class.named(), self.claim(class, lane, asked))).await?;
            }
            if !claimed.is_empty() {
                self.lanes[index] = lane.other();
                self.worked = true;
                self.pace.claimed(claimed.iter().any(|job| job.pressing));
                let jobs = claimed.len();
                let purged = Box::pin(async {
                    if let Some((claimed, away)) = self.elsewhere(class, batch, claimed, claimed_at).await? {
                        self.purge(class, batch, claimed, &away).await?;
                    }
                    Ok(Step::Worked)
                });
                return spans::purge(class.named(), jobs, purged).await;
            }
        }
        Ok(Step::Idle)
    }

    async fn claim(&self, class: &Class, lane: Lane, at_most: i64) -> Result<Vec<Claimed>, DatabaseError> {
        let config = &self.executor.config;
        let mut tx = self.executor.database.begin(Purpose::Work).await?;
        // Asked as late as can be: connections may have been scarce.
        if self.stop.is_cancelled() {
            return Ok(Vec::new());
        }
        let claimed = jobs::claim(&mut tx, &class.jobs, lane, &self.name, config.executor.lease, config.guard.window, at_most).await?;
        if !claimed.is_empty() {
            crash::point("executor.claiming");
        }
        Database::commit(tx).await?;
        if !claimed.is_empty() {
            crash::point("executor.claimed");
        }
        let lapsed = claimed.iter().filter(|job| job.lapsed).count();
        if lapsed > 0 {
            tracing::warn!(event = "lease.lapsed", jobs = lapsed, "took over jobs whose worker gave no sign of life");
        }
        claimed.iter().filter(|job| !job.continued).for_each(|job| tell::started(class, job));
        Ok(claimed)
    }

    /// Purges a group; when the group as a whole fails, its halves, so that one bad job stops only itself.
    async fn purge(
        &mut self,
        class: &Class,
        batch: &Batch,
        mut group: Vec<Claimed>,
        away: &BTreeMap<i64, Away>,
    ) -> Result<(), DatabaseError> {
        // Whose worker gave no sign of life may have been the reason, and goes alone, after the others.
        let mut groups: Vec<(Vec<Claimed>, bool)> = group.extract_if(.., |job| job.lapsed).map(|job| (vec![job], false)).collect();
        groups.push((group, false));
        while let Some((mut group, contended)) = groups.pop() {
            let unnameable: Vec<Claimed> = group.extract_if(.., |job| class.cannot_hold(&job.account_id).is_some()).collect();
            for job in unnameable {
                let what = class.cannot_hold(&job.account_id).map_or_else(String::new, |(target, key)| {
                    format!("{} keys accounts by {}, which cannot hold this account id", target.name, key.sql())
                });
                self.fail(class, job, "account_id", what).await?;
            }
            if group.is_empty() {
                continue;
            }
            let jobs: Vec<i64> = group.iter().map(|job| job.id).collect();
            let done = spans::batch(class.named(), &jobs, Box::pin(self.batch(class, batch, &group, contended, away))).await;
            tell::undone(class, &done);
            match done {
                Ok(Outcome::Committed) => {}
                Ok(Outcome::Mistaken) => groups.push((group, false)),
                Ok(Outcome::Contended) if group.len() == 1 => groups.push((group, true)),
                Ok(Outcome::Contended) => {
                    let half = group.split_off(group.len() / 2);
                    groups.extend([(half, false), (group, false)]);
                }
                Err(error) if error.kind() == Kind::Unreachable => {
                    // The lease of this group tells that it was under way; the rest need not wait for that.
                    for (group, _) in groups {
                        self.give_back(class, group, Next::Crowded, None).await?;
                    }
                    return Err(error);
                }
                // A table lock, or somebody who is about to stop deletion: no fault of these jobs.
                Err(error) if error.kind() == Kind::Locked => {
                    self.pace.locked_out();
                    groups.push((group, contended));
                    for (group, _) in groups.drain(..) {
                        self.step_aside(class, group).await?;
                    }
                }
                Err(error) => {
                    // Fewer records per batch are another try.
                    let smaller = error.kind() == Kind::Timeout && self.pace.timed_out();
                    if group.len() > 1 {
                        let half = group.split_off(group.len() / 2);
                        groups.extend([(half, false), (group, false)]);
                    } else if smaller {
                        groups.push((group, contended));
                    } else if let Some(job) = group.pop() {
                        self.fail(class, job, error.kind().as_str(), error.to_string()).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// One transaction: lock, ask again, delete, look, record. Whoever holds records of a `contended` job is passed by.
    async fn batch(
        &mut self,
        class: &Class,
        batch: &Batch,
        group: &[Claimed],
        contended: bool,
        away: &BTreeMap<i64, Away>,
    ) -> Result<Outcome, DatabaseError> {
        let (began, before) = (Instant::now(), clock::reading());
        let mut tx = self.executor.database.begin(Purpose::Write).await?;
        let now = batch.enter(&mut tx, &self.executor.policy.pinned, &self.executor.seen).await?;
        if let Some(jump) = self.executor.clock.observe(before, now) {
            // What this transaction takes for now may be any time. The next one finds the guard in its way.
            drop(tx);
            return safeguards::clock_jumped(&self.executor.database, &self.executor.clock, jump).await;
        }
        crash::point("executor.entered");
        let verdicts = batch.license(&mut tx, group).await?;
        crash::point("executor.licensed");
        let licensed: Vec<&Claimed> = group.iter().filter(|j| verdicts.get(&j.id) == Some(&Verdict::Stands)).collect();
        let rows = self.pace.rows();
        let fit = if contended { None } else { self.fit(&mut tx, class, batch, &licensed, rows).await? };
        let whole = fit.is_some();
        let (fitting, crowded) = licensed.split_at(fit.unwrap_or(1).min(licensed.len()));
        let (mut budget, mut deleted) = (rows, 0);
        let mut purged: BTreeMap<i64, Purged<'_>> = BTreeMap::new();
        let (mut longest, mut cut, mut arrived, deleting) = (Duration::ZERO, false, None, Instant::now());
        for target in &class.targets {
            // Whole accounts have a time instead of a budget: so long everybody may wait for what the batch has deleted.
            cut = if whole { deleted > 0 && deleting.elapsed() > batch::WHOLE } else { budget == 0 };
            if fitting.is_empty() || cut {
                break;
            }
            let asked = Instant::now();
            let part = match self.delete(&mut tx, batch, target, fitting, (!contended).then_some(whole), budget).await {
                Err(error) if !contended && batch.free(&target.name) && hurried(error.kind(), group, whole, asked) => {
                    return Ok(Outcome::Contended);
                }
                part => part?,
            };
            longest = longest.max(asked.elapsed());
            for gone in part.gone {
                budget = (budget - gone.found).max(0);
                deleted += gone.records;
                let purged = purged.entry(gone.id).or_default();
                purged.found += gone.found;
                purged.records.insert(&target.name, gone.records);
            }
            if let Some(cursor) = part.cursor {
                budget = 0;
                arrived = fitting.first().map(|job| ((job.id, target.name.clone()), cursor));
            }
            crash::point("executor.deleted");
            if deleted > self.pace.most() {
                // Only accounts that were not counted can be so many at once.
                self.pace.mistaken();
                return Ok(Outcome::Mistaken);
            }
        }
        batch.unchanged(&mut tx, &self.executor.policy.pinned).await?;
        // A slice that came back full says enough: there may be more, and the next batch looks.
        let full = !whole && budget == 0 && deleted > 0;
        let left = batch.left(&mut tx, class, if full { &[] } else { fitting }).await?;
        crash::point("executor.looked");
        let mut progress = Vec::new();
        for job in group {
            // A job without a verdict is no longer ours: somebody took it back or gave it another plan.
            let Some(verdict) = verdicts.get(&job.id) else { continue };
            let mut purged = purged.remove(&job.id).unwrap_or_default();
            let (left, away) = (left.get(&job.id), away.get(&job.id));
            // Nobody held them, or the DELETE would have said so; and yet they did not go.
            purged.found += i64::from(whole && !cut && left.is_some_and(|left| left.iter().any(|target| batch.free(target))));
            let next = match verdict {
                Verdict::Stands if crowded.iter().any(|c| c.id == job.id) => Next::Crowded,
                Verdict::Stands if class.remote.is_empty() => self.judge(job, &purged, left, cut || budget == 0),
                Verdict::Stands => {
                    let next = self.judge(job, &purged, left, cut || budget == 0);
                    Away::together(away, next, self.executor.backoff(job.attempts), job.looks + 1 < PATIENT_LOOKS)
                }
                Verdict::Blocked(reason) => Next::Wait(reason, pause(reason, job.attempts)),
            };
            progress.push((job, account(class, job, next, &purged, left, away), purged));
        }
        let record: Vec<Progress> = progress.iter().map(|(_, p, _)| p.clone()).collect();
        let recorded = jobs::record(&mut tx, &class.jobs, &record).await?;
        if recorded.rows != record.len() {
            // Our rows are locked, so this cannot be; if it is, nothing of this batch may stand.
            return Err(batch::lost());
        }
        crash::point("executor.recorded");
        Database::commit(tx).await?;
        crash::point("executor.committed");
        spans::deleted(deleted);
        self.executor.arrive(arrived);
        let took = began.elapsed();

        // Of accounts that came whole; how large a single one is says nothing about the others.
        self.pace.committed((whole && !crowded.is_empty()).then_some(fitting.len()), longest, took);
        if whole {
            self.pace.purged(fitting.len(), deleted);
        }
        let from = |t: &&Target| progress.iter().any(|(.., p)| p.records.get(t.name.as_str()).is_some_and(|n| *n > 0));
        class.targets.iter().filter(from).for_each(|target| metrics::batch_took(&target.name, took));
        for (job, progress, purged) in &progress {
            for (target, records) in purged.records.iter().filter(|(_, records)| **records > 0) {
                tell::batch(class, job, target, *records, took);
                metrics::records_deleted(&class.jobs.feature, &class.jobs.name, target, *records);
            }
            tell::outcome(class, job, progress, left.get(&job.id).map(Vec::as_slice), recorded.last_copy_gone_at);
            if let (Next::Complete, Some(completed_at)) = (progress.next, recorded.completed_at) {
                self.executor.completed.fetch_add(1, Ordering::Relaxed);
                metrics::completed(&class.jobs.feature, &class.jobs.name, (completed_at - job.retain_until).as_seconds_f64());
            }
        }
        Ok(Outcome::Committed)
    }

    /// Deletes in one target: accounts `whole`, or of a single one what the budget allows; from where the last batch arrived, if one did. `None`: somebody
    /// holds records of it, and is passed by.
    async fn delete(
        &self,
        tx: &mut Tx,
        batch: &Batch,
        target: &Target,
        jobs: &[&Claimed],
        whole: Option<bool>,
        budget: i64,
    ) -> Result<Part, DatabaseError> {
        if whole == Some(true) && batch.free(&target.name) {
            return Ok(Part { gone: batch.delete(tx, target, jobs, Extent::Whole).await?, cursor: None });
        }
        let cursor = jobs.first().and_then(|job| self.executor.leave(job.id, &target.name));
        let stretch = cursor.filter(|_| whole.is_some()).and_then(|cursor| Some((cursor, cursor.stretch(budget)?)));
        if let Some((cursor, (from, to))) = stretch {
            let began = Instant::now();
            let gone = batch.delete(tx, target, jobs, Extent::Stretch(from, to)).await?;
            let records = gone.iter().map(|gone| gone.records).sum();
            if records > 0 {
                return Ok(Part { gone, cursor: Some(cursor.after_stretch((from, to), records, began.elapsed())) });
            }
        }
        let began = Instant::now();
        let gone = batch.delete(tx, target, jobs, Extent::Slice(budget)).await?;
        let full = gone.first().filter(|gone| gone.found == budget);
        let slice = |gone: &Gone| Some(Cursor::after_slice(cursor, gone.found, (gone.first_block?, gone.last_block?), began.elapsed()));
        let cursor = full.and_then(slice);
        Ok(Part { gone, cursor })
    }

    /// How many of the licensed jobs, from the first, this batch takes whole; `None` when the first has more records than that.
    async fn fit(
        &mut self,
        tx: &mut Tx,
        class: &Class,
        batch: &Batch,
        jobs: &[&Claimed],
        budget: i64,
    ) -> Result<Option<usize>, DatabaseError> {
        // What has begun in another store says nothing about its size here.
        if class.targets.is_empty() {
            return Ok(Some(jobs.len()));
        }
        if jobs.first().is_some_and(|job| job.begun) && class.remote.is_empty() {
            return Ok(None);
        }
        if let Some(n) = self.pace.trusts() {
            return Ok(Some(n));
        }
        let sizes = batch.measure(tx, class, jobs, budget).await?;
        self.pace.sized(&sizes);
        let fits = sizes.iter().scan(budget, |spare, size| {
            *spare -= size;
            (*spare >= 0).then_some(())
        });
        Ok(Some(fits.count()).filter(|n| *n > 0 || jobs.is_empty()))
    }

    /// What becomes of a job whose batch ran.
    fn judge(&self, job: &Claimed, purged: &Purged<'_>, left: Option<&Vec<String>>, budget_spent: bool) -> Next {
        let patient = job.looks + 1 < PATIENT_LOOKS;
        let backoff = self.executor.backoff(job.looks + 2 - PATIENT_LOOKS);
        match left {
            Some(left) if left.is_empty() => Next::Complete,
            _ if purged.records.values().any(|n| *n > 0) => Next::Continue,
            // They could be locked and yet are still there: a trigger or rule swallows the DELETE.
            Some(_) if purged.found > 0 => Next::Wait(UNDELETABLE, if patient { Duration::ZERO } else { backoff }),
            Some(_) if budget_spent => Next::Crowded,
            // Whoever holds them has a moment to let go.
            Some(_) => Next::Wait(LOCKED, if patient { LOCKED_PAUSE } else { backoff }),
            // No answer is not an empty one (I6).
            None => Next::Retry(LOCKED_PAUSE),
        }
    }

    /// Records a failed attempt; the job stays open and comes back after a pause (R45).
    async fn fail(&self, class: &Class, job: Claimed, reason: &'static str, error: String) -> Result<(), DatabaseError> {
        metrics::job_failed(&class.jobs.feature, &class.jobs.name, reason);
        let pause = self.executor.backoff(job.attempts);
        self.give_back(class, vec![job], Next::Retry(pause), Some(&error)).await
    }

    /// Gives jobs back for a moment, without blame.
    async fn step_aside(&self, class: &Class, group: Vec<Claimed>) -> Result<(), DatabaseError> {
        self.give_back(class, group, Next::Wait(LOCKED, LOCKED_PAUSE), None).await
    }

    /// Records what became of jobs for which no batch could be committed, in a transaction of its own.
    async fn give_back(&self, class: &Class, group: Vec<Claimed>, next: Next, error: Option<&str>) -> Result<(), DatabaseError> {
        for job in group {
            let progress = Progress {
                id: job.id,
                fence: job.fence,
                next,
                records_deleted: job.records_deleted.0.clone(),
                outcomes: BTreeMap::new(),
                began: false,
                looks: job.looks,
                error: error.map(str::to_owned),
                requests: Vec::new(),
            };
            let mut tx = self.executor.database.begin(Purpose::Write).await?;
            let ours = jobs::record(&mut tx, &class.jobs, std::slice::from_ref(&progress)).await?.rows == 1;
            crash::point("executor.giving_back");
            Database::commit(tx).await?;
            crash::point("executor.gave_back");
            // Of a job that somebody else has by now there is nothing to say.
            if ours {
                tell::outcome(class, &job, &progress, None, None);
            }
        }
        Ok(())
    }
}

/// What a batch did in one target.
struct Part {
    gone: Vec<Gone>,
    /// There may be more, and that is how to go on.
    cursor: Option<Cursor>,
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It stands, whatever it did.
    Committed,
    /// It was larger than a batch may be, for its jobs were believed to be like those before: it was undone, and they will be counted.
    Mistaken,
    /// Somebody holds a record of one of its jobs, or a single one took longer than whole accounts may: it was undone, and smaller ones will find out whose.
    Contended,
}

/// Whether a DELETE failed for the hurry it was in: somebody holds a record, or a single account took longer than whole ones may.
fn hurried(kind: Kind, group: &[Claimed], whole: bool, asked: Instant) -> bool {
    kind == Kind::Locked || (kind == Kind::Timeout && group.len() == 1 && (whole || asked.elapsed() < batch::WHOLE * 2))
}
