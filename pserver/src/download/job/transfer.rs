//! One request to one provider: a run of pieces, hashed and written block by block off the event
//! loop while the next block is coming in.
//!
//! Invariant: it holds at most two blocks in memory, one that is coming in and one that is being
//! written, whatever the size of a piece.

use std::{
    cell::Cell,
    future::pending,
    ops::Range,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    sync::Notify,
    task::{JoinHandle, spawn_blocking},
};
use vecino_rest::PeerUrl;

use super::{Job, interrupted};
use crate::{
    content::part::{Finished, Part, PieceWriter},
    download::{
        JobError,
        picker::ProviderNo,
        roster::Fault,
        source::{Incoming, Source},
    },
    welcome::Welcome,
};

/// Hashed and written at once.
const BLOCK: usize = 1 << 20;
/// A provider that takes longer for a piece is left for another; doubled for each time that it
/// failed, so that a link that is slow everywhere still gets there.
const PIECE_WITHIN: Duration = Duration::from_secs(30);
/// ... and has so much longer for each so many bytes.
const BYTES_A_SECOND: u64 = 16 << 10;

/// Why a transfer stopped before its end.
#[derive(Debug)]
pub(super) enum Stop {
    /// The provider did something wrong.
    Fault(Fault),
    /// Nobody wants it any more, or another one was faster.
    Unwanted,
    /// The job cannot go on.
    Job(JobError),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// A request that is under way, seen from its job.
#[derive(Debug)]
pub(super) struct Flight {
    /// Who was asked.
    pub(super) provider: ProviderNo,
    /// For so many pieces from this one on; another one when the provider chose that, or is
    /// expected to.
    pub(super) first: Cell<u32>,
    pub(super) pieces: u32,
    /// What would be as welcome.
    pub(super) welcome: Option<Welcome>,
    /// The piece that is coming in, and since when.
    pub(super) at: Cell<(u32, Instant)>,
    /// When the request began.
    pub(super) began: Instant,
    /// How long the answer took to begin.
    pub(super) delay: Cell<Duration>,
    /// Bytes that came.
    pub(super) received: Cell<u64>,
    /// Bytes of them that were verified first by this.
    pub(super) verified: Cell<u64>,
    /// Tells that it is not wanted any more, as long as its answer has not begun.
    pub(super) withdrawn: Notify,
}

impl Flight {
    /// A request for `run` that begins now.
    pub(super) fn new(provider: ProviderNo, run: Range<u32>, welcome: Option<Welcome>) -> Self {
        let now = Instant::now();
        Self {
            provider,
            at: Cell::new((run.start, now)),
            first: Cell::new(run.start),
            pieces: run.end - run.start,
            welcome,
            began: now,
            delay: Cell::new(Duration::ZERO),
            received: Cell::new(0),
            verified: Cell::new(0),
            withdrawn: Notify::new(),
        }
    }

    /// What it is to bring.
    pub(super) fn run(&self) -> Range<u32> {
        let first = self.first.get();
        first..first + self.pieces
    }

    /// How long the piece that is coming in takes already.
    pub(super) fn takes(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.at.get().1)
    }

    /// Whether it still waits for its answer.
    pub(super) fn is_waiting(&self) -> bool {
        self.delay.get().is_zero()
    }
}

/// What a transfer works with.
pub(super) struct Transfer<'a> {
    pub(super) job: &'a Job,
    pub(super) source: &'a Source,
    pub(super) part: &'a Arc<Part>,
    /// Whether the content is to be kept, so that it is synced.
    pub(super) keeps: bool,
    pub(super) url: PeerUrl,
    /// How often the provider failed in a row.
    pub(super) failures: u32,
    pub(super) flight: &'a Flight,
    /// Is told of each piece that this was the first to verify.
    pub(super) delivered: &'a dyn Fn(u32),
    /// Gives the piece that this was to bring to another request that was to bring that one; whether
    /// there is such a one.
    pub(super) swaps: &'a dyn Fn(u32) -> bool,
}

/// What a block that was written came to.
enum Written {
    /// More of the piece is to come.
    Goes(Box<PieceWriter>),
    /// The piece is complete.
    Ended(u32, Finished),
    /// The piece was verified before, by another transfer.
    Late(u32),
}

