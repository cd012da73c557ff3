//! [`Part`]: the unfinished file of a download, beside its target, and a note of what it is the
//! beginning of, so that a later run goes on.
//!
//! Invariants: one process writes a part at a time; its bytes have all been through the hasher;
//! without a digest and a size to go on with, nothing of it outlives the run.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use vecino_rest::{Digest, name::MAX_PART_BYTES};

use super::target::{self, folder_of};
use crate::{
    api::Resume,
    cli::IfExists,
    failure::{Failure, Kept},
};

/// What follows the name of the target, hidden by a dot before it. Uploads leave such files out.
const SUFFIX: &str = ".vecino-part";
/// What follows the name of the part.
const NOTE_SUFFIX: &str = ".json";
/// Largest note that is read.
const MAX_NOTE: u64 = 4096;
/// Bytes that are hashed before others get a turn.
const HASH_STEP: usize = 1 << 20;
/// A finished part may be renamed between opening and locking it; so often is enough.
const MAX_OPENS: u32 = 8;

/// What a part is the beginning of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    digest: Digest,
    size: u64,
}

/// The unfinished file of a download.
#[derive(Debug)]
pub(crate) struct Part {
    target: PathBuf,
    path: PathBuf,
    file: File,
    note: Option<Note>,
    hasher: blake3::Hasher,
    written: u64,
    /// How many of them an earlier run wrote.
    earlier: u64,
    placed: bool,
}

impl Part {
    /// Opens the part of `target` and hashes what an earlier run left.
    pub(crate) async fn open(target: &Path) -> Result<Self, Failure> {
        let path = part_path(target).ok_or_else(|| nameless(target))?;
        let folder = folder_of(target);
        if !folder.is_dir() {
            return Err(Failure::NoFolder(folder.to_owned()));
        }
        let file = open_locked(&path, target)?;
        let mut part = Self {
            note: read_note(&note_path(&path)),
            target: target.to_owned(),
            path,
            file,
            hasher: blake3::Hasher::new(),
            written: 0,
            earlier: 0,
            placed: false,
        };
        if let Some(note) = part.note {
            part.hash_what_is_there(note.size).await?;
        }
        Ok(part)
    }

    async fn hash_what_is_there(&mut self, size: u64) -> Result<(), Failure> {
        let disk = || Failure::disk(&*self.path);
        let length = self.file.metadata().map_err(disk())?.len();
        // Always ask for one byte at least, so that the answer says whether it is still that file.
        let length = length.min(size.saturating_sub(1));
        self.file.set_len(length).map_err(disk())?;
        self.file.seek(SeekFrom::Start(0)).map_err(disk())?;
        let mut buffer = vec![0; HASH_STEP];
        while self.written < length {
            let read = self.file.read(&mut buffer).map_err(disk())?;
            if read == 0 {
                break;
            }
            self.hasher.update(&buffer[..read]);
            self.written += read as u64;
            tokio::task::yield_now().await;
        }
        self.earlier = self.written;
        Ok(())
    }

    /// What a later run goes on from, if it can.
    pub(crate) fn kept(&self) -> Option<Kept> {
        Some(Kept {
            bytes: self.resume()?.offset,
            path: self.path.strip_prefix(".").unwrap_or(&self.path).to_owned(),
        })
    }

    /// From where to go on, if it can.
    pub(crate) fn resume(&self) -> Option<Resume> {
        let note = self.note.filter(|_| self.written > 0)?;
        Some(Resume {
            offset: self.written,
            digest: note.digest,
        })
    }

    /// The digest of what it is the beginning of, unless a content of this digest and size (as far
    /// as they are known) is something else.
    pub(crate) fn beginning_of(&self, digest: Option<Digest>, size: Option<u64>) -> Option<Digest> {
        let note = self.note.filter(|_| self.written > 0)?;
        let fits = digest.is_none_or(|digest| digest == note.digest)
            && size.is_none_or(|size| size == note.size);
        fits.then_some(note.digest)
    }

    /// Whether an earlier run wrote the beginning.
    pub(crate) fn has_earlier_bytes(&self) -> bool {
        self.earlier > 0
    }

