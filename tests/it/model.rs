//! Long random histories, told to the daemon and to a model of a few dozen lines, and compared record by record after each pass.
//!
//! The model restates the promise in its own words and shares no code with the daemon. Time passes by moving every instant of the world
//! into the past, which is the same to a program that only ever compares with the database's clock.
//! `PROPTEST_CASES=10000` runs more histories; a failure shrinks and prints its seed.

use std::collections::BTreeMap;

use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner},
};
use retentiond::{app::App, lifecycle::Stop};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::world::World;

const ACCOUNTS: usize = 4;
const DAY: i64 = 86_400;
/// Instants are offsets in seconds from the start of a history; these are far enough from every boundary that its length does not matter.
const AGES: [i64; 7] = [-3, 1, 6, 8, 29, 31, 400];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Point {
    Deleted,
    Terminated,
    CmqDisabled,
}

impl Point {
    fn column(self) -> (&'static str, &'static str) {
        match self {
            Self::Deleted => ("accounts", "deleted_at"),
            Self::Terminated => ("feature_subscriptions", "terminated_at"),
            Self::CmqDisabled => ("feature_subscriptions", "cmq_disabled_at"),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Deleted => "account_deleted",
            Self::Terminated => "feature_terminated",
            Self::CmqDisabled => "cmq_disabled",
        }
    }
}

#[derive(Debug, Clone)]
enum Act {
    /// A starting point is set, so many days before now.
    Set(usize, Point, usize),
    /// It is withdrawn.
    Withdraw(usize, Point),
    /// The customer's programs write a record into each place.
    Write(usize),
    /// A hold on the account, or on one of its classes.
    Hold(usize, Option<bool>),
    /// Every hold of the account is released.
    Release(usize),
    Pause,
    Resume,
    /// Days pass.
    Wait(i64),
    /// The next look at everything purged comes with the next pass.
    Look,
    /// The daemon runs: one full comparison, then everything that is due.
    Pass,
}

fn act() -> impl Strategy<Value = Act> {
    let account = 0..ACCOUNTS;
    let point = prop_oneof![Just(Point::Deleted), Just(Point::Terminated), Just(Point::CmqDisabled)];
    prop_oneof![
        4 => (account.clone(), point.clone(), 0..AGES.len()).prop_map(|(a, p, age)| Act::Set(a, p, age)),
        2 => (account.clone(), point).prop_map(|(a, p)| Act::Withdraw(a, p)),
        2 => account.clone().prop_map(Act::Write),
        1 => (account.clone(), proptest::option::of(any::<bool>())).prop_map(|(a, class)| Act::Hold(a, class)),
        1 => account.prop_map(Act::Release),
        1 => Just(Act::Pause),
        2 => Just(Act::Resume),
        2 => prop_oneof![Just(2), Just(5), Just(25)].prop_map(Act::Wait),
        1 => Just(Act::Look),
        4 => Just(Act::Pass),
    ]
}

/// What the promise says, restated.
#[derive(Debug, Clone, Default)]
struct Model {
    now: i64,
    paused: bool,
    looking: bool,
    accounts: BTreeMap<usize, Account>,
}

#[derive(Debug, Clone, Default)]
struct Account {
    points: BTreeMap<Point, i64>,
    holds: Vec<Option<bool>>,
    /// Records in each place of the class: templates and tasks, or messages.
    records: [i64; 2],
    media: i64,
    /// The instant whose purge was carried out, by class.
    done: [Option<i64>; 2],
}

/// Queue is class 1, configuration class 0.
fn counts(class: usize, point: Point) -> bool {
    class == 1 || point != Point::CmqDisabled
}

fn days(class: usize) -> i64 {
    if class == 1 { 7 } else { 30 }
}

impl Account {
    /// The earliest instant that counts, and every point that stands since then: a job for either is right.
    fn earliest(&self, class: usize) -> Option<(i64, Vec<Point>)> {
        let counting = || self.points.iter().filter(|(p, _)| counts(class, **p));
        let at = counting().map(|(_, at)| *at).min()?;
        Some((at, counting().filter(|(_, other)| **other == at).map(|(p, _)| *p).collect()))
    }
}

impl Model {
    fn pass(&mut self) {
        for account in self.accounts.values_mut() {
            for class in 0..2 {
                // What came back after a purge opens the class again.
                if self.looking && account.records[class] > 0 {
                    account.done[class] = None;
                }
                let held = account.holds.iter().any(|h| h.is_none_or(|queue| usize::from(queue) == class));
                match account.earliest(class) {
                    None => account.done[class] = None,
                    Some((at, _)) if account.done[class] == Some(at) => {}
                    Some((at, _)) if at + days(class) * DAY <= self.now && !held && !self.paused => {
                        account.records[class] = 0;
                        account.done[class] = Some(at);
                    }
                    Some(_) => {}
                }
            }
        }
    }

