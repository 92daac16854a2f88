//! The daemon's tables against the ledger: what an entry says is what the row says, and there is an entry for each row. Rows that were pruned, and their salts
//! with them, are out of the question.

use std::collections::BTreeMap;

use serde_json::Value;
use sqlx::{FromRow, PgConnection, types::Json};

use super::{LedgerError, check::Finding};
use crate::proof::commitment;

/// Findings of one kind that are listed.
const MOST: i64 = 100;

#[derive(FromRow)]
struct Row {
    kind: String,
    id: i64,
    salt: Option<Vec<u8>>,
    subject: Option<String>,
    /// The row as its last entry tells it; null where it is not there.
    told: Option<Json<Value>>,
}

/// What the rows say that these entries are about.
pub(super) async fn of(conn: &mut PgConnection, entries: &[(i64, Vec<u8>, String, Option<i64>)]) -> Result<Vec<Finding>, LedgerError> {
    let about =
        |kind: &str| -> Vec<i64> { entries.iter().filter(|(_, _, of, _)| of == kind).filter_map(|(.., reference)| *reference).collect() };
    let rows: Vec<Row> = sqlx::query_as(
        "with wanted as (select distinct kind, id from (
             select 'job' as kind, unnest($1::int8[]) as id union all select 'hold', unnest($2::int8[]) union all select 'pause', unnest($3::int8[])
             union all select 'request', unnest($4::int8[])) w)
         select w.kind, w.id, s.salt, coalesce(j.account_id, h.account_id, d.account_id, p.account_id, r.account_id) as subject,
                case when h.id is not null then jsonb_strip_nulls(jsonb_build_object(
                    'event', h.state, 'feature', h.feature, 'data_class', h.data_class, 'starting_point', h.starting_point,
                    'started_at', retention.instant(h.started_at), 'retain_until', retention.instant(h.retain_until), 'delete_by', retention.instant(h.delete_by),
                    'rule', h.policy, 'attempts', h.attempts, 'purge_began_at', retention.instant(h.purge_began_at), 'records_deleted', h.records_deleted,
                    'outcomes', h.outcomes, 'count_exact', h.count_exact, 'cancel_reason', h.cancel_reason,
                    'last_copy_gone_at', retention.instant(h.last_copy_gone_at), 'at', retention.instant(coalesce(h.completed_at, h.cancelled_at))))
                when j.id is not null then '{}' when d.id is not null then '{}' when p.id is not null then '{}' when r.id is not null then '{}' end as told
         from wanted w
         left join retention.ledger_salts s on s.kind = w.kind and s.reference = w.id
         left join retention.jobs j on w.kind = 'job' and j.id = w.id
         left join retention.history h on w.kind = 'job' and h.id = w.id
         left join retention.holds d on w.kind = 'hold' and d.id = w.id
         left join retention.pauses p on w.kind = 'pause' and p.id = w.id
         left join retention.requests r on w.kind = 'request' and r.id = w.id",
    )
    .bind(about("job"))
    .bind(about("hold"))
    .bind(about("pause"))
    .bind(about("request"))
    .fetch_all(&mut *conn)
    .await?;
    let rows: BTreeMap<(&str, i64), &Row> = rows.iter().map(|row| ((row.kind.as_str(), row.id), row)).collect();
    let replayed = replayed(conn).await?;
    let mut findings = Vec::new();
    for (index, entry, kind, reference) in entries {
        // What an older database had lost: of that, and of what opens it, its tables know nothing.
        if replayed.iter().any(|(from, to)| (*from..*to).contains(index)) {
            continue;
        }
        let Some(row) = reference.and_then(|reference| rows.get(&(kind.as_str(), reference))) else { continue };
        let entry: Value = serde_json::from_slice(entry).unwrap_or_default();
        let subject = format!("{kind} {}", row.id);
        // Pruned, with everything that named somebody; or lost with an older database, and replayed without that.
        let Some(salt) = &row.salt else { continue };
        let Some(told) = &row.told else {
            findings.push(Finding::new("row_missing", subject, format!("entry {index} tells of it, and it is not there")));
            continue;
        };
        if let (Some(account), Some(said)) = (&row.subject, entry["subject"].as_str())
            && commitment(salt, "subject", account) != said
        {
            findings.push(Finding::new(
                "row_altered",
                subject.clone(),
                format!("entry {index} is about another account, or was made with another salt"),
            ));
        }
        let ends = matches!(entry["event"].as_str(), Some("completed" | "cancelled"));
        if let (true, Some(told)) = (ends, told.0.as_object().filter(|told| !told.is_empty())) {
            let differing: Vec<&str> =
                told.iter().filter(|(name, value)| entry.get(name.as_str()) != Some(value)).map(|(name, _)| name.as_str()).collect();
            if !differing.is_empty() && last_end(&mut *conn, row.id, *index).await? {
                findings.push(Finding::new("row_altered", subject, format!("entry {index} tells another {}", differing.join(", "))));
            }
        }
    }
    Ok(findings)
}

