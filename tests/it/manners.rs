//! Who has to wait for whom: nobody for a huge account or one that fails (I13), the platform never for the daemon (I14).

use std::{
    io::Write as _,
    process::{Child, Command, Stdio},
    time::Duration,
};

use retentiond::{
    database::Purpose,
    embedded::{Options, Server},
    executor::Step,
    jobs,
    planner::Look,
    schema,
};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::{
    metrics::{free_port, scrape, until_shown},
    privileges::Restricted,
    world::{Daemon, World, until},
};

/// The queue is due, the configuration is not.
const EIGHT_DAYS: &str = "now() - interval '8 days'";

/// An account whose queue holds so many messages, and nothing else. `ended` is a SQL expression.
async fn queue(world: &World, id: &str, ended: &str, messages: i64) {
    world
        .sql(&format!(
            "insert into accounts (account_id, region) values ('{id}', 'ap-singapore');
             insert into feature_subscriptions (account_id, feature, terminated_at) values ('{id}', 'mps', {ended});
             insert into queue_messages (account_id, event_type) select '{id}', 'WorkflowTask' from generate_series(1, {messages})"
        ))
        .await;
}

/// Whether its queue is purged; it may not be scheduled yet.
async fn purged(world: &World, id: &str) -> bool {
    world.jobs(id).await.iter().any(|j| j.data_class == "queue" && j.state == "completed")
}

async fn number(world: &World, query: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(&mut world.connect().await).await.unwrap()
}

/// Notes which transaction deleted how many messages.
async fn note_batches(world: &World) {
    world
        .sql(
            "create table batches (at int generated always as identity, tx xid8, n int8);
             create function note() returns trigger language plpgsql security definer as
                 $$ begin insert into public.batches (tx, n) select pg_current_xact_id(), count(*) from old; return null; end $$;
             create trigger note after delete on queue_messages referencing old table as old for each statement execute function note()",
        )
        .await;
}

fn changes<'a>(events: &'a [Value], reason: &str) -> Vec<&'a Value> {
    events.iter().filter(|e| e["event"] == "pressure.changed" && e["reason"] == reason).collect()
}

async fn pressed(daemon: &Daemon, reason: &str, level: &str) -> Value {
    daemon.wait_for(reason, |e| e["event"] == "pressure.changed" && e["reason"] == reason && e["level"] == level).await
}

/// One session of the platform that holds a row, and one that waits for it.
struct Waiting {
    holder: PgConnection,
    waiter: Option<tokio::task::JoinHandle<PgConnection>>,
}

impl Waiting {
    #[expect(clippy::disallowed_methods, reason = "the test itself waits for it")]
    async fn new(world: &World) -> Self {
        let mut holder = world.connect().await;
        world.sql("create table if not exists fought_over (id int); insert into fought_over values (1)").await;
        sqlx::raw_sql("begin; select * from fought_over for update").execute(&mut holder).await.unwrap();
        let mut waiter = world.connect().await;
        let waiter = tokio::spawn(async move {
            sqlx::raw_sql("select * from fought_over for update").execute(&mut waiter).await.unwrap();
            waiter
        });
        until("a session waits", async || {
            world.count("pg_locks where not granted and pid in (select pid from pg_stat_activity where datname = current_database())").await
                == 1
        })
        .await;
        Self { holder, waiter: Some(waiter) }
    }

    async fn end(mut self) {
        sqlx::raw_sql("rollback").execute(&mut self.holder).await.unwrap();
        self.waiter.take().unwrap().await.unwrap().close().await.unwrap();
    }
}

