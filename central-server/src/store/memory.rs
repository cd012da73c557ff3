//! The `memory:` engine: everything in ordered maps behind one lock; gone with the process.
//!
//! Invariant: `resources`, `by_identity`, `by_digest`, `terms`, `held` and the holders of each
//! resource say the same. It is also the plain model that the durable engine is tested against.
//!
//! What has a name or a digest is in the order of a hash that nobody can foresee: those from any place on are
//! a random choice of them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{BuildHasher as _, RandomState},
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use vecino_rest::{Digest, Name, PeerId, UserName, terms::terms_of};

use super::{
    Account, Among, Change, Counts, Expect, Fingerprints, Forgotten, Found, HOLDER_READS_RESERVED,
    Key, MAX_HOLDER_READS, MAX_HOLDER_READS_WALK, MAX_VARIANTS_READ, PeerNo, PeerRow, PeerState,
    Registered, Resource, ResourceNo, Store, StoreError, TokenHash, Walk, WalkPage, bucket_of,
    fingerprint::of_record, holders::gather,
};

/// A store that forgets everything with the process.
#[derive(Default)]
pub struct MemoryStore {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    peers: BTreeMap<PeerNo, Peer>,
    peer_ids: HashMap<PeerId, PeerNo>,
    resources: HashMap<ResourceNo, Held>,
    by_identity: BTreeMap<Identity, ResourceNo>,
    places: RandomState,
    by_digest: BTreeSet<(Digest, u64, ResourceNo)>,
    terms: BTreeSet<(String, ResourceNo)>,
    accounts: BTreeMap<UserName, Account>,
    next_peer: u32,
    next_resource: u64,
    epoch: u64,
    records: u64,
    importing: Option<Digest>,
    closed: bool,
}

/// Name, place among its variants, digest, size.
type Identity = (Name, u64, Digest, u64);

struct Peer {
    row: PeerRow,
    fingerprints: Fingerprints,
    held: BTreeSet<(u8, ResourceNo)>,
}

struct Held {
    resource: Resource,
    holders: BTreeSet<PeerNo>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock is a bug elsewhere; what was changed is still consistent enough
        // to go on serving.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_open(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        let state = self.lock();
        if state.closed {
            return Err(StoreError::Closed);
        }
        Ok(state)
    }
}

impl State {
    fn peer_mut(&mut self, peer: PeerNo) -> &mut Peer {
        self.peers.get_mut(&peer).expect("checked by the caller")
    }

    fn identity(&self, name: &Name, digest: &Digest, size: u64) -> Identity {
        (name.clone(), self.places.hash_one(digest), *digest, size)
    }

    /// Digest, place among what has it, number.
    fn of_content(&self, digest: &Digest, no: ResourceNo) -> (Digest, u64, ResourceNo) {
        (*digest, self.places.hash_one(no), no)
    }

    fn variants_of(&self, name: &Name, digest: &Digest) -> Vec<ResourceNo> {
        let from = self.identity(name, digest, 0);
        let to = self.identity(name, digest, u64::MAX);
        self.by_identity
            .range(from..=to)
            .map(|(_, no)| *no)
            .collect()
    }

    fn add(&mut self, peer: PeerNo, resource: Resource) {
        let identity = self.identity(&resource.name, &resource.digest, resource.size);
        let no = match self.by_identity.get(&identity) {
            Some(no) => *no,
            None => {
                let no = ResourceNo(self.next_resource);
                self.next_resource += 1;
                self.by_digest.insert(self.of_content(&resource.digest, no));
                for term in terms_of(&resource.name) {
                    self.terms.insert((term, no));
                }
                self.by_identity.insert(identity, no);
                let holders = BTreeSet::new();
                self.resources.insert(no, Held { resource, holders });
                no
            }
        };
        // The same name and digest with another size cannot both be right: the newer word counts.
        let held = &self.resources[&no];
        let (name, digest) = (held.resource.name.clone(), held.resource.digest);
        for other in self.variants_of(&name, &digest) {
            if other != no {
                self.remove(peer, other);
            }
        }
        let held = self.resources.get_mut(&no).expect("found or made above");
        if held.holders.insert(peer) {
            let share = of_record(&name, &digest, held.resource.size);
            let bucket = bucket_of(&digest);
            let row = self.peer_mut(peer);
            row.fingerprints.0[usize::from(bucket)].add(share);
            row.held.insert((bucket, no));
            self.records += 1;
        }
    }

