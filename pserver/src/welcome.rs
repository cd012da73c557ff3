//! [`Welcome`]: the pieces that would be as welcome to who asks for one piece as that one, and
//! the header of `GET /v1/blobs/DIGEST` in which it says so. Pure.
//!
//! Only who sends knows what it sent to others. A crowd that fetches from one source gets each
//! piece out of it once when the source chooses, and some pieces twice when its members do, who
//! learn too late what others chose.
//!
//! The header is `vecino-welcome: FIRST:BITS`: the number of a piece, and in hex digits a bit for
//! each piece from that one on, the first in the highest bit. The answer says with `Content-Range`
//! which piece it is. Who does not know the header, or cannot read it, sends what `Range` says.

use std::collections::BTreeSet;

use vecino_rest::piece;

use crate::download::bits::Bits;

/// The name of the header.
pub const HEADER: &str = "vecino-welcome";
/// The pieces lie so close together, which bounds the header to 300 bytes.
const WINDOW: u32 = 1024;
/// Numbers of pieces are smaller than this.
const MAX_PIECES: u32 = (piece::MAX_SIZE / piece::MAX_PIECE) as u32;

/// See the module; at least one piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    first: u32,
    bits: Bits,
}

impl Welcome {
    /// Those of `pieces` that lie near `piece`; `None` when there is none but `piece`.
    pub fn near(piece: u32, pieces: impl Iterator<Item = u32>) -> Option<Self> {
        let start = piece.saturating_sub(WINDOW / 2);
        let near: BTreeSet<u32> = pieces
            .filter(|&other| other != piece && (start..start + WINDOW).contains(&other))
            .collect();
        let (first, last) = (*near.first()?, *near.last()?);
        Some(Self {
            first,
            bits: Bits::of((first..=last).map(|piece| near.contains(&piece))),
        })
    }

    /// Whether `piece` is one.
    pub fn has(&self, piece: u32) -> bool {
        piece
            .checked_sub(self.first)
            .is_some_and(|bit| self.bits.get(bit))
    }

    /// All of them, in order.
    pub fn pieces(&self) -> impl Iterator<Item = u32> {
        self.bits.set().map(|bit| self.first + bit)
    }

    /// The value of the header.
    pub fn to_header(&self) -> String {
        format!("{}:{}", self.first, self.bits.to_hex())
    }

    /// Reads [`Welcome::to_header`]; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let (first, bits) = text.split_once(':')?;
        if !first.bytes().all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        let first = first.parse().ok().filter(|&first| first < MAX_PIECES)?;
        let length = u32::try_from(bits.len()).ok()?.checked_mul(4)?;
        if length > WINDOW {
            return None;
        }
        let bits = Bits::from_hex(bits, length)?;
        bits.set().next()?;
        Some(Self { first, bits })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_header_is_as_documented() {
        let welcome = Welcome::near(4, [3, 4, 10].into_iter()).expect("two");
        assert_eq!(welcome.to_header(), "3:81");
        assert_eq!(welcome.pieces().collect::<Vec<_>>(), [3, 10]);
        assert!(welcome.has(3) && !welcome.has(4) && !welcome.has(2) && !welcome.has(11));
        assert_eq!(Welcome::near(4, [4].into_iter()), None);
        let far = Welcome::near(5000, 0..20_000).expect("many");
        let edges = (far.pieces().next(), far.pieces().last());
        assert_eq!(edges, (Some(4488), Some(5511)));
        assert!(far.to_header().len() <= 300 - HEADER.len());
    }

    #[test]
    fn what_is_no_such_header_is_not_read() {
        for wrong in [
            "",
            ":",
            "1:",
            ":80",
            "+1:80",
            "1:8",
            "1:8g",
            "1:00",
            "1:80:",
            " 1:80",
            "1048576:80",
            "99999999999:80",
        ] {
            assert_eq!(Welcome::parse(wrong), None, "{wrong}");
        }
        let digits = "f".repeat(WINDOW as usize / 4);
        assert!(Welcome::parse(&format!("0:{digits}")).is_some());
        assert_eq!(Welcome::parse(&format!("0:{digits}ff")), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(piece in 0..2000u32, pieces in prop::collection::btree_set(0..2000u32, 0..99)) {
            if let Some(welcome) = Welcome::near(piece, pieces.iter().copied()) {
                let read = Welcome::parse(&welcome.to_header()).expect("its own");
                prop_assert!(read.pieces().eq(welcome.pieces()));
                prop_assert!(welcome.pieces().all(|other| other != piece && pieces.contains(&other)));
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in "[0-9]{0,12}:?\\PC{0,20}") {
            let read = Welcome::parse(&text);
            prop_assert!(read.is_none_or(|read| read.pieces().count() > 0));
        }
    }
}
