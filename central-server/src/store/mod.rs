//! Durable knowledge of the locator: which peers exist and what each of them holds.
//!
//! Invariant of every engine: a change is durable when its future resolves, is applied whole or
//! not at all, and a resource without holders does not exist, nor do its index rows. Of a change
//! that failed with a fault of the engine nobody knows which of both it was: it may be asked for
//! again, and an engine that can work again does so by itself. Liveness is no business of a store:
//! lookups take it as an argument ([`Live`]).
//!
//! The trait is object-safe with boxed futures (`async_trait`): an engine behind a network needs
//! to await, and one allocation a lookup is cheaper than a type parameter on everything above.

mod account;
#[cfg(test)]
mod conformance;
mod fingerprint;
mod holders;
mod memory;
mod redb;
mod redis;
mod sharing;

use std::{future::ready, path::Path, sync::Arc};

use async_trait::async_trait;
use futures_util::{FutureExt as _, future::BoxFuture};
use vecino_rest::{Digest, Name, PeerId, UserName};

pub use account::{Account, Expect, Session};
pub use fingerprint::{BUCKETS, Fingerprints, bucket_of};
pub(crate) use holders::gather;
pub use memory::MemoryStore;
pub use redb::RedbStore;
pub use redis::{EXPECTED as REDIS_EXPECTED, RedisStore, RedisUrl};
pub use sharing::{DirectoryId, Exchange, Heard, Kept, Sharing};

use crate::{config::StoreUrl, metrics::StoreMetrics};

/// Most records of one peer in one bucket. Bounds what a replaced bucket adds and removes; to find
/// what it removes, an engine may read all that the peer holds.
pub const MAX_BUCKET_RECORDS: usize = 65_536;
/// Variants of one name or digest that a lookup reads at most. Of more than these, each lookup reads
/// others: see [`Store::find`].
pub const MAX_VARIANTS_READ: usize = 512;
/// Live holders that are counted of one variant at most.
pub const MAX_HOLDERS_COUNTED: usize = 1000;
/// Rows of holders that one lookup reads at most, over all its variants.
pub const MAX_HOLDER_READS: usize = 4096;
/// Rows of holders that one walk reads at most.
pub const MAX_HOLDER_READS_WALK: usize = 4_096;

/// A walk ends before a resource for which fewer reads of holders are left than this.
const HOLDER_READS_RESERVED: usize = 2 * MAX_HOLDERS_COUNTED;

/// The number by which a store knows a peer; never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerNo(pub u32);

/// The number by which a store knows a resource; never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceNo(pub u64);

impl ResourceNo {
    /// The last number: numbers take six bytes in the indexes.
    pub const MAX: Self = Self((1 << 48) - 1);
}

/// BLAKE3 of a lease token: a stolen store gives nobody a lease.
pub type TokenHash = [u8; 32];

/// Whether a peer was there when the store last heard of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerState {
    /// Registered, neither deregistered nor known to have gone silent.
    Present,
    /// Gone since then (milliseconds since 1970-01-01 UTC).
    Lapsed(i64),
}

impl PeerState {
    /// Whether it is lapsed since that time or earlier.
    fn is_lapsed_at(self, at_ms: i64) -> bool {
        matches!(self, Self::Lapsed(since_ms) if since_ms <= at_ms)
    }
}

/// What is kept of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerRow {
    /// Its id.
    pub id: PeerId,
    /// `http[s]://host:port`.
    pub url: String,
    /// Label of its place; may be empty.
    pub site: String,
    /// Hash of its lease token.
    pub token: TokenHash,
    /// Whether the URL names the address from which the peer was seen.
    pub url_is_observed: bool,
    /// Whether it was there.
    pub state: PeerState,
    /// Its login, where it needed one.
    pub session: Option<Session>,
}

impl PeerRow {
    /// Whether every engine has room for it. What peers say of themselves was checked before and is
    /// far from these bounds.
    fn check(&self) -> Result<(), StoreError> {
        let bounds = [
            ("site", self.site.len(), usize::from(u8::MAX)),
            ("URL", self.url.len(), usize::from(u16::MAX)),
        ];
        let beyond = bounds.into_iter().find(|(_, bytes, most)| bytes > most);
        beyond.map_or(Ok(()), |(field, bytes, most)| {
            Err(StoreError::Unfit { field, bytes, most })
        })
    }
}

/// The answer to a registration.
#[derive(Debug, Clone)]
pub struct Registered {
    /// The peer's number, the same as before when the peer is known.
    pub peer: PeerNo,
    /// Grows with every registration: tells which of two concurrent ones came last.
    pub epoch: u64,
    /// What the store holds for the peer.
    pub fingerprints: Fingerprints,
}

