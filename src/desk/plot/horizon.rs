//! What falls due, day by day for five weeks, by data class; what is overdue stands apart at the left.

use chrono::{DateTime, NaiveDate, Utc};
use maud::{Markup, html};

use super::{Frame, Told, bar, count_axis, day_month, figure, filled, float, legend, nothing, patterns, place, ticks};
use crate::terminal::relative;

/// Jobs whose `retain_until` is on this day (UTC).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Day {
    /// The day.
    pub day: NaiveDate,
    /// Jobs that are not held, by `feature/name`.
    pub classes: Vec<(String, i64)>,
    /// Jobs that are held.
    pub held: i64,
}

/// What lies ahead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Horizon {
    /// Jobs past their `delete_by`, open and not held.
    pub overdue: i64,
    /// Each day from today on, those without jobs too.
    pub days: Vec<Day>,
    /// Jobs that fall due after these days.
    pub later: i64,
    /// When the next job that is not held falls due, beyond these days perhaps.
    pub next: Option<DateTime<Utc>>,
}

/// What is overdue has a place of its own, so many pixels wide.
const OVERDUE: f64 = 66.0;

/// The jobs that fall due on each day.
#[must_use]
pub fn horizon(id: &str, data: &Horizon, now: DateTime<Utc>) -> Markup {
    let total = |day: &Day| day.classes.iter().map(|(_, jobs)| jobs).sum::<i64>() + day.held;
    let most = data.days.iter().map(total).max().unwrap_or(0).max(data.overdue);
    let says = says(data, now);
    if most == 0 {
        return nothing(&says);
    }
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in data.days.iter().flat_map(|day| &day.classes) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    names.sort_unstable();
    let marks = ticks(most);
    let top = float(marks.last().copied().unwrap_or(1));
    let held = data.days.iter().any(|day| day.held > 0);
    let draw = |frame: &Frame| {
        let inner = Frame { left: frame.left + OVERDUE, ..*frame };
        let step = (inner.right - inner.left) / place(data.days.len().max(1));
        let width = step * 0.78;
        let every = if frame.is_narrow() { 14 } else { 7 };
        let middle = frame.left + OVERDUE / 2.0;
        html! {
            (patterns(id, frame, names.len().min(super::LOOKS)))
            (count_axis(frame, &marks))
            path class="divide" d=(format!("M{:.1} {:.1}V{:.1}", inner.left - 2.0, frame.top, frame.bottom)) {}
            @if data.overdue > 0 {
                @let [x, y, w, h] = bar(frame, middle - 11.0, 22.0, 0.0, float(data.overdue) / top);
                rect class="overdue" x=(x) y=(y) width=(w) height=(h) { title { (data.overdue) " overdue" } }
            }
            text class=(if data.overdue > 0 { "middle alarm" } else { "middle" }) x=(format!("{middle:.1}")) y=(format!("{:.1}", frame.bottom + 16.0)) { "overdue" }
            @for (at, day) in data.days.iter().enumerate() {
                @let x = step.mul_add(place(at), inner.left) + (step - width) / 2.0;
                g {
                    title { (day_month(day.day)) ": " (words(day)) }
                    @for (series, low, jobs) in stacked(day, &names) {
                        @let [x, y, w, h] = bar(frame, x, width, float(low) / top, float(low + jobs) / top);
                        @if let Some(series) = series {
                            rect class="bar" fill=(filled(id, frame, series)) x=(x) y=(y) width=(w) height=(h) {}
                        } @else {
                            rect class="held" fill=(format!("url(#{id}-{}-held)", frame.name)) x=(x) y=(y) width=(w) height=(h) {}
                        }
                    }
                }
                @if at % every == 0 && at + 2 < data.days.len() {
                    path class="tick" d=(format!("M{:.1} {:.1}v4", x + width / 2.0, frame.bottom)) {}
                    text class=(if at == 0 { "start" } else { "middle" }) x=(format!("{:.1}", if at == 0 { x } else { x + width / 2.0 }))
                        y=(format!("{:.1}", frame.bottom + 16.0)) { @if at == 0 { "today" } @else { (day_month(day.day)) } }
                }
            }
        }
    };
    let table = html! {
        table {
            thead { tr { th scope="col" { "day" } @for name in &names { th scope="col" class="n" { (name) } } th scope="col" class="n" { "held" } } }
            tbody {
                tr { th scope="row" { "overdue" } td class="n" colspan=(names.len().max(1)) { (data.overdue) } td class="n" { "" } }
                @for day in data.days.iter().filter(|day| total(day) > 0) {
                    tr {
                        th scope="row" { (day.day) }
                        @for name in &names { td class="n" { (jobs_of(day, name)) } }
                        td class="n" { (day.held) }
                    }
                }
            }
        }
    };
    let told = Told { id, title: "What falls due", says, legend: Some(legend(id, &names, held, data.overdue > 0)), table };
    figure(told, Frame::all(205.0), draw)
}

fn jobs_of(day: &Day, name: &str) -> i64 {
    day.classes.iter().filter(|(class, _)| class == name).map(|(_, jobs)| jobs).sum()
}

/// Each part of a day's bar that is there: its series (none: held), where it begins, how much it is.
fn stacked(day: &Day, names: &[&str]) -> Vec<(Option<usize>, i64, i64)> {
    let mut low = 0;
    let mut parts = Vec::new();
    let classes = names.iter().enumerate().map(|(series, name)| (Some(series), jobs_of(day, name)));
    for (series, jobs) in classes.chain([(None, day.held)]).filter(|(_, jobs)| *jobs > 0) {
        parts.push((series, low, jobs));
        low += jobs;
    }
    parts
}

fn words(day: &Day) -> String {
    let mut parts: Vec<String> = day.classes.iter().filter(|(_, jobs)| *jobs > 0).map(|(name, jobs)| format!("{name} {jobs}")).collect();
    if day.held > 0 {
        parts.push(format!("held {}", day.held));
    }
    if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") }
}

fn says(data: &Horizon, now: DateTime<Utc>) -> String {
    let ahead: i64 = data.days.iter().flat_map(|day| &day.classes).map(|(_, jobs)| jobs).sum();
    let held: i64 = data.days.iter().map(|day| day.held).sum();
    let overdue = match data.overdue {
        0 => "Nothing is overdue.".to_owned(),
        1 => "1 purge is overdue.".to_owned(),
        jobs => format!("{jobs} purges are overdue."),
    };
    let next = match data.next {
        None => "Nothing else is scheduled.".to_owned(),
        Some(at) if at <= now => "The next purge is due now.".to_owned(),
        Some(at) => format!("The next purge is due {}.", relative(at, now)),
    };
    let days = data.days.len();
    let ahead = if ahead > 0 { format!(" {ahead} in the next {days} days.") } else { String::new() };
    let held = if held > 0 { format!(" {held} more are held.") } else { String::new() };
    let later = if data.later > 0 { format!(" {} later.", data.later) } else { String::new() };
    format!("{overdue} {next}{ahead}{held}{later}")
}
