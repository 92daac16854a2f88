//! Objects in a folder of this machine, for development: a key is the path of a file. No symbolic link is followed, so that nothing outside of the
//! folder is ever reached.

use std::{
    ffi::CStr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat, unlinkat},
    io::Errno,
};
use tokio_util::sync::CancellationToken;

use super::expanded;
use crate::{
    config::Place,
    stores::{Answer, Gone, Store, StoreError, Until},
};

/// Folders in folders; each is open while those in it are emptied.
const DEEPEST: usize = 64;
/// Names longer than that in bytes no folder holds.
const LONGEST_NAME: usize = 255;

/// A folder.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
}

/// How far a purge may go.
struct Limits<'a> {
    left: u32,
    until: Until,
    /// Nobody waits for it any more.
    stop: &'a CancellationToken,
}

impl Folder {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Does what may block where it may; it stops soon after nobody waits for it any more.
    async fn with<T: Send + 'static>(
        &self,
        place: &Place,
        account: &str,
        work: impl FnOnce(&Path, &str, &CancellationToken) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (root, prefix, stop) = (self.root.clone(), expanded(place, account)?, CancellationToken::new());
        if prefix.split('/').any(|part| part.len() > LONGEST_NAME) {
            return Err(StoreError::Refused("cannot hold so long an account id".to_owned()));
        }
        let _stops = stop.clone().drop_guard();
        tokio::task::spawn_blocking(move || work(&root, &prefix, &stop)).await.map_err(|error| StoreError::Away(error.to_string()))?
    }
}

impl Store for Folder {
    fn purge<'a>(&'a self, place: &'a Place, account: &'a str, at_most: u32, until: Until) -> Answer<'a, Gone> {
        Box::pin(self.with(place, account, move |root, prefix, stop| {
            let Some((parent, name, folder)) = find(root, prefix)? else { return Ok(Gone { records: 0, more: false }) };
            until.still()?;
            let mut limits = Limits { left: at_most, until, stop };
            let emptied = empty(&folder, &mut limits, 0)?;
            let gone = emptied && remove(&parent, &name)?;
            Ok(Gone { records: i64::from(at_most - limits.left), more: !gone })
        }))
    }

    fn left<'a>(&'a self, place: &'a Place, account: &'a str) -> Answer<'a, bool> {
        Box::pin(self.with(place, account, |root, prefix, _| Ok(find(root, prefix)?.is_some())))
    }

    fn count<'a>(&'a self, place: &'a Place, account: &'a str) -> Answer<'a, i64> {
        Box::pin(
            self.with(place, account, |root, prefix, stop| find(root, prefix)?.map_or(Ok(0), |(_, _, folder)| files(&folder, stop, 0))),
        )
    }

    fn check<'a>(&'a self, place: &'a Place) -> Answer<'a, Vec<String>> {
        Box::pin(self.with(place, "nobody", |root, _, _| {
            open(root)?;
            Ok(vec!["is a folder of this machine: for development; a folder that is not mounted looks empty".to_owned()])
        }))
    }
}

/// The folder of the prefix, with the one that it is in and its name there.
fn find(root: &Path, prefix: &str) -> Result<Option<(OwnedFd, String, OwnedFd)>, StoreError> {
    let mut parent = open(root)?;
    let mut parts = prefix.split('/').filter(|part| !part.is_empty()).peekable();
    while let Some(part) = parts.next() {
        let folder = match enter(&parent, part) {
            Ok(folder) => folder,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(sorted(error)),
        };
        if parts.peek().is_none() {
            return Ok(Some((parent, part.to_owned(), folder)));
        }
        parent = folder;
    }
    Err(StoreError::Refused("is no prefix".to_owned()))
}

fn open(root: &Path) -> Result<OwnedFd, StoreError> {
    openat(CWD, root, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(|error| match error {
        Errno::NOENT => StoreError::Refused("is in a folder that is not there".to_owned()),
        error => sorted(error),
    })
}

fn enter(folder: &OwnedFd, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    openat(folder, name, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// Deletes what is in a folder, as far as it may go. Whether all of it is gone.
fn empty(folder: &OwnedFd, limits: &mut Limits<'_>, depth: usize) -> Result<bool, StoreError> {
    let mut all = true;
    for entry in entries(folder, depth)? {
        let (name, kind) = entry?;
        if limits.left == 0 || limits.until.passed() || limits.stop.is_cancelled() {
            return Ok(false);
        }
        match kind {
            FileType::Directory => {
                let inner = enter(folder, &*name).map_err(sorted)?;
                all &= empty(&inner, limits, depth + 1)? && remove(folder, &*name)?;
            }
            FileType::Symlink => {
                return Err(StoreError::Refused("holds a symbolic link, which may lead anywhere; delete it by hand".to_owned()));
            }
            FileType::RegularFile
            | FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => match unlinkat(folder, &*name, AtFlags::empty()) {
                Ok(()) => limits.left -= 1,
                Err(Errno::NOENT) => {}
                Err(error) => return Err(sorted(error)),
            },
        }
    }
    Ok(all)
}

/// How many files are in a folder.
fn files(folder: &OwnedFd, stop: &CancellationToken, depth: usize) -> Result<i64, StoreError> {
    let mut count = 0;
    for entry in entries(folder, depth)? {
        let (name, kind) = entry?;
        if stop.is_cancelled() {
            return Err(StoreError::Away("given up".to_owned()));
        }
        count += if kind == FileType::Directory { files(&enter(folder, &*name).map_err(sorted)?, stop, depth + 1)? } else { 1 };
    }
    Ok(count)
}

type Named = (Box<CStr>, FileType);

/// What is in a folder, each by its name and what it is.
fn entries(folder: &OwnedFd, depth: usize) -> Result<impl Iterator<Item = Result<Named, StoreError>> + '_, StoreError> {
    if depth > DEEPEST {
        return Err(StoreError::Refused(format!("holds folders more than {DEEPEST} deep")));
    }
    let named = Dir::read_from(folder).map_err(sorted)?.filter_map(move |entry| {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => return Some(Err(sorted(error))),
        };
        let name: Box<CStr> = entry.file_name().into();
        if [c".", c".."].contains(&&*name) {
            return None;
        }
        // Not every file system says what it is.
        match statat(folder, &*name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(Ok((name, FileType::from_raw_mode(stat.st_mode)))),
            Err(Errno::NOENT) => None,
            Err(error) => Some(Err(sorted(error))),
        }
    });
    Ok(named)
}

/// Removes a folder. Not while something came into it.
fn remove(parent: &OwnedFd, name: impl rustix::path::Arg) -> Result<bool, StoreError> {
    match unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(error) => Err(sorted(error)),
    }
}

fn sorted(error: Errno) -> StoreError {
    match error {
        Errno::LOOP | Errno::NOTDIR => StoreError::Refused("leads through a file or a symbolic link, which may lead anywhere".to_owned()),
        Errno::IO | Errno::INTR | Errno::STALE | Errno::TIMEDOUT | Errno::MFILE | Errno::NFILE => StoreError::Away(error.to_string()),
        error => StoreError::Refused(error.to_string()),
    }
}
