//! Whether the tables of a store agree: everything follows from the rows of `names`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use redb::{ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _};
use vecino_rest::{Name, terms::terms_of};

use super::{
    lists,
    rows::{self, FEW_AGAIN, Holders, NameRow},
    schema,
};
use crate::{
    metrics::StoreMetrics,
    store::{
        Fingerprints, PeerNo, RedbStore, ResourceNo, Store as _, bucket_of,
        conformance::{announce, file, row, withdraw},
        fingerprint::of_record,
    },
};

/// How many rows there are.
#[derive(Debug)]
pub(super) struct Rows {
    /// Of lists.
    pub(super) lists: u64,
}

/// Fails unless all tables of a store that nobody has open agree, with nothing left over.
pub(super) fn agree(path: &Path) -> Rows {
    let opened = super::open::open(path).expect("opens");
    let (database, keys, counters) = (opened.database, opened.keys, opened.counts);
    let reading = database.begin_read().expect("begins");
    let names = reading.open_table(schema::NAMES).expect("opens");
    let crowds = reading.open_table(schema::CROWDS).expect("opens");
    let digests = reading.open_table(schema::DIGESTS).expect("opens");
    let numbers = reading.open_table(schema::NUMBERS).expect("opens");
    let held = reading.open_table(schema::HELD).expect("opens");
    let words = reading.open_table(schema::WORDS).expect("opens");
    let prints = reading.open_table(schema::PRINTS).expect("opens");

    let mut due_digests = BTreeSet::new();
    let mut due_words: BTreeMap<Vec<u8>, BTreeSet<u64>> = BTreeMap::new();
    let mut due_held: BTreeMap<Vec<u8>, BTreeSet<u64>> = BTreeMap::new();
    let mut due_prints: BTreeMap<PeerNo, Fingerprints> = BTreeMap::new();
    let (mut resources, mut records, mut in_crowds) = (0, 0, 0);
    let mut due_names = BTreeMap::new();
    for row in names.iter().expect("reads") {
        let (key, row) = row.expect("reads");
        let (name, no) = schema::read_name(key.value()).expect("is one");
        let name = Name::parse(name).expect("valid");
        let row = NameRow::read(row.value()).expect("is one");
        resources += 1;
        assert!(no.0 < counters.next_resource);
        due_names.insert(no, name.as_str().to_owned());
        let identity = keys.identity(&name, &row.digest);
        due_digests.insert(schema::digest(&identity, no));
        for term in terms_of(&name) {
            if !term.starts_with('\u{2}') {
                due_words
                    .entry(schema::word(&term))
                    .or_default()
                    .insert(no.0);
            }
        }
        let holders: Vec<PeerNo> = match &row.holders {
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
        let bucket = bucket_of(&row.digest);
        for peer in holders {
            records += 1;
            let prefix = lists::of_peer(peer).to_vec();
            due_held
                .entry(prefix)
                .or_default()
                .insert(lists::held(no, bucket));
            let prints = &mut due_prints.entry(peer).or_default().0;
            prints[usize::from(bucket)].add(of_record(&name, &row.digest, row.size));
        }
    }
    assert_eq!((counters.resources, counters.records), (resources, records));
    assert_eq!(crowds.len().expect("counts"), in_crowds);

    let there = digests.iter().expect("reads");
    let there: BTreeSet<_> = there.map(|row| *row.expect("reads").0.value()).collect();
    assert_eq!(there, due_digests);

    let mut there = BTreeMap::new();
    for row in numbers.iter().expect("reads") {
        let (number, row) = row.expect("reads");
        for place in 0..rows::BLOCK {
            let no = ResourceNo(number.value() * rows::BLOCK + place);
            let name = rows::name_at(row.value(), rows::place(no).1).expect("reads");
            there.extend(name.map(|name| (no, name)));
        }
    }
    assert_eq!(there, due_names);

    assert_eq!(all_lists(&held), due_held);
    assert_eq!(all_lists(&words), due_words);

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
        lists: held.len().expect("counts") + words.len().expect("counts"),
    }
}

fn all_lists(
    table: &redb::ReadOnlyTable<&'static [u8], &'static [u8]>,
) -> BTreeMap<Vec<u8>, BTreeSet<u64>> {
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
