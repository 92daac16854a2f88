//! What a line must look like whatever is said, and that a stream that fails spoils nothing else.

use std::{fmt, time::Instant};

use serde_json::{Value as Json, json};

use super::*;
use crate::terminal::obeyed;

/// What was written, one entry per write.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<Vec<u8>>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().push(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Written {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().concat()).unwrap()
    }
}

fn said(style: Style, say: impl FnOnce()) -> Written {
    let written = Written::default();
    let subscriber = tracing_subscriber::registry().with(Log::new(style, written.clone()));
    tracing::subscriber::with_default(subscriber, say);
    written
}

/// The one JSON line that `say` causes: its keys in order, and its values.
fn line(say: impl FnOnce()) -> (Vec<String>, Json) {
    let text = said(Style::Json, say).text();
    assert_eq!(text.matches('\n').count(), 1, "{text}");
    (keys(&text), serde_json::from_str(&text).unwrap())
}

/// Keys of a flat object in the order they are written, duplicates included.
fn keys(text: &str) -> Vec<String> {
    use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
    struct Keys;
    impl<'de> Visitor<'de> for Keys {
        type Value = Vec<String>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<String>, A::Error> {
            let mut keys = Vec::new();
            while let Some((key, _)) = map.next_entry::<String, IgnoredAny>()? {
                keys.push(key);
            }
            Ok(keys)
        }
    }
    serde_json::Deserializer::from_str(text).deserialize_map(Keys).unwrap()
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Said(&'static str, #[source] Option<Box<Said>>);

fn failure(texts: &[&'static str]) -> Said {
    let (first, rest) = texts.split_first().unwrap();
    Said(first, (!rest.is_empty()).then(|| Box::new(failure(rest))))
}

#[test]
fn an_event_is_one_flat_object_with_its_fields_in_order() {
    let (keys, line) = line(|| {
        tracing::info!(
            event = "job.completed",
            job_id = "17",
            account_id = %"acme",
            json.records_deleted = %r#"{"platform/queue_messages": 3}"#,
            lateness_seconds = 1.5,
            attempts = 2_u32,
            behind = -4_i64,
            exact = true,
            cancel_reason = None::<&str>,
            r#type = ?Some(1),
            "job completed"
        );
    });
    let want = [
        "ts",
        "level",
        "event",
        "msg",
        "job_id",
        "account_id",
        "records_deleted",
        "lateness_seconds",
        "attempts",
        "behind",
        "exact",
        "type",
    ];
    assert_eq!(keys, want);
    assert_eq!(line["level"], "info");
    assert_eq!(line["event"], "job.completed");
    assert_eq!(line["msg"], "job completed");
    assert_eq!(line["account_id"], "acme");
    assert_eq!(line["records_deleted"], json!({"platform/queue_messages": 3}));
    assert_eq!(line["lateness_seconds"], json!(1.5));
    assert_eq!((&line["attempts"], &line["behind"]), (&json!(2), &json!(-4)));
    assert_eq!((&line["exact"], &line["type"]), (&json!(true), &json!("Some(1)")));
    let ts = line["ts"].as_str().unwrap();
    assert_eq!((ts.len(), ts.get(19..20), ts.ends_with('Z')), (27, Some("."), true), "{ts}");
}

#[test]
fn a_line_without_an_event_says_log_and_where_it_came_from() {
    let (keys, line) = line(|| tracing::warn!(target: "sqlx::pool", target = "mine", "slow"));
    assert_eq!(keys, ["ts", "level", "event", "msg", "field.target", "target"]);
    assert_eq!((&line["event"], &line["target"]), (&json!("log"), &json!("sqlx::pool")));
    assert_eq!(line["field.target"], "mine");
}

#[test]
fn no_key_is_ever_written_twice() {
    let (keys, line) = line(|| {
        let span = tracing::info_span!("s", ts = 2, job_id = 1, message = "of the span");
        let _inside = span.enter();
        tracing::info!(event = "e", ts = 1, level = 1, msg = 1, target = 1, job_id = 2, "m");
    });
    let want = ["ts", "level", "event", "msg", "field.ts", "field.level", "field.msg", "target", "job_id"];
    assert_eq!(keys, want);
    assert_eq!((&line["job_id"], &line["msg"]), (&json!(2), &json!("m")));
}

#[test]
fn spans_lend_their_fields_and_never_override_nearer_ones() {
    let (keys, line) = line(|| {
        let outer = tracing::info_span!("outer", pass = "planner", account_id = "outer");
        let _outer = outer.enter();
        let inner = tracing::info_span!("inner", account_id = "inner", rows = tracing::field::Empty);
        let _inner = inner.enter();
        inner.record("rows", 7);
        tracing::info!(event = "poll.completed", "done");
    });
    assert_eq!(keys, ["ts", "level", "event", "msg", "account_id", "rows", "pass"]);
    assert_eq!((&line["account_id"], &line["rows"]), (&json!("inner"), &json!(7)));
}

#[test]
fn nothing_in_a_value_ends_the_line_or_steers_a_terminal() {
    let evil = "a\n\r\t\"\\\u{0}\u{1b}[2J\u{7f}\u{85}\u{2028}\u{202e}é🙂";
    let written = said(Style::Json, || tracing::info!(event = %evil, account_id = %evil, "{evil}"));
    let text = written.text();
    let bare = text.strip_suffix('\n').unwrap();
    assert!(!bare.contains(obeyed), "{bare:?}");
    let line: Json = serde_json::from_str(bare).unwrap();
    for key in ["event", "account_id", "msg"] {
        assert_eq!(line[key], evil);
    }
    let text = said(Style::Text { colour: false }, || {
        tracing::info!(event = %evil, account_id = %evil, json.x = %"[1,\n2]", "{evil}");
    });
    assert!(!text.text().strip_suffix('\n').unwrap().contains(obeyed), "{}", text.text());
}

#[test]
fn raw_json_stays_on_the_line_and_what_is_none_becomes_text() {
    let (_, line) = line(|| {
        tracing::info!(json.a = %"{\"x\":\n[1, 2]}", json.b = "{\"x\":", json.c = %"{} {}", "m");
    });
    assert_eq!(line["a"], json!({"x": [1, 2]}));
    assert_eq!((&line["b"], &line["c"]), (&json!("{\"x\":"), &json!("{} {}")));
}

#[test]
fn numbers_that_json_cannot_hold_become_text() {
    let (_, line) = line(|| tracing::info!(nan = f64::NAN, big = u128::MAX, "m"));
    assert_eq!(line["nan"], "NaN");
    let (_, line) = self::line(|| tracing::info!(low = f64::NEG_INFINITY, "m"));
    assert_eq!(line["low"], "-inf");
}

#[test]
fn a_value_past_4_kib_is_cut_between_characters() {
    let (_, line) = line(|| tracing::info!(id = %"é".repeat(3_000), fits = %"x".repeat(4096), "m"));
    assert_eq!(line["id"], format!("{}…", "é".repeat(2_048)));
    assert_eq!(line["fits"], "x".repeat(4096));
}

#[test]
fn an_error_is_told_with_all_its_causes_once() {
    let error = failure(&["cannot claim jobs", "pool: timed out", "timed out", "no route"]);
    assert_eq!(chain(&error), "cannot claim jobs: pool: timed out: no route");
    let (_, line) = line(|| {
        tracing::error!(event = "poll.failed", error = &error as &(dyn Error + 'static), "poll failed");
    });
    assert_eq!(line["error"], "cannot claim jobs: pool: timed out: no route");
}

#[test]
fn people_get_time_level_event_message_and_pairs() {
    let text = said(Style::Text { colour: false }, || {
        tracing::warn!(event = "job.overdue", account_id = "a b", reason = "", hours = 3, "late");
        tracing::info!(target: "sqlx", "slow");
    });
    let text = text.text();
    let mut lines = text.lines().map(|line| line.split_at(8));
    let (time, rest) = lines.next().unwrap();
    assert!(time.bytes().all(|b| b.is_ascii_digit() || b == b':'), "{time}");
    assert_eq!(rest, " WARN  job.overdue late account_id=\"a b\" reason=\"\" hours=3");
    assert_eq!(lines.next().unwrap().1, " INFO  sqlx slow");
}

#[test]
fn colours_are_for_terminals_only() {
    let say = || tracing::error!(event = "e", n = 1, "m");
    assert!(said(Style::Text { colour: true }, say).text().contains("\x1b[31mERROR\x1b[0m"));
    assert!(!said(Style::Text { colour: false }, say).text().contains('\x1b'));
}

#[test]
fn threads_write_whole_lines_with_one_write_each() {
    let written = said(Style::Json, || {
        let here = tracing::dispatcher::get_default(Clone::clone);
        thread::scope(|scope| {
            for worker in 0..4 {
                let here = here.clone();
                scope.spawn(move || {
                    tracing::dispatcher::with_default(&here, || {
                        (0..250).for_each(|n| tracing::info!(event = "e", worker, n, "m"));
                    });
                });
            }
        });
    });
    let writes = written.0.lock().unwrap();
    assert_eq!(writes.len(), 1_000);
    for line in writes.iter() {
        assert!(line.ends_with(b"\n"));
        serde_json::from_slice::<Json>(line).unwrap();
    }
}

/// Takes some bytes, then fails for a while, like a disk that is full until somebody clears it.
struct Disk {
    written: Written,
    free: Arc<Mutex<usize>>,
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut free = self.free.lock().unwrap();
        let taken = bytes.len().min(*free);
        if taken == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        *free -= taken;
        self.written.write(&bytes[..taken])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_tears_one_line_and_spoils_no_other() {
    let (written, free) = (Written::default(), Arc::new(Mutex::new(10)));
    let disk = Disk { written: written.clone(), free: Arc::clone(&free) };
    let log = tracing_subscriber::registry().with(Log::new(Style::Json, disk));
    tracing::subscriber::with_default(log, || {
        tracing::info!(event = "torn", "m");
        tracing::info!(event = "lost", "m");
        *free.lock().unwrap() = 10_000;
        tracing::info!(event = "whole", "m");
    });
    let text = written.text();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!((lines.len(), lines[0].len()), (2, 10), "{text}");
    assert_eq!(serde_json::from_str::<Json>(lines[1]).unwrap()["event"], "whole");
}

#[test]
fn a_level_is_checked_before_anything_is_logged() {
    for good in ["info", "WARN", "off", "retentiond=debug", "warn,sqlx=error"] {
        assert!(filter(good).is_ok(), "{good}");
    }
    for bad in ["inof", "", "info,retentiond", "retentiond=loud"] {
        let text = filter(bad).unwrap_err().to_string();
        assert!(text.starts_with("log.level = "), "{text}");
    }
}

#[test]
fn a_panic_is_one_json_line_and_nothing_else_on_the_stream() {
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "telemetry::tests::child_that_panics", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let text = String::from_utf8(child.stderr).unwrap();
    let lines: Vec<Json> = text.lines().map(|line| serde_json::from_str(line).expect(&text)).collect();
    assert_eq!(lines.len(), 3, "{text}");
    for (line, msg) in lines.iter().zip(["on a thread\nof its own", "while recorded"]) {
        assert_eq!((&line["event"], &line["level"]), (&json!("daemon.panicked"), &json!("error")));
        assert_eq!(line["msg"], msg);
        assert!(line["location"].as_str().unwrap().starts_with("src/telemetry/tests.rs:"));
    }
    assert_eq!(lines[0]["thread"], "purging");
    assert_eq!(lines[2]["event"], "still.here");
}

/// Panics as it is written.
struct Unspeakable;

impl fmt::Display for Unspeakable {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("while recorded")
    }
}

#[test]
#[ignore = "takes over the process; its neighbour runs it in one of its own"]
fn child_that_panics() {
    let log = config::Log { format: LogFormat::Json, level: "info".to_owned(), account_key: None };
    init(&log, Stream::Stderr).unwrap();
    let doomed = thread::Builder::new().name("purging".to_owned());
    doomed.spawn(|| panic!("on a thread\nof its own")).unwrap().join().unwrap_err();
    thread::spawn(|| tracing::info!(value = %Unspeakable, "never said")).join().unwrap_err();
    tracing::info!(event = "still.here", "after two panics");
    assert!(matches!(init(&log, Stream::Stderr), Err(TelemetryError::Installed(_))));
}

#[test]
#[ignore = "measures; run with --release --ignored"]
fn a_hundred_thousand_events_take_less_than_a_second() {
    let null = File::options().write(true).open("/dev/null").unwrap();
    let log = tracing_subscriber::registry().with(filter("info").unwrap()).with(Log::new(Style::Json, null));
    tracing::subscriber::with_default(log, || {
        let start = Instant::now();
        for n in 0..100_000 {
            tracing::info!(
                event = "batch.deleted", job_id = n, account_id = %"acme", feature = "mps",
                data_class = "queue", starting_point = "account_deleted", rows = 12, "batch deleted"
            );
        }
        let took = start.elapsed();
        assert!(took.as_secs() < 1, "{took:?}");
        writeln!(io::stderr(), "100,000 events in {took:?}").unwrap();
    });
}

fn said_hidden(style: Style, say: impl FnOnce()) -> String {
    let written = Written::default();
    let log = Log { pseudonyms: Some(Pseudonyms::new("0123456789abcdef".into())), ..Log::new(style, written.clone()) };
    tracing::subscriber::with_default(tracing_subscriber::registry().with(log), say);
    written.text()
}

#[test]
fn with_pseudonyms_no_line_names_an_account_however_it_got_there() {
    for style in [Style::Json, Style::Text { colour: false }] {
        let text = said_hidden(style, || {
            tracing::info!(event = "job.started", account_id = "canary", error = "“canary-2” and canary", "canary begins");
            tracing::warn!(event = "orphans.found", accounts.examples = r#"["canary","canary-3"]"#, "m");
            let around = tracing::info_span!("work", account_id = "canary");
            around.in_scope(|| tracing::info!(event = "store.back", why = "of canary", "m"));
            tracing::info!(target: "sqlx::postgres::notice", note = "canary", "canary");
        });
        assert_eq!((text.lines().count(), text.contains("canary")), (4, false), "{text}");
        let pseudonym = pseudonym(&"0123456789abcdef".into(), "canary");
        assert_eq!(text.matches(&pseudonym).count(), 6, "{text}");
    }
}

#[test]
fn without_pseudonyms_examples_are_one_text() {
    let (_, line) = line(|| tracing::warn!(event = "orphans.found", accounts.examples = r#"["a","b"]"#, "m"));
    assert_eq!(line["examples"], "a, b");
}

#[test]
fn with_pseudonyms_a_panic_keeps_its_text_to_itself_in_text_format_too() {
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "telemetry::tests::child_that_panics_about_an_account", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let text = String::from_utf8(child.stderr).unwrap();
    assert!(text.contains("daemon.panicked") && text.contains("src/telemetry/tests.rs:") && !text.contains("canary"), "{text}");
}

#[test]
#[ignore = "takes over the process; its neighbour runs it in one of its own"]
fn child_that_panics_about_an_account() {
    let log = config::Log { format: LogFormat::Text, level: "info".to_owned(), account_key: Some("0123456789abcdef".into()) };
    init(&log, Stream::Stderr).unwrap();
    thread::spawn(|| panic!("canary")).join().unwrap_err();
}
