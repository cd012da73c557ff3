//! Keeps what was fetched in `DOWNLOAD_DIR`, under every name that it was wanted as.
//!
//! Invariant: a file that is there already is never replaced, whatever it is: then the content is
//! kept under the name with the beginning of its digest in it. What is held under a name already
//! is kept once. A file gets its name whole and synced.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use vecino_rest::{Digest, Name, body::Origin};

use super::{
    Store, StoreError,
    cache::Reading,
    catalogue::Entry,
    part::Part,
    publish::{Replace, copy_synced, publish},
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

    /// Keeps a small content under `names`. Blocks.
    pub fn keep_bytes(
        &self,
        bytes: &[u8],
        names: &[Name],
        digest: Digest,
        modified_ms: i64,
    ) -> Result<(), StoreError> {
        for name in self.not_held(names, &digest)? {
            let temporary = self.temporary();
            let written = File::create_new(&temporary).and_then(|mut file| {
                file.write_all(bytes)?;
                file.set_modified(time_of(modified_ms))?;
                file.sync_all()
            });
            let kept = written
                .map_err(StoreError::io("download cannot be written"))
                .and_then(|()| self.keep_file(&temporary, name, digest, None));
            if kept.is_err() {
                // Of no use any more; the error says why.
                let _ = fs::remove_file(&temporary);
            }
            kept?;
        }
        Ok(())
    }

    /// Those of `names` under which the content is not held here.
    fn not_held(&self, names: &[Name], digest: &Digest) -> Result<Vec<Name>, StoreError> {
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
    fn temporary(&self) -> PathBuf {
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
        let taken = StoreError::Conflict(format!(
            "{name:?} cannot be kept: its place in the download directory is taken"
        ));
        let other_name = with_digest(&name, &digest);
        for name in std::iter::once(name).chain(other_name) {
            match publish(finished, &self.roots.fetched, &name, Replace::No) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                published => {
                    let path = published.map_err(StoreError::io("download cannot be kept"))?;
                    let stamp = stamp_of(&path)?;
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
                    return Ok((entry, kept));
                }
            }
        }
        Err(taken)
    }
}

fn time_of(modified_ms: i64) -> SystemTime {
    let since = Duration::from_millis(modified_ms.max(0).cast_unsigned());
    SystemTime::UNIX_EPOCH
        .checked_add(since)
        .unwrap_or(SystemTime::UNIX_EPOCH)
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
