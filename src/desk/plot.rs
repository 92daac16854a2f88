//! Plots as inline SVG, drawn on the server from plain data: no script, no style attribute, colours and patterns by class.
//!
//! Each is a figure with a sentence that says it in words, drawn for places of four widths (the style sheet shows the one that fits, so that text is never
//! small), and the same figures as a table. Nothing here asks a database.

mod daily;
mod horizon;
mod lateness;
mod lifeline;
mod meter;
mod spans;

use chrono::{DateTime, NaiveDate, Utc};
use maud::{Markup, html};

pub use daily::{Daily, daily};
pub use horizon::{Day, Horizon, horizon};
pub use lateness::{Bucket, Lateness, lateness};
pub use lifeline::{Kind, Lifeline, Mark, lifeline};
pub use meter::{Meter, meter};
pub use spans::{Span, Spans, spans};

/// Series that look different; a seventh looks like the first.
const LOOKS: usize = 6;

/// Where a plot is drawn: the units are pixels of the place that it was made for.
#[derive(Debug, Clone, Copy)]
struct Frame {
    /// The class by which the style sheet chooses.
    name: &'static str,
    width: f64,
    height: f64,
    /// The area inside of the axes.
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

impl Frame {
    /// One for each width that a place may have.
    fn all(height: f64) -> [Self; 4] {
        let make =
            |name, width: f64, height: f64| Self { name, width, height, left: 40.0, right: width - 10.0, top: 12.0, bottom: height - 24.0 };
        [make("broad", 940.0, height), make("wide", 620.0, height), make("middle", 420.0, height), make("narrow", 300.0, height)]
    }

    /// Without numbers at the left.
    fn without_axis(self) -> Self {
        Self { left: 2.0, right: self.width - 2.0, ..self }
    }

    fn is_narrow(&self) -> bool {
        self.name == "narrow" || self.name == "middle"
    }

    /// Where the share `part` of the width is.
    fn x(&self, part: f64) -> f64 {
        self.left + part * (self.right - self.left)
    }

    /// Where the share `part` of the height is, counted from the bottom.
    fn y(&self, part: f64) -> f64 {
        self.bottom - part * (self.bottom - self.top)
    }
}

/// What is said about a plot beside what is drawn.
struct Told<'a> {
    /// Unlike that of any other on the page.
    id: &'a str,
    title: &'a str,
    /// The plot in one sentence.
    says: String,
    legend: Option<Markup>,
    table: Markup,
}

/// The figure around its drawings.
fn figure(told: Told<'_>, frames: [Frame; 4], draw: impl Fn(&Frame) -> Markup) -> Markup {
    html! {
        figure class="plot" {
            figcaption { (told.says) }
            @if let Some(legend) = told.legend { (legend) }
            @for frame in &frames {
                @let (title, desc) = (format!("{}-{}-t", told.id, frame.name), format!("{}-{}-d", told.id, frame.name));
                svg class=(frame.name) xmlns="http://www.w3.org/2000/svg" viewBox=(format!("0 0 {} {}", frame.width, frame.height)) role="img"
                    aria-labelledby=(format!("{title} {desc}")) {
                    title id=(title) { (told.title) }
                    desc id=(desc) { (told.says) }
                    (draw(frame))
                }
            }
            details {
                summary { "The same as a table" }
                div class="scroll" { (told.table) }
            }
        }
    }
}

/// What stands where a plot would be empty.
fn nothing(says: &str) -> Markup {
    html! { p class="empty" { (says) } }
}

/// A class name for the look of a series: colour and pattern.
fn look(series: usize) -> usize {
    series % LOOKS
}

/// What fills the bars of a series, once per drawing: a ground in its colour, and marks that tell it from others without colour.
fn patterns(id: &str, frame: &Frame, series: usize) -> Markup {
    let marks = ["", "M0 6L6 0", "M0 3H6", "M2 2h2v2h-2z", "M3 0V6", "M0 0L6 6M6 0L0 6"];
    html! {
        defs {
            @for (at, mark) in marks.iter().enumerate().take(series) {
                pattern id=(format!("{id}-{}-{at}", frame.name)) width="6" height="6" patternUnits="userSpaceOnUse" {
                    rect class=(format!("c{at}")) width="6" height="6" {}
                    @if !mark.is_empty() { path class="mark" d=(mark) {} }
                }
            }
            pattern id=(format!("{id}-{}-held", frame.name)) width="6" height="6" patternUnits="userSpaceOnUse" {
                path class="hatch" d="M-1 5L1 7M0 0L6 6M5 -1L7 1" {}
            }
        }
    }
}

