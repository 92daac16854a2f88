//! Numbering: pending entries get their place in the ledger, lose what identifies somebody, and are covered by a signed root. The signer first sees that the
//! tree it makes grow is the one it signed last.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use sqlx::{FromRow, PgConnection, types::Json};

use super::{Head, LedgerError, broken, last_checkpoint, note, outward, tiles};
use crate::{
    database::DatabaseError,
    model::rfc3339,
    notices::{self, Fact},
    proof::{
        Checkpoint, LONGEST_ENTRY, SigningKey, canonical, commitment,
        tiles::hash_bytes,
        tree::{Hash, Tiles, empty_root, leaf_hash},
    },
};

/// An entry that has no number yet.
#[derive(FromRow)]
pub(super) struct Pending {
    id: i64,
    pub(super) at: DateTime<Utc>,
    pub(super) event: String,
    pub(super) kind: String,
    pub(super) reference: Option<i64>,
    pub(super) subject: Option<String>,
    actor: Option<String>,
    reason: Option<String>,
    pub(super) body: Json<Map<String, Value>>,
}

impl Pending {
    /// Where its salt is kept.
    fn salt_at(&self, index: i64) -> (String, i64) {
        (self.kind.clone(), self.reference.unwrap_or(index))
    }

    fn names_somebody(&self) -> bool {
        self.subject.is_some() || self.actor.is_some() || self.reason.is_some()
    }
}

/// Numbers up to so many pending entries and signs the tree. The transaction holds the ledger's lock. Returns how many.
///
/// # Errors
/// Those of the database; [`LedgerError::Broken`] when the tree is not the one that was signed last.
pub(super) async fn page(conn: &mut PgConnection, head: &Head, signer: &SigningKey, at_most: i64) -> Result<u64, LedgerError> {
    // Also when there is nothing to do: what was altered stops deletion as soon as somebody looks.
    let mut tree = as_signed(&mut *conn, head).await?;
    summarize(&mut *conn).await?;
    let mut pending: Vec<Pending> = sqlx::query_as(
        "delete from retention.ledger_pending where id = any(array(select id from retention.ledger_pending order by id limit $1))
         returning id, at, event, kind, reference, subject, actor, reason, body",
    )
    .bind(at_most)
    .fetch_all(&mut *conn)
    .await?;
    if pending.is_empty() {
        return Ok(0);
    }
    pending.sort_by_key(|entry| entry.id);
    let first = i64::try_from(head.size).unwrap_or(i64::MAX);
    let salts = salts(&mut *conn, &pending, first).await?;
    let entries: Vec<Vec<u8>> = pending.iter().zip(first..).map(|(entry, index)| text(entry, index, &salts)).collect::<Result<_, _>>()?;
    // While they still name somebody.
    let told: Vec<Fact> = pending.iter().zip(first..).filter_map(|(entry, index)| outward::fact(entry, index)).collect();
    notices::write(&mut *conn, &told).await?;
    append(&mut *conn, &mut tree, head.size, &pending.iter().map(|e| (e.kind.as_str(), e.reference)).collect::<Vec<_>>(), &entries).await?;
    sign(conn, &tree, head.size + entries.len() as u64, signer).await?;
    Ok(entries.len() as u64)
}

/// The edge of the tree, once it is clear that it is the one that was signed last.
pub(super) async fn as_signed(conn: &mut PgConnection, head: &Head) -> Result<Tiles, LedgerError> {
    let edge = tiles(&mut *conn, &Tiles::edge(head.size)).await?;
    let last = last_checkpoint(conn).await?;
    let signed = last.map_or_else(|| (0, empty_root()), |(_, checkpoint)| (checkpoint.size, checkpoint.root));
    if signed.0 != head.size {
        return Err(broken(format!("its last checkpoint is of {} entries, and it has {}", signed.0, head.size)));
    }
    if edge.root(head.size)? != signed.1 {
        return Err(broken(format!("the tree over its {} entries has another root than was signed", head.size)));
    }
    Ok(edge)
}

