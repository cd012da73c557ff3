//! There and back, and files that are not whole.

use std::{
    io::Cursor,
    sync::{Arc, Mutex},
};

use super::*;
use crate::store::{Change, Expect, Fingerprints, MemoryStore, Resource, Store};

/// A hash as accounts have it.
const PASSWORD: &str = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0c2Fs\
    $Y8CoP8VZBkVgMWxqD5zL1E0Mo0mM1LJ1wH9mY7bHc4E";

fn user(name: &str) -> UserName {
    UserName::parse(name).expect("valid")
}

async fn filled() -> MemoryStore {
    let store = MemoryStore::new();
    for (stamp, name) in (1..).zip(["ana", "ben"]) {
        let account = store::Account {
            user: user(name),
            password: PASSWORD.into(),
            stamp,
            created_ms: -1,
        };
        let put = store.put_account(account, Expect::Absent);
        assert!(put.await.expect("puts"));
    }
    for number in 1..=3_u8 {
        let row = PeerRow {
            id: PeerId::from_bytes([number; 16]),
            url: format!("http://10.0.0.{number}:80"),
            site: "a \"site\"".into(),
            token: [number; 32],
            url_is_observed: number == 1,
            state: PeerState::Present,
            session: (number == 2).then(|| store::Session {
                user: user("ana"),
                stamp: 1,
                token: [9; 32],
                ends_ms: 5,
            }),
        };
        let peer = store.register(row).await.expect("registers").peer;
        let announce = (0..5_000).map(|n| Resource {
            name: Name::parse(&format!("peer {number}/{n}é")).expect("valid"),
            digest: Digest::of(format!("{number} {n}").as_bytes()),
            size: u64::MAX - n,
            modified_ms: i64::MIN,
        });
        let change = Change::Difference {
            announce: announce.collect(),
            withdraw: Vec::new(),
        };
        let announced = store.announce(peer, [number; 32], change).await;
        announced.expect("announces");
        if number == 3 {
            let lapsed = store.lapse(vec![(peer, [3; 32])], 77).await;
            lapsed.expect("lapses");
        }
    }
    store
}

async fn exported(store: &dyn Store) -> Vec<u8> {
    let bytes = Arc::new(Mutex::new(Vec::new()));
    let taken = bytes.clone();
    export(store, move |chunk| {
        taken
            .lock()
            .expect("not poisoned")
            .extend_from_slice(&chunk);
        std::future::ready(true)
    })
    .await
    .expect("exports");
    let bytes = bytes.lock().expect("not poisoned");
    bytes.clone()
}

async fn refused(bytes: Vec<u8>) -> ArchiveError {
    let store = MemoryStore::new();
    let error = import(Cursor::new(bytes), &store)
        .await
        .expect_err("refused");
    assert_eq!(store.counts().peers, 0, "nothing is imported");
    assert_eq!(store.accounts(None, 9).await, Ok(Vec::new()));
    error
}

async fn fingerprints(store: &dyn Store, row: &PeerRow) -> Fingerprints {
    let registered = store.register(row.clone()).await;
    registered.expect("registers").fingerprints
}

#[tokio::test]
async fn what_was_exported_is_imported_to_the_last_record() {
    let from = filled().await;
    let bytes = exported(&from).await;
    let to = MemoryStore::new();
    let imported = import(Cursor::new(bytes.clone()), &to)
        .await
        .expect("imports");
    let all = Imported {
        accounts: 2,
        peers: 3,
        records: 15_000,
    };
    assert_eq!(imported, all);
    assert_eq!(to.accounts(None, 9).await, from.accounts(None, 9).await);
    assert_eq!(to.counts(), from.counts());
    assert_eq!(exported(&to).await, bytes, "the same again");
    let peers = from.peers().await.expect("lists");
    assert_eq!(to.peers().await.expect("lists"), peers);
    for (_, row) in &peers {
        assert_eq!(fingerprints(&to, row).await, fingerprints(&from, row).await);
    }
    let again = import(Cursor::new(bytes), &to).await;
    assert!(matches!(again, Err(ArchiveError::NotEmpty)), "{again:?}");
}

#[tokio::test]
async fn a_file_that_is_not_whole_changes_nothing() {
    let bytes = exported(&filled().await).await;
    let text = String::from_utf8(bytes.clone()).expect("text");
    for cut in [0, 10, bytes.len() / 2, bytes.len() - 1] {
        let error = refused(bytes[..cut].to_vec()).await;
        let shown = error.to_string();
        assert!(shown.contains("nothing was imported"), "{cut}: {shown}");
    }
    let without_end: String = text
        .lines()
        .take(100)
        .map(|line| format!("{line}\n"))
        .collect();
    let error = refused(without_end.into_bytes()).await;
    assert!(matches!(error, ArchiveError::Truncated), "{error}");
    let changed = text.replacen("peer 1/7", "peer 1/8", 1).into_bytes();
    let error = refused(changed).await;
    assert!(matches!(error, ArchiveError::Checksum), "{error}");
    for (text, part) in [
        ("{}\n".to_owned(), "line 1"),
        ("<html>\n".to_owned(), "line 1"),
        ("{\"vecino_export\":2}\n".to_owned(), "version 2"),
        (
            "{\"vecino_export\":1}\n{\"record\":{}}\n".to_owned(),
            "line 2",
        ),
        (
            format!("{{\"vecino_export\":1}}\n{}", "x".repeat(1 << 20)),
            "too long",
        ),
    ] {
        let shown = refused(text.into_bytes()).await.to_string();
        assert!(shown.contains(part), "{shown}");
    }
}

