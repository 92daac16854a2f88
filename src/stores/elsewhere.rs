//! A table in another Postgres than the main database. What it is is read from the catalogue by each purge, in the transaction that deletes.

use std::{str::FromStr, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use sqlx::{
    AssertSqlSafe, PgConnection, PgPool, Postgres, Transaction,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use super::{Answer, Gone, Store, StoreError, Until};
use crate::{
    catalog::KeyType,
    config::Place,
    database::{self, Database, DatabaseError, Kind},
    model::TableName,
    sql::literal,
};

/// As many calls at once as one database is asked for.
const CONNECTIONS: u32 = 8;

/// Another Postgres.
#[derive(Debug)]
pub(super) struct Elsewhere {
    pool: PgPool,
    /// Schemas and tables under the customer's control; without a schema it may be any.
    media: (Vec<Option<String>>, Vec<String>),
}

/// The rows of one account in one table, as conditions.
struct Rows {
    table: String,
    /// The account is `$1`.
    account: String,
    key: KeyType,
    indexed: bool,
}

impl Elsewhere {
    /// A store behind this address, with the places in it that the customer controls, as spelt. Opens no connection.
    pub(super) fn new(url: &SecretString, media: &[String]) -> Result<Self, StoreError> {
        let options = PgConnectOptions::from_str(url.expose_secret()).map_err(|error| StoreError::Refused(error.to_string()))?;
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(Duration::from_secs(5))
            .idle_timeout(Duration::from_mins(5))
            .connect_lazy_with(options.application_name("retentiond"));
        // What is no name of a table is a place in a store of another kind.
        let tables = media.iter().filter_map(|place| TableName::parse(place).ok());
        let schema = |table: &TableName| table.spelt().contains('.').then(|| table.schema().to_owned());
        let media = tables.map(|table| (schema(&table), table.table().to_owned())).unzip();
        Ok(Self { pool, media })
    }

    /// A transaction that takes nothing for granted; in a task of its own, because a `begin` that is dropped half-way leaves an open transaction in
    /// the pool (R20).
    async fn begin(&self) -> Result<Transaction<'static, Postgres>, StoreError> {
        const BEGIN: &str = "begin isolation level read committed; set local row_security = off; set local timezone = 'UTC'; \
                             set local search_path = pg_catalog, public, pg_temp; set local jit = off; set local statement_timeout = 8000; \
                             set local lock_timeout = 1000; set local idle_in_transaction_session_timeout = 5000; \
                             set local standard_conforming_strings = on";
        let pool = self.pool.clone();
        database::owned(async move { pool.begin_with(BEGIN).await }).await.map_err(|error| sorted(&error))
    }

    async fn purge(&self, place: &Place, account: &str, at_most: u32, until: Until) -> Result<Gone, StoreError> {
        let mut tx = self.begin().await?;
        let rows = self.rows(&mut tx, place, account).await?;
        let at_most = i64::from(at_most);
        until.still()?;
        // Whoever holds a record is passed by, never waited for.
        let found: (i64, i64) = sqlx::query_as(AssertSqlSafe(format!(
            "with victim as materialized (select t.tableoid as place, t.ctid as at from {0} t where {1} limit $2 for update of t skip locked),
             gone as (delete from {0} t where t.ctid = any(array(select at from victim)) and ((t.tableoid, t.ctid) in (select place, at from victim)) is true
                      and ({1}) is true returning 1)
             select (select count(*) from victim), (select count(*) from gone)",
            rows.table, rows.account
        )))
        .bind(account)
        .bind(at_most)
        .fetch_one(&mut *tx)
        .await
        .map_err(|error| sorted(&error.into()))?;
        Database::commit(tx).await.map_err(|error| sorted(&error))?;
        Ok(Gone { records: found.1, more: found.0 == at_most })
    }

    async fn one<T>(&self, place: &Place, account: &str, select: impl Fn(&Rows) -> String) -> Result<T, StoreError>
    where
        (T,): for<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow> + Send + Unpin,
    {
        let mut tx = self.begin().await?;
        let rows = self.rows(&mut tx, place, account).await?;
        let (one,): (T,) =
            sqlx::query_as(AssertSqlSafe(select(&rows))).bind(account).fetch_one(&mut *tx).await.map_err(|error| sorted(&error.into()))?;
        Ok(one)
    }

    async fn rows(&self, conn: &mut PgConnection, place: &Place, account: &str) -> Result<Rows, StoreError> {
        let rows = self.described(conn, place).await?;
        if rows.key.holds(account) {
            Ok(rows)
        } else {
            Err(StoreError::Refused(format!("its account column is {}, which cannot hold this account id", rows.key.sql())))
        }
    }

    /// What the catalogue says about the table; refuses what must not be deleted from.
    async fn described(&self, conn: &mut PgConnection, place: &Place) -> Result<Rows, StoreError> {
        let Place::Table { table, account_column, feature } = place else {
            return Err(StoreError::Refused("is no table".to_owned()));
        };
        let [schema, name] = table.as_slice() else { return Err(StoreError::Refused("has no schema".to_owned())) };
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let refused = |why: &str| Err(StoreError::Refused(why.to_owned()));
        let found: Option<Description> = sqlx::query_as(
            "with recursive family(oid) as (
                 select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = $1 and c.relname = $2
                 union
                 select case when i.inhrelid = f.oid then i.inhparent else i.inhrelid end
                 from family f join pg_inherits i on f.oid in (i.inhrelid, i.inhparent))
             select pg_is_in_recovery() as standby,
                    exists (select 1 from family f join pg_class m on m.oid = f.oid join pg_namespace s on s.oid = m.relnamespace
                            join unnest($4::text[], $5::text[]) as media(schema, name) on coalesce(media.schema, s.nspname) = s.nspname and media.name = m.relname) as media,
                    to_regclass('retention.jobs') is not null as main, c.relkind in ('r', 'p') as is_table,
                    format_type(a.atttypid, null) as key, (select l.collisdeterministic from pg_collation l where l.oid = a.attcollation) as deterministic,
                    exists (select 1 from pg_index i where i.indrelid = c.oid and i.indisvalid and i.indpred is null and i.indkey[0] = a.attnum) as indexed,
                    exists (select 1 from pg_constraint f where f.contype = 'f' and f.confrelid in (select oid from family) and f.confdeltype in ('c', 'n', 'd')) as cascades
             from pg_class c join pg_namespace n on n.oid = c.relnamespace
             left join pg_attribute a on a.attrelid = c.oid and a.attname = $3 and not a.attisdropped and a.attnum > 0
             where n.nspname = $1 and c.relname = $2",
        )
        .bind(schema)
        .bind(name)
        .bind(account_column)
        .bind(&self.media.0)
        .bind(&self.media.1)
        .fetch_optional(conn)
        .await
        .map_err(|error| sorted(&error.into()))?;
        let Some(found) = found else { return refused("is not there") };
        if found.standby {
            return refused("is on a standby, which may be behind; name the primary");
        }
        if found.main {
            return refused("is in a main database, which holds the tables of a daemon; leave out the url of its store");
        }
        if !found.is_table {
            return refused("is no table of its own");
        }
        if found.media {
            return refused("is, or is a part of, or has a part that is a table under the customer's control");
        }
        if found.cascades {
            return refused("is pointed at by a foreign key with a delete action, which would delete in or change another table");
        }
        let key = match (found.key.as_deref(), found.deterministic) {
            (Some("text" | "character varying"), Some(true)) => KeyType::Text,
            (Some("uuid"), _) => KeyType::Uuid,
            (Some("integer"), _) => KeyType::Integer,
            (Some("bigint"), _) => KeyType::Bigint,
            (None, _) => return refused(&format!("has no column {account_column:?}")),
            (Some(other), _) => {
                return refused(&format!("keys accounts by {other}; text, varchar, uuid, integer and bigint can be named exactly"));
            }
        };
        let of_feature = feature
            .as_ref()
            .map_or_else(String::new, |(column, feature)| format!(" and t.{}::text = {} collate \"C\"", quoted(column), literal(feature)));
        let account = format!("{}{of_feature}", key.equals(&format!("t.{}", quoted(account_column)), "$1::text"));
        Ok(Rows { table: format!("{}.{}", quoted(schema), quoted(name)), account, key, indexed: found.indexed })
    }

    async fn check(&self, place: &Place) -> Result<Vec<String>, StoreError> {
        let mut tx = self.begin().await?;
        let Rows { table, indexed, .. } = self.described(&mut tx, place).await?;
        let mut problems = Vec::new();
        if !indexed {
            problems.push("has no index that leads with the account column: each purge reads the whole table".to_owned());
        }
        let (grants, triggers): (bool, bool) = sqlx::query_as(AssertSqlSafe(format!(
            "select has_table_privilege({0}::regclass, 'select') and has_table_privilege({0}::regclass, 'delete') and has_any_column_privilege({0}::regclass, 'update'),
                    exists (select 1 from pg_trigger t where t.tgrelid = {0}::regclass and not t.tgisinternal and t.tgtype & 8 <> 0)",
            literal(&table)
        )))
        .fetch_one(&mut *tx)
        .await
        .map_err(|error| sorted(&error.into()))?;
        if !grants {
            problems.push("lacks grants: select, delete, and update on one column (to lock)".to_owned());
        }
        if triggers {
            problems.push("has triggers on DELETE, which may keep records or write others".to_owned());
        }
        Ok(problems)
    }
}

