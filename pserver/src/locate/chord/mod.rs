//! The strategy `chord`: a ring of peers, without a centre. `PROTOCOL.md` has the protocol.
//!
//! `id`, `member`, `fingers`, `state`, `lookup` and `records` are pure: no I/O, time and
//! randomness come in. `node`, `membership`, `errand`, `calls`, `service`, `publish` and `locate`
//! carry them over gRPC.

mod calls;
mod errand;
pub mod fingers;
pub mod id;
mod locate;
pub mod lookup;
pub mod member;
mod membership;
mod node;
mod publish;
pub mod records;
mod secret;
mod service;
pub mod state;
pub mod timing;
mod wire;

use std::sync::Arc;

use tokio::{sync::Mutex, task::JoinSet, time::timeout};
use tonic::service::RoutesBuilder;
use vecino_rest::{
    body::{LocateQuery, SearchPage, SearchQuery, Variant},
    overlay::{ChordView, Finger, OverlayView, RingNode},
};

use self::{
    fingers::Fingers,
    id::Id,
    member::Member,
    node::Node,
    publish::Publisher,
    secret::Secret,
    service::Service,
    timing::{REPAIR_WITHIN, Timing},
};
use super::{LocateError, Lookup, Strategy, StrategyKind, overlay::Context};

/// See the module.
#[derive(Debug)]
pub struct Chord {
    node: Arc<Node>,
    /// One repair at a time.
    repairing: Arc<Mutex<()>>,
}

impl Chord {
    /// Starts this peer's part in the ring; it ends with `context.stopping`.
    pub fn start(context: &Context, tasks: &mut JoinSet<()>) -> Arc<dyn Strategy> {
        Self::with_timing(context, tasks, Timing::default())
    }

    /// As [`Chord::start`], with other times than the usual ones.
    pub fn with_timing(
        context: &Context,
        tasks: &mut JoinSet<()>,
        timing: Timing,
    ) -> Arc<dyn Strategy> {
        let secret = Secret::open(&context.data_dir).unwrap_or_else(|error| {
            log::warn!("DATA_DIR: the ring's secret cannot be kept over restarts: {error}");
            Secret::random()
        });
        let node = Arc::new(Node::new(context.clone(), timing, secret));
        tasks.spawn(node.clone().keep_place());
        tasks.spawn(Publisher::new(node.clone()).run());
        Arc::new(Self {
            node,
            repairing: Arc::default(),
        })
    }
}

impl Strategy for Chord {
    fn kind(&self) -> StrategyKind {
        StrategyKind::Chord
    }

    fn locate<'a>(&'a self, query: &'a LocateQuery) -> Lookup<'a, Vec<Variant>> {
        Box::pin(self.node.locate(query))
    }

    fn search<'a>(&'a self, _: &'a SearchQuery) -> Lookup<'a, SearchPage> {
        Box::pin(async { Err(LocateError::Unsupported) })
    }

    fn view(&self) -> Option<OverlayView> {
        let records = self.node.records().len() as u64;
        let ring = self.node.ring();
        Some(OverlayView::Chord(ChordView {
            me: ring_node(ring.me()),
            joined: ring.is_member(),
            predecessor: ring.predecessor().map(ring_node),
            successors: ring.others().map(ring_node).collect(),
            fingers: fingers(&ring.fingers),
            records,
        }))
    }

    fn repair(&self) -> Lookup<'_, ()> {
        Box::pin(async {
            let turn = self.repairing.clone().lock_owned().await;
            let node = self.node.clone();
            let mut stopping = node.context.stopping.clone();
            // A task of its own: a client that hangs up leaves nothing half done.
            let repair = tokio::spawn(async move {
                let _turn = turn;
                tokio::select! {
                    // An error means that the server is gone, which is the same.
                    _ = stopping.wait_for(|&stopping| stopping) => false,
                    repaired = timeout(REPAIR_WITHIN, repair(&node)) => repaired.is_ok(),
                }
            });
            match repair.await {
                Ok(true) => Ok(()),
                _ => Err(LocateError::Unavailable),
            }
        })
    }

    fn serve(&self, routes: &mut RoutesBuilder) {
        routes.add_service(Service::server(self.node.clone()));
    }
}

/// Stabilises, compares the ring with that of others, and looks up every finger.
async fn repair(node: &Arc<Node>) {
    node.stabilize().await;
    node.compare().await;
    // A pass that is under way is ended first, then comes a whole one.
    for _ in 0..2 {
        for _ in 0..Id::BITS {
            if !node.fix_finger().await {
                break;
            }
        }
    }
}

fn ring_node(member: &Member) -> RingNode {
    RingNode {
        id: member.id.to_string(),
        peer: member.contact.peer,
        url: member.contact.url.to_string(),
    }
}

/// The table, with equal neighbouring entries as one.
fn fingers(fingers: &Fingers) -> Vec<Finger> {
    let mut table: Vec<Finger> = Vec::new();
    for (index, node) in fingers.iter() {
        let end = fingers.end(index).to_string();
        let node = node.map(ring_node);
        match table.last_mut() {
            Some(last) if last.node == node => last.end = end,
            _ => table.push(Finger {
                start: fingers.start(index).to_string(),
                end,
                node,
            }),
        }
    }
    table
}
