//! `/api/v1`: what there is to read. The `OpenAPI` document is made from these functions. Lists go by key, `next` is where they go on; nothing is counted
//! beyond what a screen may cost. Writes are in `api/acts.rs`.

mod acts;
mod events;
pub(super) mod reports;

use std::sync::LazyLock;

use axum::{
    Json, Router,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use chrono::{DateTime, Datelike as _, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::{IntoParams, OpenApi, ToSchema, openapi::OpenApi as Document};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Desk, Who,
    problem::Problem,
    submit::{guard_tag, policy_tag},
};
use crate::{
    acts::{self as done, Entry},
    jobs::{
        self, Figures, Job,
        page::{Cursor, Order},
    },
    model,
    outlook::{Explanation, Planned, Status},
    requests::{self, Request},
    safeguards::{
        self, GuardState, agreement,
        control::{self, Hold, PastHold, Pause},
    },
};

/// Where the platform says that something has happened.
pub(super) const EVENTS: &str = "/api/v1/events";
/// Rows of a page unless asked for otherwise, and at most.
const ROWS: i64 = 100;
const MOST_ROWS: i64 = 500;

#[derive(OpenApi)]
#[openapi(
    info(title = "retentiond", description = "What is deleted, when and why; what stops it; and proof of what was. Every instant is RFC 3339 in UTC."),
    modifiers(&Bearer)
)]
struct Api;

struct Bearer;

impl utoipa::Modify for Bearer {
    fn modify(&self, document: &mut Document) {
        use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document.components.get_or_insert_with(Default::default).add_security_scheme("token", scheme);
        document.security = Some(vec![SecurityRequirement::new("token", Vec::<String>::new())]);
    }
}

fn described() -> OpenApiRouter<Desk> {
    OpenApiRouter::with_openapi(Api::openapi())
        .routes(routes!(version))
        .routes(routes!(status))
        .routes(routes!(policy))
        .routes(routes!(jobs_list))
        .routes(routes!(job))
        .routes(routes!(entries))
        .routes(routes!(explain))
        .routes(routes!(plan))
        .routes(routes!(holds))
        .routes(routes!(hold))
        .routes(routes!(past_holds))
        .routes(routes!(pauses))
        .routes(routes!(guard))
        .routes(routes!(requests_list))
        .routes(routes!(request))
        .routes(routes!(acts_list))
        .routes(routes!(series))
        .merge(reports::described())
        .merge(acts::described())
        .merge(events::described())
}

static DOCUMENT: LazyLock<Document> = LazyLock::new(|| described().split_for_parts().1);

/// The `OpenAPI` document of this version.
#[must_use]
pub(super) fn document() -> &'static Document {
    &DOCUMENT
}

pub(super) fn routes() -> Router<Desk> {
    let (router, _) = described().split_for_parts();
    router.route("/api/v1/openapi.json", get(openapi))
}

async fn openapi(headers: HeaderMap) -> Response {
    json(&headers, document())
}

/// The tag of a value as this API writes it.
pub(super) fn etag(value: &impl Serialize) -> String {
    let body = serde_json::to_vec(value).unwrap_or_default();
    format!("\"{}\"", hex::encode(&Sha256::digest(body)[..12]))
}

