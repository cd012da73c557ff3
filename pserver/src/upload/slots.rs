//! [`Slots`]: so many contents are sent to other peers at once, and no more, so that each is sent
//! fast; fair among those who ask.
//!
//! Invariants: of those who wait, the one whose asker has the fewest slots goes first, of equals
//! the one who takes what was sent least often, of equals the one who came first; of what it takes
//! it gets what was sent least often. So a crowd gets different pieces, which its members then
//! have from each other; nobody is passed over for longer than `PASSED_OVER_FOR`. A slot counts for
//! `COUNTS_FOR` at most: who reads slowly holds nobody up. Who would wait for too long is told to
//! come back.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::{IpAddr, Ipv6Addr},
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    sync::Notify,
    time::{sleep_until, timeout_at},
};
use vecino_rest::{Digest, piece::Layout};

/// Slots.
const SLOTS: usize = 6;
/// Who waits at once, at most.
const MAX_WAITING: usize = 256;
/// Of one asker, who may be many behind one address.
const MAX_WAITING_OF_ONE: usize = 64;
/// So few bytes are sent without a slot: they are on their way before others would notice.
const FREE_BYTES: u64 = 64 << 10;
/// How long somebody waits.
const WAITS_FOR: Duration = Duration::from_secs(3);
/// How long a slot counts.
const COUNTS_FOR: Duration = Duration::from_secs(2);
/// How long those go first who take what was sent less often.
const PASSED_OVER_FOR: Duration = Duration::from_secs(1);
/// How often something was sent is remembered for so much of it.
const MAX_SENT: usize = 4096;
/// Pieces of one request, beside the first, that count as sent: who asks for more is in no crowd.
const MAX_ALONG: usize = 63;

/// No slot became free in time: come back later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy;

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct What {
    /// Of which content.
    pub digest: Digest,
    /// From which offset on: any of these, the first one rather than another; at least one.
    pub offsets: Vec<u64>,
    /// Where the further pieces begin that are sent along.
    pub along: Vec<u64>,
}

/// Where the pieces begin that a run of several brings beside its first one.
pub fn along(range: &Range<u64>, size: u64) -> Vec<u64> {
    let Some(layout) = Layout::of(size) else {
        return Vec::new();
    };
    let further = layout.pieces_in(range).skip(1).take(MAX_ALONG);
    further.map(|piece| layout.range(piece).start).collect()
}

#[derive(Debug)]
struct Waiting {
    asker: IpAddr,
    what: What,
    since: Instant,
    /// Those of the offsets that were sent least often, in their order, and how often that is.
    rarest: Vec<u64>,
    times: u32,
}

impl Waiting {
    /// `sent` may have changed at `offset`.
    fn was_sent(&mut self, offset: u64, sent: &Sent) {
        self.rarest.retain(|other| *other != offset);
        if self.rarest.is_empty() {
            (self.rarest, self.times) = sent.rarest(&self.what);
        }
    }
}

/// How often what was sent, or is being sent.
#[derive(Debug, Default)]
struct Sent {
    times: HashMap<(Digest, u64), u32>,
    oldest_first: VecDeque<(Digest, u64)>,
}

impl Sent {
    fn add(&mut self, digest: Digest, offset: u64) {
        let times = self.times.entry((digest, offset)).or_default();
        *times = times.saturating_add(1);
        if *times > 1 {
            return;
        }
        self.oldest_first.push_back((digest, offset));
        if self.oldest_first.len() > MAX_SENT
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.times.remove(&oldest);
        }
    }

    /// The offsets that were sent least often, and how often that is.
    fn rarest(&self, what: &What) -> (Vec<u64>, u32) {
        let (mut rarest, mut fewest) = (Vec::new(), u32::MAX);
        for &offset in &what.offsets {
            let times = self.times.get(&(what.digest, offset)).copied();
            let times = times.unwrap_or(0);
            if times < fewest {
                fewest = times;
                rarest.clear();
            }
            if times == fewest {
                rarest.push(offset);
            }
        }
        (rarest, fewest)
    }
}

#[derive(Debug, Default)]
struct Queue {
    next: u64,
    /// Who holds a slot, and since when.
    taken: BTreeMap<u64, (IpAddr, Instant)>,
    waiting: BTreeMap<u64, Waiting>,
    sent: Sent,
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

