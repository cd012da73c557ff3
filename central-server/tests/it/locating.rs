//! Locate, LocateStream, Place, getResource.

use std::collections::BTreeSet;

use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::Code;
use vecino_grpc::{
    product_service::{Resource, product_service_client::ProductServiceClient},
    v1::{self, locate_request::By, locate_stream_response::Outcome},
};

use crate::support::*;

async fn share(locator: &Locator, number: u8, records: &[v1::Record]) -> Peer {
    let mut peer = Peer::register(locator.client().await, registration(number)).await;
    peer.announce(records).await;
    peer
}

#[tokio::test]
async fn variants_come_with_most_providers_first_and_a_bounded_random_choice() {
    let locator = Locator::start().await;
    let mut client = locator.client().await;
    for number in 0..20 {
        share(&locator, number, &[record("a", "common")]).await;
    }
    share(&locator, 21, &[record("a", "rare")]).await;
    let ask = |max_providers| v1::LocateRequest {
        max_providers,
        ..by_name("a")
    };
    let located = client.locate(ask(0)).await.expect("locates").into_inner();
    let counts: Vec<_> = located
        .variants
        .iter()
        .map(|v| (v.provider_count, v.providers.len()))
        .collect();
    assert_eq!(counts, [(20, 16), (1, 1)]);
    let all = client.locate(ask(64)).await.expect("locates").into_inner();
    assert_eq!(all.variants[0].providers.len(), 20);
    let mut seen = BTreeSet::new();
    for _ in 0..1_000 {
        let located = client.locate(ask(1)).await.expect("locates").into_inner();
        assert_eq!(located.variants[0].providers.len(), 1);
        seen.insert(located.variants[0].providers[0].url.clone());
    }
    assert_eq!(seen.len(), 20, "everybody's turn comes");
}

#[tokio::test]
async fn more_variants_than_an_answer_has_hide_none_for_good() {
    let locator = Locator::start().await;
    let mut client = locator.client().await;
    let contents: Vec<_> = (0..100).map(|n| format!("content {n}")).collect();
    let files: Vec<_> = contents
        .iter()
        .map(|content| record("a", content))
        .collect();
    share(&locator, 1, &files).await;
    share(&locator, 2, &files[..1]).await;
    let mut seen = BTreeSet::new();
    for _ in 0..200 {
        let located = client.locate(by_name("a")).await.expect("locates");
        let variants = located.into_inner().variants;
        assert_eq!(variants.len(), 32);
        assert_eq!(variants[0].digest, files[0].digest, "most providers first");
        seen.extend(variants.into_iter().map(|variant| variant.digest));
    }
    assert_eq!(seen.len(), 100);
}

#[tokio::test]
async fn a_lookup_can_be_restricted_to_a_provider() {
    let locator = Locator::start().await;
    let mut client = locator.client().await;
    let first = share(&locator, 1, &[record("a", "one")]).await;
    let second = share(&locator, 2, &[record("a", "two")]).await;
    share(&locator, 3, &[record("b", "two")]).await;
    let ask = |provider: &str| v1::LocateRequest {
        provider: provider.into(),
        ..by_name("a")
    };
    assert_eq!(
        providers(&mut client, ask(first.url())).await,
        [first.url()]
    );
    let id = vecino_rest::PeerId::from_slice(&second.welcome.peer_id).expect("16 bytes");
    assert_eq!(
        providers(&mut client, ask(&id.to_string())).await,
        [second.url()]
    );
    assert!(
        providers(&mut client, ask("http://127.0.0.1:5003"))
            .await
            .is_empty()
    );
    assert!(
        providers(&mut client, ask("http://nowhere.example:1"))
            .await
            .is_empty()
    );
    let wrong = client.locate(ask("nonsense")).await.expect_err("refused");
    assert_eq!(wrong.code(), Code::InvalidArgument);
    assert!(wrong.message().contains("nonsense"), "{}", wrong.message());
}

