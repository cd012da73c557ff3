//! Uploads: files, folders, conflicts.

use std::collections::BTreeSet;

use vecino_rest::{Digest, Kind, Name, body::Stored};

use crate::stage::{Answer, Client, Peer, Seen, bytes};

fn stored(seen: &Seen) -> Stored {
    let path = seen.path().strip_prefix("/v1/files/").unwrap();
    Stored {
        name: Name::parse_url_path(path).unwrap(),
        digest: Digest::of(&seen.body),
        size: seen.body.len() as u64,
        holders: vec!["http://10.0.0.1:80".to_owned()],
    }
}

#[test]
fn a_file_is_sent_with_its_length() {
    let peer = Peer::start(|seen| Answer::json(201, &stored(seen)));
    let client = Client::of(&peer);
    let content = bytes(3 << 20);
    let path = client.write("d/my file.bin", &content);
    let done = client.run(&["upload", path.to_str().unwrap(), "--json"]);
    assert_eq!(done.code, 0, "{done:?}");
    let report: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(report["name"], "my file.bin");
    assert_eq!(report["created"], true);
    let seen = &peer.seen()[0];
    assert_eq!(
        (&*seen.method, seen.path()),
        ("PUT", "/v1/files/my%20file.bin")
    );
    assert_eq!(seen.header("content-length"), Some("3145728"));
    assert_eq!(seen.body, content);
}

