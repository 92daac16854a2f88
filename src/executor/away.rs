//! The part of a purge that happens in other stores (R19). First a look, for what is not there needs no purge. Intent before: a job that is going to be
//! purged says so, durably, before the first call. Then, while the rows that license it are locked in the main database, each of its targets that hold
//! records is asked for a little, and everything that could stand in the way is asked again before each call; a reactivation, a hold or a pause waits for
//! one call at most. Then another look. What came of it is told to the batch in the main database, which alone completes a job.
//!
//! Targets of one store go in their order, and after a failure no further; other stores and other jobs go on.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream};
use tokio::sync::Mutex;

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
    safeguards, spans,
    stores::{self, RemoteTarget, StoreError, Until},
};

/// After so long no further call is begun: the rows are let go.
const AT_MOST: Duration = Duration::from_secs(2);
/// Jobs that are asked for at once.
const AT_ONCE: usize = 8;
/// Jobs in one group.
pub(super) const GROUP: i64 = 64;
/// Its stores have to be looked at again after a while, to be sure.
const SETTLING: &str = "settling";

/// What a job came to in other stores.
#[derive(Debug, Default, Clone)]
pub(super) struct Away {
    /// Records that are gone, by target.
    records: BTreeMap<String, i64>,
    /// Targets that hold records, as the last look at each says, or could not be looked at.
    pub(super) left: BTreeSet<String>,
    /// Targets of which nothing can be said before another try, for there was no time or no licence for one.
    cut: bool,
    /// Targets of which nothing is sure before another look in so long.
    later: BTreeMap<String, Duration>,
    /// Stores that gave no answer.
    failed: BTreeSet<String>,
    /// What went wrong, one target after the other.
    errors: Vec<String>,
}

impl Away {
    /// What becomes of a job with targets in other stores that its batch in the main database came to `next` with.
    pub(super) fn together(away: Option<&Self>, next: Next, backoff: Duration, patient: bool) -> Next {
        let pause = if patient { LOCKED_PAUSE } else { backoff };
        match (next, away) {
            // There was no time to look.
            (Next::Complete, None) => Next::Wait(jobs::SLOW, LOCKED_PAUSE),
            (Next::Complete, Some(away)) if !away.errors.is_empty() => Next::Retry(backoff),
            (Next::Complete, Some(away)) if away.left.is_empty() && away.later.is_empty() => Next::Complete,
            (Next::Complete, Some(away)) if away.records.values().any(|records| *records > 0) => Next::Continue,
            (Next::Complete, Some(away)) if away.cut => Next::Wait(jobs::SLOW, LOCKED_PAUSE),
            (Next::Complete, Some(away)) if away.left.iter().all(|target| away.later.contains_key(target)) => {
                Next::Wait(SETTLING, away.later.values().min().copied().unwrap_or(pause))
            }
            // It says that it deletes, and yet they are still there.
            (Next::Complete, Some(_)) => Next::Wait(UNDELETABLE, pause),
            (next, _) => next,
        }
    }

    /// What went wrong.
    pub(super) fn error(&self) -> Option<String> {
        (!self.errors.is_empty()).then(|| self.errors.join("; "))
    }

    fn failed(&mut self, target: &RemoteTarget, error: &StoreError) {
        self.failed.insert(target.store.clone());
        self.left.insert(target.name.clone());
        self.errors.push(format!("{}: {error}", target.name));
    }
}

/// Jobs with what they came to so far.
type Jobs = BTreeMap<i64, Away>;

