//! The guard looks ahead: a purge is known days before, so a limit that what is scheduled would exceed is told when it is scheduled, not when it is due.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, PgConnection};

use super::{STEPS, exceeded, held, window};
use crate::{config, database::DatabaseError};

/// What is going to stop the start of purges, unless somebody acts before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forecast {
    /// When the limit would be exceeded, to a step of the window.
    pub at: DateTime<Utc>,
    /// Which limit, with the figures.
    pub reason: String,
}

/// How a forecast differs from the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// As before.
    None,
    /// A limit would be exceeded, or another one, or at another time.
    Exceeds(Forecast),
    /// None would be any more.
    Cleared,
}

/// Weighs what falls due later and is not held, window by window, and remembers the first that would exceed a limit.
///
/// # Errors
/// Those of the database.
pub async fn look_ahead(conn: &mut PgConnection, limits: &config::Guard) -> Result<News, DatabaseError> {
    let length = limits.window.as_secs().max(1);
    let seconds = (length / u64::from(STEPS)).max(1);
    let (step, before) = (window(Duration::from_secs(seconds)), length / seconds);
    let (whole, touched) = (window(limits.window), window(Duration::from_secs(length + seconds)));
    let known: Option<i64> = sqlx::query_scalar("select known_accounts from retention.guard").fetch_optional(&mut *conn).await?.flatten();
    // Accounts by step, those that were admitted lately among them, then over as many steps as a window can touch: an account that falls due twice in
    // one counts twice here, and the first window that exceeds a limit so is counted exactly below.
    let windows: Vec<(DateTime<Utc>, i64)> = sqlx::query_as(AssertSqlSafe(format!(
        "with due as materialized (
             select j.account_id, floor(extract(epoch from j.retain_until) / extract(epoch from {step}))::int8 as step
             from retention.jobs j where j.admitted_at is null and j.retain_until > now() and not {}
             union all
             select a.account_id, floor(extract(epoch from a.admitted_at) / extract(epoch from {step}))::int8
             from retention.admissions a where not a.released and a.admitted_at > now() - {whole}),
         steps as (select step, count(distinct account_id) as accounts from due group by step)
         select to_timestamp((step + 1) * extract(epoch from {step})::float8),
                (sum(accounts) over (order by step range between {before} preceding and current row))::int8
         from steps order by step",
        held("j")
    )))
    .fetch_all(&mut *conn)
    .await?;
    let mut forecast = None;
    for (at, at_most) in windows {
        let known = known.map(i64::unsigned_abs);
        if exceeded(limits, at_most.unsigned_abs(), known).is_none() {
            continue;
        }
        let exactly: i64 = sqlx::query_scalar(AssertSqlSafe(format!(
            "select count(distinct d.account_id) from (
                 select j.account_id from retention.jobs j
                 where j.admitted_at is null and j.retain_until > now() and not {}
                   and j.retain_until < $1 and j.retain_until >= $1 - {touched}
                 union all
                 select a.account_id from retention.admissions a where not a.released and a.admitted_at >= $1 - {touched}) d
             where $1 > now()",
            held("j")
        )))
        .bind(at)
        .fetch_one(&mut *conn)
        .await?;
        if let Some(reason) = exceeded(limits, exactly.unsigned_abs(), known) {
            forecast = Some(Forecast { at, reason });
            break;
        }
    }
    let changed =
        sqlx::query("update retention.guard set forecast_at = $1, forecast = $2 where (forecast_at, forecast) is distinct from ($1, $2)")
            .bind(forecast.as_ref().map(|f| f.at))
            .bind(forecast.as_ref().map(|f| f.reason.as_str()))
            .execute(conn)
            .await?
            .rows_affected();
    Ok(match (changed, forecast) {
        (0, _) => News::None,
        (_, Some(forecast)) => News::Exceeds(forecast),
        (_, None) => News::Cleared,
    })
}
