//! Where the platform says that something has happened. It is believed in nothing but that it is worth a look: the source says what stands.

use axum::{
    Json,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Desk, Problem, Who};
use crate::{config::Role, notices::InboundError};

pub(super) fn described() -> OpenApiRouter<Desk> {
    OpenApiRouter::new().routes(routes!(events))
}

/// What was taken.
#[derive(Serialize, ToSchema)]
struct Taken {
    /// Accounts of events that were not sent before. The source is looked at within a second or two.
    accounts: usize,
}

/// Say that something has happened: `CloudEvents` 1.0 as structured JSON, one or a batch, with the account as `subject`. The source is looked at soon; what the
/// event says decides nothing. Role ingest, operator or officer. 200: all of it was sent before.
#[utoipa::path(post, path = "/api/v1/events", request_body(content = Object, content_type = "application/cloudevents+json"),
    responses((status = 202, body = Taken), (status = 200, body = Taken), (status = "default", body = Problem)))]
async fn events(State(desk): State<Desk>, who: Who, headers: HeaderMap, body: Bytes) -> Result<Response, Problem> {
    if who.role != Role::Ingest && who.role < Role::Operator {
        return Err(Problem::forbidden("saying that something has happened needs the role ingest, operator or officer"));
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let accounts = desk.inbound().accept(kind, &body).map_err(|error: InboundError| Problem::bad_request(error.to_string()))?.len();
    if accounts > 0 {
        desk.wake();
    }
    let status = if accounts > 0 { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok((status, Json(Taken { accounts })).into_response())
}
