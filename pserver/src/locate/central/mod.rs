//! The strategy `central`: asks the central locators, in order; those that share a directory in any.
//!
//! A locator that failed a moment ago is asked last, so that a dead one does not cost every
//! lookup its timeout. When no locator can look up and one of them says so itself, as while another
//! node of their cluster takes over, all are asked once more. What a locator receives says what is
//! looked up and nothing of who asked.

pub mod account;
mod comparing;
mod convert;
pub mod directories;
mod lookups;
pub mod presence;
mod refused;
pub mod wire;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::{sleep, timeout};
use tonic::{
    Code, Response, Status,
    transport::{Channel, Endpoint},
};
use vecino_grpc::v1::{self, directory_client::DirectoryClient};
use vecino_rest::{
    PeerUrl,
    body::{LocateQuery, Provider, SearchPage, SearchQuery, Variant},
};

use self::{
    directories::Directories,
    lookups::{Answer, Failure, Lookups},
};
use super::{LocateError, Lookup, Strategy, StrategyKind};

/// How long a connection may take to come about.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// How long a single question may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// A silent connection is tried with a ping after so long ...
const PING_AFTER: Duration = Duration::from_secs(5);
/// ... and given up when that stays unanswered for so long.
const PONG_WITHIN: Duration = Duration::from_secs(3);
/// A locator that is silent for so long is not waited for alone.
const HEDGE_AFTER: Duration = Duration::from_millis(500);
/// Pause before locators that cannot look up now are asked once more.
const AGAIN_AFTER: Duration = Duration::from_millis(100);
/// A locator that failed is asked last for so long.
const ASKED_LAST_FOR: Duration = Duration::from_secs(10);

/// One channel to a locator: lookups and presence share its connection, made when first needed and
/// carried by the current runtime.
pub fn channel(locator: &PeerUrl) -> Result<Channel, tonic::transport::Error> {
    Ok(Endpoint::from_shared(locator.to_string())?
        .connect_timeout(CONNECT_WITHIN)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PONG_WITHIN)
        .keep_alive_while_idle(true)
        .connect_lazy())
}

#[derive(Debug)]
struct Remote {
    locator: PeerUrl,
    lookups: Lookups,
    directory: DirectoryClient<Channel>,
    failed_at: Mutex<Option<Instant>>,
}

impl Remote {
    fn failed_lately(&self) -> bool {
        let failed_at = self
            .failed_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        failed_at.is_some_and(|at| at.elapsed() < ASKED_LAST_FOR)
    }

    fn remember(&self, failed: bool) {
        *self
            .failed_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = failed.then(Instant::now);
    }

    /// Who holds it; notes in `not_now` that it says itself that it cannot look up now.
    async fn locate(
        &self,
        query: &LocateQuery,
        not_now: &AtomicBool,
    ) -> Result<Vec<Variant>, LocateError> {
        match self.lookups.ask(convert::locate_request(query)).await {
            Ok(Answer::Directory(response)) => Ok(convert::variants(response.variants)),
            Ok(Answer::FirstSystem(url)) => Ok(convert::unverifiable(query, url)),
            Err(Failure::BadQuery(why)) => Err(LocateError::BadQuery(why)),
            Err(Failure::Unavailable) => Err(LocateError::Unavailable),
            Err(Failure::NotNow) => {
                not_now.store(true, Ordering::Relaxed);
                Err(LocateError::Unavailable)
            }
        }
    }

    async fn search(&self, request: v1::SearchRequest) -> Result<SearchPage, LocateError> {
        let mut directory = self.directory.clone();
        let response = answer(directory.search(request)).await?;
        Ok(convert::search_page(response))
    }

    async fn place(&self, size: u64) -> Result<Vec<Provider>, LocateError> {
        let mut directory = self.directory.clone();
        let response = answer(directory.place(convert::place_request(size))).await?;
        Ok(convert::placed(response))
    }
}

/// The answer to a single question.
async fn answer<T>(
    asked: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, LocateError> {
    match timeout(ANSWER_WITHIN, asked).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(match status.code() {
            Code::InvalidArgument => LocateError::BadQuery(convert::refusal(status.message())),
            Code::Unimplemented => LocateError::Unsupported,
            _ => LocateError::Unavailable,
        }),
        Err(_) => Err(LocateError::Unavailable),
    }
}

/// Asks, and once more when that fails although somebody noted that it can be tried again: one who
/// is gone is not waited for. How long both take is bounded by who looks up.
async fn and_once_more<T, F>(not_now: &AtomicBool, ask: impl Fn() -> F) -> Result<T, LocateError>
where
    F: Future<Output = Result<T, LocateError>>,
{
    let answer = ask().await;
    let is_worth_it = not_now.load(Ordering::Relaxed);
    if !(is_worth_it && matches!(answer, Err(LocateError::Unavailable))) {
        return answer;
    }
    sleep(AGAIN_AFTER).await;
    ask().await
}

