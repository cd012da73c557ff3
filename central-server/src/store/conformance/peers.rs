//! What the suite asks of tokens, lapsing and forgetting.

use super::{Bench, announce, file, row};
use crate::store::{Counts, Forgotten, PeerNo, PeerRow, PeerState, StoreError};

pub(super) async fn only_the_current_token_changes_anything(bench: Bench) {
    let a = file("a", "one");
    let peer = bench.peer(1).await;
    let refused = |token| bench.store.announce(peer, token, announce(&[&a]));
    assert!(matches!(
        refused([9; 32]).await,
        Err(StoreError::NotThePeer)
    ));
    let again = PeerRow {
        token: [7; 32],
        url: "http://10.9.9.9:80".into(),
        ..row(1)
    };
    let registered = bench
        .store
        .register(again.clone())
        .await
        .expect("registers");
    assert_eq!(registered.peer, peer, "the same peer has the same number");
    assert!(matches!(
        refused([1; 32]).await,
        Err(StoreError::NotThePeer)
    ));
    bench.change(peer, 7, announce(&[&a])).await;
    bench
        .store
        .lapse(vec![(peer, [1; 32])], 5)
        .await
        .expect("ignores a stale token");
    bench.change(peer, 7, announce(&[&a])).await;
    assert_eq!(
        bench.store.peers().await.expect("lists"),
        [(peer, again.clone())]
    );
    bench
        .store
        .lapse(vec![(peer, [7; 32])], 5)
        .await
        .expect("lapses");
    assert!(matches!(
        refused([7; 32]).await,
        Err(StoreError::NotThePeer)
    ));
    let lapsed = PeerRow {
        state: PeerState::Lapsed(5),
        ..again
    };
    assert_eq!(bench.store.peers().await.expect("lists"), [(peer, lapsed)]);
    let unknown = bench
        .store
        .announce(PeerNo(77), [7; 32], announce(&[&a]))
        .await;
    assert!(matches!(unknown, Err(StoreError::NotThePeer)));
}

pub(super) async fn a_lapsed_peer_is_forgotten_in_steps(bench: Bench) {
    let files: Vec<_> = (0..25)
        .map(|n| file(&format!("f{n}"), &format!("{n}")))
        .collect();
    let files: Vec<_> = files.iter().collect();
    let (peer, other) = (bench.peer(1).await, bench.peer(2).await);
    bench.change(peer, 1, announce(&files)).await;
    bench.change(other, 2, announce(&files[..5])).await;
    bench
        .store
        .lapse(vec![(peer, [1; 32])], 5)
        .await
        .expect("lapses");
    let mut removed = Vec::new();
    loop {
        let step = bench.store.forget(peer, 5, 10).await.expect("forgets");
        removed.push(step.records);
        if step.done {
            break;
        }
    }
    assert_eq!(removed, [10, 10, 5]);
    assert_eq!(
        bench.store.counts(),
        Counts {
            peers: 1,
            resources: 5,
            records: 5
        }
    );
    assert_eq!(bench.holders_of(files[0]).await, [other]);
    assert!(bench.holders_of(files[20]).await.is_empty());
    assert_ne!(bench.peer(1).await, peer, "numbers are never given twice");
}

pub(super) async fn a_peer_that_came_back_is_not_forgotten(bench: Bench) {
    let a = file("a", "one");
    let peer = bench.peer(1).await;
    bench.change(peer, 1, announce(&[&a])).await;
    let present = bench.store.forget(peer, 5, 10).await.expect("does nothing");
    assert!(present.done && present.records == 0 && present.lapsed_ms.is_none());
    bench
        .store
        .lapse(vec![(peer, [1; 32])], 5)
        .await
        .expect("lapses");
    let kept = bench.store.forget(peer, 5, 0).await.expect("does nothing");
    assert!(!kept.done, "it has records");
    assert_eq!(bench.peer(1).await, peer);
    bench.store.forget(peer, 5, 10).await.expect("does nothing");
    assert_eq!(bench.holders_of(&a).await, [peer]);
    assert!(
        bench
            .store
            .forget(PeerNo(99), 5, 10)
            .await
            .expect("does nothing")
            .done
    );
}

pub(super) async fn a_peer_that_came_back_and_went_again_is_not_forgotten_for_the_first_time(
    bench: Bench,
) {
    let a = file("a", "one");
    let peer = bench.peer(1).await;
    bench.change(peer, 1, announce(&[&a])).await;
    for at_ms in [5, 9] {
        assert_eq!(bench.peer(1).await, peer);
        let lapse = bench.store.lapse(vec![(peer, [1; 32])], at_ms);
        lapse.await.expect("lapses");
    }
    let first = bench.store.forget(peer, 5, 10).await.expect("answers");
    let later = Forgotten {
        records: 0,
        done: true,
        lapsed_ms: Some(9),
    };
    assert_eq!(first, later);
    assert_eq!(bench.holders_of(&a).await, [peer]);
    let second = bench.store.forget(peer, 9, 10).await.expect("forgets");
    let gone = Forgotten {
        records: 1,
        done: true,
        lapsed_ms: None,
    };
    assert_eq!(second, gone);
    assert!(bench.holders_of(&a).await.is_empty());
}

pub(super) async fn a_closed_store_refuses_changes(bench: Bench) {
    let peer = bench.peer(1).await;
    bench.store.close().await;
    let refused = bench.store.announce(peer, [1; 32], announce(&[])).await;
    assert!(matches!(refused, Err(StoreError::Closed)), "{refused:?}");
    bench.store.close().await;
}
