//! The ring as one member keeps it: Zave's corrected Chord ("Reasoning about identifier spaces:
//! how to make Chord correct", IEEE TSE 43(12), 2017, arXiv 1610.01140) as a pure state machine.
//!
//! Requests, answers and time-outs come in, calls go out; whoever drives it (`node`, or a
//! simulator) carries them. Each function here is one atomic step.
//!
//! Invariants, as long as failures are within the assumption of `PROTOCOL.md`: every member has a
//! live successor in its list, and at least r + 1 members are principals, skipped by no extended
//! successor list. A list is in clockwise order; it ends early, with this member itself, exactly
//! when it goes round the whole ring. Records and lookups are left to others.

use super::{
    fingers::Fingers,
    id::Id,
    member::{Member, in_order},
    timing::{CLOSER, MAX_VETTED},
};

/// What members ask each other to keep the ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Who stands next to you?
    Neighbours,
    /// One step of a lookup.
    Step(Id),
    /// I think that I am your predecessor.
    Notify(Member),
    /// Are you there?
    Ping,
    /// I am about to leave.
    Leaving(Member),
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// To [`Request::Neighbours`].
    Neighbours {
        /// The member before the one that answers.
        predecessor: Option<Member>,
        /// Its successor list.
        successors: Vec<Member>,
    },
    /// To [`Request::Step`].
    Step(Step),
    /// To the others.
    Done,
}

/// What a member knows about the way to a place.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Step {
    /// Its successor list, whole.
    pub successors: Vec<Member>,
    /// Fingers that are closer before the place, the closest first.
    pub closer: Vec<Member>,
}

/// A request that is to be sent; its outcome is to be given to [`Ring::answered`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// To whom.
    pub to: Member,
    /// What.
    pub request: Request,
    /// What goes on with the answer.
    pub purpose: Purpose,
}

/// What goes on with an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// StabilizeFromSuccessor: the first live successor's list is adopted.
    FromSuccessor,
    /// StabilizeFromPredecessor: so is that of the successor's predecessor, when it lies between.
    FromPredecessor,
    /// The successor was told of this member; the answer does not matter.
    Notified,
    /// Rectify: whether the would-be predecessor is there.
    Candidate(Member),
    /// Rectify: whether the predecessor still lives that the candidate would replace.
    Predecessor {
        /// The predecessor that was asked.
        old: Member,
        /// Who would replace it.
        candidate: Member,
    },
    /// A member said that it leaves: whether it is gone.
    Leaving(Member),
}

/// This peer is no member of a ring now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a member of the ring now")]
pub struct NotMember;

/// See the module.
#[derive(Debug, Clone)]
pub struct Ring {
    me: Member,
    replicas: usize,
    is_member: bool,
    predecessor: Option<Member>,
    successors: Vec<Member>,
    /// Not part of the invariant.
    pub fingers: Fingers,
    stabilizing: bool,
    vetted: Vec<Id>,
}

impl Ring {
    /// No member yet; lists have up to `replicas` (r) entries.
    pub fn new(me: Member, replicas: usize) -> Self {
        Self {
            fingers: Fingers::new(me.id),
            me,
            replicas,
            is_member: false,
            predecessor: None,
            successors: Vec::new(),
            stabilizing: false,
            vetted: Vec::new(),
        }
    }

    /// This member.
    pub fn me(&self) -> &Member {
        &self.me
    }

    /// Whether it is a member.
    pub fn is_member(&self) -> bool {
        self.is_member
    }

    /// Whether it is a member and knows no other: whatever ring it finds, it joins.
    pub fn is_alone(&self) -> bool {
        self.is_member && self.others().next().is_none()
    }

    /// The member before it.
    pub fn predecessor(&self) -> Option<&Member> {
        self.predecessor.as_ref()
    }

    /// Its successor list; ends with itself when it goes round the whole ring.
    pub fn successors(&self) -> &[Member] {
        &self.successors
    }

    /// The other members in its list.
    pub fn others(&self) -> impl Iterator<Item = &Member> {
        self.successors
            .iter()
            .filter(|member| member.id != self.me.id)
    }

    /// Whether its list goes round the whole ring.
    pub fn knows_all(&self) -> bool {
        self.successors
            .last()
            .is_some_and(|last| last.id == self.me.id)
    }

    /// Begins a ring of its own.
    pub fn begin_alone(&mut self) {
        self.is_member = true;
        self.predecessor = None;
        self.successors = vec![self.me.clone()];
    }

    /// Joins between `predecessor` and its first successor: the list is that of `predecessor`,
    /// whole. False, and nothing done, when this is not its place.
    pub fn join(&mut self, predecessor: &Member, successors: &[Member]) -> bool {
        let Some(first) = successors.first() else {
            return false;
        };
        if predecessor.id == self.me.id || !self.me.id.is_between(&predecessor.id, &first.id) {
            return false;
        }
        let goes_round = successors
            .last()
            .is_some_and(|last| last.id == predecessor.id);
        let closing = goes_round.then(|| self.me.clone());
        let list = successors.iter().cloned().chain(closing);
        self.successors = in_order(&self.me.id, list, self.replicas);
        self.predecessor = None;
        self.is_member = true;
        true
    }

