//! [`Reader`]: a range of a content, read while it is fetched.
//!
//! Invariant: it gives verified bytes only, in order, and wants nothing that it has passed; while
//! it lives its job goes on.

use std::{fs::File, io, ops::Range, sync::Arc};

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use tokio::sync::watch;

use super::{Job, Place, State};
use crate::{
    content::read,
    download::{JobError, picker::Want},
};

/// Reads a range of a content while it is fetched; wanting ends when it is dropped.
#[derive(Debug)]
pub struct Reader {
    job: Arc<Job>,
    id: u64,
    bytes: Range<u64>,
    want: Want,
    changed: watch::Receiver<()>,
}

impl Reader {
    /// The reader `id` of `job`, which has it in its books.
    pub(super) fn new(
        job: Arc<Job>,
        id: u64,
        bytes: Range<u64>,
        want: Want,
        changed: watch::Receiver<()>,
    ) -> Self {
        Self {
            job,
            id,
            bytes,
            want,
            changed,
        }
    }

    /// Waits until the first piece of the range is verified; one that does not read in order, until
    /// any piece is.
    pub async fn ready(&mut self) -> Result<(), JobError> {
        if self.want.pieces.is_empty() {
            return Ok(());
        }
        if self.want.in_order {
            return self.wait_for(self.want.pieces.start).await;
        }
        loop {
            self.changed.borrow_and_update();
            {
                let state = self.job.state();
                if state.picker.verified_count() > 0 && self.job.place.get().is_some() {
                    return Ok(());
                }
                if let Some(Err(error)) = &state.outcome {
                    return Err(error.clone());
                }
            }
            let _ = self.changed.changed().await;
        }
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
        loop {
            self.changed.borrow_and_update();
            {
                let mut state = self.job.state();
                if state.picker.has(piece) && self.job.place.get().is_some() {
                    return Ok(());
                }
                if let Some(Err(error)) = &state.outcome {
                    return Err(error.clone());
                }
                if let Some(want) = state.readers.get_mut(&self.id) {
                    want.pieces.start = piece.max(want.pieces.start);
                }
            }
            let _ = self.changed.changed().await;
        }
    }

    /// Says that it is at `piece`, which moves what is fetched ahead of it.
    fn is_at(&mut self, piece: u32) {
        if self.want.pieces.start == piece {
            return;
        }
        self.want.pieces.start = piece;
        if let Some(want) = self.job.state().readers.get_mut(&self.id) {
            want.pieces.start = piece;
        }
        self.job.changed.send_replace(());
    }

    /// Passes the next bytes as soon as they are verified, as many as are read at once.
    pub async fn next_range(&mut self) -> Result<Option<Range<u64>>, JobError> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let layout = self.job.layout;
        let chunk = read::first_chunk(&self.bytes);
        let mut pieces = layout.pieces_in(&chunk);
        self.is_at(pieces.start);
        self.wait_for(pieces.start).await?;
        let is_missing = |state: &State, piece| !state.picker.has(piece);
        let state = self.job.state();
        let end = match pieces.find(|&piece| is_missing(&state, piece)) {
            Some(missing) => layout.range(missing).start,
            None => chunk.end,
        };
        drop(state);
        self.bytes.start = end;
        Ok(Some(chunk.start..end))
    }

    async fn next(&mut self) -> Result<Option<Bytes>, JobError> {
        let Some(range) = self.next_range().await? else {
            return Ok(None);
        };
        self.read(range).await.map(Some)
    }

    /// The file that has the verified bytes, when that is not in memory.
    pub fn file(&self) -> Option<Arc<File>> {
        self.job.file()
    }

    /// Whether its owner can write to the file by now.
    pub fn may_be_named(&self) -> bool {
        let place = self.job.place.get();
        matches!(place, Some(Place::Part(part)) if part.naming.has_begun())
    }

    /// Whether nobody did.
    pub fn is_unchanged(&self, file: &File) -> io::Result<bool> {
        self.job.is_unchanged(file)
    }

    /// The bytes of `range`, which was passed.
    pub async fn read(&self, range: Range<u64>) -> Result<Bytes, JobError> {
        self.job.clone().read_verified(range).await
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