    /// Jobs that must be open now: what stands and has not been carried out.
    fn open(&self) -> Vec<(String, String, Vec<&'static str>)> {
        let mut open = Vec::new();
        for (id, account) in &self.accounts {
            for (class, class_name) in CLASSES.iter().enumerate() {
                if let Some((at, points)) = account.earliest(class)
                    && account.done[class] != Some(at)
                {
                    open.push((name(*id), (*class_name).to_owned(), points.into_iter().map(Point::name).collect()));
                }
            }
        }
        open.sort();
        open
    }
}

const CLASSES: [&str; 2] = ["configuration", "queue"];

fn name(account: usize) -> String {
    format!("account-{account}")
}

/// The same history told to the database.
struct Told<'w> {
    app: &'w App,
    connection: PgConnection,
    /// The instant that ages are counted from: one for the whole history, so that equal ages are equal instants.
    base: String,
}

impl Told<'_> {
    async fn sql(&mut self, statement: String) {
        sqlx::raw_sql(AssertSqlSafe(statement.clone())).execute(&mut self.connection).await.unwrap_or_else(|e| panic!("{statement}: {e}"));
    }

    async fn start_over(&mut self) {
        self.sql(
            "delete from accounts; delete from template_configurations; delete from task_configurations; delete from queue_messages;
             delete from media_objects; delete from retention.jobs; delete from retention.done_marks; delete from retention.holds;
             delete from retention.pauses; delete from retention.admissions; delete from retention.passes;
             delete from retention.roster; delete from retention.absences; update retention.guard set known_accounts = null"
                .to_owned(),
        )
        .await;
        for account in 0..ACCOUNTS {
            let id = name(account);
            self.sql(format!("insert into accounts values ('{id}', 'x'); insert into feature_subscriptions values ('{id}', 'mps')")).await;
            self.write(account).await;
        }
    }

    async fn write(&mut self, account: usize) {
        let id = name(account);
        self.sql(format!(
            "insert into template_configurations (account_id, template_type, parameters) values ('{id}', 'video', '{{}}');
             insert into task_configurations (task_id, account_id, task_type, source_media_path, output_path) values (gen_random_uuid(), '{id}', 't', '/', '/');
             insert into queue_messages (account_id, event_type) values ('{id}', 'WorkflowTask');
             insert into media_objects (account_id, kind) values ('{id}', 'source')"
        ))
        .await;
    }

    async fn act(&mut self, model: &mut Model, act: &Act) {
        match act {
            Act::Set(account, point, age) => {
                let (table, column) = point.column();
                let (id, age) = (name(*account), AGES[*age]);
                let (base, hours) = (self.base.clone(), age * 24);
                self.sql(format!(
                    "update {table} set {column} = timestamptz '{base}' - interval '{hours} hours' where account_id = '{id}'"
                ))
                .await;
                let at = model.now - age * DAY;
                model.accounts.get_mut(account).unwrap().points.insert(*point, at);
            }
            Act::Withdraw(account, point) => {
                let (table, column) = point.column();
                self.sql(format!("update {table} set {column} = null where account_id = '{}'", name(*account))).await;
                model.accounts.get_mut(account).unwrap().points.remove(point);
            }
            Act::Write(account) => {
                self.write(*account).await;
                let account = model.accounts.get_mut(account).unwrap();
                account.records = account.records.map(|n| n + 1);
                account.media += 1;
            }
            Act::Hold(account, class) => {
                let class_name = class.map_or_else(|| "null".to_owned(), |queue| format!("'{}'", CLASSES[usize::from(queue)]));
                self.sql(format!(
                    "insert into retention.holds (account_id, data_class, reason, placed_by) values ('{}', {class_name}, 'r', 'b')",
                    name(*account)
                ))
                .await;
                model.accounts.get_mut(account).unwrap().holds.push(*class);
            }
            Act::Release(account) => {
                self.sql(format!("update retention.holds set released_at = now() where account_id = '{}'", name(*account))).await;
                model.accounts.get_mut(account).unwrap().holds.clear();
            }
            Act::Pause => {
                self.sql("insert into retention.pauses (reason, paused_by) values ('r', 'b')".to_owned()).await;
                model.paused = true;
            }
            Act::Resume => {
                self.sql("update retention.pauses set resumed_at = now()".to_owned()).await;
                model.paused = false;
            }
            Act::Wait(days) => {
                self.wait(*days).await;
                for account in model.accounts.values_mut() {
                    account.points.values_mut().for_each(|at| *at -= days * DAY);
                    account.done.iter_mut().flatten().for_each(|at| *at -= days * DAY);
                }
            }
            Act::Look => model.looking = true,
            Act::Pass => {
                let look_at = if model.looking { "now()" } else { "now() + interval '1 day'" };
                self.sql(format!("update retention.done_marks set look_at = {look_at}")).await;
                self.app.run_once(&Stop::default()).await.unwrap();
                model.pass();
                model.looking = false;
            }
        }
    }

    /// Moves every instant of the world into the past.
    async fn wait(&mut self, days: i64) {
        let back = format!("interval '{} hours'", days * 24);
        let mut statements = Vec::new();
        for (table, columns) in [
            ("accounts", &["deleted_at"][..]),
            ("feature_subscriptions", &["terminated_at", "cmq_disabled_at"]),
            ("retention.jobs", &["started_at", "retain_until", "delete_by", "ready_at", "completed_at"]),
            ("retention.done_marks", &["started_at"]),
            ("retention.passes", &["succeeded_at", "watermark"]),
        ] {
            let sets: Vec<String> = columns.iter().map(|c| format!("{c} = {c} - {back}")).collect();
            statements.push(format!("update {table} set {}", sets.join(", ")));
        }
        self.sql(statements.join("; ")).await;
    }

    async fn compare(&mut self, model: &Model) -> Result<(), TestCaseError> {
        for (id, account) in &model.accounts {
            let (configuration, queue) = (account.records[0], account.records[1]);
            let want = [configuration, configuration, queue, account.media];
            let mut found = Vec::new();
            for table in ["template_configurations", "task_configurations", "queue_messages", "media_objects"] {
                let query = format!("select count(*) from {table} where account_id = '{}'", name(*id));
                found.push(sqlx::query_scalar::<_, i64>(AssertSqlSafe(query)).fetch_one(&mut self.connection).await.unwrap());
            }
            prop_assert_eq!(&want[..], &found[..], "records of {}: {:?}", name(*id), model);
        }
        let mut open: Vec<(String, String, String)> =
            sqlx::query_as("select account_id, data_class, starting_point from retention.jobs where state in ('scheduled', 'running')")
                .fetch_all(&mut self.connection)
                .await
                .unwrap();
        open.sort();
        let want = model.open();
        prop_assert_eq!(want.len(), open.len(), "open jobs: {:?}: {:?}", open, model);
        for ((account, class, points), found) in want.iter().zip(&open) {
            let same = (account, class) == (&found.0, &found.1) && points.contains(&found.2.as_str());
            prop_assert!(same, "{:?} is not for one of {:?}: {:?}", found, points, model);
        }
        Ok(())
    }
}

