//! Words that must not be in the log or the metrics are put wherever data comes from, and searched for in everything the program says.

use std::process::Output;

use serde_json::Value;
use sqlx::Connection;

use crate::{
    metrics::{free_port, scrape},
    world::{Daemon, World, until},
};

const OLD: &str = "now() - interval '31 days'";
/// Part of each account's id.
const ACCOUNT: &str = "kanarienvogel";
/// Part of each record, notice and secret.
const CONTENT: &str = "zaunkoenig";
const KEY: &str = "zaunkoenig-0123456789";

fn id(what: &str) -> String {
    format!("{ACCOUNT}-{what}")
}

fn said(output: &Output) -> String {
    String::from_utf8([output.stdout.as_slice(), output.stderr.as_slice()].concat()).unwrap()
}

/// The database's password, where the tests' own server asks for one.
fn password(world: &World) -> &str {
    let user = world.url.split_once("://").and_then(|(_, rest)| rest.rsplit_once('@')).map_or("", |(user, _)| user);
    user.split_once(':').map(|(_, password)| password).filter(|password| password.len() > 8).unwrap_or(KEY)
}

/// An account in every state there is, and everything that can go wrong with one.
async fn aviary() -> (World, u16) {
    let mut world = World::new().await;
    let port = free_port();
    world
        .set("HTTP__OPS_LISTEN", &format!("127.0.0.1:{port}"))
        .set("POLL__INTERVAL", "100ms")
        .set("POLL__RESYNC_INTERVAL", "500ms")
        .set("VERIFIER__INTERVAL", "500ms")
        .set("EXECUTOR__MAX_BACKOFF", "1s");
    for what in ["dead", "locked", "failing", "unique", "value", "held", "paused", "back"] {
        world.account(&id(what), "null", OLD, "null").await;
    }
    world.account(&id("late"), "null", "now() - interval '90 days'", "null").await;
    world.account(&id("wrong"), "null", "'infinity'", "null").await;
    world.account(&id("gone"), "null", "null", "null").await;
    world.account(&id("asked"), "null", "null", "null").await;
    world.data(&id("orphan")).await;
    world
        .sql(&format!(
            "update template_configurations set parameters = '{{\"a\": \"{CONTENT}\"}}';
             create table once (account_id text unique); insert into once values ('{unique}');
             create function speak() returns trigger language plpgsql as $$ declare n integer; begin
               raise notice 'the record of % is {CONTENT}', old.account_id;
               if old.account_id in ('{failing}', '{late}') then
                 raise exception 'the {CONTENT} of % is on fire', old.account_id using detail = old.account_id, hint = old.account_id;
               elsif old.account_id = '{value}' then n := old.account_id::integer;
               elsif old.account_id = '{unique}' then insert into once values (old.account_id); end if;
               return old; end $$;
             create trigger speak before delete on template_configurations for each row execute function speak()",
            failing = id("failing"),
            late = id("late"),
            value = id("value"),
            unique = id("unique"),
        ))
        .await;
    (world, port)
}

