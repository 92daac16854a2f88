//! Notices: a platform's endpoint on loopback is told what happens to its accounts, by the program as it is.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
};

use base64::{Engine, prelude::BASE64_STANDARD};
use retentiond::{notices::Delivered, planner::Look, records::Report};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    metrics::{free_port, scrape},
    receiver::{Got, Receiver},
    world::{World, left, until},
};

const SECRET: &str = "whsec_Q0FOQVJZLVNFQ1JFVC1DQU5BUlktU0VDUkVULTAx";
const OTHER_SECRET: &str = "whsec_Q0FOQVJZLVNFQ1JFVC1DQU5BUlktU0VDUkVULTAy";

impl World {
    /// Configures an endpoint, with more keys.
    fn tells(&mut self, name: &str, port: u16, more: &str) -> &mut Self {
        write!(
            self.rules,
            "\n[[notices]]\nname = \"{name}\"\nurl = \"http://127.0.0.1:{port}/in?token=CANARY-TOKEN\"\nallow_private = true\n{more}\n"
        )
        .unwrap();
        if !more.contains("secret") {
            writeln!(self.rules, "secret = \"{SECRET}\"").unwrap();
        }
        self
    }

    /// Every pause of a notice is over.
    async fn no_pause(&self) {
        self.sql("update retention.notices set next_at = now() where outcome is null").await;
    }

    /// A turn of each endpoint.
    async fn deliver(&self) -> Delivered {
        let app = self.app().await.unwrap();
        let delivered = app.notices().deliver().await.unwrap();
        app.database.close().await;
        delivered
    }

    /// One look of the planner, numbered; nothing is purged or sent.
    async fn plan_and_number(&self) {
        let app = self.app().await.unwrap();
        app.planner().look(Look::Resync).await.unwrap();
        app.ledger().pass().await.unwrap();
        app.database.close().await;
    }
}

/// HMAC-SHA256 as RFC 2104 has it, from the hash alone.
fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    assert!(key.len() <= 64);
    let padded = |with: u8| (0..64).map(|at| key.get(at).copied().unwrap_or(0) ^ with).collect::<Vec<u8>>();
    let inner = Sha256::digest([padded(0x36).as_slice(), text].concat());
    Sha256::digest([padded(0x5c).as_slice(), inner.as_slice()].concat()).to_vec()
}

/// Whether one of the signatures is that of the secret, as Standard Webhooks has it.
fn is_signed_with(got: &Got, secret: &str) -> bool {
    let key = BASE64_STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
    let expected = BASE64_STANDARD.encode(hmac(&key, format!("{}.{}.{}", got.id, got.timestamp, got.text).as_bytes()));
    got.signature.split(' ').any(|one| one.strip_prefix("v1,") == Some(expected.as_str()))
}

/// How often each notice came.
fn times(got: &[Got]) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    for one in got {
        *times.entry(one.id.clone()).or_default() += 1;
    }
    times
}

