//! Turns the configuration as written into the configuration as meant, section by section, and reports every fault in one go.
//! Here are the settings; rules are read in `rules.rs` and compared in `overlap.rs`. Nothing opens a connection.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use secrecy::SecretString;
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use super::{
    Approvals, Config, Database, Executor, Guard, Ledger, Log, LogFormat, Origin, People, Poll, Pressure, Records, Requests, Verifier,
    address::address,
    http, notices,
    overlap::{Point, judge},
    raw::{self, Text, Tree},
    reload,
    rules::{data_class, exemption, starting_point, store},
    table::{Faults, Invalid, Read, Table, at_least, duration, limit, number, period, share, text, texts, unlimited_or, word},
    telemetry,
};
use crate::{model::Mode, proof::SigningKey};

/// What the caller is going to do with the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Connect: `database.url` is required, and read from its file.
    Database,
    /// Look at the configuration only; an address is judged if it is given.
    Nothing,
}

/// Reads and judges the configuration: `files` in order, or those that `RETENTIOND_CONFIG` names, under the environment.
///
/// # Errors
/// Every fault that was found. Files that cannot be read or parsed are reported alone, because nothing sure can be
/// said of the rest.
pub fn load(files: &[PathBuf], environment: &BTreeMap<String, String>, needs: Needs) -> Result<Config, Invalid> {
    let faults = Faults::default();
    let files = raw::files(files, environment);
    let texts = raw::read(&files, &faults);
    faults.settle(Some(()))?;
    let texts: Vec<Text<'_>> = texts.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let mut config = parse(&texts, environment, needs)?;
    config.origin.files = files;
    Ok(config)
}

