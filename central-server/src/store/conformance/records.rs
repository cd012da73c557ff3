//! What the suite asks of announcing, withdrawing and fingerprints.

use std::collections::{HashMap, HashSet};

use vecino_rest::Digest;

use super::{ALL, Bench, announce, file, name, withdraw};
use crate::store::{
    Among, Change, Counts, Found, Key, MAX_BUCKET_RECORDS, MAX_VARIANTS_READ, Resource, StoreError,
    bucket_of,
};
pub(super) async fn what_is_announced_is_found_by_name_and_digest(bench: Bench) {
    let (a, b) = (file("dir/a b.txt", "one"), file("copy of a.txt", "one"));
    let peer = bench.peer(1).await;
    assert_eq!(bench.change(peer, 1, announce(&[&a, &b])).await, 2);
    let by_name = bench.find(&Key::Name(a.name.clone()), &ALL).await;
    assert_eq!(
        by_name,
        [Found {
            resource: a.clone(),
            holders: vec![peer]
        }]
    );
    let by_digest = bench.find(&Key::Digest(a.digest), &ALL).await;
    let names: Vec<_> = by_digest.iter().map(|found| &found.resource).collect();
    assert_eq!(names, [&b, &a]);
    assert!(bench.find(&Key::Name(name("dir")), &ALL).await.is_empty());
    assert!(
        bench
            .find(&Key::Digest(Digest::of(b"other")), &ALL)
            .await
            .is_empty()
    );
    assert_eq!(
        bench.store.counts(),
        Counts {
            peers: 1,
            resources: 2,
            records: 2
        }
    );
}

pub(super) async fn variants_of_a_name_are_apart(bench: Bench) {
    let (one, two) = (file("a", "one"), file("a", "other"));
    let (first, second) = (bench.peer(1).await, bench.peer(2).await);
    bench.change(first, 1, announce(&[&one])).await;
    bench.change(second, 2, announce(&[&one, &two])).await;
    assert_eq!(bench.holders_of(&one).await, [first, second]);
    assert_eq!(bench.holders_of(&two).await, [second]);
    assert_eq!(
        bench.find(&Key::Name(one.name.clone()), &ALL).await.len(),
        2
    );
}

pub(super) async fn a_resource_goes_with_its_last_holder(bench: Bench) {
    let a = file("Música/canción.flac", "one");
    let (first, second) = (bench.peer(1).await, bench.peer(2).await);
    bench.change(first, 1, announce(&[&a])).await;
    bench.change(second, 2, announce(&[&a])).await;
    assert_eq!(bench.change(first, 1, withdraw(&[&a])).await, 0);
    assert_eq!(bench.holders_of(&a).await, [second]);
    assert_eq!(
        bench.store.counts(),
        Counts {
            peers: 2,
            resources: 1,
            records: 1
        }
    );
    bench.change(second, 2, withdraw(&[&a])).await;
    assert!(
        bench
            .find(&Key::Name(a.name.clone()), &ALL)
            .await
            .is_empty()
    );
    assert!(bench.find(&Key::Digest(a.digest), &ALL).await.is_empty());
    for prefix in ["m", "c", "f", "\u{1}"] {
        assert!(bench.names(prefix, 10).await.is_empty(), "{prefix}");
    }
    assert_eq!(
        bench.store.counts(),
        Counts {
            peers: 2,
            resources: 0,
            records: 0
        }
    );
    bench.change(second, 2, withdraw(&[&a])).await;
    bench.change(first, 1, announce(&[&a])).await;
    assert_eq!(bench.holders_of(&a).await, [first]);
}

pub(super) async fn a_record_with_another_size_replaces_the_first(bench: Bench) {
    let a = file("a", "one");
    let longer = Resource {
        size: 99,
        ..a.clone()
    };
    let (first, second) = (bench.peer(1).await, bench.peer(2).await);
    bench.change(first, 1, announce(&[&a])).await;
    bench.change(second, 2, announce(&[&a])).await;
    assert_eq!(bench.change(first, 1, announce(&[&longer])).await, 1);
    let sizes: Vec<_> = bench.find(&Key::Name(a.name.clone()), &ALL).await;
    let mut sizes: Vec<_> = sizes
        .iter()
        .map(|f| (f.resource.size, f.holders.clone()))
        .collect();
    sizes.sort();
    assert_eq!(sizes, [(3, vec![second]), (99, vec![first])]);
    bench.assert_fingerprints(1, &[&longer]).await;
}

pub(super) async fn announcing_twice_changes_nothing(bench: Bench) {
    let a = file("a", "one");
    let peer = bench.peer(1).await;
    for _ in 0..2 {
        assert_eq!(bench.change(peer, 1, announce(&[&a, &a])).await, 1);
    }
    assert_eq!(bench.holders_of(&a).await, [peer]);
    assert_eq!(
        bench.store.counts(),
        Counts {
            peers: 1,
            resources: 1,
            records: 1
        }
    );
    bench.assert_fingerprints(1, &[&a]).await;
}

