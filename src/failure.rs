//! Why the program ends without success, and with which exit code (contract §5). Exit codes are API.

use crate::{
    acts::Refused,
    catalog::Finding,
    config::{Change, Invalid},
    database::{DatabaseError, Kind},
    ledger::LedgerError,
    schema::SchemaError,
};

/// Why the program ends without success.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration is wrong; every fault is listed.
    #[error("{0}")]
    Configuration(#[from] Invalid),
    /// Something was found that somebody must look at.
    #[error("{0}")]
    Findings(String),
    /// The catalogue does not agree with the configuration.
    #[error("the database does not fit the configuration:{}", list(.0))]
    Layout(Vec<Finding>),
    /// The daemon's own tables.
    #[error("{}", crate::telemetry::chain(.0))]
    Schema(#[source] SchemaError),
    /// The main database.
    #[error("{}", crate::telemetry::chain(.0))]
    Database(#[from] DatabaseError),
    /// The guard stands between what is due and its purge.
    #[error("refused by the guard: {0}")]
    Guard(String),
    /// The act needs another person.
    #[error("{0}")]
    Approval(String),
    /// The configuration asks for another policy than the accepted one.
    #[error("the policy of this configuration is not accepted:{}\n`retentiond policy show` says what it would bring forward", changes(.0))]
    Policy(Vec<Change>),
    /// Running work had to be cut off.
    #[error("the drain timed out; what was cut off rolled back and will be done again")]
    DrainTimedOut,
    /// Anything else.
    #[error("{}", crate::telemetry::chain(.0.as_ref()))]
    Other(#[from] anyhow::Error),
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Database(error) => Self::Database(error),
            Refused::Guard(why) => Self::Guard(why),
            Refused::Another(why) => Self::Approval(why),
            Refused::Unknown(why) | Refused::Senseless(why) | Refused::Past(why) => Self::Other(anyhow::Error::msg(why)),
        }
    }
}
/// Every exit code and what it means. Exit codes are only added.
pub const EXIT_CODES: &[(u8, &str)] = &[
    (0, "done; or the daemon was stopped and has finished its running batches"),
    (1, "failed; what is wrong stands in the last line"),
    (2, "usage: unknown verb or flag"),
    (3, "findings: `check` found something to mend, `status --check` something overdue or a tripped guard"),
    (10, "tables: the daemon's own are missing, older or newer, or a configured table or column does not fit"),
    (12, "credentials or grants"),
    (13, "the guard withheld something, the rules of this configuration are not accepted, or the act needs another person"),
    (69, "the database is unreachable (one-shot verbs try for 10 s; `run` keeps trying)"),
    (75, "the drain timed out: running work was cancelled and rolled back"),
    (78, "configuration; every mistake is listed"),
];

impl From<SchemaError> for Failure {
    fn from(error: SchemaError) -> Self {
        match error {
            SchemaError::Database(error) => Self::Database(error),
            error @ (SchemaError::Missing
            | SchemaError::Older
            | SchemaError::Newer(_)
            | SchemaError::Locked
            | SchemaError::Ledger(_)
            | SchemaError::Migration(_)) => Self::Schema(error),
        }
    }
}

impl From<LedgerError> for Failure {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Database(error) => Self::Database(error),
            LedgerError::Behind { .. } | LedgerError::Broken(_) => Self::Guard(error.to_string()),
            LedgerError::File(..) | LedgerError::Key(_) => Self::Other(error.into()),
        }
    }
}

impl Failure {
    /// The exit code.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Configuration(_) => 78,
            Self::Findings(_) => 3,
            Self::Layout(findings) => findings.iter().map(|f| f.severity).max().map_or(1, crate::catalog::Severity::exit_code),
            Self::Schema(_) => 10,
            Self::Database(error) => match error.kind() {
                Kind::Unreachable | Kind::Exhausted => 69,
                Kind::Credentials | Kind::Grants => 12,
                Kind::Schema => 10,
                Kind::Timeout | Kind::Locked | Kind::Conflict | Kind::Refused | Kind::Other => 1,
            },
            Self::Guard(_) | Self::Approval(_) | Self::Policy(_) => 13,
            Self::DrainTimedOut => 75,
            Self::Other(_) => 1,
        }
    }

    /// Waiting may help.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Database(error) if matches!(error.kind(), Kind::Unreachable | Kind::Exhausted))
    }
}

fn changes(changes: &[Change]) -> String {
    let line = |c: &Change| format!("\n  {}: {}", c.subject, c.what);
    changes.iter().map(line).collect()
}

fn list(findings: &[Finding]) -> String {
    let line = |f: &Finding| match &f.remedy {
        Some(remedy) => format!("\n  {}: {}; mend it with: {remedy}", f.subject, f.problem),
        None => format!("\n  {}: {}", f.subject, f.problem),
    };
    findings.iter().filter(|f| f.severity > crate::catalog::Severity::Warning).map(line).collect()
}
