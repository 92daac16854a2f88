//! What was deleted within an interval, how much of it in time, and what stands out: the answer of `report deletions`. No account is named in it.
//!
//! One statement, so that every figure is of one instant. The database counts; what comes here is a line for each class and place, and one for each exception,
//! handed on as it arrives: a million jobs take no more memory than one.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, PgConnection, types::Json};

use crate::{config::Config, database::DatabaseError, model, safeguards::held};

/// From which instant on, and before which: a job counts where it was over. Half-open, so that reports of one month after the other count each job once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Interval {
    /// The first instant that counts.
    #[serde(serialize_with = "model::serialize_instant")]
    pub from: DateTime<Utc>,
    /// The first that does not any more.
    #[serde(serialize_with = "model::serialize_instant")]
    pub to: DateTime<Utc>,
    /// When somebody asked: what is open, overdue and held is so now.
    #[serde(serialize_with = "model::serialize_instant")]
    pub asked_at: DateTime<Utc>,
}

/// What became of the jobs of one class, of one target of it, or of all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Completed within the interval: a separate look found nothing left.
    pub completed: i64,
    /// Of those, completed by their `delete_by`.
    pub on_time: i64,
    /// Of those, completed after it.
    pub late: i64,
    /// The share that was on time, 0 to 1; none where none was completed.
    pub on_time_share: Option<f64>,
    /// Seconds from `retain_until` to completion, of the job that took longest: `lateness_seconds` in the log.
    pub latest_lateness_seconds: Option<f64>,
    /// Records that the completed jobs deleted.
    pub records_deleted: i64,
    /// The counts of records are exact; else they are lower bounds.
    pub count_exact: bool,
    /// Cancelled within the interval, not counting what was closed as unverifiable.
    pub cancelled: i64,
    /// Of those, cancelled when their purge had begun.
    pub partial: i64,
    /// Closed by hand within the interval, because nobody could ever verify the purge.
    pub unverifiable: i64,
    /// Records that cancelled and closed jobs had deleted by then.
    pub partial_records: i64,
    /// Open now.
    pub open: i64,
    /// Of those, past their `delete_by` and not held.
    pub overdue: i64,
    /// Of those, held.
    pub held: i64,
}

impl Figures {
    /// Nothing happened.
    #[must_use]
    pub fn none() -> Self {
        Self {
            completed: 0,
            on_time: 0,
            late: 0,
            on_time_share: None,
            latest_lateness_seconds: None,
            records_deleted: 0,
            count_exact: true,
            cancelled: 0,
            partial: 0,
            unverifiable: 0,
            partial_records: 0,
            open: 0,
            overdue: 0,
            held: 0,
        }
    }

    /// Jobs that are listed as exceptions.
    #[must_use]
    pub fn exceptions(&self) -> i64 {
        self.late + self.partial + self.unverifiable + self.overdue
    }
}

/// One data class.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassFigures {
    /// The feature.
    pub feature: String,
    /// The data class.
    pub data_class: String,
    /// All of its jobs.
    #[serde(flatten)]
    pub figures: Figures,
    /// The same jobs, with what they did in each place.
    pub targets: Vec<TargetFigures>,
}

/// One place of a data class.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TargetFigures {
    /// The target's name.
    pub name: String,
    /// The jobs that had it among their targets; the records of this place alone.
    #[serde(flatten)]
    pub figures: Figures,
}

/// The figures of all classes: those of the configuration, and others that jobs are left of.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Deletions {
    /// What counts.
    #[serde(flatten)]
    pub interval: Interval,
    /// All classes together.
    pub totals: Figures,
    /// Each, by feature and name.
    pub classes: Vec<ClassFigures>,
}

/// A job that somebody may have to answer for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Exception {
    /// The job.
    pub job_id: String,
    /// The feature.
    pub feature: String,
    /// The data class.
    pub data_class: String,
    /// `late`, `partial`, `unverifiable` or `overdue`.
    pub what: String,
    /// When its promise ended.
    #[serde(serialize_with = "model::serialize_instant")]
    pub delete_by: DateTime<Utc>,
    /// When it was over; none while it is open.
    #[serde(serialize_with = "model::serialize_optional_instant")]
    pub ended_at: Option<DateTime<Utc>>,
    /// Seconds after `delete_by`, of what is late or overdue.
    pub late_seconds: Option<f64>,
    /// Records deleted so far.
    pub records_deleted: i64,
    /// The count is exact.
    pub count_exact: bool,
}

/// What the report consists of, in this order: the figures once, then each exception.
#[derive(Debug, Clone, PartialEq)]
pub enum Line {
    /// All figures.
    Figures(Deletions),
    /// One exception, by the job's id.
    Exception(Exception),
}

#[derive(Deserialize)]
struct Group {
    feature: Option<String>,
    data_class: Option<String>,
    target: Option<String>,
    #[serde(flatten)]
    figures: Figures,
}

/// Hands the report on, line by line.
///
/// # Errors
/// Those of the database.
pub async fn deletions(
    conn: &mut PgConnection,
    config: &Config,
    interval: Interval,
    mut each: impl FnMut(Line),
) -> Result<(), DatabaseError> {
    // What the main database deletes is counted in the transaction that deletes it, whatever else the job does (R19).
    let exact: Vec<&str> = config.data_classes.iter().flat_map(|c| &c.targets).map(|t| t.name.as_str()).collect();
    let query = statement();
    let mut lines = sqlx::query_as::<_, (i32, Json<serde_json::Value>)>(AssertSqlSafe(query))
        .bind(interval.from)
        .bind(interval.to)
        .bind(exact)
        .fetch(conn);
    let (mut groups, mut told) = (Gathered::of(config), false);
    while let Some((rank, Json(line))) = lines.try_next().await? {
        if rank == 0 {
            groups.add(understood(line)?);
            continue;
        }
        // The first exception ends the figures.
        if !std::mem::replace(&mut told, true) {
            each(Line::Figures(groups.done(interval)));
        }
        each(Line::Exception(understood(line)?));
    }
    if !told {
        each(Line::Figures(groups.done(interval)));
    }
    Ok(())
}

