//! Reads the head of a request far enough to tell whether it is a plain one for the bytes of a
//! blob. Pure.
//!
//! Invariant: what is not plainly that (another route or method, conditions, a body, headers that
//! a browser sends, anything malformed) is not touched: the web server reads it from its first
//! byte and decides.

use std::ops::Range;

use vecino_rest::{Digest, problem, route};

use crate::{
    api::error::RETRY_AFTER,
    welcome::{self, Welcome},
};

/// Longest head that is read here.
pub const MAX_HEAD: usize = 4096;
/// Headers of it.
const MAX_HEADERS: usize = 24;
/// Headers that change nothing about the answer.
const HARMLESS: [&str; 6] = [
    "host",
    "user-agent",
    "accept",
    "accept-encoding",
    "connection",
    "te",
];

/// A plain request for a blob.
#[derive(Debug, PartialEq, Eq)]
pub struct BlobRequest {
    /// Which.
    pub digest: Digest,
    /// The text of `Range`, if there is one.
    pub range: Option<String>,
    /// The pieces that would be as welcome.
    pub welcome: Option<Welcome>,
    /// Bytes of the head.
    pub length: usize,
    /// Whether the connection ends with the answer.
    pub closes: bool,
}

/// Whether `bytes`, which may go on, may yet become such a request.
pub fn begins_like_one(bytes: &[u8]) -> bool {
    let start = format!("GET {}/", route::BLOBS);
    let length = bytes.len().min(start.len());
    bytes[..length] == start.as_bytes()[..length]
}

/// The request at the beginning of `bytes`; `None` when it is no such request, or not all of its
/// head.
pub fn parse(bytes: &[u8]) -> Option<BlobRequest> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let Ok(httparse::Status::Complete(length)) = request.parse(bytes) else {
        return None;
    };
    if request.method != Some("GET") || request.version != Some(1) {
        return None;
    }
    let digest = request
        .path?
        .strip_prefix(route::BLOBS)?
        .strip_prefix('/')?;
    let digest: Digest = digest.parse().ok()?;
    let (mut range, mut welcome, mut closes) = (None, None, false);
    for header in request.headers {
        let name = header.name.to_ascii_lowercase();
        let value = std::str::from_utf8(header.value).ok()?;
        match name.as_str() {
            "range" if range.is_none() => range = Some(value.to_owned()),
            "connection" if value.eq_ignore_ascii_case("close") => closes = true,
            "connection" if !value.eq_ignore_ascii_case("keep-alive") => return None,
            welcome::HEADER => welcome = Welcome::parse(value),
            name if HARMLESS.contains(&name) => {}
            _ => return None,
        }
    }
    Some(BlobRequest {
        digest,
        range,
        welcome,
        length,
        closes,
    })
}

/// The head of an answer with content.
pub fn answer(range: &Range<u64>, size: u64, headers: &[(&str, String)], closes: bool) -> String {
    let is_part = *range != (0..size);
    let mut head = String::from(if is_part {
        "HTTP/1.1 206 Partial Content\r\n"
    } else {
        "HTTP/1.1 200 OK\r\n"
    });
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if is_part {
        head += &format!(
            "content-range: bytes {}-{}/{size}\r\n",
            range.start,
            range.end - 1
        );
    }
    if closes {
        head += "connection: close\r\n";
    }
    let date = httpdate::fmt_http_date(std::time::SystemTime::now());
    let length = range.end - range.start;
    head + &format!("content-length: {length}\r\ndate: {date}\r\n\r\n")
}

/// The answer to who is to come back later.
pub fn busy(problem: &str, closes: bool) -> String {
    let close = if closes { "connection: close\r\n" } else { "" };
    let date = httpdate::fmt_http_date(std::time::SystemTime::now());
    format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: {}\r\nretry-after: {RETRY_AFTER}\r\n\
         {close}content-length: {}\r\ndate: {date}\r\n\r\n{problem}",
        problem::MEDIA_TYPE,
        problem.len(),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(headers: &str) -> String {
        format!(
            "GET /v1/blobs/{} HTTP/1.1\r\nHost: a:1\r\n{headers}\r\n",
            Digest::of(b"x")
        )
    }

    #[test]
    fn a_plain_request_is_read_and_nothing_behind_it() {
        let text = request("Range: bytes=0-9\r\nUser-Agent: curl/8\r\n");
        let parsed = parse(format!("{text}GET /next").as_bytes()).expect("plain");
        assert_eq!(parsed.digest, Digest::of(b"x"));
        assert_eq!(parsed.range.as_deref(), Some("bytes=0-9"));
        assert_eq!((parsed.length, parsed.closes), (text.len(), false));
        let closing = request("Connection: close\r\n");
        assert!(parse(closing.as_bytes()).is_some_and(|parsed| parsed.closes));
    }

    #[test]
    fn what_would_be_as_welcome_is_read_where_it_can_be() {
        let welcome = |headers: &str| {
            let parsed = parse(request(headers).as_bytes()).expect("plain");
            parsed.welcome.map(|welcome| welcome.to_header())
        };
        let range = "Range: bytes=0-9\r\n";
        let read = welcome(&format!("{range}Vecino-Welcome: 3:81\r\n"));
        assert_eq!(read.as_deref(), Some("3:81"));
        assert_eq!(welcome(&format!("{range}Vecino-Welcome: all\r\n")), None);
        assert_eq!(welcome(range), None);
    }

    #[test]
    fn everything_else_is_left_to_the_web_server() {
        for other in [
            request("If-None-Match: \"a\"\r\n"),
            request("If-Match: \"a\"\r\n"),
            request("If-Range: \"a\"\r\n"),
            request("Origin: http://evil\r\n"),
            request("Sec-Fetch-Site: cross-site\r\n"),
            request("Content-Length: 5\r\n"),
            request("Transfer-Encoding: chunked\r\n"),
            request("Expect: 100-continue\r\n"),
            request("Connection: upgrade\r\n"),
            request("Range: bytes=0-1\r\nRange: bytes=2-3\r\n"),
            request("").replace("GET", "HEAD"),
            request("").replace("HTTP/1.1", "HTTP/1.0"),
            request("").replace(" HTTP", "/pieces HTTP"),
            request("").replace(" HTTP", "?x=1 HTTP"),
            request("").replace("/v1/", "//v1/"),
            request("").replace("\r\n\r\n", "\r\n"),
        ] {
            assert_eq!(parse(other.as_bytes()), None, "{other}");
        }
        assert!(begins_like_one(b"GET /v1/bl") && !begins_like_one(b"GET /v1/files/a"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = (begins_like_one(&bytes), parse(&bytes));
            let mut begun = request("").into_bytes();
            begun.truncate(90);
            begun.extend(bytes);
            let _ = parse(&begun);
        }
    }
}
