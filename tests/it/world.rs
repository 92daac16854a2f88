//! The one world of the tests: a database with the reference platform, accounts with data, the daemon's passes, the program itself.
//! `DATABASE_URL` names the server; without it an embedded one is started. Only databases made here are ever dropped.

use std::{
    collections::BTreeMap,
    io::Write,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use retentiond::{
    app::App,
    config::{self, Config, Needs},
    embedded::{Options, Server},
    failure::Failure,
    jobs::{self, Filter, Job},
    lifecycle::Stop,
    schema,
    telemetry::events::named,
};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// The rules of the promise, with a guard that lets a test's accounts pass.
pub(crate) const RULES: &str = include_str!("rules.toml");

static SERVER: OnceLock<Option<Server>> = OnceLock::new();
static NEXT: AtomicU32 = AtomicU32::new(0);

/// The address of the server with another database name.
fn address(database: &str) -> String {
    let given = std::env::vars().find(|(name, url)| name == "DATABASE_URL" && !url.is_empty());
    if let Some((_, url)) = given {
        let (head, parameters) = url.split_once('?').map_or((url.as_str(), None), |(h, p)| (h, Some(p)));
        let server = head.rsplit_once('/').expect("DATABASE_URL names a database").0;
        return format!("{server}/{database}{}", parameters.map(|p| format!("?{p}")).unwrap_or_default());
    }
    let server = SERVER.get_or_init(|| {
        let settings = [("max_connections", "200"), ("timezone", "America/New_York")];
        let settings = settings.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec();
        Some(Server::start(&Options { durable: false, settings, ..Options::default() }).expect("an embedded Postgres"))
    });
    server.as_ref().unwrap().url(database)
}

/// A server of the tests is not installed: what needs it is left out and says so, unless `RETENTIOND_TEST_ALL` forbids that.
pub(crate) fn left_out(what: &str) {
    assert!(!std::env::vars().any(|(name, _)| name == "RETENTIOND_TEST_ALL"), "{what}: `scripts/prerequisites tests`");
    // Past the harness, which shows what a test prints only when it fails.
    let _told = writeln!(std::io::stderr(), "left out: {what}");
}

/// One database, made for one test and dropped with it.
pub(crate) struct World {
    pub(crate) database: String,
    pub(crate) url: String,
    /// Configuration text beyond the rules and the address.
    pub(crate) rules: String,
    /// Keys as environment variables would set them, like `RETENTIOND__MODE`.
    pub(crate) settings: BTreeMap<String, String>,
    /// What is changed that no key can change.
    pub(crate) adjust: fn(&mut Config),
    folder: tempfile::TempDir,
}

/// What is left of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Left {
    pub(crate) templates: i64,
    pub(crate) tasks: i64,
    pub(crate) messages: i64,
    pub(crate) media: i64,
}

/// Shorthand for [`Left`]: templates, tasks, messages, media.
pub(crate) fn left(templates: i64, tasks: i64, messages: i64, media: i64) -> Left {
    Left { templates, tasks, messages, media }
}

/// What [`World::account`] puts into each place.
pub(crate) const ALL: Left = Left { templates: 3, tasks: 5, messages: 7, media: 2 };

impl World {
    /// The reference platform and the daemon's tables, empty.
    pub(crate) async fn new() -> Self {
        let world = Self::bare().await;
        schema::migrate(&world.config(), true).await.expect("migrate");
        world
    }

    /// The same world again, as it is now. Nobody may be connected to it.
    pub(crate) async fn copy(&self) -> Self {
        let mut copy = Self::of(&format!("template {}", self.database)).await;
        let address = std::mem::replace(&mut copy.settings, self.settings.clone()).remove("RETENTIOND__DATABASE__URL").unwrap();
        copy.settings.insert("RETENTIOND__DATABASE__URL".to_owned(), address);
        copy
    }

    /// A database without any table.
    pub(crate) async fn bare() -> Self {
        Self::of("").await
    }

