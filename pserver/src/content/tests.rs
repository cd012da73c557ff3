//! The store as a whole: names, conditions, directories.

use std::{sync::Arc, time::SystemTime};

use bytes::Bytes;
use vecino_rest::piece::Layout;

use super::{
    keep::with_digest,
    part::{Finished, Part},
    small::Small,
    *,
};

#[test]
fn a_name_with_a_digest_keeps_its_folder_and_extension() {
    let digest = Digest::from_bytes([0xab; 32]);
    let named = |text: &str| {
        let name = Name::parse(text).expect("valid");
        with_digest(&name, &digest).map(String::from)
    };
    for (name, expected) in [
        ("d/a.txt", "d/a (abababab).txt"),
        ("a/a", "a/a (abababab)"),
        (".hidden", ".hidden (abababab)"),
    ] {
        assert_eq!(named(name).as_deref(), Some(expected));
    }
    assert_eq!(named(&"x".repeat(255)), None);
}

/// A part of one piece that is all there.
fn finished(store: &Store, bytes: &'static [u8]) -> (Digest, Arc<Part>) {
    let (digest, layout) = (
        Digest::of(bytes),
        Layout::of(bytes.len() as u64).expect("small"),
    );
    let part = Part::create(store.parts(), &digest, layout, vec![digest]).expect("begun");
    let part = Arc::new(part);
    let mut writer = part.piece(0);
    assert!(writer.write(&[Bytes::from_static(bytes)]).expect("written"));
    assert_eq!(writer.finish().expect("right"), Finished::Verified);
    (digest, part)
}

#[test]
fn keeping_never_replaces_a_file_that_is_there() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = |name: &str| dir.path().join(name);
    let store = Store::open(&path("s"), &path("f"), &path("d"), Arc::default()).expect("opened");
    fs::write(path("f/a.txt"), "the user's own").expect("written");
    let (digest, part) = finished(&store, b"fetched");
    let names = [Name::parse("a.txt").expect("valid")];
    store.keep(&part, &names, digest, 0).expect("kept");
    assert_eq!(fs::read(path("f/a.txt")).expect("there"), b"the user's own");
    let kept = store
        .catalogue()
        .by_digest(&digest)
        .expect("kept beside it");
    assert_eq!(fs::read(&kept.path).expect("there"), b"fetched");
    assert!(kept.name.as_str().starts_with("a ("));
}

#[test]
fn what_is_fetched_twice_at_once_is_kept_once() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = |name: &str| dir.path().join(name);
    let store = Store::open(&path("s"), &path("f"), &path("d"), Arc::default()).expect("opened");
    let names = [Name::parse("a.txt").expect("valid")];
    for _ in 0..2 {
        let (digest, part) = finished(&store, b"fetched");
        store.keep(&part, &names, digest, 0).expect("kept");
        let files: Vec<_> = fs::read_dir(path("f"))
            .expect("there")
            .map(|entry| entry.expect("readable").file_name())
            .collect();
        assert_eq!(files, ["a.txt"]);
        assert_eq!(fs::read_dir(store.parts()).expect("there").count(), 0);
    }
}

#[actix_web::test]
async fn what_is_copied_twice_is_kept_once() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = |name: &str| dir.path().join(name);
    let store = Store::open(&path("s"), &path("f"), &path("d"), Arc::default()).expect("opened");
    let store = Arc::new(store);
    let [a, b] = ["a.txt", "b.txt"].map(|name| Name::parse(name).expect("valid"));
    let (digest, part) = finished(&store, b"fetched");
    store.keep(&part, &[a], digest, 0).expect("kept");
    let entry = store.catalogue().by_digest(&digest).expect("kept");
    for _ in 0..2 {
        let held = store.read(entry.clone()).await.expect("read");
        let from = std::net::Ipv4Addr::LOCALHOST.into();
        let copy = store.copy_held(held.expect("there"), b.clone(), from).await;
        assert_eq!(copy.expect("copied").name, b);
    }
    assert_eq!(fs::read_dir(path("f")).expect("there").count(), 2);
}

#[test]
fn what_is_wanted_under_two_names_is_kept_under_both() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = |name: &str| dir.path().join(name);
    let store = Store::open(&path("s"), &path("f"), &path("d"), Arc::default()).expect("opened");
    let names = ["a.txt", "b/c.txt"].map(|name| Name::parse(name).expect("valid"));
    let (digest, part) = finished(&store, b"fetched");
    store.keep(&part, &names, digest, 7_000).expect("kept");
    let other = Digest::of(b"small");
    let small = Small {
        bytes: Bytes::from_static(b"small"),
        names: names.to_vec(),
        digest: other,
        modified_ms: 7_000,
    };
    let beside_it = store.keep_together(&[&small]);
    assert!(matches!(beside_it[..], [Ok(())]), "{beside_it:?}");
    let beside = |name| with_digest(name, &other).expect("short");
    for (file, content) in [
        (&names[0], "fetched"),
        (&names[1], "fetched"),
        (&beside(&names[0]), "small"),
        (&beside(&names[1]), "small"),
    ] {
        let file = path("f").join(file.as_str());
        assert_eq!(fs::read_to_string(&file).expect("there"), content);
        let modified = fs::metadata(&file)
            .and_then(|m| m.modified())
            .expect("there");
        assert_eq!(modified, SystemTime::UNIX_EPOCH + Duration::from_secs(7));
    }
    for name in &names {
        assert!(
            store
                .catalogue()
                .by_name_and_digest(name, &digest)
                .is_some()
        );
    }
    assert_eq!(fs::read_dir(store.parts()).expect("there").count(), 0);
}

#[test]
fn directories_within_each_other_are_refused() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = |name: &str| dir.path().join(name);
    for (shared, fetched, data) in [
        (".", "f", "d"),
        ("s", "s/f", "d"),
        ("s", "f", "s/d"),
        ("s", "s", "d"),
        ("d/s", "f", "d"),
    ] {
        let opened = Store::open(&path(shared), &path(fetched), &path(data), Arc::default());
        assert!(
            matches!(opened, Err(StoreError::Overlap(_))),
            "{shared} {fetched} {data}"
        );
    }
}

#[tokio::test]
async fn a_condition_deletes_nothing_that_it_does_not_match() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = |name: &str| dir.path().join(name);
    let opened = Store::open(&path("s"), &path("f"), &path("d"), Arc::default());
    let store = Arc::new(opened.expect("opened"));
    let name = Name::parse("a").expect("valid");
    let upload = store.begin_upload().await.expect("begun");
    let shared = store
        .share(upload, name.clone(), Condition::None)
        .await
        .expect("shared");
    let digest = shared.entry.digest;
    fs::write(path("s/a"), "the user's newer one").expect("written");
    let matching = Condition::Matches(vec![digest]);
    let refused = store.delete(name.clone(), matching).await;
    assert!(
        matches!(refused, Err(StoreError::Precondition(_))),
        "{refused:?}"
    );
    assert_eq!(
        fs::read(path("s/a")).expect("there"),
        b"the user's newer one"
    );
}
