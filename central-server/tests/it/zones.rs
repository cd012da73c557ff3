//! Zones: slots are assigned, kept, given back, and listed.

use std::{collections::BTreeMap, time::Duration};

use central_server::Config;
use tonic::{Code, Status, transport::Channel};
use vecino_grpc::v1::{self, zones_client::ZonesClient};
use vecino_rest::zone::ZoneLayout;

use crate::support::*;

type Zones = ZonesClient<Channel>;

fn config(slots: u32, zones: u32) -> Config {
    Config {
        zones: ZoneLayout::new(slots, zones).expect("valid"),
        ..Config::ephemeral()
    }
}

async fn zones(locator: &Locator) -> Zones {
    ZonesClient::new(locator.channel().await)
}

fn joining(number: u8) -> v1::ZoneJoinRequest {
    v1::ZoneJoinRequest {
        peer_key: vec![number; 32].into(),
        public_url: format!("http://127.0.0.1:{}", 5000 + u32::from(number)),
        overlay_url: format!("http://127.0.0.1:{}", 6000 + u32::from(number)),
        site: "here".into(),
        slot: None,
    }
}

async fn join(client: &mut Zones, number: u8) -> v1::ZoneJoinResponse {
    let joined = soon(client.join(joining(number))).await;
    joined.expect("there is room").into_inner()
}

async fn members(client: &mut Zones, zone: u32, version: u64) -> v1::ZoneMembersResponse {
    let request = v1::ZoneMembersRequest { zone, version };
    soon(client.members(request))
        .await
        .expect("lists")
        .into_inner()
}

fn alive(joined: &v1::ZoneJoinResponse, version: u64) -> v1::ZoneKeepAliveRequest {
    v1::ZoneKeepAliveRequest {
        peer_id: joined.peer_id.clone(),
        lease_token: joined.lease_token.clone(),
        version,
    }
}

fn leaving(joined: &v1::ZoneJoinResponse) -> v1::ZoneLeaveRequest {
    v1::ZoneLeaveRequest {
        peer_id: joined.peer_id.clone(),
        lease_token: joined.lease_token.clone(),
    }
}

#[tokio::test]
async fn zones_fill_evenly_and_a_full_network_refuses_by_name() {
    let locator = Locator::with(config(12, 2)).await;
    let mut client = zones(&locator).await;
    let mut taken = BTreeMap::new();
    for number in 0..12 {
        let joined = join(&mut client, number).await;
        assert_eq!(
            (joined.slots, joined.zones, joined.lease_seconds),
            (12, 2, 15)
        );
        assert_eq!(joined.zone, u32::from(number % 2), "empty zones first");
        assert_eq!(joined.slot / 6, joined.zone);
        taken.insert(joined.slot, joined);
    }
    assert_eq!(taken.len(), 12);
    let full = soon(client.join(joining(12))).await.expect_err("full");
    assert_eq!(full.code(), Code::ResourceExhausted);
    for said in ["full", "12", "NETWORK_SIZE"] {
        assert!(full.message().contains(said), "{full:?}");
    }
    // Who is there already is never refused.
    assert_eq!(join(&mut client, 3).await.slot, 7);

    let listed = members(&mut client, 1, 0).await;
    let slots: Vec<_> = listed.members.iter().map(|member| member.slot).collect();
    assert_eq!(slots, [6, 7, 8, 9, 10, 11]);
    assert_eq!(listed.members[0].url, "http://127.0.0.1:5001");
    assert_eq!(listed.members[0].overlay_url, "http://127.0.0.1:6001");
    assert_eq!(locator.metric("vecino_zone_members").await, 12.0);
    assert_eq!(locator.metric("vecino_zone_slots").await, 12.0);
    assert_eq!(locator.metric("vecino_peers").await, 0.0);
    assert_eq!(locator.metric("vecino_records").await, 0.0);
    let refused = "vecino_zone_joins_total{outcome=\"error\"}";
    assert_eq!(locator.metric(refused).await, 1.0);
}

