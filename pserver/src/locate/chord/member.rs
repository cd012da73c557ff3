//! [`Member`]: a peer on the ring, and lists of them.
//!
//! Invariant: a member's identifier is the one that its peer id gives; no message can claim
//! another.

use std::sync::Arc;

use super::id::Id;
use crate::locate::overlay::Contact;

/// A peer on the ring; cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Member {
    /// Where it stands.
    pub id: Id,
    /// How it is reached.
    pub contact: Arc<Contact>,
}

impl Member {
    /// The member that this peer is.
    pub fn new(contact: Contact) -> Self {
        Self {
            id: Id::of_peer(&contact.peer),
            contact: Arc::new(contact),
        }
    }
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.id)
    }
}

/// Those of `members` that come in clockwise order from `from` until `from` itself, which may be
/// the last one; at most `length`. What comes out of order ends the list.
pub(super) fn in_order(
    from: &Id,
    members: impl IntoIterator<Item = Member>,
    length: usize,
) -> Vec<Member> {
    let mut list: Vec<Member> = Vec::with_capacity(length);
    for member in members {
        if list.len() == length {
            break;
        }
        if let Some(last) = list.last()
            && (last.id == *from || !member.id.is_in(&last.id, from) || member.id == last.id)
        {
            break;
        }
        list.push(member);
    }
    list
}
