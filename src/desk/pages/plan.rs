//! What will be deleted until an instant: how many accounts and records in which place, and what the guard would say.

use chrono::{DateTime, Utc};
use maud::{Markup, html};

use super::{
    Page, Section, layout, links,
    pieces::{self, Field, badge, count, none, plural, shown, table, time},
};
use crate::{
    desk::plot::{self, Meter},
    outlook::Planned,
    safeguards::GuardState,
};

/// What the plan shows.
#[derive(Debug)]
pub struct PlanPage {
    /// Up to when.
    pub until: DateTime<Utc>,
    /// Purges that are due until then, held or not.
    pub jobs: i64,
    /// Of how many accounts.
    pub accounts: i64,
    /// Of the purges, those that are held.
    pub held: i64,
    /// By data class.
    pub classes: Vec<PlanClass>,
    /// The first of the purges.
    pub first: Vec<Planned>,
    /// What the guard would weigh.
    pub meters: Vec<Meter>,
    /// The guard now, with what it foresees.
    pub guard: GuardState,
    /// Everything is paused.
    pub paused: bool,
}

/// What would be deleted of one data class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanClass {
    /// `feature/name`.
    pub name: String,
    /// Purges that are not held.
    pub jobs: i64,
    /// Purges that are.
    pub held: i64,
    /// Records by target, of purges that are not held; none where they were not counted.
    pub targets: Vec<(String, Option<i64>)>,
}

/// The page at `/plan`.
#[must_use]
pub fn plan(page: &Page, data: &PlanPage) -> Markup {
    let until = data.until.format("%Y-%m-%dT%H:%M:%S").to_string();
    let going = data.jobs - data.held;
    let body = html! {
        div class="head" {
            h1 { "Plan" }
            p class="lead" {
                @if going == 0 { "Nothing will be deleted until " } @else { (plural(going, "purge", "purges")) " of " (plural(data.accounts, "account", "accounts")) " will run until " }
                (time(data.until, page.now)) "."
                @if data.held > 0 { " " (plural(data.held, "more is", "more are")) " held." }
            }
        }
        form class="filter" method="get" action=(links::PLAN) {
            (Field::new("until", "until", "Until (UTC)").value(&until).input("datetime-local"))
            button { "Show" }
            @for (word, name) in [("now", "now"), ("24h", "tomorrow"), ("7d", "7 days"), ("30d", "30 days")] { a href=(links::with(links::PLAN, &[("within", word)])) { (name) } }
        }
        div class="pair" {
            section class="card" { h2 { "What the guard says" } (verdict(page, data)) }
            section class="card" { h2 { "How much" } (classes(data)) }
        }
        section class="card" {
            h2 { "Which" }
            (which(page, &data.first))
            @let shown = i64::try_from(data.first.len()).unwrap_or(i64::MAX);
            @if data.jobs > shown { p class="quiet" { "The first " (count(shown)) " of " (count(data.jobs)) ". All of them: " code { "retentiond plan --at " (until) "Z -o json" } "." } }
        }
    };
    layout(page, Section::Plan, "Plan", &body)
}

fn verdict(page: &Page, data: &PlanPage) -> Markup {
    let over = data.meters.iter().any(|meter| meter.value > meter.limit);
    html! {
        p {
            @if data.guard.tripped { (badge("overdue", "tripped")) " Nothing new is deleted until somebody releases the guard." }
            @else if data.paused { (badge("hold", "paused")) " Nothing is deleted until somebody resumes." }
            @else if over { (badge("overdue", "would trip")) " It would stop these purges, unless somebody raises the limit or places holds." }
            @else { (badge("completed", "passes")) " It would let all of this begin." }
        }
        @if let (Some(forecast), Some(at)) = (&data.guard.forecast, data.guard.forecast_at) { p { "Foreseen for " (time(at, page.now)) ": " (shown(forecast)) } }
        @if data.meters.is_empty() { p class="quiet" { "No limit is configured." } }
        @for (at, meter) in data.meters.iter().enumerate() { (plot::meter(&format!("meter{at}"), meter)) }
    }
}

fn classes(data: &PlanPage) -> Markup {
    let mut rows = Vec::new();
    for class in &data.classes {
        for (at, (target, records)) in class.targets.iter().enumerate() {
            let first = at == 0;
            rows.push(vec![
                html! { @if first { (class.name) } },
                html! { @if first { (count(class.jobs)) } },
                html! { @if first { (count(class.held)) } },
                html! { span class="id" { (shown(target)) } },
                records.map_or_else(none, count),
            ]);
        }
    }
    table("Purges and records by data class", &["data class", "#purges", "#held", "target", "#records"], &rows, "No data class is configured.")
}

fn which(page: &Page, planned: &[Planned]) -> Markup {
    let rows: Vec<Vec<Markup>> = planned
        .iter()
        .map(|job| {
            let records: Option<i64> = job.targets.iter().map(|target| target.records).sum();
            vec![
                pieces::account(&job.account_id),
                html! { (job.feature) "/" (job.data_class) },
                html! { (job.starting_point) " " (time(job.started_at, page.now)) },
                time(job.retain_until, page.now),
                time(job.delete_by, page.now),
                records.map_or_else(none, count),
                html! { @if job.held { (badge("hold", "held")) } @else if job.due { (badge("running", "due")) } @else { (badge("scheduled", "later")) } },
            ]
        })
        .collect();
    table(
        "Purges in the order in which they fall due",
        &["account", "data class", "starting point", "retain until", "delete by", "#records", "state"],
        &rows,
        "Nothing falls due until then.",
    )
}
