//! What the daemon refuses to start on, what it only warns about, and what it meets while it runs. Nothing here may delete a record too many,
//! and nothing that was refused may ever read as completed.

use std::time::{Duration, Instant};

use retentiond::{failure::Failure, lifecycle::Stop};
use serde_json::{Value, json};

use crate::world::{ALL, World, left};

/// The exit code of `check`, and its findings.
fn check(world: &World) -> (i32, Vec<Value>) {
    let output = world.cli(&["check", "-o", "json"]);
    let text = String::from_utf8_lossy(&output.stdout);
    let mut findings: Vec<Value> =
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text} {}", String::from_utf8_lossy(&output.stderr)));
    // The guard of the tests lets everything through, and check says so each time.
    findings.retain(|f| f["subject"] != "configuration");
    (output.status.code().unwrap(), findings)
}

/// `check` and every way to start refuse with this code and these words, and nothing is deleted.
async fn refused(world: &World, case: &str, code: u8, words: &str) {
    let (checked, findings) = check(world);
    assert_eq!(checked, i32::from(code), "check: {case}: {findings:?}");
    let said = findings.iter().filter(|f| f["severity"] != "warning").any(|f| f["problem"].as_str().unwrap().contains(words));
    assert!(said, "{case}: {words:?} is not in {findings:?}");
    let failure = world.run_passes().await.unwrap_err();
    assert_eq!(failure.exit_code(), code, "run: {case}: {failure}");
    assert!(failure.to_string().contains(words), "{case}: {failure}");
    assert_eq!(world.count("retention.every_job where state = 'completed'").await, 0, "{case}");
}

/// A due account and a live one.
async fn due() -> World {
    let world = World::new().await;
    world.account("a", "null", "now() - interval '31 days'", "null").await;
    world.account("live", "null", "null", "null").await;
    world
}

#[tokio::test]
async fn a_table_or_column_that_is_missing_or_of_another_type_is_refused_with_its_name() {
    let world = due().await;
    let cases = [
        ("alter table queue_messages rename to q", "table queue_messages does not exist", "alter table q rename to queue_messages"),
        ("alter table accounts rename to q", "table accounts does not exist", "alter table q rename to accounts"),
        (
            "alter table queue_messages rename account_id to q",
            "queue_messages has no column account_id",
            "alter table queue_messages rename q to account_id",
        ),
        ("alter table accounts rename deleted_at to q", "accounts has no column deleted_at", "alter table accounts rename q to deleted_at"),
        (
            "alter table accounts alter deleted_at type timestamp",
            "column deleted_at of accounts is timestamp without time zone, not timestamptz",
            "alter table accounts alter deleted_at type timestamptz",
        ),
        (
            "alter table accounts alter deleted_at type text",
            "column deleted_at of accounts is text, not timestamptz",
            "alter table accounts alter deleted_at type timestamptz using null",
        ),
        (
            "alter table feature_subscriptions drop constraint feature_subscriptions_pkey, alter feature type bytea using feature::bytea",
            "column feature of feature_subscriptions is bytea, not text",
            "alter table feature_subscriptions alter feature type text using convert_from(feature, 'utf8')",
        ),
        (
            "alter table queue_messages add q numeric; alter table queue_messages rename account_id to kept; alter table queue_messages rename q to account_id",
            "account column account_id of queue_messages is numeric",
            "alter table queue_messages drop account_id; alter table queue_messages rename kept to account_id",
        ),
    ];
    for (breaks, words, mends) in cases {
        world.sql(breaks).await;
        refused(&world, breaks, 10, words).await;
        world.sql(mends).await;
    }
    assert_eq!(world.left("a").await, ALL);
    world.run_passes().await.unwrap();
    assert_eq!(world.left("a").await, left(0, 0, 0, 2));
    assert_eq!(world.left("live").await, ALL);
}

