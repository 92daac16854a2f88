//! What the daemon's role may do with the daemon's own tables, as the catalogue has it. What it may do with the configured ones is in `catalog.rs`.

use sqlx::PgConnection;

use super::{Finding, Severity};
use crate::database::DatabaseError;

/// The role that is asked about: the given one, else that of this session. Quoted.
///
/// # Errors
/// Those of the database.
pub async fn whose(conn: &mut PgConnection, role: Option<&str>) -> Result<String, DatabaseError> {
    match role {
        Some(role) => Ok(role.to_owned()),
        None => Ok(sqlx::query_scalar("select quote_ident(current_user)").fetch_one(conn).await?),
    }
}

/// The daemon's own tables must be writable by its role, and the list of migrations readable. Asks the catalogue, which needs no grant. Of a given role
/// (quoted) it counts nothing that it may do already. Where there are no tables nothing is missing.
///
/// # Errors
/// Those of the database.
pub async fn own(conn: &mut PgConnection, role: Option<&str>) -> Result<Vec<Finding>, DatabaseError> {
    let missing: Vec<(String, String, String)> = sqlx::query_as(
        "select 'schema retention', 'use', 'USAGE ON SCHEMA retention' from pg_namespace n
         where n.nspname = 'retention' and ($1 or not has_schema_privilege(n.oid, 'usage'))
         union all
         (select case c.relkind when 'v' then 'view' else 'table' end || ' retention.' || c.relname, 'read', 'SELECT ON retention.' || quote_ident(c.relname)
          from pg_class c join pg_namespace n on n.oid = c.relnamespace
          where n.nspname = 'retention' and (c.relname = 'migrations' or c.relkind = 'v') and ($1 or not has_table_privilege(c.oid, 'select'))
          order by c.relname)
         union all
         -- Nobody needs the right to change an entry.
         (select 'table retention.' || c.relname, 'read and write',
                 'SELECT, INSERT' || case when c.relname = 'ledger_entries' then '' else ', UPDATE, DELETE' end || ' ON retention.' || quote_ident(c.relname)
          from pg_class c join pg_namespace n on n.oid = c.relnamespace
          where n.nspname = 'retention' and c.relkind = 'r' and c.relname not like '%migrations'
            and ($1 or not (has_table_privilege(c.oid, 'select') and has_table_privilege(c.oid, 'insert')
                     and (c.relname = 'ledger_entries' or has_table_privilege(c.oid, 'update') and has_table_privilege(c.oid, 'delete'))))
          order by c.relname)",
    )
    .bind(role.is_some())
    .fetch_all(&mut *conn)
    .await?;
    let role = whose(conn, role).await?;
    let finding = |(subject, verb, privilege): (String, String, String)| Finding {
        severity: Severity::Grants,
        subject,
        problem: format!("{role} may not {verb} it"),
        remedy: Some(format!("GRANT {privilege} TO {role}")),
    };
    Ok(missing.into_iter().map(finding).collect())
}
