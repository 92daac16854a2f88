//! When a worker wakes, and what people read: bugs that were seen in a running demo.

use std::time::Duration;

use retentiond::jobs::{self, Class};
use sqlx::Connection;

use crate::world::World;

fn queue() -> Class {
    Class { feature: "mps".to_owned(), name: "queue".to_owned(), ..Class::default() }
}

/// A worker looks, finds nothing, and only then asks how long it may rest. A job that becomes ready in between must wake it at once, or it is
/// purged a whole `poll.interval` late.
#[tokio::test]
async fn i2_a_job_that_becomes_ready_while_a_worker_turns_to_rest_is_not_slept_over() {
    let world = World::new().await;
    let mut connection = world.connect().await;
    for (ready, expected) in [
        ("now()", Some(Duration::ZERO)),
        ("now() - interval '50 milliseconds'", Some(Duration::ZERO)),
        // What has been ready for long is blocked by something, and must not keep workers awake.
        ("now() - interval '1 hour'", None),
    ] {
        let mut tx = connection.begin().await.unwrap();
        let insert = format!(
            "insert into retention.jobs (account_id, feature, data_class, starting_point, started_at, retain_until, delete_by, policy, ready_at)
             values ('a', 'mps', 'queue', 'account_deleted', now() - interval '8 days', now() - interval '1 day', now(), '', {ready})"
        );
        sqlx::query(sqlx::AssertSqlSafe(insert)).execute(&mut *tx).await.unwrap();
        assert_eq!(jobs::next_ready(&mut tx, &[queue()]).await.unwrap(), expected, "{ready}");
        tx.rollback().await.unwrap();
    }
}

#[tokio::test]
async fn the_plan_for_people_shows_every_target_of_a_job_and_no_escapes() {
    let world = World::new().await;
    world.account("a", "null", "now() - interval '31 days'", "null").await;
    let output = world.cli(&["plan"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("platform/template_configurations 3") && text.contains("platform/task_configurations 5"), "{text}");
    assert!(!text.contains('\\'), "{text}");
}
