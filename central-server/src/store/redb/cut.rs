//! Entries in order that are cut into rows, each told by what it has in common with the one before.
//!
//! The engine has about 30 bytes of its own for each row, and halves a full page wherever the next
//! row comes: so rows have many entries, and those at the end of the table are filled.
//!
//! Invariant: the entries of a row are not below its key and are below the key of the next one. A key
//! stays when its entry goes; a row without entries is removed.

use std::{cmp::Ordering, ops::Bound};

use redb::{ReadableTable, Table};

use super::{read::engine, schema::damaged};
use crate::store::StoreError;

/// What is in the rows of a table.
pub(super) trait Entry: Clone {
    /// What it is called where it is damaged.
    const WHAT: &'static str;
    /// Bytes of a row at most, unless it has one entry.
    const MOST_BYTES: usize;
    /// Bytes to which rows at the end of the table are filled.
    const FILLED_BYTES: usize;
    /// A key that is below all others.
    const LOWEST: &'static [u8];

    /// The key of a row that begins with it.
    fn key(&self) -> Vec<u8>;

    /// What the first entry of a row with that key is told by: no entry below it is in the row.
    fn at(key: &[u8]) -> Option<Self>;

    fn order(&self, other: &Self) -> Ordering;

    /// Becomes the entry that follows it in a row.
    fn read_next(&mut self, row: &mut &[u8]) -> Option<()>;

    /// Writes it behind `last`.
    fn write(&self, last: &Self, row: &mut Vec<u8>);
}

/// Tables of such rows.
pub(super) trait Rows: ReadableTable<&'static [u8], &'static [u8]> {}
impl<T: ReadableTable<&'static [u8], &'static [u8]>> Rows for T {}

/// An entry that comes (true) or goes.
pub(super) type Edit<E> = (E, bool);

/// The entries of a row, one after the other.
struct Reader<'r, E> {
    entry: E,
    rest: &'r [u8],
}

impl<'r, E: Entry> Reader<'r, E> {
    fn new(key: &[u8], row: &'r [u8]) -> Result<Self, StoreError> {
        let entry = E::at(key).ok_or_else(|| damaged(E::WHAT))?;
        Ok(Self { entry, rest: row })
    }

    /// Whether there is another one.
    fn advance(&mut self) -> Result<bool, StoreError> {
        if self.rest.is_empty() {
            return Ok(false);
        }
        let read = self.entry.read_next(&mut self.rest);
        read.map(|()| true).ok_or_else(|| damaged(E::WHAT))
    }
}

/// The entries from `from` on in their order, while `each` wants more.
pub(super) fn read<E: Entry>(
    rows: &impl Rows,
    from: &E,
    mut each: impl FnMut(&E) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    let key = from.key();
    let mut cursor = rows
        .upper_bound(Bound::Included(&key[..]))
        .map_err(engine)?;
    let mut row = cursor.peek_prev().map_err(engine)?;
    if row.is_none() {
        row = cursor.next().map_err(engine)?;
    }
    while let Some((key, value)) = row {
        let mut entries = Reader::<E>::new(key.value(), value.value())?;
        while entries.advance()? {
            if entries.entry.order(from).is_ge() && !each(&entries.entry)? {
                return Ok(());
            }
        }
        row = cursor.next().map_err(engine)?;
    }
    Ok(())
}

/// Puts edits in their order; the last one of an entry counts.
pub(super) fn in_order<E: Entry>(edits: &mut Vec<Edit<E>>) {
    edits.sort_by(|(a, _), (b, _)| a.order(b));
    edits.dedup_by(|later, earlier| {
        let same = later.0.order(&earlier.0).is_eq();
        if same {
            earlier.1 = later.1;
        }
        same
    });
}

/// Changes a table. `edits` are in order, each entry once.
pub(super) fn edit<E: Entry>(
    rows: &mut Table<'_, &'static [u8], &'static [u8]>,
    mut edits: &[Edit<E>],
) -> Result<(), StoreError> {
    while let Some((first, _)) = edits.first() {
        let (key, row, next) = row_for(rows, first)?;
        let here = match &next {
            None => edits.len(),
            Some(next) => edits
                .iter()
                .take_while(|(entry, _)| entry.order(next).is_lt())
                .count(),
        };
        if here == 0 {
            // Otherwise it would be looked at for ever.
            return Err(damaged(E::WHAT));
        }
        let (these, rest) = edits.split_at(here);
        edits = rest;
        let merged = merge(&key, &row, these)?;
        write::<E>(rows, &key, &row, &merged, next.is_none())?;
    }
    Ok(())
}

