//! Fetches from one provider: piece hashes, which pieces it has, a run of pieces, or the bytes of
//! a first-system provider.
//!
//! It checks the form of what comes (status, length, time), never the content: that is
//! [`crate::content::part::PieceWriter`]'s. Every wait here is bounded, and so is every body.

use std::{
    cell::Cell,
    ops::Range,
    pin::pin,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, Response, StatusCode,
    body::{Body, Incoming as HyperBody},
    header,
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{sync::Semaphore, time::timeout};
use vecino_rest::{
    Digest, Name, PeerUrl,
    body::{Have, Pieces},
    frozen,
    piece::Layout,
    route,
};

use super::{
    bits::Bits,
    provider_url::{self, Resolver},
    roster::Fault,
};
use crate::{
    content::verify,
    limit::Limiter,
    welcome::{self, Welcome},
};

/// How long a provider may take to begin its answer, connecting included.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long connecting may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// How long a provider may be silent within an answer.
const SILENT_FOR: Duration = Duration::from_secs(10);
/// An idle connection is kept for so long: less than the other side keeps it.
const IDLE_FOR: Duration = Duration::from_secs(30);
/// Idle connections kept to one provider.
const MAX_IDLE: usize = 8;
/// Bytes read from a connection at once.
const READ_BUFFER: usize = 512 << 10;
/// JSON of one piece hash, in bytes.
const PIECE_IN_JSON: usize = 2 * Digest::LEN + 3;
/// Piece lists up to so many bytes need nobody's leave; they come within one `SILENT_FOR`.
const SMALL_LIST: usize = 1 << 20;
/// Bytes of a long piece list that come in a second, at least.
const LIST_BYTES_A_SECOND: usize = 2 << 20;
/// A long poll is answered within this; the other side holds it for less.
const POLL_WITHIN: Duration = Duration::from_secs(40);
/// The longest that a busy provider makes us wait.
const LONGEST_RETRY: Duration = Duration::from_secs(2);

type HttpClient = Client<HttpsConnector<HttpConnector<Resolver>>, Empty<Bytes>>;

/// See the module. One a worker: its connections belong to it.
#[derive(Clone)]
pub struct Source {
    /// Asks what a provider has. Connections of their own: one that has seen a question is the
    /// provider's web server's from then on, and content goes faster without it.
    questions: HttpClient,
    /// Fetches content.
    content: HttpClient,
    /// Whether this peer is itself on loopback, and so may have providers there.
    on_loopback: bool,
    /// Bounds how many long lists of piece hashes are in memory at once.
    piece_lists: Arc<Semaphore>,
    /// How fast content comes in, from all providers together.
    limit: Arc<Limiter>,
}

/// A body that is coming in, in chunks of the network's choosing.
#[derive(Debug)]
pub struct Incoming {
    body: HyperBody,
    /// Bytes, when the provider says.
    pub length: Option<u64>,
    /// How long it was kept waiting by our own limit.
    pub held: Rc<Held>,
    limit: Arc<Limiter>,
}

/// Time for which the limit of this peer, and not the provider, kept a body waiting.
#[derive(Debug, Default)]
pub struct Held {
    before: Cell<Duration>,
    since: Cell<Option<Instant>>,
}

impl Held {
    fn begins(&self) {
        self.since.set(Some(Instant::now()));
    }

    fn ends(&self) {
        self.before.set(self.so_far(Instant::now()));
        self.since.set(None);
    }

    fn so_far(&self, now: Instant) -> Duration {
        let since = self.since.get();
        let now = since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        self.before.get() + now
    }

    /// What `work` came to; `None` when it took longer than `within`, time that it was held not
    /// counted.
    pub async fn within<T>(&self, within: Duration, work: impl Future<Output = T>) -> Option<T> {
        let (began, before) = (Instant::now(), self.so_far(Instant::now()));
        let mut work = pin!(work);
        loop {
            let held = self.so_far(Instant::now()) - before;
            let rest = (within + held).saturating_sub(began.elapsed());
            if rest.is_zero() {
                return None;
            }
            if let Ok(done) = timeout(rest, &mut work).await {
                return Some(done);
            }
        }
    }
}

/// What a partial provider says of its pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holdings {
    /// Changes with the rest.
    pub version: u64,
    /// What it has; `None`: everything.
    pub have: Option<Bits>,
    /// What it is fetching.
    pub coming: Bits,
}