#[test]
fn an_empty_file_is_sent() {
    let peer = Peer::start(|seen| Answer::json(201, &stored(seen)));
    let client = Client::of(&peer);
    client.write("empty", "");
    let done = client.run(&["upload", "empty"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(peer.seen()[0].header("content-length"), Some("0"));
}

#[test]
fn a_folder_and_as_decide_the_names() {
    let peer = Peer::start(|seen| Answer::json(200, &stored(seen)));
    let client = Client::of(&peer);
    client.write("pics/a.jpg", "a");
    client.write("pics/sub/b.jpg", "b");
    let done = client.run(&["upload", "pics"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.stderr.contains("already shared"), "{done:?}");
    let done = client.run(&["upload", "pics/a.jpg", "--as", "x/y.jpg"]);
    assert_eq!(done.code, 0, "{done:?}");
    let mut paths: Vec<_> = peer
        .seen()
        .iter()
        .map(|seen| seen.path().to_owned())
        .collect();
    paths.sort();
    assert_eq!(
        paths,
        [
            "/v1/files/pics/a.jpg",
            "/v1/files/pics/sub/b.jpg",
            "/v1/files/x/y.jpg"
        ]
    );
    let done = client.run(&["upload", "pics", "pics/a.jpg", "--as", "x"]);
    assert_eq!(done.code, 2, "{done:?}");
}

#[test]
fn a_file_that_fails_does_not_stop_the_others() {
    let peer = Peer::start(|seen| match seen.path() {
        "/v1/files/d/a" => Answer::kind(Kind::Conflict, "it is shared with another content"),
        _ => Answer::json(201, &stored(seen)),
    });
    let client = Client::of(&peer);
    client.write("d/a", "a");
    client.write("d/b", "b");
    let done = client.run(&["upload", "d"]);
    assert_eq!(done.code, 9, "{done:?}");
    assert!(done.stderr.contains("d/a: it is shared"), "{done:?}");
    assert!(
        done.stderr.contains("--as") && done.stderr.contains("--replace"),
        "{done:?}"
    );
    assert_eq!(peer.seen().len(), 2);
    let done = client.run(&["upload", "nowhere"]);
    assert_eq!(done.code, 3, "{done:?}");
    assert!(done.stderr.contains("check the path"), "{done:?}");
}

#[test]
fn replace_is_not_hinted_when_it_did_not_help() {
    let taken = "\"docs\" is taken in the shared directory (it is a folder): choose another name";
    let peer = Peer::start(move |seen| match &*seen.method {
        "HEAD" => Answer::of(404, ""),
        _ => Answer::kind(Kind::Conflict, taken),
    });
    let client = Client::of(&peer);
    client.write("a", "a");
    let done = client.run(&["upload", "a", "--as", "docs", "--replace"]);
    assert_eq!(done.code, 9, "{done:?}");
    assert!(done.stderr.contains("--as"), "{done:?}");
    assert!(!done.stderr.contains("--replace"), "{done:?}");
    let done = client.run(&["upload", "a", "--as", "docs", "--replace", "--json"]);
    let error: serde_json::Value = serde_json::from_str(&done.stderr).unwrap();
    assert_eq!(error["type"], "urn:vecino:problem:conflict");
}

#[test]
fn a_folder_ends_with_a_total_and_says_what_is_left_out() {
    let peer = Peer::start(|seen| Answer::json(201, &stored(seen)));
    let client = Client::of(&peer);
    client.write("d/a", "12");
    client.write("d/b", "345");
    client.write("d/bad\u{1b}", "x");
    std::os::unix::fs::symlink("a", client.path("d/link")).unwrap();
    let done = client.run(&["upload", "d"]);
    assert_eq!(done.code, 2, "{done:?}");
    for text in [
        "2 of 3 files shared, 5 B",
        "d/link is left out: it is a symbolic link",
        "its name cannot be shared: it has the forbidden character U+001B",
        "--as",
    ] {
        assert!(done.stderr.contains(text), "{text} in {done:?}");
    }
    assert!(!done.stderr.contains('\u{1b}'), "{done:?}");
}

#[test]
fn replace_names_what_it_replaces() {
    let old = Digest::of(b"old").to_string();
    let tag = format!("\"{old}\"");
    let expected = tag.clone();
    let peer = Peer::start(move |seen| match &*seen.method {
        "HEAD" if seen.path() == "/v1/files/elsewhere" => Answer::of(200, "")
            .with("etag", &tag)
            .with("vecino-source", "http://10.0.0.1:80"),
        "HEAD" if seen.path() == "/v1/files/new" => Answer::of(404, ""),
        "HEAD" => Answer::of(200, "")
            .with("etag", &tag)
            .with("vecino-source", "local"),
        _ => Answer::json(201, &stored(seen)),
    });
    let client = Client::of(&peer);
    for (name, if_match) in [("a", Some(&*expected)), ("new", None), ("elsewhere", None)] {
        client.write(name, "new content");
        let done = client.run(&["upload", name, "--replace"]);
        assert_eq!(done.code, 0, "{done:?}");
        assert_eq!(peer.seen().last().unwrap().header("if-match"), if_match);
    }
}

#[test]
fn many_files_go_over_few_connections() {
    const FILES: usize = 200;
    let peer = Peer::start(|seen| Answer::json(201, &stored(seen)));
    let client = Client::of(&peer);
    for index in 0..FILES {
        client.write(&format!("d/{index}"), index.to_string());
    }
    let done = client.run(&["upload", "d"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.stderr.contains("200 of 200 files shared"), "{done:?}");
    let seen = peer.seen();
    assert_eq!(seen.len(), FILES);
    let connections: BTreeSet<_> = seen.iter().map(|seen| seen.from.unwrap()).collect();
    assert!((2..=8).contains(&connections.len()), "{connections:?}");
}

#[test]
fn failures_are_told_up_to_a_bound_and_the_rest_is_shared() {
    let peer = Peer::start(|seen| match seen.path() {
        "/v1/files/d/good" => Answer::json(201, &stored(seen)),
        _ => Answer::kind(Kind::Conflict, "it is shared with another content"),
    });
    let client = Client::of(&peer);
    for index in 0..50 {
        client.write(&format!("d/{index}"), "x");
    }
    client.write("d/good", "x");
    let done = client.run(&["upload", "d"]);
    assert_eq!(done.code, 9, "{done:?}");
    assert!(done.stderr.contains("1 of 51 files shared"), "{done:?}");
    assert!(done.stderr.contains("and 30 more"), "{done:?}");
    assert_eq!(done.stderr.matches("error: d/").count(), 20, "{done:?}");
    assert_eq!(peer.seen().len(), 51);
}

#[test]
fn a_peer_that_cannot_be_used_ends_it_at_once() {
    let peer = Peer::always(Answer::kind(Kind::NoSpace, "the disk is full"));
    let client = Client::of(&peer);
    for index in 0..100 {
        client.write(&format!("d/{index}"), "x");
    }
    assert_eq!(client.run(&["upload", "d"]).code, 8);
    assert!(peer.seen().len() <= 16);
}

#[test]
fn a_peer_that_stored_something_else_is_noticed() {
    let peer = Peer::start(|seen| {
        let mut stored = stored(seen);
        stored.digest = Digest::of(b"something else");
        Answer::json(201, &stored)
    });
    let client = Client::of(&peer);
    client.write("a", "a");
    assert_eq!(client.run(&["upload", "a"]).code, 7);
}

#[test]
fn the_token_is_sent_and_a_refusal_is_4() {
    let peer = Peer::start(|seen| match seen.header("authorization") {
        Some("Bearer s3cret-s3cret-s3cret") => Answer::json(201, &stored(seen)),
        _ => Answer::kind(Kind::Unauthorized, "a token is needed"),
    });
    let client = Client::of(&peer);
    client.write("a", "a");
    for index in 0..100 {
        client.write(&format!("b/{index}"), "1");
    }
    assert_eq!(client.run(&["upload", "b"]).code, 4);
    let seen = peer.seen().len();
    assert!(seen <= 16, "the other files would fail as well: {seen}");
    let client = client.env("API_TOKEN_FILE", "token");
    client.write("token", "s3cret-s3cret-s3cret\n");
    assert_eq!(client.run(&["upload", "a"]).code, 0);
}

#[test]
fn a_refusal_in_the_middle_of_a_large_body_is_heard() {
    // Above the bound of the server, which answers without reading the rest.
    let peer = Peer::start(|seen| Answer::json(201, &stored(seen)));
    let client = Client::of(&peer);
    let file = std::fs::File::create(client.path("large")).unwrap();
    file.set_len(400 << 20).unwrap();
    let done = client.run(&["upload", "large"]);
    assert_eq!(done.code, 1, "{done:?}");
    assert!(done.stderr.contains("413"), "{done:?}");
}

#[test]
fn one_copy_is_asked_for_unless_another_number_is_and_holders_are_told() {
    let peer = Peer::start(|seen| {
        let wanted = seen.uri.split_once("?replicas=").map_or("0", |(_, n)| n);
        let wanted: u8 = wanted.parse().unwrap();
        let mut stored = stored(seen);
        // This network has two further peers.
        stored
            .holders
            .extend((0..wanted.min(2)).map(|n| format!("http://10.0.1.{n}:80")));
        Answer::json(201, &stored)
    });
    let client = Client::of(&peer);
    client.write("a", "a");
    let done = client.run(&["upload", "a"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(
        done.stderr.contains(", also on http://10.0.1.0:80"),
        "{done:?}"
    );
    let done = client.run(&["upload", "a", "--replicas", "0"]);
    assert!(
        done.code == 0 && !done.stderr.contains("also on"),
        "{done:?}"
    );
    let done = client.run(&["upload", "a", "--replicas=2", "--json"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(!done.stderr.contains("copies placed"), "{done:?}");
    let report: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(report["holders"][2], "http://10.0.1.1:80");
    let done = client.run(&["upload", "a", "--replicas=5"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.stderr.contains("2 of 5 copies placed"), "{done:?}");
    let uris: Vec<_> = peer.seen().into_iter().map(|seen| seen.uri).collect();
    let asked = ["?replicas=1", "", "?replicas=2", "?replicas=5"];
    assert_eq!(uris, asked.map(|query| format!("/v1/files/a{query}")));
    assert_eq!(client.run(&["upload", "a", "--replicas=17"]).code, 2);
}

#[test]
fn hidden_files_of_a_folder_are_left_out_and_not_sent_to_be_refused() {
    let peer = Peer::start(|seen| Answer::json(201, &stored(seen)));
    let client = Client::of(&peer);
    client.write("d/a", "a");
    client.write("d/.env", "secret");
    client.write("d/.git/HEAD", "ref");
    let done = client.run(&["upload", "d"]);
    assert_eq!(done.code, 0, "{done:?}");
    let sent: Vec<_> = peer.seen().iter().map(|seen| seen.uri.clone()).collect();
    assert_eq!(sent, ["/v1/files/d/a?replicas=1"]);
    for left_out in ["d/.env is left out", "d/.git is left out"] {
        assert!(done.stderr.contains(left_out), "{done:?}");
    }
    assert!(done.stderr.contains("1 of 1 file shared"), "{done:?}");
}

#[test]
fn a_name_that_only_others_hold_is_not_replaced() {
    // A peer that has verified nothing of it does not say where it comes from.
    let peer = Peer::start(|seen| match &*seen.method {
        "HEAD" => Answer::of(200, "").with("etag", &format!("\"{}\"", Digest::of(b"theirs"))),
        _ => Answer::json(201, &stored(seen)),
    });
    let client = Client::of(&peer);
    client.write("a", "mine");
    let done = client.run(&["upload", "a", "--replace"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(peer.seen().last().unwrap().header("if-match"), None);
}
