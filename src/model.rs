//! The words of the project as types that parse once: accounts, tables, columns, periods.
//! Nothing here touches a database, a clock or the configuration.

use std::fmt;
use utoipa::ToSchema;

use chrono::{DateTime, Months, TimeDelta, Utc};
use serde::{Serialize, Serializer};

/// Whether due records are deleted or only reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Delete what is due.
    Enforce,
    /// Plan, log and measure; delete nothing.
    Observe,
}

impl Mode {
    /// The word used in configuration, logs and answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
        }
    }
}

/// A column name exactly as the catalogue spells it. Reaches SQL only through [`Ident::quoted`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ident(String);

impl Ident {
    /// Takes a column name literally: `owner id` needs no quotes (R41).
    ///
    /// # Errors
    /// When the name is empty, longer than the 63 bytes Postgres keeps, or holds a NUL.
    pub fn literal(name: &str) -> Result<Self, NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.contains('\0') {
            return Err(NameError::Nul);
        }
        if name.len() > 63 {
            return Err(NameError::TooLong);
        }
        Ok(Self(name.to_owned()))
    }

    /// The bare name, for catalogue look-ups and messages.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as a quoted SQL identifier.
    #[must_use]
    pub fn quoted(&self) -> String {
        format!("\"{}\"", self.0.replace('"', "\"\""))
    }
}

/// A table, parsed as a SQL identifier: `accounts`, `crm.subs`, `"Media"."Queue"`. A bare name means schema `public`.
#[derive(Debug, Clone)]
pub struct TableName {
    spelt: String,
    schema: Ident,
    table: Ident,
}

impl TableName {
    /// Parses the spelling used in the configuration (R41).
    ///
    /// # Errors
    /// When it is not one or two SQL identifiers joined by a dot.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let mut parts = Vec::new();
        let mut rest = text;
        loop {
            let (part, tail) = identifier(rest)?;
            parts.push(Ident::literal(&part)?);
            match tail.strip_prefix('.') {
                Some(next) => rest = next,
                None if tail.is_empty() => break,
                None => return Err(NameError::NotAnIdentifier),
            }
        }
        let mut parts = parts.into_iter();
        match (parts.next(), parts.next(), parts.next()) {
            (Some(table), None, None) => Ok(Self { spelt: text.to_owned(), schema: Ident("public".to_owned()), table }),
            (Some(schema), Some(table), None) => Ok(Self { spelt: text.to_owned(), schema, table }),
            _ => Err(NameError::NotAnIdentifier),
        }
    }

    /// The name as the configuration spells it; the second half of a target's name (R29).
    #[must_use]
    pub fn spelt(&self) -> &str {
        &self.spelt
    }

    /// The schema's bare name.
    #[must_use]
    pub fn schema(&self) -> &str {
        self.schema.as_str()
    }

    /// The table's bare name.
    #[must_use]
    pub fn table(&self) -> &str {
        self.table.as_str()
    }

    /// The schema as quoted SQL.
    #[must_use]
    pub fn quoted_schema(&self) -> String {
        self.schema.quoted()
    }

    /// The name as quoted SQL, always schema-qualified.
    #[must_use]
    pub fn quoted(&self) -> String {
        format!("{}.{}", self.schema.quoted(), self.table.quoted())
    }
}

/// Two spellings of one table are equal.
impl PartialEq for TableName {
    fn eq(&self, other: &Self) -> bool {
        self.schema == other.schema && self.table == other.table
    }
}

impl Eq for TableName {}

/// Takes one SQL identifier off the front: quoted as written, bare folded to lower case.
fn identifier(text: &str) -> Result<(String, &str), NameError> {
    if let Some(quoted) = text.strip_prefix('"') {
        let mut name = String::new();
        let mut chars = quoted.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            if c != '"' {
                name.push(c);
            } else if chars.next_if(|&(_, next)| next == '"').is_some() {
                name.push('"');
            } else {
                return Ok((name, &quoted[at + 1..]));
            }
        }
        return Err(NameError::OpenQuote);
    }
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).unwrap_or(text.len());
    let bare = &text[..end];
    match bare.chars().next() {
        None => Err(NameError::Empty),
        Some(c) if c.is_ascii_digit() || c == '$' => Err(NameError::NotAnIdentifier),
        // As Postgres folds it: letters beyond ASCII stay as they are.
        Some(_) => Ok((bare.to_ascii_lowercase(), &text[end..])),
    }
}

