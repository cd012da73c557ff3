//! A running locator as a handle. The only module that knows everyone.
//!
//! Boot: listen, open the store, give the known peers their grace lease, serve, each connection on
//! one of the threads of [`serving`](crate::serving). Shutdown in reverse: answer "not serving",
//! stop reading streams, answer what was read, end the threads, close the store. Dropping the
//! handle instead stops accepting and ends all streams without waiting for anyone.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    net::TcpListener,
    sync::watch,
    task::{JoinHandle, JoinSet},
};
use tonic::{service::Routes, transport};
use tonic_health::ServingStatus;
use vecino_grpc::{
    product_service::product_service_server::ProductServiceServer,
    v1::{accounts_server::AccountsServer, zones_server::ZonesServer},
};

use crate::{
    account::{self, Accounts, Disagreement},
    behind,
    config::{Config, Listen},
    control::{self, Control, ControlError},
    directory::{Directory, sharing, sweep},
    grpc::{self, AccountsService, Calls, DirectoryService, Products, ZonesService},
    http::{self, Machines},
    metrics::Metrics,
    serving::{DRAIN, Threads},
    store::{self, OpenError, Store, StoreError},
    summary,
    zone::Zones,
};

/// Longest time for the threads of gRPC to end: somewhat more than they give their calls.
const THREADS_END_WITHIN: Duration = DRAIN.saturating_add(Duration::from_secs(1));

/// What health checks may ask for.
const SERVICES: [&str; 5] = [
    "",
    "vecino.v1.Accounts",
    "vecino.v1.Directory",
    "vecino.v1.Zones",
    "ProductService",
];

