//! One directory of several locators: each tells the others, through the store they share, of
//! whom it heard, and learns whom they heard of. Where the store is this locator's alone, nothing
//! here does anything.
//!
//! Invariant: the leases at each locator are those of all of them, a tenth of a lease or a second
//! behind. A lease that ran out here is marked in the store only when no locator heard of the peer.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use vecino_rest::PeerId;

use super::Directory;
use crate::store::{
    DirectoryId, Exchange, Fingerprints, Heard, PeerNo, PeerState, Sharing, StoreError, TokenHash,
};

/// After so many keep-alives a peer is told what the store holds for it, whatever happened.
const COMPARE_EVERY: u32 = 16;
/// Peers whose rows are read at once.
const ROWS_AT_ONCE: usize = 64;

/// How often locators tell each other.
fn exchange_every(lease: Duration) -> Duration {
    (lease / 10).clamp(Duration::from_millis(100), Duration::from_secs(1))
}

/// Runs until it is aborted.
pub async fn run(directory: Arc<Directory>) {
    let Some(sharing) = directory.store.sharing() else {
        return;
    };
    let every = exchange_every(directory.lease());
    loop {
        tokio::time::sleep(every).await;
        if let Err(error) = directory.exchange(sharing).await {
            directory.complain(&format!(
                "the other locators could not be told who is live: {error}"
            ));
        }
    }
}

impl Directory {
    /// The directory that several locators share, where that is so.
    pub fn directory_id(&self) -> Option<DirectoryId> {
        self.store.sharing().map(Sharing::directory_id)
    }

    /// How often the store may have lost something.
    pub(super) fn losses(&self) -> u64 {
        self.store.sharing().map_or(0, Sharing::losses)
    }

    /// Learns who is live; who is not counts as gone.
    pub(super) async fn begin_sharing(&self) -> Result<(), StoreError> {
        let Some(sharing) = self.store.sharing() else {
            return Ok(());
        };
        self.exchange(sharing).await?;
        let mut silent = Vec::new();
        for (peer, row) in self.store.peers().await? {
            if row.state == PeerState::Present && !self.leases.has(peer) {
                silent.push((peer, row.token));
            }
        }
        self.lapse_silent(&silent).await
    }

    async fn exchange(&self, sharing: &dyn Sharing) -> Result<(), StoreError> {
        let untold = self.leases.take_untold();
        let learned = sharing.exchange(&untold, self.lease()).await;
        match &learned {
            Ok(_) => self.shared_at.store(self.now_ms(), Relaxed),
            Err(_) => self.leases.put_back(&untold),
        }
        let Exchange {
            unknown,
            heard,
            gone,
        } = learned?;
        let now = self.clock.now();
        let news = heard.into_iter();
        let news = news.filter(|heard| heard.ago < self.lease() && !self.leases.heard(heard, now));
        let news: Vec<_> = news.collect();
        let granted = stream::iter(news).map(|heard| self.grant_heard(sharing, heard));
        let granted = granted.buffer_unordered(ROWS_AT_ONCE);
        let granted: Vec<_> = granted.collect().await;
        // The store forgot them in a failover, or they were marked as gone: they register again.
        let ended = unknown.into_iter().chain(gone.iter().copied());
        let ended: Vec<_> = ended.filter(|peer| self.leases.drop_lease(*peer)).collect();
        self.end_partials(ended);
        let at_ms = self.clock.wall_ms();
        self.lapsed()
            .extend(gone.into_iter().map(|peer| (peer, at_ms)));
        granted.into_iter().collect()
    }

    /// Begins here the lease that another locator granted.
    async fn grant_heard(&self, sharing: &dyn Sharing, heard: Heard) -> Result<(), StoreError> {
        let Some((epoch, row)) = sharing.row(heard.peer).await? else {
            return Ok(());
        };
        if row.state == PeerState::Present {
            self.lapsed().remove(&heard.peer);
            let heard = Heard { epoch, ..heard };
            self.leases.grant_heard(&heard, &row, self.clock.now());
        }
        Ok(())
    }

    /// Refuses to keep leases of which the others do not hear any more: with another locator, that
    /// reaches the store, the peers are better off.
    pub(super) fn check_sharing(&self) -> Result<(), StoreError> {
        let silent = self.now_ms().saturating_sub(self.shared_at.load(Relaxed));
        let bound = self.lease() * 2 / 3;
        if self.store.sharing().is_some() && u128::from(silent) > bound.as_millis() {
            let reason = "the other locators could not be told who is live";
            return Err(StoreError::Engine(format!("{reason} for {silent} ms")));
        }
        Ok(())
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.clock.now().as_millis()).unwrap_or(u64::MAX)
    }

    /// Marks those peers as gone of whom no locator heard.
    pub(super) async fn lapse_silent(
        &self,
        peers: &[(PeerNo, TokenHash)],
    ) -> Result<(), StoreError> {
        let Some(sharing) = self.store.sharing() else {
            return self.lapse(peers).await;
        };
        if peers.is_empty() {
            return Ok(());
        }
        let at_ms = self.clock.wall_ms();
        sharing
            .lapse_silent(peers.to_vec(), at_ms, self.lease())
            .await?;
        self.forget_lapsed(peers, at_ms).await
    }

    /// What the store holds for a peer, when it is time to compare, or `wanted`.
    pub(super) async fn due_fingerprints(&self, id: &PeerId, wanted: bool) -> Option<Fingerprints> {
        let sharing = self.store.sharing()?;
        let peer = self.leases.of_id(id, self.clock.now())?;
        let losses = sharing.losses();
        if !self.leases.is_comparison_due(peer, losses, COMPARE_EVERY) && !wanted {
            return None;
        }
        match sharing.fingerprints(peer).await {
            Ok(fingerprints) => {
                self.leases.compared(peer, losses);
                Some(fingerprints)
            }
            Err(error) => {
                // At the next keep-alive.
                log::debug!("a peer could not be compared: {error}");
                None
            }
        }
    }
}
