//! The pass that looks again at what was purged, at growing intervals: late writers and restored backups bring records back (I11).
//!
//! It deletes nothing (R24). What it finds is told and marked; the planner makes a job of it from what stands then, under its own dates.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream};
use sqlx::AssertSqlSafe;

use crate::{
    catalog,
    config::Config,
    crash,
    database::{Database, DatabaseError, Purpose},
    jobs::FIRST_LOOK,
    policy::{Class, Homeless, Orphans, Policy},
    safeguards::{agreement, server},
    spans,
    sql::literals,
    stores::{StoreError, postgres},
};

/// Subjects looked at in one transaction.
const PAGE: i64 = 1_000;
/// The same, where other stores are looked at as well.
const REMOTE_PAGE: i64 = 32;
/// Another page of these is begun no later than this.
const TURN: Duration = Duration::from_secs(1);
/// Subjects that other stores are asked about at once.
const AT_ONCE: usize = 8;
/// When a look is made again that a store gave no answer to.
const AGAIN: Duration = Duration::from_mins(1);
/// The first looks come soon after the purge, when writers that were under way finish.
const FIRST_LOOKS: [Duration; 3] = [FIRST_LOOK, Duration::from_secs(30), Duration::from_mins(5)];

/// Targets that hold records, or what kept somebody from looking.
type Looked = Result<Vec<String>, String>;

/// What a pass came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Subjects looked at.
    pub looked: u64,
    /// Of those, subjects with records again.
    pub residue: u64,
}

/// The verifier.
#[derive(Debug, Clone)]
pub struct Verifier {
    database: Database,
    config: Arc<Config>,
    policy: Arc<Policy>,
}

impl Verifier {
    /// A verifier for this policy.
    #[must_use]
    pub fn new(database: Database, config: Arc<Config>, policy: Arc<Policy>) -> Self {
        Self { database, config, policy }
    }

    /// Looks at every subject whose next look has come. Idempotent and bounded per transaction.
    ///
    /// # Errors
    /// Those of the database; a look that failed is taken again, and never counts as an empty one (I6).
    pub async fn pass(&self) -> Result<Report, DatabaseError> {
        spans::verify(Box::pin(self.look_at_all()), |report| (report.looked, report.residue)).await
    }

    async fn look_at_all(&self) -> Result<Report, DatabaseError> {
        let mut report = Report::default();
        let mut failed = Ok(());
        for class in &self.policy.classes {
            // One class whose targets cannot be looked at keeps no other from its looks.
            if let Err(error) = self.class(class, &mut report).await {
                failed = Err(error);
            }
        }
        failed.map(|()| report)
    }

    async fn class(&self, class: &Class, report: &mut Report) -> Result<(), DatabaseError> {
        let page = if class.remote.is_empty() { PAGE } else { REMOTE_PAGE };
        let began = Instant::now();
        // Stores may take long to answer: other classes have their turn, and a stop is heeded. What is left is due at once.
        while self.page(class, page, report).await? == page && (class.remote.is_empty() || began.elapsed() < TURN) {}
        Ok(())
    }

