//! Keeps small contents, those that are ready at about the same time together: then the disk is
//! waited for a few times for all of them, and not a few times for each.
//!
//! Invariants: a file gets its name whole and synced, and is answered for once that name is
//! durable; what is wrong with one fails that one alone. One that comes alone waits for nobody. Where
//! more come while it is kept, the next batch waits for a moment and takes what comes until then.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, Write},
    num::NonZeroU64,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use rustix::fs::{Advice, fadvise};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    task::spawn_blocking,
};
use vecino_rest::{Digest, Name};

use super::{Store, StoreError, publish::Folders};

/// Files kept at once, which are open for it; a content may be several.
const MAX_BATCH: usize = 64;
/// Contents that wait for that or are being kept, each in memory; who has one more waits first.
const MAX_WAITING: usize = 256;
/// How long a batch waits for more, unless it is the first: less than anybody notices.
const LINGER: Duration = Duration::from_millis(20);
/// Files that the disk is waited for at the same time: it flushes once for those that ask together.
const SYNCED_AT_ONCE: usize = 8;
/// Steps in which the disk is told of a file: the smallest page there is.
const PAGE: usize = 4096;

/// A verified content, in memory.
#[derive(Debug)]
pub struct Small {
    /// All of it.
    pub bytes: Bytes,
    /// What it is kept as.
    pub names: Vec<Name>,
    /// Of the bytes.
    pub digest: Digest,
    /// Last modified, in milliseconds since 1970.
    pub modified_ms: i64,
}

/// Who waits, and whether somebody keeps.
#[derive(Debug)]
pub(super) struct Keeper {
    room: Arc<Semaphore>,
    line: Mutex<Line>,
    /// A batch is full.
    full: Condvar,
}

impl Default for Keeper {
    fn default() -> Self {
        Self {
            room: Arc::new(Semaphore::new(MAX_WAITING)),
            line: Mutex::default(),
            full: Condvar::new(),
        }
    }
}

#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<Waiting>,
    is_served: bool,
}

#[derive(Debug)]
struct Waiting {
    small: Small,
    answer: oneshot::Sender<Result<(), StoreError>>,
    place: OwnedSemaphorePermit,
}

impl Keeper {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who is kept next, after `linger` when somebody waits; with nobody the keeping is over.
    /// Blocks.
    fn next(&self, linger: Duration) -> Vec<Waiting> {
        let mut line = self.line();
        if !line.waiting.is_empty() {
            let is_short = |line: &mut Line| line.waiting.len() < MAX_BATCH;
            let waited = self.full.wait_timeout_while(line, linger, is_short);
            line = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let mut files = 0;
        let fits = line
            .waiting
            .iter()
            .enumerate()
            .take_while(|(place, waiting)| {
                files += waiting.small.names.len();
                *place == 0 || files <= MAX_BATCH
            });
        let most = fits.count();
        line.is_served = most > 0;
        line.waiting.drain(..most).collect()
    }
}

/// Keeps what waits. When it is dropped before the end, whoever waits hears that, and the next one
/// that comes begins again.
struct Serving {
    store: Arc<Store>,
    is_over: bool,
}

impl Serving {
    fn run(mut self) {
        let mut linger = Duration::ZERO;
        loop {
            let batch = self.store.keeper.next(linger);
            linger = LINGER;
            if batch.is_empty() {
                self.is_over = true;
                return;
            }
            let smalls: Vec<_> = batch.iter().map(|waiting| &waiting.small).collect();
            let kept = self.store.keep_together(&smalls);
            for (Waiting { answer, place, .. }, kept) in batch.into_iter().zip(kept) {
                // Whoever hears the answer finds its place free.
                drop(place);
                // Who asked may be gone.
                let _ = answer.send(kept);
            }
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if !self.is_over {
            *self.store.keeper.line() = Line::default();
        }
    }
}

/// A file that is written, without its name.
struct Written {
    /// Which of the batch.
    of: usize,
    name: Name,
    temporary: Temporary,
    file: File,
}

/// Where a file lies until it has its name; deleted where that is not to be.
struct Temporary(PathBuf);

impl Temporary {
    /// It has its name.
    fn got_its_name(mut self) {
        self.0.clear();
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty() {
            // Of no use any more; the error that led here says why.
            let _ = fs::remove_file(&self.0);
        }
    }
}

impl Store {
    /// Keeps a small content.
    pub async fn keep_small(self: &Arc<Self>, small: Small) -> Result<(), StoreError> {
        let room = self.keeper.room.clone();
        // It is never closed.
        let place = room.acquire_owned().await;
        let (answer, answered) = oneshot::channel();
        let is_served = {
            let mut line = self.keeper.line();
            line.waiting.push_back(Waiting {
                small,
                answer,
                place: place.map_err(|_| StoreError::Interrupted)?,
            });
            if line.waiting.len() == MAX_BATCH {
                self.keeper.full.notify_one();
            }
            std::mem::replace(&mut line.is_served, true)
        };
        if !is_served {
            let serving = Serving {
                store: self.clone(),
                is_over: false,
            };
            spawn_blocking(|| serving.run());
        }
        answered.await.unwrap_or(Err(StoreError::Interrupted))
    }

