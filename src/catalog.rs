//! What the database's catalogue says about the configured tables: key types, indexes, privileges, and whether a DELETE stays where it belongs.
//! It looks at definitions only, never at records. What holds for targets alone is in `catalog/targets.rs`,
//! what was forgotten in `catalog/coverage.rs`, what a second role may do in `catalog/witness.rs`, what ours may do with the daemon's own in `catalog/own.rs`.

mod coverage;
mod own;
mod targets;
pub mod witness;

pub use coverage::uncovered;
pub use own::{own, whose};

use std::collections::BTreeMap;

use serde::Serialize;
use sqlx::{FromRow, PgConnection};

use crate::{
    config::Config,
    database::DatabaseError,
    model::{Ident, Mode, TableName},
};

/// The type of an account column (R7). Account ids are bound in this type so that its index serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyType {
    /// `text` or `varchar`, with a deterministic collation.
    Text,
    /// `uuid`
    Uuid,
    /// `integer`
    Integer,
    /// `bigint`
    Bigint,
}

impl KeyType {
    /// The SQL type that account ids are cast to.
    #[must_use]
    pub fn sql(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Uuid => "uuid",
            Self::Integer => "integer",
            Self::Bigint => "bigint",
        }
    }

    /// Whether this type can hold the id so that its canonical text is the id again, byte for byte.
    #[must_use]
    pub fn holds(self, id: &str) -> bool {
        match self {
            Self::Text => !id.contains('\0'),
            Self::Integer => id.parse::<i32>().is_ok_and(|n| n.to_string() == id),
            Self::Bigint => id.parse::<i64>().is_ok_and(|n| n.to_string() == id),
            Self::Uuid => {
                id.len() == 36
                    && id.bytes().enumerate().all(|(i, b)| match i {
                        8 | 13 | 18 | 23 => b == b'-',
                        _ => b.is_ascii_digit() || (b'a'..=b'f').contains(&b),
                    })
            }
        }
    }

    /// [`KeyType::equals`], for an id that was made of a `from`: not every id of the one type is one of the other.
    #[must_use]
    pub fn same(self, column: &str, id: &str, from: Self) -> String {
        if self == Self::Text || self == from { self.equals(column, id) } else { format!("{column}::text = {id} collate \"C\"") }
    }

    /// `column = id`, in the column's own type for the index, and byte for byte beside it (R7). `id` is a text expression.
    #[must_use]
    pub fn equals(self, column: &str, id: &str) -> String {
        match self {
            Self::Text => format!("{column} = {id} and {column} = {id} collate \"C\""),
            Self::Uuid | Self::Integer | Self::Bigint => format!("{column} = {id}::{}", self.sql()),
        }
    }
}

/// A configured table as the catalogue knows it.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about one table, asked by name")]
pub struct Table {
    /// Quoted and schema-qualified.
    pub sql: String,
    /// Pinned at start: another table under the same name is not this one (R16).
    pub oid: i64,
    /// The account column's type.
    pub key: KeyType,
    /// A usable index leads with the account column.
    pub indexed: bool,
    /// Such an index is in the order of the column's own comparison.
    pub ordered: bool,
    /// A usable index is in the order of a starting point's instants.
    pub dated: bool,
    /// At most one row for each account (and feature): a plain unique index says so.
    pub unique: bool,
    /// Tables that its rows point at by a foreign key.
    pub parents: Vec<i64>,
    /// Foreign keys that point at it.
    pub references: Vec<Reference>,
    /// The parent that tells whose its rows are, where no column does.
    pub parent: Option<Parent>,
}

/// A foreign key that points at a table.
#[derive(Debug, Clone, FromRow)]
pub struct Reference {
    /// The constraint's oid.
    pub oid: i64,
    /// The table whose rows point.
    pub table: i64,
    /// The same, quoted.
    pub sql: String,
    /// How its rows `r` point at rows `t`.
    pub on: String,
    /// A DELETE of what they point at would delete or change them; else they forbid it.
    pub cascades: bool,
    /// An index leads with the first of the columns that point.
    pub indexed: bool,
    /// That column, quoted.
    pub column: String,
}

/// The target that a child target's rows point at.
#[derive(Debug, Clone)]
pub struct Parent {
    /// Its place among the targets of the class.
    pub target: usize,
    /// The columns of the foreign key: the child's, the parent's.
    pub on: Vec<(String, String)>,
}

