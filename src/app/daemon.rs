//! The daemon: its loops, what they share, and what it tells monitors. Each loop asks one pass to do its work and rests in between.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use tokio::{net::TcpListener, sync::Notify};
use tokio_util::sync::CancellationToken;

use super::{App, changed, worker_name};
use crate::{
    config::Config,
    database::{Database, DatabaseError, Purpose},
    executor::{Executor, Step, Worker},
    failure::Failure,
    http,
    ledger::{Ledger, LedgerError},
    lifecycle::{DRAIN_LIMIT, Ended, Lifecycle, Signals, Stop},
    metrics,
    model::Mode,
    notices::Notices,
    outlook,
    planner::{self, Look, Planner},
    safeguards::agreement::Agreement,
    verifier::Verifier,
};

/// Completed jobs are followed at least so often.
const FOLLOWED: Duration = Duration::from_mins(1);
/// How often the daemon forgets records of its own.
const FORGOTTEN: Duration = Duration::from_hours(1);
/// Looks that are asked for are so far apart at least.
const WAKES: Duration = Duration::from_secs(1);
/// How long endpoints may take to answer after the stop.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
/// How long the database may take to answer one scrape.
const SCRAPE_LIMIT: Duration = Duration::from_secs(2);
/// A planner that has not moved for this long hangs: longer than its longest statement may take.
const HUNG_AFTER: Duration = Duration::from_mins(15);

/// What the desk in front of the daemon is given.
pub struct Front {
    /// The configuration.
    pub config: Arc<Config>,
    listener: Mutex<Option<TcpListener>>,
    /// When to stop.
    pub stop: CancellationToken,
    /// Has the source looked at soon, whatever its interval.
    pub wake: Box<dyn Fn() + Send + Sync>,
    /// What the ops listener would say.
    pub probes: http::Ops,
}

impl Front {
    /// A desk of its own, apart from a daemon.
    #[must_use]
    pub fn new(config: Arc<Config>, listener: TcpListener, stop: CancellationToken, probes: http::Ops) -> Self {
        Self { config, listener: Mutex::new(Some(listener)), stop, wake: Box::new(|| {}), probes }
    }

    /// Where to listen; `None` where `http.listen` is off. Once.
    pub fn take_listener(&self) -> Option<TcpListener> {
        self.listener.lock().ok()?.take()
    }
}

/// What serves API and pages.
pub type Desk = fn(Front) -> Result<BoxFuture<'static, ()>, DatabaseError>;

/// Runs until told to stop, or for `at_most`. Keeps trying an unreachable database; ends at once when the database does not fit the configuration.
///
/// # Errors
/// Those of [`App::prepare`] except an unreachable database; a listener that cannot be opened; a drain that timed out; a task that failed.
pub async fn run(config: Arc<Config>, at_most: Option<Duration>, desk: Desk) -> Result<(), Failure> {
    let signals = Signals::listen().map_err(|e| Failure::Other(e.into()))?;
    let lifecycle = Lifecycle::new(DRAIN_LIMIT);
    let stop = lifecycle.stop();
    let database = Database::new(&config.database)?;
    let listener = http::bind("http.ops_listen", config.http.ops_listen).await.map_err(|e| Failure::Other(e.into()))?;
    let front_listener = match config.http.listen {
        Some(addr) => Some(http::bind("http.listen", addr).await.map_err(|e| Failure::Other(e.into()))?),
        None => None,
    };
    metrics::install(&config);
    let daemon = Arc::new(Daemon {
        config,
        database,
        stop: stop.clone(),
        health: Health::default(),
        news: Notify::new(),
        wake: Notify::new(),
        prepared: CancellationToken::new(),
        refused: Mutex::default(),
    });
    daemon.tell_started(front_listener.as_ref());
    lifecycle.spawn("ops listener", http::serve(listener, ops(&daemon), stop.soft.clone()));
    if front_listener.is_some() {
        let waker = Arc::clone(&daemon);
        let front = Front {
            config: Arc::clone(&daemon.config),
            listener: Mutex::new(front_listener),
            stop: stop.soft.clone(),
            wake: Box::new(move || waker.wake.notify_one()),
            probes: ops(&daemon),
        };
        lifecycle.spawn("desk", desk(front)?);
    }
    lifecycle.spawn("metrics upkeep", metrics_upkeep(stop.soft.clone()));
    lifecycle.spawn("passes", Arc::clone(&daemon).passes());
    if !daemon.config.notices.is_empty() {
        lifecycle.spawn("notices", Arc::clone(&daemon).tell());
    }
    if let Some(length) = at_most {
        let soft = stop.soft.clone();
        lifecycle.spawn("time limit", async move {
            tokio::select! {
                () = tokio::time::sleep(length) => soft.cancel(),
                () = soft.cancelled() => {}
            }
        });
    }
    let ended = lifecycle.run(signals).await;
    daemon.database.close().await;
    let refused = daemon.refused.lock().ok().and_then(|mut r| r.take());
    let result = match (refused, ended) {
        (Some(failure), _) => Err(failure),
        (None, Ok(Ended::Drained)) => Ok(()),
        (None, Ok(Ended::TimedOut)) => Err(Failure::DrainTimedOut),
        (None, Err(task)) => Err(Failure::Other(task.into())),
    };
    let exit_code = result.as_ref().err().map_or(0, Failure::exit_code);
    tracing::info!(event = "daemon.stopped", exit_code, "stopped");
    result
}

