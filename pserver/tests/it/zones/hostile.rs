//! Members that lie, and strangers.

use tonic::{Code, Status, transport::Channel};
use vecino_grpc::v1::{self, zone_client::ZoneClient, zones_client::ZonesClient};
use vecino_rest::PeerKey;

use super::{
    liar::{Liar, Says},
    *,
};
use crate::support::{content::Content, soon};

/// A member of which nobody answers at its overlay address.
struct Stranger {
    key: PeerKey,
    slot: u32,
}

impl Stranger {
    async fn join(stage: &Stage, overlay_url: &str) -> Result<Self, Status> {
        let key = PeerKey::from_bytes(rand::random());
        let locator = format!("http://{}", stage.locator_addr);
        let mut zones = ZonesClient::connect(locator).await.expect("connects");
        let request = v1::ZoneJoinRequest {
            peer_key: key.as_bytes().to_vec().into(),
            public_url: "http://127.0.0.1:9".into(),
            overlay_url: overlay_url.into(),
            ..Default::default()
        };
        let slot = soon(zones.join(request)).await?.into_inner().slot;
        Ok(Self { key, slot })
    }

    fn sender(&self) -> v1::ZoneSender {
        v1::ZoneSender {
            peer_id: self.key.peer_id().as_bytes().to_vec().into(),
            slot: self.slot,
            pass: vec![7; 32].into(),
            slots: 12,
        }
    }
}

async fn zone_of(peer: &Peer) -> ZoneClient<Channel> {
    let url = format!("http://{}", peer.overlay());
    ZoneClient::connect(url).await.expect("connects")
}

