//! The writer thread: group commits behind a bounded [`queue`](super::queue).
//!
//! Invariant: an answer goes out after the commit of its change and after the snapshot with it
//! is published. A transaction that fails answers all of its changes with the error, and leaves
//! no trace of any of them unless its commit had begun. So does one that panics, after which the
//! engine is opened again like one that failed.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use redb::{Database, Durability};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use vecino_rest::{Digest, UserName};

use super::{
    apply::Transaction,
    open::{Opened, Origin},
    published::Published,
    queue::Queue,
    read::{Snapshot, engine},
    recovery::Recovery,
    schema::{Counters, Keys},
};
use crate::{
    behind::give_way,
    metrics::StoreMetrics,
    store::{
        Account, Change, Expect, Forgotten, PeerNo, PeerRow, Registered, StoreError, TokenHash,
    },
    throttle::Throttle,
};

/// Changes that wait in the channel at most.
const QUEUE: usize = 4_096;
/// Memory of the records that wait, in KiB.
const QUEUE_KIB: u32 = 64 << 10;
/// Changes without records that wait.
const QUEUE_FEW: usize = 4_096;
/// As how many records a replaced bucket counts at least: the whole list of the peer is read for it,
/// and what it removes is not in it.
const BUCKET_RECORDS: usize = 1_024;
/// How often readers may ask whether the engine still works.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// How often a failing commit is told that is not the file's fault.
const TELL_EVERY: Duration = Duration::from_secs(60);

pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// A change and who waits for it.
pub(super) enum Command {
    Register {
        peer: PeerRow,
        reply: Reply<Registered>,
    },
    Lapse {
        peers: Vec<(PeerNo, TokenHash)>,
        at_ms: i64,
        reply: Reply<()>,
    },
    Announce {
        peer: PeerNo,
        token: TokenHash,
        change: Change,
        reply: Reply<u64>,
    },
    Forget {
        peer: PeerNo,
        at_ms: i64,
        limit: usize,
        reply: Reply<Forgotten>,
    },
    EndSessions {
        peers: Vec<(PeerNo, TokenHash)>,
        reply: Reply<()>,
    },
    PutAccount {
        account: Account,
        expect: Expect,
        reply: Reply<bool>,
    },
    RemoveAccount {
        user: UserName,
        reply: Reply<bool>,
    },
    SetImporting {
        export: Option<Digest>,
        reply: Reply<()>,
    },
    /// Changes nothing; fails when the engine does.
    Check,
}

impl Command {
    pub(super) fn records(&self) -> usize {
        match self {
            Self::Register { .. }
            | Self::PutAccount { .. }
            | Self::SetImporting { .. }
            | Self::RemoveAccount { .. } => 1,
            Self::Lapse { peers, .. } => peers.len(),
            Self::EndSessions { peers, .. } => peers.len(),
            Self::Announce { change, .. } => change.len(),
            Self::Forget { limit, .. } => *limit,
            Self::Check => 0,
        }
    }

    /// As how many records it counts where the work of a commit is bounded.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Announce {
                change: Change::Bucket { records, .. },
                ..
            } => records.len().max(BUCKET_RECORDS),
            _ => self.records(),
        }
    }

    /// Whether it changes records, of which there may be many.
    pub(super) fn is_bulk(&self) -> bool {
        match self {
            Self::Announce { .. } => true,
            Self::Forget { limit, .. } => *limit > 0,
            _ => false,
        }
    }

    /// Answers that it was not done. Nobody waits any more when the connection is gone.
    fn refuse(self, fault: StoreError) {
        match self {
            Self::Register { reply, .. } => drop(reply.send(Err(fault))),
            Self::Lapse { reply, .. } => drop(reply.send(Err(fault))),
            Self::Announce { reply, .. } => drop(reply.send(Err(fault))),
            Self::Forget { reply, .. } => drop(reply.send(Err(fault))),
            Self::EndSessions { reply, .. } => drop(reply.send(Err(fault))),
            Self::PutAccount { reply, .. } => drop(reply.send(Err(fault))),
            Self::RemoveAccount { reply, .. } => drop(reply.send(Err(fault))),
            Self::SetImporting { reply, .. } => drop(reply.send(Err(fault))),
            Self::Check => {}
        }
    }
}

/// A change in the queue.
pub(super) struct Queued {
    pub(super) command: Command,
    pub(super) _room: OwnedSemaphorePermit,
}

/// The handle of the thread.
pub(super) struct Writer {
    queue: Mutex<Option<mpsc::Sender<Queued>>>,
    room: Arc<Semaphore>,
    room_for_few: Arc<Semaphore>,
    thread: Mutex<Option<JoinHandle<()>>>,
    checks: Throttle,
    metrics: StoreMetrics,
}

