//! What may be concluded from the server's own figures: how far standbys and slots have come, which transaction anybody may still see, and whether vacuum has
//! been through a table since.
//!
//! What a role may not see is not known, and what is not known is never claimed: without `pg_monitor` neither level is reached.

use sqlx::{AssertSqlSafe, PgConnection};

use crate::{database::DatabaseError, policy::Class, sql::literals};

/// How far every standby has replayed and every slot has been read, if all of them can be seen. A receiver that stores the log and replays nothing counts
/// for what it has stored; a slot that nobody has used has not come anywhere. A standby that is not connected and has no slot is unknown to the server.
pub(super) fn replicated() -> String {
    "with standbys as materialized (
         select count(*) as standbys, coalesce(bool_and(state is not null), true) as visible,
                coalesce(bool_or(coalesce(replay_lsn, flush_lsn) is null), false) as unknown, min(coalesce(replay_lsn, flush_lsn)) as least
         from pg_stat_replication),
     slots as materialized (
         select count(*) as slots, coalesce(bool_or(at is null), false) as unknown, min(at) as least
         from (select case slot_type when 'physical' then restart_lsn else confirmed_flush_lsn end as at from pg_replication_slots) s),
     due as materialized (
         select a.id, a.job_ids, a.lsn, t.standbys, s.slots
         from retention.levels_awaited a, standbys t, slots s
         where 'replicated' = any(a.awaits) and a.noted_at is not null and t.visible and not t.unknown and not s.unknown
           and a.lsn <= coalesce(least(t.least, s.least), a.lsn)
         order by a.id limit $1 for no key update of a skip locked),
     reached as (
         insert into retention.levels (job_id, level, detail)
         select j.id, 'replicated', jsonb_build_object('lsn', due.lsn::text, 'standbys', due.standbys, 'slots', due.slots)
         from due, unnest(due.job_ids) j(id) on conflict do nothing returning 1),
     settled as (update retention.levels_awaited a set awaits = array_remove(a.awaits, 'replicated') from due where a.id = due.id)
     select (select count(*) from reached), (select count(*) from due)"
        .to_owned()
}

/// A transaction's number in full, from its last 32 bits and the whole number of one that is no further than two thousand million away from it. The distance
/// has a sign: a transaction that runs may have begun after the last one that is over.
#[must_use]
pub fn in_full(xid: &str, near: &str) -> String {
    format!("({near} - (((({near} - {xid}::text::int8) + 2147483648) & 4294967295) - 2147483648))")
}

/// The oldest transaction that anybody may still have to see as running: records that were deleted by older ones are seen by nobody, and every vacuum that
/// begins from now on may take them away. `None` when sessions of others are hidden from this role.
///
/// # Errors
/// Those of the database.
pub(super) async fn oldest(conn: &mut PgConnection) -> Result<Option<i64>, DatabaseError> {
    let full = |xid: &str| in_full(xid, "next.xid");
    let query = format!(
        "with next as materialized (select pg_snapshot_xmax(pg_current_snapshot())::text::int8 as xid),
              sessions as materialized (select backend_type is not null as visible, backend_xmin, backend_xid from pg_stat_activity),
              seen as (
                  select pg_snapshot_xmin(pg_current_snapshot())::text::int8 as xid
                  union all select {} from sessions, next where backend_xmin is not null
                  union all select {} from sessions, next where backend_xid is not null
                  union all select {} from pg_prepared_xacts p, next
                  union all select {} from pg_replication_slots, next where xmin is not null
                  union all select {} from pg_replication_slots, next where catalog_xmin is not null)
         select case when (select bool_and(visible) from sessions) then (select min(xid) from seen) end",
        full("backend_xmin"),
        full("backend_xid"),
        full("p.transaction"),
        full("xmin"),
        full("catalog_xmin")
    );
    Ok(sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(conn).await?)
}

/// Vacuums that a relation has had, by its oid.
fn vacuums(oid: &str) -> String {
    format!("(pg_stat_get_vacuum_count({oid}::oid) + pg_stat_get_autovacuum_count({oid}::oid))")
}

