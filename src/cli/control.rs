//! `hold`, `pause`, `resume`, `guard`: what stops deletion and what lets it go on. Every act has an actor and a reason, and is logged; some need two actors.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};

use super::{Cli, Output, block_on, print, print_json};
use crate::{
    acts::{self, Act, Actor, Done, Surface},
    config::{self, Config},
    database::{Database, Purpose},
    failure::Failure,
    safeguards::{
        self,
        control::{self, Hold, Scope},
    },
    terminal::{printable, table},
};

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
        why: Why,
    },
    /// The holds in force.
    List,
    /// Make eligible again what the hold covered.
    Release {
        /// The hold's id.
        id: i64,
        #[command(flatten)]
        why: Why,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum GuardVerb {
    /// Whether it has tripped, and why.
    Status,
    /// Let through what waits at this moment, and no more.
    Release {
        #[command(flatten)]
        why: Why,
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
    why: Why,
}

/// Who does it and why.
#[derive(Debug, Args)]
pub(super) struct Why {
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

impl Why {
    pub(super) fn by(&self) -> String {
        actor(self.by.as_ref())
    }
}

/// Who it is: as given, else the login name.
pub(super) fn actor(given: Option<&String>) -> String {
    let login = || ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| config::environment().remove(*name));
    given.cloned().or_else(login).unwrap_or_else(|| "unknown".to_owned())
}

impl Cli {
    /// Does an act, and says what came of it. What waits for another person is on record, and still no success.
    pub(super) async fn act(&self, config: &Config, act: Act, by: &str, reason: &str) -> Result<Done, Failure> {
        let mut tx = self.own_tables(config, Purpose::Read).await?;
        acts::spelt(&mut tx, config, &act).await?;
        drop(tx);
        let mut tx = self.own_tables(config, act.purpose()).await?;
        let performed = acts::perform(&mut tx, config, act, Actor { by, reason, surface: Surface::Shell }).await?;
        Database::commit(tx).await?;
        let done = performed.tell();
        if let Done::Waits { waits } = done { Err(Failure::Approval(waits)) } else { Ok(done) }
    }

    pub(super) fn hold(&self, verb: HoldVerb) -> Result<(), Failure> {
        let config = self.one_shot()?;
        block_on(async {
            let (act, why) = match verb {
                HoldVerb::List => return self.list_holds(&config).await,
                HoldVerb::Place { account, feature, data_class, until, why } => {
                    (Act::PlaceHold { scope: Scope { account: Some(account), feature, data_class }, until }, why)
                }
                HoldVerb::Release { id, why } => (Act::ReleaseHold { id }, why),
            };
            let done = self.act(&config, act, &why.by(), &why.reason).await?;
            if let (Done::Hold(hold), Output::Table) = (&done, self.output) {
                print(&hold_table(std::slice::from_ref(hold)));
            } else {
                print_json(&done)?;
            }
            Ok(())
        })
    }

    async fn list_holds(&self, config: &Arc<Config>) -> Result<(), Failure> {
        let mut tx = self.own_tables(config, Purpose::Read).await?;
        let holds = control::holds(&mut tx).await?;
        match self.output {
            Output::Json => print_json(&holds),
            Output::Table => {
                print(&hold_table(&holds));
                Ok(())
            }
        }
    }

    pub(super) fn pause(&self, pause: PauseScope) -> Result<(), Failure> {
        let config = self.one_shot()?;
        let PauseScope { account, data_class, why } = pause;
        let scope = Scope { account, feature: None, data_class };
        block_on(async { self.act(&config, Act::Pause { scope }, &why.by(), &why.reason).await.map(drop) })
    }

    pub(super) fn resume(&self, pause: PauseScope) -> Result<(), Failure> {
        let config = self.one_shot()?;
        let PauseScope { account, data_class, why } = pause;
        let scope = Scope { account, feature: None, data_class };
        block_on(async { self.act(&config, Act::Resume { scope }, &why.by(), &why.reason).await.map(drop) })
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
                GuardVerb::Release { why } => self.act(&config, Act::ReleaseGuard, &why.by(), &why.reason).await.map(drop),
            }
        })
    }
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
