//! [`Secret`]: by which a publisher proves to each holder that a message is its own.
//!
//! A token is between one publisher and one holder: what a holder learns is of no use at another.
//! The secret outlives restarts, so tokens do.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use vecino_rest::PeerId;

use crate::locate::overlay::Contact;

const FILE: &str = "chord-secret";

/// See the module; its `Debug` shows nothing.
pub(super) struct Secret([u8; 32]);

impl Secret {
    /// The secret in `data_dir`, made when there is none.
    pub(super) fn open(data_dir: &Path) -> io::Result<Self> {
        let path = data_dir.join(FILE);
        if let Ok(bytes) = fs::read(&path)
            && let Ok(bytes) = bytes.try_into()
        {
            return Ok(Self(bytes));
        }
        let bytes: [u8; 32] = rand::random();
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        Ok(Self(bytes))
    }

    /// One that is forgotten at the end.
    pub(super) fn random() -> Self {
        Self(rand::random())
    }

    /// What this peer shows to `holder`.
    pub(super) fn token_for(&self, holder: &PeerId) -> [u8; 32] {
        self.derive("vecino 2026 ring token", &[holder.as_bytes()])
    }

    /// Whether `token` is the one for `holder`, in constant time.
    pub(super) fn is_token_for(&self, holder: &PeerId, token: &[u8]) -> bool {
        subtle::ConstantTimeEq::ct_eq(&self.token_for(holder)[..], token).into()
    }

    /// What this peer remembers of a token that `sender` said to be its own.
    pub(super) fn proof(&self, sender: &Contact, token: &[u8; 32]) -> [u8; 32] {
        let (overlay, url) = (sender.overlay.to_string(), sender.url.to_string());
        self.derive(
            "vecino 2026 ring proof",
            &[token, overlay.as_bytes(), b" ", url.as_bytes()],
        )
    }

    fn derive(&self, context: &str, parts: &[&[u8]]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        hasher.update(&self.0);
        for part in parts {
            hasher.update(part);
        }
        hasher.finalize().into()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}
