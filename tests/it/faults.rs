//! Servers that fail under a running daemon: restarted, killed, replaced by their standby, cut off, full, changed, closed to us; and a host
//! whose clock is a day off. Each time the same is asked: what was due is gone, once and counted right; what was not is there.

use std::{
    io::Write as _,
    os::unix::{fs::chown, process::CommandExt},
    path::PathBuf,
    process::Command,
};

use retentiond::{
    embedded::{Options, Server},
    schema,
};
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{Connection, PgConnection};

use crate::{
    pgbouncer::{self, Upstream},
    proxy::Proxy,
    world::{ALL, Left, World, left, until},
};

const OLD: &str = "now() - interval '31 days'";
const GONE: Left = Left { templates: 0, tasks: 0, messages: 0, media: 2 };

/// A server that a test may end. The shared one must live.
struct Cluster {
    server: Option<Server>,
    port: u16,
    folder: tempfile::TempDir,
}

impl Cluster {
    fn new() -> Self {
        Self::at(tempfile::Builder::new().prefix("retentiond-faults-").tempdir().unwrap())
    }

    fn at(folder: tempfile::TempDir) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut cluster = Self { server: None, port, folder };
        cluster.start();
        cluster
    }

    fn start(&mut self) {
        let settings = vec![("port".to_owned(), self.port.to_string()), ("max_connections".to_owned(), "60".to_owned())];
        let options = Options { dir: Some(self.folder.path().to_owned()), durable: false, settings, ..Options::default() };
        self.server = Some(Server::start(&options).expect("an embedded Postgres"));
    }

    /// Ends it: `INT` shuts down fast, `QUIT` leaves everything as it lies.
    fn end(&mut self, signal: Signal) {
        let server = self.server.take().unwrap();
        kill_process(Pid::from_raw(i32::try_from(server.pid()).unwrap()).unwrap(), signal).unwrap();
        drop(server);
    }

    fn url(&self, database: &str) -> String {
        let url = self.server.as_ref().unwrap().url(database);
        let (head, tail) = url.rsplit_once(':').unwrap();
        format!("{head}:{}/{}", self.port, tail.split_once('/').unwrap().1)
    }

    /// A copy of it that follows it.
    fn standby(&self) -> Self {
        let folder = tempfile::Builder::new().prefix("retentiond-standby-").tempdir().unwrap();
        let (from, password) = (Upstream::of(&self.url("postgres")), folder.path().join("postgres-password"));
        std::fs::copy(self.folder.path().join("postgres-password"), &password).unwrap();
        let program = std::fs::read_link(format!("/proc/{}/exe", self.server.as_ref().unwrap().pid())).unwrap();
        let mut copy = Command::new(program.with_file_name("pg_basebackup"));
        copy.args(["-h", "127.0.0.1", "-U", &from.user, "-p", &from.port.to_string(), "-R", "-X", "stream", "-c", "fast", "-D"]);
        copy.arg(folder.path().join("data")).env_clear().env("PGPASSWORD", &from.password).current_dir("/");
        if let Some((uid, gid)) = pgbouncer::stand_in() {
            chown(folder.path(), Some(uid), Some(gid)).unwrap();
            chown(&password, Some(uid), Some(gid)).unwrap();
            copy.uid(uid).gid(gid);
        }
        let output = copy.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self::at(folder)
    }

    /// A world in it. The daemon goes through `proxy`, what the test asks does not.
    async fn world(&self, proxy: &Proxy) -> World {
        let mut admin = PgConnection::connect(&self.url("postgres")).await.unwrap();
        sqlx::query("create database platform").execute(&mut admin).await.unwrap();
        admin.close().await.unwrap();
        let mut world = World::bare().await;
        world.url = self.url("platform");
        behind(&mut world, proxy);
        schema::migrate(&world.config(), true).await.unwrap();
        watched(&world).await;
        world
    }
}

/// Leads the daemon through the proxy.
fn behind(world: &mut World, proxy: &Proxy) {
    let at = Upstream::of(&world.url);
    let url = world.url.replace(&format!("@{}:{}/", at.host, at.port), &format!("@127.0.0.1:{}/", proxy.port()));
    world.set("DATABASE__URL", &url).set("EXECUTOR__LEASE", "5s").set("EXECUTOR__MAX_BACKOFF", "1s");
}

