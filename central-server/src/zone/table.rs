//! The slots: pure, time is passed in as the time since the start of the process.
//!
//! Invariant: `by_peer` names exactly the taken slots; a peer has at most one, and so has an
//! overlay URL; after [`Table::expire`], which everything here begins with, no lease is over.
//!
//! A newcomer goes to the zone with the fewest members, so that empty zones are filled first, and
//! there to the slot that nobody left lately. Who had a slot gets it back while it is free:
//! the table remembers the last peer of each slot. It knows nothing after a restart; for one
//! lease from then on it takes the word of whoever asks for a free slot, which is what the
//! peers of before do within that time. A newcomer may be faster than one of them, who then gets
//! another slot: records move, nothing is lost.

use std::{collections::HashMap, time::Duration};

use vecino_rest::{PeerId, zone::ZoneLayout};

/// BLAKE3 of a lease token.
pub type TokenHash = [u8; 32];

/// What others are told of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    /// Its id.
    pub peer: PeerId,
    /// Its REST, `http[s]://host:port`.
    pub url: String,
    /// Its gRPC, `http://host:port`.
    pub overlay: String,
    /// Label of its place; may be empty.
    pub site: String,
}

/// A peer that wants a slot.
#[derive(Debug, Clone)]
pub struct Applicant {
    /// What others will be told.
    pub seat: Seat,
    /// Whether its overlay URL names the address from which it was seen.
    pub is_observed: bool,
    /// Of its new lease token.
    pub token: TokenHash,
    /// The slot that it had.
    pub wanted: Option<u32>,
}

/// Why there is no slot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// All are taken.
    #[error("the network is full: all {0} slots are taken; a larger NETWORK_SIZE takes more peers")]
    Full(u32),
    /// Somebody else is there.
    #[error("overlay_url {0:?} is that of another member; try again when its lease is over")]
    Claimed(String),
}

#[derive(Debug)]
struct Member {
    seat: Seat,
    token: TokenHash,
    ends: Duration,
}

#[derive(Debug, Default)]
struct Slot {
    member: Option<Member>,
    /// Who had it last, and when it was freed.
    last: Option<(PeerId, Duration)>,
}

/// See the module.
#[derive(Debug)]
pub struct Table {
    layout: ZoneLayout,
    lease: Duration,
    slots: Vec<Slot>,
    by_peer: HashMap<PeerId, u32>,
    by_overlay: HashMap<String, u32>,
    zone_versions: Vec<u64>,
    zone_members: Vec<u32>,
    version: u64,
    /// No lease ends before: keep-alives only put ends off.
    earliest_end: Duration,
}

impl Table {
    /// All slots free; versions begin at `first_version`, or 1.
    pub fn new(layout: ZoneLayout, lease: Duration, first_version: u64) -> Self {
        let version = first_version.max(1);
        let zones = layout.zones() as usize;
        Self {
            layout,
            lease,
            slots: (0..layout.slots()).map(|_| Slot::default()).collect(),
            by_peer: HashMap::new(),
            by_overlay: HashMap::new(),
            zone_versions: vec![version; zones],
            zone_members: vec![0; zones],
            version,
            earliest_end: Duration::MAX,
        }
    }

    /// Slots and zones.
    pub fn layout(&self) -> ZoneLayout {
        self.layout
    }

    /// How long a slot is kept after the last keep-alive.
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// Changes with every change of a seat.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Of each zone, changes with every change of a seat in it.
    pub fn zone_versions(&self) -> &[u64] {
        &self.zone_versions
    }

    /// How many slots are taken.
    pub fn taken(&self) -> usize {
        self.by_peer.len()
    }

    /// Who sits in a zone, by slot.
    pub fn members(&self, zone: u32) -> impl Iterator<Item = (u32, &Seat)> {
        self.layout.slots_of(zone).filter_map(|slot| {
            let member = self.slots[slot as usize].member.as_ref()?;
            Some((slot, &member.seat))
        })
    }

