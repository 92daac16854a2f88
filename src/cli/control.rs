//! `hold`, `pause`, `resume`, `guard`: what stops deletion and what lets it go on. Every act has an actor and a reason, and is logged; some need two actors.

use std::{collections::BTreeSet, time::Duration};

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};

use super::{Cli, Output, block_on, now, print, print_json};
use crate::{
    catalog,
    config::{self, Config, People},
    database::{Database, Purpose},
    failure::Failure,
    model::rfc3339,
    safeguards::{
        self,
        approvals::{Approval, Given},
        control::{self, Hold, Scope},
    },
    terminal::{printable, table},
};

/// Whether an account can be spelt so is asked no longer than this: what is to be stopped goes on meanwhile.
const SPELT_WITHIN: Duration = Duration::from_secs(2);

#[derive(Debug, Subcommand)]
pub(super) enum HoldVerb {
    /// Nothing of the account is deleted while the hold is in force.
    Place {
        /// The account's id.
        #[arg(long, value_parser = NonEmptyStringValueParser::new())]
        account: String,
        /// Only this feature.
        #[arg(long)]
        feature: Option<String>,
        /// Only this data class.
        #[arg(long)]
        data_class: Option<String>,
        /// Ends by itself at this instant (RFC 3339).
        #[arg(long, value_name = "INSTANT")]
        until: Option<DateTime<Utc>>,
        #[command(flatten)]
        act: Act,
    },
    /// The holds in force.
    List,
    /// Make eligible again what the hold covered.
    Release {
        /// The hold's id.
        id: i64,
        #[command(flatten)]
        act: Act,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum GuardVerb {
    /// Whether it has tripped, and why.
    Status,
    /// Let through what waits at this moment, and no more.
    Release {
        #[command(flatten)]
        act: Act,
    },
}

#[derive(Debug, Args)]
pub(super) struct PauseScope {
    /// Only this account.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    account: Option<String>,
    /// Only this data class.
    #[arg(long)]
    data_class: Option<String>,
    #[command(flatten)]
    act: Act,
}

/// Who does it and why.
#[derive(Debug, Args)]
pub(super) struct Act {
    /// Why; kept with the act.
    #[arg(long, value_parser = reason)]
    pub(super) reason: String,
    /// Who; the login name unless given.
    #[arg(long)]
    by: Option<String>,
}

pub(super) fn reason(text: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err("say why, in a few words".to_owned()) } else { Ok(text.to_owned()) }
}

impl Act {
    /// The same, for an act that may need two.
    pub(super) fn given<'a>(&'a self, people: People, by: &'a str) -> Given<'a> {
        Given { people, by, reason: &self.reason }
    }

    pub(super) fn by(&self) -> String {
        actor(self.by.as_ref())
    }
}

/// Who it is: as given, else the login name.
pub(super) fn actor(given: Option<&String>) -> String {
    let login = || ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| config::environment().remove(*name));
    given.cloned().or_else(login).unwrap_or_else(|| "unknown".to_owned())
}

/// The names of all who said that it may be done; else an error that says who else has to.
pub(super) fn approved(what: &str, by: &str, approval: Approval) -> Result<String, Failure> {
    let said = match approval {
        Approval::Enough(by) => return Ok(by),
        Approval::Waits => format!("{by}'s approval is on record"),
        Approval::Again => format!("{by} has said so before"),
    };
    Err(Failure::Approval(format!(
        "{what} needs two people: {said}, and another person must do the same within 24 h, with a --by of their own; nothing was changed"
    )))
}

impl Cli {
    /// Refuses an account that no source can have under this spelling (R7): what was placed for it would hold nothing. Where the sources cannot be read, it is
    /// taken as it is: an incident may be about them.
    pub(super) async fn spelt(&self, config: &Config, scope: &Scope) -> Result<(), Failure> {
        let Some(account) = &scope.account else { return Ok(()) };
        let mut tx = self.own_tables(config, Purpose::Read).await?;
        // Nor does it wait for a server that has other things to do.
        let Ok(Ok((Some(layout), _))) = tokio::time::timeout(SPELT_WITHIN, catalog::inspect(&mut tx, config)).await else { return Ok(()) };
        if layout.points.is_empty() || layout.points.iter().any(|point| point.key.holds(account)) {
            return Ok(());
        }
        let keys: BTreeSet<&str> = layout.points.iter().map(|point| point.key.sql()).collect();
        let keys = keys.into_iter().collect::<Vec<_>>().join(" and ");
        Err(Failure::Other(anyhow::anyhow!(
            "{account:?} can be no account: they are of type {keys} here; write it the way the database does (a uuid in lower case with hyphens, a number without zeros before it)"
        )))
    }

