//! HTTP for machines: `/metrics`, `/healthz` (alive), `/readyz` (ready for lookups and
//! changes; if not, it says which part is not).
//!
//! hyper is in tonic's tree already, and three fixed answers need no framework.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode, body::Bytes, header, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
};
use vecino_rest::{doctor::Readiness, route};

use crate::{directory::Directory, metrics::Metrics, throttle::Throttle, zone::Zones};

/// Open connections at most.
const MAX_CONNECTIONS: usize = 64;
/// Time for the head of a request.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// Time for a whole connection, lest idle ones take all places.
const CONNECTION_WITHIN: Duration = Duration::from_secs(60);
/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often failed accepts are told.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// What the answers are made of.
pub(crate) struct Machines {
    pub(crate) directory: Arc<Directory>,
    pub(crate) zones: Arc<Zones>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) closing: watch::Receiver<bool>,
}

/// Serves `listener` until it is aborted.
pub(crate) async fn serve(listener: TcpListener, machines: Machines) {
    let machines = Arc::new(machines);
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let complaints = Throttle::new(TELL_EVERY);
    // Aborted with this future, unlike detached tasks.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let permit = permits.clone().acquire_owned().await.expect("never closed");
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                if let Some(untold) = complaints.pass(Instant::now()) {
                    log::warn!("a connection for metrics could not be accepted: {error}{untold}");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let machines = machines.clone();
        connections.spawn(async move {
            let _permit = permit;
            let answer = service_fn(|request| {
                std::future::ready(Ok::<_, Infallible>(machines.answer(&request)))
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_WITHIN)
                .serve_connection(TokioIo::new(socket), answer);
            // How it ended is the other side's affair.
            let _ = tokio::time::timeout(CONNECTION_WITHIN, connection).await;
        });
    }
}

impl Machines {
    fn readiness(&self) -> Readiness {
        let grpc = match *self.closing.borrow() {
            true => Err("shutting down".to_owned()),
            false => Ok(()),
        };
        let store = match self.directory.store_fault() {
            Some(fault) => Err(format!("no changes are taken: {fault}")),
            None => Ok(()),
        };
        Readiness::of([("grpc", grpc), ("store", store)])
    }

    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        const TEXT: &str = "text/plain; charset=utf-8";
        let (status, content_type, body) = match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, route::METRICS) => {
                self.directory.measure();
                self.zones.measure(&self.metrics);
                (StatusCode::OK, METRICS_TYPE, self.metrics.text())
            }
            (&Method::GET | &Method::HEAD, route::HEALTHZ) => (StatusCode::OK, TEXT, "ok\n".into()),
            (&Method::GET | &Method::HEAD, route::READYZ) => {
                let readiness = self.readiness();
                let status = match readiness.ready {
                    true => StatusCode::OK,
                    false => StatusCode::SERVICE_UNAVAILABLE,
                };
                let body = serde_json::to_string(&readiness).expect("plain data");
                (status, "application/json", body)
            }
            (_, route::METRICS | route::HEALTHZ | route::READYZ) => (
                StatusCode::METHOD_NOT_ALLOWED,
                TEXT,
                "expected GET or HEAD\n".into(),
            ),
            _ => (
                StatusCode::NOT_FOUND,
                TEXT,
                "expected /metrics, /healthz or /readyz\n".into(),
            ),
        };
        Response::builder()
            .status(status)
            .header(header::CONTENT_TYPE, content_type)
            .body(Full::from(body))
            .expect("status and header are constants")
    }
}
