//! The same history told to a database, and what is found there afterwards.

use std::{collections::BTreeMap, fmt::Write as _, future::Future, pin::pin, task::Poll};

use retentiond::{
    app::App,
    database::{Database, Purpose},
    executor::Step,
    failure::Failure,
    jobs,
    lifecycle::Stop,
    model::RetentionPeriod,
    planner::Look,
    requests,
    safeguards::control::Scope,
};
use sqlx::{AssertSqlSafe, PgConnection};

use super::promise::{ACCOUNTS, Model, POINTS, Point, Purge};
use crate::world::World;

const TABLES: [&str; 4] = ["template_configurations", "task_configurations", "queue_messages", "media_objects"];
const CLASSES: [&str; 2] = ["configuration", "queue"];
const ROWS: [&str; 2] = ["accounts", "feature_subscriptions"];
/// The model counts whole days; what the daemon dated by its own clock lies a moment beside them.
const MOMENT: i64 = 1_800;

fn column(point: Point) -> &'static str {
    match point {
        Point::Deleted => "deleted_at",
        Point::Terminated => "terminated_at",
        Point::CmqDisabled => "cmq_disabled_at",
        Point::Request => unreachable!("no column says so"),
    }
}

fn name(account: usize) -> String {
    format!("account-{account}")
}

/// One database with the daemon's passes, used for one history after the other.
pub(super) struct Told {
    _world: World,
    app: App,
    connection: PgConnection,
    /// Where a late commit waits; in a transaction while one does.
    late: PgConnection,
    /// What it will commit.
    open: Option<(usize, Point, Option<i64>)>,
    /// The instant that ages are counted from: one for the whole history, so that equal ages are equal instants.
    base: String,
    histories: u32,
}

async fn run(connection: &mut PgConnection, statement: String) {
    sqlx::raw_sql(AssertSqlSafe(statement.clone())).execute(connection).await.unwrap_or_else(|e| panic!("{statement}: {e}"));
}

fn write(account: usize) -> String {
    let id = name(account);
    format!(
        "insert into template_configurations (account_id, template_type, parameters) values ('{id}', 'video', '{{}}');
         insert into task_configurations (task_id, account_id, task_type, source_media_path, output_path) values (gen_random_uuid(), '{id}', 't', '/', '/');
         insert into queue_messages (account_id, event_type) values ('{id}', 'WorkflowTask');
         insert into media_objects (account_id, kind) values ('{id}', 'source');"
    )
}

impl Told {
    pub(super) async fn new() -> Self {
        let mut world = World::new().await;
        // One worker, so that the model knows the order of what a crash interrupts.
        world.set("EXECUTOR__CONCURRENCY", "1").set("POLL__RESYNC_INTERVAL", "1h");
        // Cheaper, and the same to whoever only asks what is there.
        for setting in ["synchronous_commit = off", "plan_cache_mode = force_generic_plan"] {
            world.sql(&format!("alter database {} set {setting}", world.database)).await;
        }
        let app = world.app().await.unwrap();
        let (connection, late) = (world.connect().await, world.connect().await);
        Self { _world: world, app, connection, late, open: None, base: String::new(), histories: 0 }
    }

    async fn sql(&mut self, statement: String) {
        run(&mut self.connection, statement).await;
    }

    /// An empty world with [`ACCOUNTS`] live customers.
    pub(super) async fn start_over(&mut self) {
        self.commit(false).await;
        let mut all = String::new();
        for table in TABLES.iter().chain(&ROWS[..1]) {
            let _ = write!(all, "delete from {table};");
        }
        for table in
            ["request_parts", "requests", "jobs", "history", "done_marks", "holds", "pauses", "admissions", "passes", "roster", "absences"]
        {
            let _ = write!(all, "delete from retention.{table};");
        }
        all += "update retention.guard set known_accounts = null, tripped_at = null, reason = null, released_at = null;";
        for account in 0..ACCOUNTS {
            let id = name(account);
            let _ = write!(all, "insert into accounts values ('{id}', 'x'); insert into feature_subscriptions values ('{id}', 'mps');");
            all += &write(account);
        }
        self.sql(all).await;
        self.base = sqlx::query_scalar("select date_trunc('second', now())::text").fetch_one(&mut self.connection).await.unwrap();
        self.histories += 1;
        if self.histories.is_multiple_of(50) {
            self.sql("vacuum".to_owned()).await;
        }
    }

