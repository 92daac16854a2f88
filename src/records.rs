//! The pass that forgets what the daemon has kept about its own work for long enough: jobs that are over, acts that are over, values that nobody has seen
//! any more. Personal data is in them.
//!
//! It touches the daemon's own tables alone, and nothing that is open or in force. Done-marks stay (R23): whose history is forgotten is not scheduled again.

use std::{sync::Arc, time::Duration};

use sqlx::AssertSqlSafe;

use crate::{
    config::Config,
    database::{Database, DatabaseError, Kind, Purpose},
    jobs,
    safeguards::held,
};

/// Rows that one transaction forgets.
const PAGE: i64 = 1_000;
/// Pages of one table in one pass. What is left has its turn in the next.
const PAGES: u32 = 200;

/// Days counted in one transaction; one alone when so many take too long.
const MONTH: i32 = 31;

/// What a pass forgot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Jobs that were over.
    pub history: i64,
    /// Holds that were released or had ended.
    pub holds: i64,
    /// Pauses that were lifted.
    pub pauses: i64,
    /// Requests that were fulfilled or withdrawn.
    pub requests: i64,
    /// What one of two people said.
    pub approvals: i64,
    /// Notices, whatever became of them.
    pub notices: i64,
    /// Values that nobody has seen any more.
    pub quarantine: i64,
}

/// Forgets.
#[derive(Debug, Clone)]
pub struct Records {
    database: Database,
    config: Arc<Config>,
}

impl Records {
    /// Of the daemon's own tables in this database.
    #[must_use]
    pub fn new(database: Database, config: Arc<Config>) -> Self {
        Self { database, config }
    }

    /// Forgets everything that is past its period, in pages.
    ///
    /// # Errors
    /// Those of the database; what was forgotten before stays so.
    pub async fn prune(&self) -> Result<Report, DatabaseError> {
        let (history, acts) = (self.config.records.keep_history, self.config.records.keep_acts);
        self.count().await;
        let report = Report {
            history: self.pages(&jobs(), history).await?,
            holds: self.pages(&rows("hold", "coalesce(x.released_at, x.until)"), acts).await?,
            pauses: self.pages(&rows("pause", "x.resumed_at"), acts).await?,
            requests: self.pages(&requests(), acts).await?,
            approvals: self.pages(&rows("approval", "x.given_at"), acts).await?,
            notices: self.pages(NOTICES, self.config.records.keep_notices).await?,
            quarantine: self.pages(QUARANTINE, history).await?,
        };
        // What was awaited for jobs that are forgotten.
        self.pages(AWAITED, history).await?;
        self.pages(ACTS, acts).await?;
        self.pages(ANSWERS, Some(ANSWERED)).await?;
        self.pages(ENDPOINTS, self.config.records.keep_notices).await?;
        if report != Report::default() {
            let Report { history, holds, pauses, requests, approvals, notices, quarantine } = report;
            tracing::info!(
                event = "records.pruned",
                history,
                holds,
                pauses,
                requests,
                approvals,
                notices,
                quarantine,
                "records of our own are past their period"
            );
        }
        Ok(report)
    }

    /// Before its jobs are forgotten, a day is counted. Jobs of a day that cannot be are not forgotten yet; everything else is.
    async fn count(&self) {
        let mut days = MONTH;
        loop {
            match self.roll(days).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) if error.kind() == Kind::Timeout && days > 1 => days = 1,
                Err(error) => {
                    let sqlstate = error.sqlstate();
                    tracing::warn!(event = "records.failed", error = %error, sqlstate, "days are not counted; their jobs are not forgotten yet");
                    break;
                }
            }
        }
    }

    async fn roll(&self, days: i32) -> Result<bool, DatabaseError> {
        let mut tx = self.database.begin(Purpose::Bulk).await?;
        let more = jobs::roll(&mut tx, days).await?;
        Database::commit(tx).await?;
        Ok(more)
    }

    /// Runs a statement that forgets up to `$2` rows which are older than `$1` seconds, until a page is not full.
    async fn pages(&self, statement: &str, keep: Option<Duration>) -> Result<i64, DatabaseError> {
        let Some(keep) = keep else { return Ok(0) };
        let mut forgotten = 0;
        for _ in 0..PAGES {
            let mut tx = self.database.begin(Purpose::Bulk).await?;
            let query = sqlx::query_scalar(AssertSqlSafe(statement.to_owned())).bind(keep.as_secs_f64()).bind(PAGE);
            let page: i64 = query.fetch_one(&mut *tx).await?;
            Database::commit(tx).await?;
            forgotten += page;
            if page < PAGE {
                break;
            }
        }
        Ok(forgotten)
    }
}

