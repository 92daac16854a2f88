//! The addresses of the pages: what each reads for the functions of `pages`, and where its forms go (`site/forms.rs`). What is refused is said as a page too.

mod forms;
mod look;
mod state;

use axum::{
    Router,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use maud::Markup;
use serde::Deserialize;

use super::{
    Desk, Principal, Who,
    api::{ActsAsked, JobsAsked, PlanAsked, id, reports::ReportAsked},
    auth,
    pages::{self, Page, Said, activity, assets, holds, job, jobs, links, plan, refusal, reports, requests},
    plot::Span,
    problem::Problem,
};
use crate::{
    certificate::Certificate,
    config::People,
    ledger, outlook,
    requests::{Filter, list},
    safeguards::control::{self, Hold},
};

/// Rows of a list.
const ROWS: i64 = 50;
/// Holds that one page shows.
const MOST_HOLDS: usize = 200;

pub(super) fn routes() -> Router<Desk> {
    Router::new()
        .route(links::OVERVIEW, get(look::overview))
        .route(links::JOBS, get(job_list))
        .route("/jobs/{id}", get(one_job))
        .route(links::EXPLAIN, get(explain))
        .route(links::PLAN, get(planned))
        .route(links::HOLDS, get(hold_list))
        .route(links::GUARD, get(look::guarded))
        .route(links::REQUESTS, get(request_list))
        .route(links::ACTIVITY, get(acts))
        .route(links::REPORTS, get(report))
        .route(links::CERTIFICATE, get(certificate))
        .route(links::SYSTEM, get(state::system))
        .route("/assets/{name}", get(asset))
        .merge(forms::routes())
}

/// A page as an answer.
fn html(status: StatusCode, markup: Markup) -> Response {
    (status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], markup.into_string()).into_response()
}

fn ok(markup: Markup) -> Response {
    html(StatusCode::OK, markup)
}

/// A query that was read, or what is wrong with it.
type Asked<T> = Result<Query<T>, QueryRejection>;

fn asked<T>(query: Asked<T>) -> Result<T, Problem> {
    query.map(|Query(query)| query).map_err(|why| Problem::bad_request(why.body_text()))
}

/// What was refused, for people: a page that says it in words, or the way to the sign-in. What the API answers stays as it is.
pub(super) fn in_words(who: Option<Principal>, address: &Uri, response: Response) -> Response {
    if address.path().starts_with("/api/") {
        return response;
    }
    let Some(problem) = response.extensions().get::<Problem>() else { return response };
    if problem.status == 401 {
        let back = address.path_and_query().map_or(links::OVERVIEW, |address| address.as_str());
        return Redirect::to(&links::with(links::SIGN_IN, &[("back", back)])).into_response();
    }
    let why = refusal::Refusal { status: problem.status, title: problem.title.to_owned(), detail: problem.detail.clone() };
    let page = bare(auth::now(), who.map(|who| pages::Who { name: who.name, role: who.role, session: false }));
    let mut said = html(response.status(), refusal::refusal(&page, &why));
    if let Some(after) = response.headers().get(header::RETRY_AFTER) {
        said.headers_mut().insert(header::RETRY_AFTER, after.clone());
    }
    said
}

/// What is around a page that asks no database.
fn bare(now: DateTime<Utc>, who: Option<pages::Who>) -> Page {
    Page { now, who, alerts: Vec::new(), said: None, key: String::new(), version: env!("CARGO_PKG_VERSION").to_owned() }
}

/// What is around a page, and what `status` says for it.
async fn frame(desk: &Desk, who: &Principal, headers: &HeaderMap, done: Option<&str>) -> Result<(Page, outlook::Status), Problem> {
    let status = desk.status().await?;
    let now: DateTime<Utc> = sqlx::query_scalar("select now()").fetch_one(&mut *desk.screen().await?).await?;
    let mut bytes = [0; 12];
    getrandom::fill(&mut bytes).map_err(|why| Problem::unavailable(&why.to_string()))?;
    let reader = pages::Who { name: who.name.clone(), role: who.role, session: auth::has_session(headers) };
    let page = Page {
        alerts: pages::alerts(&status),
        said: done.and_then(forms::said).map(|words| Said::Done(words.to_owned())),
        key: hex::encode(bytes),
        ..bare(now, Some(reader))
    };
    Ok((page, status))
}

