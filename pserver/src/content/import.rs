//! Keeps the catalogue true to the two directories: looks at what changed, hashes what is new,
//! remembers it in the index.
//!
//! Invariants: a file is hashed once for each of its stamps; an entry whose file changed leaves
//! the catalogue before its new content is hashed; the queue holds each path at most once, so it
//! is bounded by the files there are.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc, watch},
    task::{JoinSet, spawn_blocking},
    time::{Instant, MissedTickBehavior, interval_at, sleep},
};
use vecino_rest::{Digest, Name, body::Origin};

use super::{
    catalogue::{Catalogue, Entry},
    hash::{self, HashError, Hashed},
    index::{Change, Row},
    ledger::Ledger,
    scan::{self, Found},
    stamp::Stamp,
    watch::{Touched, Watch},
};
use crate::metrics::Metrics;

/// Files hashed at the same time.
const HASHERS: usize = 2;
/// Hashed files that go into the index in one transaction.
const COMMIT_BATCH: usize = 512;
/// A file that is still being written counts as waiting for so many tries.
const COUNTED_TRIES: u32 = 3;
/// The wait between tries doubles so often, to 8 s.
const LONGEST_WAIT: u32 = 5;
/// Files of which it is remembered that their warning was given.
const MAX_WARNED: usize = 10_000;
/// How long after a change the directories are looked at: changes come in swarms.
const DEBOUNCE: Duration = Duration::from_millis(100);

/// The two directories, absolute.
#[derive(Debug, Clone)]
pub struct Roots {
    /// `SHARED_DIR`.
    pub shared: PathBuf,
    /// `DOWNLOAD_DIR`.
    pub fetched: PathBuf,
}

impl Roots {
    /// The directory of `origin`.
    pub fn of(&self, origin: Origin) -> &Path {
        match origin {
            Origin::Shared => &self.shared,
            Origin::Fetched => &self.fetched,
        }
    }

    /// Both, with what each holds.
    pub fn all(&self) -> impl Iterator<Item = (Origin, &Path)> {
        [Origin::Shared, Origin::Fetched]
            .into_iter()
            .map(|origin| (origin, self.of(origin)))
    }
}

/// See the module.
#[derive(Debug)]
pub struct Importer {
    roots: Roots,
    catalogue: Arc<Catalogue>,
    ledger: Arc<Ledger>,
    metrics: Arc<Metrics>,
    /// Rows of the index whose files were not seen since the start.
    unseen: Mutex<HashMap<(Origin, PathBuf), (Stamp, Digest)>>,
    queue: Mutex<BTreeMap<(Origin, PathBuf), u32>>,
    warned: Mutex<BTreeSet<PathBuf>>,
    queued: Notify,
    hashing: AtomicU64,
    touched: Arc<Touched>,
    scanned: watch::Sender<bool>,
    /// Files that were withdrawn and are about to be deleted: not to be found again meanwhile.
    leaving: Mutex<BTreeSet<PathBuf>>,
}

impl Importer {
    /// An importer over `roots`, with the `rows` that `ledger` remembers.
    pub fn new(
        roots: Roots,
        catalogue: Arc<Catalogue>,
        ledger: Arc<Ledger>,
        rows: Vec<Row>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let unseen = rows
            .into_iter()
            .map(|row| {
                (
                    (row.origin, roots.of(row.origin).join(row.path)),
                    (row.stamp, row.digest),
                )
            })
            .collect();
        Arc::new(Self {
            touched: Arc::new(Touched::new(roots.clone())),
            roots,
            catalogue,
            ledger,
            metrics,
            unseen: Mutex::new(unseen),
            queue: Mutex::default(),
            warned: Mutex::default(),
            queued: Notify::new(),
            hashing: AtomicU64::new(0),
            scanned: watch::Sender::new(false),
            leaving: Mutex::default(),
        })
    }

    /// Whether both directories were walked since the start.
    pub fn scanned(&self) -> bool {
        *self.scanned.borrow()
    }

    /// Waits until both directories were walked since the start.
    pub async fn first_scan(&self) {
        // An error means that the importer is gone, and nothing is to be waited for.
        let _ = self.scanned.subscribe().wait_for(|&scanned| scanned).await;
    }

