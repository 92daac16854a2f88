//! Figures for monitors (contract: prefix `retention_`, never a label per account), behind plain functions. Knows neither passes nor databases:
//! what happens is told by whoever does it, what the database knows is handed in at each scrape.
//!
//! Before [`install`] everything here does nothing, so one-shot verbs and tests need not care.

use std::{sync::OnceLock, time::Duration};

use ::metrics::{
    SharedString, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram, set_global_recorder,
    with_local_recorder,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::config::{Config, DeleteBy};

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from zero at the start of the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Observations in buckets.
    Histogram,
}

/// Every metric: its name, what it is, and what it says. `docs/operate.md` has the same table with the labels.
pub const METRICS: &[(&str, Kind, &str)] = &[
    ("retention_build_info", Kind::Gauge, "1, with the version of the program and the revision that it was built from."),
    ("retention_jobs", Kind::Gauge, "Jobs by state."),
    ("retention_jobs_due", Kind::Gauge, "Open jobs whose retain_until has passed or will pass within the window, held ones included."),
    ("retention_overdue_jobs", Kind::Gauge, "Open jobs past delete_by that no hold keeps."),
    ("retention_held_jobs", Kind::Gauge, "Open jobs that a hold keeps."),
    (
        "retention_earliest_unmet_deadline_timestamp_seconds",
        Kind::Gauge,
        "The earliest delete_by of an open job that no hold keeps; absent when there is none.",
    ),
    (
        "retention_deadline_lateness_seconds",
        Kind::Histogram,
        "From retain_until to completion, by the clock of the database, of the jobs this process completed.",
    ),
    ("retention_records_deleted_total", Kind::Counter, "Records deleted by this process, counted after the commit."),
    (
        "retention_batch_duration_seconds",
        Kind::Histogram,
        "How long a batch took that deleted records of the target, from begin to commit.",
    ),
    (
        "retention_batches_total",
        Kind::Counter,
        "Batches of this process: committed ones that deleted records of the target; locked, undone and failed ones were rolled back and count for each target of their class.",
    ),
    (
        "retention_job_failures_total",
        Kind::Counter,
        "Attempts of this process that failed, by what to do about it. The job stays open and is tried again.",
    ),
    (
        "retention_policy_period_seconds",
        Kind::Gauge,
        "retain_for of the class as this process has it; a calendar month counts 2629746 s here.",
    ),
    (
        "retention_policy_allowance_seconds",
        Kind::Gauge,
        "From retain_until to delete_by, as this process has it; a calendar month counts 2629746 s here.",
    ),
    ("retention_polls_total", Kind::Counter, "Looks at the source by this process."),
    (
        "retention_last_poll_success_timestamp_seconds",
        Kind::Gauge,
        "When this process last looked at the source with success; absent before the first time.",
    ),
    ("retention_poll_interval_seconds", Kind::Gauge, "How often this process means to look at the source."),
    ("retention_guard_tripped", Kind::Gauge, "1 while the guard stops the start of purges."),
    (
        "retention_guard_candidates",
        Kind::Gauge,
        "Accounts that the guard counts in its window, with those that are due and have not been weighed yet.",
    ),
    ("retention_guard_limit", Kind::Gauge, "Accounts with more of which the guard trips; absent when nothing limits them."),
    ("retention_holds", Kind::Gauge, "Holds in force."),
    ("retention_earliest_hold_expiry_timestamp_seconds", Kind::Gauge, "The earliest until of a hold in force; absent when none has one."),
    ("retention_requests", Kind::Gauge, "Requests that are not over, by state; an overdue one is an accepted one too."),
    (
        "retention_oldest_open_request_timestamp_seconds",
        Kind::Gauge,
        "When the oldest request that is accepted and not fulfilled was accepted; absent when there is none.",
    ),
    ("retention_ledger_entries", Kind::Gauge, "Entries of the ledger that have a number."),
    ("retention_ledger_unnumbered_entries", Kind::Gauge, "Entries that wait for their number."),
    ("retention_ledger_checkpoint_timestamp_seconds", Kind::Gauge, "When the last checkpoint was signed; absent before the first."),
    (
        "retention_ledger_ok",
        Kind::Gauge,
        "1 while the ledger is the one that was signed, as far as the last look found; 0 stops every purge.",
    ),
    (
        "retention_ledger_missing_entries",
        Kind::Gauge,
        "Entries that a checkpoint outside the database vouches for and the database does not have; more than 0 stops every purge.",
    ),
    ("retention_clock_skew_seconds", Kind::Gauge, "This host's clock minus the other; the database's decides."),
    ("retention_paused", Kind::Gauge, "1 while everything is paused."),
    ("retention_mode_info", Kind::Gauge, "1, with the mode as its label."),
    ("retention_quarantined_records", Kind::Gauge, "Records of the source whose value decides nothing until somebody mends it."),
    (
        "retention_residual_records",
        Kind::Gauge,
        "Accounts that have records which should be gone: they came back after the purge, or no batch could delete them.",
    ),
    ("retention_pressure", Kind::Gauge, "1 while the daemon slows down for the reason, 0 while not; NaN when nobody can tell."),
    (
        "retention_pause_seconds_total",
        Kind::Counter,
        "Whole seconds that workers have paused under pressure; a pause for two reasons counts for each.",
    ),
    ("retention_store_available", Kind::Gauge, "1 while the store answers, 0 while it is left alone because it did not."),
    (
        "retention_store_failures_total",
        Kind::Counter,
        "Calls to the store that it did not answer, or answered with a request for patience.",
    ),
    ("retention_http_request_duration_seconds", Kind::Histogram, "How long an answer of the API or a page took."),
    ("retention_database_pool_connections", Kind::Gauge, "Connections of this process to the main database."),
    ("retention_notice_deliveries_total", Kind::Counter, "Tries of this process to tell an endpoint, and notices that it gave up."),
    ("retention_notices_pending", Kind::Gauge, "Notices that wait for their endpoint."),
    ("retention_oldest_notice_timestamp_seconds", Kind::Gauge, "When the oldest notice that waits was written; absent when none does."),
    (
        "retention_log_events_total",
        Kind::Counter,
        "Lines of the log of this process since its listener stands, by event; `log` is every line without one.",
    ),
    (
        "retention_config_last_reload_successful",
        Kind::Gauge,
        "1 when the configuration was read with success the last time, at the start or on SIGHUP.",
    ),
    ("retention_config_last_reload_success_timestamp_seconds", Kind::Gauge, "When that was last so."),
    ("retention_database_up", Kind::Gauge, "1 when the database answered this scrape, 0 when the figures that it holds are missing."),
];

