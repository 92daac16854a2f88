//! Child targets: records without an account column, told by the record that their foreign key points at (R13, R39).

use std::collections::BTreeMap;

use retentiond::{
    app::App,
    config::{self, Needs},
    executor::Step,
    planner::Look,
    sql::literal,
    stores::postgres::Delete,
};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgConnection};

use crate::world::{ALL, RULES, World, left};

/// Presets of a template, and the notes on each preset: grandchildren.
const TABLES: &str = "
    create table presets (preset_id bigint generated always as identity primary key, template_id bigint not null references template_configurations, name text);
    create index on presets (template_id);
    create table notes (note_id bigint generated always as identity primary key, preset_id bigint not null references presets on delete cascade, text text);
    create index on notes (preset_id);";

const TARGETS: &str = "
[[data_classes.targets]]
store = \"platform\"
table = \"notes\"
parent = \"presets\"

[[data_classes.targets]]
store = \"platform\"
table = \"presets\"
parent = \"template_configurations\"

[[data_classes.targets]]
store = \"platform\"
table = \"task_configurations\"";

fn with_children(world: &mut World) {
    world.rules = world.rules.replace("\n[[data_classes.targets]]\nstore = \"platform\"\ntable = \"task_configurations\"", TARGETS);
}

/// Two presets for each template, three notes on each preset; `a` is due and `live` is not.
async fn world() -> World {
    let mut world = World::new().await;
    with_children(&mut world);
    world.account("a", "null", "now() - interval '31 days'", "null").await;
    world.account("live", "null", "null", "null").await;
    world.sql(TABLES).await;
    world
        .sql(
            "insert into presets (template_id, name) select template_id, 'p' from template_configurations, generate_series(1, 2);
             insert into notes (preset_id, text) select preset_id, 'n' from presets, generate_series(1, 3)",
        )
        .await;
    world
}

async fn children(world: &World, account: &str) -> (i64, i64) {
    let presets = format!("presets p join template_configurations t using (template_id) where t.account_id = {}", literal(account));
    let notes = format!("notes join {presets}").replace("join presets p", "join presets p using (preset_id)");
    (world.count(&presets).await, world.count(&notes).await)
}

/// Everything that can be done now, without waiting for anybody.
async fn work(app: &App) {
    let mut worker = app.executor().worker("w".to_owned());
    while worker.step().await.unwrap() == Step::Worked {}
}

#[tokio::test]
async fn i3_children_go_with_their_account_counted_and_nobody_elses() {
    let world = world().await;
    assert_eq!(world.cli(&["check"]).status.code(), Some(0));
    let plan = world.json(&["plan"]);
    let job = plan["jobs"].as_array().unwrap().iter().find(|j| j["data_class"] == "configuration").unwrap().clone();
    assert_eq!(
        job["targets"],
        json!([
            {"name": "platform/notes", "records": 18}, {"name": "platform/presets", "records": 6},
            {"name": "platform/template_configurations", "records": 3}, {"name": "platform/task_configurations", "records": 5}
        ]),
        "in the order of deletion: who points goes before what is pointed at"
    );
    world.run_passes().await.unwrap();
    assert_eq!((world.left("a").await, children(&world, "a").await), (left(0, 0, 0, 2), (0, 0)));
    assert_eq!((world.left("live").await, children(&world, "live").await), (ALL, (6, 18)));
    assert_eq!((world.count("presets").await, world.count("notes").await), (6, 18));
    let job = world.job("a", "configuration").await;
    let counts = &job.records_deleted.0;
    assert_eq!((counts["platform/notes"], counts["platform/presets"], counts["platform/template_configurations"]), (18, 6, 3));
    assert!(job.outcomes.0.values().all(|word| word == "deleted"), "{:?}", job.outcomes);
}

#[tokio::test]
async fn i8_children_in_small_batches_are_counted_exactly_and_no_cascade_takes_one_uncounted() {
    let mut world = world().await;
    world.set("EXECUTOR__MAX_ROWS_PER_BATCH", "4");
    world.run_passes().await.unwrap();
    let counts = world.job("a", "configuration").await.records_deleted.0;
    assert_eq!(counts.values().sum::<i64>(), 18 + 6 + 3 + 5);
    assert_eq!((world.count("presets").await, world.count("notes").await), (6, 18));
}

