//! What tells whether a peer is set up right: `GET /readyz`, `GET /v1/doctor`, and what a peer asks
//! of its neighbour, `POST /v1/neighbour/reach`.
//!
//! A neighbour answers in words of this contract, never in sentences: what a client reads is
//! written by its own peer.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::{PeerId, body::LinkState};

/// `GET /readyz`, of peers and locators: 200 when every part is ready, else 503.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// Whether all parts are.
    pub ready: bool,
    /// Each part, and whether it is ready.
    pub parts: BTreeMap<String, bool>,
    /// Why those are not that are not.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reasons: BTreeMap<String, String>,
}

impl Readiness {
    /// Of parts that are ready, or say why they are not.
    pub fn of(parts: impl IntoIterator<Item = (&'static str, Result<(), String>)>) -> Self {
        let (mut all, mut reasons) = (BTreeMap::new(), BTreeMap::new());
        for (part, state) in parts {
            all.insert(part.to_owned(), state.is_ok());
            if let Err(reason) = state {
                reasons.insert(part.to_owned(), reason);
            }
        }
        Self {
            ready: reasons.is_empty(),
            parts: all,
            reasons,
        }
    }
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckState {
    /// As it should be.
    Ok,
    /// It works, and somebody should look at it.
    Warn,
    /// It does not work.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What: one word.
    pub check: String,
    /// How it ended.
    pub state: CheckState,
    /// What was seen.
    pub detail: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl Check {
    /// `what` is as it should be.
    pub fn ok(what: &str, detail: impl Into<String>) -> Self {
        Self {
            check: what.to_owned(),
            state: CheckState::Ok,
            detail: detail.into(),
            next: None,
        }
    }

    /// `what` works, but `next` is to be done.
    pub fn warn(what: &str, detail: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            state: CheckState::Warn,
            next: Some(next.into()),
            ..Self::ok(what, detail)
        }
    }

    /// `what` does not work until `next` is done.
    pub fn fail(what: &str, detail: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            state: CheckState::Fail,
            ..Self::warn(what, detail, next)
        }
    }
}

/// `GET /v1/doctor`: what the own peer finds of itself and of those whom it needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// In the order in which to mend things.
    pub checks: Vec<Check>,
}

/// `POST /v1/neighbour/reach`: can you connect to me? The neighbour tries `url` only when that is
/// the address that the question came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReachQuery {
    /// Who asks; whoever answers at `url` must say that it is this peer.
    pub peer: PeerId,
    /// Where others are told to find it, `http[s]://host:port`; absent as long as it does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// The answer of `POST /v1/neighbour/reach`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// Version of the neighbour's program.
    pub version: String,
    /// The address that the question came from.
    pub seen: IpAddr,
    /// What came of connecting.
    pub outcome: Reach,
}

/// What came of connecting to a peer that asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    /// It is there, and says that it is the peer.
    Reached,
    /// Connection refused.
    Refused,
    /// No connection, or no answer, in time.
    TimedOut,
    /// There is no way to the address.
    NoRoute,
    /// Something answers that is no peer.
    NotAPeer,
    /// Another peer answers.
    AnotherPeer,
    /// The URL is not the address that the question came from: it was not tried.
    Elsewhere,
    /// Whoever asks is the neighbour itself.
    Yourself,
    /// It failed in another way, or one that this version does not know.
    #[serde(other)]
    Failed,
}

/// In `GET /v1/status`: whether others can connect to this peer, as a neighbour found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reachability {
    /// `unknown`: the neighbour could not try.
    pub state: LinkState,
    /// Where others are told to find it.
    pub url: String,
    /// Which neighbour tried.
    pub neighbour: String,
    /// What is wrong, and what to do; absent when it was reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_ready_says_why() {
        let ready = Readiness::of([("files", Ok(())), ("online", Ok(()))]);
        let text = serde_json::to_string(&ready).expect("plain data");
        assert_eq!(
            text,
            r#"{"ready":true,"parts":{"files":true,"online":true}}"#
        );
        let why = Err("the disk is full".to_owned());
        let unready = Readiness::of([("files", Ok(())), ("store", why)]);
        let text = serde_json::to_string(&unready).expect("plain data");
        assert_eq!(
            text,
            r#"{"ready":false,"parts":{"files":true,"store":false},"reasons":{"store":"the disk is full"}}"#
        );
    }

    #[test]
    fn an_outcome_of_a_later_version_is_a_failure() {
        let read = |text: &str| serde_json::from_str::<Reach>(text).expect("read");
        assert_eq!(read(r#""timed-out""#), Reach::TimedOut);
        assert_eq!(read(r#""eaten-by-a-grue""#), Reach::Failed);
    }
}