/// The labels of a metric, for the catalogue; empty where it has none.
#[must_use]
pub fn labels(name: &str) -> &'static str {
    match name {
        "retention_build_info" => "version, revision",
        "retention_jobs" => "feature, data_class, state",
        "retention_jobs_due" => "feature, data_class, window (1d, 7d, 30d)",
        "retention_overdue_jobs"
        | "retention_held_jobs"
        | "retention_earliest_unmet_deadline_timestamp_seconds"
        | "retention_deadline_lateness_seconds"
        | "retention_policy_period_seconds"
        | "retention_policy_allowance_seconds"
        | "retention_residual_records" => "feature, data_class",
        "retention_records_deleted_total" => "feature, data_class, target",
        "retention_batch_duration_seconds" => "target",
        "retention_batches_total" => "target, outcome (committed, locked, undone, failed)",
        "retention_job_failures_total" => {
            "feature, data_class, reason (account_id, conflict, exhausted, grants, other, refused, schema, timeout, unanswered)"
        }
        "retention_polls_total" => "kind (poll, resync), outcome (ok, error)",
        "retention_last_poll_success_timestamp_seconds" | "retention_poll_interval_seconds" => "kind",
        "retention_requests" => "state (waiting, accepted, overdue)",
        "retention_clock_skew_seconds" => "against (database)",
        "retention_mode_info" => "mode",
        "retention_pressure" => "reason (replica_lag, lock_waits, connections, log_rate, active_sessions)",
        "retention_pause_seconds_total" => "reason",
        "retention_store_available" | "retention_store_failures_total" => "store",
        "retention_database_pool_connections" => "state (used, idle)",
        "retention_notice_deliveries_total" => "endpoint, outcome (sent, failed, given_up)",
        "retention_notices_pending" | "retention_oldest_notice_timestamp_seconds" => "endpoint",
        "retention_http_request_duration_seconds" => "method, route, status",
        "retention_log_events_total" => "event, level",
        _ => "",
    }
}

