//! One download: a state machine that fetches what its readers want and lets them, and other
//! peers, read what is verified.
//!
//! Invariants: each piece is in exactly one state of [`picker`](super::picker); readers and other
//! peers see verified bytes only; the job fetches nothing that no reader wants, and ends when
//! nobody wanted anything for a while. What was verified stays in the part for the next job.
//!
//! Lock order: `state` is held for moments and never across an await; nothing is locked in it.
//!
//! A job runs on the worker that began it (`run`); its readers may be anywhere.

mod asking;
mod reader;
mod run;
mod small;
mod transfer;

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    ops::Range,
    os::unix::fs::MetadataExt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures_util::{
    FutureExt,
    stream::{self, Stream},
};
use tokio::{sync::watch, task::spawn_blocking};
use vecino_rest::{
    Digest, Name, PeerUrl,
    body::{DownloadState, Have},
    event::Transfer,
    piece::Layout,
};

pub use self::reader::Reader;

use super::{
    JobError,
    choice::Claim,
    parts::Parts,
    picker::{Picker, Want},
    roster::Candidate,
    source::Source,
};
use crate::{
    content::{Store, keep::Kept, part::Part, read, stamp::Stamp},
    events::Events,
    metrics::{Ended, Metrics},
};

/// A reader in order has so many bytes fetched ahead of it, and at least so many pieces: who reads
/// slowly slows its download.
const AHEAD: (u64, u32) = (64 << 20, 8);
/// Names under which one content is kept at once.
const MAX_NAMES: usize = 64;

#[derive(Debug)]
struct State {
    picker: Picker,
    /// What each reader still wants.
    readers: BTreeMap<u64, Want>,
    next_reader: u64,
    /// What it is to be kept as; the first one first.
    names: Vec<Name>,
    outcome: Option<Result<(), JobError>>,
    told: Told,
}

/// What is told of a job besides its pieces.
#[derive(Debug, Clone, Default)]
struct Told {
    wasted_bytes: u64,
    bytes_a_second: u64,
    providers_known: u32,
    providers: Vec<vecino_rest::event::TransferProvider>,
}

/// Where the verified bytes are.
#[derive(Debug)]
enum Place {
    /// In a part on disk.
    Part(Arc<Part>),
    /// All of them, in memory: a small content.
    Memory(Bytes),
}

/// See the module.
#[derive(Debug)]
pub struct Job {
    /// What is fetched.
    pub digest: Digest,
    /// How it is cut.
    pub layout: Layout,
    modified_ms: i64,
    state: Mutex<State>,
    place: OnceLock<Place>,
    /// The first provider that delivered.
    source: OnceLock<PeerUrl>,
    /// The file once it has its name: from then on its owner may change it.
    kept: OnceLock<Kept>,
    /// Grows with every change of what is verified or on its way.
    version: AtomicU64,
    changed: watch::Sender<()>,
}

/// What a job works with.
#[derive(Clone)]
pub struct Tools {
    /// Fetches.
    pub source: Source,
    /// Keeps.
    pub store: Arc<Store>,
    /// Knows the open parts.
    pub parts: Arc<Parts>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Tells.
    pub events: Arc<Events>,
}

