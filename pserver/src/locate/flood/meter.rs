//! [`Meter`]: what a link may send and be sent. It outlives the link: who links again, as the same
//! peer or from the same address, goes on where it stopped. Pure; time is an argument.
//!
//! Invariant: whatever links an origin makes and ends, it is heard at the rate of one link for
//! each that it has at a time, and makes at most [`LINKS_AT_ONCE`] and [`LINKS_A_MINUTE`].

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use vecino_rest::PeerId;

use super::{
    bucket::Bucket,
    limits::{LINKS_A_MINUTE, LINKS_AT_ONCE, Limits, MAX_ORIGINS},
    message::Subject,
};
use crate::locate::overlay;

/// By what somebody is known again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The peer that it says it is.
    Peer(PeerId),
    /// Where its connection comes from.
    Address(IpAddr),
}

impl Origin {
    /// Of a link with `peer`, whose call came from `address` (none: this peer called).
    pub fn of(peer: PeerId, address: Option<IpAddr>) -> Vec<Self> {
        let address = address.map(|address| Self::Address(overlay::origin(address)));
        std::iter::once(Self::Peer(peer)).chain(address).collect()
    }
}

#[derive(Debug, Clone)]
struct Rates {
    lookups: Bucket,
    pages: Bucket,
}

impl Rates {
    fn new(limits: &Limits, share: f64, now: Instant) -> Self {
        let bucket =
            |rate: f64, burst: f64| Bucket::new(rate * share, (burst * share).max(1.0), now);
        Self {
            lookups: bucket(limits.questions_a_second, limits.questions_at_once),
            pages: bucket(limits.pages_a_second, limits.pages_at_once),
        }
    }

    /// A page of everything is read from the catalogue and answered at length: it has a rate of
    /// its own.
    fn take(&mut self, subject: &Subject, now: Instant) -> bool {
        match subject {
            Subject::Name(_) | Subject::Digest(_) => self.lookups.take(now),
            Subject::Everything(_) => self.pages.take(now),
        }
    }

    fn lower_to(&mut self, other: &Self, now: Instant) {
        self.lookups.lower_to(&other.lookups, now);
        self.pages.lower_to(&other.pages, now);
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Meter {
    incoming: Rates,
    outgoing: Rates,
    /// Questions above its rate, and when the last of them came.
    dropped: u32,
    dropped_at: Instant,
}

/// Whether a question is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    Yes,
    /// It is above the rate.
    No,
    /// So were many before it.
    TooMany,
}

impl Meter {
    pub(super) fn new(limits: &Limits, now: Instant) -> Self {
        Self {
            incoming: Rates::new(limits, 1.0, now),
            outgoing: Rates::new(limits, limits.sent_share, now),
            dropped: 0,
            dropped_at: now,
        }
    }

    /// A question came.
    pub(super) fn hears(&mut self, subject: &Subject, limits: &Limits, now: Instant) -> Heard {
        if self.incoming.take(subject, now) {
            return Heard::Yes;
        }
        let paused = now.saturating_duration_since(self.dropped_at) > limits.seen_for;
        self.dropped = if paused { 1 } else { self.dropped + 1 };
        self.dropped_at = now;
        match self.dropped > limits.max_dropped {
            true => Heard::TooMany,
            false => Heard::No,
        }
    }

    /// Has used up no less than `other`.
    fn lower_to(&mut self, other: &Self, now: Instant) {
        self.incoming.lower_to(&other.incoming, now);
        self.outgoing.lower_to(&other.outgoing, now);
        self.dropped = self.dropped.max(other.dropped);
        self.dropped_at = self.dropped_at.max(other.dropped_at);
    }

    /// Whether a question may be sent.
    pub(super) fn may_send(&mut self, subject: &Subject, now: Instant) -> bool {
        self.outgoing.take(subject, now)
    }
}

/// Meters of links that are down.
#[derive(Debug, Default)]
pub(super) struct Resting(HashMap<Origin, (Instant, Meter)>);

impl Resting {
    /// A link of `origins` went down.
    pub(super) fn put(&mut self, origins: &[Origin], meter: &Meter, now: Instant, life: Duration) {
        if self.0.len() + origins.len() > MAX_ORIGINS {
            // After so long, it would be full again.
            self.0
                .retain(|_, (at, _)| now.saturating_duration_since(*at) < life);
        }
        for origin in origins {
            if self.0.len() >= MAX_ORIGINS {
                let oldest = self.0.iter().min_by_key(|(_, (at, _))| *at);
                if let Some(oldest) = oldest.map(|(origin, _)| *origin) {
                    self.0.remove(&oldest);
                }
            }
            // Of several links, that which used up most is remembered.
            let (at, rested) = self
                .0
                .entry(*origin)
                .or_insert_with(|| (now, meter.clone()));
            *at = now;
            rested.lower_to(meter, now);
        }
    }

