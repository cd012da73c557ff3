//! What the own peer tells while it fetches: in the report, never in the way.

use vecino_rest::{
    Digest, Name,
    body::DownloadState,
    event::{self, Transfer, TransferProvider},
    route,
};

use crate::stage::{Answer, Client, Ending, Peer, bytes};

/// Slow enough for events to come meanwhile.
const SLOWLY: [&str; 5] = ["download", "a", "--json", "--limit", "48K"];

fn content() -> Vec<u8> {
    bytes(64 << 10)
}

fn transfer(state: DownloadState) -> String {
    let transfer = Transfer {
        name: Name::parse("a").unwrap(),
        digest: Digest::of(&content()),
        size: 64 << 10,
        state,
        verified_bytes: 0,
        wasted_bytes: 77,
        bytes_a_second: 0,
        providers_known: 2,
        providers: vec![TransferProvider {
            url: "http://10.0.0.7:80".to_owned(),
            pieces: 5,
            active: false,
            fault: None,
        }],
        error: None,
    };
    let json = serde_json::to_string(&transfer).unwrap();
    format!("id: 1\nevent: {}\ndata: {json}\n\n", event::TRANSFER)
}

fn peer(events: Answer) -> Peer {
    let content = content();
    Peer::start(move |seen| match seen.path() {
        route::EVENTS => events.clone(),
        _ => Answer::content(&content, seen).with(route::HEADER_SOURCE, "http://10.0.0.7:80"),
    })
}

fn stream(text: &str) -> Answer {
    Answer::of(200, text).with("content-type", "text/event-stream")
}

#[test]
fn the_report_says_who_sent_and_what_was_in_vain() {
    let text = transfer(DownloadState::Running) + &transfer(DownloadState::Done);
    let peer = peer(stream(&text));
    let client = Client::of(&peer);
    let done = client.run(&SLOWLY);
    assert_eq!(done.code, 0, "{done:?}");
    let report: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(report["providers"][0]["url"], "http://10.0.0.7:80");
    assert_eq!(report["providers"][0]["pieces"], 5);
    assert_eq!(report["wasted_bytes"], 77);
    let seen = peer.seen();
    let asked = seen.iter().find(|seen| seen.path() == route::EVENTS);
    let digest = Digest::of(&content()).to_string();
    assert_eq!(asked.unwrap().query("digest"), Some(digest));
}

#[test]
fn events_that_fail_do_not_matter() {
    let running = transfer(DownloadState::Running);
    let endless = "x".repeat(1 << 20);
    for events in [
        Answer::of(404, ""),
        Answer::of(200, "<html>"),
        stream("event: transfer\ndata: {\n\n"),
        stream(&endless),
        stream(&running).ending_after(running.len(), Ending::Hang),
        stream(&running).ending_after(9, Ending::Cut),
    ] {
        let client_of = peer(events.clone());
        let client = Client::of(&client_of);
        let done = client.run(&SLOWLY);
        assert_eq!((done.code, &*done.stderr), (0, ""), "{events:?}");
        assert_eq!(client.read("a"), content());
    }
}

#[test]
fn nobody_looks_nobody_asks() {
    let peer = peer(stream(""));
    let client = Client::of(&peer);
    assert_eq!(client.run(&["download", "a", "--limit", "48K"]).code, 0);
    assert_eq!(client.run(&["download", "a", "-o", "b", "-q"]).code, 0);
    assert!(peer.seen().iter().all(|seen| seen.path() != route::EVENTS));
}
