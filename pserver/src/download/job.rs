//! One download: a state machine that fetches what its readers want and lets them read what is
//! verified.
//!
//! Invariants: a piece is missing or verified, and only [`Part::admit`] moves it; readers see
//! verified bytes only; the job fetches nothing that no reader wants, and ends when nobody wanted
//! anything for `LINGER`. What was verified stays in the part for the next job.
//!
//! A job runs on the worker that began it; its readers may be anywhere.

mod reader;

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use tokio::{
    sync::watch,
    task::{JoinHandle, spawn_blocking},
    time::{sleep, sleep_until, timeout},
};
use vecino_rest::{Digest, Name, PeerUrl, body::Origin, piece::Layout};

pub use self::reader::Reader;

use super::{
    JobError,
    choice::Claim,
    picker,
    roster::{Fault, Next, Roster},
    source::{Incoming, Source},
};
use crate::{
    content::{Store, part::Part, stamp::Stamp},
    metrics::Metrics,
};

/// An idle job is kept for so long, so that a player that seeks need not begin again.
const LINGER: Duration = Duration::from_secs(30);
/// A provider that takes longer for a piece is left for another; doubled for each time that it
/// was, so that a link that is slow everywhere still gets there.
const PIECE_WITHIN: Duration = Duration::from_secs(30);
/// A run is left for a reader that waits elsewhere only after so many pieces.
const SHORTEST_RUN: u32 = 8;
/// How often providers are looked up again when none is left.
const RELOCATIONS: u32 = 2;
/// The wait before that; doubled each time.
const RELOCATE_AFTER: Duration = Duration::from_millis(500);

#[derive(Debug)]
struct State {
    have: Vec<bool>,
    /// Pieces that each reader still wants, the next one first.
    readers: BTreeMap<u64, Range<u32>>,
    next_reader: u64,
    outcome: Option<Result<(), JobError>>,
}

/// See the module.
#[derive(Debug)]
pub struct Job {
    /// What is fetched.
    pub digest: Digest,
    /// What it is kept as.
    pub name: Name,
    /// How it is cut.
    pub layout: Layout,
    modified_ms: i64,
    state: Mutex<State>,
    part: OnceLock<Arc<Part>>,
    /// The first provider that delivered.
    source: OnceLock<PeerUrl>,
    /// The file once it has its name: from then on its owner may change it.
    kept: OnceLock<Stamp>,
    changed: watch::Sender<()>,
}

