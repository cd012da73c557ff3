//! Who holds some pieces of a content and is fetching the others: hints, in memory alone.
//!
//! Invariant: `by_content`, `by_name` and `by_peer` say the same; no peer has more than
//! [`MAX_PER_PEER`] records here and all together no more than [`MAX_RECORDS`]. What finds no room
//! is left out: nobody depends on a hint. That a peer's records end with its lease is the
//! directory's to see to, see `registration`.
//!
//! What has a name or a digest is in the order of a hash that nobody can foresee, so that those from
//! any place on are a random choice of them: a lookup reads so many, and nobody hides the others for good.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{BuildHasher as _, RandomState},
};

use vecino_rest::{Digest, Name};

use crate::store::{
    Among, Change, Found, Key, MAX_HOLDER_READS, MAX_VARIANTS_READ, PeerNo, Resource, gather,
};

/// Records of one peer at most.
pub const MAX_PER_PEER: usize = 512;
/// Records of all peers together at most.
pub const MAX_RECORDS: usize = 65_536;

/// How what a peer holds in part changes; what ends takes effect first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartialChange {
    /// Held in part from now on.
    pub begun: Vec<Resource>,
    /// Not any more.
    pub ended: Vec<(Name, Digest)>,
}

impl PartialChange {
    /// How many records it carries.
    pub fn len(&self) -> usize {
        self.begun.len() + self.ended.len()
    }

    /// Whether it carries none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Digest, place among what has it, name, size.
type OfContent = (Digest, u64, Name, u64);
/// Name, place among what has it, digest, size.
type OfName = (Name, u64, Digest, u64);

#[derive(Debug)]
struct Held {
    modified_ms: i64,
    holders: BTreeSet<PeerNo>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Partials {
    by_content: BTreeMap<OfContent, Held>,
    by_name: BTreeSet<OfName>,
    by_peer: HashMap<PeerNo, BTreeMap<(Digest, Name), u64>>,
    records: usize,
    places: RandomState,
}

impl Partials {
    fn of_content(&self, digest: Digest, name: Name, size: u64) -> OfContent {
        (digest, self.places.hash_one((&name, size)), name, size)
    }

    fn of_name(&self, name: Name, digest: Digest, size: u64) -> OfName {
        (name, self.places.hash_one((digest, size)), digest, size)
    }

    /// How many records there are.
    pub fn records(&self) -> usize {
        self.records
    }

    /// Changes what a peer holds in part.
    pub fn change(&mut self, peer: PeerNo, change: PartialChange) {
        for (name, digest) in change.ended {
            self.end(peer, name, digest);
        }
        for resource in change.begun {
            self.begin(peer, resource);
        }
    }

    fn begin(&mut self, peer: PeerNo, resource: Resource) {
        let Resource {
            name,
            digest,
            size,
            modified_ms,
        } = resource;
        // The newer word about the size counts.
        self.end(peer, name.clone(), digest);
        let of_peer = self.by_peer.get(&peer).map_or(0, BTreeMap::len);
        if of_peer >= MAX_PER_PEER || self.records >= MAX_RECORDS {
            return;
        }
        let of_peer = self.by_peer.entry(peer).or_default();
        of_peer.insert((digest, name.clone()), size);
        let of_name = self.of_name(name.clone(), digest, size);
        self.by_name.insert(of_name);
        let of_content = self.of_content(digest, name, size);
        let held = self.by_content.entry(of_content);
        let held = held.or_insert_with(|| Held {
            modified_ms,
            holders: BTreeSet::new(),
        });
        held.holders.insert(peer);
        self.records += 1;
    }