/// A file that a peer holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Resource {
    /// Its name.
    pub name: Name,
    /// Its digest.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// As the first peer that announced it said.
    pub modified_ms: i64,
}

/// How many records the peer has, once its change is durable.
pub type Announced = BoxFuture<'static, Result<u64, StoreError>>;

/// How the records of a peer change.
#[derive(Debug, Clone)]
pub enum Change {
    /// Some come, some go. Withdrawals take effect first.
    Difference {
        /// Held from now on.
        announce: Vec<Resource>,
        /// Held no longer.
        withdraw: Vec<(Name, Digest)>,
    },
    /// The records of a bucket become exactly these; all digests begin with the bucket's byte.
    Bucket {
        /// First byte of the digests.
        bucket: u8,
        /// All records of the bucket.
        records: Vec<Resource>,
    },
}

impl Change {
    /// How many records it carries.
    pub fn len(&self) -> usize {
        match self {
            Self::Difference { announce, withdraw } => announce.len() + withdraw.len(),
            Self::Bucket { records, .. } => records.len(),
        }
    }

    /// Whether it carries no record (a bucket may yet be emptied by it).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it changes nothing.
    pub fn is_nothing(&self) -> bool {
        matches!(self, Self::Difference { .. }) && self.is_empty()
    }

    /// About how much memory it takes while it waits.
    pub fn bytes(&self) -> usize {
        /// Fixed part of a record.
        const RECORD: usize = 64;
        let names: usize = match self {
            Self::Difference { announce, withdraw } => {
                let announced = announce.iter().map(|r| r.name.as_str().len());
                let withdrawn = withdraw.iter().map(|(name, _)| name.as_str().len());
                announced.chain(withdrawn).sum()
            }
            Self::Bucket { records, .. } => records.iter().map(|r| r.name.as_str().len()).sum(),
        };
        names + self.len() * RECORD
    }
}

/// What is looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// All variants of a name.
    Name(Name),
    /// All names of a content.
    Digest(Digest),
}

/// Tells live peers from others.
pub trait Live: Sync {
    /// Removes from `peers` those that are not live, keeping the order.
    fn retain_live(&self, peers: &mut Vec<PeerNo>);
}

/// Among which peers a lookup looks for holders.
pub struct Among<'a> {
    /// Who is live.
    pub live: &'a dyn Live,
    /// Only these; `None`: all.
    pub only: Option<&'a [PeerNo]>,
    /// Where the walk over the holders begins; it wraps around. Random: with more holders than
    /// the budget, each walk sees others.
    pub start: PeerNo,
    /// Random: decides which variants are read where there are more than a lookup reads.
    pub seed: u64,
}

/// A resource that live peers hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The resource.
    pub resource: Resource,
    /// Live holders, at least one and at most [`MAX_HOLDERS_COUNTED`], in the order of the walk.
    pub holders: Vec<PeerNo>,
}

/// A place in the index of terms: the term and a resource that has it.
pub type Position = (String, ResourceNo);

/// A walk over the resources whose terms begin with a prefix.
pub struct Walk<'a> {
    /// The prefix.
    pub prefix: &'a str,
    /// Only terms equal to the prefix.
    pub exact: bool,
    /// Rows after this one; `None`: from the first.
    pub after: Option<&'a Position>,
    /// Whether a resource met at a term belongs into the answer.
    pub accept: &'a (dyn Fn(&str, &Resource) -> bool + Sync),
    /// Stop after so many resources.
    pub limit: usize,
    /// Stop after so many index rows.
    pub row_budget: usize,
}

impl Walk<'_> {
    /// Whether the walk goes over this term.
    fn covers(&self, term: &str) -> bool {
        if self.exact {
            term == self.prefix
        } else {
            term.starts_with(self.prefix)
        }
    }
}

/// What a walk met.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WalkPage {
    /// The accepted resources with live holders, in the order of the index.
    pub found: Vec<Found>,
    /// Where to go on; `None`: the walk is over.
    pub next: Option<Position>,
}

/// How much there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Peers, those that lapsed included.
    pub peers: u64,
    /// Distinct (name, digest, size).
    pub resources: u64,
    /// Pairs of a resource and a peer that holds it.
    pub records: u64,
}

/// What a call of [`Store::forget`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forgotten {
    /// Records removed.
    pub records: usize,
    /// Whether the peer is gone, or was none to be forgotten.
    pub done: bool,
    /// It was none to be forgotten because it lapsed later than asked, then.
    pub lapsed_ms: Option<i64>,
}

