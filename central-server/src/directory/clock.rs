//! The one place where the directory reads a clock.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// The time since the start, for leases, and the time of day, for what outlives the process.
///
/// While the process stood still (stopped, its machine asleep or moved) nobody could keep a lease
/// alive, so that time does not count: otherwise all peers would be gone the moment that it
/// goes on, and what they hold would be denied.
///
/// Invariant: what [`Clock::now`] gives never runs backwards.
#[derive(Debug)]
pub struct Clock {
    started: Instant,
    /// A longer time between two readings is one in which the process stood still.
    still: Duration,
    readings: Mutex<Readings>,
}

#[derive(Debug, Default)]
struct Readings {
    /// The last one, since the start.
    last: Duration,
    /// How much of that does not count.
    skipped: Duration,
}

impl Default for Clock {
    fn default() -> Self {
        Self::read_every(Duration::MAX)
    }
}

impl Clock {
    /// A clock that is read every `pause` at least, as long as the process runs. Some lateness is
    /// the scheduler's.
    pub fn read_every(pause: Duration) -> Self {
        Self {
            started: Instant::now(),
            still: pause.saturating_mul(2),
            readings: Mutex::default(),
        }
    }

    /// Since the start, without the time in which the process stood still.
    pub fn now(&self) -> Duration {
        self.counted(self.started.elapsed())
    }

    /// What counts of the time `elapsed` since the start.
    fn counted(&self, elapsed: Duration) -> Duration {
        let mut readings = self.readings.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = elapsed.saturating_sub(readings.last);
        readings.last += passed;
        if let Some(still) = passed
            .checked_sub(self.still)
            .filter(|still| !still.is_zero())
        {
            log::warn!("this process stood still for {still:.1?}: leases go on as if it had not");
            readings.skipped += still;
        }
        readings.last - readings.skipped
    }

    /// Milliseconds since 1970-01-01 UTC.
    pub fn wall_ms(&self) -> i64 {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_which_the_process_stood_still_does_not_count() {
        let clock = Clock::read_every(Duration::from_secs(1));
        for (elapsed, counted, why) in [
            (900, 900, "it runs"),
            (2_900, 2_900, "late, but running"),
            (
                62_900,
                4_900,
                "a minute, of which as much counts as it may be late",
            ),
            (63_000, 5_000, "it goes on"),
            (62_950, 5_000, "never backwards"),
            (1_000_000, 7_000, "again"),
        ] {
            let read = clock.counted(Duration::from_millis(elapsed));
            assert_eq!(read, Duration::from_millis(counted), "{why}");
        }
        assert_eq!(
            Clock::default().counted(Duration::from_secs(1 << 20)),
            Duration::from_secs(1 << 20)
        );
    }
}
