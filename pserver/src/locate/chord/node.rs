//! [`Node`]: this peer on the ring. Drives the state machine of `state` over gRPC: carries its
//! calls and looks places up; `membership` keeps its timers, joins and leaves.
//!
//! Invariant: a lock is never held over an await. Each call of the state machine is carried by a
//! task of its own (`errand`), so stabilisation and rectification never wait for each other, and
//! nobody who waits for one can leave it half done.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use moka::sync::Cache;
use tokio::{
    sync::{Semaphore, watch},
    task::{AbortHandle, JoinSet},
    time::{sleep_until, timeout},
};
use vecino_grpc::v1;
use vecino_rest::{PeerId, PeerUrl};

use super::{
    calls::{Calls, Failed},
    errand::Errand,
    id::Id,
    lookup::{Found, Lookup, Next},
    member::Member,
    records::Records,
    secret::Secret,
    state::{Call, Ring, Step},
    timing::{HOLDERS_ASKED, MAX_VOUCHED, REPLICAS, Timing},
    wire::{self, Reader},
};
use crate::locate::overlay::{Contact, Context};

/// Members that are tried to join through.
pub(super) const DOORS: usize = 16;
/// Where they are kept over restarts.
pub(super) const DOORS_FILE: &str = "chord-members";

/// Ask-backs at a time.
const MAX_VOUCHING: usize = 64;

/// A peer that answered for its token at its address.
#[derive(Debug, Clone)]
struct Vouched {
    proof: [u8; 32],
    contact: Arc<Contact>,
    token: [u8; 32],
}

