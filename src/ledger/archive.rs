//! The ledger in files, as C2SP tlog-tiles lays it out: what `ledger export` writes, and what a configured folder holds at all times. Each file is written
//! beside its place and renamed into it; the checkpoint comes last. So whoever reads sees a whole ledger, if not the newest.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use sqlx::PgConnection;

use super::{FILES, LedgerError, broken, keys, last_checkpoint, tiles};
use crate::proof::{
    Checkpoint, VerifierKey,
    tiles::{CHECKPOINT, bundle, entries_of, entries_path, hash_bytes, hash_path},
    tree::{Hash, Tiles, WIDTH, hashes},
};

/// The keys that check the checkpoints, one to a line.
const KEYS: &str = "keys";
/// Whoever writes holds it.
const LOCK: &str = ".lock";

/// Files of one ledger.
#[derive(Debug, Clone)]
pub struct Archive {
    root: PathBuf,
    /// The keys that may have signed it.
    keys: Vec<VerifierKey>,
}

impl Archive {
    /// The files in this folder.
    #[must_use]
    pub fn at(root: PathBuf, keys: Vec<VerifierKey>) -> Self {
        Self { root, keys }
    }

    /// The files of one ledger in a folder that may hold those of many (R39).
    #[must_use]
    pub fn of(folder: &Path, server: i64, database: &str, origin: &str, keys: Vec<VerifierKey>) -> Self {
        let plain = |text: &str| text.replace(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '.', "_");
        Self::at(folder.join(format!("{server}-{}-{}", plain(database), plain(origin))), keys)
    }

    /// Where they are.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Its checkpoint; `None` when there is none yet.
    ///
    /// # Errors
    /// When it cannot be read, or no key of the ledger signed it: that is no absence.
    pub async fn checkpoint(&self) -> Result<Option<(String, Checkpoint)>, LedgerError> {
        let Some(note) = self.read(CHECKPOINT).await? else { return Ok(None) };
        let note = String::from_utf8(note).map_err(|_| self.spoilt(CHECKPOINT, "it is not UTF-8"))?;
        let mut why = None;
        for key in self.keys.iter().rev() {
            match Checkpoint::open(&note, key) {
                Ok(checkpoint) => return Ok(Some((note, checkpoint))),
                Err(error) => why = why.or(Some(error)),
            }
        }
        // A ledger that has not signed anything yet knows no key.
        let why = why.map_or_else(|| "the ledger has no key yet".to_owned(), |why| why.to_string());
        Err(self.spoilt(CHECKPOINT, &why))
    }

    /// Entries that its checkpoint vouches for.
    pub(super) async fn size(&self) -> Result<u64, LedgerError> {
        Ok(self.checkpoint().await?.map_or(0, |(_, checkpoint)| checkpoint.size))
    }

    fn spoilt(&self, path: &str, why: &str) -> LedgerError {
        broken(format!("{FILES}{}: {why}", self.root.join(path).display()))
    }

    /// The entries of one bundle, of a ledger with so many.
    pub(super) async fn entries(&self, index: u64, size: u64) -> Result<Vec<Vec<u8>>, LedgerError> {
        let width = WIDTH.min(size - index * WIDTH);
        let path = entries_path(index, width);
        // A bundle that was filled later has taken the place of its parts.
        let (path, bytes) = if let Some(bytes) = self.read(&path).await? {
            (path, bytes)
        } else {
            let whole = entries_path(index, WIDTH);
            let bytes = self.read(&whole).await?.ok_or_else(|| self.spoilt(&path, "it is missing"))?;
            (whole, bytes)
        };
        let mut entries = entries_of(&bytes).ok_or_else(|| self.spoilt(&path, "it ends in the middle of an entry"))?;
        if (entries.len() as u64) < width {
            return Err(self.spoilt(&path, &format!("it holds {} entries instead of {width}", entries.len())));
        }
        entries.truncate(usize::try_from(width).unwrap_or(usize::MAX));
        Ok(entries)
    }

    /// The bytes of one hash tile that has at least so many hashes.
    pub(super) async fn tile(&self, level: u8, index: u64, width: u64) -> Result<Option<Vec<u8>>, LedgerError> {
        let path = hash_path(level, index, width);
        match self.read(&path).await? {
            None if width < WIDTH => self.read(&hash_path(level, index, WIDTH)).await,
            bytes => Ok(bytes),
        }
    }

    /// Brings the files up to the last checkpoint of the database. Returns how many entries that has.
    pub(super) async fn keep_up(&self, conn: &mut PgConnection) -> Result<u64, LedgerError> {
        // One at a time: who has the folder brings it up to date.
        let Some(_locked) = self.lock().await? else { return Ok(0) };
        // The files before the database, which may go on meanwhile.
        let filed = self.checkpoint().await?;
        let Some((note, target)) = last_checkpoint(&mut *conn).await? else { return Ok(0) };
        let from = filed.as_ref().map_or(0, |(_, checkpoint)| checkpoint.size);
        if from > target.size {
            return Err(LedgerError::Behind { size: target.size, vouched: from });
        }
        if let Some((filed_note, filed)) = &filed {
            // Tiles that have grown since still begin with what they held then.
            let edge = tiles(&mut *conn, &Tiles::edge(from)).await?;
            if edge.root(from)? != filed.root {
                return Err(self.spoilt(CHECKPOINT, &format!("it vouches for other first {from} entries than the database has")));
            }
            if *filed_note == note {
                return Ok(target.size);
            }
        }
        let lines: Vec<String> = keys(&mut *conn).await?.iter().map(|(index, key)| format!("{index} {key}\n")).collect();
        self.write(KEYS, lines.concat().into_bytes()).await?;
        self.write_entries(&mut *conn, from, target.size).await?;
        self.write_tiles(conn, from, target.size).await?;
        self.write(CHECKPOINT, note.into_bytes()).await?;
        self.drop_parts(from, target.size).await?;
        Ok(target.size)
    }