    /// Files found but not hashed yet.
    pub fn waiting(&self) -> u64 {
        lock(&self.queue).len() as u64 + self.hashing.load(Ordering::Relaxed)
    }

    /// Says that something at `path` may have changed.
    pub fn touch(&self, origin: Origin, path: &Path) {
        self.touched.add(origin, path);
    }

    /// Runs until the process ends: first walks both directories, then follows the watch, with
    /// a walk every `rescan` for what it missed.
    pub async fn run(self: Arc<Self>, rescan: Duration) {
        let _watch = Watch::start(&self.roots, &self.touched);
        let (done, mut hashed) = mpsc::channel(COMMIT_BATCH);
        let mut tasks = JoinSet::new();
        for _ in 0..HASHERS {
            tasks.spawn(self.clone().hash_queue(done.clone()));
        }
        drop(done);
        let committer = self.clone();
        tasks.spawn(async move {
            let mut batch = Vec::new();
            while hashed.recv_many(&mut batch, COMMIT_BATCH).await > 0 {
                committer.clone().commit(std::mem::take(&mut batch)).await;
            }
        });
        // Whatever is touched before the first walk is seen by it.
        self.look_at_all(self.everything()).await;
        self.forget_unseen().await;
        self.scanned.send_replace(true);
        let mut ticks = interval_at(Instant::now() + rescan, rescan);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let look_at = tokio::select! {
                _ = ticks.tick() => self.everything(),
                () = self.touched.some() => {
                    sleep(DEBOUNCE).await;
                    self.touched.take()
                }
            };
            self.look_at_all(look_at).await;
        }
    }

    fn everything(&self) -> BTreeSet<(Origin, PathBuf)> {
        self.roots
            .all()
            .map(|(origin, root)| (origin, root.to_owned()))
            .collect()
    }

    async fn look_at_all(self: &Arc<Self>, paths: BTreeSet<(Origin, PathBuf)>) {
        let importer = self.clone();
        let looked = spawn_blocking(move || {
            let mut gone = Vec::new();
            for (origin, path) in paths {
                importer.look_at(origin, &path, &mut gone);
            }
            importer.ledger.record(gone);
        });
        if let Err(error) = looked.await {
            log::error!("walking the shared directories: {error}");
        }
    }

    /// Compares what is at or below `path` with the catalogue; what is gone goes into `gone`.
    fn look_at(&self, origin: Origin, path: &Path, gone: &mut Vec<Change>) {
        let root = self.roots.of(origin);
        let scan::Walk { found, refused } = scan::walk(root, path);
        self.warn_once(refused);
        let here: BTreeSet<&Name> = found.iter().map(|found| &found.name).collect();
        let below = if path == root {
            None
        } else {
            Some(scan::name_of(root, path))
        };
        let known = match &below {
            None => self.catalogue.below(origin, None),
            Some(Ok(name)) => self.catalogue.below(origin, Some(name)),
            Some(Err(_)) => Vec::new(),
        };
        for entry in known {
            // Looked at again: it may have been put there since the walk passed.
            if !here.contains(&entry.name) && !entry.is_still() {
                gone.extend(self.take_out(&entry));
            }
        }
        for file in found {
            self.compare(origin, file, gone);
        }
    }

    /// Says why files are not shared, once each.
    fn warn_once(&self, refused: Vec<(PathBuf, String)>) {
        let mut warned = lock(&self.warned);
        for (path, why) in refused {
            if warned.len() < MAX_WARNED && warned.insert(path.clone()) {
                log::warn!("{path:?} is not shared: {why}");
            }
        }
    }

    fn compare(&self, origin: Origin, file: Found, gone: &mut Vec<Change>) {
        if lock(&self.leaving).contains(&file.path) {
            return;
        }
        let known = self.catalogue.by_origin(origin, &file.name);
        if let Some(entry) = known {
            if entry.stamp == file.stamp && entry.path == file.path {
                return;
            }
            // It may have been replaced, and catalogued, since the walk passed.
            if entry.is_still() {
                return;
            }
            gone.extend(self.take_out(&entry));
        }
        let remembered = lock(&self.unseen).remove(&(origin, file.path.clone()));
        match remembered {
            Some((stamp, digest)) if stamp == file.stamp => {
                self.metrics.files_recognised.inc();
                let Found { name, path, stamp } = file;
                self.catalogue.insert(Entry {
                    name,
                    origin,
                    path,
                    stamp,
                    digest,
                });
            }
            _ => self.enqueue(origin, file.path, 0),
        }
    }

    /// Takes `entry` out of the catalogue; what the ledger is to know of it.
    fn take_out(&self, entry: &Entry) -> Option<Change> {
        self.catalogue.remove(entry.origin, &entry.name)?;
        Some(Change::Remove(
            entry.origin,
            self.relative(entry.origin, &entry.path),
        ))
    }

    /// `tries`: how often it was found to be changing.
    fn enqueue(&self, origin: Origin, path: PathBuf, tries: u32) {
        lock(&self.queue).entry((origin, path)).or_insert(tries);
        self.queued.notify_one();
    }

    async fn hash_queue(self: Arc<Self>, done: mpsc::Sender<(Origin, PathBuf, Hashed)>) {
        loop {
            let next = {
                let mut queue = lock(&self.queue);
                let next = queue.pop_first();
                self.hashing
                    .fetch_add(u64::from(next.is_some()), Ordering::Relaxed);
                next
            };
            let Some(((origin, path), tries)) = next else {
                self.queued.notified().await;
                continue;
            };
            // The other hasher may be asleep with more in the queue.
            self.queued.notify_one();
            let file = path.clone();
            let outcome = spawn_blocking(move || hash::hash_file(&file, hash::SETTLE)).await;
            match outcome {
                Ok(Ok(hashed)) => {
                    self.metrics.files_hashed.inc();
                    self.metrics.hashed_bytes.inc_by(hashed.stamp.size);
                    if done.send((origin, path, hashed)).await.is_err() {
                        return;
                    }
                    continue;
                }
                Ok(Err(HashError::Unsettled)) => {
                    // A file that is written for long is no reason not to be ready.
                    let is_patient = tries >= COUNTED_TRIES;
                    if is_patient {
                        self.hashing.fetch_sub(1, Ordering::Relaxed);
                    }
                    let importer = self.clone();
                    tokio::spawn(async move {
                        sleep(hash::SETTLE * 2u32.pow(tries.min(LONGEST_WAIT))).await;
                        importer.enqueue(origin, path, tries + 1);
                        if !is_patient {
                            importer.hashing.fetch_sub(1, Ordering::Relaxed);
                        }
                    });
                    continue;
                }
                Ok(Err(HashError::Gone)) => {}
                Ok(Err(error)) => self.warn_once(vec![(path, error.to_string())]),
                Err(error) => log::error!("hashing {}: {error}", path.display()),
            }
            self.hashing.fetch_sub(1, Ordering::Relaxed);
        }
    }

    async fn commit(self: Arc<Self>, batch: Vec<(Origin, PathBuf, Hashed)>) {
        let count = batch.len() as u64;
        let importer = self.clone();
        let committed = spawn_blocking(move || {
            let entries = batch.into_iter().filter_map(|(origin, path, hashed)| {
                let name = scan::name_of(importer.roots.of(origin), &path).ok()?;
                let Hashed {
                    stamp,
                    digest,
                    pieces,
                } = hashed;
                Some((
                    Entry {
                        name,
                        origin,
                        path,
                        stamp,
                        digest,
                    },
                    pieces,
                ))
            });
            importer.admit(entries.collect())
        });
        if let Err(error) = committed.await {
            log::error!("remembering hashed files: {error}");
        }
        self.hashing.fetch_sub(count, Ordering::Relaxed);
    }

    /// Remembers hashed files and puts them into the catalogue; blocks on the disk.
    pub fn admit(&self, hashed: Vec<(Entry, Option<Arc<[Digest]>>)>) {
        let changes = hashed
            .iter()
            .map(|(entry, pieces)| self.row(entry, pieces.clone()));
        self.ledger.record(changes);
        hashed.into_iter().for_each(|(entry, _)| self.show(entry));
    }

    /// The same for a small file, of which the disk is told with the next change.
    pub fn admit_small(&self, entry: Entry) {
        self.ledger.record_later(self.row(&entry, None));
        self.show(entry);
    }

    fn row(&self, entry: &Entry, pieces: Option<Arc<[Digest]>>) -> Change {
        let row = Row {
            origin: entry.origin,
            path: self.relative(entry.origin, &entry.path),
            stamp: entry.stamp,
            digest: entry.digest,
        };
        Change::Put(row, pieces)
    }

    fn show(&self, entry: Entry) {
        // Whatever changed since it was hashed is looked at again and never shared as it was.
        if entry.is_still() {
            self.catalogue.insert(entry);
        } else {
            self.touch(entry.origin, &entry.path);
        }
    }

    /// Takes a file that was deleted out of the catalogue and the index; blocks on the disk.
    pub fn dismiss(&self, entry: &Entry) {
        self.ledger.record(self.take_out(entry));
    }

    /// Takes `entry` out of the catalogue and leaves its file, for [`Importer::left`] or
    /// [`Importer::take_back`] to follow; false when the catalogue holds something else by now.
    pub fn withdraw(&self, entry: &Arc<Entry>) -> bool {
        let held = self.catalogue.by_origin(entry.origin, &entry.name);
        if !held.is_some_and(|held| Arc::ptr_eq(&held, entry)) {
            return false;
        }
        lock(&self.leaving).insert(entry.path.clone());
        self.catalogue.remove(entry.origin, &entry.name);
        true
    }

    /// A file that was withdrawn was deleted; blocks on the disk.
    pub fn left(&self, entry: &Entry) {
        let path = self.relative(entry.origin, &entry.path);
        self.ledger.record([Change::Remove(entry.origin, path)]);
        lock(&self.leaving).remove(&entry.path);
        self.metrics.cache_evictions.inc();
    }

    /// A file that was withdrawn stays. Blocks.
    pub fn take_back(&self, entry: &Arc<Entry>) {
        lock(&self.leaving).remove(&entry.path);
        if entry.is_still() {
            self.catalogue.insert((**entry).clone());
        } else {
            self.touch(entry.origin, &entry.path);
        }
    }

    fn relative(&self, origin: Origin, path: &Path) -> String {
        let relative = path.strip_prefix(self.roots.of(origin)).unwrap_or(path);
        relative.to_string_lossy().into_owned()
    }

    /// Rows whose files are gone leave the index once both directories were walked.
    async fn forget_unseen(&self) {
        let unseen = std::mem::take(&mut *lock(&self.unseen));
        let changes: Vec<_> = unseen
            .into_keys()
            .map(|(origin, path)| Change::Remove(origin, self.relative(origin, &path)))
            .collect();
        let ledger = self.ledger.clone();
        if let Err(error) = spawn_blocking(move || ledger.record(changes)).await {
            log::error!("forgetting files that are gone: {error}");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::content::Store;

    async fn imported(dir: &Path, touched: Option<&Path>) -> (u64, u64) {
        let metrics = Arc::new(Metrics::default());
        let path = |name: &str| dir.join(name);
        let store = Store::open(&path("s"), &path("f"), &path("d"), metrics.clone());
        let importer = store.expect("opened").importer().clone();
        if let Some(touched) = touched {
            importer.touch(Origin::Shared, touched);
        }
        let running = tokio::spawn(importer.clone().run(Duration::from_secs(3600)));
        importer.first_scan().await;
        while importer.waiting() > 0 {
            tokio::task::yield_now().await;
        }
        running.abort();
        // The index is closed with the last of its holders.
        let _ = running.await;
        drop(importer);
        (metrics.files_hashed.get(), metrics.files_recognised.get())
    }

    #[tokio::test]
    async fn what_is_touched_before_the_first_walk_makes_nothing_forgotten() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let shared = dir.path().join("s");
        fs::create_dir(&shared).expect("made");
        for name in ["a", "b", "c"] {
            fs::write(shared.join(name), name).expect("written");
        }
        assert_eq!(imported(dir.path(), None).await, (3, 0));
        assert_eq!(imported(dir.path(), Some(&shared.join("a"))).await, (0, 3));
    }
}
