//! Finding who is responsible for a place, step by step, by the one who asks.
//!
//! Pure: [`Lookup::next`] says what to do, [`Lookup::answered`] and [`Lookup::failed`] take what
//! came of it; time comes in as the time since the lookup began. Invariant: every step asks a
//! member that lies closer before the place than the best that answered, so a lookup ends; a
//! member that is silent is passed over, and what the best one knows stands. One that does not
//! answer within [`HEDGE_AFTER`] is waited for no more than that when another can be asked as
//! well, so a dead member costs little time.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    id::Id,
    member::Member,
    state::Step,
    timing::{ASKED_AT_A_TIME, HEDGE_AFTER, MAX_STEPS, REPLICAS},
};

/// See the module.
#[derive(Debug)]
pub struct Lookup {
    target: Id,
    /// Who may be asked, by the distance that is left from there to the place.
    candidates: BTreeMap<Id, Member>,
    asked: BTreeSet<Id>,
    /// Who was asked and did not answer yet.
    asking: BTreeSet<Id>,
    /// When another may be asked although these did not answer.
    hedge_at: Duration,
    best: Option<(Member, Vec<Member>)>,
    steps: usize,
}

/// What a lookup does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Ask this member, and tell what came of it.
    Ask(Member),
    /// Wait for an answer, until this time since the lookup began if there is one.
    Wait(Option<Duration>),
    /// There is nothing more to find out.
    Over,
}

/// Who is responsible for a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The last member before the place.
    pub predecessor: Member,
    /// Its successor list, whole.
    pub successors: Vec<Member>,
    /// Who is responsible, and those after it that the last member before the place lists (r in
    /// all); never empty.
    pub holders: Vec<Member>,
    /// Requests that were needed.
    pub steps: usize,
}

impl Found {
    /// Whether the list goes round the ring, so that all members are holders.
    pub fn goes_round(&self) -> bool {
        let last = self.successors.last();
        last.is_none_or(|last| last.id == self.predecessor.id)
    }

    /// The r + 1 who keep records of the place, by the list of `holder`, the first of the holders
    /// that answers; those before it, and those that the last member before the place lists
    /// besides, among them: either list may be old.
    pub fn holders_with(&self, holder: &Member, list: &[Member]) -> Vec<Member> {
        let mut known = BTreeSet::new();
        let before = self.holders.iter().take_while(|one| one.id != holder.id);
        let list = std::iter::once(holder).chain(list).take(1 + REPLICAS);
        before
            .chain(list)
            .chain(&self.holders)
            .filter(|member| known.insert(member.id))
            .cloned()
            .collect()
    }
}

