//! What will be deleted until an instant: how many accounts and records in which place, and what the guard would say.

use std::collections::BTreeMap;

use chrono::{NaiveDate, TimeDelta};
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
    /// The last day that is planned for, in UTC.
    pub until: NaiveDate,
    /// By data class; none while the jobs are counted for the first time.
    pub classes: Option<Vec<PlanClass>>,
    /// The first of the purges, held or not, in the order in which they fall due.
    pub first: Vec<Planned>,
    /// Where the list goes on, as the value of `cursor`.
    pub next: Option<String>,
    /// This is not the first part.
    pub further: bool,
    /// What the guard weighs now.
    pub meters: Vec<Meter>,
    /// The guard now, with what it foresees.
    pub guard: GuardState,
    /// Everything is paused.
    pub paused: bool,
}

/// What is scheduled of one data class until then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanClass {
    /// `feature/name`.
    pub name: String,
    /// Purges that are not held.
    pub jobs: i64,
    /// Purges that are.
    pub held: i64,
}

/// The page at `/plan`.
#[must_use]
pub fn plan(page: &Page, data: &PlanPage) -> Markup {
    let until = data.until.to_string();
    let sum = |of: fn(&PlanClass) -> i64| data.classes.iter().flatten().map(of).sum::<i64>();
    let (going, held) = (sum(|class| class.jobs), sum(|class| class.held));
    let link = |more: &[(&str, &str)]| links::with(links::PLAN, &[&[("until", until.as_str())], more].concat());
    let body = html! {
        div class="head" {
            h1 { "Plan" }
            p class="lead" {
                @if data.classes.is_none() { "The jobs are being counted; look again in a moment." }
                @else if going == 0 { "Nothing is going to be deleted until the end of " (until) " (UTC)." }
                @else { (plural(going, "purge is", "purges are")) " going to run until the end of " (until) " (UTC)." }
                @if held > 0 { " " (plural(held, "more is", "more are")) " held." }
            }
        }
        form class="filter" method="get" action=(links::PLAN) {
            (Field::new("until", "until", "Until (UTC day)").value(&until).input("date"))
            button { "Show" }
            @for (days, name) in [(0, "today"), (1, "tomorrow"), (7, "7 days"), (30, "30 days")] {
                @let day = (page.now.date_naive() + TimeDelta::days(days)).to_string();
                a href=(links::with(links::PLAN, &[("until", &day)])) aria-current=[(day == until).then_some("true")] { (name) }
            }
        }
        div class="pair" {
            section class="card" { h2 { "What the guard says" } (verdict(page, data)) }
            section class="card" { h2 { "How much" } (classes(data)) (targets(data)) }
        }
        section class="card" {
            h2 { "Which" }
            (which(page, &data.first))
            (pieces::paging(data.further.then(|| link(&[])).as_deref(), data.next.as_deref().map(|at| link(&[("cursor", at)])).as_deref()))
        }
    };
    layout(page, Section::Plan, "Plan", &body)
}

fn verdict(page: &Page, data: &PlanPage) -> Markup {
    let foreseen = data.guard.forecast_at.is_some_and(|at| at.date_naive() <= data.until);
    let over = foreseen || data.meters.iter().any(|meter| meter.value > meter.limit);
    html! {
        p {
            @if data.guard.tripped { (badge("overdue", "tripped")) " Nothing new is deleted until somebody releases the guard." }
            @else if data.paused { (badge("hold", "paused")) " Nothing is deleted until somebody resumes." }
            @else if over { (badge("overdue", "would trip")) " It is going to stop purges before then, unless somebody raises the limit or places holds." }
            @else { (badge("completed", "passes")) " Nothing of this would exceed a limit." }
        }
        @if let (Some(forecast), Some(at)) = (&data.guard.forecast, data.guard.forecast_at) { p { "Foreseen for " (time(at, page.now)) ": " (shown(forecast)) } }
        @if data.meters.is_empty() { p class="quiet" { "No limit is configured." } }
        @for (at, meter) in data.meters.iter().enumerate() { (plot::meter(&format!("meter{at}"), meter)) }
    }
}

fn classes(data: &PlanPage) -> Markup {
    let row = |class: &PlanClass| vec![html! { (class.name) }, count(class.jobs), count(class.held)];
    let rows: Vec<Vec<Markup>> = data.classes.iter().flatten().map(row).collect();
    table("Purges by data class", &["data class", "#purges", "#held"], &rows, "Nothing is scheduled until then.")
}

/// Records by target, of the purges that are listed and not held.
fn targets(data: &PlanPage) -> Markup {
    let mut sums: BTreeMap<&str, Option<i64>> = BTreeMap::new();
    for target in data.first.iter().filter(|job| !job.held).flat_map(|job| &job.targets) {
        let sum = sums.entry(&target.name).or_insert(Some(0));
        *sum = sum.zip(target.records).map(|(sum, records)| sum + records);
    }
    let row =
        |(target, records): (&&str, &Option<i64>)| vec![html! { span class="id" { (shown(target)) } }, records.map_or_else(none, count)];
    let rows: Vec<Vec<Markup>> = sums.iter().map(row).collect();
    html! {
        @if !rows.is_empty() {
            (table("Records there are now, by target", &["target", "#records now"], &rows, ""))
            @if data.next.is_some() || data.further { p class="quiet" { "Records of the purges listed below, which are not all." } }
        }
    }
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
