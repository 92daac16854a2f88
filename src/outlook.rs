//! What would be deleted, when and why: the read-only pass behind `plan`, `explain` and `status`. It writes nothing, and asks the very rules
//! that the planner asks. What was deleted (`outlook/report.rs`) and what the rules say (`outlook/art30.rs`) is for `report`.

mod art30;
pub mod csv;
mod gauges;
pub mod report;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{AssertSqlSafe, FromRow, PgConnection};

use utoipa::ToSchema;

use crate::{
    config::Terms,
    database::DatabaseError,
    jobs::{self, Filter, Job, Tally},
    model::{self, Mode, REQUEST, rfc3339},
    policy::{Class, Policy},
    requests::{self, Asked, Request},
    retention::{self, Open, PointState, Start},
    safeguards::{self, GuardState, agreement, held},
    stores::{self, postgres},
};

pub use art30::{Art30, Rule, art30};
pub use gauges::gauges;

/// Counts of what is not due yet are left out beyond this many jobs (R36).
const COUNT_ALL_UP_TO: usize = 10_000;
/// Other stores have so long to say how many records they hold; what has not been said by then is left out.
const OTHERS: Duration = Duration::from_secs(3);
/// Accounts counted in one statement.
const SLICE: usize = 1_000;

/// The answer of `plan`.
#[derive(Debug, Serialize)]
pub struct Plan {
    /// The instant it is for.
    #[serde(serialize_with = "model::serialize_instant")]
    pub now: DateTime<Utc>,
    /// Whether the daemon would delete or only report.
    pub mode: Mode,
    /// Every standing starting point that has not been carried out, the earliest `retain_until` first.
    pub jobs: Vec<Planned>,
}

/// One purge that will be due.
#[derive(Debug, Serialize, ToSchema)]
pub struct Planned {
    /// The account.
    pub account_id: String,
    /// The feature.
    pub feature: String,
    /// The data class.
    pub data_class: String,
    /// The earliest starting point that stands.
    pub starting_point: String,
    /// Its instant.
    #[serde(serialize_with = "model::serialize_instant")]
    pub started_at: DateTime<Utc>,
    /// Nothing is deleted before.
    #[serde(serialize_with = "model::serialize_instant")]
    pub retain_until: DateTime<Utc>,
    /// Late after this.
    #[serde(serialize_with = "model::serialize_instant")]
    pub delete_by: DateTime<Utc>,
    /// `retain_until` has passed.
    pub due: bool,
    /// A hold in force matches.
    pub held: bool,
    /// By target.
    pub targets: Vec<PlannedTarget>,
}

/// Records of one account in one target.
#[derive(Debug, Serialize, ToSchema)]
pub struct PlannedTarget {
    /// The target's name.
    pub name: String,
    /// How many; `None` when not counted.
    pub records: Option<i64>,
}

#[derive(FromRow)]
struct Standing {
    account_id: String,
    point: i32,
    since: DateTime<Utc>,
    held: bool,
    /// Of the open job.
    scheduled_until: Option<DateTime<Utc>>,
    /// It is for a request, whatever else stands.
    on_request: bool,
}

/// Everything that stands and has not been carried out, as of `at` or the database's now.
///
/// # Errors
/// Those of the database.
pub async fn plan(conn: &mut PgConnection, policy: &Policy, mode: Mode, at: Option<DateTime<Utc>>) -> Result<Plan, DatabaseError> {
    let now = match at {
        Some(at) => at,
        None => sqlx::query_scalar("select now()").fetch_one(&mut *conn).await?,
    };
    let mut planned = Vec::new();
    for (index, class) in policy.classes.iter().enumerate() {
        for row in standing(conn, class).await? {
            let Some((retain_until, delete_by)) = class.rule.dates(row.since) else { continue };
            let point = usize::try_from(row.point).ok().and_then(|p| policy.points.get(p));
            let job = Planned {
                account_id: row.account_id,
                feature: class.jobs.feature.clone(),
                data_class: class.jobs.name.clone(),
                starting_point: point.map(|p| p.name.clone()).unwrap_or_default(),
                started_at: row.since,
                retain_until,
                delete_by,
                due: retain_until <= now,
                held: row.held,
                targets: class.target_names().into_iter().map(|name| PlannedTarget { name, records: None }).collect(),
            };
            planned.push((index, job));
        }
        planned.extend(asked(conn, class, now).await?.into_iter().map(|job| (index, job)));
    }
    count(conn, policy, &mut planned).await?;
    let mut jobs: Vec<Planned> = planned.into_iter().map(|(_, job)| job).collect();
    jobs.sort_by(|a, b| (a.retain_until, &a.account_id).cmp(&(b.retain_until, &b.account_id)));
    Ok(Plan { now, mode, jobs })
}

