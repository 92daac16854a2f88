//! The places that hold records. One file for each kind of store; a store knows its records and how they are addressed, nothing of why they are due.
//!
//! Targets in the main database are purged by the very transaction that licenses the purge (`postgres.rs`). Everywhere else a target is a place in a
//! [`Store`]: asked for little at a time, as often as it takes, and believed only about what a look of its own has found (I10).

#[cfg(feature = "amqp")]
mod amqp;
mod careful;
#[cfg(feature = "cmq")]
mod cmq;
mod elsewhere;
#[cfg(feature = "amqp")]
mod literal;
#[cfg(feature = "mongodb")]
mod mongodb;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "objects")]
mod objects;
pub mod postgres;

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;

use crate::{
    clock,
    config::{Config, CustomerPlace, Place, Protocol, Remote},
};

pub use careful::{CALL, Careful};

/// What a store answers, some time.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// A store outside the main database. Each call is bounded, can be repeated, and can be given up at any instant: what it did stays done, and
/// the next one goes on from there. The account's id is taken literally or not at all (R8).
pub trait Store: fmt::Debug + Send + Sync {
    /// Deletes at most `at_most` records of the account. None there is a success. Nothing that deletes is begun once `until` has passed; look at it right
    /// before.
    fn purge<'a>(&'a self, place: &'a Place, account: &'a str, at_most: u32, until: Until) -> Answer<'a, Gone>;

    /// Whether any record of the account is left: a look of its own, at the state that counts. What could not be looked at is an error (I6).
    fn left<'a>(&'a self, place: &'a Place, account: &'a str) -> Answer<'a, bool>;

    /// How many records the account has.
    fn count<'a>(&'a self, place: &'a Place, account: &'a str) -> Answer<'a, i64>;

    /// What stands in the way of purging the place, or is unwise about it, as half sentences after its name.
    fn check<'a>(&'a self, place: &'a Place) -> Answer<'a, Vec<String>>;
}

/// What a call has deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone {
    /// Records that are gone; where a store cannot count, a lower bound.
    pub records: i64,
    /// There may be more.
    pub more: bool,
}

/// Why a store did not do what it was asked for. Never holds contents or credentials.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It is away, or did not answer in time. What it was asked for may have happened all the same.
    #[error("{0}")]
    Away(String),
    /// It asks for patience, for so long if it says so.
    #[error("{what}")]
    Throttled {
        /// What it said.
        what: String,
        /// How long.
        pause: Option<Duration>,
    },
    /// There was no time left to begin; nothing was asked.
    #[error("there was no time left to begin")]
    Late,
    /// Others have their turn: not everything was asked, and nothing is known.
    #[error("{what}")]
    Busy {
        /// Who has.
        what: String,
        /// How long.
        pause: Duration,
    },
    /// It was asked and seems to be empty, which is not certain yet: to be asked again after a while. Nothing is wrong.
    #[error("{what}")]
    Later {
        /// What is waited for.
        what: String,
        /// How long.
        pause: Duration,
    },
    /// It will not, until somebody does something about it: credentials, grants, a place that is missing or is not what it should be.
    #[error("{0}")]
    Refused(String),
}

/// An instant after which nothing is begun any more, by a clock that goes on while the process or its machine stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Until(Duration);

impl Until {
    /// So long from now.
    #[must_use]
    pub fn in_time(time: Duration) -> Self {
        Self(clock::reading() + time)
    }

    /// So much later.
    #[must_use]
    pub fn and(self, time: Duration) -> Self {
        Self(self.0 + time)
    }

    /// The earlier of the two.
    #[must_use]
    pub fn or_before(self, other: Self) -> Self {
        Self(self.0.min(other.0))
    }

    /// Whether it is over.
    #[must_use]
    pub fn passed(self) -> bool {
        clock::reading() >= self.0
    }

    /// An error once it is over.
    ///
    /// # Errors
    /// That there was no time left.
    pub fn still(self) -> Result<(), StoreError> {
        if self.passed() { Err(StoreError::Late) } else { Ok(()) }
    }
}

/// A target in a store, ready to be asked.
#[derive(Debug, Clone)]
pub struct RemoteTarget {
    /// `store/place` as spelt in the configuration (R29).
    pub name: String,
    /// The store's name.
    pub store: String,
    /// The place.
    pub place: Place,
    /// Whom to ask.
    pub client: Arc<Careful>,
}

