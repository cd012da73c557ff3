//! A copy of the store while it is served: redb has no online copy, so the tables of one committed
//! snapshot are written into a new file, row by row. Readers and the writer go on; pages that the
//! snapshot needs are not reused until it is done.
//!
//! Invariant: the file has its name only when it is whole and synced, and no file is replaced.

use std::path::Path;

use redb::{Database, Durability, Key, ReadableTable as _, TableDefinition, Value};

use super::{open, read::Snapshot, schema};

/// Rows that are written between two commits. One is up to some kilobytes long: with the cache of the
/// copy, this bounds the memory that it takes.
const ROWS_AT_ONCE: usize = 50_000;

/// Writes `snapshot` into the new file `path`. Blocks.
pub(super) fn write(snapshot: &Snapshot, path: &Path) -> Result<(), String> {
    if path.exists() {
        return Err(format!("{} is there already", path.display()));
    }
    open::create_with(path, |to| {
        let copy = Copy { snapshot, to };
        copy.table(schema::PEERS)?;
        copy.table(schema::PEER_IDS)?;
        copy.table(schema::KNOWN)?;
        copy.table(schema::NAMED)?;
        copy.table(schema::TERMED)?;
        copy.table(schema::IDENTITIES)?;
        copy.table(schema::CROWDS)?;
        copy.table(schema::HELD)?;
        copy.table(schema::PRINTS)?;
        copy.table(schema::ACCOUNTS)?;
        // Last: without it, nobody takes the file for a store.
        copy.table(schema::META)
    })
}

struct Copy<'a> {
    snapshot: &'a Snapshot,
    to: &'a Database,
}

impl Copy<'_> {
    fn table<K: Key + 'static, V: Value + 'static>(
        &self,
        definition: TableDefinition<'_, K, V>,
    ) -> Result<(), String> {
        self.copy(definition).map_err(|error| error.to_string())
    }

    fn copy<K: Key + 'static, V: Value + 'static>(
        &self,
        definition: TableDefinition<'_, K, V>,
    ) -> Result<(), redb::Error> {
        let from = self.snapshot.reading.open_table(definition)?;
        let mut rows = from.iter()?.peekable();
        loop {
            let mut writing = self.to.begin_write()?;
            writing.set_durability(Durability::Immediate)?;
            {
                let mut table = writing.open_table(definition)?;
                for row in rows.by_ref().take(ROWS_AT_ONCE) {
                    let (key, value) = row?;
                    table.insert(key.value(), value.value())?;
                }
            }
            writing.commit()?;
            if rows.peek().is_none() {
                return Ok(());
            }
        }
    }
}
