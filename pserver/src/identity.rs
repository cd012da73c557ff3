//! Who this peer is: the key in `DATA_DIR`, made at the first start, and the lock that keeps a
//! second peer out of the directory.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use vecino_rest::PeerKey;

use crate::content::mend;

/// The file in `DATA_DIR` that has the key.
pub const KEY_FILE: &str = "peer.key";
/// The file in `DATA_DIR` that is locked.
pub const LOCK_FILE: &str = "lock";

/// A peer that was told to end holds its directory until its transfers are over: so long at most.
const ENDS_WITHIN: Duration = Duration::from_secs(7);
/// How often that is looked at.
const PAUSE: Duration = Duration::from_millis(20);

/// The peer's key, and its hold on `DATA_DIR` for as long as this lives.
#[derive(Debug)]
pub struct Identity {
    /// Proves which peer this is; see [`PeerKey::peer_id`].
    pub key: PeerKey,
    _lock: File,
}

/// Why `DATA_DIR` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Somebody else holds it.
    #[error(
        "DATA_DIR={0:?} is in use by another peer: give each peer its own directory, or wait for \
         the one before to end"
    )]
    InUse(String),
    /// The file is there and not a key.
    #[error(
        "{0:?} is not a peer key (32 bytes expected): restore it, or remove it to become a new peer"
    )]
    BadKey(String),
    /// Disk or permission.
    #[error("DATA_DIR={0:?} cannot be used: {1}; {next}", next = mend(.1))]
    Io(String, #[source] io::Error),
}

impl Identity {
    /// Locks `data_dir` (made when missing) and reads the key in it, or makes one.
    pub fn open(data_dir: &Path) -> Result<Self, IdentityError> {
        let shown = || data_dir.display().to_string();
        let io = |error| IdentityError::Io(shown(), error);
        fs::create_dir_all(data_dir).map_err(io)?;
        let lock = private()
            .create(true)
            .write(true)
            .truncate(false)
            .open(data_dir.join(LOCK_FILE))
            .map_err(io)?;
        let (began, mut is_said) = (Instant::now(), false);
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if began.elapsed() < ENDS_WITHIN => {
                    if !std::mem::replace(&mut is_said, true) {
                        log::warn!(
                            "another peer has DATA_DIR={:?}: waits up to {ENDS_WITHIN:?} for it to end",
                            shown()
                        );
                    }
                    thread::sleep(PAUSE);
                }
                Err(TryLockError::WouldBlock) => return Err(IdentityError::InUse(shown())),
                Err(TryLockError::Error(error)) => return Err(io(error)),
            }
        }
        let key = load_or_make(&data_dir.join(KEY_FILE), data_dir).map_err(|error| {
            if error.kind() == io::ErrorKind::InvalidData {
                IdentityError::BadKey(data_dir.join(KEY_FILE).display().to_string())
            } else {
                io(error)
            }
        })?;
        Ok(Self { key, _lock: lock })
    }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

fn load_or_make(path: &Path, dir: &Path) -> io::Result<PeerKey> {
    match File::open(path) {
        Ok(file) => {
            let mut bytes = Vec::new();
            file.take(PeerKey::LEN as u64 + 1).read_to_end(&mut bytes)?;
            let bytes = bytes.try_into().map_err(|_| io::ErrorKind::InvalidData)?;
            Ok(PeerKey::from_bytes(bytes))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut bytes = [0; PeerKey::LEN];
            getrandom::fill(&mut bytes).map_err(io::Error::other)?;
            // Whole or not at all: a crash in between must not leave half a key.
            let temporary = path.with_extension("new");
            let mut file = private()
                .create(true)
                .write(true)
                .truncate(true)
                .open(&temporary)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, path)?;
            File::open(dir)?.sync_all()?;
            Ok(PeerKey::from_bytes(bytes))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_survives_and_the_directory_is_held_by_one() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let first = Identity::open(dir.path()).expect("new");
        assert!(matches!(
            Identity::open(dir.path()),
            Err(IdentityError::InUse(_))
        ));
        let id = first.key.peer_id();
        drop(first);
        assert_eq!(Identity::open(dir.path()).expect("again").key.peer_id(), id);
    }

    #[test]
    fn a_broken_key_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().expect("temporary directory");
        fs::write(dir.path().join("peer.key"), b"short").expect("written");
        assert!(matches!(
            Identity::open(dir.path()),
            Err(IdentityError::BadKey(_))
        ));
        assert_eq!(
            fs::read(dir.path().join("peer.key")).expect("read"),
            b"short"
        );
    }
}
