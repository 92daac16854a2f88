//! The daemon itself: is it ready, what runs with which settings, is the ledger whole, do the stores answer.

use maud::{Markup, html};

use super::{
    Offer, Page, Section, layout, links,
    pieces::{self, Form, badge, count, facts, folded, none, shown, table},
};
use crate::desk::submit::policy_tag;
use crate::outlook::PolicyState;

/// What the page of the system shows.
#[derive(Debug)]
pub struct System {
    /// Each check of readiness.
    pub checks: Vec<Check>,
    /// Names and versions: the program, the schema, the server.
    pub versions: Vec<(String, String)>,
    /// The policy of the configuration against the one in force.
    pub policy: PolicyState,
    /// What the configured policy changes, where it is not in force.
    pub changes: Vec<String>,
    /// The ledger.
    pub ledger: LedgerState,
    /// Each store.
    pub stores: Vec<Store>,
    /// The configuration that is in force, key by key, secrets left out.
    pub configuration: Vec<(String, String)>,
}

/// One check of readiness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What is looked at.
    pub name: String,
    /// It is as it should be.
    pub ok: bool,
    /// More, in words.
    pub detail: String,
}

/// How the ledger stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LedgerState {
    /// Entries with a number.
    pub size: i64,
    /// Entries under the last checkpoint.
    pub signed: i64,
    /// The name in its signature.
    pub origin: String,
    /// What is wrong with it.
    pub broken: Option<String>,
}

/// A system that holds records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// Its name.
    pub name: String,
    /// What it speaks: `postgres`.
    pub kind: String,
    /// Its targets.
    pub targets: Vec<String>,
    /// Whether it answered; none: it was not asked.
    pub ok: Option<bool>,
    /// What it said.
    pub detail: String,
}

/// The page at `/system`.
#[must_use]
pub fn system(page: &Page, data: &System) -> Markup {
    let failed = data.checks.iter().filter(|check| !check.ok).count();
    let body = html! {
        div class="head" {
            h1 { "System" }
            p class="lead" {
                @if failed == 0 { "Ready: every check passes." } @else { (pieces::plural(i64::try_from(failed).unwrap_or(i64::MAX), "check fails", "checks fail")) "." }
            }
        }
        div class="pair" {
            section class="card" { h2 { "Checks" } (checks(data)) }
            section class="card" { h2 { "Versions" } (facts(&data.versions.iter().map(|(name, version)| (name.as_str(), html! { (version) })).collect::<Vec<_>>())) }
        }
        div class="pair" {
            section class="card" { h2 { "Ledger" } (ledger(&data.ledger)) }
            section class="card" { h2 { "Policy" } (policy(page, data)) }
        }
        section class="card" { h2 { "Stores" } (stores(data)) }
        section class="card" {
            h2 { "Configuration" }
            p class="quiet" { "As it is in force. Secrets are not shown, anywhere." }
            @let rows: Vec<Vec<Markup>> = data.configuration.iter().map(|(key, value)| vec![html! { code class="id" { (key) } }, html! { span class="id" { (shown(value)) } }]).collect();
            (table("Configuration", &["key", "value"], &rows, "Nothing is configured."))
        }
    };
    layout(page, Section::System, "System", &body)
}

fn verdict(ok: Option<bool>) -> Markup {
    match ok {
        Some(true) => badge("completed", "ok"),
        Some(false) => badge("overdue", "fails"),
        None => none(),
    }
}

fn checks(data: &System) -> Markup {
    let row = |check: &Check| vec![verdict(Some(check.ok)), html! { (check.name) }, html! { (shown(&check.detail)) }];
    table("Checks of readiness", &["", "check", "detail"], &data.checks.iter().map(row).collect::<Vec<_>>(), "Nothing was checked.")
}

fn ledger(ledger: &LedgerState) -> Markup {
    let state = match &ledger.broken {
        None => badge("completed", "whole"),
        Some(why) => html! { (badge("overdue", "broken")) " " (shown(why)) },
    };
    facts(&[
        ("state", state),
        ("entries", html! { (count(ledger.size)) }),
        ("signed", html! { (count(ledger.signed)) @if ledger.signed < ledger.size { ", the others soon" } }),
        ("origin", html! { code class="id" { (shown(&ledger.origin)) } }),
    ])
}

fn policy(page: &Page, data: &System) -> Markup {
    let policy = &data.policy;
    let accepted = policy.accepted.as_ref().map_or_else(none, |hash| html! { code class="id" { (hash) } });
    let state = if policy.waiting { badge("overdue", "waits for acceptance") } else { badge("completed", "in force") };
    let form = Form {
        name: "policy",
        action: links::POLICY_ACCEPT,
        button: "Put it into force",
        grave: true,
        confirm: Some("accept"),
        why: true,
        seen: Some(policy_tag(policy.accepted.as_deref(), &policy.hash)),
    };
    html! {
        (facts(&[("state", state), ("configured", html! { code class="id" { (policy.hash) } }), ("in force", accepted)]))
        @if policy.waiting {
            p { strong { "It changes:" } }
            ul { @for change in &data.changes { li { (shown(change)) } } }
            @if page.may(Offer::AcceptPolicy) { (folded("Accept this policy", &form.with(page, &html! {}))) }
        }
    }
}

fn stores(data: &System) -> Markup {
    let row = |store: &Store| {
        let targets = html! { ul class="plain" { @for target in &store.targets { li class="id" { (shown(target)) } } } };
        vec![verdict(store.ok), html! { (shown(&store.name)) }, html! { (store.kind) }, targets, html! { (shown(&store.detail)) }]
    };
    table("Stores", &["", "store", "kind", "targets", "detail"], &data.stores.iter().map(row).collect::<Vec<_>>(), "There is no store.")
}
