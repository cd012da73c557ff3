//! The links of this peer: which there are, which are up, when to try the others again. Does no
//! I/O; time is an argument.
//!
//! Invariants: at most [`MAX_LINKS`] links, one a peer, at most [`MAX_ACCEPTED`] of them made by
//! others; of two streams with the same peer both sides keep the same one, that of the smaller
//! id (both may call each other at once).

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use vecino_rest::{
    PeerId, PeerUrl,
    body::{LinkKind, LinkState, Peer},
};

use super::{
    core::LinkId,
    limits::{BARRED_FOR, GIVES_WAY_AFTER, MAX_ACCEPTED, MAX_ELSEWHERE, MAX_ENDED, MAX_LINKS},
    queue::Queue,
    wire::Token,
};
use crate::locate::overlay::Contact;

/// What is kept of a link over restarts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) contact: Contact,
    pub(super) token: Token,
    /// Whether this peer made it.
    pub(super) ours: bool,
}

/// A stream with the peer at the other end. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: LinkId,
    /// Who called.
    pub(super) caller: PeerId,
    pub(super) frames: Queue,
    /// Ends the reader when it is dropped.
    pub(super) _open: oneshot::Sender<()>,
}

/// A link, up or down.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) kept: Kept,
    pub(super) stream: Option<Stream>,
    latency: Option<Duration>,
    error: Option<String>,
    down_since: Instant,
    failures: u32,
    dial_at: Instant,
    /// It was cut for what it sent, and does not come back before.
    barred_until: Option<Instant>,
}

/// A link that was ended on purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) peer: PeerId,
    pub(super) overlay: PeerUrl,
}

/// What becomes of a stream that came about.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Installed {
    /// It is the link now; this other stream, if any, is not any more.
    Instead(Option<LinkId>),
    /// There is a better one.
    Superfluous,
    /// There are as many as there may be.
    Full,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Table {
    links: BTreeMap<PeerId, Link>,
    ended: VecDeque<Ended>,
}

impl Table {
    /// What was kept, all of it down and to be tried at once.
    pub(super) fn new(kept: Vec<Kept>, ended: Vec<Ended>, now: Instant) -> Self {
        let link = |kept: Kept| (kept.contact.peer, Link::new(kept, now));
        Self {
            links: kept.into_iter().take(MAX_LINKS).map(link).collect(),
            ended: ended.into_iter().take(MAX_ENDED).collect(),
        }
    }

