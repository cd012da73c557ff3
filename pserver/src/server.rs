//! Boot and, in reverse, shutdown. Only this file knows every part.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use actix_http::HttpService;
use actix_service::{IntoServiceFactory, ServiceFactoryExt, map_config};
use actix_web::{
    App,
    dev::{AppConfig, ServerHandle},
    web,
};
use awc::{Client, Connector};
use rand::seq::SliceRandom as _;
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use vecino_rest::{PeerId, PeerUrl, peer_url::Host};

use crate::{
    api::{
        self,
        access::{CameTo, Policy},
        context::{Shared, Worker},
        downloads,
    },
    config::Config,
    content::{Store, StoreError, apart, cache::Keeping},
    copies::Copier,
    doctor::{Doctor, disk},
    download::{
        Downloads, choice::Me, fetch::Fetcher, job::Tools, parts::Parts, record::Records,
        source::Source,
    },
    events::Events,
    identity::{Identity, IdentityError},
    limit::Limiter,
    locate::{
        Locator, Strategy, StrategyKind,
        central::{
            self, Central,
            account::{Account, Door},
            directories::Directories,
            presence::{Announcer, Presence},
            wire::Wire,
        },
        overlay::{self, Contact, Context},
    },
    metrics::Metrics,
    neighbour::{
        checkup::Checkup, inbound::Inbound, link::Links, outbound::Outbound, probe::Probes,
    },
    summary::{self, Place},
    upload::{connection::Sender, listener::ContentFirstFactory},
};

/// An idle connection of a client or peer is kept for so long ...
const SERVER_KEEP_ALIVE: Duration = Duration::from_secs(75);
/// ... and ours to others for less, so that we never write to one that is being closed.
const CLIENT_KEEP_ALIVE: Duration = Duration::from_secs(30);
/// How long a request's head may take.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// Connections of a worker, in and out.
const MAX_CONNECTIONS: usize = 4096;
/// How long connecting to another peer may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// How often unfinished downloads are tidied.
const TIDY_EVERY: Duration = Duration::from_secs(600);
/// How long a client may read nothing of what is sent to it.
const UNREAD_FOR: Duration = Duration::from_secs(120);
/// How long running requests may go on when the peer stops.
const DRAIN: Duration = Duration::from_secs(5);
/// Downloads of before a restart that a worker runs at the same time.
const RESUMED_AT_ONCE: usize = 4;
/// Bytes that wait to be written to one connection.
const WRITE_BUFFER: usize = 1 << 20;

/// Why the peer cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// `DATA_DIR`.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The directories.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The port.
    #[error("cannot listen on {0}: {1}; {next}", next = free_port(.1, .2))]
    Listen(SocketAddr, #[source] io::Error, &'static str),
    /// A locator's address.
    #[error("URL_Request={0}: {1}")]
    Locator(String, #[source] tonic::transport::Error),
    /// Overlay peers need to know each other's addresses.
    #[error(
        "PUBLIC_URL is unset, and nothing tells how other peers reach this one: set it to \
         http://host:port"
    )]
    UnknownUrl,
    /// While it ran.
    #[error("the server failed: {0}")]
    Failed(#[from] io::Error),
}

/// What to do when `variable` names a port that cannot be had.
fn free_port(error: &io::Error, variable: &str) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("another program has that port: end it, or set {variable} to a free one")
        }
        io::ErrorKind::PermissionDenied => {
            format!("ports below 1024 need CAP_NET_BIND_SERVICE: give it, or set {variable} above")
        }
        io::ErrorKind::AddrNotAvailable => {
            "BIND must be an address of this machine, or 0.0.0.0 for all of them".to_owned()
        }
        _ => format!("set BIND and {variable} to an address that is free"),
    }
}

impl ServerError {
    /// Whether it is a matter of settings, not of the machine.
    pub fn is_setting(&self) -> bool {
        match self {
            Self::Store(StoreError::Overlap(_) | StoreError::Directory { .. })
            | Self::Identity(IdentityError::Io(..))
            | Self::UnknownUrl => true,
            // Not of this machine: another value helps. A port in use may be free in a moment.
            Self::Listen(_, error, _) => error.kind() == io::ErrorKind::AddrNotAvailable,
            _ => false,
        }
    }
}

/// A running peer.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
    overlay_addr: Option<SocketAddr>,
    peer: PeerId,
    handle: ServerHandle,
    events: Arc<Events>,
    records: Arc<Records>,
    stop: watch::Sender<bool>,
    announcers: JoinSet<()>,
    background: JoinSet<()>,
    rest: JoinHandle<io::Result<()>>,
    /// The last that is needed: by the announcers, to say that the peer leaves.
    _wire: Wire,
    _identity: Identity,
}

