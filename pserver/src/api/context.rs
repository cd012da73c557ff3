//! What handlers work with: one [`Shared`] a peer, one [`Worker`] a worker thread.

use std::{sync::Arc, time::Instant};

use vecino_rest::PeerId;

use super::access::Policy;
use crate::{
    content::Store,
    copies::Copier,
    doctor::Doctor,
    download::{Downloads, fetch::Fetcher},
    events::Events,
    limit::Limiter,
    locate::{
        Strategy,
        central::{account::Account, presence::Presence},
        flood::Flood,
    },
    metrics::Metrics,
    neighbour::{checkup::Checkup, inbound::Inbound, probe::Probes, searched::Searched},
    upload::{Slots, congestion::Congestion},
};

/// What all workers share.
#[derive(Debug)]
pub struct Shared {
    /// This peer.
    pub peer: PeerId,
    /// Its place.
    pub site: Option<String>,
    /// Strategies, in order of trial.
    pub strategies: Vec<Arc<dyn Strategy>>,
    /// Whether there are locators to be found through.
    pub has_locator: bool,
    /// What it holds.
    pub store: Arc<Store>,
    /// Whether and where others find it.
    pub presence: Arc<Presence>,
    /// As whom it is logged in.
    pub account: Arc<Account>,
    /// Looks up for others.
    pub inbound: Inbound,
    /// Connects to peers that ask whether they can be reached.
    pub probes: Probes,
    /// What the neighbours say of this peer.
    pub checkup: Arc<Checkup>,
    /// Finds what is wrong.
    pub doctor: Doctor,
    /// What it fetches.
    pub downloads: Arc<Downloads>,
    /// How much it sends to other peers at once.
    pub slots: Arc<Slots>,
    /// Whom searches named as providers lately.
    pub searched: Arc<Searched>,
    /// What happens in it.
    pub events: Arc<Events>,
    /// What it counts.
    pub metrics: Arc<Metrics>,
    /// How fast content is sent to peers and clients.
    pub upload_limit: Arc<Limiter>,
    /// What connections go by while several peers are sent to.
    pub congestion: Congestion,
    /// How fast content is received from peers.
    pub download_limit: Arc<Limiter>,
    /// Who may do what.
    pub policy: Policy,
    /// When it started.
    pub started: Instant,
}

impl Shared {
    /// How other peers reach this one, once known.
    pub fn own_url(&self) -> Option<String> {
        self.presence.url().map(|url| url.to_string())
    }

    /// Whether this peer is a member of an overlay now.
    pub fn in_overlay(&self) -> bool {
        self.strategies
            .iter()
            .filter_map(|strategy| strategy.view())
            .any(|view| view.is_joined())
    }

    /// The flood overlay, when this peer is part of it.
    pub fn flood(&self) -> Option<&Flood> {
        self.strategies
            .iter()
            .find_map(|strategy| strategy.as_flood())
    }
}

/// What belongs to one worker thread: its connections.
pub struct Worker {
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// Asks the neighbours, fetches from providers.
    pub fetcher: Fetcher,
    /// Places copies on other peers.
    pub copier: Copier,
}
