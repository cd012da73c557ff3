//! Piece hashes: what each piece must hash to, and how they merge to the digest.
//!
//! Invariant: a list of piece hashes that [`merge`] turns into a digest cannot be forged, so it
//! may come from anybody. Pieces are BLAKE3 subtrees (the BLAKE3 paper, section 2.1; crate
//! `blake3`, module `hazmat`); a content of one piece has its digest as the only piece hash.

use std::io::{self, Read};

use blake3::{
    Hasher,
    hazmat::{HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root},
};
use vecino_rest::{Digest, piece::Layout};

/// Read and hashed at a time: large enough for BLAKE3 to run at full speed.
const BLOCK: usize = 1 << 18;

/// The hash of piece `index`, whose bytes are `piece`.
pub fn piece_hash(layout: &Layout, index: u32, piece: &[u8]) -> Digest {
    let mut hasher = PieceHasher::new(layout, index);
    hasher.update(piece);
    hasher.finish(layout)
}

/// Hashes a piece as its bytes come.
#[derive(Debug, Clone)]
pub struct PieceHasher(Hasher);

impl PieceHasher {
    /// For piece `index`.
    pub fn new(layout: &Layout, index: u32) -> Self {
        let mut hasher = Hasher::new();
        if layout.pieces() > 1 {
            hasher.set_input_offset(layout.range(index).start);
        }
        Self(hasher)
    }

    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of all of them.
    pub fn finish(&self, layout: &Layout) -> Digest {
        if layout.pieces() > 1 {
            Digest::from_bytes(self.0.finalize_non_root())
        } else {
            self.0.finalize().into()
        }
    }
}

/// The digest that `pieces` merge to; `None` when their number does not fit `layout`.
pub fn merge(layout: &Layout, pieces: &[Digest]) -> Option<Digest> {
    if pieces.len() != layout.pieces() as usize {
        return None;
    }
    if let [only] = pieces {
        return Some(*only);
    }
    let (left, right) = split(layout, layout.size(), pieces);
    Some(merge_subtrees_root(&left, &right, Mode::Hash).into())
}

/// Chaining values of the two subtrees of a tree over `bytes` bytes in more than one piece.
fn split(layout: &Layout, bytes: u64, pieces: &[Digest]) -> ([u8; 32], [u8; 32]) {
    let left_bytes = left_subtree_len(bytes);
    // A left subtree is a power of two of at least one piece here, so it ends between pieces.
    let left_pieces = (left_bytes / layout.piece_size()) as usize;
    let (left, right) = pieces.split_at(left_pieces);
    (
        subtree(layout, left_bytes, left),
        subtree(layout, bytes - left_bytes, right),
    )
}

fn subtree(layout: &Layout, bytes: u64, pieces: &[Digest]) -> [u8; 32] {
    if let [only] = pieces {
        return *only.as_bytes();
    }
    let (left, right) = split(layout, bytes, pieces);
    merge_subtrees_non_root(&left, &right, Mode::Hash)
}

/// The piece hashes of a content whose bytes come in order, in blocks of any size.
#[derive(Debug)]
pub struct PieceHashes {
    layout: Layout,
    bytes: u64,
    hasher: PieceHasher,
    pieces: Vec<Digest>,
}

impl PieceHashes {
    /// No byte of the content came yet.
    pub fn new(layout: Layout) -> Self {
        Self {
            hasher: PieceHasher::new(&layout, 0),
            layout,
            bytes: 0,
            pieces: Vec::new(),
        }
    }

    /// How many bytes came.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next bytes; false when there are more than the layout has.
    pub fn update(&mut self, mut block: &[u8]) -> bool {
        while !block.is_empty() {
            let index = self.pieces.len() as u32;
            if index >= self.layout.pieces() {
                return false;
            }
            let left = self.layout.range(index).end - self.bytes;
            let taken = usize::try_from(left).map_or(block.len(), |left| left.min(block.len()));
            if taken == 0 {
                return false;
            }
            self.hasher.update(&block[..taken]);
            self.bytes += taken as u64;
            block = &block[taken..];
            if taken as u64 == left {
                self.next_piece();
            }
        }
        true
    }

