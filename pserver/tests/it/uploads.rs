//! `PUT` and `DELETE`: what is there decides, and a condition of the client goes before.

use std::fs;

use vecino_rest::{
    Kind,
    body::{Origin, Stored},
};

use crate::support::{
    content::{Content, PIECE},
    eventually,
    http::{Request, Response},
    peer::{Peer, path_of},
    stage::Stage,
};

async fn pair() -> (Stage, Peer, Peer) {
    let stage = Stage::start().await;
    let sharing = stage.peer("sharing").start().await;
    let asking = stage.peer("asking").neighbour(sharing.addr).start().await;
    (stage, sharing, asking)
}

async fn put(peer: &Peer, name: &str, content: &Content, header: Option<(&str, &str)>) -> Response {
    let request = Request::new("PUT", path_of(name)).body(&*content.bytes);
    let request = header
        .into_iter()
        .fold(request, |r, (name, value)| r.with(name, value));
    peer.send(&request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_shared_when_it_is_answered() {
    let (_stage, sharing, asking) = pair().await;
    let content = Content::new("upload", 2 * PIECE + 3);
    let response = put(&sharing, "new/dir/u.bin", &content, None).await;
    assert_eq!(response.status, 201);
    assert_eq!(response.header("location"), Some("/v1/files/new/dir/u.bin"));
    assert_eq!(response.header("etag"), Some(&*content.tag()));
    let stored: Stored = response.json();
    assert_eq!(
        (stored.name.as_str(), stored.digest, stored.size),
        ("new/dir/u.bin", content.digest, content.len())
    );
    assert_eq!(stored.holders, [format!("http://{}", sharing.addr)]);
    let [file] = &sharing.files().await[..] else {
        panic!("one file");
    };
    assert_eq!((file.digest, file.origin), (content.digest, Origin::Shared));
    assert!(fs::read(sharing.shared("new/dir/u.bin")).unwrap() == *content.bytes);
    eventually("located", async || {
        asking.get("/v1/locate/new/dir/u.bin").await.status == 200
    })
    .await;
    asking.downloads("new/dir/u.bin", &content).await;
    // The watch sees the new file, and does not hash it again.
    sharing.has_announced(1).await;
    assert_eq!(sharing.metric("vecino_files_hashed_total").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_already_decides() {
    let (_stage, peer, _asking) = pair().await;
    let (one, two, three) = (
        Content::new("one", 500),
        Content::new("two", 600),
        Content::new("three", 700),
    );
    let unused = format!("\"{}\"", "0".repeat(64));
    let steps = [
        // (content, header, status, what is there then)
        (&one, Some(("If-Match", "*")), 412, None),
        (&one, Some(("If-Match", &*unused)), 412, None),
        (&one, Some(("If-None-Match", "*")), 201, Some(&one)),
        (&one, None, 200, Some(&one)),
        (&two, None, 409, Some(&one)),
        (&two, Some(("If-None-Match", "*")), 412, Some(&one)),
        (&one, Some(("If-None-Match", "*")), 412, Some(&one)),
        (&two, Some(("If-None-Match", "\"abc\"")), 400, Some(&one)),
        (&two, Some(("If-Match", &*unused)), 412, Some(&one)),
        (&two, Some(("If-Match", "nonsense")), 400, Some(&one)),
    ];
    let check = async |step: usize, response: Response, status: u16, there: Option<&Content>| {
        assert_eq!(response.status, status, "step {step}: {}", response.text());
        match status {
            412 => assert_eq!(response.kind(), Kind::PreconditionFailed),
            409 => assert_eq!(response.kind(), Kind::Conflict),
            400 => assert_eq!(response.kind(), Kind::BadRequest),
            _ => {}
        }
        let held = peer.download("x.bin").await;
        match there {
            None => assert_ne!(held.status, 200, "step {step}"),
            Some(content) => assert!(*held.body == *content.bytes, "step {step}"),
        }
        let on_disk = fs::read(peer.shared("x.bin")).ok();
        assert_eq!(
            on_disk.as_deref(),
            there.map(|content| &*content.bytes),
            "step {step}"
        );
    };
    for (step, (content, header, status, there)) in steps.into_iter().enumerate() {
        let response = put(&peer, "x.bin", content, header).await;
        check(step, response, status, there).await;
    }
    let tag = one.tag();
    let response = put(&peer, "x.bin", &two, Some(("If-Match", &tag))).await;
    check(20, response, 200, Some(&two)).await;
    let response = put(&peer, "x.bin", &three, Some(("If-Match", "*"))).await;
    check(21, response, 200, Some(&three)).await;
    let delete = Request::new("DELETE", path_of("x.bin"));
    let response = peer.send(&delete.clone().with("If-Match", &tag)).await;
    check(22, response, 412, Some(&three)).await;
    let response = peer
        .send(&delete.clone().with("If-Match", three.tag()))
        .await;
    check(23, response, 204, None).await;
    let response = peer.send(&delete).await;
    assert_eq!((response.status, response.kind()), (404, Kind::NotFound));
    // Nothing is left of what was refused.
    assert_eq!(fs::read_dir(peer.parts()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_of_one_name_at_once_leave_one_whole() {
    let (_stage, peer, _asking) = pair().await;
    let contents: Vec<_> = (0..8)
        .map(|n| Content::new(&format!("race {n}"), 300_000))
        .collect();
    let all = contents
        .iter()
        .map(|content| put(&peer, "race.bin", content, None));
    let answers = futures_util::future::join_all(all).await;
    let won: Vec<_> = answers
        .iter()
        .zip(&contents)
        .filter(|(answer, _)| answer.status == 201)
        .collect();
    assert_eq!(won.len(), 1);
    assert!(
        answers
            .iter()
            .all(|answer| matches!(answer.status, 201 | 409))
    );
    peer.downloads("race.bin", won[0].1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_breaks_off_leaves_nothing() {
    use tokio::{io::AsyncWriteExt, net::TcpStream};
    let (_stage, peer, _asking) = pair().await;
    for framing in ["Content-Length: 5000000", "Transfer-Encoding: chunked"] {
        let mut socket = TcpStream::connect(peer.addr).await.unwrap();
        let head = format!(
            "PUT /v1/files/half.bin HTTP/1.1\r\nHost: {}\r\n{framing}\r\n\r\n1000\r\n",
            peer.addr
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        socket.write_all(&vec![b'x'; 0x1000]).await.unwrap();
        eventually("begun", async || {
            fs::read_dir(peer.parts()).unwrap().count() == 1
        })
        .await;
        drop(socket);
        eventually("tidied", async || {
            fs::read_dir(peer.parts()).unwrap().count() == 0
        })
        .await;
        assert!(!peer.shared("half.bin").exists(), "{framing}");
        assert!(peer.files().await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_in_chunks_is_shared() {
    let (_stage, peer, _asking) = pair().await;
    let body = b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
    let mut request = format!(
        "PUT /v1/files/chunked.txt HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
        peer.addr
    )
    .into_bytes();
    request.extend_from_slice(body);
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };
    let mut socket = TcpStream::connect(peer.addr).await.unwrap();
    socket.write_all(&request).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    peer.downloads("chunked.txt", &Content::of(*b"hello world"))
        .await;
    peer.shares("empty.txt", &Content::of(*b"")).await;
    peer.downloads("empty.txt", &Content::of(*b"")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_a_directory_or_below_a_file_is_a_conflict() {
    let (_stage, peer, _asking) = pair().await;
    peer.shares("a/b.txt", &Content::of(*b"b")).await;
    for name in ["a", "a/b.txt/c.txt"] {
        let response = peer.put(name, b"x").await;
        assert_eq!(
            (response.status, response.kind()),
            (409, Kind::Conflict),
            "{name}"
        );
    }
    let response = peer.put(".vecino-x/y", b"x").await;
    assert_eq!((response.status, response.kind()), (400, Kind::BadName));
    peer.downloads("a/b.txt", &Content::of(*b"b")).await;
    assert_eq!(peer.files().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_the_disk_has_is_refused_before_it_is_sent() {
    let (_stage, peer, _asking) = pair().await;
    for (length, status, kind) in [
        (1_u64 << 43, 507, Kind::NoSpace),
        ((1 << 44) + 1, 413, Kind::TooLarge),
    ] {
        let request =
            Request::new("PUT", path_of("huge.bin")).with("Content-Length", length.to_string());
        let response = request.send(peer.addr).await;
        assert_eq!((response.status, response.kind()), (status, kind));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hidden_files_are_neither_shared_nor_stored() {
    let (_stage, peer, _asking) = pair().await;
    for name in [".env", ".git/config", "folder/.secret"] {
        let response = peer
            .send(&Request::new("PUT", path_of(name)).body("x"))
            .await;
        assert_eq!(
            (response.status, response.kind()),
            (400, Kind::BadName),
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hidden_name_is_refused_before_its_body_is_sent() {
    let (_stage, peer, _asking) = pair().await;
    // The body never comes.
    let request = Request::new("PUT", path_of(".env")).with("Content-Length", "5000000");
    let begun = std::time::Instant::now();
    let response = request.send(peer.addr).await;
    assert_eq!((response.status, response.kind()), (400, Kind::BadName));
    assert!(begun.elapsed() < std::time::Duration::from_secs(20));
    assert_eq!(fs::read_dir(peer.parts()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_a_delete_emptied_leaves_its_name_free() {
    let (_stage, peer, _asking) = pair().await;
    for name in ["d/e.txt", "d/deep/er/f.txt", "kept/a.txt", "kept/b.txt"] {
        peer.shares(name, &Content::new(name, 9)).await;
    }
    for name in ["d/e.txt", "d/deep/er/f.txt", "kept/a.txt"] {
        let response = peer.send(&Request::new("DELETE", path_of(name))).await;
        assert_eq!(response.status, 204, "{name}");
    }
    let response = peer.put("d", b"a file now").await;
    assert_eq!(response.status, 201, "{}", response.text());
    assert_eq!(peer.put("kept", b"x").await.status, 409);
    for name in ["d", "kept/b.txt"] {
        let response = peer.send(&Request::new("DELETE", path_of(name))).await;
        assert_eq!(response.status, 204, "{name}");
    }
    assert_eq!(fs::read_dir(peer.shared("")).unwrap().count(), 0);
    peer.shares("after.txt", &Content::of(*b"the root is still there"))
        .await;
}

const MIB: usize = 1 << 20;

/// `PUT` of `bytes` zeros in chunks, whose length is not said before; the status.
async fn put_chunked(addr: std::net::SocketAddr, name: &str, bytes: usize) -> u16 {
    use tokio::{io::AsyncWriteExt, net::TcpStream};
    let (read, mut write) = TcpStream::connect(addr).await.unwrap().into_split();
    let head = format!(
        "PUT {} HTTP/1.1\r\nHost: {addr}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
        path_of(name)
    );
    let writing = tokio::spawn(async move {
        write.write_all(head.as_bytes()).await?;
        for _ in 0..bytes / MIB {
            write.write_all(b"100000\r\n").await?;
            write.write_all(&vec![0; MIB]).await?;
            write.write_all(b"\r\n").await?;
        }
        write.write_all(b"0\r\n\r\n").await?;
        // The other half is needed until the answer is here.
        std::future::pending::<std::io::Result<()>>().await
    });
    let answer = crate::support::http::Answer::read_from(read, false).await;
    writing.abort();
    answer.status
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_in_chunks_and_at_once_leave_the_floor_free() {
    const DISK_MIB: u64 = 48;
    let stage = Stage::start().await;
    let plan = stage.peer("small").without("URL_Request");
    let Some(peer) = plan.spawn_on_disk_of(DISK_MIB).await else {
        eprintln!("no user namespaces here: nothing tested");
        return;
    };
    // Alone, in chunks: more than there is room for. Then several at once, each of which would
    // have room alone.
    let mut lowest = u64::MAX;
    for (count, mib) in [(1, 40), (8, 8)] {
        let names: Vec<_> = (0..count).map(|n| format!("{count}/{n}.bin")).collect();
        let all = names
            .iter()
            .map(|name| put_chunked(peer.addr, name, mib * MIB));
        let mut all = std::pin::pin!(futures_util::future::join_all(all));
        let mut ticks = tokio::time::interval(std::time::Duration::from_millis(1));
        let statuses = loop {
            tokio::select! {
                statuses = &mut all => break statuses,
                _ = ticks.tick() => lowest = lowest.min(peer.free_bytes()),
            }
        };
        assert!(statuses.contains(&507), "{statuses:?}");
        assert!(
            statuses.iter().all(|status| matches!(status, 201 | 507)),
            "{statuses:?}"
        );
    }
    // The index grows a little beside them.
    assert!(lowest >= 15 << 20, "{lowest} bytes were free");
    assert!(lowest < 20 << 20, "{lowest}: the load was too low");
    // What was refused gives its room back.
    assert_eq!(peer.put("little.bin", b"x").await.status, 201);
}
