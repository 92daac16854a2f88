//! The way to the main Postgres: one pool, transactions that all say the same things about themselves (R16), errors by what to do next.
//! It knows no table of ours and none of the platform's.

use std::{str::FromStr, time::Duration};

use secrecy::ExposeSecret;
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, PgConnection, PgPool, Postgres, Row, Transaction,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::{config, heartbeat};

/// A transaction that owns its connection.
pub type Tx = Transaction<'static, Postgres>;

/// What a transaction is for, which decides how long it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Short reads that must not write.
    Read,
    /// Reads that must not cost much: what a scrape or a worker wants to know in passing.
    Glance,
    /// What a screen shows: index by index, in the order of the index, and soon.
    Screen,
    /// A long read of whole tables. Holds no lock that the platform could want.
    Compare,
    /// A slice of a full comparison, and a poll: index by index, in the order of the index, whatever the statistics say.
    Slice,
    /// Short writes to our own tables, and batches.
    Write,
    /// What a worker asks the job table between batches. Always by index and in its order: statistics from before a mass termination
    /// fell due, or from after, would make each of these questions read the whole table.
    Work,
    /// Writes to our own tables alone that may touch very many of them.
    Bulk,
}

/// Milliseconds that a statement of [`Purpose::Write`] may take.
const WRITE_STATEMENT: u128 = 5_000;
/// Milliseconds that it may wait for a lock.
const WRITE_LOCK: u128 = 2_000;

impl Purpose {
    /// READ COMMITTED so that each statement sees what has been committed before it; row security off so that a hidden row
    /// is an error and never an absence; UTC so that a day has 24 hours. Our own statements name every schema; the search path is
    /// for the platform's triggers, which may rely on `public`. No JIT: the plans that batches insist on look costly to it.
    fn begin(self, pooled: bool) -> String {
        // Milliseconds a statement may take, a lock may be waited for, and the transaction may sit idle: a full comparison waits while its
        // pages are settled. Bulk holds nothing that the platform could want: while one worker admits a mass termination, the others wait.
        let by_index = "; set local enable_seqscan = off; set local enable_bitmapscan = off";
        let in_order = "; set local enable_seqscan = off; set local enable_bitmapscan = off; set local enable_hashjoin = off; \
                        set local enable_mergejoin = off; set local enable_material = off; set local enable_sort = off";
        let (access, statement, lock, idle, more) = match self {
            Self::Read => ("read only", 30_000, 2_000, 5_000, ""),
            Self::Glance => ("read only", 2_000, 500, 5_000, ""),
            Self::Screen => ("read only", 2_000, 500, 5_000, in_order),
            Self::Compare => ("read only", 600_000, 2_000, 120_000, ""),
            Self::Slice => ("read only", 30_000, 2_000, 5_000, in_order),
            Self::Write => ("read write", WRITE_STATEMENT, WRITE_LOCK, 5_000, ""),
            Self::Work => ("read write", 5_000, 2_000, 5_000, by_index),
            Self::Bulk => ("read write", 120_000, 120_000, 5_000, ""),
        };
        let forget = if pooled { FORGET_STATEMENTS } else { "" };
        format!(
            "begin isolation level read committed {access}{forget}; set local row_security = off; set local timezone = 'UTC'; \
             set local search_path = pg_catalog, public, pg_temp; set local jit = off; set local statement_timeout = {statement}; \
             set local lock_timeout = {lock}; set local idle_in_transaction_session_timeout = {idle}; \
             set local standard_conforming_strings = on; set local datestyle = 'ISO, YMD'; set local intervalstyle = 'postgres'{more}"
        )
    }
}

/// Without its cache the driver still names each statement, counting from one in each connection of ours, and never closes it. Behind a
/// transaction-mode pooler (R20) many of them meet in one session of the server, and so would the names. Only those of the driver: a pooler
/// that knows prepared statements has given them names of its own, and relies on them.
const FORGET_STATEMENTS: &str = "; do $forget$ declare n text; begin \
    for n in select name from pg_catalog.pg_prepared_statements where name like 'sqlx\\_s\\_%' \
    loop execute pg_catalog.format('deallocate %I', n); end loop; end $forget$";

