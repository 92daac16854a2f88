//! The daemon as its operators see it: its log, its signals, its clock, its database going away and coming back.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use retentiond::{
    embedded::{Options, Server},
    schema,
};
use rustix::process::Signal;
use serde_json::Value;
use sqlx::{Connection, PgConnection};

use crate::world::{ALL, Daemon, Left, World, left, until};

const OLD: &str = "now() - interval '31 days'";
const GONE: Left = Left { templates: 0, tasks: 0, messages: 0, media: 2 };

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The status code of the ops listener; 0 when nobody answers.
fn get(port: u16, path: &str) -> u16 {
    let ask = || {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = ask().unwrap_or_default();
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
}

pub(crate) fn named<'a>(events: &'a [Value], event: &str) -> Vec<&'a Value> {
    events.iter().filter(|e| e["event"] == event).collect()
}

/// A gate in front of one record: while it is closed, no batch gets past it.
pub(crate) async fn gate(world: &World) -> PgConnection {
    world
        .sql(
            "create function gate() returns trigger language plpgsql as $$ begin perform set_config('lock_timeout', '0', true); perform pg_advisory_xact_lock(42); return old; end $$;
             create trigger gate before delete on task_configurations for each row execute function gate()",
        )
        .await;
    let mut gate = world.connect().await;
    sqlx::query("select pg_advisory_lock(42)").execute(&mut gate).await.unwrap();
    gate
}

pub(crate) async fn somebody_waits_at_the_gate(world: &World) {
    let waiting = "pg_locks where locktype = 'advisory' and objid = 42 and not granted and database = (select oid from pg_database where datname = current_database())";
    until("a batch waits at the gate", async || world.count(waiting).await == 1).await;
}

#[tokio::test]
async fn s6_every_job_event_carries_all_its_fields_and_one_account_can_be_followed() {
    let mut world = World::new().await;
    world.set("EXECUTOR__MAX_ROWS_PER_BATCH", "3");
    world.account("a", "null", OLD, "null").await;
    world.account("back", "null", "now() - interval '2 days'", "null").await;
    world.account("earlier", "null", "now() - interval '1 day'", "null").await;
    let daemon = world.daemon();
    daemon.wait_for("both purges", |e| e["event"] == "job.completed" && e["data_class"] == "configuration").await;
    daemon.wait_for("the queue", |e| e["event"] == "job.completed" && e["data_class"] == "queue").await;
    world.sql("update feature_subscriptions set terminated_at = null where account_id = 'back'").await;
    world.sql("update accounts set deleted_at = now() - interval '3 days' where account_id = 'earlier'").await;
    daemon.wait_for("a cancellation", |e| e["event"] == "job.cancelled").await;
    daemon.wait_for("another plan", |e| e["event"] == "job.rescheduled").await;
    let events = daemon.events();
    for event in [
        "daemon.started",
        "poll.completed",
        "job.scheduled",
        "job.started",
        "batch.deleted",
        "job.completed",
        "job.cancelled",
        "job.rescheduled",
    ] {
        assert!(!named(&events, event).is_empty(), "no {event}");
    }
    for event in &events {
        for field in ["ts", "level", "event", "msg"] {
            assert!(event[field].is_string(), "{field} of {event}");
        }
        let name = event["event"].as_str().unwrap();
        if name.starts_with("job.") || name == "batch.deleted" {
            for field in ["job_id", "account_id", "feature", "data_class", "starting_point", "retain_until", "delete_by"] {
                assert!(event[field].is_string(), "{field} of {event}");
            }
        }
        if name == "job.completed" {
            assert!(event["records_deleted"].is_object(), "{event}");
            assert!(event["lateness_seconds"].as_f64().unwrap() > 0.0, "{event}");
        }
    }
    // One account, from the first word to the last.
    let story: Vec<(&str, &str)> = events
        .iter()
        .filter(|e| e["account_id"] == "a" && e["data_class"] == "configuration" && e["event"] != "job.overdue")
        .map(|e| (e["event"].as_str().unwrap(), e["job_id"].as_str().unwrap()))
        .collect();
    let id = world.job("a", "configuration").await.id;
    assert!(story.iter().all(|(_, job)| *job == id), "{story:?}");
    let words: Vec<&str> = story.iter().map(|(event, _)| *event).collect();
    assert_eq!(words[..2], ["job.scheduled", "job.started"], "{words:?}");
    assert_eq!(words.last(), Some(&"job.completed"));
    assert_eq!(words.iter().filter(|w| **w == "job.started").count(), 1, "one attempt is one start: {words:?}");
    let deleted: i64 =
        events.iter().filter(|e| e["event"] == "batch.deleted" && e["job_id"] == id.as_str()).map(|e| e["records"].as_i64().unwrap()).sum();
    assert_eq!(deleted, 8, "what the batches say adds up");
    // The fields everybody shares come first, so that lines can be read.
    let text = std::fs::read_to_string(&daemon.log).unwrap();
    for line in text.lines() {
        let at = |key: &str| line.find(&format!("\"{key}\":")).unwrap();
        assert!(at("ts") < at("level") && at("level") < at("event") && at("event") < at("msg"), "{line}");
    }
}

