//! Which server answers (R32): the guard was made for one, and on another nothing is purged until somebody has looked. Nothing is decided by what a
//! standby says.

use sqlx::PgConnection;

use super::trip;
use crate::database::{Database, DatabaseError, Purpose};

/// The server that answered, compared with the one that the guard knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Server {
    /// The one it knows, or the first.
    Known,
    /// The same data on a new timeline: a standby was promoted, or the server restored to an older state.
    Promoted,
    /// Another one behind the same address; the guard has tripped, for this reason.
    Another(String),
}

/// The identifier of the server that runs the statement.
pub(super) const IDENTIFIER: &str = "(select system_identifier from pg_control_system())";

/// The timeline that server is on.
const TIMELINE: &str = "('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int8";

/// Asks which server this is, remembers it, and trips the guard when it is another than it was made for.
///
/// # Errors
/// Those of the database.
pub async fn recognize(conn: &mut PgConnection) -> Result<Server, DatabaseError> {
    let now = format!("select {IDENTIFIER} as server, {TIMELINE} as timeline");
    let known: Option<(Option<i64>, Option<i64>, i64, i64)> =
        sqlx::query_as(sqlx::AssertSqlSafe(format!("select g.server, g.timeline, n.server, n.timeline from retention.guard g, ({now}) n")))
            .fetch_optional(&mut *conn)
            .await?;
    // A guard that is missing stands in the way by itself.
    let Some((known, timeline, server, current)) = known else { return Ok(Server::Known) };
    let seen = match known {
        Some(known) if known != server => {
            let reason = format!(
                "server: the database has system identifier {server} and was {known} before; this is another server, or a restored one"
            );
            // The stop lock before the row, as everybody takes them.
            trip(&mut *conn, &reason).await?;
            Server::Another(reason)
        }
        Some(_) if timeline.is_some_and(|known| known != current) => Server::Promoted,
        Some(_) | None => Server::Known,
    };
    // A new timeline is remembered once everything has been compared.
    if (known, timeline) != (Some(server), Some(current)) && seen != Server::Promoted {
        sqlx::query("update retention.guard set server = $1, timeline = $2").bind(server).bind(current).execute(conn).await?;
    }
    Ok(seen)
}

/// Remembers the timeline after a promotion, once everything has been compared.
///
/// # Errors
/// Those of the database.
pub async fn remember_timeline(database: &Database) -> Result<(), DatabaseError> {
    let mut tx = database.begin(Purpose::Write).await?;
    sqlx::query(sqlx::AssertSqlSafe(format!("update retention.guard set timeline = {TIMELINE}"))).execute(&mut *tx).await?;
    Database::commit(tx).await
}

/// Refuses a standby: what it says is old, and it may fall further behind without saying so.
///
/// # Errors
/// That refusal, as a server that cannot be reached, and those of the database.
pub async fn refuse_standby(conn: &mut PgConnection) -> Result<(), DatabaseError> {
    let standby: bool = sqlx::query_scalar("select pg_is_in_recovery()").fetch_one(conn).await?;
    if standby { Err(DatabaseError::standby()) } else { Ok(()) }
}
