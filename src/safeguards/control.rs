//! What people do to the safeguards: place and release holds, pause and resume, release the guard. Each act has an actor and a reason, and is logged.
//!
//! Whatever stops deletion takes the stop lock exclusively: once it has returned, no matching record of the main database is deleted any more (R15).

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{AssertSqlSafe, FromRow, PgConnection};

use super::{
    STOP_LOCK,
    approvals::{self, Approval, Given},
    held, paused, take, window,
};
use utoipa::ToSchema;

use crate::{database::DatabaseError, model};

/// A hold in force (R42).
#[derive(Debug, Clone, FromRow, Serialize, ToSchema)]
pub struct Hold {
    /// Identity, printed as a string.
    pub id: String,
    /// The account held.
    pub account_id: String,
    /// Only this feature.
    pub feature: Option<String>,
    /// Only this data class.
    pub data_class: Option<String>,
    /// Why.
    pub reason: String,
    /// Who placed it.
    pub placed_by: String,
    /// Since when.
    #[serde(serialize_with = "model::serialize_instant")]
    pub placed_at: DateTime<Utc>,
    /// Ends by itself then.
    #[serde(serialize_with = "model::serialize_optional_instant")]
    pub until: Option<DateTime<Utc>>,
}

const HOLD: &str = "id::text as id, account_id, feature, data_class, reason, placed_by, placed_at, until";

/// What a hold or a pause covers; absent parts cover everything.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    /// Only this account.
    pub account: Option<String>,
    /// Only this feature.
    pub feature: Option<String>,
    /// Only this data class.
    pub data_class: Option<String>,
}

/// Places a hold. When its transaction has committed, nothing it covers is deleted any more.
///
/// # Errors
/// Those of the database.
pub async fn place_hold(
    conn: &mut PgConnection,
    scope: &Scope,
    reason: &str,
    by: &str,
    until: Option<DateTime<Utc>>,
) -> Result<Hold, DatabaseError> {
    take(conn, STOP_LOCK).await?;
    Ok(sqlx::query_as(AssertSqlSafe(format!(
        "insert into retention.holds (account_id, feature, data_class, reason, placed_by, until) values ($1, $2, $3, $4, $5, $6) returning {HOLD}"
    )))
    .bind(scope.account.as_deref())
    .bind(scope.feature.as_deref())
    .bind(scope.data_class.as_deref())
    .bind(reason)
    .bind(by)
    .bind(until)
    .fetch_one(conn)
    .await?)
}

/// The holds in force, the oldest first.
///
/// # Errors
/// Those of the database.
pub async fn holds(conn: &mut PgConnection) -> Result<Vec<Hold>, DatabaseError> {
    Ok(sqlx::query_as(AssertSqlSafe(format!(
        "select {HOLD} from retention.holds where released_at is null and (until is null or until > now()) order by retention.holds.id"
    )))
    .fetch_all(conn)
    .await?)
}

/// One hold in force.
///
/// # Errors
/// Those of the database.
pub async fn hold(conn: &mut PgConnection, id: i64) -> Result<Option<Hold>, DatabaseError> {
    Ok(sqlx::query_as(AssertSqlSafe(format!(
        "select {HOLD} from retention.holds where retention.holds.id = $1 and released_at is null and (until is null or until > now())"
    )))
    .bind(id)
    .fetch_optional(conn)
    .await?)
}

/// Some of the holds in force, the oldest first: of one account, or of all; those with higher ids than `after`.
///
/// # Errors
/// Those of the database.
pub async fn some_holds(
    conn: &mut PgConnection,
    account: Option<&str>,
    after: Option<i64>,
    limit: i64,
) -> Result<Vec<Hold>, DatabaseError> {
    Ok(sqlx::query_as(AssertSqlSafe(format!(
        "select {HOLD} from retention.holds where released_at is null and (until is null or until > now())
           and ($1::text is null or account_id = $1) and ($2::int8 is null or retention.holds.id > $2)
         order by retention.holds.id limit $3"
    )))
    .bind(account)
    .bind(after)
    .bind(limit)
    .fetch_all(conn)
    .await?)
}

