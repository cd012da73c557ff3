//! What this peer knows of its own place among its neighbours: whether they are peers, tell the
//! same time, and can connect to it.
//!
//! Invariant: a trouble is logged when it begins and when it is over, not each time that it is
//! seen again. That a neighbour does not answer is its link's to say ([`super::link`]). The
//! sentences here are ours, made of a neighbour's words of the contract alone.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::sleep;
use vecino_rest::{
    PeerId, PeerUrl,
    body::LinkState,
    doctor::{Reach, ReachQuery, Reachability, Reached},
};

use super::{
    examine::{Examined, Found},
    outbound::Outbound,
};
use crate::locate::central::presence::Presence;

/// When neighbours are asked first: those that start together are up then ...
const FIRST_AFTER: Duration = Duration::from_secs(5);
/// ... and how often after that, at least: with a random part, lest all peers ask at once.
const ASKED_EVERY: Duration = Duration::from_secs(45);
/// How often is looked whether the URL of this peer changed meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// Seconds that two clocks may be apart.
pub const CLOCKS_APART: i64 = 60;

/// Something that is wrong, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What.
    pub what: String,
    /// What to do.
    pub next: String,
}

#[derive(Debug, Default)]
struct State {
    reach: Option<Reachability>,
    /// Troubles of neighbours that were logged and are not over.
    said: BTreeSet<(&'static str, String)>,
    is_run: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Checkup {
    peer: PeerId,
    presence: Arc<Presence>,
    state: Mutex<State>,
}

impl Checkup {
    /// For `peer`, which others find as `presence` says.
    pub fn new(peer: PeerId, presence: Arc<Presence>) -> Self {
        Self {
            peer,
            presence,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether others can connect to this peer where it is known to be now.
    pub fn reach(&self) -> Option<Reachability> {
        let url = self.presence.url()?.to_string();
        let reach = self.state().reach.clone();
        reach.filter(|reach| reach.url == url)
    }

    /// Asks the neighbours from time to time, over `outbound`. Of several callers one does it, and
    /// the others return at once.
    pub async fn run(self: Arc<Self>, outbound: Outbound) {
        if std::mem::replace(&mut self.state().is_run, true) {
            return;
        }
        sleep(FIRST_AFTER).await;
        loop {
            let url = self.presence.url();
            self.now(&outbound).await;
            let mut left = ASKED_EVERY.mul_f64(rand::random_range(1.0..1.5));
            while !left.is_zero() && self.presence.url() == url {
                sleep(LOOK_EVERY).await;
                left = left.saturating_sub(LOOK_EVERY);
            }
        }
    }

    /// Asks the neighbours now; what was found.
    pub async fn now(&self, outbound: &Outbound) -> Vec<Examined> {
        let url = self.presence.url();
        let query = ReachQuery {
            peer: self.peer,
            url: url.as_ref().map(ToString::to_string),
        };
        let found = outbound.examine(&query).await;
        self.take(&found, url.as_ref());
        found
    }

    fn take(&self, found: &[Examined], url: Option<&PeerUrl>) {
        let mut state = self.state();
        let mut seen = BTreeSet::new();
        for one in found {
            for (about, trouble) in [("itself", itself(one)), ("clock", clock(one))] {
                let Some(Trouble { what, next }) = trouble else {
                    continue;
                };
                let key = (about, one.url.clone());
                if !state.said.contains(&key) {
                    log::warn!("{what}; {next}");
                }
                seen.insert(key);
            }
        }
        state.said = seen;
        // What nobody can tell now stays as it was.
        if let Some(reach) = reach(found, url) {
            if state.reach.as_ref() != Some(&reach) {
                tell(&reach);
            }
            state.reach = Some(reach);
        }
    }
}

fn tell(reach: &Reachability) {
    let Reachability { url, neighbour, .. } = reach;
    match (&reach.problem, reach.state) {
        (Some(problem), LinkState::Down) => log::warn!("{problem}"),
        (Some(problem), _) => log::info!("{problem}"),
        (None, LinkState::Up) => log::info!("neighbour {neighbour} reaches this peer at {url}"),
        (None, _) => {}
    }
}

/// Whether the neighbour is this very peer.
pub fn itself(one: &Examined) -> Option<Trouble> {
    let is_itself = matches!(&one.found, Found::Peer(said) if said.outcome == Reach::Yourself);
    is_itself.then(|| Trouble {
        what: format!(
            "neighbour {} is this peer itself, which then shows who asks",
            one.url
        ),
        next: "name another peer in URL_PEERSU".to_owned(),
    })
}

/// Whether its clock, or ours, is wrong.
pub fn clock(one: &Examined) -> Option<Trouble> {
    let ahead = one.ahead.filter(|ahead| ahead.abs() > CLOCKS_APART)?;
    let which = if ahead > 0 { "ahead of" } else { "behind" };
    Some(Trouble {
        what: format!(
            "the clock of neighbour {} is {} s {which} this machine's",
            one.url,
            ahead.abs()
        ),
        next: "set the one that is wrong, by NTP for example".to_owned(),
    })
}

/// What the neighbours say of connecting to `url`, where this peer is to be found: that one cannot
/// counts more than that another can. `None` when nobody says anything.
fn reach(found: &[Examined], url: Option<&PeerUrl>) -> Option<Reachability> {
    let said = found.iter().filter_map(|one| {
        let Found::Peer(said) = &one.found else {
            return None;
        };
        let (state, problem) = sentence(&one.url, url, said)?;
        Some(Reachability {
            state,
            url: url.map(ToString::to_string).unwrap_or_default(),
            neighbour: one.url.clone(),
            problem,
        })
    });
    said.min_by_key(|reach| match reach.state {
        LinkState::Down => 0,
        LinkState::Up => 1,
        LinkState::Unknown => 2,
    })
}

/// What `said` means for this peer at `url`, and what to do; `None` where it means nothing.
fn sentence(
    neighbour: &str,
    url: Option<&PeerUrl>,
    said: &Reached,
) -> Option<(LinkState, Option<String>)> {
    const OPEN: &str = "open the port or set PUBLIC_URL";
    const OWN: &str = "set PUBLIC_URL to where this peer is";
    let (why, next) = match (said.outcome, url) {
        (Reach::Yourself, _) => return None,
        (Reach::Reached, _) => return Some((LinkState::Up, None)),
        // Whoever speaks over loopback learns nothing of the way from outside.
        (Reach::Elsewhere, _) if said.seen.is_loopback() => {
            return Some((LinkState::Unknown, None));
        }
        (Reach::Elsewhere, url) => {
            let known = match url {
                Some(url) => format!("not at {url}, and did not try that"),
                None => "and nothing else tells where others reach it".to_owned(),
            };
            let problem = format!(
                "neighbour {neighbour} sees this peer at {}, {known}; set PUBLIC_URL if others \
                 reach it elsewhere",
                said.seen
            );
            return Some((LinkState::Unknown, Some(problem)));
        }
        (Reach::Refused, _) => ("connection refused", OPEN),
        (Reach::TimedOut, _) => ("no answer in time", OPEN),
        (Reach::NoRoute, _) => ("there is no route to it", OPEN),
        (Reach::Failed, _) => ("the connection failed", OPEN),
        (Reach::NotAPeer, _) => ("what answers there is no peer", OWN),
        (Reach::AnotherPeer, _) => ("another peer answers there", OWN),
    };
    let at = url.map(ToString::to_string).unwrap_or_default();
    let problem = format!("neighbour {neighbour} cannot reach {at}: {why}; {next}");
    Some((LinkState::Down, Some(problem)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: &str = "http://10.0.0.2:80";

    fn one(url: &str, found: Found) -> Examined {
        Examined {
            url: url.to_owned(),
            latency: Duration::from_millis(1),
            ahead: Some(0),
            found,
        }
    }

    fn said(url: &str, seen: &str, outcome: Reach) -> Examined {
        let version = "0.1.0".to_owned();
        let seen = seen.parse().expect("an address");
        one(
            url,
            Found::Peer(Reached {
                version,
                seen,
                outcome,
            }),
        )
    }

    fn of(outcome: Reach, seen: &str) -> Option<Reachability> {
        let url = PeerUrl::parse("http://10.0.0.4:80").expect("valid");
        reach(&[said(ASKED, seen, outcome)], Some(&url))
    }

    #[test]
    fn each_outcome_has_its_sentence_and_what_to_do() {
        for (outcome, sentence) in [
            (
                Reach::Refused,
                "neighbour http://10.0.0.2:80 cannot reach http://10.0.0.4:80: connection refused; \
                 open the port or set PUBLIC_URL",
            ),
            (
                Reach::AnotherPeer,
                "neighbour http://10.0.0.2:80 cannot reach http://10.0.0.4:80: another peer answers \
                 there; set PUBLIC_URL to where this peer is",
            ),
        ] {
            let reach = of(outcome, "10.0.0.4").expect("said");
            assert_eq!(reach.problem.as_deref(), Some(sentence));
            assert_eq!(reach.state, LinkState::Down);
        }
        let reached = of(Reach::Reached, "10.0.0.4").expect("said");
        assert_eq!((reached.state, reached.problem), (LinkState::Up, None));
        let elsewhere = of(Reach::Elsewhere, "198.51.100.4").expect("said");
        assert_eq!(elsewhere.state, LinkState::Unknown);
        let problem = elsewhere.problem.expect("said");
        assert!(problem.contains("sees this peer at 198.51.100.4, not at http://10.0.0.4:80"));
        let beside = of(Reach::Elsewhere, "127.0.0.1").expect("said");
        assert_eq!((beside.state, beside.problem), (LinkState::Unknown, None));
        assert_eq!(of(Reach::Yourself, "10.0.0.4"), None);
    }

    #[test]
    fn that_one_neighbour_cannot_counts_more_than_that_another_can() {
        let url = PeerUrl::parse("http://10.0.0.4:80").expect("valid");
        let mut found = vec![
            one("http://silent:80", Found::Silent),
            said("http://near:80", "127.0.0.1", Reach::Elsewhere),
            said("http://good:80", "10.0.0.4", Reach::Reached),
        ];
        let by = |found: &[Examined]| reach(found, Some(&url)).expect("said").neighbour;
        assert_eq!(by(&found), "http://good:80");
        found.push(said("http://far:80", "10.0.0.4", Reach::TimedOut));
        assert_eq!(by(&found), "http://far:80");
        assert_eq!(reach(&found[..1], Some(&url)), None);
    }

    #[test]
    fn a_clock_that_is_a_day_off_is_told_and_a_minute_is_not() {
        let clock = |ahead| {
            clock(&Examined {
                ahead: Some(ahead),
                ..one(ASKED, Found::Silent)
            })
        };
        assert_eq!(clock(CLOCKS_APART), None);
        let what = clock(-86_400).expect("told").what;
        assert_eq!(
            what,
            "the clock of neighbour http://10.0.0.2:80 is 86400 s behind this machine's"
        );
        assert!(clock(86_400).is_some_and(|told| told.what.contains("ahead of")));
    }
}