/// Once a day, so that silence shows too: how much there is and was.
async fn summarize(conn: &mut PgConnection) -> Result<(), LedgerError> {
    let today: bool =
        sqlx::query_scalar("select summary_on < (now() at time zone 'UTC')::date from retention.ledger").fetch_one(&mut *conn).await?;
    if !today {
        return Ok(());
    }
    let summary: Json<Value> = sqlx::query_scalar(
        "select jsonb_build_object(
             'day', l.summary_on::text,
             'open', (select count(*) from retention.jobs),
             'due', (select count(*) from retention.jobs where retain_until <= now()),
             'overdue', (select count(*) from retention.jobs where delete_by < now()),
             'completed', (select count(*) from retention.history where completed_at >= l.summary_on::timestamp at time zone 'UTC'),
             'cancelled', (select count(*) from retention.history where cancelled_at >= l.summary_on::timestamp at time zone 'UTC'),
             'holds', (select count(*) from retention.holds where released_at is null and (until is null or until > now())),
             'pauses', (select count(*) from retention.pauses where resumed_at is null),
             'known_accounts', (select known_accounts from retention.guard))
         from retention.ledger l",
    )
    .fetch_one(&mut *conn)
    .await?;
    note(&mut *conn, "summary", None, &summary.0).await?;
    sqlx::query("update retention.ledger set summary_on = (now() at time zone 'UTC')::date").execute(&mut *conn).await?;
    // Of days that are over, the last checkpoint is enough to tell that nothing before it was changed.
    sqlx::query(
        "delete from retention.ledger_checkpoints c where c.signed_at < date_trunc('day', now())
           and exists (select 1 from retention.ledger_checkpoints d where d.size > c.size and date_trunc('day', d.signed_at) = date_trunc('day', c.signed_at))",
    )
    .execute(conn)
    .await?;
    Ok(())
}

type Salts = BTreeMap<(String, i64), Vec<u8>>;

/// A salt for everything that somebody is named in, made where there is none.
async fn salts(conn: &mut PgConnection, pending: &[Pending], first: i64) -> Result<Salts, LedgerError> {
    let wanted: BTreeSet<(String, i64)> =
        pending.iter().zip(first..).filter(|(entry, _)| entry.names_somebody()).map(|(entry, index)| entry.salt_at(index)).collect();
    let mut random = vec![0_u8; wanted.len() * 32];
    getrandom::fill(&mut random).map_err(|e| LedgerError::Key(format!("the system has no random bytes: {e}")))?;
    let (kinds, references): (Vec<String>, Vec<i64>) = wanted.into_iter().unzip();
    let rows: Vec<(String, i64, Vec<u8>)> = sqlx::query_as(
        "with wanted as (select * from unnest($1::text[], $2::int8[], $3::bytea[]) as w(kind, reference, salt)),
              made as (insert into retention.ledger_salts (kind, reference, salt) select kind, reference, salt from wanted
                       on conflict do nothing returning kind, reference, salt)
         select kind, reference, salt from made
         union all select s.kind, s.reference, s.salt from wanted w join retention.ledger_salts s on s.kind = w.kind and s.reference = w.reference",
    )
    .bind(kinds)
    .bind(references)
    .bind(random.chunks(32).map(<[u8]>::to_vec).collect::<Vec<_>>())
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|(kind, reference, salt)| ((kind, reference), salt)).collect())
}

