//! A content of one piece at most, whose digest and size are known: one request, held in memory,
//! verified, and then written at once.
//!
//! Invariant: nothing touches the disk before all of it is there and right. It is not forced to
//! the disk: who fetches thousands of them does not wait for each, and hashes what is there when
//! run again.

use std::path::Path;

use vecino_rest::Digest;

use super::{Delivery, MAX_RETRIES, Order, RETRY_PAUSE, part};
use crate::{
    api::{ApiError, Content},
    failure::Failure,
};

/// Largest content that is held in memory: the smallest piece.
pub(crate) const MAX_SMALL: u64 = 1 << 20;

impl Order<'_> {
    /// Brings the content of `digest` and `size` (at most [`MAX_SMALL`]) to `target`.
    pub(crate) async fn deliver_small(
        &self,
        digest: Digest,
        size: u64,
        target: &Path,
    ) -> Result<Delivery, Failure> {
        let mut retries = 0;
        let (bytes, source) = loop {
            let cause = match self.open(None).await {
                Ok(mut content) => match self.whole(&mut content, digest, size).await? {
                    Ok(bytes) => break (bytes, content.source.take()),
                    Err(cause) => cause,
                },
                // A connection that was kept may be gone by now; one that cannot be made will not
                // be there a moment later.
                Err(cause @ ApiError::Unreachable { .. }) => return Err(self.failed(cause)),
                Err(cause) if !cause.is_break() => return Err(self.failed(cause)),
                Err(cause) => cause,
            };
            if retries == MAX_RETRIES {
                return Err(Failure::Stopped { cause, kept: None });
            }
            actix_rt::time::sleep(RETRY_PAUSE * 2_u32.pow(retries)).await;
            retries += 1;
        };
        let file = part::store(target, &bytes, self.if_exists)?;
        Ok(Delivery {
            file: Some(file),
            digest,
            size,
            verified: true,
            resumed: 0,
            source,
        })
    }

    /// All bytes of `content`, which must be those of `digest`; `Err` inside when it breaks off.
    async fn whole(
        &self,
        content: &mut Content,
        digest: Digest,
        size: u64,
    ) -> Result<Result<Vec<u8>, ApiError>, Failure> {
        self.check_offer(None, content)?;
        let wrong = |what: String| {
            let name = &self.wanted.name;
            Failure::Verification(format!("{name}: {what}; nothing was saved"))
        };
        if content.total.is_some_and(|total| total != size) {
            return Err(wrong(format!(
                "not the {size} bytes that it should have come"
            )));
        }
        self.observer.begin(0, Some(size), content.digest);
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
        loop {
            match content.chunk().await {
                Ok(Some(chunk)) => {
                    bytes.extend_from_slice(&chunk);
                    if bytes.len() as u64 > size {
                        return Err(wrong(format!("more than its {size} bytes came")));
                    }
                    self.observer.advance(chunk.len() as u64);
                    self.limiter.pay(chunk.len()).await;
                }
                Ok(None) => break,
                Err(cause) => return Ok(Err(cause)),
            }
        }
        let came = Digest::of(&bytes);
        if came != digest {
            return Err(wrong(format!(
                "the bytes that came have the digest {came}, which is not the expected one"
            )));
        }
        Ok(Ok(bytes))
    }
}
