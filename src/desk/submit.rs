//! Acts through API and pages: the role, what was seen, the key under which an act is done once, then the act and its answer in one transaction.

use axum::http::StatusCode;
use sha2::{Digest, Sha256};

use super::{Desk, Principal, api::etag, problem::Problem};
use crate::{
    acts::{self, Act, Actor, Done, Surface},
    database::{self, Database, DatabaseError, Kind, Tx},
    jobs::{self, Filter},
    model::rfc3339,
    requests,
    safeguards::{self, GuardState, agreement, control},
};

/// Longest `Idempotency-Key`.
const LONGEST_KEY: usize = 200;

/// What somebody wants done.
pub(crate) struct Wish {
    pub(crate) act: Act,
    pub(crate) reason: String,
    pub(crate) surface: Surface,
    /// Under this key it is done once.
    pub(crate) key: String,
    /// What they have seen of its subject: an `ETag`, or `*`. Needed where the act is about something that may have changed.
    pub(crate) seen: Option<String>,
    /// All that was asked for, so that a key that comes again with something else is noticed.
    pub(crate) asked: Vec<u8>,
}

/// What was answered, now or when the same was asked for before.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: String,
    pub(crate) replayed: bool,
}

/// Does it, unless it was done under this key before. A refusal changes nothing and is not kept. Once begun it is done to its end and told, whether or not
/// somebody still waits for the answer; whoever does not, learns of it by asking again under the same key.
pub(crate) async fn submit(desk: &Desk, who: &Principal, wish: Wish) -> Result<Answer, Problem> {
    let told = (wish.act.clone(), wish.surface.as_str());
    let refused = |problem: Problem| {
        acts::action(&told.0, told.1, &who.name, Some(who.role), problem.code);
        problem
    };
    if who.role < wish.act.role() {
        let detail = format!("{} needs the role {}; {} is {}", wish.act.as_str(), wish.act.role().as_str(), who.name, who.role.as_str());
        return Err(refused(Problem::forbidden(detail)));
    }
    if wish.key.is_empty() || wish.key.len() > LONGEST_KEY || !wish.key.bytes().all(|b| b.is_ascii_graphic()) {
        let detail =
            format!("send Idempotency-Key with up to {LONGEST_KEY} visible characters that no other act of yours has had, like a UUID");
        return Err(refused(Problem::bad_request(detail)));
    }
    let (desk, who) = (desk.clone(), who.clone());
    let done = database::to_the_end(async move { carry_out(&desk, &who, wish).await }).await;
    done.unwrap_or_else(|| Err(Problem::unavailable("the act broke off; the log says why"))).map_err(refused)
}

async fn carry_out(desk: &Desk, who: &Principal, wish: Wish) -> Result<Answer, Problem> {
    let mut tx = desk.reading().await?;
    acts::spelt(&mut tx, desk.config(), &wish.act).await?;
    drop(tx);
    let mut tx = desk.begin_act(wish.act.purpose()).await?;
    let fingerprint = Sha256::digest(&wish.asked).to_vec();
    if let Some(answer) = before(&mut tx, who, &wish.key, &fingerprint).await? {
        return Ok(answer);
    }
    if let Some(now) = tag(&mut tx, desk, &wish.act).await? {
        match wish.seen.as_deref() {
            None => return Err(Problem::precondition_missing()),
            Some("*") => {}
            Some(seen) if seen.split(',').any(|tag| tag.trim() == now) => {}
            Some(_) => return Err(Problem::precondition_failed()),
        }
    }
    let created = matches!(wish.act, Act::PlaceHold { .. } | Act::PlaceRequest { .. } | Act::Pause { .. });
    let actor = Actor { by: &who.name, reason: &wish.reason, surface: wish.surface };
    let performed = acts::perform(&mut tx, desk.config(), wish.act, actor).await?;
    let waits = matches!(performed.done, Done::Waits { .. });
    let status = if waits {
        StatusCode::ACCEPTED
    } else if created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let body = serde_json::to_string(&performed.done).map_err(|e| Problem::unavailable(&e.to_string()))?;
    sqlx::query("update retention.answers set status = $3, body = $4 where actor = $1 and key = $2")
        .bind(&who.name)
        .bind(&wish.key)
        .bind(i32::from(status.as_u16()))
        .bind(&body)
        .execute(&mut *tx)
        .await?;
    Database::commit(tx).await?;
    let _ = performed.tell();
    Ok(Answer { status, body, replayed: false })
}

/// Takes the key for this act; what was answered if the same was asked for before. Whoever comes at the same time waits here for the other's end.
async fn before(tx: &mut Tx, who: &Principal, key: &str, fingerprint: &[u8]) -> Result<Option<Answer>, Problem> {
    let taken = sqlx::query(
        "insert into retention.answers (actor, key, fingerprint, status, body) values ($1, $2, $3, 0, '') on conflict do nothing",
    )
    .bind(&who.name)
    .bind(key)
    .bind(fingerprint)
    .execute(&mut **tx)
    .await
    .map_err(DatabaseError::from);
    match taken {
        Ok(taken) if taken.rows_affected() == 1 => return Ok(None),
        Ok(_) => {}
        Err(error) if error.kind() == Kind::Locked => return Err(Problem::in_flight()),
        Err(error) => return Err(error.into()),
    }
    let (known, status, body): (Vec<u8>, i32, String) =
        sqlx::query_as("select fingerprint, status, body from retention.answers where actor = $1 and key = $2")
            .bind(&who.name)
            .bind(key)
            .fetch_one(&mut **tx)
            .await?;
    if known != fingerprint {
        return Err(Problem::key_reused());
    }
    let status = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or(StatusCode::OK);
    Ok(Some(Answer { status, body, replayed: true }))
}

/// The `ETag` of what an act is about, as `GET` gives it; `None` where it is about nothing that somebody must have seen. What could change before the act
/// is done is locked first.
async fn tag(tx: &mut Tx, desk: &Desk, act: &Act) -> Result<Option<String>, Problem> {
    Ok(match act {
        Act::ReleaseHold { id } => control::hold(&mut *tx, *id).await?.map(|hold| etag(&hold)),
        Act::ReleaseGuard => {
            control::stand_still(&mut *tx).await?;
            Some(guard_tag(&safeguards::guard(&mut *tx).await?))
        }
        Act::AcceptPolicy => {
            control::stand_still(&mut *tx).await?;
            let accepted = agreement::accepted(&mut *tx).await?;
            Some(policy_tag(accepted.as_ref().map(|accepted| accepted.hash.as_str()), &desk.config().terms().hash()))
        }
        Act::CloseJob { id } => {
            let job = jobs::list(&mut *tx, &Filter { id: Some(*id), ..Filter::default() }).await?.pop();
            job.map(|job| etag(&job))
        }
        Act::ApproveRequest { id } | Act::WithdrawRequest { id } => {
            let request = requests::list(&mut *tx, &requests::Filter { id: Some(*id), ..requests::Filter::default() }).await?.pop();
            request.map(|request| etag(&request))
        }
        Act::PlaceHold { .. } | Act::Pause { .. } | Act::Resume { .. } | Act::RetryJob { .. } | Act::PlaceRequest { .. } => None,
    })
}

/// Which trip of the guard it is: what it sees coming is not what is released.
pub(crate) fn guard_tag(guard: &GuardState) -> String {
    etag(&(guard.tripped, &guard.reason, guard.tripped_at.map(rfc3339)))
}

/// Which policy would replace which: during a change of the configuration two daemons ask for two.
pub(crate) fn policy_tag(accepted: Option<&str>, configured: &str) -> String {
    etag(&(accepted, configured))
}
