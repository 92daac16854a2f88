//! Policy changes (R11): what deletes less or later takes effect by itself, what deletes more or sooner only once somebody accepted it, and two
//! replicas with different files never both act.

use retentiond::{
    failure::Failure,
    planner::{Look, Report},
    safeguards::agreement::Agreement,
};
use serde_json::json;

use crate::world::{ALL, World, left, until};

async fn resync(world: &World) -> Report {
    world.app().await.unwrap().planner().look(Look::Resync).await.unwrap()
}

fn report(settled: u64, scheduled: u64, rescheduled: u64, cancelled: u64) -> Report {
    Report { settled, scheduled, rescheduled, cancelled, quarantined: 0 }
}

/// Running it is refused as waiting, with nothing done; the changes in words.
async fn refused(world: &World) -> String {
    let before = world.json(&["jobs", "list"]);
    let failure = world.run_passes().await.unwrap_err();
    assert!(matches!(failure, Failure::Policy(_)), "{failure}");
    assert_eq!(failure.exit_code(), 13);
    assert_eq!(world.json(&["jobs", "list"]), before, "nothing was planned or purged");
    failure.to_string()
}

#[tokio::test]
async fn r11_a_longer_period_moves_open_jobs_by_itself_and_a_shorter_one_waits_for_its_acceptance() {
    let mut world = World::new().await;
    world.account("a", "null", "now() - interval '20 days'", "null").await;
    resync(&world).await;
    let before = world.job("a", "configuration").await;

    let rules = world.rules.clone();
    world.rules = rules.replace("\"30d\"", "\"60d\"");
    assert_eq!(resync(&world).await, report(1, 0, 1, 0), "the queue's rule is the same");
    let longer = world.job("a", "configuration").await;
    assert_eq!((&longer.id, (longer.retain_until - longer.started_at).num_days()), (&before.id, 60));
    assert_ne!(longer.policy, before.policy);

    // Not even the way back is taken by itself: sixty days were promised.
    world.rules = rules.replace("\"30d\"", "\"10d\"");
    let why = refused(&world).await;
    assert!(why.contains("mps/configuration: retain_for changes from 60d to 10d"), "{why}");
    assert_eq!(world.left("a").await, ALL, "ten days have passed, and sixty were promised");
    assert_eq!(world.cli(&["status", "--check"]).status.code(), Some(3));
    assert_eq!(world.cli(&["run", "--once"]).status.code(), Some(13));

    let shown = world.json(&["policy", "show"]);
    assert_eq!(
        (&shown["in_force"], &shown["changes"][0]["needs_acceptance"], &shown["changes"][1]),
        (&json!(false), &json!(true), &json!(null))
    );
    // The queue has been due all along, and is not the doing of this policy.
    assert_eq!(
        shown["consequences"],
        json!([{"class": "mps/configuration", "new": 0, "sooner": 1, "later": 0, "due_at_once": 1, "cancelled": 0}])
    );
    world.accept();
    assert_eq!(world.json(&["policy", "show"])["in_force"], true);
    world.run_passes().await.unwrap();
    let shorter = world.job("a", "configuration").await;
    assert_eq!((&shorter.id, shorter.state.as_str()), (&before.id, "completed"));
    assert_eq!((shorter.retain_until - shorter.started_at).num_days(), 10);
    assert_eq!((shorter.delete_by - shorter.retain_until).num_hours(), 24);
    assert_eq!(world.left("a").await, left(0, 0, 0, 2));
}

