//! How the purge of one large account goes on: by index, slice by slice, or from block to block of the table. Pure.
//!
//! The index is the better way as long as the entries of what is deleted already can be forgotten. While anybody holds a snapshot from before, each slice
//! looks all of them up again, and the whole becomes quadratic; from block to block each record is met once, among those of everybody else. Which of
//! the two takes longer for a record is measured. Neither proves anything: what comes up behind is found by the index at the end, and whether
//! anything is left by the separate look.

use std::time::Duration;

/// A stretch has no more blocks: 16 MB.
const LONGEST: i64 = 2_048;
/// By blocks is tried when a slice took so many times as long for each record as the best one did.
const SLOWER: u128 = 2;

/// How far one job has come in one target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    /// The first block that is left.
    next: i64,
    /// Records that the last batch found, and in how many blocks.
    records: i64,
    blocks: i64,
    /// Nanoseconds for a record: of the best slice by index, and of the last.
    best: u128,
    last: u128,
    /// The next batch goes by blocks.
    by_blocks: bool,
}

fn each(took: Duration, records: i64) -> u128 {
    took.as_nanos() / u128::from(records.max(1).unsigned_abs())
}

impl Cursor {
    /// After a slice by index that found so many records in these blocks, the first and the last.
    pub(super) fn after_slice(before: Option<Self>, records: i64, (first, last): (i64, i64), took: Duration) -> Self {
        let each = each(took, records);
        let best = before.map_or(each, |before| before.best.min(each));
        // The last block may have more.
        Self { next: last, records, blocks: last - first + 1, best, last: each, by_blocks: each > SLOWER * best }
    }

    /// The next blocks, the first and the first after them, if blocks are the way: as many as have nearly `budget` records if they are like the last ones,
    /// and no more than twice as many as those.
    pub(super) fn stretch(self, budget: i64) -> Option<(i64, i64)> {
        let blocks = (budget * 9 / 10).saturating_mul(self.blocks) / self.records.max(1);
        self.by_blocks.then(|| (self.next, self.next + blocks.clamp(1, (2 * self.blocks).min(LONGEST))))
    }

    /// After that stretch had so many records. One that was no better than the slice before is the last, until slices have become slower once more.
    pub(super) fn after_stretch(self, (from, to): (i64, i64), records: i64, took: Duration) -> Self {
        let by_blocks = each(took, records) < self.last;
        let best = if by_blocks { self.best } else { self.last };
        Self { next: to, records, blocks: to - from, best, by_blocks, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(n: u64) -> Duration {
        Duration::from_micros(n)
    }

    #[test]
    fn an_account_goes_by_index_until_that_takes_twice_as_long() {
        let first = Cursor::after_slice(None, 100, (0, 49), micros(1_000));
        assert_eq!(first.stretch(100), None);
        let twice = Cursor::after_slice(Some(first), 100, (49, 99), micros(2_000));
        assert_eq!(twice.stretch(100), None, "twice is not more than twice");
        let slow = Cursor::after_slice(Some(twice), 100, (100, 149), micros(2_001));
        assert_eq!(slow.stretch(100), Some((149, 194)), "two records a block, nine tenths of the budget");
        assert_eq!(slow.stretch(100_000), Some((149, 249)), "twice as far at most");
        assert_eq!(slow.stretch(1), Some((149, 150)), "one block at least");
        let sparse = Cursor::after_slice(Some(first), 100, (0, 1_000_000), micros(9_000));
        assert_eq!(sparse.stretch(100), Some((1_000_000, 1_002_048)));
    }

    #[test]
    fn by_blocks_it_goes_on_as_long_as_that_is_faster_and_is_tried_again_when_slices_have_doubled() {
        let first = Cursor::after_slice(None, 100, (0, 99), micros(1_000));
        let slow = Cursor::after_slice(Some(first), 100, (99, 199), micros(5_000));
        let stretch = slow.stretch(100).expect("slow");
        let faster = slow.after_stretch(stretch, 80, micros(80 * 49));
        assert_eq!(faster.stretch(100).map(|(from, _)| from), Some(stretch.1));
        let slower = slow.after_stretch(stretch, 80, micros(80 * 50));
        assert_eq!(slower.stretch(100), None);
        assert_eq!(Cursor::after_slice(Some(slower), 100, (0, 9), micros(10_000)).stretch(100), None);
        assert!(Cursor::after_slice(Some(slower), 100, (0, 9), micros(10_100)).stretch(100).is_some());
    }
}
