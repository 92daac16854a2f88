//! Certificates: made from a purge, checked with nothing but the file, and worth nothing once anything in them was touched. And the evidence names nobody.

use std::process::{Command, Output};

use retentiond::certificate::Certificate;
use serde_json::{Value, json};

use crate::world::{World, left};

/// The program on its own: no configuration, no database, no environment.
fn alone(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_retentiond")).env_clear().current_dir("/").args(arguments).output().unwrap()
}

/// Whether a file with this text verifies, and what the program said.
fn verifies(text: &str, more: &[&str]) -> (bool, String) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let output = alone(&[&["certificate", "verify", file.path().to_str().unwrap()], more].concat());
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(matches!(output.status.code(), Some(0 | 3)), "{said}");
    (output.status.success(), said)
}

async fn purged() -> World {
    let world = World::new().await;
    world.account("gone", "now() - interval '30 days 1 hour'", "null", "null").await;
    world.account("other", "now() - interval '30 days 2 hours'", "null", "null").await;
    world.run_passes().await.unwrap();
    world.no_look_comes().await;
    world
}

fn certificate(world: &World, job: &str, more: &[&str]) -> String {
    let output = world.cli(&[&["certificate", job], more].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn a_certificate_says_what_was_done_and_verifies_with_its_file_alone() {
    let world = purged().await;
    let job = world.job("gone", "configuration").await;
    let text = certificate(&world, &job.id, &[]);
    let said: Value = serde_json::from_str(&text).unwrap();
    let statement = &said["statement"];
    assert_eq!(said["account_id"], "gone");
    assert_eq!(statement["outcome"], "completed");
    assert_eq!(statement["in_time"], true);
    assert_eq!(
        statement["targets"],
        json!({"platform/task_configurations": {"records_deleted": 5, "outcome": "deleted"},
               "platform/template_configurations": {"records_deleted": 3, "outcome": "deleted"}})
    );
    assert_eq!(statement["retain_until"], retentiond::model::rfc3339(job.retain_until));
    assert_eq!(statement["ended_at"], retentiond::model::rfc3339(job.completed_at.unwrap()));
    assert!(statement["opened_at"].as_str() <= statement["ended_at"].as_str() && statement["opened_at"].is_string());
    assert_eq!(statement["terms"]["retain_for"], "30d");
    let uncovered = statement["out_of_scope"].to_string();
    assert!(uncovered.contains("media_objects") && uncovered.contains("backups") && uncovered.contains("billing"), "{uncovered}");
    assert_eq!(world.left("gone").await, left(0, 0, 0, 2), "the media it says nothing about is there");

    let (valid, said_of) = verifies(&text, &[]);
    assert!(valid && said_of.contains('8'), "{said_of}");
    let key = said["key"].as_str().unwrap();
    assert!(verifies(&text, &["--key", key]).0);
    let other = retentiond::ledger::generate(None).unwrap().verifier().to_string();
    assert!(!verifies(&text, &["--key", &other]).0);
    let page = certificate(&world, &job.id, &["--page"]);
    assert!(page.starts_with("<!doctype html>") && page.contains("Certificate of deletion"));
    let (valid, said_of) = verifies(&page, &["--key", key]);
    assert!(valid, "{said_of}");
    assert!(!verifies(&page.replacen("<td>deleted</td>", "<td>already gone</td>", 1), &[]).0, "what a person reads is what was proven");
}

/// What somebody does to a certificate, with another one at hand.
type Touch = fn(&mut Value, &Value);

#[tokio::test]
async fn a_certificate_that_was_touched_anywhere_proves_nothing() {
    let world = purged().await;
    let (job, other) = (world.job("gone", "configuration").await, world.job("other", "configuration").await);
    let text = certificate(&world, &job.id, &[]);
    let theirs: Value = serde_json::from_str(&certificate(&world, &other.id, &[])).unwrap();
    assert!(verifies(&text, &[]).0);
    let touches: [(&str, Touch, &str); 15] = [
        ("another account", |c, _| c["account_id"] = json!("other"), "another account"),
        (
            "another account, and nothing that opens it",
            |c, _| {
                c["account_id"] = json!("other");
                c["salt"] = Value::Null;
            },
            "nothing in it proves",
        ),
        ("another salt", |c, theirs| c["salt"] = theirs["salt"].clone(), "another account"),
        ("a count", |c, _| c["statement"]["targets"]["platform/task_configurations"]["records_deleted"] = json!(6), "targets"),
        ("a date", |c, _| c["statement"]["ended_at"] = json!("2026-01-01T00:00:00.000000Z"), "ended_at"),
        ("in time", |c, _| c["statement"]["in_time"] = json!(false), "in_time"),
        ("what it does not cover", |c, _| c["statement"]["out_of_scope"] = json!([]), "out_of_scope"),
        ("what it means", |c, _| c["statement"]["meaning"] = json!("everything is gone"), "meaning"),
        ("another job", |c, _| c["statement"]["job"] = json!("999"), "it is about job"),
        (
            "the end is left out",
            |c, _| c["entries"].as_array_mut().unwrap().retain(|e| !e["entry"].as_str().unwrap().contains("completed")),
            "outcome",
        ),
        ("an entry of another job", |c, theirs| c["entries"] = theirs["entries"].clone(), "it is about job"),
        (
            "a word in an entry",
            |c, _| {
                let ends = |e: &&mut Value| e["entry"].as_str().unwrap().contains("completed");
                let entry = c["entries"].as_array_mut().unwrap().iter_mut().find(ends).unwrap();
                entry["entry"] = json!(entry["entry"].as_str().unwrap().replace(":5", ":6"));
            },
            "another root",
        ),
        (
            "a proof",
            |c, _| {
                let hash = c["entries"][0]["path"][0].as_str().unwrap().to_owned();
                let first = if hash.starts_with('0') { "1" } else { "0" };
                c["entries"][0]["path"][0] = json!(format!("{first}{}", &hash[1..]));
            },
            "another root",
        ),
        ("the checkpoint", |c, _| c["checkpoint"] = json!(c["checkpoint"].as_str().unwrap().replacen('\n', "\n9", 1)), "checkpoint"),
        ("a member is added", |c, _| c["remark"] = json!("trust me"), "no certificate"),
    ];
    for (what, touch, why) in touches {
        let mut altered: Value = serde_json::from_str(&text).unwrap();
        let before = altered.clone();
        touch(&mut altered, &theirs);
        assert!(altered != before, "{what} touches nothing");
        let (valid, said) = verifies(&altered.to_string(), &[]);
        assert!(!valid && said.contains(why), "{what}: {said}");
    }
    // Signed anew by somebody else: only whoever knows the key can tell.
    let mut forged: Certificate = Certificate::read(&text).unwrap();
    let origin = forged.statement.ledger.clone();
    let key = retentiond::ledger::generate(Some(&origin)).unwrap();
    let body = forged.checkpoint.rsplit_once("\n\n").unwrap().0.to_owned();
    (forged.checkpoint, forged.key) = (key.sign(&format!("{body}\n")), key.verifier().to_string());
    let forged = serde_json::to_string(&forged).unwrap();
    let real: Value = serde_json::from_str(&text).unwrap();
    assert!(!verifies(&forged, &["--key", real["key"].as_str().unwrap()]).0);
    assert!(verifies("{}", &[]).1.contains("certificate_version is missing"));
    assert!(verifies("<html>", &[]).1.contains("the page holds none"));
}

#[tokio::test]
async fn what_was_not_completed_is_never_certified_as_deleted() {
    let world = World::new().await;
    world.account("held", "now() - interval '40 days'", "null", "null").await;
    world.account("back", "now() - interval '10 days'", "null", "null").await;
    assert!(world.cli(&["hold", "place", "--account", "held", "--reason", "dispute"]).status.success());
    world.run_passes().await.unwrap();
    world.sql("update accounts set deleted_at = null where account_id = 'back'").await;
    world.run_passes().await.unwrap();
    let open: Value = serde_json::from_str(&certificate(&world, &world.job("held", "queue").await.id, &[])).unwrap();
    assert_eq!((&open["statement"]["outcome"], &open["statement"]["ended_at"]), (&json!("open"), &Value::Null));
    assert_eq!(open["statement"]["events"][0]["what"], "held");
    assert_eq!(open["statement"]["targets"], json!({}));
    let back: Value = serde_json::from_str(&certificate(&world, &world.job("back", "configuration").await.id, &[])).unwrap();
    assert_eq!((&back["statement"]["outcome"], &back["statement"]["cancel_reason"]), (&json!("cancelled"), &json!("reactivated")));
    assert_eq!(back["statement"]["in_time"], Value::Null);
    for certificate in [open, back] {
        assert!(verifies(&certificate.to_string(), &[]).0);
    }
    assert!(!world.cli(&["certificate", "999"]).status.success());
}

#[tokio::test]
async fn records_that_came_back_are_appended_and_the_first_count_stays() {
    let world = purged().await;
    world.data("gone").await;
    let first = world.job("gone", "configuration").await;
    world.sql("update retention.done_marks set look_at = now()").await;
    world.run_passes().await.unwrap();
    world.no_look_comes().await;
    let said: Value = serde_json::from_str(&certificate(&world, &first.id, &[])).unwrap();
    assert_eq!(said["statement"]["targets"]["platform/task_configurations"]["records_deleted"], 5);
    assert!(said["statement"]["events"].as_array().unwrap().iter().any(|e| e["what"] == "residue"), "{said}");
    let second = world.job("gone", "configuration").await;
    assert_ne!(first.id, second.id);
    let again: Value = serde_json::from_str(&certificate(&world, &second.id, &[])).unwrap();
    assert_eq!(again["statement"]["targets"]["platform/task_configurations"]["records_deleted"], 5);
}

#[tokio::test]
async fn i15_the_evidence_names_nobody() {
    // One word in everything that a platform may know of somebody, and in everything that people say.
    const CANARY: &str = "canary7c1f";
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new().await;
    world.set("LEDGER__CHECKPOINT_DIR", folder.path().to_str().unwrap());
    let account = format!("{CANARY}-account");
    world.account(&account, "now() - interval '40 days'", "null", "null").await;
    world
        .sql(&format!(
            "update template_configurations set parameters = '{{\"name\": \"{CANARY}-name\"}}';
             update task_configurations set source_media_path = '/{CANARY}-in', output_path = '/{CANARY}-out';
             update queue_messages set session_context = '{CANARY}-context', session_id = '{CANARY}-session', sign = '{CANARY}-sign'"
        ))
        .await;
    let signed = ["--reason", "canary7c1f-reason", "--by", "canary7c1f-person"];
    for act in [
        &["hold", "place", "--account", &account][..],
        &["hold", "release", "1"],
        &["pause", "--account", &account],
        &["resume", "--account", &account],
    ] {
        assert!(world.cli(&[act, &signed].concat()).status.success(), "{act:?}");
    }
    let daemon = world.daemon();
    daemon.wait_for("both purges", |_| daemon.events().iter().filter(|e| e["event"] == "job.completed").count() == 2).await;
    let log = std::fs::read_to_string(&daemon.log).unwrap();
    drop(daemon);
    assert!(world.cli(&["ledger", "checkpoint"]).status.success());
    // The log names accounts, and nothing else of what there is.
    assert!(log.contains(&account), "the canary sings");
    assert!(!log.replace(&account, "").contains(CANARY));
    // What outlives the records names nobody at all.
    for table in ["ledger", "ledger_entries", "ledger_tiles", "ledger_checkpoints", "ledger_salts", "ledger_pending"] {
        let found =
            world.count(&format!("retention.{table} t where t::text like '%{CANARY}%' or t::text like '%{}%'", hex::encode(CANARY))).await;
        assert_eq!(found, 0, "{table}");
    }
    let entries = world.count(&format!("retention.ledger_entries where position(convert_to('{CANARY}', 'UTF8') in entry) > 0")).await;
    assert_eq!(entries, 0);
    let mut read = 0;
    let mut folders = vec![folder.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let bytes = std::fs::read(&path).unwrap();
                assert!(!bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes()), "{}", path.display());
                read += 1;
            }
        }
    }
    assert!(read >= 4, "checkpoint, keys, entries, tile");
    // The daemon's other tables know the account, for as long as they are kept, and nothing of its records.
    let tables: Vec<String> =
        sqlx::query_scalar("select c.relname::text from pg_class c where c.relnamespace = 'retention'::regnamespace and c.relkind = 'r'")
            .fetch_all(&mut world.connect().await)
            .await
            .unwrap();
    for table in tables {
        for what in ["name", "in", "out", "context", "session", "sign"] {
            assert_eq!(world.count(&format!("retention.{table} t where t::text like '%{CANARY}-{what}%'")).await, 0, "{table}: {what}");
        }
    }
}