/// The daemon's loops and what they share.
struct Daemon {
    config: Arc<Config>,
    database: Database,
    stop: Stop,
    health: Health,
    /// Rung when a look scheduled something, so that nobody sleeps over what is due already.
    news: Notify,
    /// Rung when somebody says that the source has changed.
    wake: Notify,
    /// The database fits the configuration.
    prepared: CancellationToken,
    /// Why the daemon ends itself.
    refused: Mutex<Option<Failure>>,
}

/// What the ops listener is told by the loops.
struct Health {
    planner_moved: Mutex<Instant>,
    looked: AtomicBool,
    /// The policy of this configuration was brought into force, or found to wait.
    agreed: AtomicBool,
    /// The policy of this configuration waits for somebody to accept it.
    waiting: AtomicBool,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            planner_moved: Mutex::new(Instant::now()),
            looked: AtomicBool::new(false),
            agreed: AtomicBool::new(false),
            waiting: AtomicBool::new(false),
        }
    }
}

impl Daemon {
    fn tell_started(&self, desk: Option<&TcpListener>) {
        let class = |c: &crate::config::DataClass| format!("{}/{} after {}", c.feature, c.name, c.retain_for);
        let classes = self.config.data_classes.iter().map(class).collect::<Vec<_>>().join(", ");
        tracing::info!(
            event = "daemon.started",
            version = env!("CARGO_PKG_VERSION"),
            mode = self.config.mode.as_str(),
            classes,
            ops_listen = %self.config.http.ops_listen,
            listen = desk.and_then(|listener| listener.local_addr().ok()).map(tracing::field::display),
            "started"
        );
    }

    /// Prepares, then plans and purges until the stop.
    async fn passes(self: Arc<Self>) {
        let Some(app) = self.prepare().await else { return };
        self.prepared.cancel();
        let executor = app.executor();
        let planning = self.plan(&app);
        let tidying = self.tidy(&executor);
        let verifier = app.verifier();
        let (verifying, watching, following) = (self.verify(&verifier), self.watch(&verifier), self.follow(&app));
        let forgetting = self.forget(&app);
        let ledger = app.ledger();
        let (writing, checking) = (self.write_ledger(&ledger), self.check_ledger(&ledger));
        let purging = (0..self.config.executor.concurrency)
            .map(|i| self.purge(executor.worker(worker_name(i)).until(self.stop.soft.clone()), &executor));
        let work = async {
            let ours = futures_util::future::join4(following, forgetting, writing, checking);
            tokio::join!(planning, tidying, verifying, watching, ours, futures_util::future::join_all(purging));
        };
        tokio::select! {
            () = work => {}
            () = self.stop.hard.cancelled() => return,
        }
        // What the last batches did.
        if let Err(error) = app.ledger().pass().await {
            tracing::warn!(event = "ledger.failed", error = %error, failures = 1, "entries wait for their number until the next start");
        }
    }