/// The value with its tag, or that it has not changed.
fn json(headers: &HeaderMap, value: &impl Serialize) -> Response {
    let tag = etag(value);
    let known = headers.get(header::IF_NONE_MATCH).and_then(|known| known.to_str().ok());
    let same = known.is_some_and(|known| known.split(',').any(|known| known.trim().trim_start_matches("W/") == tag));
    let mut response = if same { StatusCode::NOT_MODIFIED.into_response() } else { Json(value).into_response() };
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// A query that was read, or what is wrong with it.
type Asked<T> = Result<Query<T>, QueryRejection>;

fn asked<T>(query: Asked<T>) -> Result<T, Problem> {
    query.map(|Query(query)| query).map_err(|why| Problem::bad_request(why.body_text()))
}

/// An id in a path.
pub(super) fn id(text: &str) -> Result<i64, Problem> {
    text.parse().map_err(|_| Problem::bad_request(format!("{text:?} is no id: ids are whole numbers")))
}

/// An instant that a table can hold and somebody can mean.
fn plausible(key: &str, at: Option<DateTime<Utc>>) -> Result<Option<DateTime<Utc>>, Problem> {
    match at {
        Some(at) if !(1..=9_999).contains(&at.year()) => {
            Err(Problem::bad_request(format!("{key} is in the year {}; give one from 1 to 9999", at.year())))
        }
        at => Ok(at),
    }
}

fn rows(limit: Option<i64>) -> Result<i64, Problem> {
    match limit.unwrap_or(ROWS) {
        limit @ 1..=MOST_ROWS => Ok(limit),
        limit => Err(Problem::bad_request(format!("limit = {limit} is not from 1 to {MOST_ROWS}; `next` of the answer goes on"))),
    }
}

fn before(text: Option<&str>) -> Result<Option<i64>, Problem> {
    text.map(|text| text.parse().map_err(|_| Problem::bad_request(format!("cursor = {text:?} is none that a `next` gave")))).transpose()
}

/// What runs here.
#[derive(Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "so it is called in the answer")]
struct Version {
    /// The version of the program.
    version: &'static str,
    /// Whoever asks, by the name of their token.
    actor: String,
    /// What they may do.
    role: &'static str,
}

/// Which version this is, and who is asking.
#[utoipa::path(get, path = "/api/v1/version", responses((status = 200, body = Version)))]
async fn version(headers: HeaderMap, who: Who) -> Response {
    json(&headers, &Version { version: env!("CARGO_PKG_VERSION"), actor: who.name.clone(), role: who.role.as_str() })
}

/// Mode, last look, jobs by state, and what stands in the way: what `retentiond status -o json` prints. Jobs are counted beside, at most every second;
/// what is over is counted since the beginning.
#[utoipa::path(get, path = "/api/v1/status", responses((status = 200, body = Status), (status = "default", body = Problem)))]
async fn status(State(desk): State<Desk>, headers: HeaderMap) -> Result<Response, Problem> {
    Ok(json(&headers, &desk.status().await?))
}

/// The rules in force and those of the configuration.
#[derive(Serialize, ToSchema)]
struct PolicyAnswer {
    /// Fingerprint of the policy of the configuration.
    hash: String,
    /// Fingerprint of the policy in force; none before the first.
    accepted: Option<String>,
    /// When it was accepted.
    #[serde(serialize_with = "model::serialize_optional_instant")]
    accepted_at: Option<DateTime<Utc>>,
    /// By whom.
    accepted_by: Option<String>,
    /// What the configuration would change, in words.
    changes: Vec<String>,
    /// The rules of the configuration, class by class.
    #[schema(value_type = Object)]
    terms: crate::config::Terms,
}

/// The policy in force, and what the configuration would change. The `ETag` is that of both.
#[utoipa::path(get, path = "/api/v1/policy", responses((status = 200, body = PolicyAnswer), (status = "default", body = Problem)))]
async fn policy(State(desk): State<Desk>) -> Result<Response, Problem> {
    let mut tx = desk.screen().await?;
    let terms = desk.config().terms();
    let accepted = agreement::accepted(&mut tx).await?;
    let tag = policy_tag(accepted.as_ref().map(|accepted| accepted.hash.as_str()), &terms.hash());
    let changes = accepted.as_ref().map(|a| a.terms.0.changes(&terms)).unwrap_or_default();
    let answer = PolicyAnswer {
        hash: terms.hash(),
        accepted_at: accepted.as_ref().map(|a| a.accepted_at),
        accepted_by: accepted.as_ref().map(|a| a.accepted_by.clone()),
        accepted: accepted.map(|a| a.hash),
        changes: changes.iter().map(|c| format!("{} {}", c.subject, c.what)).collect(),
        terms,
    };
    Ok(([(header::ETAG, tag)], Json(answer)).into_response())
}

/// Which jobs.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct JobsAsked {
    /// scheduled, running, completed or cancelled; open is the first two.
    pub(crate) state: Option<String>,
    /// Of this account.
    #[serde(alias = "account")]
    pub(crate) account_id: Option<String>,
    /// Of this feature.
    pub(crate) feature: Option<String>,
    /// Of this data class.
    pub(crate) data_class: Option<String>,
    /// true: only what is overdue.
    pub(crate) overdue: Option<bool>,
    /// true: only what is held.
    pub(crate) held: Option<bool>,
    /// Only what may be deleted from this instant on.
    pub(crate) due_after: Option<DateTime<Utc>>,
    /// Only what may be deleted before this instant.
    pub(crate) due_before: Option<DateTime<Utc>>,
    /// newest (the highest id first), or due: what is open, by `retain_until`.
    pub(crate) order: Option<String>,
    /// 1 to 500; 100 unless given.
    pub(crate) limit: Option<i64>,
    /// `next` of the page before.
    pub(crate) cursor: Option<String>,
}

