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

use crate::config::Config;

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
    ("retention_jobs", Kind::Gauge, "Jobs by state."),
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
    ("retention_polls_total", Kind::Counter, "Looks at the source by this process."),
    (
        "retention_last_poll_success_timestamp_seconds",
        Kind::Gauge,
        "When this process last looked at the source with success; absent before the first time.",
    ),
    ("retention_guard_tripped", Kind::Gauge, "1 while the guard stops the start of purges."),
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
        "retention_jobs" => "feature, data_class, state",
        "retention_overdue_jobs"
        | "retention_held_jobs"
        | "retention_earliest_unmet_deadline_timestamp_seconds"
        | "retention_deadline_lateness_seconds"
        | "retention_residual_records" => "feature, data_class",
        "retention_records_deleted_total" => "feature, data_class, target",
        "retention_batch_duration_seconds" => "target",
        "retention_polls_total" => "kind (poll, resync), outcome (ok, error)",
        "retention_last_poll_success_timestamp_seconds" => "kind",
        "retention_mode_info" => "mode",
        "retention_pressure" => "reason (replica_lag, lock_waits, connections, log_rate, active_sessions)",
        "retention_pause_seconds_total" => "reason",
        "retention_store_available" | "retention_store_failures_total" => "store",
        "retention_log_events_total" => "event, level",
        _ => "",
    }
}

/// Up to a day is the shipped allowance; what comes after it is late.
const LATENESS: &[f64] = &[1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 43_200.0, 86_400.0, 172_800.0, 604_800.0];
/// Around the 100 ms that batches aim at, up to the limit of a statement and a little more.
const BATCH: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4];

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
        let recorder = buckets(builder, "retention_batch_duration_seconds", BATCH).ok()?.build_recorder();
        let handle = recorder.handle();
        set_global_recorder(recorder).ok()?;
        describe();
        Some(handle)
    });
    gauge!("retention_mode_info", "mode" => config.mode.as_str()).set(1.0);
    for class in &config.data_classes {
        for target in class.targets.iter().map(|t| &t.name).chain(class.remote.iter().map(|t| &t.name)) {
            records_deleted(&class.feature, &class.name, target, 0);
        }
    }
    for kind in ["poll", "resync"] {
        for outcome in ["ok", "error"] {
            counter!("retention_polls_total", "kind" => kind, "outcome" => outcome).increment(0);
        }
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

/// A batch that deleted records of the target took so long.
pub fn batch_took(target: &str, took: Duration) {
    histogram!("retention_batch_duration_seconds", "target" => target.to_owned()).record(took);
}

/// A job was completed so many seconds after its `retain_until`.
pub fn completed(feature: &str, data_class: &str, lateness_seconds: f64) {
    let labels = [("feature", feature.to_owned()), ("data_class", data_class.to_owned())];
    histogram!("retention_deadline_lateness_seconds", &labels).record(lateness_seconds.max(0.0));
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
