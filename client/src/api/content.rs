//! [`Content`]: a file on its way, chunk by chunk, with what the headers say about it.
//!
//! Invariant: a `Content` that ends without an error had exactly the bytes that were announced,
//! where anything was announced. Whether they are the right ones is for `transfer` to find out.

use actix_rt::time::timeout;
use awc::{
    ClientResponse,
    http::{
        StatusCode,
        header::{self, HeaderMap},
    },
};
use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, StreamExt};
use vecino_rest::{Digest, PeerUrl, route};

use super::{ApiError, SILENCE_TIMEOUT};

/// From where to go on, and with which content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Resume {
    /// Bytes that are there.
    pub(crate) offset: u64,
    /// What they are the beginning of.
    pub(crate) digest: Digest,
}

/// A file on its way.
pub(crate) struct Content {
    /// What it should be, when the other side knows.
    pub(crate) digest: Option<Digest>,
    /// The first byte that comes.
    pub(crate) start: u64,
    /// Bytes of the whole, when known.
    pub(crate) total: Option<u64>,
    /// Where it begins to come from, as the own peer says.
    pub(crate) source: Option<String>,
    origin: PeerUrl,
    remaining: Option<u64>,
    response: ClientResponse,
    /// How it ended, right behind the bytes that were given out last.
    ended: Option<Result<(), ApiError>>,
}

impl Content {
    pub(super) fn new(origin: PeerUrl, response: ClientResponse) -> Result<Self, ApiError> {
        let headers = response.headers();
        let remaining = content_length(headers);
        let (start, total) = if response.status() == StatusCode::PARTIAL_CONTENT {
            let range = text(headers, header::CONTENT_RANGE.as_str());
            match range.and_then(parse_content_range) {
                Some(range) if remaining.is_none_or(|length| length == range.length()) => {
                    (range.first, Some(range.total))
                }
                _ => {
                    return Err(ApiError::Garbled {
                        origin,
                        what: "it is a part of the content without saying which".to_owned(),
                    });
                }
            }
        } else {
            (0, remaining)
        };
        Ok(Self {
            digest: etag_digest(headers),
            start,
            total,
            source: text(headers, route::HEADER_SOURCE).map(str::to_owned),
            remaining,
            origin,
            response,
            ended: None,
        })
    }

    /// The next bytes, and those that are there already behind them until there are `enough`;
    /// `None` after the last.
    pub(crate) async fn block(&mut self, enough: usize) -> Result<Option<Bytes>, ApiError> {
        if let Some(ended) = self.ended.take() {
            return ended.map(|()| None);
        }
        let Some(first) = self.chunk().await? else {
            return Ok(None);
        };
        let mut block = BytesMut::from(first);
        while block.len() < enough {
            match self.chunk().now_or_never() {
                Some(Ok(Some(chunk))) => block.extend_from_slice(&chunk),
                Some(ended) => {
                    self.ended = Some(ended.map(|_| ()));
                    break;
                }
                None => break,
            }
        }
        Ok(Some(block.freeze()))
    }

    /// The next bytes; `None` after the last.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, ApiError> {
        let next = timeout(SILENCE_TIMEOUT, self.response.next())
            .await
            .map_err(|_| ApiError::silent(&self.origin, SILENCE_TIMEOUT))?;
        match (next, &mut self.remaining) {
            (Some(Ok(chunk)), Some(remaining)) => {
                *remaining = remaining.saturating_sub(chunk.len() as u64);
                Ok(Some(chunk))
            }
            (Some(Ok(chunk)), None) => Ok(Some(chunk)),
            (Some(Err(error)), _) => Err(ApiError::receiving(&self.origin, error)),
            (None, Some(1..)) => Err(ApiError::broken(&self.origin)),
            (None, _) => Ok(None),
        }
    }

    /// Who sends it.
    pub(crate) fn origin(&self) -> &PeerUrl {
        &self.origin
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The announced length of a body.
pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    text(headers, header::CONTENT_LENGTH.as_str())?.parse().ok()
}

/// The digest in `ETag`; `None` for a tag of another kind, and for a weak one.
pub(super) fn etag_digest(headers: &HeaderMap) -> Option<Digest> {
    parse_etag(text(headers, header::ETAG.as_str())?)
}

fn parse_etag(tag: &str) -> Option<Digest> {
    let tag = tag.strip_prefix('"')?.strip_suffix('"')?;
    tag.parse().ok()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ContentRange {
    first: u64,
    last: u64,
    total: u64,
}

impl ContentRange {
    fn length(self) -> u64 {
        self.last - self.first + 1
    }
}

/// Reads `bytes FIRST-LAST/TOTAL` (RFC 9110, section 14.4), which must reach to the end: that is
/// the only kind of range that we ask for.
fn parse_content_range(text: &str) -> Option<ContentRange> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let range = ContentRange {
        first: number(first)?,
        last: number(last)?,
        total: number(total)?,
    };
    (range.first <= range.last && range.last.checked_add(1) == Some(range.total)).then_some(range)
}

fn number(digits: &str) -> Option<u64> {
    // `parse` alone takes a sign.
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_to_the_end_are_read() {
        let range = parse_content_range("bytes 5-9/10").unwrap();
        assert_eq!((range.first, range.length(), range.total), (5, 5, 10));
        for text in [
            "bytes 5-8/10",
            "bytes 9-5/10",
            "bytes */10",
            "bytes 5-9/*",
            "bytes +5-9/10",
            "5-9/10",
            "bytes 0-18446744073709551615/0",
            "bytes 0-99999999999999999999/1",
        ] {
            assert_eq!(parse_content_range(text), None, "{text}");
        }
    }

    #[test]
    fn only_a_strong_tag_with_a_digest_is_one() {
        let digest = Digest::of(b"x");
        assert_eq!(parse_etag(&format!("\"{digest}\"")), Some(digest));
        assert_eq!(parse_etag(&format!("W/\"{digest}\"")), None);
        assert_eq!(parse_etag(&digest.to_string()), None);
        assert_eq!(parse_etag("\"2f-5e\""), None);
        assert_eq!(parse_etag("\""), None);
    }

    proptest! {
        #[test]
        fn what_servers_write_is_read(first in 0..u64::MAX / 2, length in 1..u64::MAX / 2) {
            let total = first + length;
            let text = format!("bytes {first}-{}/{total}", total - 1);
            prop_assert_eq!(
                parse_content_range(&text),
                Some(ContentRange { first, last: total - 1, total })
            );
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text in "\\PC{0,40}|bytes [0-9/*-]{0,40}") {
            let _ = parse_content_range(&text);
            let _ = parse_etag(&text);
        }
    }
}
