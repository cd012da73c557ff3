//! Downloads: what a located name means ([`choice`]), whom to fetch it from ([`roster`],
//! [`provider_url`]), which piece from whom ([`picker`], [`bits`]), the fetching itself
//! ([`source`]), what is on the disk so far ([`parts`]) and the state machine that joins them
//! ([`job`]).
//!
//! What is held already is kept under one more name by [`also`].
//!
//! [`Downloads`] knows the running jobs, one a content, and the downloads that clients asked the
//! peer to make for them. A job is shared by everybody who wants its content.

pub mod also;
pub mod bits;
pub mod choice;
pub mod fetch;
pub mod job;
pub mod parts;
pub mod picker;
pub mod provider_url;
pub mod record;
pub mod roster;
pub mod source;

use std::{
    collections::HashMap,
    io,
    ops::Range,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Semaphore;
use vecino_rest::{Digest, Name};

use self::{
    choice::Claim,
    job::{Job, Reader},
    parts::Parts,
};
use crate::{config::size::roughly, content::StoreError};

/// Contents fetched at the same time.
const MAX_JOBS: usize = 256;

/// Why a download cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// No provider could deliver.
    #[error("{0}")]
    Providers(String),
    /// Providers delivered, and it was wrong.
    #[error("{0}")]
    Verification(String),
    /// This peer's disk is full.
    #[error("no room left on this peer's disk")]
    NoSpace,
    /// It would fill this peer's disk.
    #[error(
        "{needed} bytes ({}) are to be fetched, and this peer has room for {free} ({})",
        roughly(*needed),
        roughly(*free)
    )]
    NoRoom {
        /// Bytes that are wanted and missing.
        needed: u64,
        /// Bytes that may be stored.
        free: u64,
    },
    /// This peer's disk, or a permission.
    #[error("this peer cannot store it: {0}")]
    Storage(String),
    /// Nobody wanted it any more.
    #[error("cancelled")]
    Cancelled,
    /// Too many at once.
    #[error("{MAX_JOBS} downloads run already: try again later")]
    Busy,
    /// The size that providers tell of is beyond all bounds.
    #[error("a content of {0} bytes is larger than anything that can be shared")]
    TooLarge(u64),
}

impl JobError {
    /// What a failing disk means for a download.
    pub fn io(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace,
            _ => Self::Storage(error.to_string()),
        }
    }
}

impl std::convert::From<StoreError> for JobError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NoSpace => Self::NoSpace,
            StoreError::Interrupted => Self::Cancelled,
            other => Self::Storage(other.to_string()),
        }
    }
}

/// Lists of piece hashes that may be coming in at once: each takes up to 70 MB of memory.
const MAX_PIECE_LISTS: usize = 4;

/// The running jobs; see the module.
#[derive(Debug)]
pub struct Downloads {
    /// Bounds how many lists of piece hashes are in memory at once.
    pub piece_lists: Arc<Semaphore>,
    /// What is on the disk so far.
    pub parts: Arc<Parts>,
    /// Bounds what is kept under one more name.
    pub also: also::Also,
    /// By digest and size: providers may disagree on the size, and each claim is tried.
    jobs: Mutex<HashMap<(Digest, u64), Arc<Job>>>,
    /// What clients asked the peer to fetch.
    pub records: Arc<record::Records>,
}

impl Downloads {
    /// None yet, but for the `records` of before; unfinished ones lie in `parts`.
    pub fn new(parts: PathBuf, records: record::Records) -> Self {
        Self {
            piece_lists: Arc::new(Semaphore::new(MAX_PIECE_LISTS)),
            parts: Arc::new(Parts::new(parts)),
            also: also::Also::default(),
            jobs: Mutex::default(),
            records: Arc::new(records),
        }
    }

    /// The job that fetches `digest`, a reader of `bytes` of it, and whether the job is new: then
    /// the caller has to run it.
    pub fn join_or_begin(
        &self,
        digest: Digest,
        name: &Name,
        claim: &Claim,
        bytes: Range<u64>,
        in_order: bool,
    ) -> Result<(Arc<Job>, Reader, bool), JobError> {
        let mut jobs = self.jobs();
        jobs.retain(|_, job| job.outcome().is_none());
        let key = (digest, claim.size);
        if let Some(job) = jobs.get(&key) {
            // `None` when it ended just now.
            if let Some(reader) = job.read(name, bytes.clone(), in_order) {
                return Ok((job.clone(), reader, false));
            }
            jobs.remove(&key);
        }
        if jobs.len() >= MAX_JOBS {
            return Err(JobError::Busy);
        }
        let job = Job::new(digest, name.clone(), claim).ok_or(JobError::TooLarge(claim.size))?;
        let job = Arc::new(job);
        let reader = job.read(name, bytes, in_order).ok_or(JobError::Cancelled)?;
        jobs.insert(key, job.clone());
        Ok((job, reader, true))
    }

    fn jobs(&self) -> MutexGuard<'_, HashMap<(Digest, u64), Arc<Job>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A running job that has verified something of `digest`.
    pub fn job(&self, digest: &Digest) -> Option<Arc<Job>> {
        let jobs = self.jobs();
        let of_digest = jobs.iter().filter(|((of, _), _)| of == digest);
        of_digest
            .map(|(_, job)| job)
            .filter(|job| job.outcome().is_none() && job.verified_bytes() > 0)
            .max_by_key(|job| job.verified_bytes())
            .cloned()
    }

    /// Lets go of `job`, which ended.
    fn ended(&self, job: &Arc<Job>) {
        let mut jobs = self.jobs();
        let key = (job.digest, job.layout.size());
        if jobs.get(&key).is_some_and(|known| Arc::ptr_eq(known, job)) {
            jobs.remove(&key);
        }
    }

    /// How many jobs run.
    pub fn running(&self) -> usize {
        self.jobs()
            .values()
            .filter(|job| job.outcome().is_none())
            .count()
    }
}