    pub(super) fn hold(&self, verb: HoldVerb) -> Result<(), Failure> {
        let config = self.one_shot()?;
        block_on(async {
            match verb {
                HoldVerb::Place { account, feature, data_class, until, act } => {
                    let scope = Scope { account: Some(account), feature, data_class };
                    can_match(&config, &scope)?;
                    self.spelt(&config, &scope).await?;
                    let mut tx = self.own_tables(&config, Purpose::Write).await?;
                    if let Some(until) = until
                        && until <= now(&mut tx).await?
                    {
                        return Err(Failure::Other(anyhow::anyhow!("{} has passed: such a hold would hold nothing", rfc3339(until))));
                    }
                    let hold = control::place_hold(&mut tx, &scope, &act.reason, &act.by(), until).await?;
                    Database::commit(tx).await?;
                    tell_hold("hold.placed", "nothing it covers is deleted any more", &hold, &act.reason, &act.by());
                    self.show_hold(&hold)
                }
                HoldVerb::List => {
                    let mut tx = self.own_tables(&config, Purpose::Read).await?;
                    let holds = control::holds(&mut tx).await?;
                    match self.output {
                        Output::Json => print_json(&holds),
                        Output::Table => {
                            print(&hold_table(&holds));
                            Ok(())
                        }
                    }
                }
                HoldVerb::Release { id, act } => {
                    let mut tx = self.own_tables(&config, Purpose::Write).await?;
                    let none = || Failure::Other(anyhow::anyhow!("no hold {id} is in force; `retentiond hold list` shows those that are"));
                    let approval = control::approve_release(&mut tx, id, act.given(config.approvals.hold_release, &act.by())).await?;
                    let by = approved("the release of a hold", &act.by(), approval.ok_or_else(none)?);
                    let hold = match &by {
                        Ok(by) => control::release_hold(&mut tx, id, &act.reason, by).await?,
                        Err(_) => None,
                    };
                    Database::commit(tx).await?;
                    let by = by?;
                    let hold = hold.ok_or_else(none)?;
                    tell_hold("hold.released", "what it covered is eligible again", &hold, &act.reason, &by);
                    self.show_hold(&hold)
                }
            }
        })
    }

    fn show_hold(&self, hold: &Hold) -> Result<(), Failure> {
        match self.output {
            Output::Json => print_json(hold),
            Output::Table => {
                print(&hold_table(std::slice::from_ref(hold)));
                Ok(())
            }
        }
    }

    pub(super) fn pause(&self, pause: PauseScope) -> Result<(), Failure> {
        let config = self.one_shot()?;
        let PauseScope { account, data_class, act } = pause;
        let scope = Scope { account, feature: None, data_class };
        can_match(&config, &scope)?;
        block_on(async {
            self.spelt(&config, &scope).await?;
            let mut tx = self.own_tables(&config, Purpose::Write).await?;
            control::pause(&mut tx, &scope, &act.reason, &act.by()).await?;
            Database::commit(tx).await?;
            let (account_id, data_class) = (&scope.account, &scope.data_class);
            tracing::warn!(event = "control.paused", account_id, data_class, reason = act.reason, actor = act.by(), "deletion is paused");
            Ok(())
        })
    }

    pub(super) fn resume(&self, pause: PauseScope) -> Result<(), Failure> {
        let config = self.one_shot()?;
        let PauseScope { account, data_class, act } = pause;
        let scope = Scope { account, feature: None, data_class };
        block_on(async {
            let mut tx = self.own_tables(&config, Purpose::Write).await?;
            let lifted = control::resume(&mut tx, &scope, &act.reason, &act.by()).await?;
            Database::commit(tx).await?;
            if lifted == 0 {
                return Err(Failure::Other(anyhow::anyhow!("no pause of exactly this scope is in force")));
            }
            let (account_id, data_class) = (&scope.account, &scope.data_class);
            tracing::warn!(
                event = "control.resumed",
                account_id,
                data_class,
                lifted,
                reason = act.reason,
                actor = act.by(),
                "deletion goes on"
            );
            Ok(())
        })
    }

