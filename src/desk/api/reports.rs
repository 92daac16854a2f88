//! Evidence through the API: certificates, the checkpoint, reports.

use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Asked, Desk, Problem, asked, id, json as answer, plausible};
use crate::{
    certificate::{self, Certificate},
    ledger,
    outlook::{
        self, csv,
        report::{self, Deletions, Exception, Interval, Line},
    },
};

/// Exceptions that one report lists; `left_out` says how many more there are, and the shell prints all.
const EXCEPTIONS: usize = 10_000;
/// The interval unless given.
const DAYS: i64 = 30;

pub(super) fn described() -> OpenApiRouter<Desk> {
    OpenApiRouter::new().routes(routes!(checkpoint)).routes(routes!(certificate_of)).routes(routes!(deletions)).routes(routes!(art30))
}

/// The last signed checkpoint of the ledger, as the note that was signed.
#[utoipa::path(get, path = "/api/v1/ledger/checkpoint",
    responses((status = 200, body = String, content_type = "text/plain"), (status = "default", body = Problem)))]
async fn checkpoint(State(desk): State<Desk>) -> Result<Response, Problem> {
    let found = ledger::last_checkpoint(&mut *desk.screen().await?).await?;
    let (note, _) = found.ok_or_else(|| Problem::not_found("the ledger has no checkpoint yet"))?;
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], note).into_response())
}

/// As what.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct CertificateAsked {
    /// html: the page that prints, with the certificate inside; json unless given.
    format: Option<String>,
}

/// One file that says what became of a job, and proves it. `retentiond certificate verify` checks either form without anything else. What ended in the last
/// seconds has no number yet.
#[utoipa::path(get, path = "/api/v1/jobs/{id}/certificate", params(("id" = String, Path, description = "The job"), CertificateAsked),
    responses((status = 200, body = Object), (status = "default", body = Problem)))]
async fn certificate_of(State(desk): State<Desk>, Path(text): Path<String>, query: Asked<CertificateAsked>) -> Result<Response, Problem> {
    let (job, query) = (id(&text)?, asked(query)?);
    let evidence = ledger::evidence(&mut *desk.reading().await?, job).await?;
    let evidence = evidence.ok_or_else(|| Problem::not_found(format!("the ledger tells of no job {job}, or not yet")))?;
    let certificate = Certificate::new(job, evidence).map_err(|why| Problem::not_found(why.to_string()))?;
    // Never hand out what does not verify.
    certificate.verify(None).map_err(|why| Problem::unavailable(&why.to_string()))?;
    let named = |kind: &str| format!("attachment; filename=\"certificate-{job}.{kind}\"");
    Ok(match query.format.as_deref() {
        None | Some("json" | "") => {
            ([(header::CONTENT_DISPOSITION, named("json"))], Json(serde_json::to_value(&certificate).unwrap_or_default())).into_response()
        }
        Some("html") => {
            let page = certificate::page(&certificate);
            ([(header::CONTENT_DISPOSITION, named("html")), (header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned())], page)
                .into_response()
        }
        Some(word) => return Err(Problem::bad_request(format!("format = {word:?} is neither json nor html"))),
    })
}

/// Which interval, and as what.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ReportAsked {
    /// From this instant on; 30 days before `to` unless given.
    pub(crate) from: Option<DateTime<Utc>>,
    /// Before this instant; now unless given.
    pub(crate) to: Option<DateTime<Utc>>,
    /// csv or json; json unless given.
    pub(crate) format: Option<String>,
}

/// The report, gathered.
pub(crate) struct Report {
    pub(crate) deletions: Deletions,
    pub(crate) exceptions: Vec<Exception>,
    pub(crate) left_out: u64,
}

impl Desk {
    pub(crate) async fn report(&self, query: &ReportAsked) -> Result<Report, Problem> {
        let mut tx = self.reading().await?;
        let asked_at: DateTime<Utc> = sqlx::query_scalar("select now()").fetch_one(&mut *tx).await?;
        let to = plausible("to", query.to)?.unwrap_or(asked_at);
        let from = plausible("from", query.from)?.unwrap_or(to - TimeDelta::days(DAYS));
        if from >= to {
            return Err(Problem::bad_request("from is not before to: nothing lies between them"));
        }
        let (mut figures, mut exceptions, mut left_out) = (None, Vec::new(), 0);
        report::deletions(&mut tx, self.config(), Interval { from, to, asked_at }, |line| match line {
            Line::Figures(deletions) => figures = Some(deletions),
            Line::Exception(exception) if exceptions.len() < EXCEPTIONS => exceptions.push(exception),
            Line::Exception(_) => left_out += 1,
        })
        .await?;
        let deletions = figures.ok_or_else(|| Problem::unavailable("the report came without its figures"))?;
        Ok(Report { deletions, exceptions, left_out })
    }
}

/// What was deleted within an interval, how much of it in time, and what stands out: what `retentiond report deletions` prints. No account is named in it.
#[utoipa::path(get, path = "/api/v1/reports/deletions", params(ReportAsked),
    responses((status = 200, body = Object), (status = "default", body = Problem)))]
async fn deletions(State(desk): State<Desk>, query: Asked<ReportAsked>) -> Result<Response, Problem> {
    let query = asked(query)?;
    let Report { deletions, exceptions, left_out } = match query.format.as_deref() {
        None | Some("json" | "csv" | "") => desk.report(&query).await?,
        Some(word) => return Err(Problem::bad_request(format!("format = {word:?} is neither json nor csv"))),
    };
    if query.format.as_deref() == Some("csv") {
        let lines = std::iter::once(Line::Figures(deletions)).chain(exceptions.into_iter().map(Line::Exception)).flat_map(csv::report);
        let text = lines.fold(String::new(), |text, line| text + &line + "\r\n");
        let named = "attachment; filename=\"deletions.csv\"";
        return Ok(([(header::CONTENT_TYPE, "text/csv; charset=utf-8"), (header::CONTENT_DISPOSITION, named)], text).into_response());
    }
    let mut object = serde_json::to_value(&deletions).unwrap_or_default();
    if let Value::Object(object) = &mut object {
        object.insert("exceptions".to_owned(), json!(exceptions));
        object.insert("left_out".to_owned(), json!(left_out));
    }
    Ok(Json(object).into_response())
}

/// The rules for whoever keeps the record of processing activities: what `retentiond report art30` prints.
#[utoipa::path(get, path = "/api/v1/reports/art30", responses((status = 200, body = Object), (status = "default", body = Problem)))]
async fn art30(State(desk): State<Desk>, headers: HeaderMap) -> Result<Response, Problem> {
    Ok(answer(&headers, &outlook::art30(desk.config())))
}
