//! Deletion on request (R30): what starts it, what stops it, what it fulfils, and what it leaves alone. And the acts that need two people.

use std::{process::Output, time::Duration};

use retentiond::{
    app::App,
    database::{Database, Purpose},
    executor::{
        Step, Worker,
        batch::{Batch, Extent, Verdict},
    },
    jobs::{self, Claimed},
    lifecycle::Stop,
    planner::Look,
    policy::Class,
    requests::{self, Answer},
    safeguards,
};
use serde_json::Value;

use crate::world::{ALL, World, left, until};

const GONE: crate::world::Left = crate::world::Left { templates: 0, tasks: 0, messages: 0, media: 2 };
const TWO: &str = "2";

/// A live customer `a`, and another.
async fn world() -> World {
    let world = World::new().await;
    for account in ["a", "live"] {
        world.account(account, "null", "null", "null").await;
    }
    world
}

/// A request by ann, as it is printed.
fn request(world: &World, account: &str, more: &[&str]) -> Value {
    world.json(&[&["request", "--account", account, "--reason", "asked for", "--by", "ann"], more].concat())
}

fn withdraw(world: &World, id: &str) {
    let output = world.cli(&["request", "withdraw", id, "--reason", "not meant", "--by", "bob"]);
    assert!(output.status.success(), "{}", said(&output));
}

/// The newest request.
fn newest(world: &World) -> Value {
    world.json(&["request", "list"])[0].clone()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn refused(world: &World, code: i32, words: &str, arguments: &[&str]) {
    let output = world.cli(arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", said(&output));
    assert!(said(&output).contains(words), "{arguments:?}: {}", said(&output));
}

async fn look(world: &World, look: Look) {
    let app = world.app().await.unwrap();
    app.planner().look(look).await.unwrap();
    app.database.close().await;
}

async fn exhaust(worker: &mut Worker) {
    while worker.step().await.unwrap() == Step::Worked {}
}

#[tokio::test]
async fn r30_a_request_is_carried_out_at_once_while_its_account_is_active_and_nothing_else_is_touched() {
    let world = world().await;
    let placed = request(&world, "a", &[]);
    assert_eq!((placed["state"].as_str(), placed["requested_by"].as_str()), (Some("accepted"), Some("ann")), "{placed}");
    assert_eq!((placed["requested_at"].clone(), &placed["accepted_by"]), (placed["accepted_at"].clone(), &placed["requested_by"]));
    assert_eq!(world.left("a").await, ALL);
    world.run_passes().await.unwrap();
    assert_eq!((world.left("a").await, world.left("live").await), (GONE, ALL));
    assert_eq!(world.count("accounts where deleted_at is null").await, 2, "it is as active as before");

    // Under a rule of its own, which its jobs name.
    let jobs = world.jobs("a").await;
    assert_eq!(jobs.len(), 2);
    for job in &jobs {
        assert_eq!((job.state.as_str(), job.starting_point.as_str()), ("completed", "request"));
        assert_eq!(serde_json::to_value(job).unwrap()["started_at"], placed["accepted_at"]);
        assert_eq!((job.retain_until, (job.delete_by - job.retain_until).num_days()), (job.started_at, 30));
        assert_eq!(serde_json::to_value(job).unwrap()["delete_by"], placed["due_by"]);
    }
    let fulfilled = newest(&world);
    let ids: Vec<&str> = jobs.iter().rev().map(|job| job.id.as_str()).collect();
    assert_eq!((fulfilled["state"].as_str(), fulfilled["jobs"].clone()), (Some("fulfilled"), ids.into()), "{fulfilled}");
    assert!(fulfilled["fulfilled_at"].is_string());

    // It covers what was there. Nobody looks again while nothing else stands.
    assert_eq!(world.count("retention.done_marks").await, 0);
    world.data("a").await;
    world.run_passes().await.unwrap();
    assert_eq!((world.left("a").await, world.jobs("a").await.len()), (left(3, 5, 7, 4), 2));
    // What is over cannot be withdrawn, nor accepted again.
    refused(&world, 1, "is fulfilled", &["request", "withdraw", "1", "--reason", "r"]);
    refused(&world, 1, "is fulfilled", &["request", "approve", "1", "--by", "bob"]);
    refused(&world, 1, "no request 7", &["request", "approve", "7", "--by", "bob"]);
    refused(&world, 1, "no request 7", &["request", "withdraw", "7", "--reason", "r"]);
}

#[tokio::test]
async fn i1_nothing_is_deleted_on_request_before_another_person_has_accepted_it() {
    let mut world = world().await;
    world.set("APPROVALS__REQUEST", TWO);
    let placed = request(&world, "a", &[]);
    assert_eq!((placed["state"].as_str(), &placed["accepted_at"], &placed["due_by"]), (Some("waiting"), &Value::Null, &Value::Null));
    world.run_passes().await.unwrap();
    assert_eq!((world.left("a").await, world.jobs("a").await.len()), (ALL, 0));

    for same in ["ann", "Ann "] {
        refused(&world, 13, "another person has to", &["request", "approve", "1", "--by", same]);
    }
    // Nor does it help that one person would be enough by now: it was made when two were needed.
    world.set("APPROVALS__REQUEST", "1");
    refused(&world, 13, "another person has to", &["request", "approve", "1", "--by", "ann"]);
    world.run_passes().await.unwrap();
    assert_eq!((world.left("a").await, newest(&world)["state"].as_str()), (ALL, Some("waiting")));

    let accepted = world.json(&["request", "approve", "1", "--by", "bob"]);
    assert_eq!((accepted["state"].as_str(), accepted["accepted_by"].as_str()), (Some("accepted"), Some("bob")));
    assert!(accepted["accepted_at"].as_str() > accepted["requested_at"].as_str(), "{accepted}");
    refused(&world, 1, "is accepted", &["request", "approve", "1", "--by", "carl"]);
    world.run_passes().await.unwrap();
    assert_eq!((world.left("a").await, world.left("live").await), (GONE, ALL));
    let job = serde_json::to_value(world.job("a", "queue").await).unwrap();
    assert_eq!(job["retain_until"], accepted["accepted_at"], "from when it was accepted, not from when it was made");
}

/// Whoever claims at the microsecond before it was accepted claims nothing.
#[tokio::test]
async fn i1_a_job_on_request_is_due_at_the_microsecond_it_was_accepted_and_not_before() {
    let world = world().await;
    request(&world, "a", &[]);
    look(&world, Look::Poll).await;
    let app = world.app().await.unwrap();
    let class = app.policy.classes[0].clone();
    let mut claimed = Vec::new();
    for ahead in ["1 microsecond", "0"] {
        let mut tx = app.database.begin(Purpose::Write).await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
            "update retention.requests set accepted_at = now() + interval '{ahead}', due_by = now() + interval '30 days';
             update retention.jobs set started_at = now() + interval '{ahead}', retain_until = now() + interval '{ahead}', ready_at = now()"
        )))
        .execute(&mut *tx)
        .await
        .unwrap();
        safeguards::admit(&mut tx, &app.config.guard).await.unwrap();
        let lane = jobs::Lane::Fresh;
        claimed
            .push(jobs::claim(&mut tx, &class.jobs, lane, "w", Duration::from_mins(1), Duration::from_hours(24), 9).await.unwrap().len());
        tx.rollback().await.unwrap();
    }
    assert_eq!(claimed, [0, 1]);
}

