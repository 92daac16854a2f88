//! `make bench`: the workload, the limits it is compared with, the ratios. Every figure is the median of interleaved runs on fresh copies.
//!
//! The limits are the database's own (the same deletes as one statement per thousand accounts; one `INSERT … SELECT`) and what a cron job
//! would do instead (`DELETE` and `COMMIT` for each account). `RETENTIOND_BENCH=quick` shrinks everything: does it run at all?
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a measurement prints what it found and stops where the world is not as it should be"
)]

mod fill;
mod lab;
mod report;

use std::{sync::Arc, time::Instant};

use retentiond::{
    catalog,
    database::{Database, Purpose},
    planner::{self, Look, Planner},
    policy::Policy,
    safeguards::agreement,
};
use sqlx::AssertSqlSafe;

use lab::{Lab, Work, number, sql};
use report::{Runs, Table, figure, rate};

/// How large everything is.
struct Sizes {
    runs: usize,
    /// Due accounts of the purge.
    due: u32,
    /// Of these, how many the loop of the cron job gets: it is slow, and its rate does not change.
    naive: u32,
    /// Due accounts of the memory figure.
    memory: [u32; 3],
    subscriptions: u32,
    ended: u32,
}

const FULL: Sizes =
    Sizes { runs: 3, due: 100_000, naive: 10_000, memory: [10_000, 100_000, 500_000], subscriptions: 1_000_000, ended: 200_000 };
const QUICK: Sizes = Sizes { runs: 1, due: 10_000, naive: 1_000, memory: [1_000, 10_000, 50_000], subscriptions: 100_000, ended: 20_000 };

fn main() {
    let quick = std::env::vars().any(|(name, value)| name == "RETENTIOND_BENCH" && value == "quick");
    let only: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let text = runtime.block_on(all(if quick { &QUICK } else { &FULL }, &only));
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/target/bench.md");
    std::fs::write(file, &text).unwrap();
    println!("\n{text}\nwritten to {file}");
}

async fn all(sizes: &Sizes, only: &[String]) -> String {
    let wanted = |name: &str| only.is_empty() || only.iter().any(|o| o == name);
    let lab = Lab::open();
    let mut table = Table::default();
    if wanted("purge") {
        purge(&lab, sizes, &mut table, false).await;
    }
    if wanted("skewed") {
        purge(&lab, sizes, &mut table, true).await;
    }
    if wanted("memory") {
        memory(&lab, sizes, &mut table).await;
    }
    if wanted("poll") {
        poll(&lab, sizes, &mut table).await;
    }
    if wanted("schedule") {
        schedule(&lab, sizes, &mut table).await;
    }
    table.finish(&machine(&lab).await)
}