#[tokio::test]
async fn i13_a_thousand_small_jobs_are_done_first_come_first_served_whatever_a_huge_and_a_failing_one_do() {
    let mut world = World::new().await;
    world.set("EXECUTOR__MAX_ROWS_PER_BATCH", "1000").set("EXECUTOR__CONCURRENCY", "1");
    queue(&world, "huge", &format!("{EIGHT_DAYS} - interval '2 s'"), 40_000).await;
    queue(&world, "bad", &format!("{EIGHT_DAYS} - interval '1 s'"), 3).await;
    world
        .sql(&format!(
            "insert into accounts (account_id, region) select 'small-' || i, 'ap-singapore' from generate_series(1, 1000) i;
             insert into feature_subscriptions (account_id, feature, terminated_at) select 'small-' || i, 'mps', {EIGHT_DAYS} + i * interval '1 ms' from generate_series(1, 1000) i;
             insert into queue_messages (account_id, event_type) select 'small-' || i, 'WorkflowTask' from generate_series(1, 1000) i, generate_series(1, 3);
             create function trap() returns trigger language plpgsql as
                 $$ begin if old.account_id = 'bad' then raise exception 'never'; end if; return old; end $$;
             create trigger trap before delete on queue_messages for each row execute function trap()"
        ))
        .await;
    let failure = world.run_passes().await.expect_err("one job cannot be done");
    assert!(failure.to_string().contains("1 due jobs remain"), "{failure}");

    assert_eq!(world.count("retention.every_job where account_id like 'small-%' and data_class = 'queue' and state = 'completed' and attempts = 1 and last_error is null").await, 1_000);
    assert_eq!(world.count("queue_messages where account_id <> 'bad'").await, 0);
    assert_eq!(world.count("queue_messages where account_id = 'bad'").await, 3);
    let bad = world.job("bad", "queue").await;
    assert_eq!((bad.state.as_str(), bad.attempts >= 1), ("scheduled", true));
    let huge = world.job("huge", "queue").await;
    assert_eq!((huge.state.as_str(), huge.attempts), ("completed", 1));
    let later = "retention.every_job s, retention.every_job h where s.account_id like 'small-%' and s.data_class = 'queue' and h.account_id = 'huge' and h.data_class = 'queue'";
    assert_eq!(world.count(&format!("{later} and s.completed_at >= h.completed_at")).await, 0, "a small one waited for the huge one");
    assert!(world.count(&format!("{later} and s.completed_at > h.purge_began_at")).await > 0, "the huge one waited for all small ones");
    // A row's xmin is the batch that completed it. Who came hundreds of places earlier was served earlier; within one claim the order is free.
    let overtaken = number(
        &world,
        "with served as (select retain_until, row_number() over (order by retain_until) as came, xmin::text::int8 as batch
                         from retention.history where account_id like 'small-%' and data_class = 'queue')
         select count(*) from served a join served b on b.came > a.came + 500 and b.batch < a.batch",
    )
    .await;
    assert_eq!(overtaken, 0);
}

#[tokio::test]
async fn i13_who_found_no_room_in_a_batch_keeps_its_place() {
    let mut world = World::new().await;
    world.set("EXECUTOR__MAX_ROWS_PER_BATCH", "10").set("EXECUTOR__CONCURRENCY", "1");
    queue(&world, "huge", &format!("{EIGHT_DAYS} - interval '1 h'"), 1_000).await;
    for i in 0..20 {
        queue(&world, &format!("small-{i}"), EIGHT_DAYS, 1).await;
    }
    let app = world.app().await.unwrap();
    app.planner().look(Look::Resync).await.unwrap();
    let mut worker = app.executor().worker("one".to_owned());
    while world.job("huge", "queue").await.records_deleted.0["platform/queue_messages"] == 0 {
        worker.step().await.unwrap();
    }
    let small = "retention.jobs where account_id like 'small-%' and data_class = 'queue'";
    assert!(world.count(small).await >= 10, "ten records do not make room for twenty jobs");
    assert_eq!(world.count(&format!("{small} and ready_at <> retain_until")).await, 0, "nothing was tried of them");
    assert_eq!(
        world
            .count("retention.jobs where account_id = 'huge' and data_class = 'queue' and ready_at > retain_until + interval '1 hour'")
            .await,
        1
    );
    while world.count(small).await > 0 {
        worker.step().await.unwrap();
    }
    let attempts = "retention.every_job where account_id like 'small-%' and data_class = 'queue' and attempts = 1 and records_deleted->>'platform/queue_messages' = '1'";
    assert_eq!(world.count(attempts).await, 20, "waiting for room is not another attempt");
    let huge = world.job("huge", "queue").await;
    assert_eq!(huge.state, "scheduled", "it waited for them");
    assert!(huge.records_deleted.0["platform/queue_messages"] < 50, "{huge:?}");
    app.database.close().await;
}

