//! The clock and the server (R32): a jump of the database's clock, another server behind the same address, a promoted standby.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use retentiond::{
    app::App,
    clock::{self, Clock},
    executor::{Executor, Step},
    planner::Look,
};
use sqlx::AssertSqlSafe;

use crate::world::{ALL, World, left};

const GUARDED: &str = "retention.guard where tripped_at is not null";

async fn world() -> World {
    let world = World::new().await;
    world.account("a", "null", "now() - interval '31 days'", "null").await;
    world
}

/// What this world's database says the time is.
async fn now(world: &World) -> DateTime<Utc> {
    sqlx::query_scalar("select clock_timestamp()").fetch_one(&mut world.connect().await).await.unwrap()
}

async fn reason(world: &World) -> String {
    sqlx::query_scalar("select coalesce(reason, '') from retention.guard").fetch_one(&mut world.connect().await).await.unwrap()
}

/// Purges with a clock that has seen the database at another time: since then it has jumped by `jump`.
async fn purge_after(world: &World, app: &App, jump: TimeDelta) {
    let clock = Arc::new(Clock::default());
    assert_eq!(clock.observe(clock::reading(), now(world).await - jump), None);
    let executor = Executor::new(app.database.clone(), Arc::clone(&app.config), Arc::clone(&app.policy), clock, app.seen.clone());
    let mut worker = executor.worker("w".to_owned());
    while worker.step().await.unwrap() == Step::Worked {}
}

#[tokio::test]
async fn r32_a_jump_of_the_databases_clock_stops_the_very_batch_that_sees_it() {
    let minute = TimeDelta::minutes(1);
    for jump in [minute * 6, minute * -6, TimeDelta::days(365)] {
        let world = world().await;
        let app = world.app().await.unwrap();
        app.planner().look(Look::Resync).await.unwrap();
        purge_after(&world, &app, jump).await;
        assert_eq!(world.left("a").await, ALL, "{jump}");
        let why = reason(&world).await;
        assert!(why.starts_with("clock: "), "{why}");
        assert_eq!(world.cli(&["status", "--check"]).status.code(), Some(3));
        // Somebody has seen to the clock.
        assert!(world.cli(&["guard", "release", "--reason", "the clock is right"]).status.success());
        world.run_passes().await.unwrap();
        assert_eq!(world.left("a").await, left(0, 0, 0, 2));
    }
}

/// Whoever notices needs a moment until the guard has tripped: until then everybody else must notice too.
#[tokio::test]
async fn i1_a_jump_is_not_forgotten_before_the_guard_has_tripped() {
    let world = world().await;
    let app = world.app().await.unwrap();
    app.planner().look(Look::Resync).await.unwrap();
    let clock = Arc::new(Clock::default());
    assert_eq!(clock.observe(clock::reading(), now(&world).await - TimeDelta::days(1)), None);
    // Somebody has noticed, and could not trip the guard.
    assert!(clock.observe(clock::reading(), now(&world).await).is_some());
    let executor =
        Executor::new(app.database.clone(), Arc::clone(&app.config), Arc::clone(&app.policy), Arc::clone(&clock), app.seen.clone());
    let mut worker = executor.worker("w".to_owned());
    while worker.step().await.unwrap() == Step::Worked {}
    assert_eq!((world.left("a").await, world.count(GUARDED).await), (ALL, 1));
    assert_eq!(clock.observe(clock::reading(), now(&world).await), None, "now somebody has to look");
}

#[tokio::test]
async fn r32_a_difference_of_less_than_five_minutes_stops_nothing() {
    for jump in [TimeDelta::minutes(4), TimeDelta::minutes(-4)] {
        let world = world().await;
        let app = world.app().await.unwrap();
        app.planner().look(Look::Resync).await.unwrap();
        purge_after(&world, &app, jump).await;
        assert_eq!((world.left("a").await, world.count(GUARDED).await), (left(0, 0, 0, 2), 0), "{jump}");
    }
}

#[tokio::test]
async fn r32_the_planner_sees_a_jump_when_nothing_is_due() {
    let world = World::new().await;
    let app = world.app().await.unwrap();
    assert_eq!(app.clock.observe(clock::reading(), now(&world).await - TimeDelta::minutes(6)), None);
    let refusal = app.planner().look(Look::Resync).await.unwrap_err().to_string();
    assert!(refusal.contains("the database's clock jumped by 3"), "{refusal}");
    assert_eq!(world.count("retention.passes").await, 0, "nothing is concluded from what it takes for now");
    app.planner().look(Look::Resync).await.unwrap();
    assert!(reason(&world).await.starts_with("clock: "), "{}", reason(&world).await);
}

/// The tables of a daemon restored into another server, by a dump or by mistake: the guard was made for the first.
#[tokio::test]
async fn r32_on_another_server_nothing_is_purged_until_somebody_has_looked() {
    let world = world().await;
    let app = world.app().await.unwrap();
    app.planner().look(Look::Resync).await.unwrap();
    world.sql("update retention.guard set server = server + 1").await;
    let mut worker = app.executor().worker("w".to_owned());
    while worker.step().await.unwrap() == Step::Worked {}
    assert_eq!(world.left("a").await, ALL, "before anybody has told it");
    assert_eq!(world.count(GUARDED).await, 0);
    app.planner().look(Look::Poll).await.unwrap();
    assert!(reason(&world).await.starts_with("server: "), "{}", reason(&world).await);
    assert_eq!(world.cli(&["run", "--once"]).status.code(), Some(13));
    assert_eq!(world.left("a").await, ALL);
    assert!(world.cli(&["guard", "release", "--reason", "we moved"]).status.success());
    world.run_passes().await.unwrap();
    assert_eq!((world.left("a").await, world.count(GUARDED).await), (left(0, 0, 0, 2), 0));
}

#[tokio::test]
async fn r32_a_new_timeline_of_the_same_server_is_compared_anew_and_goes_on() {
    let world = world().await;
    let app = world.app().await.unwrap();
    app.planner().look(Look::Resync).await.unwrap();
    let resynced = async || -> DateTime<Utc> {
        let query = "select succeeded_at from retention.passes where kind = 'resync'";
        sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&mut world.connect().await).await.unwrap()
    };
    let first = resynced().await;
    app.planner().look(Look::Poll).await.unwrap();
    assert_eq!(resynced().await, first, "a poll compares nothing");
    world.sql("update retention.guard set timeline = timeline - 1").await;
    app.planner().look(Look::Poll).await.unwrap();
    let second = resynced().await;
    assert!(second > first);
    app.planner().look(Look::Poll).await.unwrap();
    assert_eq!(resynced().await, second, "once");
    world.run_passes().await.unwrap();
    assert_eq!((world.left("a").await, world.count(GUARDED).await), (left(0, 0, 0, 2), 0));
}
