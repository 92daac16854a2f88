//! The ledger: what is told, that nobody can change it unseen, that independent code reads it, and that an older database is noticed.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use retentiond::proof::{Checkpoint, SigningKey, VerifierKey};
use serde_json::{Value, json};
use sqlx::Connection;

use crate::world::{ALL, World, left};

/// Two accounts whose time has come and one that is alive, all purged as far as they are due, with files outside the database.
async fn purged() -> (World, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new().await;
    world.set("LEDGER__CHECKPOINT_DIR", folder.path().to_str().unwrap());
    world.account("gone", "now() - interval '30 days 1 hour'", "null", "null").await;
    world.account("late", "null", "now() - interval '33 days'", "null").await;
    world.account("alive", "null", "null", "null").await;
    world.run_passes().await.unwrap();
    world.no_look_comes().await;
    (world, folder)
}

/// What the ledger tells, entry by entry.
async fn entries(world: &World) -> Vec<Value> {
    let texts: Vec<String> = sqlx::query_scalar("select convert_from(entry, 'UTF8') from retention.ledger_entries order by index")
        .fetch_all(&mut world.connect().await)
        .await
        .unwrap();
    texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect()
}

/// The events about one job, in their order.
fn events(entries: &[Value], job: &str) -> Vec<String> {
    let about = |e: &&Value| e["kind"] == "job" && e["reference"] == job && e["event"] != "level";
    entries.iter().filter(about).map(|e| e["event"].as_str().unwrap().to_owned()).collect()
}

/// Where the ledger's files are.
fn files(folder: &Path) -> PathBuf {
    let mut all: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

/// The findings of `ledger verify`, by word.
fn findings(world: &World) -> BTreeMap<String, Vec<String>> {
    let output = world.cli(&["ledger", "verify", "-o", "json"]);
    let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)));
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for finding in said["findings"].as_array().unwrap() {
        found.entry(finding["finding"].as_str().unwrap().to_owned()).or_default().push(finding["subject"].as_str().unwrap().to_owned());
    }
    assert_eq!(output.status.code(), Some(if found.is_empty() { 0 } else { 3 }), "{}", String::from_utf8_lossy(&output.stderr));
    found
}

#[tokio::test]
async fn every_purge_is_told_from_its_plan_to_its_end_and_verifies() {
    let (world, _folder) = purged().await;
    let told = entries(&world).await;
    assert_eq!(told[0]["event"], "opened");
    for account in ["gone", "late"] {
        for job in world.jobs(account).await {
            let late: &[&str] = if job.overdue || job.completed_at > Some(job.delete_by) { &["overdue"] } else { &[] };
            assert_eq!(events(&told, &job.id), [&["scheduled"], late, &["intent", "completed"]].concat(), "{account}");
            let end = told.iter().find(|e| e["event"] == "completed" && e["reference"] == job.id.as_str()).unwrap();
            assert_eq!(end["records_deleted"], serde_json::to_value(&job.records_deleted.0).unwrap());
            assert_eq!(end["retain_until"], retentiond::model::rfc3339(job.retain_until));
        }
    }
    assert!(told.iter().any(|e| e["event"] == "policy_accepted"));
    assert_eq!(findings(&world), BTreeMap::new());
    let said = world.json(&["ledger", "verify"]);
    assert_eq!(said["entries"], told.len());
    assert_eq!(said["filed"], told.len(), "the files keep up");
}

