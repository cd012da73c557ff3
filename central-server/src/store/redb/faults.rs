//! Files that fail for a while: what was acknowledged is there afterwards, and changes work again.

use std::{
    fs::{File, OpenOptions},
    io,
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst},
    time::Duration,
};

use redb::{Builder, StorageBackend, backends::FileBackend};
use tempfile::TempDir;
use tokio::time::error::Elapsed;

use super::*;
use crate::store::{
    Resource,
    conformance::{ALL, announce, file, row},
};

/// What goes wrong at the moment.
#[derive(Debug)]
struct Faults {
    /// Writes that still succeed; less than zero: all of them.
    writes_left: AtomicI64,
    /// Where the disk is full: what the file has already can be written over.
    room: AtomicU64,
    no_sync: AtomicBool,
    no_read: AtomicBool,
    no_open: AtomicBool,
    /// Whether the place says beforehand that it is full.
    no_room: AtomicBool,
    /// How many of the next writes panic.
    panics: AtomicU64,
    /// Whether those do that are made where the file is opened.
    panics_in_opening: AtomicBool,
    is_opening: AtomicBool,
    /// Whether the next read for the terms does.
    panics_at_terms: AtomicBool,
    /// Reads of the file beside serving.
    warming_reads: AtomicU64,
}

impl Faults {
    fn heal(&self) {
        self.writes_left.store(-1, SeqCst);
        self.room.store(u64::MAX, SeqCst);
        for fault in [&self.no_sync, &self.no_read, &self.no_open, &self.no_room] {
            fault.store(false, SeqCst);
        }
    }
}

/// A file with faults.
#[derive(Debug)]
struct Faulty {
    file: FileBackend,
    faults: Arc<Faults>,
}

impl StorageBackend for Faulty {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if self.faults.no_read.load(SeqCst) {
            return Err(io::Error::other("a bad sector"));
        }
        match std::thread::current().name() {
            Some("store terms") => {
                let panics = self.faults.panics_at_terms.swap(false, SeqCst);
                assert!(!panics, "the engine has an error at terms");
            }
            Some("store warming") => drop(self.faults.warming_reads.fetch_add(1, SeqCst)),
            _ => {}
        }
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.faults.no_sync.load(SeqCst) {
            return Err(io::Error::other("the disk does not sync"));
        }
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if offset + data.len() as u64 > self.faults.room.load(SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let faults = &self.faults;
        if faults.panics_in_opening.load(SeqCst) || !faults.is_opening.load(SeqCst) {
            let panics = &faults.panics;
            let panics = panics.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
            assert!(panics.is_err(), "the engine has an error");
        }
        match self.faults.writes_left.load(SeqCst) {
            0 => return Err(io::ErrorKind::StorageFull.into()),
            1.. => drop(self.faults.writes_left.fetch_sub(1, SeqCst)),
            _ => {}
        }
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}

struct FaultyFile {
    path: PathBuf,
    faults: Arc<Faults>,
}

impl FaultyFile {
    fn database(&self) -> Result<redb::Database, String> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let file: File = options.open(&self.path).map_err(|e| e.to_string())?;
        let file = FileBackend::new(file).map_err(|e| e.to_string())?;
        let faults = self.faults.clone();
        Builder::new()
            .create_with_backend(Faulty { file, faults })
            .map_err(|e| e.to_string())
    }
}

impl Origin for FaultyFile {
    fn open(&self) -> Result<Opened, String> {
        if self.faults.no_open.load(SeqCst) {
            return Err("it is out of reach".into());
        }
        self.faults.is_opening.store(true, SeqCst);
        let opened = self.database().and_then(open::opened);
        self.faults.is_opening.store(false, SeqCst);
        opened
    }

