//! The command line (contract §5): verbs, flags, and what each prints. Data goes to stdout, logs of one-shot verbs to stderr.
//! A verb asks the library and prints; it decides nothing.

mod catalog;
mod check;
mod control;
mod demo;
mod explain;
mod grants;
mod jobs;
mod ledger;
mod notices;
mod plan;
mod policy;
mod request;
mod report;
mod run;
mod status;
mod token;

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use chrono::{DateTime, Utc};
use clap::{CommandFactory, Parser, Subcommand, ValueEnum, error::ErrorKind};
use serde::Serialize;

use crate::{
    app::{App, patiently},
    config::{self, Config, Log, LogFormat, Needs},
    database::{Database, DatabaseError, Purpose, Tx},
    failure::Failure,
    http, schema,
    telemetry::{self, Stream},
};

/// Deletes what was promised to be deleted, at its instant, and leaves proof.
#[derive(Debug, Parser)]
#[command(name = "retentiond", version, propagate_version = true)]
pub struct Arguments {
    /// A configuration file; may be given more than once, later ones win. Also `RETENTIOND_CONFIG`.
    #[arg(short, long = "config", global = true, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// How read verbs print.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
    #[command(subcommand)]
    verb: Verb,
}

/// What the command line can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Table,
    /// For machines.
    Json,
    /// For spreadsheets; reports only.
    Csv,
}

/// How read verbs print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Output {
    /// For people.
    Table,
    /// For machines.
    Json,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the daemon.
    Run {
        /// One full poll, purge all that is due, exit.
        #[arg(long)]
        once: bool,
    },
    /// See it work: an embedded Postgres, sample accounts at every stage of life, the daemon in front of you.
    Demo {
        /// How long the daemon runs.
        #[arg(long = "for", value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration)]
        length: std::time::Duration,
        /// Folder with Postgres's server binaries; found by itself where Debian puts them.
        #[arg(long, value_name = "DIR")]
        postgres_bin: Option<PathBuf>,
        /// Also in other stores, each on a server of its own, as far as they are installed.
        #[arg(long)]
        stores: bool,
    },
    /// Create or upgrade the daemon's tables.
    Migrate {
        /// Also the reference platform's tables.
        #[arg(long)]
        platform: bool,
    },
    /// Check the configuration, then the database: tables, columns, types, grants, indexes, clock.
    Check {
        /// The configuration alone.
        #[arg(long)]
        offline: bool,
        /// Check nothing: print every GRANT that this role needs, and those of the second role.
        #[arg(long, value_name = "ROLE", conflicts_with = "offline")]
        grants: Option<String>,
    },
    /// What would be deleted, by target with counts, and why. Writes nothing.
    Plan {
        /// As of another instant (RFC 3339).
        #[arg(long, value_name = "INSTANT")]
        at: Option<DateTime<Utc>>,
    },
    /// One account: what stands, since when, both dates, what blocks it, what happens next.
    Explain {
        /// The account's id.
        account: String,
    },
    /// Mode, last look, jobs by state, what is due, overdue, held, paused, and the guard.
    Status {
        /// Exit 3 when something is overdue or the guard has tripped.
        #[arg(long)]
        check: bool,
    },
    /// The jobs there are and were.
    Jobs {
        #[command(subcommand)]
        verb: jobs::Verb,
    },
    /// Keep an account's data whatever is due.
    Hold {
        #[command(subcommand)]
        verb: control::HoldVerb,
    },
    /// Stop deletion: of everything, an account or a data class. Survives restarts.
    Pause(control::PauseScope),
    /// Lift a pause; without a scope the global one alone.
    Resume(control::PauseScope),
    /// The guard against mass deletion.
    Guard {
        #[command(subcommand)]
        verb: control::GuardVerb,
    },
    /// The rules somebody stands behind: what would delete more or sooner waits until it is accepted.
    Policy {
        #[command(subcommand)]
        verb: policy::Verb,
    },
    /// What was done, in a form that cannot be changed unseen.
    Ledger {
        #[command(subcommand)]
        verb: ledger::LedgerVerb,
    },
    /// One file that says what became of a job, and proves it.
    Certificate(ledger::CertificateArguments),
    /// Have an account's records deleted ahead of every starting point.
    Request(request::Arguments),
    /// What endpoints of the platform were told and will be.
    Notices {
        #[command(subcommand)]
        verb: notices::NoticesVerb,
    },
    /// What was deleted in an interval and how much of it in time; and what the rules say.
    Report {
        #[command(subcommand)]
        verb: report::Verb,
    },
    /// Make a token for the API and the pages: the token on stdout, and what to configure.
    Token(token::Arguments),
    /// What the log calls an account when it has pseudonyms; to search it by.
    Pseudonym {
        /// The account's id.
        account: String,
    },
    /// Ask the local daemon whether it lives; for container health checks.
    Healthcheck,
    /// What the program can say and be told: events, metrics, keys, exit codes; made from the code.
    Catalog {
        #[command(subcommand)]
        verb: catalog::Verb,
    },
    /// Print a completion script.
    Completions {
        /// For this shell.
        shell: clap_complete::Shell,
    },
    /// Write a man page for each verb into a folder; for packages.
    #[command(hide = true)]
    Manpages {
        /// The folder; made if it is not there.
        folder: PathBuf,
    },
}

