//! Reads the head of a request far enough to tell whether it is a plain one for content, and
//! writes heads of answers. Pure.
//!
//! Invariant: what is not plainly that (another route or method, conditions, a body, headers that
//! a browser sends, anything malformed) is not touched: the web server reads it from its first
//! byte and decides.

use std::{fmt::Write as _, ops::Range, time::SystemTime};

use actix_web::{HttpResponse, body::MessageBody, http::Uri};
use vecino_rest::{Digest, route};

use crate::{
    api::{
        files,
        range::{self, Asked},
    },
    download::choice::Wanted,
    welcome::{self, Welcome},
};

/// Longest head that is read here.
pub const MAX_HEAD: usize = 4096;
/// Headers of it.
const MAX_HEADERS: usize = 24;
/// Headers that change nothing about the answer.
const HARMLESS: [&str; 7] = [
    "host",
    "user-agent",
    "accept",
    "accept-encoding",
    "connection",
    "date",
    "te",
];

/// A plain request for content.
#[derive(Debug)]
pub struct Request {
    /// For which.
    pub target: Target,
    /// `Range`.
    pub range: Option<String>,
    /// `Host`.
    pub host: String,
    /// `Authorization`.
    pub authorization: Option<String>,
    /// Bytes of the head.
    pub length: usize,
    /// Whether the connection ends with the answer.
    pub closes: bool,
}

/// The bytes that are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// These.
    pub range: Range<u64>,
    /// Whether a part was asked for: it may be everything.
    pub is_part: bool,
}

impl Request {
    /// The bytes of a content of `size` that are asked for; `None` when it has none of them.
    pub fn bytes_of(&self, size: u64) -> Option<Sent> {
        let (range, is_part) = match range::asked(self.range.as_deref(), size) {
            Asked::Whole => (0..size, false),
            Asked::Part(range) => (range, true),
            Asked::NotSatisfiable => return None,
        };
        Some(Sent { range, is_part })
    }
}

/// What is asked for.
#[derive(Debug)]
pub enum Target {
    /// A blob, by its digest; the pieces that would be as welcome as what is asked for.
    Blob(Digest, Option<Welcome>),
    /// A file, by its name.
    File(Wanted),
}

/// Whether `bytes`, which may go on, may yet become such a request.
pub fn begins_like_one(bytes: &[u8]) -> bool {
    [route::BLOBS, route::FILES].iter().any(|route| {
        let start = format!("GET {route}/");
        let length = bytes.len().min(start.len());
        bytes[..length] == start.as_bytes()[..length]
    })
}

/// The request at the beginning of `bytes`; `None` when it is no such request, or not all of its
/// head.
pub fn parse(bytes: &[u8]) -> Option<Request> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let Ok(httparse::Status::Complete(length)) = request.parse(bytes) else {
        return None;
    };
    if request.method != Some("GET") || request.version != Some(1) {
        return None;
    }
    let target = target(request.path?)?;
    let is_blob = matches!(target, Target::Blob(..));
    let mut parsed = Request {
        target,
        range: None,
        host: host_of(request.headers)?,
        authorization: None,
        length,
        closes: false,
    };
    for header in request.headers {
        let name = header.name.to_ascii_lowercase();
        let value = std::str::from_utf8(header.value).ok()?;
        match name.as_str() {
            "range" if parsed.range.is_none() => parsed.range = Some(value.to_owned()),
            "authorization" if !is_blob && parsed.authorization.is_none() => {
                parsed.authorization = Some(value.to_owned());
            }
            "connection" if value.eq_ignore_ascii_case("close") => parsed.closes = true,
            "connection" if !value.eq_ignore_ascii_case("keep-alive") => return None,
            welcome::HEADER => {
                if let Target::Blob(_, welcome) = &mut parsed.target {
                    *welcome = Welcome::parse(value);
                }
            }
            // Some clients say of every request that it has no body.
            "content-length" if value == "0" => {}
            name if HARMLESS.contains(&name) => {}
            _ => return None,
        }
    }
    Some(parsed)
}

