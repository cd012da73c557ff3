//! Peers that hold some pieces only: found while their lease lasts, never counted as whole.

use std::collections::BTreeSet;

use tonic::Code;
use vecino_grpc::{
    product_service::{Resource, product_service_client::ProductServiceClient},
    v1,
};

use crate::support::*;

fn partial(name: &str, content: &str) -> v1::Record {
    v1::Record {
        partial: true,
        ..record(name, content)
    }
}

async fn peer(locator: &Locator, number: u8) -> Peer {
    Peer::register(locator.client().await, registration(number)).await
}

/// URLs of all providers, sorted, with whether they are partial.
async fn located(client: &mut Client, request: v1::LocateRequest) -> Vec<(String, bool)> {
    let answer = client.locate(request).await.expect("locates").into_inner();
    let mut all = Vec::new();
    for variant in answer.variants {
        let shown = variant.providers.iter().map(|one| one.partial);
        assert!(shown.is_sorted(), "complete ones first");
        assert!(variant.provider_count as usize >= variant.providers.len());
        let providers = variant.providers.into_iter();
        all.extend(providers.map(|one| (one.url, one.partial)));
    }
    all.sort();
    all
}

fn told(peer: &Peer, partial: bool) -> (String, bool) {
    (peer.url().to_owned(), partial)
}

#[tokio::test]
async fn a_partial_holder_is_found_beside_a_complete_one_until_it_is_one_itself() {
    let directory = tempfile::tempdir().expect("a directory");
    let locator = Locator::with(on_disk(&directory.path().join("locator.redb"))).await;
    let mut client = locator.client().await;
    let (mut whole, mut part) = (peer(&locator, 1).await, peer(&locator, 2).await);
    whole.announce(&[record("a", "content")]).await;
    part.announce(&[record("other", "other")]).await;
    let commits = locator.metric("vecino_commits_total").await;
    let records = part
        .announce(&[partial("a", "content"), partial("b", "rare")])
        .await;
    assert_eq!(records, 1, "partial records do not count");
    assert_eq!(locator.metric("vecino_partial_records").await, 2.0);
    assert_eq!(
        locator.metric("vecino_commits_total").await,
        commits,
        "no commit for a hint"
    );
    for request in [by_name("a"), by_digest("content")] {
        let found = located(&mut client, request).await;
        assert_eq!(found, [told(&whole, false), told(&part, true)]);
    }
    let id = vecino_rest::PeerId::from_slice(&part.welcome.peer_id).expect("16 bytes");
    for provider in [part.url().to_owned(), id.to_string()] {
        let only = v1::LocateRequest {
            provider,
            ..by_name("a")
        };
        assert_eq!(located(&mut client, only).await, [told(&part, true)]);
    }
    let rare = located(&mut client, by_name("b")).await;
    assert_eq!(
        rare,
        [told(&part, true)],
        "a variant may have partial ones alone"
    );

    // Mixed with whole ones; and a whole record takes the partial one's place.
    let mixed = [record("a", "content"), partial("c", "third")];
    assert_eq!(part.announce(&mixed).await, 2);
    let found = located(&mut client, by_name("a")).await;
    assert_eq!(found, [told(&whole, false), told(&part, false)]);
    assert_eq!(locator.metric("vecino_partial_records").await, 2.0);
    // That its part is gone takes nothing from the whole.
    let gone = part.batch(
        Vec::new(),
        vec![partial("a", "content"), partial("b", "rare")],
    );
    assert_eq!(part.send(gone).await.expect("withdraws").records, 2);
    let found = located(&mut client, by_name("a")).await;
    assert_eq!(found, [told(&whole, false), told(&part, false)]);
    assert!(located(&mut client, by_name("b")).await.is_empty());
    // What is withdrawn as a whole is withdrawn in part as well.
    let gone = part.batch(Vec::new(), vec![record("c", "third")]);
    part.send(gone).await.expect("withdraws");
    assert!(located(&mut client, by_name("c")).await.is_empty());
    assert_eq!(locator.metric("vecino_partial_records").await, 0.0);
}

