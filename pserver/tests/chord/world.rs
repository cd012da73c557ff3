//! [`World`]: members, and the messages between them, which arrive in any order. A set of members
//! is a bit mask by their order on the ring, so that the invariant can be checked after each step.

use std::collections::HashMap;

use pserver::locate::chord::{
    id::Id,
    member::Member,
    state::{Call, Purpose, Request, Response, Ring},
};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::sorted_members;

/// Peers that may ever be members.
pub(crate) const POOL: usize = 48;

/// A set of members.
type Mask = u64;

/// Something under way.
#[derive(Debug, Clone)]
enum Message {
    /// A request that was not answered yet.
    Request { from: usize, call: Call },
    /// An answer, or that there is none.
    Answer {
        from: usize,
        to: Member,
        purpose: Purpose,
        answer: Option<Response>,
    },
    /// The last step of a join, not answered yet.
    Join { joiner: usize, predecessor: usize },
    /// Its answer.
    Joined {
        joiner: usize,
        predecessor: Member,
        successors: Vec<Member>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Unborn,
    Joining,
    Member,
    Gone,
}

/// What failures may not do; see `PROTOCOL.md`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Assumption {
    /// No failure leaves fewer than r + 1 principals.
    pub(crate) principals: bool,
}

/// See the module.
pub(crate) struct World {
    pub(crate) replicas: usize,
    assumption: Assumption,
    members: Vec<Member>,
    rank: HashMap<Id, usize>,
    rings: Vec<Ring>,
    lives: Vec<Life>,
    messages: Vec<Message>,
    pub(crate) random: StdRng,
    /// Whether members compare their ring with that of others while it settles.
    pub(crate) compares: bool,
    pub(crate) joins: usize,
    pub(crate) losses: usize,
}

