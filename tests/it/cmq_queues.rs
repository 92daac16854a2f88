//! What only queues and topics of TDMQ for CMQ have: rewind, dead letters, subscriptions, regions, figures that lag.

use std::time::{Duration, Instant};

use retentiond::{
    app::App,
    config::{Config, Protocol, Remote, Store},
    executor::Worker,
    lifecycle::Stop,
    planner::Look,
    stores::{self, StoreError},
};

use crate::{
    cmq::{Fault, StandIn, Topic},
    world::World,
};

const HERE: &str = "ap-singapore";
const THERE: &str = "eu-frankfurt";
const QUEUE: &str = "[[data_classes.targets]]\nstore = \"platform\"\ntable = \"queue_messages\"\n";

/// What has not come by then does not come.
const PATIENCE: Duration = Duration::from_mins(1);

fn looks_apart(config: &mut Config, apart: Duration) {
    for store in config.stores.values_mut() {
        if let Store::Remote(Remote { protocol: Protocol::Cmq(cmq), .. }) = store {
            cmq.looks_apart = apart;
        }
    }
}

/// A second look comes soon.
pub(crate) fn look_soon(config: &mut Config) {
    looks_apart(config, Duration::from_millis(20));
}

/// A second look never comes.
fn look_never(config: &mut Config) {
    looks_apart(config, Duration::from_hours(1));
}

/// A world whose queue class has this place as well, in these regions, and an account whose queue is due.
async fn world(server: &StandIn, regions: &[&str], place: &str) -> World {
    let mut world = World::new().await;
    world.adjust = look_soon;
    assert!(world.rules.contains(QUEUE));
    let target = format!("[[data_classes.targets]]\nstore = \"notifications\"\n{place}\n\n{QUEUE}");
    world.rules = format!("{}\n[stores.notifications]\n{}", world.rules.replace(QUEUE, &target), StandIn::store(regions, server.port));
    world.account("a", "null", "now() - interval '8 days'", "null").await;
    world
}

async fn planned(world: &World) -> (App, Worker) {
    let app = world.app().await.unwrap();
    app.planner().look(Look::Resync).await.unwrap();
    let worker = app.executor().worker("one".to_owned());
    (app, worker)
}

async fn until_completed(world: &World, worker: &mut Worker) {
    let deadline = Instant::now() + PATIENCE;
    while world.job("a", "queue").await.state != "completed" {
        assert!(Instant::now() < deadline, "{:?}", world.job("a", "queue").await);
        worker.step().await.unwrap();
        hurry(world).await;
    }
}

/// No back-off is waited for long.
async fn hurry(world: &World) {
    world.sql("update retention.jobs set ready_at = least(ready_at, now() + interval '50 milliseconds')").await;
}

async fn until_it_says(world: &World, worker: &mut Worker, words: &str) {
    let deadline = Instant::now() + PATIENCE;
    while world.job("a", "queue").await.last_error.is_none_or(|error| !error.contains(words)) {
        assert!(Instant::now() < deadline, "it never says {words:?}: {:?}", world.job("a", "queue").await);
        worker.step().await.unwrap();
        hurry(world).await;
    }
    let error = world.job("a", "queue").await.last_error.unwrap();
    assert!(!error.contains("not to be logged") && !error.contains("hunter2"), "{error}");
}

#[tokio::test]
async fn what_was_consumed_does_not_come_back_after_a_purge() {
    let server = StandIn::start();
    let world = world(&server, &[HERE], "queue = \"mps-{account_id}\"").await;
    server.queue(HERE, "mps-a", |queue| {
        (queue.rewind, queue.messages) = (1_296_000, 5);
        queue.consume();
        queue.messages = 2;
    });
    let (_app, mut worker) = planned(&world).await;
    while world.job("a", "queue").await.state != "completed" {
        worker.step().await.unwrap();
        // Whoever brings back what can be brought back, at every instant from the first call on.
        if world.job("a", "queue").await.purge_began_at.is_some() && server.has(HERE, "mps-a") {
            server.queue(HERE, "mps-a", crate::cmq::Queue::bring_back);
            assert_eq!(server.count(HERE, "mps-a"), 0);
        }
    }
    let asked = server.asked("mps-a");
    let at = |action: &str| asked.iter().position(|asked| asked == action).unwrap_or_else(|| panic!("{action}: {asked:?}"));
    assert!(at("ModifyCmqQueueAttribute") < at("ClearCmqQueue") && at("ClearCmqQueue") < at("DeleteCmqQueue"), "{asked:?}");
    assert!(!server.has(HERE, "mps-a"));
    assert_eq!(world.job("a", "queue").await.records_deleted.0["notifications/mps-{account_id}"], 7);
}

