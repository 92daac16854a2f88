//! What people see on a terminal: tables, relative times, a progress bar.
//! Machines get JSON from elsewhere; nothing here decides or fetches anything.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, IsTerminal},
    sync::{PoisonError, RwLock},
};

use chrono::{DateTime, TimeDelta, Utc};
use comfy_table::{CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Longest cell of a table, in characters: an account id of 10,000 must not pad every row to 10,000.
const CELL: usize = 160;

/// The text with everything that a terminal would obey instead of show written as an escape: control characters,
/// line separators, invisible and direction-changing characters. A backslash is doubled, so two texts never look alike.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    if text.chars().all(|c| !obeyed(c) && c != '\\') {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\\' => shown.push_str("\\\\"),
            c if obeyed(c) => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

/// Characters that move the cursor, end a line, hide, or reverse the text around them.
pub(crate) fn obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{feff}' | '\u{180e}')
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
}

/// A table for people: as wide as the terminal, or unwrapped into a pipe. No colours. Cells are [`printable`] and cut at
/// 160 characters; columns of numbers stand to the right.
#[must_use]
pub fn table(headers: &[&str], rows: &[Vec<String>]) -> String {
    let columns = rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| size.ws_col);
    table_of_width(headers, rows, columns.filter(|&columns| columns > 0))
}

fn table_of_width(headers: &[&str], rows: &[Vec<String>], width: Option<u16>) -> String {
    let mut table = Table::new();
    let rule = LineStyle::none().fill('─').junction('─');
    table.load_style(TableStyle::new().header_separator(rule));
    if let Some(width) = width {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    table.set_header(headers.iter().copied());
    table.add_rows(rows.iter().map(|row| row.iter().map(|cell| shortened(&printable(cell)))));
    for (at, column) in table.column_iter_mut().enumerate() {
        let cells = || rows.iter().filter_map(|row| row.get(at)).filter(|cell| !cell.is_empty());
        if cells().next().is_some() && cells().all(|cell| cell.parse::<f64>().is_ok()) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(CELL) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// How far `at` is from `now`: `in 3 d 4 h`, `2 min ago`, `now` within a second.
#[must_use]
pub fn relative(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let away = at - now;
    match away.num_seconds() {
        0 => "now".to_owned(),
        1.. => format!("in {}", span(away)),
        _ => format!("{} ago", span(away)),
    }
}

/// The length of a time, sign dropped, in its one or two largest units, cut rather than rounded: `3 d 4 h`, `2 min`, `9 s`.
#[must_use]
pub fn span(length: TimeDelta) -> String {
    let seconds = length.num_seconds().unsigned_abs();
    let two = |large: u64, unit: &str, small: u64, subunit: &str| {
        let mut text = format!("{large} {unit}");
        if small > 0 {
            // Writing to a String cannot fail.
            let _ = write!(text, " {small} {subunit}");
        }
        text
    };
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => two(seconds / 3_600, "h", seconds % 3_600 / 60, "min"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
    }
}

/// Whether colours belong on this stream: it is a terminal, and nobody said `NO_COLOR`.
pub fn coloured(stream: &impl IsTerminal) -> bool {
    // A convention between terminal and program, not configuration.
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|said| said.is_empty())
}

/// The bar on the screen now, so that log lines can step around it.
static BAR: RwLock<Option<ProgressBar>> = RwLock::new(None);

/// A progress bar on stderr while a person waits. Draws nothing when stderr is not a terminal (R33); gone when dropped.
#[derive(Debug)]
pub struct Progress(ProgressBar);

impl Progress {
    /// A bar towards `total` steps, labelled `what`. One at a time.
    #[must_use]
    pub fn new(what: &str, total: u64) -> Self {
        let target = if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        let line = "{msg} {bar:30} {human_pos}/{human_len} {elapsed}";
        if let Ok(style) = ProgressStyle::with_template(line) {
            bar.set_style(style);
        }
        bar.set_message(printable(what).into_owned());
        *BAR.write().unwrap_or_else(PoisonError::into_inner) = Some(bar.clone());
        Self(bar)
    }

    /// `done` steps more.
    pub fn advance(&self, done: u64) {
        self.0.inc(done);
    }

    /// The total turned out to be another.
    pub fn set_total(&self, total: u64) {
        self.0.set_length(total);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
        *BAR.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Runs `write` with the progress bar, if there is one, out of the way.
pub(crate) fn beside_progress<T>(write: impl FnOnce() -> T) -> T {
    match &*BAR.read().unwrap_or_else(PoisonError::into_inner) {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(cells: &[&[&str]]) -> Vec<Vec<String>> {
        cells.iter().map(|row| row.iter().map(ToString::to_string).collect()).collect()
    }

    #[test]
    fn control_characters_are_shown_and_never_obeyed() {
        assert_eq!(printable("a\nb\u{1b}[31m\u{0}\u{85}"), "a\\nb\\u{1b}[31m\\u{0}\\u{85}");
        assert_eq!(printable("abc\u{202e}fdp"), "abc\\u{202e}fdp");
        assert!(matches!(printable("Zoë 张伟 🙂 'x'"), Cow::Borrowed(_)));
    }

    #[test]
    fn a_line_feed_and_its_escape_do_not_look_alike() {
        assert_ne!(printable("a\nb"), printable("a\\nb"));
    }

    #[test]
    fn a_table_is_aligned_and_carries_no_escape_codes() {
        let text = table_of_width(&["account", "records"], &rows(&[&["acme", "7"], &["evil\u{1b}[2J\nid", "1200"]]), None);
        let want = [
            " account             records",
            "─────────────────────────────",
            " acme                      7",
            " evil\\u{1b}[2J\\nid      1200",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), want);
    }

    #[test]
    fn a_narrow_terminal_wraps_instead_of_running_over() {
        let long = "word ".repeat(30);
        let text = table_of_width(&["account", "why"], &rows(&[&["acme", &long]]), Some(40));
        assert!(text.lines().all(|line| line.chars().count() <= 40), "{text}");
        assert_eq!(text.matches("word").count(), 30, "{text}");
    }

    #[test]
    fn a_giant_cell_is_cut_and_a_table_of_nothing_is_its_header() {
        let text = table_of_width(&["account"], &rows(&[&[&"x".repeat(10_000)]]), None);
        assert!(text.lines().all(|line| line.chars().count() < 170));
        assert!(text.contains('…'));
        assert!(table_of_width(&["account"], &[], None).contains("account"));
    }

    #[test]
    fn times_are_told_in_their_two_largest_units() {
        let now: DateTime<Utc> = "2026-01-01T00:00:00Z".parse().unwrap();
        for (seconds, want) in [
            (0, "now"),
            (1, "in 1 s"),
            (-59, "59 s ago"),
            (-150, "2 min ago"),
            (3_600, "in 1 h"),
            (3_661, "in 1 h 1 min"),
            (86_399, "in 23 h 59 min"),
            (273_600, "in 3 d 4 h"),
            (-2_592_000, "30 d ago"),
        ] {
            assert_eq!(relative(now + TimeDelta::seconds(seconds), now), want, "{seconds}");
        }
    }

    #[test]
    fn a_bar_that_nobody_watches_draws_nothing_and_lets_lines_pass() {
        let bar = Progress(ProgressBar::with_draw_target(Some(9), ProgressDrawTarget::hidden()));
        bar.advance(3);
        bar.set_total(12);
        assert_eq!((bar.0.position(), bar.0.length()), (3, Some(12)));
        assert_eq!(beside_progress(|| 7), 7);
    }
}