impl World {
    /// `first` members that form an ideal ring.
    pub(crate) fn new(seed: u64, replicas: usize, first: usize, assumption: Assumption) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let members = sorted_members(POOL, &mut random);
        let rank = members
            .iter()
            .enumerate()
            .map(|(rank, member)| (member.id, rank))
            .collect();
        let rings = members
            .iter()
            .map(|member| Ring::new(member.clone(), replicas))
            .collect();
        let mut world = Self {
            replicas,
            assumption,
            members,
            rank,
            rings,
            lives: vec![Life::Unborn; POOL],
            messages: Vec::new(),
            random,
            compares: first == 1,
            joins: 0,
            losses: 0,
        };
        let begin = world.random.random_range(0..POOL);
        world.rings[begin].begin_alone();
        world.lives[begin] = Life::Member;
        for _ in 1..first {
            world.begin_join();
            world.settle();
        }
        world
    }

    fn pick(&mut self, life: Life) -> Option<usize> {
        let all: Vec<_> = (0..POOL).filter(|at| self.lives[*at] == life).collect();
        (!all.is_empty()).then(|| all[self.random.random_range(0..all.len())])
    }

    fn member_mask(&self) -> Mask {
        (0..POOL)
            .filter(|at| self.lives[*at] == Life::Member)
            .fold(0, |mask, at| mask | 1 << at)
    }

    pub(crate) fn size(&self) -> usize {
        self.member_mask().count_ones() as usize
    }

    /// One step: something under way arrives, a member stabilises, or somebody joins, crashes or
    /// leaves.
    pub(crate) fn step(&mut self, churn: bool) {
        match self.random.random_range(0..100) {
            0..60 if !self.messages.is_empty() => self.deliver(),
            0..80 => self.begin_stabilize(),
            80..88 if churn => self.begin_join(),
            88..94 if churn => self.lose(false),
            94..100 if churn => self.lose(true),
            _ => {}
        }
    }

    fn begin_stabilize(&mut self) {
        if let Some(at) = self.pick(Life::Member) {
            let calls = self.rings[at].stabilize();
            self.send(at, calls);
        }
    }

    fn send(&mut self, from: usize, calls: Vec<Call>) {
        let calls = calls.into_iter();
        self.messages
            .extend(calls.map(|call| Message::Request { from, call }));
    }

    /// A peer begins to join: whom it asks last is the member before its place as that member
    /// sees it, or any other that a lookup may have led to meanwhile.
    pub(crate) fn begin_join(&mut self) {
        let Some(joiner) = self.pick(Life::Unborn) else {
            return;
        };
        self.lives[joiner] = Life::Joining;
        self.joins += 1;
        self.look_up(joiner);
    }

    fn look_up(&mut self, joiner: usize) {
        let members = self.member_mask();
        let before = (1..=POOL)
            .map(|steps| (joiner + POOL - steps) % POOL)
            .find(|at| members & 1 << at != 0);
        let predecessor = before.expect("there is always a member");
        self.messages.push(Message::Join {
            joiner,
            predecessor,
        });
    }

    /// What an alone member does when it is notified: it joins, if there is more of a ring.
    fn join_if_alone(&mut self, at: usize) {
        if self.lives[at] != Life::Member || !self.rings[at].is_alone() {
            return;
        }
        let members = self.member_mask() & !(1 << at);
        let before = (1..POOL)
            .map(|steps| (at + POOL - steps) % POOL)
            .find(|at| members & 1 << at != 0);
        if let Some(before) = before {
            let successors = self.rings[before].successors().to_vec();
            self.rings[at].join(&self.members[before], &successors);
        }
    }

    /// It may try again later, when the members around its place know each other.
    fn give_up(&mut self, joiner: usize) {
        self.lives[joiner] = Life::Unborn;
        self.joins -= 1;
    }

    fn deliver(&mut self) {
        let at = self.random.random_range(0..self.messages.len());
        match self.messages.swap_remove(at) {
            Message::Request { from, call } => {
                let to = self.rank[&call.to.id];
                if matches!(call.request, Request::Notify(_)) {
                    self.join_if_alone(to);
                }
                let (answer, calls) = match self.lives[to] {
                    Life::Gone => (None, Vec::new()),
                    _ => match self.rings[to].handle(call.request) {
                        Ok((answer, calls)) => (Some(answer), calls),
                        Err(_) => (None, Vec::new()),
                    },
                };
                self.send(to, calls);
                self.messages.push(Message::Answer {
                    from,
                    to: call.to,
                    purpose: call.purpose,
                    answer,
                });
            }
            Message::Answer {
                from,
                to,
                purpose,
                answer,
            } if self.lives[from] == Life::Member => {
                let calls = self.rings[from].answered(&to, purpose, answer);
                self.send(from, calls);
            }
            Message::Answer { .. } => {}
            Message::Join {
                joiner,
                predecessor,
            } => {
                let place = self.members[joiner].id;
                if self.lives[predecessor] == Life::Member {
                    let successors = self.rings[predecessor].step(&place).successors;
                    self.messages.push(Message::Joined {
                        joiner,
                        predecessor: self.members[predecessor].clone(),
                        successors,
                    });
                } else {
                    self.give_up(joiner);
                }
            }
            Message::Joined {
                joiner,
                predecessor,
                successors,
            } => {
                if self.rings[joiner].join(&predecessor, &successors) {
                    self.lives[joiner] = Life::Member;
                    let calls = self.rings[joiner].stabilize();
                    self.send(joiner, calls);
                } else {
                    self.give_up(joiner);
                }
            }
        }
    }

    /// A member crashes, or says that it leaves and goes; if the assumption allows it.
    fn lose(&mut self, politely: bool) {
        let Some(at) = self.pick(Life::Member) else {
            return;
        };
        if !self.may_lose(at) {
            return;
        }
        self.losses += 1;
        if politely {
            let near = self.rings[at].others().next().cloned();
            let near = near
                .into_iter()
                .chain(self.rings[at].predecessor().cloned());
            for to in near.collect::<Vec<_>>() {
                let call = Call {
                    to,
                    request: Request::Leaving(self.members[at].clone()),
                    purpose: Purpose::Notified,
                };
                self.send(at, vec![call]);
            }
        }
        self.lives[at] = Life::Gone;
        self.rings[at].leave();
    }

    fn may_lose(&self, lost: usize) -> bool {
        let members = self.member_mask() & !(1 << lost);
        let lists = self.lists(members, true);
        let all_live = lists.iter().all(|list| {
            list[1..]
                .iter()
                .any(|at| members & 1 << at != 0 && *at != list[0])
        });
        let principals = members & !skipped(&lists);
        all_live
            && (!self.assumption.principals || principals.count_ones() as usize > self.replicas)
    }

    /// The extended successor lists of `members`, with `under_way` also those that would come of
    /// an answer that is on its way.
    fn lists(&self, members: Mask, under_way: bool) -> Vec<Vec<usize>> {
        let ranks = |first: usize, rest: &[Member]| -> Vec<usize> {
            let rest = rest.iter().map(|member| self.rank[&member.id]);
            std::iter::once(first).chain(rest).collect()
        };
        let now = (0..POOL).filter(|at| members & 1 << at != 0);
        let mut lists: Vec<_> = now
            .map(|at| ranks(at, self.rings[at].successors()))
            .collect();
        if !under_way {
            return lists;
        }
        for message in &self.messages {
            match message {
                Message::Answer {
                    from,
                    to,
                    purpose: Purpose::FromSuccessor | Purpose::FromPredecessor,
                    answer: Some(Response::Neighbours { successors, .. }),
                } if members & 1 << from != 0 => {
                    let mut list = ranks(*from, std::slice::from_ref(to));
                    list.extend(ranks(*from, successors).drain(1..));
                    list.truncate(self.replicas + 1);
                    // What goes round is cut there.
                    if let Some(end) = list[1..].iter().position(|at| at == from) {
                        list.truncate(end + 2);
                    }
                    lists.push(list);
                }
                Message::Joined {
                    joiner, successors, ..
                } => lists.push(ranks(*joiner, successors)),
                _ => {}
            }
        }
        lists
    }

    /// Zave's inductive invariant: why it does not hold.
    pub(crate) fn broken(&self) -> Option<String> {
        let members = self.member_mask();
        let lists = self.lists(members, false);
        let lonely = lists.iter().find(|list| {
            !list[1..]
                .iter()
                .any(|at| members & 1 << at != 0 && *at != list[0])
        });
        if let Some(list) = lonely {
            return Some(format!(
                "member {} has no live successor: {list:?}",
                list[0]
            ));
        }
        let principals = (members & !skipped(&lists)).count_ones() as usize;
        (principals <= self.replicas).then(|| {
            format!(
                "only {principals} principals among {} members with r = {}: {lists:?}",
                members.count_ones(),
                self.replicas
            )
        })
    }

    /// How many members nobody skips, now or by an answer that is on its way.
    pub(crate) fn principals(&self) -> usize {
        let members = self.member_mask();
        (members & !skipped(&self.lists(members, true))).count_ones() as usize
    }

    /// Delivers everything, with a stabilisation of every member; returns false when nothing is
    /// under way any more and nothing can change.
    pub(crate) fn round(&mut self) {
        for at in 0..POOL {
            if self.lives[at] == Life::Member {
                let calls = self.rings[at].stabilize();
                self.send(at, calls);
            }
        }
        while !self.messages.is_empty() {
            self.deliver();
        }
    }

    /// Every member looks up, through a seed, who comes after it.
    fn compare(&mut self) {
        let members = self.member_mask();
        for at in (0..POOL).filter(|at| members & 1 << at != 0) {
            let mut after = (1..POOL).map(|steps| (at + steps) % POOL);
            if let Some(after) = after.find(|at| members & 1 << at != 0) {
                let calls = self.rings[at].suggest(self.members[after].clone());
                self.send(at, calls);
            }
        }
    }

    /// Rounds until the ring is ideal; `None` when it does not become so.
    pub(crate) fn settle(&mut self) -> Option<usize> {
        (0..4 * POOL).find(|rounds| {
            let is_ideal = self.messages.is_empty() && self.is_ideal();
            if !is_ideal {
                if self.compares && rounds % 8 == 7 {
                    self.compare();
                }
                self.round();
            }
            is_ideal
        })
    }

    /// Whether every member lists exactly those after it, and knows who is before it.
    fn is_ideal(&self) -> bool {
        let members = self.member_mask();
        let in_order: Vec<_> = (0..POOL).filter(|at| members & 1 << at != 0).collect();
        let size = in_order.len();
        (0..size).all(|at| {
            let ring = &self.rings[in_order[at]];
            let after = |steps: usize| in_order[(at + steps) % size];
            let list: Vec<_> = ring
                .successors()
                .iter()
                .map(|member| self.rank[&member.id])
                .collect();
            let expected: Vec<_> = (1..=size.min(self.replicas)).map(after).collect();
            let predecessor = ring.predecessor().map(|member| self.rank[&member.id]);
            list == expected && (size == 1 || predecessor == Some(after(size - 1)))
        })
    }
}

/// Everything that lies between two entries that follow each other in a list.
fn skipped(lists: &[Vec<usize>]) -> Mask {
    let pairs = lists.iter().flat_map(|list| list.windows(2));
    pairs.fold(0, |mask, pair| mask | between(pair[0], pair[1]))
}

fn between(after: usize, before: usize) -> Mask {
    let below = |at: usize| (1 << at) - 1;
    let upto = |at: usize| below(at) | 1 << at;
    let all = below(POOL);
    match after < before {
        true => below(before) & !upto(after),
        false => (all & !upto(after)) | below(before),
    }
}
