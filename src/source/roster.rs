//! Who was in the source: remembers its subjects, so that a row that is hard-deleted is missed (I9, R6).
//!
//! The roster holds contiguous ranges of the key, with a count and a checksum each. Comparing is a scan of the source's own index, range by range;
//! only a range that differs is looked into. Every step is a transaction of its own and stands by itself: a subject never moves from one range to
//! another, and whoever is missed was seen to be absent by the very statement that says so, by range and by key. So what comes, goes or crashes
//! between two steps is seen by this comparison or by the next.
//!
//! A vanished row counts as every starting point of its table from the moment it was first missed, once a second full comparison, at least
//! one `resync_interval` later, has missed it too. If it comes back, its own columns decide again.

use std::{collections::BTreeMap, time::Duration};

use sqlx::{AssertSqlSafe, FromRow, PgConnection};

use crate::{
    catalog::{KeyType, Layout, Table},
    config::Config,
    database::DatabaseError,
    sql::{literal, literals},
};

/// Subjects of a range when it is made; it is cut when it has grown to more than twice as many.
const SIZE: i64 = 1_000;
/// Subjects of one range that one step looks at; what lies beyond becomes a range for another step.
const MOST: i64 = 10_000;
/// Ranges from before there were ranges that one step asks for by key.
const OLD: i64 = 8;
/// The first half of the advisory lock under which one source's ranges are changed, so that replicas do not undo each other's.
const LOCK: i32 = 0x726f_7374;

/// One starting-point table with the columns that name its subjects.
#[derive(Debug, Clone)]
pub struct Roster {
    /// The name in `retention.roster` and `retention.absences`.
    pub source: String,
    /// The starting points it is the table of.
    points: Vec<String>,
    /// Accounts themselves, rather than their subscriptions.
    pub of_accounts: bool,
    /// No index has the order of the key: each step reads the whole table, so there is one step, and the ranges are ranges of a hash.
    pub whole: bool,
    /// `(key, subject, hash)` of every row that some class could count, as the text of a query that can be narrowed.
    rows: String,
    /// What ranges are of, as an expression over the row `s`.
    key: String,
    column: KeyType,
    /// Whether a row is there for the absence `a`, as a condition.
    present: String,
}

/// Where a walk over the ranges stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Walk {
    /// The last range that was compared.
    pub after: i64,
    /// The last range there was when the walk began.
    pub until: i64,
}

/// What looking into ranges came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, FromRow)]
pub struct Inside {
    /// Subjects missed for the first time.
    pub newly: i64,
    /// Ranges that are left to be looked into.
    pub rest: Vec<i64>,
}

/// Names a starting-point table and its key columns.
#[must_use]
pub fn source_name(table: &str, account: &str, feature: Option<&str>) -> String {
    match feature {
        Some(feature) => format!("{table} ({account}, {feature})"),
        None => format!("{table} ({account})"),
    }
}

/// The distinct tables behind the configured starting points.
#[must_use]
pub fn rosters(config: &Config, layout: &Layout) -> Vec<Roster> {
    let mut features: Vec<String> = config.data_classes.iter().map(|c| c.feature.clone()).collect();
    features.sort_unstable();
    features.dedup();
    let mut rosters: BTreeMap<String, Roster> = BTreeMap::new();
    for (point, table) in config.starting_points.iter().zip(&layout.points) {
        let account = point.account_column.quoted();
        let feature = point.feature_column.as_ref().map(crate::model::Ident::quoted);
        let roster = Roster::new(table, &account, feature.as_deref(), &features);
        rosters.entry(roster.source.clone()).or_insert(roster).points.push(point.name.clone());
    }
    rosters.into_values().collect()
}

/// The hash of an account column, of its own type: no text is made of millions of numbers.
fn hash(key: KeyType, column: &str) -> String {
    match key {
        KeyType::Text => format!("hashtextextended({column}::text, 0)"),
        KeyType::Uuid => format!("uuid_hash_extended({column}, 0)"),
        KeyType::Integer => format!("hashint4extended({column}, 0)"),
        KeyType::Bigint => format!("hashint8extended({column}, 0)"),
    }
}