#[tokio::test]
async fn i5_a_hold_a_pause_and_the_guard_win_over_a_request_and_it_goes_on_after_them() {
    let mut world = world().await;
    world.json(&["hold", "place", "--account", "a", "--data-class", "queue", "--reason", "r"]);
    request(&world, "a", &[]);
    world.run_passes().await.unwrap();
    assert_eq!(world.left("a").await, left(0, 0, 7, 2), "only the queue is held");
    let part = newest(&world);
    assert_eq!((part["state"].as_str(), &part["fulfilled_at"]), (Some("accepted"), &Value::Null), "{part}");
    // Past its deadline it is overdue, but for what is held.
    world.sql("update retention.requests set accepted_at = accepted_at - interval '31 days', due_by = due_by - interval '31 days'").await;
    world.run_passes().await.unwrap();
    assert_eq!((&newest(&world)["overdue"], world.cli(&["status", "--check"]).status.code()), (&Value::Bool(false), Some(0)));
    world.cli(&["pause", "--account", "a", "--reason", "r"]);
    world.cli(&["hold", "release", "1", "--reason", "r"]);
    world.run_passes().await.unwrap();
    assert_eq!(world.left("a").await, left(0, 0, 7, 2), "paused");
    assert_eq!((&newest(&world)["overdue"], &world.json(&["status"])["requests"]["overdue"]), (&Value::Bool(true), &1.into()));
    refused(&world, 3, "1 requests are overdue", &["status", "--check"]);
    world.cli(&["resume", "--account", "a", "--reason", "r"]);
    world.set("GUARD__MAX_ACCOUNTS", "0");
    assert_eq!(world.run_passes().await.unwrap_err().exit_code(), 13);
    assert_eq!(world.left("a").await, left(0, 0, 7, 2), "the guard counts it like any other");
    assert!(world.cli(&["guard", "release", "--reason", "r"]).status.success());
    world.run_passes().await.unwrap();
    assert_eq!((world.left("a").await, newest(&world)["state"].as_str()), (GONE, Some("fulfilled")));
}

