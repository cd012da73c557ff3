//! Provider URLs that point inside: where no honest provider is, nobody is asked.

use vecino_rest::{
    Kind, Name,
    body::{Download, Variant},
    route,
};

use crate::support::{
    content::{Content, PIECE},
    eventually,
    fixture::{Fixture, Reply},
    http::Request,
    neighbour::{telling, variant},
    peer::path_of,
    provider::Provider,
    stage::Stage,
};

/// A peer that is not on loopback, and trusts this neighbour's answers no more than any other's.
async fn own_peer_outside(stage: &Stage, neighbour: &Fixture) -> crate::support::peer::Peer {
    let plan = stage.peer("own").without("URL_Request");
    plan.neighbour(neighbour.addr)
        .set("PUBLIC_URL", "http://192.0.2.10:80")
        .start()
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_outside_is_not_led_to_its_own_loopback() {
    let content = Content::new("inside", 3 * PIECE);
    let inner = Provider::honest(&content).await;
    let port = inner.fixture.addr.port();
    for host in [
        "127.0.0.1",
        "localhost",
        "127.1",
        "0x7f.1",
        "2130706433",
        "[::ffff:127.0.0.1]",
        "[::1]",
        "0.0.0.0",
        "127.0.0.1.",
        "[::]",
        "LOCALHOST",
        "localhost.",
        "[0:0:0:0:0:ffff:7f00:1]",
    ] {
        let urls = [format!("http://{host}:{port}")];
        let unverifiable =
            Variant::unverifiable(Name::parse("first.bin").unwrap(), urls[0].clone());
        let neighbour = telling(vec![variant("inner.bin", &content, &urls), unverifiable]).await;
        let stage = Stage::start().await;
        let own = own_peer_outside(&stage, &neighbour).await;
        for name in ["inner.bin", "first.bin"] {
            let response = own.download(name).await;
            assert!(
                matches!(response.status, 404 | 502),
                "{host}: {}",
                response.status
            );
            response.problem();
        }
        let from = format!("{}?from={}", path_of("inner.bin"), urls[0]);
        assert!(
            matches!(own.get(from).await.status, 400 | 404 | 502),
            "{host}"
        );
        let body = r#"{"name":"inner.bin"}"#;
        let begun: Download = own
            .send(&Request::json(route::DOWNLOADS, body))
            .await
            .json();
        eventually("ended", async || {
            let now: Download = own.get(route::download(&begun.id)).await.json();
            now.error.is_some()
        })
        .await;
        assert_eq!(inner.fixture.seen().len(), 0, "{host} was asked");
    }
    // The same provider is a good one for a peer on loopback.
    let neighbour = telling(vec![variant("inner.bin", &content, &[inner.fixture.url()])]).await;
    let stage = Stage::start().await;
    let own = stage.peer("near").neighbour(neighbour.addr).start().await;
    own.downloads("inner.bin", &content).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_that_are_no_providers_are_refused_at_once() {
    let content = Content::new("nowhere", 100);
    let urls: Vec<String> = [
        "http://169.254.169.254:80",
        "http://169.254.169.254",
        "http://2852039166:80",
        "http://0xa9fea9fe:80",
        "http://0251.0376.0251.0376:80",
        "http://[::ffff:169.254.169.254]:80",
        "http://[fe80::1]:80",
        "http://224.0.0.1:80",
        "http://255.255.255.255:80",
        "http://0.0.0.0:80",
        "http://0.1.2.3:80",
        "http://10.0.0.1:80/path",
        "http://u:p@10.0.0.1:80",
        "http://10.0.0.1:80?q",
        "http://10.0.0.1:80#f",
        "http://10.0.0.1:0",
        "http://10.0.0.1:99999",
        "ftp://10.0.0.1:21",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "unix:/run/x.sock",
        "",
        " ",
        "http://",
        "http:///x",
        "http://a b:80",
        "http://10.0.0.1:80\r\nX: 1",
        "//10.0.0.1:80",
    ]
    .map(str::to_owned)
    .into();
    for url in urls {
        let neighbour = telling(vec![variant("n.bin", &content, std::slice::from_ref(&url))]).await;
        let stage = Stage::start().await;
        let own = own_peer_outside(&stage, &neighbour).await;
        let asked = std::time::Instant::now();
        let response = own.download("n.bin").await;
        assert!(
            matches!(response.status, 404 | 502),
            "{url}: {}",
            response.status
        );
        response.problem();
        // Refused without an attempt: no connection was waited for.
        assert!(asked.elapsed().as_secs() < 2, "{url} was tried");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_locator_hears_of_no_inner_addresses() {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let own = stage.peer("own").neighbour(neighbour.addr).start().await;
    for from in ["http://169.254.169.254:80", "http://[fe80::1]:80"] {
        let response = own.get(format!("{}?from={from}", path_of("a.bin"))).await;
        assert_eq!(
            (response.status, response.kind()),
            (400, Kind::BadRequest),
            "{from}"
        );
    }
    // A provider that nobody announced is asked by nobody, wherever it is.
    let content = Content::new("unannounced", 100);
    let somebody = Provider::honest(&content).await;
    let from = format!("{}?from={}", path_of("a.bin"), somebody.fixture.url());
    assert_eq!(own.get(from).await.status, 404);
    assert_eq!(somebody.fixture.seen().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_that_talks_nonsense_is_survived() {
    use std::sync::Arc;
    for (what, reply) in [
        ("no JSON", Reply::new("200 OK", "<html>")),
        (
            "another shape",
            Reply::json(&serde_json::json!({"variants": 5})),
        ),
        (
            "a hostile name",
            Reply::json(
                &serde_json::json!({"variants": [{"name": "../../x", "digest": "00", "provider_count": 1}]}),
            ),
        ),
        (
            "deep",
            Reply::new("200 OK", format!("{{\"variants\":{}", "[".repeat(100_000))),
        ),
        ("500", Reply::new("500 Internal Server Error", "x")),
        (
            "a redirect",
            Reply::new("302 Found", "").with("Location: http://169.254.169.254/"),
        ),
        ("too much", Reply::new("200 OK", vec![b' '; 9 << 20])),
        (
            "garbage",
            Reply {
                head: vec!["\0".to_owned()],
                ..Reply::new("", "")
            },
        ),
    ] {
        let neighbour = Fixture::start(Arc::new(move |_| reply.clone())).await;
        let stage = Stage::start().await;
        let own = stage
            .peer("own")
            .without("URL_Request")
            .neighbour(neighbour.addr)
            .start()
            .await;
        for path in ["/v1/files/a.bin", "/v1/locate/a.bin", "/v1/search?q=a"] {
            let response = own.get(path).await;
            assert!(
                matches!(response.status, 501 | 503),
                "{what} {path}: {}",
                response.status
            );
            let problem = response.problem();
            assert!(!problem.detail.contains("169.254"), "{problem:?}");
        }
    }
}