/// The catalogue's answer for one configuration: a table for each starting point and each target, in the order of the configuration.
#[derive(Debug, Clone)]
pub struct Layout {
    /// By starting point.
    pub points: Vec<Table>,
    /// By data class, then target.
    pub targets: Vec<Vec<Table>>,
    /// Tables under the customer's control.
    pub media: Vec<i64>,
}

impl Layout {
    /// Every table with the oid it had when the layout was made.
    #[must_use]
    pub fn pinned(&self) -> BTreeMap<&str, i64> {
        self.points.iter().chain(self.targets.iter().flatten()).map(|t| (t.sql.as_str(), t.oid)).collect()
    }
}

/// How bad a finding is, which is also its exit code (R34).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The daemon works, less well or less safely than it could.
    Warning,
    /// Something else is wrong.
    Error,
    /// A privilege is missing.
    Grants,
    /// A table, column or type is not what the configuration says.
    Schema,
}

impl Severity {
    /// The exit code of `check` when this is its worst finding.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Warning => 0,
            Self::Error => 3,
            Self::Grants => 12,
            Self::Schema => 10,
        }
    }
}

/// Something that somebody should know or mend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The key, table or column it is about.
    pub subject: String,
    /// What is wrong.
    pub problem: String,
    /// The statement that would mend it.
    pub remedy: Option<String>,
}

/// Looks at every configured table. The layout is there only when no finding is worse than a warning.
///
/// # Errors
/// Those of the database.
pub async fn inspect(conn: &mut PgConnection, config: &Config) -> Result<(Option<Layout>, Vec<Finding>), DatabaseError> {
    let role = whose(conn, None).await?;
    look(conn, config, Inspection { findings: Vec::new(), role, may_nothing: false }).await
}

/// What [`inspect`] would find if `role` (quoted) were asked, existed, and could do nothing yet: each privilege that it needs is a finding of
/// [`Severity::Grants`] with its statement. Row security is not judged.
///
/// # Errors
/// Those of the database.
pub async fn grants(conn: &mut PgConnection, config: &Config, role: String) -> Result<Vec<Finding>, DatabaseError> {
    Ok(look(conn, config, Inspection { findings: Vec::new(), role, may_nothing: true }).await?.1)
}

async fn look(
    conn: &mut PgConnection,
    config: &Config,
    mut inspection: Inspection,
) -> Result<(Option<Layout>, Vec<Finding>), DatabaseError> {
    let mut points = Vec::new();
    for point in &config.starting_points {
        let subject = format!("starting point {}", point.name);
        let Some(relation) = inspection.relation(conn, &subject, &point.table).await? else {
            continue;
        };
        inspection.ordinary(&subject, &point.table, &relation);
        inspection.column(conn, &subject, &point.table, &relation, &point.since_column, "timestamptz").await?;
        for text in point.feature_column.iter().chain(&point.region_column) {
            inspection.column(conn, &subject, &point.table, &relation, text, "text").await?;
        }
        let needs = if config.mode == Mode::Enforce { Needs::Lock } else { Needs::Read };
        inspection.privileges(&subject, &point.table, &relation, &point.account_column, needs);
        let key = inspection.key(conn, &subject, &point.table, &relation, &point.account_column).await?;
        if !relation.leads_index(point.since_column.as_str(), true) {
            inspection.warn_index(&subject, &point.table, &point.since_column, true);
        }
        if !relation.leads_index(point.account_column.as_str(), false) {
            inspection.warn_index(&subject, &point.table, &point.account_column, false);
        }
        let columns: Vec<&str> =
            [Some(&point.account_column), point.feature_column.as_ref()].into_iter().flatten().map(Ident::as_str).collect();
        if let Some(key) = key {
            let mut table = relation.table(&point.table, key, relation.is_unique_within(&columns), point.account_column.as_str());
            table.dated = relation.orders(point.since_column.as_str(), true);
            points.push(table);
        }
    }
    let mut targets = Vec::new();
    for class in &config.data_classes {
        targets.push(inspection.class(conn, config, class).await?);
    }
    inspection.findings.extend(uncovered(conn, config).await?);
    let worst = inspection.findings.iter().map(|f| f.severity).max();
    let sound = worst.is_none_or(|s| s == Severity::Warning);
    let media = inspection.media(conn, config).await?.into_iter().map(|(_, oid)| oid).collect();
    Ok((sound.then_some(Layout { points, targets, media }), inspection.findings))
}

