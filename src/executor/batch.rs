//! The transaction that deletes, as SQL. Its predicates are those of I1, I3, I5 and I7, and they stand in the DELETE itself.
//!
//! Order: the stop lock (R15), the source rows `FOR SHARE` (R14), the deletes, a separate look, the record. It waits for nobody while it holds
//! a lock that the platform could want: whatever is locked is skipped and the job steps aside.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, FromRow, PgConnection};

use crate::{
    database::{self, DatabaseError},
    jobs::Claimed,
    ledger::Seen,
    model::REQUEST,
    policy::{Class, Policy},
    requests,
    safeguards::{STOP_LOCK, agreement::in_force, guarded, held, paused},
    sql::{literal, literals},
    stores::postgres::{self, Delete, Target},
};

/// What is called an instant where a lock is waited for that the platform may hold: a batch that met one is undone, and with it every lock that the platform
/// could want, long before the server looks for a deadlock (R14). Shorter where `deadlock_timeout` is less than the second that it is as shipped.
const INSTANT: Duration = Duration::from_millis(10);
/// A DELETE that has no other bound than what its jobs are believed to have may take so long: a quarter of the server's `deadlock_timeout` as it is shipped,
/// for the same reason.
pub(super) const WHOLE: Duration = Duration::from_millis(250);

/// Which records of its jobs a DELETE takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// All of them. For targets that nothing points at.
    Whole,
    /// So many; of a single job where nothing points at the target.
    Slice(i64),
    /// Those of a single job from one block to before another. For targets that nothing points at.
    Stretch(i64, i64),
}

/// What a DELETE did to one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromRow)]
pub struct Gone {
    /// The job.
    pub id: i64,
    /// Records that could be locked.
    pub found: i64,
    /// Records that are gone.
    pub records: i64,
    /// The first and the last block of those that a slice found.
    #[sqlx(default)]
    pub first_block: Option<i64>,
    /// See there.
    #[sqlx(default)]
    pub last_block: Option<i64>,
}

/// What the database says about a claimed job at this instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Its starting point stands since exactly that instant, it is due, and nothing is in the way. Its source rows, if it has any, are locked.
    Stands,
    /// Why not.
    Blocked(&'static str),
}

/// The statements of one data class.
#[derive(Debug)]
pub struct Batch {
    license: String,
    /// By target.
    delete: BTreeMap<String, Delete>,
    /// The targets' oids.
    targets: Vec<i64>,
    /// Tables under the customer's control, which may not have become a part of them (I4).
    media: Vec<i64>,
    /// The foreign keys that were found to point at them: a DELETE must not cascade through any other (R13).
    references: Vec<i64>,
    /// Every table has an index on its account column: a nested loop over it is the right plan, whatever the statistics say (R18).
    indexed: bool,
}

impl Batch {
    /// The statements for one class of the policy.
    #[must_use]
    pub fn new(class: &Class, policy: &Policy) -> Self {
        let licensed = licensed(class);
        Self {
            license: license(class),
            delete: class.targets.iter().map(|t| (t.name.clone(), t.delete(&licensed))).collect(),
            targets: class.targets.iter().map(Target::oid).collect(),
            media: policy.media.clone(),
            references: class.targets.iter().flat_map(Target::references).collect(),
            indexed: class.indexed() && !policy.pinned.is_empty(),
        }
    }

    /// Takes the stop lock, fixes the shape of the plans, and refuses when a table is not the one that was checked at start,
    /// or when a foreign key has come up that would carry the DELETE further than was checked.
    ///
    /// Refuses as well when the ledger has fewer entries than this process has `seen`. Returns the instant that this transaction takes for now.
    ///
    /// # Errors
    /// Those of the database, and a refusal.
    pub async fn enter(
        &self,
        conn: &mut PgConnection,
        pinned: &BTreeMap<String, i64>,
        seen: &Seen,
    ) -> Result<DateTime<Utc>, DatabaseError> {
        sqlx::query("select pg_advisory_xact_lock_shared($1)").bind(STOP_LOCK).execute(&mut *conn).await?;
        if self.indexed {
            database::only_by_index(&mut *conn).await?;
        }
        let before = seen.most();
        let (now, entries) = self.unchanged(conn, pinned).await?;
        seen.at_least(entries.unsigned_abs(), before)?;
        Ok(now)
    }

