//! Copies on other peers: placed through the neighbour, pushed, verified before they count.

use std::{fs, sync::Arc};

use futures_util::future::join_all;
use tokio::{io::AsyncWriteExt, net::TcpStream};
use vecino_grpc::v1::{self, directory_client::DirectoryClient};
use vecino_rest::{
    Kind,
    body::{Located, Origin, Pieces, Placed, Stored},
    route,
};

use crate::support::{
    content::{Content, PIECE},
    eventually,
    fixture::{Fixture, Reply},
    http::{Request, Response},
    peer::{Door, Peer, files_below, path_of},
    stage::Stage,
};

/// A peer at `url`, as the locator knows it, with more room than any real one.
async fn register(stage: &Stage, url: &str) {
    let mut client = DirectoryClient::connect(format!("http://{}", stage.locator_addr))
        .await
        .unwrap();
    let key: [u8; 32] = rand::random();
    let registration = v1::RegisterRequest {
        peer_key: key.to_vec().into(),
        public_url: url.to_owned(),
        free_bytes: 1 << 60,
        ..Default::default()
    };
    client.register(registration).await.unwrap();
}

/// Shares `content` and has `copies` further peers hold it: who does, the own peer first.
async fn put(peer: &Door, name: &str, content: &Content, copies: usize) -> Vec<String> {
    let target = format!("{}?replicas={copies}", path_of(name));
    let request = Request::new("PUT", target).body(&*content.bytes);
    let response = peer.send(&request).await;
    assert!(matches!(response.status, 200 | 201), "{}", response.text());
    let stored: Stored = response.json();
    assert_eq!(stored.digest, content.digest);
    assert_eq!(stored.holders[0], peer.url());
    stored.holders
}

fn blob(content: &Content, name: &str) -> Request {
    Request::new(
        "PUT",
        format!("{}?name={name}", route::blob(&content.digest)),
    )
}

fn assert_holds(peer: &Door, name: &str, content: &Content) {
    let kept = fs::read(peer.fetched(name)).expect("it is there");
    assert!(*kept == *content.bytes, "{name} is kept wrong");
}

