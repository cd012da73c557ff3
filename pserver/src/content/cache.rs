//! `DOWNLOAD_DIR` as a cache: which files go when it is fuller than `CACHE_LIMIT`, and who reads
//! what meanwhile.
//!
//! Invariants: only what was fetched goes, least recently used first, nothing that is being read,
//! and each file only after others were told that it is not here any more. [`victims`] is pure.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::{sync::Notify, task::spawn_blocking, time::timeout};
use vecino_rest::{Digest, Name, body::Origin};

use super::{Store, StoreError, catalogue::Entry, part};

/// The limit is looked at again this often, whatever happens.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// How long others may take to acknowledge that files are withdrawn.
const WITHDRAWN_WITHIN: Duration = Duration::from_secs(3);

/// A file that may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate<T> {
    /// What it is.
    pub file: T,
    /// Bytes.
    pub size: u64,
    /// When somebody last read it.
    pub last_used: SystemTime,
    /// Somebody reads it now.
    pub is_read: bool,
}

/// Which of `files` go so that the rest takes at most `limit` bytes, as far as that can be had:
/// least recently used first, none that is being read.
pub fn victims<T>(mut files: Vec<Candidate<T>>, limit: u64) -> Vec<T> {
    let total: u64 = files.iter().map(|file| file.size).sum();
    let mut surplus = total.saturating_sub(limit);
    files.retain(|file| !file.is_read);
    files.sort_by_key(|file| file.last_used);
    let go = files.into_iter().take_while(|file| {
        let goes = surplus > 0;
        surplus = surplus.saturating_sub(file.size);
        goes
    });
    go.map(|file| file.file).collect()
}

/// What becomes of a content that was fetched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Keep {
    /// It is kept, and served to others.
    #[default]
    Always,
    /// It streams through.
    Never,
}

impl Keep {
    /// The one of that name.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "always" => Some(Self::Always),
            "never" => Some(Self::Never),
            _ => None,
        }
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Never => "never",
        }
    }
}

/// What of the fetched is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keeping {
    /// Whether anything is.
    pub keep: Keep,
    /// Bytes that it may take.
    pub cache_limit: Option<u64>,
}

/// What the cache may take so that `needed` bytes have room where `free` are free and the cache
/// takes `held`; `None` when they have, or when all of the cache would go in vain. Pure.
fn limit_for(needed: u64, free: u64, held: u64) -> Option<u64> {
    let missing = needed.checked_sub(free).filter(|&missing| missing > 0)?;
    held.checked_sub(missing)
}

/// Who reads what, and when each fetched file was last used.
#[derive(Debug, Default)]
pub struct Cache {
    /// Without one nobody asks when a file was last used.
    is_limited: bool,
    readers: Mutex<HashMap<Digest, usize>>,
    last_used: Mutex<HashMap<Name, SystemTime>>,
    /// It may have become too full, or something that had to stay may go.
    look: Notify,
    evicting: tokio::sync::Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cache {
    /// A cache with or without a limit.
    pub fn new(is_limited: bool) -> Self {
        Self {
            is_limited,
            ..Self::default()
        }
    }

    /// Keeps the content of `entry` where it is while the guard lives.
    pub fn reading(self: &Arc<Self>, entry: &Entry) -> Reading {
        *lock(&self.readers).entry(entry.digest).or_default() += 1;
        let is_cached = self.is_limited && entry.origin == Origin::Fetched;
        let name = is_cached.then(|| entry.name.clone());
        let reading = Reading {
            cache: self.clone(),
            digest: entry.digest,
            name,
        };
        reading.use_now();
        reading
    }

    /// Something was kept.
    pub fn grown(&self) {
        self.look.notify_one();
    }

    fn is_read(&self, digest: &Digest) -> bool {
        lock(&self.readers).contains_key(digest)
    }

    /// When `entry` was last used; as far as the disk knows, when it was not in this life. Blocks.
    fn last_used(&self, entry: &Entry) -> SystemTime {
        *lock(&self.last_used)
            .entry(entry.name.clone())
            .or_insert_with(|| on_disk(&entry.path))
    }
}

/// The later of both times of a file. Blocks.
fn on_disk(path: &Path) -> SystemTime {
    let latest = fs::symlink_metadata(path).map(|metadata| {
        let seconds = metadata.atime().max(metadata.mtime()).max(0);
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.cast_unsigned())
    });
    latest.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Somebody reads a content; see [`Cache::reading`].
#[derive(Debug)]
pub struct Reading {
    cache: Arc<Cache>,
    digest: Digest,
    /// Of a fetched file.
    name: Option<Name>,
}

impl Reading {
    fn use_now(&self) {
        if let Some(name) = &self.name {
            lock(&self.cache.last_used).insert(name.clone(), SystemTime::now());
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.use_now();
        let mut readers = lock(&self.cache.readers);
        if let Some(count) = readers.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                readers.remove(&self.digest);
                self.cache.look.notify_one();
            }
        }
    }
}

