//! Reads one table of the configuration, key by key, and remembers what went wrong instead of stopping.
//! The keys that are asked for are the keys that exist: whatever was never asked for is reported as unknown.

use std::{cell::RefCell, collections::BTreeMap, fmt, ops::RangeInclusive, time::Duration};

use ::config::{Value, ValueKind};

use super::raw::Tree;
use crate::model::RetentionPeriod;

/// One thing that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The key's path, like `poll.interval` or `data_classes[mps/queue].retain_for`; a file's name where the file is at fault.
    pub key: String,
    /// What is wrong, the value if it is no secret, and what to write instead.
    pub problem: String,
    /// The file or variable that set it, where one did.
    pub origin: Option<String>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.problem)?;
        self.origin.as_ref().map_or(Ok(()), |origin| write!(f, " ({origin})"))
    }
}

/// Everything that is wrong with the configuration, one line each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct Invalid {
    /// In the order of the keys; never empty.
    pub faults: Vec<Fault>,
}

/// Collects faults from wherever the configuration is read.
#[derive(Debug, Default)]
pub(super) struct Faults(RefCell<Vec<Fault>>);

impl Faults {
    pub(super) fn add(&self, key: impl Into<String>, problem: impl Into<String>, origin: Option<&str>) {
        let origin = origin.map(str::to_owned);
        self.0.borrow_mut().push(Fault { key: key.into(), problem: problem.into(), origin });
    }

    /// `value` when nothing was found.
    pub(super) fn settle<T>(&self, value: Option<T>) -> Result<T, Invalid> {
        let faults = self.0.take();
        match value {
            Some(value) if faults.is_empty() => Ok(value),
            _ => Err(Invalid { faults }),
        }
    }
}

/// What a reader makes of a value; the error says what is wrong and what to write instead.
pub(super) type Read<T> = Result<T, String>;

/// A table being read. Closed by whoever opened it, so that no unknown key is missed.
#[derive(Debug)]
pub(super) struct Table<'a> {
    path: String,
    values: Tree,
    asked: Vec<&'static str>,
    faults: &'a Faults,
}

impl<'a> Table<'a> {
    /// Reads a whole tree.
    pub(super) fn read<T>(tree: Tree, faults: &'a Faults, read: impl FnOnce(&mut Self) -> T) -> T {
        Self::open(String::new(), tree, faults, read)
    }

    fn open<T>(path: String, values: Tree, faults: &'a Faults, read: impl FnOnce(&mut Self) -> T) -> T {
        let mut table = Self { path, values, asked: Vec::new(), faults };
        let value = read(&mut table);
        table.close();
        value
    }

    /// Judges no key that was not asked for so far.
    pub(super) fn ignore_the_rest(&mut self) {
        self.values.retain(|key, _| self.asked.contains(&key.as_str()));
    }

    fn close(&self) {
        let unknown = |key: &&String| !self.asked.contains(&key.as_str());
        // The values stay unsaid: a misspelt `url` holds a password.
        for key in self.values.keys().filter(unknown).collect::<std::collections::BTreeSet<_>>() {
            let remedy = match nearest(key, &self.asked) {
                Some(known) => format!("did you mean {known}?"),
                None => format!("known here: {}", self.asked.join(", ")),
            };
            self.fault(key, format!("unknown key; {remedy}"));
        }
    }

    /// The full path of one of this table's keys.
    pub(super) fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Reports what is wrong with one of this table's keys.
    pub(super) fn fault(&self, key: &str, problem: impl Into<String>) {
        let origin = self.values.get(key).and_then(Value::origin);
        self.faults.add(self.key(key), problem, origin);
    }

    fn ask(&mut self, key: &'static str) -> Option<&Value> {
        self.asked.push(key);
        self.values.get(key)
    }

    /// Whether the key is set.
    pub(super) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// A key that may be absent. `None` also when it is set wrongly; the fault is then on record.
    pub(super) fn maybe<T>(&mut self, key: &'static str, read: impl FnOnce(&Value) -> Read<T>) -> Option<T> {
        match read(self.ask(key)?) {
            Ok(value) => Some(value),
            Err(problem) => {
                self.fault(key, problem);
                None
            }
        }
    }

    /// A key that must be there; `None` has its fault on record.
    pub(super) fn need<T>(&mut self, key: &'static str, remedy: &str, read: impl FnOnce(&Value) -> Read<T>) -> Option<T> {
        if !self.has(key) {
            self.fault(key, format!("is missing: {remedy}"));
        }
        self.maybe(key, read)
    }

