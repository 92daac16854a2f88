//! Figures over all jobs, for plots and overviews: what is due on which day, and what was done on which. The days that are over are counted once
//! ([`roll`]) and kept when their jobs are forgotten. It changes no job.

use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;
use sqlx::{AssertSqlSafe, FromRow, PgConnection};

use super::list::Tally;
use utoipa::ToSchema;

use crate::{database::DatabaseError, model, safeguards::held};

/// Bounds of lateness in seconds; what is above the last has a count of its own.
pub const LATENESS: [i64; 12] = [1, 5, 15, 60, 300, 900, 3_600, 14_400, 43_200, 86_400, 172_800, 604_800];
/// So many days ahead are told apart.
pub const AHEAD: i32 = 35;
/// So many days that are over are shown.
const BACK: i32 = 30;

/// Open jobs of one class whose day it is.
#[derive(Debug, Clone, PartialEq, Eq, FromRow, Serialize, ToSchema)]
pub struct Ahead {
    /// The day of `retain_until` in UTC, today for what is due; `None` for what is overdue. The last day stands for everything after it too.
    pub day: Option<NaiveDate>,
    /// The feature.
    pub feature: String,
    /// The data class.
    pub data_class: String,
    /// Jobs that a hold keeps are counted apart.
    pub held: bool,
    /// How many.
    pub jobs: i64,
    #[serde(skip)]
    running: i64,
    #[serde(skip)]
    due: i64,
}

/// What was done on one day, by data class.
#[derive(Debug, Clone, PartialEq, Eq, FromRow, Serialize, ToSchema)]
pub struct Day {
    /// The day in UTC.
    pub day: NaiveDate,
    /// The feature.
    pub feature: String,
    /// The data class.
    pub data_class: String,
    /// Jobs completed.
    pub completed: i64,
    /// Of those, after `delete_by`.
    pub late: i64,
    /// Jobs cancelled.
    pub cancelled: i64,
    /// Records deleted by the completed ones.
    pub records: i64,
    /// Completed jobs by [`LATENESS`].
    pub lateness: Vec<i64>,
}

/// All of it, as of one moment.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Figures {
    /// When, by the database's clock.
    #[serde(serialize_with = "model::serialize_instant")]
    pub counted_at: DateTime<Utc>,
    /// Today in UTC.
    pub today: NaiveDate,
    /// Jobs by state. What is over is counted since the beginning, also what has been forgotten.
    pub jobs: Tally,
    /// What is open.
    pub ahead: Vec<Ahead>,
    /// The last days, today's included.
    pub days: Vec<Day>,
}

/// Counts everything. Reads every open job, and those that ended since the last day that was counted: not for a screen to wait for.
///
/// # Errors
/// Those of the database.
pub async fn figures(conn: &mut PgConnection) -> Result<Figures, DatabaseError> {
    let (counted_at, today): (DateTime<Utc>, NaiveDate) = sqlx::query_as("select now(), current_date").fetch_one(&mut *conn).await?;
    let held = held("j");
    let ahead: Vec<Ahead> = sqlx::query_as(AssertSqlSafe(format!(
        "select day, feature, data_class, held, count(*) as jobs, count(*) filter (where running) as running, count(*) filter (where due) as due
         from (select case when j.delete_by >= now() or held then least(greatest(j.retain_until::date, current_date), current_date + {AHEAD}) end as day,
                      j.feature, j.data_class, held, coalesce(j.lease_until > now(), false) as running, j.retain_until <= now() as due
               from retention.jobs j cross join lateral (select {held} as held) h) j
         group by 1, 2, 3, 4 order by 1 nulls first, 2, 3, 4"
    )))
    .fetch_all(&mut *conn)
    .await?;
    // One statement: a day that is counted meanwhile is either among those counted or among the recent, and never both.
    let recent = by_day(">= coalesce((select max(day) + 1 from retention.days), '-infinity'::date)");
    let mut days: Vec<Day> = sqlx::query_as(AssertSqlSafe(format!(
        "with each as (select day, feature, data_class, completed, late, cancelled, records, lateness from retention.days where feature <> ''
                       union all ({recent}))
         select * from each where day > current_date - $1
         union all
         select 'epoch'::date, '', '', coalesce(sum(completed), 0)::int8, 0, coalesce(sum(cancelled), 0)::int8, 0, '{{}}' from each
         order by 1, 2, 3"
    )))
    .bind(BACK)
    .fetch_all(conn)
    .await?;
    // The line of all days together is the one without a feature.
    let all = days.iter().position(|d| d.feature.is_empty()).map(|at| days.remove(at));
    let (completed, cancelled) = all.map_or((0, 0), |all| (all.completed, all.cancelled));
    let sum = |of: fn(&Ahead) -> i64| ahead.iter().map(of).sum::<i64>();
    let running = sum(|a| a.running);
    let jobs = Tally {
        scheduled: sum(|a| a.jobs) - running,
        running,
        completed,
        cancelled,
        due: sum(|a| a.due),
        overdue: sum(|a| if a.day.is_none() { a.jobs } else { 0 }),
        held: sum(|a| if a.held { a.jobs } else { 0 }),
    };
    Ok(Figures { counted_at, today, jobs, ahead, days })
}

