//! Who sits where: full networks, empty zones, peers that come back.

use super::*;
use crate::support::content::Content;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_network_refuses_and_who_is_refused_still_looks_up() {
    let stage = stage(layout(6, 1)).await;
    let mut peers = seated(&stage, 6).await;
    peers[0].shares("a.bin", &Content::new("a", 100)).await;
    finds(&peers[1], "a.bin", 1).await;
    let late = plan(&stage, "late").start().await;
    eventually("a refusal", async || {
        let refused = "vecino_zone_joins_total{outcome=\"error\"}";
        stage.locator_metric(refused).await > 0
    })
    .await;
    finds(&late, "a.bin", 1).await;
    assert_eq!(view(&late).await.slot, None);
    // What it shares is not found, until it gets a slot.
    late.shares("b.bin", &Content::new("b", 100)).await;
    assert_eq!(providers(&peers[1], "b.bin").await, 0);
    peers.remove(5).stop().await;
    sits(&late).await;
    finds(&peers[1], "b.bin", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_zone_before_answers_for_an_empty_one() {
    let layout = layout(24, 4);
    let stage = stage(layout).await;
    let peers = seated(&stage, 2).await;
    let name = name_in(layout, layout.slots_of(3), "lonely");
    peers[0].shares(&name, &Content::new(&name, 100)).await;
    finds(&peers[1], &name, 1).await;
    // Zones 2 and 3 are empty: zone 1 answers.
    eventually("kept in zone 1", async || {
        let (first, second) = (view(&peers[0]).await, view(&peers[1]).await);
        (first.zone, second.zone) == (Some(0), Some(1))
            && (first.shared_records, second.shared_records) == (0, 1)
    })
    .await;
    // When the zone is empty no more, its records come.
    let mut more = Vec::new();
    for number in 2..4 {
        let peer = plan(&stage, &format!("more{number}")).start().await;
        sits(&peer).await;
        finds(&peer, &name, 1).await;
        more.push(peer);
    }
    assert_eq!(view(&more[1]).await.zone, Some(3));
    eventually("kept in zone 3", async || {
        let (second, last) = (view(&peers[1]).await, view(&more[1]).await);
        (
            second.shared_records,
            last.shared_records + last.proper_records,
        ) == (0, 1)
    })
    .await;
    finds(&peers[0], &name, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_comes_back_gets_its_slot() {
    let stage = stage(layout(12, 2)).await;
    let peers = seated(&stage, 3).await;
    let back = plan(&stage, "back");
    let peer = back.start().await;
    peer.shares("a.bin", &Content::new("a", 100)).await;
    finds(&peers[1], "a.bin", 1).await;
    let slot = sits(&peer).await;
    peer.stop().await;
    // It left in order: nobody has to wait for the end of anything.
    let gone = finds(&peers[1], "a.bin", 0).await;
    println!("gone {gone:?} after its peer left");
    let other = plan(&stage, "other").start().await;
    assert_ne!(sits(&other).await, slot, "it was left lately");
    let peer = back.start().await;
    assert_eq!(sits(&peer).await, slot);
    finds(&peers[1], "a.bin", 1).await;
}
