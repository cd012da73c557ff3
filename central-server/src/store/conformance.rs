//! What every engine must do: one suite, run on each of them.
//!
//! [`conforms`] is the entry point; an engine's test calls it with a way to make empty stores.

mod accounts;

use std::{collections::HashSet, future::Future, sync::Arc};

use vecino_rest::{Digest, Name, PeerId, terms::name_term};

use super::{
    Among, Change, Counts, Found, Key, Live, MAX_BUCKET_RECORDS, PeerNo, PeerRow, PeerState,
    Resource, Store, StoreError, Walk, bucket_of, fingerprint::of_record,
};

pub(super) struct Everybody;

impl Live for Everybody {
    fn retain_live(&self, _: &mut Vec<PeerNo>) {}
}

struct Only(HashSet<PeerNo>);

impl Live for Only {
    fn retain_live(&self, peers: &mut Vec<PeerNo>) {
        peers.retain(|peer| self.0.contains(peer));
    }
}

pub(super) const ALL: Among<'static> = Among {
    live: &Everybody,
    only: None,
    start: PeerNo(0),
};

pub(super) fn row(number: u8) -> PeerRow {
    PeerRow {
        id: PeerId::from_bytes([number; 16]),
        url: format!("http://10.0.0.{number}:80"),
        site: "here".into(),
        token: [number; 32],
        url_is_observed: number.is_multiple_of(2),
        state: PeerState::Present,
        session: None,
    }
}

pub(super) fn name(text: &str) -> Name {
    Name::parse(text).expect("valid")
}

pub(super) fn file(path: &str, content: &str) -> Resource {
    Resource {
        name: name(path),
        digest: Digest::of(content.as_bytes()),
        size: content.len() as u64,
        modified_ms: -5,
    }
}

pub(super) fn announce(files: &[&Resource]) -> Change {
    let announce = files.iter().map(|file| (*file).clone()).collect();
    Change::Difference {
        announce,
        withdraw: Vec::new(),
    }
}

pub(super) fn withdraw(files: &[&Resource]) -> Change {
    let withdraw = files
        .iter()
        .map(|file| (file.name.clone(), file.digest))
        .collect();
    Change::Difference {
        announce: Vec::new(),
        withdraw,
    }
}

/// A store and the peers that the suite registers in it.
struct Bench {
    store: Arc<dyn Store>,
}

impl Bench {
    async fn peer(&self, number: u8) -> PeerNo {
        self.store
            .register(row(number))
            .await
            .expect("registers")
            .peer
    }

    async fn change(&self, peer: PeerNo, number: u8, change: Change) -> u64 {
        self.store
            .announce(peer, [number; 32], change)
            .await
            .expect("announces")
    }

    async fn find(&self, key: &Key, among: &Among<'_>) -> Vec<Found> {
        let mut found = self.store.find(key, among).await.expect("finds");
        found.sort_by_key(|found| (found.resource.name.clone(), found.resource.digest));
        found
    }

    async fn holders_of(&self, file: &Resource) -> Vec<PeerNo> {
        let found = self.find(&Key::Name(file.name.clone()), &ALL).await;
        let of_file = found
            .into_iter()
            .filter(|found| found.resource.digest == file.digest);
        of_file.flat_map(|found| found.holders).collect()
    }

    /// All names under a prefix, in pages of `limit`.
    async fn names(&self, prefix: &str, limit: usize) -> Vec<String> {
        let (mut names, mut after) = (Vec::new(), None);
        loop {
            let walk = Walk {
                prefix,
                exact: false,
                after: after.as_ref(),
                accept: &|_, _| true,
                limit,
                row_budget: 100,
            };
            let page = self.store.walk(&walk, &ALL).await.expect("walks");
            assert!(page.found.len() <= limit);
            names.extend(
                page.found
                    .into_iter()
                    .map(|found| found.resource.name.to_string()),
            );
            match page.next {
                Some(next) => after = Some(next),
                None => return names,
            }
        }
    }

    fn sum(&self, files: &[&Resource], bucket: u8) -> u128 {
        let of_bucket = files
            .iter()
            .filter(|file| bucket_of(&file.digest) == bucket);
        of_bucket.fold(0, |sum, f| {
            sum.wrapping_add(of_record(&f.name, &f.digest, f.size))
        })
    }

