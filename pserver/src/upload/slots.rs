//! [`Slots`]: so many contents are sent to other peers at once, and no more, so that each is sent
//! fast; fair among those who ask.
//!
//! Invariants: of those who wait, the one whose asker has the fewest slots goes first, of equals
//! the one who came first. A slot counts for `COUNTS_FOR` at most: who reads slowly holds nobody
//! up. Who would wait for too long is told to come back.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    sync::Notify,
    time::{sleep_until, timeout_at},
};

/// Slots.
const SLOTS: usize = 3;
/// Who waits at once, at most.
const MAX_WAITING: usize = 256;
/// Of one asker, who may be many behind one address.
const MAX_WAITING_OF_ONE: usize = 64;
/// So few bytes are sent without a slot: they are on their way before others would notice.
const FREE_BYTES: u64 = 256 << 10;
/// How long somebody waits.
const WAITS_FOR: Duration = Duration::from_secs(3);
/// How long a slot counts.
const COUNTS_FOR: Duration = Duration::from_secs(2);

/// No slot became free in time: come back later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy;

#[derive(Debug, Default)]
struct Queue {
    next: u64,
    /// Who holds a slot, and since when.
    taken: BTreeMap<u64, (IpAddr, Instant)>,
    waiting: BTreeMap<u64, IpAddr>,
}

impl Queue {
    /// Slots that count at `now`.
    fn counting(&self, now: Instant) -> impl Iterator<Item = &(IpAddr, Instant)> {
        let taken = self.taken.values();
        taken.filter(move |(_, since)| now < *since + COUNTS_FOR)
    }

    fn held_by(&self, asker: IpAddr, now: Instant) -> usize {
        self.counting(now).filter(|(by, _)| *by == asker).count()
    }

    /// A place in the queue; `None` when it is full.
    fn enter(&mut self, asker: IpAddr) -> Option<u64> {
        let own = self.waiting.values().filter(|by| **by == asker).count();
        if self.waiting.len() >= MAX_WAITING || own >= MAX_WAITING_OF_ONE {
            return None;
        }
        self.next += 1;
        self.waiting.insert(self.next, asker);
        Some(self.next)
    }

    /// Gives `ticket` a slot when one is free and it is its turn; else when to look again, at the
    /// latest.
    fn try_take(&mut self, ticket: u64, now: Instant) -> Result<(), Option<Instant>> {
        if self.counting(now).count() >= SLOTS {
            let ends = self.counting(now).map(|(_, since)| *since + COUNTS_FOR);
            return Err(ends.min());
        }
        let turn = self
            .waiting
            .iter()
            .min_by_key(|(ticket, asker)| (self.held_by(**asker, now), **ticket));
        match turn.map(|(next, asker)| (*next, *asker)) {
            Some((next, asker)) if next == ticket => {
                self.waiting.remove(&ticket);
                self.taken.insert(ticket, (asker, now));
                Ok(())
            }
            _ => Err(None),
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Slots {
    queue: Mutex<Queue>,
    changed: Notify,
}

/// A slot; free again when dropped.
#[derive(Debug)]
pub struct Slot {
    slots: Arc<Slots>,
    /// `None`: it takes no place.
    ticket: Option<u64>,
}

impl Slots {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a slot in which `bytes` are sent to `asker`.
    pub async fn take(self: &Arc<Self>, asker: IpAddr, bytes: u64) -> Result<Slot, Busy> {
        if bytes <= FREE_BYTES {
            return Ok(Slot {
                slots: self.clone(),
                ticket: None,
            });
        }
        let ticket = self.queue().enter(asker).ok_or(Busy)?;
        // Leaves the queue, or gives the slot back, whatever happens from here on.
        let slot = Slot {
            slots: self.clone(),
            ticket: Some(ticket),
        };
        let deadline = Instant::now() + WAITS_FOR;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let again = match self.queue().try_take(ticket, Instant::now()) {
                Ok(()) => break,
                Err(again) => again.map_or(deadline, |at| at.min(deadline)),
            };
            if timeout_at(again.into(), changed).await.is_err() {
                if again >= deadline {
                    return Err(Busy);
                }
                sleep_until(again.into()).await;
            }
        }
        // There may be another one free.
        self.changed.notify_waiters();
        Ok(slot)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else {
            return;
        };
        let mut queue = self.slots.queue();
        queue.waiting.remove(&ticket);
        queue.taken.remove(&ticket);
        drop(queue);
        self.slots.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    #[test]
    fn who_has_fewer_slots_goes_first() {
        let mut queue = Queue::default();
        let now = Instant::now();
        let of_a: Vec<_> = (0..6).map(|_| queue.enter(A).expect("room")).collect();
        for ticket in &of_a[..SLOTS] {
            assert_eq!(queue.try_take(*ticket, now), Ok(()));
        }
        let of_b = queue.enter(B).expect("room");
        assert_eq!(queue.try_take(of_a[4], now), Err(Some(now + COUNTS_FOR)));
        queue.taken.remove(&of_a[0]);
        assert_eq!(queue.try_take(of_a[4], now), Err(None), "it is B's turn");
        assert_eq!(queue.try_take(of_b, now), Ok(()));
    }

    #[test]
    fn a_slow_reader_holds_nobody_up() {
        let mut queue = Queue::default();
        let now = Instant::now();
        for _ in 0..SLOTS {
            let ticket = queue.enter(A).expect("room");
            assert_eq!(queue.try_take(ticket, now), Ok(()));
        }
        let next = queue.enter(A).expect("room");
        assert!(queue.try_take(next, now).is_err());
        assert_eq!(queue.try_take(next, now + COUNTS_FOR), Ok(()));
    }

    #[test]
    fn the_queue_is_bounded() {
        let mut queue = Queue::default();
        for _ in 0..MAX_WAITING_OF_ONE {
            assert!(queue.enter(A).is_some());
        }
        assert!(queue.enter(A).is_none() && queue.enter(B).is_some());
    }

    #[tokio::test]
    async fn who_waits_gets_the_next_slot_or_is_told_to_come_back() {
        let slots = Arc::new(Slots::default());
        let mut taken = Vec::new();
        for _ in 0..SLOTS {
            taken.push(slots.take(A, u64::MAX).await.expect("free"));
        }
        assert!(slots.take(B, FREE_BYTES).await.is_ok(), "it needs none");
        let waiting = tokio::spawn({
            let slots = slots.clone();
            async move { slots.take(B, FREE_BYTES + 1).await }
        });
        tokio::task::yield_now().await;
        taken.pop();
        assert!(waiting.await.expect("ended").is_ok());
        assert!(slots.queue().waiting.is_empty());
    }
}