    /// The refusals of [`Batch::enter`] alone. Asked again before the commit: what changed in between is seen then, and what changes later waits for
    /// the locks of the DELETE. Yields the transaction's instant, and how many entries the ledger has; without a ledger that is none.
    ///
    /// # Errors
    /// Those of the database, and a refusal.
    pub async fn unchanged(&self, conn: &mut PgConnection, pinned: &BTreeMap<String, i64>) -> Result<(DateTime<Utc>, i64), DatabaseError> {
        let (names, oids): (Vec<&String>, Vec<i64>) = pinned.iter().unzip();
        let (now, entries, refusal): (DateTime<Utc>, i64, Option<String>) = sqlx::query_as(
            "with recursive reached(oid) as (
                 select unnest($3::int8[])::oid union select i.inhrelid from reached join pg_inherits i on i.inhparent = reached.oid)
             select now(), coalesce((select l.size from retention.ledger l), 0), (
             select 'table ' || p.name || ' is not the one that was checked at start; restart the daemon to check it anew'
             from unnest($1::text[], $2::int8[]) p(name, oid) where to_regclass(p.name)::oid::int8 is distinct from p.oid
             union all
             select r.oid::regclass || ', which the customer controls, has become a part of a target' from reached r where r.oid::int8 = any($5)
             union all
             select 'deleting from ' || f.confrelid::regclass || ' would reach into ' || f.conrelid::regclass || ' by foreign key ' || f.conname
                    || ', which was not there at start; restart the daemon to check it anew'
             from pg_constraint f where f.contype = 'f' and f.confdeltype in ('c', 'n', 'd')
               and not exists (select 1 from pg_constraint p where p.oid = f.conparentid and p.confrelid in (select oid from reached))
               and f.confrelid in (select oid from reached) and f.oid::int8 <> all($4)
             limit 1)",
        )
        .bind(names)
        .bind(oids)
        .bind(&self.targets)
        .bind(&self.references)
        .bind(&self.media)
        .fetch_one(conn)
        .await?;
        refusal.map_or(Ok((now, entries)), |why| Err(refused(why)))
    }

    /// Locks the jobs and their source rows, and says of each job whether it may be purged. Jobs that are no longer ours are absent.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn license(&self, conn: &mut PgConnection, group: &[Claimed]) -> Result<BTreeMap<i64, Verdict>, DatabaseError> {
        let rows: Vec<(i64, String)> = sqlx::query_as(AssertSqlSafe(self.license.clone()))
            .bind(group.iter().map(|j| j.id).collect::<Vec<_>>())
            .bind(group.iter().map(|j| j.fence).collect::<Vec<_>>())
            .fetch_all(conn)
            .await?;
        let verdict = |word: &str| match word {
            "stands" => Verdict::Stands,
            "held" => Verdict::Blocked("held"),
            "paused" => Verdict::Blocked("paused"),
            "guarded" => Verdict::Blocked("guarded"),
            "policy" => Verdict::Blocked("policy"),
            "locked" => Verdict::Blocked("locked"),
            "missing" => Verdict::Blocked("missing"),
            _ => Verdict::Blocked("changed"),
        };
        Ok(rows.into_iter().map(|(id, word)| (id, verdict(&word))).collect())
    }

    /// How many records the first of the jobs have, up to the one that more than `budget` are reached with.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn measure(&self, conn: &mut PgConnection, class: &Class, jobs: &[&Claimed], budget: i64) -> Result<Vec<i64>, DatabaseError> {
        let accounts: Vec<&str> = jobs.iter().map(|job| job.account_id.as_str()).collect();
        postgres::measure(conn, &class.targets, &accounts, budget).await
    }

    /// Deletes the records of these jobs in one target, as far as `extent` says.
    ///
    /// # Errors
    /// Those of the database. [`database::Kind::Locked`] but for a slice says that somebody holds a record of one of them: nothing was waited for longer
    /// than an instant, and in slices nothing will be.
    pub async fn delete(
        &self,
        conn: &mut PgConnection,
        target: &Target,
        jobs: &[&Claimed],
        extent: Extent,
    ) -> Result<Vec<Gone>, DatabaseError> {
        let (ids, fences): (Vec<i64>, Vec<i64>) = jobs.iter().map(|j| (j.id, j.fence)).unzip();
        let text = |statement: &String| AssertSqlSafe(statement.clone());
        match (self.delete.get(&target.name), extent) {
            (None, _) => Ok(Vec::new()),
            (Some(Delete::Free { slice, .. }), Extent::Slice(budget)) => {
                Ok(sqlx::query_as(text(slice)).bind(ids).bind(fences).bind(budget).fetch_all(conn).await?)
            }
            (Some(Delete::Free { whole, stretch, .. }), extent) => {
                // Without an index there is no way that is shorter than the whole table.
                database::hurry(&mut *conn, INSTANT, self.indexed.then_some(WHOLE)).await?;
                let gone: Vec<(i64, i64)> = match extent {
                    Extent::Stretch(from, to) => {
                        sqlx::query_as(text(stretch)).bind(ids).bind(fences).bind(from).bind(to).fetch_all(&mut *conn).await?
                    }
                    Extent::Whole | Extent::Slice(_) => sqlx::query_as(text(whole)).bind(ids).bind(fences).fetch_all(&mut *conn).await?,
                };
                database::calm(conn).await?;
                Ok(gone
                    .into_iter()
                    .map(|(id, records)| Gone { id, found: records, records, first_block: None, last_block: None })
                    .collect())
            }
            (Some(Delete::Referenced { lock, delete }), extent) => {
                let Extent::Slice(budget) = extent else {
                    return Err(refused(format!("{} can be purged in slices only", target.name)));
                };
                let locked: Vec<(i64, String, i64, String)> =
                    sqlx::query_as(text(lock)).bind(&ids).bind(&fences).bind(budget).fetch_all(&mut *conn).await?;
                Ok(sqlx::query_as(text(delete))
                    .bind(ids)
                    .bind(fences)
                    .bind(locked.iter().map(|(place, ..)| *place).collect::<Vec<_>>())
                    .bind(locked.iter().map(|(_, at, ..)| at.as_str()).collect::<Vec<_>>())
                    .bind(locked.iter().map(|(_, _, id, _)| *id).collect::<Vec<_>>())
                    .bind(locked.iter().map(|(.., account)| account.as_str()).collect::<Vec<_>>())
                    .fetch_all(conn)
                    .await?)
            }
        }
    }

    /// Whether nothing points at the target: what a DELETE of whole accounts leaves there, nobody held.
    #[must_use]
    pub fn free(&self, target: &str) -> bool {
        matches!(self.delete.get(target), Some(Delete::Free { .. }))
    }

    /// The text of the DELETE of one target, to be read and tested.
    #[must_use]
    pub fn statement(&self, target: &Target) -> Option<&Delete> {
        self.delete.get(&target.name)
    }

    /// The separate look: which targets still hold records, by job.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn left(
        &self,
        conn: &mut PgConnection,
        class: &Class,
        jobs: &[&Claimed],
    ) -> Result<BTreeMap<i64, Vec<String>>, DatabaseError> {
        if jobs.is_empty() {
            return Ok(BTreeMap::new());
        }
        postgres::left(conn, &class.targets, &named(jobs)).await
    }
}

