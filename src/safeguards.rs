//! What stands between a due job and its purge: holds, pauses, the guard and a policy that nobody accepted; and the second person whom some acts need. Read inside each batch, after the lock that R15 asks for.
//! It knows the tables of the safeguards and nothing of how records are deleted.

pub mod agreement;
pub mod approvals;
pub mod control;
pub mod forecast;
pub mod server;

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use sqlx::{FromRow, PgConnection};

use utoipa::ToSchema;

use crate::{
    clock::Clock,
    config,
    database::{Database, DatabaseError, Purpose},
    model,
    sql::literal,
};

/// Batches take this advisory lock shared, and whoever stops deletion takes it exclusively: once a stop has returned, no batch is under way (R15).
pub const STOP_LOCK: i64 = 0x7265_7465_6e74_0001;
/// The window is watched in steps of this part of it.
const STEPS: u32 = 24;
/// What is called a moment of the window is this part of it: a minute of a day.
const MOMENTS: u32 = 1_440;
/// Held while the guard weighs what is due, so that replicas cannot pass a limit together (R31).
const GUARD_LOCK: i64 = 0x7265_7465_6e74_0002;

/// Whether a hold in force matches the job under `alias`.
#[must_use]
pub fn held(alias: &str) -> String {
    format!(
        "exists (select 1 from retention.holds h where h.account_id = {alias}.account_id and h.released_at is null \
         and (h.until is null or h.until > now()) and (h.feature is null or h.feature = {alias}.feature) \
         and (h.data_class is null or h.data_class = {alias}.data_class))"
    )
}

/// Whether a pause in force matches the job under `alias`.
#[must_use]
pub fn paused(alias: &str) -> String {
    format!(
        "exists (select 1 from retention.pauses p where p.resumed_at is null \
         and (p.account_id is null or p.account_id = {alias}.account_id) and (p.data_class is null or p.data_class = {alias}.data_class))"
    )
}

/// Whether a pause of everything, or of all of this data class, is in force, as a condition that asks once however many jobs are due.
#[must_use]
pub fn paused_as_a_whole(data_class: &str) -> String {
    format!(
        "exists (select 1 from retention.pauses p where p.resumed_at is null and p.account_id is null \
         and (p.data_class is null or p.data_class = {}))",
        literal(data_class)
    )
}

/// When the guard let the purge of the job under `alias` begin, as an expression; null when it has not. A job that has begun, or was let through by a
/// person, says so itself; else its account counts within the window already, and what is limited are distinct accounts (R31).
#[must_use]
pub fn admitted_at(alias: &str, length: Duration) -> String {
    format!(
        "coalesce({alias}.admitted_at, (select a.admitted_at from retention.admissions a \
         where a.account_id = {alias}.account_id and not a.released and a.admitted_at > now() - {}))",
        window(length)
    )
}

/// Counts the accounts in `begun (account_id)` from now on, as the text of an UPDATE: whatever begins later than it was weighed still counts for a whole
/// window. To a moment of the window, so that purges which begin at once after they were weighed cost nothing. Waits for nobody: whoever else has
/// the row counts the account too.
#[must_use]
pub fn count_from_now(begun: &str, length: Duration) -> String {
    format!(
        "update retention.admissions set admitted_at = now() where account_id = any(array(
             select a.account_id from retention.admissions a
             where a.account_id = any(array({begun})) and not a.released and a.admitted_at <= now() - {} for no key update skip locked))",
        window(length / MOMENTS)
    )
}

/// Whether the guard stands in the way. A guard row that is missing, or was made for another server, means stopped (I6, R32), and so does a ledger that is
/// not the one that was signed.
#[must_use]
pub fn guarded() -> String {
    format!(
        "not exists (select 1 from retention.guard g where g.tripped_at is null and g.server = {} and g.ledger_broken is null \
         and coalesce(g.ledger_behind, 0) <= (select l.size from retention.ledger l))",
        server::IDENTIFIER
    )
}

/// What is wrong with the ledger, as an expression over the guard's row `g`; null when nothing is. No ledger is not a sound one.
const UNSOUND: &str = "case when g.ledger_broken is not null then 'ledger: it is not the one that was signed: ' || g.ledger_broken
    when coalesce((select l.size from retention.ledger l), -1) < coalesce(g.ledger_behind, 0)
    then 'ledger: the database is older than the checkpoint over ' || g.ledger_behind || ' entries; `retentiond ledger replay` brings them back' end";

