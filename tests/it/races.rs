//! Reactivation, hold, pause and guard against each batch, in every order. Nothing here waits for time: two connections meet at locks.

use std::time::Duration;

use retentiond::{
    app::App,
    database::{Database, Purpose, Tx},
    executor::{
        Step, Worker,
        batch::{Batch, Extent, Verdict},
    },
    jobs::{self, Claimed},
    planner::Look,
    policy::Class,
    safeguards::{
        self, STOP_LOCK,
        control::{self, Scope},
    },
    stores::postgres::Delete,
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::world::{ALL, World, left, until};

const OLD: &str = "now() - interval '31 days'";

/// A purge of `configuration` of account `a`, to be stopped between any two of its steps.
struct Race {
    world: World,
    app: App,
    class: Class,
    batch: Batch,
}

impl Race {
    async fn new() -> Self {
        let world = World::new().await;
        world.account("a", "null", OLD, "null").await;
        world.account("live", "null", "null", "null").await;
        Self::of(world).await
    }

    async fn of(world: World) -> Self {
        let app = world.app().await.unwrap();
        app.planner().look(Look::Resync).await.unwrap();
        let class = app.policy.classes[0].clone();
        let batch = Batch::new(&class, &app.policy);
        Self { world, app, class, batch }
    }

    async fn claim(&self) -> Vec<Claimed> {
        let mut tx = self.begin().await;
        safeguards::admit(&mut tx, &self.app.config.guard).await.unwrap();
        let claimed =
            jobs::claim(&mut tx, &self.class.jobs, jobs::Lane::Fresh, "racer", Duration::from_mins(10), Duration::from_hours(24), 100)
                .await
                .unwrap();
        Database::commit(tx).await.unwrap();
        assert_eq!(claimed.len(), 1);
        claimed
    }

    async fn begin(&self) -> Tx {
        self.app.database.begin(Purpose::Write).await.unwrap()
    }

    async fn enter(&self) -> Tx {
        let mut tx = self.begin().await;
        self.batch.enter(&mut tx, &self.app.policy.pinned, &self.app.seen).await.unwrap();
        tx
    }

    async fn license(&self, tx: &mut Tx, claimed: &[Claimed]) -> Option<Verdict> {
        self.batch.license(tx, claimed).await.unwrap().get(&claimed[0].id).copied()
    }

    /// Every DELETE of the batch. How many records went.
    async fn delete(&self, tx: &mut Tx, claimed: &[Claimed]) -> i64 {
        let mut records = 0;
        for target in &self.class.targets {
            let gone = self
                .batch
                .delete(
                    tx,
                    target,
                    &claimed.iter().collect::<Vec<_>>(),
                    if claimed.len() == 1 { Extent::Slice(1_000) } else { Extent::Whole },
                )
                .await
                .unwrap();
            records += gone.iter().map(|gone| gone.records).sum::<i64>();
        }
        records
    }

    fn worker(&self) -> Worker {
        self.app.executor().worker("worker".to_owned())
    }

    async fn exhaust(&self) {
        let mut worker = self.worker();
        while worker.step().await.unwrap() == Step::Worked {}
    }
}

/// What stops a purge.
#[derive(Debug, Clone, Copy)]
enum Stop {
    Hold,
    Pause,
    PauseOfTheAccount,
    Trip,
}

const STOPS: [Stop; 4] = [Stop::Hold, Stop::Pause, Stop::PauseOfTheAccount, Stop::Trip];

impl Stop {
    fn word(self) -> &'static str {
        match self {
            Self::Hold => "held",
            Self::Pause | Self::PauseOfTheAccount => "paused",
            Self::Trip => "guarded",
        }
    }

    /// As the verbs do it, to the commit.
    async fn place(self, database: Database) {
        let mut tx = database.begin(Purpose::Write).await.unwrap();
        let account = Scope { account: Some("a".to_owned()), ..Scope::default() };
        match self {
            Self::Hold => drop(control::place_hold(&mut tx, &account, "race", "test", None).await.unwrap()),
            Self::Pause => control::pause(&mut tx, &Scope::default(), "race", "test").await.unwrap(),
            Self::PauseOfTheAccount => control::pause(&mut tx, &account, "race", "test").await.unwrap(),
            Self::Trip => safeguards::trip(&mut tx, "race").await.unwrap(),
        }
        Database::commit(tx).await.unwrap();
    }

    /// As somebody would who knows nothing of the stop lock.
    fn by_hand(self) -> &'static str {
        match self {
            Self::Hold => "insert into retention.holds (account_id, reason, placed_by) values ('a', 'race', 'test')",
            Self::Pause => "insert into retention.pauses (reason, paused_by) values ('race', 'test')",
            Self::PauseOfTheAccount => "insert into retention.pauses (account_id, reason, paused_by) values ('a', 'race', 'test')",
            Self::Trip => "update retention.guard set tripped_at = now(), reason = 'race'",
        }
    }
}

