//! What is shown when a page cannot be: in words, with what to do next.

use maud::{Markup, html};

use super::{Page, Section, layout, links, pieces::shown};

/// Why there is no such page now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The status that goes with it.
    pub status: u16,
    /// What is so.
    pub title: String,
    /// Why.
    pub detail: String,
}

/// The page that says so.
#[must_use]
pub fn refusal(page: &Page, why: &Refusal) -> Markup {
    let hint = match why.status {
        400 | 422 => "Go back and correct it. Nothing was changed.",
        403 => "Ask somebody whose role allows it. Nothing was changed.",
        404 => "Jobs that were forgotten are gone from here too.",
        409 | 412 | 428 => "Nothing was changed. Look at how it stands, then decide again.",
        429 => "Wait a moment.",
        503 => {
            "While the database is away nothing can be shown, and nothing is deleted. Try again in ten seconds; if it stays so, the log says why."
        }
        504 => "If it was an act, it may have been done all the same: Activity tells.",
        _ => "The log says more.",
    };
    let body = html! {
        div class="slim card" {
            p class="quiet" { (why.status) }
            h1 { (why.title) }
            @if !why.detail.is_empty() { p { (shown(&why.detail)) } }
            p { (hint) }
            @if why.status == 503 { p { a class="button" href="" { "Try again" } } }
            p { a href=(links::OVERVIEW) { "To the overview" } }
        }
    };
    layout(page, Section::None, &why.title, &body)
}
