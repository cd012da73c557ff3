//! The providers of one download: which to ask next, and what to say when none is left. Pure.
//!
//! Invariant: a provider that sent wrong bytes is never asked again; one that failed rests before
//! it is asked again, longer each time, and after `MAX_FAILURES` in a row is asked only when a
//! new lookup names it again.

use std::time::{Duration, Instant};

use vecino_rest::PeerUrl;

use super::JobError;

/// Failures in a row after which a provider is left for good.
const MAX_FAILURES: u32 = 3;
/// How long a provider rests after its first failure; doubled for each in a row.
const REST: Duration = Duration::from_millis(200);
/// Providers of one download.
const MAX_PROVIDERS: usize = 256;

/// What a provider did wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Its bytes are not those of the digest: wrong, too few or too many.
    Wrong(String),
    /// It ended before all was sent.
    Short,
    /// It cannot be reached, refuses, stalls or is too slow.
    Failed(String),
}

#[derive(Debug)]
struct Candidate {
    url: PeerUrl,
    failures: u32,
    last: Option<Fault>,
    rests_until: Option<Instant>,
}

/// Whom to ask now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// This provider; and how often it failed in a row.
    Ask(PeerUrl, u32),
    /// All rest until then.
    Wait(Instant),
    /// Nobody is left.
    Nobody,
}

impl Candidate {
    fn is_usable(&self) -> bool {
        self.failures < MAX_FAILURES && !matches!(self.last, Some(Fault::Wrong(_)))
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Roster {
    candidates: Vec<Candidate>,
}

impl Roster {
    /// Adds those of `urls` that are new; one that failed too often gets another chance.
    pub fn add(&mut self, urls: impl IntoIterator<Item = PeerUrl>) {
        for url in urls {
            if let Some(known) = self.candidates.iter_mut().find(|known| known.url == url) {
                known.failures = known.failures.min(MAX_FAILURES - 1);
                known.rests_until = None;
            } else if self.candidates.len() < MAX_PROVIDERS {
                self.candidates.push(Candidate {
                    url,
                    failures: 0,
                    last: None,
                    rests_until: None,
                });
            }
        }
    }

    /// Whom to ask at `now`.
    pub fn next(&self, now: Instant) -> Next {
        let usable = || self.candidates.iter().filter(|c| c.is_usable());
        let rested = usable().filter(|c| c.rests_until.is_none_or(|until| until <= now));
        match rested.min_by_key(|candidate| candidate.failures) {
            Some(candidate) => Next::Ask(candidate.url.clone(), candidate.failures),
            None => match usable().filter_map(|c| c.rests_until).min() {
                Some(until) => Next::Wait(until),
                None => Next::Nobody,
            },
        }
    }

    /// `url` delivered something right.
    pub fn succeeded(&mut self, url: &PeerUrl) {
        if let Some(candidate) = self
            .candidates
            .iter_mut()
            .find(|candidate| candidate.url == *url)
        {
            candidate.failures = 0;
            candidate.rests_until = None;
        }
    }

    /// `url` did something wrong at `now`.
    pub fn failed(&mut self, url: &PeerUrl, fault: Fault, now: Instant) {
        if let Some(candidate) = self
            .candidates
            .iter_mut()
            .find(|candidate| candidate.url == *url)
        {
            candidate.rests_until = Some(now + REST * 2u32.pow(candidate.failures));
            candidate.failures += 1;
            candidate.last = Some(fault);
        }
    }

    /// Why no provider is left.
    pub fn verdict(&self) -> JobError {
        let faults = || {
            self.candidates
                .iter()
                .filter_map(|c| Some((&c.url, c.last.as_ref()?)))
        };
        if let Some((url, why)) = faults().find_map(|(url, fault)| match fault {
            Fault::Wrong(why) => Some((url, why)),
            _ => None,
        }) {
            return JobError::Verification(format!("{url} sent wrong bytes: {why}"));
        }
        if faults().count() > 0 && faults().all(|(_, fault)| *fault == Fault::Short) {
            return JobError::Verification(
                "every provider sent fewer bytes than the content has".to_owned(),
            );
        }
        let all: Vec<_> = faults()
            .take(4)
            .map(|(url, fault)| match fault {
                Fault::Failed(why) | Fault::Wrong(why) => format!("{url}: {why}"),
                Fault::Short => format!("{url}: it ended before all was sent"),
            })
            .collect();
        JobError::Providers(if all.is_empty() {
            "no provider that may be asked is known".to_owned()
        } else {
            format!("no provider could deliver ({})", all.join("; "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{super::provider_url::parse, *};

    fn url(port: u16) -> PeerUrl {
        parse(&format!("http://10.0.0.1:{port}")).expect("valid")
    }

    fn failed() -> Fault {
        Fault::Failed("refused".to_owned())
    }

    #[test]
    fn the_next_one_is_asked_after_a_failure_and_a_liar_never_again() {
        let mut roster = Roster::default();
        let mut now = Instant::now();
        roster.add([url(1), url(2), url(1)]);
        assert_eq!(roster.next(now), Next::Ask(url(1), 0));
        roster.failed(&url(1), failed(), now);
        assert_eq!(roster.next(now), Next::Ask(url(2), 0));
        roster.failed(&url(2), Fault::Wrong("piece 0".to_owned()), now);
        assert_eq!(roster.next(now), Next::Wait(now + REST));
        now += REST;
        assert_eq!(roster.next(now), Next::Ask(url(1), 1));
        roster.add([url(2)]);
        assert_eq!(
            roster.next(now),
            Next::Ask(url(1), 1),
            "a liar cannot be added again"
        );
        roster.failed(&url(1), failed(), now);
        roster.succeeded(&url(1));
        for failures in 0..MAX_FAILURES {
            assert_eq!(roster.next(now), Next::Ask(url(1), failures));
            roster.failed(&url(1), failed(), now);
            now += REST * 8;
        }
        assert_eq!(roster.next(now), Next::Nobody);
        assert!(matches!(roster.verdict(), JobError::Verification(_)));
    }

    #[test]
    fn a_new_lookup_gives_another_chance() {
        let mut roster = Roster::default();
        let now = Instant::now();
        roster.add([url(1)]);
        for _ in 0..MAX_FAILURES {
            roster.failed(&url(1), failed(), now);
        }
        assert_eq!(roster.next(now), Next::Nobody);
        roster.add([url(1)]);
        assert_eq!(roster.next(now), Next::Ask(url(1), MAX_FAILURES - 1));
    }

    #[test]
    fn the_verdict_says_what_was_wrong() {
        let mut roster = Roster::default();
        assert!(matches!(roster.verdict(), JobError::Providers(_)));
        roster.add([url(1), url(2)]);
        roster.failed(&url(1), Fault::Short, Instant::now());
        assert!(matches!(roster.verdict(), JobError::Verification(_)));
        roster.failed(&url(2), failed(), Instant::now());
        assert!(matches!(roster.verdict(), JobError::Providers(text) if text.contains("refused")));
    }
}
