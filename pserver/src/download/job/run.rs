//! The loop of a job: asks providers for pieces as long as readers want some, and looks for more
//! providers while it runs. Whom it asks for what is in [`asking`](super::asking).
//!
//! Invariant: what stops in flight is missing again at once; a job that can go on with nobody
//! ends, saying why, after a bounded number of lookups.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future::LocalBoxFuture, stream::FuturesUnordered};
use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval, sleep, sleep_until, timeout},
};
use vecino_rest::{Digest, PeerUrl};

use super::{
    Job, Place, Tools,
    asking::MOST_FLIGHTS,
    interrupted,
    small::SMALL,
    transfer::{Flight, Stop},
};
use crate::{
    content::{catalogue::Record, part::Part, partials::Partial, small::Small},
    download::{
        JobError,
        picker::{Picker, ProviderNo},
        roster::{Candidate, Fault, Roster},
        source::Holdings,
    },
};

/// An idle job is kept for so long, so that a player that seeks need not begin again.
const LINGER: Duration = Duration::from_secs(30);
/// How often it looks at what is late, and tells how it does.
const TICK: Duration = Duration::from_millis(100);
/// How often the disk is asked for room.
const CHECK_ROOM_EVERY: Duration = Duration::from_secs(1);
/// While it runs, providers are looked up again after so long; half as long again each time ...
const LOOK_AGAIN: Duration = Duration::from_millis(60);
/// ... up to so long.
const LOOK_AGAIN_MOST: Duration = Duration::from_secs(10);
/// How often providers are looked up again when none is left.
const RELOCATIONS: u32 = 2;
/// The wait before that; doubled each time.
const RELOCATE_AFTER: Duration = Duration::from_millis(500);
/// Providers that have nothing of what is missing are waited for so long.
const STARVED_FOR: Duration = Duration::from_secs(10);
/// Providers that are all busy are waited for so long.
const BUSY_FOR: Duration = Duration::from_secs(60);
/// A provider that is silent for so long is not waited for alone ...
const HEDGE_AFTER: Duration = Duration::from_secs(1);
/// ... and so many are asked for the same at once, but for those that ...
const MAX_HEDGED: usize = 4;
/// ... are silent for so long; with them no more than so many.
const HOPELESS_AFTER: Duration = Duration::from_secs(5);
const MAX_ASKED: usize = 16;
/// Providers told of.
const MAX_TOLD: usize = 64;
/// Weight of the newest tick in the rate.
const NEWEST: f64 = 0.2;

/// Looks the providers of a job up again.
pub(super) type Relocate<'a> = &'a dyn Fn() -> LocalBoxFuture<'a, Vec<Candidate>>;

/// The run of a job.
pub(super) struct Run<'a> {
    pub(super) job: &'a Job,
    pub(super) tools: &'a Tools,
    pub(super) roster: RefCell<Roster>,
    /// What is under way.
    pub(super) flights: RefCell<Vec<Rc<Flight>>>,
    /// Verified bytes a second.
    pub(super) rate: Cell<f64>,
    relocate: Relocate<'a>,
    /// Lookups that helped nothing, in a row.
    relocations: Cell<u32>,
    progress_at: Cell<Instant>,
    wasted: Cell<u64>,
    /// Others may find what is verified of it; to the end, when all of it is found.
    partial: RefCell<Option<Partial>>,
}

/// Something that a job waits for.
pub(super) enum Event {
    /// A request is over.
    Landed(Rc<Flight>, Result<(), Stop>),
    /// A partial provider said what it has.
    Holds(ProviderNo, Result<Holdings, Fault>),
    /// Providers were looked up.
    Found(Vec<Candidate>),
}

/// All that it waits for.
pub(super) type Events<'a> = FuturesUnordered<LocalBoxFuture<'a, Event>>;

/// When providers are looked up next.
struct Look {
    /// `None` while they are looked up.
    at: Option<Instant>,
    pause: Duration,
}

/// Runs `job` until its content is kept.
pub(super) async fn to_the_end<'a>(
    job: &'a Job,
    tools: &'a Tools,
    found: Vec<Candidate>,
    relocate: Relocate<'a>,
) -> Result<(), JobError> {
    let mut roster = Roster::default();
    roster.add(found);
    let run = Run {
        job,
        tools,
        roster: RefCell::new(roster),
        flights: RefCell::default(),
        rate: Cell::new(0.0),
        relocate,
        relocations: Cell::new(0),
        progress_at: Cell::new(Instant::now()),
        wasted: Cell::new(0),
        partial: RefCell::default(),
    };
    if job.layout.size() <= SMALL {
        let bytes = run.fetch_small().await;
        run.tell();
        return run.keep_small(bytes?).await;
    }
    let part = run.open().await?;
    run.offer();
    let fetched = run.fetch_all(&part).await;
    run.tell();
    fetched?;
    run.keep(part).await
}

