//! A MongoDB and its collections, as they are written down.

use super::*;

const TARGET: &str = "collection = \"Tasks\"\naccount_field = \"owner.id\"";

#[test]
fn a_database_of_documents_and_its_collections_are_read() {
    let read = |url: &str| {
        let config = with_store(&format!("kind = \"mongodb\"\nurl = \"{url}\""), &[("queue", TARGET)]).unwrap();
        let queue = &config.data_classes[1].remote[0];
        assert_eq!(queue.name, "other/Tasks");
        assert_eq!(queue.place, Place::Collection { collection: "Tasks".to_owned(), account_field: "owner.id".to_owned() });
        let Store::Remote(Remote { at, protocol: Protocol::Mongodb(given) }) = &config.stores["other"] else {
            panic!("{:?}", config.stores)
        };
        (given.expose_secret().to_owned(), at.clone())
    };
    // Off this machine there is TLS, unless the address says what it wants.
    for (url, tls) in [
        ("mongodb://u:p@docs/media", "?tls=true"),
        ("mongodb://docs/media?replicaSet=r", "&tls=true"),
        ("mongodb://127.0.0.1,docs/media", "?tls=true"),
        ("mongodb://127.0.0.1:27018,localhost,[::1]:1,%2Frun%2Fm.sock/media", ""),
        ("mongodb://docs/media?ssl=true", ""),
        ("mongodb://docs/media?w=1&TLS=false", ""),
        ("mongodb+srv://docs/media", ""),
    ] {
        assert_eq!(read(url).0, format!("{url}{tls}"));
    }
    let (_, at) = read("mongodb://u:p@B,a:27018/media?tls=true");
    assert_eq!(at, "mongodb://a:27018,b:27017/media");
    assert_eq!(at, read("mongodb://a:27018,b/media").1);
    assert_ne!(at, read("mongodb://a:27018,b/other").1);
}

#[test]
fn what_is_wrong_with_a_database_of_documents_is_said_with_its_remedy() {
    for (url, words) in [
        ("postgres://hunter2@db", "must start with mongodb:// or mongodb+srv://"),
        ("mongodb://u:hunter2@docs", "write it after the hosts, like mongodb://host/DATABASE"),
        ("mongodb://u:hunter2@docs/?tls=true", "write it after the hosts, like mongodb://host/DATABASE"),
        ("mongodb://u:hunter2@a,,b/media", "names no host"),
        ("mongodb://u:hunter2#@docs/media", "write it as %23"),
    ] {
        let found = faults(with_store(&format!("kind = \"mongodb\"\nurl = \"{url}\""), &[("queue", TARGET)]));
        assert!(found[0].starts_with("stores.other.url: ") && found[0].contains(words), "{url}: {found:?}");
        assert!(!format!("{found:?}").contains("hunter2"));
    }
    let of = |collection: &str, field: &str| format!("collection = \"{collection}\"\naccount_field = \"{field}\"");
    for (target, words) in [
        ("account_field = \"a\"".to_owned(), "which collection holds it?"),
        ("collection = \"a\"".to_owned(), "which field of a document names the account?"),
        (of("a$b", "x"), "is no name of a collection"),
        (of("system.users", "x"), "the server's own"),
        (of("a", "$where"), "is no name of a field"),
        (of("a", "b..c"), "is no name of a field"),
        (of("a", "x") + "\nfeature_column = \"f\"", "unknown key"),
        (of("media_objects", "x"), "is under the customer's control"),
        (of("Media_Objects", "x"), "is under the customer's control"),
    ] {
        let found = faults(with_store("kind = \"mongodb\"\nurl = \"mongodb://127.0.0.1/m\"", &[("queue", &target)])).join("\n");
        assert!(found.contains(words), "{target}: {found}");
    }
    let twice = [("queue", of("a", "x")), ("configuration", of("a", "y"))];
    let twice: Vec<(&str, &str)> = twice.iter().map(|(class, target)| (*class, target.as_str())).collect();
    let found = faults(with_store("kind = \"mongodb\"\nurl = \"mongodb://127.0.0.1/m\"", &twice));
    assert!(found[0].contains("nothing tells their records apart"), "{found:?}");
}
