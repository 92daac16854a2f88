//! Keeps the documents true: the promise table, links, verbs, flags, files, log events and exit codes are compared with the program.
//! It judges no prose.

#![expect(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test that cannot read what it checks has failed")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use retentiond::{
    catalog::{Finding, Severity},
    config::{self, Config, DeleteBy, Needs},
    database::DatabaseError,
    failure::{EXIT_CODES, Failure},
    metrics::{self, METRICS},
    schema::SchemaError,
    telemetry::events::EVENTS,
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Files below `folder` with one of the endings, build output and hidden folders left out.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        let name = entry.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if entry.is_dir() && !name.starts_with('.') && name != "target" {
            found.extend(files(&entry, ending));
        } else if name.ends_with(ending) {
            found.push(entry);
        }
    }
    found.sort();
    found
}

/// Every document: its path, for messages, and its text.
fn documents() -> Vec<(PathBuf, String)> {
    let found: Vec<_> = files(root(), ".md").into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect();
    assert!(found.len() >= 5, "the search finds the documents");
    found
}

fn name(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// The text with fenced blocks dropped.
fn prose(text: &str) -> String {
    text.split("```").step_by(2).collect()
}

/// The fenced blocks, their language line dropped.
fn blocks(text: &str) -> Vec<&str> {
    text.split("```").skip(1).step_by(2).filter_map(|block| block.split_once('\n').map(|(_, body)| body)).collect()
}

/// What stands between backticks, outside fenced blocks.
fn code(text: &str) -> Vec<String> {
    prose(text).split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The rows of the table between `<!-- marker -->` and `<!-- /marker -->`, heading and rule dropped.
fn rows(text: &str, marker: &str) -> Vec<Vec<String>> {
    let after = text.split_once(&format!("<!-- {marker} -->")).unwrap_or_else(|| panic!("no {marker}")).1;
    let table = after.split_once(&format!("<!-- /{marker} -->")).unwrap_or_else(|| panic!("{marker} has no end")).0;
    let cells = |line: &str| line.trim().trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    table.lines().filter(|line| line.starts_with('|')).skip(2).map(cells).collect()
}

fn shipped() -> Config {
    let environment = BTreeMap::from([("RETENTIOND__MODE".to_owned(), "observe".to_owned())]);
    config::parse(&[("config/retentiond.toml", config::SHIPPED)], &environment, Needs::Nothing).expect("the shipped configuration")
}

#[test]
fn the_promise_table_says_what_the_shipped_configuration_says() {
    let config = shipped();
    let mut expected = Vec::new();
    for class in &config.data_classes {
        let points: Vec<_> = class.starting_points.iter().map(|&at| format!("`{}`", config.starting_points[at].name)).collect();
        let targets: Vec<_> = class.targets.iter().map(|target| format!("`{}`", target.name)).collect();
        let delete_by = match class.delete_by {
            DeleteBy::Within(period) => format!("{period} after that"),
            DeleteBy::AfterStart(period) => format!("{period} after the starting point"),
        };
        expected.push(vec![
            format!("{}/{}", class.feature, class.name),
            points.join(", "),
            class.retain_for.to_string(),
            delete_by,
            targets.join(", "),
        ]);
    }
    for place in &config.customer_places {
        let never = "never by us".to_owned();
        expected.push(vec![
            place.class.clone(),
            "none".to_owned(),
            "as long as the customer wants".to_owned(),
            never,
            format!("`{}`", place.place),
        ]);
    }
    assert_eq!(rows(&read("docs/how-deletion-works.md"), "promise"), expected);
}

#[test]
fn the_starting_points_of_the_document_are_those_of_the_shipped_configuration() {
    let config = shipped();
    let expected: Vec<_> = config
        .starting_points
        .iter()
        .map(|point| {
            let level = if point.feature_column.is_some() { "that feature" } else { "every feature" };
            vec![format!("`{}`", point.name), format!("`{}.{}`", point.table.spelt(), point.since_column.as_str()), level.to_owned()]
        })
        .collect();
    let written: Vec<Vec<String>> =
        rows(&read("docs/how-deletion-works.md"), "starting points").into_iter().map(|row| row[..3].to_vec()).collect();
    assert_eq!(written, expected);
}

/// How a heading is linked to: lower case, spaces as dashes, punctuation gone.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_')).map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn anchors(text: &str) -> BTreeSet<String> {
    prose(text).lines().filter(|line| line.starts_with('#')).map(|line| anchor(line.trim_start_matches('#'))).collect()
}

#[test]
fn every_relative_link_leads_somewhere() {
    let mut seen = 0;
    for (path, text) in documents() {
        let prose = prose(&text);
        for link in prose.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            if link.contains("://") {
                continue;
            }
            let (file, heading) = link.split_once('#').map_or((link, None), |(file, heading)| (file, Some(heading)));
            let to = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            assert!(to.exists(), "{}: {link} leads nowhere", name(&path));
            if let Some(heading) = heading {
                let there = anchors(&fs::read_to_string(&to).unwrap());
                assert!(there.contains(heading), "{}: {link}: no such heading; there are {there:?}", name(&path));
            }
            seen += 1;
        }
    }
    assert!(seen > 10, "the search finds links");
}