#[tokio::test]
async fn r7_collations_and_types_that_blur_ids_are_refused() {
    let world = due().await;
    world
        .sql(
            "create collation blurred (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
             create domain customer as text;
             create domain folded as varchar(20) check (value = lower(value))",
        )
        .await;
    for (kind, words) in [
        ("char(20)", "is character"),
        ("customer", "is customer"),
        ("folded", "is folded"),
        ("text collate blurred", "with a nondeterministic collation"),
        ("smallint", "is smallint"),
        ("jsonb", "is jsonb"),
    ] {
        for table in ["queue_messages", "template_configurations"] {
            world.sql(&format!("alter table {table} rename account_id to kept; alter table {table} add account_id {kind}")).await;
            refused(&world, kind, 10, words).await;
            world.sql(&format!("alter table {table} drop account_id; alter table {table} rename kept to account_id")).await;
        }
    }
    // The source too.
    world
        .sql("alter table feature_subscriptions drop constraint feature_subscriptions_account_id_fkey; alter table accounts alter account_id type text collate blurred")
        .await;
    refused(&world, "source", 10, "account column account_id of accounts is text with a nondeterministic collation").await;
    assert_eq!(world.left("a").await, ALL);
}

#[tokio::test]
async fn only_tables_that_hold_records_can_be_targets_or_sources() {
    let world = due().await;
    world.sql("create foreign data wrapper none; create server nowhere foreign data wrapper none").await;
    for (makes, drops, words) in [
        ("create view queue_messages as select * from kept", "drop view queue_messages", "queue_messages is a view"),
        (
            "create materialized view queue_messages as select * from kept",
            "drop materialized view queue_messages",
            "queue_messages is a materialized view",
        ),
        (
            "create foreign table queue_messages (account_id text) server nowhere",
            "drop foreign table queue_messages",
            "queue_messages is a foreign table",
        ),
        ("create sequence queue_messages", "drop sequence queue_messages", "queue_messages is not a table"),
    ] {
        world.sql(&format!("alter table queue_messages rename to kept; {makes}")).await;
        refused(&world, makes, 10, words).await;
        world.sql(&format!("{drops}; alter table kept rename to queue_messages")).await;
    }
    world.sql("alter table accounts rename to kept; create view accounts as select * from kept").await;
    refused(&world, "a view as a source", 10, "accounts is a view").await;
    assert_eq!(world.left("a").await, ALL);
}

#[tokio::test]
async fn no_index_is_a_warning_with_its_remedy_and_the_purge_works_all_the_same() {
    let world = due().await;
    world.sql("drop index queue_messages_account_id_idx, template_configurations_account_id_idx, accounts_deleted_at_idx").await;
    // Indexes that cannot serve: partial, on an expression, led by another column, of a kind that knows no equality.
    world
        .sql(
            "create index on queue_messages (account_id) where event_type = 'x'; create index on queue_messages (lower(account_id));
             create index on queue_messages (event_type, account_id); create index on queue_messages using brin (account_id)",
        )
        .await;
    let (code, findings) = check(&world);
    assert_eq!(code, 0, "{findings:?}");
    let remedies: Vec<&str> = findings.iter().filter_map(|f| f["remedy"].as_str()).collect();
    for wanted in [
        "CREATE INDEX CONCURRENTLY ON \"public\".\"queue_messages\" (\"account_id\")",
        "CREATE INDEX CONCURRENTLY ON \"public\".\"template_configurations\" (\"account_id\")",
        "CREATE INDEX CONCURRENTLY ON \"public\".\"accounts\" (\"deleted_at\") WHERE \"deleted_at\" IS NOT NULL",
    ] {
        assert!(remedies.contains(&wanted), "{wanted} is not in {remedies:?}");
    }
    world.run_passes().await.unwrap();
    assert_eq!(world.left("a").await, left(0, 0, 0, 2));
    assert_eq!(world.left("live").await, ALL);
    for remedy in remedies.iter().filter(|r| r.starts_with("CREATE INDEX")) {
        world.sql(remedy).await;
    }
    let (code, findings) = check(&world);
    let mended = findings.iter().all(|finding| finding["subject"] == "ledger" && finding["remedy"].is_null());
    assert!(code == 0 && mended, "each remedy mends its finding: {findings:?}");
}