/// Refuses when a table is not the one that was checked at start: what another table of that name says is not known (R16, I6).
///
/// # Errors
/// That refusal, and those of the database.
pub async fn unmoved(conn: &mut PgConnection, pinned: &BTreeMap<String, i64>) -> Result<(), DatabaseError> {
    let (names, oids): (Vec<&String>, Vec<i64>) = pinned.iter().unzip();
    let moved: Option<String> = sqlx::query_scalar(
        "select 'table ' || p.name || ' is not the one that was checked at start; restart the daemon to check it anew'
         from unnest($1::text[], $2::int8[]) p(name, oid) where to_regclass(p.name)::oid::int8 is distinct from p.oid limit 1",
    )
    .bind(names)
    .bind(oids)
    .fetch_optional(conn)
    .await?;
    moved.map_or(Ok(()), |why| Err(DatabaseError::Refused(why)))
}

/// What the daemon does with a table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Read,
    /// Row locks need UPDATE on one column (R14).
    Lock,
    Delete,
}

struct Inspection {
    findings: Vec<Finding>,
    /// Quoted.
    role: String,
    /// Whatever the role of this session may do counts for nothing.
    may_nothing: bool,
}

#[derive(FromRow)]
#[expect(clippy::struct_excessive_bools, reason = "a row of the catalogue, read once and asked by name")]
struct Relation {
    oid: i64,
    kind: String,
    row_security: bool,
    may_use: bool,
    may_select: bool,
    may_delete: bool,
    may_update: bool,
    /// DELETE triggers of the table and its partitions.
    triggers: Vec<String>,
    /// Tables that its rows point at.
    parents: Vec<i64>,
    /// The oids of this table's partition ancestors, parents and descendants, itself included.
    family: Vec<i64>,
    #[sqlx(skip)]
    indexes: Vec<Index>,
    #[sqlx(skip)]
    references: Vec<Reference>,
}

#[derive(FromRow)]
struct Index {
    /// A B-tree in the default order of its first column.
    ordered: bool,
    columns: Vec<String>,
    is_unique: bool,
    predicate: Option<String>,
}

const RELATION: &str = "
    select c.oid::int8 as oid, c.relkind::text as kind, row_security_active(c.oid) as row_security,
           has_schema_privilege(n.oid, 'usage') as may_use,
           has_table_privilege(c.oid, 'select') as may_select, has_table_privilege(c.oid, 'delete') as may_delete,
           has_any_column_privilege(c.oid, 'update') as may_update,
           array(select distinct t.tgname::text from pg_trigger t
                 where t.tgrelid = any(d.down) and not t.tgisinternal and (t.tgtype & 8) <> 0 and t.tgenabled <> 'D') as triggers,
           array(select f.confrelid::int8 from pg_constraint f where f.conrelid = any(d.down) and f.contype = 'f') as parents,
           array(with recursive up(oid) as (select c.oid union select i.inhparent from up join pg_inherits i on i.inhrelid = up.oid)
                 select oid::int8 from up union select unnest(d.down)::int8) as family
    from pg_class c join pg_namespace n on n.oid = c.relnamespace,
         lateral (select array(with recursive down(oid) as (select c.oid union select i.inhrelid from down join pg_inherits i on i.inhparent = down.oid)
                               select oid from down) as down) d
    where n.nspname = $1 and c.relname = $2";

/// Foreign keys that point at the table `$1` or a partition of it. Of a key at a partitioned table each partition has a copy: it counts where the
/// original is not counted already, for a target may be a partition.
const REFERENCES: &str = "
    with recursive down(oid) as (select $1::oid union select i.inhrelid from down join pg_inherits i on i.inhparent = down.oid)
    select f.oid::int8 as oid, f.conrelid::int8 as table, f.conrelid::regclass::text as sql, f.confdeltype in ('c', 'n', 'd') as cascades,
           exists (select 1 from pg_index i where i.indrelid = f.conrelid and i.indisvalid and i.indpred is null and i.indkey[0] = f.conkey[1]) as indexed,
           (select quote_ident(a.attname) from pg_attribute a where a.attrelid = f.conrelid and a.attnum = f.conkey[1]) as column,
           (select string_agg(format('r.%I = t.%I', ca.attname, pa.attname), ' and ') from unnest(f.conkey, f.confkey) k(c, p)
            join pg_attribute ca on ca.attrelid = f.conrelid and ca.attnum = k.c
            join pg_attribute pa on pa.attrelid = f.confrelid and pa.attnum = k.p) as on
    from pg_constraint f
    where f.confrelid in (select oid from down) and f.contype = 'f'
      and not exists (select 1 from pg_constraint p where p.oid = f.conparentid and p.confrelid in (select oid from down))
    order by f.oid";

