//! Turns the configuration as written into the configuration as meant, section by section, and reports every fault in one go.
//! Rules that span data classes (media, shared tables, sources) are judged in `overlap.rs`; nothing here opens a connection.

use std::{collections::BTreeMap, fs, net::SocketAddr, path::PathBuf, time::Duration};

use secrecy::SecretString;
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use super::{
    Config, CustomerPlace, DataClass, Database, DeleteBy, Executor, Guard, Http, Log, LogFormat,
    Origin, Poll, StartingPoint, Store, Target, Verifier,
    address::address,
    overlap::{Class, Place, Point, judge},
    raw::{self, Text, Tree},
    table::{
        Faults, Invalid, Read, Table, at_least, duration, limit, number, period, share, text,
        texts, word,
    },
};
use crate::model::{Ident, Mode, RetentionPeriod, TableName};

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
pub fn load(
    files: &[PathBuf],
    environment: &BTreeMap<String, String>,
    needs: Needs,
) -> Result<Config, Invalid> {
    let faults = Faults::default();
    let files = raw::files(files, environment);
    let texts = raw::read(&files, &faults);
    faults.settle(Some(()))?;
    let texts: Vec<Text<'_>> =
        texts.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let mut config = parse(&texts, environment, needs)?;
    config.origin = Origin { files };
    Ok(config)
}

/// [`load`] for texts that are already at hand, each with a name for messages.
///
/// # Errors
/// Every fault that was found.
pub fn parse(
    files: &[Text<'_>],
    environment: &BTreeMap<String, String>,
    needs: Needs,
) -> Result<Config, Invalid> {
    let faults = Faults::default();
    let tree = raw::merge(files, environment, &faults);
    let config = tree.and_then(|tree| Table::read(tree, &faults, |root| config(root, needs)));
    faults.settle(config)
}

fn config(root: &mut Table<'_>, needs: Needs) -> Option<Config> {
    let mut warnings = Vec::new();
    let modes = [("enforce", Mode::Enforce), ("observe", Mode::Observe)];
    let mode = root.need(
        "mode",
        "write mode = \"enforce\" or \"observe\"; there is no default",
        word(&modes),
    );
    let executor = root.section("executor", executor).flatten();
    let concurrency = executor.as_ref().map(|executor| executor.concurrency);
    let database =
        root.section("database", |t| database(t, needs, concurrency, &mut warnings)).flatten();
    let poll = root.section("poll", poll).flatten();
    let verifier = root.section("verifier", verifier).flatten();
    let guard = root.section("guard", |t| guard(t, &mut warnings)).flatten();
    let http = root.section("http", http).flatten();
    let log = root.section("log", log).flatten();
    let regions = root.maybe("regions", texts);
    let stores = root.named("stores", store);
    let points = root.list("starting_points", label(&["name"]), starting_point);
    let classes =
        root.list("data_classes", label(&["feature", "name"]), |t| data_class(t, &stores, &points));
    for (key, none) in
        [("starting_points", points.is_empty()), ("data_classes", classes.is_empty())]
    {
        if none && root.has(key) {
            root.fault(key, "must define at least one");
        }
    }
    root.later(&["exemptions", "ledger", "approvals"]);
    judge(root, &stores, &points, &classes);

    let usable =
        |point: &Point| point.whole.as_ref().is_some_and(|point| point.region_column.is_some());
    if regions.is_some() && !points.iter().any(usable) {
        root.fault(
            "regions",
            "needs an account-level starting point with a region_column to tell regions by",
        );
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
        verifier: verifier?,
        guard: guard?,
        http: http?,
        log: log?,
        regions,
        starting_points: points.into_iter().filter_map(|point| point.whole).collect(),
        data_classes,
        customer_places,
        stores: stores.into_iter().filter_map(|(name, store)| Some((name, store?))).collect(),
        warnings,
        origin: Origin::default(),
    })
}

