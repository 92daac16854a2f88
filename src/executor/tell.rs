//! What the executor says in the log. Every line carries the job, the account and both dates, so that one account can be followed with `grep` or `jq`.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::Outcome;
use crate::{
    database::{DatabaseError, Kind},
    jobs::{Claimed, Next, Overdue, PATIENT_LOOKS, Progress},
    metrics,
    model::rfc3339,
    policy::Class,
    requests::Request,
};

macro_rules! job {
    ($level:ident, $event:literal, $class:expr, $job:expr, [$($field:tt)*], $msg:literal) => {
        tracing::$level!(
            event = $event, job_id = %$job.id, account_id = $job.account_id, feature = $class.jobs.feature, data_class = $class.jobs.name,
            starting_point = $job.starting_point, retain_until = rfc3339($job.retain_until), delete_by = rfc3339($job.delete_by), $($field)* $msg
        )
    };
}

pub(super) fn started(class: &Class, job: &Claimed) {
    job!(info, "job.started", class, job, [attempt = job.attempts,], "purge begins");
}

pub(super) fn batch(class: &Class, job: &Claimed, target: &str, records: i64, took: Duration) {
    let duration_ms = millis(took);
    job!(info, "batch.deleted", class, job, [target_name = target, records, duration_ms,], "records deleted");
}

/// Counts a batch that was rolled back.
pub(super) fn undone(class: &Class, done: &Result<Outcome, DatabaseError>) {
    let outcome = match done {
        Ok(Outcome::Committed) => return,
        Ok(Outcome::Mistaken | Outcome::Contended) => "undone",
        Err(error) if error.kind() == Kind::Locked => "locked",
        Err(_) => "failed",
    };
    class.targets.iter().for_each(|target| metrics::batch_undone(&target.name, outcome));
}

/// What a batch made of the job. `left` names the targets that still hold records; `last_copy` is when the last copy is gone, where there are copies that
/// expire.
pub(super) fn outcome(class: &Class, job: &Claimed, progress: &Progress, left: Option<&[String]>, last_copy: Option<DateTime<Utc>>) {
    match progress.next {
        Next::Complete => {
            let records = serde_json::to_string(&progress.records_deleted).unwrap_or_default();
            let outcomes = serde_json::to_string(&progress.outcomes).unwrap_or_default();
            let (lateness_seconds, last_copy_gone_at) = (lateness(job.retain_until), last_copy.map(rfc3339));
            job!(
                info,
                "job.completed",
                class,
                job,
                [json.records_deleted = records, json.outcomes = outcomes, lateness_seconds, last_copy_gone_at, attempt = job.attempts,],
                "a separate look found nothing left"
            );
        }
        Next::Crowded => job!(debug, "job.continued", class, job, [attempt = job.attempts,], "the batch was full before its turn came"),
        Next::Continue => job!(debug, "job.continued", class, job, [attempt = job.attempts,], "more records than one batch takes"),
        Next::Wait(_, pause) if progress.looks >= PATIENT_LOOKS => {
            let (targets, retry_in_ms) = (left.unwrap_or_default().join(", "), millis(pause));
            job!(
                error,
                "residue.found",
                class,
                job,
                [targets, looks = progress.looks, retry_in_ms,],
                "records remain that no batch could delete"
            );
        }
        Next::Wait(reason, pause) => {
            job!(info, "job.deferred", class, job, [reason, retry_in_ms = millis(pause),], "the job steps aside");
        }
        Next::Retry(pause) => {
            let error = progress.error.as_deref().unwrap_or("the look gave no answer");
            if progress.error.is_none() {
                metrics::job_failed(&class.jobs.feature, &class.jobs.name, "unanswered");
            }
            job!(
                warn,
                "job.failed",
                class,
                job,
                [attempt = job.attempts, error, retry_in_ms = millis(pause),],
                "the attempt failed and will be made again"
            );
        }
    }
}

pub(super) fn overdue(job: &Overdue) {
    tracing::error!(
        event = "job.overdue",
        job_id = %job.id,
        account_id = job.account_id,
        feature = job.feature,
        data_class = job.data_class,
        starting_point = job.starting_point,
        retain_until = rfc3339(job.retain_until),
        delete_by = rfc3339(job.delete_by),
        last_error = job.last_error,
        blocked_by = job.blocked_by,
        "not purged by delete_by"
    );
}

pub(super) fn fulfilled(request: &Request) {
    tracing::info!(
        event = "request.fulfilled",
        request_id = request.id,
        account_id = request.account_id,
        feature = request.feature,
        data_class = request.data_class,
        accepted_at = request.accepted_at.map(rfc3339),
        due_by = request.due_by.map(rfc3339),
        fulfilled_at = request.fulfilled_at.map(rfc3339),
        jobs = request.jobs.join(", "),
        "nothing is left of what was asked for"
    );
}

fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

/// Seconds from `retain_until` to now, for the log alone: the exact figure is `completed_at - retain_until` in the job.
#[expect(clippy::disallowed_methods, reason = "a figure for people in the log; no decision rests on it")]
fn lateness(retain_until: DateTime<Utc>) -> f64 {
    (Utc::now() - retain_until).as_seconds_f64().max(0.0)
}
