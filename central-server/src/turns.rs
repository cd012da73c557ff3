//! What a thread of gRPC does for many connections at once, it does a few at a time.
//!
//! A thread takes up what is ready in the order in which it became so. When a thousand peers come,
//! or go, in one moment, each of them needs a tenth of a millisecond, and a lookup would be taken
//! up after all of them. So whatever peers do seldom and at length waits for its turn, and there are
//! some turns in each round of the thread: after some tens of tasks it looks for what is new
//! (`event_interval` of its runtime), and turns are given then. Whatever is ready, turns go on.

use std::sync::Arc;

use tokio::{
    sync::{Notify, Semaphore},
    task::yield_now,
};

/// Turns in a round of the thread.
const OF_A_ROUND: usize = 4;

/// The turns of a thread.
#[derive(Debug)]
pub(crate) struct Turns {
    left: Semaphore,
    taken: Notify,
}

impl Turns {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            left: Semaphore::new(OF_A_ROUND),
            taken: Notify::new(),
        })
    }

    /// Returns when it is the caller's turn, in the order of calls.
    pub(crate) async fn next(&self) {
        let turn = self.left.acquire().await.expect("never closed");
        turn.forget();
        self.taken.notify_one();
    }

    /// Gives new turns in each round in which some were taken, for ever. To be run by the thread
    /// beside its tasks.
    pub(crate) async fn run(&self) {
        loop {
            self.taken.notified().await;
            yield_now().await;
            // A turn that was given and not taken, as its taker went away, is there as well.
            let taken = OF_A_ROUND.saturating_sub(self.left.available_permits());
            self.left.add_permits(taken);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::{Duration, Instant},
    };

    use futures_util::FutureExt as _;
    use tokio::time::timeout;

    use super::*;

    /// A runtime of one thread, as each thread of gRPC has.
    #[tokio::test]
    async fn what_is_ready_waits_for_a_few_of_many() {
        const MANY: usize = 1_000;
        let turns = Turns::new();
        let running = turns.clone();
        tokio::spawn(async move { running.run().await });
        let done = Arc::new(AtomicUsize::new(0));
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..MANY {
            let (turns, done) = (turns.clone(), done.clone());
            all.spawn(async move {
                turns.next().await;
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
        let (mut before, began) = (0, Instant::now());
        while before < MANY {
            assert!(began.elapsed() < Duration::from_secs(10), "only {before}");
            yield_now().await;
            let now = done.load(Ordering::Relaxed);
            // It may be asked for in the middle of a round.
            assert!(now - before <= 2 * OF_A_ROUND, "{before} and then {now}");
            before = now;
        }
        assert_eq!(all.join_all().await.len(), MANY);
    }

    #[tokio::test]
    async fn who_goes_away_takes_no_turn_and_stops_nobody() {
        let turns = Turns::new();
        while turns.next().now_or_never().is_some() {}
        let mut gone = Box::pin(turns.next());
        assert!(gone.as_mut().now_or_never().is_none());
        turns.left.add_permits(1); // Given, and never taken.
        turns.left.add_permits(OF_A_ROUND);
        drop(gone);
        let more = async {
            for _ in 0..10 * OF_A_ROUND {
                turns.next().await;
            }
        };
        tokio::select! {
            () = turns.run() => {}
            done = timeout(Duration::from_secs(10), more) => done.expect("turns go on"),
        }
    }
}
