//! The job table: what is scheduled, who holds it, what came of it. Every statement that changes a claimed job carries its fence.
//! It knows neither the source nor the stores. How it is shown to people and machines is in `jobs/list.rs`.

mod by_hand;
mod figures;
mod list;
pub mod page;
mod record;
mod told;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, FromRow, PgConnection, types::Json};

use crate::{
    database::DatabaseError,
    model::REQUEST,
    requests,
    retention::{Done, Open},
    safeguards::{admitted_at, agreement::in_force, count_from_now, guarded, held, paused, paused_as_a_whole},
    sql::literal,
};

pub use by_hand::{close, retry};
pub use figures::{AHEAD, Ahead, Day, Figures, LATENESS, figures, roll};
pub use list::{Filter, Job, Looks, Tally, levels, list, looks, tally};
pub use record::{Next, Progress, cancel, record};

/// When a completed job is looked at again for the first time (R24).
pub const FIRST_LOOK: Duration = Duration::from_secs(5);

/// Looks in a row that may find records which no batch could delete, before somebody is told (R25).
pub const PATIENT_LOOKS: i32 = 3;

/// What blocks a job whose stores take their time.
pub const SLOW: &str = "slow";

/// Records deleted, by target name.
pub type Counts = BTreeMap<String, i64>;

/// One data class of the job table, with the fingerprints its rows are compared with.
#[derive(Debug, Clone, Default)]
pub struct Class {
    /// The feature.
    pub feature: String,
    /// The data class.
    pub name: String,
    /// Fingerprint of the rule.
    pub policy: String,
    /// Fingerprints of the places, joined by commas.
    pub places: String,
    /// Fingerprint of the whole policy it belongs to, which must be in force.
    pub accepted: String,
    /// Some of its targets are in other stores: that a job has begun says nothing about its size.
    pub elsewhere: bool,
    /// When the last copy is gone that cannot be deleted one by one, as an expression in which `{completed_at}` stands for when its job was completed; `None`
    /// when there are no such copies.
    pub copies: Option<String>,
    /// Whether an account is this daemon's business, as a condition in which `{account}` stands for its id; `None` when all are.
    pub ours: Option<String>,
}

impl Class {
    /// The rows of this class under `alias`, as a condition.
    #[must_use]
    pub fn of(&self, alias: &str) -> String {
        format!("{alias}.feature = {} and {alias}.data_class = {}", literal(&self.feature), literal(&self.name))
    }

    /// The account under `alias` is this daemon's business, as a condition (R9).
    #[must_use]
    pub fn is_ours(&self, alias: &str) -> String {
        self.ours.as_ref().map_or_else(|| "true".to_owned(), |ours| ours.replace("{account}", &format!("{alias}.account_id")))
    }

    /// The open jobs of this class under `alias`, by the index that claims follow.
    fn queue(&self, alias: &str) -> String {
        let class = literal(&format!("{}/{}", self.feature, self.name));
        let ours = self
            .ours
            .as_ref()
            .map_or_else(String::new, |ours| format!(" and {}", ours.replace("{account}", &format!("{alias}.account_id"))));
        format!("{alias}.feature || '/' || {alias}.data_class = {class} and {}{ours}", self.of(alias))
    }

    /// The done-mark under `alias` vouches for every place of this class, as a condition.
    #[must_use]
    pub fn covered(&self, alias: &str) -> String {
        format!("string_to_array({}, ',') <@ string_to_array({alias}.places, ',')", literal(&self.places))
    }

    /// The open jobs of this class under `alias`: the job table holds no others.
    #[must_use]
    pub fn open(&self, alias: &str) -> String {
        self.of(alias)
    }

    /// A claimed job under `alias` may still be purged by whoever holds fence `b.fence`: ours, due by the database's clock, admitted,
    /// and made under this very rule.
    #[must_use]
    pub fn licensed(&self, alias: &str) -> String {
        format!(
            "{} and {alias}.fence = b.fence and {alias}.lease_until > now() \
             and {alias}.retain_until <= now() and {alias}.admitted_at is not null and {alias}.policy = {}",
            self.of(alias),
            literal(&self.policy)
        )
    }
}

