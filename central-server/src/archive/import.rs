//! From lines into an empty store: first the whole file is checked, then it is read again and
//! applied. Records go in by the same path as announced ones.
//!
//! Each line that is applied can be applied again: so an import that broke off goes on by beginning
//! anew.

use std::{
    collections::{HashMap, HashSet},
    io::{BufRead, Read as _, Seek},
};

use vecino_rest::{Digest, PeerUrl, UserName};

use super::{Account, ArchiveError, Counts, Line, MAX_LINE, Peer, Trailer, VERSION};
use crate::{
    account::check_hash,
    directory::check_site,
    store::{
        BUCKETS, Change, Expect, MAX_BUCKET_RECORDS, PeerNo, PeerRow, PeerState, Resource, Store,
        bucket_of,
    },
};

/// Records that go into the store at once.
const RECORDS_AT_ONCE: usize = 4_096;

/// What was imported: how much there is in the store now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Imported {
    /// Accounts.
    pub accounts: u64,
    /// Peers.
    pub peers: u64,
    /// Records.
    pub records: u64,
}

/// Imports `file` into `store`, which must be empty, or have a part of this very file from an import
/// that broke off. Blocks while it reads.
pub async fn import(
    mut file: impl BufRead + Seek,
    store: &dyn Store,
) -> Result<Imported, ArchiveError> {
    let begun = store.importing().await?;
    let is_empty = store.counts().peers == 0 && store.accounts(None, 1).await?.is_empty();
    if begun.is_none() && !is_empty {
        return Err(ArchiveError::NotEmpty);
    }
    let export = check(&mut file)?;
    if begun.is_some_and(|begun| begun != export) {
        return Err(ArchiveError::Another);
    }
    file.rewind()?;
    store.set_importing(Some(export)).await?;
    let applied = async {
        let imported = apply(&mut file, store, begun.is_some()).await?;
        store.set_importing(None).await?;
        Ok(imported)
    };
    let unfinished = |error| ArchiveError::Unfinished(Box::new(error));
    applied.await.map_err(unfinished)
}

/// Puts the lines into the store; some may be there when it `goes_on`.
async fn apply(
    file: &mut impl BufRead,
    store: &dyn Store,
    goes_on: bool,
) -> Result<Imported, ArchiveError> {
    let mut lines = Lines::new(file);
    let mut peer: Option<Begun> = None;
    // A file may have something twice, where the directory changed while it was exported.
    let mut users: HashSet<UserName> = HashSet::new();
    let mut records: HashMap<PeerNo, u64> = HashMap::new();
    while let Some((_, line)) = lines.next()? {
        match line {
            Line::VecinoExport(_) => {}
            Line::Account(account) => {
                users.insert(account.user.clone());
                for expect in [Expect::Absent, Expect::Present] {
                    let account = account.clone().into();
                    if store.put_account(account, expect).await? {
                        break;
                    }
                }
            }
            Line::Peer(row) => {
                if let Some(begun) = peer.take() {
                    begun.end(store, &mut records).await?;
                }
                peer = Some(Begun::new(store, row.into(), goes_on).await?);
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
        begun.end(store, &mut records).await?;
    }
    Ok(Imported {
        accounts: users.len() as u64,
        peers: records.len() as u64,
        records: records.values().sum(),
    })
}

const ORPHAN: &str = "a record without a peer before it";

/// Reads all of `file`; the checksum of it.
fn check(file: &mut impl BufRead) -> Result<Digest, ArchiveError> {
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
    let mut buckets = [0_usize; BUCKETS];
    loop {
        match lines.next()? {
            Some((_, Line::Account(account))) => {
                account.check().map_err(|fault| lines.fault(fault))?;
                counts.accounts += 1;
            }
            Some((_, Line::Peer(peer))) => {
                peer.check().map_err(|fault| lines.fault(fault))?;
                counts.peers += 1;
                buckets = [0; BUCKETS];
            }
            Some((_, Line::Record(_))) if counts.peers == 0 => return Err(lines.fault(ORPHAN)),
            Some((_, Line::Record(record))) => {
                let bucket = bucket_of(&record.digest);
                let of_bucket = &mut buckets[usize::from(bucket)];
                *of_bucket += 1;
                if *of_bucket > MAX_BUCKET_RECORDS {
                    return Err(lines.fault(format!(
                        "one record more than the {MAX_BUCKET_RECORDS} that a peer may have in \
                         bucket {bucket}"
                    )));
                }
                counts.records += 1;
            }
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
                    None => Ok(blake3),
                    Some(_) => Err(lines.fault("a line after the last one")),
                };
            }
            None => return Err(ArchiveError::Truncated),
        }
    }
}

