//! What the suite asks of holders, and of walks over terms and names.

use std::collections::HashSet;

use vecino_rest::terms::name_term;

use super::{ALL, Bench, Everybody, Only, announce, file, withdraw};
use crate::store::{Among, Key, PeerNo, Walk};
pub(super) async fn only_live_and_wanted_holders_are_found(bench: Bench) {
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
        seed: 0,
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
        seed: 0,
    };
    assert_eq!(bench.find(&key, &among).await[0].holders, [peers[3]]);
    let nobody = Only(HashSet::new());
    let among = Among {
        live: &nobody,
        only: None,
        start: PeerNo(0),
        seed: 0,
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

pub(super) async fn the_walk_over_holders_begins_anywhere(bench: Bench) {
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
            seed: 0,
        };
        let found = bench.find(&Key::Digest(a.digest), &among).await;
        let mut expected = peers.clone();
        expected.rotate_left(turn);
        assert_eq!(found[0].holders, expected);
    }
}

pub(super) async fn terms_are_walked_in_pages(bench: Bench) {
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

pub(super) async fn names_are_walked_by_prefix_in_their_order(bench: Bench) {
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

pub(super) async fn a_walk_spends_its_budget_and_goes_on(bench: Bench) {
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

pub(super) async fn many_files_of_a_word_are_walked_in_pages_of_any_length(bench: Bench) {
    const FILES: usize = 600;
    let peer = bench.peer(1).await;
    let files: Vec<_> = (0..FILES)
        .map(|n| file(&format!("shared {n:03}"), "one"))
        .collect();
    // In several changes: what is kept together is cut elsewhere each time.
    for some in files.chunks(250) {
        let some: Vec<_> = some.iter().collect();
        bench.change(peer, 1, announce(&some)).await;
    }
    let mut expected: Vec<_> = files.iter().map(|file| file.name.to_string()).collect();
    expected.sort();
    for length in [1, 100, 255, 256, 257, 512, FILES, FILES + 1] {
        let (mut names, mut after) = (Vec::new(), None);
        loop {
            let walk = Walk {
                prefix: "shared",
                exact: true,
                after: after.as_ref(),
                accept: &|_, _| true,
                limit: length,
                row_budget: 2 * FILES,
            };
            let page = bench.store.walk(&walk, &ALL).await.expect("walks");
            assert!(page.found.len() <= length);
            names.extend(page.found.iter().map(|f| f.resource.name.to_string()));
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        names.sort();
        assert_eq!(names, expected, "{length}");
    }
}
