//! [`Node`]: this peer on the ring. Drives the state machine of `state` over gRPC: carries its
//! calls, keeps its timers, joins and leaves.
//!
//! Invariant: a lock is never held over an await. Each call of the state machine is carried by a
//! task of its own, so stabilisation and rectification never wait for each other.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use moka::sync::Cache;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use vecino_grpc::v1;
use vecino_rest::{PeerId, PeerUrl};

use super::{
    calls::{Calls, Failed},
    id::Id,
    lookup::{Found, Lookup},
    member::Member,
    records::Records,
    secret::Secret,
    state::{Call, Request, Ring, Step},
    timing::{MAX_VOUCHED, RECORDS_A_MESSAGE, REPLICAS, TAKE_OVER_PAGES, Timing},
    wire::{self, Reader},
};
use crate::locate::overlay::{Contact, Context};

/// Tries to join through the seeds before a peer begins a ring of its own.
const JOIN_TRIES: usize = 4;
/// Members that are tried to join through.
const DOORS: usize = 16;
/// Where they are kept over restarts.
const DOORS_FILE: &str = "chord-members";

/// What came of a try to join.
enum Joined {
    /// A member now.
    Yes,
    /// Somebody is there, but its place is not free yet.
    NotYet,
    /// Nobody answered.
    Nobody,
}

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
    remembered: Vec<PeerUrl>,
    /// Peers whose token was checked with them.
    vouched: Cache<PeerId, Vouched>,
    /// Bounds the questions that strangers make this member ask.
    vouching: Semaphore,
    /// Counts how often this peer became part of a ring; 0 before.
    joined: watch::Sender<u64>,
    near: watch::Sender<Vec<Id>>,
    started: Instant,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
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
            let node = self.clone();
            tokio::spawn(async move { node.carry_one(call).await });
        }
    }

    /// Carries out `call` and what follows from it, one after another.
    async fn carry_one(self: &Arc<Self>, call: Call) {
        let mut calls = vec![call];
        while let Some(Call {
            to,
            request,
            purpose,
        }) = calls.pop()
        {
            let token = || self.token_for(&to.contact.peer);
            let answer = self.calls.ring(&to, request, token).await;
            calls.extend(self.ring().answered(&to, purpose, answer.ok()));
        }
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

    async fn run(self: &Arc<Self>, mut lookup: Lookup, place: Id) -> Option<Found> {
        let stepping = async {
            while let Some(member) = lookup.whom_to_ask() {
                if member.id == self.me.id {
                    let step = self.ring().step(&place);
                    lookup.answered(&member, step);
                    continue;
                }
                if self.calls.was_silent(&member.contact.peer) {
                    lookup.failed(&member);
                    continue;
                }
                match self.calls.step(&member, &place).await {
                    Ok(step) => lookup.answered(&member, step),
                    Err(error) => {
                        if !matches!(error, Failed::Invalid(_)) {
                            self.ring().fingers.forget(&member.id);
                        }
                        lookup.failed(&member);
                    }
                }
            }
        };
        // What was found until then may do.
        let _ = timeout(self.timing.lookup, stepping).await;
        lookup.found()
    }

    /// Where others may be: the seeds, members known from before, and those of the last run.
    fn doors(&self) -> Vec<PeerUrl> {
        let mut doors = self.context.seeds.clone();
        {
            let ring = self.ring();
            let fingers = ring.fingers.iter().filter_map(|(_, node)| node);
            let known = ring.predecessor().into_iter().chain(fingers);
            doors.extend(known.map(|member| member.contact.overlay.clone()));
        }
        doors.extend(self.remembered.iter().cloned());
        let mut seen = HashSet::from([self.me.contact.overlay.clone()]);
        doors.retain(|door| seen.insert(door.clone()));
        doors.truncate(DOORS);
        doors
    }

    /// Keeps the members next to this one for the next run: a seed that restarts has no seeds.
    async fn keep_doors(&self) {
        let near: Vec<String> = {
            let ring = self.ring();
            let near = ring.others().chain(ring.predecessor());
            near.map(|member| member.contact.overlay.to_string())
                .take(DOORS)
                .collect()
        };
        if near.is_empty() {
            return;
        }
        let path = self.context.data_dir.join(DOORS_FILE);
        let writing = tokio::task::spawn_blocking(move || std::fs::write(path, near.join("\n")));
        if let Ok(Err(error)) = writing.await {
            log::warn!("DATA_DIR: {DOORS_FILE} cannot be written: {error}");
        }
    }

    /// Who is responsible for `place` in the ring that somebody else than this peer knows: the
    /// first seed, or member known from before, that answers.
    async fn find_through_others(self: &Arc<Self>, place: Id) -> Option<Found> {
        for door in self.doors() {
            if let Some(found) = self.find_through(&door, place).await {
                return Some(found);
            }
        }
        None
    }

    async fn find_through(self: &Arc<Self>, door: &PeerUrl, place: Id) -> Option<Found> {
        let (seed, successors) = match self.calls.seed(door).await {
            Ok(answer) => answer,
            Err(error) => {
                log::debug!("ring: {door} cannot be joined through: {error}");
                return None;
            }
        };
        if seed.id == self.me.id {
            return None;
        }
        let mut lookup = Lookup::new(place);
        let step = Step {
            successors,
            closer: Vec::new(),
        };
        lookup.answered(&seed, step);
        self.run(lookup, place).await
    }

    async fn join(self: &Arc<Self>) -> Joined {
        let Some(found) = self.find_through_others(self.me.id).await else {
            return Joined::Nobody;
        };
        self.join_at(found).await
    }

    /// Somebody notified this peer: alone, it joins the ring of that member if there is more of
    /// it; otherwise it rectifies.
    pub(super) async fn notified(self: Arc<Self>, by: Member) {
        let is_alone = self.ring().is_alone();
        if is_alone
            && let Some(found) = self.find_through(&by.contact.overlay, self.me.id).await
            && matches!(self.join_at(found).await, Joined::Yes)
        {
            return;
        }
        let handled = self.ring().handle(Request::Notify(by));
        if let Ok((_, calls)) = handled {
            self.carry(calls);
        }
    }

    async fn join_at(self: &Arc<Self>, found: Found) -> Joined {
        let joined = {
            let mut ring = self.ring();
            // Another way may have led in meanwhile.
            (!ring.is_member() || ring.is_alone() || ring.successors().is_empty())
                && ring.join(&found.predecessor, &found.successors)
        };
        if joined {
            log::info!(
                "joined the ring between peers {} and {}",
                found.predecessor.contact.peer,
                found.successors[0].contact.peer
            );
            self.stabilize().await;
            self.take_over().await;
            self.joined.send_modify(|count| *count += 1);
            return Joined::Yes;
        }
        Joined::NotYet
    }

    /// Takes the records that belong here now from the successor.
    async fn take_over(self: &Arc<Self>) {
        let Some(successor) = self.ring().others().next().cloned() else {
            return;
        };
        let mut cursor = Bytes::new();
        for _ in 0..TAKE_OVER_PAGES {
            let request = v1::ChordTakeOverRequest {
                to: wire::from_peer(&successor.contact.peer),
                place: wire::from_id(&self.me.id),
                cursor,
            };
            let answer = self
                .calls
                .ask(&successor.contact, async |mut client| {
                    client.take_over(request).await
                })
                .await;
            let Ok(answer) = answer else {
                // The other holders have them, and their publishers bring them again.
                log::debug!("ring: the successor's records were not taken over");
                return;
            };
            let provided = self
                .reader
                .provided(answer.provided, self.now(), self.timing.life);
            if let Ok(provided) = provided {
                self.records().keep(provided, false);
            }
            cursor = answer.cursor;
            if cursor.is_empty() {
                return;
            }
        }
    }

    /// Joins, and keeps this peer's place on the ring, until it stops; then leaves.
    pub(super) async fn keep_place(self: Arc<Self>) {
        let mut stopping = self.context.stopping.clone();
        let stopped = async {
            // An error means that the server is gone, which is the same.
            let _ = stopping.wait_for(|&stopping| stopping).await;
        };
        tokio::select! {
            () = stopped => {}
            () = self.clone().stay() => {}
        }
        if timeout(self.timing.leave, self.leave()).await.is_err() {
            log::debug!("ring: leaving took too long");
        }
    }

    async fn stay(self: Arc<Self>) {
        loop {
            self.become_member().await;
            self.keep_doors().await;
            let everything = async {
                tokio::join!(
                    self.keep_stabilizing(),
                    self.keep_fixing_fingers(),
                    self.keep_comparing(),
                    self.keep_sweeping(),
                )
            };
            tokio::select! {
                _ = everything => {}
                () = self.lost() => {}
            }
            log::warn!("ring: every known successor is silent");
            // Whoever still lists it must not take it for a member that knows the ring.
            self.ring().leave();
        }
    }

    /// Joins, or begins a ring of its own when nobody is there to join.
    async fn become_member(self: &Arc<Self>) {
        let mut unheard = 0;
        loop {
            match self.join().await {
                Joined::Yes => return,
                // Its place is not free yet: others still list it from before.
                Joined::NotYet => {}
                // They may be starting too.
                Joined::Nobody => unheard += 1,
            }
            if unheard >= JOIN_TRIES || self.doors().is_empty() {
                break;
            }
            sleep(jittered(self.timing.join_again)).await;
        }
        self.ring().begin_alone();
        log::info!("began a ring");
        self.joined.send_modify(|count| *count += 1);
    }

    /// Ends when no successor is left.
    async fn lost(&self) {
        loop {
            sleep(self.timing.stabilize).await;
            if self.ring().successors().is_empty() {
                return;
            }
        }
    }

    async fn keep_stabilizing(self: &Arc<Self>) {
        loop {
            sleep(jittered(self.timing.stabilize)).await;
            self.stabilize().await;
            let near: Vec<Id> = {
                let ring = self.ring();
                let near = ring.others().chain(ring.predecessor());
                near.map(|member| member.id).collect()
            };
            self.near.send_if_modified(|known| {
                let is_new = *known != near;
                *known = near;
                is_new
            });
        }
    }

    async fn keep_fixing_fingers(self: &Arc<Self>) {
        loop {
            sleep(jittered(self.timing.fix_finger)).await;
            self.fix_finger().await;
        }
    }

    async fn keep_comparing(self: &Arc<Self>) {
        loop {
            sleep(jittered(self.timing.compare)).await;
            self.compare().await;
            self.keep_doors().await;
        }
    }

    async fn keep_sweeping(&self) {
        loop {
            sleep(jittered(self.timing.sweep)).await;
            let now = self.now();
            self.records().sweep(now);
        }
    }

    /// Compares the ring with the seeds': when peers were parted, or began alone, two rings
    /// become one.
    pub(super) async fn compare(self: &Arc<Self>) {
        if self.ring().is_alone() {
            self.join().await;
            return;
        }
        let Some(found) = self
            .find_through_others(self.me.id.plus_power_of_two(0))
            .await
        else {
            return;
        };
        let head = self.ring().others().next().cloned();
        let nearer = &found.holders[0];
        if head.is_some_and(|head| nearer.id.is_between(&self.me.id, &head.id)) {
            let calls = self.ring().suggest(nearer.clone());
            for call in calls {
                self.carry_one(call).await;
            }
            self.joined.send_modify(|count| *count += 1);
        }
    }

    /// Hands over what it keeps, says that it leaves, and answers no more.
    async fn leave(self: &Arc<Self>) {
        let (predecessor, successor) = {
            let ring = self.ring();
            if !ring.is_member() {
                return;
            }
            (ring.predecessor().cloned(), ring.others().next().cloned())
        };
        if let Some(successor) = &successor {
            self.hand_over(successor).await;
        }
        self.ring().leave();
        let mut telling = JoinSet::new();
        for to in predecessor.into_iter().chain(successor) {
            let node = self.clone();
            telling.spawn(async move {
                let token = || node.token_for(&to.contact.peer);
                let leaving = Request::Leaving(node.me.clone());
                let _ = node.calls.ring(&to, leaving, token).await;
            });
        }
        while telling.join_next().await.is_some() {}
    }

    async fn hand_over(&self, successor: &Member) {
        let predecessor = self.ring().predecessor().cloned();
        let Some(predecessor) = predecessor else {
            return;
        };
        let mut after = None;
        loop {
            let now = self.now();
            // What belongs to this member alone: the successor has copies of the rest as it is.
            let (page, more) = self.records().page(
                after,
                (&self.me.id, &predecessor.id),
                RECORDS_A_MESSAGE,
                now,
            );
            if !page.is_empty() {
                let request = v1::ChordHandOverRequest {
                    to: wire::from_peer(&successor.contact.peer),
                    from: Some(wire::from_member(&self.me)),
                    token: self.token_for(&successor.contact.peer),
                    provided: wire::from_provided(&page, now),
                };
                let answer = self
                    .calls
                    .ask(&successor.contact, async |mut client| {
                        client.hand_over(request).await
                    })
                    .await;
                if answer.is_err() {
                    return;
                }
            }
            match more {
                Some(id) => after = Some(id),
                None => return,
            }
        }
    }
}

fn jittered(period: Duration) -> Duration {
    Timing::jittered(period, rand::random())
}
