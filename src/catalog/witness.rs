//! Whether a second role is fit to testify that records are gone: it must look at the very database, see every row of every target, and be able to change none.
//! Definitions and privileges only; the look itself is `levels.rs`.

use sqlx::{FromRow, PgConnection};

use super::{Finding, Severity};
use crate::{config::Config, database::DatabaseError, model::TableName};

/// What its findings are about.
const SUBJECT: &str = "verifier.url";

/// Which database a connection leads to: the server's identifier, and the database's oid in it.
///
/// # Errors
/// Those of the database.
pub async fn identity(conn: &mut PgConnection) -> Result<(i64, i64), DatabaseError> {
    Ok(sqlx::query_as(
        "select (select system_identifier from pg_control_system()), (select oid::int8 from pg_database where datname = current_database())",
    )
    .fetch_one(conn)
    .await?)
}

#[derive(FromRow)]
#[expect(clippy::struct_excessive_bools, reason = "a row of the catalogue, read once and asked by name")]
struct Sight {
    may_use: bool,
    may_select: bool,
    may_change: bool,
    hidden: bool,
}

/// What the role may do with one table. Whatever it could do as any role that it is a member of, it can do; so can an owner, who grants it to himself. A
/// partition can be changed by its own name.
const SIGHT: &str = "
    with recursive down(oid) as (
        select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = $1 and c.relname = $2
        union select i.inhrelid from down join pg_inherits i on i.inhparent = down.oid)
    select has_schema_privilege(n.oid, 'usage') as may_use, has_table_privilege(c.oid, 'select') as may_select,
           row_security_active(c.oid) as hidden,
           exists (select 1 from down d join pg_class p on p.oid = d.oid, pg_roles r
                   where pg_has_role(r.oid, 'member')
                     and (r.oid = p.relowner or has_table_privilege(r.oid, p.oid, 'delete') or has_table_privilege(r.oid, p.oid, 'truncate')
                          or has_any_column_privilege(r.oid, p.oid, 'update'))) as may_change
    from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = $1 and c.relname = $2";

/// What a second role (quoted) needs that may do nothing yet, as statements: it reads every target.
#[must_use]
pub fn grants(config: &Config, role: &str) -> Vec<String> {
    let tables = config.data_classes.iter().flat_map(|class| &class.targets).map(|target| &target.table);
    let mut statements = Vec::new();
    for table in tables {
        for privilege in [format!("USAGE ON SCHEMA {}", table.quoted_schema()), format!("SELECT ON {}", table.quoted())] {
            let statement = format!("GRANT {privilege} TO {role}");
            if !statements.contains(&statement) {
                statements.push(statement);
            }
        }
    }
    statements
}

/// Why the role behind `conn` cannot testify about the targets of this configuration; nothing when it can. `main` is the [`identity`] of the main database.
///
/// # Errors
/// Those of the database.
pub async fn doubts(conn: &mut PgConnection, config: &Config, main: (i64, i64)) -> Result<Vec<Finding>, DatabaseError> {
    let mut doubts = Vec::new();
    let mut doubt = |severity, problem: String, remedy: Option<String>| {
        doubts.push(Finding { severity, subject: SUBJECT.to_owned(), problem, remedy });
    };
    let (role, standby): (String, bool) =
        sqlx::query_as("select quote_ident(current_user), pg_is_in_recovery()").fetch_one(&mut *conn).await?;
    if standby {
        doubt(Severity::Error, "it leads to a standby, which may show what is long gone; name the primary".to_owned(), None);
    }
    if identity(&mut *conn).await? != main {
        doubt(Severity::Error, "it leads to another database than database.url; name the same one, with another role".to_owned(), None);
        return Ok(doubts);
    }
    let mut tables: Vec<&TableName> = Vec::new();
    for table in config.data_classes.iter().flat_map(|class| &class.targets).map(|target| &target.table) {
        if !tables.contains(&table) {
            tables.push(table);
        }
    }
    for table in tables {
        let sight: Option<Sight> = sqlx::query_as(SIGHT).bind(table.schema()).bind(table.table()).fetch_optional(&mut *conn).await?;
        // That it does not exist is somebody else's finding.
        let Some(sight) = sight else { continue };
        let (spelt, quoted) = (table.spelt(), table.quoted());
        if !sight.may_use {
            let remedy = format!("GRANT USAGE ON SCHEMA {} TO {role}", table.quoted_schema());
            doubt(Severity::Grants, format!("{role} may not use schema {}", table.schema()), Some(remedy));
        }
        if !sight.may_select {
            doubt(Severity::Grants, format!("{role} may not read {spelt}"), Some(format!("GRANT SELECT ON {quoted} TO {role}")));
        }
        if sight.hidden {
            let problem = format!("row security on {spelt} would hide records from {role}; what is hidden cannot be shown to be gone");
            doubt(Severity::Error, problem, Some(format!("ALTER ROLE {role} BYPASSRLS")));
        }
        if sight.may_change {
            let problem = format!("{role} may change {spelt}, itself or as another role: whoever can delete is no second witness");
            doubt(Severity::Error, problem, Some(format!("REVOKE UPDATE, DELETE, TRUNCATE ON {quoted} FROM {role}")));
        }
    }
    Ok(doubts)
}
