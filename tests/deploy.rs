//! Keeps what is under `deploy/` true: rules and their tests, runbooks, dashboard, chart, unit, package. What needs a program that is not installed is left
//! out, by name, unless `RETENTIOND_TEST_ALL` forbids that. Nothing is deployed and no service is started.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot read what it checks has failed")]

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use retentiond::metrics::{Kind, METRICS};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_retentiond");
const RULES: &str = "deploy/prometheus/retentiond.rules.yaml";
const BASE: &str = "https://retentiond.invalid/docs/runbooks/";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn left_out(what: &str) {
    assert!(!std::env::vars().any(|(name, _)| name == "RETENTIOND_TEST_ALL"), "{what}: `scripts/prerequisites tests`");
    // Past the harness, which shows what a test prints only when it fails.
    let _told = writeln!(std::io::stderr(), "left out: {what}");
}

/// Runs a program; `None` where it is not installed.
fn run(command: &mut Command) -> Option<Output> {
    match command.output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => panic!("{command:?}: {error}"),
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The words in a text that begin with `retention` and are made like the name of a metric or of a recording.
fn names(text: &str) -> BTreeSet<String> {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    text.split(|c| !part(c)).filter(|w| w.starts_with("retention_") || w.starts_with("retention:")).map(str::to_owned).collect()
}

/// The blocks of the rules that begin with `- alert:`, with their names.
fn alerts() -> Vec<(String, String)> {
    let text = read(RULES);
    let blocks: Vec<(String, String)> = text
        .split("\n      - ")
        .filter_map(|block| block.strip_prefix("alert: "))
        .map(|block| (block.lines().next().unwrap().trim().to_owned(), block.split("\n  - name:").next().unwrap().to_owned()))
        .collect();
    assert!(blocks.len() > 20, "the search finds alerts");
    blocks
}

fn recordings() -> BTreeSet<String> {
    read(RULES).lines().filter_map(|line| line.trim().strip_prefix("- record: ")).map(str::to_owned).collect()
}

/// Metrics that other parts of the program bring, which are not in this table of names yet.
const EXPECTED: [&str; 2] = ["retention_config_last_reload_successful", "retention_oldest_notice_timestamp_seconds"];

#[track_caller]
fn known(name: &str) {
    let metric = METRICS.iter().any(|(known, kind, _)| {
        name == *known || *kind == Kind::Histogram && ["_bucket", "_sum", "_count"].iter().any(|end| name.strip_suffix(end) == Some(known))
    });
    assert!(metric || recordings().contains(name) || EXPECTED.contains(&name), "{name} is no metric and no recording");
}

#[test]
fn promtool_accepts_the_rules_and_their_tests_pass() {
    let folder = root().join("deploy/prometheus");
    for (what, file) in [("check", "retentiond.rules.yaml"), ("test", "retentiond.rules.test.yaml")] {
        let Some(output) = run(Command::new("promtool").args([what, "rules", file]).current_dir(&folder)) else {
            return left_out("rules for Prometheus: promtool is not installed");
        };
        assert!(output.status.success(), "{}", said(&output));
    }
}

#[test]
fn every_alert_is_seen_to_fire_and_to_stay_silent() {
    let tests = read("deploy/prometheus/retentiond.rules.test.yaml");
    for (alert, block) in alerts() {
        let severity = block.split("severity: ").nth(1).unwrap().lines().next().unwrap().trim().to_owned();
        let checks: Vec<&str> = tests.split("- expr: ").filter(|check| check.contains(&format!("alertname=\"{alert}\""))).collect();
        let fires = checks.iter().any(|check| check.contains(&format!("{{severity=\"{severity}\"}}")));
        let silent = checks.iter().any(|check| check.contains("exp_samples: []"));
        assert!(fires && silent, "{alert} ({severity}): fires {fires}, silent {silent}");
    }
}

#[test]
fn every_alert_says_what_it_means_and_has_its_page_and_every_page_its_alert() {
    let mut all = BTreeSet::new();
    for (alert, block) in alerts() {
        assert!(alert.starts_with("Retention"), "{alert}");
        for part in ["expr: ", "for: ", "severity: ", "summary: ", "description: "] {
            assert!(block.contains(part), "{alert} has no {part}");
        }
        assert!(["severity: critical", "severity: warning"].iter().any(|severity| block.contains(severity)), "{alert}");
        assert!(
            block.contains(&format!("runbook_url: {BASE}{alert}.md\n")) || block.ends_with(&format!("{BASE}{alert}.md")),
            "{alert}: {block}"
        );
        let page = read(&format!("docs/runbooks/{alert}.md"));
        let headings: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        assert_eq!(headings, ["Meaning", "Impact", "Diagnosis", "Mitigation"], "{alert}");
        assert!(page.starts_with(&format!("# {alert}\n")), "{alert}");
        assert!(page.split("\n## ").skip(1).all(|part| part.lines().any(|line| line.len() > 20)), "{alert}: a part is empty");
        assert!(page.contains("retentiond "), "{alert}: its page shows no command");
        all.insert(alert);
    }
    let index = read("docs/runbooks/README.md");
    for entry in fs::read_dir(root().join("docs/runbooks")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let page = name.strip_suffix(".md").unwrap();
        assert!(page == "README" || all.contains(page), "{name} has no alert");
        assert!(page == "README" || index.contains(&format!("({name})")), "{name} is not in the index");
    }
}

#[test]
fn rules_and_dashboard_use_metrics_that_exist_and_never_sum_what_each_replica_reads_from_the_database() {
    for name in names(&read(RULES)).iter().chain(&names(&read("deploy/grafana/retentiond.json"))) {
        known(name);
    }
    // Of the database, and so the same in each replica: a sum of it without a max inside would count every job twice.
    let shared = [
        "jobs",
        "jobs_due",
        "overdue_jobs",
        "held_jobs",
        "residual_records",
        "quarantined_records",
        "requests",
        "holds",
        "guard_candidates",
    ];
    let expressions = dashboard_expressions().into_iter().chain(alerts().into_iter().map(|(_, block)| block));
    for expression in expressions {
        for name in shared {
            for (at, _) in expression.match_indices(&format!("retention_{name}{{")) {
                let before = &expression[..at];
                assert!(before.ends_with("max(") || before.ends_with(") (") && before.contains("max by"), "{expression}");
            }
        }
    }
}

fn dashboard_expressions() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/retentiond.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_dashboard_can_be_imported_from_a_file() {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/retentiond.json")).unwrap();
    // With it Grafana asks a person, which provisioning has not got.
    assert!(dashboard.get("__inputs").is_none() && dashboard.get("__requires").is_none() && dashboard.get("id").is_none());
    assert!(dashboard["schemaVersion"].as_i64().unwrap() >= 39 && dashboard["uid"] == "retentiond");
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    assert!(
        variables.iter().any(|v| v["name"] == "datasource" && v["type"] == "datasource" && v["query"] == "prometheus"),
        "{variables:?}"
    );
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<i64> = panels.iter().map(|panel| panel["id"].as_i64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "an id stands twice");
    let rows: Vec<&str> = panels.iter().filter(|p| p["type"] == "row").map(|p| p["title"].as_str().unwrap()).collect();
    assert_eq!(rows, ["Compliance", "Flow", "Database impact", "Safety", "Process"]);
    let mut taken = BTreeSet::new();
    for panel in panels {
        assert!(!panel["title"].as_str().unwrap().is_empty());
        for (x, y) in cells(&panel["gridPos"]) {
            assert!(x < 24 && taken.insert((x, y)), "{} lies on another panel", panel["title"]);
        }
        if panel["type"] != "row" {
            assert!(!panel["description"].as_str().unwrap().is_empty(), "{}", panel["title"]);
            let sources = panel["targets"].as_array().unwrap().iter().map(|target| &target["datasource"]).chain([&panel["datasource"]]);
            for source in sources {
                assert_eq!(*source, json!({"type": "prometheus", "uid": "${datasource}"}), "{}", panel["title"]);
            }
        }
    }
    assert!(!read("deploy/grafana/retentiond.json").contains("account_id"));
}

fn cells(place: &Value) -> Vec<(i64, i64)> {
    let [x, y, w, h] = ["x", "y", "w", "h"].map(|side| place[side].as_i64().unwrap());
    (y..y + h).flat_map(|down| (x..x + w).map(move |right| (right, down))).collect()
}

/// What the chart makes of these values, or why Helm refuses them; `None` where its library is not installed.
fn rendered(values: &Value) -> Option<Result<Vec<Value>, String>> {
    let python = root().join("target/helm/bin/python");
    if !python.is_file() {
        left_out("the chart as Helm renders it: its library is not installed");
        return None;
    }
    let mut child = Command::new(python)
        .arg(root().join("tests/support/helm.py"))
        .arg(root().join("deploy/helm/retentiond"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(values.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    Some(if output.status.success() { Ok(serde_json::from_slice(&output.stdout).unwrap()) } else { Err(said(&output)) })
}

/// The least that has to be said, and more.
fn values(more: &Value) -> Value {
    let mut values =
        json!({"mode": "observe", "image": {"repository": "registry.example/retentiond"}, "database": {"existingSecret": "address"}});
    values.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    values
}

fn one<'a>(manifests: &'a [Value], kind: &str, name: &str) -> &'a Value {
    manifests.iter().find(|m| m["kind"] == kind && m["metadata"]["name"] == name).unwrap_or_else(|| panic!("no {kind} {name}"))
}

#[test]
fn the_chart_does_not_render_without_a_mode_nor_with_keys_that_nobody_knows() {
    for (change, word) in [
        (json!({"mode": null}), "mode"),
        (json!({"mode": "delete"}), "mode"),
        (json!({"image": {"repository": ""}}), "repository"),
        (json!({"database": {}}), "existingSecret"),
        (json!({"modus": "observe"}), "modus"),
        (json!({"ops": {"port": 80}}), "port"),
        (json!({"env": {"PATH": "/"}}), "PATH"),
        // Else it would overrule the mode that has to be said.
        (json!({"env": {"RETENTIOND__MODE": "enforce"}}), "RETENTIOND__MODE"),
    ] {
        let Some(refused) = rendered(&values(&change)) else { return };
        let why = refused.expect_err(&change.to_string());
        assert!(why.contains(word), "{change}: {why}");
    }
    // The chart's own values have no mode to fall back on.
    let mut silent = values(&json!({}));
    silent.as_object_mut().unwrap().remove("mode");
    assert!(rendered(&silent).unwrap().expect_err("no mode").contains("mode"));
    // As a part of another chart it is given these two.
    rendered(&values(&json!({"global": {"x": 1}, "enabled": true}))).unwrap().unwrap();
}

#[test]
fn the_chart_runs_the_daemon_with_the_least_that_it_needs() {
    let Some(manifests) = rendered(&values(&json!({}))) else { return };
    let manifests = manifests.unwrap();
    let kinds: BTreeSet<&str> = manifests.iter().map(|m| m["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, BTreeSet::from(["ConfigMap", "Deployment", "Job", "NetworkPolicy", "PodDisruptionBudget", "Service"]));
    let pods = [one(&manifests, "Deployment", "release-retentiond"), one(&manifests, "Job", "release-retentiond-migrate")]
        .map(|m| &m["spec"]["template"]["spec"]);
    for pod in pods {
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["securityContext"]["runAsUser"], 65532);
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        let container = &pod["containers"][0];
        assert_eq!(container["image"], format!("registry.example/retentiond:{}", env!("CARGO_PKG_VERSION")));
        assert_eq!(
            container["securityContext"],
            json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}})
        );
        let env = container["env"].as_array().unwrap();
        assert!(env.contains(&json!({"name": "RETENTIOND__MODE", "value": "observe"})), "{env:?}");
        assert!(env.iter().all(|variable| variable.get("valueFrom").is_none()), "secrets are files: {env:?}");
    }
    let daemon = &pods[0]["containers"][0];
    // 25 s of drain and 2 s to let go.
    assert!(pods[0]["terminationGracePeriodSeconds"].as_i64().unwrap() > 30);
    assert_eq!(daemon["livenessProbe"]["httpGet"], json!({"path": "/livez", "port": "ops"}));
    assert_eq!(daemon["readinessProbe"]["httpGet"], json!({"path": "/readyz", "port": "ops"}));
    assert_eq!(daemon["ports"], json!([{"name": "ops", "containerPort": 9464}]));
    assert_eq!(daemon["args"], json!(["run"]));
    assert_eq!(pods[0]["topologySpreadConstraints"][0]["maxSkew"], 1);
    let job = one(&manifests, "Job", "release-retentiond-migrate");
    assert_eq!(job["metadata"]["annotations"]["helm.sh/hook"], "pre-install,pre-upgrade");
    assert_eq!(job["spec"]["template"]["spec"]["containers"][0]["args"], json!(["migrate"]));
    let policy = one(&manifests, "NetworkPolicy", "release-retentiond");
    assert_eq!(policy["spec"]["ingress"], json!([{"ports": [{"port": "ops", "protocol": "TCP"}]}]));
    let config = &one(&manifests, "ConfigMap", "release-retentiond")["data"]["retentiond.toml"];
    assert_eq!(config.as_str().unwrap().trim_end(), read("config/retentiond.toml").trim_end());
}

