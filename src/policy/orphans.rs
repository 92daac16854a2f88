//! Records of accounts that were never known: no rule says when they may go, so they are told and left alone (I9, I11).

use sqlx::{AssertSqlSafe, PgConnection};

use super::Policy;
use crate::database::DatabaseError;

/// Accounts named of those that were never known.
const EXAMPLES: usize = 5;

/// Records of accounts that were never known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphans {
    /// The target that holds them.
    pub target: String,
    /// How many accounts.
    pub accounts: i64,
    /// Some of those.
    pub examples: Vec<String>,
}

impl Policy {
    /// The targets that hold records of accounts which no source has, no full comparison ever had, and no job was for. Nothing says when they may go.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn orphans(&self, conn: &mut PgConnection) -> Result<Vec<Orphans>, DatabaseError> {
        let mut found = Vec::new();
        for target in self.classes.iter().flat_map(|class| &class.targets) {
            let Some(accounts) = target.accounts() else { continue };
            let mut known: Vec<String> =
                self.classes.iter().flat_map(|class| class.source.points()).map(|point| point.knows("o.id", target.key())).collect();
            known.sort_unstable();
            known.dedup();
            for table in ["absences", "done_marks", "jobs"] {
                known.push(format!("exists (select 1 from retention.{table} k where k.account_id = o.id)"));
            }
            let query = format!(
                "select count(*), coalesce((array_agg(o.id order by o.id collate \"C\"))[1:{EXAMPLES}], '{{}}') from ({accounts}) o where not ({})",
                known.join(" or ")
            );
            let (accounts, examples): (i64, Vec<String>) = sqlx::query_as(AssertSqlSafe(query)).fetch_one(&mut *conn).await?;
            if accounts > 0 {
                found.push(Orphans { target: target.name.clone(), accounts, examples });
            }
        }
        Ok(found)
    }
}