/// See the module.
#[derive(Debug)]
pub struct Central {
    remotes: Vec<Remote>,
    directories: Arc<Directories>,
}

impl Central {
    /// Asks these locators, in this order. Must be called on the runtime of their connections
    /// ([`wire`]).
    pub fn new(
        locators: impl IntoIterator<Item = (PeerUrl, Channel)>,
        directories: Arc<Directories>,
    ) -> Self {
        let remote = |(locator, channel): (PeerUrl, Channel)| Remote {
            locator,
            lookups: Lookups::start(channel.clone()),
            directory: DirectoryClient::new(channel),
            failed_at: Mutex::default(),
        };
        Self {
            remotes: locators.into_iter().map(remote).collect(),
            directories,
        }
    }

    /// In the order in which they are asked: as they are configured, but that those that share a
    /// directory share the questions, and that those that failed lately come last.
    fn in_order(&self) -> Vec<&Remote> {
        let directories: Vec<_> = self
            .remotes
            .iter()
            .map(|remote| self.directories.of(&remote.locator))
            .collect();
        let group = |place: usize| {
            let directory = directories[place];
            let same = directories.iter().position(|other| *other == directory);
            same.filter(|_| directory.is_some()).unwrap_or(place)
        };
        let mut remotes: Vec<_> = self.remotes.iter().enumerate().collect();
        remotes.sort_by_cached_key(|(place, remote)| {
            (remote.failed_lately(), group(*place), rand::random::<u32>())
        });
        remotes.into_iter().map(|(_, remote)| remote).collect()
    }

    /// The first answer. Locators are asked in order, the next one when one fails, or when it is
    /// silent for [`HEDGE_AFTER`].
    async fn first<'a, T, F>(&'a self, ask: impl Fn(&'a Remote) -> F) -> Result<T, LocateError>
    where
        F: Future<Output = Result<T, LocateError>>,
    {
        let mut waiting = self.in_order().into_iter();
        let mut asked = FuturesUnordered::new();
        loop {
            let next = waiting.next();
            let is_last = next.is_none();
            asked.extend(next.map(|remote| {
                let answer = ask(remote);
                async move {
                    let answer = answer.await;
                    let failed = matches!(answer, Err(LocateError::Unavailable));
                    remote.remember(failed);
                    (failed, answer)
                }
            }));
            // With nobody left to ask, the asked ones have the time that they need.
            let patience = if is_last { ANSWER_WITHIN } else { HEDGE_AFTER };
            match timeout(patience, asked.next()).await {
                Ok(Some((false, answer))) => return answer,
                Ok(None) if is_last => return Err(LocateError::Unavailable),
                Err(_) if is_last => return Err(LocateError::Unavailable),
                _ => {}
            }
        }
    }
}

impl Strategy for Central {
    fn kind(&self) -> StrategyKind {
        StrategyKind::Central
    }

    fn locate<'a>(&'a self, query: &'a LocateQuery) -> Lookup<'a, Vec<Variant>> {
        Box::pin(async move {
            let not_now = &AtomicBool::new(false);
            let ask = || self.first(move |remote| remote.locate(query, not_now));
            and_once_more(not_now, ask).await
        })
    }

    fn search<'a>(&'a self, query: &'a SearchQuery) -> Lookup<'a, SearchPage> {
        Box::pin(async move {
            let request = convert::search_request(query)?;
            self.first(|remote| remote.search(request.clone())).await
        })
    }

    fn place(&self, size: u64) -> Lookup<'_, Vec<Provider>> {
        Box::pin(self.first(move |remote| remote.place(size)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[tokio::test]
    async fn who_cannot_look_up_now_is_asked_once_more_and_who_is_gone_is_not() {
        const DOWN: Result<u8, LocateError> = Err(LocateError::Unavailable);
        for (says_so, answers, expected, times) in [
            (true, [DOWN, Ok(1)], Ok(1), 2),
            (true, [DOWN, DOWN], DOWN, 2),
            (false, [DOWN, Ok(1)], DOWN, 1),
            // Another locator answered.
            (true, [Ok(1), Ok(2)], Ok(1), 1),
            (true, [Ok(0), Ok(1)], Ok(0), 1),
        ] {
            let (not_now, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
            let ask = || {
                not_now.store(says_so, Ordering::Relaxed);
                std::future::ready(answers[asked.fetch_add(1, Ordering::Relaxed)].clone())
            };
            assert_eq!(and_once_more(&not_now, ask).await, expected);
            assert_eq!(asked.into_inner(), times);
        }
    }
}