/// The guard as `status` shows it.
#[derive(Debug, Clone, FromRow, Serialize, ToSchema)]
pub struct GuardState {
    /// Purges are stopped before their start.
    pub tripped: bool,
    /// Which limit was exceeded.
    pub reason: Option<String>,
    /// Since when.
    #[serde(serialize_with = "model::serialize_optional_instant")]
    pub tripped_at: Option<DateTime<Utc>>,
    /// Which limit what is scheduled would exceed.
    pub forecast: Option<String>,
    /// When it would.
    #[serde(serialize_with = "model::serialize_optional_instant")]
    pub forecast_at: Option<DateTime<Utc>>,
}

/// Reads the guard.
///
/// # Errors
/// Those of the database.
pub async fn guard(conn: &mut PgConnection) -> Result<GuardState, DatabaseError> {
    let found = sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "select g.tripped_at is not null or ({UNSOUND}) is not null as tripped, coalesce(g.reason, {UNSOUND}) as reason, g.tripped_at, g.forecast, g.forecast_at
         from retention.guard g"
    )))
    .fetch_optional(conn)
    .await?;
    let missing = || "the guard's state is missing".to_owned();
    Ok(found.unwrap_or_else(|| GuardState { tripped: true, reason: Some(missing()), tripped_at: None, forecast: None, forecast_at: None }))
}

/// Whether the guard, or another policy than the one with this hash, stands in the way of every purge.
///
/// # Errors
/// Those of the database.
pub async fn stopped(conn: &mut PgConnection, policy: &str) -> Result<bool, DatabaseError> {
    let stopped = format!("select {} or not {}", guarded(), agreement::in_force(policy));
    Ok(sqlx::query_scalar(sqlx::AssertSqlSafe(stopped)).fetch_one(conn).await?)
}

/// Whether everything is paused.
///
/// # Errors
/// Those of the database.
pub async fn paused_globally(conn: &mut PgConnection) -> Result<bool, DatabaseError> {
    Ok(sqlx::query_scalar(
        "select exists (select 1 from retention.pauses where resumed_at is null and account_id is null and data_class is null)",
    )
    .fetch_one(conn)
    .await?)
}

/// What weighing the due jobs came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// Nothing waits to be weighed, or the guard stands tripped already.
    Nothing,
    /// So many accounts' purges may begin.
    Admitted(u64),
    /// A limit was exceeded; none was admitted.
    Tripped(String),
}

/// Weighs every due job that has not been admitted yet against the guard's limits, in one transaction, and admits all of their accounts or none (I12, R31).
///
/// Takes the guard's advisory lock, and nothing that the platform could want. Run it in a transaction of its own.
///
/// # Errors
/// Those of the database.
pub async fn admit(conn: &mut PgConnection, limits: &config::Guard) -> Result<Admission, DatabaseError> {
    take(&mut *conn, GUARD_LOCK).await?;
    let (stopped, known): (bool, Option<i64>) =
        sqlx::query_as(sqlx::AssertSqlSafe(format!("select {}, (select known_accounts from retention.guard)", guarded())))
            .fetch_one(&mut *conn)
            .await?;
    if stopped {
        return Ok(Admission::Nothing);
    }
    // An account counts for a moment longer than it lets jobs begin: so much later than it was weighed may one of them have begun.
    let counts = window(limits.window + limits.window / MOMENTS);
    sqlx::query(sqlx::AssertSqlSafe(format!("delete from retention.admissions where admitted_at <= now() - {counts}")))
        .execute(&mut *conn)
        .await?;
    // What is weighed is what was let in, whatever is committed beside this.
    sqlx::query("savepoint weighing").execute(&mut *conn).await?;
    let accounts = sqlx::query(sqlx::AssertSqlSafe(format!(
        "insert into retention.admissions (account_id, admitted_at)
         select distinct j.account_id, now() from retention.jobs j where j.retain_until <= now() and {} is null and not {} and not {}
         on conflict (account_id) do update set admitted_at = excluded.admitted_at, released = false",
        admitted_at("j", limits.window),
        held("j"),
        paused("j")
    )))
    .execute(&mut *conn)
    .await?
    .rows_affected();
    let (within, begins): (i64, bool) = sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "select (select count(*) from retention.admissions where not released),
                exists (select 1 from retention.jobs j where j.admitted_at is null and j.retain_until <= now() and not {} and not {})",
        held("j"),
        paused("j")
    )))
    .fetch_one(&mut *conn)
    .await?;
    if begins && let Some(reason) = exceeded(limits, within.unsigned_abs(), known.map(i64::unsigned_abs)) {
        sqlx::query("rollback to savepoint weighing").execute(&mut *conn).await?;
        trip(&mut *conn, &reason).await?;
        return Ok(Admission::Tripped(reason));
    }
    Ok(if accounts == 0 { Admission::Nothing } else { Admission::Admitted(accounts) })
}