    async fn of(template: &str) -> Self {
        let database = format!("it_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut admin = PgConnection::connect(&address("postgres")).await.expect("the test server");
        sqlx::query(AssertSqlSafe(format!("create database {database} {template}"))).execute(&mut admin).await.unwrap();
        let url = address(&database);
        let settings = [
            ("RETENTIOND__MODE", "enforce"),
            ("RETENTIOND__DATABASE__URL", url.as_str()),
            ("RETENTIOND__HTTP__OPS_LISTEN", "127.0.0.1:0"),
            ("RETENTIOND__HTTP__LISTEN", "127.0.0.1:0"),
        ];
        let settings = settings.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        Self { database, url, rules: RULES.to_owned(), settings, adjust: |_| {}, folder: tempfile::tempdir().unwrap() }
    }

    /// Sets a key, as an environment variable would: `set("EXECUTOR__MAX_ROWS_PER_BATCH", "3")`.
    pub(crate) fn set(&mut self, key: &str, value: &str) -> &mut Self {
        self.settings.insert(format!("RETENTIOND__{key}"), value.to_owned());
        self
    }

    /// The configuration, loaded the way the program loads it.
    pub(crate) fn config(&self) -> Config {
        let mut config = config::parse(&[("rules.toml", &self.rules)], &self.settings, Needs::Database).expect("the test's configuration");
        (self.adjust)(&mut config);
        config
    }

    pub(crate) async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.unwrap()
    }

    /// Nobody looks again at what was purged while a test does something else.
    pub(crate) async fn no_look_comes(&self) {
        self.sql("update retention.done_marks set look_at = now() + interval '1 hour' where look_at is not null").await;
    }

    /// Runs statements, as the platform would.
    pub(crate) async fn sql(&self, statements: &str) {
        sqlx::raw_sql(AssertSqlSafe(statements.to_owned()))
            .execute(&mut self.connect().await)
            .await
            .unwrap_or_else(|e| panic!("{statements}: {e}"));
    }

    pub(crate) async fn count(&self, from: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(format!("select count(*) from {from}"))).fetch_one(&mut self.connect().await).await.unwrap()
    }

    /// An account with a subscription to `mps` and [`ALL`] its data; each instant is a SQL expression: `"now() - interval '31 days'"` or `"null"`.
    pub(crate) async fn account(&self, id: &str, deleted: &str, terminated: &str, cmq_disabled: &str) {
        let mut c = self.connect().await;
        sqlx::query(AssertSqlSafe(format!("insert into accounts (account_id, region, deleted_at) values ($1, 'ap-singapore', {deleted})")))
            .bind(id)
            .execute(&mut c)
            .await
            .unwrap();
        sqlx::query(AssertSqlSafe(format!(
            "insert into feature_subscriptions (account_id, feature, terminated_at, cmq_enabled, cmq_disabled_at) values ($1, 'mps', {terminated}, true, {cmq_disabled})"
        )))
        .bind(id)
        .execute(&mut c)
        .await
        .unwrap();
        self.data(id).await;
    }

    /// [`ALL`] the data of an account, whether there is such an account or not.
    pub(crate) async fn data(&self, id: &str) {
        let mut c = self.connect().await;
        for statement in [
            "insert into template_configurations (account_id, template_type, parameters) select $1, 'video', '{}' from generate_series(1, 3)",
            "insert into task_configurations (task_id, account_id, task_type, source_media_path, output_path) select md5($1 || random() || i), $1, 'transcode', '/in', '/out' from generate_series(1, 5) i",
            "insert into queue_messages (account_id, event_type) select $1, 'WorkflowTask' from generate_series(1, 7)",
            "insert into media_objects (account_id, kind) select $1, 'source' from generate_series(1, 2)",
        ] {
            sqlx::query(statement).bind(id).execute(&mut c).await.unwrap();
        }
    }

    /// What is left of an account.
    pub(crate) async fn left(&self, id: &str) -> Left {
        let mut c = self.connect().await;
        let mut counts = Vec::new();
        for table in ["template_configurations", "task_configurations", "queue_messages", "media_objects"] {
            let query = format!("select count(*) from {table} where account_id = $1");
            counts.push(sqlx::query_scalar(AssertSqlSafe(query)).bind(id).fetch_one(&mut c).await.unwrap());
        }
        left(counts[0], counts[1], counts[2], counts[3])
    }

    /// The passes of this configuration, ready to run in this process.
    pub(crate) async fn app(&self) -> Result<App, Failure> {
        let app = App::prepare_patiently(Arc::new(self.config())).await?;
        app.agree().await?;
        Ok(app)
    }

    /// Somebody accepts the policy of the configuration as it is now.
    pub(crate) fn accept(&self) {
        let output = self.cli(&["policy", "accept", "--reason", "test"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// One full comparison, then everything that is due: what `run --once` does.
    pub(crate) async fn run_passes(&self) -> Result<(), Failure> {
        let app = self.app().await?;
        let ended = app.run_once(&Stop::default()).await;
        app.database.close().await;
        ended
    }

    /// Every job of the account, newest first.
    pub(crate) async fn jobs(&self, account: &str) -> Vec<Job> {
        let filter = Filter { account: Some(account.to_owned()), ..Filter::default() };
        let mut c = self.connect().await;
        jobs::list(&mut c, &filter).await.unwrap()
    }

    /// The newest job of one data class.
    pub(crate) async fn job(&self, account: &str, class: &str) -> Job {
        self.jobs(account).await.into_iter().find(|j| j.data_class == class).unwrap_or_else(|| panic!("{account} has no {class} job"))
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let rules = self.folder.path().join("retentiond.toml");
        std::fs::write(&rules, &self.rules).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_retentiond"));
        command.arg("--config").arg(rules).args(arguments).env_clear().envs(&self.settings).current_dir(self.folder.path());
        command
    }

    /// Writes the rules where a running daemon reads them again.
    pub(crate) fn write_rules(&self) {
        std::fs::write(self.folder.path().join("retentiond.toml"), &self.rules).unwrap();
    }

    /// Runs the program itself.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs a read verb with `-o json`.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let output = self.cli(&[arguments, &["-o", "json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Starts the daemon.
    pub(crate) fn daemon(&self) -> Daemon {
        let log = self.folder.path().join(format!("daemon-{}.log", NEXT.fetch_add(1, Ordering::Relaxed)));
        let file = std::fs::File::create(&log).unwrap();
        let child = self.command(&["run"]).stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        Daemon { child, log }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let (url, database) = (address("postgres"), self.database.clone());
        // A runtime of its own: the test's may be the one that is going down.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut admin = PgConnection::connect(&url).await?;
                sqlx::query(AssertSqlSafe(format!("drop database if exists {database} with (force)"))).execute(&mut admin).await
            })
        });
        let _ = dropped.join();
    }
}

