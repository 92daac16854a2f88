//! Acts that need two people, where `[approvals]` says so: the first says that it may be done, the second, who must be another, does it. Within the transaction
//! of the act and under its lock, so that two who do it at once follow each other.
//!
//! Who somebody is, they say themselves (`--by`, else the login name): it keeps a careful person from acting alone, and nobody else.

use sqlx::PgConnection;

use crate::{config::People, database::DatabaseError};

/// How long what the first person said counts.
const COUNTS_FOR: &str = "interval '24 hours'";

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Release the guard.
    GuardRelease,
    /// Release a hold.
    HoldRelease,
    /// Put a policy into force.
    PolicyAccept,
}

impl Act {
    /// The words in `retention.approvals`: the verb.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::GuardRelease => "guard release",
            Self::HoldRelease => "hold release",
            Self::PolicyAccept => "policy accept",
        }
    }
}

/// Who does it, why, and how many people have to.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    /// How many.
    pub people: People,
    /// Who.
    pub by: &'a str,
    /// Why.
    pub reason: &'a str,
}

/// Whether an act may be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Approval {
    /// By whom: the names of all who said so.
    Enough(String),
    /// What was said is on record; another person must do the same.
    Waits,
    /// The same person said so before; another must do the same.
    Again,
}

/// Whether two names are those of one person: case and space around them make no other.
#[must_use]
pub fn same_person(one: &str, other: &str) -> bool {
    one.trim().to_lowercase() == other.trim().to_lowercase()
}

/// Counts what `given` says to an act about `reference`, and writes it down where two are needed.
///
/// # Errors
/// Those of the database.
pub(super) async fn approve(conn: &mut PgConnection, act: Act, reference: &str, given: Given<'_>) -> Result<Approval, DatabaseError> {
    if given.people == People::One {
        return Ok(Approval::Enough(given.by.to_owned()));
    }
    let said: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
        "select actor from retention.approvals where act = $1 and reference = $2 and used_at is null and given_at > now() - {COUNTS_FOR} order by id desc"
    )))
    .bind(act.as_str())
    .bind(reference)
    .fetch_all(&mut *conn)
    .await?;
    let (mine, others): (Vec<String>, Vec<String>) = said.into_iter().partition(|actor| same_person(actor, given.by));
    if others.is_empty() && !mine.is_empty() {
        return Ok(Approval::Again);
    }
    sqlx::query("insert into retention.approvals (act, reference, actor, reason) values ($1, $2, $3, $4)")
        .bind(act.as_str())
        .bind(reference)
        .bind(given.by)
        .bind(given.reason)
        .execute(&mut *conn)
        .await?;
    let Some(other) = others.first() else { return Ok(Approval::Waits) };
    sqlx::query("update retention.approvals set used_at = now() where act = $1 and reference = $2 and used_at is null")
        .bind(act.as_str())
        .bind(reference)
        .execute(conn)
        .await?;
    Ok(Approval::Enough(format!("{other} and {}", given.by)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_is_no_other_for_a_capital_or_a_space() {
        assert!(same_person("ann", " Ann"));
        assert!(!same_person("ann", "anna"));
    }
}
