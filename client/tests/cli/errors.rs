//! What goes wrong, and with which code and words it ends.

use std::io::{Read, Write};

use vecino_rest::{
    Digest, Kind, Name, Problem,
    body::{Provider, Variant},
};

use crate::stage::{Answer, Client, Ending, Peer};

fn variant(content: &str) -> Variant {
    Variant {
        name: Name::parse("a").unwrap(),
        digest: Some(Digest::of(content.as_bytes())),
        size: Some(content.len() as u64),
        modified_ms: Some(0),
        provider_count: 3,
        providers: vec![Provider {
            peer: None,
            url: "http://10.0.0.1:80".to_owned(),
            site: None,
            partial: false,
        }],
    }
}

#[test]
fn each_problem_has_its_code_and_says_what_to_do() {
    for (kind, code, hint) in [
        (Kind::NotFound, 3, "search"),
        (Kind::Unauthorized, 4, "API_TOKEN_FILE"),
        (Kind::Forbidden, 4, "permission"),
        (Kind::NoNeighbour, 6, "peers"),
        (Kind::LookupFailed, 6, "try again"),
        (Kind::ProviderFailed, 6, "run again"),
        (Kind::VerificationFailed, 7, "--from"),
        (Kind::NoSpace, 8, "download --direct"),
        (Kind::Storage, 8, "disk"),
        (Kind::Busy, 1, "try again"),
        (Kind::BadRequest, 2, "--help"),
    ] {
        let peer = Peer::always(Answer::kind(kind, "it is so"));
        let client = Client::of(&peer);
        let done = client.run(&["download", "a"]);
        assert_eq!(done.code, code, "{done:?}");
        assert!(done.stderr.contains("it is so"), "{done:?}");
        assert!(done.stderr.contains(hint), "{done:?}");
        assert_eq!(client.files().len(), 0, "nothing is left behind");
    }
}

#[test]
fn an_ambiguous_name_lists_its_variants() {
    let mut problem = Problem::new(Kind::Ambiguous, "a has 2 variants");
    problem.variants = vec![variant("one"), variant("two")];
    let peer = Peer::always(Answer::problem(&problem));
    let done = Client::of(&peer).run(&["download", "a"]);
    assert_eq!(done.code, 5, "{done:?}");
    for variant in &problem.variants {
        let digest = variant.digest.unwrap().to_string();
        assert!(done.stderr.contains(&digest), "{done:?}");
    }
    assert!(done.stderr.contains("--digest"), "{done:?}");
    assert_eq!(done.stdout, "");

    let done = Client::of(&peer).run(&["download", "a", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&done.stderr).unwrap();
    assert_eq!(json["exit_code"], 5);
    assert_eq!(json["variants"].as_array().unwrap().len(), 2);
    assert_eq!(json["type"], "urn:vecino:problem:ambiguous");
}

#[test]
fn neighbours_that_were_tried_are_listed() {
    let mut problem = Problem::new(Kind::NoNeighbour, "no neighbour answers");
    problem.neighbours = vec!["http://10.0.0.7:80".to_owned()];
    let peer = Peer::always(Answer::problem(&problem));
    let done = Client::of(&peer).run(&["locate", "a"]);
    assert_eq!(done.code, 6);
    assert!(done.stderr.contains("http://10.0.0.7:80"), "{done:?}");
    // Nor twice, when the peer's words list them.
    problem.detail = "no neighbour answers; tried http://10.0.0.7:80".to_owned();
    let peer = Peer::always(Answer::problem(&problem));
    let done = Client::of(&peer).run(&["locate", "a"]);
    assert_eq!(done.stderr.matches("tried").count(), 1, "{done:?}");
}

#[test]
fn hints_speak_of_flags_and_not_of_http() {
    let conflict = "\"a\" is shared with another content, digest 12: choose another name, or \
                    replace it with 'If-Match: \"12\"'";
    let ambiguous = "2 variants share this name: choose one with ?digest=";
    for (kind, detail, flag) in [
        (Kind::Ambiguous, ambiguous, "--digest"),
        (Kind::Conflict, conflict, "--replace"),
        (Kind::BadRequest, "If-Match: not a digest", "--help"),
    ] {
        let peer = Peer::always(Answer::kind(kind, detail));
        let client = Client::of(&peer);
        for args in [&["download", "a"][..], &["download", "a", "--json"]] {
            let done = client.run(args);
            assert!(done.stderr.contains(flag), "{done:?}");
            for word in ["?digest", "If-Match"] {
                assert!(!done.stderr.contains(word), "{done:?}");
            }
        }
    }
}

#[test]
fn without_a_peer_it_is_6_with_the_setting_named() {
    // Bound and not listening: nobody else gets the port meanwhile.
    let peer = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let client = Client::at(&peer);
    for args in [
        &["status"][..],
        &["download", "a"],
        &["list"],
        &["download", "a", "--direct"],
    ] {
        let done = client.run(args);
        assert_eq!(done.code, 6, "{done:?}");
        assert!(done.stderr.contains("URL_PEERAS"), "{done:?}");
        assert!(done.stderr.contains(&peer), "{done:?}");
    }
    assert_eq!(client.files().len(), 0);
}

#[test]
fn control_characters_from_outside_are_escaped() {
    let problem = Problem::new(Kind::NotFound, "x\u{1b}]0;owned\u{7}\r\n\u{9b}2J\u{202e}y");
    let peer = Peer::always(Answer::problem(&problem));
    let client = Client::of(&peer);
    for args in [&["download", "a"][..], &["download", "a", "--json"]] {
        let done = client.run(args);
        assert_eq!(done.code, 3);
        let hostile = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!done.stderr.contains(hostile), "{done:?}");
    }
    let done = client.run(&["download", "a"]);
    assert!(
        done.stderr.contains("\\u{1b}]0;owned\\u{7}\\r\\n"),
        "{done:?}"
    );
}