    /// Looks for what nobody thought of: tables that nobody has decided about, records of accounts that were never known. Says so each time, until
    /// somebody decides.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn watch(&self) -> Result<(), DatabaseError> {
        let mut tx = self.database.begin(Purpose::Compare).await?;
        server::refuse_standby(&mut tx).await?;
        for finding in catalog::uncovered(&mut tx, &self.config).await? {
            tracing::warn!(event = "coverage.uncovered", subject = finding.subject, "{}", finding.problem);
        }
        for Orphans { target, accounts, examples } in self.policy.orphans(&mut tx).await? {
            let examples = serde_json::to_string(&examples).unwrap_or_default();
            tracing::warn!(
                event = "orphans.found",
                target_name = target,
                accounts,
                accounts.examples = examples,
                "records of accounts that were never known are left alone"
            );
        }
        if let Some(Homeless { accounts, examples }) = self.policy.homeless(&mut tx).await? {
            let examples = serde_json::to_string(&examples).unwrap_or_default();
            tracing::warn!(
                event = "region.unknown",
                accounts,
                accounts.examples = examples,
                "accounts have ended and nobody knows where they live; they are left alone"
            );
        }
        Ok(())
    }

    /// What other stores say about the subjects whose look is due: targets that hold records, or what kept somebody from looking. Asked before
    /// anything is locked.
    async fn elsewhere(&self, class: &Class, page: i64) -> Result<BTreeMap<String, Looked>, DatabaseError> {
        let mut tx = self.database.begin(Purpose::Read).await?;
        let due: Vec<String> = sqlx::query_scalar(AssertSqlSafe(format!(
            "select d.account_id from retention.done_marks d where {} and {} and d.look_at <= now() order by d.look_at limit {page}",
            class.jobs.of("d"),
            class.jobs.is_ours("d")
        )))
        .fetch_all(&mut *tx)
        .await?;
        drop(tx);
        let looks: Vec<BoxFuture<'_, (String, Looked)>> = due.into_iter().map(|account| look_elsewhere(class, account).boxed()).collect();
        Ok(stream::iter(looks).buffer_unordered(AT_ONCE).collect().await)
    }

    async fn page(&self, class: &Class, page: i64, report: &mut Report) -> Result<i64, DatabaseError> {
        let elsewhere = if class.remote.is_empty() { None } else { Some(self.elsewhere(class, page).await?) };
        let only = elsewhere.as_ref().map_or_else(String::new, |looked| {
            format!(" and d.account_id = any({})", literals(&looked.keys().cloned().collect::<Vec<_>>()))
        });
        let mut tx = self.database.begin(Purpose::Write).await?;
        agreement::hold_to(&mut tx, &class.jobs.accepted).await?;
        let due: Vec<(String, i64, i32)> = sqlx::query_as(AssertSqlSafe(format!(
            "select d.account_id, d.job_id, d.looks from retention.done_marks d where {} and {} and d.look_at <= now(){only}
             order by d.look_at limit {page} for no key update skip locked",
            class.jobs.of("d"),
            class.jobs.is_ours("d")
        )))
        .fetch_all(&mut *tx)
        .await?;
        if due.is_empty() {
            return Ok(0);
        }
        let accounts: Vec<String> = due.iter().map(|(account, ..)| account.clone()).collect();
        let mut seen = postgres::seen(&mut tx, &class.targets, &accounts).await?;
        let mut failed = BTreeMap::new();
        for (account, looked) in elsewhere.into_iter().flatten() {
            match looked {
                Ok(holding) => seen.entry(account).or_default().extend(holding),
                Err(why) => drop(failed.insert(account, why)),
            }
        }
        failed.retain(|account, _| seen.get(account).is_none_or(Vec::is_empty));
        let found = |account: &String| seen.get(account).is_some_and(|targets| !targets.is_empty());
        sqlx::query(AssertSqlSafe(format!(
            "update retention.done_marks d
             set residue = l.residue or l.failed and d.residue, looks = case when l.residue then 0 when l.failed then d.looks else d.looks + 1 end,
                 look_at = case when l.failed then now() + make_interval(secs => $6)
                                when d.purged_at + make_interval(secs => $4) > now() then now() + make_interval(secs => l.pause) end
             from unnest($1::text[], $2::bool[], $3::float8[], $5::bool[]) as l(account_id, residue, pause, failed)
             where d.account_id = l.account_id and {}",
            class.jobs.of("d")
        )))
        .bind(&accounts)
        .bind(accounts.iter().map(found).collect::<Vec<_>>())
        .bind(due.iter().map(|(_, _, looks)| self.pause(*looks).as_secs_f64()).collect::<Vec<_>>())
        .bind(self.config.verifier.watch_for.as_secs_f64())
        .bind(accounts.iter().map(|account| failed.contains_key(account)).collect::<Vec<_>>())
        .bind(AGAIN.as_secs_f64())
        .execute(&mut *tx)
        .await?;
        let returned: Vec<(i64, String)> = due
            .iter()
            .filter_map(|(account, job, _)| Some((*job, seen.get(account).filter(|targets| !targets.is_empty())?.join("\u{1f}"))))
            .collect();
        if !returned.is_empty() {
            // Of a job whose history was forgotten nobody is named again.
            sqlx::query(
                "insert into retention.ledger_pending (event, kind, reference, subject, body)
                 select 'residue', 'job', r.job, (select j.account_id from retention.every_job j where j.id = r.job), jsonb_build_object('targets', to_jsonb(string_to_array(r.targets, chr(31))))
                 from unnest($1::int8[], $2::text[]) as r(job, targets)",
            )
            .bind(returned.iter().map(|(job, _)| *job).collect::<Vec<_>>())
            .bind(returned.iter().map(|(_, targets)| targets.as_str()).collect::<Vec<_>>())
            .execute(&mut *tx)
            .await?;
        }
        crash::point("verifier.looked");
        Database::commit(tx).await?;
        crash::point("verifier.noted");
        for (account_id, job, _) in &due {
            if let Some(error) = failed.get(account_id) {
                let (feature, data_class) = (&class.jobs.feature, &class.jobs.name);
                tracing::warn!(event = "look.failed", job_id = %job, account_id, feature, data_class, error, "a store gave no answer; the look is made again");
                continue;
            }
            report.looked += 1;
            let Some(targets) = seen.get(account_id).filter(|targets| !targets.is_empty()) else { continue };
            report.residue += 1;
            let (feature, data_class, targets) = (&class.jobs.feature, &class.jobs.name, targets.join(", "));
            tracing::error!(
                event = "residue.found", job_id = %job, account_id, feature, data_class, targets,
                "records appeared after the purge; they are purged under the rule as it stands now"
            );
        }
        Ok(i64::try_from(due.len()).unwrap_or(page).min(page))
    }

    /// How long until the look after `looks` empty ones: soon at first, then twice as long each time up to `verifier.interval`.
    fn pause(&self, looks: i32) -> Duration {
        let at = usize::try_from(looks).unwrap_or(0) + 1;
        let longest = self.config.verifier.interval;
        if let Some(pause) = FIRST_LOOKS.get(at) {
            return (*pause).min(longest);
        }
        let doublings = u32::try_from(at - FIRST_LOOKS.len() + 1).unwrap_or(0).min(16);
        FIRST_LOOKS[FIRST_LOOKS.len() - 1].saturating_mul(1 << doublings).min(longest)
    }

    /// How long until the next look is due, and never longer than `at_most`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn rest(&self, at_most: Duration) -> Result<Duration, DatabaseError> {
        let mut tx = self.database.begin(Purpose::Read).await?;
        let mut rest = at_most;
        for class in &self.policy.classes {
            let seconds: Option<f64> = sqlx::query_scalar(AssertSqlSafe(format!(
                "select extract(epoch from min(d.look_at) - now())::float8 from retention.done_marks d where {} and {} and d.look_at is not null",
                class.jobs.of("d"),
                class.jobs.is_ours("d")
            )))
            .fetch_one(&mut *tx)
            .await?;
            let next = seconds.map(|s| Duration::try_from_secs_f64(s.max(0.0)).unwrap_or(at_most));
            rest = next.map_or(rest, |next| next.min(rest));
        }
        Ok(rest)
    }
}

async fn look_elsewhere(class: &Class, account: String) -> (String, Looked) {
    let (mut holding, mut failed) = (Vec::new(), None);
    for target in &class.remote {
        match target.client.left(&target.place, &account).await {
            Ok(true) => holding.push(target.name.clone()),
            // Nothing was seen there; there is another look anyway.
            Ok(false) | Err(StoreError::Later { .. }) => {}
            Err(error) => failed = Some(format!("{}: {error}", target.name)),
        }
    }
    // What was found is reason enough.
    let looked = failed.filter(|_| holding.is_empty()).map_or(Ok(holding), Err);
    (account, looked)
}