async fn run(connection: &mut PgConnection, statements: &str) {
    sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(connection).await.unwrap();
}

/// Somebody of this database waits for the stop lock.
async fn waits_for_the_stop_lock(world: &World) {
    let key = STOP_LOCK.unsigned_abs();
    let (high, low) = (key >> 32, key & 0xffff_ffff);
    let waiting = format!(
        "pg_locks where locktype = 'advisory' and classid = {high} and objid = {low} and not granted
         and database = (select oid from pg_database where datname = current_database())"
    );
    until("somebody waits for the stop lock", async || world.count(&waiting).await == 1).await;
}

/// A statement of the platform waits for a row.
async fn waits_for_a_row(world: &World) {
    let waiting =
        "pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' and wait_event in ('transactionid', 'tuple')";
    until("the platform waits for a row", async || world.count(waiting).await == 1).await;
}

#[tokio::test]
async fn i5_what_stops_before_the_claim_stops_the_claim() {
    for stop in STOPS {
        let race = Race::new().await;
        let mut tx = race.begin().await;
        safeguards::admit(&mut tx, &race.app.config.guard).await.unwrap();
        Database::commit(tx).await.unwrap();
        stop.place(race.app.database.clone()).await;
        race.exhaust().await;
        assert_eq!(race.world.left("a").await, ALL, "{stop:?}");
        let job = race.world.job("a", "configuration").await;
        assert_eq!((job.state.as_str(), job.attempts), ("scheduled", 0), "{stop:?}");
    }
}

#[tokio::test]
async fn r15_what_stops_between_claim_and_batch_stops_the_batch() {
    for stop in STOPS {
        let race = Race::new().await;
        let claimed = race.claim().await;
        stop.place(race.app.database.clone()).await;
        let mut tx = race.enter().await;
        assert_eq!(race.license(&mut tx, &claimed).await, Some(Verdict::Blocked(stop.word())));
        assert_eq!(race.delete(&mut tx, &claimed).await, 0, "{stop:?}");
        Database::commit(tx).await.unwrap();
        assert_eq!(race.world.left("a").await, ALL);
    }
}

#[tokio::test]
async fn r15_what_stops_during_a_batch_returns_only_after_it_and_nothing_is_deleted_any_more() {
    for stop in STOPS {
        let mut world = World::new().await;
        world.set("EXECUTOR__MAX_ROWS_PER_BATCH", "3");
        world.account("a", "null", OLD, "null").await;
        let race = Race::of(world).await;
        let claimed = race.claim().await;
        let mut tx = race.enter().await;
        assert_eq!(race.license(&mut tx, &claimed).await, Some(Verdict::Stands));
        let placing = stop.place(race.app.database.clone());
        let batch = async {
            waits_for_the_stop_lock(&race.world).await;
            // One record of each target, so that others remain.
            let mut gone = 0;
            for target in &race.class.targets {
                gone += race.batch.delete(&mut tx, target, &[&claimed[0]], Extent::Slice(1)).await.unwrap()[0].records;
            }
            assert_eq!(gone, 2);
            Database::commit(tx).await.unwrap();
        };
        tokio::join!(placing, batch);
        assert_eq!(race.world.left("a").await, left(2, 4, 7, 2), "{stop:?}");
        race.world.sql("update retention.jobs set lease_until = null, worker = null where lease_until is not null").await;
        race.exhaust().await;
        assert_eq!(race.world.left("a").await, left(2, 4, 7, 2), "{stop:?}");
    }
}

