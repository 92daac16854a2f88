//! Stores outside the main database, as they are written down.

mod amqp;
mod mongodb;

use std::collections::BTreeMap;

use secrecy::ExposeSecret;

use super::*;
use crate::config::{self, Config, Invalid, SHIPPED, Store};

const MINE: &str = "mode = \"enforce\"\n[database]\nurl = \"postgres://u:hunter2@127.0.0.1:5/platform\"\n";

fn faults(result: Result<Config, Invalid>) -> Vec<String> {
    result.expect_err("a fault").faults.iter().map(ToString::to_string).collect()
}

/// The shipped rules with another store, and a target in it in each class that the function names.
fn with_store(store: &str, targets: &[(&str, &str)]) -> Result<Config, Invalid> {
    let mut rules = format!("{SHIPPED}\n[stores.other]\n{store}\n");
    for (class, target) in targets {
        let name = format!("name = \"{class}\"\n");
        let (before, after) = rules.split_once(&name).unwrap();
        let (rule, more) = after.split_once("[[data_classes.targets]]").unwrap();
        rules = format!("{before}{name}{rule}[[data_classes.targets]]\nstore = \"other\"\n{target}\n[[data_classes.targets]]{more}");
    }
    config::parse(&[("all", &rules), ("mine", MINE)], &BTreeMap::new(), Needs::Database)
}

#[test]
fn a_store_outside_the_main_database_is_read_with_its_targets() {
    let config = with_store(
        "kind = \"mysql\"\nurl = \"mysql://u:p@DB.example/media?charset=utf8mb4\"",
        &[("queue", "table = \"Media.TaskEvents\"\naccount_column = \"owner\"\nfeature_column = \"feature\"")],
    )
    .unwrap();
    let Store::Remote(Remote { at, protocol: Protocol::Mysql(url) }) = &config.stores["other"] else { panic!("{:?}", config.stores) };
    assert_eq!(at, "mysql://db.example:3306/", "the databases of a server are within reach of each other");
    assert!(url.expose_secret().ends_with("?charset=utf8mb4&ssl-mode=VERIFY_IDENTITY"), "off this machine the server proves who it is");
    let queue = &config.data_classes[1];
    assert_eq!(queue.targets.len(), 1);
    assert_eq!(queue.remote[0].name, "other/Media.TaskEvents");
    let Place::Table { table, account_column, feature } = &queue.remote[0].place else { panic!() };
    assert_eq!((table.join("/"), account_column.as_str()), ("Media/TaskEvents".to_owned(), "owner"));
    assert_eq!(feature.as_ref().unwrap(), &("feature".to_owned(), "mps".to_owned()));

    let here = with_store("kind = \"mysql\"\nurl = \"mysql://u@127.0.0.1:3307/media\"", &[]).unwrap();
    let Store::Remote(Remote { protocol: Protocol::Mysql(url), .. }) = &here.stores["other"] else { panic!() };
    assert!(!url.expose_secret().contains("ssl-mode"));
    let spelt = with_store("kind = \"mysql\"\nurl = \"mysql://u@db/media?ssl-mode=REQUIRED\"", &[]).unwrap();
    let Store::Remote(Remote { protocol: Protocol::Mysql(url), .. }) = &spelt.stores["other"] else { panic!() };
    assert!(url.expose_secret().ends_with("?ssl-mode=REQUIRED"));
}

#[test]
fn r13_what_targets_in_other_stores_must_not_do_is_refused() {
    const MYSQL: &str = "kind = \"mysql\"\nurl = \"mysql://u:hunter2@127.0.0.1/media\"";
    let table = |name: &str| format!("table = \"{name}\"\naccount_column = \"owner\"");
    for (store, targets, words) in [
        (MYSQL, vec![("queue", table("media_objects"))], "is under the customer's control"),
        (MYSQL, vec![("queue", table("media.media_objects"))], "is under the customer's control"),
        (MYSQL, vec![("queue", table("events")), ("configuration", table("events"))], "nothing tells their records apart"),
        (MYSQL, vec![("queue", table("events")), ("configuration", table("media.events"))], "nothing tells their records apart"),
        (MYSQL, vec![("queue", table("a.b.c"))], "is neither a table nor database.table"),
        (MYSQL, vec![("queue", "table = \"events\"".to_owned())], "which column names the account?"),
        (MYSQL, vec![("queue", table("events") + "\nparent = \"other\"")], "unknown key"),
        ("kind = \"expiring\"", vec![("queue", "name = \"nightly\"".to_owned())], "how long is a copy kept at most?"),
        ("kind = \"expiring\"\nurl = \"x\"", vec![], "unknown key"),
    ] {
        let targets: Vec<(&str, &str)> = targets.iter().map(|(class, target)| (*class, target.as_str())).collect();
        let found = faults(with_store(store, &targets));
        assert!(found.iter().any(|fault| fault.contains(words)), "{targets:?}: wanted {words}\nfound {found:#?}");
        assert!(!format!("{found:?}").contains("hunter2"));
    }
    let apart = format!("{}\nfeature_column = \"feature\"", table("events"));
    assert!(with_store(MYSQL, &[("queue", &apart)]).is_ok());
}

