//! Account ids as platforms have them: in columns of any type, in tables with any name, with anything a text can hold in them.

use std::fmt::Write as _;

use crate::world::{ALL, World, left};

/// The five types an account column may have.
fn ids(source: &str) -> [&'static str; 2] {
    if source == "uuid" { ["6f8a1c2e-0000-4000-8000-0000000000ab", "6f8a1c2e-0000-4000-8000-0000000000ac"] } else { ["42", "420"] }
}

#[tokio::test]
async fn r7_accounts_keyed_by_any_type_in_mixed_case_tables_work_through_configuration_alone() {
    let mut world = World::new().await;
    let pairs = [
        ("text", "varchar(40)"),
        ("varchar(40)", "text"),
        ("text", "uuid"),
        ("uuid", "text"),
        ("uuid", "uuid"),
        ("uuid", "varchar(36)"),
        ("integer", "integer"),
        ("integer", "bigint"),
        ("bigint", "integer"),
        ("bigint", "varchar(20)"),
        ("integer", "text"),
        ("text", "bigint"),
    ];
    let (mut rules, mut statements) = (String::new(), String::new());
    for (i, (source, target)) in pairs.iter().enumerate() {
        let [gone, live] = ids(if *target == "uuid" { target } else { source });
        write!(
            statements,
            "create schema \"Crm {i}\";
             create table \"Crm {i}\".\"Accounts\" (\"owner id\" {source} primary key, \"Deleted At\" timestamptz);
             create table \"Crm {i}\".\"Subs\" (\"owner id\" {source}, \"Which\" varchar(9), \"ended\" timestamptz);
             create index on \"Crm {i}\".\"Subs\" (\"owner id\");
             create table \"Crm {i}\".\"Queue\"\"Messages\" (n int generated always as identity, \"owner id\" {target});
             create index on \"Crm {i}\".\"Queue\"\"Messages\" (\"owner id\");
             insert into \"Crm {i}\".\"Accounts\" values ('{gone}', now() - interval '8 days'), ('{live}', null);
             insert into \"Crm {i}\".\"Subs\" values ('{gone}', 'f{i}', null), ('{live}', 'f{i}', null), ('{live}', 'other', now() - interval '9 days');
             insert into \"Crm {i}\".\"Queue\"\"Messages\" (\"owner id\") values ('{gone}'), ('{gone}'), ('{live}'), (null);"
        )
        .unwrap();
        write!(
            rules,
            r#"
            [[starting_points]]
            name = "deleted {i}"
            table = '"Crm {i}"."Accounts"'
            account_column = "owner id"
            since_column = "Deleted At"
            [[starting_points]]
            name = "ended {i}"
            table = '"Crm {i}"."Subs"'
            account_column = "owner id"
            feature_column = "Which"
            since_column = "ended"
            [[data_classes]]
            feature = "f{i}"
            name = "queue"
            starting_points = ["deleted {i}", "ended {i}"]
            retain_for = "7d"
            delete_within = "24h"
            [[data_classes.targets]]
            store = "platform"
            table = '"Crm {i}"."Queue""Messages"'
            account_column = "owner id"
            "#
        )
        .unwrap();
    }
    world.sql(&statements).await;
    let scalars = world.rules[world.rules.find("[stores.platform]").unwrap()..].to_owned();
    world.rules = format!("{rules}{scalars}");
    let check = world.cli(&["check"]);
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    world.run_passes().await.unwrap();
    for (i, (source, target)) in pairs.iter().enumerate() {
        let [gone, live] = ids(if *target == "uuid" { target } else { source });
        let table = format!("\"Crm {i}\".\"Queue\"\"Messages\"");
        let case = format!("accounts keyed by {source}, records by {target}");
        assert_eq!(world.count(&format!("{table} where \"owner id\"::text = '{gone}'")).await, 0, "{case}");
        assert_eq!(world.count(&format!("{table} where \"owner id\"::text = '{live}'")).await, 1, "{case}");
        assert_eq!(world.count(&format!("{table} where \"owner id\" is null")).await, 1, "{case}");
        let jobs = world.jobs(gone).await;
        let job = jobs.iter().find(|j| j.feature == format!("f{i}")).unwrap();
        assert_eq!((job.state.as_str(), job.starting_point.as_str()), ("completed", format!("deleted {i}").as_str()), "{case}");
        assert_eq!(job.records_deleted.0, [(format!("platform/\"Crm {i}\".\"Queue\"\"Messages\""), 2)].into(), "{case}");
    }
    assert_eq!(world.count("retention.every_job").await, i64::try_from(pairs.len()).unwrap());
}