/// Every record that goes is written down, and a gate stands in front of the tasks: while it is closed, no batch gets past it.
async fn watched(world: &World) {
    world
        .sql(
            "create table gone (place text, account_id text, at timestamptz default clock_timestamp());
             create function gone() returns trigger language plpgsql as $$
             begin insert into public.gone (place, account_id) values (tg_table_name, old.account_id); return old; end $$;
             create trigger gone after delete on template_configurations for each row execute function gone();
             create trigger gone after delete on task_configurations for each row execute function gone();
             create trigger gone after delete on queue_messages for each row execute function gone();
             create function gate() returns trigger language plpgsql as $$ begin perform pg_advisory_xact_lock(42); return old; end $$;
             create trigger gate before delete on task_configurations for each row execute function gate()",
        )
        .await;
}

async fn close_the_gate(world: &World) -> PgConnection {
    let mut gate = world.connect().await;
    sqlx::query("select pg_advisory_lock(42)").execute(&mut gate).await.unwrap();
    gate
}

async fn a_batch_stands_at_the_gate(world: &World) {
    let waiting = "pg_locks where locktype = 'advisory' and objid = 42 and not granted and database = (select oid from pg_database where datname = current_database())";
    until("a batch stands at the gate", async || world.count(waiting).await == 1).await;
}

/// Whatever happened: account `a` is purged, each record once, and counted once.
async fn purged_once(world: &World, account: &str) {
    until("it is purged", async || world.left(account).await == GONE).await;
    let open = format!("retention.every_job where account_id = '{account}' and state <> 'completed'");
    until("its jobs are complete", async || world.count(&open).await == 0).await;
    assert_eq!(world.count(&format!("gone where account_id = '{account}'")).await, 15, "each record went once");
    let jobs = world.jobs(account).await;
    assert_eq!(jobs.len(), 2, "{jobs:?}");
    assert_eq!(jobs.iter().flat_map(|j| j.records_deleted.0.values()).sum::<i64>(), 15, "{jobs:?}");
}

async fn accounts(world: &World) {
    world.account("a", "null", OLD, "null").await;
    world.account("back", "null", "now() - interval '6 days'", "null").await;
    world.account("live", "null", "null", "null").await;
}

async fn the_others_are_there(world: &World) {
    assert_eq!(world.left("back").await, ALL);
    assert_eq!(world.left("live").await, ALL);
}

/// In the middle of a batch the server ends that way, and comes back.
async fn survives(signal: Signal) {
    let mut cluster = Cluster::new();
    let proxy = Proxy::start(cluster.port);
    let world = cluster.world(&proxy).await;
    accounts(&world).await;
    let gate = close_the_gate(&world).await;
    let mut daemon = world.daemon();
    a_batch_stands_at_the_gate(&world).await;
    cluster.end(signal);
    drop(gate);
    daemon.wait_for("it notices", |e| e["level"] == "warn" && e["event"] == "purge.failed").await;
    cluster.start();
    purged_once(&world, "a").await;
    the_others_are_there(&world).await;
    assert!(daemon.child.try_wait().unwrap().is_none(), "the daemon goes on");
}

#[tokio::test]
async fn i8_the_database_is_restarted_in_the_middle_of_a_batch() {
    survives(Signal::INT).await;
}

#[tokio::test]
async fn i8_the_database_is_killed_in_the_middle_of_a_batch() {
    survives(Signal::QUIT).await;
}

