//! What a person may do: one shape for the shell, the API and the pages. Each act is checked, done in the caller's transaction, written down with
//! who and why, and told to the log by whoever committed it. What an act means for jobs is decided by the gateways that it calls.

mod list;
mod tell;

use std::{collections::BTreeSet, time::Duration};

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgConnection;

pub use list::{Asked, Entry, list};
pub use tell::action;

use crate::{
    catalog,
    config::{Config, DataClass, People, Role},
    database::{DatabaseError, Purpose},
    jobs::{self, Filter, Job},
    model::{REQUEST, rfc3339},
    requests::{self, Answer, Request},
    safeguards::{
        self, agreement,
        approvals::{Approval, Given},
        control::{self, Hold, Scope},
    },
};

/// Whether an account can be spelt so is asked no longer than this: what is to be stopped goes on meanwhile.
const SPELT_WITHIN: Duration = Duration::from_secs(2);
/// Longest reason or name, in characters.
const LONGEST: usize = 1_000;

/// An act.
#[derive(Debug, Clone)]
pub enum Act {
    /// Nothing it covers is deleted any more.
    PlaceHold {
        /// What it covers; an account at least.
        scope: Scope,
        /// Ends by itself then.
        until: Option<DateTime<Utc>>,
    },
    /// What the hold covered is eligible again.
    ReleaseHold {
        /// The hold.
        id: i64,
    },
    /// Deletion of everything, of an account or of a data class stops.
    Pause {
        /// What stops.
        scope: Scope,
    },
    /// Deletion goes on.
    Resume {
        /// Exactly the scope that was paused.
        scope: Scope,
    },
    /// What waits at this moment may begin.
    ReleaseGuard,
    /// The policy of the configuration comes into force.
    AcceptPolicy,
    /// A job that waits after a failure is tried at once, if it is due.
    RetryJob {
        /// The job.
        id: i64,
    },
    /// A job is given up, with nothing said about its records.
    CloseJob {
        /// The job.
        id: i64,
    },
    /// Records of an account are deleted early.
    PlaceRequest {
        /// Which; an account at least.
        scope: Scope,
    },
    /// A request that waits for a second person is accepted.
    ApproveRequest {
        /// The request.
        id: i64,
    },
    /// Nothing is deleted for the request any more.
    WithdrawRequest {
        /// The request.
        id: i64,
    },
}

impl Act {
    /// The words of the command line for it.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::PlaceHold { .. } => "hold place",
            Self::ReleaseHold { .. } => "hold release",
            Self::Pause { .. } => "pause",
            Self::Resume { .. } => "resume",
            Self::ReleaseGuard => "guard release",
            Self::AcceptPolicy => "policy accept",
            Self::RetryJob { .. } => "jobs retry",
            Self::CloseJob { .. } => "jobs close",
            Self::PlaceRequest { .. } => "request",
            Self::ApproveRequest { .. } => "request approve",
            Self::WithdrawRequest { .. } => "request withdraw",
        }
    }

    /// The least role that may do it through the API or on a page. Operators stop deletion and let go on what was only paused; what lets anything else
    /// be deleted, or sooner, is for officers.
    #[must_use]
    pub fn role(&self) -> Role {
        match self {
            Self::PlaceHold { .. } | Self::Pause { .. } | Self::Resume { .. } | Self::RetryJob { .. } => Role::Operator,
            Self::ReleaseHold { .. }
            | Self::ReleaseGuard
            | Self::AcceptPolicy
            | Self::CloseJob { .. }
            | Self::PlaceRequest { .. }
            | Self::ApproveRequest { .. }
            | Self::WithdrawRequest { .. } => Role::Officer,
        }
    }

    /// What its transaction is for.
    #[must_use]
    pub fn purpose(&self) -> Purpose {
        if matches!(self, Self::ReleaseGuard) { Purpose::Bulk } else { Purpose::Write }
    }

    /// What it names, as far as it names anything.
    fn scope(&self) -> Option<&Scope> {
        match self {
            Self::PlaceHold { scope, .. } | Self::Pause { scope } | Self::Resume { scope } | Self::PlaceRequest { scope } => Some(scope),
            Self::ReleaseHold { .. }
            | Self::ReleaseGuard
            | Self::AcceptPolicy
            | Self::RetryJob { .. }
            | Self::CloseJob { .. }
            | Self::ApproveRequest { .. }
            | Self::WithdrawRequest { .. } => None,
        }
    }

    /// Neither retry nor approval has ever asked why.
    fn needs_reason(&self) -> bool {
        !matches!(self, Self::RetryJob { .. } | Self::ApproveRequest { .. })
    }
}

