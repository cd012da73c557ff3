//! `GET /v1/events`: what happens is told in order, resumed where it broke off, and costs bounded
//! memory whoever listens.

use std::{fs, net::SocketAddr, time::Instant};

use serde::de::DeserializeOwned;
use vecino_rest::{
    Kind,
    body::{DownloadState, LinkState, Origin, Peer},
    event::{self, FileChange, Presence, Transfer},
    route,
};

use crate::support::{
    content::{Content, PIECE},
    eventually,
    http::{Answer, Request},
    peer::path_of,
    provider::{Provider, is_for_bytes},
    stage::Stage,
};

/// An event as it came.
#[derive(Debug, Clone)]
struct Event {
    id: u64,
    kind: String,
    data: String,
}

impl Event {
    /// Its body, when it is of this kind.
    fn of<T: DeserializeOwned>(&self, kind: &str) -> Option<T> {
        (self.kind == kind).then(|| serde_json::from_str(&self.data).unwrap())
    }
}

/// One who listens to a peer.
struct Listener(Answer);

impl Listener {
    async fn at(addr: SocketAddr) -> Self {
        Self::with(addr, &Request::get(route::EVENTS)).await
    }

    async fn with(addr: SocketAddr, request: &Request) -> Self {
        let mut answer = request.open(addr).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), Some("text/event-stream"));
        // It listens when the first bytes are here.
        while answer.so_far().is_empty() {
            assert!(answer.read_more().await);
        }
        assert!(answer.so_far().starts_with(b"retry: "));
        Self(answer)
    }

    fn so_far(&self) -> Vec<Event> {
        let text = String::from_utf8(self.0.so_far()).unwrap();
        // The last one may be half here.
        let whole = text.rfind("\n\n").map_or("", |end| &text[..end]);
        whole.split("\n\n").filter_map(parse).collect()
    }

    /// All events so far, once they are as `check` says.
    async fn until(&mut self, check: impl Fn(&[Event]) -> bool) -> Vec<Event> {
        loop {
            let events = self.so_far();
            if check(&events) {
                return events;
            }
            assert!(self.0.read_more().await, "ended: {events:?}");
        }
    }
}

fn parse(frame: &str) -> Option<Event> {
    let field = |name| {
        let mut lines = frame.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    };
    Some(Event {
        id: field("id")?.parse().unwrap(),
        kind: field("event")?.to_owned(),
        data: field("data")?.to_owned(),
    })
}

/// Where the file `name` is told of as there.
fn added(events: &[Event], name: &str, origin: Origin) -> Option<usize> {
    events.iter().position(|event| {
        event.of(event::FILE).is_some_and(|file: FileChange| {
            file.name.as_str() == name
                && file.change == Presence::Added
                && file.origin == Some(origin)
        })
    })
}