/// The jobs of the batch that are still ours and due, as a table expression over `$1` (ids) and `$2` (fences).
fn claimed(class: &Class, lock: &str) -> String {
    format!(
        "batch as materialized (select b.id, b.fence from unnest($1::int8[], $2::int8[]) as b(id, fence)),
         claimed as materialized (
             select j.id, j.account_id, j.feature, j.data_class, j.starting_point, j.started_at
             from batch b join retention.jobs j on j.id = b.id where {}{lock})",
        class.jobs.licensed("j")
    )
}

/// Job by job, without a join: batches forbid hash joins, and a nested loop over the group would be quadratic.
fn license(class: &Class) -> String {
    let feature = &class.rule.feature;
    // Waited for, not skipped: a claim that crossed ours may have locked these rows for an instant, and what is skipped here stays leased to
    // nobody until the lease lapses. Nothing that the platform could want is locked yet (R14): the sort has every job before the first source row is read,
    // where the table expression alone would yield them one by one.
    let claimed = format!("{}, ours as materialized (select * from claimed order by id)", claimed(class, " for no key update of j"));
    let stop = format!(
        "case when not {} then 'policy' when {} then 'guarded' when {} then 'paused' when {} then 'held' end",
        in_force(&class.jobs.accepted),
        guarded(),
        paused("c"),
        held("c")
    );
    let points = class.source.points();
    let by_point = points.iter().map(|point| {
        let (lateral, word) = point.verdict(feature);
        format!("select c.id, coalesce({stop}, {word}) from ours c, {lateral} where c.starting_point = {}", literal(&point.name))
    });
    // Nothing of the source can withdraw a request, and whoever withdraws it takes the stop lock: no source row is locked.
    let asked = format!(
        "select c.id, coalesce({stop}, case when {} then 'stands' else 'changed' end) from ours c where c.starting_point = {}",
        requested(class),
        literal(REQUEST)
    );
    let names: Vec<String> = points.iter().map(|p| p.name.clone()).chain([REQUEST.to_owned()]).collect();
    let unknown = format!("select c.id, coalesce({stop}, 'changed') from ours c where c.starting_point <> all({})", literals(&names));
    format!("with {claimed} {}", by_point.chain([asked, unknown]).collect::<Vec<_>>().join("\nunion all\n"))
}