fn record(name: &str) -> v1::Record {
    v1::Record {
        name: name.into(),
        digest: vec![1; 32].into(),
        size: 1,
        modified_ms: 0,
        partial: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_puts_or_takes_records_for_another() {
    let layout = layout(12, 2);
    let stage = stage(layout).await;
    let peers = seated(&stage, 3).await;
    let name = "victim.bin";
    let slot = layout.slot_of(&name.parse().expect("a name"));
    peers[1].shares(name, &Content::new("victim", 100)).await;
    finds(&peers[2], name, 1).await;
    let victim = v1::ZoneSender {
        peer_id: peers[1].id().as_bytes().to_vec().into(),
        slot: sits(&peers[1]).await,
        pass: vec![7; 32].into(),
        slots: 12,
    };
    // One that nobody answers for, one at somebody else's address, one that is no member.
    let silent = Stranger::join(&stage, "http://127.0.0.1:9")
        .await
        .expect("joins");
    let claimed = format!("http://{}", peers[1].overlay());
    let nobody = Stranger {
        key: PeerKey::from_bytes([3; 32]),
        slot: 2,
    };
    for peer in &peers {
        let mut zone = zone_of(peer).await;
        for sender in [victim.clone(), silent.sender(), nobody.sender()] {
            let put = v1::ZonePutRequest {
                sender: Some(sender.clone()),
                slot,
                records: vec![record(name)],
                reset: true,
            };
            let status = soon(zone.put(put)).await.expect_err("refused");
            let withdraw = v1::ZoneWithdrawRequest {
                sender: Some(sender),
                slot,
                records: Vec::new(),
                all: true,
            };
            let also = soon(zone.withdraw(withdraw)).await.expect_err("refused");
            for status in [status, also] {
                assert!(
                    matches!(status.code(), Code::PermissionDenied | Code::Unavailable),
                    "{status:?}"
                );
            }
        }
    }
    let variants = ask(&peers[0], name).await;
    assert_eq!((variants.len(), variants[0].providers.len()), (1, 1));
    assert_eq!(variants[0].providers[0].url, url(&peers[1]));
    // Taking over the address of another by joining anew is for who is seen there.
    let taken = Stranger::join(&stage, &claimed)
        .await
        .expect("on loopback all are");
    assert!(taken.slot < 12);
    // The rightful peer comes back by itself.
    finds(&peers[2], name, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_messages_are_refused_by_name() {
    let layout = layout(12, 2);
    let stage = stage(layout).await;
    let peers = seated(&stage, 2).await;
    let mut zone = zone_of(&peers[0]).await;
    let sender = Stranger::join(&stage, "http://127.0.0.1:9")
        .await
        .expect("joins")
        .sender();
    let short = v1::ZoneSender {
        pass: vec![7; 31].into(),
        ..sender.clone()
    };
    let elsewhere = v1::ZoneSender {
        slots: 64,
        ..sender.clone()
    };
    let outside = v1::ZoneSender {
        slot: 12,
        ..sender.clone()
    };
    for (sender, code, says) in [
        (None, Code::InvalidArgument, "sender"),
        (Some(short), Code::InvalidArgument, "sender.pass"),
        (Some(elsewhere), Code::FailedPrecondition, "64"),
        (Some(outside), Code::InvalidArgument, "sender.slot"),
    ] {
        let put = v1::ZonePutRequest {
            sender,
            ..Default::default()
        };
        let status = soon(zone.put(put)).await.expect_err("refused");
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(says), "{status:?}");
    }
    let refresh = v1::ZoneRefreshRequest {
        sender: Some(sender),
        slots: vec![1, 2],
        fingerprints: vec![0; 16].into(),
    };
    let status = soon(zone.refresh(refresh)).await.expect_err("refused");
    assert_eq!(status.code(), Code::InvalidArgument);
    let find = v1::ZoneFindRequest {
        name: "../../etc/passwd".into(),
    };
    let status = soon(zone.find(find)).await.expect_err("refused");
    assert!(status.message().contains("name"), "{status:?}");
    // More than a message may have.
    let find = v1::ZoneFindRequest {
        name: "x".repeat(3 << 20),
    };
    let status = soon(zone.find(find)).await.expect_err("refused");
    assert_eq!(status.code(), Code::OutOfRange);
    let confirm = v1::ZoneConfirmRequest {
        receiver: peers[1].id().as_bytes().to_vec().into(),
        pass: vec![0; 32].into(),
    };
    let confirmed = soon(zone.confirm(confirm)).await.expect("answers");
    assert!(!confirmed.into_inner().given);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_answers_nonsense_or_nothing_is_passed_over() {
    let layout = layout(12, 2);
    let variant = |name: &str, url: &str| v1::Variant {
        name: name.into(),
        digest: vec![1; 32].into(),
        size: 1,
        modified_ms: 0,
        provider_count: 1_000_000,
        providers: vec![v1::Provider {
            peer_id: vec![1; 16].into(),
            url: url.into(),
            site: "x\ny".into(),
            partial: false,
        }],
    };
    let nonsense = vec![
        variant("another name", "http://10.0.0.1:80"),
        variant("../../etc/passwd", "http://10.0.0.1:80"),
        variant("wanted", "http://169.254.169.254:80"),
        variant("wanted", "not a URL"),
        v1::Variant {
            digest: vec![1; 31].into(),
            ..variant("wanted", "http://10.0.0.1:80")
        },
    ];
    let too_much = vec![variant("wanted", &"x".repeat(3 << 20))];
    for (what, says) in [
        ("nonsense", Says::Variants(nonsense)),
        ("too much", Says::Variants(too_much)),
        ("nothing", Says::Nothing),
    ] {
        let stage = stage(layout).await;
        let peers = seated(&stage, 3).await;
        let liar = Liar::join(&stage, says).await;
        know_each_other(&peers, 2).await;
        let name = name_in(layout, liar.slot..liar.slot + 1, "wanted");
        peers[1].shares(&name, &Content::new(&name, 100)).await;
        finds(&peers[2], &name, 1).await;
        let began = std::time::Instant::now();
        // Not the one that asked before: it remembers the answer, and whom not to ask.
        let variants = ask(&peers[0], &name).await;
        println!("the slot's peer says {what}: {:?}", began.elapsed());
        assert_eq!((variants.len(), variants[0].providers.len()), (1, 1));
        assert_eq!(variants[0].providers[0].url, url(&peers[1]));
        assert!(began.elapsed() < Duration::from_secs(3));
        assert!(ask(&peers[1], "nobody has this").await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_speaks_for_itself_only_and_within_bounds() {
    let layout = layout(12, 2);
    let stage = stage(layout).await;
    let peers = seated(&stage, 3).await;
    let name = "victim.bin";
    let slot = layout.slot_of(&name.parse().expect("a name"));
    let content = Content::new("victim", 100);
    peers[1].shares(name, &content).await;
    finds(&peers[2], name, 1).await;
    let liar = Liar::join(&stage, Says::Variants(Vec::new())).await;
    let put = |slot, records| v1::ZonePutRequest {
        sender: Some(liar.sender()),
        slot,
        records,
        reset: true,
    };
    for peer in &peers {
        let mut zone = zone_of(peer).await;
        // It may say that it holds the name, too: at the address that the locator lists.
        soon(zone.put(put(slot, vec![record(name)])))
            .await
            .expect("is its own");
        let stolen = v1::Record {
            digest: content.digest.as_bytes().to_vec().into(),
            ..record(name)
        };
        let withdraw = |records: &[v1::Record], all| v1::ZoneWithdrawRequest {
            sender: Some(liar.sender()),
            slot,
            records: records.to_vec(),
            all,
        };
        soon(zone.withdraw(withdraw(&[stolen], false)))
            .await
            .expect("takes nothing out");
        for (put, says) in [
            (put((slot + 1) % 12, vec![record(name)]), "belongs"),
            (put(99, Vec::new()), "slot is 99"),
            (put(slot, vec![record(name); 1025]), "at most 1024"),
            (put(slot, vec![record("a//b")]), "name"),
        ] {
            let status = soon(zone.put(put)).await.expect_err("refused");
            assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
            assert!(status.message().contains(says), "{status:?}");
        }
        let another_pass = v1::ZoneSender {
            pass: vec![6; 32].into(),
            ..liar.sender()
        };
        let status = soon(zone.withdraw(v1::ZoneWithdrawRequest {
            sender: Some(another_pass),
            ..withdraw(&[], true)
        }));
        assert_eq!(
            status.await.expect_err("refused").code(),
            Code::PermissionDenied
        );
    }
    eventually("both are told of", async || {
        ask(&peers[0], name).await.len() == 2
    })
    .await;
    for variant in ask(&peers[0], name).await {
        let provider = &variant.providers[0];
        let expected = match variant.digest == Some(content.digest) {
            true => (Some(peers[1].id()), url(&peers[1])),
            false => (Some(liar.peer), "http://127.0.0.1:9".to_owned()),
        };
        assert_eq!((provider.peer, provider.url.clone()), expected);
    }
    // What it does not prolong ends with it.
    finds(&peers[0], name, 1).await;
}
