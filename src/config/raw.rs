//! The configuration as written: compiled-in defaults, files, `DATABASE_URL` and `RETENTIOND__…` laid over each other
//! into one tree of values. What the values mean is not judged here, only what concerns the layers themselves:
//! rules come from exactly one file (R10), and a later address replaces an earlier one however it is given (R37).

use std::{collections::BTreeMap, fs, io, path::PathBuf};

use ::config::{Config, ConfigError, Environment, FileFormat, Format, Map, Source, Value, ValueKind};

use super::table::Faults;

/// Keys and values as written, merged.
pub(super) type Tree = Map<String, Value>;

/// Scalars only: a rule that nobody wrote down must never delete anything (R10).
pub(super) const DEFAULTS: &str = r#"
[database]
max_connections = 16
statement_cache = 100

[poll]
interval = "5s"
resync_interval = "1h"
overlap = "10m"

[executor]
concurrency = 4
max_rows_per_batch = 5000
lease = "30s"
max_backoff = "5m"

[pressure]
max_replica_lag = "10s"
max_lock_waits = 10
max_connections = "80%"
max_log_rate = "unlimited"
max_active_sessions = 2

[verifier]
interval = "1h"
watch_for = "400d"

[guard]
window = "24h"
max_accounts = 1000
max_share = "10%"
share_floor = 100
max_shrink = "10%"

[ledger]

[requests]
fulfil_within = "30d"

[approvals]
request = 1
guard_release = 1
hold_release = 1
policy_accept = 1

[records]
keep_history = "1095d"
keep_acts = "1095d"
keep_notices = "30d"

[http]
listen = "127.0.0.1:8080"
ops_listen = "127.0.0.1:9464"

[log]
format = "auto"
level = "info"
account_ids = "plain"

[telemetry]
service_name = "retentiond"
"#;

const RULES: [&str; 2] = ["starting_points", "data_classes"];

/// A file's name, for messages, and its text.
pub(super) type Text<'a> = (&'a str, &'a str);

/// The process environment. The only place that reads it; what is not UTF-8 cannot be a setting and is left out.
#[must_use]
pub fn environment() -> BTreeMap<String, String> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect()
}

/// The files to read: those given, else those that `RETENTIOND_CONFIG` names.
pub(super) fn files(given: &[PathBuf], environment: &BTreeMap<String, String>) -> Vec<PathBuf> {
    if !given.is_empty() {
        return given.to_vec();
    }
    let named = environment.get("RETENTIOND_CONFIG").map_or("", String::as_str);
    named.split(':').filter(|path| !path.is_empty()).map(PathBuf::from).collect()
}

/// Reads every file; those that cannot be read, or are given twice, are faults.
pub(super) fn read(files: &[PathBuf], faults: &Faults) -> Vec<(String, String)> {
    if files.is_empty() {
        faults.add("configuration", "no file is given: use -c FILE, or RETENTIOND_CONFIG=FILE", None);
    }
    let mut seen = Vec::new();
    let mut texts = Vec::new();
    for path in files {
        let name = path.display().to_string();
        let same = fs::canonicalize(path).unwrap_or_else(|_| path.clone());
        if seen.contains(&same) {
            faults.add(&name, "this file is given twice; later files override earlier ones, so give it once", None);
            continue;
        }
        seen.push(same);
        match fs::read_to_string(path) {
            Ok(text) => texts.push((name, text)),
            Err(error) => faults.add(&name, unreadable(&error), None),
        }
    }
    texts
}

/// Why a file cannot be read, as half a sentence after its name.
pub(super) fn unreadable(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::IsADirectory {
        "is a directory; name the file in it".to_owned()
    } else if error.kind() == io::ErrorKind::InvalidData {
        "is not UTF-8 text".to_owned()
    } else {
        format!("cannot be read: {error}")
    }
}