impl Account {
    /// As one is that a locator made.
    fn check(&self) -> Result<(), String> {
        check_hash(&self.password).map_err(|fault| {
            format!(
                "the account of {:?} with a password that cannot be compared: {fault}",
                self.user
            )
        })
    }
}

impl Peer {
    /// As one is that a locator let in.
    fn check(&self) -> Result<(), String> {
        let id = self.id;
        let no_peer =
            |fault: &dyn std::fmt::Display| format!("no peer of a locator ({id}): {fault}");
        check_site(&self.site).map_err(|fault| no_peer(&fault))?;
        let url = PeerUrl::parse(&self.url).map_err(|fault| no_peer(&fault))?;
        // Whether it is on loopback was seen by who let it in.
        if let Some(fault) = url.fault(true) {
            return Err(no_peer(&format_args!("{url} {fault}")));
        }
        if url.to_string() != self.url {
            return Err(no_peer(&format_args!("{:?} is spelled {url}", self.url)));
        }
        Ok(())
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
    /// How many it has by now.
    records: u64,
    /// Some of its records may be there; those of the bucket that came last.
    goes_on: bool,
    there: Option<(u8, HashSet<Resource>)>,
}

impl Begun {
    /// It is present until all of its records are there: only then they are taken.
    async fn new(store: &dyn Store, row: PeerRow, goes_on: bool) -> Result<Self, ArchiveError> {
        let present = PeerRow {
            state: PeerState::Present,
            ..row.clone()
        };
        let registered = store.register(present).await?;
        Ok(Self {
            no: registered.peer,
            row,
            waiting: Vec::new(),
            records: registered.fingerprints.records(),
            goes_on,
            there: None,
        })
    }

    async fn announce(&mut self, store: &dyn Store) -> Result<(), ArchiveError> {
        let mut announce = std::mem::take(&mut self.waiting);
        if self.goes_on {
            // Each counts as a new one in a bucket that is nearly full.
            let mut missing = Vec::new();
            for record in announce {
                if !self.is_there(store, &record).await? {
                    missing.push(record);
                }
            }
            announce = missing;
        }
        let change = Change::Difference {
            announce,
            withdraw: Vec::new(),
        };
        if !change.is_empty() {
            self.records = store.announce(self.no, self.row.token, change).await?;
        }
        Ok(())
    }

    async fn is_there(
        &mut self,
        store: &dyn Store,
        record: &Resource,
    ) -> Result<bool, ArchiveError> {
        let bucket = bucket_of(&record.digest);
        let there = match self.there.take() {
            Some(there) if there.0 == bucket => there,
            _ => {
                let records = store.bucket(self.no, bucket).await?;
                (bucket, records.into_iter().collect())
            }
        };
        let is_there = there.1.contains(record);
        self.there = Some(there);
        Ok(is_there)
    }

    async fn end(
        mut self,
        store: &dyn Store,
        records: &mut HashMap<PeerNo, u64>,
    ) -> Result<(), ArchiveError> {
        self.announce(store).await?;
        if let PeerState::Lapsed(at_ms) = self.row.state {
            store.lapse(vec![(self.no, self.row.token)], at_ms).await?;
        }
        records.insert(self.no, self.records);
        Ok(())
    }
}
