//! Lookups in a committed snapshot.

use std::{io, ops::Bound};

use redb::{Database, ReadOnlyTable, ReadTransaction, ReadableDatabase as _, ReadableTable as _};
use vecino_rest::{Digest, PeerId, UserName};

use super::{
    lists,
    resources::{self, Known},
    rows::Holders,
    schema::{self, Counters, IdentityKey, META, meta},
};
use crate::store::{
    Account, Among, Counts, Found, Key, MAX_HOLDER_READS, PeerNo, PeerRow, Resource, ResourceNo,
    StoreError, holders::gather,
};

/// A committed state of the store. Its tables are opened once, for all lookups.
pub(super) struct Snapshot {
    pub(super) reading: ReadTransaction,
    pub(super) counts: Counts,
    peers: ReadOnlyTable<u32, &'static [u8]>,
    pub(super) known: ReadOnlyTable<&'static [u8], &'static [u8]>,
    pub(super) named: ReadOnlyTable<&'static [u8], &'static [u8]>,
    pub(super) termed: ReadOnlyTable<&'static [u8], &'static [u8]>,
    pub(super) identities: ReadOnlyTable<&'static IdentityKey, ()>,
    crowds: ReadOnlyTable<&'static [u8; 10], ()>,
    held: ReadOnlyTable<&'static [u8], &'static [u8]>,
    peer_ids: ReadOnlyTable<&'static [u8; 16], u32>,
    accounts: ReadOnlyTable<&'static str, &'static [u8]>,
}

/// An error of the engine.
pub(super) fn engine(error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        redb::Error::Io(error) => engine_io(error),
        error => StoreError::Engine(error.to_string()),
    }
}

/// An error of the file.
pub(super) fn engine_io(error: io::Error) -> StoreError {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    match error.kind() {
        StorageFull | QuotaExceeded | FileTooLarge => StoreError::DiskFull(error.to_string()),
        _ => StoreError::Engine(error.to_string()),
    }
}

impl Snapshot {
    pub(super) fn of(database: &Database, counters: Counters) -> Result<Self, StoreError> {
        let reading = database.begin_read().map_err(engine)?;
        Ok(Self {
            counts: Counts {
                peers: counters.peers,
                resources: counters.resources,
                records: counters.records,
            },
            peers: reading.open_table(schema::PEERS).map_err(engine)?,
            known: reading.open_table(schema::KNOWN).map_err(engine)?,
            named: reading.open_table(schema::NAMED).map_err(engine)?,
            termed: reading.open_table(schema::TERMED).map_err(engine)?,
            identities: reading.open_table(schema::IDENTITIES).map_err(engine)?,
            crowds: reading.open_table(schema::CROWDS).map_err(engine)?,
            held: reading.open_table(schema::HELD).map_err(engine)?,
            peer_ids: reading.open_table(schema::PEER_IDS).map_err(engine)?,
            accounts: reading.open_table(schema::ACCOUNTS).map_err(engine)?,
            reading,
        })
    }

    /// The export that is being imported.
    pub(super) fn importing(&self) -> Result<Option<Digest>, StoreError> {
        let meta = self.reading.open_table(META).map_err(engine)?;
        let export = meta.get(meta::IMPORTING).map_err(engine)?;
        let digest = |bytes: &[u8]| bytes.try_into().map(Digest::from_bytes);
        let export = export.map(|row| digest(row.value())).transpose();
        export.map_err(|_| schema::damaged("what is imported"))
    }

    pub(super) fn peers(&self) -> Result<Vec<(PeerNo, PeerRow)>, StoreError> {
        let rows = self.peers.iter().map_err(engine)?.map(|row| {
            let (peer, row) = row.map_err(engine)?;
            Ok((PeerNo(peer.value()), schema::read_peer(row.value())?))
        });
        rows.collect()
    }

