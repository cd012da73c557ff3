//! Peers as they run: real HTTP, real files, a real locator, on free ports of the loopback
//! address. Providers and neighbours that misbehave are fixtures; a peer that is killed is a
//! process of its own.

#![allow(clippy::unwrap_used)]
// Lists of ranges that were asked for, often of one.
#![allow(clippy::single_range_in_vec_init)]

mod absurd;
mod access;
mod changes;
mod chord;
mod conformance;
mod copies;
mod crashes;
mod crowd;
mod events;
mod faults;
mod fetches;
mod flood;
mod flood_hostile;
mod floods;
mod hostile;
mod inside;
mod limits;
mod lists;
mod network;
mod overlay_port;
mod partials;
mod reach;
#[path = "../../../central-server/tests/it/redis_cluster.rs"]
mod redis_cluster;
mod restart;
mod resumed;
mod room;
mod semantics;
mod sessions;
mod shared_directory;
mod sizes;
mod start;
mod support;
mod uploads;
mod variants;
mod zones;
