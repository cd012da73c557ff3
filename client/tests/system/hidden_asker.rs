//! The locator never learns who asked: what it receives for a lookup is the same bytes whichever
//! peer behind a neighbour asked, and whatever way.

use prost::Message;
use vecino_grpc::v1::{LocateRequest, LocateStreamRequest, PlaceRequest, locate_request::By};
use vecino_rest::{body::Stored, route};

mod overlays;

use crate::{
    cluster::{Locator, Peer, eventually},
    foreign::{self, refusing::Refusing},
    frames::{self, Frame},
    http::Connection,
    proxy::Proxy,
};

const NAME: &str = "wanted by both.bin";
/// Where the second asker says that it is.
const PUBLIC: &str = "127.0.0.9:4321";
/// Headers of any gRPC call.
const USUAL: [&str; 3] = ["te", "content-type", "user-agent"];

/// How a peer is made to ask.
#[derive(Debug, Clone, Copy)]
enum Way {
    Locate,
    Download,
    Connect,
}

impl Way {
    const ALL: [Self; 3] = [Self::Locate, Self::Download, Self::Connect];

    fn ask(self, asker: &Peer, name: &str) {
        match self {
            Self::Locate => assert!(asker.locate(name).is_some()),
            Self::Download => drop(asker.download(name).ok()),
            Self::Connect => assert_ne!(foreign::connect(asker.addr(), name).ok().text(), "404"),
        }
    }
}

/// Two peers that are as different as can be.
fn askers(neighbour: &Peer) -> [Peer; 2] {
    let peer = |site: &str| Peer::setup().site(site).neighbour(neighbour.addr());
    let shared = peer("east").file("shared by the first", "content");
    let public = peer("west").public_addr(PUBLIC.parse().unwrap());
    [shared.start(), public.start()]
}

/// What the locator receives when one of two peers behind a fresh neighbour asks.
fn lookup(recorder: &Proxy, asker: usize, way: Way) -> Vec<Frame> {
    asked(recorder, asker, |asker| way.ask(asker, NAME))
}

/// What the locator receives when one of two peers behind a fresh neighbour does something.
fn asked(recorder: &Proxy, asker: usize, ask: impl Fn(&Peer)) -> Vec<Frame> {
    // On a busy machine a neighbour may have to connect twice; then there is another one.
    let mut tries = 0;
    let (before, neighbour) = loop {
        let before = recorder.sent().len();
        let neighbour = Peer::setup().locator(recorder.addr()).start();
        neighbour.await_ready();
        tries += 1;
        if recorder.sent().len() == before + 1 || tries == 3 {
            break (before, neighbour);
        }
    };
    let connection = || {
        let sent = recorder.sent();
        assert_eq!(sent.len(), before + 1, "registering and asking share one");
        frames::parse(&sent[before])
    };
    let registered = connection();
    let known: Vec<u32> = registered.iter().map(|frame| frame.stream).collect();
    ask(&askers(&neighbour)[asker]);
    // Streams that were there already are the neighbour's own presence; 0 is the connection.
    let mut lookup = connection();
    lookup.retain(|frame| frame.stream != 0 && !known.contains(&frame.stream));
    lookup
}

#[test]
fn a_lookup_is_the_same_bytes_whoever_asks() {
    let locator = Locator::start();
    let provider = Peer::setup()
        .locator(locator.addr())
        .file(NAME, "content")
        .start();
    provider.await_ready();
    eventually("it is announced", || {
        (foreign::get_resource(locator.addr(), NAME).0 == 200).then_some(())
    });
    let recorder = Proxy::to(locator.addr());

    let first = lookup(&recorder, 0, Way::Locate);
    let expected = LocateStreamRequest {
        id: 1,
        request: Some(LocateRequest {
            by: Some(By::Name(NAME.to_owned())),
            ..LocateRequest::default()
        }),
    };
    assert_eq!(
        frames::messages(&first),
        [expected.encode_to_vec()],
        "what is looked up, and nothing else"
    );
    assert_eq!(first[0].kind, frames::HEADERS);
    assert_eq!(
        first.iter().filter(|f| f.kind == frames::HEADERS).count(),
        1,
        "one stream"
    );
    for way in Way::ALL {
        for asker in [0, 1] {
            let other = lookup(&recorder, asker, way);
            assert_eq!(other, first, "peer {asker} by {way:?}");
        }
    }
}

/// Copies go to other sites than the asker's and never to itself, but that is the asker's own
/// business: the locator hears of neither, nor of how many are wanted.
#[test]
fn a_question_for_places_is_the_same_bytes_whoever_asks() {
    let locator = Locator::start();
    let recorder = Proxy::to(locator.addr());
    let content = vec![7; 5_000];
    let copy = |asker: &Peer, copies: usize| {
        let target = format!("{}?replicas={copies}", route::file(&NAME.parse().unwrap()));
        let put = Connection::open(asker.addr()).send("PUT", &target, &[], &content);
        let stored: Stored = put.json();
        assert!(stored.holders.len() > 1, "the neighbour takes one at least");
    };
    let first = asked(&recorder, 0, |asker| copy(asker, 1));
    let expected = PlaceRequest {
        size: 5_000,
        count: 16,
        ..PlaceRequest::default()
    };
    assert_eq!(frames::messages(&first), [expected.encode_to_vec()]);
    for (asker, copies) in [(0, 16), (1, 1), (1, 3)] {
        let other = asked(&recorder, asker, |asker| copy(asker, copies));
        assert_eq!(other, first, "peer {asker} with {copies} copies");
    }
}

/// The headers of a lookup are those of any gRPC call.
#[test]
fn no_header_of_a_lookup_tells_of_the_asker() {
    let locator = Refusing::start();
    let neighbour = Peer::setup().locator(locator.addr()).start();
    for asker in askers(&neighbour) {
        let answer = asker.get("/v1/locate/a");
        assert_ne!(answer.status, 200, "this locator knows nothing");
        let calls = [
            locator.calls("/vecino.v1.Directory/LocateStream"),
            locator.calls("/ProductService/getResource"),
        ]
        .concat();
        assert!(calls.len() >= 2, "both ways were tried: {calls:?}");
        for call in calls {
            for (name, value) in &call.headers {
                assert!(USUAL.contains(&name.as_str()), "{call:?}");
                let port = asker.addr().port().to_string();
                let told = value.contains(&port) || value.contains(&asker.id());
                assert!(!told, "{call:?} of {}", asker.addr());
            }
        }
    }
}