type Writing = JoinHandle<std::io::Result<Written>>;

impl Transfer<'_> {
    /// Fetches the run, admitting piece after piece.
    pub(super) async fn run(&self) -> Result<(), Stop> {
        let layout = self.job.layout;
        let (digest, welcome) = (&self.job.digest, self.flight.welcome.as_ref());
        let run = self.flight.run();
        let asked = self
            .source
            .one_of(&self.url, digest, &layout, &run, welcome);
        let (mut incoming, sent) = tokio::select! {
            answer = asked => answer?,
            () = self.flight.withdrawn.notified() => return Err(Stop::Unwanted),
        };
        self.flight.delay.set(self.flight.began.elapsed());
        let run = self.comes(sent)?;
        let mut rest = Bytes::new();
        let mut writing: Option<Writing> = None;
        for piece in run {
            self.flight.at.set((piece, Instant::now()));
            let range = layout.range(piece);
            let within = time_for(range.end - range.start) * 2u32.pow(self.failures.min(8));
            let held = incoming.held.clone();
            let fetched = self.piece(&mut incoming, &mut rest, &mut writing, piece);
            let fetched = held.within(within, fetched).await;
            let fetched =
                fetched.unwrap_or_else(|| Err(Stop::Fault(Fault::Failed("too slow".to_owned()))));
            if let Err(stop) = fetched {
                // A piece that is complete is right or wrong whatever became of the next one.
                self.settle(&mut writing).await?;
                return Err(stop);
            }
        }
        // More bytes than were asked for are left where they are, with the connection.
        self.settle(&mut writing).await.map(|_| ())
    }

    /// The provider chose to send `first`: what comes in.
    fn comes(&self, first: u32) -> Result<Range<u32>, Stop> {
        let (expected, provider) = (self.flight.first.get(), self.flight.provider);
        if first != expected {
            let moved = self.job.state().picker.moved(expected, first, provider);
            if !moved && !(self.swaps)(first) {
                return Err(Stop::Unwanted);
            }
            self.flight.first.set(first);
            self.job.told_pieces();
        }
        Ok(self.flight.run())
    }

    /// Receives one piece and hands it on block by block; what came beyond it is left in `rest`.
    async fn piece(
        &self,
        incoming: &mut Incoming,
        rest: &mut Bytes,
        writing: &mut Option<Writing>,
        piece: u32,
    ) -> Result<(), Stop> {
        let range = self.job.layout.range(piece);
        let mut left = range.end - range.start;
        let mut writer = Some(Box::new(self.part.piece(piece)));
        let mut block = Vec::new();
        let mut length = 0;
        while left > 0 {
            if rest.is_empty() {
                if !self.job.is_wanted() || self.job.has(piece) {
                    return Err(Stop::Unwanted);
                }
                let mut next = pin!(incoming.next());
                *rest = loop {
                    tokio::select! {
                        more = &mut next => break more?.ok_or(Fault::Short)?,
                        // Others wait for it: it is told of before more has come.
                        written = self.written(writing) => writer = written?.or(writer),
                    }
                };
                let received = self.flight.received.get() + rest.len() as u64;
                self.flight.received.set(received);
            }
            let wanted = usize::try_from(left).unwrap_or(usize::MAX);
            let taken = rest.split_to(rest.len().min(wanted));
            left -= taken.len() as u64;
            length += taken.len();
            block.push(taken);
            if length >= BLOCK || left == 0 {
                let goes_on = self.settle(writing).await?;
                let Some(writer) = writer.take().or(goes_on) else {
                    return Err(Stop::Unwanted);
                };
                let full = std::mem::take(&mut block);
                length = 0;
                *writing = Some(spawn_blocking(move || {
                    write(writer, &full, piece, left == 0)
                }));
            }
        }
        Ok(())
    }

    /// Waits for the block that is being written; the writer when its piece goes on.
    async fn settle(
        &self,
        writing: &mut Option<Writing>,
    ) -> Result<Option<Box<PieceWriter>>, Stop> {
        if writing.is_none() {
            return Ok(None);
        }
        self.written(writing).await
    }

    /// The same, but without end when none is being written.
    async fn written(
        &self,
        writing: &mut Option<Writing>,
    ) -> Result<Option<Box<PieceWriter>>, Stop> {
        let Some(block) = writing else {
            return pending().await;
        };
        let written = block.await;
        *writing = None;
        let written = written
            .map_err(|error| Stop::Job(interrupted(error)))?
            .map_err(|error| Stop::Job(JobError::io(error)))?;
        match written {
            Written::Goes(writer) => Ok(Some(writer)),
            Written::Late(piece) => {
                let provider = self.flight.provider;
                let is_by_another =
                    (self.job.state().picker.senders(piece)).any(|no| no != provider);
                // Then by one of a job of before, which this one does not know of.
                if !is_by_another {
                    self.job.verified(piece);
                }
                Err(Stop::Unwanted)
            }
            // Nobody is to blame for certain; it is asked for again.
            Written::Ended(_, Finished::Garbled) => Err(Stop::Unwanted),
            Written::Ended(piece, Finished::Verified) => {
                let range = self.job.layout.range(piece);
                // The first one stays.
                let _ = self.job.source.set(self.url.clone());
                if self.job.verified(piece) {
                    // Who reads in order has the bytes before they are synced, and would wait for it.
                    if self.keeps
                        && !self.job.is_read_in_order()
                        && self.part.is_to_be_synced(piece)
                    {
                        let part = self.part.clone();
                        spawn_blocking(move || part.sync());
                    }
                    let bytes = range.end - range.start;
                    self.flight.verified.set(self.flight.verified.get() + bytes);
                    (self.delivered)(piece);
                }
                Ok(None)
            }
            Written::Ended(piece, Finished::Wrong) => Err(Stop::Fault(Fault::Wrong(format!(
                "piece {piece} is not what it should be"
            )))),
        }
    }
}

