//! [`Fingerprint`]: tells whether two peers hold the same set of records, whatever the order in
//! which they came. Between honest peers: a sender that lies harms its own records only.

use std::ops::{AddAssign, SubAssign};

use vecino_rest::{Digest, Name};

/// The sum, modulo 2^128, of the hashes of records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Fingerprint(u128);

/// That of one record.
pub(super) fn of_record(name: &Name, digest: &Digest, size: u64) -> Fingerprint {
    let mut hasher = blake3::Hasher::new_derive_key("vecino 2026 zone record");
    hasher
        .update(digest.as_bytes())
        .update(&size.to_le_bytes())
        .update(name.as_str().as_bytes());
    let hash = hasher.finalize();
    let first = hash.as_bytes().first_chunk().expect("a hash has 32 bytes");
    Fingerprint(u128::from_le_bytes(*first))
}

impl Fingerprint {
    /// Bytes of it.
    pub(super) const LEN: usize = 16;

    /// From what [`Self::to_bytes`] gave.
    pub(super) fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes
            .try_into()
            .ok()
            .map(|bytes| Self(u128::from_le_bytes(bytes)))
    }

    /// Its bytes.
    pub(super) fn to_bytes(self) -> [u8; Self::LEN] {
        self.0.to_le_bytes()
    }
}

impl AddAssign for Fingerprint {
    fn add_assign(&mut self, other: Self) {
        self.0 = self.0.wrapping_add(other.0);
    }
}

impl SubAssign for Fingerprint {
    fn sub_assign(&mut self, other: Self) {
        self.0 = self.0.wrapping_sub(other.0);
    }
}
