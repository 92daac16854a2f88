//! `/metrics` as a monitor sees it: a real daemon, a real database, and the text it answers.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::{Command, Stdio},
    time::Duration,
};

use retentiond::{
    embedded::{Options, Server},
    metrics::{Kind, METRICS},
    schema,
};
use sqlx::{Connection, PgConnection};

use crate::world::{World, left_out, until};

const OLD: &str = "now() - interval '31 days'";
const CONFIGURATION: &str = "feature=\"mps\",data_class=\"configuration\"";
const QUEUE: &str = "feature=\"mps\",data_class=\"queue\"";

/// A scrape: what stands in the text, by name with labels as written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scrape {
    pub(crate) text: String,
    values: BTreeMap<String, f64>,
}

impl Scrape {
    fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let value = |line: &str| {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
            (name.to_owned(), value.parse().unwrap_or_else(|e| panic!("{e}: {line}")))
        };
        let values: Vec<(String, f64)> = lines.map(value).collect();
        let all = values.len();
        let values: BTreeMap<_, _> = values.into_iter().collect();
        assert_eq!(values.len(), all, "a series stands twice:\n{text}");
        Self { text: text.to_owned(), values }
    }

    /// The value of one series, like `retention_paused` or `retention_mode_info{mode="enforce"}`; `None` when it is absent.
    pub(crate) fn get(&self, series: &str) -> Option<f64> {
        self.values.get(series).copied()
    }
}

