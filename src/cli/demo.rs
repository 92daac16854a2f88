//! `demo`: everything on an embedded Postgres of its own: the reference platform, sample accounts at every stage of life, the daemon in front of
//! the reader, and at the end what was due, what was deleted and what was left alone and why.

use std::{collections::BTreeMap, io::Write, path::PathBuf, sync::Arc, time::Duration};

use super::{block_on, log_before_configuration, print};
use crate::{
    app,
    certificate::{self, Certificate},
    config::{self, Config, Needs},
    database::{self, Database},
    desk,
    embedded::{Options, Server},
    failure::Failure,
    ledger::{self, Ledger, Seen},
    sample::{
        self, Stage, Summary,
        stores::{Count, Due, Stores},
    },
    schema, telemetry,
    terminal::table,
};

/// Enough that every stage of life has several accounts, few enough to read along.
const ACCOUNTS: u32 = 240;
/// The promise as shipped; the demo keeps it to the letter (R10).
const PROMISE: &str = include_str!("../../config/retentiond.toml");

pub(super) fn demo(length: Duration, postgres_bin: Option<PathBuf>, elsewhere: bool) -> Result<(), Failure> {
    let result = show(length, postgres_bin, elsewhere);
    if result.is_err() {
        log_before_configuration();
    }
    result
}

fn show(length: Duration, postgres_bin: Option<PathBuf>, elsewhere: bool) -> Result<(), Failure> {
    print("Starting a Postgres of its own, on loopback, in a temporary folder …");
    let server = Server::start(&Options { bin: postgres_bin, ..Options::default() }).map_err(|e| Failure::Other(e.into()))?;
    let url = server.url("postgres");
    let folder = tempfile::tempdir().map_err(|e| Failure::Other(e.into()))?;
    let stores = if elsewhere { Some(Stores::start().map_err(|e| Failure::Other(e.into()))?) } else { None };
    let promise = folder.path().join("retentiond.toml");
    let rules = stores.as_ref().map_or_else(|| PROMISE.to_owned(), |stores| stores.rules(PROMISE));
    std::fs::write(&promise, rules).map_err(|e| Failure::Other(e.into()))?;
    let pages = free_for_pages();
    // Most of the sample accounts are due at once, which the shipped guard exists to stop.
    let settings = [
        ("RETENTIOND__MODE", "enforce"),
        ("RETENTIOND__DATABASE__URL", url.as_str()),
        ("RETENTIOND__POLL__INTERVAL", "1s"),
        ("RETENTIOND__GUARD__MAX_ACCOUNTS", "unlimited"),
        ("RETENTIOND__GUARD__MAX_SHARE", "100%"),
        ("RETENTIOND__HTTP__OPS_LISTEN", "127.0.0.1:0"),
        ("RETENTIOND__HTTP__LISTEN", pages.as_str()),
    ];
    let mut environment: BTreeMap<String, String> = settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    // Where its traces go is all that it may be told.
    environment.extend(config::environment().into_iter().filter(|(key, _)| key.starts_with("RETENTIOND__TELEMETRY__")));
    let config = Arc::new(config::load(&[promise], &environment, Needs::Database)?);
    let traces = telemetry::begin(&config).map_err(|e| Failure::Other(e.into()))?;
    let ended = block_on(async {
        schema::migrate(&config, true).await?;
        let mut connection = database::connect(&config.database).await?;
        let filled = sample::fill(&mut connection, ACCOUNTS).await.map_err(database::DatabaseError::from)?;
        let before = sample::census(&mut connection).await.map_err(database::DatabaseError::from)?;
        introduce(&filled, length, &url, &pages);
        if let Some(stores) = &stores {
            stores.fill(&mut connection).await.map_err(|e| Failure::Other(e.into()))?;
            stores.left_out().iter().for_each(|why| print(&format!("Left out, {why}.")));
        }
        app::run(Arc::clone(&config), Some(length), None, desk::serve).await?;
        let after = sample::census(&mut connection).await.map_err(database::DatabaseError::from)?;
        conclude(&before, &after);
        certify(&config, &mut connection).await?;
        if let Some(stores) = &stores {
            let due = Due::now(&mut connection).await.map_err(database::DatabaseError::from)?;
            conclude_elsewhere(&stores.census(&due).await.map_err(|e| Failure::Other(e.into()))?);
        }
        Ok(())
    });
    traces.finish();
    server.stop().map_err(|e| Failure::Other(e.into()))?;
    ended
}

