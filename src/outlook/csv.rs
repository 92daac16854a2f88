//! Reports as CSV: lines as RFC 4180 has them, safe to open in a spreadsheet.

use super::report::{Exception, Figures, Interval, Line};
use crate::model::rfc3339;

/// The fields as one line, without its end, which is CRLF.
///
/// A field that a spreadsheet would take for a formula (it begins with `=`, `+`, `-`, `@`, a tab or a carriage return) gets an apostrophe in front, and is quoted.
/// Names in reports come from the configuration and begin with letters: a program that reads the file meets the apostrophe only where something is odd.
#[must_use]
pub fn line<S: AsRef<str>>(fields: impl IntoIterator<Item = S>) -> String {
    fields.into_iter().map(|field| self::field(field.as_ref())).collect::<Vec<_>>().join(",")
}

fn field(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    if formula || text.contains([',', '"', '\r', '\n']) {
        format!("\"{}{}\"", if formula { "'" } else { "" }, text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

/// What each line of the CSV has; `kind` says which of them mean something: total, class and target have figures, an exception is a job.
const COLUMNS: [&str; 26] = [
    "kind",
    "feature",
    "data_class",
    "target",
    "from",
    "to",
    "asked_at",
    "completed",
    "on_time",
    "late",
    "on_time_share",
    "latest_lateness_seconds",
    "records_deleted",
    "count_exact",
    "cancelled",
    "partial",
    "unverifiable",
    "partial_records",
    "open",
    "overdue",
    "held",
    "job_id",
    "what",
    "delete_by",
    "ended_at",
    "late_seconds",
];

/// Lines of the report, without their ends; the first one brings the names of the columns along.
#[must_use]
pub fn report(line: Line) -> Vec<String> {
    match line {
        Line::Figures(deletions) => {
            let mut lines =
                vec![self::line(COLUMNS), self::line(csv_figures("total", ["", "", ""], &deletions.interval, &deletions.totals))];
            for class in &deletions.classes {
                let (feature, name) = (class.feature.as_str(), class.data_class.as_str());
                lines.push(self::line(csv_figures("class", [feature, name, ""], &deletions.interval, &class.figures)));
                for target in &class.targets {
                    lines.push(self::line(csv_figures("target", [feature, name, &target.name], &deletions.interval, &target.figures)));
                }
            }
            lines
        }
        Line::Exception(exception) => vec![self::line(csv_exception(exception))],
    }
}

fn csv_figures(kind: &str, names: [&str; 3], interval: &Interval, f: &Figures) -> Vec<String> {
    let number = |n: Option<f64>| n.map(|n| n.to_string()).unwrap_or_default();
    let mut fields: Vec<String> = std::iter::once(kind).chain(names).map(str::to_owned).collect();
    fields.extend([interval.from, interval.to, interval.asked_at].map(rfc3339));
    fields.extend([f.completed, f.on_time, f.late].map(|n| n.to_string()));
    fields.extend([f.on_time_share, f.latest_lateness_seconds].map(number));
    fields.extend([f.records_deleted.to_string(), f.count_exact.to_string()]);
    fields.extend([f.cancelled, f.partial, f.unverifiable, f.partial_records, f.open, f.overdue, f.held].map(|n| n.to_string()));
    fields.resize(COLUMNS.len(), String::new());
    fields
}

fn csv_exception(e: Exception) -> Vec<String> {
    let mut fields = vec!["exception".to_owned(), e.feature, e.data_class];
    fields.resize(12, String::new());
    fields.extend([e.records_deleted.to_string(), e.count_exact.to_string()]);
    fields.resize(21, String::new());
    fields.extend([e.job_id, e.what, rfc3339(e.delete_by)]);
    fields.extend([e.ended_at.map(rfc3339).unwrap_or_default(), e.late_seconds.map(|s| s.to_string()).unwrap_or_default()]);
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_end_a_field_is_quoted_and_nothing_else() {
        assert_eq!(line(["a", "b c", ""]), "a,b c,");
        assert_eq!(line(["a,b", "say \"so\"", "two\nlines"]), "\"a,b\",\"say \"\"so\"\"\",\"two\nlines\"");
    }

    #[test]
    fn nothing_is_a_formula() {
        for formula in ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"] {
            assert_eq!(line([formula]), format!("\"'{formula}\""));
        }
        assert_eq!(line(["1-1", "a=b", "'x"]), "1-1,a=b,'x");
    }
}
