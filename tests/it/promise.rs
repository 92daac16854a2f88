//! The table of the promise: each clause on both sides of its boundary, for every combination of the three starting points.

use std::{collections::BTreeMap, time::Duration};

use retentiond::jobs::{self, Job};
use sqlx::{AssertSqlSafe, Connection};

use crate::world::{ALL, Left, World, left, until};

/// What one starting point can be: a letter, the instant in SQL, and whether a period of 7 and of 30 days is over.
const INSTANTS: [(&str, &str, bool, bool); 6] = [
    ("absent", "null", false, false),
    ("inside7", "now() - interval '167 hours 50 minutes'", false, false),
    ("past7", "now() - interval '168 hours 1 second'", true, false),
    ("inside30", "now() - interval '719 hours 50 minutes'", true, false),
    ("past30", "now() - interval '720 hours 1 second'", true, true),
    ("future", "now() + interval '72 hours'", false, false),
];

#[tokio::test]
async fn every_combination_of_the_three_starting_points_leaves_exactly_what_the_promise_says() {
    let world = World::new().await;
    let instants: Vec<String> = INSTANTS.iter().map(|(name, at, ..)| format!("('{name}', ({at})::timestamptz)")).collect();
    // All 216 in one transaction, so that one now() dates them all.
    world
        .sql(&format!(
            "begin;
             create temporary table combination as with i(name, at) as (values {})
                 select concat_ws('/', d.name, t.name, c.name) as id, d.at as deleted, t.at as terminated, c.at as disabled from i d, i t, i c;
             insert into accounts (account_id, region, deleted_at) select id, 'ap-singapore', deleted from combination;
             insert into feature_subscriptions (account_id, feature, terminated_at, cmq_disabled_at) select id, 'mps', terminated, disabled from combination;
             insert into template_configurations (account_id, template_type, parameters) select id, 'video', '{{}}' from combination, generate_series(1, 3);
             insert into task_configurations (task_id, account_id, task_type, source_media_path, output_path)
                 select id || i, id, 'transcode', '/in', '/out' from combination, generate_series(1, 5) i;
             insert into queue_messages (account_id, event_type) select id, 'WorkflowTask' from combination, generate_series(1, 7);
             insert into media_objects (account_id, kind) select id, 'source' from combination, generate_series(1, 2);
             commit",
            instants.join(", ")
        ))
        .await;
    world.run_passes().await.unwrap();
    let lefts: Vec<(String, i64, i64, i64, i64)> = sqlx::query_as(
        "select account_id, (select count(*) from template_configurations t where t.account_id = a.account_id),
                (select count(*) from task_configurations t where t.account_id = a.account_id),
                (select count(*) from queue_messages t where t.account_id = a.account_id),
                (select count(*) from media_objects t where t.account_id = a.account_id) from accounts a",
    )
    .fetch_all(&mut world.connect().await)
    .await
    .unwrap();
    let lefts: BTreeMap<String, Left> = lefts.into_iter().map(|(id, a, b, c, d)| (id, left(a, b, c, d))).collect();
    for (d, _, d7, d30) in INSTANTS {
        for (t, _, t7, t30) in INSTANTS {
            for (c, _, c7, _) in INSTANTS {
                let id = format!("{d}/{t}/{c}");
                let (templates, tasks) = if d30 || t30 { (0, 0) } else { (3, 5) };
                let messages = if d7 || t7 || c7 { 0 } else { 7 };
                assert_eq!(lefts[&id], left(templates, tasks, messages, 2), "{id}");
            }
        }
    }
    // Each job is for the earliest that stands, and its dates are exact.
    let wrong = "(select a.account_id, j.data_class from accounts a join feature_subscriptions f using (account_id)
         cross join lateral (values ('configuration', least(a.deleted_at, f.terminated_at), interval '720 hours'),
                                    ('queue', least(a.deleted_at, f.terminated_at, f.cmq_disabled_at), interval '168 hours')) w(class, since, period)
         left join retention.every_job j on j.account_id = a.account_id and j.data_class = w.class
         where (w.since is null) <> (j.id is null) or j.started_at <> w.since or j.retain_until <> w.since + w.period
            or j.delete_by <> w.since + w.period + interval '24 hours'
            or (j.state = 'completed') <> (w.since + w.period <= now()) or j.state not in ('scheduled', 'completed')) wrong";
    assert_eq!(world.count(wrong).await, 0, "jobs that do not follow from the source");
    // Six accounts have nothing that counts for configuration, one of them nothing at all.
    assert_eq!(world.count("retention.every_job").await, (216 - 6) + (216 - 1));
}

