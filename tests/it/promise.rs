//! The table of the promise: each clause on both sides of its boundary, for every combination of the three starting points.

use crate::world::{ALL, World, left};

#[tokio::test]
async fn configuration_goes_after_30_days_and_queue_after_7_and_media_never() {
    let world = World::new().await;
    world.account("t31", "null", "now() - interval '31 days'", "null").await;
    world.account("t29", "null", "now() - interval '29 days'", "null").await;
    world.account("live", "null", "null", "null").await;
    world.run_passes().await.unwrap();
    assert_eq!(world.left("t31").await, left(0, 0, 0, 2));
    assert_eq!(world.left("t29").await, left(3, 5, 0, 2));
    assert_eq!(world.left("live").await, ALL);
}