#[tokio::test]
async fn r14_a_child_that_somebody_holds_keeps_its_parents_and_nobody_waits() {
    let world = world().await;
    let app = world.app().await.unwrap();
    app.planner().look(Look::Resync).await.unwrap();
    let mut platform = world.connect().await;
    run(&mut platform, "begin; update notes set text = 'held' where note_id = (select min(note_id) from notes)").await;
    work(&app).await;
    assert_eq!(children(&world, "a").await, (1, 1), "one note, its preset and its template");
    assert_eq!(world.left("a").await, left(1, 0, 0, 2));
    run(&mut platform, "commit").await;
    world.run_passes().await.unwrap();
    assert_eq!((world.left("a").await, world.count("notes").await), (left(0, 0, 0, 2), 18));
}

/// Whoever has written a child and not committed holds its parent: the parent is skipped, and the child has a parent when it commits.
#[tokio::test]
async fn i8_a_child_written_while_its_parent_is_purged_is_never_swept_away() {
    let world = world().await;
    let app = world.app().await.unwrap();
    app.planner().look(Look::Resync).await.unwrap();
    let mut platform = world.connect().await;
    run(
        &mut platform,
        "begin; insert into notes (preset_id, text)
         select min(preset_id), 'late' from presets join template_configurations using (template_id) where account_id = 'a'",
    )
    .await;
    work(&app).await;
    assert_eq!(children(&world, "a").await, (1, 0), "the preset that the unseen note points at");
    run(&mut platform, "commit").await;
    assert_eq!(children(&world, "a").await, (1, 1));
    world.run_passes().await.unwrap();
    assert_eq!(children(&world, "a").await, (0, 0));
    let counts = world.job("a", "configuration").await.records_deleted.0;
    assert_eq!((counts["platform/notes"], counts["platform/presets"]), (19, 6));
}

/// A child that commits after the statement's snapshot and before its parent is locked is unseen by that statement.
#[tokio::test]
async fn i3_a_record_that_came_to_be_pointed_at_before_it_was_locked_stays() {
    let world = world().await;
    let app = world.app().await.unwrap();
    app.planner().look(Look::Resync).await.unwrap();
    let class = app.policy.classes[0].clone();
    let presets = class.targets.iter().find(|t| t.name == "platform/presets").unwrap();
    // Everybody is licensed; what is asked here is the second look at what points at a locked record.
    let Delete::Referenced { lock, delete } =
        presets.delete("licensed (id, account_id) as (select id, 'a' from unnest($1::int8[], $2::int8[]) b(id, fence))")
    else {
        panic!("notes point at it")
    };
    world.sql("delete from notes using presets, template_configurations t where notes.preset_id = presets.preset_id and presets.template_id = t.template_id and t.account_id = 'a'").await;
    let mut tx = world.connect().await;
    run(&mut tx, "begin").await;
    let locked: Vec<(i64, String, i64, String)> =
        sqlx::query_as(AssertSqlSafe(lock)).bind(vec![1_i64]).bind(vec![1_i64]).bind(100_i64).fetch_all(&mut tx).await.unwrap();
    assert_eq!(locked.len(), 6);
    // As if it had been there unseen when the lock was taken.
    run(&mut tx, "insert into notes (preset_id, text) select min(preset_id), 'late' from presets join template_configurations using (template_id) where account_id = 'a'").await;
    let gone: Vec<(i64, i64, i64)> = sqlx::query_as(AssertSqlSafe(delete))
        .bind(vec![1_i64])
        .bind(vec![1_i64])
        .bind(locked.iter().map(|l| l.0).collect::<Vec<_>>())
        .bind(locked.iter().map(|l| l.1.clone()).collect::<Vec<_>>())
        .bind(locked.iter().map(|l| l.2).collect::<Vec<_>>())
        .bind(locked.iter().map(|l| l.3.clone()).collect::<Vec<_>>())
        .fetch_all(&mut tx)
        .await
        .unwrap();
    assert_eq!(gone, [(1, 6, 5)], "found six, deleted the five that nothing points at");
    run(&mut tx, "commit").await;
    assert_eq!(children(&world, "a").await, (1, 1));
}

