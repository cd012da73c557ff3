//! Makes what this peer holds findable: follows the catalogue, publishes each record to the
//! member responsible for its name and to that member's r successors, and withdraws it there.
//!
//! Invariant: a record that is in the catalogue is published again within `timing.republish`,
//! well within its life; what could not be published is tried again until it is.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::broadcast::error::{RecvError, TryRecvError},
    task::{JoinError, JoinSet},
    time::{Instant, sleep, sleep_until, timeout},
};
use vecino_grpc::v1;
use vecino_rest::{Digest, Name, PeerId};

use super::{
    id::Id,
    member::Member,
    node::Node,
    records::Provided,
    timing::{MAX_HOLDERS, RECORDS_A_MESSAGE, REFUSED_AGAIN_AFTER, SENDS_AT_A_TIME, Timing},
    wire,
};
use crate::content::catalogue::{Change, Record};

/// Changes that come within so long are published together.
const GATHER: Duration = Duration::from_millis(10);
/// Changes published together.
const BATCH: usize = 4096;
/// Tries to withdraw before a record is left to end by itself.
const WITHDRAW_TRIES: u32 = 5;

/// What is to be done about a record.
#[derive(Debug, Clone)]
enum Task {
    Store(Record),
    /// With the tries so far.
    Withdraw(Record, u32),
}

impl Task {
    fn record(&self) -> &Record {
        match self {
            Self::Store(record) | Self::Withdraw(record, _) => record,
        }
    }
}

/// One task a record, in order of place.
type Tasks = BTreeMap<(Id, Name, Digest), Task>;

fn add(tasks: &mut Tasks, task: Task) {
    let record = task.record();
    let key = (
        Id::of_name(&record.name),
        record.name.clone(),
        record.digest,
    );
    tasks.insert(key, task);
}

/// See the module.
#[derive(Debug)]
pub(super) struct Publisher {
    node: Arc<Node>,
    /// Who keeps records of this peer.
    holders: HashMap<PeerId, Member>,
    /// Whether a holder was silent since everything was published last.
    is_incomplete: bool,
    /// Whether most holders of a record refused it since then.
    is_refused: bool,
}

/// What became of records at one holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// It keeps them.
    Taken,
    /// It has no room for some.
    Refused,
    /// It did not answer, or not as it should.
    Failed,
}

impl Publisher {
    pub(super) fn new(node: Arc<Node>) -> Self {
        Self {
            node,
            holders: HashMap::new(),
            is_incomplete: false,
            is_refused: false,
        }
    }

    /// Publishes until the peer stops; then withdraws everything.
    pub(super) async fn run(mut self) {
        let mut stopping = self.node.context.stopping.clone();
        let stopped = async {
            // An error means that the server is gone, which is the same.
            let _ = stopping.wait_for(|&stopping| stopping).await;
        };
        tokio::select! {
            () = stopped => {}
            () = self.publish() => {}
        }
        let _ = timeout(self.node.timing.leave, self.withdraw_all()).await;
    }

