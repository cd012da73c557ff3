//! [`Stamp`]: what tells, without reading it, that a file is the one that was hashed.

use std::{fs::Metadata, os::unix::fs::MetadataExt};

/// Size, times and inode of a file. The change time is part of it because a rewrite may put the
/// modified time back, but nothing can put the change time back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Bytes.
    pub size: u64,
    /// Last modified, in nanoseconds since 1970.
    pub modified_ns: i64,
    /// Last changed (content, owner, links), in nanoseconds since 1970.
    pub changed_ns: i64,
    /// Which file of its file system.
    pub inode: u64,
}

impl Stamp {
    /// Bytes of [`Stamp::to_bytes`].
    pub const LEN: usize = 32;

    /// The stamp of a file with this metadata.
    pub fn of(metadata: &Metadata) -> Self {
        let ns = |seconds: i64, ns: i64| seconds.saturating_mul(1_000_000_000).saturating_add(ns);
        Self {
            size: metadata.size(),
            modified_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
        }
    }

    /// Last modified, in milliseconds since 1970.
    pub fn modified_ms(&self) -> i64 {
        self.modified_ns.div_euclid(1_000_000)
    }

    /// The later of both times, in nanoseconds since 1970.
    pub fn latest_ns(&self) -> i64 {
        self.modified_ns.max(self.changed_ns)
    }

    /// Whether `now` is this file, with nothing changed but its change time. An open file that lost
    /// its name, and only its name, is like that.
    pub fn is_but_for_changed(&self, now: &Self) -> bool {
        let changed_ns = self.changed_ns;
        *self == Self { changed_ns, ..*now }
    }

    /// Its form in the index.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.size.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.modified_ns.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.changed_ns.to_le_bytes());
        bytes[24..].copy_from_slice(&self.inode.to_le_bytes());
        bytes
    }

    /// Reads [`Stamp::to_bytes`].
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            word
        };
        Self {
            size: u64::from_le_bytes(word(0)),
            modified_ns: i64::from_le_bytes(word(8)),
            changed_ns: i64::from_le_bytes(word(16)),
            inode: u64::from_le_bytes(word(24)),
        }
    }
}
