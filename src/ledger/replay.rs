//! After an older state of the database came back: the entries that it lost are in the files, and are put behind those it has, byte for byte. What was deleted
//! and has come back then is deleted again, under the rules as they stand; acts of people that were lost are named, and stop deletion where they had.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgConnection};

use super::{
    Archive, LEDGER_LOCK, Ledger, LedgerError, broken,
    check::{Signed, Walk},
    head, key, note, number,
};
use crate::{
    database::{Database, Purpose},
    proof::tree::WIDTH,
    safeguards::{STOP_LOCK, take},
};

/// What a replay came to.
#[derive(Debug, Clone, Serialize)]
pub struct Replayed {
    /// Entries that the database had.
    pub from: u64,
    /// Entries that it has now.
    pub to: u64,
    /// Jobs that had ended in the lost time: what they deleted and came back is deleted again.
    pub jobs: u64,
    /// Acts of the lost time that the database does not know: `hold 7`, `pause 3`, `request 5`. Where one of them stopped deletion, everything is paused until
    /// somebody has placed them again.
    pub lost: Vec<String>,
}

impl Ledger {
    /// Appends what the files have and the database has not. Everything or nothing of it happens; waits for batches under way.
    ///
    /// # Errors
    /// Those of the database and of the files; files that do not go on from what the database has.
    pub async fn replay(&self, from: Option<Archive>, reason: &str, by: &str) -> Result<Replayed, LedgerError> {
        let archive = match from {
            Some(archive) => archive,
            None => self.archive().await?.ok_or_else(|| {
                LedgerError::Key("there are no files to replay: name them with --from, or in ledger.checkpoint_dir".to_owned())
            })?,
        };
        let Some((note_text, checkpoint)) = archive.checkpoint().await? else {
            return Err(broken(format!("{} holds no checkpoint", archive.root().display())));
        };
        let locked = archive.shared().await?;
        let mut tx = self.database.begin(Purpose::Bulk).await?;
        take(&mut tx, STOP_LOCK).await?;
        take(&mut tx, LEDGER_LOCK).await?;
        let head = head(&mut tx).await?;
        let mut tree = number::as_signed(&mut tx, &head).await?;
        let mut lost = Lost::default();
        let mut walk = Walk::new(vec![Signed { name: "the files' checkpoint".to_owned(), size: checkpoint.size, note: note_text.clone() }]);
        let mut last_key = None;
        for index in 0..checkpoint.size.div_ceil(WIDTH) {
            let entries = archive.entries(index, checkpoint.size).await?;
            for (entry, at) in entries.iter().zip(index * WIDTH..) {
                walk.entry(at, entry)?;
                last_key = super::key_in(at, entry)?.or(last_key);
            }
            walk.full();
            let new = usize::try_from(head.size.saturating_sub(index * WIDTH)).unwrap_or(usize::MAX).min(entries.len());
            let (theirs, new) = entries.split_at(new);
            same(&mut tx, index * WIDTH, theirs).await?;
            if !new.is_empty() {
                let about: Vec<(String, Option<i64>)> = new.iter().map(|entry| lost.told(entry)).collect();
                let about: Vec<(&str, Option<i64>)> = about.iter().map(|(kind, reference)| (kind.as_str(), *reference)).collect();
                let first = index * WIDTH + theirs.len() as u64;
                number::append(&mut tx, &mut tree, first, &about, new).await?;
                // What is full is stored, and no appending needs it.
                drop(tree.take_full());
            }
        }
        walk.end()?;
        if let Some(finding) = walk.findings.first() {
            return Err(broken(format!("the files in {}: {}: {}", archive.root().display(), finding.subject, finding.problem)));
        }
        let mut replayed = Replayed { from: head.size, to: checkpoint.size.max(head.size), jobs: lost.ended, lost: Vec::new() };
        if checkpoint.size > head.size {
            lost.drop_pending(&mut tx).await?;
            keep_checkpoint(&mut tx, &note_text, checkpoint.size, last_key.map(|(_, key)| key.to_string()).as_deref()).await?;
            lost.skip_ids(&mut tx).await?;
            replayed.lost = lost.stand_in(&mut tx, by).await?;
            let body = serde_json::json!({"from": replayed.from, "to": replayed.to, "jobs": replayed.jobs, "lost": replayed.lost});
            note(&mut tx, "replayed", Some((by, reason)), &body).await?;
        }
        Database::commit(tx).await?;
        drop(locked);
        if !replayed.lost.is_empty() || replayed.to > replayed.from {
            let (from, to, lost) = (replayed.from, replayed.to, replayed.lost.join(", "));
            tracing::warn!(
                event = "ledger.replayed",
                from,
                to,
                lost,
                reason,
                actor = by,
                "the entries that an older database had lost are back"
            );
        }
        self.pass().await?;
        // A break that somebody mended otherwise is over as well, if all of it is sound.
        self.check_and_mark().await?;
        Ok(replayed)
    }

