//! [`Digest`], [`PeerId`] and [`PeerKey`]: fixed-size identifiers with one spelling each.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::hex;

/// Text that is not the identifier it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not a {what}: expected {digits} hex digits")]
pub struct InvalidId {
    what: &'static str,
    digits: usize,
    value: String,
}

/// Longest piece of a wrong value that an error repeats, in characters.
const SHOWN: usize = 80;

impl InvalidId {
    fn new(what: &'static str, digits: usize, value: &str) -> Self {
        Self {
            what,
            digits,
            value: value.chars().take(SHOWN).collect(),
        }
    }
}

macro_rules! identifier {
    ($name:ident, $bytes:literal, $what:literal) => {
        impl $name {
            /// How many bytes it has.
            pub const LEN: usize = $bytes;

            /// The identifier with these bytes.
            pub const fn from_bytes(bytes: [u8; $bytes]) -> Self {
                Self(bytes)
            }

            /// The identifier in `bytes`; `None` when their number is wrong.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }

            /// Its bytes.
            pub const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                hex::encode(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                hex::encode(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                hex::decode(text)
                    .map(Self)
                    .ok_or_else(|| InvalidId::new($what, 2 * $bytes, text))
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }
    };
}

/// BLAKE3 of a whole content; 64 hex digits in text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

identifier!(Digest, 32, "digest (BLAKE3)");

impl Digest {
    /// The digest of `content`.
    pub fn of(content: &[u8]) -> Self {
        blake3::hash(content).into()
    }
}

impl From<blake3::Hash> for Digest {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

/// Which peer; 32 hex digits in text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PeerId([u8; 16]);

identifier!(PeerId, 16, "peer id");

/// 32 random bytes that only the peer knows; who shows them owns the [`PeerId`] made of them.
///
/// Its `Debug` shows nothing of it, and it has no `Display`.
#[derive(Clone)]
pub struct PeerKey([u8; 32]);

impl PeerKey {
    /// How many bytes it has.
    pub const LEN: usize = 32;

    /// The key with these bytes; they must be random.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The id of the peer that owns this key.
    pub fn peer_id(&self) -> PeerId {
        let hash = blake3::derive_key("vecino 2026 peer id", &self.0);
        let mut id = [0; PeerId::LEN];
        id.copy_from_slice(&hash[..PeerId::LEN]);
        PeerId(id)
    }
}

impl fmt::Debug for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerKey(..)")
    }
}