/// A port that nobody has.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// What the daemon answers at `/metrics`; empty when nobody answers yet.
pub(crate) fn scrape(port: u16) -> Scrape {
    let ask = || {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = ask().unwrap_or_default();
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { return Scrape::default() };
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    Scrape::parse(body)
}

/// Scrapes until a series has a value.
pub(crate) async fn until_shown(port: u16, series: &str, value: f64) -> Scrape {
    let seen = || {
        let seen = scrape(port);
        // Exact: both are small whole numbers.
        seen.get(series).is_some_and(|found| (found - value).abs() < f64::EPSILON).then_some(seen)
    };
    let shown = std::cell::RefCell::new(None);
    until(&format!("{series} is {value}"), async || {
        *shown.borrow_mut() = seen();
        shown.borrow().is_some()
    })
    .await;
    shown.take().unwrap()
}

fn class(name: &str, labels: &str) -> String {
    format!("{name}{{{labels}}}")
}

fn jobs(labels: &str, state: &str) -> String {
    format!("retention_jobs{{{labels},state=\"{state}\"}}")
}

#[tokio::test]
async fn s8_the_figures_say_what_was_done_and_what_the_database_holds() {
    let port = free_port();
    let mut world = World::new().await;
    world.set("HTTP__OPS_LISTEN", &format!("127.0.0.1:{port}"));
    for id in ["a", "b"] {
        world.account(id, "null", OLD, "null").await;
    }
    world.account("held", "null", OLD, "null").await;
    world.account("young", "null", "now() - interval '10 days'", "null").await;
    world.account("year one", "null", "'0001-01-01'", "null").await;
    assert!(world.cli(&["hold", "place", "--account", "held", "--reason", "test"]).status.success());
    let _daemon = world.daemon();
    until_shown(port, &jobs(CONFIGURATION, "completed"), 2.0).await;
    until_shown(port, &jobs(QUEUE, "completed"), 3.0).await;
    // The figures of one scrape are read one after the other: those of the next are all from after the last completion.
    let seen = scrape(port);

    for (series, value) in [
        (jobs(CONFIGURATION, "scheduled"), 2.0),
        (jobs(CONFIGURATION, "running"), 0.0),
        (jobs(CONFIGURATION, "cancelled"), 0.0),
        (jobs(QUEUE, "scheduled"), 1.0),
        (class("retention_held_jobs", CONFIGURATION), 1.0),
        (class("retention_held_jobs", QUEUE), 1.0),
        (class("retention_overdue_jobs", CONFIGURATION), 0.0),
        (class("retention_residual_records", QUEUE), 0.0),
        ("retention_guard_tripped".to_owned(), 0.0),
        ("retention_paused".to_owned(), 0.0),
        ("retention_mode_info{mode=\"enforce\"}".to_owned(), 1.0),
        ("retention_quarantined_records".to_owned(), 2.0),
        ("retention_database_up".to_owned(), 1.0),
        // Of the configuration alone: 30 days and the day after.
        (class("retention_policy_period_seconds", CONFIGURATION), 30.0 * 86_400.0),
        (class("retention_policy_allowance_seconds", CONFIGURATION), 86_400.0),
        // The one that is held is due; the young one has 20 days to go.
        (format!("retention_jobs_due{{{CONFIGURATION},window=\"1d\"}}"), 1.0),
        (format!("retention_jobs_due{{{CONFIGURATION},window=\"7d\"}}"), 1.0),
        (format!("retention_jobs_due{{{CONFIGURATION},window=\"30d\"}}"), 2.0),
        ("retention_holds".to_owned(), 1.0),
        // What was purged counts in the guard's window; what is held does not, nor what is young but for its queue, which is purged.
        ("retention_guard_candidates".to_owned(), 3.0),
        ("retention_requests{state=\"waiting\"}".to_owned(), 0.0),
        ("retention_ledger_ok".to_owned(), 1.0),
        ("retention_ledger_missing_entries".to_owned(), 0.0),
        (format!("retention_job_failures_total{{{CONFIGURATION},reason=\"timeout\"}}"), 0.0),
        ("retention_batches_total{target=\"platform/queue_messages\",outcome=\"failed\"}".to_owned(), 0.0),
        (format!("retention_records_deleted_total{{{CONFIGURATION},target=\"platform/template_configurations\"}}"), 6.0),
        (format!("retention_records_deleted_total{{{CONFIGURATION},target=\"platform/task_configurations\"}}"), 10.0),
        (format!("retention_records_deleted_total{{{QUEUE},target=\"platform/queue_messages\"}}"), 21.0),
        (class("retention_deadline_lateness_seconds_count", CONFIGURATION), 2.0),
        // A day late on the dot is within; the accounts ended 31 days ago and the promise is 30.
        (format!("retention_deadline_lateness_seconds_bucket{{{CONFIGURATION},le=\"86400\"}}"), 0.0),
        (format!("retention_deadline_lateness_seconds_bucket{{{CONFIGURATION},le=\"172800\"}}"), 2.0),
    ] {
        assert_eq!(seen.get(&series), Some(value), "{series}\n{}", seen.text);
    }
    // Who is held has no deadline to be met; of the queue nothing else is open.
    let deadline = "retention_earliest_unmet_deadline_timestamp_seconds";
    let young: f64 = sqlx::query_scalar(
        "select extract(epoch from delete_by)::float8 from retention.every_job where account_id = 'young' and data_class = 'configuration'",
    )
    .fetch_one(&mut world.connect().await)
    .await
    .unwrap();
    assert!((seen.get(&class(deadline, CONFIGURATION)).unwrap() - young).abs() < 1e-3, "{}", seen.text);
    assert_eq!(seen.get(&class(deadline, QUEUE)), None, "{}", seen.text);
    let batches = seen.get("retention_batch_duration_seconds_count{target=\"platform/queue_messages\"}").unwrap();
    assert!(batches >= 1.0);
    assert_eq!(seen.get("retention_batches_total{target=\"platform/queue_messages\",outcome=\"committed\"}"), Some(batches));
    // The hold has no end, and nobody asked for anything.
    for absent in ["retention_earliest_hold_expiry_timestamp_seconds", "retention_oldest_open_request_timestamp_seconds"] {
        assert_eq!(seen.get(absent), None, "{}", seen.text);
    }
    let skew = seen.get("retention_clock_skew_seconds{against=\"database\"}").unwrap();
    assert!(skew.abs() < 5.0, "both clocks are of this machine: {skew}");
    let pool = ["used", "idle"].map(|state| seen.get(&format!("retention_database_pool_connections{{state=\"{state}\"}}")).unwrap());
    assert!(pool[0] >= 0.0 && (1.0..=16.0).contains(&(pool[0] + pool[1])), "{pool:?}");
    assert!(seen.get("retention_polls_total{kind=\"resync\",outcome=\"ok\"}").unwrap() >= 1.0, "{}", seen.text);
    assert_eq!(seen.get("retention_polls_total{kind=\"resync\",outcome=\"error\"}"), Some(0.0));
    let looked = seen.get("retention_last_poll_success_timestamp_seconds{kind=\"resync\"}").unwrap();
    let ago: f64 = sqlx::query_scalar("select extract(epoch from now())::float8 - $1")
        .bind(looked)
        .fetch_one(&mut world.connect().await)
        .await
        .unwrap();
    assert!((-5.0..60.0).contains(&ago), "{ago}");

    // Every series has its help and its type, under a name of the table; no account is in any of it.
    for line in seen.text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let name = line.split(['{', ' ']).next().unwrap();
        let (known, kind, help) = METRICS
            .iter()
            .find(|(known, kind, _)| {
                name == *known
                    || *kind == Kind::Histogram && ["_bucket", "_sum", "_count"].iter().any(|end| name.strip_suffix(end) == Some(known))
            })
            .unwrap_or_else(|| panic!("{name} is in no table"));
        let kind = format!("{kind:?}").to_lowercase();
        assert!(seen.text.contains(&format!("# TYPE {known} {kind}\n")), "{known}\n{}", seen.text);
        assert!(seen.text.contains(&format!("# HELP {known} {help}\n")), "{known}\n{}", seen.text);
    }
    assert!(!seen.text.contains("young") && !seen.text.contains("year one"));
    promtool_is_content(&seen.text);
}

