//! Leases: they end, are kept, and survive a restart.

use std::time::Duration;

use central_server::Config;
use tonic::Code;

use crate::support::*;

fn short_lease() -> Config {
    Config {
        lease: Duration::from_secs(1),
        ..Config::ephemeral()
    }
}

#[tokio::test]
async fn a_silent_peer_leaves_all_answers_and_a_kept_one_stays() {
    let locator = Locator::with(short_lease()).await;
    let mut client = locator.client().await;
    let mut silent = Peer::register(locator.client().await, registration(1)).await;
    let mut kept = Peer::register(locator.client().await, registration(2)).await;
    for peer in [&mut silent, &mut kept] {
        peer.announce(&[record("song.mp3", "one")]).await;
    }
    let expected = [kept.url().to_owned()];
    let waited = std::time::Instant::now();
    eventually("the silent peer is gone", || {
        let (mut client, expected) = (client.clone(), &expected);
        let keep_alive = kept.keep_alive();
        async move {
            let request = tokio_stream::once(keep_alive);
            let mut answers = client
                .keep_alive(request)
                .await
                .expect("opens")
                .into_inner();
            let answer = soon(answers.message())
                .await
                .expect("is kept")
                .expect("an answer");
            assert_eq!(answer.lease_seconds, 1);
            providers(&mut client, by_name("song.mp3")).await == *expected
        }
    })
    .await;
    assert!(
        waited.elapsed() < Duration::from_secs(5),
        "a lease is a second"
    );
    assert_eq!(
        silent.kept_alive().await.expect_err("over").code(),
        Code::Unauthenticated
    );
    eventually("the lease is counted as expired", || async {
        locator.metric("vecino_leases_expired_total").await == 1.0
    })
    .await;

    // It comes back within the day: its records are still there.
    let back = Peer::register(locator.client().await, registration(1)).await;
    assert_ne!(back.welcome.fingerprints, vec![0; 4096]);
    assert_eq!(providers(&mut client, by_name("song.mp3")).await.len(), 2);
}

#[tokio::test]
async fn a_deregistered_peer_is_gone_at_once_and_its_records_wait() {
    let locator = Locator::start().await;
    let mut client = locator.client().await;
    let mut peer = Peer::register(locator.client().await, registration(1)).await;
    peer.announce(&[record("a", "one")]).await;
    peer.deregister().await.expect("deregisters");
    assert!(providers(&mut client, by_name("a")).await.is_empty());
    let batch = peer.batch(vec![record("b", "two")], Vec::new());
    assert_eq!(
        peer.send(batch).await.expect_err("over").code(),
        Code::Unauthenticated
    );
    assert_eq!(locator.metric("vecino_records").await, 1.0);
    let back = Peer::register(locator.client().await, registration(1)).await;
    assert_eq!(providers(&mut client, by_name("a")).await, [back.url()]);
}

#[tokio::test]
async fn after_a_restart_peers_are_found_at_once_and_go_on_with_their_tokens() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = on_disk(&directory.path().join("sub/locator.redb"));
    let locator = Locator::with(config.clone()).await;
    let mut peer = Peer::register(locator.client().await, registration(1)).await;
    peer.announce(&[record("a", "one")]).await;
    let mut gone = Peer::register(locator.client().await, registration(2)).await;
    gone.announce(&[record("a", "one")]).await;
    gone.deregister().await.expect("deregisters");
    locator.server.shutdown().await.expect("shuts down");

    let locator = Locator::with(config).await;
    peer.client = locator.client().await;
    let mut client = locator.client().await;
    assert_eq!(providers(&mut client, by_name("a")).await, [peer.url()]);
    peer.kept_alive().await.expect("the token holds");
    let batch = peer.batch(vec![record("b", "two")], Vec::new());
    let mut again = Peer {
        announcing: None,
        ..peer
    };
    again.deregister().await.expect("the token holds");
    assert_eq!(
        again.send(batch).await.expect_err("over").code(),
        Code::Unauthenticated
    );
}

#[tokio::test]
async fn the_grace_after_a_restart_is_one_lease() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("locator.redb");
    let config = Config {
        lease: Duration::from_secs(1),
        ..on_disk(&path)
    };
    let locator = Locator::with(config.clone()).await;
    let mut peer = Peer::register(locator.client().await, registration(1)).await;
    peer.announce(&[record("a", "one")]).await;
    locator.server.shutdown().await.expect("shuts down");

    let locator = Locator::with(config).await;
    let client = locator.client().await;
    eventually("the peer that never came back is gone", || {
        let mut client = client.clone();
        async move { providers(&mut client, by_name("a")).await.is_empty() }
    })
    .await;
}

/// Registers under a URL whose host is a name: nobody is ever seen at its address.
fn claim(number: u8) -> vecino_grpc::v1::RegisterRequest {
    vecino_grpc::v1::RegisterRequest {
        public_url: "http://files.example.org:80".into(),
        ..registration(number)
    }
}

#[tokio::test]
async fn four_registrations_with_its_url_do_not_lock_a_peer_out() {
    let locator = Locator::start().await;
    let mut client = locator.client().await;
    let mut claims = Vec::new();
    for number in 1..=4 {
        claims.push(Peer::register(locator.client().await, claim(number)).await);
    }
    let mut victim = Peer::register(locator.client().await, claim(5)).await;
    victim.announce(&[record("a", "one")]).await;
    let found = providers(&mut client, by_name("a")).await;
    assert_eq!(found, [victim.url()]);
    // The oldest claim went for it; the others stay, so that a URL has a bounded number of them.
    let over = claims[0].kept_alive().await.expect_err("it went");
    assert_eq!(over.code(), Code::Unauthenticated);
    for kept in &mut claims[1..] {
        kept.kept_alive().await.expect("it stays");
    }
    assert_eq!(locator.metric("vecino_leases_live").await, 4.0);

    // Once more with all of them, after the victim: it comes back with its key, and its records.
    for number in 1..=4 {
        client
            .register(claim(number))
            .await
            .expect("is not refused");
    }
    let over = victim.kept_alive().await.expect_err("it went");
    assert_eq!(over.code(), Code::Unauthenticated);
    let mut back = Peer::register(locator.client().await, claim(5)).await;
    assert_ne!(back.welcome.fingerprints, vec![0; 4096]);
    assert_eq!(providers(&mut client, by_name("a")).await, [back.url()]);
    // Coming again costs nobody a claim.
    for _ in 0..5 {
        back = Peer::register(locator.client().await, claim(5)).await;
    }
    back.kept_alive().await.expect("it stays");
    assert_eq!(locator.metric("vecino_leases_live").await, 4.0);
}

#[tokio::test]
async fn who_is_seen_at_its_url_is_never_locked_out() {
    let locator = Locator::start().await;
    let mut client = locator.client().await;
    let seen = |number| vecino_grpc::v1::RegisterRequest {
        public_url: "http://127.0.0.1:5000".into(),
        ..registration(number)
    };
    for number in 10..20 {
        client
            .register(seen(number))
            .await
            .expect("is at that address");
    }
    assert_eq!(locator.metric("vecino_leases_live").await, 10.0);
}
