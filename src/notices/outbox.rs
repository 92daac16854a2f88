//! The tables of notices: who wants what, what is written, what is soon due, what is tried next and how that ended.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{AssertSqlSafe, FromRow, PgConnection};

use super::fingerprint;
use crate::{
    config::{Config, DUE_SOON, Endpoint},
    database::DatabaseError,
    model::Mode,
    safeguards::held,
};

/// An endpoint that no daemon has had in its configuration for so long is written for no more.
const LIVE: &str = "e.configured_at > now() - interval '1 day'";
/// The account of `{of}` is one that the endpoint may be told of.
const OURS: &str = "(e.regions is null or {of}.account_id is null
      or exists (select 1 from retention.account_regions r where r.account_id = {of}.account_id and r.region = any(e.regions)))";
/// What every id begins with: endpoints know a notice by its id alone, whichever ledger it is from.
const LEDGER: &str = "(select left(encode(sha256(convert_to(origin, 'UTF8')), 'hex'), 12) || '-' from retention.ledger)";
/// The endpoint is another daemon's, which notes its configuration every hour.
const LATELY: &str = "configured_at > now() - interval '2 hours'";
/// Jobs that one transaction of a look goes through.
const LOOK_PAGE: i64 = 10_000;

/// Something that happened.
#[derive(Debug, Clone)]
pub struct Fact {
    /// Its id in this ledger, the same whenever it is told.
    pub id: String,
    /// One of [`crate::config::TYPES`].
    pub kind: &'static str,
    /// Whose records it is about.
    pub account: Option<String>,
    /// When it happened.
    pub at: DateTime<Utc>,
    /// Ids, dates and counts.
    pub data: Value,
    /// The job, where `data` lacks its plan.
    pub plan_of: Option<i64>,
    /// The job, when it has a new date: it may be soon due already.
    pub dated: Option<i64>,
}

/// The plan of job `j`.
const PLAN: &str = "jsonb_build_object('job_id', j.id::text, 'feature', j.feature, 'data_class', j.data_class, 'starting_point', j.starting_point,
    'started_at', retention.instant(j.started_at), 'retain_until', retention.instant(j.retain_until), 'delete_by', retention.instant(j.delete_by))";

