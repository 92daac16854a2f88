//! The pass that follows completed jobs to further levels of erasure, and writes each down when it has become true: a second role sees nothing (`absent`), every
//! standby and slot is past the deletion (`replicated`), the dead rows have been vacuumed (`cleaned`), copies have expired (`expired`).
//!
//! It deletes no record and decides nothing. What cannot be known is never claimed. `docs/how-deletion-works.md` tells what each level does not say.

mod horizon;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use sqlx::{AssertSqlSafe, types::Json};

use crate::{
    catalog::{self, witness},
    config::Config,
    database::{Database, DatabaseError, Purpose, Tx},
    policy::{Class, Policy},
    safeguards::agreement,
    sql::literals,
    stores::postgres,
};

pub use horizon::in_full;

/// Transactions whose jobs are dealt with at once; each completed some hundred jobs at most.
const PAGE: i64 = 50;
/// Pages of one level in one pass. What is left has its turn in the next.
const PAGES: u32 = 20;
/// Accounts that the second role looks for in one transaction, and some more: jobs of one transaction stay together.
const LOOKS: i64 = 1_000;

/// How many jobs reached each level in a pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// A second role found nothing.
    pub absent: i64,
    /// Every standby and slot is past the deletion.
    pub replicated: i64,
    /// The dead rows have been vacuumed.
    pub cleaned: i64,
    /// Copies have expired.
    pub expired: i64,
}

/// Follows completed jobs. Made for one policy.
#[derive(Debug)]
pub struct Levels {
    database: Database,
    /// The main database under a role that may read and not delete.
    witness: Option<Database>,
    config: Arc<Config>,
    policy: Arc<Policy>,
    /// Why the witness was refused last, so that it is said once.
    refused: Mutex<String>,
}

/// What a transaction on the daemon's own tables came to: levels reached, and transactions of jobs dealt with.
type Done = (i64, i64);

impl Levels {
    /// Opens nothing yet.
    ///
    /// # Errors
    /// When the address of the second role cannot be parsed.
    pub fn new(database: Database, config: Arc<Config>, policy: Arc<Policy>) -> Result<Self, DatabaseError> {
        let witness = config.witness().map(|config| Database::new(&config)).transpose()?;
        Ok(Self { database, witness, config, policy, refused: Mutex::default() })
    }

    /// Takes every completed job as far as it has come. Idempotent, in pages of bounded transactions.
    ///
    /// # Errors
    /// Those of the database; what could not be asked is asked again, and counts for nothing.
    pub async fn pass(&self) -> Result<Report, DatabaseError> {
        let mut tx = self.database.begin(Purpose::Read).await?;
        let pending: bool = sqlx::query_scalar("select exists (select 1 from retention.levels_awaited)").fetch_one(&mut *tx).await?;
        drop(tx);
        if !pending {
            return Ok(Report::default());
        }
        self.note().await?;
        self.leave_out().await?;
        let expired = self.pages(EXPIRED, None).await?;
        let replicated = self.pages(&horizon::replicated(), None).await?;
        let mut report = Report { replicated, expired, ..Report::default() };
        let mut failed = Ok(());
        for class in &self.policy.classes {
            // One class whose targets cannot be asked keeps no other from its levels, nor does a witness that does not answer.
            match self.cleaned(class).await {
                Ok(cleaned) => report.cleaned += cleaned,
                Err(error) => failed = Err(error),
            }
        }
        match self.absent().await {
            Ok(absent) => report.absent = absent,
            Err(error) => failed = Err(error),
        }
        let mut tx = self.database.begin(Purpose::Bulk).await?;
        sqlx::query("delete from retention.levels_awaited where awaits = '{}'").execute(&mut *tx).await?;
        Database::commit(tx).await?;
        if report != Report::default() {
            let Report { absent, replicated, cleaned, expired } = report;
            tracing::info!(
                event = "levels.reached",
                absent,
                replicated,
                cleaned,
                expired,
                "completed jobs reached further levels of erasure"
            );
        }
        failed.map(|()| report)
    }

    /// Runs a statement that yields [`Done`] until a page is not full.
    async fn pages(&self, statement: &str, class: Option<&Class>) -> Result<i64, DatabaseError> {
        let mut reached = 0;
        for _ in 0..PAGES {
            let mut tx = self.database.begin(Purpose::Bulk).await?;
            if let Some(class) = class {
                self.true_to(&mut tx, class).await?;
            }
            let (levels, dealt): Done = sqlx::query_as(AssertSqlSafe(statement.to_owned())).bind(PAGE).fetch_one(&mut *tx).await?;
            Database::commit(tx).await?;
            reached += levels;
            if dealt < PAGE {
                break;
            }
        }
        Ok(reached)
    }