/// The names of the configured data classes, and of their features, each once.
fn names(desk: &Desk) -> (Vec<String>, Vec<String>) {
    let sorted = |mut names: Vec<String>| {
        names.sort_unstable();
        names.dedup();
        names
    };
    let classes = &desk.config().data_classes;
    (sorted(classes.iter().map(|class| class.feature.clone()).collect()), sorted(classes.iter().map(|class| class.name.clone()).collect()))
}

/// Where a list goes on, if it was full.
fn next<T>(rows: &[T], id: impl Fn(&T) -> String) -> Option<String> {
    rows.last().filter(|_| i64::try_from(rows.len()).is_ok_and(|n| n >= ROWS)).map(id)
}

async fn job_list(State(desk): State<Desk>, who: Who, headers: HeaderMap, query: Asked<JobsAsked>) -> Result<Response, Problem> {
    let query = asked(query)?;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let shown = jobs::Asked {
        state: text(&query.state),
        data_class: text(&query.data_class),
        account: text(&query.account_id),
        overdue: query.overdue == Some(true),
        held: query.held == Some(true),
        order: text(&query.order),
    };
    let further = query.cursor.as_deref().is_some_and(|cursor| !cursor.is_empty());
    let (page, status) = frame(&desk, &who, &headers, None).await?;
    let found = crate::jobs::page::page(&mut *desk.screen().await?, &JobsAsked { limit: Some(ROWS), ..query }.query()?).await?;
    let data = jobs::Jobs {
        asked: shown,
        tally: status.jobs,
        classes: names(&desk).1,
        jobs: found.jobs,
        further,
        next: found.next.map(|next| next.to_string()),
    };
    Ok(ok(jobs::jobs(&page, &data)))
}

/// What a page without a filter takes.
#[derive(Debug, Default, Deserialize)]
struct Bare {
    done: Option<String>,
}

async fn one_job(
    State(desk): State<Desk>,
    who: Who,
    headers: HeaderMap,
    Path(text): Path<String>,
    query: Asked<Bare>,
) -> Result<Response, Problem> {
    let (number, done) = (id(&text)?, asked(query)?.done);
    let (page, _) = frame(&desk, &who, &headers, done.as_deref()).await?;
    let job = desk.job(number).await?;
    let mut tx = desk.screen().await?;
    let levels = crate::jobs::levels(&mut tx, number).await?;
    let covers = |hold: &Hold| {
        hold.account_id == job.account_id
            && hold.feature.as_ref().is_none_or(|feature| *feature == job.feature)
            && hold.data_class.as_ref().is_none_or(|class| *class == job.data_class)
    };
    let span = |hold: &Hold, to: Option<DateTime<Utc>>| Span { label: format!("hold {}", hold.id), from: hold.placed_at, to };
    let mut held: Vec<Span> = control::some_holds(&mut tx, Some(&job.account_id), None, ROWS)
        .await?
        .iter()
        .filter(|hold| covers(hold))
        .map(|hold| span(hold, hold.until))
        .collect();
    let past = control::past_holds(&mut tx, Some(&job.account_id), None, ROWS).await?;
    held.extend(past.iter().filter(|past| covers(&past.hold)).map(|past| span(&past.hold, past.released_at.or(past.hold.until))));
    let evidence = ledger::evidence(&mut tx, number).await?;
    let entries = evidence.as_ref().map(|evidence| evidence.entries.iter().filter_map(entry).collect()).unwrap_or_default();
    let certificate = evidence.is_some_and(|evidence| Certificate::new(number, evidence).is_ok());
    Ok(ok(job::job(&page, &job::JobPage { job, levels, holds: held, entries, certificate })))
}

/// An entry of the ledger in words: its event, and the fields that people ask for.
fn entry(proven: &ledger::Proven) -> Option<job::Entry> {
    let value: serde_json::Value = serde_json::from_str(&proven.entry).ok()?;
    let mut detail = Vec::new();
    for key in ["feature", "data_class", "attempts", "records_deleted", "records", "target", "level", "cancel_reason"] {
        match value.get(key) {
            None | Some(serde_json::Value::Null) => {}
            Some(serde_json::Value::String(text)) => detail.push(format!("{key} {text}")),
            Some(serde_json::Value::Object(parts)) => {
                let parts: Vec<String> = parts.iter().map(|(name, part)| format!("{name} {part}")).collect();
                detail.push(format!("{key}: {}", parts.join(", ")));
            }
            Some(other) => detail.push(format!("{key} {other}")),
        }
    }
    Some(job::Entry {
        index: i64::try_from(proven.index).ok(),
        at: value["at"].as_str()?.parse().ok()?,
        event: value["event"].as_str()?.to_owned(),
        detail: detail.join(", "),
    })
}

