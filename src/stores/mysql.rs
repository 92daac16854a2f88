//! A table in MySQL, MariaDB or TencentDB for MySQL. What it is is read from the catalogue every few
//! seconds. Deletes go by key and in its order, so that they
//! mean the same on a replica that replays the statement; accounts are compared byte for byte beside the collation that the index has (R7).

use std::{
    str::FromStr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use secrecy::{ExposeSecret, SecretString};
use sqlx::{
    AssertSqlSafe, Connection, MySql, MySqlPool, Row,
    mysql::{MySqlConnectOptions, MySqlPoolOptions, MySqlRow},
    pool::PoolConnection,
};

use super::{Answer, Gone, Store, StoreError, Until};
use crate::{catalog::KeyType, config::Place, sql::literal};

/// As many calls at once as one database is asked for.
const CONNECTIONS: u32 = 8;
/// What the catalogue said is believed so long.
const KNOWN: Duration = Duration::from_secs(5);
/// Deadlocks in a row after which a call gives up; whoever asked comes again.
const DEADLOCKS: u32 = 5;

/// A MySQL.
#[derive(Debug)]
pub(super) struct Mysql {
    pool: MySqlPool,
    /// What the catalogue said about each place, and when.
    known: Mutex<Vec<(Place, Instant, Rows)>>,
}

/// The rows of one account in one table, as SQL.
#[derive(Debug, Clone)]
struct Rows {
    table: String,
    /// A condition in which the account is each `?`.
    account: String,
    /// How many of those there are.
    binds: usize,
    /// The account is a uuid there.
    uuid: bool,
    /// The primary key in its order, or nothing.
    order: String,
    indexed: bool,
}

impl Mysql {
    /// A store behind this address. Opens no connection.
    pub(super) fn new(url: &SecretString) -> Result<Self, StoreError> {
        let options = MySqlConnectOptions::from_str(url.expose_secret()).map_err(|error| StoreError::Refused(error.to_string()))?;
        let pool = MySqlPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(Duration::from_secs(5))
            .idle_timeout(Duration::from_mins(5))
            .after_connect(|conn, _| {
                Box::pin(async move {
                    // Autocommit, so that no call leaves anything open; no gap locks; nobody is waited for long.
                    let set = "set session transaction isolation level read committed, session innodb_lock_wait_timeout = 1, session lock_wait_timeout = 5, \
                               session autocommit = 1, session sql_mode = 'STRICT_ALL_TABLES,NO_BACKSLASH_ESCAPES,NO_ENGINE_SUBSTITUTION'";
                    // Two statements: the first takes no list.
                    let (isolation, rest) = set.split_once(", session").unwrap_or((set, ""));
                    sqlx::raw_sql(AssertSqlSafe(isolation.to_owned())).execute(&mut *conn).await?;
                    sqlx::raw_sql(AssertSqlSafe(format!("set session{rest}"))).execute(&mut *conn).await?;
                    Ok(())
                })
            })
            .connect_lazy_with(options);
        Ok(Self { pool, known: Mutex::default() })
    }

    async fn connection(&self) -> Result<PoolConnection<MySql>, StoreError> {
        self.pool.acquire().await.map_err(|error| sorted(&error))
    }

    async fn purge(&self, place: &Place, account: &str, at_most: u32, until: Until) -> Result<Gone, StoreError> {
        let mut conn = self.connection().await?;
        let rows = self.rows(&mut conn, place, account).await?;
        let delete = format!("delete from {} where {}{} limit {at_most}", rows.table, rows.account, rows.order);
        for _ in 0..DEADLOCKS {
            until.still()?;
            match bound(&delete, &rows, account).execute(&mut *conn).await {
                Ok(done) => {
                    let records = i64::try_from(done.rows_affected()).unwrap_or(i64::MAX);
                    return Ok(Gone { records, more: records >= i64::from(at_most) });
                }
                // The server has undone it, and says that trying again is right.
                Err(error) if number(&error) == Some(1213) => {}
                Err(error) => return Err(sorted(&error)),
            }
        }
        Err(StoreError::Away("a deadlock each time".to_owned()))
    }

    async fn one(&self, place: &Place, account: &str, select: impl Fn(&Rows) -> String) -> Result<i64, StoreError> {
        let mut conn = self.connection().await?;
        let rows = self.rows(&mut conn, place, account).await?;
        let text = select(&rows);
        let mut query = sqlx::query_scalar(AssertSqlSafe(text));
        for _ in 0..rows.binds {
            query = query.bind(account.to_owned());
        }
        query.fetch_one(&mut *conn).await.map_err(|error| sorted(&error))
    }

    /// What the catalogue says about the place, at most [`KNOWN`] old: its questions cost more than the DELETE of a small account.
    async fn rows(&self, conn: &mut PoolConnection<MySql>, place: &Place, account: &str) -> Result<Rows, StoreError> {
        let known = |(of, at, rows): &(Place, Instant, Rows)| (of == place && at.elapsed() < KNOWN).then(|| rows.clone());
        let fresh = self.known.lock().unwrap_or_else(PoisonError::into_inner).iter().find_map(known);
        let rows = if let Some(rows) = fresh {
            rows
        } else {
            let rows = described(conn, place).await?;
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.retain(|(of, ..)| of != place);
            known.push((place.clone(), Instant::now(), rows.clone()));
            rows
        };
        if rows.uuid && !KeyType::Uuid.holds(account) {
            return Err(StoreError::Refused("keys accounts by uuid, which cannot hold this account id".to_owned()));
        }
        let canonical = || account.parse::<i128>().is_ok_and(|n| n.to_string() == account);
        if rows.binds == 1 && !canonical() {
            return Err(StoreError::Refused("keys accounts by whole numbers, which cannot hold this account id".to_owned()));
        }
        Ok(rows)
    }

    async fn check(&self, place: &Place) -> Result<Vec<String>, StoreError> {
        let mut conn = self.connection().await?;
        let rows = described(&mut conn, place).await?;
        let mut problems = Vec::new();
        if !rows.indexed {
            problems.push("has no index that leads with the account column: each purge reads the whole table".to_owned());
        }
        if rows.order.is_empty() {
            problems.push("has no primary key: replicas that replay statements may delete other rows first".to_owned());
        }
        // The server judges the rights of a statement before it reads a row.
        let nothing = format!("delete from {} where 1 = 0", rows.table);
        if let Err(error) = sqlx::query(AssertSqlSafe(nothing)).execute(&mut *conn).await {
            problems.push(format!("cannot be deleted from: {}", sorted(&error)));
        }
        Connection::ping(&mut *conn).await.map_err(|error| sorted(&error))?;
        Ok(problems)
    }
}

impl Store for Mysql {
    fn purge<'a>(&'a self, place: &'a Place, account: &'a str, at_most: u32, until: Until) -> Answer<'a, Gone> {
        Box::pin(self.purge(place, account, at_most, until))
    }

    fn left<'a>(&'a self, place: &'a Place, account: &'a str) -> Answer<'a, bool> {
        Box::pin(async move {
            let left = self.one(place, account, |rows| format!("select exists (select 1 from {} where {})", rows.table, rows.account));
            Ok(left.await? != 0)
        })
    }

    fn count<'a>(&'a self, place: &'a Place, account: &'a str) -> Answer<'a, i64> {
        Box::pin(self.one(place, account, |rows| format!("select count(*) from {} where {}", rows.table, rows.account)))
    }

    fn check<'a>(&'a self, place: &'a Place) -> Answer<'a, Vec<String>> {
        Box::pin(self.check(place))
    }
}

