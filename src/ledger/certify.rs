//! What a certificate is made of: every entry about one job and what stood around it, each with the proof that it is in the signed tree.

use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::{LedgerError, head, last_checkpoint, tiles};
use crate::proof::{Checkpoint, tree::Tiles};

/// One entry with its proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proven {
    /// Its place in the ledger.
    pub index: u64,
    /// The entry, exactly as it is hashed.
    pub entry: String,
    /// The path from its hash to the root, in hexadecimal.
    pub path: Vec<String>,
}

/// Everything about one job.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// The signed checkpoint.
    pub note: String,
    /// The same, opened.
    pub checkpoint: Checkpoint,
    /// The key that checks it.
    pub key: String,
    /// The account; `None` once it has been erased.
    pub account_id: Option<String>,
    /// The entries, in their order.
    pub entries: Vec<Proven>,
    /// What opens the subject of the job's entries, in hexadecimal; `None` once it has been erased.
    pub salt: Option<String>,
}

/// Gathers what the ledger has about a job; `None` when it has nothing. Its entries must have their numbers: [`super::Ledger::pass`] gives them.
///
/// # Errors
/// Those of the database; a ledger that is not the one that was signed.
pub async fn evidence(conn: &mut PgConnection, job: i64) -> Result<Option<Evidence>, LedgerError> {
    let head = head(&mut *conn).await?;
    let Some((note, checkpoint)) = last_checkpoint(&mut *conn).await? else { return Ok(None) };
    let account_id: Option<String> =
        sqlx::query_scalar("select account_id from retention.every_job where id = $1").bind(job).fetch_optional(&mut *conn).await?;
    // The job's own; the policy it ended under; holds of its account, and pauses, that stood at some time while it was open.
    let rows: Vec<(i64, String, String, Option<i64>)> = sqlx::query_as(
        "with own as (select e.index from retention.ledger_entries e where e.reference = $1 and e.kind = 'job'),
              span as (select min(index) as first, max(index) as last from own),
              policy as (select max(e.index) as index from retention.ledger_entries e, span
                         where e.kind = 'policy' and e.index < span.last
                           and e.reference in (select p.id from retention.policies p)),
              around as (
                  select e.index from retention.ledger_entries e, span
                  where e.kind = 'hold' and e.index < span.last and e.reference in (
                      select h.id from retention.holds h join retention.every_job j on j.id = $1 and h.account_id = j.account_id
                      where coalesce(h.released_at, 'infinity') > j.created_at
                        and (h.feature is null or h.feature = j.feature) and (h.data_class is null or h.data_class = j.data_class))
                  union all
                  select e.index from retention.ledger_entries e, span
                  where e.kind = 'pause' and e.index < span.last and e.reference in (
                      select p.id from retention.pauses p join retention.every_job j on j.id = $1
                      where coalesce(p.resumed_at, 'infinity') > j.created_at
                        and (p.account_id is null or p.account_id = j.account_id) and (p.data_class is null or p.data_class = j.data_class)))
         select e.index, convert_from(e.entry, 'UTF8'), e.kind, e.reference from retention.ledger_entries e
         where e.index in (select index from own union select index from policy union select index from around) and e.index < $2 order by e.index",
    )
    .bind(job)
    .bind(i64::try_from(checkpoint.size).unwrap_or(i64::MAX))
    .fetch_all(&mut *conn)
    .await?;
    if !rows.iter().any(|(_, _, kind, _)| kind == "job") {
        return Ok(None);
    }
    let edge = Tiles::edge(checkpoint.size);
    let around = rows.iter().flat_map(|(index, ..)| Tiles::around(index.unsigned_abs(), checkpoint.size));
    let mut ids: Vec<_> = edge.into_iter().chain(around).collect();
    ids.sort_unstable();
    ids.dedup();
    let tree = tiles(&mut *conn, &ids).await?;
    let salt: Option<Vec<u8>> = sqlx::query_scalar("select salt from retention.ledger_salts where kind = 'job' and reference = $1")
        .bind(job)
        .fetch_optional(conn)
        .await?;
    let proven = |(index, entry, ..): (i64, String, String, Option<i64>)| -> Result<Proven, LedgerError> {
        let path = tree.inclusion(index.unsigned_abs(), checkpoint.size)?;
        Ok(Proven { index: index.unsigned_abs(), entry, path: path.iter().map(hex::encode).collect() })
    };
    Ok(Some(Evidence {
        entries: rows.into_iter().map(proven).collect::<Result<_, _>>()?,
        salt: salt.map(hex::encode),
        note,
        checkpoint,
        key: head.key.to_string(),
        account_id,
    }))
}