async fn standing(conn: &mut PgConnection, class: &Class) -> Result<Vec<Standing>, DatabaseError> {
    let query = format!(
        "with points as ({}), earliest as (select distinct on (account_id) account_id, since, point from points order by account_id, since, point)
         select e.account_id, e.point, e.since, {} as held,
                j.retain_until as scheduled_until, coalesce(j.starting_point = '{REQUEST}', false) as on_request
         from (select *, {} as feature, {} as data_class from earliest) e
         left join retention.jobs j on j.account_id = e.account_id and {}
         where not exists (select 1 from retention.done_marks d where d.account_id = e.account_id and {} and d.started_at = e.since and {} and not d.residue)",
        class.source.standing_by_point(),
        held("e"),
        crate::sql::literal(&class.jobs.feature),
        crate::sql::literal(&class.jobs.name),
        class.jobs.open("j"),
        class.jobs.of("d"),
        class.jobs.covered("d")
    );
    Ok(sqlx::query_as(AssertSqlSafe(query)).fetch_all(conn).await?)
}

/// Jobs that are scheduled, as the plan shows them: with the records that there are now.
///
/// # Errors
/// Those of the database.
pub async fn planned(conn: &mut PgConnection, policy: &Policy, now: DateTime<Utc>, jobs: Vec<Job>) -> Result<Vec<Planned>, DatabaseError> {
    let mut planned: Vec<(usize, Planned)> = Vec::new();
    for job in jobs {
        let class = policy.classes.iter().position(|class| class.jobs.feature == job.feature && class.jobs.name == job.data_class);
        let targets = class.and_then(|at| policy.classes.get(at)).map(Class::target_names).unwrap_or_default();
        let plan = Planned {
            account_id: job.account_id,
            feature: job.feature,
            data_class: job.data_class,
            starting_point: job.starting_point,
            started_at: job.started_at,
            retain_until: job.retain_until,
            delete_by: job.delete_by,
            due: job.retain_until <= now,
            held: job.held,
            targets: targets.into_iter().map(|name| PlannedTarget { name, records: None }).collect(),
        };
        // A class that the configuration has no more has no targets to count in.
        planned.push((class.unwrap_or(usize::MAX), plan));
    }
    count(conn, policy, &mut planned).await?;
    Ok(planned.into_iter().map(|(_, plan)| plan).collect())
}

/// What a policy would do to one data class, compared with what is scheduled now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Consequence {
    /// `feature/name`.
    pub class: String,
    /// Purges that are not scheduled now.
    pub new: u64,
    /// Purges that come earlier than scheduled.
    pub sooner: u64,
    /// Purges that come later than scheduled.
    pub later: u64,
    /// Of the new and the sooner ones, those that are due at once.
    pub due_at_once: u64,
    /// Open jobs that are cancelled, because the class is left out.
    pub cancelled: u64,
}

/// What the policy would bring forward, put off and void, by data class. Nothing for a class that it does not change.
///
/// # Errors
/// Those of the database.
pub async fn consequences(conn: &mut PgConnection, policy: &Policy) -> Result<Vec<Consequence>, DatabaseError> {
    let now: DateTime<Utc> = sqlx::query_scalar("select now()").fetch_one(&mut *conn).await?;
    let mut found = Vec::new();
    for class in &policy.classes {
        let mut consequence = Consequence { class: format!("{}/{}", class.jobs.feature, class.jobs.name), ..Consequence::default() };
        // What is deleted on request is deleted whatever the rules say.
        for row in standing(&mut *conn, class).await?.into_iter().filter(|row| !row.on_request) {
            let Some((retain_until, _)) = class.rule.dates(row.since) else { continue };
            let more = match row.scheduled_until {
                None => {
                    consequence.new += 1;
                    true
                }
                Some(until) => {
                    consequence.sooner += u64::from(retain_until < until);
                    consequence.later += u64::from(retain_until > until);
                    retain_until < until
                }
            };
            consequence.due_at_once += u64::from(more && retain_until <= now);
        }
        found.push(consequence);
    }
    let open: Vec<(String, String, i64)> =
        sqlx::query_as("select j.feature, j.data_class, count(*) from retention.jobs j group by 1, 2 order by 1, 2")
            .fetch_all(conn)
            .await?;
    let listed = |feature: &str, name: &str| policy.classes.iter().any(|c| c.jobs.feature == feature && c.jobs.name == name);
    for (feature, name, jobs) in open.into_iter().filter(|(feature, name, _)| !listed(feature, name)) {
        found.push(Consequence { class: format!("{feature}/{name}"), cancelled: jobs.unsigned_abs(), ..Consequence::default() });
    }
    found.retain(|c| *c != Consequence { class: c.class.clone(), ..Consequence::default() });
    Ok(found)
}

