//! Where the forms of the pages go. Each becomes an act with the role, the reason and the key that the API asks for; what was typed to confirm is checked here.

use std::fmt::Write as _;

use axum::{
    Form, Router,
    extract::{Path, Query, State, rejection::FormRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};
use chrono::{DateTime, NaiveDateTime, Utc};
use serde::Deserialize;

use super::{bare, html};
use crate::{
    acts::{Act, Surface},
    desk::{
        Desk, Who,
        api::id,
        auth,
        pages::{links, sign_in},
        problem::Problem,
        submit::{Wish, submit},
    },
    requests::{Filter, list},
    safeguards::control::{self, Scope},
};

/// The acts that there are, in the words of the command line.
pub(super) const KINDS: [&str; 11] = [
    "hold place",
    "hold release",
    "pause",
    "resume",
    "guard release",
    "policy accept",
    "jobs retry",
    "jobs close",
    "request",
    "request approve",
    "request withdraw",
];

pub(super) fn routes() -> Router<Desk> {
    Router::new()
        .route(links::SIGN_IN, get(ask).post(enter))
        .route(links::SIGN_OUT, post(leave))
        .route(links::HOLDS, post(place_hold))
        .route("/holds/{id}/release", post(release_hold))
        .route(links::PAUSE, post(pause))
        .route(links::RESUME, post(resume))
        .route(links::GUARD_RELEASE, post(release_guard))
        .route(links::POLICY_ACCEPT, post(accept_policy))
        .route("/jobs/{id}/retry", post(retry))
        .route("/jobs/{id}/close", post(close))
        .route(links::REQUESTS, post(place_request))
        .route("/requests/{id}/approve", post(approve))
        .route("/requests/{id}/withdraw", post(withdraw))
}

/// What the page that follows an act says.
pub(super) fn said(done: &str) -> Option<&'static str> {
    Some(match done {
        "hold place" => "The hold is in force: nothing that it covers is deleted any more.",
        "hold release" => "The hold is released.",
        "pause" => "It is paused: nothing of it is deleted any more.",
        "resume" => "It goes on.",
        "guard release" => "The guard is released: what waited may begin.",
        "policy accept" => "The policy is in force.",
        "jobs retry" => "The job is tried again now, if it is due.",
        "jobs close" => "The job is closed, and nothing says that its records were deleted.",
        "request" => "The request is on record.",
        "request approve" => "The request is accepted.",
        "request withdraw" => "The request is withdrawn: nothing is deleted for it any more.",
        "waits" => "Your approval is on record. Another person has to do the same within 24 h; nothing was changed yet.",
        _ => return None,
    })
}

/// What a form may hold.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Filled {
    account_id: String,
    feature: String,
    data_class: String,
    until: String,
    reason: String,
    confirm: String,
    idempotency_key: String,
    seen: String,
}

type Sent = Result<Form<Filled>, FormRejection>;

fn sent(form: Sent) -> Result<Filled, Problem> {
    form.map(|Form(filled)| filled).map_err(|why| Problem::bad_request(why.body_text()))
}

impl Filled {
    fn scope(&self) -> Scope {
        let given = |text: &String| (!text.is_empty()).then(|| text.clone());
        Scope { account: given(&self.account_id), feature: given(&self.feature), data_class: given(&self.data_class) }
    }

    /// Nothing is done by a click alone.
    fn confirms(&self, word: &str) -> Result<(), Problem> {
        if self.confirm == word {
            return Ok(());
        }
        Err(Problem::unprocessable(format!("what was typed to confirm is {:?} and not {word:?}", self.confirm)))
    }

    fn until(&self) -> Result<Option<DateTime<Utc>>, Problem> {
        if self.until.is_empty() {
            return Ok(None);
        }
        let formats = ["%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M"];
        let until = formats.iter().find_map(|format| NaiveDateTime::parse_from_str(&self.until, format).ok());
        let wrong = || Problem::unprocessable(format!("until = {:?} is no instant: write it like 2027-01-31T12:00", self.until));
        until.map(|until| Some(until.and_utc())).ok_or_else(wrong)
    }

    /// Everything but the key, as bytes: the same key with something else is another act.
    fn bytes(&self, act: &Act) -> Vec<u8> {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = write!(text, "page {act:?} {:?}", (&self.reason, &self.until, &self.seen));
        text.into_bytes()
    }
}

/// Does it, and leads to the page that shows what came of it.
async fn act(desk: &Desk, who: &Who, filled: &Filled, act: Act, back: &str) -> Result<Response, Problem> {
    let (asked, kind) = (filled.bytes(&act), act.as_str());
    let wish = Wish {
        act,
        reason: filled.reason.trim().to_owned(),
        surface: Surface::Page,
        key: filled.idempotency_key.clone(),
        seen: Some(filled.seen.clone()).filter(|seen| !seen.is_empty()),
        asked,
    };
    let answer = submit(desk, who, wish).await?;
    let done = if answer.status == StatusCode::ACCEPTED { "waits" } else { kind };
    Ok(Redirect::to(&links::with(back, &[("done", done)])).into_response())
}

async fn place_hold(State(desk): State<Desk>, who: Who, form: Sent) -> Result<Response, Problem> {
    let filled = sent(form)?;
    let wish = Act::PlaceHold { scope: filled.scope(), until: filled.until()? };
    act(&desk, &who, &filled, wish, links::HOLDS).await
}