/// After many small accounts one with more records than a batch may delete is not taken for one of them.
#[tokio::test]
async fn i14_a_large_account_among_small_ones_is_not_deleted_in_one_batch() {
    let mut world = World::new().await;
    world.set("EXECUTOR__MAX_ROWS_PER_BATCH", "100").set("EXECUTOR__CONCURRENCY", "1");
    for i in 0..400 {
        queue(&world, &format!("small-{i}"), &format!("{EIGHT_DAYS} - interval '1 h'"), 1).await;
    }
    queue(&world, "large", EIGHT_DAYS, 150).await;
    world.sql("create table sizes (records bigint); grant all on sizes to public; create function note() returns trigger language plpgsql as $$ begin insert into sizes select count(*) from gone; return null; end $$; create trigger note after delete on queue_messages referencing old table as gone for each statement execute function note()").await;
    let app = world.app().await.unwrap();
    app.planner().look(Look::Resync).await.unwrap();
    let mut worker = app.executor().worker("one".to_owned());
    while worker.step().await.unwrap() == Step::Worked {}
    assert_eq!(world.count("retention.history where state = 'completed' and data_class = 'queue'").await, 401);
    assert_eq!(world.count("sizes where records > 100").await, 0, "no batch that was committed deleted more");
    assert!(world.count("sizes where records > 1").await > 0);
    app.database.close().await;
}

#[tokio::test]
async fn i13_a_job_is_pressing_past_half_of_its_allowance() {
    let world = World::new().await;
    queue(&world, "calm", "now() - interval '7 days 11 hours 55 minutes'", 1).await;
    queue(&world, "pressing", "now() - interval '7 days 12 hours'", 1).await;
    let app = world.app().await.unwrap();
    app.planner().look(Look::Resync).await.unwrap();
    let class = app.policy.classes.iter().find(|c| c.jobs.name == "queue").unwrap();
    let mut tx = app.database.begin(Purpose::Write).await.unwrap();
    retentiond::safeguards::admit(&mut tx, &app.config.guard).await.unwrap();
    let claimed =
        jobs::claim(&mut tx, &class.jobs, jobs::Lane::Fresh, "one", app.config.executor.lease, Duration::from_hours(24), 10).await.unwrap();
    let mut seen: Vec<_> = claimed.iter().map(|j| (j.account_id.as_str(), j.pressing)).collect();
    seen.sort_unstable();
    assert_eq!(seen, [("calm", false), ("pressing", true)]);
    drop(tx);
    app.database.close().await;
}