impl Writer {
    pub(super) fn start(
        opened: Opened,
        origin: Box<dyn Origin>,
        published: Arc<Published>,
        metrics: StoreMetrics,
    ) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let committer = Committer {
            database: Some(opened.database),
            keys: opened.keys,
            counters: opened.counts,
            origin,
            published,
            metrics: metrics.clone(),
            has_panicked: false,
            complaints: Throttle::new(TELL_EVERY),
        };
        let thread = std::thread::Builder::new()
            .name("store writer".into())
            .spawn(move || {
                give_way();
                committer.run(receiver);
            })?;
        Ok(Self {
            queue: Mutex::new(Some(sender)),
            room: Arc::new(Semaphore::new(QUEUE_KIB as usize)),
            room_for_few: Arc::new(Semaphore::new(QUEUE_FEW)),
            thread: Mutex::new(Some(thread)),
            checks: Throttle::new(CHECK_EVERY),
            metrics,
        })
    }

    /// Lets the thread see whether the engine still works, without waiting for it.
    pub(super) fn check(&self) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(sender) = queue.as_ref() else {
            return;
        };
        if self.checks.pass(Instant::now()).is_none() {
            return;
        }
        let Ok(_room) = self.room_for_few.clone().try_acquire_owned() else {
            return; // Changes wait already: they will see.
        };
        let command = Command::Check;
        if sender.try_send(Queued { command, _room }).is_ok() {
            self.metrics.queue_depth.inc();
        }
    }

    /// Whether the thread is gone that should be there.
    pub(super) fn fault(&self) -> Option<StoreError> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = queue.as_ref().is_some_and(mpsc::Sender::is_closed);
        ended.then(|| StoreError::Engine("its writer has ended; restart the locator".into()))
    }

    /// Queues a change of about `bytes` and waits until it is durable.
    pub(super) async fn run<T>(
        &self,
        command: impl FnOnce(Reply<T>) -> Command,
        bytes: usize,
    ) -> Result<T, StoreError> {
        durable(self.begin(command, bytes).await?).await
    }

    /// Queues a change of about `bytes`.
    pub(super) async fn begin<T>(
        &self,
        command: impl FnOnce(Reply<T>) -> Command,
        bytes: usize,
    ) -> Result<oneshot::Receiver<Result<T, StoreError>>, StoreError> {
        let sender = {
            let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.clone().ok_or(StoreError::Closed)?
        };
        let (reply, answer) = oneshot::channel();
        let command = command(reply);
        let room = if command.is_bulk() {
            let kib = u32::try_from(1 + bytes / 1024)
                .unwrap_or(u32::MAX)
                .min(QUEUE_KIB);
            self.room.clone().acquire_many_owned(kib).await
        } else {
            self.room_for_few.clone().acquire_owned().await
        };
        let _room = room.map_err(|_| StoreError::Closed)?;
        let sent = sender.send(Queued { command, _room }).await;
        sent.map_err(|_| StoreError::Closed)?;
        self.metrics.queue_depth.inc();
        // The sender goes now: otherwise the thread could never see the last one go.
        Ok(answer)
    }

    /// Ends the queue; the thread that finishes it, if it was not ended before.
    fn end(&self) -> Option<JoinHandle<()>> {
        drop(
            self.queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        self.thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Lets the thread finish what is queued, and waits for its end.
    pub(super) async fn close(&self) {
        let thread = self.end();
        if let Some(thread) = thread {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                log::error!("the store writer ended with a panic");
            }
        }
    }
}

/// Waits for the answer to a change.
pub(super) async fn durable<T>(
    answer: oneshot::Receiver<Result<T, StoreError>>,
) -> Result<T, StoreError> {
    // Who was at work when it panicked could not answer.
    answer.await.map_err(|_| interrupted())?
}

/// A panic, which has been printed where it happened.
fn interrupted() -> StoreError {
    StoreError::Engine("a change made it panic, as the log says".into())
}

impl Drop for Writer {
    /// Whoever drops the store may open the file again at once.
    fn drop(&mut self) {
        if let Some(thread) = self.end() {
            // A panic of the thread has been printed; there is nobody to tell.
            let _ = thread.join();
        }
    }
}

/// What the thread owns.
pub(super) struct Committer {
    /// None while the file could not be opened again.
    pub(super) database: Option<Database>,
    pub(super) keys: Keys,
    pub(super) counters: Counters,
    pub(super) origin: Box<dyn Origin>,
    pub(super) published: Arc<Published>,
    pub(super) metrics: StoreMetrics,
    /// Whether a change panicked since it was opened: nobody knows what that left behind.
    pub(super) has_panicked: bool,
    complaints: Throttle,
}

/// Sends one answer, given how the transaction ended.
type Answer = Box<dyn FnOnce(Option<StoreError>)>;

impl Committer {
    fn run(mut self, receiver: mpsc::Receiver<Queued>) {
        let mut recovery = Recovery::default();
        let mut queue = Queue::new(receiver);
        while let Some(batch) = queue.batch() {
            let records = batch.iter().map(|queued| queued.command.records()).sum();
            let depth = i64::try_from(batch.len()).expect("bounded");
            self.metrics.queue_depth.dec_by(depth);
            let Err(fault) = self.commit(batch, records) else {
                continue;
            };
            if self.is_stuck() {
                recovery.run(&mut self, &mut queue, fault);
            } else if let Some(untold) = self.complaints.pass(Instant::now()) {
                log::error!("a commit failed: {fault}{untold}");
            }
        }
    }

