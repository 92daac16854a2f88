//! The configuration as meant: typed, validated as a whole, every fault reported together with its key.
//! How it is written down (files, environment, defaults) is `config/raw.rs`, how it is read key by key `config/table.rs`,
//! what makes it
//! wrong `config/validate.rs`, `config/rules.rs`, `config/address.rs` and `config/overlap.rs`, the rules as one value `config/policy.rs`.

mod address;
mod http;
mod notices;
mod overlap;
mod policy;
mod raw;
pub mod reload;
mod remote;
mod rules;
mod table;
mod telemetry;
mod validate;

#[cfg(test)]
mod tests;

pub use notices::{DUE_SOON, Endpoint, TYPES, is_public};
pub use policy::{Change, ClassTerms, PointTerms, TargetTerms, Terms};
pub use raw::environment;
pub use remote::{ACCOUNT, Bucket, Cmq, Named, Objects, Place, Protocol, Remote, RemoteTarget, Service};
pub use table::{Fault, Invalid};
pub use telemetry::Traces;
pub use validate::{Needs, load, parse};

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use chrono::{DateTime, Utc};
use secrecy::SecretString;
use serde::Serialize;

use crate::{
    model::{Ident, Mode, RetentionPeriod, TableName},
    proof::SigningKey,
};

/// Everything the daemon was told, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Delete or only report. Has no default.
    pub mode: Mode,
    /// The main database.
    pub database: Database,
    /// How often the source is looked at.
    pub poll: Poll,
    /// How purges are carried out.
    pub executor: Executor,
    /// When purging slows down.
    pub pressure: Pressure,
    /// How purged subjects are looked at again.
    pub verifier: Verifier,
    /// The limits that stop a mass deletion.
    pub guard: Guard,
    /// How the ledger is signed, and where it is kept outside the database.
    pub ledger: Ledger,
    /// Deletion on request.
    pub requests: Requests,
    /// Which acts need two people.
    pub approvals: Approvals,
    /// How long the daemon keeps what it knows about its own work.
    pub records: Records,
    /// Who is told what happens to an account's records.
    pub notices: Vec<Endpoint>,
    /// Listeners.
    pub http: Http,
    /// Log format and level.
    pub log: Log,
    /// Where traces are sent; `None` is off.
    pub traces: Option<Traces>,
    /// The only regions whose accounts this daemon may touch; `None` is all.
    pub regions: Option<Vec<String>>,
    /// Where periods start.
    pub starting_points: Vec<StartingPoint>,
    /// What is purged. Customer media cannot be in here: it has no targets to name.
    pub data_classes: Vec<DataClass>,
    /// Places under the customer's control. Nothing here can ever be a target (I4).
    pub customer_places: Vec<CustomerPlace>,
    /// Tables with the account column that hold no personal data of a class.
    pub exemptions: Vec<Exemption>,
    /// Stores by name.
    pub stores: BTreeMap<String, Store>,
    /// What is legal but unwise; `check` says so.
    pub warnings: Vec<String>,
    /// Where all this was read.
    pub origin: Origin,
}

impl Config {
    /// The main database under a role that may read and not delete, where one is configured.
    #[must_use]
    pub fn witness(&self) -> Option<Database> {
        let url = self.verifier.url.clone()?;
        // It is asked rarely, and by one at a time.
        Some(Database { url, max_connections: 1, statement_cache: self.database.statement_cache })
    }
}

/// The promise itself, as shipped: rules, stores and every default, without `mode` and `database.url`.
pub const SHIPPED: &str = include_str!("../config/retentiond.toml");

/// The main database.
#[derive(Debug, Clone)]
pub struct Database {
    /// Address with credentials; never printed.
    pub url: SecretString,
    /// Connections kept at most.
    pub max_connections: u32,
    /// Prepared statements kept per connection; 0 behind a transaction-mode pooler.
    pub statement_cache: usize,
}

/// How often the source is looked at.
#[derive(Debug, Clone)]
pub struct Poll {
    /// Between cheap looks for starting points dated now.
    pub interval: Duration,
    /// Between full comparisons.
    pub resync_interval: Duration,
    /// How long after it was first missed a row of the source must be missed again, to count as vanished (R6).
    pub vanish_interval: Duration,
    /// How far a cheap look reaches back, so that late commits and skewed clocks are seen before the next full comparison.
    pub overlap: Duration,
}

/// How purges are carried out.
#[derive(Debug, Clone)]
pub struct Executor {
    /// Purging workers; each holds one connection while a batch runs.
    pub concurrency: usize,
    /// Records deleted in one transaction at most.
    pub max_rows_per_batch: u32,
    /// How long a claimed job is ours without a sign of life.
    pub lease: Duration,
    /// The longest pause between attempts (R45).
    pub max_backoff: Duration,
}