#[tokio::test]
async fn r15_while_somebody_waits_to_stop_no_further_batch_overtakes() {
    let race = Race::new().await;
    let batch = race.enter().await;
    let placing = Stop::Hold.place(race.app.database.clone());
    let overtaking = async {
        waits_for_the_stop_lock(&race.world).await;
        // The worker queues behind the hold, gives up and steps aside.
        race.exhaust().await;
        assert_eq!(race.world.left("a").await, ALL);
        let job = race.world.job("a", "configuration").await;
        assert_eq!((job.state.as_str(), job.last_error), ("scheduled", None), "{:?}", job.blocked_by);
        drop(batch);
    };
    tokio::join!(placing, overtaking);
    race.exhaust().await;
    assert_eq!(race.world.left("a").await, ALL);
}

#[tokio::test]
async fn i5_a_stop_that_bypasses_the_lock_is_still_seen_by_the_delete_itself() {
    for stop in STOPS {
        let race = Race::new().await;
        let claimed = race.claim().await;
        let mut tx = race.enter().await;
        assert_eq!(race.license(&mut tx, &claimed).await, Some(Verdict::Stands));
        race.world.sql(stop.by_hand()).await;
        assert_eq!(race.delete(&mut tx, &claimed).await, 0, "{stop:?}");
        Database::commit(tx).await.unwrap();
        assert_eq!(race.world.left("a").await, ALL);
    }
}

/// The DELETE alone, without the look that licenses it: each of its predicates is enough to stop it.
#[tokio::test]
async fn i7_each_predicate_stands_in_the_delete_itself() {
    let race = Race::new().await;
    let claimed = race.claim().await;
    for change in [
        "update feature_subscriptions set terminated_at = null where account_id = 'a'",
        "update feature_subscriptions set terminated_at = terminated_at - interval '1 microsecond' where account_id = 'a'",
        "update feature_subscriptions set terminated_at = terminated_at + interval '1 microsecond' where account_id = 'a'",
        "update feature_subscriptions set terminated_at = 'infinity' where account_id = 'a'",
        "delete from feature_subscriptions where account_id = 'a'",
        "update feature_subscriptions set feature = 'MPS' where account_id = 'a'",
        "update retention.jobs set retain_until = now() + interval '1 hour', delete_by = now() + interval '2 hours' where lease_until is not null",
        "update retention.jobs set fence = fence + 1 where lease_until is not null",
        "update retention.jobs set lease_until = now() where lease_until is not null",
        "update retention.jobs set lease_until = null where lease_until is not null",
        "update retention.jobs set admitted_at = null where lease_until is not null",
        "update retention.jobs set policy = 'another' where lease_until is not null",
        "update retention.jobs set data_class = 'queue2' where lease_until is not null",
        "update retention.jobs set feature = 'live' where lease_until is not null",
        "update retention.jobs set starting_point = 'account_deleted' where lease_until is not null",
        "update retention.jobs set starting_point = 'unheard of' where lease_until is not null",
        "delete from retention.jobs where lease_until is not null",
        "delete from retention.guard",
        "update retention.guard set tripped_at = now(), reason = 'race'",
        "insert into retention.holds (account_id, reason, placed_by) values ('a', 'race', 'test')",
        "insert into retention.holds (account_id, feature, reason, placed_by) values ('a', 'mps', 'race', 'test')",
        "insert into retention.holds (account_id, data_class, until, reason, placed_by) values ('a', 'configuration', now() + interval '1 hour', 'race', 'test')",
        "insert into retention.pauses (data_class, reason, paused_by) values ('configuration', 'race', 'test')",
    ] {
        // The change is made in the batch's own transaction and rolled back with it: what counts is what the DELETE sees.
        let mut tx = race.enter().await;
        run(&mut tx, change).await;
        assert_eq!(race.delete(&mut tx, &claimed).await, 0, "{change}");
        let verdict = race.license(&mut tx, &claimed).await;
        assert!(!matches!(verdict, Some(Verdict::Stands)), "{change}");
        tx.rollback().await.unwrap();
    }
    let mut tx = race.enter().await;
    assert_eq!(race.delete(&mut tx, &claimed).await, 8, "with nothing in the way it is all");
}

