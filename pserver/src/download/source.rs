//! Fetches from one provider: piece hashes, a run of pieces, or the bytes of a first-system
//! provider.
//!
//! It checks the form of what comes (status, length, time), never the content: that is
//! [`crate::content::part::Part::admit`]'s. Every wait here is bounded.

use std::{ops::Range, sync::Arc, time::Duration};

use awc::{
    Client, ClientResponse,
    error::PayloadError,
    http::{StatusCode, header},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream::LocalBoxStream};
use tokio::{sync::Semaphore, time::timeout};
use vecino_rest::{Digest, Name, PeerUrl, body::Pieces, frozen, piece::Layout, route};

use super::{provider_url, roster::Fault};
use crate::content::verify;

/// How long a provider may take to begin its answer, connecting included.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long a provider may be silent within an answer.
const SILENT_FOR: Duration = Duration::from_secs(10);
/// JSON of one piece hash, in bytes.
const PIECE_IN_JSON: usize = 2 * Digest::LEN + 3;

/// See the module. One a worker.
#[derive(Clone)]
pub struct Source {
    client: Client,
    /// Whether this peer is itself on loopback, and so may have providers there.
    on_loopback: bool,
    /// Bounds how many lists of piece hashes are in memory at once.
    piece_lists: Arc<Semaphore>,
}

/// A body that is coming in, in chunks of the network's choosing.
pub struct Incoming {
    body: LocalBoxStream<'static, Result<Bytes, PayloadError>>,
    /// Bytes, when the provider says.
    pub length: Option<u64>,
}

impl Incoming {
    /// The next chunk; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        match timeout(SILENT_FOR, self.body.next()).await {
            Ok(Some(Ok(chunk))) => Ok(Some(chunk)),
            Ok(None) => Ok(None),
            // The connection ended before the announced length.
            Ok(Some(Err(PayloadError::Incomplete(_)))) => Err(Fault::Short),
            Ok(Some(Err(error))) => Err(Fault::Failed(error.to_string())),
            Err(_) => Err(Fault::Failed(format!("silent for {SILENT_FOR:?}"))),
        }
    }

    /// The chunks as they come; ends in an error when the provider fails.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, std::io::Error>> {
        futures_util::stream::unfold(Some(self), async |incoming| {
            let mut incoming = incoming?;
            match incoming.next().await {
                Ok(chunk) => Some((Ok(chunk?), Some(incoming))),
                Err(fault) => Some((Err(std::io::Error::other(format!("{fault:?}"))), None)),
            }
        })
    }
}

impl Source {
    /// Fetches over `client`, which follows no redirects.
    pub fn new(client: Client, on_loopback: bool, piece_lists: Arc<Semaphore>) -> Self {
        Self {
            client,
            on_loopback,
            piece_lists,
        }
    }

    async fn get(
        &self,
        url: &PeerUrl,
        path: &str,
        range: Option<&Range<u64>>,
    ) -> Result<ClientResponse, Fault> {
        let failed = |why: String| Fault::Failed(why);
        let address = timeout(ANSWER_WITHIN, provider_url::resolve(url, self.on_loopback))
            .await
            .map_err(|_| failed(format!("host {} takes too long to resolve", url.host())))?
            .map_err(|error| failed(error.to_string()))?;
        let mut request = self
            .client
            .get(url.join(path))
            .address(address)
            .timeout(ANSWER_WITHIN);
        if let Some(range) = range {
            let value = format!("bytes={}-{}", range.start, range.end - 1);
            request = request.insert_header((header::RANGE, value));
        }
        request
            .send()
            .await
            .map_err(|error| failed(error.to_string()))
    }

    /// The piece hashes of a content, which merge to its digest.
    pub async fn pieces(
        &self,
        url: &PeerUrl,
        digest: &Digest,
        layout: &Layout,
    ) -> Result<Vec<Digest>, Fault> {
        if layout.pieces() == 1 {
            return Ok(vec![*digest]);
        }
        // The semaphore lives as long as this.
        let _permit = self.piece_lists.acquire().await;
        let mut response = self.get(url, &route::pieces(digest), None).await?;
        let is_measured = response.headers().contains_key(header::CONTENT_LENGTH);
        if response.status() != StatusCode::OK {
            return Err(Fault::Failed(format!(
                "it answered {} for piece hashes",
                response.status()
            )));
        }
        let limit = layout.pieces() as usize * PIECE_IN_JSON + 4096;
        let body = match timeout(6 * SILENT_FOR, response.body().limit(limit)).await {
            Ok(Ok(body)) => body,
            Ok(Err(error)) => return Err(Fault::Failed(format!("piece hashes: {error}"))),
            Err(_) => return Err(Fault::Failed("piece hashes: too slow".to_owned())),
        };
        let wrong = |why: &str| Fault::Wrong(format!("piece hashes {why}"));
        let pieces: Pieces = match serde_json::from_slice(&body) {
            Ok(pieces) => pieces,
            Err(_) if is_measured => return Err(wrong("that cannot be read")),
            // It may have ended in the middle, without a length to tell by.
            Err(error) => return Err(Fault::Failed(format!("piece hashes: {error}"))),
        };
        if verify::merge(layout, &pieces.pieces) != Some(*digest) {
            return Err(wrong("that do not merge to the digest"));
        }
        Ok(pieces.pieces)
    }

    /// The bytes of the pieces in `run`.
    pub async fn run(
        &self,
        url: &PeerUrl,
        digest: &Digest,
        layout: &Layout,
        run: &Range<u32>,
    ) -> Result<Incoming, Fault> {
        let bytes = layout.range(run.start).start..layout.range(run.end - 1).end;
        let whole = bytes == (0..layout.size());
        let response = self
            .get(url, &route::blob(digest), (!whole).then_some(&bytes))
            .await?;
        let expected_status = if whole {
            StatusCode::OK
        } else {
            StatusCode::PARTIAL_CONTENT
        };
        if response.status() != expected_status {
            return Err(Fault::Failed(format!("it answered {}", response.status())));
        }
        let incoming = incoming(response);
        match incoming.length {
            Some(length) if length != bytes.end - bytes.start => Err(Fault::Wrong(format!(
                "{length} bytes where the content has {}",
                bytes.end - bytes.start
            ))),
            _ => Ok(incoming),
        }
    }

    /// The bytes that a provider of the first system has under `name`: nothing to check them
    /// against.
    pub async fn unverifiable(&self, url: &PeerUrl, name: &Name) -> Result<Incoming, Fault> {
        let path = format!("{}{}", frozen::DOWNLOAD, name.to_url_path());
        let response = self.get(url, &path, None).await?;
        if response.status() != StatusCode::OK {
            return Err(Fault::Failed(format!("it answered {}", response.status())));
        }
        Ok(incoming(response))
    }
}

fn incoming(response: ClientResponse) -> Incoming {
    let length = response
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    Incoming {
        body: response.boxed_local(),
        length,
    }
}