/// The row that has that entry, or would, and where the next one begins.
#[allow(clippy::type_complexity)]
fn row_for<E: Entry>(
    rows: &impl Rows,
    entry: &E,
) -> Result<(Vec<u8>, Vec<u8>, Option<E>), StoreError> {
    let key = entry.key();
    let mut cursor = rows
        .upper_bound(Bound::Included(&key[..]))
        .map_err(engine)?;
    let (key, row) = match cursor.peek_prev().map_err(engine)? {
        Some((key, row)) => (key.value().to_vec(), row.value().to_vec()),
        None => (E::LOWEST.to_vec(), Vec::new()),
    };
    let next = match cursor.peek_next().map_err(engine)? {
        Some((next, _)) => Some(E::at(next.value()).ok_or_else(|| damaged(E::WHAT))?),
        None => None,
    };
    Ok((key, row, next))
}

/// A row with its edits, however long it is then.
fn merge<E: Entry>(key: &[u8], row: &[u8], edits: &[Edit<E>]) -> Result<Vec<u8>, StoreError> {
    let mut known = Reader::<E>::new(key, row)?;
    let mut last = known.entry.clone();
    let mut merged = Vec::with_capacity(row.len() + 32 * edits.len());
    // Up to there, nothing has changed.
    let mut same = Some(0);
    let mut is_there = known.advance()?;
    for (entry, comes) in edits {
        while is_there && known.entry.order(entry).is_lt() {
            match &mut same {
                Some(same) => *same = row.len() - known.rest.len(),
                None => known.entry.write(&last, &mut merged),
            }
            last.clone_from(&known.entry);
            is_there = known.advance()?;
        }
        if let Some(same) = same.take() {
            merged.extend_from_slice(&row[..same]);
        }
        if is_there && known.entry.order(entry).is_eq() {
            is_there = known.advance()?;
        }
        if *comes {
            entry.write(&last, &mut merged);
            last.clone_from(entry);
        }
    }
    if is_there {
        known.entry.write(&last, &mut merged);
        merged.extend_from_slice(known.rest);
    }
    Ok(merged)
}

