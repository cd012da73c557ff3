//! `vecino.v1.Directory`: one method a verb.
//!
//! Streams are pull-driven: a request is read when there is room for its answer, so a client
//! that does not read its answers is not read from either, and nothing is buffered for it
//! beyond the windows of the connection. When the locator shuts down, streams stop reading,
//! answer what they have read, and end.

use std::{sync::Arc, time::Instant};

use futures_util::{
    Stream, StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
};
use tonic::{Request, Response, Status, Streaming};
use vecino_grpc::v1::{self, directory_server::Directory as Service};

use super::{
    KEEP_ALIVE_IDLE_LEASES, LOCATE_IDLE, MAX_ANNOUNCES_IN_FLIGHT, MAX_ANNOUNCES_PER_CONNECTION,
    idle::until_idle, lookups::Answers, request, response,
};
use crate::{
    account::{Accounts, Admission},
    behind::there,
    connections::Origin,
    directory::{Begun, Directory, Durable, search::Query},
    metrics::{Lookup, Metrics, Outcome, StreamKind, count},
};

/// The service over a directory.
pub(crate) struct DirectoryService {
    directory: Arc<Directory>,
    accounts: Arc<Accounts>,
    metrics: Arc<Metrics>,
    closing: watch::Receiver<bool>,
    behind: Handle,
}

impl DirectoryService {
    /// `closing` becomes true when the locator shuts down; what lookups go before is done `behind`
    /// them.
    pub(crate) fn new(
        directory: Arc<Directory>,
        accounts: Arc<Accounts>,
        metrics: Arc<Metrics>,
        closing: watch::Receiver<bool>,
        behind: Handle,
    ) -> Self {
        Self {
            directory,
            accounts,
            metrics,
            closing,
            behind,
        }
    }

    /// The messages of a stream until it ends or the locator shuts down.
    fn until_closing<T: Send + 'static>(
        &self,
        messages: Streaming<T>,
    ) -> impl Stream<Item = Result<T, Status>> + Send + use<T> {
        let mut closing = self.closing.clone();
        messages.take_until(async move {
            // An error means that the server is gone, which is closing, too.
            let _ = closing.wait_for(|closing| *closing).await;
        })
    }

    async fn register_peer(
        &self,
        mut message: v1::RegisterRequest,
        origin: &Origin,
    ) -> Result<v1::RegisterResponse, Status> {
        let observed = origin.ip()?;
        let shown = std::mem::take(&mut message.session_token);
        let registration = request::registration(message, observed)?;
        // Before the token is looked at: it stays good for when the peer needs a lease here.
        if let Some(directory) = self.directory.elsewhere(&registration) {
            return Ok(v1::RegisterResponse {
                directory: directory.to_vec().into(),
                ..Default::default()
            });
        }
        origin.turns.next().await;
        let peer = registration.key.peer_id();
        let (session, next) = match self.accounts.admit(&peer, &shown).await? {
            Some(Admission { session, token }) => (Some(session), token.to_vec()),
            None => (None, Vec::new()),
        };
        let welcome = self
            .directory
            .register(registration, session.clone())
            .await?;
        if let Some(session) = session
            && let Err(error) = self.accounts.confirm(&session).await
        {
            self.directory.expel(&peer).await?;
            return Err(error.into());
        }
        log::debug!("peer {} registered as {}", welcome.peer, welcome.public_url);
        Ok(v1::RegisterResponse {
            peer_id: welcome.peer.as_bytes().to_vec().into(),
            lease_token: welcome.token.to_vec().into(),
            lease_seconds: lease_seconds(&self.directory),
            observed_address: observed.to_string(),
            public_url: welcome.public_url,
            fingerprints: welcome.fingerprints.to_wire().into(),
            session_token: next.into(),
            directory: welcome.directory.map_or_else(Vec::new, Vec::from).into(),
        })
    }
}

async fn locate(
    directory: &Directory,
    metrics: &Metrics,
    kind: Lookup,
    lookup: impl FnOnce() -> Result<crate::directory::Lookup, Status>,
) -> Result<v1::LocateResponse, Status> {
    let began = Instant::now();
    let located = match lookup() {
        Ok(lookup) => directory.locate(&lookup).await.map_err(Status::from),
        Err(status) => Err(status),
    };
    let outcome = match &located {
        Ok(variants) if variants.is_empty() => Outcome::none,
        Ok(_) => Outcome::found,
        Err(_) => Outcome::error,
    };
    metrics.lookup(kind, outcome, began.elapsed());
    Ok(response::located(located?))
}

/// The batches of one Announce stream: they take effect in the order in which they were sent, and
/// some of them are on their way to the disk at once. After one that fails at once none is begun;
/// some may have been begun before one fails later. The peer cannot know: it compares.
struct Announces {
    directory: Arc<Directory>,
    /// One for each batch on its way; all of them for a batch that must be alone.
    places: Arc<Semaphore>,
}

/// A batch on its way, or at its end.
struct Batch<T> {
    number: u64,
    step: T,
    place: OwnedSemaphorePermit,
}

