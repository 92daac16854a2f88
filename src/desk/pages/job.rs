//! One job: its dates, what it did in each place, what proves it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use maud::{Markup, html};

use super::{
    Offer, Page, Section, jobs, layout, links,
    pieces::{self, Form, count, facts, folded, maybe, shown, table, time},
};
use crate::{
    desk::api::etag,
    desk::plot::{self, Kind, Lifeline, Mark, Span},
    jobs::Job,
};

/// What the page of a job shows.
#[derive(Debug)]
pub struct JobPage {
    /// The job.
    pub job: Job,
    /// Levels it has reached beyond the empty look, with when that was found (RFC 3339).
    pub levels: BTreeMap<String, String>,
    /// Holds that matched it, in force and past.
    pub holds: Vec<Span>,
    /// What the ledger tells of it, the oldest first.
    pub entries: Vec<Entry>,
    /// There is a certificate for it.
    pub certificate: bool,
}

/// One entry of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its number; none while it is pending.
    pub index: Option<i64>,
    /// When.
    pub at: DateTime<Utc>,
    /// What it tells: `job.scheduled`.
    pub event: String,
    /// More of it, in words.
    pub detail: String,
}

/// The page at `/jobs/17`.
#[must_use]
pub fn job(page: &Page, data: &JobPage) -> Markup {
    let job = &data.job;
    let title = format!("Job {}", job.id);
    let body = html! {
        div class="head" {
            h1 { "Job " (job.id) }
            p class="lead" { (jobs::state(job)) " " (job.feature) "/" (job.data_class) " of account " (pieces::account(&job.account_id)) }
        }
        section class="card" { h2 { "Its life" } (plot::lifeline("life", &life(data), page.now)) }
        div class="pair" {
            section class="card" { h2 { "Dates and reasons" } (dates(page, job)) }
            section class="card" { h2 { "What it deleted" } (targets(job)) }
        }
        section class="card" {
            h2 { "Evidence" }
            @if data.certificate {
                p { a class="button" href=(links::certificate(&job.id)) download { "Download the certificate" } }
                p class="quiet" { "Anybody can check it without this daemon: " code { "retentiond certificate verify FILE" } "." }
            } @else {
                p class="empty" { "There is no certificate yet: it is there when the job is over and its entries are in a signed checkpoint." }
            }
            (entries(page, &data.entries))
        }
        @if page.may(Offer::RetryJob) && (job.state == "scheduled" || job.state == "running") && job.attempts > 0 {
            section class="card" {
                h2 { "Try again" }
                p { "Ends the wait after a failed attempt. It brings nothing forward: nothing is deleted before its time." }
                (folded("Try again now", &Form { name: "retry", action: &links::job_retry(&job.id), button: "Try again", grave: false, confirm: None, why: false, seen: None }.with(page, &html! {})))
            }
        }
        @if page.may(Offer::CloseJob) && job.state == "scheduled" && job.attempts > 0 && job.retain_until <= page.now {
            section class="card" {
                h2 { "Give up" }
                p { "For a purge that nobody can ever verify, because a store is gone. It ends as unverifiable, and no certificate ever says that its records were deleted." }
                (folded("Close the job", &Form { name: "close", action: &links::job_close(&job.id), button: "Close the job", grave: true, confirm: Some(&job.account_id), why: true, seen: Some(etag(job)) }.with(page, &html! {})))
            }
        }
    };
    layout(page, Section::Jobs, &title, &body)
}

fn dates(page: &Page, job: &Job) -> Markup {
    let now = page.now;
    let text = |text: &Option<String>| text.as_ref().map_or_else(pieces::none, |text| html! { (shown(text)) });
    let mut rows = vec![
        ("starting point", html! { (job.starting_point) " " (time(job.started_at, now)) }),
        ("retain until", time(job.retain_until, now)),
        ("delete by", time(job.delete_by, now)),
        ("scheduled", time(job.created_at, now)),
        ("purge began", maybe(job.purge_began_at, now)),
        ("attempts", count(i64::from(job.attempts))),
    ];
    if let Some(at) = job.completed_at {
        rows.push(("completed", time(at, now)));
        rows.extend(data_gone(job, now));
    }
    if let Some(at) = job.cancelled_at {
        rows.push(("cancelled", time(at, now)));
        rows.push(("why", text(&job.cancel_reason)));
    }
    if job.blocked_by.is_some() {
        rows.push(("in its way", text(&job.blocked_by)));
    }
    if job.last_error.is_some() {
        rows.push(("last error", html! { code class="id" { (text(&job.last_error)) } }));
    }
    rows.push(("policy", html! { code class="id" { (job.policy) } }));
    facts(&rows)
}

fn data_gone(job: &Job, now: DateTime<Utc>) -> Option<(&'static str, Markup)> {
    job.last_copy_gone_at.map(|at| ("last copy gone", time(at, now)))
}

fn targets(job: &Job) -> Markup {
    let rows: Vec<Vec<Markup>> = job
        .records_deleted
        .0
        .iter()
        .map(|(target, records)| {
            let outcome = job.outcomes.0.get(target).map_or_else(pieces::none, |outcome| html! { (outcome) });
            vec![html! { span class="id" { (shown(target)) } }, count(*records), outcome]
        })
        .collect();
    html! {
        (table("What it deleted in each place", &["target", "#deleted", "outcome"], &rows, "It has no targets."))
        @if !job.count_exact { p class="quiet" { "Counts are lower bounds: a store outside the main database counts what it can." } }
    }
}

fn entries(page: &Page, entries: &[Entry]) -> Markup {
    let rows: Vec<Vec<Markup>> = entries
        .iter()
        .map(|entry| {
            let index = entry.index.map_or_else(|| html! { span class="quiet" { "pending" } }, count);
            vec![index, time(entry.at, page.now), html! { (entry.event) }, html! { (shown(&entry.detail)) }]
        })
        .collect();
    table("Entries of the ledger", &["#entry", "when", "event", "detail"], &rows, "The ledger has no entry of it yet.")
}

fn life(data: &JobPage) -> Lifeline {
    let job = &data.job;
    let mark = |at: DateTime<Utc>, what: &str, kind| Mark { at, what: what.to_owned(), kind };
    let mut marks = vec![mark(job.created_at, "scheduled", Kind::Note)];
    marks.extend(job.purge_began_at.map(|at| mark(at, "purge began", Kind::Attempt)));
    marks.extend(job.completed_at.map(|at| mark(at, "completed", Kind::Done)));
    marks.extend(job.cancelled_at.map(|at| mark(at, "cancelled", Kind::Wrong)));
    let level = |(level, at): (&String, &String)| Some(mark(at.parse().ok()?, &format!("level: {level}"), Kind::Done));
    marks.extend(data.levels.iter().filter_map(level));
    marks.sort_by_key(|mark| mark.at);
    Lifeline {
        started_at: job.started_at,
        retain_until: job.retain_until,
        delete_by: job.delete_by,
        holds: data.holds.clone(),
        marks,
        open: job.completed_at.is_none() && job.cancelled_at.is_none(),
    }
}