    /// Tells the platform, in a task of its own: an endpoint that hangs is nobody else's trouble.
    async fn tell(self: Arc<Self>) {
        let notices = Notices::new(self.database.clone(), Arc::clone(&self.config));
        if self.stop.soft.run_until_cancelled(self.prepared.cancelled()).await.is_some() {
            // What is not answered soon after the stop is sent again after the next start.
            let enough = async {
                self.stop.soft.cancelled().await;
                tokio::time::sleep(LAST_ANSWERS).await;
            };
            tokio::select! {
                () = notices.run(&self.stop.soft) => {}
                () = enough => {}
                () = self.stop.hard.cancelled() => {}
            }
        }
    }

    async fn prepare(&self) -> Option<App> {
        let mut failures = 0;
        loop {
            self.moved();
            match App::prepare(Arc::clone(&self.config), self.database.clone()).await {
                Ok(app) => return Some(app),
                Err(failure) if failure.is_unreachable() => {
                    failures += 1;
                    tracing::warn!(event = "database.unreachable", error = %failure, failures, "trying again");
                    if self.rest(backoff(failures)).await == Rest::Stopped {
                        return None;
                    }
                }
                Err(failure) => {
                    if let Ok(mut refused) = self.refused.lock() {
                        *refused = Some(failure);
                    }
                    self.stop.soft.cancel();
                    return None;
                }
            }
        }
    }

    /// Looks at the source every `poll.interval`, and compares everything every `poll.resync_interval` and at the start.
    async fn plan(&self, app: &App) {
        let planner = app.planner();
        let mut failures = 0;
        while !self.stop.soft.is_cancelled() {
            self.moved();
            let began = Instant::now();
            let pause = match self.look(app, &planner).await {
                Ok(None) => {
                    failures = 0;
                    self.config.poll.interval
                }
                Ok(Some((look, report))) => {
                    failures = 0;
                    planner::tell_look(look, &report, began.elapsed());
                    self.health.looked.store(true, Ordering::Relaxed);
                    self.news.notify_waiters();
                    self.config.poll.interval
                }
                Err(error) => {
                    failures += 1;
                    tracing::warn!(event = "poll.failed", error = %error, sqlstate = error.sqlstate(), failures, "the look failed and will be taken again");
                    backoff(failures)
                }
            };
            tokio::select! {
                _ = self.rest(pause) => {}
                // However often somebody says so.
                () = async {
                    self.rest(WAKES.min(pause)).await;
                    self.wake.notified().await;
                } => {}
            }
        }
    }

    /// A look under the policy in force; none while another one is.
    async fn look(&self, app: &App, planner: &Planner) -> Result<Option<(Look, planner::Report)>, DatabaseError> {
        // Only a start brings a policy into force by itself: else a replica that runs on with an older file would take back what was accepted.
        let agreement = if self.health.agreed.load(Ordering::Relaxed) { app.agreement().await } else { app.agree().await };
        let agreement = agreement.inspect_err(|_| metrics::polled(Look::Poll.as_str(), false))?;
        self.health.agreed.store(true, Ordering::Relaxed);
        let waiting = matches!(agreement, Agreement::Waiting(_));
        let was_waiting = self.health.waiting.swap(waiting, Ordering::Relaxed);
        if let Agreement::Waiting(changes) = agreement {
            if !was_waiting {
                let (policy, changes) = (app.policy.terms.hash(), changed(&changes));
                tracing::error!(
                    event = "policy.waiting",
                    policy,
                    changes,
                    "another policy is in force than this configuration asks for: nothing is planned or purged here until somebody accepts it"
                );
            }
            return Ok(None);
        }
        if was_waiting {
            tracing::info!(event = "policy.accepted", policy = app.policy.terms.hash(), "the policy of this configuration is in force");
        }
        // Nothing is purged before it is known that this is no older database than the ledger's files know.
        if !self.health.looked.load(Ordering::Relaxed) {
            match app.ledger().recognize().await {
                // The guard stands in the way now, of purges and not of looks.
                Ok(()) | Err(LedgerError::Behind { .. } | LedgerError::Broken(_)) => {}
                Err(error) => return Err(DatabaseError::Refused(error.to_string())),
            }
        }
        // Whatever was noted before this start, it is compared anew: things may have changed while nobody looked (I9).
        let look = if self.health.looked.load(Ordering::Relaxed) { planner.due_look().await } else { Ok(Look::Resync) };
        let look = look.inspect_err(|_| metrics::polled(Look::Poll.as_str(), false))?;
        let report = planner.look(look).await;
        metrics::polled(look.as_str(), report.is_ok());
        Ok(Some((look, report?)))
    }