/// An open job with what a change of it must carry.
#[derive(Debug, Clone, FromRow)]
pub struct OpenJob {
    /// Identity.
    pub id: i64,
    /// The account.
    pub account_id: String,
    /// The fence it had when it was read.
    pub fence: i64,
    /// The starting point it is for.
    pub starting_point: String,
    /// Its instant.
    pub started_at: DateTime<Utc>,
    /// Nothing is deleted before.
    pub retain_until: DateTime<Utc>,
    /// Late after this.
    pub delete_by: DateTime<Utc>,
    /// Fingerprint of the rule.
    pub policy: String,
    /// A batch has run.
    pub began: bool,
}

impl OpenJob {
    /// The part that the rules look at.
    #[must_use]
    pub fn as_open(&self) -> Open {
        Open { starting_point: self.starting_point.clone(), started_at: self.started_at, policy: self.policy.clone(), began: self.began }
    }
}

/// The open jobs of the accounts. Those that a batch holds at this instant are in the second list, by account: leave them alone.
///
/// Locks the rows of the first list until the transaction ends.
///
/// # Errors
/// Those of the database.
pub async fn lock_open(conn: &mut PgConnection, class: &Class, accounts: &[String]) -> Result<(Vec<OpenJob>, Vec<String>), DatabaseError> {
    let of = format!("from retention.jobs j where j.account_id = any($1) and {}", class.open("j"));
    let seen: Vec<String> =
        sqlx::query_scalar(AssertSqlSafe(format!("select j.account_id {of}"))).bind(accounts).fetch_all(&mut *conn).await?;
    if seen.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let free: Vec<OpenJob> = sqlx::query_as(AssertSqlSafe(format!(
        "select j.id, j.account_id, j.fence, j.starting_point, j.started_at, j.retain_until, j.delete_by, j.policy, j.purge_began_at is not null as began
         {of} for no key update skip locked"
    )))
    .bind(accounts)
    .fetch_all(conn)
    .await?;
    // What was seen and is not there to be locked is in a batch, or was until a moment ago.
    let held: BTreeSet<&str> = free.iter().map(|job| job.account_id.as_str()).collect();
    let busy = seen.into_iter().filter(|account| !held.contains(account.as_str())).collect();
    Ok((free, busy))
}

/// Notes, of claimed jobs with their fences, that a purge outside the main database is about to begin: what is deleted from here on may be more than is counted (R19).
///
/// # Errors
/// Those of the database.
pub async fn intend(conn: &mut PgConnection, jobs: &[(i64, i64)]) -> Result<(), DatabaseError> {
    sqlx::query(
        "update retention.jobs j set purge_began_at = coalesce(j.purge_began_at, clock_timestamp()), count_exact = false
         from unnest($1::int8[], $2::int8[]) as p(id, fence) where j.id = p.id and j.fence = p.fence and (j.purge_began_at is null or j.count_exact)",
    )
    .bind(jobs.iter().map(|(id, _)| *id).collect::<Vec<_>>())
    .bind(jobs.iter().map(|(_, fence)| *fence).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

/// The done-marks of the accounts.
///
/// # Errors
/// Those of the database.
pub async fn done(conn: &mut PgConnection, class: &Class, accounts: &[String]) -> Result<BTreeMap<String, Done>, DatabaseError> {
    let rows: Vec<(String, String, DateTime<Utc>, String, bool)> = sqlx::query_as(AssertSqlSafe(format!(
        "select d.account_id, d.starting_point, d.started_at, d.places, d.residue from retention.done_marks d where d.account_id = any($1) and {}",
        class.of("d")
    )))
    .bind(accounts)
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(account, starting_point, started_at, places, residue)| (account, Done { starting_point, started_at, places, residue }))
        .collect())
}

/// A job to be scheduled, or the new plan of an open one.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The account.
    pub account_id: String,
    /// The starting point that counts.
    pub starting_point: String,
    /// Its instant.
    pub started_at: DateTime<Utc>,
    /// Nothing is deleted before.
    pub retain_until: DateTime<Utc>,
    /// Late after this.
    pub delete_by: DateTime<Utc>,
    /// Targets that hold records now; `None` when nobody could look.
    pub seen: Option<Vec<String>>,
}