/// Notes the vacuums of every table and TOAST table of the class (`$2`), for jobs whose records nobody can see any more, as of the horizon `$1`. Not for jobs with
/// targets that are not among `$3`.
pub(super) fn count(class: &Class) -> String {
    format!(
        "with recursive down(oid) as (select unnest($2::int8[])::oid union select i.inhrelid from down join pg_inherits i on i.inhparent = down.oid),
              relations as materialized (
                  select c.oid from down join pg_class c on c.oid = down.oid where c.relkind = 'r'
                  union select c.reltoastrelid from down join pg_class c on c.oid = down.oid where c.reltoastrelid <> 0)
         update retention.levels_awaited a set vacuums = (select jsonb_object_agg(r.oid::text, {}) from relations r)
         where {} and 'cleaned' = any(a.awaits) and a.noted_at is not null and a.vacuums is null and a.xid <= $1 and {}",
        vacuums("r.oid"),
        class.jobs.of("a"),
        all_known("a", "$3")
    )
}

/// Counts anew where a relation has had fewer vacuums than were noted: the statistics were reset.
pub(super) fn start_anew(class: &Class) -> String {
    let now = vacuums("v.key");
    format!(
        "with {},
         fewer as materialized (
             select n.vacuums, (select jsonb_object_agg(v.key, {now}) from jsonb_each_text(n.vacuums) v) as anew from noted n
             where exists (select 1 from jsonb_each_text(n.vacuums) v where {now} < v.value::int8))
         update retention.levels_awaited a set vacuums = f.anew from fewer f where {} and a.vacuums = f.vacuums",
        noted(class),
        class.jobs.of("a")
    )
}

/// The counts that jobs of the class wait with, each once: whatever waits for a table that nobody vacuums waits with the same.
fn noted(class: &Class) -> String {
    format!(
        "noted as materialized (
             select distinct a.vacuums from retention.levels_awaited a where {} and 'cleaned' = any(a.awaits) and a.vacuums is not null)",
        class.jobs.of("a")
    )
}

/// Jobs each of whose relations has been vacuumed twice since. The first may have been under way when the count was noted, and may have begun while the records
/// could still be seen. The second began when the first had ended, for no two go through one relation at once. Statistics of Postgres 14 and
/// before arrive late: one vacuum more may have been over already. A relation that is no more has no file.
pub(super) fn cleaned(class: &Class) -> String {
    let others: Vec<String> = class.remote.iter().map(|t| t.name.clone()).collect();
    let now = vacuums("v.key");
    format!(
        "with {},
         enough as materialized (
             select n.vacuums,
                    (select jsonb_object_agg(coalesce(v.key::oid::regclass::text, v.key), jsonb_build_object('vacuums_before', v.value::int8, 'vacuums', {now}))
                     from jsonb_each_text(n.vacuums) v) as relations
             from noted n
             where not exists (select 1 from jsonb_each_text(n.vacuums) v join pg_class c on c.oid = v.key::oid
                               where {now} < v.value::int8 + case when current_setting('server_version_num')::int4 < 150000 then 3 else 2 end)),
         due as materialized (
             select a.id, a.job_ids, e.relations from retention.levels_awaited a join enough e on e.vacuums = a.vacuums
             where {} and 'cleaned' = any(a.awaits)
             order by a.id limit $1 for no key update of a skip locked),
         reached as (
             insert into retention.levels (job_id, level, detail)
             select j.id, 'cleaned', jsonb_build_object('relations', due.relations, 'not_looked_at', to_jsonb({}))
             from due, unnest(due.job_ids) j(id) on conflict do nothing returning 1),
         settled as (update retention.levels_awaited a set awaits = array_remove(a.awaits, 'cleaned') from due where a.id = due.id)
         select (select count(*) from reached), (select count(*) from due)",
        noted(class),
        class.jobs.of("a"),
        literals(&others)
    )
}

/// The jobs under `alias` had no target that is not among the names `$n`, as a condition: where another one was is not known any more.
pub(super) fn all_known(alias: &str, names: &str) -> String {
    format!(
        "not exists (select 1 from retention.history h, jsonb_object_keys(h.records_deleted) k
                     where h.id = {alias}.job_ids[1] and k <> all({names}::text[]))"
    )
}
