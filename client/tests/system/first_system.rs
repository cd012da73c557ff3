//! The first system's contract, exactly: its clients, peers, locators and providers do with ours
//! what they do among themselves, in every role. Its providers tell no digest, so nothing of
//! theirs is kept or announced, and the client says so.

use vecino_rest::{
    Kind, Problem,
    body::{FileEntry, Page},
    route,
};

use crate::{
    client::Client,
    cluster::{Locator, Peer, eventually},
    content::{assert_same, bytes},
    foreign::{self, ForeignLocator, ForeignPeer},
    http::{self, Connection},
};

/// A name that has to be encoded in a URL.
const OURS: &str = "ours/año 100% #1?.bin";
const OURS_IN_URL: &str = "ours/a%C3%B1o%20100%25%20%231%3F.bin";
const THEIRS: &str = "theirs/año 100% #1?.bin";
const SIZE: usize = 300_000;

fn is_plain_text(response: &http::Response) -> bool {
    let media_type = response.header("content-type").unwrap_or_default();
    media_type == "text/plain" || media_type.starts_with("text/plain;")
}

/// Both kinds of own peer, neighbour, locator and provider, in every combination that the
/// contract makes possible (a provider of the first system cannot announce itself to our
/// locator): a client of the first system is told the provider, and `download --direct` fetches
/// from it.
#[test]
fn every_mixture_of_ours_and_theirs_works_together() {
    let (ours, theirs) = (bytes("ours", SIZE), bytes("theirs", SIZE));
    let our_locator = Locator::start();
    let our_provider = Peer::setup()
        .locator(our_locator.addr())
        .file(OURS, ours.as_slice())
        .start();
    our_provider.await_ready();
    let their_provider = ForeignPeer::with_file(THEIRS, &theirs).start();
    let their_locator =
        ForeignLocator::start(&[(OURS, our_provider.addr()), (THEIRS, their_provider.addr())]);

    let neighbour = |locator| Peer::setup().locator(locator).start();
    let our_neighbours = [our_locator.addr(), their_locator.addr()].map(neighbour);
    let their_neighbours = [our_locator.addr(), their_locator.addr()]
        .map(|locator| ForeignPeer::with_locator(locator).start());
    for with_their_locator in [false, true] {
        let index = usize::from(with_their_locator);
        let neighbours = [our_neighbours[index].addr(), their_neighbours[index].addr()];
        for neighbour in neighbours {
            let our_own = Peer::setup().neighbour(neighbour).start();
            let their_own = ForeignPeer::with_neighbour(neighbour).start();
            for own in [our_own.addr(), their_own.addr()] {
                let place = format!(
                    "own peer {own} ({}), neighbour {neighbour} ({}), {} locator",
                    if own == our_own.addr() {
                        "ours"
                    } else {
                        "theirs"
                    },
                    if neighbour == neighbours[0] {
                        "ours"
                    } else {
                        "theirs"
                    },
                    if with_their_locator { "their" } else { "our" },
                );
                let mut shared = vec![(OURS, our_provider.url(), &ours)];
                if with_their_locator {
                    shared.push((THEIRS, their_provider.url(), &theirs));
                }
                for (name, url, content) in shared {
                    let answer = foreign::connect(own, name);
                    assert_eq!((answer.status, answer.text()), (200, url), "{place}");
                    assert!(is_plain_text(&answer), "{place}: {}", answer.head);
                    let downloaded = Client::of(own).download(name, &["--direct"]);
                    assert_same(&downloaded, content, &place);
                }
                let answer = foreign::connect(own, "nobody has this");
                assert_eq!((answer.status, &*answer.text()), (200, "404"), "{place}");
                assert!(is_plain_text(&answer), "{place}: {}", answer.head);
                let client = Client::of(own);
                let done = client.run(&["download", "nobody has this", "--direct"]);
                assert_eq!(done.code, 3, "{place}: {done:?}");
            }
        }
    }
    let asked = their_neighbours[0].seen();
    assert!(
        asked.contains(&"POST /pedirRecurso".to_owned()),
        "{asked:?}"
    );
    assert!(their_locator.asked().contains(&THEIRS.to_owned()));
}

