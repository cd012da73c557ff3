//! An unfinished download on disk: `DIGEST.SIZE.part` with the bytes, `DIGEST.SIZE.have` with the
//! piece hashes and one byte a piece that says whether it was verified.
//!
//! Invariant: what is in the part under a set byte was verified before the byte was set, and is
//! never written to again. What a writer hashed is what lies on the disk only if nobody else wrote
//! to the piece: where somebody did, it is read again before its byte is set; after a crash the disk may have kept one without the other, so set
//! pieces are hashed again when a part is opened. Pieces whose byte is not set may hold anything,
//! and are read by nobody. A part is never visible under its name.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, IoSlice, Read, Write},
    ops::Range,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use rustix::{
    fs::{FallocateFlags, fallocate},
    io::{Errno, pwritev},
};
use vecino_rest::{Digest, piece::Layout};

use super::{
    behind::Behind,
    naming::Naming,
    verify::{self, PieceHasher},
};

const MAGIC: &[u8; 8] = b"VECINO\x00\x01";
const HEADER: usize = MAGIC.len() + 8;
/// Locks that the pieces of a part share.
const STRIPES: usize = 64;
/// Slices of one write, at most (IOV_MAX).
const MAX_SLICES: usize = 1024;
/// Parts that nobody went on with for so long are deleted at start.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);
/// A part that nobody wrote to for so long is idle.
const IDLE_AFTER: Duration = Duration::from_secs(3600);
/// Bytes that all idle parts together may take.
const IDLE_BUDGET: u64 = 8 << 30;

/// See the module.
#[derive(Debug)]
pub struct Part {
    /// The bytes; what is verified in it stays readable after the part got its name.
    pub file: Arc<File>,
    /// How the content is cut.
    pub layout: Layout,
    /// What each piece must hash to.
    pub pieces: Vec<Digest>,
    have: File,
    path: PathBuf,
    verified: Box<[AtomicBool]>,
    /// Who wrote to pieces that are not verified. Held while bytes of one are written, so that
    /// nobody writes to one that is: a stripe for every so many pieces.
    writing: [Mutex<HashMap<u32, Writers>>; STRIPES],
    /// Held while the file is written to: the kernel lets one writer in at a time, and the others
    /// spin until it is their turn.
    disk: Mutex<()>,
    behind: Behind,
    /// Whether it may be named.
    pub naming: Naming,
    next_writer: AtomicU64,
}

/// Who wrote to a piece so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writers {
    /// This one alone.
    One(u64),
    /// Several: what lies there may be of both.
    Several,
}

/// What became of a piece that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finished {
    /// It is what it must be: verified from now on.
    Verified,
    /// What came is not what it must be.
    Wrong,
    /// What came was right, but somebody else wrote between it: it is to be fetched again.
    Garbled,
}

/// A piece on its way to the disk, block after block. What it writes counts for nothing until
/// [`PieceWriter::finish`] says that all of it is right.
#[derive(Debug)]
pub struct PieceWriter {
    part: Arc<Part>,
    id: u64,
    index: u32,
    hasher: PieceHasher,
    at: u64,
}

impl Part {
    /// Where the part of a content lies. The size is part of the name: who lies about it gets a
    /// part of his own, and spoils nobody's.
    fn path(dir: &Path, digest: &Digest, layout: &Layout) -> PathBuf {
        dir.join(format!("{digest}.{}.part", layout.size()))
    }

