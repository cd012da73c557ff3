//! Finding who is responsible for a place, step by step, by the one who asks.
//!
//! Pure: [`Lookup::whom_to_ask`] says whom to ask, [`Lookup::answered`] and [`Lookup::failed`] take what
//! came of it. Invariant: every step asks a member that lies closer before the place than the
//! best that answered, so a lookup ends; a member that is silent is passed over, and what the
//! best one knows stands.

use std::collections::{BTreeMap, BTreeSet};

use super::{id::Id, member::Member, state::Step, timing::MAX_STEPS};

/// See the module.
#[derive(Debug)]
pub struct Lookup {
    target: Id,
    /// Who may be asked, by the distance that is left from there to the place.
    candidates: BTreeMap<Id, Member>,
    asked: BTreeSet<Id>,
    best: Option<(Member, Vec<Member>)>,
    steps: usize,
}

/// Who is responsible for a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The last member before the place.
    pub predecessor: Member,
    /// Its successor list, whole.
    pub successors: Vec<Member>,
    /// Who is responsible, and those after it; never empty.
    pub holders: Vec<Member>,
    /// Requests that were needed.
    pub steps: usize,
}

impl Lookup {
    /// Looks for the one responsible for `target`; nobody to ask yet.
    pub fn new(target: Id) -> Self {
        Self {
            target,
            candidates: BTreeMap::new(),
            asked: BTreeSet::new(),
            best: None,
            steps: 0,
        }
    }

    /// What `me` knows itself, which costs no request.
    pub fn begin(target: Id, me: &Member, step: Step) -> Self {
        let mut lookup = Self::new(target);
        lookup.asked.insert(me.id);
        lookup.take(me, step);
        lookup
    }

    /// Somebody who may be asked first (a seed).
    pub fn may_ask(&mut self, member: Member) {
        self.consider(member);
    }

    /// Whom to ask now; `None` when it is over.
    pub fn whom_to_ask(&mut self) -> Option<Member> {
        if self.is_settled() || self.steps >= MAX_STEPS {
            return None;
        }
        let (left, member) = self.candidates.pop_first()?;
        let is_closer = self
            .best
            .as_ref()
            .is_none_or(|(best, _)| left < self.left_from(&best.id));
        if !is_closer {
            return None;
        }
        self.asked.insert(member.id);
        self.steps += 1;
        Some(member)
    }

    /// `member` answered.
    pub fn answered(&mut self, member: &Member, step: Step) {
        self.take(member, step);
    }

    /// `member` did not answer, or is known not to: it was no step.
    pub fn failed(&mut self, member: &Member) {
        self.candidates.remove(&self.left_from(&member.id));
    }

    /// What was found; `None` when nobody answered.
    pub fn found(self) -> Option<Found> {
        let (predecessor, successors) = self.best?;
        let mut holders: Vec<Member> = successors
            .iter()
            .skip_while(|member| !self.target.is_in(&predecessor.id, &member.id))
            .cloned()
            .collect();
        if holders.is_empty() {
            // All in the list lie before the place and are silent.
            holders.push(predecessor.clone());
        }
        // A list that goes round ends with its own member: those before it hold copies too.
        if holders.last().map(|last| last.id) == Some(predecessor.id) {
            let rest = successors
                .iter()
                .filter(|member| !holders.iter().any(|held| held.id == member.id));
            let rest: Vec<_> = rest.cloned().collect();
            holders.extend(rest);
        }
        Some(Found {
            predecessor,
            successors,
            holders,
            steps: self.steps,
        })
    }

    fn is_settled(&self) -> bool {
        self.best.as_ref().is_some_and(|(best, successors)| {
            successors
                .first()
                .is_some_and(|first| self.target.is_in(&best.id, &first.id))
        })
    }

    fn take(&mut self, member: &Member, step: Step) {
        let left = self.left_from(&member.id);
        for known in step
            .closer
            .into_iter()
            .chain(step.successors.iter().cloned())
        {
            // Only what leads on: a list may come from somebody hostile.
            if self.left_from(&known.id) < left {
                self.consider(known);
            }
        }
        let is_best = self
            .best
            .as_ref()
            .is_none_or(|(best, _)| left < self.left_from(&best.id));
        if is_best && !step.successors.is_empty() {
            self.best = Some((member.clone(), step.successors));
        }
    }

    fn consider(&mut self, member: Member) {
        if !self.asked.contains(&member.id) {
            self.candidates
                .entry(self.left_from(&member.id))
                .or_insert(member);
        }
    }

    /// How far it is from `id` to the place; from the place itself, once round.
    fn left_from(&self, id: &Id) -> Id {
        if *id == self.target {
            return Id::from_bytes([0xff; Id::LEN]);
        }
        id.distance_to(&self.target)
    }
}
