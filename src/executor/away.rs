//! The part of a purge that happens in other stores (R19). Intent before: a job that is going to be purged says so, durably, before the first call.
//! Then, while the rows that license it are locked in the main database, each of its targets is asked for a little; a reactivation, a hold or a pause waits for
//! that at most. What came of it is told to the batch in the main database, which alone completes a job.
//!
//! Targets of one store go in their order, and after a failure no further; other stores and other jobs go on.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream};

use super::{
    Batch, Worker,
    account::{LOCKED_PAUSE, UNDELETABLE},
    batch::Verdict,
    tell,
};
use crate::{
    clock, crash,
    database::{Database, DatabaseError, Kind, Purpose, Tx},
    jobs::{self, Claimed, Next},
    metrics,
    policy::Class,
    safeguards, stores,
};

/// After so long no further call is begun: the rows are let go.
const AT_MOST: Duration = Duration::from_secs(2);
/// Jobs that are asked for at once.
const AT_ONCE: usize = 8;
/// Jobs in one group.
pub(super) const GROUP: i64 = 64;

/// What a job came to in other stores.
#[derive(Debug, Default, Clone)]
pub(super) struct Away {
    /// Records that are gone, by target.
    pub(super) records: BTreeMap<String, i64>,
    /// Targets that still hold records, or were not looked at.
    pub(super) left: Vec<String>,
    /// The time was over before each target was asked.
    cut: bool,
    /// What went wrong, for one target after the other.
    pub(super) error: Option<String>,
}

impl Away {
    /// What becomes of a job with targets in other stores that its batch in the main database came to `next` with.
    pub(super) fn together(away: Option<&Self>, next: Next, backoff: Duration, patient: bool) -> Next {
        let pause = if patient { LOCKED_PAUSE } else { backoff };
        match (next, away) {
            // Nothing was asked, for something stood in the way a moment ago.
            (Next::Complete, None) => Next::Crowded,
            (Next::Complete, Some(away)) if away.error.is_some() => Next::Retry(backoff),
            (Next::Complete, Some(away)) if away.left.is_empty() => Next::Complete,
            (Next::Complete, Some(away)) if away.records.values().any(|records| *records > 0) => Next::Continue,
            (Next::Complete, Some(away)) if away.cut => Next::Crowded,
            // It says that it deletes, and yet they are still there.
            (Next::Complete, Some(_)) => Next::Wait(UNDELETABLE, pause),
            (next, _) => next,
        }
    }
}

impl Worker {
    /// Purges what the jobs have in other stores, if their class has targets there. Yields the jobs with what that came to, for the batch in the main
    /// database; none when something went wrong for all of them, which is on record then.
    pub(super) async fn elsewhere(
        &self,
        class: &Class,
        batch: &Batch,
        mut claimed: Vec<Claimed>,
        claimed_at: Instant,
    ) -> Result<Option<(Vec<Claimed>, BTreeMap<i64, Away>)>, DatabaseError> {
        if class.remote.is_empty() {
            return Ok(Some((claimed, BTreeMap::new())));
        }
        let began = Instant::now();
        let away = match self.away(class, batch, &claimed, claimed_at).await {
            Ok(away) => away,
            Err(error) if error.kind() == Kind::Unreachable => return Err(error),
            Err(error) if error.kind() == Kind::Locked => return self.step_aside(class, claimed).await.map(|()| None),
            Err(error) => {
                for job in claimed {
                    self.fail(class, job, error.to_string()).await?;
                }
                return Ok(None);
            }
        };
        // Whatever becomes of the batch, so much is gone.
        for job in &mut claimed {
            for (target, records) in away.get(&job.id).into_iter().flat_map(|away| &away.records) {
                *job.records_deleted.0.entry(target.clone()).or_insert(0) += records;
                if *records > 0 {
                    tell::batch(class, job, target, *records, began.elapsed());
                    metrics::records_deleted(&class.jobs.feature, &class.jobs.name, target, *records);
                    metrics::batch_took(target, began.elapsed());
                }
            }
        }
        Ok(Some((claimed, away)))
    }