#[tokio::test]
async fn i7_what_concerns_others_stops_nothing() {
    let race = Race::new().await;
    let claimed = race.claim().await;
    for change in [
        "update feature_subscriptions set activated_at = now(), cmq_disabled_at = null where account_id = 'a'",
        "update feature_subscriptions set terminated_at = null where account_id = 'live'",
        "insert into feature_subscriptions (account_id, feature) values ('a', 'live')",
        "insert into retention.holds (account_id, reason, placed_by) values ('live', 'race', 'test')",
        "insert into retention.holds (account_id, feature, reason, placed_by) values ('a', 'live', 'race', 'test')",
        "insert into retention.holds (account_id, data_class, reason, placed_by) values ('a', 'queue', 'race', 'test')",
        "insert into retention.holds (account_id, until, reason, placed_by) values ('a', now(), 'race', 'test')",
        "insert into retention.holds (account_id, released_at, reason, placed_by) values ('a', now(), 'race', 'test')",
        "insert into retention.pauses (data_class, reason, paused_by) values ('queue', 'race', 'test')",
        "insert into retention.pauses (account_id, reason, paused_by) values ('live', 'race', 'test')",
        "insert into retention.pauses (resumed_at, reason, paused_by) values (now(), 'race', 'test')",
    ] {
        let mut tx = race.enter().await;
        run(&mut tx, change).await;
        assert_eq!(race.license(&mut tx, &claimed).await, Some(Verdict::Stands), "{change}");
        assert_eq!(race.delete(&mut tx, &claimed).await, 8, "{change}");
        tx.rollback().await.unwrap();
    }
}

#[tokio::test]
async fn i7_a_reactivation_that_committed_after_the_claim_voids_the_batch() {
    for (change, word) in [
        ("update feature_subscriptions set terminated_at = null where account_id = 'a'", "changed"),
        ("update feature_subscriptions set terminated_at = now() where account_id = 'a'", "changed"),
        ("delete from feature_subscriptions where account_id = 'a'", "missing"),
    ] {
        let race = Race::new().await;
        let claimed = race.claim().await;
        race.world.sql(change).await;
        let mut tx = race.enter().await;
        assert_eq!(race.license(&mut tx, &claimed).await, Some(Verdict::Blocked(word)));
        assert_eq!(race.delete(&mut tx, &claimed).await, 0);
        Database::commit(tx).await.unwrap();
        assert_eq!(race.world.left("a").await, ALL);
    }
}

/// The row version changed after the statement's snapshot was taken: the lock must see the new one.
#[tokio::test]
async fn i7_a_reactivation_not_yet_committed_defers_the_batch_whatever_becomes_of_it() {
    for end in ["commit", "rollback"] {
        let race = Race::new().await;
        let mut platform = race.world.connect().await;
        run(&mut platform, "begin; update feature_subscriptions set terminated_at = null where account_id = 'a'").await;
        race.exhaust().await;
        let job = race.world.job("a", "configuration").await;
        assert_eq!((job.state.as_str(), job.blocked_by.as_deref()), ("scheduled", Some("locked")));
        assert_eq!(race.world.left("a").await, ALL);
        run(&mut platform, end).await;
        race.world.sql("update retention.jobs set ready_at = now() where lease_until is null").await;
        race.exhaust().await;
        let wanted = if end == "commit" { ALL } else { left(0, 0, 0, 2) };
        assert_eq!(race.world.left("a").await, wanted, "{end}");
        race.app.planner().look(Look::Resync).await.unwrap();
        let job = race.world.job("a", "configuration").await;
        match end {
            "commit" => assert_eq!((job.state.as_str(), job.cancel_reason.as_deref()), ("cancelled", Some("reactivated"))),
            _ => assert_eq!(job.state, "completed"),
        }
    }
}

