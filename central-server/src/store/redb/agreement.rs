//! Whether the tables of a store agree: everything follows from `known`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use redb::{ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _};
use vecino_rest::terms::terms_of;

use super::{
    cut::{self, Entry},
    lists,
    resources::Known,
    rows::{self, FEW_AGAIN, Holders},
    schema,
    texts::Text,
};
use crate::{
    metrics::StoreMetrics,
    store::{
        Fingerprints, PeerNo, RedbStore, Store as _, bucket_of,
        conformance::{announce, file, row, withdraw},
        fingerprint::of_record,
    },
};

type Table = redb::ReadOnlyTable<&'static [u8], &'static [u8]>;

/// How many rows there are.
#[derive(Debug)]
pub(super) struct Rows {
    /// Of what peers hold.
    pub(super) held: u64,
    /// Entries of names and terms, and their rows.
    pub(super) entries: usize,
    pub(super) of_entries: u64,
}

/// Fails unless all tables of a store that nobody has open agree, with nothing left over.
pub(super) fn agree(path: &Path) -> Rows {
    let opened = super::open::open(path).expect("opens");
    let (database, keys, counters) = (opened.database, opened.keys, opened.counts);
    let reading = database.begin_read().expect("begins");
    let known = reading.open_table(schema::KNOWN).expect("opens");
    let named = reading.open_table(schema::NAMED).expect("opens");
    let termed = reading.open_table(schema::TERMED).expect("opens");
    let identities = reading.open_table(schema::IDENTITIES).expect("opens");
    let crowds = reading.open_table(schema::CROWDS).expect("opens");
    let held = reading.open_table(schema::HELD).expect("opens");
    let prints = reading.open_table(schema::PRINTS).expect("opens");

    let mut due_identities = BTreeSet::new();
    let (mut due_named, mut due_termed) = (BTreeSet::new(), BTreeSet::new());
    let mut due_held: BTreeMap<Vec<u8>, BTreeSet<u64>> = BTreeMap::new();
    let mut due_prints: BTreeMap<PeerNo, Fingerprints> = BTreeMap::new();
    let (mut resources, mut records, mut in_crowds) = (0, 0, 0);
    for entry in all::<Known>(&known) {
        let resource = entry.resource().expect("valid");
        let (no, name) = (entry.no, &resource.name);
        resources += 1;
        assert!(no.0 < counters.next_resource);
        due_named.insert(Text::new(name.as_str(), no));
        let identity = keys.identity(name, &resource.digest);
        due_identities.insert(schema::identity(&identity, no));
        let terms = terms_of(name).into_iter();
        let terms = terms.filter(|term| !term.starts_with('\u{2}'));
        due_termed.extend(terms.map(|term| Text::new(&term, no)));
        let holders: Vec<PeerNo> = match &entry.facts.holders {
            Holders::Few(few) => few.iter().collect(),
            Holders::Crowd => {
                let first = schema::crowd(no, PeerNo(0));
                let last = schema::crowd(no, PeerNo(u32::MAX));
                let rows = crowds.range::<&[u8; 10]>(&first..=&last).expect("reads");
                let peers = rows.map(|row| schema::peer_of_crowd(row.expect("reads").0.value()));
                let peers: Vec<_> = peers.collect();
                assert!(peers.len() > FEW_AGAIN, "{name}: {peers:?}");
                in_crowds += peers.len() as u64;
                peers
            }
        };
        assert!(!holders.is_empty(), "{name}");
        let bucket = bucket_of(&resource.digest);
        for peer in holders {
            records += 1;
            let prefix = lists::of_peer(peer).to_vec();
            due_held
                .entry(prefix)
                .or_default()
                .insert(lists::held(no, bucket));
            let prints = &mut due_prints.entry(peer).or_default().0;
            prints[usize::from(bucket)].add(of_record(name, &resource.digest, resource.size));
        }
    }
    assert_eq!((counters.resources, counters.records), (resources, records));
    assert_eq!(crowds.len().expect("counts"), in_crowds);

    let there = identities.iter().expect("reads");
    let there: BTreeSet<_> = there.map(|row| *row.expect("reads").0.value()).collect();
    assert_eq!(there, due_identities);

    let entries = due_named.len() + due_termed.len();
    assert_eq!(all::<Text>(&named), Vec::from_iter(due_named));
    assert_eq!(all::<Text>(&termed), Vec::from_iter(due_termed));
    assert_eq!(all_lists(&held), due_held);

    let mut there: BTreeMap<PeerNo, Fingerprints> = BTreeMap::new();
    for row in prints.iter().expect("reads") {
        let (key, row) = row.expect("reads");
        let [peer @ .., group] = *key.value();
        let peer = PeerNo(u32::from_be_bytes(peer));
        let all = there.entry(peer).or_default();
        rows::read_prints(group, row.value(), all).expect("reads");
    }
    assert!(there == due_prints, "fingerprints differ");
    Rows {
        held: held.len().expect("counts"),
        entries,
        of_entries: named.len().expect("counts") + termed.len().expect("counts"),
    }
}