    /// What this configuration says of the class is in force, and its tables are those that were checked at start.
    async fn true_to(&self, tx: &mut Tx, class: &Class) -> Result<(), DatabaseError> {
        agreement::hold_to(&mut *tx, &class.jobs.accepted).await?;
        catalog::unmoved(tx, &self.policy.pinned).await
    }

    /// Notes where the log and the transactions are once the jobs' own transaction is seen to have committed: their records were deleted before that.
    async fn note(&self) -> Result<(), DatabaseError> {
        self.pages(NOTE, None).await.map(drop)
    }

    /// Leaves out what is not meant for the jobs: no look without a role for it, nor after `verifier.watch_for`; neither look nor vacuum where no target is in the
    /// main database; none of both for classes that are no more, whose places nobody knows.
    async fn leave_out(&self) -> Result<(), DatabaseError> {
        let here: Vec<String> =
            self.policy.classes.iter().filter(|c| !c.targets.is_empty()).map(|c| format!("{}/{}", c.jobs.feature, c.jobs.name)).collect();
        let mut tx = self.database.begin(Purpose::Bulk).await?;
        if let Some(class) = self.policy.classes.first() {
            agreement::hold_to(&mut tx, &class.jobs.accepted).await?;
        }
        sqlx::query(AssertSqlSafe(format!(
            "update retention.levels_awaited a set awaits = array_remove(array_remove(a.awaits, 'absent'), case when o.nowhere then 'cleaned' end)
             from (select id, not (feature || '/' || data_class = any({})) as nowhere, since + make_interval(secs => $2) < now() as over
                   from retention.levels_awaited where noted_at is not null) o
             where a.id = o.id and ((o.nowhere and a.awaits && '{{absent,cleaned}}') or ('absent' = any(a.awaits) and (o.over or not $1)))",
            literals(&here)
        )))
        .bind(self.witness.is_some())
        .bind(self.config.verifier.watch_for.as_secs_f64())
        .execute(&mut *tx)
        .await?;
        Database::commit(tx).await
    }

    /// See [`horizon`].
    async fn cleaned(&self, class: &Class) -> Result<i64, DatabaseError> {
        if class.targets.is_empty() {
            return Ok(0);
        }
        let mut tx = self.database.begin(Purpose::Bulk).await?;
        self.true_to(&mut tx, class).await?;
        if let Some(horizon) = horizon::oldest(&mut tx).await? {
            let oids: Vec<i64> = class.targets.iter().map(postgres::Target::oid).collect();
            sqlx::query(AssertSqlSafe(horizon::count(class))).bind(horizon).bind(oids).bind(class.target_names()).execute(&mut *tx).await?;
        }
        sqlx::query(AssertSqlSafe(horizon::start_anew(class))).execute(&mut *tx).await?;
        Database::commit(tx).await?;
        self.pages(&horizon::cleaned(class), Some(class)).await
    }

    /// Has the second role look for what is gone.
    async fn absent(&self) -> Result<i64, DatabaseError> {
        let Some(witness) = &self.witness else { return Ok(0) };
        let mut reached = 0;
        let mut fit = false;
        for class in self.policy.classes.iter().filter(|class| !class.targets.is_empty()) {
            for _ in 0..PAGES {
                let due = self.due(class).await?;
                if due.is_empty() {
                    break;
                }
                // Asked once there is something to look for.
                fit = fit || self.fit(witness).await?;
                if !fit {
                    return Ok(reached);
                }
                reached += self.look(witness, class, due).await?;
            }
        }
        Ok(reached)
    }

    /// Jobs of the class whose look has come, each with the transaction that completed it, and its account.
    async fn due(&self, class: &Class) -> Result<Vec<(i64, i64, String)>, DatabaseError> {
        let mut tx = self.database.begin(Purpose::Read).await?;
        Ok(sqlx::query_as(AssertSqlSafe(format!(
            "select a.id, h.id, h.account_id
             from (select a.id, a.job_ids, sum(cardinality(a.job_ids)) over (order by a.look_at, a.id) - cardinality(a.job_ids) as before
                   from (select a.id, a.job_ids, a.look_at from retention.levels_awaited a
                         where {} and 'absent' = any(a.awaits) and a.noted_at is not null and a.look_at <= now() and {}
                         order by a.look_at, a.id limit {LOOKS}) a) a,
                  unnest(a.job_ids) j(id) join retention.history h on h.id = j.id
             where a.before < {LOOKS} and not exists (select 1 from retention.levels l where l.job_id = h.id and l.level = 'absent')",
            class.jobs.of("a"),
            horizon::all_known("a", "$1")
        )))
        .bind(class.target_names())
        .fetch_all(&mut *tx)
        .await?)
    }

