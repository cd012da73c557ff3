//! doctor: a line a check, what to do next, and the code it ends with.

use std::time::{Duration, SystemTime};

use vecino_rest::{
    Kind, PeerId,
    body::{FileCounts, Session, Status, Transfers},
    doctor::{Check, Diagnosis},
    route,
};

use crate::stage::{Answer, Client, Done, Peer, Seen};

fn status(version: &str) -> Status {
    Status {
        peer: PeerId::from_bytes([7; 16]),
        url: None,
        site: None,
        version: version.to_owned(),
        uptime_seconds: 60,
        online: true,
        offline_reason: None,
        reach: None,
        session: Session::default(),
        strategies: vec!["central".to_owned()],
        neighbours: Vec::new(),
        files: FileCounts::default(),
        transfers: Transfers::default(),
    }
}

/// An own peer of this version that finds `checks`.
fn peer_finding(version: &str, checks: Vec<Check>) -> Peer {
    let (status, diagnosis) = (status(version), Diagnosis { checks });
    Peer::start(move |seen: &Seen| match seen.path() {
        route::STATUS => Answer::json(200, &status),
        route::DOCTOR => Answer::json(200, &diagnosis),
        _ => Answer::kind(Kind::NotFound, "no such route"),
    })
}

/// The version of the client under test.
const VERSION: &str = env!("CARGO_PKG_VERSION");

#[track_caller]
fn line<'a>(done: &'a Done, what: &str) -> &'a str {
    let mut lines = done.stdout.lines();
    let found = lines.find(|line| line.split_whitespace().nth(1) == Some(what));
    found.unwrap_or_else(|| panic!("{what} in {done:?}"))
}

#[test]
fn warnings_end_with_0_and_failures_with_1() {
    let ok = Check::ok("disk", "room for 900 MiB");
    let warn = Check::warn("speed", "not measured", "share a file");
    let fail = Check::fail("neighbour", "does not answer\u{1b}[2J", "start it");
    for (checks, code) in [
        (vec![ok.clone()], 0),
        (vec![ok.clone(), warn.clone()], 0),
        (vec![ok, warn, fail], 1),
    ] {
        let peer = peer_finding(VERSION, checks.clone());
        let done = Client::of(&peer).run(&["doctor"]);
        assert_eq!(done.code, code, "{done:?}");
        let first = ["here", "peer", "clock"].map(str::to_owned);
        let expected = first
            .into_iter()
            .chain(checks.into_iter().map(|check| check.check));
        let shown = done.stdout.lines();
        let shown = shown.filter_map(|line| line.split_whitespace().nth(1).map(str::to_owned));
        assert!(shown.eq(expected), "{done:?}");
        if code == 1 {
            let said = "FAIL  neighbour  does not answer\\u{1b}[2J; start it";
            assert_eq!(line(&done, "neighbour"), said);
            assert!(line(&done, "speed").starts_with("warn  "), "{done:?}");
            assert!(done.stderr.contains("1 of 6 checks failed"), "{done:?}");
        }
    }
}

#[test]
fn json_is_an_object_a_line() {
    let peer = peer_finding(VERSION, vec![Check::fail("disk", "full", "free some")]);
    let done = Client::of(&peer).run(&["doctor", "--json"]);
    assert_eq!(done.code, 1, "{done:?}");
    let last = done.stdout.lines().last().unwrap();
    let check: serde_json::Value = serde_json::from_str(last).unwrap();
    let expected = serde_json::json!(
        { "check": "disk", "state": "fail", "detail": "full", "next": "free some" }
    );
    assert_eq!(check, expected);
    let error: serde_json::Value = serde_json::from_str(&done.stderr).unwrap();
    assert_eq!(error["exit_code"], 1);
}

#[test]
fn a_peer_that_is_down_is_told_with_what_to_check() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = listener.local_addr().unwrap().to_string();
    drop(listener);
    let done = Client::at(&closed).run(&["doctor"]);
    assert_eq!(done.code, 6, "{done:?}");
    let said = line(&done, "peer");
    assert!(said.starts_with("FAIL"), "{said}");
    assert!(
        said.contains(&closed) && said.contains("URL_PEERAS"),
        "{said}"
    );
    assert!(line(&done, "here").starts_with("ok"), "{done:?}");
    // The loop goes on after it.
    let done = Client::at(&closed).run_with(&[], "doctor\nhelp doctor\n0\n");
    assert_eq!(done.code, 0, "{done:?}");
    assert!(line(&done, "peer").starts_with("FAIL"), "{done:?}");
}

#[test]
fn a_wrong_token_is_told_with_what_to_do() {
    let peer = Peer::always(Answer::kind(Kind::Unauthorized, "the token is wrong"));
    let done = Client::of(&peer).run(&["doctor"]);
    assert_eq!(done.code, 4, "{done:?}");
    let said = line(&done, "peer");
    assert!(said.contains("the token is wrong; "), "{said}");
    assert!(said.contains("API_TOKEN_FILE"), "{said}");
}

#[test]
fn another_version_and_an_older_peer_are_warned_of() {
    let done = Client::of(&peer_finding("0.0.1", Vec::new())).run(&["doctor"]);
    assert_eq!(done.code, 0, "{done:?}");
    let said = line(&done, "peer");
    assert!(
        said.starts_with("warn") && said.contains("version 0.0.1"),
        "{said}"
    );
    let older = status(VERSION);
    let older = Peer::start(move |seen: &Seen| match seen.path() {
        route::STATUS => Answer::json(200, &older),
        _ => Answer::kind(Kind::NotFound, "there is no route"),
    });
    let done = Client::of(&older).run(&["doctor"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(line(&done, "checks").starts_with("warn"), "{done:?}");
}

#[test]
fn a_clock_that_is_a_day_off_is_told() {
    let tomorrow = SystemTime::now() + Duration::from_secs(86_400);
    let tomorrow = httpdate::fmt_http_date(tomorrow);
    let status = status(VERSION);
    let peer = Peer::start(move |seen: &Seen| match seen.path() {
        route::STATUS => Answer::json(200, &status).with("date", &tomorrow),
        _ => Answer::json(200, &Diagnosis { checks: Vec::new() }),
    });
    let done = Client::of(&peer).run(&["doctor"]);
    assert_eq!(done.code, 0, "{done:?}");
    let said = line(&done, "clock");
    assert!(
        said.starts_with("warn  clock      your peer's is 86"),
        "{said}"
    );
    assert!(
        said.contains("ahead of this machine's; set the one"),
        "{said}"
    );
}
