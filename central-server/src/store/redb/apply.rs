//! Changes within one write transaction.
//!
//! Invariant: a change that is refused is refused before it wrote anything, so the others of
//! the same transaction hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

use redb::{ReadableTable as _, Table, WriteTransaction};
use vecino_rest::{Digest, Name, UserName, terms::terms_of};

use super::{
    read::engine,
    schema::{self, Counters, Keys, META, meta},
};
use crate::store::{
    Account, BUCKETS, Change, Expect, Fingerprints, Forgotten, MAX_BUCKET_RECORDS, PeerNo, PeerRow,
    PeerState, Registered, Resource, ResourceNo, Session, StoreError, TokenHash, bucket_of,
    check_room,
    fingerprint::{Bucket, of_record},
};

type Result<T> = std::result::Result<T, StoreError>;

/// The open tables of a transaction.
pub(super) struct Transaction<'t> {
    keys: Keys,
    counters: Counters,
    meta: Table<'t, &'static str, &'static [u8]>,
    peers: Table<'t, u32, &'static [u8]>,
    peer_ids: Table<'t, &'static [u8; 16], u32>,
    buckets: Table<'t, &'static [u8; 5], &'static [u8; Bucket::LEN]>,
    resources: Table<'t, u64, &'static [u8]>,
    by_name: Table<'t, &'static [u8; 18], ()>,
    by_digest: Table<'t, &'static [u8; 14], ()>,
    holders: Table<'t, &'static [u8; 10], ()>,
    by_peer: Table<'t, &'static [u8; 11], ()>,
    terms: Table<'t, &'static [u8], ()>,
    accounts: Table<'t, &'static str, &'static [u8]>,
    /// Of the peers whose records change; written at the end. A peer that announces much sends
    /// many small changes.
    holdings: BTreeMap<PeerNo, Holding>,
    /// Rows of `terms` to come: in their order they cost half as much.
    new_terms: Vec<Vec<u8>>,
}

impl<'t> Transaction<'t> {
    pub(super) fn open(
        writing: &'t WriteTransaction,
        keys: Keys,
        counters: Counters,
    ) -> Result<Self> {
        Ok(Self {
            keys,
            counters,
            meta: writing.open_table(META).map_err(engine)?,
            peers: writing.open_table(schema::PEERS).map_err(engine)?,
            peer_ids: writing.open_table(schema::PEER_IDS).map_err(engine)?,
            buckets: writing.open_table(schema::BUCKETS).map_err(engine)?,
            resources: writing.open_table(schema::RESOURCES).map_err(engine)?,
            by_name: writing.open_table(schema::BY_NAME).map_err(engine)?,
            by_digest: writing.open_table(schema::BY_DIGEST).map_err(engine)?,
            holders: writing.open_table(schema::HOLDERS).map_err(engine)?,
            by_peer: writing.open_table(schema::BY_PEER).map_err(engine)?,
            terms: writing.open_table(schema::TERMS).map_err(engine)?,
            accounts: writing.open_table(schema::ACCOUNTS).map_err(engine)?,
            holdings: BTreeMap::new(),
            new_terms: Vec::new(),
        })
    }

    /// Writes what was put off and the counters, and closes the tables.
    pub(super) fn close(mut self) -> Result<Counters> {
        self.write_terms()?;
        for (peer, holding) in std::mem::take(&mut self.holdings) {
            holding.write(peer, &mut self.buckets)?;
        }
        let bytes = self.counters.to_bytes();
        self.meta
            .insert(meta::COUNTERS, &bytes[..])
            .map_err(engine)?;
        Ok(self.counters)
    }

    /// Of that peer, read when it is wanted first.
    fn holding(&mut self, peer: PeerNo) -> Result<&mut Holding> {
        if !self.holdings.contains_key(&peer) {
            let holding = Holding {
                now: self.fingerprints(peer)?,
                changed: [false; BUCKETS],
            };
            self.holdings.insert(peer, holding);
        }
        self.holdings
            .get_mut(&peer)
            .ok_or_else(|| StoreError::Engine("a holding is not there".into()))
    }

