//! Purging: skewed queues, even ones, and jobs that find nothing, each against what the database can do at most and against other queues.

use std::time::Instant;

use crate::{
    Bench, fill,
    lab::{COPY, Lab, completed, number, sql},
    peers::Peers,
    program::Ran,
    report::{Goal, Runs, figure, float, millis, rate},
};

/// The due accounts, as a table that a measurement may read.
const DUE: &str = "create table due as select account_id, row_number() over () as n from feature_subscriptions where terminated_at is not null; analyze due";

/// How much is due in a template and how much is not.
struct Holds {
    accounts: i64,
    rows: i64,
    alive: i64,
}

async fn holds(lab: &Lab, template: &str) -> Holds {
    let mut conn = lab.connect(template).await;
    let due = "select account_id from feature_subscriptions where terminated_at is not null";
    let accounts = number(&mut conn, &format!("select count(*) from ({due}) d")).await;
    let rows = number(&mut conn, &format!("select count(*) from queue_messages where account_id in ({due})")).await;
    let alive = number(&mut conn, "select count(*) from queue_messages").await - rows;
    Holds { accounts, rows, alive }
}

/// Purges a fresh copy with so many workers, or as many as there are by default, and makes sure that everything was done.
async fn purge(lab: &Lab, template: &str, holds: &Holds, workers: Option<u32>) -> Ran {
    drop(lab.copy(template).await);
    lab.forget_statements().await;
    let ran = lab.program(COPY, "enforce").workers(workers).run();
    let mut conn = lab.connect(COPY).await;
    assert_eq!(completed(&mut conn).await, holds.accounts);
    assert_eq!(number(&mut conn, "select count(*) from queue_messages").await, holds.alive);
    lab.worst(COPY).await;
    ran
}

/// Deletes the same rows of a fresh copy, so many accounts in one statement.
async fn delete(lab: &Lab, template: &str, holds: &Holds, step: i64) -> f64 {
    let mut conn = lab.copy(template).await;
    sql(&mut conn, DUE).await;
    let began = Instant::now();
    for first in (0..holds.accounts).step_by(usize::try_from(step).expect("a step")) {
        let upto = first + step;
        let delete =
            format!("delete from queue_messages q using due d where d.n > {first} and d.n <= {upto} and q.account_id = d.account_id");
        sql(&mut conn, &delete).await;
    }
    let rate = rate(holds.accounts, began.elapsed());
    assert_eq!(number(&mut conn, "select count(*) from queue_messages").await, holds.alive);
    rate
}

/// Few accounts of very different sizes.
pub(crate) async fn skewed(bench: &mut Bench) {
    bench.skewed().await;
    let lab = &bench.lab;
    let holds = holds(lab, "skewed").await;
    let each = float(holds.rows) / float(holds.accounts);
    let (mut four, mut one, mut single) = (Runs::default(), Runs::default(), Runs::default());
    let (mut longest, mut longest_one) = (Runs::default(), Runs::default());
    let mut rounds = bench.rounds(120);
    while rounds.next() {
        let ran = purge(lab, "skewed", &holds, None).await;
        four.add(rate(holds.rows, ran.purge()));
        longest.add(millis(ran.longest));
        single.add(delete(lab, "skewed", &holds, holds.accounts).await * each);
        let ran = purge(lab, "skewed", &holds, Some(1)).await;
        one.add(rate(holds.rows, ran.purge()));
        longest_one.add(millis(ran.longest));
    }
    let total = figure(float(holds.rows + holds.alive));
    let what =
        format!("purge {} rows of {} due accounts among {total} rows, skewed", figure(float(holds.rows)), figure(float(holds.accounts)));
    let with = "one single `DELETE … USING` the due accounts";
    bench.table.compare(&format!("{what}: default workers (4)"), "rows/s", &four, with, &single, Goal::AtLeast(1.1));
    bench.table.compare("– one worker", "rows/s", &one, with, &single, Goal::AtLeast(0.8));
    bench.table.limit("– longest batch, default workers", "ms", &longest, Goal::AtMost(250.0));
    bench.table.limit("– longest batch, one worker", "ms", &longest_one, Goal::AtMost(250.0));
}

