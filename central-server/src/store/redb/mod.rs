//! The `redb:` engine: one file, durable at every acknowledged change.
//!
//! Reads go to the last committed snapshot and never wait for a writer. All changes go through
//! one writer thread behind a bounded queue; it takes what waits there, up to some hundred thousand
//! records, applies it in one transaction, commits with `Durability::Immediate`, publishes the
//! new snapshot and only then answers. Who finds the queue full waits: nothing is dropped.
//!
//! After an error of the file the engine refuses everything until it is opened again, which the
//! writer thread does ([`recovery`]); until changes work again they are refused with the error.
//!
//! Invariant: the tables of [`schema`] agree with each other in every committed transaction.

#[cfg(test)]
mod agreement;
mod apply;
mod backup;
mod cut;
#[cfg(test)]
mod faults;
mod lists;
mod memory;
mod open;
mod published;
mod queue;
mod read;
mod records;
mod recovery;
mod resources;
mod rows;
mod schema;
#[cfg(test)]
mod tests;
mod texts;
mod upgrade;
#[cfg(test)]
mod upgraded;
mod variants;
mod walk;
mod warming;
mod writer;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use vecino_rest::{Digest, PeerId, UserName};

use super::{
    Account, Among, Announced, Change, Counts, Expect, Forgotten, Found, Key, PeerNo, PeerRow,
    Registered, Resource, Store, StoreError, TokenHash, Walk, WalkPage,
};
use crate::metrics::StoreMetrics;
use open::{Opened, Origin, StoreFile};
use published::Published;
use read::Snapshot;
use warming::Warming;
use writer::{Command, Writer, durable};

/// A store in a redb file.
pub struct RedbStore {
    /// Ends before the writer does.
    warming: OnceLock<Warming>,
    published: Arc<Published>,
    writer: Writer,
    /// None: it is in no file of this machine.
    file: Option<PathBuf>,
}

impl RedbStore {
    /// Opens the file, or makes it when it is missing. Blocks: a file that was not closed is
    /// checked first. The error is a sentence for the operator; the file is left as it is then.
    pub fn open(path: &Path, metrics: StoreMetrics) -> Result<Self, String> {
        let opened = open::open(path)?;
        let origin = StoreFile(path.to_owned());
        let mut store = Self::start(opened, Box::new(origin), metrics)?;
        store.file = Some(path.to_owned());
        Ok(store)
    }

    fn start(
        opened: Opened,
        origin: Box<dyn Origin>,
        metrics: StoreMetrics,
    ) -> Result<Self, String> {
        let reason = |error: StoreError| format!("the file cannot be read: {error}");
        let snapshot = Snapshot::of(&opened.database, opened.counts).map_err(reason)?;
        let published = Arc::new(Published::new(snapshot));
        let writer = Writer::start(opened, origin, published.clone(), metrics)
            .map_err(|error| format!("the writer thread could not be started: {error}"))?;
        Ok(Self {
            warming: OnceLock::new(),
            published,
            writer,
            file: None,
        })
    }

    /// Reads the last committed state. When the engine failed, the writer looks after it: without
    /// changes, nobody else would notice.
    fn read<T>(
        &self,
        read: impl FnOnce(&Snapshot) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let result = read(&*self.published.snapshot()?);
        if result.as_ref().is_err_and(StoreError::is_fault) {
            self.writer.check();
        }
        result
    }
}

#[async_trait]
impl Store for RedbStore {
    async fn register(&self, peer: PeerRow) -> Result<Registered, StoreError> {
        peer.check()?;
        self.writer
            .run(|reply| Command::Register { peer, reply }, 0)
            .await
    }

    async fn peer(&self, id: &PeerId) -> Result<Option<(PeerNo, PeerRow)>, StoreError> {
        self.read(|snapshot| snapshot.peer(id))
    }

    async fn end_sessions(&self, peers: Vec<(PeerNo, TokenHash)>) -> Result<(), StoreError> {
        self.writer
            .run(|reply| Command::EndSessions { peers, reply }, 0)
            .await
    }

    async fn account(&self, user: &UserName) -> Result<Option<Account>, StoreError> {
        self.read(|snapshot| snapshot.account(user))
    }