/// Where the transfer of `content` is told of in this state.
fn transfer(events: &[Event], content: &Content, state: DownloadState) -> Option<usize> {
    events.iter().position(|event| {
        event.of(event::TRANSFER).is_some_and(|transfer: Transfer| {
            transfer.digest == content.digest && transfer.state == state
        })
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_and_a_download_are_told_in_order() {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let own = stage.peer("own").neighbour(neighbour.addr).start().await;
    let (up, down) = (Content::new("up", 5000), Content::new("down", 3 * PIECE));
    let provider = Provider::honest(&down).await;
    stage.announce_provider("down.bin", &provider).await;
    let mut listener = Listener::at(own.addr).await;
    let about = format!("{}?digest={}", route::EVENTS, down.digest);
    let mut narrow = Listener::with(own.addr, &Request::get(about)).await;
    own.shares("up.txt", &up).await;
    own.downloads("down.bin", &down).await;
    let is_over = |events: &[Event]| {
        transfer(events, &down, DownloadState::Done).is_some()
            && added(events, "down.bin", Origin::Fetched).is_some()
    };
    let events = listener.until(is_over).await;
    let uploaded = added(&events, "up.txt", Origin::Shared).unwrap();
    let began = transfer(&events, &down, DownloadState::Running).unwrap();
    let done = transfer(&events, &down, DownloadState::Done).unwrap();
    assert!(uploaded < began && began < done, "{events:?}");
    assert!(began < added(&events, "down.bin", Origin::Fetched).unwrap());
    let end: Transfer = events[done].of(event::TRANSFER).unwrap();
    assert_eq!((end.size, end.verified_bytes), (down.len(), down.len()));
    assert!(events.windows(2).all(|two| two[0].id + 1 == two[1].id));
    let peers = events.iter().filter_map(|e| e.of::<Peer>(event::NEIGHBOUR));
    let states: Vec<_> = peers.map(|peer| (peer.url, peer.state)).collect();
    assert_eq!(states, [(neighbour.url(), LinkState::Up)]);

    let events = narrow.until(is_over).await;
    assert!(added(&events, "up.txt", Origin::Shared).is_none());
    assert!(events.iter().all(|event| event.kind != event::NEIGHBOUR));

    // The end of a file and of a neighbour, too.
    let delete = Request::new("DELETE", path_of("up.txt"));
    assert_eq!(own.send(&delete).await.status, 204);
    neighbour.stop().await;
    assert_eq!(own.download("else").await.status, 503);
    let events = listener
        .until(|events| {
            let down = |peer: Peer| peer.state == LinkState::Down;
            events
                .iter()
                .any(|event| event.of(event::NEIGHBOUR).is_some_and(down))
        })
        .await;
    let removed = |file: FileChange| {
        file.change == Presence::Removed
            && file.digest == up.digest
            && file.origin.is_none()
            && file.size == up.len()
    };
    assert!(
        events
            .iter()
            .any(|e| e.of(event::FILE).is_some_and(removed))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_misses_nothing_and_is_told_when_it_did() {
    let stage = Stage::start().await;
    let own = stage.peer("own").start().await;
    let mut listener = Listener::at(own.addr).await;
    own.shares("a", &Content::new("a", 10)).await;
    let last = listener.until(|events| !events.is_empty()).await[0].id;
    drop(listener);
    own.shares("b", &Content::new("b", 10)).await;
    own.shares("c", &Content::new("c", 10)).await;
    let header = Request::get(route::EVENTS).with("Last-Event-ID", last.to_string());
    let query = Request::get(format!("{}?last_event_id={last}", route::EVENTS));
    for request in [header, query] {
        let mut again = Listener::with(own.addr, &request).await;
        let events = again.until(|events| events.len() >= 2).await;
        assert_eq!(events[0].id, last + 1);
        assert_eq!(added(&events, "b", Origin::Shared), Some(0));
        assert_eq!(added(&events, "c", Origin::Shared), Some(1));
    }

    // More than are remembered.
    for number in 0..1100 {
        own.write(&format!("many/{number}"), b"x");
    }
    eventually("hashed", async || own.status().await.files.shared == 1103).await;
    let request = Request::get(route::EVENTS).with("Last-Event-ID", last.to_string());
    let mut late = Listener::with(own.addr, &request).await;
    let events = late.until(|events| events.len() >= 1025).await;
    assert_eq!(events[0].kind, event::RESET);
    assert!(events[0].id > last + 2);
    assert!(events.windows(2).all(|two| two[0].id + 1 == two[1].id));
    assert!(events[1..].iter().all(|event| event.kind == event::FILE));

    // An id of another life, and none at all.
    let request = Request::get(route::EVENTS).with("Last-Event-ID", "7");
    let mut lost = Listener::with(own.addr, &request).await;
    let events = lost.until(|events| !events.is_empty()).await;
    assert_eq!(events[0].kind, event::RESET);
    for request in [
        Request::get(route::EVENTS).with("Last-Event-ID", "x"),
        Request::get(format!("{}?last_event_id=-1", route::EVENTS)),
        Request::get(format!("{}?digest=x", route::EVENTS)),
    ] {
        assert_eq!(own.send(&request).await.kind(), Kind::BadRequest);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_never_reads_costs_bounded_memory() {
    const LISTENERS: u64 = 32;
    const FILES: usize = 16_000;
    let stage = Stage::start().await;
    let plan = stage.peer("own");
    let deep: Vec<_> = ["a", "b", "c"]
        .iter()
        .map(|part| part.repeat(240))
        .collect();
    let dir = plan.home().join("shared").join(deep.join("/"));
    let own = plan.spawn().await;
    let mut deaf = Vec::new();
    for _ in 0..LISTENERS {
        deaf.push(Listener::at(own.addr).await);
    }
    let before = own.resident_bytes();
    fs::create_dir_all(&dir).unwrap();
    for number in 0..FILES {
        fs::write(dir.join(number.to_string()), b"x").unwrap();
    }
    eventually("hashed", async || {
        own.status().await.files.shared == FILES as u64
    })
    .await;
    let told = FILES as u64 * 900 * LISTENERS;
    let after = own.resident_bytes();
    assert!(
        after.saturating_sub(before) < told / 2,
        "{before} to {after} bytes for {told} bytes of events"
    );
    // It reads at last, and hears that it was too slow.
    let mut late = deaf.pop().unwrap();
    own.write("last", b"x");
    let is_told = |events: &[Event]| added(events, "last", Origin::Shared).is_some();
    let events = late.until(is_told).await;
    assert!(events.len() < FILES);
    assert!(events.iter().any(|event| event.kind == event::RESET));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_65th_listener_is_told_to_come_back() {
    let stage = Stage::start().await;
    let own = stage.peer("own").start().await;
    let mut listeners = Vec::new();
    for _ in 0..64 {
        listeners.push(Listener::at(own.addr).await);
    }
    let refused = own.get(route::EVENTS).await;
    assert_eq!((refused.status, refused.kind()), (503, Kind::Busy));
    assert!(refused.header("retry-after").is_some());
    listeners.pop();
    let request = Request::get(route::EVENTS);
    let mut number = 0;
    eventually("a place", async || {
        // That it left is noticed when something is told.
        number += 1;
        own.shares(&number.to_string(), &Content::new("a", 1)).await;
        request.open(own.addr).await.status == 200
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn open_streams_end_when_the_peer_stops() {
    let stage = Stage::start().await;
    let own = stage.peer("own").start().await;
    let listener = Listener::at(own.addr).await;
    let began = Instant::now();
    let (response, ()) = tokio::join!(listener.0.whole(), own.stop());
    assert!(response.whole, "it was cut off");
    assert!(began.elapsed().as_secs() < 4, "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_for_clients_that_may_read() {
    let stage = Stage::start().await;
    let token = stage.home().join("token");
    fs::write(&token, "sesame-sesame-sesame").unwrap();
    let plan = stage.peer("own").set("CLIENT_ACCESS", "token");
    let own = plan.set("API_TOKEN_FILE", token.display()).start().await;
    assert_eq!(own.get(route::EVENTS).await.kind(), Kind::Unauthorized);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_sends_wrong_bytes_is_named_in_events_and_metrics() {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let own = stage.peer("own").neighbour(neighbour.addr).start().await;
    let content = Content::new("spoilt", 3 * PIECE);
    let liar = Provider::bent(&content, |mut reply, seen| {
        if is_for_bytes(seen) {
            reply.body[0] ^= 1;
        }
        reply
    })
    .await;
    stage.announce_provider("spoilt.bin", &liar).await;
    let mut listener = Listener::at(own.addr).await;
    assert_eq!(
        own.download("spoilt.bin").await.kind(),
        Kind::VerificationFailed
    );
    let failed = |events: &[Event]| transfer(events, &content, DownloadState::Failed);
    let events = listener.until(|events| failed(events).is_some()).await;
    let last: Transfer = events[failed(&events).unwrap()]
        .of(event::TRANSFER)
        .unwrap();
    let url = liar.fixture.url();
    let told = last.providers.iter().find(|provider| provider.url == url);
    let fault = told.and_then(|provider| provider.fault.clone()).unwrap();
    assert!(fault.contains("not what it should be"), "{fault}");
    assert!(last.wasted_bytes >= PIECE as u64, "{last:?}");
    let metrics = own.get(route::METRICS).await.text();
    let counted = format!("vecino_verification_failures_total{{provider=\"{url}\"}} ");
    assert!(metrics.contains(&counted), "{metrics}");
}
