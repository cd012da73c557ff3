//! What this peer holds, in memory: by name, by digest, and as the records that others may find.
//!
//! Invariant: `records` is exactly the set of (digest, name) of `files`; every change of it is
//! sent to the followers in the order in which it was made.

use std::{
    collections::BTreeMap,
    ops::Bound,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use tokio::sync::{broadcast, watch};
use vecino_rest::{
    Digest, Name,
    body::{FileCounts, FileEntry, Origin},
};

use super::{
    partials::{Held, Partial, Partials},
    progress::Progress,
    stamp::Stamp,
};

/// A file that was hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is shared as.
    pub name: Name,
    /// Where it comes from.
    pub origin: Origin,
    /// Where it is.
    pub path: PathBuf,
    /// The file when it was hashed.
    pub stamp: Stamp,
    /// Its content.
    pub digest: Digest,
}

impl Entry {
    /// Whether its file is the one that was hashed. Blocks.
    pub fn is_still(&self) -> bool {
        std::fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| metadata.is_file() && Stamp::of(&metadata) == self.stamp)
    }

    /// As REST shows it.
    pub fn to_body(&self) -> FileEntry {
        FileEntry {
            name: self.name.clone(),
            digest: self.digest,
            size: self.stamp.size,
            modified_ms: self.stamp.modified_ms(),
            origin: self.origin,
        }
    }
}

/// What others may find: one content under one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The name.
    pub name: Name,
    /// The content.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// Last modified, in milliseconds since 1970.
    pub modified_ms: i64,
}

/// A record that came or went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It can be had here now.
    Added(Record),
    /// So many bytes cannot be had here any more.
    Removed(Digest, Name, u64),
}

/// Followers that fall behind by more than so many changes begin again from a snapshot.
const FEED_CAPACITY: usize = 8192;

#[derive(Debug, Default)]
struct Slot {
    shared: Option<Arc<Entry>>,
    fetched: Option<Arc<Entry>>,
}

impl Slot {
    fn of(&mut self, origin: Origin) -> &mut Option<Arc<Entry>> {
        match origin {
            Origin::Shared => &mut self.shared,
            Origin::Fetched => &mut self.fetched,
        }
    }

    /// What the user shares goes before what was fetched.
    fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.shared.iter().chain(&self.fetched)
    }
}

#[derive(Debug, Default)]
struct Inner {
    files: BTreeMap<Name, Slot>,
    records: BTreeMap<Digest, BTreeMap<Name, Record>>,
    counts: FileCounts,
    fetched_bytes: u64,
    /// How often `records` changed.
    changes: u64,
}

/// The catalogue; shared by everything that serves, announces or imports.
#[derive(Debug)]
pub struct Catalogue {
    inner: RwLock<Inner>,
    feed: broadcast::Sender<Change>,
    partials: Arc<Partials>,
    progress: Arc<Progress>,
}

impl Default for Catalogue {
    fn default() -> Self {
        Self {
            inner: RwLock::default(),
            feed: broadcast::channel(FEED_CAPACITY).0,
            partials: Arc::default(),
            progress: Arc::default(),
        }
    }
}

impl Catalogue {
    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts `entry` in the place of what had its name and origin before.
    pub fn insert(&self, entry: Entry) {
        let mut inner = self.write();
        let entry = Arc::new(entry);
        let record = Record {
            name: entry.name.clone(),
            digest: entry.digest,
            size: entry.stamp.size,
            modified_ms: entry.stamp.modified_ms(),
        };
        let before = inner
            .files
            .entry(entry.name.clone())
            .or_default()
            .of(entry.origin)
            .replace(entry.clone());
        inner.count(&entry, 1);
        if let Some(before) = before {
            inner.count(&before, -1);
            if before.digest != entry.digest {
                self.withdraw_unless_held(&mut inner, &before);
            }
        }
        let names = inner.records.entry(record.digest).or_default();
        if !names.contains_key(&record.name) {
            names.insert(record.name.clone(), record.clone());
            self.tell(&mut inner, Change::Added(record));
        }
    }

    /// Takes out what has this name and origin.
    pub fn remove(&self, origin: Origin, name: &Name) -> Option<Arc<Entry>> {
        let mut inner = self.write();
        let slot = inner.files.get_mut(name)?;
        let entry = slot.of(origin).take()?;
        if slot.entries().next().is_none() {
            inner.files.remove(name);
        }
        inner.count(&entry, -1);
        self.withdraw_unless_held(&mut inner, &entry);
        Some(entry)
    }

