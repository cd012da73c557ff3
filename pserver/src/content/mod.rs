//! The content that this peer holds: what the user shares, what was fetched, what is on its way.
//!
//! [`Store`] is the only door: it opens what is held, takes uploads, keeps finished downloads and
//! deletes. It knows nothing of the network; [`catalogue::Catalogue::follow`] tells those who
//! announce.

pub mod apart;
mod behind;
pub mod cache;
pub mod catalogue;
pub mod hash;
pub mod import;
pub mod index;
pub mod keep;
pub mod ledger;
pub mod naming;
pub mod part;
pub mod partials;
pub mod progress;
pub mod publish;
pub mod read;
pub mod replica;
pub mod scan;
pub mod small;
pub mod stamp;
#[cfg(test)]
mod tests;
pub mod upload;
pub mod verify;
pub mod watch;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{sync::Mutex, task::spawn_blocking};
use vecino_rest::{
    Digest, Name,
    body::{FileCounts, Origin, Pieces},
    piece::{Layout, MAX_SIZE},
};

use self::{
    cache::{Cache, Keeping},
    catalogue::{Catalogue, Entry},
    hash::{Hashed, hash_file},
    import::{Importer, Roots},
    index::IndexError,
    ledger::Ledger,
    publish::{Replace, publish},
    read::OpenFile,
    replica::Incoming,
    scan::{is_hidden, is_key},
    stamp::Stamp,
    upload::{Room, Upload},
};
use crate::metrics::Metrics;

/// Bytes of the disks that are never filled.
const FLOOR: u64 = 16 << 20;

/// Why something could not be stored, opened or deleted.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The condition of the request does not hold.
    #[error("{0}")]
    Precondition(String),
    /// The name is taken by another content.
    #[error("{0}")]
    Conflict(String),
    /// The name cannot be used here.
    #[error("{0}")]
    BadName(String),
    /// A directory cannot be used.
    #[error("{variable}={dir:?} cannot be used: {error}; {}", mend(error))]
    Directory {
        /// Which.
        variable: &'static str,
        /// Where.
        dir: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// One of the directories lies in another.
    #[error("{0}")]
    Overlap(String),
    /// The disk is full.
    #[error("no room left on this peer's disk")]
    NoSpace,
    /// Nothing that large can be shared.
    #[error("the body is longer than {MAX_SIZE} bytes")]
    TooLarge,
    /// Disk or permission.
    #[error("{0}: {1}")]
    Io(&'static str, #[source] io::Error),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A blocking task ended before its time.
    #[error("interrupted")]
    Interrupted,
}

/// What to do when a directory cannot be used.
pub fn mend(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "let the user that this peer runs as read and write it, or name another"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "the disk is full: free some space there, or name another"
        }
        io::ErrorKind::ReadOnlyFilesystem => "it is read-only: name another",
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
            "it is a file: name a directory"
        }
        _ => "name another directory",
    }
}

impl StoreError {
    fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace,
            _ => Self::Io(doing, error),
        }
    }
}

/// What a request demands of what is there already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Nothing: another content is a conflict.
    None,
    /// One of these contents is there (`If-Match`).
    Matches(Vec<Digest>),
    /// Something is there (`If-Match: *`).
    Exists,
    /// Nothing is there (`If-None-Match: *`).
    Absent,
}