/// [`load`] for texts that are already at hand, each with a name for messages.
///
/// # Errors
/// Every fault that was found.
pub fn parse(files: &[Text<'_>], environment: &BTreeMap<String, String>, needs: Needs) -> Result<Config, Invalid> {
    let faults = Faults::default();
    let tree = raw::merge(files, environment, &faults);
    let written = tree.as_ref().map(reload::written).unwrap_or_default();
    let config = tree.and_then(|tree| Table::read(tree, &faults, |root| config(root, needs)));
    let mut config = faults.settle(config)?;
    config.origin.written = written;
    Ok(config)
}

fn config(root: &mut Table<'_>, needs: Needs) -> Option<Config> {
    let mut warnings = Vec::new();
    let modes = [("enforce", Mode::Enforce), ("observe", Mode::Observe)];
    let mode = root.need("mode", "write mode = \"enforce\" or \"observe\"; there is no default", word(&modes));
    let executor = root.section("executor", executor).flatten();
    let concurrency = executor.as_ref().map(|executor| executor.concurrency);
    let database = root.section("database", |t| database(t, needs, concurrency, &mut warnings)).flatten();
    let poll = root.section("poll", poll).flatten();
    let pressure = root.section("pressure", pressure).flatten();
    let verifier = root.section("verifier", |t| verifier(t, needs, &mut warnings)).flatten();
    let guard = root.section("guard", |t| guard(t, &mut warnings)).flatten();
    let ledger = root.section("ledger", |t| ledger(t, needs));
    let requests = root.section("requests", requests).flatten();
    let approvals = root.section("approvals", approvals).flatten();
    let records = root.section("records", records).flatten();
    if let (Some(records), Some(verifier)) = (&records, &verifier)
        && let Some(keep) = records.keep_history
        && keep < verifier.watch_for
    {
        let shown = humantime::format_duration;
        let problem = format!(
            "{} is shorter than verifier.watch_for = {}: what is looked at again would be forgotten",
            shown(keep),
            shown(verifier.watch_for)
        );
        root.fault("records.keep_history", problem);
    }
    let http = root.section("http", http::http).flatten();
    let notices = notices::endpoints(root, needs);
    if let Some(records) = &records {
        notices::judge_period(root, &notices, records.keep_notices);
    }
    let log = root.section("log", |t| log(t, needs)).flatten();
    let traces = root.section("telemetry", |t| telemetry::traces(t, needs, &mut warnings)).flatten();
    let regions = root.maybe("regions", texts);
    let stores = root.named("stores", |t| store(t, needs));
    let points = root.list("starting_points", label(&["name"]), starting_point);
    let classes = root.list("data_classes", label(&["feature", "name"]), |t| data_class(t, &stores, &points));
    for (key, none) in [("starting_points", points.is_empty()), ("data_classes", classes.is_empty())] {
        if none && root.has(key) {
            root.fault(key, "must define at least one");
        }
    }
    let exemptions = root.list("exemptions", label(&["table"]), exemption);
    judge(root, &stores, &points, &classes);

    let usable = |point: &Point| point.whole.as_ref().is_some_and(|point| point.region_column.is_some());
    if regions.is_some() && !points.iter().any(usable) {
        root.fault("regions", "needs an account-level starting point with a region_column to tell regions by");
    }
    for (at, point) in points.iter().enumerate() {
        let used = classes.iter().any(|class| class.starting_points.contains(&at));
        if let (Some(name), false) = (&point.name, used) {
            warnings.push(format!("starting_points[{name}]: no data class lists it"));
        }
    }
    let mut data_classes = Vec::new();
    let mut customer_places = Vec::new();
    for class in classes {
        customer_places.extend(class.places.into_iter().map(|place| place.place));
        data_classes.extend(class.whole);
    }
    Some(Config {
        mode: mode?,
        database: database?,
        poll: poll?,
        executor: executor?,
        pressure: pressure?,
        verifier: verifier?,
        guard: guard?,
        ledger: ledger?,
        requests: requests?,
        approvals: approvals?,
        records: records?,
        notices,
        http: http?,
        log: log?,
        traces,
        regions,
        starting_points: points.into_iter().filter_map(|point| point.whole).collect(),
        data_classes,
        customer_places,
        exemptions: exemptions.into_iter().flatten().collect(),
        stores: stores.into_iter().filter_map(|(name, store)| Some((name, store?))).collect(),
        warnings,
        origin: Origin::default(),
    })
}

fn database(t: &mut Table<'_>, needs: Needs, concurrency: Option<usize>, warnings: &mut Vec<String>) -> Option<Database> {
    let max_connections = t.scalar("max_connections", number(1..=1_000));
    let statement_cache = t.scalar("statement_cache", number(0..=10_000));
    if let (Some(most), Some(workers)) = (max_connections, concurrency) {
        // Listening, planning and answering need one each while every worker holds its own.
        let least = workers + 4;
        if (most as usize) < least {
            let problem = format!("{most} is too few for executor.concurrency = {workers}: at least {least}");
            t.fault("max_connections", problem);
        }
    }
    let given = t.has("url") || t.has("url_file");
    if !given && needs == Needs::Database {
        t.fault("url", "is missing: write url = \"postgres://…\" or url_file, or set DATABASE_URL");
    }
    let url = postgres(t, needs, warnings);
    if given && needs == Needs::Database && url.is_none() {
        return None;
    }
    Some(Database { url: url.unwrap_or_default(), max_connections: max_connections?, statement_cache: statement_cache? as usize })
}

/// The address of a database as `url`, or in the file that `url_file` names. `None` also when it is at fault, or in a file that nobody needs now.
fn postgres(t: &mut Table<'_>, needs: Needs, warnings: &mut Vec<String>) -> Option<SecretString> {
    let url = t.maybe("url", |value| address(&text(value)?));
    let from_file = t.maybe("url_file", |value| {
        let path = text(value)?;
        match needs {
            Needs::Nothing => Ok(None),
            Needs::Database => {
                let content = fs::read_to_string(&path).map_err(|error| format!("{path:?} {}", raw::unreadable(&error)))?;
                address(&content).map(Some).map_err(|problem| format!("the address in {path:?} {problem}"))
            }
        }
    });
    let address = url.or(from_file.flatten())?;
    warnings.extend(address.warning.map(|warning| format!("{}: {warning}", t.key("url"))));
    Some(address.url)
}

fn poll(t: &mut Table<'_>) -> Option<Poll> {
    let interval = t.scalar("interval", duration);
    let resync_interval = t.scalar("resync_interval", duration);
    let overlap = t.scalar("overlap", duration);
    if let (Some(short), Some(long)) = (interval, resync_interval)
        && long < short
    {
        let shown = humantime::format_duration;
        t.fault("resync_interval", format!("{} is shorter than poll.interval = {}", shown(long), shown(short)));
    }
    let vanish_interval = t.maybe("vanish_interval", duration);
    if let (Some(vanish), Some(resync)) = (vanish_interval, resync_interval)
        && vanish < resync
    {
        let shown = humantime::format_duration;
        t.fault("vanish_interval", format!("{} is shorter than poll.resync_interval = {}", shown(vanish), shown(resync)));
    }
    let resync_interval = resync_interval?;
    let vanish_interval = vanish_interval.unwrap_or(resync_interval);
    Some(Poll { interval: interval?, resync_interval, vanish_interval, overlap: overlap? })
}

fn executor(t: &mut Table<'_>) -> Option<Executor> {
    let concurrency = t.scalar("concurrency", number(1..=64));
    let max_rows_per_batch = t.scalar("max_rows_per_batch", number(1..=100_000));
    let lease = t.scalar("lease", at_least(Duration::from_secs(5)));
    // Back-off starts at one second (R45).
    let max_backoff = t.scalar("max_backoff", at_least(Duration::from_secs(1)));
    Some(Executor { concurrency: concurrency? as usize, max_rows_per_batch: max_rows_per_batch?, lease: lease?, max_backoff: max_backoff? })
}

fn pressure(t: &mut Table<'_>) -> Option<Pressure> {
    let max_replica_lag = t.scalar("max_replica_lag", unlimited_or(duration));
    let max_lock_waits = t.scalar("max_lock_waits", limit);
    let max_connections = t.scalar("max_connections", unlimited_or(share));
    let max_log_rate = t.scalar("max_log_rate", limit);
    let max_active_sessions = t.scalar("max_active_sessions", limit);
    Some(Pressure {
        max_replica_lag: max_replica_lag?,
        max_lock_waits: max_lock_waits?,
        max_connections: max_connections?,
        max_log_rate: max_log_rate?,
        max_active_sessions: max_active_sessions?,
    })
}

fn verifier(t: &mut Table<'_>, needs: Needs, warnings: &mut Vec<String>) -> Option<Verifier> {
    let (interval, watch_for) = (t.scalar("interval", duration), t.scalar("watch_for", duration));
    let given = t.has("url") || t.has("url_file");
    if t.has("url") && t.has("url_file") {
        t.fault("url_file", "url is set too; keep one of them");
    }
    let url = postgres(t, needs, warnings);
    if given && needs == Needs::Database && url.is_none() {
        return None;
    }
    Some(Verifier { interval: interval?, watch_for: watch_for?, url })
}

fn guard(t: &mut Table<'_>, warnings: &mut Vec<String>) -> Option<Guard> {
    let window = t.scalar("window", duration);
    let max_accounts = t.scalar("max_accounts", limit);
    let max_share = t.scalar("max_share", share);
    let share_floor = t.scalar("share_floor", number(0..=u32::MAX));
    let max_shrink = t.scalar("max_shrink", share);
    if let (Some(None), Some(1.0..)) = (max_accounts, max_share) {
        warnings.push("guard: max_accounts and max_share let everything through; nothing stops a mass deletion".to_owned());
    }
    Some(Guard {
        window: window?,
        max_accounts: max_accounts?,
        max_share: max_share?,
        share_floor: share_floor?.into(),
        max_shrink: max_shrink?,
    })
}

fn ledger(t: &mut Table<'_>, needs: Needs) -> Ledger {
    let key = t.maybe("key_file", |value| {
        let path = text(value)?;
        match needs {
            Needs::Nothing => Ok(None),
            Needs::Database => {
                let content = fs::read_to_string(&path).map_err(|error| format!("{path:?} {}", raw::unreadable(&error)))?;
                let key = SigningKey::parse(&content.into());
                key.map(Some).map_err(|why| format!("{path:?} {why}; `retentiond ledger keygen` makes one"))
            }
        }
    });
    let checkpoint_dir = t.maybe("checkpoint_dir", |value| text(value).map(PathBuf::from));
    Ledger { key: key.flatten(), checkpoint_dir }
}

fn requests(t: &mut Table<'_>) -> Option<Requests> {
    Some(Requests { fulfil_within: t.scalar("fulfil_within", period)? })
}

fn approvals(t: &mut Table<'_>) -> Option<Approvals> {
    let people = |value: &::config::Value| number(1..=2)(value).map(|people| if people == 1 { People::One } else { People::Two });
    let request = t.scalar("request", people);
    let guard_release = t.scalar("guard_release", people);
    let hold_release = t.scalar("hold_release", people);
    let policy_accept = t.scalar("policy_accept", people);
    Some(Approvals { request: request?, guard_release: guard_release?, hold_release: hold_release?, policy_accept: policy_accept? })
}

fn records(t: &mut Table<'_>) -> Option<Records> {
    // Shorter is a slip of the pen.
    let a_day = Duration::from_hours(24);
    let keep_history = t.scalar("keep_history", unlimited_or(at_least(a_day)));
    let keep_acts = t.scalar("keep_acts", unlimited_or(at_least(a_day)));
    let keep_notices = t.scalar("keep_notices", unlimited_or(at_least(a_day)));
    Some(Records { keep_history: keep_history?, keep_acts: keep_acts?, keep_notices: keep_notices? })
}

fn log(t: &mut Table<'_>, needs: Needs) -> Option<Log> {
    let formats = [("auto", LogFormat::Auto), ("json", LogFormat::Json), ("text", LogFormat::Text)];
    let format = t.scalar("format", word(&formats));
    let level = t.scalar("level", |value| {
        let given = text(value)?;
        // A filter takes any lone word for a target, a misspelt level too.
        let level = |part: &str| part.contains(['=', '[']) || part.trim().parse::<LevelFilter>().is_ok();
        if given.split(',').all(level) && EnvFilter::builder().parse(&given).is_ok() {
            Ok(given)
        } else {
            Err(format!("{given:?} is not a filter: write a level like \"info\", or \"info,retentiond=debug\""))
        }
    });
    let pseudonyms = t.scalar("account_ids", word(&[("plain", false), ("pseudonym", true)]));
    let given = t.has("account_key") || t.has("account_key_file");
    if t.has("account_key") && t.has("account_key_file") {
        t.fault("account_key_file", "account_key is set too; keep one of them");
    }
    let key = t.maybe("account_key", |value| account_key(&text(value)?));
    let from_file = t.maybe("account_key_file", |value| {
        let path = text(value)?;
        if needs == Needs::Nothing {
            return Ok(None);
        }
        let content = fs::read_to_string(&path).map_err(|error| format!("{path:?} {}", raw::unreadable(&error)))?;
        account_key(&content).map(Some).map_err(|problem| format!("{path:?} {problem}"))
    });
    if pseudonyms == Some(true) && !given {
        t.fault("account_ids", "\"pseudonym\" needs a key: set account_key_file to a file with 16 random bytes or more in it");
    }
    let account_key = key.or(from_file.flatten()).filter(|_| pseudonyms == Some(true));
    if pseudonyms == Some(true) && needs == Needs::Database && account_key.is_none() {
        return None;
    }
    Some(Log { format: format?, level: level?, account_key })
}

/// Never repeats the key.
fn account_key(given: &str) -> Read<SecretString> {
    let key = given.trim();
    let remedy = "needs 16 bytes or more, like those of `openssl rand -hex 32`";
    if key.len() < 16 { Err(format!("is a key of {} bytes and {remedy}", key.len())) } else { Ok(key.into()) }
}

/// Names a table of an array by some of its texts, joined by `/`.
pub(super) fn label(keys: &'static [&str]) -> impl Fn(&Tree) -> Option<String> {
    move |tree| {
        let words: Option<Vec<_>> = keys.iter().map(|&key| tree.get(key).and_then(|value| text(value).ok())).collect();
        words.map(|words| words.join("/"))
    }
}