#[tokio::test]
async fn what_people_do_is_told_with_commitments_to_who_and_why() {
    let world = World::new().await;
    world.account("alive", "null", "null", "null").await;
    for act in [
        &["hold", "place", "--account", "alive", "--reason", "secret-reason", "--by", "secret-person"][..],
        &["hold", "release", "1", "--reason", "secret-reason", "--by", "secret-person"],
        &["pause", "--reason", "secret-reason", "--by", "secret-person"],
        &["resume", "--reason", "secret-reason", "--by", "secret-person"],
    ] {
        assert!(world.cli(act).status.success(), "{act:?}");
    }
    world.sql("update retention.guard set tripped_at = now(), reason = 'secret-reason'").await;
    assert!(world.cli(&["guard", "release", "--reason", "secret-reason", "--by", "secret-person"]).status.success());
    assert!(world.cli(&["ledger", "checkpoint"]).status.success());
    let told = entries(&world).await;
    let acts: Vec<&str> = told.iter().filter(|e| e["kind"] != "ledger").map(|e| e["event"].as_str().unwrap()).collect();
    assert_eq!(acts, ["held", "released", "paused", "resumed", "guard_tripped", "guard_released"]);
    let (held, released) = (&told[1], &told[2]);
    assert_eq!(held["subject"], released["subject"], "of one hold, with one salt");
    assert!(told.iter().skip(1).all(|e| e["reason"].as_str().is_some_and(|reason| reason.len() == 64)));
    assert!(!serde_json::to_string(&told).unwrap().contains("secret"));
    let salt: Vec<u8> = sqlx::query_scalar("select salt from retention.ledger_salts where kind = 'hold'")
        .fetch_one(&mut world.connect().await)
        .await
        .unwrap();
    assert_eq!(held["actor"], retentiond::proof::commitment(&salt, "actor", "secret-person"));
    assert_eq!(findings(&world), BTreeMap::new());
}

/// Code that is not ours, over an export of a run.
struct Exported(PathBuf);

impl tlog_tiles::TileReader for Exported {
    fn height(&self) -> u8 {
        8
    }

    fn read_tiles(&self, tiles: &[tlog_tiles::Tile]) -> Result<Vec<Vec<u8>>, tlog_tiles::Error> {
        let path = |tile: &tlog_tiles::Tile| self.0.join(tile.path().replacen("tile/8/", "tile/", 1));
        Ok(tiles.iter().map(|tile| std::fs::read(path(tile)).unwrap_or_else(|e| panic!("{}: {e}", path(tile).display()))).collect())
    }

    fn save_tiles(&self, _tiles: &[tlog_tiles::Tile], _data: &[Vec<u8>]) {}
}

#[tokio::test]
async fn an_export_verifies_with_code_that_is_not_ours() {
    use signed_note::{Note, StandardVerifier, VerifierList};
    let (world, _folder) = purged().await;
    // More than a tile, and a tile above it.
    world
        .sql("insert into retention.ledger_pending (event, kind, body) select 'summary', 'ledger', jsonb_build_object('day', i) from generate_series(1, 700) i")
        .await;
    let folder = tempfile::tempdir().unwrap();
    let said = world.json(&["ledger", "export", folder.path().to_str().unwrap()]);
    let key = said["key"].as_str().unwrap();
    let note = std::fs::read(folder.path().join("checkpoint")).unwrap();
    let verifier = StandardVerifier::new(key).unwrap();
    let signed = Note::from_bytes(&note).unwrap();
    let (known, unknown) = signed.verify(&VerifierList::new(vec![Box::new(verifier)])).unwrap();
    assert_eq!((known.len(), unknown.len()), (1, 0));
    let text = tlog_tiles::Checkpoint::from_bytes(signed.text()).unwrap();
    assert_eq!(said["entries"], text.size());
    assert!(text.size() > 700);
    let exported = Exported(folder.path().to_owned());
    let reader = tlog_tiles::TileHashReader::new(text.size(), *text.hash(), &exported);
    let mut index = 0;
    for bundle in 0..text.size().div_ceil(256) {
        let width = (text.size() - bundle * 256).min(256);
        let bytes = std::fs::read(folder.path().join(retentiond::proof::tiles::entries_path(bundle, width))).unwrap();
        let mut rest = bytes.as_slice();
        while let Some((length, more)) = rest.split_first_chunk::<2>() {
            let (entry, more) = more.split_at(u16::from_be_bytes(*length).into());
            // Reads tiles, each checked against the signed root.
            let proof = tlog_tiles::prove_record(text.size(), index, &reader).unwrap();
            tlog_tiles::check_record(&proof, text.size(), *text.hash(), index, tlog_tiles::record_hash(entry)).unwrap();
            (rest, index) = (more, index + 1);
        }
    }
    assert_eq!(index, text.size());
    // And ours, with nothing but the files and the key.
    let mut alone = std::process::Command::new(env!("CARGO_BIN_EXE_retentiond"));
    alone.env_clear().args(["ledger", "verify", "--files"]).arg(folder.path()).args(["--key", key]);
    assert!(alone.output().unwrap().status.success());
    let other = retentiond::ledger::generate(None).unwrap().verifier().to_string();
    alone.env_clear().args(["ledger", "verify"]);
    let mut wrong = std::process::Command::new(env!("CARGO_BIN_EXE_retentiond"));
    wrong.env_clear().args(["ledger", "verify", "--files"]).arg(folder.path()).args(["--key", &other]);
    assert_eq!(wrong.output().unwrap().status.code(), Some(3));
}