/// How many holds are in force.
///
/// # Errors
/// Those of the database.
pub async fn count_holds(conn: &mut PgConnection) -> Result<i64, DatabaseError> {
    Ok(sqlx::query_scalar("select count(*) from retention.holds where released_at is null and (until is null or until > now())")
        .fetch_one(conn)
        .await?)
}

/// Takes the lock of everything that stops or lets go, for the rest of the transaction: what is read from here on stays so.
///
/// # Errors
/// Those of the database.
pub async fn stand_still(conn: &mut PgConnection) -> Result<(), DatabaseError> {
    take(conn, STOP_LOCK).await
}

/// A hold that is over.
#[derive(Debug, Clone, FromRow, Serialize, ToSchema)]
pub struct PastHold {
    /// The hold.
    #[sqlx(flatten)]
    #[serde(flatten)]
    pub hold: Hold,
    /// When it was released; `None` when it ended by itself.
    #[serde(serialize_with = "model::serialize_optional_instant")]
    pub released_at: Option<DateTime<Utc>>,
    /// Who released it.
    pub released_by: Option<String>,
    /// Why.
    pub release_reason: Option<String>,
}

/// Holds that are over, the newest first: of one account, or of all; those with lower ids than `before`.
///
/// # Errors
/// Those of the database.
pub async fn past_holds(
    conn: &mut PgConnection,
    account: Option<&str>,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<PastHold>, DatabaseError> {
    Ok(sqlx::query_as(AssertSqlSafe(format!(
        "select {HOLD}, released_at, released_by, release_reason from retention.holds
         where (released_at is not null or until <= now()) and ($1::text is null or account_id = $1) and ($2::int8 is null or retention.holds.id < $2)
         order by retention.holds.id desc limit $3"
    )))
    .bind(account)
    .bind(before)
    .bind(limit)
    .fetch_all(conn)
    .await?)
}

/// A pause in force.
#[derive(Debug, Clone, FromRow, Serialize, ToSchema)]
pub struct Pause {
    /// Identity, printed as a string.
    pub id: String,
    /// Only this account.
    pub account_id: Option<String>,
    /// Only this data class.
    pub data_class: Option<String>,
    /// Why.
    pub reason: String,
    /// Who paused.
    pub paused_by: String,
    /// Since when.
    #[serde(serialize_with = "model::serialize_instant")]
    pub paused_at: DateTime<Utc>,
}

/// The pauses in force, the oldest first.
///
/// # Errors
/// Those of the database.
pub async fn pauses(conn: &mut PgConnection) -> Result<Vec<Pause>, DatabaseError> {
    Ok(sqlx::query_as(
        "select p.id::text as id, p.account_id, p.data_class, p.reason, p.paused_by, p.paused_at from retention.pauses p
         where p.resumed_at is null order by p.id",
    )
    .fetch_all(conn)
    .await?)
}

/// Counts what somebody says to the release of a hold, before it is released. `None` when no such hold is in force.
///
/// # Errors
/// Those of the database.
pub async fn approve_release(conn: &mut PgConnection, id: i64, given: Given<'_>) -> Result<Option<Approval>, DatabaseError> {
    let hold: Option<i64> = sqlx::query_scalar(
        "select id from retention.holds where id = $1 and released_at is null and (until is null or until > now()) for update",
    )
    .bind(id)
    .fetch_optional(&mut *conn)
    .await?;
    let Some(id) = hold else { return Ok(None) };
    Ok(Some(approvals::approve(conn, approvals::Act::HoldRelease, &id.to_string(), given).await?))
}

/// Releases a hold; what it covered becomes eligible again. `None` when no such hold is in force.
///
/// # Errors
/// Those of the database.
pub async fn release_hold(conn: &mut PgConnection, id: i64, reason: &str, by: &str) -> Result<Option<Hold>, DatabaseError> {
    Ok(sqlx::query_as(AssertSqlSafe(format!(
        "update retention.holds set released_at = now(), released_by = $3, release_reason = $2
         where id = $1 and released_at is null and (until is null or until > now()) returning {HOLD}"
    )))
    .bind(id)
    .bind(reason)
    .bind(by)
    .fetch_optional(conn)
    .await?)
}

/// Pauses deletion of everything, or of an account or data class.
///
/// # Errors
/// Those of the database.
pub async fn pause(conn: &mut PgConnection, scope: &Scope, reason: &str, by: &str) -> Result<(), DatabaseError> {
    take(conn, STOP_LOCK).await?;
    sqlx::query("insert into retention.pauses (account_id, data_class, reason, paused_by) values ($1, $2, $3, $4)")
        .bind(scope.account.as_deref())
        .bind(scope.data_class.as_deref())
        .bind(reason)
        .bind(by)
        .execute(conn)
        .await?;
    Ok(())
}

/// Lifts the pauses of exactly this scope: with none given, the global one alone (R36). Returns how many.
///
/// # Errors
/// Those of the database.
pub async fn resume(conn: &mut PgConnection, scope: &Scope, reason: &str, by: &str) -> Result<u64, DatabaseError> {
    Ok(sqlx::query(
        "update retention.pauses set resumed_at = now(), resumed_by = $4, resume_reason = $3
         where resumed_at is null and account_id is not distinct from $1 and data_class is not distinct from $2",
    )
    .bind(scope.account.as_deref())
    .bind(scope.data_class.as_deref())
    .bind(reason)
    .bind(by)
    .execute(conn)
    .await?
    .rows_affected())
}

/// Counts what somebody says to the release of the guard, before it is released. `None` when it has not tripped. What was said about an earlier trip says
/// nothing about this one.
///
/// # Errors
/// Those of the database.
pub async fn approve_guard(conn: &mut PgConnection, given: Given<'_>) -> Result<Option<Approval>, DatabaseError> {
    stop_with_a_row(&mut *conn).await?;
    let tripped_at: Option<String> =
        sqlx::query_scalar("select tripped_at::text from retention.guard where tripped_at is not null").fetch_optional(&mut *conn).await?;
    let Some(tripped_at) = tripped_at else { return Ok(None) };
    Ok(Some(approvals::approve(conn, approvals::Act::GuardRelease, &tripped_at, given).await?))
}

/// Takes the stop lock. A guard's row that is missing means stopped; this is how somebody mends that.
async fn stop_with_a_row(conn: &mut PgConnection) -> Result<(), DatabaseError> {
    take(&mut *conn, STOP_LOCK).await?;
    sqlx::query("insert into retention.guard (tripped_at, reason) values (now(), 'the guard''s state was missing') on conflict do nothing")
        .execute(conn)
        .await?;
    Ok(())
}

/// Releases the guard: what waits at this moment may begin, and no more. Accounts that count within the window of this length already go on to. Returns how many jobs that is; `None` when the guard had not tripped.
///
/// # Errors
/// Those of the database.
pub async fn release_guard(conn: &mut PgConnection, length: Duration, reason: &str, by: &str) -> Result<Option<u64>, DatabaseError> {
    stop_with_a_row(&mut *conn).await?;
    let released = sqlx::query(
        "update retention.guard set tripped_at = null, reason = null, released_at = now(), released_by = $2, release_reason = $1
         where tripped_at is not null",
    )
    .bind(reason)
    .bind(by)
    .execute(&mut *conn)
    .await?
    .rows_affected();
    if released == 0 {
        return Ok(None);
    }
    let jobs: i64 = sqlx::query_scalar(AssertSqlSafe(format!(
        "with waiting as (
             update retention.jobs j set admitted_at = now()
             where j.admitted_at is null and j.retain_until <= now() and not {} and not {} returning j.account_id),
         let_through as (
             insert into retention.admissions (account_id, admitted_at, released) select distinct account_id, now(), true from waiting
             on conflict (account_id) do update set admitted_at = excluded.admitted_at, released = true
             where admissions.released or admissions.admitted_at <= now() - {})
         select count(*) from waiting",
        held("j"),
        paused("j"),
        window(length)
    )))
    .fetch_one(conn)
    .await?;
    Ok(Some(jobs.unsigned_abs()))
}