/// Every command line of the program that a document shows, as words.
fn commands(text: &str) -> Vec<Vec<String>> {
    let inline = code(text);
    let shown = blocks(text).into_iter().flat_map(str::lines).map(str::to_owned).chain(inline);
    let mut commands = Vec::new();
    for line in shown {
        let line = line.trim().trim_start_matches("$ ");
        // `NAME=value retentiond …` and `… | retentiond …` show commands too.
        let Some(at) = line.split(' ').position(|word| word == "retentiond" || word.ends_with("/retentiond")) else { continue };
        if line.split(' ').take(at).any(|word| !word.contains('=') && !matches!(word, "sudo" | "|" | "&&")) {
            continue;
        }
        let end = |word: &&str| !matches!(*word, "|" | "&&" | ">" | "#" | ";");
        commands.push(line.split(' ').skip(at + 1).filter(|word| !word.is_empty()).take_while(end).map(str::to_owned).collect());
    }
    commands
}

fn help(verb: &[String]) -> Option<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_retentiond")).env_clear().args(verb).arg("--help").output().expect("the program runs");
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn every_verb_and_flag_that_a_document_shows_exists() {
    let all = help(&[]).expect("--help");
    let listed: BTreeSet<String> = all
        .lines()
        .skip_while(|line| *line != "Commands:")
        .filter_map(|line| line.strip_prefix("  "))
        .filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()))
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect();
    assert!(listed.contains("run") && listed.contains("healthcheck"), "{listed:?}");
    let mut shown = BTreeSet::new();
    for (path, text) in documents() {
        for words in commands(&text) {
            let mut words = words.as_slice();
            // Global flags with their values may come first.
            while let [flag, _, rest @ ..] = words
                && matches!(flag.as_str(), "-c" | "--config" | "-o" | "--output")
            {
                words = rest;
            }
            let Some(first) = words.first().filter(|word| !word.starts_with('-')) else { continue };
            let where_ = format!("{}: retentiond {}", name(&path), words.join(" "));
            assert!(listed.contains(first), "{where_}: no such verb");
            shown.insert(first.clone());
            let subverb = words.get(1).filter(|word| {
                (matches!(first.as_str(), "jobs" | "hold" | "guard" | "policy" | "request" | "ledger" | "report" | "notices")
                    || *word == "verify")
                    && !word.starts_with('-')
            });
            let verb: Vec<String> = std::iter::once(first).chain(subverb).cloned().collect();
            let text = help(&verb).unwrap_or_else(|| panic!("{where_}: no such verb"));
            for flag in words.iter().filter(|word| word.starts_with("--") && word.len() > 2) {
                let flag = flag.split('=').next().unwrap_or(flag);
                let flag = flag.trim_end_matches([']', ',']);
                assert!(text.contains(flag), "{where_}: no such flag");
            }
        }
    }
    let readme: BTreeSet<String> = commands(&read("README.md")).into_iter().filter_map(|words| words.first().cloned()).collect();
    for verb in listed.iter().filter(|verb| *verb != "help") {
        assert!(shown.contains(verb) && readme.contains(verb), "README.md does not show the verb {verb}");
    }
}

#[test]
fn every_file_that_a_document_names_in_backticks_exists() {
    let tops = ["src", "tests", "docs", "config", "migrations", "scripts", "benches", "deploy", ".ci"];
    let mut seen = 0;
    for (path, text) in documents() {
        for word in code(&text) {
            let is_path = word.split('/').next().is_some_and(|top| tops.contains(&top)) && word.contains('/');
            if is_path && !word.contains([' ', '*', '<', '{']) {
                let file = word.split(':').next().unwrap_or(&word);
                assert!(root().join(file).exists(), "{}: `{word}` does not exist", name(&path));
                seen += 1;
            }
        }
    }
    assert!(seen > 20, "the search finds paths: {seen}");
}

