//! `GET /v1/events`: server-sent events. `event:` names the type, `data:` is its JSON on one line,
//! `id:` grows by one with each event; `Last-Event-ID` brings what was missed, as far as it is
//! still remembered, or else an event `reset` first.

use serde::{Deserialize, Serialize};

use crate::{
    Digest, Name,
    body::{DownloadState, Origin},
};

/// `event:` of a [`Transfer`].
pub const TRANSFER: &str = "transfer";
/// `event:` of a [`FileChange`].
pub const FILE: &str = "file";
/// `event:` of a [`crate::body::Peer`].
pub const NEIGHBOUR: &str = "neighbour";
/// `event:` that says that events were missed; its data is `{}`.
pub const RESET: &str = "reset";

/// How the fetching of a content does: told when it begins, a few times a second while it
/// changes, and when it ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Transfer {
    /// What is fetched.
    pub name: Name,
    /// Its content.
    pub digest: Digest,
    /// Bytes of it.
    pub size: u64,
    /// Where it is in its life.
    pub state: DownloadState,
    /// Bytes verified so far, those of earlier tries included.
    pub verified_bytes: u64,
    /// Bytes received in vain: wrong, or twice.
    pub wasted_bytes: u64,
    /// Verified bytes a second, of late.
    pub bytes_a_second: u64,
    /// Providers known.
    pub providers_known: u32,
    /// Providers that sent something, or failed to; at most 64.
    pub providers: Vec<TransferProvider>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What a transfer has of one provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferProvider {
    /// `http[s]://host:port`.
    pub url: String,
    /// Pieces that came from it and were verified.
    pub pieces: u32,
    /// Whether something is on its way from it now.
    pub active: bool,
    /// What it last did wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// A file that the own peer came to hold, or holds no longer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileChange {
    /// Which of both.
    pub change: Presence,
    /// Its name.
    pub name: Name,
    /// Its content.
    pub digest: Digest,
    /// Bytes; those that it had when it is gone.
    pub size: u64,
    /// Where it is from; absent when it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// Whether a file is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Presence {
    /// It is held now.
    Added,
    /// It is not any more.
    Removed,
}
