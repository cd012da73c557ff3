//! Opening a file: it must be ours and of our version, or it is left alone.
//!
//! A new file is made under another name, which nobody else has, and gets its own when it is whole:
//! a crash in between leaves no half-made store behind, and only what was made here is removed. A file that failed is opened again through its
//! [`Origin`], which never makes a new one.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use redb::{Builder, Database, DatabaseError, ReadableDatabase, StorageError, TableError};

use super::{
    memory,
    schema::{self, APPLICATION, Counters, FORMAT, Keys, META, meta},
    upgrade::{
        self, FORMAT_OF_FACTS, FORMAT_OF_NAMES, FORMAT_WITHOUT_ACCOUNTS, FORMAT_WITHOUT_NAMES,
    },
};

/// Memory for pages of the file that is served: this part of what there is, within bounds. Lookups in
/// what is not there cost twice as much. A file that is only written gets the least.
const CACHE_PART: u64 = 4;
const LEAST_CACHE_BYTES: usize = 64 << 20;
const MOST_CACHE_BYTES: usize = 1 << 30;

/// What a disk must take before changes are tried on it again: about two of the greatest commits.
const ROOM_BYTES: usize = 64 << 20;

/// Where the database comes from, and comes from again after it failed.
pub(super) trait Origin: Send {
    /// Opens what is there; the error is a sentence for the operator.
    fn open(&self) -> Result<Opened, String>;

    /// Fails while the place takes no more bytes. Leaves the database alone: a write that fails
    /// there costs its readers, too.
    fn has_room(&self) -> io::Result<()>;
}

/// A file of this machine.
pub(super) struct StoreFile(pub(super) PathBuf);

impl Origin for StoreFile {
    fn open(&self) -> Result<Opened, String> {
        forget_cached_pages(&self.0);
        existing(&self.0)
    }

    fn has_room(&self) -> io::Result<()> {
        let probe = beside(&self.0, "probe");
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&probe)?;
        // Nothing is left behind, however this ends.
        fs::remove_file(&probe)?;
        // Zeros would take no room where files are compressed.
        let mut bytes = vec![0; ROOM_BYTES];
        fastrand::fill(&mut bytes);
        file.write_all(&bytes)?;
        file.sync_data()
    }
}

/// After a failed sync the system may hold pages that never reached the disk and look as if they
/// had. What is opened next is checked as the disk has it.
fn forget_cached_pages(path: &Path) {
    let forgotten = File::open(path).and_then(|file| {
        let advice = rustix::fs::Advice::DontNeed;
        Ok(rustix::fs::fadvise(&file, 0, None, advice)?)
    });
    if let Err(error) = forgotten {
        log::debug!("cached pages of the store could not be dropped: {error}");
    }
}

/// A name in the same directory that is most likely nobody's.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{:016x}.{ending}", fastrand::u64(..)));
    beside.into()
}

/// A file that is ours.
pub(super) struct Opened {
    pub(super) database: Database,
    pub(super) keys: Keys,
    pub(super) counts: Counters,
}

pub(super) fn open(path: &Path) -> Result<Opened, String> {
    match fs::metadata(path) {
        Ok(file) if file.is_dir() => return Err("this is a directory: expected a file".into()),
        Ok(file) if file.len() > 0 => {}
        Ok(_) => return Err("the file is empty and no store; remove it, or name another".into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(path)?,
        Err(error) => return Err(error.to_string()),
    }
    existing(path)
}

fn existing(path: &Path) -> Result<Opened, String> {
    // To open a file for writing changes it. Whose it is can be read before, unless it was left in the
    // middle of something.
    match builder(LEAST_CACHE_BYTES).open_read_only(path) {
        Ok(database) => drop(identify(&database)?),
        Err(DatabaseError::RepairAborted) => {}
        Err(error) => return Err(explain(&error)),
    }
    let database = builder(cache_of_process())
        .open(path)
        .map_err(|error| explain(&error))?;
    opened(database)
}

/// The database, if it is ours.
pub(super) fn opened(database: Database) -> Result<Opened, String> {
    let (keys, counts, format) = identify(&database)?;
    if format != FORMAT {
        log::info!("the store is brought from format {format} to format {FORMAT}");
        upgrade::upgrade(&database, keys, format)
            .map_err(|error| format!("it could not be brought to format {FORMAT}: {error}"))?;
    }
    Ok(Opened {
        database,
        keys,
        counts,
    })
}

fn builder(cache_bytes: usize) -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(cache_bytes);
    builder
}

/// Memory for pages of the file that is served.
pub(super) fn cache_of_process() -> usize {
    cache_bytes(memory::of_process())
}

/// Memory for pages of the file: a part of what there is.
fn cache_bytes(memory: u64) -> usize {
    let part = usize::try_from(memory / CACHE_PART).unwrap_or(usize::MAX);
    part.clamp(LEAST_CACHE_BYTES, MOST_CACHE_BYTES)
}

