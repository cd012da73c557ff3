//! [`Provider`]: a fixture that holds one content, and gives it as honestly as a test says.

use std::{ops::Range, sync::Arc, time::Duration};

use tokio::sync::watch;
use vecino_rest::{body::Pieces, piece::Layout, route};

use super::{
    content::{Content, PIECE},
    fixture::{Fixture, Reply, Seen},
};

/// See [`Provider::slow`].
pub(crate) struct Slow {
    pub(crate) provider: Provider,
    hurry: watch::Sender<bool>,
}

impl Slow {
    /// From now on it is as fast as any.
    pub(crate) fn hurry(&self) {
        self.hurry.send_replace(true);
    }
}

impl std::ops::Deref for Slow {
    type Target = Provider;

    fn deref(&self) -> &Provider {
        &self.provider
    }
}

/// Bends an honest reply to a request for bytes.
pub(crate) type Bend = Arc<dyn Fn(Reply, &Seen) -> Reply + Send + Sync>;

/// See the module.
pub(crate) struct Provider {
    pub(crate) fixture: Fixture,
    pub(crate) content: Content,
}

impl Provider {
    pub(crate) async fn honest(content: &Content) -> Self {
        Self::bent(content, |reply, _| reply).await
    }

    /// Holds `content`; what it answers goes through `bend`, piece hashes included.
    pub(crate) async fn bent(
        content: &Content,
        bend: impl Fn(Reply, &Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let held = content.clone();
        let conduct = move |seen: &Seen| bend(honest(&held, seen), seen);
        Self {
            fixture: Fixture::start(Arc::new(conduct)).await,
            content: content.clone(),
        }
    }

    /// So slow that a test can act in the middle, until it is told to hurry.
    pub(crate) async fn slow(content: &Content) -> Slow {
        let (hurry, told) = watch::channel(false);
        let provider = Self::bent(content, move |mut reply, seen| {
            if is_for_bytes(seen) {
                reply.pace = Some((PIECE / 4, Duration::from_millis(200)));
                reply.hurry = Some(told.clone());
            }
            reply
        })
        .await;
        Slow { provider, hurry }
    }

    /// The bytes that it was asked for so far, request by request.
    pub(crate) fn ranges(&self) -> Vec<Range<u64>> {
        let path = route::blob(&self.content.digest);
        let all = self.fixture.seen();
        let blobs = all.iter().filter(|seen| seen.path == path);
        blobs.map(|seen| asked(seen, self.content.len())).collect()
    }
}

/// What the requests for `ranges` ask for together, each byte at most once.
pub(crate) fn once(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            Some(last) => {
                assert!(last.end < range.start, "{range:?} is asked for twice");
                joined.push(range);
            }
            None => joined.push(range),
        }
    }
    joined
}

/// Whether it is a request for bytes, and not for what the provider has or for piece hashes.
pub(crate) fn is_for_bytes(seen: &Seen) -> bool {
    !seen.path.ends_with("/pieces") && !is_for_have(seen)
}

/// Whether it asks what the provider has.
pub(crate) fn is_for_have(seen: &Seen) -> bool {
    let path = seen.path.split('?').next();
    path.is_some_and(|path| path.ends_with("/have"))
}

fn asked(seen: &Seen, size: u64) -> Range<u64> {
    let Some(range) = seen.header("range") else {
        return 0..size;
    };
    let parts = range.strip_prefix("bytes=").and_then(|r| r.split_once('-'));
    let (first, last) = parts.expect("a range");
    first.parse().expect("first")..last.parse::<u64>().expect("last") + 1
}

/// What a peer that holds `content` answers.
pub(crate) fn honest(content: &Content, seen: &Seen) -> Reply {
    if seen.path == route::pieces(&content.digest) {
        return Reply::json(&Pieces {
            digest: content.digest,
            size: content.len(),
            piece_size: Layout::of(content.len()).expect("small").piece_size(),
            pieces: content.pieces.clone(),
        });
    }
    if seen.path != route::blob(&content.digest) {
        return Reply::new("404 Not Found", "");
    }
    let range = asked(seen, content.len());
    let status = if seen.header("range").is_some() {
        "206 Partial Content"
    } else {
        "200 OK"
    };
    let mut reply = Reply::new(status, content.slice(range.clone()));
    reply.offset = range.start;
    reply
}

impl Reply {
    /// One bit at this place of the content is wrong.
    pub(crate) fn flipped(mut self, at: u64) -> Self {
        let at = at.checked_sub(self.offset);
        if let Some(byte) = at.and_then(|at| self.body.get_mut(at as usize)) {
            *byte ^= 0b100;
        }
        self
    }
}