#[tokio::test]
async fn i8_the_database_is_replaced_by_its_standby_in_the_middle_of_a_batch() {
    let mut primary = Cluster::new();
    let proxy = Proxy::start(primary.port);
    let mut world = primary.world(&proxy).await;
    accounts(&world).await;
    let standby = primary.standby();
    let gate = close_the_gate(&world).await;
    let daemon = world.daemon();
    a_batch_stands_at_the_gate(&world).await;
    let mut to_standby = PgConnection::connect(&standby.url("platform")).await.unwrap();
    let mut to_primary = world.connect().await;
    let written: String = sqlx::query_scalar("select pg_current_wal_lsn()::text").fetch_one(&mut to_primary).await.unwrap();
    loop {
        let there = "select pg_last_wal_replay_lsn() >= $1::pg_lsn";
        if sqlx::query_scalar(there).bind(&written).fetch_one(&mut to_standby).await.unwrap() {
            break;
        }
        tokio::task::yield_now().await;
    }
    primary.end(Signal::QUIT);
    drop(gate);
    daemon.wait_for("it notices", |e| e["level"] == "warn" && e["event"] == "purge.failed").await;
    assert!(sqlx::query_scalar::<_, bool>("select pg_promote()").fetch_one(&mut to_standby).await.unwrap());
    world.url = standby.url("platform");
    assert_eq!(world.left("a").await.tasks, 5, "the batch that stood at the gate went nowhere");
    proxy.lead_to(standby.port);
    proxy.cut(|| true);
    purged_once(&world, "a").await;
    world.account("b", "null", OLD, "null").await;
    purged_once(&world, "b").await;
    the_others_are_there(&world).await;
}

#[tokio::test]
async fn i8_every_connection_is_cut_in_the_middle_of_a_batch() {
    let mut world = World::new().await;
    let proxy = Proxy::start(Upstream::of(&world.url).port);
    behind(&mut world, &proxy);
    watched(&world).await;
    accounts(&world).await;
    let daemon = world.daemon();
    purged_once(&world, "a").await;
    for id in ["b", "c"] {
        let gate = close_the_gate(&world).await;
        world.account(id, "null", OLD, "null").await;
        a_batch_stands_at_the_gate(&world).await;
        assert!(proxy.cut(|| true) > 0);
        // The server sees that a session is cut off only when it has something to say.
        gate.close().await.unwrap();
        purged_once(&world, id).await;
    }
    daemon.wait_for("it noticed", |e| e["event"] == "purge.failed").await;
    the_others_are_there(&world).await;
}

/// Somebody's records cannot be deleted: each DELETE that meets one of `bad` fails with that SQL state, as it would for a lock timeout or
/// a full disk. The others are purged, that account keeps everything, and is purged once the fault is mended.
async fn one_account_fails(sqlstate: &str) {
    let mut world = World::new().await;
    world.set("EXECUTOR__MAX_BACKOFF", "1s");
    watched(&world).await;
    world
        .sql(&format!(
            "create function fault() returns trigger language plpgsql as $$ begin
             if old.account_id = 'bad' then raise exception 'made up' using errcode = '{sqlstate}'; end if; return old; end $$;
             create trigger fault before delete on task_configurations for each row execute function fault()"
        ))
        .await;
    accounts(&world).await;
    for id in ["bad", "z"] {
        world.account(id, "null", OLD, "null").await;
    }
    let daemon = world.daemon();
    purged_once(&world, "a").await;
    purged_once(&world, "z").await;
    let tried = "retention.every_job where account_id = 'bad' and data_class = 'configuration' and state = 'scheduled' and (attempts > 2 or blocked_by = 'locked')";
    until("it is tried again", async || world.count(tried).await == 1).await;
    until("its queue is gone all the same", async || world.left("bad").await.messages == 0).await;
    // After a timeout fewer records are tried at once, and so its templates may be gone.
    assert_eq!(world.left("bad").await.tasks, 5);
    world.sql("drop trigger fault on task_configurations").await;
    purged_once(&world, "bad").await;
    the_others_are_there(&world).await;
    drop(daemon);
}

#[tokio::test]
async fn i13_a_lock_timeout_of_one_account_stops_no_other() {
    one_account_fails("55P03").await;
}

#[tokio::test]
async fn i13_a_statement_timeout_of_one_account_stops_no_other() {
    one_account_fails("57014").await;
}

#[tokio::test]
async fn i13_a_deadlock_of_one_account_stops_no_other() {
    one_account_fails("40P01").await;
}

#[tokio::test]
async fn i13_a_serialization_failure_of_one_account_stops_no_other() {
    one_account_fails("40001").await;
}

