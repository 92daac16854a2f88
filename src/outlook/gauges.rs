//! What the database knows, as gauges for one scrape. Cheap questions first: when a later one takes too long, the earlier answers stand.

use std::time::Instant;

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, FromRow, PgConnection};

use crate::{
    config::Config,
    database::DatabaseError,
    jobs::PATIENT_LOOKS,
    ledger,
    metrics::{self, Gauges},
    requests,
    safeguards::{self, held},
};

#[derive(Default, FromRow)]
struct OpenJobs {
    feature: String,
    data_class: String,
    scheduled: i64,
    running: i64,
    overdue: i64,
    held: i64,
    within_1d: i64,
    within_7d: i64,
    within_30d: i64,
    earliest: Option<DateTime<Utc>>,
}

/// Fills in every gauge that is read from the database. Classes of the configuration are there with zeros when they have no jobs.
///
/// # Errors
/// Those of the database; what was read before stays in `gauges`.
pub async fn gauges(conn: &mut PgConnection, config: &Config, gauges: &mut Gauges) -> Result<(), DatabaseError> {
    let tripped = safeguards::guard(&mut *conn).await?.tripped;
    gauges.set("retention_guard_tripped", &[], flag(tripped));
    gauges.set("retention_paused", &[], flag(safeguards::paused_globally(&mut *conn).await?));
    let asked = Instant::now();
    let said: DateTime<Utc> = sqlx::query_scalar("select clock_timestamp()").fetch_one(&mut *conn).await?;
    metrics::clock_skew(said, asked.elapsed());
    stops(conn, gauges).await?;
    let quarantined: i64 = sqlx::query_scalar("select count(*) from retention.quarantine").fetch_one(&mut *conn).await?;
    gauges.set("retention_quarantined_records", &[], number(quarantined));
    open(conn, config, gauges).await?;
    residual(conn, config, gauges).await?;
    waiting(conn, config, gauges).await?;
    // Reads every job there ever was.
    closed(conn, config, gauges).await?;
    // Reads every job that is due: while the guard stops a mass termination those are many.
    headroom(conn, config, gauges).await
}

/// What people and the ledger put in the way, from tables that stay small or by index.
async fn stops(conn: &mut PgConnection, gauges: &mut Gauges) -> Result<(), DatabaseError> {
    let (holds, expiry) = safeguards::holds_in_force(&mut *conn).await?;
    gauges.set("retention_holds", &[], number(holds));
    if let Some(expiry) = expiry {
        gauges.set("retention_earliest_hold_expiry_timestamp_seconds", &[], instant(expiry));
    }
    let asked = requests::tally(&mut *conn).await?;
    for (state, requests) in [("waiting", asked.waiting), ("accepted", asked.accepted), ("overdue", asked.overdue)] {
        gauges.set("retention_requests", &[("state", state)], number(requests));
    }
    if let Some(accepted) = requests::oldest_open(&mut *conn).await? {
        gauges.set("retention_oldest_open_request_timestamp_seconds", &[], instant(accepted));
    }
    let ledger = ledger::figures(conn).await?;
    gauges.set("retention_ledger_entries", &[], number(ledger.entries));
    gauges.set("retention_ledger_unnumbered_entries", &[], number(ledger.unnumbered));
    gauges.set("retention_ledger_missing_entries", &[], number(ledger.missing));
    gauges.set("retention_ledger_ok", &[], flag(ledger.sound));
    if let Some(signed) = ledger.signed_at {
        gauges.set("retention_ledger_checkpoint_timestamp_seconds", &[], instant(signed));
    }
    Ok(())
}

/// How far the guard is from its limit.
async fn headroom(conn: &mut PgConnection, config: &Config, gauges: &mut Gauges) -> Result<(), DatabaseError> {
    let (candidates, limit) = safeguards::headroom(conn, &config.guard).await?;
    gauges.set("retention_guard_candidates", &[], number(candidates));
    if let Some(limit) = limit {
        gauges.set("retention_guard_limit", &[], limit);
    }
    Ok(())
}

async fn open(conn: &mut PgConnection, config: &Config, gauges: &mut Gauges) -> Result<(), DatabaseError> {
    let rows: Vec<OpenJobs> = sqlx::query_as(AssertSqlSafe(format!(
        "select feature, data_class, count(*) filter (where not running) as scheduled, count(*) filter (where running) as running,
                count(*) filter (where delete_by < now() and not held) as overdue, count(*) filter (where held) as held,
                count(*) filter (where retain_until <= now() + interval '1 day') as within_1d,
                count(*) filter (where retain_until <= now() + interval '7 days') as within_7d,
                count(*) filter (where retain_until <= now() + interval '30 days') as within_30d,
                min(delete_by) filter (where not held) as earliest
         from (select j.feature, j.data_class, coalesce(j.lease_until > now(), false) as running, j.retain_until, j.delete_by, {} as held from retention.jobs j) j
         group by feature, data_class",
        held("j")
    )))
    .fetch_all(conn)
    .await?;
    for (feature, name) in classes(config).filter(|class| !rows.iter().any(|r| (r.feature.as_str(), r.data_class.as_str()) == *class)) {
        OpenJobs { feature: feature.into(), data_class: name.into(), ..OpenJobs::default() }.set(gauges);
    }
    for row in &rows {
        row.set(gauges);
    }
    Ok(())
}

