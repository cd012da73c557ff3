//! A token bucket. Time is an argument; nothing waits here.

use std::time::{Duration, Instant};

/// So many at once, and so many a second after that.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    a_second: f64,
    at_once: f64,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// A full one.
    pub(super) fn new(a_second: f64, at_once: f64, now: Instant) -> Self {
        Self {
            a_second,
            at_once,
            tokens: at_once,
            at: now,
        }
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * self.a_second).min(self.at_once);
        self.at = self.at.max(now);
    }

    /// Takes a token, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        self.refill(now);
        let there = self.tokens >= 1.0;
        if there {
            self.tokens -= 1.0;
        }
        there
    }

    /// Has no more tokens than `other`.
    pub(super) fn lower_to(&mut self, other: &Self, now: Instant) {
        let mut other = other.clone();
        other.refill(now);
        self.refill(now);
        self.tokens = self.tokens.min(other.tokens);
    }

    /// Whether nothing was taken that has not come again.
    pub(super) fn is_full(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.tokens >= self.at_once
    }

    /// Takes a token, and says how long to wait for it.
    pub(super) fn wait(&mut self, now: Instant) -> Duration {
        self.refill(now);
        self.tokens -= 1.0;
        Duration::from_secs_f64((-self.tokens / self.a_second).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_at_once_and_so_many_a_second() {
        let start = Instant::now();
        let mut bucket = Bucket::new(10.0, 3.0, start);
        let taken = |bucket: &mut Bucket, now| (0..20).filter(|_| bucket.take(now)).count();
        assert_eq!(taken(&mut bucket, start), 3);
        assert_eq!(taken(&mut bucket, start + Duration::from_millis(200)), 2);
        assert_eq!(taken(&mut bucket, start + Duration::from_secs(60)), 3);
        assert_eq!(taken(&mut bucket, start), 0, "time does not go back");
        assert!(bucket.wait(start + Duration::from_secs(60)) > Duration::ZERO);
    }
}
