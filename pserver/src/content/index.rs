//! What was hashed before, kept over restarts: path and stamp → digest, digest → piece hashes.
//!
//! It is a cache of work: losing it costs hashing again and nothing else, so a file that cannot
//! be read is put aside and a new one begun.

use std::{
    collections::HashSet,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use vecino_rest::{Digest, body::Origin, piece::Layout};

use super::stamp::Stamp;

/// (origin, path below its directory) → stamp and digest.
const FILES: TableDefinition<(u8, &str), &[u8; Stamp::LEN + Digest::LEN]> =
    TableDefinition::new("files");
/// Digest → piece hashes, one after the other. Contents of one piece have no row.
const PIECES: TableDefinition<&[u8; Digest::LEN], &[u8]> = TableDefinition::new("pieces");

/// Memory that the index may use for caching, in bytes.
const CACHE_BYTES: usize = 16 << 20;

/// The index cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("index of hashed files: {0}")]
pub struct IndexError(#[from] redb::Error);

/// One row: a file as it was when it was hashed.
#[derive(Debug, Clone)]
pub struct Row {
    /// Under which directory.
    pub origin: Origin,
    /// Path below it.
    pub path: String,
    /// The file then.
    pub stamp: Stamp,
    /// Its content then.
    pub digest: Digest,
}

/// A change of the index.
#[derive(Debug, Clone)]
pub enum Change {
    /// This file was hashed; with piece hashes when there are several.
    Put(Row, Option<Arc<[Digest]>>),
    /// This file is gone.
    Remove(Origin, String),
}

/// The open index.
#[derive(Debug)]
pub struct Index {
    db: Database,
}

fn key(origin: Origin) -> u8 {
    match origin {
        Origin::Shared => 0,
        Origin::Fetched => 1,
    }
}

impl Index {
    /// Opens the index at `path`, or makes one; and every row of it.
    pub fn open(path: &Path) -> Result<(Self, Vec<Row>), IndexError> {
        // The engine panics at some pages that no engine wrote; nothing of it is used then.
        let opened = catch_unwind(AssertUnwindSafe(|| Self::try_open(path)));
        let why = match opened {
            Ok(Ok(opened)) => return Ok(opened),
            Ok(Err(error)) if !path.exists() || is_of_the_machine(&error) => return Err(error),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "index of hashed files: its pages are nonsense".to_owned(),
        };
        let aside = path.with_extension("broken");
        log::warn!(
            "{why}; put aside as {}, all files are hashed again",
            aside.display()
        );
        std::fs::rename(path, aside).map_err(redb::Error::Io)?;
        Self::try_open(path)
    }

    fn try_open(path: &Path) -> Result<(Self, Vec<Row>), IndexError> {
        let db = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create(path)
            .map_err(redb::Error::from)?;
        let index = Self { db };
        index.write(|write| {
            write.open_table(FILES)?;
            write.open_table(PIECES)?;
            Ok(())
        })?;
        let rows = index.load()?;
        Ok((index, rows))
    }

    fn write(
        &self,
        change: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), IndexError> {
        let write = self.db.begin_write().map_err(redb::Error::from)?;
        change(&write)?;
        Ok(write.commit().map_err(redb::Error::from)?)
    }

    /// Makes `changes` durable, in order, all or none.
    pub fn commit(&self, changes: &[Change]) -> Result<(), IndexError> {
        self.write(|write| {
            let mut files = write.open_table(FILES)?;
            let mut pieces = write.open_table(PIECES)?;
            for change in changes {
                match change {
                    Change::Put(row, hashes) => {
                        let mut value = [0; Stamp::LEN + Digest::LEN];
                        value[..Stamp::LEN].copy_from_slice(&row.stamp.to_bytes());
                        value[Stamp::LEN..].copy_from_slice(row.digest.as_bytes());
                        files.insert((key(row.origin), row.path.as_str()), &value)?;
                        if let Some(hashes) = hashes {
                            let bytes: Vec<u8> =
                                hashes.iter().flat_map(|hash| *hash.as_bytes()).collect();
                            pieces.insert(row.digest.as_bytes(), bytes.as_slice())?;
                        }
                    }
                    Change::Remove(origin, path) => {
                        files.remove((key(*origin), path.as_str()))?;
                    }
                }
            }
            Ok(())
        })
    }

    /// Every row, but of those whose contents were cut into other pieces: they are to be hashed
    /// again. Piece hashes that belong to none are deleted on this occasion.
    pub fn load(&self) -> Result<Vec<Row>, IndexError> {
        let (rows, stale) = self.rows()?;
        let digests: HashSet<Digest> = rows.iter().map(|row| row.digest).collect();
        self.write(|write| {
            let mut files = write.open_table(FILES)?;
            for row in &stale {
                files.remove((key(row.origin), row.path.as_str()))?;
            }
            let mut pieces = write.open_table(PIECES)?;
            pieces.retain(|digest, _| digests.contains(&Digest::from_bytes(*digest)))?;
            Ok(())
        })?;
        Ok(rows)
    }

    /// Those that hold, and those whose contents were cut into other pieces.
    fn rows(&self) -> Result<(Vec<Row>, Vec<Row>), IndexError> {
        let read = self.db.begin_read().map_err(redb::Error::from)?;
        let files = read.open_table(FILES).map_err(redb::Error::from)?;
        let pieces = read.open_table(PIECES).map_err(redb::Error::from)?;
        let is_cut_so = |row: &Row| {
            let several = Layout::of(row.stamp.size).map(|layout| layout.pieces());
            let Some(several) = several.filter(|&pieces| pieces > 1) else {
                return Ok(true);
            };
            let hashes = pieces.get(row.digest.as_bytes());
            let hashes = hashes.map_err(redb::Error::from)?;
            let bytes = hashes.map_or(0, |hashes| hashes.value().len());
            Ok::<_, IndexError>(bytes == several as usize * Digest::LEN)
        };
        let (mut rows, mut stale) = (Vec::new(), Vec::new());
        for row in files.iter().map_err(redb::Error::from)? {
            let (at, value) = row.map_err(redb::Error::from)?;
            let (origin, path) = at.value();
            let (stamp, digest) = value.value().split_at(Stamp::LEN);
            let row = Row {
                origin: if origin == 0 {
                    Origin::Shared
                } else {
                    Origin::Fetched
                },
                path: path.to_owned(),
                stamp: Stamp::from_bytes(stamp.try_into().expect("split at its length")),
                digest: Digest::from_slice(digest).expect("the rest is a digest"),
            };
            match is_cut_so(&row)? {
                true => rows.push(row),
                false => stale.push(row),
            }
        }
        Ok((rows, stale))
    }

    /// The piece hashes of a content of several pieces.
    pub fn pieces(&self, digest: &Digest) -> Result<Option<Vec<Digest>>, IndexError> {
        let read = self.db.begin_read().map_err(redb::Error::from)?;
        let pieces = read.open_table(PIECES).map_err(redb::Error::from)?;
        let row = pieces.get(digest.as_bytes()).map_err(redb::Error::from)?;
        Ok(row.map(|row| {
            row.value()
                .chunks_exact(Digest::LEN)
                .filter_map(Digest::from_slice)
                .collect()
        }))
    }
}

/// Whether it is the machine's fault and not that of what is in the file.
fn is_of_the_machine(IndexError(error): &IndexError) -> bool {
    match error {
        redb::Error::Io(error) => !matches!(
            error.kind(),
            // A file that was cut short.
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
        ),
        redb::Error::DatabaseAlreadyOpen => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(path: &str) -> Row {
        let stamp = Stamp {
            size: 3,
            modified_ns: -5,
            changed_ns: 7,
            inode: 9,
        };
        Row {
            origin: Origin::Fetched,
            path: path.to_owned(),
            stamp,
            digest: Digest::of(path.as_bytes()),
        }
    }

    #[test]
    fn rows_and_pieces_survive_a_restart() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("index.redb");
        let hashes: Arc<[Digest]> = [Digest::of(b"1"), Digest::of(b"2")].into();
        let (index, _) = Index::open(&path).expect("new");
        index
            .commit(&[
                Change::Put(row("a"), Some(hashes.clone())),
                Change::Put(row("b"), None),
                Change::Remove(Origin::Fetched, "b".to_owned()),
            ])
            .expect("committed");
        drop(index);
        let (index, rows) = Index::open(&path).expect("again");
        assert_eq!(rows.len(), 1);
        assert_eq!(
            (rows[0].path.as_str(), rows[0].stamp, rows[0].origin),
            ("a", row("a").stamp, Origin::Fetched)
        );
        assert_eq!(
            index.pieces(&rows[0].digest).expect("read").as_deref(),
            Some(&*hashes)
        );
        index
            .commit(&[Change::Remove(Origin::Fetched, "a".to_owned())])
            .expect("committed");
        assert!(index.load().expect("loaded").is_empty());
        assert_eq!(index.pieces(&rows[0].digest).expect("read"), None);
    }

    #[test]
    fn what_was_cut_into_other_pieces_is_hashed_again() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (index, _) = Index::open(&dir.path().join("index.redb")).expect("new");
        let large = |path: &str| {
            let mut row = row(path);
            row.stamp.size = 2 * vecino_rest::piece::MIN_PIECE;
            row
        };
        let hashes =
            |count: u8| -> Arc<[Digest]> { (0..count).map(|n| Digest::of(&[n])).collect() };
        let changes = [
            Change::Put(large("as now"), Some(hashes(2))),
            Change::Put(large("as before"), Some(hashes(1))),
            Change::Put(large("one piece before"), None),
        ];
        index.commit(&changes).expect("committed");
        let rows = index.load().expect("loaded");
        let paths: Vec<_> = rows.iter().map(|row| row.path.as_str()).collect();
        assert_eq!(paths, ["as now"]);
        assert!(index.rows().expect("read").1.is_empty(), "forgotten");
    }

    #[test]
    fn a_broken_index_is_put_aside() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("index.redb");
        let (index, _) = Index::open(&path).expect("new");
        index
            .commit(&[Change::Put(row("a"), None)])
            .expect("committed");
        drop(index);
        let whole = std::fs::read(&path).expect("read");
        let cut = whole[..whole.len() / 2].to_vec();
        for broken in [b"not an index at all".to_vec(), cut, vec![1; whole.len()]] {
            std::fs::write(&path, broken).expect("written");
            let (_index, rows) = Index::open(&path).expect("begun anew");
            assert!(rows.is_empty());
            assert!(path.with_extension("broken").exists());
        }
    }
}