#[tokio::test]
async fn r30_withdrawn_before_its_purge_it_deletes_nothing() {
    let world = world().await;
    // Before any look; and when it has its job already.
    request(&world, "a", &[]);
    withdraw(&world, "1");
    request(&world, "a", &[]);
    look(&world, Look::Poll).await;
    assert_eq!(world.count("retention.jobs where starting_point = 'request'").await, 2);
    withdraw(&world, "2");
    world.run_passes().await.unwrap();
    assert_eq!(world.left("a").await, ALL);
    let jobs = world.jobs("a").await;
    assert_eq!(jobs.len(), 2, "the first never had any");
    for job in jobs {
        assert_eq!((job.state.as_str(), job.cancel_reason.as_deref()), ("cancelled", Some("withdrawn")));
    }
    let withdrawn = newest(&world);
    assert_eq!((withdrawn["state"].as_str(), withdrawn["withdrawn_by"].as_str()), (Some("withdrawn"), Some("bob")), "{withdrawn}");
    assert_eq!(withdrawn["withdraw_reason"], "not meant");
    refused(&world, 1, "is withdrawn", &["request", "withdraw", "2", "--reason", "r"]);
    refused(&world, 1, "is withdrawn", &["request", "approve", "2", "--by", "bob"]);
    world.run_passes().await.unwrap();
    assert_eq!(world.jobs("a").await.len(), 2, "and it stays so");
}

#[tokio::test]
async fn r30_withdrawn_between_two_batches_what_is_left_is_kept_and_what_is_gone_is_told() {
    let mut world = world().await;
    world.set("EXECUTOR__MAX_ROWS_PER_BATCH", "2");
    request(&world, "a", &["--data-class", "configuration"]);
    let app = world.app().await.unwrap();
    app.planner().look(Look::Poll).await.unwrap();
    let mut worker = app.executor().worker("w".to_owned());
    worker.step().await.unwrap();
    let before = world.left("a").await;
    assert!(before.templates + before.tasks < 8 && before.templates + before.tasks > 0, "{before:?}");
    withdraw(&world, "1");
    exhaust(&mut worker).await;
    assert_eq!(world.left("a").await, before);
    app.planner().look(Look::Poll).await.unwrap();
    exhaust(&mut worker).await;
    assert_eq!(world.left("a").await, before);
    let job = world.job("a", "configuration").await;
    assert_eq!((job.state.as_str(), job.cancel_reason.as_deref()), ("cancelled", Some("withdrawn")));
    assert_eq!(job.records_deleted.0.values().sum::<i64>(), 8 - before.templates - before.tasks);
}

/// A purge of `configuration` of account `a` on request, to be stopped between any two of its steps.
struct Race {
    app: App,
    class: Class,
    batch: Batch,
    claimed: Vec<Claimed>,
}

impl Race {
    async fn new(world: &World) -> Self {
        request(world, "a", &[]);
        let app = world.app().await.unwrap();
        app.planner().look(Look::Poll).await.unwrap();
        let class = app.policy.classes[0].clone();
        let batch = Batch::new(&class, &app.policy);
        let mut tx = app.database.begin(Purpose::Write).await.unwrap();
        safeguards::admit(&mut tx, &app.config.guard).await.unwrap();
        let lane = jobs::Lane::Fresh;
        let claimed = jobs::claim(&mut tx, &class.jobs, lane, "w", Duration::from_mins(10), Duration::from_hours(24), 9).await.unwrap();
        Database::commit(tx).await.unwrap();
        assert_eq!(claimed.len(), 1);
        Self { app, class, batch, claimed }
    }

    async fn withdraw(&self) {
        let mut tx = self.app.database.begin(Purpose::Write).await.unwrap();
        assert!(matches!(requests::withdraw(&mut tx, 1, "r", "b").await.unwrap(), Answer::Done(_)));
        Database::commit(tx).await.unwrap();
    }
}

#[tokio::test]
async fn r30_a_withdrawal_after_the_claim_stops_the_batch() {
    let world = world().await;
    let race = Race::new(&world).await;
    race.withdraw().await;
    let mut tx = race.app.database.begin(Purpose::Write).await.unwrap();
    race.batch.enter(&mut tx, &race.app.policy.pinned, &race.app.seen).await.unwrap();
    let verdicts = race.batch.license(&mut tx, &race.claimed).await.unwrap();
    assert_eq!(verdicts.into_values().collect::<Vec<_>>(), [Verdict::Blocked("changed")]);
    for target in &race.class.targets {
        assert_eq!(race.batch.delete(&mut tx, target, &[&race.claimed[0]], Extent::Whole).await.unwrap(), []);
    }
    Database::commit(tx).await.unwrap();
    assert_eq!(world.left("a").await, ALL);
}

