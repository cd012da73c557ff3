//! What locators that share a store tell each other through it: who was heard of.

use std::time::Duration;

use async_trait::async_trait;

use super::{Fingerprints, PeerNo, PeerRow, StoreError, TokenHash};

/// What tells one shared store from another.
pub type DirectoryId = [u8; 16];

/// A peer that was heard of at this locator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Who.
    pub peer: PeerNo,
    /// Its registration.
    pub epoch: u64,
    /// Its room in bytes.
    pub free_bytes: u64,
}

/// A peer that was heard of at any locator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// Who.
    pub peer: PeerNo,
    /// Its registration.
    pub epoch: u64,
    /// Its room in bytes.
    pub free_bytes: u64,
    /// How long ago that was.
    pub ago: Duration,
}

/// What a locator learns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exchange {
    /// Those heard of here whom the store does not know (any more): they have to register again.
    pub unknown: Vec<PeerNo>,
    /// Those heard of since the last exchange.
    pub heard: Vec<Heard>,
    /// Those marked as gone since the last exchange.
    pub gone: Vec<PeerNo>,
}

/// A store that several locators share.
#[async_trait]
pub trait Sharing: Send + Sync {
    /// Of this store; the same at each of its locators.
    fn directory_id(&self) -> DirectoryId;

    /// Tells who was heard of at this locator just now, and learns what happened since the last
    /// exchange, `back` ago at most.
    async fn exchange(&self, kept: &[Kept], back: Duration) -> Result<Exchange, StoreError>;

    /// A peer's registration and row.
    async fn row(&self, peer: PeerNo) -> Result<Option<(u64, PeerRow)>, StoreError>;

    /// Marks those peers as lapsed at `at_ms` whose token is still the given one and of whom no
    /// locator heard for `silence`.
    async fn lapse_silent(
        &self,
        peers: Vec<(PeerNo, TokenHash)>,
        at_ms: i64,
        silence: Duration,
    ) -> Result<(), StoreError>;

    /// Says that this locator runs with these `accounts`, which holds for `lasting` if it is not
    /// said again; unless another one runs with others, which is the answer.
    async fn run_with(
        &self,
        accounts: &str,
        lasting: Duration,
    ) -> Result<Option<String>, StoreError>;

    /// Grows when acknowledged changes may have been lost.
    fn losses(&self) -> u64;

    /// What the store holds for a peer.
    async fn fingerprints(&self, peer: PeerNo) -> Result<Fingerprints, StoreError>;
}
