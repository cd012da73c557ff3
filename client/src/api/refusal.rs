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
/// Bytes of the answer that matter: `HTTP/1.1 401 `.
const STATUS_LINE: usize = 13;

/// The status with which `peer` refuses a `PUT` of `length` bytes to `path`; `None` when it
/// would take it, or does not answer.
pub(super) async fn of_put(
    peer: &PeerUrl,
    path: &str,
    token: Option<&str>,
    length: u64,
) -> Option<u16> {
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
        let mut line = [0; STATUS_LINE];
        stream.read_exact(&mut line).await.ok()?;
        parse_status(&line)
    };
    timeout(PATIENCE, ask).await.ok().flatten()
}

fn parse_status(line: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(line).ok()?;
    let status = line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    (400..600).contains(&status).then_some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_refusals_count() {
        assert_eq!(parse_status(b"HTTP/1.1 401 "), Some(401));
        assert_eq!(parse_status(b"HTTP/1.1 507 "), Some(507));
        assert_eq!(parse_status(b"HTTP/1.1 100 "), None);
        assert_eq!(parse_status(b"HTTP/1.1 201 "), None);
        assert_eq!(parse_status(b"HTTP/1.1 4\xc3\xa9 "), None);
        assert_eq!(parse_status(b"SSH-2.0-Open"), None);
    }
}
