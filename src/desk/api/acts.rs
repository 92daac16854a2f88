//! What can be done through the API. Every act needs a role, an `Idempotency-Key`, and mostly a reason; acts about something that may have changed need
//! `If-Match`. Nothing here deletes anything before its time.

use axum::{
    extract::{FromRequest, Path, Request as HttpRequest, State},
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Desk, Problem, Who, id, plausible};
use crate::{
    acts::{Act, Surface},
    desk::submit::{Answer, Wish, submit},
    jobs::Job,
    requests::Request,
    safeguards::control::{Hold, Scope},
};

pub(super) fn described() -> OpenApiRouter<Desk> {
    OpenApiRouter::new()
        .routes(routes!(place_hold))
        .routes(routes!(release_hold))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(release_guard))
        .routes(routes!(accept_policy))
        .routes(routes!(retry_job))
        .routes(routes!(close_job))
        .routes(routes!(place_request))
        .routes(routes!(approve_request))
        .routes(routes!(withdraw_request))
}

/// A body of JSON with the bytes it was read from, which the fingerprint of the act is made of.
struct Body<T> {
    asked: Vec<u8>,
    value: T,
}

impl<T: DeserializeOwned> FromRequest<Desk> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: HttpRequest, desk: &Desk) -> Result<Self, Problem> {
        let json = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        if !json.is_some_and(|kind| kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))) {
            return Err(Problem::bad_request("send the body as content-type: application/json"));
        }
        let mut asked = format!("{} ", request.uri().path()).into_bytes();
        let bytes = axum::body::Bytes::from_request(request, desk).await.map_err(|why| Problem::bad_request(why.body_text()))?;
        if bytes.windows(6).any(|part| part == b"\\u0000") {
            return Err(Problem::bad_request("the body holds the character zero, which no name has"));
        }
        let value = serde_json::from_slice(&bytes).map_err(|why| Problem::bad_request(format!("the body: {why}")))?;
        asked.extend_from_slice(&bytes);
        Ok(Self { asked, value })
    }
}

/// What every act takes besides its body.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "only what the document says of it counts")]
struct Once {
    /// Under this key the act is done once, however often it is asked for within a day.
    #[param(rename = "Idempotency-Key")]
    idempotency_key: String,
}

/// What acts about something that may have changed take.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "only what the document says of it counts")]
struct Seen {
    /// The `ETag` of what was seen, or `*`.
    #[param(rename = "If-Match")]
    if_match: String,
}

async fn act<T>(desk: &Desk, who: &Who, headers: &HeaderMap, body: &Body<T>, reason: &str, act: Act) -> Result<Response, Problem> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let wish = Wish {
        act,
        reason: reason.to_owned(),
        surface: Surface::Api,
        key: text(HeaderName::from_static("idempotency-key")).unwrap_or_default().to_owned(),
        seen: text(header::IF_MATCH).map(str::to_owned),
        asked: body.asked.clone(),
    };
    let Answer { status, body, replayed } = submit(desk, who, wish).await?;
    let mut response = (status, [(header::CONTENT_TYPE, "application/json")], body).into_response();
    if replayed {
        response.headers_mut().insert(HeaderName::from_static("idempotent-replayed"), HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// Why.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Why {
    /// Why; kept with the act.
    #[schema(min_length = 1, max_length = 1000)]
    reason: String,
}

/// An empty object: nobody is asked why.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// A hold to place.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewHold {
    /// The account.
    #[schema(min_length = 1)]
    account_id: String,
    /// Only this feature.
    feature: Option<String>,
    /// Only this data class.
    data_class: Option<String>,
    /// Ends by itself then.
    until: Option<DateTime<Utc>>,
    /// Why.
    #[schema(min_length = 1, max_length = 1000)]
    reason: String,
}

/// Another person has to do the same.
#[derive(Serialize, ToSchema)]
struct Waits {
    /// What is on record, and what it waits for.
    waits: String,
}

