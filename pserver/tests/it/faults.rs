//! Providers that lie, break off, refuse or talk nonsense: nothing wrong reaches a client, with
//! another provider the same response is whole and right, without one it says what was wrong.

use std::sync::Arc;

use vecino_rest::{
    Kind, PeerId, Problem,
    body::{Download, DownloadState, Pieces},
    route,
};

use crate::support::{
    content::{Content, PIECE},
    eventually,
    fixture::{Ending, Fixture, Reply, Seen},
    http::{Request, Response},
    neighbour::{telling, variant},
    peer::{Door, Peer, path_of},
    provider::{Bend, Provider, honest, is_for_bytes, once},
    stage::Stage,
};

/// A stage with an own peer and its neighbour.
async fn own_peer() -> (Stage, Peer, Peer) {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let own = stage.peer("own").neighbour(neighbour.addr).start().await;
    (stage, own, neighbour)
}

/// Four pieces, the last one short.
const SIZE: usize = 3 * PIECE + 4321;

struct Fault {
    name: &'static str,
    bend: Bend,
    /// The problem when there is no other provider ...
    alone: Kind,
    /// ... for this range, which the fault touches.
    range: &'static str,
    /// Whether it counts as wrong bytes.
    is_wrong: bool,
}

fn fault(
    name: &'static str,
    alone: Kind,
    range: &'static str,
    bend: impl Fn(Reply, &Seen) -> Reply + Send + Sync + 'static,
) -> Fault {
    Fault {
        name,
        bend: Arc::new(bend),
        alone,
        range,
        is_wrong: alone == Kind::VerificationFailed,
    }
}

/// Bends replies with bytes only.
fn bytes(
    name: &'static str,
    alone: Kind,
    range: &'static str,
    bend: impl Fn(Reply) -> Reply + Send + Sync + 'static,
) -> Fault {
    fault(name, alone, range, move |reply, seen| {
        if is_for_bytes(seen) {
            bend(reply)
        } else {
            reply
        }
    })
}

const FIRST: &str = "bytes=0-9";
const MIDDLE: &str = "bytes=400000-400009";
const LAST: &str = "bytes=-5";

fn faults() -> Vec<Fault> {
    use Kind::{ProviderFailed, VerificationFailed};
    let short = Fault {
        is_wrong: false,
        ..bytes("cut", VerificationFailed, LAST, |reply| {
            let half = reply.body.len() / 2;
            reply.ending_after(half, Ending::Cut)
        })
    };
    vec![
        bytes(
            "bit in the first piece",
            VerificationFailed,
            FIRST,
            |reply| reply.flipped(7),
        ),
        bytes(
            "bit in a middle piece",
            VerificationFailed,
            MIDDLE,
            |reply| reply.flipped(PIECE as u64 + 99),
        ),
        bytes("last bit of all", VerificationFailed, LAST, |reply| {
            reply.flipped(SIZE as u64 - 1)
        }),
        bytes(
            "other bytes of the right length",
            VerificationFailed,
            FIRST,
            |mut reply| {
                reply.body.fill(b'x');
                reply
            },
        ),
        bytes("length too small", VerificationFailed, FIRST, |reply| {
            let length = reply.body.len() - 1;
            reply
                .saying_length(length as u64)
                .ending_after(length, Ending::Whole)
        }),
        bytes(
            "length too large",
            VerificationFailed,
            FIRST,
            |mut reply| {
                reply.body.push(0);
                let length = reply.body.len() as u64;
                reply.saying_length(length)
            },
        ),
        short,
        bytes("nothing at all", VerificationFailed, FIRST, |reply| {
            reply.saying_length(0).ending_after(0, Ending::Whole)
        }),
        fault(
            "wrong piece hashes",
            VerificationFailed,
            FIRST,
            |reply, seen| {
                if is_for_bytes(seen) {
                    return reply;
                }
                let mut pieces: Pieces = serde_json::from_slice(&reply.body).unwrap();
                pieces.pieces.swap(0, 1);
                Reply::json(&pieces)
            },
        ),
        fault(
            "too few piece hashes",
            VerificationFailed,
            FIRST,
            |reply, seen| {
                if is_for_bytes(seen) {
                    return reply;
                }
                let mut pieces: Pieces = serde_json::from_slice(&reply.body).unwrap();
                pieces.pieces.pop();
                Reply::json(&pieces)
            },
        ),
        fault(
            "piece hashes without end",
            ProviderFailed,
            FIRST,
            |reply, seen| {
                if is_for_bytes(seen) {
                    return reply;
                }
                Reply::new("200 OK", vec![b' '; 8 << 20])
            },
        ),
        fault("no piece hashes", ProviderFailed, FIRST, |reply, seen| {
            if is_for_bytes(seen) {
                return reply;
            }
            Reply::new("404 Not Found", "")
        }),
        fault("500", ProviderFailed, FIRST, |_, _| {
            Reply::new("500 Internal Server Error", "oops")
        }),
        bytes(
            "200 without bytes of the range",
            ProviderFailed,
            MIDDLE,
            |mut reply| {
                reply.head[0] = "HTTP/1.1 204 No Content".to_owned();
                reply.saying_length(0).ending_after(0, Ending::Whole)
            },
        ),
        bytes("garbage", ProviderFailed, FIRST, |reply| Reply {
            head: vec!["SSH-2.0-OpenSSH_9.9".to_owned(), "\0\u{1}\u{2}".to_owned()],
            ..reply.ending_after(0, Ending::Cut)
        }),
        bytes("headers without end", ProviderFailed, FIRST, |reply| {
            let line = "x: ".to_owned() + &"y".repeat(1_000_000);
            Reply {
                head: vec![
                    reply.head[0].clone(),
                    line.clone(),
                    line.clone(),
                    line.clone(),
                    line,
                ],
                ..reply
            }
        }),
        bytes("hung up", ProviderFailed, FIRST, |reply| Reply {
            head: Vec::new(),
            ..reply.ending_after(0, Ending::Cut)
        }),
    ]
}

