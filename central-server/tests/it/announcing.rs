//! Register, announce, withdraw, fingerprints, tokens.

use std::collections::BTreeMap;

use tonic::Code;
use vecino_grpc::v1;

use crate::support::*;

/// What a client computes from the comment in the contract, independently of the locator.
fn fingerprints(records: &[v1::Record]) -> Vec<u8> {
    let mut sums = BTreeMap::new();
    for record in records {
        let mut hasher = blake3::Hasher::new_derive_key("vecino 2026 record");
        hasher.update(&record.digest);
        hasher.update(&record.size.to_le_bytes());
        hasher.update(record.name.as_bytes());
        let hash = hasher.finalize();
        let share = u128::from_le_bytes(hash.as_bytes()[..16].try_into().expect("16 bytes"));
        let sum = sums.entry(record.digest[0]).or_insert(0_u128);
        *sum = sum.wrapping_add(share);
    }
    (0..=255)
        .flat_map(|bucket| sums.get(&bucket).copied().unwrap_or(0).to_le_bytes())
        .collect()
}

#[tokio::test]
async fn a_peer_is_located_from_announce_to_withdraw() {
    let locator = Locator::start().await;
    let mut client = locator.client().await;
    let mut peer = Peer::register(locator.client().await, registration(1)).await;
    assert_eq!(peer.welcome.observed_address, "127.0.0.1");
    assert_eq!(peer.url(), "http://127.0.0.1:5001");
    assert_eq!(peer.welcome.lease_seconds, 15);
    assert_eq!(
        peer.welcome.peer_id,
        vecino_rest::PeerKey::from_bytes([1; 32])
            .peer_id()
            .as_bytes()[..]
    );

    let files = [record("dir/a b.txt", "one"), record("dir/c.txt", "one")];
    assert_eq!(peer.announce(&files).await, 2);
    let located = client
        .locate(by_name("dir/a b.txt"))
        .await
        .expect("locates")
        .into_inner();
    let [variant] = &located.variants[..] else {
        panic!("one variant: {located:?}")
    };
    assert_eq!((&variant.name[..], variant.size), ("dir/a b.txt", 3));
    assert_eq!(variant.digest, digest("one"));
    assert_eq!(variant.modified_ms, 1_700_000_000_000);
    assert_eq!(variant.provider_count, 1);
    assert_eq!(variant.providers[0].peer_id, peer.welcome.peer_id);
    assert_eq!(variant.providers[0].url, peer.url());
    let by_digest = client
        .locate(by_digest("one"))
        .await
        .expect("locates")
        .into_inner();
    assert_eq!(by_digest.variants.len(), 2);

    let withdrawn = peer.batch(Vec::new(), vec![files[0].clone()]);
    assert_eq!(peer.send(withdrawn).await.expect("withdraws").records, 1);
    assert!(
        providers(&mut client, by_name("dir/a b.txt"))
            .await
            .is_empty()
    );
    assert_eq!(
        providers(&mut client, by_name("dir/c.txt")).await,
        [peer.url()]
    );
}

#[tokio::test]
async fn batches_on_their_way_take_effect_in_the_order_in_which_they_were_sent() {
    const BATCHES: u64 = 40;
    let locator = Locator::start().await;
    let mut client = locator.client().await;
    let peer = Peer::register(locator.client().await, registration(1)).await;
    let file = |n: u64| record(&format!("f{n}"), &n.to_string());
    let batch = |number, announce, withdraw| v1::AnnounceRequest {
        batch: number,
        ..peer.batch(announce, withdraw)
    };
    let mut batches: Vec<_> = (1..=BATCHES)
        .map(|n| {
            let mut announce = vec![file(n)];
            if n % 7 == 3 {
                // The next batch makes it whole.
                announce.push(v1::Record {
                    partial: true,
                    ..file(n + 1)
                });
            }
            batch(n, announce, vec![file(n - 1)])
        })
        .collect();
    batches.push(batch(BATCHES + 1, vec![record("", "no name")], Vec::new()));
    batches.push(batch(BATCHES + 2, vec![record("late", "late")], Vec::new()));
    let answers = client.announce(tokio_stream::iter(batches)).await;
    let mut answers = answers.expect("opens").into_inner();
    for n in 1..=BATCHES {
        let answer = soon(answers.message()).await.expect("answers");
        let answer = answer.expect("one answer a batch");
        assert_eq!((answer.batch, answer.records), (n, 1));
    }
    let refused = soon(answers.message()).await.expect_err("has no name");
    assert_eq!(refused.code(), Code::InvalidArgument);
    for n in 0..=BATCHES {
        let providers = providers(&mut client, by_name(&format!("f{n}"))).await;
        assert_eq!(providers.len(), usize::from(n == BATCHES), "f{n}");
    }
    assert!(providers(&mut client, by_name("late")).await.is_empty());
    assert_eq!(locator.metric("vecino_partial_records").await, 0.0);
}

