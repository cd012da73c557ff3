//! Reads content that is sent out: large positional reads off the event loop, one ahead.
//!
//! Invariant: no byte leaves that was read after the file changed; a file that does is noticed
//! here, the stream ends in an error, and the importer looks at it again. A file that only lost its
//! name (deleted, renamed, replaced by another) has not changed: who reads it goes on.

use std::{
    fs::{self, File, Metadata},
    io,
    ops::Range,
    os::unix::fs::MetadataExt,
    sync::Arc,
};

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use rustix::{buffer::spare_capacity, io::Errno};
use tokio::task::{JoinHandle, spawn_blocking};

use super::{cache::Reading, catalogue::Entry, hash::open_regular, import::Importer, stamp::Stamp};

/// Read and sent at a time.
const CHUNK: u64 = 1 << 20;

/// A file of the catalogue, open, and known to be the one that was hashed.
#[derive(Debug, Clone)]
pub struct OpenFile {
    file: Arc<File>,
    entry: Arc<Entry>,
    importer: Arc<Importer>,
    _reading: Arc<Reading>,
}

impl OpenFile {
    /// Opens the file of `entry`, which stays while it is open; `None` when it is not the one that
    /// was hashed. Blocks.
    pub fn open(
        entry: Arc<Entry>,
        importer: Arc<Importer>,
        reading: Reading,
    ) -> io::Result<Option<Self>> {
        let file = match open_regular(&entry.path) {
            Ok(file) => file,
            Err(error) => {
                importer.touch(entry.origin, &entry.path);
                return if error.kind() == io::ErrorKind::PermissionDenied {
                    Err(error)
                } else {
                    Ok(None)
                };
            }
        };
        let opened = Self {
            file: Arc::new(file),
            entry,
            importer,
            _reading: Arc::new(reading),
        };
        Ok(opened.is_unchanged()?.then_some(opened))
    }

    /// What it is.
    pub fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    /// Its bytes.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    fn is_unchanged(&self) -> io::Result<bool> {
        Ok(self.is_as_hashed(&self.file.metadata()?))
    }

    /// Whether what is read from it now is what was hashed.
    pub fn may_be_sent(&self) -> io::Result<bool> {
        let now = self.file.metadata()?;
        Ok(self.is_as_hashed(&now) || self.only_lost_its_name(&now))
    }

    fn is_as_hashed(&self, now: &Metadata) -> bool {
        let unchanged = Stamp::of(now) == self.entry.stamp;
        if !unchanged {
            self.importer.touch(self.entry.origin, &self.entry.path);
        }
        unchanged
    }

    /// Whether nothing happened to the file but that its name went away. A write would show in its
    /// size or modified time, and who takes a name from a file does not put that time back.
    fn only_lost_its_name(&self, now: &Metadata) -> bool {
        self.entry.stamp.is_but_for_changed(&Stamp::of(now))
            && (now.nlink() == 0
                || fs::symlink_metadata(&self.entry.path)
                    .map_or(true, |there| there.ino() != now.ino()))
    }

    fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        let bytes = read_at(&self.file, range)?;
        if self.may_be_sent()? {
            Ok(bytes)
        } else {
            Err(io::Error::other("the file changed while it was sent"))
        }
    }

    /// The bytes of `range`, in chunks; ends in an error when the file changes.
    pub fn stream(self, range: Range<u64>) -> impl Stream<Item = io::Result<Bytes>> {
        let next = self.clone().read_ahead(range.clone());
        stream::unfold((self, range, next), |(file, range, next)| async move {
            let chunk = match next?.await {
                Ok(Ok(chunk)) => chunk,
                Ok(Err(error)) => {
                    log::warn!("{}: {error}", file.entry.path.display());
                    return Some((Err(error), (file, 0..0, None)));
                }
                Err(error) => return Some((Err(io::Error::other(error)), (file, 0..0, None))),
            };
            let rest = range.start + chunk.len() as u64..range.end;
            let next = file.clone().read_ahead(rest.clone());
            Some((Ok(chunk), (file, rest, next)))
        })
    }

    fn read_ahead(self, range: Range<u64>) -> Option<JoinHandle<io::Result<Bytes>>> {
        let chunk = first_chunk(&range);
        (!chunk.is_empty()).then(|| spawn_blocking(move || self.read(chunk)))
    }
}

/// The first bytes of `range` that are read at once.
pub fn first_chunk(range: &Range<u64>) -> Range<u64> {
    range.start..range.end.min(range.start.saturating_add(CHUNK))
}

/// Exactly the bytes of `range`. Blocks.
pub fn read_at(file: &File, range: Range<u64>) -> io::Result<Bytes> {
    let length = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
    // Memory that is read over needs no zeros first.
    let mut buffer = Vec::with_capacity(length);
    while buffer.len() < length {
        let offset = range.start + buffer.len() as u64;
        match rustix::io::pread(file, spare_capacity(&mut buffer), offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    buffer.truncate(length);
    Ok(buffer.into())
}
