//! How far a number is from its limit.

use maud::{Markup, html};

use super::{Frame, Told, figure, float, short};

/// A number and the limit that it must not exceed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meter {
    /// What is limited: `guard.max_accounts`.
    pub name: String,
    /// How many there are.
    pub value: i64,
    /// How many there may be.
    pub limit: i64,
    /// Of what: `accounts`.
    pub unit: String,
}

/// A bar with a line at the limit. A limit that is reached is not exceeded.
#[must_use]
pub fn meter(id: &str, data: &Meter) -> Markup {
    let over = data.value > data.limit;
    let whole = float(data.limit.max(data.value).max(1)) * 1.15;
    let says = format!(
        "{}: {} of {} {}; {}.",
        data.name,
        data.value,
        data.limit,
        data.unit,
        if over { "the limit would be exceeded" } else { "within the limit" }
    );
    let draw = |frame: &Frame| {
        let (value, limit) = (frame.x(float(data.value) / whole), frame.x(float(data.limit) / whole));
        let anchor = |x: f64| {
            if x > frame.width - 60.0 {
                "end"
            } else if x < 60.0 {
                "start"
            } else {
                "middle"
            }
        };
        html! {
            rect class="track" x=(frame.left) y="8" width=(frame.right - frame.left) height="16" {}
            rect class=(if over { "over" } else { "bar c0" }) x=(frame.left) y="11" width=(format!("{:.1}", (value - frame.left).max(1.5))) height="10" {}
            path class="bound" d=(format!("M{limit:.1} 3V29")) {}
            text class=(anchor(limit)) x=(format!("{limit:.1}")) y="43" { "limit " tspan class="strong" { (short(data.limit)) } }
        }
    };
    let table = html! {
        table {
            thead { tr { th scope="col" { "limit" } th scope="col" class="n" { "now" } th scope="col" class="n" { "may be" } } }
            tbody { tr { th scope="row" { (data.name) } td class="n" { (data.value) } td class="n" { (data.limit) } } }
        }
    };
    let told = Told { id, title: &data.name, says, legend: None, table };
    figure(told, Frame::all(48.0).map(Frame::without_axis), draw)
}