/// Why a name from the configuration cannot name a table or column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing between the dots.
    #[error("a name is empty")]
    Empty,
    /// A NUL character.
    #[error("a name holds a NUL character")]
    Nul,
    /// Longer than Postgres keeps.
    #[error("a name is longer than 63 bytes")]
    TooLong,
    /// A quote that is never closed.
    #[error("a quoted name is not closed")]
    OpenQuote,
    /// Not `table` or `schema.table`.
    #[error("not a table name: write table, schema.table or \"Mixed Case\".\"Names\"")]
    NotAnIdentifier,
}

/// What the jobs of a request name as their starting point; no configured one may be called so (R30).
pub const REQUEST: &str = "request";

/// How long a data class is kept after its starting point. A day is 24 hours; months and years are calendar ones, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum RetentionPeriod {
    /// Seconds, minutes, hours, days and weeks.
    Seconds(u32),
    /// Calendar months; a year is twelve.
    Months(u32),
}

impl RetentionPeriod {
    /// The period as an SQL interval.
    #[must_use]
    pub fn interval(self) -> String {
        match self {
            Self::Seconds(seconds) => format!("interval '{seconds} seconds'"),
            Self::Months(months) => format!("interval '{months} months'"),
        }
    }

    /// Parses `30d`, `12h`, `6months`, `1y`.
    ///
    /// # Errors
    /// When the number or the unit is missing, the number is negative or zero, or the period exceeds a century.
    pub fn parse(text: &str) -> Result<Self, PeriodError> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        if digits == 0 {
            return Err(PeriodError::NotANumber);
        }
        let number: u32 = text[..digits].parse().map_err(|_| PeriodError::TooLong)?;
        if number == 0 {
            return Err(PeriodError::Zero);
        }
        let seconds = |unit: u32| number.checked_mul(unit).map(Self::Seconds);
        let months = |unit: u32| number.checked_mul(unit).map(Self::Months);
        let period = match text[digits..].trim_start() {
            "" => return Err(PeriodError::NoUnit),
            "s" | "second" | "seconds" => seconds(1),
            "m" | "minute" | "minutes" => seconds(60),
            "h" | "hour" | "hours" => seconds(3_600),
            "d" | "day" | "days" => seconds(86_400),
            "w" | "week" | "weeks" => seconds(604_800),
            "month" | "months" => months(1),
            "y" | "year" | "years" => months(12),
            _ => return Err(PeriodError::UnknownUnit),
        };
        match period {
            Some(Self::Seconds(s)) if s <= 3_155_760_000 => Ok(Self::Seconds(s)),
            Some(Self::Months(m)) if m <= 1_200 => Ok(Self::Months(m)),
            _ => Err(PeriodError::TooLong),
        }
    }

    /// The period in seconds, for monitors: a month of the calendar counts a twelfth of the Gregorian year's mean length, 2629746 s.
    #[must_use]
    pub fn nominal_seconds(self) -> f64 {
        match self {
            Self::Seconds(s) => f64::from(s),
            Self::Months(m) => f64::from(m) * 2_629_746.0,
        }
    }

    /// The instant this period after `start`. `None` past the end of the calendar, which plausible instants never reach.
    #[must_use]
    pub fn after(self, start: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match self {
            Self::Seconds(s) => start.checked_add_signed(TimeDelta::seconds(i64::from(s))),
            Self::Months(m) => start.checked_add_months(Months::new(m)),
        }
    }
}