    /// Ends membership: from now on it answers nothing.
    pub fn leave(&mut self) {
        self.stabilizing = false;
        self.is_member = false;
        self.predecessor = None;
        self.successors.clear();
    }

    /// Answers `request`.
    pub fn handle(&mut self, request: Request) -> Result<(Response, Vec<Call>), NotMember> {
        if !self.is_member {
            return Err(NotMember);
        }
        Ok(match request {
            Request::Neighbours => {
                let neighbours = Response::Neighbours {
                    predecessor: self.predecessor.clone(),
                    successors: self.successors.clone(),
                };
                (neighbours, Vec::new())
            }
            Request::Step(target) => (Response::Step(self.step(&target)), Vec::new()),
            Request::Notify(candidate) => (Response::Done, self.notified(candidate)),
            Request::Ping => (Response::Done, Vec::new()),
            Request::Leaving(member) => (Response::Done, self.told_of_leaving(member)),
        })
    }

    /// What it knows about the way to `target`.
    pub fn step(&self, target: &Id) -> Step {
        Step {
            successors: self.successors.clone(),
            closer: self.fingers.before(target).take(CLOSER).cloned().collect(),
        }
    }

    /// The next step of stabilisation; nothing while the one before is under way.
    pub fn stabilize(&mut self) -> Vec<Call> {
        if self.stabilizing || !self.is_member {
            return Vec::new();
        }
        self.ask_successor()
    }

    fn ask_successor(&mut self) -> Vec<Call> {
        let to = match self.successors.first() {
            Some(head) if head.id != self.me.id => head.clone(),
            // It is its own successor: what it would answer, it knows.
            Some(_) => return self.ask_between(self.predecessor.clone()),
            None => {
                self.stabilizing = false;
                return Vec::new();
            }
        };
        self.stabilizing = true;
        vec![Call {
            to,
            request: Request::Neighbours,
            purpose: Purpose::FromSuccessor,
        }]
    }

    /// Goes on with StabilizeFromPredecessor when `between` lies before the first successor.
    fn ask_between(&mut self, between: Option<Member>) -> Vec<Call> {
        let Some(head) = self.successors.first() else {
            self.stabilizing = false;
            return Vec::new();
        };
        match between {
            Some(new) if new.id.is_between(&self.me.id, &head.id) => {
                self.stabilizing = true;
                vec![Call {
                    to: new,
                    request: Request::Neighbours,
                    purpose: Purpose::FromPredecessor,
                }]
            }
            _ => self.notify_successor(),
        }
    }

    /// The end of a stabilisation.
    fn notify_successor(&mut self) -> Vec<Call> {
        self.stabilizing = false;
        let head = self.successors.first();
        head.filter(|head| head.id != self.me.id)
            .map(|head| self.notification(head))
            .into_iter()
            .collect()
    }

    fn notification(&self, to: &Member) -> Call {
        Call {
            to: to.clone(),
            request: Request::Notify(self.me.clone()),
            purpose: Purpose::Notified,
        }
    }

    /// A member found by other means (a lookup through a seed) that may lie between this one and
    /// its successor: stabilises with it.
    pub fn suggest(&mut self, member: Member) -> Vec<Call> {
        if self.stabilizing || !self.is_member || member.id == self.me.id {
            return Vec::new();
        }
        self.ask_between(Some(member))
    }

    /// What comes of a call with `purpose` to `to`; no answer in time is `None`.
    pub fn answered(
        &mut self,
        to: &Member,
        purpose: Purpose,
        answer: Option<Response>,
    ) -> Vec<Call> {
        if answer.is_none() {
            self.fingers.forget(&to.id);
        }
        if !self.is_member {
            self.stabilizing = false;
            self.vetted.clear();
            return Vec::new();
        }
        match purpose {
            Purpose::FromSuccessor => self.successor_answered(to, answer),
            Purpose::FromPredecessor => {
                let mut calls = Vec::new();
                if let Some(Response::Neighbours { successors, .. }) = answer {
                    if self.forgot_the_ring(to, &successors) {
                        calls.push(self.notification(to));
                    } else {
                        self.adopt(to, successors);
                    }
                }
                calls.extend(self.notify_successor());
                calls
            }
            Purpose::Notified => Vec::new(),
            Purpose::Candidate(candidate) => self.candidate_answered(candidate, answer.is_some()),
            Purpose::Predecessor { old, candidate } => {
                self.vetted.retain(|id| *id != candidate.id);
                if answer.is_none() && self.predecessor.as_ref() == Some(&old) {
                    self.predecessor = Some(candidate);
                }
                Vec::new()
            }
            Purpose::Leaving(member) => {
                if answer.is_none() {
                    self.gone(&member);
                }
                Vec::new()
            }
        }
    }