/// Schedules jobs. Returns the id of each that is new, by account: another replica may have been faster.
///
/// # Errors
/// Those of the database.
pub async fn schedule(
    conn: &mut PgConnection,
    class: &Class,
    targets: &[String],
    plans: &[Plan],
) -> Result<BTreeMap<String, i64>, DatabaseError> {
    let zero: Counts = targets.iter().map(|t| (t.clone(), 0)).collect();
    let rows: Vec<(i64, String)> = sqlx::query_as(AssertSqlSafe(format!(
        "insert into retention.jobs (account_id, feature, data_class, starting_point, started_at, retain_until, delete_by, ready_at, policy, seen, records_deleted)
         select p.account_id, {}, {}, p.starting_point, p.started_at, p.retain_until, p.delete_by, p.retain_until, {}, string_to_array(p.seen, chr(31)), $7
         from unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::timestamptz[], $6::text[])
              as p(account_id, starting_point, started_at, retain_until, delete_by, seen)
         on conflict (account_id, feature, data_class) do nothing
         returning id, account_id",
        literal(&class.feature),
        literal(&class.name),
        literal(&class.policy)
    )))
    .bind(plans.iter().map(|p| p.account_id.as_str()).collect::<Vec<_>>())
    .bind(plans.iter().map(|p| p.starting_point.as_str()).collect::<Vec<_>>())
    .bind(plans.iter().map(|p| p.started_at).collect::<Vec<_>>())
    .bind(plans.iter().map(|p| p.retain_until).collect::<Vec<_>>())
    .bind(plans.iter().map(|p| p.delete_by).collect::<Vec<_>>())
    .bind(plans.iter().map(|p| p.seen.as_ref().map(|s| s.join("\u{1f}"))).collect::<Vec<_>>())
    .bind(Json(zero))
    .fetch_all(&mut *conn)
    .await?;
    let mut new: BTreeMap<String, i64> = rows.into_iter().map(|(id, account)| (account, id)).collect();
    // A replica may have completed the same purge after our snapshot and before our insert: this statement sees its done-mark.
    let ids: Vec<i64> = new.values().copied().collect();
    let superseded: Vec<String> = sqlx::query_scalar(AssertSqlSafe(format!(
        "delete from retention.jobs j using retention.done_marks d
         where j.id = any($1) and d.account_id = j.account_id and d.feature = j.feature and d.data_class = j.data_class
           and d.started_at = j.started_at and j.starting_point <> '{REQUEST}' and {} and not d.residue returning j.account_id",
        class.covered("d")
    )))
    .bind(ids)
    .fetch_all(&mut *conn)
    .await?;
    for account in superseded {
        new.remove(&account);
    }
    if plans.iter().any(|plan| plan.starting_point == REQUEST) {
        // Of a request that was fulfilled in between, or withdrawn, no mark tells.
        let over: Vec<String> = sqlx::query_scalar(AssertSqlSafe(format!(
            "delete from retention.jobs j where j.id = any($1) and j.starting_point = '{REQUEST}' and not {} returning j.account_id",
            requests::stands("j")
        )))
        .bind(new.values().copied().collect::<Vec<_>>())
        .fetch_all(&mut *conn)
        .await?;
        for account in over {
            new.remove(&account);
        }
    }
    told::tell(conn, "scheduled", new.values().copied().collect()).await?;
    Ok(new)
}