/// Up to a day is the shipped allowance; what comes after it is late.
const LATENESS: &[f64] = &[1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 43_200.0, 86_400.0, 172_800.0, 604_800.0];
/// Around the 100 ms that batches aim at, up to the limit of a statement and a little more.
const BATCH: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4];

/// A screen is to be there within a fifth of a second.
const ANSWER: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];
/// What becomes of a batch.
const OUTCOMES: [&str; 4] = ["committed", "locked", "undone", "failed"];
/// Why an attempt fails.
pub const REASONS: [&str; 9] = ["account_id", "conflict", "exhausted", "grants", "other", "refused", "schema", "timeout", "unanswered"];

static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// How often [`upkeep`] wants to be called.
pub const UPKEEP: Duration = Duration::from_secs(5);

/// Begins to keep figures, for the rest of the process, and shows those that are zero: a rate needs a beginning.
pub fn install(config: &Config) {
    HANDLE.get_or_init(|| {
        let buckets =
            |builder: PrometheusBuilder, name: &str, buckets| builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), buckets);
        // Fails on empty buckets alone, and when somebody else has installed a recorder: then there are no figures of ours.
        let builder = buckets(PrometheusBuilder::new(), "retention_deadline_lateness_seconds", LATENESS).ok()?;
        let recorder = buckets(builder, "retention_batch_duration_seconds", BATCH).ok()?;
        let recorder = buckets(recorder, "retention_http_request_duration_seconds", ANSWER).ok()?.build_recorder();
        let handle = recorder.handle();
        set_global_recorder(recorder).ok()?;
        describe();
        Some(handle)
    });
    configured(config);
    for class in &config.data_classes {
        for target in class.targets.iter().map(|t| &t.name).chain(class.remote.iter().map(|t| &t.name)) {
            records_deleted(&class.feature, &class.name, target, 0);
            for outcome in OUTCOMES {
                batches(target, outcome, 0);
            }
        }
        for reason in REASONS {
            failures(&class.feature, &class.name, reason, 0);
        }
    }
    for endpoint in &config.notices {
        for outcome in ["sent", "failed", "given_up"] {
            counter!("retention_notice_deliveries_total", "endpoint" => endpoint.name.clone(), "outcome" => outcome).increment(0);
        }
    }
    for kind in ["poll", "resync"] {
        for outcome in ["ok", "error"] {
            counter!("retention_polls_total", "kind" => kind, "outcome" => outcome).increment(0);
        }
    }
}

/// What the configuration says. Also after it has changed.
pub fn configured(config: &Config) {
    let revision = option_env!("RETENTIOND_REVISION").unwrap_or("unknown");
    gauge!("retention_build_info", "version" => env!("CARGO_PKG_VERSION"), "revision" => revision).set(1.0);
    gauge!("retention_mode_info", "mode" => config.mode.as_str()).set(1.0);
    for (kind, interval) in [("poll", config.poll.interval), ("resync", config.poll.resync_interval)] {
        gauge!("retention_poll_interval_seconds", "kind" => kind).set(interval.as_secs_f64());
    }
    for class in &config.data_classes {
        let period = class.retain_for.nominal_seconds();
        let allowance = match class.delete_by {
            DeleteBy::Within(allowance) => allowance.nominal_seconds(),
            DeleteBy::AfterStart(deadline) => deadline.nominal_seconds() - period,
        };
        let labels = [("feature", class.feature.clone()), ("data_class", class.name.clone())];
        gauge!("retention_policy_period_seconds", &labels).set(period);
        gauge!("retention_policy_allowance_seconds", &labels).set(allowance);
    }
}