/// Where an act comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surface {
    /// The command line.
    Shell,
    /// A program.
    Api,
    /// A person before a page.
    Page,
}

impl Surface {
    /// The word in `retention.acts`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shell => "shell",
            Self::Api => "api",
            Self::Page => "page",
        }
    }
}

/// Who does it, and why.
#[derive(Debug, Clone, Copy)]
pub struct Actor<'a> {
    /// The name.
    pub by: &'a str,
    /// Why.
    pub reason: &'a str,
    /// Where.
    pub surface: Surface,
}

/// What came of an act. Serialized, it is what the shell and the API answer.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Done {
    /// The hold as it is, or was when it was released.
    Hold(Hold),
    /// How many pauses were lifted.
    Resumed {
        /// Pauses of exactly that scope.
        lifted: u64,
    },
    /// It is paused.
    Paused {
        /// Always true.
        paused: bool,
    },
    /// How many jobs may begin.
    GuardReleased {
        /// Jobs that were waiting.
        jobs: u64,
    },
    /// The fingerprint in force.
    PolicyAccepted {
        /// The fingerprint.
        policy: String,
        /// What it changed, in words.
        changes: Vec<String>,
    },
    /// The job as it was.
    Job(Box<Job>),
    /// The request as it is now.
    Request(Box<Request>),
    /// What was said is on record; another person must do the same.
    Waits {
        /// In words.
        waits: String,
    },
}

/// Why an act was not done. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// There is no such hold, job, request or pause.
    #[error("{0}")]
    Unknown(String),
    /// What was asked for makes no sense here.
    #[error("{0}")]
    Senseless(String),
    /// Its subject is in a state in which that cannot be done.
    #[error("{0}")]
    Past(String),
    /// It needs another person than this one.
    #[error("{0}")]
    Another(String),
    /// The guard stays, whoever releases it.
    #[error("refused by the guard: {0}")]
    Guard(String),
    /// The main database.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl From<sqlx::Error> for Refused {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

/// An act that was done in a transaction, and is true once that has committed.
#[derive(Debug)]
#[must_use = "tell it once its transaction has committed"]
pub struct Performed {
    /// What came of it.
    pub done: Done,
    act: Act,
    /// All who said that it may be done.
    by: String,
    reason: String,
    surface: Surface,
}

/// Checks the act and does it, within the transaction of `conn`, which the caller commits. Stops take the stop lock (R15), as do releases of the guard.
///
/// # Errors
/// When it is refused; the transaction is to be given up then.
pub async fn perform(conn: &mut PgConnection, config: &Config, act: Act, actor: Actor<'_>) -> Result<Performed, Refused> {
    for (what, text, needed) in [("reason", actor.reason, act.needs_reason()), ("name", actor.by, true)] {
        if needed && text.trim().is_empty() {
            return Err(Refused::Senseless(format!(
                "the {what} is empty; say {}",
                if what == "name" { "who" } else { "why, in a few words" }
            )));
        }
        if text.chars().count() > LONGEST || text.contains('\0') {
            return Err(Refused::Senseless(format!(
                "the {what} is longer than {LONGEST} characters, or holds a character that no table takes"
            )));
        }
    }
    // What was paused can be let go on, also where the configuration has no such class any more.
    if let Some(scope) = act.scope().filter(|_| !matches!(act, Act::Resume { .. })) {
        can_match(config, scope)?;
    }
    let mut by = actor.by.to_owned();
    let done = carry_out(&mut *conn, config, &act, actor, &mut by).await?;
    write_down(conn, &act, &done, actor).await?;
    Ok(Performed { done, act, by, reason: actor.reason.to_owned(), surface: actor.surface })
}

