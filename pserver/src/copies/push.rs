//! Pushes a content to one peer, which is hostile as anything else from outside: its URL is
//! resolved as a provider's is, and every wait and every answer is bounded.

use std::{cell::Cell, rc::Rc, sync::Arc, time::Duration};

use awc::{
    ClientRequest, ClientResponse,
    body::SizedStream,
    http::{StatusCode, header},
};
use futures_util::StreamExt;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::time::{Instant, sleep_until, timeout};
use vecino_rest::{Digest, PeerUrl, body::Stored, route};

use super::Copier;
use crate::{content::catalogue::Entry, download::provider_url, metrics::Metrics};

/// How long a peer may take to say whether it holds the content, connecting included.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How long it may take nothing of what is sent, or, when it has all, to check and store it.
const SILENT_FOR: Duration = Duration::from_secs(60);
/// Largest answer, in bytes.
const MAX_ANSWER: usize = 64 << 10;

impl Copier {
    /// Has the peer at `url` hold `entry`; the error says why it does not.
    pub(super) async fn push(
        &self,
        url: &PeerUrl,
        entry: &Arc<Entry>,
        within: Duration,
    ) -> Result<(), String> {
        let resolved = provider_url::resolve(url, self.on_loopback);
        let address = timeout(ANSWER_WITHIN, resolved)
            .await
            .map_err(|_| format!("host {} takes too long to resolve", url.host()))?
            .map_err(|error| error.to_string())?;
        let target = url.join(&route::blob(&entry.digest));
        let asked = self.client.head(&target).address(address);
        let is_held = holds(asked, &entry.digest).await?;
        let name = utf8_percent_encode(entry.name.as_str(), NON_ALPHANUMERIC);
        let request = self
            .client
            .put(format!("{target}?name={name}"))
            .address(address)
            .timeout(within);
        if is_held {
            // It copies what it has where that is under another name: no byte need be sent.
            let told = request.send_body("").await;
            return took(told.map_err(|error| error.to_string())?, &entry.digest).await;
        }
        let file = self.store.read(entry.clone()).await;
        let file = file.map_err(|error| error.to_string())?;
        let file = file.ok_or("the file changed meanwhile")?;
        let moved = Rc::new(Cell::new(Instant::now()));
        let sending = Metrics::running(&self.metrics.uploads);
        let (taken, sent) = (moved.clone(), self.metrics.bytes_sent.clone());
        let size = entry.stamp.size;
        let bytes = self.limit.clone().pace(file.stream(0..size).boxed_local());
        let bytes = bytes.inspect(move |chunk| {
            let _counted_while_it_lives = &sending;
            taken.set(Instant::now());
            if let Ok(chunk) = chunk {
                sent.inc_by(chunk.len() as u64);
            }
        });
        let put = async {
            let body = SizedStream::new(size, Box::pin(bytes));
            let sent = request.send_body(body).await;
            took(sent.map_err(|error| error.to_string())?, &entry.digest).await
        };
        tokio::select! {
            took = put => took,
            () = silence(&moved) => Err(format!("it took nothing for {SILENT_FOR:?}")),
        }
    }
}

/// Whether a peer says that it holds the content.
async fn holds(asked: ClientRequest, digest: &Digest) -> Result<bool, String> {
    let answer = asked.timeout(ANSWER_WITHIN).send().await;
    let answer = answer.map_err(|error| error.to_string())?;
    let tag = answer.headers().get(header::ETAG);
    let is_it = tag.is_some_and(|tag| tag.as_bytes() == format!("\"{digest}\"").as_bytes());
    Ok(answer.status() == StatusCode::OK && is_it)
}

/// What a peer says of the copy that it was sent.
async fn took(mut answer: ClientResponse, digest: &Digest) -> Result<(), String> {
    let status = answer.status();
    let body = timeout(ANSWER_WITHIN, answer.body().limit(MAX_ANSWER)).await;
    if !matches!(status, StatusCode::OK | StatusCode::CREATED) {
        return Err(format!("it answered {status}"));
    }
    let body = body.map_err(|_| "its answer does not end".to_owned())?;
    let body = body.map_err(|error| error.to_string())?;
    let stored: Stored = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
    if stored.digest == *digest {
        Ok(())
    } else {
        Err(format!("it says that it stored {}", stored.digest))
    }
}

/// Ends when nothing was taken for too long.
async fn silence(moved: &Cell<Instant>) {
    loop {
        let deadline = moved.get() + SILENT_FOR;
        if Instant::now() >= deadline {
            return;
        }
        sleep_until(deadline).await;
    }
}
