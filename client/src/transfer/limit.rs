//! [`Limiter`]: how fast a command takes bytes in, however many contents it takes at once. The
//! own peer slows down with its reader, and the providers with it.
//!
//! Invariant: over any span of time no more passes than the rate allows for it, but for one burst
//! and one block a content, of a burst and a chunk at most. Each content pays for its block before it
//! takes the next one, in the order of arrival: that shares the rate fairly.

use std::{cell::RefCell, fmt, str::FromStr, time::Duration};

use actix_rt::time::{Instant, sleep};

/// What may pass at once after a pause, as time at the full rate.
const BURST: Duration = Duration::from_millis(100);
/// The lowest rate: below it a single chunk would take minutes.
const MIN_RATE: u64 = 1 << 10;

/// Bytes a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate(u64);

/// A text that is no rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected bytes a second, 1K at least: a number, or a number and K, M or G, like 500K")]
pub(crate) struct InvalidRate;

impl FromStr for Rate {
    type Err = InvalidRate;

    fn from_str(text: &str) -> Result<Self, InvalidRate> {
        let (digits, shift) = match text.char_indices().last() {
            Some((at, 'k' | 'K')) => (&text[..at], 10),
            Some((at, 'm' | 'M')) => (&text[..at], 20),
            Some((at, 'g' | 'G')) => (&text[..at], 30),
            _ => (text, 0),
        };
        // `parse` alone takes a sign.
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(InvalidRate);
        }
        let number: u64 = digits.parse().map_err(|_| InvalidRate)?;
        match number.checked_mul(1 << shift) {
            Some(rate) if rate >= MIN_RATE => Ok(Self(rate)),
            _ => Err(InvalidRate),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", indicatif::HumanBytes(self.0))
    }
}

/// A token bucket, kept as the moment at which all that was taken is paid for. Moments are counted
/// from any beginning.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    rate: Rate,
    paid_at: Duration,
}

impl Bucket {
    fn new(rate: Rate) -> Self {
        Self {
            rate,
            paid_at: Duration::ZERO,
        }
    }

    /// Takes `bytes` at `now`; how long whoever took them is to wait before it takes more.
    fn take(&mut self, now: Duration, bytes: u64) -> Duration {
        let price = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate.0);
        let price = Duration::from_nanos(u64::try_from(price).unwrap_or(u64::MAX));
        let earliest = now.saturating_sub(BURST);
        self.paid_at = self.paid_at.max(earliest).saturating_add(price);
        self.paid_at.saturating_sub(now)
    }
}

/// What all contents of a command pay to.
#[derive(Debug)]
pub(crate) struct Limiter {
    bucket: Option<RefCell<Bucket>>,
    begun: Instant,
}

impl Limiter {
    /// Lets `rate` pass; everything without one.
    pub(crate) fn new(rate: Option<Rate>) -> Self {
        Self {
            bucket: rate.map(|rate| RefCell::new(Bucket::new(rate))),
            begun: Instant::now(),
        }
    }

    /// Bytes that are worth taking at once, of at most `most`: what passes in a burst.
    pub(crate) fn at_once(&self, most: usize) -> usize {
        let Some(bucket) = &self.bucket else {
            return most;
        };
        let burst = u128::from(bucket.borrow().rate.0) * BURST.as_millis() / 1000;
        usize::try_from(burst).map_or(most, |burst| burst.min(most))
    }

    /// Waits until `bytes`, which were taken, are paid for.
    pub(crate) async fn pay(&self, bytes: usize) {
        let Some(bucket) = &self.bucket else {
            return;
        };
        let now = self.begun.elapsed();
        let wait = bucket.borrow_mut().take(now, bytes as u64);
        if !wait.is_zero() {
            sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(text: &str) -> Result<u64, InvalidRate> {
        text.parse::<Rate>().map(|rate| rate.0)
    }

    #[test]
    fn rates_have_suffixes() {
        assert_eq!(rate("2048"), Ok(2048));
        assert_eq!(rate("500K"), Ok(500 << 10));
        assert_eq!(rate("3m"), Ok(3 << 20));
        assert_eq!(rate("1G"), Ok(1 << 30));
        for wrong in [
            "",
            "K",
            "0",
            "1023",
            "-5K",
            "+5K",
            "1.5M",
            "5KB",
            "99999999999G",
            "5é",
        ] {
            assert_eq!(rate(wrong), Err(InvalidRate), "{wrong}");
        }
    }

    #[test]
    fn the_rate_is_kept_after_the_burst() {
        let mut bucket = Bucket::new("10K".parse().unwrap());
        // After a long pause one burst passes, no more.
        let mut now = Duration::from_secs(100);
        let start = now;
        let mut taken = 0;
        for _ in 0..100 {
            now += bucket.take(now, 1024);
            taken += 1024;
        }
        let allowed = (now - start + BURST).as_secs_f64() * f64::from(10 << 10);
        assert!(
            (f64::from(taken) - allowed).abs() < 1.0,
            "{taken} {allowed}"
        );
    }

    #[test]
    fn several_contents_share_it_fairly() {
        let mut bucket = Bucket::new("100K".parse().unwrap());
        let mut free_at = [Duration::ZERO; 4];
        let mut taken = [0_u64; 4];
        let end = Duration::from_secs(10);
        loop {
            let next = (0..4).min_by_key(|&content| free_at[content]).unwrap();
            let now = free_at[next];
            if now >= end {
                break;
            }
            taken[next] += 4096;
            free_at[next] = now + bucket.take(now, 4096);
        }
        let (least, most) = (taken.iter().min().unwrap(), taken.iter().max().unwrap());
        assert!(most - least <= 4096, "{taken:?}");
        let all: u64 = taken.iter().sum();
        assert!((1_000_000..1_060_000).contains(&all), "{all}");
    }

    proptest! {
        #[test]
        fn never_more_than_allowed(
            rate in 1_u64 << 10..1 << 40,
            steps in proptest::collection::vec((0_u64..1 << 20, 0_u64..2_000_000_000), 1..50),
        ) {
            let mut bucket = Bucket::new(Rate(rate));
            let mut now = Duration::from_secs(5);
            let start = now;
            let mut taken = 0_u128;
            for (bytes, idle) in steps {
                now += bucket.take(now, bytes);
                taken += u128::from(bytes);
                let span = (now - start + BURST).as_nanos() + 1000;
                prop_assert!(taken * 1_000_000_000 <= span * u128::from(rate) + 1_000_000_000);
                now += Duration::from_nanos(idle);
            }
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,12}|[0-9]{0,22}[kKmMgG]?") {
            let _ = rate(&text);
        }
    }

    #[test]
    fn no_more_is_taken_at_once_than_passes_in_a_burst() {
        assert_eq!(Limiter::new(None).at_once(1000), 1000);
        for (rate, expected) in [("1K", 102), ("5K", 512), ("1M", 1000)] {
            let limiter = Limiter::new(Some(rate.parse().expect(rate)));
            assert_eq!(limiter.at_once(1000), expected, "{rate}");
        }
    }
}
