//! Answers with content: conditional requests, ranges, and the headers that say what it is.

use std::{io, ops::Range};

use actix_web::{
    HttpRequest, HttpResponse, HttpResponseBuilder,
    body::SizedStream,
    http::{Method, StatusCode, header},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use vecino_rest::{
    Digest, Kind, Name,
    route::{HEADER_SOURCE, HEADER_VERIFIED},
};

use super::{
    context::Shared,
    error::ApiError,
    range::{self, Asked},
    request::{etags, strong_etags},
};
use crate::{content::read::OpenFile, metrics::Metrics, upload::Slot};

/// RFC 5987 `attr-char`.
const KEPT_IN_PARAMETER: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

/// What a content is.
#[derive(Debug, Clone, Copy)]
pub struct Described<'a> {
    /// Its name.
    pub name: &'a Name,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// `local`, or the URL of a provider; empty while nobody has verified the bytes.
    pub source: &'a str,
}

/// What a request for a content comes to.
pub enum Prepared {
    /// The whole answer.
    Answered(HttpResponse),
    /// These bytes are to follow.
    Body(HttpResponseBuilder, Range<u64>),
}

/// Which bytes of a content of `size` bytes the request asks for.
pub fn asked(request: &HttpRequest, digest: &Digest, size: u64) -> Asked {
    let text = |name| {
        request
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    // Ranges are defined for GET alone (RFC 9110, section 14.2).
    let range = text(header::RANGE).filter(|_| *request.method() == Method::GET);
    // A date cannot be compared with a digest, so only an equal tag lets the range stand.
    match text(header::IF_RANGE) {
        Some(tag) if tag.trim() != format!("\"{digest}\"") => Asked::Whole,
        _ => range::asked(range, size),
    }
}

/// Decides on status and headers; conditions in the order of RFC 9110, section 13.2.2.
pub fn prepare(request: &HttpRequest, content: &Described<'_>) -> Result<Prepared, ApiError> {
    let tag = content.digest.to_string();
    refuse_unmatched(request, Some(&tag))?;
    let not_modified = request
        .headers()
        .get(header::IF_NONE_MATCH)
        .is_some_and(|value| etags(value).is_none_or(|tags| tags.contains(&tag)));
    if not_modified {
        return Ok(Prepared::Answered(
            builder(StatusCode::NOT_MODIFIED, content).finish(),
        ));
    }
    let (status, range) = match asked(request, &content.digest, content.size) {
        Asked::Whole => (StatusCode::OK, 0..content.size),
        Asked::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        Asked::NotSatisfiable => return Err(ApiError::range_not_satisfiable(content.size)),
    };
    let mut builder = builder(status, content);
    if status == StatusCode::PARTIAL_CONTENT {
        let value = format!("bytes {}-{}/{}", range.start, range.end - 1, content.size);
        builder.insert_header((header::CONTENT_RANGE, value));
    }
    if request.method() == Method::HEAD {
        let length = range.end - range.start;
        let nothing = stream::empty::<Result<Bytes, io::Error>>();
        return Ok(Prepared::Answered(
            builder.body(SizedStream::new(length, nothing)),
        ));
    }
    Ok(Prepared::Body(builder, range))
}

/// `If-Match`; `tag` is that of the content, where it is known.
pub fn refuse_unmatched(request: &HttpRequest, tag: Option<&str>) -> Result<(), ApiError> {
    let mut lines = request.headers().get_all(header::IF_MATCH).peekable();
    let matches = |line| {
        strong_etags(line).is_none_or(|tags| tags.iter().any(|one| Some(one.as_str()) == tag))
    };
    if lines.peek().is_none() || lines.any(matches) {
        return Ok(());
    }
    Err(ApiError::new(
        Kind::PreconditionFailed,
        match tag {
            Some(tag) => format!("the content has the digest {tag}"),
            None => "nobody knows the digest of the content".to_owned(),
        },
    ))
}

fn builder(status: StatusCode, content: &Described<'_>) -> HttpResponseBuilder {
    let mut builder = HttpResponse::build(status);
    for header in content_headers(content) {
        builder.insert_header(header);
    }
    builder
}

/// The headers of every answer with a content.
pub fn content_headers(content: &Described<'_>) -> Vec<(&'static str, String)> {
    let mut headers = name_headers(content.name);
    headers.extend([
        ("etag", format!("\"{}\"", content.digest)),
        ("accept-ranges", "bytes".to_owned()),
    ]);
    if !content.source.is_empty() {
        headers.extend([
            (HEADER_VERIFIED, "blake3".to_owned()),
            (HEADER_SOURCE, content.source.to_owned()),
        ]);
    }
    headers
}

/// The headers that follow from the name, put into a builder.
pub fn describe_name(builder: &mut HttpResponseBuilder, name: &Name) {
    for header in name_headers(name) {
        builder.insert_header(header);
    }
}

/// The headers that follow from the name. Content is other people's: a browser is to save it,
/// and never to run it as a page of this peer.
fn name_headers(name: &Name) -> Vec<(&'static str, String)> {
    let file_name = name.file_name();
    let plain: String = file_name
        .chars()
        .map(|c| {
            if c.is_ascii_graphic() && !matches!(c, '"' | '\\' | '%') || c == ' ' {
                c
            } else {
                '_'
            }
        })
        .collect();
    let encoded = utf8_percent_encode(file_name, KEPT_IN_PARAMETER);
    let content_type = mime_guess::from_path(file_name).first_or_octet_stream();
    vec![
        ("content-type", content_type.to_string()),
        (
            "content-disposition",
            format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}"),
        ),
        ("x-content-type-options", "nosniff".to_owned()),
        (
            "content-security-policy",
            "sandbox; default-src 'none'".to_owned(),
        ),
        ("cache-control", "no-cache".to_owned()),
    ]
}