#[tokio::test]
async fn r11_an_added_target_waits_and_then_opens_the_class_again_where_its_point_stands() {
    let mut world = World::new().await;
    world.account("a", "null", "now() - interval '40 days'", "null").await;
    world.account("live", "null", "null", "null").await;
    world
        .sql("create table drafts (account_id text); create index on drafts (account_id); insert into drafts values ('a'), ('a'), ('live')")
        .await;
    world.run_passes().await.unwrap();
    assert_eq!(world.count("drafts").await, 3);
    let target = "[[data_classes.targets]]\nstore = \"platform\"\ntable = \"task_configurations\"";
    world.rules = world.rules.replace(
        target,
        &format!("[[data_classes.targets]]\nstore = \"platform\"\ntable = \"drafts\"\naccount_column = \"account_id\"\n\n{target}"),
    );
    assert!(refused(&world).await.contains("target platform/drafts is new"));
    assert_eq!(world.count("drafts").await, 3);
    world.accept();
    world.run_passes().await.unwrap();
    assert_eq!(world.count("drafts where account_id = 'a'").await, 0);
    assert_eq!(world.count("drafts where account_id = 'live'").await, 1);
    let job = world.job("a", "configuration").await;
    assert_eq!(job.records_deleted.0["platform/drafts"], 2);
    assert_eq!(job.outcomes.0["platform/task_configurations"], "never existed");
    assert_eq!(job.outcomes.0["platform/drafts"], "deleted");
    assert_eq!(world.jobs("a").await.len(), 3);
}

#[tokio::test]
async fn r11_a_starting_point_that_the_class_no_longer_lists_cancels_its_jobs_as_policy() {
    let mut world = World::new().await;
    world.account("a", "null", "null", "now() - interval '3 days'").await;
    world.account("b", "null", "now() - interval '2 days'", "now() - interval '3 days'").await;
    resync(&world).await;
    world.rules = world.rules.replace(", \"cmq_disabled\"]", "]");
    resync(&world).await;
    assert_eq!(world.job("a", "queue").await.cancel_reason.as_deref(), Some("policy"));
    let other = world.job("b", "queue").await;
    assert_eq!((other.starting_point.as_str(), other.state.as_str()), ("feature_terminated", "scheduled"));
}

#[tokio::test]
async fn r11_a_class_that_is_left_out_cancels_its_jobs_and_comes_back_only_when_accepted() {
    let mut world = World::new().await;
    world.account("a", "null", "now() - interval '2 days'", "null").await;
    resync(&world).await;
    let rules = world.rules.clone();
    let (head, tail) = rules.split_once("[[data_classes]]\nfeature = \"mps\"\nname = \"queue\"").unwrap();
    let media = tail.split_once("[[data_classes]]").unwrap().1;
    world.rules = format!("{head}[[data_classes]]{media}");
    let app = world.app().await.unwrap();
    assert_eq!(app.planner().look(Look::Resync).await.unwrap(), report(0, 0, 0, 1));
    let queue = world.job("a", "queue").await;
    assert_eq!((queue.state.as_str(), queue.cancel_reason.as_deref()), ("cancelled", Some("policy")));
    assert_eq!(world.job("a", "configuration").await.state, "scheduled");
    assert_eq!(world.left("a").await, ALL);

    world.rules = rules;
    assert!(refused(&world).await.contains("mps/queue: is a new data class"));
    world.accept();
    assert_eq!(resync(&world).await, report(1, 1, 0, 0));
    let again = world.job("a", "queue").await;
    assert_eq!((again.state.as_str(), again.started_at), ("scheduled", queue.started_at));
}

/// A replica that crashed, or was out of reach, and comes back with the file of yesterday.
#[tokio::test]
async fn r11_a_replica_that_restarts_with_an_old_file_takes_back_nothing() {
    let mut world = World::new().await;
    world.account("a", "null", "now() - interval '2 days'", "null").await;
    resync(&world).await;
    let old = world.rules.clone();
    world.rules = old.replace("\"30d\"", "\"20d\"");
    world.accept();
    resync(&world).await;
    let accepted = world.job("a", "configuration").await;
    world.rules = old;
    assert!(refused(&world).await.contains("retain_for changes from 20d to 30d"), "it deletes later, and was in force before");
    assert_eq!(world.job("a", "configuration").await.retain_until, accepted.retain_until);
    world.accept();
    resync(&world).await;
    assert_eq!((world.job("a", "configuration").await.retain_until - accepted.retain_until).num_days(), 10);
}