async fn carry_out(conn: &mut PgConnection, config: &Config, act: &Act, actor: Actor<'_>, by: &mut String) -> Result<Done, Refused> {
    let Actor { by: name, reason, .. } = actor;
    match act {
        Act::PlaceHold { scope, until } => {
            if scope.account.is_none() {
                return Err(Refused::Senseless("a hold is for one account; name it".to_owned()));
            }
            if let Some(until) = *until
                && until <= now(&mut *conn).await?
            {
                return Err(Refused::Senseless(format!("{} has passed: such a hold would hold nothing", rfc3339(until))));
            }
            Ok(Done::Hold(control::place_hold(conn, scope, reason, name, *until).await?))
        }
        Act::ReleaseHold { id } => {
            let none = || Refused::Unknown(format!("no hold {id} is in force; `retentiond hold list` shows those that are"));
            let given = Given { people: config.approvals.hold_release, by: name, reason };
            let approval = control::approve_release(&mut *conn, *id, given).await?.ok_or_else(none)?;
            if let Some(waits) = settle("the release of a hold", by, approval) {
                return Ok(waits);
            }
            Ok(Done::Hold(control::release_hold(conn, *id, reason, by).await?.ok_or_else(none)?))
        }
        Act::Pause { scope } => {
            control::pause(conn, scope, reason, name).await?;
            Ok(Done::Paused { paused: true })
        }
        Act::Resume { scope } => match control::resume(conn, scope, reason, name).await? {
            0 => Err(Refused::Unknown("no pause of exactly this scope is in force".to_owned())),
            lifted => Ok(Done::Resumed { lifted }),
        },
        Act::ReleaseGuard => release_guard(conn, config, actor, by).await,
        Act::AcceptPolicy => accept_policy(conn, config, actor, by).await,
        Act::RetryJob { id } => {
            let job = job(&mut *conn, *id).await?;
            if jobs::retry(conn, *id).await? { Ok(Done::Job(Box::new(job))) } else { Err(no_such_job(*id)) }
        }
        Act::CloseJob { id } => close(conn, config, *id, actor).await,
        Act::PlaceRequest { scope } => {
            if scope.account.is_none() {
                return Err(Refused::Senseless("a request is for one account; name it".to_owned()));
            }
            let parts = covered(config, scope)?;
            let within = (config.approvals.request == People::One).then_some(config.requests.fulfil_within);
            answered(0, requests::place(conn, scope, &parts, reason, name, within).await?)
        }
        Act::ApproveRequest { id } => answered(*id, requests::approve(conn, *id, name, config.requests.fulfil_within).await?),
        Act::WithdrawRequest { id } => answered(*id, requests::withdraw(conn, *id, reason, name).await?),
    }
}

async fn release_guard(conn: &mut PgConnection, config: &Config, actor: Actor<'_>, by: &mut String) -> Result<Done, Refused> {
    let none = || Refused::Past("the guard has not tripped".to_owned());
    let given = Given { people: config.approvals.guard_release, by: actor.by, reason: actor.reason };
    let Some(approval) = control::approve_guard(&mut *conn, given).await? else {
        // What the ledger keeps from going on, a release does not let go.
        let why = safeguards::guard(conn).await?.reason.map(Refused::Guard);
        return Err(why.unwrap_or_else(none));
    };
    if let Some(waits) = settle("the release of the guard", by, approval) {
        return Ok(waits);
    }
    let jobs = control::release_guard(conn, config.guard.window, actor.reason, by).await?.ok_or_else(none)?;
    Ok(Done::GuardReleased { jobs })
}