/// The entry as it is hashed.
fn text(pending: &Pending, index: i64, salts: &Salts) -> Result<Vec<u8>, LedgerError> {
    let mut entry = pending.body.0.clone();
    let mut frame = json!({"version": 1, "index": index, "at": rfc3339(pending.at), "event": pending.event, "kind": pending.kind});
    if let Some(frame) = frame.as_object_mut() {
        frame.extend(pending.reference.map(|reference| ("reference".to_owned(), Value::String(reference.to_string()))));
        for (what, named) in [("subject", &pending.subject), ("actor", &pending.actor), ("reason", &pending.reason)] {
            let Some(named) = named else { continue };
            let salt = salts.get(&pending.salt_at(index)).ok_or_else(|| broken("a salt that was just made is missing"))?;
            frame.insert(what.to_owned(), Value::String(commitment(salt, what, named)));
        }
        let spelt = |entry: Map<String, Value>| canonical(&Value::Object(entry)).map(String::into_bytes);
        let whole = spelt(frame.iter().map(|(k, v)| (k.clone(), v.clone())).chain(entry.clone()).collect());
        if let Some(whole) = whole.filter(|whole| whole.len() <= LONGEST_ENTRY) {
            return Ok(whole);
        }
        // Longer than a tile can hold, as a very large policy is: its hash stands for it.
        let body = canonical(&Value::Object(std::mem::take(&mut entry))).unwrap_or_default();
        frame.insert("body_sha256".to_owned(), Value::String(hex::encode(Sha256::digest(body))));
        if let Some(short) = spelt(frame.clone()) {
            return Ok(short);
        }
    }
    Err(broken(format!("entry {index} cannot be written")))
}

/// Appends entries and the hashes over them.
pub(super) async fn append(
    conn: &mut PgConnection,
    tree: &mut Tiles,
    size: u64,
    about: &[(&str, Option<i64>)],
    entries: &[Vec<u8>],
) -> Result<(), LedgerError> {
    let mut changed = BTreeSet::new();
    for (index, entry) in (size..).zip(entries) {
        tree.push(index, leaf_hash(entry), |id| {
            changed.insert(id);
        })?;
    }
    let first = i64::try_from(size).unwrap_or(i64::MAX);
    sqlx::query(
        "insert into retention.ledger_entries (index, entry, kind, reference)
         select $1 + e.ordinality - 1, e.entry, e.kind, e.reference
         from unnest($2::bytea[], $3::text[], $4::int8[]) with ordinality as e(entry, kind, reference, ordinality)",
    )
    .bind(first)
    .bind(entries)
    .bind(about.iter().map(|(kind, _)| *kind).collect::<Vec<_>>())
    .bind(about.iter().map(|(_, reference)| *reference).collect::<Vec<_>>())
    .execute(&mut *conn)
    .await?;
    let bytes = |id: &(u8, u64)| tree.get(*id).map(<[Hash]>::to_vec).map(|hashes| hash_bytes(&hashes)).unwrap_or_default();
    sqlx::query(
        "insert into retention.ledger_tiles (level, index, hashes) select * from unnest($1::int2[], $2::int8[], $3::bytea[])
         on conflict (level, index) do update set hashes = excluded.hashes",
    )
    .bind(changed.iter().map(|(level, _)| i16::from(*level)).collect::<Vec<_>>())
    .bind(changed.iter().map(|(_, index)| i64::try_from(*index).unwrap_or(i64::MAX)).collect::<Vec<_>>())
    .bind(changed.iter().map(bytes).collect::<Vec<_>>())
    .execute(&mut *conn)
    .await?;
    sqlx::query("update retention.ledger set size = $1")
        .bind(first + i64::try_from(entries.len()).unwrap_or(0))
        .execute(conn)
        .await
        .map_err(DatabaseError::from)?;
    Ok(())
}

/// Signs the tree.
pub(super) async fn sign(conn: &mut PgConnection, tree: &Tiles, size: u64, signer: &SigningKey) -> Result<(), LedgerError> {
    let checkpoint = Checkpoint { origin: signer.verifier().name().to_owned(), size, root: tree.root(size)? };
    sqlx::query("insert into retention.ledger_checkpoints (size, note) values ($1, $2)")
        .bind(i64::try_from(size).unwrap_or(i64::MAX))
        .bind(signer.sign(&checkpoint.text()))
        .execute(conn)
        .await?;
    Ok(())
}
