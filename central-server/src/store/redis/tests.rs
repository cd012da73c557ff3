//! The suite on a real cluster, and what only a shared store has.

use std::sync::Arc;

use super::*;
use crate::store::{
    PeerState,
    conformance::{ALL, announce, conforms, file, name, row},
};

#[path = "../../../tests/it/redis_cluster.rs"]
#[expect(
    dead_code,
    reason = "breaking a cluster is for the tests of the whole locator"
)]
mod redis_cluster;
use redis_cluster::RedisCluster;

async fn connect(url: &str) -> Arc<RedisStore> {
    let url = url.parse().expect("a cluster");
    RedisStore::connect(&url).await.expect("connects")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_conforms() {
    let cluster = RedisCluster::shared();
    conforms(|| async { connect(&cluster.url()).await as Arc<dyn Store> }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_locators_see_one_directory() {
    let cluster = RedisCluster::shared();
    let url = cluster.url();
    let (one, other) = (connect(&url).await, connect(&url).await);
    assert_eq!(one.directory_id(), other.directory_id());
    assert_ne!(
        one.directory_id(),
        connect(&cluster.url()).await.directory_id()
    );
    let peer = one.register(row(1)).await.expect("registers");
    let a = file("a b.mp3", "one");
    one.announce(peer.peer, [1; 32], announce(&[&a]))
        .await
        .expect("announces");
    let found = other
        .find(&Key::Name(name("a b.mp3")), &ALL)
        .await
        .expect("finds");
    assert_eq!(
        (found[0].resource.clone(), found[0].holders.clone()),
        (a, vec![peer.peer])
    );
    let again = other.register(row(1)).await.expect("registers");
    assert_eq!((again.peer, again.fingerprints.records()), (peer.peer, 1));
    assert!(again.epoch > peer.epoch);
    other.recount().await.expect("counts");
    assert_eq!(other.counts(), one.counts());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_heard_of_is_told_once_and_who_is_gone_as_well() {
    let cluster = RedisCluster::shared();
    let url = cluster.url();
    let (one, other) = (connect(&url).await, connect(&url).await);
    let back = Duration::from_secs(30);
    let mut kept = Vec::new();
    for number in 1..=20 {
        let registered = one.register(row(number)).await.expect("registers");
        kept.push(Kept {
            peer: registered.peer,
            epoch: registered.epoch,
            free_bytes: u64::from(number) << 40,
        });
    }
    assert_eq!(
        one.exchange(&kept, back).await.expect("exchanges").unknown,
        []
    );
    let told = other.exchange(&[], back).await.expect("exchanges");
    let mut heard: Vec<_> = told
        .heard
        .iter()
        .map(|h| (h.peer, h.epoch, h.free_bytes))
        .collect();
    heard.sort();
    let expected: Vec<_> = kept
        .iter()
        .map(|k| (k.peer, k.epoch, k.free_bytes))
        .collect();
    assert_eq!(heard, expected);
    assert!(told.gone.is_empty() && told.heard.iter().all(|heard| heard.ago < back));
    // An older registration prolongs nothing, and who is gone is not known any more.
    let stale = Kept {
        epoch: kept[1].epoch - 1,
        free_bytes: 7,
        ..kept[1]
    };
    let silence = Duration::from_secs(3_600);
    let first = vec![(kept[0].peer, [1; 32])];
    one.lapse_silent(first.clone(), 5, silence)
        .await
        .expect("lapses nobody");
    assert_eq!(
        other
            .exchange(&[stale], back)
            .await
            .expect("exchanges")
            .gone,
        []
    );
    one.lapse_silent(first, 5, Duration::ZERO)
        .await
        .expect("lapses");
    let told = other.exchange(&kept[..1], back).await.expect("exchanges");
    assert_eq!(
        (&told.unknown[..], &told.gone[..]),
        (&[kept[0].peer][..], &[kept[0].peer][..])
    );
    let second = told.heard.iter().find(|heard| heard.peer == kept[1].peer);
    assert!(second.is_none_or(|heard| heard.free_bytes == kept[1].free_bytes));
}

/// A failover of some slots may lose writes that others have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_side_lost_is_a_difference_and_a_replaced_bucket_heals_it() {
    let cluster = RedisCluster::shared();
    let store = connect(&cluster.url()).await;
    let peer = store.register(row(1)).await.expect("registers").peer;
    let files: Vec<_> = (0..40)
        .map(|n| file(&format!("f{n}"), &n.to_string()))
        .collect();
    let all: Vec<_> = files.iter().collect();
    store
        .announce(peer, [1; 32], announce(&all))
        .await
        .expect("announces");
    let before = store.fingerprints(peer).await.expect("reads");
    for side in [keys::Side::Names, keys::Side::Digests] {
        let lost = &files[7];
        let tag = keys::Part::of(side, &lost.name, &lost.digest).tag(&store.namespace);
        for key in ["rows", "holders", "terms", "held:0", "sums:0"] {
            let removed: Result<u64, _> = store
                .cluster
                .call(redis::cmd("DEL").arg(format!("{tag}:{key}")))
                .await;
            removed.expect("removes");
        }
        let after = store.fingerprints(peer).await.expect("reads");
        let differing: Vec<u8> = (0..=u8::MAX)
            .filter(|bucket| after.0[usize::from(*bucket)] != before.0[usize::from(*bucket)])
            .collect();
        assert!(
            differing.contains(&super::super::bucket_of(&lost.digest)),
            "{side:?}"
        );
        assert!(differing.len() < 20, "{side:?}: only what was lost differs");
        for bucket in differing {
            let of_bucket = files
                .iter()
                .filter(|f| super::super::bucket_of(&f.digest) == bucket);
            let records = of_bucket.cloned().collect();
            store
                .announce(peer, [1; 32], Change::Bucket { bucket, records })
                .await
                .expect("replaces");
        }
        assert_eq!(
            store.fingerprints(peer).await.expect("reads"),
            before,
            "{side:?}"
        );
        for key in [Key::Name(lost.name.clone()), Key::Digest(lost.digest)] {
            assert_eq!(
                store.find(&key, &ALL).await.expect("finds").len(),
                1,
                "{key:?}"
            );
        }
    }
    assert_eq!(
        store.counts(),
        Counts {
            peers: 1,
            resources: 40,
            records: 40
        }
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_count_of_numbers_gives_no_number_twice() {
    let cluster = RedisCluster::shared();
    let store = connect(&cluster.url()).await;
    let mut given = BTreeSet::new();
    for number in 1..=20 {
        given.insert(store.register(row(number)).await.expect("registers").peer);
    }
    let key = keys::numbers(&store.namespace);
    let removed: Result<u64, _> = store.cluster.call(redis::cmd("DEL").arg(key)).await;
    removed.expect("removes");
    for number in 21..=30 {
        given.insert(store.register(row(number)).await.expect("registers").peer);
    }
    assert_eq!(given.len(), 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_given_its_own_number_after_both_were_lost_is_known_by_it() {
    let cluster = RedisCluster::shared();
    let store = connect(&cluster.url()).await;
    let peer = store.register(row(1)).await.expect("registers").peer;
    let id = row(1).id;
    let lost = [
        keys::numbers(&store.namespace),
        keys::number_of(&store.namespace, &id),
    ];
    for key in lost {
        let removed: Result<u64, _> = store.cluster.call(redis::cmd("DEL").arg(key)).await;
        assert_eq!(removed, Ok(1));
    }
    let again = store.register(row(1)).await.expect("registers");
    assert_eq!(again.peer, peer);
    assert_eq!(store.number_of(&id).await, Ok(Some(peer)));
}

/// It was read before as one that is to be forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_came_back_or_went_again_before_it_was_removed_stays_with_its_number() {
    let cluster = RedisCluster::shared();
    let store = connect(&cluster.url()).await;
    let peer = store.register(row(1)).await.expect("registers").peer;
    let id = row(1).id;
    let known = async || {
        let known = store.peer_of(&id).await.expect("reads");
        known.map(|(no, row)| (no, row.state))
    };
    store.forget_peer(peer, &id, 5).await.expect("refuses");
    assert_eq!(known().await, Some((peer, PeerState::Present)));
    let lapse = store.lapse(vec![(peer, [1; 32])], 9);
    lapse.await.expect("lapses");
    store.forget_peer(peer, &id, 8).await.expect("refuses");
    assert_eq!(known().await, Some((peer, PeerState::Lapsed(9))));
    store.forget_peer(peer, &id, 9).await.expect("removes");
    assert_eq!(known().await, None);
    assert_eq!(store.peers().await.expect("lists"), []);
    assert_eq!(store.number_of(&id).await.expect("reads"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_back_while_its_records_are_removed_keeps_the_others() {
    const FILES: u64 = 640;
    let cluster = RedisCluster::shared();
    let store = connect(&cluster.url()).await;
    let peer = store.register(row(1)).await.expect("registers").peer;
    let files: Vec<_> = (0..FILES)
        .map(|n| file(&format!("f{n}"), &n.to_string()))
        .collect();
    let all: Vec<_> = files.iter().collect();
    let announced = store.announce(peer, [1; 32], announce(&all)).await;
    announced.expect("announces");
    let lapse = store.lapse(vec![(peer, [1; 32])], 5);
    lapse.await.expect("lapses");
    let come_back = async {
        while store.fingerprints(peer).await.expect("reads").records() == FILES {}
        store.register(row(1)).await.expect("registers").peer
    };
    let (forgotten, back) = tokio::join!(store.forget(peer, 5, FILES as usize), come_back);
    let forgotten = forgotten.expect("forgets");
    assert!(
        forgotten.done && (1..FILES as usize).contains(&forgotten.records),
        "{forgotten:?}"
    );
    assert_eq!(back, peer);
    let left = store.fingerprints(peer).await.expect("reads").records();
    assert_eq!(left, FILES - forgotten.records as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_locator_says_of_its_accounts_holds_for_a_time_or_to_its_end() {
    let cluster = RedisCluster::shared();
    let url = cluster.url();
    let (one, other) = (connect(&url).await, connect(&url).await);
    let said = async |store: &RedisStore, accounts, lasting| {
        let said = store.run_with(accounts, lasting).await;
        said.expect("says")
    };
    let (long, short) = (Duration::from_secs(600), Duration::from_millis(100));
    assert_eq!(said(&one, "open", long).await, None);
    let open = Some("open".to_owned());
    assert_eq!(said(&other, "closed", long).await, open);
    assert_eq!(said(&other, "open", long).await, None);
    // What it says later counts.
    assert_eq!(said(&one, "open", short).await, None);
    assert_eq!(said(&one, "off", long).await, open);
    other.close().await;
    let began = std::time::Instant::now();
    assert_eq!(said(&one, "off", short).await, None, "its own word counts");
    let third = connect(&url).await;
    while let Some(accounts) = said(&third, "closed", short).await {
        assert_eq!(accounts, "off");
        assert!(began.elapsed() < Duration::from_secs(20), "it holds on");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn where_no_cluster_is_a_sentence_says_so() {
    let url = "redis://127.0.0.1:1/x".parse().expect("a cluster");
    let reason = RedisStore::connect(&url).await.err().expect("refused");
    assert!(
        reason.contains("no Redis Cluster answers there"),
        "{reason}"
    );
}
