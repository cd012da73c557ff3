//! Downloads that clients asked the peer to make: their ids, how they do, how they ended.
//!
//! Bounded: the oldest that ended is forgotten for a new one; when all run, there is no new one.
//! They survive a restart (`kept`): what ran then is unfinished, and is run again.

mod kept;

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{sync::Notify, task::spawn_blocking, time::sleep};
use vecino_rest::{
    Digest, Problem,
    body::{Download, DownloadState},
};

use self::kept::{Kept, KeptRecord};
use super::{
    choice::{From, Wanted},
    job::Job,
};

/// Downloads remembered.
const MAX_RECORDS: usize = 1000;
/// They are written at most so often.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// A download that is to be made.
#[derive(Debug, Clone)]
pub struct Task {
    /// Its record as it begins.
    pub record: Download,
    /// What was asked for.
    pub wanted: Wanted,
    /// Tells that it is to be cancelled.
    pub cancel: Arc<Notify>,
}

#[derive(Debug)]
struct Record {
    body: Download,
    wanted: Wanted,
    job: Option<Arc<Job>>,
    cancel: Arc<Notify>,
}

impl Record {
    fn new(body: Download, wanted: Wanted) -> Self {
        Self {
            body,
            wanted,
            job: None,
            cancel: Arc::new(Notify::new()),
        }
    }

    fn to_task(&self) -> Task {
        Task {
            record: self.body.clone(),
            wanted: self.wanted.clone(),
            cancel: self.cancel.clone(),
        }
    }

    fn is_over(&self) -> bool {
        !matches!(
            self.body.state,
            DownloadState::Locating | DownloadState::Running
        )
    }

    fn to_body(&self) -> Download {
        let mut body = self.body.clone();
        if let Some(job) = &self.job {
            body.verified_bytes = job.verified_bytes();
        }
        body
    }
}

#[derive(Debug, Default)]
struct Inner {
    records: BTreeMap<u64, Record>,
    last_id: u64,
    /// Ids of those that ran when the peer ended.
    unfinished: VecDeque<u64>,
}

/// See the module.
#[derive(Debug)]
pub struct Records {
    inner: Mutex<Inner>,
    path: PathBuf,
    changed: Notify,
    /// Held while they are written, so that the latest is written last.
    saving: Mutex<()>,
}

