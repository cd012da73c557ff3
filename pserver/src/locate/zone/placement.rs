//! Which members of a zone keep the records of a slot: pure, the same at every peer that knows
//! the same members.
//!
//! The slot's own peer comes first; the others are in the order of rendezvous hashing (Thaler and
//! Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM ToN 6(1), 1998): when
//! a member comes or goes, only what it keeps, or will keep, moves. The hash is of slot and peer,
//! not of the name, so that a publisher places a slot's records at once.

use super::network::Member;

/// Members that keep the records of a slot whose peer is there: it, and one in case it dies.
pub(super) const PROPER_COPIES: usize = 2;
/// Members that share the records of a slot that nobody has.
pub(super) const SHARED_COPIES: usize = 3;

/// All members, in the order in which they are to be asked about a slot.
pub(super) fn order(slot: u32, members: &[Member]) -> Vec<&Member> {
    let mut order: Vec<_> = members.iter().collect();
    order.sort_by_cached_key(|member| {
        let is_owner = member.slot == slot;
        (!is_owner, score(slot, member), member.contact.peer)
    });
    order
}

/// The members that keep the records of a slot.
pub(super) fn holders(slot: u32, members: &[Member]) -> Vec<&Member> {
    let mut order = order(slot, members);
    order.truncate(match order.first() {
        Some(first) if first.slot == slot => PROPER_COPIES,
        _ => SHARED_COPIES,
    });
    order
}

fn score(slot: u32, member: &Member) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key("vecino 2026 zone share");
    hasher.update(&slot.to_le_bytes());
    hasher.update(member.contact.peer.as_bytes());
    let hash = hasher.finalize();
    u64::from_le_bytes(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use vecino_rest::PeerId;

    use super::*;
    use crate::locate::overlay::Contact;

    fn members(slots: &BTreeSet<u32>) -> Vec<Member> {
        slots
            .iter()
            .map(|slot| Member {
                slot: *slot,
                contact: Contact {
                    peer: PeerId::from_bytes([u8::try_from(*slot).expect("small"); 16]),
                    overlay: "http://10.0.0.1:81".parse().expect("a URL"),
                    url: "http://10.0.0.1:80".parse().expect("a URL"),
                    site: None,
                },
            })
            .collect()
    }

    fn slots_of(members: Vec<&Member>) -> BTreeSet<u32> {
        members.iter().map(|member| member.slot).collect()
    }

    proptest! {
        #[test]
        fn only_what_a_member_keeps_moves_when_it_goes(
            slots in prop::collection::btree_set(0..200_u32, 2..20),
            slot in 0..200_u32,
            gone in any::<prop::sample::Index>(),
        ) {
            let before = slots_of(holders(slot, &members(&slots)));
            let owned = slots.contains(&slot);
            let copies = if owned { PROPER_COPIES } else { SHARED_COPIES };
            prop_assert_eq!(before.len(), copies.min(slots.len()));
            prop_assert_eq!(before.contains(&slot), owned);
            let mut left = slots.clone();
            let gone = *gone.get(&slots.iter().copied().collect::<Vec<_>>());
            left.remove(&gone);
            let after = slots_of(holders(slot, &members(&left)));
            if before.contains(&gone) {
                prop_assert!(before.iter().all(|held| *held == gone || after.contains(held)));
            } else {
                prop_assert_eq!(before, after);
            }
        }
    }
}
