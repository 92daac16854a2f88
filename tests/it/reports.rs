//! What `report` says, against a world made by hand: every figure, both ends of the interval to the microsecond, and that CSV can be read back.

use serde_json::{Value, json};

use crate::world::World;

/// A job that is over, as the daemon would leave it.
struct Over {
    id: i64,
    class: &'static str,
    /// Completed, or why it was cancelled.
    end: Result<(), &'static str>,
    /// Seconds after 2026-01-01, which is its `retain_until`; its `delete_by` is a day later.
    seconds: &'static str,
    began: bool,
    exact: bool,
    records: Value,
}

impl World {
    async fn over(&self, job: Over) {
        let at = format!("timestamptz '2026-01-01 00:00Z' + interval '{} seconds'", job.seconds);
        let (state, completed, cancelled, reason) = match job.end {
            Ok(()) => ("completed", at.as_str(), "null", "null".to_owned()),
            Err(reason) => ("cancelled", "null", at.as_str(), format!("'{reason}'")),
        };
        self.sql(&format!(
            "insert into retention.history (id, account_id, feature, data_class, state, starting_point, started_at, retain_until, delete_by, policy, attempts,
                                            purge_began_at, records_deleted, count_exact, created_at, completed_at, cancelled_at, cancel_reason)
             values ({}, 'somebody', 'mps', '{}', '{state}', 'account_deleted', '2025-12-01 00:00Z', '2026-01-01 00:00Z', '2026-01-02 00:00Z', 'p', 1,
                     {}, '{}', {}, '2025-12-01 00:00Z', {completed}, {cancelled}, {reason})",
            job.id,
            job.class,
            if job.began { "'2026-01-01 00:00Z'" } else { "null" },
            job.records,
            job.exact
        ))
        .await;
    }

    async fn january(&self) {
        let two =
            |templates: i64, tasks: i64| json!({"platform/template_configurations": templates, "platform/task_configurations": tasks});
        let one = |messages: i64| json!({"platform/queue_messages": messages});
        let queue =
            |id, end, seconds, began, messages| Over { id, class: "queue", end, seconds, began, exact: true, records: one(messages) };
        let jobs = [
            Over { id: 901, class: "configuration", end: Ok(()), seconds: "60", began: true, exact: true, records: two(3, 5) },
            // At its delete_by, and a microsecond after it.
            Over { id: 902, class: "configuration", end: Ok(()), seconds: "86400", began: true, exact: true, records: two(0, 7) },
            Over { id: 903, class: "configuration", end: Ok(()), seconds: "86400.000001", began: true, exact: false, records: two(10, 20) },
            queue(904, Ok(()), "1.5", true, 100),
            queue(905, Err("reactivated"), "2", true, 1_000),
            queue(906, Err("policy"), "2", false, 0),
            queue(907, Err("unverifiable"), "90000", true, 10_000),
            queue(908, Err("unverifiable"), "90000", false, 0),
        ];
        for job in jobs {
            self.over(job).await;
        }
    }
}

const WHOLE: [&str; 4] = ["--from", "2026-01-01T00:00:00Z", "--to", "2026-02-01T00:00:00Z"];

fn deletions<'a>(interval: &[&'a str]) -> Vec<&'a str> {
    ["report", "deletions"].iter().chain(interval).copied().collect()
}

fn class<'a>(report: &'a Value, name: &str) -> &'a Value {
    report["classes"].as_array().unwrap().iter().find(|c| c["data_class"] == name).unwrap_or_else(|| panic!("{name}: {report}"))
}

/// The figures without names and parts.
fn figures(value: &Value) -> Value {
    let mut figures = value.clone();
    for key in ["feature", "data_class", "name", "targets"] {
        figures.as_object_mut().unwrap().remove(key);
    }
    figures
}

