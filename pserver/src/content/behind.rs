//! Syncs a file that grows while it grows, so that little is left to wait for at its end.
//!
//! Invariants: one sync at a time; an error of any of them is that of [`Behind::finish`], because
//! the kernel tells of it once.

use std::{
    fs::File,
    io,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// Bytes that are written between two syncs, at least: the disk gets large writes.
const SYNC_EVERY: u64 = 4 << 20;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Behind {
    unsynced: AtomicU64,
    is_due: AtomicBool,
    /// Held while it syncs.
    failed: Mutex<Option<io::Error>>,
}

impl Behind {
    /// So many bytes were written; whether somebody is to call [`Behind::sync`] now.
    pub(super) fn written(&self, bytes: u64) -> bool {
        let unsynced = self.unsynced.fetch_add(bytes, Ordering::Relaxed) + bytes;
        unsynced >= SYNC_EVERY && !self.is_due.swap(true, Ordering::AcqRel)
    }

    /// Makes durable what was written to `file` so far. Blocks.
    pub(super) fn sync(&self, file: &File) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        self.unsynced.store(0, Ordering::Relaxed);
        if let Err(error) = file.sync_data() {
            *failed = Some(error);
        }
        self.is_due.store(false, Ordering::Release);
    }

    /// Makes `file` durable; an error when it, or a sync before, failed. Blocks.
    pub(super) fn finish(&self, file: &File) -> io::Result<()> {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        match failed.take() {
            Some(error) => Err(error),
            None => file.sync_all(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sync_is_due_for_each_so_many_bytes() {
        let (behind, file) = (Behind::default(), tempfile::tempfile().expect("made"));
        assert!(!behind.written(SYNC_EVERY - 1));
        assert!(behind.written(1));
        assert!(!behind.written(SYNC_EVERY), "one is under way");
        behind.sync(&file);
        assert!(!behind.written(SYNC_EVERY - 1), "counted from the sync on");
        assert!(behind.written(1));
    }

    #[test]
    fn an_error_of_an_earlier_sync_is_told_at_the_end() {
        let whole = tempfile::tempfile().expect("made");
        let behind = Behind::default();
        behind.finish(&whole).expect("synced");
        // It cannot be synced.
        behind.sync(&File::open("/dev/null").expect("opened"));
        behind
            .finish(&whole)
            .expect_err("the kernel told it before");
    }
}
