//! Whether the ledger is what was signed, and the daemon's tables what the ledger says: one walk over all entries, a page at a time, whatever there are.
//! Reads only. Each finding names what was altered.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use sqlx::PgConnection;

use super::{Archive, FILES, Ledger, LedgerError, head, key_in, state, tiles};
use crate::{
    database::Purpose,
    proof::{
        Checkpoint, VerifierKey, canonical,
        tiles::{CHECKPOINT, hashes_of},
        tree::{Hash, TileId, Tiles, WIDTH, empty_root, hashes, leaf_hash},
    },
};

/// Entries read at once: whole bundles.
pub(super) const STEP: u64 = 4 * WIDTH;

/// Something that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind it is: a word for machines.
    pub finding: &'static str,
    /// What it is about: `entry 7`, `tile 0/3`, `checkpoint 12`, `job 5`, a path.
    pub subject: String,
    /// In words.
    pub problem: String,
}

impl Finding {
    pub(super) fn new(finding: &'static str, subject: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { finding, subject: subject.into(), problem: problem.into() }
    }
}

/// What a check came to.
#[derive(Debug, Clone, Serialize)]
pub struct Checked {
    /// Which ledger.
    pub origin: String,
    /// The key that signs it.
    pub key: String,
    /// Entries that were checked.
    pub entries: u64,
    /// Checkpoints that vouch for them.
    pub checkpoints: u64,
    /// Entries in the files outside the database; null when there are none.
    pub filed: Option<u64>,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// A signature with the entries it vouches for.
pub(super) struct Signed {
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) note: String,
}

/// Walks over entries from the first on, and says what does not fit.
pub(super) struct Walk {
    tree: Tiles,
    size: u64,
    keys: Vec<(u64, VerifierKey)>,
    signed: std::iter::Peekable<std::vec::IntoIter<Signed>>,
    /// Tiles whose stored hashes are others than the entries have; whose fault that is the next checkpoint tells.
    differing: Vec<(TileId, Vec<u64>)>,
    pub(super) findings: Vec<Finding>,
}

impl Walk {
    /// A walk that will meet these checkpoints, the smallest first.
    pub(super) fn new(signed: Vec<Signed>) -> Self {
        Self {
            tree: Tiles::default(),
            size: 0,
            keys: Vec::new(),
            signed: signed.into_iter().peekable(),
            differing: Vec::new(),
            findings: Vec::new(),
        }
    }

    /// The next entry. False when the walk cannot go on.
    pub(super) fn entry(&mut self, index: u64, text: &[u8]) -> Result<bool, LedgerError> {
        while self.signed.peek().is_some_and(|signed| signed.size == self.size) {
            self.meet()?;
        }
        if index != self.size {
            let missing =
                if index - self.size == 1 { format!("entry {}", self.size) } else { format!("entries {} to {}", self.size, index - 1) };
            self.findings.push(Finding::new("entry_missing", missing, "it is not there, and those behind it are"));
            return Ok(false);
        }
        let subject = || format!("entry {index}");
        match serde_json::from_slice::<Value>(text) {
            Ok(entry) => {
                if entry["index"] != index {
                    let says = format!("it says that it is entry {}", entry["index"]);
                    self.findings.push(Finding::new("entry_moved", subject(), says));
                }
                if canonical(&entry).is_none_or(|canonical| canonical.as_bytes() != text) {
                    self.findings.push(Finding::new("entry_malformed", subject(), "it is not written the one way that it can be"));
                }
                match key_in(index, text) {
                    Ok(key) => self.keys.extend(key),
                    Err(why) => self.findings.push(Finding::new("entry_malformed", subject(), why.to_string())),
                }
            }
            Err(_) => self.findings.push(Finding::new("entry_malformed", subject(), "it is no JSON")),
        }
        self.tree.push(index, leaf_hash(text), |_| {})?;
        self.size += 1;
        Ok(true)
    }

