//! Files of earlier formats: the rows of files that locators of formats 3 and 4 wrote, and what came
//! before.

use std::path::Path;

use redb::{Database, ReadableDatabase as _, TableDefinition, TableHandle as _, WriteTransaction};
use vecino_rest::{Digest, UserName, terms::name_term};

use super::{
    agreement::agree,
    tests::{directory, open},
    upgrade::{FORMAT_WITHOUT_ACCOUNTS, FORMAT_WITHOUT_NAMES},
    *,
};
use crate::store::{
    PeerState,
    conformance::{ALL, announce, file, name, row},
};

/// Lines of table, key and value, both hexadecimal. Twelve peers hold `docs/shared by many.txt`,
/// four of them `docs/shared by few.txt`; each has six songs but the second one, which withdrew
/// one; the fifth has another variant, another size and a copy besides; the fourth one lapsed.
const FORMAT_3: &str = include_str!("fixtures/format-3.txt");
/// The same peers, files and accounts.
const FORMAT_4: &str = include_str!("fixtures/format-4.txt");

fn bytes(hex: &str) -> Vec<u8> {
    let pairs = hex.as_bytes().chunks(2);
    let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16);
    pairs.map(|pair| byte(pair).expect("hexadecimal")).collect()
}

/// The rows of a table, read by their types.
macro_rules! load {
    ($lines:ident, $writing:expr, $table:literal, $key:ty, $value:ty, $as_key:expr, $as_value:expr) => {
        let table = TableDefinition::<$key, $value>::new($table);
        let mut table = $writing.open_table(table).expect("opens");
        for line in $lines.lines() {
            let mut parts = line.split(' ');
            if parts.next() == Some($table) {
                let mut next = || bytes(parts.next().expect("three parts"));
                let (key, value) = (next(), next());
                let (as_key, as_value) = ($as_key, $as_value);
                table
                    .insert(as_key(&key[..]), as_value(&value[..]))
                    .expect("inserts");
            }
        }
    };
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

fn array<const N: usize>(bytes: &[u8]) -> &[u8; N] {
    bytes.try_into().expect("of that length")
}

fn u32_of(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(*array(bytes))
}

fn u64_of(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(*array(bytes))
}

fn nothing(_: &[u8]) {}

fn as_is(bytes: &[u8]) -> &[u8] {
    bytes
}

/// Makes a file, and has it changed.
fn make(path: &Path, fill: impl FnOnce(&WriteTransaction), change: impl FnOnce(&WriteTransaction)) {
    let database = Database::create(path).expect("creates");
    let writing = database.begin_write().expect("begins");
    fill(&writing);
    change(&writing);
    writing.commit().expect("commits");
}

fn format_4(writing: &WriteTransaction) {
    load!(FORMAT_4, writing, "meta", &str, &[u8], text, as_is);
    load!(FORMAT_4, writing, "peers", u32, &[u8], u32_of, as_is);
    load!(FORMAT_4, writing, "peer_ids", &[u8; 16], u32, array, u32_of);
    load!(FORMAT_4, writing, "accounts", &str, &[u8], text, as_is);
    load!(FORMAT_4, writing, "names", &[u8], &[u8], as_is, as_is);
    load!(FORMAT_4, writing, "crowds", &[u8; 10], (), array, nothing);
    load!(FORMAT_4, writing, "digests", &[u8; 18], (), array, nothing);
    load!(FORMAT_4, writing, "numbers", u64, &[u8], u64_of, as_is);
    load!(FORMAT_4, writing, "held", &[u8], &[u8], as_is, as_is);
    load!(FORMAT_4, writing, "words", &[u8], &[u8], as_is, as_is);
    load!(FORMAT_4, writing, "prints", &[u8; 5], &[u8], array, as_is);
}

fn format_3(writing: &WriteTransaction) {
    load!(FORMAT_3, writing, "meta", &str, &[u8], text, as_is);
    load!(FORMAT_3, writing, "peers", u32, &[u8], u32_of, as_is);
    load!(FORMAT_3, writing, "peer_ids", &[u8; 16], u32, array, u32_of);
    load!(FORMAT_3, writing, "accounts", &str, &[u8], text, as_is);
    load!(
        FORMAT_3, writing, "buckets", &[u8; 5], &[u8; 20], array, array
    );
    load!(FORMAT_3, writing, "resources", u64, &[u8], u64_of, as_is);
    load!(FORMAT_3, writing, "by_name", &[u8; 18], (), array, nothing);
    load!(
        FORMAT_3,
        writing,
        "by_digest",
        &[u8; 14],
        (),
        array,
        nothing
    );
    load!(FORMAT_3, writing, "holders", &[u8; 10], (), array, nothing);
    load!(FORMAT_3, writing, "by_peer", &[u8; 11], (), array, nothing);
    load!(FORMAT_3, writing, "terms", &[u8], (), as_is, nothing);
}

fn set_format(writing: &WriteTransaction, format: u32) {
    let mut meta = writing.open_table(schema::META).expect("opens");
    meta.insert(schema::meta::FORMAT, &format.to_le_bytes()[..])
        .expect("inserts");
}

async fn names(store: &dyn Store, prefix: &str) -> Vec<String> {
    let walk = Walk {
        prefix,
        exact: false,
        after: None,
        accept: &|_, _| true,
        limit: 99,
        row_budget: 999,
    };
    let page = store.walk(&walk, &ALL).await.expect("walks");
    let names = page.found.iter();
    names.map(|found| found.resource.name.to_string()).collect()
}

/// What the file says, in the words of lookups.
async fn check(store: &dyn Store, has_accounts: bool) {
    let counts = Counts {
        peers: 12,
        resources: 76,
        records: 90,
    };
    assert_eq!(store.counts(), counts);
    let many = Key::Name(name("docs/shared by many.txt"));
    let many = store.find(&many, &ALL);
    let many = many.await.expect("finds");
    assert_eq!(many.len(), 1);
    assert_eq!(many[0].resource, file("docs/shared by many.txt", "shared"));
    assert_eq!(many[0].holders.len(), 12);
    let few = Key::Name(name("docs/shared by few.txt"));
    let few = store.find(&few, &ALL);
    let mut few: Vec<_> = few.await.expect("finds");
    few.sort_by_key(|found| found.resource.size);
    let few = few.iter().map(|f| (f.resource.size, f.holders.len()));
    assert_eq!(few.collect::<Vec<_>>(), [(3, 4), (15, 1), (99, 1)]);
    let copies = store.find(&Key::Digest(Digest::of(b"few")), &ALL).await;
    assert_eq!(copies.expect("finds").len(), 3);
    let expected = [
        "docs/shared by few.txt",
        "docs/shared by few.txt",
        "docs/shared by few.txt",
        "docs/shared by many.txt",
    ];
    assert_eq!(names(store, &name_term("docs/")).await, expected);
    assert_eq!(names(store, "song").await.len(), 6 * 12 - 1);
    assert_eq!(names(store, "\u{1}music").await.len(), 6 * 12 - 1);
    let songs = names(store, &name_term("peer 2/")).await;
    assert_eq!(songs.len(), 5);
    let peers = store.peers().await.expect("lists");
    assert_eq!(peers[3].1.state, PeerState::Lapsed(77));
    let ana = UserName::parse("ana").expect("valid");
    let account = store.account(&ana).await.expect("reads");
    assert_eq!(account.is_some(), has_accounts);
    let mut listed = 0;
    for bucket in 0..=u8::MAX {
        let records = store.bucket(peers[4].0, bucket).await.expect("lists");
        listed += records.len();
    }
    assert_eq!(listed, 10, "of the fifth peer");
    let again = store.register(row(5)).await.expect("registers");
    assert_eq!(again.fingerprints.records(), 10);
}

async fn is_brought_up_to_date(
    fill: impl FnOnce(&WriteTransaction),
    change: impl FnOnce(&WriteTransaction),
    has_accounts: bool,
) {
    let directory = directory();
    let path = directory.path().join("locator.redb");
    make(&path, fill, change);
    for _ in 0..2 {
        let store = open(&directory).expect("opens");
        check(&store, has_accounts).await;
        store.close().await;
        drop(store);
        agree(&path);
    }
    let store = open(&directory).expect("opens");
    let peer = store.register(row(1)).await.expect("registers").peer;
    let new = file("docs/new.txt", "new");
    let announced = store.announce(peer, [1; 32], announce(&[&new])).await;
    assert_eq!(announced, Ok(8));
    store.close().await;
    drop(store);
    agree(&path);
    let expected = [
        "accounts",
        "crowds",
        "held",
        "identities",
        "known",
        "meta",
        "named",
        "peer_ids",
        "peers",
        "prints",
        "termed",
    ];
    assert_eq!(tables(&path), expected, "nothing of before is left");
}

#[tokio::test]
async fn a_store_of_format_4_is_brought_up_to_date() {
    is_brought_up_to_date(format_4, |_| (), true).await;
}

#[tokio::test]
async fn a_store_of_format_3_is_brought_up_to_date() {
    is_brought_up_to_date(format_3, |_| (), true).await;
}

#[tokio::test]
async fn a_store_from_before_accounts_is_brought_up_to_date() {
    let without_accounts = |writing: &WriteTransaction| {
        writing.delete_table(schema::ACCOUNTS).expect("deletes");
        set_format(writing, FORMAT_WITHOUT_ACCOUNTS);
    };
    is_brought_up_to_date(format_3, without_accounts, false).await;
}

#[tokio::test]
async fn a_store_from_before_names_were_indexed_is_brought_up_to_date() {
    let without_names = |writing: &WriteTransaction| {
        writing.delete_table(schema::ACCOUNTS).expect("deletes");
        let terms = TableDefinition::<&[u8], ()>::new("terms");
        let mut terms = writing.open_table(terms).expect("opens");
        terms
            .retain(|key, ()| !key.starts_with(b"\x02"))
            .expect("removes");
        set_format(writing, FORMAT_WITHOUT_NAMES);
    };
    is_brought_up_to_date(format_3, without_names, false).await;
}

#[test]
fn a_store_that_cannot_be_brought_up_to_date_is_left_as_it_was() {
    let in_3 = |writing: &WriteTransaction| {
        let resources = TableDefinition::<u64, &[u8]>::new("resources");
        let mut resources = writing.open_table(resources).expect("opens");
        resources.insert(20, &b"no resource"[..]).expect("inserts");
    };
    is_left_as_it_was(format_3, in_3);
    // Behind all others: much has been written by then.
    let in_4 = |writing: &WriteTransaction| {
        let words = TableDefinition::<&[u8], &[u8]>::new("words");
        let mut words = writing.open_table(words).expect("opens");
        let key: &[u8] = &[0xff; 4];
        words.insert(key, &b"no term"[..]).expect("inserts");
    };
    is_left_as_it_was(format_4, in_4);
}

fn is_left_as_it_was(fill: impl FnOnce(&WriteTransaction), damage: impl FnOnce(&WriteTransaction)) {
    let directory = directory();
    let path = directory.path().join("locator.redb");
    make(&path, fill, damage);
    let before = tables(&path);
    for _ in 0..2 {
        let reason = open(&directory).err().expect("is refused");
        assert!(
            reason.contains("format 5") && reason.contains("damaged"),
            "{reason}"
        );
    }
    assert_eq!(tables(&path), before);
}

/// The names of the tables of a file.
fn tables(path: &Path) -> Vec<String> {
    let database = Database::open(path).expect("opens");
    let reading = database.begin_read().expect("begins");
    let tables = reading.list_tables().expect("lists");
    let mut tables: Vec<_> = tables.map(|table| table.name().to_owned()).collect();
    tables.sort();
    tables
}
