//! The suite on this engine, agreement with the plain model, and files that are not ours.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs,
    sync::Arc,
};

use futures_util::future::{BoxFuture, FutureExt as _, join_all};
use proptest::prelude::*;
use redb::TableDefinition;
use tempfile::TempDir;
use vecino_rest::PeerId;

use super::{agreement::agree, *};
use crate::store::{
    MAX_BUCKET_RECORDS, MAX_VARIANTS_READ, MemoryStore, PeerState, ResourceNo, bucket_of,
    conformance::{ALL, announce, conforms, file, name, row, withdraw},
};

pub(super) fn open(directory: &TempDir) -> Result<RedbStore, String> {
    RedbStore::open(
        &directory.path().join("locator.redb"),
        StoreMetrics::default(),
    )
}

pub(super) fn directory() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

pub(super) async fn two_peers(store: &RedbStore) -> Vec<PeerNo> {
    let peers = [1, 2].map(|number| store.register(row(number)));
    let peers = join_all(peers).await.into_iter();
    peers.map(|done| done.expect("registers").peer).collect()
}

#[tokio::test]
async fn redb_conforms() {
    let directories = std::sync::Mutex::new(Vec::new());
    conforms(|| {
        let directory = directory();
        let store: Arc<dyn Store> = Arc::new(open(&directory).expect("opens"));
        directories.lock().expect("not poisoned").push(directory);
        std::future::ready(store)
    })
    .await;
}

#[tokio::test]
async fn memory_conforms() {
    conforms(|| std::future::ready(Arc::new(MemoryStore::new()) as Arc<dyn Store>)).await;
}

#[tokio::test]
async fn everything_is_there_after_closing_and_opening() {
    let directory = directory();
    let (a, b) = (file("a b.mp3", "one"), file("b", "two"));
    let before = {
        let store = open(&directory).expect("opens");
        let peer = store.register(row(1)).await.expect("registers").peer;
        store
            .announce(peer, [1; 32], announce(&[&a, &b]))
            .await
            .expect("announces");
        store
            .announce(peer, [1; 32], withdraw(&[&b]))
            .await
            .expect("withdraws");
        let before = (store.counts(), store.peers().await.expect("lists"));
        store.close().await;
        before
    };
    let store = open(&directory).expect("opens again");
    assert_eq!(
        (store.counts(), store.peers().await.expect("lists")),
        before
    );
    let found = store
        .find(&Key::Name(name("a b.mp3")), &ALL)
        .await
        .expect("finds");
    assert_eq!(found[0].resource, a);
    let again = store.register(row(1)).await.expect("registers");
    assert_eq!(again.fingerprints.records(), 1);
    assert_eq!(again.epoch, 2);
}

#[tokio::test]
async fn many_changes_share_a_commit() {
    let directory = directory();
    let metrics = StoreMetrics::default();
    let path = directory.path().join("locator.redb");
    let store = RedbStore::open(&path, metrics.clone()).expect("opens");
    let peer = store.register(row(1)).await.expect("registers").peer;
    let files: Vec<_> = (0..200)
        .map(|n| file(&format!("f{n}"), &n.to_string()))
        .collect();
    let before = metrics.commits.get();
    let announces = files
        .iter()
        .map(|file| store.announce(peer, [1; 32], announce(&[file])));
    let counts = futures_util::future::join_all(announces).await;
    let counts: BTreeSet<_> = counts
        .into_iter()
        .map(|count| count.expect("announces"))
        .collect();
    assert_eq!(
        counts,
        (1..=200).collect(),
        "each saw its own record and those before"
    );
    let commits = metrics.commits.get() - before;
    assert!(commits <= 20, "{commits} commits for 200 changes");
}

#[test]
fn files_that_are_not_ours_are_refused_and_left_alone() {
    let directory = directory();
    let path = directory.path().join("locator.redb");
    for content in [&b"#!/bin/sh\nexit 0\n"[..], &[0; 100_000], b""] {
        fs::write(&path, content).expect("writes");
        let reason = open(&directory).err().expect("refused");
        assert!(reason.contains("no store"), "{reason}");
        assert_eq!(fs::read(&path).expect("reads"), content, "left as it was");
    }
    fs::remove_file(&path).expect("removes");
    fs::create_dir(&path).expect("makes");
    let reason = open(&directory).err().expect("refused");
    assert!(reason.contains("directory"), "{reason}");
}

