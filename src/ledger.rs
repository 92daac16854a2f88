//! The ledger: what was scheduled, begun, deleted, held and decided, in an order that nobody can change unseen. Whoever changes something writes the entry in
//! the same transaction (`migrations/…_ledger.sql`, `jobs`, `verifier`); here entries get their number, the tree over them grows, its root is signed, and
//! files outside the database keep up. A database that is older than those files, or differs from what was signed, purges nothing.

mod archive;
mod certify;
mod check;
mod key;
mod number;
mod outward;
mod replay;
mod state;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, PgConnection};

use crate::{
    config,
    database::{Database, DatabaseError, Purpose, Tx},
    notices,
    proof::{Checkpoint, Unproven, VerifierKey, tree::Tiles},
    safeguards, spans,
};

pub use archive::Archive;
pub use certify::{Evidence, Proven, evidence};
pub use check::{Checked, Finding};
pub use key::{create, generate, signer};
pub use replay::Replayed;

/// Held while entries are numbered: one replica at a time.
const LEDGER_LOCK: i64 = 0x7265_7465_6e74_0004;
/// What a break begins with that is about the files: who has none cannot say that it is mended.
const FILES: &str = "files: ";
/// Entries numbered in one transaction.
const PAGE: i64 = 4_096;

/// Why the ledger does not go on.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The main database.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// A file outside the database.
    #[error("{0}: {1}")]
    File(PathBuf, #[source] std::io::Error),
    /// The key that signs is not the ledger's.
    #[error("{0}")]
    Key(String),
    /// The database has fewer entries than a checkpoint outside of it, or than this process has seen: it is an older one.
    #[error(
        "the database has {size} entries, and {vouched} were signed: it is an older one, and nothing is purged until `retentiond ledger replay`"
    )]
    Behind {
        /// Entries that it has.
        size: u64,
        /// Entries that were signed.
        vouched: u64,
    },
    /// It is not what was signed.
    #[error("the ledger is not the one that was signed: {0}")]
    Broken(String),
}

impl From<sqlx::Error> for LedgerError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

impl From<Unproven> for LedgerError {
    fn from(error: Unproven) -> Self {
        Self::Broken(error.to_string())
    }
}

/// Which ledger it is, and how long.
#[derive(Debug, Clone)]
pub struct Head {
    /// The key that checks its signatures; its name is the ledger's origin.
    pub key: VerifierKey,
    /// The key that signs, where the database keeps it.
    secret: Option<secrecy::SecretString>,
    /// Entries that have a number.
    pub size: u64,
    /// Entries that somebody has seen signed elsewhere; with fewer, only a replay goes on.
    behind: u64,
}

/// Reads which ledger it is.
///
/// # Errors
/// Those of the database; a row that is missing or spoilt is a broken ledger.
pub async fn head(conn: &mut PgConnection) -> Result<Head, LedgerError> {
    let row: Option<(String, String, Option<String>, i64, i64)> =
        sqlx::query_as("select origin, key, secret, size, coalesce((select ledger_behind from retention.guard), 0) from retention.ledger")
            .fetch_optional(conn)
            .await?;
    let (origin, key, secret, size, behind) = row.ok_or_else(|| broken("its row in retention.ledger is missing"))?;
    let key = VerifierKey::parse(&key).map_err(|why| broken(format!("its key in retention.ledger {why}")))?;
    if key.name() != origin {
        return Err(broken(format!("its key in retention.ledger is of {} and not of {origin}", key.name())));
    }
    Ok(Head { key, secret: secret.map(Into::into), size: size.unsigned_abs(), behind: behind.unsigned_abs() })
}

fn broken(why: impl Into<String>) -> LedgerError {
    LedgerError::Broken(why.into())
}

/// The ledger as monitors see it.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Figures {
    /// Entries that have a number.
    pub entries: i64,
    /// Entries that wait for one.
    pub unnumbered: i64,
    /// Entries that a checkpoint elsewhere vouches for, and that are not here.
    pub missing: i64,
    /// It is there, and nothing that was found last is against it.
    pub sound: bool,
    /// When the last checkpoint was signed.
    pub signed_at: Option<DateTime<Utc>>,
}

/// Reads the figures. What is said about soundness is what the last look found; this one checks nothing.
///
/// # Errors
/// Those of the database.
pub async fn figures(conn: &mut PgConnection) -> Result<Figures, DatabaseError> {
    Ok(sqlx::query_as(
        "select coalesce(l.size, 0) as entries, (select count(*) from retention.ledger_pending) as unnumbered,
                greatest(coalesce(g.ledger_behind, 0) - coalesce(l.size, 0), 0) as missing,
                l.size is not null and g.singleton is not null and g.ledger_broken is null and coalesce(g.ledger_behind, 0) <= l.size as sound,
                (select signed_at from retention.ledger_checkpoints order by size desc limit 1) as signed_at
         from (values (1)) one left join retention.ledger l on true left join retention.guard g on true",
    )
    .fetch_one(conn)
    .await?)
}

