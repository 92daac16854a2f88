//! How long purges took from `retain_until` to the look that found nothing left: the share that was done within each time.

use std::fmt::Write as _;

use maud::{Markup, html};

use super::{Frame, Told, figure, float, nothing, seconds};

/// Jobs completed within a time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bucket {
    /// Seconds after `retain_until`; infinite in the last.
    pub up_to: f64,
    /// Jobs in this bucket alone.
    pub jobs: i64,
}

/// What is known about lateness.
#[derive(Debug, Clone, PartialEq)]
pub struct Lateness {
    /// The buckets, shortest first.
    pub buckets: Vec<Bucket>,
    /// Seconds that the data classes allow themselves, each once.
    pub allowances: Vec<f64>,
    /// Of what time: `the last 30 days`.
    pub period: String,
}

/// From one second to seven days.
const MOST: f64 = 604_800.0;
const MARKS: [(f64, &str); 6] = [(1.0, "1 s"), (10.0, "10 s"), (60.0, "1 min"), (3_600.0, "1 h"), (86_400.0, "1 d"), (604_800.0, "7 d")];

/// The share of jobs that was completed within each time.
#[must_use]
pub fn lateness(id: &str, data: &Lateness) -> Markup {
    let total: i64 = data.buckets.iter().map(|bucket| bucket.jobs).sum();
    if total == 0 {
        return nothing(&format!("No purge was completed in {}.", data.period));
    }
    let shares = shares(&data.buckets, total);
    let half = shares.iter().find(|(_, _, share)| *share >= 0.5).map_or(f64::INFINITY, |(up_to, ..)| *up_to);
    let most = shares.iter().find(|(_, _, share)| *share >= 0.99).map_or(f64::INFINITY, |(up_to, ..)| *up_to);
    let purges = if total == 1 { "1 purge was".to_owned() } else { format!("{total} purges were") };
    let says = format!("{purges} completed in {}: half took {}, 99 in 100 {}.", data.period, up_to(half), up_to(most));
    let draw = |frame: &Frame| {
        // The upper end of a step is where the share is known; between two bounds nothing is.
        let mut line = format!("M{:.1} {:.1}", frame.x(0.0), frame.y(0.0));
        for (up_to, _, share) in shares.iter().filter(|(up_to, ..)| up_to.is_finite()) {
            // Writing to a String cannot fail.
            let _ = write!(line, "H{:.1}V{:.1}", frame.x(along(*up_to)), frame.y(*share));
        }
        let _ = write!(line, "H{:.1}", frame.x(1.0));
        html! {
            @for percent in [0, 25, 50, 75, 100] {
                @let y = frame.y(float(percent) / 100.0);
                path class=(if percent == 0 { "axis" } else { "grid" }) d=(format!("M{:.1} {y:.1}H{:.1}", frame.left, frame.right)) {}
                text class="end" x=(format!("{:.1}", frame.left - 6.0)) y=(format!("{:.1}", y + 4.0)) { (percent) "%" }
            }
            @for (at, name) in MARKS.iter().filter(|(at, _)| !frame.is_narrow() || (*at - 10.0).abs() > 1.0) {
                @let x = frame.x(along(*at));
                path class="tick" d=(format!("M{x:.1} {:.1}v4", frame.bottom)) {}
                text class=(if *at >= MOST { "end" } else { "middle" }) x=(format!("{x:.1}")) y=(format!("{:.1}", frame.bottom + 16.0)) { (name) }
            }
            @for (at, allowance) in data.allowances.iter().enumerate() {
                @let x = frame.x(along(*allowance));
                path class="limit" d=(format!("M{x:.1} {:.1}V{:.1}", frame.top, frame.bottom)) {}
                text class="end limit" x=(format!("{:.1}", x - 5.0)) y=(format!("{:.1}", frame.bottom - 8.0 - 15.0 * super::place(at))) {
                    "allowed " (seconds(*allowance))
                }
            }
            path class="line" d=(line) {}
        }
    };
    let table = html! {
        table {
            thead { tr { th scope="col" { "up to" } th scope="col" class="n" { "purges" } th scope="col" class="n" { "share" } } }
            tbody {
                @for (up_to, jobs, share) in &shares {
                    tr { th scope="row" { (if up_to.is_finite() { seconds(*up_to) } else { "longer".to_owned() }) } td class="n" { (jobs) } td class="n" { (format!("{:.1}%", share * 100.0)) } }
                }
            }
        }
    };
    figure(Told { id, title: "How long purges took", says, legend: None, table }, Frame::all(205.0), draw)
}

/// Up to when, how many until then, which share.
fn shares(buckets: &[Bucket], total: i64) -> Vec<(f64, i64, f64)> {
    let mut sum = 0;
    let running = buckets.iter().map(|bucket| {
        sum += bucket.jobs;
        (bucket.up_to, sum, float(sum) / float(total))
    });
    running.collect()
}

/// Where a time stands on the logarithmic axis, 0 to 1.
fn along(length: f64) -> f64 {
    (length.clamp(1.0, MOST).ln() / MOST.ln()).clamp(0.0, 1.0)
}

fn up_to(length: f64) -> String {
    if length.is_finite() { format!("up to {}", seconds(length)) } else { "longer than 7 d".to_owned() }
}
