//! Compares what a locator holds for this peer with what it shares.

use crate::content::{Store, catalogue::Record};

/// When the locator's fingerprints are compared: what is on the way makes a difference that is
/// none. One that cannot be told from a real one is healed as that is.
#[derive(Default)]
pub(super) struct Comparing {
    sent: u64,
    passed_over: u32,
}

impl Comparing {
    /// Fingerprints that come on the way are passed over so often.
    const PASSED_OVER: u32 = 2;

    /// At a keep-alive, when so many messages were sent: whether to ask for fingerprints.
    pub(super) fn is_wanted(&mut self, sent: u64) -> bool {
        self.sent = sent;
        self.passed_over > 0
    }

    /// Whether fingerprints that came can be used: `is_idle` when nothing is to be sent, `sent` and
    /// `acknowledged` are messages so far.
    pub(super) fn may(&mut self, is_idle: bool, sent: u64, acknowledged: u64) -> bool {
        let is_still = is_idle && sent == acknowledged && sent == self.sent;
        if is_still || self.passed_over >= Self::PASSED_OVER {
            self.passed_over = 0;
            return true;
        }
        self.passed_over += 1;
        false
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_the_way_makes_no_difference_for_a_while() {
        let mut comparing = Comparing::default();
        assert!(!comparing.is_wanted(7));
        assert!(comparing.may(true, 7, 7));
        assert!(!comparing.may(true, 8, 8), "sent since the keep-alive");
        assert!(comparing.is_wanted(8), "asked for again");
        assert!(!comparing.may(true, 8, 7), "not acknowledged yet");
        assert!(comparing.may(false, 9, 7), "not put off for ever");
        assert!(!comparing.is_wanted(9));
        assert!(!comparing.may(false, 9, 9), "something waits to be sent");
    }
}