impl Server {
    /// Starts a peer; it serves when this returns. Must be called on a multi-threaded runtime.
    pub async fn bind(config: Config) -> Result<Self, ServerError> {
        // Another part of the process may have chosen one before: any will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // Before the key is written anywhere.
        apart::check(&config.shared_dir, &config.download_dir, &config.data_dir)?;
        let identity = Identity::open(&config.data_dir)?;
        let peer = identity.key.peer_id();
        let metrics = Arc::new(Metrics::default());
        let store = Store::open(
            &config.shared_dir,
            &config.download_dir,
            &config.data_dir,
            metrics.clone(),
        )?;
        let store = Arc::new(store.keeping(Keeping {
            keep: config.keep,
            cache_limit: config.cache_limit,
        })?);
        let wanted = SocketAddr::new(config.bind, config.port);
        let listener =
            listen(wanted).map_err(|error| ServerError::Listen(wanted, error, "PORT"))?;
        let addr = listener.local_addr()?;

        let named: Vec<_> = config
            .locators
            .iter()
            .chain(&config.neighbours)
            .chain(&config.overlay_seeds)
            .collect();
        let known_url = config
            .public_url
            .clone()
            .or_else(|| derive_url(config.bind, addr.port(), &named));
        let presence = Arc::new(Presence::with_url(known_url.clone()));
        let wire = Wire::start()?;
        let channel = |locator: &PeerUrl| {
            let channel = wire.make(|| central::channel(locator));
            channel.map_err(|error| ServerError::Locator(locator.to_string(), error))
        };
        let channels: Vec<_> = config
            .locators
            .iter()
            .map(channel)
            .collect::<Result<_, _>>()?;
        let (stop, stopping) = watch::channel(false);
        let mut announcers = JoinSet::new();
        let directories = Arc::new(Directories::default());
        let overlay = match config.overlay_port {
            Some(port) if config.locate_by.iter().any(|kind| kind.is_overlay()) => {
                let wanted = SocketAddr::new(config.bind, port);
                let listener = listen(wanted)
                    .map_err(|error| ServerError::Listen(wanted, error, "OVERLAY_PORT"))?;
                let url = known_url.ok_or(ServerError::UnknownUrl)?;
                let me = Contact {
                    peer,
                    overlay: url.with_port(listener.local_addr()?.port()),
                    url: url.clone(),
                    site: config.site.clone(),
                };
                let context = Context {
                    channels: overlay::Channels::new(url.is_loopback()),
                    me,
                    key: identity.key.clone(),
                    store: store.clone(),
                    seeds: config.overlay_seeds.clone(),
                    data_dir: config.data_dir.clone(),
                    locators: channels.clone(),
                    metrics: metrics.clone(),
                    stopping: stopping.clone(),
                };
                Some((listener, context))
            }
            _ => None,
        };
        let mut strategies: Vec<Arc<dyn Strategy>> = Vec::new();
        for kind in &config.locate_by {
            match &overlay {
                _ if *kind == StrategyKind::Central => {
                    let locators = config.locators.iter().cloned().zip(channels.clone());
                    let central = wire.make(|| Central::new(locators, directories.clone()));
                    strategies.push(Arc::new(central));
                }
                Some((_, context)) => {
                    strategies.extend(overlay::start(*kind, context, &mut announcers));
                }
                None => {}
            }
        }
        let overlay_addr = match overlay {
            Some((listener, _)) => {
                let addr = listener.local_addr()?;
                overlay::serve(listener, &strategies, stopping.clone(), &mut announcers)?;
                log::info!("overlay of peer {peer} listening on {addr}");
                Some(addr)
            }
            None => None,
        };
        let events = Arc::new(Events::default());
        let is_central = config.locate_by.contains(&StrategyKind::Central);
        let has_locator = is_central && !config.locators.is_empty();
        let checkup = Arc::new(Checkup::new(peer, presence.clone()));
        // Without the central strategy nothing is announced to a locator.
        let announced = channels.iter().filter(|_| is_central);
        let doors: Vec<_> = announced
            .map(|channel| Arc::new(Door::new(identity.key.clone(), channel.clone())))
            .collect();
        let account = Arc::new(Account::new(config.credentials.clone(), doors.clone()));
        let shared = Arc::new(Shared {
            account: account.clone(),
            peer,
            site: config.site.clone(),
            strategies: strategies.clone(),
            has_locator,
            store: store.clone(),
            presence: presence.clone(),
            inbound: Inbound::new(Locator::new(strategies, metrics.clone()), metrics.clone()),
            probes: Probes::default(),
            checkup: checkup.clone(),
            doctor: Doctor::new(
                store.clone(),
                presence.clone(),
                checkup,
                account.clone(),
                has_locator,
            ),
            downloads: Arc::new(Downloads::new(
                store.parts().to_owned(),
                Records::open(&config.data_dir),
            )),
            slots: Arc::default(),
            searched: Arc::default(),
            events: events.clone(),
            metrics: metrics.clone(),
            upload_limit: Arc::new(Limiter::new(config.upload_limit)),
            congestion: config.congestion,
            download_limit: Arc::new(Limiter::new(config.download_limit)),
            policy: Policy {
                access: config.client_access,
                token: config.api_token.clone(),
                public_url: config.public_url.clone(),
            },
            started: Instant::now(),
        });

        let records = shared.downloads.records.clone();
        let parts = shared.downloads.parts.clone();
        let links = Arc::new(Links::new(&config.neighbours, &events));
        let rest = serve(listener, shared, links, stopping.clone())?;
        let handle = rest.handle();
        let mut background = JoinSet::new();
        background.spawn(store.importer().clone().run(config.rescan));
        background.spawn(tidy(store.clone(), parts));
        background.spawn(disk::watch(store.clone()));
        background.spawn(store.clone().keep_to_limit());
        background.spawn(records.clone().save_changes());
        background.spawn(events.clone().run());
        background.spawn(events.clone().follow(store.catalogue().clone()));
        let mut announced: Vec<_> = config.locators.iter().zip(channels).zip(doors).collect();
        // The first one has the session, where they share a directory: not all peers at the same.
        announced.shuffle(&mut rand::rng());
        for ((locator, channel), door) in announced {
            let announcer = Announcer {
                locator: locator.clone(),
                key: identity.key.clone(),
                public_url: config.public_url.clone(),
                port: addr.port(),
                site: config.site.clone(),
                store: store.clone(),
                presence: presence.clone(),
                door,
                wanted: account.wanted(),
                directories: directories.clone(),
                stopping: stopping.clone(),
            };
            announcers.spawn(announcer.run(channel));
        }
        let place = Place {
            peer,
            rest: addr,
            overlay: overlay_addr,
            url: presence.url(),
        };
        for fact in summary::lines(&config, &place) {
            log::info!("{fact}");
        }
        summary::warn_of_gaps(&config, &place);
        log::info!("peer {peer} listening on {addr}");
        Ok(Self {
            addr,
            overlay_addr,
            peer,
            handle,
            events,
            records,
            stop,
            announcers,
            background,
            rest: tokio::spawn(rest),
            _wire: wire,
            _identity: identity,
        })
    }