/// Figure 1: complete due jobs, against the same deletes without any daemon.
async fn purge(lab: &Lab, sizes: &Sizes, table: &mut Table, skewed: bool) {
    let accounts = i64::from(sizes.due);
    lab.template("queues", &fill::queues(sizes.due, 10, skewed)).await;
    let mut fresh = lab.copy("queues").await;
    let due = "(select account_id from feature_subscriptions where terminated_at is not null)";
    let rows = number(&mut fresh, &format!("select count(*) from queue_messages where account_id in {due}")).await;
    let alive = number(&mut fresh, "select count(*) from queue_messages").await - rows;
    drop(fresh);

    let (mut ours, mut single, mut naive, mut peak) = (Runs::default(), Runs::default(), Runs::default(), Runs::default());
    let mut work = None;
    for _ in 0..sizes.runs {
        drop(lab.copy("queues").await);
        // Planning is another figure: what is measured here starts with jobs that are scheduled and due.
        lab.run_once("observe");
        let mut conn = lab.connect("copy").await;
        sql(&mut conn, "vacuum analyze retention.jobs").await;
        sql(&mut conn, "checkpoint").await;
        drop(conn);
        Work::reset(lab).await;
        let ran = lab.run_once("enforce");
        ours.add(rate(accounts, ran.purge()));
        peak.add(mib(ran.peak_kib));
        work = Some(Work::done(lab).await);
        let mut conn = lab.connect("copy").await;
        assert_eq!(number(&mut conn, "select count(*) from retention.jobs where state = 'completed'").await, accounts);
        assert_eq!(number(&mut conn, "select count(*) from queue_messages").await, alive);
        if std::env::vars().any(|(name, _)| name == "RETENTIOND_BENCH_WORST") {
            eprintln!("purge {:?} of {:?}\n{}", ran.purge(), ran.took, Work::worst(lab).await);
        }
        drop(conn);

        let mut conn = lab.copy("queues").await;
        sql(&mut conn, &format!("create table due as select account_id, row_number() over () as n from {due} d; analyze due")).await;
        let began = Instant::now();
        for first in (0..accounts).step_by(1_000) {
            sql(
                &mut conn,
                &format!(
                    "delete from queue_messages q using due d where d.n > {first} and d.n <= {first} + 1000 and q.account_id = d.account_id"
                ),
            )
            .await;
        }
        single.add(rate(accounts, began.elapsed()));
        assert_eq!(number(&mut conn, "select count(*) from queue_messages").await, alive);
        drop(conn);

        let mut conn = lab.copy("queues").await;
        sql(&mut conn, &format!("create table due as select account_id from {due} d order by md5(account_id) limit {}", sizes.naive)).await;
        let began = Instant::now();
        sql(
            &mut conn,
            "do $$ declare a text; begin
               for a in select account_id from due loop delete from queue_messages where account_id = a; commit; end loop;
             end $$",
        )
        .await;
        naive.add(rate(i64::from(sizes.naive), began.elapsed()));
    }
    let what = format!("{} due jobs, {} rows{}", figure(f64::from(sizes.due)), figure(float(rows)), if skewed { ", skewed" } else { "" });
    let work = work.expect("at least one run");
    let rows_per_job = float(rows) / float(accounts);
    table.row(&format!("purge: {what}"), "jobs/s", &ours.text(), None, &format!("{} rows/s", figure(ours.median() * rows_per_job)));
    table.row(
        "– one `DELETE … USING` per 1,000 accounts",
        "accounts/s",
        &single.text(),
        Some(ours.median() / single.median()),
        "the database's limit",
    );
    table.row(
        "– a loop: `DELETE` and `COMMIT` per account",
        "accounts/s",
        &naive.text(),
        Some(ours.median() / naive.median()),
        "what a cron job does",
    );
    let batches = format!("{} batches; {} bytes of log per row", work.batches, figure(float(work.wal) / float(rows)));
    table.row("– statements per job", "", &figure(float(work.statements) / float(accounts)), None, &batches);
    table.row("– peak resident memory", "MiB", &peak.text(), None, "");
}

/// Figure 2: memory does not grow with what is due.
async fn memory(lab: &Lab, sizes: &Sizes, table: &mut Table) {
    for due in sizes.memory {
        lab.template("queues", &fill::queues(due, 1, false)).await;
        drop(lab.copy("queues").await);
        let ran = lab.run_once("enforce");
        let accounts = i64::from(due);
        assert_eq!(number(&mut lab.connect("copy").await, "select count(*) from retention.jobs where state = 'completed'").await, accounts);
        let took = format!("planned and purged at {} jobs/s", figure(rate(accounts, ran.took)));
        table.row(&format!("memory: {} due at once", figure(f64::from(due))), "MiB peak", &figure(mib(ran.peak_kib)), None, &took);
    }
}

/// Figure 3: a poll with nothing new reads an index, not the table.
async fn poll(lab: &Lab, sizes: &Sizes, table: &mut Table) {
    lab.template("subscriptions", &fill::subscriptions(sizes.subscriptions)).await;
    let mut conn = lab.copy("subscriptions").await;
    let (planner, policy) = planner(lab, "copy").await;
    planner.look(Look::Resync).await.expect("the first comparison");
    sql(&mut conn, "vacuum analyze retention.jobs").await;
    let (mut cheap, mut full, mut scan) = (Runs::default(), Runs::default(), Runs::default());
    for _ in 0..sizes.runs.max(3) {
        let began = Instant::now();
        let report = planner.look(Look::Poll).await.expect("a poll");
        cheap.add(began.elapsed().as_secs_f64() * 1e3);
        assert_eq!(report.scheduled, 0);
        let began = Instant::now();
        planner.look(Look::Resync).await.expect("a comparison");
        full.add(began.elapsed().as_secs_f64() * 1e3);
        let began = Instant::now();
        number(&mut conn, "select count(*) from feature_subscriptions").await;
        scan.add(began.elapsed().as_secs_f64() * 1e3);
    }
    let mut buffers = 0;
    for class in &policy.classes {
        let query = planner::nominate(class, Look::Poll).replace("$1", "now() - interval '10 minutes'");
        let plan: serde_json::Value = sqlx::query_scalar(AssertSqlSafe(format!("explain (analyze, buffers, format json) {query}")))
            .fetch_one(&mut conn)
            .await
            .expect("a plan");
        let plan = &plan[0]["Plan"];
        buffers += plan["Shared Hit Blocks"].as_i64().unwrap() + plan["Shared Read Blocks"].as_i64().unwrap();
    }
    let whole = number(&mut conn, "select pg_relation_size('feature_subscriptions') / 8192").await;
    let what = format!("{} subscriptions", figure(f64::from(sizes.subscriptions)));
    table.row(&format!("poll: nothing new in {what}"), "ms", &cheap.text(), None, "");
    let share = format!("the table has {}", figure(float(whole)));
    table.row("– buffers it reads", "", &figure(float(buffers)), Some(float(buffers) / float(whole)), &share);
    table.row(
        &format!("full comparison: {what}"),
        "ms",
        &full.text(),
        Some(full.median() / scan.median()),
        "ratio to `SELECT count(*)` over the table",
    );
}