fn database(
    t: &mut Table<'_>,
    needs: Needs,
    concurrency: Option<usize>,
    warnings: &mut Vec<String>,
) -> Option<Database> {
    let max_connections = t.scalar("max_connections", number(1..=1_000));
    let statement_cache = t.scalar("statement_cache", number(0..=10_000));
    if let (Some(most), Some(workers)) = (max_connections, concurrency) {
        // Listening, planning and answering need one each while every worker holds its own.
        let least = workers + 4;
        if (most as usize) < least {
            let problem =
                format!("{most} is too few for executor.concurrency = {workers}: at least {least}");
            t.fault("max_connections", problem);
        }
    }
    let url = t.maybe("url", |value| address(&text(value)?));
    let from_file = t.maybe("url_file", |value| {
        let path = text(value)?;
        match needs {
            Needs::Nothing => Ok(None),
            Needs::Database => {
                let content = fs::read_to_string(&path)
                    .map_err(|error| format!("{path:?} {}", raw::unreadable(&error)))?;
                address(&content)
                    .map(Some)
                    .map_err(|problem| format!("the address in {path:?} {problem}"))
            }
        }
    });
    let given = t.has("url") || t.has("url_file");
    if !given && needs == Needs::Database {
        t.fault("url", "is missing: write url = \"postgres://…\" or url_file, or set DATABASE_URL");
    }
    let address = url.or(from_file.flatten());
    if given && needs == Needs::Database && address.is_none() {
        return None;
    }
    let (url, warning) =
        address.map_or_else(|| (SecretString::default(), None), |a| (a.url, a.warning));
    warnings.extend(warning);
    Some(Database {
        url,
        max_connections: max_connections?,
        statement_cache: statement_cache? as usize,
    })
}

fn poll(t: &mut Table<'_>) -> Option<Poll> {
    let interval = t.scalar("interval", duration);
    let resync_interval = t.scalar("resync_interval", duration);
    let overlap = t.scalar("overlap", duration);
    if let (Some(short), Some(long)) = (interval, resync_interval)
        && long < short
    {
        let shown = humantime::format_duration;
        t.fault(
            "resync_interval",
            format!("{} is shorter than poll.interval = {}", shown(long), shown(short)),
        );
    }
    t.later(&["vanish_interval"]);
    Some(Poll { interval: interval?, resync_interval: resync_interval?, overlap: overlap? })
}

fn executor(t: &mut Table<'_>) -> Option<Executor> {
    let concurrency = t.scalar("concurrency", number(1..=64));
    let max_rows_per_batch = t.scalar("max_rows_per_batch", number(1..=100_000));
    let lease = t.scalar("lease", at_least(Duration::from_secs(5)));
    // Back-off starts at one second (R45).
    let max_backoff = t.scalar("max_backoff", at_least(Duration::from_secs(1)));
    Some(Executor {
        concurrency: concurrency? as usize,
        max_rows_per_batch: max_rows_per_batch?,
        lease: lease?,
        max_backoff: max_backoff?,
    })
}