#[tokio::test]
async fn s5_sigterm_and_sigint_end_an_idle_daemon_with_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let world = World::new().await;
        let mut daemon = world.daemon();
        daemon.wait_for("the first look", |e| e["event"] == "poll.completed").await;
        daemon.signal(signal);
        assert_eq!(daemon.ended().await, Some(0));
        let events = daemon.events();
        let last = events.last().unwrap();
        assert_eq!((last["event"].as_str(), last["exit_code"].as_i64()), (Some("daemon.stopped"), Some(0)));
    }
}

#[tokio::test]
async fn s5_a_stop_finishes_the_running_batch_and_gives_leases_back() {
    let mut world = World::new().await;
    world.set("EXECUTOR__MAX_ROWS_PER_BATCH", "3").set("EXECUTOR__CONCURRENCY", "1");
    world.account("a", "null", OLD, "null").await;
    let gate = gate(&world).await;
    let mut daemon = world.daemon();
    somebody_waits_at_the_gate(&world).await;
    daemon.signal(Signal::TERM);
    daemon.wait_for("the stop", |e| e["event"] == "daemon.stopping").await;
    gate.close().await.unwrap();
    assert_eq!(daemon.ended().await, Some(0));
    let job = world.job("a", "configuration").await;
    assert_eq!(job.state, "scheduled", "leases are given back");
    assert_eq!(world.left("a").await.tasks, 2, "the running batch was finished, no other was begun");
    let deleted: i64 = job.records_deleted.0.values().sum();
    assert_eq!(deleted, 6);
    assert_eq!(world.count("retention.every_job where state = 'running'").await, 0);
    let _again = world.daemon();
    until("the rest is purged", async || world.left("a").await.tasks == 0).await;
    until("it is complete", async || world.job("a", "configuration").await.state == "completed").await;
    assert_eq!(world.job("a", "configuration").await.attempts, 1, "a stop between two batches is no new attempt");
}

#[tokio::test]
async fn s5_a_second_signal_cancels_and_nothing_of_the_batch_stands() {
    let mut world = World::new().await;
    world.set("EXECUTOR__MAX_ROWS_PER_BATCH", "3").set("EXECUTOR__CONCURRENCY", "1");
    world.account("a", "null", OLD, "null").await;
    // On a busy machine these would be a batch of their own, before the one that is cancelled.
    world.sql("delete from template_configurations").await;
    let gate = gate(&world).await;
    let mut daemon = world.daemon();
    somebody_waits_at_the_gate(&world).await;
    daemon.signal(Signal::TERM);
    daemon.wait_for("the stop", |e| e["event"] == "daemon.stopping").await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ended().await, Some(75));
    let events = daemon.events();
    assert_eq!(events.iter().rfind(|e| e["event"] == "daemon.stopped").unwrap()["exit_code"], 75);
    gate.close().await.unwrap();
    let left_over = "pg_stat_activity where datname = current_database() and application_name = 'retentiond'";
    until("its connections are gone", async || world.count(left_over).await == 0).await;
    assert_eq!(world.left("a").await.tasks, 5);
}

/// The instants at which records go, written down by the database itself. The poll interval is an hour, so that only a worker who knows
/// when the next job is due can be in time.
#[tokio::test]
async fn i1_nothing_goes_before_retain_until_and_everything_within_one_poll_interval_after_it() {
    let mut world = World::new().await;
    world.set("POLL__INTERVAL", "1h").set("POLL__RESYNC_INTERVAL", "1h");
    world
        .sql(
            "create table gone (account_id text, at timestamptz);
             create function gone() returns trigger language plpgsql as $$ begin insert into public.gone values (old.account_id, clock_timestamp()); return old; end $$;
             create trigger gone before delete on queue_messages for each row execute function gone()",
        )
        .await;
    for (id, seconds) in [("a", 6), ("b", 7), ("c", 8)] {
        world.account(id, "null", &format!("now() - interval '7 days' + interval '{seconds} s'"), "null").await;
    }
    world.account("d", "null", "now() - interval '7 days' + interval '30 minutes'", "null").await;
    let _daemon = world.daemon();
    for records in [7, 14, 21] {
        until("another is purged", async || world.count("gone").await >= records).await;
    }
    let (early, latest): (i64, f64) = sqlx::query_as(
        "select count(*) filter (where g.at < j.retain_until), max(extract(epoch from g.at - j.retain_until))::float8
         from gone g join retention.every_job j on j.account_id = g.account_id and j.data_class = 'queue'",
    )
    .fetch_one(&mut world.connect().await)
    .await
    .unwrap();
    assert_eq!(early, 0);
    assert!(latest < 90.0, "{latest} s after retain_until");
    for id in ["a", "b", "c"] {
        assert_eq!(world.left(id).await, left(3, 5, 0, 2));
    }
    assert_eq!(world.left("d").await, ALL);
}

