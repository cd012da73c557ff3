//! The `redis://` engine: a Redis or Valkey Cluster that any number of locators share.
//!
//! [`keys`] says where things are. Invariant: what belongs to one part is changed by one script, at
//! once; a change of several parts is acknowledged when all of them have it, and can be repeated.
//! Readers pass over what a change that ended halfway left. A failover may lose writes that were
//! acknowledged, by nature of the engine: peers compare [`RedisStore::fingerprints_of`] with what
//! they hold, and send again what differs. Both sides of a record are compared.
//!
//! Who is live is shared by [`Sharing`]: the time of each peer's last keep-alive is in a sorted
//! set, so that one range tells what happened since a locator last asked.

mod accounts;
mod cluster;
mod counts;
mod keys;
mod notes;
mod peers;
mod read;
mod records;
mod renewed;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use vecino_rest::{Digest, PeerId, UserName};

pub use cluster::{EXPECTED, RedisUrl};

use super::{
    Account, Among, Change, Counts, DirectoryId, Exchange, Expect, Fingerprints, Forgotten, Found,
    Kept, Key, PeerNo, PeerRow, Registered, Resource, Sharing, Store, StoreError, TokenHash, Walk,
    WalkPage,
};
use cluster::Cluster;
use counts::Known;
use keys::SHARDS;
use records::BucketCounts;

/// How often it is asked how much there is.
const RECOUNT_EVERY: Duration = Duration::from_secs(10);
/// Peers of which it is remembered how much they have.
const MAX_COUNTED_PEERS: usize = 65_536;

