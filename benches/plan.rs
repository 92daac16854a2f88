//! Planning: scheduling what newly ended, a poll that finds nothing, a full comparison; each against the plainest statement of the same reach.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use retentiond::{
    catalog,
    database::{Database, Purpose},
    planner::{Look, Planner},
    policy::Policy,
    safeguards::agreement,
};

use crate::{
    Bench, Rounds, fill,
    lab::{COPY, Lab, number, sql},
    report::{Goal, Runs, figure, float, millis, rate},
};

/// Subscriptions that all ended since the last look: jobs for all of them.
pub(crate) async fn schedule(bench: &mut Bench) {
    let (lab, sizes) = (&bench.lab, bench.sizes);
    lab.template("ended", &fill::standing(sizes.ended)).await;
    // The subjects are known before they end.
    lab.program("ended", "observe").queue_only().run();
    lab.fill("ended", "update feature_subscriptions set terminated_at = now() - random() * interval '1 hour'").await;
    sql(&mut lab.connect("ended").await, "vacuum full analyze feature_subscriptions").await;
    sql(&mut lab.connect("ended").await, "vacuum feature_subscriptions").await;
    let jobs = i64::from(sizes.ended);
    let (mut ours, mut insert) = (Runs::default(), Runs::default());
    let mut rounds = bench.rounds(120);
    while rounds.next() {
        drop(lab.copy("ended").await);
        lab.forget_statements().await;
        let ran = lab.program(COPY, "observe").queue_only().run();
        ours.add(rate(jobs, ran.comparison));
        assert_eq!(number(&mut lab.connect(COPY).await, "select count(*) from retention.jobs").await, jobs);
        lab.worst(COPY).await;

        let mut conn = lab.copy("ended").await;
        let began = Instant::now();
        sql(
            &mut conn,
            "insert into retention.jobs (account_id, feature, data_class, starting_point, started_at, retain_until, delete_by, ready_at, policy, seen)
             select account_id, feature, 'queue', 'feature_terminated', terminated_at, terminated_at + interval '7 days', terminated_at + interval '8 days',
                    terminated_at + interval '7 days', '0123456789abcdef', '{}'
             from feature_subscriptions where terminated_at is not null",
        )
        .await;
        insert.add(rate(jobs, began.elapsed()));
    }
    let what = format!("schedule jobs for {} newly terminated subscriptions", figure(float(jobs)));
    bench.table.compare(&what, "jobs/s", &ours, "one `INSERT … SELECT` of the same rows", &insert, Goal::AtLeast(0.5));
    lab.drop("ended").await;
}

/// What looks at so many subscriptions cost.
#[derive(Default, Clone)]
pub(crate) struct Looks {
    pub(crate) subscriptions: u32,
    pub(crate) poll: Runs,
    pub(crate) index: Runs,
    pub(crate) buffers: Runs,
    /// The whole comparison, the search for vanished rows included.
    pub(crate) whole: Runs,
    pub(crate) points: Runs,
    pub(crate) longest: Runs,
    pub(crate) count: Runs,
    pub(crate) count_both: Runs,
}

