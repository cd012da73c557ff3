//! Files of earlier formats are brought up to date when they are opened, in one transaction: whole
//! or not at all, so that one which is interrupted begins anew. The tables of before are read in the
//! order in which those of now are written, so that it needs little memory however many records there
//! are. Here it is for formats 1 to 3, in [`of_names`] for format 4.

mod of_names;

use std::{cmp::Reverse, collections::BinaryHeap};

use redb::{Database, ReadableTable as _, Table, TableDefinition, WriteTransaction};
use vecino_rest::{Digest, Name, terms::name_term};

use super::{
    cut::{self, Entry},
    lists::{self, Edit},
    read::engine,
    resources::Known,
    rows::{self, FEW, Facts, Few, GROUP, Holders},
    schema::{self, FORMAT, Keys, META, meta},
    texts::Text,
};
use crate::store::{Fingerprints, PeerNo, Resource, ResourceNo, StoreError, fingerprint::Bucket};

/// The format that had a row for each name, with all that was known of the resource.
pub(super) const FORMAT_OF_NAMES: u32 = 4;
/// The one before, that had a row for each fact of a record.
pub(super) const FORMAT_OF_FACTS: u32 = 3;
/// The one before, without accounts and sessions.
pub(super) const FORMAT_WITHOUT_ACCOUNTS: u32 = 2;
/// The one before that, in which names were no terms either.
pub(super) const FORMAT_WITHOUT_NAMES: u32 = 1;

/// What is written to a table or a list at once.
const AT_ONCE: usize = 4_096;

/// resource → digest, size, modified, name
const RESOURCES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("resources");
/// keyed hash of the name (8), of name and digest (4), resource
const BY_NAME: TableDefinition<'_, &[u8; 18], ()> = TableDefinition::new("by_name");
/// first 8 bytes of the digest, resource
const BY_DIGEST: TableDefinition<'_, &[u8; 14], ()> = TableDefinition::new("by_digest");
/// resource, peer
const HOLDERS: TableDefinition<'_, &[u8; 10], ()> = TableDefinition::new("holders");
/// peer, bucket, resource
const BY_PEER: TableDefinition<'_, &[u8; 11], ()> = TableDefinition::new("by_peer");
/// term, 0, resource
const TERMS: TableDefinition<'_, &[u8], ()> = TableDefinition::new("terms");
/// peer, bucket → sum and count of the bucket's records
const SUMS: TableDefinition<'_, &[u8; 5], &[u8; 20]> = TableDefinition::new("buckets");

/// What terms begin with that are names.
const NAME: &[u8] = b"\x02";

type Result<T> = std::result::Result<T, StoreError>;

/// Brings a file of an earlier format up to date.
pub(super) fn upgrade(database: &Database, keys: Keys, format: u32) -> Result<()> {
    let writing = database.begin_write().map_err(engine)?;
    if format == FORMAT_OF_NAMES {
        of_names::upgrade(&writing)?;
    } else {
        if format == FORMAT_WITHOUT_NAMES {
            index_names(&writing)?;
        }
        of_facts(&writing, keys)?;
    }
    {
        let mut meta = writing.open_table(META).map_err(engine)?;
        meta.insert(meta::FORMAT, &FORMAT.to_le_bytes()[..])
            .map_err(engine)?;
    }
    writing.commit().map_err(engine)
}

fn of_facts(writing: &WriteTransaction, keys: Keys) -> Result<()> {
    let old = Old::open(writing)?;
    old.to_known(writing)?;
    old.to_texts(writing)?;
    old.to_identities(writing, keys)?;
    old.to_held(writing)?;
    old.to_prints(writing)?;
    drop(old);
    writing.delete_table(RESOURCES).map_err(engine)?;
    writing.delete_table(BY_NAME).map_err(engine)?;
    writing.delete_table(BY_DIGEST).map_err(engine)?;
    writing.delete_table(HOLDERS).map_err(engine)?;
    writing.delete_table(BY_PEER).map_err(engine)?;
    writing.delete_table(TERMS).map_err(engine)?;
    writing.delete_table(SUMS).map_err(engine)?;
    writing.open_table(schema::ACCOUNTS).map_err(engine)?;
    Ok(())
}

/// A table to which entries come in their order.
struct Filled<'t, E> {
    rows: Table<'t, &'static [u8], &'static [u8]>,
    waiting: Vec<cut::Edit<E>>,
}

impl<'t, E: Entry> Filled<'t, E> {
    fn new(rows: Table<'t, &'static [u8], &'static [u8]>) -> Self {
        let waiting = Vec::with_capacity(AT_ONCE);
        Self { rows, waiting }
    }