    /// Where REST listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where the overlay listens, if there is one.
    pub fn overlay_addr(&self) -> Option<SocketAddr> {
        self.overlay_addr
    }

    /// Which peer this is.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// Waits until the peer ends by itself, which it does only when it fails.
    pub async fn join(&mut self) -> Result<(), ServerError> {
        match (&mut self.rest).await {
            Ok(ended) => Ok(ended?),
            Err(error) => Err(io::Error::other(error).into()),
        }
    }

    /// Leaves the network, lets running requests go on for a moment, and ends.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        // A stream of events would not end by itself.
        self.events.close();
        let left = async { while self.announcers.join_next().await.is_some() {} };
        if timeout(DRAIN, left).await.is_err() {
            log::warn!("the lease was not given back: it ends by itself");
        }
        self.handle.stop(true).await;
        if let Err(error) = self.join().await {
            log::warn!("{error}");
        }
        self.background.shutdown().await;
        if let Err(error) = self.records.save() {
            log::warn!("downloads that run now will not be known: {error}");
        }
    }
}

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(addr)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    links: Arc<Links>,
    stopping: watch::Receiver<bool>,
) -> io::Result<actix_web::dev::Server> {
    let addr = listener.local_addr()?;
    let builder = actix_server::Server::build()
        .max_concurrent_connections(MAX_CONNECTIONS)
        .shutdown_timeout(DRAIN.as_secs())
        .disable_signals();
    let shutting_down = builder.graceful_shutdown_signal();
    let system_choice = shared.congestion.listening(&listener);
    let server = builder.listen("rest", listener, move || {
        let worker = web::Data::new(worker(shared.clone(), links.clone()));
        let app = App::new().app_data(worker.clone());
        let app = app.configure(api::routes);
        let app = app.into_factory().map_err(|error| error.error_response());
        let signal = shutting_down.clone();
        let web = HttpService::build()
            .graceful_shutdown_signal(move || {
                let signal = signal.clone();
                async move { signal.notified().await }
            })
            .keep_alive(SERVER_KEEP_ALIVE)
            .client_request_timeout(HEAD_WITHIN)
            .h1_write_buffer_size(WRITE_BUFFER)
            .local_addr(addr)
            .on_connect_ext(|stream: &tokio::net::TcpStream, data| {
                if let Ok(address) = stream.local_addr() {
                    data.insert(CameTo(address.ip()));
                }
            })
            .finish(map_config(app, |()| AppConfig::default()))
            .tcp();
        let sender = Sender {
            worker,
            system_choice: system_choice.clone(),
            silent: (HEAD_WITHIN, SERVER_KEEP_ALIVE),
            unread: UNREAD_FOR,
            stopping: stopping.clone(),
        };
        ContentFirstFactory { sender, web }
    })?;
    Ok(server.run())
}

