//! The pass that purges: it claims due jobs of one data class as a group, purges them in one bounded transaction, and records what came of it.
//!
//! Every predicate is asked again inside that transaction (`executor/batch.rs`); what the planner wrote is never trusted. Each step is bounded,
//! so that a stop, a hold or a neighbour waits for one batch at most.

mod batch;
mod tell;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    config::Config,
    database::{Database, DatabaseError, Kind, Purpose},
    jobs::{self, Claimed, Next, Progress},
    policy::{Class, Policy},
    safeguards::{self, Admission},
};

use batch::{Batch, Verdict};

/// Jobs that travel in one batch at most.
const MAX_JOBS_PER_BATCH: i64 = 500;
/// The first batch of a worker is small; it grows while accounts are small.
const FIRST_JOBS_PER_BATCH: i64 = 50;
/// A batch that takes longer than this is followed by a smaller one.
const SLOW_BATCH: Duration = Duration::from_millis(200);
/// Records a batch may always delete, however slow the database.
const MIN_ROWS_PER_BATCH: i64 = 50;
/// Looks in a row that may find records which no batch could delete, before somebody is told (R25).
const PATIENT_LOOKS: i32 = 3;
/// How long a job steps aside for whoever holds its records or its source row.
const LOCKED_PAUSE: Duration = Duration::from_secs(1);
/// How long a job waits for the planner to settle what changed under it.
const CHANGED_PAUSE: Duration = Duration::from_secs(5);

/// What all workers share.
#[derive(Debug, Clone)]
pub struct Executor {
    database: Database,
    config: Arc<Config>,
    policy: Arc<Policy>,
    batches: Arc<Vec<Batch>>,
    /// Jobs completed by this process.
    completed: Arc<AtomicU64>,
}

impl Executor {
    /// An executor for this policy.
    #[must_use]
    pub fn new(database: Database, config: Arc<Config>, policy: Arc<Policy>) -> Self {
        let batches = policy.classes.iter().map(Batch::new).collect();
        Self { database, config, policy, batches: Arc::new(batches), completed: Arc::default() }
    }

    /// A worker with a name of its own.
    #[must_use]
    pub fn worker(&self, name: String) -> Worker {
        let rows = i64::from(self.config.executor.max_rows_per_batch);
        Worker { executor: self.clone(), name, turn: 0, rows, jobs: FIRST_JOBS_PER_BATCH }
    }

    /// Jobs completed by this process.
    #[must_use]
    pub fn completed(&self) -> u64 {
        self.completed.load(Ordering::Relaxed)
    }

    /// Whether a due job steps aside for somebody who holds its records, or is in a worker's hands: waiting may help.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn someone_waits(&self) -> Result<bool, DatabaseError> {
        let mut tx = self.database.begin(Purpose::Work).await?;
        jobs::stepping_aside(&mut tx, &self.classes()).await
    }

    /// Takes back lapsed leases and says which jobs have become overdue. Cheap; called between looks.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn tidy(&self) -> Result<(), DatabaseError> {
        let mut tx = self.database.begin(Purpose::Write).await?;
        let reclaimed = jobs::reclaim(&mut tx).await?;
        let overdue = jobs::newly_overdue(&mut tx).await?;
        Database::commit(tx).await?;
        if reclaimed > 0 {
            tracing::warn!(event = "lease.lapsed", jobs = reclaimed, "took back jobs whose worker gave no sign of life");
        }
        overdue.iter().for_each(tell::overdue);
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
    /// The class that is asked first; moves on so that no class starves another.
    turn: usize,
    /// Records per batch: follows how long batches take.
    rows: i64,
    /// Jobs per batch: follows how large accounts are.
    jobs: i64,
}

impl Worker {
    /// Claims and purges one group, or finds that there is none.
    ///
    /// # Errors
    /// Those of the database, when it is the connection that failed; what was claimed comes back when its lease lapses.
    pub async fn step(&mut self) -> Result<Step, DatabaseError> {
        let executor = self.executor.clone();
        if self.weigh().await? == Weighed::Stopped {
            return Ok(Step::Idle);
        }
        let classes = executor.policy.classes.len();
        for offset in 0..classes {
            let index = (self.turn + offset) % classes;
            let (Some(class), Some(batch)) = (executor.policy.classes.get(index), executor.batches.get(index)) else {
                continue;
            };
            let mut tx = executor.database.begin(Purpose::Work).await?;
            let claimed = jobs::claim(&mut tx, &class.jobs, &self.name, executor.config.executor.lease, self.jobs).await?;
            Database::commit(tx).await?;
            if !claimed.is_empty() {
                self.turn = index + 1;
                claimed.iter().filter(|job| !job.continued).for_each(|job| tell::started(class, job));
                self.purge(class, batch, claimed).await?;
                return Ok(Step::Worked);
            }
        }
        Ok(Step::Idle)
    }