#[tokio::test]
async fn r18_tables_that_were_never_analysed_are_purged_through_their_indexes() {
    let world = World::new().await;
    for table in ["accounts", "feature_subscriptions", "template_configurations", "task_configurations", "queue_messages"] {
        world.sql(&format!("alter table {table} set (autovacuum_enabled = false)")).await;
    }
    world
        .sql(
            "insert into accounts (account_id, region) select 'a' || i, 'r' from generate_series(1, 2500) i;
             insert into feature_subscriptions (account_id, feature, terminated_at)
                 select 'a' || i, 'mps', case when i <= 2000 then now() - interval '8 days' end from generate_series(1, 2500) i;
             insert into queue_messages (account_id, event_type) select 'a' || i, 'x' from generate_series(1, 2500) i, generate_series(1, 10)",
        )
        .await;
    let app = world.app().await.unwrap();
    app.planner().look(retentiond::planner::Look::Resync).await.unwrap();
    app.database.close().await;
    let scans =
        "select coalesce(sum(seq_tup_read), 0)::int8 from pg_stat_user_tables where relname in ('queue_messages', 'feature_subscriptions')";
    let read: i64 = sqlx::query_scalar(scans).fetch_one(&mut world.connect().await).await.unwrap();
    // The jobs alone, without another look at the source.
    let app = world.app().await.unwrap();
    let mut worker = app.executor().worker("w".to_owned());
    while worker.step().await.unwrap() == retentiond::executor::Step::Worked {}
    app.database.close().await;
    assert_eq!(world.count("retention.every_job where data_class = 'queue' and state = 'completed'").await, 2_000);
    let after: i64 = sqlx::query_scalar(scans).fetch_one(&mut world.connect().await).await.unwrap();
    assert!(after - read < 25_000, "{} rows were read in sequential scans of the batches", after - read);
    assert_eq!(world.count("queue_messages").await, 5_000);
    assert_eq!(world.count("queue_messages m join feature_subscriptions s using (account_id) where s.terminated_at is not null").await, 0);
}

#[tokio::test]
async fn r13_a_part_a_parent_or_a_base_of_media_is_refused_as_a_target() {
    for (makes, words) in [
        // The target is a partition of media, media is a partition of the target, the target is what a media view shows.
        (
            "drop table media_objects; alter table queue_messages rename to kept;
             create table media_objects (account_id text, n int) partition by list (account_id);
             create table queue_messages partition of media_objects default",
            "queue_messages is the customer's media_objects, or a part of it",
        ),
        (
            "drop table media_objects; alter table queue_messages rename to kept;
             create table queue_messages (account_id text, n int) partition by list (account_id);
             create table media_objects partition of queue_messages default",
            "queue_messages is the customer's media_objects, or a part of it",
        ),
        (
            "drop table media_objects; create view between as select * from queue_messages; create view media_objects as select * from between",
            "queue_messages is the customer's media_objects, or a part of it",
        ),
        (
            "drop table media_objects; create materialized view media_objects as select * from queue_messages",
            "queue_messages is the customer's media_objects, or a part of it",
        ),
        (
            "drop table media_objects; alter table queue_messages rename to kept; create table media_objects (account_id text);
             create table between () inherits (media_objects); create table queue_messages () inherits (between)",
            "queue_messages is the customer's media_objects, or a part of it",
        ),
        // What a media view shows is a partition of the target, or its parent.
        (
            "drop table media_objects; alter table queue_messages rename to kept;
             create table queue_messages (account_id text, n int) partition by list (account_id);
             create table part partition of queue_messages default; create view media_objects as select * from part",
            "queue_messages is the customer's media_objects, or a part of it",
        ),
    ] {
        let world = due().await;
        world.sql(makes).await;
        refused(&world, makes, 10, words).await;
    }
}