    fn commit(&mut self, batch: Vec<Queued>, records: usize) -> Result<(), StoreError> {
        let began = Instant::now();
        let mut batch = batch.into_iter();
        let mut answers = Vec::with_capacity(batch.len());
        let mut rooms = Vec::with_capacity(batch.len());
        let committed = self.guarded(|committer| {
            committer.transact(|transaction| {
                for Queued { command, _room } in batch.by_ref() {
                    rooms.push(_room);
                    let mut failed = None;
                    answers.push(apply(transaction, command, &mut failed));
                    failed.map_or(Ok(()), Err)?;
                }
                Ok(())
            })
        });
        match &committed {
            Ok(()) => {
                self.metrics.commits.inc();
                self.metrics.commit_records.observe(records as f64);
                let seconds = began.elapsed().as_secs_f64();
                self.metrics.commit_seconds.observe(seconds);
            }
            Err(fault) => {
                if self.is_stuck() {
                    // Who is told of it and looks finds it.
                    self.publish_fault(Some(fault));
                }
                for Queued { command, .. } in batch {
                    command.refuse(fault.clone());
                }
            }
        }
        for answer in answers {
            answer(committed.as_ref().err().cloned());
        }
        committed
    }

    /// Whether the engine refuses everything until it is opened again.
    pub(super) fn is_stuck(&self) -> bool {
        let database = self.database.as_ref().filter(|_| !self.has_panicked);
        database.is_none_or(|database| {
            let begins = catch_unwind(AssertUnwindSafe(|| database.begin_write().is_ok()));
            !begins.unwrap_or(false)
        })
    }

    /// Runs `work`; a panic of it is a fault, after which the engine is to be opened again.
    pub(super) fn guarded(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let worked = catch_unwind(AssertUnwindSafe(|| work(self)));
        worked.unwrap_or_else(|_| {
            self.has_panicked = true;
            Err(interrupted())
        })
    }

    /// Runs `work` in a transaction, commits it and publishes the snapshot.
    pub(super) fn transact(
        &mut self,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let database = self.database.as_ref().ok_or(StoreError::Closed)?;
        let mut writing = database.begin_write().map_err(engine)?;
        writing
            .set_durability(Durability::Immediate)
            .map_err(engine)?;
        let mut transaction = Transaction::open(&writing, self.keys, self.counters)?;
        let worked = work(&mut transaction);
        let closed = worked.and_then(|()| transaction.close());
        let counters = match closed {
            Ok(counters) => counters,
            Err(error) => {
                // The first error says more than that of an engine which has failed by now.
                let _ = writing.abort();
                return Err(error);
            }
        };
        writing.commit().map_err(engine)?;
        self.counters = counters;
        let snapshot = Snapshot::of(database, counters)?;
        self.published.publish(snapshot);
        Ok(())
    }

    /// Answers what waits with `fault`; false when the queue has ended.
    pub(super) fn refuse_waiting(
        &self,
        queue: &mut Queue,
        fault: &StoreError,
        refused: &mut u64,
    ) -> bool {
        for Queued { command, .. } in queue.take_all() {
            self.metrics.queue_depth.dec();
            command.refuse(fault.clone());
            *refused += 1;
        }
        !queue.has_ended()
    }
}

/// Applies one change. An error of the engine goes to `failed` and ends the transaction; any
/// other one is the answer of this change alone, which has changed nothing then.
fn apply(
    transaction: &mut Transaction<'_>,
    command: Command,
    failed: &mut Option<StoreError>,
) -> Answer {
    match command {
        Command::Register { peer, reply } => answer(transaction.register(&peer), reply, failed),
        Command::Lapse {
            peers,
            at_ms,
            reply,
        } => answer(transaction.lapse(&peers, at_ms), reply, failed),
        Command::Announce {
            peer,
            token,
            change,
            reply,
        } => answer(transaction.announce(peer, &token, change), reply, failed),
        Command::Forget {
            peer,
            at_ms,
            limit,
            reply,
        } => answer(transaction.forget(peer, at_ms, limit), reply, failed),
        Command::EndSessions { peers, reply } => {
            answer(transaction.end_sessions(&peers), reply, failed)
        }
        Command::PutAccount {
            account,
            expect,
            reply,
        } => answer(transaction.put_account(&account, expect), reply, failed),
        Command::RemoveAccount { user, reply } => {
            answer(transaction.remove_account(&user), reply, failed)
        }
        Command::SetImporting { export, reply } => {
            answer(transaction.set_importing(export), reply, failed)
        }
        Command::Check => Box::new(drop),
    }
}

fn answer<T: 'static>(
    result: Result<T, StoreError>,
    reply: Reply<T>,
    failed: &mut Option<StoreError>,
) -> Answer {
    *failed = result.as_ref().err().filter(|e| e.is_fault()).cloned();
    Box::new(move |failure| {
        // Nobody waits any more when the connection is gone; the change holds all the same.
        let _ = reply.send(match failure {
            Some(failure) => Err(failure),
            None => result,
        });
    })
}