impl Store {
    /// The same store, with what `keeping` says. Of a peer that keeps nothing, no part stays. Blocks.
    pub fn keeping(mut self, keeping: Keeping) -> Result<Self, StoreError> {
        if keeping.keep == Keep::Never {
            part::clear(&self.parts).map_err(StoreError::io("deleting unfinished downloads"))?;
        }
        self.keeping = keeping;
        self.cache = Arc::new(Cache::new(keeping.cache_limit.is_some()));
        Ok(self)
    }

    /// Whether anything that is fetched is kept.
    pub fn keeps(&self) -> bool {
        self.keeping.keep == Keep::Always
    }

    /// Whether a content of `size` bytes is kept once it is fetched; else it streams through.
    pub fn keeps_size(&self, size: u64) -> bool {
        self.keeps() && self.keeping.cache_limit.is_none_or(|limit| size <= limit)
    }

    /// Bytes of copies that other peers may place here.
    pub fn room_for_copies(&self) -> u64 {
        if self.keeps() {
            self.free_bytes(Origin::Fetched)
        } else {
            0
        }
    }

    /// Why a content of `size` bytes is not kept; for people.
    pub fn why_not_kept(&self, size: u64) -> String {
        match self.keeping.cache_limit {
            Some(limit) if self.keeps() => format!(
                "this peer keeps at most {limit} bytes (CACHE_LIMIT), and the content has {size}: \
                 it can only be read as it streams through"
            ),
            _ => "this peer keeps nothing that it fetches (KEEP=never): contents can only be read \
                  as they stream through"
                .to_owned(),
        }
    }

    /// Keeps `DOWNLOAD_DIR` within its limit, until the process ends; returns at once when there
    /// is none.
    pub async fn keep_to_limit(self: Arc<Self>) {
        let Some(limit) = self.keeping.cache_limit else {
            return;
        };
        self.importer.first_scan().await;
        loop {
            if self.catalogue.fetched_bytes() > limit
                && let Err(error) = self.evict(limit).await
            {
                log::warn!("DOWNLOAD_DIR takes more than CACHE_LIMIT: {error}");
            }
            // Whichever comes first: a file more, a reader less, or a while.
            let _ = timeout(LOOK_EVERY, self.cache.look.notified()).await;
        }
    }

    /// Bytes that may be stored for downloads; when `needed` are more than that and there is a
    /// `CACHE_LIMIT`, files of the cache make room first.
    pub async fn make_room(&self, needed: u64) -> u64 {
        let free = self.free_bytes(Origin::Fetched);
        let limit = self
            .keeping
            .cache_limit
            .and_then(|_| limit_for(needed, free, self.catalogue.fetched_bytes()));
        let Some(limit) = limit.filter(|_| self.is_on_one_disk()) else {
            return free;
        };
        if let Err(error) = self.evict(limit).await {
            log::warn!("no room can be made for {needed} bytes: {error}");
        }
        self.free_bytes(Origin::Fetched)
    }

    /// Bytes that there could be room for: as [`make_room`](Self::make_room) would, but nothing
    /// is deleted for it.
    pub fn could_have_room(&self) -> u64 {
        let free = self.free_bytes(Origin::Fetched);
        if self.keeping.cache_limit.is_some() && self.is_on_one_disk() {
            free.saturating_add(self.catalogue.fetched_bytes())
        } else {
            free
        }
    }

    /// Whether what leaves `DOWNLOAD_DIR` makes room for what is on its way.
    fn is_on_one_disk(&self) -> bool {
        let disk = |dir: &Path| fs::metadata(dir).map(|metadata| metadata.dev()).ok();
        disk(&self.parts) == disk(&self.roots.fetched)
    }