/// Notes which endpoints this configuration has: for them, notices are written. Only where something is deleted is anybody warned of it. Writes when something is
/// new, and once an hour. One that another daemon has lately had for other regions stays that one's.
///
/// # Errors
/// Those of the database.
pub async fn keep_registered(conn: &mut PgConnection, config: &Config) -> Result<(), DatabaseError> {
    if config.mode == Mode::Observe {
        return Ok(());
    }
    for endpoint in &config.notices {
        let noted = format!(
            "insert into retention.notice_endpoints as e (name, types, ahead, regions) select $1, $2, $3, $4
             where not exists (select 1 from retention.notice_endpoints where name = $1 and types = $2 and ahead = $3 and regions is not distinct from $4
                               and configured_at > now() - interval '1 hour')
             on conflict (name) do update set types = excluded.types, ahead = excluded.ahead, regions = excluded.regions, configured_at = now()
             where e.regions is not distinct from excluded.regions or not e.{LATELY}"
        );
        sqlx::query(AssertSqlSafe(noted))
            .bind(&endpoint.name)
            .bind(&endpoint.types)
            .bind(endpoint.due_soon.iter().map(|ahead| seconds(*ahead)).collect::<Vec<_>>())
            .bind(regions(config))
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

/// However they are written down, the same regions are the same.
fn regions(config: &Config) -> Option<Vec<String>> {
    config.regions.clone().map(|mut regions| {
        regions.sort_unstable();
        regions
    })
}

/// Whose the endpoint of a name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// This configuration's: notices are written for its regions.
    Us,
    /// Nobody's yet, or no more.
    Nobody,
    /// That of a daemon of other regions.
    Another,
}

/// Whose it is. What waits for another's is not ours to send.
pub(super) async fn owner(conn: &mut PgConnection, endpoint: &Endpoint, config: &Config) -> Result<Owner, DatabaseError> {
    let asked = format!("select regions is not distinct from $2, {LATELY} from retention.notice_endpoints where name = $1");
    let found: Option<(bool, bool)> =
        sqlx::query_as(AssertSqlSafe(asked)).bind(&endpoint.name).bind(regions(config)).fetch_optional(conn).await?;
    Ok(match found {
        Some((true, _)) => Owner::Us,
        Some((false, true)) => Owner::Another,
        Some((false, false)) | None => Owner::Nobody,
    })
}

/// Notes that the endpoint is sent to from here on. After a gap, or as another one, it begins anew: what waited meanwhile has its whole time.
pub(super) async fn keep_trying(conn: &mut PgConnection, endpoint: &Endpoint) -> Result<(), DatabaseError> {
    sqlx::query(
        "update retention.notice_endpoints
         set tried_since = case when tried_for = $2 and tried_at > now() - interval '10 minutes' then tried_since else now() end,
             tried_at = now(), tried_for = $2
         where name = $1 and disabled_for is distinct from $2 and (tried_for is distinct from $2 or tried_at < now() - interval '1 minute')",
    )
    .bind(&endpoint.name)
    .bind(fingerprint(endpoint))
    .execute(conn)
    .await?;
    Ok(())
}

/// Whether anybody is told anything.
///
/// # Errors
/// Those of the database.
async fn anybody(conn: &mut PgConnection) -> Result<bool, DatabaseError> {
    let asked = format!("select exists (select 1 from retention.notice_endpoints e where {LIVE})");
    Ok(sqlx::query_scalar(AssertSqlSafe(asked)).fetch_one(conn).await?)
}

/// Writes a notice of each fact for each endpoint that wants it, in this order, and warns of jobs whose new date is near. What was told is not told again.
/// Numbers of rows are those of facts and endpoints, statements are three.
///
/// # Errors
/// Those of the database.
pub async fn write(conn: &mut PgConnection, facts: &[Fact]) -> Result<(), DatabaseError> {
    if facts.is_empty() || !anybody(&mut *conn).await? {
        return Ok(());
    }
    let ours = OURS.replace("{of}", "f");
    let statement = format!(
        "insert into retention.notices (endpoint, event_id, type, account_id, at, data)
         select e.name, {LEDGER} || f.id, f.kind, f.account_id, f.at, f.data || coalesce(plan.data, '{{}}')
         from unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::jsonb[], $6::int8[]) with ordinality
                  as f(id, kind, account_id, at, data, plan_of, place)
         join retention.notice_endpoints e on f.kind = any(e.types) and {LIVE} and {ours}
         left join lateral (select {PLAN} as data from retention.every_job j where j.id = f.plan_of) plan on f.plan_of is not null
         order by f.place, e.name
         on conflict (endpoint, event_id) do nothing"
    );
    sqlx::query(AssertSqlSafe(statement))
        .bind(facts.iter().map(|fact| fact.id.as_str()).collect::<Vec<_>>())
        .bind(facts.iter().map(|fact| fact.kind).collect::<Vec<_>>())
        .bind(facts.iter().map(|fact| fact.account.as_deref()).collect::<Vec<_>>())
        .bind(facts.iter().map(|fact| fact.at).collect::<Vec<_>>())
        .bind(facts.iter().map(|fact| &fact.data).collect::<Vec<_>>())
        .bind(facts.iter().map(|fact| fact.plan_of).collect::<Vec<_>>())
        .execute(&mut *conn)
        .await?;
    let dated: Vec<i64> = facts.iter().filter_map(|fact| fact.dated).collect();
    if !dated.is_empty() {
        // The clock of this very statement: a look whose snapshot did not have such a job was before it, so one of the two sees it.
        let nearest = "lateral (select min(a) as ahead from unnest(e.ahead) a where j.retain_until <= clock_timestamp() + make_interval(secs => a)) near";
        let from = format!(
            "retention.jobs j, retention.notice_endpoints e, {nearest} where j.id = any($1) and j.retain_until > now() and near.ahead is not null"
        );
        sqlx::query(AssertSqlSafe(soon(&from, "near.ahead"))).bind(dated).execute(conn).await?;
    }
    Ok(())
}

