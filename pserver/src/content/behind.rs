//! Syncs a file that grows while it grows, so that little is left to wait for at its end.
//!
//! Invariants: one sync at a time; an error of any of them is remembered, because the kernel tells
//! of it once: from then on nothing that was written counts.

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
    /// Tells it without waiting for a sync.
    has_failed: AtomicBool,
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
    pub(super) fn sync(&self, file: &File) -> io::Result<()> {
        let synced = self.remember(|| {
            self.unsynced.store(0, Ordering::Relaxed);
            file.sync_data()
        });
        self.is_due.store(false, Ordering::Release);
        synced
    }

    /// Makes `file` durable; an error when that, or a sync before, failed. Blocks.
    pub(super) fn finish(&self, file: &File) -> io::Result<()> {
        self.remember(|| file.sync_all())
    }

    /// An error when a sync failed.
    pub(super) fn check(&self) -> io::Result<()> {
        if self.has_failed.load(Ordering::Acquire) {
            return self.remember(|| Ok(()));
        }
        Ok(())
    }

    /// What `sync` came to, or a sync before that failed.
    fn remember(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.is_none()
            && let Err(error) = sync()
        {
            *failed = Some(error);
            self.has_failed.store(true, Ordering::Release);
        }
        match &*failed {
            Some(error) => Err(io::Error::new(error.kind(), error.to_string())),
            None => Ok(()),
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
        behind.sync(&file).expect("synced");
        assert!(!behind.written(SYNC_EVERY - 1), "counted from the sync on");
        assert!(behind.written(1));
    }

    #[test]
    fn an_error_is_told_from_then_on() {
        let whole = tempfile::tempfile().expect("made");
        let behind = Behind::default();
        behind.check().expect("nothing failed");
        behind.finish(&whole).expect("synced");
        // It cannot be synced.
        let null = File::open("/dev/null").expect("opened");
        behind.sync(&null).expect_err("it failed");
        behind.check().expect_err("it is remembered");
        for _ in 0..2 {
            behind
                .finish(&whole)
                .expect_err("the kernel told it before");
        }
    }
}
