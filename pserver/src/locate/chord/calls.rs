//! Requests to other members, and who answered lately.
//!
//! Invariant: every request names the peer it is meant for and ends within `timing.answer`. A
//! member that was silent is passed over for a while, so that a dead one does not cost every
//! lookup its timeout.

use std::time::Duration;

use moka::sync::Cache;
use tokio::time::timeout;
use tonic::{Code, Status, transport::Channel};
use vecino_grpc::v1::{self, chord_client::ChordClient};
use vecino_rest::{PeerId, PeerUrl};

use super::{
    member::Member,
    state::{Request, Response, Step},
    timing::{MAX_MESSAGE, MAX_REMEMBERED, Timing},
    wire::{self, Reader},
};
use crate::locate::overlay::{Channels, Contact};

/// Why there is no answer that could be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    /// Not in time.
    #[error("no answer in time")]
    Silent,
    /// The peer, or the way to it, said no.
    #[error("{}", .0.message())]
    Refused(#[from] Box<Status>),
    /// Its address leads nowhere.
    #[error(transparent)]
    Unresolved(#[from] crate::download::provider_url::Unresolved),
    /// What it answered is wrong.
    #[error("wrong answer: {0}")]
    Invalid(#[from] wire::Invalid),
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Calls {
    channels: Channels,
    reader: Reader,
    answer: Duration,
    silent: Cache<PeerId, ()>,
    alive: Cache<PeerId, ()>,
}

type Client = ChordClient<Channel>;

impl Calls {
    pub(super) fn new(channels: Channels, reader: Reader, timing: &Timing) -> Self {
        let remembering = |life| {
            Cache::builder()
                .max_capacity(MAX_REMEMBERED)
                .time_to_live(life)
                .build()
        };
        Self {
            channels,
            reader,
            answer: timing.answer,
            silent: remembering(timing.silent),
            alive: remembering(timing.alive),
        }
    }

    /// Whether it was silent lately.
    pub(super) fn was_silent(&self, peer: &PeerId) -> bool {
        self.silent.contains_key(peer)
    }

    async fn to<T>(
        &self,
        url: &PeerUrl,
        ask: impl AsyncFnOnce(Client) -> Result<tonic::Response<T>, Status>,
    ) -> Result<T, Failed> {
        let asking = async {
            let channel = self.channels.to(url).await?;
            let client = ChordClient::new(channel)
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE);
            Ok(ask(client).await?.into_inner())
        };
        timeout(self.answer, asking)
            .await
            .unwrap_or(Err(Failed::Silent))
    }

    /// Asks `contact`, and remembers whether it answered.
    pub(super) async fn ask<T>(
        &self,
        contact: &Contact,
        ask: impl AsyncFnOnce(Client) -> Result<tonic::Response<T>, Status>,
    ) -> Result<T, Failed> {
        let answer = self.to(&contact.overlay, ask).await;
        match &answer {
            Ok(_) => {
                self.silent.invalidate(&contact.peer);
                self.alive.insert(contact.peer, ());
            }
            Err(Failed::Refused(status)) if is_answer(status.code()) => {}
            Err(error) => {
                log::debug!("peer {} at {}: {error}", contact.peer, contact.overlay);
                self.alive.invalidate(&contact.peer);
                self.silent.insert(contact.peer, ());
            }
        }
        answer
    }

    /// Whether `contact` is there, be it a member or not.
    pub(super) async fn lives(&self, contact: &Contact) -> bool {
        if self.alive.contains_key(&contact.peer) {
            return true;
        }
        let request = v1::ChordPingRequest {
            to: wire::from_peer(&contact.peer),
        };
        let ping = async |mut client: Client| client.ping(request).await;
        self.ask(contact, ping).await.is_ok()
    }

    /// Who is at a seed's address, with its successor list.
    pub(super) async fn seed(&self, url: &PeerUrl) -> Result<(Member, Vec<Member>), Failed> {
        let request = v1::ChordNeighboursRequest::default();
        let answer = self
            .to(url, async |mut client: Client| {
                client.neighbours(request).await
            })
            .await?;
        let member = self.reader.member("me", answer.me)?;
        let successors = self.reader.members("successors", answer.successors)?;
        Ok((member, successors))
    }

    /// One step of a lookup.
    pub(super) async fn step(&self, to: &Member, place: &super::id::Id) -> Result<Step, Failed> {
        let request = v1::ChordStepRequest {
            to: wire::from_peer(&to.contact.peer),
            place: wire::from_id(place),
        };
        let ask = async |mut client: Client| client.step(request).await;
        let answer = self.ask(&to.contact, ask).await?;
        Ok(Step {
            successors: self.reader.members("successors", answer.successors)?,
            closer: self.reader.members("closer", answer.closer)?,
        })
    }

    /// Carries a request of the ring; `token` proves to `to` who sends it.
    pub(super) async fn ring(
        &self,
        to: &Member,
        request: Request,
        token: impl FnOnce() -> bytes::Bytes,
    ) -> Result<Response, Failed> {
        let peer = wire::from_peer(&to.contact.peer);
        let contact = &to.contact;
        match request {
            Request::Neighbours => {
                let request = v1::ChordNeighboursRequest { to: peer };
                let ask = async |mut client: Client| client.neighbours(request).await;
                let answer = self.ask(contact, ask).await?;
                let predecessor = answer.predecessor;
                Ok(Response::Neighbours {
                    predecessor: predecessor
                        .map(|member| self.reader.member("predecessor", Some(member)))
                        .transpose()?,
                    successors: self.reader.members("successors", answer.successors)?,
                })
            }
            Request::Step(place) => self.step(to, &place).await.map(Response::Step),
            Request::Notify(from) => {
                let request = v1::ChordNotifyRequest {
                    to: peer,
                    from: Some(wire::from_member(&from)),
                    token: token(),
                };
                let ask = async |mut client: Client| client.notify(request).await;
                self.ask(contact, ask).await.map(|_| Response::Done)
            }
            Request::Ping => {
                let request = v1::ChordPingRequest { to: peer };
                let ask = async |mut client: Client| client.ping(request).await;
                match self.ask(contact, ask).await?.is_member {
                    true => Ok(Response::Done),
                    false => Err(Status::unavailable("no member").into()),
                }
            }
            Request::Leaving(from) => {
                let request = v1::ChordLeavingRequest {
                    to: peer,
                    from: Some(wire::from_member(&from)),
                    token: token(),
                };
                let ask = async |mut client: Client| client.leaving(request).await;
                self.ask(contact, ask).await.map(|_| Response::Done)
            }
        }
    }
}

/// Whether a status came from the peer itself, which therefore lives.
fn is_answer(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument | Code::PermissionDenied | Code::ResourceExhausted
    )
}