/// All entries of a table. Its rows are what they have to be.
fn all<E: Entry>(table: &Table) -> Vec<E> {
    let mut all: Vec<E> = Vec::new();
    let from = E::at(E::LOWEST).expect("is one");
    cut::read(table, &from, |entry: &E| {
        assert!(
            all.last().is_none_or(|last| last.order(entry).is_lt()),
            "rows overlap"
        );
        all.push(entry.clone());
        Ok(true)
    })
    .expect("reads");
    let mut rows = table.iter().expect("reads").peekable();
    while let Some(row) = rows.next() {
        let (key, row) = row.expect("reads");
        let (mut entry, mut rest) = (E::at(key.value()).expect("is one"), row.value());
        let mut count = 0;
        while !rest.is_empty() {
            let least = entry.clone();
            entry.read_next(&mut rest).expect("is one");
            assert!(entry.order(&least).is_ge());
            count += 1;
        }
        assert!(count == 1 || (count > 1 && row.value().len() <= E::MOST_BYTES));
        if let Some(Ok((next, _))) = rows.peek() {
            let next = E::at(next.value()).expect("is one");
            assert!(entry.order(&next).is_lt(), "an entry is in the wrong row");
        }
    }
    all
}

fn all_lists(table: &Table) -> BTreeMap<Vec<u8>, BTreeSet<u64>> {
    let mut all: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for row in table.iter().expect("reads") {
        let (key, steps) = row.expect("reads");
        let (prefix, first) = lists::read_key(key.value()).expect("is one");
        let list = all.entry(prefix.to_vec()).or_default();
        for number in lists::numbers(first, steps.value()) {
            let number = number.expect("reads");
            assert!(
                list.last().is_none_or(|last| *last < number),
                "rows overlap"
            );
            list.insert(number);
        }
    }
    all
}

/// Their words are written on a thread of their own.
#[tokio::test]
async fn changes_of_many_words_agree() {
    const FILES: usize = 4_000;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("locator.redb");
    let store = RedbStore::open(&path, StoreMetrics::default()).expect("opens");
    let peer = store.register(row(1)).await.expect("registers").peer;
    let files: Vec<_> = (0..FILES)
        .map(|n| {
            file(
                &format!("folder {}/some file {n}.mp3", n % 7),
                &n.to_string(),
            )
        })
        .collect();
    let (gone, left): (Vec<_>, Vec<_>) = files
        .iter()
        .partition(|file| file.digest.as_bytes()[1] < 200);
    for change in [announce(&files.iter().collect::<Vec<_>>()), withdraw(&gone)] {
        store
            .announce(peer, [1; 32], change)
            .await
            .expect("announces");
    }
    assert_eq!(store.counts().records, left.len() as u64);
    store.close().await;
    drop(store);
    agree(&path);
}
