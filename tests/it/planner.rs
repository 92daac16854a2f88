//! The planner: what stands is compared with what is scheduled, whatever the order in which things were written, seen and committed.

use std::{collections::BTreeMap, sync::Arc};

use retentiond::{
    app::App,
    jobs::{self, OpenJob},
    lifecycle::Stop,
    planner::{Look, Report},
    requests,
    retention::{Decision, PointState, decide},
};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection};

use crate::world::{ALL, World, left};

/// One look in this process.
async fn look(app: &App, look: Look) -> Report {
    app.planner().look(look).await.unwrap()
}

async fn resync(world: &World) -> Report {
    let app = world.app().await.unwrap();
    let report = look(&app, Look::Resync).await;
    app.database.close().await;
    report
}

fn report(settled: u64, scheduled: u64, rescheduled: u64, cancelled: u64) -> Report {
    Report { settled, scheduled, rescheduled, cancelled, quarantined: 0 }
}

#[tokio::test]
async fn jobs_are_scheduled_rescheduled_under_the_same_id_and_cancelled() {
    let world = World::new().await;
    world.account("a", "null", "now() - interval '3 days'", "null").await;
    assert_eq!(resync(&world).await, report(2, 2, 0, 0));
    assert_eq!(resync(&world).await, report(0, 0, 0, 0), "nothing is settled twice");
    let first = world.job("a", "configuration").await;

    world.sql("update feature_subscriptions set terminated_at = terminated_at - interval '1 microsecond'").await;
    assert_eq!(resync(&world).await, report(2, 0, 2, 0));
    let moved = world.job("a", "configuration").await;
    assert_eq!(moved.id, first.id);
    assert_eq!((first.started_at - moved.started_at).num_microseconds(), Some(1));
    assert_eq!((first.retain_until - moved.retain_until).num_microseconds(), Some(1));
    assert_eq!((first.delete_by - moved.delete_by).num_microseconds(), Some(1));

    world.sql("update feature_subscriptions set terminated_at = null").await;
    assert_eq!(resync(&world).await, report(2, 0, 0, 2));
    let voided = world.job("a", "configuration").await;
    assert_eq!((voided.id, voided.state.as_str(), voided.cancel_reason.as_deref()), (first.id, "cancelled", Some("reactivated")));
    assert!(voided.cancelled_at.is_some());
    assert_eq!(world.left("a").await, ALL);
}

/// A purge is a mark; then its point is moved, then withdrawn, then set to the very instant of the mark again.
#[tokio::test]
async fn i9_a_point_that_was_withdrawn_and_is_set_to_an_instant_carried_out_before_is_carried_out_again() {
    let world = World::new().await;
    let app = world.app().await.unwrap();
    let terminated = |at: &str| format!("update feature_subscriptions set terminated_at = {at}");
    world.account("a", "null", "date_trunc('day', now()) - interval '31 days'", "null").await;
    app.run_once(&Stop::default()).await.unwrap();
    for at in ["now() + interval '1 day'", "null"] {
        world.sql(&terminated(at)).await;
        look(&app, Look::Resync).await;
    }
    assert_eq!(world.count("retention.done_marks").await, 0, "nothing stands, so nothing counts as carried out");
    world.data("a").await;
    world.sql(&terminated("date_trunc('day', now()) - interval '31 days'")).await;
    app.run_once(&Stop::default()).await.unwrap();
    assert_eq!(world.left("a").await, left(0, 0, 0, 4));
}

#[tokio::test]
async fn the_cheap_look_sees_a_point_dated_now_and_settles_nothing_else() {
    let world = World::new().await;
    let app = world.app().await.unwrap();
    world.account("before", "null", "now() - interval '3 days'", "null").await;
    look(&app, Look::Resync).await;
    world.account("now", "null", "now()", "null").await;
    world.account("back-dated", "null", "now() - interval '3 days'", "null").await;
    assert_eq!(look(&app, Look::Poll).await, report(2, 2, 0, 0));
    assert_eq!(world.jobs("now").await.len(), 2);
    assert_eq!(world.jobs("back-dated").await.len(), 0, "a back-dated change is the full comparison's (R5)");
    assert_eq!(look(&app, Look::Poll).await, report(0, 0, 0, 0), "what is scheduled is not nominated again");
    assert_eq!(look(&app, Look::Resync).await, report(2, 2, 0, 0));
    assert_eq!(world.jobs("back-dated").await.len(), 2);
}

/// Classes that begin at one point are asked about in one question: what answers for one of them answers for no other.
#[tokio::test]
async fn i9_the_cheap_look_schedules_the_one_class_that_nothing_answers_for() {
    let world = World::new().await;
    let app = world.app().await.unwrap();
    look(&app, Look::Resync).await;
    world.account("a", "null", "now()", "null").await;
    assert_eq!(look(&app, Look::Poll).await.scheduled, 2);
    for class in ["configuration", "queue"] {
        let other = if class == "queue" { "configuration" } else { "queue" };
        world.sql(&format!("delete from retention.jobs where data_class = '{class}'")).await;
        assert_eq!(look(&app, Look::Poll).await.scheduled, 1, "{class} alone");
        // A mark answers as a job does, each for its own class.
        world
            .sql(&format!(
                "insert into retention.done_marks (account_id, feature, data_class, starting_point, started_at, places, job_id, purged_at)
                 select account_id, feature, data_class, starting_point, started_at, '', id, now() from retention.jobs where data_class = '{class}';
                 delete from retention.jobs where data_class = '{class}'"
            ))
            .await;
        assert_eq!(look(&app, Look::Poll).await, report(0, 0, 0, 0), "the mark of {class} and the job of {other}");
        world
            .sql(&format!(
                "update retention.done_marks set started_at = started_at - interval '1 microsecond' where data_class = '{class}'"
            ))
            .await;
        assert_eq!(look(&app, Look::Poll).await.scheduled, 1, "the mark of {class} is for another instant");
    }
}