#[tokio::test]
async fn a_whole_life_arrives_signed_and_in_order() {
    let receiver = Receiver::start();
    let mut world = World::new().await;
    world.tells("platform", receiver.port, &format!("secret = [\"{SECRET}\", \"{OTHER_SECRET}\"]"));
    // The queue was due long ago, and all of its allowance has passed; the configuration is due in eight days.
    world.account("alice", "null", "now() - interval '22 days'", "null").await;
    world.account("live", "null", "null", "null").await;
    world.run_passes().await.unwrap();
    let queue = |got: &Got| got.event["data"]["data_class"] == "queue";
    let kinds = |of_queue: bool| {
        let got: Vec<Got> = receiver.got().into_iter().filter(|got| queue(got) == of_queue).collect();
        got.iter().map(|got| got.kind().replace("retention.purge.", "")).collect::<Vec<_>>()
    };
    assert_eq!(kinds(true), ["scheduled", "overdue", "started", "completed"]);
    assert_eq!(kinds(false), ["scheduled"], "eight days are not soon");

    // A little more than seven days ahead: not soon yet, and then it is, without anybody's act.
    world.sql("update feature_subscriptions set terminated_at = now() - interval '22 days 23 hours 59 minutes 50 seconds' where account_id = 'alice'").await;
    world.run_passes().await.unwrap();
    assert_eq!(kinds(false), ["scheduled", "rescheduled"], "ten seconds more than seven days");
    until("it is due in seven days", async || world.count("retention.jobs where retain_until <= now() + interval '7 days'").await == 1)
        .await;
    world.run_passes().await.unwrap();
    assert_eq!(kinds(false), ["scheduled", "rescheduled", "due_soon"]);
    world.run_passes().await.unwrap();
    assert_eq!(kinds(false), ["scheduled", "rescheduled", "due_soon"], "and only once");
    // With a new date that is nearer it is warned at once, and of the nearer one alone.
    world.sql("update feature_subscriptions set terminated_at = now() - interval '29 days 12 hours' where account_id = 'alice'").await;
    world.run_passes().await.unwrap();
    assert_eq!(kinds(false)[3..], ["rescheduled", "due_soon"]);
    world.sql("update feature_subscriptions set terminated_at = now() - interval '30 days 2 hours' where account_id = 'alice'").await;
    world.run_passes().await.unwrap();
    assert_eq!(kinds(false)[5..], ["rescheduled", "started", "completed"]);
    assert_eq!(world.left("alice").await, left(0, 0, 0, 2));

    let got = receiver.got();
    assert_eq!(world.count("retention.notices where outcome = 'sent'").await, i64::try_from(got.len()).unwrap());
    assert!(times(&got).values().all(|times| *times == 1), "{:?}", times(&got));
    for one in &got {
        assert!(is_signed_with(one, SECRET) && is_signed_with(one, OTHER_SECRET), "{one:?}");
        assert!(!is_signed_with(one, "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"), "{one:?}");
        assert_eq!(one.content_type, "application/cloudevents+json; charset=utf-8");
        assert_eq!([&one.event["specversion"], &one.event["id"], &one.event["subject"]], [&json!("1.0"), &json!(one.id), &json!("alice")]);
        let data = &one.event["data"];
        for key in ["job_id", "feature", "starting_point", "started_at", "retain_until", "delete_by"] {
            assert!(data[key].is_string(), "{key}: {one:?}");
        }
    }
    let job = world.job("alice", "configuration").await;
    let over = |got: &&Got| got.kind() == "retention.purge.completed" && got.event["data"]["job_id"] == job.id.as_str();
    let data = &got.iter().find(over).unwrap().event["data"];
    assert_eq!(data["records_deleted"], json!({"platform/template_configurations": 3, "platform/task_configurations": 5}));
    assert!(data["completed_at"].is_string());
    let soon: Vec<&Value> = got.iter().filter(|got| got.kind() == "retention.purge.due_soon").map(|got| &got.event["data"]).collect();
    assert_eq!([&soon[0]["ahead_seconds"], &soon[1]["ahead_seconds"]], [&json!(7 * 86_400), &json!(86_400)]);
    assert_eq!(soon[0]["held"], json!(false));
}

#[tokio::test]
async fn holds_a_guard_that_trips_and_a_customer_who_came_back_are_told_without_a_word_of_why() {
    let receiver = Receiver::start();
    let mut world = World::new().await;
    world.tells("platform", receiver.port, "").set("GUARD__MAX_ACCOUNTS", "0");
    world.account("alice", "null", "now() - interval '31 days'", "null").await;
    world.account("bob", "null", "now() - interval '1 day'", "null").await;
    assert!(world.cli(&["hold", "place", "--account", "bob", "--reason", "CANARY-REASON", "--by", "CANARY-ACTOR"]).status.success());
    assert!(world.cli(&["hold", "release", "1", "--reason", "CANARY-REASON", "--by", "CANARY-ACTOR"]).status.success());
    assert!(world.run_passes().await.is_err(), "the guard has tripped");
    world.sql("update feature_subscriptions set terminated_at = null where account_id = 'bob'").await;
    assert!(world.cli(&["guard", "release", "--reason", "CANARY-REASON", "--by", "CANARY-ACTOR"]).status.success());
    world.run_passes().await.unwrap();
    let bob = receiver.kinds("bob");
    for kind in ["hold.placed", "hold.released", "purge.scheduled", "purge.cancelled"] {
        assert!(bob.iter().any(|one| one == kind), "{kind}: {bob:?}");
    }
    assert_eq!(bob[..2], ["hold.placed", "hold.released"], "in the order in which it happened");
    let got = receiver.got();
    let about_none: Vec<&Got> = got.iter().filter(|got| got.event.get("subject").is_none()).collect();
    assert_eq!(about_none.iter().map(|got| got.kind()).collect::<Vec<_>>(), ["retention.guard.tripped", "retention.guard.released"]);
    assert_eq!(about_none[0].event["data"], json!({}), "the reason of a trip stays here");
    let all: String = got.iter().map(|got| got.text.as_str()).collect();
    assert!(all.contains("cancel_reason") && !all.contains("CANARY"), "{all}");
    let mut connection = world.connect().await;
    let kept: String =
        sqlx::query_scalar("select string_agg(n::text, ';') from retention.notices n").fetch_one(&mut connection).await.unwrap();
    assert!(!kept.contains("CANARY"), "{kept}");
}

