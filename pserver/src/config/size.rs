//! Numbers of bytes as an operator writes them: `1500`, `64K`, `10 MiB`. Units are powers of
//! 1024, with or without `iB`, in either case.

/// The number of bytes that `text` says; `None` when it says none, or more than fit.
pub(super) fn parse(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit());
    let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
    let unit = unit.trim_start().to_ascii_lowercase();
    let power = match unit.strip_suffix("ib").unwrap_or(&unit) {
        "" if unit.is_empty() => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << (10 * power))
}

/// The shortest text that [`parse`] reads as `bytes`.
pub(crate) fn print(bytes: u64) -> String {
    let units = [
        (1 << 40, "T"),
        (1 << 30, "G"),
        (1 << 20, "M"),
        (1 << 10, "K"),
    ];
    units
        .iter()
        .find(|(unit, _)| bytes > 0 && bytes.is_multiple_of(*unit))
        .map_or_else(
            || bytes.to_string(),
            |(unit, letter)| format!("{}{letter}", bytes / unit),
        )
}

/// `bytes` rounded down to whole units, for people.
pub(crate) fn roughly(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let fits = |power: &usize| *power + 1 == units.len() || bytes >> (10 * power) < 10_240;
    let power = (0..units.len()).find(fits).unwrap_or_default();
    format!("{} {}", bytes >> (10 * power), units[power])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn people_read_whole_units() {
        for (bytes, text) in [
            (0, "0 B"),
            (10_239, "10239 B"),
            (10_240, "10 KiB"),
            (25_149_440, "23 MiB"),
            (20 << 30, "20 GiB"),
            (u64::MAX, "16777215 TiB"),
        ] {
            assert_eq!(roughly(bytes), text);
        }
    }

    #[test]
    fn units_are_powers_of_1024() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("1500", Some(1500)),
            ("64K", Some(64 << 10)),
            ("64k", Some(64 << 10)),
            (" 10 MiB ", Some(10 << 20)),
            ("10mib", Some(10 << 20)),
            ("3G", Some(3 << 30)),
            ("2TiB", Some(2 << 40)),
            ("16777215T", Some(16_777_215 << 40)),
            ("16777216T", None),
            ("18446744073709551616", None),
            ("", None),
            ("K", None),
            ("iB", None),
            ("5iB", None),
            ("5B", None),
            ("5MB", None),
            ("1.5G", None),
            ("-1", None),
            ("+1", None),
            ("1 2", None),
            ("1KK", None),
        ] {
            assert_eq!(parse(text), bytes, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_as_the_same(number in any::<u64>(), zeros in 0..64u32) {
            let bytes = number >> zeros << (zeros / 2);
            prop_assert_eq!(parse(&print(bytes)), Some(bytes));
        }

        #[test]
        fn no_text_is_too_strange(text in ".{0,24}") {
            let _ = parse(&text);
        }
    }
}
