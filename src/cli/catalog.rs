//! `catalog`: what the program can say and be told, as pages of `docs/reference` or as JSON. Everything here comes from the code that acts by it.

use clap::Subcommand;
use serde_json::Value;

use super::{Cli, Output, print, print_json};
use crate::{config::SHIPPED, failure::EXIT_CODES, metrics, telemetry::events::EVENTS};

/// What there is a list of.
#[derive(Debug, Clone, Copy, Subcommand)]
pub(super) enum Verb {
    /// The events of the log.
    Events,
    /// The figures at `/metrics`.
    Metrics,
    /// The keys of the configuration.
    Config,
    /// The exit codes.
    Errors,
}

/// A table with a title: what a page or an array is made from.
struct Page {
    title: &'static str,
    about: &'static str,
    columns: &'static [&'static str],
    rows: Vec<Vec<String>>,
}

impl Cli {
    pub(super) fn catalog(&self, verb: Verb) -> Result<(), crate::failure::Failure> {
        let page = match verb {
            Verb::Events => events(),
            Verb::Metrics => figures(),
            Verb::Config => keys(),
            Verb::Errors => exit_codes(),
        };
        match self.output {
            Output::Json => print_json(&page.json()),
            Output::Table => {
                print(page.markdown().trim_end());
                Ok(())
            }
        }
    }
}

impl Page {
    fn markdown(&self) -> String {
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let head = line(self.columns.iter().map(|column| (*column).to_owned()).collect());
        let rule = format!("|{}\n", "---|".repeat(self.columns.len()));
        let rows: String = self.rows.iter().map(|row| line(row.iter().map(|cell| cell.replace('|', "\\|")).collect())).collect();
        format!("# {}\n\n<!-- Made by `make docs`; not to be edited. -->\n\n{}\n\n{head}{rule}{rows}", self.title, self.about)
    }

    fn json(&self) -> Value {
        let cell = |text: &String| Value::from(text.trim_matches('`'));
        let row = |row: &Vec<String>| self.columns.iter().zip(row).map(|(column, text)| ((*column).to_owned(), cell(text))).collect();
        self.rows.iter().map(|r| Value::Object(row(r))).collect()
    }
}

fn code(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("`{text}`") }
}

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(", ")
}

fn events() -> Page {
    let rows = EVENTS.iter().map(|e| vec![code(e.name), words(e.levels), e.meaning.to_owned(), words(e.fields)]).collect();
    Page {
        title: "Events of the log",
        about: "Every line has `ts`, `level`, `event` and `msg`, with traces `trace_id` and `span_id` where it belongs to one, and of the fields below those that mean something for it. Each event has a counter, \
                `retention_log_events_total`. Names and fields are only added to. What to do about warnings and errors: [the runbook](../operate.md).",
        columns: &["event", "level", "means", "fields"],
        rows,
    }
}

fn figures() -> Page {
    let row = |(name, kind, help): &(&str, metrics::Kind, &str)| {
        vec![code(name), metrics::labels(name).to_owned(), format!("{kind:?}").to_lowercase(), (*help).to_owned()]
    };
    Page {
        title: "Metrics",
        about: "At `/metrics` of `http.ops_listen`, in the Prometheus text format. No label names an account. What is worth an alert: \
                [operations](../operate.md#metrics).",
        columns: &["name", "labels", "kind", "says"],
        rows: metrics::METRICS.iter().map(row).collect(),
    }
}

fn exit_codes() -> Page {
    let rows = EXIT_CODES.iter().map(|(code, meaning)| vec![code.to_string(), (*meaning).to_owned()]).collect();
    Page {
        title: "Exit codes",
        about: "What to do about each: [operations](../operate.md#runbook-exit-codes).",
        columns: &["code", "meaning"],
        rows,
    }
}

fn keys() -> Page {
    Page {
        title: "Configuration",
        about: "Every key, read from `config/retentiond.toml`, which is the shipped configuration. A key without a default is left out unless it is set, \
                and shows an example. Durations need their unit.",
        columns: &["key", "type", "default", "example", "says"],
        rows: keys_of(SHIPPED),
    }
}

/// The keys of a commented file, each once: `key = value # what it says`, or the same behind a `#` for a key without a default.
fn keys_of(text: &str) -> Vec<Vec<String>> {
    let mut section = String::new();
    let mut rules = false;
    let mut rows: Vec<Vec<String>> = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("[[").and_then(|rest| rest.split_once("]]")).map(|(name, _)| name) {
            (section, rules) = (format!("{name}[]"), true);
            continue;
        }
        if let Some((name, said)) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            (section, rules) = (name.replace("stores.platform", "stores.NAME"), false);
            if let Some(said) = said.trim().strip_prefix('#') {
                rows.push(vec![code(&format!("[{section}]")), "table".to_owned(), String::new(), String::new(), said.trim().to_owned()]);
            }
            continue;
        }
        let (commented, rest) = line.strip_prefix('#').map_or((false, line), |rest| (true, rest.trim_start()));
        let Some((key, rest)) = rest.split_once(" = ").filter(|(key, _)| is_key(key)) else { continue };
        let (value, said) = rest.split_once(" #").map_or((rest, ""), |(value, said)| (value.trim_end(), said.trim()));
        let path = if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") };
        let known = rows.iter_mut().find(|row| row[0] == code(&path));
        if let Some(known) = known {
            // Said where it stands first.
            if known[4].is_empty() {
                said.clone_into(&mut known[4]);
            }
            continue;
        }
        let (default, example) = if commented || rules { (String::new(), code(value)) } else { (code(value), String::new()) };
        rows.push(vec![code(&path), kind(value).to_owned(), default, example, said.to_owned()]);
    }
    rows
}

/// Keys are bare words; the first lines also show `database.url`, which stands again in its table.
fn is_key(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

/// What kind of value it is, told by its look.
fn kind(value: &str) -> &'static str {
    let Some(text) = value.strip_prefix('"').map(|rest| rest.trim_end_matches('"')) else {
        return if value.starts_with('[') { "array of texts" } else { "whole number" };
    };
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    if text == "unlimited" {
        "whole number or \"unlimited\""
    } else if unit == "%" {
        "percentage"
    } else if unit.len() < text.len() && matches!(unit, "s" | "m" | "h" | "d" | "w") {
        "duration"
    } else {
        "text"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_with_and_without_defaults_and_once() {
        let text = "# mode = \"enforce\"   # required\n[a]   # a table\nb = \"5s\"   # often\n# c_file = \"/x\"  # a file\n#   more of it\n[[r]]\nn = 1\n[[r]]\nn = 2 # said\n";
        let rows = keys_of(text);
        let shown: Vec<String> = rows.iter().map(|row| row.join("|")).collect();
        assert_eq!(
            shown,
            [
                "`mode`|text||`\"enforce\"`|required",
                "`[a]`|table|||a table",
                "`a.b`|duration|`\"5s\"`||often",
                "`a.c_file`|text||`\"/x\"`|a file",
                "`r[].n`|whole number||`1`|said"
            ]
        );
    }

    #[test]
    fn json_has_an_object_for_each_row() {
        let all = exit_codes().json();
        assert_eq!(all[0], serde_json::json!({"code": "0", "meaning": EXIT_CODES[0].1}));
        assert_eq!(all.as_array().map(Vec::len), Some(EXIT_CODES.len()));
    }
}