    /// The tiles that have become full since the last call, to be compared with those that are stored.
    pub(super) fn full(&mut self) -> BTreeMap<TileId, Vec<Hash>> {
        self.tree.take_full()
    }

    /// The tiles that are not full, at the end.
    fn edge(&self) -> BTreeMap<TileId, Vec<Hash>> {
        Tiles::edge(self.size).into_iter().filter_map(|id| Some((id, self.tree.get(id)?.to_vec()))).collect()
    }

    /// Compares a tile with what is stored of it.
    fn tile(&mut self, id: TileId, ours: &[Hash], stored: Option<&[Hash]>) {
        let (level, index) = id;
        match stored {
            None => {
                self.findings.push(Finding::new("tile_missing", format!("tile {level}/{index}"), "it is not there, or holds no hashes"));
            }
            Some(stored) if stored != ours => {
                let differs = |at: &usize| stored.get(*at) != ours.get(*at);
                let places = (0..ours.len().max(stored.len())).filter(differs).map(|at| index * WIDTH + at as u64);
                self.differing.push((id, places.collect()));
            }
            Some(_) => {}
        }
    }

    /// The next checkpoint, whose entries have all been seen.
    fn meet(&mut self) -> Result<(), LedgerError> {
        let Some(signed) = self.signed.next() else { return Ok(()) };
        // Whoever was the ledger's key when it was signed: an entry that brings in another is signed with that.
        let key = self.keys.iter().rev().find(|(index, _)| *index < signed.size).or(self.keys.first()).map(|(_, key)| key);
        let opened = key.map(|key| Checkpoint::open(&signed.note, key));
        let root = if self.size == 0 { empty_root() } else { self.tree.root(self.size)? };
        let mut sound = false;
        match opened {
            None => self.findings.push(Finding::new("checkpoint_forged", signed.name, "no entry before it names a key")),
            Some(Err(why)) => {
                let kind = if matches!(why, crate::proof::NoteError::Unsigned(_)) { "checkpoint_unsigned" } else { "checkpoint_forged" };
                self.findings.push(Finding::new(kind, signed.name, format!("it {why}")));
            }
            Some(Ok(checkpoint)) if checkpoint.size != signed.size => {
                let says = format!("it vouches for {} entries and is kept as one of {}", checkpoint.size, signed.size);
                self.findings.push(Finding::new("checkpoint_moved", signed.name, says));
            }
            Some(Ok(checkpoint)) if checkpoint.root != root => {
                let says = format!("the first {} entries are not those that it was signed over", signed.size);
                self.findings.push(Finding::new("checkpoint_contradicts", signed.name, says));
            }
            Some(Ok(_)) => sound = true,
        }
        self.blame(sound);
        Ok(())
    }

    /// Tiles that differ from entries which were signed were altered themselves; else it was the entries.
    fn blame(&mut self, entries_are_signed: bool) {
        for ((level, index), places) in std::mem::take(&mut self.differing) {
            if entries_are_signed {
                self.findings.push(Finding::new(
                    "tile_altered",
                    format!("tile {level}/{index}"),
                    "its hashes are not those of the entries",
                ));
            } else if level == 0 {
                let altered = |place| {
                    Finding::new("entry_altered", format!("entry {place}"), "its hash is not the one that was stored when it was written")
                };
                self.findings.extend(places.into_iter().map(altered));
            }
        }
    }

    /// Nothing comes any more. Returns the key that signs now.
    pub(super) fn end(&mut self) -> Result<Option<VerifierKey>, LedgerError> {
        while self.signed.peek().is_some_and(|signed| signed.size == self.size) {
            self.meet()?;
        }
        for signed in self.signed.by_ref() {
            let says = format!("it vouches for {} entries, and there are {}: the rest was cut off", signed.size, self.size);
            self.findings.push(Finding::new("entries_cut_off", signed.name, says));
        }
        self.blame(false);
        Ok(self.keys.last().map(|(_, key)| key.clone()))
    }
}