impl JobsAsked {
    /// The same for the gateway.
    pub(crate) fn query(self) -> Result<jobs::page::Query, Problem> {
        // An empty field of a form is one that was not filled in.
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let state = given(self.state);
        if let Some(word) = state.as_deref().filter(|word| !["scheduled", "running", "open", "completed", "cancelled"].contains(word)) {
            return Err(Problem::bad_request(format!("state = {word:?} is none of scheduled, running, open, completed, cancelled")));
        }
        let (overdue, held) = (self.overdue == Some(true), self.held == Some(true));
        let due = self.due_after.is_some() || self.due_before.is_some();
        let order = match given(self.order).as_deref() {
            Some("due") => Order::Due,
            None if due || overdue => Order::Due,
            Some("newest") | None => Order::Newest,
            Some(word) => return Err(Problem::bad_request(format!("order = {word:?} is neither newest nor due"))),
        };
        if order == Order::Due && matches!(state.as_deref(), Some("completed" | "cancelled")) {
            return Err(Problem::bad_request("what is over is not due: leave out order, overdue, due_after and due_before, or state"));
        }
        let cursor = given(self.cursor)
            .map(|text| Cursor::parse(&text).ok_or_else(|| Problem::bad_request(format!("cursor = {text:?} is none that a `next` gave"))))
            .transpose()?;
        Ok(jobs::page::Query {
            order,
            state,
            account: given(self.account_id),
            feature: given(self.feature),
            data_class: given(self.data_class),
            overdue,
            held,
            due_after: plausible("due_after", self.due_after)?,
            due_before: plausible("due_before", self.due_before)?,
            cursor,
            limit: rows(self.limit)?,
        })
    }
}

/// A page of jobs.
#[derive(Serialize, ToSchema)]
struct JobsAnswer {
    /// Those that pass the filter, in order.
    jobs: Vec<Job>,
    /// The cursor of the next page; none at the end. Twenty thousand jobs are looked at for one page: where few of them pass, a page may be short, or empty, and go on.
    next: Option<String>,
}

/// Jobs, page by page.
#[utoipa::path(get, path = "/api/v1/jobs", params(JobsAsked), responses((status = 200, body = JobsAnswer), (status = "default", body = Problem)))]
async fn jobs_list(State(desk): State<Desk>, headers: HeaderMap, query: Asked<JobsAsked>) -> Result<Response, Problem> {
    let query = asked(query)?.query()?;
    let page = jobs::page::page(&mut *desk.screen().await?, &query).await?;
    Ok(json(&headers, &JobsAnswer { jobs: page.jobs, next: page.next.map(|next| next.to_string()) }))
}