#[test]
fn what_the_chart_can_do_besides_it_does_when_told() {
    let more = json!({
        "mode": "enforce", "api": {"enabled": true}, "serviceMonitor": {"enabled": true}, "dashboard": {"enabled": true},
        "prometheusRule": {"enabled": true, "runbookBaseUrl": "https://wiki.example/r/"},
        "networkPolicy": {"apiFrom": [{"podSelector": {}}], "opsFrom": [{"namespaceSelector": {}}]},
        "verifier": {"existingSecret": "second"}, "ledger": {"existingSecret": "key"}, "migrate": {"existingSecret": "owner", "key": "address"},
        "config": "# mine\n", "env": {"RETENTIOND__POLL__INTERVAL": "9s"},
        "extraVolumes": [{"name": "bucket", "secret": {"secretName": "bucket"}}],
        "extraVolumeMounts": [{"name": "bucket", "mountPath": "/run/secrets/bucket"}]
    });
    let Some(manifests) = rendered(&values(&more)) else { return };
    let manifests = manifests.unwrap();
    let pod = &one(&manifests, "Deployment", "release-retentiond")["spec"]["template"]["spec"];
    let env = pod["containers"][0]["env"].as_array().unwrap();
    for (name, value) in [
        ("RETENTIOND__MODE", "enforce"),
        ("RETENTIOND__HTTP__LISTEN", "0.0.0.0:8080"),
        ("RETENTIOND__VERIFIER__URL_FILE", "/run/secrets/retentiond/verifier/url"),
        ("RETENTIOND__LEDGER__KEY_FILE", "/run/secrets/retentiond/ledger/ledger.key"),
        ("RETENTIOND__POLL__INTERVAL", "9s"),
    ] {
        assert!(env.contains(&json!({"name": name, "value": value})), "{name}: {env:?}");
    }
    let ingress = &one(&manifests, "NetworkPolicy", "release-retentiond")["spec"]["ingress"];
    assert_eq!(ingress[0], json!({"ports": [{"port": "ops", "protocol": "TCP"}], "from": [{"namespaceSelector": {}}]}));
    assert_eq!(ingress[1], json!({"ports": [{"port": "api", "protocol": "TCP"}], "from": [{"podSelector": {}}]}));
    let job = &one(&manifests, "Job", "release-retentiond-migrate")["spec"]["template"]["spec"];
    assert_eq!(job["volumes"][1]["secret"]["secretName"], "owner");
    assert_eq!(job["volumes"][1]["secret"]["items"][0]["key"], "address");
    // The migration begins the ledger: with the daemon's key, and under its whole configuration.
    let of = |pod: &Value, what: &str| pod["containers"][0][what].as_array().unwrap().clone();
    assert_eq!(of(job, "volumeMounts"), of(pod, "volumeMounts"));
    assert!(of(pod, "volumeMounts").iter().any(|mount| mount["mountPath"] == "/run/secrets/retentiond/ledger"));
    assert_eq!(job["volumes"].as_array().unwrap()[2..], pod["volumes"].as_array().unwrap()[2..]);
    let listens = |variable: &Value| variable["name"].as_str().unwrap().starts_with("RETENTIOND__HTTP__");
    assert_eq!(of(job, "env"), of(pod, "env").into_iter().filter(|variable| !listens(variable)).collect::<Vec<_>>());
    assert!(of(job, "env").iter().any(|variable| variable["name"] == "RETENTIOND__LEDGER__KEY_FILE"));
    assert_eq!(one(&manifests, "ConfigMap", "release-retentiond")["data"]["retentiond.toml"], "# mine\n");
    // The selector of the monitor finds the service of the ops port and no other.
    let selector = one(&manifests, "ServiceMonitor", "release-retentiond")["spec"]["selector"]["matchLabels"].as_object().unwrap();
    let found: Vec<&Value> = manifests
        .iter()
        .filter(|m| m["kind"] == "Service" && selector.iter().all(|(label, value)| m["metadata"]["labels"][label] == *value))
        .collect();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["spec"]["ports"][0]["name"], "ops");
    let rules = &one(&manifests, "PrometheusRule", "release-retentiond")["spec"]["groups"];
    let texts = rules.to_string();
    assert!(!texts.contains("retentiond.invalid") && texts.contains("https://wiki.example/r/RetentionGuardTripped.md"));
    let there = rules
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap())
        .filter(|rule| rule.get("alert").is_some())
        .count();
    assert_eq!(there, alerts().len());
    let dashboard: Value =
        serde_json::from_str(one(&manifests, "ConfigMap", "release-retentiond-dashboard")["data"]["retentiond.json"].as_str().unwrap())
            .unwrap();
    assert_eq!(dashboard, serde_json::from_str::<Value>(&read("deploy/grafana/retentiond.json")).unwrap());
}