impl Ledger {
    /// Checks everything: the tree, each checkpoint that is kept, the files outside, the daemon's own tables. Flat in memory; locks nothing.
    ///
    /// # Errors
    /// Those of the database and of the files. What is wrong is not an error but a finding.
    pub async fn check(&self) -> Result<Checked, LedgerError> {
        let archive = match self.archive().await {
            Ok(archive) => archive,
            // The walk says which entry it is.
            Err(LedgerError::Broken(_)) => None,
            Err(error) => return Err(error),
        };
        // The files first: a transaction that waits for them would not live so long.
        let looked = match &archive {
            Some(archive) => Some((archive, archive.check().await)),
            None => None,
        };
        let mut tx = self.database.begin(Purpose::Compare).await?;
        // Checkpoints before the entries they vouch for: what is signed while we look is the next check's.
        let notes: Vec<(i64, String)> =
            sqlx::query_as("select size, note from retention.ledger_checkpoints order by size").fetch_all(&mut *tx).await?;
        let head = head(&mut tx).await?;
        let signed: Vec<Signed> =
            notes.into_iter().map(|(size, note)| Signed { name: format!("checkpoint {size}"), size: size.unsigned_abs(), note }).collect();
        let last = signed.last().map_or(0, |signed| signed.size);
        let checkpoints = signed.len() as u64;
        let mut walk = Walk::new(signed);
        let (mut from, mut whole) = (0, true);
        while from < head.size && whole {
            whole = self.step(&mut tx, &mut walk, from, head.size).await?;
            from += STEP;
        }
        let edge = walk.edge();
        compare(&mut tx, &mut walk, edge).await?;
        let key = walk.end()?;
        let mut findings = walk.findings;
        if whole && walk.size != head.size {
            let says = format!("it says {} entries, and there are {}", head.size, walk.size);
            findings.push(Finding::new("entries_cut_off", "retention.ledger", says));
        }
        // What came between the two questions is signed by now.
        let signed_since: i64 =
            sqlx::query_scalar("select coalesce(max(size), 0) from retention.ledger_checkpoints").fetch_one(&mut *tx).await?;
        if last.max(signed_since.unsigned_abs()) < head.size {
            let says = format!("none vouches for the last {} entries", head.size - last);
            findings.push(Finding::new("checkpoint_missing", format!("checkpoint {}", head.size), says));
        }
        if key.is_some_and(|key| key != head.key) {
            findings.push(Finding::new("key_changed", "retention.ledger", "its key is not the one that the entries name"));
        }
        findings.extend(beyond(&mut tx, head.size).await?);
        // What an entry tells that is no JSON, nobody can ask the server.
        if !findings.iter().any(|f| f.finding == "entry_malformed") {
            findings.extend(state::against(&mut tx).await?);
        }
        let filed = match looked {
            Some((archive, Ok((size, found)))) => {
                findings.extend(archive.against(&mut tx, size, found).await?);
                Some(size)
            }
            Some((archive, Err(LedgerError::Broken(why)))) => {
                findings.push(Finding::new("file_altered", archive.root().display().to_string(), why));
                None
            }
            Some((_, Err(error))) => return Err(error),
            None => None,
        };
        Ok(Checked { origin: head.key.name().to_owned(), key: head.key.to_string(), entries: walk.size, checkpoints, filed, findings })
    }

    /// [`Ledger::check`], whose findings stop every purge, and whose silence lets it go on.
    ///
    /// # Errors
    /// Those of [`Ledger::check`].
    pub async fn check_and_mark(&self) -> Result<Checked, LedgerError> {
        let checked = self.check().await?;
        match checked.findings.first() {
            Some(first) => {
                let more = checked.findings.len() - 1;
                let more = if more == 0 { String::new() } else { format!(" (and {more} more; `retentiond ledger verify` names them)") };
                let files = if first.finding.starts_with("file_") { FILES } else { "" };
                self.mark_broken(&format!("{files}{}: {}{more}", first.subject, first.problem)).await?;
            }
            None => self.mark_sound(checked.filed.is_some()).await?,
        }
        Ok(checked)
    }