/// Gives open jobs another plan. The fence grows, so that a worker which still holds one changes nothing any more.
///
/// # Errors
/// Those of the database.
pub async fn reschedule(conn: &mut PgConnection, class: &Class, plans: &[(OpenJob, Plan)]) -> Result<Vec<i64>, DatabaseError> {
    let policy = literal(&class.policy);
    let rescheduled: Vec<i64> = sqlx::query_scalar(AssertSqlSafe(format!(
        "update retention.jobs j
         set fence = j.fence + 1, worker = null, lease_until = null, admitted_at = null, attempts = 0, continues = false, looks = 0,
             blocked_by = null, last_error = null, overdue_told_at = null, policy = {policy}, seen = case when j.policy = {policy} then j.seen end, starting_point = p.starting_point, started_at = p.started_at,
             retain_until = p.retain_until, delete_by = p.delete_by, ready_at = p.retain_until
         from unnest($1::int8[], $2::int8[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::timestamptz[])
              as p(id, fence, starting_point, started_at, retain_until, delete_by)
         where j.id = p.id and j.fence = p.fence returning j.id"
    )))
    .bind(plans.iter().map(|(j, _)| j.id).collect::<Vec<_>>())
    .bind(plans.iter().map(|(j, _)| j.fence).collect::<Vec<_>>())
    .bind(plans.iter().map(|(_, p)| p.starting_point.as_str()).collect::<Vec<_>>())
    .bind(plans.iter().map(|(_, p)| p.started_at).collect::<Vec<_>>())
    .bind(plans.iter().map(|(_, p)| p.retain_until).collect::<Vec<_>>())
    .bind(plans.iter().map(|(_, p)| p.delete_by).collect::<Vec<_>>())
    .fetch_all(&mut *conn)
    .await?;
    told::tell(conn, "rescheduled", rescheduled.clone()).await?;
    Ok(rescheduled)
}

/// An open job of a class that the policy does not have any more.
#[derive(Debug, Clone, FromRow)]
pub struct Unlisted {
    /// Its feature.
    pub feature: String,
    /// Its data class.
    pub data_class: String,
    /// The rest.
    #[sqlx(flatten)]
    pub job: OpenJob,
}

/// Locks up to `limit` open jobs of classes that are not among these, as far as nobody holds them at this instant.
///
/// # Errors
/// Those of the database.
pub async fn lock_unlisted(conn: &mut PgConnection, classes: &[&Class], limit: i64) -> Result<Vec<Unlisted>, DatabaseError> {
    let listed: Vec<String> = classes.iter().map(|c| format!("({}, {})", literal(&c.feature), literal(&c.name))).collect();
    Ok(sqlx::query_as(AssertSqlSafe(format!(
        "select j.id, j.account_id, j.feature, j.data_class, j.fence, j.starting_point, j.started_at, j.policy, j.delete_by,
                j.purge_began_at is not null as began, j.retain_until
         from retention.jobs j where (j.feature, j.data_class) not in ({})
         order by j.id limit {limit} for no key update skip locked",
        listed.join(", ")
    )))
    .fetch_all(conn)
    .await?)
}

/// Drops the done-marks of accounts for which nothing stands any more, so that a later termination starts anew.
///
/// # Errors
/// Those of the database.
pub async fn forget(conn: &mut PgConnection, class: &Class, accounts: &[String]) -> Result<(), DatabaseError> {
    sqlx::query(AssertSqlSafe(format!("delete from retention.done_marks d where d.account_id = any($1) and {}", class.of("d"))))
        .bind(accounts)
        .execute(conn)
        .await?;
    Ok(())
}

/// A job that a worker holds.
#[derive(Debug, Clone, FromRow)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about one job, asked by name")]
pub struct Claimed {
    /// Identity.
    pub id: i64,
    /// The account.
    pub account_id: String,
    /// What every change must carry.
    pub fence: i64,
    /// The starting point it is for.
    pub starting_point: String,
    /// Nothing is deleted before.
    pub retain_until: DateTime<Utc>,
    /// Late after this.
    pub delete_by: DateTime<Utc>,
    /// Targets that held records when it was scheduled.
    pub seen: Option<Vec<String>>,
    /// This attempt's number.
    pub attempts: i32,
    /// Looks in a row that found records no batch could delete.
    pub looks: i32,
    /// Deleted so far.
    pub records_deleted: Json<Counts>,
    /// This claim goes on with an attempt that has begun.
    pub continued: bool,
    /// A batch has run: it was claimed in the lane of those.
    pub begun: bool,
    /// Beside it somebody was passed over whom the guard has not weighed yet.
    pub passed_over: bool,
    /// Whoever had it before gave no sign of life.
    pub lapsed: bool,
    /// Its place in the queue.
    pub ready_at: DateTime<Utc>,
    /// It is past half of its allowance, and must not be slowed down much.
    pub pressing: bool,
    /// The requests that stood for its account and class when it was claimed: what it fulfils when it completes.
    pub requests: Vec<i64>,
}

/// Which of the due jobs a claim prefers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// As many as may be of those that no batch has begun with.
    Fresh,
    /// One that a batch has begun with: its account has more records than a batch takes.
    Begun,
}

