//! What the writer tells everybody else: the last committed state, and why changes fail now.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, mpsc::SyncSender};

use super::{
    super::{Counts, StoreError},
    read::Snapshot,
};

/// The state of the store as others see it.
pub(super) struct Published(RwLock<State>);

struct State {
    /// None while the file is closed, so that nothing keeps it.
    snapshot: Option<Arc<Snapshot>>,
    /// Those of the last snapshot.
    counts: Counts,
    fault: Option<StoreError>,
    /// Who is told that the file was opened again.
    openings: Option<SyncSender<()>>,
}

impl Published {
    pub(super) fn new(snapshot: Snapshot) -> Self {
        Self(RwLock::new(State {
            counts: snapshot.counts,
            snapshot: Some(Arc::new(snapshot)),
            fault: None,
            openings: None,
        }))
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last committed state; without one, why.
    pub(super) fn snapshot(&self) -> Result<Arc<Snapshot>, StoreError> {
        let state = self.state();
        let absent = || state.fault.clone().unwrap_or(StoreError::Closed);
        state.snapshot.clone().ok_or_else(absent)
    }

    pub(super) fn counts(&self) -> Counts {
        self.state().counts
    }

    pub(super) fn fault(&self) -> Option<StoreError> {
        self.state().fault.clone()
    }

    pub(super) fn publish(&self, snapshot: Snapshot) {
        let mut state = self.state_mut();
        state.counts = snapshot.counts;
        state.snapshot = Some(Arc::new(snapshot));
    }

    /// The same of a file that was opened again.
    pub(super) fn publish_opened(&self, snapshot: Snapshot) {
        self.publish(snapshot);
        if let Some(openings) = &self.state().openings {
            // Where there is no room, one is waiting to be seen.
            let _ = openings.try_send(());
        }
    }

    /// From now on, tells when the file has been opened again.
    pub(super) fn tell_openings(&self, openings: SyncSender<()>) {
        self.state_mut().openings = Some(openings);
    }

    /// Lets go of the file.
    pub(super) fn withdraw(&self) {
        self.state_mut().snapshot = None;
    }

    pub(super) fn set_fault(&self, fault: Option<StoreError>) {
        self.state_mut().fault = fault;
    }
}