/// How many accounts the guard counts in its window together with those that are due and have not been weighed, and with more of which it trips, if any
/// limit is set.
///
/// # Errors
/// Those of the database.
#[expect(clippy::cast_precision_loss, reason = "numbers of accounts stay far below the 2^53 that a float counts exactly")]
pub async fn headroom(conn: &mut PgConnection, limits: &config::Guard) -> Result<(i64, Option<f64>), DatabaseError> {
    let (accounts, known): (i64, Option<i64>) = sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "select (select count(*) from (
                    select a.account_id from retention.admissions a where not a.released and a.admitted_at > now() - {}
                    union
                    select j.account_id from retention.jobs j where j.retain_until <= now() and {} is null and not {} and not {}) c),
                (select known_accounts from retention.guard)",
        window(limits.window),
        admitted_at("j", limits.window),
        held("j"),
        paused("j")
    )))
    .fetch_one(conn)
    .await?;
    let known = known.map(i64::unsigned_abs).filter(|known| *known >= limits.share_floor);
    // A whole number of accounts is compared with it: what is beyond the last of them limits nothing.
    let share = known.map(|known| (known as f64 * limits.max_share).floor()).filter(|_| limits.max_share < 1.0);
    let limit = limits.max_accounts.map(|most| most as f64);
    Ok((accounts, limit.into_iter().chain(share).reduce(f64::min)))
}

/// Holds in force, and the earliest instant at which one of them ends by itself.
///
/// # Errors
/// Those of the database.
pub async fn holds_in_force(conn: &mut PgConnection) -> Result<(i64, Option<DateTime<Utc>>), DatabaseError> {
    Ok(sqlx::query_as("select count(*), min(until) from retention.holds where released_at is null and (until is null or until > now())")
        .fetch_one(conn)
        .await?)
}

/// Whether somebody else is weighing what is due; waits until that is over.
///
/// # Errors
/// Those of the database.
pub async fn others_weigh(conn: &mut PgConnection) -> Result<bool, DatabaseError> {
    let alone: bool = sqlx::query_scalar("select pg_try_advisory_xact_lock($1)").bind(GUARD_LOCK).fetch_one(&mut *conn).await?;
    if !alone {
        take(conn, GUARD_LOCK).await?;
    }
    Ok(!alone)
}

/// Stops the start of purges until somebody with a reason releases it. Waits for the batches under way (R15).
///
/// # Errors
/// Those of the database.
pub async fn trip(conn: &mut PgConnection, reason: &str) -> Result<(), DatabaseError> {
    take(&mut *conn, STOP_LOCK).await?;
    sqlx::query(
        "insert into retention.guard (tripped_at, reason) values (now(), $1)
         on conflict (singleton) do update set tripped_at = coalesce(guard.tripped_at, excluded.tripped_at), reason = coalesce(guard.reason, excluded.reason)",
    )
    .bind(reason)
    .execute(conn)
    .await?;
    Ok(())
}

/// Trips the guard because the database's clock has jumped (R32), says so, and refuses to go on. In a transaction of its own: whoever noticed gives
/// up theirs.
///
/// # Errors
/// That refusal, once the guard has tripped; else those of the database, and whoever looks at the clock next notices again.
pub async fn clock_jumped<T>(database: &Database, clock: &Clock, jump: TimeDelta) -> Result<T, DatabaseError> {
    let seconds = jump.num_seconds();
    let reason =
        format!("clock: the database's clock jumped by {seconds} s against this process's; see that it is right before you release");
    let mut tx = database.begin(Purpose::Write).await?;
    let was_open = !guard(&mut tx).await?.tripped;
    trip(&mut tx, &reason).await?;
    Database::commit(tx).await?;
    clock.forget();
    if was_open {
        tell_tripped(&reason);
    }
    Err(DatabaseError::Refused(format!("the database's clock jumped by {seconds} s")))
}

/// Says in the log that the guard has tripped.
pub fn tell_tripped(reason: &str) {
    tracing::error!(event = "guard.tripped", reason, "the guard stopped the start of purges; nothing of what is due was begun");
}

/// Takes an advisory lock until this transaction has ended. Patient: whoever has it may be in a batch, or weigh very many jobs.
///
/// # Errors
/// Those of the database.
pub async fn take(conn: &mut PgConnection, lock: i64) -> Result<(), DatabaseError> {
    sqlx::query("select set_config('lock_timeout', '60s', true), set_config('statement_timeout', '120s', true)")
        .execute(&mut *conn)
        .await?;
    sqlx::query("select pg_advisory_xact_lock($1)").bind(lock).execute(conn).await?;
    Ok(())
}