    /// A peer does not hold that in part any more.
    fn end(&mut self, peer: PeerNo, name: Name, digest: Digest) {
        let Some(of_peer) = self.by_peer.get_mut(&peer) else {
            return;
        };
        let key = (digest, name);
        let Some(size) = of_peer.remove(&key) else {
            return;
        };
        if of_peer.is_empty() {
            self.by_peer.remove(&peer);
        }
        self.records -= 1;
        let of_content = self.of_content(key.0, key.1, size);
        if let Some(held) = self.by_content.get_mut(&of_content) {
            held.holders.remove(&peer);
            if held.holders.is_empty() {
                self.by_content.remove(&of_content);
                let (digest, _, name, size) = of_content;
                self.by_name.remove(&self.of_name(name, digest, size));
            }
        }
    }

    /// A peer holds nothing in part any more.
    pub fn end_all(&mut self, peer: PeerNo) {
        let of_peer = self.by_peer.get(&peer).cloned();
        for (digest, name) in of_peer.unwrap_or_default().into_keys() {
            self.end(peer, name, digest);
        }
    }

    /// Those of the peer's records that `whole` makes obsolete: it holds them whole now, or says
    /// that it does not hold them.
    pub fn obsolete(&self, peer: PeerNo, whole: &Change) -> Vec<(Name, Digest)> {
        let Some(of_peer) = self.by_peer.get(&peer) else {
            return Vec::new();
        };
        let of_resource = |resource: &Resource| (resource.name.clone(), resource.digest);
        let touched: Vec<_> = match whole {
            Change::Difference { announce, withdraw } => {
                let announced = announce.iter().map(of_resource);
                announced.chain(withdraw.iter().cloned()).collect()
            }
            Change::Bucket { records, .. } => records.iter().map(of_resource).collect(),
        };
        let is_held =
            |(name, digest): &(Name, Digest)| of_peer.contains_key(&(*digest, name.clone()));
        touched.into_iter().filter(is_held).collect()
    }