impl Announces {
    async fn begin(&self, message: v1::AnnounceRequest) -> Result<Batch<Begun>, Status> {
        let who = request::credentials(&message.peer_id, &message.lease_token)?;
        let announcement =
            request::announcement(message.announce, message.withdraw, message.replace_bucket)?;
        let places = match announcement.may_be_on_its_way() {
            true => 1,
            false => MAX_ANNOUNCES_IN_FLIGHT as u32,
        };
        let place = self.places.clone().acquire_many_owned(places).await;
        let place = place.map_err(|_| Status::internal("a stream lost its places"))?;
        // It waits for room that all peers share: polled whatever becomes of this stream, whose peer may
        // not read its answers, or it would keep what it was given. It ends with the stream.
        let directory = self.directory.clone();
        let mut waiting = JoinSet::new();
        waiting.spawn(async move { directory.begin_announcement(&who, announcement).await });
        let begun = waiting.join_next().await;
        let begun = begun.and_then(Result::ok);
        let begun = begun.ok_or_else(|| Status::internal("a batch was interrupted"))?;
        Ok(Batch {
            number: message.batch,
            step: begun?,
            place,
        })
    }

    fn end(&self, batch: Batch<Durable>) -> Result<v1::AnnounceResponse, Status> {
        let records = self.directory.end_announcement(batch.step)?;
        drop(batch.place);
        Ok(v1::AnnounceResponse {
            batch: batch.number,
            records,
        })
    }
}

impl Batch<Begun> {
    async fn durable(self) -> Batch<Durable> {
        Batch {
            number: self.number,
            step: self.step.durable().await,
            place: self.place,
        }
    }
}

async fn keep_alive(
    directory: &Directory,
    message: v1::KeepAliveRequest,
) -> Result<v1::KeepAliveResponse, Status> {
    let who = request::credentials(&message.peer_id, &message.lease_token)?;
    let held = directory.keep_alive(&who, message.free_bytes, message.compare);
    let held = held.await?.map(|fingerprints| fingerprints.to_wire());
    Ok(v1::KeepAliveResponse {
        lease_seconds: lease_seconds(directory),
        fingerprints: held.unwrap_or_default().into(),
    })
}

fn lease_seconds(directory: &Directory) -> u32 {
    u32::try_from(directory.lease().as_secs().max(1)).unwrap_or(u32::MAX)
}

/// The connection on which a call came.
pub(super) fn origin<T>(request: &Request<T>) -> Result<&Origin, Status> {
    let origin = request.extensions().get();
    origin.ok_or_else(|| Status::internal("the call has no connection"))
}

/// Ends a stream with its first error.
fn fused<T>(
    messages: impl Stream<Item = Result<T, Status>> + Send + 'static,
) -> impl Stream<Item = Result<T, Status>> + Send + 'static
where
    T: Send + 'static,
{
    messages.scan(false, |failed, message| {
        let ended = std::mem::replace(failed, message.is_err());
        std::future::ready((!ended).then_some(message))
    })
}

#[tonic::async_trait]
impl Service for DirectoryService {
    type KeepAliveStream = BoxStream<'static, Result<v1::KeepAliveResponse, Status>>;
    type AnnounceStream = BoxStream<'static, Result<v1::AnnounceResponse, Status>>;
    type LocateStreamStream = BoxStream<'static, Result<v1::LocateStreamResponse, Status>>;

