//! The daemon: what its parts share, how they begin and end, and what it tells monitors. The loops themselves are `passes.rs`.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use tokio::{net::TcpListener, sync::Notify};
use tokio_util::sync::CancellationToken;

use super::{
    App,
    passes::{Passes, backoff},
    reload, service,
};
use crate::{
    config::{Config, Invalid},
    database::{Database, DatabaseError, Purpose},
    failure::Failure,
    heartbeat::{self, Heartbeats},
    http::{self, Checks},
    lifecycle::{DRAIN_LIMIT, Ended, Hangups, Lifecycle, Signals, Stop},
    metrics,
    notices::Notices,
    outlook, schema, telemetry,
};

/// How long endpoints may take to answer after the stop.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
/// How long the database may take to answer one scrape.
const SCRAPE_LIMIT: Duration = Duration::from_secs(2);

/// Reads the configuration again, the way it was read at the start.
pub type Again = Box<dyn Fn() -> Result<Config, Invalid> + Send + Sync>;

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

/// Runs until told to stop, or for `at_most`. On SIGHUP reads the configuration again, if it is told how; else that signal does what it always does.
/// Keeps trying an unreachable database; ends at once when the database does not fit the configuration.
///
/// # Errors
/// Those of [`App::prepare`] except an unreachable database; a listener that cannot be opened; a drain that timed out; a task that failed.
pub async fn run(config: Arc<Config>, at_most: Option<Duration>, again: Option<Again>, desk: Desk) -> Result<(), Failure> {
    let signals = Signals::listen().map_err(|e| Failure::Other(e.into()))?;
    // From here on a SIGHUP that comes early is kept.
    let hangups = again.is_some().then(Hangups::listen).transpose().map_err(|e| Failure::Other(e.into()))?;
    let lifecycle = Lifecycle::new(DRAIN_LIMIT);
    let stop = lifecycle.stop();
    let database = Database::new(&config.database)?;
    let listener = http::bind("http.ops_listen", config.http.ops_listen).await.map_err(|e| Failure::Other(e.into()))?;
    let front_listener = match config.http.listen {
        Some(addr) => Some(http::bind("http.listen", addr).await.map_err(|e| Failure::Other(e.into()))?),
        None => None,
    };
    metrics::install(&config);
    telemetry::show_counters();
    metrics::reloaded(true);
    let daemon = Arc::new(Daemon {
        config: Mutex::new(config),
        database,
        stop: stop.clone(),
        health: Health::default(),
        news: Notify::new(),
        wake: Notify::new(),
        prepared: CancellationToken::new(),
        round: Mutex::default(),
        refused: Mutex::default(),
    });
    daemon.tell_started(front_listener.as_ref());
    // It answers for as long as anything runs.
    let listening = stop.hard.child_token();
    lifecycle.spawn("ops listener", http::serve(listener, ops(&daemon), listening.clone()));
    if front_listener.is_some() {
        let waker = Arc::clone(&daemon);
        let front = Front {
            config: daemon.config(),
            listener: Mutex::new(front_listener),
            stop: stop.soft.clone(),
            wake: Box::new(move || waker.wake.notify_one()),
            probes: ops(&daemon),
        };
        lifecycle.spawn("desk", desk(front)?);
    }
    lifecycle.spawn("metrics upkeep", metrics_upkeep(stop.soft.clone()));
    let (passes, last) = (Arc::clone(&daemon).passes(), listening.drop_guard());
    lifecycle.spawn("passes", async move {
        let _last = last;
        passes.await;
    });
    if !daemon.config().notices.is_empty() {
        lifecycle.spawn("notices", Arc::clone(&daemon).tell());
    }
    lifecycle.spawn("service manager", service::tell(Arc::clone(&daemon)));
    if let (Some(again), Some(hangups)) = (again, hangups) {
        lifecycle.spawn("reload", reload::reload(Arc::clone(&daemon), again, hangups));
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

/// What the parts of the daemon share.
pub(super) struct Daemon {
    config: Mutex<Arc<Config>>,
    database: Database,
    pub(super) stop: Stop,
    pub(super) health: Health,
    /// Rung when a look scheduled something, so that nobody sleeps over what is due already.
    pub(super) news: Notify,
    /// Rung when somebody says that the source has changed.
    pub(super) wake: Notify,
    /// The database fits the configuration.
    prepared: CancellationToken,
    /// Ends the passes that run now.
    round: Mutex<CancellationToken>,
    /// Why the daemon ends itself.
    refused: Mutex<Option<Failure>>,
}

/// What the ops listener is told by the passes.
#[derive(Default)]
pub(super) struct Health {
    pub(super) beats: Heartbeats,
    pub(super) looked: AtomicBool,
    /// The policy of this configuration was brought into force, or found to wait.
    pub(super) agreed: AtomicBool,
    /// The policy of this configuration waits for somebody to accept it.
    pub(super) waiting: AtomicBool,
}

impl Daemon {
    fn tell_started(&self, desk: Option<&TcpListener>) {
        let config = self.config();
        let class = |c: &crate::config::DataClass| format!("{}/{} after {}", c.feature, c.name, c.retain_for);
        let classes = config.data_classes.iter().map(class).collect::<Vec<_>>().join(", ");
        tracing::info!(
            event = "daemon.started",
            version = env!("CARGO_PKG_VERSION"),
            mode = config.mode.as_str(),
            classes,
            ops_listen = %config.http.ops_listen,
            listen = desk.and_then(|listener| listener.local_addr().ok()).map(tracing::field::display),
            "started"
        );
    }

    /// Prepares, then plans and purges until the stop; after a reload under the new configuration.
    async fn passes(self: Arc<Self>) {
        let beats = &self.health.beats;
        let Some(mut app) = beats.watch("start", Box::pin(self.prepare())).await else { return };
        self.prepared.cancel();
        service::ready(&self.config());
        while !self.stop.soft.is_cancelled() {
            // First the token, then the configuration: a reload in between ends what has not begun.
            let end = self.renew();
            let config = self.config();
            app.config = Arc::clone(&config);
            let passes = Passes { daemon: &self, app: &app, config, end: end.clone() };
            // As long as for a stop: what is not finished by then rolls back and is done again.
            let late = async {
                end.cancelled().await;
                tokio::time::sleep(DRAIN_LIMIT).await;
                if self.stop.soft.is_cancelled() {
                    // The drain has a limit of its own.
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = Box::pin(passes.run()) => {}
                () = late => {}
                () = self.stop.hard.cancelled() => return,
            }
        }
        // What the last batches did.
        if let Err(error) = app.ledger().pass().await {
            tracing::warn!(event = "ledger.failed", error = %error, failures = 1, "entries wait for their number until the next start");
        }
    }

    /// Tells the platform, in a task of its own: an endpoint that hangs is nobody else's trouble.
    async fn tell(self: Arc<Self>) {
        let notices = Notices::new(self.database.clone(), self.config());
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
            match App::prepare(self.config(), self.database.clone()).await {
                Ok(app) => return Some(app),
                Err(failure) if failure.is_unreachable() => {
                    failures += 1;
                    tracing::warn!(event = "database.unreachable", error = %failure, failures, "trying again");
                    let pause = backoff(failures);
                    heartbeat::rest(Some(pause));
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = self.stop.soft.cancelled() => return None,
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

    /// The figures of this process, and of the database if it answers in time.
    async fn scrape(&self) -> String {
        let mut gauges = metrics::Gauges::default();
        let mut up = 0.0;
        let read = async {
            let mut tx = self.database.begin(Purpose::Glance).await?;
            up = 1.0;
            outlook::gauges(&mut tx, &self.config(), &mut gauges).await
        };
        if let Ok(Err(error)) = tokio::time::timeout(SCRAPE_LIMIT, read).await {
            tracing::debug!(event = "metrics.incomplete", error = %error, "the database did not give all of its figures");
        }
        gauges.set("retention_database_up", &[], up);
        let (open, idle) = self.database.connections();
        metrics::connections(open, idle);
        metrics::render(&gauges)
    }

    /// The configuration in force.
    pub(super) fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Keeps a configuration that is none of the passes' business.
    pub(super) fn keep(&self, config: Arc<Config>) {
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = config;
    }

    /// Puts another configuration into force: the passes end as for a stop, and begin anew under it.
    pub(super) fn take(&self, config: Arc<Config>) {
        self.keep(config);
        self.round.lock().unwrap_or_else(PoisonError::into_inner).cancel();
    }

    /// What ends the next round of passes.
    fn renew(&self) -> CancellationToken {
        let end = self.stop.soft.child_token();
        self.round.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&end);
        end
    }

    /// Whether every pass moves; asks nobody.
    pub(super) fn live(&self) -> Checks {
        let moving = self.health.beats.moving(Instant::now());
        moving.into_iter().map(|(pass, moves)| (pass, if moves { Ok(()) } else { Err(format!("{pass}: hangs")) })).collect()
    }

    /// Whether the daemon can do its work now; asks the database.
    async fn ready(&self) -> Checks {
        let check = |fine: bool, why: &str| if fine { Ok(()) } else { Err(why.to_owned()) };
        let stopping = self.stop.soft.is_cancelled();
        let (waiting, looked) = (self.health.waiting.load(Ordering::Relaxed), self.health.looked.load(Ordering::Relaxed));
        let mut checks = vec![
            ("running", check(!stopping, "the daemon is stopping")),
            ("policy", check(!waiting, "the policy of this configuration waits until somebody accepts it")),
            ("comparison", check(looked, "the first full comparison has not ended yet")),
        ];
        match self.database.begin(Purpose::Read).await {
            Ok(mut tx) => {
                checks.push(("database", Ok(())));
                checks.push(("schema", schema::check(&mut tx).await.map_err(|e| e.to_string())));
            }
            Err(error) => checks.push(("database", Err(error.to_string()))),
        }
        checks
    }
}

fn ops(daemon: &Arc<Daemon>) -> http::Ops {
    let (live, ready, figures) = (Arc::clone(daemon), Arc::clone(daemon), Arc::clone(daemon));
    http::Ops::new(
        move || live.live(),
        move || {
            let daemon = Arc::clone(&ready);
            async move { daemon.ready().await }
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
