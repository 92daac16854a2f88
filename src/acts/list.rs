//! What people did, as it is shown.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{FromRow, PgConnection};

use utoipa::ToSchema;

use crate::{database::DatabaseError, model};

/// An act that somebody did.
#[derive(Debug, Clone, FromRow, Serialize, ToSchema)]
pub struct Entry {
    /// Identity, printed as a string.
    pub id: String,
    /// When.
    #[serde(serialize_with = "model::serialize_instant")]
    pub done_at: DateTime<Utc>,
    /// What, in the words of the command line.
    pub act: String,
    /// shell, api or page.
    pub surface: String,
    /// Who.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// done, or waits for another person.
    pub outcome: String,
    /// The hold, job or request.
    pub subject: Option<String>,
    /// The account.
    pub account_id: Option<String>,
    /// The feature.
    pub feature: Option<String>,
    /// The data class.
    pub data_class: Option<String>,
}

/// What is asked for; nothing given is everything.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// Only this kind of act.
    pub act: Option<String>,
    /// Only by whoever is called so.
    pub actor: Option<String>,
    /// Only about this account.
    pub account: Option<String>,
    /// Only those with a lower id.
    pub before: Option<i64>,
    /// So many at most.
    pub limit: i64,
}

/// The acts that pass, the newest first.
///
/// # Errors
/// Those of the database.
pub async fn list(conn: &mut PgConnection, asked: &Asked) -> Result<Vec<Entry>, DatabaseError> {
    Ok(sqlx::query_as(
        "select a.id::text as id, a.done_at, a.act, a.surface, a.actor, a.reason, a.outcome, a.subject, a.account_id, a.feature, a.data_class
         from retention.acts a
         where ($1::text is null or a.act = $1) and ($2::text is null or a.actor = $2) and ($3::text is null or a.account_id = $3)
           and ($4::int8 is null or a.id < $4)
         order by a.id desc limit $5",
    )
    .bind(asked.act.as_deref())
    .bind(asked.actor.as_deref())
    .bind(asked.account.as_deref())
    .bind(asked.before)
    .bind(asked.limit)
    .fetch_all(conn)
    .await?)
}
