//! Who did what, and when the daemon looked.

use chrono::{DateTime, Utc};
use maud::{Markup, html};

use super::{
    Page, Section, account, layout, links,
    pieces::{self, Field, badge, none, shown, table, time},
};
use crate::acts::Entry;

/// What the page of activity shows.
#[derive(Debug)]
pub struct Activity {
    /// Only what this one did; empty is everybody.
    pub actor: String,
    /// Only acts of this kind; empty is every kind.
    pub act: String,
    /// Kinds to choose from.
    pub kinds: Vec<String>,
    /// The newest first.
    pub acts: Vec<Entry>,
    /// Where the list goes on, as the value of `cursor`.
    pub older: Option<String>,
    /// The passes of the daemon: name, when it last succeeded.
    pub passes: Vec<(String, DateTime<Utc>)>,
}

/// The page at `/activity`.
#[must_use]
pub fn activity(page: &Page, data: &Activity) -> Markup {
    let rows: Vec<Vec<Markup>> = data
        .acts
        .iter()
        .map(|entry| {
            vec![
                time(entry.done_at, page.now),
                html! { a href=(links::with(links::ACTIVITY, &[("actor", &entry.actor)])) { (shown(&entry.actor)) } " " span class="quiet" { (entry.surface) } },
                html! { (entry.act) },
                about(entry),
                entry.account_id.as_deref().map_or_else(none, pieces::account),
                html! { (shown(&entry.reason)) },
                badge(if entry.outcome == "done" { "completed" } else { "waiting" }, &entry.outcome),
            ]
        })
        .collect();
    let passes: Vec<Vec<Markup>> = data.passes.iter().map(|(name, at)| vec![html! { (name) }, time(*at, page.now)]).collect();
    let body = html! {
        div class="head" { h1 { "Activity" } p class="lead" { "Each act of a person, with its reason: at the shell, through the API, on a page." } }
        form class="filter" method="get" action=(links::ACTIVITY) {
            (Field::new("a-actor", "actor", "Who").value(&data.actor).input("text"))
            (Field::new("a-act", "act", "Act").value(&data.act).select("every act", &data.kinds))
            button { "Filter" }
            @if !data.actor.is_empty() || !data.act.is_empty() { a href=(links::ACTIVITY) { "All activity" } }
        }
        section class="card" {
            h2 { "Acts" }
            (table("Acts", &["when", "who", "act", "about", "account", "reason", "outcome"], &rows, "Nobody has done anything like that yet."))
            @let older = data.older.as_deref().map(|at| links::with(links::ACTIVITY, &[("actor", &data.actor), ("act", &data.act), ("cursor", at)]));
            (pieces::paging(None, older.as_deref()))
        }
        section class="card" { h2 { "Passes" } (table("Passes", &["pass", "last succeeded"], &passes, "No pass has succeeded yet.")) }
    };
    layout(page, Section::Activity, "Activity", &body)
}

/// What the act was about: the job or request by its number, or what it covers.
fn about(entry: &Entry) -> Markup {
    html! {
        @match entry.subject.as_deref() {
            Some(id) if entry.act.starts_with("jobs") => { (pieces::job(id)) }
            Some(id) if entry.act.starts_with("hold") => { "hold " (id) }
            Some(id) if entry.act.starts_with("request") => { "request " (id) }
            Some(subject) => { (shown(subject)) }
            None if entry.act == "pause" || entry.act == "resume" => { (account::covers(entry.feature.as_deref(), entry.data_class.as_deref())) }
            None => { (none()) }
        }
    }
}