#[test]
fn every_test_that_the_map_of_invariants_names_exists() {
    let sources: String =
        ["src", "tests"].iter().flat_map(|top| files(&root().join(top), ".rs")).map(|path| fs::read_to_string(path).unwrap()).collect();
    let mut invariants = BTreeSet::new();
    for row in rows(&read("docs/architecture.md"), "invariants") {
        let [id, _, kept, tests] = row.as_slice() else { panic!("{row:?}: four cells") };
        invariants.insert(id.clone());
        assert!(!kept.is_empty(), "{id}: where is it kept?");
        for test in tests.split('`').skip(1).step_by(2) {
            assert!(sources.contains(&format!("fn {test}(")), "{id}: there is no test {test}");
        }
    }
    let all: BTreeSet<String> = (1..=15).map(|n| format!("I{n}")).collect();
    assert_eq!(invariants, all);
}

/// The names of the events that the program logs at `level`, found in its text.
fn events(level: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for path in files(&root().join("src"), ".rs").into_iter().filter(|path| !path.ends_with("tests.rs")) {
        let text = fs::read_to_string(&path).unwrap();
        let text: String = text.split("#[cfg(test)]").next().unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
        for (start, before) in
            [(format!("tracing::{level}!("), "event = \""), (format!("job!( {level}, "), "\""), (format!("job!({level}, "), "\"")]
        {
            for call in text.split(&start).skip(1) {
                // Only a name at the front of the call: what follows may be another call.
                let call = call.trim_start();
                if let Some(rest) = call.strip_prefix(before)
                    && let Some((event, _)) = rest.split_once('"')
                {
                    found.insert(event.to_owned());
                }
            }
        }
    }
    found
}

#[test]
fn every_warning_and_error_that_the_daemon_logs_is_in_the_runbook() {
    let runbook = read("docs/operate.md");
    let headings: BTreeSet<&str> = runbook.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let said = |event: &str| headings.iter().any(|heading| heading.split('`').skip(1).step_by(2).any(|word| word == event));
    let (warnings, errors) = (events("warn"), events("error"));
    assert!(warnings.contains("poll.failed") && warnings.contains("job.failed"), "{warnings:?}");
    assert!(errors.contains("guard.tripped") && errors.contains("residue.found"), "{errors:?}");
    // Some that are not written through a macro call with their name in it.
    let others =
        ["daemon.panicked", "hold.placed", "hold.released", "request.placed", "request.accepted", "request.withdrawn"].map(str::to_owned);
    for event in warnings.iter().chain(&errors).chain(&others) {
        assert!(said(event), "docs/operate.md has no heading for `{event}`");
    }
}

#[test]
fn every_event_of_the_source_is_in_the_catalogue_at_its_level_and_none_is_there_that_nobody_says() {
    let known: BTreeMap<&str, Vec<&str>> = EVENTS.iter().map(|e| (e.name, e.levels.split(' ').collect())).collect();
    let mut seen = 0;
    for level in ["error", "warn", "info", "debug"] {
        for event in events(level) {
            let levels = known.get(event.as_str()).unwrap_or_else(|| panic!("src/telemetry/events.rs has no {event}"));
            assert!(levels.contains(&level), "src/telemetry/events.rs: {event} is also said at {level}");
            seen += 1;
        }
    }
    assert!(seen > 60, "the search finds events: {seen}");
    let sources: String = files(&root().join("src"), ".rs")
        .into_iter()
        .filter(|path| !path.ends_with("telemetry/events.rs") && !path.ends_with("tests.rs"))
        .map(|path| fs::read_to_string(path).unwrap().split("#[cfg(test)]\nmod tests {").next().unwrap().to_owned())
        .collect();
    for event in EVENTS.iter().filter(|event| event.name != "log") {
        assert!(sources.contains(&format!("\"{}\"", event.name)), "nobody says {}", event.name);
    }
}

#[test]
fn the_pages_of_the_reference_are_up_to_date() {
    for (page, file) in [("events", "events"), ("metrics", "metrics"), ("config", "config"), ("errors", "exit-codes")] {
        let output = Command::new(env!("CARGO_BIN_EXE_retentiond")).env_clear().args(["catalog", page]).output().expect("the program runs");
        assert!(output.status.success());
        let made = String::from_utf8(output.stdout).unwrap();
        assert!(made == read(&format!("docs/reference/{file}.md")), "docs/reference/{file}.md is not what the code says: make docs");
    }
}

