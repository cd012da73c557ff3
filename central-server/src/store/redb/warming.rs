//! Reading what lookups by name need into the memory for pages, once the store is opened, beside serving.
//!
//! Otherwise each of the first lookups waits for the disk, twice. A thread that gives way to others
//! reads some rows at a time, each time of the last committed state, so that it keeps no pages from
//! being used again. After a fault, when the store has been opened again, nothing is in memory any more, and
//! it begins anew.

use std::{
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

use redb::ReadOnlyTable;

use super::{
    published::Published,
    read::{Snapshot, engine},
};
use crate::{behind::give_way, store::StoreError};

/// Rows of one step: some tens of pages.
const ROWS: usize = 128;
/// Bytes of rows that are read at most for each four bytes of memory: pages are not full, and what
/// is above the rows takes some, too.
const OF_FOUR: u64 = 3;

/// The thread; it ends when this is dropped.
pub(super) struct Warming {
    ended: Arc<AtomicBool>,
    /// Has the thread begin again, or see that it is to end.
    again: SyncSender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Warming {
    /// Begins, for a memory of `bytes`. Without a thread nothing is read, and nothing is lost.
    pub(super) fn begin(published: Arc<Published>, bytes: u64) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        // However often the store is opened while the thread reads, it begins again once.
        let (again, openings) = sync_channel(1);
        published.tell_openings(again.clone());
        let mut run = Run {
            published,
            ended: ended.clone(),
            most: bytes / 4 * OF_FOUR,
            read: 0,
        };
        let thread = std::thread::Builder::new().name("store warming".into());
        let thread = thread.spawn(move || {
            give_way();
            while !run.has_ended() {
                if let Err(error) = run.all() {
                    log::debug!("the store was not read beforehand: {error}");
                }
                if openings.recv().is_err() {
                    return;
                }
            }
        });
        Self {
            ended,
            again,
            thread: thread.ok(),
        }
    }

    /// It is to end, after the step at hand.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        // Where there is no room, the thread finds what is there already.
        let _ = self.again.try_send(());
    }
}

impl Drop for Warming {
    /// Whoever drops the store may open the file again at once.
    fn drop(&mut self) {
        self.end();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed; nothing is lost.
            let _ = thread.join();
        }
    }
}

type Table = ReadOnlyTable<&'static [u8], &'static [u8]>;

struct Run {
    published: Arc<Published>,
    ended: Arc<AtomicBool>,
    /// Bytes that may be read.
    most: u64,
    /// Bytes that were read.
    read: u64,
}

impl Run {
    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    fn all(&mut self) -> Result<(), StoreError> {
        self.read = 0;
        self.table(|snapshot| &snapshot.named)?;
        self.table(|snapshot| &snapshot.known)
    }

    fn table(&mut self, table: impl Fn(&Snapshot) -> &Table) -> Result<(), StoreError> {
        let mut last: Option<Vec<u8>> = None;
        while self.read < self.most && !self.has_ended() {
            let snapshot = self.published.snapshot()?;
            let from = last.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            let from = (from, Bound::Unbounded);
            let rows = table(&snapshot).range::<&[u8]>(from).map_err(engine)?;
            let (mut count, mut key) = (0, None);
            for row in rows.take(ROWS) {
                let (its, value) = row.map_err(engine)?;
                self.read += (its.value().len() + value.value().len()) as u64;
                (count, key) = (count + 1, Some(its.value().to_vec()));
            }
            match key {
                Some(key) if count == ROWS => last = Some(key),
                _ => break,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests, *};
    use crate::store::{
        Store,
        conformance::{announce, file},
    };

    #[tokio::test]
    async fn all_is_read_once_as_far_as_there_is_memory() {
        let directory = tests::directory();
        let store = tests::open(&directory).expect("opens");
        let files: Vec<_> = (0..20_000)
            .map(|n| file(&format!("file {n}"), &format!("{n}")))
            .collect();
        let peer = tests::two_peers(&store).await[0];
        let change = announce(&files.iter().collect::<Vec<_>>());
        store
            .announce(peer, [1; 32], change)
            .await
            .expect("announces");
        let snapshot = store.published.snapshot().expect("open");
        let (mut rows, mut bytes) = (0, 0);
        for table in [&snapshot.named, &snapshot.known] {
            for row in table.range::<&[u8]>(..).expect("read") {
                let (key, value) = row.expect("read");
                rows += 1;
                bytes += (key.value().len() + value.value().len()) as u64;
            }
        }
        assert!(rows > 2 * ROWS, "{rows} rows are no more than two steps");

        let read = |most, ended| {
            let mut run = Run {
                published: store.published.clone(),
                ended: Arc::new(AtomicBool::new(ended)),
                most,
                read: 0,
            };
            run.all().expect("reads");
            run.read
        };
        assert_eq!(read(u64::MAX, false), bytes);
        assert_eq!(read(u64::MAX, true), 0);
        let most = bytes / 3;
        assert!((most..most + bytes / 3).contains(&read(most, false)));
    }
}