/// The text of the INSERT that warns of each job `j` that `from`, which ends in a condition, yields with an endpoint `e`.
fn soon(from: &str, ahead: &str) -> String {
    let (ours, held) = (OURS.replace("{of}", "j"), held("j"));
    format!(
        "insert into retention.notices (endpoint, event_id, type, account_id, at, data)
         select e.name, {LEDGER} || 'job-' || j.id || '-due-' || extract(epoch from j.retain_until)::int8 || '-' || {ahead}, '{DUE_SOON}', j.account_id, now(),
                {PLAN} || jsonb_build_object('ahead_seconds', {ahead}, 'held', {held})
         from {from} and '{DUE_SOON}' = any(e.types) and {LIVE} and {ours}
         order by j.retain_until, j.id
         on conflict (endpoint, event_id) do nothing"
    )
}

/// One page of a look at jobs that are due within `ahead` and in more than `nearer`, for which there is a warning of its own. `after` is how far the pages before
/// it came. How far this one came; `None` is through, or somebody else looks.
pub(super) async fn look(
    conn: &mut PgConnection,
    endpoint: &str,
    (ahead, nearer): (Duration, Duration),
    after: Option<(DateTime<Utc>, i64)>,
) -> Result<Option<(DateTime<Utc>, i64)>, DatabaseError> {
    sqlx::query(
        "insert into retention.notice_looks (endpoint, ahead, looked_until) select $1, $2, now()
         where exists (select 1 from retention.notice_endpoints where name = $1)
           and not exists (select 1 from retention.notice_looks where endpoint = $1 and ahead = $2) on conflict do nothing",
    )
    .bind(endpoint)
    .bind(seconds(ahead))
    .execute(&mut *conn)
    .await?;
    let looked: Option<DateTime<Utc>> =
        sqlx::query_scalar("select looked_until from retention.notice_looks where endpoint = $1 and ahead = $2 for update skip locked")
            .bind(endpoint)
            .bind(seconds(ahead))
            .fetch_optional(&mut *conn)
            .await?;
    let Some(looked) = looked else { return Ok(None) };
    let (from, id) = after.filter(|(at, _)| *at == looked).unwrap_or((looked, 0));
    let told = soon("page j, retention.notice_endpoints e where e.name = $1", "$2::int8");
    let page = format!(
        "with page as materialized (
             select j.* from retention.jobs j
             where j.retain_until >= $3 and (j.retain_until > $3 or j.id > $4)
               and j.retain_until <= now() + make_interval(secs => $2) and j.retain_until > now() + make_interval(secs => $5)
             order by j.retain_until, j.id limit $6),
         told as ({told}),
         last as (select retain_until, id from page order by retain_until desc, id desc limit 1),
         moved as (update retention.notice_looks l
                   set looked_until = case when (select count(*) from page) < $6 then greatest(l.looked_until, now() + make_interval(secs => $2))
                                           else (select retain_until from last) end
                   where l.endpoint = $1 and l.ahead = $2)
         select retain_until, id from last where (select count(*) from page) >= $6"
    );
    Ok(sqlx::query_as(AssertSqlSafe(page))
        .bind(endpoint)
        .bind(seconds(ahead))
        .bind(from)
        .bind(id)
        .bind(seconds(nearer))
        .bind(LOOK_PAGE)
        .fetch_optional(conn)
        .await?)
}

/// A notice that is ours to try until its time is over.
#[derive(Debug, Clone, FromRow)]
pub(super) struct Claimed {
    pub(super) id: i64,
    pub(super) event_id: String,
    #[sqlx(rename = "type")]
    pub(super) kind: String,
    pub(super) account_id: Option<String>,
    pub(super) at: DateTime<Utc>,
    pub(super) data: Value,
    pub(super) attempts: i32,
    /// It is not tried again after this.
    pub(super) last: bool,
    /// The ledger's name.
    pub(super) source: String,
    /// The database's clock.
    pub(super) now: DateTime<Utc>,
}

