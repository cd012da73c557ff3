//! One record comes or goes within a transaction, and its resource with it.
//!
//! Invariant: a resource of `known` has holders, and is named by one row of `identities`, by one entry
//! of `named`, by those of its terms and by the lists of its holders.

use std::ops::Bound;

use redb::ReadableTable as _;
use vecino_rest::{Digest, Name, terms::terms_of};

use super::{
    apply::{Result, Transaction},
    read::engine,
    resources::{self, Known},
    rows::{FEW_AGAIN, Facts, Few, Holders},
    schema,
    texts::Text,
};
use crate::store::{PeerNo, Resource, ResourceNo, StoreError, bucket_of, fingerprint::of_record};

/// Resources that wait for the end of a transaction at most. All of a usual commit wait: their order is
/// what counts. Buckets that are replaced remove far more than they bring.
const RESOURCES_AT_ONCE: usize = 256 << 10;
/// The same of terms that come and go: a name has several.
const TERMS_AT_ONCE: usize = 1 << 20;

impl Transaction<'_> {
    /// The resources of that name and digest: of different sizes, if there are several.
    pub(super) fn variants(&self, name: &Name, digest: &Digest) -> Result<Vec<Known>> {
        let (from, to) = schema::of_identity(&self.keys.identity(name, digest));
        let mut numbers = Vec::new();
        // Mostly, there is none: a cursor finds that with one way down the tree, a range with two.
        let rows = self.identities.lower_bound(Bound::Included(&from));
        let mut rows = rows.map_err(engine)?;
        while let Some((key, _)) = rows.next().map_err(engine)? {
            if *key.value() > to {
                break;
            }
            if !self.new_identities.contains_key(key.value()) {
                numbers.push(schema::resource_at_end(key.value()));
            }
        }
        let new = self.new_identities.range(from..=to);
        let new = new.filter(|(_, is_there)| **is_there);
        numbers.extend(new.map(|(key, _)| schema::resource_at_end(key)));
        let mut variants = Vec::new();
        for no in numbers {
            let no = no.ok_or_else(|| schema::damaged("an index of digests"))?;
            let known = self.known(no)?;
            let known = known.ok_or_else(|| schema::damaged("a resource is missing"))?;
            // A hash may mean another name.
            if known.name == name.as_str().as_bytes() && known.facts.digest == *digest {
                variants.push(known);
            }
        }
        Ok(variants)
    }

    fn known(&self, no: ResourceNo) -> Result<Option<Known>> {
        match self.new_known.get(&no) {
            Some(known) => Ok(known.clone()),
            None => resources::get(&self.known, no),
        }
    }

    fn put(&mut self, known: Known) {
        self.new_known.insert(known.no, Some(known));
    }

    /// Writes what was put off already where it has become much. Changes nothing of what is found.
    fn write_if_much(&mut self) -> Result<()> {
        let waiting = self.new_known.len().max(self.new_named.len());
        if waiting >= RESOURCES_AT_ONCE {
            self.write_resources()?;
        }
        if self.new_termed.len() >= TERMS_AT_ONCE {
            self.write_terms()?;
        }
        Ok(())
    }

    /// Adds a record, and the resource when it is new; the resource's number.
    pub(super) fn add(&mut self, peer: PeerNo, resource: &Resource) -> Result<ResourceNo> {
        let mut found = None;
        for known in self.variants(&resource.name, &resource.digest)? {
            if known.facts.size == resource.size {
                found = Some(known);
            } else {
                // The same name and digest with another size cannot both be right: the newer
                // word counts.
                self.leave(peer, known)?;
            }
        }
        let no = match found {
            None => self.create(peer, resource)?,
            Some(known) => {
                let no = known.no;
                if !self.join(peer, known)? {
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
    fn join(&mut self, peer: PeerNo, mut known: Known) -> Result<bool> {
        let no = known.no;
        match &mut known.facts.holders {
            Holders::Few(few) if few.contains(peer) => return Ok(false),
            Holders::Few(few) if !few.is_full() => few.insert(peer),
            Holders::Few(few) => {
                for holder in few.iter().chain([peer]) {
                    self.crowds
                        .insert(&schema::crowd(no, holder), ())
                        .map_err(engine)?;
                }
                known.facts.holders = Holders::Crowd;
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
        self.put(known);
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
        self.put(Known {
            no,
            name: resource.name.as_str().as_bytes().to_vec(),
            facts: Facts {
                digest: resource.digest,
                size: resource.size,
                modified_ms: resource.modified_ms,
                holders: Holders::Few(Few::of(peer)),
            },
        });
        self.index(no, resource, true);
        Ok(no)
    }

    /// A resource comes or goes where it is found.
    fn index(&mut self, no: ResourceNo, resource: &Resource, comes: bool) {
        let identity = self.keys.identity(&resource.name, &resource.digest);
        self.new_identities
            .insert(schema::identity(&identity, no), comes);
        let name = resource.name.as_str();
        self.new_named.push((Text::new(name, no), comes));
        let terms = terms_of(&resource.name).into_iter();
        let terms = terms.filter(|term| !is_name(term));
        let terms = terms.map(|term| (term.into_bytes(), no));
        self.new_termed
            .extend(terms.map(|(text, no)| (Text { text, no }, comes)));
    }

    /// Removes a record by its number. Nothing happens when the peer does not hold it (any more).
    pub(super) fn remove(&mut self, peer: PeerNo, no: ResourceNo) -> Result<()> {
        match self.known(no)? {
            Some(known) => self.leave(peer, known),
            None => Ok(()),
        }
    }

    /// Removes a record, and the resource with its last holder. Nothing happens when the peer does
    /// not hold it.
    pub(super) fn leave(&mut self, peer: PeerNo, mut known: Known) -> Result<()> {
        let (no, resource) = (known.no, known.resource()?);
        let is_held = match &mut known.facts.holders {
            Holders::Few(few) => {
                if !few.remove(peer) {
                    return Ok(());
                }
                let is_held = !few.is_empty();
                if is_held {
                    self.put(known);
                }
                is_held
            }
            Holders::Crowd => {
                let key = schema::crowd(no, peer);
                if self.crowds.remove(&key).map_err(engine)?.is_none() {
                    return Ok(());
                }
                if let Some(few) = self.few_again(no)? {
                    known.facts.holders = Holders::Few(few);
                    self.put(known);
                }
                true
            }
        };
        self.count(peer, no, &resource, false)?;
        if !is_held {
            self.new_known.insert(no, None);
            self.index(no, &resource, false);
            self.counters.resources -= 1;
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
}

/// Whether a term is the name itself: `named` is in the order of those.
pub(super) fn is_name(term: &str) -> bool {
    term.starts_with('\u{2}')
}