#[tokio::test]
async fn r13_a_delete_that_would_reach_into_an_unlisted_or_media_table_or_be_forbidden_by_one_is_refused() {
    for (makes, words) in [
        (
            "create table drafts (template_id bigint references template_configurations)",
            "records of drafts, which no class lists, would forbid deleting those of template_configurations",
        ),
        (
            "alter table media_objects add template_id bigint references template_configurations on delete restrict",
            "records of media_objects, which no class lists, would forbid deleting those of template_configurations",
        ),
        (
            "create table drafts (template_id bigint references template_configurations on delete cascade)",
            "deleting from template_configurations would reach into drafts",
        ),
        (
            "alter table media_objects add template_id bigint references template_configurations on delete cascade",
            "deleting from template_configurations would reach into media_objects",
        ),
        (
            "alter table media_objects add template_id bigint references template_configurations on delete set null",
            "deleting from template_configurations would reach into media_objects",
        ),
        // The target is a partition, and the key points at the whole: the partition has but a copy of it.
        (
            "alter table template_configurations rename to kept; drop table media_objects;
             create table events (template_id bigint, account_id text, primary key (template_id, account_id)) partition by list (account_id);
             create table template_configurations partition of events default;
             create table media_objects (template_id bigint, owner text, foreign key (template_id, owner) references events on delete cascade)",
            "deleting from template_configurations would reach into media_objects",
        ),
        // Into a table of another class: its period is another.
        (
            "alter table queue_messages add template_id bigint references template_configurations on delete cascade",
            "deleting from template_configurations would reach into queue_messages",
        ),
        // The key points at a partition, where the records are.
        (
            "alter table template_configurations rename to kept;
             create table template_configurations (template_id bigint, account_id text) partition by list (account_id);
             create table part partition of template_configurations default; alter table part add primary key (template_id);
             create table drafts (template_id bigint references part on delete cascade)",
            "deleting from template_configurations would reach into drafts",
        ),
    ] {
        let world = due().await;
        world.sql(makes).await;
        refused(&world, makes, 10, words).await;
    }
}

#[tokio::test]
async fn r13_a_cascade_that_stays_within_the_class_is_allowed() {
    let world = due().await;
    world.sql("alter table task_configurations add template_id bigint references template_configurations on delete cascade").await;
    assert_eq!(check(&world).0, 0);
    world.run_passes().await.unwrap();
    assert_eq!(world.left("a").await, left(0, 0, 0, 2));
}

/// A key that forbids, from a class with another period: its records keep those they point at, and everybody is told.
#[tokio::test]
async fn r13_records_of_another_class_that_point_here_keep_what_they_point_at_until_they_are_gone() {
    let world = due().await;
    world
        .sql(
            "alter table queue_messages add template_id bigint references template_configurations;
             update queue_messages set template_id = (select min(template_id) from template_configurations where account_id = 'a') where account_id = 'live'",
        )
        .await;
    let (code, findings) = check(&world);
    assert!(
        code == 0 && json!(findings).to_string().contains("records of queue_messages, which belong to another class, keep"),
        "{findings:?}"
    );
    let app = world.app().await.unwrap();
    app.planner().look(retentiond::planner::Look::Resync).await.unwrap();
    let mut worker = app.executor().worker("w".to_owned());
    while worker.step().await.unwrap() == retentiond::executor::Step::Worked {}
    app.database.close().await;
    assert_eq!((world.left("live").await, world.left("a").await), (ALL, left(1, 0, 0, 2)));
    world.sql("update queue_messages set template_id = null; update retention.jobs set ready_at = now() where lease_until is null").await;
    world.run_passes().await.unwrap();
    assert_eq!((world.left("live").await, world.left("a").await), (ALL, left(0, 0, 0, 2)));
}

