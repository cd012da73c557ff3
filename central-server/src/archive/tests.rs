//! There and back, and files that are not whole.

use std::{
    io::Cursor,
    sync::{Arc, Mutex},
};

use super::*;
use crate::store::{Change, Expect, Fingerprints, MemoryStore, Resource, Store};

fn user(name: &str) -> UserName {
    UserName::parse(name).expect("valid")
}

async fn filled() -> MemoryStore {
    let store = MemoryStore::new();
    for (stamp, name) in (1..).zip(["ana", "ben"]) {
        let account = store::Account {
            user: user(name),
            password: format!("$argon2id$of {name}"),
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
