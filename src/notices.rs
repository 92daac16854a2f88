//! Notices: what a platform is told before and after, so that it can tell its customer. What happened is in the ledger's pending entries, written in the
//! transaction of what it tells of; when they are numbered, those that an endpoint wants become notices (`outbox`), in order and in that same transaction. What is
//! soon due is nobody's act: a look finds it. They are sent (`deliver`) as CloudEvents under the signature of Standard Webhooks (`event`), at least once, by a task
//! that no purge waits for. `inbound` reads events that others send. Nothing here decides about records.

#[cfg(feature = "notices")]
mod client;
mod deliver;
mod event;
mod inbound;
mod list;
mod outbox;

use sha2::{Digest, Sha256};

use crate::{config::Endpoint, database::DatabaseError};

pub use deliver::{Delivered, Notices};
pub use event::{Event, TEST, sign};
pub use inbound::{Inbound, InboundError};
pub use list::{Filter, Notice, Replay, enable, list, of_a_test, replay};
pub use outbox::{Fact, keep_registered, write};

/// Why notices do not go on. One that an endpoint does not take is no error: it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum NoticeError {
    /// The main database.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// No request can be made.
    #[error("endpoint {0}: {1}")]
    Client(String, String),
}

impl From<sqlx::Error> for NoticeError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

/// Stands for where an endpoint is and what it wants: one that is gone for good is asked again once this is another.
fn fingerprint(endpoint: &Endpoint) -> String {
    use secrecy::ExposeSecret;
    let mut hash = Sha256::new();
    for part in std::iter::once(endpoint.url.expose_secret()).chain(endpoint.types.iter().map(String::as_str)) {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hex::encode(hash.finalize())
}
