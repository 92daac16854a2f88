//! Refusals of the API as RFC 9457 has them: `application/problem+json` with a type that stays the same, a status, and what to do about it in words.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    acts::Refused,
    database::{DatabaseError, Kind},
    ledger::LedgerError,
};

/// Why a request was not answered with what it asked for.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// Which kind: `urn:retentiond:problem:` and the code.
    r#type: String,
    /// The kind in words.
    pub(crate) title: &'static str,
    /// The status, once more.
    pub(crate) status: u16,
    /// What is wrong here, and what to do about it.
    pub(crate) detail: String,
    /// The kind in one word; this is what programs branch on.
    pub(crate) code: &'static str,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self { r#type: format!("urn:retentiond:problem:{code}"), title, status: status.as_u16(), detail: detail.into(), code }
    }

    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "There is no such thing", detail)
    }

    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", "The request cannot be understood", detail)
    }

    pub(crate) fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "Nobody knows who this is", detail)
    }

    pub(crate) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "This is not for whoever asks", detail)
    }

    pub(crate) fn precondition_missing() -> Self {
        let detail = "send If-Match with the ETag of what you have seen, so that nothing else is changed than what you mean";
        Self::new(StatusCode::PRECONDITION_REQUIRED, "precondition_required", "Say what you have seen", detail)
    }

    pub(crate) fn precondition_failed() -> Self {
        let detail = "it is not any more what its ETag says; read it again, and decide again";
        Self::new(StatusCode::PRECONDITION_FAILED, "precondition_failed", "It has changed meanwhile", detail)
    }

    pub(crate) fn key_reused() -> Self {
        let detail = "this Idempotency-Key was used for something else within the last day; take another one";
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused", "The key belongs to another act", detail)
    }

    pub(crate) fn in_flight() -> Self {
        let detail = "an act with this Idempotency-Key is under way; ask again in a moment";
        Self::new(StatusCode::CONFLICT, "in_flight", "The act is under way", detail)
    }

    pub(crate) fn too_many() -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", "Too many requests", "go on in a second")
    }

    pub(crate) fn too_slow() -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "too_slow", "It took too long", "ask for less: a narrower filter, a shorter interval")
    }

    pub(crate) fn unavailable(detail: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "The daemon cannot answer now", detail)
    }

    pub(crate) fn unprocessable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "senseless", "That makes no sense here", detail)
    }
}

/// A refusal that was not ours, by whatever reads requests for us, in the form of all others.
pub(super) fn spelt_out(response: Response) -> Response {
    let status = response.status();
    let ours = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind == "application/problem+json" || kind == "text/html; charset=utf-8");
    if !status.is_client_error() || ours {
        return response;
    }
    let (code, detail) = match status {
        StatusCode::METHOD_NOT_ALLOWED => ("method_not_allowed", "this address takes another method; Allow says which"),
        StatusCode::PAYLOAD_TOO_LARGE => ("too_large", "send less: 64 KiB at most"),
        _ => ("bad_request", "the address or the body cannot be read; /api/v1/openapi.json says what they may hold"),
    };
    let allow = response.headers().get(header::ALLOW).cloned();
    let mut response = Problem::new(status, code, "The request cannot be understood", detail).into_response();
    if let Some(allow) = allow {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}

impl From<DatabaseError> for Problem {
    fn from(error: DatabaseError) -> Self {
        match error.kind() {
            Kind::Timeout => Self::too_slow(),
            Kind::Locked | Kind::Conflict => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "busy",
                "Somebody else is at it",
                "the database has it locked; ask again in a moment",
            ),
            Kind::Unreachable | Kind::Exhausted => {
                Self::unavailable("the database is away or has no room; what is deleted, is deleted when it is back")
            }
            // What the driver says may hold values of somebody's record.
            Kind::Credentials | Kind::Grants | Kind::Schema | Kind::Refused | Kind::Other => {
                tracing::warn!(event = "api.failed", error = %error, sqlstate = error.sqlstate(), "a request could not be answered");
                Self::unavailable("the database refused; the log says why (api.failed)")
            }
        }
    }
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        DatabaseError::from(error).into()
    }
}

impl From<LedgerError> for Problem {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Database(error) => error.into(),
            other @ (LedgerError::File(..) | LedgerError::Key(_) | LedgerError::Behind { .. } | LedgerError::Broken(_)) => {
                Self::unavailable(&other.to_string())
            }
        }
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Unknown(why) => Self::not_found(why),
            Refused::Senseless(why) => Self::unprocessable(why),
            Refused::Past(why) => Self::new(StatusCode::CONFLICT, "past", "It is too late or too early for that", why),
            Refused::Another(why) => Self::new(StatusCode::CONFLICT, "another_person", "Another person has to", why),
            Refused::Guard(why) => Self::new(StatusCode::CONFLICT, "guard_tripped", "The guard stays", why),
            Refused::Database(error) => error.into(),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        // Texts and a number, which serde_json always writes.
        let body = serde_json::to_string(&self).unwrap_or_default();
        let mut response = (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response();
        let headers = response.headers_mut();
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"retentiond\""));
        }
        if status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        // For whoever has to say the same in other words.
        response.extensions_mut().insert(self);
        response
    }
}
