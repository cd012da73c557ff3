//! Asks our neighbours to look something up, in order, until one can.
//!
//! A neighbour that speaks only the first system's contract is asked by `POST /pedirRecurso`.
//! One client a worker: its connections stay open and are used again.

use std::{
    io,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use awc::{
    Client, ClientResponse,
    error::{ConnectError, PayloadError, SendRequestError},
    http::{StatusCode, header},
};
use bytes::Bytes;
use futures_util::{Stream, future::join_all};
use serde::Serialize;
use vecino_rest::{
    Digest, Kind, Name, Problem,
    body::{LocateQuery, Located, PlaceQuery, Placed, Provider, SearchPage, SearchQuery, Variant},
    frozen::{self, PedirRecursoBody},
    problem, route,
};

use super::{
    gathered::Gathered,
    link::{Link, Links},
    searched::Searched,
};
use crate::{
    download::provider_url,
    locate::LOCATE_WITHIN,
    metrics::{self, Metrics, Outcome},
};

/// How long a neighbour may take to answer.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(6);
const _: () = assert!(LOCATE_WITHIN.as_millis() < ANSWER_WITHIN.as_millis());
/// Largest answer, in bytes.
pub(super) const MAX_ANSWER: usize = 8 << 20;
/// Providers of one content that are taken from an answer: what a neighbour tells at most.
const MAX_PROVIDERS: usize = 64;
/// Peers that are asked for to take copies: as many as there can be, so that some may fail.
const PLACES: u32 = 16;
/// A link not tried for so long is tried before it is shown.
const SHOW_NO_OLDER: Duration = Duration::from_secs(5);
/// How long that may take.
const PROBE_WITHIN: Duration = Duration::from_secs(2);

/// What is wrong with a neighbour that answers, and is none.
pub(super) const NO_PEER: &str = "what answers there is no peer";

/// Why no neighbour gave an answer.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// None is configured.
    #[error("this peer has no neighbour to ask: set URL_PEERSU to the host:port of another peer")]
    NoneConfigured,
    /// None answers.
    #[error("no neighbour answers; tried {}", .0.join(", "))]
    NoneAnswers(Vec<String>),
    /// They answer, but cannot look up.
    #[error("the neighbours answer, but lookups do not work now: try again in a moment")]
    LookupFailed,
    /// They speak only the first system's contract, which cannot do this.
    #[error("the neighbours cannot do this: {0}")]
    NotSupported(&'static str),
    /// The question was wrong.
    #[error("{0}")]
    BadQuery(String),
}

/// A body that comes in.
pub(super) trait Body: Stream<Item = Result<Bytes, PayloadError>> + Unpin {}
impl<S: Stream<Item = Result<Bytes, PayloadError>> + Unpin> Body for S {}

/// What came of asking one neighbour.
pub(super) enum Reply<T> {
    Answer(T),
    /// It answers, but could not look up.
    CannotLookUp,
    BadQuery(String),
    NotSupported,
    /// It does not know this route.
    FirstSystem,
    /// It did not answer, or with nonsense.
    Failed(String),
}

/// See the module.
#[derive(Clone)]
pub struct Outbound {
    client: Client,
    pub(super) links: Arc<Links>,
    pub(super) gathered: Rc<Gathered>,
    searched: Arc<Searched>,
    metrics: Arc<Metrics>,
}

impl Outbound {
    /// Asks over `client`, which belongs to this worker.
    pub fn new(
        client: Client,
        links: Arc<Links>,
        searched: Arc<Searched>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            client,
            links,
            gathered: Rc::default(),
            searched,
            metrics,
        }
    }

    /// The links, each tried within the last `SHOW_NO_OLDER`.
    pub async fn probed(&self) -> &Links {
        let now = Instant::now();
        let old = self
            .links
            .iter()
            .filter(|link| link.tried_before(now).is_none_or(|age| age > SHOW_NO_OLDER));
        join_all(old.map(|link| self.probe(link))).await;
        &self.links
    }

    async fn probe(&self, link: &Link) {
        let asked = Instant::now();
        let sent = self
            .client
            .get(format!("{}{}", link.url(), route::HEALTHZ))
            .timeout(PROBE_WITHIN)
            .send();
        match sent.await {
            // Any answer will do: the first system has no such route.
            // But whatever was found out not to be a peer stays that until it answers as one.
            Ok(_) if link.is_no_peer() => link.failed(Instant::now(), NO_PEER.to_owned()),
            Ok(_) => link.answered(Instant::now(), asked.elapsed()),
            Err(error) => link.failed(Instant::now(), why(&error)),
        }
    }

    /// What a search told a moment ago of a content and who holds it.
    pub fn searched(&self, name: &Name, digest: &Digest) -> Option<Variant> {
        self.searched.find(name, digest)
    }

    /// Who holds it; empty when nobody is known to.
    pub async fn locate(&self, query: &LocateQuery) -> Result<Vec<Variant>, OutboundError> {
        let ask = async |link: &Link| {
            if !link.is_first_system(Instant::now()) {
                match self.locate_together(link, query).await {
                    Reply::FirstSystem => link.speaks_first_system(Instant::now()),
                    other => return other,
                }
            }
            let Some(name) = &query.name else {
                return Reply::NotSupported;
            };
            match self.ask_first_system(link, name).await {
                Reply::Answer(url) => Reply::Answer(
                    url.map(|url| Variant::unverifiable(name.clone(), url))
                        .into_iter()
                        .collect(),
                ),
                other => other.without_answer(),
            }
        };
        self.first(ask, "they look up by name only").await
    }

    /// Names by the words in them.
    pub async fn search(&self, query: &SearchQuery) -> Result<SearchPage, OutboundError> {
        let ask = async |link: &Link| match self.post(link, route::NEIGHBOUR_SEARCH, query).await {
            Reply::Answer(body) => parse(&body, |page: SearchPage| SearchPage {
                items: understood(page.items),
                ..page
            }),
            Reply::FirstSystem => Reply::NotSupported,
            other => other.without_answer(),
        };
        let page = self.first(ask, "this network cannot be searched").await?;
        self.searched.learn(&page.items);
        Ok(page)
    }

    /// Live peers with room for a new copy of `size` bytes, this one among them perhaps.
    pub async fn place(&self, size: u64) -> Result<Vec<Provider>, OutboundError> {
        let query = PlaceQuery {
            size,
            count: PLACES,
        };
        let placed = |placed: Placed| {
            let mut peers = placed.peers;
            peers.truncate(PLACES as usize);
            peers
        };
        let ask = async |link: &Link| match self.post(link, route::NEIGHBOUR_PLACE, &query).await {
            Reply::Answer(body) => parse(&body, placed),
            Reply::FirstSystem => Reply::NotSupported,
            other => other.without_answer(),
        };
        self.first(ask, "they do not know who has room").await
    }

    /// The URL of a provider, by the first system's contract, which every neighbour speaks.
    pub async fn pedir_recurso(&self, name: &Name) -> Result<Option<String>, OutboundError> {
        let ask = async |link: &Link| self.ask_first_system(link, name).await;
        self.first(ask, "they do not look up").await
    }

    async fn first<T>(
        &self,
        ask: impl AsyncFn(&Link) -> Reply<T>,
        unsupported: &'static str,
    ) -> Result<T, OutboundError> {
        let links = self.links.in_order_of_trial(Instant::now());
        let mut error = None;
        for link in &links {
            let asked = Instant::now();
            let reply = ask(link).await;
            let outcome = match &reply {
                Reply::Failed(why) => {
                    link.failed(Instant::now(), why.clone());
                    Outcome::failed
                }
                reply => {
                    link.answered(Instant::now(), asked.elapsed());
                    if matches!(reply, Reply::Answer(_)) {
                        Outcome::found
                    } else {
                        Outcome::unknown
                    }
                }
            };
            self.metrics
                .neighbour_requests
                .get_or_create(&metrics::Lookup { outcome })
                .inc();
            let took = asked.elapsed().as_secs_f64();
            self.metrics.neighbour_request_seconds.observe(took);
            match reply {
                Reply::Answer(answer) => return Ok(answer),
                Reply::BadQuery(why) => return Err(OutboundError::BadQuery(why)),
                Reply::CannotLookUp => error = Some(OutboundError::LookupFailed),
                Reply::NotSupported | Reply::FirstSystem => {
                    error.get_or_insert(OutboundError::NotSupported(unsupported));
                }
                Reply::Failed(_) => {}
            }
        }
        Err(error.unwrap_or_else(|| {
            if links.is_empty() {
                OutboundError::NoneConfigured
            } else {
                OutboundError::NoneAnswers(links.iter().map(|link| link.url().to_owned()).collect())
            }
        }))
    }

    pub(super) async fn ask_first_system(&self, link: &Link, name: &Name) -> Reply<Option<String>> {
        let body = PedirRecursoBody {
            body: name.to_string(),
        };
        match self.post(link, frozen::PEDIR_RECURSO, &body).await {
            // Neither our contract nor the first system's.
            Reply::FirstSystem => Reply::Failed(NO_PEER.to_owned()),
            Reply::Answer(text) => match std::str::from_utf8(&text).map(str::trim) {
                Ok(frozen::NOT_FOUND) => Reply::Answer(None),
                Ok(url) if provider_url::parse(url).is_ok() => Reply::Answer(Some(url.to_owned())),
                _ => Reply::Failed("its answer is neither a URL nor 404".to_owned()),
            },
            other => other.without_answer(),
        }
    }

    /// One lookup in one request.
    pub(super) async fn locate_alone(
        &self,
        link: &Link,
        query: &LocateQuery,
    ) -> Reply<Vec<Variant>> {
        match self.post(link, route::NEIGHBOUR_LOCATE, query).await {
            Reply::Answer(body) => parse(&body, |located: Located| understood(located.variants)),
            other => other.without_answer(),
        }
    }

    async fn post(&self, link: &Link, path: &str, body: &impl Serialize) -> Reply<Bytes> {
        match self.send(link, path, body).await {
            Ok(answer) => answer.understood(),
            Err(why) => Reply::Failed(why),
        }
    }

    /// The answer of a neighbour, whatever it says; the error says why there is none.
    pub(super) async fn send(
        &self,
        link: &Link,
        path: &str,
        body: &impl Serialize,
    ) -> Result<RawAnswer, String> {
        RawAnswer::read(self.begin(link, path, body).await?).await
    }

    /// The beginning of an answer, whatever it says; the error says why there is none.
    pub(super) async fn begin<Q: Serialize>(
        &self,
        link: &Link,
        path: &str,
        body: &Q,
    ) -> Result<ClientResponse<impl Body + use<Q>>, String> {
        let request = self
            .client
            .post(format!("{}{path}", link.url()))
            .timeout(ANSWER_WITHIN);
        request.send_json(body).await.map_err(|error| why(&error))
    }
}