    async fn write_entries(&self, conn: &mut PgConnection, from: u64, to: u64) -> Result<(), LedgerError> {
        for index in from / WIDTH..to.div_ceil(WIDTH) {
            let width = WIDTH.min(to - index * WIDTH);
            let first = i64::try_from(index * WIDTH).unwrap_or(i64::MAX);
            let entries: Vec<Vec<u8>> =
                sqlx::query_scalar("select entry from retention.ledger_entries where index >= $1 and index < $1 + $2 order by index")
                    .bind(first)
                    .bind(i64::try_from(width).unwrap_or(0))
                    .fetch_all(&mut *conn)
                    .await?;
            if entries.len() as u64 != width {
                return Err(broken(format!("of entries {first} to {} there are {}", index * WIDTH + width - 1, entries.len())));
            }
            self.write(&entries_path(index, width), bundle(&entries)).await?;
        }
        Ok(())
    }

    async fn write_tiles(&self, conn: &mut PgConnection, from: u64, to: u64) -> Result<(), LedgerError> {
        for level in (0..8).take_while(|level| hashes(to, *level) > 0) {
            for index in hashes(from, level) / WIDTH..hashes(to, level).div_ceil(WIDTH) {
                let width = WIDTH.min(hashes(to, level) - index * WIDTH);
                let tile = tiles(&mut *conn, &[(level, index)]).await?;
                let tile: Option<&[Hash]> =
                    tile.get((level, index)).and_then(|tile| tile.get(..usize::try_from(width).unwrap_or(usize::MAX)));
                let tile = tile.ok_or_else(|| broken(format!("tile {level}/{index} is missing, or too short")))?;
                self.write(&hash_path(level, index, width), hash_bytes(tile)).await?;
            }
        }
        Ok(())
    }

    /// Parts of tiles that have grown since are of no use any more.
    async fn drop_parts(&self, from: u64, to: u64) -> Result<(), LedgerError> {
        let grown = |size: u64, level: u8| {
            let (index, width) = (hashes(size, level) / WIDTH, hashes(size, level) % WIDTH);
            (width > 0 && hashes(to, level) > hashes(from, level)).then_some((index, width))
        };
        let mut parts = Vec::new();
        for level in 0..8 {
            let Some((index, width)) = grown(from, level) else { continue };
            parts.push(hash_path(level, index, width));
            if level == 0 {
                parts.push(entries_path(index, width));
            }
        }
        let root = self.root.clone();
        self.blocking("tile", move || {
            for part in parts {
                let path = root.join(part);
                fs::remove_file(&path).or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })?;
                // Only when it was the last part.
                if let Some(folder) = path.parent() {
                    let _left = fs::remove_dir(folder);
                }
            }
            Ok(())
        })
        .await
    }

    /// Holds the folder for one writer; `None` while another has it.
    async fn lock(&self) -> Result<Option<File>, LedgerError> {
        let root = self.root.clone();
        self.blocking(LOCK, move || {
            fs::create_dir_all(&root)?;
            let file = File::options().create(true).truncate(false).write(true).open(root.join(LOCK))?;
            match file.try_lock() {
                Ok(()) => Ok(Some(file)),
                Err(fs::TryLockError::WouldBlock) => Ok(None),
                Err(fs::TryLockError::Error(error)) => Err(error),
            }
        })
        .await
    }

    /// Holds the folder for readers: waits for a writer, and keeps writers away. `None` where nobody writes, as in a copy.
    pub(super) async fn shared(&self) -> Result<Option<File>, LedgerError> {
        let path = self.root.join(LOCK);
        self.blocking(LOCK, move || match File::open(&path) {
            Ok(file) => file.lock_shared().map(|()| Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        })
        .await
    }

    async fn read(&self, path: &str) -> Result<Option<Vec<u8>>, LedgerError> {
        let full = self.root.join(path);
        self.blocking(path, move || match fs::read(&full) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        })
        .await
    }

    /// Writes a file so that it is whole or not there, and stays when the power fails.
    async fn write(&self, path: &str, bytes: Vec<u8>) -> Result<(), LedgerError> {
        let full = self.root.join(path);
        self.blocking(path, move || {
            let folder = full.parent().ok_or_else(|| io::Error::other("it has no folder"))?;
            fs::create_dir_all(folder)?;
            let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(folder)?;
            file.write_all(&bytes)?;
            #[cfg(unix)]
            file.as_file().set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
            file.as_file().sync_all()?;
            file.persist(&full).map_err(|e| e.error)?;
            File::open(folder)?.sync_all()
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        path: &str,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let failed = |error| LedgerError::File(self.root.join(path), error);
        tokio::task::spawn_blocking(work).await.map_err(|lost| failed(io::Error::other(lost)))?.map_err(failed)
    }
}
