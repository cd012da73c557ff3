//! [`Api`]: the own peer's REST v1, as typed calls; and, for `--direct` only, the download from
//! a provider. Every answer is bounded in size and time, whoever sends it.
//!
//! Connections go to the own peer only, but for [`Api::open_at`]. No redirect is followed.

mod content;
mod discover;
mod doctor;
mod error;
mod events;
mod refusal;
mod told;

use std::time::Duration;

use awc::{
    Client, ClientRequest, ClientResponse, Connector,
    body::{BodySize, MessageBody},
    error::SendRequestError,
    http::{StatusCode, header},
};
use futures_util::StreamExt;
use serde::{Serialize, de::DeserializeOwned};
use vecino_rest::{
    Digest, Name, PeerUrl, Problem,
    body::{
        FileEntry, Located, LoginRequest, Page, Peer, SearchPage, SearchQuery, Session, Status,
        Stored, Variant,
    },
    frozen,
    overlay::{ConnectRequest, DiscoverRequest, Overlays},
    problem, route,
};

use crate::peer_ref::PeerRef;

pub(crate) use self::{
    content::{Content, Resume},
    discover::Discovering,
    doctor::Looked,
    error::ApiError,
    events::Events,
    told::told,
};

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answer in JSON may take: lookups go through other peers.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long placing the copies of an uploaded file may take, whatever its size; a little more than
/// peers try ...
const PLACED_WITHIN: Duration = Duration::from_secs(180);
/// ... and how much longer for each so many bytes.
const PLACED_BYTES_A_SECOND: u64 = 1 << 20;
/// How long a content may take to begin, and between two chunks: a piece is up to 16 MiB and is
/// verified before its first byte is released.
pub(crate) const SILENCE_TIMEOUT: Duration = Duration::from_secs(120);
/// Idle connections are closed by us before peers do.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Largest problem, and largest answer that is not a page.
const MAX_ANSWER: usize = 1 << 20;
/// Largest page.
const MAX_PAGE: usize = 8 << 20;
/// The media type of events.
const EVENT_STREAM: &str = "text/event-stream";
/// The media type of answers that are no content.
const JSON: &[u8] = b"application/json";
/// The largest page to ask for.
pub(crate) const PAGE: u32 = 1000;

/// The own peer.
pub(crate) struct Api {
    http: Client,
    /// For content alone: a peer sends what is still coming in from the page cache, but not over a
    /// connection on which it was asked for something else before (the rest of a content counts).
    content: Client,
    peer: PeerUrl,
    token: Option<String>,
}

/// What to download.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// Its name.
    pub(crate) name: Name,
    /// Which variant.
    pub(crate) digest: Option<Digest>,
    /// Only from this peer.
    pub(crate) from: Option<PeerRef>,
}

impl Api {
    /// Talks to `peer`, with `token` where there is one.
    pub(crate) fn new(peer: PeerUrl, token: Option<String>) -> Self {
        Self {
            http: connections(),
            content: connections(),
            peer,
            token,
        }
    }

    /// The own peer's address.
    pub(crate) fn peer(&self) -> &PeerUrl {
        &self.peer
    }

    /// How the own peer does.
    pub(crate) async fn status(&self) -> Result<Status, ApiError> {
        self.get(route::STATUS, &(), MAX_ANSWER).await
    }

    /// Links of the own peer.
    pub(crate) async fn peers(&self, cursor: Option<&str>) -> Result<Page<Peer>, ApiError> {
        self.get(route::PEERS, &[("cursor", cursor)], MAX_PAGE)
            .await
    }

    /// Links the own peer with the one whose overlay is at `url`.
    pub(crate) async fn link(&self, url: &str) -> Result<Peer, ApiError> {
        let body = ConnectRequest {
            url: url.to_owned(),
        };
        let response = self.post(route::PEERS, &body).await?;
        self.parse(response, MAX_ANSWER).await
    }

