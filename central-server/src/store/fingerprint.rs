//! Fingerprints of what a peer holds, as `RegisterResponse.fingerprints` defines them.
//!
//! Invariant: adding and removing commute, so a fingerprint depends on the set of records only
//! and is kept without reading it.

use vecino_rest::{Digest, Name};

/// How many buckets the records of a peer fall into.
pub const BUCKETS: usize = 256;

/// The bucket of a record: the first byte of its digest.
pub fn bucket_of(digest: &Digest) -> u8 {
    digest.as_bytes()[0]
}

/// One record's share in the fingerprint of its bucket.
pub(crate) fn of_record(name: &Name, digest: &Digest, size: u64) -> u128 {
    let hash = blake3::Hasher::new_derive_key("vecino 2026 record")
        .update(digest.as_bytes())
        .update(&size.to_le_bytes())
        .update(name.as_str().as_bytes())
        .finalize();
    let (first, _) = hash.as_bytes().split_at(16);
    u128::from_le_bytes(first.try_into().expect("a hash has 32 bytes"))
}

/// Sum and number of the records in one bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Bucket {
    pub(crate) sum: u128,
    pub(crate) count: u32,
}

impl Bucket {
    /// Bytes of the stored form.
    pub(crate) const LEN: usize = 20;

    pub(crate) fn add(&mut self, share: u128) {
        self.sum = self.sum.wrapping_add(share);
        self.count += 1;
    }

    pub(crate) fn remove(&mut self, share: u128) {
        self.sum = self.sum.wrapping_sub(share);
        self.count -= 1;
    }

    pub(crate) fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        let (sum, count) = bytes.split_at(16);
        Self {
            sum: u128::from_le_bytes(sum.try_into().expect("16 bytes")),
            count: u32::from_le_bytes(count.try_into().expect("4 bytes")),
        }
    }
}

/// The fingerprints of all buckets of a peer.
#[derive(Clone, PartialEq, Eq)]
pub struct Fingerprints(pub(crate) Box<[Bucket; BUCKETS]>);

impl Default for Fingerprints {
    fn default() -> Self {
        Self(Box::new([Bucket::default(); BUCKETS]))
    }
}

impl Fingerprints {
    /// All records of the peer.
    pub fn records(&self) -> u64 {
        self.0.iter().map(|bucket| u64::from(bucket.count)).sum()
    }

    /// Records of each bucket.
    pub(super) fn counts(&self) -> [u32; BUCKETS] {
        self.0.each_ref().map(|bucket| bucket.count)
    }

    /// The form of the wire: 256 times 16 bytes, little-endian.
    pub fn to_wire(&self) -> Vec<u8> {
        self.0
            .iter()
            .flat_map(|bucket| bucket.sum.to_le_bytes())
            .collect()
    }
}

impl std::fmt::Debug for Fingerprints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Fingerprints({} records)", self.records())
    }
}
