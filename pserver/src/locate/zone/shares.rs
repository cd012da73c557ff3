//! What this peer has to make findable, by slot: pure.
//!
//! Invariant: `records` are those of the catalogue as far as its changes were applied;
//! `fingerprint` is that of `records`; `base` is what it was before the changes in `recent`.

use std::collections::BTreeMap;

use vecino_rest::{Digest, Name, zone::ZoneLayout};

use super::fingerprint::{Fingerprint, of_record};
use crate::content::catalogue::{Change, Record};

/// Changes that are kept as such; with more, everything in the slot is sent again.
const MAX_RECENT: usize = 1024;

/// The records in one slot.
#[derive(Debug, Default)]
pub(super) struct Share {
    records: BTreeMap<(Name, Digest), Record>,
    fingerprint: Fingerprint,
    base: Fingerprint,
    recent: Vec<Change>,
    /// More changed than `recent` tells.
    overflowed: bool,
}

impl Share {
    /// All of them.
    pub(super) fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.values()
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Of all of them.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// What changed since the fingerprint was `known`, in order, if that can be told.
    pub(super) fn changes_since(&self, known: Fingerprint) -> Option<&[Change]> {
        (!self.overflowed && known == self.base).then_some(&self.recent)
    }

    fn remember(&mut self, change: Change) {
        if self.recent.len() < MAX_RECENT {
            self.recent.push(change);
        } else {
            self.overflowed = true;
        }
    }

    fn settle(&mut self) {
        self.base = self.fingerprint;
        self.recent.clear();
        self.overflowed = false;
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Shares {
    layout: ZoneLayout,
    slots: BTreeMap<u32, Share>,
}

impl Shares {
    /// Nothing yet.
    pub(super) fn new(layout: ZoneLayout) -> Self {
        Self {
            layout,
            slots: BTreeMap::new(),
        }
    }

    /// The layout that slots are of.
    pub(super) fn layout(&self) -> ZoneLayout {
        self.layout
    }

    /// Slots that have records, or had some until lately.
    pub(super) fn slots(&self) -> impl Iterator<Item = (u32, &Share)> {
        self.slots.iter().map(|(slot, share)| (*slot, share))
    }

    /// One of them.
    pub(super) fn get(&self, slot: u32) -> Option<&Share> {
        self.slots.get(&slot)
    }

    /// Applies a change; the slot that it is in.
    pub(super) fn apply(&mut self, change: Change) -> u32 {
        let name = match &change {
            Change::Added(record) => &record.name,
            Change::Removed(_, name, _) => name,
        };
        let slot = self.layout.slot_of(name);
        let share = self.slots.entry(slot).or_default();
        let size = |record: &Record| of_record(&record.name, &record.digest, record.size);
        let before = match &change {
            Change::Added(record) => {
                share.fingerprint += size(record);
                let key = (record.name.clone(), record.digest);
                share.records.insert(key, record.clone())
            }
            Change::Removed(digest, name, _) => share.records.remove(&(name.clone(), *digest)),
        };
        if let Some(before) = before {
            share.fingerprint -= size(&before);
        }
        share.remember(change);
        slot
    }

    /// What changed lately was told to everybody: it need not be known as changes any more.
    pub(super) fn settle(&mut self, slot: u32) {
        if let Some(share) = self.slots.get_mut(&slot) {
            share.settle();
            if share.is_empty() {
                self.slots.remove(&slot);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(name: u8, content: u8) -> Record {
        Record {
            name: Name::parse(&format!("{name}")).expect("valid"),
            digest: Digest::of(&[content]),
            size: content.into(),
            modified_ms: 0,
        }
    }

    proptest! {
        /// Who applies what is sent has what the sender has: by changes, or all at once.
        #[test]
        fn fingerprints_and_changes_follow_the_catalogue(
            steps in prop::collection::vec((any::<bool>(), 0..6_u8, 0..3_u8, any::<bool>()), 0..60),
        ) {
            let mut shares = Shares::new(ZoneLayout::derived(6).expect("valid"));
            let mut theirs: BTreeMap<u32, (Fingerprint, BTreeMap<_, _>)> = BTreeMap::new();
            for (add, name, content, settles) in steps {
                let record = record(name, content);
                let slot = shares.apply(match add {
                    true => Change::Added(record),
                    false => Change::Removed(record.digest, record.name, record.size),
                });
                if !settles {
                    continue;
                }
                let share = shares.get(slot).expect("applied");
                let (known, held) = theirs.entry(slot).or_default();
                for change in share.changes_since(*known).expect("few") {
                    match change {
                        Change::Added(r) => held.insert((r.name.clone(), r.digest), r.clone()),
                        Change::Removed(digest, name, _) => held.remove(&(name.clone(), *digest)),
                    };
                }
                *known = share.fingerprint();
                prop_assert_eq!(&share.records, &*held);
                let mut sum = Fingerprint::default();
                for record in held.values() {
                    sum += of_record(&record.name, &record.digest, record.size);
                }
                prop_assert_eq!(sum, share.fingerprint());
                shares.settle(slot);
            }
        }
    }
}
