//! `/v1/downloads`: a download into the own peer, from its beginning to each of its ends.

use std::time::Duration;

use vecino_rest::{
    Kind,
    body::{Download, DownloadState, Origin},
    route,
};

use crate::support::{
    content::{Content, PIECE},
    eventually,
    http::Request,
    peer::{Door, Peer},
    provider::{Provider, once},
    stage::Stage,
};

async fn own_peer() -> (Stage, Peer, Peer) {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let own = stage.peer("own").neighbour(neighbour.addr).start().await;
    (stage, own, neighbour)
}

async fn begin(own: &Door, body: serde_json::Value) -> Download {
    let response = own
        .send(&Request::json(route::DOWNLOADS, body.to_string()))
        .await;
    assert_eq!(response.status, 202, "{}", response.text());
    let begun: Download = response.json();
    assert_eq!(
        response.header("location"),
        Some(&*route::download(&begun.id))
    );
    begun
}

async fn now(own: &Door, id: &str) -> Download {
    own.get(route::download(id)).await.json()
}

async fn ended(own: &Door, id: &str) -> Download {
    eventually("ended", async || now(own, id).await.finished_ms.is_some()).await;
    now(own, id).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_runs_and_is_done() {
    let (stage, own, _neighbour) = own_peer().await;
    let content = Content::new("life", 48 * PIECE);
    let provider = Provider::slow(&content).await;
    stage.announce_provider("life.bin", &provider).await;
    let begun = begin(&own, serde_json::json!({"name": "life.bin"})).await;
    assert_eq!(
        (begun.state, begun.verified_bytes),
        (DownloadState::Locating, 0)
    );
    let mut before = 0;
    eventually("in the middle", async || {
        let download = now(&own, &begun.id).await;
        assert!(download.verified_bytes >= before, "it went back");
        before = download.verified_bytes;
        download.state == DownloadState::Running && before > 2 * PIECE as u64
    })
    .await;
    assert!(before < content.len(), "the load is too low");
    assert!(own.files().await.is_empty());
    assert_eq!(own.status().await.transfers.downloads, 1);
    provider.hurry();
    let done = ended(&own, &begun.id).await;
    assert_eq!(done.state, DownloadState::Done);
    assert_eq!(
        (done.verified_bytes, done.size, done.digest),
        (content.len(), Some(content.len()), Some(content.digest))
    );
    assert!(done.error.is_none() && done.finished_ms >= Some(done.started_ms));
    own.keeps("life.bin", &content).await;
    assert_eq!(own.files().await[0].origin, Origin::Fetched);
    // Forgotten when it is deleted, and the file stays.
    let delete = Request::new("DELETE", route::download(&begun.id));
    assert_eq!(own.send(&delete).await.status, 204);
    assert_eq!(own.send(&delete).await.status, 404);
    assert_eq!(
        own.get(route::download(&begun.id)).await.kind(),
        Kind::NotFound
    );
    own.downloads("life.bin", &content).await;
    // What is held already is done at once.
    let again = begin(&own, serde_json::json!({"name": "life.bin"})).await;
    assert_eq!(ended(&own, &again.id).await.state, DownloadState::Done);
    assert_eq!(once(provider.ranges()), [0..content.len()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_download_stops_and_the_next_goes_on_from_it() {
    let (stage, own, _neighbour) = own_peer().await;
    let content = Content::new("cancel", 16 * PIECE);
    let provider = Provider::slow(&content).await;
    stage.announce_provider("cancel.bin", &provider).await;
    let begun = begin(&own, serde_json::json!({"name": "cancel.bin"})).await;
    eventually("in the middle", async || {
        now(&own, &begun.id).await.verified_bytes > 2 * PIECE as u64
    })
    .await;
    assert_eq!(
        own.send(&Request::new("DELETE", route::download(&begun.id)))
            .await
            .status,
        204
    );
    let cancelled = ended(&own, &begun.id).await;
    assert_eq!(cancelled.state, DownloadState::Cancelled);
    assert!(
        cancelled.verified_bytes < content.len(),
        "the load is too low"
    );
    // It asks for nothing more.
    let received = own.metric("vecino_received_bytes_total").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let later = own.metric("vecino_received_bytes_total").await;
    assert!(
        later <= received + 2 * PIECE as u64,
        "it goes on: {received} to {later}"
    );
    assert!(own.fetched_files().is_empty());
    assert_eq!(now(&own, &begun.id).await.state, DownloadState::Cancelled);

    provider.hurry();
    let next = begin(
        &own,
        serde_json::json!({"name": "cancel.bin", "digest": content.digest}),
    )
    .await;
    assert_eq!(ended(&own, &next.id).await.state, DownloadState::Done);
    own.keeps("cancel.bin", &content).await;
    let bytes = own.metric("vecino_received_bytes_total").await;
    assert_eq!(bytes, content.len(), "verified pieces were fetched again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_download_says_why() {
    let (stage, own, _neighbour) = own_peer().await;
    let nobody = begin(&own, serde_json::json!({"name": "nobody.bin"})).await;
    let nobody = ended(&own, &nobody.id).await;
    assert_eq!(nobody.state, DownloadState::Failed);
    assert_eq!(nobody.error.and_then(|p| p.kind()), Some(Kind::NotFound));
    let (one, two) = (Content::new("1", 10), Content::new("2", 20));
    stage
        .announce(
            "http://127.0.0.1:9",
            &[("two.bin", &one), ("two.bin", &two)],
        )
        .await;
    let ambiguous = begin(&own, serde_json::json!({"name": "two.bin"})).await;
    let error = ended(&own, &ambiguous.id).await.error.unwrap();
    assert_eq!(
        (error.kind(), error.variants.len()),
        (Some(Kind::Ambiguous), 2)
    );
    let alone = stage.peer("alone").start().await;
    let lonely = begin(&alone, serde_json::json!({"name": "x"})).await;
    let error = ended(&alone, &lonely.id).await.error.unwrap();
    assert_eq!(error.kind(), Some(Kind::NoNeighbour));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_kept_is_delivered_all_the_same() {
    let (stage, own, _neighbour) = own_peer().await;
    let (file, below) = (
        Content::new("file", 2 * PIECE),
        Content::new("below", 2 * PIECE + 1),
    );
    let providers = (
        Provider::honest(&file).await,
        Provider::honest(&below).await,
    );
    stage.announce_provider("x", &providers.0).await;
    stage.announce_provider("x/y", &providers.1).await;
    own.downloads("x", &file).await;
    own.keeps("x", &file).await;
    // Its name is below a file: there is no place to keep it, and what was fetched stays a part.
    for _ in 0..3 {
        own.downloads("x/y", &below).await;
    }
    let ranges = providers.1.ranges();
    let fetched: u64 = ranges.iter().map(|range| range.end - range.start).sum();
    assert_eq!(fetched, below.len(), "it was fetched again");
    let begun = begin(&own, serde_json::json!({"name": "x/y"})).await;
    let failed = ended(&own, &begun.id).await;
    assert_eq!(failed.state, DownloadState::Failed);
    let problem = failed.error.unwrap();
    assert!(problem.detail.contains("kept"), "{problem:?}");
    assert_eq!(own.fetched_files().len(), 1);
    own.downloads("x", &file).await;
}