/// Whose account.
#[derive(Debug, Default, Deserialize)]
struct OfAccount {
    account: Option<String>,
    cursor: Option<String>,
    done: Option<String>,
}

impl OfAccount {
    fn account(&self) -> Option<&str> {
        self.account.as_deref().filter(|account| !account.is_empty())
    }

    fn before(&self) -> Result<Option<i64>, Problem> {
        self.cursor.as_deref().filter(|cursor| !cursor.is_empty()).map(id).transpose()
    }
}

async fn explain(State(desk): State<Desk>, who: Who, headers: HeaderMap, query: Asked<OfAccount>) -> Result<Response, Problem> {
    let query = asked(query)?;
    let (page, _) = frame(&desk, &who, &headers, query.done.as_deref()).await?;
    let Some(account) = query.account() else { return Ok(ok(pages::account::explain(&page, None))) };
    let explanation = desk.explain(account).await?;
    let mut tx = desk.screen().await?;
    let holds = control::some_holds(&mut tx, Some(account), None, ROWS).await?;
    let requests = list(&mut tx, &Filter { account: Some(account.to_owned()), limit: Some(ROWS), ..Filter::default() }).await?;
    Ok(ok(pages::account::explain(&page, Some(&pages::account::Account { explanation, holds, requests }))))
}

/// Until when.
#[derive(Debug, Default, Deserialize)]
struct Until {
    until: Option<String>,
    cursor: Option<String>,
}

async fn planned(State(desk): State<Desk>, who: Who, headers: HeaderMap, query: Asked<Until>) -> Result<Response, Problem> {
    let query = asked(query)?;
    let (page, status) = frame(&desk, &who, &headers, None).await?;
    let until = day("until", query.until.as_deref())?.unwrap_or_else(|| page.now.date_naive() + TimeDelta::days(1));
    let cursor = query.cursor.filter(|cursor| !cursor.is_empty());
    let further = cursor.is_some();
    let plan = PlanAsked { until: Some(midnight(until)? + TimeDelta::days(1)), cursor, limit: Some(ROWS), ..PlanAsked::default() };
    let answer = desk.plan(plan).await?;
    let classes = desk.figures().await.map(|figures| look::until(&figures, until));
    let data = plan::PlanPage {
        until,
        classes,
        first: answer.jobs,
        next: answer.next,
        further,
        meters: look::meters(&desk).await?,
        guard: answer.guard,
        paused: status.paused,
    };
    Ok(ok(plan::plan(&page, &data)))
}

/// A day as a form writes it.
fn day(key: &str, text: Option<&str>) -> Result<Option<NaiveDate>, Problem> {
    let parsed =
        |text: &str| text.parse().map_err(|_| Problem::bad_request(format!("{key} = {text:?} is no day: write it like 2027-01-31")));
    let day: Option<NaiveDate> = text.filter(|text| !text.is_empty()).map(parsed).transpose()?;
    let known = NaiveDate::MIN + TimeDelta::days(800_000)..NaiveDate::MAX - TimeDelta::days(800_000);
    match day {
        Some(day) if !known.contains(&day) => Err(Problem::bad_request(format!("{key} = {day} is too far from now"))),
        day => Ok(day),
    }
}

/// The first instant of a day in UTC.
fn midnight(day: NaiveDate) -> Result<DateTime<Utc>, Problem> {
    let at = day.and_hms_opt(0, 0, 0).map(|at| at.and_utc());
    at.ok_or_else(|| Problem::bad_request(format!("{day} is no day")))
}

async fn hold_list(State(desk): State<Desk>, who: Who, headers: HeaderMap, query: Asked<OfAccount>) -> Result<Response, Problem> {
    let query = asked(query)?;
    let (page, _) = frame(&desk, &who, &headers, query.done.as_deref()).await?;
    let mut tx = desk.screen().await?;
    let account = query.account();
    let most = i64::try_from(MOST_HOLDS).unwrap_or(i64::MAX);
    let mut in_force = control::some_holds(&mut tx, account, None, most + 1).await?;
    let past = control::past_holds(&mut tx, account, query.before()?, ROWS).await?;
    let more = in_force.len() > MOST_HOLDS;
    in_force.truncate(MOST_HOLDS);
    let (features, classes) = names(&desk);
    let older = next(&past, |past| past.hold.id.clone());
    let two_people = desk.config().approvals.hold_release == People::Two;
    let data = holds::Holds { account: account.unwrap_or_default().to_owned(), in_force, more, past, older, features, classes, two_people };
    Ok(ok(holds::holds(&page, &data)))
}