#[tokio::test]
async fn what_fails_is_tried_again_under_the_same_id_and_holds_up_its_account_alone() {
    let status = Arc::new(AtomicU16::new(500));
    let said = Arc::clone(&status);
    let receiver = Receiver::answering(move |got| match got.event["subject"].as_str() {
        Some("alice") => (said.load(Ordering::Relaxed), String::new()),
        _ => (200, String::new()),
    });
    let mut world = World::new().await;
    world.tells("platform", receiver.port, "");
    for account in ["alice", "bob"] {
        world.account(account, "null", "now() - interval '30 days 2 hours'", "null").await;
    }
    world.run_passes().await.unwrap();
    assert_eq!(receiver.kinds("bob").len(), 7, "two jobs, three notices each, and one is overdue");
    assert_eq!(receiver.kinds("alice"), ["purge.scheduled"], "the others wait for the first");
    assert_eq!(world.count("retention.notices where account_id = 'alice' and outcome is null").await, 7);
    assert_eq!(world.deliver().await, Delivered::default(), "its pause is not over");
    world.no_pause().await;
    assert_eq!(world.deliver().await, Delivered { sent: 0, failed: 1 });
    let failed = world.json(&["notices", "list", "--failed"]);
    assert_eq!(failed.as_array().unwrap().len(), 1);
    assert_eq!(
        [&failed[0]["state"], &failed[0]["attempts"], &failed[0]["last_error"]],
        [&json!("waiting"), &json!(2), &json!("status 500")]
    );
    status.store(204, Ordering::Relaxed);
    world.no_pause().await;
    while world.deliver().await.sent > 0 {}
    let got: Vec<Got> = receiver.got().into_iter().filter(|got| got.event["subject"] == "alice").collect();
    assert_eq!(got.len(), 9);
    assert!(got[..3].iter().all(|one| one.id == got[0].id && one.text == got[0].text && is_signed_with(one, SECRET)), "{got:?}");
    assert_eq!(times(&got[2..]).len(), 7);
    assert_eq!(world.json(&["notices", "list", "--failed"]), json!([]));
}

