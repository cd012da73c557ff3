//! How far those who announce the catalogue are: which of its changes others know of.
//!
//! Invariant: a change has reached everybody when every follower that there is now said so; one
//! that ended is not waited for.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

#[derive(Debug, Default)]
struct State {
    reached: BTreeMap<u64, u64>,
    next_key: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Progress {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            changed: watch::Sender::new(()),
        }
    }
}

impl Progress {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A follower that nothing has reached yet.
    pub fn begin(self: &Arc<Self>) -> Follower {
        let mut state = self.state();
        let key = state.next_key;
        state.next_key += 1;
        state.reached.insert(key, 0);
        Follower {
            progress: self.clone(),
            key,
        }
    }

    /// How many changes up to `change` have not reached the last follower; none without any.
    pub fn behind(&self, change: u64) -> u64 {
        let reached = self.state().reached.values().min().copied();
        reached.map_or(0, |at| change.saturating_sub(at))
    }

    /// Waits until `change`, and all before it, reached everybody.
    pub async fn reached(&self, change: u64) {
        let mut changed = self.changed.subscribe();
        while self.state().reached.values().any(|&at| at < change) {
            // This holds the sender.
            let _ = changed.changed().await;
        }
    }
}

/// Says how far it is; see [`Progress::begin`].
#[derive(Debug)]
pub struct Follower {
    progress: Arc<Progress>,
    key: u64,
}

impl Follower {
    /// `change`, and all before it, is known to others.
    pub fn reached(&self, change: u64) {
        self.progress.state().reached.insert(self.key, change);
        self.progress.changed.send_replace(());
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.progress.state().reached.remove(&self.key);
        self.progress.changed.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_change_has_reached_everybody_when_all_who_are_there_say_so() {
        let progress = Arc::new(Progress::default());
        assert!(progress.reached(9).now_or_never().is_some(), "nobody");
        let (first, second) = (progress.begin(), progress.begin());
        let mut waiting = pin!(progress.reached(2));
        assert!(waiting.as_mut().now_or_never().is_none());
        first.reached(2);
        second.reached(1);
        assert!(waiting.as_mut().now_or_never().is_none(), "the second");
        assert_eq!(progress.behind(5), 4);
        drop(second);
        assert!(waiting.as_mut().now_or_never().is_some());
    }
}