#[tokio::test]
async fn dead_letters_are_unbound_before_anything_is_deleted_and_their_queue_goes_last() {
    let server = StandIn::start();
    let place = "queue = \"mps-{account_id}\"\ndead_letter_queue = \"dead-{account_id}\"";
    let world = world(&server, &[HERE], place).await;
    server.put(HERE, "mps-a", 3);
    server.put(HERE, "dead-a", 4);
    server.put(HERE, "dead-b", 4);
    server.queue(HERE, "mps-a", |queue| queue.dead_letters_to = Some("dead-a".to_owned()));
    world.app().await.unwrap().run_once(&Stop::default()).await.unwrap();
    assert_eq!(world.job("a", "queue").await.records_deleted.0["notifications/mps-{account_id}"], 7);
    assert!(!server.has(HERE, "mps-a") && !server.has(HERE, "dead-a"));
    assert_eq!(server.count(HERE, "dead-b"), 4, "another account's");
    let asked: Vec<(String, String)> = server.cloud().asked.iter().map(|(_, action, name)| (action.clone(), name.clone())).collect();
    let at = |action: &str, name: &str| asked.iter().position(|(a, n)| a == action && n == name).unwrap();
    assert!(at("UnbindCmqDeadLetter", "mps-a") < at("ClearCmqQueue", "mps-a"));
    assert!(at("DeleteCmqQueue", "mps-a") < at("ClearCmqQueue", "dead-a"));
}

#[tokio::test]
async fn dead_letters_that_go_to_a_queue_nobody_named_stop_the_purge_before_it_forgets_where_they_are() {
    let server = StandIn::start();
    let world = world(&server, &[HERE], "queue = \"mps-{account_id}\"").await;
    server.put(HERE, "mps-a", 3);
    server.put(HERE, "shared", 9);
    server.queue(HERE, "mps-a", |queue| queue.dead_letters_to = Some("shared".to_owned()));
    let (_app, mut worker) = planned(&world).await;
    until_it_says(&world, &mut worker, "its dead letters go to \"shared\"").await;
    assert_eq!((server.count(HERE, "mps-a"), server.count(HERE, "shared")), (3, 9));
    server.queue(HERE, "mps-a", |queue| queue.dead_letters_to = None);
    // And a queue that holds the dead letters of others is not emptied either.
    server.queue(HERE, "mps-b", |queue| queue.dead_letters_to = Some("mps-a".to_owned()));
    until_it_says(&world, &mut worker, "\"mps-b\" sends its dead letters to \"mps-a\"").await;
    assert_eq!(server.count(HERE, "mps-a"), 3);
    server.queue(HERE, "mps-b", |queue| queue.dead_letters_to = None);
    world.sql("update retention.jobs set ready_at = now()").await;
    until_completed(&world, &mut worker).await;
    assert_eq!((server.count(HERE, "shared"), server.has(HERE, "mps-b")), (9, true));
}

#[tokio::test]
async fn i8_a_call_whose_answer_is_lost_after_any_step_is_gone_on_with() {
    let server = StandIn::start();
    let place = "queue = \"mps-{account_id}\"\ndead_letter_queue = \"dead-{account_id}\"";
    let world = world(&server, &[HERE], place).await;
    let actions = [
        "DescribeCmqQueueDetail",
        "DescribeCmqQueues",
        "ModifyCmqQueueAttribute",
        "UnbindCmqDeadLetter",
        "ClearCmqQueue",
        "DeleteCmqQueue",
    ];
    server.put(HERE, "dead-a", 4);
    server.queue(HERE, "mps-a", |queue| (queue.messages, queue.rewind, queue.dead_letters_to) = (3, 60, Some("dead-a".to_owned())));
    server.cloud().lost.extend(actions.map(str::to_owned));
    let (_app, mut worker) = planned(&world).await;
    until_completed(&world, &mut worker).await;
    assert_eq!(server.cloud().lost.len(), 0, "each was asked for");
    assert!(!server.has(HERE, "mps-a") && !server.has(HERE, "dead-a"));
    assert!(world.job("a", "queue").await.records_deleted.0["notifications/mps-{account_id}"] <= 7);
}