    fn push(&mut self, entry: E) -> Result<()> {
        self.waiting.push((entry, true));
        if self.waiting.len() == AT_ONCE {
            self.write()?;
        }
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        cut::edit(&mut self.rows, &self.waiting)?;
        self.waiting.clear();
        Ok(())
    }
}

/// Makes terms of all names, for searches by their beginning.
fn index_names(writing: &WriteTransaction) -> Result<()> {
    let resources = writing.open_table(RESOURCES).map_err(engine)?;
    let mut terms = writing.open_table(TERMS).map_err(engine)?;
    for row in resources.iter().map_err(engine)? {
        let (no, row) = row.map_err(engine)?;
        let resource = read_resource(row.value())?;
        let term = name_term(resource.name.as_str());
        let key = schema::text(term.as_bytes(), ResourceNo(no.value()));
        terms.insert(&key[..], ()).map_err(engine)?;
    }
    Ok(())
}

fn read_resource(row: &[u8]) -> Result<Resource> {
    let read = || {
        let (digest, mut rest) = row.split_first_chunk::<32>()?;
        let size = rows::read_varint(&mut rest)?;
        let modified_ms = rows::read_signed(&mut rest)?;
        let name = Name::parse(std::str::from_utf8(rest).ok()?).ok()?;
        Some(Resource {
            name,
            digest: Digest::from_bytes(*digest),
            size,
            modified_ms,
        })
    };
    read().ok_or_else(|| schema::damaged("a resource"))
}

/// The number at the end of a key.
fn resource_at_end(key: &[u8]) -> Result<ResourceNo> {
    schema::resource_at_end(key).ok_or_else(|| schema::damaged("an index"))
}

/// The tables of before.
struct Old<'t> {
    resources: Table<'t, u64, &'static [u8]>,
    by_digest: Table<'t, &'static [u8; 14], ()>,
    holders: Table<'t, &'static [u8; 10], ()>,
    by_peer: Table<'t, &'static [u8; 11], ()>,
    terms: Table<'t, &'static [u8], ()>,
    sums: Table<'t, &'static [u8; 5], &'static [u8; 20]>,
}

impl<'t> Old<'t> {
    fn open(writing: &'t WriteTransaction) -> Result<Self> {
        // Made where it was missing: all are deleted afterwards.
        writing.open_table(BY_NAME).map_err(engine)?;
        Ok(Self {
            resources: writing.open_table(RESOURCES).map_err(engine)?,
            by_digest: writing.open_table(BY_DIGEST).map_err(engine)?,
            holders: writing.open_table(HOLDERS).map_err(engine)?,
            by_peer: writing.open_table(BY_PEER).map_err(engine)?,
            terms: writing.open_table(TERMS).map_err(engine)?,
            sums: writing.open_table(SUMS).map_err(engine)?,
        })
    }

    fn resource(&self, no: ResourceNo) -> Result<Resource> {
        let row = self.resources.get(no.0).map_err(engine)?;
        let row = row.ok_or_else(|| schema::damaged("a resource is missing"))?;
        read_resource(row.value())
    }

    fn to_known(&self, writing: &WriteTransaction) -> Result<()> {
        let mut filled = Filled::new(writing.open_table(schema::KNOWN).map_err(engine)?);
        let mut crowds = writing.open_table(schema::CROWDS).map_err(engine)?;
        for row in self.resources.iter().map_err(engine)? {
            let (no, row) = row.map_err(engine)?;
            let no = ResourceNo(no.value());
            let resource = read_resource(row.value())?;
            let (first, last) = (
                schema::crowd(no, PeerNo(0)),
                schema::crowd(no, PeerNo(u32::MAX)),
            );
            let holders = || self.holders.range::<&[u8; 10]>(&first..=&last);
            let peers = holders().map_err(engine)?.take(FEW + 1);
            let peers = peers.map(|row| Ok(schema::peer_of_crowd(row.map_err(engine)?.0.value())));
            let peers: Vec<PeerNo> = peers.collect::<Result<_>>()?;
            let holders = if peers.len() > FEW {
                for row in holders().map_err(engine)? {
                    let key = row.map_err(engine)?.0;
                    crowds.insert(key.value(), ()).map_err(engine)?;
                }
                Holders::Crowd
            } else {
                let mut few = Few::default();
                peers.into_iter().for_each(|peer| few.insert(peer));
                if few.is_empty() {
                    return Err(schema::damaged("a resource without holders"));
                }
                Holders::Few(few)
            };
            filled.push(Known {
                no,
                name: resource.name.as_str().as_bytes().to_vec(),
                facts: Facts {
                    digest: resource.digest,
                    size: resource.size,
                    modified_ms: resource.modified_ms,
                    holders,
                },
            })?;
        }
        filled.write()
    }

