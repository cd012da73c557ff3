//! What happens in this peer, told to whoever listens (`GET /v1/events`).
//!
//! Invariants: ids grow by one with each event, across restarts they only grow; the ring holds
//! the latest events without a gap; a listener that asks for what the ring has no longer is told
//! `reset` first. A listener has a place in the ring and nothing else, so that one who reads
//! slowly costs no memory. While nobody listens, events are counted and not kept.

mod pace;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::{Bytes, BytesMut};
use serde::Serialize;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, broadcast, watch},
    time::sleep_until,
};
use vecino_rest::{
    Digest,
    body::DownloadState,
    event::{self, FileChange, Presence, Transfer},
};

use self::pace::Pace;
use crate::content::catalogue::{Catalogue, Change};

/// Events that are remembered.
const REMEMBERED: usize = 1024;
/// Bytes of them.
const REMEMBERED_BYTES: usize = 4 << 20;
/// Who may listen at a time.
const MAX_LISTENERS: usize = 64;
/// A listener that left may come back for so long without missing anything.
const COMES_BACK_WITHIN: Duration = Duration::from_secs(60);
/// Bytes that a listener takes at once.
const TAKEN: usize = 64 << 10;

#[derive(Debug)]
struct Event {
    id: u64,
    /// The content that it is about.
    digest: Option<Digest>,
    /// As it goes over the wire.
    frame: Bytes,
}

#[derive(Debug)]
struct State {
    ring: VecDeque<Event>,
    ring_bytes: usize,
    next_id: u64,
    listening: usize,
    last_left: Option<Instant>,
    transfers: Pace<Transfer>,
}

impl State {
    fn is_heard(&self, now: Instant) -> bool {
        self.listening > 0
            || self
                .last_left
                .is_some_and(|left| now.saturating_duration_since(left) < COMES_BACK_WITHIN)
    }

    /// Counts an event that nobody will be told.
    fn skip(&mut self) {
        self.next_id += 1;
        self.ring.clear();
        self.ring_bytes = 0;
    }

    fn push(&mut self, kind: &str, digest: Option<Digest>, body: &impl Serialize) {
        let id = self.next_id;
        self.next_id += 1;
        let data = serde_json::to_string(body).expect("an event is plain data");
        let frame = Bytes::from(format!("id: {id}\nevent: {kind}\ndata: {data}\n\n"));
        self.ring_bytes += frame.len();
        self.ring.push_back(Event { id, digest, frame });
        while self.ring.len() > REMEMBERED || self.ring_bytes > REMEMBERED_BYTES {
            let Some(oldest) = self.ring.pop_front() else {
                return;
            };
            self.ring_bytes -= oldest.frame.len();
        }
    }
}

/// What listeners wait for.
#[derive(Debug, Clone, Copy)]
struct Tip {
    next_id: u64,
    is_closed: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Events {
    state: Mutex<State>,
    tip: watch::Sender<Tip>,
    held_back: Notify,
    places: Arc<Semaphore>,
}

impl Default for Events {
    /// Ids begin with the time, so that those of an earlier life are never taken for this one's.
    fn default() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let since = since.unwrap_or_default().as_millis();
        Self::beginning_at(
            u64::try_from(since)
                .unwrap_or_default()
                .saturating_mul(1000),
        )
    }
}