/// The keys that signed the ledger, each with the index of the entry that brought it in: what comes after is signed with it.
///
/// # Errors
/// Those of the database; an entry that names none is a broken ledger.
pub(crate) async fn keys(conn: &mut PgConnection) -> Result<Vec<(u64, VerifierKey)>, LedgerError> {
    let rows: Vec<(i64, Vec<u8>)> =
        sqlx::query_as("select index, entry from retention.ledger_entries where kind = 'ledger' order by index").fetch_all(conn).await?;
    rows.iter().filter_map(|(index, entry)| key_in(index.unsigned_abs(), entry).transpose()).collect()
}

/// The key that an entry brings in, if it brings in one.
fn key_in(index: u64, entry: &[u8]) -> Result<Option<(u64, VerifierKey)>, LedgerError> {
    let entry: serde_json::Value = serde_json::from_slice(entry).map_err(|_| broken(format!("entry {index} is no JSON")))?;
    let brings = entry["kind"] == "ledger" && (entry["event"] == "opened" || entry["event"] == "key_changed");
    let key = entry["key"].as_str().filter(|_| brings);
    let parsed = |key| VerifierKey::parse(key).map_err(|why| broken(format!("the key in entry {index} {why}")));
    Ok(key.map(parsed).transpose()?.map(|key| (index, key)))
}

/// The last checkpoint that the database has; `None` before the first.
///
/// # Errors
/// Those of the database; a checkpoint that the key did not sign is a broken ledger.
pub async fn last_checkpoint(conn: &mut PgConnection) -> Result<Option<(String, Checkpoint)>, LedgerError> {
    // With the key of the same instant: it may be changed.
    let row: Option<(String, String)> = sqlx::query_as(
        "select l.key, c.note from retention.ledger l, (select note from retention.ledger_checkpoints order by size desc limit 1) c",
    )
    .fetch_optional(conn)
    .await?;
    let opened = |(key, note): (String, String)| {
        let key = VerifierKey::parse(&key).map_err(|why| broken(format!("its key in retention.ledger {why}")))?;
        match Checkpoint::open(&note, &key) {
            Ok(checkpoint) => Ok((note, checkpoint)),
            Err(why) => Err(broken(format!("its last checkpoint {why}"))),
        }
    };
    row.map(opened).transpose()
}

/// The tiles of these places, as the database has them.
///
/// # Errors
/// Those of the database; bytes that are no hashes are a broken ledger.
pub(crate) async fn tiles(conn: &mut PgConnection, ids: &[(u8, u64)]) -> Result<Tiles, LedgerError> {
    let rows: Vec<(i16, i64, Vec<u8>)> = sqlx::query_as(
        "select t.level, t.index, t.hashes from unnest($1::int2[], $2::int8[]) as i(level, index) join retention.ledger_tiles t using (level, index)",
    )
    .bind(ids.iter().map(|(level, _)| i16::from(*level)).collect::<Vec<_>>())
    .bind(ids.iter().map(|(_, index)| i64::try_from(*index).unwrap_or(i64::MAX)).collect::<Vec<_>>())
    .fetch_all(conn)
    .await?;
    let mut tiles = Tiles::default();
    for (level, index, bytes) in rows {
        let hashes = crate::proof::tiles::hashes_of(&bytes).ok_or_else(|| broken(format!("tile {level}/{index} holds no hashes")))?;
        tiles.insert((u8::try_from(level).unwrap_or(u8::MAX), index.unsigned_abs()), hashes);
    }
    Ok(tiles)
}

/// The ledger of one database, and what this process has seen of it.
#[derive(Debug, Clone)]
pub struct Ledger {
    database: Database,
    config: Arc<config::Config>,
    seen: Seen,
}

/// The most entries that this process has seen, here or in its files: a database with fewer is an older one.
#[derive(Debug, Clone, Default)]
pub struct Seen(Arc<AtomicU64>);