#[tokio::test]
async fn r13_a_cascade_between_partitioned_tables_of_one_class_is_allowed() {
    let world = due().await;
    world
        .sql(
            "drop table template_configurations; drop table task_configurations;
             create table template_configurations (template_id bigint, account_id text, primary key (account_id, template_id)) partition by hash (account_id);
             create table t0 partition of template_configurations for values with (modulus 2, remainder 0);
             create table t1 partition of template_configurations for values with (modulus 2, remainder 1);
             create table task_configurations (task_id bigint, account_id text, template_id bigint, primary key (account_id, task_id),
                 foreign key (account_id, template_id) references template_configurations on delete cascade) partition by hash (account_id);
             create table k0 partition of task_configurations for values with (modulus 2, remainder 0);
             create table k1 partition of task_configurations for values with (modulus 2, remainder 1);
             insert into template_configurations select i, a from generate_series(1, 3) i, unnest(array['a', 'live']) a;
             insert into task_configurations select i, a, 1 from generate_series(1, 5) i, unnest(array['a', 'live']) a",
        )
        .await;
    let (code, findings) = check(&world);
    assert_eq!(code, 0, "{findings:?}");
    world.run_passes().await.unwrap();
    assert_eq!(world.left("a").await, left(0, 0, 0, 2));
    assert_eq!(world.left("live").await, ALL);
    let counts = world.job("a", "configuration").await.records_deleted.0;
    assert_eq!((counts["platform/template_configurations"], counts["platform/task_configurations"]), (3, 5), "counts are exact");
}

#[tokio::test]
async fn a_foreign_key_within_the_class_refuses_nothing_whatever_the_order_of_the_targets() {
    let mut world = due().await;
    // Configured first, templates are pointed at by the tasks that come after them.
    world
        .sql(
            "alter table task_configurations add template_id bigint references template_configurations;
             update task_configurations k set template_id = (select min(template_id) from template_configurations t where t.account_id = k.account_id)",
        )
        .await;
    world.set("EXECUTOR__MAX_ROWS_PER_BATCH", "2");
    world.run_passes().await.unwrap();
    assert_eq!(world.left("a").await, left(0, 0, 0, 2));
    assert_eq!(world.left("live").await, ALL);
    let counts = world.job("a", "configuration").await.records_deleted.0;
    assert_eq!((counts["platform/template_configurations"], counts["platform/task_configurations"]), (3, 5));
}

#[tokio::test]
async fn r47_a_delete_trigger_is_a_finding_and_r25_one_that_swallows_deletes_never_completes() {
    let world = due().await;
    world
        .sql(
            "create function swallow() returns trigger language plpgsql as 'begin return null; end';
             create trigger keeps before delete on queue_messages for each row execute function swallow()",
        )
        .await;
    let (code, findings) = check(&world);
    assert_eq!(code, 0);
    assert!(findings.iter().any(|f| f["problem"] == "trigger keeps on queue_messages runs when records are deleted"), "{findings:?}");
    assert_eq!(world.run_passes().await.unwrap_err().exit_code(), 1);
    let job = world.job("a", "queue").await;
    assert_eq!((job.state.as_str(), job.completed_at), ("scheduled", None));
    assert!(job.last_error.unwrap().contains("platform/queue_messages"));
    assert_eq!(world.left("a").await, left(0, 0, 7, 2));
    world.sql("drop trigger keeps on queue_messages").await;
    world.run_passes().await.unwrap();
    assert_eq!(world.job("a", "queue").await.state, "completed");
    assert_eq!(world.left("a").await, left(0, 0, 0, 2));
}