#[tokio::test]
async fn i9_a_transaction_that_commits_after_the_look_is_seen_by_the_next() {
    for (overlap, by_the_poll) in [("10m", 2), ("1ms", 0)] {
        let mut world = World::new().await;
        world.set("POLL__OVERLAP", overlap);
        let app = world.app().await.unwrap();
        world.account("a", "null", "null", "null").await;
        look(&app, Look::Resync).await;
        let mut platform = world.connect().await;
        let mut late = platform.begin().await.unwrap();
        sqlx::query("update feature_subscriptions set terminated_at = now()").execute(&mut *late).await.unwrap();
        assert_eq!(look(&app, Look::Poll).await.scheduled, 0);
        late.commit().await.unwrap();
        // Its instant is older than the last look. Within the overlap the cheap look finds it; beyond, the full comparison does.
        assert_eq!(look(&app, Look::Poll).await.scheduled, by_the_poll, "overlap {overlap}");
        assert_eq!(look(&app, Look::Resync).await.scheduled, 2 - by_the_poll, "overlap {overlap}");
        assert_eq!(world.jobs("a").await.len(), 2);
    }
}

#[tokio::test]
async fn r44_a_starting_point_in_the_future_is_listed_with_both_dates_and_is_not_due() {
    let world = World::new().await;
    world.account("a", "null", "now() + interval '3 days'", "null").await;
    world.account("a year", "null", "now() + interval '364 days'", "null").await;
    world.run_passes().await.unwrap();
    let now: chrono::DateTime<chrono::Utc> = sqlx::query_scalar("select now()").fetch_one(&mut world.connect().await).await.unwrap();
    for id in ["a", "a year"] {
        let job = world.job(id, "queue").await;
        assert_eq!(job.state, "scheduled");
        assert!(job.started_at > now && job.retain_until > job.started_at && job.delete_by > job.retain_until);
        assert!(!job.overdue);
        assert_eq!(world.left(id).await, ALL);
    }
    let plan = world.json(&["plan"]);
    let jobs = plan["jobs"].as_array().unwrap();
    assert_eq!(jobs.len(), 4);
    assert!(jobs.iter().all(|j| j["due"] == false && j["retain_until"].is_string() && j["delete_by"].is_string()));
    assert_eq!(world.json(&["status"])["jobs"]["due"], 0);
    // It is withdrawn before it comes into force.
    world.sql("update feature_subscriptions set terminated_at = null where account_id = 'a'").await;
    world.run_passes().await.unwrap();
    assert_eq!(world.job("a", "queue").await.state, "cancelled");
}

/// The rules with another table for feature subscriptions.
fn subscriptions_in(world: &mut World, table: &str) {
    world.rules = world.rules.replace("\"feature_subscriptions\"", &format!("{table:?}"));
}

#[tokio::test]
async fn r2_of_several_rows_one_active_means_a_live_customer_and_all_ended_means_the_latest() {
    // Neither index makes the rows unique for an account and feature: the second holds more columns, the third not every row.
    for index in [
        "create index",
        "create unique index on subs (account_id, feature, plan);create index",
        "create unique index on subs (account_id, feature) where terminated_at is null;create index",
    ] {
        let mut world = World::new().await;
        world
            .sql(&format!(
                "create table subs (account_id text, feature text, plan int generated always as identity, terminated_at timestamptz, cmq_disabled_at timestamptz);
                 {index} on subs (account_id)"
            ))
            .await;
        subscriptions_in(&mut world, "subs");
        let ago = |days: i32| format!("now() - interval '{days} days'");
        let cases = [
            ("one active", vec!["null".to_owned(), ago(40)], ALL),
            ("active first", vec![ago(40), "null".to_owned(), ago(50)], ALL),
            ("all ended, the latest past", vec![ago(40), ago(31), ago(50)], left(0, 0, 0, 2)),
            ("all ended, the latest inside", vec![ago(40), ago(29)], left(3, 5, 0, 2)),
            ("all ended, the latest just now", vec![ago(40), ago(1)], ALL),
            ("ended twice at once", vec![ago(31), ago(31)], left(0, 0, 0, 2)),
            ("one ends in the future", vec![ago(40), "now() + interval '1 day'".to_owned()], ALL),
            ("one impossible", vec![ago(40), "'infinity'".to_owned()], ALL),
            ("one row", vec![ago(31)], left(0, 0, 0, 2)),
            ("of another feature", vec![ago(31)], left(0, 0, 0, 2)),
        ];
        for (id, rows, _) in &cases {
            world.sql(&format!("insert into accounts values ('{id}', 'r')")).await;
            for row in rows {
                world.sql(&format!("insert into subs (account_id, feature, terminated_at) values ('{id}', 'mps', {row})")).await;
            }
            world.data(id).await;
        }
        world.sql("insert into subs (account_id, feature) values ('of another feature', 'live')").await;
        world.run_passes().await.unwrap();
        for (id, _, want) in &cases {
            assert_eq!(world.left(id).await, *want, "{id} with {index}");
        }
        let latest = "(select from retention.every_job j where j.account_id like 'all ended%' and j.started_at <> (select max(terminated_at) from subs s where s.account_id = j.account_id)) x";
        assert_eq!(world.count(latest).await, 0);
        // A second subscription begins while the purge of the first waits.
        world.sql("insert into subs (account_id, feature) values ('all ended, the latest inside', 'mps')").await;
        world.run_passes().await.unwrap();
        assert_eq!(world.job("all ended, the latest inside", "configuration").await.cancel_reason.as_deref(), Some("reactivated"));
    }
}

