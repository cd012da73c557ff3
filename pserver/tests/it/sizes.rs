//! Sizes that providers announce and that are not so: they may cost a try, never a wrong byte.

use vecino_rest::{Kind, body::Variant};

use crate::support::{
    content::{Content, PIECE},
    neighbour::{telling, variant},
    peer::Peer,
    provider::Provider,
    stage::{Stage, record},
};

/// A stage with an own peer and its neighbour.
async fn own_peer() -> (Stage, Peer, Peer) {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let own = stage.peer("own").neighbour(neighbour.addr).start().await;
    (stage, own, neighbour)
}

/// Four pieces, the last one short.
const SIZE: usize = 3 * PIECE + 4321;

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_size_never_makes_wrong_bytes() {
    let (stage, own, _neighbour) = own_peer().await;
    for size in [0, 1, PIECE, SIZE] {
        for lie in [
            0,
            1,
            size as u64 + 1,
            size as u64 - (size as u64).min(1),
            PIECE as u64,
            (2 * SIZE) as u64,
            1 << 50,
            u64::MAX >> 1,
        ] {
            if lie == size as u64 {
                continue;
            }
            let content = Content::new(&format!("{size} as {lie}"), size);
            let file = format!("size/{size}-{lie}.bin");
            let provider = Provider::honest(&content).await;
            let liar = record(&file, &content, lie);
            stage
                .announce_records(&provider.fixture.url(), vec![liar])
                .await;
            let response = own.download(&file).await;
            assert!(
                response.status == 502 || !response.whole,
                "{size} as {lie}: {response:?}"
            );
            if response.status == 502 {
                let kind = response.kind();
                assert!(
                    matches!(kind, Kind::VerificationFailed | Kind::ProviderFailed),
                    "{kind:?}"
                );
            } else {
                assert!(content.bytes.starts_with(&response.body));
            }
            assert!(own.files().await.is_empty(), "{size} as {lie}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_sizes_of_one_digest_the_right_one_is_found() {
    let (stage, own, _neighbour) = own_peer().await;
    for size in [0, 10, PIECE, SIZE] {
        for lie in [
            size as u64 + 1,
            (size as u64).saturating_sub(1),
            9 * PIECE as u64,
        ] {
            if lie == size as u64 {
                continue;
            }
            for liar_first in [true, false] {
                let content = Content::new(&format!("two {size} {lie} {liar_first}"), size);
                let file = format!("two/{size}-{lie}-{liar_first}.bin");
                let liar = Provider::honest(&content).await;
                let good = Provider::honest(&content).await;
                let wrong = record(&file, &content, lie);
                if liar_first {
                    stage
                        .announce_records(&liar.fixture.url(), vec![wrong])
                        .await;
                    stage.announce_provider(&file, &good).await;
                } else {
                    stage.announce_provider(&file, &good).await;
                    stage
                        .announce_records(&liar.fixture.url(), vec![wrong])
                        .await;
                }
                let response = own.download(&file).await;
                assert_eq!(response.status, 200, "{file}: {}", response.text());
                assert!(response.whole && *response.body == *content.bytes, "{file}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_lies_about_a_size_do_not_hide_the_truth() {
    let content = Content::new("many lies", SIZE);
    let provider = Provider::honest(&content).await;
    let liars = [1, 2].map(|port| format!("http://127.0.0.1:{port}"));
    let lies = (1..7).map(|more| Variant {
        size: Some(content.len() + more),
        ..variant("a.bin", &content, &liars)
    });
    let truth = variant("a.bin", &content, &[provider.fixture.url()]);
    let neighbour = telling(lies.chain([truth]).collect()).await;
    let stage = Stage::start().await;
    let own = stage.peer("own").neighbour(neighbour.addr).start().await;
    own.downloads("a.bin", &content).await;
}
