//! Which piece comes from which provider: pure; time and randomness are passed in by the caller.
//!
//! Invariant: each piece is in exactly one state: missing, in flight from one provider (or, when
//! that one is late, from two), or verified. A piece is picked only when it is missing, wanted by
//! a reader and held by the provider that is asked.
//!
//! Near what a reader waits for pieces go in order; beyond it, the rarest first, from a random
//! place on, so that a crowd that starts together fetches different pieces from its only source
//! and has something to give to each other (Legout et al. 2006, "Rarest first and choke
//! algorithms are enough").

use std::ops::Range;

use super::bits::Bits;
use crate::welcome::Welcome;

/// Pieces right before a reader that go in order.
const NEAR: u32 = 4;

/// A provider of a download, by its number in the roster.
pub type ProviderNo = u32;

/// Where a piece is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nobody sends it.
    Missing,
    /// On its way; from two providers when the first is late.
    InFlight(ProviderNo, Option<ProviderNo>),
    /// On the disk, and what it should be.
    Verified,
}

/// What a reader still wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// These pieces, the next one first.
    pub pieces: Range<u32>,
    /// It reads them in order, and waits for the first.
    pub in_order: bool,
}

/// The pieces of one content; see the module.
#[derive(Debug)]
pub struct Picker {
    states: Vec<State>,
    verified: u32,
}

/// The provider that is to be asked, and what is known of the others.
pub struct Offer<'a> {
    /// Who.
    pub provider: ProviderNo,
    /// What it holds; `None`: everything.
    pub has: Option<&'a Bits>,
    /// How many others hold each piece, or are fetching it; empty: nobody is known to.
    pub copies: &'a [u16],
    /// Only pieces that no more others than this hold or are fetching, unless a reader in order
    /// waits for them.
    pub most_copies: u16,
    /// Pieces of one request, at most.
    pub longest: u32,
}

impl Picker {
    /// A picker over so many pieces, some of which are verified.
    pub fn new(verified: &[bool]) -> Self {
        let states = verified.iter().map(|&verified| {
            if verified {
                State::Verified
            } else {
                State::Missing
            }
        });
        Self {
            states: states.collect(),
            verified: verified.iter().map(|&verified| u32::from(verified)).sum(),
        }
    }