#[tokio::test]
async fn i13_a_full_disk_under_one_accounts_records_stops_no_other() {
    one_account_fails("53100").await;
}

#[tokio::test]
async fn r34_whoever_stands_before_the_database_hangs_up_and_the_daemon_keeps_trying() {
    let mut world = World::new().await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let proxy = Proxy::start(nobody);
    behind(&mut world, &proxy);
    watched(&world).await;
    accounts(&world).await;
    let daemon = world.daemon();
    until("it has tried twice", async || daemon.events().iter().filter(|e| e["event"] == "database.unreachable").count() >= 2).await;
    proxy.lead_to(Upstream::of(&world.url).port);
    purged_once(&world, "a").await;
    the_others_are_there(&world).await;
}

/// Nobody knows what a table was dropped for: everything stands still and says so, until somebody restarts the daemon, which checks it all.
#[tokio::test]
async fn i6_a_table_is_dropped_and_nothing_is_deleted_until_the_daemon_is_started_anew() {
    let mut world = World::new().await;
    world.set("EXECUTOR__MAX_BACKOFF", "1s");
    world.account("a", "null", OLD, "null").await;
    world.account("live", "null", "null", "null").await;
    world.sql("insert into retention.pauses (reason, paused_by) values ('until the table is gone', 'test')").await;
    world.sql("alter table task_configurations rename to kept").await;
    world.sql("create table task_configurations (like kept including all)").await;
    let mut daemon = world.daemon();
    daemon.wait_for("the first look", |e| e["event"] == "poll.completed").await;
    world.sql("drop table task_configurations").await;
    let seen = daemon.events().len();
    let tells = |e: &serde_json::Value| {
        (e["level"] == "warn" || e["level"] == "error") && e["error"].as_str().is_some_and(|e| e.contains("task_configurations"))
    };
    assert_eq!(world.count("retention.every_job where state = 'scheduled'").await, 2);
    world.sql("update retention.pauses set resumed_at = now()").await;
    until("it says why, and again", async || daemon.events().iter().skip(seen).filter(|e| tells(e)).count() >= 2).await;
    assert!(daemon.child.try_wait().unwrap().is_none(), "the daemon goes on");
    assert_eq!(world.count("template_configurations where account_id = 'a'").await, 3);
    assert_eq!(world.count("queue_messages where account_id = 'a'").await, 7);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ended().await, Some(0));
    let mut refused = world.daemon();
    assert_eq!(refused.ended().await, Some(10), "without the table it does not start");
    world.sql("alter table kept rename to task_configurations").await;
    let _daemon = world.daemon();
    until("it is purged", async || world.left("a").await == GONE).await;
    assert_eq!(world.left("live").await, ALL);
}

#[tokio::test]
async fn i13_a_column_of_one_class_is_dropped_and_the_other_class_goes_on() {
    let mut world = World::new().await;
    world.set("EXECUTOR__MAX_BACKOFF", "1s");
    let mut daemon = world.daemon();
    daemon.wait_for("the first look", |e| e["event"] == "poll.completed").await;
    world.sql("alter table queue_messages rename account_id to owner").await;
    world
        .sql(&format!(
            "insert into accounts (account_id, region, deleted_at) values ('a', 'here', {OLD});
             insert into queue_messages (owner, event_type) select 'a', 'WorkflowTask' from generate_series(1, 7);
             insert into template_configurations (account_id, template_type, parameters) select 'a', 'video', '{{}}' from generate_series(1, 3)"
        ))
        .await;
    until("the templates are gone", async || world.count("template_configurations").await == 0).await;
    assert_eq!(world.count("queue_messages").await, 7);
    assert!(daemon.child.try_wait().unwrap().is_none(), "the daemon goes on");
    world.sql("alter table queue_messages rename owner to account_id").await;
    until("mended, the queue goes too", async || world.count("queue_messages").await == 0).await;
    until("and is complete", async || world.count("retention.every_job where state = 'completed'").await == 2).await;
    let counted = "(select sum(t.value::int) as n from retention.every_job, jsonb_each_text(records_deleted) t) s where n = 10";
    assert_eq!(world.count(counted).await, 1);
}