    /// What live peers hold in part of that name or digest, within the bounds of a lookup.
    pub fn find(&self, key: &Key, among: &Among<'_>) -> Vec<Found> {
        let place = among.seed;
        let contents: Vec<OfContent> = match key {
            Key::Name(name) => {
                let at = |place| (name.clone(), place, Digest::from_bytes([0; Digest::LEN]), 0);
                let after = self.by_name.range(at(place)..);
                let after = after.take_while(|(its, ..)| its == name);
                let rows = after.chain(self.by_name.range(at(0)..at(place)));
                let contents = rows
                    .map(|(name, _, digest, size)| self.of_content(*digest, name.clone(), *size));
                contents.take(MAX_VARIANTS_READ).collect()
            }
            Key::Digest(digest) => {
                let least = Name::parse(" ").expect("no name begins with a lesser character");
                let at = |place| (*digest, place, least.clone(), 0);
                let after = self.by_content.range(at(place)..);
                let after = after.take_while(|((its, ..), _)| its == digest);
                let rows = after.chain(self.by_content.range(at(0)..at(place)));
                let contents = rows.map(|(of_content, _)| of_content.clone());
                contents.take(MAX_VARIANTS_READ).collect()
            }
        };
        let mut budget = MAX_HOLDER_READS;
        let found = contents.into_iter().filter_map(|of_content| {
            let held = &self.by_content[&of_content];
            let holders = match among.only {
                Some(only) => {
                    let rows = only.iter().filter(|peer| held.holders.contains(peer));
                    gather(rows.map(|peer| Ok(*peer)), among.live, &mut budget)
                }
                None => {
                    let from = held.holders.range(among.start..);
                    let rows = from.chain(held.holders.range(..among.start));
                    gather(rows.map(|peer| Ok(*peer)), among.live, &mut budget)
                }
            };
            let (digest, _, name, size) = of_content;
            let resource = Resource {
                name,
                digest,
                size,
                modified_ms: held.modified_ms,
            };
            // Nothing here can fail.
            let holders = holders.unwrap_or_default();
            (!holders.is_empty()).then_some(Found { resource, holders })
        });
        found.collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::Live;

    struct But(PeerNo);

    impl Live for But {
        fn retain_live(&self, peers: &mut Vec<PeerNo>) {
            peers.retain(|peer| *peer != self.0);
        }
    }

    const NOBODY: PeerNo = PeerNo(u32::MAX);

    fn name(text: &str) -> Name {
        Name::parse(text).expect("valid")
    }

    fn file(path: &str, content: &str) -> Resource {
        Resource {
            name: name(path),
            digest: Digest::of(content.as_bytes()),
            size: content.len() as u64,
            modified_ms: 1,
        }
    }

    fn begun(files: impl IntoIterator<Item = Resource>) -> PartialChange {
        PartialChange {
            begun: files.into_iter().collect(),
            ended: Vec::new(),
        }
    }

    fn ended(file: &Resource) -> PartialChange {
        PartialChange {
            begun: Vec::new(),
            ended: vec![(file.name.clone(), file.digest)],
        }
    }

    fn holders(partials: &Partials, key: &Key, dead: PeerNo) -> Vec<(String, Vec<u32>)> {
        let live = But(dead);
        let among = Among {
            live: &live,
            only: None,
            start: PeerNo(0),
            seed: 0,
        };
        let found = partials.find(key, &among).into_iter();
        let numbers = |found: Found| {
            let holders = found.holders.iter().map(|peer| peer.0).collect();
            (found.resource.name.to_string(), holders)
        };
        let mut numbers: Vec<_> = found.map(numbers).collect();
        numbers.sort();
        numbers
    }

    #[test]
    fn what_is_begun_is_found_by_name_and_digest_until_it_ends() {
        let mut partials = Partials::default();
        let (a, b) = (file("a", "content"), file("!b", "content"));
        partials.change(PeerNo(1), begun([a.clone(), b.clone()]));
        partials.change(PeerNo(2), begun([a.clone()]));
        let (by_name, by_digest) = (Key::Name(a.name.clone()), Key::Digest(a.digest));
        assert_eq!(
            holders(&partials, &by_name, NOBODY),
            [("a".into(), vec![1, 2])]
        );
        assert_eq!(
            holders(&partials, &by_digest, NOBODY),
            [("!b".into(), vec![1]), ("a".into(), vec![1, 2])]
        );
        assert_eq!(
            holders(&partials, &by_digest, PeerNo(1)),
            [("a".into(), vec![2])],
            "live holders only"
        );
        partials.change(PeerNo(2), ended(&a));
        assert_eq!(
            holders(&partials, &by_name, NOBODY),
            [("a".into(), vec![1])]
        );
        partials.end_all(PeerNo(1));
        assert!(holders(&partials, &by_digest, NOBODY).is_empty());
        assert_eq!(partials.records(), 0);
    }

    #[test]
    fn a_lookup_may_be_restricted_to_some() {
        let mut partials = Partials::default();
        let a = file("a", "content");
        for peer in 0..3 {
            partials.change(PeerNo(peer), begun([a.clone()]));
        }
        let live = But(NOBODY);
        let only = [PeerNo(2), PeerNo(7)];
        let among = Among {
            live: &live,
            only: Some(&only),
            start: PeerNo(0),
            seed: 0,
        };
        let found = partials.find(&Key::Name(a.name), &among);
        assert_eq!(found[0].holders, [PeerNo(2)]);
    }

    #[test]
    fn more_than_a_lookup_reads_hide_no_others_for_good() {
        let files = |n| {
            [
                file("the same", &format!("{n}")),
                file(&format!("{n}"), "the same"),
            ]
        };
        let mut partials = Partials::default();
        let half = MAX_PER_PEER / 2;
        for peer in 0..4 {
            let files = (half * peer..half * (peer + 1)).flat_map(files);
            partials.change(PeerNo(peer as u32), begun(files));
        }
        let [of_name, of_content] = files(0);
        for key in [Key::Name(of_name.name), Key::Digest(of_content.digest)] {
            let mut rng = fastrand::Rng::with_seed(7);
            let mut found = BTreeSet::new();
            for _ in 0..50 {
                let among = Among {
                    live: &But(NOBODY),
                    only: None,
                    start: PeerNo(0),
                    seed: rng.u64(..),
                };
                let some = partials.find(&key, &among).into_iter();
                let some: BTreeSet<_> =
                    some.map(|f| (f.resource.name, f.resource.digest)).collect();
                assert_eq!(some.len(), MAX_VARIANTS_READ);
                found.extend(some);
            }
            assert_eq!(found.len(), 4 * half, "{key:?}");
        }
    }

    #[test]
    fn a_whole_record_or_a_withdrawal_makes_a_partial_one_obsolete() {
        let mut partials = Partials::default();
        let (a, b, c) = (file("a", "1"), file("b", "2"), file("c", "3"));
        partials.change(PeerNo(1), begun([a.clone(), b.clone()]));
        let difference = Change::Difference {
            announce: vec![a.clone(), c.clone()],
            withdraw: vec![(b.name.clone(), b.digest)],
        };
        let bucket = Change::Bucket {
            bucket: b.digest.as_bytes()[0],
            records: vec![b.clone()],
        };
        let a = (a.name, a.digest);
        let b = (b.name, b.digest);
        assert_eq!(partials.obsolete(PeerNo(1), &difference), [a, b.clone()]);
        assert_eq!(partials.obsolete(PeerNo(1), &bucket), [b]);
        assert!(partials.obsolete(PeerNo(2), &difference).is_empty());
    }

    #[test]
    fn one_peer_and_all_together_have_their_bounds() {
        let mut partials = Partials::default();
        let files = (0..MAX_PER_PEER + 5).map(|n| file(&format!("f{n}"), "same"));
        partials.change(PeerNo(0), begun(files));
        assert_eq!(partials.records(), MAX_PER_PEER);
        // What is there already may be told again.
        partials.change(PeerNo(0), begun([file("f0", "same")]));
        assert_eq!(partials.records(), MAX_PER_PEER);
        for peer in 1..=u32::try_from(MAX_RECORDS / MAX_PER_PEER).expect("small") {
            let files = (0..MAX_PER_PEER).map(|n| file(&format!("f{n}"), "same"));
            partials.change(PeerNo(peer), begun(files));
        }
        assert_eq!(partials.records(), MAX_RECORDS);
        partials.end_all(PeerNo(0));
        assert_eq!(partials.records(), MAX_RECORDS - MAX_PER_PEER);
    }

    proptest! {
        #[test]
        fn the_indexes_agree_with_a_plain_model(
            steps in prop::collection::vec((0..4_u32, 0..4_usize, 0..3_u8, 0..3_u64), 1..80)
        ) {
            let mut partials = Partials::default();
            let mut model: BTreeMap<(u32, usize), u64> = BTreeMap::new();
            for (peer, number, what, size) in steps {
                let resource = Resource { size, ..file(&format!("f{number}"), "x") };
                match what {
                    0 => {
                        partials.change(PeerNo(peer), begun([resource]));
                        model.insert((peer, number), size);
                    }
                    1 => {
                        partials.change(PeerNo(peer), ended(&resource));
                        model.remove(&(peer, number));
                    }
                    _ => {
                        partials.end_all(PeerNo(peer));
                        model.retain(|(p, _), _| *p != peer);
                    }
                }
                prop_assert_eq!(partials.records(), model.len());
                for number in 0..4 {
                    let key = Key::Name(name(&format!("f{number}")));
                    let found: usize = holders(&partials, &key, NOBODY).iter().map(|(_, h)| h.len()).sum();
                    let expected = model.keys().filter(|(_, n)| *n == number).count();
                    prop_assert_eq!(found, expected);
                }
                let all = holders(&partials, &Key::Digest(Digest::of(b"x")), NOBODY);
                let found: usize = all.iter().map(|(_, h)| h.len()).sum();
                prop_assert_eq!(found, model.len());
                prop_assert_eq!(partials.by_content.len(), partials.by_name.len());
            }
        }
    }
}