    /// How many pieces there are.
    pub fn len(&self) -> u32 {
        u32::try_from(self.states.len()).expect("pieces are counted in 32 bits")
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// The state of a piece.
    pub fn state(&self, piece: u32) -> State {
        self.states[piece as usize]
    }

    /// Whether `piece` is verified.
    pub fn has(&self, piece: u32) -> bool {
        self.state(piece) == State::Verified
    }

    /// Whether all are.
    pub fn is_whole(&self) -> bool {
        self.verified == self.len()
    }

    /// How many are.
    pub fn verified_count(&self) -> u32 {
        self.verified
    }

    /// Whether something that is wanted is missing, and nobody sends it.
    pub fn is_missing(&self, wants: &[Want]) -> bool {
        wants
            .iter()
            .any(|want| want.pieces.clone().any(|piece| self.is(piece)))
    }

    fn is(&self, piece: u32) -> bool {
        self.state(piece) == State::Missing
    }

    /// Gives the provider a run of pieces to send, if it has any that is wanted; `random` decides
    /// between equals.
    pub fn pick(&mut self, offer: &Offer<'_>, wants: &[Want], random: u32) -> Option<Range<u32>> {
        let first = self
            .next_in_order(offer, wants)
            .or_else(|| self.rarest(offer, wants, random))?;
        let mut run = first..first + 1;
        let copies = offer.copies_of(first);
        while run.end < self.len()
            && run.end - run.start < offer.longest
            && self.is(run.end)
            && offer.holds(run.end)
            && offer.copies_of(run.end) <= copies
            && wants.iter().any(|want| want.pieces.contains(&run.end))
        {
            run.end += 1;
        }
        for piece in run.clone() {
            self.states[piece as usize] = State::InFlight(offer.provider, None);
        }
        Some(run)
    }

    /// The pieces that the provider might as well send instead of `piece`, which it was given
    /// alone; none where a reader waits for its pieces in order.
    pub fn welcome(&self, offer: &Offer<'_>, wants: &[Want], piece: u32) -> Option<Welcome> {
        let is_in_order = |want: &Want| {
            let near = want.pieces.start.saturating_add(NEAR);
            want.in_order && (offer.copies.is_empty() || (want.pieces.start..near).contains(&piece))
        };
        if wants.iter().any(is_in_order) {
            return None;
        }
        let copies = offer.copies_of(piece);
        let others = wants.iter().flat_map(|want| want.pieces.clone());
        let others = others.filter(|&other| {
            self.is(other) && offer.holds(other) && offer.copies_of(other) <= copies
        });
        Welcome::near(piece, others)
    }

    /// The missing piece that a reader in order would wait for first.
    fn next_in_order(&self, offer: &Offer<'_>, wants: &[Want]) -> Option<u32> {
        let near = wants.iter().filter(|want| want.in_order);
        near.filter_map(|want| {
            let start = want.pieces.start;
            let mut near = start..want.pieces.end.min(start.saturating_add(NEAR));
            let piece = near.find(|&piece| self.is(piece) && offer.holds(piece))?;
            Some((piece - start, piece))
        })
        .min()
        .map(|(_, piece)| piece)
    }

    /// The rarest missing piece; of equals the first after a random place, or after where a
    /// reader in order is.
    fn rarest(&self, offer: &Offer<'_>, wants: &[Want], random: u32) -> Option<u32> {
        let mut best: Option<(u16, u32)> = None;
        for want in wants {
            let Range { start, end } = want.pieces;
            if start >= end {
                continue;
            }
            let from = if want.in_order && offer.copies.is_empty() {
                start
            } else {
                start + random % (end - start)
            };
            for piece in (from..end).chain(start..from) {
                let copies = offer.copies_of(piece);
                if self.is(piece)
                    && offer.holds(piece)
                    && copies <= offer.most_copies
                    && best.is_none_or(|(fewest, _)| copies < fewest)
                {
                    best = Some((copies, piece));
                    if copies == 0 {
                        break;
                    }
                }
            }
        }
        best.map(|(_, piece)| piece)
    }

    /// Has `provider` send a piece that another one is late with; whether it may.
    pub fn take_over(&mut self, piece: u32, provider: ProviderNo) -> bool {
        match self.states[piece as usize] {
            State::InFlight(late, None) if late != provider => {
                self.states[piece as usize] = State::InFlight(late, Some(provider));
                true
            }
            _ => false,
        }
    }

    /// `provider` sends `to` where it was to send `from`; `false`, and nothing changes, when `to`
    /// is verified or sent by as many as may.
    pub fn moved(&mut self, from: u32, to: u32, provider: ProviderNo) -> bool {
        if from == to {
            return true;
        }
        let state = match self.state(to) {
            State::Missing => State::InFlight(provider, None),
            State::InFlight(one, None) if one != provider => State::InFlight(one, Some(provider)),
            _ => return false,
        };
        self.states[to as usize] = state;
        self.released(from, provider);
        true
    }

    /// `provider` sends `piece` no more.
    pub fn released(&mut self, piece: u32, provider: ProviderNo) {
        let state = &mut self.states[piece as usize];
        *state = match *state {
            State::InFlight(one, None) if one == provider => State::Missing,
            State::InFlight(one, Some(other)) if one == provider => State::InFlight(other, None),
            State::InFlight(one, Some(other)) if other == provider => State::InFlight(one, None),
            other => other,
        };
    }

    /// `piece` is on the disk and right; whether it was not before.
    pub fn verified(&mut self, piece: u32) -> bool {
        let state = &mut self.states[piece as usize];
        let is_new = *state != State::Verified;
        *state = State::Verified;
        self.verified += u32::from(is_new);
        is_new
    }

    /// Who sends `piece`.
    pub fn senders(&self, piece: u32) -> impl Iterator<Item = ProviderNo> {
        let (one, other) = match self.state(piece) {
            State::InFlight(one, other) => (Some(one), other),
            _ => (None, None),
        };
        one.into_iter().chain(other)
    }

    /// Pieces in flight.
    pub fn in_flight(&self) -> impl Iterator<Item = u32> {
        (0..)
            .zip(&self.states)
            .filter(|(_, state)| matches!(state, State::InFlight(..)))
            .map(|(piece, _)| piece)
    }

    /// Pieces that are verified, as bits.
    pub fn verified_bits(&self) -> Bits {
        Bits::of(self.states.iter().map(|state| *state == State::Verified))
    }

    /// Pieces in flight, as bits.
    pub fn in_flight_bits(&self) -> Bits {
        Bits::of(
            self.states
                .iter()
                .map(|state| matches!(state, State::InFlight(..))),
        )
    }
}

impl Offer<'_> {
    fn holds(&self, piece: u32) -> bool {
        self.has.is_none_or(|has| has.get(piece))
    }