#[tokio::test]
async fn what_does_not_arrive_in_its_time_is_given_up_and_the_next_has_its_turn() {
    let status = Arc::new(AtomicU16::new(503));
    let said = Arc::clone(&status);
    let receiver = Receiver::answering(move |_| (said.load(Ordering::Relaxed), String::new()));
    let mut world = World::new().await;
    world.tells("platform", receiver.port, "give_up_after = \"1h\"");
    world.account("alice", "null", "now() - interval '7 days 2 hours'", "null").await;
    world.run_passes().await.unwrap();
    let age = |age: &str| {
        format!(
            "update retention.notice_endpoints set tried_since = now() - interval '{age}';
             update retention.notices set waiting_since = now() - interval '{age}', next_at = now() where attempts > 0"
        )
    };
    world.sql(&age("59 minutes 30 seconds")).await;
    assert_eq!(world.deliver().await, Delivered { sent: 0, failed: 1 });
    assert_eq!(world.count("retention.notices where outcome = 'given_up'").await, 0);
    world.sql(&age("1 hour 1 second")).await;
    world.deliver().await;
    assert_eq!(world.count("retention.notices where outcome = 'given_up'").await, 1);
    status.store(200, Ordering::Relaxed);
    while world.deliver().await.sent > 0 {}
    let ended = |state: &str| format!("retention.notices where outcome = '{state}'");
    assert_eq!([world.count(&ended("sent")).await, world.count(&ended("given_up")).await], [3, 1]);
    let failed = world.json(&["notices", "list", "--failed", "--endpoint", "platform"]);
    assert_eq!(failed[0]["state"], "given_up");
    // Somebody lets it be sent once more, and then everything.
    let id = failed[0]["id"].as_str().unwrap();
    assert!(world.cli(&["notices", "replay", "--id", id, "--reason", "mended"]).status.success());
    world.deliver().await;
    assert_eq!(receiver.got().last().unwrap().id, id);
    assert_eq!(world.count(&ended("sent")).await, 4);
    let before = receiver.got().len();
    assert!(
        world
            .cli(&["notices", "replay", "--endpoint", "platform", "--since", "2020-01-01T00:00:00Z", "--reason", "mended"])
            .status
            .success()
    );
    while world.deliver().await.sent > 0 {}
    let got = receiver.got();
    assert_eq!(times(&got[before..]).len(), 4);
    assert!(!world.cli(&["notices", "replay", "--endpoint", "other", "--since", "2020-01-01T00:00:00Z", "--reason", "r"]).status.success());
    assert!(!world.cli(&["notices", "replay", "--since", "9999-01-01T00:00:00Z", "--reason", "r"]).status.success());
    assert!(!world.cli(&["notices", "replay", "--reason", "r"]).status.success(), "not everything by mistake");
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_left_alone_until_it_is_enabled_or_another_one() {
    let status = Arc::new(AtomicU16::new(410));
    let said = Arc::clone(&status);
    let receiver = Receiver::answering(move |_| (said.load(Ordering::Relaxed), String::new()));
    let mut world = World::new().await;
    world.tells("platform", receiver.port, "");
    let rules = world.rules.clone();
    world.account("alice", "null", "now() - interval '1 day'", "null").await;
    world.account("bob", "null", "now() - interval '1 day'", "null").await;
    world.run_passes().await.unwrap();
    let asked = receiver.got().len();
    assert!(asked >= 1);
    world.no_pause().await;
    assert_eq!(world.deliver().await, Delivered::default());
    assert_eq!(world.count("retention.notice_endpoints where disabled_at is not null").await, 1);
    let waiting = world.count("retention.notices where outcome is null").await;
    assert_eq!(waiting, world.count("retention.notices").await, "nothing is lost by it");

    assert!(world.cli(&["notices", "enable", "platform", "--reason", "it is back"]).status.success());
    assert_eq!(world.deliver().await, Delivered { sent: 0, failed: 2 }, "it says so once more");
    assert_eq!(world.deliver().await, Delivered::default());
    status.store(204, Ordering::Relaxed);
    world.rules = rules.replace("/in?", "/elsewhere?");
    while world.deliver().await.sent > 0 {}
    assert_eq!(world.count("retention.notices where outcome = 'sent'").await, waiting);
    world.rules = rules;
    world.sql("update retention.notices set outcome = null, ended_at = null, next_at = now()").await;
    assert_eq!(world.deliver().await, Delivered::default(), "the configuration that it was said to");
    assert!(world.cli(&["notices", "enable", "platform", "--reason", "it is back"]).status.success());
    while world.deliver().await.sent > 0 {}
    assert_eq!(world.count("retention.notices where outcome = 'sent'").await, waiting);
    assert!(!world.cli(&["notices", "enable", "platform", "--reason", "again"]).status.success(), "it is not disabled");
    assert!(!world.cli(&["notices", "enable", "nobody", "--reason", "again"]).status.success());
}

#[tokio::test]
async fn a_redirect_is_a_failure_and_leads_nowhere() {
    let elsewhere = Receiver::start();
    let to = format!("http://127.0.0.1:{}/", elsewhere.port);
    let receiver = Receiver::answering(move |_| (307, to.clone()));
    let mut world = World::new().await;
    world.tells("platform", receiver.port, "");
    world.account("alice", "null", "now() - interval '1 day'", "null").await;
    world.run_passes().await.unwrap();
    assert_eq!((receiver.got().len(), elsewhere.got().len()), (1, 0));
    assert_eq!(world.json(&["notices", "list", "--failed"])[0]["last_error"], "status 307: redirects are not followed");
    let test = world.cli(&["notices", "test", "platform"]);
    assert_eq!(test.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&test.stderr).contains("status 307"), "{test:?}");
}

#[tokio::test]
async fn a_private_address_is_refused_where_it_is_written_and_where_it_is_connected_to() {
    let receiver = Receiver::start();
    let mut world = World::new().await;
    let rules = world.rules.clone();
    world.tells("platform", receiver.port, "");
    assert!(world.cli(&["notices", "test", "platform"]).status.success());
    assert_eq!(receiver.got()[0].kind(), "retention.test");
    world.rules = world.rules.replace("allow_private = true", "allow_private = false");
    let refused = world.cli(&["check", "--offline"]);
    assert_eq!(refused.status.code(), Some(78));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("notices[platform].url: is in a private network; if that is meant, set allow_private = true"), "{said}");
    assert!(!said.contains("CANARY"), "{said}");
    // A spelling that the configuration does not see through: it is this machine all the same.
    world.rules =
        format!("{rules}\n[[notices]]\nname = \"platform\"\nurl = \"https://2130706433:{}/\"\nsecret = \"{SECRET}\"\n", receiver.port);
    world.account("alice", "null", "now() - interval '1 day'", "null").await;
    world.run_passes().await.unwrap();
    let failed = world.json(&["notices", "list", "--failed"]);
    assert_eq!(failed[0]["last_error"], "its address is in a private network, and allow_private is not set");
    assert_eq!(receiver.got().len(), 1);
}