/// A running daemon; killed when dropped.
pub(crate) struct Daemon {
    pub(crate) child: Child,
    pub(crate) log: PathBuf,
}

impl Daemon {
    /// Every line of the log so far; each must be JSON, and carry no field that the catalogue of events does not know.
    pub(crate) fn events(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.log).unwrap();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let events: Vec<Value> = whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect();
        events.iter().for_each(in_the_catalogue);
        events
    }

    /// Waits for a log line; the line, or a panic that shows the log.
    pub(crate) async fn wait_for(&self, what: &str, matches: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + Duration::from_mins(2);
        loop {
            if let Some(found) = self.events().into_iter().find(&matches) {
                return found;
            }
            assert!(Instant::now() < deadline, "not within 2 min: {what}\n{}", std::fs::read_to_string(&self.log).unwrap());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
    }

    /// The exit code, once it has ended.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        let deadline = Instant::now() + Duration::from_secs(40);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the daemon does not end\n{}", std::fs::read_to_string(&self.log).unwrap());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn in_the_catalogue(line: &Value) {
    let event = named(line["event"].as_str());
    if event.name == "log" {
        assert_eq!(line["event"], "log", "no such event: {line}");
        return;
    }
    assert!(event.levels.split(' ').any(|level| line["level"] == level), "not at this level: {line}");
    for field in line.as_object().unwrap().keys() {
        let known = matches!(field.as_str(), "ts" | "level" | "event" | "msg" | "trace_id" | "span_id");
        assert!(known || event.fields.split(' ').any(|known| known == field), "{field} is not in src/telemetry/events.rs: {line}");
    }
}

/// Waits until a condition holds, looking again and again.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_mins(2);
    while !holds().await {
        assert!(Instant::now() < deadline, "not within 2 min: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