/// Counts the days that have been over for an hour and were not counted yet, `days` at most. Returns whether there may be more.
///
/// # Errors
/// Those of the database.
pub async fn roll(conn: &mut PgConnection, days: i32) -> Result<bool, DatabaseError> {
    // One replica at a time; the others find nothing left to do.
    sqlx::query("lock table retention.days in share row exclusive mode").execute(&mut *conn).await?;
    let (from, to): (Option<NaiveDate>, Option<NaiveDate>) = sqlx::query_as(
        "select d.from, least(d.from + $1, (now() - interval '1 hour')::date)
         from (select coalesce((select max(day) + 1 from retention.days),
                               (select coalesce(completed_at, cancelled_at)::date from retention.history order by coalesce(completed_at, cancelled_at) limit 1))) d(\"from\")",
    )
    .bind(days)
    .fetch_one(&mut *conn)
    .await?;
    let Some((from, to)) = from.zip(to).filter(|(from, to)| from < to) else { return Ok(false) };
    let counted = by_day(">= $1 and coalesce(h.completed_at, h.cancelled_at) < $2");
    sqlx::query(AssertSqlSafe(format!(
        "insert into retention.days (day, feature, data_class, completed, late, cancelled, records, lateness)
         with counted as ({counted})
         select * from counted
         union all
         select d::date, '', '', 0, 0, 0, 0, '{{}}' from generate_series($1::timestamptz, $2::timestamptz - interval '1 day', interval '1 day') d
         where d::date not in (select day from counted)"
    )))
    .bind(from)
    .bind(to)
    .execute(conn)
    .await?;
    Ok(true)
}

/// What ended in a part of history, which `ended` says behind the instant that a job ended at.
fn by_day(ended: &str) -> String {
    let bounds = LATENESS.map(|b| b.to_string()).join(", ");
    let count = |bucket: usize| format!("count(*) filter (where bucket = {bucket})");
    let lateness = (0..=LATENESS.len()).map(count).collect::<Vec<_>>().join(", ");
    format!(
        "select day, feature, data_class, count(*) filter (where completed) as completed, count(*) filter (where completed and late) as late,
                count(*) filter (where not completed) as cancelled, coalesce(sum(records) filter (where completed), 0)::int8 as records, array[{lateness}] as lateness
         from (select coalesce(h.completed_at, h.cancelled_at)::date as day, h.feature, h.data_class, h.completed_at is not null as completed,
                      h.completed_at > h.delete_by as late,
                      (select sum(value::int8) from jsonb_each_text(h.records_deleted)) as records,
                      width_bucket(extract(epoch from h.completed_at - h.retain_until)::float8 - 0.000001, array[{bounds}]::float8[]) as bucket
               from retention.history h where coalesce(h.completed_at, h.cancelled_at) {ended}) h
         group by 1, 2, 3 order by 1, 2, 3"
    )
}