#[tokio::test]
async fn r30_a_withdrawal_returns_only_after_the_batch_that_is_under_way_and_another_request_is_no_licence() {
    let world = world().await;
    let race = Race::new(&world).await;
    let mut tx = race.app.database.begin(Purpose::Write).await.unwrap();
    race.batch.enter(&mut tx, &race.app.policy.pinned, &race.app.seen).await.unwrap();
    let verdicts = race.batch.license(&mut tx, &race.claimed).await.unwrap();
    assert_eq!(verdicts.into_values().collect::<Vec<_>>(), [Verdict::Stands]);
    let batch = async {
        until("the withdrawal waits", async || world.count("pg_locks where locktype = 'advisory' and not granted").await == 1).await;
        let gone = race.batch.delete(&mut tx, &race.class.targets[0], &[&race.claimed[0]], Extent::Slice(1)).await.unwrap();
        assert_eq!(gone[0].records, 1);
        Database::commit(tx).await.unwrap();
    };
    tokio::join!(race.withdraw(), batch);
    assert_eq!(world.left("a").await, left(2, 5, 7, 2));
    // Its job is for the one that was withdrawn, though another stands by now.
    request(&world, "a", &[]);
    let mut tx = race.app.database.begin(Purpose::Write).await.unwrap();
    race.batch.enter(&mut tx, &race.app.policy.pinned, &race.app.seen).await.unwrap();
    let verdicts = race.batch.license(&mut tx, &race.claimed).await.unwrap();
    assert_eq!(verdicts.into_values().collect::<Vec<_>>(), [Verdict::Blocked("changed")]);
    for target in &race.class.targets {
        assert_eq!(race.batch.delete(&mut tx, target, &[&race.claimed[0]], Extent::Whole).await.unwrap(), []);
    }
    drop(tx);
    // Once it is settled, that one has its turn.
    world.sql("update retention.jobs set lease_until = now() where lease_until is not null").await;
    world.run_passes().await.unwrap();
    assert_eq!((world.left("a").await, newest(&world)["state"].as_str()), (GONE, Some("fulfilled")));
}

#[tokio::test]
async fn i2_a_request_postpones_no_date_that_was_promised() {
    let world = world().await;
    world.sql("update accounts set deleted_at = now() - interval '29 days' where account_id = 'a'").await;
    look(&world, Look::Resync).await;
    let promised = world.job("a", "configuration").await;
    request(&world, "a", &[]);
    look(&world, Look::Poll).await;
    let job = world.job("a", "configuration").await;
    assert_eq!((job.starting_point.as_str(), job.delete_by), ("request", promised.delete_by), "sooner than requests.fulfil_within");
    assert!(job.retain_until < promised.retain_until);
}

#[tokio::test]
async fn r30_it_advances_an_open_job_under_its_id_and_withdrawn_gives_it_its_dates_back() {
    let world = world().await;
    world.sql("update accounts set deleted_at = now() - interval '3 days' where account_id = 'a'").await;
    look(&world, Look::Resync).await;
    let first = world.job("a", "configuration").await;
    for (act, expected) in [("request", "request"), ("withdraw", "account_deleted"), ("request", "request")] {
        let id = if act == "request" { request(&world, "a", &[]) } else { newest(&world) }["id"].as_str().unwrap().to_owned();
        if act == "withdraw" {
            withdraw(&world, &id);
        }
        look(&world, Look::Poll).await;
        let job = world.job("a", "configuration").await;
        assert_eq!((job.id.as_str(), job.starting_point.as_str()), (first.id.as_str(), expected), "{act}");
        if expected == "account_deleted" {
            assert_eq!((job.started_at, job.retain_until, job.delete_by), (first.started_at, first.retain_until, first.delete_by));
        } else {
            assert!(job.retain_until < first.retain_until && job.retain_until == job.started_at);
        }
    }
    world.run_passes().await.unwrap();
    assert_eq!((world.left("a").await, world.left("live").await), (GONE, ALL));
    assert_eq!(world.json(&["jobs", "show", &first.id])["state"], "completed");
    // What else stands stands on, with its own dates, as the poll after it finds: whatever appears until then goes then.
    let own = world.job("a", "configuration").await;
    assert_eq!((own.state.as_str(), own.starting_point.as_str()), ("scheduled", "account_deleted"));
    assert_eq!((own.started_at, own.retain_until, own.delete_by), (first.started_at, first.retain_until, first.delete_by));
}

#[tokio::test]
async fn r30_a_job_that_is_due_already_stays_what_it_is_and_fulfils_the_request() {
    let world = world().await;
    // Configuration is kept for 30 days, the queue for 7: one is due, the other is not.
    world.sql("update accounts set deleted_at = now() - interval '8 days' where account_id = 'a'").await;
    look(&world, Look::Resync).await;
    let due = world.job("a", "queue").await;
    request(&world, "a", &[]);
    look(&world, Look::Poll).await;
    assert_eq!(world.job("a", "queue").await.starting_point, "account_deleted");
    assert_eq!(world.job("a", "configuration").await.starting_point, "request");
    world.run_passes().await.unwrap();
    assert_eq!(world.left("a").await, GONE);
    let done = world.job("a", "queue").await;
    assert_eq!((done.id, done.delete_by, done.state.as_str()), (due.id, due.delete_by, "completed"));
    assert_eq!(newest(&world)["state"], "fulfilled");
    assert_eq!(newest(&world)["jobs"].as_array().unwrap().len(), 2);
    assert_eq!(world.count("retention.done_marks where data_class = 'queue' and look_at is not null").await, 1, "it is watched as ever");
    assert_eq!(world.count("retention.done_marks").await, 1);
}