    /// Ends a link of the own peer: with a peer id, or a URL.
    pub(crate) async fn unlink(&self, peer: &str) -> Result<(), ApiError> {
        self.delete(&route::peer(peer)).await.map(drop)
    }

    /// Logs the own peer in to the network.
    pub(crate) async fn login(&self, request: &LoginRequest) -> Result<Session, ApiError> {
        let response = self.post(route::SESSION, request).await?;
        self.parse(response, MAX_ANSWER).await
    }

    /// Logs the own peer out.
    pub(crate) async fn logout(&self) -> Result<Session, ApiError> {
        let response = self.delete(route::SESSION).await?;
        self.parse(response, MAX_ANSWER).await
    }

    async fn delete(&self, path: &str) -> Result<ClientResponse, ApiError> {
        let request = self.own(self.http.delete(self.url(path)));
        let response = request
            .timeout(ANSWER_TIMEOUT)
            .send()
            .await
            .map_err(|error| ApiError::sending(&self.peer, error))?;
        self.successful(&self.peer, response).await
    }

    /// The overlays that the own peer is part of.
    pub(crate) async fn overlay(&self) -> Result<Overlays, ApiError> {
        self.get(route::OVERLAY, &(), MAX_PAGE).await
    }

    /// Has the own peer bring its overlays in order.
    pub(crate) async fn repair(&self) -> Result<(), ApiError> {
        self.post(route::REPAIR, &()).await.map(drop)
    }

    /// Has the own peer discover what others share.
    pub(crate) async fn discover(
        &self,
        request: &DiscoverRequest,
    ) -> Result<Discovering, ApiError> {
        let response = self.post(route::DISCOVER, request).await?;
        let wait = Duration::from_millis(request.wait_ms.unwrap_or_default());
        Ok(Discovering::new(
            self.peer.clone(),
            response,
            wait + ANSWER_TIMEOUT,
        ))
    }

    /// What discoveries of the own peer found.
    pub(crate) async fn discovered(
        &self,
        prefix: Option<&str>,
        limit: u32,
        cursor: Option<&str>,
    ) -> Result<Page<Variant>, ApiError> {
        let limit = limit.to_string();
        let query = [
            ("prefix", prefix),
            ("limit", Some(&*limit)),
            ("cursor", cursor),
        ];
        self.get(route::DISCOVER, &query, MAX_PAGE).await
    }

    /// What the own peer holds.
    pub(crate) async fn files(
        &self,
        prefix: Option<&str>,
        limit: u32,
        cursor: Option<&str>,
    ) -> Result<Page<FileEntry>, ApiError> {
        let limit = limit.to_string();
        let query = [
            ("prefix", prefix),
            ("limit", Some(&*limit)),
            ("cursor", cursor),
        ];
        self.get(route::FILES, &query, MAX_PAGE).await
    }

    /// Names in the network.
    pub(crate) async fn search(&self, query: &SearchQuery) -> Result<SearchPage, ApiError> {
        self.get(route::SEARCH, query, MAX_PAGE).await
    }

    /// What is told of the fetching of `digest`, as it happens.
    pub(crate) async fn events(&self, digest: &Digest) -> Result<Events, ApiError> {
        let request = self
            .own(self.http.get(self.url(route::EVENTS)))
            .insert_header((header::ACCEPT, EVENT_STREAM));
        let response = with_query(request, &[("digest", digest.to_string())])?
            .timeout(ANSWER_TIMEOUT)
            .send()
            .await
            .map_err(|error| ApiError::sending(&self.peer, error))?;
        let response = self.own_successful(response).await?;
        let media_type = response.headers().get(header::CONTENT_TYPE);
        if media_type.is_none_or(|value| !value.as_bytes().starts_with(EVENT_STREAM.as_bytes())) {
            return Err(ApiError::NotAPeer {
                origin: self.peer.clone(),
                why: "it sent something else than events".to_owned(),
            });
        }
        Ok(Events::new(response))
    }

