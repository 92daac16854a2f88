//! Who was in the source: remembers its subjects, so that a row that is hard-deleted is missed (I9, R6).
//!
//! A vanished row counts as every starting point of its table from the moment it was first missed, once a second full comparison, at least
//! one `resync_interval` later, has missed it too. If it comes back, its own columns decide again.

use std::{collections::BTreeMap, time::Duration};

use sqlx::{AssertSqlSafe, PgConnection};

use crate::{
    catalog::Layout,
    config::Config,
    database::DatabaseError,
    sql::{literal, literals},
};

/// Buckets of one source; few members each, so that one new account does not make many be compared.
const BUCKETS: u32 = 16_384;

/// One starting-point table with the columns that name its subjects.
#[derive(Debug, Clone)]
pub struct Roster {
    /// The name in `retention.roster` and `retention.absences`.
    pub source: String,
    /// Accounts themselves, rather than their subscriptions.
    pub of_accounts: bool,
    /// `(subject)` of every row that some class could count, as the text of a query.
    subjects: String,
    /// Whether a row is there for the absence `a`, as a condition.
    present: String,
}

/// What a full comparison missed in one source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Missed {
    /// Subjects that were there at the last comparison.
    pub before: i64,
    /// Of those, missed now for the first time.
    pub newly: i64,
    /// Missed for the second time: they count from now on.
    pub confirmed: i64,
    /// Came back.
    pub returned: i64,
    /// Subjects there are now.
    pub known: i64,
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
        let source = source_name(&table.sql, &account, feature.as_deref());
        let same = table.key.equals(&format!("s.{account}"), "a.account_id");
        let distinct = if table.unique { "" } else { "distinct " };
        let (subjects, present) = match &feature {
            None => (
                format!("select {distinct}{} as subject from {} s where s.{account} is not null", named(&account, None), table.sql),
                format!("exists (select 1 from {} s where {same})", table.sql),
            ),
            Some(feature) => (
                format!(
                    "select {distinct}{} as subject from {} s where s.{account} is not null and s.{feature}::text = any({})",
                    named(&account, Some(feature)),
                    table.sql,
                    literals(&features)
                ),
                format!("exists (select 1 from {} s where {same} and s.{feature}::text = a.feature collate \"C\")", table.sql),
            ),
        };
        let of_accounts = feature.is_none();
        rosters.entry(source.clone()).or_insert(Roster { source, of_accounts, subjects, present });
    }
    rosters.into_values().collect()
}

/// One text for a subject, with the id's length in front: an id may hold any separator.
fn named(account: &str, feature: Option<&str>) -> String {
    let feature = feature.map_or_else(String::new, |f| format!(" || s.{f}::text"));
    format!("length(s.{account}::text) || ':' || s.{account}::text{feature}")
}

impl Roster {
    /// Compares the source with what is remembered: two scans of the source at most, whatever its size, and nothing that the platform waits for.
    ///
    /// # Errors
    /// Those of the database; nothing is remembered then, and nothing counts as missed (I6).
    pub async fn compare(&self, conn: &mut PgConnection, confirm_after: Duration) -> Result<Missed, DatabaseError> {
        let source = literal(&self.source);
        let hashed = format!(
            "select (hashtextextended(subject, 0) & {})::int4 as bucket, (hashtextextended(subject, 1) >> 32)::int4 as hash, subject from ({}) s",
            BUCKETS - 1,
            self.subjects
        );
        let changed: Vec<i32> = sqlx::query_scalar(AssertSqlSafe(format!(
            "with now as (select bucket, count(*) as members, sum(hash)::int8 as checksum from ({hashed}) h group by bucket)
             select coalesce(n.bucket, r.bucket) from now n full join (select * from retention.roster where source = {source}) r on r.bucket = n.bucket
             where (n.members, n.checksum) is distinct from (r.members, r.checksum)"
        )))
        .fetch_all(&mut *conn)
        .await?;
        // First missed is when this statement saw it, and not `now()`: the row may have gone after this transaction began, and a period must not begin
        // before that.
        let mut missed = Missed { before: self.members(&mut *conn).await?, ..Missed::default() };
        if !changed.is_empty() {
            missed.newly = sqlx::query_scalar(AssertSqlSafe(format!(
                "with now as materialized (select * from ({hashed}) h where bucket = any($1)),
                 gone as (
                     select m.subject from retention.roster r, unnest(r.subjects) as m(subject)
                     where r.source = {source} and r.bucket = any($1) and not exists (select 1 from now n where n.subject = m.subject)),
                 missed as (
                     insert into retention.absences (source, account_id, feature, first_missed_at)
                     select {source}, substr(subject, strpos(subject, ':') + 1, n), nullif(substr(subject, strpos(subject, ':') + 1 + n), ''), clock_timestamp()
                     from gone, cast(split_part(subject, ':', 1) as int4) as n
                     on conflict (source, md5(account_id), md5(coalesce(feature, ''))) do nothing returning 1),
                 emptied as (
                     delete from retention.roster r where r.source = {source} and r.bucket = any($1) and not exists (select 1 from now n where n.bucket = r.bucket)),
                 kept as (
                     insert into retention.roster (source, bucket, members, checksum, subjects)
                     select {source}, bucket, count(*), sum(hash)::int8, array_agg(subject) from now group by bucket
                     on conflict (source, bucket) do update set members = excluded.members, checksum = excluded.checksum, subjects = excluded.subjects)
                 select count(*) from missed"
            )))
            .bind(changed)
            .fetch_one(&mut *conn)
            .await?;
        }
        missed.returned =
            sqlx::query(AssertSqlSafe(format!("delete from retention.absences a where a.source = {source} and {}", self.present)))
                .execute(&mut *conn)
                .await?
                .rows_affected()
                .cast_signed();
        missed.confirmed = sqlx::query(AssertSqlSafe(format!(
            "update retention.absences a set confirmed_at = now()
             where a.source = {source} and a.confirmed_at is null and a.first_missed_at <= now() - make_interval(secs => $1)"
        )))
        .bind(confirm_after.as_secs_f64())
        .execute(&mut *conn)
        .await?
        .rows_affected()
        .cast_signed();
        missed.known = self.members(conn).await?;
        Ok(missed)
    }

    async fn members(&self, conn: &mut PgConnection) -> Result<i64, DatabaseError> {
        Ok(sqlx::query_scalar("select coalesce(sum(members), 0)::int8 from retention.roster where source = $1")
            .bind(&self.source)
            .fetch_one(conn)
            .await?)
    }
}