    /// A place in the queue from `since` on; `None` when it is full of those who have no more than
    /// `asker` would. Else the newest of the one who has the most goes.
    fn enter(&mut self, asker: IpAddr, what: What, since: Instant) -> Option<u64> {
        let waiting = self.waiting.values();
        let own = waiting.filter(|other| other.asker == asker).count();
        if own >= MAX_WAITING_OF_ONE {
            return None;
        }
        if self.waiting.len() >= MAX_WAITING {
            let mut counts: BTreeMap<IpAddr, (usize, u64)> = BTreeMap::new();
            for (&ticket, waiting) in &self.waiting {
                let (count, newest) = counts.entry(waiting.asker).or_default();
                (*count, *newest) = (*count + 1, ticket);
            }
            let (most, newest) = counts.into_values().max()?;
            if most <= own + 1 {
                return None;
            }
            self.waiting.remove(&newest);
        }
        self.next += 1;
        let (rarest, times) = self.sent.rarest(&what);
        let waiting = Waiting {
            asker,
            what,
            since,
            rarest,
            times,
        };
        self.waiting.insert(self.next, waiting);
        Some(self.next)
    }

    /// Gives `ticket` a slot when one is free and it is its turn, and says which offset is to be
    /// sent; else when to look again, at the latest.
    fn try_take(&mut self, ticket: u64, now: Instant) -> Result<u64, Option<Instant>> {
        if self.counting(now).count() >= SLOTS {
            let ends = self.counting(now).map(|(_, since)| *since + COUNTS_FOR);
            return Err(ends.min());
        }
        let turn = self.waiting.iter().min_by_key(|(ticket, waiting)| {
            let may_be_passed_over = now < waiting.since + PASSED_OVER_FOR;
            let times = if may_be_passed_over { waiting.times } else { 0 };
            (self.held_by(waiting.asker, now), times, **ticket)
        });
        if turn.is_none_or(|(next, _)| *next != ticket) {
            return Err(None);
        }
        let Some(served) = self.waiting.remove(&ticket) else {
            return Err(None);
        };
        let (digest, offset) = (served.what.digest, served.rarest[0]);
        self.taken.insert(ticket, (served.asker, now));
        for offset in std::iter::once(offset).chain(served.what.along) {
            self.sent.add(digest, offset);
            for waiting in self.waiting.values_mut() {
                if waiting.what.digest == digest {
                    waiting.was_sent(offset, &self.sent);
                }
            }
        }
        Ok(offset)
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

impl Slot {
    /// Whether somebody else than `asker` is sent something at the same time.
    pub fn is_one_of_many(&self, asker: IpAddr) -> bool {
        let asker = one_of(asker);
        let queue = self.slots.queue();
        let mut counting = queue.counting(Instant::now());
        self.ticket.is_some() && counting.any(|(by, _)| *by != asker)
    }

    /// Whether others may wait for it.
    pub fn is_waited_for(&self) -> bool {
        self.ticket.is_some()
    }
}

impl Slots {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a slot in which `bytes` of `what` are sent to `asker`, from the offset on that
    /// comes with it.
    pub async fn take(
        self: &Arc<Self>,
        asker: IpAddr,
        what: What,
        bytes: u64,
    ) -> Result<(Slot, u64), Busy> {
        if bytes <= FREE_BYTES {
            let slot = Slot {
                slots: self.clone(),
                ticket: None,
            };
            return Ok((slot, what.offsets[0]));
        }
        let asker = one_of(asker);
        let entered = self.queue().enter(asker, what, Instant::now());
        let ticket = entered.ok_or(Busy)?;
        // Somebody may have gone for it.
        self.changed.notify_waiters();
        // Leaves the queue, or gives the slot back, whatever happens from here on.
        let slot = Slot {
            slots: self.clone(),
            ticket: Some(ticket),
        };
        let deadline = Instant::now() + WAITS_FOR;
        let offset = loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let again = {
                let mut queue = self.queue();
                if !queue.waiting.contains_key(&ticket) {
                    return Err(Busy);
                }
                match queue.try_take(ticket, Instant::now()) {
                    Ok(offset) => break offset,
                    Err(again) => again.map_or(deadline, |at| at.min(deadline)),
                }
            };
            if timeout_at(again.into(), changed).await.is_err() {
                if again >= deadline {
                    return Err(Busy);
                }
                sleep_until(again.into()).await;
            }
        };
        // There may be another one free.
        self.changed.notify_waiters();
        Ok((slot, offset))
    }
}

/// Whom an address belongs to: with IPv6, everybody has as many as they like in one /64.
fn one_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() & !u128::from(u64::MAX);
            Ipv6Addr::from_bits(network).into()
        }
        address => address,
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

    /// What nobody else wants.
    fn other() -> What {
        what([rand::random()])
    }

    fn what(offsets: impl Into<Vec<u64>>) -> What {
        What {
            digest: Digest::of(b"a"),
            offsets: offsets.into(),
            along: Vec::new(),
        }
    }

    fn asker(number: u8) -> IpAddr {
        IpAddr::from([10, 0, 1, number])
    }

    #[test]
    fn all_pieces_of_a_run_count_as_sent() {
        let mut queue = Queue::default();
        let now = Instant::now();
        let run = What {
            along: vec![1, 2],
            ..what([0])
        };
        let mut serve = |number: u8, what: What| {
            let ticket = queue.enter(asker(number), what, now).expect("room");
            queue.try_take(ticket, now)
        };
        assert_eq!(serve(1, run), Ok(0));
        assert_eq!(serve(2, what([2, 1, 3])), Ok(3));
    }

    #[test]
    fn what_was_sent_waits_for_what_was_not() {
        let mut queue = Queue::default();
        let now = Instant::now();
        let tickets: Vec<_> = [1, 1, 2, 3, 4]
            .into_iter()
            .zip(0..)
            .map(|(offset, number)| {
                let ticket = queue.enter(asker(number), what([offset]), now);
                ticket.expect("room")
            })
            .collect();
        assert_eq!(queue.try_take(tickets[0], now), Ok(1));
        assert_eq!(queue.try_take(tickets[1], now), Err(None), "it was sent");
        assert_eq!(queue.try_take(tickets[2], now), Ok(2));
        // But not for ever.
        let later = now + PASSED_OVER_FOR;
        assert_eq!(queue.try_take(tickets[3], later), Err(None));
        assert_eq!(queue.try_take(tickets[1], later), Ok(1));
    }

    #[test]
    fn everybody_is_sent_what_was_sent_least_often_of_what_they_take() {
        let mut queue = Queue::default();
        let now = Instant::now();
        let mut sent = |number, offsets: &[u64]| {
            let ticket = queue.enter(asker(number), what(offsets), now);
            let ticket = ticket.expect("room");
            let offset = queue.try_take(ticket, now).expect("free");
            queue.taken.remove(&ticket);
            offset
        };
        assert_eq!(sent(0, &[3, 1, 2]), 3, "the first one rather than another");
        assert_eq!(sent(1, &[3, 1, 2]), 1);
        assert_eq!(sent(2, &[3]), 3, "nothing else is taken");
        assert_eq!(sent(3, &[3, 1, 2]), 2);
        assert_eq!(sent(4, &[3, 2, 1]), 2, "3 was sent twice");
    }

    #[test]
    fn what_others_are_sent_meanwhile_is_not_sent_again() {
        let mut queue = Queue::default();
        let now = Instant::now();
        let tickets: Vec<_> = (0..4)
            .map(|number| {
                let offsets = if number == 3 { vec![1] } else { vec![1, 2, 3] };
                let ticket = queue.enter(asker(number), what(offsets), now);
                ticket.expect("room")
            })
            .collect();
        assert_eq!(queue.try_take(tickets[0], now), Ok(1));
        assert_eq!(queue.try_take(tickets[1], now), Ok(2));
        // Who comes last takes nothing but what was sent, and waits for who takes something else.
        assert_eq!(queue.try_take(tickets[3], now), Err(None));
        assert_eq!(queue.try_take(tickets[2], now), Ok(3));
        assert_eq!(queue.try_take(tickets[3], now), Ok(1));
    }

    #[test]
    fn what_was_sent_is_forgotten_in_the_end() {
        let mut sent = Sent::default();
        let digest = Digest::of(b"a");
        for offset in 0..2 * MAX_SENT as u64 {
            sent.add(digest, offset);
            sent.add(digest, offset);
        }
        assert_eq!(
            (sent.times.len(), sent.oldest_first.len()),
            (MAX_SENT, MAX_SENT)
        );
        let last = 2 * MAX_SENT as u64 - 1;
        assert_eq!(sent.rarest(&what([last, 0])), (vec![0], 0));
        assert_eq!(
            sent.rarest(&what([last, last - 1])),
            (vec![last, last - 1], 2)
        );
    }

    #[test]
    fn who_has_fewer_slots_goes_first() {
        let mut queue = Queue::default();
        let now = Instant::now();
        let of_a: Vec<_> = (0..6)
            .map(|_| queue.enter(A, other(), now).expect("room"))
            .collect();
        for ticket in &of_a[..SLOTS] {
            assert!(queue.try_take(*ticket, now).is_ok());
        }
        let of_b = queue.enter(B, other(), now).expect("room");
        assert_eq!(queue.try_take(of_a[4], now), Err(Some(now + COUNTS_FOR)));
        queue.taken.remove(&of_a[0]);
        assert_eq!(queue.try_take(of_a[4], now), Err(None), "it is B's turn");
        assert!(queue.try_take(of_b, now).is_ok());
    }

    #[test]
    fn a_slow_reader_holds_nobody_up() {
        let mut queue = Queue::default();
        let now = Instant::now();
        for _ in 0..SLOTS {
            let ticket = queue.enter(A, other(), now).expect("room");
            assert!(queue.try_take(ticket, now).is_ok());
        }
        let next = queue.enter(A, other(), now).expect("room");
        assert!(queue.try_take(next, now).is_err());
        assert!(queue.try_take(next, now + COUNTS_FOR).is_ok());
    }

    #[test]
    fn the_queue_is_bounded() {
        let mut queue = Queue::default();
        let now = Instant::now();
        for _ in 0..MAX_WAITING_OF_ONE {
            assert!(queue.enter(A, other(), now).is_some());
        }
        assert!(queue.enter(A, other(), now).is_none());
        assert!(queue.enter(B, other(), now).is_some());
    }

    #[test]
    fn few_who_ask_for_much_keep_nobody_out() {
        let mut queue = Queue::default();
        let now = Instant::now();
        let address = |number: usize| {
            let [.., high, low] = number.to_be_bytes();
            IpAddr::from([10, 0, high, low])
        };
        let mut tickets = Vec::new();
        for number in 0..MAX_WAITING {
            let asker = address(number / MAX_WAITING_OF_ONE);
            tickets.push(queue.enter(asker, other(), now).expect("room"));
        }
        for number in 100..110 {
            assert!(queue.enter(address(number), other(), now).is_some());
        }
        assert_eq!(queue.waiting.len(), MAX_WAITING);
        assert!(queue.waiting.contains_key(&tickets[0]), "the newest go");
        // Where all have one, nobody goes.
        let mut queue = Queue::default();
        for number in 0..MAX_WAITING {
            assert!(queue.enter(address(number), other(), now).is_some());
        }
        assert!(queue.enter(address(999), other(), now).is_none());
        let of_one = ["2001:db8::1", "2001:db8::2:3"].map(|text| text.parse().expect("valid"));
        assert_eq!(one_of(of_one[0]), one_of(of_one[1]));
    }

    #[tokio::test]
    async fn who_is_sent_something_beside_others_is_one_of_many() {
        let slots = Arc::new(Slots::default());
        let (of_a, _) = slots.take(A, other(), u64::MAX).await.expect("free");
        let again = slots.take(A, other(), u64::MAX).await.expect("free");
        assert!(!of_a.is_one_of_many(A), "all is for one");
        let (of_b, _) = slots.take(B, other(), u64::MAX).await.expect("free");
        assert!(of_a.is_one_of_many(A) && of_b.is_one_of_many(B));
        let (small, _) = slots.take(B, other(), FREE_BYTES).await.expect("free");
        assert!(!small.is_one_of_many(B), "it is on its way at once");
        drop((of_a, again));
        assert!(!of_b.is_one_of_many(B));
    }

    #[tokio::test]
    async fn who_waits_gets_the_next_slot_or_is_told_to_come_back() {
        let slots = Arc::new(Slots::default());
        let mut taken = Vec::new();
        for _ in 0..SLOTS {
            taken.push(slots.take(A, other(), u64::MAX).await.expect("free"));
        }
        assert!(
            slots.take(B, other(), FREE_BYTES).await.is_ok(),
            "it needs none"
        );
        let waiting = tokio::spawn({
            let slots = slots.clone();
            async move { slots.take(B, other(), FREE_BYTES + 1).await }
        });
        tokio::task::yield_now().await;
        taken.pop();
        assert!(waiting.await.expect("ended").is_ok());
        assert!(slots.queue().waiting.is_empty());
    }
}