/// Everything that operators do, with what it says.
fn acts(world: &World) -> String {
    let reason = format!("{} asked for it", id("held"));
    let mut all = String::new();
    for arguments in [
        vec!["hold", "place", "--account", &id("held")],
        vec!["pause", "--account", &id("paused")],
        vec!["request", "--account", &id("asked")],
    ] {
        let output = world.cli(&[&arguments[..], &["--reason", &reason, "--by", "somebody"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        all.push_str(&String::from_utf8(output.stderr).unwrap());
    }
    all
}

/// Runs the daemon until each of these accounts' stories has been told.
async fn told(world: &World, port: u16) -> (Daemon, String) {
    let mut held = world.connect().await;
    let mut holder = held.begin().await.unwrap();
    sqlx::query("select from task_configurations where account_id = $1 for update").bind(id("locked")).execute(&mut *holder).await.unwrap();
    let daemon = world.daemon();
    let seen = |events: &[Value], event: &str| events.iter().filter(|e| e["event"] == event).count();
    until("the purges", async || seen(&daemon.events(), "job.completed") >= 4).await;
    world
        .sql(&format!(
            "delete from feature_subscriptions where account_id = '{0}'; delete from accounts where account_id = '{0}'",
            id("gone")
        ))
        .await;
    world.data(&id("dead")).await;
    let awaited = ["job.failed", "job.overdue", "job.deferred", "record.quarantined", "orphans.found", "source.vanished", "residue.found"];
    until("every story", async || awaited.iter().all(|event| seen(&daemon.events(), event) > 0)).await;
    let failed = |events: &[Value]| {
        let mut accounts: Vec<String> =
            events.iter().filter(|e| e["event"] == "job.failed").map(|e| e["account_id"].as_str().unwrap().to_owned()).collect();
        accounts.sort();
        accounts.dedup();
        accounts.len()
    };
    until("four kinds of failures", async || failed(&daemon.events()) >= 4).await;
    let figures = scrape(port).text;
    assert!(figures.contains("retention_jobs"), "{figures}");
    (daemon, figures)
}

#[tokio::test]
async fn no_account_is_named_in_any_line_or_figure_when_the_log_has_pseudonyms() {
    let (mut world, port) = aviary().await;
    world.set("LOG__ACCOUNT_IDS", "pseudonym").set("LOG__ACCOUNT_KEY", KEY).set("LOG__LEVEL", "debug,sqlx=debug");
    let acts = acts(&world);
    let (daemon, figures) = told(&world, port).await;
    let log = std::fs::read_to_string(&daemon.log).unwrap();
    for (what, text) in [("log", &log), ("metrics", &figures), ("one-shot verbs", &acts)] {
        for word in [ACCOUNT, CONTENT, password(&world)] {
            let line = text.lines().find(|line| line.contains(word));
            assert!(line.is_none(), "{word} is in the {what}: {line:?}");
        }
    }
    // The lines are there, under the name that the verb prints.
    for account in ["dead", "failing", "locked"] {
        let output = world.cli(&["pseudonym", &id(account)]);
        let name = said(&output).trim().to_owned();
        assert!(name.starts_with("a~") && name.len() == 18, "{name}");
        assert!(daemon.events().iter().any(|e| e["account_id"] == name.as_str()), "{account}");
    }
    let orphan = said(&world.cli(&["pseudonym", &id("orphan")]));
    assert!(daemon.events().iter().any(|e| e["examples"] == orphan.trim()), "examples are ids too");
}

#[tokio::test]
async fn no_record_and_no_secret_is_in_any_line_or_figure() {
    let (mut world, port) = aviary().await;
    // What a trigger says in an error is the platform's word, and is repeated.
    world.sql("drop trigger speak on template_configurations").await;
    world
        .sql(&format!(
            "create function quiet() returns trigger language plpgsql as $$ begin
               raise notice 'this is {CONTENT}';
               if old.account_id in ('{0}', '{1}', '{2}', '{3}') then raise exception 'no' using detail = '{CONTENT}', hint = '{CONTENT}'; end if;
               return old; end $$;
             create trigger quiet before delete on template_configurations for each row execute function quiet()",
            id("failing"),
            id("late"),
            id("unique"),
            id("value")
        ))
        .await;
    world.set("LOG__LEVEL", "debug");
    let acts = acts(&world);
    let (daemon, figures) = told(&world, port).await;
    let log = std::fs::read_to_string(&daemon.log).unwrap();
    for (what, text) in [("log", &log), ("metrics", &figures), ("one-shot verbs", &acts)] {
        for word in [CONTENT, password(&world)] {
            let line = text.lines().find(|line| line.contains(word));
            assert!(line.is_none(), "{word} is in the {what}: {line:?}");
        }
    }
    assert!(!figures.contains(ACCOUNT), "never a label per account");
    let plain = world.cli(&["pseudonym", &id("dead")]);
    assert!(said(&plain).contains("log.account_ids is \"plain\""), "{}", said(&plain));
    // An account is named in its own fields, and in what others said about it.
    for line in daemon.events() {
        for (field, value) in line.as_object().unwrap() {
            let own = matches!(field.as_str(), "account_id" | "examples" | "error" | "last_error");
            assert!(own || !value.to_string().contains(ACCOUNT), "{field}: {line}");
        }
    }
}