/// One job in full. Its `ETag` is what `close` wants to see.
#[utoipa::path(get, path = "/api/v1/jobs/{id}", params(("id" = String, Path, description = "The job")),
    responses((status = 200, body = Job), (status = "default", body = Problem)))]
async fn job(State(desk): State<Desk>, headers: HeaderMap, Path(text): Path<String>) -> Result<Response, Problem> {
    Ok(json(&headers, &desk.job(id(&text)?).await?))
}

/// What happened to a job, from the ledger.
#[derive(Serialize, ToSchema)]
pub(crate) struct EntriesAnswer {
    /// The ledger's entries about it, and about holds, pauses and the policy while it was open, in their order.
    #[schema(value_type = Vec<Object>)]
    pub(crate) entries: Vec<serde_json::Value>,
    /// Levels of erasure that it has reached, each with when that was found.
    pub(crate) levels: std::collections::BTreeMap<String, String>,
}

/// The history of a job: what the ledger says of it, its batches among that, and the levels of erasure it has reached. What was done in the last seconds
/// may not have a number yet, and is missing.
#[utoipa::path(get, path = "/api/v1/jobs/{id}/entries", params(("id" = String, Path, description = "The job")),
    responses((status = 200, body = EntriesAnswer), (status = "default", body = Problem)))]
async fn entries(State(desk): State<Desk>, headers: HeaderMap, Path(text): Path<String>) -> Result<Response, Problem> {
    Ok(json(&headers, &desk.entries(id(&text)?).await?))
}

/// For each data class of the account: what stands, since when, both dates, what blocks it, what happens next.
#[utoipa::path(get, path = "/api/v1/accounts/{account}/explain", params(("account" = String, Path, description = "The account's id, percent-encoded")),
    responses((status = 200, body = Explanation), (status = "default", body = Problem)))]
async fn explain(State(desk): State<Desk>, headers: HeaderMap, Path(account): Path<String>) -> Result<Response, Problem> {
    Ok(json(&headers, &desk.explain(&account).await?))
}

/// Until when.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PlanAsked {
    /// What may be deleted before this instant; 24 hours from now unless given.
    pub(crate) until: Option<DateTime<Utc>>,
    /// Of this data class.
    pub(crate) data_class: Option<String>,
    /// 1 to 100; 50 unless given.
    pub(crate) limit: Option<i64>,
    /// `next` of the page before.
    pub(crate) cursor: Option<String>,
}

/// What is going to be deleted.
#[derive(Serialize, ToSchema)]
pub(crate) struct PlanAnswer {
    /// The database's clock.
    #[serde(serialize_with = "model::serialize_instant")]
    pub(crate) now: DateTime<Utc>,
    /// What may be deleted before this instant is here.
    #[serde(serialize_with = "model::serialize_instant")]
    pub(crate) until: DateTime<Utc>,
    /// Whether the daemon deletes or only reports.
    pub(crate) mode: model::Mode,
    /// The guard: while it has tripped, none of it is deleted.
    pub(crate) guard: GuardState,
    /// The scheduled purges, the earliest first, each with the records that there are now.
    pub(crate) jobs: Vec<Planned>,
    /// The cursor of the next page; none at the end.
    pub(crate) next: Option<String>,
}

/// What will be deleted until an instant, with the records there are now.
#[utoipa::path(get, path = "/api/v1/plan", params(PlanAsked), responses((status = 200, body = PlanAnswer), (status = "default", body = Problem)))]
async fn plan(State(desk): State<Desk>, query: Asked<PlanAsked>) -> Result<Response, Problem> {
    Ok(Json(desk.plan(asked(query)?).await?).into_response())
}

/// A page of the holds in force.
#[derive(Serialize, ToSchema)]
struct HoldsAnswer {
    /// The oldest first.
    holds: Vec<Hold>,
    /// The cursor of the next page; none at the end.
    next: Option<String>,
}

