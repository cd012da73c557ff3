//! Format 4 had a row for each name, with all that was known of the resource, one for each sixteen
//! names in the order of the resources, and lists of the resources that have a term.

use redb::{ReadableTable as _, TableDefinition, WriteTransaction};
use vecino_rest::Digest;

use super::{Filled, Result, resource_at_end};
use crate::store::{
    PeerNo, ResourceNo,
    redb::{
        lists,
        read::engine,
        resources::Known,
        rows::{Facts, Few, Holders, read_common, read_signed, read_varint},
        schema,
        texts::Text,
    },
};

/// name, 0, resource → digest, size, modified, its holders while they are few
const NAMES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("names");
/// first 8 bytes of the digest, keyed hash of name and digest (4), resource
const DIGESTS: TableDefinition<'_, &[u8; 18], ()> = TableDefinition::new("digests");
/// resource / 16 → the names of those 16 resources
const NUMBERS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("numbers");
/// term, 0, resource → further resources
const WORDS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("words");

/// Names of a row of `numbers`.
const BLOCK: u64 = 16;

/// Brings a file of that format up to date, but for its number.
pub(super) fn upgrade(writing: &WriteTransaction) -> Result<()> {
    to_known(writing)?;
    to_named(writing)?;
    to_termed(writing)?;
    to_identities(writing)?;
    writing.delete_table(NAMES).map_err(engine)?;
    writing.delete_table(DIGESTS).map_err(engine)?;
    writing.delete_table(NUMBERS).map_err(engine)?;
    writing.delete_table(WORDS).map_err(engine)?;
    Ok(())
}

fn to_known(writing: &WriteTransaction) -> Result<()> {
    let names = writing.open_table(NAMES).map_err(engine)?;
    let numbers = writing.open_table(NUMBERS).map_err(engine)?;
    let mut filled = Filled::new(writing.open_table(schema::KNOWN).map_err(engine)?);
    for row in numbers.iter().map_err(engine)? {
        let (number, block) = row.map_err(engine)?;
        let (mut block, mut name) = (block.value(), Vec::new());
        while let Some((place, rest)) = block.split_first() {
            block = rest;
            let no = ResourceNo(number.value() * BLOCK + u64::from(*place));
            read_common(&mut block, &mut name).ok_or_else(|| schema::damaged("a name"))?;
            let row = names.get(&schema::text(&name, no)[..]).map_err(engine)?;
            let row = row.ok_or_else(|| schema::damaged("a resource is missing"))?;
            let facts = read_facts(row.value());
            filled.push(Known {
                no,
                name: name.clone(),
                facts: facts.ok_or_else(|| schema::damaged("a resource"))?,
            })?;
        }
    }
    filled.write()
}

fn read_facts(row: &[u8]) -> Option<Facts> {
    let (digest, mut rest) = row.split_first_chunk::<32>()?;
    let size = read_varint(&mut rest)?;
    let modified_ms = read_signed(&mut rest)?;
    let mut few = Few::default();
    let mut last = 0;
    while !rest.is_empty() {
        let step = u32::try_from(read_varint(&mut rest)?).ok()?;
        last = step.checked_add(last)?;
        if few.is_full() {
            return None;
        }
        few.insert(PeerNo(last));
    }
    Some(Facts {
        digest: Digest::from_bytes(*digest),
        size,
        modified_ms,
        holders: match few.is_empty() {
            true => Holders::Crowd,
            false => Holders::Few(few),
        },
    })
}

fn to_named(writing: &WriteTransaction) -> Result<()> {
    let names = writing.open_table(NAMES).map_err(engine)?;
    let mut filled = Filled::new(writing.open_table(schema::NAMED).map_err(engine)?);
    for row in names.iter().map_err(engine)? {
        let key = row.map_err(engine)?.0;
        let (name, no) = schema::read_text(key.value()).ok_or_else(|| schema::damaged("a name"))?;
        let text = name.to_vec();
        filled.push(Text { text, no })?;
    }
    filled.write()
}

fn to_termed(writing: &WriteTransaction) -> Result<()> {
    let words = writing.open_table(WORDS).map_err(engine)?;
    let mut filled = Filled::new(writing.open_table(schema::TERMED).map_err(engine)?);
    for row in words.iter().map_err(engine)? {
        let (key, steps) = row.map_err(engine)?;
        let (term, first) = lists::read_key(key.value())?;
        let term = term.strip_suffix(&[0]);
        let term = term.ok_or_else(|| schema::damaged("a term"))?;
        for no in lists::numbers(first, steps.value()) {
            let (text, no) = (term.to_vec(), ResourceNo(no?));
            filled.push(Text { text, no })?;
        }
    }
    filled.write()
}

/// Keys have a smaller part of the digest and of the hash.
fn to_identities(writing: &WriteTransaction) -> Result<()> {
    let digests = writing.open_table(DIGESTS).map_err(engine)?;
    let mut identities = writing.open_table(schema::IDENTITIES).map_err(engine)?;
    for row in digests.iter().map_err(engine)? {
        let key = row.map_err(engine)?.0;
        let key = key.value();
        let identity = schema::concat(&[&key[..schema::DIGEST], &key[8..8 + schema::TAG]]);
        let no = resource_at_end(key)?;
        identities
            .insert(&schema::identity(&identity, no), ())
            .map_err(engine)?;
    }
    Ok(())
}
