//! The records that this member keeps for others: pure, time is passed in.
//!
//! Invariant: `names` and `senders` hold the same records; a record belongs to the peer that sent
//! it and lives no longer than that peer's word; a share's fingerprint is that of its records.
//! Nothing grows beyond the bounds below, whoever sends what; who is who was settled before
//! ([`super::trust`]).

use std::{
    collections::{BTreeSet, HashMap, btree_map::BTreeMap},
    time::{Duration, Instant},
};

use vecino_rest::{
    Digest, Name, PeerId,
    body::{Provider, Variant},
};

use super::fingerprint::{Fingerprint, of_record};
use crate::{content::catalogue::Record, locate::overlay::Contact};

/// Records of all senders together.
pub(super) const MAX_RECORDS: usize = 400_000;
/// Records of one sender: none can take all the room.
pub(super) const MAX_OF_SENDER: usize = MAX_RECORDS / 4;
/// Records under one name.
pub(super) const MAX_OF_NAME: usize = 128;
/// Records of one sender under one name.
pub(super) const MAX_OF_NAME_AND_SENDER: usize = 4;
/// Variants in an answer.
pub(super) const MAX_VARIANTS: usize = 32;

#[derive(Debug)]
struct Entry {
    sender: PeerId,
    digest: Digest,
    size: u64,
    modified_ms: i64,
}

#[derive(Debug, Default)]
struct Share {
    records: BTreeSet<(Name, Digest)>,
    fingerprint: Fingerprint,
}

#[derive(Debug)]
struct Sender {
    contact: Contact,
    until: Instant,
    shares: HashMap<u32, Share>,
    records: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Kept {
    names: HashMap<Name, Vec<Entry>>,
    senders: HashMap<PeerId, Sender>,
    records: usize,
}

impl Kept {
    /// Adds records of a sender in `slot`, as far as there is room, and prolongs all of its
    /// records; the fingerprint of what it has in the slot then.
    pub(super) fn put(
        &mut self,
        sender: &Contact,
        slot: u32,
        records: Vec<Record>,
        now: Instant,
        life: Duration,
    ) -> Fingerprint {
        self.prolong(sender, now, life);
        for record in records {
            self.add(sender.peer, slot, record);
        }
        self.fingerprint(&sender.peer, slot)
    }

    /// Takes records of a sender out; the fingerprint of what is left in the slot.
    pub(super) fn withdraw(
        &mut self,
        peer: &PeerId,
        slot: u32,
        records: impl IntoIterator<Item = (Name, Digest)>,
    ) -> Fingerprint {
        for key in records {
            self.remove(peer, slot, &key);
        }
        self.fingerprint(peer, slot)
    }

    /// Takes out everything of a sender in `slot`.
    pub(super) fn clear(&mut self, peer: &PeerId, slot: u32) {
        let share = self
            .senders
            .get(peer)
            .and_then(|sender| sender.shares.get(&slot));
        let all = share.map(|share| share.records.clone()).unwrap_or_default();
        self.withdraw(peer, slot, all);
    }

    /// Prolongs all records of a sender; which of the slots have another fingerprint.
    pub(super) fn refresh(
        &mut self,
        sender: &Contact,
        slots: impl IntoIterator<Item = (u32, Fingerprint)>,
        now: Instant,
        life: Duration,
    ) -> Vec<u32> {
        self.prolong(sender, now, life);
        slots
            .into_iter()
            .filter(|(slot, fingerprint)| self.fingerprint(&sender.peer, *slot) != *fingerprint)
            .map(|(slot, _)| slot)
            .collect()
    }