#[tokio::test]
async fn of_several_starting_points_the_earliest_counts_and_is_named() {
    let world = World::new().await;
    for (id, deleted, terminated, disabled, configuration, queue) in [
        ("d first", 35, 34, 33, "account_deleted", "account_deleted"),
        ("t first", 34, 35, 33, "feature_terminated", "feature_terminated"),
        ("c first", 34, 33, 35, "account_deleted", "cmq_disabled"),
    ] {
        let ago = |days: i32| format!("now() - interval '{days} days'");
        world.account(id, &ago(deleted), &ago(terminated), &ago(disabled)).await;
        world.run_passes().await.unwrap();
        assert_eq!(world.job(id, "configuration").await.starting_point, configuration);
        assert_eq!(world.job(id, "queue").await.starting_point, queue);
        assert_eq!(world.left(id).await, left(0, 0, 0, 2));
    }
}

#[tokio::test]
async fn i1_a_job_is_claimed_at_its_microsecond_and_not_one_before() {
    let world = World::new().await;
    let app = world.app().await.unwrap();
    // The first look makes the guard for this server.
    app.planner().look(retentiond::planner::Look::Resync).await.unwrap();
    let class = &app.policy.classes[0].jobs;
    // Within one transaction now() stands still, so both sides of the boundary can be seen at once.
    let mut connection = world.connect().await;
    let mut tx = connection.begin().await.unwrap();
    sqlx::query(
        "insert into retention.jobs (account_id, feature, data_class, starting_point, started_at, retain_until, delete_by, ready_at, admitted_at, policy)
         select id, 'mps', 'configuration', 'account_deleted', now() - interval '720 hours', due, due + interval '1 day', now() - interval '1 day', now(), $1
         from (values ('before', now() - interval '1 microsecond'), ('at', now()), ('after', now() + interval '1 microsecond')) v(id, due)",
    )
    .bind(&class.policy)
    .execute(&mut *tx)
    .await
    .unwrap();
    let mut claimed: Vec<String> =
        jobs::claim(&mut tx, class, jobs::Lane::Fresh, "w", Duration::from_secs(30), Duration::from_hours(24), 10)
            .await
            .unwrap()
            .into_iter()
            .map(|job| job.account_id)
            .collect();
    claimed.sort();
    assert_eq!(claimed, ["at", "before"]);

    // The predicate that stands in the DELETE itself draws the same line, whoever claimed the job.
    sqlx::query("update retention.jobs set lease_until = now() + interval '1 hour', fence = 1").execute(&mut *tx).await.unwrap();
    let licensed =
        format!("select j.account_id from retention.jobs j, lateral (select j.id, j.fence) b where {} order by 1", class.licensed("j"));
    let licensed: Vec<String> = sqlx::query_scalar(AssertSqlSafe(licensed)).fetch_all(&mut *tx).await.unwrap();
    assert_eq!(licensed, ["at", "before"]);
}

#[tokio::test]
async fn a_day_has_24_hours_even_where_clocks_change() {
    let world = World::new().await;
    world.sql(&format!("alter database {} set timezone = 'America/New_York'", world.database)).await;
    // Thirty days across the spring and the autumn change of 2025: 719 and 721 hours on a wall clock there.
    world.account("spring", "null", "'2025-03-01 12:00:00 America/New_York'", "null").await;
    world.account("autumn", "null", "'2025-10-20 12:00:00 America/New_York'", "null").await;
    world.run_passes().await.unwrap();
    for (id, naive) in [("spring", 719), ("autumn", 721)] {
        let job = world.job(id, "configuration").await;
        assert_eq!((job.retain_until - job.started_at).num_seconds(), 720 * 3_600, "{id}");
        assert_eq!((job.delete_by - job.retain_until).num_seconds(), 24 * 3_600, "{id}");
        let wall: i64 = sqlx::query_scalar(
            "select extract(epoch from ($1 at time zone 'America/New_York' + interval '30 days') at time zone 'America/New_York' - $1)::int8 / 3600",
        )
        .bind(job.started_at)
        .fetch_one(&mut world.connect().await)
        .await
        .unwrap();
        assert_eq!(wall, naive, "there is a change of clocks within these thirty days");
        assert_eq!((world.job(id, "queue").await.retain_until - job.started_at).num_seconds(), 168 * 3_600, "{id}");
    }
}

/// The same rows of `accounts` and `feature_subscriptions` that [`World::account`] made, with one column changed.
async fn set(world: &World, id: &str, column: &str, to: &str) {
    let table = if column == "deleted_at" { "accounts" } else { "feature_subscriptions" };
    sqlx::query(AssertSqlSafe(format!("update {table} set {column} = {to} where account_id = $1")))
        .bind(id)
        .execute(&mut world.connect().await)
        .await
        .unwrap();
}

