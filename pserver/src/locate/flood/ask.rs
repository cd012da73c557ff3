//! An own question: its rings, and when it has enough. Pure, as all of the protocol.

use std::time::Duration;

use vecino_rest::PeerId;

use super::{
    core::patience,
    limits::{BUSY_TRIES, Limits, MAX_BUDGET, MAX_HOPS},
    message::{Held, Holder, Question, QuestionId, Subject},
};

/// What is to be asked.
#[derive(Debug, Clone)]
pub struct Asked {
    /// 128 random bits, never sent: the ids of the rings are made of them.
    pub random: u128,
    /// What for.
    pub subject: Subject,
    /// Depths to try, in this order, and how long each may take.
    pub rings: Vec<(u32, Duration)>,
    /// How long others may still answer after the first one did; `None`: to the end.
    pub gather: Option<Duration>,
    /// Only what this provider holds: a peer id, or a URL.
    pub provider: Option<String>,
}

impl Asked {
    /// A lookup: ring after ring, until somebody has it.
    pub fn lookup(
        subject: Subject,
        provider: Option<String>,
        limits: &Limits,
        random: u128,
    ) -> Self {
        let ring = |hops: &u32| (*hops, patience(limits.hop_wait, *hops));
        Self {
            random,
            subject,
            rings: limits.rings.iter().map(ring).collect(),
            gather: Some(limits.gather),
            provider,
        }
    }

    /// One page of a discovery: one ring, to its end.
    pub fn discovery(page: u32, hops: u32, wait: Duration, random: u128) -> Self {
        Self {
            random,
            subject: Subject::Everything(page),
            rings: vec![(hops, wait)],
            gather: None,
            provider: None,
        }
    }
}

/// What an own question does next.
#[derive(Debug)]
pub(super) enum Next {
    /// Ask this.
    Ring(Question),
    /// It is over.
    End,
}

/// An own question under way.
#[derive(Debug)]
pub(super) struct Ask {
    asked: Asked,
    next: usize,
    found: bool,
    /// How often it may still wait for links that are busy.
    patience: u32,
    /// Peers that it visited.
    pub(super) visited: u32,
}

impl Ask {
    pub(super) fn new(asked: Asked) -> Self {
        Self {
            asked,
            next: 0,
            found: false,
            patience: BUSY_TRIES,
            visited: 0,
        }
    }

    /// The ring that was tried is to be tried again; whether it may be.
    pub(super) fn again(&mut self) -> bool {
        let may = self.patience > 0;
        if may {
            self.patience -= 1;
            self.next -= 1;
        }
        may
    }

    pub(super) fn gather(&self) -> Option<Duration> {
        self.asked.gather
    }

    /// What of `held` was asked for.
    pub(super) fn take_up(&mut self, held: Held) -> Option<Held> {
        let wanted = match &self.asked.provider {
            None => true,
            Some(wanted) => is(&held.holder, wanted),
        };
        self.found |= wanted;
        wanted.then_some(held)
    }

    /// The next ring, unless something was found.
    pub(super) fn next(&mut self) -> Next {
        if self.found {
            return Next::End;
        }
        let Some(&(hops, patience)) = self.asked.rings.get(self.next) else {
            return Next::End;
        };
        self.next += 1;
        Next::Ring(Question {
            id: ring_id(self.asked.random, self.next),
            hops: hops.clamp(1, MAX_HOPS),
            budget: MAX_BUDGET,
            patience,
            subject: self.asked.subject.clone(),
        })
    }
}

/// Whether `holder` is who `wanted` names.
pub(super) fn is(holder: &Holder, wanted: &str) -> bool {
    match wanted.parse::<PeerId>() {
        Ok(peer) => holder.peer == peer,
        Err(_) => holder.url.to_string() == wanted.trim_end_matches('/'),
    }
}

/// Another id for each ring, or those who saw the one before would not look again.
fn ring_id(random: u128, ring: usize) -> QuestionId {
    let mut id = [0; 16];
    blake3::Hasher::new_derive_key("vecino 2026 flood question id")
        .update(&random.to_be_bytes())
        .update(&(ring as u64).to_be_bytes())
        .finalize_xof()
        .fill(&mut id);
    QuestionId(id)
}
