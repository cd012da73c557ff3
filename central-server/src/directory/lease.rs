//! Leases: which peers are live now, under which URL, with how much room.
//!
//! Invariant: `by_id`, `by_url` and `dense` name exactly the peers of `by_number`. A lease that
//! is over counts nowhere, whether it has been removed already or not. Time is passed in, as the
//! time since the start of the process; a keep-alive takes a shared lock and stores two numbers.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use vecino_rest::PeerId;

use crate::store::{Heard, Kept, Live, PeerNo, PeerRow, TokenHash};

/// What others are told of a live peer.
#[derive(Debug, PartialEq, Eq)]
pub struct Provider {
    /// Its id.
    pub peer: PeerId,
    /// `http[s]://host:port`.
    pub url: String,
    /// Label of its place; may be empty.
    pub site: String,
}

/// A live peer that may take a copy.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Who.
    pub provider: Arc<Provider>,
    /// Its room in bytes.
    pub free_bytes: u64,
}

struct Lease {
    provider: Arc<Provider>,
    token: TokenHash,
    epoch: u64,
    url_is_observed: bool,
    /// The network from which it was registered; unknown after a restart.
    seen_in: Option<IpAddr>,
    place_in_dense: usize,
    /// Milliseconds since the start at which it is over.
    ends_ms: AtomicU64,
    free_bytes: AtomicU64,
    /// Records that the store has for the peer, or [`UNKNOWN`].
    records: AtomicU64,
    /// Heard of at this locator, and other locators of the store were not told yet.
    is_untold: AtomicBool,
    /// Keep-alives since it was compared what the store has.
    uncompared: AtomicU32,
    /// The losses of the store that this peer has been compared since.
    compared_at: AtomicU64,
}

/// A number of records that is not known.
const UNKNOWN: u64 = u64::MAX;

impl Lease {
    fn is_live(&self, now_ms: u64) -> bool {
        now_ms < self.ends_ms.load(Relaxed)
    }
}

#[derive(Default)]
struct Table {
    by_number: HashMap<PeerNo, Lease>,
    by_id: HashMap<PeerId, PeerNo>,
    by_url: HashMap<String, Vec<PeerNo>>,
    dense: Vec<PeerNo>,
    /// One more than the highest number seen.
    numbers: u32,
}

impl Table {
    fn insert(&mut self, peer: PeerNo, mut lease: Lease) {
        self.remove(peer);
        lease.place_in_dense = self.dense.len();
        self.dense.push(peer);
        self.by_id.insert(lease.provider.peer, peer);
        self.by_url
            .entry(lease.provider.url.clone())
            .or_default()
            .push(peer);
        self.by_number.insert(peer, lease);
        self.numbers = self.numbers.max(peer.0.saturating_add(1));
    }

    fn remove(&mut self, peer: PeerNo) -> Option<Lease> {
        let lease = self.by_number.remove(&peer)?;
        self.by_id.remove(&lease.provider.peer);
        if let Some(claims) = self.by_url.get_mut(&lease.provider.url) {
            claims.retain(|claim| *claim != peer);
            if claims.is_empty() {
                self.by_url.remove(&lease.provider.url);
            }
        }
        self.dense.swap_remove(lease.place_in_dense);
        if let Some(moved) = self.dense.get(lease.place_in_dense) {
            let moved = self.by_number.get_mut(moved).expect("dense names leases");
            moved.place_in_dense = lease.place_in_dense;
        }
        Some(lease)
    }
}

/// What one machine may well have many of counts as one: the addresses of an IPv6 /64.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) => {
            let prefix = u128::from(ip) & !u128::from(u64::MAX);
            Ipv6Addr::from(prefix).into()
        }
        ip => ip,
    }
}

