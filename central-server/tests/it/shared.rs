//! Several locators with one directory, in a real Redis Cluster.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use central_server::{Config, config::StoreUrl};
use tonic::Code;
use vecino_grpc::v1;

use crate::{
    process::{Process, command},
    redis_cluster::RedisCluster,
    support::*,
};

fn config(url: &str, lease: Duration) -> Config {
    let store: StoreUrl = url.parse().expect("a cluster");
    Config {
        store,
        lease,
        ..Config::ephemeral()
    }
}

async fn two_locators(url: &str, lease: Duration) -> (Locator, Locator) {
    let config = config(url, lease);
    (
        Locator::with(config.clone()).await,
        Locator::with(config).await,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_at_one_locator_is_live_at_the_other_until_its_lease_ends() {
    let cluster = RedisCluster::shared();
    let lease = Duration::from_secs(2);
    let (one, other) = two_locators(&cluster.url(), lease).await;
    let mut peer = Peer::register(one.client().await, registration(1)).await;
    peer.announce(&[record("song.mp3", "one")]).await;
    let mut client = other.client().await;
    let began = Instant::now();
    eventually("the other locator knows it", || async {
        providers(&mut client.clone(), by_name("song.mp3")).await == [peer.url()]
    })
    .await;
    assert!(began.elapsed() < lease, "{:?}", began.elapsed());
    let found = client.search(v1::SearchRequest {
        query: "song".into(),
        ..Default::default()
    });
    assert_eq!(found.await.expect("searches").into_inner().hits.len(), 1);
    let place = v1::PlaceRequest {
        size: 1,
        count: 1,
        ..Default::default()
    };
    let placed = client
        .place(place)
        .await
        .expect("places")
        .into_inner()
        .peers;
    assert_eq!(placed[0].url, peer.url());

    let mut kept = Instant::now();
    while began.elapsed() < 2 * lease {
        peer.kept_alive().await.expect("is kept");
        kept = Instant::now();
        assert_eq!(
            providers(&mut client, by_name("song.mp3")).await,
            [peer.url()]
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for locator in [&one, &other] {
        let client = locator.client().await;
        eventually("it is gone", || async {
            providers(&mut client.clone(), by_name("song.mp3"))
                .await
                .is_empty()
        })
        .await;
    }
    assert!(
        kept.elapsed() < lease + Duration::from_secs(2),
        "{:?}",
        kept.elapsed()
    );
    assert_eq!(
        peer.kept_alive().await.expect_err("over").code(),
        Code::Unauthenticated
    );
    // It comes back at the other one: its records are still there.
    let back = Peer::register(other.client().await, registration(1)).await;
    assert_ne!(back.welcome.fingerprints, vec![0; 4096]);
    assert_eq!(
        providers(&mut client, by_name("song.mp3")).await,
        [back.url()]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_deregisters_or_registers_elsewhere_is_known_at_each_locator() {
    let cluster = RedisCluster::shared();
    let url = cluster.url();
    let (one, other) = two_locators(&url, Duration::from_secs(600)).await;
    let mut peer = Peer::register(one.client().await, registration(1)).await;
    peer.announce(&[record("a", "one")]).await;
    let directory = peer.welcome.directory.clone();
    assert_eq!(directory.len(), 16);

    let named = v1::RegisterRequest {
        registered_in: vec![vec![9; 16].into(), directory.clone()],
        ..registration(1)
    };
    let standing_by = other
        .client()
        .await
        .register(named)
        .await
        .expect("answers")
        .into_inner();
    let only = v1::RegisterResponse {
        directory,
        ..Default::default()
    };
    assert_eq!(standing_by, only, "it has a lease already");
    peer.kept_alive().await.expect("which goes on");
    let elsewhere = v1::RegisterRequest {
        registered_in: vec![vec![9; 16].into()],
        ..registration(1)
    };
    let mut moved = Peer::register(other.client().await, elsewhere).await;
    assert_eq!(moved.announce(&[record("b", "two")]).await, 2);
    let (client, request) = (one.client().await, peer.keep_alive());
    eventually("the earlier token ends at the first locator", || async {
        let request = tokio_stream::once(request.clone());
        let mut answers = client
            .clone()
            .keep_alive(request)
            .await
            .expect("opens")
            .into_inner();
        let refused = soon(answers.message()).await;
        refused.is_err_and(|status| status.code() == Code::Unauthenticated)
    })
    .await;
    let stale = peer.batch(vec![record("c", "three")], Vec::new());
    let refused = peer.send(stale).await.expect_err("refused");
    assert_eq!(refused.code(), Code::Unauthenticated);

    moved.deregister().await.expect("deregisters");
    assert!(
        providers(&mut other.client().await, by_name("a"))
            .await
            .is_empty()
    );
    let began = Instant::now();
    eventually("it left the answers of the first one", || async {
        providers(&mut client.clone(), by_name("a"))
            .await
            .is_empty()
    })
    .await;
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    let alone = Locator::start().await;
    let peer = Peer::register(alone.client().await, registration(1)).await;
    assert!(peer.welcome.directory.is_empty(), "a directory of its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_locator_acknowledged_is_there_at_the_other() {
    const PEERS: u8 = 6;
    const BATCHES: usize = 30;
    let cluster = RedisCluster::shared();
    let url = cluster.url();
    let directory = tempfile::tempdir().expect("a directory");
    let other = Locator::with(config(&url, Duration::from_secs(15))).await;
    let mut first = command(directory.path());
    first.env("METRICS_ADDR", "off").env("STORE_URL", &url);
    let killed = Process::spawn(&mut first);
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let mut load = Vec::new();
    for number in 1..=PEERS {
        let mut peer = Peer::register(connect(killed.addr).await, registration(number)).await;
        let acknowledged = acknowledged.clone();
        load.push(tokio::spawn(async move {
            for batch in 0.. {
                let name = |n| format!("{number}/{batch}/{n}");
                let records: Vec<_> = (0..20).map(|n| record(&name(n), &name(n))).collect();
                let request = peer.batch(records.clone(), Vec::new());
                if peer.send(request).await.is_err() {
                    return;
                }
                let names = records.into_iter().map(|record| record.name);
                acknowledged.lock().expect("not poisoned").extend(names);
            }
        }));
    }
    let count = || acknowledged.lock().expect("not poisoned").len();
    eventually("there is load", || async { count() > BATCHES * 20 }).await;
    killed.kill();
    for task in load {
        soon(task).await.expect("ends with its locator");
    }
    let names = acknowledged.lock().expect("not poisoned").clone();
    let again = Process::spawn(&mut first);
    for mut client in [other.client().await, connect(again.addr).await] {
        // Who is live is told once a second.
        eventually("the peers are known", || async {
            let (mut client, last) = (client.clone(), names.last().expect("there is load"));
            providers(&mut client, by_name(last)).await.len() == 1
        })
        .await;
        for name in &names {
            let found = providers(&mut client, by_name(name)).await;
            assert_eq!(found.len(), 1, "{name} of {}", names.len());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locator_out_of_reach_of_the_cluster_says_so_and_recovers() {
    let cluster = RedisCluster::start();
    let locator = Locator::with(config(&cluster.url(), Duration::from_secs(3))).await;
    let mut client = locator.client().await;
    let mut peer = Peer::register(locator.client().await, registration(1)).await;
    peer.announce(&[record("a", "one")]).await;
    peer.kept_alive().await.expect("is kept");
    cluster.nodes.iter().for_each(|node| node.halt());
    let began = Instant::now();
    let refused = client
        .locate(by_name("a"))
        .await
        .expect_err("nobody answers");
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    // A peer waits for three seconds.
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    let refused = loop {
        match peer.kept_alive().await {
            Ok(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(status) => break status,
        }
        assert!(
            began.elapsed() < DEADLINE,
            "it is kept although nobody hears of it"
        );
    };
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    cluster.nodes.iter().for_each(|node| node.go_on());
    eventually("it registers again", || async {
        client.clone().register(registration(1)).await.is_ok()
    })
    .await;
    eventually("its records are there", || async {
        let located = client.clone().locate(by_name("a")).await;
        located.is_ok_and(|located| located.into_inner().variants.len() == 1)
    })
    .await;
}