/// Signs the last checkpoint anew, over what is there now, with this key.
async fn sign_anew(world: &World, key: &SigningKey) {
    let mut c = world.connect().await;
    let note: String =
        sqlx::query_scalar("select note from retention.ledger_checkpoints order by size desc limit 1").fetch_one(&mut c).await.unwrap();
    let (text, _) = note.rsplit_once("\n\n").unwrap();
    let signed = key.sign(&format!("{text}\n"));
    sqlx::query("update retention.ledger_checkpoints set note = $1 where size = (select max(size) from retention.ledger_checkpoints)")
        .bind(signed)
        .execute(&mut c)
        .await
        .unwrap();
}

/// Changes a byte of a file.
fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one table of what somebody may do to the evidence")]
async fn i15_every_kind_of_tampering_is_named() {
    let (mut original, folder) = purged().await;
    assert!(original.cli(&["hold", "place", "--account", "alive", "--reason", "r"]).status.success());
    assert!(original.cli(&["pause", "--account", "nobody", "--reason", "r"]).status.success());
    original.set("POLL__RESYNC_INTERVAL", "2h");
    assert!(original.cli(&["ledger", "checkpoint"]).status.success());
    let job = original.job("gone", "configuration").await.id;
    let open = "alter table retention.ledger_entries disable trigger user;";
    let entry = |event: &str| {
        format!(
            "(select index from retention.ledger_entries where convert_from(entry, 'UTF8')::jsonb ->> 'event' = '{event}' and reference = {job})"
        )
    };
    let replace = |from: &str, to: &str, event: &str| {
        format!(
            "{open} update retention.ledger_entries set entry = convert_to(replace(convert_from(entry, 'UTF8'), '{from}', '{to}'), 'UTF8') where index = {}",
            entry(event)
        )
    };
    let cases: Vec<(&str, String, &str, &str)> = vec![
        ("a count is changed in an entry", replace("\"platform/task_configurations\":5", "\"platform/task_configurations\":6", "completed"), "entry_altered", "entry "),
        ("a date is changed in an entry", replace("\"retain_until\":\"2", "\"retain_until\":\"1", "scheduled"), "entry_altered", "entry "),
        ("an entry is written in another way", replace("{", "{ ", "intent"), "entry_malformed", "entry "),
        ("an entry is no JSON", format!("{open} update retention.ledger_entries set entry = 'x' where index = 1"), "entry_malformed", "entry 1"),
        ("an entry is deleted", format!("{open} delete from retention.ledger_entries where index = {}", entry("intent")), "entry_missing", "entry "),
        ("the first entry is deleted", format!("{open} delete from retention.ledger_entries where index = 0"), "entry_missing", "entry 0"),
        (
            "two entries change places",
            format!("{open} update retention.ledger_entries e set entry = o.entry from retention.ledger_entries o where (e.index, o.index) in ((1, 2), (2, 1))"),
            "entry_moved",
            "entry 1",
        ),
        (
            "the last entries are cut off",
            format!("{open} delete from retention.ledger_entries where index >= (select size - 2 from retention.ledger); update retention.ledger set size = size - 2"),
            "entries_cut_off",
            "checkpoint ",
        ),
        (
            "an entry is added by hand",
            "insert into retention.ledger_entries (index, entry, kind) select size, '{}', 'ledger' from retention.ledger".to_owned(),
            "entry_added",
            "entry ",
        ),
        ("an entry is filed under another job", format!("{open} update retention.ledger_entries set reference = 999 where index = {}", entry("completed")), "entry_mislabelled", "entry "),
        ("a tile is changed", "update retention.ledger_tiles set hashes = overlay(hashes placing '\\x00' from 70) where level = 0".to_owned(), "tile_altered", "tile 0/0"),
        ("a tile is deleted", "delete from retention.ledger_tiles where level = 0".to_owned(), "tile_missing", "tile 0/0"),
        ("a tile is cut", "update retention.ledger_tiles set hashes = substr(hashes, 1, 33) where level = 0".to_owned(), "tile_missing", "tile 0/0"),
        ("a tile is added", "insert into retention.ledger_tiles values (0, 5, '\\x00')".to_owned(), "tile_added", "tile 0/5"),
        ("the last checkpoint is deleted", "delete from retention.ledger_checkpoints where size = (select size from retention.ledger)".to_owned(), "checkpoint_missing", "checkpoint "),
        (
            "a checkpoint's size is changed",
            "update retention.ledger_checkpoints set note = regexp_replace(note, E'\\n\\\\d+\\n', E'\\n3\\n') where size = (select size from retention.ledger)".to_owned(),
            "checkpoint_forged",
            "checkpoint ",
        ),
        (
            "a checkpoint is kept as another's",
            "update retention.ledger_checkpoints set size = size - 1 where size = (select max(size) from retention.ledger_checkpoints)".to_owned(),
            "checkpoint_moved",
            "checkpoint ",
        ),
        ("a checkpoint is no note", "update retention.ledger_checkpoints set note = 'x'".to_owned(), "checkpoint_forged", "checkpoint "),
        ("the count of a job is changed in the history", format!("update retention.history set records_deleted = '{{\"platform/task_configurations\": 9}}' where id = {job}"), "row_altered", "job "),
        ("a job is given to another account", format!("update retention.history set account_id = 'alive' where id = {job}"), "row_altered", "job "),
        ("a job is deleted from the history", format!("delete from retention.history where id = {job}"), "row_missing", "job "),
        (
            "a job is written into the history behind the ledger's back",
            format!("alter table retention.history disable trigger user; insert into retention.history select 999, account_id, feature, data_class, state, starting_point, started_at,
                     retain_until, delete_by, policy, attempts, last_error, purge_began_at, records_deleted, outcomes, count_exact, created_at, completed_at + interval '1 hour' from retention.history where id = {job}"),
            "row_unrecorded",
            "job 999",
        ),
        ("a hold is deleted", "delete from retention.holds".to_owned(), "row_missing", "hold 1"),
        ("a hold is ended behind the ledger's back", "alter table retention.holds disable trigger user; update retention.holds set released_at = now()".to_owned(), "row_altered", "hold 1"),
        ("a pause is given to another account", "update retention.pauses set account_id = 'alive'".to_owned(), "row_altered", "pause 1"),
        ("a policy is changed", "update retention.policies set hash = 'x'".to_owned(), "row_altered", "policy 1"),
        ("a salt is changed", format!("update retention.ledger_salts set salt = '\\x00' where kind = 'job' and reference = {job}"), "row_altered", "job "),
        ("the key is changed", "update retention.ledger set key = 'x+00000000+AAAA'".to_owned(), "!", "its key"),
        ("the ledger's row is deleted", "delete from retention.ledger".to_owned(), "!", "its row"),
    ];
    assert_eq!(findings(&original), BTreeMap::new());
    let theirs = files(folder.path());
    let named = original.database.clone();
    for (what, statement, finding, subject) in cases {
        let copy = original.copy().await;
        let ours = theirs.with_file_name(theirs.file_name().unwrap().to_str().unwrap().replace(&named, &copy.database));
        copy_tree(&theirs, &ours);
        copy.sql(&statement).await;
        if finding == "!" {
            let output = copy.cli(&["ledger", "verify"]);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.code() == Some(13) && said.contains(subject), "{what}: {said}");
        } else {
            let found = findings(&copy);
            let named = found.get(finding).unwrap_or_else(|| panic!("{what}: {found:?}"));
            assert!(named.iter().any(|name| name.starts_with(subject)), "{what}: {found:?}");
        }
        std::fs::remove_dir_all(ours).unwrap();
    }
    // In the files.
    let bundle = |of: &Path| std::fs::read_dir(of.join("tile/entries/000.p")).unwrap().next().unwrap().unwrap().path();
    let tile = |of: &Path| std::fs::read_dir(of.join("tile/0/000.p")).unwrap().next().unwrap().unwrap().path();
    for (what, finding) in
        [("entry", "file_entry_altered"), ("tile", "file_tile_altered"), ("checkpoint", "file_altered"), ("missing", "file_altered")]
    {
        let copy = original.copy().await;
        let ours = theirs.with_file_name(theirs.file_name().unwrap().to_str().unwrap().replace(&named, &copy.database));
        copy_tree(&theirs, &ours);
        match what {
            "entry" => flip(&bundle(&ours), 9),
            "tile" => flip(&tile(&ours), 40),
            "checkpoint" => flip(&ours.join("checkpoint"), 60),
            _ => std::fs::remove_file(bundle(&ours)).unwrap(),
        }
        let found = findings(&copy);
        assert!(found.contains_key(finding), "{what} in a file: {found:?}");
        std::fs::remove_dir_all(ours).unwrap();
    }
    // Signed anew, by whoever has not the key.
    let copy = original.copy().await;
    let ours = theirs.with_file_name(theirs.file_name().unwrap().to_str().unwrap().replace(&named, &copy.database));
    copy_tree(&theirs, &ours);
    let origin: String = sqlx::query_scalar("select origin from retention.ledger").fetch_one(&mut copy.connect().await).await.unwrap();
    sign_anew(&copy, &retentiond::ledger::generate(Some(&origin)).unwrap()).await;
    assert!(findings(&copy).contains_key("checkpoint_unsigned"));
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, target) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if path.is_dir() {
            copy_tree(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

#[tokio::test]
async fn an_older_database_deletes_nothing_until_its_lost_entries_are_replayed_and_then_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new().await;
    world.set("LEDGER__CHECKPOINT_DIR", folder.path().to_str().unwrap());
    world.account("early", "now() - interval '50 days'", "null", "null").await;
    world.run_passes().await.unwrap();
    // What is purged after the backup.
    world.account("gone", "now() - interval '40 days'", "null", "null").await;
    // What has no number yet when the backup is taken, gets one in the time that is lost, and ends there.
    assert!(world.cli(&["hold", "place", "--account", "nobody", "--reason", "before the backup"]).status.success());
    assert!(world.cli(&["pause", "--account", "nobody", "--reason", "before the backup"]).status.success());
    let backup = world.copy().await;
    world.run_passes().await.unwrap();
    assert_eq!(world.left("gone").await, left(0, 0, 0, 2));
    assert!(world.cli(&["hold", "release", "1", "--reason", "after the backup"]).status.success());
    assert!(world.cli(&["resume", "--account", "nobody", "--reason", "after the backup"]).status.success());
    assert!(world.cli(&["hold", "place", "--account", "early", "--reason", "after the backup"]).status.success());
    assert!(world.cli(&["ledger", "checkpoint"]).status.success());
    let (before, lost_job) = (entries(&world).await, world.job("gone", "configuration").await);
    restore(&world, &backup).await;
    assert_eq!(world.left("gone").await, ALL, "it has come back");
    let refused = world.run_passes().await.unwrap_err();
    assert_eq!(refused.exit_code(), 13, "{refused}");
    assert_eq!(world.left("gone").await, ALL);
    // Nor does somebody who has no files go on with it.
    let mut elsewhere = world.command(&["ledger", "checkpoint"]);
    assert_eq!(elsewhere.env_remove("RETENTIOND__LEDGER__CHECKPOINT_DIR").output().unwrap().status.code(), Some(13));
    let guard = world.json(&["guard", "status"]);
    assert!(guard["tripped"] == true && guard["reason"].as_str().unwrap().contains("ledger replay"), "{guard}");
    // Releasing the guard does not help: it has not tripped.
    assert!(!world.cli(&["guard", "release", "--reason", "r"]).status.success());
    assert_eq!(world.run_passes().await.unwrap_err().exit_code(), 13);

    let replayed = world.json(&["ledger", "replay", "--reason", "restored from last night's backup"]);
    assert_eq!(replayed["lost"], json!(["hold 2"]));
    let told = entries(&world).await;
    assert_eq!(told[..before.len()], before[..]);
    let placed = told.iter().filter(|e| e["event"] == "held" && e["reference"] == "1").count();
    assert_eq!(placed, 1, "what had its number in the lost time gets no other");
    world.run_passes().await.unwrap();
    assert_eq!(world.left("gone").await, ALL, "a hold was lost: everything is paused");
    assert!(world.cli(&["hold", "place", "--account", "early", "--reason", "again"]).status.success());
    assert!(world.cli(&["resume", "--reason", "placed again"]).status.success());
    world.run_passes().await.unwrap();
    assert_eq!(world.left("gone").await, left(0, 0, 0, 2), "and is gone again");
    let again = world.job("gone", "configuration").await;
    assert!(again.id.parse::<i64>().unwrap() > lost_job.id.parse::<i64>().unwrap(), "no id is given twice");
    assert_eq!(findings(&world), BTreeMap::new());
}

/// Puts the backup in the place of the database.
async fn restore(world: &World, backup: &World) {
    let admin_url = world.url.replace(&world.database, "postgres");
    let mut admin = sqlx::PgConnection::connect(&admin_url).await.unwrap();
    for statement in [
        format!("drop database {} with (force)", world.database),
        format!("create database {} template {}", world.database, backup.database),
    ] {
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut admin).await.unwrap();
    }
}