    /// Variants and providers of `name`.
    pub(crate) async fn locate(&self, name: &Name) -> Result<Located, ApiError> {
        self.get(&route::locate(name), &(), MAX_PAGE).await
    }

    /// Opens the transparent download.
    pub(crate) async fn open(
        &self,
        wanted: &Wanted,
        resume: Option<Resume>,
    ) -> Result<Content, ApiError> {
        let digest = wanted.digest.map(|digest| digest.to_string());
        let from = wanted.from.as_ref().map(PeerRef::to_string);
        let query = [("digest", digest.as_deref()), ("from", from.as_deref())];
        let request = with_query(
            self.own(self.content.get(self.url(&route::file(&wanted.name)))),
            &query,
        )?;
        let response = self
            .send_for_content(&self.peer, request, resume)
            .await
            .map_err(ApiError::of_own_peer)?;
        // Other servers answer any path with a page.
        if !response.headers().contains_key(route::HEADER_VERIFIED) {
            return Err(ApiError::NotAPeer {
                origin: self.peer.clone(),
                why: format!("it sent something without {}", route::HEADER_VERIFIED),
            });
        }
        Content::new(self.peer.clone(), response)
    }

    /// Where the first system's `connect` says that `name` is; `None` when nobody has it.
    pub(crate) async fn connect(&self, name: &Name) -> Result<Option<PeerUrl>, ApiError> {
        let body = frozen::ConnectBody {
            body: [name.to_string()],
        };
        let request = self
            .own(self.http.post(self.url(frozen::CONNECT)))
            .timeout(ANSWER_TIMEOUT);
        let response = request
            .send_json(&body)
            .await
            .map_err(|error| ApiError::sending(&self.peer, error))?;
        let response = self.own_successful(response).await?;
        let answer = self
            .read(&self.peer, response, MAX_ANSWER, ANSWER_TIMEOUT)
            .await?;
        let answer = String::from_utf8_lossy(&answer);
        match answer.trim() {
            frozen::NOT_FOUND => Ok(None),
            url => match PeerUrl::parse(url) {
                Ok(origin) => Ok(Some(origin)),
                Err(_) => Err(ApiError::Garbled {
                    origin: self.peer.clone(),
                    what: format!("{url:?} is not the URL of a provider"),
                }),
            },
        }
    }

    /// Opens the first system's download at a provider. The token is not for it.
    pub(crate) async fn open_at(
        &self,
        provider: &PeerUrl,
        name: &Name,
        resume: Option<Resume>,
    ) -> Result<Content, ApiError> {
        let url = format!("{provider}{}{}", frozen::DOWNLOAD, name.to_url_path());
        let response = self
            .send_for_content(provider, self.content.get(url), resume)
            .await?;
        Content::new(provider.clone(), response)
    }

    async fn send_for_content(
        &self,
        origin: &PeerUrl,
        mut request: ClientRequest,
        resume: Option<Resume>,
    ) -> Result<ClientResponse, ApiError> {
        if let Some(Resume { offset, digest }) = resume {
            request = request
                .insert_header((header::RANGE, format!("bytes={offset}-")))
                .insert_header((header::IF_RANGE, format!("\"{digest}\"")));
        }
        let response = request
            .timeout(SILENCE_TIMEOUT)
            .send()
            .await
            .map_err(|error| ApiError::sending(origin, error))?;
        self.successful(origin, response).await
    }

    /// The digest under which the own peer itself holds `name` now.
    pub(crate) async fn held(&self, name: &Name) -> Result<Option<Digest>, ApiError> {
        let response = self
            .own(self.http.head(self.url(&route::file(name))))
            .timeout(ANSWER_TIMEOUT)
            .send()
            .await
            .map_err(|error| ApiError::sending(&self.peer, error))?;
        // Only other peers hold it, in one variant or in several: nothing to replace here.
        if matches!(response.status().as_u16(), 300 | 404) {
            return Ok(None);
        }
        let response = self.own_successful(response).await?;
        let source = response.headers().get(route::HEADER_SOURCE);
        // What it has not itself comes from another peer, or from one that is yet to be asked.
        if source.is_none_or(|source| source.as_bytes() != b"local") {
            return Ok(None);
        }
        Ok(content::etag_digest(response.headers()))
    }

