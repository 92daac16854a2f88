//! What the page of the system reads: probes, versions, the ledger, and the configuration that is in force, without anything secret.

use std::time::Duration;

use axum::{extract::State, http::HeaderMap, response::Response};
use chrono::TimeDelta;
use tokio::time::timeout;

use super::{Asked, Bare, asked, frame, ok};
use crate::{
    config::{Config, DeleteBy, People},
    desk::{
        Desk, Who,
        pages::system::{self, Check, LedgerState, Store},
        problem::Problem,
    },
    ledger,
    model::RetentionPeriod,
    safeguards::agreement,
    terminal::span,
};

/// How long a probe may take.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) async fn system(State(desk): State<Desk>, who: Who, headers: HeaderMap, query: Asked<Bare>) -> Result<Response, Problem> {
    let (page, status) = frame(&desk, &who, &headers, asked(query)?.done.as_deref()).await?;
    let probes = desk.probes();
    let ready = timeout(PATIENCE, (probes.ready)()).await.unwrap_or_else(|_| vec![("database", Err("it took too long".to_owned()))]);
    let check = |(name, found): (&str, Result<(), String>)| Check {
        name: name.to_owned(),
        ok: found.is_ok(),
        detail: found.err().unwrap_or_default(),
    };
    let mut tx = desk.screen().await?;
    let server: String = sqlx::query_scalar("select current_setting('server_version')").fetch_one(&mut *tx).await?;
    let terms = desk.config().terms();
    let changes = agreement::accepted(&mut tx).await?.map(|accepted| accepted.terms.0.changes(&terms)).unwrap_or_default();
    let text = |name: &str, version: String| (name.to_owned(), version);
    let data = system::System {
        checks: (probes.live)().into_iter().chain(ready).map(check).collect(),
        versions: vec![text("retentiond", env!("CARGO_PKG_VERSION").to_owned()), text("PostgreSQL", server)],
        policy: status.policy,
        changes: changes.iter().map(|change| format!("{} {}", change.subject, change.what)).collect(),
        ledger: ledger_state(&mut tx, status.guard.reason.as_deref()).await?,
        stores: stores(desk.config()),
        configuration: configuration(desk.config()),
    };
    Ok(ok(system::system(&page, &data)))
}

async fn ledger_state(conn: &mut sqlx::PgConnection, guard: Option<&str>) -> Result<LedgerState, Problem> {
    let broken = guard.and_then(|reason| reason.strip_prefix("ledger: ")).map(str::to_owned);
    let number = |size: u64| i64::try_from(size).unwrap_or(i64::MAX);
    let head = match ledger::head(&mut *conn).await {
        Ok(head) => head,
        Err(ledger::LedgerError::Database(error)) => return Err(error.into()),
        Err(other) => return Ok(LedgerState { broken: broken.or_else(|| Some(other.to_string())), ..LedgerState::default() }),
    };
    let (signed, broken) = match ledger::last_checkpoint(conn).await {
        Ok(last) => (last.map_or(0, |(_, checkpoint)| number(checkpoint.size)), broken),
        Err(ledger::LedgerError::Database(error)) => return Err(error.into()),
        Err(other) => (0, broken.or_else(|| Some(other.to_string()))),
    };
    Ok(LedgerState { size: number(head.size), signed, origin: head.key.name().to_owned(), broken })
}

fn stores(config: &Config) -> Vec<Store> {
    let store = |name: &str, kind: &str, targets: Vec<String>| Store {
        name: name.to_owned(),
        kind: kind.to_owned(),
        targets,
        ok: None,
        detail: String::new(),
    };
    let targets = || {
        let main = config.data_classes.iter().flat_map(|class| &class.targets).map(|target| target.name.clone());
        main.chain(config.data_classes.iter().flat_map(|class| &class.remote).map(|target| target.name.clone()))
    };
    let of = |name: &str| targets().filter(|target| target.split('/').next() == Some(name)).collect();
    config.stores.iter().map(|(name, kind)| store(name, kind.kind(), of(name))).collect()
}

/// A period as it is configured.
pub(super) fn within(period: RetentionPeriod) -> String {
    match period {
        RetentionPeriod::Seconds(seconds) => span(TimeDelta::seconds(i64::from(seconds))),
        RetentionPeriod::Months(1) => "1 month".to_owned(),
        RetentionPeriod::Months(months) => format!("{months} months"),
    }
}

fn length(length: Duration) -> String {
    match TimeDelta::from_std(length) {
        Ok(whole) if length.subsec_nanos() == 0 => span(whole),
        _ => humantime::format_duration(length).to_string(),
    }
}

fn people(people: People) -> String {
    if people == People::Two { "two people" } else { "one person" }.to_owned()
}

/// Key by key, in the order of the file. Addresses with credentials are not among them.
fn configuration(config: &Config) -> Vec<(String, String)> {
    let (kept, acts) = (config.records.keep_history, config.records.keep_acts);
    let for_ever = |kept: Option<Duration>| kept.map_or_else(|| "for ever".to_owned(), length);
    let mut rows: Vec<(String, String)> = [
        ("mode", config.mode.as_str().to_owned()),
        ("poll.interval", length(config.poll.interval)),
        ("poll.resync_interval", length(config.poll.resync_interval)),
        ("poll.vanish_interval", length(config.poll.vanish_interval)),
        ("executor.concurrency", config.executor.concurrency.to_string()),
        ("executor.max_rows_per_batch", config.executor.max_rows_per_batch.to_string()),
        ("executor.lease", length(config.executor.lease)),
        ("executor.max_backoff", length(config.executor.max_backoff)),
        ("verifier.interval", length(config.verifier.interval)),
        ("verifier.watch_for", length(config.verifier.watch_for)),
        ("requests.fulfil_within", within(config.requests.fulfil_within)),
        ("approvals.request", people(config.approvals.request)),
        ("approvals.guard_release", people(config.approvals.guard_release)),
        ("approvals.hold_release", people(config.approvals.hold_release)),
        ("approvals.policy_accept", people(config.approvals.policy_accept)),
        ("records.keep_history", for_ever(kept)),
        ("records.keep_acts", for_ever(acts)),
        ("http.ops_listen", config.http.ops_listen.to_string()),
        ("http.tokens", format!("{} configured", config.http.tokens.len())),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect();
    for class in &config.data_classes {
        let points: Vec<&str> =
            class.starting_points.iter().filter_map(|at| config.starting_points.get(*at)).map(|point| point.name.as_str()).collect();
        let late = match class.delete_by {
            DeleteBy::Within(period) => format!("deleted within {}", within(period)),
            DeleteBy::AfterStart(period) => format!("deleted {} after the starting point", within(period)),
        };
        let words = format!("kept for {} after {}; {late}", within(class.retain_for), points.join(", "));
        rows.push((format!("data class {}/{}", class.feature, class.name), words));
    }
    rows
}