/// Whatever came is a beginning of what it should be.
fn is_a_beginning(response: &Response, content: &Content) {
    assert!(
        content.bytes.starts_with(&response.body),
        "wrong bytes were released"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn alone_a_bad_provider_gives_nothing_wrong_and_a_clear_problem() {
    let (stage, own, _neighbour) = own_peer().await;
    for (
        number,
        Fault {
            name,
            bend,
            alone,
            range,
            is_wrong,
        },
    ) in faults().into_iter().enumerate()
    {
        let content = Content::new(name, SIZE);
        let file = format!("alone/{number}.bin");
        let provider = Provider::bent(&content, move |reply, seen| bend(reply, seen)).await;
        stage.announce_provider(&file, &provider).await;
        let wrong = own.metric("vecino_verification_failures_total").await;
        let switches = own.metric("vecino_provider_switches_total").await;

        let request = Request::get(path_of(&file)).with("Range", range);
        let response = own.send(&request).await;
        assert_eq!(response.status, 502, "{name}: {}", response.text());
        let problem = response.problem();
        assert_eq!(problem.kind(), Some(alone), "{name}: {problem:?}");
        is_clear(&problem);
        assert!(
            own.metric("vecino_provider_switches_total").await > switches,
            "{name}"
        );
        let counted = own.metric("vecino_verification_failures_total").await > wrong;
        assert_eq!(counted, is_wrong, "{name}");

        // The whole file: refused, or broken off before the first wrong byte.
        let response = own.download(&file).await;
        if response.status == 200 {
            assert!(!response.whole, "{name}: whole with wrong bytes");
            is_a_beginning(&response, &content);
        } else {
            assert_eq!((response.status, response.kind()), (502, alone), "{name}");
        }
        let failed = fetched(&own, &file).await;
        assert_eq!(failed.state, DownloadState::Failed, "{name}");
        assert_eq!(
            failed.error.and_then(|problem| problem.kind()),
            Some(alone),
            "{name}"
        );
        assert!(
            own.fetched_files().is_empty(),
            "{name}: it shows under its name"
        );
        assert!(own.files().await.is_empty(), "{name}");
    }
}

fn is_clear(problem: &Problem) {
    assert!(
        problem.detail.contains("provider") || problem.detail.contains("http://127.0.0.1"),
        "{problem:?}"
    );
}

/// A download by the own peer, once it ended.
async fn fetched(own: &Door, name: &str) -> Download {
    let body = serde_json::json!({ "name": name }).to_string();
    let response = own.send(&Request::json(route::DOWNLOADS, body)).await;
    assert_eq!(response.status, 202, "{}", response.text());
    let begun: Download = response.json();
    let path = route::download(&begun.id);
    eventually("ended", async || {
        let download: Download = own.get(&path).await.json();
        !matches!(
            download.state,
            DownloadState::Locating | DownloadState::Running
        )
    })
    .await;
    own.get(&path).await.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn with_another_provider_the_same_response_is_whole_and_right() {
    // The good one may come to send the pieces that the bad one would have spoilt.
    const TRIES: usize = 12;
    let (stage, own, _neighbour) = own_peer().await;
    for (number, fault) in faults().into_iter().enumerate() {
        let name = fault.name;
        let mut met = false;
        for attempt in 0..TRIES {
            let content = Content::new(&format!("{name} {attempt}"), SIZE);
            let file = format!("both/{number}.{attempt}.bin");
            let bend = fault.bend.clone();
            let bad = Provider::bent(&content, move |reply, seen| bend(reply, seen)).await;
            let good = Provider::honest(&content).await;
            stage.announce_provider(&file, &bad).await;
            stage.announce_provider(&file, &good).await;
            let wrong = own.metric("vecino_verification_failures_total").await;
            let switches = own.metric("vecino_provider_switches_total").await;
            own.downloads(&file, &content).await;
            own.keeps(&file, &content).await;
            met = own.metric("vecino_provider_switches_total").await > switches;
            let counted = own.metric("vecino_verification_failures_total").await > wrong;
            assert_eq!(counted, met && fault.is_wrong, "{name}");
            if met {
                break;
            }
        }
        assert!(met, "{name}: never met in {TRIES} tries");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_beyond_the_end_are_not_passed_on() {
    let (stage, own, _neighbour) = own_peer().await;
    let content = Content::new("long", SIZE);
    let long = Provider::bent(&content, |mut reply, seen| {
        if is_for_bytes(seen) {
            reply.body.extend_from_slice(&[0; 5000]);
            return reply.chunked();
        }
        reply
    })
    .await;
    stage.announce_provider("long.bin", &long).await;
    own.downloads("long.bin", &content).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_not_followed() {
    let (stage, own, _neighbour) = own_peer().await;
    let content = Content::new("redirect", SIZE);
    let held = content.clone();
    let elsewhere = Fixture::start(Arc::new(move |seen: &Seen| honest(&held, seen))).await;
    let to = elsewhere.url();
    let statuses = [
        "301 Moved",
        "302 Found",
        "303 See Other",
        "307 Temporary",
        "308 Permanent",
    ];
    for (number, status) in statuses.into_iter().enumerate() {
        // To another machine, and to another path of the same one.
        for to in [to.clone(), "/elsewhere".to_owned()] {
            let (target, held) = (to.clone(), content.clone());
            let redirecting = Provider::bent(&content, move |_, seen| {
                match seen.path.strip_prefix("/elsewhere") {
                    Some(path) => honest(
                        &held,
                        &Seen {
                            path: path.to_owned(),
                            ..seen.clone()
                        },
                    ),
                    None => Reply::new(status, "").with(format!("Location: {target}{}", seen.path)),
                }
            })
            .await;
            let file = format!("redirect/{number} {}.bin", to.len());
            stage.announce_provider(&file, &redirecting).await;
            let response = own.download(&file).await;
            let kind = response.kind();
            assert_eq!(
                (response.status, kind),
                (502, Kind::ProviderFailed),
                "{status} {to}"
            );
            assert!(
                response.text().contains(&status[..3]),
                "{}",
                response.text()
            );
            let asked = redirecting.fixture.seen();
            assert!(!asked.is_empty());
            assert!(
                !asked.iter().any(|seen| seen.path.starts_with("/elsewhere")),
                "{status}"
            );
        }
    }
    assert_eq!(elsewhere.seen().len(), 0, "a redirect was followed");
}

/// The one test that waits for a timeout of the peer.
#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_stalls_is_left_within_the_response() {
    let content = Content::new("stall", SIZE);
    let stalling = Provider::bent(&content, |reply, seen| {
        if is_for_bytes(seen) {
            return reply.ending_after(1000, Ending::Stall);
        }
        reply
    })
    .await;
    let good = Provider::honest(&content).await;
    let urls = [stalling.fixture.url(), good.fixture.url()];
    let neighbour = telling(vec![variant("stall.bin", &content, &urls)]).await;
    let stage = Stage::start().await;
    let own = stage.peer("own").neighbour(neighbour.addr).start().await;
    let asked = std::time::Instant::now();
    own.downloads("stall.bin", &content).await;
    // What the one that stalls was asked for was taken over, long before its silence ends it.
    assert!(!stalling.ranges().is_empty());
    assert_eq!(once(good.ranges()), [0..SIZE as u64]);
    assert!(asked.elapsed() < std::time::Duration::from_secs(8));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_gone_is_left_for_the_next() {
    let content = Content::new("gone", SIZE);
    let gone = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let good = Provider::honest(&content).await;
    let urls = [gone.clone(), good.fixture.url()];
    let neighbour = telling(vec![
        variant("gone.bin", &content, &urls),
        variant("only.bin", &Content::new("only", SIZE), &[gone]),
    ])
    .await;
    let stage = Stage::start().await;
    let own = stage.peer("own").neighbour(neighbour.addr).start().await;
    own.downloads("gone.bin", &content).await;
    let response = own.download("only.bin").await;
    assert_eq!(
        (response.status, response.kind()),
        (502, Kind::ProviderFailed)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_liar_by_its_id_or_url_the_others_are_not_asked() {
    let (stage, own, _neighbour) = own_peer().await;
    let content = Content::new("from", SIZE);
    let liar = Provider::bent(&content, |reply, _| reply.flipped(5)).await;
    let good = Provider::honest(&content).await;
    let liar_id: PeerId = stage.announce_provider("from.bin", &liar).await;
    let good_id = stage.announce_provider("from.bin", &good).await;
    for from in [liar_id.to_string(), liar.fixture.url()] {
        let response = own
            .get(format!("{}?from={from}", path_of("from.bin")))
            .await;
        assert_eq!(
            (response.status, response.kind()),
            (502, Kind::VerificationFailed),
            "{from}"
        );
    }
    assert_eq!(good.fixture.seen().len(), 0);
    let response = own
        .get(format!("{}?from={good_id}", path_of("from.bin")))
        .await;
    assert!(response.status == 200 && response.whole && *response.body == *content.bytes);
}