/// The lines with an end that fits them.
fn sealed(lines: &[String]) -> Vec<u8> {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let count = |what: &str| {
        let start = format!("{{\"{what}\":");
        lines.iter().filter(|l| l.starts_with(&start)).count() as u64
    };
    let trailer = Trailer {
        counts: Counts {
            accounts: count("account"),
            peers: count("peer"),
            records: count("record"),
        },
        blake3: Digest::of(text.as_bytes()),
    };
    let end = serde_json::to_string(&Line::End(trailer)).expect("plain data");
    format!("{text}{end}\n").into_bytes()
}

fn lines(bytes: &[u8]) -> Vec<String> {
    let text = std::str::from_utf8(bytes).expect("text");
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines.pop();
    lines
}

#[tokio::test]
async fn what_no_locator_would_let_in_is_not_imported() {
    let bytes = exported(&filled().await).await;
    assert_eq!(sealed(&lines(&bytes)), bytes);
    let long = format!("\"site\":\"{}\"", "x".repeat(300));
    for (from, to, part) in [
        ("m=19456", "m=4194304", "line 2"),
        ("argon2id", "scrypt", "cannot be compared"),
        ("t=2", "t=2000000", "cannot be compared"),
        (
            "\"site\":\"a \\\"site\\\"\"",
            &long[..],
            "site has 300 bytes",
        ),
        ("a \\\"site\\\"", "\\u0007", "control characters"),
        ("http://10.0.0.1:80", "nonsense", "has no scheme"),
        ("http://10.0.0.1:80", "http://169.254.169.254:80", "169.254"),
        ("http://10.0.0.1:80", "HTTP://10.0.0.1:80", "10.0.0.1"),
        ("\"user\":\"ana\"", "\"user\":\" ana\"", "1 to 64 bytes"),
        ("\"name\":\"peer 1", "\"name\":\"../peer 1", "line"),
    ] {
        let changed: Vec<_> = lines(&bytes)
            .into_iter()
            .map(|line| line.replacen(from, to, 1))
            .collect();
        let shown = refused(sealed(&changed)).await.to_string();
        assert!(shown.contains(part), "{to}: {shown}");
        assert!(shown.contains("nothing was imported"), "{to}: {shown}");
    }
}

#[tokio::test]
async fn what_is_there_twice_counts_once() {
    let bytes = exported(&filled().await).await;
    let mut twice = lines(&bytes);
    let again: Vec<_> = twice[1..].to_vec();
    twice.extend(again);
    let to = MemoryStore::new();
    let imported = import(Cursor::new(sealed(&twice)), &to).await;
    let all = Imported {
        accounts: 2,
        peers: 3,
        records: 15_000,
    };
    assert_eq!(imported.expect("imports"), all);
    assert_eq!(exported(&to).await, bytes);
}

#[tokio::test]
async fn an_import_that_broke_off_goes_on_and_no_other_one() {
    let bytes = exported(&filled().await).await;
    let other = {
        let mut lines = lines(&bytes);
        lines.pop();
        sealed(&lines)
    };
    for after in [0, 1, 3, 5_000, 12_000] {
        let to = MemoryStore::new();
        let reader = BreaksOff {
            file: Cursor::new(bytes.clone()),
            passes: 0,
            lines: after,
        };
        let broken = import(reader, &to).await.expect_err("breaks off");
        let shown = broken.to_string();
        assert!(shown.contains("run it again"), "{shown}");
        assert!(to.importing().await.expect("reads").is_some());
        let another = import(Cursor::new(other.clone()), &to).await;
        assert!(matches!(another, Err(ArchiveError::Another)), "{another:?}");
        let imported = import(Cursor::new(bytes.clone()), &to).await;
        assert_eq!(imported.expect("goes on").records, 15_000, "after {after}");
        assert_eq!(to.importing().await, Ok(None));
        assert_eq!(exported(&to).await, bytes, "after {after}");
        let again = import(Cursor::new(bytes.clone()), &to).await;
        assert!(matches!(again, Err(ArchiveError::NotEmpty)), "{again:?}");
    }
}

/// A file that can be read once, and some lines of it again.
struct BreaksOff {
    file: Cursor<Vec<u8>>,
    passes: u32,
    lines: usize,
}

impl std::io::Read for BreaksOff {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        unreachable!("it is read by lines")
    }
}

impl std::io::BufRead for BreaksOff {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        if self.passes > 0 && self.lines == 0 {
            return Err(std::io::Error::other("the disk is gone"));
        }
        let rest = self.file.fill_buf()?;
        let end = rest.iter().position(|byte| *byte == b'\n');
        Ok(end.map_or(rest, |end| &rest[..=end]))
    }

    fn consume(&mut self, bytes: usize) {
        self.file.consume(bytes);
        if self.passes > 0 && bytes > 0 {
            self.lines = self.lines.saturating_sub(1);
        }
    }
}

impl std::io::Seek for BreaksOff {
    fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
        self.passes += 1;
        self.file.seek(to)
    }
}
