//! Sending content to other peers: who may send when ([`slots`]), and from the page cache to the
//! socket ([`sendfile`]) for plain requests ([`head`]) that come first to this part ([`listener`]).

pub mod head;
pub mod listener;
pub mod sendfile;
pub mod slots;

pub use slots::{Slot, Slots};
