//! The table against its invariants, over random histories.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;

const LEASE: Duration = Duration::from_secs(10);

fn layout(slots: u32, zones: u32) -> ZoneLayout {
    ZoneLayout::new(slots, zones).expect("valid")
}

fn applicant(number: u8) -> Applicant {
    Applicant {
        seat: Seat {
            peer: PeerId::from_bytes([number; 16]),
            url: format!("http://10.0.0.{number}:80"),
            overlay: format!("http://10.0.0.{number}:81"),
            site: String::new(),
        },
        is_observed: true,
        token: [number; 32],
        wanted: None,
    }
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn empty_zones_are_filled_first_and_a_full_network_refuses() {
    let mut table = Table::new(layout(24, 4), LEASE, 1);
    let zones: Vec<_> = (0..24)
        .map(|number| {
            let slot = table.join(applicant(number), secs(0)).expect("room");
            table.layout().zone_of(slot)
        })
        .collect();
    assert_eq!(zones[..8], [0, 1, 2, 3, 0, 1, 2, 3]);
    let refused = table.join(applicant(99), secs(1)).expect_err("full");
    assert_eq!(refused, Refused::Full(24));
    assert!(refused.to_string().contains("24") && refused.to_string().contains("NETWORK_SIZE"));
    assert!(table.leave(&PeerId::from_bytes([5; 16]), &[5; 32], secs(1)));
    assert_eq!(
        table
            .join(applicant(99), secs(1))
            .map(|slot| table.layout().zone_of(slot)),
        Ok(1)
    );
}

#[test]
fn who_comes_back_gets_its_slot_and_nobody_else_may_choose_one() {
    let mut table = Table::new(layout(12, 2), LEASE, 1);
    let own = table.join(applicant(1), secs(20)).expect("room");
    table.join(applicant(2), secs(20)).expect("room");
    assert_eq!(table.expire(secs(30)), 2);
    let wanting = |number, slot| Applicant {
        wanted: Some(slot),
        ..applicant(number)
    };
    assert_ne!(
        table.join(wanting(3, own), secs(31)),
        Ok(own),
        "was never there"
    );
    assert_ne!(
        table.join(wanting(4, 11), secs(31)),
        Ok(11),
        "was never there"
    );
    assert_ne!(
        table.join(applicant(5), secs(31)),
        Ok(own),
        "left lately: others first"
    );
    assert_eq!(table.join(wanting(1, own), secs(32)), Ok(own));
    assert!(table.join(wanting(6, 4000), secs(32)).is_ok());
}

#[test]
fn after_a_restart_slots_are_claimed_again_for_one_lease() {
    let mut table = Table::new(layout(12, 2), LEASE, 1);
    let wanting = |number, slot| Applicant {
        wanted: Some(slot),
        ..applicant(number)
    };
    assert_eq!(table.join(wanting(1, 9), secs(9)), Ok(9));
    assert_ne!(table.join(wanting(2, 9), secs(9)), Ok(9), "is taken");
    assert_ne!(
        table.join(wanting(3, 7), secs(10)),
        Ok(7),
        "the lease of before is over"
    );
}

#[test]
fn an_overlay_url_is_that_of_one_member() {
    let mut table = Table::new(layout(12, 2), LEASE, 1);
    table.join(applicant(1), secs(0)).expect("room");
    let mut other = applicant(2);
    other.seat.overlay = applicant(1).seat.overlay;
    other.is_observed = false;
    assert!(matches!(
        table.join(other.clone(), secs(1)),
        Err(Refused::Claimed(_))
    ));
    other.is_observed = true;
    table.join(other, secs(1)).expect("is at that address");
    assert_eq!(table.taken(), 1);
    assert!(!table.keep_alive(&applicant(1).seat.peer, &[1; 32], secs(2)));
}

#[derive(Debug, Clone)]
enum Step {
    Join(u8, Option<u32>),
    Again(u8),
    Keep(u8),
    Leave(u8),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let peer = 0..30_u8;
    prop_oneof![
        4 => (peer.clone(), prop::option::of(0..30_u32)).prop_map(|(p, s)| Step::Join(p, s)),
        1 => peer.clone().prop_map(Step::Again),
        3 => peer.clone().prop_map(Step::Keep),
        1 => peer.prop_map(Step::Leave),
        2 => (0..8_u64).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn any_history_keeps_the_invariants(
        steps in prop::collection::vec(step(), 1..120),
        zones in 1..=4_u32,
    ) {
        let mut table = Table::new(layout(24, zones), LEASE, 7);
        let mut now = Duration::ZERO;
        // Peer to the end of its lease: the plain model.
        let mut model: HashMap<u8, Duration> = HashMap::new();
        let mut lists: Vec<(u64, Vec<(u32, Seat)>)> = vec![(0, Vec::new()); zones as usize];
        for step in steps {
            model.retain(|_, ends| *ends > now);
            match step {
                Step::Join(number, wanted) => {
                    let had = table.by_peer.get(&applicant(number).seat.peer).copied();
                    let joined = table.join(Applicant { wanted, ..applicant(number) }, now);
                    let had = had.filter(|_| model.contains_key(&number));
                    prop_assert_eq!(joined.is_ok(), had.is_some() || model.len() < 24);
                    if let Ok(slot) = joined {
                        prop_assert!(had.is_none_or(|had| had == slot));
                        model.insert(number, now + LEASE);
                    }
                }
                Step::Again(number) => {
                    let mut moved = applicant(number);
                    moved.seat.url = "http://10.9.9.9:80".into();
                    if model.contains_key(&number) {
                        table.join(moved, now).expect("has a slot");
                        model.insert(number, now + LEASE);
                    }
                }
                Step::Keep(number) => {
                    let kept = table.keep_alive(&applicant(number).seat.peer, &[number; 32], now);
                    prop_assert_eq!(kept, model.contains_key(&number));
                    if kept {
                        model.insert(number, now + LEASE);
                    }
                    prop_assert!(!table.keep_alive(&applicant(number).seat.peer, &[99; 32], now));
                }
                Step::Leave(number) => {
                    let left = table.leave(&applicant(number).seat.peer, &[number; 32], now);
                    prop_assert_eq!(left, model.remove(&number).is_some());
                }
                Step::Wait(seconds) => now += secs(seconds),
            }
            table.expire(now);
            model.retain(|_, ends| *ends > now);
            prop_assert_eq!(table.taken(), model.len());
            let mut seen = HashSet::new();
            for zone in 0..zones {
                let members: Vec<_> = table.members(zone).map(|(s, m)| (s, m.clone())).collect();
                prop_assert_eq!(members.len() as u32, table.zone_members[zone as usize]);
                for (slot, seat) in &members {
                    prop_assert_eq!(table.layout().zone_of(*slot), zone);
                    prop_assert_eq!(table.by_peer[&seat.peer], *slot);
                    prop_assert_eq!(table.by_overlay[&seat.overlay], *slot);
                    prop_assert!(seen.insert(seat.peer));
                }
                // The version tells exactly whether the list is another one.
                let version = table.zone_versions()[zone as usize];
                let (known, list) = &mut lists[zone as usize];
                prop_assert!(*known == version || version <= table.version());
                if *known == version {
                    prop_assert_eq!(&*list, &members);
                }
                (*known, *list) = (version, members);
            }
            prop_assert_eq!(seen.len(), model.len());
        }
    }
}
