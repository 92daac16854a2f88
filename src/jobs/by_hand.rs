//! What people do to single jobs: end a back-off, give up what can never be verified.

use sqlx::{AssertSqlSafe, PgConnection};

use super::record::KEEP;
use crate::{database::DatabaseError, model::REQUEST};

/// Ends the back-off of an open job. False when there is none with this id.
///
/// # Errors
/// Those of the database.
pub async fn retry(conn: &mut PgConnection, id: i64) -> Result<bool, DatabaseError> {
    let found = sqlx::query(
        "update retention.jobs set ready_at = least(ready_at, greatest(now(), retain_until)) where id = $1 and (lease_until is null or lease_until <= now())",
    )
    .bind(id)
    .execute(conn)
    .await?;
    Ok(found.rows_affected() == 1)
}

/// Ends a due job whose purge can never be verified: cancelled as `unverifiable`, with what it has come to and why (R26). A done-mark keeps the planner
/// from scheduling it again, and vouches for nothing: it names no look. False when there is no such job, it was never attempted, or it is for a request: that would be scheduled again,
/// until it is withdrawn.
///
/// # Errors
/// Those of the database.
pub async fn close(conn: &mut PgConnection, id: i64, places: &str, why: &str) -> Result<bool, DatabaseError> {
    let closed: i64 = sqlx::query_scalar(AssertSqlSafe(format!(
        "with gone as (delete from retention.jobs j where j.id = $1 and j.retain_until <= now() and j.attempts > 0 and j.starting_point <> '{REQUEST}' returning j.*),
         over as materialized (
             select id, account_id, feature, data_class, 'cancelled' as state, starting_point, started_at, retain_until, delete_by, policy, attempts,
                    concat_ws('; ', last_error, $3) as last_error, purge_began_at, records_deleted, '{{}}'::jsonb as outcomes, count_exact, created_at,
                    null::timestamptz as completed_at, now() as cancelled_at, 'unverifiable' as cancel_reason,
                    null::timestamptz as last_copy_gone_at
             from gone),
         kept as ({KEEP}),
         marked as (
             insert into retention.done_marks (account_id, feature, data_class, starting_point, started_at, places, job_id)
             select account_id, feature, data_class, starting_point, started_at, $2, id from over
             on conflict (account_id, feature, data_class) do update
             set starting_point = excluded.starting_point, started_at = excluded.started_at, places = excluded.places, job_id = excluded.job_id,
                 purged_at = now(), look_at = null, looks = 0, residue = false)
         select count(*) from over"
    )))
    .bind(id)
    .bind(places)
    .bind(why)
    .fetch_one(conn)
    .await?;
    Ok(closed == 1)
}
