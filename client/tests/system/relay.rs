//! [`Relay`]: stands in front of a gRPC server and remembers every call: its path, its headers,
//! and the bytes of its messages, as they come.

use std::{
    convert::Infallible,
    future::poll_fn,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use http_body_util::BodyExt;
use tonic::{
    Status,
    body::Body,
    codegen::{
        Service,
        http::{Request, Response},
    },
    server::NamedService,
    transport::{Channel, Endpoint, Server, server::TcpIncoming},
};

use crate::{
    cluster::{spawn, wait},
    frames,
};

/// A call.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    /// What the caller sent so far.
    pub(crate) body: Vec<u8>,
}

impl Call {
    /// Its messages so far.
    pub(crate) fn messages(&self) -> Vec<Vec<u8>> {
        frames::split(&self.body)
    }
}

type Calls = Arc<Mutex<Vec<Call>>>;

/// See the module.
pub(crate) struct Relay {
    addr: SocketAddr,
    calls: Calls,
}

impl Relay {
    /// Listens `on` an address for `server`.
    pub(crate) fn start(on: SocketAddr, server: SocketAddr) -> Self {
        let incoming = wait(async { TcpIncoming::bind(on) }).unwrap();
        let addr = incoming.local_addr().unwrap();
        let endpoint = Endpoint::from_shared(format!("http://{server}")).unwrap();
        let calls = Calls::default();
        let forward = Forward {
            calls: calls.clone(),
            server: wait(async { endpoint.connect_lazy() }),
        };
        spawn(async move {
            let server = Server::builder()
                .add_service(Directory(forward.clone()))
                .add_service(Zones(forward.clone()))
                .add_service(Zone(forward.clone()))
                .add_service(Chord(forward.clone()))
                .add_service(Gossip(forward));
            server.serve_with_incoming(incoming).await.unwrap();
        });
        Self { addr, calls }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Every call so far.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }
}

type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

#[derive(Clone)]
struct Forward {
    calls: Calls,
    server: Channel,
}

impl Forward {
    fn forward(&self, request: Request<Body>) -> Answering {
        let call = Call {
            path: request.uri().path().to_owned(),
            headers: request
                .headers()
                .iter()
                .map(|(name, value)| {
                    let value = String::from_utf8_lossy(value.as_bytes());
                    (name.to_string(), value.into_owned())
                })
                .collect(),
            body: Vec::new(),
        };
        let index = {
            let mut calls = self.calls.lock().unwrap();
            calls.push(call);
            calls.len() - 1
        };
        let calls = self.calls.clone();
        let request = request.map(|body| {
            Body::new(body.map_frame(move |frame| {
                if let Some(data) = frame.data_ref() {
                    calls.lock().unwrap()[index].body.extend_from_slice(data);
                }
                frame
            }))
        });
        let mut server = self.server.clone();
        Box::pin(async move {
            let answer = match poll_fn(|context| server.poll_ready(context)).await {
                Ok(()) => server.call(request).await,
                Err(error) => Err(error),
            };
            Ok(answer.unwrap_or_else(|_| Status::unavailable("no answer").into_http()))
        })
    }
}

macro_rules! relayed {
    ($service:ident) => {
        #[derive(Clone)]
        struct $service(Forward);

        impl NamedService for $service {
            const NAME: &'static str = concat!("vecino.v1.", stringify!($service));
        }

        impl Service<Request<Body>> for $service {
            type Response = Response<Body>;
            type Error = Infallible;
            type Future = Answering;

            fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
                Poll::Ready(Ok(()))
            }

            fn call(&mut self, request: Request<Body>) -> Answering {
                self.0.forward(request)
            }
        }
    };
}

relayed!(Directory);
relayed!(Zones);
relayed!(Zone);
relayed!(Chord);
relayed!(Gossip);