    pub(super) fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.values()
    }

    pub(super) fn get(&self, peer: &PeerId) -> Option<&Link> {
        self.links.get(peer)
    }

    pub(super) fn ended(&self) -> impl Iterator<Item = &Ended> {
        self.ended.iter()
    }

    /// The stream of that id.
    pub(super) fn stream(&self, id: LinkId) -> Option<&Stream> {
        let mut streams = self.links.values().filter_map(|link| link.stream.as_ref());
        streams.find(|stream| stream.id == id)
    }

    /// The peer at the other end of that stream.
    pub(super) fn peer_of(&self, id: LinkId) -> Option<PeerId> {
        let mut links = self.links.iter();
        let has = |link: &Link| link.stream.as_ref().is_some_and(|stream| stream.id == id);
        links.find(|(_, link)| has(link)).map(|(peer, _)| *peer)
    }

    /// The peer that `text` names: its id, its overlay or its REST.
    pub(super) fn named(&self, text: &str) -> Option<PeerId> {
        if let Ok(peer) = text.parse() {
            return self.links.contains_key(&peer).then_some(peer);
        }
        let url = PeerUrl::parse_endpoint(text, None).ok()?;
        self.links
            .values()
            .map(|link| &link.kept.contact)
            .find(|contact| contact.overlay == url || contact.url == url)
            .map(|contact| contact.peer)
    }

    /// Whether there is a link to `overlay`, or was one that was ended on purpose.
    pub(super) fn knows(&self, overlay: &PeerUrl) -> bool {
        let linked = |link: &Link| link.kept.contact.overlay == *overlay;
        self.links.values().any(linked) || self.was_ended(overlay)
    }

    pub(super) fn was_ended(&self, overlay: &PeerUrl) -> bool {
        self.ended.iter().any(|ended| ended.overlay == *overlay)
    }

    /// Whether `caller`, who wants a new link, may have one.
    pub(super) fn has_room_for(&self, caller: &PeerId, now: Instant) -> bool {
        let full = self.links.len() >= MAX_LINKS || self.accepted() >= MAX_ACCEPTED;
        !full || self.links.contains_key(caller) || self.giving_way(now).is_some()
    }

    /// Links that others asked for.
    fn accepted(&self) -> usize {
        self.links.values().filter(|link| !link.kept.ours).count()
    }

    fn giving_way(&self, now: Instant) -> Option<PeerId> {
        self.links
            .iter()
            .filter(|(_, link)| link.stream.is_none() && !link.kept.ours)
            .filter(|(_, link)| now.saturating_duration_since(link.down_since) >= GIVES_WAY_AFTER)
            .min_by_key(|(_, link)| link.down_since)
            .map(|(peer, _)| *peer)
    }

    /// Puts a stream that came about in its place.
    pub(super) fn install(&mut self, mut kept: Kept, stream: Stream, now: Instant) -> Installed {
        let peer = kept.contact.peer;
        if let Some(link) = self.links.get(&peer) {
            let better = match &link.stream {
                None => true,
                // The same side called again: what it had is broken, or it would not.
                Some(there) => stream.caller <= there.caller,
            };
            if !better {
                return Installed::Superfluous;
            }
            kept.ours |= link.kept.ours;
        } else if self.links.len() >= MAX_LINKS || !kept.ours && self.accepted() >= MAX_ACCEPTED {
            let Some(other) = self.giving_way(now) else {
                return Installed::Full;
            };
            self.links.remove(&other);
        }
        self.ended
            .retain(|ended| ended.peer != peer && ended.overlay != kept.contact.overlay);
        let link = Link {
            stream: Some(stream),
            ..Link::new(kept, now)
        };
        let before = self.links.insert(peer, link);
        Installed::Instead(before.and_then(|link| link.stream).map(|stream| stream.id))
    }

    /// The stream ended. `None` when the link has another by now.
    pub(super) fn down(
        &mut self,
        id: LinkId,
        why: String,
        now: Instant,
        redial: (Duration, Duration),
    ) -> Option<PeerId> {
        let (peer, link) = self
            .links
            .iter_mut()
            .find(|(_, link)| link.stream.as_ref().is_some_and(|stream| stream.id == id))?;
        link.stream = None;
        link.down_since = now;
        link.failed(why, now, redial);
        Some(*peer)
    }

    /// The link is not to come back for a while.
    pub(super) fn bar(&mut self, peer: &PeerId, now: Instant) {
        if let Some(link) = self.links.get_mut(peer) {
            link.barred_until = Some(now + BARRED_FOR);
            link.dial_at = now + BARRED_FOR;
        }
    }

    /// Calling the peer failed.
    pub(super) fn failed(
        &mut self,
        peer: &PeerId,
        why: String,
        now: Instant,
        redial: (Duration, Duration),
    ) {
        if let Some(link) = self.links.get_mut(peer)
            && link.stream.is_none()
        {
            link.failed(why, now, redial);
        }
    }

    /// Ends a link for good; with `on_purpose`, no seed brings it back. The other side's purpose
    /// counts for links only that we asked for: a stranger could name any seed as its own address.
    pub(super) fn forget(&mut self, peer: &PeerId, on_purpose: bool, by_us: bool) -> Option<Link> {
        let link = self.links.remove(peer)?;
        if on_purpose && (by_us || link.kept.ours) {
            if self.ended.len() >= MAX_ENDED {
                self.ended.pop_front();
            }
            self.ended.push_back(Ended {
                peer: *peer,
                overlay: link.kept.contact.overlay.clone(),
            });
        }
        Some(link)
    }

    /// It may be made again.
    pub(super) fn pardon(&mut self, overlay: &PeerUrl) {
        self.ended.retain(|ended| ended.overlay != *overlay);
    }

    /// All links that are down are to be tried now.
    pub(super) fn hurry(&mut self, now: Instant) {
        for link in self.links.values_mut() {
            link.dial_at = link.barred_until.map_or(now, |until| until.max(now));
        }
    }

    /// The links to call now; each is due again only after `busy`.
    pub(super) fn due(&mut self, now: Instant, busy: Duration) -> Vec<Kept> {
        let due = self
            .links
            .values_mut()
            .filter(|link| link.stream.is_none() && link.dial_at <= now);
        due.map(|link| {
            link.dial_at = now + busy;
            link.kept.clone()
        })
        .collect()
    }

    /// When the next link is to be called.
    pub(super) fn next_dial(&self) -> Option<Instant> {
        let down = self.links.values().filter(|link| link.stream.is_none());
        down.map(|link| link.dial_at).min()
    }

    /// The peer answered a ping.
    pub(super) fn answered(&mut self, id: LinkId, latency: Duration) {
        let mut links = self.links.values_mut();
        let link = links.find(|link| link.stream.as_ref().is_some_and(|stream| stream.id == id));
        if let Some(link) = link {
            link.latency = Some(latency);
        }
    }

    /// Where else a peer may ask for links: those that are up, but not itself.
    pub(super) fn elsewhere(&self, caller: &PeerId) -> Vec<PeerUrl> {
        self.links
            .iter()
            .filter(|(peer, link)| *peer != caller && link.stream.is_some())
            .map(|(_, link)| link.kept.contact.overlay.clone())
            .take(MAX_ELSEWHERE)
            .collect()
    }

    /// Ends every stream.
    pub(super) fn close(&mut self) {
        for link in self.links.values_mut() {
            link.stream = None;
        }
    }
}

impl Link {
    fn new(kept: Kept, now: Instant) -> Self {
        Self {
            kept,
            stream: None,
            latency: None,
            error: None,
            down_since: now,
            failures: 0,
            dial_at: now,
            barred_until: None,
        }
    }

    /// Whether it was cut for what it sent, not long ago.
    pub(super) fn is_barred(&self, now: Instant) -> bool {
        self.barred_until.is_some_and(|until| now < until)
    }

    fn failed(&mut self, why: String, now: Instant, (first, longest): (Duration, Duration)) {
        let wait = first * 2_u32.saturating_pow(self.failures.min(16));
        self.failures += 1;
        self.error = Some(why);
        self.latency = None;
        let at = now + wait.min(longest);
        self.dial_at = self.barred_until.map_or(at, |until| until.max(at));
    }

    /// As REST shows it.
    pub(super) fn to_body(&self) -> Peer {
        let state = match (&self.stream, &self.error) {
            (Some(_), _) => LinkState::Up,
            (None, Some(_)) => LinkState::Down,
            (None, None) => LinkState::Unknown,
        };
        Peer {
            url: self.kept.contact.overlay.to_string(),
            kind: LinkKind::Flood,
            peer: Some(self.kept.contact.peer),
            state,
            latency_ms: self.latency.map(|latency| latency.as_secs_f64() * 1000.0),
            error: self.error.clone().filter(|_| self.stream.is_none()),
        }
    }
}
