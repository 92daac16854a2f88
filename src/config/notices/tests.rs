//! Endpoints as they may and may not be written down.

use std::{collections::BTreeMap, time::Duration};

use secrecy::ExposeSecret;

use crate::config::{Config, Needs, SHIPPED, TYPES, parse};

const KEY: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX";

fn read(more: &str, needs: Needs) -> Result<Config, String> {
    let mine = format!("mode = \"enforce\"\n[database]\nurl = \"postgres://db/p\"\n{more}");
    parse(&[("shipped", SHIPPED), ("mine", &mine)], &BTreeMap::new(), needs).map_err(|invalid| invalid.to_string())
}

fn with(more: &str) -> Result<Config, String> {
    read(&format!("[[notices]]\nname = \"one\"\n{more}"), Needs::Database)
}

fn url(url: &str) -> Result<Config, String> {
    with(&format!("url = \"{url}\"\nsecret = \"{KEY}\""))
}

#[test]
fn what_is_not_said_has_its_default() {
    let config = url("https://platform.example/in?token=t").unwrap();
    let [one] = config.notices.as_slice() else { panic!("{:?}", config.notices) };
    assert_eq!((one.name.as_str(), one.host.as_str(), one.allow_private), ("one", "platform.example", false));
    assert_eq!(one.types, TYPES);
    assert_eq!(one.due_soon, [Duration::from_hours(168), Duration::from_hours(24)]);
    assert_eq!(one.give_up_after, Duration::from_hours(72));
    let key: Vec<u8> = (0..24).collect();
    assert_eq!(one.secrets.iter().map(ExposeSecret::expose_secret).collect::<Vec<_>>(), [key.as_slice()]);
    assert_eq!(config.records.keep_notices, Some(Duration::from_hours(30 * 24)));
    assert!(read("", Needs::Database).unwrap().notices.is_empty());
}

#[test]
fn an_address_must_be_one_that_can_be_told_and_is_never_repeated() {
    for (address, why) in [
        ("ftp://x.example/CANARY", "must start with https://"),
        ("http://x.example/CANARY", "must start with https://"),
        ("https://user:CANARY@x.example/", "holds a user or a password"),
        ("https:///CANARY", "names no host"),
        ("https://x.example/#CANARY", "bare #"),
        ("https://x.example/CA NARY", "holds a space"),
        ("https://x.example\\\\@10.0.0.1/CANARY", "backslash"),
        ("https://10.0.0.1/CANARY", "allow_private"),
        ("https://[fd00::1]/CANARY", "allow_private"),
        ("https://169.254.169.254/CANARY", "allow_private"),
        ("http://127.0.0.1/CANARY", "allow_private"),
        ("http://localhost:80/CANARY", "allow_private"),
    ] {
        let said = url(address).unwrap_err();
        assert!(said.contains("notices[one].url: ") && said.contains(why), "{address}: {said}");
        assert!(!said.contains("CANARY"), "{said}");
    }
    for (address, host) in [("http://[::1]:81/in", "[::1]"), ("http://localhost/in", "localhost"), ("https://10.0.0.1/in", "10.0.0.1")] {
        let config = with(&format!("url = \"{address}\"\nsecret = \"{KEY}\"\nallow_private = true")).unwrap();
        assert_eq!(config.notices[0].host, host);
    }
}

#[test]
fn secrets_are_judged_and_never_repeated() {
    let secret = |spelt: &str| with(&format!("url = \"https://x.example\"\n{spelt}"));
    let ([short, least, most, long], other) = (
        [23, 24, 64, 65].map(|bytes| {
            use base64::{Engine, prelude::BASE64_STANDARD};
            format!("whsec_{}", BASE64_STANDARD.encode(vec![7; bytes]))
        }),
        "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    );
    for (spelt, why) in [
        (format!("secret = \"{short}\""), "has 23 bytes, and must have 24 to 64"),
        (format!("secret = \"{long}\""), "has 65 bytes"),
        ("secret = \"CANARY\"".to_owned(), "must start with whsec_"),
        ("secret = \"whsec_CANARY!\"".to_owned(), "is not base64 after whsec_"),
        (format!("secret = [\"{least}\", \"{least}\"]"), "a list of different ones"),
        ("secret = []".to_owned(), "a list of different ones"),
        (format!("secret = \"{least}\"\nsecret_file = \"/x\""), "secret is set too"),
        ("secret_file = \"/nowhere/CANARY\"".replace("CANARY", "x"), "cannot be read"),
        (String::new(), "notices[one].secret: is missing"),
    ] {
        let said = secret(&spelt).unwrap_err();
        assert!(said.contains(why), "{spelt}: {said}");
        assert!(!said.contains("CANARY") && !said.contains(&least), "{said}");
    }
    assert_eq!(secret(&format!("secret = [\"{least}\", \"{most}\", \"{other}\"]")).unwrap().notices[0].secrets.len(), 3);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{least}\n")).unwrap();
    assert_eq!(secret(&format!("secret_file = [\"{}\"]", file.path().display())).unwrap().notices[0].secrets.len(), 1);
    // Whoever sends nothing reads no file.
    let offline = read("[[notices]]\nname = \"one\"\nurl_file = \"/nowhere\"\nsecret_file = \"/nowhere\"", Needs::Nothing).unwrap();
    assert!(offline.notices[0].secrets.is_empty());
}

#[test]
fn every_other_key_says_what_it_takes() {
    for (spelt, why) in [
        ("types = [\"retention.purge\"]", "\"retention.purge\" is no type of notice; there are retention.purge.scheduled"),
        ("due_soon = [\"30s\"]", "30s is less than a minute"),
        ("due_soon = \"7d\"", "must be a list"),
        ("due_soon = [\"7\"]", "has no unit"),
        ("give_up_after = \"59s\"", "59s is less than 1m"),
        ("give_up_after = \"31d\"", "records.keep_notices: 30days is shorter than a give_up_after of 1month"),
        ("allow_private = \"yes\"", "must be true or false"),
        ("typos = 1", "unknown key"),
    ] {
        let said = with(&format!("url = \"https://x.example\"\nsecret = \"{KEY}\"\n{spelt}")).unwrap_err();
        assert!(said.contains(why), "{spelt}: {said}");
    }
    let sorted =
        with(&format!("url = \"https://x.example\"\nsecret = \"{KEY}\"\ndue_soon = [\"1d\", \"1w\", \"24h\"]\ngive_up_after = \"30d\""))
            .unwrap();
    assert_eq!(sorted.notices[0].due_soon, [Duration::from_hours(168), Duration::from_hours(24)]);
    assert!(with(&format!("url = \"https://x.example\"\nsecret = \"{KEY}\"\ndue_soon = []")).unwrap().notices[0].due_soon.is_empty());
    let named = |name: &str| format!("[[notices]]\nname = \"{name}\"\nurl = \"https://x.example\"\nsecret = \"{KEY}\"\n");
    assert!(read(&named("Big"), Needs::Database).unwrap_err().contains("is no name"));
    let twice = read(&(named("one") + &named("one")), Needs::Database).unwrap_err();
    assert!(twice.contains("\"one\" is the name of two endpoints"), "{twice}");
}
