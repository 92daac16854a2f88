//! The targets of a class as the catalogue knows them: what they are, whose their rows are, and what a DELETE of theirs would reach or be kept by (R13).

use sqlx::{FromRow, PgConnection};

use super::{Inspection, Needs, Parent, Relation, Severity, Table};
use crate::{
    config::{Config, DataClass, Owner, Store, Target},
    database::DatabaseError,
    model::{Ident, Mode, TableName},
};

/// The columns of each foreign key by which `$1` points at `$2`.
const LINKS: &str = "
    select exists (select 1 from pg_attribute a where a.attrelid = f.conrelid and a.attnum = any(f.conkey) and not a.attnotnull) as nullable,
           array(select ca.attname::text from unnest(f.conkey) with ordinality k(c, at)
                 join pg_attribute ca on ca.attrelid = f.conrelid and ca.attnum = k.c order by k.at) as child,
           array(select pa.attname::text from unnest(f.confkey) with ordinality k(p, at)
                 join pg_attribute pa on pa.attrelid = f.confrelid and pa.attnum = k.p order by k.at) as parent
    from pg_constraint f where f.conrelid = $1::oid and f.confrelid = $2::oid and f.contype = 'f' order by f.oid";

/// A foreign key's columns, pair by pair.
#[derive(FromRow)]
struct Link {
    /// One of the child's columns may be null.
    nullable: bool,
    child: Vec<String>,
    parent: Vec<String>,
}

/// Whether nothing is left to be found out before the table of this target.
fn ready(class: &DataClass, tables: &[Option<Table>], relations: &[Option<Relation>], at: usize) -> bool {
    match class.targets.get(at).map(|t| &t.owner) {
        Some(Owner::Parent(name)) => {
            class.targets.iter().position(|t| t.table == *name).is_none_or(|p| tables[p].is_some() || relations[p].is_none())
        }
        Some(Owner::Columns { .. }) | None => true,
    }
}

impl Inspection {
    pub(super) async fn class(&mut self, conn: &mut PgConnection, config: &Config, class: &DataClass) -> Result<Vec<Table>, DatabaseError> {
        let media = self.media(conn, config).await?;
        let sources = self.sources(conn, config).await?;
        let listed = self.listed(conn, class.targets.iter()).await?;
        let anywhere = self.listed(conn, config.data_classes.iter().flat_map(|c| &c.targets)).await?;
        let mut relations = Vec::new();
        for target in &class.targets {
            let subject = format!("target {}", target.name);
            let relation = self.relation(conn, &subject, &target.table).await?;
            if let Some(relation) = &relation {
                self.ordinary(&subject, &target.table, relation);
                if let Some(place) = media.iter().find(|(_, oid)| relation.family.contains(oid)).map(|(place, _)| place) {
                    let problem = format!("{} is the customer's {place}, or a part of it: it is never purged", target.table.spelt());
                    self.find(Severity::Schema, &subject, problem, None);
                }
                if let Some(point) = sources.iter().find(|(_, oid)| relation.family.contains(oid)).map(|(name, _)| name) {
                    let problem = format!(
                        "{} holds the starting point {point}, or is a part of it or the whole: what tells us to delete is never deleted",
                        target.table.spelt()
                    );
                    self.find(Severity::Schema, &subject, problem, None);
                }
                self.references(&subject, class, target, relation, &listed, &anywhere);
                for trigger in &relation.triggers {
                    let problem = format!("trigger {trigger} on {} runs when records are deleted", target.table.spelt());
                    self.find(Severity::Warning, &subject, problem, None);
                }
            }
            relations.push(relation);
        }
        let mut tables: Vec<Option<Table>> = vec![None; relations.len()];
        // Parents first: a child's rows are told by theirs. The configuration has no circles.
        while let Some(at) =
            (0..relations.len()).find(|&at| tables[at].is_none() && relations[at].is_some() && ready(class, &tables, &relations, at))
        {
            let Some(relation) = relations[at].take() else { break };
            tables[at] = self.target(conn, config, class, at, &relation, &tables).await?;
        }
        Ok(tables.into_iter().flatten().collect())
    }

    /// The table of one target, with how its rows tell whose they are.
    async fn target(
        &mut self,
        conn: &mut PgConnection,
        config: &Config,
        class: &DataClass,
        at: usize,
        relation: &Relation,
        tables: &[Option<Table>],
    ) -> Result<Option<Table>, DatabaseError> {
        let Some(target) = class.targets.get(at) else { return Ok(None) };
        let subject = format!("target {}", target.name);
        let needs = if config.mode == Mode::Enforce { Needs::Delete } else { Needs::Read };
        match &target.owner {
            Owner::Columns { account, feature } => {
                if let Some(feature) = feature {
                    self.column(conn, &subject, &target.table, relation, feature, "text").await?;
                }
                self.privileges(&subject, &target.table, relation, account, needs);
                if !relation.leads_index(account.as_str(), false) {
                    self.warn_index(&subject, &target.table, account, false);
                }
                let key = self.key(conn, &subject, &target.table, relation, account).await?;
                Ok(key.map(|key| relation.table(&target.table, key, false, account.as_str())))
            }
            Owner::Parent(name) => {
                let parent = class.targets.iter().position(|t| t.table == *name);
                let Some((place, parent)) = parent.and_then(|p| Some((p, tables.get(p)?.as_ref()?))) else { return Ok(None) };
                let links: Vec<Link> = sqlx::query_as(LINKS).bind(relation.oid).bind(parent.oid).fetch_all(&mut *conn).await?;
                let [link] = links.as_slice() else {
                    let problem = format!(
                        "{} foreign keys lead from {} to {}; exactly one must tell whose a record is",
                        links.len(),
                        target.table.spelt(),
                        name.spelt()
                    );
                    self.find(Severity::Schema, &subject, problem, None);
                    return Ok(None);
                };
                self.nobodys(&subject, target, link);
                let Some(leads) = link.child.first().and_then(|c| Ident::literal(c).ok()) else { return Ok(None) };
                self.privileges(&subject, &target.table, relation, &leads, needs);
                if !relation.leads_index(leads.as_str(), true) {
                    self.warn_index(&subject, &target.table, &leads, false);
                }
                let mut table = relation.table(&target.table, parent.key, false, leads.as_str());
                table.indexed = relation.leads_index(leads.as_str(), true) && parent.indexed;
                table.parent = Some(Parent { target: place, on: link.child.iter().cloned().zip(link.parent.iter().cloned()).collect() });
                Ok(Some(table))
            }
        }
    }