#[tokio::test]
async fn i7_reactivation_before_the_purge_voids_it_and_a_later_termination_starts_anew() {
    let world = World::new().await;
    let ended = "now() - interval '6 days'";
    for (column, [deleted, terminated, disabled]) in
        [("deleted_at", [ended, "null", "null"]), ("terminated_at", ["null", ended, "null"]), ("cmq_disabled_at", ["null", "null", ended])]
    {
        let id = column;
        world.account(id, deleted, terminated, disabled).await;
        world.run_passes().await.unwrap();
        let voided = world.job(id, "queue").await;
        assert_eq!(voided.state, "scheduled");

        set(&world, id, column, "null").await;
        world.run_passes().await.unwrap();
        let found = world.job(id, "queue").await;
        assert_eq!((found.id.as_str(), found.state.as_str()), (voided.id.as_str(), "cancelled"), "{column}");
        assert_eq!(found.cancel_reason.as_deref(), Some("reactivated"));
        assert_eq!(world.left(id).await, ALL);

        // The old period is forgotten: six days before do not count.
        set(&world, id, column, "now() - interval '2 days'").await;
        world.run_passes().await.unwrap();
        let anew = world.job(id, "queue").await;
        assert_eq!(anew.state, "scheduled");
        assert_ne!(anew.id, voided.id);
        assert!(anew.started_at > voided.started_at);
        assert_eq!((anew.retain_until - anew.started_at).num_hours(), 168);
        assert_eq!(world.left(id).await, ALL);

        set(&world, id, column, "now() - interval '169 hours'").await;
        world.run_passes().await.unwrap();
        assert_eq!(world.left(id).await, left(3, 5, 0, 2), "{column}");
    }
}

#[tokio::test]
async fn when_the_earliest_is_withdrawn_another_that_still_stands_counts() {
    let world = World::new().await;
    world.account("a", "now() - interval '29 days'", "now() - interval '10 days'", "null").await;
    world.account("b", "now() - interval '6 days'", "now() - interval '5 days'", "now() - interval '4 days'").await;
    world.run_passes().await.unwrap();
    let first = world.job("a", "configuration").await;
    assert_eq!(first.starting_point, "account_deleted");
    // The account is restored a moment before its purge; the termination twenty days later stands.
    set(&world, "a", "deleted_at", "null").await;
    set(&world, "b", "deleted_at", "null").await;
    set(&world, "b", "terminated_at", "null").await;
    world.run_passes().await.unwrap();
    let other = world.job("a", "configuration").await;
    assert_eq!((other.id, other.starting_point.as_str(), other.state.as_str()), (first.id, "feature_terminated", "scheduled"));
    assert_eq!((other.retain_until - first.retain_until).num_days(), 19);
    assert_eq!(world.left("a").await, left(3, 5, 0, 2));
    assert_eq!(world.job("b", "queue").await.starting_point, "cmq_disabled");
    assert_eq!(world.job("b", "configuration").await.cancel_reason.as_deref(), Some("reactivated"), "CMQ is no reason to delete templates");
    assert_eq!(world.left("b").await, ALL);
}

#[tokio::test]
async fn when_the_earliest_is_withdrawn_after_its_purge_the_other_starts_a_purge_of_its_own() {
    let world = World::new().await;
    world.account("a", "now() - interval '40 days'", "now() - interval '20 days'", "null").await;
    world.run_passes().await.unwrap();
    assert_eq!(world.left("a").await, left(0, 0, 0, 2));
    set(&world, "a", "deleted_at", "null").await;
    world.data("a").await;
    world.run_passes().await.unwrap();
    // The records that came since belong to the termination twenty days ago: templates wait, messages are due.
    let job = world.job("a", "configuration").await;
    assert_eq!((job.starting_point.as_str(), job.state.as_str()), ("feature_terminated", "scheduled"));
    assert_eq!(world.left("a").await, left(3, 5, 0, 4));
}

#[tokio::test]
async fn r23_what_was_carried_out_is_not_scheduled_again_while_its_starting_point_stands() {
    let world = World::new().await;
    world.account("a", "null", "now() - interval '31 days'", "now() - interval '30 days'").await;
    world.run_passes().await.unwrap();
    let before = world.jobs("a").await;
    assert_eq!(before.iter().map(|j| j.state.as_str()).collect::<Vec<_>>(), ["completed", "completed"]);
    for _ in 0..2 {
        world.run_passes().await.unwrap();
    }
    // Another point that joins later is no new purge: the earliest has been carried out.
    set(&world, "a", "deleted_at", "now() - interval '1 day'").await;
    world.run_passes().await.unwrap();
    // Whatever happens to history.
    world.sql("delete from retention.history").await;
    world.run_passes().await.unwrap();
    assert_eq!(world.jobs("a").await.len(), 0);
    // Reactivated and terminated again it is another purge.
    set(&world, "a", "deleted_at", "null").await;
    set(&world, "a", "terminated_at", "null").await;
    set(&world, "a", "cmq_disabled_at", "null").await;
    world.run_passes().await.unwrap();
    assert_eq!(world.count("retention.done_marks").await, 0, "nothing stands, so nothing is carried out");
    set(&world, "a", "terminated_at", "now()").await;
    world.run_passes().await.unwrap();
    assert_eq!(world.job("a", "configuration").await.state, "scheduled");
}

