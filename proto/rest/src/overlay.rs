//! `GET /v1/overlay`: what a peer knows of the overlays that it is part of.

use serde::{Deserialize, Serialize};

use crate::{
    PeerId,
    body::{LinkState, Peer},
};

/// `GET /v1/overlay`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Overlays {
    /// One for each overlay strategy of the peer, in order of trial.
    pub overlays: Vec<OverlayView>,
}

/// One overlay, seen from one of its peers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "strategy", rename_all = "lowercase")]
pub enum OverlayView {
    /// A ring.
    Chord(ChordView),
    /// Zones.
    Zone(ZoneView),
    /// Links.
    Flood(FloodView),
}

impl OverlayView {
    /// Whether other peers can find through it what this peer shares.
    pub fn is_joined(&self) -> bool {
        match self {
            Self::Chord(ring) => ring.joined,
            Self::Zone(zone) => zone.slot.is_some(),
            Self::Flood(flood) => flood.links.iter().any(|link| link.state == LinkState::Up),
        }
    }
}

/// A member of the ring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingNode {
    /// Its identifier on the ring, 40 hex digits.
    pub id: String,
    /// Which peer it is.
    pub peer: PeerId,
    /// Its REST URL.
    pub url: String,
}

/// An entry of the finger table: who is responsible for `start`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finger {
    /// First identifier of the interval, 40 hex digits.
    pub start: String,
    /// First identifier after the interval, 40 hex digits.
    pub end: String,
    /// Who, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<RingNode>,
}

/// The ring, seen from one member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChordView {
    /// This member.
    pub me: RingNode,
    /// Whether it is a member yet.
    pub joined: bool,
    /// The member before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predecessor: Option<RingNode>,
    /// Those after it, the next one first.
    pub successors: Vec<RingNode>,
    /// Equal neighbouring entries are listed as one, from the first start to the last end.
    pub fingers: Vec<Finger>,
    /// Provider records that it keeps for others.
    pub records: u64,
}

/// A peer of the same zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneMember {
    /// Its slot.
    pub slot: u32,
    /// Which peer.
    pub peer: PeerId,
    /// Its REST URL.
    pub url: String,
}

/// The zones, seen from one peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneView {
    /// Its slot; absent while it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u32>,
    /// Its zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<u32>,
    /// Slots of the network.
    pub slots: u32,
    /// Zones of the network.
    pub zones: u32,
    /// The members of its zone, itself among them, by slot.
    pub members: Vec<ZoneMember>,
    /// Records that it keeps because their names hash to its slot.
    pub proper_records: u64,
    /// Records that it keeps though their names hash to other slots: those of nobody's slots, and
    /// second copies.
    pub shared_records: u64,
}

/// The links of one peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FloodView {
    /// Where other peers connect to, `http://host:OVERLAY_PORT`.
    pub overlay: String,
    /// Its links.
    pub links: Vec<Peer>,
    /// How many it may have.
    pub max_links: u64,
    /// How deep a question may go.
    pub hops: u32,
    /// How many peers a question may visit.
    pub budget: u32,
    /// Questions that it remembers to have seen.
    pub seen: u64,
    /// Files of others that discoveries found and that are remembered, counted once for each peer
    /// that holds them.
    pub discovered: u64,
}

/// `POST /v1/peers`: 201 with the [`Peer`] that is linked then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectRequest {
    /// The other peer's overlay, `[http://]host:OVERLAY_PORT`.
    pub url: String,
}

/// `POST /v1/discover`. Both may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscoverRequest {
    /// How many links deep to ask, 1 to 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u32>,
    /// How long to wait at most, in milliseconds, up to 60,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
}

/// The media type of the answer of `POST /v1/discover`: one [`DiscoverEvent`] a line, as it
/// happens. What was found is listed by `GET /v1/discover?prefix=&limit=&cursor=`, a page of
/// variants with their providers.
pub const DISCOVER_MEDIA_TYPE: &str = "application/x-ndjson";

/// A line of the answer of `POST /v1/discover`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum DiscoverEvent {
    /// A peer answered, or answered more. A slow reader may miss some.
    Peer {
        /// Which.
        peer: PeerId,
        /// Its REST URL.
        url: String,
        /// Its place.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        site: Option<String>,
        /// Its files found by this discovery so far.
        files: u64,
        /// Since the discovery began.
        elapsed_ms: u64,
    },
    /// The last line; an answer without it broke off.
    End {
        /// Peers that hold something.
        peers: u64,
        /// Files found, counted once for each peer that holds them.
        files: u64,
        /// Peers that were asked.
        visited: u64,
        /// Whether everybody answered and nobody has more.
        complete: bool,
        /// Since the discovery began.
        elapsed_ms: u64,
    },
}