/// Fills in how many records each job would delete: always for what is due, for the rest while there are few enough.
async fn count(conn: &mut PgConnection, policy: &Policy, planned: &mut [(usize, Planned)]) -> Result<(), DatabaseError> {
    let all = planned.len() <= COUNT_ALL_UP_TO;
    let deadline = Instant::now() + OTHERS;
    for (index, class) in policy.classes.iter().enumerate() {
        let mut jobs: Vec<&mut Planned> =
            planned.iter_mut().filter(|(i, job)| *i == index && (all || job.due)).map(|(_, job)| job).collect();
        for slice in jobs.chunks_mut(SLICE) {
            let accounts: Vec<String> = slice.iter().map(|j| j.account_id.clone()).collect();
            for (at, target) in class.targets.iter().enumerate() {
                let counts = postgres::count(&mut *conn, target, &accounts).await?;
                for job in slice.iter_mut() {
                    if let Some(slot) = job.targets.get_mut(at) {
                        slot.records = Some(counts.get(&job.account_id).copied().unwrap_or(0));
                    }
                }
            }
        }
        for job in jobs {
            let counts = stores::count(&class.remote, &job.account_id, deadline).await;
            for slot in &mut job.targets {
                slot.records = slot.records.or(counts.get(&slot.name).copied());
            }
        }
    }
    Ok(())
}

/// What requests that stand ask of one class. Whatever else stands is planned beside it, for that goes on standing.
async fn asked(conn: &mut PgConnection, class: &Class, now: DateTime<Utc>) -> Result<Vec<Planned>, DatabaseError> {
    let query = format!(
        "select p.account_id, p.accepted_at, min(p.due_by), {} as held from {} p where {} and {} group by p.account_id, p.feature, p.data_class, p.accepted_at",
        held("p"),
        requests::parts(),
        class.jobs.of("p"),
        class.jobs.is_ours("p")
    );
    let rows: Vec<(String, DateTime<Utc>, DateTime<Utc>, bool)> = sqlx::query_as(AssertSqlSafe(query)).fetch_all(conn).await?;
    let planned = rows.into_iter().map(|(account_id, accepted_at, due_by, held)| Planned {
        account_id,
        feature: class.jobs.feature.clone(),
        data_class: class.jobs.name.clone(),
        starting_point: REQUEST.to_owned(),
        started_at: accepted_at,
        retain_until: accepted_at,
        delete_by: due_by,
        due: accepted_at <= now,
        held,
        targets: class.target_names().into_iter().map(|name| PlannedTarget { name, records: None }).collect(),
    });
    Ok(planned.collect())
}

/// The answer of `explain`.
#[derive(Debug, Serialize, ToSchema)]
pub struct Explanation {
    /// The account.
    pub account_id: String,
    /// The database's clock.
    #[serde(serialize_with = "model::serialize_instant")]
    pub now: DateTime<Utc>,
    /// One entry for each data class.
    pub classes: Vec<ClassExplanation>,
}

/// What one data class of the account awaits.
#[derive(Debug, Serialize, ToSchema)]
pub struct ClassExplanation {
    /// The feature.
    pub feature: String,
    /// The data class.
    pub data_class: String,
    /// Each starting point and what the source says about it.
    pub starting_points: BTreeMap<String, String>,
    /// The earliest that stands.
    pub starting_point: Option<String>,
    /// Its instant.
    #[serde(serialize_with = "model::serialize_optional_instant")]
    pub started_at: Option<DateTime<Utc>>,
    /// Nothing is deleted before.
    #[serde(serialize_with = "model::serialize_optional_instant")]
    pub retain_until: Option<DateTime<Utc>>,
    /// Late after this.
    #[serde(serialize_with = "model::serialize_optional_instant")]
    pub delete_by: Option<DateTime<Utc>>,
    /// What stands in the way.
    pub blocked_by: Vec<String>,
    /// What happens next, in a sentence.
    pub next: String,
    /// The jobs there are and were, newest first.
    pub jobs: Vec<Job>,
    /// Records there are now, by target.
    pub records: BTreeMap<String, i64>,
}

