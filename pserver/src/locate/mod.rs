//! Ways to find who holds a file: the strategies, and the locator that tries them in order.
//!
//! Only the neighbour role comes here ([`crate::neighbour::inbound`]): a peer never looks up for
//! itself. An error says nothing of where a strategy looked.

pub mod central;
pub mod chord;
pub mod flood;
pub mod overlay;
pub mod zone;

use std::{pin::Pin, sync::Arc, time::Duration};

use tokio::time::{Instant, timeout};
use tonic::service::RoutesBuilder;
use vecino_rest::{
    body::{LocateQuery, Provider, SearchPage, SearchQuery, Variant},
    overlay::OverlayView,
};

use crate::metrics::{Metrics, Outcome};

/// How long a whole lookup may take, through all strategies: less than the 6 s that the own peer
/// that asked waits, so that it gets an answer and does not give this neighbour up.
pub const LOCATE_WITHIN: Duration = Duration::from_secs(5);

/// A way to find who holds a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StrategyKind {
    /// The central locator.
    Central,
    /// A ring of peers, without a centre.
    Chord,
    /// Zones of peers, whose slots the locator assigns; it indexes nothing.
    Zone,
    /// Links between peers, and questions that spread over them.
    Flood,
}

impl StrategyKind {
    /// Every strategy there is.
    pub const ALL: [Self; 4] = [Self::Central, Self::Chord, Self::Zone, Self::Flood];

    /// Whether its peers speak gRPC to each other, on `OVERLAY_PORT`.
    pub fn is_overlay(self) -> bool {
        self != Self::Central
    }

    /// The strategy of that name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Central => "central",
            Self::Chord => "chord",
            Self::Zone => "zone",
            Self::Flood => "flood",
        }
    }
}

/// Why nothing could be looked up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocateError {
    /// Nobody could be asked now.
    #[error("lookups do not work now")]
    Unavailable,
    /// The question was wrong.
    #[error("{0}")]
    BadQuery(String),
    /// No strategy here can answer this kind of question.
    #[error("this network cannot be searched")]
    Unsupported,
}

/// What a strategy gives back.
pub type Lookup<'a, T> = Pin<Box<dyn Future<Output = Result<T, LocateError>> + Send + 'a>>;

/// A way to find who holds a file.
pub trait Strategy: Send + Sync + std::fmt::Debug {
    /// Which one it is.
    fn kind(&self) -> StrategyKind;
    /// Who holds it; empty when nobody is known to.
    fn locate<'a>(&'a self, query: &'a LocateQuery) -> Lookup<'a, Vec<Variant>>;
    /// Names by the words in them; [`LocateError::Unsupported`] where nothing knows them all.
    fn search<'a>(&'a self, query: &'a SearchQuery) -> Lookup<'a, SearchPage>;
    /// Live peers with room for a new copy of `size` bytes, the better choice first, the asker
    /// among them perhaps; [`LocateError::Unsupported`] where nothing knows them.
    fn place(&self, _size: u64) -> Lookup<'_, Vec<Provider>> {
        Box::pin(async { Err(LocateError::Unsupported) })
    }
    /// What it knows of the overlay that it is part of, for people; `None` for the central
    /// locator.
    fn view(&self) -> Option<OverlayView> {
        None
    }
    /// Brings the overlay in order now (stabilise, fix fingers, reconnect) instead of at the next
    /// tick.
    fn repair(&self) -> Lookup<'_, ()> {
        Box::pin(async { Ok(()) })
    }
    /// The gRPC services that it offers to other peers, added to those on `OVERLAY_PORT`.
    fn serve(&self, _routes: &mut RoutesBuilder) {}
    /// The flood overlay, whose links and discoveries a person may command.
    fn as_flood(&self) -> Option<&flood::Flood> {
        None
    }
}

/// Strategies in order of trial.
#[derive(Debug, Clone)]
pub struct Locator {
    strategies: Vec<Arc<dyn Strategy>>,
    metrics: Arc<Metrics>,
    /// [`LOCATE_WITHIN`]; tests are shorter.
    within: Duration,
}

impl Locator {
    /// A locator that tries `strategies` in this order.
    pub fn new(strategies: Vec<Arc<dyn Strategy>>, metrics: Arc<Metrics>) -> Self {
        Self {
            strategies,
            metrics,
            within: LOCATE_WITHIN,
        }
    }

    /// Who holds it: the answer of the first strategy that knows somebody. Empty only when each
    /// that can answer such a question was asked and none knows anybody: what one that cannot be
    /// asked now may know, nobody can deny. Each has an equal share of the time that those before
    /// it left.
    pub async fn locate(&self, query: &LocateQuery) -> Result<Vec<Variant>, LocateError> {
        let end = Instant::now() + self.within;
        let (mut is_down, mut nobody) = (self.strategies.is_empty(), None);
        for (left, strategy) in (1..=self.strategies.len()).rev().zip(&self.strategies) {
            let left = u32::try_from(left).unwrap_or(u32::MAX);
            let share = end.saturating_duration_since(Instant::now()) / left;
            let asked = Instant::now();
            let answer = timeout(share, strategy.locate(query)).await;
            let answer = answer.unwrap_or(Err(LocateError::Unavailable));
            if let Some(outcome) = outcome(&answer) {
                self.metrics
                    .strategy_answered(strategy.kind(), outcome, asked.elapsed());
            }
            match answer {
                Ok(variants) if !variants.is_empty() => return Ok(variants),
                Ok(empty) => nobody = Some(empty),
                Err(error @ LocateError::BadQuery(_)) => return Err(error),
                Err(error) => {
                    is_down |= error == LocateError::Unavailable;
                    log::debug!("strategy {}: {error}", strategy.kind().as_str());
                }
            }
        }
        match nobody {
            _ if is_down => Err(LocateError::Unavailable),
            Some(nobody) => Ok(nobody),
            None => Err(LocateError::Unsupported),
        }
    }

