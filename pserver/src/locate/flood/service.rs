//! The gRPC side of a link: takes calls of other peers.

use std::{pin::Pin, sync::Arc};

use tokio::time::timeout;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use vecino_grpc::v1::{
    self,
    gossip_refusal::Reason,
    gossip_server::{Gossip, GossipServer},
};

use super::{
    limits::{HELLO_WITHIN, MAX_FRAME},
    link,
    state::Shared,
    wire::{self, Incoming},
};

/// See the module.
#[derive(Debug)]
pub(super) struct Service(Arc<Shared>);

/// The service as it is added to a server.
pub(super) fn service(shared: Arc<Shared>) -> GossipServer<Service> {
    GossipServer::new(Service(shared)).max_decoding_message_size(MAX_FRAME)
}

#[tonic::async_trait]
impl Gossip for Service {
    type LinkStream = Pin<Box<dyn Stream<Item = Result<v1::GossipFrame, Status>> + Send>>;

    async fn link(
        &self,
        request: Request<Streaming<v1::GossipFrame>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        let address = request.remote_addr().map(|address| address.ip());
        let mut incoming = request.into_inner();
        let first = timeout(HELLO_WITHIN, incoming.message())
            .await
            .map_err(|_| Status::deadline_exceeded("the first message is missing"))??;
        let accepted = match first.and_then(wire::parse) {
            Some(Incoming::Hello(hello)) => self.0.accept(hello, address),
            _ => Err((Reason::BadHello, Vec::new())),
        };
        match accepted {
            Ok(ends) => {
                tokio::spawn(link::run(self.0.clone(), ends.id, incoming, ends.over));
                let frames = ends.frames.map(Ok);
                Ok(Response::new(Box::pin(frames)))
            }
            Err((reason, elsewhere)) => {
                let refusal = wire::refusal(reason, &elsewhere);
                Ok(Response::new(Box::pin(tokio_stream::once(Ok(refusal)))))
            }
        }
    }
}
