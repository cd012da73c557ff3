//! The vocabulary of Vecino and its REST contracts: what a client, its own peer, neighbours and
//! providers say to each other over HTTP.
//!
//! Raw text becomes [`Name`], [`Digest`] or [`PeerId`] once, at the edge; everything behind the
//! edge takes these types. Bodies are JSON, one type a shape, used by both ends. Nothing here
//! knows of gRPC, does I/O or reads a clock.

pub mod body;
pub mod doctor;
pub mod event;
pub mod frozen;
mod hex;
pub mod id;
pub mod name;
pub mod overlay;
pub mod peer_url;
pub mod piece;
pub mod problem;
pub mod route;
pub mod settings;
pub mod terms;
pub mod user;
pub mod zone;

pub use id::{Digest, PeerId, PeerKey};
pub use name::Name;
pub use peer_url::PeerUrl;
pub use problem::{Kind, Problem};
pub use user::UserName;
