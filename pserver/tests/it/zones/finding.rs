//! Found after announce, gone after withdraw: who keeps the records meanwhile.

use std::{fs, time::Instant};

use super::*;
use crate::support::content::Content;

/// How many records these peers keep.
async fn kept(peers: &[Peer]) -> u64 {
    let mut records = 0;
    for peer in peers {
        let view = view(peer).await;
        records += view.proper_records + view.shared_records;
    }
    records
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_found_after_announce_and_gone_after_withdraw() {
    let stage = stage(layout(24, 4)).await;
    let peers = seated(&stage, 5).await;
    for number in 0..6 {
        let name = format!("file {number}.bin");
        let content = Content::new(&name, 4000);
        let (sharing, asking) = (&peers[number % 4], &peers[(number + 1) % 5]);
        let before = kept(&peers).await;
        sharing.shares(&name, &content).await;
        let began = Instant::now();
        // A neighbour remembers for a second that nobody had it: the members are asked what
        // they keep.
        eventually("kept", async || kept(&peers).await > before).await;
        let put = began.elapsed();
        finds(asking, &name, 1).await;
        let variants = ask(asking, &name).await;
        assert_eq!(variants[0].digest, Some(content.digest));
        assert_eq!(variants[0].size, Some(4000));
        assert_eq!(variants[0].providers[0].url, url(sharing));
        assert_eq!(variants[0].providers[0].peer, Some(sharing.id()));
        fs::remove_file(sharing.shared(&name)).expect("removed");
        let gone = finds(asking, &name, 0).await;
        println!("kept by members after {put:?}, gone {gone:?} after the file was removed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_member_of_long_ago_holds_is_found_by_one_that_comes_later() {
    let stage = stage(layout(24, 4)).await;
    let first = plan(&stage, "first").start().await;
    sits(&first).await;
    let names: Vec<_> = (0..40).map(|number| format!("{number}.bin")).collect();
    for name in &names {
        first.shares(name, &Content::new(name, 100)).await;
    }
    // Alone it answers for every zone.
    for name in &names {
        finds(&first, name, 1).await;
    }
    let mut others = Vec::new();
    for number in 0..7 {
        let other = plan(&stage, &format!("other{number}")).start().await;
        sits(&other).await;
        for name in &names {
            finds(&other, name, 1).await;
        }
        others.push(other);
    }
    // Each record moved to the zone of its name.
    eventually("moved", async || {
        let kept = view(&first).await;
        kept.proper_records + kept.shared_records < 20
    })
    .await;
}