/// Place a hold: nothing it covers is deleted any more once this has been answered. Role operator.
#[utoipa::path(post, path = "/api/v1/holds", params(Once), request_body = NewHold,
    responses((status = 201, body = Hold), (status = "default", body = Problem)))]
async fn place_hold(State(desk): State<Desk>, who: Who, headers: HeaderMap, body: Body<NewHold>) -> Result<Response, Problem> {
    let NewHold { account_id, feature, data_class, until, reason } = &body.value;
    let scope = Scope { account: Some(account_id.clone()), feature: feature.clone(), data_class: data_class.clone() };
    act(&desk, &who, &headers, &body, reason, Act::PlaceHold { scope, until: plausible("until", *until)? }).await
}

/// Release a hold: what it covered is eligible again. Role officer. 202: another person has to do the same.
#[utoipa::path(post, path = "/api/v1/holds/{id}/release", params(("id" = String, Path, description = "The hold"), Once, Seen), request_body = Why,
    responses((status = 200, body = Hold), (status = 202, body = Waits), (status = "default", body = Problem)))]
async fn release_hold(
    State(desk): State<Desk>,
    who: Who,
    headers: HeaderMap,
    Path(text): Path<String>,
    body: Body<Why>,
) -> Result<Response, Problem> {
    act(&desk, &who, &headers, &body, &body.value.reason, Act::ReleaseHold { id: id(&text)? }).await
}

/// What to pause, or to let go on.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PauseWish {
    /// Only this account.
    account_id: Option<String>,
    /// Only this data class.
    data_class: Option<String>,
    /// Why.
    #[schema(min_length = 1, max_length = 1000)]
    reason: String,
}

impl PauseWish {
    fn scope(&self) -> Scope {
        Scope { account: self.account_id.clone(), feature: None, data_class: self.data_class.clone() }
    }
}

/// It is paused.
#[derive(Serialize, ToSchema)]
struct Paused {
    /// Always true.
    paused: bool,
}

/// How many pauses were lifted.
#[derive(Serialize, ToSchema)]
struct Resumed {
    /// Pauses of exactly that scope.
    lifted: u64,
}

/// Pause deletion of everything, of an account or of a data class: no record is deleted any more once this has been answered. Role operator.
#[utoipa::path(post, path = "/api/v1/pauses", params(Once), request_body = PauseWish,
    responses((status = 201, body = Paused), (status = "default", body = Problem)))]
async fn pause(State(desk): State<Desk>, who: Who, headers: HeaderMap, body: Body<PauseWish>) -> Result<Response, Problem> {
    act(&desk, &who, &headers, &body, &body.value.reason, Act::Pause { scope: body.value.scope() }).await
}

/// Lift the pauses of exactly this scope. Role operator.
#[utoipa::path(post, path = "/api/v1/pauses/resume", params(Once), request_body = PauseWish,
    responses((status = 200, body = Resumed), (status = "default", body = Problem)))]
async fn resume(State(desk): State<Desk>, who: Who, headers: HeaderMap, body: Body<PauseWish>) -> Result<Response, Problem> {
    act(&desk, &who, &headers, &body, &body.value.reason, Act::Resume { scope: body.value.scope() }).await
}

/// What a release let through.
#[derive(Serialize, ToSchema)]
struct Released {
    /// Jobs that were waiting, and may begin.
    jobs: u64,
}

/// Release the guard: what waits at this moment may begin, and no more. Role officer. 202: another person has to do the same.
#[utoipa::path(post, path = "/api/v1/guard/release", params(Once, Seen), request_body = Why,
    responses((status = 200, body = Released), (status = 202, body = Waits), (status = "default", body = Problem)))]
async fn release_guard(State(desk): State<Desk>, who: Who, headers: HeaderMap, body: Body<Why>) -> Result<Response, Problem> {
    act(&desk, &who, &headers, &body, &body.value.reason, Act::ReleaseGuard).await
}

/// What came into force.
#[derive(Serialize, ToSchema)]
struct AcceptedPolicy {
    /// Its fingerprint.
    policy: String,
    /// What it changed.
    changes: Vec<String>,
}

