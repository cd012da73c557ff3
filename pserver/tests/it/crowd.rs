//! A crowd that wants the same at the same time: it feeds itself from the first piece on, whoever
//! dies or lies in it, and everybody has the right bytes in the end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use vecino_grpc::v1::Record;
use vecino_rest::{
    body::{Download, DownloadState, Have},
    route,
};

use crate::support::{
    content::{Content, PIECE},
    eventually,
    fixture::{Reply, Seen},
    http::Request,
    peer::{Door, Peer, Process},
    provider::{Provider, is_for_bytes, is_for_have},
    stage::{Stage, record},
    valve::Valve,
};

const NAME: &str = "crowd.bin";
const PEERS: usize = 4;

/// A seed at the end of a slow way.
async fn seed(stage: &Stage, content: &Content) -> (Valve, Process) {
    let valve = Valve::new().await;
    let plan = stage.peer("seed").set("PUBLIC_URL", valve.url());
    let seed = plan.holding(NAME, &content.bytes).spawn().await;
    valve.lead_to(seed.addr);
    seed.has_announced(1).await;
    (valve, seed)
}

async fn begin(door: &Door) -> String {
    let body = serde_json::json!({ "name": NAME }).to_string();
    let response = door.send(&Request::json(route::DOWNLOADS, body)).await;
    assert_eq!(response.status, 202, "{}", response.text());
    response.json::<Download>().id
}

async fn done(door: &Door, id: &str) {
    eventually("done", async || {
        let download: Download = door.get(route::download(id)).await.json();
        assert!(download.error.is_none(), "{download:?}");
        download.state == DownloadState::Done
    })
    .await;
}