#[tokio::test]
async fn i14_while_a_session_of_the_platform_waits_for_a_lock_deletion_slows_down_and_says_so() {
    let port = free_port();
    let mut world = World::new().await;
    world.set("HTTP__OPS_LISTEN", &format!("127.0.0.1:{port}")).set("EXECUTOR__CONCURRENCY", "1").set("PRESSURE__MAX_LOCK_WAITS", "0");
    note_batches(&world).await;
    let waiting = Waiting::new(&world).await;
    let daemon = world.daemon();
    daemon.wait_for("the first look", |e| e["event"] == "poll.completed").await;
    // Only some minutes late, so that its deadline is far.
    queue(&world, "a", "now() - interval '7 days 10 minutes'", 20_000).await;
    let begin = pressed(&daemon, "lock_waits", "warn").await;
    assert_eq!((begin["measured"].as_str(), begin["limit"].as_str()), (Some("1"), Some("0")));
    let pauses = "retention_pause_seconds_total{reason=\"lock_waits\"}";
    until("workers have paused", async || scrape(port).get(pauses).is_some_and(|seconds| seconds >= 1.0)).await;
    assert_eq!(scrape(port).get("retention_pressure{reason=\"lock_waits\"}"), Some(1.0));
    assert_eq!(scrape(port).get("retention_pressure{reason=\"connections\"}"), Some(0.0));
    assert_ne!(world.job("a", "queue").await.state, "completed");
    assert!(changes(&daemon.events(), "lock_waits").len() == 1, "a change is said once");
    let slow = number(&world, "select coalesce(max(n), 0) from batches").await;
    assert!((1..=500).contains(&slow), "{slow} records in one batch under pressure, half of the first batch at most");

    waiting.end().await;
    let end = pressed(&daemon, "lock_waits", "info").await;
    assert_eq!((end["measured"].as_str(), end["limit"].as_str()), (Some("0"), Some("0")));
    until("it is purged", async || purged(&world, "a").await).await;
    until_shown(port, "retention_pressure{reason=\"lock_waits\"}", 0.0).await;
    assert_eq!(changes(&daemon.events(), "lock_waits").len(), 2);
    assert_eq!(world.job("a", "queue").await.records_deleted.0["platform/queue_messages"], 20_000);
}

/// A server of its own: connections count for the whole server.
#[tokio::test]
async fn i14_connections_that_run_out_slow_deletion_down_and_free_ones_end_it() {
    let settings = [("max_connections", "43"), ("superuser_reserved_connections", "3")].map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec();
    let server = Server::start(&Options { durable: false, settings, ..Options::default() }).expect("an embedded Postgres");
    let mut admin = PgConnection::connect(&server.url("postgres")).await.unwrap();
    sqlx::query("create database platform").execute(&mut admin).await.unwrap();
    admin.close().await.unwrap();
    let mut world = World::bare().await;
    world.url = server.url("platform");
    let url = world.url.clone();
    world.set("DATABASE__URL", &url).set("PRESSURE__MAX_CONNECTIONS", "60%");
    schema::migrate(&world.config(), true).await.unwrap();
    let daemon = world.daemon();
    daemon.wait_for("the first look", |e| e["event"] == "poll.completed").await;
    queue(&world, "a", EIGHT_DAYS, 3).await;
    until("it is purged", async || purged(&world, "a").await).await;
    assert_eq!(changes(&daemon.events(), "connections").len(), 0);

    let mut crowd = Vec::new();
    for _ in 0..24 {
        crowd.push(world.connect().await);
    }
    let begin = pressed(&daemon, "connections", "warn").await;
    assert_eq!(begin["limit"], "60%");
    let measured = begin["measured"].as_str().unwrap();
    let (used, usable) = measured.split_once(" (").unwrap().1.trim_end_matches(')').split_once(" of ").unwrap();
    assert_eq!(usable, "40", "without those that are kept for superusers");
    assert!((25..=40).contains(&used.parse::<i64>().unwrap()), "{measured}");
    // Slower is not stopped.
    queue(&world, "b", EIGHT_DAYS, 3).await;
    until("it is purged all the same", async || purged(&world, "b").await).await;
    for session in crowd {
        session.close().await.unwrap();
    }
    pressed(&daemon, "connections", "info").await;
    drop(daemon);
    server.stop().unwrap();
}

/// A streaming replica of the server, in `dir`.
pub(crate) fn replica(primary: &Server, dir: &std::path::Path, options: &Options) -> Server {
    let ran = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"));
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let (data, of) = (dir.join("data"), primary.dir());
    std::fs::copy(of.join("postgres-password"), dir.join("postgres-password")).unwrap();
    ran("pg_basebackup", &["-d", &primary.url("postgres"), "-D", data.to_str().unwrap(), "-R", "-c", "fast"]);
    ran("chown", &["-R", &format!("--reference={}", of.join("data").display()), dir.to_str().unwrap()]);
    Server::start(&Options { dir: Some(dir.to_owned()), ..options.clone() }).expect("a replica")
}

