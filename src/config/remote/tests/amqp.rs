//! A broker and its queues, as they are written down.

use super::*;

#[test]
fn a_broker_and_its_queues_are_read() {
    let at = |url: &str| {
        let config = with_store(&format!("kind = \"amqp\"\nurl = \"{url}\""), &[("queue", "queue = \"mps.{account_id}\"")]).unwrap();
        let queue = &config.data_classes[1].remote[0];
        assert_eq!(queue.name, "other/mps.{account_id}");
        assert_eq!(queue.place, Place::Queue { queue: "mps.{account_id}".to_owned() });
        let Store::Remote(Remote { at, protocol: Protocol::Amqp(given) }) = &config.stores["other"] else { panic!("{:?}", config.stores) };
        assert_eq!(given.expose_secret(), url);
        at.clone()
    };
    for same in ["amqps://u:p@Broker", "amqps://broker/%2f", "amqps://v@broker:5671/%2F?heartbeat=5"] {
        assert_eq!(at(same), "amqps://broker:5671//");
    }
    assert_eq!(at("amqp://127.0.0.1/m%70s"), "amqp://127.0.0.1:5672/mps");
}

#[test]
fn what_is_wrong_with_a_broker_or_a_queue_is_said_with_its_remedy() {
    const QUEUE: &str = "queue = \"mps.{account_id}\"";
    for (url, words) in [
        ("postgres://hunter2@db", "must start with amqps://"),
        ("amqp://u:hunter2@broker/%2f", "write amqps://"),
        ("amqp://u:hunter2@10.0.0.1", "write amqps://"),
        ("amqps://u:hunter2@[2001:db8::1]", "write a name or an IPv4 address"),
        ("amqps://u:hunter2@", "write a name or an IPv4 address"),
        ("amqps://u:hunter2@broker/", "leave it out, or write /%2f"),
        ("amqps://u:hunter2@broker//", "write it as %2f"),
        ("amqps://u:hunter2@broker?verify=verify_none", "has an unknown parameter \"verify\""),
        ("amqps://u:hunter2#@broker", "write it as %23"),
    ] {
        let found = faults(with_store(&format!("kind = \"amqp\"\nurl = \"{url}\""), &[("queue", QUEUE)]));
        assert!(found[0].starts_with("stores.other.url: ") && found[0].contains(words), "{url}: {found:?}");
        assert!(!format!("{found:?}").contains("hunter2"));
    }
    let long = format!("queue = \"{{account_id}}{}\"", "x".repeat(250));
    let broker = |targets: &[(&str, &str)]| faults(with_store("kind = \"amqp\"\nurl = \"amqp://127.0.0.1\"", targets));
    for (queue, words) in [
        ("queue = \"mps\"", "is one place for all accounts: write {account_id}"),
        ("queue = \"{account_id}.{account_id}\"", "keep one of them"),
        ("queue = \"mps\\n{account_id}\"", "holds a control character"),
        ("queue = \"amq.{account_id}\"", "the broker's own"),
        (long.as_str(), "is longer than the 255 bytes"),
        ("table = \"a\"", "write queue = \"mps.{account_id}\""),
        ("queue = \"{account_id}_objects\"", "is under the customer's control"),
        ("queue = \"media_{account_id}\"", "is under the customer's control"),
    ] {
        let found = broker(&[("queue", queue)]).join("\n").to_lowercase();
        assert!(found.contains(&words.to_lowercase()), "{queue}: {found}");
    }
    // An account `7.dead` may come tomorrow.
    let two = [("queue", QUEUE), ("configuration", "queue = \"mps.{account_id}.dead\"")];
    assert!(broker(&two)[0].contains("nothing tells their records apart"));
    let apart = [("queue", QUEUE), ("configuration", "queue = \"mps-dead.{account_id}\"")];
    assert!(with_store("kind = \"amqp\"\nurl = \"amqp://127.0.0.1\"", &apart).is_ok());
}
