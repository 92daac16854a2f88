//! What was deleted within a period, how much of it in time, and what stands out; for people, for a printer, and as CSV.

use chrono::NaiveDate;
use maud::{Markup, html};

use super::{
    Page, Section, layout, links,
    pieces::{self, Field, badge, count, facts, percent, plural, shown, table, time},
};
use crate::{
    outlook::report::{Deletions, Exception, Figures},
    terminal::span,
};

/// What the report shows.
#[derive(Debug)]
pub struct Report {
    /// The figures of the period.
    pub deletions: Deletions,
    /// The first exceptions.
    pub exceptions: Vec<Exception>,
}

/// The period that is asked for, or could be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    /// The first day, in UTC.
    pub from: NaiveDate,
    /// The first day that does not count any more.
    pub to: NaiveDate,
}

/// The page at `/reports`.
#[must_use]
pub fn reports(page: &Page, period: Period, data: Option<&Report>) -> Markup {
    let (from, to) = (period.from.to_string(), period.to.to_string());
    let csv = [("format", "csv"), ("from", &format!("{from}T00:00:00Z")), ("to", &format!("{to}T00:00:00Z"))];
    let body = html! {
        div class="head" {
            h1 { "Reports" }
            p class="lead" {
                @if let Some(Deletions { interval, totals, .. }) = data.map(|data| &data.deletions) {
                    "From " (pieces::stamp(interval.from)) " and before " (pieces::stamp(interval.to)) ": "
                    (plural(totals.completed, "purge", "purges")) " completed, " (percent(totals.on_time, totals.completed)) " on time."
                } @else { "What was deleted within a period, how much of it in time, and what stands out. Choose a period." }
            }
        }
        form class="filter" method="get" action=(links::REPORTS) {
            (Field::new("from", "from", "From (UTC day)").value(&from).input("date"))
            (Field::new("to", "to", "Before (UTC day)").value(&to).input("date"))
            button { "Show" }
            a href=(links::with(links::REPORTS_CSV, &csv)) download { "CSV" }
        }
        div class="pair" {
            @if let Some(data) = data { section class="card" { h2 { "Totals" } (total(&data.deletions.totals)) } }
            section class="card" { h2 { "A certificate" } (certificate()) }
        }
        @if let Some(data) = data {
            section class="card" { h2 { "By data class and place" } (classes(data)) }
            section class="card" {
                h2 { "Exceptions" }
                (exceptions(page, data))
                @let (listed, all) = (i64::try_from(data.exceptions.len()).unwrap_or(i64::MAX), data.deletions.totals.exceptions());
                @if all > listed { p class="quiet" { "The first " (count(listed)) " of " (count(all)) "; the CSV has more." } }
            }
        }
    };
    layout(page, Section::Reports, "Reports", &body)
}

fn total(totals: &Figures) -> Markup {
    let records = |records: i64| html! { @if !totals.count_exact { "at least " } (count(records)) };
    facts(&[
        ("purges completed", count(totals.completed)),
        ("on time", html! { (count(totals.on_time)) ", " (percent(totals.on_time, totals.completed)) }),
        ("late", html! { @if totals.late > 0 { strong class="alarm" { (count(totals.late)) } } @else { "none" } }),
        ("records deleted", records(totals.records_deleted)),
        ("longest from retain until", totals.latest_lateness_seconds.map_or_else(pieces::none, |seconds| html! { (length(seconds)) })),
        (
            "cancelled",
            html! { (count(totals.cancelled)) @if totals.partial > 0 { ", " (count(totals.partial)) " after deletion had begun" } },
        ),
        ("never verifiable", count(totals.unverifiable)),
        ("open now", html! { (count(totals.open)) ", " (count(totals.overdue)) " overdue, " (count(totals.held)) " held" }),
    ])
}

fn certificate() -> Markup {
    html! {
        p { "One file that says what became of a job, and proves it to anybody without this daemon." }
        form class="filter" method="get" action=(links::CERTIFICATE) {
            (Field::new("c-job", "job", "Job").required().input("text"))
            button { "Download" }
        }
        p class="quiet" { "To find the jobs of an account, " a href=(links::EXPLAIN) { "explain" } " it." }
    }
}

fn classes(data: &Report) -> Markup {
    let mut rows = Vec::new();
    let row = |name: Markup, f: &Figures| {
        let records = html! { @if !f.count_exact { "≥ " } (count(f.records_deleted)) };
        vec![name, count(f.completed), html! { (percent(f.on_time, f.completed)) }, count(f.late), records, count(f.open), count(f.overdue)]
    };
    for class in &data.deletions.classes {
        rows.push(row(html! { strong { (class.feature) "/" (class.data_class) } }, &class.figures));
        rows.extend(class.targets.iter().map(|target| row(html! { span class="id below" { (shown(&target.name)) } }, &target.figures)));
    }
    let heads = ["class and place", "#completed", "#on time", "#late", "#records", "#open", "#overdue"];
    table("By data class and place", &heads, &rows, "No data class is configured.")
}

fn exceptions(page: &Page, data: &Report) -> Markup {
    let row = |e: &Exception| {
        vec![
            pieces::job(&e.job_id),
            html! { (e.feature) "/" (e.data_class) },
            badge(if e.what == "overdue" || e.what == "late" { "overdue" } else { "cancelled" }, &e.what),
            time(e.delete_by, page.now),
            pieces::maybe(e.ended_at, page.now),
            e.late_seconds.map_or_else(pieces::none, |seconds| html! { (length(seconds)) }),
            count(e.records_deleted),
        ]
    };
    let rows: Vec<Vec<Markup>> = data.exceptions.iter().map(row).collect();
    let heads = ["job", "data class", "what", "delete by", "over since", "late by", "#records"];
    table("Exceptions", &heads, &rows, "None: no purge was late, partial or impossible to verify, and none is overdue.")
}

#[expect(clippy::cast_possible_truncation, reason = "whole seconds, far below what fits")]
fn length(seconds: f64) -> String {
    span(chrono::TimeDelta::try_seconds(seconds as i64).unwrap_or_default())
}
