//! Which bytes of a content a request gets: `Range` and `If-Range` (RFC 9110, section 14). Pure.

use std::ops::Range;

/// The part of a content that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// All of it.
    Whole,
    /// These bytes, not empty.
    Part(Range<u64>),
    /// Bytes that it has not.
    NotSatisfiable,
}

/// Reads `Range`; a header that is malformed, of another unit or of several ranges counts as
/// absent, as the RFC allows.
pub fn asked(header: Option<&str>, size: u64) -> Asked {
    header
        .and_then(|value| parse(value, size))
        .unwrap_or(Asked::Whole)
}

fn parse(value: &str, size: u64) -> Option<Asked> {
    let (unit, ranges) = value.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") || ranges.contains(',') {
        return None;
    }
    let (first, last) = ranges.trim().split_once('-')?;
    let number = |text: &str| -> Option<u64> {
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        // A number beyond all sizes means the end.
        Some(text.parse().unwrap_or(u64::MAX))
    };
    let range = match (number(first), number(last)) {
        (None, Some(suffix)) if first.is_empty() => size.saturating_sub(suffix)..size,
        (Some(first), None) if last.is_empty() => first..size,
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(size),
        _ => return None,
    };
    Some(if range.is_empty() {
        Asked::NotSatisfiable
    } else {
        Asked::Part(range)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_are_read_as_the_rfc_says() {
        use Asked::{NotSatisfiable, Part, Whole};
        for (header, size, expected) in [
            ("bytes=0-0", 10, Part(0..1)),
            ("bytes=2-", 10, Part(2..10)),
            ("bytes=2-99", 10, Part(2..10)),
            ("bytes=-3", 10, Part(7..10)),
            ("bytes=-99", 10, Part(0..10)),
            ("Bytes = 1-2", 10, Part(1..3)),
            ("bytes=10-", 10, NotSatisfiable),
            ("bytes=-0", 10, NotSatisfiable),
            ("bytes=0-", 0, NotSatisfiable),
            ("bytes=18446744073709551616-", 10, NotSatisfiable),
            ("bytes=0-18446744073709551616", 10, Part(0..10)),
            ("bytes=3-2", 10, Whole),
            ("bytes=0-1,3-4", 10, Whole),
            ("bytes=-", 10, Whole),
            ("bytes=+1-2", 10, Whole),
            ("bytes=a-b", 10, Whole),
            ("pieces=0-1", 10, Whole),
            ("", 10, Whole),
        ] {
            assert_eq!(asked(Some(header), size), expected, "{header}");
        }
        assert_eq!(asked(None, 10), Whole);
    }

    proptest! {
        #[test]
        fn a_part_is_never_empty_and_always_inside(header in "bytes ?=[0-9 ]{0,22}-[0-9]{0,22}", size in any::<u64>()) {
            if let Asked::Part(range) = asked(Some(&header), size) {
                prop_assert!(range.start < range.end && range.end <= size);
            }
        }
    }
}