/// The one `Host` that a request has to have.
fn host_of(headers: &[httparse::Header<'_>]) -> Option<String> {
    let mut hosts = headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case("host"));
    let host = std::str::from_utf8(hosts.next()?.value).ok()?;
    hosts.next().is_none().then(|| host.to_owned())
}

fn target(path: &str) -> Option<Target> {
    let uri: Uri = path.parse().ok()?;
    if let Some(digest) = uri.path().strip_prefix(route::BLOBS) {
        let digest = digest.strip_prefix('/')?.parse().ok()?;
        return uri.query().is_none().then_some(Target::Blob(digest, None));
    }
    let wanted = files::wanted(uri.path(), uri.query().unwrap_or_default());
    wanted.ok().map(Target::File)
}

/// The head of an answer with the bytes `sent` of a content.
pub fn answer(sent: &Sent, size: u64, headers: &[(&str, String)], closes: bool) -> String {
    let Sent { range, is_part } = sent;
    let mut head = String::from(if *is_part {
        "HTTP/1.1 206 Partial Content\r\n"
    } else {
        "HTTP/1.1 200 OK\r\n"
    });
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if *is_part {
        head += &format!(
            "content-range: bytes {}-{}/{size}\r\n",
            range.start,
            range.end - 1
        );
    }
    head + &end(range.end - range.start, closes)
}

/// An answer that says why there is no content.
pub fn refusal(response: HttpResponse, closes: bool) -> Vec<u8> {
    let status = response.status();
    let reason = status.canonical_reason().unwrap_or_default();
    let mut head = format!("HTTP/1.1 {} {reason}\r\n", status.as_str()).into_bytes();
    for (name, value) in response.headers() {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            head.extend_from_slice(part);
        }
    }
    let body = response.into_body().try_into_bytes().unwrap_or_default();
    head.extend_from_slice(end(body.len() as u64, closes).as_bytes());
    head.extend_from_slice(&body);
    head
}

