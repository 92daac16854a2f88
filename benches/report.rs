//! One table: what was measured, what it is compared with, the ratio, what is to be reached and whether it is.

use std::{fmt::Write as _, time::Duration};

/// Several runs of one thing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Runs(Vec<f64>);

impl Runs {
    pub(crate) fn add(&mut self, value: f64) {
        self.0.push(value);
        self.0.sort_by(f64::total_cmp);
    }

    pub(crate) fn one(value: f64) -> Self {
        Self(vec![value])
    }

    pub(crate) fn median(&self) -> f64 {
        let n = self.0.len();
        let at = |i: usize| self.0.get(i).copied().unwrap_or(f64::NAN);
        if n % 2 == 1 { at(n / 2) } else { f64::midpoint(at((n / 2).wrapping_sub(1)), at(n / 2)) }
    }

    pub(crate) fn most(&self) -> f64 {
        self.0.last().copied().unwrap_or(f64::NAN)
    }

    /// `median (min..max)`
    fn text(&self) -> String {
        match self.0.as_slice() {
            [] => "–".to_owned(),
            [one] => figure(*one),
            [least, .., most] => {
                let few = if self.0.len() < 5 { format!("; {} runs", self.0.len()) } else { String::new() };
                format!("{} ({}..{}{few})", figure(self.median()), figure(*least), figure(*most))
            }
        }
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
    float(count) / took.as_secs_f64()
}

pub(crate) fn millis(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}

pub(crate) fn mib(kib: u64) -> f64 {
    float(i64::try_from(kib).unwrap_or(i64::MAX)) / 1024.0
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
pub(crate) fn float(count: i64) -> f64 {
    count as f64
}

/// What is to be reached.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
    /// A figure to read the others by.
    None,
}

impl Goal {
    fn cells(self, value: f64) -> (String, &'static str) {
        let word = |reached: bool| if reached { "yes" } else { "**no**" };
        match self {
            Self::AtLeast(goal) => (format!("≥ {goal}"), word(value >= goal)),
            Self::AtMost(goal) => (format!("≤ {goal}"), word(value <= goal)),
            Self::None => ("–".to_owned(), "–"),
        }
    }
}

/// The table, in Markdown.
#[derive(Default)]
pub(crate) struct Table(String);

impl Table {
    /// Two sides of one run; the goal is for the ratio of their medians.
    pub(crate) fn compare(&mut self, work: &str, unit: &str, ours: &Runs, with: &str, theirs: &Runs, goal: Goal) {
        let ratio = ours.median() / theirs.median();
        let (goal, reached) = goal.cells(ratio);
        self.row(&[work, unit, &ours.text(), with, &theirs.text(), &figure(ratio), &goal, reached]);
    }

    /// A figure with a goal of its own, which its worst run must reach.
    pub(crate) fn limit(&mut self, work: &str, unit: &str, ours: &Runs, goal: Goal) {
        let (goal, reached) = goal.cells(ours.most());
        self.row(&[work, unit, &ours.text(), "–", "–", "–", &goal, reached]);
    }

    /// What could not be measured, and why.
    pub(crate) fn missing(&mut self, work: &str, why: &str) {
        self.row(&[work, "–", &format!("not measured: {why}"), "–", "–", "–", "–", "–"]);
    }

    fn row(&mut self, cells: &[&str]) {
        let line = format!("| {} |", cells.join(" | "));
        eprintln!("{line}");
        let _ = writeln!(self.0, "{line}");
    }

    pub(crate) fn finish(self, machine: &str) -> String {
        let head = "| work | unit | retentiond | compared with | that | ratio | to reach | reached |\n|---|---|---|---|---|---|---|---|";
        format!("{machine}\n\n{head}\n{}", self.0)
    }
}
