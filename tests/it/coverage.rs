//! What nobody thought of: tables that nobody has decided about, and records of accounts that were never known.

use serde_json::Value;

use crate::world::{World, left};

/// The warnings of `check` whose text holds the words.
fn warned(world: &World, words: &str) -> Vec<String> {
    let findings = world.json(&["check"]);
    let line =
        |f: &Value| format!("{} {}: {}", f["severity"].as_str().unwrap(), f["subject"].as_str().unwrap(), f["problem"].as_str().unwrap());
    findings.as_array().unwrap().iter().map(line).filter(|l| l.contains(words)).collect()
}

#[tokio::test]
async fn i11_a_table_with_the_account_column_is_a_finding_until_somebody_decides() {
    let mut world = World::new().await;
    assert_eq!(warned(&world, "decided"), Vec::<String>::new());
    world
        .sql(
            "create table drafts (draft_id int, account_id text); create table invoices (account_id text) partition by list (account_id);
             create table invoices_x partition of invoices default; create table unrelated (id int);
             create view seen as select * from media_objects; create materialized view copied as select * from queue_messages;
             create schema other; create table other.drafts (account_id text)",
        )
        .await;
    let found = warned(&world, "decided");
    let subjects: Vec<&str> = found.iter().map(|l| l.split(':').next().unwrap()).collect();
    assert_eq!(subjects, ["warning table copied", "warning table drafts", "warning table invoices"], "{found:?}");
    world.rules.push_str(
        "\n[[exemptions]]\ntable = \"drafts\"\nreason = \"never holds what a customer wrote\"\n\n[[exemptions]]\ntable = \"invoices\"\nreason = \"billing has its own clock\"\n",
    );
    world.sql("drop materialized view copied").await;
    assert_eq!(warned(&world, "decided"), Vec::<String>::new());
    // An exemption is no target: nothing of it is touched.
    world.account("a", "null", "now() - interval '31 days'", "null").await;
    world.sql("insert into drafts values (1, 'a'); insert into invoices values ('a')").await;
    world.run_passes().await.unwrap();
    assert_eq!((world.left("a").await, world.count("drafts").await, world.count("invoices").await), (left(0, 0, 0, 2), 1, 1));
}

#[tokio::test]
async fn i11_records_of_accounts_that_were_never_known_are_reported_and_left_alone() {
    let world = World::new().await;
    world.account("live", "null", "null", "null").await;
    world.account("purged", "null", "now() - interval '31 days'", "null").await;
    world.account("vanishes", "null", "null", "null").await;
    world.run_passes().await.unwrap();
    assert_eq!(warned(&world, "never known"), Vec::<String>::new());
    for id in ["x1", "x2", "x3", "x4", "x5", "x6"] {
        world.data(id).await;
    }
    // Known, though their rows are gone: one by its done-mark, one by its absence.
    world.sql("delete from accounts where account_id in ('purged', 'vanishes')").await;
    world.data("purged").await;
    world.app().await.unwrap().planner().look(retentiond::planner::Look::Resync).await.unwrap();
    let found = warned(&world, "never known");
    assert_eq!(found.len(), 3, "{found:?}");
    for (line, target) in found.iter().zip(["template_configurations", "task_configurations", "queue_messages"]) {
        assert_eq!(
            *line,
            format!(
                "warning target platform/{target}: it holds records of 6 accounts that were never known, which no rule deletes: x1, x2, x3, x4, x5, …"
            )
        );
    }
    world.run_passes().await.unwrap();
    assert_eq!(world.count("queue_messages where account_id like 'x_'").await, 42);
}

#[tokio::test]
async fn i11_orphans_are_found_whatever_the_types_of_the_columns_and_without_an_index() {
    let mut world = World::new().await;
    world.rules = world.rules.replace("table = \"queue_messages\"", "table = \"messages\"");
    world
        .sql(
            "create table messages (account_id bigint); create index on messages (account_id);
             insert into accounts (account_id, region) values ('7', 'r'), ('not a number', 'r');
             insert into messages values (7), (7), (8), (8), (null); insert into template_configurations (account_id, template_type, parameters) values ('z', 'video', '{}')",
        )
        .await;
    let found = warned(&world, "never known");
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[1].contains("target platform/messages: it holds records of 1 accounts") && found[1].ends_with(": 8"), "{found:?}");
    world.sql("drop index messages_account_id_idx; drop index template_configurations_account_id_idx").await;
    assert_eq!(warned(&world, "never known"), found, "as with the index");
}

#[tokio::test]
async fn i11_the_daemon_says_so_again_and_again() {
    let mut world = World::new().await;
    world.set("VERIFIER__INTERVAL", "100ms");
    world.sql("create table drafts (account_id text)").await;
    world.data("x").await;
    let daemon = world.daemon();
    for event in ["coverage.uncovered", "orphans.found"] {
        daemon.wait_for(event, |e| e["event"] == event && e["level"] == "warn").await;
        crate::world::until("a second time", async || daemon.events().iter().filter(|e| e["event"] == event).count() > 3).await;
    }
}

#[test]
fn r39_an_exemption_needs_a_table_and_a_reason() {
    let rules = format!("{}\n[[exemptions]]\ntable = \"drafts\"\n", crate::world::RULES);
    let settings = [("RETENTIOND__MODE".to_owned(), "observe".to_owned())].into();
    let fault =
        retentiond::config::parse(&[("rules.toml", &rules)], &settings, retentiond::config::Needs::Nothing).unwrap_err().to_string();
    assert!(fault.contains("exemptions[drafts].reason: is missing"), "{fault}");
}
