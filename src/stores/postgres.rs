//! Targets in the main Postgres, as SQL: records of an account are counted, looked for and deleted by the predicate that is written here once.
//! Whether a job may be purged is not decided here; the executor hands that in as the table expression `licensed`.

use std::{collections::BTreeMap, fmt::Write as _};

use sqlx::{AssertSqlSafe, FromRow, PgConnection};

use crate::{
    catalog::{KeyType, Table},
    config::{self, DataClass},
    database::DatabaseError,
    model::Ident,
    sql::literal,
};

/// One table that holds records of a data class.
#[derive(Debug, Clone)]
pub struct Target {
    /// `store/table` as spelt in the configuration.
    pub name: String,
    /// What must hold of a record `t` besides the predicate: nothing points at it any more.
    unreferenced: String,
    table: Table,
    owner: Owner,
}

/// How a record tells whose it is.
#[derive(Debug, Clone)]
enum Owner {
    /// By columns of its own.
    Columns {
        account: String,
        /// The column and the feature it must hold, where classes share a table.
        feature: Option<(String, String)>,
    },
    /// By the record that its foreign key points at.
    Parent { table: String, on: Vec<(String, String)>, owner: Box<Owner> },
}

impl Owner {
    fn of(class: &DataClass, tables: &[Table], at: usize) -> Option<Self> {
        Some(match (&tables.get(at)?.parent, &class.targets.get(at)?.owner) {
            (Some(parent), _) => {
                let table = tables.get(parent.target)?.sql.clone();
                let quoted = |(child, parent): &(String, String)| {
                    Some((Ident::literal(child).ok()?.quoted(), Ident::literal(parent).ok()?.quoted()))
                };
                let on = parent.on.iter().map(quoted).collect::<Option<Vec<_>>>()?;
                Self::Parent { table, on, owner: Box::new(Self::of(class, tables, parent.target)?) }
            }
            (None, config::Owner::Columns { account, feature }) => {
                Self::Columns { account: account.quoted(), feature: feature.as_ref().map(|c| (c.quoted(), class.feature.clone())) }
            }
            (None, config::Owner::Parent(_)) => return None,
        })
    }

    /// The records under `alias` that belong to the account `id`, a text expression: the parents they lead to, each with an alias of its own,
    /// and the condition.
    fn rows(&self, key: KeyType, alias: &str, id: &str) -> (String, String) {
        match self {
            Self::Columns { account, feature } => {
                let mut condition = key.equals(&format!("{alias}.{account}"), id);
                if let Some((column, feature)) = feature {
                    // Formatting into a String cannot fail.
                    let _ = write!(condition, " and {alias}.{column}::text = {} collate \"C\"", literal(feature));
                }
                (String::new(), condition)
            }
            Self::Parent { table, on, owner } => {
                let parent = format!("{alias}p");
                let (tables, condition) = owner.rows(key, &parent, id);
                let on: Vec<String> = on.iter().map(|(c, p)| format!("{alias}.{c} = {parent}.{p}")).collect();
                (format!(", {table} {parent}{tables}"), format!("{} and {condition}", on.join(" and ")))
            }
        }
    }
}

impl Target {
    /// The targets of a class: what was configured joined with what the catalogue says.
    #[must_use]
    pub fn of_class(class: &DataClass, tables: &[Table]) -> Vec<Self> {
        let target = |(at, table): (usize, &Table)| {
            // A record that others point at waits until they are gone: a cascade knows no account and counts nothing (I3, I8).
            let unreferenced = table.references.iter().map(|reference| {
                let itself = if reference.table == table.oid { " and (r.tableoid, r.ctid) <> (t.tableoid, t.ctid)" } else { "" };
                format!(" and not exists (select 1 from {} r where {}{itself})", reference.sql, reference.on)
            });
            Some(Self {
                name: class.targets.get(at)?.name.clone(),
                unreferenced: unreferenced.collect(),
                table: table.clone(),
                owner: Owner::of(class, tables, at)?,
            })
        };
        tables.iter().enumerate().filter_map(target).collect()
    }

