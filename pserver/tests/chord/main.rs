//! The ring in simulation: the state machine that peers run, with a network and a clock that
//! decide, by a seed, what happens when. Nothing here sleeps or opens a socket.
//!
//! A failure names its seed; `VECINO_SEED=n` begins with that one.

#![allow(clippy::unwrap_used)]

mod hops;
mod loss;
mod schedules;
mod world;

use std::net::Ipv4Addr;

use pserver::locate::{chord::member::Member, overlay::Contact};
use rand::{Rng, rngs::StdRng};
use vecino_rest::{PeerId, PeerUrl};

/// The first seed.
fn seed() -> u64 {
    let given = std::env::var("VECINO_SEED").ok();
    given.map_or(1, |text| text.parse().expect("a number"))
}

/// A peer somewhere.
fn random_member(random: &mut StdRng) -> Member {
    let addr = |port| (Ipv4Addr::new(10, 0, 0, 1), port).into();
    Member::new(Contact {
        peer: PeerId::from_bytes(random.random()),
        overlay: PeerUrl::http(addr(2)),
        url: PeerUrl::http(addr(1)),
        site: None,
    })
}

/// `count` peers in order of their places.
fn sorted_members(count: usize, random: &mut StdRng) -> Vec<Member> {
    let mut members: Vec<_> = (0..count).map(|_| random_member(random)).collect();
    members.sort_by_key(|member| member.id);
    members
}
