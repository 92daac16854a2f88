//! Objects under one prefix for each account, in a bucket of S3 or COS. Gone means: no object, no version, no delete marker, no unfinished upload. What is
//! deleted is told by listing again, never by what the bucket answers.

mod client;
mod folder;
mod sign;
mod xml;

use std::{collections::BTreeSet, time::Duration};

use futures_util::{
    FutureExt, StreamExt,
    future::{BoxFuture, try_join_all},
    stream,
};
use reqwest::StatusCode;

use self::{
    client::{Client, Listing, UPLOADS, VERSIONS, is_gone, sorted},
    xml::Entry,
};
use super::{Answer, Gone, Store, StoreError, Until};
use crate::config::{self, ACCOUNT, Bucket, Config, Objects, Place, Protocol, Remote, Service};

/// As many as a page of a listing holds at most, and as a request may delete.
const PAGE: usize = 1000;
/// Versions in one request: a page is deleted by four at once.
const PER_REQUEST: usize = 250;
/// Requests for one thing each at once.
const AT_ONCE: usize = 16;
/// After so long no further page is begun: what was done is better told than lost to a limit of time.
const BEGINS: Duration = Duration::from_millis(2500);
/// Names longer than that in bytes no bucket holds; COS less.
const LONGEST_KEY: (usize, usize) = (1024, 850);

/// The store that holds the objects.
pub(super) fn open(objects: &Objects, config: &Config) -> Result<Box<dyn Store>, StoreError> {
    match objects {
        Objects::Bucket(bucket) => {
            let stores = config.data_classes.iter().flat_map(|class| &class.remote).filter_map(|target| config.stores.get(&target.store));
            let targets = stores.filter_map(|store| match store {
                config::Store::Remote(Remote { protocol: Protocol::Objects(Objects::Bucket(bucket)), .. }) => Some(bucket.name.clone()),
                config::Store::Remote(_) | config::Store::MainPostgres => None,
            });
            Ok(Box::new(Bucketed { client: Client::new(bucket)?, bucket: bucket.clone(), targets: targets.collect() }))
        }
        Objects::Folder(root) => Ok(Box::new(folder::Folder::new(root))),
    }
}

/// A bucket.
#[derive(Debug)]
struct Bucketed {
    client: Client,
    bucket: Bucket,
    /// The buckets that hold targets.
    targets: BTreeSet<String>,
}

/// What a sweep came to.
#[derive(Debug, Default)]
struct Swept {
    /// Things that a listing showed before and not after.
    gone: usize,
    /// A listing was read to its end, and nothing was on it.
    empty: bool,
    /// Why something is still there.
    why: Option<StoreError>,
}

impl Bucketed {
    async fn purge(&self, place: &Place, account: &str, at_most: u32, until: Until) -> Result<Gone, StoreError> {
        let prefix = self.prefix(place, account)?;
        let at_most = at_most as usize;
        let mut swept = self.sweep(&VERSIONS, &prefix, at_most, until).await?;
        let rest = at_most.saturating_sub(swept.gone);
        if rest > 0 && matches!(swept.why, None | Some(StoreError::Refused(_))) {
            let uploads =
                self.sweep(&UPLOADS, &prefix, rest, until).await.unwrap_or_else(|why| Swept { why: Some(why), ..Swept::default() });
            swept.gone += uploads.gone;
            swept.empty &= uploads.empty;
            swept.why = swept.why.or(uploads.why);
        } else {
            swept.empty = false;
        }
        match swept.why {
            Some(why @ StoreError::Throttled { .. }) => Err(why),
            Some(why) if swept.gone == 0 => Err(why),
            // What was done is told first; what stands in the way is met again.
            _ => Ok(Gone { records: i64::try_from(swept.gone).unwrap_or(i64::MAX), more: !swept.empty }),
        }
    }

