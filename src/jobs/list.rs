//! Jobs, open and over, as they are shown: lists and counts for the command line, the log and the API. It changes nothing.

use std::{collections::BTreeMap, sync::LazyLock};

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{AssertSqlSafe, FromRow, PgConnection, types::Json};

use super::Counts;
use utoipa::ToSchema;

use crate::{database::DatabaseError, model, safeguards::held};

/// A job as the command line and the API print it.
#[derive(Debug, Clone, FromRow, Serialize, ToSchema)]
pub struct Job {
    /// Identity, printed as a string.
    pub id: String,
    /// The account.
    pub account_id: String,
    /// The feature.
    pub feature: String,
    /// The data class.
    pub data_class: String,
    /// scheduled, running, completed or cancelled.
    pub state: String,
    /// The starting point that counts.
    pub starting_point: String,
    /// Its instant.
    #[serde(serialize_with = "model::serialize_instant")]
    pub started_at: DateTime<Utc>,
    /// Nothing is deleted before.
    #[serde(serialize_with = "model::serialize_instant")]
    pub retain_until: DateTime<Utc>,
    /// Late after this.
    #[serde(serialize_with = "model::serialize_instant")]
    pub delete_by: DateTime<Utc>,
    /// When the first batch ran.
    #[serde(serialize_with = "model::serialize_optional_instant")]
    pub purge_began_at: Option<DateTime<Utc>>,
    /// Attempts begun.
    pub attempts: i32,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// A hold in force matches.
    pub held: bool,
    /// Past `delete_by`, open and not held (R28).
    pub overdue: bool,
    /// By target; every target of the class is there (R29).
    #[schema(value_type = BTreeMap<String, i64>)]
    pub records_deleted: Json<Counts>,
    /// By target (R27).
    #[schema(value_type = BTreeMap<String, String>)]
    pub outcomes: Json<BTreeMap<String, String>>,
    /// Whether the counts are exact.
    pub count_exact: bool,
    /// Fingerprint of the rule it was made under.
    pub policy: String,
    /// Why the last batch left it alone.
    pub blocked_by: Option<String>,
    /// When it was scheduled.
    #[serde(serialize_with = "model::serialize_instant")]
    pub created_at: DateTime<Utc>,
    /// When a separate look found nothing left.
    #[serde(serialize_with = "model::serialize_optional_instant")]
    pub completed_at: Option<DateTime<Utc>>,
    /// When the last copy of its records is gone that cannot be deleted one by one; only of a completed job, where its class has such copies.
    #[serde(serialize_with = "model::serialize_optional_instant")]
    pub last_copy_gone_at: Option<DateTime<Utc>>,
    /// When it was cancelled.
    #[serde(serialize_with = "model::serialize_optional_instant")]
    pub cancelled_at: Option<DateTime<Utc>>,
    /// Why.
    pub cancel_reason: Option<String>,
}

/// What `jobs list` asks for; an empty filter is everything.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only this job.
    pub id: Option<i64>,
    /// Only this state.
    pub state: Option<String>,
    /// Only this account.
    pub account: Option<String>,
    /// Only this data class.
    pub data_class: Option<String>,
    /// Only what is overdue.
    pub overdue: bool,
    /// So many at most; the newest come first.
    pub limit: Option<i64>,
}

/// Whether the row `j` of `retention.every_job` is overdue.
static OVERDUE: LazyLock<String> =
    LazyLock::new(|| format!("(j.state in ('scheduled', 'running') and j.delete_by < now() and not {})", held("j")));

/// A [`Job`] of the row `j` of `retention.every_job`.
pub(super) static JOB: LazyLock<String> = LazyLock::new(|| {
    format!(
        "j.id::text as id, j.account_id, j.feature, j.data_class, j.state, j.starting_point, j.started_at, j.retain_until, j.delete_by,
         j.purge_began_at, j.attempts, j.last_error, j.state in ('scheduled', 'running') and {} as held, {} as overdue,
         j.records_deleted, j.outcomes, j.count_exact, j.policy, j.blocked_by, j.created_at, j.completed_at, j.last_copy_gone_at, j.cancelled_at, j.cancel_reason",
        held("j"),
        &*OVERDUE
    )
});