#[tokio::test]
async fn a_topic_goes_after_all_its_subscriptions() {
    let server = StandIn::start();
    let world = world(&server, &[HERE], "topic = \"mps-{account_id}\"").await;
    let subscriptions = (0..120).map(|n| format!("s{n}")).collect();
    let at = |name: &str| (HERE.to_owned(), name.to_owned());
    server.cloud().topics.insert(at("mps-a"), Topic { messages: 3, subscriptions });
    server.cloud().topics.insert(at("mps-b"), Topic { messages: 1, ..Topic::default() });
    server.put(HERE, "mps-a", 1);
    let (_app, mut worker) = planned(&world).await;
    until_completed(&world, &mut worker).await;
    assert!(!server.cloud().topics.contains_key(&at("mps-a")) && server.cloud().topics.contains_key(&at("mps-b")));
    assert!(server.has(HERE, "mps-a"), "a queue of that name is something else");
    assert_eq!(server.asked("mps-a").iter().filter(|action| *action == "DeleteCmqSubscribe").count(), 120);
    assert_eq!(world.job("a", "queue").await.records_deleted.0["notifications/mps-{account_id}"], 3);
}

#[tokio::test]
async fn i6_a_job_with_a_region_that_is_away_is_not_completed_until_that_is_back() {
    let server = StandIn::start();
    let world = world(&server, &[HERE, THERE], "queue = \"mps-{account_id}\"").await;
    for region in [HERE, THERE, "ap-tokyo"] {
        server.put(region, "mps-a", 2);
    }
    for fault in [Fault::Status(500), Fault::Code("InternalError"), Fault::Code("AuthFailure.UnauthorizedOperation"), Fault::Status(404)] {
        server.put(HERE, "mps-a", 1);
        server.cloud().faults.insert(THERE.to_owned(), fault);
        let (_app, mut worker) = planned(&world).await;
        world.sql("update retention.jobs set last_error = null, ready_at = now()").await;
        while server.has(HERE, "mps-a") || world.job("a", "queue").await.last_error.is_none() {
            worker.step().await.unwrap();
            hurry(&world).await;
        }
        let job = world.job("a", "queue").await;
        assert!(job.last_error.as_ref().unwrap().contains(THERE), "{job:?}");
        assert_eq!((job.state.as_str(), server.count(THERE, "mps-a")), ("scheduled", 2));
    }
    server.cloud().faults.clear();
    world.sql("update retention.jobs set ready_at = now()").await;
    world.app().await.unwrap().run_once(&Stop::default()).await.unwrap();
    assert_eq!(world.job("a", "queue").await.state, "completed");
    assert_eq!((server.count(THERE, "mps-a"), server.count("ap-tokyo", "mps-a")), (0, 2), "a region that is not named is not asked");
}

/// More looks at once than have their turn, at a service that does not answer: whoever was not asked for is not said to be empty.
#[tokio::test]
async fn i6_who_had_no_turn_was_not_looked_at() {
    let server = StandIn::start();
    let silent = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut world = world(&server, &[HERE], "queue = \"mps-{account_id}\"").await;
    let port = silent.local_addr().unwrap().port();
    world.rules = world.rules.replace(&format!(":{}", server.port), &format!(":{port}"));
    let config = world.config();
    let place = &config.data_classes.iter().flat_map(|class| &class.remote).next().unwrap().place;
    let store = &stores::open(&config)["notifications"];
    let accounts: Vec<String> = (0..17).map(|n| format!("a{n}")).collect();
    let looks = futures_util::future::join_all(accounts.iter().map(|account| store.left(place, account))).await;
    assert!(looks.iter().all(|look| matches!(look, Err(StoreError::Busy { .. } | StoreError::Away(_)))), "{looks:?}");
    assert!(looks.iter().any(|look| matches!(look, Err(StoreError::Busy { .. }))), "{looks:?}");
}

#[tokio::test]
async fn i10_what_is_not_shown_or_counted_at_the_first_look_completes_no_job() {
    let server = StandIn::start();
    let mut world = world(&server, &[HERE], "queue = \"mps-{account_id}\"").await;
    world.adjust = look_never;
    server.put(HERE, "mps-a", 2);
    server.queue(HERE, "mps-a", |queue| queue.shown = Some(0));
    let (_app, mut worker) = planned(&world).await;
    let again = async |worker: &mut Worker| {
        for _ in 0..5 {
            world.sql("update retention.jobs set ready_at = now()").await;
            worker.step().await.unwrap();
        }
        let job = world.job("a", "queue").await;
        assert_eq!((job.state.as_str(), job.blocked_by.as_deref(), job.last_error), ("scheduled", Some("settling"), None));
    };
    // Its figures say that it is empty: it is cleared, and not deleted before they have said so for a while.
    again(&mut worker).await;
    assert!(server.has(HERE, "mps-a") && server.asked("mps-a").iter().all(|action| action != "DeleteCmqQueue"));
    server.queue(HERE, "mps-a", |queue| (queue.shown, queue.messages) = (None, 1));
    again(&mut worker).await;
    assert!(server.has(HERE, "mps-a"));
    assert_eq!(server.count(HERE, "mps-a"), 0, "cleared again");
    // It is not shown for a moment.
    server.cloud().hidden.insert("mps-a".to_owned());
    again(&mut worker).await;
    server.cloud().hidden.clear();
    again(&mut worker).await;
    world.adjust = look_soon;
    world.sql("update retention.jobs set ready_at = now()").await;
    world.app().await.unwrap().run_once(&Stop::default()).await.unwrap();
    assert_eq!((world.job("a", "queue").await.state.as_str(), server.has(HERE, "mps-a")), ("completed", false));
}

