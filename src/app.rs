//! Puts everything together: checks the database against the configuration, then runs the passes, once or (`app/daemon.rs`) until told to stop.
//! The only module that names everything; it decides nothing about records.

mod daemon;
mod passes;
mod reload;
mod service;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use sqlx::AssertSqlSafe;

use crate::{
    catalog::{self, Finding, Layout, Severity},
    clock::Clock,
    config::{Change, Config},
    database::{Database, DatabaseError, Purpose},
    executor::{Executor, Step},
    failure::Failure,
    ledger::{Ledger, LedgerError, Seen},
    levels::Levels,
    lifecycle::Stop,
    model::Mode,
    notices::Notices,
    planner::{self, Look, Planner},
    policy::Policy,
    records::Records,
    safeguards::{
        agreement::{self, Agreement},
        held, paused, server,
    },
    schema,
    terminal::Progress,
    verifier::Verifier,
};

pub use daemon::{Again, Desk, Front, run};

/// How long a one-shot verb keeps trying an unreachable database (R34).
const ONE_SHOT_PATIENCE: Duration = Duration::from_secs(10);
/// How long `run --once` waits for records that somebody else holds (R33).
const LOCKED_PATIENCE: Duration = Duration::from_mins(1);
/// And for stores that have to be looked at a second time: a run that does not wait for that would never complete what is there.
const SETTLING_PATIENCE: Duration = Duration::from_mins(10);

/// How long `run --once` begins to send notices.
const NOTICES_PATIENCE: Duration = Duration::from_mins(1);

/// A database that fits the configuration, and the policy made from both.
#[derive(Debug, Clone)]
pub struct App {
    /// The configuration.
    pub config: Arc<Config>,
    /// The way to the database.
    pub database: Database,
    /// The policy in force.
    pub policy: Arc<Policy>,
    /// The database's clock as this process has seen it.
    pub clock: Arc<Clock>,
    /// The ledger as this process has seen it.
    pub seen: Seen,
    layout: Arc<Layout>,
}

impl App {
    /// Connects and checks: the daemon's tables, the configured tables, the privileges. Refuses what `check` calls an error.
    ///
    /// # Errors
    /// [`Failure::Schema`], [`Failure::Layout`] or [`Failure::Database`].
    pub async fn prepare(config: Arc<Config>, database: Database) -> Result<Self, Failure> {
        let (app, findings) = Self::look(config, database).await?;
        for finding in findings.iter().filter(|f| f.severity == Severity::Warning) {
            tracing::warn!(event = "check.finding", subject = finding.subject, remedy = finding.remedy, "{}", finding.problem);
        }
        Ok(app)
    }

    /// [`App::prepare`] without a word about what is only a warning: for whoever prepares again and again.
    ///
    /// # Errors
    /// Those of [`App::prepare`].
    pub async fn fit(config: Arc<Config>, database: Database) -> Result<Self, Failure> {
        Ok(Self::look(config, database).await?.0)
    }

    async fn look(config: Arc<Config>, database: Database) -> Result<(Self, Vec<Finding>), Failure> {
        let mut tx = database.begin(Purpose::Read).await?;
        server::refuse_standby(&mut tx).await?;
        // Before anything runs: a migration made by another role leaves new tables that holds and pauses need and purges do not.
        let missing = catalog::own(&mut tx, None).await?;
        if !missing.is_empty() {
            return Err(Failure::Layout(missing));
        }
        schema::check(&mut tx).await?;
        let (layout, findings) = catalog::inspect(&mut tx, &config).await?;
        drop(tx);
        let Some(layout) = layout else { return Err(Failure::Layout(findings)) };
        let policy = Policy::new(&config, &layout);
        let app =
            Self { config, database, policy: Arc::new(policy), layout: Arc::new(layout), clock: Arc::default(), seen: Seen::default() };
        Ok((app, findings))
    }

    /// [`App::prepare`] for one-shot verbs: tries an unreachable database for ten seconds.
    ///
    /// # Errors
    /// Those of [`App::prepare`].
    pub async fn prepare_patiently(config: Arc<Config>) -> Result<Self, Failure> {
        let database = Database::new(&config.database)?;
        patiently(|| Self::prepare(Arc::clone(&config), database.clone())).await
    }