/// A neighbour, and a peer that asks it.
async fn asker(stage: &Stage) -> (Peer, Peer) {
    let neighbour = stage.peer("neighbour").start().await;
    let own = stage.peer("own").neighbour(neighbour.addr).start().await;
    (neighbour, own)
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_copies_as_wanted_land_byte_for_byte_and_are_announced() {
    let stage = Stage::start().await;
    let (neighbour, own) = asker(&stage).await;
    let mut others = vec![neighbour];
    for label in ["b", "c", "d"] {
        others.push(stage.peer(label).start().await);
    }
    let content = Content::new("copies", 3 * PIECE + 5);
    let holders = put(&own, "a folder/ä b.bin", &content, 3).await;
    assert_eq!(holders.len(), 4, "{holders:?}");
    let (with, without): (Vec<_>, Vec<_>) = others
        .iter()
        .partition(|other| holders.contains(&other.url()));
    assert_eq!((with.len(), without.len()), (3, 1));
    for peer in with {
        assert_holds(peer, "a folder/ä b.bin", &content);
        let held = peer.files().await;
        assert_eq!((held.len(), held[0].origin), (1, Origin::Fetched));
        let pieces: Pieces = peer.get(route::pieces(&content.digest)).await.json();
        assert_eq!(pieces.pieces, content.pieces);
        assert!(files_below(&peer.parts()).is_empty());
    }
    assert!(without[0].files().await.is_empty());
    eventually("all are found", async || {
        let target = route::locate(&"a folder/ä b.bin".parse().unwrap());
        let located = own.get(target).await;
        located.status == 200 && {
            let located: Located = located.json();
            located.variants[0].provider_count == 4
        }
    })
    .await;
    // Again: nothing is sent, and those that hold it count.
    let sent = own.metric("vecino_sent_bytes_total").await;
    assert_eq!(sent, 3 * content.len());
    for count in [1, 2, 3, 3, 2, 1] {
        let again = put(&own, "a folder/ä b.bin", &content, count).await;
        assert_eq!(again.len(), count + 1, "{again:?}");
        assert!(again.iter().all(|one| holders.contains(one)), "{again:?}");
    }
    let more = put(&own, "a folder/ä b.bin", &content, 4).await;
    assert_eq!(more.len(), 5, "{more:?}");
    let sent = own.metric("vecino_sent_bytes_total").await;
    assert_eq!(sent, 4 * content.len(), "to the one without it alone");
    let none = put(&own, "empty", &Content::of(*b""), 1).await;
    assert_eq!(none.len(), 2, "{none:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn fewer_peers_than_copies_are_no_error() {
    let stage = Stage::start().await;
    let (neighbour, own) = asker(&stage).await;
    let content = Content::new("few", 5_000);
    let holders = put(&own, "few.bin", &content, 16).await;
    assert_eq!(holders, [own.url(), neighbour.url()]);
    let lonely = stage.peer("lonely").start().await;
    assert_eq!(put(&lonely, "few.bin", &content, 2).await, [lonely.url()]);
    let target = format!("{}?replicas=17", path_of("x"));
    let refused = own.send(&Request::new("PUT", target).body("x")).await;
    assert_eq!((refused.status, refused.kind()), (400, Kind::BadRequest));
    for wrong in ["x", "-1", ""] {
        let target = format!("{}?replicas={wrong}", path_of("x"));
        let refused = own.send(&Request::new("PUT", target).body("x")).await;
        assert_eq!((refused.status, refused.kind()), (400, Kind::BadRequest));
        let told = refused.text();
        assert!(told.contains("expected 0 to 16"), "{told}");
    }
    // Without replicas= nothing is asked and nothing sent.
    let alone: Stored = own.put("alone.bin", b"alone").await.json();
    assert_eq!(alone.holders, [own.url()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn candidates_that_are_dead_refuse_or_lie_are_passed_over() {
    let stage = Stage::start().await;
    let (neighbour, own) = asker(&stage).await;
    let other = stage.peer("other").start().await;
    let refusing = |seen: &crate::support::fixture::Seen| match seen.header("content-length") {
        Some(_) => Reply::new("507 Insufficient Storage", ""),
        None => Reply::new("404 Not Found", ""),
    };
    let refusing = Fixture::start(Arc::new(refusing)).await;
    let lie = Content::new("a lie", 10);
    let lying = Fixture::start(Arc::new(
        move |seen: &crate::support::fixture::Seen| match seen.header("content-length") {
            Some(_) => Reply::json(&Stored {
                name: "x".parse().unwrap(),
                digest: lie.digest,
                size: 10,
                holders: Vec::new(),
            }),
            // Something else is there than what it was asked for.
            None => Reply::new("200 OK", "").with(format!("ETag: {}", lie.tag())),
        },
    ))
    .await;
    for url in ["http://127.0.0.1:1", "http://[::1]:1"] {
        register(&stage, url).await;
    }
    register(&stage, &refusing.url()).await;
    register(&stage, &lying.url()).await;
    let content = Content::new("passed over", 2 * PIECE);
    let holders = put(&own, "x.bin", &content, 3).await;
    let mut expected = vec![neighbour.url(), other.url()];
    expected.sort();
    let mut copies = holders[1..].to_vec();
    copies.sort();
    assert_eq!(copies, expected);
    assert_holds(&neighbour, "x.bin", &content);
    assert_holds(&other, "x.bin", &content);
    for fixture in [refusing, lying] {
        let seen = fixture.seen();
        assert_eq!(seen.len(), 2, "asked, then sent");
        assert!(*seen[1].body == *content.bytes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_of_another_site_goes_first() {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").set("SITE", "east").start().await;
    let own = stage.peer("own").set("SITE", "east");
    let own = own.neighbour(neighbour.addr).start().await;
    let far = stage.peer("far").set("SITE", "west").start().await;
    for number in 0..6 {
        let content = Content::new(&format!("site {number}"), 100);
        let holders = put(&own, &format!("{number}"), &content, 1).await;
        assert_eq!(holders, [own.url(), far.url()]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_has_it_says_so_at_once() {
    let stage = Stage::start().await;
    let (neighbour, own) = asker(&stage).await;
    let content = Content::new("there", 2 * PIECE);
    neighbour.shares("there.bin", &content).await;
    let holders = put(&own, "there.bin", &content, 1).await;
    assert_eq!(holders, [own.url(), neighbour.url()]);
    assert_eq!(own.metric("vecino_sent_bytes_total").await, 0);
    // Even without a byte of the body.
    let length = content.len().to_string();
    let request = blob(&content, "there.bin").with("Content-Length", length);
    let response = request.send(neighbour.addr).await;
    assert_eq!(response.status, 200);
    let stored: Stored = response.json();
    assert_eq!(stored.holders, [neighbour.url()]);
    assert!(neighbour.fetched_files().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_has_it_under_another_name_keeps_it_under_this_one_too() {
    let stage = Stage::start().await;
    let (neighbour, own) = asker(&stage).await;
    for (label, size) in [("large", 3 * PIECE + 7), ("small", 9), ("empty", 0)] {
        let content = Content::new(label, size);
        let names = [format!("{label}/one.bin"), format!("{label}/two.bin")];
        neighbour.shares(&names[0], &content).await;
        let holders = put(&own, &names[1], &content, 1).await;
        assert_eq!(holders, [own.url(), neighbour.url()]);
        assert_holds(&neighbour, &names[1], &content);
        let held = neighbour.files().await;
        let held = held.iter().filter(|file| file.digest == content.digest);
        let held: Vec<_> = held.map(|file| file.name.to_string()).collect();
        assert_eq!(held, names);
    }
    assert_eq!(own.metric("vecino_sent_bytes_total").await, 0);
    assert!(files_below(&neighbour.parts()).is_empty());
    // Its place may be taken: then it is kept beside that, once.
    let content = Content::new("small", 9);
    fs::write(neighbour.fetched("small/three.bin"), "the user's").unwrap();
    let before = neighbour.fetched_files().len();
    for _ in 0..2 {
        put(&own, "small/three.bin", &content, 1).await;
        assert_eq!(neighbour.fetched_files().len(), before + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_keeps_nothing_takes_no_second_name() {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").set("KEEP", "never").start().await;
    let content = Content::new("shared", 100);
    neighbour.shares("one.bin", &content).await;
    let refused = neighbour.send(&blob(&content, "two.bin").body("")).await;
    assert_eq!((refused.status, refused.kind()), (409, Kind::NotKept));
    assert!(neighbour.fetched_files().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_contents_come_in_under_several_names_at_once() {
    let stage = Stage::start().await;
    let peer = stage.peer("peer").start().await;
    let content = Content::new("equal", 1_000);
    let mut sockets = Vec::new();
    for name in ["a.bin", "b.bin", "c.bin"] {
        let request = blob(&content, name).body(&*content.bytes);
        let bytes = request.bytes(peer.addr);
        let mut socket = TcpStream::connect(peer.addr).await.unwrap();
        socket.write_all(&bytes[..bytes.len() - 1]).await.unwrap();
        sockets.push((socket, bytes));
        let begun = sockets.len();
        eventually("begun", async || files_below(&peer.parts()).len() == begun).await;
    }
    for (socket, bytes) in &mut sockets {
        socket.write_all(&bytes[bytes.len() - 1..]).await.unwrap();
    }
    eventually("kept", async || peer.files().await.len() == 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_equal_files_is_copied_whole() {
    let stage = Stage::start().await;
    let (neighbour, own) = asker(&stage).await;
    let other = stage.peer("other").start().await;
    for (label, size) in [("empty", 0), ("equal", 5_000)] {
        let content = Content::new(label, size);
        // As many as a client sends at once.
        let names: Vec<_> = (0..8).map(|at| format!("{label}/{at}/init.py")).collect();
        let all = names.iter().map(|name| put(&own, name, &content, 2));
        for holders in join_all(all).await {
            assert_eq!(holders.len(), 3, "{holders:?}");
        }
        for name in &names {
            assert_holds(&neighbour, name, &content);
            assert_holds(&other, name, &content);
        }
    }
}

async fn assert_nothing_kept(peer: &Peer) {
    eventually("tidied", async || files_below(&peer.parts()).is_empty()).await;
    assert!(peer.fetched_files().is_empty());
    assert!(peer.files().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_refused_and_nothing_is_kept() {
    let stage = Stage::start().await;
    let peer = stage.peer("peer").start().await;
    let content = Content::new("right", 2 * PIECE + 9);
    for at in [0, PIECE, 2 * PIECE + 8] {
        let mut bytes = content.bytes.to_vec();
        bytes[at] ^= 1;
        let response = peer.send(&blob(&content, "x.bin").body(bytes)).await;
        assert_eq!((response.status, response.kind()), (400, Kind::BadRequest));
        assert!(response.text().contains(&content.digest.to_string()));
        assert_nothing_kept(&peer).await;
    }
    let shorter = peer
        .send(&blob(&content, "x.bin").body(&content.bytes[1..]))
        .await;
    assert_eq!(shorter.status, 400);
    // One that breaks off.
    let mut socket = TcpStream::connect(peer.addr).await.unwrap();
    let mut request = blob(&content, "x.bin")
        .body(&*content.bytes)
        .bytes(peer.addr);
    request.truncate(request.len() - 1);
    socket.write_all(&request).await.unwrap();
    eventually("begun", async || files_below(&peer.parts()).len() == 1).await;
    drop(socket);
    assert_nothing_kept(&peer).await;
    // And then the right ones.
    let response = peer
        .send(&blob(&content, "x.bin").body(&*content.bytes))
        .await;
    assert_eq!(response.status, 201, "{}", response.text());
    assert_holds(&peer, "x.bin", &content);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_never_replaces_a_file() {
    let stage = Stage::start().await;
    let peer = stage.peer("peer").start().await;
    let (one, two) = (Content::new("one", 700), Content::new("two", 800));
    let named = async |content: &Content| {
        let response = peer
            .send(&blob(content, "x.bin").body(&*content.bytes))
            .await;
        assert_eq!(response.status, 201);
        let stored: Stored = response.json();
        stored.name.to_string()
    };
    assert_eq!(named(&one).await, "x.bin");
    let other = format!("x ({}).bin", &two.digest.to_string()[..8]);
    assert_eq!(named(&two).await, other);
    assert_holds(&peer, "x.bin", &one);
    assert_holds(&peer, &other, &two);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_taken_is_refused_with_the_reason() {
    let stage = Stage::start().await;
    let peer = stage.peer("peer").start().await;
    let content = Content::new("refused", 900);
    let sized = |size: u64| blob(&content, "x.bin").with("Content-Length", size.to_string());
    let body = |request: Request| request.body(&*content.bytes);
    let nameless = Request::new("PUT", route::blob(&content.digest));
    let refused = [
        (sized(1 << 43), 507, Kind::NoSpace, "missing"),
        (sized((1 << 44) + 1), 413, Kind::TooLarge, "bytes"),
        (
            blob(&content, "x.bin"),
            400,
            Kind::BadRequest,
            "Content-Length",
        ),
        (body(blob(&content, ".git/x")), 400, Kind::BadName, "dot"),
        (body(blob(&content, "../x")), 400, Kind::BadName, "'..'"),
        (body(nameless), 400, Kind::BadRequest, "name"),
        (
            body(blob(&content, "x").with("Origin", "http://evil.example")),
            403,
            Kind::ForeignOrigin,
            "Origin",
        ),
    ];
    for (request, status, kind, told) in refused {
        let response: Response = peer.send(&request).await;
        assert_eq!((response.status, response.kind()), (status, kind));
        assert!(response.text().contains(told), "{}", response.text());
    }
    assert_nothing_kept(&peer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_come_in_a_few_at_a_time() {
    let stage = Stage::start().await;
    let peer = stage.peer("peer").start().await;
    let content = |number: usize| Content::new(&format!("at once {number}"), 1_000);
    let mut sockets = Vec::new();
    for number in 0..8 {
        let content = content(number);
        let request = blob(&content, "x.bin").body(&*content.bytes);
        let bytes = request.bytes(peer.addr);
        let mut socket = TcpStream::connect(peer.addr).await.unwrap();
        socket.write_all(&bytes[..bytes.len() - 1]).await.unwrap();
        sockets.push((socket, bytes));
        let begun = sockets.len();
        eventually("begun", async || files_below(&peer.parts()).len() == begun).await;
    }
    for content in [content(0), content(99)] {
        let refused = peer
            .send(&blob(&content, "x.bin").body(&*content.bytes))
            .await;
        assert_eq!((refused.status, refused.kind()), (503, Kind::Busy));
        assert!(refused.header("retry-after").is_some());
    }
    let (mut socket, bytes) = sockets.pop().unwrap();
    socket.write_all(&bytes[bytes.len() - 1..]).await.unwrap();
    eventually("kept", async || peer.files().await.len() == 1).await;
    let ninth = content(99);
    eventually("there is a place again", async || {
        let taken = peer.send(&blob(&ninth, "y.bin").body(&*ninth.bytes)).await;
        taken.status == 201
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_names_places_within_bounds() {
    let stage = Stage::start().await;
    let (neighbour, own) = asker(&stage).await;
    let ask = async |body: &str| {
        let request = Request::json(route::NEIGHBOUR_PLACE, body);
        neighbour.send(&request).await
    };
    let placed: Placed = ask(r#"{"size": 5, "count": 16}"#).await.json();
    let mut urls: Vec<_> = placed.peers.iter().map(|peer| peer.url.clone()).collect();
    urls.sort();
    let mut expected = [neighbour.url(), own.url()];
    expected.sort();
    assert_eq!(urls, expected);
    let one: Placed = ask(r#"{"size": 5, "count": 1}"#).await.json();
    assert_eq!(one.peers.len(), 1);
    let none: Placed = ask(&format!(r#"{{"size": {}, "count": 1}}"#, 1_u64 << 62))
        .await
        .json();
    assert!(none.peers.is_empty(), "nobody has that much room");
    for wrong in [
        r#"{"size": 5, "count": 0}"#,
        r#"{"size": 5, "count": 17}"#,
        "{}",
    ] {
        let refused = ask(wrong).await;
        assert_eq!((refused.status, refused.kind()), (400, Kind::BadRequest));
    }
    let overlay = stage
        .peer("flood")
        .set("LOCATE_BY", "flood")
        .set("OVERLAY_PORT", "0");
    let overlay = overlay.start_unready().await;
    let request = Request::json(route::NEIGHBOUR_PLACE, r#"{"size": 5, "count": 1}"#);
    let refused = overlay.send(&request).await;
    assert_eq!((refused.status, refused.kind()), (501, Kind::NotSupported));
}
