//! What a soak runs in: a Postgres that can be killed and restarted, pgbouncer, two proxies, the replicas; and what is counted and found on the way.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use retentiond::{
    config::{self, Config, Needs},
    embedded::{Options, Server},
    schema,
};
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio_util::sync::CancellationToken;

use crate::{
    pgbouncer::{self, Pgbouncer, Upstream},
    platform,
    proxy::Proxy,
};

const RULES: &str = include_str!("rules.toml");
const AUDIT: &str = include_str!("audit.sql");

/// Everything of one soak. Dropped in this order.
pub(crate) struct World {
    /// In front of Postgres itself.
    pub(crate) direct: Proxy,
    /// In front of pgbouncer.
    pub(crate) pooled: Proxy,
    pub(crate) pooler: tokio::sync::Mutex<Pgbouncer>,
    pub(crate) server: tokio::sync::Mutex<Option<Server>>,
    pub(crate) folder: tempfile::TempDir,
    /// Postgres, without anything in between.
    pub(crate) url: String,
    port: u16,
    /// Acts and faults have come to an end.
    pub(crate) over: CancellationToken,
    counts: Mutex<BTreeMap<String, u64>>,
    violations: Mutex<BTreeMap<&'static str, Vec<String>>>,
    longest: Mutex<(Duration, String)>,
}

impl World {
    /// Starts the servers and fills the platform's tables.
    pub(crate) async fn new() -> Self {
        let program = pgbouncer::installed().expect("pgbouncer is installed: `make prerequisites`");
        let folder = tempfile::Builder::new().prefix("retentiond-soak-").tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = start(folder.path().join("pg"), port).await;
        let url = |database: &str| server.url(database).replace(&own_port(&server), &format!(":{port}/"));
        let mut admin = PgConnection::connect(&url("postgres")).await.unwrap();
        sqlx::query("create database platform").execute(&mut admin).await.unwrap();
        let url = url("platform");
        let pooler = Pgbouncer::start(&program, &Upstream::of(&url), 30);
        std::fs::write(folder.path().join("rules.toml"), RULES).unwrap();
        let world = Self {
            direct: Proxy::start(port),
            pooled: Proxy::start(pooler.port),
            pooler: tokio::sync::Mutex::new(pooler),
            server: tokio::sync::Mutex::new(Some(server)),
            folder,
            url,
            port,
            over: CancellationToken::new(),
            counts: Mutex::default(),
            violations: Mutex::default(),
            longest: Mutex::default(),
        };
        schema::migrate(&World::config(&world.url), true).await.unwrap();
        let mut c = PgConnection::connect(&world.url).await.unwrap();
        for part in [AUDIT, &platform::everybody()] {
            sqlx::raw_sql(AssertSqlSafe(part.to_owned())).execute(&mut c).await.unwrap();
        }
        world
    }

    /// The address of the database through a port of ours.
    pub(crate) fn through(&self, port: u16) -> String {
        self.url.replace(&format!(":{}/", self.port), &format!(":{port}/"))
    }

    /// The settings of a process that reaches the database by `url`.
    pub(crate) fn settings(url: &str) -> BTreeMap<String, String> {
        let settings = [
            ("RETENTIOND__MODE", "enforce"),
            ("RETENTIOND__DATABASE__URL", url),
            ("RETENTIOND__HTTP__OPS_LISTEN", "127.0.0.1:0"),
            ("RETENTIOND__HTTP__LISTEN", "127.0.0.1:0"),
        ];
        settings.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
    }

    pub(crate) fn config(url: &str) -> Config {
        config::parse(&[("rules.toml", RULES)], &Self::settings(url), Needs::Database).unwrap()
    }

    /// The rules as a file.
    pub(crate) fn rules(&self) -> PathBuf {
        self.folder.path().join("rules.toml")
    }

    /// Ends Postgres with a signal, and starts it again on the same data after a while.
    pub(crate) async fn restart(&self, signal: Signal, pause: Duration) {
        let mut slot = self.server.lock().await;
        if let Some(server) = slot.take() {
            kill_process(Pid::from_raw(i32::try_from(server.pid()).unwrap()).unwrap(), signal).unwrap();
            tokio::task::spawn_blocking(move || drop(server)).await.unwrap();
        }
        tokio::time::sleep(pause).await;
        *slot = Some(start(self.folder.path().join("pg"), self.port).await);
    }

    /// Sleeps, unless everything ends; whether it goes on.
    pub(crate) async fn rest(&self, pause: Duration) -> bool {
        self.over.run_until_cancelled(tokio::time::sleep(pause)).await.is_some()
    }

    /// Counts an act or a fault.
    pub(crate) fn did(&self, what: &str) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(what.to_owned()).or_default() += 1;
    }

    pub(crate) fn counts(&self) -> BTreeMap<String, u64> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Something that must not be.
    pub(crate) fn violated(&self, invariant: &'static str, what: String) {
        let mut all = self.violations.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(invariant).or_default().push(what);
    }

    pub(crate) fn violations(&self) -> BTreeMap<&'static str, Vec<String>> {
        self.violations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How long the platform had to wait for one of its own acts.
    pub(crate) fn took(&self, time: Duration, what: &str) {
        let mut longest = self.longest.lock().unwrap_or_else(PoisonError::into_inner);
        if time > longest.0 {
            *longest = (time, what.to_owned());
        }
    }

    pub(crate) fn longest(&self) -> (Duration, String) {
        self.longest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A connection once the database answers.
    pub(crate) async fn connect(&self) -> PgConnection {
        let began = Instant::now();
        loop {
            match PgConnection::connect(&self.url).await {
                Ok(connection) => return connection,
                Err(error) => assert!(began.elapsed() < Duration::from_mins(2), "the database does not come back: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The server's own idea of its port, as it stands in an address.
fn own_port(server: &Server) -> String {
    let url = server.url("");
    format!(":{}/", url.trim_end_matches('/').rsplit(':').next().unwrap())
}

async fn start(dir: PathBuf, port: u16) -> Server {
    let settings = [
        ("port", port.to_string()),
        ("track_commit_timestamp", "on".to_owned()),
        ("max_connections", "200".to_owned()),
        ("log_min_messages", "warning".to_owned()),
    ];
    let settings = settings.map(|(name, value)| (name.to_owned(), value)).to_vec();
    let options = Options { dir: Some(dir), durable: false, settings, ..Options::default() };
    tokio::task::spawn_blocking(move || Server::start(&options).expect("an embedded Postgres")).await.unwrap()
}

/// Whether a statement failed because the connection or the server went away.
pub(crate) fn lost(error: &sqlx::Error) -> bool {
    match error.as_database_error() {
        Some(e) => e.code().is_none_or(|code| code.starts_with("57P") || code.starts_with("08") || code.starts_with("53")),
        None => true,
    }
}
