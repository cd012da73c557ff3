//! Identifiers on the ring, 160 bits, and the arithmetic of the ring.
//!
//! Invariant: all arithmetic is modulo 2^160 and goes clockwise, towards greater identifiers. Who
//! has which identifier is settled by [`Id::of_peer`] and [`Id::of_name`] alone: nobody chooses.

use std::fmt;

use vecino_rest::{Name, PeerId};

/// A place on the ring.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id([u8; Id::LEN]);

impl Id {
    /// Bytes of an identifier.
    pub const LEN: usize = 20;
    /// Bits of an identifier; the number of fingers.
    pub const BITS: usize = 8 * Self::LEN;

    /// The identifier with these bytes, the most significant first.
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The identifier in `bytes`; `None` when their number is wrong.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Its bytes, the most significant first.
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// Where a peer stands.
    pub fn of_peer(peer: &PeerId) -> Self {
        Self::derive("vecino 2026 ring peer", peer.as_bytes())
    }

    /// Where the records of a name belong.
    pub fn of_name(name: &Name) -> Self {
        Self::derive("vecino 2026 ring name", name.as_str().as_bytes())
    }

    fn derive(context: &str, bytes: &[u8]) -> Self {
        let hash = blake3::derive_key(context, bytes);
        let mut id = [0; Self::LEN];
        id.copy_from_slice(&hash[..Self::LEN]);
        Self(id)
    }

    /// How far it is from here to `to`, clockwise; 0 when it is the same place.
    pub fn distance_to(&self, to: &Self) -> Self {
        let mut distance = [0; Self::LEN];
        let mut borrow = false;
        for at in (0..Self::LEN).rev() {
            let (byte, first) = to.0[at].overflowing_sub(self.0[at]);
            let (byte, second) = byte.overflowing_sub(borrow.into());
            distance[at] = byte;
            borrow = first || second;
        }
        Self(distance)
    }

    /// The place 2^`power` further; `power` is below [`Id::BITS`].
    pub fn plus_power_of_two(&self, power: usize) -> Self {
        let mut sum = self.0;
        let mut carry = 1_u8 << (power % 8);
        for byte in sum[..Self::LEN - power / 8].iter_mut().rev() {
            let (added, overflowed) = byte.overflowing_add(carry);
            *byte = added;
            if !overflowed {
                break;
            }
            carry = 1;
        }
        Self(sum)
    }

    /// Whether it lies in the open interval from `after` to `before`: going clockwise from
    /// `after` it comes before `before`. With equal ends, the interval is all but that place.
    pub fn is_between(&self, after: &Self, before: &Self) -> bool {
        self != before && self.is_in(after, before)
    }

    /// Whether it lies in (`after`, `upto`]: the identifiers for which `upto` is responsible when
    /// `after` is its predecessor. With equal ends, that is the whole ring.
    pub fn is_in(&self, after: &Self, upto: &Self) -> bool {
        if after == upto {
            return true;
        }
        let here = after.distance_to(self);
        self != after && here <= after.distance_to(upto)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Small places, so that equal and neighbouring ones come up, anywhere around zero.
    fn any_id() -> impl Strategy<Value = Id> {
        prop_oneof![
            any::<[u8; Id::LEN]>().prop_map(Id),
            (0_u8..6, any::<bool>()).prop_map(|(small, below_zero)| {
                let mut bytes = [if below_zero { 0xff } else { 0 }; Id::LEN];
                bytes[Id::LEN - 1] = if below_zero { 0xff - small } else { small };
                Id(bytes)
            }),
        ]
    }

    const ZERO: Id = Id([0; Id::LEN]);

    proptest! {
        #[test]
        fn distances_add_up_to_the_whole_ring(a in any_id(), b in any_id()) {
            prop_assert_eq!(a.distance_to(&a), ZERO);
            // There and back: the sum is 0 modulo 2^160.
            let there = a.distance_to(&b);
            let back = b.distance_to(&a);
            prop_assert_eq!(there.distance_to(&ZERO), back);
        }

        #[test]
        fn powers_of_two_are_distances(a in any_id(), power in 0..Id::BITS) {
            let mut bytes = [0; Id::LEN];
            bytes[Id::LEN - 1 - power / 8] = 1 << (power % 8);
            prop_assert_eq!(a.distance_to(&a.plus_power_of_two(power)), Id(bytes));
        }

        #[test]
        fn three_places_have_one_order(a in any_id(), b in any_id(), c in any_id()) {
            prop_assume!(a != b && b != c && a != c);
            prop_assert!(b.is_between(&a, &c) != c.is_between(&a, &b));
            prop_assert_eq!(b.is_between(&a, &c), c.is_between(&b, &a));
            prop_assert_eq!(b.is_between(&a, &c), b.is_in(&a, &c));
        }

        #[test]
        fn every_place_belongs_to_exactly_one_of_two(a in any_id(), b in any_id(), x in any_id()) {
            prop_assume!(a != b);
            prop_assert!(x.is_in(&a, &b) != x.is_in(&b, &a));
        }

        #[test]
        fn the_ends(a in any_id(), b in any_id(), x in any_id()) {
            prop_assert!(!a.is_between(&a, &b));
            prop_assert!(!b.is_between(&a, &b));
            prop_assert!(b.is_in(&a, &b));
            prop_assert!(a == b || !a.is_in(&a, &b));
            prop_assert!(x.is_in(&a, &a));
            prop_assert_eq!(x.is_between(&a, &a), x != a);
        }
    }

    #[test]
    fn identifiers_do_not_change_between_versions() {
        let name = Name::parse("a.txt").expect("valid");
        let peer = PeerId::from_bytes([7; 16]);
        assert_ne!(Id::of_peer(&peer), Id::of_name(&name));
        let hash = blake3::derive_key("vecino 2026 ring name", b"a.txt");
        assert_eq!(Id::of_name(&name).as_bytes()[..], hash[..20]);
    }
}