/// Lays all layers over each other. `None` when a layer cannot be understood at all, with the reason in `faults`.
pub(super) fn merge(files: &[Text<'_>], environment: &BTreeMap<String, String>, faults: &Faults) -> Option<Tree> {
    let written: Vec<_> = files.iter().map(|file| (file.0, toml(*file, faults))).collect();
    let mut layers = vec![toml(("the defaults", DEFAULTS), faults)?];
    one_file_defines_the_rules(&written, faults);
    for (_, tree) in written {
        layers.push(tree?);
    }
    layers.push(database_url(environment));
    let variables = match variables(environment) {
        Ok(tree) => tree,
        Err(error) => {
            faults.add("RETENTIOND__…", error.to_string(), None);
            return None;
        }
    };
    for rule in RULES.into_iter().filter(|&rule| variables.contains_key(rule)) {
        faults.add(rule, "rules come from one file, never from the environment", None);
    }
    layers.push(variables);
    one_address(&mut layers, faults);
    match overlay(layers) {
        Ok(tree) => Some(tree),
        Err(error) => {
            faults.add("configuration", error.to_string(), None);
            None
        }
    }
}

fn toml((name, text): Text<'_>, faults: &Faults) -> Option<Tree> {
    match FileFormat::Toml.parse(Some(&name.to_owned()), text) {
        Ok(mut tree) => {
            // To the config crate these would be paths into other tables; in a file they can only be mistakes.
            for key in tree.extract_if(|key, _| key.contains(['.', '['])).map(|(key, _)| key) {
                faults.add(&key, "is not a key; write tables as [table]", Some(name));
            }
            Some(tree)
        }
        Err(error) => {
            faults.add(name, format!("is not TOML: {}", without_source(&error.to_string())), None);
            None
        }
    }
}

/// A TOML error quotes the offending line, and that line may hold a password.
fn without_source(error: &str) -> String {
    let quotes = |line: &&str| line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ').starts_with('|');
    error.lines().filter(|line| !quotes(line)).collect::<Vec<_>>().join("; ")
}

fn one_file_defines_the_rules(files: &[(&str, Option<Tree>)], faults: &Faults) {
    let defines = |rule: &str| -> Vec<&str> {
        let has = |tree: &Tree| tree.contains_key(rule);
        files.iter().filter(|(_, tree)| tree.as_ref().is_some_and(has)).map(|&(name, _)| name).collect()
    };
    let mut all: Vec<_> = RULES.iter().flat_map(|rule| defines(rule)).collect();
    all.sort_unstable();
    all.dedup();
    if all.len() > 1 {
        let problem = format!("rules are defined in {}; exactly one file may define them", all.join(" and "));
        faults.add(RULES.join(", "), problem, None);
    }
    // A file that could not be parsed may well define them.
    if files.iter().all(|(_, tree)| tree.is_some()) {
        for rule in RULES.into_iter().filter(|rule| defines(rule).is_empty()) {
            faults.add(rule, "is missing: rules have no defaults, one of the given files must define them", None);
        }
    }
}

fn database_url(environment: &BTreeMap<String, String>) -> Tree {
    let set = environment.get("DATABASE_URL").filter(|url| !url.is_empty());
    let origin = "DATABASE_URL".to_owned();
    let table = |url: &String| {
        let url = Value::new(Some(&origin), url.clone());
        ("database".to_owned(), Value::new(Some(&origin), Map::from([("url".to_owned(), url)])))
    };
    set.map(table).into_iter().collect()
}

fn variables(environment: &BTreeMap<String, String>) -> Result<Tree, ConfigError> {
    let source = Environment::with_prefix("RETENTIOND")
        .prefix_separator("__")
        .separator("__")
        .try_parsing(true)
        .list_separator(",")
        .with_list_parse_key("regions")
        .source(Some(environment.clone().into_iter().collect()));
    overlay(vec![source.collect()?])
}

fn one_address(layers: &mut [Tree], faults: &Faults) {
    let mut replaced = false;
    for layer in layers.iter_mut().rev() {
        let Some(ValueKind::Table(database)) = layer.get_mut("database").map(|v| &mut v.kind) else {
            continue;
        };
        let has = |key| database.contains_key(key);
        if has("url") && has("url_file") {
            let origin = database["url"].origin().map(str::to_owned);
            faults.add("database.url", "url and url_file are both set in one place; keep one of them", origin.as_deref());
        }
        let sets = has("url") || has("url_file");
        if replaced {
            database.remove("url");
            database.remove("url_file");
        }
        replaced |= sets;
    }
}

fn overlay(layers: Vec<Tree>) -> Result<Tree, ConfigError> {
    let builder = layers.into_iter().fold(Config::builder(), |builder, tree| builder.add_source(Layer(tree)));
    builder.build()?.cache.into_table()
}

#[derive(Debug, Clone)]
struct Layer(Tree);

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Tree, ConfigError> {
        Ok(self.0.clone())
    }
}
