//! Records deleted on each of the last days.

use chrono::NaiveDate;
use maud::{Markup, html};

use super::{Frame, Told, bar, count_axis, day_month, figure, float, nothing, place, short, ticks};

/// Records deleted, day by day (UTC), those with none too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Daily {
    /// The oldest first.
    pub days: Vec<(NaiveDate, i64)>,
}

/// A bar for each day.
#[must_use]
pub fn daily(id: &str, data: &Daily) -> Markup {
    let (total, most) = (data.days.iter().map(|(_, records)| records).sum::<i64>(), data.days.iter().map(|(_, records)| *records).max());
    let days = data.days.len();
    let most = most.unwrap_or(0);
    if most == 0 {
        return nothing(&format!("No record was deleted in the last {days} days."));
    }
    let says = format!("{} deleted in the last {days} days, {} on the busiest.", counted(total), short(most));
    let marks = ticks(most);
    let top = float(marks.last().copied().unwrap_or(1));
    let draw = |frame: &Frame| {
        let step = (frame.right - frame.left) / place(days);
        let width = step * 0.78;
        let every = if frame.is_narrow() { 14 } else { 7 };
        html! {
            (count_axis(frame, &marks))
            @for (at, (day, records)) in data.days.iter().enumerate() {
                @let x = step.mul_add(place(at), frame.left) + (step - width) / 2.0;
                @if *records > 0 {
                    @let [x, y, w, h] = bar(frame, x, width, 0.0, float(*records) / top);
                    rect class="bar c0" x=(x) y=(y) width=(w) height=(h) { title { (day_month(*day)) ": " (records) } }
                }
                @let back = days - 1 - at;
                @if back.is_multiple_of(every) {
                    path class="tick" d=(format!("M{:.1} {:.1}v4", x + width / 2.0, frame.bottom)) {}
                    @let (class, x) = if back == 0 { ("end", frame.right) } else { ("middle", x + width / 2.0) };
                    text class=(class) x=(format!("{x:.1}")) y=(format!("{:.1}", frame.bottom + 16.0)) {
                        @if back == 0 { "today" } @else { (day_month(*day)) }
                    }
                }
            }
        }
    };
    let table = html! {
        table {
            thead { tr { th scope="col" { "day" } th scope="col" class="n" { "records deleted" } } }
            tbody {
                @for (day, records) in data.days.iter().filter(|(_, records)| *records > 0) {
                    tr { th scope="row" { (day) } td class="n" { (records) } }
                }
            }
        }
    };
    figure(Told { id, title: "Records deleted by day", says, legend: None, table }, Frame::all(205.0), draw)
}

fn counted(records: i64) -> String {
    if records == 1 { "1 record was".to_owned() } else { format!("{} records were", short(records)) }
}