/// Polls and comparisons with nothing new.
pub(crate) async fn looks(lab: &Lab, subscriptions: u32, runs: usize, seconds: u64) -> Looks {
    const HERE: &str = "subscriptions";
    /// The statements that look for vanished rows.
    const VANISHED: &str = "s.query like '%retention.roster%'";
    const POLLS: u32 = 10;
    lab.template(HERE, &fill::subscriptions(subscriptions)).await;
    let mut conn = lab.connect(HERE).await;
    sql(&mut conn, &fill::ended_lately()).await;
    let planner = planner(lab, HERE, true).await;
    planner.look(Look::Resync).await.expect("the first comparison");
    sql(&mut conn, "vacuum analyze").await;
    sql(
        &mut conn,
        "select pg_prewarm(c) from unnest(array['feature_subscriptions', 'accounts', 'retention.jobs', 'retention.roster']::regclass[]) c",
    )
    .await;
    sql(&mut conn, "checkpoint").await;
    let mut looks = Looks { subscriptions, ..Looks::default() };
    let mut rounds = Rounds::new(runs, Duration::from_secs(seconds));
    while rounds.next() {
        lab.forget_statements().await;
        for _ in 0..POLLS {
            let began = Instant::now();
            let report = planner.look(Look::Poll).await.expect("a poll");
            looks.poll.add(millis(began.elapsed()));
            assert_eq!(report.scheduled, 0);
        }
        let touched: f64 = lab.statements(HERE, "coalesce(sum(shared_blks_hit + shared_blks_read), 0)::float8", "true").await;
        looks.buffers.add(touched / f64::from(POLLS));
        lab.worst(HERE).await;
        // As a value, as a program would send it: the plan depends on it.
        let since: String = sqlx::query_scalar("select (max(watermark) - interval '10 minutes')::text from retention.passes")
            .fetch_one(&mut conn)
            .await
            .unwrap();
        let newer = format!(
            "select s.account_id, s.terminated_at from feature_subscriptions s
             where s.feature = 'mps' and s.terminated_at > '{since}'
               and not exists (select 1 from retention.jobs j where j.account_id = s.account_id and j.feature = 'mps' and j.data_class = 'queue'
                                                                and j.started_at = s.terminated_at)"
        );
        for _ in 0..POLLS {
            let began = Instant::now();
            sql(&mut conn, &newer).await;
            looks.index.add(millis(began.elapsed()));
        }
        lab.forget_statements().await;
        let began = Instant::now();
        planner.look(Look::Resync).await.expect("a comparison");
        let whole = millis(began.elapsed());
        looks.whole.add(whole);
        let vanished: f64 = lab.statements(HERE, "coalesce(sum(total_exec_time), 0)", VANISHED).await;
        looks.points.add(whole - vanished);
        lab.worst(HERE).await;
        let began = Instant::now();
        number(&mut conn, "select count(*) from feature_subscriptions").await;
        looks.count.add(millis(began.elapsed()));
        let began = Instant::now();
        number(&mut conn, "select count(*) from accounts").await;
        looks.count_both.add(looks.count.median() + millis(began.elapsed()));
    }
    drop(planner);
    drop(conn);
    for _ in 0..runs.div_ceil(3) {
        looks.longest.add(longest(lab, HERE).await);
    }
    lab.drop(HERE).await;
    looks
}

/// The statement of a full comparison that takes longest. Without prepared statements, because the server counts a prepared FETCH only once.
async fn longest(lab: &Lab, database: &str) -> f64 {
    let planner = planner(lab, database, false).await;
    lab.forget_statements().await;
    planner.look(Look::Resync).await.expect("a comparison");
    lab.worst(database).await;
    lab.statements(database, "coalesce(max(max_exec_time), 0)", "true").await
}

pub(crate) fn poll(bench: &mut Bench, looks: &Looks) {
    let n = figure(f64::from(looks.subscriptions));
    let with = "partial index, later than watermark − overlap, anti-join to jobs";
    bench.table.compare(
        &format!("a poll with nothing new, {n} subscriptions, 1 % terminated"),
        "ms",
        &looks.poll,
        with,
        &looks.index,
        Goal::AtMost(2.0),
    );
    bench.table.limit("– buffers of one poll, all its statements", "", &looks.buffers, Goal::AtMost(500.0));
}

pub(crate) fn compare(bench: &mut Bench, looks: &Looks) {
    let n = figure(f64::from(looks.subscriptions));
    let (table, count) = (&mut bench.table, "`SELECT count(*)` over the subscriptions");
    table.compare(
        &format!("full comparison of {n} subscriptions: starting points against jobs"),
        "ms",
        &looks.points,
        count,
        &looks.count,
        Goal::AtMost(3.0),
    );
    table.compare("– with the search for vanished rows", "ms", &looks.whole, count, &looks.count, Goal::AtMost(8.0));
    let both = "`SELECT count(*)` over both tables it reads";
    table.compare("– the same", "ms", &looks.whole, both, &looks.count_both, Goal::None);
    table.limit("– longest statement", "ms", &looks.longest, Goal::AtMost(250.0));
}

async fn planner(lab: &Lab, database: &str, prepared: bool) -> Planner {
    let program = lab.program(database, "enforce");
    let config = if prepared { program } else { program.set("DATABASE__STATEMENT_CACHE", "0") }.config();
    let pool = Database::new(&config.database).expect("the address");
    let mut tx = pool.begin(Purpose::Read).await.expect("the server");
    let layout = catalog::inspect(&mut tx, &config).await.expect("the catalogue").0.expect("a sound layout");
    drop(tx);
    let policy = Arc::new(Policy::new(&config, &layout));
    let mut tx = pool.begin(Purpose::Write).await.expect("the server");
    agreement::agree(&mut tx, &policy.terms).await.expect("the policy");
    Database::commit(tx).await.expect("the commit");
    Planner::new(pool, config, Arc::new(layout), policy, Arc::default())
}
