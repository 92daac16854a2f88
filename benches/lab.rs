//! The laboratory: one durable server for the run, and template databases that every measurement starts from a fresh copy of.

use std::{path::PathBuf, time::Duration};

use retentiond::{
    embedded::{Options, Server},
    schema,
};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};

use crate::program::Program;

/// The rules that are shipped: what is measured is the promise itself.
pub(crate) const RULES: &str = include_str!("../config/retentiond.toml");
/// Where jobs are seen with their `state`, whether open or finished.
const JOBS: &str = "retention.every_job";
/// Where finished jobs are kept.
pub(crate) const HISTORY: &str = "history";
/// The copy that is measured.
pub(crate) const COPY: &str = "copy";

/// A server with room for the workload, as durable as in production.
pub(crate) struct Lab {
    server: Server,
    folder: tempfile::TempDir,
}

impl Lab {
    pub(crate) fn open() -> Self {
        let settings = [
            ("shared_buffers", "2GB"),
            ("max_wal_size", "16GB"),
            ("checkpoint_timeout", "1h"),
            ("maintenance_work_mem", "512MB"),
            ("shared_preload_libraries", "pg_stat_statements"),
            ("pg_stat_statements.track_utility", "on"),
        ];
        let settings = settings.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec();
        let server = Server::start(&Options { settings, ..Options::default() }).expect("an embedded Postgres");
        Self { server, folder: tempfile::tempdir().expect("a temporary folder") }
    }

    pub(crate) fn url(&self, database: &str) -> String {
        self.server.url(database)
    }

