//! Too much, too slow, without end: bounded memory, and the peer serves others meanwhile.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use vecino_rest::Kind;

use crate::support::{
    content::Content,
    http::{Answer, Request},
    peer::{Door, Process},
    soon,
    stage::Stage,
};

async fn own_process(stage: &Stage) -> Process {
    stage
        .peer("own")
        .without("URL_Request")
        .holding("a.txt", b"harmless")
        .spawn()
        .await
}

/// Others are served as if nothing were.
async fn serves_others(own: &Door) {
    for _ in 0..20 {
        let served = tokio::time::timeout(Duration::from_secs(5), own.download("a.txt"));
        assert_eq!(served.await.expect("at once").body, b"harmless");
    }
    let content = Content::new("meanwhile", 100_000);
    own.shares("meanwhile.bin", &content).await;
}

/// Most memory that an attack may cost.
const SLACK: u64 = 48 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_end_is_refused_after_a_little() {
    let stage = Stage::start().await;
    let own = own_process(&stage).await;
    serves_others(&own).await;
    let before = own.resident_bytes();
    for path in [
        "/connect",
        "/pedirRecurso",
        "/v1/neighbour/locate",
        "/v1/neighbour/search",
        "/v1/downloads",
    ] {
        for (framing, is_chunked) in [
            ("Transfer-Encoding: chunked", true),
            ("Content-Length: 999999999999", false),
        ] {
            let socket = TcpStream::connect(own.addr).await.unwrap();
            let (read, mut write) = socket.into_split();
            let head = format!(
                "POST {path} HTTP/1.1\r\nHost: {}\r\n{framing}\r\n\r\n",
                own.addr
            );
            write.write_all(head.as_bytes()).await.unwrap();
            let sending = tokio::spawn(async move {
                let mut block = b"10000\r\n".to_vec();
                block.resize(7 + 0x10000, b' ');
                block.extend_from_slice(b"\r\n");
                let block = if is_chunked { &block[..] } else { &block[7..] };
                // It may hang up, or read on and forget what it reads.
                for _ in 0..2000 {
                    if write.write_all(block).await.is_err() {
                        break;
                    }
                }
            });
            let answer = Answer::read_from(read, false).await;
            assert_eq!(answer.status, 413, "{path} {framing}");
            let response = answer.whole().await;
            assert_eq!(response.kind(), Kind::TooLarge, "{path} {framing}");
            soon(sending).await.unwrap();
        }
    }
    let after = own.resident_bytes();
    assert!(after < before + SLACK, "{before} to {after} bytes");
    serves_others(&own).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_without_end_is_refused_after_a_little() {
    let stage = Stage::start().await;
    let own = own_process(&stage).await;
    serves_others(&own).await;
    let before = own.resident_bytes();
    for start in ["GET /v1/status HTTP/1.1\r\nX: ", "GET /", "GE"] {
        let mut taken = Vec::new();
        for _ in 0..20 {
            let socket = TcpStream::connect(own.addr).await.unwrap();
            let (mut read, mut write) = socket.into_split();
            taken.push(tokio::spawn(async move {
                let reading = tokio::spawn(async move {
                    let mut answer = Vec::new();
                    let _ = read.read_to_end(&mut answer).await;
                    answer
                });
                let mut sent = write
                    .write_all(start.as_bytes())
                    .await
                    .map_or(0, |()| 0_u64);
                while sent < 256 << 20 && write.write_all(&[b'a'; 1 << 16]).await.is_ok() {
                    sent += 1 << 16;
                }
                (sent, soon(reading).await.unwrap())
            }));
        }
        for taken in taken {
            let (sent, answer) = soon(taken).await.unwrap();
            assert!(sent < 64 << 20, "{start:?}: {sent} bytes were taken");
            let answer = String::from_utf8_lossy(&answer).into_owned();
            assert!(
                answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
                "{start:?}: {answer}"
            );
        }
    }
    let many = (0..5000).fold(Request::get("/v1/status"), |r, n| {
        r.with(&format!("X{n}"), "1")
    });
    let status = many.send(own.addr).await.status;
    assert!((400..500).contains(&status), "{status}");
    let long = Request::get(format!("/v1/files/{}", "a".repeat(60_000)));
    let status = long.send(own.addr).await.status;
    assert!((400..500).contains(&status), "{status}");
    let after = own.resident_bytes();
    assert!(after < before + SLACK, "{before} to {after} bytes");
    serves_others(&own).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_do_not_keep_others_waiting() {
    let stage = Stage::start().await;
    let own = own_process(&stage).await;
    let mut slow = Vec::new();
    for number in 0..300 {
        let mut socket = TcpStream::connect(own.addr).await.unwrap();
        let start = match number % 4 {
            0 => "GET /v1/sta".to_owned(),
            1 => format!(
                "POST /connect HTTP/1.1\r\nHost: {}\r\nContent-Length: 50\r\n\r\n{{",
                own.addr
            ),
            2 => format!(
                "PUT /v1/files/slow{number} HTTP/1.1\r\nHost: {}\r\nContent-Length: 5000\r\n\r\nx",
                own.addr
            ),
            _ => String::new(),
        };
        socket.write_all(start.as_bytes()).await.unwrap();
        slow.push(socket);
    }
    serves_others(&own).await;
    assert_eq!(own.files().await.len(), 2, "half an upload shows");
    // Who leaves in the middle leaves nothing behind.
    drop(slow);
    crate::support::eventually("tidied", async || {
        std::fs::read_dir(own.parts()).unwrap().count() == 0
    })
    .await;
    serves_others(&own).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_do_not_read_cost_little_memory() {
    let stage = Stage::start().await;
    let own = own_process(&stage).await;
    let content = Content::new("unread", 32 << 20);
    own.shares("unread.bin", &content).await;
    own.downloads("unread.bin", &content).await;
    let before = own.resident_bytes();
    let mut unread = Vec::new();
    for _ in 0..30 {
        let mut answer = Request::get("/v1/files/unread.bin").open(own.addr).await;
        answer.read_up_to(1).await;
        unread.push(answer);
    }
    serves_others(&own).await;
    let after = own.resident_bytes();
    // A chunk being written, one read ahead and the buffer of the connection, for each.
    assert!(
        after < before + 30 * (4 << 20) + SLACK,
        "{before} to {after} bytes"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_smuggled_behind_another_are_not_believed() {
    let stage = Stage::start().await;
    let own = own_process(&stage).await;
    for head in [
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
        "Content-Length: 3\r\nContent-Length: 4",
        "Content-Length: -1",
        "Content-Length: +3",
        "Content-Length: 3,3",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: xchunked",
        "Content-Length: 99999999999999999999999",
    ] {
        let mut socket = TcpStream::connect(own.addr).await.unwrap();
        let smuggled = format!(
            "POST /pedirRecurso HTTP/1.1\r\nHost: {0}\r\n{head}\r\n\r\n0\r\n\r\nDELETE /v1/files/a.txt HTTP/1.1\r\nHost: {0}\r\nConnection: close\r\n\r\n",
            own.addr
        );
        socket.write_all(smuggled.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ =
            tokio::time::timeout(Duration::from_millis(400), socket.read_to_end(&mut answer)).await;
        let text = String::from_utf8_lossy(&answer);
        assert!(!text.contains(" 204 "), "{head}: {text}");
    }
    serves_others(&own).await;
}