/// Runs the command line and returns its exit code.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let verb_logs_to_stdout = matches!(arguments.verb, Verb::Run { .. } | Verb::Demo { .. });
    let csv = arguments.output == Format::Csv;
    if csv && !matches!(arguments.verb, Verb::Report { .. }) {
        Arguments::command().error(ErrorKind::ArgumentConflict, "only reports are printed as csv: use -o json").exit();
    }
    let output = if arguments.output == Format::Table { Output::Table } else { Output::Json };
    let cli = Cli { files: arguments.config, output, csv };
    match cli.dispatch(arguments.verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tell(&failure, verb_logs_to_stdout);
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Says why the program ends: as a log event where logs are the output, else as a line for people.
#[expect(clippy::print_stderr, reason = "the last words of a one-shot verb")]
fn tell(failure: &Failure, logs_to_stdout: bool) {
    if logs_to_stdout {
        tracing::error!(event = "daemon.failed", exit_code = failure.exit_code(), error = %failure, "cannot go on");
    } else {
        eprintln!("error: {failure}");
    }
}

/// What every verb shares.
struct Cli {
    files: Vec<PathBuf>,
    output: Output,
    /// Reports are printed as CSV, whatever `output` says.
    csv: bool,
}

impl Cli {
    fn dispatch(&self, verb: Verb) -> Result<(), Failure> {
        match verb {
            Verb::Run { once } => self.run(once),
            Verb::Demo { length, postgres_bin, stores } => demo::demo(length, postgres_bin, stores),
            Verb::Migrate { platform } => self.migrate(platform),
            Verb::Check { grants: Some(role), .. } => self.grants(&role),
            Verb::Check { offline, grants: None } => self.check(offline),
            Verb::Plan { at } => self.plan(at),
            Verb::Explain { account } => self.explain(&account),
            Verb::Status { check } => self.status(check),
            Verb::Jobs { verb } => self.jobs(verb),
            Verb::Hold { verb } => self.hold(verb),
            Verb::Pause(scope) => self.pause(scope),
            Verb::Resume(scope) => self.resume(scope),
            Verb::Guard { verb } => self.guard(verb),
            Verb::Policy { verb } => self.policy(verb),
            Verb::Ledger { verb } => self.ledger(verb),
            Verb::Certificate(arguments) => self.certificate(arguments),
            Verb::Request(arguments) => self.request(arguments),
            Verb::Notices { verb } => self.notices(verb),
            Verb::Report { verb } => self.report(verb),
            Verb::Token(arguments) => self.token(&arguments),
            Verb::Pseudonym { account } => self.pseudonym(&account),
            Verb::Healthcheck => self.healthcheck(),
            Verb::Catalog { verb } => self.catalog(verb),
            Verb::Completions { shell } => {
                clap_complete::generate(shell, &mut Arguments::command(), "retentiond", &mut std::io::stdout());
                Ok(())
            }
            Verb::Manpages { folder } => std::fs::create_dir_all(&folder)
                .and_then(|()| clap_mangen::generate_to(Arguments::command(), &folder))
                .map_err(|error| Failure::Other(anyhow::anyhow!("{}: {error}", folder.display()))),
        }
    }

    fn load(&self, needs: Needs) -> Result<Config, Failure> {
        Ok(config::load(&self.files, &config::environment(), needs)?)
    }

    /// The configuration of a one-shot verb, with its logs on stderr.
    fn one_shot(&self) -> Result<Arc<Config>, Failure> {
        let config = self.load(Needs::Database)?;
        telemetry::init(&config.log, Stream::Stderr).map_err(|e| Failure::Other(e.into()))?;
        Ok(Arc::new(config))
    }

    fn migrate(&self, platform: bool) -> Result<(), Failure> {
        let config = self.one_shot()?;
        block_on(async { patiently(|| async { Ok(schema::migrate(&config, platform).await?) }).await })
    }

    fn pseudonym(&self, account: &str) -> Result<(), Failure> {
        let Some(key) = self.load(Needs::Database)?.log.account_key else {
            return Err(Failure::Other(anyhow::anyhow!("log.account_ids is \"plain\": the log has the account's id itself")));
        };
        print(&telemetry::pseudonym(&key, account));
        Ok(())
    }

    fn healthcheck(&self) -> Result<(), Failure> {
        let config = self.load(Needs::Nothing)?;
        http::healthcheck(config.http.ops_listen).map_err(|e| Failure::Other(e.into()))
    }

    /// A transaction on the daemon's own tables, for verbs that need no policy.
    async fn own_tables(&self, config: &Config, purpose: Purpose) -> Result<Tx, Failure> {
        let database = Database::new(&config.database)?;
        patiently(|| async {
            let mut tx = database.begin(purpose).await?;
            schema::check(&mut tx).await?;
            Ok(tx)
        })
        .await
    }

    /// The whole policy, for verbs that ask the source.
    async fn prepared(&self, config: &Arc<Config>) -> Result<(App, Tx), Failure> {
        let app = App::prepare_patiently(Arc::clone(config)).await?;
        let tx = app.database.begin(Purpose::Compare).await?;
        Ok((app, tx))
    }
}

/// Runs a verb's asynchronous part.
fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|e| Failure::Other(e.into()))?;
    runtime.block_on(work)
}

/// Prints data on stdout; a reader that went away is no failure.
fn print(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Failure::Other(e.into()))?;
    print(&text);
    Ok(())
}

/// Logs of the daemon when nothing is configured yet.
fn log_before_configuration() {
    let log = Log { format: LogFormat::Auto, level: "info".to_owned(), account_key: None };
    let _ = telemetry::init(&log, Stream::Stdout);
}

/// The database's clock, so that relative times mean what it means.
async fn now(tx: &mut Tx) -> Result<DateTime<Utc>, Failure> {
    Ok(sqlx::query_scalar("select now()").fetch_one(&mut **tx).await.map_err(DatabaseError::from)?)
}