#[tokio::test]
async fn a_ledger_that_was_altered_stops_every_purge_until_it_is_sound() {
    let (world, folder) = purged().await;
    std::fs::remove_dir_all(files(folder.path())).unwrap();
    let tile: Vec<u8> = sqlx::query_scalar("select hashes from retention.ledger_tiles where level = 0")
        .fetch_one(&mut world.connect().await)
        .await
        .unwrap();
    world.sql("update retention.ledger_tiles set hashes = overlay(hashes placing '\\x00' from 70)").await;
    world.account("next", "now() - interval '40 days'", "null", "null").await;
    assert_eq!(world.run_passes().await.unwrap_err().exit_code(), 13);
    assert_eq!(world.left("next").await, ALL);
    assert!(world.json(&["status"])["guard"]["reason"].as_str().unwrap().contains("ledger"));
    assert_eq!(world.cli(&["status", "--check"]).status.code(), Some(3));
    sqlx::query("update retention.ledger_tiles set hashes = $1 where level = 0")
        .bind(tile)
        .execute(&mut world.connect().await)
        .await
        .unwrap();
    assert_eq!(world.run_passes().await.unwrap_err().exit_code(), 13, "until all of it was checked");
    let app = world.app().await.unwrap();
    assert!(app.ledger().check_and_mark().await.unwrap().findings.is_empty());
    app.database.close().await;
    world.run_passes().await.unwrap();
    assert_eq!(world.left("next").await, left(0, 0, 0, 2));
}