/// Every field of a CSV text, by a reader of our own that knows RFC 4180 and nothing else.
fn read_csv(text: &str) -> Vec<Vec<String>> {
    let (mut rows, mut row, mut field, mut quoted) = (Vec::new(), Vec::new(), String::new(), false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.next_if_eq(&'"').is_some() => field.push('"'),
            '"' => quoted = !quoted,
            ',' if !quoted => row.push(std::mem::take(&mut field)),
            '\r' if !quoted => {
                assert_eq!(chars.next(), Some('\n'), "a line ends in CRLF");
                row.push(std::mem::take(&mut field));
                rows.push(std::mem::take(&mut row));
            }
            '\n' if !quoted => panic!("a bare line feed: {text}"),
            c => field.push(c),
        }
    }
    assert!(!quoted && row.is_empty() && field.is_empty(), "the last line ends too");
    rows
}

fn csv(world: &World, arguments: &[&str]) -> Vec<std::collections::BTreeMap<String, String>> {
    let output = world.cli(&[arguments, &["-o", "csv"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut rows = read_csv(&String::from_utf8(output.stdout).unwrap());
    let header = rows.remove(0);
    let named = |row: Vec<String>| {
        assert_eq!(row.len(), header.len(), "{row:?}");
        header.iter().cloned().zip(row).collect()
    };
    rows.into_iter().map(named).collect()
}

#[tokio::test]
async fn deletions_are_counted_for_each_class_and_place_with_what_was_late_partial_and_never_verified() {
    let world = World::new().await;
    world.january().await;
    let report = world.json(&deletions(&WHOLE));
    assert_eq!(
        figures(class(&report, "configuration")),
        json!({"completed": 3, "on_time": 2, "late": 1, "on_time_share": 2.0 / 3.0, "latest_lateness_seconds": 86_400.000_001, "records_deleted": 45,
               "count_exact": false, "cancelled": 0, "partial": 0, "unverifiable": 0, "partial_records": 0, "open": 0, "overdue": 0, "held": 0})
    );
    let targets = class(&report, "configuration")["targets"].as_array().unwrap();
    let of = |t: &Value| {
        (t["name"].as_str().unwrap().to_owned(), t["records_deleted"].as_i64(), t["completed"].as_i64(), t["count_exact"].as_bool())
    };
    assert_eq!(
        targets.iter().map(of).collect::<Vec<_>>(),
        [
            ("platform/task_configurations".to_owned(), Some(32), Some(3), Some(true)),
            ("platform/template_configurations".to_owned(), Some(13), Some(3), Some(true))
        ],
        "the main database counts exactly, whatever the other stores of a job do"
    );
    assert_eq!(
        figures(class(&report, "queue")),
        json!({"completed": 1, "on_time": 1, "late": 0, "on_time_share": 1.0, "latest_lateness_seconds": 1.5, "records_deleted": 100, "count_exact": true,
               "cancelled": 2, "partial": 1, "unverifiable": 2, "partial_records": 11_000, "open": 0, "overdue": 0, "held": 0})
    );
    assert_eq!(
        report["totals"],
        json!({"completed": 4, "on_time": 3, "late": 1, "on_time_share": 0.75, "latest_lateness_seconds": 86_400.000_001, "records_deleted": 145,
               "count_exact": false, "cancelled": 2, "partial": 1, "unverifiable": 2, "partial_records": 11_000, "open": 0, "overdue": 0, "held": 0})
    );
    let exceptions: Vec<_> = report["exceptions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| json!([e["job_id"], e["what"], e["records_deleted"], e["late_seconds"]]))
        .collect();
    assert_eq!(
        exceptions,
        [
            json!(["903", "late", 30, 0.000_001]),
            json!(["905", "partial", 1_000, null]),
            json!(["907", "unverifiable", 10_000, null]),
            json!(["908", "unverifiable", 0, null])
        ]
    );
    assert!(!report.to_string().contains("somebody"), "no account is named");
}

#[tokio::test]
async fn a_job_counts_from_the_first_instant_of_the_interval_on_and_at_its_end_not_any_more() {
    let world = World::new().await;
    world.january().await;
    // Job 904 was over at second 1.5.
    for (from, to, counts) in [
        ("2026-01-01T00:00:01.500000Z", "2026-01-01T00:00:01.500001Z", 1),
        ("2026-01-01T00:00:01.500001Z", "2026-01-01T00:00:01.600000Z", 0),
        ("2026-01-01T00:00:01.499999Z", "2026-01-01T00:00:01.500000Z", 0),
        ("2026-01-01T00:00:01.499999Z", "2026-01-01T00:00:01.500001Z", 1),
    ] {
        let report = world.json(&deletions(&["--from", from, "--to", to]));
        assert_eq!(report["totals"]["completed"], counts, "{from} {to}");
        assert_eq!((&report["from"], &report["to"]), (&json!(from), &json!(to)));
    }
    // And cancelled ones by when they were cancelled.
    let cancelled = |from, to| world.json(&deletions(&["--from", from, "--to", to]))["totals"]["cancelled"].clone();
    assert_eq!(cancelled("2026-01-01T00:00:02Z", "2026-01-01T00:00:02.000001Z"), 2);
    assert_eq!(cancelled("2026-01-01T00:00:02.000001Z", "2026-01-01T00:00:03Z"), 0);
    let output = world.cli(&deletions(&["--from", "2026-01-02T00:00:00Z", "--to", "2026-01-02T00:00:00Z"]));
    assert_eq!(output.status.code(), Some(1), "nothing lies between");
    assert!(String::from_utf8_lossy(&output.stderr).contains("is not before --to"));
}

#[tokio::test]
async fn what_is_open_overdue_and_held_is_so_now_and_the_last_thirty_days_are_what_is_asked_about() {
    let world = World::new().await;
    world.account("held", "null", "now() - interval '400 days'", "null").await;
    world.account("late", "null", "now() - interval '400 days'", "null").await;
    world.account("early", "null", "now() - interval '7 days 1 hour'", "null").await;
    assert!(world.cli(&["hold", "place", "--account", "held", "--reason", "law"]).status.success());
    assert!(world.cli(&["pause", "--account", "late", "--reason", "later"]).status.success());
    world.run_passes().await.unwrap();
    // What was over long ago is not asked about; the queue of `early` is.
    world.january().await;
    let report = world.json(&deletions(&[]));
    let queue = class(&report, "queue");
    assert_eq!(
        [&queue["completed"], &queue["records_deleted"], &queue["open"], &queue["overdue"], &queue["held"]].map(Value::as_i64),
        [1, 7, 2, 1, 1].map(Some)
    );
    let configuration = class(&report, "configuration");
    assert_eq!([&configuration["open"], &configuration["overdue"], &configuration["held"]].map(Value::as_i64), [3, 1, 1].map(Some));
    assert_eq!(configuration["targets"][0]["overdue"], 1);
    let late: Vec<String> = world.jobs("late").await.into_iter().map(|job| job.id).rev().collect();
    let told: Vec<_> = report["exceptions"].as_array().unwrap().iter().collect();
    assert!(
        told.iter().all(|e| e["what"] == "overdue" && e["ended_at"].is_null() && e["late_seconds"].as_f64().unwrap() > 300.0 * 86_400.0)
    );
    assert_eq!(told.iter().map(|e| e["job_id"].as_str().unwrap()).collect::<Vec<_>>(), late);
    let shown = String::from_utf8(world.cli(&["report", "deletions"]).stdout).unwrap();
    assert!(shown.contains("mps/queue") && shown.contains("overdue") && !shown.contains("more; -o json"), "{shown}");
}

#[tokio::test]
async fn csv_reads_back_as_what_json_says_and_has_every_exception() {
    let world = World::new().await;
    world.january().await;
    world
        .sql(
            "insert into retention.history (id, account_id, feature, data_class, state, starting_point, started_at, retain_until, delete_by, policy, attempts,
                                            records_deleted, count_exact, created_at, completed_at)
             select i, 'somebody', '=cmd()', 'a \"quoted\", name', 'completed', 'p', '2025-01-01Z', '2025-01-01Z', '2025-01-02Z', 'p', 1, '{\"s/t\": 2}', true,
                    '2025-01-01Z', '2026-01-03Z'
             from generate_series(1001, 1150) i",
        )
        .await;
    let report = world.json(&deletions(&WHOLE));
    let rows = csv(&world, &deletions(&WHOLE));
    let kind = |kind: &str| rows.iter().filter(|r| r["kind"] == kind).collect::<Vec<_>>();
    assert_eq!((kind("total").len(), kind("class").len(), kind("target").len(), kind("exception").len()), (1, 3, 4, 154));
    assert_eq!(kind("total")[0]["records_deleted"], "445");
    for (row, exception) in kind("exception").iter().zip(report["exceptions"].as_array().unwrap()) {
        assert_eq!((&json!(row["job_id"]), &json!(row["what"])), (&exception["job_id"], &exception["what"]));
    }
    let class = kind("class").into_iter().find(|r| r["data_class"].starts_with('a')).unwrap();
    assert_eq!((class["feature"].as_str(), class["data_class"].as_str()), ("'=cmd()", "a \"quoted\", name"), "nothing in it is a formula");
    for (key, value) in figures(&report["totals"]).as_object().unwrap() {
        let (read, told) = (kind("total")[0][key].clone(), value.to_string());
        let same = value.as_f64().map_or_else(|| read == told, |number| read.parse() == Ok(number));
        assert!(same, "{key}: {read}, {value}");
    }
    let shown = String::from_utf8(world.cli(&deletions(&WHOLE)).stdout).unwrap();
    assert!(shown.contains("… and 54 more"), "a table shows a hundred: {shown}");
    // No other verb has it.
    assert_eq!(world.cli(&["status", "-o", "csv"]).status.code(), Some(2));
}

#[tokio::test]
async fn the_rules_are_told_without_a_database_with_every_period_place_and_copy() {
    let mut world = World::new().await;
    world.set("DATABASE__URL", "postgres://nobody@127.0.0.1:1/nowhere");
    world.rules = world.rules.replace(
        "[[data_classes]]\nfeature = \"mps\"\nname = \"queue\"",
        "[[data_classes.targets]]\nstore = \"dumps\"\nname = \"nightly\"\nexpires_after = \"7d\"\n\n[[data_classes]]\nfeature = \"mps\"\nname = \"queue\"",
    ) + "\n[stores.dumps]\nkind = \"expiring\"\n[[exemptions]]\ntable = \"audit\"\nreason = \"kept by law\"\n";
    let rules = world.json(&["report", "art30"]);
    assert_eq!(
        rules["matrix"],
        json!([
            {"retain_for": "7d", "starting_points": ["account_deleted", "feature_terminated", "cmq_disabled"], "classes": ["mps/queue"]},
            {"retain_for": "30d", "starting_points": ["account_deleted", "feature_terminated"], "classes": ["mps/configuration"]}
        ])
    );
    assert_eq!(
        rules["classes"][0],
        json!({
            "feature": "mps", "data_class": "configuration", "retain_for": "30d", "delete_within": "1d", "delete_by_after": null,
            "starting_points": [
                {"name": "account_deleted", "column": "accounts.deleted_at", "counts_for": "every feature"},
                {"name": "feature_terminated", "column": "feature_subscriptions.terminated_at", "counts_for": "that feature"}
            ],
            "targets": [
                {"name": "platform/template_configurations", "store_kind": "postgres", "identified_by": "account_id"},
                {"name": "platform/task_configurations", "store_kind": "postgres", "identified_by": "account_id"}
            ],
            "copies": [{"name": "dumps/nightly", "expires_after": "7d"}]
        })
    );
    assert_eq!(rules["customer"], json!([{"class": "mps/media", "place": "media_objects"}]));
    assert_eq!(rules["exemptions"], json!([{"table": "audit", "reason": "kept by law"}]));

    let rows = csv(&world, &["report", "art30"]);
    let kinds: Vec<_> = rows.iter().map(|r| (r["kind"].as_str(), r["place"].as_str(), r["retain_for"].as_str())).collect();
    assert_eq!(
        kinds,
        [
            ("target", "platform/template_configurations", "30d"),
            ("target", "platform/task_configurations", "30d"),
            ("copies", "dumps/nightly", "30d"),
            ("target", "platform/queue_messages", "7d"),
            ("customer", "media_objects", ""),
            ("exempted", "audit", "")
        ]
    );
    let shown = String::from_utf8(world.cli(&["report", "art30"]).stdout).unwrap();
    for said in ["copies dumps/nightly are gone 7d after that", "media_objects is the customer's, and never deleted by us", "kept for 7d"] {
        assert!(shown.contains(said), "{said}: {shown}");
    }
}
