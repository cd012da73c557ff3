//! The links to our neighbours: how each does, and in which order to try them.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use vecino_rest::{
    PeerUrl,
    body::{LinkKind, LinkState, Peer},
    event,
};

use super::outbound::NO_PEER;
use crate::events::Events;

/// A neighbour that failed is tried last for so long.
const TRIED_LAST_FOR: Duration = Duration::from_secs(3);
/// What a neighbour did not know of our contract, or all of it, is tried again after so long.
const FIRST_SYSTEM_FOR: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct State {
    /// When it was tried last, and how that ended.
    last: Option<(Instant, Result<Duration, String>)>,
    first_system_until: Option<Instant>,
    one_at_a_time_until: Option<Instant>,
}

/// A link to a neighbour.
#[derive(Debug)]
pub struct Link {
    url: String,
    state: Mutex<State>,
    events: Arc<Events>,
}

impl Link {
    fn new(url: &PeerUrl, events: Arc<Events>) -> Self {
        Self {
            url: url.to_string(),
            state: Mutex::default(),
            events,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `http://host:port`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// It answered after `latency`.
    pub fn answered(&self, now: Instant, latency: Duration) {
        let mut state = self.state();
        if matches!(state.last, Some((_, Err(_)))) {
            log::info!("neighbour {} answers again", self.url);
        }
        let is_news = !matches!(state.last, Some((_, Ok(_))));
        state.last = Some((now, Ok(latency)));
        drop(state);
        self.tell_if(is_news);
    }

    /// It did not answer.
    pub fn failed(&self, now: Instant, why: String) {
        let mut state = self.state();
        let is_news = !matches!(state.last, Some((_, Err(_))));
        if is_news {
            log::warn!(
                "neighbour {}: {why}; is a peer running there, and its port open? URL_PEERSU names it",
                self.url
            );
        }
        state.last = Some((now, Err(why)));
        drop(state);
        self.tell_if(is_news);
    }

    fn tell_if(&self, is_news: bool) {
        if is_news {
            self.events.publish(event::NEIGHBOUR, None, &self.to_body());
        }
    }

    /// It speaks only the first system's contract.
    pub fn speaks_first_system(&self, now: Instant) {
        self.state().first_system_until = Some(now + FIRST_SYSTEM_FOR);
    }

    /// Whether it is known to speak only the first system's contract.
    pub fn is_first_system(&self, now: Instant) -> bool {
        self.state()
            .first_system_until
            .is_some_and(|until| now < until)
    }

    /// It takes no two lookups in one request.
    pub fn takes_one_at_a_time(&self, now: Instant) {
        self.state().one_at_a_time_until = Some(now + FIRST_SYSTEM_FOR);
    }

    /// Whether it is known to take no two lookups in one request.
    pub fn is_one_at_a_time(&self, now: Instant) -> bool {
        self.state()
            .one_at_a_time_until
            .is_some_and(|until| now < until)
    }

    /// Whether what answered last was no peer.
    pub fn is_no_peer(&self) -> bool {
        matches!(&self.state().last, Some((_, Err(why))) if why == NO_PEER)
    }

    /// How long ago it was tried.
    pub fn tried_before(&self, now: Instant) -> Option<Duration> {
        self.state()
            .last
            .as_ref()
            .map(|(at, _)| now.saturating_duration_since(*at))
    }

    fn failed_lately(&self, now: Instant) -> bool {
        matches!(&self.state().last,
            Some((at, Err(_))) if now.saturating_duration_since(*at) < TRIED_LAST_FOR)
    }

    /// As REST shows it.
    pub fn to_body(&self) -> Peer {
        let (state, latency_ms, error) = match &self.state().last {
            None => (LinkState::Unknown, None, None),
            Some((_, Ok(latency))) => (LinkState::Up, Some(latency.as_secs_f64() * 1000.0), None),
            Some((_, Err(why))) => (LinkState::Down, None, Some(why.clone())),
        };
        Peer {
            url: self.url.clone(),
            kind: LinkKind::Neighbour,
            peer: None,
            state,
            latency_ms,
            error,
        }
    }
}

/// All links, in the order that the operator gave.
#[derive(Debug)]
pub struct Links(Vec<Link>);

impl Links {
    /// Links to `neighbours`, none tried yet; how they change is told as `events`.
    pub fn new(neighbours: &[PeerUrl], events: &Arc<Events>) -> Self {
        let link = |url| Link::new(url, events.clone());
        Self(neighbours.iter().map(link).collect())
    }

    /// In the operator's order.
    pub fn iter(&self) -> impl Iterator<Item = &Link> {
        self.0.iter()
    }

    /// In order of trial: the operator's, those that failed a moment ago last.
    pub fn in_order_of_trial(&self, now: Instant) -> Vec<&Link> {
        let (last, mut first): (Vec<_>, Vec<_>) =
            self.0.iter().partition(|link| link.failed_lately(now));
        first.extend(last);
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_neighbour_is_tried_last_for_a_while() {
        let endpoints: Vec<_> = ["a:1", "b:1", "c:1"]
            .iter()
            .filter_map(|text| PeerUrl::parse_endpoint(text, None).ok())
            .collect();
        let links = Links::new(&endpoints, &Arc::default());
        let order = |now| -> Vec<String> {
            links
                .in_order_of_trial(now)
                .iter()
                .map(|link| link.url().to_owned())
                .collect()
        };
        let now = Instant::now();
        assert_eq!(order(now), ["http://a:1", "http://b:1", "http://c:1"]);
        links.0[0].failed(now, "refused".to_owned());
        assert_eq!(order(now), ["http://b:1", "http://c:1", "http://a:1"]);
        assert_eq!(
            order(now + TRIED_LAST_FOR),
            ["http://a:1", "http://b:1", "http://c:1"]
        );
        links.0[0].answered(now, Duration::from_millis(2));
        assert_eq!(order(now)[0], "http://a:1");
        assert_eq!(links.0[0].to_body().latency_ms, Some(2.0));
    }
}
