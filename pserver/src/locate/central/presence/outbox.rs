//! [`Outbox`]: batches on their way to the locator, and their acknowledgements.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, atomic::Ordering},
};

use tokio::sync::{broadcast, mpsc};
use tonic::Streaming;
use vecino_grpc::v1::{self, AnnounceRequest, AnnounceResponse, RegisterResponse};
use vecino_rest::{Digest, Name};

use super::{End, Presence, UNACKNOWLEDGED, ended};
use crate::content::{
    catalogue::{Change, Record},
    partials::Held,
    progress::Follower,
};

/// Records in one message; the directory takes 4096.
const BATCH: usize = 1024;
/// Records that replace a bucket at once: as many of the longest as a message takes.
const REPLACED: usize = 3000;

/// What is announced in this session, and what of it is acknowledged.
pub(super) struct Outbox<'a> {
    pub(super) registered: &'a RegisterResponse,
    pub(super) announcements: mpsc::Sender<AnnounceRequest>,
    pub(super) acks: Streaming<AnnounceResponse>,
    pub(super) sent: u64,
    pub(super) acknowledged: u64,
    /// What the locator was told to be held in part.
    pub(super) partial: BTreeSet<(Digest, Name)>,
    pub(super) presence: Arc<Presence>,
    pub(super) follower: Follower,
    /// The last change of the catalogue that was sent.
    pub(super) change: u64,
    /// Batches, and the last change of which each tells.
    pub(super) unacknowledged: VecDeque<(u64, u64)>,
}

impl Outbox<'_> {
    pub(super) fn has_room(&self) -> bool {
        self.sent - self.acknowledged < UNACKNOWLEDGED
    }

    pub(super) fn acknowledge(&mut self, ack: AnnounceResponse) {
        self.acknowledged = self.acknowledged.max(ack.batch.min(self.sent));
        self.presence
            .announced
            .store(ack.records, Ordering::Relaxed);
        while let Some(&(batch, change)) = self.unacknowledged.front()
            && batch <= self.acknowledged
        {
            self.unacknowledged.pop_front();
            self.follower.reached(change);
        }
    }

    /// The locator knows all changes up to this one.
    pub(super) fn is_as_of(&mut self, change: u64) {
        self.change = change;
        self.follower.reached(change);
    }

    async fn send(
        &mut self,
        announce: Vec<v1::Record>,
        withdraw: Vec<v1::Record>,
        replace_bucket: Option<u32>,
    ) -> Result<(), End> {
        self.sent += 1;
        self.unacknowledged.push_back((self.sent, self.change));
        let request = AnnounceRequest {
            peer_id: self.registered.peer_id.clone(),
            lease_token: self.registered.lease_token.clone(),
            batch: self.sent,
            announce,
            withdraw,
            replace_bucket,
        };
        self.announcements.send(request).await.map_err(|_| ended())
    }

    /// Makes the locator's bucket what the catalogue's is.
    pub(super) async fn replace(&mut self, bucket: u8, records: Vec<Record>) -> Result<(), End> {
        let mut chunks = records
            .chunks(REPLACED)
            .map(|chunk| chunk.iter().map(to_wire).collect());
        let first = chunks.next().unwrap_or_default();
        self.send(first, Vec::new(), Some(bucket.into())).await?;
        for more in chunks {
            self.drain_acks().await?;
            self.send(more, Vec::new(), None).await?;
        }
        Ok(())
    }

    /// Waits until another message may be sent.
    async fn drain_acks(&mut self) -> Result<(), End> {
        while !self.has_room() {
            let ack = self.acks.message().await?.ok_or_else(ended)?;
            self.acknowledge(ack);
        }
        Ok(())
    }

    /// Announces `first` and what else is waiting. The last change of a record wins, so the
    /// order within one message does not matter.
    pub(super) async fn announce(
        &mut self,
        first: Change,
        changes: &mut broadcast::Receiver<Change>,
    ) -> Result<(), End> {
        let mut last = BTreeMap::new();
        let mut next = Some(first);
        while let Some(change) = next.take() {
            let key = match &change {
                Change::Added(record) => (record.digest, record.name.clone()),
                Change::Removed(digest, name, _) => (*digest, name.clone()),
            };
            last.insert(key, change);
            self.change += 1;
            if last.len() < BATCH {
                next = match changes.try_recv() {
                    Ok(change) => Some(change),
                    Err(broadcast::error::TryRecvError::Lagged(_)) => return Err(End::Again),
                    Err(_) => None,
                };
            }
        }
        let (mut announce, mut withdraw) = (Vec::new(), Vec::new());
        for change in last.into_values() {
            match change {
                Change::Added(record) => announce.push(to_wire(&record)),
                Change::Removed(digest, name, _) => withdraw.push(gone(&digest, &name)),
            }
        }
        self.send(announce, withdraw, None).await
    }

    /// Tells what came to be `held` in part, and what is no longer. More than a message takes waits
    /// for the next change: it is a hint.
    pub(super) async fn announce_partials(&mut self, held: &Held) -> Result<(), End> {
        let partial = |record| v1::Record {
            partial: true,
            ..record
        };
        let ended = self.partial.iter();
        let ended: Vec<_> = ended
            .filter(|key| !held.contains_key(key))
            .cloned()
            .collect();
        let begun = held.iter().filter(|(key, _)| !self.partial.contains(key));
        let begun: Vec<_> = begun.take(BATCH - ended.len()).collect();
        if begun.is_empty() && ended.is_empty() {
            return Ok(());
        }
        let announce = begun
            .iter()
            .map(|(_, (record, _))| partial(to_wire(record)));
        let withdraw = ended
            .iter()
            .map(|(digest, name)| partial(gone(digest, name)));
        let (announce, withdraw) = (announce.collect(), withdraw.collect());
        for key in &ended {
            self.partial.remove(key);
        }
        self.partial
            .extend(begun.into_iter().map(|(key, _)| key.clone()));
        self.send(announce, withdraw, None).await
    }
}

fn gone(digest: &Digest, name: &Name) -> v1::Record {
    v1::Record {
        name: name.to_string(),
        digest: digest.as_bytes().to_vec().into(),
        size: 0,
        modified_ms: 0,
        partial: false,
    }
}

fn to_wire(record: &Record) -> v1::Record {
    v1::Record {
        name: record.name.to_string(),
        digest: record.digest.as_bytes().to_vec().into(),
        size: record.size,
        modified_ms: record.modified_ms,
        partial: false,
    }
}
