//! Peers that die, and a locator that goes away.

use std::{
    fs,
    time::{Duration, Instant},
};

use super::*;
use crate::support::content::Content;

#[tokio::test(flavor = "multi_thread")]
async fn lookups_go_on_when_the_slots_peer_dies_and_its_records_move() {
    let layout = layout(12, 2);
    let stage = stage(layout).await;
    let peers = seated(&stage, 6).await;
    let dying = plan(&stage, "dying").spawn().await;
    let slot = sits(&dying).await;
    let name = name_in(layout, slot..slot + 1, "theirs");
    let content = Content::new("theirs", 900);
    peers[0].shares(&name, &content).await;
    eventually("kept by the slot's peer", async || {
        view(&dying).await.proper_records == 1
    })
    .await;
    eventually("kept by a second member", async || {
        let mut copies = 0;
        for peer in &peers {
            copies += view(peer).await.shared_records;
        }
        copies == 1
    })
    .await;
    dying.kill();
    let began = Instant::now();
    for peer in &peers[1..] {
        // The second copy answers.
        finds(peer, &name, 1).await;
    }
    println!(
        "found again {:?} after the slot's peer died",
        began.elapsed()
    );
    // Then somebody else of the zone is to share it.
    let zone = layout.zone_of(slot);
    let mut members = Vec::new();
    for peer in &peers {
        if view(peer).await.zone == Some(zone) {
            members.push(peer);
        }
    }
    eventually("three share it", async || {
        let mut copies = 0;
        for member in &members {
            copies += view(member).await.shared_records;
        }
        copies == 3
    })
    .await;
    println!("in order again after {:?}", began.elapsed());
    assert!(began.elapsed() < KNOWN_GONE + SLACK);
    finds(&peers[5], &name, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_locator_lookups_and_announces_go_on() {
    let mut stage = stage(layout(24, 4)).await;
    let peers = seated(&stage, 6).await;
    peers[1]
        .shares("before.bin", &Content::new("before", 100))
        .await;
    finds(&peers[2], "before.bin", 1).await;
    // Everybody has heard of every zone.
    for peer in &peers {
        for number in 0..20 {
            ask(peer, &format!("unknown {number}")).await;
        }
    }
    stage.stop_locator().await;
    let until = Instant::now() + LIFE + Duration::from_secs(1);
    let mut rounds = 0;
    while Instant::now() < until {
        for peer in &peers {
            assert_eq!(providers(peer, "before.bin").await, 1);
        }
        let name = format!("after {rounds}.bin");
        let content = Content::new(&name, 100);
        peers[3].shares(&name, &content).await;
        finds(&peers[4], &name, 1).await;
        peers[5].downloads(&name, &content).await;
        rounds += 1;
    }
    assert!(rounds > 3, "the load is too low");
    println!("{rounds} files announced, found and fetched without a locator");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_of_the_locator_everybody_sits_where_it_sat() {
    let mut stage = stage(layout(24, 4)).await;
    let peers = seated(&stage, 8).await;
    let mut slots = Vec::new();
    for peer in &peers {
        slots.push(sits(peer).await);
    }
    peers[1].shares("a.bin", &Content::new("a", 100)).await;
    finds(&peers[2], "a.bin", 1).await;
    stage.stop_locator().await;
    stage.start_locator().await;
    eventually("all are back", async || {
        stage.locator_metric("vecino_zone_members").await == 8
    })
    .await;
    finds(&peers[3], "a.bin", 1).await;
    for (peer, slot) in peers.iter().zip(&slots) {
        assert_eq!(sits(peer).await, *slot);
    }
    // A file that is new, and one that goes, after all that.
    peers[6].shares("b.bin", &Content::new("b", 100)).await;
    finds(&peers[7], "b.bin", 1).await;
    fs::remove_file(peers[1].shared("a.bin")).expect("removed");
    finds(&peers[4], "a.bin", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_the_central_strategy_zones_answer_when_the_locator_is_gone() {
    let mut stage = stage(layout(12, 2)).await;
    let mut peers: Vec<Peer> = Vec::new();
    for number in 0..4 {
        let mut plan = plan(&stage, &format!("peer{number}")).set("LOCATE_BY", "central,zone");
        if let Some(first) = peers.first() {
            plan = plan.neighbour(first.addr);
        }
        peers.push(plan.start().await);
    }
    for peer in &peers {
        sits(peer).await;
    }
    // It has heard of both zones.
    for number in 0..10 {
        ask(&peers[0], &format!("unknown {number}")).await;
    }
    let contents: Vec<_> = (0..20)
        .map(|n| Content::new(&format!("{n}"), 2000))
        .collect();
    for (number, content) in contents.iter().enumerate() {
        peers[1 + number % 2]
            .shares(&format!("{number}.bin"), content)
            .await;
    }
    for (number, content) in contents.iter().enumerate() {
        if number == 10 {
            assert!(peers[0].metric("vecino_strategy_lookups_total").await >= 10);
            stage.stop_locator().await;
        }
        peers[3].downloads(&format!("{number}.bin"), content).await;
    }
    assert!(peers[0].metric("vecino_zone_lookups_total").await >= 10);
}