/// The holds in force.
#[utoipa::path(get, path = "/api/v1/holds", params(ListAsked), responses((status = 200, body = HoldsAnswer), (status = "default", body = Problem)))]
async fn holds(State(desk): State<Desk>, headers: HeaderMap, query: Asked<ListAsked>) -> Result<Response, Problem> {
    let query = asked(query)?;
    let (limit, after) = (rows(query.limit)?, before(query.cursor.as_deref())?);
    let holds = control::some_holds(&mut *desk.screen().await?, query.account_id.as_deref(), after, limit).await?;
    let next = next(&holds, limit, |hold| hold.id.clone());
    Ok(json(&headers, &HoldsAnswer { holds, next }))
}

/// One hold in force. Its `ETag` is what its release wants to see.
#[utoipa::path(get, path = "/api/v1/holds/{id}", params(("id" = String, Path, description = "The hold")),
    responses((status = 200, body = Hold), (status = "default", body = Problem)))]
async fn hold(State(desk): State<Desk>, headers: HeaderMap, Path(text): Path<String>) -> Result<Response, Problem> {
    let id = id(&text)?;
    let hold = control::hold(&mut *desk.screen().await?, id).await?;
    Ok(json(&headers, &hold.ok_or_else(|| Problem::not_found(format!("no hold {id} is in force")))?))
}

/// Which of what is listed by id.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListAsked {
    /// Of this account.
    account_id: Option<String>,
    /// 1 to 500; 100 unless given.
    limit: Option<i64>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// A page of holds that are over.
#[derive(Serialize, ToSchema)]
struct PastHoldsAnswer {
    /// The newest first.
    holds: Vec<PastHold>,
    /// The cursor of the next page; none at the end.
    next: Option<String>,
}

/// Holds that were released or have ended.
#[utoipa::path(get, path = "/api/v1/past-holds", params(ListAsked), responses((status = 200, body = PastHoldsAnswer), (status = "default", body = Problem)))]
async fn past_holds(State(desk): State<Desk>, headers: HeaderMap, query: Asked<ListAsked>) -> Result<Response, Problem> {
    let query = asked(query)?;
    let (limit, before) = (rows(query.limit)?, before(query.cursor.as_deref())?);
    let holds = control::past_holds(&mut *desk.screen().await?, query.account_id.as_deref(), before, limit).await?;
    let next = next(&holds, limit, |hold| hold.hold.id.clone());
    Ok(json(&headers, &PastHoldsAnswer { holds, next }))
}

/// Where a list goes on, if it was full.
fn next<T>(rows: &[T], limit: i64, id: impl Fn(&T) -> String) -> Option<String> {
    rows.last().filter(|_| i64::try_from(rows.len()).is_ok_and(|n| n >= limit)).map(id)
}

/// The pauses in force.
#[derive(Serialize, ToSchema)]
struct PausesAnswer {
    /// The oldest first.
    pauses: Vec<Pause>,
}

/// The pauses in force.
#[utoipa::path(get, path = "/api/v1/pauses", responses((status = 200, body = PausesAnswer), (status = "default", body = Problem)))]
async fn pauses(State(desk): State<Desk>, headers: HeaderMap) -> Result<Response, Problem> {
    Ok(json(&headers, &PausesAnswer { pauses: control::pauses(&mut *desk.screen().await?).await? }))
}

/// Whether the guard has tripped, and why. Its `ETag` is what its release wants to see.
#[utoipa::path(get, path = "/api/v1/guard", responses((status = 200, body = GuardState), (status = "default", body = Problem)))]
async fn guard(State(desk): State<Desk>) -> Result<Response, Problem> {
    let guard = safeguards::guard(&mut *desk.screen().await?).await?;
    Ok(([(header::ETAG, guard_tag(&guard))], Json(guard)).into_response())
}