    fn copies_of(&self, piece: u32) -> u16 {
        self.copies.get(piece as usize).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn all(provider: ProviderNo) -> Offer<'static> {
        Offer {
            provider,
            has: None,
            copies: &[],
            most_copies: u16::MAX,
            longest: 1,
        }
    }

    fn in_order(pieces: Range<u32>) -> Want {
        Want {
            pieces,
            in_order: true,
        }
    }

    fn any_order(pieces: Range<u32>) -> Want {
        Want {
            pieces,
            in_order: false,
        }
    }

    #[test]
    fn the_reader_that_would_wait_first_is_served_first() {
        let mut verified = vec![false; 100];
        verified[..2].fill(true);
        let mut picker = Picker::new(&verified);
        let wants = [in_order(0..100), in_order(50..60)];
        let picked: Vec<_> = (0..6)
            .filter_map(|_| Some(picker.pick(&all(1), &wants, 0)?.start))
            .collect();
        assert_eq!(picked, [50, 51, 2, 52, 3, 53]);
    }

    #[test]
    fn the_rarest_piece_goes_first_and_equals_by_chance() {
        let mut picker = Picker::new(&[false; 8]);
        let copies = [3, 3, 1, 3, 3, 3, 3, 3];
        let offer = Offer {
            copies: &copies,
            ..all(1)
        };
        let wants = [any_order(0..8)];
        assert_eq!(picker.pick(&offer, &wants, 5), Some(2..3));
        assert_eq!(picker.pick(&offer, &wants, 5), Some(5..6));
        assert_eq!(picker.pick(&offer, &wants, 6), Some(6..7));
    }

    #[test]
    fn who_is_to_be_spared_is_asked_for_what_nobody_else_has() {
        let mut picker = Picker::new(&[false; 4]);
        let offer = Offer {
            copies: &[1, 0, 2, 1],
            most_copies: 0,
            ..all(1)
        };
        assert_eq!(picker.pick(&offer, &[any_order(0..4)], 3), Some(1..2));
        assert_eq!(picker.pick(&offer, &[any_order(0..4)], 3), None);
        assert_eq!(picker.pick(&offer, &[in_order(2..4)], 3), Some(2..3));
    }

    #[test]
    fn what_is_as_rare_is_as_welcome_unless_a_reader_waits() {
        let picker = Picker::new(&[false, true, false, false, false, false, false, false]);
        let has = Bits::of((0..8).map(|piece| piece != 5));
        let offer = Offer {
            has: Some(&has),
            copies: &[0, 0, 1, 0, 2, 0, 0, 1],
            ..all(1)
        };
        let welcome = |wants: &[Want], piece| {
            let welcome = picker.welcome(&offer, wants, piece);
            welcome.map(|welcome| welcome.pieces().collect::<Vec<_>>())
        };
        assert_eq!(welcome(&[any_order(0..8)], 0), Some(vec![3, 6]));
        assert_eq!(welcome(&[any_order(0..8)], 2), Some(vec![0, 3, 6, 7]));
        assert_eq!(welcome(&[any_order(0..4)], 0), Some(vec![3]));
        assert_eq!(welcome(&[any_order(0..1)], 0), None);
        // Near a reader pieces come in order, and where nobody else is known, all of them.
        assert_eq!(welcome(&[in_order(0..8)], 3), None);
        assert_eq!(welcome(&[in_order(0..8)], 6), Some(vec![0, 3]));
        let alone = Picker::welcome(&picker, &all(1), &[in_order(0..8)], 6);
        assert_eq!(alone, None);
    }

