//! Why a peer closed the connection on a body that it did not want to read.
//!
//! The HTTP client reads an answer only after the whole body is sent; a refusal that comes
//! earlier can be lost with the connection. The head alone, sent again without a byte of the
//! body, brings it out: a peer that refuses answers at once, and one that does not waits for a
//! body that never comes and stores nothing.

use std::time::Duration;

use actix_rt::{net::TcpStream, time::timeout};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use vecino_rest::PeerUrl;

/// How long the answer may take; a refusal needs no lookup.
const PATIENCE: Duration = Duration::from_secs(3);
/// Bytes of the answer that are read.
const MAX_ANSWER: u64 = 16 << 10;

/// How `peer` refuses a `PUT`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

/// How `peer` refuses a `PUT` of `length` bytes to `path`; `None` when it would take it, or does
/// not answer.
pub(super) async fn of_put(
    peer: &PeerUrl,
    path: &str,
    token: Option<&str>,
    length: u64,
) -> Option<Refusal> {
    let authority = peer.authority();
    let mut head = format!("PUT {path} HTTP/1.1\r\nHost: {authority}\r\n");
    if let Some(token) = token {
        head.push_str(&format!("Authorization: Bearer {token}\r\n"));
    }
    head.push_str(&format!(
        "Content-Length: {length}\r\nConnection: close\r\n\r\n"
    ));
    let ask = async {
        let mut stream = TcpStream::connect(&authority).await.ok()?;
        stream.write_all(head.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        // To its end: the connection is closed after it.
        stream
            .take(MAX_ANSWER)
            .read_to_end(&mut answer)
            .await
            .ok()?;
        parse(&answer)
    };
    timeout(PATIENCE, ask).await.ok().flatten()
}

fn parse(answer: &[u8]) -> Option<Refusal> {
    const END: &[u8] = b"\r\n\r\n";
    let status = answer.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    let status = std::str::from_utf8(status).ok()?.parse().ok()?;
    let head = answer.windows(END.len()).position(|bytes| bytes == END);
    let body = head.map_or(&[][..], |head| &answer[head + END.len()..]);
    (400..600).contains(&status).then(|| Refusal {
        status,
        body: body.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_refusals_count() {
        let refusal = |status, body: &[u8]| {
            Some(Refusal {
                status,
                body: body.to_vec(),
            })
        };
        assert_eq!(parse(b"HTTP/1.1 401 "), refusal(401, b""));
        let full = b"HTTP/1.1 507 Insufficient Storage\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(parse(full), refusal(507, b"{}"));
        assert_eq!(parse(b"HTTP/1.1 100 "), None);
        assert_eq!(parse(b"HTTP/1.1 201 "), None);
        assert_eq!(parse(b"HTTP/1.1 4\xc3\xa9 "), None);
        assert_eq!(parse(b"SSH-2.0-Open"), None);
    }
}
