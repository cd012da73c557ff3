//! [`Discovering`]: the lines of a discovery, as they come.
//!
//! Invariant: the lines end with [`DiscoverEvent::End`] or with an error.

use std::time::Duration;

use actix_rt::time::timeout;
use awc::ClientResponse;
use futures_util::StreamExt;
use vecino_rest::{PeerUrl, overlay::DiscoverEvent};

use super::ApiError;

/// Longest line.
const MAX_LINE: usize = 16 * 1024;

/// A discovery that the own peer makes.
pub(crate) struct Discovering {
    origin: PeerUrl,
    response: ClientResponse,
    buffer: Vec<u8>,
    silence: Duration,
    ended: bool,
}

impl Discovering {
    /// Reads `response`, which may be silent for `silence`.
    pub(super) fn new(origin: PeerUrl, response: ClientResponse, silence: Duration) -> Self {
        Self {
            origin,
            response,
            buffer: Vec::new(),
            silence,
            ended: false,
        }
    }

    /// What happened next; `None` after the end.
    pub(crate) async fn next(&mut self) -> Result<Option<DiscoverEvent>, ApiError> {
        if self.ended {
            return Ok(None);
        }
        let line = self.line().await?;
        let event = serde_json::from_slice(&line).map_err(|error| ApiError::Garbled {
            origin: self.origin.clone(),
            what: error.to_string(),
        })?;
        self.ended = matches!(event, DiscoverEvent::End { .. });
        Ok(Some(event))
    }

    async fn line(&mut self) -> Result<Vec<u8>, ApiError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(end + 1);
                return Ok(std::mem::replace(&mut self.buffer, rest));
            }
            if self.buffer.len() > MAX_LINE {
                return Err(ApiError::Garbled {
                    origin: self.origin.clone(),
                    what: format!("a line of it is longer than {MAX_LINE} bytes"),
                });
            }
            let chunk = timeout(self.silence, self.response.next())
                .await
                .map_err(|_| ApiError::silent(&self.origin, self.silence))?
                .ok_or_else(|| ApiError::broken(&self.origin))?
                .map_err(|error| ApiError::receiving(&self.origin, error))?;
            self.buffer.extend_from_slice(&chunk);
        }
    }
}
