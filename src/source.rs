//! The platform's own tables, read only: which starting points stand, and since when.
//! It knows nothing of periods or jobs; what it reads, `retention` judges.

pub mod roster;

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

/// What stands for an account's id in [`Source::ours`].
const OURS: &str = "{account}";

/// One starting point as SQL.
#[derive(Debug, Clone)]
pub struct Point {
    /// Index into the configuration's starting points.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// Its name in `retention.absences`.
    source: String,
    table: Table,
    account: String,
    feature: Option<String>,
    since: String,
    region: Option<Region>,
}

/// The daemon's own regions, asked of the account-level table (R9). Of an account that has no row there any more, what was remembered of it counts; one that
/// was never seen has no known region.
#[derive(Debug, Clone)]
struct Region {
    table: Table,
    account: String,
    column: String,
    regions: Vec<String>,
}

impl Region {
    /// Whether the account lives here, as a condition; `id` is a text expression that was made of a `from`.
    fn contains(&self, id: &str, from: KeyType) -> String {
        let (table, regions) = (&self.table.sql, literals(&self.regions));
        let row = format!("select 1 from {table} r where {}", self.table.key.same(&format!("r.{}", self.account), id, from));
        format!(
            "case when exists ({row}) then exists ({row} and r.{}::text = any({regions}))
                  else exists (select 1 from retention.account_regions g where g.account_id = {id} and g.region = any({regions})) end",
            self.column
        )
    }

    /// Whether nobody knows where the account lives: neither its row nor, if it has none, the memory.
    fn is_unknown(&self, id: &str, from: KeyType) -> String {
        let row = format!("select 1 from {} r where {}", self.table.sql, self.table.key.same(&format!("r.{}", self.account), id, from));
        format!(
            "case when exists ({row}) then not exists ({row} and r.{}::text <> '')
                  else not exists (select 1 from retention.account_regions g where g.account_id = {id} and g.region <> '') end",
            self.column
        )
    }