/// For each data class: what stands, since when, both dates, what blocks it, what happens next.
///
/// # Errors
/// Those of the database.
pub async fn explain(conn: &mut PgConnection, policy: &Policy, mode: Mode, account: &str) -> Result<Explanation, DatabaseError> {
    let now: DateTime<Utc> = sqlx::query_scalar("select now()").fetch_one(&mut *conn).await?;
    let guard = safeguards::guard(&mut *conn).await?;
    let accounts = [account.to_owned()];
    let known = requests::list(&mut *conn, &requests::Filter { account: Some(account.to_owned()), ..requests::Filter::default() }).await?;
    let mut classes = Vec::new();
    for class in &policy.classes {
        let observations = class.source.observe(&mut *conn, &accounts).await?;
        let state = |point: usize| observations.iter().find(|o| o.point == point).map_or(&PointState::Missing, |o| &o.state);
        let points: Vec<_> = class.source.points().iter().map(|p| (p.index, p.name.clone(), state(p.index).clone())).collect();
        let earliest = points
            .iter()
            .filter_map(|(_, name, state)| match state {
                PointState::Since(since) | PointState::Vanished(since) => Some((*since, name.clone())),
                PointState::Missing | PointState::NotSet | PointState::Implausible(_) => None,
            })
            .min_by_key(|(since, _)| *since);
        let filter = Filter { account: Some(account.to_owned()), data_class: Some(class.jobs.name.clone()), ..Filter::default() };
        let jobs: Vec<Job> = jobs::list(&mut *conn, &filter).await?.into_iter().filter(|j| j.feature == class.jobs.feature).collect();
        let open = jobs.iter().find(|j| j.state == "scheduled" || j.state == "running");
        let states: Vec<_> = points.iter().map(|(index, _, state)| (*index, state.clone())).collect();
        let asked = on_request(&mut *conn, policy, class, &states, account, open).await?;
        let dates = asked.map(|asked| (asked.accepted_at, asked.due_by));
        let earliest = asked.map(|asked| (asked.accepted_at, REQUEST.to_owned())).or(earliest);
        let dates = dates.or(earliest.as_ref().and_then(|(since, _)| class.rule.dates(*since)));
        let mut records = BTreeMap::new();
        for target in &class.targets {
            let count = postgres::count(&mut *conn, target, &accounts).await?.get(account).copied().unwrap_or(0);
            records.insert(target.name.clone(), count);
        }
        records.extend(stores::count(&class.remote, account, Instant::now() + OTHERS).await);
        let mut blocked_by = Vec::new();
        if mode == Mode::Observe {
            blocked_by.push("mode is observe: nothing is deleted".to_owned());
        }
        if let Some(job) = open {
            blocked_by.extend(blockers(&mut *conn, job, &guard).await?);
        }
        let retain_until = open.map(|j| j.retain_until).or(dates.map(|d| d.0));
        let next = next(now, earliest.as_ref(), retain_until, open, jobs.first().filter(|_| asked.is_none()), &blocked_by);
        classes.push(ClassExplanation {
            feature: class.jobs.feature.clone(),
            data_class: class.jobs.name.clone(),
            starting_points: points.iter().map(|(_, name, state)| (name.clone(), words(state))).chain(told(class, &known)).collect(),
            starting_point: earliest.as_ref().map(|(_, name)| name.clone()),
            started_at: earliest.as_ref().map(|(since, _)| *since),
            retain_until,
            delete_by: open.map(|j| j.delete_by).or(dates.map(|d| d.1)),
            blocked_by,
            next,
            jobs,
            records,
        });
    }
    Ok(Explanation { account_id: account.to_owned(), now, classes })
}