    /// A page of entries: hashed, compared with the tiles, and with the tables they speak of.
    async fn step(&self, conn: &mut PgConnection, walk: &mut Walk, from: u64, size: u64) -> Result<bool, LedgerError> {
        let entries: Vec<(i64, Vec<u8>, String, Option<i64>)> = sqlx::query_as(
            "select index, entry, kind, reference from retention.ledger_entries where index >= $1 and index < $2 order by index",
        )
        .bind(i64::try_from(from).unwrap_or(i64::MAX))
        .bind(i64::try_from(size.min(from + STEP)).unwrap_or(i64::MAX))
        .fetch_all(&mut *conn)
        .await?;
        for (index, entry, kind, reference) in &entries {
            if !walk.entry(index.unsigned_abs(), entry)? {
                return Ok(false);
            }
            let said: Value = serde_json::from_slice(entry).unwrap_or_default();
            let labelled = said["kind"] == kind.as_str() && said["reference"].as_str() == reference.map(|r| r.to_string()).as_deref();
            if !labelled {
                walk.findings.push(Finding::new(
                    "entry_mislabelled",
                    format!("entry {index}"),
                    "its columns say another thing than itself",
                ));
            }
        }
        let full = walk.full();
        compare(&mut *conn, walk, full).await?;
        let found = state::of(conn, &entries).await?;
        walk.findings.extend(found);
        Ok(true)
    }
}

/// Compares tiles with those in the database.
async fn compare(conn: &mut PgConnection, walk: &mut Walk, ours: BTreeMap<TileId, Vec<Hash>>) -> Result<(), LedgerError> {
    let ids: Vec<TileId> = ours.keys().copied().collect();
    let stored = match tiles(conn, &ids).await {
        Ok(stored) => stored,
        // Which of them it is, one by one.
        Err(LedgerError::Broken(_)) => Tiles::default(),
        Err(error) => return Err(error),
    };
    for (id, ours) in ours {
        // Entries that were numbered while we looked have made it longer; what is behind their end is looked for apart.
        walk.tile(id, &ours, stored.get(id).map(|stored| stored.get(..ours.len()).unwrap_or(stored)));
    }
    Ok(())
}

/// Tiles and entries behind the end.
async fn beyond(conn: &mut PgConnection, size: u64) -> Result<Vec<Finding>, LedgerError> {
    let mut findings = Vec::new();
    // Entries may have been added while we looked, by whoever signed them.
    let last: Option<i64> =
        sqlx::query_scalar("select max(index) from retention.ledger_entries where index >= (select size from retention.ledger)")
            .fetch_one(&mut *conn)
            .await?;
    findings.extend(last.map(|last| Finding::new("entry_added", format!("entry {last}"), "it is behind the end of the ledger")));
    let extra: Vec<(i16, i64)> = sqlx::query_as(
        "select t.level, t.index from retention.ledger_tiles t join unnest($1::int2[], $2::int8[]) as l(level, tiles) on t.level = l.level and t.index >= l.tiles
         union all select t.level, t.index from retention.ledger_tiles t where t.level <> all($1) limit 100",
    )
    .bind((0..8_i16).collect::<Vec<_>>())
    .bind((0..8_u8).map(|level| i64::try_from(hashes(size, level).div_ceil(WIDTH)).unwrap_or(i64::MAX)).collect::<Vec<_>>())
    .fetch_all(&mut *conn)
    .await?;
    // The size after the tiles: what was added meanwhile is within it.
    let now: i64 = sqlx::query_scalar("select size from retention.ledger").fetch_one(conn).await?;
    let within = |level: i16, index: i64| {
        u8::try_from(level).is_ok_and(|level| level < 8 && index.unsigned_abs() < hashes(now.unsigned_abs(), level).div_ceil(WIDTH))
    };
    findings.extend(
        extra
            .iter()
            .filter(|(level, index)| !within(*level, *index))
            .map(|(level, index)| Finding::new("tile_added", format!("tile {level}/{index}"), "it is behind the end of the tree")),
    );
    Ok(findings)
}