/// A store in a cluster.
pub struct RedisStore {
    cluster: Cluster,
    namespace: String,
    id: DirectoryId,
    /// Tells this locator from the others.
    locator: DirectoryId,
    /// It said with which accounts it runs.
    has_said: AtomicBool,
    counts: Known,
    /// What peers hold in each bucket, as long as their token is the given one.
    of_peers: Mutex<HashMap<PeerNo, (TokenHash, BucketCounts)>>,
    /// The time of each shard's clock at the last exchange.
    exchanged_ms: [AtomicU64; SHARDS as usize],
    /// The replication ids of the primaries, and how often there were others.
    primaries: Mutex<BTreeSet<String>>,
    losses: AtomicU64,
    fault: Mutex<Option<StoreError>>,
    closed: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RedisStore {
    /// Connects to the cluster. The error is a sentence for the operator.
    pub async fn connect(url: &RedisUrl) -> Result<Arc<Self>, String> {
        let cluster = Cluster::connect(url).await?;
        let unreadable = |error: StoreError| format!("the cluster cannot be read: {error}");
        let (mut id, mut locator) = (DirectoryId::default(), DirectoryId::default());
        for random in [&mut id, &mut locator] {
            getrandom::fill(random)
                .map_err(|error| format!("the system has no randomness: {error}"))?;
        }
        let key = keys::store_id(&url.namespace);
        let mut command = redis::cmd("SET");
        let set: Option<String> = cluster
            .call(command.arg(&key).arg(&id[..]).arg("NX"))
            .await
            .map_err(unreadable)?;
        if set.is_none() {
            let first: Vec<u8> = cluster
                .call(redis::cmd("GET").arg(&key))
                .await
                .map_err(unreadable)?;
            id = first
                .try_into()
                .map_err(|_| format!("{key} is not the id of a store: name another namespace"))?;
        }
        let store = Arc::new(Self {
            cluster,
            namespace: url.namespace.clone(),
            id,
            locator,
            has_said: AtomicBool::new(false),
            counts: Known::default(),
            of_peers: Mutex::default(),
            exchanged_ms: Default::default(),
            primaries: Mutex::default(),
            losses: AtomicU64::new(0),
            fault: Mutex::default(),
            closed: AtomicBool::new(false),
        });
        store.recount().await.map_err(unreadable)?;
        store.look_for_losses().await;
        let weak = Arc::downgrade(&store);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(RECOUNT_EVERY).await;
                match weak.upgrade() {
                    Some(store) if !store.closed.load(Relaxed) => {
                        store.noting(store.recount().await).ok();
                    }
                    _ => return,
                }
            }
        });
        Ok(store)
    }

    fn check_open(&self) -> Result<(), StoreError> {
        if self.closed.load(Relaxed) {
            return Err(StoreError::Closed);
        }
        Ok(())
    }

    /// Remembers whether the engine fails, and says so when that begins and when it ends.
    fn noting<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        let now = result.as_ref().err().filter(|error| error.is_fault());
        if now.is_none() && result.is_err() {
            return result;
        }
        let mut fault = lock(&self.fault);
        match (&*fault, now) {
            (None, Some(error)) => log::warn!("the cluster fails: {error}"),
            (Some(_), None) => log::info!("the cluster answers again"),
            _ => {}
        }
        *fault = now.cloned();
        drop(fault);
        result
    }

    fn known_counts(&self, peer: PeerNo, token: &TokenHash) -> Option<BucketCounts> {
        let of_peers = lock(&self.of_peers);
        let (of_token, counts) = of_peers.get(&peer)?;
        (of_token == token).then(|| counts.clone())
    }

    fn remember_counts(&self, peer: PeerNo, token: TokenHash, counts: BucketCounts) {
        let mut of_peers = lock(&self.of_peers);
        if of_peers.len() >= MAX_COUNTED_PEERS && !of_peers.contains_key(&peer) {
            of_peers.clear();
        }
        of_peers.insert(peer, (token, counts));
    }

    fn forget_counts(&self, peers: impl IntoIterator<Item = PeerNo>) {
        let mut of_peers = lock(&self.of_peers);
        for peer in peers {
            of_peers.remove(&peer);
        }
    }

    fn exchanged_ms(&self, shard: u8) -> u64 {
        self.exchanged_ms[usize::from(shard)].load(Relaxed)
    }

    fn set_exchanged_ms(&self, shard: u8, now: u64) {
        self.exchanged_ms[usize::from(shard)].store(now, Relaxed);
    }

    /// Notices when a primary is another one than before, or began anew: it may have lost writes.
    async fn look_for_losses(&self) {
        let mut command = redis::cmd("INFO");
        command.arg("replication");
        // During a failover not all of them answer. It is asked again.
        let Ok(answers) = self.cluster.of_primaries(command).await else {
            return;
        };
        let ids = answers.iter().filter_map(|text| {
            let line = text.lines().find_map(|l| l.strip_prefix("master_replid:"));
            line.map(str::to_owned)
        });
        let ids: BTreeSet<_> = ids.collect();
        let mut known = lock(&self.primaries);
        if !known.is_empty() && !ids.is_subset(&known) {
            log::warn!("a primary of the cluster is another one: peers are compared with it");
            self.losses.fetch_add(1, Relaxed);
        }
        if !ids.is_empty() {
            *known = ids;
        }
    }
}

#[async_trait]
impl Store for RedisStore {
    async fn register(&self, peer: PeerRow) -> Result<Registered, StoreError> {
        peer.check()?;
        self.check_open()?;
        let registered = async {
            let (no, epoch) = self.register_peer(&peer).await?;
            let fingerprints = self.fingerprints_of(no).await?;
            let counts = Box::new(fingerprints.0.map(|bucket| bucket.count));
            self.remember_counts(no, peer.token, counts);
            Ok(Registered {
                peer: no,
                epoch,
                fingerprints,
            })
        };
        self.noting(registered.await)
    }

    async fn peer(&self, id: &PeerId) -> Result<Option<(PeerNo, PeerRow)>, StoreError> {
        self.peer_of(id).await
    }

    async fn end_sessions(&self, peers: Vec<(PeerNo, TokenHash)>) -> Result<(), StoreError> {
        self.check_open()?;
        self.end_sessions_of(&peers).await
    }

    async fn account(&self, user: &UserName) -> Result<Option<Account>, StoreError> {
        self.account_of(user).await
    }