#[tokio::test]
async fn a_process_that_has_seen_more_entries_purges_nothing_in_an_older_database() {
    let world = World::new().await;
    world.account("gone", "now() - interval '40 days'", "null", "null").await;
    let app = world.app().await.unwrap();
    app.ledger().pass().await.unwrap();
    app.seen.note(1_000);
    let ended = app.run_once(&retentiond::lifecycle::Stop::default()).await;
    app.database.close().await;
    assert_eq!(ended.unwrap_err().exit_code(), 13);
    assert_eq!(world.left("gone").await, ALL);
}

#[tokio::test]
async fn a_check_while_others_write_finds_nothing() {
    let (world, _folder) = purged().await;
    let (one, two) = (world.app().await.unwrap(), world.app().await.unwrap());
    let writing = async {
        for n in 0..40 {
            world
                .sql(&format!("insert into retention.ledger_pending (event, kind, body) select 'x', 'ledger', jsonb_build_object('n', i + {n}) from generate_series(1, 60) i"))
                .await;
            two.ledger().pass().await.unwrap();
        }
    };
    let checking = async {
        for _ in 0..15 {
            assert_eq!(one.ledger().check().await.unwrap().findings, Vec::new());
        }
    };
    tokio::join!(writing, checking);
    for app in [one, two] {
        app.database.close().await;
    }
    assert_eq!(findings(&world), BTreeMap::new());
}