    /// Gives a peer a slot: its own, the one it had, or the best free one.
    pub fn join(&mut self, applicant: Applicant, now: Duration) -> Result<u32, Refused> {
        self.expire(now);
        let Applicant {
            seat,
            is_observed,
            token,
            wanted,
        } = applicant;
        let own = self.by_peer.get(&seat.peer).copied();
        if let Some(&there) = self.by_overlay.get(&seat.overlay)
            && Some(there) != own
        {
            // A peer that lost its key comes back at its address while its old lease runs.
            if !is_observed {
                return Err(Refused::Claimed(seat.overlay));
            }
            self.free(there, now);
        }
        let slot = own
            .or_else(|| wanted.filter(|slot| self.may_have_back(*slot, &seat.peer, now)))
            .or_else(|| self.best_free())
            .ok_or(Refused::Full(self.layout.slots()))?;
        let ends = now.saturating_add(self.lease);
        self.earliest_end = self.earliest_end.min(ends);
        let changed = self.slots[slot as usize]
            .member
            .as_ref()
            .is_none_or(|member| member.seat != seat);
        if changed {
            if own.is_some() {
                self.free(slot, now);
            }
            self.by_peer.insert(seat.peer, slot);
            self.by_overlay.insert(seat.overlay.clone(), slot);
            self.zone_members[self.layout.zone_of(slot) as usize] += 1;
            self.touch(slot);
        }
        self.slots[slot as usize].member = Some(Member { seat, token, ends });
        Ok(slot)
    }

    /// Prolongs a lease; whether there was one.
    pub fn keep_alive(&mut self, peer: &PeerId, token: &TokenHash, now: Duration) -> bool {
        self.expire(now);
        let ends = now.saturating_add(self.lease);
        let member = self.member_mut(peer, token);
        member.map(|(_, member)| member.ends = ends).is_some()
    }

    /// Frees a peer's slot; whether it had one.
    pub fn leave(&mut self, peer: &PeerId, token: &TokenHash, now: Duration) -> bool {
        self.expire(now);
        let slot = self.member_mut(peer, token).map(|(slot, _)| slot);
        slot.map(|slot| self.free(slot, now)).is_some()
    }

    /// Frees slots of which the lease is over; how many.
    pub fn expire(&mut self, now: Duration) -> usize {
        if now < self.earliest_end {
            return 0;
        }
        let mut over = Vec::new();
        self.earliest_end = Duration::MAX;
        for (slot, member) in (0..).zip(&self.slots) {
            match &member.member {
                Some(member) if member.ends <= now => over.push(slot),
                Some(member) => self.earliest_end = self.earliest_end.min(member.ends),
                None => {}
            }
        }
        for slot in &over {
            self.free(*slot, now);
        }
        over.len()
    }

    fn member_mut(&mut self, peer: &PeerId, token: &TokenHash) -> Option<(u32, &mut Member)> {
        let slot = *self.by_peer.get(peer)?;
        let member = self.slots[slot as usize].member.as_mut();
        let member = member.expect("by_peer names taken slots");
        (member.token == *token).then_some((slot, member))
    }

    fn may_have_back(&self, slot: u32, peer: &PeerId, now: Duration) -> bool {
        self.slots.get(slot as usize).is_some_and(|slot| {
            let was_there = match &slot.last {
                Some((last, _)) => last == peer,
                // Nothing is known of before the restart.
                None => now < self.lease,
            };
            slot.member.is_none() && was_there
        })
    }

    fn best_free(&self) -> Option<u32> {
        let has_room = |zone: &u32| {
            let slots = self.layout.slots_of(*zone);
            self.zone_members[*zone as usize] < slots.end - slots.start
        };
        let zone = (0..self.layout.zones())
            .filter(has_room)
            .min_by_key(|zone| self.zone_members[*zone as usize])?;
        let free = |slot: &u32| self.slots[*slot as usize].member.is_none();
        self.layout
            .slots_of(zone)
            .filter(free)
            .min_by_key(|slot| self.slots[*slot as usize].last.map(|(_, at)| at))
    }

    fn free(&mut self, slot: u32, now: Duration) {
        let Some(member) = self.slots[slot as usize].member.take() else {
            return;
        };
        self.slots[slot as usize].last = Some((member.seat.peer, now));
        self.by_peer.remove(&member.seat.peer);
        self.by_overlay.remove(&member.seat.overlay);
        self.zone_members[self.layout.zone_of(slot) as usize] -= 1;
        self.touch(slot);
    }

    fn touch(&mut self, slot: u32) {
        self.version += 1;
        self.zone_versions[self.layout.zone_of(slot) as usize] = self.version;
    }
}

#[cfg(test)]
mod tests;
