//! Which call goes where: `vecino.v1.Directory`, which nearly all are of, at once, the others by
//! tonic's routes. And a bound of its own on each call's messages: tonic has one limit a service;
//! only Announce needs great messages, so the directory is there twice, and the path decides.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use tonic::{
    body::Body,
    codegen::{BoxFuture, Service, http},
    server::NamedService as _,
    service::Routes,
};
use vecino_grpc::v1::directory_server::DirectoryServer;

use super::{
    DirectoryService, MAX_MESSAGE_BYTES, MAX_REQUEST_BYTES, MESSAGE_WITHIN, whole::WholeMessages,
};

/// The path of the one call with great messages.
const ANNOUNCE: &str = "/vecino.v1.Directory/Announce";

type Bounded = DirectoryServer<DirectoryService>;

/// All services as they are reached from outside.
#[derive(Clone)]
pub(crate) struct Calls {
    announce: Bounded,
    directory: Bounded,
    other: Routes,
}

impl Calls {
    /// The directory beside `other` services.
    pub(crate) fn new(service: DirectoryService, other: Routes) -> Self {
        let service = Arc::new(service);
        let bounded = |bytes| {
            DirectoryServer::from_arc(service.clone())
                .max_decoding_message_size(bytes)
                .max_encoding_message_size(MAX_MESSAGE_BYTES)
        };
        Self {
            announce: bounded(MAX_MESSAGE_BYTES),
            directory: bounded(MAX_REQUEST_BYTES),
            other: other.prepare(),
        }
    }
}

/// Whether it is the path of a call of the directory.
fn is_directory(path: &str) -> bool {
    let rest = path.strip_prefix('/');
    let rest = rest.and_then(|rest| rest.strip_prefix(Bounded::NAME));
    rest.is_some_and(|rest| rest.starts_with('/'))
}

impl Service<http::Request<Body>> for Calls {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // None of them is ever busy.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let path = request.uri().path();
        let service = match path {
            ANNOUNCE => &mut self.announce,
            path if is_directory(path) => &mut self.directory,
            _ => return Box::pin(self.other.call(request)),
        };
        service.call(request.map(|body| WholeMessages::new(body, MESSAGE_WITHIN)))
    }
}