    /// Who holds `name`, by content.
    pub(super) fn find(&self, name: &Name, now: Instant) -> Vec<Variant> {
        let mut variants: BTreeMap<(Digest, u64), Variant> = BTreeMap::new();
        for entry in self.names.get(name).into_iter().flatten() {
            let Some(sender) = self.senders.get(&entry.sender) else {
                continue;
            };
            if sender.until <= now {
                continue;
            }
            let variant = variants
                .entry((entry.digest, entry.size))
                .or_insert_with(|| Variant {
                    name: name.clone(),
                    digest: Some(entry.digest),
                    size: Some(entry.size),
                    modified_ms: Some(entry.modified_ms),
                    provider_count: 0,
                    providers: Vec::new(),
                });
            variant.provider_count += 1;
            variant.providers.push(Provider {
                peer: Some(entry.sender),
                url: sender.contact.url.to_string(),
                site: sender.contact.site.clone(),
                partial: false,
            });
        }
        let mut variants: Vec<_> = variants.into_values().collect();
        variants.sort_by_key(|variant| std::cmp::Reverse(variant.provider_count));
        variants.truncate(MAX_VARIANTS);
        variants
    }

    /// Forgets senders that did not prolong their records.
    pub(super) fn expire(&mut self, now: Instant) {
        let over = |sender: &Sender| sender.until <= now;
        let gone: Vec<_> = self
            .senders
            .iter()
            .filter(|(_, sender)| over(sender))
            .map(|(peer, sender)| (*peer, sender.shares.keys().copied().collect::<Vec<_>>()))
            .collect();
        for (peer, slots) in gone {
            for slot in slots {
                self.clear(&peer, slot);
            }
            self.senders.remove(&peer);
        }
    }

    /// Forgets everything: the network has another layout.
    pub(super) fn forget_all(&mut self) {
        *self = Self::default();
    }

    /// How many records are of `slot`, and how many of other slots.
    pub(super) fn counts(&self, slot: Option<u32>) -> (u64, u64) {
        let proper: usize = self
            .senders
            .values()
            .filter_map(|sender| sender.shares.get(&slot?))
            .map(|share| share.records.len())
            .sum();
        (proper as u64, (self.records - proper) as u64)
    }

    fn fingerprint(&self, peer: &PeerId, slot: u32) -> Fingerprint {
        self.senders
            .get(peer)
            .and_then(|sender| sender.shares.get(&slot))
            .map(|share| share.fingerprint)
            .unwrap_or_default()
    }

    fn prolong(&mut self, sender: &Contact, now: Instant, life: Duration) {
        let known = self.senders.entry(sender.peer).or_insert_with(|| Sender {
            contact: sender.clone(),
            until: now,
            shares: HashMap::new(),
            records: 0,
        });
        known.contact = sender.clone();
        known.until = now + life;
    }

    fn add(&mut self, peer: PeerId, slot: u32, record: Record) {
        let key = (record.name.clone(), record.digest);
        // It may come with another size.
        self.remove(&peer, slot, &key);
        let sender = self.senders.get_mut(&peer).expect("prolonged before");
        if self.records >= MAX_RECORDS || sender.records >= MAX_OF_SENDER {
            return;
        }
        let entries = self.names.entry(record.name.clone()).or_default();
        let own = entries.iter().filter(|entry| entry.sender == peer).count();
        if entries.len() >= MAX_OF_NAME || own >= MAX_OF_NAME_AND_SENDER {
            return;
        }
        let share = sender.shares.entry(slot).or_default();
        share.fingerprint += of_record(&record.name, &record.digest, record.size);
        share.records.insert(key);
        sender.records += 1;
        self.records += 1;
        entries.push(Entry {
            sender: peer,
            digest: record.digest,
            size: record.size,
            modified_ms: record.modified_ms,
        });
    }

    fn remove(&mut self, peer: &PeerId, slot: u32, key: &(Name, Digest)) {
        let Some(sender) = self.senders.get_mut(peer) else {
            return;
        };
        let Some(share) = sender.shares.get_mut(&slot) else {
            return;
        };
        if !share.records.remove(key) {
            return;
        }
        let (name, digest) = key;
        let entries = self.names.get_mut(name).expect("senders and names agree");
        let place = entries
            .iter()
            .position(|entry| entry.sender == *peer && entry.digest == *digest)
            .expect("senders and names agree");
        let entry = entries.swap_remove(place);
        if entries.is_empty() {
            self.names.remove(name);
        }
        share.fingerprint -= of_record(name, digest, entry.size);
        if share.records.is_empty() {
            sender.shares.remove(&slot);
        }
        sender.records -= 1;
        self.records -= 1;
    }
}

#[cfg(test)]
mod tests;