/// Who comes back while a batch holds the source row waits for that batch and loses nothing after it.
#[tokio::test]
async fn i7_a_reactivation_during_a_batch_waits_for_it_and_stops_the_next() {
    let race = Race::new().await;
    let claimed = race.claim().await;
    let mut tx = race.enter().await;
    assert_eq!(race.license(&mut tx, &claimed).await, Some(Verdict::Stands));
    let mut platform = race.world.connect().await;
    let reactivating = run(&mut platform, "update feature_subscriptions set terminated_at = null where account_id = 'a'");
    let batch = async {
        waits_for_a_row(&race.world).await;
        assert_eq!(race.batch.delete(&mut tx, &race.class.targets[0], &[&claimed[0]], Extent::Slice(1)).await.unwrap()[0].records, 1);
        Database::commit(tx).await.unwrap();
    };
    tokio::join!(reactivating, batch);
    assert_eq!(race.world.left("a").await, left(2, 5, 7, 2));
    let mut tx = race.enter().await;
    assert_eq!(race.license(&mut tx, &claimed).await, Some(Verdict::Blocked("changed")));
    assert_eq!(race.delete(&mut tx, &claimed).await, 0);
    Database::commit(tx).await.unwrap();
    assert_eq!(race.world.left("a").await, left(2, 5, 7, 2));
}

/// Where nothing forbids a second row, no row lock keeps one out: the DELETE must look again.
#[tokio::test]
async fn i7_a_row_that_appears_between_license_and_delete_stops_the_delete_where_rows_are_not_unique() {
    for (phantom, deleted) in [
        ("insert into subs values ('a', 'mps', null)", 0),
        ("insert into subs values ('a', 'mps', now())", 0),
        ("insert into subs values ('a', 'mps', 'infinity')", 0),
        // Older than what counts, another feature, another account: nothing to do with this purge.
        ("insert into subs values ('a', 'mps', now() - interval '60 days')", 8),
        ("insert into subs values ('a', 'live', null)", 8),
        ("insert into subs values ('b', 'mps', null)", 8),
    ] {
        let mut world = World::new().await;
        world.rules =
            world.rules.replace("table = \"feature_subscriptions\"", "table = \"subs\"").replace("cmq_disabled_at", "terminated_at");
        world
            .sql(
                "create table subs (account_id text, feature text, terminated_at timestamptz); create index on subs (account_id);
                 insert into subs values ('a', 'mps', now() - interval '31 days')",
            )
            .await;
        world.account("a", "null", "null", "null").await;
        let race = Race::of(world).await;
        let claimed = race.claim().await;
        let mut tx = race.enter().await;
        assert_eq!(race.license(&mut tx, &claimed).await, Some(Verdict::Stands));
        race.world.sql(phantom).await;
        assert_eq!(race.delete(&mut tx, &claimed).await, deleted, "{phantom}");
        Database::commit(tx).await.unwrap();
    }
}

/// A batch holds its jobs: nobody gives them another plan or takes them back while it is under way.
#[tokio::test]
async fn i8_a_job_in_a_batch_is_left_alone_by_everybody_else() {
    let race = Race::new().await;
    let claimed = race.claim().await;
    let mut tx = race.enter().await;
    assert_eq!(race.license(&mut tx, &claimed).await, Some(Verdict::Stands));
    let mut other = race.begin().await;
    let (free, busy) = jobs::lock_open(&mut other, &race.class.jobs, &["a".to_owned()]).await.unwrap();
    assert_eq!((free.len(), busy), (0, vec!["a".to_owned()]));
    let taken =
        jobs::claim(&mut other, &race.class.jobs, jobs::Lane::Fresh, "other", Duration::from_secs(30), Duration::from_hours(24), 10)
            .await
            .unwrap();
    assert!(taken.is_empty());
    drop(other);
    Database::commit(tx).await.unwrap();
    let mut other = race.begin().await;
    let (free, busy) = jobs::lock_open(&mut other, &race.class.jobs, &["a".to_owned()]).await.unwrap();
    assert_eq!((free.len(), busy.len()), (1, 0));
}

/// Row locks make this predicate the second of two, so that no race shows its absence: it is read in the statement.
#[tokio::test]
async fn r17_the_account_predicate_stands_in_the_outer_delete_too() {
    let race = Race::new().await;
    for target in &race.class.targets {
        let Delete::Free { whole, slice, stretch } = target.delete("licensed as (select 1)") else { panic!("nothing points at it") };
        let outer = |statement: &str| statement.split_once("delete from").unwrap().1.split_once("returning").unwrap().0.to_owned();
        assert!(outer(&whole).contains("t.\"account_id\" = l.account_id collate \"C\""), "{whole}");
        let slice = outer(&slice);
        assert!(
            slice.contains("t.ctid = any") && slice.contains("t.\"account_id\" = (select account_id from licensed) collate \"C\""),
            "{slice}"
        );
        assert!(outer(&stretch).contains("t.\"account_id\" = (select account_id from licensed) collate \"C\""), "{stretch}");
    }
}