impl Holdings {
    /// What it has or is fetching.
    pub fn all(&self) -> Bits {
        let nothing = Bits::default();
        self.coming.or(self.have.as_ref().unwrap_or(&nothing))
    }
}

impl Incoming {
    fn of(response: Response<HyperBody>, limit: Arc<Limiter>) -> Self {
        let body = response.into_body();
        Self {
            length: body.size_hint().exact(),
            body,
            held: Rc::default(),
            limit,
        }
    }

    /// The next chunk; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        loop {
            match timeout(SILENT_FOR, self.body.frame()).await {
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(chunk) if chunk.is_empty() => {}
                    Ok(chunk) => {
                        // What is not read yet fills the connection, and so slows the provider
                        // down.
                        self.held.begins();
                        self.limit.take(chunk.len() as u64).await;
                        self.held.ends();
                        return Ok(Some(chunk));
                    }
                    // Trailers say nothing of interest.
                    Err(_) => {}
                },
                Ok(None) => return Ok(None),
                // The connection ended before the announced length.
                Ok(Some(Err(error))) if is_short(&error) => return Err(Fault::Short),
                Ok(Some(Err(error))) => return Err(Fault::Failed(chain(&error))),
                Err(_) => return Err(Fault::Failed(format!("silent for {SILENT_FOR:?}"))),
            }
        }
    }

    /// All of it, which may be so long and take so long.
    async fn all(mut self, most: usize, within: Duration) -> Result<Bytes, Fault> {
        let all = async {
            let mut all = BytesMut::new();
            while let Some(chunk) = self.next().await? {
                if all.len() + chunk.len() > most {
                    return Err(Fault::Failed(format!("more than {most} bytes")));
                }
                all.extend_from_slice(&chunk);
            }
            Ok(all.freeze())
        };
        timeout(within, all)
            .await
            .unwrap_or_else(|_| Err(Fault::Failed("too slow".to_owned())))
    }

    /// The chunks as they come; ends in an error when the provider fails.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, std::io::Error>> {
        stream::unfold(Some(self), async |incoming| {
            let mut incoming = incoming?;
            match incoming.next().await {
                Ok(chunk) => Some((Ok(chunk?), Some(incoming))),
                Err(fault) => Some((Err(std::io::Error::other(format!("{fault:?}"))), None)),
            }
        })
    }
}

/// Whether the connection ended in the middle.
fn is_short(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref());
    let kind = source.map(std::io::Error::kind);
    error.is_incomplete_message() || kind == Some(std::io::ErrorKind::UnexpectedEof)
}

/// An error with what it came of.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