    /// Deletes what the listing shows, page by page from its start; a page of what stays is passed by. Holds a page, and what of the last one was tried.
    async fn sweep(&self, listing: &Listing, prefix: &str, at_most: usize, until: Until) -> Result<Swept, StoreError> {
        let (mut swept, mut tried, mut shown, mut passed, mut after) = (Swept::default(), 0, 0, false, None);
        let mut known: BTreeSet<Entry> = BTreeSet::new();
        let begins = Until::in_time(BEGINS).or_before(until);
        loop {
            // Not less than the last time: then whatever is left of that is on it, in whatever order.
            let wanted = (at_most - tried + known.len()).max(shown).clamp(1, listing.most);
            let page = match self.client.list(listing, prefix, after.as_ref(), wanted).await {
                Err(why) if swept.gone > 0 => return Ok(Swept { why: Some(why), ..swept }),
                page => page?,
            };
            shown = page.entries.len();
            let (stayed, mut fresh): (Vec<Entry>, Vec<Entry>) = page.entries.into_iter().partition(|entry| known.contains(entry));
            let tried_before = known.len();
            known = stayed.into_iter().collect();
            swept.gone += tried_before - known.len();
            if !known.is_empty() {
                swept.why.get_or_insert_with(|| StoreError::Refused("says that it has deleted what is still there".to_owned()));
            }
            if fresh.is_empty() {
                passed |= !known.is_empty();
                let Some(next) = page.next else { return Ok(Swept { empty: !passed, ..swept }) };
                (after, shown) = (Some(next), 0);
                known.clear();
                continue;
            }
            fresh.truncate(at_most - tried);
            if fresh.is_empty() || (tried > 0 && begins.passed()) {
                return Ok(swept);
            }
            tried += fresh.len();
            match self.erase(listing, &fresh, until).await {
                Ok(why) => swept.why = why.or(swept.why),
                Err(why) if swept.gone > 0 => return Ok(Swept { why: Some(why), ..swept }),
                Err(why) => return Err(why),
            }
            known.extend(fresh);
        }
    }

    /// Asks to delete all of them. Why one of them was not.
    async fn erase(&self, listing: &Listing, entries: &[Entry], until: Until) -> Result<Option<StoreError>, StoreError> {
        let (together, alone): (Vec<&Entry>, Vec<&Entry>) = entries.iter().partition(|entry| listing.together && xml::can_name(&entry.key));
        until.still()?;
        let codes = try_join_all(together.chunks(PER_REQUEST).map(|versions| self.client.erase(versions))).await?;
        let mut why = codes.iter().flatten().find(|code| !is_gone(code)).map(|code| sorted(StatusCode::OK, Some(code), None));
        let one = |entry| async move {
            until.still()?;
            self.client.erase_one(listing, entry).await
        };
        let asked: Vec<BoxFuture<'_, _>> = alone.into_iter().map(|entry| one(entry).boxed()).collect();
        let mut answers = stream::iter(asked).buffer_unordered(AT_ONCE);
        while let Some(answer) = answers.next().await {
            why = answer.err().or(why);
        }
        Ok(why)
    }

    /// Whether the listing shows anything.
    async fn any(&self, listing: &Listing, prefix: &str) -> Result<bool, StoreError> {
        let mut after = None;
        loop {
            let page = self.client.list(listing, prefix, after.as_ref(), 1).await?;
            if !page.entries.is_empty() || page.next.is_none() {
                return Ok(!page.entries.is_empty());
            }
            after = page.next;
        }
    }

    async fn left(&self, place: &Place, account: &str) -> Result<bool, StoreError> {
        let prefix = self.prefix(place, account)?;
        Ok(self.any(&VERSIONS, &prefix).await? || self.any(&UPLOADS, &prefix).await?)
    }