impl Roster {
    fn new(table: &Table, account: &str, feature: Option<&str>, features: &[String]) -> Self {
        let column = format!("s.{account}");
        let whole = !table.ordered;
        let key = if whole { format!("hashtextextended({column}::text, 0)") } else { column.clone() };
        let same = table.key.equals(&column, "a.account_id");
        // One text for a subject, with the id's length in front: an id may hold any separator.
        let (mut subject, mut hash) = (format!("length({column}::text) || ':' || {column}::text"), hash(table.key, &column));
        let (mut counted, mut present) = (String::new(), same);
        if let Some(feature) = feature {
            subject = format!("{subject} || s.{feature}::text");
            hash = format!("hashtextextended(s.{feature}::text, {hash})");
            counted = format!(" and s.{feature}::text = any({})", literals(features));
            present = format!("{present} and s.{feature}::text = a.feature collate \"C\"");
        }
        let distinct = if table.unique { "" } else { "distinct " };
        // Its parts may have different collations; it is compared byte for byte.
        let rows = format!(
            "select {distinct}{key} as key, ({subject}) collate \"C\" as subject, {hash} as hash from {} s where {column} is not null{counted}",
            table.sql
        );
        Self {
            source: source_name(&table.sql, account, feature),
            points: Vec::new(),
            of_accounts: feature.is_none(),
            whole,
            rows,
            key,
            column: table.key,
            present: format!("exists (select 1 from {} s where {present})", table.sql),
        }
    }

    /// The type of the bounds, and the key that no other is less than.
    fn bounds(&self) -> (&'static str, &'static str) {
        match self.column {
            _ if self.whole => ("bigint", "-9223372036854775808"),
            KeyType::Bigint => ("bigint", "-9223372036854775808"),
            KeyType::Integer => ("integer", "-2147483648"),
            KeyType::Uuid => ("uuid", "00000000-0000-0000-0000-000000000000"),
            KeyType::Text => ("text", ""),
        }
    }

