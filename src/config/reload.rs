//! Which keys differ between two configurations, and whether the daemon may take over the difference without a start: only what makes it look more or
//! less often, work more or less at once, or delete less. Pure but for the files that `_file` keys name.

use std::{collections::BTreeMap, fmt, fs, time::Duration};

use ::config::ValueKind;

use super::{Config, policy::fingerprint, raw::Tree};

/// A change that needs a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The key's path.
    pub key: String,
    /// What to do.
    pub remedy: &'static str,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.remedy)
    }
}

const RESTART: &str = "restart the daemon to change it";
const POLICY: &str = "restart the daemon; what deletes more or sooner then waits for `retentiond policy accept`";
const LOOSER: &str = "only a stricter limit is taken over while the daemon runs; restart it to loosen one";
const SHORTER: &str = "only a longer period is taken over while the daemon runs; restart it to shorten one";

/// The keys whose values differ, or what of them keeps the new configuration out as a whole.
///
/// # Errors
/// Every change that needs a start.
pub fn judge(old: &Config, new: &Config) -> Result<Vec<String>, Vec<Refused>> {
    let keys: std::collections::BTreeSet<&String> = old.origin.written.keys().chain(new.origin.written.keys()).collect();
    let changed: Vec<String> =
        keys.into_iter().filter(|key| old.origin.written.get(*key) != new.origin.written.get(*key)).cloned().collect();
    let mut refused: Vec<Refused> =
        changed.iter().filter_map(|key| Some(Refused { key: key.clone(), remedy: remedy(key, old, new)? })).collect();
    // Follows poll.resync_interval unless it is set itself.
    if new.poll.vanish_interval < old.poll.vanish_interval && !refused.iter().any(|r| r.key == "poll.vanish_interval") {
        refused.push(Refused { key: "poll.vanish_interval".to_owned(), remedy: SHORTER });
    }
    if refused.is_empty() { Ok(changed) } else { Err(refused) }
}

/// What to do about a key that may not change so; `None` when it may.
fn remedy(key: &str, old: &Config, new: &Config) -> Option<&'static str> {
    let unless = |fine: bool, remedy| (!fine).then_some(remedy);
    let (before, after) = (&old.guard, &new.guard);
    match key {
        "log.level" | "verifier.interval" | "poll.interval" | "poll.resync_interval" | "poll.overlap" => None,
        "poll.vanish_interval" => unless(new.poll.vanish_interval >= old.poll.vanish_interval, SHORTER),
        key if key.starts_with("executor.") || key.starts_with("pressure.") => None,
        "guard.window" => unless(after.window >= before.window, LOOSER),
        "guard.max_accounts" => unless(after.max_accounts.unwrap_or(u64::MAX) <= before.max_accounts.unwrap_or(u64::MAX), LOOSER),
        "guard.max_share" => unless(after.max_share <= before.max_share, LOOSER),
        "guard.share_floor" => unless(after.share_floor <= before.share_floor, LOOSER),
        "guard.max_shrink" => unless(after.max_shrink <= before.max_shrink, LOOSER),
        "records.keep_history" => unless(longer(old.records.keep_history, new.records.keep_history), SHORTER),
        "records.keep_acts" => unless(longer(old.records.keep_acts, new.records.keep_acts), SHORTER),
        "starting_points" | "data_classes" | "regions" | "exemptions" => Some(POLICY),
        key if key.starts_with("stores.") => Some(POLICY),
        _ => Some(RESTART),
    }
}

fn longer(old: Option<Duration>, new: Option<Duration>) -> bool {
    new.unwrap_or(Duration::MAX) >= old.unwrap_or(Duration::MAX)
}

/// A fingerprint of every value by its key's path, arrays as a whole; of a file that a key names, its content as well. Values may be secrets, so they
/// are not kept.
pub(super) fn written(tree: &Tree) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    walk("", tree, &mut all);
    all
}

fn walk(path: &str, tree: &Tree, all: &mut BTreeMap<String, String>) {
    for (key, value) in tree {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        if let ValueKind::Table(tree) = &value.kind {
            walk(&path, tree, all);
            continue;
        }
        let content = if let ValueKind::String(name) = &value.kind
            && key.ends_with("_file")
        {
            fs::read(name).ok()
        } else {
            None
        };
        all.insert(path, fingerprint(&(canonical(&value.kind), content)));
    }
}