/// A pool of connections to the main database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Database {
    pool: PgPool,
    /// Statements are not cached: somebody pools the server's sessions.
    pooled: bool,
    options: PgConnectOptions,
}

impl Database {
    /// Prepares the pool; opens nothing yet.
    ///
    /// # Errors
    /// When the address cannot be parsed.
    pub fn new(config: &config::Database) -> Result<Self, DatabaseError> {
        let options = options(config)?;
        let pool = PgPoolOptions::new()
            .max_connections(config.max_connections)
            .acquire_timeout(Duration::from_secs(5))
            .idle_timeout(Duration::from_mins(5))
            .test_before_acquire(false)
            .before_acquire(|connection, _| {
                Box::pin(async move {
                    // Outside a transaction the two are the same instant. A connection that came back with one open is closed (R20).
                    // As one plain message: of a prepared statement the parts arrive one after the other, and the instants always differ.
                    let row = sqlx::raw_sql("select now() = statement_timestamp()").fetch_one(connection).await;
                    let idle = row.and_then(|row| row.try_get::<bool, _>(0));
                    Ok(idle.unwrap_or(false))
                })
            })
            .connect_lazy_with(options.clone());
        Ok(Self { pool, pooled: config.statement_cache == 0, options })
    }

    /// Opens a transaction. Runs in a task of its own: a `begin` that is dropped half-way leaves an open transaction in the pool (R20).
    ///
    /// # Errors
    /// When the database is unreachable, refuses us, or has no connection to spare within five seconds.
    pub async fn begin(&self, purpose: Purpose) -> Result<Tx, DatabaseError> {
        heartbeat::beat();
        let (pool, statements) = (self.pool.clone(), purpose.begin(self.pooled));
        match owned(async move { pool.begin_with(AssertSqlSafe(statements)).await }).await {
            Err(DatabaseError::Driver(sqlx::Error::PoolTimedOut)) => Err(self.why_none().await),
            begun => begun,
        }
    }

    /// Why the pool had no connection for us: it keeps trying a server that refuses, and does not say so.
    async fn why_none(&self) -> DatabaseError {
        let options = self.options.clone();
        let connect = owned(async move { PgConnection::connect_with(&options).await?.close().await });
        match tokio::time::timeout(Duration::from_secs(1), connect).await {
            Ok(Err(why)) => why,
            Ok(Ok(())) | Err(_) => sqlx::Error::PoolTimedOut.into(),
        }
    }

    /// Commits, in a task of its own so that nobody can drop it half-way.
    ///
    /// # Errors
    /// When the answer does not arrive; the commit may have happened all the same, so read back before acting on it.
    pub async fn commit(tx: Tx) -> Result<(), DatabaseError> {
        owned(async move { tx.commit().await }).await
    }

    /// The role that its connections are of.
    #[must_use]
    pub fn role(&self) -> &str {
        self.options.get_username()
    }

    /// How many connections there are, and how many of them nobody uses at this instant.
    #[must_use]
    pub fn connections(&self) -> (u32, usize) {
        (self.pool.size(), self.pool.num_idle())
    }