impl Forgotten {
    /// What is answered of a peer in that state, or of none, where that is none to be forgotten.
    fn kept(state: Option<PeerState>) -> Self {
        let lapsed_ms = match state {
            Some(PeerState::Lapsed(at_ms)) => Some(at_ms),
            Some(PeerState::Present) | None => None,
        };
        Self {
            records: 0,
            done: true,
            lapsed_ms,
        }
    }
}

/// Why a store could not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Nobody of that number, or its token is another one by now.
    #[error("the lease token is not the peer's current one")]
    NotThePeer,
    /// A peer may not hold so many in one bucket.
    #[error("bucket {bucket} of the peer would have more than {MAX_BUCKET_RECORDS} records")]
    BucketFull {
        /// Which.
        bucket: u8,
    },
    /// It cannot be kept.
    #[error("the {field} of a peer has {bytes} bytes: expected at most {most}")]
    Unfit {
        /// What of it.
        field: &'static str,
        /// Of that length.
        bytes: usize,
        /// Where this is possible.
        most: usize,
    },
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
    /// The engine failed.
    #[error("the store failed: {0}")]
    Engine(String),
    /// The engine has no room to write.
    #[error("the disk of the store is full: {0}")]
    DiskFull(String),
    /// A backup cannot be made; the sentence says why.
    #[error("no backup was made: {0}")]
    Backup(String),
}

impl StoreError {
    /// Whether it is the engine's, and not about the request.
    pub fn is_fault(&self) -> bool {
        matches!(self, Self::Engine(_) | Self::DiskFull(_))
    }
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("STORE_URL={url}: {reason}")]
pub struct OpenError {
    /// What was to be opened.
    pub url: String,
    /// Why not, and what would be right.
    pub reason: String,
    /// No file is there, nor could one be made: another place is needed.
    pub is_unusable: bool,
}

/// A directory's memory. The module documents the invariant.
#[async_trait]
pub trait Store: Send + Sync {
    /// Adds the peer, or replaces what was known of the peer with this id; records stay.
    async fn register(&self, peer: PeerRow) -> Result<Registered, StoreError>;

    /// The peer of that id.
    async fn peer(&self, id: &PeerId) -> Result<Option<(PeerNo, PeerRow)>, StoreError>;

    /// Ends the logins of those peers whose session still has the given token, so that they cannot
    /// register again with it. Their leases are another matter.
    async fn end_sessions(&self, peers: Vec<(PeerNo, TokenHash)>) -> Result<(), StoreError>;

    /// The account of `user`.
    async fn account(&self, user: &UserName) -> Result<Option<Account>, StoreError>;

    /// The accounts of those of `users` who have one, in any order.
    async fn accounts_of(&self, users: &[UserName]) -> Result<Vec<Account>, StoreError>;

    /// Stores an account, if it is there already or is not, as `expect` says; whether it was so.
    async fn put_account(&self, account: Account, expect: Expect) -> Result<bool, StoreError>;

    /// Removes the account of `user`; whether there was one.
    async fn remove_account(&self, user: &UserName) -> Result<bool, StoreError>;

    /// Accounts in the order of their users' names, those after `after`, at most `limit`.
    async fn accounts(
        &self,
        after: Option<&UserName>,
        limit: usize,
    ) -> Result<Vec<Account>, StoreError>;

    /// The records of a peer in one bucket, in any order.
    async fn bucket(&self, peer: PeerNo, bucket: u8) -> Result<Vec<Resource>, StoreError>;

    /// All peers.
    async fn peers(&self) -> Result<Vec<(PeerNo, PeerRow)>, StoreError>;

    /// Marks those peers as lapsed at `at_ms` whose token is still the given one.
    async fn lapse(&self, peers: Vec<(PeerNo, TokenHash)>, at_ms: i64) -> Result<(), StoreError>;

    /// Changes what a peer holds; how many records it has then. The token must be the peer's.
    async fn announce(
        &self,
        peer: PeerNo,
        token: TokenHash,
        change: Change,
    ) -> Result<u64, StoreError>;

    /// The same in two steps. When this resolves, the change has its place: what is announced after
    /// that takes effect after it. Its answer comes when it is durable.
    async fn begin_announce(
        &self,
        peer: PeerNo,
        token: TokenHash,
        change: Change,
    ) -> Result<Announced, StoreError> {
        let records = self.announce(peer, token, change).await?;
        Ok(ready(Ok(records)).boxed())
    }

    /// Removes up to `limit` records of a peer, and the peer with the last of them, provided
    /// that it is lapsed since `at_ms` or earlier: who came back and went again stays.
    async fn forget(&self, peer: PeerNo, at_ms: i64, limit: usize)
    -> Result<Forgotten, StoreError>;