impl Lookup {
    /// Looks for the one responsible for `target`; nobody to ask yet.
    pub fn new(target: Id) -> Self {
        Self {
            target,
            candidates: BTreeMap::new(),
            asked: BTreeSet::new(),
            asking: BTreeSet::new(),
            hedge_at: Duration::ZERO,
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

    /// What to do at `now`, the time since the lookup began.
    pub fn next(&mut self, now: Duration) -> Next {
        if self.is_settled() {
            return Next::Over;
        }
        let has_room = self.asking.len() < ASKED_AT_A_TIME && self.has_candidate();
        let is_time = self.asking.is_empty() || now >= self.hedge_at;
        if has_room && is_time {
            let Some((_, member)) = self.candidates.pop_first() else {
                return Next::Over;
            };
            self.asked.insert(member.id);
            self.asking.insert(member.id);
            self.hedge_at = now + HEDGE_AFTER;
            self.steps += 1;
            return Next::Ask(member);
        }
        if self.asking.is_empty() {
            return Next::Over;
        }
        if has_room {
            return Next::Wait(Some(self.hedge_at));
        }
        // Whoever is silent could only say more precisely what is known already.
        match !self.has_candidate() && self.reaches_the_place() {
            true if is_time => Next::Over,
            true => Next::Wait(Some(self.hedge_at)),
            false => Next::Wait(None),
        }
    }

    /// Whether somebody can be asked who is closer than the best that answered.
    fn has_candidate(&self) -> bool {
        let closest = self.candidates.first_key_value();
        self.steps < MAX_STEPS
            && closest.is_some_and(|(left, _)| {
                let best = self.best.as_ref();
                best.is_none_or(|(best, _)| *left < self.left_from(&best.id))
            })
    }

    /// Whether the best that answered lists somebody at or after the place.
    fn reaches_the_place(&self) -> bool {
        self.best.as_ref().is_some_and(|(best, successors)| {
            let mut successors = successors.iter();
            successors.any(|member| self.target.is_in(&best.id, &member.id))
        })
    }

    /// `member` answered.
    pub fn answered(&mut self, member: &Member, step: Step) {
        self.over_with(member);
        self.take(member, step);
    }

    /// `member` did not answer, or is known not to.
    pub fn failed(&mut self, member: &Member) {
        self.over_with(member);
        self.candidates.remove(&self.left_from(&member.id));
    }

    /// Whoever else is asked was slower: the next one need not wait for it.
    fn over_with(&mut self, member: &Member) {
        self.asking.remove(&member.id);
        self.hedge_at = Duration::ZERO;
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

#[cfg(test)]
mod tests {
    use vecino_rest::{PeerId, PeerUrl};

    use super::*;
    use crate::locate::overlay::Contact;

    /// Members in order of their places.
    fn members(count: u8) -> Vec<Member> {
        let url = PeerUrl::parse("http://10.0.0.1:80").expect("a URL");
        let contact = |n| Contact {
            peer: PeerId::from_bytes([n; 16]),
            overlay: url.clone(),
            url: url.clone(),
            site: None,
        };
        let mut members: Vec<_> = (0..count).map(|n| Member::new(contact(n))).collect();
        members.sort_by_key(|member| member.id);
        members
    }

    fn list(successors: &[Member]) -> Step {
        Step {
            successors: successors.to_vec(),
            closer: Vec::new(),
        }
    }

    #[test]
    fn a_silent_member_is_waited_for_no_longer_than_the_hedge() {
        let all = members(6);
        // The place is that of the last one; 4, right before it, is silent, and so is 3.
        let mut lookup = Lookup::begin(all[5].id, &all[0], list(&all[1..]));
        let at = |millis| Duration::from_millis(millis);
        assert_eq!(lookup.next(at(0)), Next::Ask(all[4].clone()));
        assert_eq!(lookup.next(at(0)), Next::Wait(Some(HEDGE_AFTER)));
        assert_eq!(lookup.next(HEDGE_AFTER), Next::Ask(all[3].clone()));
        let then = HEDGE_AFTER * 2;
        assert_eq!(lookup.next(then), Next::Ask(all[2].clone()));
        assert_eq!(lookup.next(HEDGE_AFTER * 3), Next::Ask(all[1].clone()));
        lookup.answered(&all[2], list(&all[3..]));
        // Nobody is left to ask, and the list of 2 reaches the place.
        assert_eq!(lookup.next(HEDGE_AFTER * 3), Next::Over);
        let found = lookup.found().expect("2 answered");
        assert_eq!(found.holders, &all[5..]);
        assert_eq!(found.steps, 4);
    }

    #[test]
    fn a_lookup_without_dead_members_asks_one_at_a_time() {
        let all = members(6);
        let mut lookup = Lookup::begin(all[5].id, &all[0], list(&all[1..4]));
        assert_eq!(lookup.next(Duration::ZERO), Next::Ask(all[3].clone()));
        assert!(matches!(lookup.next(Duration::ZERO), Next::Wait(Some(_))));
        lookup.answered(&all[3], list(&all[4..]));
        assert_eq!(lookup.next(Duration::ZERO), Next::Ask(all[4].clone()));
        lookup.answered(&all[4], list(&all[5..]));
        assert_eq!(lookup.next(Duration::ZERO), Next::Over);
    }

    #[test]
    fn holders_are_the_responsible_member_and_the_r_after_it() {
        let all = members(40);
        let found = Found {
            predecessor: all[0].clone(),
            successors: all[1..=REPLICAS].to_vec(),
            holders: all[1..=REPLICAS].to_vec(),
            steps: 1,
        };
        let list = &all[2..2 + REPLICAS];
        let holders = found.holders_with(&all[1], list);
        assert_eq!(holders, &all[1..=1 + REPLICAS]);
        // The responsible member is silent: the next one tells.
        let list = &all[3..3 + REPLICAS];
        assert_eq!(found.holders_with(&all[2], list), &all[1..=2 + REPLICAS]);
    }
}
