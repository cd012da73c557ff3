//! The peer: own peer of its clients, neighbour of other peers, provider of files.
//!
//! `api` → `neighbour::outbound` → (the neighbour's) `neighbour::inbound` → `locate` is the way
//! of a lookup; `api` → `download` → `content` that of a download. [`Server`] joins them.

pub mod api;
pub mod config;
pub mod content;
pub mod copies;
pub mod doctor;
pub mod download;
pub mod events;
pub mod identity;
pub mod limit;
pub mod locate;
pub mod metrics;
pub mod neighbour;
pub mod open_files;
pub mod server;
pub mod summary;
pub mod upload;
pub mod welcome;

pub use config::Config;
pub use server::Server;
