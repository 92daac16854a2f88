//! What a store of objects and a prefix may say.

use std::collections::BTreeMap;

use secrecy::ExposeSecret;

use super::*;
use crate::config::{self, Config, Invalid, SHIPPED, Store};

const COS: &str =
    "service = \"cos\"\nregion = \"ap-singapore\"\nbucket = \"mps-1250000000\"\naccess_key_id = \"id\"\nsecret_access_key = \"hunter2\"\n";
const S3: &str =
    "service = \"s3\"\nregion = \"eu-west-1\"\nbucket = \"backups\"\naccess_key_id = \"id\"\nsecret_access_key = \"hunter2\"\n";

/// The shipped configuration with a store `backups` that says this, and a target in it for each prefix.
fn with(store: &str, prefixes: &[&str], places: &str) -> Result<Config, Invalid> {
    let queue = "[[data_classes.targets]]\nstore = \"platform\"\ntable = \"queue_messages\"\n";
    let targets: Vec<String> =
        prefixes.iter().map(|prefix| format!("[[data_classes.targets]]\nstore = \"backups\"\nprefix = \"{prefix}\"\n\n")).collect();
    let targets = targets.concat();
    assert!(SHIPPED.contains(queue));
    let shipped = SHIPPED.replacen(queue, &format!("{targets}{queue}"), 1).replacen("places = [\"media_objects\"]", places, 1);
    let all = format!("mode = \"observe\"\n{shipped}\n[stores.backups]\nkind = \"objects\"\n{store}");
    let environment = BTreeMap::from([("DATABASE_URL".to_owned(), "postgres://127.0.0.1/d".to_owned())]);
    config::parse(&[("all", &all)], &environment, Needs::Database)
}

fn bucket(store: &str) -> Bucket {
    let config = with(store, &[], "places = [\"media_objects\"]").unwrap();
    match &config.stores["backups"] {
        Store::Remote(Remote { protocol: Protocol::Objects(Objects::Bucket(bucket)), .. }) => bucket.clone(),
        other @ (Store::MainPostgres | Store::Remote(_)) => panic!("{other:?}"),
    }
}

