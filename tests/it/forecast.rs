//! The guard looks ahead (I12): a mass termination is told when it is scheduled, days before it could do harm.

use retentiond::{app::App, planner::Look};
use serde_json::Value;

use crate::world::World;

/// At most three accounts in a day.
async fn world() -> (World, App) {
    let mut world = World::new().await;
    world.set("GUARD__MAX_ACCOUNTS", "3");
    let app = world.app().await.unwrap();
    (world, app)
}

async fn terminated(world: &World, accounts: std::ops::Range<u32>, hours_ago: u32) {
    for i in accounts {
        world.account(&format!("a{i}"), "null", &format!("now() - interval '{hours_ago} hours'"), "null").await;
    }
}

/// Looks, and what the guard says then.
async fn look(world: &World, app: &App) -> Value {
    app.planner().look(Look::Resync).await.unwrap();
    world.json(&["guard", "status"])
}

#[tokio::test]
async fn i12_what_is_scheduled_beyond_a_limit_is_forecast_and_what_reaches_it_is_not() {
    let (world, app) = world().await;
    terminated(&world, 0..3, 0).await;
    let guard = look(&world, &app).await;
    assert_eq!((&guard["tripped"], &guard["forecast"]), (&Value::Bool(false), &Value::Null), "three are allowed");
    terminated(&world, 3..4, 1).await;
    let guard = look(&world, &app).await;
    assert_eq!(guard["tripped"], false, "nothing is due yet");
    assert_eq!(guard["forecast"], "4 accounts would be purged within 1day; guard.max_accounts is 3");
    // The queue's seven days end first; the forecast is exact to an hour.
    let at: chrono::DateTime<chrono::Utc> = guard["forecast_at"].as_str().unwrap().parse().unwrap();
    let due = world.job("a0", "queue").await.retain_until;
    assert!(at > due && (at - due).num_minutes() <= 61, "{at} {due}");
    let text = String::from_utf8(world.cli(&["status"]).stdout).unwrap();
    assert!(text.contains("will trip at") && text.contains("4 accounts would be purged"), "{text}");
}

#[tokio::test]
async fn i12_the_same_number_spread_over_more_than_a_window_is_no_forecast() {
    let (world, app) = world().await;
    terminated(&world, 0..3, 0).await;
    terminated(&world, 3..6, 26).await;
    assert_eq!(look(&world, &app).await["forecast"], Value::Null);
    terminated(&world, 6..7, 25).await;
    assert!(look(&world, &app).await["forecast"].as_str().unwrap().starts_with("4 accounts"));
}

/// An account falls due twice in one window, and is one account.
#[tokio::test]
async fn r31_the_forecast_counts_accounts_and_not_jobs() {
    let mut world = World::new().await;
    world.set("GUARD__MAX_ACCOUNTS", "3");
    world.rules = world.rules.replace("\"30d\"", "\"169h\"");
    let app = world.app().await.unwrap();
    terminated(&world, 0..3, 0).await;
    assert_eq!(look(&world, &app).await["forecast"], Value::Null);
    assert_eq!(world.count("retention.every_job").await, 6);
}

#[tokio::test]
async fn i12_a_forecast_is_told_once_and_cleared_when_a_hold_or_a_reactivation_takes_the_reason_away() {
    let mut world = World::new().await;
    world.set("GUARD__MAX_ACCOUNTS", "3");
    terminated(&world, 0..4, 0).await;
    let daemon = world.daemon();
    let told = daemon.wait_for("the forecast", |e| e["event"] == "guard.forecast").await;
    assert_eq!((told["level"].as_str(), told["reason"].as_str().map(|r| &r[..10])), (Some("warn"), Some("4 accounts")), "{told}");
    world.sql("update feature_subscriptions set terminated_at = null where account_id = 'a0'").await;
    daemon.wait_for("that it is clear", |e| e["event"] == "guard.clear").await;
    assert_eq!(daemon.events().iter().filter(|e| e["event"] == "guard.forecast").count(), 1);
    assert!(world.cli(&["hold", "place", "--account", "a1", "--reason", "r"]).status.success());
    terminated(&world, 9..10, 0).await;
    daemon.wait_for("its jobs", |e| e["event"] == "job.scheduled" && e["account_id"] == "a9").await;
    assert_eq!(world.json(&["guard", "status"])["forecast"], Value::Null, "three that are not held");
}