fn describe() {
    for (name, kind, help) in METRICS {
        match kind {
            Kind::Counter => describe_counter!(*name, Unit::Count, *help),
            Kind::Gauge => describe_gauge!(*name, Unit::Count, *help),
            Kind::Histogram => describe_histogram!(*name, Unit::Count, *help),
        }
    }
}

/// A line was written to the log. Both are words of ours.
pub fn logged(event: &'static str, level: &'static str) {
    counter!("retention_log_events_total", "event" => event, "level" => level).increment(1);
}

/// A line of this event may be written some day; until then there are none.
pub fn may_be_logged(event: &'static str, level: &'static str) {
    counter!("retention_log_events_total", "event" => event, "level" => level).increment(0);
}

/// Folds observations into their buckets; without it they would pile up while nobody scrapes.
pub fn upkeep() {
    if let Some(Some(handle)) = HANDLE.get() {
        handle.run_upkeep();
    }
}

/// Records of a target are gone, for good: call it after the commit.
pub fn records_deleted(feature: &str, data_class: &str, target: &str, records: i64) {
    let labels = [("feature", feature.to_owned()), ("data_class", data_class.to_owned()), ("target", target.to_owned())];
    counter!("retention_records_deleted_total", &labels).increment(records.unsigned_abs());
}

/// The store answers, or is left alone because it does not.
pub fn store_available(store: &str, available: bool) {
    gauge!("retention_store_available", "store" => store.to_owned()).set(if available { 1.0 } else { 0.0 });
}

/// A call to the store was not answered.
pub fn store_failed(store: &str) {
    counter!("retention_store_failures_total", "store" => store.to_owned()).increment(1);
}

/// A notice was sent, failed or was given up.
pub fn notice(endpoint: &str, outcome: &'static str) {
    counter!("retention_notice_deliveries_total", "endpoint" => endpoint.to_owned(), "outcome" => outcome).increment(1);
}

/// A batch that deleted records of the target was committed and took so long.
pub fn batch_took(target: &str, took: Duration) {
    batches(target, "committed", 1);
    histogram!("retention_batch_duration_seconds", "target" => target.to_owned()).record(took);
}

/// A batch of a class with this target was rolled back; the outcome is one of `locked`, `undone` and `failed`.
pub fn batch_undone(target: &str, outcome: &'static str) {
    batches(target, outcome, 1);
}

fn batches(target: &str, outcome: &'static str, more: u64) {
    counter!("retention_batches_total", "target" => target.to_owned(), "outcome" => outcome).increment(more);
}

/// An attempt failed; the reason is one of the words of a database error's kind, `account_id` or `unanswered`.
pub fn job_failed(feature: &str, data_class: &str, reason: &'static str) {
    failures(feature, data_class, reason, 1);
}

fn failures(feature: &str, data_class: &str, reason: &'static str, more: u64) {
    let labels = [("feature", feature.to_owned()), ("data_class", data_class.to_owned()), ("reason", reason.to_owned())];
    counter!("retention_job_failures_total", &labels).increment(more);
}

/// Whole and idle connections of the pool to the main database.
pub fn connections(open: u32, idle: usize) {
    let used = f64::from(open) - f64::from(u32::try_from(idle).unwrap_or(u32::MAX)).min(f64::from(open));
    gauge!("retention_database_pool_connections", "state" => "used").set(used);
    gauge!("retention_database_pool_connections", "state" => "idle").set(f64::from(open) - used);
}

/// By how much this host's clock is ahead of the database's, which said `database` after it was asked so long ago at most.
#[expect(clippy::disallowed_methods, reason = "compared with the database's clock for monitors; no decision rests on it")]
pub fn clock_skew(database: chrono::DateTime<chrono::Utc>, asked: Duration) {
    // It said so somewhere in between: the middle is wrong by half of that at most.
    let ahead = (chrono::Utc::now() - database).as_seconds_f64() - asked.as_secs_f64() / 2.0;
    gauge!("retention_clock_skew_seconds", "against" => "database").set(ahead);
}

