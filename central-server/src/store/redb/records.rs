//! One record comes or goes within a transaction, and its resource with it.
//!
//! Invariant: a row of `names` has holders, and is named by one row of `digests`, by its place in
//! `numbers` and by the lists of its terms and of its holders.

use redb::ReadableTable as _;
use vecino_rest::{Digest, Name, terms::terms_of};

use super::{
    apply::{Result, Transaction},
    read::engine,
    rows::{self, Block, FEW_AGAIN, Few, Holders, NameRow},
    schema,
};
use crate::store::{PeerNo, Resource, ResourceNo, StoreError, bucket_of, fingerprint::of_record};

/// Rows of `numbers` that wait for the end of a transaction at most: bounds their memory.
const BLOCKS_AT_ONCE: usize = 8_192;
/// The same of `names`, and of `digests`. All of a usual commit wait: their order is what counts.
/// Buckets that are replaced remove far more than they bring.
const ROWS_AT_ONCE: usize = 256 << 10;
/// The same of what comes to `words` and goes: a name has several terms.
const WORDS_AT_ONCE: usize = 1 << 20;

impl Transaction<'_> {
    /// The resources of that name and digest: of different sizes, if there are several.
    pub(super) fn variants(
        &self,
        name: &Name,
        digest: &Digest,
    ) -> Result<Vec<(ResourceNo, NameRow)>> {
        let (from, to) = schema::of_identity(&self.keys.identity(name, digest));
        let mut numbers = Vec::new();
        let rows = self.digests.range::<&[u8; 18]>(&from..=&to);
        for row in rows.map_err(engine)? {
            let key = row.map_err(engine)?.0;
            if !self.new_digests.contains_key(key.value()) {
                numbers.push(schema::resource_at_end(key.value()));
            }
        }
        let new = self.new_digests.range(from..=to);
        let new = new.filter(|(_, is_there)| **is_there);
        numbers.extend(new.map(|(key, _)| schema::resource_at_end(key)));
        let mut variants = Vec::new();
        for no in numbers {
            let no = no.ok_or_else(|| schema::damaged("an index of digests"))?;
            // A hash may mean another name.
            if let Some(row) = self.row(name.as_str(), no)?
                && row.digest == *digest
            {
                variants.push((no, row));
            }
        }
        Ok(variants)
    }

    fn row(&self, name: &str, no: ResourceNo) -> Result<Option<NameRow>> {
        let key = schema::name(name, no);
        if let Some(row) = self.new_names.get(&key) {
            return Ok(row.clone());
        }
        let row = self.names.get(&key[..]).map_err(engine)?;
        row.map(|row| NameRow::read(row.value())).transpose()
    }

    fn put_row(&mut self, name: &str, no: ResourceNo, row: NameRow) {
        self.new_names.insert(schema::name(name, no), Some(row));
    }

    /// Writes what was put off already where it has become much. Changes nothing of what is found.
    fn write_if_much(&mut self) -> Result<()> {
        if self.new_names.len().max(self.new_digests.len()) >= ROWS_AT_ONCE {
            self.write_rows()?;
        }
        if self.new_words.len() >= WORDS_AT_ONCE {
            self.write_words()?;
        }
        Ok(())
    }

    /// The row of `numbers` that has that resource, to be changed.
    fn block(&mut self, number: u64) -> Result<&mut Block> {
        if !self.blocks.contains_key(&number) {
            if self.blocks.len() >= BLOCKS_AT_ONCE {
                self.write_blocks()?;
            }
            let row = self.numbers.get(number).map_err(engine)?;
            let row = row.map(|row| Block::read(row.value())).transpose()?;
            self.blocks.insert(number, row.unwrap_or_default());
        }
        Ok(self.blocks.entry(number).or_default())
    }

    fn name_of(&self, no: ResourceNo) -> Result<Option<String>> {
        let (number, place) = rows::place(no);
        if let Some(block) = self.blocks.get(&number) {
            return Ok(block.get(place).map(str::to_owned));
        }
        let row = self.numbers.get(number).map_err(engine)?;
        let name = row.map(|row| rows::name_at(row.value(), place));
        Ok(name.transpose()?.flatten())
    }

    /// Adds a record, and the resource when it is new; the resource's number.
    pub(super) fn add(&mut self, peer: PeerNo, resource: &Resource) -> Result<ResourceNo> {
        let mut found = None;
        for (no, row) in self.variants(&resource.name, &resource.digest)? {
            if row.size == resource.size {
                found = Some((no, row));
            } else {
                // The same name and digest with another size cannot both be right: the newer
                // word counts.
                self.leave(peer, resource.name.as_str(), no, row)?;
            }
        }
        let no = match found {
            None => self.create(peer, resource)?,
            Some((no, row)) => {
                if !self.join(peer, resource.name.as_str(), no, row)? {
                    return Ok(no);
                }
                no
            }
        };
        self.count(peer, no, resource, true)?;
        Ok(no)
    }

    fn count(
        &mut self,
        peer: PeerNo,
        no: ResourceNo,
        resource: &Resource,
        comes: bool,
    ) -> Result<()> {
        self.write_if_much()?;
        let share = of_record(&resource.name, &resource.digest, resource.size);
        let bucket = bucket_of(&resource.digest);
        self.holding(peer)?.count(no, bucket, share, comes);
        if comes {
            self.counters.records += 1;
        } else {
            self.counters.records -= 1;
        }
        Ok(())
    }

    /// One more holder; whether it was none before.
    fn join(&mut self, peer: PeerNo, name: &str, no: ResourceNo, mut row: NameRow) -> Result<bool> {
        match &mut row.holders {
            Holders::Few(few) if few.contains(peer) => return Ok(false),
            Holders::Few(few) if !few.is_full() => few.insert(peer),
            Holders::Few(few) => {
                for holder in few.iter().chain([peer]) {
                    self.crowds
                        .insert(&schema::crowd(no, holder), ())
                        .map_err(engine)?;
                }
                row.holders = Holders::Crowd;
            }
            Holders::Crowd => {
                let key = schema::crowd(no, peer);
                if self.crowds.get(&key).map_err(engine)?.is_some() {
                    return Ok(false);
                }
                self.crowds.insert(&key, ()).map_err(engine)?;
                return Ok(true);
            }
        }
        self.put_row(name, no, row);
        Ok(true)
    }

    fn create(&mut self, peer: PeerNo, resource: &Resource) -> Result<ResourceNo> {
        let no = ResourceNo(self.counters.next_resource);
        if no > ResourceNo::MAX {
            return Err(StoreError::Engine(
                "all resource numbers are used up".into(),
            ));
        }
        self.counters.next_resource += 1;
        self.counters.resources += 1;
        let name = resource.name.as_str();
        let row = NameRow {
            digest: resource.digest,
            size: resource.size,
            modified_ms: resource.modified_ms,
            holders: Holders::Few(Few::of(peer)),
        };
        self.put_row(name, no, row);
        let identity = self.keys.identity(&resource.name, &resource.digest);
        self.new_digests.insert(schema::digest(&identity, no), true);
        let (number, place) = rows::place(no);
        self.block(number)?.insert(place, name);
        self.edit_words(&resource.name, no, true);
        Ok(no)
    }

    fn edit_words(&mut self, name: &Name, no: ResourceNo, comes: bool) {
        let terms = terms_of(name).into_iter().filter(|term| !is_name(term));
        self.new_words
            .extend(terms.map(|term| (term, (no.0, comes))));
    }

    /// Removes a record by its number. Nothing happens when the peer does not hold it (any more).
    pub(super) fn remove(&mut self, peer: PeerNo, no: ResourceNo) -> Result<()> {
        let Some(name) = self.name_of(no)? else {
            return Ok(());
        };
        let row = self.row(&name, no)?;
        let row = row.ok_or_else(|| schema::damaged("a resource is missing"))?;
        self.leave(peer, &name, no, row)
    }

    /// Removes a record, and the resource with its last holder. Nothing happens when the peer does
    /// not hold it.
    pub(super) fn leave(
        &mut self,
        peer: PeerNo,
        name: &str,
        no: ResourceNo,
        mut row: NameRow,
    ) -> Result<()> {
        let name = Name::parse(name).map_err(|_| schema::damaged("a name"))?;
        let is_held = match &mut row.holders {
            Holders::Few(few) => {
                if !few.remove(peer) {
                    return Ok(());
                }
                let is_held = !few.is_empty();
                if is_held {
                    self.put_row(name.as_str(), no, row.clone());
                }
                is_held
            }
            Holders::Crowd => {
                let key = schema::crowd(no, peer);
                if self.crowds.remove(&key).map_err(engine)?.is_none() {
                    return Ok(());
                }
                if let Some(few) = self.few_again(no)? {
                    row.holders = Holders::Few(few);
                    self.put_row(name.as_str(), no, row.clone());
                }
                true
            }
        };
        let resource = row.resource(name);
        self.count(peer, no, &resource, false)?;
        if !is_held {
            self.destroy(no, &resource)?;
        }
        Ok(())
    }

    /// Dissolves a crowd that is none any more.
    fn few_again(&mut self, no: ResourceNo) -> Result<Option<Few>> {
        let (first, last) = (
            schema::crowd(no, PeerNo(0)),
            schema::crowd(no, PeerNo(u32::MAX)),
        );
        let mut few = Few::default();
        for row in self
            .crowds
            .range::<&[u8; 10]>(&first..=&last)
            .map_err(engine)?
            .take(FEW_AGAIN + 1)
        {
            few.insert(schema::peer_of_crowd(row.map_err(engine)?.0.value()));
        }
        if few.iter().count() > FEW_AGAIN {
            return Ok(None);
        }
        for holder in few.iter() {
            self.crowds
                .remove(&schema::crowd(no, holder))
                .map_err(engine)?;
        }
        Ok(Some(few))
    }

    fn destroy(&mut self, no: ResourceNo, resource: &Resource) -> Result<()> {
        let name = resource.name.as_str();
        self.new_names.insert(schema::name(name, no), None);
        let identity = self.keys.identity(&resource.name, &resource.digest);
        self.new_digests
            .insert(schema::digest(&identity, no), false);
        let (number, place) = rows::place(no);
        self.block(number)?.remove(place);
        self.edit_words(&resource.name, no, false);
        self.counters.resources -= 1;
        Ok(())
    }
}

/// Whether a term is the name itself: `names` is in the order of those.
pub(super) fn is_name(term: &str) -> bool {
    term.starts_with('\u{2}')
}
