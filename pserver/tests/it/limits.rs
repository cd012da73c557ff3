//! `UPLOAD_LIMIT` and `DOWNLOAD_LIMIT`: bytes go no faster than they say, all transfers together.

use std::time::{Duration, Instant};

use vecino_rest::route;

use crate::support::{content::Content, provider::Provider, stage::Stage};

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn two_uploads_share_the_limit() {
    let stage = Stage::start().await;
    let content = Content::new("uploaded", MIB / 2);
    let plan = stage.peer("provider").set("UPLOAD_LIMIT", "512K");
    let provider = plan.holding("a", &content.bytes).start().await;
    let began = Instant::now();
    let path = route::blob(&content.digest);
    let (first, second) = tokio::join!(provider.get(&path), provider.download("a"));
    // 1 MiB; a tenth of a second of it may go at once.
    assert!(began.elapsed() >= Duration::from_millis(1800));
    for response in [first, second] {
        assert!(response.whole && *response.body == *content.bytes);
    }
    // What is no content is not held up.
    let began = Instant::now();
    provider.files().await;
    assert!(began.elapsed() < Duration::from_millis(1800));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_downloads_share_the_limit() {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let plan = stage.peer("own").neighbour(neighbour.addr);
    let own = plan.set("DOWNLOAD_LIMIT", "1M").start().await;
    let contents = ["first", "second"].map(|seed| Content::new(seed, MIB));
    let mut providers = Vec::new();
    for (name, content) in ["a", "b"].iter().zip(&contents) {
        let provider = Provider::honest(content).await;
        stage.announce_provider(name, &provider).await;
        providers.push(provider);
    }
    let began = Instant::now();
    tokio::join!(
        own.downloads("a", &contents[0]),
        own.downloads("b", &contents[1])
    );
    assert!(began.elapsed() >= Duration::from_millis(1800));
}