/// The jobs that pass the filter, newest first.
///
/// # Errors
/// Those of the database.
pub async fn list(conn: &mut PgConnection, filter: &Filter) -> Result<Vec<Job>, DatabaseError> {
    let overdue = &*OVERDUE;
    // A condition that is asked for stands alone: with "or" beside it, a plan that is kept for all calls goes by no index.
    let id = if filter.id.is_some() { "j.id = $1" } else { "$1::int8 is null" };
    let account = if filter.account.is_some() { "j.account_id = $3" } else { "$3::text is null" };
    // The few jobs of an account are found by it and then sorted; no index in the order of ids may tempt whoever avoids sorting.
    let order = if filter.account.is_some() { "j.id + 0" } else { "j.id" };
    let query = format!(
        "select {} from retention.every_job j
         where {id} and ($2::text is null or j.state = $2) and {account} and ($4::text is null or j.data_class = $4) and (not $5 or {overdue})
         order by {order} desc limit $6",
        &*JOB
    );
    Ok(sqlx::query_as(AssertSqlSafe(query))
        .bind(filter.id)
        .bind(filter.state.as_deref())
        .bind(filter.account.as_deref())
        .bind(filter.data_class.as_deref())
        .bind(filter.overdue)
        .bind(filter.limit)
        .fetch_all(conn)
        .await?)
}

/// The levels of erasure that a job has reached, each with when that was found.
///
/// # Errors
/// Those of the database.
pub async fn levels(conn: &mut PgConnection, id: i64) -> Result<BTreeMap<String, String>, DatabaseError> {
    let rows: Vec<(String, DateTime<Utc>)> =
        sqlx::query_as("select level, reached_at from retention.levels where job_id = $1").bind(id).fetch_all(conn).await?;
    Ok(rows.into_iter().map(|(level, at)| (level, model::rfc3339(at))).collect())
}

/// Jobs counted as `status` shows them.
#[derive(Debug, Clone, Default, PartialEq, Eq, FromRow, Serialize, ToSchema)]
pub struct Tally {
    /// Waiting.
    pub scheduled: i64,
    /// Leased.
    pub running: i64,
    /// Verified empty.
    pub completed: i64,
    /// Voided.
    pub cancelled: i64,
    /// Open and past `retain_until`.
    pub due: i64,
    /// Open, past `delete_by`, not held.
    pub overdue: i64,
    /// Open and held.
    pub held: i64,
}

/// Counts the jobs.
///
/// # Errors
/// Those of the database.
pub async fn tally(conn: &mut PgConnection) -> Result<Tally, DatabaseError> {
    let held = held("j");
    Ok(sqlx::query_as(AssertSqlSafe(format!(
        "select count(*) filter (where not running) as scheduled, count(*) filter (where running) as running,
                (select count(*) from retention.history where state = 'completed') as completed,
                (select count(*) from retention.history where state = 'cancelled') as cancelled,
                count(*) filter (where retain_until <= now()) as due,
                count(*) filter (where delete_by < now() and not held) as overdue, count(*) filter (where held) as held
         from (select coalesce(j.lease_until > now(), false) as running, j.retain_until, j.delete_by, {held} as held from retention.jobs j) j"
    )))
    .fetch_one(conn)
    .await?)
}

/// When the planner last looked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Looks {
    /// The last cheap look.
    pub polled_at: Option<DateTime<Utc>>,
    /// The last full comparison.
    pub resynced_at: Option<DateTime<Utc>>,
}

/// Reads when the planner last looked.
///
/// # Errors
/// Those of the database.
pub async fn looks(conn: &mut PgConnection) -> Result<Looks, DatabaseError> {
    let rows: Vec<(String, DateTime<Utc>)> = sqlx::query_as("select kind, succeeded_at from retention.passes").fetch_all(conn).await?;
    let at = |kind: &str| rows.iter().find(|(k, _)| k == kind).map(|(_, at)| *at);
    Ok(Looks { polled_at: at("poll"), resynced_at: at("resync") })
}