/// What Prometheus's own checker says about the text: nothing, of its syntax and of its names.
fn promtool_is_content(text: &str) {
    let mut child = match Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return left_out("metrics as Prometheus reads them: promtool is not installed");
        }
        Err(error) => panic!("promtool: {error}"),
    };
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let said = child.wait_with_output().unwrap();
    assert!(said.status.success() && said.stderr.is_empty(), "{}\n{text}", String::from_utf8_lossy(&said.stderr));
}

#[tokio::test]
async fn s8_what_people_decided_and_what_the_ledger_holds_shows() {
    let port = free_port();
    let mut world = World::new().await;
    world.set("HTTP__OPS_LISTEN", &format!("127.0.0.1:{port}")).set("GUARD__MAX_ACCOUNTS", "7").set("APPROVALS__REQUEST", "2");
    world.set("GUARD__MAX_SHARE", "100%");
    for id in ["a", "b"] {
        world.account(id, "null", OLD, "null").await;
    }
    let until = "2100-01-01T00:00:00Z";
    assert!(world.cli(&["hold", "place", "--account", "a", "--reason", "r", "--until", until]).status.success());
    assert!(world.cli(&["hold", "place", "--account", "b", "--reason", "r", "--until", "2101-01-01T00:00:00Z"]).status.success());
    assert!(world.cli(&["request", "--account", "a", "--by", "one", "--reason", "r"]).status.success());
    assert!(world.cli(&["request", "--account", "b", "--by", "one", "--reason", "r"]).status.success());
    assert!(world.cli(&["request", "approve", "2", "--by", "two"]).status.success());
    let daemon = world.daemon();
    until_shown(port, "retention_requests{state=\"accepted\"}", 1.0).await;
    let seen = until_shown(port, "retention_ledger_unnumbered_entries", 0.0).await;
    for (series, value) in [
        ("retention_holds", 2.0),
        ("retention_earliest_hold_expiry_timestamp_seconds", 4_102_444_800.0),
        ("retention_requests{state=\"waiting\"}", 1.0),
        ("retention_requests{state=\"overdue\"}", 0.0),
        ("retention_guard_limit", 7.0),
        ("retention_guard_candidates", 0.0),
        ("retention_ledger_ok", 1.0),
    ] {
        assert_eq!(seen.get(series), Some(value), "{series}\n{}", seen.text);
    }
    let mut conn = world.connect().await;
    let (entries, accepted, signed): (i64, f64, f64) = sqlx::query_as(
        "select (select size from retention.ledger), (select extract(epoch from accepted_at)::float8 from retention.requests where id = 2),
                (select extract(epoch from max(signed_at))::float8 from retention.ledger_checkpoints)",
    )
    .fetch_one(&mut conn)
    .await
    .unwrap();
    let entries = u32::try_from(entries).unwrap();
    assert!(entries > 0 && seen.get("retention_ledger_entries").unwrap() <= f64::from(entries), "{}", seen.text);
    assert!((seen.get("retention_oldest_open_request_timestamp_seconds").unwrap() - accepted).abs() < 1e-3, "{}", seen.text);
    assert!(seen.get("retention_ledger_checkpoint_timestamp_seconds").unwrap() <= signed + 1e-3, "{}", seen.text);

    // A request is past its date, a database is found to be an older one, and then the ledger to be another one.
    world.sql("update retention.holds set released_at = now(), released_by = 'x', release_reason = 'r' where account_id = 'b'").await;
    world.sql("update retention.guard set tripped_at = now(), reason = 'test'").await;
    world
        .sql("update retention.requests set accepted_at = now() - interval '40 days', due_by = now() - interval '1 second' where id = 2")
        .await;
    until_shown(port, "retention_requests{state=\"overdue\"}", 1.0).await;
    until_shown(port, "retention_holds", 1.0).await;
    // Who is not held any more is due, as soon as it is planned.
    until_shown(port, "retention_guard_candidates", 1.0).await;
    drop(daemon);
    assert!(entries < 1_000);
    world.sql("update retention.guard set ledger_behind = 1000").await;
    let _daemon = world.daemon();
    let seen = until_shown(port, "retention_ledger_ok", 0.0).await;
    assert_eq!(seen.get("retention_ledger_missing_entries"), seen.get("retention_ledger_entries").map(|had| 1000.0 - had), "{}", seen.text);
}