#[tokio::test]
async fn replicas_number_together_without_a_gap() {
    let world = World::new().await;
    let (one, two) = (world.app().await.unwrap(), world.app().await.unwrap());
    world
        .sql("insert into retention.ledger_pending (event, kind, subject, reference) select 'x', 'job', 'a' || i, i from generate_series(1, 9000) i")
        .await;
    let (first, second) = tokio::join!(async { one.ledger().pass().await }, async { two.ledger().pass().await });
    assert!(first.is_ok() && second.is_ok(), "{first:?} {second:?}");
    one.ledger().pass().await.unwrap();
    for app in [one, two] {
        app.database.close().await;
    }
    assert_eq!(world.count("retention.ledger_pending").await, 0);
    let told = entries(&world).await;
    assert!(told.iter().zip(0..).all(|(entry, index)| entry["index"] == index));
    let (kept, last): (i64, i64) = sqlx::query_as("select count(*), max(index) + 1 from retention.ledger_entries")
        .fetch_one(&mut world.connect().await)
        .await
        .unwrap();
    let all = i64::try_from(told.len()).unwrap();
    assert_eq!((kept, last), (all, all));
}

#[tokio::test]
async fn a_key_in_a_file_takes_over_and_only_by_decision() {
    let (mut world, _folder) = purged().await;
    let origin = world.json(&["ledger", "checkpoint"])["origin"].as_str().unwrap().to_owned();
    let key = world.cli(&["ledger", "keygen", "--origin", &origin]).stdout;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &key).unwrap();
    world.set("LEDGER__KEY_FILE", file.path().to_str().unwrap());
    let refused = world.cli(&["ledger", "checkpoint"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && said.contains("ledger rotate"), "{said}");
    let rotated = world.json(&["ledger", "rotate", "--reason", "a key of our own"]);
    assert_eq!(findings(&world), BTreeMap::new(), "old checkpoints are checked with the old key");
    let checkpoint = world.json(&["ledger", "checkpoint"]);
    assert_eq!(checkpoint["key"], rotated["key"]);
    let verifier = VerifierKey::parse(rotated["key"].as_str().unwrap()).unwrap();
    Checkpoint::open(checkpoint["note"].as_str().unwrap(), &verifier).unwrap();
    assert_eq!(world.count("retention.ledger where secret is not null").await, 0, "the database keeps no key any more");
    world.settings.remove("RETENTIOND__LEDGER__KEY_FILE");
    assert!(!world.cli(&["ledger", "checkpoint"]).status.success());
}
