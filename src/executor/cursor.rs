//! Where in a table the purge of one large account has arrived: slices of it go on from block to block. Pure.
//!
//! An index tells which records are the account's, but each slice begins with it anew, among the entries of all that is deleted already; while anybody
//! holds an old snapshot each of those is looked up in the table again. A stretch of blocks is read once. It pays where the account is dense, and it
//! proves nothing: records may come up behind it. What is left at the end is found by the index, and whether anything is left by the separate look.

/// Blocks with fewer than one record in so many are read for too little.
const SPARSE: i64 = 2;

/// How far one job has come in one target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    /// The first block that is left.
    next: i64,
    /// Records that the last blocks had, and how many blocks those were.
    records: i64,
    blocks: i64,
}

impl Cursor {
    /// After a slice by index that found so many records in these blocks, in their order; `None` where the index is the better way.
    pub(super) fn after_slice(records: i64, (first, last): (i64, i64)) -> Option<Self> {
        // The last block may have more.
        Self { next: last, records, blocks: last - first + 1 }.dense()
    }

    /// The next blocks, the first and the first after them: as many as have nearly `budget` records if they are like the last ones, and no more than twice as
    /// many as those.
    pub(super) fn stretch(self, budget: i64) -> (i64, i64) {
        let blocks = (budget * 9 / 10).saturating_mul(self.blocks) / self.records.max(1);
        (self.next, self.next + blocks.clamp(1, 2 * self.blocks))
    }

    /// After that stretch had so many records.
    pub(super) fn after(self, (from, to): (i64, i64), records: i64) -> Option<Self> {
        Self { next: to, records, blocks: to - from }.dense()
    }

    fn dense(self) -> Option<Self> {
        (self.records > 0 && self.records * SPARSE >= self.blocks).then_some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dense_account_goes_on_block_by_block_and_a_sparse_one_by_index() {
        let cursor = Cursor::after_slice(1_000, (10, 509)).expect("two records a block");
        assert_eq!(cursor.stretch(1_000), (509, 959), "nine tenths of the budget");
        assert_eq!(cursor.stretch(100_000), (509, 1_509), "twice as far at most");
        assert_eq!(cursor.stretch(1), (509, 510), "one block at least");
        assert_eq!(Cursor::after_slice(1_000, (0, 1_999)).map(|c| c.next), Some(1_999), "one in two blocks is enough");
        assert_eq!(Cursor::after_slice(1_000, (0, 2_000)), None);
        assert_eq!(Cursor::after_slice(0, (0, 0)), None);
    }

    #[test]
    fn a_stretch_is_followed_by_the_next_until_it_finds_little() {
        let cursor = Cursor::after_slice(100, (0, 99)).expect("one a block");
        let stretch = cursor.stretch(100);
        assert_eq!(stretch, (99, 189));
        let next = cursor.after(stretch, 180).expect("two a block");
        assert_eq!(next.stretch(100), (189, 234));
        assert_eq!(next.after((189, 234), 22), None);
        assert_eq!(next.after((189, 234), 0), None, "the end of the table, or of the account");
    }
}
