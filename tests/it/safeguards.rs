//! What people do to stop deletion and to let it go on, through the program; and the guard that stops it by itself.

use retentiond::{
    app::App,
    database::{Database, Purpose},
    executor::Step,
    planner::Look,
    safeguards::{self, Admission},
};
use serde_json::{Value, json};

use crate::world::{ALL, Left, World, left, until};

const OLD: &str = "now() - interval '31 days'";
const GONE: Left = Left { templates: 0, tasks: 0, messages: 0, media: 2 };

/// Runs a verb that must succeed.
fn did(world: &World, arguments: &[&str]) -> Value {
    let output = world.cli(&[arguments, &["-o", "json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
}

/// The exit code of a verb, and what it said.
fn tried(world: &World, arguments: &[&str]) -> (Option<i32>, String) {
    let output = world.cli(arguments);
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

async fn world_with(accounts: &[&str]) -> World {
    let world = World::new().await;
    for id in accounts {
        world.account(id, "null", OLD, "null").await;
    }
    world
}

#[tokio::test]
async fn i5_a_hold_stops_the_purge_and_its_release_makes_eligible_without_deleting() {
    let world = world_with(&["a", "b"]).await;
    let placed = did(&world, &["hold", "place", "--account", "a", "--reason", "litigation 7", "--by", "kim"]);
    world.run_passes().await.unwrap();
    assert_eq!((world.left("a").await, world.left("b").await), (ALL, GONE));
    let listed = world.json(&["hold", "list"]);
    let hold = &listed[0];
    assert_eq!(listed.as_array().unwrap().len(), 1);
    // R42
    assert_eq!(hold["id"], placed["id"]);
    assert!(hold["id"].is_string());
    let mut keys: Vec<&String> = hold.as_object().unwrap().keys().collect();
    keys.sort();
    assert_eq!(keys, ["account_id", "data_class", "feature", "id", "placed_at", "placed_by", "reason", "until"]);
    assert_eq!(
        (&hold["account_id"], &hold["feature"], &hold["data_class"], &hold["reason"], &hold["placed_by"], &hold["until"]),
        (&json!("a"), &Value::Null, &Value::Null, &json!("litigation 7"), &json!("kim"), &Value::Null)
    );
    let job = world.job("a", "configuration").await;
    assert!(job.held && !job.overdue && job.attempts == 0);
    assert_eq!(world.json(&["status"])["jobs"]["held"], 2);

    let id = hold["id"].as_str().unwrap();
    did(&world, &["hold", "release", id, "--reason", "settled"]);
    assert_eq!(world.left("a").await, ALL, "a release deletes nothing by itself");
    assert_eq!(world.json(&["hold", "list"]), json!([]));
    assert_eq!(tried(&world, &["hold", "release", id, "--reason", "again"]).0, Some(1));
    world.run_passes().await.unwrap();
    assert_eq!(world.left("a").await, GONE);
}

#[tokio::test]
async fn i5_a_hold_with_an_end_ends_by_itself() {
    let world = world_with(&["a"]).await;
    let soon: String =
        sqlx::query_scalar("select to_char((now() + interval '1 hour') at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")
            .fetch_one(&mut world.connect().await)
            .await
            .unwrap();
    let hold = did(&world, &["hold", "place", "--account", "a", "--reason", "audit", "--until", &soon]);
    assert_eq!(hold["until"].as_str(), Some(soon.as_str()));
    world.run_passes().await.unwrap();
    assert_eq!(world.left("a").await, ALL);
    world.sql("update retention.holds set until = now()").await;
    assert_eq!(world.json(&["hold", "list"]), json!([]));
    world.run_passes().await.unwrap();
    assert_eq!(world.left("a").await, GONE);
}

#[tokio::test]
async fn i5_a_hold_covers_its_feature_and_its_class_and_nothing_else() {
    let world = world_with(&["class", "feature", "other"]).await;
    did(&world, &["hold", "place", "--account", "class", "--data-class", "queue", "--reason", "r"]);
    did(&world, &["hold", "place", "--account", "feature", "--feature", "mps", "--reason", "r"]);
    world.run_passes().await.unwrap();
    assert_eq!(world.left("class").await, left(0, 0, 7, 2));
    assert_eq!(world.left("feature").await, ALL);
    assert_eq!(world.left("other").await, GONE);
}

/// A hold that matches nothing because of a slip of the pen would let everything be deleted.
#[tokio::test]
async fn i5_a_hold_or_pause_that_could_never_match_is_refused() {
    let world = world_with(&["a"]).await;
    for (arguments, named) in [
        (&["hold", "place", "--account", "a", "--data-class", "quue", "--reason", "r"][..], "quue"),
        (&["hold", "place", "--account", "a", "--feature", "mpz", "--reason", "r"][..], "mpz"),
        (&["hold", "place", "--account", "", "--reason", "r"][..], "account"),
        (&["hold", "place", "--account", "a", "--until", "2020-01-01T00:00:00Z", "--reason", "r"][..], "2020-01-01"),
        (&["pause", "--data-class", "quue", "--reason", "r"][..], "quue"),
        (&["pause", "--account", "", "--reason", "r"][..], "account"),
    ] {
        let (code, said) = tried(&world, arguments);
        assert!(code == Some(1) || code == Some(2), "{arguments:?} ended with {code:?}");
        assert!(said.contains(named), "{said}");
    }
    assert_eq!(world.count("retention.holds").await + world.count("retention.pauses").await, 0);
}

#[tokio::test]
async fn i5_an_account_that_no_source_can_spell_so_is_refused() {
    let world = World::new().await;
    world.sql("alter table feature_subscriptions drop constraint feature_subscriptions_account_id_fkey").await;
    let id = "6f8a1c2e-0000-4000-8000-0000000000ab";
    let acts: [&[&str]; 2] = [&["hold", "place"], &["pause"]];
    let act = |act: &[&str], id: &str| {
        let mut arguments = act.to_vec();
        arguments.extend(["--account", id, "--reason", "r"]);
        arguments.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let try_it = |arguments: &[String]| tried(&world, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    // Text may be spelt in any way.
    assert_eq!(try_it(&act(acts[0], "any")).0, Some(0));
    world.sql("delete from retention.holds").await;
    for table in ["accounts", "feature_subscriptions"] {
        world.sql(&format!("delete from {table}; alter table {table} alter account_id type uuid using account_id::uuid")).await;
    }
    for verb in acts {
        for wrong in [id.to_uppercase(), id.replace('-', ""), format!("{{{id}}}"), "7".to_owned()] {
            let (code, said) = try_it(&act(verb, &wrong));
            assert!(code == Some(1) && said.contains("of type uuid"), "{verb:?} {wrong}: {code:?} {said}");
        }
        assert_eq!(try_it(&act(verb, id)).0, Some(0));
    }
    assert_eq!((world.count("retention.holds").await, world.count("retention.pauses").await), (1, 1));
    // Whoever has to stop something does not wait for the sources to be as they should.
    world.sql("drop table accounts, feature_subscriptions cascade").await;
    assert_eq!(try_it(&act(acts[0], "any")).0, Some(0));
}

#[tokio::test]
async fn i5_an_act_needs_a_reason() {
    let world = world_with(&[]).await;
    for arguments in [
        &["hold", "place", "--account", "a"][..],
        &["hold", "place", "--account", "a", "--reason", "  "][..],
        &["pause"][..],
        &["resume", "--reason", ""][..],
        &["guard", "release"][..],
    ] {
        assert_eq!(tried(&world, arguments).0, Some(2), "{arguments:?}");
    }
}

#[tokio::test]
async fn r36_a_bare_resume_lifts_only_the_global_pause() {
    let world = world_with(&["a", "b"]).await;
    did(&world, &["pause", "--reason", "storm"]);
    did(&world, &["pause", "--account", "a", "--reason", "r"]);
    did(&world, &["pause", "--data-class", "queue", "--reason", "r"]);
    world.run_passes().await.unwrap();
    assert_eq!((world.left("a").await, world.left("b").await), (ALL, ALL));
    assert_eq!(world.json(&["status"])["paused"], json!(true));
    did(&world, &["resume", "--reason", "calm"]);
    assert_eq!(world.json(&["status"])["paused"], json!(false));
    assert_eq!(tried(&world, &["resume", "--reason", "again"]).0, Some(1));
    world.run_passes().await.unwrap();
    assert_eq!((world.left("a").await, world.left("b").await), (ALL, left(0, 0, 7, 2)));
    did(&world, &["resume", "--data-class", "queue", "--reason", "r"]);
    world.run_passes().await.unwrap();
    assert_eq!((world.left("a").await, world.left("b").await), (ALL, GONE));
    did(&world, &["resume", "--account", "a", "--reason", "r"]);
    world.run_passes().await.unwrap();
    assert_eq!(world.left("a").await, GONE);
}

#[tokio::test]
async fn r28_what_is_paused_becomes_overdue_and_what_is_held_does_not() {
    let world = world_with(&[]).await;
    world.account("paused", "null", "now() - interval '40 days'", "null").await;
    world.account("held", "null", "now() - interval '40 days'", "null").await;
    did(&world, &["pause", "--account", "paused", "--reason", "r"]);
    did(&world, &["hold", "place", "--account", "held", "--reason", "r"]);
    world.run_passes().await.unwrap();
    assert!(world.job("paused", "queue").await.overdue);
    assert!(!world.job("held", "queue").await.overdue);
    assert_eq!(world.json(&["status"])["jobs"]["overdue"], 2);
    assert_eq!(tried(&world, &["status", "--check"]).0, Some(3));
}

async fn guarded(accounts: &[&str], limits: &[(&str, &str)]) -> World {
    let mut world = world_with(accounts).await;
    for (key, value) in limits {
        world.set(&format!("GUARD__{key}"), value);
    }
    world
}

/// `run --once` through the program: the exit code.
fn once(world: &World) -> Option<i32> {
    world.cli(&["run", "--once"]).status.code()
}

#[tokio::test]
async fn i12_the_guard_lets_through_what_reaches_a_limit_and_nothing_of_what_exceeds_it() {
    let world = guarded(&["a", "b"], &[("MAX_ACCOUNTS", "2")]).await;
    assert_eq!(once(&world), Some(0));
    assert_eq!((world.left("a").await, world.left("b").await), (GONE, GONE));
    // The window remembers: one more account is the third.
    world.account("c", "null", OLD, "null").await;
    assert_eq!(once(&world), Some(13));
    assert_eq!(world.left("c").await, ALL);
    let guard = world.json(&["guard", "status"]);
    assert_eq!(guard["tripped"], true);
    assert!(guard["reason"].as_str().unwrap().contains("max_accounts"));
    assert_eq!(tried(&world, &["status", "--check"]).0, Some(3));
    // It stays tripped whatever the limit says now.
    let mut world = world;
    world.set("GUARD__MAX_ACCOUNTS", "unlimited");
    assert_eq!(once(&world), Some(13));
    assert_eq!(world.left("c").await, ALL);
}

#[tokio::test]
async fn i12_a_release_lets_through_what_waited_and_no_more_and_the_released_do_not_count() {
    let world = guarded(&["a", "b", "c"], &[("MAX_ACCOUNTS", "2")]).await;
    assert_eq!(once(&world), Some(13));
    for id in ["a", "b", "c"] {
        assert_eq!(world.left(id).await, ALL, "none begins when one is too many");
    }
    did(&world, &["guard", "release", "--reason", "a planned closure"]);
    assert_eq!(world.left("a").await, ALL, "a release deletes nothing by itself");
    assert_eq!(tried(&world, &["guard", "release", "--reason", "again"]).0, Some(1));
    // These two were not waiting; they are weighed anew, and the three released do not count.
    world.account("d", "null", OLD, "null").await;
    world.account("e", "null", OLD, "null").await;
    assert_eq!(once(&world), Some(0));
    for id in ["a", "b", "c", "d", "e"] {
        assert_eq!(world.left(id).await, GONE);
    }
    world.account("f", "null", OLD, "null").await;
    assert_eq!(once(&world), Some(13));
    assert_eq!(world.left("f").await, ALL);
}

#[tokio::test]
async fn i12_zero_is_none() {
    let world = guarded(&["a"], &[("MAX_ACCOUNTS", "0")]).await;
    assert_eq!(once(&world), Some(13));
    assert_eq!(world.left("a").await, ALL);
    let world = guarded(&[], &[("MAX_ACCOUNTS", "0")]).await;
    world.account("young", "null", "now() - interval '1 day'", "null").await;
    assert_eq!(once(&world), Some(0), "nothing is due, nothing is withheld");
    assert_eq!(world.json(&["guard", "status"])["tripped"], false);
}

#[tokio::test]
async fn i12_the_share_counts_from_its_floor_on() {
    // Two of four is more than 40 %, but four is below the floor of five.
    let world = guarded(&["a", "b"], &[("MAX_SHARE", "40%"), ("SHARE_FLOOR", "5")]).await;
    world.account("c", "null", "null", "null").await;
    world.account("d", "null", "null", "null").await;
    assert_eq!(once(&world), Some(0));
    // Two of five is exactly 40 %; three of five is more.
    let world = guarded(&["a", "b"], &[("MAX_SHARE", "40%"), ("SHARE_FLOOR", "5")]).await;
    for id in ["c", "d", "e"] {
        world.account(id, "null", "null", "null").await;
    }
    assert_eq!(once(&world), Some(0));
    world.sql(&format!("update feature_subscriptions set terminated_at = {OLD} where account_id = 'c'")).await;
    assert_eq!(once(&world), Some(13));
    assert_eq!(world.left("c").await, ALL);
    assert!(world.json(&["guard", "status"])["reason"].as_str().unwrap().contains("max_share"));
}

/// Between a release and the next full comparison the share is limited like before.
#[tokio::test]
async fn i12_the_share_is_limited_right_after_a_release_too() {
    let world = guarded(&["a", "b", "c"], &[("MAX_SHARE", "40%"), ("SHARE_FLOOR", "5")]).await;
    for id in ["d", "e"] {
        world.account(id, "null", "null", "null").await;
    }
    assert_eq!(once(&world), Some(13));
    did(&world, &["guard", "release", "--reason", "planned"]);
    let app = world.app().await.unwrap();
    world.sql(&format!("update feature_subscriptions set terminated_at = {OLD}")).await;
    app.planner().look(Look::Poll).await.unwrap();
    world.sql("update retention.jobs set admitted_at = null").await;
    let mut tx = app.database.begin(Purpose::Bulk).await.unwrap();
    let admission = safeguards::admit(&mut tx, &app.config.guard).await.unwrap();
    assert!(matches!(admission, Admission::Tripped(_)), "{admission:?}");
}

#[tokio::test]
async fn i12_a_source_that_lost_all_its_accounts_trips_below_the_floor_too() {
    let mut world = guarded(&["a", "b"], &[("MAX_SHRINK", "10%"), ("MAX_ACCOUNTS", "unlimited")]).await;
    world.sql("update feature_subscriptions set terminated_at = null").await;
    assert_eq!(once(&world), Some(0));
    world.sql("delete from accounts").await;
    assert_eq!(once(&world), Some(0), "nothing is due yet");
    assert_eq!(world.json(&["guard", "status"])["tripped"], true, "R43: at the first look");
    assert_eq!((world.left("a").await, world.left("b").await), (ALL, ALL));
    // R31: unless every shrinking is allowed.
    world = guarded(&["a"], &[("MAX_SHRINK", "100%")]).await;
    assert_eq!(once(&world), Some(0));
    world.sql("delete from accounts").await;
    once(&world);
    assert_eq!(world.json(&["guard", "status"])["tripped"], false);
}

#[tokio::test]
async fn i6_a_guard_whose_state_is_missing_stops_everything_until_somebody_releases_it() {
    let world = guarded(&["a"], &[]).await;
    world.sql("delete from retention.guard").await;
    assert_eq!(once(&world), Some(13));
    assert_eq!(world.left("a").await, ALL);
    assert_eq!(world.json(&["guard", "status"])["tripped"], true);
    assert_eq!(tried(&world, &["status", "--check"]).0, Some(3));
    did(&world, &["guard", "release", "--reason", "restored from a dump without it"]);
    assert_eq!(once(&world), Some(0));
    assert_eq!(world.left("a").await, GONE);
}

/// Two replicas weigh at the same moment; together they would pass the limit.
#[tokio::test]
async fn r31_replicas_cannot_pass_a_limit_together() {
    let world = guarded(&["a", "b"], &[("MAX_ACCOUNTS", "2")]).await;
    let (one, two) = (world.app().await.unwrap(), world.app().await.unwrap());
    one.planner().look(Look::Resync).await.unwrap();
    let mut first = one.database.begin(Purpose::Bulk).await.unwrap();
    sqlx::query("set local idle_in_transaction_session_timeout = 0").execute(&mut *first).await.unwrap();
    assert_eq!(safeguards::admit(&mut first, &one.config.guard).await.unwrap(), Admission::Admitted(2));
    world.account("c", "null", OLD, "null").await;
    two.planner().look(Look::Resync).await.unwrap();
    let second = async {
        let mut tx = two.database.begin(Purpose::Bulk).await.unwrap();
        let admission = safeguards::admit(&mut tx, &two.config.guard).await.unwrap();
        Database::commit(tx).await.unwrap();
        admission
    };
    let waits = "pg_locks where locktype = 'advisory' and not granted and database = (select oid from pg_database where datname = current_database())";
    let commit = async {
        until("the second replica waits", async || world.count(waits).await == 1).await;
        Database::commit(first).await.unwrap();
    };
    let (admission, ()) = tokio::join!(second, commit);
    assert!(matches!(admission, Admission::Tripped(_)), "{admission:?}");
    assert_eq!(world.count("retention.jobs where account_id = 'c' and admitted_at is not null").await, 0);
    // A trip stops the start of everything, admitted or not.
    exhaust(&one).await;
    assert_eq!(world.left("a").await, ALL);
}

/// A release is for what waited; accounts that were let in within the limit go on counting.
#[tokio::test]
async fn r31_a_release_leaves_accounts_counted_that_were_within_the_limit() {
    let world = guarded(&["a", "b"], &[("MAX_ACCOUNTS", "2")]).await;
    let app = world.app().await.unwrap();
    app.planner().look(Look::Resync).await.unwrap();
    let weigh = async || {
        let mut tx = app.database.begin(Purpose::Bulk).await.unwrap();
        let admission = safeguards::admit(&mut tx, &app.config.guard).await.unwrap();
        Database::commit(tx).await.unwrap();
        admission
    };
    assert_eq!(weigh().await, Admission::Admitted(2), "and nobody has claimed them yet");
    world.account("c", "null", OLD, "null").await;
    app.planner().look(Look::Resync).await.unwrap();
    assert!(matches!(weigh().await, Admission::Tripped(_)));
    did(&world, &["guard", "release", "--reason", "planned"]);
    assert_eq!(world.count("retention.admissions where released").await, 1, "c alone");
    assert_eq!(weigh().await, Admission::Nothing, "all of them may begin");
    exhaust(&app).await;
    assert_eq!((world.left("a").await, world.left("c").await), (GONE, GONE));
    world.account("d", "null", OLD, "null").await;
    app.planner().look(Look::Resync).await.unwrap();
    assert!(matches!(weigh().await, Admission::Tripped(_)), "a and b still count");
}

/// Accounts that were let in under a higher limit have to pass the one of today before they begin.
#[tokio::test]
async fn i12_a_limit_that_was_lowered_holds_for_what_has_not_begun() {
    let mut world = guarded(&["a", "b"], &[("MAX_ACCOUNTS", "2")]).await;
    let app = world.app().await.unwrap();
    app.planner().look(Look::Resync).await.unwrap();
    let mut tx = app.database.begin(Purpose::Bulk).await.unwrap();
    assert_eq!(safeguards::admit(&mut tx, &app.config.guard).await.unwrap(), Admission::Admitted(2));
    Database::commit(tx).await.unwrap();
    world.set("GUARD__MAX_ACCOUNTS", "0");
    assert_eq!(once(&world), Some(13));
    assert_eq!((world.left("a").await, world.left("b").await), (ALL, ALL));
}

/// Whoever falls due with an earlier date than a long queue is weighed at the next claim, not when the queue is empty.
#[tokio::test]
async fn i13_who_comes_to_the_head_of_the_queue_unweighed_is_purged_before_the_rest() {
    let world = guarded(&[], &[("MAX_ACCOUNTS", "unlimited"), ("MAX_SHARE", "100%")]).await;
    for i in 0..300 {
        world.account(&format!("queued-{i}"), "null", OLD, "null").await;
    }
    let app = world.app().await.unwrap();
    app.planner().look(Look::Resync).await.unwrap();
    let mut worker = app.executor().worker("one".to_owned());
    assert_eq!(worker.step().await.unwrap(), Step::Worked);
    world.account("head", "null", &format!("{OLD} - interval '1 day'"), "null").await;
    app.planner().look(Look::Resync).await.unwrap();
    for _ in 0..4 {
        worker.step().await.unwrap();
    }
    assert_eq!(world.left("head").await, GONE);
    assert!(world.count("retention.jobs where account_id like 'queued-%'").await > 0, "the queue is not empty yet");
}

/// Whoever waits while another replica weighs claims what that one let in: `run --once` would end with due jobs left.
#[tokio::test]
async fn r33_who_waited_for_another_replicas_weighing_goes_on() {
    let world = guarded(&["a", "b"], &[]).await;
    let app = world.app().await.unwrap();
    app.planner().look(Look::Resync).await.unwrap();
    let mut other = app.database.begin(Purpose::Bulk).await.unwrap();
    sqlx::query("set local idle_in_transaction_session_timeout = 0").execute(&mut *other).await.unwrap();
    assert_eq!(safeguards::admit(&mut other, &app.config.guard).await.unwrap(), Admission::Admitted(2));
    let mut worker = app.executor().worker("waiting".to_owned());
    let waits = "pg_locks where locktype = 'advisory' and not granted and database = (select oid from pg_database where datname = current_database())";
    let commit = async {
        until("the worker waits", async || world.count(waits).await == 1).await;
        Database::commit(other).await.unwrap();
    };
    let (step, ()) = tokio::join!(worker.step(), commit);
    assert_eq!(step.unwrap(), Step::Worked);
}

async fn exhaust(app: &App) {
    let mut worker = app.executor().worker("one".to_owned());
    while worker.step().await.unwrap() == Step::Worked {}
}

/// Weighing very many jobs takes a while; whoever else wants to weigh waits for it instead of failing.
#[tokio::test]
async fn r31_a_replica_waits_for_another_that_weighs_for_long() {
    let world = guarded(&["a"], &[]).await;
    let app = world.app().await.unwrap();
    app.planner().look(Look::Resync).await.unwrap();
    let mut slow = app.database.begin(Purpose::Bulk).await.unwrap();
    assert!(matches!(safeguards::admit(&mut slow, &app.config.guard).await.unwrap(), Admission::Admitted(_)));
    let slowly = async {
        sqlx::query("select pg_sleep(3)").execute(&mut *slow).await.unwrap();
        Database::commit(slow).await.unwrap();
    };
    let ((), ()) = tokio::join!(slowly, exhaust(&app));
    exhaust(&app).await;
    assert_eq!(world.left("a").await, GONE);
}

/// What is held or paused does not begin, so it takes nobody's place in the window.
#[tokio::test]
async fn r31_what_is_held_or_paused_is_not_weighed_until_it_is_released() {
    let world = guarded(&["a", "b", "c"], &[("MAX_ACCOUNTS", "2")]).await;
    let hold = did(&world, &["hold", "place", "--account", "c", "--reason", "r"]);
    assert_eq!(once(&world), Some(0));
    assert_eq!((world.left("a").await, world.left("b").await, world.left("c").await), (GONE, GONE, ALL));
    did(&world, &["hold", "release", hold["id"].as_str().unwrap(), "--reason", "r"]);
    assert_eq!(once(&world), Some(13));
    assert_eq!(world.left("c").await, ALL);
}

#[tokio::test]
async fn each_act_is_logged_with_its_actor_and_its_reason() {
    let world = guarded(&["a"], &[("MAX_ACCOUNTS", "0")]).await;
    once(&world);
    let id = did(&world, &["hold", "place", "--account", "a", "--reason", "r"])["id"].as_str().unwrap().to_owned();
    for (event, arguments) in [
        ("hold.placed", &["hold", "place", "--account", "x", "--reason", "because", "--by", "kim"][..]),
        ("hold.released", &["hold", "release", &id, "--reason", "because", "--by", "kim"][..]),
        ("control.paused", &["pause", "--reason", "because", "--by", "kim"][..]),
        ("control.resumed", &["resume", "--reason", "because", "--by", "kim"][..]),
        ("guard.released", &["guard", "release", "--reason", "because", "--by", "kim"][..]),
    ] {
        let output = world.cli(arguments);
        assert!(output.status.success(), "{event}");
        let said = String::from_utf8(output.stderr).unwrap();
        let line: Value = said.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()).find(|e| e["event"] == event).unwrap();
        assert_eq!((&line["reason"], &line["actor"]), (&json!("because"), &json!("kim")), "{line}");
    }
}

#[tokio::test]
async fn r26_a_job_that_can_never_be_verified_is_closed_and_nothing_ever_says_deleted() {
    let world = world_with(&["a", "b"]).await;
    let not_yet = tried(&world, &["jobs", "close", "1", "--reason", "r"]);
    assert_eq!(not_yet.0, Some(1), "{not_yet:?}");
    world
        .sql(
            "create function trap() returns trigger language plpgsql as $$ begin
                 if old.account_id = 'a' then raise exception 'never this one'; end if; return old; end $$;
             create trigger trap before delete on task_configurations for each row execute function trap()",
        )
        .await;
    assert_eq!(once(&world), Some(1));
    let failed = world.job("a", "configuration").await;
    let (code, said) = tried(&world, &["jobs", "close", &failed.id, "--reason", "the table is gone for good", "--by", "kim"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("\"cancel_reason\":\"unverifiable\"") && said.contains("\"actor\":\"kim\""), "{said}");
    let closed = world.job("a", "configuration").await;
    assert_eq!((closed.state.as_str(), closed.cancel_reason.as_deref(), closed.completed_at), ("cancelled", Some("unverifiable"), None));
    let error = closed.last_error.unwrap();
    assert!(error.contains("never this one") && error.ends_with("closed by kim: the table is gone for good"), "{error}");
    // Nobody takes it up again, and nobody looks whether it came back; the neighbour and a later termination are as ever.
    assert_eq!(once(&world), Some(0));
    assert_eq!((world.job("a", "configuration").await.id, world.left("a").await.tasks), (closed.id.clone(), 5));
    assert_eq!(world.left("b").await, GONE);
    assert_eq!(tried(&world, &["jobs", "close", &closed.id, "--reason", "again"]).0, Some(1));
    world.sql("drop trigger trap on task_configurations; update feature_subscriptions set terminated_at = now() - interval '40 days' where account_id = 'a'").await;
    assert_eq!(once(&world), Some(0));
    assert_eq!(world.left("a").await, GONE);
}

/// A huge account that can always be claimed is no reason not to weigh who falls due beside it.
#[tokio::test]
async fn i13_who_falls_due_beside_a_huge_account_is_weighed_at_the_next_turn() {
    let mut world = guarded(&["huge"], &[("MAX_ACCOUNTS", "unlimited"), ("MAX_SHARE", "100%")]).await;
    world.set("EXECUTOR__MAX_ROWS_PER_BATCH", "10").set("EXECUTOR__CONCURRENCY", "1");
    world.sql("insert into queue_messages (account_id, event_type) select 'huge', 'WorkflowTask' from generate_series(1, 2000)").await;
    let app = world.app().await.unwrap();
    app.planner().look(Look::Resync).await.unwrap();
    let mut worker = app.executor().worker("one".to_owned());
    while world.count("retention.jobs where purge_began_at is null").await > 0 {
        assert_eq!(worker.step().await.unwrap(), Step::Worked);
    }
    world.account("new", "null", OLD, "null").await;
    app.planner().look(Look::Resync).await.unwrap();
    for _ in 0..12 {
        worker.step().await.unwrap();
    }
    assert_eq!(world.left("new").await, GONE);
    assert_eq!(world.job("huge", "queue").await.state, "scheduled", "and it is not done with yet");
}

/// What another replica let in under its limits begins under one's own or not at all.
#[tokio::test]
async fn i12_a_replica_that_starts_while_another_weighs_keeps_its_own_limits() {
    let mut world = guarded(&["a", "b"], &[("MAX_ACCOUNTS", "2")]).await;
    let app = world.app().await.unwrap();
    app.planner().look(Look::Resync).await.unwrap();
    let mut other = app.database.begin(Purpose::Bulk).await.unwrap();
    assert_eq!(safeguards::admit(&mut other, &app.config.guard).await.unwrap(), Admission::Admitted(2));
    world.set("GUARD__MAX_ACCOUNTS", "0");
    let strict = world.app().await.unwrap();
    let mut worker = strict.executor().worker("strict".to_owned());
    let waits = "pg_locks where locktype = 'advisory' and not granted and database = (select oid from pg_database where datname = current_database())";
    let commit = async {
        until("the worker waits", async || world.count(waits).await == 1).await;
        Database::commit(other).await.unwrap();
    };
    let (step, ()) = tokio::join!(worker.step(), commit);
    assert_eq!(step.unwrap(), Step::Idle);
    assert_eq!((world.left("a").await, world.left("b").await), (ALL, ALL));
    assert_eq!(world.count("retention.guard where tripped_at is not null").await, 1);
}
