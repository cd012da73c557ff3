//! Keeps what is held here under one more name: that which a client downloaded it as, as what comes
//! from elsewhere is kept. Else a folder with equal files in it would be offered on in part.
//!
//! Invariants: nobody waits for it; a name counts only where somebody shares the content under it,
//! so that readers fill no disk with names that they made up; a few are copied at once, and
//! of those that wait beyond a bound nothing is kept.

use std::{net::Ipv4Addr, sync::Arc};

use tokio::sync::Semaphore;
use vecino_rest::{Digest, Name, body::LocateQuery};

use super::fetch::Fetcher;
use crate::content::{catalogue::Entry, replica::ReplicaError};

/// Contents copied at the same time.
const AT_ONCE: usize = 8;
/// Those that wait for it, each a name and not a file.
const MAX_WAITING: usize = 10_000;

/// Bounds what is kept under one more name; see the module.
#[derive(Debug)]
pub struct Also {
    waiting: Arc<Semaphore>,
    turns: Semaphore,
}

impl Default for Also {
    fn default() -> Self {
        Self {
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
            turns: Semaphore::new(AT_ONCE),
        }
    }
}

impl Fetcher {
    /// Begins to keep `held` as `name` too, where it is not, and where this peer would keep it.
    pub fn keep_also(&self, held: &Arc<Entry>, name: &Name) {
        let store = &self.tools.store;
        if store.held_as(name, &held.digest).is_some() || !store.keeps_size(held.stamp.size) {
            return;
        }
        let Ok(place) = self.downloads.also.waiting.clone().try_acquire_owned() else {
            log::warn!("{name:?} is not kept: too many contents are being copied");
            return;
        };
        let (fetcher, held, name) = (self.clone(), held.clone(), name.clone());
        actix_web::rt::spawn(async move {
            if let Err(error) = fetcher.copy_as(&held, &name).await {
                log::info!("{name:?} is not kept: {error}");
            }
            drop(place);
        });
    }

    async fn copy_as(&self, held: &Arc<Entry>, name: &Name) -> Result<(), ReplicaError> {
        let (also, store) = (&self.downloads.also, &self.tools.store);
        let _turn = also.turns.acquire().await;
        // Somebody else may have asked for the same meanwhile.
        let is_held = store.held_as(name, &held.digest).is_some();
        if is_held || !self.is_shared_as(name, &held.digest).await {
            return Ok(());
        }
        if let Some(file) = store.read(held.clone()).await? {
            let from = Ipv4Addr::UNSPECIFIED.into();
            store.copy_held(file, name.clone(), from).await?;
        }
        Ok(())
    }

    async fn is_shared_as(&self, name: &Name, digest: &Digest) -> bool {
        if self.outbound.searched(name, digest).is_some() {
            return true;
        }
        let query = LocateQuery {
            name: Some(name.clone()),
            digest: None,
            fresh: false,
            provider: None,
        };
        self.lookup(&query).await.is_ok_and(|located| {
            let mut variants = located.iter();
            variants.any(|variant| variant.name == *name && variant.digest == Some(*digest))
        })
    }
}
