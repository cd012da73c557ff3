//! How long everything takes: all of it follows from the lease that the locator gives, so that
//! every peer of a network uses the same times. Pure.
//!
//! Invariant: `refresh` fits more than three times into `life`, and `poll` more than five times
//! into the lease.

use std::{ops::Range, time::Duration};

/// Shortest and longest time between two keep-alives.
const POLL: Range<Duration> = Duration::from_millis(100)..Duration::from_secs(5);
/// Shortest and longest life of a record that nobody prolongs.
const LIFE: Range<Duration> = Duration::from_secs(2)..Duration::from_secs(120);
/// Jitter keeps a crowd of peers from moving in step: a wait is this share of its full length.
const JITTER: Range<f64> = 0.75..1.0;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Timing {
    /// Between two keep-alives, which also tell which zones changed: a sixth of the lease.
    pub(super) poll: Duration,
    /// A record that its sender does not prolong goes after so long: two leases.
    pub(super) life: Duration,
    /// Between two refreshes of all records: three tenths of their life.
    pub(super) refresh: Duration,
}

impl Timing {
    /// What follows from this lease.
    pub(super) fn of(lease: Duration) -> Self {
        let life = (lease * 2).clamp(LIFE.start, LIFE.end);
        Self {
            poll: (lease / 6).clamp(POLL.start, POLL.end),
            life,
            refresh: life * 3 / 10,
        }
    }
}

/// A little less than `wait`, by chance.
pub(super) fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(rand::random_range(JITTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_refreshed_well_within_their_life() {
        for seconds in [1, 3, 15, 600, 86_400] {
            let lease = Duration::from_secs(seconds);
            let timing = Timing::of(lease);
            assert!(timing.refresh * 3 < timing.life, "{seconds}");
            assert!(timing.poll * 5 < lease, "{seconds}");
        }
        let usual = Timing::of(Duration::from_secs(15));
        assert_eq!(usual.poll, Duration::from_millis(2500));
        assert_eq!(usual.life, Duration::from_secs(30));
        assert_eq!(usual.refresh, Duration::from_secs(9));
    }
}
