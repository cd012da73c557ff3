//! What a locator holds of this peer, compared with the catalogue: see
//! `RegisterResponse.fingerprints` in `directory.proto`.

use crate::content::{Store, catalogue::Record};

/// Bytes of a fingerprint.
const FINGERPRINT: usize = 16;

/// Which buckets are not as the locator's `fingerprints` say (all of them when it sent none), and
/// how many records the others have.
pub(super) fn compare(store: &Store, fingerprints: &[u8]) -> (Vec<u8>, u64) {
    let mut known = 0;
    let differs = |&bucket: &u8| {
        let records = store.catalogue().bucket(bucket);
        let at = usize::from(bucket) * FINGERPRINT;
        let theirs = fingerprints.get(at..at + FINGERPRINT);
        let differs = theirs != Some(&fingerprint(&records).to_le_bytes());
        if !differs {
            known += records.len() as u64;
        }
        differs
    };
    let differing = (0..=u8::MAX).filter(differs).collect();
    (differing, known)
}

/// See `RegisterResponse.fingerprints` in `directory.proto`.
fn fingerprint(records: &[Record]) -> u128 {
    records.iter().fold(0, |sum: u128, record| {
        let mut hasher = blake3::Hasher::new_derive_key("vecino 2026 record");
        hasher.update(record.digest.as_bytes());
        hasher.update(&record.size.to_le_bytes());
        hasher.update(record.name.as_str().as_bytes());
        let mut first = [0; FINGERPRINT];
        hasher.finalize_xof().fill(&mut first);
        sum.wrapping_add(u128::from_le_bytes(first))
    })
}