fn verifier(t: &mut Table<'_>) -> Option<Verifier> {
    let interval = t.scalar("interval", duration);
    t.later(&["watch_for"]);
    Some(Verifier { interval: interval? })
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

fn http(t: &mut Table<'_>) -> Option<Http> {
    let listen = t.scalar("listen", |value| {
        let listen = socket(value)?;
        if listen.ip().is_loopback() {
            Ok(listen)
        } else {
            Err(format!("{listen} is not a loopback address, and without tokens anybody could reach it: use 127.0.0.1"))
        }
    });
    let ops_listen = t.scalar("ops_listen", socket);
    if let (Some(listen), Some(ops)) = (listen, ops_listen)
        && listen == ops
        && ops.port() != 0
    {
        t.fault("ops_listen", format!("{ops} is http.listen too; give them different ports"));
    }
    t.later(&["tokens"]);
    Some(Http { listen: listen?, ops_listen: ops_listen? })
}

fn socket(value: &::config::Value) -> Read<SocketAddr> {
    let given = text(value)?;
    given.parse().map_err(|_| {
        format!("{given:?} is not an address and a port: write it like \"127.0.0.1:9464\"")
    })
}

fn log(t: &mut Table<'_>) -> Option<Log> {
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
    t.later(&["account_ids"]);
    Some(Log { format: format?, level: level? })
}

const OTHER_STORE_KEYS: [&str; 14] = [
    "url",
    "url_file",
    "service",
    "endpoint",
    "region",
    "regions",
    "bucket",
    "access_key_id",
    "secret_access_key",
    "secret_access_key_file",
    "secret_id",
    "secret_key",
    "secret_key_file",
    "root",
];

/// `None` is a store that was named but cannot be used; its fault is on record.
fn store(t: &mut Table<'_>) -> Option<Store> {
    let kinds = ["postgres", "mysql", "mongodb", "objects", "cmq", "amqp", "expiring"];
    let kind = t.need("kind", "write kind = \"postgres\"", |value| {
        word(&kinds.map(|kind| (kind, kind)))(value)
    });
    if kind == Some("postgres") {
        for key in ["url", "url_file"] {
            t.refuse(key, "a second database is not available in this version; without it, this store is the main database");
        }
        return Some(Store::MainPostgres);
    }
    for key in OTHER_STORE_KEYS {
        t.maybe(key, |_| Ok(()));
    }
    if let Some(kind) = kind {
        let problem = format!(
            "kind {kind:?} is not available in this version; available: \"postgres\" (the main database)"
        );
        t.fault("kind", problem);
    }
    None
}

fn starting_point(t: &mut Table<'_>) -> Point {
    let name = t.need("name", "classes, jobs and logs refer to it", |value| match text(value)? {
        name if name == "request" => {
            Err("\"request\" is what jobs on request are called; choose another name".to_owned())
        }
        name => Ok(name),
    });
    let table = t.need("table", "which table holds it?", table_name);
    let account_column = t.need("account_column", "which column names the account?", column);
    let feature_column = t.maybe("feature_column", column);
    let since_column = t.need("since_column", "which column says since when?", column);
    let region_column = t.maybe("region_column", column);
    if t.has("region_column") && t.has("feature_column") {
        t.fault(
            "region_column",
            "belongs to an account-level starting point, without feature_column",
        );
    }
    let whole = (|| {
        Some(StartingPoint {
            name: name.clone()?,
            table: table.clone()?,
            account_column: account_column?,
            feature_column,
            since_column: since_column?,
            region_column,
        })
    })();
    Point { name, table, whole }
}

fn data_class(
    t: &mut Table<'_>,
    stores: &BTreeMap<String, Option<Store>>,
    points: &[Point],
) -> Class {
    let feature = t.need("feature", "which feature does it belong to?", text);
    let name = t.need("name", "what is it called within its feature?", text);
    let controller = t.maybe("controlled_by", |value| {
        let only = "; leave it out for a class that is purged";
        word(&[("customer", ())])(value).map_err(|problem| problem + only)
    });
    let label = feature.clone().zip(name.clone());
    let mut class = Class { feature, name, ..Class::default() };
    if controller.is_some() {
        for key in ["starting_points", "retain_for", "delete_within", "delete_by_after", "targets"]
        {
            t.refuse(key, "has no place in a class that the customer controls: it is never purged");
        }
        let places = t
            .need("places", "name the tables that must never be purged", texts)
            .unwrap_or_default();
        for place in places {
            match protected(&place, stores, label.as_ref()) {
                Ok(place) => class.places.push(place),
                Err(problem) => t.fault("places", problem),
            }
        }
        return class;
    }
    t.refuse("places", "belongs to a class with controlled_by = \"customer\"");
    class.starting_points = starting_points(t, points).unwrap_or_default();
    let retain_for = t.need("retain_for", "write a period like retain_for = \"30d\"", period);
    let delete_by = delete_by(t, retain_for);
    let targets = t.list("targets", |_| None, |t| target(t, stores));
    if targets.is_empty() {
        t.fault(
            "targets",
            "is missing: write [[data_classes.targets]] for every place that holds this class",
        );
    }
    class.targets.clone_from(&targets);
    class.whole = (|| {
        let (feature, name) = label?;
        Some(DataClass {
            feature,
            name,
            starting_points: class.starting_points.clone(),
            retain_for: retain_for?,
            delete_by: delete_by?,
            targets: targets.into_iter().filter_map(|(_, target)| target).collect(),
        })
    })();
    class
}

fn starting_points(t: &mut Table<'_>, points: &[Point]) -> Option<Vec<usize>> {
    let names =
        t.need("starting_points", "name the starting points that its period runs from", texts)?;
    let defined: Vec<_> = points.iter().filter_map(|point| point.name.as_deref()).collect();
    let mut indices = Vec::new();
    for name in names {
        match points.iter().position(|point| point.name.as_ref() == Some(&name)) {
            Some(at) => indices.push(at),
            None => t.fault(
                "starting_points",
                format!("{name:?} is not defined; defined: {}", defined.join(", ")),
            ),
        }
    }
    indices.sort_unstable();
    Some(indices)
}

fn delete_by(t: &mut Table<'_>, retain_for: Option<RetentionPeriod>) -> Option<DeleteBy> {
    let (both, neither) = (
        t.has("delete_within") && t.has("delete_by_after"),
        !t.has("delete_within") && !t.has("delete_by_after"),
    );
    let within = t.maybe("delete_within", period);
    let after = t.maybe("delete_by_after", period);
    if both {
        t.fault("delete_by_after", "delete_within is set too; keep one of them");
        return None;
    }
    if neither {
        return Some(DeleteBy::Within(RetentionPeriod::Seconds(86_400)));
    }
    if let (Some(after), Some(retain_for)) = (after, retain_for)
        && !never_before(after, retain_for)
    {
        let problem = format!(
            "{after} can end before retain_for = {retain_for} does; it must never be the shorter one"
        );
        t.fault("delete_by_after", problem);
    }
    within.map(DeleteBy::Within).or(after.map(DeleteBy::AfterStart))
}

/// Whether `later` ends no earlier than `earlier` from every day of a century that holds a leap year left out (2100):
/// months differ in length, so one day would prove nothing.
fn never_before(later: RetentionPeriod, earlier: RetentionPeriod) -> bool {
    let day = |n: i64| chrono::DateTime::from_timestamp(n * 86_400, 0);
    // 2000-01-01 to 2110-01-01, the plausible starting points (R4).
    (10_957..51_134).filter_map(day).all(|start| later.after(start) >= earlier.after(start))
}

fn target(t: &mut Table<'_>, stores: &BTreeMap<String, Option<Store>>) -> (String, Option<Target>) {
    let key = t.key("table");
    let defined = || stores.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let store = t.need("store", "which of [stores.…] holds it?", |value| {
        let store = text(value)?;
        if stores.contains_key(&store) {
            Ok(store)
        } else if stores.is_empty() {
            Err(format!(
                "{store:?} is not defined: write [stores.{store}] with kind = \"postgres\""
            ))
        } else {
            Err(format!("{store:?} is not defined; defined: {}", defined()))
        }
    });
    if let Some(None) = store.as_ref().and_then(|store| stores.get(store)) {
        for key in [
            "table",
            "account_column",
            "feature_column",
            "collection",
            "account_field",
            "prefix",
            "queue",
            "topic",
            "name",
            "expires_after",
            "parent",
        ] {
            t.maybe(key, |_| Ok(()));
        }
        return (key, None);
    }
    let table = t.need("table", "which table holds it?", table_name);
    let account_column = t.need("account_column", "which column names the account?", column);
    let feature_column = t.maybe("feature_column", column);
    t.later(&["parent"]);
    for key in ["collection", "account_field", "prefix", "queue", "topic", "expires_after"] {
        t.refuse(key, "names a place in another kind of store; a target in postgres has table and account_column");
    }
    let target = (|| {
        let (store, table) = (store?, table?);
        let name = format!("{store}/{}", table.spelt());
        Some(Target { name, store, table, account_column: account_column?, feature_column })
    })();
    (key, target)
}

/// A place under the customer's control, spelt `[store/]place` (R13).
fn protected(
    spelt: &str,
    stores: &BTreeMap<String, Option<Store>>,
    class: Option<&(String, String)>,
) -> Read<Place> {
    let (store, place) = match spelt.split_once('/') {
        Some((store, place)) if stores.contains_key(store) => (Some(store.to_owned()), place),
        _ => (None, spelt),
    };
    // What cannot be a table here would protect nothing, and nobody would notice.
    let table = TableName::parse(place)
        .map_err(|error| format!("{spelt:?} is neither a table nor store/table: {error}"))?;
    let class = class.map_or_else(String::new, |(feature, name)| format!("{feature}/{name}"));
    Ok(Place { table, place: CustomerPlace { class, store, place: place.to_owned() } })
}

fn table_name(value: &::config::Value) -> Read<TableName> {
    let given = text(value)?;
    TableName::parse(&given).map_err(|error| format!("{given:?}: {error}"))
}

fn column(value: &::config::Value) -> Read<Ident> {
    let given = text(value)?;
    Ident::literal(&given).map_err(|error| format!("{given:?}: {error}"))
}

/// Names a table of an array by some of its texts, joined by `/`.
fn label(keys: &'static [&str]) -> impl Fn(&Tree) -> Option<String> {
    move |tree| {
        let words: Option<Vec<_>> =
            keys.iter().map(|&key| tree.get(key).and_then(|value| text(value).ok())).collect();
        words.map(|words| words.join("/"))
    }
}
