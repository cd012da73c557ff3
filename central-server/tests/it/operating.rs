//! The operator's commands, on a running locator and without one.

use std::{os::unix::fs::PermissionsExt as _, path::Path};

use central_server::{Config, Server, metrics::StoreMetrics, store::open_to_import};
use vecino_rest::Digest;

use crate::{process::run_command, support::*};

fn served(directory: &Path) -> Config {
    Config {
        control: Some(directory.join("locator.redb.sock")),
        ..on_disk(&directory.join("locator.redb"))
    }
}

fn store_in(directory: &Path, file: &str) -> String {
    format!("redb:{}", directory.join(file).display())
}

async fn done(store: &str, args: &[&str]) -> (String, String) {
    let (code, out, error) = run_command(store, args, "").await;
    assert_eq!(code, 0, "{args:?}: {error}");
    (out, error)
}

async fn sharing(locator: &Locator, number: u8, files: usize) -> Peer {
    let mut peer = Peer::register(locator.client().await, registration(number)).await;
    let records: Vec<_> = (0..files)
        .map(|n| record(&format!("peer {number}/{n}"), &format!("{number} {n}")))
        .collect();
    for batch in records.chunks(4_000) {
        peer.announce(batch).await;
    }
    peer
}

#[tokio::test]
async fn status_and_peers_are_told_as_tables_and_as_json() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = store_in(directory.path(), "locator.redb");
    let (code, _, error) = run_command(&store, &["status"], "").await;
    assert_eq!(code, 1);
    assert!(error.contains("there is no such store"), "{error}");
    assert!(
        !directory.path().join("locator.redb").exists(),
        "nor is one made"
    );
    let locator = Locator::with(served(directory.path())).await;
    sharing(&locator, 1, 3).await;
    sharing(&locator, 2, 4)
        .await
        .deregister()
        .await
        .expect("leaves");
    let (json, _) = done(&store, &["status", "--json"]).await;
    let status: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    for (what, value) in [("peers", 2), ("leases", 1), ("records", 7), ("queue", 0)] {
        assert_eq!(status[what], value, "{what}: {json}");
    }
    assert_eq!(status["running"], true);
    assert!(status["store_bytes"].as_u64() > Some(0));
    let (table, _) = done(&store, &["status"]).await;
    assert!(
        table.contains("2 known, 1 live") && table.contains("7 of 7 resources"),
        "{table}"
    );
    let (peers, _) = done(&store, &["peers", "--json"]).await;
    assert_eq!(peers.lines().count(), 2, "{peers}");
    let (table, _) = done(&store, &["peers"]).await;
    assert!(
        table.contains("live") && table.contains("gone since 20"),
        "{table}"
    );
    locator.server.shutdown().await.expect("ends");
    assert!(!directory.path().join("locator.redb.sock").exists());
    let (json, _) = done(&store, &["status", "--json"]).await;
    assert!(
        json.contains("\"running\":false") && json.contains("\"records\":7"),
        "{json}"
    );
}

#[tokio::test]
async fn a_served_directory_moves_to_another_store_and_its_peers_notice_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let old = store_in(directory.path(), "locator.redb");
    let new = store_in(directory.path(), "new.redb");
    let file = directory.path().join("export.jsonl");
    let path = file.to_str().expect("text");
    let locator = Locator::with(served(directory.path())).await;
    let mut first = sharing(&locator, 1, 5_000).await;
    let second = sharing(&locator, 2, 10).await;
    let (code, _, error) = run_command(&old, &["account", "add", "ana"], "hers\n").await;
    assert_eq!(code, 0, "{error}");
    done(&old, &["export", path]).await;
    for file in [&file, &directory.path().join("locator.redb")] {
        let mode = std::fs::metadata(file).expect("is there").permissions();
        assert_eq!(mode.mode() & 0o777, 0o600, "it has hashes of passwords");
    }
    let once = std::fs::read(&file).expect("is there");
    let twice = directory.path().join("twice.jsonl");
    std::fs::write(&twice, [&once[..], &once].concat()).expect("written");
    let twice = twice.to_str().expect("text");
    let (code, _, error) = run_command(&new, &["import", twice], "").await;
    assert_eq!(code, 1, "{error}");
    assert!(error.contains("after the last one"), "{error}");
    let (code, _, error) = run_command(&old, &["export", path], "").await;
    assert_eq!(code, 1, "no file is replaced");
    assert!(error.contains("export.jsonl"), "{error}");
    let (code, _, error) = run_command(&old, &["import", path], "").await;
    assert_eq!(code, 1, "a served store takes no import");
    assert!(
        error.contains("another process has the store open"),
        "{error}"
    );
    // It is served on while the new store fills, and changes.
    first.announce(&[record("later", "later")]).await;
    let (_, told) = done(&new, &["import", path]).await;
    assert!(told.contains("1 accounts, 2 peers, 5010 records"), "{told}");
    let (code, _, error) = run_command(&new, &["import", path], "").await;
    assert_eq!(code, 1);
    assert!(error.contains("is not empty"), "{error}");
    let (again, _) = done(&new, &["export", "-"]).await;
    assert_eq!(again.lines().count(), 1 + 1 + 2 + 5_010 + 1);
    locator.server.shutdown().await.expect("ends");

    let moved = Locator::with(on_disk(&directory.path().join("new.redb"))).await;
    let mut client = moved.client().await;
    assert_eq!(
        providers(&mut client, by_name("peer 2/3")).await,
        [second.url()]
    );
    let mut second = Peer {
        client: client.clone(),
        ..second
    };
    second.kept_alive().await.expect("its token holds");
    // What came after the export is told by the fingerprints.
    let back = Peer::register(client.clone(), registration(1)).await;
    let fingerprints = |peer: &Peer| {
        let all = peer.welcome.fingerprints.chunks(16).map(<[u8]>::to_vec);
        all.collect::<Vec<_>>()
    };
    let bucket = usize::from(digest("later")[0]);
    let mut resharing = Peer { client, ..back };
    resharing.announce(&[record("later", "later")]).await;
    let after = Peer::register(resharing.client.clone(), registration(1)).await;
    let (before, after) = (fingerprints(&resharing), fingerprints(&after));
    let differing: Vec<_> = (0..256).filter(|&b| before[b] != after[b]).collect();
    assert_eq!(differing, [bucket], "only that one differs");
}