#[tokio::test]
async fn i8_a_tree_within_one_table_goes_leaf_by_leaf_and_every_leaf_is_counted() {
    let world = World::new().await;
    world.account("a", "null", "now() - interval '31 days'", "null").await;
    world.account("live", "null", "null", "null").await;
    world
        .sql(
            "alter table template_configurations add parent_id bigint references template_configurations on delete cascade;
             update template_configurations t set parent_id = (select max(template_id) from template_configurations o where o.account_id = t.account_id and o.template_id < t.template_id);
             update template_configurations set parent_id = template_id where parent_id is null",
        )
        .await;
    world.run_passes().await.unwrap();
    assert_eq!((world.left("a").await, world.left("live").await), (left(0, 0, 0, 2), ALL));
    assert_eq!(world.job("a", "configuration").await.records_deleted.0["platform/template_configurations"], 3);
}

#[tokio::test]
async fn r34_a_child_whose_key_may_be_null_or_has_no_index_is_a_finding() {
    let world = world().await;
    world.sql("alter table presets alter column template_id drop not null; drop index notes_preset_id_idx").await;
    let about_targets = || {
        let findings: Vec<Value> = serde_json::from_value(world.json(&["check"])).unwrap();
        findings.into_iter().filter(|f| f["subject"].as_str().unwrap().starts_with("target ")).collect::<Vec<_>>()
    };
    let findings = about_targets();
    let text = json!(findings).to_string();
    for words in [
        "a record of presets whose template_id is null belongs to nobody",
        "no index of notes leads with preset_id: each record of presets that goes reads the whole of it",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    // What the findings say would mend them does.
    for finding in &findings {
        world.sql(finding["remedy"].as_str().unwrap_or("alter table presets alter column template_id set not null")).await;
    }
    assert_eq!(about_targets(), Vec::<Value>::new());
    world.run_passes().await.unwrap();
    assert_eq!((world.left("a").await, children(&world, "live").await), (left(0, 0, 0, 2), (6, 18)));
}

#[tokio::test]
async fn r13_a_parent_that_no_single_foreign_key_leads_to_is_refused() {
    for (change, words) in [
        ("alter table presets drop constraint presets_template_id_fkey", "0 foreign keys lead from presets to template_configurations"),
        (
            "alter table presets add other_id bigint references template_configurations",
            "2 foreign keys lead from presets to template_configurations",
        ),
    ] {
        let world = world().await;
        world.sql(change).await;
        let output = world.cli(&["check"]);
        let (code, text) = (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned());
        assert!(code == Some(10) && text.contains(words), "{code:?} {text}");
        assert_eq!(world.cli(&["run", "--once"]).status.code(), Some(10));
        assert_eq!(world.left("a").await, ALL);
    }
}

#[test]
fn r39_a_parent_that_is_not_listed_leads_in_a_circle_or_stands_beside_a_column_is_a_fault() {
    let listed = RULES.replace("\n[[data_classes.targets]]\nstore = \"platform\"\ntable = \"task_configurations\"", TARGETS);
    let settings = BTreeMap::from([("RETENTIOND__MODE".to_owned(), "observe".to_owned())]);
    for (from, to, words) in [
        ("parent = \"presets\"", "parent = \"presents\"", "targets[1].parent: \"presents\" is no target of this class"),
        ("parent = \"template_configurations\"", "parent = \"notes\"", "targets[1].parent: leads in a circle"),
        ("parent = \"presets\"", "parent = \"presets\"\naccount_column = \"a\"", "targets[1].account_column: has no place beside parent"),
        ("parent = \"presets\"", "", "targets[1].account_column: is missing"),
    ] {
        let rules = listed.replacen(from, to, 1);
        assert_ne!(rules, listed);
        let fault = config::parse(&[("rules.toml", &rules)], &settings, Needs::Nothing).unwrap_err().to_string();
        assert!(fault.contains(words), "{words}: {fault}");
    }
}

async fn run(conn: &mut PgConnection, statements: &str) {
    sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(conn).await.unwrap_or_else(|e| panic!("{statements}: {e}"));
}