#[tokio::test]
async fn s6_cut_connections_are_survived() {
    let mut world = World::new().await;
    world.set("EXECUTOR__LEASE", "5s");
    let daemon = world.daemon();
    daemon.wait_for("the first look", |e| e["event"] == "poll.completed").await;
    for round in 0..5 {
        let id = format!("a{round}");
        world.account(&id, "null", OLD, "null").await;
        world
            .sql("select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and application_name = 'retentiond'")
            .await;
        until("it is purged all the same", async || world.left(&id).await == GONE).await;
    }
    until("all is complete", async || world.count("retention.every_job where state <> 'completed'").await == 0).await;
    for round in 0..5 {
        let deleted: i64 = world.job(&format!("a{round}"), "configuration").await.records_deleted.0.values().sum();
        assert_eq!(deleted, 8);
    }
}

/// A server of its own, because it is shut down: not there at the start, gone in the middle, restarted.
#[tokio::test]
async fn s6_an_unreachable_database_is_tried_again_and_the_listener_says_so() {
    let dir = std::env::temp_dir().join(format!("retentiond-it-{}", std::process::id()));
    let (port, ops) = (free_port(), free_port());
    let start = || {
        let settings = vec![("port".to_owned(), port.to_string())];
        Server::start(&Options { dir: Some(dir.clone()), durable: false, settings, ..Options::default() }).expect("an embedded Postgres")
    };
    let server = start();
    let address = |database: &str| {
        let url = server.url(database);
        let (head, tail) = url.rsplit_once(':').unwrap();
        format!("{head}:{port}/{}", tail.split_once('/').unwrap().1)
    };
    let mut admin = PgConnection::connect(&address("postgres")).await.unwrap();
    sqlx::query("create database platform").execute(&mut admin).await.unwrap();
    admin.close().await.unwrap();
    let mut world = World::bare().await;
    world.url = address("platform");
    let url = world.url.clone();
    world.set("DATABASE__URL", &url).set("HTTP__OPS_LISTEN", &format!("127.0.0.1:{ops}"));
    schema::migrate(&world.config(), true).await.unwrap();
    world.account("a", "null", OLD, "null").await;
    server.stop().unwrap();

    let mut daemon = world.daemon();
    until("it tries again", async || named(&daemon.events(), "database.unreachable").len() >= 2).await;
    assert_eq!((get(ops, "/livez"), get(ops, "/readyz")), (200, 503));
    assert_eq!(world.cli(&["healthcheck"]).status.code(), Some(0), "alive is not ready");
    let server = start();
    until("it is ready", async || get(ops, "/readyz") == 200).await;
    until("it purges", async || world.left("a").await == GONE).await;

    server.stop().unwrap();
    until("it is not ready", async || get(ops, "/readyz") == 503).await;
    assert_eq!(get(ops, "/livez"), 200);
    daemon.wait_for("it says so", |e| e["event"] == "poll.failed").await;
    let server = start();
    until("it is ready again", async || get(ops, "/readyz") == 200).await;
    world.account("b", "null", OLD, "null").await;
    until("it purges again", async || world.left("b").await == GONE).await;

    // The server crashes: every connection is cut, and it recovers.
    let mut victim = world.connect().await;
    let backend: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut victim).await.unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(backend).unwrap(), Signal::KILL).unwrap();
    until("it has recovered", async || PgConnection::connect(&world.url).await.is_ok()).await;
    world.account("c", "null", OLD, "null").await;
    until("it purges once more", async || world.left("c").await == GONE).await;

    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ended().await, Some(0));
    assert_eq!(get(ops, "/livez"), 0);
    assert_eq!(world.cli(&["healthcheck"]).status.code(), Some(1), "nobody answers");
    server.stop().unwrap();
    std::fs::remove_dir_all(dir).unwrap();
}

