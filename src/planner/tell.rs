//! What the planner says in the log. Every line about a job carries the account and both dates, so that one account can be followed.

use std::time::Duration;

use super::{Look, Report};
use crate::{
    jobs::{OpenJob, Plan},
    model::rfc3339,
    policy::Class,
    retention::CancelReason,
};

pub(super) fn planned(event: &'static str, why: &'static str, class: &Class, id: i64, plan: &Plan) {
    tracing::info!(
        event,
        job_id = %id,
        account_id = plan.account_id,
        feature = class.jobs.feature,
        data_class = class.jobs.name,
        starting_point = plan.starting_point,
        started_at = rfc3339(plan.started_at),
        retain_until = rfc3339(plan.retain_until),
        delete_by = rfc3339(plan.delete_by),
        "{why}"
    );
}

pub(super) fn cancelled(feature: &str, data_class: &str, job: &OpenJob, reason: CancelReason) {
    let (id, account_id, cancel_reason, starting_point) = (job.id, &job.account_id, reason.as_str(), &job.starting_point);
    let (retain_until, delete_by) = (rfc3339(job.retain_until), rfc3339(job.delete_by));
    if job.began {
        // Somebody must know: some records were deleted before the customer came back (R22).
        tracing::error!(
            event = "job.cancelled", job_id = %id, account_id, feature, data_class, starting_point, retain_until, delete_by, cancel_reason, partial = true,
            "cancelled in the middle of its purge"
        );
    } else {
        tracing::info!(
            event = "job.cancelled", job_id = %id, account_id, feature, data_class, starting_point, retain_until, delete_by, cancel_reason, partial = false,
            "cancelled before its purge"
        );
    }
}

pub(super) fn quarantined(class: &Class, account_id: &str, starting_point: &str, problem: &str) {
    let (feature, data_class) = (&class.jobs.feature, &class.jobs.name);
    tracing::warn!(
        event = "record.quarantined",
        account_id,
        feature,
        data_class,
        starting_point,
        problem,
        "left alone until somebody mends it"
    );
}

/// Says in the log how a look went.
pub fn look(look: Look, report: &Report, took: Duration) {
    let (kind, duration_ms) = (look.as_str(), u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
    let Report { settled, scheduled, rescheduled, cancelled, quarantined } = *report;
    if look == Look::Resync || report.changed() {
        tracing::info!(
            event = "poll.completed",
            kind,
            settled,
            scheduled,
            rescheduled,
            cancelled,
            quarantined,
            duration_ms,
            "looked at the source"
        );
    } else {
        tracing::debug!(
            event = "poll.completed",
            kind,
            settled,
            scheduled,
            rescheduled,
            cancelled,
            quarantined,
            duration_ms,
            "looked at the source, nothing new"
        );
    }
}
