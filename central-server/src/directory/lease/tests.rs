//! Unit and model tests of the lease table.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::store::PeerState;

fn row(number: u32, token: u8) -> PeerRow {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&number.to_le_bytes());
    PeerRow {
        id: PeerId::from_bytes(id),
        url: format!("http://10.0.0.{}:80", number % 3),
        site: String::new(),
        token: [token; 32],
        url_is_observed: number.is_multiple_of(2),
        state: PeerState::Present,
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_lease_ends_exactly_when_keep_alives_stopped_for_its_duration() {
    let leases = Leases::new(seconds(15));
    let peer = row(1, 1);
    leases.grant(PeerNo(1), &peer, 1, 0, seconds(0));
    assert!(leases.keep_alive(&peer.id, &peer.token, 5, seconds(10)));
    let almost = Duration::from_millis(24_999);
    assert_eq!(
        leases.authorise(&peer.id, &peer.token, almost),
        Some(PeerNo(1))
    );
    assert_eq!(leases.authorise(&peer.id, &peer.token, seconds(25)), None);
    assert!(
        !leases.keep_alive(&peer.id, &peer.token, 5, seconds(25)),
        "over is over"
    );
    assert!(leases.providers(&[PeerNo(1)], seconds(25)).is_empty());
    assert!(leases.at_url(&peer.url, seconds(25)).is_empty());
    assert!(leases.candidates(0, 9, seconds(25)).is_empty());
    assert_eq!(leases.expire(seconds(25), 9), [(PeerNo(1), peer.token)]);
    assert_eq!(leases.count(), 0);
}

#[test]
fn a_new_registration_ends_the_old_token_and_an_overtaken_one_changes_nothing() {
    let leases = Leases::new(seconds(15));
    let (old, new) = (row(1, 1), row(1, 2));
    leases.grant(PeerNo(1), &old, 1, 0, seconds(0));
    leases.grant(PeerNo(1), &new, 3, 0, seconds(0));
    leases.grant(PeerNo(1), &old, 2, 0, seconds(0));
    assert_eq!(
        leases.authorise(&new.id, &new.token, seconds(1)),
        Some(PeerNo(1))
    );
    assert_eq!(leases.authorise(&old.id, &old.token, seconds(1)), None);
    assert!(!leases.end(PeerNo(1), &old.token));
    assert!(leases.end(PeerNo(1), &new.token));
}

#[test]
fn claims_of_one_url_are_counted_unless_seen_at_its_address() {
    let leases = Leases::new(seconds(15));
    for number in [1, 4, 7] {
        leases.grant(PeerNo(number), &row(number, 1), 1, 0, seconds(0));
    }
    let url = row(1, 1).url;
    assert_eq!(leases.at_url(&url, seconds(1)).len(), 3);
    assert_eq!(
        leases.foreign_claims(&url, &row(10, 1).id, seconds(1)),
        2,
        "4 is observed"
    );
    assert_eq!(
        leases.foreign_claims(&url, &row(1, 1).id, seconds(1)),
        1,
        "not oneself"
    );
}

#[derive(Debug, Clone)]
enum Step {
    Grant(u32, u8),
    KeepAlive(u32, u8),
    End(u32, u8),
    Wait(u64),
    Expire,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..6_u32, 0..3_u8).prop_map(|(peer, token)| Step::Grant(peer, token)),
        (0..6_u32, 0..3_u8).prop_map(|(peer, token)| Step::KeepAlive(peer, token)),
        (0..6_u32, 0..3_u8).prop_map(|(peer, token)| Step::End(peer, token)),
        (0..8_u64).prop_map(Step::Wait),
        Just(Step::Expire),
    ]
}

proptest! {
    #[test]
    fn the_table_agrees_with_a_plain_model(steps in prop::collection::vec(step(), 1..60)) {
        let leases = Leases::new(seconds(10));
        let mut model: HashMap<u32, (u8, u64)> = HashMap::new();
        let mut now = 0;
        for (epoch, step) in steps.into_iter().enumerate() {
            match step {
                Step::Grant(peer, token) => {
                    leases.grant(PeerNo(peer), &row(peer, token), epoch as u64, 1, seconds(now));
                    model.insert(peer, (token, now + 10));
                }
                Step::KeepAlive(peer, token) => {
                    let row = row(peer, token);
                    let kept = leases.keep_alive(&row.id, &row.token, 1, seconds(now));
                    let right = matches!(model.get(&peer), Some((t, end)) if *t == token && now < *end);
                    prop_assert_eq!(kept, right);
                    if right {
                        model.insert(peer, (token, now + 10));
                    }
                }
                Step::End(peer, token) => {
                    let known = matches!(model.get(&peer), Some((t, _)) if *t == token);
                    // An expired lease may have been removed already; ending it says nothing.
                    let live = matches!(model.get(&peer), Some((_, end)) if now < *end);
                    let ended = leases.end(PeerNo(peer), &row(peer, token).token);
                    prop_assert!(!live || ended == known);
                    if known {
                        model.remove(&peer);
                    }
                }
                Step::Wait(time) => now += time,
                Step::Expire => {
                    leases.expire(seconds(now), usize::MAX);
                    prop_assert_eq!(leases.count(), model.values().filter(|(_, end)| now < *end).count());
                }
            }
            let mut live: Vec<PeerNo> = (0..6).map(PeerNo).collect();
            LiveAt { leases: &leases, now: seconds(now) }.retain_live(&mut live);
            let mut expected: Vec<PeerNo> = model.iter()
                .filter(|(_, (_, end))| now < *end).map(|(peer, _)| PeerNo(*peer)).collect();
            expected.sort();
            prop_assert_eq!(&live, &expected);
            prop_assert_eq!(leases.candidates(epoch, 6, seconds(now)).len(), expected.len());
            let by_url: usize = (0..3).map(|n| leases.at_url(&row(n, 0).url, seconds(now)).len()).sum();
            prop_assert_eq!(by_url, expected.len());
        }
    }
}
