//! Makes what this peer holds findable: follows the catalogue, and keeps its records at the
//! members that are to have them, wherever those are by now.
//!
//! Invariant: `told` says what each member acknowledged, and which of our fingerprints that was
//! for; a member is told again whenever that differs from what it is to have. Falling behind the
//! catalogue begins again from a snapshot, which sends only what differs.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tokio::{
    sync::{broadcast, watch},
    time::{sleep, sleep_until, timeout},
};
use vecino_rest::PeerId;

use super::{
    Node,
    peers::{From, SUSPECTED_FOR},
    placement,
    shares::Shares,
    timing::jittered,
    visit::{Job, Told, Visit},
};
use crate::{
    content::{Store, catalogue::Change},
    locate::overlay::Contact,
};

/// Changes that come within so long go in one message.
const GATHER: Duration = Duration::from_millis(10);
/// Changes that are gathered at most.
const MAX_GATHERED: usize = 1024;
/// Members that are told at a time.
const FAN_OUT: usize = 16;
/// Rounds of placing what a member did not take with another one.
const ROUNDS: usize = 3;
/// How long taking everything back may take when the peer stops.
const WITHDRAW_WITHIN: Duration = Duration::from_millis(500);

/// How a round ended, from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Done {
    /// Everybody took what it was told.
    All,
    /// Somebody refused it.
    Refused,
    /// Somebody did not answer.
    Silence,
}

/// See the module.
struct Publisher {
    node: Arc<Node>,
    store: Arc<Store>,
    shares: Option<Shares>,
    told: HashMap<PeerId, (Contact, BTreeMap<u32, Told>)>,
    holders: HashMap<u32, Vec<Contact>>,
}

/// Runs until `stopping`, then takes everything back.
pub(super) async fn run(node: Arc<Node>, store: Arc<Store>, mut stopping: watch::Receiver<bool>) {
    let mut publisher = Publisher {
        node,
        store,
        shares: None,
        told: HashMap::new(),
        holders: HashMap::new(),
    };
    tokio::select! {
        () = publisher.publish() => {}
        // An error means that the peer is gone, which is the same.
        _ = stopping.wait_for(|&stopping| stopping) => {}
    }
    if timeout(WITHDRAW_WITHIN, publisher.withdraw_all())
        .await
        .is_err()
    {
        log::info!("some records were not taken back: they end by themselves");
    }
}

impl Publisher {
    async fn publish(&mut self) {
        // What is known from before is looked at before anybody is told.
        self.store.importer().first_scan().await;
        let mut network = self.node.network.follow();
        loop {
            network.mark_unchanged();
            if self.node.network.seat().is_none() {
                // An error means that the peer is gone, and nothing comes any more.
                let _ = network.changed().await;
                continue;
            }
            // Before the snapshot, so that nothing falls between.
            let feed = self.store.catalogue().follow();
            if self.load() {
                self.follow(feed, &mut network).await;
            }
        }
    }

    /// Reads the catalogue; whether the layout is known.
    fn load(&mut self) -> bool {
        let Some(layout) = self.node.network.layout() else {
            return false;
        };
        if self
            .shares
            .as_ref()
            .is_some_and(|shares| shares.layout() != layout)
        {
            // Slots of another layout mean nothing any more.
            self.told.clear();
        }
        self.holders.clear();
        let mut shares = Shares::new(layout);
        let mut touched = BTreeSet::new();
        for bucket in 0..=u8::MAX {
            for record in self.store.catalogue().bucket(bucket) {
                touched.insert(shares.apply(Change::Added(record)));
            }
        }
        touched.into_iter().for_each(|slot| shares.settle(slot));
        self.shares = Some(shares);
        true
    }

    /// Follows the catalogue and the network until one of them has to be read anew.
    async fn follow(
        &mut self,
        mut feed: broadcast::Receiver<Change>,
        network: &mut watch::Receiver<u64>,
    ) {
        let mut failed = self.settle(None, false).await;
        let mut refresh_at = self.next_refresh();
        loop {
            let retry = async {
                match failed {
                    // A member is suspected no more then.
                    true => sleep(SUSPECTED_FOR).await,
                    false => std::future::pending().await,
                }
            };
            tokio::select! {
                change = feed.recv() => {
                    let Some(touched) = self.gather(change, &mut feed).await else { return };
                    failed |= self.settle(Some(&touched), false).await;
                    for slot in touched {
                        self.shares().settle(slot);
                    }
                }
                _ = network.changed() => {
                    let layout = self.node.network.layout();
                    if layout != Some(self.shares().layout()) || self.node.network.seat().is_none() {
                        return;
                    }
                    self.holders.clear();
                    failed = self.settle(None, false).await;
                }
                () = retry => {
                    self.holders.clear();
                    failed = self.settle(None, false).await;
                }
                () = sleep_until(refresh_at) => {
                    failed |= self.settle(None, true).await;
                    refresh_at = self.next_refresh();
                }
            }
        }
    }

    fn shares(&mut self) -> &mut Shares {
        self.shares.as_mut().expect("loaded before it is followed")
    }

    fn next_refresh(&self) -> tokio::time::Instant {
        tokio::time::Instant::now() + jittered(self.node.network.timing().refresh)
    }