#[tokio::test]
async fn a_service_that_asks_for_patience_is_left_alone_for_so_long() {
    let server = StandIn::start();
    let world = world(&server, &[HERE], "queue = \"mps-{account_id}\"").await;
    server.put(HERE, "mps-a", 2);
    server.cloud().faults.insert(HERE.to_owned(), Fault::Patience(300));
    let (_app, mut worker) = planned(&world).await;
    until_it_says(&world, &mut worker, "HTTP 429").await;
    server.cloud().faults.clear();
    server.cloud().asked.clear();
    for _ in 0..5 {
        world.sql("update retention.jobs set ready_at = now()").await;
        worker.step().await.unwrap();
    }
    assert_eq!(server.cloud().asked.len(), 0);
    // Another process knows nothing of it.
    server.cloud().faults.insert(HERE.to_owned(), Fault::Code("RequestLimitExceeded.UinLimitExceeded"));
    let (_app, mut worker) = planned(&world).await;
    world.sql("update retention.jobs set ready_at = now()").await;
    until_it_says(&world, &mut worker, "RequestLimitExceeded.UinLimitExceeded (request 7f3b-request)").await;
    server.cloud().faults.clear();
    world.sql("update retention.jobs set ready_at = now()").await;
    until_completed(&world, &mut worker).await;
}

#[tokio::test]
async fn r8_an_account_that_a_queue_cannot_be_named_after_exactly_fails_its_job_alone() {
    let server = StandIn::start();
    let world = world(&server, &[HERE], "queue = \"mps-{account_id}\"").await;
    world.account("a b", "null", "now() - interval '8 days'", "null").await;
    server.queue(HERE, "mps-a", |queue| (queue.messages, queue.spelt) = (2, Some("MPS-A".to_owned())));
    let (_app, mut worker) = planned(&world).await;
    until_it_says(&world, &mut worker, "upper and lower case").await;
    assert_eq!(server.count(HERE, "mps-a"), 2);
    while world.job("a b", "queue").await.last_error.is_none() {
        worker.step().await.unwrap();
    }
    assert!(world.job("a b", "queue").await.last_error.unwrap().contains("cannot be a part of such a name"));
    server.queue(HERE, "mps-a", |queue| queue.spelt = None);
    world.sql("update retention.jobs set ready_at = now() where account_id = 'a'").await;
    until_completed(&world, &mut worker).await;
}

#[tokio::test]
async fn check_says_what_stands_in_the_way_in_each_region() {
    let server = StandIn::start();
    let world = world(&server, &[HERE, THERE], "queue = \"mps-{account_id}\"").await;
    let check = || {
        let output = world.cli(&["check"]);
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let sound = check();
    assert!(!sound.contains("notifications"), "{sound}");
    server.queue(THERE, "mps-a", |queue| (queue.rewind, queue.dead_letters_to) = (60, Some("shared".to_owned())));
    server.cloud().forbidden.insert("ClearCmqQueue".to_owned());
    let found = check();
    for words in
        ["eu-frankfurt keeps what was consumed", "dead letters of \"mps-a\" to \"shared\"", "ClearCmqQueue", "lacks the permission"]
    {
        assert!(found.contains(words), "{words}: {found}");
    }
    assert!(server.has(THERE, "mps-a"), "to ask changes nothing");
    server.cloud().faults.insert(THERE.to_owned(), Fault::Code("AuthFailure.SecretIdNotFound"));
    let refused = check();
    assert!(refused.contains("eu-frankfurt") && refused.contains("the key is not accepted"), "{refused}");
    for text in [sound, found, refused] {
        assert!(!text.contains("hunter2") && !text.contains("not to be logged"), "{text}");
    }
}
