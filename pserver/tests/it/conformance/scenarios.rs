//! The scenarios, in the words of a client and of a neighbour: none knows how files are found.

use std::{fs, time::Instant};

use futures_util::future::join_all;
use pserver::locate::StrategyKind;
use vecino_rest::{Kind, body::Located, route};

use super::network::{ANSWERED, FOUND, GONE, Network, holders_of, locate, locate_at};
use crate::support::{
    content::{Content, PIECE},
    eventually,
    http::Request,
    peer::{Door, path_of},
};

async fn withdraws(door: &Door, name: &str) {
    let response = door.send(&Request::new("DELETE", path_of(name))).await;
    assert!(matches!(response.status, 200 | 204), "{}", response.text());
}

pub(super) async fn found_after_announce(kind: StrategyKind) {
    let network = Network::start(kind, 3).await;
    // A name that needs quoting on its way, and one that nobody has yet, but all were asked for.
    let (name, late) = ("dir/canción 1.bin", "late.bin");
    network.find(late, &[], FOUND).await;
    for (name, peer) in [(name, &network.peers[0]), (late, &network.peers[2])] {
        let content = Content::new(name, 4000);
        peer.shares(name, &content).await;
        network.find(name, &[peer], FOUND).await;
        for door in network.doors() {
            let variants = locate(door, name).await;
            assert_eq!(variants.len(), 1, "{variants:?}");
            let variant = &variants[0];
            assert_eq!(variant.name.to_string(), name);
            assert_eq!(variant.digest, Some(content.digest));
            assert_eq!(variant.size, Some(content.len()));
            assert_eq!(variant.provider_count, 1);
            assert_eq!(variant.providers[0].peer, Some(peer.id()));
        }
    }
}

pub(super) async fn gone_after_withdraw(kind: StrategyKind) {
    let network = Network::start(kind, 3).await;
    let [first, second, client] = &network.peers[..] else {
        unreachable!("three peers");
    };
    let content = Content::new("ours", 3000);
    first.shares("ours.bin", &content).await;
    second.shares("ours.bin", &content).await;
    network.find("ours.bin", &[first, second], FOUND).await;
    withdraws(first, "ours.bin").await;
    network.find("ours.bin", &[second], GONE).await;
    // Its user removes it.
    fs::remove_file(second.shared("ours.bin")).expect("removed");
    network.find("ours.bin", &[], GONE).await;
    assert_eq!(client.download("ours.bin").await.kind(), Kind::NotFound);
    // What comes back is found again.
    first.shares("ours.bin", &content).await;
    network.find("ours.bin", &[first], FOUND).await;
}

pub(super) async fn gone_after_its_peer_left(kind: StrategyKind) {
    let mut network = Network::start(kind, 3).await;
    let content = Content::new("ours", 3000);
    let leaving = network.peers.pop().expect("started");
    leaving.shares("mine.bin", &content).await;
    leaving.shares("ours.bin", &content).await;
    let staying = &network.peers[0];
    staying.shares("ours.bin", &content).await;
    network.find("mine.bin", &[&leaving], FOUND).await;
    network.find("ours.bin", &[&leaving, staying], FOUND).await;
    leaving.stop().await;
    network.find("mine.bin", &[], GONE).await;
    network.find("ours.bin", &[staying], GONE).await;
}

pub(super) async fn gone_after_its_peer_died(kind: StrategyKind) {
    let files: Vec<(&str, &[u8])> = vec![("mine.bin", b"mine"), ("ours.bin", b"ours")];
    let mut network = Network::with_processes(kind, 2, vec![files]).await;
    let staying = &network.peers[0];
    staying.shares("ours.bin", &Content::of(*b"ours")).await;
    let dying = &network.processes[0];
    network.find("mine.bin", &[dying], FOUND).await;
    network.find("ours.bin", &[dying, staying], FOUND).await;
    network.processes.remove(0).kill();
    let died = Instant::now();
    let in_time = network.forgets_the_dead_within();
    network.find("mine.bin", &[], in_time).await;
    let left = in_time.saturating_sub(died.elapsed()).max(FOUND);
    network.find("ours.bin", &[&network.peers[0]], left).await;
    println!("{}: gone after {:?}", kind.as_str(), died.elapsed());
}

pub(super) async fn several_providers(kind: StrategyKind) {
    let network = Network::start(kind, 4).await;
    let content = Content::new("same", 5000);
    let (client, holders) = network.peers.split_last().expect("four peers");
    for peer in holders {
        peer.shares("same.bin", &content).await;
    }
    let doors: Vec<&Door> = holders.iter().map(|peer| &**peer).collect();
    network.find("same.bin", &doors, FOUND).await;
    let variants = locate(&network.neighbour, "same.bin").await;
    assert_eq!(variants.len(), 1, "{variants:?}");
    assert_eq!(variants[0].provider_count, 3);
    for peer in holders {
        let told = locate_at(&network.neighbour, "same.bin", peer.id()).await;
        assert_eq!(holders_of(&told), [peer.url()].into());
    }
    let from = format!("{}?from={}", path_of("same.bin"), holders[1].id());
    let response = client.get(from).await;
    assert_eq!(response.status, 200, "{}", response.text());
    assert!(*response.body == *content.bytes);
    assert_eq!(response.header("vecino-source"), Some(&*holders[1].url()));
}

