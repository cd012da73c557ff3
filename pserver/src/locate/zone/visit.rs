//! Telling one member what it is to keep: by changes where it has what it had, else all of a slot.
//!
//! Invariant: what is remembered as told is what the member acknowledged; a message that failed
//! leaves the slot as it was remembered, so that it is told again.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use tonic::Status;

use super::{
    Node,
    convert::{self, MAX_BATCH},
    fingerprint::Fingerprint,
    peers::From,
    shares::{Share, Shares},
};
use crate::{content::catalogue::Change, locate::overlay::Contact};

/// What a member acknowledged of a slot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told {
    /// Our fingerprint when it was told.
    ours: Fingerprint,
    /// Its own afterwards; another one when it had no room.
    theirs: Fingerprint,
    /// When it was told everything.
    whole_at: Instant,
}

/// What is to be done at one member.
#[derive(Debug)]
pub(super) struct Job {
    /// Who.
    pub(super) contact: Contact,
    /// Slots that it is to have as ours are.
    pub(super) slots: Vec<u32>,
    /// Slots that it has no more business with.
    pub(super) drop: Vec<u32>,
}

impl Job {
    /// Nothing yet.
    pub(super) fn at(contact: &Contact) -> Self {
        Self {
            contact: contact.clone(),
            slots: Vec::new(),
            drop: Vec::new(),
        }
    }
}

/// One round of telling one member.
pub(super) struct Visit<'a> {
    pub(super) node: &'a Node,
    /// Where this peer sits.
    pub(super) from: From,
    pub(super) shares: &'a Shares,
    /// What the member was told before.
    pub(super) told: BTreeMap<u32, Told>,
    /// Of a record.
    pub(super) life: Duration,
}

/// Whom, what it was told by now, and whether that was all.
pub(super) type Outcome = (Contact, BTreeMap<u32, Told>, Result<(), Status>);