/// Jobs that were over so long ago, with their levels and what opens their entries in the ledger, which name nobody any more then. Not while a hold of theirs is in force: it may be about this very purge.
fn jobs() -> String {
    let held = held("x");
    format!(
        "with old as materialized (
             select x.id from retention.history x
             where coalesce(x.completed_at, x.cancelled_at) < now() - make_interval(secs => $1) and not {held}
               and coalesce(x.completed_at, x.cancelled_at) < (select max(day) + 1 from retention.days)
             order by coalesce(x.completed_at, x.cancelled_at) limit $2 for update skip locked),
         levels as (delete from retention.levels l using old where l.job_id = old.id),
         salts as (delete from retention.ledger_salts s using old where s.kind = 'job' and s.reference = old.id),
         gone as (delete from retention.history x using old where x.id = old.id returning 1)
         select count(*) from gone"
    )
}

/// Acts of a kind whose end, an expression over `x` that is null while there is none, was so long ago, and what opens their entries.
fn rows(kind: &str, ended: &str) -> String {
    format!(
        "with old as materialized (
             select x.id from retention.{kind}s x where {ended} < now() - make_interval(secs => $1) order by x.id limit $2 for update skip locked),
         salts as (delete from retention.ledger_salts s using old where s.kind = '{kind}' and s.reference = old.id),
         gone as (delete from retention.{kind}s x using old where x.id = old.id returning 1)
         select count(*) from gone"
    )
}

/// Requests of which nothing has been open for so long. Their parts go before them.
fn requests() -> String {
    let parts = "from retention.request_parts q where q.request_id = x.id";
    let ended =
        format!("coalesce(x.withdrawn_at, (select case when bool_and(q.fulfilled_at is not null) then max(q.fulfilled_at) end {parts}))");
    rows("request", &ended).replacen(
        "gone as (",
        "parts as (delete from retention.request_parts q using old where q.request_id = old.id),\n         gone as (",
        1,
    )
}

const QUARANTINE: &str = "
    with old as materialized (
        select x.id from retention.quarantine x where x.last_seen_at < now() - make_interval(secs => $1) order by x.id limit $2 for update skip locked),
    gone as (delete from retention.quarantine x using old where x.id = old.id returning 1)
    select count(*) from gone";

const ACTS: &str = "
    with old as materialized (
        select x.id from retention.acts x where x.done_at < now() - make_interval(secs => $1) order by x.id limit $2 for update skip locked),
    gone as (delete from retention.acts x using old where x.id = old.id returning 1)
    select count(*) from gone";

/// Answers of the API are given again for so long.
const ANSWERED: Duration = Duration::from_hours(24);
const ANSWERS: &str = "
    with old as materialized (
        select x.actor, x.key from retention.answers x where x.answered_at < now() - make_interval(secs => $1)
        order by x.answered_at limit $2 for update skip locked),
    gone as (delete from retention.answers x using old where x.actor = old.actor and x.key = old.key returning 1)
    select count(*) from gone";

/// What was told, and what could not be.
const NOTICES: &str = "
    with old as materialized (
        select x.id from retention.notices x where x.created_at < now() - make_interval(secs => $1) order by x.created_at limit $2 for update skip locked),
    gone as (delete from retention.notices x using old where x.id = old.id returning 1)
    select count(*) from gone";

/// Endpoints that no configuration has had for as long. How far they were looked for goes with them.
const ENDPOINTS: &str = "
    with old as materialized (
        select x.name from retention.notice_endpoints x where x.configured_at < now() - make_interval(secs => $1) order by x.name limit $2 for update skip locked),
    gone as (delete from retention.notice_endpoints x using old where x.name = old.name returning 1)
    select count(*) from gone";

/// Its row and the jobs' history were written by one transaction: where there is no history, it was forgotten.
const AWAITED: &str = "
    with old as materialized (
        select a.id from retention.levels_awaited a
        where $1::float8 is not null and not exists (select 1 from unnest(a.job_ids) j(id) join retention.history h on h.id = j.id)
        order by a.id limit $2 for update skip locked),
    gone as (delete from retention.levels_awaited a using old where a.id = old.id returning 1)
    select count(*) from gone";