#[test]
fn a_database_of_another_program_or_version_is_refused() {
    let directory = directory();
    let path = directory.path().join("locator.redb");
    {
        let database = redb::Database::create(&path).expect("creates");
        let writing = database.begin_write().expect("begins");
        let table = TableDefinition::<&str, u64>::new("theirs");
        let mut table = writing.open_table(table).expect("opens");
        table.insert("x", 1).expect("inserts");
        drop(table);
        writing.commit().expect("commits");
    }
    let theirs = fs::read(&path).expect("reads");
    let reason = open(&directory).err().expect("refused");
    assert!(reason.contains("another program"), "{reason}");
    assert!(fs::read(&path).expect("reads") == theirs, "it was changed");

    fs::remove_file(&path).expect("removes");
    drop(open(&directory).expect("opens"));
    {
        let database = redb::Database::create(&path).expect("opens");
        let writing = database.begin_write().expect("begins");
        {
            let mut meta = writing.open_table(schema::META).expect("opens");
            meta.insert(schema::meta::FORMAT, &99_u32.to_le_bytes()[..])
                .expect("inserts");
        }
        writing.commit().expect("commits");
    }
    let reason = open(&directory).err().expect("refused");
    assert!(reason.contains("store format 99"), "{reason}");
}

#[test]
fn a_truncated_store_is_refused() {
    let directory = directory();
    let path = directory.path().join("locator.redb");
    drop(open(&directory).expect("opens"));
    let content = fs::read(&path).expect("reads");
    fs::write(&path, &content[..content.len() / 2]).expect("writes");
    let opened = std::panic::catch_unwind(|| open(&directory));
    assert!(!matches!(opened, Ok(Ok(_))), "half a file opened");
}

#[test]
fn a_store_that_is_open_elsewhere_is_refused() {
    let directory = directory();
    let _first = open(&directory).expect("opens");
    let reason = open(&directory).err().expect("refused");
    assert!(reason.contains("another process"), "{reason}");
}