    /// A call with `purpose` was given up before anything came of it. Nothing is known of who was
    /// asked; what waited for the answer waits no more.
    pub fn abandoned(&mut self, purpose: &Purpose) {
        match purpose {
            Purpose::FromSuccessor | Purpose::FromPredecessor => self.stabilizing = false,
            Purpose::Candidate(candidate) | Purpose::Predecessor { candidate, .. } => {
                self.vetted.retain(|id| *id != candidate.id);
            }
            Purpose::Notified | Purpose::Leaving(_) => {}
        }
    }

    fn successor_answered(&mut self, to: &Member, answer: Option<Response>) -> Vec<Call> {
        match answer {
            Some(Response::Neighbours {
                predecessor,
                successors,
            }) if !self.forgot_the_ring(to, &successors) => {
                self.adopt(to, successors);
                self.ask_between(predecessor)
            }
            forgotten_or_none => {
                // Dead, or no member any more: the next one is asked at once.
                self.successors.retain(|member| member.id != to.id);
                let mut calls = self.ask_successor();
                if forgotten_or_none.is_some() {
                    calls.push(self.notification(to));
                }
                calls
            }
        }
    }

    /// Whether `member` says to be alone, while this member knows others besides: it began anew,
    /// and its list would part this member from the ring. It has to join, and is told by whom.
    fn forgot_the_ring(&self, member: &Member, list: &[Member]) -> bool {
        let is_alone = list.iter().all(|known| known.id == member.id);
        is_alone && self.others().any(|other| other.id != member.id)
    }

    /// Its list becomes `head` followed by the list of `head`, but for the last.
    fn adopt(&mut self, head: &Member, list: Vec<Member>) {
        let list = std::iter::once(head.clone()).chain(list);
        self.successors = in_order(&self.me.id, list, self.replicas);
    }

    /// Rectify, first part: never waits, and nothing waits for it.
    fn notified(&mut self, candidate: Member) -> Vec<Call> {
        let is_known = candidate.id == self.me.id
            || (self.predecessor.as_ref() == Some(&candidate) && !self.misses(&candidate))
            || self.vetted.contains(&candidate.id);
        if is_known || self.vetted.len() >= MAX_VETTED {
            return Vec::new();
        }
        self.vetted.push(candidate.id);
        vec![Call {
            to: candidate.clone(),
            request: Request::Ping,
            purpose: Purpose::Candidate(candidate),
        }]
    }

    fn candidate_answered(&mut self, candidate: Member, lives: bool) -> Vec<Call> {
        if !lives {
            self.vetted.retain(|id| *id != candidate.id);
            return Vec::new();
        }
        self.list_all(&candidate);
        match &self.predecessor {
            Some(old) if !candidate.id.is_between(&old.id, &self.me.id) && *old != candidate => {
                let old = old.clone();
                vec![Call {
                    to: old.clone(),
                    request: Request::Ping,
                    purpose: Purpose::Predecessor { old, candidate },
                }]
            }
            _ => {
                self.vetted.retain(|id| *id != candidate.id);
                self.predecessor = Some(candidate);
                Vec::new()
            }
        }
    }

    /// Whether its list goes round the ring and yet lacks `member`.
    fn misses(&self, member: &Member) -> bool {
        self.knows_all() && !self.successors.contains(member)
    }

    /// With fewer than r + 1 members, every member lists all: a newcomer is put in its place,
    /// which makes no list skip more members than before.
    fn list_all(&mut self, member: &Member) {
        if !self.misses(member) {
            return;
        }
        // The same peer at another address is no other member.
        self.successors.retain(|known| known.id != member.id);
        let at = self
            .successors
            .iter()
            .position(|known| member.id.is_between(&self.me.id, &known.id));
        self.successors
            .insert(at.unwrap_or(self.successors.len()), member.clone());
        self.successors.truncate(self.replicas);
    }

    fn told_of_leaving(&mut self, member: Member) -> Vec<Call> {
        let is_near = self.predecessor.as_ref() == Some(&member)
            || self.successors.contains(&member) && member.id != self.me.id;
        if !is_near {
            return Vec::new();
        }
        vec![Call {
            to: member.clone(),
            request: Request::Ping,
            purpose: Purpose::Leaving(member),
        }]
    }

    fn gone(&mut self, member: &Member) {
        if self.predecessor.as_ref() == Some(member) {
            self.predecessor = None;
        }
        // The only successor is left to stabilisation.
        if self.successors.len() > 1 {
            self.successors.retain(|known| known != member);
        }
    }
}

#[cfg(test)]
mod tests;