pub(super) async fn a_bucket_becomes_exactly_what_is_sent(bench: Bench) {
    let (a, b, c) = (file("a", "one"), file("b", "one"), file("c", "one"));
    let elsewhere = file("d", "two");
    let bucket = bucket_of(&a.digest);
    assert_ne!(bucket, bucket_of(&elsewhere.digest));
    let (peer, other) = (bench.peer(1).await, bench.peer(2).await);
    bench.change(peer, 1, announce(&[&a, &b, &elsewhere])).await;
    bench.change(other, 2, announce(&[&a])).await;
    let replaced = Change::Bucket {
        bucket,
        records: vec![b.clone(), c.clone()],
    };
    assert_eq!(bench.change(peer, 1, replaced).await, 3);
    assert_eq!(
        bench.holders_of(&a).await,
        [other],
        "another peer's record stays"
    );
    assert_eq!(bench.holders_of(&b).await, [peer]);
    assert_eq!(bench.holders_of(&c).await, [peer]);
    assert_eq!(
        bench.holders_of(&elsewhere).await,
        [peer],
        "another bucket stays"
    );
    bench.assert_fingerprints(1, &[&b, &c, &elsewhere]).await;
    let emptied = Change::Bucket {
        bucket,
        records: Vec::new(),
    };
    assert_eq!(bench.change(peer, 1, emptied).await, 1);
    bench.assert_fingerprints(1, &[&elsewhere]).await;
}

pub(super) async fn fingerprints_follow_every_change(bench: Bench) {
    let files: Vec<_> = (0..300)
        .map(|n| file(&format!("f{n}"), &format!("content {n}")))
        .collect();
    let files: Vec<_> = files.iter().collect();
    let peer = bench.peer(1).await;
    bench.assert_fingerprints(1, &[]).await;
    bench.change(peer, 1, announce(&files)).await;
    bench.assert_fingerprints(1, &files).await;
    bench.change(peer, 1, withdraw(&files[..200])).await;
    bench.assert_fingerprints(1, &files[200..]).await;
    let renamed = Resource {
        name: name("renamed"),
        ..files[250].clone()
    };
    let change = Change::Difference {
        announce: vec![renamed.clone()],
        withdraw: vec![(files[250].name.clone(), files[250].digest)],
    };
    bench.change(peer, 1, change).await;
    let expected: Vec<_> = files[200..]
        .iter()
        .filter(|f| f.name != files[250].name)
        .copied()
        .chain([&renamed])
        .collect();
    bench.assert_fingerprints(1, &expected).await;
}

pub(super) async fn many_names_of_a_digest_do_not_hide_the_others(bench: Bench) {
    let files = |n| file(&format!("name {n}"), "the same");
    many_do_not_hide_the_others(bench, Key::Digest(files(0).digest), files).await;
}

pub(super) async fn many_digests_of_a_name_do_not_hide_the_others(bench: Bench) {
    let files = |n| file("the same", &format!("content {n}"));
    many_do_not_hide_the_others(bench, Key::Name(files(0).name), files).await;
}

/// All have about the same chance, also where an engine gives numbers of which others have most.
async fn many_do_not_hide_the_others(bench: Bench, key: Key, of_key: impl Fn(usize) -> Resource) {
    const MANY: usize = 2 * MAX_VARIANTS_READ;
    const OF_OTHERS: usize = 20_000;
    const LOOKUPS: usize = 100;
    /// Who is a third of the time among those that are read is not found less often.
    const AT_LEAST: usize = 10;
    let files: Vec<_> = (0..MANY).map(of_key).collect();
    let (before, many, after) = (&files[..2], &files[2..MANY - 4], &files[MANY - 4..MANY - 2]);
    let others: Vec<_> = (0..OF_OTHERS)
        .map(|n| file(&format!("other {n}"), "another"))
        .collect();
    let last = &files[MANY - 2..];
    for (number, files) in [(1, before), (2, many), (3, after), (4, &others), (5, last)] {
        let peer = bench.peer(number).await;
        for some in files.chunks(4_000) {
            let some: Vec<_> = some.iter().collect();
            bench.change(peer, number, announce(&some)).await;
        }
    }
    let mut times: HashMap<_, usize> = files.iter().map(|file| (file, 0)).collect();
    let mut rng = fastrand::Rng::with_seed(7);
    for _ in 0..LOOKUPS {
        let seed = rng.u64(..);
        let found = bench.find(&key, &Among { seed, ..ALL }).await;
        let distinct: HashSet<_> = found.iter().map(|found| &found.resource).collect();
        assert_eq!(
            (found.len(), distinct.len()),
            (MAX_VARIANTS_READ, found.len())
        );
        for file in distinct {
            *times.get_mut(file).expect("was announced") += 1;
        }
    }
    times.retain(|_, times| *times < AT_LEAST);
    assert!(
        times.is_empty(),
        "{} of {MANY} are hidden from most of {LOOKUPS} lookups: {times:?}",
        times.len()
    );
}

pub(super) async fn a_full_bucket_refuses_more(bench: Bench) {
    let peer = bench.peer(1).await;
    let files: Vec<_> = (0..=MAX_BUCKET_RECORDS)
        .map(|n| file(&format!("f{n}"), ""))
        .collect();
    let files: Vec<_> = files.iter().collect();
    let bucket = bucket_of(&files[0].digest);
    let full = bench.store.announce(peer, [1; 32], announce(&files)).await;
    assert!(
        matches!(full, Err(StoreError::BucketFull { bucket: b }) if b == bucket),
        "{full:?}"
    );
    assert_eq!(
        bench.store.counts().records,
        0,
        "a refused change changes nothing"
    );
}
