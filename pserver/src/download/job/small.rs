//! A small content: one request, checked and handed out from memory, kept without a part.
//!
//! Nothing of it is worth resuming, so nothing of it touches the disk before it is whole.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use vecino_rest::{Digest, PeerUrl};

use super::{Place, run::Run, transfer::time_for};
use crate::download::{JobError, roster::Fault};

/// Contents up to so many bytes are small: 256 jobs of them take 16 MiB.
pub(super) const SMALL: u64 = 64 << 10;

impl Run<'_> {
    /// Fetches the whole content into memory.
    pub(super) async fn fetch_small(&self) -> Result<Bytes, JobError> {
        let job = self.job;
        let bytes = if job.layout.size() == 0 {
            if Digest::of(b"") != job.digest {
                return Err(JobError::Verification(
                    "its providers say that it is empty, which its digest is not of".to_owned(),
                ));
            }
            Bytes::new()
        } else {
            self.ask_somebody(async |url| self.ask_for_all(url).await)
                .await?
        };
        // Only this task sets it.
        let _ = job.place.set(Place::Memory(bytes.clone()));
        job.verified(0);
        Ok(bytes)
    }

    async fn ask_for_all(&self, url: &PeerUrl) -> Result<Bytes, Fault> {
        let job = self.job;
        let began = Instant::now();
        let mut incoming = self
            .tools
            .source
            .run(url, &job.digest, &job.layout, &(0..1))
            .await?;
        let size = usize::try_from(job.layout.size()).expect("a small content fits in memory");
        let mut bytes = BytesMut::with_capacity(size);
        let held = incoming.held.clone();
        let all = async {
            while let Some(chunk) = incoming.next().await? {
                if bytes.len() + chunk.len() > size {
                    return Err(Fault::Wrong("more bytes than the content has".to_owned()));
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(())
        };
        let all = held.within(time_for(job.layout.size()), all).await;
        all.unwrap_or_else(|| Err(Fault::Failed("too slow".to_owned())))?;
        if bytes.len() < size {
            return Err(Fault::Short);
        }
        if Digest::of(&bytes) != job.digest {
            return Err(Fault::Wrong("piece 0 is not what it should be".to_owned()));
        }
        let _ = job.source.set(url.clone());
        let metrics = &self.tools.metrics;
        metrics.pieces_verified.inc();
        metrics.bytes_received.inc_by(bytes.len() as u64);
        log::debug!("{} bytes from {url} in {:?}", bytes.len(), began.elapsed());
        Ok(bytes.freeze())
    }
}