    pub(super) fn peer(&self, id: &PeerId) -> Result<Option<(PeerNo, PeerRow)>, StoreError> {
        let Some(no) = self.peer_ids.get(id.as_bytes()).map_err(engine)? else {
            return Ok(None);
        };
        let no = no.value();
        let row = self.peers.get(no).map_err(engine)?;
        let row = row.ok_or_else(|| schema::damaged("a peer is missing"))?;
        Ok(Some((PeerNo(no), schema::read_peer(row.value())?)))
    }

    pub(super) fn account(&self, user: &UserName) -> Result<Option<Account>, StoreError> {
        let row = self.accounts.get(user.as_str()).map_err(engine)?;
        row.map(|row| schema::read_account(user.as_str(), row.value()))
            .transpose()
    }

    pub(super) fn accounts(
        &self,
        after: Option<&UserName>,
        limit: usize,
    ) -> Result<Vec<Account>, StoreError> {
        let from = after.map_or(Bound::Unbounded, |user| Bound::Excluded(user.as_str()));
        let rows = self
            .accounts
            .range::<&str>((from, Bound::Unbounded))
            .map_err(engine)?;
        let accounts = rows.take(limit).map(|row| {
            let (user, row) = row.map_err(engine)?;
            schema::read_account(user.value(), row.value())
        });
        accounts.collect()
    }

    pub(super) fn bucket(&self, peer: PeerNo, bucket: u8) -> Result<Vec<Resource>, StoreError> {
        let mut numbers = Vec::new();
        lists::read(&self.held, &lists::of_peer(peer), |number| {
            let (no, its) = lists::read_held(number);
            if its == bucket {
                numbers.push(no);
            }
            true
        })?;
        let resources = numbers.into_iter().map(|no| self.known(no)?.resource());
        resources.collect()
    }

    /// A resource that an index knows.
    pub(super) fn known(&self, no: ResourceNo) -> Result<Known, StoreError> {
        let known = resources::get(&self.known, no)?;
        known.ok_or_else(|| schema::damaged("a resource is missing"))
    }

    pub(super) fn find(&self, key: &Key, among: &Among<'_>) -> Result<Vec<Found>, StoreError> {
        let mut budget = MAX_HOLDER_READS;
        let mut found = Vec::new();
        let mut take = |known: Known| {
            let holders = self.live_holders(known.no, &known.facts.holders, among, &mut budget)?;
            if !holders.is_empty() {
                let resource = known.resource()?;
                found.push(Found { resource, holders });
            }
            Ok::<_, StoreError>(())
        };
        match key {
            Key::Name(name) => {
                for no in self.of_name(name, among.seed)? {
                    take(self.known(no)?)?;
                }
            }
            Key::Digest(digest) => {
                for no in self.of_digest(digest, among.seed)? {
                    let known = self.known(no)?;
                    // The index knows a part of the digest.
                    if known.facts.digest == *digest {
                        take(known)?;
                    }
                }
            }
        }
        Ok(found)
    }

    pub(super) fn live_holders(
        &self,
        resource: ResourceNo,
        holders: &Holders,
        among: &Among<'_>,
        budget: &mut usize,
    ) -> Result<Vec<PeerNo>, StoreError> {
        if let Holders::Few(few) = holders {
            return few.live(among.start, among.only, among.live, budget);
        }
        if let Some(only) = among.only {
            let held = only.iter().filter_map(|peer| {
                let row = self.crowds.get(&schema::crowd(resource, *peer));
                row.map_err(engine)
                    .map(|row| row.map(|_| *peer))
                    .transpose()
            });
            return gather(held, among.live, budget);
        }
        let first = schema::crowd(resource, PeerNo(0));
        let start = schema::crowd(resource, among.start);
        let last = schema::crowd(resource, PeerNo(u32::MAX));
        let after = self
            .crowds
            .range::<&[u8; 10]>(&start..=&last)
            .map_err(engine)?;
        let before = self
            .crowds
            .range::<&[u8; 10]>(&first..&start)
            .map_err(engine)?;
        let rows = after.chain(before).map(|row| {
            let (key, ()) = (row.map_err(engine)?.0, ());
            Ok(schema::peer_of_crowd(key.value()))
        });
        gather(rows, among.live, budget)
    }
}