#[test]
fn the_chart_is_of_this_version() {
    let chart = read("deploy/helm/retentiond/Chart.yaml");
    for key in ["version", "appVersion"] {
        assert!(chart.lines().any(|line| line == format!("{key}: {}", env!("CARGO_PKG_VERSION"))), "{key}\n{chart}");
    }
}

/// The unit with this build in the place of the installed program.
fn unit(folder: &Path) -> PathBuf {
    let unit = folder.join("retentiond.service");
    fs::write(&unit, read("deploy/systemd/retentiond.service").replace("/usr/bin/retentiond", PROGRAM)).unwrap();
    unit
}

#[test]
fn systemd_understands_the_unit_and_finds_little_exposed() {
    let folder = tempfile::tempdir().unwrap();
    let unit = unit(folder.path());
    let Some(output) = run(Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit)) else {
        return left_out("the unit: systemd-analyze is not installed");
    };
    assert!(output.status.success() && !said(&output).contains("retentiond"), "{}", said(&output));
    // 10 is all of it, 100 its scale for the threshold.
    let exposed =
        run(Command::new("systemd-analyze").args(["security", "--offline=true", "--threshold=15", "--no-pager"]).arg(&unit)).unwrap();
    assert!(exposed.status.success(), "{}", said(&exposed));
}