/// Why a locator does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// It cannot listen there.
    #[error("{variable}={address} cannot be listened on: {cause}; {}", mend(.cause))]
    Listen {
        /// Which variable names the address.
        variable: &'static str,
        /// The address.
        address: Listen,
        /// Why not.
        cause: io::Error,
    },
    /// The operator's commands cannot be listened for.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store cannot be read.
    #[error("the store cannot be read: {0}")]
    Store(#[from] StoreError),
    /// It cannot run beside the other locators of its directory.
    #[error(transparent)]
    Accounts(#[from] Disagreement),
    /// There are no threads for gRPC.
    #[error("threads for gRPC could not be started: {0}")]
    Threads(#[source] io::Error),
    /// The transport failed.
    #[error("gRPC failed: {0}")]
    Grpc(#[from] transport::Error),
    /// The reflection service could not be built.
    #[error("reflection failed: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The server task ended without a result.
    #[error("the server ended: {0}")]
    Ended(#[from] tokio::task::JoinError),
}

/// What to do when an address cannot be listened on.
fn mend(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::AddrInUse => "another program has that port: end it, or name a free one",
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need CAP_NET_BIND_SERVICE: give it, or name one above"
        }
        _ => "name an address of this machine, or [::] for all of them",
    }
}

impl ServerError {
    /// Whether another value of a setting is what helps: an address that is not of this machine,
    /// a place where no store can be. A port in use may be free in a moment.
    pub fn is_setting(&self) -> bool {
        use io::ErrorKind::{AddrInUse, PermissionDenied};
        match self {
            Self::Listen { cause, .. } => !matches!(cause.kind(), AddrInUse | PermissionDenied),
            Self::Open(error) => error.is_unusable,
            Self::Control(_) => true,
            _ => false,
        }
    }
}

/// A running locator.
pub struct Server {
    addr: SocketAddr,
    metrics_addr: Option<SocketAddr>,
    closing: watch::Sender<bool>,
    grpc: JoinHandle<Result<(), transport::Error>>,
    health: tonic_health::server::HealthReporter,
    store: Arc<dyn Store>,
    _behind: behind::Threads,
    /// Sweeper and HTTP; aborted when dropped.
    background: JoinSet<()>,
}

/// What there is before a locator serves.
struct Bound {
    listener: TcpListener,
    addr: SocketAddr,
    metrics_listener: Option<TcpListener>,
    metrics: Arc<Metrics>,
    store: Arc<dyn Store>,
}

impl Bound {
    async fn to(
        config: &Config,
        metrics: Arc<Metrics>,
        store: Arc<dyn Store>,
    ) -> Result<Self, ServerError> {
        let listener = listen("HOST", &config.host).await?;
        let addr = local_addr("HOST", &config.host, &listener)?;
        let metrics_listener = match &config.metrics_addr {
            Some(address) => Some(listen("METRICS_ADDR", address).await?),
            None => None,
        };
        Ok(Self {
            listener,
            addr,
            metrics_listener,
            metrics,
            store,
        })
    }
}

impl Server {
    /// Starts a locator on the current runtime. It serves when this returns.
    pub async fn bind(config: Config) -> Result<Self, ServerError> {
        let metrics = Arc::new(Metrics::new());
        // Before anybody can connect: a store of an earlier release is brought up to date first, and
        // who is refused meanwhile asks another locator.
        let store = store::open(&config.store, metrics.store.clone()).await?;
        let mut background = JoinSet::new();
        let served = async {
            let bound = Bound::to(&config, metrics, store.clone()).await?;
            Self::serve(config, bound, &mut background).await
        };
        match served.await {
            Ok(mut server) => {
                server.background = background;
                Ok(server)
            }
            Err(error) => {
                // In this order: what is said no more is not said again.
                background.shutdown().await;
                store.close().await;
                Err(error)
            }
        }
    }

    /// The server, without its `background`. When it fails, that is to be ended, and the store closed.
    async fn serve(
        config: Config,
        bound: Bound,
        background: &mut JoinSet<()>,
    ) -> Result<Self, ServerError> {
        let Bound {
            listener,
            addr,
            metrics_listener,
            metrics,
            store,
        } = bound;
        let metrics_addr = metrics_listener.as_ref().and_then(|l| l.local_addr().ok());
        let accounts = Accounts::open(store.clone(), config.accounts, config.session).await?;
        accounts.agree().await?;
        let accounts = Arc::new(accounts);
        // From now on, however long the rest takes.
        background.spawn(account::keep(accounts.clone()));
        accounts.end_unadmitted().await?;
        let opened = Directory::open(store.clone(), config.lease, metrics.clone()).await;
        let directory = Arc::new(opened?);
        let zones = Arc::new(Zones::new(config.zones, config.lease));

        let (closing, closed) = watch::channel(false);
        let (health, health_service) = tonic_health::server::health_reporter();
        for service in SERVICES {
            health
                .set_service_status(service, ServingStatus::Serving)
                .await;
        }
        let behind = behind::Threads::start().map_err(ServerError::Threads)?;
        let service = DirectoryService::new(
            directory.clone(),
            accounts.clone(),
            metrics.clone(),
            closed.clone(),
            behind.handle(),
        );
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(vecino_grpc::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let transport = transport::Server::builder()
            .timeout(grpc::CALL_TIMEOUT)
            .max_concurrent_streams(grpc::MAX_STREAMS_PER_CONNECTION)
            .initial_stream_window_size(grpc::STREAM_WINDOW)
            .initial_connection_window_size(grpc::CONNECTION_WINDOW)
            .http2_keepalive_interval(Some(grpc::PING_INTERVAL))
            .http2_keepalive_timeout(Some(grpc::PING_TIMEOUT))
            .http2_max_header_list_size(grpc::MAX_HEADER_BYTES);
        let accounts_service =
            AccountsService::new(accounts.clone(), directory.clone(), metrics.clone());
        let zones_service = ZonesService::new(zones.clone(), metrics.clone());
        let products = Products::new(directory.clone(), metrics.clone());
        let other = Routes::default()
            .add_service(
                ProductServiceServer::new(products)
                    .max_decoding_message_size(grpc::MAX_REQUEST_BYTES),
            )
            .add_service(
                AccountsServer::new(accounts_service)
                    .max_decoding_message_size(grpc::MAX_REQUEST_BYTES),
            )
            .add_service(
                ZonesServer::new(zones_service).max_decoding_message_size(grpc::MAX_REQUEST_BYTES),
            )
            .add_service(health_service.max_decoding_message_size(grpc::MAX_REQUEST_BYTES))
            .add_service(
                reflection()
                    .build_v1()?
                    .max_decoding_message_size(grpc::MAX_REQUEST_BYTES),
            )
            .add_service(
                reflection()
                    .build_v1alpha()?
                    .max_decoding_message_size(grpc::MAX_REQUEST_BYTES),
            );
        let calls = Calls::new(service, other);

        for fact in summary::lines(&config, addr, metrics_addr) {
            log::info!("{fact}");
        }
        let threads = Threads::start(&transport, &calls, &closed).map_err(ServerError::Threads)?;
        let grpc = tokio::spawn(threads.run(listener, metrics.clone(), closed.clone()));
        background.spawn(sweep::run(directory.clone()));
        background.spawn(sharing::run(directory.clone()));
        if let Some(path) = &config.control {
            let control = Control {
                store: store.clone(),
                store_url: config.store.clone(),
                directory: directory.clone(),
                accounts,
                metrics: metrics.clone(),
                started: Instant::now(),
            };
            match control::serve(path, control) {
                Ok(serving) => {
                    background.spawn(serving);
                }
                // Nobody asked for it, and not every file system has sockets.
                Err(error) if config.store.socket().as_ref() == Some(path) => {
                    log::warn!("commands cannot reach this locator: {error}");
                }
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(listener) = metrics_listener {
            background.spawn(http::serve(
                listener,
                Machines {
                    directory,
                    zones,
                    metrics,
                    closing: closed,
                },
            ));
        }
        store.warm_up();
        log::info!("listening on {addr}");
        if let Some(addr) = metrics_addr {
            log::info!("metrics on http://{addr}/metrics");
        }
        Ok(Self {
            addr,
            metrics_addr,
            closing,
            grpc,
            health,
            store,
            _behind: behind,
            background: JoinSet::new(),
        })
    }

    /// Where gRPC listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where HTTP for machines listens.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics_addr
    }

    /// Waits until the server ends by itself, which it does only when it fails.
    pub async fn join(&mut self) -> Result<(), ServerError> {
        Ok((&mut self.grpc).await??)
    }

    /// Ends the server: calls have 5 seconds to end, and what was accepted is durable then.
    pub async fn shutdown(mut self) -> Result<(), ServerError> {
        for service in SERVICES {
            self.health
                .set_service_status(service, ServingStatus::NotServing)
                .await;
        }
        self.closing.send_replace(true);
        let ended = tokio::time::timeout(THREADS_END_WITHIN, &mut self.grpc).await;
        self.background.shutdown().await;
        self.store.close().await;
        match ended {
            Ok(ended) => Ok(ended??),
            Err(_) => {
                log::warn!("threads of gRPC did not end within {THREADS_END_WITHIN:?}");
                Ok(())
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.grpc.abort();
    }
}

async fn listen(variable: &'static str, address: &Listen) -> Result<TcpListener, ServerError> {
    let error = |cause| ServerError::Listen {
        variable,
        address: address.clone(),
        cause,
    };
    let host = if address.host.is_empty() {
        "::"
    } else {
        &address.host
    };
    match TcpListener::bind((host, address.port)).await {
        Err(cause) if host == "::" && lacks_ipv6(&cause) => {
            log::warn!("this machine has no IPv6 ({cause}): {variable} is 0.0.0.0 instead of [::]");
            TcpListener::bind(("0.0.0.0", address.port))
                .await
                .map_err(error)
        }
        bound => bound.map_err(error),
    }
}

/// Whether binding failed for want of IPv6: no such address, or no such protocol family.
fn lacks_ipv6(error: &io::Error) -> bool {
    /// `EAFNOSUPPORT` of Linux.
    const NO_SUCH_FAMILY: i32 = 97;
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(NO_SUCH_FAMILY)
}

fn local_addr(
    variable: &'static str,
    address: &Listen,
    listener: &TcpListener,
) -> Result<SocketAddr, ServerError> {
    let error = |cause| ServerError::Listen {
        variable,
        address: address.clone(),
        cause,
    };
    listener.local_addr().map_err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_want_of_ipv6_leads_to_ipv4() {
        assert!(lacks_ipv6(&io::Error::from_raw_os_error(97)));
        assert!(lacks_ipv6(&io::ErrorKind::AddrNotAvailable.into()));
        assert!(!lacks_ipv6(&io::ErrorKind::AddrInUse.into()));
        assert!(!lacks_ipv6(&io::ErrorKind::PermissionDenied.into()));
    }
}