#[test]
fn r11_a_target_in_another_store_is_a_part_of_the_policy() {
    let with = |target: &str| with_store("kind = \"expiring\"", &[("queue", target)]).unwrap();
    let week = with("name = \"nightly\"\nexpires_after = \"7d\"");
    let month = with("name = \"nightly\"\nexpires_after = \"30d\"");
    let none = with_store("kind = \"expiring\"", &[]).unwrap();
    assert_ne!(week.terms().hash(), month.terms().hash());
    assert!(none.terms().changes(&week.terms()).iter().any(|change| change.needs_acceptance));
    assert_ne!(week.data_classes[1].places_fingerprint(), none.data_classes[1].places_fingerprint(), "it opens the class again (R23)");
}

#[test]
fn i4_media_is_protected_under_every_name_of_its_place() {
    let two = |place: &str, url: &str, target: &str| {
        let media = SHIPPED.replacen("\"media_objects\"]", &format!("\"{place}\"]"), 1);
        let other = format!(
            "[stores.other]\nkind = \"mysql\"\nurl = \"mysql://u@127.0.0.1/app\"\n[stores.twin]\nkind = \"mysql\"\nurl = \"{url}\"\n"
        );
        let queue = "[[data_classes.targets]]\nstore = \"platform\"\ntable = \"queue_messages\"";
        let target = format!("[[data_classes.targets]]\nstore = \"twin\"\ntable = \"{target}\"\naccount_column = \"owner\"\n\n{queue}");
        let rules = format!("{}\n{other}", media.replacen(queue, &target, 1));
        config::parse(&[("all", &rules), ("mine", MINE)], &BTreeMap::new(), Needs::Database)
    };
    for (place, url, target) in [
        ("other/app.media", "mysql://u@127.0.0.1/app", "media"),
        ("other/media", "mysql://u@127.0.0.1/app", "app.media"),
        ("other/app.media", "mysql://u@127.0.0.1/elsewhere", "app.media"),
        ("twin/media", "mysql://u@127.0.0.1:3306/app", "media"),
        ("media", "mysql://u@10.0.0.1/app", "Media"),
    ] {
        let found = faults(two(place, url, target));
        assert!(found[0].contains("under the customer's control"), "{place} {url} {target}: {found:?}");
    }
    assert!(two("other/app.media", "mysql://u@127.0.0.1/app", "events").is_ok());
    assert!(two("other/media", "mysql://u@10.0.0.1/app", "media").is_ok(), "another server");
}

const CMQ: &str = "kind = \"cmq\"\nregions = [\"ap-singapore\", \"eu-frankfurt\"]\nendpoint = \"https://TDMQ.intl.tencentcloudapi.com/\"\n\
                   secret_id = \"AKID1\"\nsecret_key = \"hunter2\"";

#[test]
fn queues_and_topics_are_read_with_their_names() {
    let config = with_store(
        CMQ,
        &[
            ("queue", "queue = \"mps-{account_id}\"\ndead_letter_queue = \"dead-{account_id}\""),
            ("configuration", "topic = \"{account_id}-events\""),
        ],
    )
    .unwrap();
    let Store::Remote(Remote { at, protocol: Protocol::Cmq(cmq) }) = &config.stores["other"] else { panic!("{:?}", config.stores) };
    assert_eq!(at, "cmq://ap-singapore,eu-frankfurt");
    assert_eq!((cmq.regions.join(" "), cmq.looks_apart.as_secs()), ("ap-singapore eu-frankfurt".to_owned(), 60));
    assert_eq!(cmq.secret_key.expose_secret(), "hunter2");
    assert!(!format!("{config:?}").contains("hunter2"));
    let queue = &config.data_classes[1].remote[0];
    assert_eq!(queue.name, "other/mps-{account_id}");
    let Place::Cmq { topic: false, name, dead_letter_queue: Some(dead) } = &queue.place else { panic!("{queue:?}") };
    assert_eq!((name.of("Zoe_1").unwrap(), dead.of("Zoe_1").unwrap()), ("mps-Zoe_1".to_owned(), "dead-Zoe_1".to_owned()));
    let topic = &config.data_classes[0].remote[0];
    assert!(matches!(topic.place, Place::Cmq { topic: true, dead_letter_queue: None, .. }));
    assert_eq!(queue.place.terms().table, "queue mps-{account_id} with dead letters in dead-{account_id}");
    assert_eq!(topic.place.terms().table, "topic {account_id}-events");

    let filed = CMQ.replace("secret_key = \"hunter2\"", "secret_key_file = \"/no/such/file\"");
    assert!(faults(with_store(&filed, &[]))[0].contains("cannot be read"));
    let here = CMQ.replace("https://TDMQ.intl.tencentcloudapi.com/", "http://127.0.0.1:8080");
    assert!(with_store(&here, &[]).is_ok());
}

