//! The order in which the writer takes what waits: who came first is first.
//!
//! But who registers or logs in gives up after some seconds, and thousands of records take as long.
//! While so many wait, the changes without records have every other commit, which is a short one. So
//! there is no promise about changes that wait at the same time, but for those of records among
//! themselves: whoever wants another order waits for the answer.

use std::collections::VecDeque;

use tokio::sync::mpsc;

use super::writer::Queued;

/// Records after which a transaction takes no more changes, as
/// [`Command::weight`](super::writer::Command::weight) counts them. The more there are, the more of
/// them share the pages that a commit copies and writes, and the longer everybody waits for it.
const COMMIT_RECORDS: usize = 98_304;
/// Changes after which a transaction takes no more.
const COMMIT_COMMANDS: usize = 4_096;
/// Records that nobody is spared to wait for.
const FEW_RECORDS: usize = 8_192;

/// What waits for the writer.
pub(super) struct Queue {
    receiver: mpsc::Receiver<Queued>,
    waiting: VecDeque<Queued>,
    /// Whether the last batch was of changes without records.
    was_short: bool,
}

impl Queue {
    pub(super) fn new(receiver: mpsc::Receiver<Queued>) -> Self {
        Self {
            receiver,
            waiting: VecDeque::new(),
            was_short: false,
        }
    }

    /// Waits for the changes of the next commit; none when the queue has ended.
    pub(super) fn batch(&mut self) -> Option<Vec<Queued>> {
        if self.waiting.is_empty() {
            self.waiting.push_back(self.receiver.blocking_recv()?);
        }
        self.receive();
        let weights = self.waiting.iter().map(|queued| queued.command.weight());
        let is_much = weights.sum::<usize>() > FEW_RECORDS;
        let is_mixed = self.waiting.iter().any(|queued| !queued.command.is_bulk());
        self.was_short = is_much && is_mixed && !self.was_short;
        Some(match self.was_short {
            true => self.short(),
            false => self.first(),
        })
    }

    fn short(&mut self) -> Vec<Queued> {
        let waiting = std::mem::take(&mut self.waiting).into_iter();
        let (bulk, short): (Vec<_>, _) = waiting.partition(|queued| queued.command.is_bulk());
        self.waiting = bulk.into();
        short
    }

    fn first(&mut self) -> Vec<Queued> {
        let mut batch = Vec::new();
        let mut weight = 0;
        while weight < COMMIT_RECORDS
            && batch.len() < COMMIT_COMMANDS
            && let Some(next) = self.waiting.pop_front()
        {
            weight += next.command.weight();
            batch.push(next);
        }
        batch
    }

    /// All that waits now.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Queued> + '_ {
        self.receive();
        self.waiting.drain(..)
    }

    /// Whether nothing waits and nothing will.
    pub(super) fn has_ended(&self) -> bool {
        self.waiting.is_empty() && self.receiver.is_closed() && self.receiver.is_empty()
    }

    fn receive(&mut self) {
        while let Ok(next) = self.receiver.try_recv() {
            self.waiting.push_back(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::{Semaphore, oneshot};

    use super::*;
    use crate::store::{
        Change, PeerNo,
        conformance::{file, row},
        redb::writer::Command,
    };

    fn queue(commands: Vec<Command>) -> Queue {
        let (sender, receiver) = mpsc::channel(commands.len());
        let room = Arc::new(Semaphore::new(commands.len()));
        for command in commands {
            let _room = room.clone().try_acquire_owned().expect("there is room");
            assert!(sender.try_send(Queued { command, _room }).is_ok());
        }
        Queue::new(receiver)
    }

    fn announce(records: usize) -> Command {
        Command::Announce {
            peer: PeerNo(1),
            token: [1; 32],
            change: Change::Difference {
                announce: vec![file("a", "one"); records],
                withdraw: Vec::new(),
            },
            reply: oneshot::channel().0,
        }
    }

    fn register() -> Command {
        Command::Register {
            peer: row(1),
            reply: oneshot::channel().0,
        }
    }

    /// Records of the changes of each batch; a registration counts 1.
    fn batches(mut queue: Queue) -> Vec<Vec<usize>> {
        let batches = std::iter::from_fn(|| queue.batch());
        let records = |batch: Vec<Queued>| batch.iter().map(|q| q.command.records()).collect();
        batches.map(records).collect()
    }

    #[test]
    fn who_came_first_is_first_while_little_waits() {
        let commands = vec![announce(100), register(), announce(200), register()];
        assert_eq!(batches(queue(commands)), [[100, 1, 200, 1]]);
    }

    #[test]
    fn who_registers_waits_for_no_more_than_a_commit_of_many_records() {
        let mut commands: Vec<_> = (0..40).map(|_| announce(4_096)).collect();
        commands.extend([register(), register()]);
        let batches = batches(queue(commands));
        assert_eq!(batches[0], [1, 1]);
        assert_eq!(batches[1], [4_096; 24], "no more than a commit takes");
        assert_eq!(batches[2], [4_096; 16]);
        assert_eq!(batches.len(), 3);
    }

    #[test]
    fn to_forget_who_holds_nothing_is_short() {
        let forget = |limit| Command::Forget {
            peer: PeerNo(1),
            at_ms: 5,
            limit,
            reply: oneshot::channel().0,
        };
        assert!(!forget(0).is_bulk());
        assert!(forget(1).is_bulk());
    }

    #[test]
    fn records_have_every_other_commit_at_least() {
        let mut queue = queue(vec![announce(200_000), announce(200_000), register()]);
        let mut next = || {
            let batch = queue.batch().expect("something waits");
            let first = batch.into_iter().next().expect("a batch is of something");
            let is_bulk = first.command.is_bulk();
            if !is_bulk {
                queue.waiting.push_back(first); // The next one comes at once.
            }
            is_bulk
        };
        assert_eq!([(); 4].map(|()| next()), [false, true, false, true]);
    }
}