    async fn register(
        &self,
        request: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterResponse>, Status> {
        let origin = origin(&request)?.clone();
        let registered = self.register_peer(request.into_inner(), &origin).await;
        count(&self.metrics.registrations, &registered);
        registered.map(Response::new)
    }

    async fn keep_alive(
        &self,
        request: Request<Streaming<v1::KeepAliveRequest>>,
    ) -> Result<Response<Self::KeepAliveStream>, Status> {
        let (directory, metrics) = (self.directory.clone(), self.metrics.clone());
        let open = Arc::new(metrics.stream(StreamKind::keepalive));
        let idle = directory.lease() * KEEP_ALIVE_IDLE_LEASES;
        let messages = until_idle(self.until_closing(request.into_inner()), idle);
        let answers = messages.then(move |message| {
            let (directory, metrics, open) = (directory.clone(), metrics.clone(), open.clone());
            async move {
                let _open = open;
                let answer = match message {
                    Ok(message) => keep_alive(&directory, message).await,
                    Err(status) => Err(status),
                };
                count(&metrics.keepalives, &answer);
                answer
            }
        });
        Ok(Response::new(fused(answers).boxed()))
    }

    async fn announce(
        &self,
        request: Request<Streaming<v1::AnnounceRequest>>,
    ) -> Result<Response<Self::AnnounceStream>, Status> {
        let (directory, metrics) = (self.directory.clone(), self.metrics.clone());
        let place = origin(&request)?.announces.clone().try_acquire_owned();
        let place = place.map_err(|_| {
            Status::resource_exhausted(format!(
                "the connection has {MAX_ANNOUNCES_PER_CONNECTION} Announce streams already"
            ))
        })?;
        let open = (metrics.stream(StreamKind::announce), place);
        let announces = Arc::new(Announces {
            directory,
            places: Arc::new(Semaphore::new(MAX_ANNOUNCES_IN_FLIGHT)),
        });
        let messages = Box::pin(self.until_closing(request.into_inner()));
        let begun = stream::try_unfold(
            (messages, announces.clone()),
            async |(mut messages, announces)| {
                let Some(message) = messages.try_next().await? else {
                    return Ok(None);
                };
                let begun = announces.begin(message).await?;
                Ok(Some((begun, (messages, announces))))
            },
        );
        let durable = begun
            .map(|begun: Result<Batch<Begun>, Status>| async { Ok(begun?.durable().await) })
            .buffered(MAX_ANNOUNCES_IN_FLIGHT);
        // What waits for nobody is done here: to end a batch, and to end the stream.
        let answers =
            there(&self.behind, durable).map(move |batch: Result<Batch<Durable>, Status>| {
                let _open = &open;
                let answer = batch.and_then(|batch| announces.end(batch));
                count(&metrics.announce_batches, &answer);
                answer
            });
        Ok(Response::new(fused(answers).boxed()))
    }

    async fn deregister(
        &self,
        request: Request<v1::DeregisterRequest>,
    ) -> Result<Response<v1::DeregisterResponse>, Status> {
        let message = request.into_inner();
        let done = async {
            let who = request::credentials(&message.peer_id, &message.lease_token)?;
            Ok::<_, Status>(self.directory.deregister(&who).await?)
        };
        let done = done.await;
        count(&self.metrics.deregistrations, &done);
        done.map(|()| Response::new(v1::DeregisterResponse {}))
    }

    async fn locate(
        &self,
        request: Request<v1::LocateRequest>,
    ) -> Result<Response<v1::LocateResponse>, Status> {
        let lookup = || Ok(request::lookup(request.into_inner())?);
        let located = locate(&self.directory, &self.metrics, Lookup::unary, lookup).await;
        located.map(Response::new)
    }

    async fn locate_stream(
        &self,
        request: Request<Streaming<v1::LocateStreamRequest>>,
    ) -> Result<Response<Self::LocateStreamStream>, Status> {
        use v1::locate_stream_response::Outcome;
        let (directory, metrics) = (self.directory.clone(), self.metrics.clone());
        let open = metrics.stream(StreamKind::locate);
        let messages = until_idle(self.until_closing(request.into_inner()), LOCATE_IDLE);
        let answers = Answers::to(messages, move |message: Result<_, Status>| {
            let _open = &open;
            let (directory, metrics) = (directory.clone(), metrics.clone());
            async move {
                let v1::LocateStreamRequest { id, request } = message?;
                let lookup = || Ok(request::stream_lookup(request)?);
                let outcome = match locate(&directory, &metrics, Lookup::stream, lookup).await {
                    Ok(response) => Outcome::Response(response),
                    Err(status) => Outcome::Error(v1::LookupError {
                        code: status.code() as i32,
                        message: status.message().to_owned(),
                    }),
                };
                Ok(v1::LocateStreamResponse {
                    id,
                    outcome: Some(outcome),
                })
            }
        });
        Ok(Response::new(fused(answers).boxed()))
    }

    async fn search(
        &self,
        request: Request<v1::SearchRequest>,
    ) -> Result<Response<v1::SearchResponse>, Status> {
        let began = Instant::now();
        let message = request.into_inner();
        let page = async {
            let limit = request::limit(message.limit)?;
            let query = Query::parse(&message.query, &message.r#type, &message.prefix);
            let query = query.map_err(crate::directory::Error::from)?;
            Ok::<_, Status>(
                self.directory
                    .search(&query, limit, &message.cursor)
                    .await?,
            )
        };
        let page = page.await;
        let outcome = match &page {
            Ok((hits, _)) if hits.is_empty() => Outcome::none,
            Ok(_) => Outcome::found,
            Err(_) => Outcome::error,
        };
        self.metrics
            .lookup(Lookup::search, outcome, began.elapsed());
        let (hits, cursor) = page?;
        Ok(Response::new(v1::SearchResponse {
            hits: hits.into_iter().map(response::variant).collect(),
            cursor: cursor.into(),
        }))
    }

    async fn place(
        &self,
        request: Request<v1::PlaceRequest>,
    ) -> Result<Response<v1::PlaceResponse>, Status> {
        let began = Instant::now();
        let need = request::need(request.into_inner());
        let peers = need.map(|need| self.directory.place(&need));
        let outcome = match &peers {
            Ok(peers) if peers.is_empty() => Outcome::none,
            Ok(_) => Outcome::found,
            Err(_) => Outcome::error,
        };
        self.metrics.lookup(Lookup::place, outcome, began.elapsed());
        let peers = peers?
            .iter()
            .map(|peer| response::provider(peer, false))
            .collect();
        Ok(Response::new(v1::PlaceResponse { peers }))
    }
}