    /// Whether the second role can testify; says why not, once.
    async fn fit(&self, witness: &Database) -> Result<bool, DatabaseError> {
        let mut tx = self.database.begin(Purpose::Read).await?;
        let main = witness::identity(&mut tx).await?;
        drop(tx);
        let mut tx = witness.begin(Purpose::Read).await?;
        let doubts: Vec<String> = witness::doubts(&mut tx, &self.config, main).await?.into_iter().map(|doubt| doubt.problem).collect();
        let doubts = doubts.join("; ");
        if let Ok(mut refused) = self.refused.lock()
            && *refused != doubts
        {
            if !doubts.is_empty() {
                tracing::warn!(
                    event = "levels.refused",
                    doubts,
                    "the role of verifier.url cannot testify: no job reaches the level absent"
                );
            }
            refused.clone_from(&doubts);
        }
        Ok(doubts.is_empty())
    }

    /// Looks through the second role, and writes down who is absent. Whoever is not is looked for again.
    async fn look(&self, witness: &Database, class: &Class, due: Vec<(i64, i64, String)>) -> Result<i64, DatabaseError> {
        let accounts: BTreeSet<&String> = due.iter().map(|(.., account)| account).collect();
        let accounts: Vec<String> = accounts.into_iter().cloned().collect();
        let mut tx = witness.begin(Purpose::Read).await?;
        // Under the names of the start, and of those very tables.
        let pinned = self.policy.pinned.iter().filter(|(_, oid)| class.targets.iter().any(|target| target.oid() == **oid));
        catalog::unmoved(&mut tx, &pinned.map(|(name, oid)| (name.clone(), *oid)).collect()).await?;
        let role: String = sqlx::query_scalar("select current_user::text").fetch_one(&mut *tx).await?;
        let seen = postgres::seen(&mut tx, &class.targets, &accounts).await?;
        drop(tx);
        let gone: Vec<i64> =
            due.iter().filter(|(.., account)| seen.get(account).is_some_and(Vec::is_empty)).map(|(_, job, _)| *job).collect();
        let looked: Vec<&String> = class.targets.iter().map(|t| &t.name).collect();
        let others: Vec<&String> = class.remote.iter().map(|t| &t.name).collect();
        let detail = serde_json::json!({ "role": role, "looked_at": looked, "not_looked_at": others });
        let mut tx = self.database.begin(Purpose::Bulk).await?;
        self.true_to(&mut tx, class).await?;
        let reached = sqlx::query(
            "insert into retention.levels (job_id, level, detail) select id, 'absent', $2 from unnest($1::int8[]) j(id) on conflict do nothing",
        )
        .bind(&gone)
        .bind(Json(detail))
        .execute(&mut *tx)
        .await?
        .rows_affected();
        sqlx::query(
            "update retention.levels_awaited a
             set look_at = now() + make_interval(secs => $2),
                 awaits = case when not exists (select 1 from unnest(a.job_ids) j(id) join retention.history h on h.id = j.id
                                                where not exists (select 1 from retention.levels l where l.job_id = h.id and l.level = 'absent'))
                               then array_remove(a.awaits, 'absent') else a.awaits end
             where a.id = any($1)",
        )
        .bind(due.iter().map(|(id, ..)| *id).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>())
        .bind(self.config.verifier.interval.as_secs_f64())
        .execute(&mut *tx)
        .await?;
        Database::commit(tx).await?;
        Ok(i64::try_from(reached).unwrap_or(i64::MAX))
    }
}

/// The snapshot of the statement sees the row, hence the transaction that wrote it: its commit lies before the end of the log, and its number before the
/// next one. What was inserted into the log counts, and not only what was written out: a commit may be seen before it is.
const NOTE: &str = "
    with noted as (
        update retention.levels_awaited a
        set noted_at = clock_timestamp(), lsn = pg_current_wal_insert_lsn(), xid = pg_snapshot_xmax(pg_current_snapshot())::text::int8,
            expires_at = e.at, awaits = case when e.at is null then array_remove(a.awaits, 'expired') else a.awaits end
        from (select l.id, (select max(h.last_copy_gone_at) from retention.history h where h.id = any(l.job_ids)) as at
              from (select id, job_ids from retention.levels_awaited where noted_at is null order by id limit $1 for no key update skip locked) l) e
        where a.id = e.id returning 1)
    select 0::int8, count(*) from noted";

const EXPIRED: &str = "
    with due as materialized (
        select id, job_ids from retention.levels_awaited
        where 'expired' = any(awaits) and expires_at <= now() order by id limit $1 for no key update skip locked),
    reached as (
        insert into retention.levels (job_id, level, detail)
        select h.id, 'expired', jsonb_build_object('last_copy_gone_at', h.last_copy_gone_at)
        from due, retention.history h where h.id = any(due.job_ids) and h.last_copy_gone_at <= now()
        on conflict do nothing returning 1),
    settled as (update retention.levels_awaited a set awaits = array_remove(a.awaits, 'expired') from due where a.id = due.id)
    select (select count(*) from reached), (select count(*) from due)";