#[test]
fn no_text_names_what_a_client_must_not_know() {
    let mut texts = String::new();
    for kind in Kind::all() {
        let peer = Peer::always(Answer::kind(kind, ""));
        let done = Client::of(&peer).run(&["download", "a"]);
        texts.push_str(&done.stderr);
    }
    let peer = Peer::with_file(Vec::new());
    for verb in [
        "download", "upload", "list", "search", "locate", "peers", "status",
    ] {
        texts.push_str(&Client::of(&peer).run(&[verb, "--help"]).stdout);
    }
    texts.push_str(&Client::of(&peer).run(&["--help"]).stdout);
    let texts = texts.to_lowercase();
    for word in ["locator", "central", "grpc", "redis"] {
        assert!(!texts.contains(word), "{word} in {texts}");
    }
}

#[test]
fn answers_that_are_no_answers_are_refused() {
    let json = |body: Vec<u8>| Answer::of(200, body).with("content-type", "application/json");
    for (answer, code) in [
        (json(b"<html>".to_vec()), 1),
        (Answer::of(401, ""), 4),
        (Answer::of(502, ""), 6),
        (json(vec![b' '; 2 << 20]), 1),
        (json(vec![b'['; 512 << 10]), 1),
        (json(b"{}".to_vec()).ending_after(1, Ending::Cut), 6),
    ] {
        let peer = Peer::always(answer.clone());
        let done = Client::of(&peer).run(&["status"]);
        assert_eq!(done.code, code, "{answer:?} {done:?}");
        assert_eq!(peer.seen().len(), 1);
    }
}

#[test]
fn who_is_no_peer_is_6_and_is_named() {
    for answer in [
        Answer::of(200, "<html>").with("content-type", "text/html"),
        Answer::of(404, "<html>"),
        Answer::of(405, ""),
        Answer::of(302, "").with("location", "http://127.0.0.1:1/"),
        Answer::of(404, "{").with("content-type", "application/problem+json"),
    ] {
        let peer = Peer::always(answer);
        let client = Client::of(&peer);
        client.write("here", "x");
        for args in [
            &["status"][..],
            &["search", "a"],
            &["download", "a"],
            &["upload", "here"],
        ] {
            let done = client.run(args);
            assert_eq!(done.code, 6, "{done:?}");
            let text = format!("{} does not answer like a Vecino peer", peer.authority());
            assert!(done.stderr.contains(&text), "{done:?}");
            assert!(done.stderr.contains("URL_PEERAS"), "{done:?}");
        }
        assert_eq!(client.files(), ["here"]);
    }
}