    /// Those that may not be purged now are absent.
    async fn away(
        &self,
        class: &Class,
        batch: &Batch,
        group: &[Claimed],
        claimed_at: Instant,
    ) -> Result<BTreeMap<i64, Away>, DatabaseError> {
        if group.iter().any(|job| !job.begun) {
            let mut tx = self.executor.database.begin(Purpose::Write).await?;
            let licensed = self.licensed(&mut tx, batch, group).await?;
            jobs::intend(&mut tx, &licensed).await?;
            crash::point("executor.intending");
            Database::commit(tx).await?;
            crash::point("executor.intended");
        }
        let mut tx = self.executor.database.begin(Purpose::Write).await?;
        // As long as the last call may take, and a little longer.
        let idle = AT_MOST + stores::CALL * 2 + Duration::from_secs(5);
        sqlx::query("select set_config('idle_in_transaction_session_timeout', $1, true)")
            .bind(idle.as_millis().to_string())
            .execute(&mut *tx)
            .await?;
        let licensed: BTreeSet<i64> = self.licensed(&mut tx, batch, group).await?.into_iter().map(|(id, _)| id).collect();
        let until = (Instant::now() + AT_MOST).min(claimed_at + self.executor.config.executor.lease);
        let at_most = u32::try_from(self.pace.rows()).unwrap_or(u32::MAX);
        let jobs = group.iter().filter(|job| licensed.contains(&job.id));
        let asked: Vec<BoxFuture<'_, (i64, Away)>> =
            jobs.map(|job| ask(class, job, at_most, until).map(|away| (job.id, away)).boxed()).collect();
        let away = stream::iter(asked).buffer_unordered(AT_ONCE).collect().await;
        crash::point("executor.away");
        drop(tx);
        Ok(away)
    }

    /// The jobs whose starting point stands, with their fences; they and their source rows are locked.
    async fn licensed(&self, tx: &mut Tx, batch: &Batch, group: &[Claimed]) -> Result<Vec<(i64, i64)>, DatabaseError> {
        let before = clock::reading();
        let now = batch.enter(tx, &self.executor.policy.pinned).await?;
        if let Some(jump) = self.executor.clock.observe(before, now) {
            return safeguards::clock_jumped(&self.executor.database, &self.executor.clock, jump).await;
        }
        let verdicts = batch.license(tx, group).await?;
        Ok(group.iter().filter(|job| verdicts.get(&job.id) == Some(&Verdict::Stands)).map(|job| (job.id, job.fence)).collect())
    }
}

/// Asks each target of one job.
async fn ask(class: &Class, job: &Claimed, at_most: u32, until: Instant) -> Away {
    let mut away = Away::default();
    let (mut failed, mut errors) = (BTreeSet::new(), Vec::new());
    for target in &class.remote {
        let late = Instant::now() >= until;
        if failed.contains(&target.store) || late {
            away.cut |= late;
            away.left.push(target.name.clone());
            continue;
        }
        let purged = target.client.purge(&target.place, &job.account_id, at_most).await;
        let left = match purged {
            Ok(gone) => {
                *away.records.entry(target.name.clone()).or_default() += gone.records;
                // A look of its own, once there may be nothing left.
                if gone.more || Instant::now() >= until { Ok(true) } else { target.client.left(&target.place, &job.account_id).await }
            }
            Err(error) => Err(error),
        };
        match left {
            Ok(false) => {}
            Ok(true) => away.left.push(target.name.clone()),
            Err(error) => {
                failed.insert(target.store.clone());
                away.left.push(target.name.clone());
                errors.push(format!("{}: {error}", target.name));
            }
        }
    }
    away.error = (!errors.is_empty()).then(|| errors.join("; "));
    away
}
