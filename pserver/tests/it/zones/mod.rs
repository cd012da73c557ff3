//! The strategy `zone`: peers in zones, a real locator that assigns them, real gRPC between them.

mod contacts;
mod faults;
mod finding;
mod hostile;
mod liar;
mod seats;

use std::time::Duration;

use central_server::Config;
use vecino_rest::{
    Name,
    body::{LocateQuery, Located, Variant},
    overlay::{OverlayView, Overlays, ZoneView},
    route,
    zone::ZoneLayout,
};

use crate::support::{
    eventually,
    http::Request,
    peer::{Door, Peer, Plan},
    stage::Stage,
};

/// Short enough for its end to be awaited, long enough for two busy cores.
const LEASE: Duration = Duration::from_secs(3);
/// The documented life of a record that nobody prolongs.
const LIFE: Duration = LEASE.saturating_mul(2);
/// The documented time until everybody knows that a member is gone: its lease, and a poll.
const KNOWN_GONE: Duration = Duration::from_millis(3500);
/// What a busy machine and the memory of a neighbour may add to any of these.
const SLACK: Duration = Duration::from_secs(3);

fn layout(slots: u32, zones: u32) -> ZoneLayout {
    ZoneLayout::new(slots, zones).expect("valid")
}

async fn stage(layout: ZoneLayout) -> Stage {
    Stage::with(Config {
        zones: layout,
        lease: LEASE,
        ..Config::ephemeral()
    })
    .await
}

fn plan(stage: &Stage, label: &str) -> Plan {
    stage
        .peer(label)
        .set("LOCATE_BY", "zone")
        .set("OVERLAY_PORT", 0)
}

/// `count` peers that sit in their zones; the first is the neighbour of the others.
async fn seated(stage: &Stage, count: usize) -> Vec<Peer> {
    let mut peers: Vec<Peer> = Vec::new();
    for number in 0..count {
        let mut plan = plan(stage, &format!("peer{number}"));
        if let Some(first) = peers.first() {
            plan = plan.neighbour(first.addr);
        }
        peers.push(plan.start().await);
    }
    for peer in &peers {
        sits(peer).await;
    }
    peers
}

fn url(door: &Door) -> String {
    format!("http://{}", door.addr)
}

async fn view(door: &Door) -> ZoneView {
    let overlays: Overlays = door.get(route::OVERLAY).await.json();
    match overlays.overlays.into_iter().next() {
        Some(OverlayView::Zone(view)) => view,
        other => panic!("no zone: {other:?}"),
    }
}

/// Waits until it has a slot; which.
async fn sits(door: &Door) -> u32 {
    eventually("a slot", async || view(door).await.slot.is_some()).await;
    view(door).await.slot.expect("it was there")
}

/// Waits until everybody knows that so many sit in the zone of each.
async fn know_each_other(peers: &[Peer], members: usize) {
    for peer in peers {
        eventually("known members", async || {
            view(peer).await.members.len() == members
        })
        .await;
    }
}

/// What `door` answers as a neighbour.
async fn ask(door: &Door, name: &str) -> Vec<Variant> {
    let query = LocateQuery {
        name: Some(name.parse().expect("a name")),
        digest: None,
        provider: None,
        fresh: false,
    };
    let body = serde_json::to_vec(&query).expect("JSON");
    let request = Request::json(route::NEIGHBOUR_LOCATE, body);
    let located: Located = door.send(&request).await.json();
    located.variants
}

/// How many providers of `name` it names.
async fn providers(door: &Door, name: &str) -> usize {
    let variants = ask(door, name).await;
    variants.iter().map(|variant| variant.providers.len()).sum()
}

/// Waits until it names so many providers; how long that took.
async fn finds(door: &Door, name: &str, count: usize) -> Duration {
    let began = std::time::Instant::now();
    eventually("as many providers", async || {
        providers(door, name).await == count
    })
    .await;
    began.elapsed()
}

/// A name that belongs to one of `slots`, another one for another `seed`.
fn name_in(layout: ZoneLayout, slots: std::ops::Range<u32>, seed: &str) -> String {
    (0..10_000)
        .map(|number| format!("{seed}/{number}.bin"))
        .find(|text| slots.contains(&layout.slot_of(&Name::parse(text).expect("a name"))))
        .expect("one among many")
}
