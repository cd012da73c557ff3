//! Provider records that a member keeps for others: who holds what under which name.
//!
//! Pure: time comes in as the time since the start. Invariants: each bound of `timing` holds; a
//! record is here once a name, digest and publisher; one that its publisher sent is never replaced
//! by one that another member handed over, and finds a place under its name while there are such.
//! That a publisher is who it says is checked before
//! (`service`).

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::Arc,
    time::Duration,
};

use vecino_rest::{Digest, Name, PeerId};

use super::{
    id::Id,
    timing::{RECORDS_A_NAME, RECORDS_A_NAME_AND_PUBLISHER, RECORDS_A_PUBLISHER, RECORDS_IN_TOTAL},
};
use crate::{content::catalogue::Record, locate::overlay::Contact};

/// A record, and who holds what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provided {
    /// What.
    pub record: Record,
    /// Who.
    pub provider: Arc<Contact>,
    /// When it is over, since the start.
    pub expires: Duration,
}

#[derive(Debug)]
struct Kept {
    provided: Provided,
    first_hand: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Records {
    names: BTreeMap<Id, Vec<Kept>>,
    publishers: HashMap<PeerId, usize>,
    total: usize,
}

/// What became of records that came in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    /// Kept.
    pub kept: usize,
    /// Refused, because a bound was reached.
    pub refused: usize,
}

impl Records {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.total
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// Keeps what a publisher sent (`first_hand`) or another member handed over.
    pub fn keep(&mut self, provided: Vec<Provided>, first_hand: bool) -> Taken {
        let mut taken = Taken::default();
        for provided in provided {
            if self.keep_one(provided, first_hand) {
                taken.kept += 1;
            } else {
                taken.refused += 1;
            }
        }
        taken
    }

    fn keep_one(&mut self, provided: Provided, first_hand: bool) -> bool {
        let peer = provided.provider.peer;
        let id = Id::of_name(&provided.record.name);
        let kept = self.names.entry(id).or_default();
        let same = kept.iter_mut().find(|kept| {
            kept.provided.provider.peer == peer
                && kept.provided.record.digest == provided.record.digest
                && kept.provided.record.name == provided.record.name
        });
        if let Some(same) = same {
            if first_hand || !same.first_hand {
                same.provided = provided;
                same.first_hand = first_hand;
            }
            return true;
        }
        let is_own = |kept: &Kept| kept.provided.provider.peer == peer;
        let own = kept.iter().filter(|kept| is_own(kept)).count();
        let has_many = own >= RECORDS_A_NAME_AND_PUBLISHER;
        if first_hand && (has_many || kept.len() >= RECORDS_A_NAME) {
            // Hearsay gives way: of this publisher when it has many already, else of anybody.
            let hearsay = kept.iter().enumerate();
            let gone = hearsay
                .filter(|(_, one)| !one.first_hand && (!has_many || is_own(one)))
                .min_by_key(|(_, one)| one.provided.expires)
                .map(|(at, _)| at);
            if let Some(at) = gone {
                let gone = kept.swap_remove(at).provided.provider.peer;
                release(&mut self.publishers, &gone);
                self.total -= 1;
            }
        }
        let own = kept.iter().filter(|kept| is_own(kept)).count();
        let of_publisher = self.publishers.entry(peer).or_default();
        let has_room = own < RECORDS_A_NAME_AND_PUBLISHER
            && kept.len() < RECORDS_A_NAME
            && *of_publisher < RECORDS_A_PUBLISHER
            && self.total < RECORDS_IN_TOTAL;
        if has_room {
            kept.push(Kept {
                provided,
                first_hand,
            });
            *of_publisher += 1;
            self.total += 1;
        } else {
            // What was only made to look.
            if *of_publisher == 0 {
                self.publishers.remove(&peer);
            }
            if kept.is_empty() {
                self.names.remove(&id);
            }
        }
        has_room
    }

    /// Takes out the record of `peer` for `digest` under `name`.
    pub fn withdraw(&mut self, peer: &PeerId, name: &Name, digest: &Digest) {
        let id = Id::of_name(name);
        self.remove_where(id..=id, |provided| {
            provided.provider.peer == *peer
                && provided.record.digest == *digest
                && provided.record.name == *name
        });
    }

