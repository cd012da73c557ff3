//! `/v1/downloads` across restarts: records stay under their ids, and what ran runs on from what
//! was verified.

use std::{fs, time::Duration};

use vecino_rest::{
    Digest,
    body::{Download, DownloadState, Page},
    route,
};

use crate::{
    crashes::{asked_again, part_file, verified},
    support::{
        content::{Content, PIECE},
        eventually,
        http::Request,
        neighbour::{telling, variant},
        peer::Door,
        provider::{Provider, is_for_bytes},
        stage::Stage,
        valve::Valve,
    },
};

/// 24 pieces.
const SIZE: usize = 23 * PIECE + 777;

async fn begin(own: &Door, body: &str) -> String {
    let begun = own.send(&Request::json(route::DOWNLOADS, body)).await;
    assert_eq!(begun.status, 202, "{}", begun.text());
    begun.json::<Download>().id
}

async fn record(own: &Door, id: &str) -> Download {
    own.get(route::download(id)).await.json()
}

fn is_over(download: &Download) -> bool {
    !matches!(
        download.state,
        DownloadState::Locating | DownloadState::Running
    )
}

/// Waits until it ended; answers how.
async fn ended(own: &Door, id: &str) -> Download {
    eventually("over", async || is_over(&record(own, id).await)).await;
    record(own, id).await
}

