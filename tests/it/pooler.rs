//! The daemon behind pgbouncer in transaction mode, where each transaction may run in another session of the server (R20).

use std::time::{Duration, Instant};

use retentiond::{
    database::{Database, Purpose},
    safeguards::{
        self, STOP_LOCK,
        control::{self, Scope},
    },
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::{
    pgbouncer::{self, Pgbouncer, Upstream},
    world::{ALL, Daemon, Left, World, left, left_out, until},
};

const OLD: &str = "now() - interval '31 days'";
const GONE: Left = Left { templates: 0, tasks: 0, messages: 0, media: 2 };

/// Puts a pooler with so many sessions between the daemon and the database; what the test itself asks goes past it.
/// `None` where pgbouncer is not installed: the test is left out and says so, unless `RETENTIOND_TEST_ALL` forbids that.
fn behind_a_pooler(world: &mut World, sessions: u16) -> Option<Pgbouncer> {
    let Some(program) = pgbouncer::installed() else {
        left_out("behind a pooler: pgbouncer is not installed");
        return None;
    };
    let upstream = Upstream::of(&world.url);
    let pooler = Pgbouncer::start(&program, &upstream, sessions);
    let url = format!("postgres://{}:{}@127.0.0.1:{}/{}", upstream.user, upstream.password, pooler.port, world.database);
    world.set("DATABASE__URL", &url).set("DATABASE__STATEMENT_CACHE", "0");
    Some(pooler)
}

async fn nothing_went_wrong(world: &World, daemons: &[&Daemon]) {
    assert_eq!(world.count("retention.every_job where last_error is not null or state <> 'completed'").await, 0);
    for daemon in daemons {
        let failed: Vec<_> = daemon.events().into_iter().filter(|e| e["event"].as_str().is_some_and(|e| e.ends_with(".failed"))).collect();
        assert!(failed.is_empty(), "{failed:?}");
    }
}

#[tokio::test]
async fn r20_two_daemons_do_the_main_job_behind_a_transaction_mode_pooler() {
    let mut world = World::new().await;
    let Some(_pooler) = behind_a_pooler(&mut world, 3) else { return };
    world.set("EXECUTOR__MAX_ROWS_PER_BATCH", "4");
    for i in 0..20 {
        world.account(&format!("gone-{i}"), "null", OLD, "null").await;
    }
    world.account("queue", "null", "null", "now() - interval '8 days'").await;
    world.account("back", "null", "now() - interval '6 days'", "null").await;
    world.account("live", "null", "null", "null").await;
    let daemons = [world.daemon(), world.daemon()];
    until("everything due is purged", async || world.count("retention.every_job where state = 'completed'").await == 41).await;
    for i in 0..20 {
        assert_eq!(world.left(&format!("gone-{i}")).await, GONE);
    }
    assert_eq!(world.left("queue").await, left(3, 5, 0, 2));
    assert_eq!(world.left("back").await, ALL);
    assert_eq!(world.left("live").await, ALL);
    let counted = "(select sum(t.value::int) as n from retention.every_job, jsonb_each_text(records_deleted) t) s where n = 20 * 15 + 7";
    assert_eq!(world.count(counted).await, 1, "each record is counted once");
    world.sql("update feature_subscriptions set terminated_at = null where account_id = 'back'").await;
    until("the rest is withdrawn", async || world.count("retention.every_job where state = 'cancelled'").await == 2).await;
    world.sql("delete from retention.history where state = 'cancelled'").await;
    nothing_went_wrong(&world, &daemons.each_ref()).await;
}

/// With one session of the server for all, every statement of every connection of ours meets there.
#[tokio::test]
async fn r20_statements_of_several_connections_meet_in_one_session_of_the_server() {
    let mut world = World::new().await;
    let Some(_pooler) = behind_a_pooler(&mut world, 1) else { return };
    let (one, other) = (Database::new(&world.config().database).unwrap(), Database::new(&world.config().database).unwrap());
    for round in 0..6 {
        for database in [&one, &other] {
            for purpose in [Purpose::Read, Purpose::Write] {
                let mut tx = database.begin(purpose).await.unwrap();
                let mut sessions = Vec::new();
                for statement in ["select pg_backend_pid(), $1::int4", "select pg_backend_pid() + 0, $1::int4"] {
                    let (session, answer): (i32, i32) = sqlx::query_as(statement).bind(round).fetch_one(&mut *tx).await.unwrap();
                    assert_eq!(answer, round);
                    sessions.push(session);
                }
                assert_eq!(sessions[0], sessions[1], "one transaction is in one session");
                Database::commit(tx).await.unwrap();
            }
        }
    }
    // What the driver leaves behind does not pile up either: each transaction clears away what the ones before it left.
    let mut tx = one.begin(Purpose::Read).await.unwrap();
    let prepared: i64 = sqlx::query_scalar("select count(*) from pg_prepared_statements").fetch_one(&mut *tx).await.unwrap();
    assert_eq!(prepared, 1, "this very question");
    drop(tx);
    one.close().await;
    other.close().await;
}

#[derive(Debug, Clone, Copy)]
enum Stop {
    Hold,
    Pause,
    Trip,
}

/// As the verbs do it, through the same pooler.
async fn place(database: Database, stop: Stop) {
    let mut tx = database.begin(Purpose::Write).await.unwrap();
    match stop {
        Stop::Hold => {
            let scope = Scope { account: Some("a".to_owned()), ..Scope::default() };
            drop(control::place_hold(&mut tx, &scope, "race", "test", None).await.unwrap());
        }
        Stop::Pause => control::pause(&mut tx, &Scope::default(), "race", "test").await.unwrap(),
        Stop::Trip => safeguards::trip(&mut tx, "race").await.unwrap(),
    }
    Database::commit(tx).await.unwrap();
}

/// Somebody has begun to wait for that advisory lock, not longer ago than that.
async fn somebody_waits(asks: &mut PgConnection, lock: &str, within: &str) {
    let waiting = format!(
        "select exists (select 1 from pg_locks l join pg_stat_activity a using (pid) where l.locktype = 'advisory' and {lock} and not l.granted
         and a.datname = current_database() and a.query_start > clock_timestamp() - interval '{within}')"
    );
    let deadline = Instant::now() + Duration::from_mins(2);
    while !sqlx::query_scalar::<_, bool>(AssertSqlSafe(waiting.clone())).fetch_one(&mut *asks).await.unwrap() {
        assert!(Instant::now() < deadline, "nobody waits: {lock}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "whoever stops waits for a batch while the test looks on")]
async fn r15_what_stops_behind_a_pooler_returns_only_after_the_batch_and_nothing_goes_any_more() {
    for stop in [Stop::Hold, Stop::Pause, Stop::Trip] {
        let mut world = World::new().await;
        let Some(_pooler) = behind_a_pooler(&mut world, 20) else { return };
        world.set("EXECUTOR__MAX_ROWS_PER_BATCH", "4").set("EXECUTOR__CONCURRENCY", "1");
        world.account("a", OLD, "null", "null").await;
        // While the gate is closed, a batch stands in front of the second table, the first already in its hands.
        world
            .sql(
                "create function gate() returns trigger language plpgsql as $$ begin perform set_config('lock_timeout', '0', true); perform pg_advisory_xact_lock(42); return old; end $$;
                 create trigger gate before delete on task_configurations for each row execute function gate()",
            )
            .await;
        let mut gate = world.connect().await;
        sqlx::query("select pg_advisory_lock(42)").execute(&mut gate).await.unwrap();
        let database = Database::new(&world.config().database).unwrap();
        Database::commit(database.begin(Purpose::Write).await.unwrap()).await.unwrap();
        let _daemon = world.daemon();
        // A batch gives up after five seconds: one that has just come will be there long enough.
        somebody_waits(&mut gate, "objid = 42", "1 second").await;
        let stopping = tokio::spawn(place(database.clone(), stop));
        let key = STOP_LOCK.unsigned_abs();
        somebody_waits(&mut gate, &format!("classid = {} and objid = {}", key >> 32, key & 0xffff_ffff), "1 minute").await;
        assert!(!stopping.is_finished(), "{stop:?} has returned and a batch is under way");
        gate.close().await.unwrap();
        stopping.await.unwrap();
        let after = world.left("a").await;
        assert!(after.templates + after.tasks < 8 && after.tasks > 0, "{stop:?}: one batch of the class went through, {after:?}");

        // The next batch is asked for and refused: jobs of the class are ready, and a live daemon looks at them.
        let asked = "select xact_commit from pg_stat_database where datname = current_database()";
        let commits = async || {
            let mut c: PgConnection = world.connect().await;
            sqlx::query_scalar::<_, i64>(asked).fetch_one(&mut c).await.unwrap()
        };
        let before = commits().await;
        until("the daemon has looked again and again", async || commits().await > before + 60).await;
        assert_eq!(world.left("a").await, after, "{stop:?}");

        let mut tx = database.begin(Purpose::Bulk).await.unwrap();
        match stop {
            Stop::Hold => drop(control::release_hold(&mut tx, 1, "over", "test").await.unwrap().unwrap()),
            Stop::Pause => assert_eq!(control::resume(&mut tx, &Scope::default(), "over", "test").await.unwrap(), 1),
            Stop::Trip => drop(control::release_guard(&mut tx, Duration::from_hours(24), "over", "test").await.unwrap().unwrap()),
        }
        Database::commit(tx).await.unwrap();
        until("the rest goes", async || world.left("a").await == GONE).await;
        let counted = "(select sum(t.value::int) as n from retention.every_job, jsonb_each_text(records_deleted) t) s where n = 15";
        until("each record is counted once", async || world.count(counted).await == 1).await;
        database.close().await;
    }
}