    /// Goes on with the part of `digest` in `dir`, if there is one: it, and which pieces are
    /// verified. Blocks.
    pub fn resume(
        dir: &Path,
        digest: &Digest,
        layout: &Layout,
    ) -> io::Result<Option<(Self, Vec<bool>)>> {
        let path = Self::path(dir, digest, layout);
        let (file, have) = match (open(&path), open(&path.with_extension("have"))) {
            (Ok(file), Ok(have)) => (file, have),
            (Err(error), _) | (_, Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            (Err(error), _) | (_, Err(error)) => return Err(error),
        };
        let Some((pieces, flags)) = read_have(&have, digest, layout)? else {
            log::warn!("{} is broken and begun again", path.display());
            return Ok(None);
        };
        let part = Self::new(file, have, path, *layout, pieces);
        let mut verified = Vec::with_capacity(flags.len());
        let mut buffer = Vec::new();
        for (index, flag) in (0..).zip(flags) {
            let holds = flag == 1 && part.holds(index, &mut buffer)?;
            part.verified[index as usize].store(holds, Ordering::Release);
            verified.push(holds);
        }
        Ok(Some((part, verified)))
    }

    /// Begins the part of a content anew. Who still reads an earlier one goes on reading that.
    /// Blocks.
    pub fn create(
        dir: &Path,
        digest: &Digest,
        layout: Layout,
        pieces: Vec<Digest>,
    ) -> io::Result<Self> {
        let path = Self::path(dir, digest, &layout);
        let file = create(&path)?;
        file.set_len(layout.size())?;
        let mut have = create(&path.with_extension("have"))?;
        let mut head = Vec::with_capacity(HEADER + pieces.len() * (Digest::LEN + 1));
        head.extend_from_slice(MAGIC);
        head.extend_from_slice(&layout.size().to_le_bytes());
        pieces
            .iter()
            .for_each(|piece| head.extend_from_slice(piece.as_bytes()));
        head.resize(head.len() + pieces.len(), 0);
        have.write_all(&head)?;
        Ok(Self::new(file, have, path, layout, pieces))
    }

    fn new(file: File, have: File, path: PathBuf, layout: Layout, pieces: Vec<Digest>) -> Self {
        Self {
            file: Arc::new(file),
            layout,
            verified: pieces.iter().map(|_| AtomicBool::new(false)).collect(),
            pieces,
            have,
            path,
            writing: std::array::from_fn(|_| Mutex::default()),
            disk: Mutex::default(),
            behind: Behind::default(),
            naming: Naming::default(),
            next_writer: AtomicU64::new(0),
        }
    }

    /// Begins to write piece `index`.
    pub fn piece(self: &Arc<Self>, index: u32) -> PieceWriter {
        PieceWriter {
            part: self.clone(),
            id: self.next_writer.fetch_add(1, Ordering::Relaxed),
            index,
            hasher: PieceHasher::new(&self.layout, index),
            at: self.layout.range(index).start,
        }
    }

    /// Whether it still is where it was opened.
    pub fn is_there(&self) -> bool {
        let inode = |metadata: io::Result<fs::Metadata>| metadata.ok().map(|m| m.ino());
        let opened = inode(self.file.metadata());
        opened.is_some() && opened == inode(fs::symlink_metadata(&self.path))
    }

    /// Whether piece `index` is verified.
    pub fn has(&self, index: u32) -> bool {
        self.verified[index as usize].load(Ordering::Acquire)
    }

    /// Bytes that it takes on the disk now.
    pub fn taken_bytes(&self) -> u64 {
        self.file.metadata().map_or(0, |file| taken_bytes(&file))
    }

    fn lock(&self, index: u32) -> MutexGuard<'_, HashMap<u32, Writers>> {
        self.writing[index as usize % STRIPES]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether piece `index` is what it must be on disk.
    fn holds(&self, index: u32, buffer: &mut Vec<u8>) -> io::Result<bool> {
        let range = self.layout.range(index);
        let length = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        buffer.resize(length, 0);
        match self.file.read_exact_at(buffer, range.start) {
            Ok(()) => {
                Ok(verify::piece_hash(&self.layout, index, buffer) == self.pieces[index as usize])
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Piece `index` was verified; whether somebody is to call [`Part::sync`] now.
    pub fn is_to_be_synced(&self, index: u32) -> bool {
        let range = self.layout.range(index);
        self.behind.written(range.end - range.start)
    }

    /// Makes durable what was written so far. Blocks.
    pub fn sync(&self) {
        if let Err(error) = self.behind.sync(&self.file) {
            self.forget(&error);
        }
    }

    /// After a sync that failed, memory may have what the disk has not: nobody goes on with this.
    fn forget(&self, error: &io::Error) {
        log::error!("{}: {error}: it is to be fetched anew", self.path.display());
        self.dispose();
    }

    /// Makes the whole content durable, gives it its modified time, and answers where it is.
    pub fn finish(&self, modified_ms: i64) -> io::Result<&Path> {
        let since = Duration::from_millis(modified_ms.max(0).cast_unsigned());
        if let Some(modified) = SystemTime::UNIX_EPOCH.checked_add(since) {
            self.file.set_modified(modified)?;
        }
        let synced = self.behind.finish(&self.file);
        synced.inspect_err(|error| self.forget(error))?;
        self.naming.begins(&self.file)?;
        Ok(&self.path)
    }

    /// Deletes it. What [`Part::finish`] made durable has its name by then.
    pub fn dispose(&self) {
        remove(&self.path);
        remove(&self.path.with_extension("have"));
    }
}

/// Removes a file, unless it is gone.
fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        log::warn!("{}: {error}", path.display());
    }
}

impl PieceWriter {
    /// Hashes and writes the next `blocks` of the piece; false, and nothing more is to come, when
    /// it was verified meanwhile. Blocks.
    pub fn write(&mut self, blocks: &[Bytes]) -> io::Result<bool> {
        self.part.behind.check()?;
        blocks.iter().for_each(|block| self.hasher.update(block));
        let mut writing = self.part.lock(self.index);
        if self.part.has(self.index) {
            return Ok(false);
        }
        let writers = writing.entry(self.index).or_insert(Writers::One(self.id));
        if *writers != Writers::One(self.id) {
            *writers = Writers::Several;
        }
        let piece = self.part.layout.range(self.index);
        let _turn = self.part.disk.lock();
        if self.at == piece.start {
            reserve(&self.part.file, &piece)?;
        }
        self.at = write_all_at(&self.part.file, blocks, self.at)?;
        Ok(true)
    }

    /// Verifies the piece, when all of it was written and is what it must be. Blocks.
    pub fn finish(self) -> io::Result<Finished> {
        let Self {
            part,
            id,
            index,
            hasher,
            at,
        } = self;
        let is_right = at == part.layout.range(index).end
            && hasher.finish(&part.layout) == part.pieces[index as usize];
        if !is_right {
            return Ok(Finished::Wrong);
        }
        let mut writing = part.lock(index);
        if !part.has(index) {
            let alone = writing.get(&index) == Some(&Writers::One(id));
            if !alone && !part.holds(index, &mut Vec::new())? {
                return Ok(Finished::Garbled);
            }
            writing.remove(&index);
            let flag = HEADER + part.pieces.len() * Digest::LEN + index as usize;
            part.have.write_all_at(&[1], flag as u64)?;
            part.verified[index as usize].store(true, Ordering::Release);
        }
        Ok(Finished::Verified)
    }
}

/// Writes all of `blocks` from `at` on; where they end. At once, and not one by one: they end anywhere,
/// and a block of the file system that is written to in part is prepared for that first.
fn write_all_at(file: &File, blocks: &[Bytes], mut at: u64) -> io::Result<u64> {
    let mut left: Vec<_> = blocks.iter().map(|block| IoSlice::new(block)).collect();
    let mut left = left.as_mut_slice();
    IoSlice::advance_slices(&mut left, 0);
    while !left.is_empty() {
        match pwritev(file, &left[..left.len().min(MAX_SLICES)], at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                at += written as u64;
                IoSlice::advance_slices(&mut left, written);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(at)
}

/// Blocks are counted in units of 512 bytes, whatever the file system (stat(2)).
fn taken_bytes(metadata: &fs::Metadata) -> u64 {
    metadata.blocks() * 512
}

/// Takes the disk space of a piece at once, which makes the writes cheaper. Only of this piece: of
/// a large content a reader may want but one.
fn reserve(file: &File, piece: &Range<u64>) -> io::Result<()> {
    let length = piece.end - piece.start;
    match fallocate(file, FallocateFlags::empty(), piece.start, length) {
        // Not every file system can.
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::INTR) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// A new file at `path`, whatever was there before.
fn create(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(path)
}

/// Piece hashes and flags of a `.have` file; `None` when they are not those of `digest`.
fn read_have(
    mut have: &File,
    digest: &Digest,
    layout: &Layout,
) -> io::Result<Option<(Vec<Digest>, Vec<u8>)>> {
    let count = layout.pieces() as usize;
    let length = HEADER + count * (Digest::LEN + 1);
    let mut bytes = Vec::new();
    (&mut have)
        .take(length as u64 + 1)
        .read_to_end(&mut bytes)?;
    let Some((header, rest)) = bytes.split_at_checked(HEADER) else {
        return Ok(None);
    };
    let size = &header[MAGIC.len()..];
    if !header.starts_with(MAGIC)
        || size != layout.size().to_le_bytes()
        || rest.len() != count * (Digest::LEN + 1)
    {
        return Ok(None);
    }
    let (hashes, flags) = rest.split_at(count * Digest::LEN);
    let pieces: Vec<_> = hashes
        .chunks_exact(Digest::LEN)
        .filter_map(Digest::from_slice)
        .collect();
    let ours = verify::merge(layout, &pieces) == Some(*digest);
    Ok(ours.then(|| (pieces, flags.to_vec())))
}

/// Deletes every part. Blocks.
pub fn clear(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        fs::remove_file(entry?.path())?;
    }
    Ok(())
}

/// Deletes parts that nobody went on with for a week, and the oldest idle ones while all idle
/// ones together take more than `IDLE_BUDGET`; at start also uploads that a crash left. Blocks.
pub fn tidy(dir: &Path, now: SystemTime, at_start: bool) -> io::Result<()> {
    let mut idle = Vec::new();
    for entry in fs::read_dir(dir)? {
        let (path, metadata) = match entry.and_then(|entry| Ok((entry.path(), entry.metadata()?))) {
            Ok(entry) => entry,
            // It ended meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        // The modified time is that of the content once all of it is there; the change time is when
        // somebody last did something with it.
        let changed = Duration::from_secs(metadata.ctime().max(0).cast_unsigned());
        let age = now
            .duration_since(SystemTime::UNIX_EPOCH + changed)
            .unwrap_or_default();
        let is_upload = path
            .extension()
            .is_some_and(|extension| extension == "upload");
        if (is_upload && at_start) || age > FORGOTTEN_AFTER {
            fs::remove_file(path)?;
        } else if !is_upload && age > IDLE_AFTER {
            idle.push((age, taken_bytes(&metadata), path));
        }
    }
    let mut total: u64 = idle.iter().map(|(_, bytes, _)| bytes).sum();
    idle.sort();
    while total > IDLE_BUDGET
        && let Some((_, bytes, path)) = idle.pop()
    {
        fs::remove_file(path)?;
        total -= bytes;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