    #[test]
    fn a_provider_that_sends_another_piece_leaves_the_first_one_missing() {
        let mut picker = Picker::new(&[false; 4]);
        let wants = [any_order(0..4)];
        assert_eq!(picker.pick(&all(1), &wants, 0), Some(0..1));
        assert!(picker.moved(0, 2, 1) && picker.moved(2, 2, 1));
        assert_eq!(picker.state(0), State::Missing);
        assert_eq!(picker.state(2), State::InFlight(1, None));
        // Another one sends it already: both do; a third one may not.
        assert_eq!(picker.pick(&all(2), &wants, 0), Some(0..1));
        assert_eq!(picker.pick(&all(3), &wants, 1), Some(1..2));
        assert!(picker.moved(0, 2, 2) && !picker.moved(1, 2, 3));
        assert_eq!(picker.state(2), State::InFlight(1, Some(2)));
        assert_eq!(picker.state(1), State::InFlight(3, None));
        assert!(picker.verified(2) && !picker.moved(1, 2, 3));
        assert_eq!(picker.state(1), State::InFlight(3, None));
    }

    #[test]
    fn neighbours_are_joined_as_far_as_the_provider_has_them() {
        let mut picker = Picker::new(&[false; 16]);
        let has = Bits::of((0..16).map(|piece| piece != 6));
        let offer = Offer {
            has: Some(&has),
            longest: 8,
            ..all(1)
        };
        assert_eq!(picker.pick(&offer, &[in_order(2..16)], 0), Some(2..6));
        assert_eq!(picker.pick(&offer, &[in_order(2..16)], 0), Some(7..15));
    }

    #[test]
    fn a_late_piece_is_taken_over_by_one_other_and_released_by_each() {
        let mut picker = Picker::new(&[false; 1]);
        assert!(!picker.take_over(0, 2), "nobody is late with it");
        assert!(picker.pick(&all(1), &[in_order(0..1)], 0).is_some());
        assert!(!picker.take_over(0, 1) && picker.take_over(0, 2) && !picker.take_over(0, 3));
        picker.released(0, 1);
        assert_eq!(picker.state(0), State::InFlight(2, None));
        picker.released(0, 1);
        picker.released(0, 2);
        assert_eq!(picker.state(0), State::Missing);
        assert!(picker.verified(0) && !picker.verified(0) && picker.is_whole());
    }

    /// What becomes of a request.
    #[derive(Debug, Clone)]
    enum Fate {
        Delivered,
        Failed(u32),
        Late,
        Moved(u32),
        Lost,
    }

    fn fates() -> impl Strategy<Value = Fate> {
        prop_oneof![
            4 => Just(Fate::Delivered),
            2 => (0..4u32).prop_map(Fate::Failed),
            2 => Just(Fate::Late),
            2 => any::<u32>().prop_map(Fate::Moved),
            1 => Just(Fate::Lost),
        ]
    }