    /// Shares `body` under `name`; with `replaces`, in the place of that content. Whether it is
    /// new there, and what the own peer says that it has now.
    /// Answers whether it is new, and what [`Api::stored`] reads the rest of the answer from.
    ///
    /// Has no timeout of its own: the caller watches whether the body moves.
    pub(crate) async fn put(
        &self,
        name: &Name,
        replaces: Option<Digest>,
        replicas: u32,
        body: impl MessageBody + 'static,
    ) -> Result<(bool, ClientResponse), ApiError> {
        let path = route::file(name);
        let mut request = self.own(self.http.put(self.url(&path)));
        if replicas > 0 {
            request = with_query(request, &[("replicas", replicas)])?;
        }
        request = request.content_type("application/octet-stream");
        if let Some(digest) = replaces {
            request = request.insert_header((header::IF_MATCH, format!("\"{digest}\"")));
        }
        let length = match body.size() {
            BodySize::Sized(length) => length,
            BodySize::None | BodySize::Stream => 0,
        };
        let response = match request.send_body(body).await {
            Ok(response) => response,
            Err(error) => return Err(self.put_failed(&path, length, error).await),
        };
        let created = response.status() == StatusCode::CREATED;
        let response = self.own_successful(response).await?;
        Ok((created, response))
    }

    /// Who holds what was put, once the copies of its `size` bytes are placed.
    pub(crate) async fn stored(
        &self,
        response: ClientResponse,
        size: u64,
    ) -> Result<Stored, ApiError> {
        let within = PLACED_WITHIN + Duration::from_secs(size / PLACED_BYTES_A_SECOND);
        self.parse_within(response, MAX_ANSWER, within).await
    }

