//! What happens when there is more of something: more replicas, more history, more that is due at once.

use std::time::Duration;

use crate::{
    Bench, fill,
    lab::{COPY, HISTORY, Lab, completed, number, pause, sql},
    program::{self, Ran, Running},
    report::{Goal, Runs, figure, float, mib, rate},
};

/// The daemon, on ports that nobody else has.
fn daemon(lab: &Lab, database: &str, workers: Option<u32>) -> Running {
    let program = lab.program(database, "enforce").workers(workers);
    program.set("HTTP__LISTEN", "127.0.0.1:0").set("HTTP__OPS_LISTEN", "127.0.0.2:0").start(&["run"])
}

/// Two programs on one database, against one.
pub(crate) async fn replicas(bench: &mut Bench) {
    let (lab, sizes) = (&bench.lab, bench.sizes);
    lab.template("shared", &fill::uniform(sizes.shared, 10)).await;
    lab.plan("shared").await;
    let jobs = i64::from(sizes.shared);
    let workers = [Some(1), None];
    let mut rates = [[Runs::default(), Runs::default()], [Runs::default(), Runs::default()]];
    let mut rounds = bench.rounds(100);
    while rounds.next() {
        for (with, rates) in workers.iter().zip(&mut rates) {
            for (replicas, runs) in (1..).zip(rates) {
                drop(lab.copy("shared").await);
                // As daemons: `run --once` does not wait for what another replica holds.
                let started: Vec<_> = (0..replicas).map(|_| daemon(lab, COPY, *with)).collect();
                let mut conn = lab.connect(COPY).await;
                while completed(&mut conn).await < jobs {
                    assert!(started.iter().all(Running::lives), "a replica ended before the work did");
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
                let ran: Vec<Ran> = started.into_iter().map(Running::stop).collect();
                assert_eq!(ran.iter().map(|r| r.completed).sum::<i64>(), jobs);
                let from = ran.iter().map(|r| r.compared).min().expect("a replica");
                let to = ran.iter().map(|r| r.ended).max().expect("a replica");
                runs.add(rate(jobs, (to - from).to_std().expect("time goes forward")));
            }
        }
    }
    let [[one, two], [one_full, two_full]] = &rates;
    let what = format!("two replicas on {} due jobs of ten rows", figure(float(jobs)));
    bench.table.compare(&format!("{what}: one worker each"), "jobs/s", two, "one replica", one, Goal::AtLeast(1.3));
    bench.table.compare("– default workers each", "jobs/s", two_full, "one replica", one_full, Goal::AtLeast(1.0));
    lab.drop("shared").await;
}

/// The statement that claims jobs, with and without a long history.
pub(crate) async fn history(bench: &mut Bench) {
    /// Jobs that are done before, by the program, and then multiplied.
    const DONE: u32 = 1_000;
    const CLAIM: &str = "s.query like '%skip locked%' and s.query like '%lease_until%' and s.query like '%retention.jobs%' and s.query not like '%queue_messages%'";
    let (lab, sizes) = (&bench.lab, bench.sizes);
    lab.template("short", &fill::no_rows(0, DONE)).await;
    lab.program("short", "enforce").run();
    lab.fill("short", &fill::no_rows(DONE, sizes.shared)).await;
    lab.plan("short").await;
    lab.copy_to("short", "long").await;
    let finished = multiply_history(lab, "long", sizes.history / DONE).await;
    let (mut short, mut long) = (Runs::default(), Runs::default());
    let mut rounds = bench.rounds(50);
    while rounds.next() {
        for (template, runs) in [("short", &mut short), ("long", &mut long)] {
            drop(lab.copy(template).await);
            lab.forget_statements().await;
            let ran = lab.program(COPY, "enforce").workers(Some(1)).run();
            assert_eq!(ran.completed, i64::from(sizes.shared));
            runs.add(lab.statements(COPY, "coalesce(sum(total_exec_time) / sum(calls), 'NaN')", CLAIM).await);
            lab.worst(COPY).await;
        }
    }
    let what = format!("one claim with {} finished jobs in the history", figure(float(finished)));
    bench.table.compare(&what, "ms", &long, &format!("with {DONE}"), &short, Goal::AtMost(2.0));
    lab.drop("short").await;
    lab.drop("long").await;
}

/// Copies each finished job under other accounts, whatever columns the table has. Returns how many there are then.
async fn multiply_history(lab: &Lab, database: &str, times: u32) -> i64 {
    let mut conn = lab.connect(database).await;
    let (into, from): (String, String) = sqlx::query_as(
        "select string_agg(quote_ident(column_name), ', '),
                string_agg(case column_name when 'account_id' then 'account_id || ''-'' || n' when 'id' then 'id + n * 10000000::int8' else quote_ident(column_name) end, ', ')
         from information_schema.columns where table_schema = 'retention' and table_name = $1 and is_identity = 'NO' and is_generated = 'NEVER'",
    )
    .bind(HISTORY)
    .fetch_one(&mut conn)
    .await
    .expect("the columns");
    let finished = "completed_at is not null";
    let copies = format!(
        "insert into retention.{HISTORY} ({into}) select {from} from retention.{HISTORY}, generate_series(1, {times}) n where {finished}"
    );
    sql(&mut conn, &copies).await;
    sql(&mut conn, "vacuum analyze").await;
    number(&mut conn, &format!("select count(*) from retention.{HISTORY} where {finished}")).await
}

/// Resident memory: at rest, by what is due at once, and the most of all runs so far.
pub(crate) async fn memory(bench: &mut Bench) {
    let (lab, sizes) = (&bench.lab, bench.sizes);
    let so_far = program::take_memory();
    lab.template("idle", &fill::standing(sizes.memory[0])).await;
    let daemon = daemon(lab, "idle", None);
    pause(8).await;
    let idle = program::memory(daemon.pid, "VmRSS").expect("the daemon runs");
    daemon.stop();
    lab.drop("idle").await;
    program::take_memory();
    let mut peaks = Vec::new();
    for due in sizes.memory {
        lab.template("due", &fill::uniform(due, 1)).await;
        drop(lab.copy("due").await);
        let ran = lab.program(COPY, "enforce").run();
        assert_eq!(ran.completed, i64::from(due));
        peaks.push(program::take_memory());
    }
    lab.drop("due").await;
    let most = peaks.iter().copied().max().unwrap_or(0).max(so_far).max(idle);
    let [few, .., many] = sizes.memory;
    let (few, many) = (figure(f64::from(few)), figure(f64::from(many)));
    let runs = |kib: Option<&u64>| Runs::one(mib(kib.copied().unwrap_or(0)));
    bench.table.limit("resident memory, idle", "MiB", &runs(Some(&idle)), Goal::AtMost(64.0));
    let (with_few, with_many) = (runs(peaks.first()), runs(peaks.last()));
    bench.table.compare(
        &format!("– at most, {many} due at once"),
        "MiB",
        &with_many,
        &format!("{few} due at once"),
        &with_few,
        Goal::AtMost(1.25),
    );
    bench.table.limit("– at most, in all of the above", "MiB", &runs(Some(&most)), Goal::AtMost(64.0));
}