fn conclude_elsewhere(counts: &[Count]) {
    let row = |count: &Count| vec![count.target.clone(), count.due.to_string(), count.others.to_string()];
    print("\nThe same accounts in the other stores:");
    print(&table(&["place", "records left of accounts that are due", "of all others"], &counts.iter().map(row).collect::<Vec<_>>()));
}

/// Writes the certificate of one purge, which needs nothing of this demo any more.
async fn certify(config: &Arc<Config>, connection: &mut sqlx::PgConnection) -> Result<(), Failure> {
    let job: Option<i64> = sqlx::query_scalar(
        "select id from retention.history where state = 'completed' and jsonb_path_exists(records_deleted, '$.* ? (@ > 0)') order by completed_at desc limit 1",
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(database::DatabaseError::from)?;
    let Some(job) = job else { return Ok(()) };
    Ledger::new(Database::new(&config.database)?, Arc::clone(config), Seen::default()).pass().await?;
    let Some(evidence) = ledger::evidence(connection, job).await? else { return Ok(()) };
    let certificate = Certificate::new(job, evidence).map_err(|e| Failure::Other(e.into()))?;
    let kept = |page: String| -> std::io::Result<PathBuf> {
        let mut file = tempfile::Builder::new().prefix("certificate-").suffix(".html").tempfile()?;
        file.write_all(page.as_bytes())?;
        Ok(file.keep().map_err(|e| e.error)?.1)
    };
    let file = kept(certificate::page(&certificate)).map_err(|e| Failure::Other(e.into()))?;
    print(&format!("\nThe certificate of job {job} is in {}. Anybody can check it, with the file alone:", file.display()));
    print(&format!("  retentiond certificate verify {} --key {}", file.display(), certificate.key));
    Ok(())
}

/// The usual address of the pages, or another where somebody has that one.
fn free_for_pages() -> String {
    let free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).and_then(|listener| listener.local_addr());
    free(8080).or_else(|_| free(0)).map_or_else(|_| "off".to_owned(), |address| address.to_string())
}

fn introduce(filled: &Summary, length: Duration, url: &str, pages: &str) {
    let Summary { accounts, templates, tasks, messages, media } = filled;
    print(&format!(
        "Filled the reference platform: {accounts} accounts, {templates} templates, {tasks} tasks, {messages} queue messages, {media} media objects."
    ));
    print(
        "The rules are those of the shipped config/retentiond.toml: configuration goes after 30 days, queue data after 7, customer media never.",
    );
    print("One thing differs, for this demo only: its guard is wide open (max_accounts = \"unlimited\", max_share = \"100%\"),");
    print("because most sample accounts are due at once. As shipped, the guard would stop that before the first purge.");
    print(&format!("Look inside meanwhile: http://{pages}/, or psql '{url}'"));
    print(&format!("The daemon now runs for {}; some accounts come due while you watch. Its log:\n", humantime::format_duration(length)));
}

fn conclude(before: &[Stage], after: &[Stage]) {
    let rows: Vec<Vec<String>> = before
        .iter()
        .zip(after)
        .map(|(was, is)| {
            let records = |s: &Stage| s.templates + s.tasks + s.messages;
            vec![
                was.name.clone(),
                was.accounts.to_string(),
                (is.configuration_due + is.queue_due + records(was) - records(is)).to_string(),
                (records(was) - records(is)).to_string(),
                records(is).to_string(),
                format!("{} of {}", is.media, was.media),
                was.reason.clone(),
            ]
        })
        .collect();
    print("\nWhat was due, what was deleted, what was left alone and why:");
    print(&table(&["accounts", "how many", "due", "deleted", "left", "media left", "why"], &rows));
    let (was, is) = (Summary::of(before), Summary::of(after));
    let deleted = was.templates + was.tasks + was.messages - is.templates - is.tasks - is.messages;
    let due: i64 = after.iter().map(|s| s.configuration_due + s.queue_due).sum();
    print(&format!("{deleted} records deleted, {due} due records left, {} of {} media objects untouched.", is.media, was.media));
}