impl Worker {
    /// Purges what the jobs have in other stores, if their class has targets there. Yields the jobs with what that came to, for the batch in the main
    /// database; none when something went wrong for all of them, which is on record then.
    pub(super) async fn elsewhere(
        &self,
        class: &Class,
        batch: &Batch,
        mut claimed: Vec<Claimed>,
        claimed_at: Until,
    ) -> Result<Option<(Vec<Claimed>, Jobs)>, DatabaseError> {
        if class.remote.is_empty() {
            return Ok(Some((claimed, Jobs::new())));
        }
        let began = Instant::now();
        let lease = self.executor.config.executor.lease;
        let in_time =
            claimed.iter().map(|job| look(class, job, Away::default(), claimed_at.and(lease / 3), claimed_at.and(lease * 2 / 3)).boxed());
        let mut away: Jobs = at_once(in_time).await.into_iter().filter_map(|(id, away)| Some((id, away?))).collect();
        let holds = |job: &&Claimed| away.get(&job.id).is_some_and(|away| !away.left.is_empty());
        let holding: Vec<Claimed> = claimed.iter().filter(holds).cloned().collect();
        if !holding.is_empty() {
            match self.purge_away(class, batch, &holding, &mut away, claimed_at.and(lease)).await {
                Ok(()) => {}
                Err(error) if error.kind() == Kind::Unreachable => return Err(error),
                Err(error) if error.kind() == Kind::Locked => return self.step_aside(class, claimed).await.map(|()| None),
                Err(error) => {
                    for job in claimed {
                        self.fail(class, job, error.kind().as_str(), error.to_string()).await?;
                    }
                    return Ok(None);
                }
            }
        }
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

    /// Intent, purge, look. What a job came to stays in `away`; an error is about all of them, and comes before the first call.
    async fn purge_away(
        &self,
        class: &Class,
        batch: &Batch,
        holding: &[Claimed],
        away: &mut Jobs,
        lease: Until,
    ) -> Result<(), DatabaseError> {
        let mut tx = self.executor.database.begin(Purpose::Write).await?;
        let licensed = self.licensed(&mut tx, batch, holding).await?;
        jobs::intend(&mut tx, &licensed).await?;
        crash::point("executor.intending");
        Database::commit(tx).await?;
        crash::point("executor.intended");
        let mut tx = self.executor.database.begin(Purpose::Write).await?;
        // As long as the last call may take, and a little longer.
        let idle = AT_MOST + stores::CALL + Duration::from_secs(5);
        sqlx::query("select set_config('idle_in_transaction_session_timeout', $1, true)")
            .bind(idle.as_millis().to_string())
            .execute(&mut *tx)
            .await?;
        let licensed: BTreeSet<i64> = self.licensed(&mut tx, batch, holding).await?.into_iter().map(|(id, _)| id).collect();
        let (until, tx) = (Until::in_time(AT_MOST).or_before(lease), Mutex::new(tx));
        let at_most = u32::try_from(self.pace.rows()).unwrap_or(u32::MAX);
        let mut asked = Vec::new();
        for job in holding {
            let Some(mut so_far) = away.remove(&job.id) else { continue };
            if licensed.contains(&job.id) {
                asked.push(ask(&tx, batch, class, job, so_far, at_most, until).boxed());
            } else {
                so_far.cut = true;
                away.insert(job.id, so_far);
            }
        }
        let asked: Jobs = at_once(asked).await.into_iter().collect();
        crash::point("executor.away");
        drop(tx);
        let looks = holding.iter().filter_map(|job| Some(look(class, job, asked.get(&job.id)?.clone(), lease, lease).boxed()));
        for (id, looked) in at_once(looks).await {
            // Without a look it is as it was: what was purged may be left.
            let unlooked = asked.get(&id).cloned().map(|so_far| Away { cut: true, ..so_far });
            away.extend(looked.or(unlooked).map(|so_far| (id, so_far)));
        }
        Ok(())
    }

    /// The jobs whose starting point stands, with their fences; they and their source rows are locked.
    async fn licensed(&self, tx: &mut Tx, batch: &Batch, group: &[Claimed]) -> Result<Vec<(i64, i64)>, DatabaseError> {
        let before = clock::reading();
        let now = batch.enter(tx, &self.executor.policy.pinned, &self.executor.seen).await?;
        if let Some(jump) = self.executor.clock.observe(before, now) {
            return safeguards::clock_jumped(&self.executor.database, &self.executor.clock, jump).await;
        }
        let verdicts = batch.license(tx, group).await?;
        Ok(group.iter().filter(|job| verdicts.get(&job.id) == Some(&Verdict::Stands)).map(|job| (job.id, job.fence)).collect())
    }
}

async fn at_once<T>(work: impl IntoIterator<Item = BoxFuture<'_, T>>) -> Vec<T> {
    stream::iter(work.into_iter().collect::<Vec<_>>()).buffer_unordered(AT_ONCE).collect().await
}

/// Looks at each target of which nothing is known yet, or that holds records as far as is known. `None` when there was no time for it: to begin, or, once
/// it has begun, to end.
async fn look(class: &Class, job: &Claimed, so_far: Away, begin: Until, end: Until) -> (i64, Option<Away>) {
    let first = so_far.left.is_empty();
    let mut until = begin;
    let mut away = Away { left: BTreeSet::new(), ..so_far.clone() };
    for target in class.remote.iter().filter(|target| first || so_far.left.contains(&target.name)) {
        if until.passed() {
            return (job.id, None);
        }
        until = end;
        if away.failed.contains(&target.store) {
            away.left.insert(target.name.clone());
            continue;
        }
        match target.client.left(&target.place, &job.account_id).await {
            Ok(true) => drop(away.left.insert(target.name.clone())),
            Ok(false) => drop(away.later.remove(&target.name)),
            Err(StoreError::Later { pause, .. } | StoreError::Busy { pause, .. }) => drop(away.later.insert(target.name.clone(), pause)),
            Err(error) => away.failed(target, &error),
        }
    }
    (job.id, Some(away))
}

/// Asks each target of one job that holds records to delete some.
async fn ask(tx: &Mutex<Tx>, batch: &Batch, class: &Class, job: &Claimed, mut away: Away, at_most: u32, until: Until) -> (i64, Away) {
    let holding = away.left.clone();
    for target in class.remote.iter().filter(|target| holding.contains(&target.name)) {
        if away.failed.contains(&target.store) {
            continue;
        }
        // Not every row that could withdraw it can be locked: one may have come that was not there. And the locks are worth nothing once their connection
        // is lost, of which nobody else would tell.
        let stands = match batch.license(&mut *tx.lock().await, std::slice::from_ref(job)).await {
            Ok(verdicts) => verdicts.get(&job.id) == Some(&Verdict::Stands),
            Err(_) => false,
        };
        if !stands || until.passed() {
            away.cut = true;
            break;
        }
        let purge = target.client.purge(&target.place, &job.account_id, at_most, until);
        match spans::delete(class.named(), job.id, &target.name, purge, |gone| gone.records).await {
            Ok(gone) => *away.records.entry(target.name.clone()).or_default() += gone.records,
            Err(StoreError::Late) => {
                away.cut = true;
                break;
            }
            Err(StoreError::Later { pause, .. } | StoreError::Busy { pause, .. }) => drop(away.later.insert(target.name.clone(), pause)),
            Err(error) => away.failed(target, &error),
        }
    }
    (job.id, away)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_look_that_found_nothing_in_any_store_completes() {
        let (backoff, pause) = (Duration::from_secs(7), LOCKED_PAUSE);
        let together = |away: Option<&Away>, next| Away::together(away, next, backoff, true);
        let left = Away { left: BTreeSet::from(["s/t".to_owned()]), ..Away::default() };
        let some = Away { records: BTreeMap::from([("s/t".to_owned(), 1)]), ..left.clone() };
        assert_eq!(together(Some(&Away::default()), Next::Complete), Next::Complete);
        assert_eq!(together(None, Next::Complete), Next::Wait(jobs::SLOW, pause));
        assert_eq!(together(Some(&some), Next::Complete), Next::Continue);
        assert_eq!(together(Some(&left), Next::Complete), Next::Wait(UNDELETABLE, pause));
        assert_eq!(Away::together(Some(&left), Next::Complete, backoff, false), Next::Wait(UNDELETABLE, backoff));
        assert_eq!(
            together(Some(&Away { cut: true, ..left.clone() }), Next::Complete),
            Next::Wait(jobs::SLOW, pause),
            "it could not be asked"
        );
        let later =
            |target: &str, seconds| Away { later: BTreeMap::from([(target.to_owned(), Duration::from_secs(seconds))]), ..Away::default() };
        assert_eq!(together(Some(&later("s/u", 59)), Next::Complete), Next::Wait(SETTLING, Duration::from_secs(59)), "not sure yet");
        let both = Away { left: left.left.clone(), ..later("s/t", 9) };
        assert_eq!(together(Some(&both), Next::Complete), Next::Wait(SETTLING, Duration::from_secs(9)));
        let stuck = Away { left: left.left.clone(), ..later("s/u", 9) };
        assert_eq!(together(Some(&stuck), Next::Complete), Next::Wait(UNDELETABLE, pause), "one of them says that it deletes");
        let failed = Away { errors: vec!["s/t: away".to_owned()], ..Away::default() };
        assert_eq!(together(Some(&failed), Next::Complete), Next::Retry(backoff));
        for next in [Next::Continue, Next::Crowded, Next::Retry(pause), Next::Wait("held", pause)] {
            assert_eq!(together(Some(&Away::default()), next), next);
        }
    }
}
