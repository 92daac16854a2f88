//! The fields of one event or span, each name once, in the order they were recorded.
//! Values are already in their final form; what they look like on a line is `line.rs`.

use std::{borrow::Cow, error::Error, fmt};

use serde::de::IgnoredAny;
use tracing::field::{Field, Visit};

/// Longest text of one field, in bytes: an account id or an error can be as long as somebody wants.
const LIMIT: usize = 4096;

/// A field's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// To be quoted and escaped.
    Text(String),
    /// JSON as it stands, on one line: a number, a bool, or what a `json.` field holds. Never cut: half of it would be none.
    Json(String),
    /// Account ids of an `accounts.` field, each apart so that each can be hidden; shown as one text.
    Accounts(Vec<String>),
}

impl Value {
    /// A text, cut with `…` past 4 KiB.
    pub(super) fn text(text: impl Into<String>) -> Self {
        let mut text = text.into();
        if text.len() > LIMIT {
            text.truncate(text.floor_char_boundary(LIMIT));
            text.push('…');
        }
        Self::Text(text)
    }

    /// As it is shown, before quotes and escapes.
    pub(super) fn shown(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) | Self::Json(text) => Cow::Borrowed(text),
            Self::Accounts(accounts) => Cow::Owned(accounts.join(", ")),
        }
    }

    fn raw(text: String) -> Self {
        if serde_json::from_str::<IgnoredAny>(&text).is_err() {
            return Self::text(text);
        }
        // Inside its strings valid JSON has no raw line ends; between its tokens they mean nothing.
        Self::Json(text.replace(['\n', '\r', '\t'], " "))
    }
}

/// Fields by name. A name recorded again keeps its place and takes the newer value.
#[derive(Debug, Default)]
pub(super) struct Fields(Vec<(&'static str, Value)>);

impl Fields {
    pub(super) fn set(&mut self, name: &'static str, value: Value) {
        // `type` is written `r#type` in code.
        let name = name.strip_prefix("r#").unwrap_or(name);
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name, value)),
        }
    }

    /// Takes from an enclosing span what is not here yet. A span names no event and has no message.
    pub(super) fn inherit(&mut self, span: &Self) {
        for (name, value) in &span.0 {
            if !matches!(*name, "event" | "message") && self.get(name).is_none() {
                self.0.push((name, value.clone()));
            }
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// The value of a text field.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match self.get(name)? {
            Value::Text(text) => Some(text),
            Value::Json(_) | Value::Accounts(_) => None,
        }
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&'static str, &mut Value)> {
        self.0.iter_mut().map(|(name, value)| (*name, value))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static str, &Value)> {
        self.0.iter().map(|(name, value)| (*name, value))
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        if let Some(name) = field.name().strip_prefix("json.") {
            self.set(name, Value::raw(value.to_owned()));
        } else if let Some(name) = field.name().strip_prefix("accounts.") {
            self.set(name, serde_json::from_str(value).map_or_else(|_| Value::text(value), Value::Accounts));
        } else {
            self.set(field.name(), Value::text(value));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.set(field.name(), Value::text(super::chain(value)));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field.name(), Value::Json(value.to_string()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field.name(), Value::Json(value.to_string()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field.name(), Value::Json(value.to_string()));
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.set(field.name(), Value::Json(value.to_string()));
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.set(field.name(), Value::Json(value.to_string()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON knows neither infinity nor NaN.
        let value = match serde_json::Number::from_f64(value) {
            Some(number) => Value::Json(number.to_string()),
            None => Value::text(value.to_string()),
        };
        self.set(field.name(), value);
    }
}
