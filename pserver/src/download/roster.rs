//! The providers of one download: what each has, how it does, whom to ask, and what to say when
//! nobody is left. Pure.
//!
//! Invariant: a provider that sent wrong bytes is never asked again; one that failed rests before
//! it is asked again, longer each time, and after `MAX_FAILURES` in a row is asked only when a
//! new lookup names it again. A partial provider is asked only for pieces that it said it has, and
//! nobody is spared for the sake of one that failed last.

mod copies;

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use rand::{Rng, seq::SliceRandom};
use vecino_rest::{PeerUrl, event::TransferProvider, piece::Layout};

use self::copies::Copies;
use super::{JobError, bits::Bits, picker::ProviderNo, source::Holdings};

/// Failures in a row after which a provider is left for good.
const MAX_FAILURES: u32 = 3;
/// How long a provider rests after its first failure; doubled for each in a row.
const REST: Duration = Duration::from_millis(200);
/// After so many times that it was overtaken, its rest grows no more.
const MAX_OVERTAKEN: u32 = 5;
/// Providers of one download.
const MAX_PROVIDERS: usize = 256;
/// Partial providers that are asked what they have, at once.
const MAX_ASKED_FOR_PIECES: usize = 24;
/// One provider is asked what it has no more often than this ...
const QUESTION_EVERY: Duration = Duration::from_millis(30);
/// ... nor, when it had nothing new to say, than this, ...
const NO_NEWS: Duration = Duration::from_secs(1);
/// ... and each of many so much more seldom: in a large crowd the answers would take what the pieces
/// need.
const ANY_QUESTION_EVERY: Duration = Duration::from_millis(8);
/// Requests in flight at one provider, at least while it answers, and at most.
const DEPTH: (u32, u32) = (2, 6);
/// A request is to take about so long.
const REQUEST_TAKES: Duration = Duration::from_millis(100);
/// Bytes of one request, at most: bounds how long another reader waits.
const MAX_REQUEST: u64 = 16 << 20;
/// Weight of the newest measurement in an average.
const NEWEST: f64 = 0.4;

/// What a provider did wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Its bytes are not those of the digest: wrong, too few or too many.
    Wrong(String),
    /// It ended before all was sent.
    Short,
    /// It cannot be reached, refuses, stalls or is too slow.
    Failed(String),
    /// It has no slot free now; asks to come back after so long.
    Busy(Duration),
    /// It does not have it.
    NotThere,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Wrong(why) | Self::Failed(why) => f.write_str(why),
            Self::Short => f.write_str("it ended before all was sent"),
            Self::Busy(_) => f.write_str("it is busy"),
            Self::NotThere => f.write_str("it answered 404 Not Found"),
        }
    }
}

/// A provider that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Where it is.
    pub url: PeerUrl,
    /// It has some pieces only.
    pub is_partial: bool,
    /// It stands where this peer stands.
    pub is_near: bool,
}

#[derive(Debug)]
enum Pieces {
    /// All of them.
    Whole,
    /// It has yet to say.
    Unknown,
    /// These.
    Some(Holdings),
}

#[derive(Debug)]
struct Provider {
    url: PeerUrl,
    is_near: bool,
    pieces: Pieces,
    /// Whether a question of what it has is under way.
    is_asked: bool,
    /// When it may be asked that again.
    ask_again: Option<Instant>,
    in_flight: u32,
    /// Verified bytes a second while it sent.
    rate: Option<f64>,
    /// The shortest time that it took to begin: longer ones were spent in its queue.
    delay: Option<Duration>,
    failures: u32,
    /// How often in a row another one brought what it was late with.
    overtaken: u32,
    last: Option<Fault>,
    rests_until: Option<Instant>,
    /// Pieces that came from it.
    delivered: u32,
    /// The pieces with which it counts among the copies.
    counted: Option<Bits>,
}