async fn accept_policy(conn: &mut PgConnection, config: &Config, actor: Actor<'_>, by: &mut String) -> Result<Done, Refused> {
    let terms = config.terms();
    let accepted = agreement::accepted(&mut *conn).await?;
    if accepted.as_ref().is_some_and(|accepted| accepted.hash == terms.hash()) {
        return Err(Refused::Past("the policy of this configuration is in force already".to_owned()));
    }
    let given = Given { people: config.approvals.policy_accept, by: actor.by, reason: actor.reason };
    let approval = agreement::approve(&mut *conn, &terms, given).await?;
    if let Some(waits) = settle("accepting a policy", by, approval) {
        return Ok(waits);
    }
    agreement::accept(conn, &terms, actor.reason, by).await?;
    let changes = accepted.map(|accepted| accepted.terms.0.changes(&terms)).unwrap_or_default();
    Ok(Done::PolicyAccepted { policy: terms.hash(), changes: changes.iter().map(|c| format!("{} {}", c.subject, c.what)).collect() })
}

async fn close(conn: &mut PgConnection, config: &Config, id: i64, actor: Actor<'_>) -> Result<Done, Refused> {
    let job = job(&mut *conn, id).await?;
    let class = config.data_classes.iter().find(|c| c.feature == job.feature && c.name == job.data_class);
    let places = class.map(DataClass::places_fingerprint).unwrap_or_default();
    let why = format!("closed by {}: {}", actor.by, actor.reason);
    if jobs::close(conn, id, &places, &why).await? {
        return Ok(Done::Job(Box::new(job)));
    }
    Err(Refused::Past(if job.starting_point == REQUEST {
        format!(
            "job {id} is for a request, and would be scheduled again until that is withdrawn; `retentiond request list` shows which it is"
        )
    } else {
        format!(
            "job {id} is {} and was attempted {} times: only an open job that is due and was attempted can be closed",
            job.state, job.attempts
        )
    }))
}

/// With enough said, `by` becomes the names of all who said so; else what the act waits for.
fn settle(what: &str, by: &mut String, approval: Approval) -> Option<Done> {
    let said = match approval {
        Approval::Enough(names) => {
            *by = names;
            return None;
        }
        Approval::Waits => format!("{by}'s approval is on record"),
        Approval::Again => format!("{by} has said so before"),
    };
    Some(Done::Waits {
        waits: format!(
            "{what} needs two people: {said}, and another person must do the same within 24 h, with a --by of their own; nothing was changed"
        ),
    })
}

fn answered(id: i64, answer: Answer) -> Result<Done, Refused> {
    match answer {
        Answer::Done(request) => Ok(Done::Request(request)),
        Answer::Unknown => Err(Refused::Unknown(format!("there is no request {id}; `retentiond request list` shows those there are"))),
        Answer::Past(state) => Err(Refused::Past(format!("request {id} is {state}: nothing of that can be done to it any more"))),
        Answer::SamePerson => Err(Refused::Another(format!(
            "whoever asked for request {id} cannot approve it; another person has to, with a --by of their own"
        ))),
    }
}

async fn job(conn: &mut PgConnection, id: i64) -> Result<Job, Refused> {
    jobs::list(conn, &Filter { id: Some(id), ..Filter::default() }).await?.pop().ok_or_else(|| no_such_job(id))
}

fn no_such_job(id: i64) -> Refused {
    Refused::Unknown(format!("there is no job {id} of which that could be said; `retentiond jobs list` shows the ids"))
}

async fn now(conn: &mut PgConnection) -> Result<DateTime<Utc>, DatabaseError> {
    Ok(sqlx::query_scalar("select now()").fetch_one(conn).await?)
}