#[tokio::test]
async fn i13_a_right_is_taken_away_and_given_back() {
    let mut world = World::new().await;
    let role = format!("{}_daemon", world.database);
    world
        .sql(&format!(
            "create role {role} login password 'secret'; grant usage on schema public, retention to {role};
             grant all on all tables in schema public, retention to {role}; grant all on all sequences in schema retention to {role}"
        ))
        .await;
    let (_, server) = world.url.rsplit_once('@').unwrap();
    let url = format!("postgres://{role}:secret@{server}");
    world.set("DATABASE__URL", &url).set("EXECUTOR__MAX_BACKOFF", "1s");
    watched(&world).await;
    world.sql(&format!("grant insert on gone to {role}")).await;
    let mut daemon = world.daemon();
    daemon.wait_for("the first look", |e| e["event"] == "poll.completed").await;
    world.sql(&format!("revoke delete on queue_messages from {role}")).await;
    accounts(&world).await;
    until("the other class is purged", async || world.left("a").await == left(0, 0, 7, 2)).await;
    let told = "retention.every_job where data_class = 'queue' and account_id = 'a' and state = 'scheduled' and attempts > 1 and last_error like '%permission denied%'";
    until("it says why it does not go on", async || world.count(told).await == 1).await;
    assert!(daemon.child.try_wait().unwrap().is_none(), "the daemon goes on");
    world.sql(&format!("grant delete on queue_messages to {role}")).await;
    purged_once(&world, "a").await;
    the_others_are_there(&world).await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ended().await, Some(0));
    world.sql(&format!("drop owned by {role}; drop role {role}")).await;
}

/// The library that makes a program believe in another time, where it is installed.
fn another_clock() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.flatten().map(|e| e.path());
    let found = folders.map(|folder| folder.join("faketime/libfaketime.so.1")).find(|library| library.is_file());
    if found.is_none() {
        // Past the harness, which shows what a test prints only when it fails.
        let _told = writeln!(std::io::stderr(), "left out: libfaketime is not installed, so no host's clock was moved");
    }
    found
}

/// The daemon on a host whose clock is off by that much. What is due is so by the database's clock, to the instant.
async fn on_a_host_whose_clock_is_off(by: &str, hours: i64) {
    let Some(library) = another_clock() else { return };
    let mut world = World::new().await;
    watched(&world).await;
    for (key, value) in [("LD_PRELOAD", library.to_str().unwrap()), ("FAKETIME", by), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")] {
        world.settings.insert(key.to_owned(), value.to_owned());
    }
    world.account("a", "null", OLD, "null").await;
    world.account("soon", "null", "now() - interval '30 days' + interval '4 seconds'", "null").await;
    world.account("back", "null", "now() - interval '6 days 12 hours'", "null").await;
    world.account("live", "null", "null", "null").await;
    let daemon = world.daemon();
    let first = daemon.wait_for("the first look", |e| e["event"] == "poll.completed").await;
    let believes: chrono::DateTime<chrono::Utc> = first["ts"].as_str().unwrap().parse().unwrap();
    let is: chrono::DateTime<chrono::Utc> = sqlx::query_scalar("select now()").fetch_one(&mut world.connect().await).await.unwrap();
    assert_eq!(((believes - is).num_minutes() + 30 * hours.signum()) / 60, hours, "the daemon believes in another time");
    purged_once(&world, "a").await;
    purged_once(&world, "soon").await;
    let early = "gone g join retention.every_job j on j.account_id = g.account_id and j.data_class = 'configuration'
                 where g.place <> 'queue_messages' and (g.at < j.retain_until or g.at > j.retain_until + interval '1 hour') and g.account_id = 'soon'";
    assert_eq!(world.count(early).await, 0);
    the_others_are_there(&world).await;
}

#[tokio::test]
async fn i1_the_hosts_clock_is_a_day_ahead() {
    on_a_host_whose_clock_is_off("+1d", 24).await;
}

#[tokio::test]
async fn i1_the_hosts_clock_is_a_day_behind() {
    on_a_host_whose_clock_is_off("-1d", -24).await;
}