    async fn tidy(&self, executor: &Executor) {
        let mut failures = 0;
        while !self.stop.soft.is_cancelled() {
            let pause = match executor.tidy().await {
                Ok(()) => {
                    failures = 0;
                    self.config.poll.interval
                }
                Err(error) => {
                    failures += 1;
                    tracing::warn!(event = "tidy.failed", error = %error, failures, "will be tried again");
                    backoff(failures)
                }
            };
            self.rest(pause).await;
        }
    }

    /// Numbers and signs what was done, and lets the files keep up.
    async fn write_ledger(&self, ledger: &Ledger) {
        let mut failures = 0;
        while !self.stop.soft.is_cancelled() {
            let pause = match ledger.pass().await {
                Ok(_) => {
                    failures = 0;
                    self.config.poll.interval
                }
                // These are said once, where they are found, and stop every purge.
                Err(LedgerError::Behind { .. } | LedgerError::Broken(_)) => self.config.poll.interval,
                Err(error) => {
                    failures += 1;
                    tracing::warn!(event = "ledger.failed", error = %error, failures, "entries wait for their number; it is tried again");
                    backoff(failures)
                }
            };
            self.rest(pause).await;
        }
    }

    /// Looks every `verifier.interval` whether the ledger is what was signed.
    async fn check_ledger(&self, ledger: &Ledger) {
        while !self.stop.soft.is_cancelled() {
            if let Err(error) = ledger.check_and_mark().await {
                tracing::warn!(event = "ledger.failed", error = %error, failures = 1, "the ledger could not be checked; it is tried again");
            }
            self.rest(self.config.verifier.interval).await;
        }
    }

    /// Looks every `verifier.interval` for what nobody thought of. After a failure too: it may read very much.
    async fn watch(&self, verifier: &Verifier) {
        while !self.stop.soft.is_cancelled() {
            if let Err(error) = verifier.watch().await {
                tracing::warn!(event = "verify.failed", error = %error, sqlstate = error.sqlstate(), "the look will be taken again");
            }
            self.rest(self.config.verifier.interval).await;
        }
    }

    /// Looks again at what was purged, as each subject's next look comes.
    async fn verify(&self, verifier: &Verifier) {
        let mut failures = 0;
        while !self.stop.soft.is_cancelled() {
            if !self.health.agreed.load(Ordering::Relaxed) || self.health.waiting.load(Ordering::Relaxed) {
                self.rest(self.config.poll.interval).await;
                continue;
            }
            let pause = match verifier.pass().await {
                Ok(report) => {
                    failures = 0;
                    if report.residue > 0 {
                        tracing::warn!(event = "verify.completed", looked = report.looked, residue = report.residue, "records came back");
                    }
                    verifier.rest(self.config.poll.interval).await.unwrap_or(self.config.poll.interval)
                }
                Err(error) => {
                    failures += 1;
                    tracing::warn!(event = "verify.failed", error = %error, sqlstate = error.sqlstate(), failures, "the look will be taken again");
                    backoff(failures)
                }
            };
            self.rest(pause.max(Duration::from_millis(100))).await;
        }
    }

    /// Follows completed jobs to further levels of erasure.
    async fn follow(&self, app: &App) {
        let levels = match app.levels() {
            Ok(levels) => levels,
            Err(error) => {
                return tracing::warn!(event = "levels.failed", error = %error, "nothing is followed to further levels of erasure");
            }
        };
        while !self.stop.soft.is_cancelled() {
            if self.health.agreed.load(Ordering::Relaxed)
                && !self.health.waiting.load(Ordering::Relaxed)
                && let Err(error) = levels.pass().await
            {
                tracing::warn!(event = "levels.failed", error = %error, sqlstate = error.sqlstate(), "will be asked again");
            }
            self.rest(self.config.verifier.interval.min(FOLLOWED)).await;
        }
    }