impl Archive {
    /// Checks the files by themselves, as somebody who has nothing else would. Returns how many entries they have.
    ///
    /// # Errors
    /// Those of the files, as far as they cannot be read at all.
    pub async fn check(&self) -> Result<(u64, Vec<Finding>), LedgerError> {
        // Nobody writes while it is read.
        let _locked = self.shared().await?;
        let Some((note, checkpoint)) = self.checkpoint().await? else { return Ok((0, Vec::new())) };
        let name = self.root().join("checkpoint").display().to_string();
        let mut walk = Walk::new(vec![Signed { name, size: checkpoint.size, note }]);
        for index in 0..checkpoint.size.div_ceil(WIDTH) {
            for (entry, at) in self.entries(index, checkpoint.size).await?.iter().zip(index * WIDTH..) {
                walk.entry(at, entry)?;
            }
            let full = walk.full();
            self.compare(&mut walk, full, checkpoint.size).await?;
        }
        let edge = walk.edge();
        self.compare(&mut walk, edge, checkpoint.size).await?;
        walk.end()?;
        Ok((checkpoint.size, walk.findings))
    }

    async fn compare(&self, walk: &mut Walk, ours: BTreeMap<TileId, Vec<Hash>>, size: u64) -> Result<(), LedgerError> {
        for ((level, index), ours) in ours {
            let width = WIDTH.min(hashes(size, level) - index * WIDTH);
            let stored = self.tile(level, index, width).await?.and_then(|bytes| hashes_of(&bytes));
            let stored = stored.map(|mut hashes| {
                hashes.truncate(ours.len());
                hashes
            });
            walk.tile((level, index), &ours, stored.as_deref());
        }
        Ok(())
    }

    /// What was found in the files, and whether the database has the same entries as they have.
    async fn against(&self, conn: &mut PgConnection, filed: u64, found: Vec<Finding>) -> Result<Vec<Finding>, LedgerError> {
        let in_files =
            |f: Finding| Finding { subject: format!("{} in {}", f.subject, self.root().display()), finding: in_file(f.finding), ..f };
        let mut findings: Vec<Finding> = found.into_iter().map(in_files).collect();
        let size = head(&mut *conn).await?.size;
        let checkpoint = self.root().join(CHECKPOINT).display().to_string();
        if filed > size {
            let says = format!("it vouches for {filed} entries, and the database has {size}");
            findings.push(Finding::new("database_behind", checkpoint, says));
        } else if let Some((_, vouched)) = self.checkpoint().await?.filter(|(_, vouched)| vouched.size == filed) {
            // Tiles that have grown since still begin with what they held then.
            let edge = tiles(&mut *conn, &Tiles::edge(filed)).await;
            let same = edge.is_ok_and(|edge| edge.root(filed).is_ok_and(|root| root == vouched.root));
            if !same {
                let says = format!("the first {filed} entries of the database are not those of the files");
                findings.push(Finding::new("file_contradicts", checkpoint, says));
            }
        }
        Ok(findings)
    }
}

/// The word of a finding that is about a file.
fn in_file(finding: &'static str) -> &'static str {
    match finding {
        "entry_altered" | "entry_moved" | "entry_malformed" | "entry_missing" => "file_entry_altered",
        "tile_altered" | "tile_missing" => "file_tile_altered",
        "checkpoint_forged" | "checkpoint_unsigned" | "checkpoint_contradicts" | "checkpoint_moved" => "file_checkpoint_altered",
        other => other,
    }
}
