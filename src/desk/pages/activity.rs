//! Who did what, and when the daemon looked.

use chrono::{DateTime, Utc};
use maud::{Markup, html};

use super::{
    Page, Section, layout, links,
    pieces::{self, Field, badge, none, shown, table, time},
};

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
    pub acts: Vec<Done>,
    /// Where the list goes on, as the value of `before`.
    pub older: Option<String>,
    /// The passes of the daemon: name, when it last succeeded.
    pub passes: Vec<(String, DateTime<Utc>)>,
}

/// What somebody did, or was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// When.
    pub at: DateTime<Utc>,
    /// Who.
    pub actor: String,
    /// The verb: `hold place`.
    pub act: String,
    /// What it is about, in words: `hold 3`.
    pub about: String,
    /// The account, where it is about one.
    pub account_id: Option<String>,
    /// Why.
    pub reason: String,
    /// `done`, `waits` or `refused`.
    pub outcome: String,
}

/// The page at `/activity`.
#[must_use]
pub fn activity(page: &Page, data: &Activity) -> Markup {
    let rows: Vec<Vec<Markup>> = data
        .acts
        .iter()
        .map(|done| {
            vec![
                time(done.at, page.now),
                html! { a href=(links::with(links::ACTIVITY, &[("actor", &done.actor)])) { (shown(&done.actor)) } },
                html! { (done.act) },
                html! { (shown(&done.about)) },
                done.account_id.as_deref().map_or_else(none, pieces::account),
                html! { (shown(&done.reason)) },
                badge(if done.outcome == "refused" { "overdue" } else { "completed" }, &done.outcome),
            ]
        })
        .collect();
    let passes: Vec<Vec<Markup>> = data.passes.iter().map(|(name, at)| vec![html! { (name) }, time(*at, page.now)]).collect();
    let body = html! {
        div class="head" { h1 { "Activity" } p class="lead" { "Every act of a person, with its reason. Nothing here can be changed unseen: the ledger has it too." } }
        form class="filter" method="get" action=(links::ACTIVITY) {
            (Field::new("a-actor", "actor", "Who").value(&data.actor).input("text"))
            (Field::new("a-act", "act", "Act").value(&data.act).select("every act", &data.kinds))
            button { "Filter" }
            @if !data.actor.is_empty() || !data.act.is_empty() { a href=(links::ACTIVITY) { "All activity" } }
        }
        section class="card" {
            h2 { "Acts" }
            (table("Acts", &["when", "who", "act", "about", "account", "reason", "outcome"], &rows, "Nobody has done anything like that yet."))
            @let older = data.older.as_deref().map(|at| links::with(links::ACTIVITY, &[("actor", &data.actor), ("act", &data.act), ("before", at)]));
            (pieces::paging(None, older.as_deref()))
        }
        section class="card" { h2 { "Passes" } (table("Passes", &["pass", "last succeeded"], &passes, "No pass has succeeded yet.")) }
    };
    layout(page, Section::Activity, "Activity", &body)
}