#[test]
fn files_beside_a_store_are_no_hindrance_to_making_it_and_stay() {
    let directory = directory();
    let beside = directory.path().join("locator.redb.new");
    fs::write(&beside, b"mine").expect("writes");
    drop(open(&directory).expect("opens"));
    assert_eq!(fs::read(beside).expect("is there"), b"mine");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn backups_at_once_leave_each_other_alone_and_one_has_the_name() {
    let directory = directory();
    let store = open(&directory).expect("opens");
    store.register(row(1)).await.expect("registers");
    let mine = directory.path().join("backup.redb.new");
    fs::write(&mine, b"mine").expect("writes");
    let backup = directory.path().join("backup.redb");
    let tries = futures_util::future::join_all((0..4).map(|_| store.backup(&backup))).await;
    let (made, refused): (Vec<_>, Vec<_>) = tries.into_iter().partition(Result::is_ok);
    assert_eq!((made.len(), refused.len()), (1, 3));
    for refused in refused {
        let shown = refused.expect_err("refused").to_string();
        assert!(shown.contains("is there already"), "{shown}");
    }
    assert_eq!(fs::read(mine).expect("is there"), b"mine");
    assert_eq!(fs::read_dir(directory.path()).expect("lists").count(), 3);
    let copy = RedbStore::open(&backup, StoreMetrics::default()).expect("opens");
    assert_eq!(copy.counts(), store.counts());
}

#[derive(Debug, Clone)]
enum Step {
    Register(u8),
    Announce(u8, Vec<(u8, u8)>),
    Withdraw(u8, Vec<(u8, u8)>),
    Replace(u8, u8, Vec<u8>),
    /// By somebody who does not know the token: it is refused.
    Pretend(u8, Vec<(u8, u8)>),
    Lapse(u8),
    Forget(u8, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let files = || prop::collection::vec((0..6_u8, 0..4_u8), 0..8);
    prop_oneof![
        (0..3_u8).prop_map(Step::Register),
        (0..3_u8, files()).prop_map(|(peer, files)| Step::Announce(peer, files)),
        (0..3_u8, files()).prop_map(|(peer, files)| Step::Withdraw(peer, files)),
        (0..3_u8, 0..4_u8, prop::collection::vec(0..6_u8, 0..5))
            .prop_map(|(peer, content, names)| Step::Replace(peer, content, names)),
        (0..3_u8, files()).prop_map(|(peer, files)| Step::Pretend(peer, files)),
        (0..3_u8).prop_map(Step::Lapse),
        // All or nothing: which records a bounded step takes first is the engine's choice.
        (0..3_u8, prop_oneof![Just(0), Just(1_000)])
            .prop_map(|(peer, limit)| Step::Forget(peer, limit)),
    ]
}

fn resource((name, content): (u8, u8)) -> crate::store::Resource {
    file(
        &format!("dir/word{name} song.mp3"),
        &format!("content {content}"),
    )
}

/// Takes chunks of steps. Those of one chunk wait for a commit together: each engine is told of all of
/// them in their order before it has answered any.
async fn run(store: &dyn Store, chunks: &[Vec<Step>]) -> Vec<String> {
    let mut seen = Vec::new();
    for chunk in chunks {
        let peers = store.peers().await.expect("lists");
        let peers: BTreeMap<PeerId, PeerNo> =
            peers.into_iter().map(|(no, row)| (row.id, no)).collect();
        // While this is on its way to the disk, the others come: too few to be overtaken.
        let nobody = store.lapse(Vec::new(), 0).map(|_| String::new());
        let mut waiting: Vec<BoxFuture<'_, String>> = vec![nobody.boxed()];
        waiting.extend(chunk.iter().map(|step| take(store, &peers, step)));
        seen.extend(join_all(waiting).await);
    }
    seen
}

fn take<'a>(
    store: &'a dyn Store,
    peers: &BTreeMap<PeerId, PeerNo>,
    step: &Step,
) -> BoxFuture<'a, String> {
    let no = |peer: u8| peers.get(&row(peer).id).copied().unwrap_or(PeerNo(99));
    let announcing = |peer: u8, token, change| {
        let announced = store.announce(no(peer), token, change);
        announced.map(|done| format!("{done:?}")).boxed()
    };
    let resources = |files: &[(u8, u8)]| files.iter().copied().map(resource).collect::<Vec<_>>();
    match step {
        Step::Register(peer) => {
            let registered = store.register(row(*peer));
            registered.map(|done| format!("{done:?}")).boxed()
        }
        Step::Announce(peer, list) => {
            let list = resources(list);
            announcing(
                *peer,
                [*peer; 32],
                announce(&list.iter().collect::<Vec<_>>()),
            )
        }
        Step::Withdraw(peer, list) => {
            let list = resources(list);
            announcing(
                *peer,
                [*peer; 32],
                withdraw(&list.iter().collect::<Vec<_>>()),
            )
        }
        Step::Replace(peer, content, names) => {
            let records = names.iter().map(|name| resource((*name, *content)));
            let records = records.collect();
            let bucket = crate::store::bucket_of(&resource((0, *content)).digest);
            announcing(*peer, [*peer; 32], Change::Bucket { bucket, records })
        }
        Step::Pretend(peer, list) => {
            let list = resources(list);
            announcing(*peer, [99; 32], announce(&list.iter().collect::<Vec<_>>()))
        }
        Step::Lapse(peer) => {
            let lapsed = store.lapse(vec![(no(*peer), [*peer; 32])], 7);
            lapsed.map(|done| format!("{done:?}")).boxed()
        }
        Step::Forget(peer, limit) => {
            let forgotten = store.forget(no(*peer), 7, *limit);
            forgotten.map(|done| format!("{done:?}")).boxed()
        }
    }
}