/// A daemon stopped in the middle of a purge by a record that cannot be deleted, then a customer who comes back.
#[tokio::test]
async fn r22_reactivated_in_the_middle_is_cancelled_keeps_its_counts_and_is_an_error() {
    let mut world = World::new().await;
    world.set("EXECUTOR__MAX_ROWS_PER_BATCH", "3").set("EXECUTOR__MAX_BACKOFF", "1h");
    world
        .sql(
            "create function trap() returns trigger language plpgsql as $$ begin raise exception 'not this one'; end $$;
             create trigger trap before delete on task_configurations for each row execute function trap()",
        )
        .await;
    let daemon = world.daemon();
    world.account("a", "null", OLD, "null").await;
    world.account("fresh", "null", "now() - interval '1 day'", "null").await;
    daemon.wait_for("the failure", |e| e["event"] == "job.failed" && e["data_class"] == "configuration").await;
    assert_eq!(world.left("a").await.templates, 0);
    world.sql("update feature_subscriptions set terminated_at = null where account_id in ('a', 'fresh'); drop trigger trap on task_configurations").await;
    let cancelled = daemon
        .wait_for("the cancellation", |e| e["event"] == "job.cancelled" && e["account_id"] == "a" && e["data_class"] == "configuration")
        .await;
    assert_eq!((cancelled["level"].as_str(), cancelled["partial"].as_bool()), (Some("error"), Some(true)), "{cancelled}");
    assert_eq!(cancelled["cancel_reason"], "reactivated");
    let other = daemon.wait_for("the other", |e| e["event"] == "job.cancelled" && e["account_id"] == "fresh").await;
    assert_eq!((other["level"].as_str(), other["partial"].as_bool()), (Some("info"), Some(false)), "{other}");
    let job = world.job("a", "configuration").await;
    assert_eq!((job.state.as_str(), job.cancel_reason.as_deref()), ("cancelled", Some("reactivated")));
    assert_eq!(job.records_deleted.0.get("platform/template_configurations"), Some(&3));
    assert_eq!(job.records_deleted.0.get("platform/task_configurations"), Some(&0));
    assert!(job.purge_began_at.is_some() && job.completed_at.is_none());
    assert_eq!(world.left("a").await.tasks, 5, "not one record after the reactivation");
    // A later termination starts a period of its own.
    world.sql("update feature_subscriptions set terminated_at = now() - interval '29 days' where account_id = 'a'").await;
    until("a new job", async || world.job("a", "configuration").await.state == "scheduled").await;
    assert_ne!(world.job("a", "configuration").await.id, job.id);
    assert_eq!(world.left("a").await.tasks, 5);
}

/// The whole daemon against customers who come back at any moment: whoever came back before a batch keeps what is there.
#[tokio::test]
async fn i7_customers_who_come_back_while_everything_is_purged_lose_nothing_afterwards() {
    let mut world = World::new().await;
    world.set("EXECUTOR__MAX_ROWS_PER_BATCH", "2");
    for i in 0..30 {
        world.account(&format!("a{i}"), "null", OLD, "null").await;
    }
    let _daemon = world.daemon();
    until("purging has begun", async || world.count("retention.every_job where purge_began_at is not null").await > 0).await;
    let mut platform = world.connect().await;
    let mut kept = Vec::new();
    for i in (0..30).rev() {
        let id = format!("a{i}");
        // What this statement sees when it has its lock is what the customer comes back to.
        run(&mut platform, &format!("update feature_subscriptions set terminated_at = null where account_id = '{id}'")).await;
        kept.push((id.clone(), world.left(&id).await));
    }
    until("every job has ended", async || world.count("retention.every_job where state in ('scheduled', 'running')").await == 0).await;
    for (id, was) in kept {
        assert_eq!(world.left(&id).await, was, "{id}");
    }
    platform.close().await.unwrap();
}
