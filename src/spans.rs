//! The pieces of work that a trace shows, from begin to end, and what is known of each. An account never is: traces leave for places that the log does
//! not. Who sends them there is `telemetry`; unless it does, none of these spans is enabled, and each costs a look at one atomic.

use tracing::{
    Instrument as _, Span,
    field::{Empty, display},
    info_span,
};

/// The target of every span of ours, and of nothing else.
pub const TARGET: &str = module_path!();

/// A worker looks for jobs.
pub const CLAIM: &str = "executor.claim";

/// Feature and name of a data class.
pub type Class<'a> = (&'a str, &'a str);

/// One look of the planner; `settled` is how many accounts it has settled.
///
/// # Errors
/// Those of the work.
pub async fn look<T, E>(kind: &str, work: impl Future<Output = Result<T, E>>, settled: impl FnOnce(&T) -> u64) -> Result<T, E> {
    let span = info_span!("planner.look", kind, accounts = Empty, otel.status_code = Empty);
    within(span, work, |span, done| {
        span.record("accounts", int(settled(done)));
    })
    .await
}

/// One attempt to claim jobs of a data class.
///
/// # Errors
/// Those of the work.
pub async fn claim<T, E>((feature, data_class): Class<'_>, work: impl Future<Output = Result<Vec<T>, E>>) -> Result<Vec<T>, E> {
    let span = info_span!(CLAIM, feature, data_class, jobs = Empty, otel.status_code = Empty);
    within(span, work, |span, claimed| {
        span.record("jobs", int(claimed.len()));
    })
    .await
}

/// Everything that is done for a group of claimed jobs: calls to other stores, and one or more batches.
///
/// # Errors
/// Those of the work.
pub async fn purge<T, E>((feature, data_class): Class<'_>, jobs: usize, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let span = info_span!("executor.purge", feature, data_class, jobs = int(jobs), otel.status_code = Empty);
    within(span, work, |_, _| {}).await
}

/// One transaction that deletes. Its job is named where it is for one alone.
///
/// # Errors
/// Those of the work.
pub async fn batch<T, E>((feature, data_class): Class<'_>, jobs: &[i64], work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let span = info_span!(
        "executor.batch",
        feature,
        data_class,
        jobs = int(jobs.len()),
        job_id = Empty,
        records = Empty,
        otel.status_code = Empty
    );
    if let [job] = jobs {
        span.record("job_id", display(job));
    }
    within(span, work, |_, _| {}).await
}

/// The batch that runs here was committed, and has deleted so many records.
pub fn deleted(records: i64) {
    Span::current().record("records", records);
}

/// One call that has a store of others delete records of one job.
///
/// # Errors
/// Those of the work.
pub async fn delete<T, E>(
    (feature, data_class): Class<'_>,
    job: i64,
    target: &str,
    work: impl Future<Output = Result<T, E>>,
    records: impl FnOnce(&T) -> i64,
) -> Result<T, E> {
    let span = info_span!(
        "store.delete",
        otel.kind = "client",
        feature,
        data_class,
        job_id = %job,
        target,
        records = Empty,
        otel.status_code = Empty
    );
    within(span, work, |span, done| {
        span.record("records", records(done));
    })
    .await
}

/// One pass of the verifier; of so many subjects `looked` at, `residue` have records again.
///
/// # Errors
/// Those of the work.
pub async fn verify<T, E>(work: impl Future<Output = Result<T, E>>, looked_and_residue: impl FnOnce(&T) -> (u64, u64)) -> Result<T, E> {
    let span = info_span!("verifier.pass", looked = Empty, residue = Empty, otel.status_code = Empty);
    let told = |span: &Span, done: &T| {
        let (looked, residue) = looked_and_residue(done);
        span.record("looked", int(looked)).record("residue", int(residue));
    };
    within(span, work, told).await
}

/// One pass of the ledger, which numbers entries.
///
/// # Errors
/// Those of the work.
pub async fn number<E>(work: impl Future<Output = Result<u64, E>>) -> Result<u64, E> {
    let span = info_span!("ledger.pass", entries = Empty, otel.status_code = Empty);
    within(span, work, |span, entries| {
        span.record("entries", int(*entries));
    })
    .await
}

/// One request to the desk. The route is a template: the address itself may name an account.
pub async fn request<T>(method: &str, route: &str, work: impl Future<Output = T>) -> T {
    let span = info_span!(
        "http.request",
        otel.kind = "server",
        http.request.method = method,
        http.route = route,
        http.response.status_code = Empty,
        otel.status_code = Empty
    );
    work.instrument(span).await
}

/// The request that runs here is answered with this status.
pub fn answered(status: u16) {
    let span = Span::current();
    span.record("http.response.status_code", i64::from(status));
    if status >= 500 {
        span.record("otel.status_code", "ERROR");
    }
}

/// A number as traces know it; of any other kind they make a text.
fn int(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

/// An error marks the span; its text may quote a record, and stays in the log.
async fn within<T, E>(span: Span, work: impl Future<Output = Result<T, E>>, told: impl FnOnce(&Span, &T)) -> Result<T, E> {
    let done = work.instrument(span.clone()).await;
    match &done {
        Ok(done) => told(&span, done),
        Err(_) => {
            span.record("otel.status_code", "ERROR");
        }
    }
    done
}
