//! What dies in the middle: the own peer, a provider, the locator. A running download goes on
//! from the next provider, a broken one from what was verified, and nothing unfinished shows.

use std::{fs, ops::Range, path::Path};

use vecino_rest::{Kind, body::FileEntry, body::Located, body::Page};

use crate::support::{
    content::{Content, PIECE},
    eventually,
    fixture::Ending,
    http::Request,
    neighbour::{telling, variant},
    peer::path_of,
    provider::{Provider, is_for_bytes, once},
    stage::Stage,
    valve::Valve,
};

/// What a file of the content's part is called.
pub(crate) fn part_file(content: &Content, extension: &str) -> String {
    format!("{}.{}.{extension}", content.digest, content.len())
}

/// The pieces that a part says are verified.
pub(crate) fn verified(parts: &Path, content: &Content) -> Vec<bool> {
    let have = fs::read(parts.join(part_file(content, "have"))).expect("a part");
    let flags = &have[have.len() - content.pieces.len()..];
    flags.iter().map(|&flag| flag == 1).collect()
}

/// How many bytes of the pieces in `verified` were asked for.
pub(crate) fn asked_again(ranges: &[Range<u64>], verified: &[bool]) -> u64 {
    let pieces = (0_u64..).zip(verified).filter(|(_, verified)| **verified);
    pieces
        .map(|(piece, _)| piece * PIECE as u64..(piece + 1) * PIECE as u64)
        .flat_map(|piece| {
            ranges.iter().map(move |range| {
                let end = range.end.min(piece.end);
                end.saturating_sub(range.start.max(piece.start))
            })
        })
        .sum()
}

/// 24 pieces.
const SIZE: usize = 23 * PIECE + 777;