    proptest! {
        /// Under any order of success, failure, lateness and loss of providers every piece ends
        /// verified exactly once, and no provider has more in flight than it was given.
        #[test]
        fn every_piece_ends_verified_exactly_once(
            begun in prop::collection::vec(any::<bool>(), 1..80),
            held in prop::collection::vec(prop::collection::vec(any::<bool>(), 80), 1..4),
            story in prop::collection::vec((0..5usize, fates(), any::<u32>()), 0..300),
            ordered in any::<bool>(),
        ) {
            let count = u32::try_from(begun.len()).expect("few");
            let mut picker = Picker::new(&begun);
            let wants = [Want { pieces: 0..count, in_order: ordered }];
            // The last provider has everything and is never lost, or nothing would end.
            let holdings: Vec<Bits> = held
                .iter()
                .map(|has| Bits::of(has.iter().copied().take(begun.len())))
                .collect();
            let providers = holdings.len() + 1;
            let mut lost = vec![false; providers];
            let mut flights: BTreeMap<usize, Vec<Range<u32>>> = BTreeMap::new();
            let mut verified: Vec<u32> = begun.iter().map(|&begun| u32::from(begun)).collect();
            let deliver = |picker: &mut Picker, verified: &mut Vec<u32>, provider: usize, run: Range<u32>| {
                for piece in run {
                    verified[piece as usize] += u32::from(picker.verified(piece));
                    picker.released(piece, provider as u32);
                }
            };
            let mut story = story.into_iter();
            let mut steps = 0;
            while !picker.is_whole() {
                steps += 1;
                prop_assert!(steps < 2_000, "it does not end");
                let (who, fate, random) = story.next().unwrap_or((providers - 1, Fate::Delivered, 7));
                let who = who % providers;
                let has = holdings.get(who);
                let offer = Offer { provider: who as u32, has, copies: &[], most_copies: u16::MAX, longest: 3 };
                if !lost[who] && let Some(run) = picker.pick(&offer, &wants, random) {
                    prop_assert!(!run.is_empty() && run.end - run.start <= 3);
                    for piece in run.clone() {
                        prop_assert!(has.is_none_or(|has| has.get(piece)), "it has it not");
                        prop_assert_eq!(verified[piece as usize], 0, "fetched again");
                        let senders: Vec<_> = picker.senders(piece).collect();
                        prop_assert_eq!(&senders[..], &[who as u32][..]);
                    }
                    flights.entry(who).or_default().push(run);
                }
                match fate {
                    Fate::Late => {
                        let late: Vec<_> = picker.in_flight().collect();
                        for piece in late {
                            if !lost[who] && has.is_none_or(|has| has.get(piece)) && picker.take_over(piece, who as u32) {
                                flights.entry(who).or_default().push(piece..piece + 1);
                            }
                        }
                    }
                    Fate::Moved(to) => {
                        let to = to % count;
                        for run in flights.get_mut(&who).into_iter().flatten() {
                            let from = run.start;
                            if run.len() == 1 && has.is_none_or(|has| has.get(to)) && picker.moved(from, to, who as u32) {
                                *run = to..to + 1;
                                prop_assert!(from == to || picker.senders(to).any(|no| no == who as u32));
                                prop_assert!(from == to || picker.senders(from).all(|no| no != who as u32));
                            }
                        }
                    }
                    Fate::Delivered => {
                        let runs = flights.remove(&who).unwrap_or_default();
                        runs.into_iter().for_each(|run| deliver(&mut picker, &mut verified, who, run));
                    }
                    Fate::Failed(after) => {
                        for run in flights.remove(&who).unwrap_or_default() {
                            let end = (run.start + after).min(run.end);
                            deliver(&mut picker, &mut verified, who, run.start..end);
                            (end..run.end).for_each(|piece| picker.released(piece, who as u32));
                        }
                    }
                    Fate::Lost if who + 1 < providers => {
                        lost[who] = true;
                        for run in flights.remove(&who).unwrap_or_default() {
                            run.for_each(|piece| picker.released(piece, who as u32));
                        }
                    }
                    Fate::Lost => {}
                }
                // Whoever is left without a story delivers what it has in the end.
                if story.len() == 0 {
                    for (who, runs) in std::mem::take(&mut flights) {
                        runs.into_iter().for_each(|run| deliver(&mut picker, &mut verified, who, run));
                    }
                }
            }
            prop_assert!(verified.iter().all(|&times| times == 1), "{:?}", verified);
            prop_assert_eq!(picker.verified_count(), count);
        }
    }
}
