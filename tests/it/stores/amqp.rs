//! What only queues have.

use std::sync::Arc;

use futures_util::StreamExt;
use retentiond::{
    config,
    embedded::Rabbitmq,
    stores::{self, Careful, StoreError, Until},
};

use super::{Kind, Place, once, world};
use crate::{
    rabbitmq::Visitor,
    world::{World, left_out},
};

/// A world with a queue, where the broker is installed.
async fn queue() -> Option<(World, Place)> {
    if !Rabbitmq::is_installed() {
        left_out("what only queues have: RabbitMQ is not installed");
        return None;
    }
    Some(world(Kind::Amqp).await)
}

/// The store, and the place of its only target.
fn ask(world: &World) -> (Arc<Careful>, config::Place) {
    let config = world.config();
    let target = config.data_classes.iter().flat_map(|class| &class.remote).next().unwrap();
    (Arc::clone(&stores::open(&config)["elsewhere"]), target.place.clone())
}

fn soon() -> Until {
    Until::in_time(stores::CALL)
}

#[tokio::test]
async fn what_a_consumer_holds_and_has_not_acknowledged_is_gone_with_its_queue() {
    let Some((world, place)) = queue().await else { return };
    world.account("a", "null", "now() - interval '8 days'", "null").await;
    place.put("a", 3).await;
    let visitor = Visitor::new(&place.url).await;
    let mut consumer = visitor.hold_one(&place.of("a")).await;
    let held = consumer.next().await.unwrap().unwrap();
    assert_eq!(place.count("a").await, 2, "one is in no count");
    once(&world).await;
    let job = world.job("a", "queue").await;
    assert_eq!(job.state, "completed", "{:?}", job.last_error);
    assert!((2..=3).contains(&job.records_deleted.0[&place.target()]), "a lower bound: {:?}", job.records_deleted.0);
    assert!(!job.count_exact);
    assert_eq!(visitor.look(&place.of("a")).await, None);
    assert!(consumer.next().await.is_none_or(|more| more.is_err()), "the broker ends the consumer");
    drop(held);
}

#[tokio::test]
async fn an_empty_queue_goes_too() {
    let Some((world, place)) = queue().await else { return };
    world.account("a", "null", "now() - interval '8 days'", "null").await;
    place.put("a", 0).await;
    let (store, target) = ask(&world);
    assert_eq!((store.left(&target, "a").await, store.count(&target, "a").await), (Ok(true), Ok(0)));
    once(&world).await;
    assert_eq!(world.job("a", "queue").await.state, "completed");
    assert_eq!(store.left(&target, "a").await, Ok(false));
    assert_eq!(Visitor::new(&place.url).await.look(&place.of("a")).await, None);
}

#[tokio::test]
async fn r8_an_id_that_no_name_of_a_queue_can_hold_is_never_asked_for() {
    let Some((world, place)) = queue().await else { return };
    let (store, target) = ask(&world);
    let long = "x".repeat(256);
    for account in ["a/b", "a\\b", "..", "a\n", "", long.as_str()] {
        for answer in [store.purge(&target, account, 1, soon()).await.map(|_| ()), store.left(&target, account).await.map(|_| ())] {
            assert!(matches!(&answer, Err(StoreError::Refused(why)) if why.contains("account's id")), "{account:?}: {answer:?}");
        }
    }
    // Whatever else it holds stands for itself.
    let odd = "*#%2f a.Ünï {account_id}";
    place.put(odd, 1).await;
    assert_eq!(store.purge(&target, odd, 1, soon()).await.unwrap().records, 1);
    assert_eq!(Visitor::new(&place.url).await.look(&place.of(odd)).await, None);
}

#[tokio::test]
async fn a_broker_that_refuses_says_why_and_keeps_its_queue() {
    let Some((mut world, place)) = queue().await else { return };
    place.put("a", 1).await;
    let (store, target) = ask(&world);
    assert_eq!(store.check(&target).await, Ok(Vec::new()));
    let rules = world.rules.clone();
    for (from, to, why) in [
        ("//all:all@", "//none:none@", "ACCESS_REFUSED - access to queue"),
        ("//all:all@", "//all:hunter2@", "ACCESS_REFUSED - Login was refused"),
        ("/%2f", "/nowhere", "NOT_ALLOWED - vhost nowhere not found"),
    ] {
        world.rules = rules.replace(from, to);
        let (store, target) = ask(&world);
        let (checked, purged) = (store.check(&target).await, store.purge(&target, "a", 1, soon()).await);
        let refused = |answer: &Result<String, StoreError>| match answer {
            Ok(problem) => problem.starts_with("cannot be deleted: ") && problem.contains(why) && problem.contains("permission configure"),
            Err(StoreError::Refused(said)) => said.contains(why) && !said.contains("hunter2"),
            Err(_) => false,
        };
        let checked = checked.map(|problems| problems.concat());
        assert!(refused(&checked), "{to}: {checked:?}");
        assert!(purged.is_err() && refused(&purged.clone().map(|gone| format!("{gone:?}"))), "{to}: {purged:?}");
    }
    assert_eq!(place.count("a").await, 1);
}

#[tokio::test]
async fn a_connection_that_is_lost_is_remade_by_the_next_call() {
    let Some((mut world, place)) = queue().await else { return };
    let proxy = crate::proxy::Proxy::start(place.port);
    world.rules = world.rules.replace(&format!(":{}/", place.port), &format!(":{}/", proxy.port()));
    place.put("a", 1).await;
    let (store, target) = ask(&world);
    assert_eq!(store.left(&target, "a").await, Ok(true));
    proxy.cut(|| true);
    // What is lost in the middle of a call is that call.
    let again = async {
        loop {
            match store.left(&target, "a").await {
                Err(StoreError::Away(_)) => tokio::task::yield_now().await,
                answer => break answer,
            }
        }
    };
    assert_eq!(again.await, Ok(true));
}