    /// A key with a compiled-in default.
    pub(super) fn scalar<T>(&mut self, key: &'static str, read: impl FnOnce(&Value) -> Read<T>) -> Option<T> {
        self.need(key, "it has lost its default", read)
    }

    /// A key that exists, but not here or not now.
    pub(super) fn refuse(&mut self, key: &'static str, problem: &str) {
        if self.ask(key).is_some() {
            self.fault(key, problem);
        }
    }

    /// A table inside this one; absent is empty.
    pub(super) fn section<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Table<'a>) -> T) -> Option<T> {
        let tree = match self.ask(key).cloned() {
            Some(value) => self.tree(self.key(key), &value)?,
            None => Tree::new(),
        };
        Some(Self::open(self.key(key), tree, self.faults, read))
    }

    /// An array of tables; each is named by `label` where it has one, else by its place. Absent is empty.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        label: impl Fn(&Tree) -> Option<String>,
        mut read: impl FnMut(&mut Table<'a>) -> T,
    ) -> Vec<T> {
        let Some(ValueKind::Array(items)) = self.ask(key).map(|value| value.kind.clone()) else {
            if self.has(key) {
                self.fault(key, format!("must be an array of tables: write [[{key}]]"));
            }
            return Vec::new();
        };
        let mut read_item = |(at, item): (usize, &Value)| {
            let tree = self.tree(format!("{}[{at}]", self.key(key)), item)?;
            let label = label(&tree).unwrap_or_else(|| at.to_string());
            Some(Self::open(format!("{}[{label}]", self.key(key)), tree, self.faults, &mut read))
        };
        items.iter().enumerate().filter_map(&mut read_item).collect()
    }

    /// Tables by names that the operator chooses.
    pub(super) fn named<T>(&mut self, key: &'static str, mut read: impl FnMut(&mut Table<'a>) -> T) -> BTreeMap<String, T> {
        let tree = self.ask(key).cloned().and_then(|value| self.tree(self.key(key), &value));
        let mut tables = BTreeMap::new();
        for (name, value) in tree.into_iter().flatten().collect::<BTreeMap<_, _>>() {
            let path = format!("{}.{name}", self.key(key));
            if let Some(tree) = self.tree(path.clone(), &value) {
                tables.insert(name, Self::open(path, tree, self.faults, &mut read));
            }
        }
        tables
    }

    fn tree(&self, path: String, value: &Value) -> Option<Tree> {
        if let ValueKind::Table(tree) = &value.kind {
            return Some(tree.clone());
        }
        self.faults.add(path, format!("must be a table, not {}", kind(value)), value.origin());
        None
    }
}

/// The known key that a misspelt one most likely means.
fn nearest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    let close = |&(_, edits): &(&str, usize)| edits <= 2 && edits < key.chars().count();
    known.iter().map(|&k| (k, edits(key, k))).min_by_key(|&(_, edits)| edits).filter(close).map(|(k, _)| k)
}

/// How many characters must be changed, added or taken away to turn `a` into `b`.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, cb) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(ca != cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.chars().count()]
}

fn kind(value: &Value) -> &'static str {
    match value.kind {
        ValueKind::Nil => "nothing",
        ValueKind::Boolean(_) => "true or false",
        ValueKind::I64(_) | ValueKind::I128(_) | ValueKind::U64(_) | ValueKind::U128(_) => "a whole number",
        ValueKind::Float(_) => "a fraction",
        ValueKind::String(_) => "text",
        ValueKind::Table(_) => "a table",
        ValueKind::Array(_) => "an array",
    }
}

/// A text with something in it. Never repeats the value, which may be secret.
pub(super) fn text(value: &Value) -> Read<String> {
    let ValueKind::String(text) = &value.kind else {
        return Err(format!("must be text in quotes, not {}", kind(value)));
    };
    if text.trim().is_empty() { Err("must not be empty".to_owned()) } else { Ok(text.clone()) }
}

/// An array of different texts, at least one.
pub(super) fn texts(value: &Value) -> Read<Vec<String>> {
    let ValueKind::Array(items) = &value.kind else {
        return Err(format!("must be an array of texts, like [\"a\", \"b\"], not {}", kind(value)));
    };
    let mut texts = Vec::new();
    for item in items {
        let text = text(item).map_err(|problem| format!("one of them {problem}"))?;
        if texts.contains(&text) {
            return Err(format!("names {text:?} twice"));
        }
        texts.push(text);
    }
    if texts.is_empty() { Err("must name at least one".to_owned()) } else { Ok(texts) }
}

