//! Ordered lists of numbers that are cut into rows: those that a peer holds.
//!
//! The key of a row is the list's prefix and the row's first number, the value the steps to the
//! further ones. Nearly all numbers come at the end, where a row takes a byte or two for each.
//!
//! Invariant: the rows of a list do not overlap, and each has one to [`MOST`] numbers. What was
//! removed is gone at once: the rows of a list are never more than its numbers.

use std::ops::Bound;

use redb::{ReadableTable, Table};

use super::{
    read::engine,
    rows::{read_varint, write_varint},
    schema::damaged,
};
use crate::store::{PeerNo, ResourceNo, StoreError};

/// Numbers of one row at most.
const MOST: usize = 256;
/// Bytes of a number in a key.
const NUMBER: usize = 7;

/// Rows of lists.
pub(super) trait Rows: ReadableTable<&'static [u8], &'static [u8]> {}
impl<T: ReadableTable<&'static [u8], &'static [u8]>> Rows for T {}

/// A number in the list of a peer: which resource, and in which bucket it is.
pub(super) fn held(no: ResourceNo, bucket: u8) -> u64 {
    (no.0 << 8) | u64::from(bucket)
}

pub(super) fn read_held(number: u64) -> (ResourceNo, u8) {
    let [bucket, ..] = number.to_le_bytes();
    (ResourceNo(number >> 8), bucket)
}

/// The prefix of a peer's list.
pub(super) fn of_peer(peer: PeerNo) -> [u8; 4] {
    peer.0.to_be_bytes()
}

pub(super) fn key(prefix: &[u8], number: u64) -> Vec<u8> {
    let [_, bytes @ ..] = number.to_be_bytes();
    [prefix, &bytes].concat()
}

/// The prefix and the first number of a row.
pub(super) fn read_key(key: &[u8]) -> Result<(&[u8], u64), StoreError> {
    let split = key.split_last_chunk::<NUMBER>();
    let (prefix, [a, b, c, d, e, f, g]) = split.ok_or_else(|| damaged("a list"))?;
    let number = u64::from_be_bytes([0, *a, *b, *c, *d, *e, *f, *g]);
    Ok((prefix, number))
}

/// The numbers of a row.
pub(super) fn numbers(
    first: u64,
    mut steps: &[u8],
) -> impl Iterator<Item = Result<u64, StoreError>> {
    let mut last = Some(first);
    std::iter::from_fn(move || {
        let number = last?;
        last = None;
        if !steps.is_empty() {
            let next = read_varint(&mut steps).and_then(|step| number.checked_add(step));
            let Some(next) = next else {
                return Some(Err(damaged("a list")));
            };
            last = Some(next);
        }
        Some(Ok(number))
    })
}

