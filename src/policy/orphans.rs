//! What is told and left alone, because no rule says when it may go: records of accounts that were never known (I9, I11), and accounts of which nobody
//! knows where they live (R9).

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

/// Accounts that have ended, and nobody knows where they live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Homeless {
    /// How many.
    pub accounts: i64,
    /// Some of those.
    pub examples: Vec<String>,
}

impl Policy {
    /// The accounts that have ended in a region that nobody knows, if the daemon has regions and there are any: no daemon deletes what they leave.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn homeless(&self, conn: &mut PgConnection) -> Result<Option<Homeless>, DatabaseError> {
        let mut ended: Vec<String> = self.classes.iter().flat_map(|class| class.source.of_no_region()).collect();
        ended.sort_unstable();
        ended.dedup();
        if ended.is_empty() {
            return Ok(None);
        }
        let query = format!(
            "select count(*), coalesce((array_agg(o.id order by o.id collate \"C\"))[1:{EXAMPLES}], '{{}}') from ({}) o",
            ended.join(" union ")
        );
        let (accounts, examples): (i64, Vec<String>) = sqlx::query_as(AssertSqlSafe(query)).fetch_one(&mut *conn).await?;
        Ok((accounts > 0).then_some(Homeless { accounts, examples }))
    }

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
