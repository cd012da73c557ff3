//! overlay, connect, disconnect, fetch, repair, list --network: for people and as JSON.

use vecino_rest::{
    Digest, Kind, Name, PeerId,
    body::{LinkKind, LinkState, Page, Peer as Link, Provider, Variant},
    overlay::{
        ChordView, DISCOVER_MEDIA_TYPE, DiscoverEvent, Finger, FloodView, OverlayView, Overlays,
        RingNode, ZoneMember, ZoneView,
    },
};

use crate::stage::{Answer, Client, Done, Ending, Peer, Seen};

fn id(number: u8) -> PeerId {
    PeerId::from_bytes([number; 16])
}

fn link() -> Link {
    Link {
        url: "http://10.0.0.2:90".to_owned(),
        kind: LinkKind::Flood,
        peer: Some(id(2)),
        state: LinkState::Down,
        latency_ms: None,
        error: Some("it went\u{1b}[2J away".to_owned()),
    }
}

fn node(number: u8) -> RingNode {
    RingNode {
        id: format!("{number:040x}"),
        peer: id(number),
        url: format!("http://10.0.0.{number}:80"),
    }
}

fn overlays() -> Overlays {
    let chord = ChordView {
        me: node(1),
        joined: true,
        predecessor: Some(node(9)),
        successors: vec![node(2), node(3)],
        fingers: vec![
            Finger {
                start: format!("{:040x}", 2),
                end: format!("{:040x}", 4),
                node: Some(node(2)),
            },
            Finger {
                start: format!("{:040x}", 4),
                end: format!("{:040x}", 1),
                node: None,
            },
        ],
        records: 12,
    };
    let zone = ZoneView {
        slot: Some(7),
        zone: None,
        slots: 64,
        zones: 8,
        members: vec![ZoneMember {
            slot: 7,
            peer: id(1),
            url: "http://10.0.0.1:80".to_owned(),
        }],
        proper_records: 3,
        shared_records: 4,
    };
    let flood = FloodView {
        overlay: "http://10.0.0.1:90".to_owned(),
        links: vec![link()],
        max_links: 16,
        hops: 5,
        budget: 1024,
        seen: 42,
        discovered: 17,
    };
    Overlays {
        overlays: vec![
            OverlayView::Chord(chord),
            OverlayView::Zone(zone),
            OverlayView::Flood(flood),
        ],
    }
}

fn events() -> Vec<DiscoverEvent> {
    let peer = |number: u8, files| DiscoverEvent::Peer {
        peer: id(number),
        url: format!("http://10.0.0.{number}:80"),
        site: Some("rack 1".to_owned()),
        files,
        elapsed_ms: 12,
    };
    let end = DiscoverEvent::End {
        peers: 2,
        files: 35,
        visited: 3,
        complete: true,
        elapsed_ms: 20,
    };
    vec![peer(1, 32), peer(2, 1), peer(1, 34), end]
}

fn lines(events: &[DiscoverEvent]) -> Answer {
    let text: String = events
        .iter()
        .map(|event| serde_json::to_string(event).unwrap() + "\n")
        .collect();
    Answer::of(200, text).with("content-type", DISCOVER_MEDIA_TYPE)
}

fn found() -> Page<Variant> {
    Page {
        items: vec![Variant {
            name: Name::parse("dir/song.mp3").unwrap(),
            digest: Some(Digest::of(b"song")),
            size: Some(1536),
            modified_ms: Some(0),
            provider_count: 2,
            providers: vec![Provider {
                peer: Some(id(1)),
                url: "http://10.0.0.1:80".to_owned(),
                site: None,
                partial: false,
            }],
        }],
        next_cursor: None,
    }
}

fn own_peer(seen: &Seen) -> Answer {
    match (seen.method.as_str(), seen.path()) {
        ("GET", "/v1/overlay") => Answer::json(200, &overlays()),
        ("POST", "/v1/overlay/repair") => Answer::of(204, ""),
        ("POST", "/v1/peers") if String::from_utf8_lossy(&seen.body).contains("10.0.0.2") => {
            Answer::json(201, &link())
        }
        ("POST", "/v1/peers") => Answer::kind(Kind::LinkFailed, "it cannot be reached"),
        ("DELETE", "/v1/peers/http%3A%2F%2F10%2E0%2E0%2E2%3A90") => Answer::of(204, ""),
        ("DELETE", _) => Answer::kind(Kind::NotFound, "there is no such link"),
        ("POST", "/v1/discover") => lines(&events()),
        ("GET", "/v1/discover") => Answer::json(200, &found()),
        _ => Answer::kind(Kind::NotSupported, "not here"),
    }
}