    fn ago(&self, age: i64) -> String {
        format!("timestamptz '{}' - interval '{} hours'", self.base, age * 24)
    }

    fn setting(&self, account: usize, point: Point, age: Option<i64>) -> String {
        let at = age.map_or_else(|| "null".to_owned(), |age| self.ago(age));
        format!("update {} set {} = {at} where account_id = '{}'", ROWS[point.row()], column(point), name(account))
    }

    pub(super) async fn set(&mut self, account: usize, point: Point, age: Option<i64>) {
        self.sql(self.setting(account, point, age)).await;
    }

    /// Sets it in a transaction that stays open.
    pub(super) async fn set_late(&mut self, account: usize, point: Point, age: Option<i64>) {
        let setting = self.setting(account, point, age);
        run(&mut self.late, format!("begin; {setting}")).await;
        self.open = Some((account, point, age));
    }

    /// Ends that transaction, one way or the other.
    pub(super) async fn commit(&mut self, keep: bool) {
        if self.open.take().is_some() {
            run(&mut self.late, if keep { "commit" } else { "rollback" }.to_owned()).await;
        }
    }

    pub(super) async fn vanish(&mut self, account: usize, row: usize) {
        self.sql(format!("delete from {} where account_id = '{}'", ROWS[row], name(account))).await;
    }

    pub(super) async fn come_back(&mut self, account: usize, row: usize, set: Option<(Point, i64)>) {
        let (columns, at) =
            set.map_or_else(Default::default, |(point, age)| (format!(", {}", column(point)), format!(", {}", self.ago(age))));
        let (second, value) = if row == 0 { ("region", "x") } else { ("feature", "mps") };
        let table = ROWS[row];
        self.sql(format!("insert into {table} (account_id, {second}{columns}) values ('{}', '{value}'{at})", name(account))).await;
    }

    pub(super) async fn write(&mut self, account: usize) {
        self.sql(write(account)).await;
    }

    pub(super) async fn hold(&mut self, account: usize, class: Option<usize>) {
        let class = class.map_or_else(|| "null".to_owned(), |class| format!("'{}'", CLASSES[class]));
        let id = name(account);
        self.sql(format!("insert into retention.holds (account_id, data_class, reason, placed_by) values ('{id}', {class}, 'r', 'b')"))
            .await;
    }

    pub(super) async fn release(&mut self, account: usize) {
        self.sql(format!("update retention.holds set released_at = now() where account_id = '{}'", name(account))).await;
    }

    /// Somebody asks for all of the account, or for one class.
    pub(super) async fn request(&mut self, account: usize, class: Option<usize>) {
        let data_class = class.map(|class| CLASSES[class].to_owned());
        let scope = Scope { account: Some(name(account)), feature: None, data_class };
        let parts: Vec<_> = (0..2).filter(|c| class.is_none_or(|only| only == *c)).map(|c| ("mps", CLASSES[c])).collect();
        let within = RetentionPeriod::parse("30d").unwrap();
        requests::place(&mut self.connection, &scope, &parts, "r", "b", Some(within)).await.unwrap();
    }

    pub(super) async fn withdraw(&mut self, account: usize) {
        let set = "withdrawn_at = now(), withdrawn_by = 'b'";
        self.sql(format!("update retention.requests set {set} where account_id = '{}' and withdrawn_at is null", name(account))).await;
    }

    pub(super) async fn pause(&mut self, paused: bool) {
        let pause = "insert into retention.pauses (reason, paused_by) values ('r', 'b')";
        self.sql(if paused { pause } else { "update retention.pauses set resumed_at = now()" }.to_owned()).await;
    }

    pub(super) async fn guard(&mut self, tripped: bool) {
        let set = if tripped { "tripped_at = now(), reason = 'r'" } else { "tripped_at = null, reason = null" };
        self.sql(format!("update retention.guard set {set}")).await;
    }