    async fn publish(&mut self) {
        let node = self.node.clone();
        let catalogue = node.context.store.catalogue();
        let (mut joined, mut near) = (node.joined(), node.near());
        let mut changes = catalogue.follow();
        let mut again: Tasks = Tasks::new();
        let mut whole = Instant::now();
        // After the last change among the nearest members; `whole` comes in any case.
        let mut settled: Option<Instant> = None;
        loop {
            let retry = async {
                match again.is_empty() {
                    true => std::future::pending().await,
                    false => sleep(node.timing.publish_again).await,
                }
            };
            let mut tasks = Tasks::new();
            tokio::select! {
                // Of the ring that it is part of now, nobody may know what it holds.
                _ = joined.changed() => whole = Instant::now(),
                // Others may be holders now: as long as a ring is being founded, all of them.
                _ = near.changed() => settled = Some(Instant::now() + node.timing.settle),
                () = sleep_until(settled.unwrap_or(whole).min(whole)), if *joined.borrow() > 0 => {
                    settled = settled.filter(|at| *at > Instant::now());
                    let period = node.timing.republish;
                    whole = Instant::now() + Timing::jittered(period, rand::random());
                    for bucket in 0..=u8::MAX {
                        for record in catalogue.bucket(bucket) {
                            add(&mut tasks, Task::Store(record));
                        }
                    }
                }
                change = changes.recv() => match change {
                    Ok(change) => {
                        sleep(GATHER).await;
                        let mut next = Some(change);
                        while let Some(change) = next.take() {
                            add(&mut tasks, task(change));
                            if tasks.len() < BATCH {
                                next = match changes.try_recv() {
                                    Ok(change) => Some(change),
                                    Err(TryRecvError::Lagged(_)) => {
                                        whole = Instant::now();
                                        None
                                    }
                                    Err(_) => None,
                                };
                            }
                        }
                    }
                    Err(RecvError::Lagged(_)) => whole = Instant::now(),
                    Err(RecvError::Closed) => return,
                },
                () = retry => {}
            }
            for (key, task) in std::mem::take(&mut again) {
                tasks.entry(key).or_insert(task);
            }
            again = self.carry_out(tasks).await;
            if std::mem::take(&mut self.is_incomplete) {
                whole = whole.min(Instant::now() + node.timing.silent);
            }
            if std::mem::take(&mut self.is_refused) {
                whole = whole.min(Instant::now() + REFUSED_AGAIN_AFTER);
            }
        }
    }

    /// Carries out `tasks`, those for one member together; what failed comes back.
    async fn carry_out(&mut self, mut tasks: Tasks) -> Tasks {
        let mut failed = Tasks::new();
        while let Some((key, _)) = tasks.first_key_value() {
            let place = key.0;
            let Some(found) = self.node.find(place).await else {
                failed.append(&mut tasks);
                break;
            };
            let upto = found.holders[0].id;
            let mut here = Tasks::new();
            // The first place is the responsible member's whatever the interval says: it may
            // have changed meanwhile.
            let is_here = |id: &Id| *id == place || id.is_in(&found.predecessor.id, &upto);
            tasks.retain(|key, task| {
                let is_here = is_here(&key.0);
                if is_here {
                    here.insert(key.clone(), task.clone());
                }
                !is_here
            });
            let holders = self.node.holders(&found).await;
            if !self.send(holders, &here).await {
                failed.extend(here.into_iter().filter_map(|(key, task)| match task {
                    Task::Withdraw(_, tries) if tries + 1 >= WITHDRAW_TRIES => None,
                    Task::Withdraw(record, tries) => Some((key, Task::Withdraw(record, tries + 1))),
                    store => Some((key, store)),
                }));
            }
        }
        failed
    }

    /// Sends `tasks` to every holder; whether half of them took it, and the others are silent.
    /// Who refuses a record has no room now: it is asked again later, not at once.
    async fn send(&mut self, holders: Vec<Member>, tasks: &Tasks) -> bool {
        let (mut store, mut withdraw) = (Vec::new(), Vec::new());
        for task in tasks.values() {
            match task {
                Task::Store(record) => store.push(record.clone()),
                Task::Withdraw(record, _) => withdraw.push(record.clone()),
            }
        }
        let (store, withdraw) = (Arc::new(store), Arc::new(withdraw));
        let everyone = holders.clone();
        let (count, mut took, mut refused) = (holders.len(), 0, 0);
        let mut counted = |sent: Option<Result<Sent, JoinError>>| match sent {
            Some(Ok(Sent::Taken)) => took += 1,
            Some(Ok(Sent::Refused)) => refused += 1,
            _ => {}
        };
        let mut sending = JoinSet::new();
        for holder in holders {
            if sending.len() >= SENDS_AT_A_TIME {
                counted(sending.join_next().await);
            }
            if holder.id != self.node.me.id && self.holders.len() < MAX_HOLDERS {
                self.holders.insert(holder.contact.peer, holder.clone());
            }
            let (node, store, withdraw) = (self.node.clone(), store.clone(), withdraw.clone());
            sending.spawn(async move { node.send_to(&holder, &store, &withdraw).await });
        }
        while let Some(sent) = sending.join_next().await {
            counted(Some(sent));
        }
        let silent = |holder: &&Member| self.node.calls.was_silent(&holder.contact.peer);
        self.is_incomplete |= took + refused < count;
        self.is_refused |= refused > 0 && 2 * took < count;
        2 * (took + refused) >= count
            && took + refused + everyone.iter().filter(silent).count() >= count
    }

