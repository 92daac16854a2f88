//! The life of one job: from its starting point over `retain_until` to `delete_by`, and what happened on the way.
//!
//! Not to scale, on purpose: a month of waiting would leave an allowance of a day no room. Each of the three stretches is, in itself.

use chrono::{DateTime, Utc};
use maud::{Markup, html};

use super::{Frame, Span, Told, figure, float, minute};
use crate::terminal::relative;

/// What a mark is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Something was noticed or planned.
    Note,
    /// An attempt.
    Attempt,
    /// It was completed, or a level was reached.
    Done,
    /// It was cancelled, or something went wrong.
    Wrong,
}

/// Something that happened at an instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// When.
    pub at: DateTime<Utc>,
    /// In words.
    pub what: String,
    /// Of which kind.
    pub kind: Kind,
}

/// A job's dates and events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lifeline {
    /// The instant of its starting point.
    pub started_at: DateTime<Utc>,
    /// Nothing is deleted before.
    pub retain_until: DateTime<Utc>,
    /// Late after this.
    pub delete_by: DateTime<Utc>,
    /// The holds that matched it.
    pub holds: Vec<Span>,
    /// What happened.
    pub marks: Vec<Mark>,
    /// It is not over.
    pub open: bool,
}

impl Kind {
    fn class(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Attempt => "attempt",
            Self::Done => "done",
            Self::Wrong => "wrong",
        }
    }
}

/// The track of one job.
#[must_use]
pub fn lifeline(id: &str, data: &Lifeline, now: DateTime<Utc>) -> Markup {
    let last = data.marks.iter().map(|mark| mark.at).chain(data.open.then_some(now)).max().unwrap_or(now);
    let end = last.max(data.delete_by);
    let says = match (data.open, data.marks.iter().find(|mark| matches!(mark.kind, Kind::Done | Kind::Wrong))) {
        (false, Some(mark)) => {
            let late = if mark.kind == Kind::Done && mark.at > data.delete_by { ", late" } else { "" };
            format!("{} {}{late}.", capital(&mark.what), minute(mark.at))
        }
        _ if now < data.retain_until => format!("Due {}; late {}.", relative(data.retain_until, now), relative(data.delete_by, now)),
        _ if now <= data.delete_by => format!("Due; late {}.", relative(data.delete_by, now)),
        _ => format!("Late since {}.", minute(data.delete_by)),
    };
    let draw = |frame: &Frame| {
        let track = Track { frame, data, end };
        let y = 52.0;
        let (begin, retain, late, edge) = (track.x(data.started_at), track.x(data.retain_until), track.x(data.delete_by), track.x(end));
        html! {
            (super::patterns(id, frame, 0))
            rect class="keep" x=(format!("{begin:.1}")) y=(format!("{:.1}", y - 6.0)) width=(width(begin, retain)) height="12" { title { "kept" } }
            rect class="window" x=(format!("{retain:.1}")) y=(format!("{:.1}", y - 6.0)) width=(width(retain, late)) height="12" { title { "to be deleted in this time" } }
            @if end > data.delete_by {
                rect class="after" x=(format!("{late:.1}")) y=(format!("{:.1}", y - 6.0)) width=(width(late, edge)) height="12" { title { "late" } }
            }
            @for hold in &data.holds {
                @let (from, to) = (track.x(hold.from), track.x(hold.to.unwrap_or(end)));
                rect class="held" fill=(format!("url(#{id}-{}-held)", frame.name)) x=(format!("{from:.1}")) y=(format!("{:.1}", y - 22.0))
                    width=(width(from, to)) height="11" { title { "held: " (hold.label) } }
            }
            @for (x, name, at, row, anchor) in [
                (begin, "started", data.started_at, 0.0, "start"),
                (retain, "retain until", data.retain_until, 1.0, "middle"),
                (late, "delete by", data.delete_by, 2.0, "end"),
            ] {
                @let text = y + 26.0 + row * 17.0;
                path class="tick" d=(format!("M{x:.1} {:.1}V{:.1}", y - 8.0, text - 11.0)) {}
                text class=(anchor) x=(format!("{x:.1}")) y=(format!("{text:.1}")) { (name) " " tspan class="strong" { (minute(at)) } }
            }
            @for mark in &data.marks {
                circle class=(format!("event {}", mark.kind.class())) cx=(format!("{:.1}", track.x(mark.at))) cy=(format!("{y:.1}")) r="5" {
                    title { (mark.what) " " (minute(mark.at)) }
                }
            }
            @if data.open && now >= data.started_at {
                @let x = track.x(now);
                path class="now" d=(format!("M{x:.1} 20V{:.1}", y + 9.0)) {}
                text class=(if x > frame.width - 40.0 { "end strong" } else if x < 30.0 { "start strong" } else { "middle strong" }) x=(format!("{x:.1}")) y="14" { "now" }
            }
        }
    };
    let table = table(data);
    let told = Told { id, title: "The life of this job", says, legend: None, table };
    figure(told, Frame::all(122.0).map(Frame::without_axis), draw)
}

fn table(data: &Lifeline) -> Markup {
    let mut rows: Vec<(DateTime<Utc>, String)> = vec![
        (data.started_at, "started".to_owned()),
        (data.retain_until, "retain until".to_owned()),
        (data.delete_by, "delete by".to_owned()),
    ];
    rows.extend(data.marks.iter().map(|mark| (mark.at, mark.what.clone())));
    for hold in &data.holds {
        rows.push((hold.from, format!("held: {}", hold.label)));
        rows.extend(hold.to.map(|to| (to, format!("not held any more: {}", hold.label))));
    }
    rows.sort();
    html! {
        table {
            thead { tr { th scope="col" { "when (UTC)" } th scope="col" { "what" } } }
            tbody { @for (at, what) in rows { tr { td { (at.format("%Y-%m-%d %H:%M:%S")) } td { (what) } } } }
        }
    }
}

fn width(from: f64, to: f64) -> String {
    format!("{:.1}", (to - from).max(2.0))
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// Three stretches, each to a scale of its own.
struct Track<'a> {
    frame: &'a Frame,
    data: &'a Lifeline,
    end: DateTime<Utc>,
}

impl Track<'_> {
    fn x(&self, at: DateTime<Utc>) -> f64 {
        let d = self.data;
        let after = if self.end > d.delete_by { 0.2 } else { 0.0 };
        let (kept, allowed) = (0.55 - after / 2.0, 0.45 - after / 2.0);
        let share = |from: DateTime<Utc>, to: DateTime<Utc>| {
            let whole = float((to - from).num_seconds().max(1));
            (float((at - from).num_seconds()) / whole).clamp(0.0, 1.0)
        };
        let part = kept * share(d.started_at, d.retain_until)
            + allowed * share(d.retain_until, d.delete_by)
            + if after > 0.0 { after * share(d.delete_by, self.end) } else { 0.0 };
        // Marks at either end stay whole.
        let inner = Frame { left: self.frame.left + 6.0, right: self.frame.right - 6.0, ..*self.frame };
        inner.x(part)
    }
}
