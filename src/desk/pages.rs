//! What operators see: pages of plain HTML that work without script, under a policy that allows no style or script in the page.
//!
//! Each page is a function from what it shows to markup. Nothing here asks a database or decides anything; all text is escaped. Forms are there only for
//! what the one who looks may do; the server asks again.

pub mod account;
pub mod activity;
pub mod assets;
pub mod guard;
pub mod holds;
pub mod job;
pub mod jobs;
pub mod links;
pub mod overview;
mod pieces;
pub mod plan;
pub mod refusal;
pub mod reports;
pub mod requests;
pub mod sign_in;
pub mod system;

use chrono::{DateTime, Utc};
use maud::{DOCTYPE, Markup, html};

use crate::{acts::Act, config::Role, model::Mode, outlook::Status, safeguards::control::Scope};

/// What a page offers; a form for what the role does not allow is not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Offer {
    PlaceHold,
    ReleaseHold,
    Pause,
    Resume,
    ReleaseGuard,
    AcceptPolicy,
    RetryJob,
    CloseJob,
    PlaceRequest,
    DecideRequest,
}

impl Offer {
    /// The least role that may do it: that of the act.
    fn role(self) -> Role {
        let scope = Scope::default();
        let act = match self {
            Self::PlaceHold => Act::PlaceHold { scope, until: None },
            Self::ReleaseHold => Act::ReleaseHold { id: 0 },
            Self::Pause => Act::Pause { scope },
            Self::Resume => Act::Resume { scope },
            Self::ReleaseGuard => Act::ReleaseGuard,
            Self::AcceptPolicy => Act::AcceptPolicy,
            Self::RetryJob => Act::RetryJob { id: 0 },
            Self::CloseJob => Act::CloseJob { id: 0 },
            Self::PlaceRequest => Act::PlaceRequest { scope },
            Self::DecideRequest => Act::ApproveRequest { id: 0 },
        };
        act.role()
    }
}

/// Who looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// The name that goes into every act.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// There is something to sign out of.
    pub session: bool,
}

/// What every page has around it.
#[derive(Debug, Clone)]
pub struct Page {
    /// The database's clock; the host's when the database is away.
    pub now: DateTime<Utc>,
    /// Nobody on the sign-in page.
    pub who: Option<Who>,
    /// What stands over every page.
    pub alerts: Vec<Alert>,
    /// What has just been done, or why it was not.
    pub said: Option<Said>,
    /// The stem of the idempotency keys of the forms on this page: unlike that of any other page.
    pub key: String,
    /// The program's version.
    pub version: String,
}

/// What came of an act, told on the page that follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// It was done.
    Done(String),
    /// It was not, and why.
    Refused(String),
}

/// How much an alert matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Deletion stands still.
    Stopped,
    /// Somebody should know.
    Notice,
}

/// A line over every page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    /// How much it matters.
    pub level: Level,
    /// What is so.
    pub what: String,
    /// Why, or what follows.
    pub detail: String,
    /// Where to look, and in which words.
    pub link: Option<(&'static str, &'static str)>,
}

/// The pages of the navigation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// How it stands.
    Overview,
    /// Jobs, and one job.
    Jobs,
    /// One account.
    Explain,
    /// What will be deleted.
    Plan,
    /// Holds.
    Holds,
    /// The guard and pauses.
    Guard,
    /// Requests.
    Requests,
    /// Who did what.
    Activity,
    /// What was deleted.
    Reports,
    /// The daemon itself.
    System,
    /// Sign-in and errors.
    None,
}

const SECTIONS: [(Section, &str, &str); 10] = [
    (Section::Overview, links::OVERVIEW, "Overview"),
    (Section::Jobs, links::JOBS, "Jobs"),
    (Section::Explain, links::EXPLAIN, "Explain"),
    (Section::Plan, links::PLAN, "Plan"),
    (Section::Holds, links::HOLDS, "Holds"),
    (Section::Guard, links::GUARD, "Guard"),
    (Section::Requests, links::REQUESTS, "Requests"),
    (Section::Activity, links::ACTIVITY, "Activity"),
    (Section::Reports, links::REPORTS, "Reports"),
    (Section::System, links::SYSTEM, "System"),
];

impl Page {
    /// Whether the one who looks may do that.
    fn may(&self, offer: Offer) -> bool {
        self.who.as_ref().is_some_and(|who| who.role >= offer.role())
    }
}