    async fn count(&self, place: &Place, account: &str) -> Result<i64, StoreError> {
        let prefix = self.prefix(place, account)?;
        let mut count = 0;
        for listing in [&VERSIONS, &UPLOADS] {
            let mut after = None;
            loop {
                let page = self.client.list(listing, &prefix, after.as_ref(), PAGE).await?;
                count += page.entries.len();
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
        }
        Ok(i64::try_from(count).unwrap_or(i64::MAX))
    }

    async fn check(&self, place: &Place) -> Result<Vec<String>, StoreError> {
        let Place::Prefix { prefix } = place else { return Err(StoreError::Refused("is no prefix".to_owned())) };
        let mut problems = Vec::new();
        if self.bucket.in_the_clear() {
            problems.push("is reached without TLS: what is deleted can be read and changed on the way".to_owned());
        }
        // Nobody's account is called that: nothing is there, but whether one may look is judged first.
        for listing in [&VERSIONS, &UPLOADS] {
            self.any(listing, prefix).await?;
        }
        let mut versioned = false;
        for setting in ["versioning", "object-lock", "replication"] {
            let answer = match self.client.setting(setting).await {
                Ok(Some(answer)) => answer,
                Ok(None) => continue,
                Err(StoreError::Refused(why)) if !why.starts_with("NoSuchBucket") => {
                    problems.push(format!("does not say whether it has {setting}: {why}"));
                    continue;
                }
                Err(error) => return Err(error),
            };
            match setting {
                "versioning" => {
                    versioned = answer.text("Status").is_some_and(|status| !status.is_empty());
                    if versioned {
                        problems.push("keeps versions: each of them and each delete marker is deleted by its id, for good".to_owned());
                    }
                }
                "object-lock" if answer.text("ObjectLockEnabled") == Some("Enabled") => {
                    problems.push("has object lock: what is locked stays until its date, and so do the jobs".to_owned());
                }
                "replication" => problems.extend(self.replicas(&answer.texts("Bucket"))),
                _ => {}
            }
        }
        // By an id that versions made before there were any have; nothing is made that was not there.
        let id = if versioned || self.bucket.service == Service::S3 { "null" } else { "" };
        let nothing = Entry { key: format!("{prefix}.retentiond-check"), id: id.to_owned() };
        if let Some(code) = self.client.erase(&[&nothing]).await?.into_iter().find(|code| !is_gone(code)) {
            problems.push(format!("cannot be deleted from: {code}"));
        }
        Ok(problems)
    }

    /// Buckets that keep copies, each by what names it last in a longer name, as far as they are no targets.
    fn replicas(&self, named: &[&str]) -> Vec<String> {
        let buckets: BTreeSet<&str> = named.iter().map(|name| name.rsplit(':').next().unwrap_or(name)).collect();
        let others = buckets.into_iter().filter(|bucket| !bucket.is_empty() && !self.targets.contains(*bucket));
        others
            .map(|bucket| {
                format!("is copied to the bucket {bucket}, where nothing is deleted: name its prefix as a target of the same class")
            })
            .collect()
    }

    fn prefix(&self, place: &Place, account: &str) -> Result<String, StoreError> {
        let longest = if self.bucket.service == Service::Cos { LONGEST_KEY.1 } else { LONGEST_KEY.0 };
        let prefix = expanded(place, account)?;
        if prefix.len() < longest { Ok(prefix) } else { Err(StoreError::Refused("cannot hold so long an account id".to_owned())) }
    }
}

/// The prefix of an account, literally or not at all (R8).
fn expanded(place: &Place, account: &str) -> Result<String, StoreError> {
    let Place::Prefix { prefix } = place else { return Err(StoreError::Refused("is no prefix".to_owned())) };
    let strange =
        account.is_empty() || account == "." || account.contains("..") || account.contains(|c: char| c.is_control() || "/\\".contains(c));
    if strange {
        return Err(StoreError::Refused(
            "cannot hold this account id as one part of a name: it is . or holds /, \\, .. or a control character".to_owned(),
        ));
    }
    Ok(prefix.replacen(ACCOUNT, account, 1))
}

impl Store for Bucketed {
    fn purge<'a>(&'a self, place: &'a Place, account: &'a str, at_most: u32, until: Until) -> Answer<'a, Gone> {
        Box::pin(self.purge(place, account, at_most, until))
    }

    fn left<'a>(&'a self, place: &'a Place, account: &'a str) -> Answer<'a, bool> {
        Box::pin(self.left(place, account))
    }

    fn count<'a>(&'a self, place: &'a Place, account: &'a str) -> Answer<'a, i64> {
        Box::pin(self.count(place, account))
    }

    fn check<'a>(&'a self, place: &'a Place) -> Answer<'a, Vec<String>> {
        Box::pin(self.check(place))
    }
}
