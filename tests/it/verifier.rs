//! Gone stays gone (I11, R24): what appears after a purge is found by later looks, told, and purged under the rule as it stands then.

use crate::world::{World, left};

impl World {
    /// Lets the next look of every purged subject come.
    async fn looks_come(&self) {
        self.sql("update retention.done_marks set look_at = now() where look_at is not null").await;
    }
}

#[tokio::test]
async fn i11_a_late_writers_records_are_found_and_purged_under_the_same_starting_point() {
    let world = World::new().await;
    world.account("late", "null", "now() - interval '31 days'", "null").await;
    world.run_passes().await.unwrap();
    world.no_look_comes().await;
    let first = world.job("late", "queue").await;
    world.sql("insert into queue_messages (account_id, event_type) values ('late', 'WorkflowTask')").await;
    world.run_passes().await.unwrap();
    assert_eq!(world.left("late").await.messages, 1, "its next look has not come");
    world.looks_come().await;
    world.run_passes().await.unwrap();
    assert_eq!(world.left("late").await, left(0, 0, 0, 2));
    let second = world.job("late", "queue").await;
    assert_ne!(first.id, second.id);
    assert_eq!(
        (second.state.as_str(), second.started_at, second.records_deleted.0["platform/queue_messages"]),
        ("completed", first.started_at, 1)
    );
    assert_eq!(
        world.job("late", "configuration").await.records_deleted.0["platform/task_configurations"],
        5,
        "the other class is left alone"
    );
}

#[tokio::test]
async fn r24_a_completed_job_is_no_licence_once_its_starting_point_was_withdrawn() {
    let world = World::new().await;
    world.account("back", "null", "now() - interval '31 days'", "null").await;
    world.run_passes().await.unwrap();
    world.sql("update feature_subscriptions set terminated_at = null where account_id = 'back'").await;
    world.data("back").await;
    world.looks_come().await;
    world.run_passes().await.unwrap();
    assert_eq!(world.left("back").await, left(3, 5, 7, 4));
    assert_eq!(world.count("retention.every_job where state in ('scheduled', 'running')").await, 0);
    assert_eq!(world.count("retention.done_marks").await, 0);
}

#[tokio::test]
async fn r24_looks_come_after_5_seconds_30_seconds_and_5_minutes_and_end_after_watch_for() {
    let world = World::new().await;
    world.account("quiet", "null", "now() - interval '31 days'", "null").await;
    world.run_passes().await.unwrap();
    let app = world.app().await.unwrap();
    let seconds = "select extract(epoch from look_at - case when looks = 0 then purged_at else now() end)::float8 from retention.done_marks where data_class = 'queue'";
    let mut before = 0.0;
    for want in [5.0, 30.0, 300.0, 600.0] {
        let next: f64 = sqlx::query_scalar(seconds).fetch_one(&mut world.connect().await).await.unwrap();
        assert!(before < next && next <= want, "{next} s, not {want} s");
        before = want;
        world.looks_come().await;
        assert_eq!(app.verify().await.unwrap().looked, 2);
    }
    world.sql("update retention.done_marks set purged_at = now() - interval '400 days'").await;
    world.looks_come().await;
    app.verify().await.unwrap();
    assert_eq!(world.count("retention.done_marks where look_at is null").await, 2);
    assert_eq!(world.count("retention.done_marks").await, 2, "the done-marks stay while the source rows stand (R23)");
}

#[tokio::test]
async fn i6_a_look_that_fails_is_taken_again_and_is_never_an_empty_one() {
    let world = World::new().await;
    world.account("late", "null", "now() - interval '31 days'", "null").await;
    world.run_passes().await.unwrap();
    let app = world.app().await.unwrap();
    world.sql("alter table queue_messages rename to elsewhere").await;
    world.looks_come().await;
    app.verify().await.unwrap_err();
    assert_eq!(world.count("retention.done_marks where data_class = 'queue' and look_at <= now() and looks = 0").await, 1);
}