/// What `status` gives reason to say over every page.
#[must_use]
pub fn alerts(status: &Status) -> Vec<Alert> {
    let mut found = Vec::new();
    let reason = status.guard.reason.as_deref().unwrap_or_default();
    if status.guard.tripped && reason.starts_with("ledger: ") {
        found.push(Alert {
            level: Level::Stopped,
            what: "The ledger is not whole. Nothing new is deleted.".to_owned(),
            detail: reason.to_owned(),
            link: Some((links::SYSTEM, "See the ledger")),
        });
    } else if status.guard.tripped {
        found.push(Alert {
            level: Level::Stopped,
            what: "The guard has tripped. Nothing new is deleted.".to_owned(),
            detail: reason.to_owned(),
            link: Some((links::GUARD, "See the guard")),
        });
    }
    if status.paused {
        found.push(Alert {
            level: Level::Stopped,
            what: "Everything is paused. Nothing is deleted.".to_owned(),
            detail: String::new(),
            link: Some((links::GUARD, "See the pause")),
        });
    }
    if status.policy.waiting {
        found.push(Alert {
            level: Level::Stopped,
            what: "The configured policy is not in force. Nothing is planned or deleted.".to_owned(),
            detail: "Somebody has to accept it: retentiond policy accept.".to_owned(),
            link: Some((links::SYSTEM, "See the policy")),
        });
    }
    if status.mode == Mode::Observe {
        found.push(Alert {
            level: Level::Notice,
            what: "Mode is observe. Nothing is deleted.".to_owned(),
            detail: "What would be deleted is planned and told.".to_owned(),
            link: None,
        });
    }
    found
}

/// A page: its head, what is around it, and `body`.
#[must_use]
pub fn layout(page: &Page, here: Section, title: &str, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="referrer" content="same-origin";
                title { (title) " · retentiond" }
                link rel="icon" href=(assets::ICON);
                link rel="stylesheet" href=(assets::CSS.path);
                script src=(assets::JS.path) defer {}
            }
            body data-now=(page.now.to_rfc3339()) data-refresh[here != Section::None] {
                a class="skip" href="#main" { "Skip to the content" }
                header class="top" {
                    a class="brand" href=(links::OVERVIEW) { span class="seal" aria-hidden="true" {} "retentiond" }
                    @if page.who.is_some() {
                        form class="find" role="search" method="get" action=(links::EXPLAIN) {
                            label class="unseen" for="find" { "Account id" }
                            input id="find" name="account" type="search" placeholder="Account id" autocomplete="off" spellcheck="false" required;
                            button { "Explain" }
                        }
                    }
                    @if let Some(who) = &page.who {
                        div class="who" {
                            span { strong { (pieces::shown(&who.name)) } " " span class="quiet" { (who.role.as_str()) } }
                            @if who.session { form method="post" action=(links::SIGN_OUT) { button class="plain" { "Sign out" } } }
                        }
                    }
                }
                @if page.who.is_some() {
                    nav class="sections" aria-label="Pages" {
                        ul {
                            @for (section, href, name) in SECTIONS {
                                li { a href=(href) aria-current=[(section == here).then_some("page")] { (name) } }
                            }
                        }
                    }
                }
                main id="main" tabindex="-1" {
                    @for alert in &page.alerts { (banner(alert)) }
                    @match &page.said {
                        Some(Said::Done(what)) => { p class="said done" role="status" { (what) } }
                        Some(Said::Refused(why)) => { p class="said refused" role="alert" { (why) } }
                        None => {}
                    }
                    (body)
                }
                footer class="foot" {
                    span { "As of " (pieces::stamp(page.now)) }
                    span class="quiet" { "retentiond " (page.version) }
                }
            }
        }
    }
}

fn banner(alert: &Alert) -> Markup {
    let class = match alert.level {
        Level::Stopped => "alert stopped",
        Level::Notice => "alert notice",
    };
    html! {
        aside class=(class) aria-label="Notice" {
            p {
                strong { (alert.what) }
                @if !alert.detail.is_empty() { " " span { (pieces::shown(&alert.detail)) } }
                @if let Some((href, words)) = alert.link { " " a href=(href) { (words) } }
            }
        }
    }
}

#[cfg(test)]
mod tests;
