//! The flood overlay as its users see it: real gRPC between peers, real REST, no locator (but
//! where a test kills one).

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tempfile::TempDir;
use tokio::task::JoinSet;
use vecino_rest::{
    Kind,
    body::{LinkKind, LinkState, Located, Page, Peer as Link, SearchPage, Variant},
    overlay::{DiscoverEvent, OverlayView, Overlays},
    route,
};

use crate::support::{
    content::Content,
    eventually,
    http::{Request, Response},
    peer::{Door, Peer, Plan},
    stage::Stage,
    valve::Valve,
};

struct Net(TempDir);

impl Net {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A peer of the overlay, which is its own neighbour's client too once it has one.
    fn peer(&self, label: &str) -> Plan {
        Plan::new(self.0.path().join(label))
            .set("LOCATE_BY", "flood")
            .set("OVERLAY_PORT", "0")
    }
}

async fn connect(from: &Door, to: &Peer) -> Response {
    let body = format!(r#"{{"url":"{}"}}"#, to.overlay());
    from.send(&Request::json(route::PEERS, body)).await
}

async fn linked(from: &Door, to: &Peer) {
    let response = connect(from, to).await;
    // 200: it was there already.
    assert!(matches!(response.status, 200 | 201), "{}", response.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_there_is_not_created_again() {
    let net = Net::new();
    let (one, two) = (net.peer("one").start().await, net.peer("two").start().await);
    let first = connect(&one, &two).await;
    assert_eq!(first.status, 201, "{}", first.text());
    let again = connect(&one, &two).await;
    assert_eq!(again.status, 200, "{}", again.text());
    assert_eq!(links(&one).await.len(), 1);
}

async fn links(peer: &Door) -> Vec<Link> {
    let page: Page<Link> = peer.get(route::PEERS).await.json();
    let flood = page.items.into_iter();
    flood.filter(|link| link.kind == LinkKind::Flood).collect()
}

async fn links_up(peer: &Door) -> usize {
    let all = links(peer).await;
    all.iter()
        .filter(|link| link.state == LinkState::Up)
        .count()
}

async fn locate(peer: &Door, name: &str) -> Vec<Variant> {
    let body = format!(r#"{{"name":"{name}"}}"#);
    let response = peer
        .send(&Request::json(route::NEIGHBOUR_LOCATE, body))
        .await;
    assert_eq!(response.status, 200, "{}", response.text());
    response.json::<Located>().variants
}

async fn discover(peer: &Door, body: &str) -> Vec<DiscoverEvent> {
    let response = peer.send(&Request::json(route::DISCOVER, body)).await;
    assert_eq!(response.status, 200, "{}", response.text());
    assert!(response.whole);
    let text = response.text();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_found_after_connect_and_gone_after_withdraw() {
    let net = Net::new();
    let neighbour = net.peer("neighbour").start().await;
    let own = net.peer("own").neighbour(neighbour.addr).start().await;
    let provider = net.peer("provider").start().await;
    let content = Content::new("a", 3 << 20);
    provider.shares("dir/a.bin", &content).await;
    // Nobody is linked: nobody could be asked.
    let response = own.download("dir/a.bin").await;
    assert_eq!(response.kind(), Kind::LookupFailed);

    linked(&neighbour, &provider).await;
    own.downloads("dir/a.bin", &content).await;
    let response = own.get("/v1/locate/dir/a.bin").await;
    let located: Located = response.json();
    assert_eq!(located.variants.len(), 1);
    let variant = &located.variants[0];
    assert_eq!(variant.digest, Some(content.digest));
    assert_eq!(variant.size, Some(content.len()));
    assert_eq!(variant.providers[0].peer, Some(provider.id()));
    assert_eq!(
        variant.providers[0].url,
        format!("http://{}", provider.addr)
    );

    let gone = Request::new("DELETE", "/v1/files/dir/a.bin");
    assert_eq!(provider.send(&gone).await.status, 204);
    assert!(locate(&neighbour, "dir/a.bin").await.len() <= 1);
    eventually("gone", async || {
        locate(&neighbour, "dir/a.bin").await.is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_holds_a_digest_is_found_under_any_name() {
    let net = Net::new();
    let hub = net.peer("hub").start().await;
    let content = Content::of(*b"one");
    let mut peers = Vec::new();
    for number in 0..3 {
        let peer = net.peer(&format!("peer {number}")).start().await;
        peer.shares(&format!("name {}.txt", number / 2), &content)
            .await;
        linked(&peer, &hub).await;
        peers.push(peer);
    }
    let by_digest = format!(r#"{{"digest":"{}"}}"#, content.digest);
    let response = hub
        .send(&Request::json(route::NEIGHBOUR_LOCATE, by_digest))
        .await;
    let variants = response.json::<Located>().variants;
    let providers = variants.iter().map(|variant| variant.provider_count);
    assert_eq!(providers.sum::<u32>(), 3, "{variants:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_lookups_at_once_are_all_answered() {
    const FILES: usize = 200;
    let net = Net::new();
    let hub = net.peer("hub").start().await;
    let mut peers = Vec::new();
    for half in 0..2 {
        let mut plan = net.peer(&format!("peer {half}"));
        for number in (half..FILES).step_by(2) {
            let name = format!("{number}.txt");
            plan = plan.holding(&name, name.as_bytes());
        }
        let peer = plan.start().await;
        eventually("hashed", async || peer.files().await.len() == FILES / 2).await;
        linked(&peer, &hub).await;
        peers.push(peer);
    }
    let lookups = (0..2 * FILES).map(|number| {
        let hub = &hub;
        async move {
            let name = format!("{number}.txt");
            (number, name.clone(), locate(hub, &name).await)
        }
    });
    for (number, name, variants) in join_all(lookups).await {
        if number >= FILES {
            assert!(variants.is_empty(), "{name}");
            continue;
        }
        assert_eq!(variants.len(), 1, "{name}");
        let provider = variants[0].providers[0].peer;
        assert_eq!(provider, Some(peers[number % 2].id()), "{name}");
        let content = Content::of(name.into_bytes());
        assert_eq!(variants[0].digest, Some(content.digest));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn four_links_deep_is_found_and_five_is_not() {
    let net = Net::new();
    let mut chain: Vec<Peer> = Vec::new();
    for number in 0..6 {
        let peer = net.peer(&format!("peer {number}")).start().await;
        let name = format!("{number}.txt");
        peer.shares(&name, &Content::of(name.clone().into_bytes()))
            .await;
        if let Some(last) = chain.last() {
            linked(&peer, last).await;
        }
        chain.push(peer);
    }
    for number in 0..=4 {
        assert_eq!(locate(&chain[0], &format!("{number}.txt")).await.len(), 1);
    }
    assert!(locate(&chain[0], "5.txt").await.is_empty());
    assert_eq!(locate(&chain[3], "5.txt").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_links_stay_and_say_why() {
    let net = Net::new();
    let hub = net.peer("hub").start().await;
    let seeded = net.peer("dying").set("OVERLAY_SEEDS", hub.overlay());
    let process = seeded.spawn().await;
    eventually("linked", async || links_up(&hub).await == 1).await;
    process.kill();
    eventually("down", async || links_up(&hub).await == 0).await;
    let dead = links(&hub).await;
    assert_eq!((dead.len(), dead[0].state), (1, LinkState::Down));
    assert!(dead[0].error.is_some(), "{dead:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ends_agree_on_links_and_keep_them_over_restarts() {
    let net = Net::new();
    let plan = net.peer("b");
    let a = net.peer("a").start().await;
    let b = plan.start().await;
    linked(&a, &b).await;
    linked(&a, &b).await;
    linked(&b, &a).await;
    assert_eq!((links_up(&a).await, links_up(&b).await), (1, 1));
    assert_eq!(links(&a).await[0].peer, Some(b.id()));
    eventually("measured", async || links(&a).await[0].latency_ms.is_some()).await;

    // Where it was before.
    let port = b.overlay().port();
    let plan = plan.set("OVERLAY_PORT", port);
    b.stop().await;
    eventually("down", async || links_up(&a).await == 0).await;
    assert_eq!(links(&a).await.len(), 1);
    let b = plan.start().await;
    eventually("up again", async || {
        links_up(&a).await == 1 && links_up(&b).await == 1
    })
    .await;

    let response = a
        .send(&Request::new("DELETE", route::peer(&b.id().to_string())))
        .await;
    assert_eq!(response.status, 204);
    eventually("ended at both ends", async || {
        links(&a).await.is_empty() && links(&b).await.is_empty()
    })
    .await;
    let response = a
        .send(&Request::new("DELETE", route::peer(&b.id().to_string())))
        .await;
    assert_eq!(response.kind(), Kind::NotFound);

    // Ended while the other side was away: it learns it when it comes back.
    linked(&b, &a).await;
    b.stop().await;
    let there = links(&a).await[0].url.clone();
    let response = a.send(&Request::new("DELETE", route::peer(&there))).await;
    assert_eq!(response.status, 204);
    let b = plan.start().await;
    eventually("learnt", async || links(&b).await.is_empty()).await;
    assert!(links(&a).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_that_join_through_a_seed_link_to_each_other_and_live_on_without_it() {
    let net = Net::new();
    let seed = net.peer("seed").start().await;
    let mut peers = Vec::new();
    for number in 0..5 {
        let plan = net
            .peer(&format!("peer {number}"))
            .set("OVERLAY_SEEDS", seed.overlay());
        let peer = plan.start().await;
        eventually("linked", async || links_up(&peer).await >= 1).await;
        peers.push(peer);
    }
    eventually("meshed", async || {
        let mut fewest = usize::MAX;
        for peer in &peers {
            fewest = fewest.min(links_up(peer).await);
        }
        fewest >= 3
    })
    .await;
    let content = Content::of(*b"here");
    peers[4].shares("here.txt", &content).await;
    seed.stop().await;
    assert_eq!(locate(&peers[0], "here.txt").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discovery_answers_searches_and_lists_without_any_locator() {
    let net = Net::new();
    let own = net.peer("own").start().await;
    let far = net.peer("far").start().await;
    let near = net.peer("near").start().await;
    near.shares("Música/canción 1.FLAC", &Content::of(*b"song"))
        .await;
    for number in 0..300 {
        far.write(
            &format!("many/{number:03}.txt"),
            format!("{number}").as_bytes(),
        );
    }
    eventually("hashed", async || far.files().await.len() == 300).await;
    linked(&own, &near).await;
    linked(&near, &far).await;

    let response = own.get("/v1/search?q=can").await;
    assert_ne!(response.status, 200, "nothing was discovered yet");
    let asked = r#"{"q":"can"}"#;
    let response = own
        .send(&Request::json(route::NEIGHBOUR_SEARCH, asked))
        .await;
    assert_eq!(response.status, 501, "{}", response.text());

    let events = discover(&own, r#"{"ttl":2,"wait_ms":10000}"#).await;
    let Some(DiscoverEvent::End {
        peers,
        files,
        visited,
        complete,
        ..
    }) = events.last()
    else {
        panic!("no end: {events:?}");
    };
    assert_eq!((*peers, *files, *visited, *complete), (2, 301, 2, true));
    assert!(events.len() >= 3, "progress: {events:?}");

    let page: SearchPage = own.get("/v1/search?q=MUS+can&type=music").await.json();
    assert_eq!(page.items.len(), 0, "é is not e");
    let page: SearchPage = own.get("/v1/search?q=M%C3%9AS+can&type=music").await.json();
    assert_eq!(page.items.len(), 1);
    assert_eq!(page.items[0].provider_count, 1);
    let mut names = Vec::new();
    let mut cursor = String::new();
    loop {
        let target = format!("{}?prefix=many/&limit=120{cursor}", route::DISCOVER);
        let page: Page<Variant> = own.get(&target).await.json();
        names.extend(page.items.iter().map(|item| item.name.to_string()));
        match page.next_cursor {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(names.len(), 300);
    assert!(names.is_sorted());
    let Overlays { overlays } = own.get(route::OVERLAY).await.json();
    let OverlayView::Flood(view) = &overlays[0] else {
        panic!("another overlay");
    };
    assert_eq!((view.discovered, view.links.len()), (301, 1));
    assert!(view.seen > 0);

    let shallow = discover(&near, r#"{"ttl":1}"#).await;
    assert!(
        matches!(shallow.last(), Some(DiscoverEvent::End { visited: 2, .. })),
        "{shallow:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_linked_says_why() {
    let net = Net::new();
    let own = net.peer("own").start().await;
    for (body, expected) in [
        (
            format!(r#"{{"url":"{}"}}"#, own.overlay()),
            Kind::BadRequest,
        ),
        (r#"{"url":"nonsense"}"#.to_owned(), Kind::BadRequest),
        (
            r#"{"url":"https://10.0.0.1:1"}"#.to_owned(),
            Kind::BadRequest,
        ),
        (r#"{"url":"127.0.0.1:1"}"#.to_owned(), Kind::LinkFailed),
        (
            r#"{"url":"169.254.169.254:80"}"#.to_owned(),
            Kind::LinkFailed,
        ),
        // REST, not the overlay.
        (format!(r#"{{"url":"{}"}}"#, own.addr), Kind::LinkFailed),
        ("{}".to_owned(), Kind::BadRequest),
    ] {
        let response = own.send(&Request::json(route::PEERS, body.clone())).await;
        assert_eq!(response.kind(), expected, "{body}");
    }
    for body in [r#"{"ttl":0}"#, r#"{"ttl":6}"#, r#"{"wait_ms":60001}"#, "7"] {
        let response = own.send(&Request::json(route::DISCOVER, body)).await;
        assert_eq!(response.kind(), Kind::BadRequest, "{body}");
    }
    assert!(links(&own).await.is_empty());
    let stage = Stage::start().await;
    let central = stage.peer("central").start().await;
    for request in [
        Request::json(route::PEERS, r#"{"url":"127.0.0.1:1"}"#),
        Request::json(route::DISCOVER, "{}"),
        Request::get(route::DISCOVER),
        Request::new("DELETE", route::peer("http://127.0.0.1:1")),
    ] {
        assert_eq!(central.send(&request).await.status, 501);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_go_on_without_an_error_when_the_locator_is_killed() {
    const FILES: usize = 90;
    const AT_A_TIME: usize = 6;
    /// The download with which the locator ends.
    const CUT: usize = FILES / 3;
    let stage = Stage::start().await;
    // Gone in the middle of a byte, as with kill -9: no stream is ended in order.
    let locator = Valve::new().await;
    locator.lead_to(stage.locator_addr);
    let both = |label: &str| {
        stage
            .peer(label)
            .set("URL_Request", locator.addr)
            .set("LOCATE_BY", "central,flood")
            .set("OVERLAY_PORT", "0")
    };
    let neighbour = both("neighbour").start().await;
    let provider = both("provider").start().await;
    let own = Arc::new(both("own").neighbour(neighbour.addr).start().await);
    linked(&provider, &neighbour).await;
    let content = |number: usize| Content::new(&number.to_string(), 200_000);
    let name = |number: usize| format!("{number}.bin");
    for number in 0..FILES {
        provider.shares(&name(number), &content(number)).await;
    }
    provider.has_announced(FILES as u64).await;
    let locator = Arc::new(Mutex::new(Some(locator)));
    let (begun, ended) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let under_way = Arc::<AtomicUsize>::default();
    let mut downloads = JoinSet::new();
    for _ in 0..AT_A_TIME {
        let (own, locator) = (own.clone(), locator.clone());
        let (begun, ended, under_way) = (begun.clone(), ended.clone(), under_way.clone());
        downloads.spawn(async move {
            loop {
                let number = begun.fetch_add(1, Ordering::SeqCst);
                if number >= FILES {
                    return;
                }
                own.downloads(&name(number), &content(number)).await;
                if ended.fetch_add(1, Ordering::SeqCst) + 1 == CUT {
                    let others = begun.load(Ordering::SeqCst) - ended.load(Ordering::SeqCst);
                    under_way.store(others, Ordering::SeqCst);
                    locator.lock().unwrap().take();
                }
            }
        });
    }
    while let Some(ended) = downloads.join_next().await {
        ended.unwrap();
    }
    let under_way = under_way.load(Ordering::SeqCst);
    assert!(under_way > 0, "nothing was in its middle at the cut");
    assert_eq!(ended.load(Ordering::SeqCst), FILES);
    let looked_up = neighbour.metric("vecino_strategy_lookups_total").await;
    assert!(looked_up >= FILES as u64, "each was looked up: {looked_up}");
    println!("{under_way} downloads were under way when the locator ended");
    // The flood finds nobody; the locator might have known somebody.
    let kind = own.download("nobody has this").await.kind();
    assert_eq!(kind, Kind::LookupFailed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locator_that_hangs_delays_downloads_and_fails_none() {
    let net = Net::new();
    // Takes connections and says nothing, ever.
    let frozen = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let neighbour = net
        .peer("neighbour")
        .set("LOCATE_BY", "central,flood")
        .set("URL_Request", frozen.local_addr().unwrap())
        .start_unready()
        .await;
    let provider = net.peer("provider").start().await;
    let own = net.peer("own").neighbour(neighbour.addr).start().await;
    linked(&provider, &neighbour).await;
    let contents: Vec<_> = (0..3)
        .map(|number| Content::new(&number.to_string(), 100_000))
        .collect();
    for (number, content) in contents.iter().enumerate() {
        provider.shares(&format!("{number}.bin"), content).await;
    }
    for (number, content) in contents.iter().enumerate() {
        let asked = Instant::now();
        own.downloads(&format!("{number}.bin"), content).await;
        assert!(asked.elapsed() < Duration::from_secs(6));
    }
}
