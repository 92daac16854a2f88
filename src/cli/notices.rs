//! `notices`: what endpoints were told and will be, and what people may do about it. Acts have an actor and a reason, and are logged.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use clap::Subcommand;

use super::{Cli, Output, block_on, control::Why, now, print, print_json};
use crate::{
    config::Config,
    database::{Database, Purpose},
    failure::Failure,
    model::rfc3339,
    notices::{self, Filter, Notice, Notices, Replay},
    terminal::{printable, relative, table},
};

/// Rows unless more are asked for.
const ROWS: i64 = 100;

#[derive(Debug, Subcommand)]
pub(super) enum NoticesVerb {
    /// What was sent and what waits, the newest first.
    List {
        /// Only those for this endpoint.
        #[arg(long, value_name = "NAME")]
        endpoint: Option<String>,
        /// Only those that did not arrive.
        #[arg(long)]
        failed: bool,
        /// So many at most.
        #[arg(long, default_value_t = ROWS, value_parser = clap::value_parser!(i64).range(1..))]
        limit: i64,
    },
    /// Send notices once more, under the same ids, whatever became of them.
    Replay {
        /// Only those for this endpoint.
        #[arg(long, value_name = "NAME")]
        endpoint: Option<String>,
        /// What happened at or after this instant (RFC 3339).
        #[arg(long, value_name = "INSTANT", required_unless_present = "id", conflicts_with = "id")]
        since: Option<DateTime<Utc>>,
        /// One notice.
        #[arg(long)]
        id: Option<String>,
        #[command(flatten)]
        why: Why,
    },
    /// Send to an endpoint again that answered that it is gone for good.
    Enable {
        /// The endpoint's name in the configuration.
        name: String,
        #[command(flatten)]
        why: Why,
    },
    /// Send an event of type `retention.test`, now and once.
    Test {
        /// The endpoint's name in the configuration.
        name: String,
    },
}

impl Cli {
    pub(super) fn notices(&self, verb: NoticesVerb) -> Result<(), Failure> {
        let config = self.one_shot()?;
        block_on(async {
            match verb {
                NoticesVerb::List { endpoint, failed, limit } => {
                    let mut tx = self.own_tables(&config, Purpose::Compare).await?;
                    let notices = notices::list(&mut tx, &Filter { endpoint, failed, limit: Some(limit) }).await?;
                    match self.output {
                        Output::Json => print_json(&notices),
                        Output::Table => {
                            let now = now(&mut tx).await?;
                            let rows: Vec<Vec<String>> = notices.iter().map(|notice| row(notice, now)).collect();
                            print(&table(&["id", "endpoint", "type", "account", "at", "state", "tries", "next", "last error"], &rows));
                            Ok(())
                        }
                    }
                }
                NoticesVerb::Replay { endpoint, since, id, why } => {
                    let mut tx = self.own_tables(&config, Purpose::Bulk).await?;
                    let replayed = notices::replay(&mut tx, &Replay { endpoint: endpoint.clone(), since, id: id.clone() }).await?;
                    Database::commit(tx).await?;
                    if replayed == 0 {
                        return Err(Failure::Other(anyhow::anyhow!(
                            "there is no such notice; `retentiond notices list` shows those there are"
                        )));
                    }
                    let since = since.map(rfc3339);
                    let (reason, actor) = (&why.reason, why.by());
                    tracing::warn!(
                        event = "notice.replayed",
                        endpoint,
                        notice_id = id,
                        since,
                        notices = replayed,
                        reason,
                        actor,
                        "sent once more"
                    );
                    Ok(())
                }
                NoticesVerb::Enable { name, why } => {
                    known(&config, &name)?;
                    let mut tx = self.own_tables(&config, Purpose::Write).await?;
                    let enabled = notices::enable(&mut tx, &name).await?;
                    Database::commit(tx).await?;
                    if !enabled {
                        return Err(Failure::Other(anyhow::anyhow!("endpoint {name} is not disabled")));
                    }
                    let (reason, actor) = (&why.reason, why.by());
                    tracing::warn!(event = "notice.endpoint_enabled", endpoint = name, reason, actor, "it is sent to again");
                    Ok(())
                }
                NoticesVerb::Test { name } => {
                    known(&config, &name)?;
                    let mut tx = self.own_tables(&config, Purpose::Read).await?;
                    let (at, (id, source)) = (now(&mut tx).await?, notices::of_a_test(&mut tx).await?);
                    drop(tx);
                    let notices = Notices::new(Database::new(&config.database)?, Arc::clone(&config));
                    match notices.test(&name, &id, &source, at).await {
                        Some(Ok(())) => {
                            print(&format!("{name} has taken {id}"));
                            Ok(())
                        }
                        Some(Err(why)) => Err(Failure::Other(anyhow::anyhow!("{name} has not taken {id}: {why}"))),
                        None => known(&config, &name),
                    }
                }
            }
        })
    }
}

/// Refuses a name that no endpoint of the configuration has.
fn known(config: &Config, name: &str) -> Result<(), Failure> {
    if config.notices.iter().any(|endpoint| endpoint.name == name) {
        return Ok(());
    }
    let there: Vec<&str> = config.notices.iter().map(|endpoint| endpoint.name.as_str()).collect();
    let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
    Err(Failure::Other(anyhow::anyhow!("{name:?} is no endpoint of the configuration, which has {there}")))
}

fn row(notice: &Notice, now: DateTime<Utc>) -> Vec<String> {
    vec![
        printable(&notice.id).into_owned(),
        notice.endpoint.clone(),
        notice.r#type.clone(),
        notice.account_id.as_deref().map(|account| printable(account).into_owned()).unwrap_or_default(),
        rfc3339(notice.at),
        notice.state.clone(),
        notice.attempts.to_string(),
        notice.next_at.map(|at| relative(at, now)).unwrap_or_default(),
        notice.last_error.as_deref().map(|error| printable(error).into_owned()).unwrap_or_default(),
    ]
}