#[tokio::test]
async fn neither_the_first_systems_contract_nor_a_search_knows_partial_holders() {
    let locator = Locator::start().await;
    let mut client = locator.client().await;
    let (mut whole, mut part) = (peer(&locator, 1).await, peer(&locator, 2).await);
    part.announce(&[partial("a file", "content")]).await;
    let mut legacy = ProductServiceClient::new(locator.channel().await);
    let mut ask = async || {
        let request = Resource {
            resource_name: "a file".into(),
        };
        let answer = legacy.get_resource(request).await.expect("answers");
        answer.into_inner().response
    };
    let mut hits = async |prefix: &str, query: &str| {
        let request = v1::SearchRequest {
            prefix: prefix.into(),
            query: query.into(),
            ..Default::default()
        };
        let page = client.search(request).await.expect("searches").into_inner();
        let counts = page.hits.iter().map(|hit| hit.provider_count);
        counts.collect::<Vec<_>>()
    };
    assert_eq!(ask().await, "404");
    assert!(hits("", "file").await.is_empty());
    whole.announce(&[record("a file", "content")]).await;
    for _ in 0..20 {
        assert_eq!(ask().await, whole.url());
    }
    assert_eq!(hits("", "file").await, [1]);
    assert_eq!(hits("a f", "").await, [1]);
}

#[tokio::test]
async fn a_crowd_is_answered_at_random_and_never_without_a_complete_one() {
    let locator = Locator::start().await;
    let mut client = locator.client().await;
    let mut seed = peer(&locator, 0).await;
    seed.announce(&[record("a", "content")]).await;
    for number in 1..40 {
        peer(&locator, number)
            .await
            .announce(&[partial("a", "content")])
            .await;
    }
    let (mut seen, ask) = (BTreeSet::new(), by_name("a"));
    for _ in 0..200 {
        let answer = client.locate(ask.clone()).await.expect("locates");
        let variant = &answer.into_inner().variants[0];
        assert_eq!((variant.provider_count, variant.providers.len()), (40, 16));
        assert_eq!(variant.providers[0].url, seed.url());
        let partial = variant.providers.iter().filter(|one| one.partial);
        seen.extend(partial.map(|one| one.url.clone()));
    }
    assert_eq!(seen.len(), 39, "everybody's turn comes");
}

#[tokio::test]
async fn partial_records_end_with_the_lease_and_begin_anew_with_the_next() {
    let config = central_server::Config {
        lease: std::time::Duration::from_secs(1),
        ..central_server::Config::ephemeral()
    };
    let locator = Locator::with(config).await;
    let mut client = locator.client().await;
    let mut part = peer(&locator, 1).await;
    part.announce(&[partial("a", "content")]).await;
    assert_eq!(located(&mut client, by_name("a")).await.len(), 1);
    let mut again = peer(&locator, 1).await;
    assert!(
        located(&mut client, by_name("a")).await.is_empty(),
        "registering again forgets them"
    );
    let stale = part.batch(vec![partial("a", "content")], Vec::new());
    let refused = part.send(stale).await.expect_err("an old token");
    assert_eq!(refused.code(), Code::Unauthenticated);
    again.announce(&[partial("a", "content")]).await;
    assert_eq!(located(&mut client, by_name("a")).await.len(), 1);
    again.deregister().await.expect("deregisters");
    assert!(located(&mut client, by_name("a")).await.is_empty());
    assert_eq!(locator.metric("vecino_partial_records").await, 0.0);
    let mut silent = peer(&locator, 1).await;
    silent.announce(&[partial("a", "content")]).await;
    eventually("its lease is over", async || {
        locator.metric("vecino_partial_records").await == 0.0
    })
    .await;
    assert!(located(&mut client, by_name("a")).await.is_empty());
}

#[tokio::test]
async fn a_replaced_bucket_has_no_partial_records() {
    let locator = Locator::start().await;
    let mut peer = peer(&locator, 1).await;
    let mut batch = peer.batch(vec![partial("a", "content")], Vec::new());
    batch.replace_bucket = Some(u32::from(digest("content")[0]));
    let refused = peer.send(batch).await.expect_err("refused");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(
        refused.message().contains("partial record \"a\""),
        "{refused}"
    );
    peer.announce(&[partial("a", "content")]).await;
    let mut batch = peer.batch(vec![record("a", "content")], Vec::new());
    batch.replace_bucket = Some(u32::from(digest("content")[0]));
    assert_eq!(peer.send(batch).await.expect("replaces").records, 1);
    assert_eq!(locator.metric("vecino_partial_records").await, 0.0);
}
