//! The platform's own tables, read only: which starting points stand, and since when.
//! It knows nothing of periods or jobs; what it reads, `retention` judges.

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, FromRow, PgConnection};

use crate::{
    catalog::{KeyType, Layout, Table},
    config::Config,
    database::DatabaseError,
    retention::PointState,
    sql::{literal, literals},
};

/// Instants before this are no instants of ours (R4).
const PLAUSIBLE_FROM: &str = "timestamptz '2000-01-01 00:00:00+00'";
/// Nor are those later than this.
const PLAUSIBLE_UNTIL: &str = "(now() + interval '1 year')";

/// One starting point as SQL.
#[derive(Debug, Clone)]
pub struct Point {
    /// Index into the configuration's starting points.
    pub index: usize,
    /// Its name.
    pub name: String,
    table: Table,
    account: String,
    feature: Option<String>,
    since: String,
    region: Option<Region>,
}

/// The daemon's own regions, asked of the account-level table (R9). An account without a row there has no known region.
#[derive(Debug, Clone)]
struct Region {
    table: Table,
    account: String,
    column: String,
    regions: Vec<String>,
}

impl Region {
    fn contains(&self, id: &str) -> String {
        format!(
            "exists (select 1 from {} r where r.{}::text = {id} and r.{}::text = any({}))",
            self.table.sql,
            self.account,
            self.column,
            literals(&self.regions)
        )
    }
}

/// The starting points of one data class.
#[derive(Debug, Clone)]
pub struct Source {
    feature: String,
    points: Vec<Point>,
}

/// What one starting point says about one account.
#[derive(Debug, Clone)]
pub struct Observation {
    /// The account.
    pub account_id: String,
    /// Index into the configuration's starting points.
    pub point: usize,
    /// What was read.
    pub state: PointState,
}

#[derive(FromRow)]
struct Read {
    account_id: String,
    all_set: bool,
    since: Option<DateTime<Utc>>,
    implausible: Option<String>,
}

impl Source {
    /// The points of the class at `class` in the configuration's order.
    #[must_use]
    pub fn new(config: &Config, layout: &Layout, class: usize) -> Self {
        let region = config.regions.as_ref().and_then(|regions| {
            config.starting_points.iter().zip(&layout.points).find_map(|(point, table)| {
                Some(Region {
                    table: table.clone(),
                    account: point.account_column.quoted(),
                    column: point.region_column.as_ref()?.quoted(),
                    regions: regions.clone(),
                })
            })
        });
        let Some(class) = config.data_classes.get(class) else {
            return Self { feature: String::new(), points: Vec::new() };
        };
        let points = class.starting_points.iter().filter_map(|&index| {
            let point = config.starting_points.get(index)?;
            Some(Point {
                index,
                name: point.name.clone(),
                table: layout.points.get(index)?.clone(),
                account: point.account_column.quoted(),
                feature: point.feature_column.as_ref().map(crate::model::Ident::quoted),
                since: point.since_column.quoted(),
                region: region.clone(),
            })
        });
        Self { feature: class.feature.clone(), points: points.collect() }
    }

    /// The points, in the order of the class.
    #[must_use]
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// Every table this class asks has an index on its account column, so that a nested loop is the right plan.
    #[must_use]
    pub fn indexed(&self) -> bool {
        self.points.iter().all(|p| p.table.indexed)
    }

    /// `(account_id, since)` of every subject for which a point of this class stands, as the text of a query.
    #[must_use]
    pub fn standing(&self) -> String {
        let parts: Vec<String> = self.points.iter().map(|p| p.standing(&self.feature, "")).collect();
        parts.join("\nunion all\n")
    }

    /// `(account_id, since, point)` like [`Source::standing`], with the point's index.
    #[must_use]
    pub fn standing_by_point(&self) -> String {
        let parts: Vec<String> = self
            .points
            .iter()
            .map(|p| format!("select account_id, since, {}::int4 as point from ({}) p", p.index, p.standing(&self.feature, "")))
            .collect();
        parts.join("\nunion all\n")
    }

    /// Like [`Source::standing`], only what began after `$1`: an index range, whatever the size of the table.
    #[must_use]
    pub fn standing_since(&self) -> String {
        let parts: Vec<String> = self.points.iter().map(|p| p.standing(&self.feature, &format!(" and s.{} > $1", p.since))).collect();
        parts.join("\nunion all\n")
    }

    /// `(account_id, point, problem)` of every value that is impossible, as the text of a query.
    #[must_use]
    pub fn implausible(&self) -> String {
        let parts: Vec<String> = self
            .points
            .iter()
            .map(|p| {
                let since = &p.since;
                format!(
                    "select s.{}::text as account_id, {} as point, min(s.{since})::text as value from {} s where {} and not (s.{since} between {PLAUSIBLE_FROM} and {PLAUSIBLE_UNTIL}) group by 1",
                    p.account,
                    literal(&p.name),
                    p.table.sql,
                    p.of_feature("s", &self.feature)
                )
            })
            .collect();
        parts.join("\nunion all\n")
    }

