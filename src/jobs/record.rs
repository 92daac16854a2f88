//! How jobs go on and how they end: what a batch came to, and what is moved to the history. Every statement carries the fence.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{AssertSqlSafe, PgConnection};

use super::{Class, Counts, FIRST_LOOK, OpenJob};
use crate::{database::DatabaseError, model::REQUEST};

/// Moves what the table expression `over` yields to the history.
pub(super) const KEEP: &str = "
    insert into retention.history (id, account_id, feature, data_class, state, starting_point, started_at, retain_until, delete_by, policy, attempts, last_error,
                                   purge_began_at, records_deleted, outcomes, count_exact, created_at, completed_at, cancelled_at, cancel_reason,
                                   last_copy_gone_at)
    select id, account_id, feature, data_class, state, starting_point, started_at, retain_until, delete_by, policy, attempts, last_error,
           purge_began_at, records_deleted, outcomes, count_exact, created_at, completed_at, cancelled_at, cancel_reason, last_copy_gone_at from over";

/// What a batch made of one claimed job.
#[derive(Debug, Clone)]
pub struct Progress {
    /// The job.
    pub id: i64,
    /// Its fence.
    pub fence: i64,
    /// What happens to it now.
    pub next: Next,
    /// Deleted so far, by target.
    pub records_deleted: Counts,
    /// By target; only when completed.
    pub outcomes: BTreeMap<String, &'static str>,
    /// A batch ran for it.
    pub began: bool,
    /// Looks in a row that found records no batch could delete.
    pub looks: i32,
    /// What went wrong.
    pub error: Option<String>,
    /// The requests that stood when it was claimed.
    pub requests: Vec<i64>,
}

/// What happens to a claimed job after a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A separate look found nothing left.
    Complete,
    /// More records than one batch takes; it queues behind what became due meanwhile.
    Continue,
    /// The batch was full before its turn came; it keeps its place.
    Crowded,
    /// Somebody or something stands in the way; claimed again when it no longer does.
    Wait(&'static str, Duration),
    /// It failed; tried again after a pause.
    Retry(Duration),
}

/// What was recorded.
#[derive(Debug, Clone, Copy)]
pub struct Recorded {
    /// Rows that carried the fence; fewer than given means that somebody else has a job now, and the batch must be rolled back.
    pub rows: usize,
    /// When the completed ones were.
    pub completed_at: Option<DateTime<Utc>>,
    /// When the last copy of theirs is gone, where their class has such.
    pub last_copy_gone_at: Option<DateTime<Utc>>,
}

/// Records what a batch came to, in the batch's own transaction.
///
/// # Errors
/// Those of the database.
pub async fn record(conn: &mut PgConnection, class: &Class, progress: &[Progress]) -> Result<Recorded, DatabaseError> {
    let (over, open): (Vec<&Progress>, Vec<&Progress>) = progress.iter().partition(|p| p.next == Next::Complete);
    let (completed, completed_at, last_copy_gone_at) =
        if over.is_empty() { (0, None, None) } else { complete(&mut *conn, class, &over).await? };
    let given_back = if open.is_empty() { 0 } else { give_back(conn, &open).await? };
    Ok(Recorded { rows: usize::try_from(completed).unwrap_or(0) + given_back, completed_at, last_copy_gone_at })
}

/// How many, when, and when the last copy of theirs is gone.
type Completed = (i64, Option<DateTime<Utc>>, Option<DateTime<Utc>>);

/// Moves jobs to the history as completed and leaves their done-marks, which are made of the rows that were moved, never of those that were meant.
///
/// A job fulfils every request that stood for its account and class when it was claimed, whatever it was made for itself. The last look at each place,
/// here and in other stores, came later than that, so each of them saw all that was there when those requests were accepted, and found nothing. Of a request
/// that was accepted after the claim that cannot be said: the look may have been before, and what was written in between would be called deleted. So it
/// is not enough that it is there by now, nor that its instant is an earlier one (it may have been committed later): what counts is what the claim saw. One
/// that was accepted later stands on, and gets a job of its own. One that was withdrawn meanwhile is not fulfilled: whoever withdraws waits for
/// this transaction, or was done before it began.
///
/// A job on request leaves no done-mark: nobody looks again (R30), and a mark that is there is about a starting point that it knows nothing of.
async fn complete(conn: &mut PgConnection, class: &Class, progress: &[&Progress]) -> Result<Completed, DatabaseError> {
    let gone = class.copies.as_deref().unwrap_or("null::timestamptz").replace("{completed_at}", "completed_at");
    let fulfils: Vec<(i64, i64)> = progress.iter().flat_map(|p| p.requests.iter().map(|request| (p.id, *request))).collect();
    Ok(sqlx::query_as(AssertSqlSafe(format!(
        "with gone as (
             delete from retention.jobs j
             using unnest($1::int8[], $2::int8[], $3::text[], $4::text[]) as p(id, fence, deleted, outcomes)
             where j.id = p.id and j.fence = p.fence and j.lease_until is not null
             returning j.id, j.account_id, j.feature, j.data_class, j.starting_point, j.started_at, j.retain_until, j.delete_by, j.policy, j.attempts,
                       j.last_error, coalesce(j.purge_began_at, now()) as purge_began_at, p.deleted::jsonb as records_deleted,
                       p.outcomes::jsonb as outcomes, j.count_exact, j.created_at),
         done as materialized (select *, clock_timestamp() as completed_at from gone),
         over as materialized (
             select *, 'completed' as state, null::timestamptz as cancelled_at, null as cancel_reason, {gone} as last_copy_gone_at from done),
         kept as ({KEEP}),
         awaited as (
             insert into retention.levels_awaited (feature, data_class, job_ids)
             select feature, data_class, array_agg(id) from over group by feature, data_class),
         marked as (
             insert into retention.done_marks (account_id, feature, data_class, starting_point, started_at, places, job_id, look_at)
             select account_id, feature, data_class, starting_point, started_at, $5, id, now() + make_interval(secs => $6) from over
             where starting_point <> '{REQUEST}'
             on conflict (account_id, feature, data_class) do update
             set starting_point = excluded.starting_point, started_at = excluded.started_at, places = excluded.places, job_id = excluded.job_id,
                 purged_at = now(), look_at = excluded.look_at, looks = 0, residue = false),
         asked as (
             update retention.request_parts q set fulfilled_at = over.completed_at, job_id = over.id
             from unnest($7::int8[], $8::int8[]) as f(job, request), over, retention.requests r
             where over.id = f.job and r.id = f.request and r.withdrawn_at is null and q.request_id = r.id
               and q.feature = over.feature and q.data_class = over.data_class and q.fulfilled_at is null)
         select count(*), max(completed_at), max(last_copy_gone_at) from over"
    )))
    .bind(progress.iter().map(|p| p.id).collect::<Vec<_>>())
    .bind(progress.iter().map(|p| p.fence).collect::<Vec<_>>())
    .bind(progress.iter().map(|p| json(&p.records_deleted)).collect::<Vec<_>>())
    .bind(progress.iter().map(|p| json(&p.outcomes)).collect::<Vec<_>>())
    .bind(&class.places)
    .bind(FIRST_LOOK.as_secs_f64())
    .bind(fulfils.iter().map(|(job, _)| *job).collect::<Vec<_>>())
    .bind(fulfils.iter().map(|(_, request)| *request).collect::<Vec<_>>())
    .fetch_one(conn)
    .await?)
}

