//! From lines into an empty store: first the whole file is checked, then it is read again and
//! applied. Records go in by the same path as announced ones.

use std::io::{BufRead, Read as _, Seek};

use vecino_rest::Digest;

use super::{ArchiveError, Counts, Line, MAX_LINE, Trailer, VERSION};
use crate::store::{Change, Expect, PeerNo, PeerRow, PeerState, Resource, Store};

/// Records that go into the store at once.
const RECORDS_AT_ONCE: usize = 4_096;

/// What was imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Imported {
    /// Accounts.
    pub accounts: u64,
    /// Peers.
    pub peers: u64,
    /// Records.
    pub records: u64,
}

/// Imports `file` into `store`, which must be empty. Blocks while it reads.
pub async fn import(
    mut file: impl BufRead + Seek,
    store: &dyn Store,
) -> Result<Imported, ArchiveError> {
    let is_empty = store.counts().peers == 0 && store.accounts(None, 1).await?.is_empty();
    if !is_empty {
        return Err(ArchiveError::NotEmpty);
    }
    let counts = check(&mut file)?;
    file.rewind()?;
    let mut lines = Lines::new(&mut file);
    let mut peer: Option<Begun> = None;
    while let Some((_, line)) = lines.next()? {
        match line {
            Line::VecinoExport(_) => {}
            Line::Account(account) => {
                store.put_account(account.into(), Expect::Absent).await?;
            }
            Line::Peer(row) => {
                if let Some(begun) = peer.take() {
                    begun.end(store).await?;
                }
                peer = Some(Begun::new(store, row.into()).await?);
            }
            Line::Record(record) => {
                let begun = peer.as_mut().ok_or_else(|| lines.fault(ORPHAN))?;
                begun.waiting.push(record.into());
                if begun.waiting.len() >= RECORDS_AT_ONCE {
                    begun.announce(store).await?;
                }
            }
            Line::End(_) => break,
        }
    }
    if let Some(begun) = peer {
        begun.end(store).await?;
    }
    let Counts {
        accounts,
        peers,
        records,
    } = counts;
    Ok(Imported {
        accounts,
        peers,
        records,
    })
}

const ORPHAN: &str = "a record without a peer before it";

/// Reads all of `file`; what is in it.
fn check(file: &mut impl BufRead) -> Result<Counts, ArchiveError> {
    let mut lines = Lines::new(file);
    match lines.next()? {
        Some((_, Line::VecinoExport(VERSION))) => {}
        Some((_, Line::VecinoExport(version))) => {
            return Err(lines.fault(format!(
                "of version {version} of exports; this program reads version {VERSION}"
            )));
        }
        _ => return Err(lines.fault("not the first line of an export of a locator")),
    }
    let mut counts = Counts::default();
    loop {
        match lines.next()? {
            Some((_, Line::Account(_))) => counts.accounts += 1,
            Some((_, Line::Peer(_))) => counts.peers += 1,
            Some((_, Line::Record(_))) if counts.peers == 0 => return Err(lines.fault(ORPHAN)),
            Some((_, Line::Record(_))) => counts.records += 1,
            Some((_, Line::VecinoExport(_))) => return Err(lines.fault("a second first line")),
            Some((
                before,
                Line::End(Trailer {
                    counts: told,
                    blake3,
                }),
            )) => {
                if blake3 != before {
                    return Err(ArchiveError::Checksum);
                }
                if told != counts {
                    return Err(ArchiveError::Counts {
                        told: told.to_string(),
                        found: counts.to_string(),
                    });
                }
                return match lines.next()? {
                    None => Ok(counts),
                    Some(_) => Err(lines.fault("a line after the last one")),
                };
            }
            None => return Err(ArchiveError::Truncated),
        }
    }
}

/// The lines of a file, and the checksum of those before each.
struct Lines<'a, R> {
    file: &'a mut R,
    buffer: Vec<u8>,
    hasher: blake3::Hasher,
    number: u64,
}

impl<'a, R: BufRead> Lines<'a, R> {
    fn new(file: &'a mut R) -> Self {
        Self {
            file,
            buffer: Vec::new(),
            hasher: blake3::Hasher::new(),
            number: 0,
        }
    }

    fn next(&mut self) -> Result<Option<(Digest, Line)>, ArchiveError> {
        self.hasher.update(&self.buffer);
        self.buffer.clear();
        let mut bounded = self.file.by_ref().take(MAX_LINE as u64);
        bounded.read_until(b'\n', &mut self.buffer)?;
        if self.buffer.is_empty() {
            return Ok(None);
        }
        self.number += 1;
        if !self.buffer.ends_with(b"\n") {
            return Err(match self.buffer.len() {
                MAX_LINE => self.fault("too long to be one of an export"),
                _ => ArchiveError::Truncated,
            });
        }
        let before = Digest::from_bytes(*self.hasher.finalize().as_bytes());
        let line = serde_json::from_slice(&self.buffer)
            .map_err(|error| self.fault(format!("no line of an export ({error})")))?;
        Ok(Some((before, line)))
    }

    fn fault(&self, fault: impl Into<String>) -> ArchiveError {
        ArchiveError::Line {
            line: self.number.max(1),
            fault: fault.into(),
        }
    }
}

/// A peer whose records come in.
struct Begun {
    no: PeerNo,
    row: PeerRow,
    waiting: Vec<Resource>,
}

impl Begun {
    /// It is present until all of its records are there: only then they are taken.
    async fn new(store: &dyn Store, row: PeerRow) -> Result<Self, ArchiveError> {
        let present = PeerRow {
            state: PeerState::Present,
            ..row.clone()
        };
        Ok(Self {
            no: store.register(present).await?.peer,
            row,
            waiting: Vec::new(),
        })
    }

    async fn announce(&mut self, store: &dyn Store) -> Result<(), ArchiveError> {
        let change = Change::Difference {
            announce: std::mem::take(&mut self.waiting),
            withdraw: Vec::new(),
        };
        if !change.is_empty() {
            store.announce(self.no, self.row.token, change).await?;
        }
        Ok(())
    }

    async fn end(mut self, store: &dyn Store) -> Result<(), ArchiveError> {
        self.announce(store).await?;
        if let PeerState::Lapsed(at_ms) = self.row.state {
            store.lapse(vec![(self.no, self.row.token)], at_ms).await?;
        }
        Ok(())
    }
}