    /// Starts over, with what is known of the content now.
    pub(crate) fn restart(&mut self, known: Option<(Digest, u64)>) -> Result<(), Failure> {
        let disk = || Failure::disk(&*self.path);
        // In this order: a note never lies about the bytes beside it.
        self.file.set_len(0).map_err(disk())?;
        self.file.seek(SeekFrom::Start(0)).map_err(disk())?;
        self.hasher.reset();
        self.written = 0;
        self.earlier = 0;
        self.note = known.map(|(digest, size)| Note { digest, size });
        let note_path = note_path(&self.path);
        match self.note {
            Some(note) => write_note(&note_path, note).map_err(Failure::disk(note_path)),
            None => remove(&note_path).map_err(Failure::disk(note_path)),
        }
    }

    /// Bytes that are there.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Appends.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.file
            .write_all(bytes)
            .map_err(Failure::disk(&*self.path))?;
        self.hasher.update(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// The digest of what is there.
    pub(crate) fn digest(&self) -> Digest {
        self.hasher.finalize().into()
    }

    /// Makes it the target; the path that it has now.
    pub(crate) fn place(mut self, if_exists: IfExists) -> Result<PathBuf, Failure> {
        self.file.sync_all().map_err(Failure::disk(&*self.path))?;
        let path = target::place(&self.path, &self.target, if_exists)?;
        self.placed = true;
        let note_path = note_path(&self.path);
        remove(&note_path).map_err(Failure::disk(note_path))?;
        Ok(path)
    }

    /// Forgets it: its bytes are wrong.
    pub(crate) fn discard(mut self) {
        self.note = None;
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.placed && (self.note.is_none() || self.written == 0) {
            // Left behind, they do no harm: the next run starts over.
            let _ = remove(&self.path);
            let _ = remove(&note_path(&self.path));
        }
    }
}

/// Writes a whole content in one go and makes it `target`, as `if_exists` says; the path that it
/// has now. It is not forced to the disk.
pub(crate) fn store(target: &Path, bytes: &[u8], if_exists: IfExists) -> Result<PathBuf, Failure> {
    let path = part_path(target).ok_or_else(|| nameless(target))?;
    let mut file = open_locked(&path, target)?;
    let stored = emptied(&file)
        .and_then(|()| file.write_all(bytes))
        .map_err(Failure::disk(target))
        .and_then(|()| target::put(&path, target, if_exists));
    // It is the target now, or of no use. A note of an earlier run is of no use without it.
    if stored.is_err() {
        let _ = remove(&path);
    }
    let _ = remove(&note_path(&path));
    stored
}

/// Takes out what an earlier run left. A new file is not cut: ext4 sends one that was to the disk
/// when it is closed, and would be waited for.
fn emptied(file: &File) -> io::Result<()> {
    match file.metadata()?.len() {
        0 => Ok(()),
        _ => file.set_len(0),
    }
}

/// Whether a file of this name is the unfinished one of a download, or its note.
pub(crate) fn is_unfinished(file_name: &str) -> bool {
    file_name.starts_with('.') && file_name.contains(SUFFIX)
}

fn nameless(target: &Path) -> Failure {
    Failure::Usage(format!("{} is not the name of a file", target.display()))
}

/// `.NAME.vecino-part` beside `target`; a digest stands for a name that would be too long.
fn part_path(target: &Path) -> Option<PathBuf> {
    let name = target.file_name()?;
    let mut file_name = OsString::from(".");
    if name.len() + 1 + SUFFIX.len() + NOTE_SUFFIX.len() <= MAX_PART_BYTES {
        file_name.push(name);
    } else {
        file_name.push(Digest::of(name.as_encoded_bytes()).to_string());
    }
    file_name.push(SUFFIX);
    Some(folder_of(target).join(file_name))
}

fn note_path(part: &Path) -> PathBuf {
    let mut path = part.as_os_str().to_owned();
    path.push(NOTE_SUFFIX);
    path.into()
}

/// Opens `path` as the only one that writes there. A link planted under that name is not followed.
fn open_locked(path: &Path, target: &Path) -> Result<File, Failure> {
    for _ in 0..MAX_OPENS {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(no_follow())
            .open(path)
            // The user knows the target, not the part beside it.
            .map_err(Failure::disk(target))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(Failure::Running(target.to_owned())),
            Err(fs::TryLockError::Error(error)) => return Err(Failure::disk(path)(error)),
        }
        // Who had the lock before may have made it the target: then this is not the part any more.
        let ours = file.metadata().map_err(Failure::disk(path))?;
        match fs::symlink_metadata(path) {
            Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => return Ok(file),
            _ => {}
        }
    }
    Err(Failure::Running(target.to_owned()))
}