async fn peers(stage: &Stage, neighbour: &Peer) -> Vec<Peer> {
    let plans = (0..PEERS).map(|number| stage.peer(&format!("peer{number}")));
    join_all(plans.map(async |plan| plan.neighbour(neighbour.addr).start().await)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_feeds_itself_from_the_first_piece_on() {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let content = Content::new("a crowd", 48 * PIECE);
    let (_valve, seed) = seed(&stage, &content).await;
    let peers = peers(&stage, &neighbour).await;
    let ids = join_all(peers.iter().map(|peer| begin(peer))).await;
    join_all(peers.iter().zip(&ids).map(|(peer, id)| done(peer, id))).await;
    for peer in &peers {
        peer.keeps(NAME, &content).await;
    }
    // Without each other they would have taken four copies from the seed.
    let sent = seed.metric("vecino_sent_bytes_total").await;
    assert!(sent < 3 * content.len(), "{} copies", sent / content.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_dies_or_lies_in_a_crowd_the_others_have_the_right_bytes() {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let content = Content::new("a crowd with a liar", 48 * PIECE);
    let (_valve, seed) = seed(&stage, &content).await;
    let liar = Provider::bent(&content, |mut reply, seen| {
        if is_for_bytes(seen) {
            let middle = reply.body.len() / 2;
            reply.body[middle] ^= 1;
        }
        reply
    })
    .await;
    stage.announce_provider(NAME, &liar).await;
    let peers = peers(&stage, &neighbour).await;
    let dying = stage.peer("dying").neighbour(neighbour.addr).spawn().await;
    begin(&dying).await;
    let ids = join_all(peers.iter().map(|peer| begin(peer))).await;
    eventually("in the middle", async || {
        dying.metric("vecino_pieces_verified_total").await > 8
    })
    .await;
    dying.kill();
    join_all(peers.iter().zip(&ids).map(|(peer, id)| done(peer, id))).await;
    for peer in &peers {
        peer.keeps(NAME, &content).await;
    }
    drop(seed);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_peer_has_of_a_running_download_is_told_and_sent_and_nothing_else() {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let content = Content::new("on its way", 24 * PIECE);
    let (_valve, _seed) = seed(&stage, &content).await;
    let own = stage.peer("own").neighbour(neighbour.addr).start().await;
    let blob = route::blob(&content.digest);
    assert_eq!(own.get(route::have(&content.digest)).await.status, 404);
    let id = begin(&own).await;
    let have: Have = loop {
        let answer = own.get(route::have(&content.digest)).await;
        if answer.status == 200 {
            break answer.json();
        }
    };
    assert!(!have.whole && have.size == content.len(), "{have:?}");
    let bits = u128::from_str_radix(&have.have, 16).unwrap();
    let has = |piece: usize| bits >> (23 - piece) & 1 == 1;
    for piece in 0..24 {
        let range = piece * PIECE..(piece + 1) * PIECE;
        let header = format!("bytes={}-{}", range.start, range.end - 1);
        let answer = own.send(&Request::get(&blob).with("Range", header)).await;
        if answer.status == 206 {
            assert!(answer.body == content.slice(range.start as u64..range.end as u64));
        } else {
            assert!(!has(piece) && answer.status == 404, "{piece}");
        }
    }
    // A long poll is answered when something changes.
    let since = format!("{}?since={}", route::have(&content.digest), have.version);
    let later: Have = own.get(since).await.json();
    assert!(later.whole || later.version != have.version);
    done(&own, &id).await;
    let whole: Have = own.get(route::have(&content.digest)).await.json();
    assert!(whole.whole && whole.have.is_empty());
}

/// Sends `bytes` of the content and says so.
fn sends(content: &Content, bytes: std::ops::Range<u64>) -> Reply {
    let said = format!("bytes {}-{}/{}", bytes.start, bytes.end - 1, content.len());
    Reply::new("206 Partial Content", content.slice(bytes)).with(format!("Content-Range: {said}"))
}

/// The last piece that a request says would be as welcome as the one that it asks for.
fn last_welcome(seen: &Seen) -> Option<u64> {
    let (first, bits) = seen.header("vecino-welcome")?.split_once(':')?;
    let bits_of = |digit: char| (0..4).map(move |bit| digit.to_digit(16).unwrap() >> (3 - bit) & 1);
    let last = bits.chars().flat_map(bits_of).collect::<Vec<_>>();
    let last = last.iter().rposition(|bit| *bit == 1)? as u64;
    Some(first.parse::<u64>().ok()? + last)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_may_choose_among_the_pieces_that_are_as_welcome() {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let content = Content::new("chosen", 24 * PIECE);
    let held = content.clone();
    let chosen = Arc::new(AtomicUsize::new(0));
    let counted = chosen.clone();
    let provider = Provider::bent(&content, move |reply, seen| match last_welcome(seen) {
        Some(piece) => {
            counted.fetch_add(1, Ordering::Relaxed);
            let start = piece * PIECE as u64;
            sends(&held, start..start + PIECE as u64)
        }
        None => reply,
    })
    .await;
    stage.announce_provider(NAME, &provider).await;
    let own = stage.peer("own").neighbour(neighbour.addr).start().await;
    let id = begin(&own).await;
    done(&own, &id).await;
    own.keeps(NAME, &content).await;
    assert!(
        chosen.load(Ordering::Relaxed) > 0,
        "nothing else was welcome"
    );
    assert_eq!(own.metric("vecino_pieces_verified_total").await, 24);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_chooses_what_nobody_wanted_is_left() {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let content = Content::new("badly chosen", 24 * PIECE);
    let held = content.clone();
    let liar = Provider::bent(&content, move |reply, seen| {
        if is_for_bytes(seen) && seen.header("vecino-welcome").is_some() {
            sends(&held, 1..PIECE as u64 + 1)
        } else {
            reply
        }
    })
    .await;
    stage.announce_provider(NAME, &liar).await;
    let own = stage.peer("own").neighbour(neighbour.addr).start().await;
    let id = begin(&own).await;
    eventually("left", async || {
        let download: Download = own.get(route::download(&id)).await.json();
        let error = download.error.map(|error| error.detail);
        error.is_some_and(|detail| detail.contains("which nobody wanted"))
    })
    .await;
}

/// Sends a byte now and then, as somebody would who wants to hold others up.
fn trickles(mut reply: Reply) -> Reply {
    reply.pace = Some((1, Duration::from_secs(2)));
    reply
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_slow_keeps_nobody_from_asking_the_others() {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let content = Content::new("held up", 64 * PIECE);
    let slow = async || {
        let bend = |reply, seen: &Seen| match is_for_bytes(seen) {
            true => trickles(reply),
            false => reply,
        };
        let provider = Provider::bent(&content, bend).await;
        stage.announce_provider(NAME, &provider).await;
        provider
    };
    let _slow = [slow().await, slow().await, slow().await];
    let fast = Provider::honest(&content).await;
    stage.announce_provider(NAME, &fast).await;
    let own = stage.peer("own").neighbour(neighbour.addr).start().await;
    let id = begin(&own).await;
    done(&own, &id).await;
    own.keeps(NAME, &content).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_to_have_every_piece_and_sends_none_keeps_nobody_from_asking_the_seed() {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let content = Content::new("promised", 64 * PIECE);
    let promised = content.clone();
    let liar = Provider::bent(&content, move |reply, seen| {
        if is_for_have(seen) {
            return Reply::json(&Have {
                version: 1,
                size: promised.len(),
                whole: false,
                have: "f".repeat(16),
                coming: String::new(),
            });
        }
        match is_for_bytes(seen) {
            true => trickles(reply),
            false => reply,
        }
    })
    .await;
    let said = Record {
        partial: true,
        ..record(NAME, &content, content.len())
    };
    stage
        .announce_records(&liar.fixture.url(), vec![said])
        .await;
    let (_valve, _seed) = seed(&stage, &content).await;
    let own = stage.peer("own").neighbour(neighbour.addr).start().await;
    let id = begin(&own).await;
    done(&own, &id).await;
    own.keeps(NAME, &content).await;
    assert!(!liar.ranges().is_empty(), "it was never asked");
}
