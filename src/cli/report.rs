//! `report`: what was deleted within an interval, and what the rules say. No account is named in either.

use chrono::{DateTime, TimeDelta, Utc};
use clap::Subcommand;

use super::{Cli, Output, block_on, now, print, print_json};
use crate::{
    config::{Config, Needs},
    database::{Purpose, Tx},
    failure::Failure,
    model::rfc3339,
    outlook::{
        self, Art30, Rule, csv,
        report::{self, Deletions, Exception, Figures, Interval, Line},
    },
    terminal::{printable, span, table},
};

/// Exceptions that a table for people shows.
const ROWS: usize = 100;
/// Without `--from`, a report reaches back so far from its end.
const DAYS: i64 = 30;

#[derive(Debug, Clone, Copy, Subcommand)]
pub(super) enum Verb {
    /// What was deleted, how much of it in time, and every job that stands out. Names no account.
    Deletions {
        /// Jobs that were over at this instant (RFC 3339) or later; 30 days before the end unless given.
        #[arg(long, value_name = "INSTANT")]
        from: Option<DateTime<Utc>>,
        /// Jobs that were over before this instant; now unless given.
        #[arg(long, value_name = "INSTANT")]
        to: Option<DateTime<Utc>>,
    },
    /// The rules of this configuration: what is kept how long, from when, and where. Needs no database.
    Art30,
}

impl Cli {
    pub(super) fn report(&self, verb: Verb) -> Result<(), Failure> {
        match verb {
            Verb::Deletions { from, to } => {
                let config = self.one_shot()?;
                block_on(async {
                    let mut tx = self.own_tables(&config, Purpose::Compare).await?;
                    self.deletions(&mut tx, &config, from, to).await
                })
            }
            Verb::Art30 => {
                let rules = outlook::art30(&self.load(Needs::Nothing)?);
                match (self.csv, self.output) {
                    (true, _) => print_rules_csv(&rules),
                    (false, Output::Json) => print_json(&rules)?,
                    (false, Output::Table) => show_rules(&rules),
                }
                Ok(())
            }
        }
    }

    async fn deletions(&self, tx: &mut Tx, config: &Config, from: Option<DateTime<Utc>>, to: Option<DateTime<Utc>>) -> Result<(), Failure> {
        let asked_at = now(tx).await?;
        let to = to.unwrap_or(asked_at);
        let from = from.unwrap_or(to - TimeDelta::days(DAYS));
        if from >= to {
            let (from, to) = (rfc3339(from), rfc3339(to));
            return Err(Failure::Other(anyhow::anyhow!("--from {from} is not before --to {to}: nothing lies between them")));
        }
        let interval = Interval { from, to, asked_at };
        match (self.csv, self.output) {
            (true, _) => report::deletions(tx, config, interval, |line| csv::report(line).iter().for_each(|line| print_csv(line))).await?,
            (false, Output::Json) => {
                let mut json = Json::default();
                report::deletions(tx, config, interval, |line| json.line(&line)).await?;
                json.end()?;
            }
            (false, Output::Table) => {
                let mut shown = Shown::default();
                report::deletions(tx, config, interval, |line| shown.line(line)).await?;
                shown.end();
            }
        }
        Ok(())
    }
}

/// The report as one JSON object, printed while it arrives: exceptions may be many.
#[derive(Default)]
struct Json {
    exceptions: u64,
    failed: Option<serde_json::Error>,
}

impl Json {
    fn line(&mut self, line: &Line) {
        match line {
            // The object of the figures stays open for one key more.
            Line::Figures(figures) => match serde_json::to_string(figures) {
                Ok(text) => print(&format!("{},\"exceptions\":[", text.strip_suffix('}').unwrap_or(&text))),
                Err(error) => self.failed = Some(error),
            },
            Line::Exception(exception) => match serde_json::to_string(exception) {
                Ok(text) => {
                    print(&format!("{}{text}", if self.exceptions == 0 { "" } else { "," }));
                    self.exceptions += 1;
                }
                Err(error) => self.failed = Some(error),
            },
        }
    }

    fn end(self) -> Result<(), Failure> {
        print("]}");
        self.failed.map_or(Ok(()), |error| Err(Failure::Other(error.into())))
    }
}

fn csv_line<S: AsRef<str>>(fields: impl IntoIterator<Item = S>) {
    print_csv(&csv::line(fields));
}

fn print_csv(line: &str) {
    print(&format!("{line}\r"));
}

/// The report for people: the figures at once, the first exceptions at the end.
#[derive(Default)]
struct Shown {
    exceptions: Vec<Exception>,
    more: u64,
}

impl Shown {
    fn line(&mut self, line: Line) {
        match line {
            Line::Figures(deletions) => show(&deletions),
            Line::Exception(exception) if self.exceptions.len() < ROWS => self.exceptions.push(exception),
            Line::Exception(_) => self.more += 1,
        }
    }

    fn end(self) {
        if self.exceptions.is_empty() {
            print("\nNothing was late, partial or unverifiable, and nothing is overdue.");
            return;
        }
        let row = |e: &Exception| {
            vec![
                e.job_id.clone(),
                format!("{}/{}", e.feature, e.data_class),
                e.what.clone(),
                rfc3339(e.delete_by),
                e.ended_at.map_or_else(|| "open".to_owned(), rfc3339),
                seconds(e.late_seconds),
                count(e.records_deleted, e.count_exact),
            ]
        };
        print("");
        let headers = ["job", "class", "what", "delete by", "ended", "late by", "deleted"];
        print(&table(&headers, &self.exceptions.iter().map(row).collect::<Vec<_>>()));
        if self.more > 0 {
            print(&format!("… and {} more; -o json and -o csv have all", self.more));
        }
    }
}