/// Many accounts with ten rows each.
pub(crate) async fn uniform(bench: &mut Bench, peers: &Result<Peers, String>) {
    let (lab, sizes) = (&bench.lab, bench.sizes);
    lab.template("queues", &fill::uniform(sizes.due, 10)).await;
    lab.plan("queues").await;
    let holds = holds(lab, "queues").await;
    let (mut ours, mut single, mut theirs, mut longest) = (Runs::default(), Runs::default(), Runs::default(), Runs::default());
    let mut why = peers.as_ref().err().cloned();
    let mut rounds = bench.rounds(140);
    while rounds.next() {
        let ran = purge(lab, "queues", &holds, None).await;
        ours.add(rate(holds.accounts, ran.purge()));
        longest.add(millis(ran.longest));
        single.add(delete(lab, "queues", &holds, 1_000).await);
        if let (Ok(peers), None) = (peers, &why) {
            let mut conn = lab.copy("queues").await;
            sql(&mut conn, DUE).await;
            sql(&mut conn, &format!("delete from due where n > {}", sizes.peer)).await;
            match peers.drain("graphile.mjs", &lab.url(COPY), &[]) {
                Ok(drained) => {
                    let gone = number(&mut conn, "select count(*) from queue_messages").await;
                    assert_eq!(gone, holds.alive + holds.rows - 10 * i64::from(sizes.peer), "the peer deletes what it says");
                    theirs.add(drained.rate());
                }
                Err(error) => why = Some(error),
            }
        }
    }
    let what = format!("complete {} due jobs of ten rows each", figure(float(holds.accounts)));
    bench.table.compare(&what, "jobs/s", &ours, "the same deletes, one statement per 1,000 accounts", &single, Goal::AtLeast(0.5));
    match why {
        None => {
            bench.table.compare("– the same", "jobs/s", &ours, "graphile-worker, one `DELETE` per job", &theirs, Goal::AtLeast(5.0));
        }
        Some(why) => bench.table.missing("– graphile-worker, one `DELETE` per job", &why),
    }
    bench.table.limit("– longest batch", "ms", &longest, Goal::AtMost(250.0));
    lab.drop("queues").await;
}

/// Jobs of accounts that have nothing to delete: what remains is what a job itself costs.
pub(crate) async fn empty(bench: &mut Bench, peers: &Result<Peers, String>) {
    let (lab, sizes) = (&bench.lab, bench.sizes);
    lab.template("bare", &fill::no_rows(0, sizes.empty)).await;
    lab.template("empty", &fill::no_rows(0, sizes.empty)).await;
    lab.plan("empty").await;
    let holds = holds(lab, "empty").await;
    let (mut ours, mut queue, mut theirs) = (Runs::default(), Runs::default(), Runs::default());
    let mut why = peers.as_ref().err().cloned();
    let mut rounds = bench.rounds(50);
    while rounds.next() {
        ours.add(rate(holds.accounts, purge(lab, "empty", &holds, None).await.purge()));
        queue.add(bare_queue(lab, holds.accounts).await);
        if let (Ok(peers), None) = (peers, &why) {
            drop(lab.copy("bare").await);
            match peers.drain("pgboss.mjs", &lab.url(COPY), &[sizes.empty.to_string()]) {
                Ok(drained) => theirs.add(drained.rate()),
                Err(error) => why = Some(error),
            }
        }
    }
    let what = format!("complete {} due jobs of accounts without rows", figure(float(holds.accounts)));
    bench.table.compare(&what, "jobs/s", &ours, "a bare queue: claim 500, `DELETE` the job rows, one client", &queue, Goal::AtLeast(0.5));
    match why {
        None => {
            bench.table.compare("– the same", "jobs/s", &ours, "pg-boss, jobs that do nothing, 500 at a time", &theirs, Goal::AtLeast(1.0));
        }
        Some(why) => bench.table.missing("– pg-boss, jobs that do nothing", &why),
    }
    lab.drop("bare").await;
    lab.drop("empty").await;
}

/// The least that a queue in a database does: claim 500 jobs, delete their rows; two transactions.
async fn bare_queue(lab: &Lab, jobs: i64) -> f64 {
    let mut conn = lab.copy("bare").await;
    sql(
        &mut conn,
        &format!(
            "create table job (id bigint generated always as identity primary key, account_id text not null, run_at timestamptz not null,
                               state int2 not null default 0, attempts int2 not null default 0, locked_at timestamptz, locked_by text, payload jsonb);
             insert into job (account_id, run_at, payload) select account_id, now() - interval '1 hour', jsonb_build_object('account', account_id)
                 from feature_subscriptions limit {jobs};
             create index on job (run_at, id) where state = 0;"
        ),
    )
    .await;
    sql(&mut conn, "vacuum analyze job").await;
    sql(&mut conn, "checkpoint").await;
    let claim = "update job set state = 1, locked_at = now(), locked_by = 'one', attempts = attempts + 1
                 where id = any(array(select id from job where state = 0 and run_at <= now() order by run_at, id limit 500 for update skip locked))
                 returning id";
    let began = Instant::now();
    loop {
        let ids: Vec<i64> = sqlx::query_scalar(claim).fetch_all(&mut conn).await.expect("a claim");
        if ids.is_empty() {
            break;
        }
        sqlx::query("delete from job where id = any($1)").bind(ids).execute(&mut conn).await.expect("a delete");
    }
    let rate = rate(jobs, began.elapsed());
    assert_eq!(number(&mut conn, "select count(*) from job").await, 0);
    rate
}