#[tokio::test]
async fn versions_tell_what_changed() {
    let locator = Locator::with(config(24, 4)).await;
    let mut client = zones(&locator).await;
    let first = join(&mut client, 1).await;
    let known = soon(client.keep_alive(alive(&first, 0)))
        .await
        .expect("kept")
        .into_inner();
    assert_eq!(known.zone_versions.len(), 4);
    let again = soon(client.keep_alive(alive(&first, known.version))).await;
    let again = again.expect("kept").into_inner();
    assert_eq!(
        (again.version, again.zone_versions.len()),
        (known.version, 0)
    );
    let unchanged = members(&mut client, 0, known.zone_versions[0]).await;
    assert_eq!(
        (unchanged.version, unchanged.members.len()),
        (known.zone_versions[0], 0)
    );

    let second = join(&mut client, 2).await;
    assert_eq!(second.zone, 1);
    let now = soon(client.keep_alive(alive(&first, known.version))).await;
    let now = now.expect("kept").into_inner();
    let changed: Vec<_> = (0..4)
        .filter(|zone| now.zone_versions[*zone] != known.zone_versions[*zone])
        .collect();
    assert_eq!(changed, [1]);
    assert_eq!(
        members(&mut client, 1, known.zone_versions[1])
            .await
            .members
            .len(),
        1
    );
    soon(client.leave(leaving(&second))).await.expect("leaves");
    assert!(members(&mut client, 1, 0).await.members.is_empty());
    let over = soon(client.leave(leaving(&second)))
        .await
        .expect_err("left");
    assert_eq!(over.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_silent_member_loses_its_slot_and_a_kept_one_does_not() {
    let locator = Locator::with(Config {
        lease: Duration::from_secs(1),
        ..config(6, 1)
    })
    .await;
    let client = zones(&locator).await;
    let (mut client, kept) = (client.clone(), join(&mut client.clone(), 1).await);
    let silent = join(&mut client, 2).await;
    eventually("one is left", || {
        let (mut client, request) = (client.clone(), alive(&kept, 0));
        async move {
            soon(client.keep_alive(request)).await.expect("is kept");
            members(&mut client, 0, 0).await.members.len() == 1
        }
    })
    .await;
    let over = soon(client.keep_alive(alive(&silent, 0)))
        .await
        .expect_err("over");
    assert_eq!(over.code(), Code::Unauthenticated);
    // It comes back, and asks for what it had.
    let request = v1::ZoneJoinRequest {
        slot: Some(silent.slot),
        ..joining(2)
    };
    let back = soon(client.join(request))
        .await
        .expect("joins")
        .into_inner();
    assert_eq!(back.slot, silent.slot);
    assert_ne!(back.lease_token, silent.lease_token);
}

#[tokio::test]
async fn after_a_restart_members_claim_their_slots() {
    let locator = Locator::with(config(24, 4)).await;
    let mut client = zones(&locator).await;
    let mut slots = Vec::new();
    for number in 0..9 {
        slots.push(join(&mut client, number).await.slot);
    }
    locator.server.shutdown().await.expect("shuts down");
    let locator = Locator::with(config(24, 4)).await;
    let mut client = zones(&locator).await;
    for (number, slot) in (0..9).zip(&slots).rev() {
        let request = v1::ZoneJoinRequest {
            slot: Some(*slot),
            ..joining(number)
        };
        let back = soon(client.join(request))
            .await
            .expect("joins")
            .into_inner();
        assert_eq!(back.slot, *slot);
    }
}

fn refused<T>(answer: Result<T, Status>, field: &str) {
    let status = answer.err().unwrap_or_else(|| panic!("{field} was taken"));
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert!(status.message().contains(field), "{status:?}");
}

#[tokio::test]
async fn wrong_requests_are_refused_by_the_name_of_the_field() {
    let locator = Locator::with(config(24, 4)).await;
    let mut client = zones(&locator).await;
    type Spoil = fn(&mut v1::ZoneJoinRequest);
    let spoils: [(&str, Spoil); 7] = [
        ("peer_key", |r| r.peer_key = vec![1; 31].into()),
        ("public_url", |r| r.public_url.clear()),
        ("public_url", |r| r.public_url = "ftp://127.0.0.1:1".into()),
        ("public_url", |r| {
            r.public_url = "http://169.254.169.254:80".into()
        }),
        ("overlay_url", |r| {
            r.overlay_url = "http://127.0.0.1:1/x".into()
        }),
        ("overlay_url", |r| r.overlay_url = "http://0.0.0.0:1".into()),
        ("site", |r| r.site = "x".repeat(65)),
    ];
    for (field, spoil) in spoils {
        let mut request = joining(1);
        spoil(&mut request);
        refused(soon(client.join(request)).await, field);
    }
    let nowhere = v1::ZoneMembersRequest {
        zone: 4,
        version: 0,
    };
    refused(soon(client.members(nowhere)).await, "zone");
    let joined = join(&mut client, 1).await;
    let mut request = alive(&joined, 0);
    request.lease_token = vec![0; 15].into();
    refused(soon(client.keep_alive(request)).await, "lease_token");
    let mut request = alive(&joined, 0);
    request.lease_token = vec![0; 16].into();
    let other = soon(client.keep_alive(request))
        .await
        .expect_err("not its token");
    assert_eq!(other.code(), Code::Unauthenticated);
    // A slot that is none is as good as no wish.
    let request = v1::ZoneJoinRequest {
        slot: Some(u32::MAX),
        ..joining(2)
    };
    assert!(soon(client.join(request)).await.is_ok());
    let huge = v1::ZoneJoinRequest {
        site: "x".repeat(5 << 20),
        ..joining(3)
    };
    assert_eq!(
        soon(client.join(huge)).await.expect_err("too large").code(),
        Code::OutOfRange
    );
}