    /// Closes every connection.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// For the rest of the transaction, nested loops over indexes alone: what a statement about some accounts needs (R18). Never a join between
/// two sets of its own, which would be quadratic.
///
/// # Errors
/// Those of the database.
pub async fn only_by_index(conn: &mut PgConnection) -> Result<(), DatabaseError> {
    sqlx::query(
        "select set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true), set_config('enable_hashjoin', 'off', true),
                set_config('enable_mergejoin', 'off', true)",
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Within a transaction of [`Purpose::Write`]: no lock is waited for longer than `lock` and no statement takes longer than `statement`, if that is
/// given, until [`calm`].
/// Both are meant for a `deadlock_timeout` of a second, and get shorter with it.
///
/// # Errors
/// Those of the database.
pub async fn hurry(conn: &mut PgConnection, lock: Duration, statement: Option<Duration>) -> Result<(), DatabaseError> {
    let shorter = format!(
        "select set_config('lock_timeout', greatest(1, least(1000, s.setting::int8) * $1 / 1000)::text, true),
                          set_config('statement_timeout', coalesce(least(1000, s.setting::int8) * $2 / 1000 + 1, {WRITE_STATEMENT})::text, true)
                   from pg_settings s where s.name = 'deadlock_timeout'"
    );
    let millis = |limit: Duration| i64::try_from(limit.as_millis()).unwrap_or(i64::MAX);
    sqlx::query(sqlx::AssertSqlSafe(shorter)).bind(millis(lock)).bind(statement.map(millis)).execute(conn).await?;
    Ok(())
}

/// Ends [`hurry`].
///
/// # Errors
/// Those of the database.
pub async fn calm(conn: &mut PgConnection) -> Result<(), DatabaseError> {
    sqlx::query("select set_config('lock_timeout', $1, true), set_config('statement_timeout', $2, true)")
        .bind(WRITE_LOCK.to_string())
        .bind(WRITE_STATEMENT.to_string())
        .execute(conn)
        .await?;
    Ok(())
}

/// A single connection outside the pool, for migrations.
///
/// # Errors
/// When the database is unreachable or refuses us.
pub async fn connect(config: &config::Database) -> Result<PgConnection, DatabaseError> {
    Ok(PgConnection::connect_with(&options(config)?).await?)
}

fn options(config: &config::Database) -> Result<PgConnectOptions, DatabaseError> {
    Ok(PgConnectOptions::from_str(config.url.expose_secret())?
        .application_name("retentiond")
        .statement_cache_capacity(config.statement_cache)
        // The driver would log whole statements; what is slow shows in `duration_ms` of our own events.
        .disable_statement_logging()
        .extra_float_digits(None))
}

/// Goes on with `work` to its end, also when whoever waits for it is gone: a `begin` or `commit` that is dropped half-way leaves an open transaction in its
/// pool (R20).
///
/// # Errors
/// Those of the work.
#[expect(
    clippy::disallowed_methods,
    reason = "begin and commit must outlive whoever waits for them; they are bounded by the timeouts they set"
)]
pub async fn owned<T: Send + 'static>(work: impl Future<Output = Result<T, sqlx::Error>> + Send + 'static) -> Result<T, DatabaseError> {
    match tokio::spawn(work).await {
        Ok(done) => Ok(done?),
        Err(lost) => Err(sqlx::Error::Io(std::io::Error::other(lost)).into()),
    }
}

/// Does something to its end, whether or not anybody still waits for it: what has been committed is also told. `None` when it panicked. It has to bound itself.
#[expect(clippy::disallowed_methods, reason = "it must outlive whoever waits for it; it is bounded by the timeouts of its transactions")]
pub async fn to_the_end<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Option<T> {
    tokio::spawn(work).await.ok()
}

/// For the rest of the transaction no statement takes longer.
///
/// # Errors
/// Those of the database.
pub async fn limit_statements(conn: &mut PgConnection, longest: Duration) -> Result<(), DatabaseError> {
    let millis = longest.as_millis().to_string();
    sqlx::query("select set_config('statement_timeout', $1, true)").bind(millis).execute(conn).await?;
    Ok(())
}

/// A database error; [`DatabaseError::kind`] says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// What the server or the driver said.
    #[error("{}", describe(.0))]
    Driver(sqlx::Error),
    /// The server answered, and with what it said we do not go on.
    #[error("{0}")]
    Refused(String),
}

// Not a source: its own words already hold what is beneath, and the driver's would repeat them.
impl From<sqlx::Error> for DatabaseError {
    fn from(error: sqlx::Error) -> Self {
        Self::Driver(error)
    }
}

