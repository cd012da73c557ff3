//! Who sends a record: a peer is believed to be the member that it says it is when that member,
//! asked at the address that the locator lists, confirms that it gave this peer the pass.
//!
//! Invariant: the contact of a sender comes from the locator's list, never out of a message; a
//! pass is good for one receiver only, so that no receiver can speak for a sender elsewhere.
//! (Whoever can answer at a member's address, or read what it sends, can speak for it: zones
//! have no keys that would tell otherwise.)

use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::Semaphore;
use tonic::Status;
use vecino_grpc::v1;
use vecino_rest::{PeerId, PeerKey, PeerUrl};

use super::{network::Network, peers::Peers};
use crate::locate::overlay::Contact;

/// Senders that are remembered; the least used goes first.
const MAX_SENDERS: u64 = 65_536;
/// A sender is asked to confirm again after so long.
const CONFIRMED_FOR: Duration = Duration::from_secs(600);
/// Confirmations that are waited for at a time.
const MAX_CONFIRMING: usize = 64;

/// What a sender proves itself with to one receiver.
pub(super) type Pass = [u8; 32];

/// The pass that the owner of `key` gives to `receiver`.
pub(super) fn pass(key: &PeerKey, receiver: &PeerId) -> Pass {
    let secret = blake3::derive_key("vecino 2026 zone pass", key.as_bytes());
    *blake3::keyed_hash(&secret, receiver.as_bytes()).as_bytes()
}

/// See the module.
#[derive(Debug)]
pub(super) struct Trust {
    confirmed: Cache<PeerId, (blake3::Hash, PeerUrl)>,
    confirming: Semaphore,
}

impl Default for Trust {
    fn default() -> Self {
        Self {
            confirmed: Cache::builder()
                .max_capacity(MAX_SENDERS)
                .time_to_live(CONFIRMED_FOR)
                .build(),
            confirming: Semaphore::new(MAX_CONFIRMING),
        }
    }
}

impl Trust {
    /// The sender, if it is the member that it says.
    pub(super) async fn verify(
        &self,
        sender: Option<v1::ZoneSender>,
        network: &Network,
        peers: &Peers,
    ) -> Result<Contact, Status> {
        let sender = sender.ok_or_else(|| Status::invalid_argument("sender is missing"))?;
        let peer = PeerId::from_slice(&sender.peer_id)
            .ok_or_else(|| Status::invalid_argument("sender.peer_id: expected 16 bytes"))?;
        let pass = Pass::try_from(&*sender.pass)
            .map_err(|_| Status::invalid_argument("sender.pass: expected 32 bytes"))?;
        let layout = network
            .layout()
            .ok_or_else(|| Status::unavailable("this peer is no member yet"))?;
        if sender.slots != layout.slots() {
            return Err(Status::failed_precondition(format!(
                "sender.slots is {}: this network has {}",
                sender.slots,
                layout.slots()
            )));
        }
        if sender.slot >= layout.slots() {
            return Err(Status::invalid_argument(format!(
                "sender.slot is {}: expected less than {}",
                sender.slot,
                layout.slots()
            )));
        }
        if peer == peers.me() {
            return Err(Status::permission_denied("sender is this peer itself"));
        }
        let contact = network.member(sender.slot, &peer).await;
        let contact = contact.ok_or_else(|| {
            Status::permission_denied(format!(
                "{peer} is not known to sit in slot {}",
                sender.slot
            ))
        })?;
        // Compared in constant time, as `blake3::Hash` does.
        let pass = blake3::Hash::from_bytes(pass);
        match self.confirmed.get(&peer) {
            Some((known, at)) if at == contact.overlay => {
                if known != pass {
                    return Err(Status::permission_denied("sender.pass is another one"));
                }
            }
            _ => {
                let Ok(_permit) = self.confirming.try_acquire() else {
                    return Err(Status::unavailable("too many new senders; try again"));
                };
                if !peers.confirm(&contact, pass.as_bytes()).await? {
                    return Err(Status::permission_denied(format!(
                        "{peer} did not give this pass"
                    )));
                }
                self.confirmed.insert(peer, (pass, contact.overlay.clone()));
            }
        }
        Ok(contact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_is_good_for_one_receiver() {
        let (one, other) = ([PeerKey::from_bytes([1; 32]), PeerKey::from_bytes([2; 32])]).into();
        let (here, there) = (PeerId::from_bytes([1; 16]), PeerId::from_bytes([2; 16]));
        assert_eq!(pass(&one, &here), pass(&one, &here));
        assert_ne!(pass(&one, &here), pass(&one, &there));
        assert_ne!(pass(&one, &here), pass(&other, &here));
    }
}