    /// Names and other terms were in one table, the names in the middle.
    fn to_texts(&self, writing: &WriteTransaction) -> Result<()> {
        let mut named = Filled::new(writing.open_table(schema::NAMED).map_err(engine)?);
        let mut termed = Filled::new(writing.open_table(schema::TERMED).map_err(engine)?);
        for row in self.terms.iter().map_err(engine)? {
            let key = row.map_err(engine)?.0;
            let (text, no) = schema::read_text(key.value())
                .ok_or_else(|| schema::damaged("an index of terms"))?;
            let (filled, text) = match text.strip_prefix(NAME) {
                Some(name) => (&mut named, name),
                None => (&mut termed, text),
            };
            let text = text.to_vec();
            filled.push(Text { text, no })?;
        }
        named.write()?;
        termed.write()
    }

    fn to_identities(&self, writing: &WriteTransaction, keys: Keys) -> Result<()> {
        let mut identities = writing.open_table(schema::IDENTITIES).map_err(engine)?;
        for row in self.by_digest.iter().map_err(engine)? {
            let no = resource_at_end(row.map_err(engine)?.0.value())?;
            let resource = self.resource(no)?;
            let identity = keys.identity(&resource.name, &resource.digest);
            identities
                .insert(&schema::identity(&identity, no), ())
                .map_err(engine)?;
        }
        Ok(())
    }

    /// What a peer holds was in the order of the buckets, and is in that of the resources.
    fn to_held(&self, writing: &WriteTransaction) -> Result<()> {
        let mut held = writing.open_table(schema::HELD).map_err(engine)?;
        let peers = writing.open_table(schema::PEERS).map_err(engine)?;
        for peer in peers.iter().map_err(engine)? {
            let peer = PeerNo(peer.map_err(engine)?.0.value());
            let prefix = lists::of_peer(peer);
            let sums = (schema::print(peer, 0), schema::print(peer, u8::MAX));
            let sums = self.sums.range::<&[u8; 5]>(&sums.0..=&sums.1);
            let mut buckets = Vec::new();
            for sum in sums.map_err(engine)? {
                let [.., bucket] = *sum.map_err(engine)?.0.value();
                let mut first = [0; 11];
                first[..4].copy_from_slice(&prefix);
                first[4] = bucket;
                let mut last = [0xff; 11];
                last[..5].copy_from_slice(&first[..5]);
                let rows = self.by_peer.range::<&[u8; 11]>(&first..=&last);
                buckets.push((bucket, rows.map_err(engine)?));
            }
            let buckets_held = buckets.len();
            let mut next = |index: usize| {
                let (bucket, rows) = &mut buckets[index];
                let row = rows.next().transpose().map_err(engine)?;
                let number = row.map(|(key, _)| resource_at_end(key.value()));
                let number = number.transpose()?.map(|no| lists::held(no, *bucket));
                Ok::<_, StoreError>(number.map(|number| Reverse((number, index))))
            };
            let firsts = (0..buckets_held).map(&mut next);
            let firsts = firsts.filter_map(Result::transpose);
            let mut heads = firsts.collect::<Result<BinaryHeap<_>>>()?;
            let mut edits: Vec<Edit> = Vec::new();
            while let Some(Reverse((number, index))) = heads.pop() {
                heads.extend(next(index)?);
                edits.push((number, true));
                if edits.len() == AT_ONCE {
                    lists::edit(&mut held, &prefix, &edits)?;
                    edits.clear();
                }
            }
            lists::edit(&mut held, &prefix, &edits)?;
        }
        Ok(())
    }

    fn to_prints(&self, writing: &WriteTransaction) -> Result<()> {
        let mut prints = writing.open_table(schema::PRINTS).map_err(engine)?;
        let mut all = Fingerprints::default();
        let mut rows = self.sums.iter().map_err(engine)?.peekable();
        while let Some(row) = rows.next() {
            let (key, sum) = row.map_err(engine)?;
            let [peer @ .., bucket] = *key.value();
            all.0[usize::from(bucket)] = Bucket::from_bytes(sum.value());
            let is_last = match rows.peek() {
                Some(Ok((next, _))) => next.value()[..4] != peer,
                _ => true,
            };
            if !is_last {
                continue;
            }
            let peer = PeerNo(u32::from_be_bytes(peer));
            let all = std::mem::take(&mut all);
            for (group, buckets) in (0..).zip(all.0.chunks(GROUP)) {
                let row = rows::prints_row(buckets);
                if !row.is_empty() {
                    prints
                        .insert(&schema::print(peer, group), &row[..])
                        .map_err(engine)?;
                }
            }
        }
        Ok(())
    }
}