#[tokio::test]
async fn records_that_arrive_before_the_purge_go_with_it_and_later_ones_are_no_part_of_it() {
    let world = World::new().await;
    world.account("a", "null", "now() - interval '29 days'", "null").await;
    world.run_passes().await.unwrap();
    world.data("a").await;
    assert_eq!(world.left("a").await, left(6, 10, 7, 4));
    // A day passes for the templates: another instant, which is another purge for the queue.
    set(&world, "a", "terminated_at", "terminated_at - interval '1 day 1 second'").await;
    world.run_passes().await.unwrap();
    assert_eq!(world.left("a").await, left(0, 0, 0, 4));
    let completed: Job = world.job("a", "configuration").await;
    assert_eq!(completed.records_deleted.0.values().sum::<i64>(), 16);

    world.no_look_comes().await;
    // A late writer: the completed job says what it did, no more, and is no licence to delete.
    world.data("a").await;
    world.run_passes().await.unwrap();
    let after = world.job("a", "configuration").await;
    assert_eq!(
        (&after.id, after.completed_at, &after.records_deleted.0),
        (&completed.id, completed.completed_at, &completed.records_deleted.0)
    );
    // A later termination takes what it left.
    set(&world, "a", "terminated_at", "now() - interval '721 hours'").await;
    world.run_passes().await.unwrap();
    assert_eq!(world.left("a").await, left(0, 0, 0, 6));
}

#[tokio::test]
async fn suspension_arrears_and_isolation_are_not_termination() {
    let world = World::new().await;
    world.account("a", "null", "null", "null").await;
    world
        .sql("alter table accounts add suspended_at timestamptz default '2020-01-01', add isolated_at timestamptz default '2020-01-01', add arrears_since timestamptz default '2020-01-01'")
        .await;
    world.sql("update feature_subscriptions set cmq_enabled = false, activated_at = '2019-01-01'").await;
    world.run_passes().await.unwrap();
    assert_eq!(world.left("a").await, ALL);
    assert_eq!(world.count("retention.every_job").await, 0);
}

#[tokio::test]
async fn i3_service_logs_and_billing_that_share_the_key_are_not_touched() {
    let world = World::new().await;
    for id in ["gone", "live"] {
        let deleted = if id == "gone" { "now() - interval '90 days'" } else { "null" };
        world.account(id, deleted, "null", "null").await;
    }
    world
        .sql(
            "create table service_logs as select task_id, account_id from task_configurations;
             create table billing as select template_id, account_id from template_configurations;
             create table live_before as select * from task_configurations where account_id = 'live'",
        )
        .await;
    world.run_passes().await.unwrap();
    assert_eq!(world.left("gone").await, left(0, 0, 0, 2));
    assert_eq!(world.count("service_logs").await, 10);
    assert_eq!(world.count("billing").await, 6);
    assert_eq!(world.count("accounts").await, 2);
    assert_eq!(world.count("feature_subscriptions").await, 2);
    assert_eq!(world.count("(table live_before except table task_configurations) x").await, 0, "the other account's rows are identical");
}

#[tokio::test]
async fn the_running_daemon_purges_within_one_poll_of_retain_until_and_never_before() {
    let mut world = World::new().await;
    world.set("POLL__INTERVAL", "1h").set("POLL__RESYNC_INTERVAL", "1h");
    world.account("a", "null", "null", "clock_timestamp() - interval '7 days' + interval '2 seconds'").await;
    world.account("later", "null", "null", "clock_timestamp() - interval '7 days' + interval '1 hour'").await;
    let _daemon = world.daemon();
    until("the job is scheduled", || async { !world.jobs("a").await.is_empty() }).await;
    until("the job is completed", || async { world.job("a", "queue").await.state == "completed" }).await;
    let job = world.job("a", "queue").await;
    let late = job.completed_at.unwrap() - job.retain_until;
    assert!(late >= chrono::TimeDelta::zero(), "early by {late}");
    // Far from an hour, and enough for a machine that does something else.
    assert!(late < chrono::TimeDelta::minutes(5), "late by {late}");
    assert_eq!(world.left("a").await, left(3, 5, 0, 2));
    assert_eq!(world.left("later").await, ALL);
}