/// What one worker thread has for itself; made on that thread.
fn worker(shared: Arc<Shared>, links: Arc<Links>) -> Worker {
    let connector = Connector::new()
        .timeout(CONNECT_WITHIN)
        .conn_keep_alive(CLIENT_KEEP_ALIVE)
        .limit(MAX_CONNECTIONS);
    let client = Client::builder()
        .connector(connector)
        .disable_redirects()
        .add_default_header(("User-Agent", concat!("vecino/", env!("CARGO_PKG_VERSION"))))
        .finish();
    let metrics = shared.metrics.clone();
    let outbound = Outbound::new(client.clone(), links, shared.searched.clone(), metrics);
    let copier = Copier {
        me: shared.peer,
        site: shared.site.clone(),
        on_loopback: shared.presence.on_loopback(),
        outbound: outbound.clone(),
        client,
        store: shared.store.clone(),
        limit: shared.upload_limit.clone(),
        metrics: shared.metrics.clone(),
    };
    let tools = Tools {
        source: Source::new(
            shared.presence.on_loopback(),
            shared.downloads.piece_lists.clone(),
            shared.download_limit.clone(),
        ),
        store: shared.store.clone(),
        parts: shared.downloads.parts.clone(),
        events: shared.events.clone(),
        metrics: shared.metrics.clone(),
    };
    let fetcher = Fetcher {
        me: Me {
            peer: shared.peer,
            site: shared.site.clone(),
        },
        outbound,
        strategies: shared.strategies.clone(),
        downloads: shared.downloads.clone(),
        tools,
    };
    actix_web::rt::spawn(shared.checkup.clone().run(fetcher.outbound.clone()));
    for _ in 0..RESUMED_AT_ONCE {
        actix_web::rt::spawn(downloads::resume(fetcher.clone()));
    }
    Worker {
        shared,
        fetcher,
        copier,
    }
}

/// How others reach this peer, as long as nobody said: the address it is bound to, or the one
/// that leads to those whom the operator named.
fn derive_url(bind: IpAddr, port: u16, named: &[&PeerUrl]) -> Option<PeerUrl> {
    let ip = if bind.is_unspecified() {
        named.iter().find_map(|url| {
            let unspecified = match url.host() {
                Host::Ip(IpAddr::V6(_)) => "[::]:0",
                _ => "0.0.0.0:0",
            };
            let socket = UdpSocket::bind(unspecified).ok()?;
            // Sends nothing: it only asks the routing table.
            socket.connect(url.authority()).ok()?;
            Some(socket.local_addr().ok()?.ip())
        })?
    } else {
        bind
    };
    (!ip.is_unspecified()).then(|| PeerUrl::http(SocketAddr::new(ip, port)))
}

/// Deletes unfinished downloads that nobody goes on with, from time to time.
async fn tidy(store: Arc<Store>, parts: Arc<Parts>) {
    let mut ticks = tokio::time::interval(TIDY_EVERY);
    loop {
        ticks.tick().await;
        let (store, parts) = (store.clone(), parts.clone());
        let tidy = move || {
            store.tidy();
            parts.tidy();
        };
        if let Err(error) = tokio::task::spawn_blocking(tidy).await {
            log::error!("tidying: {error}");
        }
    }
}
