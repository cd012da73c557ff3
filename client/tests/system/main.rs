//! The whole system as people use it: locator and peers in this process, the client as the real
//! binary, foreign programs of the first system as fixtures. Each module but the stage's proves
//! one promise of the system.

#![allow(clippy::unwrap_used)]

// The stage.
mod client;
mod cluster;
mod content;
mod foreign;
mod frames;
mod http;
mod proxy;
mod relay;
mod sockets;
mod witness;

// The promises.
mod doctor;
mod first_system;
mod flood;
mod folder;
mod hidden_asker;
mod hidden_locator;
mod login;
mod own_peer_only;
mod ring;
mod warm;
