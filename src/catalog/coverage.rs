//! Coverage: every table of the platform's schemas that names accounts is a target, a source, under the customer's control, or exempted by name.
//! A table that nobody thought of is where promises are broken unseen.

use sqlx::PgConnection;

use super::{Finding, Severity};
use crate::{
    config::{Config, Owner},
    database::DatabaseError,
    model::TableName,
};

/// The tables that nobody has decided about, as warnings. Partitions go with their parents; only views hold no records of their own.
///
/// # Errors
/// Those of the database.
pub async fn uncovered(conn: &mut PgConnection, config: &Config) -> Result<Vec<Finding>, DatabaseError> {
    let targets = || config.data_classes.iter().flat_map(|c| &c.targets);
    let places: Vec<TableName> = config.customer_places.iter().filter_map(|p| TableName::parse(&p.place).ok()).collect();
    let decided: Vec<&TableName> = (config.starting_points.iter().map(|p| &p.table))
        .chain(targets().map(|t| &t.table))
        .chain(&places)
        .chain(config.exemptions.iter().map(|e| &e.table))
        .collect();
    let column = |owner: &Owner| match owner {
        Owner::Columns { account, .. } => Some(account.as_str().to_owned()),
        Owner::Parent(_) => None,
    };
    let mut columns: Vec<String> = config.starting_points.iter().map(|p| p.account_column.as_str().to_owned()).collect();
    columns.extend(targets().filter_map(|t| column(&t.owner)));
    let found: Vec<(String, String)> = sqlx::query_as(
        "with recursive decided(oid) as (
             select c.oid from unnest($1::text[], $2::text[]) d(schema, name)
               join pg_namespace n on n.nspname = d.schema join pg_class c on c.relnamespace = n.oid and c.relname = d.name
             union select i.inhrelid from decided join pg_inherits i on i.inhparent = decided.oid)
         select c.oid::regclass::text, a.attname::text
         from pg_class c join pg_namespace n on n.oid = c.relnamespace
           join lateral (select a.attname from pg_attribute a where a.attrelid = c.oid and a.attname = any($3) and a.attnum > 0 and not a.attisdropped
                         order by a.attnum limit 1) a on true
         where n.nspname = any($1) and n.nspname <> 'retention' and c.relkind in ('r', 'p', 'm', 'f') and not c.relispartition
           and c.relpersistence <> 't' and c.oid not in (select oid from decided)
         order by 1",
    )
    .bind(decided.iter().map(|t| t.schema()).collect::<Vec<_>>())
    .bind(decided.iter().map(|t| t.table()).collect::<Vec<_>>())
    .bind(columns)
    .fetch_all(conn)
    .await?;
    let finding = |(table, column): (String, String)| Finding {
        severity: Severity::Warning,
        subject: format!("table {table}"),
        problem: format!(
            "it has the column {column} and nobody has decided about it: make it a target or a place of the customer, or exempt it with [[exemptions]] table = {table:?} and a reason"
        ),
        remedy: None,
    };
    Ok(found.into_iter().map(finding).collect())
}