const INDEXES: &str = "
    select array(select coalesce(a.attname::text, '') from unnest(i.indkey[0:i.indnkeyatts - 1]) with ordinality k(attnum, at)
                 left join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum order by k.at) as columns,
           m.amname = 'btree' and (select o.opcdefault from pg_opclass o where o.oid = i.indclass[0])
               and i.indcollation[0] = coalesce((select a.attcollation from pg_attribute a where a.attrelid = i.indrelid and a.attnum = i.indkey[0]), 0) as ordered,
           i.indisunique as is_unique, pg_get_expr(i.indpred, i.indrelid) as predicate
    from pg_index i join pg_class x on x.oid = i.indexrelid join pg_am m on m.oid = x.relam
    where i.indrelid = $1::oid and i.indisvalid and i.indisready and m.amname in ('btree', 'hash')";

impl Index {
    fn serves(&self, column: &str, not_null_serves: bool) -> bool {
        self.columns.first().is_some_and(|c| c == column)
            && match &self.predicate {
                None => true,
                Some(p) => not_null_serves && p.ends_with("IS NOT NULL)") && p.contains(column),
            }
    }
}

impl Relation {
    /// A usable index leads with the column; for a nullable instant a partial index on its not-null rows serves too.
    fn leads_index(&self, column: &str, not_null_serves: bool) -> bool {
        self.indexes.iter().any(|i| i.serves(column, not_null_serves))
    }

    /// Such an index is in the order of the column's own comparison.
    fn orders(&self, column: &str, not_null_serves: bool) -> bool {
        self.indexes.iter().any(|i| i.ordered && i.serves(column, not_null_serves))
    }

    fn is_unique_within(&self, columns: &[&str]) -> bool {
        self.indexes.iter().any(|i| i.is_unique && i.predicate.is_none() && i.columns.iter().all(|c| columns.contains(&c.as_str())))
    }

    fn table(&self, name: &TableName, key: KeyType, unique: bool, leads: &str) -> Table {
        Table {
            sql: name.quoted(),
            oid: self.oid,
            key,
            indexed: self.leads_index(leads, false),
            ordered: self.orders(leads, false),
            dated: false,
            unique,
            parents: self.parents.clone(),
            references: self.references.clone(),
            parent: None,
        }
    }
}

#[derive(FromRow)]
struct Column {
    type_name: String,
    collation_is_deterministic: bool,
}

impl Inspection {
    fn find(&mut self, severity: Severity, subject: &str, problem: String, remedy: Option<String>) {
        self.findings.push(Finding { severity, subject: subject.to_owned(), problem, remedy });
    }

    async fn relation(&mut self, conn: &mut PgConnection, subject: &str, name: &TableName) -> Result<Option<Relation>, DatabaseError> {
        let found: Option<Relation> = sqlx::query_as(RELATION).bind(name.schema()).bind(name.table()).fetch_optional(&mut *conn).await?;
        let Some(mut relation) = found else {
            let problem = format!("table {} does not exist", name.spelt());
            self.find(Severity::Schema, subject, problem, None);
            return Ok(None);
        };
        if self.may_nothing {
            (relation.may_use, relation.may_select, relation.may_update, relation.may_delete) = (false, false, false, false);
            relation.row_security = false;
        }
        relation.indexes = sqlx::query_as(INDEXES).bind(relation.oid).fetch_all(&mut *conn).await?;
        relation.references = sqlx::query_as(REFERENCES).bind(relation.oid).fetch_all(conn).await?;
        Ok(Some(relation))
    }

    /// Only ordinary and partitioned tables hold records of their own.
    fn ordinary(&mut self, subject: &str, name: &TableName, relation: &Relation) {
        let what = match relation.kind.as_str() {
            "r" | "p" => return,
            "v" => "a view",
            "m" => "a materialized view",
            "f" => "a foreign table",
            _ => "not a table",
        };
        self.find(Severity::Schema, subject, format!("{} is {what}: name the table that holds the records", name.spelt()), None);
    }