async fn request_list(State(desk): State<Desk>, who: Who, headers: HeaderMap, query: Asked<OfAccount>) -> Result<Response, Problem> {
    let query = asked(query)?;
    let (page, _) = frame(&desk, &who, &headers, query.done.as_deref()).await?;
    let account = query.account().map(str::to_owned);
    let filter = Filter { account: account.clone(), before: query.before()?, limit: Some(ROWS), ..Filter::default() };
    let found = list(&mut *desk.screen().await?, &filter).await?;
    let (features, classes) = names(&desk);
    let data = requests::Requests {
        account: account.unwrap_or_default(),
        older: next(&found, |request| request.id.clone()),
        requests: found,
        features,
        classes,
        two_people: desk.config().approvals.request == People::Two,
        within: state::within(desk.config().requests.fulfil_within),
    };
    Ok(ok(requests::requests(&page, &data)))
}

async fn acts(State(desk): State<Desk>, who: Who, headers: HeaderMap, query: Asked<ActsAsked>) -> Result<Response, Problem> {
    let query = asked(query)?;
    let (actor, act) = (query.actor.clone().unwrap_or_default(), query.act.clone().unwrap_or_default());
    let (page, status) = frame(&desk, &who, &headers, None).await?;
    let acts = crate::acts::list(&mut *desk.screen().await?, &ActsAsked { limit: Some(ROWS), ..query }.query()?).await?;
    let passes = [("look at what has changed", status.last_poll_at), ("full comparison", status.last_resync_at)];
    let data = activity::Activity {
        actor,
        act,
        kinds: forms::KINDS.map(str::to_owned).to_vec(),
        older: next(&acts, |act| act.id.clone()),
        acts,
        passes: passes.into_iter().filter_map(|(name, at)| Some((name.to_owned(), at?))).collect(),
    };
    Ok(ok(activity::activity(&page, &data)))
}

/// Which period.
#[derive(Debug, Default, Deserialize)]
struct Days {
    from: Option<String>,
    to: Option<String>,
}

async fn report(State(desk): State<Desk>, who: Who, headers: HeaderMap, query: Asked<Days>) -> Result<Response, Problem> {
    let query = asked(query)?;
    let (page, _) = frame(&desk, &who, &headers, None).await?;
    let (from, to) = (day("from", query.from.as_deref())?, day("to", query.to.as_deref())?);
    let tomorrow = page.now.date_naive() + TimeDelta::days(1);
    let period = reports::Period { from: from.unwrap_or(tomorrow - TimeDelta::days(30)), to: to.unwrap_or(tomorrow) };
    // To count all jobs of a month takes longer than a page that only asks which.
    let data = if from.is_none() && to.is_none() {
        None
    } else {
        let found = desk.report(&ReportAsked { from: Some(midnight(period.from)?), to: Some(midnight(period.to)?), format: None }).await?;
        Some(reports::Report { deletions: found.deletions, exceptions: found.exceptions.into_iter().take(500).collect() })
    };
    Ok(ok(reports::reports(&page, period, data.as_ref())))
}

/// Which job.
#[derive(Debug, Default, Deserialize)]
struct OfJob {
    job: Option<String>,
}

/// Leads to the certificate of the job that somebody has typed in.
async fn certificate(query: Asked<OfJob>) -> Result<Response, Problem> {
    let typed = asked(query)?.job.unwrap_or_default();
    let number = id(typed.trim().trim_start_matches('#'))?;
    Ok(Redirect::to(&links::certificate(&number.to_string())).into_response())
}

async fn asset(headers: HeaderMap, Path(name): Path<String>) -> Result<Response, Problem> {
    let found = assets::all().into_iter().find(|asset| asset.path.rsplit('/').next() == Some(name.as_str()));
    let asset = found.ok_or_else(|| Problem::not_found("there is no such file"))?;
    let known = headers.get(header::IF_NONE_MATCH).and_then(|known| known.to_str().ok()).is_some_and(|known| known.contains(asset.tag()));
    let mut response =
        if known { StatusCode::NOT_MODIFIED.into_response() } else { ([(header::CONTENT_TYPE, asset.kind)], asset.body).into_response() };
    // Asked for again each time, and sent again only when it is another.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response.headers_mut().insert(header::ETAG, HeaderValue::from_static(asset.tag()));
    Ok(response)
}