    async fn assert_fingerprints(&self, number: u8, files: &[&Resource]) {
        let fingerprints = self
            .store
            .register(row(number))
            .await
            .expect("registers")
            .fingerprints;
        assert_eq!(fingerprints.records(), files.len() as u64);
        for bucket in 0..=u8::MAX {
            assert_eq!(
                fingerprints.0[usize::from(bucket)].sum,
                self.sum(files, bucket),
                "{bucket}"
            );
        }
    }
}

/// Runs the suite on stores that `make` makes, each of them empty.
pub(super) async fn conforms<F: Future<Output = Arc<dyn Store>>>(make: impl Fn() -> F) {
    let bench = || async {
        Bench {
            store: make().await,
        }
    };
    what_is_announced_is_found_by_name_and_digest(bench().await).await;
    variants_of_a_name_are_apart(bench().await).await;
    a_resource_goes_with_its_last_holder(bench().await).await;
    a_record_with_another_size_replaces_the_first(bench().await).await;
    announcing_twice_changes_nothing(bench().await).await;
    a_bucket_becomes_exactly_what_is_sent(bench().await).await;
    fingerprints_follow_every_change(bench().await).await;
    only_the_current_token_changes_anything(bench().await).await;
    only_live_and_wanted_holders_are_found(bench().await).await;
    the_walk_over_holders_begins_anywhere(bench().await).await;
    terms_are_walked_in_pages(bench().await).await;
    a_walk_spends_its_budget_and_goes_on(bench().await).await;
    names_are_walked_by_prefix_in_their_order(bench().await).await;
    a_lapsed_peer_is_forgotten_in_steps(bench().await).await;
    a_peer_that_came_back_is_not_forgotten(bench().await).await;
    a_full_bucket_refuses_more(bench().await).await;
    a_closed_store_refuses_changes(bench().await).await;
    accounts::an_account_is_made_changed_and_removed(bench().await).await;
    accounts::accounts_are_listed_in_pages(bench().await).await;
    accounts::a_session_stays_with_its_peer_until_it_is_ended(bench().await).await;
    accounts::the_buckets_of_a_peer_are_all_that_it_holds(bench().await).await;
    accounts::an_import_is_marked_from_its_beginning_to_its_end(bench().await).await;
    accounts::a_peer_for_whom_there_is_no_room_is_refused_alone(bench().await).await;
    accounts::a_closed_store_takes_no_accounts(bench().await).await;
}

