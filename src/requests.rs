//! Requests (R30): somebody asks that an account's records be deleted early. Who asked, who accepted it, what it covers, and which part of it is fulfilled.
//!
//! An accepted request is one more starting point: it stands, for a class that it covers, from the instant it was accepted until a job that has begun its
//! work after that found nothing left, or until it is withdrawn. It knows the tables of requests and nothing of how records are deleted.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{AssertSqlSafe, FromRow, PgConnection};

use utoipa::ToSchema;

use crate::{
    database::DatabaseError,
    model::{self, RetentionPeriod},
    safeguards::{STOP_LOCK, approvals::same_person, control::Scope, held, take},
};

/// The part `q` of the request `r` stands, as the front of a condition that ends with what is to be true of when it was accepted.
const STANDS: &str = "q.fulfilled_at is null and r.withdrawn_at is null and r.accepted_at";

/// Parts and their requests, as a table expression.
const PARTS: &str = "retention.request_parts q join retention.requests r on r.id = q.request_id";

/// The parts of the account, feature and class of the job under `alias`, as a condition.
fn of_job(alias: &str) -> String {
    format!("q.account_id = {alias}.account_id and q.feature = {alias}.feature and q.data_class = {alias}.data_class")
}

/// Whether a request stands since exactly `started_at` for the job under `alias`, as a condition. It is part of the very statement that deletes.
#[must_use]
pub fn stands(alias: &str) -> String {
    format!("exists (select 1 from {PARTS} where {} and {STANDS} = {alias}.started_at)", of_job(alias))
}

/// The requests that stand for the job under `alias`, as an expression: an array of their ids.
#[must_use]
pub fn standing(alias: &str) -> String {
    format!("array(select q.request_id from {PARTS} where {} and {STANDS} is not null)", of_job(alias))
}

/// `(id, account_id, feature, data_class, accepted_at, due_by)` of every part that stands, as a table expression.
#[must_use]
pub fn parts() -> String {
    format!(
        "(select q.request_id as id, q.account_id, q.feature, q.data_class, r.accepted_at, r.due_by from {PARTS} where {STANDS} is not null)"
    )
}

/// A request as it is printed.
#[derive(Debug, Clone, FromRow, Serialize, ToSchema)]
pub struct Request {
    /// Identity, printed as a string.
    pub id: String,
    /// The account.
    pub account_id: String,
    /// Only this feature.
    pub feature: Option<String>,
    /// Only this data class.
    pub data_class: Option<String>,
    /// Why.
    pub reason: String,
    /// waiting, accepted, fulfilled or withdrawn.
    pub state: String,
    /// Past `due_by`, accepted, and a part that is not held is not fulfilled.
    pub overdue: bool,
    /// Who asked.
    pub requested_by: String,
    /// When.
    #[serde(serialize_with = "model::serialize_instant")]
    pub requested_at: DateTime<Utc>,
    /// Since when it stands.
    #[serde(serialize_with = "model::serialize_optional_instant")]
    pub accepted_at: Option<DateTime<Utc>>,
    /// Who accepted it.
    pub accepted_by: Option<String>,
    /// Fulfilled by then, or overdue.
    #[serde(serialize_with = "model::serialize_optional_instant")]
    pub due_by: Option<DateTime<Utc>>,
    /// When the last of its parts was.
    #[serde(serialize_with = "model::serialize_optional_instant")]
    pub fulfilled_at: Option<DateTime<Utc>>,
    /// When it was withdrawn.
    #[serde(serialize_with = "model::serialize_optional_instant")]
    pub withdrawn_at: Option<DateTime<Utc>>,
    /// Who withdrew it.
    pub withdrawn_by: Option<String>,
    /// Why.
    pub withdraw_reason: Option<String>,
    /// The jobs that are or were for it, and those that fulfilled it on their own way.
    pub jobs: Vec<String>,
}

/// Which requests are asked for; an empty filter is all.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only this one.
    pub id: Option<i64>,
    /// Only those of this account.
    pub account: Option<String>,
    /// Only those with a lower id.
    pub before: Option<i64>,
    /// So many at most; the newest come first.
    pub limit: Option<i64>,
}

/// A request that stands for an account, in one data class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// Nothing is deleted for it before.
    pub accepted_at: DateTime<Utc>,
    /// Late after this.
    pub due_by: DateTime<Utc>,
}

/// What came of an act.
#[derive(Debug, Clone)]
pub enum Answer {
    /// It was done; the request as it is now.
    Done(Box<Request>),
    /// There is no such request.
    Unknown,
    /// It is in a state in which that cannot be done any more.
    Past(String),
    /// Whoever asked for it cannot accept it.
    SamePerson,
}