/// Servers of their own. The replica receives and does not replay, until it does.
#[tokio::test]
async fn i14_a_replica_that_lags_slows_deletion_down_until_it_has_caught_up() {
    let port = free_port();
    let options = Options { durable: false, ..Options::default() };
    let server = Server::start(&options).expect("an embedded Postgres");
    let mut admin = PgConnection::connect(&server.url("postgres")).await.unwrap();
    sqlx::query("create database platform").execute(&mut admin).await.unwrap();
    admin.close().await.unwrap();
    let mut world = World::bare().await;
    world.url = server.url("platform");
    let url = world.url.clone();
    world.set("DATABASE__URL", &url).set("HTTP__OPS_LISTEN", &format!("127.0.0.1:{port}")).set("PRESSURE__MAX_REPLICA_LAG", "3s");
    schema::migrate(&world.config(), true).await.unwrap();
    // Whoever runs the servers must be able to reach it.
    let dir = tempfile::Builder::new().permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755)).tempdir_in("/tmp").unwrap();
    std::fs::create_dir(dir.path().join("replica")).unwrap();
    let replica = replica(&server, &dir.path().join("replica"), &options);
    until("it streams", async || world.count("pg_stat_replication where state = 'streaming'").await == 1).await;
    let mut standby = PgConnection::connect(&replica.url("platform")).await.unwrap();
    let daemon = world.daemon();
    until_shown(port, "retention_pressure{reason=\"replica_lag\"}", 0.0).await;

    sqlx::query("select pg_wal_replay_pause()").execute(&mut standby).await.unwrap();
    until("the lag is seen", async || {
        world.sql("create table if not exists traffic (at timestamptz); insert into traffic values (now())").await;
        !changes(&daemon.events(), "replica_lag").is_empty()
    })
    .await;
    let begin = pressed(&daemon, "replica_lag", "warn").await;
    assert_eq!(begin["limit"], "3s");
    let measured = humantime::parse_duration(begin["measured"].as_str().unwrap()).unwrap();
    assert!(measured > std::time::Duration::from_secs(3), "{begin}");
    queue(&world, "a", EIGHT_DAYS, 3).await;
    until("slower is not stopped", async || purged(&world, "a").await).await;

    sqlx::query("select pg_wal_replay_resume()").execute(&mut standby).await.unwrap();
    until("it is over", async || {
        world.sql("insert into traffic values (now())").await;
        changes(&daemon.events(), "replica_lag").len() >= 2
    })
    .await;
    pressed(&daemon, "replica_lag", "info").await;
    drop(daemon);
    standby.close().await.unwrap();
    replica.stop().unwrap();
    server.stop().unwrap();
}

/// Somebody who replicates, without a replica behind it. Gone when dropped.
struct Replicating(Child);

impl Replicating {
    async fn new(world: &World) -> Self {
        let separator = if world.url.contains('?') { '&' } else { '?' };
        let url = format!("{}{separator}replication=true&application_name={}", world.url, world.database);
        let mut child =
            Command::new("psql").args(["-X", "-q", "-d", &url]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("psql");
        // The connection is opened before input is read; the pipe stays open until the end.
        child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        let there = format!("pg_stat_replication where application_name = '{}'", world.database);
        until("somebody replicates", async || world.count(&there).await == 1).await;
        Self(child)
    }
}

impl Drop for Replicating {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn i14_a_role_without_pg_monitor_says_once_that_the_lag_is_unknown_and_yields_for_the_rest() {
    let port = free_port();
    let mut daemon_role = Restricted::new().await;
    daemon_role.follow_check().await;
    let role = daemon_role.role.clone();
    let world = daemon_role.world();
    let _replicating = Replicating::new(world).await;
    world.set("HTTP__OPS_LISTEN", &format!("127.0.0.1:{port}")).set("PRESSURE__MAX_LOCK_WAITS", "0");
    let waiting = Waiting::new(world).await;
    let daemon = world.daemon();
    let unknown = daemon.wait_for("the unknown", |e| e["event"] == "pressure.unknown" && e["reason"] == "replica_lag").await;
    assert_eq!((unknown["level"].as_str(), unknown["reason"].as_str()), (Some("warn"), Some("replica_lag")));
    assert!(unknown["why"].as_str().unwrap().contains("hidden"), "{unknown}");
    assert!(scrape(port).get("retention_pressure{reason=\"replica_lag\"}").is_some_and(f64::is_nan), "neither 0 nor 1");
    // Sessions hide what they wait for from this role as well; the locks do not.
    pressed(&daemon, "lock_waits", "warn").await;
    assert_eq!(scrape(port).get("retention_pressure{reason=\"connections\"}"), Some(0.0));
    waiting.end().await;
    pressed(&daemon, "lock_waits", "info").await;
    let mut said: Vec<_> = daemon.events().iter().filter(|e| e["event"] == "pressure.unknown").map(|e| e["reason"].to_string()).collect();
    said.sort();
    assert_eq!(said, ["\"active_sessions\"", "\"replica_lag\""], "each once, however often it is measured");
    queue(world, "a", EIGHT_DAYS, 3).await;
    until("it is purged", async || purged(world, "a").await).await;

