//! The Merkle tree of RFC 6962 over SHA-256: hashes, proofs and their verification. Hashes are kept in tiles: level `l` holds the hashes of complete
//! subtrees of `256^l` entries, 256 to a tile.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

/// A SHA-256 hash.
pub type Hash = [u8; 32];

/// Hashes in a full tile.
pub const WIDTH: u64 = 256;
/// Binary levels of the tree in one level of tiles.
const HEIGHT: u32 = 8;

/// A proof that proves nothing, or a tree that is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unproven {
    /// A hash that the question needs.
    #[error("tile {0}/{1} is missing, or too short")]
    Tile(u8, u64),
    /// Index and size do not fit each other.
    #[error("there is no entry {0} in a tree of {1}")]
    Outside(u64, u64),
    /// The proof does not have as many hashes as it must.
    #[error("the proof has another length than its tree asks for")]
    Length,
    /// The proof leads to another root.
    #[error("the proof leads to another root than the checkpoint has")]
    Root,
}

/// The hash of an entry.
#[must_use]
pub fn leaf_hash(entry: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(entry).finalize().into()
}

/// The hash of two subtrees.
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// The root of the tree without entries.
#[must_use]
pub fn empty_root() -> Hash {
    Sha256::digest([]).into()
}

/// Where a tile is: its level and its place in the level.
pub type TileId = (u8, u64);

/// The tile levels of a tree of this size that hold any hash.
fn levels(size: u64) -> impl Iterator<Item = u8> {
    (0..8_u8).take_while(move |level| size >> (HEIGHT * u32::from(*level)) > 0)
}

/// How many hashes level `level` has in a tree of this size.
#[must_use]
pub fn hashes(size: u64, level: u8) -> u64 {
    size >> (HEIGHT * u32::from(level))
}

/// Some of the tiles of a tree. What is asked of it needs the tiles that [`Tiles::edge`] and [`Tiles::around`] name.
#[derive(Debug, Clone, Default)]
pub struct Tiles {
    tiles: BTreeMap<TileId, Vec<Hash>>,
}

impl Tiles {
    /// The tiles at the right edge of a tree of this size: enough to know its root and to make it grow.
    #[must_use]
    pub fn edge(size: u64) -> Vec<TileId> {
        levels(size).filter(|level| !hashes(size, *level).is_multiple_of(WIDTH)).map(|level| (level, hashes(size, level) / WIDTH)).collect()
    }

    /// The tiles around an entry: with those of the edge enough to prove that it is in the tree.
    #[must_use]
    pub fn around(index: u64, size: u64) -> Vec<TileId> {
        levels(size).map(|level| (level, hashes(index, level) / WIDTH)).filter(|(level, at)| at * WIDTH < hashes(size, *level)).collect()
    }

    /// Puts a tile in its place.
    pub fn insert(&mut self, id: TileId, hashes: Vec<Hash>) {
        self.tiles.insert(id, hashes);
    }

    /// A tile.
    #[must_use]
    pub fn get(&self, id: TileId) -> Option<&[Hash]> {
        self.tiles.get(&id).map(Vec::as_slice)
    }

    /// Appends the hash of entry `index`, the first that is not in the tree yet. `changed` is told every tile that grew.
    ///
    /// # Errors
    /// When the edge is not the one of a tree of `index` entries.
    pub fn push(&mut self, index: u64, hash: Hash, mut changed: impl FnMut(TileId)) -> Result<(), Unproven> {
        let (mut at, mut hash) = (index, hash);
        for level in 0.. {
            let id = (level, at / WIDTH);
            let tile = self.tiles.entry(id).or_default();
            if tile.len() as u64 != at % WIDTH {
                return Err(Unproven::Tile(level, at / WIDTH));
            }
            tile.push(hash);
            changed(id);
            if tile.len() as u64 != WIDTH {
                break;
            }
            hash = whole(tile);
            at /= WIDTH;
        }
        Ok(())
    }

    /// Takes full tiles out, which no appending needs any more.
    pub fn take_full(&mut self) -> BTreeMap<TileId, Vec<Hash>> {
        let (full, growing) = std::mem::take(&mut self.tiles).into_iter().partition(|(_, tile)| tile.len() as u64 == WIDTH);
        self.tiles = growing;
        full
    }

