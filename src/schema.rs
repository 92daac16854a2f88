//! Creates and checks the daemon's own tables (schema `retention`) and, on request, the reference platform's.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use sqlx::{
    PgConnection,
    migrate::{MigrateError, Migrator},
};

use crate::{
    config,
    database::{self, DatabaseError},
    ledger::{self, LedgerError},
};

/// Where the applied migrations are noted.
const OWN: &str = "retention.migrations";
const PLATFORM: &str = "retention.platform_migrations";

/// A migration that waits for a lock makes everybody wait who comes after it: it lets them through after two seconds and then tries again.
const LOCK: &str = "set lock_timeout = '2s'";
const LOCK_NOT_AVAILABLE: &str = "55P03";
/// How long it lets them.
const REST: Duration = Duration::from_secs(3);
/// How long it tries.
const PATIENCE: Duration = Duration::from_mins(3);

fn own() -> Migrator {
    let mut migrator = sqlx::migrate!("migrations/retention");
    migrator.dangerous_set_table_name(OWN);
    migrator.create_schema("retention");
    migrator
}

fn platform() -> Migrator {
    let mut migrator = sqlx::migrate!("migrations/platform");
    migrator.dangerous_set_table_name(PLATFORM);
    migrator.create_schema("retention");
    migrator
}

/// Creates or upgrades the daemon's tables, and the reference platform's when `with_platform`. Idempotent.
///
/// # Errors
/// When the database is unreachable or refuses, or was migrated by a newer version; [`SchemaError::Locked`] after three minutes.
pub async fn migrate(config: &config::Config, with_platform: bool) -> Result<(), SchemaError> {
    let mut connection = database::connect(&config.database).await?;
    sqlx::query(LOCK).execute(&mut connection).await.map_err(DatabaseError::from)?;
    patiently(&own(), &mut connection).await?;
    ledger::create(&mut connection, config.ledger.key.as_ref()).await?;
    if with_platform {
        patiently(&platform(), &mut connection).await?;
    }
    Ok(())
}

/// Each migration is a transaction: what was done stays, and the next try goes on behind it.
async fn patiently(migrator: &Migrator, connection: &mut PgConnection) -> Result<(), SchemaError> {
    let began = Instant::now();
    loop {
        match migrator.run_direct(None, connection, false).await {
            Err(error) if !is_locked(&error) => return Err(error.into()),
            Err(_) if began.elapsed() >= PATIENCE => return Err(SchemaError::Locked),
            Err(_) => tokio::time::sleep(REST).await,
            Ok(()) => return Ok(()),
        }
    }
}

fn is_locked(error: &MigrateError) -> bool {
    let (MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _)) = error else { return false };
    cause.as_database_error().and_then(sqlx::error::DatabaseError::code).is_some_and(|code| code == LOCK_NOT_AVAILABLE)
}

/// Whether the daemon's tables are those of this version.
///
/// # Errors
/// [`SchemaError::Missing`], [`SchemaError::Older`] or [`SchemaError::Newer`] with the remedy; or those of the database.
pub async fn check(conn: &mut PgConnection) -> Result<(), SchemaError> {
    let there: bool =
        sqlx::query_scalar("select to_regclass($1) is not null").bind(OWN).fetch_one(&mut *conn).await.map_err(DatabaseError::from)?;
    if !there {
        return Err(SchemaError::Missing);
    }
    let applied: Vec<i64> =
        sqlx::query_scalar("select version from retention.migrations where success").fetch_all(conn).await.map_err(DatabaseError::from)?;
    let applied: BTreeSet<i64> = applied.into_iter().collect();
    let known: BTreeSet<i64> = own().iter().map(|m| m.version).collect();
    if known.difference(&applied).next().is_some() {
        return Err(SchemaError::Older);
    }
    match applied.difference(&known).next() {
        Some(version) => Err(SchemaError::Newer(*version)),
        None => Ok(()),
    }
}

/// Why the daemon's tables cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// Never migrated.
    #[error("the daemon's tables do not exist in this database; create them with `retentiond migrate`")]
    Missing,
    /// Migrated by an older version.
    #[error("the daemon's tables are older than this program; upgrade them with `retentiond migrate`")]
    Older,
    /// Migrated by a newer version.
    #[error("the daemon's tables were made by a newer program (migration {0} is unknown here); run that version")]
    Newer(i64),
    /// Not a question of tables.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The ledger could not be begun.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Somebody else keeps the tables locked.
    #[error(
        "the migration waits for a lock on the daemon's tables that somebody else keeps; end what reads or writes them for long, and migrate again"
    )]
    Locked,
    /// A migration failed.
    #[error("the migration failed")]
    Migration(#[from] MigrateError),
}