fn no_follow() -> i32 {
    rustix::fs::OFlags::NOFOLLOW
        .bits()
        .try_into()
        .expect("flags of open are a C int")
}

fn read_note(path: &Path) -> Option<Note> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(no_follow())
        .open(path)
        .ok()?;
    let mut text = Vec::new();
    file.take(MAX_NOTE).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

fn write_note(path: &Path, note: Note) -> io::Result<()> {
    remove(path)?;
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    serde_json::to_writer(&mut file, &note)?;
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_rt::test]
    async fn a_part_goes_on_where_an_earlier_run_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a.txt");
        let digest = Digest::of(b"hello world");
        let mut part = Part::open(&target).await.unwrap();
        assert_eq!(part.resume(), None);
        part.restart(Some((digest, 11))).unwrap();
        part.write(b"hello ").unwrap();
        drop(part);
        assert!(!target.exists());

        let mut part = Part::open(&target).await.unwrap();
        assert_eq!(part.resume(), Some(Resume { offset: 6, digest }));
        part.write(b"world").unwrap();
        assert_eq!(part.digest(), digest);
        assert_eq!(part.place(IfExists::Error).unwrap(), target);
        assert_eq!(fs::read_to_string(&target).unwrap(), "hello world");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[actix_rt::test]
    async fn a_whole_part_asks_for_its_last_byte_again() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a.txt");
        let digest = Digest::of(b"abc");
        let mut part = Part::open(&target).await.unwrap();
        part.restart(Some((digest, 3))).unwrap();
        part.write(b"abc").unwrap();
        drop(part);
        let part = Part::open(&target).await.unwrap();
        assert_eq!(part.resume(), Some(Resume { offset: 2, digest }));
    }

    #[actix_rt::test]
    async fn what_cannot_go_on_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut part = Part::open(&dir.path().join("a.txt")).await.unwrap();
        part.restart(None).unwrap();
        part.write(b"unknown").unwrap();
        drop(part);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[actix_rt::test]
    async fn two_runs_do_not_share_a_part() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a.txt");
        let _first = Part::open(&target).await.unwrap();
        assert!(matches!(
            Part::open(&target).await,
            Err(Failure::Running(_))
        ));
    }

    #[actix_rt::test]
    async fn a_planted_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, dir.path().join(".a.txt.vecino-part")).unwrap();
        assert!(Part::open(&dir.path().join("a.txt")).await.is_err());
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    }

    #[test]
    fn a_small_content_is_there_at_once_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a.txt");
        fs::write(
            dir.path().join(".a.txt.vecino-part"),
            "longer, of an earlier run",
        )
        .unwrap();
        fs::write(dir.path().join(".a.txt.vecino-part.json"), "{}").unwrap();
        assert_eq!(store(&target, b"abc", IfExists::Error).unwrap(), target);
        assert_eq!(fs::read_to_string(&target).unwrap(), "abc");
        assert!(matches!(
            store(&target, b"other", IfExists::Error),
            Err(Failure::Exists(_))
        ));
        assert_eq!(fs::read_to_string(&target).unwrap(), "abc");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_longest_names_have_parts() {
        let path = part_path(Path::new(&"n".repeat(255))).unwrap();
        assert!(note_path(&path).file_name().unwrap().len() <= 255);
        assert_eq!(part_path(Path::new("..")), None);
    }
}