    /// The hash of the complete subtree of `2^height` entries that begins with entry `first`.
    fn node(&self, height: u32, first: u64) -> Result<Hash, Unproven> {
        let level = u8::try_from(height / HEIGHT).unwrap_or(u8::MAX);
        let at = first >> (HEIGHT * u32::from(level));
        let id = (level, at / WIDTH);
        let from = usize::try_from(at % WIDTH).unwrap_or(usize::MAX);
        let part = self.tiles.get(&id).and_then(|tile| tile.get(from..from + (1 << (height % HEIGHT))));
        part.map(whole).ok_or(Unproven::Tile(id.0, id.1))
    }

    /// The hash over entries `from` to before `to`.
    fn range(&self, from: u64, to: u64) -> Result<Hash, Unproven> {
        let length = to - from;
        if length.is_power_of_two() && from.is_multiple_of(length) {
            return self.node(length.trailing_zeros(), from);
        }
        let middle = from + split(length);
        Ok(node_hash(&self.range(from, middle)?, &self.range(middle, to)?))
    }

    /// The root of the first `size` entries.
    ///
    /// # Errors
    /// When a tile of its edge is missing.
    pub fn root(&self, size: u64) -> Result<Hash, Unproven> {
        if size == 0 { Ok(empty_root()) } else { self.range(0, size) }
    }

    /// The proof that entry `index` is among the first `size`.
    ///
    /// # Errors
    /// When it cannot be, or a tile is missing.
    pub fn inclusion(&self, index: u64, size: u64) -> Result<Vec<Hash>, Unproven> {
        if index >= size {
            return Err(Unproven::Outside(index, size));
        }
        let (mut from, mut to, mut path) = (0, size, Vec::new());
        while to - from > 1 {
            let middle = from + split(to - from);
            if index < middle {
                path.push(self.range(middle, to)?);
                to = middle;
            } else {
                path.push(self.range(from, middle)?);
                from = middle;
            }
        }
        path.reverse();
        Ok(path)
    }
}

/// The largest power of two below `length`.
fn split(length: u64) -> u64 {
    1 << (length - 1).ilog2()
}

/// The hash over the hashes of a whole subtree.
fn whole(hashes: &[Hash]) -> Hash {
    let mut row = hashes.to_vec();
    while row.len() > 1 {
        row = row.chunks(2).map(|pair| if let [left, right] = pair { node_hash(left, right) } else { pair[0] }).collect();
    }
    row.first().copied().unwrap_or_else(empty_root)
}