    /// Remembers which accounts live here, and of those that did where they have moved.
    fn remember(&self) -> String {
        let (account, column) = (format!("r.{}::text", self.account), format!("r.{}::text", self.column));
        format!(
            "insert into retention.account_regions as g (account_id, region)
             select distinct on ({account}) {account}, {column} from {} r
             left join retention.account_regions g on g.account_id = {account}
             where ({column} = any({}) or g.account_id is not null) and g.region is distinct from {column} and {column} is not null
             order by {account}
             on conflict (account_id) do update set region = excluded.region where g.region <> excluded.region",
            self.table.sql,
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
            let (table, account) = (layout.points.get(index)?.clone(), point.account_column.quoted());
            let feature = point.feature_column.as_ref().map(crate::model::Ident::quoted);
            Some(Point {
                index,
                name: point.name.clone(),
                source: roster::source_name(&table.sql, &account, feature.as_deref()),
                table,
                account,
                feature,
                since: point.since_column.quoted(),
                region: region.clone(),
            })
        });
        Self { feature: class.feature.clone(), points: points.collect() }
    }

    /// Whether an account is of the daemon's own regions, as a condition in which `{account}` stands for its id; `None` without regions.
    #[must_use]
    pub fn ours(&self) -> Option<String> {
        let region = self.points.first()?.region.as_ref()?;
        // Ids of several types meet here; only where all are of one they can be asked for by index.
        let one = self.points.iter().all(|point| point.table.key == region.table.key);
        let from = if one { region.table.key } else { KeyType::Text };
        Some(region.contains(OURS, from))
    }

    /// The statement that remembers which accounts live in the daemon's regions; `None` without regions.
    #[must_use]
    pub fn remember_regions(&self) -> Option<String> {
        Some(self.points.first()?.region.as_ref()?.remember())
    }

    /// Each selects, as `id`, accounts of which one starting point says that they have ended, and nothing says where they live; none without regions.
    #[must_use]
    pub fn of_no_region(&self) -> Vec<String> {
        let ended = self.points.iter().filter_map(|point| {
            let (region, id) = (point.region.as_ref()?, format!("s.{}", point.account));
            let unknown = |id: &str| region.is_unknown(id, point.table.key);
            Some(format!(
                "select {id}::text as id from {} s where s.{} is not null and {id} is not null and {} and {}
                 union select a.account_id from retention.absences a where a.source = {} and a.confirmed_at is not null and {}",
                point.table.sql,
                point.since,
                point.of_feature("s", &self.feature),
                unknown(&format!("{id}::text")),
                literal(&point.source),
                unknown("a.account_id")
            ))
        });
        ended.collect()
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
        let parts: Vec<String> = self.points.iter().map(|p| p.standing_or_vanished(&self.feature)).collect();
        parts.join("\nunion all\n")
    }

    /// `(account_id, since, point)` like [`Source::standing`], with the point's index.
    #[must_use]
    pub fn standing_by_point(&self) -> String {
        let parts: Vec<String> = self
            .points
            .iter()
            .map(|p| format!("select account_id, since, {}::int4 as point from ({}) p", p.index, p.standing_or_vanished(&self.feature)))
            .collect();
        parts.join("\nunion all\n")
    }

    /// Every table this class asks has an index in the order of its instants.
    #[must_use]
    pub fn dated(&self) -> bool {
        self.points.iter().all(Point::dated)
    }

    /// `(account_id, point, value)` of every value that is impossible, as the text of a query: the two ends of an index.
    #[must_use]
    pub fn implausible(&self) -> String {
        let part = |p: &Point, end: &str| {
            format!(
                "select s.{}::text as account_id, {} as point, s.{}::text as value from {} s where s.{} is not null and {} and s.{} {end}{}",
                p.account,
                literal(&p.name),
                p.since,
                p.table.sql,
                p.account,
                p.of_feature("s", &self.feature),
                p.since,
                p.of_region("s")
            )
        };
        let ends = [format!("< {PLAUSIBLE_FROM}"), format!("> {PLAUSIBLE_UNTIL}")];
        let parts: Vec<String> = self.points.iter().flat_map(|p| ends.iter().map(move |end| part(p, end))).collect();
        format!("select account_id, point, min(value) as value from ({}) v group by account_id, point", parts.join("\nunion all\n"))
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
            let vanished: Vec<(String, DateTime<Utc>)> =
                sqlx::query_as(AssertSqlSafe(format!("{} and a.account_id = any($1)", point.vanished(&self.feature))))
                    .bind(accounts)
                    .fetch_all(&mut *conn)
                    .await?;
            let absent = |(account_id, first_missed): (String, DateTime<Utc>)| {
                let there = observations.iter().any(|o| o.point == point.index && o.account_id == account_id);
                (!there).then_some(Observation { account_id, point: point.index, state: PointState::Vanished(first_missed) })
            };
            let vanished: Vec<Observation> = vanished.into_iter().filter_map(absent).collect();
            observations.extend(vanished);
        }
        Ok(observations)
    }
}

impl Point {
    /// An index has the order of its instants.
    #[must_use]
    pub fn dated(&self) -> bool {
        self.table.dated
    }

    /// `(account_id, since)` of every subject for which the point stands since an instant after `$1`, as the text of a query: an index range, whatever the
    /// size of the table.
    #[must_use]
    pub fn standing_since(&self, feature: &str) -> String {
        self.standing(feature, &format!(" and s.{} > $1", self.since))
    }

    /// `(since, key, account_id)` of every row whose instant is set and plausible, beyond the position `$1`, `$2`, as the text of a query in the order
    /// of `since, key`. What else decides whether it counts is [`Point::counts`].
    #[must_use]
    pub fn by_instant(&self, feature: &str) -> String {
        let (account, since) = (&self.account, &self.since);
        format!(
            "select s.{since} as since, s.{account} as key, s.{account}::text as account_id from {} s
             where s.{account} is not null and s.{since} >= $1::timestamptz and (s.{since} > $1::timestamptz or s.{account} > $2::{}) and s.{since} <= {PLAUSIBLE_UNTIL} and {}",
            self.table.sql,
            self.table.key.sql(),
            self.of_feature("s", feature)
        )
    }

    /// Whether the row `p` of [`Point::by_instant`] stands, as a condition: it is this daemon's business, and of several rows for one subject the
    /// latest, with all others set (R2, R9).
    #[must_use]
    pub fn counts(&self, feature: &str) -> String {
        let region = self.region.as_ref().map_or_else(|| "true".to_owned(), |r| r.contains("p.account_id", self.table.key));
        if self.table.unique {
            return region;
        }
        let since = &self.since;
        format!(
            "{region} and not exists (select 1 from {} o where o.{} = p.key and {} and (o.{since} is null or o.{since} > p.since or o.{since} < {PLAUSIBLE_FROM}))",
            self.table.sql,
            self.account,
            self.of_feature("o", feature)
        )
    }