/// The value as one text, the same each time.
#[expect(clippy::wildcard_enum_match_arm, reason = "every scalar is shown alike")]
fn canonical(value: &ValueKind) -> String {
    match value {
        ValueKind::Table(tree) => {
            let sorted: BTreeMap<_, _> = tree.iter().map(|(key, value)| (key, canonical(&value.kind))).collect();
            format!("{sorted:?}")
        }
        ValueKind::Array(items) => format!("{:?}", items.iter().map(|item| canonical(&item.kind)).collect::<Vec<_>>()),
        // `5` and `"5"` are one to a variable, which has no types, and two to a file; taken for two, nothing is missed.
        scalar => format!("{scalar:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Needs, SHIPPED, parse};

    fn with(keys: &[(&str, &str)]) -> Config {
        let keys = keys.iter().map(|(key, value)| (format!("RETENTIOND__{}", key.to_uppercase().replace('.', "__")), (*value).to_owned()));
        let environment = keys.chain([("DATABASE_URL".to_owned(), "postgres://a@localhost/a".to_owned())]);
        let mut environment: BTreeMap<_, _> = environment.collect();
        environment.entry("RETENTIOND__MODE".to_owned()).or_insert_with(|| "enforce".to_owned());
        parse(&[("retentiond.toml", SHIPPED)], &environment, Needs::Database).unwrap()
    }

    #[test]
    fn nothing_changes_when_nothing_is_written_otherwise() {
        assert_eq!(judge(&with(&[]), &with(&[])), Ok(vec![]));
    }

    #[test]
    fn what_makes_the_daemon_quicker_slower_or_stricter_is_taken_over() {
        for (key, from, to) in [
            ("log.level", "info", "debug"),
            ("poll.interval", "5s", "1s"),
            ("poll.resync_interval", "1h", "2h"),
            ("poll.overlap", "10m", "1m"),
            ("poll.vanish_interval", "1h", "2h"),
            ("verifier.interval", "1h", "1m"),
            ("executor.concurrency", "4", "2"),
            ("executor.max_rows_per_batch", "5000", "6000"),
            ("pressure.max_lock_waits", "10", "unlimited"),
            ("guard.window", "24h", "25h"),
            ("guard.max_accounts", "1000", "999"),
            ("guard.max_accounts", "unlimited", "5"),
            ("guard.max_share", "10%", "9%"),
            ("guard.share_floor", "100", "99"),
            ("guard.max_shrink", "10%", "0%"),
            ("records.keep_history", "1095d", "1096d"),
            ("records.keep_acts", "1095d", "unlimited"),
        ] {
            assert_eq!(judge(&with(&[(key, from)]), &with(&[(key, to)])), Ok(vec![key.to_owned()]), "{key}: {from} to {to}");
        }
    }

    #[test]
    fn what_would_delete_more_or_be_something_else_is_refused_with_its_key_and_its_remedy() {
        for (key, from, to, remedy) in [
            ("mode", "enforce", "observe", RESTART),
            ("http.ops_listen", "127.0.0.1:9464", "127.0.0.1:9465", RESTART),
            ("database.max_connections", "16", "17", RESTART),
            ("log.format", "json", "text", RESTART),
            ("verifier.watch_for", "400d", "399d", RESTART),
            ("requests.fulfil_within", "30d", "29d", RESTART),
            ("approvals.request", "2", "1", RESTART),
            ("telemetry.service_name", "retentiond", "other", RESTART),
            ("telemetry.otlp_endpoint", "http://a", "http://b", RESTART),
            ("guard.window", "24h", "23h", LOOSER),
            ("guard.max_accounts", "1000", "1001", LOOSER),
            ("guard.max_accounts", "1000", "unlimited", LOOSER),
            ("guard.max_share", "10%", "11%", LOOSER),
            ("guard.share_floor", "100", "101", LOOSER),
            ("guard.max_shrink", "10%", "11%", LOOSER),
            ("records.keep_history", "unlimited", "1095d", SHORTER),
            ("records.keep_acts", "1095d", "1094d", SHORTER),
            ("poll.vanish_interval", "3h", "2h", SHORTER),
        ] {
            let refused = judge(&with(&[(key, from)]), &with(&[(key, to)])).unwrap_err();
            assert_eq!(refused, [Refused { key: key.to_owned(), remedy }], "{from} to {to}");
        }
        let refused = judge(&with(&[("poll.resync_interval", "2h")]), &with(&[("poll.resync_interval", "1h")])).unwrap_err();
        assert_eq!(refused[0].key, "poll.vanish_interval", "what follows a key changes with it");
    }

    #[test]
    fn rules_secrets_and_the_content_of_files_are_noticed_and_one_refusal_refuses_all() {
        let old = with(&[]);
        let environment = BTreeMap::from([
            ("RETENTIOND__MODE".to_owned(), "enforce".to_owned()),
            ("RETENTIOND__LOG__LEVEL".to_owned(), "debug".to_owned()),
            ("DATABASE_URL".to_owned(), "postgres://b@localhost/a".to_owned()),
        ]);
        let shorter = SHIPPED.replacen("retain_for = \"30d\"", "retain_for = \"29d\"", 1);
        let new = parse(&[("retentiond.toml", &shorter)], &environment, Needs::Database).unwrap();
        let refused = judge(&old, &new).unwrap_err();
        let keys: Vec<&str> = refused.iter().map(|r| r.key.as_str()).collect();
        assert_eq!(keys, ["data_classes", "database.url"]);
        assert!(refused[0].to_string().contains("policy accept"), "{}", refused[0]);

        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        let keyed = || {
            std::fs::write(file.path(), "postgres://a@localhost/a").unwrap();
            with(&[("verifier.url_file", path)])
        };
        let old = keyed();
        assert_eq!(judge(&old, &keyed()), Ok(vec![]));
        std::fs::write(file.path(), "postgres://b@localhost/a").unwrap();
        assert_eq!(judge(&old, &with(&[("verifier.url_file", path)])).unwrap_err()[0].key, "verifier.url_file");
    }
}
