//! What is shown when a page cannot be: in words, with what to do next.

use maud::{Markup, html};

use super::{Page, Section, layout, links};

/// Why there is no such page now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// 400: the address or the form makes no sense, and why.
    BadInput(String),
    /// 403: the role does not allow it.
    Forbidden(String),
    /// 404.
    NotFound,
    /// 409: it cannot be done in this state, and why.
    Conflict(String),
    /// 503: the database does not answer, or took too long.
    Away,
    /// 500: what went wrong is in the log under this id.
    Broken(String),
}

impl Refusal {
    /// The status that goes with the page.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::BadInput(_) => 400,
            Self::Forbidden(_) => 403,
            Self::NotFound => 404,
            Self::Conflict(_) => 409,
            Self::Broken(_) => 500,
            Self::Away => 503,
        }
    }
}

/// The page that says so. For 503, `retry-after: 10` belongs with it.
#[must_use]
pub fn refusal(page: &Page, why: &Refusal) -> Markup {
    let (title, detail, hint) = match why {
        Refusal::BadInput(detail) => ("That cannot be read", detail.as_str(), "Go back and correct it. Nothing was changed."),
        Refusal::Forbidden(detail) => ("You may not do that", detail.as_str(), "Ask somebody whose role allows it. Nothing was changed."),
        Refusal::NotFound => ("There is no such page", "", "Jobs whose records were forgotten are gone from here too."),
        Refusal::Conflict(detail) => ("That cannot be done now", detail.as_str(), "Look at how it stands, then decide again."),
        Refusal::Away => (
            "The database does not answer",
            "Nothing can be shown, and nothing is deleted while it is away.",
            "Try again in ten seconds. If it stays so, the log says why: look for database.unreachable.",
        ),
        Refusal::Broken(_) => ("Something went wrong here", "Nothing was changed by this page.", "The log has it."),
    };
    let body = html! {
        div class="narrow card" {
            p class="quiet" { (why.status()) }
            h1 { (title) }
            @if !detail.is_empty() { p { (super::pieces::shown(detail)) } }
            p { (hint) }
            @if let Refusal::Broken(id) = why { p { "Its id: " code class="id" { (id) } } }
            @if *why == Refusal::Away { p { a class="button" href="" { "Try again" } } }
            p { a href=(links::OVERVIEW) { "To the overview" } }
        }
    };
    layout(page, Section::None, title, &body)
}