#[tokio::test]
async fn s8_the_limit_of_the_guard_is_the_lower_of_the_two_and_absent_without_one() {
    for (accounts, share, limit) in
        [("7", "50%", Some(2.0)), ("1", "50%", Some(1.0)), ("unlimited", "60%", Some(3.0)), ("unlimited", "100%", None)]
    {
        let port = free_port();
        let mut world = World::new().await;
        world.set("HTTP__OPS_LISTEN", &format!("127.0.0.1:{port}")).set("GUARD__SHARE_FLOOR", "5");
        world.set("GUARD__MAX_ACCOUNTS", accounts).set("GUARD__MAX_SHARE", share);
        for id in ["a", "b", "c", "d", "e"] {
            world.account(id, "null", "null", "null").await;
        }
        let daemon = world.daemon();
        daemon.wait_for("the first look", |e| e["event"] == "poll.completed").await;
        let seen = until_shown(port, "retention_guard_candidates", 0.0).await;
        assert_eq!(seen.get("retention_guard_limit"), limit, "{accounts} {share}\n{}", seen.text);
    }
}

#[tokio::test]
async fn s8_an_attempt_that_fails_is_counted_by_its_reason() {
    let port = free_port();
    let mut world = World::new().await;
    world.set("HTTP__OPS_LISTEN", &format!("127.0.0.1:{port}"));
    world
        .sql(
            "create function no() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$;
             create trigger no before delete on queue_messages for each row execute function no()",
        )
        .await;
    world.account("a", "null", OLD, "null").await;
    let daemon = world.daemon();
    daemon.wait_for("the failure", |e| e["event"] == "job.failed").await;
    let seen = scrape(port);
    assert!(seen.get(&format!("retention_job_failures_total{{{QUEUE},reason=\"other\"}}")).unwrap() >= 1.0, "{}", seen.text);
    assert!(seen.get("retention_batches_total{target=\"platform/queue_messages\",outcome=\"failed\"}").unwrap() >= 1.0, "{}", seen.text);
    assert_eq!(seen.get(&format!("retention_job_failures_total{{{CONFIGURATION},reason=\"other\"}}")), Some(0.0), "{}", seen.text);
}