/// What to do about a database error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Try again later.
    Unreachable,
    /// The server has no disk or memory left, perhaps only for one table (I13).
    Exhausted,
    /// Somebody must mend the credentials.
    Credentials,
    /// Somebody must grant something.
    Grants,
    /// A table, column or type is not what it was.
    Schema,
    /// It took too long; a smaller batch may pass.
    Timeout,
    /// Somebody else holds a lock that was waited for in vain; step aside.
    Locked,
    /// Lost a race with another transaction; try again.
    Conflict,
    /// The server is not the one to ask, or not in the state to be asked.
    Refused,
    /// Anything else.
    Other,
}

impl Kind {
    /// One word for monitors; the set is closed.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exhausted => "exhausted",
            Self::Grants => "grants",
            Self::Schema => "schema",
            Self::Timeout => "timeout",
            Self::Conflict => "conflict",
            Self::Refused => "refused",
            // The first three never end an attempt: the worker rests, or the job steps aside.
            Self::Unreachable | Self::Credentials | Self::Locked | Self::Other => "other",
        }
    }
}

impl DatabaseError {
    /// Sorts the error by what to do about it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        let error = match self {
            Self::Driver(error) => error,
            Self::Refused(_) => return Kind::Refused,
        };
        #[expect(clippy::wildcard_enum_match_arm, reason = "the driver's errors are open-ended; what is not the connection is ours")]
        match error {
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => {
                Kind::Unreachable
            }
            // Whoever listens in front of the server hung up before the first word.
            sqlx::Error::Protocol(said) if said.starts_with("unexpected response from SSLRequest") => Kind::Unreachable,
            sqlx::Error::Database(e) => match e.code().as_deref().unwrap_or_default() {
                "28000" | "28P01" => Kind::Credentials,
                "42501" => Kind::Grants,
                "42P01" | "42703" | "42704" | "42883" | "3F000" | "42804" | "42809" => Kind::Schema,
                "57014" | "25P03" | "25P04" => Kind::Timeout,
                "55P03" => Kind::Locked,
                "40001" | "40P01" => Kind::Conflict,
                // Not allowed to write: a standby, or a primary on its way down.
                "25006" => Kind::Unreachable,
                "53000" | "53100" | "53200" | "53400" => Kind::Exhausted,
                code if ["08", "57P", "53"].iter().any(|class| code.starts_with(class)) || code == "3D000" => Kind::Unreachable,
                _ => Kind::Other,
            },
            _ => Kind::Other,
        }
    }

    /// A standby answered: waiting for its promotion, or naming the primary, may help.
    #[must_use]
    pub fn standby() -> Self {
        sqlx::Error::Io(std::io::Error::other("this server is a standby; name the primary")).into()
    }

    /// The five-letter SQL state, where the server gave one.
    #[must_use]
    pub fn sqlstate(&self) -> Option<String> {
        match self {
            Self::Driver(error) => error.as_database_error().and_then(|e| e.code().map(std::borrow::Cow::into_owned)),
            Self::Refused(_) => None,
        }
    }
}

/// The server's own message without its DETAIL, which can quote a record's contents. In “ ” where the message can do so as well: it is of a function
/// or trigger of the platform's, or about a value. The log leaves that out when it must not name accounts.
fn describe(error: &sqlx::Error) -> String {
    let Some(e) = error.as_database_error() else { return error.to_string() };
    let code = e.code().unwrap_or_default();
    let routine = e.try_downcast_ref::<sqlx::postgres::PgDatabaseError>().and_then(|e| e.routine()).unwrap_or_default();
    let raised = routine == "exec_stmt_raise" || routine.starts_with("PL") || routine.starts_with("pl");
    let message =
        if raised || code.starts_with("22") || code.starts_with("P0") { format!("“{}”", e.message()) } else { e.message().to_owned() };
    if code.is_empty() { message } else { format!("{message} (SQLSTATE {code})") }
}
