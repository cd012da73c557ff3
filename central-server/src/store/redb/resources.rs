//! The rows of `resources`: what is known of a resource, in the order of the numbers. New ones come
//! at the end.

use std::cmp::Ordering;

use vecino_rest::Name;

use super::{
    cut::{self, Entry},
    rows::{Facts, read_common, read_varint, write_common, write_varint},
    schema,
};
use crate::store::{Resource, ResourceNo, StoreError};

/// A resource with its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) no: ResourceNo,
    pub(super) name: Vec<u8>,
    pub(super) facts: Facts,
}

impl Known {
    pub(super) fn resource(&self) -> Result<Resource, StoreError> {
        let name = std::str::from_utf8(&self.name).ok();
        let name = name.and_then(|name| Name::parse(name).ok());
        Ok(Resource {
            name: name.ok_or_else(|| schema::damaged("a name"))?,
            digest: self.facts.digest,
            size: self.facts.size,
            modified_ms: self.facts.modified_ms,
        })
    }

    /// What is below all that follows that number.
    pub(super) fn at_no(no: ResourceNo) -> Self {
        Self {
            no,
            name: Vec::new(),
            facts: Facts::none(),
        }
    }
}

/// The resource of that number.
pub(super) fn get(rows: &impl cut::Rows, no: ResourceNo) -> Result<Option<Known>, StoreError> {
    let mut found = None;
    cut::read(rows, &Known::at_no(no), |known| {
        if known.no == no {
            found = Some(known.clone());
        }
        Ok(false)
    })?;
    Ok(found)
}

impl Entry for Known {
    const WHAT: &'static str = "a resource";
    /// Two of them fill a page of the engine.
    const MOST_BYTES: usize = 2_032;
    /// There is some room for holders.
    const FILLED_BYTES: usize = 1_920;
    const LOWEST: &'static [u8] = &[0; schema::NO];

    fn key(&self) -> Vec<u8> {
        schema::no(self.no).to_vec()
    }

    fn at(key: &[u8]) -> Option<Self> {
        let key: &[u8; schema::NO] = key.try_into().ok()?;
        Some(Self::at_no(schema::resource_at_end(key)?))
    }

    fn order(&self, other: &Self) -> Ordering {
        self.no.cmp(&other.no)
    }

    fn read_next(&mut self, row: &mut &[u8]) -> Option<()> {
        self.no.0 = self.no.0.checked_add(read_varint(row)?)?;
        read_common(row, &mut self.name)?;
        self.facts.read_next(row)
    }

    fn write(&self, last: &Self, row: &mut Vec<u8>) {
        write_varint(row, self.no.0 - last.no.0);
        write_common(row, &last.name, &self.name);
        self.facts.write(&last.facts, row);
    }
}