#[tokio::test]
async fn r7_ids_are_compared_byte_for_byte_and_never_become_sql() {
    let world = World::new().await;
    let long = "x".repeat(10_000);
    let hostile = [
        "o'brien \"quoted\" `ticked`",
        "'; drop table accounts; --",
        "$1",
        "$$; select 1; $$",
        "\\",
        "\\'; --",
        "E'\\x41'",
        "%",
        "_a%",
        "a\nb\r\n\tc",
        "\u{1}\u{7}\u{1b}[31m\u{1f}\u{7f}",
        "null",
        "",
        " ",
        "{account_id}",
        "{\"a\":1}",
        "Zoe",
        "caf\u{e9}",
        "\u{202e}evil",
        "\u{1f4a9}",
        "../../etc/passwd",
        "0042",
        long.as_str(),
    ];
    let longer = "x".repeat(10_001);
    let neighbours = [
        "zoe",
        "ZOE",
        "Zoe ",
        " Zoe",
        "Zo\u{eb}",
        "cafe\u{301}",
        "cafe",
        "aa%",
        "_ab",
        "b",
        "a\nb\r\n\td",
        "42",
        "  ",
        "NULL",
        longer.as_str(),
        &long[1..],
    ];
    for id in hostile {
        world.account(id, "null", "now() - interval '31 days'", "null").await;
    }
    for id in neighbours {
        world.account(id, "null", "null", "null").await;
    }
    world.run_passes().await.unwrap();
    for id in hostile {
        assert_eq!(world.left(id).await, left(0, 0, 0, 2), "{id:?}");
        let job = world.job(id, "configuration").await;
        assert_eq!((job.state.as_str(), job.records_deleted.0.values().sum::<i64>()), ("completed", 8), "{id:?}");
    }
    for id in neighbours {
        assert_eq!(world.left(id).await, ALL, "{id:?}");
        assert_eq!(world.jobs(id).await.len(), 0, "{id:?}");
    }
    for id in hostile.into_iter().filter(|id| !id.is_empty()) {
        assert_eq!(world.json(&["jobs", "list", &format!("--account={id}")]).as_array().unwrap().len(), 2, "{id:?}");
        assert_eq!(world.json(&["explain", id])["account_id"], id);
    }
    let table = world.cli(&["jobs", "list"]);
    assert!(table.status.success() && !table.stdout.contains(&0x1b), "a table never shows raw control characters");
}

#[tokio::test]
async fn i6_an_id_too_long_for_any_index_stops_only_itself_and_is_listed() {
    let world = World::new().await;
    // The platform can hold it only where no B-tree stands in the way.
    world
        .sql(
            "alter table feature_subscriptions drop constraint feature_subscriptions_account_id_fkey, drop constraint feature_subscriptions_pkey;
             alter table accounts drop constraint accounts_pkey;
             drop index template_configurations_account_id_idx, task_configurations_account_id_idx, queue_messages_account_id_idx, media_objects_account_id_idx;
             create index on accounts using hash (account_id);
             create index on feature_subscriptions using hash (account_id);
             create index on template_configurations using hash (account_id);
             create index on task_configurations using hash (account_id);
             create index on queue_messages using hash (account_id)",
        )
        .await;
    let random: String = sqlx::query_scalar("select left(string_agg(md5(i::text), ''), 10000) from generate_series(1, 313) i")
        .fetch_one(&mut world.connect().await)
        .await
        .unwrap();
    world.account(&random, "null", "now() - interval '31 days'", "null").await;
    world.account("a", "null", "now() - interval '31 days'", "null").await;
    world.account("z", "null", "now() - interval '31 days'", "null").await;
    world.run_passes().await.unwrap();
    for id in ["a", "z"] {
        assert_eq!(world.left(id).await, left(0, 0, 0, 2), "{id}");
    }
    // Nobody deletes what could not be recorded, and nobody forgets it.
    assert_eq!(world.left(&random).await, ALL);
    let status = world.json(&["status"]);
    let quarantined = status["quarantined"].as_array().unwrap();
    assert_eq!(quarantined.len(), 2);
    assert!(quarantined.iter().all(|q| q["account_id"] == random.as_str()));
    // Mended, it is gone from the list.
    world
        .sql("delete from feature_subscriptions where length(account_id) = 10000; delete from accounts where length(account_id) = 10000")
        .await;
    world.sql("delete from retention.roster").await;
    world.run_passes().await.unwrap();
    assert_eq!(world.json(&["status"])["quarantined"].as_array().unwrap().len(), 0);
}

#[tokio::test]
async fn r8_a_target_that_cannot_hold_the_id_fails_its_job_visibly_and_no_other() {
    let world = World::new().await;
    let held = "6f8a1c2e-0000-4000-8000-0000000000ab";
    let upper = held.to_uppercase();
    for id in [held, upper.as_str(), "not a uuid", "6f8a1c2e000040008000000000000 0ab"] {
        world.account(id, "null", "now() - interval '8 days'", "null").await;
    }
    world
        .sql(&format!(
            "delete from queue_messages; alter table queue_messages alter account_id type uuid using account_id::uuid;
             insert into queue_messages (account_id, event_type) select '{held}', 'x' from generate_series(1, 7)"
        ))
        .await;
    assert_eq!(world.run_passes().await.unwrap_err().exit_code(), 1, "a due job failed");
    assert_eq!(world.job(held, "queue").await.state, "completed");
    assert_eq!(world.count("queue_messages").await, 0);
    // Spelt in capitals it is another account, whose records nobody could name here.
    for id in [upper.as_str(), "not a uuid"] {
        let job = world.job(id, "queue").await;
        assert_eq!((job.state.as_str(), job.completed_at), ("scheduled", None), "{id}");
        let error = job.last_error.unwrap();
        assert!(error.contains("platform/queue_messages keys accounts by uuid, which cannot hold this account id"), "{error}");
        assert_eq!(job.records_deleted.0["platform/queue_messages"], 0);
        assert!(job.attempts >= 1);
    }
}