/// What the platform's database may be burdened with before purging slows down (I14); `None` is unlimited and not measured.
#[derive(Debug, Clone)]
pub struct Pressure {
    /// How far a replica may be behind.
    pub max_replica_lag: Option<Duration>,
    /// Sessions of others that may wait for locks.
    pub max_lock_waits: Option<u64>,
    /// Share of the connections that may be in use, 0 to 1.
    pub max_connections: Option<f64>,
    /// MiB of write-ahead log that the server may write per second.
    pub max_log_rate: Option<u64>,
    /// Sessions of others that may have been at work within a second before purging takes turns with them.
    pub max_active_sessions: Option<u64>,
}

impl Pressure {
    /// Nothing is limited.
    #[must_use]
    pub fn none(&self) -> bool {
        self.max_replica_lag.is_none()
            && self.max_lock_waits.is_none()
            && self.max_connections.is_none()
            && self.max_log_rate.is_none()
            && self.max_active_sessions.is_none()
    }
}

/// How the ledger is signed, and where it is kept outside the database.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// The key that signs, read from `key_file`; without it the database keeps one that `migrate` made.
    pub key: Option<SigningKey>,
    /// The folder that always holds the ledger in files.
    pub checkpoint_dir: Option<PathBuf>,
}

/// How purged subjects are looked at again.
#[derive(Debug, Clone)]
pub struct Verifier {
    /// The longest pause between looks.
    pub interval: Duration,
    /// How long after a purge it is looked at again.
    pub watch_for: Duration,
    /// The main database under a role that may read and not delete, where one is configured; never printed.
    pub url: Option<SecretString>,
}

/// The limits that stop a mass deletion (I12).
#[derive(Debug, Clone)]
pub struct Guard {
    /// The sliding window that the limits count in.
    pub window: Duration,
    /// Accounts whose purge may begin in one window; `None` is unlimited.
    pub max_accounts: Option<u64>,
    /// Share of the known accounts, 0 to 1.
    pub max_share: f64,
    /// The share counts from this many known accounts on.
    pub share_floor: u64,
    /// Share of the accounts that may vanish from the source, 0 to 1.
    pub max_shrink: f64,
}

/// Deletion on request (R30).
#[derive(Debug, Clone)]
pub struct Requests {
    /// How long after it was accepted a request is overdue.
    pub fulfil_within: RetentionPeriod,
}

/// How many people an act needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum People {
    /// Whoever does it.
    One,
    /// Another one first.
    Two,
}

/// Which acts need two people.
#[derive(Debug, Clone)]
pub struct Approvals {
    /// `request`: another person approves it.
    pub request: People,
    /// `guard release`
    pub guard_release: People,
    /// `hold release`
    pub hold_release: People,
    /// `policy accept`
    pub policy_accept: People,
}

/// How long the daemon keeps what it knows about its own work; `None` is for ever.
#[derive(Debug, Clone, Copy)]
pub struct Records {
    /// Jobs that are over, their levels, and values that nobody has seen any more.
    pub keep_history: Option<Duration>,
    /// Holds and pauses that are over.
    pub keep_acts: Option<Duration>,
    /// What endpoints were told, or could not be.
    pub keep_notices: Option<Duration>,
}

/// Listeners.
#[derive(Debug, Clone)]
pub struct Http {
    /// API and pages; `None` is off.
    pub listen: Option<SocketAddr>,
    /// Health and metrics; carries no account data.
    pub ops_listen: SocketAddr,
    /// Who may use API and pages. With none, and no proxy, whoever reaches `listen` may read.
    pub tokens: Vec<Token>,
    /// A proxy in front that says who somebody is.
    pub proxy: Option<Proxy>,
}

/// What somebody may do through API and pages. Each role may do what the ones before it may, except `Ingest`, which may do one thing only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Say that something has happened in the platform; read nothing.
    Ingest,
    /// Read.
    Viewer,
    /// Stop deletion, and let go on what was only paused.
    Operator,
    /// Everything else that people do.
    Officer,
}

impl Role {
    /// The word in configuration and log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Officer => "officer",
        }
    }
}

/// A bearer token; only its hash is configured.
#[derive(Debug, Clone)]
pub struct Token {
    /// Whose it is: the actor of what is done with it.
    pub name: String,
    /// What it allows.
    pub role: Role,
    /// SHA-256 of the token, which holds 256 random bits.
    pub sha256: [u8; 32],
    /// It counts until then.
    pub until: Option<DateTime<Utc>>,
}

/// A proxy that has asked people who they are, and says so in headers. It has to remove these headers from what others send.
#[derive(Debug, Clone)]
pub struct Proxy {
    /// Its addresses: headers that come from elsewhere count for nothing.
    pub from: Vec<IpAddr>,
    /// The header with the name.
    pub user_header: String,
    /// The header with the role; without one everybody is a viewer.
    pub role_header: Option<String>,
}

/// Log format and level.
#[derive(Debug, Clone)]
pub struct Log {
    /// How lines are written.
    pub format: LogFormat,
    /// A `tracing` filter, like `info` or `retentiond=debug`.
    pub level: String,
    /// With it, account ids in the log are pseudonyms under this key.
    pub account_key: Option<SecretString>,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// JSON, unless the stream is a terminal.
    Auto,
    /// One flat JSON object per line.
    Json,
    /// For people.
    Text,
}