/// A body of exactly `length` bytes, sent as [`sent`] says; it holds `slot` to its end.
pub fn body<E: Into<Box<dyn std::error::Error>> + 'static>(
    mut builder: HttpResponseBuilder,
    length: u64,
    shared: &Shared,
    bytes: impl Stream<Item = Result<Bytes, E>> + 'static,
    slot: Option<Slot>,
) -> HttpResponse {
    let bytes = bytes.inspect(move |_| {
        let _held_while_it_lives = &slot;
    });
    builder.body(SizedStream::new(length, sent(shared, bytes)))
}

/// The same bytes, no faster than `UPLOAD_LIMIT` allows, counted as they go.
pub fn sent<E: 'static>(
    shared: &Shared,
    bytes: impl Stream<Item = Result<Bytes, E>> + 'static,
) -> impl Stream<Item = Result<Bytes, E>> + Unpin + 'static {
    let running = Metrics::running(&shared.metrics.uploads);
    let metrics = shared.metrics.clone();
    let bytes = shared.upload_limit.clone().pace(bytes.boxed_local());
    bytes
        .inspect(move |chunk| {
            let _counted_while_it_lives = &running;
            if let Ok(chunk) = chunk {
                metrics.bytes_sent.inc_by(chunk.len() as u64);
            }
        })
        .boxed_local()
}

/// Answers with a file that is held here.
pub fn file(
    request: &HttpRequest,
    name: &Name,
    file: OpenFile,
    shared: &Shared,
    slot: Option<Slot>,
) -> Result<HttpResponse, ApiError> {
    let entry = file.entry().clone();
    let content = Described {
        name,
        digest: entry.digest,
        size: entry.stamp.size,
        source: "local",
    };
    Ok(match prepare(request, &content)? {
        Prepared::Answered(response) => response,
        Prepared::Body(builder, range) => {
            let length = range.end - range.start;
            body(builder, length, shared, file.stream(range), slot)
        }
    })
}
