//! Keeps what was fetched in `DOWNLOAD_DIR`, under every name that it was wanted as.
//!
//! Invariant: a file that is there already is never replaced, whatever it is: then the content is
//! kept under the name with the beginning of its digest in it. What is held under a name already
//! is kept once. A file gets its name whole and synced.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use vecino_rest::{Digest, Name, body::Origin};

use super::{
    Store, StoreError,
    cache::Reading,
    catalogue::Entry,
    part::Part,
    publish::{Folders, Replace, copy_synced},
    refuse_unshared,
    stamp::Stamp,
    stamp_of,
};

/// A file that was kept, as long as its job lives.
#[derive(Debug)]
pub struct Kept {
    /// What the file is.
    pub stamp: Stamp,
    _reading: Reading,
}

/// A file that has its name.
#[derive(Debug)]
pub(super) struct Placed {
    /// What it is kept as.
    name: Name,
    /// Where it is.
    pub(super) path: PathBuf,
    /// What it is now.
    stamp: Stamp,
}

/// A file of up to so many bytes is hashed again sooner than the disk is told of each.
const SMALL: u64 = 64 << 10;

impl Store {
    /// Keeps a finished part under `names`. Answers what the file is now, when the part became
    /// one; while that lives, the file stays. Blocks.
    pub fn keep(
        &self,
        part: &Part,
        names: &[Name],
        digest: Digest,
        modified_ms: i64,
    ) -> Result<Option<Kept>, StoreError> {
        let mut wanted = self.not_held(names, &digest)?;
        let mut became = None;
        if let Some(first) = wanted.pop() {
            let finished = part
                .finish(modified_ms)
                .map_err(StoreError::io("download cannot be written"))?;
            // Copies first: whoever sees the file under its name may delete it.
            for name in wanted {
                let copy = self.temporary();
                copy_synced(finished, &copy)
                    .map_err(StoreError::io("download cannot be written"))?;
                let kept = self.name_it(&copy, name, digest, part);
                if kept.is_err() {
                    // Of no use any more; the error says why.
                    let _ = fs::remove_file(&copy);
                }
                kept?;
            }
            became = Some(self.name_it(finished, first, digest, part)?);
        }
        part.dispose();
        Ok(became)
    }

    /// Those of `names` under which the content is not held here.
    pub(super) fn not_held(
        &self,
        names: &[Name],
        digest: &Digest,
    ) -> Result<Vec<Name>, StoreError> {
        let mut wanted = Vec::new();
        for name in names {
            refuse_unshared(name)?;
            // Who asks while the last bytes of another download are being kept begins a new one.
            let held = self.catalogue().by_name_and_digest(name, digest);
            let is_held = held
                .is_some_and(|held| stamp_of(&held.path).is_ok_and(|stamp| stamp == held.stamp));
            if !is_held {
                wanted.push(name.clone());
            }
        }
        Ok(wanted)
    }

    /// Deleted at the next start, unless it got a name.
    pub(super) fn temporary(&self) -> PathBuf {
        self.parts
            .join(format!("{:032x}.upload", rand::random::<u128>()))
    }

    fn name_it(
        &self,
        finished: &Path,
        name: Name,
        digest: Digest,
        part: &Part,
    ) -> Result<Kept, StoreError> {
        let pieces = (part.pieces.len() > 1).then(|| part.pieces.as_slice().into());
        Ok(self.keep_file(finished, name, digest, pieces)?.1)
    }

    /// Gives a verified and synced file its name, or that with the beginning of its digest in it
    /// where the name is taken. Blocks.
    pub(super) fn keep_file(
        &self,
        finished: &Path,
        name: Name,
        digest: Digest,
        pieces: Option<Arc<[Digest]>>,
    ) -> Result<(Entry, Kept), StoreError> {
        let mut folders = Folders::below(&self.roots.fetched);
        let placed = self.place(&mut folders, finished, name, &digest)?;
        let synced = folders.sync().of(&placed.path);
        synced.map_err(StoreError::io("download cannot be kept"))?;
        Ok(self.admit_kept(placed, digest, pieces))
    }

    /// As [`Store::keep_file`], but the name is neither durable nor does anybody know of it.
    pub(super) fn place(
        &self,
        folders: &mut Folders<'_>,
        finished: &Path,
        name: Name,
        digest: &Digest,
    ) -> Result<Placed, StoreError> {
        let taken = StoreError::Conflict(format!(
            "{name:?} cannot be kept: its place in the download directory is taken"
        ));
        let other_name = with_digest(&name, digest);
        for name in std::iter::once(name).chain(other_name) {
            match folders.place(finished, &name, Replace::No) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                placed => {
                    let path = placed.map_err(StoreError::io("download cannot be kept"))?;
                    let stamp = stamp_of(&path)?;
                    return Ok(Placed { name, path, stamp });
                }
            }
        }
        Err(taken)
    }

    /// Shows a file whose name is durable.
    pub(super) fn admit_kept(
        &self,
        placed: Placed,
        digest: Digest,
        pieces: Option<Arc<[Digest]>>,
    ) -> (Entry, Kept) {
        let Placed { name, path, stamp } = placed;
        let entry = Entry {
            name,
            origin: Origin::Fetched,
            path,
            stamp,
            digest,
        };
        let kept = Kept {
            stamp,
            // Before anybody can see it.
            _reading: self.cache.reading(&entry),
        };
        if pieces.is_none() && stamp.size <= SMALL {
            self.importer.admit_small(entry.clone());
        } else {
            self.importer.admit(vec![(entry.clone(), pieces)]);
        }
        self.cache.grown();
        (entry, kept)
    }
}

/// `a.txt` as `a (1f3c9a2b).txt`; `None` when that is too long.
pub(super) fn with_digest(name: &Name, digest: &Digest) -> Option<Name> {
    let file = name.file_name();
    let folder = name.as_str().strip_suffix(file)?;
    let (stem, extension) = match file.rsplit_once('.') {
        Some((stem, extension)) if !stem.is_empty() => (stem, format!(".{extension}")),
        _ => (file, String::new()),
    };
    let digest = digest.to_string();
    Name::parse(&format!("{folder}{stem} ({}){extension}", &digest[..8])).ok()
}
