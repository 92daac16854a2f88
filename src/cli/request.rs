//! `request`: deletion ahead of every starting point, because somebody asks for it (R30). Every act has an actor, and is logged.

use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};

use super::{
    Cli, Output, block_on,
    control::{Act, actor, can_match, reason},
    now, print, print_json,
};
use crate::{
    config::{Config, People},
    database::{Database, Purpose},
    failure::Failure,
    model::rfc3339,
    requests::{self, Answer, Filter, Request},
    safeguards::control::Scope,
    terminal::{printable, relative, table},
};

/// Rows of a table for people.
const ROWS: i64 = 100;

macro_rules! tell {
    ($event:literal, $request:expr, $reason:expr, $actor:expr, $what:expr) => {
        tracing::warn!(
            event = $event,
            request_id = $request.id,
            account_id = $request.account_id,
            feature = $request.feature,
            data_class = $request.data_class,
            due_by = $request.due_by.map(rfc3339),
            reason = $reason,
            actor = $actor,
            "{}",
            $what
        )
    };
}
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
        act: Act,
    },
}

impl Cli {
    pub(super) fn request(&self, arguments: Arguments) -> Result<(), Failure> {
        let config = self.one_shot()?;
        block_on(async {
            let Arguments { verb, account, feature, data_class, reason, by } = arguments;
            let scope = Scope { account, feature, data_class };
            match (verb, reason) {
                (None, Some(reason)) => self.place(&config, &scope, &reason, &actor(by.as_ref())).await,
                // The command line asks for it.
                (None, None) => Err(Failure::Other(anyhow::anyhow!("say why, with --reason"))),
                (Some(Verb::List), _) => self.list(&config).await,
                (Some(Verb::Approve { id, by }), _) => self.approve(&config, id, &actor(by.as_ref())).await,
                (Some(Verb::Withdraw { id, act }), _) => self.withdraw(&config, id, &act).await,
            }
        })
    }

    async fn place(&self, config: &Config, scope: &Scope, reason: &str, by: &str) -> Result<(), Failure> {
        let parts = covered(config, scope)?;
        self.spelt(config, scope).await?;
        let mut tx = self.own_tables(config, Purpose::Write).await?;
        let within = (config.approvals.request == People::One).then_some(config.requests.fulfil_within);
        let answer = requests::place(&mut tx, scope, &parts, reason, by, within).await?;
        Database::commit(tx).await?;
        let request = done(0, answer)?;
        let what = if request.accepted_at.is_some() { "it is carried out at once" } else { "it waits until another person approves it" };
        tell!("request.placed", request, request.reason, request.requested_by, what);
        if request.accepted_at.is_some() {
            tell!("request.accepted", request, request.reason, request.requested_by, "its account's records are due");
        }
        self.show_request(&request)
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

    async fn approve(&self, config: &Config, id: i64, by: &str) -> Result<(), Failure> {
        let mut tx = self.own_tables(config, Purpose::Write).await?;
        let answer = requests::approve(&mut tx, id, by, config.requests.fulfil_within).await?;
        Database::commit(tx).await?;
        let request = done(id, answer)?;
        tell!("request.accepted", request, request.reason, by, "its account's records are due");
        self.show_request(&request)
    }

    async fn withdraw(&self, config: &Config, id: i64, act: &Act) -> Result<(), Failure> {
        let mut tx = self.own_tables(config, Purpose::Write).await?;
        let answer = requests::withdraw(&mut tx, id, &act.reason, &act.by()).await?;
        Database::commit(tx).await?;
        let request = done(id, answer)?;
        tell!("request.withdrawn", request, act.reason, act.by(), "nothing is deleted for it any more");
        self.show_request(&request)
    }

    fn show_request(&self, request: &Request) -> Result<(), Failure> {
        match self.output {
            Output::Json => print_json(request),
            Output::Table => {
                print(&table(&HEADINGS, &[row(request, None)]));
                Ok(())
            }
        }
    }
}

/// The classes that a request covers: all that match, and at least one. What the customer controls is nobody's to ask for.
fn covered<'c>(config: &'c Config, scope: &Scope) -> Result<Vec<(&'c str, &'c str)>, Failure> {
    can_match(config, scope)?;
    let fits = |given: Option<&String>, name: &str| given.is_none_or(|given| given == name);
    let classes = config.data_classes.iter().map(|class| (class.feature.as_str(), class.name.as_str()));
    let covered: Vec<_> =
        classes.filter(|(feature, name)| fits(scope.feature.as_ref(), feature) && fits(scope.data_class.as_ref(), name)).collect();
    if covered.is_empty() {
        let asked = [scope.feature.as_deref(), scope.data_class.as_deref()].into_iter().flatten().collect::<Vec<_>>().join("/");
        return Err(Failure::Other(anyhow::anyhow!("{asked} is under the customer's control: no request reaches it")));
    }
    Ok(covered)
}

fn done(id: i64, answer: Answer) -> Result<Request, Failure> {
    match answer {
        Answer::Done(request) => Ok(*request),
        Answer::Unknown => {
            Err(Failure::Other(anyhow::anyhow!("there is no request {id}; `retentiond request list` shows those there are")))
        }
        Answer::Past(state) => Err(Failure::Other(anyhow::anyhow!("request {id} is {state}: nothing of that can be done to it any more"))),
        Answer::SamePerson => Err(Failure::Approval(format!(
            "whoever asked for request {id} cannot approve it; another person has to, with a --by of their own"
        ))),
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