pub(super) async fn several_variants(kind: StrategyKind) {
    let network = Network::start(kind, 4).await;
    let (one, other) = (Content::new("one", 3000), Content::new("other", 5000));
    let [first, second, third, client] = &network.peers[..] else {
        unreachable!("four peers");
    };
    for (peer, content) in [(first, &one), (second, &one), (third, &other)] {
        peer.shares("same.bin", content).await;
    }
    network
        .find("same.bin", &[first, second, third], FOUND)
        .await;
    // What more provide comes first.
    let told: Vec<_> = locate(&network.neighbour, "same.bin")
        .await
        .iter()
        .map(|variant| (variant.digest, variant.size, variant.provider_count))
        .collect();
    assert_eq!(
        told,
        [
            (Some(one.digest), Some(3000), 2),
            (Some(other.digest), Some(5000), 1)
        ]
    );
    let path = path_of("same.bin");
    let head = client.send(&Request::new("HEAD", &path)).await;
    assert_eq!(head.status, 300);
    let response = client.get(&path).await;
    assert_eq!(response.status, 300);
    let problem = response.problem();
    assert_eq!(problem.kind(), Some(Kind::Ambiguous));
    assert_eq!(problem.variants.len(), 2);
    for content in [&other, &one] {
        let chosen = client
            .get(format!("{path}?digest={}", content.digest))
            .await;
        assert_eq!(chosen.status, 200, "{}", chosen.text());
        assert!(*chosen.body == *content.bytes);
    }
    let neither = client
        .get(format!("{path}?digest={}", "0".repeat(64)))
        .await;
    assert_eq!((neither.status, neither.kind()), (404, Kind::NotFound));
}

pub(super) async fn an_unknown_name_is_answered_in_bounded_time(kind: StrategyKind) {
    let network = Network::start(kind, 3).await;
    for (number, client) in network.peers.iter().enumerate() {
        let name = format!("nobody has {number}");
        let asked = Instant::now();
        let response = client.download(&name).await;
        assert_eq!((response.status, response.kind()), (404, Kind::NotFound));
        let located = client.get(route::locate(&name.parse().expect("a name")));
        assert_eq!(located.await.kind(), Kind::NotFound);
        assert!(locate(client, &name).await.is_empty());
        assert!(asked.elapsed() < ANSWERED, "{:?}", asked.elapsed());
    }
}

pub(super) async fn half_of_the_network_dies(kind: StrategyKind) {
    let theirs: Vec<_> = (0..4).map(|number| format!("their {number}.bin")).collect();
    let processes = theirs.iter().map(|name| vec![(&**name, name.as_bytes())]);
    let mut network = Network::with_processes(kind, 3, processes.collect()).await;
    for (name, process) in theirs.iter().zip(&network.processes) {
        network.find(name, &[process], FOUND).await;
    }
    let names: Vec<_> = (0..12).map(|number| format!("{number}.bin")).collect();
    for (number, name) in names.iter().enumerate() {
        let content = Content::new(name, 1000);
        network.peers[number % 3].shares(name, &content).await;
    }
    // Their neighbour is not asked yet: it would answer from memory.
    for (number, name) in names.iter().enumerate() {
        let holder = [network.peers[number % 3].url()].into();
        eventually("announced", async || {
            holders_of(&locate(&network.peers[2], name).await) == holder
        })
        .await;
    }
    network
        .processes
        .drain(..)
        .for_each(|process| process.kill());
    let died = Instant::now();

    // Nothing may be found yet; whatever is answered comes in time.
    let unknown = ["nobody has this".to_owned()];
    let mut found = 0;
    for name in names.iter().chain(&theirs).chain(&unknown) {
        let name = name.parse().expect("a name");
        let asked = Instant::now();
        let answer = network.peers[0].get(route::locate(&name)).await;
        assert!(matches!(answer.status, 200 | 404), "{}", answer.text());
        assert!(asked.elapsed() < ANSWERED, "{name}: {:?}", asked.elapsed());
        found += usize::from(answer.status == 200);
    }
    let strategy = kind.as_str();
    println!("{strategy}: {found} answers name somebody at once, 12 living");

    let again = network.finds_the_living_within();
    for (number, name) in names.iter().enumerate() {
        let left = again.saturating_sub(died.elapsed()).max(FOUND);
        network
            .find(name, &[&network.peers[number % 3]], left)
            .await;
    }
    println!("{strategy}: all found again after {:?}", died.elapsed());
    let gone = network.forgets_the_dead_within();
    for name in &theirs {
        let left = gone.saturating_sub(died.elapsed()).max(FOUND);
        network.find(name, &[], left).await;
    }
    // The rest goes on as before.
    let content = Content::new("after", 2 * PIECE);
    network.peers[1].shares("after.bin", &content).await;
    network.find("after.bin", &[&network.peers[1]], FOUND).await;
    network.peers[2].downloads("after.bin", &content).await;
}