/// Put the policy of this daemon's configuration into force. Role officer. 202: another person has to do the same.
#[utoipa::path(post, path = "/api/v1/policy/accept", params(Once, Seen), request_body = Why,
    responses((status = 200, body = AcceptedPolicy), (status = 202, body = Waits), (status = "default", body = Problem)))]
async fn accept_policy(State(desk): State<Desk>, who: Who, headers: HeaderMap, body: Body<Why>) -> Result<Response, Problem> {
    act(&desk, &who, &headers, &body, &body.value.reason, Act::AcceptPolicy).await
}

/// Try a job at once that waits after a failure, if it is due: never before its time. Role operator.
#[utoipa::path(post, path = "/api/v1/jobs/{id}/retry", params(("id" = String, Path, description = "The job"), Once), request_body = Nothing,
    responses((status = 200, body = Job), (status = "default", body = Problem)))]
async fn retry_job(
    State(desk): State<Desk>,
    who: Who,
    headers: HeaderMap,
    Path(text): Path<String>,
    body: Body<Nothing>,
) -> Result<Response, Problem> {
    act(&desk, &who, &headers, &body, "", Act::RetryJob { id: id(&text)? }).await
}

/// Give up a purge that can never be verified: nothing ever says that it was deleted. Role officer.
#[utoipa::path(post, path = "/api/v1/jobs/{id}/close", params(("id" = String, Path, description = "The job"), Once, Seen), request_body = Why,
    responses((status = 200, body = Job), (status = "default", body = Problem)))]
async fn close_job(
    State(desk): State<Desk>,
    who: Who,
    headers: HeaderMap,
    Path(text): Path<String>,
    body: Body<Why>,
) -> Result<Response, Problem> {
    act(&desk, &who, &headers, &body, &body.value.reason, Act::CloseJob { id: id(&text)? }).await
}

/// A request to place.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewRequest {
    /// The account.
    #[schema(min_length = 1)]
    account_id: String,
    /// Only this feature.
    feature: Option<String>,
    /// Only this data class.
    data_class: Option<String>,
    /// Why.
    #[schema(min_length = 1, max_length = 1000)]
    reason: String,
}

/// Ask that an account's records be deleted early. Role officer.
#[utoipa::path(post, path = "/api/v1/requests", params(Once), request_body = NewRequest,
    responses((status = 201, body = Request), (status = "default", body = Problem)))]
async fn place_request(State(desk): State<Desk>, who: Who, headers: HeaderMap, body: Body<NewRequest>) -> Result<Response, Problem> {
    let NewRequest { account_id, feature, data_class, reason } = &body.value;
    let scope = Scope { account: Some(account_id.clone()), feature: feature.clone(), data_class: data_class.clone() };
    act(&desk, &who, &headers, &body, reason, Act::PlaceRequest { scope }).await
}

/// Accept a request that waits for a second person. Role officer.
#[utoipa::path(post, path = "/api/v1/requests/{id}/approve", params(("id" = String, Path, description = "The request"), Once, Seen), request_body = Nothing,
    responses((status = 200, body = Request), (status = "default", body = Problem)))]
async fn approve_request(
    State(desk): State<Desk>,
    who: Who,
    headers: HeaderMap,
    Path(text): Path<String>,
    body: Body<Nothing>,
) -> Result<Response, Problem> {
    act(&desk, &who, &headers, &body, "", Act::ApproveRequest { id: id(&text)? }).await
}

/// Delete nothing for a request any more. Role officer.
#[utoipa::path(post, path = "/api/v1/requests/{id}/withdraw", params(("id" = String, Path, description = "The request"), Once, Seen), request_body = Why,
    responses((status = 200, body = Request), (status = "default", body = Problem)))]
async fn withdraw_request(
    State(desk): State<Desk>,
    who: Who,
    headers: HeaderMap,
    Path(text): Path<String>,
    body: Body<Why>,
) -> Result<Response, Problem> {
    act(&desk, &who, &headers, &body, &body.value.reason, Act::WithdrawRequest { id: id(&text)? }).await
}