/// Whether the path proves that the entry with this hash is entry `index` of the tree of `size` entries with this root (RFC 9162, 2.1.3.2).
///
/// # Errors
/// [`Unproven`], when it does not.
pub fn verify_inclusion(index: u64, size: u64, leaf: &Hash, path: &[Hash], root: &Hash) -> Result<(), Unproven> {
    if index >= size {
        return Err(Unproven::Outside(index, size));
    }
    let (mut at, mut last, mut hash) = (index, size - 1, *leaf);
    for sibling in path {
        if last == 0 {
            return Err(Unproven::Length);
        }
        if at & 1 == 1 || at == last {
            hash = node_hash(sibling, &hash);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        at >>= 1;
        last >>= 1;
    }
    if last != 0 {
        return Err(Unproven::Length);
    }
    if hash == *root { Ok(()) } else { Err(Unproven::Root) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, word for word, without any tile.
    fn by_definition(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => empty_root(),
            [leaf] => *leaf,
            _ => {
                let (left, right) = leaves.split_at(usize::try_from(split(leaves.len() as u64)).unwrap());
                node_hash(&by_definition(left), &by_definition(right))
            }
        }
    }

    fn leaf(i: u64) -> Hash {
        leaf_hash(format!("entry {i}").as_bytes())
    }

    fn tree(size: u64) -> Tiles {
        let mut tiles = Tiles::default();
        (0..size).for_each(|i| tiles.push(i, leaf(i), |_| {}).unwrap());
        tiles
    }

    #[test]
    fn constants_are_those_of_rfc_6962() {
        assert_eq!(hex::encode(empty_root()), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(hex::encode(leaf_hash(b"")), "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d");
    }

    #[test]
    fn what_independent_code_says_of_the_same_entries() {
        for size in [1, 2, 3, 255, 256, 257, 511, 513, 70_000] {
            let mut stored = Vec::new();
            for i in 0..size {
                let entry = format!("entry {i}");
                let more = tlog_tiles::stored_hashes(i, entry.as_bytes(), &Stored(&stored)).unwrap();
                stored.extend(more);
            }
            let theirs = tlog_tiles::tree_hash(size, &Stored(&stored)).unwrap();
            let (ours, root) = (tree(size), tree(size).root(size).unwrap());
            assert_eq!(theirs.0, root, "{size}");
            for index in [0, size / 3, size / 2, size - 1] {
                let path = ours.inclusion(index, size).unwrap();
                let proof = tlog_tiles::prove_record(size, index, &Stored(&stored)).unwrap();
                assert_eq!(proof.iter().map(|hash| hash.0).collect::<Vec<_>>(), path, "{index} of {size}");
                tlog_tiles::check_record(&proof, size, theirs, index, tlog_tiles::record_hash(format!("entry {index}").as_bytes()))
                    .unwrap();
            }
        }
    }

    struct Stored<'a>(&'a [tlog_tiles::Hash]);

    impl tlog_tiles::HashReader for Stored<'_> {
        fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog_tiles::Hash>, tlog_tiles::Error> {
            Ok(indexes.iter().map(|i| self.0[usize::try_from(*i).unwrap()]).collect())
        }
    }

    #[test]
    fn a_tree_goes_on_from_its_edge_and_proves_with_the_tiles_named() {
        for size in [1, 255, 256, 257, 65_535, 65_536, 65_537, 66_000] {
            let all = tree(size);
            let only = |ids: Vec<TileId>| {
                let mut some = Tiles::default();
                ids.into_iter().filter_map(|id| Some((id, all.get(id)?.to_vec()))).for_each(|(id, tile)| some.insert(id, tile));
                some
            };
            let mut edge = only(Tiles::edge(size));
            assert_eq!(edge.root(size), all.root(size), "{size}");
            edge.push(size, leaf(size), |_| {}).unwrap();
            assert!(edge.push(size, leaf(size), |_| {}).is_err(), "not twice in one place");
            for index in [0, size / 2, size - 1] {
                let path = only([Tiles::edge(size), Tiles::around(index, size)].concat()).inclusion(index, size).unwrap();
                assert_eq!(path, all.inclusion(index, size).unwrap());
                verify_inclusion(index, size, &leaf(index), &path, &all.root(size).unwrap()).unwrap();
            }
        }
    }

    proptest! {
        #[test]
        fn a_proof_proves_that_entry_and_no_other(size in 1_u64..600, index in 0_u64..600, other in 0_u64..600, bit in 0_usize..256) {
            prop_assume!(index < size && other < size && other != index);
            let tiles = tree(size);
            let leaves: Vec<Hash> = (0..size).map(leaf).collect();
            let root = by_definition(&leaves);
            prop_assert_eq!(tiles.root(size).unwrap(), root);
            let path = tiles.inclusion(index, size).unwrap();
            verify_inclusion(index, size, &leaf(index), &path, &root).unwrap();
            prop_assert!(verify_inclusion(other, size, &leaf(index), &path, &root).is_err());
            prop_assert!(verify_inclusion(index, size, &leaf(other), &path, &root).is_err());
            prop_assert!(verify_inclusion(index, size, &leaf(index), &path[1..], &root).is_err());
            prop_assert!(verify_inclusion(index, size, &leaf(index), &[path.clone(), vec![root]].concat(), &root).is_err());
            let mut wrong = path;
            let hash = bit % wrong.len();
            wrong[hash][bit / 8] ^= 1 << (bit % 8);
            prop_assert!(verify_inclusion(index, size, &leaf(index), &wrong, &root).is_err());
        }
    }
}