    /// Takes out all records of `peer`.
    pub fn withdraw_all(&mut self, peer: &PeerId) {
        if self.publishers.contains_key(peer) {
            self.remove_where(.., |provided| provided.provider.peer == *peer);
        }
    }

    /// Takes out what is over.
    pub fn sweep(&mut self, now: Duration) {
        self.remove_where(.., |provided| provided.expires <= now);
    }

    fn remove_where(
        &mut self,
        range: impl std::ops::RangeBounds<Id>,
        is_gone: impl Fn(&Provided) -> bool,
    ) {
        let mut emptied = Vec::new();
        for (id, kept) in self.names.range_mut(range) {
            kept.retain(|kept| {
                let gone = is_gone(&kept.provided);
                if gone {
                    self.total -= 1;
                    release(&mut self.publishers, &kept.provided.provider.peer);
                }
                !gone
            });
            if kept.is_empty() {
                emptied.push(*id);
            }
        }
        for id in emptied {
            self.names.remove(&id);
        }
    }

    /// What is known under `name` and not over.
    pub fn find(&self, name: &Name, now: Duration) -> Vec<Provided> {
        let kept = self.names.get(&Id::of_name(name));
        kept.into_iter()
            .flatten()
            .map(|kept| &kept.provided)
            .filter(|provided| provided.record.name == *name && provided.expires > now)
            .cloned()
            .collect()
    }

    /// A page of what is not over, in order of place, after `after`, but what belongs in
    /// (`from`, `upto`]; with the place to go on after, if there may be more. A name's records
    /// are never parted, so a page may exceed `limit` by those of one name.
    pub fn page(
        &self,
        after: Option<Id>,
        but: (&Id, &Id),
        limit: usize,
        now: Duration,
    ) -> (Vec<Provided>, Option<Id>) {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut page = Vec::new();
        for (id, kept) in self.names.range((start, Bound::Unbounded)) {
            if id.is_in(but.0, but.1) {
                continue;
            }
            let alive = kept
                .iter()
                .map(|kept| &kept.provided)
                .filter(|provided| provided.expires > now);
            page.extend(alive.cloned());
            if page.len() >= limit {
                return (page, Some(*id));
            }
        }
        (page, None)
    }
}