impl Visit<'_> {
    /// Tells it; with `refresh`, asks first whether it still has what it was told.
    pub(super) async fn run(mut self, job: Job, refresh: bool) -> Outcome {
        let result = match job.contact.peer == self.node.me.peer {
            true => {
                self.tell_myself(&job);
                Ok(())
            }
            false => self.tell(&job, refresh).await,
        };
        (job.contact, self.told, result)
    }

    fn remember(&mut self, slot: u32, share: &Share, theirs: Fingerprint, whole: bool) {
        let before = self.told.get(&slot).map(|told| told.whole_at);
        if share.is_empty() && theirs == Fingerprint::default() {
            self.told.remove(&slot);
            return;
        }
        let told = Told {
            ours: share.fingerprint(),
            theirs,
            whole_at: before.filter(|_| !whole).unwrap_or_else(Instant::now),
        };
        self.told.insert(slot, told);
    }

    /// This peer keeps records of its own, too, where they belong to it.
    fn tell_myself(&mut self, job: &Job) {
        let node = self.node;
        let mut kept = node.kept();
        let now = Instant::now();
        for slot in &job.drop {
            kept.clear(&node.me.peer, *slot);
            self.told.remove(slot);
        }
        for slot in &job.slots {
            let Some(share) = self.shares.get(*slot) else {
                kept.clear(&node.me.peer, *slot);
                self.told.remove(slot);
                continue;
            };
            let told = self.told.get(slot).map(|told| told.ours);
            for change in told
                .and_then(|told| share.changes_since(told))
                .into_iter()
                .flatten()
            {
                match change.clone() {
                    Change::Added(record) => {
                        kept.put(&node.me, *slot, vec![record], now, self.life);
                    }
                    Change::Removed(digest, name, _) => {
                        kept.withdraw(&node.me.peer, *slot, [(name, digest)]);
                    }
                }
            }
            let known = [(*slot, share.fingerprint())];
            let mut theirs = share.fingerprint();
            let differs = !kept.refresh(&node.me, known, now, self.life).is_empty();
            if self.is_full(*slot, share) {
                continue;
            }
            if differs {
                kept.clear(&node.me.peer, *slot);
                let records = share.records().cloned().collect();
                theirs = kept.put(&node.me, *slot, records, now, self.life);
            }
            self.remember(*slot, share, theirs, differs);
        }
    }

    /// Whether the member had no room for all of the slot a moment ago, and nothing changed.
    fn is_full(&self, slot: u32, share: &Share) -> bool {
        self.told.get(&slot).is_some_and(|told| {
            told.ours == share.fingerprint()
                && told.theirs != told.ours
                && told.whole_at.elapsed() < self.life
        })
    }

    async fn tell(&mut self, job: &Job, refresh: bool) -> Result<(), Status> {
        let (node, to) = (self.node, &job.contact);
        for slot in &job.drop {
            // It ends by itself when the member does not hear of it.
            self.told.remove(slot);
            node.peers.withdraw(to, self.from, *slot, None).await?;
        }
        if refresh && !self.told.is_empty() {
            let told: Vec<_> = self
                .told
                .iter()
                .map(|(slot, told)| (*slot, told.theirs))
                .collect();
            for slot in node.peers.refresh(to, self.from, &told).await? {
                self.told.remove(&slot);
            }
        }
        for slot in &job.slots {
            let told = self.told.get(slot).copied();
            let Some(share) = self.shares.get(*slot) else {
                // Its last record went, and this member did not hear of it.
                if told.is_some() {
                    node.peers.withdraw(to, self.from, *slot, None).await?;
                    self.told.remove(slot);
                }
                continue;
            };
            let has_all = told
                .is_some_and(|told| told.ours == share.fingerprint() && told.theirs == told.ours);
            if has_all || self.is_full(*slot, share) || (told.is_none() && share.is_empty()) {
                continue;
            }
            match told.and_then(|told| share.changes_since(told.ours)) {
                Some(changes) => self.tell_changes(to, *slot, share, changes).await?,
                None => self.tell_whole(to, *slot, share).await?,
            }
        }
        Ok(())
    }

    async fn tell_changes(
        &mut self,
        to: &Contact,
        slot: u32,
        share: &Share,
        changes: &[Change],
    ) -> Result<(), Status> {
        // The last change of a record wins, so the order of the two messages does not matter.
        let mut last = BTreeMap::new();
        for change in changes {
            let key = match change {
                Change::Added(record) => (&record.name, &record.digest),
                Change::Removed(digest, name, _) => (name, digest),
            };
            last.insert(key, change);
        }
        let (mut added, mut gone) = (Vec::new(), Vec::new());
        for change in last.into_values() {
            match change {
                Change::Added(record) => added.push(record),
                Change::Removed(digest, name, _) => gone.push(convert::gone(digest, name)),
            }
        }
        let peers = &self.node.peers;
        let mut theirs = Fingerprint::default();
        if !gone.is_empty() {
            theirs = peers.withdraw(to, self.from, slot, Some(gone)).await?;
        }
        if !added.is_empty() {
            theirs = peers.put(to, self.from, slot, added, false).await?;
        }
        let differs = self
            .told
            .get(&slot)
            .is_some_and(|told| told.theirs == told.ours)
            && theirs != share.fingerprint();
        if differs {
            // It lost something meanwhile.
            return self.tell_whole(to, slot, share).await;
        }
        self.remember(slot, share, theirs, false);
        Ok(())
    }

    async fn tell_whole(&mut self, to: &Contact, slot: u32, share: &Share) -> Result<(), Status> {
        let records: Vec<_> = share.records().collect();
        let mut theirs = Fingerprint::default();
        // Even nothing: the reset takes away what was there.
        let chunks = records.chunks(MAX_BATCH).map(<[_]>::to_vec);
        let chunks = chunks.chain(records.is_empty().then(Vec::new));
        for (number, chunk) in chunks.enumerate() {
            let put = self.node.peers.put(to, self.from, slot, chunk, number == 0);
            theirs = put.await?;
        }
        if theirs != share.fingerprint() {
            log::warn!("a member of the zone has no room for all records of slot {slot}");
        }
        self.remember(slot, share, theirs, true);
        Ok(())
    }
}