/// What was purged before is purged again on request, and its mark vouches for what it vouched for.
#[tokio::test]
async fn r30_a_done_mark_that_is_there_is_not_touched() {
    let world = world().await;
    world.sql("update accounts set deleted_at = now() - interval '31 days' where account_id = 'a'").await;
    world.run_passes().await.unwrap();
    world.no_look_comes().await;
    let marks = "select string_agg(d::text, ';' order by data_class) from retention.done_marks d";
    let mut connection = world.connect().await;
    let before: String = sqlx::query_scalar(marks).fetch_one(&mut connection).await.unwrap();
    world.data("a").await;
    request(&world, "a", &[]);
    world.run_passes().await.unwrap();
    assert_eq!(world.left("a").await, left(0, 0, 0, 4));
    assert_eq!(world.job("a", "queue").await.starting_point, "request");
    assert_eq!(sqlx::query_scalar::<_, String>(marks).fetch_one(&mut connection).await.unwrap(), before);
    // Withdrawn, it takes no mark along: what was carried out is not carried out again.
    request(&world, "a", &[]);
    look(&world, Look::Poll).await;
    withdraw(&world, "2");
    for _ in 0..2 {
        look(&world, Look::Resync).await;
    }
    assert_eq!(world.job("a", "queue").await.cancel_reason.as_deref(), Some("withdrawn"));
    assert_eq!(sqlx::query_scalar::<_, String>(marks).fetch_one(&mut connection).await.unwrap(), before);
    assert_eq!(world.count("retention.jobs").await, 0);
}

#[tokio::test]
async fn r30_a_request_for_one_class_or_feature_covers_that_alone() {
    let world = world().await;
    request(&world, "a", &["--data-class", "queue"]);
    world.run_passes().await.unwrap();
    assert_eq!(world.left("a").await, left(3, 5, 0, 2));
    request(&world, "live", &["--feature", "mps"]);
    world.run_passes().await.unwrap();
    assert_eq!((world.left("a").await, world.left("live").await), (left(3, 5, 0, 2), GONE));
}

#[tokio::test]
async fn i4_a_request_never_reaches_media_and_what_it_could_not_cover_is_refused() {
    let world = world().await;
    let asked = |more: &'static [&'static str]| [&["request", "--account", "a", "--reason", "r"], more].concat();
    refused(&world, 1, "mps/media is under the customer's control", &asked(&["--feature", "mps", "--data-class", "media"]));
    refused(&world, 1, "queue2 is no feature or data class", &asked(&["--data-class", "queue2"]));
    refused(&world, 1, "other is no feature or data class", &asked(&["--feature", "other"]));
    refused(&world, 2, "--reason", &["request", "--account", "a"]);
    refused(&world, 2, "--account", &["request", "--reason", "r"]);
    refused(&world, 2, "", &["request", "--account", "", "--reason", "r"]);
    refused(&world, 2, "say why", &["request", "--account", "a", "--reason", " "]);
    assert_eq!(world.count("retention.requests").await, 0);
    // An id that no source can have under this spelling.
    world
        .sql(
            "alter table feature_subscriptions drop constraint feature_subscriptions_account_id_fkey; delete from feature_subscriptions; delete from accounts;
             alter table accounts alter account_id type bigint using 0; alter table feature_subscriptions alter account_id type bigint using 0",
        )
        .await;
    refused(&world, 1, "\"a\" can be no account", &asked(&[]));
    assert_eq!(world.count("retention.requests").await, 0);
}

#[tokio::test]
async fn r30_a_row_that_is_missing_does_not_matter() {
    let mut world = world().await;
    world.set("POLL__RESYNC_INTERVAL", "1h");
    world.data("nobody").await;
    world.account("missing", "now() - interval '31 days'", "null", "null").await;
    look(&world, Look::Resync).await;
    world.sql("delete from accounts where account_id = 'missing'").await;
    assert_eq!(world.run_passes().await.unwrap_err().exit_code(), 1);
    assert_eq!(world.left("missing").await, ALL, "nobody knows yet whether it has vanished");
    assert_eq!(world.job("missing", "queue").await.blocked_by.as_deref(), Some("missing"));
    for account in ["missing", "nobody"] {
        request(&world, account, &[]);
        world.run_passes().await.unwrap();
        assert_eq!((world.left(account).await, newest(&world)["state"].as_str()), (GONE, Some("fulfilled")), "{account}");
        assert_eq!(world.job(account, "queue").await.starting_point, "request");
    }
}

#[tokio::test]
async fn r9_a_request_of_another_region_is_another_daemons() {
    let mut world = world().await;
    world.account("there", "null", "null", "null").await;
    world.sql("update accounts set region = 'eu-frankfurt' where account_id = 'there'").await;
    world.data("homeless").await;
    world.rules = world.rules.replace("since_column = \"deleted_at\"", "since_column = \"deleted_at\"\nregion_column = \"region\"");
    let rules = std::mem::take(&mut world.rules);
    world.rules = format!("regions = [\"ap-singapore\"]\n{rules}");
    for account in ["a", "there", "homeless"] {
        request(&world, account, &[]);
    }
    world.run_passes().await.unwrap();
    assert_eq!((world.left("a").await, world.left("there").await, world.left("homeless").await), (GONE, ALL, ALL));
    assert_eq!((world.jobs("there").await.len(), world.jobs("homeless").await.len()), (0, 0));
    let planned = world.json(&["plan"]);
    assert_eq!(planned["jobs"], Value::Array(Vec::new()), "{planned}");
    world.rules = format!("regions = [\"eu-frankfurt\"]\n{rules}");
    world.run_passes().await.unwrap();
    assert_eq!((world.left("there").await, world.left("homeless").await, world.left("live").await), (GONE, ALL, ALL));
    assert_eq!(world.json(&["status"])["requests"]["accepted"], 1);
}