    /// A file of this run.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) async fn admin(&self) -> PgConnection {
        self.connect("postgres").await
    }

    pub(crate) async fn connect(&self, database: &str) -> PgConnection {
        PgConnection::connect(&self.url(database)).await.expect("the server")
    }

    /// The program with the shipped rules on a database, with a guard that lets a benchmark pass.
    pub(crate) fn program<'a>(&'a self, database: &str, mode: &str) -> Program<'a> {
        Program::new(self, mode).set("DATABASE__URL", &self.url(database))
    }

    /// A database with the reference platform, filled by the statements, vacuumed and analysed.
    pub(crate) async fn template(&self, name: &str, fill: &str) {
        self.drop(name).await;
        sql(&mut self.admin().await, &format!("create database {name}")).await;
        schema::migrate(&self.program(name, "enforce").config(), true).await.expect("migrate");
        let mut conn = self.connect(name).await;
        sql(&mut conn, "create extension pg_prewarm").await;
        self.fill(name, fill).await;
    }

    /// Runs the statements without the checks of foreign keys, and without the indexes, which are made afterwards.
    pub(crate) async fn fill(&self, name: &str, fill: &str) {
        let mut conn = self.connect(name).await;
        sql(&mut conn, "set session_replication_role = replica; set synchronous_commit = off; set work_mem = '256MB'").await;
        let rows = sqlx::query(
            "with ours as (select c.oid, c.oid::regclass::text as tab from pg_class c where c.relnamespace = 'public'::regnamespace and c.relkind = 'r'),
             keys as (select o.tab, quote_ident(k.conname) as name, pg_get_constraintdef(k.oid) as def, k.conindid, k.contype = 'f' as foreign_key
                      from pg_constraint k join ours o on o.oid = k.conrelid where k.contype in ('p', 'u', 'f'))
             select foreign_key as late, format('alter table %s drop constraint %s', tab, name), format('alter table %s add constraint %s %s', tab, name, def) from keys
             union all
             select false, format('drop index %s', i.indexrelid::regclass), pg_get_indexdef(i.indexrelid)
             from pg_index i join ours o on o.oid = i.indrelid where i.indexrelid not in (select conindid from keys where not foreign_key)
             order by 1",
        )
        .fetch_all(&mut conn)
        .await
        .expect("the indexes");
        // A foreign key needs the key that it points at: it goes first and comes last.
        for row in rows.iter().rev() {
            sql(&mut conn, row.get(1)).await;
        }
        sql(&mut conn, fill).await;
        for row in &rows {
            sql(&mut conn, row.get(2)).await;
        }
        sql(&mut conn, "vacuum analyze").await;
    }

    /// Plans what the template holds, so that measurements of the purge start with jobs that are scheduled and due.
    pub(crate) async fn plan(&self, name: &str) {
        self.program(name, "observe").run();
        sql(&mut self.connect(name).await, "vacuum analyze").await;
    }

    /// A fresh copy of a template, in memory, right after a checkpoint.
    pub(crate) async fn copy(&self, template: &str) -> PgConnection {
        self.copy_to(template, COPY).await;
        let mut conn = self.connect(COPY).await;
        sql(
            &mut conn,
            "select pg_prewarm(oid) from pg_class where relnamespace in ('public'::regnamespace, 'retention'::regnamespace) and relkind in ('r', 'i')",
        )
        .await;
        sql(&mut conn, "checkpoint").await;
        conn
    }

    pub(crate) async fn copy_to(&self, template: &str, name: &str) {
        let mut admin = self.admin().await;
        self.drop(name).await;
        let version = number(&mut admin, "select current_setting('server_version_num')::int8").await;
        let strategy = if version >= 150_000 { " strategy file_copy" } else { "" };
        sql(&mut admin, &format!("create database {name} template {template}{strategy}")).await;
    }

    pub(crate) async fn drop(&self, name: &str) {
        sql(&mut self.admin().await, &format!("drop database if exists {name} with (force)")).await;
    }

    /// The statements of a database since [`Lab::forget_statements`], one figure of those that match.
    pub(crate) async fn statements<T>(&self, database: &str, figure: &str, which: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        sqlx::query_scalar(AssertSqlSafe(format!(
            "select {figure} from pg_stat_statements s join pg_database d on d.oid = s.dbid where d.datname = '{database}' and {which}"
        )))
        .fetch_one(&mut self.admin().await)
        .await
        .expect("pg_stat_statements")
    }

    pub(crate) async fn forget_statements(&self) {
        sql(&mut self.admin().await, "create extension if not exists pg_stat_statements; select pg_stat_statements_reset()").await;
    }

    /// The statements that took longest, for whoever wants to make them shorter: with `RETENTIOND_BENCH_WORST` in the environment.
    pub(crate) async fn worst(&self, database: &str) {
        if !asked("RETENTIOND_BENCH_WORST") {
            return;
        }
        let rows = sqlx::query(AssertSqlSafe(format!(
            "select 'longest ' || round(max_exec_time)::text || ' ms, ' || round(total_exec_time)::text || ' ms in ' || calls || ' calls, ' || rows || ' rows, ' || shared_blks_hit + shared_blks_read || ' buffers: ' || left(regexp_replace(query, '\\s+', ' ', 'g'), 140)
             from pg_stat_statements s join pg_database d on d.oid = s.dbid where d.datname = '{database}' order by max_exec_time desc limit 12"
        )))
        .fetch_all(&mut self.admin().await)
        .await
        .expect("pg_stat_statements");
        for row in &rows {
            eprintln!("  {}", row.get::<String, _>(0));
        }
    }
}

/// Whether a variable of the environment is there.
pub(crate) fn asked(name: &str) -> bool {
    std::env::vars().any(|(n, _)| n == name)
}

pub(crate) async fn sql(conn: &mut PgConnection, statements: &str) {
    sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(conn).await.unwrap_or_else(|e| panic!("{statements}: {e}"));
}

pub(crate) async fn number(conn: &mut PgConnection, query: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(conn).await.unwrap_or_else(|e| panic!("{query}: {e}"))
}

pub(crate) async fn completed(conn: &mut PgConnection) -> i64 {
    number(conn, &format!("select count(*) from {JOBS} where state = 'completed'")).await
}

/// Pauses the measurement, never the thing that is measured.
pub(crate) async fn pause(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}