#[test]
fn a_bucket_is_reached_by_its_service_with_tls_unless_it_is_spelt_otherwise() {
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    let endpoint = |store: &str, endpoint: &str| bucket(&format!("{store}endpoint = \"{endpoint}\"\n"));
    assert_eq!(bucket(COS).address(), pair("https://mps-1250000000.cos.ap-singapore.myqcloud.com", "/"));
    assert_eq!(bucket(S3).address(), pair("https://backups.s3.eu-west-1.amazonaws.com", "/"));
    assert_eq!(bucket(&S3.replace("\"backups\"", "\"back.ups\"")).address(), pair("https://s3.eu-west-1.amazonaws.com", "/back.ups/"));
    for (given, address, clear) in [
        ("https://backups.cos.ap-singapore.myqcloud.com/", pair("https://backups.cos.ap-singapore.myqcloud.com", "/"), false),
        ("minio:9000", pair("https://minio:9000", "/backups/"), false),
        ("http://minio:9000", pair("http://minio:9000", "/backups/"), true),
        ("http://10.0.0.1:80/", pair("http://10.0.0.1", "/backups/"), true),
        ("127.0.0.1:9000", pair("http://127.0.0.1:9000", "/backups/"), false),
        ("http://[::1]:9000", pair("http://[::1]:9000", "/backups/"), false),
        ("https://LOCALHOST:443", pair("https://localhost", "/backups/"), false),
    ] {
        let bucket = endpoint(S3, given);
        assert_eq!((bucket.address(), bucket.in_the_clear()), (address, clear), "{given}");
    }
    assert_eq!(endpoint(COS, "http://127.0.0.1:1").address(), pair("http://127.0.0.1:1", "/mps-1250000000/"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    std::fs::write(&file, "filed\n").unwrap();
    let filed = bucket(&COS.replace("secret_access_key = \"hunter2\"", &format!("secret_access_key_file = {file:?}")));
    assert_eq!(filed.secret_access_key.expose_secret(), "filed");
    assert!(!format!("{:?}", bucket(COS)).contains("hunter2"));
}

#[test]
fn each_mistake_in_a_store_of_objects_is_named_with_its_remedy() {
    for (from, to, key, words) in [
        ("service = \"cos\"", "", "service", "write \"cos\", \"s3\", or \"fs\""),
        ("service = \"cos\"", "service = \"azure\"", "service", "is not one of \"s3\", \"cos\", \"fs\""),
        ("region = \"ap-singapore\"", "", "region", "is missing"),
        ("\"ap-singapore\"", "\"a/b\"", "region", "holds more than letters"),
        ("bucket = \"mps-1250000000\"", "", "bucket", "is missing"),
        ("mps-1250000000", "mps", "bucket", "write it like \"mps-1250000000\""),
        ("access_key_id = \"id\"", "", "access_key_id", "access_key_id_file"),
        ("secret_access_key = \"hunter2\"", "", "secret_access_key", "secret_access_key_file"),
        (
            "secret_access_key = \"hunter2\"",
            "secret_access_key = \"hunter2\"\nsecret_access_key_file = \"/x\"",
            "secret_access_key_file",
            "keep one",
        ),
        ("region", "endpoint = \"https://id:hunter2@h\"\nregion", "endpoint", "without a path or a password"),
        ("region", "endpoint = \"https://h/hunter2\"\nregion", "endpoint", "without a path"),
        ("region", "endpoint = \"ftp://h\"\nregion", "endpoint", "must be like"),
        ("region", "root = \"/x\"\nregion", "root", "unknown key"),
    ] {
        assert!(COS.contains(from));
        let found = with(&COS.replacen(from, to, 1), &[], "places = [\"media_objects\"]").unwrap_err();
        let start = format!("stores.backups.{key}: ");
        let found: Vec<String> = found.faults.iter().map(ToString::to_string).collect();
        assert!(found.iter().any(|fault| fault.starts_with(&start) && fault.contains(words)), "{to}: {found:#?}");
        assert!(!format!("{found:?}").contains("hunter2"), "{found:#?}");
    }
    for (root, sound) in [("/srv/objects", true), ("srv", false), ("/", false), ("/srv/../x", false)] {
        let read = with(&format!("service = \"fs\"\nroot = \"{root}\"\n"), &["b/{account_id}/"], "places = [\"media_objects\"]");
        assert_eq!(read.is_ok(), sound, "{root}: {read:?}");
    }
}

#[test]
fn a_prefix_holds_the_account_once_in_a_part_of_its_own() {
    let target = |prefix: &str| with(COS, &[prefix], "places = [\"media_objects\"]");
    for prefix in ["backups/{account_id}/", "backups/mps-{account_id}/daily/", "b c/ä-{account_id}-x/"] {
        let config = target(prefix).unwrap();
        let of_queue = &config.data_classes[1].remote[0];
        assert_eq!(
            (of_queue.name.as_str(), &of_queue.place),
            (format!("backups/{prefix}").as_str(), &super::super::Place::Prefix { prefix: prefix.to_owned() })
        );
    }
    for (prefix, words) in [
        ("backups/{account_id}", "must end in \"/\""),
        ("backups/", "does not hold {account_id}"),
        ("{account_id}/{account_id}/", "more than once"),
        ("/{account_id}/", "an empty part"),
        ("a//{account_id}/", "an empty part"),
        ("a/../{account_id}/", "an empty part, ., .."),
        ("{account_id}/./", "an empty part, ., .."),
        ("a/{account_id}/{feature}/", "only {account_id} stands for something"),
    ] {
        let found = target(prefix).unwrap_err().to_string();
        assert!(found.contains("data_classes[mps/queue].targets[0].prefix: ") && found.contains(words), "{prefix}: {found}");
    }
    let no_prefix = with(COS, &[""], "places = [\"media_objects\"]").unwrap_err().to_string();
    assert!(no_prefix.contains("targets[0].prefix: must not be empty"), "{no_prefix}");
}

#[test]
fn places_of_the_customer_and_other_targets_are_refused_in_every_spelling() {
    let refused = |prefix: &str, places: &str| {
        let found = with(COS, &[prefix], &format!("places = [\"media_objects\", \"{places}\"]"));
        found.is_err_and(|found| found.to_string().contains("is under the customer's control (mps/media) and can never be a target"))
    };
    for (prefix, place) in [
        ("backups/{account_id}/", "backups/backups/"),
        ("backups/{account_id}/", "backups//backups//"),
        ("backups/{account_id}/", "backups/backups/a1/videos/"),
        ("backups/{account_id}/", "backups/backups/{account_id}/videos/"),
        ("backups/{account_id}/", "backups/"),
        ("media/{account_id}/old/", "backups/media/"),
        ("media_objects/{account_id}/", "x"),
        ("{account_id}/old/", "backups/videos/"),
        ("m-{account_id}-x/", "backups/m-1-x/y/"),
    ] {
        assert!(refused(prefix, place), "{prefix}: {place}");
    }
    for (prefix, place) in
        [("backups/{account_id}/", "backups/media/"), ("m-{account_id}-x/", "backups/m--x/"), ("a/{account_id}/b/", "backups/a/1/c/")]
    {
        assert!(with(COS, &[prefix], &format!("places = [\"{place}\"]")).is_ok(), "{prefix}: {place}");
    }
    let unended = with(COS, &["b/{account_id}/"], "places = [\"backups/media\"]").unwrap_err().to_string();
    assert!(unended.contains("\"backups/media\" must end in \"/\""), "{unended}");
    for (one, other, overlap) in [
        ("a/{account_id}/", "a/{account_id}/x/", true),
        ("a/{account_id}/", "a/x/{account_id}/", true),
        ("a/{account_id}-x/", "a/y-{account_id}/", true),
        ("a/{account_id}-x/", "a/{account_id}-y/", false),
        ("a/{account_id}/", "b/{account_id}/", false),
    ] {
        let found = with(COS, &[one, other], "places = [\"platform/media_objects\"]");
        assert_eq!(found.is_err_and(|found| found.to_string().contains("nothing tells their records apart")), overlap, "{one}: {other}");
    }
}