impl Lane {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Fresh => Self::Begun,
            Self::Begun => Self::Fresh,
        }
    }

    /// The jobs in it under the alias `j`, as a condition, and how many one claim takes.
    fn of(self, elsewhere: bool) -> (&'static str, &'static str) {
        match self {
            Self::Fresh => ("j.purge_began_at is null", "$3"),
            Self::Begun => ("j.purge_began_at is not null", if elsewhere { "$3" } else { "1" }),
        }
    }
}

/// Claims due jobs of one class, first come first served in the lane, and in the other lane where it has none; those among them whose lease has lapsed.
/// Held, paused and unadmitted ones stay where they are; while the guard stands in the way, all do.
///
/// Changes no column that an index knows: on a page with room a claim costs no index entry.
///
/// # Errors
/// Those of the database.
pub async fn claim(
    conn: &mut PgConnection,
    class: &Class,
    lane: Lane,
    worker: &str,
    lease: Duration,
    window: Duration,
    at_most: i64,
) -> Result<Vec<Claimed>, DatabaseError> {
    let due = |lane: Lane, unless: &str| {
        let (of, at_most) = lane.of(class.elsewhere);
        format!(
            "select j.id, j.continues, j.account_id, j.lease_until is not null as lapsed, j.admitted_at is null as begins, {} as admitted_at from retention.jobs j
             where {} and {of} and j.ready_at <= now() and j.retain_until <= now() and (j.lease_until is null or j.lease_until <= now())
               and j.policy = {} and {} and not {} and not {} and not {} and not {}{unless}
             order by j.ready_at limit {at_most} for no key update skip locked",
            admitted_at("j", window),
            class.queue("j"),
            literal(&class.policy),
            in_force(&class.accepted),
            guarded(),
            paused_as_a_whole(&class.name),
            held("j"),
            paused("j")
        )
    };
    let mut claimed: Vec<Claimed> = sqlx::query_as(AssertSqlSafe(format!(
        "with preferred as materialized ({}),
         others as materialized ({}),
         next as materialized (select * from preferred union all select * from others),
         counted as ({}),
         claimed as (
         update retention.jobs j
         set fence = j.fence + 1, worker = $1, lease_until = now() + make_interval(secs => $2), continues = false,
             attempts = j.attempts + case when next.continues then 0 else 1 end, blocked_by = null, admitted_at = coalesce(j.admitted_at, now())
         from next where j.id = next.id and next.admitted_at is not null
         returning j.*, next.continues as continued, next.lapsed),
         intended as ({})
         select j.id, j.account_id, j.fence, j.starting_point, j.retain_until, j.delete_by, j.seen, j.attempts, j.looks, j.records_deleted, j.continued,
                j.purge_began_at is not null as begun, exists (select from next where admitted_at is null) as passed_over, j.lapsed, j.ready_at,
                now() - j.retain_until > (j.delete_by - j.retain_until) / 2 as pressing, {} as requests
         from claimed j",
        due(lane, ""),
        due(lane.other(), " and not exists (select from preferred where admitted_at is not null)"),
        count_from_now("select account_id from next where begins and admitted_at is not null", window),
        // Once for each plan, before the first record goes: whoever takes the job up again goes on with what was intended.
        told::intent("claimed j where j.attempts = 1 and not j.continued"),
        requests::standing("j")
    )))
    .bind(worker)
    .bind(lease.as_secs_f64())
    .bind(at_most)
    .fetch_all(conn)
    .await?;
    // What an UPDATE returns is in the order of its plan.
    claimed.sort_by_key(|job| (job.ready_at, job.id));
    Ok(claimed)
}