/// How much of the guard's limits is taken within the window that ends now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Accounts that count.
    pub accounts: i64,
    /// The most that may, and which limit that is; none where there is no limit.
    pub most: Option<(i64, &'static str)>,
}

/// Counts what the guard counts now.
///
/// # Errors
/// Those of the database.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "numbers of accounts stay far below 2^53")]
pub async fn taken(conn: &mut PgConnection, limits: &config::Guard) -> Result<Taken, DatabaseError> {
    let (accounts, known): (i64, Option<i64>) = sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "select (select count(*) from retention.admissions where not released and admitted_at > now() - {}), (select known_accounts from retention.guard)",
        window(limits.window)
    )))
    .fetch_one(conn)
    .await?;
    let share = known
        .filter(|known| known.unsigned_abs() >= limits.share_floor)
        .map(|known| ((known as f64 * limits.max_share) as i64, "guard.max_share"));
    let most = limits.max_accounts.and_then(|most| i64::try_from(most).ok()).map(|most| (most, "guard.max_accounts"));
    Ok(Taken { accounts, most: most.into_iter().chain(share).min() })
}

/// Which limit that many accounts would exceed. Limits trip when exceeded, not when reached (R31).
#[expect(clippy::cast_precision_loss, reason = "numbers of accounts stay far below the 2^53 that a float counts exactly")]
fn exceeded(limits: &config::Guard, accounts: u64, known: Option<u64>) -> Option<String> {
    let window = humantime::format_duration(limits.window);
    if let Some(max) = limits.max_accounts
        && accounts > max
    {
        return Some(format!("{accounts} accounts would be purged within {window}; guard.max_accounts is {max}"));
    }
    let known = known?;
    if known >= limits.share_floor && accounts as f64 > known as f64 * limits.max_share {
        let percent = limits.max_share * 100.0;
        return Some(format!("{accounts} of {known} known accounts would be purged within {window}; guard.max_share is {percent}%"));
    }
    None
}

/// Remembers how many accounts the source knows, and trips when it has lost too many of them within the window, or all of them since the last
/// full comparison (R31). `source` names it in `retention.absences`.
///
/// # Errors
/// Those of the database.
#[expect(clippy::cast_precision_loss, reason = "numbers of accounts stay far below the 2^53 that a float counts exactly")]
pub async fn watch_source(
    conn: &mut PgConnection,
    limits: &config::Guard,
    source: &str,
    before: i64,
    known: i64,
) -> Result<Option<String>, DatabaseError> {
    let lost: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
        "select count(*) from retention.absences
         where source = $1 and first_missed_at > greatest(now() - {}, (select released_at from retention.guard))",
        window(limits.window)
    )))
    .bind(source)
    .fetch_one(&mut *conn)
    .await?;
    let floor = i64::try_from(limits.share_floor).unwrap_or(i64::MAX);
    let had = known + lost;
    let emptied = known == 0 && before > 0;
    let shrunk = had >= floor && lost as f64 > had as f64 * limits.max_shrink;
    let tripped = (limits.max_shrink < 1.0 && (emptied || shrunk)).then(|| {
        let (window, percent) = (humantime::format_duration(limits.window), limits.max_shrink * 100.0);
        format!("the source lost {lost} of {had} accounts within {window}; guard.max_shrink is {percent}%")
    });
    if let Some(reason) = &tripped {
        // The stop lock before the row, as everybody takes them.
        trip(&mut *conn, reason).await?;
    }
    sqlx::query("update retention.guard set known_accounts = $1").bind(known).execute(conn).await?;
    Ok(tripped)
}

fn window(length: Duration) -> String {
    format!("interval {}", literal(&format!("{} milliseconds", length.as_millis())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(max_accounts: Option<u64>) -> config::Guard {
        config::Guard { window: Duration::from_hours(24), max_accounts, max_share: 0.1, share_floor: 100, max_shrink: 0.1 }
    }

    #[test]
    fn i12_a_limit_trips_when_exceeded_and_not_when_reached() {
        assert_eq!(exceeded(&limits(Some(1_000)), 1_000, None), None);
        assert!(exceeded(&limits(Some(1_000)), 1_001, None).is_some());
        assert_eq!(exceeded(&limits(None), 10, Some(100)), None);
        assert!(exceeded(&limits(None), 11, Some(100)).is_some());
    }

    #[test]
    fn i12_the_share_counts_from_the_floor_on_and_zero_means_zero() {
        assert_eq!(exceeded(&limits(None), 99, Some(99)), None);
        assert!(exceeded(&limits(None), 99, Some(100)).is_some());
        assert!(exceeded(&limits(Some(0)), 1, None).is_some());
        assert_eq!(exceeded(&limits(Some(0)), 0, None), None);
    }
}
