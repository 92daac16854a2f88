//! The guard and pauses: what stops deletion now, what is foreseen to, and how somebody stops it or lets it go on.

use maud::{Markup, html};

use super::{
    Offer, Page, Section, account, layout, links,
    overview::{scope, stop_everything},
    pieces::{Form, badge, facts, folded, maybe, plural, shown, table, time},
};
use crate::{
    desk::plot::{self, Meter},
    desk::submit::guard_tag,
    safeguards::{GuardState, control::Pause},
};

/// What the page of the guard shows.
#[derive(Debug)]
pub struct GuardPage {
    /// The guard.
    pub guard: GuardState,
    /// Purges that are due; none while they are counted for the first time.
    pub due: Option<i64>,
    /// Its limits as they are configured, by key.
    pub limits: Vec<(String, String)>,
    /// What counts against them now.
    pub meters: Vec<Meter>,
    /// A release needs two people.
    pub two_people: bool,
    /// Pauses in force.
    pub pauses: Vec<Pause>,
    /// Data classes to choose from.
    pub classes: Vec<String>,
}

/// The page at `/guard`.
#[must_use]
pub fn guard(page: &Page, data: &GuardPage) -> Markup {
    let body = html! {
        div class="head" {
            h1 { "Guard and pauses" }
            p class="lead" {
                @if data.guard.tripped { "The guard has tripped: nothing new is deleted." } @else { "The guard lets purges begin." }
                " " @if data.pauses.is_empty() { "Nothing is paused." } @else { (plural(i64::try_from(data.pauses.len()).unwrap_or(i64::MAX), "pause is", "pauses are")) " in force." }
            }
        }
        div class="pair" {
            section class="card" { h2 { "The guard" } (state(page, data)) }
            section class="card" { h2 { "Its limits" } (limits(data)) }
        }
        @if data.guard.tripped && page.may(Offer::ReleaseGuard) { section class="card" { h2 { "Release the guard" } (release(page, data)) } }
        section class="card" { h2 { "Pauses" } (pauses(page, data)) }
        @if page.may(Offer::Pause) {
            div class="pair" {
                section class="card" { h2 { "Stop everything" } (stop_everything(page)) }
                section class="card" { h2 { "Pause a part" } (pause_part(page, data)) }
            }
        }
    };
    layout(page, Section::Guard, "Guard and pauses", &body)
}

fn state(page: &Page, data: &GuardPage) -> Markup {
    let guard = &data.guard;
    let mut rows = vec![("state", if guard.tripped { badge("overdue", "tripped") } else { badge("completed", "open") })];
    if guard.tripped {
        rows.push(("why", html! { (shown(guard.reason.as_deref().unwrap_or("not known"))) }));
        rows.push(("since", maybe(guard.tripped_at, page.now)));
        rows.extend(data.due.map(|due| ("due", html! { (plural(due, "purge", "purges")) })));
    }
    rows.push((
        "foreseen",
        html! {
            @if let (Some(forecast), Some(at)) = (&guard.forecast, guard.forecast_at) { (time(at, page.now)) ": " (shown(forecast)) }
            @else { "nothing that is scheduled would exceed a limit" }
        },
    ));
    let acts = links::with(links::ACTIVITY, &[("act", "guard release")]);
    rows.push(("releases", html! { a href=(acts) { "who released it, and why" } }));
    facts(&rows)
}

fn limits(data: &GuardPage) -> Markup {
    let rows: Vec<Vec<Markup>> = data.limits.iter().map(|(key, value)| vec![html! { code { (key) } }, html! { (value) }]).collect();
    html! {
        @for (at, meter) in data.meters.iter().enumerate() { (plot::meter(&format!("meter{at}"), meter)) }
        (table("Limits", &["key", "value"], &rows, "No limit is configured."))
    }
}

fn release(page: &Page, data: &GuardPage) -> Markup {
    let form = Form {
        name: "guard",
        action: links::GUARD_RELEASE,
        button: "Release the guard",
        grave: true,
        confirm: Some("release"),
        why: true,
        seen: Some(guard_tag(&data.guard)),
    };
    html! {
        p {
            "What waits at that moment may begin" @if let Some(due) = data.due { " (" strong { (plural(due, "purge is", "purges are")) } " due)" } ", and no more. What is deleted cannot be brought back: "
            a href=(links::PLAN) { "see what it would be" } " first."
        }
        @if data.two_people {
            p { "It takes two people: the first is put on record, the second releases it." }
        }
        (folded("Release the guard", &form.with(page, &html! {})))
    }
}

fn pauses(page: &Page, data: &GuardPage) -> Markup {
    let may = page.may(Offer::Resume);
    let row = |pause: &Pause| {
        let mut row = vec![
            html! {
                @match (&pause.account_id, &pause.data_class) {
                    (None, None) => { strong { "everything" } }
                    (account, class) => { (account::covers(None, class.as_deref())) " of " (account::named(account.as_deref())) }
                }
            },
            html! { (shown(&pause.reason)) },
            html! { (shown(&pause.paused_by)) " " (time(pause.paused_at, page.now)) },
        ];
        if may {
            row.push(resume(page, pause));
        }
        row
    };
    let rows: Vec<Vec<Markup>> = data.pauses.iter().map(row).collect();
    let mut heads = vec!["covers", "reason", "paused by"];
    if may {
        heads.push("resume");
    }
    table("Pauses in force", &heads, &rows, "Nothing is paused.")
}

fn resume(page: &Page, pause: &Pause) -> Markup {
    let name = format!("resume-{}", pause.id);
    let everything = pause.account_id.is_none() && pause.data_class.is_none();
    let form = Form {
        name: &name,
        action: links::RESUME,
        button: "Resume",
        grave: true,
        confirm: everything.then_some("resume"),
        why: true,
        seen: None,
    };
    let fields = html! {
        input type="hidden" name="account_id" value=(pause.account_id.as_deref().unwrap_or_default());
        input type="hidden" name="data_class" value=(pause.data_class.as_deref().unwrap_or_default());
        p class="hint" { "Lifts every pause of exactly this. What is due is deleted soon after." }
    };
    folded("Resume", &form.with(page, &fields))
}

fn pause_part(page: &Page, data: &GuardPage) -> Markup {
    let stem = ["account", "feature", "class"].map(|part| format!("pause-{part}"));
    let fields = html! { (scope(&stem, "", &[], &data.classes, false)) p class="hint" { "Name an account, a data class, or both." } };
    let form = Form { name: "pause", action: links::PAUSE, button: "Pause", grave: false, confirm: None, why: true, seen: None };
    html! {
        p { "Of one account, or of one data class." }
        (folded("Pause a part", &form.with(page, &fields)))
        p class="quiet" { "To keep the data of an account whatever happens, place a " a href=(links::HOLDS) { "hold" } "." }
    }
}