    fn remove(&mut self, peer: PeerNo, no: ResourceNo) {
        let held = self
            .resources
            .get_mut(&no)
            .expect("indexed resources exist");
        if !held.holders.remove(&peer) {
            return;
        }
        let unheld = held.holders.is_empty();
        let resource = held.resource.clone();
        let bucket = bucket_of(&resource.digest);
        let share = of_record(&resource.name, &resource.digest, resource.size);
        let row = self.peer_mut(peer);
        row.fingerprints.0[usize::from(bucket)].remove(share);
        row.held.remove(&(bucket, no));
        self.records -= 1;
        if unheld {
            self.resources.remove(&no);
            self.by_digest
                .remove(&self.of_content(&resource.digest, no));
            for term in terms_of(&resource.name) {
                self.terms.remove(&(term, no));
            }
            let identity = self.identity(&resource.name, &resource.digest, resource.size);
            self.by_identity.remove(&identity);
        }
    }

    /// Refuses what would overfill a bucket, before anything changes. Counts every announced
    /// record as new, so that no lookup is needed unless the bucket is nearly full.
    fn check_room(&self, peer: PeerNo, change: &Change) -> Result<(), StoreError> {
        let Change::Difference { announce, .. } = change else {
            return Ok(());
        };
        let fingerprints = &self.peers[&peer].fingerprints;
        super::check_room(announce, |bucket| fingerprints.0[usize::from(bucket)].count)
    }

    /// The resources that a lookup of a name reads: those from a place on, and from the first one on.
    fn of_name(&self, name: &Name, place: u64) -> Vec<ResourceNo> {
        let at = |place| (name.clone(), place, Digest::from_bytes([0; Digest::LEN]), 0);
        let after = self.by_identity.range(at(place)..);
        let after = after.take_while(|((its, ..), _)| its == name);
        let before = self.by_identity.range(at(0)..at(place));
        let numbers = after.chain(before).map(|(_, no)| *no);
        numbers.take(MAX_VARIANTS_READ).collect()
    }

    /// The same of a digest.
    fn of_digest(&self, digest: &Digest, place: u64) -> Vec<ResourceNo> {
        let at = |place| (*digest, place, ResourceNo(0));
        let after = self.by_digest.range(at(place)..);
        let after = after.take_while(|(its, ..)| its == digest);
        let before = self.by_digest.range(at(0)..at(place));
        let numbers = after.chain(before).map(|(.., no)| *no);
        numbers.take(MAX_VARIANTS_READ).collect()
    }