    /// Moves every instant of the world into the past: the database's clock has moved on, as far as anybody can tell.
    pub(super) async fn wait(&mut self, days: i64) {
        let open = self.open;
        self.commit(false).await;
        let mut all = String::new();
        for (table, columns) in [
            ("accounts", &["deleted_at"][..]),
            ("feature_subscriptions", &["terminated_at", "cmq_disabled_at"]),
            ("retention.jobs", &["started_at", "retain_until", "delete_by", "ready_at"]),
            ("retention.history", &["started_at", "retain_until", "delete_by", "completed_at"]),
            ("retention.done_marks", &["started_at"]),
            ("retention.absences", &["first_missed_at", "confirmed_at"]),
            ("retention.passes", &["succeeded_at", "watermark"]),
            ("retention.requests", &["accepted_at", "due_by"]),
        ] {
            let sets: Vec<String> = columns.iter().map(|c| format!("{c} = {c} - interval '{} hours'", days * 24)).collect();
            let _ = write!(all, "update {table} set {};", sets.join(", "));
        }
        self.sql(all).await;
        // What nobody else has seen yet is older too.
        if let Some((account, point, age)) = open {
            self.set_late(account, point, age.map(|age| age + days)).await;
        }
    }

    async fn looks(&mut self, now: bool) {
        let at = if now { "now()" } else { "now() + interval '1 day'" };
        self.sql(format!("update retention.done_marks set look_at = {at}")).await;
    }

    /// A pass, to its end; the exit code of `run --once`, where that was what ran.
    pub(super) async fn pass(&mut self, looking: bool) -> Option<u8> {
        self.looks(looking).await;
        if self.open.is_none() {
            return Some(self.app.run_once(&Stop::default()).await.map_or_else(|failure| failure.exit_code(), |()| 0));
        }
        // `run --once` would wait a minute for whoever holds the row.
        self.steps().await.unwrap();
        None
    }

    /// A pass that is dropped after so many of its steps, wherever it is then. Its leases lapse.
    pub(super) async fn crash(&mut self, looking: bool, steps: u16) {
        self.looks(looking).await;
        {
            let mut left = steps;
            let mut pass = pin!(self.steps());
            let outcome = std::future::poll_fn(|context| {
                if left == 0 {
                    return Poll::Ready(Ok(()));
                }
                left -= 1;
                pass.as_mut().poll(context)
            });
            outcome.await.unwrap();
        }
        // What was sent before the crash may still commit, like in a server whose client has died.
        let busy = "select exists (select 1 from pg_stat_activity where datname = current_database() and application_name = 'retentiond' and state <> 'idle')";
        while sqlx::query_scalar::<_, bool>(busy).fetch_one(&mut self.connection).await.unwrap() {
            tokio::task::yield_now().await;
        }
        self.sql("update retention.jobs set lease_until = now() where lease_until is not null".to_owned()).await;
    }

    /// What `run --once` does, without its patience.
    async fn steps(&self) -> Result<(), Failure> {
        self.app.verify().await?;
        let (planner, executor) = (self.app.planner(), self.app.executor());
        planner.look(Look::Resync).await?;
        let mut tx = self.app.database.begin(Purpose::Bulk).await?;
        jobs::end_backoff(&mut tx).await?;
        Database::commit(tx).await?;
        executor.tidy().await?;
        let mut worker = executor.worker("history".to_owned());
        while worker.step().await? == Step::Worked {}
        planner.look(Look::Poll).await?;
        Ok(())
    }

    /// Everything that can be compared, as one text query finds it.
    pub(super) async fn found(&mut self) -> Found {
        let mut parts: Vec<String> = TABLES
            .iter()
            .enumerate()
            .map(|(i, table)| format!("select 'left', account_id, '{i}', '', count(*), 0::int8 from {table} group by account_id"))
            .collect();
        let since = format!("extract(epoch from started_at - timestamptz '{}')::int8", self.base);
        for (kind, from) in [("open", "retention.every_job where state in ('scheduled', 'running')"), ("done", "retention.done_marks")] {
            parts.push(format!("select '{kind}', account_id, data_class, starting_point, {since}, 0 from {from}"));
        }
        parts.push(
            "select 'asked', q.account_id, q.data_class, '', count(*), 0 from retention.request_parts q join retention.requests r on r.id = q.request_id
             where q.fulfilled_at is null and r.withdrawn_at is null group by 2, 3"
                .to_owned(),
        );
        parts.push(
            "select case state when 'completed' then 'deleted' else 'cancelled' end, account_id, data_class, '',
                    (select min(n::int8) from jsonb_each_text(records_deleted) e(k, n)) * 1000 + (select max(n::int8) from jsonb_each_text(records_deleted) e(k, n)), id
             from retention.every_job where state in ('completed', 'cancelled')"
                .to_owned(),
        );
        let query = format!("select * from ({}) x (kind, account, class, point, n, id) order by id", parts.join(" union all "));
        let rows: Vec<(String, String, String, String, i64, i64)> =
            sqlx::query_as(AssertSqlSafe(query)).persistent(false).fetch_all(&mut self.connection).await.unwrap();
        let mut found = Found::default();
        for (kind, account, class, point, n, _) in rows {
            match kind.as_str() {
                "left" => drop(found.left.insert((account, class), n)),
                "asked" => drop(found.asked.insert((account, class), n)),
                "open" => drop(found.open.insert((account, class), (point, n))),
                "done" => drop(found.done.insert((account, class), (point, n))),
                _ => found.deleted.entry((kind, account, class)).or_default().push(n),
            }
        }
        found
    }
}

