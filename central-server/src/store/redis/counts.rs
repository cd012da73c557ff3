//! How much there is, as far as this locator was told: every change answers with the numbers of
//! what it touched, and what other locators change is asked for now and then.

use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::future::try_join_all;

use super::{
    RedisStore,
    keys::{self, PARTS, Part, SHARDS, Side},
};
use crate::store::{Counts, StoreError};

/// Numbers of all parts and shards.
#[derive(Default)]
pub(super) struct Known(Mutex<State>);

#[derive(Default)]
struct State {
    parts: [InPart; PARTS as usize],
    peers: [u64; SHARDS as usize],
}

#[derive(Default, Clone, Copy)]
struct InPart {
    records: u64,
    resources: u64,
    /// Grows when a change begins and when it ends: what was asked for meanwhile may be older.
    changes: u64,
}

/// A change of a part that is under way.
pub(super) struct Changing<'a> {
    known: &'a Known,
    part: Part,
}

impl Changing<'_> {
    /// What its answer says.
    pub(super) fn done(self, records: u64, resources: u64) {
        if self.part.side == Side::Names {
            let mut state = self.known.lock();
            let part = &mut state.parts[usize::from(self.part.number)];
            (part.records, part.resources) = (records, resources);
        }
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.known.touch(self.part);
    }
}

impl Known {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn touch(&self, part: Part) {
        if part.side == Side::Names {
            self.lock().parts[usize::from(part.number)].changes += 1;
        }
    }

    /// A change of this part begins.
    pub(super) fn changing(&self, part: Part) -> Changing<'_> {
        self.touch(part);
        Changing { known: self, part }
    }

    pub(super) fn set_peers(&self, shard: u8, peers: u64) {
        self.lock().peers[usize::from(shard)] = peers;
    }

    pub(super) fn counts(&self) -> Counts {
        let state = self.lock();
        Counts {
            peers: state.peers.iter().sum(),
            resources: state.parts.iter().map(|part| part.resources).sum(),
            records: state.parts.iter().map(|part| part.records).sum(),
        }
    }
}

impl RedisStore {
    /// Asks the cluster how much there is.
    pub(super) async fn recount(&self) -> Result<(), StoreError> {
        let parts = Part::all(Side::Names).map(|part| self.recount_part(part));
        let shards = (0..SHARDS).map(|shard| async move {
            let rows = keys::shard(&self.namespace, shard) + ":rows";
            let peers = self.cluster.call(redis::cmd("HLEN").arg(rows)).await?;
            self.counts.set_peers(shard, peers);
            Ok::<_, StoreError>(())
        });
        try_join_all(parts).await?;
        try_join_all(shards).await?;
        Ok(())
    }

    async fn recount_part(&self, part: Part) -> Result<(), StoreError> {
        let number = usize::from(part.number);
        let before = self.counts.lock().parts[number].changes;
        let tag = part.tag(&self.namespace);
        let mut command = redis::cmd("ZCARD");
        let records = self
            .cluster
            .call(command.arg(format!("{tag}:holders")))
            .await?;
        let mut command = redis::cmd("HLEN");
        let resources = self
            .cluster
            .call(command.arg(format!("{tag}:rows")))
            .await?;
        let mut state = self.counts.lock();
        let known = &mut state.parts[number];
        if known.changes == before {
            (known.records, known.resources) = (records, resources);
        }
        Ok(())
    }
}
