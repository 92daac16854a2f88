//! Workers that cross each other: nobody loses a job, an hour or a row to another worker's locks.

use std::collections::BTreeSet;

use retentiond::{
    database::{Database, Purpose},
    failure::Failure,
};

use crate::world::{World, until};

/// Accounts whose queue is due, two messages each, and as many that live on.
async fn many(world: &World, accounts: u32) {
    world
        .sql(&format!(
            "insert into accounts (account_id, region) select 'a' || n, 'ap-singapore' from generate_series(1, 2 * {accounts}) n;
             insert into feature_subscriptions (account_id, feature, terminated_at)
                 select 'a' || n, 'mps', case when n % 2 = 0 then now() - interval '8 days' end from generate_series(1, 2 * {accounts}) n;
             insert into queue_messages (account_id, event_type)
                 select 'a' || n, 'WorkflowTask' from generate_series(1, 2 * {accounts}) n, generate_series(1, 2);
             analyze"
        ))
        .await;
}

async fn all_purged_at_the_first_attempt(world: &World, accounts: i64) {
    assert_eq!(world.count("retention.every_job where data_class = 'queue' and state = 'completed' and attempts = 1").await, accounts);
    assert_eq!(world.count("queue_messages").await, 2 * accounts, "those of the accounts that live on");
    assert_eq!(world.count("queue_messages m join feature_subscriptions s using (account_id) where s.terminated_at is not null").await, 0);
}

/// A claim locks the newest version of a row before it finds that somebody else has it now. A batch that skipped such rows left its jobs
/// leased to nobody, and `run --once` failed.
#[tokio::test(flavor = "multi_thread")]
async fn r21_claims_that_cross_lose_no_job_to_its_lease() {
    let mut world = World::new().await;
    world.set("EXECUTOR__CONCURRENCY", "8");
    many(&world, 4_000).await;
    world.run_passes().await.unwrap();
    all_purged_at_the_first_attempt(&world, 4_000).await;
}

/// Admitting a mass termination takes longer than a lock may be waited for elsewhere; the other workers wait for it all the same.
#[tokio::test(flavor = "multi_thread")]
async fn r31_workers_wait_for_the_one_that_weighs_however_long_it_takes() {
    let world = World::new().await;
    many(&world, 10).await;
    let mut weighing = world.connect().await;
    sqlx::query("select pg_advisory_lock($1)").bind(0x7265_7465_6e74_0002_i64).execute(&mut weighing).await.unwrap();
    let waiting = async {
        until("a worker has waited for longer than two seconds", || async {
            world
                .count(
                    "pg_locks l join pg_stat_activity a using (pid) where l.locktype = 'advisory' and not l.granted
                     and a.datname = current_database() and clock_timestamp() - a.query_start > interval '2.2 seconds'",
                )
                .await
                > 0
        })
        .await;
        sqlx::query("select pg_advisory_unlock_all()").execute(&mut weighing).await.unwrap();
    };
    let (purged, ()): (Result<(), Failure>, ()) = tokio::join!(world.run_passes(), waiting);
    purged.unwrap();
    all_purged_at_the_first_attempt(&world, 10).await;
}

/// The check that finds a forgotten transaction finds one in no connection that is at rest: else every transaction pays for a new connection.
#[tokio::test]
async fn r20_a_connection_at_rest_is_used_again() {
    let mut world = World::new().await;
    world.set("EXECUTOR__CONCURRENCY", "1").set("DATABASE__MAX_CONNECTIONS", "5");
    let database = Database::new(&world.config().database).unwrap();
    let mut servers = BTreeSet::new();
    for _ in 0..10 {
        for purpose in [Purpose::Read, Purpose::Write, Purpose::Work, Purpose::Bulk, Purpose::Compare] {
            let mut tx = database.begin(purpose).await.unwrap();
            servers.insert(sqlx::query_scalar::<_, i32>("select pg_backend_pid()").fetch_one(&mut *tx).await.unwrap());
            Database::commit(tx).await.unwrap();
        }
    }
    assert!(servers.len() <= 5, "50 transactions in turn used {} connections", servers.len());
    database.close().await;
}
