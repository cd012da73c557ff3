//! Announcing: what a peer holds changes.
//!
//! A change takes its place among the others first, and is durable later, so that a peer can have
//! some on their way. What is held in part is kept apart from the store: with a change of it, nothing
//! else of the same peer may be on its way ([`Announcement::may_be_on_its_way`]).

use std::future::ready;

use futures_util::FutureExt as _;

use super::{Credentials, Directory, Error, partial::PartialChange};
use crate::store::{Announced, Change, PeerNo, StoreError};

/// How what a peer holds changes.
#[derive(Debug, Clone)]
pub struct Announcement {
    /// What it holds whole.
    pub whole: Change,
    /// What it holds in part.
    pub partial: PartialChange,
}

impl Announcement {
    /// Whether others of the peer may be on their way with it.
    pub fn may_be_on_its_way(&self) -> bool {
        self.partial.is_empty()
    }
}

/// An announcement that has its place.
pub struct Begun {
    rest: Rest,
    answer: Announced,
}

/// An announcement that is durable, or has failed.
pub struct Durable {
    rest: Rest,
    records: Result<u64, StoreError>,
}

/// What is left to do then.
struct Rest {
    who: Credentials,
    peer: PeerNo,
    partial: PartialChange,
    carried: u64,
}

impl Begun {
    /// Waits until it is durable.
    pub async fn durable(self) -> Durable {
        Durable {
            records: self.answer.await,
            rest: self.rest,
        }
    }
}

impl Directory {
    /// Changes what a peer holds; how many whole records it has then. Durable when it returns, but
    /// for what is held in part, which is not meant to be.
    pub async fn announce(
        &self,
        who: &Credentials,
        announcement: Announcement,
    ) -> Result<u64, Error> {
        let begun = self.begin_announcement(who, announcement).await?;
        self.end_announcement(begun.durable().await)
    }

    /// The first step of it. What the peer announces afterwards takes effect after this.
    pub async fn begin_announcement(
        &self,
        who: &Credentials,
        announcement: Announcement,
    ) -> Result<Begun, Error> {
        let token = who.token_hash();
        let now = self.clock.now();
        let peer = self
            .leases
            .authorise(&who.peer, &token, now)
            .ok_or(Error::NoLease)?;
        let Announcement { whole, mut partial } = announcement;
        let carried = (whole.len() + partial.len()) as u64;
        // What is about partial records alone costs no commit.
        let known = if whole.is_nothing() && !partial.is_empty() {
            self.leases.records(peer)
        } else {
            None
        };
        partial.ended.extend(self.partials().obsolete(peer, &whole));
        let answer = match known {
            Some(records) => ready(Ok(records)).boxed(),
            None => self.store.begin_announce(peer, token, whole).await?,
        };
        let rest = Rest {
            who: who.clone(),
            peer,
            partial,
            carried,
        };
        Ok(Begun { rest, answer })
    }

    /// The last step of it: in the order of the first ones.
    pub fn end_announcement(&self, durable: Durable) -> Result<u64, Error> {
        let Durable { rest, records } = durable;
        let records = records?;
        let peer = rest.peer;
        self.leases.set_records(peer, records);
        if !rest.partial.is_empty() {
            let mut partials = self.partials_mut();
            // The lease may have ended since; then its partial records have ended, or are about
            // to when this lock is free.
            let (who, now) = (rest.who, self.clock.now());
            if self.leases.authorise(&who.peer, &who.token_hash(), now) != Some(peer) {
                return Err(Error::NoLease);
            }
            partials.change(peer, rest.partial);
        }
        self.metrics.announced_records.inc_by(rest.carried);
        Ok(records)
    }
}
