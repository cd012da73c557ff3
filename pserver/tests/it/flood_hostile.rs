//! Strangers on the overlay port: a gRPC client that says whatever a test puts into its mouth.

use std::time::{Duration, Instant};

use pserver::locate::flood::limits::{Limits, MAX_ACCEPTED, MAX_ELSEWHERE, MAX_FRAME};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use vecino_grpc::v1::{
    self, gossip_client::GossipClient, gossip_frame::Frame, gossip_question::Subject,
    gossip_refusal::Reason,
};
use vecino_rest::{
    Digest, Kind,
    body::{LinkKind, LinkState, Located, Page, Peer as Link, Variant},
    overlay::{DiscoverEvent, OverlayView, Overlays},
    route,
};

use crate::support::{
    content::Content,
    eventually,
    http::Request,
    peer::{Peer, Plan},
    soon,
};

/// What a lookup may take, whatever the others do; see PROTOCOL.md.
const BOUNDED: Duration = Duration::from_secs(4);

async fn peer(home: &TempDir) -> Peer {
    Plan::new(home.path().join("peer"))
        .set("LOCATE_BY", "flood")
        .set("OVERLAY_PORT", "0")
        .start()
        .await
}

fn home() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn hello(number: u8) -> v1::GossipHello {
    v1::GossipHello {
        peer_id: vec![number; 16].into(),
        overlay_url: format!("http://127.0.0.{number}:9"),
        public_url: format!("http://127.0.0.{number}:8"),
        ..Default::default()
    }
}

/// A link with the peer, as a stranger has it.
struct Stranger {
    frames: mpsc::Sender<v1::GossipFrame>,
    incoming: Streaming<v1::GossipFrame>,
    token: Vec<u8>,
}

/// What a stranger with this `hello` gets first.
async fn call(peer: &Peer, hello: v1::GossipHello) -> (Stranger, Option<Frame>) {
    let (frames, receiver) = mpsc::channel(16);
    let mut stranger = Stranger {
        frames,
        incoming: {
            let mut client = GossipClient::connect(format!("http://{}", peer.overlay()))
                .await
                .unwrap();
            let sending = ReceiverStream::new(receiver);
            let first = v1::GossipFrame {
                frame: Some(Frame::Hello(hello)),
            };
            let first = tokio_stream::once(first);
            let frames = tokio_stream::StreamExt::chain(first, sending);
            soon(client.link(frames)).await.unwrap().into_inner()
        },
        token: Vec::new(),
    };
    let first = stranger.next().await;
    if let Some(Frame::Hello(hello)) = &first {
        stranger.token = hello.link_token.to_vec();
    }
    (stranger, first)
}

async fn link(peer: &Peer, number: u8) -> Stranger {
    let (stranger, first) = call(peer, hello(number)).await;
    assert!(matches!(first, Some(Frame::Hello(_))), "{first:?}");
    stranger
}

async fn refused(peer: &Peer, hello: v1::GossipHello) -> (Reason, usize) {
    match call(peer, hello).await.1 {
        Some(Frame::Refusal(refusal)) => (refusal.reason(), refusal.elsewhere.len()),
        other => panic!("no refusal: {other:?}"),
    }
}

impl Stranger {
    async fn next(&mut self) -> Option<Frame> {
        loop {
            let frame = soon(self.incoming.message()).await.ok()??.frame?;
            if !matches!(frame, Frame::Ping(_)) {
                return Some(frame);
            }
        }
    }

    async fn send(&self, frame: Frame) -> bool {
        let frame = v1::GossipFrame { frame: Some(frame) };
        soon(self.frames.send(frame)).await.is_ok()
    }

    async fn question(&mut self) -> v1::GossipQuestion {
        loop {
            if let Some(Frame::Question(question)) = self.next().await {
                return question;
            }
        }
    }
}

fn file(name: &str) -> v1::GossipFile {
    v1::GossipFile {
        name: name.to_owned(),
        digest: Digest::of(name.as_bytes()).as_bytes().to_vec().into(),
        size: 1,
        modified_ms: 0,
    }
}

fn answer(id: &[u8], url: &str, files: Vec<v1::GossipFile>, done: bool) -> Frame {
    Frame::Answer(v1::GossipAnswer {
        id: id.to_vec().into(),
        holder: Some(v1::GossipHolder {
            peer_id: vec![200; 16].into(),
            url: url.to_owned(),
            site: String::new(),
        }),
        files,
        more: false,
        done,
        visited: 1,
    })
}