    fn ordering(&self) -> &'static str {
        if self.whole { "hash" } else { self.bounds().0 }
    }

    /// The ranges of this source under `alias` whose bounds mean what its key means now, as a condition.
    fn ours(&self, alias: &str) -> String {
        format!("{alias}.source = {} and {alias}.ordering = {}", literal(&self.source), literal(self.ordering()))
    }

    /// In which range each row of the whole table lies: `(id, key, subject, hash)`, as the text of a query.
    fn sorted_in(&self) -> String {
        format!(
            "select b.ids[width_bucket(s.key, b.lowers)] as id, s.* from ({}) s cross join
                    (select array_agg(r.lower::int8 order by r.lower::int8) as lowers, array_agg(r.id order by r.lower::int8) as ids
                     from retention.roster r where {}) b",
            self.rows,
            self.ours("r")
        )
    }

    async fn lock(&self, conn: &mut PgConnection) -> Result<(), DatabaseError> {
        sqlx::query("select pg_advisory_xact_lock($1, hashtext($2))").bind(LOCK).bind(&self.source).execute(conn).await?;
        Ok(())
    }

    /// Begins a walk. Where nothing is remembered there is one range of everything, never compared.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn open(&self, conn: &mut PgConnection) -> Result<Walk, DatabaseError> {
        self.lock(&mut *conn).await?;
        let (ours, (_, least)) = (self.ours("r"), self.bounds());
        sqlx::query(AssertSqlSafe(format!(
            "insert into retention.roster (source, ordering, lower, members, subjects)
             select {}, {}, {}, 0, '{{}}' where not exists (select 1 from retention.roster r where {ours})",
            literal(&self.source),
            literal(self.ordering()),
            literal(least)
        )))
        .execute(&mut *conn)
        .await?;
        let until =
            sqlx::query_scalar(AssertSqlSafe(format!("select max(r.id) from retention.roster r where {ours}"))).fetch_one(conn).await?;
        Ok(Walk { after: 0, until })
    }

    /// Compares the next `limit` ranges and returns those that differ. The last range has no upper bound for an index to serve, and always does.
    ///
    /// # Errors
    /// Those of the database; nothing counts as missed then (I6).
    pub async fn compare(&self, conn: &mut PgConnection, walk: &mut Walk, limit: i64) -> Result<Vec<i64>, DatabaseError> {
        let ours = self.ours("r");
        let differs = "(r.members, r.checksum) is distinct from (coalesce(n.members, 0), coalesce(n.checksum, 0))";
        let statement = if self.whole {
            format!(
                "select r.id, {differs} from retention.roster r
                 left join (select id, count(*) as members, sum(hash) as checksum from ({}) s group by id) n on n.id = r.id
                 where {ours} and r.id > $1 and r.id <= $2 order by r.id",
                self.sorted_in()
            )
        } else {
            let (kind, _) = self.bounds();
            format!(
                "select r.id, r.upper is null or {differs}
                 from (select r.* from retention.roster r where {ours} and r.id > $1 and r.id <= $2 order by r.id limit {limit}) r
                 cross join lateral (select count(*) as members, sum(hash) as checksum
                                     from ({} and {key} >= r.lower::{kind} and {key} < r.upper::{kind}) s) n
                 order by r.id",
                self.rows,
                key = self.key
            )
        };
        let compared: Vec<(i64, bool)> = sqlx::query_as(AssertSqlSafe(statement)).bind(walk.after).bind(walk.until).fetch_all(conn).await?;
        walk.after = if self.whole { walk.until } else { compared.last().map_or(walk.until, |(id, _)| *id) };
        Ok(compared.into_iter().filter(|(_, differs)| *differs).map(|(id, _)| id).collect())
    }

    /// Looks into ranges that differ: notes who is missed and remembers who is there, up to the first ten thousand of each. Under a lock, so that of two
    /// replicas the later remembers what it saw later.
    ///
    /// # Errors
    /// Those of the database; nothing is remembered then, and nothing counts as missed (I6).
    pub async fn look_into(&self, conn: &mut PgConnection, ranges: &[i64]) -> Result<Inside, DatabaseError> {
        self.lock(&mut *conn).await?;
        let (source, (kind, least)) = (literal(&self.source), self.bounds());
        let (read, of_account) = if self.whole {
            (
                format!("{} where b.ids[width_bucket(s.key, b.lowers)] = any($1)", self.sorted_in()),
                "hashtextextended(m.account_id, 0)".to_owned(),
            )
        } else {
            let from = format!("select * from ({} and {} >= p.lower::{kind}", self.rows, self.key);
            let first = format!("order by key limit {}", MOST + 1);
            (
                format!(
                    "select p.id, s.* from part p cross join lateral (
                         ({from} and {} < p.upper::{kind}) s {first}) union all ({from} and p.upper is null) s {first})) s",
                    self.key
                ),
                format!("m.account_id::{kind}"),
            )
        };
        // Not `now()` is when they are first missed: a row may have gone after this transaction began, and a period must not begin before that.
        let inside: Inside = sqlx::query_as(AssertSqlSafe(format!(
            "with part as materialized (select * from retention.roster r where {ours} and r.id = any($1)),
             read as materialized (select x.*, row_number() over (partition by id order by key) - 1 as at from ({read}) x),
             size as materialized (select id, count(*) as n, (array_agg(key order by key desc))[1] as last from read group by id),
             cut as materialized (select id, last as key from size where n > {MOST} and not {whole}),
             there as materialized (
                 select r.id, r.key, r.subject, r.hash,
                        case when z.n > {twice} then min(r.at / {SIZE}) over (partition by r.id, r.key) else 0 end as piece
                 from read r join size z on z.id = r.id left join cut c on c.id = r.id where c.id is null or r.key < c.key),
             known as materialized (
                 select m.id, m.account_id, m.feature, m.subject, c.id is not null and {of_account} >= c.key as later
                 from (select p.id, m.subject, substr(m.subject, strpos(m.subject, ':') + 1, n) as account_id,
                              nullif(substr(m.subject, strpos(m.subject, ':') + 1 + n), '') as feature
                       from part p cross join unnest(p.subjects) m(subject) cross join cast(split_part(m.subject, ':', 1) as int4) n) m
                 left join cut c on c.id = m.id),
             missed as (
                 insert into retention.absences (source, account_id, feature, first_missed_at)
                 select {source}, a.account_id, a.feature, clock_timestamp() from known a
                 where not a.later and not exists (select 1 from there t where t.id = a.id and t.subject = a.subject) and not {present}
                 on conflict (source, md5(account_id), md5(coalesce(feature, ''))) do nothing returning 1),
             back as (
                 -- Whoever is there is missed no longer: if it goes again, that is another absence.
                 delete from retention.absences a using (
                     select substr(t.subject, strpos(t.subject, ':') + 1, n) as account_id, nullif(substr(t.subject, strpos(t.subject, ':') + 1 + n), '') as feature
                     from there t cross join cast(split_part(t.subject, ':', 1) as int4) n) t
                 where a.source = {source} and a.account_id = t.account_id and a.feature is not distinct from t.feature),
             pieces as materialized (
                 select id, piece, lower, lead(lower) over (partition by id order by piece) as next, members, checksum, subjects
                 from (select id, piece, (array_agg(key order by key))[1]::text as lower, count(*) as members, sum(hash) as checksum,
                              array_agg(subject) as subjects from there group by id, piece) t),
             kept as (
                 update retention.roster r set upper = n.upper, members = n.members, checksum = n.checksum, subjects = n.subjects
                 from (select p.id, coalesce(f.next, c.key::text, p.upper) as upper, coalesce(f.members, 0) as members,
                              coalesce(f.checksum, 0) as checksum, coalesce(f.subjects, '{{}}') as subjects
                       from part p left join pieces f on f.id = p.id and f.piece = 0 left join cut c on c.id = p.id) n
                 where r.id = n.id and (r.upper, r.members, r.checksum) is distinct from (n.upper, n.members, n.checksum)),
             added as (
                 insert into retention.roster (source, ordering, lower, upper, members, checksum, subjects)
                 select p.source, p.ordering, f.lower, coalesce(f.next, c.key::text, p.upper), f.members, f.checksum, f.subjects
                 from pieces f join part p on p.id = f.id left join cut c on c.id = f.id where f.piece > 0),
             rest as (
                 insert into retention.roster (source, ordering, lower, upper, members, subjects)
                 select p.source, p.ordering, c.key::text, p.upper, k.n, k.subjects from cut c join part p on p.id = c.id cross join lateral (
                     select count(*) as n, coalesce(array_agg(k.subject), '{{}}') as subjects from known k where k.id = c.id and k.later) k
                 returning id)
             select (select count(*) from missed) as newly, array(select id from rest) as rest",
            ours = self.ours("r"),
            whole = self.whole,
            twice = 2 * SIZE,
            present = self.present,
        )))
        .bind(ranges)
        .fetch_one(&mut *conn)
        .await?;
        // An empty range goes to its neighbour, one after the other, for neighbours may both be empty.
        let ours = self.ours("r");
        let empty: Vec<i64> = sqlx::query_scalar(AssertSqlSafe(format!(
            "select r.id from retention.roster r where {ours} and r.id = any($1) and r.members = 0 and r.lower <> {}",
            literal(least)
        )))
        .bind(ranges)
        .fetch_all(&mut *conn)
        .await?;
        for id in empty {
            sqlx::query(AssertSqlSafe(format!(
                "with empty as (delete from retention.roster where id = $1 returning lower, upper)
                 update retention.roster r set upper = e.upper from empty e where {ours} and r.upper = e.lower"
            )))
            .bind(id)
            .execute(&mut *conn)
            .await?;
        }
        Ok(inside)
    }

    /// Asks by key for some of whom an earlier version remembered, or this one while the column had another type, and forgets how it was remembered.
    /// Call it when the walk is over, until it returns `None`. Whom the column could not hold any more has another name now and is not missed.
    ///
    /// # Errors
    /// Those of the database; nothing is forgotten then.
    pub async fn adopt(&self, conn: &mut PgConnection) -> Result<Option<i64>, DatabaseError> {
        self.lock(&mut *conn).await?;
        let source = literal(&self.source);
        let old: Vec<(i64, Vec<String>)> = sqlx::query_as(AssertSqlSafe(format!(
            "select r.id, r.subjects from retention.roster r where r.source = {source} and not ({}) order by r.id limit {OLD}",
            self.ours("r")
        )))
        .fetch_all(&mut *conn)
        .await?;
        if old.is_empty() {
            return Ok(None);
        }
        let (ids, subjects): (Vec<i64>, Vec<Vec<String>>) = old.into_iter().unzip();
        let newly = self.note(&mut *conn, subjects.iter().flatten().filter_map(|s| named(s))).await?;
        sqlx::query("delete from retention.roster where id = any($1)").bind(ids).execute(conn).await?;
        Ok(Some(newly))
    }

    /// Notes the subjects of jobs whose row a batch looked for and did not find: no comparison may have seen it while it was there. Yields how many are
    /// missed for the first time.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn miss_jobs(&self, conn: &mut PgConnection) -> Result<i64, DatabaseError> {
        let feature = if self.of_accounts { "null" } else { "j.feature" };
        let subjects: Vec<(String, Option<String>)> = sqlx::query_as(AssertSqlSafe(format!(
            "select distinct j.account_id, {feature} from retention.jobs j where j.blocked_by = 'missing' and j.starting_point = any({})",
            literals(&self.points)
        )))
        .fetch_all(&mut *conn)
        .await?;
        self.note(conn, subjects.iter().map(|(account, feature)| (account.as_str(), feature.as_deref()))).await
    }

    /// Notes those of the subjects that are missed for the first time, and yields how many. Whom the column cannot hold is not missed.
    async fn note(&self, conn: &mut PgConnection, subjects: impl Iterator<Item = (&str, Option<&str>)>) -> Result<i64, DatabaseError> {
        let (accounts, features): (Vec<&str>, Vec<Option<&str>>) = subjects.filter(|(account, _)| self.column.holds(account)).unzip();
        let newly = sqlx::query(AssertSqlSafe(format!(
            "insert into retention.absences (source, account_id, feature, first_missed_at)
             select {}, a.account_id, a.feature, clock_timestamp() from unnest($1::text[], $2::text[]) a(account_id, feature) where not {}
             on conflict (source, md5(account_id), md5(coalesce(feature, ''))) do nothing",
            literal(&self.source),
            self.present
        )))
        .bind(accounts)
        .bind(features)
        .execute(conn)
        .await?;
        Ok(newly.rows_affected().cast_signed())
    }

    /// Ends the absences among the next `limit` whose rows are back: the last of those that were asked for, and how many ended.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn end_absences(&self, conn: &mut PgConnection, after: i64, limit: i64) -> Result<(Option<i64>, i64), DatabaseError> {
        Ok(sqlx::query_as(AssertSqlSafe(format!(
            "with page as materialized (
                 select a.* from retention.absences a where a.source = {} and a.id > $1 order by a.id limit {limit}),
             back as (delete from retention.absences d using page a where d.id = a.id and {} returning 1)
             select (select max(id) from page), (select count(*) from back)",
            literal(&self.source),
            self.present
        )))
        .bind(after)
        .fetch_one(conn)
        .await?)
    }

    /// Confirms up to `limit` absences that a comparison missed long enough after they were first missed. For after the guard has seen them all; the
    /// row may have come back in the meantime, so it is asked for once more.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn confirm(&self, conn: &mut PgConnection, confirm_after: Duration, limit: i64) -> Result<i64, DatabaseError> {
        let confirmed = sqlx::query(AssertSqlSafe(format!(
            "update retention.absences c set confirmed_at = now() from (
                 select a.id from retention.absences a
                 where a.source = {} and a.confirmed_at is null and a.first_missed_at <= now() - make_interval(secs => $1) and not {}
                 order by a.first_missed_at limit {limit}) a where c.id = a.id",
            literal(&self.source),
            self.present
        )))
        .bind(confirm_after.as_secs_f64())
        .execute(conn)
        .await?;
        Ok(confirmed.rows_affected().cast_signed())
    }

    /// Subjects that are remembered.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn members(&self, conn: &mut PgConnection) -> Result<i64, DatabaseError> {
        Ok(sqlx::query_scalar("select coalesce(sum(members), 0)::int8 from retention.roster where source = $1")
            .bind(&self.source)
            .fetch_one(conn)
            .await?)
    }
}

/// A subject's account and feature.
fn named(subject: &str) -> Option<(&str, Option<&str>)> {
    let (length, rest) = subject.split_once(':')?;
    let length: usize = length.parse().ok()?;
    let end = rest.char_indices().nth(length).map_or(rest.len(), |(at, _)| at);
    let (account, feature) = rest.split_at(end);
    Some((account, (!feature.is_empty()).then_some(feature)))
}