impl Records {
    /// Those that lie in `data_dir`. Blocks.
    pub fn open(data_dir: &Path) -> Self {
        let path = kept::path(data_dir);
        Self {
            inner: Mutex::new(Inner::of(kept::load(&path))),
            path,
            changed: Notify::new(),
            saving: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes them when they change, at most once in `SAVE_EVERY`; until the process ends.
    pub async fn save_changes(self: Arc<Self>) {
        let mut is_failing = false;
        loop {
            self.changed.notified().await;
            let records = self.clone();
            let saved = spawn_blocking(move || records.save()).await;
            let failed = saved
                .unwrap_or_else(|error| Err(io::Error::other(error)))
                .err();
            if let Some(error) = &failed {
                // Once for each time that the disk fails; it is tried on.
                if !is_failing {
                    log::warn!("{}: cannot be written: {error}", self.path.display());
                }
                self.changed.notify_one();
            }
            is_failing = failed.is_some();
            sleep(SAVE_EVERY).await;
        }
    }

    /// Writes them before it returns: who is told of a change finds it again after a crash. Where
    /// that fails it is tried on, and said so, by [`save_changes`](Self::save_changes).
    pub async fn save_now(self: &Arc<Self>) {
        let records = self.clone();
        let _ = spawn_blocking(move || records.save()).await;
    }

    /// Writes them. Blocks.
    pub fn save(&self) -> io::Result<()> {
        let _saving = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = self.lock().to_kept();
        kept::save(&self.path, &kept)
    }

    /// The next of those that ran when the peer ended, to be run again.
    pub fn next_unfinished(&self) -> Option<Task> {
        let mut inner = self.lock();
        loop {
            let id = inner.unfinished.pop_front()?;
            // It may have been cancelled, or forgotten.
            if let Some(record) = inner.records.get(&id).filter(|record| !record.is_over()) {
                return Some(record.to_task());
            }
        }
    }

    /// A new record of what is `wanted`; `None` when there are too many.
    pub fn begin(&self, wanted: Wanted) -> Option<Task> {
        let mut inner = self.lock();
        if inner.records.len() >= MAX_RECORDS {
            let oldest = inner
                .records
                .iter()
                .find(|(_, record)| record.is_over())
                .map(|(id, _)| *id)?;
            inner.records.remove(&oldest);
        }
        inner.last_id += 1;
        let id = inner.last_id;
        let body = Download {
            id: id.to_string(),
            name: wanted.name.clone(),
            digest: None,
            size: None,
            state: DownloadState::Locating,
            verified_bytes: 0,
            started_ms: now_ms(),
            finished_ms: None,
            error: None,
        };
        let record = Record::new(body, wanted);
        let task = record.to_task();
        inner.records.insert(id, record);
        self.changed.notify_one();
        Some(task)
    }

    /// The record `id` is fetched by `job`.
    pub fn runs(&self, id: &str, job: &Arc<Job>) {
        let mut inner = self.lock();
        let Some(record) = id
            .parse()
            .ok()
            .and_then(|id: u64| inner.records.get_mut(&id))
        else {
            return;
        };
        if record.is_over() {
            return;
        }
        record.body.state = DownloadState::Running;
        record.body.digest = Some(job.digest);
        record.body.size = Some(job.layout.size());
        record.job = Some(job.clone());
        self.changed.notify_one();
    }

    /// The record `id` is of a content that is held already.
    pub fn held(&self, id: &str, digest: Digest, size: u64) {
        let mut inner = self.lock();
        let record = id
            .parse()
            .ok()
            .and_then(|id: u64| inner.records.get_mut(&id));
        if let Some(record) = record {
            record.body.digest = Some(digest);
            record.body.size = Some(size);
            record.body.verified_bytes = size;
        }
    }

    /// The record `id` ended.
    pub fn ended(&self, id: &str, outcome: Result<(), Problem>) {
        let mut inner = self.lock();
        let Some(record) = id
            .parse()
            .ok()
            .and_then(|id: u64| inner.records.get_mut(&id))
        else {
            return;
        };
        record.body = record.to_body();
        record.job = None;
        record.body.finished_ms = Some(now_ms());
        match outcome {
            _ if record.body.state == DownloadState::Cancelled => {}
            Ok(()) => record.body.state = DownloadState::Done,
            Err(problem) => {
                record.body.state = DownloadState::Failed;
                record.body.error = Some(problem);
            }
        }
        self.changed.notify_one();
    }

    /// Cancels the record `id`, or forgets it when it is over; false when there is none.
    pub fn cancel(&self, id: &str) -> bool {
        let mut inner = self.lock();
        let Ok(id) = id.parse::<u64>() else {
            return false;
        };
        self.changed.notify_one();
        match inner.records.get_mut(&id) {
            None => false,
            Some(record) if record.is_over() => inner.records.remove(&id).is_some(),
            Some(record) => {
                record.body.state = DownloadState::Cancelled;
                record.cancel.notify_one();
                true
            }
        }
    }

    /// The record `id`.
    pub fn get(&self, id: &str) -> Option<Download> {
        self.lock()
            .records
            .get(&id.parse().ok()?)
            .map(Record::to_body)
    }

    /// Up to `limit` records after `after`, oldest first, and the id of the last when there are
    /// more.
    pub fn list(&self, after: u64, limit: usize) -> (Vec<Download>, Option<u64>) {
        let inner = self.lock();
        let mut rest = inner.records.range(after.saturating_add(1)..);
        let page: Vec<_> = rest.by_ref().take(limit).collect();
        let last = page.last().map(|(id, _)| **id);
        let bodies = page
            .into_iter()
            .map(|(_, record)| record.to_body())
            .collect();
        (bodies, last.filter(|_| rest.next().is_some()))
    }
}

impl Inner {
    /// What was kept before; what ran then is unfinished now.
    fn of(kept: Kept) -> Self {
        let mut inner = Self {
            last_id: kept.last_id,
            ..Self::default()
        };
        let surplus = kept.records.len().saturating_sub(MAX_RECORDS);
        for record in kept.records.into_iter().skip(surplus) {
            let mut body = record.download;
            let (Ok(id), Ok(from)) = (
                body.id.parse::<u64>(),
                record.from.as_deref().map(From::parse).transpose(),
            ) else {
                continue;
            };
            let wanted = Wanted {
                name: body.name.clone(),
                // It goes on with the content that it began.
                digest: record.digest.or(body.digest),
                from,
            };
            if body.state == DownloadState::Running {
                body.state = DownloadState::Locating;
            }
            let record = Record::new(body, wanted);
            if !record.is_over() {
                inner.unfinished.push_back(id);
            }
            inner.last_id = inner.last_id.max(id);
            inner.records.insert(id, record);
        }
        inner
    }

    fn to_kept(&self) -> Kept {
        let records = self.records.values().map(|record| {
            let mut download = record.to_body();
            // Who held which variant then is of no use later, and long.
            if let Some(problem) = &mut download.error {
                for variant in &mut problem.variants {
                    variant.providers.clear();
                }
            }
            KeptRecord {
                download,
                digest: record.wanted.digest,
                from: record.wanted.from.as_ref().map(ToString::to_string),
            }
        });
        Kept {
            last_id: self.last_id,
            records: records.collect(),
        }
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(name: &str) -> Wanted {
        Wanted {
            name: name.parse().expect("valid"),
            digest: None,
            from: None,
        }
    }

    fn begin(records: &Records, name: &str) -> Option<String> {
        records.begin(wanted(name)).map(|task| task.record.id)
    }

    #[test]
    fn records_are_listed_cancelled_and_forgotten() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let records = Records::open(dir.path());
        let ids: Vec<_> = (0..3)
            .map(|_| begin(&records, "a").expect("room"))
            .collect();
        let (page, more) = records.list(0, 2);
        assert_eq!((page.len(), more), (2, Some(2)));
        assert_eq!(records.list(2, 2).1, None);
        records.ended(&ids[0], Ok(()));
        assert_eq!(
            records.get(&ids[0]).expect("there").state,
            DownloadState::Done
        );
        assert!(records.cancel(&ids[0]) && records.get(&ids[0]).is_none());
        assert!(records.cancel(&ids[1]));
        records.ended(&ids[1], Ok(()));
        assert_eq!(
            records.get(&ids[1]).expect("there").state,
            DownloadState::Cancelled
        );
        assert!(!records.cancel("99") && !records.cancel("x"));
    }

    #[test]
    fn the_oldest_that_ended_makes_room() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let records = Records::open(dir.path());
        for _ in 0..MAX_RECORDS {
            assert!(begin(&records, "a").is_some());
        }
        assert!(begin(&records, "a").is_none(), "all run");
        records.ended("7", Ok(()));
        assert!(begin(&records, "a").is_some());
        assert!(records.get("7").is_none() && records.get("1").is_some());
    }

    #[test]
    fn what_ran_is_unfinished_after_a_restart_and_ids_go_on() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let records = Records::open(dir.path());
        let named = Wanted {
            digest: Some(Digest::of(b"b")),
            from: Some(From::parse("http://10.0.0.1:80").expect("valid")),
            ..wanted("b")
        };
        begin(&records, "a").expect("room");
        records.begin(named.clone()).expect("room");
        begin(&records, "c").expect("room");
        begin(&records, "d").expect("room");
        records.held("1", Digest::of(b"a"), 1);
        records.ended("1", Ok(()));
        assert!(records.cancel("3"));
        records.save().expect("saved");
        let before = records.list(0, 9).0;

        let records = Records::open(dir.path());
        assert_eq!(records.list(0, 9).0, before);
        let task = records.next_unfinished().expect("b ran");
        assert_eq!(task.record.id, "2");
        assert_eq!(task.wanted.query(), named.query());
        assert_eq!(task.wanted.digest, named.digest);
        assert!(records.cancel("4"));
        assert!(records.next_unfinished().is_none());
        assert_eq!(begin(&records, "e").as_deref(), Some("5"));
    }

    #[test]
    fn more_than_there_may_be_are_cut() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let records = Records::open(dir.path());
        begin(&records, "a").expect("room");
        let mut kept = records.lock().to_kept();
        let one = serde_json::to_string(&kept.records[0]).expect("plain data");
        kept.records = (1..=MAX_RECORDS + 5)
            .map(|id| {
                let mut record: KeptRecord = serde_json::from_str(&one).expect("the same");
                record.download.id = id.to_string();
                record
            })
            .collect();
        kept::save(&records.path, &kept).expect("saved");
        let records = Records::open(dir.path());
        assert_eq!(records.lock().records.len(), MAX_RECORDS);
        assert!(records.get("5").is_none() && records.get("6").is_some());
    }
}
