//! Lookups in a committed snapshot.

use std::{io, ops::Bound};

use redb::{Database, ReadOnlyTable, ReadTransaction, ReadableDatabase as _, ReadableTable as _};
use vecino_rest::{Digest, PeerId, UserName};

use super::schema::{self, Counters, Keys, META, meta};
use crate::store::{
    Account, Among, Counts, Found, HOLDER_READS_RESERVED, Key, MAX_HOLDER_READS,
    MAX_HOLDER_READS_WALK, MAX_VARIANTS_READ, PeerNo, PeerRow, Resource, ResourceNo, StoreError,
    Walk, WalkPage, holders::gather,
};

/// A committed state of the store. Its tables are opened once, for all lookups.
pub(super) struct Snapshot {
    pub(super) reading: ReadTransaction,
    keys: Keys,
    pub(super) counts: Counts,
    peers: ReadOnlyTable<u32, &'static [u8]>,
    resources: ReadOnlyTable<u64, &'static [u8]>,
    by_name: ReadOnlyTable<&'static [u8; 18], ()>,
    by_digest: ReadOnlyTable<&'static [u8; 14], ()>,
    holders: ReadOnlyTable<&'static [u8; 10], ()>,
    terms: ReadOnlyTable<&'static [u8], ()>,
    peer_ids: ReadOnlyTable<&'static [u8; 16], u32>,
    by_peer: ReadOnlyTable<&'static [u8; 11], ()>,
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
    pub(super) fn of(
        database: &Database,
        keys: Keys,
        counters: Counters,
    ) -> Result<Self, StoreError> {
        let reading = database.begin_read().map_err(engine)?;
        Ok(Self {
            keys,
            counts: Counts {
                peers: counters.peers,
                resources: counters.resources,
                records: counters.records,
            },
            peers: reading.open_table(schema::PEERS).map_err(engine)?,
            resources: reading.open_table(schema::RESOURCES).map_err(engine)?,
            by_name: reading.open_table(schema::BY_NAME).map_err(engine)?,
            by_digest: reading.open_table(schema::BY_DIGEST).map_err(engine)?,
            holders: reading.open_table(schema::HOLDERS).map_err(engine)?,
            terms: reading.open_table(schema::TERMS).map_err(engine)?,
            peer_ids: reading.open_table(schema::PEER_IDS).map_err(engine)?,
            by_peer: reading.open_table(schema::BY_PEER).map_err(engine)?,
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
        let (from, to) = schema::of_peer(peer, bucket, bucket);
        let rows = self
            .by_peer
            .range::<&[u8; 11]>(&from..=&to)
            .map_err(engine)?;
        let resources = rows.map(|row| {
            let key = row.map_err(engine)?.0;
            let no = schema::resource_at_end(key.value());
            self.resource(no.ok_or_else(|| schema::damaged("a holding"))?)
        });
        resources.collect()
    }

    fn resource(&self, no: ResourceNo) -> Result<Resource, StoreError> {
        let row = self.resources.get(no.0).map_err(engine)?;
        schema::read_resource(
            row.ok_or_else(|| schema::damaged("a resource is missing"))?
                .value(),
        )
    }

    pub(super) fn find(&self, key: &Key, among: &Among<'_>) -> Result<Vec<Found>, StoreError> {
        let mut budget = MAX_HOLDER_READS;
        let mut found = Vec::new();
        let numbers: Vec<Option<ResourceNo>> = match key {
            Key::Name(name) => {
                let (from, to) = self.keys.of_name(name);
                let rows = self
                    .by_name
                    .range::<&[u8; 18]>(&from..=&to)
                    .map_err(engine)?
                    .take(MAX_VARIANTS_READ);
                let rows =
                    rows.map(|row| Ok(schema::resource_at_end(row.map_err(engine)?.0.value())));
                rows.collect::<Result<_, StoreError>>()?
            }
            Key::Digest(digest) => {
                let (from, to) = schema::of_digest(digest);
                let rows = self
                    .by_digest
                    .range::<&[u8; 14]>(&from..=&to)
                    .map_err(engine)?
                    .take(MAX_VARIANTS_READ);
                let rows =
                    rows.map(|row| Ok(schema::resource_at_end(row.map_err(engine)?.0.value())));
                rows.collect::<Result<_, StoreError>>()?
            }
        };
        for no in numbers.into_iter().flatten() {
            let resource = self.resource(no)?;
            // The index knows hashes; what they may mean is decided here.
            let wanted = match key {
                Key::Name(name) => resource.name == *name,
                Key::Digest(digest) => resource.digest == *digest,
            };
            if wanted {
                let holders = self.live_holders(no, among, &mut budget)?;
                if !holders.is_empty() {
                    found.push(Found { resource, holders });
                }
            }
        }
        Ok(found)
    }

    fn live_holders(
        &self,
        resource: ResourceNo,
        among: &Among<'_>,
        budget: &mut usize,
    ) -> Result<Vec<PeerNo>, StoreError> {
        if let Some(only) = among.only {
            let held = only.iter().filter_map(|peer| {
                let row = self.holders.get(&schema::holder(resource, *peer));
                row.map_err(engine)
                    .map(|row| row.map(|_| *peer))
                    .transpose()
            });
            return gather(held, among.live, budget);
        }
        let first = schema::holder(resource, PeerNo(0));
        let start = schema::holder(resource, among.start);
        let last = schema::holder(resource, PeerNo(u32::MAX));
        let after = self
            .holders
            .range::<&[u8; 10]>(&start..=&last)
            .map_err(engine)?;
        let before = self
            .holders
            .range::<&[u8; 10]>(&first..&start)
            .map_err(engine)?;
        let rows = after.chain(before).map(|row| {
            let (key, ()) = (row.map_err(engine)?.0, ());
            Ok(schema::peer_of_holder(key.value()))
        });
        gather(rows, among.live, budget)
    }

    pub(super) fn walk(&self, walk: &Walk<'_>, among: &Among<'_>) -> Result<WalkPage, StoreError> {
        let from = match walk.after {
            Some((term, no)) => Bound::Excluded(schema::term(term, *no)),
            None => Bound::Included(walk.prefix.as_bytes().to_vec()),
        };
        let from = from.as_ref().map(Vec::as_slice);
        let rows = self
            .terms
            .range::<&[u8]>((from, Bound::Unbounded))
            .map_err(engine)?;
        let mut holder_budget = MAX_HOLDER_READS_WALK;
        let mut page = WalkPage::default();
        for (read, row) in rows.enumerate() {
            let (key, _) = row.map_err(engine)?;
            let position =
                schema::read_term(key.value()).ok_or_else(|| schema::damaged("a term"))?;
            let (term, no) = position;
            if !walk.covers(term) {
                page.next = None;
                return Ok(page);
            }
            if holder_budget < HOLDER_READS_RESERVED {
                return Ok(page);
            }
            let resource = self.resource(no)?;
            if (walk.accept)(term, &resource) {
                let holders = self.live_holders(no, among, &mut holder_budget)?;
                if !holders.is_empty() {
                    page.found.push(Found { resource, holders });
                }
            }
            page.next = Some((term.to_owned(), no));
            if read + 1 >= walk.row_budget || page.found.len() >= walk.limit {
                return Ok(page);
            }
        }
        page.next = None;
        Ok(page)
    }
}
