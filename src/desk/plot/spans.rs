//! Stretches of time, one below the other: the holds, from when they were placed to when they end.

use chrono::{DateTime, TimeDelta, Utc};
use maud::{Markup, html};

use super::{Frame, Told, day_month, figure, float, nothing, place};

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
    /// Each, in the order in which it is drawn.
    pub rows: Vec<Span>,
}

/// Each stretch on one axis of time, with a line where now is.
#[must_use]
pub fn spans(id: &str, data: &Spans, now: DateTime<Utc>) -> Markup {
    let Some(from) = data.rows.iter().map(|row| row.from).min() else { return nothing(&format!("There are no {}.", data.what)) };
    let last = data.rows.iter().filter_map(|row| row.to).max().unwrap_or(now).max(now);
    let end = last + (last - from) / 20 + TimeDelta::hours(1);
    let drawn = data.rows.len().min(MOST);
    let open = data.rows.iter().filter(|row| row.to.is_none()).count();
    let rest = if data.rows.len() > drawn { format!(" The first {drawn} are drawn.") } else { String::new() };
    let says = format!("{} {}, {open} without an end.{rest}", data.rows.len(), data.what);
    let height = ROW.mul_add(place(drawn), 40.0);
    let draw = |frame: &Frame| {
        let x = |at: DateTime<Utc>| frame.x((float((at - from).num_seconds()) / float((end - from).num_seconds().max(1))).clamp(0.0, 1.0));
        let letters = if frame.is_narrow() { 40 } else { 90 };
        html! {
            @for part in [0.0, 0.25, 0.5, 0.75] {
                @let at = frame.x(part);
                @let day = from + TimeDelta::seconds((end - from).num_seconds() / 4 * (if part < 0.1 { 0 } else if part < 0.3 { 1 } else if part < 0.6 { 2 } else { 3 }));
                path class="grid" d=(format!("M{at:.1} 12V{:.1}", frame.bottom)) {}
                text class="start" x=(format!("{:.1}", at + 2.0)) y=(format!("{:.1}", frame.bottom + 16.0)) { (day_month(day.date_naive())) }
            }
            @for (at, row) in data.rows.iter().take(MOST).enumerate() {
                @let y = ROW.mul_add(place(at), 26.0);
                @let (begin, until) = (x(row.from), x(row.to.unwrap_or(end)));
                text class="start" x=(format!("{:.1}", frame.left)) y=(format!("{y:.1}")) { (cut(&row.label, letters)) }
                rect class=(if row.to.is_some_and(|to| to <= now) { "span past" } else { "span" }) x=(format!("{begin:.1}")) y=(format!("{:.1}", y + 5.0))
                    width=(format!("{:.1}", (until - begin).max(2.0))) height="9" { title { (row.label) } }
                @if row.to.is_none() { path class="open" d=(format!("M{:.1} {:.1}l6 4.5l-6 4.5", until - 6.0, y + 5.0)) {} }
            }
            path class="now" d=(format!("M{:.1} 6V{:.1}", x(now), frame.bottom)) {}
            text class=(if x(now) > frame.width - 40.0 { "end strong" } else { "middle strong" }) x=(format!("{:.1}", x(now))) y="11" { "now" }
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
