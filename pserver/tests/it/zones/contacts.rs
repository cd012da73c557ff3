//! What a lookup costs, and whom it reaches.

use std::collections::BTreeMap;

use vecino_rest::Name;

use super::*;
use crate::support::content::Content;

/// How often each peer was asked by others.
async fn asked(peers: &[Peer]) -> Vec<u64> {
    let mut counts = Vec::new();
    for peer in peers {
        counts.push(peer.metric("vecino_zone_asked_total").await);
    }
    counts
}

/// Which peers were asked since `before`, and how often.
async fn asked_since(peers: &[Peer], before: &[u64]) -> BTreeMap<usize, u64> {
    let now = asked(peers).await;
    let since = now.iter().zip(before).map(|(now, before)| now - before);
    since.enumerate().filter(|(_, count)| *count > 0).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lookup_is_one_contact_when_the_slots_peer_is_there_and_never_leaves_the_zone() {
    let layout = layout(24, 4);
    let stage = stage(layout).await;
    let peers = seated(&stage, 24).await;
    know_each_other(&peers, 6).await;
    let mut by_slot = BTreeMap::new();
    for (number, peer) in peers.iter().enumerate() {
        by_slot.insert(sits(peer).await, number);
    }
    assert_eq!(by_slot.len(), 24, "every slot is taken");

    // One file for each slot, each shared by another peer than the slot's.
    let names: Vec<_> = (0..24)
        .map(|slot| name_in(layout, slot..slot + 1, "file"))
        .collect();
    for (number, name) in names.iter().enumerate() {
        let content = Content::new(name, 500);
        peers[(number + 7) % 24].shares(name, &content).await;
    }
    for name in &names {
        finds(&peers[0], name, 1).await;
    }

    let mut contacts = BTreeMap::new();
    for (slot, name) in (0..24).zip(&names) {
        // Not the first peer: it remembers its answers for a moment.
        for asker in [(slot as usize + 3) % 23 + 1, (slot as usize + 11) % 23 + 1] {
            let before = asked(&peers).await;
            assert_eq!(providers(&peers[asker], name).await, 1, "{name}");
            let reached = asked_since(&peers, &before).await;
            let owner = by_slot[&slot];
            let expected = match asker == owner {
                true => BTreeMap::new(),
                false => BTreeMap::from([(owner, 1)]),
            };
            assert_eq!(reached, expected, "{name} asked at {asker}");
            *contacts.entry(reached.values().sum::<u64>()).or_insert(0) += 1;
        }
    }
    println!("24 peers in 4 zones, contacts of a lookup -> how many lookups: {contacts:?}");

    // What nobody has: the whole zone, and nobody else.
    for number in 0..8 {
        let name = format!("nobody has this {number}");
        let slot = layout.slot_of(&Name::parse(&name).expect("a name"));
        let zone = layout.slots_of(layout.zone_of(slot));
        let before = asked(&peers).await;
        assert!(ask(&peers[5], &name).await.is_empty());
        let reached = asked_since(&peers, &before).await;
        let members: BTreeMap<_, _> = by_slot
            .range(zone)
            .map(|(_, member)| (*member, 1))
            .filter(|(member, _)| *member != 5)
            .collect();
        assert_eq!(reached, members, "{name}");
    }
    assert_eq!(stage.locator_metric("vecino_records").await, 0);
    assert_eq!(stage.locator_metric("vecino_resources").await, 0);
    assert_eq!(stage.locator_metric("vecino_peers").await, 0);
    assert_eq!(stage.locator_metric("vecino_zone_members").await, 24);
}