async fn links(peer: &Peer) -> Vec<Link> {
    let page: Page<Link> = peer.get(route::PEERS).await.json();
    let flood = page.items.into_iter();
    flood.filter(|link| link.kind == LinkKind::Flood).collect()
}

async fn locate(peer: &Peer, name: &str) -> Vec<Variant> {
    let body = format!(r#"{{"name":"{name}"}}"#);
    let request = Request::json(route::NEIGHBOUR_LOCATE, body);
    peer.send(&request).await.json::<Located>().variants
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_say_properly_who_it_is_gets_no_link() {
    let home = home();
    let peer = peer(&home).await;
    for wrong in [
        v1::GossipHello::default(),
        v1::GossipHello {
            peer_id: vec![1; 15].into(),
            ..hello(1)
        },
        v1::GossipHello {
            overlay_url: "http://169.254.169.254:80".to_owned(),
            ..hello(1)
        },
        v1::GossipHello {
            public_url: "file:///etc/passwd".to_owned(),
            ..hello(1)
        },
        v1::GossipHello {
            site: "x".repeat(65),
            ..hello(1)
        },
        v1::GossipHello {
            link_token: vec![1; 3].into(),
            ..hello(1)
        },
    ] {
        assert_eq!(refused(&peer, wrong).await.0, Reason::BadHello);
    }
    let own = v1::GossipHello {
        peer_id: peer.id().as_bytes().to_vec().into(),
        ..hello(1)
    };
    assert_eq!(refused(&peer, own).await.0, Reason::Self_);
    let unknown = v1::GossipHello {
        link_token: vec![1; 16].into(),
        ..hello(1)
    };
    assert_eq!(refused(&peer, unknown).await.0, Reason::NotLinked);
    assert!(links(&peer).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_belongs_to_who_has_its_token_and_strangers_cannot_take_every_place() {
    let home = home();
    let peer = peer(&home).await;
    let first = link(&peer, 1).await;
    // In the name of another: refused while that one is there.
    assert_eq!(refused(&peer, hello(1)).await.0, Reason::Linked);
    let guessed = v1::GossipHello {
        link_token: vec![7; 16].into(),
        ..hello(1)
    };
    assert_eq!(refused(&peer, guessed).await.0, Reason::NotLinked);
    let token = v1::GossipHello {
        link_token: first.token.clone().into(),
        ..hello(1)
    };
    let (mut again, answered) = call(&peer, token).await;
    assert!(matches!(answered, Some(Frame::Hello(_))), "{answered:?}");
    assert_eq!(links(&peer).await.len(), 1);
    let mut others = Vec::new();
    for number in 2..=MAX_ACCEPTED {
        others.push(link(&peer, number as u8).await);
    }
    let (reason, elsewhere) = refused(&peer, hello(100)).await;
    assert_eq!((reason, elsewhere), (Reason::Full, MAX_ELSEWHERE));
    // Ended by who made it: that bars nobody, whatever address it said it has.
    assert!(again.send(Frame::Goodbye(v1::GossipGoodbye {})).await);
    while again.next().await.is_some() {}
    eventually("a place is free", async || {
        links(&peer).await.len() == MAX_ACCEPTED - 1
    })
    .await;
    let _back = link(&peer, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_answers_name_nobody() {
    let home = home();
    let peer = peer(&home).await;
    let mut stranger = link(&peer, 1).await;
    let good = "http://127.0.0.1:7";
    let asked = async {
        let mut all = Vec::new();
        for _ in 0..3 {
            let question = stranger.question().await;
            assert_eq!(question.subject, Some(Subject::Name("a.txt".to_owned())));
            for (url, name) in [
                ("http://169.254.169.254:80", "a.txt"),
                ("http://0.0.0.0:80", "a.txt"),
                ("gopher://127.0.0.1:7", "a.txt"),
                ("http://u:p@127.0.0.1:7", "a.txt"),
                (good, "../a.txt"),
                (good, "a\u{202e}.txt"),
                (good, "b.txt"),
                (good, ""),
            ] {
                stranger
                    .send(answer(&question.id, url, vec![file(name)], false))
                    .await;
            }
            let mut short = file("a.txt");
            short.digest = vec![1; 31].into();
            stranger
                .send(answer(&question.id, good, vec![short], false))
                .await;
            stranger
                .send(answer(&[9; 16], good, vec![file("a.txt")], true))
                .await;
            stranger
                .send(answer(&question.id, good, Vec::new(), true))
                .await;
            all.push(question);
        }
        all
    };
    let (variants, questions) = tokio::join!(locate(&peer, "a.txt"), asked);
    assert_eq!(variants, []);
    let hops: Vec<_> = questions.iter().map(|question| question.hops).collect();
    assert_eq!(hops, [1, 2, 4]);
    let mut ids: Vec<_> = questions.iter().map(|question| &question.id).collect();
    ids.dedup();
    assert_eq!(ids.len(), 3, "each ring has an id of its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_says_nothing_of_who_asks() {
    let home = home();
    let plan = |label: &str| Plan::new(home.path().join(label));
    let neighbour = peer(&home).await;
    let mut stranger = link(&neighbour, 1).await;
    let mut heard = Vec::new();
    for label in ["one", "another"] {
        let own = plan(label)
            .set("SITE", label)
            .neighbour(neighbour.addr)
            .start()
            .await;
        let asked = async {
            let mut questions = Vec::new();
            for _ in 0..3 {
                let question = stranger.question().await;
                let done = answer(&question.id, "http://127.0.0.1:7", Vec::new(), true);
                stranger.send(done).await;
                questions.push(v1::GossipQuestion {
                    id: Vec::new().into(),
                    ..question
                });
            }
            questions
        };
        let (response, questions) = tokio::join!(own.get("/v1/locate/secret.txt"), asked);
        assert_eq!(response.kind(), Kind::NotFound);
        heard.push(questions);
        // What the neighbour remembers of it must not answer for the other.
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
    assert_eq!(heard[0], heard[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_silent_costs_a_lookup_bounded_time() {
    let home = home();
    let peer = peer(&home).await;
    let _stranger = link(&peer, 1).await;
    let asked = Instant::now();
    let request = Request::json(route::NEIGHBOUR_LOCATE, r#"{"name":"a.txt"}"#);
    // Nobody answered: that is not the same as that nobody has it.
    assert_eq!(peer.send(&request).await.kind(), Kind::LookupFailed);
    assert!(asked.elapsed() < BOUNDED, "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_above_the_bound_ends_the_link() {
    let home = home();
    let peer = peer(&home).await;
    let mut stranger = link(&peer, 1).await;
    let huge = answer(
        &[1; 16],
        "http://127.0.0.1:7",
        vec![file(&"x".repeat(MAX_FRAME))],
        true,
    );
    stranger.send(huge).await;
    while stranger.next().await.is_some() {}
    let shown = &links(&peer).await[0];
    assert_eq!(shown.state, LinkState::Down);
    assert!(shown.error.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_floods_us_is_cut_and_stays_out_while_others_are_served() {
    let home = home();
    let peer = peer(&home).await;
    peer.shares("a.txt", &Content::of(*b"a")).await;
    let mut quiet = link(&peer, 2).await;
    let mut stranger = link(&peer, 1).await;
    let token = stranger.token.clone();
    let mut sent = 0_u32;
    loop {
        let mut id = vec![0; 16];
        id[..4].copy_from_slice(&sent.to_be_bytes());
        let question = v1::GossipQuestion {
            id: id.into(),
            hops: u32::MAX,
            budget: u32::MAX,
            patience_ms: u32::MAX,
            subject: Some(Subject::Name("a.txt".to_owned())),
        };
        if !stranger.send(Frame::Question(question)).await {
            break;
        }
        sent += 1;
        assert!(sent < 1_000_000, "it is never cut");
        // What comes back is read, or the window fills.
        while let Ok(Ok(Some(_))) =
            tokio::time::timeout(Duration::ZERO, stranger.incoming.message()).await
        {}
    }
    eventually("cut", async || {
        let links = links(&peer).await;
        links.iter().any(|link| {
            let why = link.error.as_deref().unwrap_or_default();
            link.state == LinkState::Down && why.contains("too much")
        })
    })
    .await;
    let back = v1::GossipHello {
        link_token: token.into(),
        ..hello(1)
    };
    assert_eq!(refused(&peer, back).await.0, Reason::Full);
    let Overlays { overlays } = peer.get(route::OVERLAY).await.json();
    let OverlayView::Flood(view) = &overlays[0] else {
        panic!("another overlay");
    };
    // 800 at once and 400 a second, however many were sent.
    assert!(view.seen < 5000, "{} of {sent} were taken up", view.seen);
    // What was passed on to the other link is within what it bears, clamped.
    let question = quiet.question().await;
    assert!(question.hops <= 4 && question.budget < 1024 && question.patience_ms <= 10_000);
    quiet
        .send(Frame::Question(v1::GossipQuestion {
            id: vec![77; 16].into(),
            hops: 1,
            budget: 1,
            patience_ms: 100,
            subject: Some(Subject::Name("a.txt".to_owned())),
        }))
        .await;
    loop {
        if let Some(Frame::Answer(answer)) = quiet.next().await
            && answer.id == vec![77; 16]
        {
            assert_eq!(answer.files.len(), 1);
            assert_eq!(answer.holder.unwrap().url, format!("http://{}", peer.addr));
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_floods_us_over_link_after_link_is_heard_at_the_rate_of_one() {
    /// Questions over each link: more than it may send at once, but not so many that it is cut.
    const QUESTIONS: u32 = 850;
    let home = home();
    let peer = peer(&home).await;
    let limits = Limits::default();
    let began = Instant::now();
    let (mut links, mut sent) = (0_u32, 0_u32);
    let mut known = hello(1);
    loop {
        let (mut stranger, first) = call(&peer, known).await;
        match first {
            Some(Frame::Hello(_)) => links += 1,
            Some(Frame::Refusal(refusal)) if refusal.reason() == Reason::Full => break,
            other => panic!("after {links} links: {other:?}"),
        }
        assert!(links < 200, "links are made at any rate");
        for _ in 0..QUESTIONS {
            let mut id = vec![0; 16];
            id[..4].copy_from_slice(&sent.to_be_bytes());
            sent += 1;
            let question = v1::GossipQuestion {
                id: id.into(),
                hops: 1,
                budget: 1,
                patience_ms: 100,
                subject: Some(Subject::Name("a.txt".to_owned())),
            };
            stranger.send(Frame::Question(question)).await;
        }
        // All of it was heard when this is answered.
        stranger.send(Frame::Ping(7)).await;
        while stranger.next().await.expect("it is not cut") != Frame::Pong(7) {}
        // Comes back once as the same peer, then as one that nobody knows.
        known = if links == 1 {
            v1::GossipHello {
                link_token: stranger.token.clone().into(),
                ..hello(1)
            }
        } else {
            stranger.send(Frame::Goodbye(v1::GossipGoodbye {})).await;
            while stranger.next().await.is_some() {}
            hello(1 + links as u8)
        };
    }
    let heard = limits.questions_at_once
        + limits.questions_a_second * (began.elapsed().as_secs_f64() + 1.0);
    let Overlays { overlays } = peer.get(route::OVERLAY).await.json();
    let OverlayView::Flood(view) = &overlays[0] else {
        panic!("another overlay");
    };
    assert!(f64::from(sent) > 4.0 * heard, "too few to mean anything");
    assert!(
        (view.seen as f64) <= heard,
        "{} of {sent} over {links} links were taken up",
        view.seen
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discovery_takes_no_more_from_a_link_than_its_bound() {
    let home = home();
    let peer = peer(&home).await;
    let mut stranger = link(&peer, 1).await;
    let endless = async {
        let question = stranger.question().await;
        let mut number = 0_u32;
        loop {
            let files = (0..32)
                .map(|n| file(&format!("{number}/{n}.txt")))
                .collect();
            let lie = answer(&question.id, "http://127.0.0.1:7", files, false);
            if !stranger.send(lie).await || number > 2000 {
                return;
            }
            number += 1;
        }
    };
    let asking = async {
        let request = Request::json(route::DISCOVER, r#"{"wait_ms":3000}"#);
        peer.send(&request).await
    };
    let ((), response) = tokio::join!(endless, asking);
    let last = response.text();
    let last: DiscoverEvent = serde_json::from_str(last.lines().last().unwrap()).unwrap();
    let DiscoverEvent::End {
        files, complete, ..
    } = last
    else {
        panic!("no end");
    };
    assert!(!complete);
    assert_eq!(files, 16 * 1024);
}