    /// Names by the words in them, from the first strategy that can be searched now.
    pub async fn search(&self, query: &SearchQuery) -> Result<SearchPage, LocateError> {
        let search = async |strategy: &dyn Strategy| strategy.search(query).await;
        self.first(search).await
    }

    /// Live peers for a new copy, from the first strategy that knows some now.
    pub async fn place(&self, size: u64) -> Result<Vec<Provider>, LocateError> {
        let place = async |strategy: &dyn Strategy| strategy.place(size).await;
        self.first(place).await
    }

    async fn first<T>(
        &self,
        ask: impl AsyncFn(&dyn Strategy) -> Result<T, LocateError>,
    ) -> Result<T, LocateError> {
        let mut error = LocateError::Unsupported;
        for strategy in &self.strategies {
            match ask(&**strategy).await {
                Err(LocateError::Unsupported) => {}
                Err(LocateError::Unavailable) => error = LocateError::Unavailable,
                answered => return answered,
            }
        }
        Err(error)
    }
}

/// What is counted of an answer: nothing where the question was not one for this strategy.
fn outcome(answer: &Result<Vec<Variant>, LocateError>) -> Option<Outcome> {
    match answer {
        Ok(variants) if variants.is_empty() => Some(Outcome::unknown),
        Ok(_) => Some(Outcome::found),
        Err(LocateError::Unavailable) => Some(Outcome::failed),
        Err(LocateError::BadQuery(_) | LocateError::Unsupported) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Fixed(Result<usize, LocateError>);

    impl Strategy for Fixed {
        fn kind(&self) -> StrategyKind {
            StrategyKind::Central
        }

        fn locate<'a>(&'a self, query: &'a LocateQuery) -> Lookup<'a, Vec<Variant>> {
            let variant = Variant {
                name: query.name.clone().expect("asked by name"),
                digest: None,
                size: None,
                modified_ms: None,
                provider_count: 1,
                providers: Vec::new(),
            };
            Box::pin(async move { self.0.clone().map(|count| vec![variant; count]) })
        }

        fn search<'a>(&'a self, _: &'a SearchQuery) -> Lookup<'a, SearchPage> {
            let page = SearchPage {
                items: Vec::new(),
                next_cursor: None,
            };
            Box::pin(async move { self.0.clone().map(|_| page) })
        }
    }

    #[tokio::test]
    async fn strategies_are_tried_in_order_until_one_knows() {
        let query = LocateQuery {
            name: "a".parse().ok(),
            digest: None,
            provider: None,
            fresh: false,
        };
        let down = Err(LocateError::Unavailable);
        let cannot = Err(LocateError::Unsupported);
        for (strategies, found) in [
            (vec![Ok(2), Ok(1)], Ok(2)),
            (vec![Ok(0), Ok(1)], Ok(1)),
            (vec![down.clone(), Ok(3)], Ok(3)),
            // Who is down may know somebody.
            (vec![down.clone(), Ok(0)], down.clone()),
            (vec![Ok(0), down.clone()], down.clone()),
            (vec![down.clone(), down.clone()], down.clone()),
            (vec![Ok(0), Ok(0)], Ok(0)),
            // Who cannot answer such a question does not count, unless there is nobody else.
            (vec![cannot.clone(), Ok(0)], Ok(0)),
            (vec![Ok(0), cannot.clone()], Ok(0)),
            (vec![cannot.clone(), Ok(1)], Ok(1)),
            (vec![cannot.clone(), down.clone()], down.clone()),
            (vec![cannot.clone(), cannot.clone()], cannot),
            (vec![], down),
        ] {
            let locator = Locator::new(
                strategies
                    .into_iter()
                    .map(|fixed| Arc::new(Fixed(fixed)) as Arc<dyn Strategy>)
                    .collect(),
                Arc::default(),
            );
            assert_eq!(
                locator.locate(&query).await.map(|variants| variants.len()),
                found
            );
        }
    }

    /// Says nothing, ever.
    #[derive(Debug)]
    struct Silent;

    impl Strategy for Silent {
        fn kind(&self) -> StrategyKind {
            StrategyKind::Central
        }

        fn locate<'a>(&'a self, _: &'a LocateQuery) -> Lookup<'a, Vec<Variant>> {
            Box::pin(std::future::pending())
        }

        fn search<'a>(&'a self, _: &'a SearchQuery) -> Lookup<'a, SearchPage> {
            Box::pin(std::future::pending())
        }
    }

    #[tokio::test]
    async fn a_lookup_ends_in_time_and_leaves_some_to_each_strategy() {
        let query = LocateQuery {
            name: "a".parse().ok(),
            digest: None,
            provider: None,
            fresh: false,
        };
        let silent = || Arc::new(Silent) as Arc<dyn Strategy>;
        let locator = |strategies| Locator {
            strategies,
            metrics: Arc::default(),
            within: Duration::from_millis(300),
        };
        let all_silent = locator(vec![silent(), silent(), silent()]);
        // In time for the own peer, which waits for 6 s.
        let ended = timeout(Duration::from_secs(5), all_silent.locate(&query)).await;
        assert_eq!(ended, Ok(Err(LocateError::Unavailable)));
        let last_knows = locator(vec![silent(), silent(), Arc::new(Fixed(Ok(1)))]);
        let found = last_knows.locate(&query).await;
        assert_eq!(found.map(|found| found.len()), Ok(1));
    }
}