    fn peer(&self, peer: PeerNo) -> Result<Option<PeerRow>> {
        let row = self.peers.get(peer.0).map_err(engine)?;
        row.map(|row| schema::read_peer(row.value())).transpose()
    }

    fn put_peer(&mut self, no: PeerNo, peer: &PeerRow) -> Result<()> {
        self.peers
            .insert(no.0, &schema::peer_row(peer)[..])
            .map_err(engine)?;
        Ok(())
    }

    fn write_terms(&mut self) -> Result<()> {
        let mut terms = std::mem::take(&mut self.new_terms);
        terms.sort_unstable();
        for term in terms {
            self.terms.insert(&term[..], ()).map_err(engine)?;
        }
        Ok(())
    }

    fn fingerprints(&self, peer: PeerNo) -> Result<Fingerprints> {
        if let Some(holding) = self.holdings.get(&peer) {
            return Ok(holding.now.clone());
        }
        let mut all = Fingerprints::default();
        let (from, to) = (schema::bucket(peer, 0), schema::bucket(peer, u8::MAX));
        for row in self
            .buckets
            .range::<&[u8; 5]>(&from..=&to)
            .map_err(engine)?
        {
            let (key, value) = row.map_err(engine)?;
            let [.., bucket] = *key.value();
            all.0[usize::from(bucket)] = Bucket::from_bytes(value.value());
        }
        Ok(all)
    }

    pub(super) fn register(&mut self, peer: &PeerRow) -> Result<Registered> {
        let known = self.peer_ids.get(peer.id.as_bytes()).map_err(engine)?;
        let known = known.map(|no| no.value());
        let no = match known {
            Some(no) => no,
            None => {
                let no = u32::try_from(self.counters.next_peer)
                    .map_err(|_| StoreError::Engine("all peer numbers are used up".into()))?;
                self.counters.next_peer += 1;
                self.counters.peers += 1;
                self.peer_ids
                    .insert(peer.id.as_bytes(), no)
                    .map_err(engine)?;
                no
            }
        };
        let no = PeerNo(no);
        self.put_peer(no, peer)?;
        self.counters.epoch += 1;
        let fingerprints = self.fingerprints(no)?;
        Ok(Registered {
            peer: no,
            epoch: self.counters.epoch,
            fingerprints,
        })
    }

    pub(super) fn lapse(&mut self, peers: &[(PeerNo, TokenHash)], at_ms: i64) -> Result<()> {
        for (no, token) in peers {
            let Some(mut peer) = self.peer(*no)? else {
                continue;
            };
            if peer.token == *token && peer.state == PeerState::Present {
                peer.state = PeerState::Lapsed(at_ms);
                self.put_peer(*no, &peer)?;
            }
        }
        Ok(())
    }

    pub(super) fn end_sessions(&mut self, peers: &[(PeerNo, TokenHash)]) -> Result<()> {
        for (no, token) in peers {
            let is_it = |session: &mut Session| session.token == *token;
            if let Some(mut peer) = self.peer(*no)?
                && peer.session.take_if(is_it).is_some()
            {
                self.put_peer(*no, &peer)?;
            }
        }
        Ok(())
    }

    pub(super) fn set_importing(&mut self, export: Option<Digest>) -> Result<()> {
        match export {
            Some(export) => self.meta.insert(meta::IMPORTING, &export.as_bytes()[..]),
            None => self.meta.remove(meta::IMPORTING),
        }
        .map_err(engine)?;
        Ok(())
    }

    pub(super) fn put_account(&mut self, account: &Account, expect: Expect) -> Result<bool> {
        let user = account.user.as_str();
        let is_there = self.accounts.get(user).map_err(engine)?.is_some();
        let is_right = is_there == (expect == Expect::Present);
        if is_right {
            let row = schema::account_row(account);
            self.accounts.insert(user, &row[..]).map_err(engine)?;
        }
        Ok(is_right)
    }

    pub(super) fn remove_account(&mut self, user: &UserName) -> Result<bool> {
        let removed = self.accounts.remove(user.as_str()).map_err(engine)?;
        Ok(removed.is_some())
    }