    /// Brings the policy into force as far as that needs nobody (R11), and says so in the log.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn agree(&self) -> Result<Agreement, DatabaseError> {
        let mut tx = self.database.begin(Purpose::Write).await?;
        let agreement = agreement::agree(&mut tx, &self.policy.terms).await?;
        Database::commit(tx).await?;
        if let Agreement::Accepted(changes) = &agreement {
            let (policy, changes) = (self.policy.terms.hash(), changed(changes));
            tracing::info!(event = "policy.accepted", policy, changes, "the policy of this configuration is in force");
        }
        Ok(agreement)
    }

    /// How the policy of this configuration stands to the one in force; changes nothing.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn agreement(&self) -> Result<Agreement, DatabaseError> {
        let mut tx = self.database.begin(Purpose::Read).await?;
        agreement::agreement(&mut tx, &self.policy.terms).await
    }

    /// The planner of this policy.
    #[must_use]
    pub fn planner(&self) -> Planner {
        Planner::new(
            self.database.clone(),
            Arc::clone(&self.config),
            Arc::clone(&self.layout),
            Arc::clone(&self.policy),
            Arc::clone(&self.clock),
        )
    }

    /// The verifier of this policy.
    #[must_use]
    pub fn verifier(&self) -> Verifier {
        Verifier::new(self.database.clone(), Arc::clone(&self.config), Arc::clone(&self.policy))
    }

    /// What follows the jobs of this policy to further levels of erasure.
    ///
    /// # Errors
    /// When the address of the second role cannot be parsed.
    pub fn levels(&self) -> Result<Levels, DatabaseError> {
        Levels::new(self.database.clone(), Arc::clone(&self.config), Arc::clone(&self.policy))
    }

    /// What forgets the daemon's own records.
    #[must_use]
    pub fn records(&self) -> Records {
        Records::new(self.database.clone(), Arc::clone(&self.config))
    }

    /// The executor of this policy.
    #[must_use]
    pub fn executor(&self) -> Executor {
        Executor::new(self.database.clone(), Arc::clone(&self.config), Arc::clone(&self.policy), Arc::clone(&self.clock), self.seen.clone())
    }

    /// The ledger of this database.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        Ledger::new(self.database.clone(), Arc::clone(&self.config), self.seen.clone())
    }

    /// What tells the endpoints of this configuration.
    #[must_use]
    pub fn notices(&self) -> Notices {
        Notices::new(self.database.clone(), Arc::clone(&self.config))
    }

    /// One full comparison, then everything that is due, then the end (R33).
    ///
    /// # Errors
    /// [`Failure::Guard`] when the guard withheld something, [`Failure::Other`] when something due remains, those of the database.
    pub async fn run_once(&self, stop: &Stop) -> Result<(), Failure> {
        let began = Instant::now();
        if let Agreement::Waiting(changes) = self.agree().await? {
            return Err(Failure::Policy(changes));
        }
        // A database that is older than its ledger's files says so before anything is planned.
        self.ledger().recognize().await?;
        // First, so that what came back has its job in this very run.
        self.verify().await?;
        let planner = self.planner();
        let report = planner.look(Look::Resync).await?;
        planner::tell_look(Look::Resync, &report, began.elapsed());
        let asked_at = self.now().await?;
        if self.config.mode == Mode::Enforce {
            self.drain(stop).await?;
            // What a batch found changed is settled before the verdict.
            planner.look(Look::Poll).await?;
        }
        // What is known of the levels by now is written down; that some is not known yet is no failure of this run.
        if let Err(error) = self.levels()?.pass().await {
            tracing::warn!(event = "levels.failed", error = %error, sqlstate = error.sqlstate(), "further levels of erasure were not asked for");
        }
        if let Err(error) = self.records().prune().await {
            tracing::warn!(event = "records.failed", error = %error, sqlstate = error.sqlstate(), "the next run forgets what is past its period");
        }
        match self.ledger().pass().await {
            Ok(_) => {}
            Err(error @ (LedgerError::Behind { .. } | LedgerError::Broken(_))) => return Err(error.into()),
            // What was done is told all the same, and gets its number later.
            Err(error) => tracing::warn!(event = "ledger.failed", error = %error, failures = 1, "entries wait for their number"),
        }
        // Whoever is away is told by a later run.
        if let Err(error) = self.notices().once(NOTICES_PATIENCE).await {
            tracing::warn!(event = "notice.delayed", error = %error, "the next run tells what is not told yet");
        }
        self.verdict(asked_at).await
    }

    /// The database's clock.
    async fn now(&self) -> Result<DateTime<Utc>, DatabaseError> {
        let mut tx = self.database.begin(Purpose::Read).await?;
        Ok(sqlx::query_scalar("select now()").fetch_one(&mut *tx).await?)
    }

    /// Purges until nothing that is due can be claimed any more.
    async fn drain(&self, stop: &Stop) -> Result<(), Failure> {
        let executor = self.executor();
        let mut tx = self.database.begin(Purpose::Bulk).await?;
        crate::jobs::end_backoff(&mut tx).await?;
        Database::commit(tx).await?;
        executor.tidy().await?;
        let due = self.due().await?;
        let progress = Progress::new("purging", due);
        let workers = (0..self.config.executor.concurrency).map(|i| drain_one(&executor, i, stop, &progress));
        futures_util::future::try_join_all(workers).await?;
        drop(progress);
        executor.tidy().await?;
        Ok(())
    }

    async fn due(&self) -> Result<u64, DatabaseError> {
        let mut tx = self.database.begin(Purpose::Read).await?;
        Ok(crate::jobs::tally(&mut tx).await?.due.unsigned_abs())
    }

    /// Looks again at what was purged, as far as the next look has come.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn verify(&self) -> Result<crate::verifier::Report, Failure> {
        Ok(self.verifier().pass().await?)
    }

    /// What is still due, and whose doing that is.
    ///
    /// Only what was due when this run began to purge counts: a job that falls due behind its back is the next run's.
    async fn verdict(&self, asked_at: DateTime<Utc>) -> Result<(), Failure> {
        let mut tx = self.database.begin(Purpose::Read).await?;
        let ours = self.policy.classes.first().map_or_else(|| "true".to_owned(), |class| class.jobs.is_ours("j"));
        let query = format!(
            "select count(*) from retention.jobs j where j.retain_until <= $1 and not {} and not {} and {ours}",
            held("j"),
            paused("j")
        );
        let due: i64 = sqlx::query_scalar(AssertSqlSafe(query)).bind(asked_at).fetch_one(&mut *tx).await.map_err(DatabaseError::from)?;
        let guard = crate::safeguards::guard(&mut tx).await?;
        match (self.config.mode, due) {
            (Mode::Observe, _) | (Mode::Enforce, 0) => Ok(()),
            (Mode::Enforce, _) if guard.tripped => {
                Err(Failure::Guard(format!("{}; {due} due jobs wait", guard.reason.unwrap_or_default())))
            }
            (Mode::Enforce, _) => {
                Err(Failure::Other(anyhow::anyhow!("{due} due jobs remain; `retentiond jobs list --state scheduled` shows why")))
            }
        }
    }
}

