//! [`Network`]: peers that find each other by one strategy, whatever that one needs.

use std::{collections::BTreeSet, time::Duration};

use central_server::Config;
use pserver::locate::{StrategyKind, flood::limits::TARGET_LINKS};
use vecino_rest::{
    PeerId,
    body::{self, LinkState, LocateQuery, Located, Variant},
    overlay::{OverlayView, Overlays},
    route,
    zone::ZoneLayout,
};

use crate::support::{
    eventually,
    http::Request,
    peer::{Door, Peer, Plan, Process},
    stage::Stage,
};

/// Short enough for its end to be awaited, long enough for two busy cores.
const LEASE: Duration = Duration::from_secs(3);
/// How long a neighbour remembers who holds a file, at most; that nobody does, for half of it.
const REMEMBERED: Duration = Duration::from_secs(2);
/// What a busy machine may add to any documented time.
const SLACK: Duration = Duration::from_secs(3);

/// Files that were shared are found within this.
pub(super) const FOUND: Duration = Duration::from_secs(1).saturating_add(SLACK);
/// Files that were withdrawn, or whose peer left, are found no more within this.
pub(super) const GONE: Duration = REMEMBERED.saturating_add(SLACK);
/// No lookup takes longer: that is how long a peer waits for its neighbour.
pub(super) const ANSWERED: Duration = Duration::from_secs(6);

/// See the module.
pub(super) struct Network {
    kind: StrategyKind,
    stage: Stage,
    /// The neighbour of all the others, and the one that they join through.
    pub(super) neighbour: Peer,
    /// The others, as far as they run in this process.
    pub(super) peers: Vec<Peer>,
    /// The others that can be killed.
    pub(super) processes: Vec<Process>,
}

impl Network {
    /// A neighbour and `others`, which know each other.
    pub(super) async fn start(kind: StrategyKind, others: usize) -> Self {
        Self::with_processes(kind, others, Vec::new()).await
    }

    /// With processes besides, each of which holds such files (name, bytes).
    pub(super) async fn with_processes(
        kind: StrategyKind,
        others: usize,
        processes: Vec<Vec<(&str, &[u8])>>,
    ) -> Self {
        let stage = Stage::with(Config {
            lease: LEASE,
            zones: ZoneLayout::new(12, 2).expect("valid"),
            ..Config::ephemeral()
        })
        .await;
        let neighbour = plan(kind, &stage, "neighbour").start().await;
        let mut network = Self {
            kind,
            stage,
            neighbour,
            peers: Vec::new(),
            processes: Vec::new(),
        };
        for number in 0..others {
            let peer = network.plan(&format!("peer{number}")).start().await;
            network.peers.push(peer);
        }
        for (number, files) in processes.into_iter().enumerate() {
            let plan = files.into_iter().fold(
                network.plan(&format!("process{number}")),
                |plan, (name, bytes)| plan.holding(name, bytes),
            );
            network.processes.push(plan.spawn().await);
        }
        network.settles().await;
        network
    }

    fn plan(&self, label: &str) -> Plan {
        let plan = plan(self.kind, &self.stage, label).neighbour(self.neighbour.addr);
        match self.kind {
            StrategyKind::Chord | StrategyKind::Flood => {
                plan.set("OVERLAY_SEEDS", self.neighbour.overlay())
            }
            StrategyKind::Central | StrategyKind::Zone => plan,
        }
    }

    /// Every peer, those that can be killed last.
    pub(super) fn doors(&self) -> Vec<&Door> {
        let mut doors: Vec<&Door> = vec![&self.neighbour];
        doors.extend(self.peers.iter().map(|peer| &**peer));
        doors.extend(self.processes.iter().map(|process| &**process));
        doors
    }

    /// Waits until each peer has its place among the others.
    async fn settles(&self) {
        let doors = self.doors();
        for door in &doors {
            eventually("a place in the network", async || {
                is_settled(door, doors.len() - 1).await
            })
            .await;
        }
    }