fn understood<T: serde::de::DeserializeOwned>(line: serde_json::Value) -> Result<T, DatabaseError> {
    serde_json::from_value(line).map_err(|error| sqlx::Error::Decode(error.into()).into())
}

/// The figures as they arrive, in no order.
struct Gathered {
    totals: Figures,
    classes: BTreeMap<(String, String), (Figures, BTreeMap<String, Figures>)>,
}

impl Gathered {
    /// Every class and target of the configuration, also where nothing happened.
    fn of(config: &Config) -> Self {
        let class = |c: &crate::config::DataClass| {
            let names = c.targets.iter().map(|t| &t.name).chain(c.remote.iter().map(|t| &t.name));
            let targets = names.map(|name| (name.clone(), Figures::none())).collect();
            ((c.feature.clone(), c.name.clone()), (Figures::none(), targets))
        };
        Self { totals: Figures::none(), classes: config.data_classes.iter().map(class).collect() }
    }

    fn add(&mut self, group: Group) {
        let (Some(feature), Some(data_class)) = (group.feature, group.data_class) else {
            self.totals = group.figures;
            return;
        };
        let (figures, targets) = self.classes.entry((feature, data_class)).or_insert_with(|| (Figures::none(), BTreeMap::new()));
        match group.target {
            Some(target) => drop(targets.insert(target, group.figures)),
            None => *figures = group.figures,
        }
    }

    fn done(&mut self, interval: Interval) -> Deletions {
        let classes = std::mem::take(&mut self.classes);
        let target = |(name, figures)| TargetFigures { name, figures };
        let class = |((feature, data_class), (figures, targets)): ((String, String), (Figures, BTreeMap<String, Figures>))| ClassFigures {
            feature,
            data_class,
            figures,
            targets: targets.into_iter().map(target).collect(),
        };
        Deletions { interval, totals: self.totals.clone(), classes: classes.into_iter().map(class).collect() }
    }
}

/// Jobs that were over from `$1` on and before `$2`, and those that are open; `$3` names the targets whose counts are always exact.
fn statement() -> String {
    let held = held("j");
    let figures = |records: &str, exact: &str| {
        format!(
            "count(*) filter (where completed) as completed, count(*) filter (where completed and not late) as on_time,
             count(*) filter (where late) as late,
             count(*) filter (where completed and not late)::float8 / nullif(count(*) filter (where completed), 0) as on_time_share,
             max(lateness) as latest_lateness_seconds, coalesce(sum({records}) filter (where completed), 0)::int8 as records_deleted,
             coalesce(bool_and({exact}) filter (where not open), true) as count_exact, count(*) filter (where cancelled) as cancelled,
             count(*) filter (where partial) as partial, count(*) filter (where unverifiable) as unverifiable,
             coalesce(sum({records}) filter (where cancelled or unverifiable), 0)::int8 as partial_records,
             count(*) filter (where open) as open, count(*) filter (where overdue) as overdue, count(*) filter (where held) as held"
        )
    };
    let (of_jobs, of_places) = (figures("records", "count_exact"), figures("e.value::int8", "count_exact or e.key = any($3)"));
    let closed = "coalesce(h.cancel_reason = 'unverifiable', false)";
    format!(
        "with base as not materialized (
             select h.id, h.feature, h.data_class, h.records_deleted, h.count_exact, h.delete_by, coalesce(h.completed_at, h.cancelled_at) as ended_at,
                    h.state = 'completed' as completed, coalesce(h.completed_at > h.delete_by, false) as late,
                    h.state = 'cancelled' and not {closed} as cancelled,
                    h.state = 'cancelled' and not {closed} and h.purge_began_at is not null as partial,
                    h.state = 'cancelled' and {closed} as unverifiable, false as open, false as overdue, false as held,
                    extract(epoch from h.completed_at - h.retain_until)::float8 as lateness
             from retention.history h
             where coalesce(h.completed_at, h.cancelled_at) >= $1 and coalesce(h.completed_at, h.cancelled_at) < $2
             union all
             select j.id, j.feature, j.data_class, j.records_deleted, j.count_exact, j.delete_by, null, false, false, false, false, false, true,
                    j.delete_by < now() and not {held}, {held}, null
             from retention.jobs j),
         summed as not materialized (
             select b.*, (select coalesce(sum(e.value::int8), 0)::int8 from jsonb_each_text(b.records_deleted) e) as records from base b),
         groups as (
             select feature, data_class, null::text as target, {of_jobs} from summed group by grouping sets ((), (feature, data_class))
             union all
             select feature, data_class, e.key, {of_places} from base, jsonb_each_text(base.records_deleted) e group by feature, data_class, e.key),
         exceptions as (
             select id, id::text as job_id, feature, data_class,
                    case when late then 'late' when partial then 'partial' when unverifiable then 'unverifiable' else 'overdue' end as what,
                    delete_by, ended_at,
                    case when late or overdue then extract(epoch from coalesce(ended_at, now()) - delete_by)::float8 end as late_seconds,
                    records as records_deleted, count_exact
             from summed where late or partial or unverifiable or overdue)
         select rank, line
         from (select 0 as rank, 0::int8 as id, to_jsonb(g) as line from groups g union all select 1, e.id, to_jsonb(e) from exceptions e) l
         order by rank, id"
    )
}
