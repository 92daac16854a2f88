//! The laboratory: one durable server for the run, template databases that every measurement starts from a fresh copy of, and the program as a
//! child whose memory is watched.

use std::{
    collections::BTreeMap,
    fs::File,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use retentiond::{
    config::{self, Config, Needs},
    embedded::{Options, Server},
    schema,
};
use sqlx::{AssertSqlSafe, Connection, FromRow, PgConnection, Row};

/// The rules that are shipped: what is measured is the promise itself.
const RULES: &str = include_str!("../config/retentiond.toml");

/// A server with room for the workload, as durable as in production.
pub(crate) struct Lab {
    server: Server,
    folder: tempfile::TempDir,
}

impl Lab {
    pub(crate) fn open() -> Self {
        let settings = [
            ("shared_buffers", "1GB"),
            ("max_wal_size", "16GB"),
            ("checkpoint_timeout", "1h"),
            ("maintenance_work_mem", "256MB"),
            ("shared_preload_libraries", "pg_stat_statements"),
            ("pg_stat_statements.track_utility", "off"),
        ];
        let settings = settings.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec();
        let server = Server::start(&Options { settings, ..Options::default() }).expect("an embedded Postgres");
        Self { server, folder: tempfile::tempdir().expect("a temporary folder") }
    }

    pub(crate) async fn admin(&self) -> PgConnection {
        self.connect("postgres").await
    }

    pub(crate) async fn connect(&self, database: &str) -> PgConnection {
        PgConnection::connect(&self.server.url(database)).await.expect("the server")
    }

    fn settings(&self, database: &str, mode: &str) -> BTreeMap<String, String> {
        let settings = [
            ("MODE", mode.to_owned()),
            ("DATABASE__URL", self.server.url(database)),
            ("GUARD__MAX_ACCOUNTS", "unlimited".to_owned()),
            ("GUARD__MAX_SHARE", "100%".to_owned()),
        ];
        settings.map(|(key, value)| (format!("RETENTIOND__{key}"), value)).into()
    }

    /// The shipped rules for a database, with a guard that lets a benchmark pass.
    pub(crate) fn config(&self, database: &str) -> Arc<Config> {
        Arc::new(config::parse(&[("retentiond.toml", RULES)], &self.settings(database, "enforce"), Needs::Database).expect("configuration"))
    }

    /// A database with the reference platform, filled by the statements, vacuumed and analysed.
    pub(crate) async fn template(&self, name: &str, fill: &str) {
        self.drop(name).await;
        sql(&mut self.admin().await, &format!("create database {name}")).await;
        schema::migrate(&self.config(name).database, true).await.expect("migrate");
        let mut conn = self.connect(name).await;
        sql(&mut conn, "create extension pg_prewarm").await;
        sql(&mut conn, fill).await;
        sql(&mut conn, "vacuum analyze").await;
    }

    /// A fresh copy of a template, in memory, right after a checkpoint.
    pub(crate) async fn copy(&self, template: &str) -> PgConnection {
        let mut admin = self.admin().await;
        self.drop("copy").await;
        let strategy = if version(&mut admin).await >= 150_000 { " strategy file_copy" } else { "" };
        sql(&mut admin, &format!("create database copy template {template}{strategy}")).await;
        let mut conn = self.connect("copy").await;
        sql(
            &mut conn,
            "select pg_prewarm(oid) from pg_class where relnamespace in ('public'::regnamespace, 'retention'::regnamespace) and relkind in ('r', 'i')",
        )
        .await;
        sql(&mut conn, "checkpoint").await;
        conn
    }

    async fn drop(&self, name: &str) {
        sql(&mut self.admin().await, &format!("drop database if exists {name} with (force)")).await;
    }

    /// `retentiond run --once` on the copy, with its memory watched until it has ended.
    pub(crate) fn run_once(&self, mode: &str) -> Ran {
        let log = self.folder.path().join("run.log");
        let rules = self.folder.path().join("retentiond.toml");
        std::fs::write(&rules, RULES).expect("the rules");
        let began = Instant::now();
        let mut child = Command::new(env!("CARGO_BIN_EXE_retentiond"))
            .args(["run", "--once", "-c"])
            .arg(&rules)
            .env_clear()
            .envs(self.settings("copy", mode))
            .stdin(Stdio::null())
            .stdout(File::create(&log).expect("the log"))
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the program");
        let peak_kib = watch(&mut child);
        let took = began.elapsed();
        let status = child.wait().expect("the child");
        if !status.success() {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let bad: Vec<&str> = text.lines().filter(|l| !l.contains("\"level\":\"info\"")).take(20).collect();
            panic!("the program ended with {status}:\n{}", bad.join("\n"));
        }
        Ran { took, peak_kib, log }
    }
}

/// Waits for the child. The peak is a high-water mark, so that looking now and then misses nothing but the last instants.
fn watch(child: &mut Child) -> u64 {
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let now = text.lines().find_map(|l| l.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse().ok());
        peak = peak.max(now.unwrap_or(0));
        if child.try_wait().expect("the child").is_some() {
            return peak;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What one run of the program came to.
pub(crate) struct Ran {
    /// From start to end, the full comparison included.
    pub(crate) took: Duration,
    pub(crate) peak_kib: u64,
    log: PathBuf,
}

impl Ran {
    /// From the end of the full comparison to the last line of the log: the purge alone.
    pub(crate) fn purge(&self) -> Duration {
        let text = std::fs::read_to_string(&self.log).expect("the log");
        let at = |line: &str| {
            let value: serde_json::Value = serde_json::from_str(line).expect("a JSON line");
            value["ts"].as_str().and_then(|ts| ts.parse::<chrono::DateTime<chrono::Utc>>().ok()).expect("ts")
        };
        let from = text.lines().find(|l| l.contains("\"poll.completed\"")).expect("a comparison");
        let to = text.lines().next_back().expect("a last line");
        (at(to) - at(from)).to_std().expect("time goes forward")
    }
}

pub(crate) async fn sql(conn: &mut PgConnection, statements: &str) {
    sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(conn).await.unwrap_or_else(|e| panic!("{statements}: {e}"));
}

pub(crate) async fn number(conn: &mut PgConnection, query: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(conn).await.unwrap_or_else(|e| panic!("{query}: {e}"))
}

pub(crate) async fn version(conn: &mut PgConnection) -> i64 {
    number(conn, "select current_setting('server_version_num')::int8").await
}

/// What the server did in a database since [`Work::reset`].
#[derive(Debug, Clone, Copy, FromRow)]
pub(crate) struct Work {
    /// Statements, without `begin`, `set` and `commit`.
    pub(crate) statements: i64,
    /// Batches that recorded what they did.
    pub(crate) batches: i64,
    /// Bytes of log.
    pub(crate) wal: i64,
}

impl Work {
    /// Needs `pg_stat_statements` in the database `postgres`.
    pub(crate) async fn reset(lab: &Lab) {
        sql(&mut lab.admin().await, "create extension if not exists pg_stat_statements; select pg_stat_statements_reset()").await;
    }

    pub(crate) async fn done(lab: &Lab) -> Self {
        sqlx::query_as(
            "select coalesce(sum(calls), 0)::int8 as statements, coalesce(sum(wal_bytes), 0)::int8 as wal,
                    coalesce(sum(calls) filter (where query like '%retention.jobs j%p.pause%'), 0)::int8 as batches
             from pg_stat_statements s join pg_database d on d.oid = s.dbid where d.datname = 'copy'",
        )
        .fetch_one(&mut lab.admin().await)
        .await
        .expect("pg_stat_statements")
    }

    /// The statements that took longest, for whoever wants to make them shorter.
    pub(crate) async fn worst(lab: &Lab) -> String {
        let rows = sqlx::query(
            "select round(total_exec_time)::text || ' ms in ' || calls || ' calls, ' || rows || ' rows: ' || left(regexp_replace(query, '\\s+', ' ', 'g'), 140)
             from pg_stat_statements s join pg_database d on d.oid = s.dbid where d.datname = 'copy' order by total_exec_time desc limit 12",
        )
        .fetch_all(&mut lab.admin().await)
        .await
        .expect("pg_stat_statements");
        rows.iter().map(|r| r.get::<String, _>(0)).collect::<Vec<_>>().join("\n")
    }
}