    async fn accounts_of(&self, users: &[UserName]) -> Result<Vec<Account>, StoreError> {
        self.read(|snapshot| {
            let accounts = users.iter().map(|user| snapshot.account(user));
            accounts.filter_map(Result::transpose).collect()
        })
    }

    async fn put_account(&self, account: Account, expect: Expect) -> Result<bool, StoreError> {
        let command = |reply| Command::PutAccount {
            account,
            expect,
            reply,
        };
        self.writer.run(command, 0).await
    }

    async fn remove_account(&self, user: &UserName) -> Result<bool, StoreError> {
        let user = user.clone();
        self.writer
            .run(|reply| Command::RemoveAccount { user, reply }, 0)
            .await
    }

    async fn accounts(
        &self,
        after: Option<&UserName>,
        limit: usize,
    ) -> Result<Vec<Account>, StoreError> {
        self.read(|snapshot| snapshot.accounts(after, limit))
    }

    async fn bucket(&self, peer: PeerNo, bucket: u8) -> Result<Vec<Resource>, StoreError> {
        self.read(|snapshot| snapshot.bucket(peer, bucket))
    }

    async fn peers(&self) -> Result<Vec<(PeerNo, PeerRow)>, StoreError> {
        self.read(Snapshot::peers)
    }

    async fn lapse(&self, peers: Vec<(PeerNo, TokenHash)>, at_ms: i64) -> Result<(), StoreError> {
        self.writer
            .run(
                |reply| Command::Lapse {
                    peers,
                    at_ms,
                    reply,
                },
                0,
            )
            .await
    }

    async fn announce(
        &self,
        peer: PeerNo,
        token: TokenHash,
        change: Change,
    ) -> Result<u64, StoreError> {
        self.begin_announce(peer, token, change).await?.await
    }

    async fn begin_announce(
        &self,
        peer: PeerNo,
        token: TokenHash,
        change: Change,
    ) -> Result<Announced, StoreError> {
        let bytes = change.bytes();
        let command = |reply| Command::Announce {
            peer,
            token,
            change,
            reply,
        };
        let answer = self.writer.begin(command, bytes).await?;
        Ok(durable(answer).boxed())
    }

    async fn forget(
        &self,
        peer: PeerNo,
        at_ms: i64,
        limit: usize,
    ) -> Result<Forgotten, StoreError> {
        let command = |reply| Command::Forget {
            peer,
            at_ms,
            limit,
            reply,
        };
        self.writer.run(command, 0).await
    }

    async fn find(&self, key: &Key, among: &Among<'_>) -> Result<Vec<Found>, StoreError> {
        self.read(|snapshot| snapshot.find(key, among))
    }

    async fn walk(&self, walk: &Walk<'_>, among: &Among<'_>) -> Result<WalkPage, StoreError> {
        self.read(|snapshot| snapshot.walk(walk, among))
    }

    async fn importing(&self) -> Result<Option<Digest>, StoreError> {
        self.read(Snapshot::importing)
    }

    async fn set_importing(&self, export: Option<Digest>) -> Result<(), StoreError> {
        self.writer
            .run(|reply| Command::SetImporting { export, reply }, 0)
            .await
    }

    fn counts(&self) -> Counts {
        self.published.counts()
    }

    fn size_bytes(&self) -> Option<u64> {
        let file = std::fs::metadata(self.file.as_ref()?).ok()?;
        Some(file.len())
    }

    async fn backup(&self, file: &Path) -> Result<(), StoreError> {
        let (snapshot, file) = (self.published.snapshot()?, file.to_owned());
        let copied = tokio::task::spawn_blocking(move || backup::write(&snapshot, &file)).await;
        copied
            .unwrap_or_else(|panic| Err(panic.to_string()))
            .map_err(StoreError::Backup)
    }

    fn fault(&self) -> Option<StoreError> {
        self.published.fault().or_else(|| self.writer.fault())
    }

    fn warm_up(&self) {
        let begin = || Warming::begin(self.published.clone(), open::cache_of_process() as u64);
        self.warming.get_or_init(begin);
    }

    async fn close(&self) {
        if let Some(warming) = self.warming.get() {
            warming.end();
        }
        self.writer.close().await;
        self.published.withdraw();
    }
}
