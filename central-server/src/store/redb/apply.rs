//! Changes within one write transaction.
//!
//! Invariant: a change that is refused is refused before it wrote anything, so the others of
//! the same transaction hold.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    panic::resume_unwind,
    thread,
};

use redb::{ReadableTable as _, Table, WriteTransaction};
use vecino_rest::{Digest, UserName};

use super::{
    lists::{self, Edit},
    read::{engine, engine_io},
    rows::{self, Block, NameRow},
    schema::{self, Counters, Keys, META, meta},
};
use crate::store::{
    Account, BUCKETS, Change, Expect, Fingerprints, Forgotten, PeerNo, PeerRow, PeerState,
    Registered, ResourceNo, Session, StoreError, TokenHash, check_room,
};

pub(super) type Result<T> = std::result::Result<T, StoreError>;

/// A table of rows of any length.
type Rows<'t> = Table<'t, &'static [u8], &'static [u8]>;

/// Words from which on they are written on a thread of their own.
const WORDS_APART: usize = 4_096;

/// The open tables of a transaction.
pub(super) struct Transaction<'t> {
    pub(super) keys: Keys,
    pub(super) counters: Counters,
    meta: Table<'t, &'static str, &'static [u8]>,
    peers: Table<'t, u32, &'static [u8]>,
    peer_ids: Table<'t, &'static [u8; 16], u32>,
    accounts: Table<'t, &'static str, &'static [u8]>,
    prints: Table<'t, &'static [u8; 5], &'static [u8]>,
    pub(super) names: Rows<'t>,
    pub(super) crowds: Table<'t, &'static [u8; 10], ()>,
    pub(super) digests: Table<'t, &'static [u8; 18], ()>,
    pub(super) numbers: Table<'t, u64, &'static [u8]>,
    held: Rows<'t>,
    words: Rows<'t>,
    /// Of the peers whose records change; written at the end. A peer that announces much sends
    /// many small changes.
    holdings: BTreeMap<PeerNo, Holding>,
    /// Rows of `names` that change; `None` goes.
    pub(super) new_names: BTreeMap<Vec<u8>, Option<NameRow>>,
    /// Keys of `digests` that come (true) or go.
    pub(super) new_digests: BTreeMap<[u8; 18], bool>,
    /// What comes to `words` and goes. In their order, and at once, they cost a fraction.
    pub(super) new_words: Vec<(String, Edit)>,
    /// Rows of `numbers` that change.
    pub(super) blocks: HashMap<u64, Block>,
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
            names: writing.open_table(schema::NAMES).map_err(engine)?,
            crowds: writing.open_table(schema::CROWDS).map_err(engine)?,
            digests: writing.open_table(schema::DIGESTS).map_err(engine)?,
            numbers: writing.open_table(schema::NUMBERS).map_err(engine)?,
            held: writing.open_table(schema::HELD).map_err(engine)?,
            words: writing.open_table(schema::WORDS).map_err(engine)?,
            holdings: BTreeMap::new(),
            new_names: BTreeMap::new(),
            new_digests: BTreeMap::new(),
            new_words: Vec::new(),
            blocks: HashMap::new(),
        })
    }

    /// Writes what was put off and the counters, and closes the tables.
    pub(super) fn close(mut self) -> Result<Counters> {
        if self.new_words.len() < WORDS_APART {
            self.write_words()?;
            self.write_rows()?;
        } else {
            self.write_words_apart()?;
        }
        self.write_blocks()?;
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

    /// Writes the words on a thread of their own: there are about as many rows of them as of all
    /// others.
    fn write_words_apart(&mut self) -> Result<()> {
        let words = std::mem::take(&mut self.new_words);
        let (names, new_names) = (&mut self.names, std::mem::take(&mut self.new_names));
        let (digests, new_digests) = (&mut self.digests, std::mem::take(&mut self.new_digests));
        let table = &mut self.words;
        thread::scope(|scope| {
            let apart = thread::Builder::new()
                .name("store words".into())
                .spawn_scoped(scope, || write_words(table, words))
                .map_err(engine_io)?;
            let rows =
                write_names(names, new_names).and_then(|()| write_digests(digests, new_digests));
            let words = apart.join().unwrap_or_else(|panic| resume_unwind(panic));
            rows.and(words)
        })
    }

    pub(super) fn write_words(&mut self) -> Result<()> {
        write_words(&mut self.words, std::mem::take(&mut self.new_words))
    }

    /// Writes what was put off of `names` and `digests`.
    pub(super) fn write_rows(&mut self) -> Result<()> {
        write_names(&mut self.names, std::mem::take(&mut self.new_names))?;
        write_digests(&mut self.digests, std::mem::take(&mut self.new_digests))
    }

    pub(super) fn write_blocks(&mut self) -> Result<()> {
        let mut blocks: Vec<_> = self.blocks.drain().collect();
        blocks.sort_unstable_by_key(|(number, _)| *number);
        for (number, block) in blocks {
            if block.is_empty() {
                self.numbers.remove(number).map_err(engine)?;
            } else {
                let row = block.to_bytes();
                self.numbers.insert(number, &row[..]).map_err(engine)?;
            }
        }
        Ok(())
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
                    for (resource, row) in self.variants(&name, &digest)? {
                        self.leave(no, name.as_str(), resource, row)?;
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

/// In their order, neighbours find their pages changed already, and a row that many peers change is
/// written once.
fn write_names(names: &mut Rows<'_>, rows: BTreeMap<Vec<u8>, Option<NameRow>>) -> Result<()> {
    for (key, row) in rows {
        match row {
            Some(row) => names.insert(&key[..], &row.to_bytes()[..]),
            None => names.remove(&key[..]),
        }
        .map_err(engine)?;
    }
    Ok(())
}

fn write_digests(
    digests: &mut Table<'_, &'static [u8; 18], ()>,
    keys: BTreeMap<[u8; 18], bool>,
) -> Result<()> {
    for (key, is_there) in keys {
        if is_there {
            digests.insert(&key, ()).map_err(engine)?;
        } else {
            digests.remove(&key).map_err(engine)?;
        }
    }
    Ok(())
}

fn write_words(rows: &mut Rows<'_>, mut words: Vec<(String, Edit)>) -> Result<()> {
    words.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut edits = Vec::new();
    for of_term in words.chunk_by(|(a, _), (b, _)| a == b) {
        edits.clear();
        edits.extend(of_term.iter().map(|(_, edit)| *edit));
        lists::in_order(&mut edits);
        let prefix = schema::word(&of_term[0].0);
        lists::edit(rows, &prefix, &edits)?;
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