    fn has_room(&self) -> io::Result<()> {
        if self.faults.no_room.load(SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

/// A store on a file with faults, and what it has acknowledged.
struct Bench {
    store: RedbStore,
    faults: Arc<Faults>,
    peer: PeerNo,
    acknowledged: Vec<Resource>,
    metrics: StoreMetrics,
    directory: TempDir,
    files: u32,
}

impl Bench {
    async fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let faults = Arc::new(Faults {
            writes_left: AtomicI64::new(-1),
            room: AtomicU64::new(u64::MAX),
            no_sync: AtomicBool::new(false),
            no_read: AtomicBool::new(false),
            no_open: AtomicBool::new(false),
            no_room: AtomicBool::new(false),
            panics: AtomicU64::new(0),
            panics_in_opening: AtomicBool::new(true),
            is_opening: AtomicBool::new(false),
            panics_at_terms: AtomicBool::new(false),
            warming_reads: AtomicU64::new(0),
        });
        let origin = FaultyFile {
            path: directory.path().join("locator.redb"),
            faults: faults.clone(),
        };
        open::fill(&origin.database().expect("is made")).expect("is filled");
        let metrics = StoreMetrics::default();
        let opened = origin.open().expect("opens");
        let store = RedbStore::start(opened, Box::new(origin), metrics.clone()).expect("starts");
        let peer = store.register(row(1)).await.expect("registers").peer;
        Self {
            store,
            faults,
            peer,
            acknowledged: Vec::new(),
            metrics,
            directory,
            files: 0,
        }
    }

    /// Announces `count` further files in one change.
    async fn announce(&mut self, count: u32) -> Result<u64, StoreError> {
        let files: Vec<_> = (self.files..self.files + count)
            .map(|n| file(&format!("some folder/file {n}"), &n.to_string()))
            .collect();
        self.files += count;
        let change = announce(&files.iter().collect::<Vec<_>>());
        let announced = self.store.announce(self.peer, [1; 32], change).await?;
        self.acknowledged.extend(files);
        Ok(announced)
    }

    /// Announces until it is refused, which it must be.
    async fn fail(&mut self) -> StoreError {
        for _ in 0..1_000 {
            if let Err(fault) = self.announce(50).await {
                return fault;
            }
        }
        panic!("never refused");
    }

    /// Waits until `check` holds of the fault.
    async fn until(&self, what: &str, check: impl Fn(Option<StoreError>) -> bool) {
        let waiting = async {
            while !check(self.store.fault()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(20), waiting).await;
        assert!(waited.is_ok(), "never {what}: {:?}", self.store.fault());
    }

    /// Waits until more was read beside serving.
    async fn until_warming_reads_beyond(&self, count: u64) -> Result<(), Elapsed> {
        let waiting = async {
            while self.faults.warming_reads.load(SeqCst) <= count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waiting).await
    }

    /// All that was acknowledged is found in `store`.
    async fn check(&self, store: &RedbStore) {
        for file in &self.acknowledged {
            let key = Key::Name(file.name.clone());
            let found = store.find(&key, &ALL).await.expect("finds");
            assert_eq!(found.len(), 1, "{}", file.name);
            assert_eq!(found[0].resource, *file);
        }
        let records = store.counts().records;
        // What was answered with an error may be there or not.
        assert!(records >= self.acknowledged.len() as u64, "{records}");
        let fingerprints = store.register(row(1)).await.expect("registers");
        assert_eq!(fingerprints.fingerprints.records(), records);
    }

    /// It works again, and has everything, before and after it is closed.
    async fn ends_well(mut self) {
        self.until("works again", |fault| fault.is_none()).await;
        assert_eq!(self.metrics.failing.get(), 0);
        self.announce(100).await.expect("announces again");
        self.check(&self.store).await;
        self.store.close().await;
        let path = self.directory.path().join("locator.redb");
        let again = RedbStore::open(&path, StoreMetrics::default()).expect("opens");
        self.check(&again).await;
    }
}

#[tokio::test]
async fn a_full_disk_refuses_changes_only_while_it_is_full() {
    let mut bench = Bench::new().await;
    bench.announce(300).await.expect("announces");
    bench.faults.no_room.store(true, SeqCst);
    let file = bench.directory.path().join("locator.redb");
    let length = file.metadata().expect("is there").len();
    bench.faults.room.store(length, SeqCst);
    let fault = bench.fail().await;
    assert!(matches!(fault, StoreError::DiskFull(_)), "{fault}");
    assert_eq!(bench.metrics.failing.get(), 1);
    bench
        .until("says why", |fault| {
            matches!(fault, Some(StoreError::DiskFull(_)))
        })
        .await;
    let before = bench.acknowledged.len() as u64;
    for _ in 0..3 {
        let fault = bench.announce(1).await.expect_err("still refused");
        assert!(matches!(fault, StoreError::DiskFull(_)), "{fault}");
    }
    // Lookups do not need the room.
    let key = Key::Name(bench.acknowledged[0].name.clone());
    let found = bench.store.find(&key, &ALL).await.expect("finds");
    assert_eq!(found.len(), 1);
    assert!(bench.store.counts().records >= before);
    bench.faults.heal();
    bench.ends_well().await;
}

#[tokio::test]
async fn every_write_of_a_commit_may_be_the_one_that_fails() {
    for writes in 0..24 {
        let mut bench = Bench::new().await;
        bench.announce(60).await.expect("announces");
        bench.faults.writes_left.store(writes, SeqCst);
        let fault = bench.fail().await;
        assert!(
            matches!(fault, StoreError::DiskFull(_)),
            "{writes}: {fault}"
        );
        bench.faults.heal();
        bench.ends_well().await;
    }
}

#[tokio::test]
async fn a_failed_sync_and_a_file_out_of_reach_are_survived() {
    let mut bench = Bench::new().await;
    bench.announce(10).await.expect("announces");
    bench.faults.no_open.store(true, SeqCst);
    bench.faults.no_sync.store(true, SeqCst);
    let fault = bench.fail().await;
    assert!(fault.to_string().contains("does not sync"), "{fault}");
    bench
        .until("is told of the reopening", |fault| {
            fault.is_some_and(|fault| fault.to_string().contains("out of reach"))
        })
        .await;
    let key = Key::Name(bench.acknowledged[0].name.clone());
    let unread = bench.store.find(&key, &ALL).await.expect_err("no file");
    assert!(unread.is_fault(), "{unread}");
    assert_eq!(bench.store.counts().records, 10, "the last that was known");
    bench.faults.heal();
    bench.ends_well().await;
}

#[tokio::test]
async fn readers_alone_bring_a_failed_engine_back() {
    let mut bench = Bench::new().await;
    bench.announce(2_000).await.expect("announces");
    // An engine that has nothing in its cache.
    bench.faults.writes_left.store(0, SeqCst);
    bench.fail().await;
    bench.faults.heal();
    bench.until("works again", |fault| fault.is_none()).await;
    bench.faults.no_read.store(true, SeqCst);
    let keys = bench.acknowledged.iter().map(|f| Key::Name(f.name.clone()));
    let mut failed = 0;
    for key in keys {
        failed += u32::from(bench.store.find(&key, &ALL).await.is_err());
    }
    assert!(failed > 0, "all was in the cache");
    bench.until("is noticed", |fault| fault.is_some()).await;
    bench.faults.heal();
    bench.ends_well().await;
}

#[tokio::test]
async fn a_panic_of_the_writer_is_a_fault_that_passes() {
    let mut bench = Bench::new().await;
    bench.announce(2_000).await.expect("announces");
    for round in 0..3 {
        // The engine is opened again with nothing in its cache: so its terms are read.
        match round {
            1 => bench.faults.panics_at_terms.store(true, SeqCst),
            _ => bench.faults.panics.store(1, SeqCst),
        }
        let fault = bench.announce(2_000).await.expect_err("panics");
        assert!(fault.to_string().contains("panic"), "{round}: {fault}");
        bench.until("works again", |fault| fault.is_none()).await;
        bench.announce(10).await.expect("announces again");
    }
    bench.ends_well().await;
}

#[tokio::test]
async fn a_panic_that_repeats_while_it_is_tried_again_passes_as_well() {
    for (writes, in_opening) in [(3, true), (3, false), (6, true), (6, false)] {
        let mut bench = Bench::new().await;
        bench.announce(60).await.expect("announces");
        bench.faults.panics_in_opening.store(in_opening, SeqCst);
        bench.faults.panics.store(writes, SeqCst);
        let fault = bench.announce(60).await.expect_err("panics");
        assert!(fault.to_string().contains("panic"), "{writes}: {fault}");
        bench.until("works again", |fault| fault.is_none()).await;
        assert_eq!(
            bench.faults.panics.load(SeqCst),
            0,
            "{writes}: none is left"
        );
        bench.ends_well().await;
    }
}

#[tokio::test]
async fn a_store_that_was_opened_again_is_read_beforehand_again() {
    let mut bench = Bench::new().await;
    bench.announce(5_000).await.expect("announces");
    bench.store.warm_up();
    for round in 0..3 {
        let before = bench.faults.warming_reads.load(SeqCst);
        bench.faults.writes_left.store(0, SeqCst);
        bench.fail().await;
        bench.faults.heal();
        bench.until("works again", |fault| fault.is_none()).await;
        let reads = bench.until_warming_reads_beyond(before + 20);
        assert!(reads.await.is_ok(), "nothing is read in round {round}");
    }
    bench.ends_well().await;
}

#[tokio::test]
async fn a_store_that_fails_can_be_closed() {
    let mut bench = Bench::new().await;
    bench.faults.writes_left.store(0, SeqCst);
    bench.fail().await;
    let closing = tokio::time::timeout(Duration::from_secs(10), bench.store.close());
    assert!(closing.await.is_ok(), "closes in time");
    let closed = bench.announce(1).await.expect_err("is closed");
    assert_eq!(closed, StoreError::Closed);
}