impl Seen {
    /// The most so far: to be asked before the database is.
    #[must_use]
    pub fn most(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// The database has so many entries, and `before` it was asked so many had been seen.
    ///
    /// # Errors
    /// A refusal, when it has fewer.
    pub fn at_least(&self, size: u64, before: u64) -> Result<(), DatabaseError> {
        if size < before {
            let why = format!("the ledger has {size} entries and had {before} before: this database is an older one");
            return Err(DatabaseError::Refused(why));
        }
        self.note(size);
        Ok(())
    }

    /// Remembers so many.
    pub fn note(&self, size: u64) {
        self.0.fetch_max(size, Ordering::Relaxed);
    }
}

impl Ledger {
    /// The ledger that this configuration writes.
    #[must_use]
    pub fn new(database: Database, config: Arc<config::Config>, seen: Seen) -> Self {
        Self { database, config, seen }
    }

    /// Numbers what has no number, signs, and lets the files keep up. Idempotent. What it finds wrong stops every purge, here and in every replica, and is
    /// said once.
    ///
    /// # Errors
    /// Why it does not go on.
    pub async fn pass(&self) -> Result<u64, LedgerError> {
        let pass = async {
            let passed = self.keep_up().await;
            self.mark(passed.as_ref().err()).await?;
            passed
        };
        spans::number(Box::pin(pass)).await
    }

    /// What is wrong with the ledger itself stops every purge.
    async fn mark(&self, wrong: Option<&LedgerError>) -> Result<(), LedgerError> {
        match wrong {
            Some(LedgerError::Behind { size, vouched }) => self.mark_behind(*size, *vouched).await,
            Some(LedgerError::Broken(why)) => self.mark_broken(why).await,
            None | Some(LedgerError::Database(_) | LedgerError::File(..) | LedgerError::Key(_)) => Ok(()),
        }
    }

    /// Makes sure that this is no older database than the files or this process know, and that its tree is the one that was signed last. Nothing may be
    /// purged before that is known.
    ///
    /// # Errors
    /// Why nothing may be purged.
    pub async fn recognize(&self) -> Result<(), LedgerError> {
        let recognized = async {
            let filed = self.filed(self.archive().await?.as_ref()).await?;
            let mut tx = self.database.begin(Purpose::Write).await?;
            let alone = alone(&mut tx).await?;
            let head = head(&mut tx).await?;
            self.not_behind(&head, filed)?;
            // Whoever numbers entries at this instant looks as well.
            if alone {
                number::as_signed(&mut tx, &head).await?;
            }
            Ok(())
        };
        let recognized = recognized.await;
        self.mark(recognized.as_ref().err()).await?;
        recognized
    }

    async fn keep_up(&self) -> Result<u64, LedgerError> {
        let archive = self.archive().await?;
        let (mut numbered, mut more) = (0, true);
        while more {
            // The files before the database: another replica may let both go on meanwhile.
            let filed = self.filed(archive.as_ref()).await?;
            let mut tx = self.database.begin(Purpose::Bulk).await?;
            let alone = alone(&mut tx).await?;
            let head = head(&mut tx).await?;
            self.not_behind(&head, filed)?;
            let signer = self.signer(&head)?;
            // Somebody else is at it; what is left then comes with the next pass.
            more = alone && {
                notices::keep_registered(&mut tx, &self.config).await?;
                let page = number::page(&mut tx, &head, &signer, PAGE).await?;
                numbered += page;
                Database::commit(tx).await?;
                crate::crash::point("ledger.numbered");
                i64::try_from(page).unwrap_or(i64::MAX) >= PAGE
            };
        }
        if let Some(archive) = archive {
            self.archive_up_to_now(&archive).await?;
        }
        Ok(numbered)
    }

    /// A database with fewer entries than a checkpoint in the files, or than this process has seen, is an older one.
    fn not_behind(&self, head: &Head, filed: u64) -> Result<(), LedgerError> {
        let vouched = filed.max(head.behind);
        if head.size < vouched {
            return Err(LedgerError::Behind { size: head.size, vouched });
        }
        self.seen.note(head.size);
        Ok(())
    }

    /// Entries that the files vouch for, or that this process has seen. Asked before the database, which may go on meanwhile.
    async fn filed(&self, archive: Option<&Archive>) -> Result<u64, LedgerError> {
        let seen = self.seen.most();
        match archive {
            Some(archive) => Ok(archive.size().await?.max(seen)),
            None => Ok(seen),
        }
    }

    /// The files of this database's ledger, where a folder for them is configured.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn archive(&self) -> Result<Option<Archive>, LedgerError> {
        let Some(folder) = &self.config.ledger.checkpoint_dir else { return Ok(None) };
        let mut tx = self.database.begin(Purpose::Read).await?;
        let origin = head(&mut tx).await?.key.name().to_owned();
        let keys = self.keys(&mut tx).await?;
        let (server, database): (i64, String) =
            sqlx::query_as("select system_identifier, current_database()::text from pg_control_system()").fetch_one(&mut *tx).await?;
        Ok(Some(Archive::of(folder, server, &database, &origin, keys)))
    }

