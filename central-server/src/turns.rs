//! What a thread of gRPC does for many connections at once, it does a few at a time.
//!
//! A thread takes up what is ready in the order in which it became so. When a thousand peers come,
//! or go, in one moment, each of them needs a tenth of a millisecond, and a lookup would be taken
//! up after all of them. So whatever peers do seldom and at length waits for its turn, and there are
//! some turns in each round of the thread.

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

    /// Gives new turns in each round in which some were taken. To be a task of the thread.
    pub(crate) async fn run(&self) {
        loop {
            self.taken.notified().await;
            // All that is ready comes before.
            yield_now().await;
            let taken = OF_A_ROUND - self.left.available_permits();
            self.left.add_permits(taken);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt as _;

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
        let mut before = 0;
        while before < MANY {
            yield_now().await;
            let now = done.load(Ordering::Relaxed);
            // It may be asked for in the middle of a round.
            assert!(now - before <= 2 * OF_A_ROUND, "{before} and then {now}");
            before = now;
        }
        assert_eq!(all.join_all().await.len(), MANY);
    }

    #[tokio::test]
    async fn who_goes_away_takes_no_turn() {
        let turns = Turns::new();
        while turns.next().now_or_never().is_some() {}
        turns.left.add_permits(1);
        turns.next().await;
    }
}