#[test]
fn r8_an_account_that_no_queue_can_be_named_after_has_none() {
    let name = Named::parse("mps-{account_id}").unwrap();
    for account in ["a", "A-1_b", &"x".repeat(60)] {
        assert_eq!(name.of(account).unwrap(), format!("mps-{account}"));
    }
    for account in ["", "a b", "a/b", "..", "a.b", "é", "a\n", "a-dlq", "a-RETRY", &"x".repeat(61)] {
        assert!(name.of(account).is_err(), "{account:?}");
    }
    let bare = Named::parse("{account_id}-events").unwrap();
    assert!(bare.of("a1").is_ok() && bare.of("1a").is_err() && bare.of("-a").is_err());
}

#[test]
fn every_mistake_about_queues_is_named_with_its_remedy() {
    let mps = "queue = \"mps-{account_id}\"";
    let both = |queue: &str, configuration: &str| vec![("queue", queue.to_owned()), ("configuration", configuration.to_owned())];
    let one = |queue: &str| vec![("queue", queue.to_owned())];
    let store = |from: &str, to: &str| {
        assert!(CMQ.contains(from));
        CMQ.replace(from, to)
    };
    for (store, targets, words) in [
        (store("regions = [\"ap-singapore\", \"eu-frankfurt\"]", ""), vec![], "regions: is missing"),
        (store("\"eu-frankfurt\"", "\"Frankfurt\""), vec![], "\"Frankfurt\" is no region"),
        (store("https", "http"), vec![], "http is for this machine alone"),
        (store("https://TDMQ", "https://u:hunter2@TDMQ"), vec![], "endpoint: is no endpoint"),
        (store("com/", "com/v2"), vec![], "endpoint: is no endpoint"),
        (store("https://", "ftp://"), vec![], "endpoint: is no endpoint"),
        (store("secret_id = \"AKID1\"", ""), vec![], "secret_id: is missing"),
        (store("AKID1", "AK/ID"), vec![], "secret_id: is no id of a key"),
        (store("secret_key = \"hunter2\"", ""), vec![], "as secret_key_file"),
        (format!("{CMQ}\ntoken = \"hunter2\""), vec![], "unknown key"),
        (CMQ.to_owned(), one("table = \"x\""), "which queue or topic holds it?"),
        (CMQ.to_owned(), one(&format!("{mps}\ntopic = \"t-{{account_id}}\"")), "a target is one of them"),
        (CMQ.to_owned(), one("queue = \"mps\""), "must hold {account_id} exactly once"),
        (CMQ.to_owned(), one("queue = \"{account_id}{account_id}\""), "must hold {account_id} exactly once"),
        (CMQ.to_owned(), one("queue = \"mps.{account_id}\""), "is no name"),
        (CMQ.to_owned(), one("queue = \"1-{account_id}\""), "is no name"),
        (CMQ.to_owned(), one("queue = \"mps-{account_id}-DLQ\""), "which the service keeps for itself"),
        (CMQ.to_owned(), one("topic = \"t-{account_id}\"\ndead_letter_queue = \"d-{account_id}\""), "a topic has none"),
        // Account "x-dead" has the first name, and so has account "x" the second.
        (CMQ.to_owned(), one(&format!("{mps}\ndead_letter_queue = \"mps-{{account_id}}-dead\"")), "could be the queue of another account"),
        (CMQ.to_owned(), both(mps, "queue = \"MPS-{account_id}-x\""), "nothing tells their records apart"),
        (
            CMQ.to_owned(),
            both(mps, "queue = \"q-{account_id}\"\ndead_letter_queue = \"mps-dead-{account_id}\""),
            "nothing tells their records apart",
        ),
        (CMQ.to_owned(), both(mps, "topic = \"mps-{account_id}\""), "names two places"),
    ] {
        let targets: Vec<(&str, &str)> = targets.iter().map(|(class, target)| (*class, target.as_str())).collect();
        let found = faults(with_store(&store, &targets));
        assert!(found.iter().any(|fault| fault.contains(words)), "{targets:?}: wanted {words}\nfound {found:#?}");
        assert!(!format!("{found:?}").contains("hunter2"), "{found:?}");
    }
    assert!(with_store(CMQ, &[("queue", mps), ("configuration", "topic = \"t-{account_id}\"")]).is_ok());
    assert!(with_store(CMQ, &[("queue", mps), ("configuration", "queue = \"mps2-{account_id}\"")]).is_ok());
}