fn json_lines(done: &Done) -> Vec<serde_json::Value> {
    let lines = done.stdout.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn every_overlay_has_a_table_that_a_person_can_read() {
    let peer = Peer::start(own_peer);
    let client = Client::of(&peer);
    let done = client.run(&["overlay"]);
    assert_eq!(done.code, 0, "{done:?}");
    for line in [
        "strategy    chord",
        "records     12",
        "predecessor  0000000000000000000000000000000000000009  http://10.0.0.9:80",
        "successor 2  0000000000000000000000000000000000000003  http://10.0.0.3:80",
        "slot        7 of 64",
        "zone        none yet of 8",
        "records     3 proper, 4 shared",
        "overlay     http://10.0.0.1:90",
        "links       1 of at most 16",
    ] {
        assert!(
            done.stdout.lines().any(|printed| printed == line),
            "{line:?} is not in {}",
            done.stdout
        );
    }
    assert!(done.stdout.contains("not known"));
    assert!(!done.stdout.contains('\u{1b}'));
    let json = json_lines(&client.run(&["overlay", "--json"]));
    let strategies: Vec<_> = json.iter().map(|view| &view["strategy"]).collect();
    assert_eq!(strategies, ["chord", "zone", "flood"]);
    assert_eq!(client.run(&["repair"]).code, 0);
    assert_eq!(json_lines(&client.run(&["repair", "--json"])).len(), 1);
    let peer = Peer::always(Answer::json(200, &Overlays { overlays: vec![] }));
    let done = Client::of(&peer).run(&["overlay"]);
    assert_eq!((done.code, &*done.stdout), (0, ""));
    assert!(done.stderr.contains("LOCATE_BY"), "{done:?}");
}

#[test]
fn links_are_made_and_ended() {
    let peer = Peer::start(own_peer);
    let client = Client::of(&peer);
    let done = client.run(&["connect", "10.0.0.2:90"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.stdout.contains("flood"), "{done:?}");
    let done = client.run(&["connect", "10.0.0.3:90", "--json"]);
    assert_eq!((done.code, &*done.stdout), (6, ""), "{done:?}");
    let done = client.run(&["disconnect", "http://10.0.0.2:90"]);
    assert_eq!(done.code, 0, "{done:?}");
    let done = client.run(&["disconnect", &id(9).to_string()]);
    assert_eq!(done.code, 3, "{done:?}");
    assert!(done.stderr.contains("`peers` lists the links"), "{done:?}");
    assert!(!done.stderr.contains("search"), "{done:?}");
}

#[test]
fn fetch_shows_who_answers_and_what_came_of_it() {
    let peer = Peer::start(own_peer);
    let client = Client::of(&peer);
    let done = client.run(&["fetch", "--ttl", "2", "--wait", "3"]);
    assert_eq!(done.code, 0, "{done:?}");
    let body = String::from_utf8(peer.seen()[0].body.clone()).unwrap();
    assert_eq!(body, r#"{"ttl":2,"wait_ms":3000}"#);
    let rows: Vec<_> = done.stdout.lines().skip(1).collect();
    assert_eq!(rows.len(), 2, "{done:?}");
    assert!(rows[0].trim_start().starts_with("34 "), "{done:?}");
    assert!(done.stderr.contains("35 files of 2 peers, 3 asked"));
    let json = json_lines(&client.run(&["fetch", "--json"]));
    assert_eq!(json.len(), 4);
    assert_eq!(json[3]["event"], "end");

    let done = client.run(&["list", "--network", "--prefix", "dir/"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.stdout.contains("dir/song.mp3"), "{done:?}");
    let json = json_lines(&client.run(&["list", "--network", "--json"]));
    assert_eq!(json[0]["providers"][0]["url"], "http://10.0.0.1:80");
}

#[test]
fn a_peer_of_no_overlay_brings_none_in_order() {
    let none = Overlays {
        overlays: Vec::new(),
    };
    let peer = Peer::start(move |seen| match &*seen.method {
        "POST" => Answer::of(204, ""),
        _ => Answer::json(200, &none),
    });
    let client = Client::of(&peer);
    let done = client.run(&["repair"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.stderr.contains("part of no overlay"), "{done:?}");
    assert!(!done.stderr.contains("in order"), "{done:?}");
    let done = client.run(&["repair", "--json"]);
    assert_eq!(json_lines(&done)[0]["repaired"], false);
}

#[test]
fn a_discovery_that_breaks_off_is_an_error() {
    for (answer, code) in [
        (lines(&events()[..2]), 6),
        (lines(&events()).ending_after(150, Ending::Cut), 6),
        (Answer::of(200, "nonsense\n"), 1),
        (Answer::of(200, vec![b'x'; 100_000]), 1),
        (Answer::kind(Kind::NotSupported, "no flood here"), 1),
    ] {
        let peer = Peer::always(answer);
        let done = Client::of(&peer).run(&["fetch"]);
        assert_eq!(done.code, code, "{done:?}");
    }
}

#[test]
fn the_loop_knows_these_words_too() {
    let peer = Peer::start(own_peer);
    let client = Client::of(&peer);
    let input = "overlay\nfetch --ttl 1\nconnect 10.0.0.2:90\nlist --network\nrepair\n0\n";
    let done = client.run_with(&[], input);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.stdout.contains("dir/song.mp3"), "{done:?}");
    assert_eq!(peer.seen().len(), 6);
}