    async fn accounts_of(&self, users: &[UserName]) -> Result<Vec<Account>, StoreError> {
        self.accounts_of_users(users).await
    }

    // What is wrong with a replica is no fault that keeps peers from being found.
    async fn put_account(&self, account: Account, expect: Expect) -> Result<bool, StoreError> {
        self.check_open()?;
        self.put(&account, expect).await
    }

    async fn remove_account(&self, user: &UserName) -> Result<bool, StoreError> {
        self.check_open()?;
        self.remove(user).await
    }

    async fn accounts(
        &self,
        after: Option<&UserName>,
        limit: usize,
    ) -> Result<Vec<Account>, StoreError> {
        self.accounts_after(after, limit).await
    }

    async fn bucket(&self, peer: PeerNo, bucket: u8) -> Result<Vec<Resource>, StoreError> {
        self.records_of(peer, bucket).await
    }

    async fn peers(&self) -> Result<Vec<(PeerNo, PeerRow)>, StoreError> {
        self.all_peers().await
    }

    async fn lapse(&self, peers: Vec<(PeerNo, TokenHash)>, at_ms: i64) -> Result<(), StoreError> {
        self.check_open()?;
        self.noting(self.lapse_peers(&peers, at_ms, Duration::ZERO).await)
    }

    async fn announce(
        &self,
        peer: PeerNo,
        token: TokenHash,
        change: Change,
    ) -> Result<u64, StoreError> {
        self.check_open()?;
        self.noting(self.change(peer, &token, change).await)
    }

    async fn forget(
        &self,
        peer: PeerNo,
        at_ms: i64,
        limit: usize,
    ) -> Result<Forgotten, StoreError> {
        self.check_open()?;
        self.noting(self.forget_records(peer, at_ms, limit).await)
    }

    async fn find(&self, key: &Key, among: &Among<'_>) -> Result<Vec<Found>, StoreError> {
        self.noting(self.find_all(key, among).await)
    }

    async fn walk(&self, walk: &Walk<'_>, among: &Among<'_>) -> Result<WalkPage, StoreError> {
        self.noting(self.walk_all(walk, among).await)
    }

    async fn importing(&self) -> Result<Option<Digest>, StoreError> {
        self.imported_export().await
    }

    async fn set_importing(&self, export: Option<Digest>) -> Result<(), StoreError> {
        self.check_open()?;
        self.note_import(export).await
    }

    fn counts(&self) -> Counts {
        self.counts.counts()
    }

    fn fault(&self) -> Option<StoreError> {
        lock(&self.fault).clone()
    }

    fn sharing(&self) -> Option<&dyn Sharing> {
        Some(self)
    }

    async fn close(&self) {
        if !self.closed.swap(true, Relaxed) && self.has_said.load(Relaxed) {
            self.run_no_more().await;
        }
    }
}

#[async_trait]
impl Sharing for RedisStore {
    fn directory_id(&self) -> DirectoryId {
        self.id
    }

    async fn exchange(&self, kept: &[Kept], back: Duration) -> Result<Exchange, StoreError> {
        self.look_for_losses().await;
        self.noting(self.exchange_all(kept, back).await)
    }

    async fn row(&self, peer: PeerNo) -> Result<Option<(u64, PeerRow)>, StoreError> {
        self.row(peer).await
    }

    async fn lapse_silent(
        &self,
        peers: Vec<(PeerNo, TokenHash)>,
        at_ms: i64,
        silence: Duration,
    ) -> Result<(), StoreError> {
        self.noting(self.lapse_peers(&peers, at_ms, silence).await)
    }

    async fn run_with(
        &self,
        accounts: &str,
        lasting: Duration,
    ) -> Result<Option<String>, StoreError> {
        self.has_said.store(true, Relaxed);
        self.noting(self.say_accounts(accounts, lasting).await)
    }

    fn losses(&self) -> u64 {
        self.losses.load(Relaxed)
    }

    async fn fingerprints(&self, peer: PeerNo) -> Result<Fingerprints, StoreError> {
        self.fingerprints_of(peer).await
    }
}
