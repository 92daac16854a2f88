//! What a configuration may say, and how it is told that it may not.

use std::{collections::BTreeMap, fs, time::Duration};

use ::config::{FileFormat, Format, Map, Value, ValueKind};
use proptest::prelude::*;
use secrecy::ExposeSecret;

use super::{raw::DEFAULTS, *};

const MINE: &str = "mode = \"enforce\"\n[database]\nurl = \"postgres://u:hunter2@127.0.0.1:5/platform\"\n";

fn env(variables: &[(&str, &str)]) -> BTreeMap<String, String> {
    variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The shipped file under one of the operator's, the second possibly changed.
fn with(mine: &str, variables: &[(&str, &str)]) -> Result<Config, Invalid> {
    parse(&[("shipped", SHIPPED), ("mine", mine)], &env(variables), Needs::Database)
}

/// One file that says everything, with one change.
fn changed(from: &str, to: &str) -> Result<Config, Invalid> {
    let all = format!("mode = \"enforce\"\n{SHIPPED}").replacen(
        "[database]",
        "[database]\nurl = \"postgres://u:hunter2@127.0.0.1:5/platform\"",
        1,
    );
    assert!(all.contains(from), "nothing to change: {from}");
    parse(&[("all", &all.replacen(from, to, 1))], &env(&[]), Needs::Database)
}

fn faults(result: Result<Config, Invalid>) -> Vec<String> {
    result.expect_err("a fault").faults.iter().map(ToString::to_string).collect()
}

#[test]
fn the_shipped_file_needs_only_a_mode_and_an_address() {
    let config = with(MINE, &[]).unwrap();
    assert_eq!(config.mode, Mode::Enforce);
    assert_eq!(config.poll.interval, Duration::from_secs(5));
    assert_eq!(config.guard.max_accounts, Some(1_000));
    assert!((config.guard.max_share - 0.1).abs() < 1e-9);
    assert_eq!(config.customer_places.len(), 1);
    assert_eq!(config.customer_places[0].class, "mps/media");
    assert_eq!(config.warnings, [""; 0]);
    let queue = &config.data_classes[1];
    assert_eq!((queue.feature.as_str(), queue.name.as_str()), ("mps", "queue"));
    assert_eq!(queue.starting_points, [0, 1, 2]);
    assert_eq!(queue.retain_for, RetentionPeriod::Seconds(7 * 86_400));
    assert_eq!(queue.delete_by, DeleteBy::Within(RetentionPeriod::Seconds(86_400)));
    assert_eq!(queue.targets[0].name, "platform/queue_messages");

    assert_eq!(
        faults(with("", &[])),
        [
            "mode: is missing: write mode = \"enforce\" or \"observe\"; there is no default",
            "database.url: is missing: write url = \"postgres://…\" or url_file, or set DATABASE_URL",
        ]
    );
    let offline = parse(&[("shipped", SHIPPED), ("mine", "mode = \"observe\"")], &env(&[]), Needs::Nothing);
    assert_eq!(offline.unwrap().mode, Mode::Observe);
}

fn flat(tree: Map<String, Value>, path: &str, all: &mut BTreeMap<String, String>) {
    for (key, value) in tree {
        let path = format!("{path}{key}");
        if let ValueKind::Table(tree) = value.kind {
            flat(tree, &format!("{path}."), all);
        } else {
            all.insert(path, value.to_string());
        }
    }
}

fn scalars(text: &str) -> BTreeMap<String, String> {
    let mut tree = FileFormat::Toml.parse(None, text).unwrap();
    tree.retain(|key, _| !["starting_points", "data_classes", "stores"].contains(&key.as_str()));
    let mut all = BTreeMap::new();
    flat(tree, "", &mut all);
    all
}

#[test]
fn the_shipped_file_shows_every_scalar_key_with_its_default() {
    let defaults = scalars(DEFAULTS);
    assert_eq!(scalars(SHIPPED), defaults);
    // Each section lists its known keys when it meets a strange one; together they must be the same keys.
    let sections: Vec<&str> = DEFAULTS.lines().filter(|line| line.starts_with('[')).collect();
    let strange = sections.iter().map(|section| format!("{section}\nzzzzzzzz = 1\n")).collect::<Vec<_>>().concat();
    let later = ["http.tokens"];
    let absent = [
        "database.url",
        "database.url_file",
        "poll.vanish_interval",
        "verifier.url",
        "verifier.url_file",
        "ledger.key_file",
        "ledger.checkpoint_dir",
        "log.account_key",
        "log.account_key_file",
        "telemetry.otlp_endpoint",
        "telemetry.otlp_headers_file",
    ];
    let mut known: Vec<String> = Vec::new();
    for fault in parse(&[("mine", &strange)], &env(&[]), Needs::Nothing).unwrap_err().faults {
        if let (Some(section), Some((_, keys))) = (fault.key.strip_suffix(".zzzzzzzz"), fault.problem.split_once("known here: ")) {
            known.extend(keys.split(", ").map(|key| format!("{section}.{key}")));
        }
    }
    known.retain(|key| !later.contains(&key.as_str()) && !absent.contains(&key.as_str()));
    known.sort();
    assert_eq!(known, defaults.into_keys().collect::<Vec<_>>());
    for shown in [
        "#   mode = ",
        "# url = ",
        "# url_file = ",
        "# regions = ",
        "# region_column = ",
        "# vanish_interval = ",
        "# key_file = ",
        "# checkpoint_dir = ",
        "# otlp_endpoint = ",
        "# otlp_headers_file = ",
    ] {
        assert!(SHIPPED.contains(shown), "{shown} is not shown");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table of mistakes, read from top to bottom")]
fn every_mistake_is_named_with_its_remedy() {
    let class = "retain_for = \"30d\"";
    let point = "since_column = \"deleted_at\"";
    for (from, to, key, words) in [
        // Whole file.
        ("mode = \"enforce\"", "", "mode", "is missing"),
        ("mode = \"enforce\"", "mode = \"delete\"", "mode", "\"delete\" is not one of \"enforce\", \"observe\""),
        ("mode = \"enforce\"", "mode = true", "mode", "must be text in quotes, not true or false"),
        ("mode = \"enforce\"", "mode = \"enforce\"\npol = 1", "pol", "did you mean poll?"),
        ("mode = \"enforce\"", "mode = \"enforce\"\n\"guard.window\" = \"1h\"", "guard.window", "write tables as [table]"),
        ("mode = \"enforce\"", "mode = \"enforce\"\n\"data_classes[0].name\" = \"x\"", "data_classes[0].name", "is not a key"),
        ("mode = \"enforce\"", "mode =\nurl = \"hunter2\"", "all", "is not TOML: TOML parse error at line 1, column 7"),
        ("mode = \"enforce\"", "mode = \"enforce\"\nmode = \"observe\"", "all", "duplicate key"),
        ("[ledger]", "[ledger]\nkey_file = \"/none\"", "ledger.key_file", "cannot be read"),
        ("[ledger]", "[ledger]\ncheckpoint_dir = 1", "ledger.checkpoint_dir", "must be text"),
        ("[stores.platform]", "[[exemptions]]\n[stores.platform]", "exemptions[0].table", "is missing: which table is exempted?"),
        ("fulfil_within = \"30d\"", "fulfil_within = \"0d\"", "requests.fulfil_within", "a period of zero"),
        ("fulfil_within = \"30d\"", "fulfil_within = 30", "requests.fulfil_within", "30 has no unit"),
        ("guard_release = 1", "guard_release = 0", "approvals.guard_release", "0 is not between 1 and 2"),
        ("hold_release = 1", "hold_release = 3", "approvals.hold_release", "3 is not between 1 and 2"),
        ("policy_accept = 1", "policy_accept = \"2\"", "approvals.policy_accept", "must be a whole number, not text"),
        ("request = 1", "requests = 2", "approvals.requests", "did you mean request?"),
        // Database.
        ("[database]", "[database]\nurl_file = \"/none\"", "database.url", "both set"),
        ("max_connections = 16", "max_connections = 7", "database.max_connections", "at least 8"),
        ("max_connections = 16", "max_connections = 0", "database.max_connections", "0 is not between 1 and 1000"),
        ("statement_cache = 100", "statement_cache = -1", "database.statement_cache", "-1 is not between"),
        // Passes.
        ("[poll]", "[poll]\nintervall = \"5s\"", "poll.intervall", "did you mean interval?"),
        ("[poll]", "[poll]\nzzzz = 1", "poll.zzzz", "known here: interval, resync_interval, overlap"),
        ("[poll]", "[poll]\nvanish_interval = \"59m\"", "poll.vanish_interval", "59m is shorter than poll.resync_interval = 1h"),
        ("[poll]\ninterval = \"5s\"", "[poll]\ninterval = 5", "poll.interval", "5 has no unit: write it like \"5s\""),
        ("[poll]\ninterval = \"5s\"", "[poll]\ninterval = \"5\"", "poll.interval", "\"5\" has no unit"),
        ("[poll]\ninterval = \"5s\"", "[poll]\ninterval = \"5 lunes\"", "poll.interval", "is not a duration"),
        ("[poll]\ninterval = \"5s\"", "[poll]\ninterval = \"-5s\"", "poll.interval", "is not a duration"),
        ("[poll]\ninterval = \"5s\"", "[poll]\ninterval = \"0s\"", "poll.interval", "is zero"),
        ("[poll]\ninterval = \"5s\"", "[poll]\ninterval = \"20years\"", "poll.interval", "longer than ten years"),
        ("[poll]\ninterval = \"5s\"", "[poll]\ninterval = \"\"", "poll.interval", "must not be empty"),
        ("resync_interval = \"1h\"", "resync_interval = \"4s\"", "poll.resync_interval", "4s is shorter than poll.interval = 5s"),
        ("concurrency = 4", "concurrency = 0", "executor.concurrency", "0 is not between 1 and 64"),
        ("concurrency = 4", "concurrency = 65", "executor.concurrency", "65 is not between 1 and 64"),
        ("concurrency = 4", "concurrency = \"4\"", "executor.concurrency", "must be a whole number, not text"),
        ("max_rows_per_batch = 5000", "max_rows_per_batch = 100001", "executor.max_rows_per_batch", "not between 1 and 100000"),
        ("lease = \"30s\"", "lease = \"4s\"", "executor.lease", "4s is less than 5s"),
        ("max_backoff = \"5m\"", "max_backoff = \"900ms\"", "executor.max_backoff", "900ms is less than 1s"),
        // Guard.
        ("max_accounts = 1000", "max_accounts = -1", "guard.max_accounts", "-1 is negative; 0 is none"),
        ("max_accounts = 1000", "max_accounts = \"many\"", "guard.max_accounts", "neither a whole number nor \"unlimited\""),
        ("max_accounts = 1000", "max_accounts = 0.5", "guard.max_accounts", "not a fraction"),
        ("max_share = \"10%\"", "max_share = \"unlimited\"", "guard.max_share", "is not a share"),
        ("max_share = \"10%\"", "max_share = \"100.1%\"", "guard.max_share", "is not a share"),
        ("max_share = \"10%\"", "max_share = \"NaN%\"", "guard.max_share", "is not a share"),
        ("max_share = \"10%\"", "max_share = \"10\"", "guard.max_share", "write a percentage"),
        (
            "max_replica_lag = \"10s\"",
            "max_replica_lag = \"10\"",
            "pressure.max_replica_lag",
            "has no unit: write it like \"5s\", or \"unlimited\"",
        ),
        ("max_replica_lag = \"10s\"", "max_replica_lag = \"0s\"", "pressure.max_replica_lag", "is zero"),
        ("max_lock_waits = 10", "max_lock_waits = \"off\"", "pressure.max_lock_waits", "neither a whole number nor \"unlimited\""),
        ("max_lock_waits = 10", "max_lock_wait = 10", "pressure.max_lock_wait", "did you mean max_lock_waits?"),
        (
            "max_connections = \"80%\"",
            "max_connections = 80",
            "pressure.max_connections",
            "write a percentage between \"0%\" and \"100%\", or \"unlimited\"",
        ),
        ("max_connections = \"80%\"", "max_connections = \"120%\"", "pressure.max_connections", "is not a share"),
        ("max_shrink = \"10%\"", "max_shrink = 0.1", "guard.max_shrink", "not a fraction: write a percentage"),
        ("max_shrink = \"10%\"", "max_shrink = \"-1%\"", "guard.max_shrink", "is not a share"),
        // Listeners and logs.
        ("listen = \"127.0.0.1:8080\"", "listen = \"0.0.0.0:8080\"", "http.listen", "is not a loopback address"),
        ("listen = \"127.0.0.1:8080\"", "listen = \"localhost\"", "http.listen", "is not an address and a port"),
        ("127.0.0.1:9464", "127.0.0.1:8080", "http.ops_listen", "is http.listen too"),
        (
            "ops_listen = \"127.0.0.1:9464\"",
            "ops_listen = \"127.0.0.1:9464\"\n[[http.tokens]]\nname = \"ada\"\nrole = \"root\"\nsha256 = \"abababababababababababababababababababababababababababababababab\"",
            "http.tokens[ada].role",
            "is not one of",
        ),
        (
            "ops_listen = \"127.0.0.1:9464\"",
            "ops_listen = \"127.0.0.1:9464\"\n[[http.tokens]]\nname = \"ada\"\nrole = \"viewer\"\nsha256 = \"abc\"",
            "http.tokens[ada].sha256",
            "is not 64 hexadecimal digits",
        ),
        (
            "ops_listen = \"127.0.0.1:9464\"",
            "ops_listen = \"127.0.0.1:9464\"\n[[http.tokens]]\nname = \"ada\"\nrole = \"viewer\"\nsha256 = \"abababababababababababababababababababababababababababababababab\"\nuntil = \"tomorrow\"",
            "http.tokens[ada].until",
            "is no instant",
        ),
        (
            "ops_listen = \"127.0.0.1:9464\"",
            "ops_listen = \"127.0.0.1:9464\"\n[[http.tokens]]\nname = \"ada\"\nrole = \"viewer\"\nsha256 = \"abababababababababababababababababababababababababababababababab\"\n[[http.tokens]]\nname = \"ada\"\nrole = \"viewer\"\nsha256 = \"cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd\"",
            "http.tokens",
            "is there twice",
        ),
        (
            "ops_listen = \"127.0.0.1:9464\"",
            "ops_listen = \"127.0.0.1:9464\"\n[[http.tokens]]\nname = \"ada\"\nrole = \"viewer\"\nsha256 = \"abababababababababababababababababababababababababababababababab\"\n[[http.tokens]]\nname = \"eve\"\nrole = \"officer\"\nsha256 = \"abababababababababababababababababababababababababababababababab\"",
            "http.tokens",
            "has the hash of another token",
        ),
        (
            "ops_listen = \"127.0.0.1:9464\"",
            "ops_listen = \"127.0.0.1:9464\"\n[http.proxy]\nfrom = [\"10.0.0.5\"]",
            "http.proxy.user_header",
            "is missing",
        ),
        (
            "ops_listen = \"127.0.0.1:9464\"",
            "ops_listen = \"127.0.0.1:9464\"\n[http.proxy]\nfrom = [\"proxy\"]\nuser_header = \"x-user\"",
            "http.proxy.from",
            "is no address",
        ),
        (
            "ops_listen = \"127.0.0.1:9464\"",
            "ops_listen = \"127.0.0.1:9464\"\n[http.proxy]\nfrom = [\"10.0.0.5\"]\nuser_header = \"cookie\"",
            "http.proxy.user_header",
            "is no header that a proxy could set",
        ),
        ("format = \"auto\"", "format = \"xml\"", "log.format", "is not one of \"auto\", \"json\", \"text\""),
        ("level = \"info\"", "level = \"infoo\"", "log.level", "\"infoo\" is not a filter"),
        ("level = \"info\"", "level = \"retentiond=loud\"", "log.level", "is not a filter"),
        ("account_ids = \"plain\"", "account_ids = true", "log.account_ids", "must be text"),
        ("account_ids = \"plain\"", "account_ids = \"pseudonym\"", "log.account_ids", "needs a key"),
        ("account_ids = \"plain\"", "account_ids = \"pseudonym\"\naccount_key = \"fifteen-bytes-x\"", "log.account_key", "15 bytes"),
        ("account_ids = \"plain\"", "account_ids = \"plain\"\naccount_key_file = \"/nowhere\"", "log.account_key_file", "cannot be read"),
        // Regions.
        ("mode = \"enforce\"", "mode = \"enforce\"\nregions = [\"a\"]", "regions", "needs an account-level starting point"),
        ("mode = \"enforce\"", "mode = \"enforce\"\nregions = []", "regions", "must name at least one"),
        ("mode = \"enforce\"", "mode = \"enforce\"\nregions = \"a\"", "regions", "must be an array of texts"),
        (
            "since_column = \"terminated_at\"",
            "since_column = \"t\"\nregion_column = \"r\"",
            "starting_points[feature_terminated].region_column",
            "account-level",
        ),
        // Starting points.
        ("name = \"account_deleted\"", "name = \"request\"", "starting_points[request].name", "choose another name"),
        ("name = \"account_deleted\"", "", "starting_points[0].name", "is missing"),
        ("name = \"cmq_disabled\"", "name = \"account_deleted\"", "starting_points[account_deleted].name", "is defined twice"),
        (point, "", "starting_points[account_deleted].since_column", "is missing"),
        (point, "since_column = \"\"", "starting_points[account_deleted].since_column", "must not be empty"),
        (point, "since_column = \"deleted_at\"\ncolumn = \"x\"", "starting_points[account_deleted].column", "unknown key"),
        ("table = \"accounts\"", "table = \"a b\"", "starting_points[account_deleted].table", "\"a b\": not a table name"),
        // Data classes.
        (
            "[\"account_deleted\", \"feature_terminated\"]",
            "[\"account_deleted\", \"feature_terminted\"]",
            "data_classes[mps/configuration].starting_points",
            "\"feature_terminted\" is not defined; defined: account_deleted, feature_terminated, cmq_disabled",
        ),
        (
            "[\"account_deleted\", \"feature_terminated\"]",
            "[\"account_deleted\", \"account_deleted\"]",
            "data_classes[mps/configuration].starting_points",
            "names \"account_deleted\" twice",
        ),
        (
            "[\"account_deleted\", \"feature_terminated\"]",
            "[]",
            "data_classes[mps/configuration].starting_points",
            "must name at least one",
        ),
        (
            "[\"account_deleted\", \"feature_terminated\"]",
            "\"account_deleted\"",
            "data_classes[mps/configuration].starting_points",
            "must be an array of texts",
        ),
        (class, "", "data_classes[mps/configuration].retain_for", "is missing"),
        (class, "retain_for = 30", "data_classes[mps/configuration].retain_for", "30 has no unit: write it like \"30d\""),
        (class, "retain_for = \"7\"", "data_classes[mps/configuration].retain_for", "\"7\" has no unit"),
        (class, "retain_for = \"-30d\"", "data_classes[mps/configuration].retain_for", "\"-30d\": a period is a positive whole number"),
        (class, "retain_for = \"0d\"", "data_classes[mps/configuration].retain_for", "would delete at once"),
        (
            "delete_within = \"24h\"",
            "delete_within = \"24h\"\ndelete_by_after = \"40d\"",
            "data_classes[mps/configuration].delete_by_after",
            "keep one of them",
        ),
        (
            "delete_within = \"24h\"",
            "delete_by_after = \"29d\"",
            "data_classes[mps/configuration].delete_by_after",
            "can end before retain_for = 30d does",
        ),
        ("delete_within = \"24h\"", "delete_by_after = \"1month\"", "data_classes[mps/configuration].delete_by_after", "can end before"),
        ("name = \"queue\"", "name = \"configuration\"", "data_classes[mps/configuration].name", "already"),
        (
            "controlled_by = \"customer\"",
            "controlled_by = \"us\"",
            "data_classes[mps/media].controlled_by",
            "\"us\" is not one of \"customer\"",
        ),
        ("places = [\"media_objects\"]", "places = []", "data_classes[mps/media].places", "must name at least one"),
        ("places = [\"media_objects\"]", "", "data_classes[mps/media].places", "is missing"),
        (
            "places = [\"media_objects\"]",
            "places = [\"plattform/media_objects\"]",
            "data_classes[mps/media].places",
            "neither a table nor store/table",
        ),
        (
            "places = [\"media_objects\"]",
            "places = [\"media_objects\"]\nretain_for = \"1d\"",
            "data_classes[mps/media].retain_for",
            "it is never purged",
        ),
        (class, "retain_for = \"30d\"\nplaces = [\"x\"]", "data_classes[mps/configuration].places", "controlled_by"),
        // Targets.
        (
            "store = \"platform\"",
            "store = \"plattform\"",
            "data_classes[mps/configuration].targets[0].store",
            "\"plattform\" is not defined; defined: platform",
        ),
        ("store = \"platform\"", "", "data_classes[mps/configuration].targets[0].store", "is missing"),
        (
            "table = \"task_configurations\"",
            "table = \"media_objects\"",
            "data_classes[mps/configuration].targets[1].table",
            "\"media_objects\" is under the customer's control (mps/media)",
        ),
        (
            "table = \"task_configurations\"",
            "table = \"PUBLIC.Media_Objects\"",
            "data_classes[mps/configuration].targets[1].table",
            "under the customer's control",
        ),
        (
            "table = \"task_configurations\"",
            "table = \"template_configurations\"",
            "data_classes[mps/configuration].targets[1].table",
            "this class names \"template_configurations\" twice",
        ),
        (
            "table = \"task_configurations\"",
            "table = \"retention.jobs\"",
            "data_classes[mps/configuration].targets[1].table",
            "the daemon's own",
        ),
        (
            "table = \"task_configurations\"",
            "table = \"accounts\"",
            "data_classes[mps/configuration].targets[1].table",
            "holds the starting point \"account_deleted\"",
        ),
        (
            "table = \"queue_messages\"",
            "table = \"task_configurations\"",
            "data_classes[mps/queue].targets[0].table",
            "need feature_column on both",
        ),
        (
            "table = \"queue_messages\"",
            "table = \"queue_messages\"\nparent = \"x\"",
            "data_classes[mps/queue].targets[0].parent",
            "\"x\" is no target of this class in the same store",
        ),
        (
            "table = \"queue_messages\"",
            "table = \"queue_messages\"\nprefix = \"x/\"",
            "data_classes[mps/queue].targets[0].prefix",
            "another kind of store",
        ),
        ("table = \"queue_messages\"", "table = \"a.b.c\"", "data_classes[mps/queue].targets[0].table", "not a table name"),
        // Stores.
        ("kind = \"postgres\"", "kind = \"mysql\"\nurl = \"postgres://u:hunter2@h/d\"", "stores.platform.url", "must start with mysql://"),
        ("kind = \"postgres\"", "kind = \"mysql\"", "stores.platform.url", "or the path of a file that holds it as url_file"),
        ("kind = \"postgres\"", "kind = \"oracle\"", "stores.platform.kind", "is not one of"),
        (
            "kind = \"postgres\"",
            "kind = \"postgres\"\nurl = \"postgres://hunter2@h/d?sslmod=require\"",
            "stores.platform.url",
            "unknown parameter",
        ),
        ("[stores.platform]\nkind = \"postgres\"", "", "data_classes[mps/configuration].targets[0].store", "write [stores.platform]"),
    ] {
        let found = faults(changed(from, to));
        let start = format!("{key}: ");
        assert!(
            found.iter().any(|fault| fault.starts_with(&start) && fault.contains(words)),
            "{from:?} -> {to:?}\nwanted {key}: {words}\nfound {found:#?}"
        );
        assert!(!format!("{found:?}").contains("hunter2"), "{to:?} gives the password away: {found:#?}");
    }
}

#[test]
fn what_lies_just_inside_each_bound_is_accepted() {
    for (from, to) in [
        ("max_connections = 16", "max_connections = 8"),
        ("statement_cache = 100", "statement_cache = 0"),
        ("[poll]\ninterval = \"5s\"", "[poll]\ninterval = \"300ms\""),
        ("[poll]\ninterval = \"5s\"", "[poll]\ninterval = \"1h\""),
        ("resync_interval = \"1h\"", "resync_interval = \"5s\""),
        ("concurrency = 4", "concurrency = 1"),
        ("max_rows_per_batch = 5000", "max_rows_per_batch = 100000"),
        ("max_rows_per_batch = 5000", "max_rows_per_batch = 1"),
        ("lease = \"30s\"", "lease = \"5s\""),
        ("max_backoff = \"5m\"", "max_backoff = \"1s\""),
        ("max_accounts = 1000", "max_accounts = 0"),
        ("max_accounts = 1000", "max_accounts = \"unlimited\""),
        ("max_share = \"10%\"", "max_share = \"0%\""),
        ("max_share = \"10%\"", "max_share = \"100%\""),
        ("max_shrink = \"10%\"", "max_shrink = \"0.5%\""),
        ("listen = \"127.0.0.1:8080\"", "listen = \"[::1]:8080\""),
        ("ops_listen = \"127.0.0.1:9464\"", "ops_listen = \"0.0.0.0:9464\""),
        ("level = \"info\"", "level = \"info,retentiond=debug\""),
        ("delete_within = \"24h\"", ""),
        ("delete_within = \"24h\"", "delete_by_after = \"30d\""),
        ("delete_within = \"24h\"", "delete_by_after = \"2months\""),
        ("table = \"task_configurations\"", "table = \"\\\"Media\\\".\\\"Objects\\\"\""),
        ("table = \"task_configurations\"", "table = \"\\\"Media_objects\\\"\""),
        ("since_column = \"deleted_at\"", "since_column = \"deleted at\"\nregion_column = \"region\""),
        ("places = [\"media_objects\"]", "places = [\"platform/media_objects\", \"crm.media\"]"),
    ] {
        assert!(changed(from, to).is_ok(), "{to}: {:#?}", changed(from, to).err());
    }
    assert_eq!(changed("max_replica_lag = \"10s\"", "max_replica_lag = \"unlimited\"").unwrap().pressure.max_replica_lag, None);
    assert_eq!(changed("max_lock_waits = 10", "max_lock_waits = \"unlimited\"").unwrap().pressure.max_lock_waits, None);
    assert_eq!(changed("max_lock_waits = 10", "max_lock_waits = 0").unwrap().pressure.max_lock_waits, Some(0));
    assert_eq!(changed("max_connections = \"80%\"", "max_connections = \"unlimited\"").unwrap().pressure.max_connections, None);
    assert_eq!(changed("max_accounts = 1000", "max_accounts = 0").unwrap().guard.max_accounts, Some(0));
}

#[test]
fn more_workers_need_more_connections() {
    let workers = |n: u32| format!("{MINE}max_connections = {n}\n[executor]\nconcurrency = 20\n");
    assert!(with(&workers(24), &[]).is_ok());
    assert!(faults(with(&workers(23), &[]))[0].contains("executor.concurrency = 20: at least 24"));
}

#[test]
fn several_faults_are_reported_together() {
    let broken = SHIPPED
        .replacen("[poll]", "[poll]\nintervall = \"5s\"\noverlapp = \"5s\"", 1)
        .replacen("feature_terminated\"]", "feature_terminted\"]", 1)
        .replacen("retain_for = \"7d\"", "retain_for = 7", 1);
    let found = faults(parse(&[("all", &broken)], &env(&[]), Needs::Nothing));
    let keys: Vec<_> = found.iter().map(|fault| fault.split(": ").next().unwrap()).collect();
    assert_eq!(
        keys,
        [
            "mode",
            "poll.intervall",
            "poll.overlapp",
            "data_classes[mps/configuration].starting_points",
            "data_classes[mps/queue].retain_for",
        ]
    );
}

#[test]
fn a_place_of_one_store_is_protected_under_every_name_of_that_store() {
    let two = "[stores.other]\nkind = \"postgres\"\n";
    let all = format!("{two}{SHIPPED}").replacen("\"media_objects\"", "\"other/task_configurations\"", 1);
    let found = faults(parse(&[("all", &all), ("mine", MINE)], &env(&[]), Needs::Database));
    assert!(found[0].contains("under the customer's control"), "{found:?}");
}

#[test]
fn classes_of_different_features_may_share_a_table_by_its_feature_column() {
    let shared = |feature: &str, column: &str| {
        let all = SHIPPED
            .replacen("table = \"task_configurations\"", "table = \"all\"\nfeature_column = \"feature\"", 1)
            .replacen("table = \"queue_messages\"", &format!("table = \"public.all\"\n{column}"), 1)
            .replacen("feature = \"mps\"\nname = \"queue\"", &format!("feature = \"{feature}\"\nname = \"queue\""), 1);
        parse(&[("all", &all), ("mine", MINE)], &env(&[]), Needs::Database)
    };
    assert!(shared("vod", "feature_column = \"feature\"").is_ok());
    assert!(faults(shared("mps", "feature_column = \"feature\""))[0].contains("for the same feature"));
    assert!(faults(shared("vod", ""))[0].contains("need feature_column on both"));
    assert!(faults(shared("vod", "feature_column = \"f\""))[0].contains("with another feature_column"));
}

#[test]
fn rules_come_from_exactly_one_file() {
    let rule = "[[data_classes]]\nfeature = \"x\"\nname = \"y\"\ncontrolled_by = \"customer\"\nplaces = [\"z\"]\n";
    let two = faults(with(&format!("{MINE}{rule}"), &[]));
    assert!(two[0].contains("rules are defined in mine and shipped; exactly one file"), "{two:?}");
    let none = faults(parse(&[("mine", MINE)], &env(&[]), Needs::Database));
    assert_eq!(none.len(), 2, "{none:?}");
    assert!(none[0].starts_with("starting_points: is missing: rules have no defaults"), "{none:?}");
    assert!(none[1].starts_with("data_classes: is missing"), "{none:?}");
    for name in ["RETENTIOND__DATA_CLASSES__0__RETAIN_FOR", "RETENTIOND__DATA_CLASSES[0]__RETAIN_FOR"] {
        let variable = faults(with(MINE, &[(name, "1s")]));
        assert!(variable[0].contains("never from the environment"), "{variable:?}");
    }
    let empty = "starting_points = []\ndata_classes = []";
    let empty = faults(parse(&[("mine", empty)], &env(&[]), Needs::Nothing));
    assert_eq!(empty[1..], ["starting_points: must define at least one (mine)", "data_classes: must define at least one (mine)"]);
}

#[test]
fn later_layers_override_earlier_ones() {
    let mine = format!("{MINE}[poll]\ninterval = \"2s\"\n");
    let url = |config: Config| config.database.url.expose_secret().to_owned();
    let interval = |config: Config| config.poll.interval;
    assert_eq!(interval(with(&mine, &[]).unwrap()), Duration::from_secs(2));
    let variable = [("RETENTIOND__POLL__INTERVAL", "3s"), ("RETENTIOND__GUARD__MAX_ACCOUNTS", "7")];
    let config = with(&mine, &variable).unwrap();
    assert_eq!(config.guard.max_accounts, Some(7));
    assert_eq!(interval(config), Duration::from_secs(3));

    let (given, own) = ("postgres://a@127.0.0.1/one", "postgres://a@127.0.0.1/two");
    assert_eq!(url(with(MINE, &[("DATABASE_URL", given)]).unwrap()), given);
    assert_eq!(url(with(MINE, &[("DATABASE_URL", given), ("RETENTIOND__DATABASE__URL", own)]).unwrap()), own);
    assert_eq!(url(with(MINE, &[("DATABASE_URL", "")]).unwrap()), "postgres://u:hunter2@127.0.0.1:5/platform");

    // Program settings, with a single underscore, are no keys; a misspelt key is one too many.
    let settings = [("RETENTIOND_BIN", "x"), ("RETENTIOND_LOG", "x"), ("RETENTIOND_CONFIG", "x")];
    assert!(with(MINE, &settings).is_ok());
    let misspelt = faults(with(MINE, &[("RETENTIOND__POLL__INTERVALL", "3s")]));
    assert_eq!(misspelt, ["poll.intervall: unknown key; did you mean interval? (the environment)"]);
    let bare = faults(with(MINE, &[("RETENTIOND__POLL__INTERVAL", "3")]));
    assert_eq!(bare, ["poll.interval: 3 has no unit: write it like \"5s\" (the environment)"]);
    let regions = [("RETENTIOND__REGIONS", "a,b")];
    assert!(faults(with(MINE, &regions))[0].starts_with("regions: needs an account-level"));
    let located = SHIPPED.replacen("# region_column", "region_column", 1);
    let files = [("shipped", located.as_str()), ("mine", MINE)];
    let regions = parse(&files, &env(&regions), Needs::Database).unwrap().regions;
    assert_eq!(regions, Some(vec!["a".to_owned(), "b".to_owned()]));
}

#[test]
fn an_address_may_come_from_a_file_and_a_later_layer_replaces_either() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("url");
    fs::write(&secret, "postgres://u:hunter2@127.0.0.1/filed\n").unwrap();
    let naming_it = format!("[database]\nurl_file = {secret:?}\n");
    let url = |files: &[(&str, &str)], variables: &[(&str, &str)]| {
        let files: Vec<_> = [("shipped", SHIPPED)].into_iter().chain(files.iter().copied()).collect();
        let config = parse(&files, &env(variables), Needs::Database);
        config.map(|config| config.database.url.expose_secret().to_owned())
    };
    let in_file = "postgres://u:hunter2@127.0.0.1/filed";
    assert_eq!(url(&[("mine", MINE), ("secret", &naming_it)], &[]).unwrap(), in_file);
    let both = [("secret", naming_it.as_str()), ("mine", MINE)];
    assert_eq!(url(&both, &[]).unwrap(), "postgres://u:hunter2@127.0.0.1:5/platform");
    let spelt = secret.to_str().unwrap();
    assert_eq!(url(&both, &[("RETENTIOND__DATABASE__URL_FILE", spelt)]).unwrap(), in_file);
    let twice = [("RETENTIOND__DATABASE__URL", "postgres://h"), ("RETENTIOND__DATABASE__URL_FILE", spelt)];
    assert!(url(&both, &twice).unwrap_err().to_string().contains("both set in one place"));

    fs::write(&secret, "mysql://u:hunter2@h/d").unwrap();
    let wrong = url(&both, &[("RETENTIOND__DATABASE__URL_FILE", spelt)]).unwrap_err().to_string();
    assert!(wrong.contains("must start with postgres://") && !wrong.contains("hunter2"), "{wrong}");
    let none = url(&both, &[("RETENTIOND__DATABASE__URL_FILE", "/no/such/file")]).unwrap_err().to_string();
    assert!(none.contains("database.url_file: \"/no/such/file\" cannot be read"), "{none}");
}

#[test]
fn the_second_role_has_an_address_under_the_same_rules() {
    let url = |text: &str, needs| {
        let mine = format!("{MINE}\n[verifier]\n{text}\n");
        let config = parse(&[("shipped", SHIPPED), ("mine", &mine)], &BTreeMap::new(), needs);
        config.map(|config| (config.witness().map(|witness| witness.url.expose_secret().to_owned()), config.warnings))
    };
    assert_eq!(url("", Needs::Database).unwrap(), (None, Vec::new()));
    let proven = Some("postgres://w@db/d?sslmode=verify-full".to_owned());
    assert_eq!(url("url = \"postgres://w@db/d\"", Needs::Database).unwrap(), (proven, Vec::new()));
    let (_, warnings) = url("url = \"postgres://w@db/d?sslmode=disable\"", Needs::Database).unwrap();
    assert!(warnings.len() == 1 && warnings[0].starts_with("verifier.url: its sslmode does not prove that db is"), "{warnings:?}");

    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("url");
    fs::write(&secret, "postgres://w:hunter2@127.0.0.1/d\n").unwrap();
    let named = format!("url_file = {secret:?}");
    assert_eq!(url(&named, Needs::Database).unwrap().0.unwrap(), "postgres://w:hunter2@127.0.0.1/d");
    assert_eq!(url("url_file = \"/no/such/file\"", Needs::Nothing).unwrap().0, None, "a secret is read by whoever needs it");
    for (bad, words) in [
        (format!("{named}\nurl = \"postgres://w:hunter2@db/d\""), "verifier.url_file: url is set too"),
        ("url_file = \"/no/such/file\"".to_owned(), "verifier.url_file: \"/no/such/file\" cannot be read"),
        ("url = \"mysql://w:hunter2@db/d\"".to_owned(), "verifier.url: must start with postgres://"),
    ] {
        let said = url(&bad, Needs::Database).unwrap_err().to_string();
        assert!(said.contains(words) && !said.contains("hunter2"), "{said}");
    }
}

#[test]
fn an_address_off_this_machine_gets_a_proof_of_identity() {
    let with_url = |url: &str| with("mode = \"observe\"", &[("DATABASE_URL", url)]);
    let url = |given: &str| with_url(given).unwrap().database.url.expose_secret().to_owned();
    for local in ["postgres://127.0.0.1/d", "postgres://localhost/d", "postgres://[::1]/d", "postgres:///d?host=/run/pg"] {
        assert_eq!(url(local), local);
    }
    assert_eq!(url("postgres://db/d"), "postgres://db/d?sslmode=verify-full");
    assert_eq!(url("postgresql://10.0.0.1/d?user=u"), "postgresql://10.0.0.1/d?user=u&sslmode=verify-full");
    assert_eq!(url("postgres://localhost/d?hostaddr=10.0.0.1"), "postgres://localhost/d?hostaddr=10.0.0.1&sslmode=verify-full");
    for (mode, warnings) in [("verify-full", 0), ("verify-ca", 1), ("require", 1), ("prefer", 1), ("disable", 1)] {
        let given = format!("postgres://db/d?sslmode={mode}");
        let config = with_url(&given).unwrap();
        assert_eq!(config.database.url.expose_secret(), given);
        assert_eq!(config.warnings.len(), warnings, "{mode}: {:?}", config.warnings);
    }
    for (bad, words) in [
        ("mysql://hunter2@db/d", "must start with postgres://"),
        ("postgres://u:hunter2#@db/d", "bare #"),
        ("postgres://db/d?sslmod=hunter2", "unknown parameter \"sslmod\""),
        ("postgres://db/d?ssl%6Dode=hunter2", "unknown parameter"),
        ("postgres://db/d?sslmode=none", "is no postgres address"),
        ("postgres://u:hunter2@db:port/d", "is no postgres address"),
    ] {
        let found = faults(with_url(bad)).join("\n");
        assert!(found.starts_with("database.url: ") && found.contains(words), "{bad}: {found}");
        assert!(!found.contains("hunter2"), "{found}");
    }
}

#[test]
fn secrets_are_never_shown() {
    let config = with(MINE, &[]).unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
    let mine = "mode = 1\nurl = \"hunter2\"\n[database]\nurll = \"postgres://hunter2@h\"\nurl = [\"hunter2\"]\n[stores.x]\nkind = \"objects\"\nsecret_access_key = \"hunter2\"\n";
    let invalid = with(mine, &[]).unwrap_err();
    assert!(invalid.faults.len() >= 5, "{invalid}");
    assert!(!format!("{invalid} {invalid:?}").contains("hunter2"), "{invalid}");
}

#[test]
fn what_is_legal_but_unwise_is_a_warning() {
    let open = format!("{MINE}[guard]\nmax_accounts = \"unlimited\"\nmax_share = \"100%\"\n");
    assert!(with(&open, &[]).unwrap().warnings[0].contains("nothing stops a mass deletion"));
    let unused = changed(", \"cmq_disabled\"]", "]").unwrap();
    assert_eq!(unused.warnings, ["starting_points[cmq_disabled]: no data class lists it"]);
}

#[test]
fn files_are_read_in_order_and_the_unreadable_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("a.toml"), SHIPPED).unwrap();
    fs::write(path("b.toml"), MINE).unwrap();
    fs::write(path("bytes.toml"), [0xff, 0xfe]).unwrap();
    let config = load(&[path("a.toml"), path("b.toml")], &env(&[]), Needs::Database).unwrap();
    assert_eq!(config.origin.files, [path("a.toml"), path("b.toml")]);
    let listed = format!("{}:{}", path("a.toml").display(), path("b.toml").display());
    assert!(load(&[], &env(&[("RETENTIOND_CONFIG", &listed)]), Needs::Database).is_ok());
    // Files that are given replace those of the environment.
    assert!(load(&[path("a.toml")], &env(&[("RETENTIOND_CONFIG", &listed)]), Needs::Database).is_err());

    let found = faults(load(
        &[path("none.toml"), dir.path().to_owned(), path("bytes.toml"), path("a.toml"), path("./a.toml")],
        &env(&[]),
        Needs::Database,
    ));
    for (fault, words) in found.iter().zip(["none.toml: cannot be read", "is a directory", "is not UTF-8", "is given twice"]) {
        assert!(fault.contains(words), "{words}: {fault}");
    }
    assert_eq!(found.len(), 4, "{found:#?}");
    assert!(faults(load(&[], &env(&[]), Needs::Database))[0].contains("RETENTIOND_CONFIG"));
}

proptest! {
    #[test]
    fn a_broken_file_is_refused_without_a_panic(at in 0..SHIPPED.len(), with in "[\\[\\]{}\"'=.#a-z0-9% \n-]{0,6}") {
        if SHIPPED.is_char_boundary(at) {
            let (head, tail) = SHIPPED.split_at(at);
            let text = format!("{head}{with}{tail}");
            if let Err(invalid) = parse(&[("all", &text), ("mine", "mode = \"observe\"")], &env(&[]), Needs::Nothing) {
                prop_assert!(!invalid.faults.is_empty());
            }
        }
    }
}