/// As after `kill -9` in the middle.
#[tokio::test]
async fn a_store_with_half_an_import_is_served_by_nobody_and_the_import_goes_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let old = store_in(directory.path(), "locator.redb");
    let new = store_in(directory.path(), "new.redb");
    let file = directory.path().join("export.jsonl");
    let path = file.to_str().expect("text");
    let locator = Locator::with(served(directory.path())).await;
    let _peer = sharing(&locator, 1, 10).await;
    done(&old, &["export", path]).await;
    let export = std::fs::read_to_string(&file).expect("is there");
    let end = export.lines().next_back().expect("lines");
    let before = &export[..export.len() - end.len() - 1];
    let url = new.parse().expect("a store");
    let half = open_to_import(&url, StoreMetrics::default()).await;
    let half = half.expect("is made");
    let checksum = digest(before);
    let checksum = Digest::from_bytes(checksum.try_into().expect("32 bytes"));
    half.set_importing(Some(checksum)).await.expect("marks");
    half.close().await;
    drop(half);
    for command in [&["status"][..], &["account", "list"], &["export", "-"]] {
        let (code, _, error) = run_command(&new, command, "").await;
        assert_eq!(code, 1, "{command:?}");
        assert!(error.contains("did not come to its end"), "{error}");
    }
    let config = on_disk(&directory.path().join("new.redb"));
    let refused = Server::bind(config.clone()).await.err().expect("refused");
    assert!(
        refused.to_string().contains("with the same file again"),
        "{refused}"
    );
    done(&new, &["import", path]).await;
    let moved = Locator::with(config).await;
    let found = providers(&mut moved.client().await, by_name("peer 1/3")).await;
    assert_eq!(found.len(), 1);
}

#[tokio::test]
async fn a_served_store_is_backed_up_and_the_backup_can_be_served() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = store_in(directory.path(), "locator.redb");
    let locator = Locator::with(served(directory.path())).await;
    let peer = sharing(&locator, 1, 2_000).await;
    let copy = directory.path().join("copy.redb");
    let path = copy.to_str().expect("text");
    done(&store, &["backup", path]).await;
    let (code, _, error) = run_command(&store, &["backup", path], "").await;
    assert_eq!(code, 1);
    assert!(error.contains("is there already"), "{error}");
    let (json, _) = done(
        &store_in(directory.path(), "copy.redb"),
        &["status", "--json"],
    )
    .await;
    assert!(json.contains("\"records\":2000"), "{json}");
    let restored = Locator::with(on_disk(&copy)).await;
    let mut client = restored.client().await;
    for n in [0, 999, 1_999] {
        let found = providers(&mut client, by_name(&format!("peer 1/{n}"))).await;
        assert_eq!(found, [peer.url()]);
    }
    // The one that was copied is served on.
    let mut client = locator.client().await;
    assert_eq!(providers(&mut client, by_name("peer 1/7")).await.len(), 1);
}

#[tokio::test]
async fn files_that_are_no_store_are_refused_by_every_command_and_left_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("locator.redb");
    std::fs::write(&file, "not a store, but mine").expect("writes");
    let store = store_in(directory.path(), "locator.redb");
    for args in [
        &["status"][..],
        &["account", "add", "ana"],
        &["export", "-"],
        &["import", file.to_str().expect("text")],
    ] {
        let (code, _, error) = run_command(&store, args, "password\n").await;
        assert_ne!(code, 0, "{args:?}");
        assert!(error.contains("left as it is"), "{args:?}: {error}");
        assert_eq!(
            std::fs::read(&file).expect("reads"),
            b"not a store, but mine"
        );
    }
}
