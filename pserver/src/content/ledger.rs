//! What was hashed, remembered as far as the disk allows.
//!
//! Invariant: nobody here depends on the disk being well. What cannot be written stays in memory
//! and goes with the next change; an index that failed is closed and opened again, because its
//! engine takes no further write after an error.

use std::{
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use vecino_rest::Digest;

use super::index::{Change, Index, IndexError, Row};

/// A failed index is tried again after so long.
const AGAIN: Duration = Duration::from_secs(5);
/// Changes that may wait for the next one, for which nobody waits.
const MAX_WAITING: usize = 256;
/// Changes kept in memory; the oldest are forgotten first, and hashed again after a restart.
const MAX_PENDING: usize = 100_000;

#[derive(Debug)]
struct State {
    /// `None` after it failed.
    index: Option<Index>,
    failed_at: Option<Instant>,
    pending: Vec<Change>,
}

/// See the module.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    state: Mutex<State>,
    /// Beside the state, which is locked while the disk works.
    failing: AtomicBool,
}

impl Ledger {
    /// Opens the index at `path`, or makes one; and every row of it. Blocks.
    pub fn open(path: &Path) -> Result<(Self, Vec<Row>), IndexError> {
        let (index, rows) = Index::open(path)?;
        let state = State {
            index: Some(index),
            failed_at: None,
            pending: Vec::new(),
        };
        let ledger = Self {
            path: path.to_owned(),
            state: Mutex::new(state),
            failing: AtomicBool::new(false),
        };
        Ok((ledger, rows))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers `change` with the next one that is recorded, at the latest when there are many: a
    /// crash before costs hashing a small file again.
    pub fn record_later(&self, change: Change) {
        let waiting = {
            let mut state = self.state();
            state.pending.push(change);
            state.pending.len()
        };
        if waiting >= MAX_WAITING {
            self.record([]);
        }
    }

    /// Remembers `changes`, and what could not be written before. Blocks.
    pub fn record(&self, changes: impl IntoIterator<Item = Change>) {
        let mut state = self.state();
        state.pending.extend(changes);
        if state.pending.is_empty() {
            return;
        }
        if let Err(error) = self.write(&mut state) {
            if state.failed_at.is_none() {
                log::error!("{error}; what is hashed is remembered in memory until it works again");
            }
            state.index = None;
            state.failed_at = Some(Instant::now());
            let too_many = state.pending.len().saturating_sub(MAX_PENDING);
            state.pending.drain(..too_many);
        }
        let is_failing = state.failed_at.is_some();
        self.failing.store(is_failing, Ordering::Relaxed);
    }

    fn write(&self, state: &mut State) -> Result<(), IndexError> {
        if state.index.is_none() {
            if state.failed_at.is_some_and(|at| at.elapsed() < AGAIN) {
                return Ok(());
            }
            state.index = Some(Index::open(&self.path)?.0);
        }
        let Some(index) = &state.index else {
            return Ok(());
        };
        index.commit(&state.pending)?;
        state.pending = Vec::new();
        if state.failed_at.take().is_some() {
            log::info!("the index of hashed files works again");
        }
        Ok(())
    }

    /// Whether the disk takes no changes now.
    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// The piece hashes of a content of several pieces. Blocks.
    pub fn pieces(&self, digest: &Digest) -> Result<Option<Vec<Digest>>, IndexError> {
        let state = self.state();
        let pending = state.pending.iter().rev().find_map(|change| match change {
            Change::Put(row, Some(pieces)) if row.digest == *digest => Some(pieces.to_vec()),
            _ => None,
        });
        match (pending, &state.index) {
            (Some(pieces), _) => Ok(Some(pieces)),
            (None, Some(index)) => index.pieces(digest),
            (None, None) => Ok(None),
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.record([]);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use vecino_rest::body::Origin;

    use super::*;
    use crate::content::stamp::Stamp;

    fn change(name: &str) -> (Digest, Change) {
        let digest = Digest::of(name.as_bytes());
        let stamp = Stamp {
            size: 1,
            modified_ns: 2,
            changed_ns: 3,
            inode: 4,
        };
        let row = Row {
            origin: Origin::Shared,
            path: name.to_owned(),
            stamp,
            digest,
        };
        (digest, Change::Put(row, Some(Arc::from([digest, digest]))))
    }

    #[test]
    fn what_waits_is_written_in_the_end() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("index.redb");
        let (ledger, _) = Ledger::open(&path).expect("new");
        for number in 0..MAX_WAITING + 3 {
            ledger.record_later(change(&number.to_string()).1);
        }
        assert_eq!(ledger.state().pending.len(), 3);
        drop(ledger);
        let (_, rows) = Ledger::open(&path).expect("again");
        assert_eq!(rows.len(), MAX_WAITING + 3);
    }

    #[test]
    fn what_cannot_be_written_is_known_and_written_later() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("index.redb");
        let (ledger, _) = Ledger::open(&path).expect("new");
        let (first, put) = change("first");
        ledger.record([put]);
        // As after an error of the disk.
        {
            let mut state = ledger.state();
            state.index = None;
            state.failed_at = Some(Instant::now());
        }
        let (second, put) = change("second");
        ledger.record([put]);
        assert!(ledger.is_failing());
        assert!(ledger.pieces(&second).expect("in memory").is_some());
        ledger.state().failed_at = Some(Instant::now() - AGAIN);
        ledger.record([]);
        assert!(!ledger.is_failing());
        for digest in [first, second] {
            assert!(ledger.pieces(&digest).expect("on disk").is_some());
        }
        drop(ledger);
        assert_eq!(Ledger::open(&path).expect("again").1.len(), 2);
    }
}