/// A nullable timestamp column: not null means in force since then.
#[derive(Debug, Clone)]
pub struct StartingPoint {
    /// The name that classes, jobs and logs use.
    pub name: String,
    /// The table that holds it.
    pub table: TableName,
    /// The column that names the account.
    pub account_column: Ident,
    /// The column that names the feature; without one the point counts for every feature (R3).
    pub feature_column: Option<Ident>,
    /// The nullable `timestamptz`.
    pub since_column: Ident,
    /// The column that names the account's region; only at account level.
    pub region_column: Option<Ident>,
}

/// A cluster of personal data with one rule.
#[derive(Debug, Clone)]
pub struct DataClass {
    /// The feature it belongs to.
    pub feature: String,
    /// Its name within the feature.
    pub name: String,
    /// Indices into [`Config::starting_points`], in the order of the configuration.
    pub starting_points: Vec<usize>,
    /// How long it is kept after the earliest starting point.
    pub retain_for: RetentionPeriod,
    /// What `delete_by` is counted from.
    pub delete_by: DeleteBy,
    /// Every place in the main database that holds it.
    pub targets: Vec<Target>,
    /// Every place in other stores that does, in the order in which they are purged.
    pub remote: Vec<RemoteTarget>,
}

/// What `delete_by` is counted from (R12).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum DeleteBy {
    /// `delete_within`: from `retain_until`.
    Within(RetentionPeriod),
    /// `delete_by_after`: from the starting point.
    AfterStart(RetentionPeriod),
}

impl DataClass {
    /// `retain_until` and `delete_by` for a period that starts at `start`. `None` past the end of the calendar.
    #[must_use]
    pub fn dates(&self, start: DateTime<Utc>) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
        let retain_until = self.retain_for.after(start)?;
        let delete_by = match self.delete_by {
            DeleteBy::Within(period) => period.after(retain_until)?,
            DeleteBy::AfterStart(period) => period.after(start)?,
        };
        Some((retain_until, delete_by))
    }

    /// Fingerprint of everything that decides what is deleted and when; jobs record it (R11).
    #[must_use]
    pub fn policy(&self, points: &[StartingPoint]) -> String {
        policy::fingerprint(&(&self.feature, &self.name, self.terms(points)))
    }

    /// A fingerprint of each place, joined by commas: what a done-mark vouches for (R23). An added target opens the class again, one that is left
    /// out does not.
    #[must_use]
    pub fn places_fingerprint(&self) -> String {
        let mut places: Vec<String> = self.terms(&[]).targets.iter().map(|place| policy::fingerprint(&place)[..16].to_owned()).collect();
        places.sort_unstable();
        places.join(",")
    }
}

/// One place that holds records of a data class.
#[derive(Debug, Clone)]
pub struct Target {
    /// `store/table` as spelt in the configuration (R29).
    pub name: String,
    /// The store's name.
    pub store: String,
    /// The table.
    pub table: TableName,
    /// How a record tells whose it is.
    pub owner: Owner,
}

/// How a record of a target tells whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// By columns of its own.
    Columns {
        /// The column that names the account.
        account: Ident,
        /// The column that names the feature, where classes share a table.
        feature: Option<Ident>,
    },
    /// By the record that its foreign key points at, in another target of the class.
    Parent(TableName),
}

impl Target {
    /// The column that names the feature, where there is one.
    #[must_use]
    pub fn feature_column(&self) -> Option<&Ident> {
        match &self.owner {
            Owner::Columns { feature, .. } => feature.as_ref(),
            Owner::Parent(_) => None,
        }
    }
}

/// A place that a customer-controlled class names (R13).
#[derive(Debug, Clone)]
pub struct CustomerPlace {
    /// The class that names it, as `feature/name`.
    pub class: String,
    /// The store; `None` is every store.
    pub store: Option<String>,
    /// Table, collection, prefix or queue, as spelt.
    pub place: String,
}

/// A table that names accounts and is none of ours to purge: somebody decided so, and says why.
#[derive(Debug, Clone)]
pub struct Exemption {
    /// The table.
    pub table: TableName,
    /// Why.
    pub reason: String,
}

/// A place that records live in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Store {
    /// The main database itself.
    MainPostgres,
    /// Any other.
    Remote(Remote),
}

impl Store {
    /// Its kind, as the configuration spells it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::MainPostgres => "postgres",
            Self::Remote(remote) => remote.protocol.kind(),
        }
    }

    /// Its places have names that are none of tables.
    fn holds_no_tables(&self) -> bool {
        matches!(self, Self::Remote(Remote { protocol: Protocol::Cmq(_), .. }))
    }
}

/// Where a configuration came from.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// Files, in the order they are merged.
    pub files: Vec<PathBuf>,
    /// A fingerprint of each value as written, by its key.
    pub(crate) written: BTreeMap<String, String>,
}