    /// Whether the rows of the job or done-mark `p`, where there are any, say something else than that this point stands since `p.started_at`, as
    /// conditions of which one has to hold.
    #[must_use]
    pub fn says_otherwise(&self, feature: &str) -> Vec<String> {
        let since = &self.since;
        // Asked for each row where an index serves; else part of one plan that reads the table once.
        let each = if self.table.indexed { " offset 0" } else { "" };
        let row = |says: &str| {
            format!(
                "exists (select 1 from {} s where {} and ({says}){each})",
                self.table.sql,
                self.of_subject("s", feature, "p.account_id")
            )
        };
        if self.table.unique {
            return vec![row(&format!("s.{since} is distinct from p.started_at"))];
        }
        vec![
            row(&format!("s.{since} is null or s.{since} > p.started_at or s.{since} < {PLAUSIBLE_FROM}")),
            format!(
                "{} and not {}",
                row(&format!("s.{since} < p.started_at")),
                row(&format!("s.{since} is not distinct from p.started_at"))
            ),
        ]
    }

    /// The type its table keys accounts by.
    #[must_use]
    pub fn key(&self) -> KeyType {
        self.table.key
    }

    /// One subject's rows in this point's table under `alias`, as a condition; `id` is a text expression.
    fn of_row(&self, alias: &str, feature: &str, id: &str) -> String {
        format!("{} and {}", self.table.key.equals(&format!("{alias}.{}", self.account), id), self.of_feature(alias, feature))
    }

    /// The same, as far as they are this daemon's business (R9).
    fn of_subject(&self, alias: &str, feature: &str, id: &str) -> String {
        let region = self.region.as_ref().map_or_else(String::new, |r| format!(" and {}", r.contains(id, self.table.key)));
        format!("{}{region}", self.of_row(alias, feature, id))
    }

    fn of_feature(&self, alias: &str, feature: &str) -> String {
        match &self.feature {
            Some(column) => format!("{alias}.{column}::text = {} collate \"C\"", literal(feature)),
            None => "true".to_owned(),
        }
    }

    /// Empty without regions, else a condition that begins with `and`: another region's rows are another daemon's.
    fn of_region(&self, alias: &str) -> String {
        self.region
            .as_ref()
            .map_or_else(String::new, |r| format!(" and {}", r.contains(&format!("{alias}.{}::text", self.account), self.table.key)))
    }

    fn standing(&self, feature: &str, and: &str) -> String {
        let (table, account, since) = (&self.table.sql, &self.account, &self.since);
        let of_feature = self.of_feature("s", feature);
        let region = self.of_region("s");
        if self.table.unique {
            return format!(
                "select s.{account}::text as account_id, s.{since} as since from {table} s where s.{account} is not null and {of_feature} and s.{since} between {PLAUSIBLE_FROM} and {PLAUSIBLE_UNTIL}{and}{region}"
            );
        }
        // Several rows for one subject: in force only when each is set, and then since the latest (R2).
        let same = format!("o.{account} = s.{account} and {}", self.of_feature("o", feature));
        format!(
            "select s.{account}::text as account_id, max(s.{since}) as since from {table} s where s.{account} is not null and {of_feature} and s.{since} is not null{and}{region} \
             and not exists (select 1 from {table} o where {same} and (o.{since} is null or o.{since} not between {PLAUSIBLE_FROM} and {PLAUSIBLE_UNTIL})) group by 1"
        )
    }

    fn observe(&self, feature: &str) -> String {
        let since = &self.since;
        let plausible = format!("s.{since} is null or s.{since} between {PLAUSIBLE_FROM} and {PLAUSIBLE_UNTIL}");
        if self.table.unique {
            return format!(
                "select a.id as account_id, s.{since} is not null as all_set, case when {plausible} then s.{since} end as since,
                        case when not ({plausible}) then s.{since}::text end as implausible
                 from unnest($1::text[]) a(id) join {} s on {}",
                self.table.sql,
                self.of_subject("s", feature, "a.id")
            );
        }
        format!(
            "select a.id as account_id, bool_and(s.{since} is not null) as all_set, \
                    case when bool_and({plausible}) then max(s.{since}) end as since, \
                    min(s.{since}) filter (where not ({plausible}))::text as implausible \
             from unnest($1::text[]) a(id) join {} s on {} group by a.id",
            self.table.sql,
            self.of_subject("s", feature, "a.id")
        )
    }