    world.sql(&format!("grant pg_monitor to \"{role}\"")).await;
    until_shown(port, "retention_pressure{reason=\"replica_lag\"}", 0.0).await;
}

/// Where each slice by index takes longer than the one before, a large account is purged from block to block, in batches within the bound; records that come up behind are found, and those of others stay.
#[tokio::test]
async fn i2_a_large_account_is_purged_block_by_block_and_what_comes_up_behind_is_found() {
    let mut world = World::new().await;
    world.set("EXECUTOR__MAX_ROWS_PER_BATCH", "100").set("EXECUTOR__CONCURRENCY", "1");
    world.sql("create table sizes (records bigint, blocks bool); grant all on sizes to public; create function note() returns trigger language plpgsql security definer as $$ begin insert into sizes select count(*), current_query() like '%t.ctid >=%' from gone; if current_query() like '%skip locked%' then perform pg_sleep(0.03 * count(*)) from sizes; end if; return null; end $$; create trigger note after delete on queue_messages referencing old table as gone for each statement execute function note()").await;
    world.sql("alter table queue_messages set (autovacuum_enabled = off)").await; // Its snapshot would keep the room from being free.
    queue(&world, "large", EIGHT_DAYS, 1).await;
    queue(&world, "lives", "null", 1).await;
    world.sql("insert into queue_messages (account_id, event_type) select case when i % 3 = 0 then 'lives' else 'large' end, 'WorkflowTask' from generate_series(1, 3000) i").await;
    let app = world.app().await.unwrap();
    app.planner().look(Look::Resync).await.unwrap();
    let mut worker = app.executor().worker("one".to_owned());
    let lives = world.left("lives").await.messages;
    while world.left("large").await.messages > 1_000 {
        worker.step().await.unwrap();
    }
    // The freed room is in front; a vacuum makes it usable.
    let reached = world
        .count("(select min((ctid::text::point)[0])::int8 as n from queue_messages where account_id = 'large') r, generate_series(1, r.n)")
        .await;
    world.sql("vacuum queue_messages").await;
    world.sql("insert into queue_messages (account_id, event_type) select 'large', 'late' from generate_series(1, 300)").await;
    let behind = world.count(&format!("queue_messages where event_type = 'late' and (ctid::text::point)[0] < {reached}")).await;
    assert!(behind > 0, "some are behind block {reached}");
    while worker.step().await.unwrap() == Step::Worked {}
    assert_eq!((world.left("large").await.messages, world.left("lives").await.messages), (0, lives));
    let job = world.job("large", "queue").await;
    assert_eq!((job.state.as_str(), job.records_deleted.0["platform/queue_messages"]), ("completed", 2_301));
    assert_eq!(world.count("sizes where records > 100").await, 0);
    assert!(world.count("sizes where blocks and records > 0").await >= 3, "block by block");
    app.database.close().await;
}
