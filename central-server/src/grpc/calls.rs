//! `vecino.v1.Directory` with a bound of its own on each call's messages.
//!
//! tonic has one limit a service. Only Announce needs great messages, so the service is there
//! twice, and the path decides.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use tonic::{
    body::Body,
    codegen::{BoxFuture, Service, http},
    server::NamedService,
};
use vecino_grpc::v1::directory_server::DirectoryServer;

use super::{
    DirectoryService, MAX_MESSAGE_BYTES, MAX_REQUEST_BYTES, MESSAGE_WITHIN, whole::WholeMessages,
};

/// The path of the one call with great messages.
const ANNOUNCE: &str = "/vecino.v1.Directory/Announce";

type Bounded = DirectoryServer<DirectoryService>;

/// The service as it is reached from outside.
#[derive(Clone)]
pub(crate) struct DirectoryCalls {
    announce: Bounded,
    other: Bounded,
}

impl DirectoryCalls {
    pub(crate) fn new(service: DirectoryService) -> Self {
        let service = Arc::new(service);
        let bounded = |bytes| {
            DirectoryServer::from_arc(service.clone())
                .max_decoding_message_size(bytes)
                .max_encoding_message_size(MAX_MESSAGE_BYTES)
        };
        Self {
            announce: bounded(MAX_MESSAGE_BYTES),
            other: bounded(MAX_REQUEST_BYTES),
        }
    }
}

impl NamedService for DirectoryCalls {
    const NAME: &'static str = Bounded::NAME;
}

impl Service<http::Request<Body>> for DirectoryCalls {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = if request.uri().path() == ANNOUNCE {
            &mut self.announce
        } else {
            &mut self.other
        };
        service.call(request.map(|body| WholeMessages::new(body, MESSAGE_WITHIN)))
    }
}
