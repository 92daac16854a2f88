//! The accepted policy (R11): the daemon acts only under the policy that the database says somebody stands behind. What would delete more or
//! sooner waits for that; what deletes less or later is accepted by itself, unless it was in force before.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{FromRow, PgConnection, types::Json};

use super::{
    STOP_LOCK,
    approvals::{self, Approval, Given},
    take,
};
use crate::{
    config::{Change, Terms},
    database::DatabaseError,
    model,
    sql::literal,
};

/// Planners take this advisory lock shared while they settle, and whoever changes the policy takes it exclusively: no job is made under a
/// policy that has been replaced.
const POLICY_LOCK: i64 = 0x7265_7465_6e74_0003;
/// Who accepts what needs nobody.
const OURSELVES: &str = "retentiond";

/// Whether the policy with this hash is in force, as a condition. Without any accepted policy none is (I6).
#[must_use]
pub fn in_force(hash: &str) -> String {
    format!(
        "exists (select 1 from (select p.hash from retention.policies p order by p.id desc limit 1) p where p.hash = {})",
        literal(hash)
    )
}

/// The policy in force.
#[derive(Debug, Clone, FromRow, Serialize)]
pub struct Accepted {
    /// Fingerprint of the terms.
    pub hash: String,
    /// What it says.
    pub terms: Json<Terms>,
    /// Since when.
    #[serde(serialize_with = "model::serialize_instant")]
    pub accepted_at: DateTime<Utc>,
    /// Who accepted it.
    pub accepted_by: String,
    /// Why.
    pub reason: String,
}

/// How the policy that a configuration asks for stands to the one in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Agreement {
    /// It is the one in force.
    InForce,
    /// It was accepted just now, by itself: the first one, or one that deletes less or later.
    Accepted(Vec<Change>),
    /// Somebody has to accept it first.
    Waiting(Vec<Change>),
}

/// The policy in force; `None` before the first.
///
/// # Errors
/// Those of the database.
pub async fn accepted(conn: &mut PgConnection) -> Result<Option<Accepted>, DatabaseError> {
    Ok(sqlx::query_as("select hash, terms, accepted_at, accepted_by, reason from retention.policies order by id desc limit 1")
        .fetch_optional(conn)
        .await?)
}

/// How the policy stands to the one in force. Changes nothing: a policy that could be accepted by itself waits here.
///
/// # Errors
/// Those of the database.
pub async fn agreement(conn: &mut PgConnection, terms: &Terms) -> Result<Agreement, DatabaseError> {
    Ok(match compare(accepted(conn).await?.as_ref(), terms) {
        Agreement::Accepted(changes) => Agreement::Waiting(changes),
        settled @ (Agreement::InForce | Agreement::Waiting(_)) => settled,
    })
}

/// Brings the policy into force where that needs nobody, and says what else it waits for. Waits for batches and planners under way.
///
/// # Errors
/// Those of the database.
pub async fn agree(conn: &mut PgConnection, terms: &Terms) -> Result<Agreement, DatabaseError> {
    let agreement = compare(accepted(&mut *conn).await?.as_ref(), terms);
    let Agreement::Accepted(changes) = agreement else { return Ok(agreement) };
    // What was in force before has been replaced on purpose: a replica that comes back with an old file does not take that back.
    let before: bool = sqlx::query_scalar("select exists (select 1 from retention.policies where hash = $1)")
        .bind(terms.hash())
        .fetch_one(&mut *conn)
        .await?;
    if before {
        return Ok(Agreement::Waiting(changes));
    }
    stop_everybody(&mut *conn).await?;
    // Another replica may have been faster, with another file.
    let before = accepted(&mut *conn).await?;
    let agreement = compare(before.as_ref(), terms);
    if matches!(agreement, Agreement::Accepted(_)) {
        let reason = if before.is_some() { "nothing in it deletes more or sooner" } else { "the first" };
        write(conn, terms, reason, OURSELVES).await?;
    }
    Ok(agreement)
}

/// Counts what somebody says to this policy, before it is put into force.
///
/// # Errors
/// Those of the database.
pub async fn approve(conn: &mut PgConnection, terms: &Terms, given: Given<'_>) -> Result<Approval, DatabaseError> {
    stop_everybody(&mut *conn).await?;
    approvals::approve(conn, approvals::Act::PolicyAccept, &terms.hash(), given).await
}

/// Puts the policy into force. When its transaction has committed, nothing is planned or deleted under another any more.
///
/// # Errors
/// Those of the database.
pub async fn accept(conn: &mut PgConnection, terms: &Terms, reason: &str, by: &str) -> Result<(), DatabaseError> {
    stop_everybody(&mut *conn).await?;
    write(conn, terms, reason, by).await
}

/// Refuses unless the policy with this hash is in force, and keeps it so until the transaction ends.
///
/// # Errors
/// That refusal, and those of the database.
pub async fn hold_to(conn: &mut PgConnection, hash: &str) -> Result<(), DatabaseError> {
    sqlx::query("select pg_advisory_xact_lock_shared($1)").bind(POLICY_LOCK).execute(&mut *conn).await?;
    let ours: bool = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("select {}", in_force(hash)))).fetch_one(conn).await?;
    if ours { Ok(()) } else { Err(DatabaseError::Refused("another policy is in force than this configuration asks for".to_owned())) }
}

fn compare(accepted: Option<&Accepted>, terms: &Terms) -> Agreement {
    let Some(accepted) = accepted else { return Agreement::Accepted(Vec::new()) };
    if accepted.hash == terms.hash() {
        return Agreement::InForce;
    }
    let changes = accepted.terms.0.changes(terms);
    // A difference that we cannot name is one that somebody has to look at.
    if changes.is_empty() || changes.iter().any(|c| c.needs_acceptance) {
        Agreement::Waiting(changes)
    } else {
        Agreement::Accepted(changes)
    }
}

async fn stop_everybody(conn: &mut PgConnection) -> Result<(), DatabaseError> {
    take(&mut *conn, STOP_LOCK).await?;
    take(conn, POLICY_LOCK).await
}

async fn write(conn: &mut PgConnection, terms: &Terms, reason: &str, by: &str) -> Result<(), DatabaseError> {
    sqlx::query("insert into retention.policies (hash, terms, accepted_by, reason) values ($1, $2, $3, $4)")
        .bind(terms.hash())
        .bind(Json(terms))
        .bind(by)
        .bind(reason)
        .execute(conn)
        .await?;
    Ok(())
}
