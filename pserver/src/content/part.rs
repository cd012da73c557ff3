//! An unfinished download on disk: `DIGEST.part` with the bytes, `DIGEST.have` with the size, the
//! piece hashes and one byte a piece that says whether it was verified.
//!
//! Invariant: what is in the part under a set byte was verified before the byte was set; after a
//! crash the disk may have kept one without the other, so set pieces are hashed again when a
//! part is opened. A part is never visible under its name.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use vecino_rest::{
    Digest,
    piece::{Layout, MAX_PIECE, MAX_SIZE},
};

use super::verify;

const MAGIC: &[u8; 8] = b"VECINO\x00\x01";
const HEADER: usize = MAGIC.len() + 8;
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
}

impl Part {
    /// Goes on with the part of `digest` in `dir`, if there is one: it, and which pieces are
    /// verified. Blocks.
    pub fn resume(dir: &Path, digest: &Digest) -> io::Result<Option<(Self, Vec<bool>)>> {
        let path = dir.join(format!("{digest}.part"));
        let (file, have) = match (
            open(&path, false),
            open(&path.with_extension("have"), false),
        ) {
            (Ok(file), Ok(have)) => (file, have),
            (Err(error), _) | (_, Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            (Err(error), _) | (_, Err(error)) => return Err(error),
        };
        let Some(Have {
            layout,
            pieces,
            flags,
        }) = read_have(&have, digest)?
        else {
            log::warn!("{} is broken and begun again", path.display());
            return Ok(None);
        };
        let part = Self {
            file: Arc::new(file),
            layout,
            pieces,
            have,
            path,
        };
        let mut verified = Vec::with_capacity(flags.len());
        let mut buffer = Vec::new();
        for (index, flag) in (0..).zip(flags) {
            verified.push(flag == 1 && part.holds(index, &mut buffer)?);
        }
        Ok(Some((part, verified)))
    }

    /// Begins the part of a content anew. Blocks.
    pub fn create(
        dir: &Path,
        digest: &Digest,
        layout: Layout,
        pieces: Vec<Digest>,
    ) -> io::Result<Self> {
        let path = dir.join(format!("{digest}.part"));
        let file = open(&path, true)?;
        file.set_len(layout.size())?;
        let mut have = open(&path.with_extension("have"), true)?;
        let mut head = Vec::with_capacity(HEADER + pieces.len() * (Digest::LEN + 1));
        head.extend_from_slice(MAGIC);
        head.extend_from_slice(&layout.size().to_le_bytes());
        pieces
            .iter()
            .for_each(|piece| head.extend_from_slice(piece.as_bytes()));
        head.resize(head.len() + pieces.len(), 0);
        have.write_all(&head)?;
        Ok(Self {
            file: Arc::new(file),
            layout,
            pieces,
            have,
            path,
        })
    }

    /// Checks `bytes` against piece `index` and writes them; false, and nothing written, when
    /// they are not that piece. Blocks.
    pub fn admit(&self, index: u32, bytes: &[u8]) -> io::Result<bool> {
        let range = self.layout.range(index);
        if bytes.len() as u64 != range.end - range.start
            || verify::piece_hash(&self.layout, index, bytes) != self.pieces[index as usize]
        {
            return Ok(false);
        }
        self.file.write_all_at(bytes, range.start)?;
        let flag = HEADER + self.pieces.len() * Digest::LEN + index as usize;
        self.have.write_all_at(&[1], flag as u64)?;
        Ok(true)
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

    /// Makes the whole content durable, gives it its modified time, and answers where it is.
    pub fn finish(&self, modified_ms: i64) -> io::Result<&Path> {
        let since = Duration::from_millis(modified_ms.max(0).cast_unsigned());
        if let Some(modified) = SystemTime::UNIX_EPOCH.checked_add(since) {
            self.file.set_modified(modified)?;
        }
        self.file.sync_all()?;
        Ok(&self.path)
    }

    /// Deletes what [`Part::finish`] leaves once the content got its name.
    pub fn dispose(&self) {
        for path in [self.path.clone(), self.path.with_extension("have")] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    log::warn!("{}: {error}", path.display());
                }
                _ => {}
            }
        }
    }
}

fn open(path: &Path, create: bool) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(create)
        .truncate(create)
        .mode(0o644)
        .open(path)
}

/// What a `.have` file says.
struct Have {
    layout: Layout,
    pieces: Vec<Digest>,
    flags: Vec<u8>,
}

