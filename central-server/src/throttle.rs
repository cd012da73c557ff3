//! Saying the same thing not too often: what repeats with every request is told now and then.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How many were held back before one that passes; says so, unless there was none.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Untold(u64);

impl fmt::Display for Untold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            more => write!(f, " ({more} more since this was last told)"),
        }
    }
}

/// Lets one through in a while, and counts the others.
#[derive(Debug)]
pub(crate) struct Throttle {
    every: Duration,
    state: Mutex<(Option<Instant>, u64)>,
}

impl Throttle {
    /// One in `every`.
    pub(crate) const fn new(every: Duration) -> Self {
        Self {
            every,
            state: Mutex::new((None, 0)),
        }
    }

    /// How many were held back since the last one, if this one passes.
    pub(crate) fn pass(&self, now: Instant) -> Option<Untold> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, held_back) = &mut *state;
        if last.is_some_and(|last| now.saturating_duration_since(last) < self.every) {
            *held_back += 1;
            return None;
        }
        *last = Some(now);
        Some(Untold(std::mem::take(held_back)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_a_while_passes_and_knows_how_many_did_not() {
        let throttle = Throttle::new(Duration::from_secs(10));
        let start = Instant::now();
        let at = |seconds| throttle.pass(start + Duration::from_secs(seconds));
        let told = |seconds| at(seconds).map(|untold| untold.to_string());
        assert_eq!(told(0).as_deref(), Some(""));
        assert_eq!((told(1), told(9)), (None, None));
        let more = told(10).expect("passes");
        assert_eq!(more, " (2 more since this was last told)");
        assert_eq!(told(11), None);
        assert!(told(60).expect("passes").contains("1 more"));
    }
}