    /// Makes the configured key the ledger's, in place of the one before.
    ///
    /// # Errors
    /// Those of the database; no key is configured, or one of another name.
    pub async fn rotate(&self, reason: &str, by: &str) -> Result<String, LedgerError> {
        let to = self
            .config
            .ledger
            .key
            .clone()
            .ok_or_else(|| LedgerError::Key("no key is configured: name its file in ledger.key_file".to_owned()))?;
        let mut tx = self.database.begin(Purpose::Bulk).await?;
        take(&mut tx, LEDGER_LOCK).await?;
        let head = head(&mut tx).await?;
        if head.key != to.verifier() {
            key::rotate(&mut tx, &head, &to, (by, reason)).await?;
        }
        Database::commit(tx).await?;
        tracing::warn!(event = "ledger.key_changed", key = %to.verifier(), reason, actor = by, "another key signs the ledger");
        self.pass().await?;
        Ok(to.verifier().to_string())
    }
}

/// Refuses files whose entries are others than the database has.
async fn same(conn: &mut PgConnection, first: u64, theirs: &[Vec<u8>]) -> Result<(), LedgerError> {
    let ours: Vec<Vec<u8>> =
        sqlx::query_scalar("select entry from retention.ledger_entries where index >= $1 and index < $1 + $2 order by index")
            .bind(i64::try_from(first).unwrap_or(i64::MAX))
            .bind(i64::try_from(theirs.len()).unwrap_or(0))
            .fetch_all(conn)
            .await?;
    match ours.iter().zip(theirs).position(|(ours, theirs)| ours != theirs) {
        Some(at) => Err(broken(format!(
            "entry {} is another one in the files: the database went on by itself after it came back",
            first + at as u64
        ))),
        None if ours.len() == theirs.len() => Ok(()),
        None => Err(broken(format!("entry {} is missing", first + ours.len() as u64))),
    }
}

/// The files' checkpoint is the database's own again, and so is the key that the lost entries brought in.
async fn keep_checkpoint(conn: &mut PgConnection, note: &str, size: u64, key: Option<&str>) -> Result<(), LedgerError> {
    sqlx::query("insert into retention.ledger_checkpoints (size, note) values ($1, $2) on conflict (size) do nothing")
        .bind(i64::try_from(size).unwrap_or(i64::MAX))
        .bind(note)
        .execute(&mut *conn)
        .await?;
    if let Some(key) = key {
        sqlx::query("update retention.ledger set secret = case when key = $1 then secret end, key = $1").bind(key).execute(conn).await?;
    }
    Ok(())
}

/// What the lost entries tell.
#[derive(Default)]
struct Lost {
    /// Jobs that ended.
    ended: u64,
    /// The highest id by kind.
    ids: BTreeMap<String, i64>,
    /// Holds, pauses and requests that stood at the end.
    acts: BTreeSet<(String, i64)>,
    /// The guard stood tripped at the end.
    tripped: bool,
    /// What and when: event, kind, id and instant.
    told: Vec<(String, String, Option<i64>, String)>,
}