/// What became of an upload.
#[derive(Debug)]
pub struct Shared {
    /// What is shared now.
    pub entry: Arc<Entry>,
    /// Nothing was shared under the name before.
    pub created: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Store {
    roots: Roots,
    parts: PathBuf,
    catalogue: Arc<Catalogue>,
    ledger: Arc<Ledger>,
    importer: Arc<Importer>,
    /// Held while a name is decided on, so that two uploads of one name come one after the other.
    naming: Mutex<()>,
    incoming: Arc<Incoming>,
    /// What uploads are writing now.
    room: Arc<Room>,
    keeping: Keeping,
    cache: Arc<Cache>,
    keeper: small::Keeper,
}

impl Store {
    /// Opens the store and makes the directories that are missing. Blocks.
    pub fn open(
        shared: &Path,
        fetched: &Path,
        data: &Path,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StoreError> {
        apart::check(shared, fetched, data)?;
        let parts = data.join("parts");
        for (variable, dir) in [
            ("SHARED_DIR", shared),
            ("DOWNLOAD_DIR", fetched),
            ("DATA_DIR", &*parts),
        ] {
            let usable = fs::create_dir_all(dir).and_then(|()| fs::read_dir(dir));
            usable.map_err(|error| StoreError::Directory {
                variable,
                dir: dir.to_owned(),
                error,
            })?;
        }
        part::tidy(&parts, SystemTime::now(), true)
            .map_err(StoreError::io("tidying unfinished downloads"))?;
        let absolute = |dir: &Path| {
            dir.canonicalize()
                .map_err(StoreError::io("directory cannot be read"))
        };
        let roots = Roots {
            shared: absolute(shared)?,
            fetched: absolute(fetched)?,
        };
        // Again, now that every folder is there and cannot be taken for another.
        apart::check(shared, fetched, data)?;
        let catalogue = Arc::new(Catalogue::default());
        let (ledger, rows) = Ledger::open(&data.join("index.redb"))?;
        let ledger = Arc::new(ledger);
        let importer = Importer::new(
            roots.clone(),
            catalogue.clone(),
            ledger.clone(),
            rows,
            metrics,
        );
        Ok(Self {
            roots,
            parts,
            catalogue,
            ledger,
            importer,
            naming: Mutex::default(),
            incoming: Arc::default(),
            room: Arc::default(),
            keeping: Keeping::default(),
            cache: Arc::default(),
            keeper: small::Keeper::default(),
        })
    }

    /// What is held.
    pub fn catalogue(&self) -> &Arc<Catalogue> {
        &self.catalogue
    }

    /// What keeps the catalogue true; run it once.
    pub fn importer(&self) -> &Arc<Importer> {
        &self.importer
    }

    /// Where what comes from `origin` lies.
    pub fn root(&self, origin: Origin) -> &Path {
        self.roots.of(origin)
    }

    /// Where unfinished downloads lie.
    pub fn parts(&self) -> &Path {
        &self.parts
    }

    /// Files and bytes held; `announced` is left at 0.
    pub fn counts(&self) -> FileCounts {
        FileCounts {
            hashing: self.importer.waiting(),
            ..self.catalogue.counts()
        }
    }

    /// Whether the index of hashed files takes no changes now.
    pub fn is_index_failing(&self) -> bool {
        self.ledger.is_failing()
    }

    /// Bytes that may still be stored for `origin`, on the way and at the end of it; a floor is
    /// left free.
    pub fn free_bytes(&self, origin: Origin) -> u64 {
        let free = |dir: &Path| {
            rustix::fs::statvfs(dir).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
        };
        free(&self.parts)
            .min(free(self.roots.of(origin)))
            .saturating_sub(FLOOR)
    }

    /// Deletes what nobody goes on with; see [`part::tidy`]. Blocks.
    pub fn tidy(&self) {
        if let Err(error) = part::tidy(&self.parts, SystemTime::now(), false) {
            log::warn!("tidying unfinished downloads: {error}");
        }
    }

    /// Opens what the catalogue holds; `None` when it changed and is no longer that.
    pub async fn read(&self, entry: Arc<Entry>) -> Result<Option<OpenFile>, StoreError> {
        let importer = self.importer.clone();
        // Before it is opened, so that it stays.
        let reading = self.cache.reading(&entry);
        spawn_blocking(move || OpenFile::open(entry, importer, reading))
            .await
            .map_err(|_| StoreError::Interrupted)?
            .map_err(StoreError::io("file cannot be read"))
    }

    /// The piece hashes of a content that is held.
    pub async fn pieces(&self, digest: Digest) -> Result<Option<Pieces>, StoreError> {
        let Some(entry) = self.catalogue.by_digest(&digest) else {
            return Ok(None);
        };
        let Some(layout) = Layout::of(entry.stamp.size) else {
            return Ok(None);
        };
        let pieces = if layout.pieces() == 1 {
            vec![digest]
        } else {
            let ledger = self.ledger.clone();
            let read = spawn_blocking(move || ledger.pieces(&digest)).await;
            match read.map_err(|_| StoreError::Interrupted)?? {
                Some(pieces) => pieces,
                None => return Ok(None),
            }
        };
        Ok(Some(Pieces {
            digest,
            size: layout.size(),
            piece_size: layout.piece_size(),
            pieces,
        }))
    }

    /// Shares a finished upload under `name`.
    pub async fn share(
        self: &Arc<Self>,
        upload: Upload,
        name: Name,
        condition: Condition,
    ) -> Result<Shared, StoreError> {
        refuse_unshared(&name)?;
        // The long part, before anybody has to wait for it.
        let hash = move || {
            let synced = upload.sync();
            synced.map_err(StoreError::io("upload cannot be written"))?;
            let hashed = hash_file(upload.path(), Duration::ZERO).map_err(|error| {
                StoreError::Io("upload cannot be read", io::Error::other(error.to_string()))
            })?;
            Ok::<_, StoreError>((upload, hashed))
        };
        let (upload, hashed) = spawn_blocking(hash)
            .await
            .map_err(|_| StoreError::Interrupted)??;
        let _naming = self.naming.lock().await;
        let store = self.clone();
        spawn_blocking(move || store.share_hashed(&upload, hashed, name, &condition))
            .await
            .map_err(|_| StoreError::Interrupted)?
    }

    fn share_hashed(
        &self,
        upload: &Upload,
        hashed: Hashed,
        name: Name,
        condition: &Condition,
    ) -> Result<Shared, StoreError> {
        let mut there = self.catalogue.by_origin(Origin::Shared, &name);
        // The user may have deleted or changed it a moment ago.
        if let Some(entry) = there.take_if(|entry| !entry.is_still()) {
            self.importer.dismiss(&entry);
            self.importer.touch(entry.origin, &entry.path);
        }
        check(condition, &name, there.as_deref())?;
        if let Some(entry) = &there {
            if entry.digest == hashed.digest {
                return Ok(Shared {
                    entry: entry.clone(),
                    created: false,
                });
            }
            if *condition == Condition::None {
                return Err(StoreError::Conflict(format!(
                    "{name:?} is shared with another content, digest {}: choose another name, or \
                     replace it with 'If-Match: \"{}\"'",
                    entry.digest, entry.digest
                )));
            }
        }
        let created = there.is_none();
        let replace = if there.is_some() {
            Replace::Yes
        } else {
            Replace::No
        };
        let path =
            publish(upload.path(), &self.roots.shared, &name, replace).map_err(
                |error| match error.kind() {
                    io::ErrorKind::AlreadyExists
                    | io::ErrorKind::IsADirectory
                    | io::ErrorKind::NotADirectory
                    | io::ErrorKind::DirectoryNotEmpty => StoreError::Conflict(format!(
                        "{name:?} is taken in the shared directory ({error}): choose another name"
                    )),
                    _ => StoreError::io("upload cannot be stored")(error),
                },
            )?;
        let stamp = stamp_of(&path)?;
        let entry = Entry {
            name,
            origin: Origin::Shared,
            path,
            stamp,
            digest: hashed.digest,
        };
        self.importer.admit(vec![(entry.clone(), hashed.pieces)]);
        Ok(Shared {
            entry: Arc::new(entry),
            created,
        })
    }

    /// Deletes what is held under `name`, shared and fetched; false when there was nothing.
    pub async fn delete(
        self: &Arc<Self>,
        name: Name,
        condition: Condition,
    ) -> Result<bool, StoreError> {
        let _naming = self.naming.lock().await;
        let store = self.clone();
        let delete = move || {
            let held: Vec<_> = [Origin::Shared, Origin::Fetched]
                .into_iter()
                .filter_map(|origin| store.catalogue.by_origin(origin, &name))
                .collect();
            if held.is_empty() {
                check(&condition, &name, None)?;
            }
            // Nothing is deleted unless all of it is what the condition says, now.
            for entry in &held {
                if !entry.is_still() && !matches!(condition, Condition::None) {
                    store.importer.touch(entry.origin, &entry.path);
                    return Err(StoreError::Precondition(format!(
                        "{name:?} changed just now"
                    )));
                }
                check(&condition, &name, Some(entry))?;
            }
            let deleted = !held.is_empty();
            for entry in held {
                match fs::remove_file(&entry.path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(StoreError::Io("file cannot be deleted", error));
                    }
                    _ => store.importer.dismiss(&entry),
                }
                remove_emptied(store.roots.of(entry.origin), &entry.path);
            }
            Ok(deleted)
        };
        spawn_blocking(delete)
            .await
            .map_err(|_| StoreError::Interrupted)?
    }
}

fn stamp_of(path: &Path) -> Result<Stamp, StoreError> {
    let metadata = fs::symlink_metadata(path).map_err(StoreError::io("file is gone"))?;
    Ok(Stamp::of(&metadata))
}

/// Removes the folders above `path` that are empty now, up to `root`, which stays: a name is free
/// again when nothing is below it.
fn remove_emptied(root: &Path, path: &Path) {
    let above = path.ancestors().skip(1);
    for dir in above.take_while(|dir| *dir != root && dir.starts_with(root)) {
        // One that is not empty ends it, and so does one that went by itself or may not go.
        if fs::remove_dir(dir).is_err() {
            return;
        }
    }
}

/// What is hidden, or a peer's key, is not shared, so it is not stored either.
pub fn refuse_unshared(name: &Name) -> Result<(), StoreError> {
    if name.parts().any(is_hidden) {
        return Err(StoreError::BadName(format!(
            "{name:?} cannot be stored: a part of it begins with a dot, and hidden files are not \
             shared"
        )));
    }
    if is_key(name.file_name()) {
        return Err(StoreError::BadName(format!(
            "{name:?} cannot be stored: a peer's key is called so, and such files are not shared"
        )));
    }
    Ok(())
}

fn check(condition: &Condition, name: &Name, there: Option<&Entry>) -> Result<(), StoreError> {
    let holds = match condition {
        Condition::None => true,
        Condition::Matches(digests) => there.is_some_and(|entry| digests.contains(&entry.digest)),
        Condition::Exists => there.is_some(),
        Condition::Absent => there.is_none(),
    };
    if holds {
        return Ok(());
    }
    Err(StoreError::Precondition(match there {
        Some(entry) => format!("{name:?} is shared with digest {}", entry.digest),
        None => format!("{name:?} is not shared here"),
    }))
}