/// The `fill` of a series: an attribute, for a style sheet cannot name what is in the page.
fn filled(id: &str, frame: &Frame, series: usize) -> String {
    format!("url(#{id}-{}-{})", frame.name, look(series))
}

/// What the looks mean, above the plot.
fn legend(id: &str, names: &[&str], held: bool, overdue: bool) -> Markup {
    let swatch = Frame { name: "key", width: 14.0, height: 14.0, left: 0.0, right: 14.0, top: 0.0, bottom: 14.0 };
    html! {
        ul class="legend" {
            @if overdue { li { svg viewBox="0 0 14 14" aria-hidden="true" { rect class="overdue" width="14" height="14" {} } "overdue" } }
            @for (at, name) in names.iter().enumerate() {
                li {
                    svg viewBox="0 0 14 14" aria-hidden="true" {
                        @if at == 0 { (patterns(id, &swatch, names.len().min(LOOKS))) }
                        rect fill=(filled(id, &swatch, at)) width="14" height="14" {}
                    }
                    (name)
                }
            }
            @if held {
                li {
                    svg viewBox="0 0 14 14" aria-hidden="true" {
                        @if names.is_empty() { (patterns(id, &swatch, 0)) }
                        rect class="held" fill=(format!("url(#{id}-key-held)")) x="0.5" y="0.5" width="13" height="13" {}
                    }
                    "held"
                }
            }
        }
    }
}

/// Round numbers from 0 up to or beyond the largest value, five at most; the last is the top of the axis.
fn ticks(most: i64) -> Vec<i64> {
    let most = most.max(1);
    let mut step: i64 = 1;
    while most > step.saturating_mul(4) {
        // 1, 2, 5, 10, 20, 50 …
        let leading = step.to_string().starts_with('2');
        step = if leading { (step / 2).saturating_mul(5) } else { step.saturating_mul(2) };
    }
    (0..=4).map(|at| step.saturating_mul(at)).take_while(|at| *at - step < most).collect()
}

/// The lines of a vertical axis of whole numbers.
fn count_axis(frame: &Frame, ticks: &[i64]) -> Markup {
    let top = ticks.last().copied().unwrap_or(1);
    html! {
        @for tick in ticks {
            @let y = frame.y(float(*tick) / float(top));
            path class=(if *tick == 0 { "axis" } else { "grid" }) d=(format!("M{:.1} {y:.1}H{:.1}", frame.left, frame.right)) {}
            text class="end" x=(format!("{:.1}", frame.left - 6.0)) y=(format!("{:.1}", y + 4.0)) { (short(*tick)) }
        }
    }
}

/// A rectangle between two heights, as shares of the axis; never so low that it cannot be seen.
fn bar(frame: &Frame, x: f64, width: f64, low: f64, high: f64) -> [String; 4] {
    let (bottom, top) = (frame.y(low), frame.y(high));
    let height = (bottom - top).max(1.5);
    [format!("{x:.1}"), format!("{:.1}", bottom - height), format!("{width:.1}"), format!("{height:.1}")]
}

/// `20000` as `20 k`.
fn short(value: i64) -> String {
    let tenths = |unit: i64, name: &str| {
        let tenths = value / (unit / 10);
        if tenths % 10 == 0 { format!("{} {name}", tenths / 10) } else { format!("{}.{} {name}", tenths / 10, tenths % 10) }
    };
    match value {
        1_000_000_000.. => tenths(1_000_000_000, "G"),
        1_000_000.. => tenths(1_000_000, "M"),
        1_000.. => tenths(1_000, "k"),
        _ => value.to_string(),
    }
}

/// `28 Nov`.
fn day_month(day: NaiveDate) -> String {
    day.format("%-d %b").to_string()
}

/// `28 Nov 17:27`.
fn minute(at: DateTime<Utc>) -> String {
    at.format("%-d %b %H:%M").to_string()
}

/// A count of seconds in its largest unit: `90 s`, `15 min`, `24 h`, `7 d`.
fn seconds(length: f64) -> String {
    let (scaled, unit) = match length {
        l if l >= 172_800.0 => (l / 86_400.0, "d"),
        l if l >= 3_600.0 => (l / 3_600.0, "h"),
        l if l >= 120.0 => (l / 60.0, "min"),
        l => (l, "s"),
    };
    format!("{} {unit}", (scaled * 10.0).round() / 10.0)
}

/// What a coordinate is made of.
#[expect(clippy::cast_precision_loss, reason = "a place on a plot, not an account")]
fn float(count: i64) -> f64 {
    count as f64
}

/// The same for places in a list.
#[expect(clippy::cast_precision_loss, reason = "lists on a page are short")]
fn place(at: usize) -> f64 {
    at as f64
}

#[cfg(test)]
mod tests;