    fn next_piece(&mut self) {
        self.pieces.push(self.hasher.finish(&self.layout));
        let index = self.pieces.len() as u32;
        if index < self.layout.pieces() {
            self.hasher = PieceHasher::new(&self.layout, index);
        }
    }

    /// The digest and the piece hashes; `None` when bytes are missing.
    pub fn finish(&mut self) -> Option<(Digest, Vec<Digest>)> {
        if self.bytes != self.layout.size() {
            return None;
        }
        // The empty content has one piece, of no byte.
        if self.pieces.is_empty() {
            self.next_piece();
        }
        let pieces = std::mem::take(&mut self.pieces);
        Some((merge(&self.layout, &pieces)?, pieces))
    }
}

/// Hashes all that `source` gives, which must be exactly the bytes of `layout`: the piece hashes
/// in order. `UnexpectedEof` or `InvalidData` when there are fewer or more.
pub fn hash_pieces(layout: &Layout, mut source: impl Read) -> io::Result<Vec<Digest>> {
    let mut block = vec![0; BLOCK.min(layout.size().max(1) as usize)];
    let mut pieces = Vec::with_capacity(layout.pieces() as usize);
    for index in 0..layout.pieces() {
        let mut hasher = PieceHasher::new(layout, index);
        let range = layout.range(index);
        let mut left = range.end - range.start;
        while left > 0 {
            let wanted = usize::try_from(left).map_or(block.len(), |left| left.min(block.len()));
            source.read_exact(&mut block[..wanted])?;
            hasher.update(&block[..wanted]);
            left -= wanted as u64;
        }
        pieces.push(hasher.finish(layout));
    }
    match source.read(&mut block[..1])? {
        0 => Ok(pieces),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "longer than expected",
        )),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vecino_rest::piece::MIN_PIECE;

    use super::*;

    fn content(size: usize) -> Vec<u8> {
        (0..size).map(|i| (i * 31 % 251) as u8).collect()
    }

    #[test]
    fn pieces_merge_to_the_digest_at_every_kind_of_size() {
        let piece = MIN_PIECE as usize;
        for size in [
            0,
            1,
            1024,
            piece - 1,
            piece,
            piece + 1,
            2 * piece,
            3 * piece + 17,
            5 * piece,
            7 * piece + 1,
        ] {
            let content = content(size);
            let layout = Layout::of(size as u64).expect("small");
            let pieces = hash_pieces(&layout, content.as_slice()).expect("in memory");
            assert_eq!(
                merge(&layout, &pieces),
                Some(Digest::of(&content)),
                "{size}"
            );
            for (index, hash) in (0..).zip(&pieces) {
                let range = layout.range(index);
                let bytes = &content[range.start as usize..range.end as usize];
                assert_eq!(piece_hash(&layout, index, bytes), *hash);
            }
        }
    }

    #[test]
    fn a_source_of_another_length_is_an_error() {
        let layout = Layout::of(10).expect("small");
        assert!(hash_pieces(&layout, [0; 9].as_slice()).is_err());
        assert!(hash_pieces(&layout, [0; 11].as_slice()).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn one_wrong_bit_changes_its_piece_and_the_merge(size in 1..4 * MIN_PIECE, at in any::<prop::sample::Index>(), bit in 0..8u8) {
            let mut content = content(size as usize);
            let layout = Layout::of(size).expect("small");
            let right = hash_pieces(&layout, content.as_slice()).expect("in memory");
            let at = at.index(content.len());
            content[at] ^= 1 << bit;
            let wrong = hash_pieces(&layout, content.as_slice()).expect("in memory");
            let piece = layout.piece_at(at as u64) as usize;
            for index in 0..right.len() {
                prop_assert_eq!(right[index] == wrong[index], index != piece);
            }
            prop_assert_ne!(merge(&layout, &right), merge(&layout, &wrong));
        }
    }
}