    async fn column(
        &mut self,
        conn: &mut PgConnection,
        subject: &str,
        name: &TableName,
        relation: &Relation,
        column: &Ident,
        wanted: &str,
    ) -> Result<(), DatabaseError> {
        let Some(found) = self.look_up(conn, subject, name, relation, column).await? else {
            return Ok(());
        };
        let fits = match wanted {
            "timestamptz" => found.type_name == "timestamp with time zone",
            _ => matches!(found.type_name.as_str(), "text" | "character varying") && found.collation_is_deterministic,
        };
        if !fits {
            let problem = format!("column {} of {} is {}, not {wanted}", column.as_str(), name.spelt(), found.type_name);
            self.find(Severity::Schema, subject, problem, None);
        }
        Ok(())
    }

    async fn look_up(
        &mut self,
        conn: &mut PgConnection,
        subject: &str,
        name: &TableName,
        relation: &Relation,
        column: &Ident,
    ) -> Result<Option<Column>, DatabaseError> {
        let found: Option<Column> = sqlx::query_as(
            "select format_type(a.atttypid, null) as type_name, coalesce(l.collisdeterministic, true) as collation_is_deterministic
             from pg_attribute a left join pg_collation l on l.oid = a.attcollation
             where a.attrelid = $1::oid and a.attname = $2 and a.attnum > 0 and not a.attisdropped",
        )
        .bind(relation.oid)
        .bind(column.as_str())
        .fetch_optional(conn)
        .await?;
        if found.is_none() {
            self.find(Severity::Schema, subject, format!("{} has no column {}", name.spelt(), column.as_str()), None);
        }
        Ok(found)
    }

    async fn key(
        &mut self,
        conn: &mut PgConnection,
        subject: &str,
        name: &TableName,
        relation: &Relation,
        column: &Ident,
    ) -> Result<Option<KeyType>, DatabaseError> {
        let Some(found) = self.look_up(conn, subject, name, relation, column).await? else {
            return Ok(None);
        };
        let key = match found.type_name.as_str() {
            "text" | "character varying" if found.collation_is_deterministic => Some(KeyType::Text),
            "uuid" => Some(KeyType::Uuid),
            "integer" => Some(KeyType::Integer),
            "bigint" => Some(KeyType::Bigint),
            _ => None,
        };
        if key.is_none() {
            let why = if found.collation_is_deterministic {
                found.type_name
            } else {
                format!("{} with a nondeterministic collation", found.type_name)
            };
            let problem = format!(
                "account column {} of {} is {why}; account ids are compared byte for byte in text, varchar, uuid, integer or bigint",
                column.as_str(),
                name.spelt()
            );
            self.find(Severity::Schema, subject, problem, None);
        }
        Ok(key)
    }

    fn privileges(&mut self, subject: &str, name: &TableName, relation: &Relation, account: &Ident, needs: Needs) {
        let table = name.quoted();
        if !relation.may_use {
            let schema = name.quoted_schema();
            let problem = format!("{} may not use schema {}", self.role, name.schema());
            let remedy = format!("GRANT USAGE ON SCHEMA {schema} TO {}", self.role);
            self.find(Severity::Grants, subject, problem, Some(remedy));
        }
        let mut grant = |have: bool, privilege: String| {
            if !have {
                let problem = format!("{} may not {} {}", self.role, privilege.to_lowercase(), name.spelt());
                let remedy = format!("GRANT {privilege} ON {table} TO {}", self.role);
                self.findings.push(Finding { severity: Severity::Grants, subject: subject.to_owned(), problem, remedy: Some(remedy) });
            }
        };
        grant(relation.may_select, "SELECT".to_owned());
        if needs != Needs::Read {
            // Locking a row is a kind of update; one column is enough, and the daemon never writes it.
            grant(relation.may_update, format!("UPDATE ({})", account.quoted()));
        }
        if needs == Needs::Delete {
            grant(relation.may_delete, "DELETE".to_owned());
        }
        if relation.row_security {
            let problem = format!(
                "row security on {} would hide records from {}; what is hidden cannot be shown to be gone",
                name.spelt(),
                self.role
            );
            let remedy = format!("ALTER ROLE {} BYPASSRLS", self.role);
            self.find(Severity::Error, subject, problem, Some(remedy));
        }
    }

    fn warn_index(&mut self, subject: &str, name: &TableName, column: &Ident, partial: bool) {
        let predicate = if partial { format!(" WHERE {} IS NOT NULL", column.quoted()) } else { String::new() };
        let remedy = format!("CREATE INDEX CONCURRENTLY ON {} ({}){predicate}", name.quoted(), column.quoted());
        let problem = format!("no index of {} leads with {}: each look reads the whole table", name.spelt(), column.as_str());
        self.find(Severity::Warning, subject, problem, Some(remedy));
    }
}