    /// Resources of that name or digest with live holders, in any order. Up to [`MAX_VARIANTS_READ`]
    /// are all looked at, whoever holds them, while there are holders left to read
    /// ([`MAX_HOLDER_READS`]). Of more, [`Among::seed`] decides at which so many: nobody hides for good
    /// what others announce by announcing more under its name or digest. Each has about the same
    /// chance, but that an engine may prefer those that were there first with one half of them.
    async fn find(&self, key: &Key, among: &Among<'_>) -> Result<Vec<Found>, StoreError>;

    /// Walks the index of terms.
    async fn walk(&self, walk: &Walk<'_>, among: &Among<'_>) -> Result<WalkPage, StoreError>;

    /// The export that is being imported into it, by its checksum, or was when that broke off: the
    /// store is not whole then.
    async fn importing(&self) -> Result<Option<Digest>, StoreError>;

    /// An import begins, or has come to its end.
    async fn set_importing(&self, export: Option<Digest>) -> Result<(), StoreError>;

    /// How much there is.
    fn counts(&self) -> Counts;

    /// Bytes that it takes where it is kept, if it can tell.
    fn size_bytes(&self) -> Option<u64> {
        None
    }

    /// Writes all that is durable now into a new file, which [`open`] can open. Nobody waits for
    /// it meanwhile.
    async fn backup(&self, _file: &Path) -> Result<(), StoreError> {
        Err(StoreError::Backup(
            "this engine has no file; export, or use its own means".into(),
        ))
    }

    /// Why changes fail now; `None`: they do not.
    fn fault(&self) -> Option<StoreError> {
        None
    }

    /// What it needs to be the store of several locators; `None`: it is this one's alone.
    fn sharing(&self) -> Option<&dyn Sharing> {
        None
    }

    /// Begins to read what lookups need into memory, where that helps, beside all else, now and whenever the
    /// engine had to be opened again. To be called once, by who serves.
    fn warm_up(&self) {}

    /// Ends the engine once what was accepted is durable. Changes fail afterwards.
    async fn close(&self);
}

/// Refuses records that would overfill a bucket that has `count_of` records already. Counts every
/// one as new: a peer so near to the bound is told to withdraw first.
fn check_room(announce: &[Resource], count_of: impl Fn(u8) -> u32) -> Result<(), StoreError> {
    let mut added = [0_usize; BUCKETS];
    for resource in announce {
        added[usize::from(bucket_of(&resource.digest))] += 1;
    }
    for (bucket, added) in (0..=u8::MAX).zip(added) {
        if added > 0 && count_of(bucket) as usize + added > MAX_BUCKET_RECORDS {
            return Err(StoreError::BucketFull { bucket });
        }
    }
    Ok(())
}

/// Opens the engine that `url` names, if what it has is whole.
pub async fn open(url: &StoreUrl, metrics: StoreMetrics) -> Result<Arc<dyn Store>, OpenError> {
    let store = open_to_import(url, metrics).await?;
    let reason = match store.importing().await {
        Ok(None) => return Ok(store),
        Ok(Some(_)) => {
            let remove = match url {
                StoreUrl::Redis(_) => "name another namespace",
                StoreUrl::Redb(_) | StoreUrl::Memory => "remove the file",
            };
            format!(
                "an import into it did not come to its end: run `central-server import` with the \
                 same file again, or {remove} to begin anew"
            )
        }
        Err(error) => format!("it cannot be read: {error}"),
    };
    store.close().await;
    Err(OpenError {
        url: url.to_string(),
        reason,
        is_unusable: false,
    })
}

/// Opens the engine that `url` names, whatever became of an import into it.
pub async fn open_to_import(
    url: &StoreUrl,
    metrics: StoreMetrics,
) -> Result<Arc<dyn Store>, OpenError> {
    match url {
        StoreUrl::Memory => Ok(Arc::new(MemoryStore::new())),
        StoreUrl::Redis(cluster) => match RedisStore::connect(cluster).await {
            Ok(store) => Ok(store),
            Err(reason) => Err(OpenError {
                url: url.to_string(),
                reason,
                is_unusable: false,
            }),
        },
        StoreUrl::Redb(path) => {
            let (file, shown) = (path.clone(), url.to_string());
            // Repair after a crash may read the whole file.
            let opened = tokio::task::spawn_blocking(move || RedbStore::open(&file, metrics)).await;
            let reason = match opened {
                Ok(Ok(store)) => return Ok(Arc::new(store)),
                Ok(Err(reason)) => reason,
                Err(panic) => format!("the file is corrupt and was left as it is ({panic})"),
            };
            Err(OpenError {
                url: shown,
                reason,
                is_unusable: !path.is_file(),
            })
        }
    }
}