/// An answer as it came.
pub(super) struct RawAnswer {
    pub(super) status: StatusCode,
    pub(super) headers: header::HeaderMap,
    body: Bytes,
}

impl RawAnswer {
    /// All of an answer that has begun.
    pub(super) async fn read(mut response: ClientResponse<impl Body>) -> Result<Self, String> {
        // awc bounds the time to the headers only.
        let read = tokio::time::timeout(ANSWER_WITHIN, response.body().limit(MAX_ANSWER)).await;
        let body = match read {
            Ok(Ok(body)) => body,
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err("its answer does not end".to_owned()),
        };
        Ok(Self {
            status: response.status(),
            headers: response.headers().clone(),
            body,
        })
    }

    /// What a peer of our contract says is wrong.
    pub(super) fn problem(&self) -> Option<Problem> {
        let media_type = self.headers.get(header::CONTENT_TYPE)?;
        let is_problem = media_type
            .as_bytes()
            .starts_with(problem::MEDIA_TYPE.as_bytes());
        is_problem
            .then(|| serde_json::from_slice(&self.body).ok())
            .flatten()
    }

    pub(super) fn understood(self) -> Reply<Bytes> {
        let status = self.status;
        if status == StatusCode::OK {
            return Reply::Answer(self.body);
        }
        match self.problem() {
            Some(problem) => Reply::of_problem(problem),
            // A route that it has not, or a method; anything else may pass.
            None if matches!(status.as_u16(), 404 | 405 | 501) => Reply::FirstSystem,
            None => Reply::Failed(format!("it answered {status}")),
        }
    }
}