/// Every request that passes the filter, the newest first.
///
/// # Errors
/// Those of the database.
pub async fn list(conn: &mut PgConnection, filter: &Filter) -> Result<Vec<Request>, DatabaseError> {
    Ok(sqlx::query_as(AssertSqlSafe(format!(
        "select r.id::text as id, r.account_id, r.feature, r.data_class, r.reason,
                case when r.withdrawn_at is not null then 'withdrawn' when r.accepted_at is null then 'waiting'
                     when p.open = 0 then 'fulfilled' else 'accepted' end as state,
                {} as overdue, r.requested_by, r.requested_at, r.accepted_at, r.accepted_by, r.due_by,
                case when p.open = 0 then p.fulfilled_at end as fulfilled_at, r.withdrawn_at, r.withdrawn_by, r.withdraw_reason,
                array(select j.id::text from (
                    select q.job_id as id from retention.request_parts q where q.request_id = r.id and q.job_id is not null
                    union
                    select j.id from retention.every_job j
                    where j.account_id = r.account_id and j.starting_point = '{}' and j.started_at = r.accepted_at
                      and exists (select 1 from retention.request_parts q where q.request_id = r.id and q.feature = j.feature and q.data_class = j.data_class)
                ) j order by j.id) as jobs
         from retention.requests r,
              lateral (select count(*) filter (where q.fulfilled_at is null) as open, max(q.fulfilled_at) as fulfilled_at
                       from retention.request_parts q where q.request_id = r.id) p
         where ($1::int8 is null or r.id = $1) and ($2::text is null or r.account_id = $2) and ($4::int8 is null or r.id < $4)
         order by r.id desc limit $3",
        overdue("r"),
        model::REQUEST
    )))
    .bind(filter.id)
    .bind(filter.account.as_deref())
    .bind(filter.limit)
    .bind(filter.before)
    .fetch_all(conn)
    .await?)
}

/// Whether the request under `r` is overdue, as a condition. A part that is held is not.
fn overdue(r: &str) -> String {
    format!(
        "({r}.withdrawn_at is null and coalesce({r}.due_by < now(), false)
          and exists (select 1 from retention.request_parts o where o.request_id = {r}.id and o.fulfilled_at is null and not {}))",
        held("o")
    )
}

/// The request with this id, as it is within this transaction.
async fn show(conn: &mut PgConnection, id: i64) -> Result<Option<Request>, DatabaseError> {
    Ok(list(conn, &Filter { id: Some(id), ..Filter::default() }).await?.pop())
}

/// Makes a request for the classes `parts`, as `(feature, data class)`. Accepted at once where `within` says how long it may take; else it waits for
/// another person.
///
/// # Errors
/// Those of the database.
pub async fn place(
    conn: &mut PgConnection,
    scope: &Scope,
    parts: &[(&str, &str)],
    reason: &str,
    by: &str,
    within: Option<RetentionPeriod>,
) -> Result<Answer, DatabaseError> {
    let (accepted, due) = within.map_or(("null", "null".to_owned()), |within| ("now()", format!("now() + {}", within.interval())));
    let id: i64 = sqlx::query_scalar(AssertSqlSafe(format!(
        "insert into retention.requests (account_id, feature, data_class, reason, requested_by, accepted_at, accepted_by, due_by)
         values ($1, $2, $3, $4, $5, {accepted}, case when $6 then $5 end, {due}) returning id"
    )))
    .bind(scope.account.as_deref())
    .bind(scope.feature.as_deref())
    .bind(scope.data_class.as_deref())
    .bind(reason)
    .bind(by)
    .bind(within.is_some())
    .fetch_one(&mut *conn)
    .await?;
    sqlx::query(
        "insert into retention.request_parts (request_id, account_id, feature, data_class)
         select $1, $2, p.feature, p.data_class from unnest($3::text[], $4::text[]) p(feature, data_class)",
    )
    .bind(id)
    .bind(scope.account.as_deref())
    .bind(parts.iter().map(|(feature, _)| *feature).collect::<Vec<_>>())
    .bind(parts.iter().map(|(_, name)| *name).collect::<Vec<_>>())
    .execute(&mut *conn)
    .await?;
    Ok(show(conn, id).await?.map_or(Answer::Unknown, |request| Answer::Done(Box::new(request))))
}

/// Accepts a request that waits. Whoever asked for it cannot.
///
/// # Errors
/// Those of the database.
pub async fn approve(conn: &mut PgConnection, id: i64, by: &str, within: RetentionPeriod) -> Result<Answer, DatabaseError> {
    let locked: Option<i64> =
        sqlx::query_scalar("select id from retention.requests where id = $1 for update").bind(id).fetch_optional(&mut *conn).await?;
    let Some(request) = (if locked.is_some() { show(&mut *conn, id).await? } else { None }) else { return Ok(Answer::Unknown) };
    if request.state != "waiting" {
        return Ok(Answer::Past(request.state));
    }
    if same_person(&request.requested_by, by) {
        return Ok(Answer::SamePerson);
    }
    sqlx::query(AssertSqlSafe(format!(
        "update retention.requests set accepted_at = now(), accepted_by = $2, due_by = now() + {} where id = $1",
        within.interval()
    )))
    .bind(id)
    .bind(by)
    .execute(&mut *conn)
    .await?;
    Ok(show(conn, id).await?.map_or(Answer::Unknown, |request| Answer::Done(Box::new(request))))
}