/// A job was completed so many seconds after its `retain_until`.
pub fn completed(feature: &str, data_class: &str, lateness_seconds: f64) {
    let labels = [("feature", feature.to_owned()), ("data_class", data_class.to_owned())];
    histogram!("retention_deadline_lateness_seconds", &labels).record(lateness_seconds.max(0.0));
}

/// The API or a page was answered. Routes are patterns: no account is named in one.
pub fn answered(method: &str, route: &str, status: u16, took: Duration) {
    let labels = [("method", method.to_owned()), ("route", route.to_owned()), ("status", status.to_string())];
    histogram!("retention_http_request_duration_seconds", &labels).record(took);
}

/// A look at the source ended.
pub fn polled(kind: &'static str, succeeded: bool) {
    counter!("retention_polls_total", "kind" => kind, "outcome" => if succeeded { "ok" } else { "error" }).increment(1);
    if succeeded {
        gauge!("retention_last_poll_success_timestamp_seconds", "kind" => kind).set(now());
    }
}

#[expect(clippy::disallowed_methods, reason = "a figure for monitors, compared with their clock; no decision rests on it")]
fn now() -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "microseconds are exact until the year 2255")]
    let seconds = chrono::Utc::now().timestamp_micros() as f64 / 1e6;
    seconds
}

/// The configuration was read, and is in force or not.
pub fn reloaded(succeeded: bool) {
    gauge!("retention_config_last_reload_successful").set(if succeeded { 1.0 } else { 0.0 });
    if succeeded {
        gauge!("retention_config_last_reload_success_timestamp_seconds").set(now());
    }
}

/// Whether the platform is under pressure for this reason; `None` when nobody can tell.
pub fn pressure(reason: &'static str, exceeded: Option<bool>) {
    let value = exceeded.map_or(f64::NAN, |exceeded| if exceeded { 1.0 } else { 0.0 });
    gauge!("retention_pressure", "reason" => reason).set(value);
}

/// How long workers have paused for this reason since the start, altogether.
pub fn paused(reason: &'static str, altogether: Duration) {
    counter!("retention_pause_seconds_total", "reason" => reason).absolute(altogether.as_secs());
}

/// What the database knows, as gauges for one scrape. A gauge that is not set is absent from the answer.
#[derive(Debug, Default)]
pub struct Gauges(Vec<Gauge>);

/// Name, labels, value.
type Gauge = (&'static str, Vec<(&'static str, String)>, f64);

impl Gauges {
    /// Adds a gauge; its name must be one of [`METRICS`].
    pub fn set(&mut self, name: &'static str, labels: &[(&'static str, &str)], value: f64) {
        let labels = labels.iter().map(|(label, value)| (*label, (*value).to_owned())).collect();
        self.0.push((name, labels, value));
    }

    /// Adds a gauge for a data class.
    pub fn set_class(&mut self, name: &'static str, (feature, data_class): (&str, &str), value: f64) {
        self.set(name, &[("feature", feature), ("data_class", data_class)], value);
    }
}

/// Everything in the Prometheus text format: the figures of this process, and the given ones.
#[must_use]
pub fn render(gauges: &Gauges) -> String {
    let process = HANDLE.get().and_then(Option::as_ref).map(PrometheusHandle::render).unwrap_or_default();
    // Made anew each time, so that a gauge which is gone does not linger.
    let scrape = PrometheusBuilder::new().build_recorder();
    with_local_recorder(&scrape, || {
        describe();
        for (name, labels, value) in &gauges.0 {
            let labels: Vec<(SharedString, SharedString)> = labels.iter().map(|(l, v)| ((*l).into(), v.clone().into())).collect();
            gauge!(*name, &labels).set(*value);
        }
    });
    process + &scrape.handle().render()
}
