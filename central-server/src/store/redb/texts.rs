//! The rows of `named` and `termed`: which resources have which name or term, in the order of those.

use std::cmp::Ordering;

use super::{
    cut::Entry,
    rows::{common, read_length, read_varint, write_varint},
    schema::{self, damaged},
};
use crate::store::{ResourceNo, StoreError};

/// That a resource has a name, or a term.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Text {
    pub(super) text: Vec<u8>,
    pub(super) no: ResourceNo,
}

impl Text {
    pub(super) fn new(text: &str, no: ResourceNo) -> Self {
        let text = text.as_bytes().to_vec();
        Self { text, no }
    }

    pub(super) fn as_str(&self) -> Result<&str, StoreError> {
        std::str::from_utf8(&self.text).map_err(|_| damaged(Self::WHAT))
    }
}

/// An entry is the step to a further resource of the same text, or the length that its text has in
/// common with the one before, the rest of the text, and the resource. The lowest bit tells which.
impl Entry for Text {
    const WHAT: &'static str = "a name or term";
    /// All entries before the one that is looked for are read.
    const MOST_BYTES: usize = 512;
    const FILLED_BYTES: usize = Self::MOST_BYTES;
    const LOWEST: &'static [u8] = &[];

    fn key(&self) -> Vec<u8> {
        schema::text(&self.text, self.no)
    }

    fn at(key: &[u8]) -> Option<Self> {
        if key.is_empty() {
            return Some(Self::new("", ResourceNo(0)));
        }
        let (text, no) = schema::read_text(key)?;
        let text = text.to_vec();
        Some(Self { text, no })
    }

    fn order(&self, other: &Self) -> Ordering {
        self.cmp(other)
    }

    fn read_next(&mut self, row: &mut &[u8]) -> Option<()> {
        let head = read_varint(row)?;
        if head & 1 == 0 {
            self.no.0 = self.no.0.checked_add(head >> 1)?;
            return Some(());
        }
        let common = usize::try_from(head >> 1).ok()?;
        let more = read_length(row)?;
        let (more, rest) = row.split_at_checked(more)?;
        *row = rest;
        if common > self.text.len() {
            return None;
        }
        self.text.truncate(common);
        self.text.extend_from_slice(more);
        self.no = ResourceNo(read_varint(row)?);
        Some(())
    }

    fn write(&self, last: &Self, row: &mut Vec<u8>) {
        if self.text == last.text {
            write_varint(row, (self.no.0 - last.no.0) << 1);
            return;
        }
        let common = common(&last.text, &self.text);
        write_varint(row, (common as u64) << 1 | 1);
        write_varint(row, (self.text.len() - common) as u64);
        row.extend_from_slice(&self.text[common..]);
        write_varint(row, self.no.0);
    }
}