type Of = (String, String);

/// What is in the tables.
#[derive(Debug, Default)]
pub(super) struct Found {
    left: BTreeMap<Of, i64>,
    /// Parts of requests that are not fulfilled.
    asked: BTreeMap<Of, i64>,
    open: BTreeMap<Of, (String, i64)>,
    done: BTreeMap<Of, (String, i64)>,
    /// By job that ended: a thousand times its smallest count of a place, and its largest.
    deleted: BTreeMap<(String, String, String), Vec<i64>>,
}

/// Whether a purge was meant for what was found; of several right points the found one is taken over.
fn same(purge: Option<&mut Purge>, found: Option<&(String, i64)>) -> bool {
    let daemon = |point: Point| match point {
        Point::Deleted => "account_deleted",
        Point::Terminated => "feature_terminated",
        Point::CmqDisabled => "cmq_disabled",
        Point::Request => "request",
    };
    match (purge, found) {
        (None, None) => true,
        (Some(purge), Some((point, at))) if (purge.at - at).abs() < MOMENT => {
            let right =
                POINTS.into_iter().chain([Point::Request]).find(|p| daemon(*p) == point && (*p == purge.point || purge.ties.contains(p)));
            purge.point = right.unwrap_or(purge.point);
            purge.ties.clear();
            right.is_some()
        }
        _ => false,
    }
}

impl Found {
    /// What the model says otherwise.
    pub(super) fn against(&self, model: &mut Model) -> Result<(), String> {
        for (i, account) in model.accounts.iter_mut().enumerate() {
            let id = name(i);
            let [configuration, queue] = account.classes.each_ref().map(|class| class.records);
            for (table, want) in [configuration, configuration, queue, account.media].into_iter().enumerate() {
                let left = self.left.get(&(id.clone(), table.to_string())).copied().unwrap_or(0);
                if left != want {
                    return Err(format!("{id} has {left} records in {} and not {want}", TABLES[table]));
                }
            }
            for (class, name) in CLASSES.iter().enumerate() {
                let key = (id.clone(), (*name).to_owned());
                let asked = i64::try_from(account.requests.iter().filter(|request| request.open[class]).count()).unwrap();
                if self.asked.get(&key).copied().unwrap_or(0) != asked {
                    return Err(format!("{id} {name}: asked for is {:?} and not {asked}", self.asked.get(&key)));
                }
                let of = &mut account.classes[class];
                if !same(of.job.as_mut(), self.open.get(&key)) {
                    return Err(format!("{id} {name}: open is {:?} and not {:?}", self.open.get(&key), of.job));
                }
                if !same(of.done.as_mut(), self.done.get(&key)) {
                    return Err(format!("{id} {name}: done is {:?} and not {:?}", self.done.get(&key), of.done));
                }
                let ended = |how: &str| self.deleted.get(&(how.to_owned(), id.clone(), (*name).to_owned())).cloned().unwrap_or_default();
                let deleted: Vec<i64> = of.deleted.iter().map(|n| n * 1000 + n).collect();
                if ended("completed") != [] as [i64; 0] || ended("deleted") != deleted || ended("cancelled").iter().any(|n| *n != 0) {
                    return Err(format!("{id} {name}: {:?} and {:?} were deleted, not {deleted:?}", ended("deleted"), ended("cancelled")));
                }
            }
        }
        Ok(())
    }
}