#[tokio::test]
async fn an_endpoint_that_hangs_delays_no_purge_and_no_other_endpoint() {
    let (hanging, well) = (Receiver::answering(|_| (0, String::new())), Receiver::start());
    let mut world = World::new().await;
    world.tells("hanging", hanging.port, "").tells("well", well.port, "");
    for account in ["alice", "bob"] {
        world.account(account, "null", "now() - interval '30 days 2 hours'", "null").await;
    }
    let mut daemon = world.daemon();
    // Six of each account, and a seventh when somebody saw that its queue is late before it was purged.
    until("all is told to the one that is well", async || {
        world.count("retention.history").await == 4
            && world.count("retention.ledger_pending").await == 0
            && world.count("retention.notices where endpoint = 'well' and outcome is null").await == 0
    })
    .await;
    assert!(well.got().len() >= 12);
    assert_eq!(world.left("alice").await, left(0, 0, 0, 2));
    assert!(!hanging.got().is_empty() && hanging.got().len() <= 2, "the first of each account");
    // Within the time that the other may take to answer.
    assert_eq!(world.count("retention.notices where endpoint = 'hanging' and last_error is not null").await, 0);
    assert_eq!(world.count("retention.jobs").await, 0);
    daemon.signal(rustix::process::Signal::TERM);
    assert_eq!(daemon.ended().await, Some(0), "nor does it keep the daemon from ending");
}

#[tokio::test]
async fn two_replicas_send_each_notice_once() {
    let receiver = Receiver::start();
    let mut world = World::new().await;
    world.tells("platform", receiver.port, "");
    for account in 0..40 {
        world.account(&format!("a{account}"), "null", "now() - interval '8 days'", "null").await;
    }
    world.plan_and_number().await;
    let apps = [world.app().await.unwrap(), world.app().await.unwrap(), world.app().await.unwrap()];
    let all = apps.iter().map(|app| async {
        let notices = app.notices();
        while world.count("retention.notices where outcome is null").await > 0 {
            notices.deliver().await.unwrap();
        }
    });
    futures_util::future::join_all(all).await;
    let got = receiver.got();
    assert_eq!(got.len(), 80);
    assert_eq!(times(&got).len(), 80);
}

// A release build has no points to die at.
#[cfg(debug_assertions)]
#[tokio::test]
async fn killed_between_the_answer_and_its_mark_it_sends_again_under_the_same_id() {
    let receiver = Receiver::start();
    let mut world = World::new().await;
    world.tells("platform", receiver.port, "");
    world.account("alice", "null", "now() - interval '1 day'", "null").await;
    let died = world.command(&["run", "--once"]).env(retentiond::crash::VARIABLE, "notices.sent").output().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&died.status), Some(6), "{died:?}");
    let before = receiver.got();
    assert_eq!(before.len(), 1);
    assert_eq!(world.count("retention.notices where outcome = 'sent'").await, 0);
    assert_eq!(world.deliver().await, Delivered::default(), "it belongs to the dead one for a while");
    world.no_pause().await;
    world.run_passes().await.unwrap();
    let after = receiver.got();
    assert_eq!((after[1].id.as_str(), after[1].text.as_str()), (before[0].id.as_str(), before[0].text.as_str()));
    assert_eq!(times(&after[1..]).len(), 3, "and the others");
    assert!(times(&after[1..]).values().all(|times| *times == 1));
}

#[tokio::test]
async fn without_an_endpoint_nothing_is_written_and_each_gets_the_types_that_it_wants() {
    let receiver = Receiver::start();
    let mut world = World::new().await;
    world.account("alice", "null", "now() - interval '31 days'", "null").await;
    world.run_passes().await.unwrap();
    for table in ["notices", "notice_endpoints", "notice_looks"] {
        assert_eq!(world.count(&format!("retention.{table}")).await, 0, "{table}");
    }
    // Nor where nothing is deleted.
    world.tells("some", receiver.port, "types = [\"retention.purge.completed\"]").set("MODE", "observe");
    world.account("bob", "null", "now() - interval '31 days'", "null").await;
    world.run_passes().await.unwrap();
    assert_eq!(world.count("retention.notices").await, 0);
    assert!(receiver.got().is_empty());
    world.set("MODE", "enforce");
    world.account("carol", "null", "now() - interval '31 days'", "null").await;
    world.run_passes().await.unwrap();
    assert_eq!(receiver.kinds("bob"), ["purge.completed", "purge.completed"]);
    assert_eq!(receiver.kinds("carol"), ["purge.completed", "purge.completed"]);
    assert_eq!(receiver.got().len(), 4);
    // A configuration that has been gone for a day.
    world.sql("update retention.notice_endpoints set configured_at = now() - interval '25 hours'").await;
    world.rules = crate::world::RULES.to_owned();
    world.account("dave", "null", "now() - interval '31 days'", "null").await;
    world.run_passes().await.unwrap();
    assert_eq!(world.count("retention.notices").await, 4);
}

