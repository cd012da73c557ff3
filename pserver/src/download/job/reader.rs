//! [`Reader`]: a range of a content, read while it is fetched.
//!
//! Invariant: it gives verified bytes only, in order, and wants nothing that it has passed; while
//! it lives its job goes on.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use tokio::{sync::watch, task::spawn_blocking};

use super::{Job, interrupted};
use crate::{
    content::{read, stamp::Stamp},
    download::JobError,
};

/// Reads a range of a content while it is fetched; wanting ends when it is dropped.
#[derive(Debug)]
pub struct Reader {
    job: Arc<Job>,
    id: u64,
    bytes: Range<u64>,
    wanted: Range<u32>,
    changed: watch::Receiver<()>,
}

impl Reader {
    /// The reader `id` of `job`, which has it in its books.
    pub(super) fn new(
        job: Arc<Job>,
        id: u64,
        bytes: Range<u64>,
        wanted: Range<u32>,
        changed: watch::Receiver<()>,
    ) -> Self {
        Self {
            job,
            id,
            bytes,
            wanted,
            changed,
        }
    }

    /// Waits until the first piece of the range is verified.
    pub async fn ready(&mut self) -> Result<(), JobError> {
        self.wait_for(self.wanted.start).await
    }

    /// Waits until the job ended.
    pub async fn ended(mut self) -> Result<(), JobError> {
        loop {
            if let Some(outcome) = self.job.outcome() {
                return outcome;
            }
            // The job holds the sender for as long as this holds the job.
            let _ = self.changed.changed().await;
        }
    }

    async fn wait_for(&mut self, piece: u32) -> Result<(), JobError> {
        if self.wanted.is_empty() {
            return Ok(());
        }
        loop {
            self.changed.borrow_and_update();
            {
                let mut state = self.job.state();
                if state.have[piece as usize] && self.job.part.get().is_some() {
                    if let Some(wanted) = state.readers.get_mut(&self.id) {
                        wanted.start = piece;
                    }
                    return Ok(());
                }
                if let Some(Err(error)) = &state.outcome {
                    return Err(error.clone());
                }
            }
            let _ = self.changed.changed().await;
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, JobError> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let layout = self.job.layout;
        let piece = layout.piece_at(self.bytes.start);
        self.wait_for(piece).await?;
        let part = self.job.part.get().expect("a piece is verified in a part");
        let end = layout.range(piece).end.min(self.bytes.end);
        let chunk = read::first_chunk(&(self.bytes.start..end));
        let (file, job) = (part.file.clone(), self.job.clone());
        self.bytes.start = chunk.end;
        let read = move || {
            let bytes = read::read_at(&file, chunk)?;
            let now = Stamp::of(&file.metadata()?);
            match job.kept.get() {
                Some(kept) if kept.inode == now.inode && *kept != now => Err(
                    std::io::Error::other("the kept file changed while it was sent"),
                ),
                _ => Ok(bytes),
            }
        };
        let read = spawn_blocking(read).await.map_err(interrupted)?;
        read.map(Some).map_err(JobError::io)
    }

    /// The bytes of the range, each as soon as it is verified.
    pub fn stream(self) -> impl Stream<Item = Result<Bytes, JobError>> {
        stream::unfold(Some(self), async |reader| {
            let mut reader = reader?;
            match reader.next().await {
                Ok(chunk) => Some((Ok(chunk?), Some(reader))),
                Err(error) => Some((Err(error), None)),
            }
        })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.job.state().readers.remove(&self.id);
        self.job.changed.send_replace(());
    }
}