/// The numbers of one list in their order, while `each` wants more.
pub(super) fn read(
    rows: &impl Rows,
    prefix: &[u8],
    mut each: impl FnMut(u64) -> bool,
) -> Result<(), StoreError> {
    let (first, last) = (key(prefix, 0), key(prefix, u64::MAX));
    for row in rows
        .range::<&[u8]>(&first[..]..=&last[..])
        .map_err(engine)?
    {
        let (key, steps) = row.map_err(engine)?;
        for number in numbers(read_key(key.value())?.1, steps.value()) {
            if !each(number?) {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// A number that comes (true) or goes.
pub(super) type Edit = (u64, bool);

/// Puts edits in their order; the last one of a number counts.
pub(super) fn in_order(edits: &mut Vec<Edit>) {
    edits.sort_by_key(|(number, _)| *number);
    edits.dedup_by(|later, earlier| {
        let same = later.0 == earlier.0;
        if same {
            earlier.1 = later.1;
        }
        same
    });
}

/// Changes a list. `edits` are in order, each number once.
pub(super) fn edit(
    rows: &mut Table<'_, &'static [u8], &'static [u8]>,
    prefix: &[u8],
    mut edits: &[Edit],
) -> Result<(), StoreError> {
    while let Some((number, _)) = edits.first() {
        let (known, next) = row_for(rows, prefix, *number)?;
        let is_at_end = known.last().is_none_or(|last| number > last);
        let here = next.map_or(edits.len(), |next| {
            edits.partition_point(|(number, _)| *number < next)
        });
        let (these, rest) = edits.split_at(here);
        edits = rest;
        let merged = merge(&known, these);
        write(rows, prefix, &known, &merged, is_at_end)?;
    }
    Ok(())
}

/// The numbers of the row that has `number`, or would, and where the next row begins.
fn row_for(
    rows: &impl Rows,
    prefix: &[u8],
    number: u64,
) -> Result<(Vec<u64>, Option<u64>), StoreError> {
    let (lowest, highest) = (key(prefix, 0), key(prefix, u64::MAX));
    // Most numbers come at the end of the list.
    let mut here = rows
        .range::<&[u8]>(&lowest[..]..=&highest[..])
        .map_err(engine)?;
    let Some(last) = here.next_back() else {
        return Ok((Vec::new(), None));
    };
    let (last, steps) = last.map_err(engine)?;
    let first = read_key(last.value())?.1;
    if first <= number {
        let known = numbers(first, steps.value()).collect::<Result<_, _>>()?;
        return Ok((known, None));
    }
    let place = key(prefix, number);
    let next = Bound::Excluded(&place[..]);
    let next = (next, Bound::Included(&highest[..]));
    let next = rows.range::<&[u8]>(next).map_err(engine)?.next();
    let next = next.transpose().map_err(engine)?;
    let next = next.map(|(key, _)| read_key(key.value()).map(|(_, first)| first));
    let mut here = rows
        .range::<&[u8]>(&lowest[..]..=&place[..])
        .map_err(engine)?;
    let known = match here.next_back() {
        None => Vec::new(),
        Some(row) => {
            let (key, steps) = row.map_err(engine)?;
            numbers(read_key(key.value())?.1, steps.value()).collect::<Result<_, _>>()?
        }
    };
    Ok((known, next.transpose()?))
}

fn merge(known: &[u64], edits: &[Edit]) -> Vec<u64> {
    let mut merged = Vec::with_capacity(known.len() + edits.len());
    let mut known = known.iter().copied().peekable();
    for (number, comes) in edits {
        while let Some(before) = known.next_if(|known| known < number) {
            merged.push(before);
        }
        known.next_if_eq(number);
        if *comes {
            merged.push(*number);
        }
    }
    merged.extend(known);
    merged
}

/// Replaces a row by those of `numbers`.
fn write(
    rows: &mut Table<'_, &'static [u8], &'static [u8]>,
    prefix: &[u8],
    before: &[u64],
    numbers: &[u64],
    is_at_end: bool,
) -> Result<(), StoreError> {
    if before == numbers {
        return Ok(());
    }
    if let Some(first) = before.first()
        && numbers.first() != Some(first)
    {
        rows.remove(&key(prefix, *first)[..]).map_err(engine)?;
    }
    // Rows at the end are filled; where one in the middle grows too long, both halves can grow.
    let length = if is_at_end {
        MOST
    } else {
        numbers.len().div_ceil(numbers.len().div_ceil(MOST).max(1))
    };
    for row in numbers.chunks(length.max(1)) {
        let mut steps = Vec::with_capacity(row.len() * 2);
        for pair in row.windows(2) {
            write_varint(&mut steps, pair[1] - pair[0]);
        }
        rows.insert(&key(prefix, row[0])[..], &steps[..])
            .map_err(engine)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use redb::{Builder, TableDefinition, backends::InMemoryBackend};

    use super::*;

    const LISTS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("lists");

    fn edits() -> impl Strategy<Value = Vec<Edit>> {
        let few = prop::collection::vec((0..900_u64, any::<bool>()), 0..40);
        // Runs fill rows and empty them.
        let run = (0..900_u64, 1..700_u64, any::<bool>());
        let run =
            run.prop_map(|(from, count, comes)| (from..from + count).map(move |n| (n, comes)));
        prop_oneof![few, run.prop_map(Iterator::collect)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn lists_are_what_was_put_into_them(rounds in prop::collection::vec(edits(), 1..12)) {
            let database = Builder::new().create_with_backend(InMemoryBackend::new()).expect("creates");
            let writing = database.begin_write().expect("begins");
            let mut table = writing.open_table(LISTS).expect("opens");
            for neighbour in [b"a", b"c"] {
                edit(&mut table, neighbour, &[(5, true)]).expect("edits");
            }
            let mut model = BTreeSet::new();
            for mut round in rounds {
                for (number, comes) in &round {
                    if *comes {
                        model.insert(*number);
                    } else {
                        model.remove(number);
                    }
                }
                in_order(&mut round);
                edit(&mut table, b"b", &round).expect("edits");
                let mut there = Vec::new();
                read(&table, b"b", |number| { there.push(number); true }).expect("reads");
                prop_assert_eq!(&there, &model.iter().copied().collect::<Vec<_>>());
            }
            for row in table.iter().expect("reads") {
                let (key, steps) = row.expect("reads");
                let (_, first) = read_key(key.value()).expect("is one");
                let count = numbers(first, steps.value()).count();
                prop_assert!((1..=MOST).contains(&count), "{}", count);
            }
            for neighbour in [b"a", b"c"] {
                let mut there = Vec::new();
                read(&table, neighbour, |number| { there.push(number); true }).expect("reads");
                prop_assert_eq!(there, vec![5]);
            }
        }
    }
}
