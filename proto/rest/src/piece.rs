//! Piece arithmetic: the shape of a content follows from its size alone, so every peer agrees
//! on it without a word.

use std::ops::Range;

/// Smallest piece, in bytes.
pub const MIN_PIECE: u64 = 1 << 18;
/// Largest piece, in bytes: bounds what one piece costs to hold or to fetch again.
pub const MAX_PIECE: u64 = 1 << 24;
/// A content of up to this many smallest pieces is cut into smallest pieces.
const PIECES_WANTED: u64 = 1024;
/// Largest content, in bytes (16 TiB): its piece hashes are 2^20.
pub const MAX_SIZE: u64 = 1 << 44;

/// How a content of a given size is cut into pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    size: u64,
    piece_size: u64,
}

impl Layout {
    /// The layout of a content of `size` bytes; `None` above [`MAX_SIZE`].
    ///
    /// Pieces are powers of two from [`MIN_PIECE`] to [`MAX_PIECE`]; only the last is shorter.
    pub fn of(size: u64) -> Option<Self> {
        if size > MAX_SIZE {
            return None;
        }
        let piece_size = size
            .div_ceil(PIECES_WANTED)
            .next_power_of_two()
            .clamp(MIN_PIECE, MAX_PIECE);
        Some(Self { size, piece_size })
    }

    /// Bytes of the content.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of every piece but the last.
    pub const fn piece_size(&self) -> u64 {
        self.piece_size
    }

    /// How many pieces there are: at least one, for the empty content has one empty piece.
    pub fn pieces(&self) -> u32 {
        u32::try_from(self.size.div_ceil(self.piece_size).max(1))
            .expect("2^44 bytes in pieces of 2^24 are 2^20 pieces")
    }

    /// The bytes of piece `index`; empty past the end.
    pub fn range(&self, index: u32) -> Range<u64> {
        let start = (u64::from(index) * self.piece_size).min(self.size);
        start..(start + self.piece_size).min(self.size)
    }

    /// The piece that holds the byte at `offset`.
    pub fn piece_at(&self, offset: u64) -> u32 {
        u32::try_from(offset / self.piece_size)
            .unwrap_or(u32::MAX)
            .min(self.pieces() - 1)
    }

    /// The pieces that `bytes` touches; none for an empty range.
    pub fn pieces_in(&self, bytes: &Range<u64>) -> Range<u32> {
        if bytes.is_empty() {
            return 0..0;
        }
        self.piece_at(bytes.start)..self.piece_at(bytes.end - 1) + 1
    }
}