/// Replaces a row.
fn write<E: Entry>(
    rows: &mut Table<'_, &'static [u8], &'static [u8]>,
    key: &[u8],
    before: &[u8],
    row: &[u8],
    is_at_end: bool,
) -> Result<(), StoreError> {
    if row.is_empty() {
        if !before.is_empty() {
            rows.remove(key).map_err(engine)?;
        }
        return Ok(());
    }
    if row.len() <= E::MOST_BYTES {
        rows.insert(key, row).map_err(engine)?;
        return Ok(());
    }
    // Rows at the end are filled; where one in the middle grows too long, its parts can grow.
    let (enough, most) = if is_at_end {
        (usize::MAX, E::FILLED_BYTES)
    } else {
        let parts = row.len().div_ceil(E::MOST_BYTES);
        (row.len().div_ceil(parts), E::MOST_BYTES)
    };
    let mut known = Reader::<E>::new(key, row)?;
    let mut last = known.entry.clone();
    let (mut key, mut part) = (key.to_vec(), Vec::with_capacity(E::MOST_BYTES));
    while known.advance()? {
        let end = part.len();
        known.entry.write(&last, &mut part);
        if end > 0 && (end >= enough || part.len() > most) {
            rows.insert(&key[..], &part[..end]).map_err(engine)?;
            key = known.entry.key();
            last = E::at(&key).ok_or_else(|| damaged(E::WHAT))?;
            part.clear();
            known.entry.write(&last, &mut part);
        }
        last.clone_from(&known.entry);
    }
    rows.insert(&key[..], &part[..]).map_err(engine)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use redb::{Builder, TableDefinition, backends::InMemoryBackend};
    use vecino_rest::Digest;

    use super::*;
    use crate::store::{
        PeerNo, ResourceNo,
        redb::{
            resources::Known,
            rows::{Facts, Few, Holders},
            schema,
            texts::Text,
        },
    };

    const ROWS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows");

    /// Applies rounds of edits to a table and to a model.
    fn is_as_the_model<E: Entry + Ord + std::fmt::Debug>(
        rounds: Vec<Vec<Edit<E>>>,
    ) -> Result<(), TestCaseError> {
        let database = Builder::new().create_with_backend(InMemoryBackend::new());
        let writing = database.expect("creates").begin_write().expect("begins");
        let mut table = writing.open_table(ROWS).expect("opens");
        let mut model = BTreeMap::new();
        for mut round in rounds {
            for (entry, comes) in &round {
                // What is there already is replaced.
                model.remove(entry);
                if *comes {
                    model.insert(entry.clone(), ());
                }
            }
            in_order(&mut round);
            edit(&mut table, &round).expect("edits");
            let (mut there, lowest) = (Vec::new(), E::at(E::LOWEST).expect("is one"));
            read(&table, &lowest, |entry: &E| {
                there.push(entry.clone());
                Ok(true)
            })
            .expect("reads");
            prop_assert_eq!(&there, &model.keys().cloned().collect::<Vec<_>>());
            for from in model.keys() {
                let mut found = None;
                read(&table, from, |entry: &E| {
                    found = Some(entry.clone());
                    Ok(false)
                })
                .expect("reads");
                prop_assert_eq!(found.as_ref(), Some(from));
            }
            for row in table.iter().expect("reads") {
                let (key, row) = row.expect("reads");
                let mut entries = Reader::<E>::new(key.value(), row.value()).expect("is one");
                let mut count = 0;
                while entries.advance().expect("reads") {
                    count += 1;
                }
                prop_assert!(count == 1 || (count > 1 && row.value().len() <= E::MOST_BYTES));
            }
        }
        Ok(())
    }

    /// Single ones, and runs that fill rows and empty them.
    fn edits<E: Clone + std::fmt::Debug>(
        entry: impl Fn(u64) -> E + Clone,
    ) -> impl Strategy<Value = Vec<Vec<Edit<E>>>> {
        let few = prop::collection::vec((0..600_u64, any::<bool>()), 0..40);
        let run = (0..600_u64, 1..400_u64, any::<bool>());
        let run =
            run.prop_map(|(from, count, comes)| (from..from + count).map(move |n| (n, comes)));
        let round = prop_oneof![few, run.prop_map(Iterator::collect)];
        prop::collection::vec(round, 1..8).prop_map(move |rounds| {
            let round = |round: Vec<(u64, bool)>| round.into_iter().map(|(n, c)| (entry(n), c));
            rounds.into_iter().map(|r| round(r).collect()).collect()
        })
    }

    fn text(number: u64) -> Text {
        let text = match number % 5 {
            0 => "of many".to_owned(),
            1 => format!("{number} {}", "long ".repeat(number as usize % 200)),
            2 => format!("año {}", number / 50),
            _ => format!("file {number}"),
        };
        Text::new(&text, ResourceNo(number * 1_000))
    }

    fn known(number: u64) -> Known {
        let holders = match number % 9 {
            0 => Holders::Crowd,
            count => {
                let mut few = Few::default();
                (0..count).for_each(|peer| few.insert(PeerNo(number as u32 + peer as u32 * 1_000)));
                Holders::Few(few)
            }
        };
        Known {
            no: ResourceNo(number * number),
            name: text(number).text,
            facts: Facts {
                digest: Digest::of(&number.to_le_bytes()),
                size: number << (number % 50),
                modified_ms: [i64::MIN, -5, number as i64, i64::MAX][number as usize % 4],
                holders,
            },
        }
    }

    impl PartialOrd for Known {
        fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
            Some(self.cmp(other))
        }
    }

    impl Ord for Known {
        fn cmp(&self, other: &Self) -> Ordering {
            self.order(other)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn texts_are_what_was_put_there(rounds in edits(text)) {
            is_as_the_model(rounds)?;
        }

        #[test]
        fn resources_are_what_was_put_there(rounds in edits(known)) {
            is_as_the_model(rounds)?;
        }
    }

    #[test]
    fn what_comes_at_the_end_fills_the_rows() {
        let database = Builder::new().create_with_backend(InMemoryBackend::new());
        let writing = database.expect("creates").begin_write().expect("begins");
        let mut table = writing.open_table(ROWS).expect("opens");
        let all: Vec<_> = (0..3_000).map(|n| (known(n * 10 + 1), true)).collect();
        for some in all.chunks(70) {
            edit(&mut table, some).expect("edits");
        }
        let rows: Vec<_> = table
            .iter()
            .expect("reads")
            .map(|row| row.expect("reads").1.value().len())
            .collect();
        let (_, rows) = rows.split_last().expect("has rows");
        let mean = rows.iter().sum::<usize>() / rows.len();
        assert!(mean > Known::FILLED_BYTES * 8 / 10, "{mean}");
    }

    /// What edits answer where a table has a row of one entry with that key.
    fn edit_beside<E: Entry>(key: &[u8], entry: &E, first: E) -> Result<(), StoreError> {
        let database = Builder::new().create_with_backend(InMemoryBackend::new());
        let writing = database.expect("creates").begin_write().expect("begins");
        let mut table = writing.open_table(ROWS).expect("opens");
        let mut row = Vec::new();
        entry.write(entry, &mut row);
        table.insert(key, &row[..]).expect("inserts");
        edit(&mut table, &[(first, true)])
    }

    #[test]
    fn a_key_out_of_its_order_is_damage() {
        let long = [&[9][..], &schema::no(ResourceNo(1))].concat();
        let edited = edit_beside(&long, &known(1), known(5));
        assert_eq!(edited, Err(damaged(Known::WHAT)));
        assert_eq!(Known::at(&long), None);
        // No text has such a byte.
        let between = Text::new("a\0b", ResourceNo(1));
        let entry = Text::new("a", ResourceNo(0xff << 40));
        let edited = edit_beside(&entry.key(), &entry, between);
        assert_eq!(edited, Err(damaged(Text::WHAT)));
    }
}