    /// The foreign keys that point at it.
    pub fn references(&self) -> impl Iterator<Item = i64> {
        self.table.references.iter().map(|r| r.oid)
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

    /// Its rows point at rows of the other by a foreign key.
    #[must_use]
    pub fn points_at(&self, other: &Self) -> bool {
        self.table.oid != other.table.oid && self.table.parents.contains(&other.table.oid)
    }

    /// A usable index leads with the account column, and one of each table that points here with the columns that point.
    #[must_use]
    pub fn indexed(&self) -> bool {
        self.table.indexed && self.table.references.iter().all(|r| r.indexed)
    }

    /// The one predicate: the rows under `alias` that belong to the account and to this data class (I3). `id` is a text expression.
    fn of_account(&self, alias: &str, id: &str) -> String {
        match self.owner.rows(self.table.key, alias, id) {
            (parents, condition) if parents.is_empty() => condition,
            (parents, condition) => format!("exists (select 1 from {} where {condition})", parents.trim_start_matches(", ")),
        }
    }

    /// The same as what follows `from`, with the rows under the alias `t`.
    fn rows(&self, id: &str) -> String {
        let (parents, condition) = self.owner.rows(self.table.key, "t", id);
        format!("{} t{parents} where {condition}", self.table.sql)
    }

    /// Whether any record of the account is visible, as a condition.
    fn any_left(&self, id: &str) -> String {
        format!("exists (select 1 from {})", self.rows(id))
    }

    /// `(id)` of every account that has records here, as the text of a query; `None` for a child, whose records belong to its parent's accounts.
    /// With an index on the account column it reads about as many entries as there are accounts, however many records those have.
    #[must_use]
    pub fn accounts(&self) -> Option<String> {
        let table = &self.table.sql;
        match &self.owner {
            Owner::Parent { .. } => None,
            Owner::Columns { account, feature: None } if self.table.ordered => {
                let next = |after: &str| format!("(select t.{account} from {table} t where {after} order by t.{account} limit 1)");
                let (first, further) = (next(&format!("t.{account} is not null")), next(&format!("t.{account} > i.id")));
                Some(format!(
                    "select i.id::text as id from (
                         with recursive i(id) as (select {first} union all select {further} from i where i.id is not null) select id from i) i
                     where i.id is not null"
                ))
            }
            Owner::Columns { account, feature } => {
                let of_feature = feature
                    .as_ref()
                    .map_or_else(String::new, |(column, feature)| format!(" and t.{column}::text = {} collate \"C\"", literal(feature)));
                Some(format!("select distinct t.{account}::text as id from {table} t where t.{account} is not null{of_feature}"))
            }
        }
    }

    /// The statements that delete records of the jobs in `licensed (id, account_id)`; `with` is the text that defines it, parameters `$1` and `$2` included.
    ///
    /// The account predicate stands in each DELETE itself, beside any ctid (R17).
    #[must_use]
    pub fn delete(&self, with: &str) -> Delete {
        let (table, unreferenced, again) = (&self.table.sql, &self.unreferenced, self.of_account("t", "v.account_id"));
        let locked = format!(
            "select t.tableoid as place, t.ctid as at, l.id, l.account_id from licensed l, {}{unreferenced}
             limit $3 for update of t skip locked",
            self.rows("l.account_id")
        );
        if unreferenced.is_empty() {
            let (parents, condition) = self.owner.rows(self.table.key, "t", "l.account_id");
            let only = self.of_account("t", "(select account_id from licensed)");
            return Delete::Free {
                whole: format!(
                    "with {with},
                     gone as (delete from {table} t using licensed l{parents} where {condition} returning l.id)
                     select id, count(*) from gone group by id"
                ),
                // A single job: a scan by ctid reads each block once, in order. Partitions share ctids, hence the pairs. `is true` keeps the other predicates
                // from being taken for a way to the records: by its account all of them would be read again for every slice.
                slice: format!(
                    "with {with},
                     victim as materialized ({locked}),
                     gone as (
                         delete from {table} t where t.ctid = any(array(select at from victim)) and ((t.tableoid, t.ctid) in (select place, at from victim)) is true
                         and ({only}) is true returning 1)
                     select id, (select count(*) from victim) as found, (select count(*) from gone) as records,
                            (select min((at::text::point)[0])::int8 from victim) as first_block, (select max((at::text::point)[0])::int8 from victim) as last_block
                     from licensed"
                ),
                stretch: format!(
                    "with {with},
                     gone as (
                         delete from {table} t where t.ctid >= format('(%s,0)', $3::int8)::tid and t.ctid < format('(%s,0)', $4::int8)::tid and ({only}) is true
                         returning 1)
                     select id, (select count(*) from gone) from licensed"
                ),
            };
        }
        Delete::Referenced {
            lock: format!("with {with}, victim as materialized ({locked}) select place::int8, at::text, id, account_id from victim"),
            // No join: a batch joins by nested loops alone.
            delete: format!(
                "with {with},
                 victim as materialized (
                     select b.place::oid as place, b.at::tid as at, b.id, b.account_id
                     from unnest($3::int8[], $4::text[], $5::int8[], $6::text[]) b(place, at, id, account_id)
                     where b.id = any(array(select id from licensed))),
                 gone as (
                     delete from {table} t using victim v where t.ctid = v.at and t.tableoid = v.place and {again}{unreferenced}
                     returning v.id)
                 select id, sum(found)::int8 as found, sum(records)::int8 as records
                 from (select id, count(*) as found, 0 as records from victim group by id
                       union all select id, 0, count(*) from gone group by id) x
                 group by id"
            ),
        }
    }
}