    /// Waits until every peer, asked as a neighbour, names exactly `holders` for `name`; fails
    /// when not all do `in_time`, counted from now.
    pub(super) async fn find(&self, name: &str, holders: &[&Door], in_time: Duration) {
        let expected: BTreeSet<_> = holders.iter().map(|door| door.url()).collect();
        let everybody = async {
            for door in self.doors() {
                eventually("found by all", async || {
                    holders_of(&locate(door, name).await) == expected
                })
                .await;
            }
        };
        let strategy = self.kind.as_str();
        tokio::time::timeout(in_time, everybody)
            .await
            .unwrap_or_else(|_| panic!("{strategy}: {name} is not with {expected:?} in time"));
    }

    /// The documented time after which nobody is led to a dead peer.
    pub(super) fn forgets_the_dead_within(&self) -> Duration {
        let documented = match self.kind {
            StrategyKind::Central => LEASE + REMEMBERED,
            // Memory is counted in.
            StrategyKind::Chord => Duration::from_secs(5),
            StrategyKind::Zone => 2 * LEASE + REMEMBERED,
            // Who is dead does not answer; a lookup waits for the others at most this long.
            StrategyKind::Flood => Duration::from_millis(2800) + REMEMBERED,
        };
        documented + SLACK
    }

    /// The documented time after which everything that a living peer holds is found, however
    /// many others died.
    pub(super) fn finds_the_living_within(&self) -> Duration {
        let documented = match self.kind {
            StrategyKind::Central | StrategyKind::Flood => REMEMBERED,
            StrategyKind::Chord => Duration::from_secs(30),
            // A refresh (3/10 of a life) finds those silent that kept it, in at most 2 s.
            StrategyKind::Zone => LEASE * 2 * 3 / 10 + Duration::from_secs(2) + REMEMBERED,
        };
        documented + SLACK
    }
}

fn plan(kind: StrategyKind, stage: &Stage, label: &str) -> Plan {
    let plan = stage.peer(label).set("LOCATE_BY", kind.as_str());
    match kind {
        StrategyKind::Central => plan,
        StrategyKind::Zone => plan.set("OVERLAY_PORT", 0),
        StrategyKind::Chord | StrategyKind::Flood => {
            // No locator anywhere; the overlay's address is read from what a process logs.
            plan.without("URL_Request").set("OVERLAY_PORT", 0)
        }
    }
    .set("RUST_LOG", "info")
}

/// Whether it takes part in a network with so many others.
async fn is_settled(door: &Door, others: usize) -> bool {
    let overlays: Overlays = door.get(route::OVERLAY).await.json();
    match overlays.overlays.into_iter().next() {
        // The locator is all there is; a peer that is ready is registered there.
        None => true,
        Some(OverlayView::Chord(view)) => view.joined && view.successors.len() == others,
        Some(OverlayView::Zone(view)) => view.slot.is_some(),
        Some(OverlayView::Flood(view)) => {
            // A lookup ends at the nearest holders: whoever is to be found by all is linked to all.
            let is_up = |link: &&body::Peer| link.state == LinkState::Up;
            view.links.iter().filter(is_up).count() >= others.min(TARGET_LINKS)
        }
    }
}

/// Who holds `name`, as `door` answers a peer whose neighbour it is.
pub(super) async fn locate(door: &Door, name: &str) -> Vec<Variant> {
    ask(door, name, None).await
}

/// The same, of one provider only.
pub(super) async fn locate_at(door: &Door, name: &str, provider: PeerId) -> Vec<Variant> {
    ask(door, name, Some(provider.to_string())).await
}

async fn ask(door: &Door, name: &str, provider: Option<String>) -> Vec<Variant> {
    let query = LocateQuery {
        name: name.parse().ok(),
        digest: None,
        provider,
        fresh: false,
    };
    let body = serde_json::to_vec(&query).expect("JSON");
    let answer = door
        .send(&Request::json(route::NEIGHBOUR_LOCATE, body))
        .await;
    assert_eq!(answer.status, 200, "{name}: {}", answer.text());
    let located: Located = answer.json();
    located.variants
}

/// The URLs of all providers, of any variant.
pub(super) fn holders_of(variants: &[Variant]) -> BTreeSet<String> {
    let providers = variants.iter().flat_map(|variant| &variant.providers);
    providers.map(|provider| provider.url.clone()).collect()
}