#[tokio::test]
async fn r2_a_row_that_appears_after_the_look_stops_the_batch() {
    let mut world = World::new().await;
    world
        .sql("create table subs (account_id text, feature text, terminated_at timestamptz, cmq_disabled_at timestamptz); create index on subs (account_id)")
        .await;
    subscriptions_in(&mut world, "subs");
    world.sql("insert into subs values ('a', 'mps', now() - interval '29 days')").await;
    world.data("a").await;
    world.sql("insert into accounts values ('a', 'r')").await;
    world.run_passes().await.unwrap();
    assert_eq!(world.left("a").await, left(3, 5, 0, 2));
    // The job falls due in the same breath as the customer subscribes anew; no look comes in between.
    world
        .sql(
            "update subs set terminated_at = now() - interval '31 days'; insert into subs values ('a', 'mps');
             update retention.jobs set started_at = (select terminated_at from subs where terminated_at is not null),
                    retain_until = now() - interval '1 day', ready_at = now() - interval '1 day' where data_class = 'configuration'",
        )
        .await;
    let app = world.app().await.unwrap();
    let worker = app.executor().worker("w".to_owned());
    purge_all(worker).await;
    assert_eq!(world.left("a").await, left(3, 5, 0, 2), "the stale plan deleted records of a live customer");
    assert_eq!(world.job("a", "configuration").await.blocked_by.as_deref(), Some("changed"));
}

async fn purge_all(mut worker: retentiond::executor::Worker) {
    while worker.step().await.unwrap() == retentiond::executor::Step::Worked {}
}

#[tokio::test]
async fn i6_r44_an_impossible_instant_quarantines_its_record_alone_and_is_told_once() {
    let world = World::new().await;
    let impossible = [
        ("infinity", "'infinity'"),
        ("-infinity", "'-infinity'"),
        ("year 1", "'0001-01-01 00:00:00+00'"),
        ("bc", "'0044-03-15 00:00:00+00 BC'"),
        ("too old", "'1999-12-31 23:59:59.999999+00'"),
        ("too far", "now() + interval '1 year 1 day'"),
    ];
    let plausible = [
        ("old enough", "'2000-01-01 00:00:00+00'", left(0, 0, 0, 2)),
        ("near enough", "now() + interval '1 year' - interval '1 minute'", ALL),
    ];
    for (id, at) in impossible {
        world.account(id, "null", at, "null").await;
    }
    for (id, at, _) in plausible {
        world.account(id, "null", at, "null").await;
    }
    // The others of that subject still count.
    world.account("other point", "now() - interval '8 days'", "'infinity'", "null").await;
    world.account("before", "null", "now() - interval '31 days'", "null").await;
    world.account("zz after", "null", "now() - interval '31 days'", "null").await;
    let app = world.app().await.unwrap();
    assert_eq!(look(&app, Look::Resync).await.quarantined, 2 * (impossible.len() as u64 + 1), "each record, in each of its two classes");
    assert_eq!(look(&app, Look::Resync).await.quarantined, 0, "told once");
    world.run_passes().await.unwrap();
    for (id, _) in impossible {
        assert_eq!(world.left(id).await, ALL, "{id}");
        assert_eq!(world.jobs(id).await.len(), 0, "{id}");
    }
    for (id, _, want) in plausible {
        assert_eq!(world.left(id).await, want, "{id}");
        assert_eq!(world.jobs(id).await.len(), 2, "{id}");
    }
    assert_eq!(world.left("other point").await, left(3, 5, 0, 2));
    assert_eq!(world.left("before").await, left(0, 0, 0, 2));
    assert_eq!(world.left("zz after").await, left(0, 0, 0, 2));
    let listed = |status: &Value| {
        let mut ids: Vec<String> =
            status["quarantined"].as_array().unwrap().iter().map(|q| q["account_id"].as_str().unwrap().to_owned()).collect();
        ids.sort();
        ids.dedup();
        ids
    };
    let status = world.json(&["status"]);
    assert_eq!(listed(&status), ["-infinity", "bc", "infinity", "other point", "too far", "too old", "year 1"]);
    let one = status["quarantined"].as_array().unwrap().iter().find(|q| q["account_id"] == "infinity").unwrap();
    assert_eq!(one["starting_point"], "feature_terminated");
    assert!(one["problem"].as_str().unwrap().contains("infinity is no plausible instant"), "{one}");

    // Mended, it is gone from the list, and counts.
    world.sql("update feature_subscriptions set terminated_at = now() - interval '8 days' where account_id = 'infinity'").await;
    world.sql("update feature_subscriptions set terminated_at = null where account_id = '-infinity'").await;
    world.run_passes().await.unwrap();
    assert_eq!(listed(&world.json(&["status"])), ["bc", "other point", "too far", "too old", "year 1"]);
    assert_eq!(world.left("infinity").await, left(3, 5, 0, 2));
    assert_eq!(world.left("-infinity").await, ALL);
}