pub(super) async fn concurrent_lookups(kind: StrategyKind) {
    const FILES: usize = 24;
    const UNKNOWN: usize = 12;
    let network = Network::start(kind, 4).await;
    let names: Vec<_> = (0..FILES).map(|number| format!("{number}.bin")).collect();
    let holder = |number: usize| &network.peers[number % 4];
    for (number, name) in names.iter().enumerate() {
        holder(number).shares(name, &Content::new(name, 100)).await;
    }
    for (number, name) in names.iter().enumerate() {
        network.find(name, &[holder(number)], FOUND).await;
    }
    let (names, doors) = (&names, network.doors());
    let asked = Instant::now();
    let known = join_all(doors.iter().flat_map(|door| {
        names
            .iter()
            .enumerate()
            .map(async move |(number, name)| (number, holders_of(&locate(door, name).await)))
    }));
    // Each peer is asked for others, lest one answer serves all.
    let unknown = join_all(doors.iter().enumerate().flat_map(|(at, door)| {
        (0..UNKNOWN)
            .map(move |number| async move { locate(door, &format!("unknown {at} {number}")).await })
    }));
    // And by clients, each through its own peer and their common neighbour.
    let clients = join_all(network.peers.iter().flat_map(|client| {
        names.iter().enumerate().map(async move |(number, name)| {
            let name = name.parse().expect("a name");
            let located: Located = client.get(route::locate(&name)).await.json();
            (number, holders_of(&located.variants))
        })
    }));
    let (known, unknown, clients) = tokio::join!(known, unknown, clients);
    println!("{}: all after {:?}", kind.as_str(), asked.elapsed());
    assert_eq!(known.len() + clients.len(), FILES * (5 + 4));
    for (number, holders) in known.into_iter().chain(clients) {
        assert_eq!(holders, [holder(number).url()].into(), "{number}");
    }
    assert_eq!(unknown.len(), 5 * UNKNOWN);
    assert!(unknown.iter().all(Vec::is_empty), "{unknown:?}");
}

pub(super) async fn a_download_goes_through_own_peer_and_neighbour(kind: StrategyKind) {
    let mut network = Network::start(kind, 3).await;
    let content = Content::new("film", 3 * PIECE + 17);
    let name = "dir/film.mkv";
    let [provider, own, other] = &network.peers[..] else {
        unreachable!("three peers");
    };
    provider.shares(name, &content).await;
    network.find(name, &[provider], FOUND).await;
    let response = own.download(name).await;
    assert_eq!(response.status, 200, "{}", response.text());
    assert!(response.whole && *response.body == *content.bytes);
    assert_eq!(response.header("etag"), Some(&*content.tag()));
    assert_eq!(response.header("vecino-source"), Some(&*provider.url()));
    own.keeps(name, &content).await;
    // Whoever fetched it provides it, too: alone, when the first is gone.
    network.find(name, &[provider, own], FOUND).await;
    let (own, other) = (own.url(), other.url());
    network.peers.remove(0).stop().await;
    network.find(name, &[&network.peers[0]], GONE).await;
    assert_eq!(
        (network.peers[0].url(), network.peers[1].url()),
        (own, other)
    );
    network.peers[1].downloads(name, &content).await;
    // The neighbour was asked, and carried nothing.
    assert!(network.neighbour.files().await.is_empty());
}

pub(super) async fn what_the_strategy_says_of_itself(kind: StrategyKind) {
    let network = Network::start(kind, 2).await;
    for peer in &network.peers {
        assert_eq!(peer.status().await.strategies, [kind.as_str()]);
        let repaired = peer.send(&Request::new("POST", route::REPAIR)).await;
        assert_eq!(repaired.status, 204, "{}", repaired.text());
        // Only the locator knows every name; a flood does after a discovery.
        let search = peer.get(format!("{}?q=film", route::SEARCH)).await;
        match kind {
            StrategyKind::Central => assert_eq!(search.status, 200, "{}", search.text()),
            StrategyKind::Chord | StrategyKind::Zone | StrategyKind::Flood => {
                assert_eq!((search.status, search.kind()), (501, Kind::NotSupported));
            }
        }
    }
}