/// One of a few words.
pub(super) fn word<T: Copy>(words: &[(&str, T)]) -> impl FnOnce(&Value) -> Read<T> {
    move |value| {
        let given = text(value)?;
        let known = words.iter().find(|(word, _)| *word == given).map(|&(_, meaning)| meaning);
        let all = || words.iter().map(|(word, _)| format!("{word:?}")).collect::<Vec<_>>().join(", ");
        known.ok_or_else(|| format!("{given:?} is not one of {}", all()))
    }
}

/// A whole number within bounds.
pub(super) fn number(bounds: RangeInclusive<u32>) -> impl FnOnce(&Value) -> Read<u32> {
    move |value| {
        let ValueKind::I64(given) = value.kind else {
            return Err(format!("must be a whole number, not {}", kind(value)));
        };
        let fits = u32::try_from(given).ok().filter(|n| bounds.contains(n));
        fits.ok_or_else(|| format!("{given} is not between {} and {}", bounds.start(), bounds.end()))
    }
}

/// A limit that is either a number or the word `unlimited`, which must be spelt out; 0 is none (I12).
pub(super) fn limit(value: &Value) -> Read<Option<u64>> {
    if let ValueKind::I64(given) = value.kind {
        return u64::try_from(given).map(Some).map_err(|_| format!("{given} is negative; 0 is none, \"unlimited\" is no limit"));
    }
    match text(value) {
        Ok(word) if word == "unlimited" => Ok(None),
        Ok(other) => Err(format!("{other:?} is neither a whole number nor \"unlimited\"")),
        Err(_) => Err(format!("must be a whole number or \"unlimited\", not {}", kind(value))),
    }
}

/// A limit, or the word `unlimited` for none.
pub(super) fn unlimited_or<T>(read: impl FnOnce(&Value) -> Read<T>) -> impl FnOnce(&Value) -> Read<Option<T>> {
    |value| match text(value) {
        Ok(word) if word == "unlimited" => Ok(None),
        Ok(_) | Err(_) => read(value).map(Some).map_err(|problem| format!("{problem}, or \"unlimited\"")),
    }
}

/// True or false.
pub(super) fn flag(value: &Value) -> Read<bool> {
    let ValueKind::Boolean(given) = value.kind else {
        return Err(format!("must be true or false, not {}", kind(value)));
    };
    Ok(given)
}

/// A percentage, as a share between 0 and 1.
pub(super) fn share(value: &Value) -> Read<f64> {
    let remedy = "write a percentage between \"0%\" and \"100%\"";
    let ValueKind::String(given) = &value.kind else {
        return Err(format!("must be text in quotes, not {}: {remedy}", kind(value)));
    };
    let percent = given.trim().strip_suffix('%').and_then(|number| number.trim_end().parse::<f64>().ok());
    // NaN is in no range.
    let percent = percent.filter(|percent| (0.0..=100.0).contains(percent));
    percent.map(|percent| percent / 100.0).ok_or_else(|| format!("{given:?} is not a share: {remedy}"))
}

/// A positive duration with its unit, at most a year.
pub(super) fn duration(value: &Value) -> Read<Duration> {
    let given = with_unit(value, "5s")?;
    let duration = humantime::parse_duration(&given)
        .map_err(|error| format!("{given:?} is not a duration ({error}): write it like \"300ms\", \"5s\" or \"1h\""))?;
    if duration.is_zero() {
        Err(format!("{given:?} is zero; it must be longer"))
    } else if duration > Duration::from_hours(10 * 366 * 24) {
        Err(format!("{given:?} is longer than ten years"))
    } else {
        Ok(duration)
    }
}

/// A [`duration`] of at least `least`.
pub(super) fn at_least(least: Duration) -> impl FnOnce(&Value) -> Read<Duration> {
    move |value| {
        let given = duration(value)?;
        let (shown, least_shown) = (humantime::format_duration(given), humantime::format_duration(least));
        if given < least { Err(format!("{shown} is less than {least_shown}")) } else { Ok(given) }
    }
}

/// A retention period with its unit.
pub(super) fn period(value: &Value) -> Read<RetentionPeriod> {
    let given = with_unit(value, "30d")?;
    RetentionPeriod::parse(&given).map_err(|error| format!("{given:?}: {error}"))
}

fn with_unit(value: &Value, like: &str) -> Read<String> {
    let remedy = |bare: String| Err(format!("{bare} has no unit: write it like {like:?}"));
    if let ValueKind::I64(bare) = value.kind {
        return remedy(bare.to_string());
    }
    let given = text(value)?;
    if given.parse::<f64>().is_ok() { remedy(format!("{given:?}")) } else { Ok(given) }
}
