//! [`Bits`]: one bit a piece, and its form in `GET /v1/blobs/DIGEST/have`. Pure.

/// A bit a piece; bits past the end are not set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bits(Vec<u8>);

impl Bits {
    /// The bits in order.
    pub fn of(bits: impl IntoIterator<Item = bool>) -> Self {
        let mut bytes = Vec::new();
        for (at, bit) in bits.into_iter().enumerate() {
            if at % 8 == 0 {
                bytes.push(0);
            }
            if let (true, Some(last)) = (bit, bytes.last_mut()) {
                *last |= 0x80 >> (at % 8);
            }
        }
        Self(bytes)
    }

    /// Bit `piece`.
    pub fn get(&self, piece: u32) -> bool {
        self.0
            .get(piece as usize / 8)
            .is_some_and(|byte| byte & (0x80 >> (piece % 8)) != 0)
    }

    /// Every bit that is set.
    pub fn set(&self) -> impl Iterator<Item = u32> {
        (0..).zip(&self.0).flat_map(|(at, byte)| {
            (0..8u32)
                .filter(move |bit| byte & (0x80 >> bit) != 0)
                .map(move |bit| at * 8 + bit)
        })
    }

    /// What is set here or in `other`.
    pub fn or(&self, other: &Self) -> Self {
        let length = self.0.len().max(other.0.len());
        let byte = |bits: &Self, at: usize| bits.0.get(at).copied().unwrap_or(0);
        Self(
            (0..length)
                .map(|at| byte(self, at) | byte(other, at))
                .collect(),
        )
    }

    /// Every bit that differs in `now`, and whether it is set there.
    pub fn changes<'a>(&'a self, now: &'a Self) -> impl Iterator<Item = (u32, bool)> {
        let length = self.0.len().max(now.0.len());
        let byte = |bits: &Self, at: usize| bits.0.get(at).copied().unwrap_or(0);
        let bytes = (0..).zip((0..length).map(move |at| (byte(self, at), byte(now, at))));
        let differing = bytes.filter(|(_, (before, now))| before != now);
        differing.flat_map(|(at, (before, now))| {
            (0..8u32)
                .filter(move |bit| (before ^ now) & (0x80 >> bit) != 0)
                .map(move |bit| (at * 8 + bit, now & (0x80 >> bit) != 0))
        })
    }

    /// Two hex digits a byte.
    pub fn to_hex(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        self.0
            .iter()
            .flat_map(|byte| [byte >> 4, byte & 15])
            .map(|nibble| char::from(DIGITS[usize::from(nibble)]))
            .collect()
    }

    /// Reads [`Bits::to_hex`] of `pieces` pieces; `None` for anything else.
    pub fn from_hex(text: &str, pieces: u32) -> Option<Self> {
        if text.len() != pieces.div_ceil(8) as usize * 2 {
            return None;
        }
        let nibble = |digit: u8| char::from(digit).to_digit(16);
        let bytes: Option<Vec<u8>> = text
            .as_bytes()
            .chunks_exact(2)
            .map(|pair| u8::try_from(nibble(pair[0])? << 4 | nibble(pair[1])?).ok())
            .collect();
        let bits = Self(bytes?);
        let is_past_the_end = bits.set().any(|bit| bit >= pieces);
        (!is_past_the_end).then_some(bits)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hex_is_as_documented() {
        let bits = Bits::of([true, false, false, false, false, false, false, true, true]);
        assert_eq!(bits.to_hex(), "8180");
        assert_eq!(bits.set().collect::<Vec<_>>(), [0, 7, 8]);
        for wrong in ["81", "81zz", "818000", "8181", "+181"] {
            assert_eq!(Bits::from_hex(wrong, 9), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(bits in prop::collection::vec(any::<bool>(), 0..200)) {
            let count = u32::try_from(bits.len()).expect("few");
            let packed = Bits::of(bits.iter().copied());
            prop_assert_eq!(Bits::from_hex(&packed.to_hex(), count), Some(packed.clone()));
            for (at, bit) in (0..).zip(&bits) {
                prop_assert_eq!(packed.get(at), *bit);
            }
        }

        #[test]
        fn changes_lead_from_one_to_the_other(
            before in prop::collection::vec(any::<bool>(), 0..40),
            now in prop::collection::vec(any::<bool>(), 0..40),
        ) {
            let get = |bits: &[bool], at: usize| bits.get(at).copied().unwrap_or(false);
            let (of_before, of_now) = (Bits::of(before.iter().copied()), Bits::of(now.iter().copied()));
            let expected = (0..40).filter(|&at| get(&before, at) != get(&now, at));
            let expected: Vec<_> = expected.map(|at| (at as u32, get(&now, at))).collect();
            prop_assert_eq!(of_before.changes(&of_now).collect::<Vec<_>>(), expected);
            let either = of_before.or(&of_now);
            for at in 0..40 {
                prop_assert_eq!(either.get(at as u32), get(&before, at) || get(&now, at));
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,40}", pieces in 0..200u32) {
            let _ = Bits::from_hex(&text, pieces);
        }
    }
}