fn bound<'q>(text: &str, rows: &Rows, account: &str) -> sqlx::query::Query<'q, MySql, sqlx::mysql::MySqlArguments> {
    let mut query = sqlx::query(AssertSqlSafe(text.to_owned()));
    for _ in 0..rows.binds {
        query = query.bind(account.to_owned());
    }
    query
}

/// What the catalogue says about the table; refuses what must not be deleted from.
async fn described(conn: &mut PoolConnection<MySql>, place: &Place) -> Result<Rows, StoreError> {
    let Place::Table { table, account_column, feature } = place else {
        return Err(StoreError::Refused("is no table".to_owned()));
    };
    let refused = |why: &str| Err(StoreError::Refused(why.to_owned()));
    let (database, name) = match table.as_slice() {
        [name] => (None, name),
        [database, name] => (Some(database), name),
        _ => return refused("is neither a table nor database.table"),
    };
    // One plain question after the other, none of them prepared: correlated ones over the catalogue have ended servers (10.11, in `ha_maria::drop_table`).
    let schema = database.map_or_else(|| "database()".to_owned(), |database| literal(database));
    let of_table = format!("table_schema = {schema} and table_name = {}", literal(name));
    let asked = format!("select table_schema, table_type, @@global.read_only from information_schema.tables where {of_table}");
    let Some(table) = rows_of(conn, &asked).await?.into_iter().next() else { return refused("is not there") };
    let (schema, kind): (String, String) = (text(&table, 0)?, text(&table, 1)?);
    let read_only: i64 = table.try_get_unchecked(2).map_err(|error| sorted(&error))?;
    if kind != "BASE TABLE" {
        return refused("is no table of its own");
    }
    if read_only != 0 {
        return refused("is on a server that is read only, which may be behind; name the primary");
    }
    no_cascade(conn, &schema, name).await?;
    let asked = format!("select data_type from information_schema.columns where {of_table} and column_name = {}", literal(account_column));
    let data_type = rows_of(conn, &asked).await?.first().map(|row| text(row, 0)).transpose()?;
    let asked =
        format!("select index_name, column_name from information_schema.statistics where {of_table} order by index_name, seq_in_index");
    let (mut indexed, mut key, mut last) = (false, Vec::new(), String::new());
    for row in rows_of(conn, &asked).await? {
        let (index, of): (String, String) = (text(&row, 0)?, text(&row, 1)?);
        indexed |= index != last && of.eq_ignore_ascii_case(account_column);
        if index == "PRIMARY" {
            key.push(format!("`{}`", of.replace('`', "``")));
        }
        last = index;
    }
    let column = format!("`{}`", account_column.replace('`', "``"));
    let (account, binds) = match data_type.as_deref() {
        Some("char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" | "uuid") => {
            // The first for the index, whose collation may take `Zoe` for `zoé`; the second byte for byte.
            (format!("{column} = ? and {} = cast(? as binary)", bytes(&column)), 2)
        }
        Some("tinyint" | "smallint" | "mediumint" | "int" | "bigint") => (format!("{column} = ?"), 1),
        None => return refused(&format!("has no column {account_column:?}")),
        Some(other) => return refused(&format!("keys accounts by {other}; texts, whole numbers and uuid can be named exactly")),
    };
    let of_feature = feature.as_ref().map_or_else(String::new, |(column, feature)| {
        format!(" and {} = cast('{}' as binary)", bytes(&format!("`{}`", column.replace('`', "``"))), feature.replace('\'', "''"))
    });
    let quoted = |name: &str| format!("`{}`", name.replace('`', "``"));
    Ok(Rows {
        table: format!("{}.{}", quoted(&schema), quoted(name)),
        account: format!("{account}{of_feature}"),
        binds,
        uuid: data_type.as_deref() == Some("uuid"),
        order: if key.is_empty() { String::new() } else { format!(" order by {}", key.join(", ")) },
        indexed,
    })
}