    /// Lets the guard weigh what has become due.
    async fn weigh(&self) -> Result<Weighed, DatabaseError> {
        let mut tx = self.executor.database.begin(Purpose::Work).await?;
        let state = safeguards::guard(&mut tx).await?;
        let unweighed = safeguards::unweighed(&mut tx).await?;
        drop(tx);
        if state.tripped {
            return Ok(Weighed::Stopped);
        }
        if unweighed {
            let mut tx = self.executor.database.begin(Purpose::Bulk).await?;
            let admission = safeguards::admit(&mut tx, &self.executor.config.guard).await?;
            Database::commit(tx).await?;
            if let Admission::Tripped(reason) = admission {
                tracing::error!(event = "guard.tripped", reason, "the guard stopped the start of purges; nothing of what is due was begun");
                return Ok(Weighed::Stopped);
            }
        }
        Ok(Weighed::Open)
    }

    /// Purges a group; when the group as a whole fails, its halves, so that one bad job stops only itself.
    async fn purge(&mut self, class: &Class, batch: &Batch, group: Vec<Claimed>) -> Result<(), DatabaseError> {
        let mut groups = vec![group];
        while let Some(mut group) = groups.pop() {
            let unnameable: Vec<Claimed> = group.extract_if(.., |job| class.cannot_hold(&job.account_id).is_some()).collect();
            for job in unnameable {
                let what = class.cannot_hold(&job.account_id).map_or_else(String::new, |(target, key)| {
                    format!("{} keys accounts by {}, which cannot hold this account id", target.name, key.sql())
                });
                self.fail(class, job, what).await?;
            }
            if group.is_empty() {
                continue;
            }
            match self.batch(class, batch, &group).await {
                Ok(()) => {}
                Err(error) if error.kind() == Kind::Unreachable => return Err(error),
                Err(error) => {
                    if error.kind() == Kind::Timeout {
                        self.rows = (self.rows / 2).max(MIN_ROWS_PER_BATCH);
                    }
                    if group.len() > 1 {
                        let half = group.split_off(group.len() / 2);
                        self.jobs = (self.jobs / 2).max(1);
                        groups.push(half);
                        groups.push(group);
                    } else if let Some(job) = group.pop() {
                        self.fail(class, job, error.to_string()).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// One transaction: lock, ask again, delete, look, record.
    async fn batch(&mut self, class: &Class, batch: &Batch, group: &[Claimed]) -> Result<(), DatabaseError> {
        let began = Instant::now();
        let mut tx = self.executor.database.begin(Purpose::Write).await?;
        batch.enter(&mut tx, &self.executor.policy.pinned).await?;
        let verdicts = batch.license(&mut tx, group).await?;
        let licensed: Vec<&Claimed> = group.iter().filter(|j| verdicts.get(&j.id) == Some(&Verdict::Stands)).collect();
        let mut deleted: BTreeMap<(i64, &str), i64> = BTreeMap::new();
        let mut budget = self.rows;
        for target in &class.targets {
            if licensed.is_empty() || budget == 0 {
                break;
            }
            for (job, records) in batch.delete(&mut tx, target, &licensed, budget).await? {
                budget -= records;
                deleted.insert((job, target.name.as_str()), records);
            }
        }
        let left = batch.left(&mut tx, class, &licensed).await?;
        let mut progress = Vec::new();
        for job in group {
            // A job without a verdict is no longer ours: somebody took it back or gave it another plan.
            let Some(verdict) = verdicts.get(&job.id) else { continue };
            let now: BTreeMap<&str, i64> =
                class.targets.iter().filter_map(|t| deleted.get(&(job.id, t.name.as_str())).map(|n| (t.name.as_str(), *n))).collect();
            let next = match verdict {
                Verdict::Stands => self.judge(job, &now, left.get(&job.id), budget == 0),
                Verdict::Blocked(reason) => Next::Wait(reason, pause(reason)),
            };
            progress.push(account(class, job, next, &now, left.get(&job.id)));
        }
        if jobs::record(&mut tx, &class.jobs, &progress).await? != progress.len() as u64 {
            // Our rows are locked, so this cannot be; if it is, nothing of this batch may stand.
            return Err(batch::lost());
        }
        Database::commit(tx).await?;
        let took = began.elapsed();

        let finished = progress.iter().filter(|p| p.next != Next::Continue).count();
        self.adapt(finished, budget, took);
        for (job, p) in progress.iter().filter_map(|p| Some((group.iter().find(|j| j.id == p.id)?, p))) {
            for target in &class.targets {
                if let Some(records) = deleted.get(&(job.id, target.name.as_str())) {
                    tell::batch(class, job, &target.name, *records, took);
                }
            }
            tell::outcome(class, job, p, left.get(&job.id).map(Vec::as_slice));
            if p.next == Next::Complete {
                self.executor.completed.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// What becomes of a job whose batch ran.
    fn judge(&self, job: &Claimed, deleted: &BTreeMap<&str, i64>, left: Option<&Vec<String>>, budget_spent: bool) -> Next {
        match left {
            Some(left) if left.is_empty() => Next::Complete,
            Some(_) if budget_spent || !deleted.is_empty() => Next::Continue,
            // Nothing could be deleted and yet something is there: locked, or not ours to delete.
            Some(_) if job.looks + 1 < PATIENT_LOOKS => Next::Wait("locked", LOCKED_PAUSE),
            Some(_) => Next::Wait("residue", self.executor.backoff(job.looks + 2 - PATIENT_LOOKS)),
            // No answer is not an empty one (I6).
            None => Next::Retry(LOCKED_PAUSE),
        }
    }

    fn adapt(&mut self, finished: usize, budget: i64, took: Duration) {
        let max = i64::from(self.executor.config.executor.max_rows_per_batch);
        if budget == 0 {
            self.jobs = i64::try_from(finished).unwrap_or(1).clamp(1, MAX_JOBS_PER_BATCH);
        } else if took < SLOW_BATCH {
            self.jobs = (self.jobs * 2).min(MAX_JOBS_PER_BATCH);
        }
        if took > SLOW_BATCH {
            self.rows = (self.rows * 3 / 4).max(MIN_ROWS_PER_BATCH.min(max));
            self.jobs = (self.jobs / 2).max(1);
        } else {
            self.rows = (self.rows + self.rows / 4 + 1).min(max);
        }
    }

    /// Records a failed attempt in a transaction of its own; the job stays open and comes back after a pause (R45).
    async fn fail(&self, class: &Class, job: Claimed, error: String) -> Result<(), DatabaseError> {
        let pause = self.executor.backoff(job.attempts);
        let progress = Progress {
            id: job.id,
            fence: job.fence,
            next: Next::Retry(pause),
            records_deleted: job.records_deleted.0.clone(),
            outcomes: BTreeMap::new(),
            began: false,
            looks: job.looks,
            error: Some(error),
        };
        let mut tx = self.executor.database.begin(Purpose::Write).await?;
        jobs::record(&mut tx, &class.jobs, std::slice::from_ref(&progress)).await?;
        Database::commit(tx).await?;
        tell::outcome(class, &job, &progress, None);
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Weighed {
    Open,
    Stopped,
}

fn pause(reason: &str) -> Duration {
    match reason {
        "locked" => LOCKED_PAUSE,
        "changed" | "missing" => CHANGED_PAUSE,
        // A hold, a pause or the guard is asked at every claim; the job is ready the moment it is lifted.
        _ => Duration::ZERO,
    }
}

/// Adds a batch to what the job has come to so far.
fn account(class: &Class, job: &Claimed, next: Next, deleted: &BTreeMap<&str, i64>, left: Option<&Vec<String>>) -> Progress {
    let mut counts = job.records_deleted.0.clone();
    for target in &class.targets {
        let so_far = counts.entry(target.name.clone()).or_insert(0);
        *so_far += deleted.get(target.name.as_str()).copied().unwrap_or(0);
    }
    let outcomes = if next == Next::Complete { outcomes(class, job, &counts) } else { BTreeMap::new() };
    let stuck = matches!(next, Next::Wait("locked" | "residue", _)) && left.is_some();
    let residue = left.filter(|_| matches!(next, Next::Wait("residue", _)));
    Progress {
        id: job.id,
        fence: job.fence,
        next,
        records_deleted: counts,
        outcomes,
        began: left.is_some(),
        looks: if stuck { job.looks.saturating_add(1) } else { 0 },
        error: residue.map(|targets| format!("records remain that could not be deleted: {}", targets.join(", "))),
    }
}

/// What became of each target, in the words of R27.
fn outcomes(class: &Class, job: &Claimed, counts: &jobs::Counts) -> BTreeMap<String, &'static str> {
    let word = |name: &String| match (counts.get(name).copied().unwrap_or(0), &job.seen) {
        (1.., _) => "deleted",
        (_, None) => "unknown",
        (_, Some(seen)) if seen.contains(name) => "already gone",
        (_, Some(_)) => "never existed",
    };
    class.targets.iter().map(|t| (t.name.clone(), word(&t.name))).collect()
}