/// Whether the request that the job `c` is for stands, and its account is this daemon's business, as a condition.
fn requested(class: &Class) -> String {
    format!("{} and {}", requests::stands("c"), class.jobs.is_ours("c"))
}

/// The jobs with their accounts.
fn named<'a>(jobs: &[&'a Claimed]) -> Vec<(i64, &'a str)> {
    jobs.iter().map(|j| (j.id, j.account_id.as_str())).collect()
}

/// `licensed (id, account_id)`: the jobs that may be purged as this very statement sees them. No predicate is left to an earlier one.
fn licensed(class: &Class) -> String {
    let feature = &class.rule.feature;
    let by_point = class.source.points().iter().map(|point| format!("when {} then {}", literal(&point.name), point.stands(feature, "c")));
    let stands: Vec<String> = by_point.chain([format!("when {} then {}", literal(REQUEST), requested(class))]).collect();
    format!(
        "{},
         licensed as materialized (
             select c.id, c.account_id from claimed c
             where {} and not ({}) and not {} and not {} and case c.starting_point {} else false end)",
        claimed(class, ""),
        in_force(&class.jobs.accepted),
        guarded(),
        paused("c"),
        held("c"),
        stands.join(" ")
    )
}

/// The batch must not stand: its jobs are not ours any more.
pub(super) fn lost() -> DatabaseError {
    refused("a job of the batch has another owner; the batch was rolled back".to_owned())
}

fn refused(why: String) -> DatabaseError {
    DatabaseError::Refused(why)
}
