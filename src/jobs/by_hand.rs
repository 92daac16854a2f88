//! What people do to single jobs: end a back-off, give up what can never be verified.

use sqlx::PgConnection;

use crate::database::DatabaseError;

/// Ends the back-off of an open job. False when there is none with this id.
///
/// # Errors
/// Those of the database.
pub async fn retry(conn: &mut PgConnection, id: i64) -> Result<bool, DatabaseError> {
    let found = sqlx::query(
        "update retention.jobs set ready_at = least(ready_at, greatest(now(), retain_until)) where id = $1 and state = 'scheduled'",
    )
    .bind(id)
    .execute(conn)
    .await?;
    Ok(found.rows_affected() == 1)
}

/// Ends a due job whose purge can never be verified: cancelled as `unverifiable`, with what it has come to and why (R26). A done-mark keeps the planner
/// from scheduling it again, and vouches for nothing: it names no look. False when there is no such job, or it was never attempted.
///
/// # Errors
/// Those of the database.
pub async fn close(conn: &mut PgConnection, id: i64, places: &str, why: &str) -> Result<bool, DatabaseError> {
    let closed: i64 = sqlx::query_scalar(
        "with closed as (
             update retention.jobs j
             set state = 'cancelled', cancelled_at = now(), cancel_reason = 'unverifiable', last_error = concat_ws('; ', j.last_error, $3),
                 fence = j.fence + 1, worker = null, lease_until = null, blocked_by = null
             where j.id = $1 and j.state in ('scheduled', 'running') and j.retain_until <= now() and j.attempts > 0
             returning j.id, j.account_id, j.feature, j.data_class, j.starting_point, j.started_at),
         marked as (
             insert into retention.done_marks (account_id, feature, data_class, starting_point, started_at, places, job_id)
             select account_id, feature, data_class, starting_point, started_at, $2, id from closed
             on conflict (account_id, feature, data_class) do update
             set starting_point = excluded.starting_point, started_at = excluded.started_at, places = excluded.places, job_id = excluded.job_id,
                 purged_at = now(), look_at = null, looks = 0, residue = false)
         select count(*) from closed",
    )
    .bind(id)
    .bind(places)
    .bind(why)
    .fetch_one(conn)
    .await?;
    Ok(closed == 1)
}