/// How records of one target are deleted. `slice` and `delete` yield `(id, found, records)`: how many could be locked and how many of those are gone. Less
/// gone than found means that somebody else decides, like a trigger that swallows the DELETE.
#[derive(Debug, Clone)]
pub enum Delete {
    /// Nothing points at the table.
    Free {
        /// Deletes every record of the jobs in one go and yields `(id, records)`: the cheapest there is. Run it under a lock timeout of an instant, and after a failure delete job by job:
        /// it would wait for whoever holds a record.
        whole: String,
        /// Deletes up to `$3` records of a single job, and yields in which blocks they were as well. Records that somebody else holds are skipped, never
        /// waited for (R14).
        slice: String,
        /// Deletes the records of a single job from block `$3` to before block `$4`, and yields `(id, records)`. Under a lock timeout like `whole`.
        stretch: String,
    },
    /// Foreign keys point at the table.
    Referenced {
        /// Locks up to `$3` records that nothing points at and yields `(place, at, id, account_id)` of each. Records that somebody else holds are skipped (R14).
        /// Once a record is locked no new one can point at it, and only a later statement sees every one that did before.
        lock: String,
        /// Deletes those, given as `$3` to `$6`.
        delete: String,
    },
}

#[derive(FromRow)]
struct Seen {
    id: i64,
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
    let query =
        format!("select b.id, array[{}]::text[] as targets from unnest($1::int8[], $2::text[]) as b(id, account_id)", looks.join(", "));
    let rows: Vec<Seen> = sqlx::query_as(AssertSqlSafe(query))
        .bind(jobs.iter().map(|(id, _)| *id).collect::<Vec<_>>())
        .bind(jobs.iter().map(|(_, account)| *account).collect::<Vec<_>>())
        .fetch_all(conn)
        .await?;
    Ok(rows.into_iter().map(|row| (row.id, row.targets.into_iter().flatten().collect())).collect())
}

/// How many records the first of the accounts have, in their order, up to the one that more than `budget` are reached with: none is counted beyond that.
///
/// # Errors
/// Those of the database.
pub async fn measure(conn: &mut PgConnection, targets: &[Target], accounts: &[&str], budget: i64) -> Result<Vec<i64>, DatabaseError> {
    // An index alone answers where the table has been vacuumed.
    let size = |target: &Target| {
        format!("(select count(*) from (select 1 from {} limit greatest(f.spare, 0) + 1) s)", target.rows("($1::text[])[f.n + 1]"))
    };
    let query = format!(
        "with recursive fits(n, size, spare) as (
             select 0, 0::int8, $2::int8
             union all
             select n + 1, size, spare - size
             from (select f.n, f.spare, {} as size from fits f where f.spare >= 0 and f.n < cardinality($1::text[])) f)
         select size from fits where n > 0 order by n",
        targets.iter().map(size).collect::<Vec<_>>().join(" + ")
    );
    Ok(sqlx::query_scalar(AssertSqlSafe(query)).bind(accounts).bind(budget).fetch_all(conn).await?)
}

/// Records of each account in one target, by account; accounts without any are absent.
///
/// # Errors
/// Those of the database.
pub async fn count(conn: &mut PgConnection, target: &Target, accounts: &[String]) -> Result<BTreeMap<String, i64>, DatabaseError> {
    let keys: Vec<&str> = accounts.iter().map(String::as_str).filter(|id| target.key().holds(id)).collect();
    let query = format!("select a.id, count(*) from unnest($1::text[]) a(id), {} group by 1", target.rows("a.id"));
    let rows: Vec<(String, i64)> = sqlx::query_as(AssertSqlSafe(query)).bind(keys).fetch_all(conn).await?;
    Ok(rows.into_iter().collect())
}