    /// What is wrong with a `PUT` whose answer was lost.
    async fn put_failed(&self, path: &str, length: u64, error: SendRequestError) -> ApiError {
        let ours = matches!(error, SendRequestError::Body(_));
        let error = ApiError::sending(&self.peer, error);
        if ours || !matches!(error, ApiError::Broken { .. }) {
            return error;
        }
        match refusal::of_put(&self.peer, path, self.token.as_deref(), length).await {
            Some(refusal) => match serde_json::from_slice::<Problem>(&refusal.body) {
                Ok(problem) => ApiError::Problem(Box::new(problem)),
                Err(_) => ApiError::Unexpected {
                    origin: self.peer.clone(),
                    status: refusal.status,
                },
            },
            None => error,
        }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.peer)
    }

    fn own(&self, request: ClientRequest) -> ClientRequest {
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &impl Serialize,
        limit: usize,
    ) -> Result<T, ApiError> {
        let request = with_query(self.own(self.http.get(self.url(path))), query)?;
        let response = request
            .timeout(ANSWER_TIMEOUT)
            .send()
            .await
            .map_err(|error| ApiError::sending(&self.peer, error))?;
        let response = self.own_successful(response).await?;
        self.parse(response, limit).await
    }

    async fn post(&self, path: &str, body: &impl Serialize) -> Result<ClientResponse, ApiError> {
        let request = self.own(self.http.post(self.url(path)));
        let response = request
            .timeout(ANSWER_TIMEOUT)
            .send_json(body)
            .await
            .map_err(|error| ApiError::sending(&self.peer, error))?;
        self.successful(&self.peer, response).await
    }

    async fn parse<T: DeserializeOwned>(
        &self,
        response: ClientResponse,
        limit: usize,
    ) -> Result<T, ApiError> {
        self.parse_within(response, limit, ANSWER_TIMEOUT).await
    }

    async fn parse_within<T: DeserializeOwned>(
        &self,
        response: ClientResponse,
        limit: usize,
        within: Duration,
    ) -> Result<T, ApiError> {
        let media_type = response.headers().get(header::CONTENT_TYPE);
        if media_type.is_none_or(|value| !value.as_bytes().starts_with(JSON)) {
            return Err(ApiError::NotAPeer {
                origin: self.peer.clone(),
                why: "it sent something else than JSON".to_owned(),
            });
        }
        let body = self.read(&self.peer, response, limit, within).await?;
        serde_json::from_slice(&body).map_err(|error| ApiError::Garbled {
            origin: self.peer.clone(),
            what: error.to_string(),
        })
    }

    /// Lets 2xx of the own peer pass; makes an error of the rest.
    async fn own_successful(&self, response: ClientResponse) -> Result<ClientResponse, ApiError> {
        self.successful(&self.peer, response)
            .await
            .map_err(ApiError::of_own_peer)
    }

    /// Lets 2xx pass; makes an error of the rest.
    async fn successful(
        &self,
        origin: &PeerUrl,
        response: ClientResponse,
    ) -> Result<ClientResponse, ApiError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let unexpected = || ApiError::Unexpected {
            origin: origin.clone(),
            status: status.as_u16(),
        };
        let media_type = response.headers().get(header::CONTENT_TYPE);
        let is_problem = media_type
            .is_some_and(|value| value.as_bytes().starts_with(problem::MEDIA_TYPE.as_bytes()));
        if !is_problem {
            return Err(unexpected());
        }
        let body = self
            .read(origin, response, MAX_ANSWER, ANSWER_TIMEOUT)
            .await?;
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => Err(ApiError::Problem(Box::new(problem))),
            Err(_) => Err(unexpected()),
        }
    }

    /// Reads a body of at most `limit` bytes, which ends `within` that time and is never silent for
    /// longer than [`ANSWER_TIMEOUT`].
    async fn read(
        &self,
        origin: &PeerUrl,
        mut response: ClientResponse,
        limit: usize,
        within: Duration,
    ) -> Result<Vec<u8>, ApiError> {
        let expected = content::content_length(response.headers());
        let mut body = Vec::new();
        let all = async {
            loop {
                let next = actix_rt::time::timeout(ANSWER_TIMEOUT, response.next()).await;
                let next = next.map_err(|_| ApiError::silent(origin, ANSWER_TIMEOUT))?;
                let Some(chunk) = next else { break };
                let chunk = chunk.map_err(|error| ApiError::receiving(origin, error))?;
                if body.len() + chunk.len() > limit {
                    return Err(ApiError::Garbled {
                        origin: origin.clone(),
                        what: format!("it is longer than {limit} bytes"),
                    });
                }
                body.extend_from_slice(&chunk);
            }
            Ok(())
        };
        actix_rt::time::timeout(within, all)
            .await
            .map_err(|_| ApiError::silent(origin, within))??;
        if expected.is_some_and(|expected| expected > body.len() as u64) {
            return Err(ApiError::broken(origin));
        }
        Ok(body)
    }
}

/// Connections that are kept for a while.
fn connections() -> Client {
    let connector = Connector::new()
        .timeout(CONNECT_TIMEOUT)
        .conn_keep_alive(KEEP_ALIVE);
    Client::builder()
        .connector(connector)
        .disable_redirects()
        .disable_timeout()
        .add_default_header((
            header::USER_AGENT,
            concat!("vecino-client/", env!("CARGO_PKG_VERSION")),
        ))
        .finish()
}

fn with_query(request: ClientRequest, query: &impl Serialize) -> Result<ClientRequest, ApiError> {
    let request = request
        .query(query)
        .map_err(|error| ApiError::Request(error.to_string()))?;
    // Where nothing is asked for, no `?` is left behind either.
    match request.get_uri().to_string().strip_suffix('?') {
        Some(bare) => Ok(request.uri(bare)),
        None => Ok(request),
    }
}
