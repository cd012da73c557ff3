//! The parts that are open: one object for each part on disk.
//!
//! Invariant: two jobs for one part, one after the other, share its locks and flags, so that what
//! the first one's last write is still doing can spoil nothing for the second.

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use vecino_rest::{Digest, piece::Layout};

use crate::content::part::Part;

/// See the module.
#[derive(Debug)]
pub struct Parts {
    dir: PathBuf,
    open: Mutex<HashMap<(Digest, u64), Weak<Part>>>,
}

impl Parts {
    /// Over the parts in `dir`.
    pub fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            open: Mutex::default(),
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

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(Digest, u64), Weak<Part>>> {
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