/// The leases of all peers.
pub struct Leases {
    duration: Duration,
    table: RwLock<Table>,
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Leases {
    /// No leases yet; each will last for `duration` after the last keep-alive.
    pub fn new(duration: Duration) -> Self {
        Self {
            duration,
            table: RwLock::default(),
        }
    }

    /// How long a lease lasts after the last keep-alive.
    pub fn duration(&self) -> Duration {
        self.duration
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn end_of_lease_from(&self, now: Duration) -> u64 {
        millis(now.saturating_add(self.duration))
    }

    /// Begins a lease, or replaces the peer's lease unless that one is of a later `epoch`. How many
    /// records the peer has is not known yet.
    /// `observed` is where the peer registered from, when that is known.
    pub fn grant(
        &self,
        peer: PeerNo,
        row: &PeerRow,
        epoch: u64,
        observed: Option<IpAddr>,
        free_bytes: u64,
        now: Duration,
    ) {
        let mut table = self.write();
        if table
            .by_number
            .get(&peer)
            .is_some_and(|lease| lease.epoch > epoch)
        {
            return;
        }
        let provider = Provider {
            peer: row.id,
            url: row.url.clone(),
            site: row.site.clone(),
        };
        let lease = Lease {
            provider: Arc::new(provider),
            token: row.token,
            epoch,
            url_is_observed: row.url_is_observed,
            seen_in: observed.map(network),
            place_in_dense: 0,
            ends_ms: AtomicU64::new(self.end_of_lease_from(now)),
            free_bytes: AtomicU64::new(free_bytes),
            records: AtomicU64::new(UNKNOWN),
            is_untold: AtomicBool::new(true),
            uncompared: AtomicU32::new(0),
            compared_at: AtomicU64::new(0),
        };
        table.insert(peer, lease);
    }

    /// The peer of that id, if it is live and the token is its own.
    pub fn authorise(&self, id: &PeerId, token: &TokenHash, now: Duration) -> Option<PeerNo> {
        let table = self.read();
        let peer = *table.by_id.get(id)?;
        let lease = &table.by_number[&peer];
        (lease.is_live(millis(now)) && lease.token == *token).then_some(peer)
    }

    /// Prolongs a lease; whether there was one.
    pub fn keep_alive(
        &self,
        id: &PeerId,
        token: &TokenHash,
        free_bytes: u64,
        now: Duration,
    ) -> bool {
        let table = self.read();
        let lease = table.by_id.get(id).map(|peer| &table.by_number[peer]);
        match lease {
            Some(lease) if lease.is_live(millis(now)) && lease.token == *token => {
                lease.ends_ms.store(self.end_of_lease_from(now), Relaxed);
                lease.free_bytes.store(free_bytes, Relaxed);
                lease.is_untold.store(true, Relaxed);
                true
            }
            _ => false,
        }
    }

    /// Prolongs every lease that is not over.
    pub fn renew_all(&self, now: Duration) {
        let (now_ms, ends_ms) = (millis(now), self.end_of_lease_from(now));
        let table = self.read();
        let live = table.by_number.values();
        for lease in live.filter(|lease| lease.is_live(now_ms)) {
            lease.ends_ms.fetch_max(ends_ms, Relaxed);
        }
    }

    /// How many records the store has for the peer, as far as it was told since its lease began.
    pub fn records(&self, peer: PeerNo) -> Option<u64> {
        let table = self.read();
        let records = table.by_number.get(&peer)?.records.load(Relaxed);
        (records != UNKNOWN).then_some(records)
    }

    /// Remembers how many records the store has for the peer.
    pub fn set_records(&self, peer: PeerNo, records: u64) {
        if let Some(lease) = self.read().by_number.get(&peer) {
            lease.records.store(records, Relaxed);
        }
    }

    /// Whether the peer has a lease, be it over or not.
    pub fn has(&self, peer: PeerNo) -> bool {
        self.read().by_number.contains_key(&peer)
    }

    /// Ends the lease that has this token; whether there was one.
    pub fn end(&self, peer: PeerNo, token: &TokenHash) -> bool {
        let mut table = self.write();
        let known = table
            .by_number
            .get(&peer)
            .is_some_and(|lease| lease.token == *token);
        known && table.remove(peer).is_some()
    }

    /// Removes leases that are over, at most `limit`.
    pub fn expire(&self, now: Duration, limit: usize) -> Vec<(PeerNo, TokenHash)> {
        let now_ms = millis(now);
        let over: Vec<PeerNo> = {
            let table = self.read();
            let over = table
                .by_number
                .iter()
                .filter(|(_, lease)| !lease.is_live(now_ms));
            over.map(|(peer, _)| *peer).take(limit).collect()
        };
        if over.is_empty() {
            return Vec::new();
        }
        let mut table = self.write();
        let over = over.into_iter().filter_map(|peer| {
            // It may have been kept alive between the two locks.
            let still = table
                .by_number
                .get(&peer)
                .is_some_and(|lease| !lease.is_live(now_ms));
            let lease = if still {
                table.remove(peer)?
            } else {
                return None;
            };
            Some((peer, lease.token))
        });
        over.collect()
    }

    /// Who was heard of at this locator since this was last asked.
    pub fn take_untold(&self) -> Vec<Kept> {
        let table = self.read();
        let untold = table.by_number.iter();
        let untold = untold.filter(|(_, lease)| lease.is_untold.swap(false, Relaxed));
        let kept = |(peer, lease): (&PeerNo, &Lease)| Kept {
            peer: *peer,
            epoch: lease.epoch,
            free_bytes: lease.free_bytes.load(Relaxed),
        };
        untold.map(kept).collect()
    }

    /// The others could not be told of these.
    pub fn put_back(&self, untold: &[Kept]) {
        let table = self.read();
        let leases = untold
            .iter()
            .filter_map(|kept| table.by_number.get(&kept.peer));
        leases.for_each(|lease| lease.is_untold.store(true, Relaxed));
    }

    /// Another locator heard of a peer. Whether that registration is known here, or a later one.
    pub fn heard(&self, heard: &Heard, now: Duration) -> bool {
        let table = self.read();
        let Some(lease) = table.by_number.get(&heard.peer) else {
            return false;
        };
        if lease.epoch == heard.epoch {
            let ends = millis((now + self.duration).saturating_sub(heard.ago));
            lease.ends_ms.fetch_max(ends, Relaxed);
            if !lease.is_untold.load(Relaxed) {
                lease.free_bytes.store(heard.free_bytes, Relaxed);
            }
        }
        lease.epoch >= heard.epoch
    }

    /// Begins a lease that another locator granted and of which it heard.
    pub fn grant_heard(&self, heard: &Heard, row: &PeerRow, now: Duration) {
        let began = now.saturating_sub(heard.ago);
        self.grant(heard.peer, row, heard.epoch, None, heard.free_bytes, began);
        if let Some(lease) = self.read().by_number.get(&heard.peer) {
            lease.is_untold.store(false, Relaxed);
        }
    }

    /// Ends a lease whatever its token; whether there was one.
    pub fn drop_lease(&self, peer: PeerNo) -> bool {
        self.write().remove(peer).is_some()
    }

    /// Whether it is time to compare what the store has for the peer: the store may have lost
    /// something, or there were `every` keep-alives.
    pub fn is_comparison_due(&self, peer: PeerNo, losses: u64, every: u32) -> bool {
        let table = self.read();
        let Some(lease) = table.by_number.get(&peer) else {
            return false;
        };
        let uncompared = lease.uncompared.fetch_add(1, Relaxed) + 1;
        uncompared >= every || lease.compared_at.load(Relaxed) != losses
    }

    /// It was compared, when the store had lost something so often.
    pub fn compared(&self, peer: PeerNo, losses: u64) {
        if let Some(lease) = self.read().by_number.get(&peer) {
            lease.uncompared.store(0, Relaxed);
            lease.compared_at.store(losses, Relaxed);
        }
    }

    /// How many leases there are.
    pub fn count(&self) -> usize {
        self.read().dense.len()
    }

    /// One more than the highest number that a peer with a lease ever had.
    pub fn numbers(&self) -> u32 {
        self.read().numbers
    }

    /// The live peers that are known under this URL.
    pub fn at_url(&self, url: &str, now: Duration) -> Vec<PeerNo> {
        let table = self.read();
        let claims = table.by_url.get(url).map(Vec::as_slice).unwrap_or_default();
        let live = |peer: &&PeerNo| table.by_number[peer].is_live(millis(now));
        claims.iter().filter(live).copied().collect()
    }

    /// The peer of that id, if it is live.
    pub fn of_id(&self, id: &PeerId, now: Duration) -> Option<PeerNo> {
        let table = self.read();
        let peer = *table.by_id.get(id)?;
        table.by_number[&peer].is_live(millis(now)).then_some(peer)
    }

    /// The oldest of the claims that crowd out another one of `url` by `id`, seen at `observed`:
    /// those of other live peers of the same network that are not seen at the URL's address, when
    /// there are `limit` of them. Claims from elsewhere do not count: nobody can use up what
    /// others may claim.
    pub fn crowding_claim(
        &self,
        url: &str,
        id: &PeerId,
        observed: IpAddr,
        limit: usize,
        now: Duration,
    ) -> Option<(PeerNo, TokenHash)> {
        let seen_in = Some(network(observed));
        let table = self.read();
        let claims = table.by_url.get(url).map(Vec::as_slice).unwrap_or_default();
        let crowding = claims.iter().filter_map(|peer| {
            let lease = &table.by_number[peer];
            let counts = lease.provider.peer != *id
                && !lease.url_is_observed
                && lease.seen_in == seen_in
                && lease.is_live(millis(now));
            counts.then_some((lease.epoch, *peer, lease.token))
        });
        let crowding: Vec<_> = crowding.collect();
        let (_, peer, token) = crowding.iter().min().copied()?;
        (crowding.len() >= limit).then_some((peer, token))
    }

    /// What others are told of these peers; those that are not live any more are left out.
    pub fn providers(&self, peers: &[PeerNo], now: Duration) -> Vec<Arc<Provider>> {
        let table = self.read();
        let leases = peers.iter().filter_map(|peer| table.by_number.get(peer));
        let live = leases.filter(|lease| lease.is_live(millis(now)));
        live.map(|lease| lease.provider.clone()).collect()
    }

    /// Up to `limit` live peers, all of them when there are no more: a run from the place that
    /// `start` chooses.
    pub fn candidates(&self, start: usize, limit: usize, now: Duration) -> Vec<Candidate> {
        let table = self.read();
        let peers = table.dense.len();
        let run = (0..peers.min(limit))
            .map(|step| &table.by_number[&table.dense[start.wrapping_add(step) % peers]]);
        let live = run.filter(|lease| lease.is_live(millis(now)));
        let candidate = |lease: &Lease| Candidate {
            provider: lease.provider.clone(),
            free_bytes: lease.free_bytes.load(Relaxed),
        };
        live.map(candidate).collect()
    }
}

/// The leases as they are at one moment.
pub struct LiveAt<'a> {
    /// All leases.
    pub leases: &'a Leases,
    /// The moment.
    pub now: Duration,
}

impl Live for LiveAt<'_> {
    fn retain_live(&self, peers: &mut Vec<PeerNo>) {
        let table = self.leases.read();
        let now_ms = millis(self.now);
        peers.retain(|peer| {
            table
                .by_number
                .get(peer)
                .is_some_and(|lease| lease.is_live(now_ms))
        });
    }
}

#[cfg(test)]
mod tests;