#[tokio::test]
async fn a_daemon_of_a_region_tells_of_the_accounts_of_its_region() {
    let receiver = Receiver::start();
    let mut world = World::new().await;
    world.tells("platform", receiver.port, "types = [\"retention.hold.placed\"]");
    world.rules = world.rules.replace("since_column = \"deleted_at\"", "since_column = \"deleted_at\"\nregion_column = \"region\"");
    world.settings.insert("RETENTIOND__REGIONS".to_owned(), "ap-singapore".to_owned());
    world.account("here", "null", "null", "null").await;
    world.account("there", "null", "null", "null").await;
    world.sql("update accounts set region = 'eu-frankfurt' where account_id = 'there'").await;
    world.run_passes().await.unwrap();
    world
        .sql("insert into retention.account_regions values ('here', 'ap-singapore'), ('there', 'eu-frankfurt') on conflict do nothing")
        .await;
    for account in ["here", "there"] {
        assert!(world.cli(&["hold", "place", "--account", account, "--reason", "law"]).status.success());
    }
    world.run_passes().await.unwrap();
    assert_eq!(receiver.kinds("here"), ["hold.placed"]);
    assert!(receiver.kinds("there").is_empty());
}

#[tokio::test]
async fn daemons_of_two_regions_on_one_database_never_tell_each_others_accounts() {
    let (singapore, frankfurt) = (Receiver::start(), Receiver::start());
    let mut world = World::new().await;
    world.rules = world.rules.replace("since_column = \"deleted_at\"", "since_column = \"deleted_at\"\nregion_column = \"region\"");
    let rules = world.rules.clone();
    // From here on the world is the daemon of one of the two.
    let become_one = |world: &mut World, region: &str, name: &str, port: u16| {
        world.rules.clone_from(&rules);
        world.tells(name, port, "types = [\"retention.hold.placed\"]").set("REGIONS", region);
    };
    let hold = |world: &World, account: &str| {
        assert!(world.cli(&["hold", "place", "--account", account, "--reason", "law"]).status.success());
    };
    become_one(&mut world, "ap-singapore", "platform", singapore.port);
    for account in ["sue", "fay"] {
        world.account(account, "null", "null", "null").await;
    }
    world
        .sql(
            "update accounts set region = 'eu-frankfurt' where account_id = 'fay';
             insert into retention.account_regions values ('sue', 'ap-singapore'), ('fay', 'eu-frankfurt') on conflict do nothing",
        )
        .await;
    world.run_passes().await.unwrap();
    hold(&world, "sue");
    world.plan_and_number().await;
    assert_eq!(world.count("retention.notices where outcome is null").await, 1);

    // The same name under another region: it stays the first one's, and what waits does not go to the second.
    become_one(&mut world, "eu-frankfurt", "platform", frankfurt.port);
    let mut second = world.daemon();
    let said = second.wait_for("a refusal", |line| line["event"] == "notice.endpoint_taken").await;
    assert_eq!([&said["level"], &said["endpoint"]], [&json!("error"), &json!("platform")]);
    second.signal(rustix::process::Signal::TERM);
    assert_eq!(second.ended().await, Some(0));
    hold(&world, "fay");
    world.run_passes().await.unwrap();
    assert_eq!(world.count("retention.notice_endpoints where regions = '{ap-singapore}'").await, 1);
    // Nor when the first one has been gone for long: what waits is of its accounts.
    world.sql("update retention.notice_endpoints set configured_at = now() - interval '1 hour 59 minutes'").await;
    world.run_passes().await.unwrap();
    assert_eq!(world.count("retention.notice_endpoints where regions = '{ap-singapore}'").await, 1);
    world.sql("update retention.notice_endpoints set configured_at = now() - interval '2 hours 1 minute'").await;
    world.run_passes().await.unwrap();
    assert_eq!(world.count("retention.notice_endpoints where regions = '{eu-frankfurt}'").await, 1);
    assert!(frankfurt.got().is_empty());
    world.sql("delete from retention.notice_endpoints").await;

    // Under a name of its own, and whoever numbers: each is told of its own.
    become_one(&mut world, "eu-frankfurt", "frankfurt", frankfurt.port);
    world.run_passes().await.unwrap();
    become_one(&mut world, "ap-singapore", "platform", singapore.port);
    world.run_passes().await.unwrap();
    for account in ["sue", "fay"] {
        assert!(world.cli(&["hold", "place", "--account", account, "--data-class", "queue", "--reason", "law"]).status.success());
    }
    world.run_passes().await.unwrap();
    assert_eq!((singapore.kinds("sue").len(), singapore.kinds("fay").len()), (2, 0), "the one that waited, and the new one");
    assert!(frankfurt.got().is_empty());
    become_one(&mut world, "eu-frankfurt", "frankfurt", frankfurt.port);
    world.deliver().await;
    assert_eq!((frankfurt.kinds("sue").len(), frankfurt.kinds("fay").len()), (0, 1));
}