/// What our own peer must take from clients of the first system, and what it must not.
#[test]
fn our_own_peer_and_neighbour_take_the_contracts_bodies_and_no_others() {
    let locator = Locator::start();
    let neighbour = Peer::setup()
        .locator(locator.addr())
        .file("a", "content")
        .start();
    neighbour.await_ready();
    let own = Peer::setup().neighbour(neighbour.addr()).start();
    eventually("a is announced", || own.locate("a"));
    let post = |addr, path: &str, media_type: Option<&str>, body: &str| {
        let headers: Vec<_> = media_type
            .map(|value| ("Content-Type", value))
            .into_iter()
            .collect();
        Connection::open(addr).send("POST", path, &headers, body.as_bytes())
    };
    let routes = [
        (
            own.addr(),
            "/connect",
            r#"{"body":["a"]}"#,
            r#"{"body":["b"]}"#,
        ),
        (
            neighbour.addr(),
            "/pedirRecurso",
            r#"{"body":"a"}"#,
            r#"{"body":"b"}"#,
        ),
    ];
    for (addr, path, known, unknown) in routes {
        for media_type in [
            Some("application/json"),
            Some("application/json; charset=utf-8"),
            None,
        ] {
            for (body, expected) in [(known, neighbour.url()), (unknown, "404".to_owned())] {
                let answer = post(addr, path, media_type, body);
                let what = format!("{path} {body} as {media_type:?}");
                assert_eq!((answer.status, answer.text()), (200, expected), "{what}");
                assert!(is_plain_text(&answer), "{what}: {}", answer.head);
            }
        }
        assert_eq!(http::get(addr, path).status, 405, "{path}");
    }
    let malformed = [
        "",
        "a",
        "null",
        "[]",
        "{}",
        r#"{"body":null}"#,
        r#"{"body":1}"#,
        r#"{"body":[]}"#,
        r#"{"body":[1]}"#,
        r#"{"body":["a","b"]}"#,
        r#"{"body":[["a"]]}"#,
        r#"{"body":{"a":"a"}}"#,
        r#"{"name":"a"}"#,
        r#"{"body":["a"]"#,
        "{\"body\":[\"\u{0}\"]}",
    ];
    for body in malformed {
        for (addr, path, ..) in routes {
            let answer = post(addr, path, Some("application/json"), body);
            assert_eq!(answer.status, 400, "{path} {body:?}: {}", answer.text());
        }
    }
    for (addr, path, body) in [
        (own.addr(), "/connect", r#"{"body":"a"}"#),
        (neighbour.addr(), "/pedirRecurso", r#"{"body":["a"]}"#),
    ] {
        let answer = post(addr, path, Some("application/json"), body);
        assert_eq!(answer.status, 400, "{path} takes the other one's form");
    }
}

#[test]
fn our_provider_serves_their_get_and_post() {
    let content = bytes("content", SIZE);
    let provider = Peer::setup()
        .file(OURS, content.as_slice())
        .file("empty", "")
        .start();
    provider.await_ready();
    for method in ["GET", "POST"] {
        let answer = foreign::download(provider.addr(), method, OURS_IN_URL).ok();
        assert_same(&answer.body, &content, method);
        let answer = foreign::download(provider.addr(), method, "empty").ok();
        assert_eq!(answer.body, b"", "{method}");
        let answer = foreign::download(provider.addr(), method, "nobody%20has%20this");
        assert_eq!(answer.status, 404, "{method}");
    }
}

#[test]
fn our_locator_answers_get_resource() {
    let locator = Locator::start();
    let provider = Peer::setup()
        .locator(locator.addr())
        .file(OURS, "content")
        .start();
    provider.await_ready();
    let answer = eventually("it is announced", || {
        let answer = foreign::get_resource(locator.addr(), OURS);
        (answer.0 == 200).then_some(answer)
    });
    assert_eq!(answer, (200, provider.url()));
    for name in ["nobody has this", "", "../x"] {
        let answer = foreign::get_resource(locator.addr(), name);
        assert_eq!(answer, (404, "404".to_owned()), "{name:?}");
    }
}

/// A provider of the first system delivers to a client of ours, through our own peer: the bytes
/// arrive, with a warning, and nothing of them stays.
#[test]
fn what_cannot_be_verified_is_delivered_with_a_warning_and_not_kept() {
    let content = bytes("theirs", SIZE);
    let their_provider = ForeignPeer::with_file(THEIRS, &content).start();
    let their_locator = ForeignLocator::start(&[(THEIRS, their_provider.addr())]);
    let their_neighbour = ForeignPeer::with_locator(their_locator.addr()).start();
    let our_neighbour = Peer::setup().locator(their_locator.addr()).start();
    let our_locator = Locator::start();
    for neighbour in [their_neighbour.addr(), our_neighbour.addr()] {
        // It could announce: at our locator, where another peer would find it.
        let own = Peer::setup()
            .locator(our_locator.addr())
            .neighbour(neighbour)
            .start();
        own.await_ready();
        for _ in 0..2 {
            let response = own.download(THEIRS).ok();
            assert_same(&response.body, &content, "over HTTP");
            assert_eq!(response.header(route::HEADER_VERIFIED), Some("none"));
            let source = response.header(route::HEADER_SOURCE);
            assert_eq!(source, Some(&*their_provider.url()));
            assert_eq!(response.header("etag"), None, "no digest is made up");
        }
        let client = own.client();
        let done = client.run(&["download", THEIRS, "-o", "saved"]).ok();
        assert_same(&client.read("saved"), &content, "by the client");
        assert!(
            done.stderr.contains("nobody knew a digest"),
            "{}",
            done.stderr
        );
        let done = client
            .run(&["download", THEIRS, "-o", "again", "--json"])
            .ok();
        assert_eq!(done.json()[0]["verified"], false, "{done:?}");

        // Fetching into the peer would be keeping it.
        let body = serde_json::json!({ "name": THEIRS }).to_string();
        let begun: vecino_rest::body::Download = own.post(route::DOWNLOADS, &body).json();
        let error = eventually("the download into the peer ends", || {
            let path = route::download(&begun.id);
            own.get(&path)
                .ok()
                .json::<vecino_rest::body::Download>()
                .error
        });
        assert_eq!(error.kind(), Some(Kind::NotSupported), "{error:?}");

        assert_eq!(own.kept(), Vec::<std::path::PathBuf>::new());
        let same_size = |path: &std::path::PathBuf| {
            std::fs::metadata(path).is_ok_and(|found| found.len() >= SIZE as u64)
                && std::fs::read(path).is_ok_and(|bytes| {
                    bytes
                        .windows(64)
                        .any(|window| window == &content[1000..1064])
                })
        };
        let on_disk = own.files_on_disk();
        assert!(!on_disk.iter().any(same_size), "in {on_disk:?}");
        let held: Page<FileEntry> = own.get(route::FILES).ok().json();
        assert_eq!(held.items, []);
        // Announcements keep their order: what comes after it is there, and it is not.
        client.write("later", b"later");
        client.run(&["upload", "later"]).ok();
        eventually("what came later is announced", || {
            let (status, _) = foreign::get_resource(our_locator.addr(), "later");
            (status == 200).then_some(())
        });
        let answer = foreign::get_resource(our_locator.addr(), THEIRS);
        assert_eq!(answer, (404, "404".to_owned()));
        eventually("one file alone is announced", || {
            (own.status().files.announced == 1).then_some(())
        });
    }
    let seen = their_provider.seen();
    assert!(
        seen.iter().all(|line| line.contains(" /download/theirs/")),
        "{seen:?}"
    );
}

/// A search or a lookup by digest is beyond the first system, and the own peer says so.
#[test]
fn what_the_contract_cannot_do_is_refused_clearly() {
    let their_locator = ForeignLocator::start(&[]);
    let their_neighbour = ForeignPeer::with_locator(their_locator.addr()).start();
    let our_neighbour = Peer::setup().locator(their_locator.addr()).start();
    for neighbour in [their_neighbour.addr(), our_neighbour.addr()] {
        let own = Peer::setup().neighbour(neighbour).start();
        let answer = own.get("/v1/search?q=a");
        let problem: Problem = answer.json();
        assert_eq!(problem.kind(), Some(Kind::NotSupported), "{problem:?}");
        assert_eq!(own.client().run(&["search", "a"]).code, 1);
        assert_eq!(own.client().run(&["locate", "a"]).code, 3);
    }
}
