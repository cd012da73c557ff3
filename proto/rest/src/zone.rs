//! [`ZoneLayout`]: how a network is cut into zones, and where a name belongs.
//!
//! Invariant: zones are runs of consecutive slots that cover all slots once, their sizes differ by
//! at most one, and none has fewer than [`MIN_ZONE_SLOTS`] or more than [`MAX_ZONE_SLOTS`].

use std::ops::Range;

use crate::Name;

/// Fewest slots of a zone: with fewer, one death takes too large a share of what it keeps.
pub const MIN_ZONE_SLOTS: u32 = 6;
/// Most slots of a zone: a lookup may have to ask all of them.
pub const MAX_ZONE_SLOTS: u32 = 1024;
/// Most slots of a network.
pub const MAX_SLOTS: u32 = 65_536;

/// Slots and zones of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ZoneLayout {
    slots: u32,
    zones: u32,
}

impl ZoneLayout {
    /// `slots` in `zones`; `None` when a zone would have too few or too many.
    pub fn new(slots: u32, zones: u32) -> Option<Self> {
        let zones_are_valid = Self::zones_of(slots)?.contains(&zones);
        zones_are_valid.then_some(Self { slots, zones })
    }

    /// `slots` in about as many zones as each has slots: a zone is then small beside the network,
    /// and there are few zones to know of.
    pub fn derived(slots: u32) -> Option<Self> {
        let zones = Self::zones_of(slots)?;
        Self::new(slots, slots.isqrt().clamp(zones.start, zones.end - 1))
    }

    /// How many zones so many slots may have; `None` when there is no such network.
    pub fn zones_of(slots: u32) -> Option<Range<u32>> {
        (MIN_ZONE_SLOTS..=MAX_SLOTS)
            .contains(&slots)
            .then(|| slots.div_ceil(MAX_ZONE_SLOTS)..slots / MIN_ZONE_SLOTS + 1)
    }

    /// Slots of the network.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Zones of the network.
    pub fn zones(&self) -> u32 {
        self.zones
    }

    /// The zone of a slot.
    pub fn zone_of(&self, slot: u32) -> u32 {
        let product = u64::from(slot) * u64::from(self.zones);
        u32::try_from(product / u64::from(self.slots)).expect("less than the zones")
    }

    /// The slots of a zone.
    pub fn slots_of(&self, zone: u32) -> Range<u32> {
        let first = |zone: u32| {
            let product = u64::from(zone) * u64::from(self.slots);
            u32::try_from(product.div_ceil(u64::from(self.zones))).expect("at most all slots")
        };
        first(zone)..first(zone + 1)
    }

    /// The zone before `zone`, which stands in when that is empty.
    pub fn before(&self, zone: u32) -> u32 {
        zone.checked_sub(1).unwrap_or(self.zones - 1)
    }

    /// The slot to which a name belongs.
    pub fn slot_of(&self, name: &Name) -> u32 {
        let hash = blake3::derive_key("vecino 2026 zone slot", name.as_str().as_bytes());
        let first = u64::from_le_bytes(*hash.first_chunk().expect("a hash has 32 bytes"));
        u32::try_from(first % u64::from(self.slots)).expect("less than the slots")
    }
}