    pub(super) fn announce(
        &mut self,
        no: PeerNo,
        token: &TokenHash,
        change: Change,
    ) -> Result<u64> {
        match self.peer(no)? {
            Some(peer) if peer.token == *token && peer.state == PeerState::Present => {}
            _ => return Err(StoreError::NotThePeer),
        }
        let counts = self.holding(no)?.now.counts();
        match change {
            Change::Difference { announce, withdraw } => {
                check_room(&announce, |bucket| counts[usize::from(bucket)])?;
                for (name, digest) in withdraw {
                    for (resource, _) in self.variants(&name, &digest)? {
                        self.remove(no, resource)?;
                    }
                }
                for resource in &announce {
                    self.add(no, resource)?;
                }
            }
            Change::Bucket { bucket, records } => {
                let before = self.held(no, bucket..=bucket, MAX_BUCKET_RECORDS)?;
                let mut stale: BTreeSet<_> = before.into_iter().collect();
                for resource in &records {
                    stale.remove(&self.add(no, resource)?);
                }
                for resource in stale {
                    self.remove(no, resource)?;
                }
            }
        }
        Ok(self.holding(no)?.now.records())
    }

    pub(super) fn forget(&mut self, no: PeerNo, limit: usize) -> Result<Forgotten> {
        let Some(peer) = self
            .peer(no)?
            .filter(|peer| peer.state != PeerState::Present)
        else {
            return Ok(Forgotten {
                records: 0,
                done: true,
            });
        };
        let held = self.held(no, 0..=u8::MAX, limit)?;
        for resource in &held {
            self.remove(no, *resource)?;
        }
        let done = self.holding(no)?.now.records() == 0;
        if done {
            self.peers.remove(no.0).map_err(engine)?;
            self.peer_ids.remove(peer.id.as_bytes()).map_err(engine)?;
            self.counters.peers -= 1;
        }
        Ok(Forgotten {
            records: held.len(),
            done,
        })
    }

    /// Resources of a peer in some buckets, in the order of the index.
    fn held(
        &self,
        peer: PeerNo,
        buckets: RangeInclusive<u8>,
        limit: usize,
    ) -> Result<Vec<ResourceNo>> {
        let (from, to) = schema::of_peer(peer, *buckets.start(), *buckets.end());
        let rows = self
            .by_peer
            .range::<&[u8; 11]>(&from..=&to)
            .map_err(engine)?
            .take(limit);
        let numbers = rows.map(|row| {
            let key = row.map_err(engine)?.0;
            schema::resource_at_end(key.value()).ok_or_else(|| schema::damaged("a holding"))
        });
        numbers.collect()
    }

    /// The resources of that name and digest, with their sizes.
    fn variants(&self, name: &Name, digest: &Digest) -> Result<Vec<(ResourceNo, u64)>> {
        let (from, to) = schema::of_identity(&self.keys.identity(name, digest));
        let mut variants = Vec::new();
        for row in self
            .by_name
            .range::<&[u8; 18]>(&from..=&to)
            .map_err(engine)?
        {
            let key = row.map_err(engine)?.0;
            let no = schema::resource_at_end(key.value());
            let no = no.ok_or_else(|| schema::damaged("an index of names"))?;
            let resource = self.resource(no)?;
            if resource.name == *name && resource.digest == *digest {
                variants.push((no, resource.size));
            }
        }
        Ok(variants)
    }

    fn resource(&self, no: ResourceNo) -> Result<Resource> {
        let row = self.resources.get(no.0).map_err(engine)?;
        schema::read_resource(
            row.ok_or_else(|| schema::damaged("a resource is missing"))?
                .value(),
        )
    }