#[tokio::test]
async fn r47_a_trigger_on_a_partition_is_a_finding_too() {
    let world = due().await;
    world
        .sql(
            "create function swallow() returns trigger language plpgsql as 'begin return null; end';
             drop table queue_messages; create table queue_messages (account_id text) partition by list (account_id);
             create table part partition of queue_messages default;
             create trigger keeps before delete on part for each row execute function swallow()",
        )
        .await;
    let (_, findings) = check(&world);
    assert!(findings.iter().any(|f| f["problem"].as_str().unwrap().starts_with("trigger keeps on ")), "{findings:?}");
}

#[tokio::test]
async fn r34_tables_of_ours_that_are_missing_older_or_newer_are_refused_with_the_remedy() {
    let world = due().await;
    let last = "(select max(version) from retention.migrations)";
    world.sql(&format!("create table public.applied as select * from retention.migrations where version = {last}")).await;
    for (breaks, words, mends) in [
        (
            format!("delete from retention.migrations where version = {last}"),
            "older than this program; upgrade them with `retentiond migrate`",
            "insert into retention.migrations table public.applied",
        ),
        (
            "insert into retention.migrations select 9999, 'later', installed_on, true, checksum, 1 from public.applied".to_owned(),
            "made by a newer program (migration 9999 is unknown here)",
            "delete from retention.migrations where version = 9999",
        ),
    ] {
        world.sql(&breaks).await;
        refused(&world, &breaks, 10, words).await;
        for verb in [&["status"][..], &["plan"], &["jobs", "list"], &["run", "--once"], &["run"]] {
            assert_eq!(world.cli(verb).status.code(), Some(10), "{verb:?} with {breaks}");
        }
        world.sql(mends).await;
    }
    world.run_passes().await.unwrap();
    assert_eq!(world.left("a").await, left(0, 0, 0, 2));

    let bare = World::bare().await;
    for verb in [&["status"][..], &["check"], &["run", "--once"]] {
        let output = bare.cli(verb);
        assert_eq!(output.status.code(), Some(10), "{verb:?}");
        let said = [output.stdout, output.stderr].concat();
        assert!(String::from_utf8_lossy(&said).contains("retentiond migrate"), "{verb:?}");
    }
}

#[tokio::test]
async fn r34_an_unreachable_database_is_tried_for_ten_seconds_and_then_69() {
    let mut world = World::new().await;
    // Nobody listens: the port was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    world.set("DATABASE__URL", &format!("postgres://u:hunter2@127.0.0.1:{port}/platform"));
    let began = Instant::now();
    let output = world.cli(&["run", "--once"]);
    let took = began.elapsed();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(took >= Duration::from_secs(8) && took < Duration::from_secs(25), "{took:?}");
    assert!(!said.contains("hunter2"), "{said}");
    assert!(said.contains("refused"), "it says why: {said}");
}

#[tokio::test]
async fn wrong_credentials_are_12_at_once() {
    let mut world = World::new().await;
    let (scheme, rest) = world.url.split_once("://").unwrap();
    let server = rest.rsplit_once('@').map_or(rest, |(_, server)| server);
    let url = format!("{scheme}://nobody_here:hunter2@{server}");
    world.set("DATABASE__URL", &url);
    let began = Instant::now();
    let output = world.cli(&["status"]);
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(12), "{said}");
    assert!(began.elapsed() < Duration::from_secs(9) && !said.contains("hunter2"), "{said}");
}

