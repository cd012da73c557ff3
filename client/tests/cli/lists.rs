//! list, search, locate, peers, status: for people and as JSON.

use vecino_rest::{
    Digest, Kind, Name, PeerId,
    body::{
        FileCounts, FileEntry, LinkKind, LinkState, Located, Origin, Page, Peer as Link, Provider,
        Session, Status, Transfers, Variant,
    },
};

use crate::stage::{Answer, Client, Done, Peer, Seen};

fn entry(name: &str) -> FileEntry {
    FileEntry {
        name: Name::parse(name).unwrap(),
        digest: Digest::of(name.as_bytes()),
        size: 1536,
        modified_ms: 0,
        origin: Origin::Shared,
    }
}

fn variant(name: &str) -> Variant {
    Variant {
        name: Name::parse(name).unwrap(),
        digest: Some(Digest::of(name.as_bytes())),
        size: Some(7),
        modified_ms: Some(0),
        provider_count: 2,
        providers: vec![Provider {
            peer: Some(PeerId::from_bytes([7; 16])),
            url: "http://10.0.0.1:80".to_owned(),
            site: Some("rack\u{1b}[31m 1".to_owned()),
            partial: false,
        }],
    }
}

fn link() -> Link {
    Link {
        url: "http://10.0.0.2:80".to_owned(),
        kind: LinkKind::Neighbour,
        peer: None,
        state: LinkState::Up,
        latency_ms: Some(1.25),
        error: None,
    }
}

fn status() -> Status {
    Status {
        peer: PeerId::from_bytes([7; 16]),
        url: None,
        site: Some("here".to_owned()),
        version: "0.1.0".to_owned(),
        uptime_seconds: 60,
        online: true,
        offline_reason: None,
        reach: None,
        session: Session::default(),
        strategies: vec!["central".to_owned()],
        neighbours: vec![link()],
        files: FileCounts::default(),
        transfers: Transfers::default(),
    }
}

/// Three pages of files, two a page at most.
fn files(seen: &Seen) -> Answer {
    let (names, next): (&[&str], _) = if seen.uri.contains("cursor=two") {
        (&["c 3.txt"], Some("three"))
    } else if seen.uri.contains("cursor=three") {
        (&[], None)
    } else {
        (&["a.txt", "b.txt"], Some("two"))
    };
    Answer::json(
        200,
        &Page {
            items: names.iter().map(|name| entry(name)).collect(),
            next_cursor: next.map(str::to_owned),
        },
    )
}

