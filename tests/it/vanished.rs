//! Rows that are hard-deleted from the source (I9, R6): missed, confirmed, and purged on the same terms. Vanishing withdraws nothing.

use chrono::{DateTime, Utc};
use retentiond::{
    catalog,
    database::{Database, Purpose},
    planner::Look,
    source::roster::rosters,
};

use crate::world::{ALL, World, left};

impl World {
    /// Lets time pass for what is known of vanished rows.
    async fn absences_age(&self, by: &str) {
        self.sql(&format!("update retention.absences set first_missed_at = first_missed_at - interval '{by}'")).await;
    }

    async fn vanish(&self, id: &str) {
        self.sql(&format!("delete from accounts where account_id = '{id}'")).await;
    }
}

#[tokio::test]
async fn i9_a_vanished_account_counts_as_deleted_since_it_was_first_missed() {
    let mut world = World::new().await;
    world.set("POLL__VANISH_INTERVAL", "1h");
    world.account("gone", "null", "null", "null").await;
    world.account("stays", "null", "null", "null").await;
    world.run_passes().await.unwrap();
    world.vanish("gone").await;
    world.run_passes().await.unwrap();
    assert!(world.jobs("gone").await.is_empty(), "missed once is not vanished");
    world.absences_age("2 hours").await;
    world.run_passes().await.unwrap();
    let job = world.job("gone", "configuration").await;
    assert_eq!((job.state.as_str(), job.starting_point.as_str()), ("scheduled", "account_deleted"));
    assert_eq!(world.left("gone").await, ALL);

    world.absences_age("8 days").await;
    world.run_passes().await.unwrap();
    assert_eq!(world.left("gone").await, left(3, 5, 0, 2), "7 days: the queue alone");
    world.absences_age("23 days").await;
    world.run_passes().await.unwrap();
    assert_eq!(world.left("gone").await, left(0, 0, 0, 2));
    assert_eq!(world.left("stays").await, ALL);
    assert!(world.jobs("stays").await.is_empty());
}

#[tokio::test]
async fn r6_a_missing_row_makes_its_due_job_wait_and_a_confirmed_one_purges_under_the_instant_that_stood() {
    let mut world = World::new().await;
    world.set("POLL__VANISH_INTERVAL", "1h");
    world.account("gone", "null", "now() - interval '29 days'", "null").await;
    world.run_passes().await.unwrap();
    let scheduled = world.job("gone", "configuration").await;
    world.vanish("gone").await;
    // Two days pass: the job is due, its row is missing for the first time.
    let back = "started_at = started_at - interval '2 days', retain_until = retain_until - interval '2 days', delete_by = delete_by - interval '2 days'";
    world.sql(&format!("update retention.jobs set {back}, ready_at = now() where lease_until is null")).await;
    assert!(world.run_passes().await.is_err(), "a due job remains");
    assert_eq!(world.left("gone").await, left(3, 5, 0, 2));
    let waiting = world.job("gone", "configuration").await;
    assert_eq!(
        (waiting.id.as_str(), waiting.state.as_str(), waiting.blocked_by.as_deref()),
        (scheduled.id.as_str(), "scheduled", Some("missing"))
    );

    world.absences_age("2 hours").await;
    world.run_passes().await.unwrap();
    let done = world.job("gone", "configuration").await;
    assert_eq!((done.id, done.state.as_str(), done.starting_point.as_str()), (scheduled.id, "completed", "feature_terminated"));
    assert_eq!(world.left("gone").await, left(0, 0, 0, 2));
}

#[tokio::test]
async fn r6_a_row_that_comes_back_decides_by_its_own_columns() {
    let world = World::new().await;
    world.account("back", "null", "null", "null").await;
    world.run_passes().await.unwrap();
    world.vanish("back").await;
    world.run_passes().await.unwrap();
    world.absences_age("6 days").await;
    world.run_passes().await.unwrap();
    assert_eq!(world.job("back", "queue").await.state, "scheduled");
    world.sql("insert into accounts values ('back', 'x'); insert into feature_subscriptions values ('back', 'mps')").await;
    world.run_passes().await.unwrap();
    for class in ["configuration", "queue"] {
        let job = world.job("back", class).await;
        assert_eq!((job.state.as_str(), job.cancel_reason.as_deref()), ("cancelled", Some("reactivated")));
    }
    assert_eq!(world.left("back").await, ALL);
    assert_eq!(world.count("retention.absences").await, 0);
}