    /// Keeps all of `batch`; what came of each, in their order. Blocks.
    pub(super) fn keep_together(&self, batch: &[&Small]) -> Vec<Result<(), StoreError>> {
        let mut outcomes: Vec<_> = batch.iter().map(|_| Ok(())).collect();
        let mut written = Vec::new();
        for (of, small) in batch.iter().enumerate() {
            match self.not_held(&small.names, &small.digest) {
                Ok(names) => {
                    for name in names {
                        match self.write_small(small, of, name) {
                            Ok(file) => written.push(file),
                            Err(error) => outcomes[of] = Err(error),
                        }
                    }
                }
                Err(error) => outcomes[of] = Err(error),
            }
        }
        let mut folders = Folders::below(&self.roots.fetched);
        let mut placed = Vec::new();
        // All of it is on its way before the first of it is waited for.
        for Written { file, of, .. } in &written {
            start_writing(file, batch[*of].bytes.len());
        }
        let synced = sync(&written);
        for (written, synced) in written.into_iter().zip(synced) {
            let Written {
                of,
                name,
                temporary,
                ..
            } = written;
            let named = synced
                .map_err(StoreError::io("download cannot be written"))
                .and_then(|()| self.place(&mut folders, &temporary.0, name, &batch[of].digest));
            match named {
                Ok(named) => {
                    temporary.got_its_name();
                    placed.push((of, named));
                }
                Err(error) => outcomes[of] = Err(error),
            }
        }
        let synced = folders.sync();
        for (of, named) in placed {
            match synced.of(&named.path) {
                Ok(()) => drop(self.admit_kept(named, batch[of].digest, None)),
                Err(error) => {
                    outcomes[of] = Err(StoreError::io("download cannot be kept")(error));
                }
            }
        }
        outcomes
    }