    /// Forgets what the daemon has kept about its own work for long enough.
    async fn forget(&self, app: &App) {
        let records = app.records();
        while !self.stop.soft.is_cancelled() {
            if let Err(error) = records.prune().await {
                tracing::warn!(event = "records.failed", error = %error, sqlstate = error.sqlstate(), "will be tried again");
            }
            self.rest(FORGOTTEN).await;
        }
    }

    /// One worker. Nothing is purged in observe mode, nor before the first full comparison of this process.
    async fn purge(&self, mut worker: Worker, executor: &Executor) {
        let mut failures = 0;
        while !self.stop.soft.is_cancelled() {
            let news = self.news.notified();
            if self.config.mode == Mode::Observe || !self.health.looked.load(Ordering::Relaxed) {
                tokio::select! {
                    () = news => {}
                    () = self.stop.soft.cancelled() => {}
                }
                continue;
            }
            let pause = match worker.step().await {
                Ok(Step::Worked) => {
                    failures = 0;
                    continue;
                }
                Ok(Step::Idle) => {
                    failures = 0;
                    let rest = executor.rest(self.config.poll.interval).await;
                    rest.unwrap_or(self.config.poll.interval).max(Duration::from_millis(5))
                }
                Err(error) => {
                    failures += 1;
                    tracing::warn!(event = "purge.failed", error = %error, sqlstate = error.sqlstate(), failures, "the worker rests and goes on");
                    backoff(failures)
                }
            };
            tokio::select! {
                () = news => {}
                () = tokio::time::sleep(pause) => {}
                () = self.stop.soft.cancelled() => {}
            }
        }
    }

    /// The figures of this process, and of the database if it answers in time.
    async fn scrape(&self) -> String {
        let mut gauges = metrics::Gauges::default();
        let mut up = 0.0;
        let read = async {
            let mut tx = self.database.begin(Purpose::Glance).await?;
            up = 1.0;
            outlook::gauges(&mut tx, &self.config, &mut gauges).await
        };
        if let Ok(Err(error)) = tokio::time::timeout(SCRAPE_LIMIT, read).await {
            tracing::debug!(event = "metrics.incomplete", error = %error, "the database did not give all of its figures");
        }
        gauges.set("retention_database_up", &[], up);
        let (open, idle) = self.database.connections();
        metrics::connections(open, idle);
        metrics::render(&gauges)
    }

    async fn rest(&self, pause: Duration) -> Rest {
        tokio::select! {
            () = tokio::time::sleep(pause) => Rest::Over,
            () = self.stop.soft.cancelled() => Rest::Stopped,
        }
    }

    fn moved(&self) {
        if let Ok(mut moved) = self.health.planner_moved.lock() {
            *moved = Instant::now();
        }
    }
}

#[derive(PartialEq, Eq)]
enum Rest {
    Over,
    Stopped,
}

fn ops(daemon: &Arc<Daemon>) -> http::Ops {
    let (live, ready, figures) = (Arc::clone(daemon), Arc::clone(daemon), Arc::clone(daemon));
    http::Ops::new(
        move || match live.health.planner_moved.lock() {
            Ok(moved) if moved.elapsed() < HUNG_AFTER => Ok(()),
            Ok(_) | Err(_) => Err("the planner hangs".to_owned()),
        },
        move || {
            let daemon = Arc::clone(&ready);
            async move {
                if daemon.health.waiting.load(Ordering::Relaxed) {
                    return Err("the policy of this configuration waits until somebody accepts it".to_owned());
                }
                if !daemon.health.looked.load(Ordering::Relaxed) {
                    return Err("the first full comparison has not ended yet".to_owned());
                }
                daemon.database.begin(Purpose::Read).await.map(drop).map_err(|e| e.to_string())
            }
        },
    )
    .with_figures(move || {
        let daemon = Arc::clone(&figures);
        async move { daemon.scrape().await }
    })
}

/// Keeps observations from piling up while nobody scrapes.
async fn metrics_upkeep(stop: CancellationToken) {
    while tokio::time::timeout(metrics::UPKEEP, stop.cancelled()).await.is_err() {
        metrics::upkeep();
    }
}

fn backoff(failures: u32) -> Duration {
    Duration::from_millis(500).saturating_mul(1 << failures.min(6)).min(Duration::from_secs(30))
}
