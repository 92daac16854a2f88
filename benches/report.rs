//! One table: medians with their range, and the ratio to what they are compared with.

use std::{fmt::Write as _, time::Duration};

/// Several runs of one thing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Runs(pub(crate) Vec<f64>);

impl Runs {
    pub(crate) fn add(&mut self, value: f64) {
        self.0.push(value);
        self.0.sort_by(f64::total_cmp);
    }

    pub(crate) fn median(&self) -> f64 {
        let n = self.0.len();
        let at = |i: usize| self.0.get(i).copied().unwrap_or(f64::NAN);
        if n % 2 == 1 { at(n / 2) } else { f64::midpoint(at(n / 2 - 1), at(n / 2)) }
    }

    /// `median (min..max)`
    pub(crate) fn text(&self) -> String {
        let (least, most) = (self.0.first().copied().unwrap_or(f64::NAN), self.0.last().copied().unwrap_or(f64::NAN));
        format!("{} ({}..{})", figure(self.median()), figure(least), figure(most))
    }
}

/// A figure with three significant digits.
pub(crate) fn figure(value: f64) -> String {
    if value.abs() >= 1_000.0 {
        let digits = format!("{value:.0}");
        let mut grouped = String::new();
        for (i, c) in digits.chars().enumerate() {
            if i > 0 && (digits.len() - i).is_multiple_of(3) {
                grouped.push(',');
            }
            grouped.push(c);
        }
        grouped
    } else if value.abs() >= 100.0 {
        format!("{value:.0}")
    } else if value.abs() >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

pub(crate) fn rate(count: i64, took: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    let count = count as f64;
    count / took.as_secs_f64()
}

/// The table, in Markdown.
#[derive(Default)]
pub(crate) struct Table(String);

impl Table {
    pub(crate) fn row(&mut self, work: &str, unit: &str, value: &str, ratio: Option<f64>, note: &str) {
        let ratio = ratio.map_or_else(|| "–".to_owned(), |r| format!("{r:.2}"));
        let line = format!("| {work} | {unit} | {value} | {ratio} | {note} |");
        eprintln!("{line}");
        let _ = writeln!(self.0, "{line}");
    }

    pub(crate) fn finish(self, machine: &str) -> String {
        format!("{machine}\n\n| work | unit | median (min..max) | ratio | |\n|---|---|---|---|---|\n{}", self.0)
    }
}
