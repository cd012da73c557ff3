//! Properties of the layout of zones.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use vecino_rest::{
    Name,
    zone::{MAX_SLOTS, MAX_ZONE_SLOTS, MIN_ZONE_SLOTS, ZoneLayout},
};

fn layout() -> impl Strategy<Value = ZoneLayout> {
    let slots = prop_oneof![MIN_ZONE_SLOTS..=300, MIN_ZONE_SLOTS..=MAX_SLOTS];
    slots
        .prop_flat_map(|slots| (Just(slots), ZoneLayout::zones_of(slots).unwrap()))
        .prop_map(|(slots, zones)| ZoneLayout::new(slots, zones).unwrap())
}

proptest! {
    #[test]
    fn zones_cover_all_slots_once_and_evenly(layout in layout()) {
        let mut next = 0;
        let mut sizes = Vec::new();
        for zone in 0..layout.zones() {
            let slots = layout.slots_of(zone);
            prop_assert_eq!(slots.start, next);
            next = slots.end;
            sizes.push(slots.end - slots.start);
            prop_assert!([slots.start, slots.end - 1].iter().all(|s| layout.zone_of(*s) == zone));
        }
        prop_assert_eq!(next, layout.slots());
        let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
        prop_assert!(most - least <= 1 && *least >= MIN_ZONE_SLOTS && *most <= MAX_ZONE_SLOTS);
    }

    #[test]
    fn a_name_belongs_to_a_slot_of_the_network(layout in layout(), text in "[a-z]{1,20}") {
        prop_assert!(layout.slot_of(&Name::parse(&text).unwrap()) < layout.slots());
    }

    #[test]
    fn going_back_visits_every_zone(layout in layout(), start in any::<u32>()) {
        let start = start % layout.zones();
        let mut zone = start;
        for step in 1..=layout.zones() {
            zone = layout.before(zone);
            prop_assert_eq!(zone == start, step == layout.zones());
        }
    }
}

#[test]
fn the_derived_number_of_zones() {
    for (slots, zones) in [
        (6, 1),
        (12, 2),
        (24, 4),
        (36, 6),
        (64, 8),
        (1000, 31),
        (65_536, 256),
    ] {
        assert_eq!(
            ZoneLayout::derived(slots).unwrap().zones(),
            zones,
            "{slots}"
        );
    }
    for slots in [0, 5, MAX_SLOTS + 1] {
        assert_eq!(ZoneLayout::derived(slots), None);
    }
    for (slots, zones) in [(64, 0), (64, 11), (6, 2), (65_536, 63)] {
        assert_eq!(ZoneLayout::new(slots, zones), None, "{slots} {zones}");
    }
}

#[test]
fn where_names_belong_is_part_of_the_contract() {
    let layout = ZoneLayout::derived(64).unwrap();
    let slots: Vec<_> = ["a", "song.mp3", "dir/ü.txt"]
        .iter()
        .map(|name| layout.slot_of(&Name::parse(name).unwrap()))
        .collect();
    assert_eq!(slots, [18, 46, 51]);
}