/// One record of `peer` is gone.
fn release(publishers: &mut HashMap<PeerId, usize>, peer: &PeerId) {
    if let Some(count) = publishers.get_mut(peer) {
        *count -= 1;
        if *count == 0 {
            publishers.remove(peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use vecino_rest::PeerUrl;

    use super::*;

    fn provided(name: &str, peer: u8, content: &str, expires: u64) -> Provided {
        let url = PeerUrl::parse("http://10.0.0.1:80").expect("a URL");
        Provided {
            record: Record {
                name: Name::parse(name).expect("a name"),
                digest: Digest::of(content.as_bytes()),
                size: 1,
                modified_ms: 0,
            },
            provider: Arc::new(Contact {
                peer: PeerId::from_bytes([peer; 16]),
                overlay: url.clone(),
                url,
                site: None,
            }),
            expires: Duration::from_secs(expires),
        }
    }

    const NOW: Duration = Duration::ZERO;

    #[test]
    fn records_are_found_until_withdrawn_or_over() {
        let mut records = Records::default();
        let taken = records.keep(
            vec![
                provided("a", 1, "x", 10),
                provided("a", 2, "x", 20),
                provided("a", 1, "y", 30),
                provided("b", 1, "x", 30),
                provided("a", 1, "x", 15),
            ],
            true,
        );
        assert_eq!((taken.kept, records.len()), (5, 4));
        let name = Name::parse("a").expect("valid");
        assert_eq!(records.find(&name, NOW).len(), 3);
        assert_eq!(records.find(&name, Duration::from_secs(15)).len(), 2);
        records.withdraw(
            &PeerId::from_bytes([2; 16]),
            &name,
            &Digest::of(b"x".as_slice()),
        );
        assert_eq!(records.find(&name, NOW).len(), 2);
        records.sweep(Duration::from_secs(15));
        assert_eq!(records.len(), 2);
        records.withdraw_all(&PeerId::from_bytes([1; 16]));
        assert!(records.is_empty() && records.publishers.is_empty() && records.names.is_empty());
    }

    #[test]
    fn what_was_handed_over_replaces_nothing_from_first_hand() {
        let mut records = Records::default();
        records.keep(vec![provided("a", 1, "x", 10)], true);
        records.keep(vec![provided("a", 1, "x", 99)], false);
        let name = Name::parse("a").expect("valid");
        assert_eq!(records.find(&name, NOW)[0].expires, Duration::from_secs(10));
    }

    #[test]
    fn one_publisher_has_few_places_under_a_name() {
        let mut records = Records::default();
        let of =
            |peer, count: u64| (0..count).map(move |n| provided("a", peer, &n.to_string(), 10));
        let taken = records.keep(of(1, 100).collect(), true);
        let few = RECORDS_A_NAME_AND_PUBLISHER;
        assert_eq!((taken.kept, taken.refused), (few, 100 - few));
        assert_eq!(records.keep(of(2, 1).collect(), true).kept, 1);
        // Of the names of one publisher, another is another matter.
        assert_eq!(records.keep(vec![provided("b", 1, "x", 10)], true).kept, 1);
        assert_eq!(records.len(), few + 2);
    }

    #[test]
    fn what_comes_first_hand_finds_a_place_among_what_was_handed_over() {
        let mut records = Records::default();
        let handed = (0..=u8::MAX).map(|peer| provided("a", peer, "handed", 10 + u64::from(peer)));
        assert_eq!(records.keep(handed.collect(), false).kept, RECORDS_A_NAME);
        let name = Name::parse("a").expect("valid");
        assert_eq!(
            records.keep(vec![provided("a", 200, "own", 10)], true).kept,
            1
        );
        let found = records.find(&name, NOW);
        assert_eq!(found.len(), RECORDS_A_NAME);
        let has = |peer| {
            found
                .iter()
                .any(|one| one.provider.peer == PeerId::from_bytes([peer; 16]))
        };
        assert!(
            has(200) && !has(0) && has(1),
            "that which is over first gives way"
        );
        let late = records.keep(vec![provided("a", 201, "handed", 10)], false);
        assert_eq!(late.refused, 1);
        // Of the same publisher too.
        let of_one = |n: u64| provided("b", 7, &n.to_string(), 10);
        records.keep((0..9).map(of_one).collect(), false);
        assert_eq!(records.keep((10..14).map(of_one).collect(), true).kept, 4);
        assert_eq!(records.keep(vec![of_one(20)], true).refused, 1);
        records.sweep(Duration::from_secs(1000));
        assert!(records.is_empty() && records.publishers.is_empty());
    }

    #[test]
    fn a_name_has_a_bounded_number_of_records() {
        let mut records = Records::default();
        let many = (0..100).map(|peer| provided("a", peer, "x", 10)).collect();
        let taken = records.keep(many, true);
        assert_eq!(
            (taken.kept, taken.refused),
            (RECORDS_A_NAME, 100 - RECORDS_A_NAME)
        );
        records.keep(vec![provided("b", 2, "x", 10)], true);
        assert_eq!(records.len(), RECORDS_A_NAME + 1);
    }

    #[test]
    fn pages_give_everything_once_but_what_is_left_out() {
        let mut records = Records::default();
        let many: Vec<_> = (0..50)
            .map(|n| provided(&n.to_string(), 1, "x", 10))
            .collect();
        records.keep(many.clone(), true);
        let from = Id::of_name(&many[0].record.name);
        let upto = Id::of_name(&many[1].record.name);
        let left_out = many
            .iter()
            .filter(|one| Id::of_name(&one.record.name).is_in(&from, &upto))
            .count();
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let (page, more) = records.page(after, (&from, &upto), 7, NOW);
            all.extend(page);
            match more {
                Some(id) => after = Some(id),
                None => break,
            }
        }
        assert_eq!(all.len(), 50 - left_out);
    }
}
