//! The daemon under a service manager and monitors: what it tells them, its probes, and a configuration that changes while it runs.

use std::{
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::UnixDatagram,
    time::Duration,
};

use rustix::process::Signal;
use sqlx::Connection;

use crate::{
    daemon::{gate, named, somebody_waits_at_the_gate},
    metrics::{free_port, scrape},
    world::{Daemon, World, until},
};

const OLD: &str = "now() - interval '31 days'";

/// Status code and body.
fn get(port: u16, path: &str) -> (String, String) {
    let ask = || {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = ask().unwrap_or_default();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    (head.split(' ').nth(1).unwrap_or_default().to_owned(), body.to_owned())
}

/// What the daemon tells its service manager.
struct Manager {
    socket: UnixDatagram,
    told: Vec<String>,
    _folder: tempfile::TempDir,
}

impl Manager {
    fn of(world: &mut World) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        world.settings.insert("NOTIFY_SOCKET".to_owned(), path.to_str().unwrap().to_owned());
        Self { socket, told: Vec::new(), _folder: folder }
    }

    fn listen(&mut self) -> &[String] {
        let mut message = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut message) {
            self.told.extend(String::from_utf8_lossy(&message[..length]).lines().map(str::to_owned));
        }
        &self.told
    }

    fn heard(&mut self, what: &str) -> usize {
        self.listen().iter().filter(|line| line.starts_with(what)).count()
    }
}

#[tokio::test]
async fn a_service_manager_is_told_ready_alive_reloading_and_stopping() {
    let mut world = World::new().await;
    let mut manager = Manager::of(&mut world);
    world.settings.insert("WATCHDOG_USEC".to_owned(), "400000".to_owned());
    let mut daemon = world.daemon();
    until("it is ready", || std::future::ready(manager.heard("READY=1") == 1)).await;
    assert_eq!(manager.told[0], "STATUS=waiting for the database");
    assert!(manager.told.contains(&"STATUS=enforce: 2 data classes".to_owned()), "{:?}", manager.told);
    until("it lives on", || std::future::ready(manager.heard("WATCHDOG=1") >= 3)).await;
    assert_eq!(manager.heard("RELOADING=1"), 0);
    daemon.signal(Signal::HUP);
    until("it is ready again", || std::future::ready(manager.heard("READY=1") == 2)).await;
    let at = |what: &str| manager.told.iter().position(|line| line.starts_with(what)).unwrap();
    assert_eq!(at("MONOTONIC_USEC="), at("RELOADING=1") + 1);
    assert_eq!(manager.heard("STOPPING=1"), 0);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ended().await, Some(0));
    assert_eq!(manager.heard("STOPPING=1"), 1);
}

#[tokio::test]
async fn a_service_manager_is_not_told_ready_when_the_database_does_not_fit() {
    let mut world = World::bare().await;
    let mut manager = Manager::of(&mut world);
    let mut daemon = world.daemon();
    assert_eq!(daemon.ended().await, Some(10));
    assert_eq!((manager.heard("READY=1"), manager.heard("WATCHDOG=1")), (0, 0), "{:?}", manager.told);
}

#[tokio::test]
async fn while_it_drains_it_lives_and_is_not_ready_and_every_check_is_named() {
    let mut world = World::new().await;
    let port = free_port();
    world.set("HTTP__OPS_LISTEN", &format!("127.0.0.1:{port}"));
    world.account("a", "null", OLD, "null").await;
    let gate = gate(&world).await;
    let mut daemon = world.daemon();
    somebody_waits_at_the_gate(&world).await;
    let (code, body) = get(port, "/readyz?verbose");
    assert_eq!((code.as_str(), body.as_str()), ("200", "[+]running ok\n[+]policy ok\n[+]comparison ok\n[+]database ok\n[+]schema ok\n"));
    let (code, body) = get(port, "/livez?verbose");
    assert_eq!(code, "200");
    for pass in ["planner", "workers", "verifier", "coverage", "levels", "records", "ledger", "ledger check", "upkeep"] {
        assert!(body.contains(&format!("[+]{pass} ok\n")), "{pass}: {body}");
    }
    daemon.signal(Signal::TERM);
    daemon.wait_for("the stop", |e| e["event"] == "daemon.stopping").await;
    let (code, body) = get(port, "/readyz?verbose");
    assert!(code == "503" && body.starts_with("[-]running the daemon is stopping\n"), "{code}: {body}");
    assert_eq!(get(port, "/readyz?exclude=running").0, "200");
    assert_eq!(get(port, "/livez").0, "200");
    gate.close().await.unwrap();
    assert_eq!(daemon.ended().await, Some(0));
}

#[tokio::test]
async fn a_schema_of_another_version_is_not_ready() {
    let mut world = World::new().await;
    let port = free_port();
    world.set("HTTP__OPS_LISTEN", &format!("127.0.0.1:{port}"));
    let _daemon = world.daemon();
    until("it is ready", async || get(port, "/readyz").0 == "200").await;
    world.sql("insert into retention.migrations (version, description, success, checksum, execution_time) values (999999, 'later', true, '', 0)").await;
    let (code, body) = get(port, "/readyz?verbose");
    assert!(code == "503" && body.contains("[+]database ok\n[-]schema "), "{code}: {body}");
    assert_eq!(get(port, "/readyz?exclude=schema").0, "200");
}

fn reload(world: &World, daemon: &Daemon) {
    world.write_rules();
    daemon.signal(Signal::HUP);
}

