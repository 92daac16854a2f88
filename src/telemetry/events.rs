//! Every event that the log can name: the closed set that the catalogue shows and the counters count by. Says nothing itself.

/// One event of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Its name, never used for anything else.
    pub name: &'static str,
    /// The levels it is said at, separated by spaces.
    pub levels: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// The fields it may carry beside `ts`, `level`, `event` and `msg`, separated by spaces.
    pub fields: &'static str,
}

const fn event(name: &'static str, levels: &'static str, meaning: &'static str, fields: &'static str) -> Event {
    Event { name, levels, meaning, fields }
}

/// Every event, by name.
pub const EVENTS: &[Event] = &[
    event("api.failed", "warn", "The API or a page could not be answered because the database refused.", "error sqlstate"),
    event(
        "api.request",
        "debug info",
        "The API or a page was answered; reads that went well at debug.",
        "method route status duration_ms actor",
    ),
    event(
        "batch.deleted",
        "info",
        "One transaction deleted records of one target.",
        "job_id account_id feature data_class starting_point retain_until delete_by target_name records duration_ms",
    ),
    event("check.finding", "warn", "The database fits the configuration, but something about it is unwise.", "subject remedy"),
    event("config.reload_failed", "error", "The files or the environment are at fault; the old configuration stays.", "error"),
    event(
        "config.reload_refused",
        "error",
        "The new configuration changes what only a start may change; the old one stays as a whole.",
        "keys error",
    ),
    event("config.reloaded", "info", "The new configuration is in force.", "changed_keys"),
    event("config.warning", "warn", "Something in the configuration is legal but unwise.", ""),
    event("control.paused", "warn", "Somebody paused deletion.", "account_id data_class reason actor"),
    event("control.resumed", "warn", "Somebody lifted a pause.", "account_id data_class lifted reason actor"),
    event("coverage.uncovered", "warn", "A table has the account column and nobody decided about it.", "subject"),
    event("daemon.abandoning", "error", "Cancelled work did not end in time and is left to the database.", "tasks"),
    event("daemon.cancelling", "warn", "The drain took too long, or a second signal came: statements are cancelled.", "reason tasks"),
    event("daemon.failed", "error", "The program ends without success and says why.", "exit_code error"),
    event("daemon.panicked", "error", "A mistake in the program.", "location thread"),
    event("daemon.started", "info", "The process has begun.", "version mode classes ops_listen listen"),
    event("daemon.stopped", "info", "The process ends.", "exit_code"),
    event("daemon.stopping", "info", "Nothing new is begun; what runs is finished.", "reason tasks drain_limit_seconds"),
    event("daemon.task_failed", "error", "A part of the daemon ended unasked; the process stops.", "task"),
    event("database.promoted", "warn", "The database goes on on a new timeline; everything is compared anew.", ""),
    event("database.unreachable", "warn", "The database does not answer at the start; it is tried again.", "error failures"),
    event("figures.failed", "warn", "The jobs could not be counted for the pages.", "error sqlstate"),
    event("forecast.failed", "warn", "The guard could not look ahead.", "error"),
    event("guard.clear", "info", "Nothing that is scheduled would exceed a limit any more.", ""),
    event("guard.forecast", "warn", "The guard will stop the start of purges unless somebody acts before.", "at reason"),
    event("guard.released", "warn", "Somebody let go what the guard had stopped.", "jobs reason actor"),
    event("guard.tripped", "error", "The guard stopped the start of purges.", "reason"),
    event("hold.placed", "warn", "Somebody placed a hold.", "hold_id account_id feature data_class reason actor"),
    event("hold.released", "warn", "Somebody released a hold.", "hold_id account_id feature data_class reason actor"),
    event("http.accept_failed", "warn", "The ops listener could not take a connection.", "error"),
    event("http.connection_failed", "debug", "A connection to the ops listener broke.", "error"),
    event(
        "job.cancelled",
        "info warn error",
        "The job is void: nothing is purged for it any more. An error when its purge had begun, a warning when closed by hand.",
        "job_id account_id feature data_class starting_point retain_until delete_by cancel_reason partial reason actor",
    ),
    event(
        "job.completed",
        "info",
        "A separate look found nothing left.",
        "job_id account_id feature data_class starting_point retain_until delete_by records_deleted outcomes lateness_seconds last_copy_gone_at attempt",
    ),
    event(
        "job.continued",
        "debug",
        "The purge takes another batch.",
        "job_id account_id feature data_class starting_point retain_until delete_by attempt",
    ),
    event(
        "job.deferred",
        "info",
        "The job steps aside.",
        "job_id account_id feature data_class starting_point retain_until delete_by reason retry_in_ms",
    ),
    event(
        "job.failed",
        "warn",
        "An attempt failed and will be made again.",
        "job_id account_id feature data_class starting_point retain_until delete_by attempt error retry_in_ms",
    ),
    event(
        "job.overdue",
        "error",
        "Not purged by delete_by.",
        "job_id account_id feature data_class starting_point retain_until delete_by last_error blocked_by",
    ),
    event(
        "job.rescheduled",
        "info",
        "The job has other dates.",
        "job_id account_id feature data_class starting_point retain_until delete_by started_at",
    ),
    event(
        "job.scheduled",
        "info",
        "A purge is planned.",
        "job_id account_id feature data_class starting_point retain_until delete_by started_at",
    ),
    event("job.started", "info", "A purge begins.", "job_id account_id feature data_class starting_point retain_until delete_by attempt"),
    event("lease.lapsed", "warn", "Jobs were taken over from a worker that gave no sign of life.", "jobs"),
    event("ledger.behind", "error", "The database is older than the ledger's files: nothing is purged.", "size vouched"),
    event("ledger.broken", "error", "The ledger is not the one that was signed: nothing is purged.", "reason"),
    event("ledger.failed", "warn", "Entries wait for their number, or the ledger could not be checked.", "error failures"),
    event("ledger.key_changed", "warn", "Another key signs the ledger.", "key reason actor"),
    event("ledger.mended", "warn", "The ledger is sound again.", ""),
    event("ledger.replayed", "warn", "The entries that an older database had lost are back.", "from to lost reason actor"),
    event("levels.failed", "warn", "Completed jobs were not followed to further levels of erasure.", "error sqlstate"),
    event("levels.reached", "info", "So many completed jobs reached each further level of erasure.", "absent replicated cleaned expired"),
    event("levels.refused", "warn", "The role of verifier.url cannot testify.", "doubts"),
    event("log", "error warn info debug trace", "A line without an event of its own, of a library mostly; `target` says whose.", "target"),
    event("look.failed", "warn", "A store gave no answer to a look at what was purged.", "job_id account_id feature data_class error"),
    event("metrics.incomplete", "debug", "The database did not give all figures of a scrape.", "error"),
    event("mode.observe", "warn", "Nothing is deleted in this mode.", ""),
    event("notice.delayed", "debug warn", "The database kept notices from being sent; they are later.", "error failures"),
    event("notice.endpoint_disabled", "error", "An endpoint answered 410: nothing is sent to it any more.", "endpoint host"),
    event("notice.endpoint_enabled", "warn", "Somebody has an endpoint sent to again.", "endpoint reason actor"),
    event(
        "notice.endpoint_taken",
        "error",
        "A daemon of other regions has an endpoint of the same name: nothing is sent to ours.",
        "endpoint host",
    ),
    event("notice.failed", "warn", "A notice did not arrive; it is tried again.", "endpoint host notice_id type account_id attempts error"),
    event("notice.given_up", "error", "A notice did not arrive in its time.", "endpoint host notice_id type account_id attempts error"),
    event("notice.replayed", "warn", "Somebody had notices sent once more.", "endpoint notice_id since notices reason actor"),
    event("notice.sent", "debug", "A notice arrived.", "endpoint notice_id type account_id attempts"),
    event(
        "operator.action",
        "info",
        "Somebody did something, or tried to, wherever it was.",
        "action surface actor role account_id outcome",
    ),
    event("orphans.found", "warn", "Records of accounts that were never known.", "target_name accounts examples"),
    event(
        "policy.accepted",
        "info warn",
        "The policy of this configuration is in force. A warning when a person accepted it.",
        "policy changes reason actor",
    ),
    event(
        "policy.waiting",
        "error",
        "Another policy is in force than this configuration asks for: nothing is planned or purged here.",
        "policy changes",
    ),
    event(
        "poll.completed",
        "info debug",
        "A look at the source; without news at debug.",
        "kind settled scheduled rescheduled cancelled quarantined duration_ms",
    ),
    event("poll.failed", "warn", "A look at the source failed.", "error sqlstate failures"),
    event("pressure.changed", "info warn", "Deletion slows down, takes turns, or is back to full speed.", "reason measured limit"),
    event("pressure.unknown", "warn", "A pressure cannot be measured and slows nothing down.", "reason why"),
    event("purge.failed", "warn", "A worker met an error that is no job's, rests and goes on.", "error sqlstate failures"),
    event(
        "record.quarantined",
        "warn",
        "A value of the source decides nothing until somebody mends it.",
        "account_id feature data_class starting_point problem",
    ),
    event("records.failed", "warn", "Records of the daemon's own were not forgotten.", "error sqlstate"),
    event(
        "records.pruned",
        "info",
        "Records of the daemon's own were past their period.",
        "history holds pauses requests approvals notices quarantine",
    ),
    event("region.unknown", "warn", "Accounts have ended and nobody knows where they live.", "accounts examples"),
    event(
        "request.accepted",
        "warn",
        "A request stands: its account's records are due.",
        "request_id account_id feature data_class due_by reason actor",
    ),
    event(
        "request.fulfilled",
        "info",
        "Nothing is left of what was asked for.",
        "request_id account_id feature data_class accepted_at due_by fulfilled_at jobs",
    ),
    event("request.placed", "warn", "Somebody asked for deletion.", "request_id account_id feature data_class due_by reason actor"),
    event("request.withdrawn", "warn", "Somebody withdrew a request.", "request_id account_id feature data_class due_by reason actor"),
    event(
        "residue.found",
        "error",
        "Records are there that should be gone.",
        "job_id account_id feature data_class starting_point retain_until delete_by targets looks retry_in_ms",
    ),
    event("service.unheard", "debug", "The service manager could not be told.", "error"),
    event("source.vanished", "warn", "Rows vanished from the source, or came back.", "source newly confirmed returned known"),
    event("store.away", "warn", "A store does not answer and is left alone for a moment.", "store account_id error"),
    event("store.back", "info", "The store answers again.", "store"),
    event("tidy.failed", "warn", "Upkeep between batches failed.", "error failures"),
    event("traces.failed", "warn", "Traces cannot be sent and are lost; said once an hour at most.", "error spans"),
    event("verify.completed", "warn", "Looks at what was purged found records that came back.", "looked residue"),
    event("verify.failed", "warn", "A look at what was purged failed.", "error sqlstate failures"),
];

/// The event of this name; `log` for every line without one.
#[must_use]
pub fn named(name: Option<&str>) -> &'static Event {
    let at = |name: &str| EVENTS.binary_search_by(|event| event.name.cmp(name)).ok();
    name.and_then(at).or_else(|| at("log")).and_then(|at| EVENTS.get(at)).unwrap_or(&EVENTS[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_in_order_so_that_each_is_found() {
        assert!(EVENTS.is_sorted_by(|a, b| a.name < b.name));
        for event in EVENTS {
            assert_eq!(named(Some(event.name)), event);
        }
        assert_eq!((named(None).name, named(Some("made.up")).name), ("log", "log"));
    }
}