impl Store for Elsewhere {
    fn purge<'a>(&'a self, place: &'a Place, account: &'a str, at_most: u32, until: Until) -> Answer<'a, Gone> {
        Box::pin(self.purge(place, account, at_most, until))
    }

    fn left<'a>(&'a self, place: &'a Place, account: &'a str) -> Answer<'a, bool> {
        Box::pin(self.one(place, account, |rows| format!("select exists (select 1 from {} t where {})", rows.table, rows.account)))
    }

    fn count<'a>(&'a self, place: &'a Place, account: &'a str) -> Answer<'a, i64> {
        Box::pin(self.one(place, account, |rows| format!("select count(*) from {} t where {}", rows.table, rows.account)))
    }

    fn check<'a>(&'a self, place: &'a Place) -> Answer<'a, Vec<String>> {
        Box::pin(self.check(place))
    }
}

#[derive(sqlx::FromRow)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about one table, asked by name")]
struct Description {
    standby: bool,
    main: bool,
    media: bool,
    is_table: bool,
    key: Option<String>,
    deterministic: Option<bool>,
    indexed: bool,
    cascades: bool,
}

/// Sorts an error by what to do about it; its text leaves out what quotes a record.
fn sorted(error: &DatabaseError) -> StoreError {
    let what = error.to_string();
    match error.kind() {
        // Waiting may help.
        Kind::Unreachable | Kind::Exhausted | Kind::Timeout | Kind::Locked | Kind::Conflict => StoreError::Away(what),
        Kind::Credentials | Kind::Grants | Kind::Schema | Kind::Refused | Kind::Other => StoreError::Refused(what),
    }
}
