//! The list of jobs: found by state, data class and account, the newest first. All of the filter is in the address.

use maud::{Markup, html};

use super::{
    Page, Section, layout, links,
    pieces::{self, Field, badge, count, paging, table, time},
};
use crate::jobs::{Job, Tally};

/// What the list shows.
#[derive(Debug)]
pub struct Jobs {
    /// What was asked for.
    pub asked: Asked,
    /// Every job, counted.
    pub tally: Tally,
    /// The data classes there are, to choose from.
    pub classes: Vec<String>,
    /// This part of the list.
    pub jobs: Vec<Job>,
    /// This is not the first part.
    pub further: bool,
    /// Where the list goes on, as the value of `cursor`. There may be one behind an empty part: only so many jobs are looked at for one.
    pub next: Option<String>,
}

/// The filter, as it was written; empty is everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// One state, or `held`.
    pub state: String,
    /// One data class.
    pub data_class: String,
    /// One account.
    pub account: String,
    /// Only what is overdue.
    pub overdue: bool,
    /// Only what is held.
    pub held: bool,
    /// `due`: what is open, the earliest `retain_until` first; else the newest first.
    pub order: String,
}

impl Asked {
    fn link(&self, more: (&str, &str)) -> String {
        let said = |flag: bool| if flag { "true" } else { "" };
        let query = [
            ("state", self.state.as_str()),
            ("data_class", &self.data_class),
            ("account", &self.account),
            ("overdue", said(self.overdue)),
            ("held", said(self.held)),
            ("order", &self.order),
            more,
        ];
        links::with(links::JOBS, &query)
    }
}

/// The page at `/jobs`.
#[must_use]
pub fn jobs(page: &Page, data: &Jobs) -> Markup {
    let asked = &data.asked;
    let body = html! {
        div class="head" { h1 { "Jobs" } p class="lead" { "One purge of one data class of one account each." } }
        nav class="chips" aria-label="Jobs by state" {
            @for (state, number) in [
                ("", None),
                ("scheduled", Some(data.tally.scheduled)),
                ("running", Some(data.tally.running)),
                ("completed", Some(data.tally.completed)),
                ("cancelled", Some(data.tally.cancelled)),
            ] {
                @let here = !asked.overdue && !asked.held && asked.state == state;
                a class="chip" href=(Asked { state: state.to_owned(), overdue: false, held: false, ..asked.clone() }.link(("", ""))) aria-current=[here.then_some("true")] {
                    (if state.is_empty() { "all" } else { state }) @if let Some(number) = number { " " span class="n" { (count(number)) } }
                }
            }
            a class=(if data.tally.overdue > 0 { "chip alarm" } else { "chip" }) href=(Asked { state: String::new(), overdue: true, held: false, ..asked.clone() }.link(("", "")))
                aria-current=[asked.overdue.then_some("true")] { "overdue " span class="n" { (count(data.tally.overdue)) } }
            a class="chip" href=(Asked { state: String::new(), overdue: false, held: true, ..asked.clone() }.link(("", "")))
                aria-current=[asked.held.then_some("true")] { "held " span class="n" { (count(data.tally.held)) } }
        }
        form class="filter" method="get" action=(links::JOBS) {
            (Field::new("f-state", "state", "State").value(&asked.state).select("every state", &["open", "scheduled", "running", "completed", "cancelled"].map(str::to_owned)))
            (Field::new("f-class", "data_class", "Data class").value(&asked.data_class).select("every data class", &data.classes))
            (Field::new("f-account", "account", "Account id").value(&asked.account).input("text"))
            (Field::new("f-order", "order", "Order").value(&asked.order).select("newest first", &["due".to_owned()]))
            (Field::new("f-overdue", "overdue", "only overdue").value(if asked.overdue { "true" } else { "" }).tick())
            (Field::new("f-held", "held", "only held").value(if asked.held { "true" } else { "" }).tick())
            button { "Filter" }
            @if *asked != Asked::default() { a href=(links::JOBS) { "All jobs" } }
        }
        (list(page, &data.jobs, if *asked == Asked::default() { "There are no jobs. A job appears when a starting point stands for an account." } else { "No job here is like that." }))
        @let (first, next) = (data.further.then(|| asked.link(("", ""))), data.next.as_deref().map(|at| asked.link(("cursor", at))));
        (paging(first.as_deref(), next.as_deref()))
    };
    layout(page, Section::Jobs, "Jobs", &body)
}

/// Jobs as rows; also on the page of an account.
pub(super) fn list(page: &Page, jobs: &[Job], empty: &str) -> Markup {
    let rows: Vec<Vec<Markup>> = jobs
        .iter()
        .map(|job| {
            vec![
                pieces::job(&job.id),
                state(job),
                html! { (job.feature) "/" (job.data_class) },
                pieces::account(&job.account_id),
                time(job.retain_until, page.now),
                deadline(page, job),
                count(job.records_deleted.0.values().sum()),
                what_now(job),
            ]
        })
        .collect();
    table("Jobs", &["job", "state", "data class", "account", "retain until", "delete by", "#deleted", "in its way"], &rows, empty)
}

/// The state, and what makes it special.
pub(super) fn state(job: &Job) -> Markup {
    html! {
        (badge(&job.state, &job.state))
        @if job.overdue { " " (badge("overdue", "overdue")) }
        @if job.held { " " (badge("hold", "held")) }
    }
}

/// When it must be over; in red when it was not, stronger when little time is left.
fn deadline(page: &Page, job: &Job) -> Markup {
    let open = job.state == "scheduled" || job.state == "running";
    let whole = job.delete_by - job.retain_until;
    let late = job.completed_at.is_some_and(|at| at > job.delete_by) || job.overdue;
    let soon = open && !job.held && job.delete_by - page.now < whole / 4;
    html! { span class=[if late { Some("alarm") } else { soon.then_some("soon") }] { (time(job.delete_by, page.now)) } }
}

fn what_now(job: &Job) -> Markup {
    html! {
        @if let Some(reason) = &job.cancel_reason { (reason) }
        @else if let Some(blocked) = &job.blocked_by { (blocked) }
        @else if job.last_error.is_some() { "error, " (pieces::plural(i64::from(job.attempts), "attempt", "attempts")) }
        @else { (pieces::none()) }
    }
}