/// Figure 4: how fast jobs are scheduled.
async fn schedule(lab: &Lab, sizes: &Sizes, table: &mut Table) {
    lab.template("ended", &fill::ended(sizes.ended)).await;
    let jobs = 2 * i64::from(sizes.ended);
    let (mut ours, mut insert) = (Runs::default(), Runs::default());
    for _ in 0..sizes.runs {
        drop(lab.copy("ended").await);
        let (planner, _) = planner(lab, "copy").await;
        let began = Instant::now();
        let report = planner.look(Look::Resync).await.expect("a comparison");
        ours.add(rate(jobs, began.elapsed()));
        assert_eq!(i64::try_from(report.scheduled), Ok(jobs));
        drop(planner);

        let mut conn = lab.copy("ended").await;
        let began = Instant::now();
        for (class, days) in [("configuration", 30), ("queue", 7)] {
            sql(
                &mut conn,
                &format!(
                    "insert into retention.jobs (account_id, feature, data_class, starting_point, started_at, retain_until, delete_by, ready_at, policy, seen, records_deleted)
                     select account_id, 'mps', '{class}', 'feature_terminated', terminated_at, terminated_at + interval '{days} days',
                            terminated_at + interval '{days} days 24 hours', terminated_at + interval '{days} days', '0123456789abcdef', '{{}}', '{{}}'
                     from feature_subscriptions where terminated_at is not null"
                ),
            )
            .await;
        }
        insert.add(rate(jobs, began.elapsed()));
    }
    table.row(&format!("schedule: {} jobs", figure(float(jobs))), "jobs/s", &ours.text(), None, "");
    table.row(
        "– one `INSERT … SELECT` of the same rows",
        "jobs/s",
        &insert.text(),
        Some(ours.median() / insert.median()),
        "the database's limit",
    );
}

async fn planner(lab: &Lab, database: &str) -> (Planner, Arc<Policy>) {
    let config = lab.config(database);
    let pool = Database::new(&config.database).expect("the address");
    let mut tx = pool.begin(Purpose::Read).await.expect("the server");
    let layout = catalog::inspect(&mut tx, &config).await.expect("the catalogue").0.expect("a sound layout");
    drop(tx);
    let policy = Arc::new(Policy::new(&config, &layout));
    let mut tx = pool.begin(Purpose::Write).await.expect("the server");
    agreement::agree(&mut tx, &policy.terms).await.expect("the policy");
    Database::commit(tx).await.expect("the commit");
    (Planner::new(pool, config, Arc::new(layout), Arc::clone(&policy), Arc::default()), policy)
}

async fn machine(lab: &Lab) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        text.lines().find_map(|l| l.strip_prefix(name)?.split_once(':').map(|(_, v)| v.trim().to_owned())).unwrap_or_else(|| "?".to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let server: String = sqlx::query_scalar("select version()").fetch_one(&mut lab.admin().await).await.unwrap();
    let memory = field(&read("/proc/meminfo"), "MemTotal").split(' ').next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0);
    format!(
        "{cores} cores ({}), {} GiB, Linux {}; {}; durable, 1 GB of shared buffers, data in memory; server and daemon share the cores.",
        field(&read("/proc/cpuinfo"), "model name"),
        memory / 1_048_576,
        read("/proc/sys/kernel/osrelease").trim(),
        server.split(" on ").next().unwrap_or_default()
    )
}

fn mib(kib: u64) -> f64 {
    float(i64::try_from(kib).unwrap_or(i64::MAX)) / 1024.0
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
fn float(count: i64) -> f64 {
    count as f64
}
