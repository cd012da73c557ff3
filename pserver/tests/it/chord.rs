//! The ring as its peers run it: real gRPC between them, real HTTP to their clients, no locator.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use bytes::Bytes;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::Code;
use vecino_grpc::v1::{self, chord_client::ChordClient};
use vecino_rest::{
    Digest, Kind, Name,
    body::{LocateQuery, Located, Variant},
    overlay::{ChordView, OverlayView, Overlays},
    route,
};

use crate::support::{
    content::Content,
    eventually,
    http::Request,
    peer::{Door, Peer, Plan, Process},
};

/// A peer of the ring that `seeds` lead to, whose neighbours are `neighbours`.
fn plan(dir: &TempDir, label: &str, seeds: &[SocketAddr], neighbours: &[SocketAddr]) -> Plan {
    let plan = Plan::new(dir.path().join(label))
        .set("LOCATE_BY", "chord")
        .set("OVERLAY_PORT", 0)
        .set("RUST_LOG", "info");
    let lists = [("OVERLAY_SEEDS", seeds), ("URL_PEERSU", neighbours)];
    let filled = lists.into_iter().filter(|(_, addrs)| !addrs.is_empty());
    filled.fold(plan, |plan, (variable, addrs)| {
        let texts: Vec<_> = addrs.iter().map(ToString::to_string).collect();
        plan.set(variable, texts.join(","))
    })
}

/// Who holds `name`, as `peer` finds in its role as a neighbour.
async fn locate(peer: &Door, name: &str) -> Vec<Variant> {
    let query = LocateQuery {
        name: Some(Name::parse(name).unwrap()),
        digest: None,
        provider: None,
        fresh: false,
    };
    let body = serde_json::to_vec(&query).unwrap();
    let answer = peer
        .send(&Request::json(route::NEIGHBOUR_LOCATE, body))
        .await;
    assert_eq!(answer.status, 200, "{name}: {}", answer.text());
    let located: Located = answer.json();
    located.variants
}

/// The URLs of all who hold `name`, in any variant.
async fn providers(peer: &Door, name: &str) -> BTreeSet<String> {
    let variants = locate(peer, name).await;
    let providers = variants.into_iter().flat_map(|variant| variant.providers);
    providers.map(|provider| provider.url).collect()
}

async fn view(peer: &Door) -> ChordView {
    let mut overlays: Overlays = peer.get(route::OVERLAY).await.json();
    match overlays.overlays.pop() {
        Some(OverlayView::Chord(view)) => view,
        other => panic!("no ring: {other:?}"),
    }
}

/// Waits until `peers` are the whole ring, and each of them knows it.
async fn are_the_ring(peers: &[&Door]) {
    eventually("one ring", async || {
        let mut views = Vec::new();
        for peer in peers {
            views.push(view(peer).await);
        }
        views.sort_by(|a, b| a.me.id.cmp(&b.me.id));
        let size = views.len();
        (0..size).all(|at| {
            let around = |steps: usize| &views[(at + steps) % size].me;
            let successors: Vec<_> = (1..size).map(around).collect();
            let predecessor = (size > 1).then(|| around(size - 1));
            views[at].joined
                && views[at].predecessor.as_ref() == predecessor
                && views[at].successors.iter().collect::<Vec<_>>() == successors
        })
    })
    .await;
}

struct Ring {
    dir: TempDir,
    peers: Vec<Peer>,
}

impl Ring {
    async fn start(size: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut ring = Self {
            dir,
            peers: Vec::new(),
        };
        for _ in 0..size {
            ring.join().await;
        }
        let doors: Vec<&Door> = ring.peers.iter().map(|peer| &**peer).collect();
        are_the_ring(&doors).await;
        ring
    }

    async fn join(&mut self) {
        let label = format!("peer{}", self.peers.len());
        let seeds: Vec<_> = self.peers.iter().take(1).map(Peer::overlay).collect();
        let neighbours: Vec<_> = self.peers.iter().take(2).map(|peer| peer.addr).collect();
        let plan = plan(&self.dir, &label, &seeds, &neighbours);
        self.peers.push(plan.start().await);
    }