/// Why a request came to nothing, as an operator understands it.
fn why(error: &SendRequestError) -> String {
    match error {
        SendRequestError::Connect(ConnectError::Io(error)) => match error.kind() {
            io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                "no route to it".to_owned()
            }
            _ => error.to_string(),
        },
        SendRequestError::Connect(ConnectError::Resolver(_) | ConnectError::NoRecords) => {
            "its host name cannot be resolved".to_owned()
        }
        SendRequestError::Connect(ConnectError::Timeout) => "no connection in time".to_owned(),
        SendRequestError::Timeout => "no answer in time".to_owned(),
        SendRequestError::Response(_) => format!("{NO_PEER}: it does not speak HTTP/1.1"),
        SendRequestError::Connect(ConnectError::Disconnected) => {
            "it closed the connection without an answer".to_owned()
        }
        error => error.to_string(),
    }
}

impl<T> Reply<T> {
    /// What a problem means that a neighbour tells.
    pub(super) fn of_problem(problem: Problem) -> Self {
        match problem.kind() {
            Some(Kind::BadRequest | Kind::BadName) => Self::BadQuery(problem.detail),
            Some(Kind::NotSupported) => Self::NotSupported,
            Some(Kind::LookupFailed | Kind::Busy) => Self::CannotLookUp,
            _ => Self::Failed(format!("it answered {}", problem.status)),
        }
    }

    /// The same reply of another type, when it is not an answer.
    pub(super) fn without_answer<U>(&self) -> Reply<U> {
        match self {
            Self::Answer(_) | Self::FirstSystem => Reply::FirstSystem,
            Self::CannotLookUp => Reply::CannotLookUp,
            Self::BadQuery(why) => Reply::BadQuery(why.clone()),
            Self::NotSupported => Reply::NotSupported,
            Self::Failed(why) => Reply::Failed(why.clone()),
        }
    }
}

/// What a neighbour tells is as hostile as anything else from outside: providers that are not
/// where a provider may be are left out.
pub(super) fn understood(mut variants: Vec<Variant>) -> Vec<Variant> {
    for variant in &mut variants {
        variant
            .providers
            .retain(|provider| provider_url::parse(&provider.url).is_ok());
        variant.providers.truncate(MAX_PROVIDERS);
    }
    variants
}

fn parse<T: serde::de::DeserializeOwned, U>(body: &[u8], take: impl FnOnce(T) -> U) -> Reply<U> {
    match serde_json::from_slice(body) {
        Ok(parsed) => Reply::Answer(take(parsed)),
        Err(error) => Reply::Failed(format!("its answer cannot be read: {error}")),
    }
}
