//! What the program prints and how it ends: shapes, limits, exit codes. Scripts rely on every word of it.

use std::fmt::Write;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use crate::world::{ALL, World};

const OLD: &str = "now() - interval '31 days'";

fn out(world: &World, arguments: &[&str]) -> String {
    let output = world.cli(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().unwrap_or_else(|| panic!("{value}")).keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

fn has(value: &Value, wanted: &str) {
    let keys = keys(value);
    for key in wanted.split_whitespace() {
        assert!(keys.contains(&key), "{key} is missing in {value}");
    }
}

/// RFC 3339, UTC, microseconds: `2026-11-24T19:45:46.729620Z`.
fn instant(value: &Value) {
    let text = value.as_str().unwrap_or_else(|| panic!("{value} is no instant"));
    assert!(text.len() == 27 && text.ends_with('Z') && text.as_bytes()[19] == b'.' && text.as_bytes()[10] == b'T', "{text}");
    text.parse::<DateTime<Utc>>().unwrap_or_else(|e| panic!("{text}: {e}"));
}

fn instant_or_null(value: &Value) {
    if !value.is_null() {
        instant(value);
    }
}

/// The contents of every table of the daemon, as one text.
async fn everything(world: &World) -> String {
    let mut c = world.connect().await;
    let tables: Vec<String> = sqlx::query_scalar(
        "select format('%I.%I', schemaname, tablename) from pg_tables where schemaname in ('retention', 'public') order by 1",
    )
    .fetch_all(&mut c)
    .await
    .unwrap();
    let mut all = String::new();
    for table in tables {
        let rows: Option<String> =
            sqlx::query_scalar(AssertSqlSafe(format!("select string_agg(t::text, ';' order by t::text) from {table} t")))
                .fetch_one(&mut c)
                .await
                .unwrap();
        writeln!(all, "{table}: {}", rows.unwrap_or_default()).unwrap();
    }
    all
}

async fn purged() -> World {
    let world = World::new().await;
    world.account("done", "null", OLD, "null").await;
    world.account("waits", "null", "now() - interval '1 day'", "null").await;
    world.account("back", "null", "now() - interval '1 day'", "null").await;
    world.run_passes().await.unwrap();
    world.sql("update feature_subscriptions set terminated_at = null where account_id = 'back'").await;
    world.run_passes().await.unwrap();
    world
}

#[tokio::test]
async fn s5_a_job_in_json_has_its_names_and_types() {
    let world = purged().await;
    let jobs = world.json(&["jobs", "list"]);
    let jobs = jobs.as_array().unwrap();
    assert_eq!(jobs.len(), 6);
    let ids: Vec<i64> = jobs.iter().map(|j| j["id"].as_str().unwrap().parse().unwrap()).collect();
    assert!(ids.is_sorted_by(|a, b| a > b), "the newest first: {ids:?}");
    for job in jobs {
        has(
            job,
            "id account_id feature data_class state starting_point started_at retain_until delete_by purge_began_at attempts last_error held overdue \
             records_deleted outcomes count_exact created_at completed_at cancelled_at cancel_reason",
        );
        for text in ["id", "account_id", "feature", "data_class", "state", "starting_point"] {
            assert!(job[text].is_string(), "{text} of {job}");
        }
        for at in ["started_at", "retain_until", "delete_by", "created_at"] {
            instant(&job[at]);
        }
        for at in ["purge_began_at", "completed_at", "cancelled_at"] {
            instant_or_null(&job[at]);
        }
        for flag in ["held", "overdue", "count_exact"] {
            assert!(job[flag].is_boolean(), "{flag} of {job}");
        }
        assert!(job["attempts"].is_u64() && job["records_deleted"].is_object() && job["outcomes"].is_object());
        assert!(job["last_error"].is_null() || job["last_error"].is_string());
    }
    let of = |account: &str, class: &str| jobs.iter().find(|j| j["account_id"] == account && j["data_class"] == class).unwrap();
    let done = of("done", "configuration");
    assert_eq!(done["state"], "completed");
    assert_eq!(done["records_deleted"], json!({"platform/task_configurations": 5, "platform/template_configurations": 3}));
    assert_eq!(done["outcomes"], json!({"platform/task_configurations": "deleted", "platform/template_configurations": "deleted"}));
    assert!(done["completed_at"].is_string() && done["purge_began_at"].is_string() && done["cancelled_at"].is_null());
    let waits = of("waits", "queue");
    assert_eq!(waits["records_deleted"], json!({"platform/queue_messages": 0}), "R29: every target is there");
    assert!(waits["completed_at"].is_null() && waits["purge_began_at"].is_null());
    let back = of("back", "queue");
    assert_eq!((&back["state"], &back["cancel_reason"]), (&json!("cancelled"), &json!("reactivated")));
    instant(&back["cancelled_at"]);
    let mut shown = world.json(&["jobs", "show", done["id"].as_str().unwrap()]);
    let levels = shown.as_object_mut().unwrap().remove("levels").unwrap();
    assert_eq!(&shown, done, "one job is printed the same way");
    assert!(!levels.as_object().unwrap().is_empty(), "{levels}");
    levels.as_object().unwrap().values().for_each(instant);
    assert_eq!(world.json(&["jobs", "show", waits["id"].as_str().unwrap()])["levels"], json!({}), "nothing of it is gone");
}

#[tokio::test]
async fn s5_jobs_list_filters_by_everything_it_offers() {
    let world = purged().await;
    world.account("late", "null", "now() - interval '60 days'", "null").await;
    assert!(world.cli(&["pause", "--reason", "r"]).status.success());
    world.run_passes().await.unwrap();
    let count = |arguments: &[&str]| world.json(&[&["jobs", "list"], arguments].concat()).as_array().unwrap().len();
    assert_eq!(count(&[]), 8);
    assert_eq!(count(&["--state", "completed"]), 2);
    assert_eq!(count(&["--state", "cancelled"]), 2);
    assert_eq!(count(&["--state", "scheduled"]), 4);
    assert_eq!(count(&["--state", "running"]), 0);
    assert_eq!(count(&["--account", "waits"]), 2);
    assert_eq!(count(&["--account", "WAITS"]), 0);
    assert_eq!(count(&["--data-class", "queue"]), 4);
    assert_eq!(count(&["--overdue"]), 2);
    assert_eq!(count(&["--overdue", "--data-class", "queue", "--account", "late"]), 1);
    assert_eq!(count(&["--limit", "3"]), 3);
}

#[tokio::test]
async fn r36_a_table_of_jobs_stops_at_100_rows_and_json_does_not() {
    let world = World::new().await;
    world
        .sql(
            "insert into retention.jobs (account_id, feature, data_class, starting_point, started_at, retain_until, delete_by, policy, ready_at)
             select 'many-' || i, 'mps', 'queue', 'feature_terminated', now(), now() + interval '7 days', now() + interval '8 days', '', now() + interval '7 days' from generate_series(1, 250) i",
        )
        .await;
    assert_eq!(out(&world, &["jobs", "list"]).matches("many-").count(), 100);
    assert_eq!(out(&world, &["jobs", "list", "--limit", "120"]).matches("many-").count(), 120);
    assert_eq!(world.json(&["jobs", "list"]).as_array().unwrap().len(), 250);
    assert_eq!(world.json(&["jobs", "list", "--limit", "7"]).as_array().unwrap().len(), 7);
}

#[tokio::test]
async fn s5_a_plan_in_json_says_what_why_and_how_many() {
    let world = World::new().await;
    world.account("due", "null", OLD, "null").await;
    world.account("waits", "null", "now() - interval '1 day'", "null").await;
    world.account("held", "null", OLD, "null").await;
    world.account("live", "null", "null", "null").await;
    assert!(world.cli(&["hold", "place", "--account", "held", "--reason", "r"]).status.success());
    let plan = world.json(&["plan"]);
    assert_eq!(keys(&plan), ["jobs", "mode", "now"]);
    instant(&plan["now"]);
    assert_eq!(plan["mode"], "enforce");
    let jobs = plan["jobs"].as_array().unwrap();
    assert_eq!(jobs.len(), 6);
    for job in jobs {
        has(job, "account_id feature data_class starting_point started_at retain_until delete_by due held targets");
        for at in ["started_at", "retain_until", "delete_by"] {
            instant(&job[at]);
        }
        for target in job["targets"].as_array().unwrap() {
            assert_eq!(keys(target), ["name", "records"]);
            assert!(target["records"].is_u64());
        }
    }
    let of = |account: &str, class: &str| jobs.iter().find(|j| j["account_id"] == account && j["data_class"] == class).unwrap();
    assert_eq!((&of("due", "queue")["due"], &of("due", "queue")["held"]), (&json!(true), &json!(false)));
    assert_eq!((&of("waits", "queue")["due"], &of("waits", "queue")["held"]), (&json!(false), &json!(false)));
    assert_eq!((&of("held", "queue")["due"], &of("held", "queue")["held"]), (&json!(true), &json!(true)));
    assert_eq!(
        of("due", "configuration")["targets"],
        json!([{"name": "platform/template_configurations", "records": 3}, {"name": "platform/task_configurations", "records": 5}])
    );
    assert!(jobs.iter().all(|j| j["account_id"] != "live"));
}

#[tokio::test]
async fn r36_plan_at_another_instant_is_due_then_on_both_sides_of_the_boundary() {
    let world = World::new().await;
    world.account("a", "null", "timestamptz '2026-01-01 00:00:00+00'", "null").await;
    let due = |at: &str| {
        let plan = world.json(&["plan", "--at", at]);
        let jobs = plan["jobs"].as_array().unwrap().clone();
        let of = |class: &str| jobs.iter().find(|j| j["data_class"] == class).unwrap()["due"].as_bool().unwrap();
        (of("queue"), of("configuration"))
    };
    assert_eq!(due("2026-01-07T23:59:59.999999Z"), (false, false));
    assert_eq!(due("2026-01-08T00:00:00Z"), (true, false));
    assert_eq!(due("2026-01-30T23:59:59.999999Z"), (true, false));
    assert_eq!(due("2026-01-31T01:00:00+01:00"), (true, true));
    assert_eq!(world.json(&["plan", "--at", "2026-01-08T00:00:00Z"])["now"], "2026-01-08T00:00:00.000000Z");
    assert_eq!(world.cli(&["plan", "--at", "yesterday"]).status.code(), Some(2));
}

#[tokio::test]
async fn s5_plan_and_every_other_reading_verb_write_nothing() {
    let world = purged().await;
    let before = everything(&world).await;
    // The server itself refuses what writes.
    world.sql(&format!("alter database {} set default_transaction_read_only = on", world.database)).await;
    for verb in [
        &["plan"][..],
        &["plan", "--at", "2030-01-01T00:00:00Z"],
        &["explain", "waits"],
        &["status"],
        &["jobs", "list"],
        &["jobs", "show", "1"],
        &["hold", "list"],
        &["guard", "status"],
        &["check"],
    ] {
        world.json(verb);
        out(&world, verb);
    }
    world.sql(&format!("begin read write; alter database {} reset default_transaction_read_only; commit", world.database)).await;
    assert_eq!(everything(&world).await, before);
}

#[tokio::test]
async fn r36_a_plan_of_very_many_counts_what_is_due_and_leaves_the_rest_open() {
    let world = World::new().await;
    for (ids, age) in [("young-", "1 day"), ("due-", "31 days")] {
        let many = if ids == "young-" { 4_999 } else { 1 };
        world
            .sql(&format!(
                "insert into accounts (account_id, region) select '{ids}' || i, 'ap-singapore' from generate_series(1, {many}) i;
                 insert into feature_subscriptions (account_id, feature, terminated_at) select '{ids}' || i, 'mps', now() - interval '{age}' from generate_series(1, {many}) i"
            ))
            .await;
    }
    world.data("young-1").await;
    world.data("due-1").await;
    let records = |plan: &Value, account: &str| -> Vec<Value> {
        let jobs = plan["jobs"].as_array().unwrap();
        jobs.iter()
            .filter(|j| j["account_id"] == account && j["data_class"] == "queue")
            .map(|j| j["targets"][0]["records"].clone())
            .collect()
    };
    // Exactly ten thousand jobs: all are counted.
    let plan = world.json(&["plan"]);
    assert_eq!(plan["jobs"].as_array().unwrap().len(), 10_000);
    assert_eq!((records(&plan, "young-1"), records(&plan, "due-1")), (vec![json!(7)], vec![json!(7)]));
    world.sql("insert into accounts (account_id, region, deleted_at) values ('one-more', 'ap-singapore', now())").await;
    let plan = world.json(&["plan"]);
    assert_eq!(plan["jobs"].as_array().unwrap().len(), 10_002);
    assert_eq!((records(&plan, "young-1"), records(&plan, "due-1")), (vec![Value::Null], vec![json!(7)]));
}

#[tokio::test]
async fn s5_status_in_json_and_its_check() {
    let world = World::new().await;
    let fresh = world.json(&["status"]);
    assert_eq!((&fresh["last_poll_at"], &fresh["last_resync_at"]), (&Value::Null, &Value::Null));
    assert_eq!(world.cli(&["status", "--check"]).status.code(), Some(0));
    let world = purged().await;
    let status = world.json(&["status"]);
    has(&status, "mode paused guard jobs last_poll_at last_resync_at");
    has(&status["guard"], "tripped reason");
    assert_eq!(status["guard"]["reason"], Value::Null);
    has(&status["jobs"], "scheduled running completed cancelled due overdue held");
    assert_eq!(status["jobs"], json!({"scheduled": 2, "running": 0, "completed": 2, "cancelled": 2, "due": 0, "overdue": 0, "held": 0}));
    instant(&status["last_poll_at"]);
    instant(&status["last_resync_at"]);
    assert_eq!(world.cli(&["status", "--check"]).status.code(), Some(0));
    world.sql("update retention.jobs set started_at = now() - interval '9 days', retain_until = now() - interval '2 days', delete_by = now() - interval '1 s' where lease_until is null and data_class = 'queue'").await;
    let checked = world.cli(&["status", "--check", "-o", "json"]);
    assert_eq!(checked.status.code(), Some(3));
    let status: Value = serde_json::from_slice(&checked.stdout).unwrap();
    assert_eq!((&status["jobs"]["overdue"], &status["jobs"]["due"]), (&json!(1), &json!(1)));
    world.sql("update retention.guard set tripped_at = now(), reason = 'test'; update retention.jobs set delete_by = now() + interval '1 day' where delete_by < now() + interval '1 day'").await;
    assert_eq!(world.cli(&["status", "--check"]).status.code(), Some(3));
    assert_eq!(
        world.json(&["status"])["guard"],
        json!({"tripped": true, "reason": "test", "tripped_at": world.json(&["status"])["guard"]["tripped_at"], "forecast": null, "forecast_at": null})
    );
}

#[tokio::test]
async fn s5_explain_says_what_stands_what_blocks_and_what_happens_next() {
    let world = World::new().await;
    world.account("a", "null", OLD, "now() - interval '3 days'").await;
    assert!(world.cli(&["hold", "place", "--account", "a", "--data-class", "queue", "--reason", "litigation 7"]).status.success());
    world.run_passes().await.unwrap();
    let explained = world.json(&["explain", "a"]);
    assert_eq!(explained["account_id"], "a");
    instant(&explained["now"]);
    let classes = explained["classes"].as_array().unwrap();
    let queue = classes.iter().find(|c| c["data_class"] == "queue").unwrap();
    assert_eq!(queue["starting_point"], "feature_terminated", "the earliest counts");
    for at in ["started_at", "retain_until", "delete_by"] {
        instant(&queue[at]);
    }
    assert!(queue["blocked_by"].to_string().contains("litigation 7"), "{queue}");
    assert_eq!(queue["records"], json!({"platform/queue_messages": 7}));
    let configuration = classes.iter().find(|c| c["data_class"] == "configuration").unwrap();
    assert!(configuration["next"].as_str().unwrap().contains("purged"), "{configuration}");
    assert_eq!(configuration["records"], json!({"platform/task_configurations": 0, "platform/template_configurations": 0}));
    let nobody = world.json(&["explain", "nobody"]);
    assert_eq!(nobody["classes"][0]["starting_point"], Value::Null);
    assert!(out(&world, &["explain", "a"]).contains("litigation 7"));
}

#[tokio::test]
async fn s5_wrong_usage_is_2_and_what_is_not_there_is_1() {
    let world = World::new().await;
    for arguments in [
        &["purge"][..],
        &["jobs", "show", "abc"],
        &["jobs", "list", "--state", "lost"],
        &["jobs", "list", "--limit", "0"],
        &["plan", "--frobnicate"],
        &[],
    ] {
        assert_eq!(world.cli(arguments).status.code(), Some(2), "{arguments:?}");
    }
    for arguments in [&["jobs", "show", "99"][..], &["jobs", "retry", "99"]] {
        let output = world.cli(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(output.stdout.is_empty(), "data goes to stdout, words to stderr");
    }
}

#[tokio::test]
async fn s5_completions_are_printed_without_any_configuration() {
    let mut world = World::bare().await;
    world.settings.clear();
    for shell in ["bash", "zsh", "fish"] {
        assert!(out(&world, &["completions", shell]).contains("retentiond"));
    }
    assert_eq!(world.cli(&["completions", "cobol"]).status.code(), Some(2));
}

#[tokio::test]
async fn s3_secrets_are_never_printed() {
    let mut world = World::new().await;
    let secret = "hunter2-and-more";
    world.account("a", "null", OLD, "null").await;
    for address in [
        format!("postgres://postgres:{secret}@127.0.0.1:1/nowhere"),
        format!("postgres://postgres:{secret}@no.such.host.invalid/nowhere?sslmode=disable"),
        format!("postgres://postgres:{secret}@127.0.0.1:notaport/nowhere"),
        format!("mysql://postgres:{secret}@127.0.0.1/nowhere"),
        secret.to_owned(),
    ] {
        world.set("DATABASE__URL", &address);
        // One-shot verbs try for ten seconds; these two say all there is to say.
        for verb in [&["check"][..], &["run", "--once"]] {
            let output = world.cli(verb);
            assert!(!output.status.success(), "{verb:?} with {address}");
            let said = [output.stdout, output.stderr].concat();
            assert!(!String::from_utf8_lossy(&said).contains(secret), "{verb:?} with {address}: {}", String::from_utf8_lossy(&said));
        }
    }
}

#[tokio::test]
async fn s3_control_characters_of_account_ids_never_reach_a_terminal() {
    let world = World::new().await;
    let id = "evil\u{1b}[31m\nname\u{7}\u{9b}2J";
    world.account(id, "null", OLD, "null").await;
    assert!(world.cli(&["hold", "place", "--account", id, "--reason", "because\u{1b}[2J"]).status.success());
    world.run_passes().await.unwrap();
    for verb in [&["jobs", "list"][..], &["plan"], &["explain", id], &["hold", "list"], &["status"]] {
        let printed = out(&world, verb);
        assert!(!printed.contains(['\u{1b}', '\u{7}', '\u{9b}']), "{verb:?}: {printed:?}");
        assert!(!printed.contains("[31m\nname"), "{verb:?}: {printed:?}");
    }
    assert!(out(&world, &["jobs", "list"]).contains("evil"));
    assert_eq!(world.json(&["jobs", "list"])[0]["account_id"], id, "machines get it as it is");
    assert_eq!(world.left(id).await, ALL);
}

#[tokio::test]
async fn r34_a_one_shot_verb_gives_up_on_an_unreachable_database_with_69() {
    let mut world = World::bare().await;
    world.set("DATABASE__URL", "postgres://postgres@127.0.0.1:1/nowhere?sslmode=disable");
    let began = std::time::Instant::now();
    assert_eq!(world.cli(&["status"]).status.code(), Some(69));
    assert!(began.elapsed().as_secs() >= 9, "it is tried for ten seconds");
}