    /// Whether this point's table has any row of the account `id`, a text expression that was made of a `from`, as a condition.
    #[must_use]
    pub fn knows(&self, id: &str, from: KeyType) -> String {
        let same = self.table.key.same(&format!("s.{}", self.account), id, from);
        format!("exists (select 1 from {} s where {same})", self.table.sql)
    }

    /// What the subject's rows say of the job `c (account_id, started_at)`, as `(lateral, word)`: a table expression that locks the rows `for share`, and a
    /// text expression over it: stands, changed, missing or locked. Rows that somebody else holds are skipped, never waited for (R14); there are
    /// more rows than were locked then.
    #[must_use]
    pub fn verdict(&self, feature: &str) -> (String, String) {
        let rows = format!("{} s where {}", self.table.sql, self.of_subject("s", feature, "c.account_id"));
        let lateral = format!(
            "lateral (select count(*) as rows, count(since) as dated, max(since) as since
                      from (select s.{} as since from {rows} for share of s skip locked) s) l",
            self.since
        );
        let count = format!("(select count(*) from {rows})");
        let count = if self.table.unique { format!("case when l.rows = 1 then 1 else {count} end") } else { count };
        let word = format!(
            "case when l.rows <> {count} then 'locked'
                  when l.rows = 0 then case when {} then 'stands' else 'missing' end
                  when l.dated = l.rows and l.since = c.started_at then 'stands' else 'changed' end",
            self.is_vanished(feature, "c")
        );
        (lateral, word)
    }

    /// Whether the point stands since exactly `started_at` for the job under `alias`, as a condition: its row says so, or its row has vanished
    /// for good. The test of the absence is part of the very statement that deletes (R6).
    #[must_use]
    pub fn stands(&self, feature: &str, alias: &str) -> String {
        let id = format!("{alias}.account_id");
        let since = &self.since;
        let rows = format!("select 1 from {} s where {}", self.table.sql, self.of_subject("s", feature, &id));
        // `is not distinct from` and not `=`: an index on the instant would serve that, and read every account of a mass termination for each of them.
        let exactly = format!("exists ({rows} and s.{since} is not distinct from {alias}.started_at)");
        let others = if self.table.unique {
            String::new()
        } else {
            format!(" and not exists ({rows} and (s.{since} is null or s.{since} > {alias}.started_at))")
        };
        let gone = format!("not exists (select 1 from {} s where {})", self.table.sql, self.of_row("s", feature, &id));
        format!("(({exactly}{others}) or ({gone} and {}))", self.is_vanished(feature, alias))
    }

    /// Whether the row of the job under `alias` has vanished for good, as a condition.
    #[must_use]
    pub fn is_vanished(&self, feature: &str, alias: &str) -> String {
        format!("exists ({} and a.account_id = {alias}.account_id)", self.vanished(feature))
    }

    /// `(id, account_id, since)` of the rows that vanished for good, under the alias `a`, as the text of a query that can be narrowed.
    #[must_use]
    pub fn absent(&self, feature: &str) -> String {
        self.absence("a.id, a.account_id, a.first_missed_at as since", feature)
    }

    fn vanished(&self, feature: &str) -> String {
        self.absence("a.account_id, a.first_missed_at as since", feature)
    }

    fn absence(&self, columns: &str, feature: &str) -> String {
        let of_feature = if self.feature.is_some() { format!(" and a.feature = {}", literal(feature)) } else { String::new() };
        let region = self.region.as_ref().map_or_else(String::new, |r| format!(" and {}", r.contains("a.account_id", self.table.key)));
        format!(
            "select {columns} from retention.absences a where a.source = {} and a.confirmed_at is not null{of_feature}{region}",
            literal(&self.source)
        )
    }

    fn standing_or_vanished(&self, feature: &str) -> String {
        format!("{}\nunion all\n{}", self.standing(feature, ""), self.vanished(feature))
    }
}