/// Claims notices of an endpoint: of each account the first that waits, so that one which fails holds up those of its account and no others. Of
/// accounts of other regions than the endpoint's nothing is sent, whoever had it when it was written.
pub(super) async fn claim(
    conn: &mut PgConnection,
    endpoint: &Endpoint,
    at_most: i64,
    lease: Duration,
) -> Result<Vec<Claimed>, DatabaseError> {
    let ours = OURS.replace("{of}", "n");
    let mut claimed: Vec<Claimed> = sqlx::query_as(AssertSqlSafe(format!(
        "with head as materialized (
             select n.id from retention.notices n
             where n.endpoint = $1 and n.outcome is null and n.next_at <= now()
               and not exists (select 1 from retention.notices e where e.endpoint = n.endpoint and e.outcome is null
                                 and coalesce(e.account_id, '') = coalesce(n.account_id, '') and e.id < n.id)
               and exists (select 1 from retention.notice_endpoints e where e.name = $1 and e.disabled_for is distinct from $5 and {ours})
             order by n.id limit $2 for update of n skip locked)
         update retention.notices n set attempts = n.attempts + 1, next_at = now() + make_interval(secs => $3)
         from head where n.id = head.id
         returning n.id, n.event_id, n.type, n.account_id, n.at, n.data, n.attempts,
                   greatest(n.waiting_since, (select d.tried_since from retention.notice_endpoints d where d.name = $1)) + make_interval(secs => $4) <= now() as last,
                   coalesce((select origin from retention.ledger), 'retentiond') as source, clock_timestamp() as now"
    )))
    .bind(&endpoint.name)
    .bind(at_most)
    .bind(lease.as_secs_f64())
    .bind(endpoint.give_up_after.as_secs_f64())
    .bind(fingerprint(endpoint))
    .fetch_all(conn)
    .await?;
    claimed.sort_unstable_by_key(|notice| notice.id);
    Ok(claimed)
}

/// They arrived.
pub(super) async fn sent(conn: &mut PgConnection, ids: &[i64]) -> Result<(), DatabaseError> {
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "update retention.notices set outcome = 'sent', ended_at = now(), last_error = null where id = any($1) and outcome is null",
    )
    .bind(ids)
    .execute(conn)
    .await?;
    Ok(())
}

/// It did not: it is tried again after the pause, a quarter more or less, or given up when there is none. Unless somebody else has tried it meanwhile.
pub(super) async fn failed(conn: &mut PgConnection, notice: &Claimed, why: &str, pause: Option<Duration>) -> Result<(), DatabaseError> {
    sqlx::query(
        "update retention.notices set last_error = $3, next_at = now() + make_interval(secs => coalesce($4, 0) * (0.75 + random() / 2)),
                outcome = case when $4::float8 is null then 'given_up' end, ended_at = case when $4::float8 is null then now() end
         where id = $1 and attempts = $2 and outcome is null",
    )
    .bind(notice.id)
    .bind(notice.attempts)
    .bind(why)
    .bind(pause.map(|pause| pause.as_secs_f64()))
    .execute(conn)
    .await?;
    Ok(())
}

/// The endpoint is gone for good: under this configuration nothing is sent to it any more, and the notice waits. Whether that is new.
pub(super) async fn disable(conn: &mut PgConnection, endpoint: &Endpoint) -> Result<bool, DatabaseError> {
    let mine = fingerprint(endpoint);
    let disabled = sqlx::query(
        "update retention.notice_endpoints set disabled_at = now(), disabled_for = $2 where name = $1 and disabled_for is distinct from $2",
    )
    .bind(&endpoint.name)
    .bind(mine)
    .execute(conn)
    .await?;
    Ok(disabled.rows_affected() > 0)
}

fn seconds(length: Duration) -> i64 {
    i64::try_from(length.as_secs()).unwrap_or(i64::MAX)
}
