//! What the ledger is told of open jobs, in the transaction of what happens to them. How they end it is told by the history itself.

use sqlx::{AssertSqlSafe, PgConnection};

use crate::database::DatabaseError;

/// The text of the INSERT that says that a job which `from` yields is about to be purged: under the plan that was told last.
pub(super) fn intent(from: &str) -> String {
    format!(
        "insert into retention.ledger_pending (event, kind, reference, subject) select 'intent', 'job', j.id, j.account_id from {from} order by j.id"
    )
}

/// The text of the INSERT of one entry for each job `j` that `from` yields.
pub(super) fn entry(event: &'static str, from: &str) -> String {
    format!(
        "insert into retention.ledger_pending (event, kind, reference, subject, body)
         select '{event}', 'job', j.id, j.account_id, jsonb_build_object(
                    'feature', j.feature, 'data_class', j.data_class, 'starting_point', j.starting_point, 'started_at', retention.instant(j.started_at),
                    'retain_until', retention.instant(j.retain_until), 'delete_by', retention.instant(j.delete_by), 'rule', j.policy)
         from {from} order by j.id"
    )
}

/// Tells of these jobs.
pub(super) async fn tell(conn: &mut PgConnection, event: &'static str, jobs: Vec<i64>) -> Result<(), DatabaseError> {
    if jobs.is_empty() {
        return Ok(());
    }
    let told = entry(event, "retention.jobs j where j.id = any($1)");
    sqlx::query(AssertSqlSafe(told)).bind(jobs).execute(conn).await?;
    Ok(())
}