#[tokio::test]
async fn r16_a_target_dropped_renamed_or_replaced_while_running_is_not_purged_and_not_completed() {
    for breaks in [
        "drop table queue_messages",
        "alter table queue_messages rename to kept",
        "alter table queue_messages rename to kept; create table queue_messages (like kept including all); insert into queue_messages (account_id, event_type) values ('a', 'another table')",
        "alter table queue_messages set schema retention",
    ] {
        let world = due().await;
        let app = world.app().await.unwrap();
        app.planner().look(retentiond::planner::Look::Resync).await.unwrap();
        world.sql(breaks).await;
        let mut worker = app.executor().worker("w".to_owned());
        for _ in 0..3 {
            let _ = worker.step().await;
        }
        let job = world.job("a", "queue").await;
        assert_ne!(job.state, "completed", "{breaks}");
        assert_eq!(job.completed_at, None, "{breaks}");
        if breaks.contains("create table") {
            assert_eq!(world.count("queue_messages").await, 1, "a table that nobody checked is not touched");
        }
        if breaks.contains("kept") {
            assert_eq!(world.count("kept where account_id = 'a'").await, 7, "{breaks}");
        }
        let failure: Failure = app.run_once(&Stop::default()).await.unwrap_err();
        assert_ne!(failure.exit_code(), 0, "{breaks}");
        assert_ne!(world.job("a", "queue").await.state, "completed", "{breaks}");
        app.database.close().await;
    }
}

#[tokio::test]
async fn i3_a_cascade_within_the_class_takes_no_record_of_another_account() {
    let world = due().await;
    world
        .sql(
            "alter table task_configurations add template_id bigint references template_configurations on delete cascade;
             update task_configurations set template_id = (select min(template_id) from template_configurations where account_id = 'a') where account_id = 'live'",
        )
        .await;
    // The one template that another account's tasks point at stays, and the job with it; the rest goes.
    let app = world.app().await.unwrap();
    app.planner().look(retentiond::planner::Look::Resync).await.unwrap();
    let mut worker = app.executor().worker("w".to_owned());
    while worker.step().await.unwrap() == retentiond::executor::Step::Worked {}
    app.database.close().await;
    assert_eq!(world.left("live").await, ALL);
    assert_eq!(world.left("a").await, left(1, 0, 0, 2));
    let job = world.job("a", "configuration").await;
    assert_eq!((job.state.as_str(), job.completed_at), ("scheduled", None));
    world
        .sql("update task_configurations set template_id = null; update retention.jobs set ready_at = now() where lease_until is null")
        .await;
    world.run_passes().await.unwrap();
    assert_eq!(world.left("a").await, left(0, 0, 0, 2));
    assert_eq!(world.left("live").await, ALL);
}

#[tokio::test]
async fn i4_a_media_table_that_is_attached_to_a_target_while_running_stops_the_batch() {
    let world = due().await;
    world
        .sql(
            "drop table template_configurations;
             create table template_configurations (template_id bigint, account_id text) partition by list (account_id);
             create table t1 partition of template_configurations for values in ('a'); create table t2 partition of template_configurations default;
             create index on template_configurations (account_id); insert into template_configurations values (1, 'a');
             drop table media_objects; create table media_objects (template_id bigint, account_id text); insert into media_objects values (9, 'a')",
        )
        .await;
    let app = world.app().await.unwrap();
    app.planner().look(retentiond::planner::Look::Resync).await.unwrap();
    world.sql("alter table template_configurations detach partition t1; alter table template_configurations attach partition media_objects for values in ('a')").await;
    let failure = app.run_once(&Stop::default()).await.unwrap_err();
    assert_ne!(failure.exit_code(), 0);
    app.database.close().await;
    assert_eq!(world.count("media_objects").await, 1);
    let job = world.job("a", "configuration").await;
    let why = job.last_error.unwrap_or_default();
    assert!(why.contains("media_objects, which the customer controls, has become a part of a target"), "{why}");
    assert_eq!(job.state, "scheduled");
}

#[tokio::test]
async fn r13_a_target_that_holds_a_source_table_as_its_partition_is_refused() {
    let world = due().await;
    let makes = "drop table template_configurations;
        create table template_configurations (account_id text not null, region text not null, created_at timestamptz not null default now(), deleted_at timestamptz)
            partition by list (region);
        alter table feature_subscriptions drop constraint feature_subscriptions_account_id_fkey; alter table accounts drop constraint accounts_pkey;
        alter table template_configurations attach partition accounts default";
    world.sql(makes).await;
    refused(&world, makes, 10, "holds the starting point account_deleted").await;
}
