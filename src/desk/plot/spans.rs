//! Stretches of time, one below the other: the holds, from when they were placed to when they end.

use chrono::{DateTime, TimeDelta, Utc};
use maud::{Markup, html};

use super::{Frame, Told, figure, float, nothing, place};

/// Rows that are drawn; the table has all.
const MOST: usize = 20;
const ROW: f64 = 34.0;

/// One stretch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Its name.
    pub label: String,
    /// Its first instant.
    pub from: DateTime<Utc>,
    /// Its last; none: no end is known.
    pub to: Option<DateTime<Utc>>,
}

/// Stretches under one another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spans {
    /// What they are: `holds`.
    pub what: String,
    /// What one of them is: `hold`.
    pub one: String,
    /// Each, in the order in which it is drawn.
    pub rows: Vec<Span>,
}

/// Each stretch on one axis of time, with a line where now is.
#[must_use]
pub fn spans(id: &str, data: &Spans, now: DateTime<Utc>) -> Markup {
    let Some(from) = data.rows.iter().map(|row| row.from).min() else { return nothing(&format!("There are no {}.", data.what)) };
    // An end in the far future would leave what is near no room.
    let last = data.rows.iter().filter_map(|row| row.to).max().unwrap_or(now).clamp(now, now + TimeDelta::days(400).max(now - from));
    let end = last + (last - from) / 20 + TimeDelta::hours(1);
    let beyond = |row: &Span| row.to.is_none_or(|to| to > end);
    let drawn = data.rows.len().min(MOST);
    let open = data.rows.iter().filter(|row| row.to.is_none()).count();
    let rest = if data.rows.len() > drawn { format!(" The first {drawn} are drawn.") } else { String::new() };
    let word = if data.rows.len() == 1 { &data.one } else { &data.what };
    let endless = if open == 0 { String::new() } else { format!(", {open} without an end") };
    let says = format!("{} {word}{endless}.{rest}", data.rows.len());
    let height = ROW.mul_add(place(drawn), 44.0);
    let draw = |frame: &Frame| {
        let until = |row: &Span| row.to.unwrap_or(end);
        let x = |at: DateTime<Utc>| frame.x((float((at - from).num_seconds()) / float((end - from).num_seconds().max(1))).clamp(0.0, 1.0));
        let letters = if frame.is_narrow() { 40 } else { 90 };
        html! {
            @for quarter in 0..4 {
                @let at = frame.x(float(quarter) / 4.0);
                @let day = from + TimeDelta::seconds((end - from).num_seconds() / 4 * quarter);
                path class="grid" d=(format!("M{at:.1} 12V{:.1}", frame.bottom)) {}
                text class="start" x=(format!("{:.1}", at + 2.0)) y=(format!("{:.1}", frame.bottom + 16.0)) { (day.format(if frame.is_narrow() || (end - from).num_days() < 300 { "%-d %b" } else { "%-d %b %Y" })) }
            }
            @for (at, row) in data.rows.iter().take(MOST).enumerate() {
                @let y = ROW.mul_add(place(at), 30.0);
                @let (begin, until) = (x(row.from), x(until(row)));
                text class="start" x=(format!("{:.1}", frame.left)) y=(format!("{y:.1}")) { (cut(&row.label, letters)) }
                rect class=(if row.to.is_some_and(|to| to <= now) { "span past" } else { "span" }) x=(format!("{begin:.1}")) y=(format!("{:.1}", y + 5.0))
                    width=(format!("{:.1}", (until - begin).max(2.0))) height="9" { title { (row.label) } }
                @if beyond(row) { path class="open" d=(format!("M{:.1} {:.1}l6 4.5l-6 4.5", until - 6.0, y + 5.0)) {} }
            }
            path class="now" d=(format!("M{:.1} 6V{:.1}", x(now), frame.bottom)) {}
            text class=(if x(now) > frame.width - 40.0 { "end strong" } else if x(now) < 40.0 { "start strong" } else { "middle strong" }) x=(format!("{:.1}", x(now))) y="11" { "now" }
        }
    };
    let table = html! {
        table {
            thead { tr { th scope="col" { "what" } th scope="col" { "from (UTC)" } th scope="col" { "to (UTC)" } } }
            tbody {
                @for row in &data.rows {
                    tr {
                        th scope="row" class="id" { (row.label) }
                        td { (row.from.format("%Y-%m-%d %H:%M")) }
                        td { @match row.to { Some(to) => { (to.format("%Y-%m-%d %H:%M")) } None => { "no end" } } }
                    }
                }
            }
        }
    };
    let told = Told { id, title: "Since when, and until when", says, legend: None, table };
    figure(told, Frame::all(height).map(Frame::without_axis), draw)
}

fn cut(text: &str, letters: usize) -> String {
    match text.char_indices().nth(letters) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