#[test]
fn the_unit_restarts_what_a_restart_may_mend() {
    let unit = read("deploy/systemd/retentiond.service");
    let value = |key: &str| unit.lines().filter_map(|line| line.strip_prefix(&format!("{key}="))).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(value("RestartPreventExitStatus"), ["2 10 12 78"]);
    assert_eq!(value("ExecStartPre"), ["/usr/bin/retentiond check --offline"]);
    assert_eq!(value("LoadCredential"), ["database-url:/etc/retentiond/database-url"]);
    assert!(value("Environment").contains(&"RETENTIOND__DATABASE__URL_FILE=%d/database-url".to_owned()));
    let account = value("User").remove(0);
    assert!(read("deploy/systemd/retentiond.sysusers").lines().any(|line| line.starts_with(&format!("u {account} "))));
}

#[test]
fn the_package_has_all_it_names_and_never_starts_the_unit() {
    let manifest = read("Cargo.toml");
    let deb = manifest.split("[package.metadata.deb]").nth(1).unwrap().split("\n[profile").next().unwrap();
    for line in deb.lines().filter_map(|line| line.trim().strip_prefix("[\"")) {
        let source = line.split('"').next().unwrap();
        let folder = Path::new(source).parent().unwrap();
        let there = if source.contains('*') { root().join(folder).is_dir() } else { root().join(source).is_file() };
        // What the build makes is looked at by who makes it.
        assert!(source.starts_with("target/") || there, "{source}");
    }
    assert!(deb.contains("enable = true, start = false"), "an installation would begin to delete");
    assert!(deb.contains("conf-files = [\"/etc/retentiond/retentiond.toml\"]"));
    for script in ["postinst", "prerm", "postrm"] {
        let text = read(&format!("deploy/deb/{script}"));
        assert!(text.starts_with("#!/bin/sh\nset -e\n") && text.contains("\n#DEBHELPER#\n"), "{script}");
    }
}