    /// What a child's key allows to lose: a record that points at nothing belongs to nobody, and no rule deletes it.
    fn nobodys(&mut self, subject: &str, target: &Target, link: &Link) {
        if link.nullable {
            let (table, columns) = (target.table.spelt(), link.child.join(", "));
            let problem = format!("a record of {table} whose {columns} is null belongs to nobody and is never deleted: let it be not null");
            self.find(Severity::Warning, subject, problem, None);
        }
    }

    /// A DELETE must not reach into a table that the class does not list, nor be forbidden by one that nobody lists (R13).
    fn references(&mut self, subject: &str, class: &DataClass, target: &Target, relation: &Relation, listed: &[i64], anywhere: &[i64]) {
        let (table, name) = (target.table.spelt(), format!("{}/{}", class.feature, class.name));
        for reference in relation.references.iter().filter(|r| !r.indexed) {
            let problem = format!(
                "no index of {} leads with {}: each record of {table} that goes reads the whole of it",
                reference.sql, reference.column
            );
            let remedy = format!("CREATE INDEX CONCURRENTLY ON {} ({})", reference.sql, reference.column);
            self.find(Severity::Warning, subject, problem, Some(remedy));
        }
        for reference in relation.references.iter().filter(|r| !listed.contains(&r.table)) {
            let child = &reference.sql;
            if reference.cascades {
                let problem = format!("deleting from {table} would reach into {child}, which class {name} does not list");
                self.find(Severity::Schema, subject, problem, None);
            } else if anywhere.contains(&reference.table) {
                let problem = format!("records of {child}, which belong to another class, keep those of {table} that they point at");
                self.find(Severity::Warning, subject, problem, None);
            } else {
                let problem =
                    format!("records of {child}, which no class lists, would forbid deleting those of {table} that they point at");
                self.find(Severity::Schema, subject, problem, None);
            }
        }
    }

    /// The tables of the starting points.
    async fn sources(&mut self, conn: &mut PgConnection, config: &Config) -> Result<Vec<(String, i64)>, DatabaseError> {
        let points = &config.starting_points;
        Ok(sqlx::query_as(
            "select p.point, c.oid::int8 from unnest($1::text[], $2::text[], $3::text[]) p(point, schema, name)
             join pg_namespace n on n.nspname = p.schema join pg_class c on c.relnamespace = n.oid and c.relname = p.name",
        )
        .bind(points.iter().map(|p| p.name.as_str()).collect::<Vec<_>>())
        .bind(points.iter().map(|p| p.table.schema()).collect::<Vec<_>>())
        .bind(points.iter().map(|p| p.table.table()).collect::<Vec<_>>())
        .fetch_all(conn)
        .await?)
    }

    /// The tables under the customer's control, and the tables behind its views.
    pub(super) async fn media(&mut self, conn: &mut PgConnection, config: &Config) -> Result<Vec<(String, i64)>, DatabaseError> {
        let mut found = Vec::new();
        for place in &config.customer_places {
            let here = place.store.as_ref().is_none_or(|s| matches!(config.stores.get(s), Some(Store::MainPostgres)));
            let Ok(name) = TableName::parse(&place.place) else { continue };
            if !here {
                continue;
            }
            let oids: Vec<i64> = sqlx::query_scalar(
                "with recursive place(oid) as (
                     select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = $1 and c.relname = $2
                     union
                     select d.refobjid from place join pg_rewrite r on r.ev_class = place.oid
                       join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid and d.refclassid = 'pg_class'::regclass and d.refobjid <> place.oid)
                 select oid::int8 from place",
            )
            .bind(name.schema())
            .bind(name.table())
            .fetch_all(&mut *conn)
            .await?;
            found.extend(oids.into_iter().map(|oid| (place.place.clone(), oid)));
        }
        Ok(found)
    }

    /// The tables of the targets and their partitions.
    async fn listed(&mut self, conn: &mut PgConnection, targets: impl Iterator<Item = &Target>) -> Result<Vec<i64>, DatabaseError> {
        let (schemas, names): (Vec<&str>, Vec<&str>) = targets.map(|t| (t.table.schema(), t.table.table())).unzip();
        Ok(sqlx::query_scalar(
            "with recursive listed(oid) as (
                 select c.oid from unnest($1::text[], $2::text[]) t(schema, name)
                   join pg_namespace n on n.nspname = t.schema join pg_class c on c.relnamespace = n.oid and c.relname = t.name
                 union
                 select i.inhrelid from listed join pg_inherits i on i.inhparent = listed.oid)
             select oid::int8 from listed",
        )
        .bind(schemas)
        .bind(names)
        .fetch_all(conn)
        .await?)
    }
}
