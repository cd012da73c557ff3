//! What the overlay strategies (chord, zone, flood) have in common: who this peer is to the
//! others, how to reach them, when to stop.
//!
//! Overlay peers speak gRPC to each other on `OVERLAY_PORT`. Their addresses come from outside
//! and are hostile: [`Channels`] gives none that a provider might not have either.

mod connections;

use std::{net::TcpListener, path::PathBuf, sync::Arc, time::Duration};

use moka::sync::Cache;
use tokio::{sync::watch, task::JoinSet};
use tonic::{
    service::RoutesBuilder,
    transport::{Channel, Endpoint, Server},
};
use vecino_rest::{PeerId, PeerKey, PeerUrl};

use self::connections::Bounds;
pub(in crate::locate) use self::connections::origin;
pub use self::connections::{FIRST_BYTES_WITHIN, MAX_FROM_AN_ADDRESS};
use super::{
    Strategy, StrategyKind,
    chord::Chord,
    flood::{self, Flood},
    zone::Zone,
};
use crate::{content::Store, download::provider_url, metrics::Metrics};

/// How long a connection may take to come about.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// How long one request may take.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// A silent connection is tried with a ping after so long ...
const PING_AFTER: Duration = Duration::from_secs(5);
/// ... and given up when that stays unanswered for so long.
const PONG_WITHIN: Duration = Duration::from_secs(3);
/// Channels kept; the least used goes first.
const MAX_CHANNELS: u64 = 1024;
/// A channel that nobody used for so long is closed.
const CHANNEL_IDLE: Duration = Duration::from_secs(120);

/// A peer of an overlay, as others reach it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Contact {
    /// Which peer.
    pub peer: PeerId,
    /// Its gRPC for other peers, `http://host:OVERLAY_PORT`.
    pub overlay: PeerUrl,
    /// Its REST, where its files are.
    pub url: PeerUrl,
    /// Its place.
    pub site: Option<String>,
}

/// What an overlay strategy works with.
#[derive(Debug, Clone)]
pub struct Context {
    /// This peer.
    pub me: Contact,
    /// Proves that it is this peer.
    pub key: PeerKey,
    /// What it holds and has to make findable; `store.catalogue()` has a snapshot and a feed.
    pub store: Arc<Store>,
    /// To other peers.
    pub channels: Channels,
    /// Peers to join through, `http://host:OVERLAY_PORT`.
    pub seeds: Vec<PeerUrl>,
    /// Where a strategy may keep state over restarts, in files of its own name.
    pub data_dir: PathBuf,
    /// Connections to the locators, in order of trial (the zone strategy registers with one).
    pub locators: Vec<Channel>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Becomes true when the peer stops: leave the overlay, within a second.
    pub stopping: watch::Receiver<bool>,
}

/// Channels to other peers, made when first needed and used again.
#[derive(Debug, Clone)]
pub struct Channels {
    open: Cache<PeerUrl, Channel>,
    /// Whether this peer is itself on loopback, and so may have others there.
    on_loopback: bool,
}

impl Channels {
    /// No channel yet.
    pub fn new(on_loopback: bool) -> Self {
        let open = Cache::builder()
            .max_capacity(MAX_CHANNELS)
            .time_to_idle(CHANNEL_IDLE)
            .build();
        Self { open, on_loopback }
    }

    /// A channel to the peer at `url`.
    pub async fn to(&self, url: &PeerUrl) -> Result<Channel, provider_url::Unresolved> {
        if let Some(channel) = self.open.get(url) {
            return Ok(channel);
        }
        let address = provider_url::resolve(url, self.on_loopback).await?;
        let endpoint = Endpoint::from_shared(PeerUrl::http(address).to_string())
            .expect("scheme, address and port make a URI");
        let channel = endpoint
            .connect_timeout(CONNECT_WITHIN)
            .timeout(ANSWER_WITHIN)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PING_AFTER)
            .keep_alive_timeout(PONG_WITHIN)
            .connect_lazy();
        self.open.insert(url.clone(), channel.clone());
        Ok(channel)
    }
}

/// Starts the overlay strategy `kind`; its background work goes into `tasks` and ends when
/// `context.stopping` says so. `None` for the central locator, which is no overlay.
pub fn start(
    kind: StrategyKind,
    context: &Context,
    tasks: &mut JoinSet<()>,
) -> Option<Arc<dyn Strategy>> {
    match kind {
        StrategyKind::Central => None,
        StrategyKind::Chord => Some(Chord::start(context, tasks)),
        StrategyKind::Zone => Some(Zone::start(context, tasks)),
        StrategyKind::Flood => Some(Flood::start(context, flood::Limits::default(), tasks)),
    }
}

/// Requests that one peer may have in flight here.
const MAX_CONCURRENT: usize = 256;
/// Streams of one connection.
const MAX_STREAMS: u32 = 256;

/// Serves what `strategies` offer to other peers, until `stopping` says so.
pub fn serve<'a>(
    listener: TcpListener,
    strategies: impl IntoIterator<Item = &'a Arc<dyn Strategy>>,
    mut stopping: watch::Receiver<bool>,
    tasks: &mut JoinSet<()>,
) -> std::io::Result<()> {
    let mut routes = RoutesBuilder::default();
    for strategy in strategies {
        strategy.serve(&mut routes);
    }
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let incoming = connections::accept(listener, Bounds::of_process());
    let server = Server::builder()
        .concurrency_limit_per_connection(MAX_CONCURRENT)
        .max_concurrent_streams(MAX_STREAMS)
        .http2_keepalive_interval(Some(PING_AFTER))
        .http2_keepalive_timeout(Some(PONG_WITHIN))
        .add_routes(routes.routes());
    tasks.spawn(async move {
        let stopped = async move {
            // An error means that the peer is gone, which is the same.
            let _ = stopping.wait_for(|&stopping| stopping).await;
        };
        if let Err(error) = server.serve_with_incoming_shutdown(incoming, stopped).await {
            log::error!("the overlay port failed: {error}");
        }
    });
    Ok(())
}