#[test]
fn there_is_a_man_page_for_each_verb() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man");
    let made = Command::new(PROGRAM).env_clear().arg("manpages").arg(&pages).output().unwrap();
    assert!(made.status.success(), "{}", said(&made));
    let help = said(&Command::new(PROGRAM).env_clear().arg("--help").output().unwrap());
    let verbs = help.lines().skip_while(|line| *line != "Commands:").filter_map(|line| line.strip_prefix("  "));
    let verbs: Vec<&str> = verbs
        .filter_map(|line| line.split_whitespace().next())
        .filter(|v| v.starts_with(|c: char| c.is_ascii_lowercase()) && *v != "help")
        .collect();
    assert!(verbs.contains(&"run") && !verbs.contains(&"manpages"), "{verbs:?}");
    for verb in verbs {
        let page = fs::read_to_string(pages.join(format!("retentiond-{verb}.1"))).unwrap_or_else(|error| panic!("{verb}: {error}"));
        assert!(page.contains(".SH NAME") && page.contains(".SH DESCRIPTION"), "{verb}");
    }
    let all: Vec<PathBuf> = fs::read_dir(&pages).unwrap().map(|entry| entry.unwrap().path()).collect();
    let Some(output) = run(Command::new("mandoc").args(["-T", "lint", "-W", "error"]).args(&all)) else {
        return left_out("man pages: mandoc is not installed");
    };
    assert!(output.status.success(), "{}", said(&output));
}
