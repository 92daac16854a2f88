//! One account: for each data class the decision in words, both dates, what stands in the way, what comes next.

use maud::{Markup, html};

use super::{
    Offer, Page, Section, jobs, layout, links,
    pieces::{self, Field, account as account_link, badge, count, facts, shown, table, time},
};
use crate::{
    outlook::{ClassExplanation, Explanation},
    requests::Request,
    safeguards::control::Hold,
};

/// What the page of an account shows.
#[derive(Debug)]
pub struct Account {
    /// The answer of `explain`.
    pub explanation: Explanation,
    /// Holds in force on it.
    pub holds: Vec<Hold>,
    /// Its requests, the newest first.
    pub requests: Vec<Request>,
}

/// The page at `/explain`: with an account the answer, without one the question.
#[must_use]
pub fn explain(page: &Page, data: Option<&Account>) -> Markup {
    let Some(data) = data else { return ask(page) };
    let id = &data.explanation.account_id;
    let known =
        data.explanation.classes.iter().any(|c| c.starting_point.is_some() || !c.jobs.is_empty() || !c.records.values().all(|n| *n == 0));
    let body = html! {
        div class="head" { h1 { "Account " span class="id" { (shown(id)) } } p class="lead" { (verdict(data, known)) } }
        p class="actions" {
            @if page.may(Offer::PlaceHold) { a class="button" href=(links::with(links::HOLDS, &[("account", id)])) { "Place a hold" } }
            @if page.may(Offer::PlaceRequest) { a class="button" href=(links::with(links::REQUESTS, &[("account", id)])) { "Request deletion" } }
            a href=(links::with(links::JOBS, &[("account", id)])) { "All its jobs" }
            a href=(links::explain_json(id)) { "As JSON" }
        }
        @if !data.holds.is_empty() {
            section class="card" { h2 { "Held" } ul class="warnings" { @for hold in &data.holds { li { (held(page, hold)) } } } }
        }
        @for class in &data.explanation.classes { (class_card(page, class)) }
        @if !data.requests.is_empty() {
            section class="card" { h2 { "Requests" } (requests(page, &data.requests)) }
        }
    };
    layout(page, Section::Explain, &format!("Account {}", shown(id)), &body)
}

fn ask(page: &Page) -> Markup {
    let body = html! {
        div class="head" { h1 { "Explain" } p class="lead" { "Why is an account's data there, why is it gone, and when will it be?" } }
        form class="filter" method="get" action=(links::EXPLAIN) {
            (Field::new("account", "account", "Account id").required().hint("Exactly as it is in the source; upper and lower case differ.").input("text"))
            button { "Explain" }
        }
    };
    layout(page, Section::Explain, "Explain", &body)
}

/// The answer in one sentence.
fn verdict(data: &Account, known: bool) -> Markup {
    let classes = &data.explanation.classes;
    let open = classes.iter().filter(|c| c.jobs.iter().any(|job| job.state == "scheduled" || job.state == "running")).count();
    let records: i64 = classes.iter().flat_map(|c| c.records.values()).sum();
    html! {
        @if !known { "Nothing is known of it: no starting point, no job, no record. Is the id exactly right?" }
        @else if open > 0 {
            (pieces::plural(i64::try_from(open).unwrap_or(i64::MAX), "purge is", "purges are")) " scheduled; "
            (pieces::plural(records, "record is", "records are")) " there now."
        }
        @else if records == 0 { "No record is left of it, and nothing is scheduled." }
        @else { "Nothing is scheduled; " (pieces::plural(records, "record is", "records are")) " there now." }
    }
}

fn class_card(page: &Page, class: &ClassExplanation) -> Markup {
    let open = class.jobs.iter().find(|job| job.state == "scheduled" || job.state == "running");
    html! {
        section class="card" {
            h2 { (class.feature) "/" (class.data_class) " " @if let Some(job) = open.or(class.jobs.first()) { (jobs::state(job)) } }
            p class="next" { strong { "Next: " } (sentence(&class.next)) }
            @if !class.blocked_by.is_empty() {
                div class="blocked" { p { strong { "In its way" } } ul { @for blocker in &class.blocked_by { li { (shown(blocker)) } } } }
            }
            div class="pair" {
                div {
                    h3 { "Decision" }
                    (facts(&decision(page, class)))
                }
                div {
                    h3 { "Records now" }
                    @let rows: Vec<Vec<Markup>> = class.records.iter().map(|(target, records)| vec![html! { span class="id" { (shown(target)) } }, count(*records)]).collect();
                    (table(&format!("Records of {}/{}", class.feature, class.data_class), &["target", "#records"], &rows, "It could not be counted."))
                }
            }
            @if !class.jobs.is_empty() { h3 { "Jobs" } (jobs::list(page, &class.jobs, "")) }
        }
    }
}

fn decision<'a>(page: &Page, class: &'a ClassExplanation) -> Vec<(&'a str, Markup)> {
    let mut rows: Vec<(&str, Markup)> =
        class.starting_points.iter().map(|(name, words)| (name.as_str(), html! { (shown(words)) })).collect();
    match (&class.starting_point, class.started_at) {
        (Some(point), Some(at)) => rows.push(("counts", html! { (point) " since " (time(at, page.now)) })),
        _ => rows.push(("counts", html! { "none: nothing is deleted" })),
    }
    if let Some(at) = class.retain_until {
        rows.push(("retain until", time(at, page.now)));
    }
    if let Some(at) = class.delete_by {
        rows.push(("delete by", time(at, page.now)));
    }
    rows
}

fn held(page: &Page, hold: &Hold) -> Markup {
    html! {
        strong { "Hold " (hold.id) } " by " (shown(&hold.placed_by)) " since " (time(hold.placed_at, page.now)) ": " (shown(&hold.reason)) "; covers " (covers(hold.feature.as_deref(), hold.data_class.as_deref()))
        @match hold.until { Some(at) => { ", until " (time(at, page.now)) } None => { ", until somebody releases it" } }
        ". " a href=(links::with(links::HOLDS, &[("account", &hold.account_id)])) { "See its holds" }
    }
}

/// What a hold, a pause or a request covers.
pub(super) fn covers(feature: Option<&str>, data_class: Option<&str>) -> Markup {
    html! {
        @match (feature, data_class) {
            (None, None) => { "everything" }
            (Some(feature), None) => { "every data class of " (feature) }
            (None, Some(class)) => { (class) " of every feature" }
            (Some(feature), Some(class)) => { (feature) "/" (class) }
        }
    }
}

fn requests(page: &Page, requests: &[Request]) -> Markup {
    let rows: Vec<Vec<Markup>> = requests
        .iter()
        .map(|request| {
            vec![
                html! { (request.id) },
                badge(&request.state, &request.state),
                html! { (covers(request.feature.as_deref(), request.data_class.as_deref())) },
                html! { (shown(&request.requested_by)) " " (time(request.requested_at, page.now)) },
                pieces::maybe(request.due_by, page.now),
            ]
        })
        .collect();
    table("Requests for this account", &["request", "state", "covers", "asked by", "due by"], &rows, "")
}

/// A line of text as a sentence.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first: String = letters.next().map(|first| first.to_uppercase().collect()).unwrap_or_default();
    format!("{first}{}.", letters.as_str())
}

/// An account in the middle of a sentence.
pub(super) fn named(account: Option<&str>) -> Markup {
    account.map_or_else(|| html! { "every account" }, account_link)
}