#[tokio::test]
async fn r9_an_account_that_moves_to_another_region_after_the_claim_is_not_this_daemons_any_more() {
    let mut world = world().await;
    let rules = world.rules.replace("since_column = \"deleted_at\"", "since_column = \"deleted_at\"\nregion_column = \"region\"");
    world.rules = format!("regions = [\"ap-singapore\"]\n{rules}");
    let race = Race::new(&world).await;
    world.sql("update accounts set region = 'eu-frankfurt' where account_id = 'a'").await;
    let mut tx = race.app.database.begin(Purpose::Write).await.unwrap();
    race.batch.enter(&mut tx, &race.app.policy.pinned, &race.app.seen).await.unwrap();
    let verdicts = race.batch.license(&mut tx, &race.claimed).await.unwrap();
    assert_eq!(verdicts.into_values().collect::<Vec<_>>(), [Verdict::Blocked("changed")]);
    for target in &race.class.targets {
        assert_eq!(race.batch.delete(&mut tx, target, &[&race.claimed[0]], Extent::Whole).await.unwrap(), []);
    }
    drop(tx);
    // What it leaves is the other's to do.
    world.sql("update retention.jobs set lease_until = now() where lease_until is not null").await;
    world.run_passes().await.unwrap();
    assert_eq!(world.left("a").await, ALL);
    world.rules = format!("regions = [\"eu-frankfurt\"]\n{rules}");
    world.run_passes().await.unwrap();
    assert_eq!((world.left("a").await, newest(&world)["state"].as_str()), (GONE, Some("fulfilled")));
}

/// A look may have been before it; so the job that is under way does not vouch for it.
#[tokio::test]
async fn r30_a_job_fulfils_what_stood_when_it_was_claimed_and_not_what_was_accepted_since() {
    let world = world().await;
    let race = Race::new(&world).await;
    request(&world, "a", &[]);
    assert_eq!(race.claimed[0].requests, [1]);
    let progress = jobs::Progress {
        id: race.claimed[0].id,
        fence: race.claimed[0].fence,
        next: jobs::Next::Complete,
        records_deleted: race.claimed[0].records_deleted.0.clone(),
        outcomes: std::collections::BTreeMap::new(),
        began: true,
        looks: 0,
        error: None,
        requests: race.claimed[0].requests.clone(),
    };
    let mut tx = race.app.database.begin(Purpose::Write).await.unwrap();
    jobs::record(&mut tx, &race.class.jobs, &[progress]).await.unwrap();
    Database::commit(tx).await.unwrap();
    let fulfilled = "retention.request_parts where fulfilled_at is not null and data_class = 'configuration' and request_id";
    assert_eq!((world.count(&format!("{fulfilled} = 1")).await, world.count(&format!("{fulfilled} = 2")).await), (1, 0));
    world.run_passes().await.unwrap();
    assert_eq!((world.left("a").await, newest(&world)["state"].as_str()), (GONE, Some("fulfilled")));
}

/// Whatever becomes of the source: only a withdrawal voids it.
#[tokio::test]
async fn r30_an_end_that_is_withdrawn_withdraws_no_request() {
    let world = world().await;
    world.sql("update accounts set deleted_at = now() - interval '31 days' where account_id = 'a'").await;
    look(&world, Look::Resync).await;
    request(&world, "a", &[]);
    world.sql("update accounts set deleted_at = null where account_id = 'a'").await;
    // A due job of a point stayed what it was, and is void now; the request has its own.
    world.run_passes().await.unwrap();
    world.run_passes().await.unwrap();
    assert_eq!((world.left("a").await, newest(&world)["state"].as_str()), (GONE, Some("fulfilled")));
    assert_eq!(world.job("a", "queue").await.starting_point, "request");
}

#[tokio::test]
async fn a_job_on_request_is_not_closed_by_hand() {
    let world = world().await;
    request(&world, "a", &[]);
    look(&world, Look::Poll).await;
    world.sql("update retention.jobs set attempts = 1").await;
    let id = world.job("a", "queue").await.id;
    refused(&world, 1, "is for a request", &["jobs", "close", &id, "--reason", "r"]);
    assert_eq!(world.job("a", "queue").await.state, "scheduled");
}

