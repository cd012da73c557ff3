//! The strategy `zone`: a locator assigns slots and zones and knows of no file; the peers of a
//! name's zone know who holds it. `PROTOCOL.md` beside this file tells the whole of it.
//!
//! `membership` keeps this peer in its slot, `network` knows who else sits where, `publisher` brings
//! this peer's records to those who are to keep them (`placement`), `kept` keeps those of others,
//! `service` lets others in, and `lookup` asks.

mod convert;
mod fingerprint;
mod kept;
mod lookup;
mod membership;
mod network;
mod peers;
mod placement;
mod publisher;
mod registrar;
mod service;
mod shares;
mod timing;
mod trust;
mod visit;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::interval,
};
use tonic::service::RoutesBuilder;
use vecino_grpc::v1::zone_server::ZoneServer;
use vecino_rest::{
    PeerKey,
    body::{LocateQuery, SearchPage, SearchQuery, Variant},
    overlay::{OverlayView, ZoneMember, ZoneView},
};

use self::{
    kept::Kept,
    network::Network,
    peers::Peers,
    registrar::Registrar,
    service::{MAX_MESSAGE_BYTES, ZoneService},
    trust::Trust,
};
use super::{
    LocateError, Lookup, Strategy, StrategyKind,
    overlay::{Contact, Context},
};
use crate::metrics::Metrics;

/// How often records that nobody prolongs are looked for; they are in no answer before that.
const EXPIRE_EVERY: Duration = Duration::from_secs(1);

/// A peer in its zone: what all parts of the strategy share.
#[derive(Debug)]
struct Node {
    me: Contact,
    key: PeerKey,
    data_dir: PathBuf,
    network: Network,
    peers: Peers,
    trust: Trust,
    kept: Mutex<Kept>,
    metrics: Arc<Metrics>,
    /// Asks the locator now instead of at the next tick.
    poll_now: Notify,
}

impl Node {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Zone {
    node: Arc<Node>,
}

impl Zone {
    /// Takes part in the zones; its work goes into `tasks`.
    pub fn start(context: &Context, tasks: &mut JoinSet<()>) -> Arc<dyn Strategy> {
        let Context { me, key, .. } = context.clone();
        let node = Arc::new(Node {
            network: Network::new(Registrar::new(context.locators.clone())),
            peers: Peers::new(me.peer, key.clone(), context.channels.clone()),
            trust: Trust::default(),
            kept: Mutex::default(),
            data_dir: context.data_dir.clone(),
            metrics: context.metrics.clone(),
            poll_now: Notify::new(),
            me,
            key,
        });
        if !node.network.registrar.is_there() {
            log::warn!("URL_Request is unset: no locator tells who sits in which zone");
        }
        let (withdrawn, is_withdrawn) = watch::channel(false);
        let (member, stopping) = (node.clone(), context.stopping.clone());
        tasks.spawn(async move { membership::run(&member, stopping, is_withdrawn).await });
        let (publishing, stopping) = (node.clone(), context.stopping.clone());
        let store = context.store.clone();
        tasks.spawn(async move {
            publisher::run(publishing, store, stopping).await;
            withdrawn.send_replace(true);
        });
        let (keeping, stopping) = (node.clone(), context.stopping.clone());
        tasks.spawn(async move { expire(&keeping, stopping).await });
        Arc::new(Self { node })
    }
}

/// Forgets what nobody prolongs, and everything when the layout changes.
async fn expire(node: &Node, mut stopping: watch::Receiver<bool>) {
    let mut ticks = interval(EXPIRE_EVERY);
    let mut layout = node.network.layout();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            // An error means that the peer is gone, which is the same.
            _ = stopping.wait_for(|&stopping| stopping) => return,
        }
        let now = node.network.layout();
        if layout.is_some() && now != layout {
            node.kept().forget_all();
        }
        layout = now;
        node.kept().expire(Instant::now());
    }
}

impl Strategy for Zone {
    fn kind(&self) -> StrategyKind {
        StrategyKind::Zone
    }

    fn locate<'a>(&'a self, query: &'a LocateQuery) -> Lookup<'a, Vec<Variant>> {
        Box::pin(lookup::locate(&self.node, query))
    }

    fn search<'a>(&'a self, _: &'a SearchQuery) -> Lookup<'a, SearchPage> {
        // Nobody here knows all names.
        Box::pin(async { Err(LocateError::Unsupported) })
    }

    fn view(&self) -> Option<OverlayView> {
        let network = &self.node.network;
        let (slot, layout) = (network.seat(), network.layout());
        let zone = slot.zip(layout).map(|(slot, layout)| layout.zone_of(slot));
        let members = zone.and_then(|zone| network.known(zone));
        let (proper_records, shared_records) = self.node.kept().counts(slot);
        let members = members.iter().flat_map(|members| members.iter());
        Some(OverlayView::Zone(ZoneView {
            slot,
            zone,
            slots: layout.map_or(0, |layout| layout.slots()),
            zones: layout.map_or(0, |layout| layout.zones()),
            members: members
                .map(|member| ZoneMember {
                    slot: member.slot,
                    peer: member.contact.peer,
                    url: member.contact.url.to_string(),
                })
                .collect(),
            proper_records,
            shared_records,
        }))
    }

    fn repair(&self) -> Lookup<'_, ()> {
        Box::pin(async {
            self.node.poll_now.notify_one();
            self.node.network.catch_up_all().await;
            Ok(())
        })
    }

    fn serve(&self, routes: &mut RoutesBuilder) {
        let service = ZoneServer::new(ZoneService(self.node.clone()))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        routes.add_service(service);
    }
}