/// Everything that lookups can tell, in one order.
pub(super) async fn state(store: &dyn Store) -> Vec<String> {
    let mut state = vec![format!("{:?}", store.counts())];
    for number in 0..6 {
        let key = Key::Name(resource((number, 0)).name);
        state.extend(
            store
                .find(&key, &ALL)
                .await
                .expect("finds")
                .iter()
                .map(|f| format!("{f:?}")),
        );
    }
    for content in 0..4 {
        let key = Key::Digest(resource((0, content)).digest);
        state.extend(
            store
                .find(&key, &ALL)
                .await
                .expect("finds")
                .iter()
                .map(|f| format!("{f:?}")),
        );
    }
    let walk = Walk {
        prefix: "",
        exact: false,
        after: Some(&(String::new(), ResourceNo(0))),
        accept: &|_, _| true,
        limit: 1_000,
        row_budget: 10_000,
    };
    let page = store.walk(&walk, &ALL).await.expect("walks");
    state.extend(page.found.iter().map(|found| format!("{found:?}")));
    for (_, peer) in store.peers().await.expect("lists") {
        if peer.state == PeerState::Present {
            let fingerprints = store.register(peer).await.expect("registers").fingerprints;
            state.push(format!("{:?}", fingerprints.to_wire()));
        }
    }
    state.sort();
    state
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn redb_agrees_with_the_plain_model(
        chunks in prop::collection::vec(prop::collection::vec(step(), 1..9), 1..9)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let directory = directory();
            let (redb, memory) = (open(&directory).expect("opens"), MemoryStore::new());
            for peer in 0..3 {
                redb.register(row(peer)).await.expect("registers");
                memory.register(row(peer)).await.expect("registers");
            }
            let (ran, expected) = (run(&redb, &chunks).await, run(&memory, &chunks).await);
            prop_assert_eq!(ran, expected);
            let expected = state(&memory).await;
            prop_assert_eq!(&state(&redb).await, &expected);
            redb.close().await;
            drop(redb);
            agree(&directory.path().join("locator.redb"));
            let redb = open(&directory).expect("opens again");
            prop_assert_eq!(&state(&redb).await, &expected);
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn a_backup_of_a_served_store_has_what_was_durable_and_replaces_nothing() {
    let directory = directory();
    let store = open(&directory).expect("opens");
    let files: Vec<_> = (0..300)
        .map(|n| file(&format!("docs/{n}"), &n.to_string()))
        .collect();
    let peer = store.register(row(1)).await.expect("registers").peer;
    let change = announce(&files.iter().collect::<Vec<_>>());
    store
        .announce(peer, [1; 32], change)
        .await
        .expect("announces");
    let backup = directory.path().join("backup.redb");
    store.backup(&backup).await.expect("is made");
    // What comes later is not in it.
    store.register(row(2)).await.expect("registers");
    let again = store.backup(&backup).await.expect_err("it is there");
    assert!(again.to_string().contains("is there already"), "{again}");
    let names: Vec<_> = std::fs::read_dir(directory.path())
        .expect("lists")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
    let copy = RedbStore::open(&backup, StoreMetrics::default()).expect("opens");
    let mut expected = state(&store).await;
    let two_peers = format!("{:?}", store.counts());
    let one_peer = two_peers.replace("peers: 2", "peers: 1");
    expected.retain(|line| *line != two_peers);
    expected.push(one_peer);
    // Nothing is in the fingerprints of the second peer.
    let mut copied = state(&copy).await;
    expected.sort();
    copied.sort();
    let nothing = format!("{:?}", crate::store::Fingerprints::default().to_wire());
    expected.retain(|line| *line != nothing);
    assert_eq!(copied, expected);
    assert_eq!(copy.peers().await.expect("lists").len(), 1);
}

#[tokio::test]
async fn files_that_change_all_the_time_leave_nothing_behind() {
    const ROUNDS: u32 = 400;
    let directory = directory();
    let store = open(&directory).expect("opens");
    let peers = two_peers(&store).await;
    let files = |round: u32| -> Vec<_> {
        let file = |n| {
            file(
                &format!("some folder/file {n}.txt"),
                &format!("{n} {round}"),
            )
        };
        (0..20).map(file).collect()
    };
    // The first peer changes its files, the second one has each third state of them for a while.
    let mut waiting: Vec<BoxFuture<'_, _>> = Vec::new();
    for round in 0..ROUNDS {
        let change = Change::Difference {
            announce: files(round),
            withdraw: match round.checked_sub(1) {
                Some(before) => {
                    let gone = files(before).into_iter();
                    gone.map(|file| (file.name, file.digest)).collect()
                }
                None => Vec::new(),
            },
        };
        waiting.push(store.announce(peers[0], [1; 32], change));
        let (files, before) = (files(round), files(round.saturating_sub(2)));
        let list = match round % 3 {
            0 => announce(&files.iter().collect::<Vec<_>>()),
            1 => announce(&[]),
            _ => withdraw(&before.iter().collect::<Vec<_>>()),
        };
        waiting.push(store.announce(peers[1], [2; 32], list));
        // So few are queued in their order.
        if waiting.len() == 20 {
            for done in join_all(waiting.drain(..)).await {
                done.expect("announces");
            }
        }
    }
    drop(waiting);
    assert_eq!((store.counts().resources, store.counts().records), (20, 40));
    store.close().await;
    drop(store);
    let rows = agree(&directory.path().join("locator.redb"));
    assert_eq!(rows.held, 2, "two peers");
    // Of twenty names: each, "some", "folder", "file", "txt", a number, a type.
    assert_eq!(rows.entries, 20 * 7);
    assert!(rows.of_entries <= 12, "{rows:?}");
}

#[tokio::test]
async fn a_crowd_of_holders_comes_and_goes() {
    let directory = directory();
    let store = open(&directory).expect("opens");
    let a = file("a", "one");
    let mut peers = Vec::new();
    for number in 1..=30 {
        let peer = store.register(row(number)).await.expect("registers").peer;
        peers.push((number, peer));
    }
    let path = directory.path().join("backup.redb");
    let mut held = BTreeSet::new();
    let comings = peers.iter().map(|peer| (peer, true));
    let goings = peers.iter().rev().map(|peer| (peer, false));
    for ((number, peer), comes) in comings.chain(goings) {
        let change = if comes {
            held.insert(*peer);
            announce(&[&a])
        } else {
            held.remove(peer);
            withdraw(&[&a])
        };
        for _ in 0..2 {
            let change = store.announce(*peer, [*number; 32], change.clone());
            assert_eq!(change.await, Ok(u64::from(comes)));
        }
        let found = store.find(&Key::Name(a.name.clone()), &ALL).await;
        let holders = found.expect("finds").into_iter().flat_map(|f| f.holders);
        assert_eq!(holders.collect::<BTreeSet<_>>(), held);
        store.backup(&path).await.expect("copies");
        agree(&path);
        fs::remove_file(&path).expect("removes");
    }
}

#[tokio::test]
async fn what_was_first_under_a_digest_is_not_hidden_by_what_came_later() {
    const LATER: usize = 5_000;
    let directory = directory();
    let store = open(&directory).expect("opens");
    let peers = two_peers(&store).await;
    let first = file("first", "the same");
    let change = store.announce(peers[0], [1; 32], announce(&[&first]));
    change.await.expect("announces");
    let later: Vec<_> = (0..LATER)
        .map(|n| file(&format!("later {n}"), "the same"))
        .collect();
    let change = announce(&later.iter().collect::<Vec<_>>());
    let change = store.announce(peers[1], [2; 32], change);
    change.await.expect("announces");
    let found = store.find(&Key::Digest(first.digest), &ALL).await;
    let found = found.expect("finds");
    assert_eq!(found.len(), MAX_VARIANTS_READ);
    assert!(found.iter().any(|found| found.resource == first));
}

#[tokio::test]
async fn more_names_of_a_digest_than_a_lookup_looks_at_hide_nothing_for_good() {
    const LATER: usize = 20_000;
    const LOOKUPS: u64 = 100;
    let directory = directory();
    let store = open(&directory).expect("opens");
    let peers = two_peers(&store).await;
    let files = |of: &str, count: usize| -> Vec<_> {
        let names = (0..count).map(|n| format!("{of} {n}"));
        names.map(|name| file(&name, "the same")).collect()
    };
    let first = files("first", 16);
    for (number, files) in [(1, &first), (2, &files("later", LATER))] {
        let change = announce(&files.iter().collect::<Vec<_>>());
        let change = store.announce(peers[usize::from(number) - 1], [number; 32], change);
        change.await.expect("announces");
    }
    let mut missed: HashSet<_> = first.iter().cloned().collect();
    for seed in 0..LOOKUPS {
        let among = Among { seed, ..ALL };
        let found = store.find(&Key::Digest(first[0].digest), &among).await;
        missed.retain(|file| found.iter().flatten().all(|found| found.resource != *file));
    }
    assert!(
        missed.is_empty(),
        "not found in {LOOKUPS} lookups: {missed:?}"
    );
}

#[tokio::test]
async fn a_bucket_of_many_records_is_replaced_by_another() {
    let directory = directory();
    let store = open(&directory).expect("opens");
    let peer = store.register(row(1)).await.expect("registers").peer;
    let digest = file("any", "one").digest;
    for (round, count) in [("a", MAX_BUCKET_RECORDS), ("b", 20_000)] {
        let records: Vec<_> = (0..count)
            .map(|n| Resource {
                name: name(&format!("{round}{n}")),
                digest,
                size: 3,
                modified_ms: 0,
            })
            .collect();
        let change = Change::Bucket {
            bucket: bucket_of(&digest),
            records,
        };
        let held = store.announce(peer, [1; 32], change).await;
        assert_eq!(held, Ok(count as u64));
    }
    assert_eq!(store.counts().records, 20_000);
    store.close().await;
    drop(store);
    agree(&directory.path().join("locator.redb"));
}
