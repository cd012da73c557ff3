//! The parts that are open: one object for each part on disk.
//!
//! Invariants: two jobs for one part, one after the other, share its locks and flags, so that what
//! the first one's last write is still doing can spoil nothing for the second. A part that is
//! deleted, or got its name, is not kept open, which would keep its place on the disk.

use std::{
    collections::{HashMap, VecDeque},
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use vecino_rest::{Digest, piece::Layout};

use crate::content::part::Part;

/// Parts without a job that stay open ...
const MAX_RESTING: usize = 8;
/// ... and pieces of them together, whose hashes stay in memory: those of the largest content.
const MAX_RESTING_PIECES: usize = 1 << 20;

/// See the module.
#[derive(Debug)]
pub struct Parts {
    dir: PathBuf,
    open: Mutex<HashMap<(Digest, u64), Weak<Part>>>,
    /// The last ones that a job ended with, so that the next one need not hash them again.
    resting: Mutex<VecDeque<Arc<Part>>>,
}

impl Parts {
    /// Over the parts in `dir`.
    pub fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            open: Mutex::default(),
            resting: Mutex::default(),
        }
    }

    /// Goes on with a part: it, and which pieces are verified. Blocks.
    pub fn resume(
        &self,
        digest: &Digest,
        layout: &Layout,
    ) -> io::Result<Option<(Arc<Part>, Vec<bool>)>> {
        let key = (*digest, layout.size());
        let open = self.lock().get(&key).and_then(Weak::upgrade);
        if let Some(part) = open.filter(|part| part.is_there()) {
            let verified = (0..layout.pieces()).map(|piece| part.has(piece)).collect();
            return Ok(Some((part, verified)));
        }
        Ok(Part::resume(&self.dir, digest, layout)?
            .map(|(part, verified)| (self.opened(key, part), verified)))
    }

    /// Begins a part anew. Blocks.
    pub fn create(
        &self,
        digest: &Digest,
        layout: Layout,
        pieces: Vec<Digest>,
    ) -> io::Result<Arc<Part>> {
        let part = Part::create(&self.dir, digest, layout, pieces)?;
        Ok(self.opened((*digest, layout.size()), part))
    }

    /// A job ended with `part`, which stays open for the next one if it is to be gone on with.
    /// Blocks.
    pub fn rest(&self, part: Arc<Part>) {
        let mut resting = self.resting();
        resting.retain(|other| !Arc::ptr_eq(other, &part) && other.is_there());
        if part.is_there() {
            resting.push_back(part);
        }
        let pieces = |resting: &VecDeque<Arc<Part>>| -> usize {
            resting.iter().map(|part| part.pieces.len()).sum()
        };
        while resting.len() > MAX_RESTING || pieces(&resting) > MAX_RESTING_PIECES {
            resting.pop_front();
        }
    }

    /// Closes those that were deleted meanwhile. Blocks.
    pub fn tidy(&self) {
        self.resting().retain(|part| part.is_there());
    }

    fn resting(&self) -> MutexGuard<'_, VecDeque<Arc<Part>>> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(Digest, u64), Weak<Part>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opened(&self, key: (Digest, u64), part: Part) -> Arc<Part> {
        let part = Arc::new(part);
        let mut open = self.lock();
        open.retain(|_, part| part.strong_count() > 0);
        open.insert(key, Arc::downgrade(&part));
        part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A part of its own, and what it is of.
    fn begun(parts: &Parts, number: u8) -> (Digest, Layout, Weak<Part>) {
        let digest = Digest::of(&[number]);
        let layout = Layout::of(1).expect("small");
        let part = parts.create(&digest, layout, vec![digest]).expect("begun");
        let weak = Arc::downgrade(&part);
        parts.rest(part);
        (digest, layout, weak)
    }

    #[test]
    fn the_last_parts_stay_open_for_the_next_job() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let parts = Parts::new(dir.path().to_owned());
        let all: Vec<_> = (0..=8).map(|number| begun(&parts, number)).collect();
        for (number, (digest, layout, part)) in all.iter().enumerate() {
            let open = part.upgrade();
            assert_eq!(open.is_some(), number > 0, "{number}");
            let (resumed, _) = parts.resume(digest, layout).expect("read").expect("there");
            assert!(open.is_none_or(|open| Arc::ptr_eq(&open, &resumed)));
        }
    }

    #[test]
    fn a_deleted_part_is_not_kept_open() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let parts = Parts::new(dir.path().to_owned());
        let (digest, layout, part) = begun(&parts, 0);
        // The next job ends with all of it, or its sync fails.
        let (resumed, _) = parts
            .resume(&digest, &layout)
            .expect("read")
            .expect("there");
        resumed.dispose();
        parts.rest(resumed);
        assert!(part.upgrade().is_none());
        // It is deleted while nobody goes on with it.
        let (.., part) = begun(&parts, 1);
        part.upgrade().expect("open").dispose();
        parts.tidy();
        assert!(part.upgrade().is_none());
    }
}
