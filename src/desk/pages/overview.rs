//! How it stands: is anything late, what comes next, what was done, and does anything need a person.

use chrono::{DateTime, TimeDelta, Utc};
use maud::{Markup, html};

use super::{
    Offer, Page, Section, layout, links,
    pieces::{Field, Form, ago, badge, count, folded, none, percent, plural, table, tile, time},
};
use crate::{
    desk::plot::{self, Bucket, Daily, Horizon, Lateness},
    jobs::{AHEAD, Ahead, Figures, LATENESS},
    outlook::Status,
};

/// What the overview shows.
#[derive(Debug)]
pub struct Overview {
    /// The answer of `status`.
    pub status: Status,
    /// Holds in force.
    pub holds: i64,
    /// Figures over all jobs; none while they are counted for the first time.
    pub drawn: Option<Drawn>,
    /// What should be looked at, and where.
    pub warnings: Vec<Warning>,
}

/// Figures over all jobs.
#[derive(Debug, Clone, PartialEq)]
pub struct Drawn {
    /// Jobs completed in the last 30 days.
    pub completed: i64,
    /// Of those, by their `delete_by`.
    pub on_time: i64,
    /// What lies ahead.
    pub horizon: Horizon,
    /// How long purges took.
    pub lateness: Lateness,
    /// What was deleted.
    pub daily: Daily,
}

/// Something that needs a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// What is so.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
    /// The page that shows it.
    pub href: String,
}

/// What lies ahead and what was done, from the figures over all jobs.
#[must_use]
pub fn drawn(figures: &Figures, allowances: Vec<f64>, next: Option<DateTime<Utc>>) -> Drawn {
    let name = |feature: &str, class: &str| format!("{feature}/{class}");
    let day = |away: i32| figures.today + TimeDelta::days(i64::from(away));
    let days = (0..AHEAD).map(|away| {
        let on = |held: bool| figures.ahead.iter().filter(move |ahead| ahead.day == Some(day(away)) && ahead.held == held);
        let classes = on(false).map(|ahead| (name(&ahead.feature, &ahead.data_class), ahead.jobs)).collect();
        plot::Day { day: day(away), classes, held: on(true).map(|ahead| ahead.jobs).sum() }
    });
    let jobs = |of: &dyn Fn(&Ahead) -> bool| figures.ahead.iter().filter(|ahead| of(ahead)).map(|ahead| ahead.jobs).sum::<i64>();
    let horizon = Horizon {
        overdue: jobs(&|ahead| ahead.day.is_none()),
        days: days.collect(),
        later: jobs(&|ahead| ahead.day >= Some(day(AHEAD))),
        next,
    };
    let within = |at: usize| figures.days.iter().filter_map(|day| day.lateness.get(at)).sum::<i64>();
    let bounds = LATENESS.iter().map(|bound| f64::from(i32::try_from(*bound).unwrap_or(i32::MAX))).chain([f64::INFINITY]);
    let buckets = bounds.enumerate().map(|(at, up_to)| Bucket { up_to, jobs: within(at) }).collect();
    let lateness = Lateness { buckets, allowances, period: "the last 30 days".to_owned() };
    let deleted = |away: i32| (day(away), figures.days.iter().filter(|d| d.day == day(away)).map(|d| d.records).sum());
    let completed: i64 = figures.days.iter().map(|day| day.completed).sum();
    let late: i64 = figures.days.iter().map(|day| day.late).sum();
    Drawn { completed, on_time: completed - late, horizon, lateness, daily: Daily { days: (-29..=0).map(deleted).collect() } }
}

/// The page at `/`.
#[must_use]
pub fn overview(page: &Page, data: &Overview) -> Markup {
    let jobs = &data.status.jobs;
    let body = html! {
        div class="head" {
            h1 { "Overview" }
            p class="lead" {
                @if data.drawn.is_none() { "The jobs are being counted; look again in a moment." }
                @else if jobs.overdue > 0 { (plural(jobs.overdue, "purge is", "purges are")) " overdue." }
                @else { "Nothing is overdue." }
            }
        }
        (tiles(page, data))
        @if !data.warnings.is_empty() {
            section class="card" {
                h2 { "Needs a person" }
                ul class="warnings" { @for warning in &data.warnings { li { strong { a href=(warning.href) { (warning.what) } } " " span { (warning.remedy) } } } }
            }
        }
        @if let Some(drawn) = &data.drawn {
            section class="card" { h2 { "What falls due" } (plot::horizon("horizon", &drawn.horizon, page.now)) }
            div class="pair" {
                section class="card" { h2 { "How long purges took" } (plot::lateness("lateness", &drawn.lateness)) }
                section class="card" { h2 { "Records deleted by day" } (plot::daily("daily", &drawn.daily)) }
            }
        }
        div class="pair" {
            @if data.drawn.is_some() { section class="card" { h2 { "Jobs" } (states(data)) } }
            section class="card" { h2 { "Requests" } (requests(data)) }
        }
        @if !data.status.quarantined.is_empty() {
            section class="card" {
                h2 { "Quarantine" }
                p { "These values of the source cannot be instants. They count as no starting point until somebody corrects them there." }
                (quarantined(page, data))
            }
        }
        @if page.may(Offer::Pause) && !data.status.paused {
            section class="card" { h2 { "Stop everything" } (stop_everything(page)) }
        }
    };
    layout(page, Section::Overview, "Overview", &body)
}