#[tokio::test]
async fn r6_a_vanished_subscription_counts_as_every_starting_point_of_its_table_and_no_other() {
    let world = World::new().await;
    world.account("kept", "null", "null", "null").await;
    world.run_passes().await.unwrap();
    world.sql("delete from feature_subscriptions where account_id = 'kept'").await;
    world.run_passes().await.unwrap();
    world.absences_age("31 days").await;
    world.run_passes().await.unwrap();
    assert_eq!(world.job("kept", "configuration").await.starting_point, "feature_terminated");
    assert_eq!(world.left("kept").await, left(0, 0, 0, 2));
    assert_eq!(world.count("retention.absences").await, 1, "the account itself is there");
}

#[tokio::test]
async fn i12_a_source_that_loses_too_many_accounts_trips_the_guard_before_anything_is_purged() {
    let mut world = World::new().await;
    world.set("GUARD__MAX_SHRINK", "10%").set("GUARD__SHARE_FLOOR", "10");
    world.sql("insert into accounts select 'a' || i, 'x' from generate_series(1, 20) i").await;
    world.account("due", "null", "null", "null").await;
    world.run_passes().await.unwrap();
    world.sql("delete from accounts where account_id in ('a1', 'a2')").await;
    world.run_passes().await.unwrap();
    world.sql("delete from accounts where account_id in ('a3')").await;
    world.sql("update feature_subscriptions set terminated_at = now() - interval '31 days' where account_id = 'due'").await;
    let refused = world.run_passes().await.unwrap_err();
    assert_eq!(refused.exit_code(), 13, "{refused}");
    assert!(refused.to_string().contains("lost 3 of 21"), "{refused}");
    assert_eq!(world.left("due").await, ALL);
}

/// Found by the soak: a row that went while a comparison was under way was missed before it had gone, and its period began too early.
#[tokio::test]
async fn i1_a_row_that_vanishes_during_a_comparison_is_first_missed_after_it_vanished() {
    let world = World::new().await;
    world.account("gone", "null", "null", "null").await;
    let app = world.app().await.unwrap();
    app.planner().look(Look::Resync).await.unwrap();
    let mut tx = app.database.begin(Purpose::Bulk).await.unwrap();
    let (layout, _) = catalog::inspect(&mut tx, &app.config).await.unwrap();
    // The transaction has begun; only now the row goes.
    world.vanish("gone").await;
    let after: DateTime<Utc> = sqlx::query_scalar("select clock_timestamp()").fetch_one(&mut world.connect().await).await.unwrap();
    for roster in rosters(&app.config, &layout.unwrap()) {
        let mut walk = roster.open(&mut tx).await.unwrap();
        let differ = roster.compare(&mut tx, &mut walk, 10).await.unwrap();
        assert_eq!(roster.look_into(&mut tx, &differ).await.unwrap().newly, 1);
    }
    let missed: Vec<DateTime<Utc>> =
        sqlx::query_scalar("select first_missed_at from retention.absences").fetch_all(&mut *tx).await.unwrap();
    assert_eq!(missed.len(), 2, "the account and its subscription");
    assert!(missed.iter().all(|at| *at >= after), "{missed:?} {after}");
}

/// Who comes back and goes again while a comparison is under way is missed anew: what it wrote in between has a period of its own.
#[tokio::test]
async fn i1_a_row_that_a_comparison_saw_back_is_missed_anew_when_it_goes_again() {
    let world = World::new().await;
    world.account("gone", "null", "null", "null").await;
    let app = world.app().await.unwrap();
    app.planner().look(Look::Resync).await.unwrap();
    world.vanish("gone").await;
    app.planner().look(Look::Resync).await.unwrap();
    assert_eq!(world.count("retention.absences").await, 2);
    world.account("gone", "null", "null", "null").await;
    let mut tx = app.database.begin(Purpose::Bulk).await.unwrap();
    let (layout, _) = catalog::inspect(&mut tx, &app.config).await.unwrap();
    for roster in rosters(&app.config, &layout.unwrap()) {
        let mut walk = roster.open(&mut tx).await.unwrap();
        let differ = roster.compare(&mut tx, &mut walk, 10).await.unwrap();
        roster.look_into(&mut tx, &differ).await.unwrap();
    }
    Database::commit(tx).await.unwrap();
    assert_eq!(world.count("retention.absences").await, 0, "they were seen");
}

