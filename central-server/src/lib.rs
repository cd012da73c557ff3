//! The locator of Vecino: a directory that tells peers which live peers hold what.
//!
//! Two names matter to others: [`Config`], what the operator says, and [`Server`], a running
//! locator as a handle. [`account`] lets in, [`directory`] decides, [`store`] remembers, [`zone`] seats those who
//! need no directory; dependencies point from the
//! wire to the domain to the store, and only `server` knows everyone.

pub mod account;
pub mod archive;
mod behind;
pub mod cli;
pub mod command;
pub mod config;
mod connections;
mod control;
pub mod directory;
mod grpc;
mod http;
pub mod metrics;
pub mod open_files;
mod server;
mod serving;
pub mod store;
mod summary;
mod throttle;
mod turns;
pub mod zone;

pub use config::Config;
pub use server::{Server, ServerError};