#[tokio::test]
async fn s7_an_occupied_ops_port_is_a_clear_error() {
    let mut world = World::new().await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    world.set("HTTP__OPS_LISTEN", &address);
    let output = world.cli(&["run"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stdout).unwrap();
    let line: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    let error = line["error"].as_str().unwrap();
    assert!(error.contains("http.ops_listen") && error.contains(&address), "{line}");
}

#[tokio::test]
async fn r35_what_ends_the_daemon_is_a_json_line_and_an_exit_code() {
    let mut world = World::bare().await;
    for (key, value, code) in [("MODE", "enforce", 10), ("MODE", "perhaps", 78)] {
        world.set(key, value);
        let output = world.cli(&["run"]);
        assert_eq!(output.status.code(), Some(code));
        let said = [output.stdout, output.stderr].concat();
        let lines: Vec<Value> = String::from_utf8(said).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let last = lines.iter().rfind(|l| l["event"] == "daemon.failed").unwrap();
        assert_eq!(last["exit_code"], code);
    }
}

async fn overdue_world() -> World {
    let world = World::new().await;
    world.account("late", "null", "now() - interval '60 days'", "null").await;
    world.account("young", "null", "now() - interval '1 day'", "null").await;
    world
}

/// Waits until the daemon has planned often enough that whatever it does again and again has been done again.
async fn looked_again(daemon: &Daemon) {
    until("many looks", async || named(&daemon.events(), "poll.completed").len() >= 4).await;
}

#[tokio::test]
async fn s6_overdue_is_said_once_for_each_job() {
    let world = overdue_world().await;
    assert!(world.cli(&["pause", "--reason", "test"]).status.success());
    let daemon = world.daemon();
    looked_again(&daemon).await;
    let events = daemon.events();
    let mut classes: Vec<&str> = named(&events, "job.overdue").iter().map(|e| e["data_class"].as_str().unwrap()).collect();
    classes.sort_unstable();
    assert_eq!(classes, ["configuration", "queue"]);
    for event in named(&events, "job.overdue") {
        assert_eq!((event["account_id"].as_str(), event["level"].as_str()), (Some("late"), Some("error")));
    }
    drop(daemon);
    let again = world.daemon();
    looked_again(&again).await;
    assert!(named(&again.events(), "job.overdue").is_empty(), "a restart does not say it again");
}

#[tokio::test]
async fn i1_observe_plans_and_deletes_nothing() {
    let mut world = overdue_world().await;
    world.set("MODE", "observe");
    let daemon = world.daemon();
    looked_again(&daemon).await;
    daemon.wait_for("R28: observed jobs count as overdue", |e| e["event"] == "job.overdue").await;
    assert_eq!((world.left("late").await, world.left("young").await), (ALL, ALL));
    let jobs = world.jobs("late").await;
    assert_eq!(jobs.len(), 2);
    assert!(jobs.iter().all(|j| j.state == "scheduled" && j.attempts == 0 && j.purge_began_at.is_none()));
    assert!(named(&daemon.events(), "job.started").is_empty());
    assert_eq!(world.json(&["status"])["mode"], "observe");
}

/// Two daemons on one database share the work: each purge is done once.
#[tokio::test]
async fn i8_two_three_and_five_replicas_purge_everything_exactly_once() {
    for replicas in [2, 3, 5] {
        exactly_once(replicas).await;
    }
}

async fn exactly_once(replicas: usize) {
    let mut world = World::new().await;
    world.set("EXECUTOR__MAX_ROWS_PER_BATCH", "4").set("EXECUTOR__CONCURRENCY", "2");
    for i in 0..10 {
        world.account(&format!("a{i}"), "null", OLD, "null").await;
    }
    world.account("live", "null", "null", "null").await;
    let replicas: Vec<_> = (0..replicas).map(|_| world.daemon()).collect();
    for some in 1..=20 {
        until("it goes on", async || world.count("retention.every_job where state = 'completed'").await >= some).await;
    }
    assert_eq!(world.count("retention.every_job").await, 20);
    for i in 0..10 {
        let id = format!("a{i}");
        assert_eq!(world.left(&id).await, GONE);
        let deleted: i64 = world.job(&id, "configuration").await.records_deleted.0.values().sum();
        assert_eq!(deleted, 8, "{id}");
    }
    let mut completed: Vec<String> = Vec::new();
    for replica in &replicas {
        completed.extend(named(&replica.events(), "job.completed").iter().map(|e| e["job_id"].as_str().unwrap().to_owned()));
    }
    completed.sort();
    let said = completed.len();
    completed.dedup();
    assert_eq!((said, completed.len()), (20, 20), "each completion is said once");
    assert_eq!(world.left("live").await, ALL);
}
