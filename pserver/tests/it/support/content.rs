//! [`Content`]: bytes that look random, with their digest and piece hashes.

use std::{ops::Range, sync::Arc};

use pserver::content::verify::{hash_pieces, merge};
use vecino_rest::{
    Digest,
    piece::{Layout, MIN_PIECE},
};

/// Bytes of the smallest piece.
pub(crate) const PIECE: usize = MIN_PIECE as usize;

/// Bytes that a test moves.
#[derive(Clone)]
pub(crate) struct Content {
    pub(crate) bytes: Arc<[u8]>,
    pub(crate) digest: Digest,
    pub(crate) pieces: Vec<Digest>,
}

impl Content {
    /// `size` bytes, others for another `seed`.
    pub(crate) fn new(seed: &str, size: usize) -> Self {
        let mut bytes = vec![0; size];
        let mut hasher = blake3::Hasher::new();
        hasher.update(seed.as_bytes());
        hasher.finalize_xof().fill(&mut bytes);
        Self::of(bytes)
    }

    pub(crate) fn of(bytes: impl Into<Arc<[u8]>>) -> Self {
        let bytes = bytes.into();
        let layout = Layout::of(bytes.len() as u64).expect("small");
        let pieces = hash_pieces(&layout, &*bytes).expect("in memory");
        let digest = Digest::of(&bytes);
        assert_eq!(merge(&layout, &pieces), Some(digest));
        Self {
            bytes,
            digest,
            pieces,
        }
    }

    pub(crate) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub(crate) fn slice(&self, range: Range<u64>) -> &[u8] {
        &self.bytes[range.start as usize..range.end as usize]
    }

    /// Its `ETag`.
    pub(crate) fn tag(&self) -> String {
        format!("\"{}\"", self.digest)
    }
}
