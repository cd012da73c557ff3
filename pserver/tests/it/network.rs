//! Neighbours and locators in order: the first that can answers, and nobody asks more than once.

use std::{net::TcpListener, time::Instant};

use futures_util::future::join_all;
use vecino_rest::{
    Kind,
    body::{LinkState, Page, Peer as Link},
    route,
};

use crate::support::{
    content::Content,
    http::Request,
    neighbour::{telling, variant},
    provider::Provider,
    stage::Stage,
};

/// An address where nobody listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_neighbour_is_asked_when_the_first_is_down() {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let content = Content::new("second", 1000);
    neighbour.shares("s.bin", &content).await;
    neighbour.has_announced(1).await;
    let down = nobody();
    let both = format!("{down},{}", neighbour.addr);
    let own = stage.peer("own").set("URL_PEERSU", both).start().await;
    own.downloads("s.bin", &content).await;
    assert_eq!(own.get("/v1/search?q=s").await.status, 200);
    assert_eq!(
        own.send(&Request::json("/connect", r#"{"body":["s.bin"]}"#))
            .await
            .text(),
        format!("http://{}", neighbour.addr)
    );
    let links: Page<Link> = own.get(route::PEERS).await.json();
    let states: Vec<_> = links
        .items
        .iter()
        .map(|link| (link.url.clone(), link.state))
        .collect();
    assert_eq!(
        states,
        [
            (format!("http://{down}"), LinkState::Down),
            (format!("http://{}", neighbour.addr), LinkState::Up)
        ]
    );
    assert!(links.items[0].error.is_some() && links.items[1].latency_ms.is_some());

    // All of them down: those tried are named.
    let lonely = stage
        .peer("lonely")
        .set("URL_PEERSU", format!("{down},{}", nobody()))
        .start()
        .await;
    for path in ["/v1/files/x", "/v1/locate/x", "/v1/search?q=x"] {
        let response = lonely.get(path).await;
        assert_eq!(
            (response.status, response.kind()),
            (503, Kind::NoNeighbour),
            "{path}"
        );
        let problem = response.problem();
        assert_eq!(problem.neighbours.len(), 2, "{path}");
        assert!(problem.neighbours.contains(&format!("http://{down}")));
    }
    let none = stage.peer("none").start().await;
    let problem = none.get("/v1/files/x").await.problem();
    assert_eq!(problem.kind(), Some(Kind::NoNeighbour));
    assert!(problem.detail.contains("URL_PEERSU"), "{problem:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_neighbour_is_asked_when_the_first_cannot_look_up() {
    let stage = Stage::start().await;
    let content = Content::new("cannot", 1000);
    let provider = Provider::honest(&content).await;
    stage.announce_provider("c.bin", &provider).await;
    let cannot = stage
        .peer("cannot")
        .set("URL_Request", nobody())
        .start_unready()
        .await;
    let can = stage.peer("can").start().await;
    let own = stage
        .peer("own")
        .set("URL_PEERSU", format!("{},{}", cannot.addr, can.addr))
        .start()
        .await;
    own.downloads("c.bin", &content).await;
    // A first neighbour that answers is believed: the second is not asked.
    let empty = telling(Vec::new()).await;
    let own = stage
        .peer("own2")
        .set("URL_PEERSU", format!("{},{}", empty.addr, can.addr))
        .start()
        .await;
    assert_eq!(own.download("c.bin").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_locator_is_asked_when_the_first_is_down() {
    let stage = Stage::start().await;
    let content = Content::new("locators", 1000);
    let both = format!("{},{}", nobody(), stage.locator_addr);
    let neighbour = stage
        .peer("neighbour")
        .set("URL_Request", &both)
        .start()
        .await;
    let sharing = stage
        .peer("sharing")
        .set("URL_Request", &both)
        .start()
        .await;
    sharing.shares("l.bin", &content).await;
    sharing.has_announced(1).await;
    let own = stage.peer("own").neighbour(neighbour.addr).start().await;
    own.downloads("l.bin", &content).await;
    assert_eq!(own.get("/v1/search?q=l").await.status, 200);
    // The dead one does not cost every lookup its timeout.
    let began = Instant::now();
    for number in 0..10 {
        assert_eq!(
            own.get(format!("/v1/locate/none{number}")).await.status,
            404
        );
    }
    assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_question_of_many_is_looked_up_once() {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let provider = Provider::honest(&Content::new("c", 10)).await;
    stage.announce_provider("known.bin", &provider).await;
    let mut own = Vec::new();
    for number in 0..3 {
        own.push(
            stage
                .peer(&format!("own{number}"))
                .neighbour(neighbour.addr)
                .start()
                .await,
        );
    }
    for (name, status) in [("known.bin", 200), ("unknown.bin", 404)] {
        let before = neighbour.metric("vecino_strategy_lookups_total").await;
        let asked = join_all((0..60).map(|n| own[n % 3].get(format!("/v1/locate/{name}")))).await;
        assert!(asked.iter().all(|response| response.status == status));
        let after = neighbour.metric("vecino_strategy_lookups_total").await;
        assert_eq!(after - before, 1, "{name}");
    }
    assert_eq!(
        neighbour
            .metric("vecino_lookups_total{outcome=\"found\"}")
            .await,
        60
    );
    assert_eq!(
        neighbour
            .metric("vecino_lookups_total{outcome=\"unknown\"}")
            .await,
        60
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_is_never_its_own_provider() {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let own = stage.peer("own").neighbour(neighbour.addr).start().await;
    let content = Content::new("own", 100);
    own.shares("own.bin", &content).await;
    own.has_announced(1).await;
    let from = own
        .get(format!("/v1/files/own.bin?from={}", own.id()))
        .await;
    assert!(matches!(from.status, 200 | 404), "{}", from.status);
    // Told of itself by a neighbour, without its id: it does not run in circles.
    let url = format!("http://{}", own.addr);
    let fooling = telling(vec![variant("loop.bin", &content, &[url])]).await;
    let fooled = stage.peer("fooled").neighbour(fooling.addr).start().await;
    fooled.downloads("loop.bin", &content).await;
}