/// Every remote store of the configuration, by name. Opens no connection.
#[must_use]
pub fn open(config: &Config) -> BTreeMap<String, Arc<Careful>> {
    let remote = config.stores.iter().filter_map(|(name, store)| match store {
        crate::config::Store::Remote(remote) => Some((name, remote)),
        crate::config::Store::MainPostgres => None,
    });
    let media = |name: &str| -> Vec<String> {
        let store = |name: &str| config.stores.get(name);
        let here = |place: &&CustomerPlace| place.store.as_deref().is_none_or(|other| other == name || store(other) == store(name));
        config.customer_places.iter().filter(here).map(|place| place.place.clone()).collect()
    };
    remote.map(|(name, remote)| (name.clone(), Arc::new(Careful::new(name, client(remote, &media(name), config))))).collect()
}

/// How many records the account has in each of the targets that answer until the deadline; the others are absent, and not zero.
pub async fn count(targets: &[RemoteTarget], account: &str, deadline: Instant) -> BTreeMap<String, i64> {
    let counts = targets.iter().map(|target| async move {
        let count = tokio::time::timeout_at(deadline.into(), target.client.count(&target.place, account)).await.ok()?.ok()?;
        Some((target.name.clone(), count))
    });
    futures_util::future::join_all(counts).await.into_iter().flatten().collect()
}

#[cfg_attr(not(feature = "objects"), expect(unused_variables, reason = "only a bucket asks what else is a target"))]
fn client(remote: &Remote, media: &[String], config: &Config) -> Box<dyn Store> {
    let client: Result<Box<dyn Store>, StoreError> = match &remote.protocol {
        Protocol::Postgres(url) => elsewhere::Elsewhere::new(url, media).map(|store| Box::new(store) as _),
        #[cfg(feature = "mysql")]
        Protocol::Mysql(url) => mysql::Mysql::new(url).map(|store| Box::new(store) as _),
        #[cfg(not(feature = "mysql"))]
        Protocol::Mysql(_) => Err(StoreError::Refused("this program was built without the feature mysql".to_owned())),
        #[cfg(feature = "objects")]
        Protocol::Objects(objects) => objects::open(objects, config),
        #[cfg(not(feature = "objects"))]
        Protocol::Objects(_) => Err(StoreError::Refused("this program was built without the feature objects".to_owned())),
        #[cfg(feature = "mongodb")]
        Protocol::Mongodb(url) => mongodb::Mongodb::new(url).map(|store| Box::new(store) as _),
        #[cfg(not(feature = "mongodb"))]
        Protocol::Mongodb(_) => Err(StoreError::Refused("this program was built without the feature mongodb".to_owned())),
        #[cfg(feature = "amqp")]
        Protocol::Amqp(url) => amqp::Amqp::new(url).map(|store| Box::new(store) as _),
        #[cfg(not(feature = "amqp"))]
        Protocol::Amqp(_) => Err(StoreError::Refused("this program was built without the feature amqp".to_owned())),
        #[cfg(feature = "cmq")]
        Protocol::Cmq(cmq) => cmq::Queues::new(cmq).map(|store| Box::new(store) as _),
        #[cfg(not(feature = "cmq"))]
        Protocol::Cmq(_) => Err(StoreError::Refused("this program was built without the feature cmq".to_owned())),
        Protocol::Expiring => Ok(Box::new(Copies)),
    };
    client.unwrap_or_else(|why| Box::new(Unusable(why)))
}

/// A store that cannot even be asked, and says why each time.
#[derive(Debug)]
struct Unusable(StoreError);

impl Store for Unusable {
    fn purge<'a>(&'a self, _: &'a Place, _: &'a str, _: u32, _: Until) -> Answer<'a, Gone> {
        Box::pin(async { Err(self.0.clone()) })
    }

    fn left<'a>(&'a self, _: &'a Place, _: &'a str) -> Answer<'a, bool> {
        Box::pin(async { Err(self.0.clone()) })
    }

    fn count<'a>(&'a self, _: &'a Place, _: &'a str) -> Answer<'a, i64> {
        Box::pin(async { Err(self.0.clone()) })
    }

    fn check<'a>(&'a self, _: &'a Place) -> Answer<'a, Vec<String>> {
        Box::pin(async { Err(self.0.clone()) })
    }
}

/// Copies that cannot be deleted one by one: there is nothing to do but to say when the last of them is gone.
#[derive(Debug)]
struct Copies;

impl Store for Copies {
    fn purge<'a>(&'a self, _: &'a Place, _: &'a str, _: u32, _: Until) -> Answer<'a, Gone> {
        Box::pin(async { Ok(Gone { records: 0, more: false }) })
    }

    fn left<'a>(&'a self, _: &'a Place, _: &'a str) -> Answer<'a, bool> {
        Box::pin(async { Ok(false) })
    }

    fn count<'a>(&'a self, _: &'a Place, _: &'a str) -> Answer<'a, i64> {
        Box::pin(async { Ok(0) })
    }

    fn check<'a>(&'a self, _: &'a Place) -> Answer<'a, Vec<String>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}
