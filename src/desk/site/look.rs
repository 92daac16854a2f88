//! What the overview, the plan and the page of the guard read: figures over all jobs, what the guard counts, what needs a person.

use axum::{extract::State, http::HeaderMap, response::Response};
use chrono::{DateTime, NaiveDate, TimeDelta, Utc};

use super::{Asked, Bare, asked, frame, names, ok};
use crate::{
    config::People,
    desk::{
        Desk, Who,
        pages::{guard, links, overview, plan::PlanClass},
        plot::Meter,
        problem::Problem,
    },
    jobs::{
        Figures,
        page::{Order, Query, page},
    },
    outlook::Status,
    safeguards::{self, control},
};

/// Purges that are looked through for the first that is not held.
const NEXT: i64 = 50;

pub(super) async fn overview(State(desk): State<Desk>, who: Who, headers: HeaderMap) -> Result<Response, Problem> {
    let (frame, status) = frame(&desk, &who, &headers, None).await?;
    let figures = desk.figures().await;
    let mut tx = desk.screen().await?;
    let holds = control::count_holds(&mut tx).await?;
    let first = page(&mut tx, &Query { order: Order::Due, limit: NEXT, ..Query::default() }).await?;
    let next = first.jobs.iter().find(|job| !job.held).map(|job| job.retain_until);
    let drawn = figures.map(|figures| overview::drawn(&figures, allowances(&desk, frame.now), next));
    let warnings = warnings(&desk, &status, frame.now);
    Ok(ok(overview::overview(&frame, &overview::Overview { status, holds, drawn, warnings })))
}

/// Seconds between `retain_until` and `delete_by`, each once, as they are for a period that starts today: months differ.
fn allowances(desk: &Desk, today: DateTime<Utc>) -> Vec<f64> {
    let dates = desk.config().data_classes.iter().filter_map(|class| class.dates(today));
    let mut seconds: Vec<i64> = dates.map(|(retain_until, delete_by)| (delete_by - retain_until).num_seconds()).collect();
    seconds.sort_unstable();
    seconds.dedup();
    seconds.into_iter().map(|seconds| f64::from(i32::try_from(seconds).unwrap_or(i32::MAX))).collect()
}

fn warnings(desk: &Desk, status: &Status, now: DateTime<Utc>) -> Vec<overview::Warning> {
    let mut found = Vec::new();
    let mut say = |what: String, remedy: &str, href: String| found.push(overview::Warning { what, remedy: remedy.to_owned(), href });
    let some = |number: i64, one: &str, more: &str| format!("{number} {}", if number == 1 { one } else { more });
    if status.jobs.overdue > 0 {
        let overdue = links::with(links::JOBS, &[("overdue", "true")]);
        say(some(status.jobs.overdue, "purge is overdue", "purges are overdue"), "Each says what is in its way.", overdue);
    }
    if status.requests.overdue > 0 {
        let words = some(status.requests.overdue, "request is overdue", "requests are overdue");
        say(words, "See what is in the way of their jobs.", links::REQUESTS.to_owned());
    }
    if status.requests.waiting > 0 {
        let words = some(status.requests.waiting, "request waits", "requests wait");
        say(words, "Another person has to accept or withdraw it.", links::REQUESTS.to_owned());
    }
    if let Some(forecast) = status.guard.forecast.as_deref().filter(|_| !status.guard.tripped) {
        say("The guard is going to trip".to_owned(), forecast, links::GUARD.to_owned());
    }
    let patience = TimeDelta::from_std(desk.config().poll.interval * 3 + std::time::Duration::from_mins(1)).unwrap_or(TimeDelta::MAX);
    if status.last_poll_at.is_none_or(|at| now - at > patience) {
        say(
            "The source was not looked at in time".to_owned(),
            "New starting points are not seen. The log says why.",
            links::SYSTEM.to_owned(),
        );
    }
    found
}

/// What is scheduled until the end of a day, by data class.
pub(super) fn until(figures: &Figures, day: NaiveDate) -> Vec<PlanClass> {
    let mut classes: Vec<PlanClass> = Vec::new();
    for ahead in figures.ahead.iter().filter(|ahead| ahead.day.is_none_or(|at| at <= day)) {
        let name = format!("{}/{}", ahead.feature, ahead.data_class);
        let at = classes.iter().position(|class| class.name == name).unwrap_or_else(|| {
            classes.push(PlanClass { name, jobs: 0, held: 0 });
            classes.len() - 1
        });
        if let Some(class) = classes.get_mut(at) {
            *if ahead.held { &mut class.held } else { &mut class.jobs } += ahead.jobs;
        }
    }
    classes.sort_by(|a, b| a.name.cmp(&b.name));
    classes
}

/// What counts against the tightest limit of the guard now.
pub(super) async fn meters(desk: &Desk) -> Result<Vec<Meter>, Problem> {
    let limits = &desk.config().guard;
    let taken = safeguards::taken(&mut *desk.screen().await?, limits).await?;
    let unit = format!("accounts within {}", humantime::format_duration(limits.window));
    let meter = |(limit, name): (i64, &str)| Meter { name: name.to_owned(), value: taken.accounts, limit, unit };
    Ok(taken.most.map(meter).into_iter().collect())
}

pub(super) async fn guarded(State(desk): State<Desk>, who: Who, headers: HeaderMap, query: Asked<Bare>) -> Result<Response, Problem> {
    let (page, status) = frame(&desk, &who, &headers, asked(query)?.done.as_deref()).await?;
    let limits = &desk.config().guard;
    let text = |key: &str, value: String| (format!("guard.{key}"), value);
    let percent = |share: f64| format!("{}%", share * 100.0);
    let data = guard::GuardPage {
        due: desk.figures().await.map(|figures| figures.jobs.due),
        limits: vec![
            text("window", humantime::format_duration(limits.window).to_string()),
            text("max_accounts", limits.max_accounts.map_or_else(|| "none".to_owned(), |most| most.to_string())),
            text("max_share", percent(limits.max_share)),
            text("share_floor", limits.share_floor.to_string()),
            text("max_shrink", percent(limits.max_shrink)),
        ],
        meters: meters(&desk).await?,
        two_people: desk.config().approvals.guard_release == People::Two,
        pauses: control::pauses(&mut *desk.screen().await?).await?,
        classes: names(&desk).1,
        guard: status.guard,
    };
    Ok(ok(guard::guard(&page, &data)))
}