/// Whether a due job waits for somebody who holds its records or its source row, or is in a worker's hands.
///
/// # Errors
/// Those of the database.
pub async fn stepping_aside(conn: &mut PgConnection, classes: &[Class], locked: bool) -> Result<bool, DatabaseError> {
    // A job steps aside for a moment only, which keeps this look within a short range of the index.
    let way = |class: &Class| {
        format!(
            "exists (select 1 from retention.jobs j where {} and j.ready_at < now() + interval '1 minute'
                     and j.retain_until <= now() and (j.blocked_by = 'settling' or {locked} and (j.blocked_by in ('locked', '{SLOW}') or j.lease_until is not null)))",
            class.queue("j")
        )
    };
    let ways: Vec<String> = classes.iter().map(way).collect();
    Ok(sqlx::query_scalar(AssertSqlSafe(format!("select {}", ways.join(" or ")))).fetch_one(conn).await?)
}

/// Whether a due job of the class waits to be weighed by the guard. What is held or paused does not: the guard would pass it over again and again.
///
/// # Errors
/// Those of the database.
pub async fn unweighed(conn: &mut PgConnection, class: &Class, window: Duration) -> Result<bool, DatabaseError> {
    Ok(sqlx::query_scalar(AssertSqlSafe(format!(
        "select exists (select 1 from retention.jobs j
                        where {} and j.ready_at <= now() and j.retain_until <= now() and {} is null and not {} and not {} and not {})",
        class.queue("j"),
        admitted_at("j", window),
        paused_as_a_whole(&class.name),
        held("j"),
        paused("j")
    )))
    .fetch_one(conn)
    .await?)
}

/// Ends every back-off of what is due, as `run --once` does (R33).
///
/// # Errors
/// Those of the database.
pub async fn end_backoff(conn: &mut PgConnection) -> Result<(), DatabaseError> {
    sqlx::query("update retention.jobs set ready_at = now() where retain_until <= now() and ready_at > now()").execute(conn).await?;
    Ok(())
}

/// How long until the next job may be claimed; zero when one has just become ready, `None` when none is going to.
///
/// Who asks has looked a moment ago: what became ready in between would be slept over. What has been ready for longer is blocked.
///
/// # Errors
/// Those of the database.
pub async fn next_ready(conn: &mut PgConnection, classes: &[Class]) -> Result<Option<Duration>, DatabaseError> {
    let mut soonest: Option<f64> = None;
    for class in classes {
        let seconds: Option<f64> = sqlx::query_scalar(AssertSqlSafe(format!(
            "select extract(epoch from min(j.ready_at) - clock_timestamp())::float8 from retention.jobs j where {} and j.ready_at > now() - interval '100 milliseconds'",
            class.queue("j")
        )))
        .fetch_one(&mut *conn)
        .await?;
        soonest = match (soonest, seconds) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
    Ok(soonest.map(|s| Duration::try_from_secs_f64(s.max(0.0)).unwrap_or(Duration::ZERO)))
}

/// A job that has just become overdue.
#[derive(Debug, Clone, FromRow)]
pub struct Overdue {
    /// Identity.
    pub id: i64,
    /// The account.
    pub account_id: String,
    /// The feature.
    pub feature: String,
    /// The data class.
    pub data_class: String,
    /// The starting point.
    pub starting_point: String,
    /// Nothing is deleted before.
    pub retain_until: DateTime<Utc>,
    /// Late after this.
    pub delete_by: DateTime<Utc>,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// Why the last batch left it alone.
    pub blocked_by: Option<String>,
}

/// Marks and returns jobs that became overdue since the last call, a thousand at most, so that each is told once.
///
/// # Errors
/// Those of the database.
pub async fn newly_overdue(conn: &mut PgConnection) -> Result<Vec<Overdue>, DatabaseError> {
    Ok(sqlx::query_as(AssertSqlSafe(format!(
        "with late as (
         update retention.jobs j set overdue_told_at = now()
         where j.id in (select j.id from retention.jobs j where j.delete_by < now() and j.overdue_told_at is null and not {}
                        order by j.delete_by limit 1000 for no key update skip locked)
         returning j.*),
         told as ({})
         select id, account_id, feature, data_class, starting_point, retain_until, delete_by, last_error, blocked_by from late",
        held("j"),
        told::entry("overdue", "late j")
    )))
    .fetch_all(conn)
    .await?)
}
