//! What the files of these tests contain: bytes that are the same in every run, and nowhere the
//! same.

/// `count` bytes that follow from `seed`.
pub(crate) fn bytes(seed: &str, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    blake3::Hasher::new()
        .update(seed.as_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

/// Compares without printing megabytes when they differ.
pub(crate) fn assert_same(actual: &[u8], expected: &[u8], what: &str) {
    if actual != expected {
        let first = actual.iter().zip(expected).position(|(a, b)| a != b);
        panic!(
            "{what}: {} bytes where {} were expected; first difference at {:?}",
            actual.len(),
            expected.len(),
            first.unwrap_or(actual.len().min(expected.len()))
        );
    }
}