/// The rules with another `poll.interval`, and no `poll.resync_interval`.
fn rules_with_interval(rules: &str, interval: &str) -> String {
    let (head, tail) = rules.split_once("[poll]\n").unwrap();
    let kept: Vec<&str> = tail.lines().filter(|line| !line.contains("interval")).collect();
    format!("{head}[poll]\ninterval = \"{interval}\"\n{}", kept.join("\n"))
}

const RELOADED: &str = "retention_config_last_reload_successful";

#[tokio::test]
async fn a_reload_takes_over_hot_keys_and_refuses_all_others_as_a_whole() {
    let mut world = World::new().await;
    let port = free_port();
    world.set("HTTP__OPS_LISTEN", &format!("127.0.0.1:{port}"));
    let rules = world.rules.clone();
    let written = |level: &str, interval: &str| {
        let own = format!("[log]\nlevel = \"{level}\"\n{}", rules_with_interval(&rules, interval));
        assert!(own.contains(interval));
        own
    };
    world.rules = written("info", "1h");
    let daemon = world.daemon();
    daemon.wait_for("the first look", |e| e["event"] == "poll.completed").await;
    let first = scrape(port).get("retention_config_last_reload_success_timestamp_seconds").unwrap();

    world.rules = written("debug", "100ms");
    reload(&world, &daemon);
    let reloaded = daemon.wait_for("it is taken over", |e| e["event"] == "config.reloaded").await;
    assert_eq!(reloaded["changed_keys"], "log.level, poll.interval");
    daemon.wait_for("the new level", |e| e["level"] == "debug" && e["event"] == "poll.completed").await;
    let quick = || daemon.events().iter().filter(|e| e["level"] == "debug" && e["event"] == "poll.completed").count() >= 3;
    until("the new interval", || std::future::ready(quick())).await;
    assert_eq!(scrape(port).get(RELOADED), Some(1.0));
    assert!(scrape(port).get("retention_config_last_reload_success_timestamp_seconds").unwrap() > first);

    // A hot key beside one that is not: neither is taken over.
    world.rules = written("error", "100ms").replacen("retain_for = \"30d\"", "retain_for = \"1d\"", 1);
    assert!(world.rules.contains("retain_for = \"1d\""));
    reload(&world, &daemon);
    let refused = daemon.wait_for("it is refused", |e| e["event"] == "config.reload_refused").await;
    assert_eq!((refused["level"].as_str(), refused["keys"].as_str()), (Some("error"), Some("data_classes")));
    assert!(refused["error"].as_str().unwrap().contains("retentiond policy accept"), "{refused}");
    assert_eq!(scrape(port).get(RELOADED), Some(0.0));
    let said = daemon.events().len();
    until("the level stays", async || daemon.events()[said..].iter().any(|e| e["level"] == "debug")).await;

    world.rules = written("loud", "100ms");
    reload(&world, &daemon);
    let failed = daemon.wait_for("it is at fault", |e| e["event"] == "config.reload_failed").await;
    assert!(failed["error"].as_str().unwrap().starts_with("log.level: \"loud\""), "{failed}");
    assert_eq!(scrape(port).get(RELOADED), Some(0.0));

    world.rules = written("debug", "100ms");
    reload(&world, &daemon);
    until("what is in force already is a success", async || named(&daemon.events(), "config.reloaded").len() == 2).await;
    assert_eq!(named(&daemon.events(), "config.reloaded")[1]["changed_keys"], "");
    assert_eq!(scrape(port).get(RELOADED), Some(1.0));
}

#[tokio::test]
async fn a_reload_cuts_no_batch_off_and_nothing_is_deleted_twice() {
    let mut world = World::new().await;
    world.set("EXECUTOR__MAX_ROWS_PER_BATCH", "3").set("EXECUTOR__CONCURRENCY", "1");
    let rules = world.rules.clone();
    world.rules = rules_with_interval(&rules, "1h");
    world.account("a", "null", OLD, "null").await;
    let gate = gate(&world).await;
    let daemon = world.daemon();
    somebody_waits_at_the_gate(&world).await;
    world.rules = rules_with_interval(&rules, "100ms");
    reload(&world, &daemon);
    daemon.wait_for("it is taken over", |e| e["event"] == "config.reloaded").await;
    gate.close().await.unwrap();
    until("it is complete", async || world.count("retention.every_job where state = 'completed'").await == 2).await;
    let job = world.job("a", "configuration").await;
    assert_eq!((job.attempts, job.records_deleted.0.values().sum::<i64>(), job.last_error), (1, 8, None));
}

#[tokio::test]
async fn every_event_of_the_log_has_its_counter() {
    let mut world = World::new().await;
    let port = free_port();
    world.set("HTTP__OPS_LISTEN", &format!("127.0.0.1:{port}"));
    for id in ["a", "b"] {
        world.account(id, "null", OLD, "null").await;
    }
    let daemon = world.daemon();
    until("all is complete", async || named(&daemon.events(), "job.completed").len() == 4).await;
    for (event, level, count) in [("job.completed", "info", 4.0), ("job.scheduled", "info", 4.0), ("daemon.started", "info", 1.0)] {
        let series = format!("retention_log_events_total{{event=\"{event}\",level=\"{level}\"}}");
        until("it is counted", async || scrape(port).get(&series) == Some(count)).await;
        assert_eq!(named(&daemon.events(), event).len(), if count > 1.0 { 4 } else { 1 });
    }
    // A rate needs a beginning.
    assert_eq!(scrape(port).get("retention_log_events_total{event=\"guard.tripped\",level=\"error\"}"), Some(0.0));
}
