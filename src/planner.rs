//! The pass that keeps the job table in step with the source: what stands is compared with what is scheduled (level-triggered).
//!
//! Two looks nominate accounts, one function settles them. The cheap look reads what was dated lately; the full comparison reads everything, and
//! correctness rests on it. Nothing here deletes a record.

mod missing;
mod nominate;
mod stride;
mod tell;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{AssertSqlSafe, PgConnection};

use crate::{
    catalog::{self, Layout},
    clock::{self, Clock},
    config::Config,
    crash,
    database::{self, Database, DatabaseError, Kind, Purpose, Tx},
    jobs::{self, OpenJob, Plan, Unlisted},
    model::rfc3339,
    policy::{Class, Policy},
    requests::{self, Asked},
    retention::{self, CancelReason, Decision, PointState, Standing, Start},
    safeguards::{
        self, agreement,
        forecast::{self, Forecast, News},
        server::{self, Server},
    },
    spans,
    sql::literal,
    stores::postgres,
};

use stride::Stride;

pub use tell::look as tell_look;

/// Between two looks ahead at what polls have scheduled: it reads every open job.
const FORECAST_PAUSE: Duration = Duration::from_mins(5);
/// Accounts settled in one transaction.
const PAGE: i64 = 2_000;
/// Rows that one slice of a full comparison reads at least, where there are so many, and at most.
const SHORTEST: i64 = 8_000;
const LONGEST: i64 = 64_000;

fn page() -> usize {
    usize::try_from(PAGE).unwrap_or(usize::MAX)
}

/// Which look it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Look {
    /// What was dated lately.
    Poll,
    /// Everything, whatever was seen before.
    Resync,
}

impl Look {
    /// The word in the log and in `retention.passes`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Poll => "poll",
            Self::Resync => "resync",
        }
    }
}

/// What a look came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Accounts that were settled.
    pub settled: u64,
    /// New jobs.
    pub scheduled: u64,
    /// Open jobs with a new plan.
    pub rescheduled: u64,
    /// Voided jobs.
    pub cancelled: u64,
    /// Records newly quarantined.
    pub quarantined: u64,
}

impl Report {
    fn add(&mut self, other: &Self) {
        self.settled += other.settled;
        self.scheduled += other.scheduled;
        self.rescheduled += other.rescheduled;
        self.cancelled += other.cancelled;
        self.quarantined += other.quarantined;
    }

    fn changed(&self) -> bool {
        self.scheduled + self.rescheduled + self.cancelled + self.quarantined > 0
    }
}

/// What a look begins with.
struct Opening {
    look: Look,
    /// The database goes on on a new timeline.
    promoted: bool,
    began: DateTime<Utc>,
    /// What a poll reaches back to.
    since: Option<DateTime<Utc>>,
}

/// The planner.
#[derive(Debug, Clone)]
pub struct Planner {
    database: Database,
    config: Arc<Config>,
    layout: Arc<Layout>,
    policy: Arc<Policy>,
    clock: Arc<Clock>,
    /// When the guard last looked ahead.
    forecast_at: Arc<Mutex<Option<Instant>>>,
}

impl Planner {
    /// A planner for this policy.
    #[must_use]
    pub fn new(database: Database, config: Arc<Config>, layout: Arc<Layout>, policy: Arc<Policy>, clock: Arc<Clock>) -> Self {
        Self { database, config, layout, policy, clock, forecast_at: Arc::default() }
    }