    fn live_holders(
        &self,
        held: &Held,
        among: &Among<'_>,
        budget: &mut usize,
    ) -> Result<Vec<PeerNo>, StoreError> {
        if let Some(only) = among.only {
            let rows = only.iter().filter(|peer| held.holders.contains(peer));
            return gather(rows.map(|peer| Ok(*peer)), among.live, budget);
        }
        let from = held.holders.range(among.start..);
        let rows = from.chain(held.holders.range(..among.start));
        gather(rows.map(|peer| Ok(*peer)), among.live, budget)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn register(&self, peer: PeerRow) -> Result<Registered, StoreError> {
        peer.check()?;
        let mut state = self.lock_open()?;
        let no = match state.peer_ids.get(&peer.id) {
            Some(no) => *no,
            None => {
                let no = PeerNo(state.next_peer);
                state.next_peer += 1;
                state.peer_ids.insert(peer.id, no);
                no
            }
        };
        state.epoch += 1;
        let epoch = state.epoch;
        let row = state.peers.entry(no).or_insert_with(|| Peer {
            row: peer.clone(),
            fingerprints: Fingerprints::default(),
            held: BTreeSet::new(),
        });
        row.row = peer;
        let fingerprints = row.fingerprints.clone();
        Ok(Registered {
            peer: no,
            epoch,
            fingerprints,
        })
    }

    async fn peer(&self, id: &PeerId) -> Result<Option<(PeerNo, PeerRow)>, StoreError> {
        let state = self.lock();
        let no = state.peer_ids.get(id);
        Ok(no.map(|no| (*no, state.peers[no].row.clone())))
    }

    async fn end_sessions(&self, peers: Vec<(PeerNo, TokenHash)>) -> Result<(), StoreError> {
        let mut state = self.lock_open()?;
        for (peer, token) in peers {
            if let Some(peer) = state.peers.get_mut(&peer) {
                peer.row.session.take_if(|session| session.token == token);
            }
        }
        Ok(())
    }

    async fn importing(&self) -> Result<Option<Digest>, StoreError> {
        Ok(self.lock().importing)
    }

    async fn set_importing(&self, export: Option<Digest>) -> Result<(), StoreError> {
        self.lock_open()?.importing = export;
        Ok(())
    }

    async fn account(&self, user: &UserName) -> Result<Option<Account>, StoreError> {
        Ok(self.lock().accounts.get(user).cloned())
    }

    async fn accounts_of(&self, users: &[UserName]) -> Result<Vec<Account>, StoreError> {
        let state = self.lock();
        let accounts = users.iter().filter_map(|user| state.accounts.get(user));
        Ok(accounts.cloned().collect())
    }

    async fn put_account(&self, account: Account, expect: Expect) -> Result<bool, StoreError> {
        let mut state = self.lock_open()?;
        let is_there = state.accounts.contains_key(&account.user);
        let is_right = is_there == (expect == Expect::Present);
        if is_right {
            state.accounts.insert(account.user.clone(), account);
        }
        Ok(is_right)
    }

    async fn remove_account(&self, user: &UserName) -> Result<bool, StoreError> {
        Ok(self.lock_open()?.accounts.remove(user).is_some())
    }

    async fn accounts(
        &self,
        after: Option<&UserName>,
        limit: usize,
    ) -> Result<Vec<Account>, StoreError> {
        use std::ops::Bound::{Excluded, Unbounded};
        let state = self.lock();
        let from = after.map_or(Unbounded, |user| Excluded(user.clone()));
        let rows = state.accounts.range((from, Unbounded)).take(limit);
        Ok(rows.map(|(_, account)| account.clone()).collect())
    }

    async fn bucket(&self, peer: PeerNo, bucket: u8) -> Result<Vec<Resource>, StoreError> {
        let state = self.lock();
        let Some(peer) = state.peers.get(&peer) else {
            return Ok(Vec::new());
        };
        let range = (bucket, ResourceNo(0))..=(bucket, ResourceNo(u64::MAX));
        let held = peer.held.range(range);
        Ok(held
            .map(|(_, no)| state.resources[no].resource.clone())
            .collect())
    }

    async fn peers(&self) -> Result<Vec<(PeerNo, PeerRow)>, StoreError> {
        let state = self.lock();
        Ok(state
            .peers
            .iter()
            .map(|(no, peer)| (*no, peer.row.clone()))
            .collect())
    }

    async fn lapse(&self, peers: Vec<(PeerNo, TokenHash)>, at_ms: i64) -> Result<(), StoreError> {
        let mut state = self.lock_open()?;
        for (no, token) in peers {
            if let Some(peer) = state.peers.get_mut(&no)
                && peer.row.token == token
                && peer.row.state == PeerState::Present
            {
                peer.row.state = PeerState::Lapsed(at_ms);
            }
        }
        Ok(())
    }

    async fn announce(
        &self,
        peer: PeerNo,
        token: TokenHash,
        change: Change,
    ) -> Result<u64, StoreError> {
        let mut state = self.lock_open()?;
        match state.peers.get(&peer) {
            Some(known) if known.row.token == token && known.row.state == PeerState::Present => {}
            _ => return Err(StoreError::NotThePeer),
        }
        state.check_room(peer, &change)?;
        match change {
            Change::Difference { announce, withdraw } => {
                for (name, digest) in withdraw {
                    for no in state.variants_of(&name, &digest) {
                        state.remove(peer, no);
                    }
                }
                for resource in announce {
                    state.add(peer, resource);
                }
            }
            Change::Bucket { bucket, records } => {
                let range = (bucket, ResourceNo(0))..=(bucket, ResourceNo(u64::MAX));
                let before: Vec<_> = state.peers[&peer].held.range(range).copied().collect();
                for (_, no) in before {
                    state.remove(peer, no);
                }
                for resource in records {
                    state.add(peer, resource);
                }
            }
        }
        Ok(state.peers[&peer].held.len() as u64)
    }

    async fn forget(
        &self,
        peer: PeerNo,
        at_ms: i64,
        limit: usize,
    ) -> Result<Forgotten, StoreError> {
        let mut state = self.lock_open()?;
        let held: Vec<_> = match state.peers.get(&peer) {
            Some(row) if row.row.state.is_lapsed_at(at_ms) => {
                row.held.iter().take(limit).copied().collect()
            }
            kept => return Ok(Forgotten::kept(kept.map(|peer| peer.row.state))),
        };
        for (_, no) in &held {
            state.remove(peer, *no);
        }
        let done = state.peers[&peer].held.is_empty();
        if done && let Some(gone) = state.peers.remove(&peer) {
            state.peer_ids.remove(&gone.row.id);
        }
        Ok(Forgotten {
            records: held.len(),
            done,
            lapsed_ms: None,
        })
    }

    async fn find(&self, key: &Key, among: &Among<'_>) -> Result<Vec<Found>, StoreError> {
        let state = self.lock();
        let numbers: Vec<ResourceNo> = match key {
            Key::Name(name) => state.of_name(name, among.seed),
            Key::Digest(digest) => state.of_digest(digest, among.seed),
        };
        let mut budget = MAX_HOLDER_READS;
        let mut found = Vec::new();
        for no in numbers {
            let held = &state.resources[&no];
            let holders = state.live_holders(held, among, &mut budget)?;
            if !holders.is_empty() {
                found.push(Found {
                    resource: held.resource.clone(),
                    holders,
                });
            }
        }
        Ok(found)
    }

    async fn walk(&self, walk: &Walk<'_>, among: &Among<'_>) -> Result<WalkPage, StoreError> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let state = self.lock();
        let from = match walk.after {
            Some(position) => Excluded(position.clone()),
            None => Included((walk.prefix.to_owned(), ResourceNo(0))),
        };
        let mut holder_budget = MAX_HOLDER_READS_WALK;
        let mut page = WalkPage::default();
        for (rows, position) in state.terms.range((from, Unbounded)).enumerate() {
            let (term, no) = position;
            if holder_budget < HOLDER_READS_RESERVED {
                return Ok(page);
            }
            if !walk.covers(term) {
                page.next = None;
                return Ok(page);
            }
            let held = &state.resources[no];
            if (walk.accept)(term, &held.resource) {
                let holders = state.live_holders(held, among, &mut holder_budget)?;
                if !holders.is_empty() {
                    page.found.push(Found {
                        resource: held.resource.clone(),
                        holders,
                    });
                }
            }
            page.next = Some(position.clone());
            if rows + 1 >= walk.row_budget || page.found.len() >= walk.limit {
                return Ok(page);
            }
        }
        page.next = None;
        Ok(page)
    }

    fn counts(&self) -> Counts {
        let state = self.lock();
        Counts {
            peers: state.peers.len() as u64,
            resources: state.resources.len() as u64,
            records: state.records,
        }
    }

    async fn close(&self) {
        self.lock().closed = true;
    }
}