/// Waits until `count` pieces are verified.
async fn has_verified(own: &Door, id: &str, count: usize) {
    eventually("under way", async || {
        record(own, id).await.verified_bytes >= (count * PIECE) as u64
    })
    .await;
    let download = record(own, id).await;
    assert_eq!(
        download.state,
        DownloadState::Running,
        "the load before the fault was too low"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn after_kill_9_a_download_runs_on_under_its_id() {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let plan = stage.peer("own").neighbour(neighbour.addr);
    let content = Content::new("kill a download", SIZE);
    let provider = Provider::slow(&content).await;
    stage.announce_provider("big.iso", &provider).await;

    let own = plan.spawn().await;
    let id = begin(&own, r#"{"name":"big.iso"}"#).await;
    has_verified(&own, &id, 5).await;
    let parts = own.parts();
    own.kill();
    let before = verified(&parts, &content);
    provider.fixture.forget();
    provider.hurry();

    let own = plan.spawn().await;
    let end = ended(&own, &id).await;
    assert_eq!(end.state, DownloadState::Done, "{:?}", end.error);
    assert_eq!(end.digest, Some(content.digest));
    assert_eq!(end.verified_bytes, content.len());
    own.keeps("big.iso", &content).await;
    assert_eq!(asked_again(&provider.ranges(), &before), 0);
    let page: Page<Download> = own.get(route::DOWNLOADS).await.json();
    assert_eq!(page.items.len(), 1);
    // And it is over: another restart fetches nothing.
    own.kill();
    provider.fixture.forget();
    let own = plan.spawn().await;
    assert_eq!(record(&own, &id).await.state, DownloadState::Done);
    assert!(provider.ranges().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_is_known_after_kill_9_at_once() {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let plan = stage.peer("own").neighbour(neighbour.addr);
    let content = Content::new("accepted", SIZE);
    let provider = Provider::slow(&content).await;
    stage.announce_provider("big.iso", &provider).await;
    let own = plan.spawn().await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(begin(&own, r#"{"name":"big.iso"}"#).await);
    }
    own.kill();
    provider.hurry();
    let own = plan.spawn().await;
    for id in ids {
        assert_eq!(ended(&own, &id).await.state, DownloadState::Done);
    }
}

/// A provider so slow that a download takes many kills.
async fn slow(content: &Content) -> Provider {
    Provider::bent(content, |mut reply, seen| {
        if is_for_bytes(seen) {
            reply.pace = Some((PIECE / 4, Duration::from_millis(20)));
        }
        reply
    })
    .await
}

/// Kills of either side, as many.
const KILLS: usize = 50;

#[tokio::test(flavor = "multi_thread")]
async fn fifty_kills_of_either_side_cost_no_byte_and_no_piece_twice() {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let plan = stage.peer("own").neighbour(neighbour.addr);
    let mut own = plan.spawn().await;
    let mut kills = 0;
    for round in 0.. {
        if kills >= KILLS {
            break;
        }
        let content = Content::new(&format!("kills {round}"), SIZE);
        let name = format!("{round}.bin");
        let watched = slow(&content).await;
        stage.announce_provider(&name, &watched).await;
        let valve = Valve::new().await;
        let mortal = stage.peer(&format!("mortal{round}"));
        let mortal = mortal.set("PUBLIC_URL", valve.url());
        let mortal = mortal.holding(&name, &content.bytes);
        let mut provider = mortal.spawn().await;
        valve.lead_to(provider.addr);
        provider.has_announced(1).await;

        let id = begin(&own, &format!(r#"{{"name":"{name}"}}"#)).await;
        let mut before = vec![false; content.pieces.len()];
        let mut pieces = 0;
        loop {
            pieces += rand::random_range(1..4);
            eventually("going on", async || {
                let download = record(&own, &id).await;
                is_over(&download) || download.verified_bytes >= (pieces * PIECE) as u64
            })
            .await;
            if is_over(&record(&own, &id).await) {
                break;
            }
            kills += 1;
            if rand::random() {
                provider.kill();
                provider = mortal.spawn().await;
                valve.lead_to(provider.addr);
                continue;
            }
            let parts = own.parts();
            own.kill();
            assert_eq!(asked_again(&watched.ranges(), &before), 0);
            watched.fixture.forget();
            if parts.join(part_file(&content, "have")).exists() {
                before = verified(&parts, &content);
            }
            own = plan.spawn().await;
        }
        let end = ended(&own, &id).await;
        assert_eq!(end.state, DownloadState::Done, "{:?}", end.error);
        assert_eq!(asked_again(&watched.ranges(), &before), 0);
        own.keeps(&name, &content).await;
        own.downloads(&name, &content).await;
        assert_eq!(own.metric("vecino_verification_failures_total").await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_waits_for_a_neighbour_that_restarts_as_well() {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let plan = stage.peer("own").neighbour(neighbour.addr);
    let content = Content::new("stop a download", SIZE);
    let provider = Provider::slow(&content).await;
    stage.announce_provider("big.iso", &provider).await;
    let own = plan.start().await;
    let id = begin(&own, r#"{"name":"big.iso"}"#).await;
    has_verified(&own, &id, 2).await;
    let before = verified(&own.parts(), &content);
    own.stop().await;
    let port = neighbour.addr.port();
    neighbour.stop().await;

    let own = plan.start().await;
    let waits = record(&own, &id).await;
    assert_eq!(waits.state, DownloadState::Locating, "{:?}", waits.error);
    provider.fixture.forget();
    provider.hurry();
    let _neighbour = stage.peer("neighbour").set("PORT", port).start().await;
    let end = ended(&own, &id).await;
    assert_eq!(end.state, DownloadState::Done, "{:?}", end.error);
    assert_eq!(asked_again(&provider.ranges(), &before), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn how_downloads_ended_is_known_after_a_restart() {
    let stage = Stage::start().await;
    let content = Content::new("ended", 3 * PIECE);
    let provider = Provider::honest(&content).await;
    let hanging = Provider::slow(&Content::new("hanging", SIZE)).await;
    let neighbour = telling(vec![
        variant("done", &content, &[provider.fixture.url()]),
        variant("hanging", &hanging.content, &[hanging.fixture.url()]),
    ])
    .await;
    let plan = stage.peer("own").neighbour(neighbour.addr);
    let own = plan.spawn().await;
    let done = begin(&own, r#"{"name":"done"}"#).await;
    let failed = Digest::of(b"nobody's");
    let failed = begin(&own, &format!(r#"{{"name":"done","digest":"{failed}"}}"#)).await;
    let cancelled = begin(&own, r#"{"name":"hanging"}"#).await;
    has_verified(&own, &cancelled, 1).await;
    let delete = Request::new("DELETE", route::download(&cancelled));
    assert_eq!(own.send(&delete).await.status, 204);
    let mut before = Vec::new();
    for id in [&done, &failed, &cancelled] {
        before.push(ended(&own, id).await);
    }
    eventually("written", async || {
        let text = fs::read_to_string(own.parts().with_file_name("downloads.json"));
        text.is_ok_and(|text| text.contains("\"cancelled\"") && text.contains("\"failed\""))
    })
    .await;
    own.kill();
    let own = plan.spawn().await;
    let after: Page<Download> = own.get(route::DOWNLOADS).await.json();
    let states: Vec<_> = after.items.iter().map(|download| download.state).collect();
    use DownloadState::{Cancelled, Done, Failed};
    assert_eq!(states, [Done, Failed, Cancelled]);
    assert_eq!(after.items[..2], before[..2]);
    assert_eq!(begin(&own, r#"{"name":"done"}"#).await, "4");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_cannot_be_read_are_put_aside() {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").holding("a", b"a").start().await;
    neighbour.has_announced(1).await;
    let plan = stage.peer("own").neighbour(neighbour.addr);
    let path = plan.home().join("data/downloads.json");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, r#"{"last_id": 3, "records": [{"downl"#).unwrap();
    let own = plan.start().await;
    let page: Page<Download> = own.get(route::DOWNLOADS).await.json();
    assert!(page.items.is_empty());
    let aside = fs::read_to_string(path.with_extension("json.broken")).unwrap();
    assert!(aside.ends_with("downl"));
    let id = begin(&own, r#"{"name":"a"}"#).await;
    assert_eq!(ended(&own, &id).await.state, DownloadState::Done);
}
