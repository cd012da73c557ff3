//! From a store into lines. The store may be served meanwhile: each bucket is as it is when it is
//! read, and what changed since is noticed by the peers' fingerprints when they come to the new
//! store.

use std::future::Future;

use bytes::Bytes;
use vecino_rest::Digest;

use super::{ArchiveError, Counts, Line, Trailer, VERSION};
use crate::store::Store;

/// Accounts read in one step.
const ACCOUNTS_AT_ONCE: usize = 1_000;
/// Bytes that are sent at once.
const CHUNK: usize = 64 << 10;

/// Hands all lines to `send`, in chunks of some KiB; false of it ends the export.
pub async fn export<F: Future<Output = bool>>(
    store: &dyn Store,
    send: impl FnMut(Bytes) -> F,
) -> Result<(), ArchiveError> {
    let mut out = Out {
        send,
        chunk: Vec::new(),
        hasher: blake3::Hasher::new(),
        counts: Counts::default(),
    };
    out.line(&Line::VecinoExport(VERSION)).await?;
    let mut after = None;
    loop {
        let page = store.accounts(after.as_ref(), ACCOUNTS_AT_ONCE).await?;
        let Some(last) = page.last() else {
            break;
        };
        after = Some(last.user.clone());
        for account in page {
            out.counts.accounts += 1;
            out.line(&Line::Account(account.into())).await?;
        }
    }
    for (peer, row) in store.peers().await? {
        out.counts.peers += 1;
        out.line(&Line::Peer(row.into())).await?;
        for bucket in 0..=u8::MAX {
            for record in store.bucket(peer, bucket).await? {
                out.counts.records += 1;
                out.line(&Line::Record(record.into())).await?;
            }
        }
    }
    let digest = Digest::from_bytes(*out.hasher.finalize().as_bytes());
    let trailer = Trailer {
        counts: out.counts,
        blake3: digest,
    };
    out.line(&Line::End(trailer)).await?;
    out.flush().await
}

struct Out<S> {
    send: S,
    chunk: Vec<u8>,
    hasher: blake3::Hasher,
    counts: Counts,
}

impl<S: FnMut(Bytes) -> F, F: Future<Output = bool>> Out<S> {
    async fn line(&mut self, line: &Line) -> Result<(), ArchiveError> {
        let begun = self.chunk.len();
        serde_json::to_writer(&mut self.chunk, line).expect("a line is plain data");
        self.chunk.push(b'\n');
        self.hasher.update(&self.chunk[begun..]);
        if self.chunk.len() >= CHUNK {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), ArchiveError> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = Bytes::from(std::mem::take(&mut self.chunk));
        let taken = (self.send)(chunk).await;
        taken.then_some(()).ok_or(ArchiveError::Gone)
    }
}
