//! A locator that refuses everything, with the words that a test gives it, and remembers the
//! headers of every call.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use tonic::{
    Status,
    body::Body,
    codegen::{
        Service,
        http::{Request, Response},
    },
    server::NamedService,
    transport::{Server, server::TcpIncoming},
};

use crate::cluster::{spawn, wait};

/// A call: its path, and its headers.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
}

type Calls = Arc<Mutex<Vec<Call>>>;

/// See the module.
pub(crate) struct Refusing {
    addr: SocketAddr,
    calls: Calls,
}

impl Refusing {
    /// Knows no method.
    pub(crate) fn start() -> Self {
        Self::start_on(Ipv4Addr::LOCALHOST.into(), |_| Status::unimplemented(""))
    }

    /// Refuses with what `status` makes of its address.
    pub(crate) fn start_on(ip: IpAddr, status: impl Fn(SocketAddr) -> Status) -> Self {
        let bound = wait(async { TcpIncoming::bind((ip, 0).into()) });
        let incoming = bound.unwrap();
        let addr = incoming.local_addr().unwrap();
        let calls = Calls::default();
        let refusal = Refusal {
            calls: calls.clone(),
            status: status(addr),
        };
        let (directory, zones) = (Directory(refusal.clone()), Zones(refusal.clone()));
        spawn(async move {
            let server = Server::builder()
                .add_service(directory)
                .add_service(zones)
                .add_service(Products(refusal));
            server.serve_with_incoming(incoming).await.unwrap();
        });
        Self { addr, calls }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Every call to `path` so far.
    pub(crate) fn calls(&self, path: &str) -> Vec<Call> {
        let calls = self.calls.lock().unwrap();
        calls
            .iter()
            .filter(|call| call.path == path)
            .cloned()
            .collect()
    }
}

#[derive(Clone)]
struct Refusal {
    calls: Calls,
    status: Status,
}

impl Refusal {
    fn of(&self, request: &Request<Body>) -> Response<Body> {
        let headers = request.headers().iter();
        let call = Call {
            path: request.uri().path().to_owned(),
            headers: headers
                .map(|(name, value)| {
                    let value = String::from_utf8_lossy(value.as_bytes());
                    (name.to_string(), value.into_owned())
                })
                .collect(),
        };
        self.calls.lock().unwrap().push(call);
        self.status.clone().into_http()
    }
}

macro_rules! refusing {
    ($service:ident, $name:literal) => {
        #[derive(Clone)]
        struct $service(Refusal);

        impl NamedService for $service {
            const NAME: &'static str = $name;
        }

        impl Service<Request<Body>> for $service {
            type Response = Response<Body>;
            type Error = Infallible;
            type Future = Ready<Result<Response<Body>, Infallible>>;

            fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
                Poll::Ready(Ok(()))
            }

            fn call(&mut self, request: Request<Body>) -> Self::Future {
                ready(Ok(self.0.of(&request)))
            }
        }
    };
}

refusing!(Directory, "vecino.v1.Directory");
refusing!(Zones, "vecino.v1.Zones");
refusing!(Products, "ProductService");