fn show(deletions: &Deletions) {
    let Interval { from, to, asked_at } = deletions.interval;
    print(&format!(
        "Jobs that were over from {} on and before {}, and those open now ({}).",
        rfc3339(from),
        rfc3339(to),
        rfc3339(asked_at)
    ));
    let row = |name: String, f: &Figures| {
        let share = f.on_time_share.map_or_else(String::new, |share| format!("{:.1} %", (share * 1_000.0).floor() / 10.0));
        let ended = [f.completed.to_string(), count(f.records_deleted, f.count_exact), share, seconds(f.latest_lateness_seconds)];
        let others = [f.cancelled, f.partial, f.unverifiable, f.open, f.overdue, f.held].map(|n| n.to_string());
        std::iter::once(name).chain(ended).chain(others).collect::<Vec<_>>()
    };
    let mut rows = Vec::new();
    for class in &deletions.classes {
        rows.push(row(format!("{}/{}", class.feature, class.data_class), &class.figures));
        rows.extend(class.targets.iter().map(|target| row(format!("  {}", target.name), &target.figures)));
    }
    rows.push(row("total".to_owned(), &deletions.totals));
    let headers =
        ["class, place", "completed", "deleted", "on time", "latest", "cancelled", "partial", "unverifiable", "open", "overdue", "held"];
    print(&table(&headers, &rows));
}

/// A count, or the least it can be.
fn count(records: i64, exact: bool) -> String {
    if exact { records.to_string() } else { format!("≥{records}") }
}

fn seconds(seconds: Option<f64>) -> String {
    let length = seconds.and_then(|s| std::time::Duration::try_from_secs_f64(s).ok()).and_then(|d| TimeDelta::from_std(d).ok());
    length.map(span).unwrap_or_default()
}

/// One line for each place of each class.
fn print_rules_csv(rules: &Art30) {
    let header = [
        "kind",
        "feature",
        "data_class",
        "starting_points",
        "retain_for",
        "delete_within",
        "delete_by_after",
        "place",
        "store_kind",
        "identified_by",
        "expires_after",
        "reason",
    ];
    csv_line(header);
    for rule in &rules.classes {
        let points: Vec<String> = rule.starting_points.iter().map(|p| format!("{} ({})", p.name, p.column)).collect();
        let head = [&rule.feature, &rule.data_class, &points.join("; "), &rule.retain_for].map(String::clone);
        let until = [&rule.delete_within, &rule.delete_by_after].map(|period| period.clone().unwrap_or_default());
        let line = |kind: &str, place: [String; 4]| {
            csv_line(std::iter::once(kind.to_owned()).chain(head.clone()).chain(until.clone()).chain(place).chain([String::new()]));
        };
        for target in &rule.targets {
            let by = target.identified_by.clone().unwrap_or_default();
            line("target", [target.name.clone(), target.store_kind.to_owned(), by, String::new()]);
        }
        for copies in &rule.copies {
            line("copies", [copies.name.clone(), "expiring".to_owned(), String::new(), copies.expires_after.clone()]);
        }
    }
    let bare = |kind: &str, class: &str, place: &str, reason: &str| {
        let (feature, name) = class.split_once('/').unwrap_or(("", class));
        csv_line([kind, feature, name, "", "", "", "", place, "", "", "", reason]);
    };
    for place in &rules.customer {
        bare("customer", &place.class, &place.place, "");
    }
    for exempted in &rules.exemptions {
        bare("exempted", "", &exempted.table, &exempted.reason);
    }
}

fn show_rules(rules: &Art30) {
    if let Some(regions) = &rules.regions {
        print(&format!("Only accounts of {}.\n", printable(&regions.join(", "))));
    }
    let cells: Vec<Vec<String>> =
        rules.matrix.iter().map(|c| vec![c.retain_for.clone(), c.starting_points.join(", "), c.classes.join(", ")]).collect();
    print(&table(&["kept for", "from the earliest of", "classes"], &cells));
    for rule in &rules.classes {
        print("");
        show_rule(rule);
    }
    for place in &rules.customer {
        print(&format!("\n{}\n  {} is the customer's, and never deleted by us", printable(&place.class), printable(&place.place)));
    }
    for exempted in &rules.exemptions {
        print(&format!("\n{} is exempted: {}", printable(&exempted.table), printable(&exempted.reason)));
    }
}

fn show_rule(rule: &Rule) {
    print(&format!("{}/{}", printable(&rule.feature), printable(&rule.data_class)));
    for point in &rule.starting_points {
        print(&format!("  from {}: {}, for {}", printable(&point.name), printable(&point.column), point.counts_for));
    }
    let gone = match (&rule.delete_within, &rule.delete_by_after) {
        (Some(within), _) => format!("gone within {within} after that"),
        (None, Some(after)) => format!("gone {after} after the starting point"),
        (None, None) => String::new(),
    };
    print(&format!("  kept for {}, {gone}", rule.retain_for));
    for target in &rule.targets {
        let by = target.identified_by.as_ref().map_or_else(String::new, |by| format!(", by {}", printable(by)));
        print(&format!("  deleted from {} ({}){by}", printable(&target.name), target.store_kind));
    }
    for copies in &rule.copies {
        print(&format!("  copies {} are gone {} after that, by themselves", printable(&copies.name), copies.expires_after));
    }
}