#[test]
fn every_key_of_the_configuration_is_on_its_page_with_a_sentence() {
    let page = read("docs/reference/config.md");
    for key in [
        "mode",
        "log.account_key_file",
        "guard.share_floor",
        "starting_points[].since_column",
        "data_classes[].retain_for",
        "stores.NAME.kind",
    ] {
        assert!(page.contains(&format!("| `{key}` |")), "{key}");
    }
    for line in page.lines().filter(|line| line.starts_with("| `") && !line.starts_with("| `[")) {
        let bare = ["starting_points[]", "data_classes"].iter().any(|section| line.starts_with(&format!("| `{section}")));
        assert!(bare || !line.ends_with("|  |"), "no sentence: {line}");
    }
}

#[test]
fn the_table_of_metrics_says_what_each_scrape_says() {
    let written: Vec<Vec<String>> = rows(&read("docs/operate.md"), "metrics");
    let expected: Vec<Vec<String>> = METRICS
        .iter()
        .map(|(name, kind, help)| {
            vec![format!("`{name}`"), metrics::labels(name).to_owned(), format!("{kind:?}").to_lowercase(), (*help).to_owned()]
        })
        .collect();
    assert_eq!(written, expected);
    assert_eq!(written.len(), METRICS.len());
}

#[test]
fn every_exit_code_is_in_the_readme_and_in_the_runbook() {
    let finding = |severity| Failure::Layout(vec![Finding { severity, subject: String::new(), problem: String::new(), remedy: None }]);
    let invalid = config::parse(&[], &BTreeMap::new(), Needs::Nothing).expect_err("no rules");
    let given = [
        Failure::Configuration(invalid),
        Failure::Findings(String::new()),
        finding(Severity::Error),
        finding(Severity::Grants),
        finding(Severity::Schema),
        Failure::Schema(SchemaError::Missing),
        Failure::Database(DatabaseError::from(sqlx::Error::PoolTimedOut)),
        Failure::Guard(String::new()),
        Failure::Approval(String::new()),
        Failure::DrainTimedOut,
    ];
    let mut codes: BTreeSet<String> = given.iter().map(|failure| failure.exit_code().to_string()).collect();
    // Success, any other failure, and what the command line itself answers to a mistake in usage.
    codes.extend(["0", "1", "2"].map(str::to_owned));
    let readme: Vec<Vec<String>> = rows(&read("README.md"), "exit codes");
    assert_eq!(readme, EXIT_CODES.iter().map(|(code, meaning)| vec![code.to_string(), (*meaning).to_owned()]).collect::<Vec<_>>());
    assert_eq!(readme.into_iter().map(|row| row[0].clone()).collect::<BTreeSet<_>>(), codes);
    let runbook = read("docs/operate.md");
    for code in codes.iter().filter(|code| *code != "0") {
        assert!(runbook.contains(&format!("### Exit code {code}:")), "docs/operate.md has no heading for exit code {code}");
    }
}

#[test]
fn every_dependency_has_its_reason_on_the_page_of_dependencies() {
    let manifest = read("Cargo.toml");
    let page = read("docs/decisions/0006-dependencies.md");
    let mut seen = 0;
    for section in ["[dependencies]", "[dev-dependencies]"] {
        let lines = manifest.lines().skip_while(|line| *line != section).skip(1).take_while(|line| !line.starts_with('['));
        for crate_ in lines.filter_map(|line| line.split_once(" = ").map(|(crate_, _)| crate_)) {
            assert!(page.contains(&format!("| `{crate_}`")), "docs/decisions/0006-dependencies.md does not name {crate_}");
            seen += 1;
        }
    }
    assert!(seen > 20, "the search finds dependencies");
}

#[test]
fn the_decisions_are_numbered_without_a_gap_and_have_their_three_parts() {
    for (at, path) in files(&root().join("docs/decisions"), ".md").iter().enumerate() {
        let file = path.file_name().unwrap().to_str().unwrap();
        assert!(file.starts_with(&format!("{:04}-", at + 1)), "{file}: expected number {}", at + 1);
        let text = fs::read_to_string(path).unwrap();
        for part in ["## Context", "## Decision", "## Consequences"] {
            assert!(text.lines().any(|line| line == part), "{file} has no {part}");
        }
    }
}