    fn write_small(&self, small: &Small, of: usize, name: Name) -> Result<Written, StoreError> {
        let path = self.temporary();
        let written = File::create_new(&path).and_then(|mut file| {
            let temporary = Temporary(path);
            file.write_all(&small.bytes)?;
            file.set_modified(time_of(small.modified_ms))?;
            Ok(Written {
                of,
                name,
                temporary,
                file,
            })
        });
        written.map_err(StoreError::io("download cannot be written"))
    }
}

/// Syncs all of `written`, the first one alone: it commits the journal for the others.
fn sync(written: &[Written]) -> Vec<io::Result<()>> {
    let sync_each = |some: &[Written]| -> Vec<_> {
        let synced = some.iter().map(|written| written.file.sync_all());
        synced.collect()
    };
    let Some((first, others)) = written.split_first() else {
        return Vec::new();
    };
    let mut synced = vec![first.file.sync_all()];
    if others.len() < SYNCED_AT_ONCE {
        synced.extend(sync_each(others));
        return synced;
    }
    thread::scope(|scope| {
        let parts = others.chunks(others.len().div_ceil(SYNCED_AT_ONCE));
        let parts: Vec<_> = parts
            .map(|part| {
                let syncing = thread::Builder::new().spawn_scoped(scope, move || sync_each(part));
                (part, syncing)
            })
            .collect();
        for (part, syncing) in parts {
            synced.extend(match syncing {
                Ok(syncing) => syncing.join().expect("syncing does not panic"),
                // There is no thread to be had.
                Err(_) => sync_each(part),
            });
        }
    });
    synced
}

/// Has the disk begin with what was written to `file`, without waiting for it. Only a hint: where
/// it does nothing, the sync that follows writes all of it.
///
/// That is how Linux takes the advice that pages are not needed, and what starts it names no whole
/// page, so that the pages stay in memory. It saves the journal of the file system a commit a file:
/// the first sync commits them all.
fn start_writing(file: &File, size: usize) {
    for page in (0..size).step_by(PAGE) {
        // Whatever is wrong, the sync will tell.
        let _ = fadvise(
            file,
            page as u64 + 1,
            Some(NonZeroU64::MIN),
            Advice::DontNeed,
        );
    }
}

pub(super) fn time_of(modified_ms: i64) -> SystemTime {
    let since = Duration::from_millis(modified_ms.max(0).cast_unsigned());
    SystemTime::UNIX_EPOCH
        .checked_add(since)
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use tokio::time::timeout;

    use super::*;

    const WITHIN: Duration = Duration::from_secs(30);

    fn store(dir: &tempfile::TempDir) -> Arc<Store> {
        let path = |name: &str| dir.path().join(name);
        let store = Store::open(&path("s"), &path("f"), &path("d"), Arc::default());
        Arc::new(store.expect("opened"))
    }

    fn small(name: &str, size: usize) -> Small {
        let bytes = Bytes::from(name.repeat(size).into_bytes()).slice(..size);
        Small {
            digest: Digest::of(&bytes),
            bytes,
            names: vec![Name::parse(name).expect("valid")],
            modified_ms: 7_000,
        }
    }

    #[test]
    fn one_that_cannot_be_kept_fails_alone() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let store = store(&dir);
        let fetched = dir.path().join("f");
        fs::write(fetched.join("file"), "the user's").expect("written");
        fs::create_dir(fetched.join("taken.txt")).expect("made");
        let batch = [
            small("a", 0),
            small("new/b", 70_000),
            small("file/below", 5),
            small("new/c", 4096),
            small("taken.txt", 5),
            small("new/deeper/d", 4097),
        ];
        let all: Vec<_> = batch.iter().collect();
        let outcomes = store.keep_together(&all);
        let failed: Vec<_> = (0..)
            .zip(&outcomes)
            .filter(|(_, kept)| kept.is_err())
            .collect();
        assert!(matches!(failed[..], [(2, _)]), "{failed:?}");
        for (number, small) in batch.iter().enumerate().filter(|(number, _)| *number != 2) {
            let held = store.catalogue().by_digest(&small.digest).expect("held");
            assert_eq!(held.name == small.names[0], number != 4, "{}", held.name);
            assert_eq!(fs::read(&held.path).expect("there"), small.bytes);
        }
        assert_eq!(
            fs::read(fetched.join("file")).expect("there"),
            b"the user's"
        );
        assert_eq!(fs::read_dir(store.parts()).expect("there").count(), 0);
    }

    #[tokio::test]
    async fn more_than_a_batch_at_once_are_all_kept() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let store = store(&dir);
        let names: Vec<_> = (0..MAX_WAITING + 9)
            .map(|at| format!("{}/{at}", at % 3))
            .collect();
        let all = names.iter().map(|name| store.keep_small(small(name, 9)));
        let kept = timeout(WITHIN, join_all(all)).await.expect("in time");
        assert!(kept.iter().all(Result::is_ok), "{kept:?}");
        for name in &names {
            assert!(dir.path().join("f").join(name).exists(), "{name}");
        }
        assert_eq!(store.keeper.room.available_permits(), MAX_WAITING);
    }

    #[tokio::test]
    async fn who_waits_for_one_that_stops_is_told_and_the_next_is_kept() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let store = store(&dir);
        store.keeper.line().is_served = true;
        let serving = Serving {
            store: store.clone(),
            is_over: false,
        };
        let stops = async { drop(serving) };
        let (kept, ()) = tokio::join!(store.keep_small(small("a", 1)), stops);
        assert!(matches!(kept, Err(StoreError::Interrupted)), "{kept:?}");
        let kept = timeout(WITHIN, store.keep_small(small("b", 1))).await;
        kept.expect("in time").expect("kept");
    }
}