    fn withdraw_unless_held(&self, inner: &mut Inner, gone: &Entry) {
        let still_held = inner
            .files
            .get(&gone.name)
            .is_some_and(|slot| slot.entries().any(|entry| entry.digest == gone.digest));
        if still_held {
            return;
        }
        if let Some(names) = inner.records.get_mut(&gone.digest) {
            names.remove(&gone.name);
            if names.is_empty() {
                inner.records.remove(&gone.digest);
            }
        }
        self.tell(
            inner,
            Change::Removed(gone.digest, gone.name.clone(), gone.stamp.size),
        );
    }

    fn tell(&self, inner: &mut Inner, change: Change) {
        inner.changes += 1;
        // No follower is no error.
        let _ = self.feed.send(change);
    }

    /// What has this name; of several, what the user shares.
    pub fn by_name(&self, name: &Name) -> Option<Arc<Entry>> {
        self.read().files.get(name)?.entries().next().cloned()
    }

    /// What has this name and content.
    pub fn by_name_and_digest(&self, name: &Name, digest: &Digest) -> Option<Arc<Entry>> {
        self.read()
            .files
            .get(name)?
            .entries()
            .find(|entry| entry.digest == *digest)
            .cloned()
    }

    /// What has this name and origin.
    pub fn by_origin(&self, origin: Origin, name: &Name) -> Option<Arc<Entry>> {
        self.read()
            .files
            .get(name)?
            .entries()
            .find(|entry| entry.origin == origin)
            .cloned()
    }

    /// Anything with this content.
    pub fn by_digest(&self, digest: &Digest) -> Option<Arc<Entry>> {
        let inner = self.read();
        let name = inner.records.get(digest)?.keys().next()?;
        inner
            .files
            .get(name)?
            .entries()
            .find(|entry| entry.digest == *digest)
            .cloned()
    }

    /// Up to `limit` entries in order of name, after `after`, whose name begins with `prefix`.
    pub fn list(&self, prefix: &str, after: Option<&Name>, limit: usize) -> Vec<Arc<Entry>> {
        let inner = self.read();
        let start = match after {
            Some(after) if after.as_str() >= prefix => Bound::Excluded(after.as_str()),
            _ => Bound::Included(prefix),
        };
        inner
            .files
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(name, _)| name.as_str().starts_with(prefix))
            .filter_map(|(_, slot)| slot.entries().next().cloned())
            .take(limit)
            .collect()
    }

    /// Every entry of `origin`; with `at`, those with that name or below it.
    pub fn below(&self, origin: Origin, at: Option<&Name>) -> Vec<Arc<Entry>> {
        let inner = self.read();
        let prefix = at.map_or("", Name::as_str);
        let is_below = |name: &Name| match name.as_str().strip_prefix(prefix) {
            Some(rest) => prefix.is_empty() || rest.is_empty() || rest.starts_with('/'),
            None => false,
        };
        inner
            .files
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(name, _)| name.as_str().starts_with(prefix))
            .filter(|(name, _)| is_below(name))
            .flat_map(|(_, slot)| slot.entries())
            .filter(|entry| entry.origin == origin)
            .cloned()
            .collect()
    }

    /// The records whose digest begins with byte `bucket`.
    pub fn bucket(&self, bucket: u8) -> Vec<Record> {
        let (mut first, mut last) = ([0; Digest::LEN], [0xff; Digest::LEN]);
        (first[0], last[0]) = (bucket, bucket);
        self.read()
            .records
            .range(Digest::from_bytes(first)..=Digest::from_bytes(last))
            .flat_map(|(_, names)| names.values().cloned())
            .collect()
    }

    /// How many files and bytes there are; `hashing` and `announced` are left at 0.
    pub fn counts(&self) -> FileCounts {
        self.read().counts
    }

    /// Bytes of what was fetched.
    pub fn fetched_bytes(&self) -> u64 {
        self.read().fetched_bytes
    }

    /// Every change from now on.
    pub fn follow(&self) -> broadcast::Receiver<Change> {
        self.feed.subscribe()
    }

    /// Lets others find that some pieces of `record` can be had here, while the guard lives. The
    /// catalogue itself holds only what is whole.
    pub fn partial(&self, record: Record) -> Partial {
        self.partials.begin(record)
    }

    /// Follows what is held in part.
    pub fn follow_partials(&self) -> watch::Receiver<Held> {
        self.partials.follow()
    }

    /// Every change from now on, and the number of the last one before.
    pub fn follow_numbered(&self) -> (broadcast::Receiver<Change>, u64) {
        // Changes are made under the lock, so none comes in between.
        let inner = self.read();
        (self.feed.subscribe(), inner.changes)
    }

    /// The number of the last change.
    pub fn changes(&self) -> u64 {
        self.read().changes
    }

    /// How far those who announce the changes are.
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }
}

