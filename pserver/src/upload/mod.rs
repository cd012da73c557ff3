//! Sending content, to other peers and to clients: plain requests ([`head`]) come first to this part
//! ([`listener`], [`connection`]). A blob (`blob`) is for peers, who wait for their turn ([`slots`]); a
//! file (`file`) is for clients, and may be on its way yet. Bytes go from the page cache to the socket
//! ([`sendfile`]) as long as nobody but this peer can change them, or who receives them checks them; at
//! which rate, the kernel decides ([`congestion`]).

mod blob;
pub mod congestion;
pub mod connection;
mod file;
pub mod head;
pub mod listener;
pub mod sendfile;
pub mod slots;

pub use slots::{Slot, Slots};