/// See the module.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) me: Member,
    pub(super) context: Context,
    pub(super) timing: Timing,
    pub(super) reader: Reader,
    pub(super) calls: Calls,
    pub(super) secret: Secret,
    ring: Mutex<Ring>,
    records: Mutex<Records>,
    /// Members of the last run.
    pub(super) remembered: Vec<PeerUrl>,
    /// Peers whose token was checked with them.
    vouched: Cache<PeerId, Vouched>,
    /// Bounds the questions that strangers make this member ask.
    vouching: Semaphore,
    /// Counts how often this peer became part of a ring; 0 before.
    pub(super) joined: watch::Sender<u64>,
    pub(super) near: watch::Sender<Vec<Id>>,
    /// The records that come from the successor of this newcomer.
    pub(super) taking_over: Mutex<Option<AbortHandle>>,
    started: Instant,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Node {
    pub(super) fn new(context: Context, timing: Timing, secret: Secret) -> Self {
        let me = Member::new(context.me.clone());
        let reader = Reader {
            on_loopback: context.me.url.is_loopback(),
        };
        let remembered = std::fs::read_to_string(context.data_dir.join(DOORS_FILE));
        let remembered = remembered.unwrap_or_default();
        let remembered = remembered.lines().filter_map(|line| line.parse().ok());
        Self {
            remembered: remembered.take(DOORS).collect(),
            calls: Calls::new(context.channels.clone(), reader, &timing),
            reader,
            ring: Mutex::new(Ring::new(me.clone(), REPLICAS)),
            records: Mutex::default(),
            vouching: Semaphore::new(MAX_VOUCHING),
            vouched: Cache::builder()
                .max_capacity(MAX_VOUCHED)
                .time_to_live(timing.vouched)
                .build(),
            joined: watch::Sender::new(0),
            near: watch::Sender::default(),
            taking_over: Mutex::default(),
            started: Instant::now(),
            me,
            context,
            timing,
            secret,
        }
    }

    pub(super) fn ring(&self) -> MutexGuard<'_, Ring> {
        lock(&self.ring)
    }

    pub(super) fn records(&self) -> MutexGuard<'_, Records> {
        lock(&self.records)
    }

    /// Changes with the members next to this one.
    pub(super) fn near(&self) -> watch::Receiver<Vec<Id>> {
        self.near.subscribe()
    }

    /// Time since the start, by which records live.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Changes whenever this peer became part of a ring, or of another one.
    pub(super) fn joined(&self) -> watch::Receiver<u64> {
        self.joined.subscribe()
    }

    pub(super) fn token_for(&self, holder: &PeerId) -> Bytes {
        Bytes::copy_from_slice(&self.secret.token_for(holder))
    }

    /// Whether `token` comes from `sender`: known from before, or `sender` says so itself at its
    /// address.
    pub(super) async fn is_sent_by(&self, sender: &Member, token: &[u8]) -> bool {
        let Ok(token) = <[u8; 32]>::try_from(token) else {
            return false;
        };
        let peer = sender.contact.peer;
        // The address is part of what was checked: nobody moves another's records elsewhere.
        let proof = self.secret.proof(&sender.contact, &token);
        let known = self.vouched.get(&peer);
        if known.as_ref().is_some_and(|known| known.proof == proof) {
            return true;
        }
        let Ok(_permit) = self.vouching.try_acquire() else {
            return false;
        };
        // Who answered for this peer before, and still does, has not moved.
        if let Some(known) = known
            && self.vouches(&known.contact, known.token).await
        {
            return false;
        }
        let is_mine = self.vouches(&sender.contact, token).await;
        if is_mine {
            let contact = sender.contact.clone();
            self.vouched.insert(
                peer,
                Vouched {
                    proof,
                    contact,
                    token,
                },
            );
        }
        is_mine
    }

    /// Whether the peer at `contact` says that `token` is its own.
    async fn vouches(&self, contact: &Contact, token: [u8; 32]) -> bool {
        let request = v1::ChordVouchRequest {
            to: wire::from_peer(&contact.peer),
            holder: wire::from_peer(&self.me.contact.peer),
            token: Bytes::copy_from_slice(&token),
        };
        let answer = self
            .calls
            .ask(contact, async |mut client| client.vouch(request).await)
            .await;
        answer.is_ok_and(|answer| answer.is_mine)
    }

    /// Carries out `calls`, and those that follow from their answers, in the background.
    pub(super) fn carry(self: &Arc<Self>, calls: Vec<Call>) {
        for call in calls {
            tokio::spawn(Errand::new(self.clone(), call).run());
        }
    }

    /// Carries out `call` and what follows from it, to its end: it goes on when whoever waits here
    /// is dropped (a request whose client hung up).
    pub(super) async fn carry_one(self: &Arc<Self>, call: Call) {
        // An error is a panic there, or the end of everything.
        let _ = tokio::spawn(Errand::new(self.clone(), call).run()).await;
    }

    /// One stabilisation, to its end.
    pub(super) async fn stabilize(self: &Arc<Self>) {
        let calls = self.ring().stabilize();
        for call in calls {
            self.carry_one(call).await;
        }
    }

    /// Looks up the next finger; false when a pass over the table is complete.
    pub(super) async fn fix_finger(self: &Arc<Self>) -> bool {
        let (index, place) = {
            let mut ring = self.ring();
            let Some(head) = ring.others().next().cloned() else {
                return false;
            };
            let Some(index) = ring.fingers.next(&head) else {
                return false;
            };
            (index, ring.fingers.start(index))
        };
        let found = self.find(place).await;
        let mut ring = self.ring();
        match found {
            Some(found) => ring.fingers.set(index, &found.holders[0]),
            None => ring.fingers.skip(index),
        }
        true
    }

    /// Who is responsible for `place`; `None` when this peer is no member.
    pub(super) async fn find(self: &Arc<Self>, place: Id) -> Option<Found> {
        let lookup = {
            let ring = self.ring();
            if !ring.is_member() {
                return None;
            }
            Lookup::begin(place, &self.me, ring.step(&place))
        };
        self.run(lookup, place).await
    }

    /// Carries a lookup to its end.
    pub(super) async fn run(self: &Arc<Self>, mut lookup: Lookup, place: Id) -> Option<Found> {
        let began = Instant::now();
        let mut asking = JoinSet::new();
        let stepping = async {
            loop {
                match lookup.next(began.elapsed()) {
                    Next::Over => break,
                    Next::Ask(member) if member.id == self.me.id => {
                        let step = self.ring().step(&place);
                        lookup.answered(&member, step);
                    }
                    Next::Ask(member) if self.calls.was_silent(&member.contact.peer) => {
                        lookup.failed(&member);
                    }
                    Next::Ask(member) => {
                        let node = self.clone();
                        asking.spawn(async move {
                            let step = node.ask_step(&member, &place).await;
                            (member, step)
                        });
                    }
                    Next::Wait(until) => {
                        let late = async {
                            match until {
                                Some(at) => sleep_until((began + at).into()).await,
                                None => std::future::pending().await,
                            }
                        };
                        tokio::select! {
                            asked = asking.join_next() => match asked {
                                Some(Ok((member, Some(step)))) => lookup.answered(&member, step),
                                Some(Ok((member, None))) => lookup.failed(&member),
                                Some(Err(_)) | None => break,
                            },
                            () = late => {}
                        }
                    }
                }
            }
        };
        // What was found until then may do.
        let _ = timeout(self.timing.lookup, stepping).await;
        // Those that are late are still found out to be silent, for the lookups that come.
        asking.detach_all();
        lookup.found()
    }

    async fn ask_step(&self, member: &Member, place: &Id) -> Option<Step> {
        let asked = self.calls.step(member, place).await;
        if let Err(error) = &asked
            && !matches!(error, Failed::Invalid(_))
        {
            self.ring().fingers.forget(&member.id);
        }
        asked.ok()
    }

    /// Everybody who keeps the records of the place that `found` is for: the responsible member
    /// and the r after it, as it lists them itself, besides those that the member before lists.
    pub(super) async fn holders(&self, found: &Found) -> Vec<Member> {
        if found.goes_round() {
            return found.holders.clone();
        }
        for holder in found.holders.iter().take(HOLDERS_ASKED) {
            let list = if holder.id == self.me.id {
                Some(self.ring().successors().to_vec())
            } else if self.calls.was_silent(&holder.contact.peer) {
                None
            } else {
                let step = self.calls.step(holder, &holder.id).await;
                step.ok().map(|step| step.successors)
            };
            if let Some(list) = list {
                return found.holders_with(holder, &list);
            }
        }
        found.holders.clone()
    }
}
