//! Line charts as SVG: two axes, a grid, names at the lines; readable at 700 pixels, on a light ground.

use std::fmt::Write as _;

const WIDTH: f64 = 700.0;
const HEIGHT: f64 = 420.0;
/// The area of the lines: left, right, top, bottom.
const LEFT: f64 = 78.0;
const RIGHT: f64 = 560.0;
const TOP: f64 = 52.0;
const BOTTOM: f64 = 358.0;
const COLOURS: [&str; 4] = ["#1f5fa8", "#c2500a", "#2e7d4f", "#7a3b94"];

/// One line.
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// A chart. The horizontal axis is logarithmic, the vertical one when `log` says so, and from zero otherwise.
pub(crate) struct Chart<'a> {
    pub(crate) title: &'a str,
    pub(crate) x: &'a str,
    pub(crate) y: &'a str,
    pub(crate) log: bool,
    pub(crate) lines: Vec<Line>,
}

/// One axis: from the values to pixels, and where its marks are.
struct Axis {
    log: bool,
    low: f64,
    high: f64,
    marks: Vec<f64>,
}

impl Axis {
    /// Whole powers of ten around the values.
    fn logarithmic(values: &[f64]) -> Self {
        let (least, most) = bounds(values);
        let (low, high) = (least.log10().floor(), most.log10().ceil().max(least.log10().floor() + 1.0));
        let marks = (0..20).map(|i| low + f64::from(i)).take_while(|m| *m <= high + 0.01).map(|m| 10_f64.powf(m)).collect();
        Self { log: true, low, high, marks }
    }

    /// The values themselves are the marks.
    fn of_values(values: &[f64]) -> Self {
        let (least, most) = bounds(values);
        let mut marks = values.to_vec();
        marks.sort_by(f64::total_cmp);
        marks.dedup();
        Self { log: true, low: least.log10(), high: most.log10(), marks }
    }

    /// From zero, in round steps.
    fn linear(values: &[f64]) -> Self {
        let (_, most) = bounds(values);
        let rough = most / 5.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|s| s * power).find(|s| *s >= rough).unwrap_or(rough);
        let high = (most / step).ceil() * step;
        Self { log: false, low: 0.0, high, marks: (0..12).map(|i| f64::from(i) * step).take_while(|m| *m <= high + step / 2.0).collect() }
    }

    fn place(&self, value: f64, from: f64, to: f64) -> f64 {
        let value = if self.log { value.log10() } else { value };
        from + (value - self.low) / (self.high - self.low) * (to - from)
    }
}

fn bounds(values: &[f64]) -> (f64, f64) {
    (values.iter().copied().fold(f64::INFINITY, f64::min), values.iter().copied().fold(f64::NEG_INFINITY, f64::max))
}

/// `20000` as `20 k`.
fn short(value: f64) -> String {
    let (scaled, unit) = match value {
        v if v >= 1e6 => (v / 1e6, " M"),
        v if v >= 1e3 => (v / 1e3, " k"),
        v => (v, ""),
    };
    format!("{}{unit}", (scaled * 1e3).round() / 1e3)
}

impl Chart<'_> {
    pub(crate) fn svg(&self) -> String {
        let all = |pick: fn(&(f64, f64)) -> f64| self.lines.iter().flat_map(|l| l.points.iter().map(pick)).collect::<Vec<f64>>();
        let (xs, ys) = (all(|p| p.0), all(|p| p.1));
        let x = Axis::of_values(&xs);
        let y = if self.log { Axis::logarithmic(&ys) } else { Axis::linear(&ys) };
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
             font-family=\"system-ui, sans-serif\" font-size=\"13\" fill=\"#333\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fdfdfb\"/>\n\
             <text x=\"{LEFT}\" y=\"28\" font-size=\"16\" font-weight=\"600\">{}</text>\n",
            self.title
        );
        for mark in &x.marks {
            let at = x.place(*mark, LEFT, RIGHT);
            let label = short(*mark);
            let _ = writeln!(out, "<path d=\"M{at:.1} {TOP}V{BOTTOM}\" stroke=\"#e6e6e0\"/>");
            let _ = writeln!(out, "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>", BOTTOM + 20.0);
        }
        for mark in &y.marks {
            let at = y.place(*mark, BOTTOM, TOP);
            let label = short(*mark);
            let _ = writeln!(out, "<path d=\"M{LEFT} {at:.1}H{RIGHT}\" stroke=\"#e6e6e0\"/>");
            let _ = writeln!(out, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>", LEFT - 8.0, at + 4.5);
        }
        let _ = writeln!(out, "<path d=\"M{LEFT} {TOP}V{BOTTOM}H{RIGHT}\" fill=\"none\" stroke=\"#555\"/>");
        let middle = f64::midpoint(LEFT, RIGHT);
        let _ = writeln!(out, "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{}</text>", BOTTOM + 46.0, self.x);
        let half = f64::midpoint(TOP, BOTTOM);
        let _ = writeln!(out, "<text transform=\"translate(20 {half}) rotate(-90)\" text-anchor=\"middle\">{}</text>", self.y);
        self.draw(&mut out, &x, &y);
        out.push_str("</svg>\n");
        out
    }

    fn draw(&self, out: &mut String, x: &Axis, y: &Axis) {
        let mut names: Vec<(f64, &str, &str)> = Vec::new();
        for (line, colour) in self.lines.iter().zip(COLOURS.iter().cycle()) {
            let places: Vec<(f64, f64)> = line.points.iter().map(|p| (x.place(p.0, LEFT, RIGHT), y.place(p.1, BOTTOM, TOP))).collect();
            let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let _ = writeln!(out, "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.2\"/>", path.join(" "));
            for (x, y) in &places {
                let _ = writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.4\" fill=\"{colour}\"/>");
            }
            if let Some((_, y)) = places.last() {
                names.push((*y, &line.name, colour));
            }
        }
        // Names stand beside the last points, far enough from each other.
        names.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut free = TOP;
        for (at, name, colour) in names {
            let at = at.max(free);
            free = at + 18.0;
            let _ = writeln!(out, "<text x=\"{}\" y=\"{:.1}\" fill=\"{colour}\" font-weight=\"600\">{name}</text>", RIGHT + 10.0, at + 4.5);
        }
    }
}
