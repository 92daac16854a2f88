//! How much a full comparison takes at once: slices short enough that none keeps an old snapshot or makes the platform wait.

use std::time::{Duration, Instant};

/// A slice that took less may be twice as long.
const SHORT: Duration = Duration::from_millis(50);
/// One that took more is followed by one half as long.
const LONG: Duration = Duration::from_millis(120);

/// The length of the next slice, in powers of two so that few statements are prepared.
#[derive(Debug)]
pub(super) struct Stride {
    pub(super) now: i64,
    least: i64,
    most: i64,
    began: Instant,
}

impl Stride {
    /// Never shorter than the first: where very many rows share one instant, a slice reads all of them, however few it takes.
    pub(super) fn new(first: i64, most: i64) -> Self {
        Self { now: first, least: first, most, began: Instant::now() }
    }

    pub(super) fn begin(&mut self) {
        self.began = Instant::now();
    }

    /// The slice has ended. A single hiccup halves once.
    pub(super) fn end(&mut self) {
        let took = self.began.elapsed();
        if took < SHORT {
            self.now = (self.now * 2).min(self.most);
        } else if took > LONG {
            self.now = (self.now / 2).max(self.least);
        }
    }
}
