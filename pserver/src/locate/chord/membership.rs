//! This peer's place on the ring: joins, keeps it, takes over and hands over records, leaves.
//!
//! Invariant: nothing that another member may draw out stands between joining and the timers that
//! keep the place; every wait here has a bound.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use vecino_grpc::v1;
use vecino_rest::PeerUrl;

use super::{
    id::Id,
    lookup::{Found, Lookup},
    member::Member,
    node::{DOORS, DOORS_FILE, Node, lock},
    state::{Request, Step},
    timing::{RECORDS_A_MESSAGE, TAKE_OVER_PAGES, TAKE_OVER_WITHIN, Timing},
    wire,
};

/// Tries to join through the seeds before a peer begins a ring of its own.
const JOIN_TRIES: usize = 4;

/// What came of a try to join.
enum Joined {
    /// A member now.
    Yes,
    /// Somebody is there, but its place is not free yet.
    NotYet,
    /// Nobody answered.
    Nobody,
}

impl Node {
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
            // Another way may have led in meanwhile, or out for good.
            !*self.context.stopping.borrow()
                && (!ring.is_member() || ring.is_alone() || ring.successors().is_empty())
                && ring.join(&found.predecessor, &found.successors)
        };
        if joined {
            log::info!(
                "joined the ring between peers {} and {}",
                found.predecessor.contact.peer,
                found.successors[0].contact.peer
            );
            self.stabilize().await;
            self.begin_to_take_over();
            self.joined.send_modify(|count| *count += 1);
            return Joined::Yes;
        }
        Joined::NotYet
    }

    /// Takes the records that belong here now from the successor, in the background: however many
    /// there are, and however slowly they come, this member keeps its place meanwhile.
    fn begin_to_take_over(self: &Arc<Self>) {
        let node = self.clone();
        let taking = tokio::spawn(async move {
            let mut stopping = node.context.stopping.clone();
            tokio::select! {
                // An error means that the server is gone, which is the same.
                _ = stopping.wait_for(|&stopping| stopping) => {}
                taken = timeout(TAKE_OVER_WITHIN, node.take_over()) => if taken.is_err() {
                    log::debug!("ring: taking over the successor's records took too long");
                },
            }
        });
        let before = lock(&self.taking_over).replace(taking.abort_handle());
        // It came from another successor, in a ring that this peer lost.
        if let Some(before) = before {
            before.abort();
        }
    }

    async fn take_over(&self) {
        let Some(successor) = self.ring().others().next().cloned() else {
            return;
        };
        let mut after: Option<Id> = None;
        for _ in 0..TAKE_OVER_PAGES {
            let request = v1::ChordTakeOverRequest {
                to: wire::from_peer(&successor.contact.peer),
                place: wire::from_id(&self.me.id),
                cursor: after.as_ref().map(wire::from_id).unwrap_or_default(),
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
            match wire::cursor(&answer.cursor) {
                Ok(Some(next)) if after.is_none_or(|after| next > after) => after = Some(next),
                // The end, or somebody who would lead round in a circle.
                _ => return,
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