impl Source {
    /// Fetches over connections of its own; follows no redirects.
    pub fn new(on_loopback: bool, piece_lists: Arc<Semaphore>, limit: Arc<Limiter>) -> Self {
        let mut tcp = HttpConnector::new_with_resolver(Resolver { on_loopback });
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_WITHIN));
        tcp.enforce_http(false);
        let connector = HttpsConnectorBuilder::new()
            .with_webpki_roots()
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let mut builder = Client::builder(TokioExecutor::new());
        builder
            .pool_idle_timeout(IDLE_FOR)
            .pool_max_idle_per_host(MAX_IDLE)
            .http1_max_buf_size(READ_BUFFER);
        Self {
            questions: builder.build(connector.clone()),
            content: builder.build(connector),
            on_loopback,
            piece_lists,
            limit,
        }
    }

    async fn get(
        &self,
        client: &HttpClient,
        url: &PeerUrl,
        path: &str,
        range: Option<(&Range<u64>, Option<&Welcome>)>,
        within: Duration,
    ) -> Result<Response<HyperBody>, Fault> {
        let failed = |why: String| Fault::Failed(why);
        // An address in the URL never meets the resolver, which checks what names lead to.
        provider_url::check(url, self.on_loopback).map_err(|error| failed(error.to_string()))?;
        let mut request = Request::get(url.join(path)).header(
            header::USER_AGENT,
            concat!("vecino/", env!("CARGO_PKG_VERSION")),
        );
        if let Some((range, welcome)) = range {
            let value = format!("bytes={}-{}", range.start, range.end - 1);
            request = request.header(header::RANGE, value);
            if let Some(welcome) = welcome {
                request = request.header(welcome::HEADER, welcome.to_header());
            }
        }
        let request = request
            .body(Empty::new())
            .map_err(|error| failed(error.to_string()))?;
        let answer = async {
            let answer = client.request(request).await;
            answer.map_err(|error| failed(chain(&error)))
        };
        timeout(within, answer)
            .await
            .unwrap_or_else(|_| Err(failed(format!("no answer within {within:?}"))))
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
        let response = self
            .get(
                &self.questions,
                url,
                &route::pieces(digest),
                None,
                ANSWER_WITHIN,
            )
            .await?;
        let incoming = refuse_unless(response, StatusCode::OK, Arc::default())?;
        let is_measured = incoming.length.is_some();
        let most = layout.pieces() as usize * PIECE_IN_JSON + 4096;
        let mut within = SILENT_FOR;
        let mut _permit = None;
        if most > SMALL_LIST {
            within += Duration::from_secs((most / LIST_BYTES_A_SECOND) as u64);
            let permit = timeout(SILENT_FOR, self.piece_lists.acquire()).await;
            // The semaphore lives as long as this.
            _permit = permit
                .map_err(|_| Fault::Failed("too many long piece lists at once".to_owned()))?
                .ok();
        }
        let body = incoming.all(most, within).await?;
        let wrong = |why: &str| Fault::Wrong(format!("piece hashes {why}"));
        let pieces: Pieces = match serde_json::from_slice(&body) {
            Ok(pieces) => pieces,
            Err(_) if is_measured => return Err(wrong("that cannot be read")),
            // It may have ended in the middle, without a length to tell by.
            Err(error) => return Err(Fault::Failed(format!("piece hashes: {error}"))),
        };
        if pieces.piece_size != layout.piece_size() {
            let other = format!("it cuts contents otherwise ({} bytes)", pieces.piece_size);
            return Err(Fault::Failed(other));
        }
        if verify::merge(layout, &pieces.pieces) != Some(*digest) {
            return Err(wrong("that do not merge to the digest"));
        }
        Ok(pieces.pieces)
    }

    /// Which pieces a provider has, once that is not `since` any more; waits for it, but not for the
    /// first answer.
    pub async fn have(
        &self,
        url: &PeerUrl,
        digest: &Digest,
        layout: &Layout,
        since: Option<u64>,
    ) -> Result<Holdings, Fault> {
        let mut path = route::have(digest);
        let mut within = ANSWER_WITHIN;
        if let Some(since) = since {
            path += &format!("?since={since}");
            within = POLL_WITHIN;
        }
        let response = self.get(&self.questions, url, &path, None, within).await?;
        let most = layout.pieces() as usize + 4096;
        let body = refuse_unless(response, StatusCode::OK, Arc::default())?
            .all(most, SILENT_FOR)
            .await?;
        let unreadable = || Fault::Failed("what it says of its pieces cannot be read".to_owned());
        let have: Have = serde_json::from_slice(&body).map_err(|_| unreadable())?;
        if have.size != layout.size() {
            return Err(Fault::Failed(format!(
                "it has {} bytes, not {}",
                have.size,
                layout.size()
            )));
        }
        let bits = |text: &str| {
            if text.is_empty() {
                return Ok(Bits::default());
            }
            Bits::from_hex(text, layout.pieces()).ok_or_else(unreadable)
        };
        Ok(Holdings {
            version: have.version,
            have: if have.whole {
                None
            } else {
                Some(bits(&have.have)?)
            },
            coming: bits(&have.coming)?,
        })
    }

    /// The bytes of the pieces in `run`.
    pub async fn run(
        &self,
        url: &PeerUrl,
        digest: &Digest,
        layout: &Layout,
        run: &Range<u32>,
    ) -> Result<Incoming, Fault> {
        let one_of = self.one_of(url, digest, layout, run, None).await;
        one_of.map(|(incoming, _)| incoming)
    }

    /// The bytes of the pieces in `run`, or of one that is as welcome; and the first piece of them.
    pub async fn one_of(
        &self,
        url: &PeerUrl,
        digest: &Digest,
        layout: &Layout,
        run: &Range<u32>,
        welcome: Option<&Welcome>,
    ) -> Result<(Incoming, u32), Fault> {
        let mut bytes = layout.range(run.start).start..layout.range(run.end - 1).end;
        let whole = bytes == (0..layout.size());
        let range = (!whole).then_some((&bytes, welcome));
        let response = self
            .get(
                &self.content,
                url,
                &route::blob(digest),
                range,
                ANSWER_WITHIN,
            )
            .await?;
        let expected = if whole {
            StatusCode::OK
        } else {
            StatusCode::PARTIAL_CONTENT
        };
        let sent = sent_range(&response);
        let incoming = refuse_unless(response, expected, self.limit.clone())?;
        let mut first = run.start;
        if let (Some(welcome), Some(sent)) = (welcome, sent)
            && sent != bytes
        {
            first = layout.piece_at(sent.start);
            if !welcome.has(first) || layout.range(first) != sent {
                return Err(Fault::Wrong(format!("bytes {sent:?}, which nobody wanted")));
            }
            bytes = sent;
        }
        match incoming.length {
            Some(length) if length != bytes.end - bytes.start => Err(Fault::Wrong(format!(
                "{length} bytes where the content has {}",
                bytes.end - bytes.start
            ))),
            _ => Ok((incoming, first)),
        }
    }

    /// The bytes that a provider of the first system has under `name`: nothing to check them
    /// against.
    pub async fn unverifiable(&self, url: &PeerUrl, name: &Name) -> Result<Incoming, Fault> {
        let path = format!("{}{}", frozen::DOWNLOAD, name.to_url_path());
        let response = self
            .get(&self.content, url, &path, None, ANSWER_WITHIN)
            .await?;
        refuse_unless(response, StatusCode::OK, self.limit.clone())
    }
}