#[test]
fn the_daemon_and_the_model_agree_on_every_history() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let world = runtime.block_on(World::new());
    let app = runtime.block_on(world.app()).unwrap();
    let config = Config { failure_persistence: None, cases: cases(), ..Config::default() };
    let random = config.cases > FEW;
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = if random { TestRunner::new(config) } else { TestRunner::new_with_rng(config, rng) };
    runner
        .run(&proptest::collection::vec(act(), 1..30), |history| {
            runtime.block_on(async {
                let mut connection = PgConnection::connect(&world.url).await.unwrap();
                let base = sqlx::query_scalar("select date_trunc('second', now())::text").fetch_one(&mut connection).await.unwrap();
                let mut told = Told { app: &app, connection, base };
                told.start_over().await;
                let fresh = Account { records: [1, 1], media: 1, ..Account::default() };
                let mut model = Model { accounts: (0..ACCOUNTS).map(|a| (a, fresh.clone())).collect(), ..Model::default() };
                for act in history.iter().chain([&Act::Pass]) {
                    told.act(&mut model, act).await;
                    if matches!(act, Act::Pass) {
                        told.compare(&model).await?;
                    }
                }
                Ok(())
            })
        })
        .unwrap();
}

/// Histories that every run of the tests takes, always the same ones.
const FEW: u32 = 24;

/// Few by default, so that every run of the tests takes them; `PROPTEST_CASES` asks for more.
fn cases() -> u32 {
    std::env::vars().find(|(name, _)| name == "PROPTEST_CASES").and_then(|(_, n)| n.parse().ok()).unwrap_or(FEW)
}
