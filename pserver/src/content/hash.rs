//! Hashes a file once, and notices when it changes meanwhile.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::fs::OFlags;
use vecino_rest::{Digest, piece::Layout};

use super::{stamp::Stamp, verify};

/// A file whose last change is not older than this is still being written: its times could not
/// tell a further change from this one.
pub const SETTLE: Duration = Duration::from_millis(250);

/// What a file was when it was hashed.
#[derive(Debug, Clone)]
pub struct Hashed {
    /// The file.
    pub stamp: Stamp,
    /// Its content.
    pub digest: Digest,
    /// Its piece hashes, when there are several.
    pub pieces: Option<Arc<[Digest]>>,
}

/// Why a file was not hashed.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// It changed just now, or while it was read: try again later.
    #[error("it is being written")]
    Unsettled,
    /// It is gone, or no regular file.
    #[error("it is gone")]
    Gone,
    /// It is larger than anything Vecino shares.
    #[error("it is too large ({0} bytes)")]
    TooLarge(u64),
    /// Disk or permission.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Opens a regular file for reading, following no symbolic link and waiting for no pipe.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// Hashes the file at `path`; `settle` is how old its last change must be.
pub fn hash_file(path: &Path, settle: Duration) -> Result<Hashed, HashError> {
    let file = match open_regular(path) {
        Ok(file) => file,
        // A symbolic link gives ELOOP.
        Err(error) if error.kind() == io::ErrorKind::NotFound || is_loop(&error) => {
            return Err(HashError::Gone);
        }
        Err(error) => return Err(error.into()),
    };
    let before = Stamp::of(&file.metadata()?);
    if !is_settled(&before, SystemTime::now(), settle) {
        return Err(HashError::Unsettled);
    }
    let layout = Layout::of(before.size).ok_or(HashError::TooLarge(before.size))?;
    let pieces = match verify::hash_pieces(&layout, &file) {
        Ok(pieces) => pieces,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData
            ) =>
        {
            return Err(HashError::Unsettled);
        }
        Err(error) => return Err(error.into()),
    };
    if Stamp::of(&file.metadata()?) != before {
        return Err(HashError::Unsettled);
    }
    let digest =
        verify::merge(&layout, &pieces).expect("hash_pieces gives the pieces of its layout");
    let pieces = (pieces.len() > 1).then(|| pieces.into());
    Ok(Hashed {
        stamp: before,
        digest,
        pieces,
    })
}

fn is_loop(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
}

/// A change in the future (a clock that was set back) counts as settled: waiting would not end.
fn is_settled(stamp: &Stamp, now: SystemTime, settle: Duration) -> bool {
    let now = now
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos());
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let settle = i64::try_from(settle.as_nanos()).unwrap_or(i64::MAX);
    stamp.latest_ns() > now || now - stamp.latest_ns() >= settle
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_hashed_only_when_it_is_settled() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("file");
        std::fs::write(&path, b"content").expect("written");
        let hashed = hash_file(&path, Duration::ZERO).expect("hashed");
        assert_eq!(hashed.digest, Digest::of(b"content"));
        assert!(matches!(
            hash_file(&path, Duration::from_secs(3600)),
            Err(HashError::Unsettled)
        ));
    }

    #[test]
    fn links_directories_and_nothing_are_gone() {
        let dir = tempfile::tempdir().expect("temporary directory");
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).expect("linked");
        for path in [
            dir.path().join("link"),
            dir.path().to_owned(),
            dir.path().join("none"),
        ] {
            assert!(
                matches!(hash_file(&path, Duration::ZERO), Err(HashError::Gone)),
                "{path:?}"
            );
        }
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_stop_hashing() {
        let stamp = Stamp {
            size: 0,
            modified_ns: i64::MAX,
            changed_ns: 0,
            inode: 0,
        };
        assert!(is_settled(&stamp, SystemTime::now(), SETTLE));
    }
}