#[tokio::test(flavor = "multi_thread")]
async fn after_kill_9_of_the_own_peer_the_next_download_goes_on_from_what_was_verified() {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let plan = stage.peer("own").neighbour(neighbour.addr);
    let content = Content::new("kill the own peer", SIZE);
    let provider = Provider::slow(&content).await;
    stage.announce_provider("a/big.iso", &provider).await;

    let own = plan.spawn().await;
    let mut answer = Request::get(path_of("a/big.iso")).open(own.addr).await;
    assert!(answer.read_up_to(3 * PIECE).await >= 3 * PIECE);
    // In the middle: nothing shows, neither to clients nor in the directory.
    assert!(own.files().await.is_empty());
    assert!(own.fetched_files().is_empty());
    let parts = own.parts();
    own.kill();
    let response = answer.whole().await;
    assert!(!response.whole, "the load before the fault was too low");
    assert!(content.bytes.starts_with(&response.body));

    let before = verified(&parts, &content);
    let count = before.iter().filter(|verified| **verified).count();
    assert!((3..20).contains(&count), "{count} pieces before the fault");
    provider.fixture.forget();
    provider.hurry();
    let own = plan.spawn().await;
    assert!(own.files().await.is_empty());
    assert!(own.fetched_files().is_empty());
    assert_eq!(own.download("missing").await.status, 404);
    own.downloads("a/big.iso", &content).await;
    own.keeps("a/big.iso", &content).await;
    assert_eq!(asked_again(&provider.ranges(), &before), 0);
    let asked: u64 = provider.ranges().iter().map(|r| r.end - r.start).sum();
    assert!(asked < (SIZE - (count - 1) * PIECE) as u64);
    eventually("disposed of", async || {
        fs::read_dir(&parts).unwrap().count() == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_wrong_under_a_set_piece_is_fetched_again() {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let plan = stage.peer("own").neighbour(neighbour.addr);
    let content = Content::new("a lost page", SIZE);
    let provider = Provider::slow(&content).await;
    stage.announce_provider("big.iso", &provider).await;
    let own = plan.spawn().await;
    let mut answer = Request::get(path_of("big.iso")).open(own.addr).await;
    answer.read_up_to(3 * PIECE).await;
    let parts = own.parts();
    own.kill();
    let mut before = verified(&parts, &content);
    assert!(before[..3].iter().all(|verified| *verified));
    // The disk kept the flag of piece 2 and not its bytes.
    let part = parts.join(part_file(&content, "part"));
    let mut bytes = fs::read(&part).unwrap();
    bytes[2 * PIECE + 500] ^= 1;
    fs::write(&part, bytes).unwrap();
    before[2] = false;
    provider.fixture.forget();
    provider.hurry();
    let own = plan.spawn().await;
    own.downloads("big.iso", &content).await;
    assert_eq!(asked_again(&provider.ranges(), &before), 0);
    let piece_2 = 2 * PIECE as u64..3 * PIECE as u64;
    assert!(
        provider.ranges().contains(&piece_2),
        "{:?}",
        provider.ranges()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_state_of_a_download_is_begun_again() {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let own = stage.peer("own").neighbour(neighbour.addr).start().await;
    for (number, spoil) in [0, 7, 8, 12, 16, 40, usize::MAX].into_iter().enumerate() {
        let content = Content::new(&format!("spoilt {spoil}"), 3 * PIECE);
        let name = format!("{number}.bin");
        let flaky = Provider::bent(&content, |reply, seen| {
            if is_for_bytes(seen) {
                reply.ending_after(PIECE + 5, Ending::Cut)
            } else {
                reply
            }
        })
        .await;
        stage.announce_provider(&name, &flaky).await;
        let request = Request::get(path_of(&name)).with("Range", "bytes=0-9");
        assert_eq!(own.send(&request).await.body, content.slice(0..10));
        let have = own.parts().join(part_file(&content, "have"));
        eventually("a part", async || have.exists()).await;
        let good = Provider::honest(&content).await;
        stage.announce_provider(&name, &good).await;
        // The job lingers for readers that seek; another process would find what is on disk.
        let next = stage
            .peer(&format!("next{number}"))
            .neighbour(neighbour.addr);
        let there = next.home().join("data/parts");
        fs::create_dir_all(&there).unwrap();
        for extension in ["have", "part"] {
            let file = part_file(&content, extension);
            fs::copy(own.parts().join(&file), there.join(&file)).unwrap();
        }
        let have = there.join(part_file(&content, "have"));
        let mut bytes = fs::read(&have).unwrap();
        match bytes.get_mut(spoil) {
            Some(byte) => *byte ^= 0x55,
            None => bytes.truncate(20),
        }
        fs::write(&have, bytes).unwrap();
        let next = next.start().await;
        next.downloads(&name, &content).await;
        next.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_kill_9_of_a_provider_in_mid_stream_the_response_is_whole_and_right() {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let own = stage.peer("own").neighbour(neighbour.addr).start().await;
    let content = Content::new("kill a provider", 4 * SIZE);
    let mut providers = Vec::new();
    for label in ["first", "second"] {
        // Slow ways to fast peers.
        let valve = Valve::new().await;
        let plan = stage.peer(label).set("PUBLIC_URL", valve.url());
        let provider = plan.holding("big.iso", &content.bytes).spawn().await;
        valve.lead_to(provider.addr);
        provider.has_announced(1).await;
        providers.push((valve, provider));
    }
    let mut answer = Request::get(path_of("big.iso")).open(own.addr).await;
    assert_eq!(answer.status, 200);
    assert!(
        answer.read_up_to(3 * PIECE).await < SIZE,
        "the load is too low"
    );
    let source = answer.header("vecino-source").unwrap().to_owned();
    let at = providers
        .iter()
        .position(|(valve, _)| valve.url() == source);
    let (_valve, victim) = providers.swap_remove(at.expect("one of the two"));
    victim.kill();
    let response = answer.whole().await;
    assert!(
        response.whole,
        "broke off after {} bytes",
        response.body.len()
    );
    assert!(*response.body == *content.bytes);
    assert_eq!(own.metric("vecino_verification_failures_total").await, 0);
    assert!(own.metric("vecino_provider_switches_total").await > 0);
    // Nothing was fetched twice.
    assert_eq!(
        own.metric("vecino_received_bytes_total").await,
        content.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_cut_in_mid_stream_costs_what_was_not_verified_and_no_more() {
    let content = Content::new("cut", SIZE);
    let cutting = Provider::bent(&content, |reply, seen| {
        if is_for_bytes(seen) {
            reply.ending_after(5 * PIECE + 17, Ending::Cut)
        } else {
            reply
        }
    })
    .await;
    let good = Provider::honest(&content).await;
    let urls = [cutting.fixture.url(), good.fixture.url()];
    let neighbour = telling(vec![variant("cut.bin", &content, &urls)]).await;
    let stage = Stage::start().await;
    let own = stage.peer("own").neighbour(neighbour.addr).start().await;
    own.downloads("cut.bin", &content).await;
    // What it delivered whole before each cut, and from the other one all the rest.
    let piece = PIECE as u64;
    let delivered = cutting.ranges().into_iter().map(|range| {
        let pieces = (range.end - range.start).div_ceil(piece);
        let end = if pieces > 5 {
            range.start + 5 * piece
        } else {
            range.end
        };
        range.start..end
    });
    let all = delivered.chain(good.ranges()).collect();
    assert_eq!(once(all), [0..SIZE as u64]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_delivers_a_little_each_time_gets_there() {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let own = stage.peer("own").neighbour(neighbour.addr).start().await;
    let content = Content::new("a little", 8 * PIECE);
    let weak = Provider::bent(&content, |reply, seen| {
        if is_for_bytes(seen) {
            reply.ending_after(PIECE + 9, Ending::Cut)
        } else {
            reply
        }
    })
    .await;
    stage.announce_provider("weak.bin", &weak).await;
    own.downloads("weak.bin", &content).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_locator_a_peer_serves_what_it_holds_and_comes_back_with_it() {
    let mut stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let own = stage.peer("own").neighbour(neighbour.addr).start().await;
    let (mine, theirs) = (Content::new("mine", 5000), Content::new("theirs", 6000));
    own.shares("mine.bin", &mine).await;
    neighbour.shares("theirs.bin", &theirs).await;
    neighbour.has_announced(1).await;
    own.downloads("theirs.bin", &theirs).await;
    own.keeps("theirs.bin", &theirs).await;

    stage.stop_locator().await;
    for peer in [&own, &neighbour] {
        eventually("offline", async || !peer.status().await.online).await;
    }
    own.downloads("mine.bin", &mine).await;
    own.downloads("theirs.bin", &theirs).await;
    let digest = theirs.digest;
    assert_eq!(
        neighbour.get(format!("/v1/blobs/{digest}")).await.body,
        *theirs.bytes
    );
    for path in [
        "/v1/files/else.bin",
        "/v1/locate/else.bin",
        "/v1/search?q=else",
    ] {
        let response = own.get(path).await;
        assert_eq!(
            (response.status, response.kind()),
            (503, Kind::LookupFailed),
            "{path}"
        );
        assert!(response.header("retry-after").is_some());
    }
    let body = r#"{"body":["else.bin"]}"#;
    assert_eq!(own.send(&Request::json("/connect", body)).await.status, 503);
    let page: Page<FileEntry> = own.get("/v1/files").await.json();
    assert_eq!(page.items.len(), 2);
    assert_eq!(own.get("/readyz").await.status, 503);

    // An empty locator on the same address: the peers make themselves known again.
    stage.start_locator().await;
    own.ready().await;
    neighbour.ready().await;
    own.has_announced(2).await;
    neighbour.has_announced(1).await;
    eventually("located again", async || {
        let response = own.get("/v1/locate/mine.bin").await;
        response.status == 200 && response.json::<Located>().variants.len() == 1
    })
    .await;
    // What came while the locator was away is announced as well.
    let new = Content::new("new", 100);
    own.shares("new.bin", &new).await;
    eventually("located", async || {
        own.get("/v1/locate/new.bin").await.status == 200
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_goes_on_without_the_neighbour_and_the_locator() {
    let mut stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let own = stage.peer("own").neighbour(neighbour.addr).start().await;
    let content = Content::new("alone", SIZE);
    let provider = Provider::slow(&content).await;
    stage.announce_provider("big.iso", &provider).await;
    let mut answer = Request::get(path_of("big.iso")).open(own.addr).await;
    assert!(answer.read_up_to(PIECE).await < SIZE / 2);
    neighbour.stop().await;
    stage.stop_locator().await;
    provider.hurry();
    let response = answer.whole().await;
    assert!(response.whole && *response.body == *content.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_stops_the_fetching_and_what_was_verified_stays() {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let own = stage.peer("own").neighbour(neighbour.addr).start().await;
    let content = Content::new("left", SIZE);
    let provider = Provider::slow(&content).await;
    stage.announce_provider("big.iso", &provider).await;
    let mut answer = Request::get(path_of("big.iso")).open(own.addr).await;
    answer.read_up_to(3 * PIECE).await;
    drop(answer);
    eventually("not sending", async || {
        own.metric("vecino_uploads").await == 0
    })
    .await;
    let received = own.metric("vecino_received_bytes_total").await;
    assert!(received < content.len() * 3 / 4, "{received}");
    let before = verified(&own.parts(), &content);
    provider.fixture.forget();
    provider.hurry();
    own.downloads("big.iso", &content).await;
    assert_eq!(asked_again(&provider.ranges(), &before), 0);
}
