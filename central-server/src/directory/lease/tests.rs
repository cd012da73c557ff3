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
        session: None,
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn what_is_over_is_not_renewed_with_the_others() {
    let leases = Leases::new(seconds(15));
    let (over, live) = (row(1, 1), row(2, 2));
    leases.grant(PeerNo(1), &over, 1, None, 0, seconds(0));
    leases.grant(PeerNo(2), &live, 1, None, 0, seconds(10));
    leases.renew_all(seconds(20));
    assert_eq!(leases.of_id(&over.id, seconds(20)), None);
    assert_eq!(leases.of_id(&live.id, seconds(34)), Some(PeerNo(2)));
    assert_eq!(leases.of_id(&live.id, seconds(35)), None);
}

#[test]
fn a_lease_ends_exactly_when_keep_alives_stopped_for_its_duration() {
    let leases = Leases::new(seconds(15));
    let peer = row(1, 1);
    leases.grant(PeerNo(1), &peer, 1, None, 0, seconds(0));
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
    leases.grant(PeerNo(1), &old, 1, None, 0, seconds(0));
    leases.grant(PeerNo(1), &new, 3, None, 0, seconds(0));
    leases.grant(PeerNo(1), &old, 2, None, 0, seconds(0));
    assert_eq!(
        leases.authorise(&new.id, &new.token, seconds(1)),
        Some(PeerNo(1))
    );
    assert_eq!(leases.authorise(&old.id, &old.token, seconds(1)), None);
    assert!(!leases.end(PeerNo(1), &old.token));
    assert!(leases.end(PeerNo(1), &new.token));
}

#[test]
fn claims_crowd_each_other_within_one_network_alone() {
    let leases = Leases::new(seconds(15));
    let address = |text: &str| -> IpAddr { text.parse().expect("an address") };
    // 4 is seen at the address of the URL, 19 in another network, 25 nobody knows where.
    for (number, observed) in [
        (7, Some("2001:db8::7")),
        (1, Some("2001:db8::1")),
        (4, Some("2001:db8::4")),
        (13, Some("2001:db8::13")),
        (19, Some("2001:db8:0:1::7")),
        (25, None),
    ] {
        let epoch = u64::from(100 - number);
        let observed = observed.map(address);
        leases.grant(
            PeerNo(number),
            &row(number, 1),
            epoch,
            observed,
            0,
            seconds(0),
        );
    }
    let url = row(1, 1).url;
    assert_eq!(leases.at_url(&url, seconds(1)).len(), 6);
    let crowding = |id: u32, observed: &str, limit, now| {
        let id = row(id, 1).id;
        let claim = leases.crowding_claim(&url, &id, address(observed), limit, seconds(now));
        claim.map(|(peer, _)| peer.0)
    };
    let near = "2001:db8::ffff";
    assert_eq!(crowding(31, near, 3, 1), Some(13), "the oldest");
    assert_eq!(crowding(31, near, 4, 1), None, "there is room for another");
    assert_eq!(crowding(13, near, 2, 1), Some(7), "not oneself");
    assert_eq!(crowding(13, near, 3, 1), None, "not oneself");
    assert_eq!(crowding(31, "2001:db8:0:1::1", 1, 1), Some(19));
    assert_eq!(
        crowding(31, "2001:db8:0:2::1", 1, 1),
        None,
        "from elsewhere"
    );
    assert_eq!(crowding(31, near, 3, 15), None, "over is over");
    let mapped = PeerNo(31);
    leases.grant(
        mapped,
        &row(31, 1),
        1,
        Some(address("::ffff:192.0.2.1")),
        0,
        seconds(0),
    );
    assert_eq!(crowding(1, "192.0.2.1", 1, 1), Some(31));
    assert_eq!(crowding(1, "192.0.2.2", 1, 1), None);
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
                    leases.grant(PeerNo(peer), &row(peer, token), epoch as u64, None, 1, seconds(now));
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
