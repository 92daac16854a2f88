//! How a ledger lies in files (C2SP tlog-tiles): paths of tiles and the bytes in them.

use super::tree::{Hash, WIDTH};

/// Where the checkpoint lies.
pub const CHECKPOINT: &str = "checkpoint";

/// The path of the tile `index` of level `level` with so many hashes: `tile/0/x001/067.p/3`.
#[must_use]
pub fn hash_path(level: u8, index: u64, width: u64) -> String {
    format!("tile/{level}/{}", place(index, width))
}

/// The path of the bundle `index` of so many entries: `tile/entries/x001/067`.
#[must_use]
pub fn entries_path(index: u64, width: u64) -> String {
    format!("tile/entries/{}", place(index, width))
}

/// Three digits at a time, each but the last group with an `x` before it; a part of a tile says how much there is.
fn place(index: u64, width: u64) -> String {
    let mut groups = vec![format!("{:03}", index % 1_000)];
    let mut rest = index / 1_000;
    while rest > 0 {
        groups.push(format!("x{:03}", rest % 1_000));
        rest /= 1_000;
    }
    groups.reverse();
    let part = if width == WIDTH { String::new() } else { format!(".p/{width}") };
    format!("{}{part}", groups.join("/"))
}

/// The bytes of a tile.
#[must_use]
pub fn hash_bytes(hashes: &[Hash]) -> Vec<u8> {
    hashes.concat()
}

/// The hashes in the bytes of a tile; `None` when they are no whole number of hashes.
#[must_use]
pub fn hashes_of(bytes: &[u8]) -> Option<Vec<Hash>> {
    let (hashes, rest) = bytes.as_chunks::<32>();
    rest.is_empty().then(|| hashes.to_vec())
}

/// The bytes of a bundle of entries: each behind its length in two bytes.
#[must_use]
pub fn bundle(entries: &[Vec<u8>]) -> Vec<u8> {
    let length = |entry: &Vec<u8>| u16::try_from(entry.len()).unwrap_or(u16::MAX).to_be_bytes();
    entries.iter().flat_map(|entry| [length(entry).as_slice(), entry.as_slice()].concat()).collect()
}

/// The entries of a bundle; `None` when its bytes end in the middle of one.
#[must_use]
pub fn entries_of(mut bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut entries = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<2>() {
        let (entry, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
        entries.push(entry.to_vec());
        bytes = rest;
    }
    bytes.is_empty().then_some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_independent_code() {
        for (level, index, width) in [(0, 0, 256), (0, 67, 3), (1, 1_067, 256), (3, 1_234_067, 255), (0, 999, 1), (0, 1_000, 256)] {
            let tile = tlog_tiles::Tile::new(8, level, index, u32::try_from(width).unwrap(), false);
            // That code names the height of its tiles first.
            assert_eq!(hash_path(level, index, width), tile.path().replace("tile/8/", "tile/"));
        }
        assert_eq!(entries_path(1_234_067, 8), "tile/entries/x001/x234/067.p/8");
    }

    #[test]
    fn bundles_come_back_and_torn_ones_do_not() {
        let entries = vec![b"one".to_vec(), Vec::new(), vec![7; 300]];
        let bytes = bundle(&entries);
        assert_eq!(entries_of(&bytes), Some(entries));
        assert_eq!(entries_of(&bytes[..bytes.len() - 1]), None);
        assert_eq!(entries_of(&[0]), None);
        assert_eq!(hashes_of(&[0; 33]), None);
        assert_eq!(hashes_of(&hash_bytes(&[[1; 32], [2; 32]])), Some(vec![[1; 32], [2; 32]]));
    }
}