#[tokio::test]
async fn r23_a_target_that_is_left_out_opens_nothing_again() {
    let mut world = World::new().await;
    world.account("a", "null", "now() - interval '40 days'", "null").await;
    world.run_passes().await.unwrap();
    let jobs = world.jobs("a").await.len();
    let target = "[[data_classes.targets]]\nstore = \"platform\"\ntable = \"task_configurations\"\naccount_column = \"account_id\"\n";
    assert!(world.rules.contains(target));
    world.rules = world.rules.replace(target, "");
    assert_eq!(resync(&world).await, report(0, 0, 0, 0));
    assert_eq!(world.jobs("a").await.len(), jobs);
    assert_eq!(world.json(&["plan"])["jobs"], json!([]));
}

/// The promise's first case of an accident: a period with a digit less in one replica's file.
#[tokio::test]
async fn r11_two_replicas_with_different_files_never_both_act() {
    let mut world = World::new().await;
    world.account("a", "null", "now() - interval '20 days'", "null").await;
    let first = world.app().await.unwrap();
    first.planner().look(Look::Resync).await.unwrap();
    world.rules = world.rules.replace("\"30d\"", "\"3d\"");
    let second = world.app().await.unwrap();
    assert!(matches!(second.agree().await.unwrap(), Agreement::Waiting(_)));
    let refusal = second.planner().look(Look::Resync).await.unwrap_err().to_string();
    assert!(refusal.contains("another policy is in force"), "{refusal}");
    while second.executor().worker("second".to_owned()).step().await.unwrap() == retentiond::executor::Step::Worked {}
    assert_eq!(world.left("a").await, ALL, "its worker claims nothing, not even what is due under both");
    // Once the other is accepted, it is the first that stands still.
    world.accept();
    assert!(matches!(first.agreement().await.unwrap(), Agreement::Waiting(_)));
    assert!(first.planner().look(Look::Resync).await.is_err());
    world.account("b", "null", "now()", "null").await;
    assert!(first.planner().look(Look::Poll).await.is_err(), "a poll makes no job under a policy that was replaced either");
    assert_eq!(world.jobs("b").await.len(), 0);
    while first.executor().worker("first".to_owned()).step().await.unwrap() == retentiond::executor::Step::Worked {}
    assert_eq!(world.left("a").await, ALL);
    second.planner().look(Look::Resync).await.unwrap();
    while second.executor().worker("second".to_owned()).step().await.unwrap() == retentiond::executor::Step::Worked {}
    assert_eq!(world.left("a").await, left(0, 0, 0, 2));
}

#[tokio::test]
async fn r11_a_daemon_whose_policy_waits_says_so_stays_unready_and_goes_on_when_it_is_accepted() {
    let mut world = World::new().await;
    world.account("a", "null", "now() - interval '20 days'", "null").await;
    resync(&world).await;
    world.rules = world.rules.replace("\"30d\"", "\"3d\"");
    let mut daemon = world.daemon();
    let waiting = daemon.wait_for("that it waits", |e| e["event"] == "policy.waiting").await;
    assert_eq!(waiting["level"], "error");
    assert!(waiting["changes"].as_str().unwrap().contains("retain_for changes from 30d to 3d"), "{waiting}");
    world.accept();
    until("the purge under the accepted policy", async || world.left("a").await == left(0, 0, 0, 2)).await;
    let events = daemon.events();
    assert_eq!(events.iter().filter(|e| e["event"] == "policy.waiting").count(), 1, "told once");
    let at = |event: &str| events.iter().position(|e| e["event"] == event);
    assert!(at("policy.accepted") < at("job.rescheduled") && at("policy.waiting") < at("policy.accepted"));
    daemon.signal(rustix::process::Signal::TERM);
    assert_eq!(daemon.ended().await, Some(0));
}

/// Whoever forged or broke the record of what was accepted stops everything; the database has the last word.
#[tokio::test]
async fn i6_without_an_accepted_policy_nothing_is_planned_or_purged() {
    let world = World::new().await;
    world.account("a", "null", "now() - interval '40 days'", "null").await;
    let app = world.app().await.unwrap();
    app.planner().look(Look::Resync).await.unwrap();
    world.sql("delete from retention.policies").await;
    while app.executor().worker("worker".to_owned()).step().await.unwrap() == retentiond::executor::Step::Worked {}
    assert!(app.planner().look(Look::Resync).await.is_err());
    assert_eq!(world.left("a").await, ALL);
}
