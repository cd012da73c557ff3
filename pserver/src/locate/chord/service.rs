//! The gRPC side: what other members ask of this one.
//!
//! Invariant: nothing here changes a publisher's records, or hands any over, before the sender's
//! token was checked with the peer that it says it is.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};
use vecino_grpc::v1::{
    self,
    chord_server::{Chord, ChordServer},
};

use super::{
    member::Member,
    node::Node,
    records::Provided,
    state::{self, NotMember},
    timing::{MAX_MESSAGE, MAX_VETTED, RECORDS_A_MESSAGE, RECORDS_A_NAME},
    wire::{self, Invalid},
};

/// See the module.
#[derive(Debug)]
pub(super) struct Service {
    node: Arc<Node>,
    notified: Arc<Semaphore>,
}

impl Service {
    pub(super) fn server(node: Arc<Node>) -> ChordServer<Self> {
        let notified = Arc::new(Semaphore::new(MAX_VETTED));
        ChordServer::new(Self { node, notified })
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    /// Refuses what is meant for another peer.
    fn is_for_me(&self, to: &[u8]) -> Result<(), Status> {
        let me = self.node.me.contact.peer;
        if to.is_empty() || to == me.as_bytes() {
            return Ok(());
        }
        Err(Status::failed_precondition(format!("this is peer {me}")))
    }

    /// Gives `request` to the ring, and carries out what it wants done.
    fn ring(&self, request: state::Request) -> Result<state::Response, Status> {
        let handled = self.node.ring().handle(request);
        let (response, calls) = handled?;
        self.node.carry(calls);
        Ok(response)
    }

    /// The sender of a message that only it may send.
    async fn sender(
        &self,
        to: &[u8],
        from: Option<v1::ChordMember>,
        token: &[u8],
    ) -> Result<Member, Status> {
        self.is_for_me(to)?;
        let sender = self.node.reader.member("from", from)?;
        if !self.node.is_sent_by(&sender, token).await {
            return Err(Status::permission_denied(format!(
                "peer {} at {} does not vouch for the token",
                sender.contact.peer, sender.contact.overlay
            )));
        }
        Ok(sender)
    }
}

impl From<NotMember> for Status {
    fn from(error: NotMember) -> Self {
        Self::unavailable(error.to_string())
    }
}

impl From<Invalid> for Status {
    fn from(error: Invalid) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Chord for Service {
    async fn neighbours(
        &self,
        request: Request<v1::ChordNeighboursRequest>,
    ) -> Answer<v1::ChordNeighboursResponse> {
        self.is_for_me(&request.get_ref().to)?;
        let state::Response::Neighbours {
            predecessor,
            successors,
        } = self.ring(state::Request::Neighbours)?
        else {
            return Err(Status::internal("no neighbours"));
        };
        Ok(Response::new(v1::ChordNeighboursResponse {
            me: Some(wire::from_member(&self.node.me)),
            predecessor: predecessor.as_ref().map(wire::from_member),
            successors: wire::from_members(&successors),
        }))
    }

    async fn step(&self, request: Request<v1::ChordStepRequest>) -> Answer<v1::ChordStepResponse> {
        let request = request.into_inner();
        self.is_for_me(&request.to)?;
        let place = wire::place("place", &request.place)?;
        let state::Response::Step(step) = self.ring(state::Request::Step(place))? else {
            return Err(Status::internal("no step"));
        };
        Ok(Response::new(v1::ChordStepResponse {
            successors: wire::from_members(&step.successors),
            closer: wire::from_members(&step.closer),
        }))
    }

    async fn notify(
        &self,
        request: Request<v1::ChordNotifyRequest>,
    ) -> Answer<v1::ChordNotifyResponse> {
        let request = request.into_inner();
        self.is_for_me(&request.to)?;
        // Whether it is there, and is who it says, the ring finds out with a ping to it.
        let from = self.node.reader.member("from", request.from)?;
        let Ok(examined) = self.notified.clone().try_acquire_owned() else {
            return Err(Status::resource_exhausted("too many notify at a time"));
        };
        let (node, token) = (self.node.clone(), request.token);
        tokio::spawn(async move {
            node.clone().notified(from.clone()).await;
            // Known when it leaves, and can no longer be asked.
            node.is_sent_by(&from, &token).await;
            drop(examined);
        });
        Ok(Response::new(v1::ChordNotifyResponse {}))
    }

    async fn leaving(
        &self,
        request: Request<v1::ChordLeavingRequest>,
    ) -> Answer<v1::ChordLeavingResponse> {
        let request = request.into_inner();
        self.is_for_me(&request.to)?;
        // Nothing is believed: a ping tells whether it is gone.
        let from = self.node.reader.member("from", request.from)?;
        self.ring(state::Request::Leaving(from))?;
        Ok(Response::new(v1::ChordLeavingResponse {}))
    }

    async fn ping(&self, request: Request<v1::ChordPingRequest>) -> Answer<v1::ChordPingResponse> {
        self.is_for_me(&request.get_ref().to)?;
        if *self.node.context.stopping.borrow() {
            return Err(NotMember.into());
        }
        Ok(Response::new(v1::ChordPingResponse {
            is_member: self.node.ring().is_member(),
        }))
    }

    async fn vouch(
        &self,
        request: Request<v1::ChordVouchRequest>,
    ) -> Answer<v1::ChordVouchResponse> {
        let request = request.into_inner();
        self.is_for_me(&request.to)?;
        let holder = wire::peer("holder", &request.holder)?;
        Ok(Response::new(v1::ChordVouchResponse {
            is_mine: self.node.secret.is_token_for(&holder, &request.token),
        }))
    }

    async fn store(
        &self,
        request: Request<v1::ChordStoreRequest>,
    ) -> Answer<v1::ChordStoreResponse> {
        let request = request.into_inner();
        let records = wire::records(request.records)?;
        let sender = self
            .sender(&request.to, request.from, &request.token)
            .await?;
        let life = Duration::from_secs(request.life_seconds.into()).min(self.node.timing.life);
        let expires = self.node.now() + life;
        let provided = records.into_iter().map(|record| Provided {
            record,
            provider: sender.contact.clone(),
            expires,
        });
        let taken = self.node.records().keep(provided.collect(), true);
        Ok(Response::new(v1::ChordStoreResponse {
            kept: u32::try_from(taken.kept).unwrap_or(u32::MAX),
            refused: u32::try_from(taken.refused).unwrap_or(u32::MAX),
        }))
    }

    async fn withdraw(
        &self,
        request: Request<v1::ChordWithdrawRequest>,
    ) -> Answer<v1::ChordWithdrawResponse> {
        let request = request.into_inner();
        let records = wire::records(request.records)?;
        let sender = self
            .sender(&request.to, request.from, &request.token)
            .await?;
        let peer = sender.contact.peer;
        let mut kept = self.node.records();
        if request.all {
            kept.withdraw_all(&peer);
        }
        for record in records {
            kept.withdraw(&peer, &record.name, &record.digest);
        }
        Ok(Response::new(v1::ChordWithdrawResponse {}))
    }

    async fn fetch(
        &self,
        request: Request<v1::ChordFetchRequest>,
    ) -> Answer<v1::ChordFetchResponse> {
        let request = request.into_inner();
        self.is_for_me(&request.to)?;
        let name = wire::name(&request.name)?;
        let now = self.node.now();
        let mut provided = self.node.records().find(&name, now);
        provided.truncate(RECORDS_A_NAME);
        Ok(Response::new(v1::ChordFetchResponse {
            provided: wire::from_provided(&provided, now),
        }))
    }

    async fn take_over(
        &self,
        request: Request<v1::ChordTakeOverRequest>,
    ) -> Answer<v1::ChordTakeOverResponse> {
        let request = request.into_inner();
        self.is_for_me(&request.to)?;
        let place = wire::place("place", &request.place)?;
        let after = wire::cursor(&request.cursor)?;
        let now = self.node.now();
        // What lies after the new member is none of its business.
        let but = (&place, &self.node.me.id);
        let (page, more) = self.node.records().page(after, but, RECORDS_A_MESSAGE, now);
        Ok(Response::new(v1::ChordTakeOverResponse {
            provided: wire::from_provided(&page, now),
            cursor: more.as_ref().map(wire::from_id).unwrap_or_default(),
        }))
    }

    async fn hand_over(
        &self,
        request: Request<v1::ChordHandOverRequest>,
    ) -> Answer<v1::ChordHandOverResponse> {
        let request = request.into_inner();
        let provided =
            self.node
                .reader
                .provided(request.provided, self.node.now(), self.node.timing.life)?;
        let sender = self
            .sender(&request.to, request.from, &request.token)
            .await?;
        if self.node.ring().predecessor() != Some(&sender) {
            return Err(Status::permission_denied(
                "only the predecessor may hand over records",
            ));
        }
        self.node.records().keep(provided, false);
        Ok(Response::new(v1::ChordHandOverResponse {}))
    }
}
