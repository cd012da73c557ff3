//! Changes within one write transaction.
//!
//! Invariant: a change that is refused is refused before it wrote anything, so the others of
//! the same transaction hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::resume_unwind,
    thread,
};

use redb::{ReadableTable as _, Table, WriteTransaction};
use vecino_rest::{Digest, UserName};

use super::{
    cut,
    lists::{self, Edit},
    read::{engine, engine_io},
    resources::Known,
    rows,
    schema::{self, Counters, IdentityKey, Keys, META, meta},
    texts::Text,
};
use crate::store::{
    Account, BUCKETS, Change, Expect, Fingerprints, Forgotten, PeerNo, PeerRow, PeerState,
    Registered, ResourceNo, Session, StoreError, TokenHash, check_room,
};

pub(super) type Result<T> = std::result::Result<T, StoreError>;

/// A table of rows of any length.
type Rows<'t> = Table<'t, &'static [u8], &'static [u8]>;

/// Terms from which on they are written on a thread of their own.
const TERMS_APART: usize = 4_096;

/// The open tables of a transaction.
pub(super) struct Transaction<'t> {
    pub(super) keys: Keys,
    pub(super) counters: Counters,
    meta: Table<'t, &'static str, &'static [u8]>,
    peers: Table<'t, u32, &'static [u8]>,
    peer_ids: Table<'t, &'static [u8; 16], u32>,
    accounts: Table<'t, &'static str, &'static [u8]>,
    prints: Table<'t, &'static [u8; 5], &'static [u8]>,
    pub(super) known: Rows<'t>,
    named: Rows<'t>,
    termed: Rows<'t>,
    pub(super) identities: Table<'t, &'static IdentityKey, ()>,
    pub(super) crowds: Table<'t, &'static [u8; 10], ()>,
    held: Rows<'t>,
    /// Of the peers whose records change; written at the end. A peer that announces much sends
    /// many small changes.
    holdings: BTreeMap<PeerNo, Holding>,
    /// Resources that change; `None` goes. All is put off: in its order, and at once, it costs a
    /// fraction.
    pub(super) new_known: BTreeMap<ResourceNo, Option<Known>>,
    /// Keys of `identities` that come (true) or go.
    pub(super) new_identities: BTreeMap<IdentityKey, bool>,
    /// What comes to `named` and goes.
    pub(super) new_named: Vec<cut::Edit<Text>>,
    /// The same of `termed`.
    pub(super) new_termed: Vec<cut::Edit<Text>>,
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
            accounts: writing.open_table(schema::ACCOUNTS).map_err(engine)?,
            prints: writing.open_table(schema::PRINTS).map_err(engine)?,
            known: writing.open_table(schema::KNOWN).map_err(engine)?,
            named: writing.open_table(schema::NAMED).map_err(engine)?,
            termed: writing.open_table(schema::TERMED).map_err(engine)?,
            identities: writing.open_table(schema::IDENTITIES).map_err(engine)?,
            crowds: writing.open_table(schema::CROWDS).map_err(engine)?,
            held: writing.open_table(schema::HELD).map_err(engine)?,
            holdings: BTreeMap::new(),
            new_known: BTreeMap::new(),
            new_identities: BTreeMap::new(),
            new_named: Vec::new(),
            new_termed: Vec::new(),
        })
    }

    /// Writes what was put off and the counters, and closes the tables.
    pub(super) fn close(mut self) -> Result<Counters> {
        if self.new_termed.len() < TERMS_APART {
            self.write_terms()?;
            self.write_resources()?;
        } else {
            self.write_terms_apart()?;
        }
        for (peer, mut holding) in std::mem::take(&mut self.holdings) {
            holding.write_list(peer, &mut self.held)?;
            holding.write_prints(peer, &mut self.prints)?;
        }
        let bytes = self.counters.to_bytes();
        self.meta
            .insert(meta::COUNTERS, &bytes[..])
            .map_err(engine)?;
        Ok(self.counters)
    }

    /// Of that peer, read when it is wanted first.
    pub(super) fn holding(&mut self, peer: PeerNo) -> Result<&mut Holding> {
        if !self.holdings.contains_key(&peer) {
            let holding = Holding {
                now: self.fingerprints(peer)?,
                changed: [false; BUCKETS],
                edits: Vec::new(),
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

    /// Writes the terms on a thread of their own: they are about as much as all else.
    fn write_terms_apart(&mut self) -> Result<()> {
        let terms = std::mem::take(&mut self.new_termed);
        let named = (&mut self.named, std::mem::take(&mut self.new_named));
        let known = (&mut self.known, std::mem::take(&mut self.new_known));
        let identities = std::mem::take(&mut self.new_identities);
        let identities = (&mut self.identities, identities);
        let termed = &mut self.termed;
        thread::scope(|scope| {
            let apart = thread::Builder::new()
                .name("store terms".into())
                .spawn_scoped(scope, || write_texts(termed, terms))
                .map_err(engine_io)?;
            let others = write_texts(named.0, named.1)
                .and_then(|()| write_identities(identities.0, identities.1))
                .and_then(|()| write_known(known.0, known.1));
            let terms = apart.join().unwrap_or_else(|panic| resume_unwind(panic));
            others.and(terms)
        })
    }

    pub(super) fn write_terms(&mut self) -> Result<()> {
        write_texts(&mut self.termed, std::mem::take(&mut self.new_termed))
    }

    /// Writes what was put off of the other tables of resources.
    pub(super) fn write_resources(&mut self) -> Result<()> {
        write_texts(&mut self.named, std::mem::take(&mut self.new_named))?;
        let identities = std::mem::take(&mut self.new_identities);
        write_identities(&mut self.identities, identities)?;
        write_known(&mut self.known, std::mem::take(&mut self.new_known))
    }

    fn fingerprints(&self, peer: PeerNo) -> Result<Fingerprints> {
        if let Some(holding) = self.holdings.get(&peer) {
            return Ok(holding.now.clone());
        }
        let mut all = Fingerprints::default();
        let (from, to) = (schema::print(peer, 0), schema::print(peer, u8::MAX));
        for row in self.prints.range::<&[u8; 5]>(&from..=&to).map_err(engine)? {
            let (key, value) = row.map_err(engine)?;
            let [.., group] = *key.value();
            rows::read_prints(group, value.value(), &mut all)?;
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
                    for known in self.variants(&name, &digest)? {
                        self.leave(no, known)?;
                    }
                }
                for resource in &announce {
                    self.add(no, resource)?;
                }
            }
            Change::Bucket { bucket, records } => {
                let mut stale: BTreeSet<_> = self.in_bucket(no, bucket)?.into_iter().collect();
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

    pub(super) fn forget(&mut self, no: PeerNo, at_ms: i64, limit: usize) -> Result<Forgotten> {
        let peer = match self.peer(no)? {
            Some(peer) if peer.state.is_lapsed_at(at_ms) => peer,
            kept => return Ok(Forgotten::kept(kept.map(|peer| peer.state))),
        };
        let held = self.first_held(no, limit)?;
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
            lapsed_ms: None,
        })
    }

    /// The list of a peer, as it is now.
    fn list(&mut self, peer: PeerNo, each: impl FnMut(u64) -> bool) -> Result<()> {
        if let Some(holding) = self.holdings.get_mut(&peer) {
            holding.write_list(peer, &mut self.held)?;
        }
        lists::read(&self.held, &lists::of_peer(peer), each)
    }

    fn in_bucket(&mut self, peer: PeerNo, bucket: u8) -> Result<Vec<ResourceNo>> {
        let mut found = Vec::new();
        self.list(peer, |number| {
            let (no, its) = lists::read_held(number);
            if its == bucket {
                found.push(no);
            }
            true
        })?;
        Ok(found)
    }

    fn first_held(&mut self, peer: PeerNo, limit: usize) -> Result<Vec<ResourceNo>> {
        let mut found = Vec::new();
        if limit > 0 {
            self.list(peer, |number| {
                found.push(lists::read_held(number).0);
                found.len() < limit
            })?;
        }
        Ok(found)
    }
}

fn write_texts(rows: &mut Rows<'_>, mut edits: Vec<cut::Edit<Text>>) -> Result<()> {
    cut::in_order(&mut edits);
    cut::edit(rows, &edits)
}

fn write_known(rows: &mut Rows<'_>, known: BTreeMap<ResourceNo, Option<Known>>) -> Result<()> {
    let edits = known.into_iter().map(|(no, known)| match known {
        Some(known) => (known, true),
        None => (Known::at_no(no), false),
    });
    cut::edit(rows, &edits.collect::<Vec<_>>())
}

/// In their order, neighbours find their pages changed already.
fn write_identities(
    identities: &mut Table<'_, &'static IdentityKey, ()>,
    keys: BTreeMap<IdentityKey, bool>,
) -> Result<()> {
    for (key, is_there) in keys {
        if is_there {
            identities.insert(&key, ()).map_err(engine)?;
        } else {
            identities.remove(&key).map_err(engine)?;
        }
    }
    Ok(())
}

/// What one peer holds while its records change.
pub(super) struct Holding {
    now: Fingerprints,
    changed: [bool; BUCKETS],
    /// What comes to its list and goes.
    edits: Vec<Edit>,
}

impl Holding {
    /// A record came or goes, with its share in the fingerprint.
    pub(super) fn count(&mut self, no: ResourceNo, bucket: u8, share: u128, comes: bool) {
        self.edits.push((lists::held(no, bucket), comes));
        let bucket = usize::from(bucket);
        self.changed[bucket] = true;
        if comes {
            self.now.0[bucket].add(share);
        } else {
            self.now.0[bucket].remove(share);
        }
    }

    fn write_list(&mut self, peer: PeerNo, rows: &mut Rows<'_>) -> Result<()> {
        let mut edits = std::mem::take(&mut self.edits);
        lists::in_order(&mut edits);
        lists::edit(rows, &lists::of_peer(peer), &edits)
    }

    fn write_prints(
        &self,
        peer: PeerNo,
        rows: &mut Table<'_, &'static [u8; 5], &'static [u8]>,
    ) -> Result<()> {
        let groups = self.now.0.chunks(rows::GROUP);
        let changed = self.changed.chunks(rows::GROUP);
        for (group, (buckets, changed)) in (0..).zip(groups.zip(changed)) {
            if !changed.contains(&true) {
                continue;
            }
            let key = schema::print(peer, group);
            let row = rows::prints_row(buckets);
            if row.is_empty() {
                rows.remove(&key).map_err(engine)?;
            } else {
                rows.insert(&key, &row[..]).map_err(engine)?;
            }
        }
        Ok(())
    }
}