/// What a job works with.
pub struct Tools {
    /// Fetches.
    pub source: Source,
    /// Keeps.
    pub store: Arc<Store>,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

impl Job {
    /// A job that fetches nothing yet; `None` when the size is beyond all bounds.
    pub fn new(digest: Digest, name: Name, claim: &Claim) -> Option<Self> {
        let layout = Layout::of(claim.size)?;
        let state = State {
            have: vec![false; layout.pieces() as usize],
            readers: BTreeMap::new(),
            next_reader: 0,
            outcome: None,
        };
        Some(Self {
            digest,
            name,
            layout,
            modified_ms: claim.modified_ms,
            state: Mutex::new(state),
            part: OnceLock::new(),
            source: OnceLock::new(),
            kept: OnceLock::new(),
            changed: watch::Sender::new(()),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes verified so far.
    pub fn verified_bytes(&self) -> u64 {
        let state = self.state();
        (0..)
            .zip(&state.have)
            .filter(|(_, have)| **have)
            .map(|(piece, _)| {
                let range = self.layout.range(piece);
                range.end - range.start
            })
            .sum()
    }

    /// The first provider that delivered; `None` while nobody did in this job.
    pub fn source(&self) -> Option<&PeerUrl> {
        self.source.get()
    }

    /// Bytes that readers want and that are missing.
    fn missing_bytes(&self) -> u64 {
        let state = self.state();
        let is_missing = |piece: &u32| {
            !state.have[*piece as usize]
                && state.readers.values().any(|wanted| wanted.contains(piece))
        };
        let bytes = |piece| self.layout.range(piece).end - self.layout.range(piece).start;
        (0..self.layout.pieces())
            .filter(is_missing)
            .map(bytes)
            .sum()
    }

    /// How it ended; `None` while it runs.
    pub fn outcome(&self) -> Option<Result<(), JobError>> {
        self.state().outcome.clone()
    }

    /// A reader of `bytes`; `None` when the job has ended in failure.
    pub fn read(self: &Arc<Self>, bytes: Range<u64>) -> Option<Reader> {
        let mut state = self.state();
        if matches!(state.outcome, Some(Err(_))) {
            return None;
        }
        let id = state.next_reader;
        state.next_reader += 1;
        // The empty content has one piece of no bytes, which is to be verified all the same.
        let wanted = if self.layout.size() == 0 {
            0..1
        } else {
            self.layout.pieces_in(&bytes)
        };
        state.readers.insert(id, wanted.clone());
        drop(state);
        self.changed.send_replace(());
        let changed = self.changed.subscribe();
        Some(Reader::new(self.clone(), id, bytes, wanted, changed))
    }

    fn next_run(&self) -> Option<Range<u32>> {
        let state = self.state();
        picker::next_run(&state.have, state.readers.values().cloned())
    }

    fn is_wanted(&self) -> bool {
        !self.state().readers.is_empty()
    }

    fn is_whole(&self) -> bool {
        self.state().have.iter().all(|&have| have)
    }

    fn verified(&self, piece: u32) {
        self.state().have[piece as usize] = true;
        self.changed.send_replace(());
    }

    /// Ends as cancelled when nobody reads; in one step, so that no reader comes in between.
    fn end_unless_wanted(&self) -> bool {
        let mut state = self.state();
        if state.readers.is_empty() {
            state.outcome = Some(Err(JobError::Cancelled));
        }
        state.readers.is_empty()
    }

    fn end(&self, outcome: Result<(), JobError>) {
        self.state().outcome = Some(outcome);
        self.changed.send_replace(());
    }

    /// Runs the job to its end. `relocate` looks the providers up again.
    pub async fn run(
        &self,
        providers: Vec<PeerUrl>,
        tools: Tools,
        relocate: impl AsyncFn() -> Vec<PeerUrl>,
    ) {
        let _running = Metrics::running(&tools.metrics.downloads);
        let outcome = Run {
            job: self,
            tools: &tools,
            roster: Roster::default(),
            relocations: 0,
        }
        .finish(providers, &relocate)
        .await;
        if let Err(error) = &outcome {
            log::info!("download of {:?}: {error}", self.name);
        }
        self.end(outcome);
    }
}

struct Run<'a> {
    job: &'a Job,
    tools: &'a Tools,
    roster: Roster,
    relocations: u32,
}

impl Run<'_> {
    async fn finish(
        mut self,
        providers: Vec<PeerUrl>,
        relocate: &impl AsyncFn() -> Vec<PeerUrl>,
    ) -> Result<(), JobError> {
        let job = self.job;
        self.roster.add(providers);
        let part = match self.resume().await? {
            Some(part) => part,
            None => self.begin(relocate).await?,
        };
        // Only this task sets it.
        let _ = job.part.set(part.clone());
        job.changed.send_replace(());
        let mut changed = job.changed.subscribe();
        while !job.is_whole() {
            let Some(run) = job.next_run() else {
                let idle =
                    async { while job.next_run().is_none() && changed.changed().await.is_ok() {} };
                if timeout(LINGER, idle).await.is_err() && job.end_unless_wanted() {
                    return Err(JobError::Cancelled);
                }
                continue;
            };
            let (url, failures) = self.provider(relocate).await?;
            self.check_room()?;
            let before = run.start;
            match self.fetch(&url, failures, &part, run).await {
                Ok(()) => self.roster.succeeded(&url),
                Err(Stop::Fault(fault)) => {
                    if job.state().have[before as usize] {
                        self.roster.succeeded(&url);
                        self.relocations = 0;
                    }
                    self.blame(&url, fault);
                }
                Err(Stop::Unwanted) => {}
                Err(Stop::Job(error)) => return Err(error),
            }
        }
        self.keep(part).await
    }

    fn blame(&mut self, url: &PeerUrl, fault: Fault) {
        log::info!("download of {:?}: provider {url}: {fault:?}", self.job.name);
        if matches!(fault, Fault::Wrong(_)) {
            self.tools.metrics.verification_failures.inc();
        }
        self.tools.metrics.provider_switches.inc();
        self.roster.failed(url, fault, Instant::now());
    }

    /// Whether what is wanted has room on the disk; a floor stays free.
    fn check_room(&self) -> Result<(), JobError> {
        let needed = self.job.missing_bytes();
        let free = self.tools.store.free_bytes(Origin::Fetched);
        if needed > free {
            return Err(JobError::NoRoom { needed, free });
        }
        Ok(())
    }

    /// The provider to ask now; looks them up again when none is left.
    async fn provider(
        &mut self,
        relocate: &impl AsyncFn() -> Vec<PeerUrl>,
    ) -> Result<(PeerUrl, u32), JobError> {
        loop {
            match self.roster.next(Instant::now()) {
                Next::Ask(url, failures) => return Ok((url, failures)),
                Next::Wait(until) => {
                    sleep_until(until.into()).await;
                    continue;
                }
                Next::Nobody => {}
            }
            if self.relocations == RELOCATIONS {
                return Err(self.roster.verdict());
            }
            sleep(RELOCATE_AFTER * 2u32.pow(self.relocations)).await;
            self.relocations += 1;
            self.roster.add(relocate().await);
        }
    }

    /// What an earlier job verified.
    async fn resume(&self) -> Result<Option<Arc<Part>>, JobError> {
        let (dir, digest) = (self.tools.store.parts().to_owned(), self.job.digest);
        let resumed = spawn_blocking(move || Part::resume(&dir, &digest))
            .await
            .map_err(interrupted)?;
        match resumed.map_err(JobError::io)? {
            Some((part, verified)) if part.layout == self.job.layout => {
                self.job.state().have = verified;
                Ok(Some(Arc::new(part)))
            }
            _ => Ok(None),
        }
    }

    async fn begin(
        &mut self,
        relocate: &impl AsyncFn() -> Vec<PeerUrl>,
    ) -> Result<Arc<Part>, JobError> {
        let (digest, layout) = (self.job.digest, self.job.layout);
        // Before anything is asked of anybody: the size is only a claim so far.
        self.check_room()?;
        let pieces = loop {
            let (url, _) = self.provider(relocate).await?;
            match self.tools.source.pieces(&url, &digest, &layout).await {
                Ok(pieces) => break pieces,
                Err(fault) => self.blame(&url, fault),
            }
        };
        let dir = self.tools.store.parts().to_owned();
        let part = spawn_blocking(move || Part::create(&dir, &digest, layout, pieces));
        part.await
            .map_err(interrupted)?
            .map(Arc::new)
            .map_err(JobError::io)
    }

    /// Fetches `run` from one provider, admitting piece after piece.
    async fn fetch(
        &self,
        url: &PeerUrl,
        failures: u32,
        part: &Arc<Part>,
        run: Range<u32>,
    ) -> Result<(), Stop> {
        let layout = self.job.layout;
        let mut pieces = Pieces {
            run: self,
            part,
            url,
            admitting: None,
        };
        if layout.size() == 0 {
            pieces.admit(0, Bytes::new()).await?;
            return pieces.settle().await;
        }
        let mut incoming = self
            .tools
            .source
            .run(url, &self.job.digest, &layout, &run)
            .await?;
        let mut rest = Bytes::new();
        for piece in run.clone() {
            let fetched = timeout(
                PIECE_WITHIN * 2u32.pow(failures),
                self.piece(&mut incoming, &mut rest, piece),
            );
            let bytes = fetched
                .await
                .unwrap_or_else(|_| Err(Stop::Fault(Fault::Failed("too slow".to_owned()))));
            match bytes {
                Ok(bytes) => pieces.admit(piece, bytes).await?,
                Err(stop) => {
                    // The piece before is right or wrong whatever became of this one.
                    pieces.settle().await?;
                    return Err(stop);
                }
            }
            let fetched = piece + 1 - run.start;
            if fetched.is_multiple_of(SHORTEST_RUN) && piece + 1 < run.end {
                pieces.settle().await?;
                if self
                    .job
                    .next_run()
                    .is_none_or(|next| next.start != piece + 1)
                {
                    return Ok(());
                }
            }
        }
        pieces.settle().await?;
        if !rest.is_empty() || incoming.next().await?.is_some() {
            return Err(Stop::Fault(Fault::Wrong(
                "more bytes than the content has".to_owned(),
            )));
        }
        Ok(())
    }

    /// The bytes of one piece; what came beyond them is left in `rest`.
    async fn piece(
        &self,
        incoming: &mut Incoming,
        rest: &mut Bytes,
        piece: u32,
    ) -> Result<Bytes, Stop> {
        let range = self.job.layout.range(piece);
        let length = usize::try_from(range.end - range.start).expect("a piece fits in memory");
        let mut bytes = BytesMut::with_capacity(length);
        loop {
            let taken = rest.split_to(rest.len().min(length - bytes.len()));
            bytes.extend_from_slice(&taken);
            if bytes.len() == length {
                return Ok(bytes.freeze());
            }
            if !self.job.is_wanted() {
                return Err(Stop::Unwanted);
            }
            match incoming.next().await? {
                Some(chunk) => *rest = chunk,
                None => return Err(Stop::Fault(Fault::Short)),
            }
        }
    }

    async fn keep(&self, part: Arc<Part>) -> Result<(), JobError> {
        let (store, name) = (self.tools.store.clone(), self.job.name.clone());
        let (digest, modified_ms) = (self.job.digest, self.job.modified_ms);
        let kept = spawn_blocking(move || store.keep(&part, name, digest, modified_ms));
        if let Some(stamp) = kept.await.map_err(interrupted)?? {
            // Only this task sets it.
            let _ = self.job.kept.set(stamp);
        }
        Ok(())
    }
}

fn interrupted(_: tokio::task::JoinError) -> JobError {
    JobError::Cancelled
}

/// Why a fetch stopped.
enum Stop {
    /// The provider did something wrong.
    Fault(Fault),
    /// Nobody wants it any more.
    Unwanted,
    /// The job cannot go on.
    Job(JobError),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Admits pieces one at a time off the event loop, while the next one is coming in.
struct Pieces<'a> {
    run: &'a Run<'a>,
    part: &'a Arc<Part>,
    url: &'a PeerUrl,
    admitting: Option<(u32, JoinHandle<std::io::Result<bool>>)>,
}

impl Pieces<'_> {
    async fn admit(&mut self, piece: u32, bytes: Bytes) -> Result<(), Stop> {
        self.settle().await?;
        let part = self.part.clone();
        self.admitting = Some((piece, spawn_blocking(move || part.admit(piece, &bytes))));
        Ok(())
    }

    async fn settle(&mut self) -> Result<(), Stop> {
        let Some((piece, admitting)) = self.admitting.take() else {
            return Ok(());
        };
        match admitting
            .await
            .map_err(|error| Stop::Job(interrupted(error)))?
        {
            Ok(true) => {
                let range = self.run.job.layout.range(piece);
                self.run.tools.metrics.pieces_verified.inc();
                self.run
                    .tools
                    .metrics
                    .bytes_received
                    .inc_by(range.end - range.start);
                // The first one stays.
                let _ = self.run.job.source.set(self.url.clone());
                self.run.job.verified(piece);
                Ok(())
            }
            Ok(false) => Err(Stop::Fault(Fault::Wrong(format!(
                "piece {piece} is not what it should be"
            )))),
            Err(error) => Err(Stop::Job(JobError::io(error))),
        }
    }
}