impl OpenJobs {
    fn set(&self, gauges: &mut Gauges) {
        let class = (self.feature.as_str(), self.data_class.as_str());
        set_jobs(gauges, class, "scheduled", self.scheduled);
        set_jobs(gauges, class, "running", self.running);
        gauges.set_class("retention_overdue_jobs", class, number(self.overdue));
        gauges.set_class("retention_held_jobs", class, number(self.held));
        for (window, jobs) in [("1d", self.within_1d), ("7d", self.within_7d), ("30d", self.within_30d)] {
            gauges.set("retention_jobs_due", &[("feature", class.0), ("data_class", class.1), ("window", window)], number(jobs));
        }
        if let Some(earliest) = self.earliest {
            gauges.set_class("retention_earliest_unmet_deadline_timestamp_seconds", class, instant(earliest));
        }
    }
}

/// Accounts with records that should be gone: a later look found them, or looks in a row found what no batch could delete.
async fn residual(conn: &mut PgConnection, config: &Config, gauges: &mut Gauges) -> Result<(), DatabaseError> {
    let rows: Vec<(String, String, i64)> = sqlx::query_as(
        "select feature, data_class, count(*) from (
             select feature, data_class, account_id from retention.done_marks where residue
             union select feature, data_class, account_id from retention.jobs where looks >= $1) r
         group by feature, data_class",
    )
    .bind(PATIENT_LOOKS)
    .fetch_all(conn)
    .await?;
    for class in classes(config).filter(|class| !rows.iter().any(|(f, c, _)| (f.as_str(), c.as_str()) == *class)) {
        gauges.set_class("retention_residual_records", class, 0.0);
    }
    for (feature, name, accounts) in &rows {
        gauges.set_class("retention_residual_records", (feature, name), number(*accounts));
    }
    Ok(())
}

/// Notices that wait, for the endpoints of this configuration.
async fn waiting(conn: &mut PgConnection, config: &Config, gauges: &mut Gauges) -> Result<(), DatabaseError> {
    if config.notices.is_empty() {
        return Ok(());
    }
    let rows: Vec<(String, i64, DateTime<Utc>)> =
        sqlx::query_as("select endpoint, count(*), min(created_at) from retention.notices where outcome is null group by endpoint")
            .fetch_all(&mut *conn)
            .await?;
    for endpoint in &config.notices {
        let labels = [("endpoint", endpoint.name.as_str())];
        let row = rows.iter().find(|(name, ..)| *name == endpoint.name);
        gauges.set("retention_notices_pending", &labels, number(row.map_or(0, |(_, waiting, _)| *waiting)));
        if let Some((.., oldest)) = row {
            gauges.set("retention_oldest_notice_timestamp_seconds", &labels, number(oldest.timestamp_micros()) / 1e6);
        }
    }
    Ok(())
}

async fn closed(conn: &mut PgConnection, config: &Config, gauges: &mut Gauges) -> Result<(), DatabaseError> {
    let rows: Vec<(String, String, i64, i64)> = sqlx::query_as(
        "select feature, data_class, count(*) filter (where state = 'completed'), count(*) filter (where state = 'cancelled')
         from retention.history group by feature, data_class",
    )
    .fetch_all(conn)
    .await?;
    let none = classes(config).filter(|class| !rows.iter().any(|(f, c, ..)| (f.as_str(), c.as_str()) == *class));
    for (class, completed, cancelled) in none
        .map(|class| (class, 0, 0))
        .chain(rows.iter().map(|(f, c, completed, cancelled)| ((f.as_str(), c.as_str()), *completed, *cancelled)))
    {
        set_jobs(gauges, class, "completed", completed);
        set_jobs(gauges, class, "cancelled", cancelled);
    }
    Ok(())
}

fn set_jobs(gauges: &mut Gauges, (feature, data_class): (&str, &str), state: &str, jobs: i64) {
    gauges.set("retention_jobs", &[("feature", feature), ("data_class", data_class), ("state", state)], number(jobs));
}

fn classes(config: &Config) -> impl Iterator<Item = (&str, &str)> {
    config.data_classes.iter().map(|class| (class.feature.as_str(), class.name.as_str()))
}

fn flag(set: bool) -> f64 {
    if set { 1.0 } else { 0.0 }
}

/// Seconds since 1970.
fn instant(at: DateTime<Utc>) -> f64 {
    number(at.timestamp_micros()) / 1e6
}

#[expect(clippy::cast_precision_loss, reason = "counts and microseconds of this age are exact")]
fn number(count: i64) -> f64 {
    count as f64
}