impl Events {
    fn beginning_at(next_id: u64) -> Self {
        Self {
            state: Mutex::new(State {
                ring: VecDeque::new(),
                ring_bytes: 0,
                next_id,
                listening: 0,
                last_left: None,
                transfers: Pace::default(),
            }),
            tip: watch::Sender::new(Tip {
                next_id,
                is_closed: false,
            }),
            held_back: Notify::new(),
            places: Arc::new(Semaphore::new(MAX_LISTENERS)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_tip(&self, state: &State) {
        let next_id = state.next_id;
        self.tip.send_modify(|tip| tip.next_id = next_id);
    }

    /// Whether it is worth the while to make an event.
    pub fn is_heard(&self) -> bool {
        self.state().is_heard(Instant::now())
    }

    /// Tells `body` as an event of this kind; of one content, when there is a `digest`.
    pub fn publish(&self, kind: &str, digest: Option<Digest>, body: &impl Serialize) {
        let mut state = self.state();
        if state.is_heard(Instant::now()) {
            state.push(kind, digest, body);
            self.tell_tip(&state);
        } else {
            state.skip();
        }
    }

    /// Tells how a transfer does: the first and the last of each content at once, what is between
    /// them at most four times a second.
    pub fn transfer(&self, transfer: &Transfer) {
        let now = Instant::now();
        let mut state = self.state();
        if !state.is_heard(now) {
            state.transfers.clear();
            state.skip();
            return;
        }
        let is_last = !matches!(
            transfer.state,
            DownloadState::Locating | DownloadState::Running
        );
        let digest = transfer.digest;
        let offered = state
            .transfers
            .offer(now, digest, is_last, transfer.clone());
        match offered {
            Some(transfer) => {
                state.push(event::TRANSFER, Some(digest), &transfer);
                self.tell_tip(&state);
            }
            None => self.held_back.notify_one(),
        }
    }

    /// Tells what [`Events::transfer`] held back, when it is due; until the process ends.
    pub async fn run(self: Arc<Self>) {
        loop {
            let next_due = self.state().transfers.next_due();
            let Some(at) = next_due else {
                self.held_back.notified().await;
                continue;
            };
            sleep_until(at.into()).await;
            let mut state = self.state();
            for transfer in state.transfers.due(Instant::now()) {
                state.push(event::TRANSFER, Some(transfer.digest), &transfer);
            }
            self.tell_tip(&state);
        }
    }

    /// Tells how the catalogue changes; until the process ends.
    pub async fn follow(self: Arc<Self>, catalogue: Arc<Catalogue>) {
        let mut changes = catalogue.follow();
        loop {
            let change = match changes.recv().await {
                Ok(Change::Added(record)) => FileChange {
                    change: Presence::Added,
                    origin: catalogue
                        .by_name_and_digest(&record.name, &record.digest)
                        .map(|entry| entry.origin),
                    name: record.name,
                    digest: record.digest,
                    size: record.size,
                },
                Ok(Change::Removed(digest, name, size)) => FileChange {
                    change: Presence::Removed,
                    name,
                    digest,
                    size,
                    origin: None,
                },
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    let mut state = self.state();
                    state.skip();
                    self.tell_tip(&state);
                    continue;
                }
                Err(broadcast::error::RecvError::Closed) => return,
            };
            self.publish(event::FILE, Some(change.digest), &change);
        }
    }

    /// A listener to what comes, with `after` to what came after that event; with `about` only to
    /// what is about that content. `None` when too many listen already.
    pub fn listen(self: &Arc<Self>, after: Option<u64>, about: Option<Digest>) -> Option<Listener> {
        let place = self.places.clone().try_acquire_owned().ok()?;
        let mut state = self.state();
        state.listening += 1;
        Some(Listener {
            next: after.map_or(state.next_id, |after| after.saturating_add(1)),
            events: self.clone(),
            about,
            tip: self.tip.subscribe(),
            _place: place,
        })
    }

    /// Ends all listeners, now and from now on.
    pub fn close(&self) {
        self.tip.send_modify(|tip| tip.is_closed = true);
    }
}

/// One who listens; see [`Events::listen`].
#[derive(Debug)]
pub struct Listener {
    events: Arc<Events>,
    next: u64,
    about: Option<Digest>,
    tip: watch::Receiver<Tip>,
    _place: OwnedSemaphorePermit,
}

impl Listener {
    /// The events that come next, as they go over the wire; `None` when there will be no more.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            let is_closed = self.tip.borrow_and_update().is_closed;
            if is_closed {
                return None;
            }
            let taken = self.take();
            if !taken.is_empty() {
                return Some(taken);
            }
            self.tip.changed().await.ok()?;
        }
    }