async fn what_is_announced_is_found_by_name_and_digest(bench: Bench) {
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

async fn variants_of_a_name_are_apart(bench: Bench) {
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

async fn a_resource_goes_with_its_last_holder(bench: Bench) {
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

async fn a_record_with_another_size_replaces_the_first(bench: Bench) {
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

async fn announcing_twice_changes_nothing(bench: Bench) {
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

async fn a_bucket_becomes_exactly_what_is_sent(bench: Bench) {
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

async fn fingerprints_follow_every_change(bench: Bench) {
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

async fn only_the_current_token_changes_anything(bench: Bench) {
    let a = file("a", "one");
    let peer = bench.peer(1).await;
    let refused = |token| bench.store.announce(peer, token, announce(&[&a]));
    assert!(matches!(
        refused([9; 32]).await,
        Err(StoreError::NotThePeer)
    ));
    let again = PeerRow {
        token: [7; 32],
        url: "http://10.9.9.9:80".into(),
        ..row(1)
    };
    let registered = bench
        .store
        .register(again.clone())
        .await
        .expect("registers");
    assert_eq!(registered.peer, peer, "the same peer has the same number");
    assert!(matches!(
        refused([1; 32]).await,
        Err(StoreError::NotThePeer)
    ));
    bench.change(peer, 7, announce(&[&a])).await;
    bench
        .store
        .lapse(vec![(peer, [1; 32])], 5)
        .await
        .expect("ignores a stale token");
    bench.change(peer, 7, announce(&[&a])).await;
    assert_eq!(
        bench.store.peers().await.expect("lists"),
        [(peer, again.clone())]
    );
    bench
        .store
        .lapse(vec![(peer, [7; 32])], 5)
        .await
        .expect("lapses");
    assert!(matches!(
        refused([7; 32]).await,
        Err(StoreError::NotThePeer)
    ));
    let lapsed = PeerRow {
        state: PeerState::Lapsed(5),
        ..again
    };
    assert_eq!(bench.store.peers().await.expect("lists"), [(peer, lapsed)]);
    let unknown = bench
        .store
        .announce(PeerNo(77), [7; 32], announce(&[&a]))
        .await;
    assert!(matches!(unknown, Err(StoreError::NotThePeer)));
}

async fn only_live_and_wanted_holders_are_found(bench: Bench) {
    let a = file("a", "one");
    let mut peers = Vec::new();
    for number in 1..=5 {
        let peer = bench.peer(number).await;
        bench.change(peer, number, announce(&[&a])).await;
        peers.push(peer);
    }
    let key = Key::Name(a.name.clone());
    let live = Only([peers[1], peers[3]].into());
    let among = Among {
        live: &live,
        only: None,
        start: PeerNo(0),
    };
    assert_eq!(
        bench.find(&key, &among).await[0].holders,
        [peers[1], peers[3]]
    );
    let wanted = [peers[0], peers[3], PeerNo(99)];
    let among = Among {
        live: &live,
        only: Some(&wanted),
        start: PeerNo(0),
    };
    assert_eq!(bench.find(&key, &among).await[0].holders, [peers[3]]);
    let nobody = Only(HashSet::new());
    let among = Among {
        live: &nobody,
        only: None,
        start: PeerNo(0),
    };
    assert!(bench.find(&key, &among).await.is_empty());
    let walk = Walk {
        prefix: "a",
        exact: false,
        after: None,
        accept: &|_, _| true,
        limit: 9,
        row_budget: 9,
    };
    assert!(
        bench
            .store
            .walk(&walk, &among)
            .await
            .expect("walks")
            .found
            .is_empty()
    );
}

async fn the_walk_over_holders_begins_anywhere(bench: Bench) {
    let a = file("a", "one");
    let mut peers = Vec::new();
    for number in 1..=4 {
        let peer = bench.peer(number).await;
        bench.change(peer, number, announce(&[&a])).await;
        peers.push(peer);
    }
    for turn in 0..4 {
        let among = Among {
            live: &Everybody,
            only: None,
            start: peers[turn],
        };
        let found = bench.find(&Key::Digest(a.digest), &among).await;
        let mut expected = peers.clone();
        expected.rotate_left(turn);
        assert_eq!(found[0].holders, expected);
    }
}

async fn terms_are_walked_in_pages(bench: Bench) {
    let peer = bench.peer(1).await;
    let names = [
        "song one.mp3",
        "songs two.flac",
        "son.txt",
        "other.mp3",
        "one songbird.mp3",
    ];
    let files: Vec<_> = names.iter().map(|name| file(name, name)).collect();
    bench
        .change(peer, 1, announce(&files.iter().collect::<Vec<_>>()))
        .await;
    for limit in [1, 2, 10] {
        let mut found = bench.names("song", limit).await;
        found.sort();
        assert_eq!(
            found,
            ["one songbird.mp3", "song one.mp3", "songs two.flac"]
        );
    }
    let exact = Walk {
        prefix: "\u{1}music",
        exact: true,
        after: None,
        accept: &|_, resource| resource.name.as_str() != "other.mp3",
        limit: 10,
        row_budget: 100,
    };
    let page = bench.store.walk(&exact, &ALL).await.expect("walks");
    assert_eq!(page.found.len(), 3);
    let exact = Walk {
        prefix: "son",
        accept: &|_, _| true,
        ..exact
    };
    let page = bench.store.walk(&exact, &ALL).await.expect("walks");
    assert_eq!(page.found.len(), 1, "no prefix");
}

async fn names_are_walked_by_prefix_in_their_order(bench: Bench) {
    let peer = bench.peer(1).await;
    let names = [
        "docs/b",
        "docs/a",
        "docs/a.txt",
        "docs/é",
        "docs",
        "Docs/a",
        "docs2",
        "docs/sub/c",
    ];
    let files = names.map(|name| file(name, name));
    let files: Vec<_> = files.iter().collect();
    bench.change(peer, 1, announce(&files)).await;
    let other = file("docs/a", "another variant");
    bench.change(peer, 1, announce(&[&other])).await;
    for limit in [1, 2, 100] {
        let walked = async |prefix: &str| bench.names(&name_term(prefix), limit).await;
        let expected = [
            "docs/a",
            "docs/a",
            "docs/a.txt",
            "docs/b",
            "docs/sub/c",
            "docs/é",
        ];
        assert_eq!(walked("docs/").await, expected);
        assert_eq!(walked("docs/a.").await, ["docs/a.txt"]);
        assert_eq!(walked("docs/e\u{301}").await, ["docs/é"]);
        assert_eq!(walked("D").await, ["Docs/a"]);
        assert!(walked("docs/a/").await.is_empty());
    }
    bench.change(peer, 1, withdraw(&files)).await;
    assert_eq!(bench.names(&name_term("docs"), 9).await, ["docs/a"]);
    bench.change(peer, 1, withdraw(&[&other])).await;
    assert!(bench.names(&name_term(""), 9).await.is_empty());
}

async fn a_walk_spends_its_budget_and_goes_on(bench: Bench) {
    let peer = bench.peer(1).await;
    let files: Vec<_> = (0..50).map(|n| file(&format!("w{n:02}"), "one")).collect();
    bench
        .change(peer, 1, announce(&files.iter().collect::<Vec<_>>()))
        .await;
    let (mut pages, mut found, mut after) = (0, 0, None);
    loop {
        let walk = Walk {
            prefix: "w",
            exact: false,
            after: after.as_ref(),
            accept: &|_, resource| resource.name.as_str() >= "w30",
            limit: 100,
            row_budget: 10,
        };
        let page = bench.store.walk(&walk, &ALL).await.expect("walks");
        pages += 1;
        found += page.found.len();
        assert!(page.found.len() <= 10);
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    assert_eq!(found, 20);
    assert!((5..=6).contains(&pages), "{pages}");
}

async fn a_lapsed_peer_is_forgotten_in_steps(bench: Bench) {
    let files: Vec<_> = (0..25)
        .map(|n| file(&format!("f{n}"), &format!("{n}")))
        .collect();
    let files: Vec<_> = files.iter().collect();
    let (peer, other) = (bench.peer(1).await, bench.peer(2).await);
    bench.change(peer, 1, announce(&files)).await;
    bench.change(other, 2, announce(&files[..5])).await;
    bench
        .store
        .lapse(vec![(peer, [1; 32])], 5)
        .await
        .expect("lapses");
    let mut removed = Vec::new();
    loop {
        let step = bench.store.forget(peer, 10).await.expect("forgets");
        removed.push(step.records);
        if step.done {
            break;
        }
    }
    assert_eq!(removed, [10, 10, 5]);
    assert_eq!(
        bench.store.counts(),
        Counts {
            peers: 1,
            resources: 5,
            records: 5
        }
    );
    assert_eq!(bench.holders_of(files[0]).await, [other]);
    assert!(bench.holders_of(files[20]).await.is_empty());
    assert_ne!(bench.peer(1).await, peer, "numbers are never given twice");
}

async fn a_peer_that_came_back_is_not_forgotten(bench: Bench) {
    let a = file("a", "one");
    let peer = bench.peer(1).await;
    bench.change(peer, 1, announce(&[&a])).await;
    let present = bench.store.forget(peer, 10).await.expect("does nothing");
    assert!(present.done && present.records == 0);
    bench
        .store
        .lapse(vec![(peer, [1; 32])], 5)
        .await
        .expect("lapses");
    let kept = bench.store.forget(peer, 0).await.expect("does nothing");
    assert!(!kept.done, "it has records");
    assert_eq!(bench.peer(1).await, peer);
    bench.store.forget(peer, 10).await.expect("does nothing");
    assert_eq!(bench.holders_of(&a).await, [peer]);
    assert!(
        bench
            .store
            .forget(PeerNo(99), 10)
            .await
            .expect("does nothing")
            .done
    );
}

async fn a_full_bucket_refuses_more(bench: Bench) {
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

async fn a_closed_store_refuses_changes(bench: Bench) {
    let peer = bench.peer(1).await;
    bench.store.close().await;
    let refused = bench.store.announce(peer, [1; 32], announce(&[])).await;
    assert!(matches!(refused, Err(StoreError::Closed)), "{refused:?}");
    bench.store.close().await;
}
