//! Looks up for other peers: one lookup in flight a question, and a short memory of the answers.

use std::{
    hash::{BuildHasher as _, Hash, Hasher, RandomState},
    sync::Arc,
    time::{Duration, Instant},
};

use moka::{Expiry, future::Cache};
use vecino_rest::body::{LocateQuery, Provider, SearchPage, SearchQuery, Variant};

use crate::{
    locate::{LocateError, Locator},
    metrics::{self, Metrics, Outcome},
};

/// Answers remembered, counted by their providers: bounds the memory that they take.
const CAPACITY: u64 = 200_000;
/// How long an answer that names somebody is remembered.
const FOUND_FOR: Duration = Duration::from_secs(2);
/// How long it is remembered that nobody holds it.
const UNKNOWN_FOR: Duration = Duration::from_secs(1);
/// How long an answer is remembered for those who want a fresh one.
const FRESH_FOR: Duration = Duration::from_millis(50);

/// A question and its hash, which the cache wants several times.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Question {
    hash: u64,
    query: LocateQuery,
}

impl Hash for Question {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

struct Life;

impl Expiry<Question, Arc<Vec<Variant>>> for Life {
    fn expire_after_create(
        &self,
        Question { query, .. }: &Question,
        variants: &Arc<Vec<Variant>>,
        _: Instant,
    ) -> Option<Duration> {
        Some(if query.fresh {
            FRESH_FOR
        } else if variants.is_empty() {
            UNKNOWN_FOR
        } else {
            FOUND_FOR
        })
    }
}

/// See the module.
#[derive(Debug)]
pub struct Inbound {
    locator: Locator,
    answers: Cache<Question, Arc<Vec<Variant>>>,
    /// Unlike anybody else's, so that nobody can choose questions whose hashes are the same.
    hashes: RandomState,
    metrics: Arc<Metrics>,
}

impl Inbound {
    /// Looks up by `locator`.
    pub fn new(locator: Locator, metrics: Arc<Metrics>) -> Self {
        let answers = Cache::builder()
            .max_capacity(CAPACITY)
            .weigher(|Question { query, .. }, variants: &Arc<Vec<Variant>>| {
                let providers: usize = variants
                    .iter()
                    .map(|variant| 1 + variant.providers.len())
                    .sum();
                u32::try_from(1 + providers + query.provider.as_ref().map_or(0, String::len) / 128)
                    .unwrap_or(u32::MAX)
            })
            .expire_after(Life)
            .build();
        Self {
            locator,
            answers,
            hashes: RandomState::new(),
            metrics,
        }
    }

    /// Who holds it; empty when nobody is known to.
    pub async fn locate(&self, query: LocateQuery) -> Result<Arc<Vec<Variant>>, LocateError> {
        let began = Instant::now();
        let hash = self.hashes.hash_one(&query);
        let question = Question { hash, query };
        let lookup = async { self.locator.locate(&question.query).await.map(Arc::new) };
        let answer = self.answers.try_get_with_by_ref(&question, lookup).await;
        let outcome = match &answer {
            Ok(variants) if variants.is_empty() => Outcome::unknown,
            Ok(_) => Outcome::found,
            Err(_) => Outcome::failed,
        };
        self.metrics
            .lookups
            .get_or_create(&metrics::Lookup { outcome })
            .inc();
        let took = began.elapsed().as_secs_f64();
        self.metrics.lookup_seconds.observe(took);
        answer.map_err(|error| LocateError::clone(&error))
    }

    /// Names by the words in them.
    pub async fn search(&self, query: &SearchQuery) -> Result<SearchPage, LocateError> {
        self.locator.search(query).await
    }

    /// Live peers with room for a new copy.
    pub async fn place(&self, size: u64) -> Result<Vec<Provider>, LocateError> {
        self.locator.place(size).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Semaphore;

    use super::*;
    use crate::locate::{Lookup, Strategy, StrategyKind};

    #[derive(Debug)]
    struct Counting {
        asked: AtomicUsize,
        gate: Semaphore,
        fails: bool,
    }

    impl Strategy for Counting {
        fn kind(&self) -> StrategyKind {
            StrategyKind::Central
        }

        fn locate<'a>(&'a self, _: &'a LocateQuery) -> Lookup<'a, Vec<Variant>> {
            Box::pin(async {
                self.asked.fetch_add(1, Ordering::SeqCst);
                let _permit = self.gate.acquire().await;
                if self.fails {
                    Err(LocateError::Unavailable)
                } else {
                    Ok(Vec::new())
                }
            })
        }

        fn search<'a>(&'a self, _: &'a SearchQuery) -> Lookup<'a, SearchPage> {
            Box::pin(async { Err(LocateError::Unsupported) })
        }
    }

    async fn ask_three_times(fails: bool) -> usize {
        let strategy = Arc::new(Counting {
            asked: AtomicUsize::new(0),
            gate: Semaphore::new(0),
            fails,
        });
        let inbound = Inbound::new(
            Locator::new(vec![strategy.clone()], Arc::default()),
            Arc::default(),
        );
        let query = LocateQuery {
            name: "a".parse().ok(),
            digest: None,
            provider: None,
            fresh: false,
        };
        let both =
            async { tokio::join!(inbound.locate(query.clone()), inbound.locate(query.clone())) };
        let open = async { strategy.gate.add_permits(1) };
        let ((first, second), ()) = tokio::join!(both, open);
        assert_eq!((first.is_err(), second.is_err()), (fails, fails));
        assert_eq!(inbound.locate(query).await.is_err(), fails);
        strategy.asked.load(Ordering::SeqCst)
    }

    #[tokio::test]
    async fn one_question_is_looked_up_once_at_a_time_and_remembered() {
        assert_eq!(ask_three_times(false).await, 1);
    }

    #[tokio::test]
    async fn failures_are_not_remembered() {
        assert!(ask_three_times(true).await >= 2);
    }
}