async fn drain_one(executor: &Executor, index: usize, stop: &Stop, progress: &Progress) -> Result<(), DatabaseError> {
    let mut worker = executor.worker(worker_name(index)).until(stop.soft.clone());
    let mut waited = Duration::ZERO;
    while !stop.soft.is_cancelled() {
        let (began, completed_before) = (Instant::now(), executor.completed());
        let did = worker.step().await?;
        progress.advance(executor.completed().saturating_sub(completed_before));
        if did == Step::Worked {
            continue;
        }
        executor.tidy().await?;
        if waited >= SETTLING_PATIENCE || !executor.someone_waits(waited < LOCKED_PATIENCE).await? {
            break;
        }
        let rest = executor.rest(Duration::from_millis(100)).await?.max(Duration::from_millis(20));
        tokio::select! {
            () = tokio::time::sleep(rest) => {}
            () = stop.soft.cancelled() => {}
        }
        // Looking in vain is waiting too, and on a busy machine most of it.
        waited += began.elapsed();
    }
    Ok(())
}

/// Tries an unreachable database again until the patience of a one-shot verb ends (R34).
///
/// # Errors
/// The last failure, and any other at once.
pub async fn patiently<T, F: Future<Output = Result<T, Failure>>>(mut attempt: impl FnMut() -> F) -> Result<T, Failure> {
    let began = Instant::now();
    loop {
        match attempt().await {
            Err(failure) if failure.is_unreachable() && began.elapsed() < ONE_SHOT_PATIENCE => {
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
            done => return done,
        }
    }
}

/// What a policy changes, in one line.
fn changed(changes: &[Change]) -> String {
    changes.iter().map(|c| format!("{} {}", c.subject, c.what)).collect::<Vec<_>>().join("; ")
}

fn worker_name(index: usize) -> String {
    format!("{}-{index}", std::process::id())
}