fn tiles(page: &Page, data: &Overview) -> Markup {
    let jobs = &data.status.jobs;
    let counted = |number: i64| if data.drawn.is_some() { count(number) } else { none() };
    let days = |from: usize, to: usize| {
        let days = data.drawn.iter().flat_map(|drawn| drawn.horizon.days.iter().take(to).skip(from));
        days.flat_map(|day| &day.classes).map(|(_, jobs)| jobs).sum::<i64>()
    };
    let (completed, on_time) = data.drawn.as_ref().map_or((0, 0), |drawn| (drawn.completed, drawn.on_time));
    let look = if jobs.overdue > 0 {
        "bad"
    } else if data.drawn.is_some() {
        "good"
    } else {
        ""
    };
    html! {
        section class="tiles" aria-label="Figures" {
            (tile(look, "Overdue", &counted(jobs.overdue), &oldest(page, data), Some(&links::with(links::JOBS, &[("overdue", "true")]))))
            (tile("", "Due today", &counted(days(0, 1)), &html! { (counted(days(1, 2))) " tomorrow, " (counted(days(0, 7))) " in 7 days" }, Some(links::PLAN)))
            (tile("", "On time, last 30 days", &html! { (percent(on_time, completed)) }, &html! { (plural(completed, "purge", "purges")) " completed" }, Some(links::REPORTS)))
            (tile("", "Held", &counted(jobs.held), &html! { (plural(data.holds, "hold", "holds")) " in force" }, Some(links::HOLDS)))
            (tile("", "Last look at the source", &html! { (looked(page, data)) }, &html! { @if let Some(at) = data.status.last_resync_at { "full comparison " (ago(at, page.now)) } @else { "never compared in full" } }, Some(links::ACTIVITY)))
        }
    }
}

/// The form that pauses all deletion; also on the page of the guard.
pub(super) fn stop_everything(page: &Page) -> Markup {
    let form = Form {
        name: "pause-all",
        action: links::PAUSE,
        button: "Pause all deletion",
        grave: true,
        confirm: Some("pause everything"),
        why: true,
        seen: None,
    };
    html! {
        p { "When the answer comes, no batch is under way any more. Nothing is lost: jobs wait, and their dates stand." }
        (folded("Pause all deletion", &form.with(page, &html! {})))
    }
}

fn oldest(page: &Page, data: &Overview) -> Markup {
    html! {
        @match data.status.earliest_unmet_deadline {
            Some(at) => { "earliest deadline " (ago(at, page.now)) }
            None => { "no open deadline" }
        }
    }
}

fn looked(page: &Page, data: &Overview) -> Markup {
    html! {
        @match data.status.last_poll_at {
            Some(at) => { (ago(at, page.now)) }
            None => { "never" }
        }
    }
}

fn states(data: &Overview) -> Markup {
    let jobs = &data.status.jobs;
    let rows = [
        ("scheduled", jobs.scheduled, "wait for their time"),
        ("running", jobs.running, "are being deleted now"),
        ("completed", jobs.completed, "a separate look found nothing left"),
        ("cancelled", jobs.cancelled, "voided before or while deleting"),
    ];
    let rows: Vec<Vec<Markup>> = rows
        .into_iter()
        .map(|(state, number, means)| {
            let href = links::with(links::JOBS, &[("state", state)]);
            vec![html! { a href=(href) { (badge(state, state)) } }, count(number), html! { span class="quiet" { (means) } }]
        })
        .collect();
    table("Jobs by state", &["state", "#jobs", "what it means"], &rows, "")
}

fn requests(data: &Overview) -> Markup {
    let tally = &data.status.requests;
    if (tally.waiting, tally.accepted) == (0, 0) {
        return html! { p class="empty" { "Nobody waits for a deletion on request." } };
    }
    html! {
        p {
            (plural(tally.waiting, "request waits", "requests wait")) " for another person, " (plural(tally.accepted, "is", "are")) " accepted and not fulfilled, "
            @if tally.overdue > 0 { strong class="alarm" { (plural(tally.overdue, "is", "are")) " overdue" } } @else { "none is overdue" }
            ". " a href=(links::REQUESTS) { "See the requests" }
        }
    }
}

fn quarantined(page: &Page, data: &Overview) -> Markup {
    let rows: Vec<Vec<Markup>> = data
        .status
        .quarantined
        .iter()
        .map(|q| {
            vec![
                super::pieces::account(&q.account_id),
                html! { (q.feature) "/" (q.data_class) },
                html! { (q.starting_point) },
                html! { (super::pieces::shown(&q.problem)) },
                time(q.first_seen_at, page.now),
            ]
        })
        .collect();
    table("Quarantine", &["account", "data class", "starting point", "what is wrong", "since"], &rows, "")
}

/// Fields that say what a pause or a hold covers.
pub(super) fn scope<'a>(
    stem: &'a [String; 3],
    account: &'a str,
    features: &[String],
    classes: &[String],
    account_required: bool,
) -> Markup {
    let field = Field::new(&stem[0], "account_id", "Account id").value(account);
    let field = if account_required { field.required() } else { field };
    html! {
        (field.input("text"))
        @if !features.is_empty() { (Field::new(&stem[1], "feature", "Feature").select("every feature", features)) }
        (Field::new(&stem[2], "data_class", "Data class").select("every data class", classes))
    }
}
