//! Getting an engine back that failed, on the writer thread.
//!
//! redb refuses everything after the first error of its file, a full disk among them, until it is
//! opened again. So it is, at once, for the sake of the readers; changes are tried again with
//! growing pauses, and refused with the error meanwhile. All that is kept in memory of the file
//! is read from it again: a commit that was answered with an error may be there all the same.
//!
//! A panic of the engine is a failed try like any other: nothing of it is called but where that
//! is caught.
//!
//! Invariant: the published fault is there from before the first refusal until a commit is durable.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use super::{
    queue::Queue,
    read::{Snapshot, engine_io},
    writer::Committer,
};
use crate::store::StoreError;

/// Pause before the second try; the first one is made at once.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Pauses double up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A failure so long after the last one is a new one, and begins with no pause.
const CALM: Duration = Duration::from_secs(60);
/// How long a change waits for its refusal at most.
const REFUSE_EVERY: Duration = Duration::from_millis(20);

/// What is remembered from one failure to the next.
#[derive(Default)]
pub(super) struct Recovery {
    pause: Duration,
    recovered: Option<Instant>,
}

impl Recovery {
    /// Returns when changes work again, or when the queue has ended.
    pub(super) fn run(
        &mut self,
        committer: &mut Committer,
        queue: &mut Queue,
        mut fault: StoreError,
    ) {
        let began = Instant::now();
        let mut refused = 0;
        log::error!("{fault}; changes are refused until it works again");
        if self.recovered.is_none_or(|at| at.elapsed() > CALM) {
            self.pause = Duration::ZERO;
        }
        // Readers need not wait for the pause.
        if let Err(error) = committer.reopen() {
            fault = committer.changed(error);
        }
        loop {
            let until = Instant::now() + self.pause;
            while committer.refuse_waiting(queue, &fault, &mut refused) && Instant::now() < until {
                std::thread::sleep(REFUSE_EVERY);
            }
            self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
            match committer.try_again() {
                Ok(()) => break,
                Err(error) if queue.has_ended() => {
                    log::error!("{error}; the store is closed in this state");
                    return;
                }
                Err(error) if error != fault => fault = committer.changed(error),
                Err(_) => {}
            }
        }
        self.recovered = Some(Instant::now());
        committer.publish_fault(None);
        log::info!(
            "the store works again after {:.1} seconds; {refused} waiting changes were refused",
            began.elapsed().as_secs_f64()
        );
    }
}

impl Committer {
    /// Says why changes fail, or that they do not.
    pub(super) fn publish_fault(&self, fault: Option<&StoreError>) {
        self.published.set_fault(fault.cloned());
        self.metrics.failing.set(i64::from(fault.is_some()));
    }

    /// Tells that it fails for another reason now.
    fn changed(&self, fault: StoreError) -> StoreError {
        log::error!("{fault}");
        self.publish_fault(Some(&fault));
        fault
    }

    /// Tries whether changes work, as carefully as possible.
    fn try_again(&mut self) -> Result<(), StoreError> {
        if self.is_stuck() {
            self.reopen()?;
        }
        self.origin.has_room().map_err(engine_io)?;
        self.guarded(|committer| committer.transact(|_| Ok(())))
            .inspect_err(|_| {
                // For the readers; the next try tells when it fails.
                let _ = self.reopen();
            })
    }

    /// Closes the database and opens it again.
    fn reopen(&mut self) -> Result<(), StoreError> {
        // What a panic before, or a damaged file, does to the engine must not end this thread.
        let closed = catch_unwind(AssertUnwindSafe(|| {
            self.published.withdraw();
            self.database = None;
        }));
        if closed.is_err() {
            log::debug!("the engine panicked when it was closed");
        }
        let failed =
            |reason: &str| StoreError::Engine(format!("it could not be opened again: {reason}"));
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let opened = self.origin.open().map_err(|reason| failed(&reason))?;
            if opened.keys != self.keys {
                return Err(failed("another store is in its place"));
            }
            let snapshot = Snapshot::of(&opened.database, opened.counts)?;
            Ok((opened, snapshot))
        }));
        let (opened, snapshot) = opened.unwrap_or_else(|_| Err(failed("the file is corrupt")))?;
        self.database = Some(opened.database);
        self.has_panicked = false;
        self.counters = opened.counts;
        self.published.publish_opened(snapshot);
        Ok(())
    }
}