/// How long so many bytes may take.
pub(super) fn time_for(bytes: u64) -> Duration {
    PIECE_WITHIN + Duration::from_secs(bytes / BYTES_A_SECOND)
}

/// Hashes and writes a block; blocks.
fn write(
    mut writer: Box<PieceWriter>,
    block: &[Bytes],
    piece: u32,
    is_last: bool,
) -> std::io::Result<Written> {
    if !writer.write(block)? {
        return Ok(Written::Late(piece));
    }
    if is_last {
        Ok(Written::Ended(piece, writer.finish()?))
    } else {
        Ok(Written::Goes(writer))
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;
    use vecino_rest::{Digest, Name};

    use super::*;
    use crate::{
        content::verify,
        download::{choice::Claim, provider_url},
    };

    #[actix_web::test]
    async fn a_piece_that_a_job_of_before_verified_late_is_not_fetched_for_ever() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let content = vec![7; 300_000];
        let claim = Claim {
            size: content.len() as u64,
            modified_ms: 0,
            providers: Vec::new(),
        };
        let name = Name::parse("a").expect("valid");
        let job = Job::new(Digest::of(&content), name, &claim).expect("small");
        let pieces = verify::hash_pieces(&job.layout, content.as_slice()).expect("hashed");
        let part = Part::create(dir.path(), &job.digest, job.layout, pieces).expect("begun");
        let part = Arc::new(part);
        let block =
            [Bytes::from(content)
                .slice(..usize::try_from(job.layout.range(0).end).expect("small"))];
        let ended = write(Box::new(part.piece(0)), &block, 0, true).expect("written");
        assert!(matches!(ended, Written::Ended(0, Finished::Verified)));

        let transfer = Transfer {
            job: &job,
            source: &Source::new(true, Arc::new(Semaphore::new(1)), Arc::default()),
            part: &part,
            keeps: true,
            url: provider_url::parse("http://127.0.0.1:1").expect("valid"),
            failures: 0,
            flight: &Flight::new(0, 0..1, None),
            delivered: &|_| (),
            swaps: &|_| false,
        };
        let writer = Box::new(part.piece(0));
        let late = spawn_blocking(move || write(writer, &block, 0, true));
        let stop = transfer.settle(&mut Some(late)).await.expect_err("late");
        assert!(matches!(stop, Stop::Unwanted));
        assert!(job.has(0));
    }
}