/// The ranges touch each other, leave no gap, and remember exactly who is there.
async fn in_order(world: &World, table: &str, wanted: i64) {
    let ranges = format!("retention.roster r where r.source like '%\"{table}\"%'");
    let broken = format!(
        "(select from {ranges} and r.upper is not null and not exists (select from retention.roster n where n.source = r.source and n.lower = r.upper)) x"
    );
    assert_eq!(world.count(&broken).await, 0, "{table}: a gap");
    assert_eq!(world.count(&format!("(select from {ranges} and r.upper is null) x")).await, 1, "{table}: one last range");
    let members = format!("(select unnest(r.subjects) as s from {ranges}) x where s is not null");
    assert_eq!(world.count(&members).await, wanted, "{table}");
    let counted = format!("(select from {ranges} and r.members <> cardinality(r.subjects)) x");
    assert_eq!(world.count(&counted).await, 0, "{table}");
}

/// Accounts keyed by each type, with an index in its order and without one, grow, shrink and empty in the middle.
#[tokio::test]
async fn r6_ranges_of_every_key_are_cut_and_joined_and_miss_exactly_who_is_gone() {
    for (kind, index) in [
        ("text", "create unique index on subs (id, feature)"),
        ("text collate \"en-x-icu\"", "create unique index on subs (id, feature)"),
        ("varchar(40)", "create index on subs using hash (id)"),
        ("uuid", "create unique index on subs (id, feature)"),
        ("integer", "create index on subs (id)"),
        ("bigint", ""),
    ] {
        let case = format!("{kind}, {index:?}");
        let mut world = World::new().await;
        // Scattered over the whole of the type, so that new ones come in between.
        let id = |n: &str| match kind {
            "integer" => format!("hashint4({n})"),
            "bigint" => format!("hashint8extended({n}, 0)"),
            "uuid" => format!("md5(({n})::text)::uuid"),
            _ => format!("md5(({n})::text)"),
        };
        world
            .sql(&format!("create table subs (id {kind}, feature text, terminated_at timestamptz, cmq_disabled_at timestamptz); {index}"))
            .await;
        world.rules =
            world.rules.replace("\"feature_subscriptions\"\naccount_column = \"account_id\"", "\"subs\"\naccount_column = \"id\"");
        assert!(world.rules.contains("\"subs\""));
        let add = |from: i32, to: i32| format!("insert into subs select {}, 'mps' from generate_series({from}, {to}) n", id("n"));
        world.sql(&add(1, 12_000)).await;
        world.sql("insert into subs select id, 'another', now() from subs limit 10").await;
        let look = async || {
            let app = world.app().await.unwrap();
            app.planner().look(Look::Resync).await.unwrap();
            app.database.close().await;
        };
        look().await;
        in_order(&world, "subs", 12_000).await;
        // Nothing is missed, and what is new is remembered.
        world.sql(&add(12_001, 16_000)).await;
        look().await;
        in_order(&world, "subs", 16_000).await;
        assert_eq!(world.count("retention.absences").await, 0, "{case}");
        // Every seventh goes; one comes back before the next look, another after it.
        world.sql(&format!("delete from subs where id in (select {} from generate_series(7, 16000, 7) n)", id("n"))).await;
        world.sql(&add(7, 7)).await;
        look().await;
        let gone = 16_000 / 7 - 1;
        in_order(&world, "subs", 16_000 - gone).await;
        let missed = format!(
            "retention.absences a where a.feature = 'mps' and a.account_id in (select ({})::text from generate_series(14, 16000, 7) n)",
            id("n")
        );
        assert_eq!((world.count("retention.absences").await, world.count(&missed).await), (gone, gone), "{case}");
        world.sql(&add(14, 14)).await;
        // A whole stretch of keys empties, then everything.
        world.sql("delete from subs where id > (select id from subs order by id offset 2000 limit 1) and id < (select id from subs order by id offset 12000 limit 1)").await;
        look().await;
        let there = world.count("subs where feature = 'mps'").await;
        assert!(there < 8_000, "{case}");
        in_order(&world, "subs", there).await;
        assert_eq!(world.count("retention.absences").await, 16_000 - there, "{case}");
        world.sql("delete from subs").await;
        look().await;
        in_order(&world, "subs", 0).await;
        assert_eq!(world.count("retention.absences").await, 16_000, "{case}: everybody is missed");
        assert_eq!(world.count("retention.roster r where r.source like '%\"subs\"%'").await, 1, "{case}: empty ranges are joined");
    }
}