async fn release_hold(State(desk): State<Desk>, who: Who, Path(text): Path<String>, form: Sent) -> Result<Response, Problem> {
    let (id, filled) = (id(&text)?, sent(form)?);
    if let Some(hold) = control::hold(&mut *desk.screen().await?, id).await? {
        filled.confirms(&hold.account_id)?;
    }
    act(&desk, &who, &filled, Act::ReleaseHold { id }, links::HOLDS).await
}

async fn pause(State(desk): State<Desk>, who: Who, form: Sent) -> Result<Response, Problem> {
    let filled = sent(form)?;
    let scope = Scope { feature: None, ..filled.scope() };
    if scope.account.is_none() && scope.data_class.is_none() {
        filled.confirms("pause everything")?;
    }
    act(&desk, &who, &filled, Act::Pause { scope }, links::GUARD).await
}

async fn resume(State(desk): State<Desk>, who: Who, form: Sent) -> Result<Response, Problem> {
    let filled = sent(form)?;
    let scope = Scope { feature: None, ..filled.scope() };
    if scope.account.is_none() && scope.data_class.is_none() {
        filled.confirms("resume")?;
    }
    act(&desk, &who, &filled, Act::Resume { scope }, links::GUARD).await
}

async fn release_guard(State(desk): State<Desk>, who: Who, form: Sent) -> Result<Response, Problem> {
    let filled = sent(form)?;
    filled.confirms("release")?;
    act(&desk, &who, &filled, Act::ReleaseGuard, links::GUARD).await
}

async fn accept_policy(State(desk): State<Desk>, who: Who, form: Sent) -> Result<Response, Problem> {
    let filled = sent(form)?;
    filled.confirms("accept")?;
    act(&desk, &who, &filled, Act::AcceptPolicy, links::SYSTEM).await
}

async fn retry(State(desk): State<Desk>, who: Who, Path(text): Path<String>, form: Sent) -> Result<Response, Problem> {
    act(&desk, &who, &sent(form)?, Act::RetryJob { id: id(&text)? }, &links::job(&text)).await
}

async fn close(State(desk): State<Desk>, who: Who, Path(text): Path<String>, form: Sent) -> Result<Response, Problem> {
    let (id, filled) = (id(&text)?, sent(form)?);
    filled.confirms(&desk.job(id).await?.account_id)?;
    act(&desk, &who, &filled, Act::CloseJob { id }, &links::job(&text)).await
}

async fn place_request(State(desk): State<Desk>, who: Who, form: Sent) -> Result<Response, Problem> {
    let filled = sent(form)?;
    filled.confirms(&filled.account_id)?;
    act(&desk, &who, &filled, Act::PlaceRequest { scope: filled.scope() }, links::REQUESTS).await
}

async fn approve(State(desk): State<Desk>, who: Who, Path(text): Path<String>, form: Sent) -> Result<Response, Problem> {
    let (id, filled) = (id(&text)?, sent(form)?);
    if let Some(request) = list(&mut *desk.screen().await?, &Filter { id: Some(id), ..Filter::default() }).await?.pop() {
        filled.confirms(&request.account_id)?;
    }
    act(&desk, &who, &filled, Act::ApproveRequest { id }, links::REQUESTS).await
}

async fn withdraw(State(desk): State<Desk>, who: Who, Path(text): Path<String>, form: Sent) -> Result<Response, Problem> {
    act(&desk, &who, &sent(form)?, Act::WithdrawRequest { id: id(&text)? }, links::REQUESTS).await
}

/// Where to go on after signing in, and the token.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    back: String,
    token: String,
}

/// A path of ours, and nothing else.
fn way_back(back: &str) -> &str {
    let ours = back.starts_with('/')
        && !back.starts_with("//")
        && !back.contains('\\')
        && !back.contains(|c: char| c.is_control() || c.is_whitespace())
        && !back.starts_with(links::SIGN_IN);
    if ours { back } else { links::OVERVIEW }
}

async fn ask(Query(entry): Query<Entry>) -> Response {
    html(StatusCode::OK, sign_in::sign_in(&bare(auth::now(), None), way_back(&entry.back), None))
}

async fn enter(State(desk): State<Desk>, headers: HeaderMap, Form(entry): Form<Entry>) -> Response {
    let (back, token) = (way_back(&entry.back), entry.token.trim());
    match auth::known(desk.config(), token) {
        Ok(_) => with_cookie(&headers, token, "", Redirect::to(back)),
        Err(problem) => html(StatusCode::UNAUTHORIZED, sign_in::sign_in(&bare(auth::now(), None), back, Some(&problem.detail))),
    }
}

async fn leave(headers: HeaderMap) -> Response {
    with_cookie(&headers, "", "; Max-Age=0", Redirect::to(links::SIGN_IN))
}

/// No script can read it, and no page of another site can send an act with it.
fn with_cookie(headers: &HeaderMap, token: &str, more: &str, to: Redirect) -> Response {
    let origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok()).unwrap_or_default();
    let secure = if origin.starts_with("https://") { "; Secure" } else { "" };
    let mut response = to.into_response();
    if let Ok(mut value) = HeaderValue::from_str(&format!("{}={token}; Path=/; HttpOnly; SameSite=Lax{secure}{more}", auth::COOKIE)) {
        value.set_sensitive(true);
        response.headers_mut().insert(header::SET_COOKIE, value);
    }
    response
}
