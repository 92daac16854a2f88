//! What was and will be sent, for people; and what they may do about it.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{FromRow, PgConnection};

use crate::{
    database::DatabaseError,
    model::{serialize_instant, serialize_optional_instant},
};

/// Which notices are listed.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only those for this endpoint.
    pub endpoint: Option<String>,
    /// Only those that did not arrive: given up, or tried in vain so far.
    pub failed: bool,
    /// So many at most.
    pub limit: Option<i64>,
}

/// A notice.
#[derive(Debug, Clone, Serialize, FromRow)]
pub struct Notice {
    /// The fact: `webhook-id`, and the id of the event.
    pub id: String,
    /// The endpoint.
    pub endpoint: String,
    /// What happened.
    #[sqlx(rename = "type")]
    pub r#type: String,
    /// Whose records it is about.
    pub account_id: Option<String>,
    /// When it happened.
    #[serde(serialize_with = "serialize_instant")]
    pub at: DateTime<Utc>,
    /// `waiting`, `sent` or `given_up`.
    pub state: String,
    /// Tries so far.
    pub attempts: i32,
    /// Not tried before this instant; null when it is over.
    #[serde(serialize_with = "serialize_optional_instant")]
    pub next_at: Option<DateTime<Utc>>,
    /// When it was sent or given up.
    #[serde(serialize_with = "serialize_optional_instant")]
    pub ended_at: Option<DateTime<Utc>>,
    /// How the last try failed.
    pub last_error: Option<String>,
}

/// Notices, the newest first.
///
/// # Errors
/// Those of the database.
pub async fn list(conn: &mut PgConnection, filter: &Filter) -> Result<Vec<Notice>, DatabaseError> {
    Ok(sqlx::query_as(
        "select event_id as id, endpoint, type, account_id, at, coalesce(outcome, 'waiting') as state, attempts,
                case when outcome is null then next_at end as next_at, ended_at, last_error
         from retention.notices
         where ($1::text is null or endpoint = $1) and (not $2 or outcome = 'given_up' or (outcome is null and last_error is not null))
         order by retention.notices.id desc limit $3",
    )
    .bind(&filter.endpoint)
    .bind(filter.failed)
    .bind(filter.limit)
    .fetch_all(conn)
    .await?)
}

/// Which notices are sent once more.
#[derive(Debug, Clone, Default)]
pub struct Replay {
    /// Only those for this endpoint.
    pub endpoint: Option<String>,
    /// Only those of what happened at or after this instant.
    pub since: Option<DateTime<Utc>>,
    /// Only this one.
    pub id: Option<String>,
}

/// Lets notices be sent once more, under the same ids, whatever became of them. How many.
///
/// # Errors
/// Those of the database.
pub async fn replay(conn: &mut PgConnection, which: &Replay) -> Result<u64, DatabaseError> {
    let replayed = sqlx::query(
        "update retention.notices set outcome = null, ended_at = null, attempts = 0, next_at = now(), waiting_since = now()
         where ($1::text is null or endpoint = $1) and ($2::timestamptz is null or at >= $2) and ($3::text is null or event_id = $3)",
    )
    .bind(&which.endpoint)
    .bind(which.since)
    .bind(&which.id)
    .execute(conn)
    .await?;
    Ok(replayed.rows_affected())
}

/// Sends to an endpoint again that said that it is gone for good; what waits has its whole time again. Whether it was disabled.
///
/// # Errors
/// Those of the database.
pub async fn enable(conn: &mut PgConnection, endpoint: &str) -> Result<bool, DatabaseError> {
    let enabled = sqlx::query(
        "update retention.notice_endpoints set disabled_at = null, disabled_for = null, tried_for = null where name = $1 and disabled_for is not null",
    )
    .bind(endpoint)
    .execute(conn)
    .await?;
    Ok(enabled.rows_affected() > 0)
}

/// An id for a test, and the ledger's name.
///
/// # Errors
/// Those of the database.
pub async fn of_a_test(conn: &mut PgConnection) -> Result<(String, String), DatabaseError> {
    let asked = "select 'test-' || gen_random_uuid(), coalesce((select origin from retention.ledger), 'retentiond')";
    Ok(sqlx::query_as(asked).fetch_one(conn).await?)
}