fn json_lines(done: &Done) -> Vec<serde_json::Value> {
    let lines = done.stdout.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn list_follows_the_pages() {
    let peer = Peer::start(files);
    let client = Client::of(&peer);
    let done = client.run(&["list", "--json"]);
    assert_eq!(done.code, 0, "{done:?}");
    let names: Vec<_> = json_lines(&done)
        .iter()
        .map(|line| line["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["a.txt", "b.txt", "c 3.txt"]);
    assert_eq!(peer.seen().len(), 3);

    let done = client.run(&["list", "--json", "--limit", "1", "--prefix", "a&b"]);
    assert_eq!(json_lines(&done).len(), 1);
    let uri = peer.seen().last().unwrap().uri.clone();
    assert!(
        uri.contains("limit=1") && uri.contains("prefix=a%26b"),
        "{uri}"
    );

    let done = client.run(&["list"]);
    assert!(done.stdout.contains("1.50 KiB"), "{done:?}");
    assert!(done.stdout.contains("1970-01-01 00:00Z"), "{done:?}");
    assert!(
        done.stdout.lines().any(|line| line.ends_with("c 3.txt")),
        "{done:?}"
    );
    assert!(!done.stdout.contains('\u{1b}'));
}

#[test]
fn an_empty_list_is_no_error() {
    let page = Page::<FileEntry> {
        items: Vec::new(),
        next_cursor: None,
    };
    let peer = Peer::always(Answer::json(200, &page));
    let client = Client::of(&peer);
    let done = client.run(&["list"]);
    assert_eq!((done.code, &*done.stdout), (0, ""));
    assert!(done.stderr.contains("upload"), "{done:?}");
    assert_eq!(client.run(&["list", "--quiet"]).stderr, "");
}

#[test]
fn search_prints_hits_or_ends_with_3() {
    let peer = Peer::start(|seen| {
        let items = if seen.uri.contains("nothing") {
            vec![]
        } else {
            vec![variant("song.mp3")]
        };
        let next_cursor = None;
        Answer::json(200, &Page { items, next_cursor })
    });
    let client = Client::of(&peer);
    let done = client.run(&["search", "so", "ng", "--type", "music", "--json"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(json_lines(&done)[0]["name"], "song.mp3");
    let uri = &peer.seen()[0].uri;
    assert!(
        uri.contains("q=so+ng") && uri.contains("type=music"),
        "{uri}"
    );

    let done = client.run(&["search", "nothing"]);
    assert_eq!((done.code, &*done.stdout), (3, ""));
    let done = client.run(&["search", "nothing", "--json"]);
    assert_eq!(done.code, 3);
    let error: serde_json::Value = serde_json::from_str(&done.stderr).unwrap();
    assert_eq!(error["exit_code"], 3);
}

#[test]
fn a_search_takes_words_a_type_or_both() {
    let page = Page::<Variant> {
        items: Vec::new(),
        next_cursor: None,
    };
    let peer = Peer::always(Answer::json(200, &page));
    let client = Client::of(&peer);
    let done = client.run(&["search", "--type", "document"]);
    assert_eq!(done.code, 3, "{done:?}");
    assert!(done.stderr.contains("no names of the type document"));
    let uri = &peer.seen()[0].uri;
    assert!(
        uri.contains("q=&") && uri.contains("type=document"),
        "{uri}"
    );
    for args in [
        &["search"][..],
        &["search", ""],
        &["search", " ", "  "],
        &["search", "a", "--type", ""],
        &["search", "a", "--type", ".pdf"],
    ] {
        let done = client.run(args);
        assert_eq!(done.code, 2, "{done:?}");
    }
    assert_eq!(peer.seen().len(), 1);
}

#[test]
fn search_is_in_order_and_tells_variants_apart() {
    let mut items = vec![variant("b.txt"), variant("a.txt"), variant("b.txt")];
    items[0].digest = Some(Digest::of(b"one"));
    items[2].digest = Some(Digest::of(b"two"));
    let mut digests = [b"one", b"two"].map(|text| Digest::of(text).to_string());
    digests.sort();
    let peer = Peer::start(move |seen| {
        let mut items = items.clone();
        if seen.uri.contains("q=otherwise") {
            items.reverse();
        }
        let next_cursor = None;
        Answer::json(200, &Page { items, next_cursor })
    });
    let client = Client::of(&peer);
    let json = client.run(&["search", "so", "--json"]).stdout;
    assert_eq!(
        client.run(&["search", "otherwise", "--json"]).stdout,
        json,
        "the peer's order does not matter"
    );
    let done = client.run(&["search", "so"]);
    let lines: Vec<_> = done.stdout.lines().collect();
    assert_eq!(lines.len(), 4, "{done:?}");
    assert!(lines[1].ends_with("a.txt"), "{done:?}");
    for (line, digest) in lines[2..].iter().zip(&digests) {
        assert!(line.contains(&digest[..12]), "{done:?}");
        assert!(!line.contains(digest), "{done:?}");
    }
    assert!(done.stderr.contains("locate"), "{done:?}");
}

#[test]
fn locate_shows_variants_and_providers() {
    let peer = Peer::start(|seen| match seen.path() {
        "/v1/locate/there" => Answer::json(
            200,
            &Located {
                variants: vec![variant("there")],
            },
        ),
        _ => Answer::kind(Kind::NotFound, "nobody has it"),
    });
    let client = Client::of(&peer);
    let done = client.run(&["locate", "there"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.stdout.contains("http://10.0.0.1:80"), "{done:?}");
    assert!(done.stdout.contains("rack\\u{1b}[31m 1"), "{done:?}");
    let done = client.run(&["locate", "there", "--json"]);
    assert_eq!(json_lines(&done)[0]["variants"][0]["provider_count"], 2);
    assert_eq!(client.run(&["locate", "gone"]).code, 3);
}

#[test]
fn peers_and_status_are_shown() {
    let peer = Peer::start(|seen| match seen.path() {
        "/v1/peers" => Answer::json(
            200,
            &Page {
                items: vec![link()],
                next_cursor: None,
            },
        ),
        _ => Answer::json(200, &status()),
    });
    let client = Client::of(&peer);
    let done = client.run(&["peers"]);
    assert!(done.stdout.contains("http://10.0.0.2:80"), "{done:?}");
    assert!(done.stdout.contains("1.2 ms"), "{done:?}");
    assert_eq!(
        json_lines(&client.run(&["peers", "--json"]))[0]["state"],
        "up"
    );
    let done = client.run(&["status"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.stdout.contains("07070707"), "{done:?}");
    assert!(!done.stdout.contains("central"), "{done:?}");
    assert_eq!(
        json_lines(&client.run(&["status", "--json"]))[0]["online"],
        true
    );
}

#[test]
fn why_a_peer_cannot_be_found_is_said() {
    let peer = Peer::always(Answer::json(
        200,
        &Status {
            online: false,
            offline_reason: Some("URL_Request is unset".to_owned()),
            ..status()
        },
    ));
    let done = Client::of(&peer).run(&["status"]);
    assert!(
        done.stdout.contains("online      no: URL_Request is unset"),
        "{done:?}"
    );
}

#[test]
fn a_closed_pipe_is_quiet() {
    let peer = Peer::start(files);
    let client = Client::of(&peer);
    let mut child = client.start(&["list"]);
    drop(child.stdout.take());
    let done = crate::stage::finish(child);
    assert_eq!((done.code, &*done.stderr), (141, ""), "{done:?}");
}

#[test]
fn locate_tells_who_holds_only_a_part() {
    let peer = Peer::start(|_| {
        let mut partial = variant("a.bin");
        partial.providers[0].partial = true;
        let mut whole = partial.providers[0].clone();
        (whole.url, whole.partial) = ("http://10.0.0.2:80".to_owned(), false);
        partial.providers.push(whole);
        let variants = vec![partial, variant("a.bin")];
        Answer::json(200, &Located { variants })
    });
    let done = Client::of(&peer).run(&["locate", "a.bin"]);
    assert_eq!(done.code, 0, "{done:?}");
    let held: Vec<_> = done
        .stdout
        .lines()
        .filter(|line| line.starts_with("http"))
        .map(|line| (line.contains("a part"), line.trim_end().ends_with(" all")))
        .collect();
    assert_eq!(held, [(true, false), (false, true), (false, false)]);
    assert_eq!(done.stdout.matches("HOLDS").count(), 1, "{done:?}");
}