    /// Which look is due: the first after a start and every `resync_interval` is a full comparison.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn due_look(&self) -> Result<Look, DatabaseError> {
        let mut tx = self.database.begin(Purpose::Read).await?;
        let fresh: Option<bool> = sqlx::query_scalar(
            "select succeeded_at + make_interval(secs => $1) > now() and succeeded_at <= now() from retention.passes where kind = 'resync'",
        )
        .bind(self.config.poll.resync_interval.as_secs_f64())
        .fetch_optional(&mut *tx)
        .await
        .map_err(DatabaseError::from)?;
        Ok(if fresh == Some(true) { Look::Poll } else { Look::Resync })
    }

    /// Looks at the source and settles what differs. Idempotent; a look that fails leaves what it has settled, and is taken again.
    ///
    /// # Errors
    /// Those of the database. An account that alone cannot be settled is quarantined instead.
    pub async fn look(&self, look: Look) -> Result<Report, DatabaseError> {
        spans::look(look.as_str(), Box::pin(self.taken(look)), |report| report.settled).await
    }

    async fn taken(&self, look: Look) -> Result<Report, DatabaseError> {
        let mut report = Report::default();
        let Opening { look, promoted, began, since } = self.open(look).await?;
        match (look, since) {
            (Look::Poll, Some(since)) => self.poll(since, &mut report).await?,
            // A poll that has nothing to reach back to compares everything.
            (Look::Poll, None) => self.walk_all(&mut report).await?,
            (Look::Resync, _) => {
                self.miss().await?;
                self.cancel_unlisted(&mut report).await?;
                self.walk_all(&mut report).await?;
                for class in &self.policy.classes {
                    report.quarantined += self.quarantine(class, began).await?;
                }
            }
        }
        crash::point("planner.looked");
        self.note(look, began).await?;
        crash::point("planner.noted");
        if promoted {
            server::remember_timeline(&self.database).await?;
        }
        self.look_ahead(look, &report).await;
        Ok(report)
    }

    /// A transaction that reads one slice; it ends when a table is not the one that was checked at the start.
    async fn slice(&self, by_index: bool) -> Result<Tx, DatabaseError> {
        let mut tx = self.database.begin(if by_index { Purpose::Slice } else { Purpose::Compare }).await?;
        catalog::unmoved(&mut tx, &self.policy.pinned).await?;
        Ok(tx)
    }

    /// One statement for all classes of a feature: what was dated lately is read once for them.
    async fn poll(&self, since: DateTime<Utc>, report: &mut Report) -> Result<(), DatabaseError> {
        let mut nominated = Vec::new();
        for classes in self.policy.classes.chunk_by(|one, next| one.jobs.feature == next.jobs.feature) {
            let mut tx = self.slice(classes.iter().all(|class| class.source.indexed() && class.source.dated())).await?;
            let recent: Vec<(String, Vec<String>)> =
                sqlx::query_as(AssertSqlSafe(nominate::recent(classes))).bind(since).fetch_all(&mut *tx).await?;
            let all = recent.len() > page();
            nominated.extend(classes.iter().map(|class| {
                let of_class = recent.iter().filter(|(_, names)| names.contains(&class.jobs.name)).map(|(account, _)| account.clone());
                (class, (!all).then(|| of_class.collect::<BTreeSet<_>>()))
            }));
        }
        crash::point("planner.polled");
        for (class, accounts) in nominated {
            match accounts {
                Some(accounts) => self.settle_all(class, &accounts.into_iter().collect::<Vec<_>>(), report).await?,
                None => self.walk(class, nominate::all_recent(class, &since.to_rfc3339()), report).await?,
            }
        }
        Ok(())
    }

    async fn walk_all(&self, report: &mut Report) -> Result<(), DatabaseError> {
        for class in &self.policy.classes {
            self.walk(class, nominate::everything(class), report).await?;
        }
        Ok(())
    }

    async fn walk(&self, class: &Class, walks: Vec<nominate::Walk>, report: &mut Report) -> Result<(), DatabaseError> {
        for walk in walks {
            let (mut at, mut stride) = (walk.from.clone(), Stride::new(SHORTEST, LONGEST));
            loop {
                let limit = stride.now;
                stride.begin();
                let mut tx = self.slice(!walk.whole).await?;
                let [first, second] = at;
                let (rows, first, second, mut accounts): (i64, Option<String>, Option<String>, Vec<String>) =
                    sqlx::query_as(AssertSqlSafe(walk.slice(limit))).bind(first).bind(second).fetch_one(&mut *tx).await?;
                drop(tx);
                stride.end();
                at = [first, second];
                // One order, and each account once: it may have several rows.
                accounts.sort_unstable();
                accounts.dedup();
                crash::point("planner.opened");
                self.settle_all(class, &accounts, report).await?;
                if walk.whole || rows < limit {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Before anything is concluded from what the database says: its clock goes on as ours does, and the server is the one the guard was made for. After
    /// a promotion everything is compared: what was seen last may be undone. A standby refuses, because this transaction could write.
    async fn open(&self, look: Look) -> Result<Opening, DatabaseError> {
        let before = clock::reading();
        let mut tx = self.database.begin(Purpose::Write).await?;
        let (began, since): (DateTime<Utc>, Option<DateTime<Utc>>) =
            sqlx::query_as("select now(), max(watermark) - make_interval(secs => $1) from retention.passes")
                .bind(self.config.poll.overlap.as_secs_f64())
                .fetch_one(&mut *tx)
                .await?;
        if let Some(jump) = self.clock.observe(before, began) {
            drop(tx);
            return safeguards::clock_jumped(&self.database, &self.clock, jump).await;
        }
        let seen = server::recognize(&mut tx).await?;
        Database::commit(tx).await?;
        let (look, promoted) = match seen {
            Server::Known => (look, false),
            Server::Promoted => {
                tracing::warn!(event = "database.promoted", "the database goes on on a new timeline; everything is compared anew");
                (Look::Resync, true)
            }
            Server::Another(reason) => {
                safeguards::tell_tripped(&reason);
                (Look::Resync, false)
            }
        };
        Ok(Opening { look, promoted, began, since })
    }

    /// Lets the guard see what was scheduled: after each full comparison, and after polls as far as it has not looked for a while. It is a warning,
    /// and stops nothing when it fails.
    async fn look_ahead(&self, look: Look, report: &Report) {
        let looked = |at: &Option<Instant>| at.is_some_and(|at| at.elapsed() < FORECAST_PAUSE);
        let due = look == Look::Resync || (report.changed() && !self.forecast_at.lock().is_ok_and(|at| looked(&at)));
        if !due {
            return;
        }
        let news = async {
            let mut tx = self.database.begin(Purpose::Bulk).await?;
            let news = forecast::look_ahead(&mut tx, &self.config.guard).await?;
            Database::commit(tx).await?;
            Ok::<_, DatabaseError>(news)
        };
        match news.await {
            Ok(News::None) => {}
            Ok(News::Exceeds(Forecast { at, reason })) => {
                tracing::warn!(
                    event = "guard.forecast",
                    at = rfc3339(at),
                    reason,
                    "the guard will stop the start of purges unless somebody acts before"
                );
            }
            Ok(News::Cleared) => tracing::info!(event = "guard.clear", "nothing that is scheduled would exceed a limit any more"),
            Err(error) => tracing::warn!(event = "forecast.failed", error = %error, "the guard could not look ahead; it will again"),
        }
        if let Ok(mut at) = self.forecast_at.lock() {
            *at = Some(Instant::now());
        }
    }

    /// Nobody waits for the disk: whoever finds an older note after a crash reaches further back.
    async fn note(&self, look: Look, began: DateTime<Utc>) -> Result<(), DatabaseError> {
        let mut tx = self.database.begin(Purpose::Write).await?;
        sqlx::query(
            "insert into retention.passes (kind, succeeded_at, watermark)
             select $1, clock_timestamp(), $2 from set_config('synchronous_commit', 'off', true)
             on conflict (kind) do update set succeeded_at = excluded.succeeded_at, watermark = case when passes.watermark <= now() then greatest(passes.watermark, excluded.watermark) else excluded.watermark end",
        )
        .bind(look.as_str())
        .bind(began)
        .execute(&mut *tx)
        .await?;
        Database::commit(tx).await
    }

    /// Settles accounts, two pages at a time: while the server works on one, the other is decided. What fits into one page becomes known at one instant, so
    /// that the guard weighs it as a whole.
    async fn settle_all(&self, class: &Class, accounts: &[String], report: &mut Report) -> Result<(), DatabaseError> {
        for pair in accounts.chunks(2 * page()) {
            let (one, two) = pair.split_at(page().min(pair.len()));
            let mut beside = Report::default();
            let settled =
                tokio::join!(self.settle_or_isolate(class, one.to_vec(), report), self.settle_or_isolate(class, two.to_vec(), &mut beside));
            report.add(&beside);
            settled.0.and(settled.1)?;
        }
        Ok(())
    }

    /// Settles a page; when the page as a whole cannot be settled, its halves, so that one bad record stops only itself (I6) and costs few
    /// transactions.
    async fn settle_or_isolate(&self, class: &Class, mut page: Vec<String>, report: &mut Report) -> Result<(), DatabaseError> {
        if page.is_empty() {
            return Ok(());
        }
        report.settled += page.len() as u64;
        // In one order, so that two planners which settle the same accounts wait for each other and never in a circle.
        page.sort_unstable();
        let mut groups = vec![page];
        let mut note_seen = true;
        while let Some(mut group) = groups.pop() {
            match self.settle(class, &group, note_seen, report).await {
                // What targets hold now is good to know; a target that takes too long to say keeps nobody from being scheduled (I9).
                Err(error) if error.kind() == Kind::Timeout && note_seen => {
                    note_seen = false;
                    groups.push(group);
                }
                Err(error) if matches!(error.kind(), Kind::Other | Kind::Timeout) && group.len() > 1 => {
                    let half = group.split_off(group.len() / 2);
                    groups.push(half);
                    groups.push(group);
                }
                Err(error) if error.kind() == Kind::Other => {
                    for account in group {
                        report.quarantined += self.quarantine_one(class, &account, &error.to_string()).await?;
                    }
                }
                done => done?,
            }
        }
        Ok(())
    }

    /// Decides about each account from what stands now and what is scheduled now, in one transaction, and says so in the log once it has committed.
    async fn settle(&self, class: &Class, accounts: &[String], note_seen: bool, report: &mut Report) -> Result<(), DatabaseError> {
        let mut tx = self.database.begin(Purpose::Write).await?;
        agreement::hold_to(&mut tx, &class.jobs.accepted).await?;
        if class.indexed() {
            // A page of accounts is little beside the tables; the planner's guess of it would read all of them for each page.
            database::only_by_index(&mut tx).await?;
        }
        let (open, busy) = jobs::lock_open(&mut tx, &class.jobs, accounts).await?;
        let mut open: BTreeMap<String, OpenJob> = open.into_iter().map(|j| (j.account_id.clone(), j)).collect();
        let done = jobs::done(&mut tx, &class.jobs, accounts).await?;
        let mut states = self.states(&mut tx, class, accounts).await?;
        let mut asked = requests::asked(&mut tx, &class.jobs.feature, &class.jobs.name, accounts).await?;
        let rule = class.as_rule(&self.policy.points);
        let (mut new, mut moved, mut void, mut forgotten) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for account in accounts.iter().filter(|a| !busy.contains(a)) {
            let states = states.remove(account).unwrap_or_default();
            let asked = asked.remove(account).unwrap_or_default();
            let job = open.remove(account);
            let as_open = job.as_ref().map(OpenJob::as_open);
            let accepted: Vec<_> = asked.iter().map(|asked| asked.accepted_at).collect();
            match (retention::decide(rule, &states, &accepted, as_open.as_ref(), done.get(account)), job) {
                (Decision::Schedule(standing), None) => new.extend(self.plan(class, account, standing, &states, &asked)),
                (Decision::Reschedule(standing), Some(job)) => {
                    if let Some(plan) = self.plan(class, account, standing, &states, &asked) {
                        moved.push((job, plan));
                    }
                }
                (Decision::Cancel(reason), Some(job)) => {
                    void.push((job, reason));
                    // An older mark would answer for a point that is set to the mark's instant again. What was carried out before a request goes on
                    // being so when that is withdrawn.
                    if reason != CancelReason::Withdrawn || retention::stands(rule, &states, &accepted, None, done.get(account)).is_none() {
                        forgotten.push(account.clone());
                    }
                }
                (Decision::Forget, None) => forgotten.push(account.clone()),
                (Decision::Keep | Decision::Forget | Decision::Schedule(_), _) | (Decision::Reschedule(_) | Decision::Cancel(_), None) => {}
            }
        }
        if note_seen {
            self.note_seen(&mut tx, class, &mut new).await?;
        }
        let scheduled =
            if new.is_empty() { BTreeMap::new() } else { jobs::schedule(&mut tx, &class.jobs, &class.target_names(), &new).await? };
        let rescheduled = if moved.is_empty() { Vec::new() } else { jobs::reschedule(&mut tx, &class.jobs, &moved).await? };
        let reasons: Vec<_> = void.iter().map(|(job, reason)| (job.clone(), reason.as_str())).collect();
        let cancelled = if void.is_empty() { Vec::new() } else { jobs::cancel(&mut tx, &reasons).await? };
        if !forgotten.is_empty() {
            jobs::forget(&mut tx, &class.jobs, &forgotten).await?;
        }
        crash::point("planner.settling");
        Database::commit(tx).await?;
        crash::point("planner.settled");

        for plan in &new {
            if let Some(id) = scheduled.get(&plan.account_id) {
                tell::planned("job.scheduled", "scheduled", class, *id, plan);
            }
        }
        for (job, plan) in moved.iter().filter(|(job, _)| rescheduled.contains(&job.id)) {
            tell::planned(
                "job.rescheduled",
                "another starting point counts, a request came or went, or the rule changed",
                class,
                job.id,
                plan,
            );
        }
        for (job, reason) in void.iter().filter(|(job, _)| cancelled.contains(&job.id)) {
            tell::cancelled(&class.jobs.feature, &class.jobs.name, job, *reason);
        }
        report.scheduled += scheduled.len() as u64;
        report.rescheduled += rescheduled.len() as u64;
        report.cancelled += cancelled.len() as u64;
        Ok(())
    }

    /// Cancels the open jobs of classes that the policy does not have any more (R11).
    async fn cancel_unlisted(&self, report: &mut Report) -> Result<(), DatabaseError> {
        let classes: Vec<&jobs::Class> = self.policy.classes.iter().map(|c| &c.jobs).collect();
        let Some(first) = classes.first() else { return Ok(()) };
        loop {
            let mut tx = self.database.begin(Purpose::Write).await?;
            agreement::hold_to(&mut tx, &first.accepted).await?;
            let unlisted = jobs::lock_unlisted(&mut tx, &classes, PAGE).await?;
            if unlisted.is_empty() {
                return Ok(());
            }
            let void: Vec<_> = unlisted.iter().map(|u| (u.job.clone(), CancelReason::Policy.as_str())).collect();
            report.cancelled += jobs::cancel(&mut tx, &void).await?.len() as u64;
            Database::commit(tx).await?;
            for Unlisted { feature, data_class, job } in &unlisted {
                tell::cancelled(feature, data_class, job, CancelReason::Policy);
            }
        }
    }

    async fn states(
        &self,
        conn: &mut PgConnection,
        class: &Class,
        accounts: &[String],
    ) -> Result<BTreeMap<String, Vec<(usize, PointState)>>, DatabaseError> {
        // Every point starts as missing; what the source has a row for is filled in.
        let missing: Vec<_> = class.source.points().iter().map(|p| (p.index, PointState::Missing)).collect();
        let mut states: BTreeMap<String, Vec<(usize, PointState)>> = accounts.iter().map(|a| (a.clone(), missing.clone())).collect();
        for observation in class.source.observe(conn, accounts).await? {
            let slot = states.get_mut(&observation.account_id).and_then(|s| s.iter_mut().find(|(point, _)| *point == observation.point));
            if let Some(slot) = slot {
                slot.1 = observation.state;
            }
        }
        Ok(states)
    }

    fn plan(&self, class: &Class, account: &str, standing: Standing, states: &[(usize, PointState)], asked: &[Asked]) -> Option<Plan> {
        let (retain_until, delete_by) = match standing.start {
            Start::Point(_) => class.rule.dates(standing.since)?,
            Start::Request => {
                let due_by = asked.iter().filter(|asked| asked.accepted_at == standing.since).map(|asked| asked.due_by).min()?;
                // What was promised for a starting point that stands as well stays promised.
                let promised = states.iter().filter_map(|(_, state)| match state {
                    PointState::Since(since) => class.rule.dates(*since).map(|(_, delete_by)| delete_by),
                    PointState::Missing | PointState::Vanished(_) | PointState::NotSet | PointState::Implausible(_) => None,
                });
                (standing.since, promised.fold(due_by, DateTime::min).max(standing.since))
            }
        };
        let starting_point = standing.start.name(&self.policy.points)?.to_owned();
        Some(Plan { account_id: account.to_owned(), starting_point, started_at: standing.since, retain_until, delete_by, seen: None })
    }

    /// Notes which targets hold records now, so that "already gone" and "never existed" can be told apart later (R27).
    async fn note_seen(&self, conn: &mut PgConnection, class: &Class, plans: &mut [Plan]) -> Result<(), DatabaseError> {
        if plans.is_empty() {
            return Ok(());
        }
        let accounts: Vec<String> = plans.iter().map(|p| p.account_id.clone()).collect();
        let mut seen = postgres::seen(conn, &class.targets, &accounts).await?;
        for plan in plans {
            plan.seen = seen.remove(&plan.account_id);
        }
        Ok(())
    }

    /// Notes every impossible value, and forgets those that have been mended. Each is logged once.
    async fn quarantine(&self, class: &Class, began: DateTime<Utc>) -> Result<u64, DatabaseError> {
        let mut tx = self.database.begin(Purpose::Bulk).await?;
        catalog::unmoved(&mut tx, &self.policy.pinned).await?;
        if class.source.dated() {
            database::only_by_index(&mut tx).await?;
        }
        let (feature, name) = (literal(&class.jobs.feature), literal(&class.jobs.name));
        let new: Vec<(String, String, String, bool)> = sqlx::query_as(AssertSqlSafe(format!(
            "insert into retention.quarantine (account_id, feature, data_class, starting_point, problem)
             select i.account_id, {feature}, {name}, i.point, i.value || ' is no plausible instant: it lies outside 2000-01-01 to a year from now' from ({}) i
             on conflict (md5(account_id), feature, data_class, starting_point) do update set last_seen_at = clock_timestamp(), problem = excluded.problem
             returning account_id, starting_point, problem, xmax = 0",
            class.source.implausible()
        )))
        .fetch_all(&mut *tx)
        .await?;
        // What the daemons of other regions have found is theirs to forget.
        let ours = class.jobs.is_ours("q");
        sqlx::query(AssertSqlSafe(format!(
            "delete from retention.quarantine q where q.feature = {feature} and q.data_class = {name} and q.last_seen_at < $1 and {ours}"
        )))
        .bind(began)
        .execute(&mut *tx)
        .await?;
        Database::commit(tx).await?;
        crash::point("planner.quarantined");
        let mut count = 0;
        for (account, point, problem, _) in new.into_iter().filter(|(.., new)| *new) {
            tell::quarantined(class, &account, &point, &problem);
            count += 1;
        }
        Ok(count)
    }

    async fn quarantine_one(&self, class: &Class, account: &str, problem: &str) -> Result<u64, DatabaseError> {
        let mut tx = self.database.begin(Purpose::Write).await?;
        let new: bool = sqlx::query_scalar(
            "insert into retention.quarantine (account_id, feature, data_class, starting_point, problem) values ($1, $2, $3, '', $4)
             on conflict (md5(account_id), feature, data_class, starting_point) do update set last_seen_at = clock_timestamp(), problem = excluded.problem
             returning xmax = 0",
        )
        .bind(account)
        .bind(&class.jobs.feature)
        .bind(&class.jobs.name)
        .bind(problem)
        .fetch_one(&mut *tx)
        .await?;
        Database::commit(tx).await?;
        if new {
            tell::quarantined(class, account, "", problem);
        }
        Ok(u64::from(new))
    }
}
