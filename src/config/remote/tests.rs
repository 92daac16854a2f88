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