/// The entries that were replayed, as ranges.
async fn replayed(conn: &mut PgConnection) -> Result<Vec<(i64, i64)>, LedgerError> {
    Ok(sqlx::query_as(
        "select (e.said ->> 'from')::int8, (e.said ->> 'to')::int8
         from (select convert_from(entry, 'UTF8')::jsonb as said from retention.ledger_entries where kind = 'ledger') e where e.said ->> 'event' = 'replayed'",
    )
    .fetch_all(conn)
    .await?)
}

/// Whether the job did not end once more after this entry, as it does when an older database comes back.
async fn last_end(conn: &mut PgConnection, job: i64, index: i64) -> Result<bool, LedgerError> {
    let later: bool = sqlx::query_scalar(
        "select exists (select 1 from retention.ledger_entries e where e.reference = $1 and e.kind = 'job' and e.index > $2
                          and convert_from(e.entry, 'UTF8')::jsonb ->> 'event' in ('completed', 'cancelled'))",
    )
    .bind(job)
    .bind(index)
    .fetch_one(conn)
    .await?;
    Ok(!later)
}

/// What the ledger does not tell of, or otherwise: rows without an entry, and acts that somebody took back behind its back.
pub(super) async fn against(conn: &mut PgConnection) -> Result<Vec<Finding>, LedgerError> {
    // Entries, numbered or not, as tables of JSON.
    let rows: Vec<(String, String, String)> = sqlx::query_as(
        "with replayed as materialized (
             select (e.said ->> 'from')::int8 as f, (e.said ->> 'to')::int8 as t
             from (select convert_from(entry, 'UTF8')::jsonb as said from retention.ledger_entries where kind = 'ledger') e
             where e.said ->> 'event' = 'replayed'),
         opened as (select coalesce((select (convert_from(entry, 'UTF8')::jsonb ->> 'at')::timestamptz from retention.ledger_entries where index = 0), 'infinity') as at)
         (select 'row_unrecorded', 'job ' || h.id, 'it ended, and no entry tells of it' from retention.history h, opened o
          where coalesce(h.completed_at, h.cancelled_at) > o.at
            and not exists (select 1 from retention.ledger_entries e where e.reference = h.id and e.kind = 'job'
                            and convert_from(e.entry, 'UTF8')::jsonb ->> 'event' = h.state)
            and not exists (select 1 from retention.ledger_pending p where p.kind = 'job' and p.reference = h.id) limit $1)
         union all
         (select 'row_unrecorded', 'job ' || j.id, 'it is open, and no entry tells that it was scheduled' from retention.jobs j
          where not exists (select 1 from retention.ledger_entries e where e.reference = j.id and e.kind = 'job')
            and not exists (select 1 from retention.ledger_pending p where p.kind = 'job' and p.reference = j.id) limit $1)
         union all
         (select 'row_altered', 'job ' || j.id, 'it was scheduled with other dates, by entry ' || (e.said ->> 'index')
          from retention.jobs j,
               lateral (select convert_from(e.entry, 'UTF8')::jsonb as said from retention.ledger_entries e
                        where e.reference = j.id and e.kind = 'job' and convert_from(e.entry, 'UTF8')::jsonb ->> 'event' in ('scheduled', 'rescheduled')
                        order by e.index desc limit 1) e
          where (e.said ->> 'retain_until', e.said ->> 'delete_by', e.said ->> 'started_at', e.said ->> 'starting_point')
                is distinct from (retention.instant(j.retain_until), retention.instant(j.delete_by), retention.instant(j.started_at), j.starting_point)
            and not exists (select 1 from replayed where (e.said ->> 'index')::int8 >= f and (e.said ->> 'index')::int8 < t)
            and not exists (select 1 from retention.ledger_pending p where p.kind = 'job' and p.reference = j.id) limit $1)
         union all
         (select case when e.last is null then 'row_unrecorded' else 'row_altered' end, a.kind || ' ' || a.id,
                 case when e.last is null then 'no entry tells of it' when a.stands then 'it stands, and an entry tells that it ended'
                      else 'it ended, and no entry tells of that' end
          from (select 'hold' as kind, id, released_at is null as stands, placed_at as at from retention.holds
                union all select 'pause', id, resumed_at is null, paused_at from retention.pauses) a, opened o,
               lateral (select max(said ->> 'event') filter (where newest) as last, max(ranked.at) as place from (
                            select said, every.at, row_number() over (order by every.at desc) = 1 as newest from (
                                select convert_from(e.entry, 'UTF8')::jsonb as said, e.index as at from retention.ledger_entries e
                                where e.reference = a.id and e.kind = a.kind
                                union all
                                select jsonb_build_object('event', p.event), 9e18::int8 + p.id from retention.ledger_pending p
                                where p.reference = a.id and p.kind = a.kind) every) ranked) e
          where (a.stands or a.at > o.at) and not exists (select 1 from replayed where e.place >= f and e.place < t)
            and coalesce(e.last, '') <> all(case when a.stands then array['held', 'paused'] else array['released', 'resumed'] end) limit $1)
         union all
         (select 'row_altered', 'policy ' || p.id, 'no entry tells that it was accepted, or an entry tells of another'
          from retention.policies p, opened o
          where p.accepted_at > o.at
            and not exists (select 1 from retention.ledger_entries e where e.reference = p.id and e.kind = 'policy'
                            and (convert_from(e.entry, 'UTF8')::jsonb ->> 'policy') is not distinct from p.hash)
            and not exists (select 1 from retention.ledger_entries e where e.reference = p.id and e.kind = 'policy'
                            and convert_from(e.entry, 'UTF8')::jsonb ? 'body_sha256')
            and not exists (select 1 from retention.ledger_pending q where q.kind = 'policy' and q.reference = p.id) limit $1)
         union all
         select 'row_altered', 'guard', case when g.tripped_at is null then 'it does not stand tripped, and no entry tells that it was released'
                                             else 'it stands tripped, and no entry tells of it' end
         from retention.guard g,
              (select (select convert_from(e.entry, 'UTF8')::jsonb ->> 'event' from retention.ledger_entries e
                       where e.kind = 'guard' and not exists (select 1 from replayed where e.index >= f and e.index < t) order by e.index desc limit 1) as last,
                      (select p.event from retention.ledger_pending p where p.kind = 'guard' order by p.id desc limit 1) as pending) e
         where (g.tripped_at is not null) <> (coalesce(e.pending, e.last, 'guard_released') = 'guard_tripped') and (e.last is not null or e.pending is not null)",
    )
    .bind(MOST)
    .fetch_all(conn)
    .await?;
    let kind = |word: &str| if word == "row_unrecorded" { "row_unrecorded" } else { "row_altered" };
    Ok(rows.into_iter().map(|(word, subject, problem)| Finding::new(kind(&word), subject, problem)).collect())
}