#[test]
fn i4_the_customers_queues_are_protected_in_every_spelling() {
    let with = |place: &str| {
        let rules = SHIPPED.replacen("\"media_objects\"]", &format!("\"media_objects\", \"{place}\"]"), 1);
        let queue = "[[data_classes.targets]]\nstore = \"platform\"\ntable = \"queue_messages\"";
        let target = format!(
            "[[data_classes.targets]]\nstore = \"other\"\nqueue = \"mps-{{account_id}}\"\ndead_letter_queue = \"dead-{{account_id}}\"\n\n{queue}"
        );
        let rules = format!("{}\n[stores.other]\n{CMQ}\n[stores.twin]\n{CMQ}\n", rules.replacen(queue, &target, 1));
        config::parse(&[("all", &rules), ("mine", MINE)], &BTreeMap::new(), Needs::Database)
    };
    for place in ["other/mps-media", "other/MPS-media", "twin/mps-media", "other/mps-{account_id}", "other/{account_id}-x", "other/dead-x"]
    {
        let found = faults(with(place));
        assert!(found.iter().any(|fault| fault.contains("under the customer's control")), "{place}: {found:?}");
    }
    for place in ["other/mps-", "other/media-x", "other/media-{account_id}"] {
        assert!(with(place).is_ok(), "{place}: {:?}", with(place));
    }
    assert!(faults(with("platform/mps-media"))[0].contains("is neither a table nor store/table"));
}

#[test]
fn i4_two_stores_that_are_one_in_part_are_refused() {
    let fs = |root: &str| format!("kind = \"objects\"\nservice = \"fs\"\nroot = \"{root}\"");
    let mongodb = |hosts: &str| format!("kind = \"mongodb\"\nurl = \"mongodb://{hosts}/m\"");
    let cmq = |regions: &str| {
        format!(
            "kind = \"cmq\"\nendpoint = \"https://tdmq.intl.tencentcloudapi.com\"\nregions = [{regions}]\nsecret_id = \"i\"\nsecret_key = \"k\""
        )
    };
    let with = |one: String, two: String| with_store(&format!("{one}\n[stores.second]\n{two}"), &[]);
    for (one, two, key) in [
        (fs("/srv/a"), fs("/srv/a/b"), "root"),
        (fs("/srv/a/b"), fs("/srv/a"), "root"),
        (mongodb("127.0.0.1,127.0.0.1:2"), mongodb("127.0.0.1:2,127.0.0.1:3"), "url"),
        (cmq("\"ap-tokyo\""), cmq("\"ap-seoul\", \"ap-tokyo\""), "regions"),
    ] {
        let found = faults(with(one, two));
        assert!(found[0].starts_with(&format!("stores.second.{key}: ")) && found[0].contains("of stores.other"), "{found:?}");
    }
    for (one, two) in [
        (fs("/srv/a"), fs("/srv/ab")),
        (fs("/srv/a"), fs("/srv/a")),
        (mongodb("127.0.0.1:2"), mongodb("127.0.0.1:3")),
        (cmq("\"ap-tokyo\""), cmq("\"ap-seoul\"")),
        (cmq("\"ap-tokyo\", \"ap-seoul\""), cmq("\"ap-seoul\", \"ap-tokyo\"")),
        (mongodb("127.0.0.1:2,127.0.0.1:3"), mongodb("127.0.0.1:3,127.0.0.1:2")),
    ] {
        assert!(with(one.clone(), two.clone()).is_ok(), "{one}, {two}");
    }
    let elsewhere = with(mongodb("127.0.0.1:2"), mongodb("127.0.0.1:2").replace("/m", "/n"));
    assert!(elsewhere.is_ok(), "another database");
}
