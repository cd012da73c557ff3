//! How often the same thing is told of: at most every [`INTERVAL`], the first and the last always.
//! Pure. What comes in between is held back, and only the latest of it, until it is due.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use vecino_rest::Digest;

/// Between two tellings of the same content.
pub(super) const INTERVAL: Duration = Duration::from_millis(250);
/// Contents that are told of at a time; beyond it, the one told of longest ago begins anew.
const MAX_TOLD: usize = 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Pace<T> {
    told: HashMap<Digest, (Instant, Option<T>)>,
}

impl<T> Default for Pace<T> {
    fn default() -> Self {
        Self {
            told: HashMap::new(),
        }
    }
}

impl<T> Pace<T> {
    /// What is to be told now; `None` when it is held back.
    pub(super) fn offer(
        &mut self,
        now: Instant,
        digest: Digest,
        is_last: bool,
        news: T,
    ) -> Option<T> {
        if is_last {
            self.told.remove(&digest);
            return Some(news);
        }
        match self.told.get_mut(&digest) {
            Some((at, held)) if now.saturating_duration_since(*at) < INTERVAL => {
                *held = Some(news);
                None
            }
            Some(told) => {
                *told = (now, None);
                Some(news)
            }
            None => {
                if self.told.len() >= MAX_TOLD
                    && let Some(oldest) = self.told.iter().min_by_key(|(_, (at, _))| *at)
                {
                    let oldest = *oldest.0;
                    self.told.remove(&oldest);
                }
                self.told.insert(digest, (now, None));
                Some(news)
            }
        }
    }

    /// When the first of what is held back is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let held = self.told.values().filter(|(_, held)| held.is_some());
        held.map(|(at, _)| *at + INTERVAL).min()
    }

    /// What was held back long enough.
    pub(super) fn due(&mut self, now: Instant) -> Vec<T> {
        let due = self.told.values_mut().filter_map(|(at, held)| {
            if now.saturating_duration_since(*at) < INTERVAL {
                return None;
            }
            let news = held.take()?;
            *at = now;
            Some(news)
        });
        due.collect()
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.told.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_and_last_are_told_at_once_and_the_latest_in_between_when_due() {
        let mut pace = Pace::default();
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        assert_eq!(pace.offer(at(0), a, false, 1), Some(1));
        assert_eq!(pace.next_due(), None);
        assert_eq!(pace.offer(at(10), a, false, 2), None);
        assert_eq!(
            pace.offer(at(20), b, false, 10),
            Some(10),
            "another content"
        );
        assert_eq!(pace.offer(at(30), a, false, 3), None);
        assert_eq!(pace.next_due(), Some(at(250)));
        assert!(pace.due(at(249)).is_empty());
        assert_eq!(pace.due(at(250)), [3]);
        assert!(pace.due(at(900)).is_empty(), "told already");
        assert_eq!(pace.offer(at(400), a, false, 4), None);
        assert_eq!(pace.offer(at(410), a, true, 5), Some(5));
        assert_eq!(pace.next_due(), None, "nothing comes after the last");
    }

    #[test]
    fn at_most_four_a_second_and_bounded() {
        let mut pace = Pace::default();
        let began = Instant::now();
        let mut told = 0;
        for ms in 0..1000 {
            let now = began + Duration::from_millis(ms);
            told += pace.due(now).len();
            told += usize::from(pace.offer(now, Digest::of(b"a"), false, ms).is_some());
        }
        assert_eq!(told, 4);
        for other in 0..2 * MAX_TOLD {
            let digest = Digest::of(&other.to_le_bytes());
            assert!(pace.offer(began, digest, false, 0).is_some());
        }
        assert_eq!(pace.told.len(), MAX_TOLD);
    }
}
