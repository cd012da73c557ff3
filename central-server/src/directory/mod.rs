//! The directory: registration, announcing, lookups, search and placing, in the words of the
//! domain. It decides; `grpc` translates and the store remembers.
//!
//! Invariant: only live peers appear in any answer, and a peer's records change only for the
//! owner of its current lease token. Nothing here keeps or logs what was looked up.

mod announcing;
pub mod choice;
mod clock;
pub mod lease;
mod lookup;
pub mod partial;
pub mod public_url;
mod registration;
pub mod search;
pub mod sharing;
pub mod sweep;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic::AtomicU64},
    time::Duration,
};

use futures_util::future::try_join_all;

pub use announcing::{Announcement, Begun, Durable};
pub use clock::Clock;
use lease::Leases;
pub use lookup::{Lookup, MAX_VARIANTS, ProviderFilter, SEARCH_ROW_BUDGET, Variant};
use partial::Partials;
pub use registration::{
    Credentials, MAX_CLAIMS_PER_URL, MAX_LIVE_PEERS, Registration, Token, Welcome,
};
use search::InvalidSearch;
use vecino_rest::{PeerId, peer_url::InvalidPeerUrl};

use crate::{
    metrics::Metrics,
    store::{PeerNo, PeerState, Store, StoreError, TokenHash},
    throttle::Throttle,
};

/// Bytes of a site.
pub const MAX_SITE_BYTES: usize = 64;

/// Refuses what no peer may call its place.
pub fn check_site(site: &str) -> Result<(), Error> {
    if site.len() > MAX_SITE_BYTES || site.contains(char::is_control) {
        return Err(Error::Site(site.len()));
    }
    Ok(())
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL cannot be used.
    #[error("public_url {0} that other peers can reach")]
    Url(#[from] InvalidPeerUrl),
    /// The query cannot be answered.
    #[error(transparent)]
    Search(#[from] InvalidSearch),
    /// The site cannot be used.
    #[error(
        "site has {0} bytes or control characters: expected at most {MAX_SITE_BYTES} bytes without them"
    )]
    Site(usize),
    /// Who asks is not, or no longer, the peer it says.
    #[error("the lease token is unknown, stale or over: register again")]
    NoLease,
    /// Too many peers.
    #[error("{MAX_LIVE_PEERS} peers are live already")]
    Full,
    /// No randomness for a token.
    #[error("the system has no randomness: {0}")]
    Randomness(getrandom::Error),
    /// The store failed or refused.
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotThePeer => Self::NoLease,
            error => Self::Store(error),
        }
    }
}

/// The directory.
pub struct Directory {
    store: Arc<dyn Store>,
    leases: Leases,
    /// Locked before the table of leases, never after it.
    partials: RwLock<Partials>,
    clock: Clock,
    metrics: Arc<Metrics>,
    /// Peers that are gone, and since when: their records go a day later.
    lapsed: Mutex<HashMap<PeerNo, i64>>,
    /// When other locators were last told who is live, in milliseconds since the start.
    shared_at: AtomicU64,
    /// What the sweeper could not do, told now and then.
    complaints: Throttle,
}

impl Directory {
    /// The directory in `store`. Peers that were there when the store was last used get one
    /// lease from now, with the tokens they have: what was acknowledged is found at once after a
    /// crash, and the peers notice nothing.
    pub async fn open(
        store: Arc<dyn Store>,
        lease: Duration,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StoreError> {
        let clock = Clock::read_every(sweep::pause(lease));
        let leases = Leases::new(lease);
        let mut lapsed = HashMap::new();
        let is_shared = store.sharing().is_some();
        for (peer, row) in store.peers().await? {
            match row.state {
                // Other locators may have heard of it lately: see `sharing`.
                PeerState::Present if is_shared => {}
                PeerState::Present => leases.grant(peer, &row, 0, None, 0, clock.now()),
                PeerState::Lapsed(at_ms) => {
                    lapsed.insert(peer, at_ms);
                }
            }
        }
        let directory = Self {
            store,
            leases,
            partials: RwLock::default(),
            clock,
            metrics,
            lapsed: Mutex::new(lapsed),
            shared_at: AtomicU64::new(0),
            complaints: Throttle::new(sweep::TELL_EVERY),
        };
        directory.begin_sharing().await?;
        Ok(directory)
    }

    /// How long a lease lasts after the last keep-alive.
    pub fn lease(&self) -> Duration {
        self.leases.duration()
    }

    /// Why nothing can be registered or announced now; `None`: it can.
    pub fn store_fault(&self) -> Option<StoreError> {
        self.store.fault()
    }

    /// Whether the peer has a lease now.
    pub fn is_live(&self, id: &PeerId) -> bool {
        self.leases.of_id(id, self.clock.now()).is_some()
    }

    /// Brings the gauges up to date.
    pub fn measure(&self) {
        let gauge = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let counts = self.store.counts();
        self.metrics.peers.set(gauge(counts.peers));
        self.metrics.resources.set(gauge(counts.resources));
        self.metrics.records.set(gauge(counts.records));
        let partial = self.partials().records() as u64;
        self.metrics.partial_records.set(gauge(partial));
        self.metrics
            .leases_live
            .set(gauge(self.leases.count() as u64));
    }

    fn partials(&self) -> RwLockReadGuard<'_, Partials> {
        self.partials.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn partials_mut(&self) -> RwLockWriteGuard<'_, Partials> {
        let partials = self.partials.write();
        partials.unwrap_or_else(PoisonError::into_inner)
    }

    fn lapsed(&self) -> std::sync::MutexGuard<'_, HashMap<PeerNo, i64>> {
        self.lapsed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks peers as gone, durably, and forgets at once those that hold nothing.
    async fn lapse(&self, peers: &[(PeerNo, TokenHash)]) -> Result<(), StoreError> {
        let at_ms = self.clock.wall_ms();
        self.store.lapse(peers.to_vec(), at_ms).await?;
        self.forget_lapsed(peers, at_ms).await
    }

    /// Forgets at once those that hold nothing, and the others in a day.
    async fn forget_lapsed(
        &self,
        peers: &[(PeerNo, TokenHash)],
        at_ms: i64,
    ) -> Result<(), StoreError> {
        // A peer that registers in between stays: the store forgets only who is lapsed there.
        self.lapsed()
            .extend(peers.iter().map(|(peer, _)| (*peer, at_ms)));
        let forget = peers.iter().map(|(peer, _)| self.forget(*peer, at_ms, 0));
        try_join_all(forget).await?;
        Ok(())
    }

    /// Removes up to `limit` records of a peer that lapsed at `at_ms`; whether it is done. Where
    /// the store has it that the peer lapsed later, that is when it counts as lapsed from now on.
    async fn forget(&self, peer: PeerNo, at_ms: i64, limit: usize) -> Result<bool, StoreError> {
        let forgotten = self.store.forget(peer, at_ms, limit).await?;
        self.metrics
            .forgotten_records
            .inc_by(forgotten.records as u64);
        let mut lapsed = self.lapsed();
        // Unless it came back meanwhile and went again.
        if forgotten.done && lapsed.get(&peer) == Some(&at_ms) {
            match forgotten.lapsed_ms {
                // By the clock of another locator, or before this one's was set back.
                Some(later_ms) => lapsed.insert(peer, later_ms),
                None => lapsed.remove(&peer),
            };
        }
        Ok(forgotten.done)
    }
}