#[tokio::test]
async fn many_lookups_share_a_stream_and_a_bad_one_fails_alone() {
    let locator = Locator::start().await;
    let files: Vec<_> = (0..500)
        .map(|n| record(&format!("f{n}"), &format!("{n}")))
        .collect();
    let peer = share(&locator, 1, &files).await;
    let (sender, receiver) = mpsc::channel(64);
    let mut client = locator.client().await;
    let mut answers = client
        .locate_stream(ReceiverStream::new(receiver))
        .await
        .expect("opens")
        .into_inner();
    let asking = tokio::spawn(async move {
        for id in 0..500_u64 {
            let request = match id {
                100 => Some(by_name("../../etc/passwd")),
                101 => None,
                102 => Some(v1::LocateRequest::default()),
                103 => Some(v1::LocateRequest {
                    by: Some(By::Digest(vec![1, 2, 3].into())),
                    ..Default::default()
                }),
                104 => Some(by_name("unknown")),
                id => Some(by_name(&format!("f{id}"))),
            };
            sender
                .send(v1::LocateStreamRequest { id, request })
                .await
                .expect("is read");
        }
    });
    let mut ids = BTreeSet::new();
    while let Some(answer) = soon(answers.next()).await {
        let answer = answer.expect("the stream goes on");
        assert!(ids.insert(answer.id), "one answer a lookup");
        match (answer.id, answer.outcome.expect("an outcome")) {
            (100..=103, Outcome::Error(error)) => {
                assert_eq!(error.code, Code::InvalidArgument as i32);
                let named = ["passwd", "request", "by", "digest"][answer.id as usize - 100];
                assert!(error.message.contains(named), "{}", error.message);
            }
            (104, Outcome::Response(response)) => assert!(response.variants.is_empty()),
            (id, Outcome::Response(response)) => {
                assert_eq!(response.variants[0].name, format!("f{id}"));
                assert_eq!(response.variants[0].providers[0].url, peer.url());
            }
            (id, outcome) => panic!("{id}: {outcome:?}"),
        }
    }
    asking.await.expect("asks");
    assert_eq!(ids.len(), 500);
}

#[tokio::test]
async fn copies_are_placed_on_live_peers_with_room_at_other_sites_first() {
    let locator = Locator::start().await;
    let mut client = locator.client().await;
    let mut ids = Vec::new();
    for (number, (site, free_bytes)) in [
        ("here", 100),
        ("here", 100),
        ("there", 100),
        ("there", 10),
        ("there", 100),
    ]
    .iter()
    .enumerate()
    {
        let request = v1::RegisterRequest {
            site: (*site).into(),
            free_bytes: *free_bytes,
            ..registration(number as u8)
        };
        ids.push(
            Peer::register(locator.client().await, request)
                .await
                .welcome
                .peer_id,
        );
    }
    let mut place = async |count, exclude: &[usize]| {
        let request = v1::PlaceRequest {
            size: 50,
            count,
            exclude: exclude.iter().map(|n| ids[*n].clone()).collect(),
            site: "here".into(),
        };
        let peers = client
            .place(request)
            .await
            .expect("places")
            .into_inner()
            .peers;
        peers
            .iter()
            .map(|p| ids.iter().position(|id| *id == p.peer_id))
            .collect::<Vec<_>>()
    };
    let two: BTreeSet<_> = place(2, &[]).await.into_iter().collect();
    assert_eq!(two, [Some(2), Some(4)].into(), "elsewhere, with room");
    let all = place(16, &[0]).await;
    assert_eq!(all.len(), 3);
    assert_eq!(all[2], Some(1), "the own site last");
    assert_eq!(place(1, &[0, 1, 2, 4]).await, []);
}

#[tokio::test]
async fn the_first_systems_contract_is_answered() {
    let locator = Locator::start().await;
    let peer = share(&locator, 1, &[record("a b.txt", "one")]).await;
    let mut old = ProductServiceClient::new(locator.channel().await);
    let mut ask = async |name: &str| {
        let request = Resource {
            resource_name: name.into(),
        };
        let answer = old
            .get_resource(request)
            .await
            .expect("always answered")
            .into_inner();
        (answer.status_code, answer.response)
    };
    assert_eq!(ask("a b.txt").await, (200, peer.url().to_owned()));
    for nobody_has in ["unknown", "", "../../etc/passwd", "a\0b"] {
        assert_eq!(
            ask(nobody_has).await,
            (404, "404".to_owned()),
            "{nobody_has:?}"
        );
    }
}