    /// The files of this ledger in another folder.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn archive_at(&self, folder: PathBuf) -> Result<Archive, LedgerError> {
        let mut tx = self.database.begin(Purpose::Read).await?;
        Ok(Archive::at(folder, self.keys(&mut tx).await?))
    }

    /// The keys that files of this ledger may be signed with: those the database knows, and, when it is older than a change of key, the configured one.
    async fn keys(&self, conn: &mut PgConnection) -> Result<Vec<VerifierKey>, LedgerError> {
        let mut all = vec![head(&mut *conn).await?.key];
        all.extend(self.config.ledger.key.as_ref().map(crate::proof::SigningKey::verifier));
        all.extend(keys(conn).await?.into_iter().map(|(_, key)| key));
        Ok(all)
    }

    /// Brings the files up to the database's last checkpoint.
    ///
    /// # Errors
    /// Those of the database and of the files; files that are not of this ledger are a broken one.
    pub async fn archive_up_to_now(&self, archive: &Archive) -> Result<u64, LedgerError> {
        let mut tx = self.database.begin(Purpose::Compare).await?;
        archive.keep_up(&mut tx).await
    }

    fn signer(&self, head: &Head) -> Result<crate::proof::SigningKey, LedgerError> {
        key::signer(self.config.ledger.key.as_ref(), head)
    }

    async fn stop(&self) -> Result<Tx, DatabaseError> {
        let mut tx = self.database.begin(Purpose::Write).await?;
        safeguards::take(&mut tx, safeguards::STOP_LOCK).await?;
        Ok(tx)
    }

    async fn mark_behind(&self, size: u64, vouched: u64) -> Result<(), LedgerError> {
        let mut tx = self.stop().await?;
        let marked = sqlx::query("update retention.guard set ledger_behind = $1 where coalesce(ledger_behind, 0) < $1")
            .bind(i64::try_from(vouched).unwrap_or(i64::MAX))
            .execute(&mut *tx)
            .await?;
        Database::commit(tx).await?;
        if marked.rows_affected() > 0 {
            tracing::error!(
                event = "ledger.behind",
                size,
                vouched,
                "the database is older than its ledger's files: nothing is purged until somebody replays them"
            );
        }
        Ok(())
    }

    async fn mark_broken(&self, why: &str) -> Result<(), LedgerError> {
        let mut tx = self.stop().await?;
        let marked =
            sqlx::query("update retention.guard set ledger_broken = $1 where ledger_broken is null").bind(why).execute(&mut *tx).await?;
        Database::commit(tx).await?;
        if marked.rows_affected() > 0 {
            tracing::error!(
                event = "ledger.broken",
                reason = why,
                "the ledger is not the one that was signed: nothing is purged until it is"
            );
        }
        Ok(())
    }

    /// Everything was checked and nothing found: a break that was mended stops nothing any more.
    async fn mark_sound(&self, with_files: bool) -> Result<(), LedgerError> {
        let mut tx = self.database.begin(Purpose::Write).await?;
        let marked = sqlx::query(
            "update retention.guard set ledger_broken = null where ledger_broken is not null and ($1 or not starts_with(ledger_broken, $2))",
        )
        .bind(with_files)
        .bind(FILES)
        .execute(&mut *tx)
        .await?;
        Database::commit(tx).await?;
        if marked.rows_affected() > 0 {
            tracing::warn!(event = "ledger.mended", "the ledger is sound again: what is due goes on");
        }
        Ok(())
    }
}

/// Whether nobody else numbers entries until this transaction ends.
async fn alone(conn: &mut PgConnection) -> Result<bool, DatabaseError> {
    Ok(sqlx::query_scalar("select pg_try_advisory_xact_lock($1)").bind(LEDGER_LOCK).fetch_one(conn).await?)
}

/// Writes, unnumbered, what happened to the ledger itself.
async fn note(conn: &mut PgConnection, event: &str, act: Option<(&str, &str)>, body: &serde_json::Value) -> Result<(), DatabaseError> {
    sqlx::query(AssertSqlSafe("insert into retention.ledger_pending (event, kind, actor, reason, body) values ($1, 'ledger', $2, $3, $4)"))
        .bind(event)
        .bind(act.map(|(actor, _)| actor))
        .bind(act.map(|(_, reason)| reason))
        .bind(sqlx::types::Json(body))
        .execute(conn)
        .await?;
    Ok(())
}