impl Job {
    /// A job that fetches nothing yet; `None` when the size is beyond all bounds.
    pub fn new(digest: Digest, name: Name, claim: &Claim) -> Option<Self> {
        let layout = Layout::of(claim.size)?;
        let state = State {
            picker: Picker::new(&vec![false; layout.pieces() as usize]),
            readers: BTreeMap::new(),
            next_reader: 0,
            names: vec![name],
            outcome: None,
            told: Told::default(),
        };
        Some(Self {
            digest,
            layout,
            modified_ms: claim.modified_ms,
            state: Mutex::new(state),
            place: OnceLock::new(),
            source: OnceLock::new(),
            kept: OnceLock::new(),
            version: AtomicU64::new(1),
            changed: watch::Sender::new(()),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it is kept as first of all.
    pub fn name(&self) -> Name {
        self.state().names[0].clone()
    }

    fn names(&self) -> Vec<Name> {
        self.state().names.clone()
    }

    /// Bytes verified so far.
    pub fn verified_bytes(&self) -> u64 {
        self.bytes_verified(&self.state())
    }

    fn bytes_verified(&self, state: &State) -> u64 {
        let last = self.layout.pieces() - 1;
        let short = self.layout.piece_size()
            - (self.layout.range(last).end - self.layout.range(last).start);
        let all = u64::from(state.picker.verified_count()) * self.layout.piece_size();
        if state.picker.has(last) {
            all - short
        } else {
            all
        }
    }

    /// The first provider that delivered; `None` while nobody did in this job.
    pub fn source(&self) -> Option<&PeerUrl> {
        self.source.get()
    }

    /// Bytes that readers want and that are not verified.
    fn missing_bytes(&self) -> u64 {
        let state = self.state();
        let is_missing = |piece: &u32| {
            !state.picker.has(*piece)
                && state
                    .readers
                    .values()
                    .any(|want| want.pieces.contains(piece))
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

    /// A reader of `bytes`, which reads them in order or waits for all; what is fetched is kept as
    /// `name`, too. `None` when the job has ended in failure.
    pub fn read(
        self: &Arc<Self>,
        name: &Name,
        bytes: Range<u64>,
        in_order: bool,
    ) -> Option<Reader> {
        let mut state = self.state();
        match state.outcome {
            Some(Err(_)) => return None,
            // It is kept already; under another name it is fetched from here.
            Some(Ok(())) if !state.names.contains(name) => return None,
            _ => {}
        }
        if !state.names.contains(name) && state.names.len() < MAX_NAMES {
            state.names.push(name.clone());
        }
        let id = state.next_reader;
        state.next_reader += 1;
        // The empty content has one piece of no bytes, which is to be verified all the same.
        let pieces = if self.layout.size() == 0 {
            0..1
        } else {
            self.layout.pieces_in(&bytes)
        };
        let want = Want { pieces, in_order };
        state.readers.insert(id, want.clone());
        drop(state);
        self.changed.send_replace(());
        let changed = self.changed.subscribe();
        Some(Reader::new(self.clone(), id, bytes, want, changed))
    }

    /// What readers want now: those in order no more than a window ahead.
    fn wants(&self) -> Vec<Want> {
        let (bytes, pieces) = AHEAD;
        let window = u32::try_from(bytes / self.layout.piece_size())
            .unwrap_or(u32::MAX)
            .max(pieces);
        let ahead = |want: &Want| {
            let mut want = want.clone();
            if want.in_order {
                want.pieces.end = want
                    .pieces
                    .end
                    .min(want.pieces.start.saturating_add(window));
            }
            want
        };
        self.state().readers.values().map(ahead).collect()
    }

    fn is_wanted(&self) -> bool {
        !self.state().readers.is_empty()
    }

    fn is_read_in_order(&self) -> bool {
        self.state().readers.values().any(|want| want.in_order)
    }

    fn is_whole(&self) -> bool {
        self.state().picker.is_whole()
    }

    /// Whether something that is wanted is missing, and nobody sends it.
    fn is_missing(&self) -> bool {
        let wants = self.wants();
        self.state().picker.is_missing(&wants)
    }

    fn has(&self, piece: u32) -> bool {
        self.state().picker.has(piece)
    }

    /// `piece` is verified; whether it was not before.
    fn verified(&self, piece: u32) -> bool {
        let is_new = self.state().picker.verified(piece);
        self.told_pieces();
        self.changed.send_replace(());
        is_new
    }

    /// Something changed that other peers are told of.
    fn told_pieces(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
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
        found: Vec<Candidate>,
        tools: Tools,
        relocate: impl AsyncFn() -> Vec<Candidate>,
    ) {
        let _running = Metrics::running(&tools.metrics.downloads);
        let _ending = Ending(self);
        self.tell(&tools.events);
        let relocate = || relocate().boxed_local();
        let outcome = run::to_the_end(self, &tools, found, &relocate).await;
        if let Err(error) = &outcome {
            log::info!("download of {:?}: {error}", self.name());
        }
        if let Some(Place::Part(part)) = self.place.get()
            && !tools.store.keeps_size(self.layout.size())
        {
            // Who reads has it open, and reads on.
            let part = part.clone();
            if let Err(error) = spawn_blocking(move || part.dispose()).await {
                log::warn!("download of {:?}: {error}", self.name());
            }
        }
        let ended = Ended {
            outcome: match outcome {
                Ok(()) => "done",
                Err(JobError::Cancelled) => "cancelled",
                Err(_) => "failed",
            },
        };
        tools.metrics.downloads_ended.get_or_create(&ended).inc();
        self.end(outcome);
        // Nobody joins it any more, and waits for this.
        if let Some(Place::Part(part)) = self.place.get() {
            let (part, parts) = (part.clone(), tools.parts.clone());
            spawn_blocking(move || parts.rest(part));
        }
        self.tell(&tools.events);
    }

    /// Tells how it does, when somebody listens.
    fn tell(&self, events: &Events) {
        if events.is_heard() {
            events.transfer(&self.to_event());
        }
    }

    /// How it does.
    pub fn to_event(&self) -> Transfer {
        let state = self.state();
        let (download_state, error) = match &state.outcome {
            None => (DownloadState::Running, None),
            Some(Ok(())) => (DownloadState::Done, None),
            Some(Err(JobError::Cancelled)) => (DownloadState::Cancelled, None),
            Some(Err(error)) => (DownloadState::Failed, Some(error.to_string())),
        };
        Transfer {
            name: state.names[0].clone(),
            digest: self.digest,
            size: self.layout.size(),
            state: download_state,
            verified_bytes: self.bytes_verified(&state),
            wasted_bytes: state.told.wasted_bytes,
            bytes_a_second: state.told.bytes_a_second,
            providers_known: state.told.providers_known,
            providers: state.told.providers.clone(),
            error,
        }
    }

    /// Which pieces other peers can have from here, and the version of that.
    pub fn have(&self) -> Have {
        let version = self.version.load(Ordering::Acquire);
        let state = self.state();
        Have {
            version,
            size: self.layout.size(),
            whole: false,
            have: state.picker.verified_bits().to_hex(),
            coming: state.picker.in_flight_bits().to_hex(),
        }
    }

    /// Waits until [`Job::have`] is of another version than `since`, or the job is over.
    pub async fn have_changed(&self, since: u64) {
        let mut changed = self.changed.subscribe();
        while self.version.load(Ordering::Acquire) == since && self.outcome().is_none() {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// The piece hashes, once they are known.
    pub fn pieces(&self) -> Option<Vec<Digest>> {
        match self.place.get()? {
            Place::Part(part) => Some(part.pieces.clone()),
            Place::Memory(_) => Some(vec![self.digest]),
        }
    }

    /// Whether all pieces of `bytes` are verified.
    pub fn holds(&self, bytes: &Range<u64>) -> bool {
        let state = self.state();
        self.place.get().is_some()
            && self
                .layout
                .pieces_in(bytes)
                .all(|piece| state.picker.has(piece))
    }

    /// The bytes of `range`, all of which are verified.
    pub fn verified_stream(
        self: Arc<Self>,
        range: Range<u64>,
    ) -> impl Stream<Item = Result<Bytes, JobError>> {
        stream::unfold((self, range), async |(job, range)| {
            if range.is_empty() {
                return None;
            }
            let chunk = read::first_chunk(&range);
            let (reader, rest) = (job.clone(), chunk.end..range.end);
            match reader.read_verified(chunk).await {
                Ok(bytes) => Some((Ok(bytes), (job, rest))),
                Err(error) => Some((Err(error), (job, 0..0))),
            }
        })
    }

    /// Verified bytes.
    async fn read_verified(self: Arc<Self>, bytes: Range<u64>) -> Result<Bytes, JobError> {
        if let Some(Place::Memory(all)) = self.place.get() {
            let at = |offset: u64| usize::try_from(offset).map_err(io::Error::other);
            let (start, end) = (at(bytes.start), at(bytes.end));
            return Ok(all.slice(start.map_err(JobError::io)?..end.map_err(JobError::io)?));
        }
        let read = spawn_blocking(move || self.read_part(bytes)).await;
        read.map_err(interrupted)?.map_err(JobError::io)
    }

    /// Verified bytes of the part; blocks.
    fn read_part(&self, bytes: Range<u64>) -> io::Result<Bytes> {
        let Some(Place::Part(part)) = self.place.get() else {
            return Err(io::Error::other("nothing is verified yet"));
        };
        let read = read::read_at(&part.file, bytes)?;
        if self.is_unchanged(&part.file)? {
            Ok(read)
        } else {
            Err(io::Error::other("the kept file changed while it was sent"))
        }
    }

    /// Where the verified pieces are, when they are on disk.
    pub fn file(&self) -> Option<Arc<File>> {
        match self.place.get()? {
            Place::Part(part) => Some(part.file.clone()),
            Place::Memory(_) => None,
        }
    }

    /// Whether its owner left `file` alone since it got its name.
    pub fn is_unchanged(&self, file: &File) -> io::Result<bool> {
        let Some(kept) = self.kept.get() else {
            // Another job may have named the file that both read.
            return match self.place.get() {
                Some(Place::Part(part)) => part.naming.is_unchanged(file),
                _ => Ok(true),
            };
        };
        let metadata = file.metadata()?;
        let now = Stamp::of(&metadata);
        let kept = kept.stamp;
        let only_lost_its_name = metadata.nlink() == 0 && kept.is_but_for_changed(&now);
        Ok(kept.inode != now.inode || kept == now || only_lost_its_name)
    }
}

/// Ends a job whose run is dropped or panics, so that nobody waits for it for ever.
struct Ending<'a>(&'a Job);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        if self.0.outcome().is_none() {
            self.0.end(Err(JobError::Cancelled));
        }
    }
}

fn interrupted(_: tokio::task::JoinError) -> JobError {
    JobError::Cancelled
}
