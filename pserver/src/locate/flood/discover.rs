//! A discovery: floods for what peers share, page after page, and remembers it.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, time::timeout_at};
use vecino_rest::{PeerId, overlay::DiscoverEvent};

use super::{
    Flood,
    ask::Asked,
    limits::{
        DISCOVER_HOPS, DISCOVER_WAIT, MAX_DISCOVER_WAIT, MAX_DISCOVERIES, MAX_HOPS, MAX_PAGES,
    },
    message::Held,
    state::{Event, Shared},
};

/// Lines of progress that wait for who reads them.
const PROGRESS_QUEUE: usize = 64;

/// How a discovery is made.
#[derive(Debug, Clone, Copy)]
pub struct Discovery {
    /// How deep it goes.
    pub hops: u32,
    /// How long it may take.
    pub wait: Duration,
}

impl Discovery {
    /// As asked for, within bounds.
    pub fn new(hops: Option<u32>, wait: Option<Duration>) -> Self {
        Self {
            hops: hops.unwrap_or(DISCOVER_HOPS).clamp(1, MAX_HOPS),
            wait: wait.unwrap_or(DISCOVER_WAIT).min(MAX_DISCOVER_WAIT),
        }
    }
}

/// A discovery under way, counted while it lives.
struct Slot(Arc<AtomicUsize>);

impl Slot {
    fn take(running: &Arc<AtomicUsize>) -> Option<Self> {
        let before = running.fetch_add(1, Ordering::Relaxed);
        let slot = Self(running.clone());
        (before < MAX_DISCOVERIES).then_some(slot)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Flood {
    /// Begins a discovery; its progress comes from the receiver, the end of it last. `None` when
    /// too many are under way. It goes on when nobody listens.
    pub fn discover(&self, discovery: Discovery) -> Option<mpsc::Receiver<DiscoverEvent>> {
        let slot = Slot::take(&self.shared.discoveries)?;
        let (events, receiver) = mpsc::channel(PROGRESS_QUEUE);
        let shared = self.shared.clone();
        tokio::spawn(async move {
            let _slot = slot;
            run(&shared, discovery, &events).await;
        });
        Some(receiver)
    }
}

#[derive(Debug, Default)]
struct Tally {
    peers: HashMap<PeerId, u64>,
    files: u64,
    visited: u32,
}

async fn run(shared: &Shared, discovery: Discovery, events: &mpsc::Sender<DiscoverEvent>) {
    let began = Instant::now();
    let end = began + discovery.wait;
    shared.discovered().begin(began);
    let mut tally = Tally::default();
    let mut complete = false;
    for page in 0..MAX_PAGES {
        let left = end.saturating_duration_since(Instant::now());
        let asked = Asked::discovery(page, discovery.hops, left, rand::random());
        match one_page(shared, asked, end, began, &mut tally, events).await {
            Some(true) => {}
            Some(false) => {
                complete = true;
                break;
            }
            None => break,
        }
    }
    let last = DiscoverEvent::End {
        peers: tally.peers.len() as u64,
        files: tally.files,
        visited: tally.visited.into(),
        complete,
        elapsed_ms: elapsed_ms(began),
    };
    // Who does not listen any more needs nothing.
    let _ = events.send(last).await;
}

/// One page; whether somebody has a further one. `None` when time ran out.
async fn one_page(
    shared: &Shared,
    asked: Asked,
    end: Instant,
    began: Instant,
    tally: &mut Tally,
    events: &mpsc::Sender<DiscoverEvent>,
) -> Option<bool> {
    let mut more = false;
    let mut found = shared.ask(asked)?;
    loop {
        match timeout_at(end.into(), found.recv()).await.ok()? {
            Some(Event::Found(held)) => {
                more |= held.more;
                let event = take_up(shared, held, began, tally);
                // A reader that is too slow misses lines, not files.
                let _ = events.try_send(event);
            }
            Some(Event::Ended(visited)) => tally.visited = tally.visited.max(visited),
            None => return (Instant::now() < end).then_some(more),
        }
    }
}

fn take_up(shared: &Shared, held: Held, began: Instant, tally: &mut Tally) -> DiscoverEvent {
    let holder = held.holder.clone();
    let taken = shared.discovered().insert(held, Instant::now()) as u64;
    let files = tally.peers.entry(holder.peer).or_default();
    *files += taken;
    tally.files += taken;
    DiscoverEvent::Peer {
        peer: holder.peer,
        url: holder.url.to_string(),
        site: holder.site,
        files: *files,
        elapsed_ms: elapsed_ms(began),
    }
}

fn elapsed_ms(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
}