#[tokio::test]
async fn i9_who_was_remembered_before_there_were_ranges_is_neither_forgotten_nor_missed_without_reason() {
    let world = World::new().await;
    for id in ["stays", "12:gone", "gone \u{1f4a9}", ""] {
        world.account(id, "null", "null", "null").await;
    }
    world.run_passes().await.unwrap();
    // As an earlier version wrote it: no bounds, another checksum, several of them.
    world
        .sql(
            "insert into retention.roster (source, ordering, lower, members, checksum, subjects)
                 select r.source, 'bucket', '', 1, 42, array[s] from retention.roster r, unnest(r.subjects) s;
             delete from retention.roster where ordering <> 'bucket'",
        )
        .await;
    world.vanish("12:gone").await;
    world.vanish("gone \u{1f4a9}").await;
    world.run_passes().await.unwrap();
    assert_eq!(world.count("retention.roster where ordering = 'bucket'").await, 0);
    assert_eq!(world.count("retention.absences where account_id in ('12:gone', 'gone \u{1f4a9}')").await, 4);
    assert_eq!(world.count("retention.absences").await, 4);
    in_order(&world, "accounts", 2).await;
    in_order(&world, "feature_subscriptions", 2).await;
}

/// The comparison of an emptied source dies again and again before the guard has seen it.
#[tokio::test]
async fn i12_an_emptied_source_trips_the_guard_however_often_its_comparison_was_interrupted() {
    let mut world = World::new().await;
    world.set("GUARD__SHARE_FLOOR", "100").set("GUARD__MAX_SHRINK", "10%");
    for id in ["a", "b", "c"] {
        world.account(id, "null", "null", "null").await;
    }
    world.run_passes().await.unwrap();
    world.sql("delete from accounts").await;
    let app = world.app().await.unwrap();
    let mut tx = app.database.begin(Purpose::Bulk).await.unwrap();
    let (layout, _) = catalog::inspect(&mut tx, &app.config).await.unwrap();
    for roster in rosters(&app.config, &layout.unwrap()) {
        let mut walk = roster.open(&mut tx).await.unwrap();
        let differ = roster.compare(&mut tx, &mut walk, 10).await.unwrap();
        assert_eq!(roster.look_into(&mut tx, &differ).await.unwrap().newly, 3);
    }
    Database::commit(tx).await.unwrap();
    let refused = world.run_passes().await;
    assert!(world.json(&["status"])["guard"]["reason"].as_str().unwrap().contains("lost 3 of 3"), "{refused:?}");
    // Released by somebody who knows, it stays released.
    world.cli(&["guard", "release", "--reason", "meant"]);
    world.run_passes().await.unwrap();
    assert_eq!(world.json(&["status"])["guard"]["tripped"], false);
}

/// A row may come, be terminated and go between two comparisons: the job that a poll made of it tells that it was there.
#[tokio::test]
async fn i9_a_row_that_vanished_before_any_comparison_saw_it_is_missed() {
    let mut world = World::new().await;
    world.set("POLL__VANISH_INTERVAL", "1h");
    let app = world.app().await.unwrap();
    app.planner().look(Look::Resync).await.unwrap();
    world.account("brief", "null", "now()", "null").await;
    app.planner().look(Look::Poll).await.unwrap();
    assert_eq!(world.job("brief", "queue").await.state, "scheduled");
    world.vanish("brief").await;
    let back = "started_at = started_at - interval '32 days', retain_until = retain_until - interval '32 days', delete_by = delete_by - interval '32 days'";
    world.sql(&format!("update retention.jobs set {back}, ready_at = now()")).await;
    assert!(world.run_passes().await.is_err(), "missing is not vanished");
    assert_eq!(world.left("brief").await, ALL);
    world.sql("update retention.jobs set ready_at = now()").await;
    app.planner().look(Look::Resync).await.unwrap();
    world.absences_age("2 hours").await;
    world.run_passes().await.unwrap();
    assert_eq!(world.left("brief").await, left(0, 0, 0, 2));
}