async fn write_down(conn: &mut PgConnection, act: &Act, done: &Done, actor: Actor<'_>) -> Result<(), DatabaseError> {
    let named = |id: &String, account: &String, feature: Option<&String>, class: Option<&String>| {
        (Some(id.clone()), Some(account.clone()), feature.cloned(), class.cloned())
    };
    let (subject, account, feature, class) = match (done, act.scope()) {
        (Done::Hold(h), _) => named(&h.id, &h.account_id, h.feature.as_ref(), h.data_class.as_ref()),
        (Done::Job(j), _) => named(&j.id, &j.account_id, Some(&j.feature), Some(&j.data_class)),
        (Done::Request(r), _) => named(&r.id, &r.account_id, r.feature.as_ref(), r.data_class.as_ref()),
        (_, Some(scope)) => (None, scope.account.clone(), scope.feature.clone(), scope.data_class.clone()),
        (_, None) => (None, None, None, None),
    };
    let outcome = if matches!(done, Done::Waits { .. }) { "waits" } else { "done" };
    sqlx::query(
        "insert into retention.acts (act, surface, actor, reason, outcome, subject, account_id, feature, data_class)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(act.as_str())
    .bind(actor.surface.as_str())
    .bind(actor.by)
    .bind(actor.reason)
    .bind(outcome)
    .bind(subject)
    .bind(account)
    .bind(feature)
    .bind(class)
    .execute(conn)
    .await?;
    Ok(())
}

/// Refuses an account that no source can have under this spelling (R7): what was placed for it would hold nothing. Where the sources cannot be read, it is
/// taken as it is: an incident may be about them. On a connection of its own, not in the transaction of the act, which it could break.
///
/// # Errors
/// That refusal.
pub async fn spelt(conn: &mut PgConnection, config: &Config, act: &Act) -> Result<(), Refused> {
    let new = matches!(act, Act::PlaceHold { .. } | Act::Pause { .. } | Act::PlaceRequest { .. });
    let Some(account) = act.scope().and_then(|scope| scope.account.as_ref()).filter(|_| new) else { return Ok(()) };
    // Nor does it wait for a server that has other things to do.
    let Ok(Ok((Some(layout), _))) = tokio::time::timeout(SPELT_WITHIN, catalog::inspect(conn, config)).await else { return Ok(()) };
    if layout.points.is_empty() || layout.points.iter().any(|point| point.key.holds(account)) {
        return Ok(());
    }
    let keys: BTreeSet<&str> = layout.points.iter().map(|point| point.key.sql()).collect();
    let keys = keys.into_iter().collect::<Vec<_>>().join(" and ");
    Err(Refused::Senseless(format!(
        "{account:?} can be no account: they are of type {keys} here; write it the way the database does (a uuid in lower case with hyphens, a number without zeros before it)"
    )))
}

/// Refuses a scope that covers nothing: somebody who mistyped a name would rely on it all the same.
fn can_match(config: &Config, scope: &Scope) -> Result<(), Refused> {
    let purged = config.data_classes.iter().map(|c| (c.feature.as_str(), c.name.as_str()));
    let kept = config.customer_places.iter().filter_map(|p| p.class.split_once('/'));
    let classes: Vec<(&str, &str)> = purged.chain(kept).collect();
    if classes.iter().any(|class| fits(scope, class)) {
        return Ok(());
    }
    let known = classes.iter().map(|(feature, name)| format!("{feature}/{name}")).collect::<Vec<_>>().join(", ");
    Err(Refused::Senseless(format!("{} is no feature or data class of the configuration, which has {known}", words(scope))))
}

/// The classes that a request covers: all that match, and at least one. What the customer controls is nobody's to ask for.
fn covered<'c>(config: &'c Config, scope: &Scope) -> Result<Vec<(&'c str, &'c str)>, Refused> {
    let classes = config.data_classes.iter().map(|class| (class.feature.as_str(), class.name.as_str()));
    let covered: Vec<_> = classes.filter(|class| fits(scope, class)).collect();
    if covered.is_empty() {
        return Err(Refused::Senseless(format!("{} is under the customer's control: no request reaches it", words(scope))));
    }
    Ok(covered)
}

fn fits(scope: &Scope, (feature, name): &(&str, &str)) -> bool {
    scope.feature.as_ref().is_none_or(|given| given == feature) && scope.data_class.as_ref().is_none_or(|given| given == name)
}

fn words(scope: &Scope) -> String {
    [scope.feature.as_deref(), scope.data_class.as_deref()].into_iter().flatten().collect::<Vec<_>>().join("/")
}