    /// Waits until every peer finds exactly `holders` for `name`.
    async fn find(&self, name: &str, holders: &[usize]) {
        let expected: BTreeSet<_> = holders.iter().map(|at| self.peers[*at].url()).collect();
        for (at, peer) in self.peers.iter().enumerate() {
            eventually(&format!("{name} found by peer {at}"), async || {
                providers(peer, name).await == expected
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_leaves_takes_its_files_and_leaves_those_of_others() {
    let mut ring = Ring::start(5).await;
    let content = Content::new("stays", 1000);
    for (at, peer) in ring.peers.iter().enumerate() {
        peer.shares(&format!("of{at}.bin"), &content).await;
        peer.shares("of-all.bin", &content).await;
    }
    ring.find("of-all.bin", &[0, 1, 2, 3, 4]).await;
    ring.peers.remove(4).stop().await;
    let doors: Vec<&Door> = ring.peers.iter().map(|peer| &**peer).collect();
    are_the_ring(&doors).await;
    ring.find("of4.bin", &[]).await;
    ring.find("of-all.bin", &[0, 1, 2, 3]).await;
    for at in 0..4 {
        ring.find(&format!("of{at}.bin"), &[at]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ring_shows_itself_and_can_be_brought_in_order() {
    let ring = Ring::start(3).await;
    for peer in &ring.peers {
        let repaired = peer.send(&Request::new("POST", route::REPAIR)).await;
        assert_eq!(repaired.status, 204, "{}", repaired.text());
        let view = view(peer).await;
        assert_eq!(
            view.fingers.first().unwrap().node,
            view.successors.first().cloned()
        );
        assert_eq!(view.fingers.last().unwrap().end, view.me.id);
        for pair in view.fingers.windows(2) {
            assert_eq!(pair[0].end, pair[1].start);
        }
        assert!(view.fingers.iter().all(|finger| finger.node.is_some()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ring_cannot_look_up_by_digest_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let peer = plan(&dir, "peer", &[], &[]).start().await;
    eventually("a ring of its own", async || view(&peer).await.joined).await;
    let body = format!(r#"{{"digest":"{}"}}"#, Digest::of(b"x".as_slice()));
    let asked = Request::json(route::NEIGHBOUR_LOCATE, body);
    assert_eq!(peer.send(&asked).await.kind(), Kind::NotSupported);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_whose_client_hangs_up_does_not_stop_the_ring() {
    let dir = tempfile::tempdir().unwrap();
    let first = plan(&dir, "first", &[], &[]).start().await;
    let mut others = Vec::new();
    for label in ["second", "third"] {
        others.push(plan(&dir, label, &[first.overlay()], &[]).spawn().await);
    }
    are_the_ring(&[&first, &others[0], &others[1]]).await;
    let successor = view(&first).await.successors[0].url.clone();
    let at = others.iter().position(|other| other.url() == successor);
    let silent = others.remove(at.unwrap());
    silent.pause();
    // Until the successor counts as dead, whoever stabilises waits for it.
    for _ in 0..5 {
        let mut client = TcpStream::connect(first.addr).await.unwrap();
        rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
        let request = format!(
            "POST {} HTTP/1.1\r\nhost: {}\r\ncontent-length: 0\r\n\r\n",
            route::REPAIR,
            first.addr
        );
        client.write_all(request.as_bytes()).await.unwrap();
        let answer = client.read_u8();
        let _ = tokio::time::timeout(Duration::from_millis(150), answer).await;
    }
    silent.kill();
    are_the_ring(&[&first, &others[0]]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_that_began_apart_become_one_ring() {
    let dir = tempfile::tempdir().unwrap();
    // Nobody is at the seed yet: each begins alone.
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let seed = socket.local_addr().unwrap();
    drop(socket);
    let mut peers = Vec::new();
    for at in 0..3 {
        peers.push(plan(&dir, &format!("peer{at}"), &[seed], &[]).start().await);
    }
    let content = Content::new("apart", 1000);
    for (at, peer) in peers.iter().enumerate() {
        peer.shares(&format!("of{at}.bin"), &content).await;
        eventually("a ring of its own", async || view(peer).await.joined).await;
    }
    let first = plan(&dir, "seed", &[seed], &[]).set("OVERLAY_PORT", seed.port());
    peers.push(first.start().await);
    let doors: Vec<&Door> = peers.iter().map(|peer| &**peer).collect();
    are_the_ring(&doors).await;
    for (at, peer) in peers.iter().enumerate().take(3) {
        for asking in &peers {
            eventually(&format!("of{at}.bin found"), async || {
                providers(asking, &format!("of{at}.bin")).await == [peer.url()].into()
            })
            .await;
        }
    }
}

fn free_port() -> u16 {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().port()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_peer_finds_its_ring_again_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let content = Content::new("first", 1000);
    let first = plan(&dir, "first", &[], &[])
        .set("PORT", free_port())
        .set("OVERLAY_PORT", free_port())
        .holding("first.bin", &content.bytes);
    let process = first.spawn().await;
    let mut others = Vec::new();
    for at in 0..4 {
        let plan = plan(
            &dir,
            &format!("peer{at}"),
            &[process.overlay()],
            &[process.addr],
        );
        others.push(plan.start().await);
    }
    let mut doors: Vec<&Door> = others.iter().map(|peer| &**peer).collect();
    doors.push(&process);
    are_the_ring(&doors).await;
    // Others still take it for a member that knows them.
    process.kill();
    let process = first.spawn().await;
    let mut doors: Vec<&Door> = others.iter().map(|peer| &**peer).collect();
    doors.push(&process);
    are_the_ring(&doors).await;
    for door in doors {
        eventually("first.bin found", async || {
            providers(door, "first.bin").await == [process.url()].into()
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn twelve_processes_join_one_after_another_and_survive_the_loss_of_three() {
    const PEERS: usize = 12;
    let dir = tempfile::tempdir().unwrap();
    let mut peers = Vec::new();
    let content = |at: usize| Content::new(&format!("content {at}"), 10_000);
    for at in 0..PEERS {
        let seeds: Vec<_> = peers.iter().take(1).map(Process::overlay).collect();
        let neighbours: Vec<_> = peers
            .iter()
            .take(2)
            .map(|peer: &Process| peer.addr)
            .collect();
        let plan = plan(&dir, &format!("peer{at}"), &seeds, &neighbours)
            .holding(&format!("of{at}.bin"), &content(at).bytes)
            .holding("of-all.bin", &content(PEERS).bytes);
        peers.push(plan.spawn().await);
    }
    let started = std::time::Instant::now();
    let urls: Vec<_> = peers.iter().map(|peer| peer.url()).collect();
    for asking in &peers {
        for (at, url) in urls.iter().enumerate() {
            eventually(&format!("of{at}.bin found"), async || {
                providers(asking, &format!("of{at}.bin")).await == [url.clone()].into()
            })
            .await;
        }
    }
    println!(
        "each of {PEERS} files found from each of {PEERS} peers {:?} after the last had joined",
        started.elapsed()
    );
    let doors: Vec<&Door> = peers.iter().map(|peer| &**peer).collect();
    are_the_ring(&doors).await;
    println!("the ring is ideal after {:?}", started.elapsed());
    for (at, peer) in peers.iter().enumerate().skip(1) {
        let from = (at + 3) % PEERS;
        peer.downloads(&format!("of{from}.bin"), &content(from))
            .await;
    }

    // All are holders of all, with so few (two of each peer, and what all but one
    // downloaded); while the ring was founded, some were not known.
    for peer in &peers {
        eventually("every record has a copy here", async || {
            view(peer).await.records == 3 * PEERS as u64 - 1
        })
        .await;
    }
    println!("every peer has every record after {:?}", started.elapsed());
    // The seed among them.
    for at in [7, 4, 0] {
        peers.remove(at).kill();
    }
    let killed = std::time::Instant::now();
    let survivors: Vec<usize> = (0..PEERS).filter(|at| ![0, 4, 7].contains(at)).collect();
    let mut found_at_once = 0;
    for (at, asking) in survivors.iter().zip(&peers) {
        for wanted in &survivors {
            let found = providers(asking, &format!("of{wanted}.bin")).await;
            found_at_once += usize::from(found.contains(&urls[*wanted]));
            eventually(&format!("of{wanted}.bin found by peer {at}"), async || {
                providers(asking, &format!("of{wanted}.bin"))
                    .await
                    .contains(&urls[*wanted])
            })
            .await;
        }
    }
    println!(
        "{found_at_once} of {} found at the first try, all after {:?}",
        survivors.len() * survivors.len(),
        killed.elapsed()
    );
    assert!(
        killed.elapsed() < Duration::from_secs(30),
        "the documented time"
    );
    // Nobody is led to the dead, once what was remembered of them is old.
    for asking in &peers {
        eventually("nobody is led to the dead", async || {
            let found = providers(asking, "of-all.bin").await;
            [0, 4, 7].iter().all(|at| !found.contains(&urls[*at]))
        })
        .await;
    }
    assert!(killed.elapsed() < Duration::from_secs(30), "{killed:?}");
    let doors: Vec<&Door> = peers.iter().map(|peer| &**peer).collect();
    are_the_ring(&doors).await;
    println!("the ring is ideal again after {:?}", killed.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_speaks_in_the_name_of_another() {
    let ring = Ring::start(3).await;
    let content = Content::new("mine", 1000);
    ring.peers[1].shares("mine.bin", &content).await;
    ring.find("mine.bin", &[1]).await;
    let [holder, victim, _] = &ring.peers[..] else {
        unreachable!("three peers");
    };
    let mut client = ChordClient::connect(format!("http://{}", holder.overlay()))
        .await
        .unwrap();
    let to = Bytes::copy_from_slice(holder.id().as_bytes());
    let from = Some(v1::ChordMember {
        peer_id: Bytes::copy_from_slice(victim.id().as_bytes()),
        overlay: format!("http://{}", victim.overlay()),
        url: victim.url(),
        site: String::new(),
    });
    let token = Bytes::from(vec![7; 32]);
    let withdrawn = client
        .withdraw(v1::ChordWithdrawRequest {
            to: to.clone(),
            from: from.clone(),
            token: token.clone(),
            records: Vec::new(),
            all: true,
        })
        .await;
    assert_eq!(withdrawn.unwrap_err().code(), Code::PermissionDenied);
    let record = v1::ChordPublished {
        name: "false.bin".to_owned(),
        digest: Bytes::copy_from_slice(content.digest.as_bytes()),
        size: 1,
        modified_ms: 0,
    };
    let store = |records| v1::ChordStoreRequest {
        to: to.clone(),
        from: from.clone(),
        token: token.clone(),
        records,
        life_seconds: 60,
    };
    let stored = client.store(store(vec![record.clone()])).await;
    assert_eq!(stored.unwrap_err().code(), Code::PermissionDenied);
    let stored = client.store(store(vec![record.clone(); 257])).await;
    assert_eq!(stored.unwrap_err().code(), Code::InvalidArgument);
    let handed = client
        .hand_over(v1::ChordHandOverRequest {
            to: to.clone(),
            from: from.clone(),
            token: token.clone(),
            provided: vec![v1::ChordProvided {
                record: Some(record),
                provider: from.clone(),
                life_ms: 60_000,
            }],
        })
        .await;
    assert_eq!(handed.unwrap_err().code(), Code::PermissionDenied);
    // It is there, so nobody believes that it leaves.
    let leaving = v1::ChordLeavingRequest {
        to: to.clone(),
        from: from.clone(),
        token,
    };
    client.leaving(leaving).await.unwrap();
    let step = |to: &Bytes, bytes| v1::ChordStepRequest {
        to: to.clone(),
        place: Bytes::from(vec![0; bytes]),
    };
    let short = client.step(step(&to, 19)).await;
    assert_eq!(short.unwrap_err().code(), Code::InvalidArgument);
    let other = Bytes::copy_from_slice(victim.id().as_bytes());
    let misdirected = client.step(step(&other, 20)).await;
    assert_eq!(misdirected.unwrap_err().code(), Code::FailedPrecondition);
    let outside = v1::ChordNotifyRequest {
        to,
        from: from.map(|from| v1::ChordMember {
            overlay: "http://169.254.169.254:80".to_owned(),
            ..from
        }),
        token: Bytes::new(),
    };
    let outside = client.notify(outside).await;
    assert_eq!(outside.unwrap_err().code(), Code::InvalidArgument);

    ring.find("mine.bin", &[1]).await;
    ring.find("false.bin", &[]).await;
    let doors: Vec<&Door> = ring.peers.iter().map(|peer| &**peer).collect();
    are_the_ring(&doors).await;
}