fn explain(error: &DatabaseError) -> String {
    match error {
        DatabaseError::DatabaseAlreadyOpen => {
            "another process has the store open; stop it, or name another file".into()
        }
        DatabaseError::UpgradeRequired(version) => {
            format!("the file has the old redb format {version}, which this version does not read")
        }
        DatabaseError::Storage(StorageError::Io(error))
            if error.kind() != io::ErrorKind::InvalidData =>
        {
            format!("{error}")
        }
        error => format!("the file is no store, or corrupt, and was left as it is ({error})"),
    }
}

/// Reads whose file it is.
fn identify(database: &impl ReadableDatabase) -> Result<(Keys, Counters, u32), String> {
    let foreign = || "the file is a database of another program and was left as it is".to_owned();
    let unreadable = |error: &dyn std::fmt::Display| format!("the file is corrupt ({error})");
    let reading = database.begin_read().map_err(|error| unreadable(&error))?;
    let table = match reading.open_table(META) {
        Ok(table) => table,
        Err(TableError::Storage(error)) => return Err(unreadable(&error)),
        Err(_) => return Err(foreign()),
    };
    let get = |key: &str| -> Result<Option<Vec<u8>>, String> {
        let value = table.get(key).map_err(|error| unreadable(&error))?;
        Ok(value.map(|value| value.value().to_vec()))
    };
    if get(meta::APPLICATION)?.as_deref() != Some(APPLICATION) {
        return Err(foreign());
    }
    let format = get(meta::FORMAT)?
        .and_then(|bytes| bytes.try_into().ok())
        .map(u32::from_le_bytes);
    let format = match format {
        Some(
            format @ (FORMAT
            | FORMAT_OF_NAMES
            | FORMAT_OF_FACTS
            | FORMAT_WITHOUT_ACCOUNTS
            | FORMAT_WITHOUT_NAMES),
        ) => format,
        other => {
            let found = other.map_or("unknown".to_owned(), |format| format.to_string());
            return Err(format!(
                "the file has store format {found}, this version reads {FORMAT}; it was left as \
                 it is"
            ));
        }
    };
    let secret = get(meta::HASH_KEY)?.and_then(|bytes| bytes.try_into().ok());
    let counters = get(meta::COUNTERS)?.and_then(|bytes| Counters::from_bytes(&bytes));
    match (secret, counters) {
        (Some(secret), Some(counters)) => Ok((Keys { secret }, counters, format)),
        _ => Err("the file is corrupt (its meta table lacks rows)".into()),
    }
}

fn create(path: &Path) -> Result<(), String> {
    create_with(path, |database| {
        fill(database).map_err(|error| error.to_string())
    })
}

/// Makes a file that is not there yet and has it filled. What goes wrong leaves nothing behind.
pub(super) fn create_with(
    path: &Path,
    fill: impl FnOnce(&Database) -> Result<(), String>,
) -> Result<(), String> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let io = |error: io::Error| format!("it cannot be made: {error}");
    fs::create_dir_all(directory).map_err(io)?;
    let unfinished = beside(path, "new");
    // It has hashes of passwords and tokens.
    let mut only_ours = OpenOptions::new();
    let made = only_ours.write(true).create_new(true).mode(0o600);
    made.open(&unfinished).map_err(io)?;
    let filled = builder(LEAST_CACHE_BYTES)
        .create(&unfinished)
        .map_err(|error| explain(&error))
        .and_then(|database| {
            fill(&database).map_err(|error| format!("it cannot be made: {error}"))
        });
    // Unlike a rename, a link never replaces a file that somebody else made meanwhile.
    let link = || match fs::hard_link(&unfinished, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(format!("{} is there already", path.display()))
        }
        linked => linked.map_err(io),
    };
    let linked = filled.and_then(|()| link());
    fs::remove_file(&unfinished).map_err(io)?;
    linked?;
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(io)
}

pub(super) fn fill(database: &Database) -> Result<(), redb::Error> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|error| redb::Error::Io(io::Error::other(error)))?;
    let writing = database.begin_write()?;
    {
        let mut table = writing.open_table(META)?;
        table.insert(meta::APPLICATION, APPLICATION)?;
        table.insert(meta::FORMAT, &FORMAT.to_le_bytes()[..])?;
        table.insert(meta::HASH_KEY, &secret[..])?;
        table.insert(meta::COUNTERS, &Counters::default().to_bytes()[..])?;
    }
    // All tables exist from the first transaction on: readers need not ask.
    writing.open_table(schema::PEERS)?;
    writing.open_table(schema::PEER_IDS)?;
    writing.open_table(schema::KNOWN)?;
    writing.open_table(schema::NAMED)?;
    writing.open_table(schema::TERMED)?;
    writing.open_table(schema::IDENTITIES)?;
    writing.open_table(schema::CROWDS)?;
    writing.open_table(schema::HELD)?;
    writing.open_table(schema::PRINTS)?;
    writing.open_table(schema::ACCOUNTS)?;
    writing.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_a_part_of_the_memory_within_bounds() {
        assert_eq!(cache_bytes(0), 64 << 20);
        assert_eq!(cache_bytes(1 << 30), 256 << 20);
        assert_eq!(cache_bytes(64 << 30), 1 << 30);
    }
}
