//! Downloads that clients asked the peer to make: their ids, how they do, how they ended.
//!
//! Bounded: the oldest that ended is forgotten for a new one; when all run, there is no new one.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::sync::Notify;
use vecino_rest::{
    Digest, Name, Problem,
    body::{Download, DownloadState},
};

use super::job::Job;

/// Downloads remembered.
const MAX_RECORDS: usize = 1000;

#[derive(Debug)]
struct Record {
    body: Download,
    job: Option<Arc<Job>>,
    cancel: Arc<Notify>,
}

impl Record {
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
}

/// See the module.
#[derive(Debug, Default)]
pub struct Records(Mutex<Inner>);

impl Records {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new record, and what tells that it is to be cancelled; `None` when there are too many.
    pub fn begin(&self, name: Name) -> Option<(Download, Arc<Notify>)> {
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
            name,
            digest: None,
            size: None,
            state: DownloadState::Locating,
            verified_bytes: 0,
            started_ms: now_ms(),
            finished_ms: None,
            error: None,
        };
        let cancel = Arc::new(Notify::new());
        inner.records.insert(
            id,
            Record {
                body: body.clone(),
                job: None,
                cancel: cancel.clone(),
            },
        );
        Some((body, cancel))
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
    }

    /// Cancels the record `id`, or forgets it when it is over; false when there is none.
    pub fn cancel(&self, id: &str) -> bool {
        let mut inner = self.lock();
        let Ok(id) = id.parse::<u64>() else {
            return false;
        };
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

fn now_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_listed_cancelled_and_forgotten() {
        let records = Records::default();
        let name: Name = "a".parse().expect("valid");
        let ids: Vec<_> = (0..3)
            .map(|_| records.begin(name.clone()).expect("room").0.id)
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
        let records = Records::default();
        let name: Name = "a".parse().expect("valid");
        for _ in 0..MAX_RECORDS {
            assert!(records.begin(name.clone()).is_some());
        }
        assert!(records.begin(name.clone()).is_none(), "all run");
        records.ended("7", Ok(()));
        assert!(records.begin(name).is_some());
        assert!(records.get("7").is_none() && records.get("1").is_some());
    }
}
