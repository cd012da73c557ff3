//! `GET /v1/blobs/DIGEST`: what is held, and what is verified of what is on its way, for peers and
//! whoever else checks what he receives.
//!
//! Invariants: only verified bytes are sent; a file that changed is noticed before and after each
//! chunk, and the connection ends in the middle then.

use std::{fs::File, io, iter, ops::Range, sync::Arc};

use tokio::{net::TcpStream, time::timeout};
use vecino_rest::{Digest, Name, piece::Layout};

use super::{
    connection::{Answered, ELSEWHERE, HERE, Sender},
    head::Request,
    sendfile,
    slots::{self, What},
};
use crate::{
    api::{blobs::busy, respond::Described},
    content::read::OpenFile,
    download::job::Job,
    metrics::Metrics,
    welcome::Welcome,
};

/// What of a content is sent.
enum Body {
    /// A file that is held.
    Held(OpenFile),
    /// What is verified of one that is on its way.
    Coming(Arc<Job>, Arc<File>),
}

impl Sender {
    /// Answers a request for the blob `digest`.
    pub(super) async fn blob(
        &self,
        stream: &mut TcpStream,
        request: &Request,
        digest: Digest,
        welcome: Option<&Welcome>,
    ) -> io::Result<Answered> {
        let Some((body, name, size)) = self.open(&digest).await else {
            return Ok(ELSEWHERE);
        };
        let Some(mut sent) = request
            .bytes_of(size)
            .filter(|sent| body.holds(&sent.range))
        else {
            return Ok(ELSEWHERE);
        };
        let asker = stream.peer_addr()?;
        let range = &sent.range;
        let others = others(welcome, &body, range, size);
        let what = What {
            digest,
            along: slots::along(range, size),
            offsets: iter::once(range)
                .chain(&others)
                .map(|bytes| bytes.start)
                .collect(),
        };
        let bytes = range.end - range.start;
        let slots = &self.worker.shared.slots;
        let Ok((slot, offset)) = slots.take(asker.ip(), what, bytes).await else {
            self.refuse(stream, request, &busy()).await?;
            return Ok(HERE);
        };
        if slot.is_waited_for() && sendfile::is_gone(stream) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if let Some(other) = others.into_iter().find(|other| other.start == offset) {
            sent.range = other;
        }
        if slot.is_one_of_many(asker.ip()) {
            let congestion = self.worker.shared.congestion;
            congestion.beside_others(stream, asker.ip());
        }
        log::debug!("sends {offset} to {asker}");
        let content = Described {
            name: &name,
            digest,
            size,
            source: "local",
        };
        self.begin(stream, request, &content, &sent).await?;
        let _running = Metrics::running(&self.worker.shared.metrics.uploads);
        self.send_file(stream, body.file(), sent.range, || body.is_same())
            .await?;
        if slot.is_waited_for() {
            let _ = timeout(self.unread, sendfile::nearly_sent(stream)).await;
        }
        Ok(HERE)
    }

    /// What there is of a content: its bytes, name and size.
    async fn open(&self, digest: &Digest) -> Option<(Body, Name, u64)> {
        let shared = &self.worker.shared;
        if let Some(entry) = shared.store.catalogue().by_digest(digest) {
            let file = shared.store.read(entry).await.ok()??;
            let (name, size) = (file.entry().name.clone(), file.entry().stamp.size);
            return Some((Body::Held(file), name, size));
        }
        let job = shared.downloads.job(digest)?;
        let file = job.file()?;
        let (name, size) = (job.name(), job.layout.size());
        Some((Body::Coming(job, file), name, size))
    }
}

impl Body {
    fn file(&self) -> &Arc<File> {
        match self {
            Self::Held(file) => file.file(),
            Self::Coming(_, file) => file,
        }
    }

    fn holds(&self, bytes: &Range<u64>) -> bool {
        match self {
            Self::Held(_) => true,
            Self::Coming(job, _) => job.holds(bytes),
        }
    }

    /// Whether it still is what was hashed.
    fn is_same(&self) -> io::Result<bool> {
        match self {
            Self::Held(file) => file.may_be_sent(),
            Self::Coming(job, file) => job.is_unchanged(file),
        }
    }
}

/// The pieces that are as welcome as the one that is asked for, as far as they are held.
fn others(
    welcome: Option<&Welcome>,
    body: &Body,
    range: &Range<u64>,
    size: u64,
) -> Vec<Range<u64>> {
    let (Some(welcome), Some(layout)) = (welcome, Layout::of(size)) else {
        return Vec::new();
    };
    let asked = layout.piece_at(range.start);
    if layout.range(asked) != *range {
        return Vec::new();
    }
    let others = welcome.pieces().filter(|&piece| piece != asked);
    others
        .take_while(|&piece| piece < layout.pieces())
        .map(|piece| layout.range(piece))
        .filter(|bytes| body.holds(bytes))
        .collect()
}
