//! The one place where the directory reads a clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The time since the start, for leases, and the time of day, for what outlives the process.
#[derive(Debug, Clone)]
pub struct Clock {
    started: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            started: Instant::now(),
        }
    }
}

impl Clock {
    /// Since the start; never runs backwards.
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Milliseconds since 1970-01-01 UTC.
    pub fn wall_ms(&self) -> i64 {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }
}
