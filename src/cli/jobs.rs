//! `jobs`: list, show, retry, close.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{
    Cli, Output, block_on,
    control::{Why, actor},
    now, print, print_json,
};
use crate::{
    acts::Act,
    database::Purpose,
    failure::Failure,
    jobs::{self, Filter, Job},
    model::rfc3339,
    terminal::{printable, relative, table},
};

/// Rows of a table when no limit is given (R36).
const ROWS: i64 = 100;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// The jobs that pass every filter, newest first.
    List(ListArguments),
    /// One job in full.
    Show {
        /// Its id.
        id: i64,
    },
    /// End the back-off of a job.
    Retry {
        /// Its id.
        id: i64,
    },
    /// Give up a purge that can never be verified: the job is cancelled, and nothing ever says that it was deleted.
    Close {
        /// Its id.
        id: i64,
        #[command(flatten)]
        why: Why,
    },
}

#[derive(Debug, Args)]
pub(super) struct ListArguments {
    /// scheduled, running, completed or cancelled.
    #[arg(long, value_parser = ["scheduled", "running", "completed", "cancelled"])]
    state: Option<String>,
    /// Of this account.
    #[arg(long)]
    account: Option<String>,
    /// Of this data class.
    #[arg(long)]
    data_class: Option<String>,
    /// Past `delete_by`, open and not held.
    #[arg(long)]
    overdue: bool,
    /// So many at most. Tables stop at 100 by themselves, JSON does not.
    #[arg(long, value_parser = clap::value_parser!(i64).range(1..))]
    limit: Option<i64>,
}

/// One job in full.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    job: Job,
    /// Levels of erasure, each with when it was found to be reached.
    levels: BTreeMap<String, String>,
}

impl Cli {
    pub(super) fn jobs(&self, verb: Verb) -> Result<(), Failure> {
        let config = self.one_shot()?;
        block_on(async {
            match verb {
                Verb::List(arguments) => {
                    let limit = arguments.limit.or(if self.output == Output::Table { Some(ROWS) } else { None });
                    let ListArguments { state, account, data_class, overdue, .. } = arguments;
                    let mut tx = self.own_tables(&config, Purpose::Compare).await?;
                    let jobs = jobs::list(&mut tx, &Filter { id: None, state, account, data_class, overdue, limit }).await?;
                    match self.output {
                        Output::Json => print_json(&jobs),
                        Output::Table => {
                            let now = now(&mut tx).await?;
                            let rows: Vec<Vec<String>> = jobs.iter().map(|job| row(job, now)).collect();
                            print(&table(&["id", "account", "class", "state", "starting point", "retain until", "when", "deleted"], &rows));
                            Ok(())
                        }
                    }
                }
                Verb::Show { id } => {
                    let mut tx = self.own_tables(&config, Purpose::Compare).await?;
                    let job = jobs::list(&mut tx, &Filter { id: Some(id), ..Filter::default() }).await?.pop();
                    let job = job.ok_or_else(|| no_such_job(id))?;
                    let levels = jobs::levels(&mut tx, id).await?;
                    print_json(&Shown { job, levels })
                }
                // Nobody has ever been asked why.
                Verb::Retry { id } => self.act(&config, Act::RetryJob { id }, &actor(None), "").await.map(drop),
                Verb::Close { id, why } => self.act(&config, Act::CloseJob { id }, &why.by(), &why.reason).await.map(drop),
            }
        })
    }
}

fn no_such_job(id: i64) -> Failure {
    Failure::Other(anyhow::anyhow!("there is no job {id} of which that could be said; `retentiond jobs list` shows the ids"))
}

fn row(job: &Job, now: chrono::DateTime<chrono::Utc>) -> Vec<String> {
    let when = match (job.completed_at.or(job.cancelled_at), job.held, job.overdue) {
        (Some(ended), ..) => relative(ended, now),
        (None, true, _) => "held".to_owned(),
        (None, false, true) => "OVERDUE".to_owned(),
        (None, false, false) => relative(job.retain_until, now),
    };
    let deleted: i64 = job.records_deleted.0.values().sum();
    vec![
        job.id.clone(),
        printable(&job.account_id).into_owned(),
        format!("{}/{}", job.feature, job.data_class),
        job.state.clone(),
        job.starting_point.clone(),
        rfc3339(job.retain_until),
        when,
        deleted.to_string(),
    ]
}