/// What ends every head.
fn end(length: u64, closes: bool) -> String {
    let mut end = String::from(if closes { "connection: close\r\n" } else { "" });
    let date = httpdate::fmt_http_date(SystemTime::now());
    write!(end, "content-length: {length}\r\ndate: {date}\r\n\r\n").expect("a String takes all");
    end
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::download::choice;

    fn request(headers: &str) -> String {
        format!(
            "GET /v1/blobs/{} HTTP/1.1\r\nHost: a:1\r\n{headers}\r\n",
            Digest::of(b"x")
        )
    }

    fn file(headers: &str) -> String {
        request(headers).replace(route::BLOBS, route::FILES)
    }

    #[test]
    fn a_plain_request_is_read_and_nothing_behind_it() {
        let text = request("Range: bytes=0-9\r\nUser-Agent: curl/8\r\n");
        let parsed = parse(format!("{text}GET /next").as_bytes()).expect("plain");
        assert!(matches!(parsed.target, Target::Blob(digest, None) if digest == Digest::of(b"x")));
        assert_eq!(parsed.range.as_deref(), Some("bytes=0-9"));
        assert_eq!((parsed.length, parsed.closes), (text.len(), false));
        let closing = request("Connection: close\r\n");
        assert!(parse(closing.as_bytes()).is_some_and(|parsed| parsed.closes));
        assert!(parse(request("Content-Length: 0\r\n").as_bytes()).is_some());
    }

    #[test]
    fn a_file_is_asked_for_by_name_and_perhaps_by_more() {
        let text = "GET /v1/files/a%20b/c?digest=DIGEST&from=peer:1 HTTP/1.1\r\n\
                    Host: a:1\r\nAuthorization: Bearer t\r\n\r\n";
        let text = text.replace("DIGEST", &Digest::of(b"x").to_string());
        let parsed = parse(text.as_bytes()).expect("plain");
        let Target::File(wanted) = parsed.target else {
            panic!("{parsed:?}");
        };
        assert_eq!(wanted.name.as_str(), "a b/c");
        assert_eq!(wanted.digest, Some(Digest::of(b"x")));
        assert_eq!(wanted.from, choice::From::parse("peer:1").ok());
        assert_eq!(parsed.host, "a:1");
        assert_eq!(parsed.authorization.as_deref(), Some("Bearer t"));
    }

    #[test]
    fn what_would_be_as_welcome_is_read_where_it_can_be() {
        let welcome = |headers: &str| {
            let parsed = parse(request(headers).as_bytes()).expect("plain");
            match parsed.target {
                Target::Blob(_, welcome) => welcome.map(|welcome| welcome.to_header()),
                Target::File(_) => None,
            }
        };
        let range = "Range: bytes=0-9\r\n";
        let read = welcome(&format!("{range}Vecino-Welcome: 3:81\r\n"));
        assert_eq!(read.as_deref(), Some("3:81"));
        assert_eq!(welcome(&format!("{range}Vecino-Welcome: all\r\n")), None);
        assert_eq!(welcome(range), None);
    }

    #[test]
    fn everything_else_is_left_to_the_web_server() {
        let others = |plain: fn(&str) -> String| {
            [
                plain("If-None-Match: \"a\"\r\n"),
                plain("If-Match: \"a\"\r\n"),
                plain("If-Range: \"a\"\r\n"),
                plain("Origin: http://evil\r\n"),
                plain("Sec-Fetch-Site: cross-site\r\n"),
                plain("Content-Length: 5\r\n"),
                plain("Content-Length: 0\r\nContent-Length: 5\r\n"),
                plain("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n"),
                plain("Transfer-Encoding: chunked\r\n"),
                plain("Expect: 100-continue\r\n"),
                plain("Connection: upgrade\r\n"),
                plain("Range: bytes=0-1\r\nRange: bytes=2-3\r\n"),
                plain("Host: b:2\r\n"),
                plain("").replace("Host: a:1\r\n", ""),
                plain("Host: b:2\r\n").replace("a:1", ""),
                plain("").replace("GET", "HEAD"),
                plain("").replace("GET", "DELETE"),
                plain("").replace("HTTP/1.1", "HTTP/1.0"),
                plain("").replace("/v1/", "//v1/"),
                plain("").replace("\r\n\r\n", "\r\n"),
            ]
        };
        let blobs = [
            request("Authorization: Bearer t\r\n"),
            request("").replace(" HTTP", "/pieces HTTP"),
            request("").replace(" HTTP", "?x=1 HTTP"),
        ];
        let files = [
            file("").replace(" HTTP", "?digest=1 HTTP"),
            file("").replace(" HTTP", "?from=%20 HTTP"),
            file("").replace("/files/", "/files/../"),
            "GET /v1/files/ HTTP/1.1\r\nHost: a:1\r\n\r\n".to_owned(),
            "GET /v1/files?limit=1 HTTP/1.1\r\nHost: a:1\r\n\r\n".to_owned(),
        ];
        let all = [&others(request)[..], &others(file), &blobs, &files].concat();
        for other in all {
            assert!(parse(other.as_bytes()).is_none(), "{other}");
        }
        assert!(begins_like_one(b"GET /v1/bl") && begins_like_one(b"GET /v1/files/a"));
        assert!(!begins_like_one(b"GET /v1/files?limit=1"));
    }

    #[test]
    fn a_refusal_is_a_whole_answer() {
        let mut response = HttpResponse::NotFound();
        let response = response.insert_header(("retry-after", "2")).body("no");
        let answer = String::from_utf8(refusal(response, true)).expect("text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let lines: Vec<&str> = head.split("\r\n").collect();
        assert_eq!(lines[0], "HTTP/1.1 404 Not Found");
        for line in ["retry-after: 2", "connection: close", "content-length: 2"] {
            assert!(lines.contains(&line), "{answer}");
        }
        assert_eq!(body, "no");
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
