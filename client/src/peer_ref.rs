//! [`PeerRef`]: which peer `--from` means, parsed once.

use std::{fmt, str::FromStr};

use vecino_rest::{PeerId, PeerUrl};

/// A peer, by one of its two names; `locate` shows both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PeerRef {
    /// Its id.
    Id(PeerId),
    /// Where it is reached.
    Url(PeerUrl),
}

/// A text that is neither.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected the host:port of a peer, or its id of 32 hex digits; `locate NAME` shows both")]
pub(crate) struct InvalidPeerRef;

impl FromStr for PeerRef {
    type Err = InvalidPeerRef;

    fn from_str(text: &str) -> Result<Self, InvalidPeerRef> {
        if let Ok(id) = text.parse() {
            return Ok(Self::Id(id));
        }
        PeerUrl::parse_endpoint(text, None)
            .map(Self::Url)
            .map_err(|_| InvalidPeerRef)
    }
}

impl fmt::Display for PeerRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Url(url) => url.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<String> {
        text.parse::<PeerRef>().ok().map(|peer| peer.to_string())
    }

    #[test]
    fn a_peer_has_a_url_and_an_id() {
        let url = Some("http://127.0.0.1:9102".to_owned());
        assert_eq!(read("127.0.0.1:9102"), url);
        assert_eq!(read("http://127.0.0.1:9102/"), url);
        assert_eq!(
            read("https://Peer.example:1"),
            Some("https://peer.example:1".into())
        );
        let id = "07".repeat(16);
        assert_eq!(read(&id), Some(id));
        for text in ["", "peer", "127.0.0.1", "0707", "ftp://a:1", "a:1/x", ":1"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