    pub(super) fn guard(&self, verb: GuardVerb) -> Result<(), Failure> {
        let config = self.one_shot()?;
        block_on(async {
            match verb {
                GuardVerb::Status => {
                    let mut tx = self.own_tables(&config, Purpose::Read).await?;
                    let guard = safeguards::guard(&mut tx).await?;
                    match self.output {
                        Output::Json => print_json(&guard),
                        Output::Table => {
                            print(guard.reason.as_deref().unwrap_or(if guard.tripped { "tripped" } else { "open" }));
                            Ok(())
                        }
                    }
                }
                GuardVerb::Release { act } => {
                    let mut tx = self.own_tables(&config, Purpose::Bulk).await?;
                    let approval = control::approve_guard(&mut tx, act.given(config.approvals.guard_release, &act.by())).await?;
                    let Some(approval) = approval else {
                        // What the ledger keeps from going on, a release does not let go.
                        let why = safeguards::guard(&mut tx).await?.reason.map(Failure::Guard);
                        return Err(why.unwrap_or_else(|| Failure::Other(anyhow::anyhow!("the guard has not tripped"))));
                    };
                    let by = approved("the release of the guard", &act.by(), approval);
                    let released = match &by {
                        Ok(by) => control::release_guard(&mut tx, config.guard.window, &act.reason, by).await?,
                        Err(_) => None,
                    };
                    Database::commit(tx).await?;
                    let actor = by?;
                    let jobs = released.ok_or_else(|| Failure::Other(anyhow::anyhow!("the guard has not tripped")))?;
                    tracing::warn!(event = "guard.released", jobs, reason = act.reason, actor, "what was waiting may begin");
                    Ok(())
                }
            }
        })
    }
}

/// Refuses a scope that covers nothing: somebody who mistyped a name would rely on it all the same.
pub(super) fn can_match(config: &Config, scope: &Scope) -> Result<(), Failure> {
    let purged = config.data_classes.iter().map(|c| (c.feature.as_str(), c.name.as_str()));
    let kept = config.customer_places.iter().filter_map(|p| p.class.split_once('/'));
    let classes: Vec<(&str, &str)> = purged.chain(kept).collect();
    let fits = |given: Option<&String>, name: &str| given.is_none_or(|g| g == name);
    if classes.iter().any(|(feature, name)| fits(scope.feature.as_ref(), feature) && fits(scope.data_class.as_ref(), name)) {
        return Ok(());
    }
    let asked = [scope.feature.as_deref(), scope.data_class.as_deref()].into_iter().flatten().collect::<Vec<_>>().join("/");
    let known = classes.iter().map(|(feature, name)| format!("{feature}/{name}")).collect::<Vec<_>>().join(", ");
    Err(Failure::Other(anyhow::anyhow!("{asked} is no feature or data class of the configuration, which has {known}")))
}

fn tell_hold(event: &'static str, what: &str, hold: &Hold, reason: &str, by: &str) {
    tracing::warn!(
        event,
        hold_id = hold.id,
        account_id = hold.account_id,
        feature = hold.feature,
        data_class = hold.data_class,
        reason,
        actor = by,
        "{what}"
    );
}

fn hold_table(holds: &[Hold]) -> String {
    let everything = || "all".to_owned();
    let rows: Vec<Vec<String>> = holds
        .iter()
        .map(|h| {
            vec![
                h.id.clone(),
                printable(&h.account_id).into_owned(),
                h.feature.clone().unwrap_or_else(everything),
                h.data_class.clone().unwrap_or_else(everything),
                printable(&h.reason).into_owned(),
                printable(&h.placed_by).into_owned(),
                h.until.map_or_else(|| "released".to_owned(), crate::model::rfc3339),
            ]
        })
        .collect();
    table(&["id", "account", "feature", "data class", "reason", "placed by", "until"], &rows)
}