/// Withdraws a request that is not fulfilled. When its transaction has committed, nothing is deleted for it any more: like whoever places a hold, it waits
/// for the batches under way (R15).
///
/// # Errors
/// Those of the database.
pub async fn withdraw(conn: &mut PgConnection, id: i64, reason: &str, by: &str) -> Result<Answer, DatabaseError> {
    take(&mut *conn, STOP_LOCK).await?;
    let locked: Option<i64> =
        sqlx::query_scalar("select id from retention.requests where id = $1 for update").bind(id).fetch_optional(&mut *conn).await?;
    let Some(request) = (if locked.is_some() { show(&mut *conn, id).await? } else { None }) else { return Ok(Answer::Unknown) };
    if request.state != "waiting" && request.state != "accepted" {
        return Ok(Answer::Past(request.state));
    }
    sqlx::query("update retention.requests set withdrawn_at = now(), withdrawn_by = $2, withdraw_reason = $3 where id = $1")
        .bind(id)
        .bind(by)
        .bind(reason)
        .execute(&mut *conn)
        .await?;
    Ok(show(conn, id).await?.map_or(Answer::Unknown, |request| Answer::Done(Box::new(request))))
}

/// What stands for the accounts in one class.
///
/// # Errors
/// Those of the database.
pub async fn asked(
    conn: &mut PgConnection,
    feature: &str,
    data_class: &str,
    accounts: &[String],
) -> Result<BTreeMap<String, Vec<Asked>>, DatabaseError> {
    let rows: Vec<(String, DateTime<Utc>, DateTime<Utc>)> = sqlx::query_as(AssertSqlSafe(format!(
        "select p.account_id, p.accepted_at, p.due_by from {} p where p.account_id = any($1) and p.feature = $2 and p.data_class = $3",
        parts()
    )))
    .bind(accounts)
    .bind(feature)
    .bind(data_class)
    .fetch_all(conn)
    .await?;
    let mut asked: BTreeMap<String, Vec<Asked>> = BTreeMap::new();
    for (account, accepted_at, due_by) in rows {
        asked.entry(account).or_default().push(Asked { accepted_at, due_by });
    }
    Ok(asked)
}

/// Marks and returns requests whose last part was fulfilled since the last call, a thousand at most, so that each is told once.
///
/// # Errors
/// Those of the database.
pub async fn newly_fulfilled(conn: &mut PgConnection) -> Result<Vec<Request>, DatabaseError> {
    let ids: Vec<i64> = sqlx::query_scalar(
        "update retention.requests r set fulfilled_told_at = now()
         where r.id in (select r.id from retention.requests r
                        where r.accepted_at is not null and r.withdrawn_at is null and r.fulfilled_told_at is null
                          and not exists (select 1 from retention.request_parts q where q.request_id = r.id and q.fulfilled_at is null)
                        order by r.id limit 1000 for no key update skip locked)
         returning r.id",
    )
    .fetch_all(&mut *conn)
    .await?;
    let mut told = Vec::new();
    for id in ids {
        told.extend(show(&mut *conn, id).await?);
    }
    Ok(told)
}

/// Requests that are not over, counted as `status` shows them.
#[derive(Debug, Clone, Default, PartialEq, Eq, FromRow, Serialize, ToSchema)]
#[schema(as = RequestTally)]
pub struct Tally {
    /// Wait for a second person.
    pub waiting: i64,
    /// Accepted, and not fulfilled in every part.
    pub accepted: i64,
    /// Of those, past `due_by` with a part that is not held.
    pub overdue: i64,
}

/// When the oldest request that is accepted and not over was accepted.
///
/// # Errors
/// Those of the database.
pub async fn oldest_open(conn: &mut PgConnection) -> Result<Option<DateTime<Utc>>, DatabaseError> {
    Ok(sqlx::query_scalar(
        "select min(r.accepted_at) from retention.requests r
         where r.withdrawn_at is null and r.fulfilled_told_at is null
           and exists (select 1 from retention.request_parts q where q.request_id = r.id and q.fulfilled_at is null)",
    )
    .fetch_one(conn)
    .await?)
}

/// Counts the requests that are not over.
///
/// # Errors
/// Those of the database.
pub async fn tally(conn: &mut PgConnection) -> Result<Tally, DatabaseError> {
    Ok(sqlx::query_as(AssertSqlSafe(format!(
        "select count(*) filter (where r.accepted_at is null) as waiting, count(*) filter (where r.accepted_at is not null) as accepted,
                count(*) filter (where {}) as overdue
         from retention.requests r
         where r.withdrawn_at is null and r.fulfilled_told_at is null
           and exists (select 1 from retention.request_parts q where q.request_id = r.id and q.fulfilled_at is null)",
        overdue("r")
    )))
    .fetch_one(conn)
    .await?)
}