impl Lost {
    /// Notes an entry; says what it is about.
    fn told(&mut self, entry: &[u8]) -> (String, Option<i64>) {
        let said: Value = serde_json::from_slice(entry).unwrap_or_default();
        let kind = said["kind"].as_str().unwrap_or_default().to_owned();
        let reference = said["reference"].as_str().and_then(|reference| reference.parse::<i64>().ok());
        if let Some(id) = reference {
            let highest = self.ids.entry(kind.clone()).or_default();
            *highest = id.max(*highest);
            match said["event"].as_str().unwrap_or_default() {
                "completed" => self.ended += 1,
                "held" | "paused" | "request_accepted" => drop(self.acts.insert((kind.clone(), id))),
                "released" | "resumed" | "request_withdrawn" => drop(self.acts.remove(&(kind.clone(), id))),
                _ => {}
            }
        }
        let text = |name: &str| said[name].as_str().unwrap_or_default().to_owned();
        self.told.push((text("event"), kind.clone(), reference, text("at")));
        match said["event"].as_str().unwrap_or_default() {
            "guard_tripped" => self.tripped = true,
            "guard_released" => self.tripped = false,
            _ => {}
        }
        (kind, reference)
    }

    /// What waited for its number in the older database, and had got it in the lost time, does not get another one.
    async fn drop_pending(&self, conn: &mut PgConnection) -> Result<(), LedgerError> {
        sqlx::query(
            "delete from retention.ledger_pending p using unnest($1::text[], $2::text[], $3::int8[], $4::text[]) as t(event, kind, reference, at)
             where p.event = t.event and p.kind = t.kind and p.reference is not distinct from t.reference and retention.instant(p.at) = t.at",
        )
        .bind(self.told.iter().map(|(event, ..)| event.as_str()).collect::<Vec<_>>())
        .bind(self.told.iter().map(|(_, kind, ..)| kind.as_str()).collect::<Vec<_>>())
        .bind(self.told.iter().map(|(_, _, reference, _)| *reference).collect::<Vec<_>>())
        .bind(self.told.iter().map(|(.., at)| at.as_str()).collect::<Vec<_>>())
        .execute(conn)
        .await?;
        Ok(())
    }

    /// No id that an entry speaks of is given to anything else.
    async fn skip_ids(&self, conn: &mut PgConnection) -> Result<(), LedgerError> {
        for (kind, table) in [
            ("job", "jobs"),
            ("hold", "holds"),
            ("pause", "pauses"),
            ("policy", "policies"),
            ("request", "requests"),
            ("approval", "approvals"),
        ] {
            let Some(id) = self.ids.get(kind) else { continue };
            let skip = format!(
                "select setval(s.name, greatest($1, nextval(s.name))) from (select pg_get_serial_sequence('retention.{table}', 'id')::regclass as name) s"
            );
            sqlx::query(AssertSqlSafe(skip)).bind(id).execute(&mut *conn).await?;
        }
        Ok(())
    }

    /// Everything is paused while an act is lost that stopped something; a guard that stood tripped does again. Yields what is lost.
    async fn stand_in(&self, conn: &mut PgConnection, by: &str) -> Result<Vec<String>, LedgerError> {
        if self.tripped {
            crate::safeguards::trip(&mut *conn, "ledger: the guard stood tripped when the entries that were replayed were written").await?;
        }
        let mut lost = Vec::new();
        for (kind, id) in &self.acts {
            let there: bool = sqlx::query_scalar(AssertSqlSafe(format!("select exists (select 1 from retention.{kind}s where id = $1)")))
                .bind(id)
                .fetch_one(&mut *conn)
                .await?;
            if !there {
                lost.push(format!("{kind} {id}"));
            }
        }
        // A request that is lost deletes nothing.
        if self.acts.iter().any(|(kind, id)| kind != "request" && lost.contains(&format!("{kind} {id}"))) {
            let why = format!("the database came back without {}; resume once they are placed again", lost.join(", "));
            let scope = crate::safeguards::control::Scope::default();
            crate::safeguards::control::pause(conn, &scope, &why, by).await?;
        }
        Ok(lost)
    }
}