    /// Deletes fetched files, least recently used first, until the rest takes at most `limit`
    /// bytes, as far as nobody reads them.
    async fn evict(&self, limit: u64) -> Result<(), StoreError> {
        let _one_at_a_time = self.cache.evicting.lock().await;
        let (catalogue, cache) = (self.catalogue.clone(), self.cache.clone());
        let choose = move || {
            let held = catalogue.below(Origin::Fetched, None);
            let files = held.into_iter().map(|entry| Candidate {
                size: entry.stamp.size,
                last_used: cache.last_used(&entry),
                is_read: cache.is_read(&entry.digest),
                file: entry,
            });
            let files: Vec<_> = files.collect();
            // What is there no more need not be known.
            let names: HashSet<_> = files.iter().map(|file| &file.file.name).collect();
            lock(&cache.last_used).retain(|name, _| names.contains(name));
            victims(files, limit)
        };
        let chosen = spawn_blocking(choose)
            .await
            .map_err(|_| StoreError::Interrupted)?;
        let leaving: Vec<_> = chosen
            .into_iter()
            .filter(|entry| self.importer.withdraw(entry))
            .collect();
        if leaving.is_empty() {
            return Ok(());
        }
        let told = self.catalogue.progress().reached(self.catalogue.changes());
        if timeout(WITHDRAWN_WITHIN, told).await.is_err() {
            log::info!(
                "not everybody has heard in time that {} files go",
                leaving.len()
            );
        }
        let (importer, cache) = (self.importer.clone(), self.cache.clone());
        let delete = move || {
            let mut failed = None;
            for entry in leaving {
                if cache.is_read(&entry.digest) || !entry.is_still() {
                    importer.take_back(&entry);
                    continue;
                }
                match fs::remove_file(&entry.path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        importer.take_back(&entry);
                        failed = Some(error);
                    }
                    _ => importer.left(&entry),
                }
            }
            failed.map_or(Ok(()), Err)
        };
        spawn_blocking(delete)
            .await
            .map_err(|_| StoreError::Interrupted)?
            .map_err(StoreError::io("file cannot be deleted"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(name: &str, size: u64, used: u64, is_read: bool) -> Candidate<String> {
        Candidate {
            file: name.to_owned(),
            size,
            last_used: SystemTime::UNIX_EPOCH + Duration::from_secs(used),
            is_read,
        }
    }

    #[test]
    fn the_least_recently_used_go_first_and_no_more_than_needed() {
        let files = vec![
            file("new", 10, 4, false),
            file("oldest", 10, 1, false),
            file("read", 10, 0, true),
            file("old", 10, 2, false),
        ];
        for (limit, expected) in [
            (40, &[][..]),
            (39, &["oldest"]),
            (30, &["oldest"]),
            (29, &["oldest", "old"]),
            (0, &["oldest", "old", "new"]),
        ] {
            assert_eq!(victims(files.clone(), limit), expected, "{limit}");
        }
    }

    #[test]
    fn room_is_made_only_as_far_as_needed_and_never_in_vain() {
        for (needed, free, held, expected) in [
            (10, 10, 5, None),
            (11, 10, 5, Some(4)),
            (15, 10, 5, Some(0)),
            (16, 10, 5, None),
            (5, 10, 0, None),
        ] {
            assert_eq!(limit_for(needed, free, held), expected);
        }
    }

    proptest! {
        #[test]
        fn the_limit_holds_unless_readers_forbid(
            files in prop::collection::vec((0..100u64, 0..9u64, any::<bool>()), 0..20),
            limit in 0..1000u64,
        ) {
            let files: Vec<_> = (0..)
                .zip(files)
                .map(|(index, (size, used, is_read))| file(&format!("{index}"), size, used, is_read))
                .collect();
            let gone = victims(files.clone(), limit);
            let (go, stay): (Vec<_>, Vec<_>) =
                files.iter().partition(|file| gone.contains(&file.file));
            prop_assert!(go.iter().all(|file| !file.is_read));
            let sum = |files: &[&Candidate<String>]| files.iter().map(|f| f.size).sum::<u64>();
            prop_assert!(sum(&stay) <= limit || stay.iter().all(|file| file.is_read));
            // Without the last one it would not have been enough.
            if let Some(last) = gone.last() {
                let last = files.iter().find(|file| file.file == *last).expect("one of them");
                prop_assert!(sum(&stay) + last.size > limit);
            }
            let latest_gone = go.iter().map(|file| file.last_used).max();
            let earliest = stay.iter().filter(|f| !f.is_read).map(|f| f.last_used).min();
            prop_assert!(latest_gone <= earliest || earliest.is_none());
        }
    }
}