#[tokio::test]
async fn fingerprints_are_those_of_the_contract() {
    let locator = Locator::start().await;
    let mut peer = Peer::register(locator.client().await, registration(1)).await;
    assert_eq!(peer.welcome.fingerprints, vec![0; 4096]);
    let files: Vec<_> = (0..1_000)
        .map(|n| record(&format!("é{n}.txt"), &format!("{n}")))
        .collect();
    peer.announce(&files).await;
    let again = Peer::register(locator.client().await, registration(1)).await;
    assert_eq!(again.welcome.fingerprints, fingerprints(&files));
}

#[tokio::test]
async fn a_replaced_bucket_heals_a_difference() {
    let locator = Locator::start().await;
    let mut client = locator.client().await;
    let mut peer = Peer::register(locator.client().await, registration(1)).await;
    let files: Vec<_> = (0..400)
        .map(|n| record(&format!("f{n}"), &format!("{n}")))
        .collect();
    peer.announce(&files).await;

    // The peer lost f7 and gained a file in the same bucket while it was away.
    let bucket = files[7].digest[0];
    let gained = v1::Record {
        name: "gained".into(),
        ..files[7].clone()
    };
    let mut now: Vec<_> = files.iter().filter(|f| f.name != "f7").cloned().collect();
    now.push(gained);
    let mut peer = Peer::register(locator.client().await, registration(1)).await;
    let (held, have) = (peer.welcome.fingerprints.clone(), fingerprints(&now));
    let differing: Vec<_> = (0..256)
        .filter(|b| held[b * 16..][..16] != have[b * 16..][..16])
        .collect();
    assert_eq!(differing, [usize::from(bucket)]);
    let of_bucket = now
        .iter()
        .filter(|f| f.digest[0] == bucket)
        .cloned()
        .collect();
    let replace = v1::AnnounceRequest {
        replace_bucket: Some(bucket.into()),
        ..peer.batch(of_bucket, Vec::new())
    };
    assert_eq!(peer.send(replace).await.expect("replaces").records, 400);
    assert!(providers(&mut client, by_name("f7")).await.is_empty());
    assert_eq!(
        providers(&mut client, by_name("gained")).await,
        [peer.url()]
    );
    let again = Peer::register(locator.client().await, registration(1)).await;
    assert_eq!(again.welcome.fingerprints, have);
}

#[tokio::test]
async fn nobody_announces_for_another_peer_or_with_an_old_token() {
    let locator = Locator::start().await;
    let mut client = locator.client().await;
    let mut victim = Peer::register(locator.client().await, registration(1)).await;
    let mut thief = Peer::register(locator.client().await, registration(2)).await;
    let forged = v1::AnnounceRequest {
        peer_id: victim.welcome.peer_id.clone(),
        ..thief.batch(vec![record("a", "one")], Vec::new())
    };
    assert_eq!(
        thief.send(forged).await.expect_err("refused").code(),
        Code::Unauthenticated
    );

    let renewed = Peer::register(locator.client().await, registration(1)).await;
    let stale = victim.batch(vec![record("a", "one")], Vec::new());
    assert_eq!(
        victim.send(stale).await.expect_err("refused").code(),
        Code::Unauthenticated
    );
    let refused = victim.kept_alive().await.expect_err("refused");
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(
        refused.message().contains("register again"),
        "{}",
        refused.message()
    );
    assert_eq!(
        victim.deregister().await.expect_err("refused").code(),
        Code::Unauthenticated
    );
    assert!(providers(&mut client, by_name("a")).await.is_empty());

    let mut renewed = renewed;
    renewed.announce(&[record("a", "one")]).await;
    assert_eq!(providers(&mut client, by_name("a")).await, [renewed.url()]);
}

#[tokio::test]
async fn batches_of_many_peers_share_commits() {
    let directory = tempfile::tempdir().expect("a directory");
    let locator = Locator::with(on_disk(&directory.path().join("locator.redb"))).await;
    let mut peers = Vec::new();
    for number in 0..8 {
        peers.push(Peer::register(locator.client().await, registration(number)).await);
    }
    let tasks: Vec<_> = peers
        .into_iter()
        .enumerate()
        .map(|(number, mut peer)| {
            tokio::spawn(async move {
                for step in 0..10 {
                    let records = [record(&format!("{number}/{step}"), "x")];
                    assert_eq!(peer.announce(&records).await, step + 1);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("announces");
    }
    assert_eq!(locator.metric("vecino_announced_records_total").await, 80.0);
    assert_eq!(locator.metric("vecino_records").await, 80.0);
    let commits = locator.metric("vecino_commits_total").await;
    assert!(
        commits < 88.0,
        "{commits}: 88 changes one by one would be 88"
    );
    locator.server.shutdown().await.expect("shuts down");
}