impl Run<'_> {
    /// Fetches until the content is whole.
    async fn fetch_all(&self, part: &Arc<Part>) -> Result<(), JobError> {
        let job = self.job;
        let mut changed = job.changed.subscribe();
        let mut events = Events::new();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look = Look {
            at: Some(Instant::now() + jittered(LOOK_AGAIN)),
            pause: LOOK_AGAIN,
        };
        let mut room_checked: Option<(Instant, bool)> = None;
        let mut counted = (job.verified_bytes(), Instant::now());
        // What it took to open the part is nobody's fault.
        self.goes_on();
        while !job.is_whole() {
            changed.borrow_and_update();
            if !job.is_missing() && self.flights.borrow().is_empty() {
                let idle = async { while !job.is_missing() && changed.changed().await.is_ok() {} };
                if timeout(LINGER, idle).await.is_err() && job.end_unless_wanted() {
                    return Err(JobError::Cancelled);
                }
                counted = (job.verified_bytes(), Instant::now());
                self.goes_on();
                continue;
            }
            let now = Instant::now();
            let is_proven = job.verified_bytes() > 0;
            let is_due = |(at, was_proven)| was_proven != is_proven || now - at >= CHECK_ROOM_EVERY;
            if room_checked.is_none_or(is_due) {
                // What is on its way took its place already, which is not free any more.
                let taken = part.taken_bytes().saturating_sub(job.verified_bytes());
                let needed = job.missing_bytes().saturating_sub(taken);
                self.check_room(needed).await?;
                room_checked = Some((now, is_proven));
                // Nothing was read meanwhile.
                let held = now.elapsed();
                for flight in self.flights.borrow().iter() {
                    let (piece, since) = flight.at.get();
                    flight.at.set((piece, since + held));
                }
            }
            self.ask(part, &mut events, now);
            self.look(&mut look, &mut events, now)?;
            let wake = self
                .roster
                .borrow()
                .next_rested(now)
                .into_iter()
                .chain(self.roster.borrow().next_question(now))
                .chain(look.at)
                .min();
            tokio::select! {
                Some(event) = events.next(), if !events.is_empty() => {
                    self.take(event, &mut look)?;
                    // What is there already belongs together.
                    while let Some(Some(event)) = events.next().now_or_never() {
                        self.take(event, &mut look)?;
                    }
                }
                _ = changed.changed() => {}
                _ = ticks.tick() => {
                    counted = self.count(counted);
                    self.tell();
                }
                () = sleep_until(wake.unwrap_or(now + TICK).into()) => {}
            }
        }
        Ok(())
    }

    /// Has providers looked up when it is time to, or when nobody is left; an error when that
    /// helped nothing.
    fn look<'a>(
        &'a self,
        look: &mut Look,
        events: &mut Events<'a>,
        now: Instant,
    ) -> Result<(), JobError> {
        let Some(mut at) = look.at else {
            return Ok(());
        };
        if self.is_stuck(now) {
            let tries = self.relocations.get();
            if tries >= RELOCATIONS {
                return Err(self.roster.borrow().verdict());
            }
            at = at.min(self.progress_at.get().max(now - TICK) + RELOCATE_AFTER * 2u32.pow(tries));
            look.at = Some(at);
        }
        if at <= now {
            look.at = None;
            let found = (self.relocate)();
            events.push(async { Event::Found(found.await) }.boxed_local());
        }
        Ok(())
    }

    /// Whether nobody can be asked for what is missing, and nothing is on its way.
    fn is_stuck(&self, now: Instant) -> bool {
        let roster = self.roster.borrow();
        self.flights.borrow().is_empty()
            && (roster.is_exhausted()
                || (roster.next_rested(now).is_none()
                    && now - self.progress_at.get() > STARVED_FOR)
                || now - self.progress_at.get() > BUSY_FOR)
    }

    fn take(&self, event: Event, look: &mut Look) -> Result<(), JobError> {
        let now = Instant::now();
        match event {
            Event::Landed(flight, outcome) => return self.landed(&flight, outcome, now),
            Event::Holds(no, Ok(holdings)) => {
                self.roster.borrow_mut().holds(no, holdings, now);
                self.withdraw(now);
            }
            Event::Holds(no, Err(fault)) => {
                self.roster.borrow_mut().holds_unknown(no, fault, now);
            }
            Event::Found(found) => {
                if self.is_stuck(now) {
                    self.relocations.set(self.relocations.get() + 1);
                }
                self.roster.borrow_mut().add(found);
                look.pause = (look.pause * 3 / 2).min(LOOK_AGAIN_MOST);
                look.at = Some(now + jittered(look.pause));
            }
        }
        Ok(())
    }

    /// A request is over: what it did not bring is missing again.
    fn landed(
        &self,
        flight: &Rc<Flight>,
        outcome: Result<(), Stop>,
        now: Instant,
    ) -> Result<(), JobError> {
        let no = flight.provider;
        self.flights
            .borrow_mut()
            .retain(|other| !Rc::ptr_eq(other, flight));
        {
            let mut state = self.job.state();
            for piece in flight.run() {
                state.picker.released(piece, no);
            }
        }
        self.job.told_pieces();
        let wasted = flight.received.get().saturating_sub(flight.verified.get());
        self.wasted.set(self.wasted.get() + wasted);
        let is_overtaken = matches!(outcome, Err(Stop::Unwanted))
            && flight.verified.get() == 0
            && self.job.has(flight.at.get().0)
            && flight.takes(now) > self.overdue_after(now);
        let mut roster = self.roster.borrow_mut();
        roster.answered(no);
        if is_overtaken {
            roster.overtaken(no, now);
        }
        if flight.verified.get() > 0 {
            let took = flight.began.elapsed().saturating_sub(flight.delay.get());
            roster.measured(no, flight.verified.get(), flight.delay.get(), took);
        }
        match outcome {
            Ok(()) | Err(Stop::Unwanted) => {}
            Err(Stop::Job(error)) => return Err(error),
            Err(Stop::Fault(fault)) => {
                drop(roster);
                self.blame(no, fault, now);
            }
        }
        Ok(())
    }

    /// A piece came from `no`.
    pub(super) fn delivered(&self, no: ProviderNo, piece: u32) {
        let range = self.job.layout.range(piece);
        self.tools.metrics.pieces_verified.inc();
        self.tools
            .metrics
            .bytes_received
            .inc_by(range.end - range.start);
        self.roster.borrow_mut().delivered(no);
        log::debug!("piece {piece} from {}", self.roster.borrow().url(no));
        self.offer();
        self.goes_on();
    }

    /// From now on it counts how long nothing comes.
    fn goes_on(&self) {
        self.relocations.set(0);
        self.progress_at.set(Instant::now());
    }

    /// Lets others find what is verified, as soon as there is something.
    fn offer(&self) {
        let job = self.job;
        let mut partial = self.partial.borrow_mut();
        if partial.is_some() || job.layout.pieces() == 1 || job.verified_bytes() == 0 {
            return;
        }
        *partial = Some(self.tools.store.catalogue().partial(Record {
            name: job.name(),
            digest: job.digest,
            size: job.layout.size(),
            modified_ms: job.modified_ms,
        }));
    }

    fn blame(&self, no: ProviderNo, fault: Fault, now: Instant) {
        let url = self.roster.borrow().url(no).to_string();
        match &fault {
            Fault::Busy(_) => {}
            Fault::Wrong(_) => {
                log::warn!("download of {:?}: provider {url}: {fault}", self.job.name());
                self.tools.metrics.wrong_bytes_from(&url);
                self.tools.metrics.provider_switches.inc();
            }
            _ => {
                log::info!("download of {:?}: provider {url}: {fault}", self.job.name());
                self.tools.metrics.provider_switches.inc();
            }
        }
        self.roster.borrow_mut().failed(no, fault, now);
    }

    /// Whether `needed` bytes have room on the disk; a floor stays free. Piece hashes of one size
    /// fit other sizes as well, so until a piece is verified the size is only a claim: what others
    /// may need is not deleted for it, but for the first pieces.
    async fn check_room(&self, needed: u64) -> Result<(), JobError> {
        let (job, store) = (self.job, &self.tools.store);
        let at_once = if job.verified_bytes() > 0 {
            needed
        } else {
            needed.min(MOST_FLIGHTS as u64 * job.layout.piece_size())
        };
        let mut free = store.make_room(at_once).await;
        if at_once <= free {
            free = store.could_have_room();
        }
        if needed > free {
            return Err(JobError::NoRoom { needed, free });
        }
        Ok(())
    }

    /// Measures the rate; `counted`: bytes verified, and when.
    fn count(&self, counted: (u64, Instant)) -> (u64, Instant) {
        let now = (self.job.verified_bytes(), Instant::now());
        let seconds = (now.1 - counted.1).as_secs_f64().max(1e-3);
        let rate = now.0.saturating_sub(counted.0) as f64 / seconds;
        self.rate
            .set(self.rate.get() + NEWEST * (rate - self.rate.get()));
        now
    }

    /// Tells how it does.
    fn tell(&self) {
        let roster = self.roster.borrow();
        let mut state = self.job.state();
        state.told.wasted_bytes = self.wasted.get();
        state.told.bytes_a_second = self.rate.get() as u64;
        state.told.providers_known = u32::try_from(roster.len()).unwrap_or(u32::MAX);
        state.told.providers = roster.to_body(MAX_TOLD);
        drop(state);
        self.job.tell(&self.tools.events);
    }

    /// The part, gone on with or begun.
    async fn open(&self) -> Result<Arc<Part>, JobError> {
        let (digest, layout) = (self.job.digest, self.job.layout);
        let parts = self.tools.parts.clone();
        let resumed = spawn_blocking(move || parts.resume(&digest, &layout))
            .await
            .map_err(interrupted)?
            .map_err(JobError::io)?;
        let part = if let Some((part, verified)) = resumed {
            self.job.state().picker = Picker::new(&verified);
            part
        } else {
            // Before anything is asked of anybody; and nothing is deleted for it, because the size
            // is only a claim so far.
            let (needed, free) = (self.job.missing_bytes(), self.tools.store.could_have_room());
            if needed > free {
                return Err(JobError::NoRoom { needed, free });
            }
            let source = &self.tools.source;
            let pieces: Vec<Digest> = self
                .ask_somebody(async |url| source.pieces(url, &digest, &layout).await)
                .await?;
            let parts = self.tools.parts.clone();
            spawn_blocking(move || parts.create(&digest, layout, pieces))
                .await
                .map_err(interrupted)?
                .map_err(JobError::io)?
        };
        // Only this task sets it.
        let _ = self.job.place.set(Place::Part(part.clone()));
        self.job.told_pieces();
        self.job.changed.send_replace(());
        Ok(part)
    }

    /// What the first provider gives that can; who is silent is not waited for alone. Ends when
    /// nobody wants it any more.
    pub(super) async fn ask_somebody<T>(
        &self,
        ask: impl AsyncFn(&PeerUrl) -> Result<T, Fault>,
    ) -> Result<T, JobError> {
        let mut asked: FuturesUnordered<_> = FuturesUnordered::new();
        let mut pending: Vec<(ProviderNo, Instant)> = Vec::new();
        let began = Instant::now();
        loop {
            if !self.job.is_wanted() {
                return Err(JobError::Cancelled);
            }
            let now = Instant::now();
            let next = self.roster.borrow().for_anything(now, &mut rand::rng());
            let is_pending = |no: &ProviderNo| pending.iter().any(|(other, _)| other == no);
            let next = next.into_iter().find(|no| !is_pending(no));
            let hopeful = pending
                .iter()
                .filter(|(_, since)| now - *since < HOPELESS_AFTER);
            let may_ask = hopeful.count() < MAX_HEDGED && pending.len() < MAX_ASKED;
            if let Some(no) = next.filter(|_| may_ask) {
                let (url, ask) = (self.roster.borrow().url(no).clone(), &ask);
                pending.push((no, now));
                asked.push(async move { (no, ask(&url).await) });
            }
            if asked.is_empty() {
                let rested = self.roster.borrow().next_rested(now);
                if let Some(at) = rested.filter(|_| now - began < BUSY_FOR) {
                    sleep_until(at.into()).await;
                    continue;
                }
                let tries = self.relocations.get();
                if tries == RELOCATIONS {
                    return Err(self.roster.borrow().verdict());
                }
                sleep(RELOCATE_AFTER * 2u32.pow(tries)).await;
                self.relocations.set(tries + 1);
                let found = (self.relocate)().await;
                self.roster.borrow_mut().add(found);
                continue;
            }
            match timeout(HEDGE_AFTER, asked.next()).await {
                Ok(Some((_, Ok(answer)))) => {
                    self.relocations.set(0);
                    return Ok(answer);
                }
                Ok(Some((no, Err(fault)))) => {
                    pending.retain(|(other, _)| *other != no);
                    self.blame(no, fault, Instant::now());
                }
                Ok(None) | Err(_) => {}
            }
        }
    }

    async fn keep(&self, part: Arc<Part>) -> Result<(), JobError> {
        if !self.tools.store.keeps_size(self.job.layout.size()) {
            return Ok(());
        }
        let (store, names) = (self.tools.store.clone(), self.job.names());
        let (digest, modified_ms) = (self.job.digest, self.job.modified_ms);
        let kept = spawn_blocking(move || store.keep(&part, &names, digest, modified_ms));
        if let Some(kept) = kept.await.map_err(interrupted)?? {
            // Only this task sets it.
            let _ = self.job.kept.set(kept);
        }
        Ok(())
    }

    async fn keep_small(&self, bytes: Bytes) -> Result<(), JobError> {
        if !self.tools.store.keeps_size(self.job.layout.size()) {
            return Ok(());
        }
        let names = self.job.names();
        self.check_room((bytes.len() * names.len()) as u64).await?;
        let small = Small {
            bytes,
            names,
            digest: self.job.digest,
            modified_ms: self.job.modified_ms,
        };
        Ok(self.tools.store.keep_small(small).await?)
    }
}

/// Three quarters of it to five quarters: a crowd that starts together does not go on in
/// step.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.75..1.25))
}
