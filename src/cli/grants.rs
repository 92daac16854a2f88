//! `check --grants`: what the daemon's role and the second role need for this configuration, as SQL; and the part of it that only `check` asks for.
//! It grants nothing.

use serde::Serialize;

use super::{Cli, Output, block_on, print, print_json};
use crate::{
    app::patiently,
    catalog::{self, Finding, Severity},
    config::Config,
    database::{Database, DatabaseError, Purpose, Tx},
    failure::Failure,
    schema::SchemaError,
};

/// One statement, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Grant {
    role: String,
    statement: String,
    /// Without it deletion works, and something else does not.
    optional: bool,
}

impl Cli {
    /// Prints every statement that `role` needs, whatever it may do already, and those of the role of `verifier.url`.
    pub(super) fn grants(&self, role: &str) -> Result<(), Failure> {
        let config = self.one_shot()?;
        let grants = block_on(async {
            let database = Database::new(&config.database)?;
            patiently(|| needed(&config, &database, role)).await
        })?;
        match self.output {
            Output::Json => print_json(&grants),
            Output::Table => {
                for (at, grant) in grants.iter().enumerate() {
                    if at == 0 || grants.get(at - 1).is_some_and(|before| (&before.role, before.optional) != (&grant.role, grant.optional))
                    {
                        let why = if grant.optional { ", wanted: without it `retentiond check` warns" } else { "" };
                        print(&format!("-- {}, mode {}{why}", grant.role, config.mode.as_str()));
                    }
                    print(&format!("{};", grant.statement));
                }
                Ok(())
            }
        }
    }
}

async fn needed(config: &Config, database: &Database, role: &str) -> Result<Vec<Grant>, Failure> {
    let mut tx = database.begin(Purpose::Compare).await?;
    let there: bool =
        sqlx::query_scalar("select to_regnamespace('retention') is not null").fetch_one(&mut *tx).await.map_err(DatabaseError::from)?;
    if !there {
        return Err(Failure::Schema(SchemaError::Missing));
    }
    let role = quoted(&mut tx, role).await?;
    let found = catalog::grants(&mut tx, config, role.clone()).await?;
    // Of a table that is not there nobody can say what it needs.
    let worse: Vec<Finding> = found.iter().filter(|f| f.severity > Severity::Grants).cloned().collect();
    if !worse.is_empty() {
        return Err(Failure::Layout(worse));
    }
    let required =
        catalog::own(&mut tx, Some(&role)).await?.into_iter().chain(found.into_iter().filter(|f| f.severity == Severity::Grants));
    let mut optional = replay(&mut tx, Some(&role)).await?;
    optional.extend(statistics(&mut tx, Some(&role)).await?);
    let mut grants: Vec<Grant> = Vec::new();
    for (optional, finding) in required.map(|f| (false, f)).chain(optional.into_iter().map(|f| (true, f))) {
        let grant = finding.remedy.map(|statement| Grant { role: role.clone(), statement, optional });
        grants.extend(grant.filter(|grant| !grants.contains(grant)));
    }
    if let Some(witness) = config.witness() {
        let role = quoted(&mut tx, Database::new(&witness)?.role()).await?;
        let statements = catalog::witness::grants(config, &role);
        grants.extend(statements.into_iter().map(|statement| Grant { role: role.clone(), statement, optional: false }));
    }
    Ok(grants)
}

async fn quoted(tx: &mut Tx, role: &str) -> Result<String, DatabaseError> {
    Ok(sqlx::query_scalar("select quote_ident($1)").bind(role).fetch_one(&mut **tx).await?)
}

/// Moving ids on, which only a replay needs.
pub(super) async fn replay(tx: &mut Tx, role: Option<&str>) -> Result<Vec<Finding>, DatabaseError> {
    let fixed: Vec<String> = sqlx::query_scalar(
        "select name from unnest(array['jobs', 'holds', 'pauses', 'policies', 'requests', 'approvals']) as t(of), concat(t.of, '_id_seq') as name
         where $1 or not has_sequence_privilege('retention.' || name, 'update') order by 1",
    )
    .bind(role.is_some())
    .fetch_all(&mut **tx)
    .await?;
    if fixed.is_empty() {
        return Ok(Vec::new());
    }
    let sequences = fixed.iter().map(|name| format!("retention.{name}")).collect::<Vec<_>>().join(", ");
    let role = catalog::whose(tx, role).await?;
    Ok(vec![Finding {
        severity: Severity::Warning,
        subject: "ledger".to_owned(),
        problem: format!("{role} may not move ids on, which `retentiond ledger replay` does after an older database came back"),
        remedy: Some(format!("GRANT UPDATE ON SEQUENCE {sequences} TO {role}")),
    }])
}

/// Without it nobody can tell how far standbys are and what old sessions may still see.
pub(super) async fn statistics(tx: &mut Tx, role: Option<&str>) -> Result<Option<Finding>, DatabaseError> {
    let may: bool =
        sqlx::query_scalar("select not $1 and pg_has_role('pg_read_all_stats', 'usage')").bind(role.is_some()).fetch_one(&mut **tx).await?;
    let role = catalog::whose(tx, role).await?;
    Ok((!may).then(|| Finding {
        severity: Severity::Warning,
        subject: "database".to_owned(),
        problem: format!("{role} may not see standbys and sessions of others: no job reaches the levels replicated and cleaned"),
        remedy: Some(format!("GRANT pg_monitor TO {role}")),
    }))
}
