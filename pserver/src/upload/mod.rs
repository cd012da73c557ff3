//! Sending content to other peers: who may send when ([`slots`]).

pub mod slots;

pub use slots::{Slot, Slots};