/// Gives jobs back that are not over yet.
async fn give_back(conn: &mut PgConnection, progress: &[&Progress]) -> Result<usize, DatabaseError> {
    let blocked_by = |p: &&Progress| match p.next {
        Next::Wait(reason, _) => Some(reason),
        Next::Complete | Next::Continue | Next::Crowded | Next::Retry(_) => None,
    };
    let pause = |p: &&Progress| match p.next {
        Next::Wait(_, pause) | Next::Retry(pause) => Some(pause.as_secs_f64()),
        Next::Complete | Next::Continue => Some(0.0),
        Next::Crowded => None,
    };
    let given = sqlx::query(
        "update retention.jobs j
         set worker = null, lease_until = null, continues = p.continues, blocked_by = p.blocked_by, looks = p.looks,
             ready_at = coalesce(now() + make_interval(secs => p.pause), j.ready_at), last_error = coalesce(p.error, j.last_error),
             purge_began_at = coalesce(j.purge_began_at, case when p.began then now() end), records_deleted = p.records_deleted::jsonb
         from unnest($1::int8[], $2::int8[], $3::bool[], $4::text[], $5::int4[], $6::float8[], $7::text[], $8::bool[], $9::text[])
              as p(id, fence, continues, blocked_by, looks, pause, error, began, records_deleted)
         where j.id = p.id and j.fence = p.fence and j.lease_until is not null",
    )
    .bind(progress.iter().map(|p| p.id).collect::<Vec<_>>())
    .bind(progress.iter().map(|p| p.fence).collect::<Vec<_>>())
    .bind(progress.iter().map(|p| matches!(p.next, Next::Continue | Next::Crowded)).collect::<Vec<_>>())
    .bind(progress.iter().map(blocked_by).collect::<Vec<_>>())
    .bind(progress.iter().map(|p| p.looks).collect::<Vec<_>>())
    .bind(progress.iter().map(pause).collect::<Vec<_>>())
    .bind(progress.iter().map(|p| p.error.as_deref()).collect::<Vec<_>>())
    .bind(progress.iter().map(|p| p.began).collect::<Vec<_>>())
    .bind(progress.iter().map(|p| json(&p.records_deleted)).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(usize::try_from(given.rows_affected()).unwrap_or(usize::MAX))
}

/// Cancels open jobs and keeps their counts (R22). Returns the ids of those that carried the fence.
///
/// # Errors
/// Those of the database.
pub async fn cancel(conn: &mut PgConnection, jobs: &[(OpenJob, &'static str)]) -> Result<Vec<i64>, DatabaseError> {
    Ok(sqlx::query_scalar(AssertSqlSafe(format!(
        "with gone as (
             delete from retention.jobs j using unnest($1::int8[], $2::int8[], $3::text[]) as c(id, fence, reason)
             where j.id = c.id and j.fence = c.fence returning j.*, c.reason),
         over as materialized (
             select *, 'cancelled' as state, '{{}}'::jsonb as outcomes, null::timestamptz as completed_at, now() as cancelled_at, reason as cancel_reason,
                    null::timestamptz as last_copy_gone_at
             from gone),
         kept as ({KEEP})
         select id from over"
    )))
    .bind(jobs.iter().map(|(j, _)| j.id).collect::<Vec<_>>())
    .bind(jobs.iter().map(|(j, _)| j.fence).collect::<Vec<_>>())
    .bind(jobs.iter().map(|(_, reason)| *reason).collect::<Vec<_>>())
    .fetch_all(conn)
    .await?)
}

/// The text of a map of strings and numbers as JSON, which cannot fail.
fn json<T: Serialize>(map: &BTreeMap<String, T>) -> String {
    serde_json::to_string(map).unwrap_or_else(|_| "{}".to_owned())
}