/// The request that decides about the account, if one does.
async fn on_request(
    conn: &mut PgConnection,
    policy: &Policy,
    class: &Class,
    states: &[(usize, PointState)],
    account: &str,
    open: Option<&Job>,
) -> Result<Option<Asked>, DatabaseError> {
    let accounts = [account.to_owned()];
    let asked = requests::asked(&mut *conn, &class.jobs.feature, &class.jobs.name, &accounts).await?.remove(account).unwrap_or_default();
    let done = jobs::done(conn, &class.jobs, &accounts).await?;
    let open = open.map(|job| Open {
        starting_point: job.starting_point.clone(),
        started_at: job.started_at,
        policy: job.policy.clone(),
        began: job.purge_began_at.is_some(),
    });
    let accepted: Vec<_> = asked.iter().map(|asked| asked.accepted_at).collect();
    let stands = retention::stands(class.as_rule(&policy.points), states, &accepted, open.as_ref(), done.get(account));
    let since = stands.filter(|stands| stands.start == Start::Request).map(|stands| stands.since);
    Ok(asked.into_iter().filter(|asked| Some(asked.accepted_at) == since).min_by_key(|asked| asked.due_by))
}

/// What is to be said of the requests that cover the class and are not over, under the name of their starting point.
fn told(class: &Class, known: &[Request]) -> Option<(String, String)> {
    let covers = |request: &&Request| {
        request.feature.as_ref().is_none_or(|feature| *feature == class.jobs.feature)
            && request.data_class.as_ref().is_none_or(|name| *name == class.jobs.name)
    };
    let words = |request: &Request| match (request.state.as_str(), request.accepted_at, request.due_by) {
        ("waiting", ..) => Some(format!("request {} by {} waits for another person to approve it", request.id, request.requested_by)),
        ("accepted", Some(at), Some(due)) => {
            Some(format!("request {} by {} accepted at {}, due by {}", request.id, request.requested_by, rfc3339(at), rfc3339(due)))
        }
        _ => None,
    };
    let said: Vec<String> = known.iter().filter(covers).filter_map(words).collect();
    (!said.is_empty()).then(|| (REQUEST.to_owned(), said.join("; ")))
}

fn words(state: &PointState) -> String {
    match state {
        PointState::Missing => "no row in the source".to_owned(),
        PointState::Vanished(since) => format!("its row has vanished; counts since it was first missed, {}", rfc3339(*since)),
        PointState::NotSet => "not in force".to_owned(),
        PointState::Since(since) => format!("in force since {}", rfc3339(*since)),
        PointState::Implausible(value) => format!("quarantined: {value} is no plausible instant"),
    }
}

async fn blockers(conn: &mut PgConnection, job: &Job, guard: &GuardState) -> Result<Vec<String>, DatabaseError> {
    let mut found: Vec<String> = sqlx::query_scalar(
        "select 'hold ' || h.id || ' placed by ' || h.placed_by || ': ' || h.reason from retention.holds h
         where h.account_id = $1 and h.released_at is null and (h.until is null or h.until > now())
           and (h.feature is null or h.feature = $2) and (h.data_class is null or h.data_class = $3)
         union all
         select 'pause ' || p.id || ' by ' || p.paused_by || ': ' || p.reason from retention.pauses p
         where p.resumed_at is null and (p.account_id is null or p.account_id = $1) and (p.data_class is null or p.data_class = $3)",
    )
    .bind(&job.account_id)
    .bind(&job.feature)
    .bind(&job.data_class)
    .fetch_all(conn)
    .await?;
    if guard.tripped {
        found.push(format!("the guard: {}", guard.reason.as_deref().unwrap_or("tripped")));
    }
    match job.blocked_by.as_deref() {
        Some("locked") => found.push("somebody holds its records or its source row".to_owned()),
        Some("missing") => {
            found.push("its source row is missing; vanishing withdraws nothing, and nothing is deleted until that is settled".to_owned());
        }
        Some("changed") => found.push("its starting point changed; the next look settles it".to_owned()),
        Some("settling") => found.push("another store has to be looked at again after a while, to be sure".to_owned()),
        Some("undeletable") => found.push("its records do not go: a trigger or rule swallows the DELETE".to_owned()),
        Some(_) | None => {}
    }
    if let Some(error) = &job.last_error {
        found.push(format!("last error: {error}"));
    }
    Ok(found)
}