/// The bytes that an answer says it has, if it does.
fn sent_range(response: &Response<HyperBody>) -> Option<Range<u64>> {
    let range = response.headers().get(header::CONTENT_RANGE)?;
    let range = range.to_str().ok()?.strip_prefix("bytes ")?;
    let (first, last) = range.split_once('/')?.0.split_once('-')?;
    let last: u64 = last.parse().ok()?;
    Some(first.parse().ok()?..last.checked_add(1)?)
}

/// The body of an answer with the expected status.
fn refuse_unless(
    response: Response<HyperBody>,
    expected: StatusCode,
    limit: Arc<Limiter>,
) -> Result<Incoming, Fault> {
    let status = response.status();
    if status == expected {
        return Ok(Incoming::of(response, limit));
    }
    if status == StatusCode::SERVICE_UNAVAILABLE {
        let seconds = response
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        if let Some(seconds) = seconds {
            return Err(Fault::Busy(Duration::from_secs(seconds).min(LONGEST_RETRY)));
        }
    }
    if status == StatusCode::NOT_FOUND {
        return Err(Fault::NotThere);
    }
    Err(Fault::Failed(format!("it answered {status}")))
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::sleep;

    use super::*;

    const SHORT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn only_time_that_the_own_limit_takes_does_not_count() {
        let held = Held::default();
        assert_eq!(held.within(SHORT, pending::<()>()).await, None);
        held.begins();
        let done = held.within(SHORT, sleep(4 * SHORT)).await;
        assert!(done.is_some(), "it was held all the time");
        held.ends();
        // What was held before is no credit.
        assert_eq!(held.within(SHORT, pending::<()>()).await, None);
    }
}
