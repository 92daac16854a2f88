//! Requests: somebody asks that an account's records be deleted ahead of their time, another person accepts it.

use maud::{Markup, html};

use super::{
    Offer, Page, Section, account, layout, links,
    overview::scope,
    pieces::{self, Field, Form, badge, folded, none, shown, table, time},
};
use crate::desk::api::etag;
use crate::requests::Request;

/// What the page of requests shows.
#[derive(Debug)]
pub struct Requests {
    /// Only those of this account; empty is all. It is filled in to the form too.
    pub account: String,
    /// The newest first.
    pub requests: Vec<Request>,
    /// Where the list goes on, as the value of `cursor`.
    pub older: Option<String>,
    /// Features to choose from.
    pub features: Vec<String>,
    /// Data classes to choose from.
    pub classes: Vec<String>,
    /// A request waits for another person.
    pub two_people: bool,
    /// How long an accepted request may take, in words.
    pub within: String,
}

/// The page at `/requests`.
#[must_use]
pub fn requests(page: &Page, data: &Requests) -> Markup {
    let waiting = data.requests.iter().filter(|request| request.state == "waiting").count();
    let body = html! {
        div class="head" {
            h1 { "Requests" }
            p class="lead" {
                "Deletion that somebody asked for, ahead of every period. "
                @if waiting > 0 { (pieces::plural(i64::try_from(waiting).unwrap_or(i64::MAX), "waits", "wait")) " for another person." } @else { "None waits for another person." }
            }
        }
        form class="filter" method="get" action=(links::REQUESTS) {
            (Field::new("r-account", "account", "Account id").value(&data.account).input("text"))
            button { "Filter" }
            @if !data.account.is_empty() { a href=(links::REQUESTS) { "All requests" } }
        }
        @if page.may(Offer::PlaceRequest) { section class="card" { h2 { "Request deletion" } (place(page, data)) } }
        section class="card" {
            h2 { "Requests" }
            (list(page, data))
            (pieces::paging(None, data.older.as_deref().map(|at| links::with(links::REQUESTS, &[("account", &data.account), ("cursor", at)])).as_deref()))
        }
    };
    layout(page, Section::Requests, "Requests", &body)
}

fn place(page: &Page, data: &Requests) -> Markup {
    let stem = ["account", "feature", "class"].map(|part| format!("ask-{part}"));
    let fields = html! {
        (scope(&stem, &data.account, &data.features, &data.classes, true))
        (Field::new("ask-again", "confirm", "The account id once more, to confirm").required().input("text"))
    };
    let form = Form { name: "ask", action: links::REQUESTS, button: "Request deletion", grave: true, confirm: None, why: true, seen: None }
        .with(page, &fields);
    html! {
        p {
            "The records are deleted within " (data.within) " of acceptance, not at the end of their period. "
            @if data.two_people { "Another person has to accept it first. " } @else { strong { "It is accepted at once. " } }
            "Holds, pauses and the guard still stop it."
        }
        @if data.account.is_empty() { (folded("Request deletion", &form)) } @else { (form) }
    }
}

fn list(page: &Page, data: &Requests) -> Markup {
    let may = page.may(Offer::DecideRequest);
    let row = |request: &Request| {
        let mut row = vec![
            html! { (request.id) },
            html! { (badge(&request.state, &request.state)) @if request.overdue { " " (badge("overdue", "overdue")) } },
            pieces::account(&request.account_id),
            account::covers(request.feature.as_deref(), request.data_class.as_deref()),
            html! { (shown(&request.reason)) },
            html! { (shown(&request.requested_by)) " " (time(request.requested_at, page.now)) },
            course(page, request),
            html! { @if request.jobs.is_empty() { (none()) } @for job in &request.jobs { (pieces::job(job)) " " } },
        ];
        if may {
            row.push(decide(page, request));
        }
        row
    };
    let rows: Vec<Vec<Markup>> = data.requests.iter().map(row).collect();
    let mut heads = vec!["request", "state", "account", "covers", "reason", "asked by", "since then", "jobs"];
    if may {
        heads.push("decide");
    }
    table("Requests", &heads, &rows, "Nobody has asked for a deletion.")
}

fn course(page: &Page, request: &Request) -> Markup {
    let by = |by: &Option<String>| by.as_deref().map(|by| shown(by).into_owned()).unwrap_or_default();
    html! {
        @if let Some(at) = request.withdrawn_at { "withdrawn by " (by(&request.withdrawn_by)) " " (time(at, page.now)) ": " (by(&request.withdraw_reason)) }
        @else if let Some(at) = request.fulfilled_at { "fulfilled " (time(at, page.now)) }
        @else if let Some(at) = request.due_by { "accepted by " (by(&request.accepted_by)) ", due by " (time(at, page.now)) }
        @else { "waits for another person" }
    }
}

fn decide(page: &Page, request: &Request) -> Markup {
    let open = request.state == "waiting" || request.state == "accepted";
    let own = page.who.as_ref().is_some_and(|who| crate::safeguards::approvals::same_person(&who.name, &request.requested_by));
    let (accept, withdraw) = (format!("accept-{}", request.id), format!("withdraw-{}", request.id));
    let (accept_at, withdraw_at) = (links::request_approve(&request.id), links::request_withdraw(&request.id));
    html! {
        @if !open { (none()) }
        @if request.state == "waiting" {
            @if own { p class="hint" { "Another person has to accept it." } }
            @else {
                @let form = Form { name: &accept, action: &accept_at, button: "Accept", grave: true, confirm: Some(&request.account_id), why: false, seen: Some(etag(request)) };
                (folded("Accept", &form.with(page, &html! {})))
            }
        }
        @if open {
            @let form = Form { name: &withdraw, action: &withdraw_at, button: "Withdraw", grave: false, confirm: None, why: true, seen: Some(etag(request)) };
            (folded("Withdraw", &form.with(page, &html! {})))
        }
    }
}