#[tokio::test]
async fn what_waited_while_nobody_tried_has_its_whole_time_again() {
    let status = Arc::new(AtomicU16::new(503));
    let said = Arc::clone(&status);
    let receiver = Receiver::answering(move |_| (said.load(Ordering::Relaxed), String::new()));
    let mut world = World::new().await;
    world.tells("platform", receiver.port, "");
    world.account("alice", "null", "now() - interval '7 days 2 hours'", "null").await;
    world.run_passes().await.unwrap();
    let old = |tried_ago: &str| {
        format!(
            "update retention.notice_endpoints set tried_since = now() - interval '4 days', tried_at = now() - interval '{tried_ago}';
             update retention.notices set waiting_since = now() - interval '4 days', next_at = now() where outcome is null"
        )
    };
    let mut given_up = 0;
    for (gap, gives_up) in [("0", 1), ("11 minutes", 0), ("9 minutes", 1)] {
        world.sql(&old(gap)).await;
        assert_eq!(world.deliver().await, Delivered { sent: 0, failed: 1 }, "{gap}");
        given_up += gives_up;
        assert_eq!(world.count("retention.notices where outcome = 'given_up'").await, given_up, "not tried for {gap}");
    }
    status.store(410, Ordering::Relaxed);
    world.sql(&old("0")).await;
    world.deliver().await;
    assert!(world.cli(&["notices", "enable", "platform", "--reason", "it is back"]).status.success());
    status.store(503, Ordering::Relaxed);
    world.sql(&old("0")).await;
    assert_eq!(world.deliver().await, Delivered { sent: 0, failed: 1 });
    assert_eq!(world.count("retention.notices where outcome = 'given_up'").await, given_up, "it was enabled");
    world.sql(&old("0")).await;
    world.rules = world.rules.replace("/in?", "/elsewhere?");
    assert_eq!(world.deliver().await, Delivered { sent: 0, failed: 1 });
    assert_eq!(world.count("retention.notices where outcome = 'given_up'").await, given_up, "it is another one");
    world.sql(&old("0")).await;
    world.deliver().await;
    assert_eq!(world.count("retention.notices where outcome = 'given_up'").await, given_up + 1);
}

#[tokio::test]
async fn very_many_jobs_of_one_instant_are_warned_of_once_each() {
    let mut world = World::new().await;
    // Nobody listens there: what is written is looked at.
    world.tells("platform", 9, "types = [\"retention.purge.due_soon\"]\ndue_soon = [\"3d\", \"2d\"]");
    let insert = |from: i64, to: i64, due: &str| {
        format!(
            "insert into retention.jobs (account_id, feature, data_class, starting_point, started_at, retain_until, delete_by, policy, ready_at)
             select 'a' || i, 'mps', 'configuration', 'account_deleted', d - interval '30 days', d, d + interval '1 day', 'p', d
             from generate_series({from}, {to}) i, lateral (select now() + interval '{due}' as d) x"
        )
    };
    world.sql(&insert(1, 20_001, "60 hours")).await;
    world.sql(&insert(30_001, 30_002, "47 hours")).await;
    world.sql(&insert(40_001, 40_002, "73 hours")).await;
    world.sql(&insert(50_001, 50_002, "-1 seconds")).await;
    let app = world.app().await.unwrap();
    let notices = app.notices();
    app.ledger().pass().await.unwrap();
    for _ in 0..2 {
        notices.look().await.unwrap();
        assert_eq!(world.count("retention.notices").await, 20_003);
    }
    let warned = |seconds: i64| format!("retention.notices where (data ->> 'ahead_seconds')::int8 = {seconds}");
    assert_eq!([world.count(&warned(3 * 86_400)).await, world.count(&warned(2 * 86_400)).await], [20_001, 2]);
    // When the two days have come for those, they are warned once more, and nobody else is.
    world.sql("update retention.notice_looks set looked_until = looked_until - interval '1 hour' where ahead = 172800").await;
    world
        .sql(&format!(
            "update retention.jobs set retain_until = now() + interval '{}' where account_id in ('a7', 'a8')",
            "47 hours 59 minutes"
        ))
        .await;
    notices.look().await.unwrap();
    assert_eq!([world.count(&warned(3 * 86_400)).await, world.count(&warned(2 * 86_400)).await], [20_001, 4]);
    app.database.close().await;
}

