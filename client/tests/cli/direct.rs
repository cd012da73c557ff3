//! `--direct`: the first system's contract.

use vecino_rest::{
    Digest, Name,
    body::{Located, Provider, Variant},
};

use crate::stage::{Answer, Client, Peer};

fn own_peer(answer: String) -> Peer {
    Peer::always(Answer::of(200, answer).with("content-type", "text/plain"))
}

#[test]
fn the_file_comes_from_the_provider_itself() {
    let provider = Peer::always(Answer::of(200, "foreign bytes"));
    let peer = own_peer(format!("http://{}", provider.authority()));
    let client = Client::of(&peer).env("API_TOKEN_FILE", "token");
    client.write("token", "s3cret-s3cret-s3cret");
    let done = client.run(&["download", "d/a b.txt", "--direct"]);
    assert_eq!(done.code, 0, "{done:?}");
    let again = client.run(&["download", "x", "--direct", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&again.stdout).unwrap();
    assert_eq!(report["source"], format!("http://{}", provider.authority()));
    assert_eq!(client.read("a b.txt"), b"foreign bytes");
    assert!(done.stderr.contains("nobody knew a digest"), "{done:?}");
    let seen = peer.seen();
    let asked = seen.iter().find(|seen| seen.method == "POST").unwrap();
    assert_eq!(asked.uri, "/connect");
    assert_eq!(asked.body, br#"{"body":["d/a b.txt"]}"#);
    let fetched = &provider.seen()[0];
    assert_eq!(
        (&*fetched.method, &*fetched.uri),
        ("GET", "/download/d/a%20b.txt")
    );
    assert_eq!(
        fetched.header("authorization"),
        None,
        "the token is for the own peer"
    );
}

#[test]
fn a_provider_with_a_digest_is_checked() {
    let tag = format!("\"{}\"", Digest::of(b"right"));
    let provider = Peer::always(Answer::of(200, "wrong").with("etag", &tag));
    let peer = own_peer(format!("http://{}", provider.authority()));
    let client = Client::of(&peer);
    assert_eq!(client.run(&["download", "a", "--direct"]).code, 7);
    assert!(!client.path("a").exists());
}

#[test]
fn a_digest_that_only_the_provider_says_verifies_nothing() {
    let tag = format!("\"{}\"", Digest::of(b"anything"));
    let provider = Peer::always(Answer::of(200, "anything").with("etag", &tag));
    let peer = own_peer(format!("http://{}", provider.authority()));
    let client = Client::of(&peer);
    let done = client.run(&["download", "a", "--direct"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(!done.stderr.contains("verified"), "{done:?}");
    assert!(done.stderr.contains("nobody knew a digest"), "{done:?}");
    let done = client.run(&["download", "a", "--direct", "-o", "b", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(report["verified"], false);
    // What the user says counts.
    let digest = Digest::of(b"anything").to_string();
    let done = client.run(&["download", "a", "--direct", "-o", "c", "--digest", &digest]);
    assert!(done.stderr.contains(", verified"), "{done:?}");
}

#[test]
fn what_the_own_peer_locates_is_what_a_direct_download_is_checked_against() {
    let provider = Peer::always(Answer::of(200, "right"));
    let url = format!("http://{}", provider.authority());
    let variant = |content: &[u8], urls: &[&str]| Variant {
        name: "a".parse().unwrap(),
        digest: Some(Digest::of(content)),
        size: Some(5),
        modified_ms: Some(0),
        provider_count: 1,
        providers: urls
            .iter()
            .map(|url| Provider {
                peer: None,
                url: (*url).to_owned(),
                site: None,
                partial: false,
            })
            .collect(),
    };
    let other = "http://10.0.0.9:80";
    for (variants, code, verified) in [
        (vec![variant(b"right", &[&url])], 0, true),
        (vec![variant(b"right", &[other])], 0, true),
        (vec![variant(b"wrong", &[&url])], 7, false),
        // Which of them is meant, nobody says.
        (
            vec![variant(b"other", &[other]), variant(b"right", &[&url])],
            5,
            false,
        ),
    ] {
        let located = Located { variants };
        let answer = url.clone();
        let shown = format!("{located:?}");
        let peer = Peer::start(move |seen| match seen.path() {
            "/connect" => Answer::of(200, &*answer),
            _ => Answer::json(200, &located),
        });
        let client = Client::of(&peer);
        let done = client.run(&["download", "a", "--direct"]);
        assert_eq!(done.code, code, "{shown} {done:?}");
        assert_eq!(done.stderr.contains(", verified"), verified, "{shown}");
        assert_eq!(client.path("a").exists(), code == 0);
    }
}

#[test]
fn nobody_has_it_is_3() {
    let peer = own_peer("404".to_owned());
    assert_eq!(
        Client::of(&peer).run(&["download", "a", "--direct"]).code,
        3
    );
}

#[test]
fn hostile_answers_are_refused() {
    let provider = Peer::always(Answer::of(302, "").with("location", "/elsewhere"));
    let redirecting = format!("http://{}", provider.authority());
    for (answer, code) in [
        ("file:///etc/passwd".to_owned(), 1),
        ("http://user@a:80".to_owned(), 1),
        ("http://a:80/\u{1b}[2J".to_owned(), 1),
        (String::new(), 1),
        (redirecting, 1),
    ] {
        let peer = own_peer(answer.clone());
        let client = Client::of(&peer);
        let done = client.run(&["download", "a", "--direct"]);
        assert_eq!(done.code, code, "{answer:?} {done:?}");
        assert!(!done.stderr.contains('\u{1b}'), "{done:?}");
        assert_eq!(client.files().len(), 0);
    }
    assert_eq!(provider.seen().len(), 1);
}

fn variant(content: &[u8], provider: &Peer) -> Variant {
    Variant {
        name: Name::parse("a").unwrap(),
        digest: Some(Digest::of(content)),
        size: Some(content.len() as u64),
        modified_ms: Some(0),
        provider_count: 1,
        providers: vec![Provider {
            peer: None,
            url: format!("http://{}", provider.authority()),
            site: None,
            partial: false,
        }],
    }
}

#[test]
fn several_variants_are_not_guessed_between() {
    let (one, two) = (
        Peer::with_file(b"one".to_vec()),
        Peer::with_file(b"two".to_vec()),
    );
    let variants = vec![variant(b"one", &one), variant(b"two", &two)];
    let connected = format!("http://{}", one.authority());
    let peer = Peer::start(move |seen| match seen.path() {
        "/connect" => Answer::of(200, connected.clone()),
        _ => Answer::json(
            200,
            &Located {
                variants: variants.clone(),
            },
        ),
    });
    let client = Client::of(&peer);
    let done = client.run(&["download", "a", "--direct"]);
    assert_eq!(done.code, 5, "{done:?}");
    assert!(done.stderr.contains("--digest"), "{done:?}");
    assert_eq!((one.seen().len(), two.seen().len()), (0, 0));
    assert_eq!(client.files().len(), 0);
    let (other, wanted) = (Digest::of(b"three"), Digest::of(b"two"));
    let args = ["download", "a", "--direct", "--digest"];
    let done = client.run(&[&args[..], &[&*other.to_string()]].concat());
    assert_eq!(done.code, 3, "{done:?}");
    let done = client.run(&[&args[..], &[&*wanted.to_string()]].concat());
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(client.read("a"), b"two");
    assert!(done.stderr.contains("verified"), "{done:?}");
}

#[test]
fn what_is_known_of_the_content_is_held_against_a_provider_that_says_nothing() {
    let provider = Peer::always(Answer::of(200, "something else"));
    let variants = vec![variant(b"one", &provider)];
    let connected = format!("http://{}", provider.authority());
    let peer = Peer::start(move |seen| match seen.path() {
        "/connect" => Answer::of(200, connected.clone()),
        _ => Answer::json(
            200,
            &Located {
                variants: variants.clone(),
            },
        ),
    });
    let client = Client::of(&peer);
    let done = client.run(&["download", "a", "--direct"]);
    assert_eq!(done.code, 7, "{done:?}");
    assert_eq!(client.files().len(), 0);
}
