//! `request`: deletion ahead of every starting point, because somebody asks for it (R30). Every act has an actor, and is logged.

use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};

use super::{
    Cli, Output, block_on,
    control::{Why, actor, reason},
    now, print, print_json,
};
use crate::{
    acts::{Act, Done},
    config::Config,
    database::Purpose,
    failure::Failure,
    model::rfc3339,
    requests::{self, Filter, Request},
    safeguards::control::Scope,
    terminal::{printable, relative, table},
};

/// Rows of a table for people.
const ROWS: i64 = 100;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// The account's id.
    #[arg(long, required = true, value_parser = NonEmptyStringValueParser::new())]
    account: Option<String>,
    /// Only this feature.
    #[arg(long)]
    feature: Option<String>,
    /// Only this data class.
    #[arg(long)]
    data_class: Option<String>,
    /// Why; kept with the request.
    #[arg(long, required = true, value_parser = reason)]
    reason: Option<String>,
    /// Who; the login name unless given.
    #[arg(long)]
    by: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Every request and what became of it, the newest first.
    List,
    /// Accept a request that waits for a second person.
    Approve {
        /// The request's id.
        id: i64,
        /// Who; the login name unless given.
        #[arg(long)]
        by: Option<String>,
    },
    /// Delete nothing for it any more.
    Withdraw {
        /// The request's id.
        id: i64,
        #[command(flatten)]
        why: Why,
    },
}

impl Cli {
    pub(super) fn request(&self, arguments: Arguments) -> Result<(), Failure> {
        let config = self.one_shot()?;
        block_on(async {
            let Arguments { verb, account, feature, data_class, reason, by } = arguments;
            let scope = Scope { account, feature, data_class };
            let (act, by, reason) = match (verb, reason) {
                (None, Some(reason)) => (Act::PlaceRequest { scope }, actor(by.as_ref()), reason),
                // The command line asks for it.
                (None, None) => return Err(Failure::Other(anyhow::anyhow!("say why, with --reason"))),
                (Some(Verb::List), _) => return self.list(&config).await,
                (Some(Verb::Approve { id, by }), _) => (Act::ApproveRequest { id }, actor(by.as_ref()), String::new()),
                (Some(Verb::Withdraw { id, why }), _) => (Act::WithdrawRequest { id }, why.by(), why.reason),
            };
            let done = self.act(&config, act, &by, &reason).await?;
            if let (Done::Request(request), Output::Table) = (&done, self.output) {
                print(&table(&HEADINGS, &[row(request, None)]));
            } else {
                print_json(&done)?;
            }
            Ok(())
        })
    }

    async fn list(&self, config: &Config) -> Result<(), Failure> {
        let mut tx = self.own_tables(config, Purpose::Compare).await?;
        let limit = (self.output == Output::Table).then_some(ROWS);
        let requests = requests::list(&mut tx, &Filter { limit, ..Filter::default() }).await?;
        match self.output {
            Output::Json => print_json(&requests),
            Output::Table => {
                let now = now(&mut tx).await?;
                let rows: Vec<Vec<String>> = requests.iter().map(|request| row(request, Some(now))).collect();
                print(&table(&HEADINGS, &rows));
                Ok(())
            }
        }
    }
}

const HEADINGS: [&str; 8] = ["id", "account", "class", "state", "asked by", "due by", "when", "reason"];

fn row(request: &Request, now: Option<chrono::DateTime<chrono::Utc>>) -> Vec<String> {
    let all = || "all".to_owned();
    let class = match (&request.feature, &request.data_class) {
        (None, None) => all(),
        (feature, name) => format!("{}/{}", feature.clone().unwrap_or_else(all), name.clone().unwrap_or_else(all)),
    };
    let when = match (request.withdrawn_at.or(request.fulfilled_at).or(request.due_by), now) {
        _ if request.overdue => "OVERDUE".to_owned(),
        (Some(at), Some(now)) => relative(at, now),
        (Some(_), None) | (None, _) => String::new(),
    };
    vec![
        request.id.clone(),
        printable(&request.account_id).into_owned(),
        class,
        request.state.clone(),
        printable(&request.requested_by).into_owned(),
        request.due_by.map(rfc3339).unwrap_or_default(),
        when,
        printable(&request.reason).into_owned(),
    ]
}