/// Refuses a table that a DELETE would cascade from. The server shows foreign keys of tables that one may not touch only in its own catalogue, which needs
/// the right PROCESS; without it nobody can know, and nothing is deleted.
async fn no_cascade(conn: &mut PoolConnection<MySql>, schema: &str, name: &str) -> Result<(), StoreError> {
    let plain = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !plain(schema) || !plain(name) {
        return Err(StoreError::Refused(
            "has a name with other characters than letters, digits and _: its foreign keys cannot be looked up".to_owned(),
        ));
    }
    let version = rows_of(conn, "select version()").await?.first().map(|row| text(row, 0)).transpose()?.unwrap_or_default();
    let catalogue = if version.to_ascii_lowercase().contains("mariadb") { "innodb_sys_foreign" } else { "innodb_foreign" };
    // Bits of `type`: 1 and 2 are ON DELETE CASCADE and SET NULL, 4 and 8 the same ON UPDATE.
    let asked = format!(
        "select 1 from information_schema.{catalogue} where lower(ref_name) = lower({}) and type & 3 <> 0 limit 1",
        literal(&format!("{schema}/{name}"))
    );
    let cascades = sqlx::raw_sql(AssertSqlSafe(asked)).fetch_all(&mut **conn).await.map_err(|error| match number(&error) {
        Some(1227) => {
            StoreError::Refused("cannot be judged without the right PROCESS: foreign keys of other tables would not be seen".to_owned())
        }
        _ => sorted(&error),
    })?;
    if cascades.is_empty() {
        Ok(())
    } else {
        Err(StoreError::Refused(
            "is pointed at by a foreign key with a delete action, which would delete in or change another table".to_owned(),
        ))
    }
}

/// The text of a column as the bytes of its UTF-8.
fn bytes(column: &str) -> String {
    format!("cast(convert({column} using utf8mb4) as binary)")
}

async fn rows_of(conn: &mut PoolConnection<MySql>, asked: &str) -> Result<Vec<MySqlRow>, StoreError> {
    sqlx::raw_sql(AssertSqlSafe(asked.to_owned())).fetch_all(&mut **conn).await.map_err(|error| sorted(&error))
}

/// A text of the catalogue, whatever type the server calls it.
fn text(row: &MySqlRow, at: usize) -> Result<String, StoreError> {
    row.try_get_unchecked(at).map_err(|error| sorted(&error))
}

/// The server's number of an error.
fn number(error: &sqlx::Error) -> Option<u16> {
    error
        .as_database_error()
        .and_then(|said| said.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>())
        .map(sqlx::mysql::MySqlDatabaseError::number)
}

/// Sorts an error of the driver by what to do about it. Of a message that can quote a record only its number is kept.
fn sorted(error: &sqlx::Error) -> StoreError {
    let Some(number) = number(error) else { return StoreError::Away(error.to_string()) };
    let said = error.as_database_error().map_or_else(String::new, |said| said.message().to_owned());
    match number {
        // Too many connections, shutting down, lock wait timeout, deadlock, interrupted, read only.
        1040 | 1053 | 1203 | 1205 | 1213 | 1226 | 1290 | 1317 | 1836 | 1927 | 3024 => StoreError::Away(format!("{said} (error {number})")),
        // Duplicate entries and truncated values quote what is in the record.
        1062 | 1264 | 1292 | 1366 | 1406 => StoreError::Refused(format!("error {number}")),
        _ => StoreError::Refused(format!("{said} (error {number})")),
    }
}
