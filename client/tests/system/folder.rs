//! Folders go there and back: what `upload DIR` shares, `download NAME/` brings, byte for byte.

use std::{collections::BTreeMap, path::Path};

use crate::{
    cluster::{Locator, Peer, eventually},
    content::bytes,
    http::{Connection, metric},
};

/// Files below `dir`, by their path relative to it.
fn tree(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(folder) = left.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_str().unwrap();
                found.insert(name.to_owned(), std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// Small ones, an empty one, and one of several pieces, in folders.
fn files() -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for index in 0..120 {
        let name = format!("part {}/file {index}.txt", index % 7);
        files.insert(name, bytes(&index.to_string(), 10 * index));
    }
    files.insert("empty".to_owned(), Vec::new());
    files.insert("deep/er/large".to_owned(), bytes("large", 5 << 20));
    files
}

fn write(dir: &Path, files: &BTreeMap<String, Vec<u8>>) {
    for (name, content) in files {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
}

#[test]
fn a_folder_that_the_own_peer_alone_holds_needs_no_network() {
    let peer = Peer::setup().start();
    peer.await_files();
    let client = peer.client();
    let files = files();
    write(&client.path("album"), &files);
    let done = client.run(&["upload", "album"]).ok();
    assert!(done.stderr.contains("122 of 122 files"), "{}", done.stderr);

    let done = client.run(&["download", "album/", "-o", "back"]).ok();
    assert!(done.stderr.contains("122 of 122 files"), "{}", done.stderr);
    assert_eq!(tree(&client.path("back")), files);

    // What is there stays, what is lost or wrong comes again.
    std::fs::remove_file(client.path("back/empty")).unwrap();
    std::fs::write(client.path("back/part 0/file 7.txt"), "wrong").unwrap();
    let again = ["download", "album/", "-o", "back", "--json"];
    let done = client.run(&[&again[..], &["--if-exists", "overwrite"]].concat());
    let summary = &done.ok().json()[122]["summary"];
    assert_eq!(
        (&summary["fetched"], &summary["complete"]),
        (&2.into(), &120.into())
    );
    assert_eq!(tree(&client.path("back")), files);
}

#[test]
fn a_folder_costs_no_lookup_a_file() {
    const FILES: u64 = 60;
    let locator = Locator::start();
    let provider = (0..FILES)
        .fold(Peer::setup().locator(locator.addr()), |setup, index| {
            setup.file(&format!("album/{index}"), bytes(&index.to_string(), 99))
        })
        .start();
    let own = Peer::setup().neighbour(provider.addr()).start();
    provider.await_ready();
    eventually("all is announced", || {
        (provider.status().files.announced == FILES).then_some(())
    });
    let client = own.client();
    let done = client.run(&["download", "album/", "-o", "here"]).ok();
    assert!(done.stderr.contains("60 of 60 files"), "{}", done.stderr);
    assert_eq!(tree(&client.path("here")).len() as u64, FILES);
    let name = r#"vecino_neighbour_requests_total{outcome="found"}"#;
    let asked = metric(&mut Connection::open(own.addr()), name);
    assert!(
        (1..10).contains(&asked),
        "{asked} questions to the neighbour"
    );
}
