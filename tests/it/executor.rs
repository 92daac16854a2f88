//! How due jobs are purged: counts, order, failures, locks, leases and crashes.

use std::{collections::BTreeMap, time::Duration};

use retentiond::{
    app::App,
    database::{Database, Purpose},
    executor::{
        Step, Worker,
        batch::{Batch, Extent, Verdict},
    },
    jobs::{self, Claimed, Counts, Next, Progress},
    planner::Look,
    policy::Class,
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::world::{ALL, World, left, until};

const OLD: &str = "now() - interval '31 days'";

/// What the configuration job of an account with [`ALL`] its data has deleted in the end.
fn configuration() -> Counts {
    counts(&[("platform/task_configurations", 5), ("platform/template_configurations", 3)])
}

fn counts(of: &[(&str, i64)]) -> Counts {
    of.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect()
}

fn words(of: &[(&str, &str)]) -> BTreeMap<String, String> {
    of.iter().map(|(name, word)| ((*name).to_owned(), (*word).to_owned())).collect()
}

async fn step(worker: &mut Worker) -> Step {
    worker.step().await.unwrap()
}

async fn exhaust(worker: &mut Worker) {
    while step(worker).await == Step::Worked {}
}

/// A world whose source has been looked at, with one worker and its class `configuration`.
async fn looked(world: &World) -> (App, Worker, Class, Batch) {
    let app = world.app().await.unwrap();
    app.planner().look(Look::Resync).await.unwrap();
    let worker = app.executor().worker("one".to_owned());
    let class = app.policy.classes[0].clone();
    let batch = Batch::new(&class, &app.policy);
    (app, worker, class, batch)
}

/// Admits what is due and claims it, as a worker does.
async fn claim(app: &App, class: &Class, worker: &str) -> Vec<Claimed> {
    let mut tx = app.database.begin(Purpose::Write).await.unwrap();
    retentiond::safeguards::admit(&mut tx, &app.config.guard).await.unwrap();
    let claimed = jobs::claim(&mut tx, &class.jobs, jobs::Lane::Fresh, worker, app.config.executor.lease, Duration::from_hours(24), 100)
        .await
        .unwrap();
    Database::commit(tx).await.unwrap();
    claimed
}

/// What a worker would record that believes to have found nothing left.
fn completed(job: &Claimed) -> Progress {
    Progress {
        id: job.id,
        fence: job.fence,
        next: Next::Complete,
        records_deleted: counts(&[("platform/template_configurations", 99)]),
        outcomes: BTreeMap::new(),
        began: true,
        looks: 0,
        error: None,
        requests: Vec::new(),
    }
}

async fn text(world: &World, query: &str) -> String {
    sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(&mut world.connect().await).await.unwrap()
}

/// A trigger on `table` that runs `body` for each record before it is deleted.
async fn before_delete(world: &World, table: &str, body: &str) {
    world
        .sql(&format!(
            "create function trap() returns trigger language plpgsql as $$ begin {body}; return old; end $$;
             create trigger trap before delete on {table} for each row execute function trap()"
        ))
        .await;
}

#[tokio::test]
async fn i8_counts_are_exact_over_many_batches_and_one_purge_is_one_attempt() {
    let mut world = World::new().await;
    world.set("EXECUTOR__MAX_ROWS_PER_BATCH", "3");
    for id in ["a", "b", "c", "d"] {
        world.account(id, "null", OLD, "null").await;
    }
    world.account("live", "null", "null", "null").await;
    world.run_passes().await.unwrap();
    for id in ["a", "b", "c", "d"] {
        assert_eq!(world.left(id).await, left(0, 0, 0, 2));
        let job = world.job(id, "configuration").await;
        assert_eq!(job.state, "completed");
        assert_eq!(job.records_deleted.0, configuration());
        assert_eq!(job.outcomes.0, words(&[("platform/task_configurations", "deleted"), ("platform/template_configurations", "deleted")]));
        assert_eq!((job.attempts, job.last_error, job.count_exact), (1, None, true));
        assert!(job.purge_began_at >= Some(job.retain_until) && job.completed_at >= job.purge_began_at);
        let queue = world.job(id, "queue").await;
        assert_eq!(queue.records_deleted.0, counts(&[("platform/queue_messages", 7)]));
        assert_eq!(queue.attempts, 1);
    }
    assert_eq!(world.left("live").await, ALL);
    assert_eq!(world.jobs("live").await.len(), 0);
}

#[tokio::test]
async fn r27_each_target_says_what_became_of_it_and_r29_every_target_is_named() {
    let world = World::new().await;
    world.account("mixed", "null", OLD, "null").await;
    world.account("empty", "null", OLD, "null").await;
    world.sql("delete from template_configurations where account_id = 'empty'").await;
    world.sql("delete from task_configurations where account_id = 'empty'").await;
    let (app, mut worker, ..) = looked(&world).await;
    // The customer is faster than the purge.
    world.sql("delete from template_configurations where account_id = 'mixed'").await;
    exhaust(&mut worker).await;
    let mixed = world.job("mixed", "configuration").await;
    assert_eq!(mixed.records_deleted.0, counts(&[("platform/task_configurations", 5), ("platform/template_configurations", 0)]));
    assert_eq!(
        mixed.outcomes.0,
        words(&[("platform/task_configurations", "deleted"), ("platform/template_configurations", "already gone")])
    );
    let empty = world.job("empty", "configuration").await;
    assert_eq!(empty.state, "completed");
    assert_eq!(empty.records_deleted.0, counts(&[("platform/task_configurations", 0), ("platform/template_configurations", 0)]));
    assert_eq!(
        empty.outcomes.0,
        words(&[("platform/task_configurations", "never existed"), ("platform/template_configurations", "never existed")])
    );
    app.database.close().await;
}

#[tokio::test]
async fn r27_what_nobody_could_look_at_when_it_was_scheduled_is_unknown() {
    let world = World::new().await;
    world.account("a", "null", OLD, "null").await;
    let (_app, mut worker, ..) = looked(&world).await;
    world.sql("update retention.jobs set seen = null; delete from template_configurations").await;
    exhaust(&mut worker).await;
    assert_eq!(
        world.job("a", "configuration").await.outcomes.0,
        words(&[("platform/task_configurations", "deleted"), ("platform/template_configurations", "unknown")])
    );
}

#[tokio::test]
async fn i13_one_huge_account_does_not_starve_the_small_ones_nor_they_it() {
    let mut world = World::new().await;
    world.set("EXECUTOR__MAX_ROWS_PER_BATCH", "20").set("EXECUTOR__CONCURRENCY", "1");
    world.account("huge", "null", OLD, "null").await;
    for i in 0..30 {
        world.account(&format!("small-{i}"), "null", OLD, "null").await;
    }
    world
        .sql(
            "insert into task_configurations (task_id, account_id, task_type, source_media_path, output_path)
             select 'huge-' || i, 'huge', 'transcode', '/in', '/out' from generate_series(1, 2000) i",
        )
        .await;
    world.run_passes().await.unwrap();
    let huge = world.job("huge", "configuration").await;
    assert_eq!(huge.records_deleted.0, counts(&[("platform/task_configurations", 2005), ("platform/template_configurations", 3)]));
    let mut last_small = huge.created_at;
    for i in 0..30 {
        let small = world.job(&format!("small-{i}"), "configuration").await;
        assert_eq!(small.records_deleted.0, configuration());
        assert!(small.completed_at < huge.completed_at, "small-{i} waited for the huge one");
        last_small = last_small.max(small.completed_at.unwrap());
    }
    assert!(huge.purge_began_at < Some(last_small), "the huge one waited for all the small ones");
}

#[tokio::test]
async fn i13_a_job_that_always_fails_stops_only_itself_and_r45_backs_off_up_to_the_cap() {
    let mut world = World::new().await;
    world.set("EXECUTOR__MAX_BACKOFF", "5s");
    for id in ["a", "bad", "c"] {
        world.account(id, "null", OLD, "null").await;
    }
    before_delete(
        &world,
        "task_configurations",
        "if old.account_id = 'bad' then raise exception 'the disk of % is on fire', old.account_id; end if",
    )
    .await;
    // The pauses exactly as they are recorded. The trigger then makes them an hour, so that how fast this machine is does not matter.
    world
        .sql(
            "create table pauses (at int generated always as identity, seconds float8);
             create function note() returns trigger language plpgsql security definer as
                 $$ begin insert into public.pauses (seconds) values (extract(epoch from new.ready_at - now())); new.ready_at = now() + interval '1 hour'; return new; end $$;
             create trigger note before update on retention.jobs for each row
                 when (new.account_id = 'bad' and new.data_class = 'configuration' and old.lease_until is not null and new.lease_until is null) execute function note()",
        )
        .await;
    let (app, mut worker, ..) = looked(&world).await;
    for attempt in 1..=5 {
        exhaust(&mut worker).await;
        let bad = world.job("bad", "configuration").await;
        assert_eq!((bad.state.as_str(), bad.attempts), ("scheduled", attempt));
        assert!(bad.last_error.as_ref().unwrap().contains("the disk of bad is on fire"), "{bad:?}");
        assert_eq!(bad.records_deleted.0, counts(&[("platform/task_configurations", 0), ("platform/template_configurations", 0)]));
        world.sql("update retention.jobs set ready_at = now() where account_id = 'bad'").await;
    }
    assert_eq!(world.left("bad").await, left(3, 5, 0, 2), "a failed batch leaves nothing half done");
    for id in ["a", "c"] {
        assert_eq!(world.left(id).await, left(0, 0, 0, 2));
        let job = world.job(id, "configuration").await;
        assert_eq!((job.attempts, job.last_error), (1, None));
    }
    assert_eq!(text(&world, "select string_agg(seconds::text, ' ' order by at) from pauses").await, "1 2 4 5 5");

    world.sql("drop trigger trap on task_configurations").await;
    exhaust(&mut worker).await;
    let bad = world.job("bad", "configuration").await;
    assert_eq!((bad.state.as_str(), bad.attempts, bad.records_deleted.0), ("completed", 6, configuration()));
    assert!(bad.last_error.is_some(), "the last error is kept for the record");
    app.database.close().await;
}

#[tokio::test]
async fn r33_once_exits_0_when_nothing_due_remains_and_1_when_a_due_job_failed() {
    let world = World::new().await;
    world.account("good", "null", OLD, "null").await;
    world.account("young", "null", "now() - interval '1 day'", "null").await;
    assert_eq!(world.cli(&["run", "--once"]).status.code(), Some(0));
    assert_eq!(world.left("good").await, left(0, 0, 0, 2));
    assert_eq!(world.left("young").await, ALL);
    world.account("bad", "null", OLD, "null").await;
    before_delete(&world, "task_configurations", "raise exception 'no'").await;
    assert_eq!(world.cli(&["run", "--once"]).status.code(), Some(1));
    assert_eq!(world.left("bad").await, left(3, 5, 0, 2));
    // It ignores the back-off of the run before.
    world.sql("update retention.jobs set ready_at = now() + interval '1 hour' where account_id = 'bad' and lease_until is null").await;
    world.sql("drop trigger trap on task_configurations").await;
    assert_eq!(world.cli(&["run", "--once"]).status.code(), Some(0));
    assert_eq!(world.left("bad").await, left(0, 0, 0, 2));
}

#[tokio::test]
async fn r33_once_exits_0_when_what_remains_is_held_paused_or_observed_and_13_when_the_guard_withheld_it() {
    let mut world = World::new().await;
    world.account("a", "null", OLD, "null").await;
    world.account("b", "null", OLD, "null").await;
    world.set("GUARD__MAX_ACCOUNTS", "1");
    assert_eq!(world.cli(&["run", "--once"]).status.code(), Some(13));
    assert_eq!((world.left("a").await, world.left("b").await), (ALL, ALL));
    world.set("MODE", "observe");
    assert_eq!(world.cli(&["run", "--once"]).status.code(), Some(0));
    world.set("MODE", "enforce");
    world.sql("update retention.guard set tripped_at = null, reason = null").await;
    assert_eq!(world.cli(&["pause", "--account", "a", "--reason", "test"]).status.code(), Some(0));
    assert_eq!(world.cli(&["hold", "place", "--account", "b", "--reason", "test"]).status.code(), Some(0));
    assert_eq!(world.cli(&["run", "--once"]).status.code(), Some(0));
    assert_eq!((world.left("a").await, world.left("b").await), (ALL, ALL));
}

/// Forty records at 0.15 s each do not fit into a statement of five seconds; a quarter of them does.
#[tokio::test]
async fn i2_a_batch_that_takes_too_long_is_followed_by_smaller_ones_within_the_configured_bound() {
    let mut world = World::new().await;
    world.set("EXECUTOR__MAX_ROWS_PER_BATCH", "40").set("EXECUTOR__CONCURRENCY", "1");
    world.account("slow", "null", OLD, "null").await;
    world
        .sql(
            "delete from template_configurations;
             insert into template_configurations (account_id, template_type, parameters) select 'slow', 'video', '{}' from generate_series(1, 40);
             create table batches (tx xid8)",
        )
        .await;
    before_delete(&world, "template_configurations", "perform pg_sleep(0.15); insert into public.batches values (pg_current_xact_id())")
        .await;
    world.run_passes().await.unwrap();
    assert_eq!(world.left("slow").await, left(0, 0, 0, 2));
    let job = world.job("slow", "configuration").await;
    assert_eq!(job.records_deleted.0, counts(&[("platform/task_configurations", 5), ("platform/template_configurations", 40)]));
    let largest: i64 = sqlx::query_scalar("select max(n) from (select count(*) as n from batches group by tx) b")
        .fetch_one(&mut world.connect().await)
        .await
        .unwrap();
    assert!(largest <= 20, "{largest} records in one batch");
    assert_eq!((job.attempts, job.last_error), (1, None));
}

#[tokio::test]
async fn i3_two_classes_share_a_table_and_each_deletes_only_its_own_rows() {
    let mut world = World::new().await;
    world.rules = format!(
        "{}\n[[data_classes]]\nfeature = \"mps\"\nname = \"notes\"\nstarting_points = [\"feature_terminated\"]\nretain_for = \"7d\"\ndelete_within = \"24h\"\n\
         [[data_classes.targets]]\nstore = \"platform\"\ntable = \"notes\"\naccount_column = \"account_id\"\nfeature_column = \"feature\"\n\
         [[data_classes]]\nfeature = \"live\"\nname = \"notes\"\nstarting_points = [\"feature_terminated\"]\nretain_for = \"7d\"\ndelete_within = \"24h\"\n\
         [[data_classes.targets]]\nstore = \"platform\"\ntable = \"notes\"\naccount_column = \"account_id\"\nfeature_column = \"feature\"\n",
        world.rules
    );
    world
        .sql(
            "create table notes (account_id text, feature text, note text); create index on notes (account_id);
             insert into notes select a, f, n::text from unnest(array['a', 'b']) a, unnest(array['mps', 'live', 'MPS']) f, generate_series(1, 4) n",
        )
        .await;
    world.account("a", "null", "now() - interval '8 days'", "null").await;
    world.account("b", "null", "null", "null").await;
    world.sql("insert into feature_subscriptions (account_id, feature) values ('a', 'live')").await;
    world.run_passes().await.unwrap();
    assert_eq!(world.count("notes where account_id = 'a' and feature = 'mps'").await, 0);
    assert_eq!(world.count("notes where account_id = 'a' and feature = 'live'").await, 4);
    assert_eq!(world.count("notes where account_id = 'a' and feature = 'MPS'").await, 4);
    assert_eq!(world.count("notes where account_id = 'b'").await, 12);
    let notes: Vec<_> = world.jobs("a").await.into_iter().filter(|j| j.data_class == "notes").collect();
    assert_eq!(notes.len(), 1, "the live feature was not terminated");
    assert_eq!((notes[0].feature.as_str(), notes[0].records_deleted.0.clone()), ("mps", counts(&[("platform/notes", 4)])));
}

/// Stops the daemon in the middle of a purge, inside a DELETE, and returns once it is dead and its transaction gone.
async fn killed_in_the_middle(world: &World) {
    // The fifth task of the account cannot be deleted while the gate is closed.
    before_delete(world, "task_configurations", "if old.task_id = 'gate' then perform pg_advisory_xact_lock(42); end if").await;
    world.sql("update task_configurations set task_id = 'gate' where ctid = (select max(ctid) from task_configurations where account_id = 'a')").await;
    let mut gate = world.connect().await;
    sqlx::query("select pg_advisory_lock(42)").execute(&mut gate).await.unwrap();
    let mut daemon = world.daemon();
    until("a batch waits at the gate", async || {
        world.count("pg_locks where locktype = 'advisory' and objid = 42 and not granted and database = (select oid from pg_database where datname = current_database())").await == 1
    })
    .await;
    assert_eq!(world.job("a", "configuration").await.state, "running");
    assert!(world.left("a").await.templates == 0, "a batch before it has been committed");
    daemon.signal(rustix::process::Signal::KILL);
    daemon.child.wait().unwrap();
    gate.close().await.unwrap();
    until("the server has noticed", async || {
        world.count("pg_stat_activity where datname = current_database() and application_name = 'retentiond'").await == 0
    })
    .await;
    assert_eq!(world.count("task_configurations where task_id = 'gate'").await, 1, "what was not committed did not happen");
}

#[tokio::test]
async fn i8_killed_in_the_middle_and_restarted_the_end_is_the_same() {
    let mut world = World::new().await;
    world.set("EXECUTOR__MAX_ROWS_PER_BATCH", "3").set("EXECUTOR__LEASE", "5s");
    world.account("a", "null", OLD, "null").await;
    world.account("live", "null", "null", "null").await;
    killed_in_the_middle(&world).await;
    let _daemon = world.daemon();
    until("the purge is complete", async || world.job("a", "configuration").await.state == "completed").await;
    assert_eq!(world.left("a").await.tasks, 0);
    let job = world.job("a", "configuration").await;
    assert_eq!(job.records_deleted.0, configuration());
    assert_eq!(job.attempts, 2, "the attempt that was cut off counts");
    assert_eq!(world.left("live").await, ALL);
}

#[tokio::test]
async fn i8_a_single_pass_after_a_crash_takes_back_what_the_dead_one_held() {
    let mut world = World::new().await;
    world.set("EXECUTOR__MAX_ROWS_PER_BATCH", "3").set("EXECUTOR__LEASE", "5s");
    world.account("a", "null", OLD, "null").await;
    killed_in_the_middle(&world).await;
    world.run_passes().await.unwrap();
    assert_eq!(world.left("a").await, left(0, 0, 0, 2));
    assert_eq!(world.job("a", "configuration").await.records_deleted.0, configuration());
}

#[tokio::test]
async fn i8_a_stale_worker_cannot_delete_record_or_complete_a_reclaimed_job() {
    let world = World::new().await;
    world.account("a", "null", OLD, "null").await;
    let (app, _, class, batch) = looked(&world).await;
    let stale = claim(&app, &class, "stale").await;
    assert_eq!(stale.len(), 1);
    world.sql("update retention.jobs set lease_until = now() - interval '1 s' where lease_until is not null").await;
    let fresh = claim(&app, &class, "fresh").await;
    assert_eq!((fresh.len(), fresh[0].id, fresh[0].attempts), (1, stale[0].id, 2));
    assert!(fresh[0].fence > stale[0].fence);

    let mut tx = app.database.begin(Purpose::Write).await.unwrap();
    batch.enter(&mut tx, &app.policy.pinned, &app.seen).await.unwrap();
    assert!(batch.license(&mut tx, &stale).await.unwrap().is_empty());
    for target in &class.targets {
        assert!(batch.delete(&mut tx, target, &stale.iter().collect::<Vec<_>>(), Extent::Slice(100)).await.unwrap().is_empty());
    }
    assert_eq!(jobs::record(&mut tx, &class.jobs, &[completed(&stale[0])]).await.unwrap().rows, 0);
    Database::commit(tx).await.unwrap();
    assert_eq!(world.left("a").await, ALL);
    assert_eq!(world.count("retention.done_marks").await, 0, "a purge that was not recorded leaves no mark");
    let job = world.job("a", "configuration").await;
    assert_eq!((job.state.as_str(), job.records_deleted.0.values().sum::<i64>()), ("running", 0));

    let mut tx = app.database.begin(Purpose::Write).await.unwrap();
    batch.enter(&mut tx, &app.policy.pinned, &app.seen).await.unwrap();
    assert_eq!(batch.license(&mut tx, &fresh).await.unwrap().get(&fresh[0].id), Some(&Verdict::Stands));
    assert_eq!(jobs::record(&mut tx, &class.jobs, &[completed(&fresh[0])]).await.unwrap().rows, 1);
    Database::commit(tx).await.unwrap();
    assert_eq!(world.count("retention.done_marks").await, 1);
    app.database.close().await;
}

#[tokio::test]
async fn i8_a_lease_that_lapsed_licenses_nothing_even_before_anybody_took_it_back() {
    let world = World::new().await;
    world.account("a", "null", OLD, "null").await;
    let (app, mut worker, class, batch) = looked(&world).await;
    let claimed = claim(&app, &class, "frozen").await;
    world.sql("update retention.jobs set lease_until = now() where lease_until is not null").await;
    let mut tx = app.database.begin(Purpose::Write).await.unwrap();
    batch.enter(&mut tx, &app.policy.pinned, &app.seen).await.unwrap();
    assert!(batch.license(&mut tx, &claimed).await.unwrap().is_empty());
    assert!(batch.delete(&mut tx, &class.targets[0], &[&claimed[0]], Extent::Slice(100)).await.unwrap().is_empty());
    Database::commit(tx).await.unwrap();
    exhaust(&mut worker).await;
    assert_eq!(world.left("a").await, left(0, 0, 0, 2));
    app.database.close().await;
}

#[tokio::test]
async fn i8_a_lease_in_force_is_not_taken_back() {
    let world = World::new().await;
    world.account("a", "null", OLD, "null").await;
    let (app, _, class, _) = looked(&world).await;
    let claimed = claim(&app, &class, "slow").await;
    app.executor().tidy().await.unwrap();
    let mut tx = app.database.begin(Purpose::Write).await.unwrap();
    assert_eq!(jobs::record(&mut tx, &class.jobs, &[completed(&claimed[0])]).await.unwrap().rows, 1);
    drop(tx);
    app.database.close().await;
}

async fn begin(world: &World, statements: &str) -> PgConnection {
    let mut platform = world.connect().await;
    sqlx::raw_sql(AssertSqlSafe(format!("begin; {statements}"))).execute(&mut platform).await.unwrap();
    platform
}

async fn run(connection: &mut PgConnection, statements: &str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(connection).await.map(drop)
}

#[tokio::test]
async fn r14_a_source_row_that_the_platform_holds_defers_the_job_and_withdraws_nothing() {
    let world = World::new().await;
    world.account("a", "null", OLD, "null").await;
    world.account("b", "null", OLD, "null").await;
    let (app, mut worker, ..) = looked(&world).await;
    let mut platform = begin(&world, "update feature_subscriptions set activated_at = now() where account_id = 'a'").await;
    exhaust(&mut worker).await;
    let job = world.job("a", "configuration").await;
    assert_eq!((job.state.as_str(), job.blocked_by.as_deref(), job.last_error), ("scheduled", Some("locked"), None));
    assert_eq!(world.left("a").await, ALL);
    assert_eq!(world.left("b").await, left(0, 0, 0, 2));
    app.planner().look(Look::Resync).await.unwrap();
    assert_eq!(world.job("a", "configuration").await.state, "scheduled", "what is locked is not withdrawn");
    run(&mut platform, "commit").await.unwrap();
    world.sql("update retention.jobs set ready_at = now() where lease_until is null").await;
    exhaust(&mut worker).await;
    assert_eq!(world.left("a").await, left(0, 0, 0, 2));
    assert_eq!(world.job("a", "configuration").await.records_deleted.0, configuration());
    app.database.close().await;
}

#[tokio::test]
async fn r14_records_that_the_platform_holds_are_skipped_and_deleted_after_it_let_go() {
    let world = World::new().await;
    world.account("a", "null", OLD, "null").await;
    let (app, mut worker, ..) = looked(&world).await;
    let mut platform = begin(&world, "update task_configurations set output_path = '/new' where ctid in (select ctid from task_configurations where account_id = 'a' limit 2)").await;
    exhaust(&mut worker).await;
    assert_eq!(world.left("a").await, left(0, 2, 0, 2));
    let job = world.job("a", "configuration").await;
    assert_eq!((job.state.as_str(), job.blocked_by.as_deref()), ("scheduled", Some("locked")));
    // It holds records and now wants the source row: it gets it at once, for no batch is under way.
    run(&mut platform, "update feature_subscriptions set activated_at = now() where account_id = 'a'; commit").await.unwrap();
    world.sql("update retention.jobs set ready_at = now() where lease_until is null").await;
    exhaust(&mut worker).await;
    assert_eq!(world.left("a").await, left(0, 0, 0, 2));
    let job = world.job("a", "configuration").await;
    assert_eq!((job.state.as_str(), job.records_deleted.0), ("completed", configuration()));
    app.database.close().await;
}

#[tokio::test]
async fn r14_a_table_that_the_platform_locks_defers_its_jobs_and_fails_none() {
    let world = World::new().await;
    for i in 0..8 {
        world.account(&format!("a{i}"), "null", OLD, "null").await;
    }
    let (app, mut worker, ..) = looked(&world).await;
    let mut platform = begin(&world, "lock table task_configurations in access exclusive mode").await;
    exhaust(&mut worker).await;
    let jobs: Vec<_> = retentiond::jobs::list(
        &mut world.connect().await,
        &jobs::Filter { data_class: Some("configuration".to_owned()), ..jobs::Filter::default() },
    )
    .await
    .unwrap();
    for job in jobs {
        assert_eq!((job.state.as_str(), job.blocked_by.as_deref(), job.last_error), ("scheduled", Some("locked"), None));
    }
    run(&mut platform, "commit").await.unwrap();
    world.sql("update retention.jobs set ready_at = now() where lease_until is null").await;
    exhaust(&mut worker).await;
    assert_eq!(world.count("task_configurations").await + world.count("template_configurations").await, 0);
    app.database.close().await;
}

/// The platform updates source rows and records in every order while everything is purged: none of its transactions may become a victim.
#[tokio::test]
async fn i14_the_platform_is_never_the_victim_of_a_deadlock() {
    let mut world = World::new().await;
    world.set("EXECUTOR__MAX_ROWS_PER_BATCH", "5").set("POLL__INTERVAL", "100ms");
    for i in 0..20 {
        world.account(&format!("a{i}"), "null", OLD, "null").await;
    }
    world.account("live", "null", "null", "null").await;
    world.sql(&format!("alter database {} set deadlock_timeout = '20ms'", world.database)).await;
    let _daemon = world.daemon();
    let orders = [
        [
            "feature_subscriptions set activated_at = now()",
            "task_configurations set output_path = '/x'",
            "template_configurations set template_type = 'audio'",
        ],
        [
            "template_configurations set template_type = 'audio'",
            "task_configurations set output_path = '/x'",
            "feature_subscriptions set activated_at = now()",
        ],
    ];
    let platform = orders.into_iter().enumerate().map(async |(offset, order)| {
        let mut c = world.connect().await;
        while world.count("retention.every_job where state = 'completed'").await < 40 {
            // Every second account each, so that the platform's own transactions never meet.
            for i in (offset..20).step_by(2) {
                run(&mut c, "begin").await?;
                for statement in order {
                    run(&mut c, &format!("update {statement} where account_id = 'a{i}'")).await?;
                }
                run(&mut c, "commit").await?;
            }
        }
        Ok::<_, sqlx::Error>(())
    });
    for done in futures_util::future::join_all(platform).await {
        done.expect("a transaction of the platform");
    }
    for i in 0..20 {
        assert_eq!(world.job(&format!("a{i}"), "configuration").await.records_deleted.0, configuration());
    }
    assert_eq!(world.left("live").await, ALL);
}

#[tokio::test]
async fn r25_records_that_do_not_go_keep_the_job_open_and_are_reported_after_three_looks() {
    let world = World::new().await;
    world.account("a", "null", OLD, "null").await;
    world
        .sql(
            "create function swallow() returns trigger language plpgsql as $$ begin return null; end $$;
             create trigger swallow before delete on task_configurations for each row execute function swallow()",
        )
        .await;
    let (app, mut worker, ..) = looked(&world).await;
    exhaust(&mut worker).await;
    let job = world.job("a", "configuration").await;
    assert_eq!((job.state.as_str(), job.blocked_by.as_deref()), ("scheduled", Some("undeletable")));
    assert!(job.last_error.unwrap().contains("platform/task_configurations"));
    assert_eq!(job.records_deleted.0, counts(&[("platform/task_configurations", 0), ("platform/template_configurations", 3)]));
    assert_eq!(world.left("a").await, left(0, 5, 0, 2));
    assert_eq!(world.count("retention.done_marks where data_class = 'configuration'").await, 0);
    world.sql("drop trigger swallow on task_configurations; update retention.jobs set ready_at = now() where lease_until is null").await;
    exhaust(&mut worker).await;
    assert_eq!(world.left("a").await, left(0, 0, 0, 2));
    assert_eq!(world.job("a", "configuration").await.records_deleted.0, configuration());
    app.database.close().await;
}

#[tokio::test]
async fn r45_retry_ends_a_back_off() {
    let mut world = World::new().await;
    world.set("EXECUTOR__MAX_BACKOFF", "1h");
    world.account("a", "null", OLD, "null").await;
    let daemon = world.daemon();
    until("it is purged once", async || world.count("retention.every_job where state = 'completed'").await == 2).await;
    world.account("b", "null", OLD, "null").await;
    before_delete(&world, "task_configurations", "raise exception 'no'").await;
    daemon.wait_for("the failure", |e| e["event"] == "job.failed").await;
    world.sql("drop trigger trap on task_configurations; update retention.jobs set ready_at = now() + interval '1 hour' where lease_until is null and data_class = 'configuration'").await;
    let id = world.job("b", "configuration").await.id;
    assert!(world.cli(&["jobs", "retry", &id]).status.success());
    until("it is purged", async || world.left("b").await == left(0, 0, 0, 2)).await;
}

/// Several whole accounts have a quarter of a second; a single one that takes longer is purged as a slice, which has more.
#[tokio::test]
async fn i2_an_account_whose_statement_is_slow_is_purged() {
    let world = World::new().await;
    for id in ["a", "b"] {
        world.account(id, "null", OLD, "null").await;
    }
    world
        .sql(
            "create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(0.3); return null; end $$;
             create trigger slow before delete on queue_messages for each statement execute function slow()",
        )
        .await;
    world.run_passes().await.unwrap();
    assert_eq!((world.left("a").await, world.left("b").await), (left(0, 0, 0, 2), left(0, 0, 0, 2)));
    assert_eq!(world.count("retention.history where last_error is not null").await, 0);
}

/// A batch that took long with its first target goes on with the others later, and takes nobody's records there for held by somebody.
#[tokio::test]
async fn i2_a_slow_target_keeps_no_other_waiting() {
    let world = World::new().await;
    for id in ["both", "templates"] {
        world.account(id, "null", OLD, "null").await;
    }
    world
        .sql(
            "delete from task_configurations where account_id = 'templates';
             drop index task_configurations_account_id_idx, template_configurations_account_id_idx;
             create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(0.3); return null; end $$;
             create trigger slow before delete on task_configurations for each statement execute function slow();
             create trigger slow before delete on template_configurations for each statement execute function slow()",
        )
        .await;
    world.run_passes().await.unwrap();
    assert_eq!((world.left("both").await, world.left("templates").await), (left(0, 0, 0, 2), left(0, 0, 0, 2)));
    let history = "retention.history where data_class = 'configuration'";
    assert_eq!(world.count(&format!("{history} and attempts = 1")).await, 2);
}

/// What a batch leaves behind that ends its own connection comes back job by job, and whoever did it stops nobody but itself.
#[tokio::test]
async fn i13_a_job_that_kills_its_connection_does_not_take_its_neighbours_along() {
    let world = World::new().await;
    for id in ["a", "bad", "z"] {
        world.account(id, "null", OLD, "null").await;
    }
    world
        .sql(
            "create function kill() returns trigger language plpgsql security definer as
                 $$ begin if old.account_id = 'bad' then perform pg_terminate_backend(pg_backend_pid()); end if; return old; end $$;
             create trigger kill before delete on queue_messages for each row execute function kill()",
        )
        .await;
    let app = world.app().await.unwrap();
    app.planner().look(Look::Resync).await.unwrap();
    let mut worker = app.executor().worker("one".to_owned());
    let mut failures = 0;
    for _ in 0..8 {
        failures += i32::from(worker.step().await.is_err());
        world.sql("update retention.jobs set lease_until = now() where lease_until is not null").await;
    }
    assert!(failures > 1, "it is tried again");
    assert_eq!((world.left("a").await, world.left("z").await), (left(0, 0, 0, 2), left(0, 0, 0, 2)));
    assert_eq!(world.left("bad").await.messages, 7);
}

/// One class whose jobs cannot be claimed keeps no other from being purged.
/// Two classes with work, each with a large account under way: turns of classes and turns of large accounts must not fall together.
#[tokio::test]
async fn i13_large_accounts_of_two_classes_keep_nobody_waiting() {
    let mut world = World::new().await;
    world.set("EXECUTOR__MAX_ROWS_PER_BATCH", "10");
    world.account("huge", "null", "now() - interval '40 days'", "null").await;
    world
        .sql(
            "insert into queue_messages (account_id, event_type) select 'huge', 'WorkflowTask' from generate_series(1, 2000);
             insert into task_configurations (task_id, account_id, task_type, source_media_path, output_path)
             select 'huge-' || n, 'huge', 'WorkflowTask', '', '' from generate_series(1, 2000) n",
        )
        .await;
    let app = world.app().await.unwrap();
    app.planner().look(Look::Resync).await.unwrap();
    let mut worker = app.executor().worker("one".to_owned());
    while world.count("retention.jobs where purge_began_at is null").await > 0 {
        step(&mut worker).await;
    }
    world.account("new", "null", "now() - interval '39 days'", "null").await;
    app.planner().look(Look::Resync).await.unwrap();
    for _ in 0..16 {
        step(&mut worker).await;
    }
    assert_eq!(world.left("new").await, left(0, 0, 0, 2));
    assert_eq!(
        (world.job("huge", "queue").await.state, world.job("huge", "configuration").await.state),
        ("scheduled".into(), "scheduled".into())
    );
}

#[tokio::test]
async fn i13_a_class_whose_claim_fails_keeps_no_other_waiting() {
    let world = World::new().await;
    world.account("a", "null", OLD, "null").await;
    world
        .sql(
            "create function trap() returns trigger language plpgsql as
                 $$ begin if new.data_class = 'configuration' then raise exception 'not this one'; end if; return new; end $$;
             create trigger trap before update on retention.jobs for each row execute function trap()",
        )
        .await;
    let app = world.app().await.unwrap();
    app.planner().look(Look::Resync).await.unwrap();
    let mut worker = app.executor().worker("one".to_owned());
    let steps = [worker.step().await.is_ok(), worker.step().await.is_ok()];
    assert!(steps.contains(&false) && steps.contains(&true));
    assert_eq!(world.left("a").await.messages, 0);
}

/// A batch that deleted nothing has begun nothing, whatever it met.
#[tokio::test]
async fn r21_a_batch_that_only_met_locks_has_not_begun() {
    let world = World::new().await;
    world.account("a", "null", OLD, "null").await;
    let app = world.app().await.unwrap();
    app.planner().look(Look::Resync).await.unwrap();
    let mut holder = world.connect().await;
    sqlx::raw_sql("begin; select from queue_messages where account_id = 'a' for update").execute(&mut holder).await.unwrap();
    let mut worker = app.executor().worker("one".to_owned());
    while worker.step().await.unwrap() == Step::Worked {}
    let job = world.job("a", "queue").await;
    assert_eq!((job.state.as_str(), job.blocked_by.as_deref(), job.purge_began_at), ("scheduled", Some("locked"), None));
}
