//! Logins whose peers have not registered with them yet. They are in memory alone: who logged in
//! right before the locator died logs in again.

use vecino_rest::PeerId;

use super::recent::Recent;
use crate::store::{Session, TokenHash};

/// Logins that are remembered at least.
const KEPT: usize = 16_384;

/// The logins.
#[derive(Debug)]
pub(super) struct Pending(Recent<PeerId, Session>);

impl Default for Pending {
    fn default() -> Self {
        Self(Recent::new(KEPT))
    }
}

impl Pending {
    /// An earlier login of the same peer is over.
    pub(super) fn put(&mut self, peer: PeerId, session: Session) {
        self.0.put(peer, session);
    }

    /// The login of `peer` that has this token. It is used up.
    pub(super) fn take(&mut self, peer: &PeerId, token: &TokenHash) -> Option<Session> {
        let is_it = self.0.get(peer)?.token == *token;
        is_it.then(|| self.0.remove(peer)).flatten()
    }
}
