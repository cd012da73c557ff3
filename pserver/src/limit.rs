//! How fast bytes may go: one [`Limiter`] a direction, shared by all its transfers.
//!
//! Invariant: in any span of time, what is let through is at most rate × span + burst. A transfer
//! reserves one chunk at a time and waits for its turn in the order of reservation, so transfers
//! that always have something to move get equal shares. [`Bucket`] is pure; a reservation that is
//! given up costs others at most one chunk.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::stream::{self, LocalBoxStream, StreamExt};
use tokio::time::sleep;

/// Most bytes that are reserved at a time.
pub const MAX_CHUNK: u64 = 256 << 10;
/// A chunk is what the rate gives in so small a part of a second: slow links, too, see something
/// of every transfer all the time.
const CHUNKS_A_SECOND: u64 = 32;
/// Fewest bytes that are worth reserving.
const MIN_CHUNK: u64 = 1 << 10;
/// What was not used of the rate may be caught up with, for so long.
const BURST: Duration = Duration::from_millis(100);

/// A token bucket; all times are since a moment of the caller's choosing.
#[derive(Debug, Clone)]
pub struct Bucket {
    rate: u64,
    chunk: u64,
    burst: Duration,
    /// Until when what was reserved keeps the rate busy.
    busy_until: Duration,
}

impl Bucket {
    /// Lets `rate` bytes a second through; 0 counts as 1.
    pub fn new(rate: u64) -> Self {
        let rate = rate.max(1);
        let chunk = (rate / CHUNKS_A_SECOND).clamp(MIN_CHUNK, MAX_CHUNK);
        Self {
            rate,
            chunk,
            burst: BURST.max(time_of(chunk, rate)),
            busy_until: Duration::ZERO,
        }
    }

    /// Most bytes of a reservation.
    pub fn chunk(&self) -> u64 {
        self.chunk
    }

    /// Reserves `bytes`, at most a chunk of them, and says how long to wait until they may go.
    pub fn reserve(&mut self, now: Duration, bytes: u64) -> Duration {
        let bytes = bytes.min(self.chunk);
        let earliest = now.saturating_sub(self.burst);
        self.busy_until = self.busy_until.max(earliest) + time_of(bytes, self.rate);
        self.busy_until.saturating_sub(now)
    }
}

/// How long `rate` takes for `bytes`, rounded up.
fn time_of(bytes: u64, rate: u64) -> Duration {
    let nanos = (u128::from(bytes) * 1_000_000_000).div_ceil(u128::from(rate));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// A [`Bucket`] and a clock; see the module.
#[derive(Debug)]
pub struct Limiter {
    limit: Option<(Mutex<Bucket>, u64)>,
    started: Instant,
}

impl Limiter {
    /// Lets `rate` bytes a second through; any number without one.
    pub fn new(rate: Option<u64>) -> Self {
        Self {
            limit: rate.map(|rate| {
                let bucket = Bucket::new(rate);
                let chunk = bucket.chunk();
                (Mutex::new(bucket), chunk)
            }),
            started: Instant::now(),
        }
    }

    /// Most bytes that are taken at once; `None` when there is no limit.
    pub fn chunk(&self) -> Option<u64> {
        self.limit.as_ref().map(|(_, chunk)| *chunk)
    }

    /// Bytes a second; `None` when there is no limit.
    pub fn rate(&self) -> Option<u64> {
        let (bucket, _) = self.limit.as_ref()?;
        let bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        Some(bucket.rate)
    }

    /// The same bytes, at most a chunk of them at a time, each when it may go.
    pub fn pace<E: 'static>(
        self: Arc<Self>,
        bytes: LocalBoxStream<'static, Result<Bytes, E>>,
    ) -> LocalBoxStream<'static, Result<Bytes, E>> {
        let Some(chunk) = self.chunk() else {
            return bytes;
        };
        let chunk = usize::try_from(chunk).unwrap_or(usize::MAX);
        let paced = stream::unfold(
            (bytes, Bytes::new(), self),
            move |(mut bytes, mut rest, limiter)| async move {
                while rest.is_empty() {
                    match bytes.next().await? {
                        Ok(more) => rest = more,
                        Err(error) => return Some((Err(error), (bytes, rest, limiter))),
                    }
                }
                let part = rest.split_to(rest.len().min(chunk));
                limiter.take(part.len() as u64).await;
                Some((Ok(part), (bytes, rest, limiter)))
            },
        );
        paced.boxed_local()
    }

    /// Waits until `bytes` more may go: chunk by chunk, with everybody else in between.
    pub async fn take(&self, bytes: u64) {
        let Some((bucket, chunk)) = &self.limit else {
            return;
        };
        let mut left = bytes;
        while left > 0 {
            let part = left.min(*chunk);
            let wait = bucket
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .reserve(self.started.elapsed(), part);
            if !wait.is_zero() {
                sleep(wait).await;
            }
            left -= part;
        }
    }
}

