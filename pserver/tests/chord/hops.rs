//! How many requests a lookup takes, and what is left of a ring when much of it dies at once.

use std::{collections::HashMap, time::Duration};

use pserver::locate::chord::{
    id::Id,
    lookup::{Found, Lookup, Next},
    member::Member,
    state::Ring,
    timing::REPLICAS,
};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::{seed, sorted_members};

/// Members at their places, any of which may be dead.
pub(crate) struct Field {
    pub(crate) members: Vec<Member>,
    pub(crate) rings: HashMap<Id, Ring>,
}

impl Field {
    /// `size` members that know what a ring at rest knows.
    pub(crate) fn ideal(size: usize, random: &mut StdRng) -> Self {
        let members = sorted_members(size, random);
        let mut rings = HashMap::new();
        for (at, me) in members.iter().enumerate() {
            let mut ring = Ring::new(me.clone(), REPLICAS);
            let before = &members[(at + size - 1) % size];
            let after: Vec<_> = (1..=REPLICAS.min(size - 1))
                .map(|steps| members[(at + steps) % size].clone())
                .collect();
            assert!(ring.join(before, &after));
            while let Some(index) = ring.fingers.next(&after[0]) {
                let responsible = responsible(&members, &ring.fingers.start(index));
                ring.fingers.set(index, responsible);
            }
            rings.insert(me.id, ring);
        }
        Self { members, rings }
    }

    /// A lookup by `from`.
    pub(crate) fn look_up(&self, from: &Member, place: Id) -> Found {
        let ring = &self.rings[&from.id];
        let mut lookup = Lookup::begin(place, from, ring.step(&place));
        // Answers come at once, so one is asked after the other.
        while let Next::Ask(member) = lookup.next(Duration::ZERO) {
            match self.rings.get(&member.id) {
                Some(ring) => lookup.answered(&member, ring.step(&place)),
                None => lookup.failed(&member),
            }
        }
        lookup.found().unwrap()
    }

    pub(crate) fn anyone(&self, random: &mut StdRng) -> Member {
        self.members[random.random_range(0..self.members.len())].clone()
    }
}

/// The first of `members`, which are in order, at or after `place`.
pub(crate) fn responsible<'a>(members: &'a [Member], place: &Id) -> &'a Member {
    let at = members.partition_point(|member| member.id < *place);
    &members[at % members.len()]
}

#[test]
fn a_lookup_takes_half_the_logarithm_of_the_members() {
    const LOOKUPS: usize = 2000;
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    println!("seed {seed}, r = {REPLICAS}, {LOOKUPS} lookups each");
    println!(
        "{:>6} {:>6} {:>4} {:>11}",
        "nodes", "mean", "max", "1/2 log2 N"
    );
    for size in [16, 64, 256, 1024, 4096] {
        let field = Field::ideal(size, &mut random);
        let (mut sum, mut most) = (0, 0);
        for _ in 0..LOOKUPS {
            let from = field.anyone(&mut random);
            let place = Id::from_bytes(random.random());
            let found = field.look_up(&from, place);
            assert_eq!(found.holders[0], *responsible(&field.members, &place));
            sum += found.steps;
            most = most.max(found.steps);
        }
        let mean = sum as f64 / LOOKUPS as f64;
        let half = (size as f64).log2() / 2.0;
        println!("{size:>6} {mean:>6.2} {most:>4} {half:>11.1}");
        assert!(mean <= half + 1.0, "seed {seed}, {size} nodes: {mean}");
    }
}
