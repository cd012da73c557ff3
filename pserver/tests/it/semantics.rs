//! HTTP as its RFCs say, the same for a file that is held here and for one that is being fetched.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use vecino_rest::{Kind, route};

use crate::support::{
    content::{Content, PIECE},
    http::{Request, find},
    peer::{Peer, path_of},
    provider::{Provider, once},
    soon,
    stage::Stage,
};

const NAME: &str = "dir/a file.tar.gz";
const SIZE: usize = 5 * PIECE + 1234;

/// Peers that get [`NAME`] in every way there is: their own, another peer's, being fetched.
async fn ways(content: &Content) -> (Stage, Peer, Provider, Vec<(&'static str, Peer)>) {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let provider = Provider::honest(content).await;
    stage.announce_provider(NAME, &provider).await;
    let local = stage.peer("local").start().await;
    local.shares(NAME, content).await;
    let remote = stage.peer("remote").neighbour(neighbour.addr).start().await;
    let fetched = stage
        .peer("fetched")
        .neighbour(neighbour.addr)
        .start()
        .await;
    fetched.downloads(NAME, content).await;
    fetched.keeps(NAME, content).await;
    let ways = vec![("local", local), ("remote", remote), ("fetched", fetched)];
    (stage, neighbour, provider, ways)
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_and_conditions_are_as_the_rfc_says_wherever_the_bytes_are() {
    let content = Content::new("semantics", SIZE);
    let (_stage, _neighbour, _provider, ways) = ways(&content).await;
    let (tag, size) = (content.tag(), content.len());
    let other = format!("\"{}\"", "0".repeat(64));
    let weak = format!("W/{tag}");
    let several = format!("{other}, {tag}");
    // A request that is not plain is answered by another part of the peer.
    let requests = [
        ("plain", Request::get(path_of(NAME))),
        (
            "other",
            Request::get(path_of(NAME)).with("Cache-Control", "no-cache"),
        ),
    ];
    let all = ways
        .iter()
        .flat_map(|way| requests.iter().map(move |request| (way, request)));
    for ((way, peer), (kind, request)) in all {
        let way = format!("{way}, {kind}");
        let ask = async |headers: &[(&str, &str)]| {
            let request = headers
                .iter()
                .fold(request.clone(), |r, (name, value)| r.with(name, value));
            peer.send(&request).await
        };
        for (range, expected) in [
            ("bytes=0-0", 0..1),
            ("bytes=0-", 0..size),
            ("bytes=100-199", 100..200),
            ("bytes=262140-262160", 262140..262161),
            ("bytes=750000-1050000", 750000..1050001),
            ("bytes=1310720-99999999", 1310720..size),
            ("bytes=-1", size - 1..size),
            ("bytes=-2000", size - 2000..size),
            ("bytes=-99999999", 0..size),
            ("BYTES = 5-6", 5..7),
        ] {
            let response = ask(&[("Range", range)]).await;
            assert_eq!(response.status, 206, "{way} {range}: {}", response.text());
            assert!(
                response.body == content.slice(expected.clone()),
                "{way} {range}"
            );
            let (first, last) = (expected.start, expected.end - 1);
            let shown = format!("bytes {first}-{last}/{size}");
            assert_eq!(
                response.header("content-range"),
                Some(&*shown),
                "{way} {range}"
            );
            let length = (expected.end - expected.start).to_string();
            assert_eq!(
                response.header("content-length"),
                Some(&*length),
                "{way} {range}"
            );
            assert_eq!(response.header("etag"), Some(&*tag));
        }
        let response = ask(&[("Range", &format!("bytes={size}-"))]).await;
        assert_eq!(
            (response.status, response.kind()),
            (416, Kind::RangeNotSatisfiable)
        );
        assert_eq!(
            response.header("content-range"),
            Some(&*format!("bytes */{size}"))
        );

        // If-Range: the same strong tag lets the range stand, anything else gives all.
        for (if_range, status) in [
            (&*tag, 206),
            (&*other, 200),
            (&*weak, 200),
            ("Wed, 21 Oct 2015 07:28:00 GMT", 200),
            ("nonsense", 200),
        ] {
            let response = ask(&[("Range", "bytes=1-2"), ("If-Range", if_range)]).await;
            assert_eq!(response.status, status, "{way} If-Range {if_range}");
        }
        // If-None-Match: weak comparison, lists, and the star.
        for (none_match, status) in [
            (&*tag, 304),
            (&*weak, 304),
            (&*several, 304),
            ("*", 304),
            (&*other, 200),
        ] {
            let response = ask(&[("If-None-Match", none_match)]).await;
            assert_eq!(response.status, status, "{way} If-None-Match {none_match}");
            assert_eq!(response.header("etag"), Some(&*tag));
            if status == 304 {
                assert!(response.body.is_empty());
            }
        }
        // A condition goes before a range.
        let response = ask(&[("Range", "bytes=1-2"), ("If-None-Match", &tag)]).await;
        assert_eq!(response.status, 304, "{way}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_carries_many_requests_of_every_kind() {
    let content = Content::new("one connection", SIZE);
    let (_stage, _neighbour, _provider, ways) = ways(&content).await;
    let blob = route::blob(&content.digest);
    for (way, peer) in &ways {
        let plain = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: {}\r\n", peer.addr);
        let file = plain(&path_of(NAME));
        let mut requests = vec![
            (file.clone(), 200, &content.bytes[..]),
            (
                format!("{file}Range: bytes=5-9\r\n"),
                206,
                content.slice(5..10),
            ),
            (format!("{file}Range: bytes={SIZE}-\r\n"), 416, &[]),
            (file.clone(), 200, &content.bytes[..]),
        ];
        // Who has no neighbour cannot tell that nobody holds it; whether what is being fetched is
        // held to the last byte by now is not certain.
        requests.push(match *way {
            "local" => (plain(&blob), 200, &content.bytes[..]),
            _ => (plain(&path_of("nobody")), 404, &[]),
        });
        requests.swap(1, 4);
        let (last, ..) = requests.last_mut().expect("some");
        *last += "Connection: close\r\n";
        let bytes: String = requests
            .iter()
            .map(|(head, ..)| format!("{head}\r\n"))
            .collect();
        let socket = TcpStream::connect(peer.addr).await.expect("connects");
        let (mut read, mut write) = socket.into_split();
        let writing = tokio::spawn(async move {
            write.write_all(bytes.as_bytes()).await.expect("sends");
            write
        });
        let mut answers = Vec::new();
        soon(read.read_to_end(&mut answers)).await.expect("reads");
        drop(writing.await);
        let mut rest = &answers[..];
        for (head, status, body) in requests {
            let end = find(rest, b"\r\n\r\n").expect("a head") + 4;
            let answer = String::from_utf8_lossy(&rest[..end]);
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{way} {head}: {answer}"
            );
            let length = answer
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.expect("a length").parse().expect("a number");
            let (sent, more) = rest[end..].split_at(length);
            assert!(status > 299 || sent == body, "{way} {head}: other bytes");
            rest = more;
        }
        assert!(rest.is_empty(), "{way}: more than was asked for");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn if_match_is_heeded_by_get_and_head() {
    let content = Content::new("if-match", SIZE);
    let (_stage, _neighbour, provider, ways) = ways(&content).await;
    provider.fixture.forget();
    let tag = content.tag();
    let other = format!("\"{}\"", "0".repeat(64));
    // Strong comparison (RFC 9110, section 13.1.1): a weak tag never matches.
    let weak = format!("W/{tag}");
    let several = format!("{other}, {tag}");
    for (way, peer) in &ways {
        for (if_match, fails) in [
            (&*other, true),
            (&*weak, true),
            ("\"\"", true),
            ("nonsense", true),
            (&*tag, false),
            (&*several, false),
            ("*", false),
        ] {
            for method in ["HEAD", "GET"] {
                // It goes before the other conditions, and before the range.
                let request = Request::new(method, path_of(NAME))
                    .with("If-Match", if_match)
                    .with("Range", "bytes=1-2");
                let response = peer.send(&request).await;
                let expected = match (fails, method) {
                    (true, _) => 412,
                    (false, "GET") => 206,
                    (false, _) => 200,
                };
                assert_eq!(response.status, expected, "{way} {method} {if_match}");
                if fails && method == "GET" {
                    assert_eq!(response.kind(), Kind::PreconditionFailed);
                    let both = request.with("If-None-Match", &tag);
                    assert_eq!(peer.send(&both).await.status, 412, "{way} {if_match}");
                }
            }
            if fails && *way == "remote" {
                assert_eq!(provider.fixture.seen().len(), 0, "fetched for nothing");
            }
        }
        let lines = Request::get(path_of(NAME))
            .with("If-Match", &other)
            .with("If-Match", &tag);
        assert_eq!(peer.send(&lines).await.status, 200, "{way}");
        let blob = Request::get(route::blob(&content.digest)).with("If-Match", &other);
        if *way != "remote" {
            assert_eq!(peer.send(&blob).await.status, 412, "{way}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn head_says_what_get_would_and_fetches_nothing() {
    let content = Content::new("head", SIZE);
    let (_stage, _neighbour, provider, ways) = ways(&content).await;
    provider.fixture.forget();
    for (way, peer) in &ways {
        let head = peer.send(&Request::new("HEAD", path_of(NAME))).await;
        assert_eq!((head.status, head.body.len()), (200, 0), "{way}");
        if *way == "remote" {
            assert_eq!(provider.fixture.seen().len(), 0, "HEAD fetched something");
        }
        // Ranges are defined for GET alone (RFC 9110, section 14.2).
        let ranged = Request::new("HEAD", path_of(NAME)).with("Range", "bytes=1-2");
        let ranged = peer.send(&ranged).await;
        assert_eq!(ranged.status, 200, "{way}");
        let get = peer.download(NAME).await;
        for header in [
            "etag",
            "content-length",
            "content-type",
            "content-disposition",
            "accept-ranges",
            "x-content-type-options",
        ] {
            assert_eq!(head.header(header), get.header(header), "{way} {header}");
            assert_eq!(ranged.header(header), get.header(header), "{way} {header}");
            assert!(get.header(header).is_some(), "{way} {header}");
        }
        assert_eq!(get.header("accept-ranges"), Some("bytes"));
        assert_eq!(get.header("content-length"), Some(&*SIZE.to_string()));
        // What nobody has looked at yet is not verified.
        let verified = &*route::HEADER_VERIFIED.to_lowercase();
        let source = &*route::HEADER_SOURCE.to_lowercase();
        assert_eq!(get.header(verified), Some("blake3"), "{way}");
        assert!(get.header(source).is_some_and(|source| !source.is_empty()));
        let (known, from) = match *way {
            "remote" => (None, None),
            _ => (Some("blake3"), Some("local")),
        };
        assert_eq!((head.header(verified), head.header(source)), (known, from));
        let missing = peer.send(&Request::new("HEAD", "/v1/files/missing")).await;
        assert!(matches!(missing.status, 404 | 503), "{way}");
        assert!(missing.body.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_in_the_middle_fetches_only_its_pieces() {
    let content = Content::new("middle", 12 * PIECE);
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let own = stage.peer("own").neighbour(neighbour.addr).start().await;
    let provider = Provider::honest(&content).await;
    stage.announce_provider("m.bin", &provider).await;
    let get = async |range: &str| {
        let response = own
            .send(&Request::get(path_of("m.bin")).with("Range", range))
            .await;
        assert_eq!(response.status, 206, "{}", response.text());
        response.body
    };
    let piece = PIECE as u64;
    assert!(get("bytes=1048676-1310819").await == content.slice(1048676..1310820));
    assert_eq!(once(provider.ranges()), [4 * piece..6 * piece]);
    provider.fixture.forget();
    // What is there already is not fetched again; of the rest, only what is wanted.
    assert!(get("bytes=1048576-1835007").await == content.slice(4 * piece..7 * piece));
    assert_eq!(once(provider.ranges()), [6 * piece..7 * piece]);
    provider.fixture.forget();
    assert!(get("bytes=-10").await == content.slice(12 * piece - 10..12 * piece));
    assert_eq!(once(provider.ranges()), [11 * piece..12 * piece]);
    assert!(own.fetched_files().is_empty(), "an unfinished file shows");
    assert!(own.files().await.is_empty());
    provider.fixture.forget();
    own.downloads("m.bin", &content).await;
    assert_eq!(
        once(provider.ranges()),
        [0..4 * piece, 7 * piece..11 * piece]
    );
    own.keeps("m.bin", &content).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clients_share_one_fetch() {
    let content = Content::new("shared fetch", 6 * PIECE);
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let own = stage.peer("own").neighbour(neighbour.addr).start().await;
    let provider = Provider::bent(&content, |mut reply, _| {
        reply.pace = Some((PIECE / 2, std::time::Duration::from_millis(20)));
        reply
    })
    .await;
    stage.announce_provider("s.bin", &provider).await;
    let all = (0..8).map(|_| own.downloads("s.bin", &content));
    futures_util::future::join_all(all).await;
    let bytes: u64 = provider
        .ranges()
        .iter()
        .map(|range| range.end - range.start)
        .sum();
    assert_eq!(bytes, content.len(), "{:?}", provider.ranges());
    assert_eq!(
        own.metric("vecino_received_bytes_total").await,
        content.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_size_travels_whole() {
    let stage = Stage::start().await;
    let sharing = stage.peer("sharing").start().await;
    let asking = stage.peer("asking").neighbour(sharing.addr).start().await;
    let sizes = [
        0,
        1,
        1023,
        1024,
        1025,
        PIECE - 1,
        PIECE,
        PIECE + 1,
        2 * PIECE,
        3 * PIECE + 1,
    ];
    let contents = sizes.map(|size| (size, Content::new(&format!("size {size}"), size)));
    for (size, content) in &contents {
        sharing.shares(&format!("sizes/{size}"), content).await;
    }
    sharing.has_announced(contents.len() as u64).await;
    for (size, content) in contents {
        let name = format!("sizes/{size}");
        sharing.downloads(&name, &content).await;
        asking.downloads(&name, &content).await;
        asking.keeps(&name, &content).await;
        asking.downloads(&name, &content).await;
        if size == 0 {
            let empty = Request::get(path_of(&name)).with("Range", "bytes=0-");
            assert_eq!(asking.send(&empty).await.status, 416);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_every_kind_travel_and_are_described() {
    let stage = Stage::start().await;
    let sharing = stage.peer("sharing").start().await;
    let asking = stage.peer("asking").neighbour(sharing.addr).start().await;
    let long = format!("{}.txt", "ñ".repeat(125));
    let names = [
        (
            "plain.txt",
            "text/plain",
            "plain.txt\"; filename*=UTF-8''plain.txt",
        ),
        (
            "with space.pdf",
            "application/pdf",
            "with space.pdf\"; filename*=UTF-8''with%20space.pdf",
        ),
        (
            "ñandú é.png",
            "image/png",
            "_and_ _.png\"; filename*=UTF-8''%C3%B1and%C3%BA%20%C3%A9.png",
        ),
        (
            "100%.mp4",
            "video/mp4",
            "100_.mp4\"; filename*=UTF-8''100%25.mp4",
        ),
        (
            "a#b.json",
            "application/json",
            "a#b.json\"; filename*=UTF-8''a#b.json",
        ),
        (
            "a?b&c=d;e.html",
            "text/html",
            "a?b&c=d;e.html\"; filename*=UTF-8''a%3Fb&c%3Dd%3Be.html",
        ),
        (
            "say \"hi\".bin",
            "application/octet-stream",
            "say _hi_.bin\"; filename*=UTF-8''say%20%22hi%22.bin",
        ),
        (
            "deep/er/and/deeper/%2e%2e",
            "application/octet-stream",
            "_2e_2e\"; filename*=UTF-8''%252e%252e",
        ),
        (
            "日本語.tar.gz",
            "application/gzip",
            "___.tar.gz\"; filename*=UTF-8''%E6%97%A5%E6%9C%AC%E8%AA%9E.tar.gz",
        ),
        (
            "noextension",
            "application/octet-stream",
            "noextension\"; filename*=UTF-8''noextension",
        ),
        (
            "emoji 🦀+plus.svg",
            "image/svg+xml",
            "emoji _+plus.svg\"; filename*=UTF-8''emoji%20%F0%9F%A6%80+plus.svg",
        ),
        (&long, "text/plain", ""),
    ];
    for (name, ..) in &names {
        sharing.shares(name, &Content::new(name, 2000)).await;
    }
    sharing.has_announced(names.len() as u64).await;
    for (name, media_type, disposition) in names {
        let content = Content::new(name, 2000);
        for peer in [&sharing, &asking] {
            let response = peer.download(name).await;
            assert_eq!(response.status, 200, "{name}: {}", response.text());
            assert!(*response.body == *content.bytes, "{name}");
            assert_eq!(response.header("content-type"), Some(media_type), "{name}");
            if !disposition.is_empty() {
                let whole = format!("attachment; filename=\"{disposition}");
                assert_eq!(response.header("content-disposition"), Some(&*whole));
            }
            assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
            assert!(
                response
                    .header("content-security-policy")
                    .unwrap()
                    .contains("sandbox")
            );
        }
        asking.keeps(name, &content).await;
    }
    // The same name in another spelling: decomposed, and with everything encoded.
    let content = Content::new("ñandú é.png", 2000);
    for target in [
        "/v1/files/n%CC%83andu%CC%81%20e%CC%81.png",
        "/v1/files/%C3%B1%61nd%C3%BA%20%C3%A9.%70ng",
    ] {
        assert!(
            *sharing.get(target).await.body == *content.bytes,
            "{target}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn content_by_digest_is_plain_http() {
    let stage = Stage::start().await;
    let own = stage.peer("own").start().await;
    let content = Content::new("blob", 2 * PIECE + 9);
    own.shares("b.bin", &content).await;
    let path = route::blob(&content.digest);
    let response = own.get(&path).await;
    assert!(response.status == 200 && *response.body == *content.bytes);
    let range = Request::get(&path).with("Range", "bytes=262144-");
    let response = own.send(&range).await;
    assert!(response.status == 206 && response.body == content.slice(PIECE as u64..content.len()));
    let upper = route::BLOBS.to_owned() + "/" + &content.digest.to_string().to_uppercase();
    assert_eq!(own.get(upper).await.status, 200);
    let pieces: vecino_rest::body::Pieces = own.get(route::pieces(&content.digest)).await.json();
    assert_eq!(
        (pieces.digest, pieces.size, pieces.piece_size),
        (content.digest, content.len(), PIECE as u64)
    );
    assert_eq!(pieces.pieces, content.pieces);
    // The first system's route, by name, in both of its methods.
    for method in ["GET", "POST"] {
        let response = own.send(&Request::new(method, "/download/b.bin")).await;
        assert!(
            response.status == 200 && *response.body == *content.bytes,
            "{method}"
        );
    }
    let gone = own.get("/download/none.bin").await;
    assert_eq!((gone.status, gone.kind()), (404, Kind::NotFound));
}
