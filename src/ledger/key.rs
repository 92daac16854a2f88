//! The key that signs: in a file of the operator, or made by `migrate` and kept in the database. The second proves that nobody else than whoever may read
//! the database wrote the ledger; the first also keeps those from rewriting it.

use secrecy::ExposeSecret;
use sqlx::PgConnection;

use super::{Head, LedgerError, note, number};
use crate::{database::DatabaseError, proof::SigningKey};

/// A new key under this name, or a name of its own.
///
/// # Errors
/// When the name cannot be one, or the system has no random bytes.
pub fn generate(origin: Option<&str>) -> Result<SigningKey, LedgerError> {
    let mut random = [0_u8; 40];
    getrandom::fill(&mut random).map_err(|e| LedgerError::Key(format!("the system has no random bytes: {e}")))?;
    let (seed, name) = random.split_at(32);
    let own = || format!("retentiond/{}", hex::encode(name));
    let seed: &[u8; 32] = seed.try_into().map_err(|_| LedgerError::Key("a seed has 32 bytes".to_owned()))?;
    SigningKey::new(&origin.map_or_else(own, str::to_owned), seed).map_err(|why| LedgerError::Key(format!("the name of the key: {why}")))
}

/// Begins the ledger, unless there is one: with the configured key, else with one that the database keeps.
///
/// # Errors
/// Those of the database.
pub async fn create(conn: &mut PgConnection, configured: Option<&SigningKey>) -> Result<(), LedgerError> {
    let there: bool = sqlx::query_scalar("select exists (select 1 from retention.ledger)").fetch_one(&mut *conn).await?;
    if there {
        return adopt(conn).await;
    }
    let (key, secret) = if let Some(key) = configured {
        (key.clone(), None)
    } else {
        let key = generate(None)?;
        let secret = key.secret().expose_secret().to_owned();
        (key, Some(secret))
    };
    let verifier = key.verifier();
    // The first entry says which key signs; what was written before it, by the migration, comes after.
    sqlx::query(
        "with begun as (
             insert into retention.ledger (origin, key, secret, summary_on) values ($1, $2, $3, (now() at time zone 'UTC')::date) returning 1)
         insert into retention.ledger_pending (id, event, kind, body) overriding system value
         select 0, 'opened', 'ledger', jsonb_build_object('origin', $1, 'key', $2) from begun",
    )
    .bind(verifier.name())
    .bind(verifier.to_string())
    .bind(secret)
    .execute(conn)
    .await?;
    Ok(())
}

/// Tells of open jobs that nobody has told of: a replica of an earlier version made them.
async fn adopt(conn: &mut PgConnection) -> Result<(), LedgerError> {
    sqlx::query(
        "insert into retention.ledger_pending (event, kind, reference, subject, body)
         select 'scheduled', 'job', j.id, j.account_id, jsonb_build_object(
                    'feature', j.feature, 'data_class', j.data_class, 'starting_point', j.starting_point, 'started_at', retention.instant(j.started_at),
                    'retain_until', retention.instant(j.retain_until), 'delete_by', retention.instant(j.delete_by), 'rule', j.policy)
         from retention.jobs j
         where not exists (select 1 from retention.ledger_entries e where e.kind = 'job' and e.reference = j.id)
           and not exists (select 1 from retention.ledger_pending p where p.kind = 'job' and p.reference = j.id)
         order by j.id",
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The key that signs the next checkpoint.
///
/// # Errors
/// When it is not the ledger's.
pub fn signer(configured: Option<&SigningKey>, head: &Head) -> Result<SigningKey, LedgerError> {
    let key = match (configured, &head.secret) {
        (Some(key), _) => key.clone(),
        (None, Some(secret)) => SigningKey::parse(secret).map_err(|why| LedgerError::Key(format!("the key in retention.ledger {why}")))?,
        (None, None) => {
            return Err(LedgerError::Key("this ledger is signed with a key from a file: name it in ledger.key_file".to_owned()));
        }
    };
    let (ours, theirs) = (key.verifier(), &head.key);
    if ours != *theirs {
        return Err(LedgerError::Key(format!(
            "the configured key is {ours}, and the ledger is signed with {theirs}: `retentiond ledger rotate --reason …` makes the configured one the ledger's"
        )));
    }
    Ok(key)
}

/// Makes this key the ledger's, in a transaction that holds the ledger's lock. The entry is signed with the new key, and names both.
///
/// # Errors
/// Those of the database; a key of another name.
pub(super) async fn rotate(conn: &mut PgConnection, head: &Head, signer: &SigningKey, act: (&str, &str)) -> Result<(), LedgerError> {
    let to = signer.verifier();
    if to.name() != head.key.name() {
        return Err(LedgerError::Key(format!(
            "the configured key is named {}, and the ledger {}: make one with `retentiond ledger keygen --origin {}`",
            to.name(),
            head.key.name(),
            head.key.name()
        )));
    }
    let body = serde_json::json!({"from": head.key.to_string(), "key": to.to_string()});
    note(&mut *conn, "key_changed", Some(act), &body).await?;
    // Until all of it is signed, the last checkpoint is one of the key before.
    number::page(&mut *conn, head, signer, i64::from(i32::MAX)).await?;
    sqlx::query("update retention.ledger set key = $1, secret = null")
        .bind(to.to_string())
        .execute(conn)
        .await
        .map_err(DatabaseError::from)?;
    Ok(())
}