    /// What each point says about each of the accounts, in one snapshot per point.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn observe(&self, conn: &mut PgConnection, accounts: &[String]) -> Result<Vec<Observation>, DatabaseError> {
        let mut observations = Vec::new();
        for point in &self.points {
            let keys: Vec<&str> = accounts.iter().map(String::as_str).filter(|id| point.table.key.holds(id)).collect();
            let rows: Vec<Read> = sqlx::query_as(AssertSqlSafe(point.observe(&self.feature))).bind(keys).fetch_all(&mut *conn).await?;
            observations.extend(rows.into_iter().map(|row| Observation {
                account_id: row.account_id,
                point: point.index,
                state: match (row.implausible, row.since) {
                    (Some(value), _) => PointState::Implausible(value),
                    (None, Some(since)) if row.all_set => PointState::Since(since),
                    (None, _) => PointState::NotSet,
                },
            }));
        }
        Ok(observations)
    }
}

impl Point {
    /// The type its table keys accounts by.
    #[must_use]
    pub fn key(&self) -> KeyType {
        self.table.key
    }

    /// The columns of one subject's rows in this point's table under `alias`; `id` is a text expression.
    fn of_subject(&self, alias: &str, feature: &str, id: &str) -> String {
        let account = self.table.key.equals(&format!("{alias}.{}", self.account), id);
        let region = self.region.as_ref().map_or_else(String::new, |r| format!(" and {}", r.contains(id)));
        format!("{account} and {}{region}", self.of_feature(alias, feature))
    }

    fn of_feature(&self, alias: &str, feature: &str) -> String {
        match &self.feature {
            Some(column) => format!("{alias}.{column}::text = {} collate \"C\"", literal(feature)),
            None => "true".to_owned(),
        }
    }

    fn standing(&self, feature: &str, and: &str) -> String {
        let (table, account, since) = (&self.table.sql, &self.account, &self.since);
        let of_feature = self.of_feature("s", feature);
        let region = self.region.as_ref().map_or_else(String::new, |r| format!(" and {}", r.contains(&format!("s.{account}::text"))));
        if self.table.unique {
            return format!(
                "select s.{account}::text as account_id, s.{since} as since from {table} s where {of_feature} and s.{since} between {PLAUSIBLE_FROM} and {PLAUSIBLE_UNTIL}{and}{region}"
            );
        }
        // Several rows for one subject: in force only when each is set, and then since the latest (R2).
        let same = format!("o.{account} = s.{account} and {}", self.of_feature("o", feature));
        format!(
            "select s.{account}::text as account_id, max(s.{since}) as since from {table} s where {of_feature} and s.{since} is not null{and}{region} \
             and not exists (select 1 from {table} o where {same} and (o.{since} is null or o.{since} not between {PLAUSIBLE_FROM} and {PLAUSIBLE_UNTIL})) group by 1"
        )
    }

    fn observe(&self, feature: &str) -> String {
        let since = &self.since;
        let plausible = format!("s.{since} is null or s.{since} between {PLAUSIBLE_FROM} and {PLAUSIBLE_UNTIL}");
        format!(
            "select a.id as account_id, bool_and(s.{since} is not null) as all_set, \
                    case when bool_and({plausible}) then max(s.{since}) end as since, \
                    min(s.{since}) filter (where not ({plausible}))::text as implausible \
             from unnest($1::text[]) a(id) join {} s on {} group by a.id",
            self.table.sql,
            self.of_subject("s", feature, "a.id")
        )
    }

    /// `for share` of the subject's rows, for claimed jobs `c (id, account_id)` in the table expression `claimed`.
    /// Rows that somebody else holds are skipped, never waited for (R14).
    #[must_use]
    pub fn lock(&self, feature: &str, claimed: &str) -> String {
        format!(
            "select c.id, s.{} as since from {claimed} c join {} s on {} for share of s skip locked",
            self.since,
            self.table.sql,
            self.of_subject("s", feature, "c.account_id")
        )
    }

    /// The same rows counted without locking them: more of them means that some were skipped.
    #[must_use]
    pub fn count(&self, feature: &str, claimed: &str) -> String {
        format!(
            "select c.id, count(*) as n from {claimed} c join {} s on {} group by c.id",
            self.table.sql,
            self.of_subject("s", feature, "c.account_id")
        )
    }

    /// Whether the point stands since exactly `started_at` for the job under `alias`, as a condition.
    #[must_use]
    pub fn stands(&self, feature: &str, alias: &str) -> String {
        let rows = format!("select 1 from {} s where {}", self.table.sql, self.of_subject("s", feature, &format!("{alias}.account_id")));
        // `is not distinct from` and not `=`: an index on the instant would serve that, and read every account of a mass termination for each of them.
        let exactly = format!("exists ({rows} and s.{} is not distinct from {alias}.started_at)", self.since);
        if self.table.unique {
            return exactly;
        }
        let since = &self.since;
        format!("{exactly} and not exists ({rows} and (s.{since} is null or s.{since} > {alias}.started_at))")
    }
}

/// How many accounts the account-level table knows; what the guard's shares are of.
///
/// # Errors
/// Those of the database.
pub async fn known_accounts(conn: &mut PgConnection, config: &Config, layout: &Layout) -> Result<Option<i64>, DatabaseError> {
    let level = config.starting_points.iter().zip(&layout.points).find(|(p, _)| p.feature_column.is_none());
    let Some((_, table)) = level else { return Ok(None) };
    let query = format!("select count(*) from {}", table.sql);
    Ok(Some(sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(conn).await?))
}
