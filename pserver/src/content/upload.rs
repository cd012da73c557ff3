//! An upload on its way to the disk.
//!
//! Invariant: no block is written that would leave less than the floor free, whatever its length
//! was said to be and however many uploads there are: a block is checked beside all those that
//! are being written, because the disk does not count them yet.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::task::spawn_blocking;
use vecino_rest::{body::Origin, piece::MAX_SIZE};

use super::{Store, StoreError};

/// Bytes that uploads are writing now.
#[derive(Debug, Default)]
pub struct Room(Mutex<u64>);

impl Room {
    fn writing(&self) -> MutexGuard<'_, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for `bytes` of the `free` ones beside what is being written; `None`: no room.
    fn take(self: &Arc<Self>, bytes: u64, free: impl FnOnce() -> u64) -> Option<Taken> {
        let mut writing = self.writing();
        // Looked at under the lock: what was written meanwhile is counted once, or twice.
        if writing.saturating_add(bytes) > free() {
            return None;
        }
        *writing += bytes;
        Some(Taken {
            room: self.clone(),
            bytes,
        })
    }
}

/// Room for a block while it is written.
#[derive(Debug)]
struct Taken {
    room: Arc<Room>,
    bytes: u64,
}

impl Drop for Taken {
    fn drop(&mut self) {
        *self.room.writing() -= self.bytes;
    }
}

/// A file that an upload is written to; deleted when dropped, unless it got its name.
#[derive(Debug)]
pub struct Upload {
    /// Written to by positional writes.
    pub(super) file: Arc<File>,
    pub(super) path: PathBuf,
    size: u64,
}

impl Upload {
    fn create(path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&path)?;
        Ok(Self {
            file: Arc::new(file),
            path,
            size: 0,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it durable. Blocks.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // Renamed away by then when it was shared.
        let _ = fs::remove_file(&self.path);
    }
}

/// The size of an upload after a block of `bytes`.
fn grown(size: u64, bytes: u64) -> Result<u64, StoreError> {
    size.checked_add(bytes)
        .filter(|grown| *grown <= MAX_SIZE)
        .ok_or(StoreError::TooLarge)
}

impl Store {
    /// An empty file for an upload; gone again unless [`Store::share`] takes it.
    pub async fn begin_upload(&self) -> Result<Upload, StoreError> {
        let path = self
            .parts
            .join(format!("{:032x}.upload", rand::random::<u128>()));
        spawn_blocking(move || Upload::create(path))
            .await
            .map_err(|_| StoreError::Interrupted)?
            .map_err(StoreError::io("upload cannot begin"))
    }

    /// Appends a block to an upload, where there is room for it.
    pub async fn write(
        self: &Arc<Self>,
        upload: &mut Upload,
        block: Vec<u8>,
    ) -> Result<(), StoreError> {
        let at = upload.size;
        let bytes = block.len() as u64;
        upload.size = grown(at, bytes)?;
        let (store, file) = (self.clone(), upload.file.clone());
        let write = move || {
            let taken = store
                .room
                .take(bytes, || store.free_bytes(Origin::Shared))
                .ok_or(StoreError::NoSpace)?;
            // On another disk than the shared directory, all of it is copied there at the end.
            if store.copies_uploads() && at + bytes > store.free_bytes(Origin::Shared) {
                return Err(StoreError::NoSpace);
            }
            let written = file.write_all_at(&block, at);
            drop(taken);
            written.map_err(StoreError::io("upload cannot be written"))
        };
        spawn_blocking(write)
            .await
            .map_err(|_| StoreError::Interrupted)?
    }

    fn copies_uploads(&self) -> bool {
        let device = |dir: &Path| fs::metadata(dir).map(|metadata| metadata.dev()).ok();
        device(&self.parts) != device(&self.roots.shared)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_are_being_written_count_against_each_other() {
        let room = Arc::new(Room::default());
        let first = room.take(6, || 10).expect("room");
        assert!(room.take(5, || 10).is_none());
        let second = room.take(4, || 10).expect("room");
        drop(first);
        assert!(room.take(7, || 10).is_none());
        drop(second);
        let all = room.take(10, || 10).expect("room");
        assert!(room.take(1, || 10).is_none());
        drop(all);
        assert!(room.take(0, || 0).is_some());
    }

    #[test]
    fn an_upload_without_a_length_is_no_larger_than_any_other() {
        assert!(matches!(grown(MAX_SIZE - 5, 5), Ok(MAX_SIZE)));
        for (size, bytes) in [(MAX_SIZE - 5, 6), (MAX_SIZE, 1), (5, u64::MAX)] {
            assert!(matches!(grown(size, bytes), Err(StoreError::TooLarge)));
        }
    }
}
