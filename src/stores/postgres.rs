//! Targets in the main Postgres, as SQL: records of an account are counted, looked for and deleted by the predicate that is written here once.
//! Whether a job may be purged is not decided here; the executor hands that in as the table expression `licensed`.

use std::{collections::BTreeMap, fmt::Write as _};

use sqlx::{AssertSqlSafe, FromRow, PgConnection};

use crate::{
    catalog::{KeyType, Table},
    config::{self, DataClass},
    database::DatabaseError,
    sql::literal,
};

/// One table that holds records of a data class.
#[derive(Debug, Clone)]
pub struct Target {
    /// `store/table` as spelt in the configuration.
    pub name: String,
    /// What must hold of a record `t` of the job `l` besides the predicate: see [`Target::spare_others`].
    spares: String,
    table: Table,
    account: String,
    /// The column and the feature it must hold, where classes share a table.
    feature: Option<(String, String)>,
}

impl Target {
    /// Joins what was configured with what the catalogue says.
    #[must_use]
    pub fn new(class: &DataClass, target: &config::Target, table: &Table) -> Self {
        Self {
            name: target.name.clone(),
            spares: String::new(),
            table: table.clone(),
            account: target.account_column.quoted(),
            feature: target.feature_column.as_ref().map(|c| (c.quoted(), class.feature.clone())),
        }
    }

    /// The type its table keys accounts by.
    #[must_use]
    pub fn key(&self) -> KeyType {
        self.table.key
    }

    /// The table's oid as it was at start.
    #[must_use]
    pub fn oid(&self) -> i64 {
        self.table.oid
    }

    /// Records that others' records point at through a cascading key are left alone: the cascade knows no account (I3).
    pub fn spare_others(&mut self, listed: &[Self]) {
        let mut spares = String::new();
        for reach in &self.table.reaches {
            let own = listed.iter().find(|t| t.table.oid == reach.oid).map(|t| t.of_account("r", "l.account_id"));
            let others = own.map_or_else(String::new, |own| format!(" and ({own}) is not true"));
            // Formatting into a String cannot fail.
            let _ = write!(spares, " and not exists (select 1 from {} r where {}{others})", reach.sql, reach.on);
        }
        self.spares = spares;
    }

    /// Its rows point at rows of the other by a foreign key.
    #[must_use]
    pub fn points_at(&self, other: &Self) -> bool {
        self.table.oid != other.table.oid && self.table.parents.contains(&other.table.oid)
    }

    /// A usable index leads with the account column.
    #[must_use]
    pub fn indexed(&self) -> bool {
        self.table.indexed
    }

    /// The one predicate: the rows under `alias` that belong to the account and to this data class (I3). `id` is a text expression.
    fn of_account(&self, alias: &str, id: &str) -> String {
        let account = self.table.key.equals(&format!("{alias}.{}", self.account), id);
        match &self.feature {
            Some((column, feature)) => {
                format!("{account} and {alias}.{column}::text = {} collate \"C\"", literal(feature))
            }
            None => account,
        }
    }

    /// Whether any record of the account is visible, as a condition.
    fn any_left(&self, id: &str) -> String {
        format!("exists (select 1 from {} t where {})", self.table.sql, self.of_account("t", id))
    }

    /// Deletes up to `$3` records of the jobs in `licensed (id, account_id)`; `with` is the text that defines it, parameters `$1` and `$2` included.
    /// Yields `(id, found, records)`: how many could be locked and how many of those are gone. Less gone than found means that somebody
    /// else decides, like a trigger that swallows the DELETE.
    ///
    /// Records that somebody else holds are skipped, never waited for (R14). The account predicate stands in the DELETE itself, beside the ctid (R17).
    #[must_use]
    pub fn delete(&self, with: &str) -> String {
        let (table, spares) = (&self.table.sql, &self.spares);
        let (found, again) = (self.of_account("t", "l.account_id"), self.of_account("t", "v.account_id"));
        format!(
            "with {with},
             victim as materialized (
                 select t.tableoid as place, t.ctid as at, l.id, l.account_id from licensed l join {table} t on {found}{spares}
                 limit $3 for update of t skip locked),
             gone as (
                 delete from {table} t using victim v where t.ctid = v.at and t.tableoid = v.place and {again}
                 returning v.id)
             select id, sum(found)::int8 as found, sum(records)::int8 as records
             from (select id, count(*) as found, 0 as records from victim group by id
                   union all select id, 0, count(*) from gone group by id) x
             group by id"
        )
    }
}

#[derive(FromRow)]
struct Seen {
    id: String,
    targets: Vec<Option<String>>,
}

/// Which targets hold records of each account, by account. An account that a target's column cannot hold has none there.
///
/// # Errors
/// Those of the database.
pub async fn seen(
    conn: &mut PgConnection,
    targets: &[Target],
    accounts: &[String],
) -> Result<BTreeMap<String, Vec<String>>, DatabaseError> {
    let mut found: BTreeMap<String, Vec<String>> = accounts.iter().map(|a| (a.clone(), Vec::new())).collect();
    for target in targets {
        let keys: Vec<&str> = accounts.iter().map(String::as_str).filter(|id| target.key().holds(id)).collect();
        let query = format!("select a.id from unnest($1::text[]) a(id) where {}", target.any_left("a.id"));
        let holding: Vec<String> = sqlx::query_scalar(AssertSqlSafe(query)).bind(keys).fetch_all(&mut *conn).await?;
        for account in holding {
            found.entry(account).or_default().push(target.name.clone());
        }
    }
    Ok(found)
}

/// Which targets still hold records of each claimed job, by job: the separate look that completion needs (I10).
///
/// # Errors
/// Those of the database; a look that failed is never an empty one (I6).
pub async fn left(conn: &mut PgConnection, targets: &[Target], jobs: &[(i64, &str)]) -> Result<BTreeMap<i64, Vec<String>>, DatabaseError> {
    let looks: Vec<String> =
        targets.iter().map(|t| format!("case when {} then {} end", t.any_left("b.account_id"), literal(&t.name))).collect();
    let query = format!(
        "select b.id::text as id, array[{}]::text[] as targets from unnest($1::int8[], $2::text[]) as b(id, account_id)",
        looks.join(", ")
    );
    let rows: Vec<Seen> = sqlx::query_as(AssertSqlSafe(query))
        .bind(jobs.iter().map(|(id, _)| *id).collect::<Vec<_>>())
        .bind(jobs.iter().map(|(_, account)| *account).collect::<Vec<_>>())
        .fetch_all(conn)
        .await?;
    Ok(rows.into_iter().filter_map(|row| Some((row.id.parse().ok()?, row.targets.into_iter().flatten().collect()))).collect())
}

/// Records of each account in one target, by account; accounts without any are absent.
///
/// # Errors
/// Those of the database.
pub async fn count(conn: &mut PgConnection, target: &Target, accounts: &[String]) -> Result<BTreeMap<String, i64>, DatabaseError> {
    let keys: Vec<&str> = accounts.iter().map(String::as_str).filter(|id| target.key().holds(id)).collect();
    let query = format!(
        "select a.id, count(*) from unnest($1::text[]) a(id) join {} t on {} group by 1",
        target.table.sql,
        target.of_account("t", "a.id")
    );
    let rows: Vec<(String, i64)> = sqlx::query_as(AssertSqlSafe(query)).bind(keys).fetch_all(conn).await?;
    Ok(rows.into_iter().collect())
}