    async fn withdraw_all(&mut self) {
        let mut sending = JoinSet::new();
        for (_, holder) in self.holders.drain() {
            if sending.len() >= SENDS_AT_A_TIME {
                sending.join_next().await;
            }
            let node = self.node.clone();
            sending.spawn(async move {
                let request = node.withdrawal(&holder, Vec::new(), true);
                let contact = &holder.contact;
                let _ = node
                    .calls
                    .ask(contact, async |mut client| client.withdraw(request).await)
                    .await;
            });
        }
        while sending.join_next().await.is_some() {}
    }
}

fn task(change: Change) -> Task {
    match change {
        Change::Added(record) => Task::Store(record),
        Change::Removed(digest, name, _) => Task::Withdraw(
            Record {
                name,
                digest,
                size: 0,
                modified_ms: 0,
            },
            0,
        ),
    }
}

impl Node {
    /// Sends records to one holder, which may be this peer itself.
    async fn send_to(&self, holder: &Member, store: &[Record], withdraw: &[Record]) -> Sent {
        let mut outcome = Sent::Taken;
        if holder.id == self.me.id {
            let expires = self.now() + self.timing.life;
            let provided = store.iter().map(|record| Provided {
                record: record.clone(),
                provider: self.me.contact.clone(),
                expires,
            });
            let provided = provided.collect();
            let mut records = self.records();
            if records.keep(provided, true).refused > 0 {
                outcome = Sent::Refused;
            }
            for record in withdraw {
                records.withdraw(&self.me.contact.peer, &record.name, &record.digest);
            }
            return outcome;
        }
        for chunk in store.chunks(RECORDS_A_MESSAGE) {
            let request = v1::ChordStoreRequest {
                to: wire::from_peer(&holder.contact.peer),
                from: Some(wire::from_member(&self.me)),
                token: self.token_for(&holder.contact.peer),
                records: chunk.iter().map(wire::from_record).collect(),
                life_seconds: u32::try_from(self.timing.life.as_secs()).unwrap_or(u32::MAX),
            };
            let answer = self
                .calls
                .ask(&holder.contact, async |mut client| {
                    client.store(request).await
                })
                .await;
            match answer {
                Ok(answer) if answer.refused > 0 => {
                    log::debug!(
                        "{} records refused by {}",
                        answer.refused,
                        holder.contact.peer
                    );
                    outcome = Sent::Refused;
                }
                Ok(_) => {}
                Err(_) => return Sent::Failed,
            }
        }
        for chunk in withdraw.chunks(RECORDS_A_MESSAGE) {
            let records = chunk.iter().map(wire::from_record).collect();
            let request = self.withdrawal(holder, records, false);
            let answer = self
                .calls
                .ask(&holder.contact, async |mut client| {
                    client.withdraw(request).await
                })
                .await;
            if answer.is_err() {
                return Sent::Failed;
            }
        }
        outcome
    }

    fn withdrawal(
        &self,
        holder: &Member,
        records: Vec<v1::ChordPublished>,
        all: bool,
    ) -> v1::ChordWithdrawRequest {
        v1::ChordWithdrawRequest {
            to: wire::from_peer(&holder.contact.peer),
            from: Some(wire::from_member(&self.me)),
            token: self.token_for(&holder.contact.peer),
            records,
            all,
        }
    }
}