impl Provider {
    fn is_usable(&self) -> bool {
        self.failures < MAX_FAILURES && !matches!(self.last, Some(Fault::Wrong(_)))
    }

    /// What it has, when it has some pieces and its last request brought what it was to bring.
    fn counts_on(&self) -> Option<&Holdings> {
        match &self.pieces {
            Pieces::Some(holdings) if self.is_usable() && self.setbacks() == 0 => Some(holdings),
            _ => None,
        }
    }

    /// How often in a row it did not bring what it was to bring.
    fn setbacks(&self) -> u32 {
        self.failures.saturating_add(self.overtaken)
    }

    /// Whether it may be sent requests once it is rested, and never was.
    fn is_untried(&self) -> bool {
        let is_whole = matches!(self.pieces, Pieces::Whole);
        is_whole && self.rate.is_none() && self.in_flight == 0 && self.setbacks() == 0
    }

    fn is_rested(&self, now: Instant) -> bool {
        self.rests_until.is_none_or(|until| until <= now)
    }

    /// More requests for who takes long to begin; in a crowd one is enough, for what waits at one
    /// provider could be had from another.
    fn depth(&self, in_a_crowd: bool) -> u32 {
        let (least, most) = DEPTH;
        if self.setbacks() > 0 || in_a_crowd {
            return 1;
        }
        let delay = self.delay.unwrap_or_default();
        let waits = delay.as_secs_f64() / REQUEST_TAKES.as_secs_f64();
        least.saturating_add(waits as u32).min(most)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Roster {
    providers: Vec<Provider>,
    copies: Copies,
    /// Who is first to be asked what it has: those who answer late and say nothing new keep nobody
    /// from being asked.
    next_asked: usize,
}

impl Roster {
    /// Adds those that are new; one that failed too often gets another chance.
    pub fn add(&mut self, found: impl IntoIterator<Item = Candidate>) {
        for candidate in found {
            let Candidate {
                url,
                is_partial,
                is_near,
            } = candidate;
            let known = self.providers.iter().position(|known| known.url == url);
            if let Some(at) = known {
                let known = &mut self.providers[at];
                if known.failures >= MAX_FAILURES {
                    known.failures = MAX_FAILURES - 1;
                    known.rests_until = None;
                }
                if !is_partial {
                    known.pieces = Pieces::Whole;
                }
                self.count(at as ProviderNo);
            } else if self.providers.len() < MAX_PROVIDERS {
                self.providers.push(Provider {
                    url,
                    is_near,
                    pieces: if is_partial {
                        Pieces::Unknown
                    } else {
                        Pieces::Whole
                    },
                    is_asked: false,
                    ask_again: None,
                    in_flight: 0,
                    rate: None,
                    delay: None,
                    failures: 0,
                    overtaken: 0,
                    last: None,
                    rests_until: None,
                    delivered: 0,
                    counted: None,
                });
            }
        }
    }

    fn of(&self, no: ProviderNo) -> &Provider {
        &self.providers[no as usize]
    }

    fn of_mut(&mut self, no: ProviderNo) -> &mut Provider {
        &mut self.providers[no as usize]
    }

    fn numbered(&self) -> impl Iterator<Item = (ProviderNo, &Provider)> {
        (0..).zip(&self.providers)
    }

    /// Where a provider is.
    pub fn url(&self, no: ProviderNo) -> &PeerUrl {
        &self.of(no).url
    }

    /// How many are known.
    pub fn len(&self) -> usize {
        self.providers.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.providers.is_empty()
    }

    /// What a provider has; `None`: everything.
    pub fn has(&self, no: ProviderNo) -> Option<&Bits> {
        match &self.of(no).pieces {
            Pieces::Some(holdings) => holdings.have.as_ref(),
            Pieces::Whole | Pieces::Unknown => None,
        }
    }

    /// Whether some said which pieces they have: those who have everything are spared then.
    pub fn is_crowd(&self) -> bool {
        self.providers.iter().any(|p| p.counts_on().is_some())
    }

    /// Whether it has everything.
    pub fn is_whole(&self, no: ProviderNo) -> bool {
        matches!(self.of(no).pieces, Pieces::Whole)
    }

    /// How often it failed in a row.
    pub fn failures(&self, no: ProviderNo) -> u32 {
        self.of(no).failures
    }

    /// Who may be sent another request at `now`: partial providers first, which spares those
    /// that have everything for what nobody else has; near before far; who failed later; equals
    /// by chance.
    pub fn askable(&self, now: Instant, rng: &mut impl Rng) -> Vec<ProviderNo> {
        let in_a_crowd = self.is_crowd();
        let mut askable: Vec<_> = self
            .numbered()
            .filter(|(_, provider)| {
                provider.is_usable()
                    && provider.is_rested(now)
                    && provider.in_flight < provider.depth(in_a_crowd)
                    && !matches!(provider.pieces, Pieces::Unknown)
            })
            .map(|(no, _)| no)
            .collect();
        askable.shuffle(rng);
        askable.sort_by_key(|&no| {
            let provider = self.of(no);
            (
                matches!(provider.pieces, Pieces::Whole),
                !provider.is_near,
                provider.setbacks(),
            )
        });
        askable
    }

    /// Who may be asked at `now` for what every provider has, the best first.
    pub fn for_anything(&self, now: Instant, rng: &mut impl Rng) -> Vec<ProviderNo> {
        let mut all: Vec<_> = self
            .numbered()
            .filter(|(_, provider)| provider.is_usable() && provider.is_rested(now))
            .map(|(no, _)| no)
            .collect();
        all.shuffle(rng);
        all.sort_by_key(|&no| {
            let provider = self.of(no);
            let is_whole = matches!(provider.pieces, Pieces::Whole);
            (provider.failures, !provider.is_near, !is_whole)
        });
        all
    }

    /// When the next one that rests may be asked again; `None` when none rests.
    pub fn next_rested(&self, now: Instant) -> Option<Instant> {
        self.providers
            .iter()
            .filter(|provider| provider.is_usable() && !provider.is_rested(now))
            .filter_map(|provider| provider.rests_until)
            .min()
    }

    /// Whether somebody may ever be asked again.
    pub fn is_exhausted(&self) -> bool {
        !self.providers.iter().any(Provider::is_usable)
    }

    /// Pieces of one request to this provider.
    pub fn longest_run(&self, no: ProviderNo, layout: &Layout) -> u32 {
        let rate = self.of(no).rate.unwrap_or(0.0);
        let bytes = (rate * REQUEST_TAKES.as_secs_f64()).min(MAX_REQUEST as f64) as u64;
        u32::try_from(bytes / layout.piece_size())
            .unwrap_or(u32::MAX)
            .max(1)
    }

    /// How long this provider is likely to need for a piece; `None` when it is not known.
    pub fn piece_takes(&self, no: ProviderNo, layout: &Layout) -> Option<Duration> {
        let rate = self.of(no).rate.filter(|rate| *rate > 0.0)?;
        let seconds = layout.piece_size() as f64 / rate;
        let delay = self.of(no).delay.unwrap_or_default();
        Some(delay + Duration::from_secs_f64(seconds.min(3600.0)))
    }

    /// How long a piece takes from the fastest that may be asked: who was never tried needs `untried`
    /// for it, and so does everybody as long as nothing is known.
    pub fn fastest_piece_takes(
        &self,
        layout: &Layout,
        untried: Duration,
        now: Instant,
    ) -> Duration {
        let usable = self
            .numbered()
            .filter(|(_, provider)| provider.is_usable() && provider.is_rested(now));
        let takes = usable.filter_map(|(no, provider)| match provider.is_untried() {
            true => Some(untried),
            false => self.piece_takes(no, layout),
        });
        takes.min().unwrap_or(untried)
    }

    /// How many known partial providers have each piece or are fetching it; empty when there is
    /// none.
    pub fn copies(&self) -> &[u16] {
        self.copies.of_pieces()
    }

    /// What `no` has or how it did may have changed: it counts among the copies with that.
    fn count(&mut self, no: ProviderNo) {
        let provider = &mut self.providers[no as usize];
        let now = provider.counts_on().map(Holdings::all);
        self.copies.change(provider.counted.as_ref(), now.as_ref());
        provider.counted = now;
    }

    /// Whether for each piece of `run` some partial provider has it.
    pub fn is_had_by_others(&self, run: &Range<u32>) -> bool {
        let has = |provider: &Provider, piece| {
            let have = provider.counts_on().and_then(|known| known.have.as_ref());
            have.is_some_and(|have| have.get(piece))
        };
        run.clone()
            .all(|piece| self.providers.iter().any(|provider| has(provider, piece)))
    }

    /// Partial providers that are to be asked what they have, with the version that is known;
    /// they count as asked from now on.
    pub fn to_be_asked(&mut self, now: Instant) -> Vec<(ProviderNo, Option<u64>)> {
        let asked = self.providers.iter().filter(|p| p.is_asked).count();
        let mut free = MAX_ASKED_FOR_PIECES.saturating_sub(asked);
        let mut due = Vec::new();
        let (before, from) = self.providers.split_at_mut(self.next_asked);
        let numbered = (self.next_asked..).zip(from).chain((0..).zip(before));
        for (index, provider) in numbered {
            let since = match &provider.pieces {
                Pieces::Whole => continue,
                Pieces::Unknown => None,
                Pieces::Some(holdings) => Some(holdings.version),
            };
            if free == 0 {
                break;
            }
            let may_be_asked = provider.ask_again.is_none_or(|at| at <= now);
            if !provider.is_asked && may_be_asked && provider.is_usable() && provider.is_rested(now)
            {
                provider.is_asked = true;
                free -= 1;
                due.push((index as ProviderNo, since));
                self.next_asked = index + 1;
            }
        }
        due
    }

    /// When the next one may be asked again what it has; `None` when that is not to be waited for.
    pub fn next_question(&self, now: Instant) -> Option<Instant> {
        let waiting = self.providers.iter().filter(|provider| !provider.is_asked);
        let times = waiting.filter_map(|provider| provider.ask_again);
        times.filter(|at| *at > now).min()
    }

    /// How long one provider is left alone after it said what it has.
    fn question_every(&self) -> Duration {
        let is_asked = |provider: &&Provider| {
            provider.is_usable() && !matches!(provider.pieces, Pieces::Whole)
        };
        let partial = self.providers.iter().filter(is_asked).count();
        let each = ANY_QUESTION_EVERY * u32::try_from(partial).unwrap_or(u32::MAX);
        each.max(QUESTION_EVERY)
    }

    /// A partial provider said at `now` what it has.
    pub fn holds(&mut self, no: ProviderNo, holdings: Holdings, now: Instant) {
        let every = self.question_every();
        let provider = self.of_mut(no);
        provider.is_asked = false;
        let is_news = match &provider.pieces {
            Pieces::Some(known) => known.have != holdings.have || known.coming != holdings.coming,
            Pieces::Whole | Pieces::Unknown => true,
        };
        provider.ask_again = Some(now + if is_news { every } else { NO_NEWS.max(every) });
        provider.pieces = if holdings.have.is_none() {
            Pieces::Whole
        } else {
            Pieces::Some(holdings)
        };
        self.count(no);
    }

    /// A partial provider did not say what it has.
    pub fn holds_unknown(&mut self, no: ProviderNo, fault: Fault, now: Instant) {
        let provider = self.of_mut(no);
        provider.is_asked = false;
        // Nobody counts on what it was fetching.
        if !matches!(provider.pieces, Pieces::Whole) {
            provider.pieces = Pieces::Unknown;
        }
        self.count(no);
        self.failed(no, fault, now);
    }

    /// A request goes to `no`.
    pub fn asked(&mut self, no: ProviderNo) {
        self.of_mut(no).in_flight += 1;
    }

    /// A request to `no` is over.
    pub fn answered(&mut self, no: ProviderNo) {
        let provider = self.of_mut(no);
        provider.in_flight = provider.in_flight.saturating_sub(1);
    }

    /// A piece of so many bytes came from `no`.
    pub fn delivered(&mut self, no: ProviderNo) {
        let provider = self.of_mut(no);
        provider.delivered += 1;
        if matches!(provider.last, Some(Fault::Busy(_))) {
            provider.last = None;
        }
        let had_failed = std::mem::take(&mut provider.failures) > 0;
        provider.rests_until = None;
        if std::mem::take(&mut provider.overtaken) > 0 || had_failed {
            self.count(no);
        }
    }

    /// A request to `no` began after `delay` and brought `bytes` in `took`.
    pub fn measured(&mut self, no: ProviderNo, bytes: u64, delay: Duration, took: Duration) {
        let provider = self.of_mut(no);
        let rate = bytes as f64 / took.as_secs_f64().max(1e-6);
        let before = provider.rate.unwrap_or(rate);
        provider.rate = Some(before + NEWEST * (rate - before));
        provider.delay = Some(provider.delay.map_or(delay, |known| known.min(delay)));
    }

    /// `no` did something wrong at `now`.
    pub fn failed(&mut self, no: ProviderNo, fault: Fault, now: Instant) {
        let provider = self.of_mut(no);
        match fault {
            Fault::Busy(retry_after) => {
                provider.rests_until = Some(now + retry_after.max(REST));
                provider.last.get_or_insert(fault);
                return;
            }
            // What it said it has is gone; it is asked again before it is sent a request.
            Fault::NotThere if !matches!(provider.pieces, Pieces::Whole) => {
                provider.pieces = Pieces::Unknown;
            }
            _ => {}
        }
        provider.rests_until = Some(now + REST * 2u32.pow(provider.failures.min(16)));
        provider.failures += 1;
        // Wrong bytes are remembered whatever comes after.
        if !matches!(provider.last, Some(Fault::Wrong(_))) {
            provider.last = Some(fault);
        }
        self.count(no);
    }

    /// Another one brought what `no` was late with: it is asked after all others, but never left for
    /// being slow.
    pub fn overtaken(&mut self, no: ProviderNo, now: Instant) {
        let provider = self.of_mut(no);
        let rests_until = Some(now + REST * 2u32.pow(provider.overtaken.min(MAX_OVERTAKEN)));
        provider.rests_until = provider.rests_until.max(rests_until);
        provider.overtaken = provider.overtaken.saturating_add(1);
        self.count(no);
    }

    /// Providers that did something so far, at most `most`.
    pub fn to_body(&self, most: usize) -> Vec<TransferProvider> {
        self.providers
            .iter()
            .filter(|p| p.delivered > 0 || p.in_flight > 0 || p.last.is_some())
            .take(most)
            .map(|provider| TransferProvider {
                url: provider.url.to_string(),
                pieces: provider.delivered,
                active: provider.in_flight > 0,
                fault: provider.last.as_ref().map(ToString::to_string),
            })
            .collect()
    }

    /// Why no provider is left.
    pub fn verdict(&self) -> JobError {
        let faults = || {
            self.providers
                .iter()
                .filter_map(|provider| Some((&provider.url, provider.last.as_ref()?)))
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
            .map(|(url, fault)| format!("{url}: {fault}"))
            .collect();
        JobError::Providers(if all.is_empty() {
            "no provider that may be asked is known".to_owned()
        } else {
            format!("no provider could deliver ({})", all.join("; "))
        })
    }
}

#[cfg(test)]
mod tests;