impl Default for Limiter {
    fn default() -> Self {
        Self::new(None)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// When each chunk of `transfers` that always have more to move goes, until `end`.
    fn simulate(bucket: &mut Bucket, sizes: &[u64], end: Duration) -> Vec<(Duration, usize, u64)> {
        let mut ready = vec![Duration::ZERO; sizes.len()];
        let mut gone = Vec::new();
        loop {
            let next = (0..sizes.len()).min_by_key(|&transfer| ready[transfer]);
            let transfer = next.expect("there are some");
            let now = ready[transfer];
            if now > end {
                return gone;
            }
            let at = now + bucket.reserve(now, sizes[transfer]);
            gone.push((at, transfer, sizes[transfer]));
            ready[transfer] = at;
        }
    }

    #[test]
    fn two_transfers_get_equal_shares() {
        let mut bucket = Bucket::new(10 << 20);
        let chunk = bucket.chunk();
        let gone = simulate(&mut bucket, &[chunk, chunk], Duration::from_secs(10));
        let of = |transfer| -> u64 {
            let its = gone.iter().filter(|(_, of, _)| *of == transfer);
            its.map(|(_, _, bytes)| bytes).sum()
        };
        // The one that begins may have the burst.
        let (first, second, burst) = (of(0), of(1), (10 << 20) / 10 + 2 * chunk);
        assert!(first.abs_diff(second) <= burst, "{first} and {second}");
        assert!(first + second >= 10 * (10 << 20), "{}", first + second);
    }

    #[test]
    fn one_that_comes_later_gets_its_share_at_once() {
        let mut bucket = Bucket::new(1 << 20);
        let chunk = bucket.chunk();
        let mut now = Duration::ZERO;
        for _ in 0..1000 {
            now += bucket.reserve(now, chunk);
        }
        // One chunk of the other may be waiting.
        bucket.reserve(now, chunk);
        assert!(bucket.reserve(now, chunk) <= 2 * time_of(chunk, 1 << 20));
    }

    #[test]
    fn what_was_not_used_is_caught_up_with_for_the_burst_only() {
        let mut bucket = Bucket::new(32 << 20);
        let chunk = bucket.chunk();
        assert_eq!(chunk, MAX_CHUNK);
        let now = Duration::from_secs(3600);
        let at_once = (0..100)
            .filter(|_| bucket.reserve(now, chunk).is_zero())
            .count() as u64;
        assert_eq!(at_once, (32 << 20) / 10 / chunk);
    }

    #[tokio::test]
    async fn without_a_limit_nothing_waits() {
        let limiter = Limiter::default();
        assert_eq!(limiter.chunk(), None);
        limiter.take(u64::MAX).await;
    }

    #[tokio::test]
    async fn taking_takes_as_long_as_the_rate_says() {
        let limiter = Limiter::new(Some(256 << 10));
        let began = Instant::now();
        limiter.take(64 << 10).await;
        assert!(began.elapsed() >= Duration::from_millis(200));
    }

    proptest! {
        #[test]
        fn no_window_sees_more_than_the_rate_and_the_burst(
            rate in 1..1u64 << 34,
            steps in prop::collection::vec((0..200_000_000u64, 1..2 * MAX_CHUNK), 1..200),
        ) {
            let mut bucket = Bucket::new(rate);
            let (mut now, mut gone) = (Duration::ZERO, Vec::new());
            for (pause, bytes) in steps {
                now += Duration::from_nanos(pause);
                let bytes = bytes.min(bucket.chunk());
                gone.push((now + bucket.reserve(now, bytes), bytes));
            }
            prop_assert!(gone.is_sorted_by_key(|(at, _)| *at), "out of turn");
            let burst = bucket.burst.as_secs_f64() * rate as f64;
            for first in 0..gone.len() {
                let mut sum = 0;
                for (at, bytes) in &gone[first..] {
                    sum += bytes;
                    let span = (*at - gone[first].0).as_secs_f64();
                    prop_assert!(sum as f64 <= (rate as f64).mul_add(span, burst) * (1.0 + 1e-9) + 1.0);
                }
            }
        }
    }
}