#[tokio::test]
async fn notices_go_after_their_period_and_so_do_endpoints_that_nobody_has() {
    let receiver = Receiver::start();
    let mut world = World::new().await;
    world.tells("platform", receiver.port, "");
    for account in ["old", "young"] {
        world.account(account, "null", "now() - interval '1 day'", "null").await;
    }
    world.run_passes().await.unwrap();
    world.sql("update retention.notices set created_at = now() - interval '30 days 1 minute' where account_id = 'old'").await;
    world.sql("update retention.notices set created_at = now() - interval '29 days 23 hours 59 minutes' where account_id = 'young'").await;
    let app = world.app().await.unwrap();
    let old = world.count("retention.notices where account_id = 'old'").await;
    assert_eq!(app.records().prune().await.unwrap(), Report { notices: old, ..Report::default() });
    assert_eq!(world.count("retention.notices where account_id = 'young'").await, old);
    assert_eq!(world.count("retention.notice_endpoints").await, 1);
    world.sql("update retention.notice_endpoints set configured_at = now() - interval '31 days'").await;
    app.records().prune().await.unwrap();
    assert_eq!(world.count("retention.notice_endpoints").await + world.count("retention.notice_looks").await, 0);
    app.database.close().await;
}

#[tokio::test]
async fn neither_log_nor_figures_hold_a_secret_a_token_or_what_was_answered() {
    let (failing, well) = (Receiver::answering(|_| (500, String::new())), Receiver::start());
    let mut world = World::new().await;
    let port = free_port();
    world.tells("failing", failing.port, "").tells("well", well.port, "").set("LOG__LEVEL", "trace");
    world.set("HTTP__OPS_LISTEN", &format!("127.0.0.1:{port}"));
    world.account("alice", "null", "now() - interval '30 days 2 hours'", "null").await;
    let daemon = world.daemon();
    let warned = daemon.wait_for("a warning", |line| line["event"] == "notice.failed").await;
    assert_eq!([&warned["endpoint"], &warned["host"], &warned["error"]], [&json!("failing"), &json!("127.0.0.1"), &json!("status 500")]);
    daemon.wait_for("a notice that arrived", |line| line["event"] == "notice.sent").await;
    // Six, and a seventh when somebody saw that the queue is late before it was purged.
    until("all is told", async || {
        world.count("retention.history").await == 2
            && world.count("retention.ledger_pending").await == 0
            && world.count("retention.notices where endpoint = 'well' and outcome is null").await == 0
    })
    .await;
    let told = world.count("retention.notices where endpoint = 'well'").await;
    assert!(told >= 6 && i64::try_from(well.got().len()).unwrap() >= told, "{told}");
    let told = f64::from(i32::try_from(told).unwrap());
    let pending = "retention_notices_pending{endpoint=\"well\"}";
    until("the last one is marked", async || scrape(port).get(pending) == Some(0.0)).await;
    let figures = scrape(port);
    let deliveries = |endpoint: &str, outcome: &str| {
        figures.get(&format!("retention_notice_deliveries_total{{endpoint=\"{endpoint}\",outcome=\"{outcome}\"}}"))
    };
    assert_eq!(
        [deliveries("well", "sent"), deliveries("well", "failed"), deliveries("well", "given_up")],
        [Some(told), Some(0.0), Some(0.0)]
    );
    assert!(deliveries("failing", "failed") >= Some(1.0) && deliveries("failing", "sent") == Some(0.0), "{}", figures.text);
    assert_eq!(figures.get("retention_notices_pending{endpoint=\"failing\"}"), Some(told));
    assert!(figures.get("retention_oldest_notice_timestamp_seconds{endpoint=\"failing\"}").is_some());
    assert_eq!(figures.get("retention_oldest_notice_timestamp_seconds{endpoint=\"well\"}"), None, "none waits");
    let events = daemon.events();
    assert_eq!(events.iter().filter(|line| line["event"] == "notice.failed").count(), 1, "once an hour");
    let log = std::fs::read_to_string(&daemon.log).unwrap();
    for canary in ["CANARY", SECRET, &SECRET[6..]] {
        assert!(!log.contains(canary) && !figures.text.contains(canary), "{canary}");
    }
}