/// Size, hashes and flags; `None` when they are not those of `digest`.
fn read_have(mut have: &File, digest: &Digest) -> io::Result<Option<Have>> {
    const LONGEST: u64 = HEADER as u64 + (MAX_SIZE / MAX_PIECE) * (Digest::LEN as u64 + 1);
    let mut bytes = Vec::new();
    (&mut have).take(LONGEST + 1).read_to_end(&mut bytes)?;
    let Some((header, rest)) = bytes.split_at_checked(HEADER) else {
        return Ok(None);
    };
    let mut size = [0; 8];
    size.copy_from_slice(&header[MAGIC.len()..]);
    let Some(layout) = Layout::of(u64::from_le_bytes(size)) else {
        return Ok(None);
    };
    let count = layout.pieces() as usize;
    if !header.starts_with(MAGIC) || rest.len() != count * (Digest::LEN + 1) {
        return Ok(None);
    }
    let (hashes, flags) = rest.split_at(count * Digest::LEN);
    let pieces: Vec<_> = hashes
        .chunks_exact(Digest::LEN)
        .filter_map(Digest::from_slice)
        .collect();
    let ours = verify::merge(&layout, &pieces) == Some(*digest);
    Ok(ours.then(|| Have {
        layout,
        pieces,
        flags: flags.to_vec(),
    }))
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
        let age = now.duration_since(metadata.modified()?).unwrap_or_default();
        let is_upload = path
            .extension()
            .is_some_and(|extension| extension == "upload");
        if (is_upload && at_start) || age > FORGOTTEN_AFTER {
            fs::remove_file(path)?;
        } else if !is_upload && age > IDLE_AFTER {
            // Blocks are counted in units of 512 bytes, whatever the file system (stat(2)).
            idle.push((age, metadata.blocks() * 512, path));
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
mod tests {
    use vecino_rest::piece::MIN_PIECE;

    use super::*;

    fn begun() -> (tempfile::TempDir, Vec<u8>, Part) {
        let dir = tempfile::tempdir().expect("temporary directory");
        let content: Vec<u8> = (0..2 * MIN_PIECE + 5).map(|i| (i % 253) as u8).collect();
        let layout = Layout::of(content.len() as u64).expect("small");
        let pieces = verify::hash_pieces(&layout, content.as_slice()).expect("hashed");
        let part = Part::create(dir.path(), &Digest::of(&content), layout, pieces).expect("begun");
        (dir, content, part)
    }

    fn piece<'a>(part: &Part, content: &'a [u8], index: u32) -> &'a [u8] {
        let range = part.layout.range(index);
        &content[range.start as usize..range.end as usize]
    }

    #[test]
    fn only_right_pieces_are_admitted() {
        let (_dir, content, part) = begun();
        assert!(part.admit(0, piece(&part, &content, 0)).expect("written"));
        assert!(
            !part.admit(1, piece(&part, &content, 0)).expect("refused"),
            "another piece"
        );
        assert!(!part.admit(2, &[0; 5]).expect("refused"), "wrong bytes");
        assert!(!part.admit(2, &content[..4]).expect("refused"), "too short");
        assert!(part.admit(2, piece(&part, &content, 2)).expect("written"));
    }

    #[test]
    fn a_crash_keeps_what_was_verified_and_checks_it_again() {
        let (dir, content, part) = begun();
        let digest = Digest::of(&content);
        assert!(part.admit(0, piece(&part, &content, 0)).expect("written"));
        assert!(part.admit(1, piece(&part, &content, 1)).expect("written"));
        // The crash kept the flag of piece 1 but not its bytes.
        part.file
            .write_all_at(&[0; 9], MIN_PIECE + 3)
            .expect("written");
        drop(part);
        let (_, verified) = Part::resume(dir.path(), &digest)
            .expect("read")
            .expect("there");
        assert_eq!(verified, [true, false, false]);
    }

    #[test]
    fn a_broken_part_is_not_resumed() {
        let (dir, content, part) = begun();
        let digest = Digest::of(&content);
        part.have
            .write_all_at(b"x", (HEADER + 3) as u64)
            .expect("written");
        drop(part);
        assert!(Part::resume(dir.path(), &digest).expect("read").is_none());
        assert!(
            Part::resume(dir.path(), &Digest::of(b"other"))
                .expect("read")
                .is_none()
        );
    }

    #[test]
    fn forgotten_parts_and_left_uploads_are_deleted() {
        let (dir, _, part) = begun();
        let upload = dir.path().join("1.upload");
        fs::write(&upload, "x").expect("written");
        tidy(dir.path(), SystemTime::now(), true).expect("tidied");
        assert!(part.path.exists() && !upload.exists());
        tidy(dir.path(), SystemTime::now() + 2 * FORGOTTEN_AFTER, false).expect("tidied");
        assert!(!part.path.exists());
    }
}