#[test]
fn a_redirect_of_a_download_is_not_followed() {
    let elsewhere = Peer::with_file(b"elsewhere".to_vec());
    let location = format!("http://{}/v1/files/a", elsewhere.authority());
    let peer = Peer::always(Answer::of(307, "").with("location", &location));
    let done = Client::of(&peer).run(&["download", "a"]);
    assert_eq!(done.code, 6, "{done:?}");
    assert_eq!(elsewhere.seen().len(), 0);
}

#[test]
fn a_wrong_usage_is_json_where_json_is_asked_for() {
    let client = Client::at("127.0.0.1:1");
    for args in [
        &["--json", "nonsense"][..],
        &["download", "--json"],
        &["download", "a", "b", "--json"],
        &["download", "../x", "--json"],
        &["search", "--json"],
        &["list", "--limit", "0", "--json"],
    ] {
        let done = client.run(args);
        assert_eq!((done.code, &*done.stdout), (2, ""), "{done:?}");
        let error: serde_json::Value = serde_json::from_str(&done.stderr).unwrap();
        assert_eq!(error["exit_code"], 2, "{done:?}");
        assert_eq!(error["type"], "urn:vecino:client:usage");
        let detail = error["detail"].as_str().unwrap();
        assert!(!detail.contains("Usage:"), "{done:?}");
        assert!(!detail.starts_with("error"), "{done:?}");
    }
    let done = client.run_with(&["--json"], "nonsense\n0\n");
    let error: serde_json::Value = serde_json::from_str(&done.stderr).unwrap();
    assert_eq!(error["exit_code"], 2, "{done:?}");
    // After `--` it is a name.
    let done = client.run(&["download", "a", "b", "--", "--json"]);
    assert!(done.stderr.starts_with("error:"), "{done:?}");
}

#[test]
fn help_takes_the_flags_of_every_verb() {
    let client = Client::at("127.0.0.1:1");
    for args in [
        &["help", "--help"][..],
        &["help", "--json"],
        &["--json", "help", "search"],
    ] {
        let done = client.run(args);
        assert_eq!((done.code, &*done.stderr), (0, ""), "{done:?}");
        assert!(done.stdout.contains("Usage:"), "{done:?}");
    }
}

#[test]
fn a_hint_is_about_what_went_wrong() {
    let peer = Peer::always(Answer::kind(
        Kind::NoNeighbour,
        "this peer has no neighbour to ask",
    ));
    let client = Client::of(&peer);
    let done = client.run(&["download", "a"]);
    assert!(done.stderr.contains("URL_PEERSU"), "{done:?}");
    assert!(!done.stderr.contains("try again"), "{done:?}");
    let done = client.run(&["search"]);
    assert_eq!(done.code, 2, "{done:?}");
    assert!(done.stderr.contains("--type"), "{done:?}");
    let done = client.run(&["download", "/etc/passwd"]);
    assert_eq!(done.code, 2, "{done:?}");
    assert!(done.stderr.contains("it begins with '/'"), "{done:?}");
    let done = Client::at("127.0.0.1:abc").run(&["status"]);
    assert_eq!(done.code, 2, "{done:?}");
    assert!(done.stderr.contains("a port that is no number"), "{done:?}");
}

#[test]
fn a_grpc_port_is_no_peer() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            // Settings, and the end of a connection whose other side does not speak HTTP/2.
            let frames = b"\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\x01";
            let _ = stream.write_all(frames);
            let _ = stream.read(&mut [0; 1024]);
        }
    });
    let done = Client::at(&addr).run(&["status"]);
    assert_eq!(done.code, 6, "{done:?}");
    assert!(
        done.stderr.contains("does not answer like a Vecino peer"),
        "{done:?}"
    );
}

#[test]
fn a_long_word_is_repeated_in_part() {
    let client = Client::at("127.0.0.1:1");
    let long = "x".repeat(5000);
    for args in [
        &["download", &long][..],
        &["download", &long, "--json"],
        &["upload", ".", "--as", &long],
        &[&long],
    ] {
        let done = client.run(args);
        assert_eq!(done.code, 2, "{done:?}");
        assert!(done.stderr.len() < 1000, "{done:?}");
        assert!(done.stderr.contains("xxxx…"), "{done:?}");
    }
}