    fn take(&mut self) -> Bytes {
        let state = self.events.state();
        let first = state.ring.front().map_or(state.next_id, |event| event.id);
        let mut taken = BytesMut::new();
        if self.next < first || self.next > state.next_id {
            let before = first.saturating_sub(1);
            let frame = format!("id: {before}\nevent: {}\ndata: {{}}\n\n", event::RESET);
            taken.extend_from_slice(frame.as_bytes());
            self.next = first;
        }
        let skipped = usize::try_from(self.next - first).unwrap_or(usize::MAX);
        for event in state.ring.iter().skip(skipped) {
            if taken.len() >= TAKEN {
                break;
            }
            self.next = event.id + 1;
            if self.about.is_none() || self.about == event.digest {
                taken.extend_from_slice(&event.frame);
            }
        }
        taken.freeze()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut state = self.events.state();
        state.listening -= 1;
        state.last_left = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events() -> Arc<Events> {
        Arc::new(Events::beginning_at(1))
    }

    /// The ids that a listener takes, and whether it was told `reset` first.
    fn taken(listener: &mut Listener) -> (bool, Vec<u64>) {
        let text = String::from_utf8(listener.take().to_vec()).expect("text");
        let mut was_reset = false;
        let frames = text.split_terminator("\n\n").filter_map(|frame| {
            let mut lines = frame.lines();
            let id = lines.next()?.strip_prefix("id: ")?.parse().ok()?;
            let is_reset = lines.next() == Some("event: reset");
            was_reset |= is_reset;
            (!is_reset).then_some(id)
        });
        let ids = frames.collect();
        (was_reset, ids)
    }

    #[test]
    fn a_listener_gets_what_comes_and_goes_on_after_a_break() {
        let events = events();
        let mut listener = events.listen(None, None).expect("a place");
        events.publish("file", None, &1);
        events.publish("file", None, &2);
        assert_eq!(taken(&mut listener), (false, vec![1, 2]));
        assert_eq!(taken(&mut listener), (false, vec![]));
        drop(listener);
        events.publish("file", None, &3);
        let mut again = events.listen(Some(1), None).expect("a place");
        assert_eq!(taken(&mut again), (false, vec![2, 3]));
    }

    #[test]
    fn what_is_missed_is_said() {
        let events = events();
        // Nobody listens: counted, not kept.
        events.publish("file", None, &1);
        let mut listener = events.listen(Some(0), None).expect("a place");
        assert_eq!(taken(&mut listener), (true, vec![]));
        for number in 0..2 * REMEMBERED {
            events.publish("file", None, &number);
        }
        let mut ids = Vec::new();
        let (was_reset, mut some) = taken(&mut listener);
        assert!(was_reset, "it was too slow");
        while !some.is_empty() {
            ids.append(&mut some);
            let (was_reset, more) = taken(&mut listener);
            assert!(!was_reset);
            some = more;
        }
        let last = 2 * REMEMBERED as u64 + 1;
        assert!(ids.into_iter().eq(last - REMEMBERED as u64 + 1..=last));
        // An id of another life.
        let mut lost = events.listen(Some(u64::MAX), None).expect("a place");
        assert!(taken(&mut lost).0);
    }

    #[test]
    fn what_is_remembered_is_bounded_in_bytes() {
        let events = events();
        let _listener = events.listen(None, None).expect("a place");
        let long = "x".repeat(REMEMBERED_BYTES / 4);
        for _ in 0..8 {
            events.publish("file", None, &long);
        }
        assert_eq!(events.state().ring.len(), 3);
        assert!(events.state().ring_bytes <= REMEMBERED_BYTES);
    }

    #[test]
    fn who_asks_for_one_content_hears_of_no_other() {
        let events = events();
        let (mine, other) = (Digest::of(b"mine"), Digest::of(b"other"));
        let mut listener = events.listen(None, Some(mine)).expect("a place");
        for digest in [Some(other), None, Some(mine), Some(other)] {
            events.publish("file", digest, &0);
        }
        assert_eq!(taken(&mut listener), (false, vec![3]));
        assert_eq!(listener.next, 5, "the others count as heard");
    }

    #[test]
    fn places_are_bounded_and_given_back() {
        let events = events();
        let mut listeners: Vec<_> = (0..MAX_LISTENERS)
            .map(|_| events.listen(None, None).expect("a place"))
            .collect();
        assert!(events.listen(None, None).is_none());
        listeners.pop();
        assert!(events.listen(None, None).is_some());
    }

    #[tokio::test]
    async fn closing_ends_who_waits() {
        let events = events();
        let mut listener = events.listen(None, None).expect("a place");
        let waiting = tokio::spawn(async move { listener.next().await });
        tokio::task::yield_now().await;
        events.close();
        assert!(waiting.await.expect("ended").is_none());
        let mut late = events.listen(None, None).expect("a place");
        assert!(late.next().await.is_none());
    }
}