#[tokio::test]
async fn i6_a_starting_point_that_turns_impossible_neither_fires_nor_cancels() {
    let world = World::new().await;
    world.account("a", "null", "now() - interval '29 days'", "null").await;
    world.run_passes().await.unwrap();
    world.sql("update feature_subscriptions set terminated_at = '-infinity'").await;
    world.sql("update retention.jobs set retain_until = now() - interval '1 day', ready_at = now() - interval '1 day' where lease_until is null").await;
    // It waits, visibly; a run that leaves a due job behind says so.
    assert_eq!(world.run_passes().await.unwrap_err().exit_code(), 1);
    assert_eq!(world.job("a", "configuration").await.state, "scheduled");
    assert_eq!(world.left("a").await, left(3, 5, 0, 2));
}

#[tokio::test]
async fn r6_a_vanished_row_withdraws_nothing_and_deletes_nothing_its_jobs_wait() {
    let mut world = World::new().await;
    world.set("POLL__VANISH_INTERVAL", "1h");
    world.account("due", "null", "now() - interval '29 days'", "null").await;
    world.account("hard-deleted", "now() - interval '6 days'", "null", "null").await;
    world.account("purged", "now() - interval '40 days'", "null", "null").await;
    world.run_passes().await.unwrap();
    world.no_look_comes().await;
    world.sql("delete from accounts").await;
    assert_eq!(world.count("feature_subscriptions").await, 0);
    world.data("purged").await;
    world
        .sql("update retention.jobs set retain_until = now() - interval '1 hour', ready_at = now() - interval '1 hour' where lease_until is null")
        .await;
    assert_eq!(world.run_passes().await.unwrap_err().exit_code(), 1, "due jobs remain");
    for (id, class, kept) in
        [("due", "configuration", left(3, 5, 0, 2)), ("hard-deleted", "queue", ALL), ("hard-deleted", "configuration", ALL)]
    {
        let job = world.job(id, class).await;
        assert_eq!((job.state.as_str(), job.blocked_by.as_deref()), ("scheduled", Some("missing")), "{id} {class}");
        assert_eq!(world.left(id).await, kept, "{id}");
    }
    assert_eq!(world.jobs("purged").await.len(), 2, "a purge that was carried out is not repeated because its row went");
    assert_eq!(world.count("retention.done_marks where account_id = 'purged'").await, 2);
    let waits = world.json(&["explain", "due"]).to_string();
    assert!(waits.contains("its source row is missing"), "{waits}");

    // When it comes back, its own columns decide.
    world.sql("insert into accounts values ('due', 'r'), ('hard-deleted', 'r')").await;
    world.sql("insert into feature_subscriptions (account_id, feature) values ('due', 'mps'), ('hard-deleted', 'mps')").await;
    world.run_passes().await.unwrap();
    assert_eq!(world.job("due", "configuration").await.cancel_reason.as_deref(), Some("reactivated"));
    assert_eq!(world.job("hard-deleted", "queue").await.cancel_reason.as_deref(), Some("reactivated"));
    assert_eq!(world.left("hard-deleted").await, ALL);
}

#[tokio::test]
async fn an_empty_source_is_no_error_and_schedules_nothing() {
    let world = World::new().await;
    world.data("orphan").await;
    assert_eq!(resync(&world).await, report(0, 0, 0, 0));
    world.run_passes().await.unwrap();
    assert_eq!(world.left("orphan").await, ALL);
    assert_eq!(world.json(&["plan"])["jobs"], Value::Array(Vec::new()));
    assert_eq!(world.json(&["status"])["guard"]["tripped"], false);
}

#[tokio::test]
async fn i8_planners_that_look_at_once_make_one_job_each() {
    let world = World::new().await;
    world
        .sql(
            "insert into accounts (account_id, region, deleted_at) select md5(i::text), 'r', now() - interval '3 days' from generate_series(1, 300) i;
             analyze accounts",
        )
        .await;
    let (one, two) = (world.app().await.unwrap(), world.app().await.unwrap());
    let [first, second, poller, fourth] = [one.planner(), two.planner(), one.planner(), two.planner()];
    let (a, b, c, d) =
        tokio::join!(first.look(Look::Resync), second.look(Look::Resync), poller.look(Look::Poll), fourth.look(Look::Resync));
    let scheduled: u64 = [a, b, c, d].into_iter().map(|report| report.unwrap().scheduled).sum();
    assert_eq!(scheduled, 600);
    assert_eq!(world.count("retention.every_job").await, 600);
    assert_eq!(world.count("(select from retention.every_job group by account_id, data_class having count(*) > 1) x").await, 0);
}