impl Inner {
    fn count(&mut self, entry: &Entry, sign: i64) {
        let files = match entry.origin {
            Origin::Shared => &mut self.counts.shared,
            Origin::Fetched => &mut self.counts.fetched,
        };
        *files = files.saturating_add_signed(sign);
        let bytes = sign * i64::try_from(entry.stamp.size).unwrap_or(i64::MAX);
        self.counts.bytes = self.counts.bytes.saturating_add_signed(bytes);
        if entry.origin == Origin::Fetched {
            self.fetched_bytes = self.fetched_bytes.saturating_add_signed(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, origin: Origin, content: &str) -> Entry {
        let stamp = Stamp {
            size: content.len() as u64,
            modified_ns: 0,
            changed_ns: 0,
            inode: 1,
        };
        let name = Name::parse(name).expect("valid");
        let path = PathBuf::from("/dir").join(name.as_str());
        Entry {
            name,
            origin,
            path,
            stamp,
            digest: Digest::of(content.as_bytes()),
        }
    }

    fn drain(feed: &mut broadcast::Receiver<Change>) -> Vec<String> {
        std::iter::from_fn(|| feed.try_recv().ok())
            .map(|change| match change {
                Change::Added(record) => format!("+{}", record.name),
                Change::Removed(_, name, _) => format!("-{name}"),
            })
            .collect()
    }

    #[test]
    fn the_feed_tells_exactly_how_the_records_change() {
        let catalogue = Catalogue::default();
        let mut feed = catalogue.follow();
        catalogue.insert(entry("a", Origin::Shared, "1"));
        catalogue.insert(entry("a", Origin::Fetched, "1"));
        assert_eq!(drain(&mut feed), ["+a"]);
        catalogue.insert(entry("a", Origin::Shared, "2"));
        assert_eq!(
            drain(&mut feed),
            ["+a"],
            "the fetched copy still has the first content"
        );
        let name = Name::parse("a").expect("valid");
        assert!(catalogue.remove(Origin::Fetched, &name).is_some());
        assert_eq!(drain(&mut feed), ["-a"]);
        catalogue.remove(Origin::Shared, &name).expect("there");
        assert_eq!(drain(&mut feed), ["-a"]);
        assert!(catalogue.remove(Origin::Shared, &name).is_none());
        assert_eq!(catalogue.counts(), FileCounts::default());
    }

    #[test]
    fn what_the_user_shares_goes_first_and_both_are_found_by_digest() {
        let catalogue = Catalogue::default();
        catalogue.insert(entry("a", Origin::Fetched, "fetched"));
        catalogue.insert(entry("a", Origin::Shared, "shared"));
        let name = Name::parse("a").expect("valid");
        assert_eq!(
            catalogue.by_name(&name).expect("there").origin,
            Origin::Shared
        );
        for content in ["fetched", "shared"] {
            let digest = Digest::of(content.as_bytes());
            assert_eq!(catalogue.by_digest(&digest).expect("there").digest, digest);
            assert!((0..=255).any(|b| catalogue.bucket(b).iter().any(|r| r.digest == digest)));
        }
    }

    #[test]
    fn lists_are_cut_by_prefix_place_and_limit() {
        let catalogue = Catalogue::default();
        for name in ["a", "b/1", "b/2", "b/3", "c"] {
            catalogue.insert(entry(name, Origin::Shared, name));
        }
        let list = |prefix: &str, after: Option<&str>, limit| -> Vec<String> {
            let after = after.map(|after| Name::parse(after).expect("valid"));
            let entries = catalogue.list(prefix, after.as_ref(), limit);
            entries.iter().map(|entry| entry.name.to_string()).collect()
        };
        assert_eq!(list("b/", None, 2), ["b/1", "b/2"]);
        assert_eq!(list("b/", Some("b/2"), 2), ["b/3"]);
        assert_eq!(list("b/", Some("a"), 9), ["b/1", "b/2", "b/3"]);
        assert_eq!(list("", Some("b/3"), 9), ["c"]);
    }
}