/// A page of requests.
#[derive(Serialize, ToSchema)]
struct RequestsAnswer {
    /// The newest first.
    requests: Vec<Request>,
    /// The cursor of the next page; none at the end.
    next: Option<String>,
}

/// Deletion that somebody asked for, and what became of it.
#[utoipa::path(get, path = "/api/v1/requests", params(ListAsked), responses((status = 200, body = RequestsAnswer), (status = "default", body = Problem)))]
async fn requests_list(State(desk): State<Desk>, headers: HeaderMap, query: Asked<ListAsked>) -> Result<Response, Problem> {
    let query = asked(query)?;
    let (limit, before) = (rows(query.limit)?, before(query.cursor.as_deref())?);
    let filter = requests::Filter { id: None, account: query.account_id, before, limit: Some(limit) };
    let requests = requests::list(&mut *desk.screen().await?, &filter).await?;
    let next = next(&requests, limit, |request| request.id.clone());
    Ok(json(&headers, &RequestsAnswer { requests, next }))
}

/// One request. Its `ETag` is what approval and withdrawal want to see.
#[utoipa::path(get, path = "/api/v1/requests/{id}", params(("id" = String, Path, description = "The request")),
    responses((status = 200, body = Request), (status = "default", body = Problem)))]
async fn request(State(desk): State<Desk>, headers: HeaderMap, Path(text): Path<String>) -> Result<Response, Problem> {
    let id = id(&text)?;
    let filter = requests::Filter { id: Some(id), ..requests::Filter::default() };
    let request = requests::list(&mut *desk.screen().await?, &filter).await?.pop();
    Ok(json(&headers, &request.ok_or_else(|| Problem::not_found(format!("there is no request {id}")))?))
}

/// Which acts.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ActsAsked {
    /// Only these, in the words of the command line, like "hold place".
    pub(crate) act: Option<String>,
    /// Only by whoever is called so.
    pub(crate) actor: Option<String>,
    /// Only about this account.
    pub(crate) account_id: Option<String>,
    /// 1 to 500; 100 unless given.
    pub(crate) limit: Option<i64>,
    /// `next` of the page before.
    pub(crate) cursor: Option<String>,
}

impl ActsAsked {
    /// The same for the gateway.
    pub(crate) fn query(self) -> Result<done::Asked, Problem> {
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let before = before(given(self.cursor).as_deref())?;
        Ok(done::Asked {
            act: given(self.act),
            actor: given(self.actor),
            account: given(self.account_id),
            before,
            limit: rows(self.limit)?,
        })
    }
}

/// A page of acts.
#[derive(Serialize, ToSchema)]
struct ActsAnswer {
    /// The newest first.
    acts: Vec<Entry>,
    /// The cursor of the next page; none at the end.
    next: Option<String>,
}

/// What people did, at the shell, through the API and on the pages.
#[utoipa::path(get, path = "/api/v1/acts", params(ActsAsked), responses((status = 200, body = ActsAnswer), (status = "default", body = Problem)))]
async fn acts_list(State(desk): State<Desk>, headers: HeaderMap, query: Asked<ActsAsked>) -> Result<Response, Problem> {
    let query = asked(query)?.query()?;
    let acts = done::list(&mut *desk.screen().await?, &query).await?;
    let next = next(&acts, query.limit, |act| act.id.clone());
    Ok(json(&headers, &ActsAnswer { acts, next }))
}

/// Figures for plots: what is open by day, the last thirty days, lateness by buckets. 503 for the moment in which they are counted for the first time.
#[utoipa::path(get, path = "/api/v1/series", responses((status = 200, body = Figures), (status = "default", body = Problem)))]
async fn series(State(desk): State<Desk>, headers: HeaderMap) -> Result<Response, Problem> {
    let figures = desk.figures().await.ok_or_else(|| Problem::unavailable("the jobs are being counted; ask again in a moment"))?;
    Ok(json(&headers, &*figures))
}