#[tokio::test]
async fn i9_thousands_of_accounts_are_settled_page_by_page_and_one_bad_record_stops_only_itself() {
    let world = World::new().await;
    // What no index of ours can hold: incompressible, and longer than a third of a page.
    world
        .sql(
            "alter table feature_subscriptions drop constraint feature_subscriptions_account_id_fkey, drop constraint feature_subscriptions_pkey;
             create index on feature_subscriptions using hash (account_id);
             insert into accounts (account_id, region, deleted_at)
                 select 'account ' || i, 'r', case when i % 5 > 0 then now() - interval '1 day' * (i % 40) end from generate_series(1, 6500) i;
             insert into feature_subscriptions (account_id, feature, terminated_at)
                 select string_agg(md5(i::text), ''), 'mps', now() - interval '3 days' from generate_series(1, 312) i",
        )
        .await;
    let found = resync(&world).await;
    let wanted = world.count("accounts where deleted_at is not null").await;
    assert_eq!(world.count("retention.every_job where length(account_id) < 100").await, wanted * 2);
    assert_eq!(
        world.count("retention.every_job where length(account_id) > 100").await + world.count("retention.quarantine").await,
        2,
        "an account whose id is too long for an index is scheduled or visibly quarantined: {found:?}"
    );
    assert_eq!(resync(&world).await.scheduled, 0);
}