#[tokio::test]
async fn a_request_is_shown_by_explain_plan_and_status() {
    let mut world = world().await;
    world.sql("update accounts set deleted_at = now() - interval '3 days' where account_id = 'a'").await;
    world.set("APPROVALS__REQUEST", TWO);
    request(&world, "a", &["--data-class", "queue"]);
    let status = world.json(&["status"]);
    assert_eq!(status["requests"], serde_json::json!({"waiting": 1, "accepted": 0, "overdue": 0}));
    let of = |explained: &Value, class: &str| {
        explained["classes"].as_array().unwrap().iter().find(|c| c["data_class"] == class).cloned().unwrap()
    };
    let waits = of(&world.json(&["explain", "a"]), "queue");
    assert!(waits["starting_points"]["request"].as_str().unwrap().contains("waits for another person"), "{waits}");
    assert_eq!(waits["starting_point"], "account_deleted");

    let accepted = world.json(&["request", "approve", "1", "--by", "bob"]);
    let explained = world.json(&["explain", "a"]);
    let (queue, configuration) = (of(&explained, "queue"), of(&explained, "configuration"));
    assert_eq!((&queue["starting_point"], &queue["started_at"]), (&"request".into(), &accepted["accepted_at"]), "{queue}");
    assert_eq!((&queue["retain_until"], &queue["delete_by"]), (&accepted["accepted_at"], &accepted["due_by"]));
    assert_eq!(queue["next"], "the next look schedules a job");
    assert_eq!((&configuration["starting_point"], configuration["starting_points"].get("request")), (&"account_deleted".into(), None));
    // Every point that stands, whichever decides.
    let planned = world.json(&["plan"]);
    let queue: Vec<(&str, bool)> = planned["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|job| job["data_class"] == "queue")
        .map(|job| (job["starting_point"].as_str().unwrap(), job["due"].as_bool().unwrap()))
        .collect();
    assert_eq!(queue, [("request", true), ("account_deleted", false)], "{planned}");
    assert_eq!(world.json(&["status"])["requests"], serde_json::json!({"waiting": 0, "accepted": 1, "overdue": 0}));
    let table = world.cli(&["request", "list"]);
    assert!(String::from_utf8_lossy(&table.stdout).contains("accepted"), "{table:?}");
    world.run_passes().await.unwrap();
    assert_eq!(world.json(&["status"])["requests"], serde_json::json!({"waiting": 0, "accepted": 0, "overdue": 0}));
    assert!(of(&world.json(&["explain", "a"]), "queue")["starting_points"].get("request").is_none());
    // A rule that changes says nothing about what is deleted on request.
    request(&world, "live", &[]);
}

/// The daemon itself, with polls alone; and what it and the verbs log.
#[tokio::test]
async fn r5_a_request_and_its_withdrawal_are_seen_by_the_next_poll() {
    let mut world = world().await;
    world.set("POLL__RESYNC_INTERVAL", "1h");
    world.json(&["hold", "place", "--account", "live", "--reason", "r"]);
    let daemon = world.daemon();
    daemon.wait_for("the first look", |event| event["event"] == "poll.completed").await;
    let output = world.cli(&["request", "--account", "a", "--reason", "asked for", "--by", "ann"]);
    let logged: Vec<Value> = said(&output).lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    for event in ["request.placed", "request.accepted"] {
        let found = logged.iter().find(|line| line["event"] == event).unwrap_or_else(|| panic!("{event}: {logged:?}"));
        assert_eq!((&found["request_id"], &found["account_id"], &found["actor"]), (&"1".into(), &"a".into(), &"ann".into()));
    }
    let fulfilled = daemon.wait_for("it is fulfilled", |event| event["event"] == "request.fulfilled").await;
    assert_eq!((&fulfilled["request_id"], &fulfilled["account_id"]), (&"1".into(), &"a".into()));
    assert_eq!(world.left("a").await, GONE);
    request(&world, "live", &[]);
    daemon.wait_for("it has its job", |event| event["event"] == "job.scheduled" && event["account_id"] == "live").await;
    let output = world.cli(&["request", "withdraw", "2", "--reason", "r", "--by", "bob"]);
    assert!(said(&output).contains("request.withdrawn"), "{}", said(&output));
    let cancelled = daemon.wait_for("its job is void", |event| event["event"] == "job.cancelled").await;
    assert_eq!((&cancelled["account_id"], &cancelled["cancel_reason"]), (&"live".into(), &"withdrawn".into()));
    assert_eq!(world.left("live").await, ALL);
    let told = daemon.events().iter().filter(|event| event["event"] == "request.fulfilled").count();
    assert_eq!(told, 1, "once, and of the one that was");
}

/// Whoever changes the rules in the middle of a request changes its jobs with them.
#[tokio::test]
async fn r11_a_new_rule_takes_over_the_jobs_on_request() {
    let mut world = world().await;
    world.json(&["hold", "place", "--account", "a", "--reason", "r"]);
    request(&world, "a", &[]);
    look(&world, Look::Resync).await;
    let before = world.job("a", "queue").await;
    world.rules = world.rules.replace("retain_for = \"7d\"", "retain_for = \"8d\"");
    look(&world, Look::Resync).await;
    let after = world.job("a", "queue").await;
    assert_eq!((before.id, before.started_at, before.delete_by), (after.id, after.started_at, after.delete_by));
    assert_ne!(before.policy, after.policy);
    assert!(world.cli(&["hold", "release", "1", "--reason", "r"]).status.success());
    world.run_passes().await.unwrap();
    assert_eq!(world.left("a").await, GONE);
}

#[tokio::test]
async fn two_people_release_a_hold_and_the_same_one_twice_does_not() {
    let mut world = world().await;
    world.set("APPROVALS__HOLD_RELEASE", TWO);
    for _ in 0..2 {
        world.json(&["hold", "place", "--account", "a", "--reason", "r"]);
    }
    let release = |id: &'static str, by: &'static str| ["hold", "release", id, "--reason", "over", "--by", by];
    refused(&world, 13, "another person must do the same", &release("1", "ann"));
    for same in ["ann", " ANN"] {
        refused(&world, 13, "has said so before", &release("1", same));
    }
    // Of another hold nothing was said.
    refused(&world, 13, "another person must do the same", &release("2", "bob"));
    assert_eq!(world.json(&["hold", "list"]).as_array().unwrap().len(), 2);
    let output = world.cli(&release("1", "bob"));
    assert!(output.status.success() && said(&output).contains("ann and bob"), "{}", said(&output));
    assert_eq!(world.count("retention.holds where released_by = 'ann and bob' and id = 1").await, 1);
    assert_eq!(world.count("retention.holds where released_at is null").await, 1);
    refused(&world, 1, "no hold 1 is in force", &release("1", "bob"));
    assert_eq!(world.count("retention.approvals where used_at is not null").await, 2, "what was said is kept");

    // What was said a day ago is forgotten, and a moment before that it is not.
    world.sql("update retention.approvals set given_at = now() - interval '24 hours' where reference = '2'").await;
    refused(&world, 13, "another person must do the same", &release("2", "ann"));
    world
        .sql(
            "update retention.approvals set given_at = case actor when 'ann' then now() - interval '25 hours' else now() - interval '23 hours 59 minutes' end
             where reference = '2'",
        )
        .await;
    assert!(world.cli(&release("2", "ann")).status.success());
}

#[tokio::test]
async fn two_people_release_the_guard_for_the_trip_that_both_have_seen() {
    let mut world = world().await;
    world.set("APPROVALS__GUARD_RELEASE", TWO);
    world.app().await.unwrap();
    let release = |by: &'static str| ["guard", "release", "--reason", "looked at", "--by", by];
    let tripped = || world.json(&["guard", "status"])["tripped"].clone();
    refused(&world, 1, "has not tripped", &release("ann"));
    let trip = "update retention.guard set tripped_at = clock_timestamp(), reason = 'r'";
    world.sql(trip).await;
    refused(&world, 13, "another person must do the same", &release("ann"));
    refused(&world, 13, "has said so before", &release("ann"));
    assert_eq!(tripped(), true);
    // It trips anew: what was said was about something else.
    world.sql(trip).await;
    refused(&world, 13, "another person must do the same", &release("bob"));
    assert_eq!(tripped(), true);
    assert!(world.cli(&release("ann")).status.success());
    assert_eq!(tripped(), false);
    assert_eq!(world.count("retention.guard where released_by = 'bob and ann' and release_reason = 'looked at'").await, 1);
}

#[tokio::test]
async fn two_people_accept_a_policy_and_each_time_anew() {
    let mut world = world().await;
    world.set("APPROVALS__POLICY_ACCEPT", TWO);
    world.app().await.unwrap().database.close().await;
    let kept = world.rules.clone();
    let shorter = world.rules.replace("retain_for = \"30d\"", "retain_for = \"29d\"");
    let accept = |by: &'static str| ["policy", "accept", "--reason", "meant", "--by", by];
    world.rules.clone_from(&shorter);
    refused(&world, 13, "another person must do the same", &accept("ann"));
    refused(&world, 13, "has said so before", &accept("ann"));
    assert_eq!(world.json(&["policy", "show"])["in_force"], false);
    // Another one is another thing.
    world.rules = shorter.replace("retain_for = \"29d\"", "retain_for = \"28d\"");
    refused(&world, 13, "another person must do the same", &accept("bob"));
    world.rules.clone_from(&shorter);
    assert!(world.cli(&accept("bob")).status.success());
    let shown = world.json(&["policy", "show"]);
    assert_eq!((&shown["in_force"], &shown["accepted"]["accepted_by"]), (&true.into(), &"ann and bob".into()), "{shown}");
    // Replaced, and asked for again: the two of before have said nothing to this.
    world.rules = kept;
    refused(&world, 13, "another person must do the same", &accept("ann"));
    assert!(world.cli(&accept("bob")).status.success());
    world.rules = shorter;
    refused(&world, 13, "another person must do the same", &accept("ann"));
    assert_eq!(world.json(&["policy", "show"])["in_force"], false);
}

/// A run that knows nothing but the queue of what is due.
#[tokio::test]
async fn one_person_is_enough_unless_it_is_configured_otherwise() {
    let world = world().await;
    world.json(&["hold", "place", "--account", "a", "--reason", "r"]);
    assert!(world.cli(&["hold", "release", "1", "--reason", "r", "--by", "ann"]).status.success());
    assert_eq!(world.count("retention.holds where released_by = 'ann'").await, 1);
    assert_eq!(world.count("retention.approvals").await, 0);
    let app = world.app().await.unwrap();
    app.run_once(&Stop::default()).await.unwrap();
}