    /// Adds a record, and the resource when it is new; the resource's number.
    fn add(&mut self, peer: PeerNo, resource: &Resource) -> Result<ResourceNo> {
        let mut found = None;
        for (no, size) in self.variants(&resource.name, &resource.digest)? {
            if size == resource.size {
                found = Some(no);
            } else {
                // The same name and digest with another size cannot both be right: the newer
                // word counts.
                self.remove(peer, no)?;
            }
        }
        let no = match found {
            Some(no) => no,
            None => self.create(resource)?,
        };
        let known = self
            .holders
            .insert(&schema::holder(no, peer), ())
            .map_err(engine)?
            .is_some();
        if !known {
            let bucket = bucket_of(&resource.digest);
            self.by_peer
                .insert(&schema::by_peer(peer, bucket, no), ())
                .map_err(engine)?;
            let share = of_record(&resource.name, &resource.digest, resource.size);
            self.holding(peer)?.bucket(bucket).add(share);
            self.counters.records += 1;
        }
        Ok(no)
    }

    fn create(&mut self, resource: &Resource) -> Result<ResourceNo> {
        let no = ResourceNo(self.counters.next_resource);
        if no > ResourceNo::MAX {
            return Err(StoreError::Engine(
                "all resource numbers are used up".into(),
            ));
        }
        self.counters.next_resource += 1;
        self.counters.resources += 1;
        let identity = self.keys.identity(&resource.name, &resource.digest);
        self.resources
            .insert(no.0, &schema::resource_row(resource)[..])
            .map_err(engine)?;
        self.by_name
            .insert(&schema::by_name(&identity, no), ())
            .map_err(engine)?;
        self.by_digest
            .insert(&schema::by_digest(&resource.digest, no), ())
            .map_err(engine)?;
        for term in terms_of(&resource.name) {
            self.new_terms.push(schema::term(&term, no));
        }
        Ok(no)
    }

    /// Removes a record, and the resource with its last holder. Nothing happens when the peer
    /// does not hold it.
    fn remove(&mut self, peer: PeerNo, no: ResourceNo) -> Result<()> {
        if self
            .holders
            .remove(&schema::holder(no, peer))
            .map_err(engine)?
            .is_none()
        {
            return Ok(());
        }
        let resource = self.resource(no)?;
        let bucket = bucket_of(&resource.digest);
        self.by_peer
            .remove(&schema::by_peer(peer, bucket, no))
            .map_err(engine)?;
        self.holding(peer)?.bucket(bucket).remove(of_record(
            &resource.name,
            &resource.digest,
            resource.size,
        ));
        self.counters.records -= 1;
        let (first, last) = (
            schema::holder(no, PeerNo(0)),
            schema::holder(no, PeerNo(u32::MAX)),
        );
        let held = self
            .holders
            .range::<&[u8; 10]>(&first..=&last)
            .map_err(engine)?
            .next()
            .is_some();
        if !held {
            let identity = self.keys.identity(&resource.name, &resource.digest);
            self.resources.remove(no.0).map_err(engine)?;
            self.by_name
                .remove(&schema::by_name(&identity, no))
                .map_err(engine)?;
            self.by_digest
                .remove(&schema::by_digest(&resource.digest, no))
                .map_err(engine)?;
            // One of them may still be to come.
            self.write_terms()?;
            for term in terms_of(&resource.name) {
                self.terms
                    .remove(&schema::term(&term, no)[..])
                    .map_err(engine)?;
            }
            self.counters.resources -= 1;
        }
        Ok(())
    }
}

/// The fingerprints of one peer while its records change.
struct Holding {
    now: Fingerprints,
    changed: [bool; BUCKETS],
}

impl Holding {
    fn bucket(&mut self, bucket: u8) -> &mut Bucket {
        let bucket = usize::from(bucket);
        self.changed[bucket] = true;
        &mut self.now.0[bucket]
    }

    fn write(
        self,
        peer: PeerNo,
        rows: &mut Table<'_, &'static [u8; 5], &'static [u8; Bucket::LEN]>,
    ) -> Result<()> {
        for (number, (bucket, changed)) in (0..=u8::MAX).zip(self.now.0.iter().zip(self.changed)) {
            let key = schema::bucket(peer, number);
            if changed && bucket.count == 0 {
                rows.remove(&key).map_err(engine)?;
            } else if changed {
                rows.insert(&key, &bucket.to_bytes()).map_err(engine)?;
            }
        }
        Ok(())
    }
}