#[tokio::test]
async fn r9_only_the_accounts_of_the_regions_are_touched() {
    let mut world = World::new().await;
    for (id, region) in [("here", "ap-singapore"), ("there", "eu-frankfurt"), ("case", "AP-SINGAPORE")] {
        world.account(id, "now() - interval '40 days'", "now() - interval '40 days'", "null").await;
        world.sql(&format!("update accounts set region = '{region}' where account_id = '{id}'")).await;
    }
    world.account("live", "null", "null", "null").await;
    world.account("bad here", "'infinity'", "null", "null").await;
    world.account("bad there", "'infinity'", "null", "null").await;
    world.sql("update accounts set region = 'eu-frankfurt' where account_id = 'bad there'").await;
    // Terminated, and nobody knows where it lives.
    world.sql("alter table feature_subscriptions drop constraint feature_subscriptions_account_id_fkey").await;
    world
        .sql("insert into feature_subscriptions (account_id, feature, terminated_at) values ('unknown', 'mps', now() - interval '40 days')")
        .await;
    world.data("unknown").await;
    world.rules = format!(
        "regions = [\"ap-singapore\"]\n{}",
        world.rules.replace("since_column = \"deleted_at\"", "since_column = \"deleted_at\"\nregion_column = \"region\"")
    );
    world.account("empty", "now() - interval '40 days'", "null", "null").await;
    world.sql("update accounts set region = '' where account_id = 'empty'").await;
    // Known once, and not any more.
    world.sql("insert into retention.account_regions values ('empty', 'ap-singapore'), ('blank', '')").await;
    // Of another feature, for which nothing is promised.
    world.sql("insert into feature_subscriptions (account_id, feature, terminated_at) values ('nobody', 'other', now()), ('blank', 'mps', now())").await;
    let findings = world.json(&["check"]);
    let homeless: Vec<_> = findings.as_array().unwrap().iter().filter(|f| f["subject"] == "regions").collect();
    assert_eq!(homeless.len(), 1, "{findings}");
    let told = homeless[0]["problem"].as_str().unwrap();
    assert!(told.starts_with("3 accounts have ended") && told.ends_with(": blank, empty, unknown"), "{told}");
    world.run_passes().await.unwrap();
    assert_eq!(world.left("here").await, left(0, 0, 0, 2));
    for untouched in ["there", "case", "unknown", "empty", "live"] {
        assert_eq!(world.left(untouched).await, ALL, "{untouched}");
        assert_eq!(world.jobs(untouched).await.len(), 0, "{untouched}");
    }
    assert_eq!(world.count("retention.quarantine where account_id = 'bad here'").await, 2);
    assert_eq!(
        world.count("retention.quarantine where account_id = 'bad there'").await,
        0,
        "another region's records are another daemon's"
    );
    assert!(world.json(&["plan"])["jobs"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn r9_an_account_of_another_region_that_vanishes_is_not_this_daemons_to_purge() {
    let mut world = World::new().await;
    world.account("there", "null", "null", "null").await;
    world.account("unsubscribed there", "null", "null", "null").await;
    world.sql("update accounts set region = 'eu-frankfurt'").await;
    world.account("here", "null", "null", "null").await;
    world.rules = format!(
        "regions = [\"ap-singapore\"]\n{}",
        world.rules.replace("since_column = \"deleted_at\"", "since_column = \"deleted_at\"\nregion_column = \"region\"")
    );
    world.run_passes().await.unwrap();
    world
        .sql("delete from accounts where account_id = 'there'; delete from feature_subscriptions where account_id = 'unsubscribed there'")
        .await;
    world.run_passes().await.unwrap();
    world.sql("update retention.absences set first_missed_at = first_missed_at - interval '40 days'").await;
    world.run_passes().await.unwrap();
    for id in ["there", "unsubscribed there", "here"] {
        assert_eq!(world.jobs(id).await.len(), 0, "{id}");
        assert_eq!(world.left(id).await, ALL, "{id}");
    }
}

#[tokio::test]
async fn i6_a_row_that_names_no_account_stops_nobody() {
    let mut world = World::new().await;
    world.sql("create table subs (account_id text, feature text, terminated_at timestamptz, cmq_disabled_at timestamptz); create index on subs (account_id)").await;
    world.rules = world.rules.replace("\"feature_subscriptions\"", "\"subs\"");
    world.account("a", "null", "null", "null").await;
    world
        .sql(
            "insert into subs values ('a', 'mps', now() - interval '40 days'), (null, 'mps', now() - interval '40 days'), (null, 'mps', 'infinity');
             insert into subs values (null, 'mps', now())",
        )
        .await;
    let app = world.app().await.unwrap();
    look(&app, Look::Resync).await;
    assert_eq!(look(&app, Look::Poll).await, report(0, 0, 0, 0));
    app.run_once(&Stop::default()).await.unwrap();
    assert_eq!(world.left("a").await, left(0, 0, 0, 2));
}

/// The shipped rules for the accounts of one region.
fn of_region(rules: &str, region: &str) -> String {
    let rules = rules.replace("since_column = \"deleted_at\"", "since_column = \"deleted_at\"\nregion_column = \"region\"");
    format!("regions = [\"{region}\"]\n{rules}")
}

#[tokio::test]
async fn r9_an_account_of_ones_own_region_that_vanishes_is_purged() {
    let mut world = World::new().await;
    world.account("here", "null", "null", "null").await;
    world.account("there", "null", "null", "null").await;
    world.sql("update accounts set region = 'eu-frankfurt' where account_id = 'there'").await;
    world.sql("alter table feature_subscriptions drop constraint feature_subscriptions_account_id_fkey").await;
    let rules = world.rules.clone();
    world.rules = of_region(&rules, "ap-singapore");
    world.run_passes().await.unwrap();
    world.sql("delete from accounts").await;
    world.set("GUARD__MAX_SHRINK", "100%").run_passes().await.unwrap();
    world.sql("update retention.absences set first_missed_at = first_missed_at - interval '40 days'").await;
    world.run_passes().await.unwrap();
    world.run_passes().await.unwrap();
    assert_eq!((world.left("here").await, world.left("there").await), (left(0, 0, 0, 2), ALL));
    assert_eq!((world.jobs("here").await.len(), world.jobs("there").await.len()), (2, 0));
}

#[tokio::test]
async fn r9_an_account_that_moved_away_before_it_vanished_is_no_longer_ones_own() {
    let mut world = World::new().await;
    world.account("moved", "null", "null", "null").await;
    world.account("stays", "null", "null", "null").await;
    world.rules = of_region(&world.rules.clone(), "ap-singapore");
    world.set("GUARD__MAX_SHRINK", "100%").run_passes().await.unwrap();
    world.sql("update accounts set region = 'eu-frankfurt' where account_id = 'moved'").await;
    world.run_passes().await.unwrap();
    world.sql("delete from feature_subscriptions; delete from accounts").await;
    world.run_passes().await.unwrap();
    world.sql("update retention.absences set first_missed_at = first_missed_at - interval '40 days'").await;
    world.run_passes().await.unwrap();
    world.run_passes().await.unwrap();
    assert_eq!((world.left("moved").await, world.left("stays").await), (ALL, left(0, 0, 0, 2)));
}

/// Their stores may be others: an empty look in one's own says nothing about them.
#[tokio::test]
async fn r9_what_another_region_has_purged_is_looked_at_again_by_its_own_daemon() {
    let mut world = World::new().await;
    world.account("there", "now() - interval '40 days'", "null", "null").await;
    world.sql("update accounts set region = 'eu-frankfurt'").await;
    let rules = world.rules.clone();
    world.rules = of_region(&rules, "eu-frankfurt");
    world.run_passes().await.unwrap();
    assert_eq!(world.left("there").await, left(0, 0, 0, 2));
    let there = world.app().await.unwrap();
    world.data("there").await;
    world.sql("update retention.done_marks set look_at = now()").await;
    world.rules = of_region(&rules, "ap-singapore");
    let here = world.app().await.unwrap();
    assert_eq!(here.verifier().pass().await.unwrap().looked, 0);
    assert_eq!(there.verifier().pass().await.unwrap().residue, 2);
    assert_eq!(look(&here, Look::Poll).await, report(0, 0, 0, 0));
}

#[tokio::test]
async fn r9_daemons_of_two_regions_that_share_a_database_leave_each_others_jobs_and_findings_alone() {
    let mut world = World::new().await;
    for (id, deleted) in [("here", "now() - interval '40 days'"), ("there", "now() - interval '40 days'"), ("bad there", "'infinity'")] {
        world.account(id, deleted, "null", "null").await;
    }
    world.sql("update accounts set region = 'eu-frankfurt' where account_id like '%there'").await;
    let rules = world.rules.clone();
    world.rules = of_region(&rules, "eu-frankfurt");
    let there = world.app().await.unwrap();
    look(&there, Look::Resync).await;
    assert_eq!(world.jobs("there").await.len(), 2);
    world.rules = of_region(&rules, "ap-singapore");
    world.run_passes().await.unwrap();
    assert_eq!((world.left("here").await, world.left("there").await), (left(0, 0, 0, 2), ALL));
    let job = world.job("there", "queue").await;
    assert_eq!((job.state.as_str(), job.attempts), ("scheduled", 0), "nobody has even claimed it");
    assert_eq!(world.count("retention.quarantine where account_id = 'bad there'").await, 2);
    there.run_once(&Stop::default()).await.unwrap();
    assert_eq!(world.left("there").await, left(0, 0, 0, 2));
}

#[tokio::test]
async fn a_starting_point_made_anew_under_the_same_name_is_not_believed_before_it_is_checked() {
    let world = World::new().await;
    world.account("a", "null", "now() - interval '29 days'", "null").await;
    let app = world.app().await.unwrap();
    look(&app, Look::Resync).await;
    world
        .sql(
            "alter table feature_subscriptions rename to moved;
             create table feature_subscriptions (account_id text, feature text, terminated_at timestamptz, cmq_disabled_at timestamptz);
             insert into feature_subscriptions values ('a', 'mps')",
        )
        .await;
    let refused = app.planner().look(Look::Resync).await;
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(world.job("a", "configuration").await.state, "scheduled");
    assert!(app.run_once(&Stop::default()).await.is_err());
    // A start checks it anew.
    world.run_passes().await.unwrap();
    assert_eq!(world.job("a", "configuration").await.state, "cancelled");
}

#[tokio::test]
async fn i6_a_look_that_fails_cancels_nothing() {
    let world = World::new().await;
    world.account("a", "now() - interval '3 days'", "null", "null").await;
    let app = Arc::new(world.app().await.unwrap());
    look(&app, Look::Resync).await;
    for broken in ["alter table accounts rename column deleted_at to x", "alter table feature_subscriptions rename to x"] {
        world.sql(broken).await;
        assert!(app.planner().look(Look::Resync).await.is_err(), "{broken}");
        assert!(app.planner().look(Look::Poll).await.is_err(), "{broken}");
    }
    assert_eq!(world.job("a", "queue").await.state, "scheduled");
    assert_eq!(world.left("a").await, ALL);
    let noted: i64 = sqlx::query_scalar(AssertSqlSafe("select count(*) from retention.passes".to_owned()))
        .fetch_one(&mut world.connect().await)
        .await
        .unwrap();
    assert_eq!(noted, 1, "a look that failed is not noted as one that succeeded");
}

/// Every combination of what stands, is scheduled and was done, for one class.
const EVERYTHING: &str = "
    alter table feature_subscriptions drop constraint feature_subscriptions_account_id_fkey;
    create temp table at as select n, date_trunc('day', now()) - n * interval '1 day' as at from generate_series(1, 4) n;
    create temp table rows as select row_number() over () as r, * from
        (values (null::timestamptz, null::timestamptz, false), (null, null, true),
                ((select at from at where n = 2), null, true), (null, (select at from at where n = 2), true), ((select at from at where n = 3), (select at from at where n = 2), true),
                ('infinity', null, true), ('-infinity', (select at from at where n = 2), true)) v(ended, cmq, there);
    create temp table scheduled as select null::text as job, null::timestamptz as job_at, null::text as policy union all
        select p, at, policy from unnest(array['account_deleted', 'feature_terminated', 'cmq_disabled', 'gone', 'request']) p, at, unnest(array['now', 'old']) policy where n in (2, 3);
    create temp table done as select null::text as mark, null::timestamptz as mark_at, null::text as places, false as residue union all
        select p, at, places, residue from unnest(array['account_deleted', 'cmq_disabled']) p, at, unnest(array['here', 'elsewhere']) places, unnest(array[true, false]) residue
        where n in (2, 3);
    create temp table everything as select 'a' || row_number() over () as id, deleted.n as deleted, r.*, s.*, d.*
        from (values (-1), (0), (3)) deleted(n), rows r, scheduled s, done d;
    insert into accounts (account_id, region, deleted_at) select id, 'r', (select at from at where n = deleted) from everything where deleted >= 0;
    insert into feature_subscriptions (account_id, feature, terminated_at, cmq_disabled_at) select id, 'mps', ended, cmq from everything where there;
    insert into retention.jobs (account_id, feature, data_class, starting_point, started_at, retain_until, delete_by, ready_at, policy)
        select id, 'mps', 'queue', job, job_at, job_at + interval '7 days', job_at + interval '8 days', job_at + interval '7 days', case policy when 'now' then '{policy}' else 'old' end
        from everything where job is not null;
    insert into retention.done_marks (account_id, feature, data_class, starting_point, started_at, places, job_id, residue)
        select id, 'mps', 'queue', mark, mark_at, case places when 'here' then '{places}' else 'elsewhere' end, 0, residue from everything where mark is not null;
    create temp table asked as select row_number() over () as q, id, ('x' || left(md5(id), 2))::bit(8)::int % 8 as how from everything;
    delete from asked where how > 4;
    insert into retention.requests (id, account_id, reason, requested_by, accepted_by, accepted_at, due_by, withdrawn_at, withdrawn_by) overriding system value
        select q, id, 'r', 'b', 'b', a.at, a.at + interval '30 days', case how when 3 then now() end, case how when 3 then 'b' end
        from asked, lateral (select case how when 2 then (select at from at where n = 2) + interval '7 days' else (select at from at where n = 2 + how % 2) end as at) a;
    insert into retention.request_parts (request_id, account_id, feature, data_class, fulfilled_at, job_id)
        select q, id, 'mps', 'queue', case how when 4 then now() end, case how when 4 then 0 end from asked;
    insert into retention.absences (source, account_id, feature, first_missed_at, confirmed_at)
        select '\"public\".\"accounts\" (\"account_id\")', id, null, (select at from at where n = 2), now() from everything where deleted < 0 and r % 2 = 0 union all
        select '\"public\".\"feature_subscriptions\" (\"account_id\", \"feature\")', id, 'mps', (select at from at where n = 2), now() from everything where not there and deleted % 2 = 0;";

/// Several rows for one account and feature, and an index on its accounts or none.
const SEVERAL: &str = "
    alter table feature_subscriptions drop constraint feature_subscriptions_pkey;
    insert into feature_subscriptions (account_id, feature, terminated_at, cmq_disabled_at)
        select id, 'mps', (select at from at where n = 1 + r % 4), (select at from at where n = 4 - r % 3) from everything where there and length(id) > 4;";

/// What the walks of a full comparison pass over is what the rule would leave as it is.
#[tokio::test]
async fn i9_after_a_full_comparison_the_rule_has_nothing_left_to_say_about_anybody() {
    for more in [
        String::new(),
        format!("{SEVERAL} create index on feature_subscriptions (account_id)"),
        format!("{SEVERAL} drop index feature_subscriptions_terminated_at_idx"),
    ] {
        let world = World::new().await;
        let app = world.app().await.unwrap();
        let class = &app.policy.classes[1];
        assert_eq!(class.jobs.name, "queue");
        world.sql(&format!("{}{more}", EVERYTHING.replace("{policy}", &class.jobs.policy).replace("{places}", &class.jobs.places))).await;
        // The catalogue is asked anew, for the indexes have changed.
        let app = world.app().await.unwrap();
        let class = &app.policy.classes[1];
        let found = look(&app, Look::Resync).await;
        assert!(found.scheduled > 0 && found.rescheduled > 0 && found.cancelled > 0, "{found:?}");
        // Which of two instants is remembered of a row that is gone may depend on what the first look made of it.
        look(&app, Look::Resync).await;
        let mut conn = world.connect().await;
        let accounts: Vec<String> = sqlx::query_scalar(
            "select account_id from retention.jobs union select account_id from retention.done_marks union select account_id from accounts
             union select account_id from feature_subscriptions union select account_id from retention.absences
             union select account_id from retention.request_parts",
        )
        .fetch_all(&mut conn)
        .await
        .unwrap();
        assert!(accounts.len() > 5_000);
        for page in accounts.chunks(1_000) {
            let mut tx = conn.begin().await.unwrap();
            let (open, busy) = jobs::lock_open(&mut tx, &class.jobs, page).await.unwrap();
            assert!(busy.is_empty());
            let done = jobs::done(&mut tx, &class.jobs, page).await.unwrap();
            let seen = class.source.observe(&mut tx, page).await.unwrap();
            let asked = requests::asked(&mut tx, "mps", "queue", page).await.unwrap();
            for account in page {
                let accepted: Vec<_> = asked.get(account).into_iter().flatten().map(|asked| asked.accepted_at).collect();
                let missing = class.source.points().iter().map(|p| (p.index, PointState::Missing));
                let mut states: BTreeMap<usize, PointState> = missing.collect();
                states.extend(seen.iter().filter(|o| o.account_id == *account).map(|o| (o.point, o.state.clone())));
                let states: Vec<_> = states.into_iter().collect();
                let job = open.iter().find(|j| j.account_id == *account);
                let decision =
                    decide(class.as_rule(&app.policy.points), &states, &accepted, job.map(OpenJob::as_open).as_ref(), done.get(account));
                // Two that stand since one instant: the job may go on under the name of the other.
                let renamed = matches!((&decision, job), (Decision::Reschedule(to), Some(job)) if to.since == job.started_at && job.policy == class.jobs.policy);
                assert!(
                    decision == Decision::Keep || renamed,
                    "{account}: {decision:?} {states:?} {job:?} {:?} with {more}",
                    done.get(account)
                );
            }
        }
        // And what it leaves it does not ask about again, but for values that cannot be and instants that only absence remembers.
        let again = look(&app, Look::Resync).await;
        assert_eq!((again.scheduled, again.rescheduled, again.cancelled), (0, 0, 0));
        assert!(again.settled < found.settled / 2, "{found:?} {again:?}");
    }
}

#[tokio::test]
async fn an_account_with_several_starting_points_is_left_alone_once_its_earliest_is_scheduled() {
    let world = World::new().await;
    world.account("a", "now() - interval '1 day'", "now() - interval '3 days'", "now() - interval '2 days'").await;
    assert_eq!(resync(&world).await, report(2, 2, 0, 0));
    assert_eq!(resync(&world).await, report(0, 0, 0, 0));
    // The earliest is withdrawn: the job says so.
    world.sql("update feature_subscriptions set terminated_at = null").await;
    assert_eq!(resync(&world).await, report(2, 0, 2, 0));
    assert_eq!(world.job("a", "configuration").await.starting_point, "account_deleted");
    assert_eq!(world.job("a", "queue").await.starting_point, "cmq_disabled");
    assert_eq!(resync(&world).await, report(0, 0, 0, 0));
}

/// More at one instant than any slice holds, found by a poll and by a full comparison.
#[tokio::test]
async fn thousands_that_end_at_one_instant_are_all_scheduled() {
    for kind in [Look::Poll, Look::Resync] {
        let world = World::new().await;
        let app = world.app().await.unwrap();
        world.account("before", "null", "null", "null").await;
        look(&app, Look::Resync).await;
        world
            .sql("insert into accounts (account_id, region, deleted_at) select 'a' || n, 'r', now() from generate_series(1, 9000) n")
            .await;
        assert_eq!(look(&app, kind).await, report(18_000, 18_000, 0, 0), "{kind:?}");
        assert_eq!(look(&app, Look::Resync).await, report(0, 0, 0, 0));
    }
}