impl fmt::Display for RetentionPeriod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Months(m) if m % 12 == 0 => write!(f, "{}y", m / 12),
            Self::Months(m) => write!(f, "{m}months"),
            Self::Seconds(s) if s % 86_400 == 0 => write!(f, "{}d", s / 86_400),
            Self::Seconds(s) if s % 3_600 == 0 => write!(f, "{}h", s / 3_600),
            Self::Seconds(s) if s % 60 == 0 => write!(f, "{}m", s / 60),
            Self::Seconds(s) => write!(f, "{s}s"),
        }
    }
}

/// Why a text is not a retention period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeriodError {
    /// No digits at the front; a minus sign ends here too.
    #[error("a period is a positive whole number and a unit, like \"30d\"")]
    NotANumber,
    /// A bare number.
    #[error("a period needs a unit: s, m, h, d, w, months or y")]
    NoUnit,
    /// Something else after the number.
    #[error("unknown unit: use s, m, h, d, w, months or y")]
    UnknownUnit,
    /// Zero would delete at once.
    #[error("a period of zero would delete at once")]
    Zero,
    /// More than a hundred years.
    #[error("a period of more than a hundred years")]
    TooLong,
}

/// How instants are printed everywhere: RFC 3339, UTC, microseconds.
#[must_use]
pub fn rfc3339(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}

/// `serialize_with` twin of [`rfc3339`].
///
/// # Errors
/// Those of the serializer.
pub fn serialize_instant<S: Serializer>(at: &DateTime<Utc>, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&rfc3339(*at))
}

/// [`serialize_instant`] for an instant that may be absent.
///
/// # Errors
/// Those of the serializer.
pub fn serialize_optional_instant<S: Serializer>(at: &Option<DateTime<Utc>>, s: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => serialize_instant(at, s),
        None => s.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_parse_with_a_unit_and_nothing_else() {
        for (text, want) in [
            ("30d", Ok(RetentionPeriod::Seconds(2_592_000))),
            ("1w", Ok(RetentionPeriod::Seconds(604_800))),
            ("6months", Ok(RetentionPeriod::Months(6))),
            ("1y", Ok(RetentionPeriod::Months(12))),
            ("100y", Ok(RetentionPeriod::Months(1_200))),
            ("101y", Err(PeriodError::TooLong)),
            ("7", Err(PeriodError::NoUnit)),
            ("-30d", Err(PeriodError::NotANumber)),
            ("0d", Err(PeriodError::Zero)),
            ("3q", Err(PeriodError::UnknownUnit)),
            ("99999999999d", Err(PeriodError::TooLong)),
            ("", Err(PeriodError::NotANumber)),
        ] {
            assert_eq!(RetentionPeriod::parse(text), want, "{text}");
        }
    }

    #[test]
    fn a_month_is_a_calendar_month_and_a_day_is_24_hours() {
        let start: DateTime<Utc> = "2024-01-31T12:00:00Z".parse().unwrap();
        let after = |p: &str| rfc3339(RetentionPeriod::parse(p).unwrap().after(start).unwrap());
        assert_eq!(after("1months"), "2024-02-29T12:00:00.000000Z");
        assert_eq!(after("30d"), "2024-03-01T12:00:00.000000Z");
        assert_eq!(after("1y"), "2025-01-31T12:00:00.000000Z");
    }

    #[test]
    fn table_names_are_sql_identifiers() {
        let name = TableName::parse("crm.\"Subs\"").unwrap();
        assert_eq!((name.schema(), name.table()), ("crm", "Subs"));
        assert_eq!(TableName::parse("Accounts").unwrap(), TableName::parse("public.accounts").unwrap());
        assert_ne!(TableName::parse("\"Accounts\"").unwrap(), TableName::parse("accounts").unwrap());
        assert_eq!(TableName::parse("\u{c4}MTER").unwrap().table(), "\u{c4}mter");
        assert_eq!(TableName::parse("\"a\"\"b\"").unwrap().quoted(), "\"public\".\"a\"\"b\"");
        for bad in ["", "a.b.c", "a b", "a;drop table b", "\"a", "1a", "a.", ".a", "a\".b"] {
            assert!(TableName::parse(bad).is_err(), "{bad}");
        }
        assert!(TableName::parse(&"x".repeat(64)).is_err());
    }
}
