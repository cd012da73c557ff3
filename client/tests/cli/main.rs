//! The client as a user starts it, against a server that stands for the own peer and does what a
//! real one does rarely: lies, breaks off, hangs, refuses.

#![allow(clippy::unwrap_used)]

mod config;
mod direct;
mod doctor;
mod download;
mod errors;
mod events;
mod folder;
mod lists;
mod overlay;
mod repl;
mod stage;
mod upload;