    /// Applies `first` and what else is waiting; the slots that changed. `None` when changes
    /// were missed.
    async fn gather(
        &mut self,
        first: Result<Change, broadcast::error::RecvError>,
        feed: &mut broadcast::Receiver<Change>,
    ) -> Option<BTreeSet<u32>> {
        let mut next = Some(first.ok()?);
        sleep(GATHER).await;
        let mut touched = BTreeSet::new();
        for _ in 0..MAX_GATHERED {
            let Some(change) = next.take() else { break };
            touched.insert(self.shares().apply(change));
            next = match feed.try_recv() {
                Ok(change) => Some(change),
                Err(broadcast::error::TryRecvError::Lagged(_)) => return None,
                Err(_) => None,
            };
        }
        if let Some(change) = next {
            touched.insert(self.shares().apply(change));
        }
        Some(touched)
    }

    /// Tells members what they are to have, in `only` these slots or all; whether somebody did
    /// not take it. With `refresh`, everybody is asked whether it still has what it was told.
    async fn settle(&mut self, only: Option<&BTreeSet<u32>>, refresh: bool) -> bool {
        let mut failed = false;
        for round in 0..ROUNDS {
            let (jobs, _) = self.jobs(only).await;
            let silent = match self.visit(jobs, refresh && round == 0).await {
                Done::All => false,
                Done::Refused => {
                    failed = true;
                    false
                }
                Done::Silence => {
                    failed = true;
                    true
                }
            };
            if !silent {
                break;
            }
            // Somebody else is to have what it did not take.
            self.holders.clear();
        }
        if !failed {
            // Only now: until everybody has what it is to have, those of before still answer.
            let (_, drops) = self.jobs(only).await;
            self.visit(drops, false).await;
        }
        failed
    }

    async fn visit(&mut self, jobs: Vec<Job>, refresh: bool) -> Done {
        let Some(from) = self.from() else {
            return Done::Refused;
        };
        let shares = self.shares.as_ref().expect("loaded before");
        let (node, told) = (&*self.node, &self.told);
        let life = node.network.timing().life;
        let visit = |job: Job| {
            let before = told.get(&job.contact.peer).map(|(_, told)| told);
            let visit = Visit {
                node,
                from,
                shares,
                told: before.cloned().unwrap_or_default(),
                life,
            };
            visit.run(job, refresh)
        };
        let visits = stream::iter(jobs).map(visit).buffer_unordered(FAN_OUT);
        let outcomes: Vec<_> = visits.collect().await;
        let mut done = Done::All;
        for (contact, told, outcome) in outcomes {
            let peer = contact.peer;
            if told.is_empty() {
                self.told.remove(&peer);
            } else {
                self.told.insert(peer, (contact, told));
            }
            if let Err(status) = outcome {
                log::debug!("a member took no records: {}", status.message());
                done = done.max(match self.node.peers.suspects(&peer) {
                    true => Done::Silence,
                    false => Done::Refused,
                });
            }
        }
        done
    }

    fn from(&self) -> Option<From> {
        Some(From {
            slot: self.node.network.seat()?,
            slots: self.shares.as_ref()?.layout().slots(),
        })
    }

    /// What is to be told to whom, and who is to forget what.
    async fn jobs(&mut self, only: Option<&BTreeSet<u32>>) -> (Vec<Job>, Vec<Job>) {
        let shares = self.shares.as_ref().expect("loaded before");
        let slots: BTreeSet<u32> = match only {
            Some(only) => only.clone(),
            None => {
                let told = self
                    .told
                    .values()
                    .flat_map(|(_, told)| told.keys().copied());
                shares.slots().map(|(slot, _)| slot).chain(told).collect()
            }
        };
        let mut tell: HashMap<PeerId, Job> = HashMap::new();
        let mut unplaced = BTreeSet::new();
        for slot in &slots {
            if !self.holders.contains_key(slot) {
                let Some(holders) = holders(&self.node, *slot).await else {
                    unplaced.insert(*slot);
                    continue;
                };
                self.holders.insert(*slot, holders);
            }
            for contact in &self.holders[slot] {
                let job = tell.entry(contact.peer).or_insert_with(|| Job::at(contact));
                job.slots.push(*slot);
            }
        }
        let mut drops = Vec::new();
        for (peer, (contact, told)) in &self.told {
            // In order, as the slots were.
            let wanted = tell.get(peer).map_or(&[][..], |job| &job.slots);
            let is_over = |slot: &&u32| {
                slots.contains(slot)
                    && !unplaced.contains(slot)
                    && wanted.binary_search(slot).is_err()
            };
            let drop: Vec<u32> = told.keys().filter(is_over).copied().collect();
            if !drop.is_empty() {
                drops.push(Job {
                    drop,
                    ..Job::at(contact)
                });
            }
        }
        (tell.into_values().collect(), drops)
    }

    /// Takes everything back.
    async fn withdraw_all(&mut self) {
        let Some(from) = self.from() else { return };
        let node = &*self.node;
        let everywhere: Vec<_> = self.told.drain().map(|(_, told)| told).collect();
        let leave = |(contact, told): (Contact, BTreeMap<u32, Told>)| async move {
            for slot in told.into_keys() {
                if node
                    .peers
                    .withdraw(&contact, from, slot, None)
                    .await
                    .is_err()
                {
                    break;
                }
            }
        };
        let leaving = stream::iter(everywhere).map(leave);
        leaving.buffer_unordered(FAN_OUT).collect::<()>().await;
    }
}

/// The members that are to have the records of a slot, as far as they can be reached.
async fn holders(node: &Node, slot: u32) -> Option<Vec<Contact>> {
    let (_, members) = node.network.responsible(slot).await?;
    let reachable: Vec<_> = members
        .iter()
        .filter(|member| !node.peers.suspects(&member.contact.peer))
        .cloned()
        .collect();
    let holders = placement::holders(slot, &reachable);
    Some(
        holders
            .into_iter()
            .map(|member| member.contact.clone())
            .collect(),
    )
}
