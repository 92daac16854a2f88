//! One event as one line of text, JSON or for people. Nothing in a value can end the line or steer a terminal.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use tracing::Level;

use super::fields::{Fields, Value};
use crate::{
    model::rfc3339,
    terminal::{obeyed, printable},
};

/// What a line looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// A flat object.
    Json,
    /// For people.
    Text { colour: bool },
}

/// One event.
pub(super) struct Line<'a> {
    pub(super) level: Level,
    /// The module that spoke; shown only for events without a name.
    pub(super) target: &'a str,
    pub(super) fields: &'a Fields,
}

impl Line<'_> {
    /// Appends the line, its end included.
    pub(super) fn render(&self, style: Style, to: &mut String) {
        let now = now();
        match style {
            Style::Json => self.json(now, to),
            Style::Text { colour } => self.text(now, colour, to),
        }
        to.push('\n');
    }

    fn json(&self, now: DateTime<Utc>, to: &mut String) {
        to.push_str("{\"ts\":\"");
        to.push_str(&rfc3339(now));
        to.push_str("\",\"level\":\"");
        to.push_str(level(self.level));
        to.push_str("\",\"event\":");
        match self.fields.get("event") {
            Some(event) => json_value(event, to),
            None => to.push_str("\"log\""),
        }
        to.push_str(",\"msg\":");
        match self.fields.get("message") {
            Some(message) => json_value(message, to),
            None => to.push_str("\"\""),
        }
        for (name, value) in self.own_fields() {
            to.push(',');
            if self.reserved(name) {
                // Two keys of one name: every reader keeps another of the two.
                json_text(&format!("field.{name}"), to);
            } else {
                json_text(name, to);
            }
            to.push(':');
            json_value(value, to);
        }
        if self.unnamed() {
            to.push_str(",\"target\":");
            json_text(self.target, to);
        }
        to.push('}');
    }

    fn text(&self, now: DateTime<Utc>, colour: bool, to: &mut String) {
        let (dim, bright, plain) = if colour { ("\x1b[2m", paint(self.level), "\x1b[0m") } else { ("", "", "") };
        // Writing to a String cannot fail.
        let _ = write!(to, "{dim}{}{plain} {bright}{:<5}{plain}", now.format("%H:%M:%S"), self.level.as_str());
        match self.fields.get("event") {
            Some(event) => to.extend([" ", &printable(&event.shown())]),
            None => to.extend([" ", dim, self.target, plain]),
        }
        if let Some(message) = self.fields.get("message") {
            to.extend([" ", &printable(&message.shown())]);
        }
        for (name, value) in self.own_fields() {
            to.extend([" ", dim, name, "=", plain]);
            let text = value.shown();
            if !matches!(value, Value::Json(_)) && (text.is_empty() || text.contains([' ', '"', '='])) {
                to.extend(["\"", &printable(&text).replace('"', "\\\""), "\""]);
            } else {
                to.push_str(&printable(&text));
            }
        }
    }

    fn own_fields(&self) -> impl Iterator<Item = (&'static str, &Value)> {
        self.fields.iter().filter(|(name, _)| !matches!(*name, "event" | "message"))
    }

    fn reserved(&self, name: &str) -> bool {
        matches!(name, "ts" | "level" | "msg") || (name == "target" && self.unnamed())
    }

    fn unnamed(&self) -> bool {
        self.fields.get("event").is_none()
    }
}

#[expect(clippy::disallowed_methods, reason = "a log line tells when it was written, on the host that wrote it")]
fn now() -> DateTime<Utc> {
    Utc::now()
}

pub(super) fn level(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

fn paint(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        Level::DEBUG => "\x1b[34m",
        Level::TRACE => "\x1b[35m",
    }
}

fn json_value(value: &Value, to: &mut String) {
    match value {
        Value::Text(_) | Value::Accounts(_) => json_text(&value.shown(), to),
        Value::Json(json) => to.push_str(json),
    }
}

/// Quotes and escapes, beyond what JSON asks for also what a terminal would obey: people read these lines with `tail`.
fn json_text(text: &str, to: &mut String) {
    to.push('"');
    let mut plain_from = 0;
    for (at, c) in text.char_indices() {
        if !(matches!(c, '"' | '\\') || obeyed(c)) {
            continue;
        }
        to.push_str(&text[plain_from..at]);
        plain_from = at + c.len_utf8();
        match c {
            '"' => to.push_str("\\\""),
            '\\' => to.push_str("\\\\"),
            '\n' => to.push_str("\\n"),
            '\r' => to.push_str("\\r"),
            '\t' => to.push_str("\\t"),
            // Every obeyed character lies in the basic plane, so four digits do. Writing to a String cannot fail.
            _ => drop(write!(to, "\\u{:04x}", u32::from(c))),
        }
    }
    to.push_str(&text[plain_from..]);
    to.push('"');
}