fn next(
    now: DateTime<Utc>,
    earliest: Option<&(DateTime<Utc>, String)>,
    retain_until: Option<DateTime<Utc>>,
    open: Option<&Job>,
    last: Option<&Job>,
    blocked_by: &[String],
) -> String {
    match (earliest, open, retain_until) {
        (None, None, _) => "nothing: no starting point stands".to_owned(),
        (None, Some(_), _) => "the next look cancels the job, unless its source row has vanished".to_owned(),
        (Some(_), None, _) if last.is_some_and(|j| j.state == "completed") => {
            "nothing: it was purged, and a separate look found nothing left".to_owned()
        }
        (Some(_), None, _) => "the next look schedules a job".to_owned(),
        (Some(_), Some(_), Some(at)) if at > now => format!("purged at {}", rfc3339(at)),
        (Some(_), Some(_), _) if blocked_by.is_empty() => "purged now".to_owned(),
        (Some(_), Some(_), _) => "purged as soon as nothing stands in the way".to_owned(),
    }
}

/// The policy as `status` shows it.
#[derive(Debug, Serialize, ToSchema)]
pub struct PolicyState {
    /// Fingerprint of the policy that the configuration asks for.
    pub hash: String,
    /// Fingerprint of the policy in force; none before the first.
    pub accepted: Option<String>,
    /// Another policy is in force: nothing is planned or purged under this configuration.
    pub waiting: bool,
}

/// The answer of `status`.
#[derive(Debug, Serialize, ToSchema)]
pub struct Status {
    /// Whether the daemon would delete or only report.
    pub mode: Mode,
    /// Everything is paused.
    pub paused: bool,
    /// The guard.
    pub guard: GuardState,
    /// The policy of the configuration against the one in force.
    pub policy: PolicyState,
    /// Jobs, counted.
    pub jobs: Tally,
    /// Requests that are not over, counted.
    pub requests: requests::Tally,
    /// The last look at the source, of either kind.
    #[serde(serialize_with = "model::serialize_optional_instant")]
    pub last_poll_at: Option<DateTime<Utc>>,
    /// The last full comparison.
    #[serde(serialize_with = "model::serialize_optional_instant")]
    pub last_resync_at: Option<DateTime<Utc>>,
    /// Open jobs past `retain_until` or soonest to be, with their dates.
    #[serde(serialize_with = "model::serialize_optional_instant")]
    pub earliest_unmet_deadline: Option<DateTime<Utc>>,
    /// Records that cannot be acted on, a hundred at most.
    pub quarantined: Vec<Quarantined>,
}

/// A record that cannot be acted on.
#[derive(Debug, FromRow, Serialize, ToSchema)]
pub struct Quarantined {
    /// The account.
    pub account_id: String,
    /// The feature.
    pub feature: String,
    /// The data class.
    pub data_class: String,
    /// The starting point whose value is impossible.
    pub starting_point: String,
    /// What is wrong.
    pub problem: String,
    /// Since when.
    #[serde(serialize_with = "model::serialize_instant")]
    pub first_seen_at: DateTime<Utc>,
}

/// Mode, last look, jobs by state, and what stands in the way.
///
/// # Errors
/// Those of the database.
pub async fn status(conn: &mut PgConnection, mode: Mode, terms: &Terms) -> Result<Status, DatabaseError> {
    let jobs = jobs::tally(&mut *conn).await?;
    status_with(conn, mode, terms, jobs).await
}

/// The same, with jobs that were counted elsewhere.
///
/// # Errors
/// Those of the database.
pub async fn status_with(conn: &mut PgConnection, mode: Mode, terms: &Terms, jobs: Tally) -> Result<Status, DatabaseError> {
    let looks = jobs::looks(&mut *conn).await?;
    let hash = terms.hash();
    let accepted = agreement::accepted(&mut *conn).await?.map(|accepted| accepted.hash);
    let waiting = accepted.as_ref().is_some_and(|accepted| *accepted != hash);
    Ok(Status {
        mode,
        paused: safeguards::paused_globally(&mut *conn).await?,
        guard: safeguards::guard(&mut *conn).await?,
        policy: PolicyState { hash, accepted, waiting },
        jobs,
        requests: requests::tally(&mut *conn).await?,
        last_poll_at: looks.polled_at.max(looks.resynced_at),
        last_resync_at: looks.resynced_at,
        earliest_unmet_deadline: sqlx::query_scalar("select min(delete_by) from retention.jobs")
            .fetch_one(&mut *conn)
            .await?,
        quarantined: sqlx::query_as(
            "select account_id, feature, data_class, starting_point, problem, first_seen_at from retention.quarantine order by first_seen_at, id limit 100",
        )
        .fetch_all(conn)
        .await?,
    })
}