#[tokio::test]
async fn s8_what_stands_in_the_way_shows_and_goes_again() {
    let port = free_port();
    let mut world = World::new().await;
    world.set("HTTP__OPS_LISTEN", &format!("127.0.0.1:{port}")).set("GUARD__MAX_ACCOUNTS", "1").set("VERIFIER__INTERVAL", "1s");
    assert!(world.cli(&["pause", "--reason", "test"]).status.success());
    world.account("late", "null", "now() - interval '60 days'", "null").await;
    let _daemon = world.daemon();
    until_shown(port, "retention_paused", 1.0).await;
    let seen = until_shown(port, &class("retention_overdue_jobs", QUEUE), 1.0).await;
    assert_eq!(seen.get(&class("retention_overdue_jobs", CONFIGURATION)), Some(1.0), "R28: what is paused becomes overdue");
    assert!(world.cli(&["resume", "--reason", "test"]).status.success());
    until_shown(port, "retention_paused", 0.0).await;
    let seen = until_shown(port, &class("retention_overdue_jobs", QUEUE), 0.0).await;
    assert_eq!(seen.get("retention_guard_tripped"), Some(0.0));

    // A late writer, and a job that no batch can finish.
    until_shown(port, &jobs(QUEUE, "completed"), 1.0).await;
    assert!(world.cli(&["pause", "--reason", "test"]).status.success());
    world.sql("insert into queue_messages (account_id, event_type) values ('late', 'WorkflowTask')").await;
    until_shown(port, &class("retention_residual_records", QUEUE), 1.0).await;
    assert!(world.cli(&["resume", "--reason", "test"]).status.success());
    until_shown(port, &class("retention_residual_records", QUEUE), 0.0).await;

    for id in ["b", "c"] {
        world.account(id, "null", OLD, "null").await;
    }
    until_shown(port, "retention_guard_tripped", 1.0).await;
}

/// A server of its own, because it is shut down.
#[tokio::test]
async fn s8_while_the_database_is_away_the_scrape_answers_with_what_the_process_knows() {
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    let (port, ops) = (free_port(), free_port());
    let start = || {
        let settings = vec![("port".to_owned(), port.to_string())];
        Server::start(&Options { dir: Some(dir.path().join("pg")), durable: false, settings, ..Options::default() })
            .expect("an embedded Postgres")
    };
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
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
    let _daemon = world.daemon();
    until_shown(ops, &jobs(QUEUE, "completed"), 1.0).await;

    server.stop().unwrap();
    let seen = until_shown(ops, "retention_database_up", 0.0).await;
    assert_eq!(
        seen.get(&format!("retention_records_deleted_total{{{QUEUE},target=\"platform/queue_messages\"}}")),
        Some(7.0),
        "{}",
        seen.text
    );
    for missing in [jobs(QUEUE, "completed"), "retention_paused".to_owned(), "retention_guard_tripped".to_owned()] {
        assert_eq!(seen.get(&missing), None, "nobody knows {missing} now (I6)");
    }
    until("failed looks are counted", async || {
        scrape(ops).get("retention_polls_total{kind=\"poll\",outcome=\"error\"}").unwrap_or(0.0)
            + scrape(ops).get("retention_polls_total{kind=\"resync\",outcome=\"error\"}").unwrap_or(0.0)
            >= 1.0
    })
    .await;
    let server = start();
    until_shown(ops, &jobs(QUEUE, "completed"), 1.0).await;
    server.stop().unwrap();
}