    /// The meter of a new link of `origins`. What was dropped is the peer's own: others may be at
    /// its address.
    pub(super) fn take(&mut self, origins: &[Origin], limits: &Limits, now: Instant) -> Meter {
        let mut meter = Meter::new(limits, now);
        for origin in origins {
            // It stays, for a second link that comes while the first is up.
            let Some((_, rested)) = self.0.get(origin) else {
                continue;
            };
            let (dropped, dropped_at) = (meter.dropped, meter.dropped_at);
            meter.lower_to(rested, now);
            if matches!(origin, Origin::Address(_)) {
                (meter.dropped, meter.dropped_at) = (dropped, dropped_at);
            }
        }
        meter
    }
}

/// Links that others make, counted for each origin.
#[derive(Debug, Default)]
pub(super) struct Arrivals(HashMap<Origin, Bucket>);

impl Arrivals {
    /// Whether one more link may be made; counts it.
    pub(super) fn take(&mut self, origins: &[Origin], now: Instant) -> bool {
        if self.0.len() + origins.len() > MAX_ORIGINS {
            self.0.retain(|_, bucket| !bucket.is_full(now));
        }
        // So many strangers in so short a time are no crowd of peers.
        if self.0.len() + origins.len() > MAX_ORIGINS {
            return false;
        }
        let mut may = true;
        for origin in origins {
            let full = || Bucket::new(LINKS_A_MINUTE / 60.0, LINKS_AT_ONCE, now);
            may &= self.0.entry(*origin).or_insert_with(full).take(now);
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(meter: &mut Meter, subject: &Subject, limits: &Limits, now: Instant) -> usize {
        let all = (0..5000).map(|_| meter.hears(subject, limits, now));
        all.filter(|heard| *heard == Heard::Yes).count()
    }

    #[test]
    fn who_links_again_goes_on_where_it_stopped() {
        let (limits, now) = (Limits::default(), Instant::now());
        let peer = |n| PeerId::from_bytes([n; 16]);
        let address = |n| Some(IpAddr::from([10, 0, 0, n]));
        let subject = Subject::Name("a".parse().expect("a name"));
        let mut resting = Resting::default();
        let first = Origin::of(peer(1), address(1));
        let mut meter = resting.take(&first, &limits, now);
        let burst = limits.questions_at_once as usize;
        assert_eq!(heard(&mut meter, &subject, &limits, now), burst);
        resting.put(&first, &meter, now, limits.seen_for);
        // The same peer elsewhere, then another one at the same address.
        for origins in [
            Origin::of(peer(1), address(2)),
            Origin::of(peer(2), address(1)),
            Origin::of(peer(2), None),
        ] {
            let mut meter = resting.take(&origins, &limits, now);
            assert_eq!(heard(&mut meter, &subject, &limits, now), 0, "{origins:?}");
            resting.put(&origins, &meter, now, limits.seen_for);
        }
        // Two at a time are no better, and the one that was quiet does not make up for the other.
        let mut quiet = resting.take(&Origin::of(peer(3), address(1)), &limits, now);
        let other = resting.take(&Origin::of(peer(4), address(1)), &limits, now);
        let origins = Origin::of(peer(4), address(1));
        resting.put(&origins, &other, now, limits.seen_for);
        resting.put(&origins, &Meter::new(&limits, now), now, limits.seen_for);
        assert_eq!(heard(&mut quiet, &subject, &limits, now), 0);
        let mut again = resting.take(&origins, &limits, now);
        assert_eq!(heard(&mut again, &subject, &limits, now), 0);
        let mut stranger = resting.take(&Origin::of(peer(9), address(9)), &limits, now);
        assert_eq!(heard(&mut stranger, &subject, &limits, now), burst);
    }

    #[test]
    fn pages_have_a_rate_of_their_own() {
        let (limits, now) = (Limits::default(), Instant::now());
        let mut meter = Meter::new(&limits, now);
        let pages = heard(&mut meter, &Subject::Everything(0), &limits, now);
        assert_eq!(pages, limits.pages_at_once as usize);
        let later = now + Duration::from_secs(3);
        let pages = heard(&mut meter, &Subject::Everything(0), &limits, later);
        assert_eq!(pages, 3 * limits.pages_a_second as usize);
        let name = Subject::Name("a".parse().expect("a name"));
        assert_ne!(meter.hears(&name, &limits, later), Heard::No);
    }

    #[test]
    fn links_are_made_at_a_bounded_rate_and_what_is_remembered_is_bounded() {
        let now = Instant::now();
        let mut arrivals = Arrivals::default();
        let limits = Limits::default();
        let mut resting = Resting::default();
        let from = |n: u32| {
            let peer = PeerId::from_bytes(u128::from(n).to_be_bytes());
            Origin::of(peer, Some(IpAddr::from([10, 0, 0, 1])))
        };
        let made = (0..1000).filter(|n| arrivals.take(&from(*n), now)).count();
        assert_eq!(made, LINKS_AT_ONCE as usize);
        assert!(!arrivals.take(&from(0), now + Duration::from_secs(1)));
        assert!(arrivals.take(&from(5000), now + Duration::from_secs(60)));
        for n in 0..2 * MAX_ORIGINS as u32 {
            let meter = Meter::new(&limits, now);
            resting.put(&from(n), &meter, now, limits.seen_for);
            arrivals.take(&from(n), now);
        }
        assert!(resting.0.len() <= MAX_ORIGINS && arrivals.0.len() <= MAX_ORIGINS);
    }
}
