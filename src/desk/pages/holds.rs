//! Holds: which are in force, which were; and the forms that place and release them.

use maud::{Markup, html};

use super::{
    Offer, Page, Section, account, layout, links,
    overview::scope,
    pieces::{self, Field, Form, folded, shown, table, time},
};
use crate::{
    desk::api::etag,
    desk::plot::{self, Span, Spans},
    safeguards::control::{Hold, PastHold},
};

/// What the page of holds shows.
#[derive(Debug)]
pub struct Holds {
    /// Only those of this account; empty is all. It is filled in to the form too.
    pub account: String,
    /// In force, the oldest first.
    pub in_force: Vec<Hold>,
    /// There are more in force than these.
    pub more: bool,
    /// Over, the newest first.
    pub past: Vec<PastHold>,
    /// Where the past goes on, as the value of `cursor`.
    pub older: Option<String>,
    /// Features to choose from.
    pub features: Vec<String>,
    /// Data classes to choose from.
    pub classes: Vec<String>,
    /// A release needs two people.
    pub two_people: bool,
}

/// The page at `/holds`.
#[must_use]
pub fn holds(page: &Page, data: &Holds) -> Markup {
    let number = i64::try_from(data.in_force.len()).unwrap_or(i64::MAX);
    let body = html! {
        div class="head" {
            h1 { "Holds" }
            p class="lead" {
                @if data.more { "More than " }
                @if number == 0 { "No hold is in force" } @else { (pieces::plural(number, "hold is", "holds are")) " in force" }
                @if !data.account.is_empty() { " on " (pieces::account(&data.account)) } "."
                " What is held is not deleted, whatever is due."
            }
        }
        form class="filter" method="get" action=(links::HOLDS) {
            (Field::new("h-account", "account", "Account id").value(&data.account).input("text"))
            button { "Filter" }
            @if !data.account.is_empty() { a href=(links::HOLDS) { "All holds" } }
        }
        @if page.may(Offer::PlaceHold) { section class="card" { h2 { "Place a hold" } (place(page, data)) } }
        section class="card" {
            h2 { "In force" }
            (in_force(page, data))
            @if !data.in_force.is_empty() { (plot::spans("holds", &drawn(data), page.now)) }
        }
        section class="card" {
            h2 { "Past" }
            (past(page, data))
            (pieces::paging(None, data.older.as_deref().map(|at| links::with(links::HOLDS, &[("account", &data.account), ("cursor", at)])).as_deref()))
        }
    };
    layout(page, Section::Holds, "Holds", &body)
}

fn place(page: &Page, data: &Holds) -> Markup {
    let stem = ["account", "feature", "class"].map(|part| format!("place-{part}"));
    let fields = html! {
        (scope(&stem, &data.account, &data.features, &data.classes, true))
        (Field::new("place-until", "until", "Until (UTC)").hint("Empty: until somebody releases it.").input("datetime-local"))
    };
    let form = Form { name: "place", action: links::HOLDS, button: "Place the hold", grave: false, confirm: None, why: true, seen: None }
        .with(page, &fields);
    html! {
        p { "When the answer comes, nothing that it covers is deleted any more." }
        @if data.account.is_empty() { (folded("Place a hold", &form)) } @else { (form) }
    }
}

fn in_force(page: &Page, data: &Holds) -> Markup {
    let may = page.may(Offer::ReleaseHold);
    let row = |hold: &Hold| {
        let mut row = vec![
            html! { (hold.id) },
            pieces::account(&hold.account_id),
            account::covers(hold.feature.as_deref(), hold.data_class.as_deref()),
            html! { (shown(&hold.reason)) },
            html! { (shown(&hold.placed_by)) " " (time(hold.placed_at, page.now)) },
            hold.until.map_or_else(|| html! { "released" }, |at| time(at, page.now)),
        ];
        if may {
            row.push(release(page, data, hold));
        }
        row
    };
    let rows: Vec<Vec<Markup>> = data.in_force.iter().map(row).collect();
    let mut heads = vec!["hold", "account", "covers", "reason", "placed by", "until"];
    if may {
        heads.push("release");
    }
    table("Holds in force", &heads, &rows, "Nothing is held.")
}

fn release(page: &Page, data: &Holds, hold: &Hold) -> Markup {
    let (name, action) = (format!("release-{}", hold.id), links::hold_release(&hold.id));
    let form = Form {
        name: &name,
        action: &action,
        button: "Release the hold",
        grave: true,
        confirm: Some(&hold.account_id),
        why: true,
        seen: Some(etag(hold)),
    };
    let fields = html! {
        p class="hint" {
            "What is due is deleted soon after."
            @if data.two_people { " It takes two people: the first is put on record, the second releases." }
        }
    };
    folded("Release", &form.with(page, &fields))
}

fn past(page: &Page, data: &Holds) -> Markup {
    let row = |past: &PastHold| {
        let ended = html! {
            @if let Some(by) = &past.released_by { "released by " (shown(by)) ": " (shown(past.release_reason.as_deref().unwrap_or_default())) }
            @else { "ended by itself" }
        };
        vec![
            html! { (past.hold.id) },
            pieces::account(&past.hold.account_id),
            account::covers(past.hold.feature.as_deref(), past.hold.data_class.as_deref()),
            html! { (shown(&past.hold.reason)) },
            html! { (shown(&past.hold.placed_by)) " " (time(past.hold.placed_at, page.now)) },
            pieces::maybe(past.released_at.or(past.hold.until), page.now),
            ended,
        ]
    };
    let rows: Vec<Vec<Markup>> = data.past.iter().map(row).collect();
    table("Past holds", &["hold", "account", "covers", "reason", "placed by", "over since", "how"], &rows, "No hold is over yet.")
}

fn drawn(data: &Holds) -> Spans {
    let span = |hold: &Hold| Span { label: format!("{} · {}", hold.id, shown(&hold.account_id)), from: hold.placed_at, to: hold.until };
    Spans { what: "holds".to_owned(), one: "hold".to_owned(), rows: data.in_force.iter().map(span).collect() }
}
