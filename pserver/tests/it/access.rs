//! Who may use the client routes: by `CLIENT_ACCESS` and token, from this machine and from
//! another, and never a page of another site.

use std::{
    fs,
    net::{IpAddr, SocketAddr, UdpSocket},
};

use vecino_rest::{Kind, route};

use crate::support::{
    content::Content,
    http::Request,
    peer::{Peer, Plan},
    stage::Stage,
};

const TOKEN: &str = "a-token-of-some-length";

/// Every client route, reading and changing.
fn client_routes() -> Vec<Request> {
    let mut requests: Vec<_> = [
        "/v1/status",
        "/v1/files",
        "/v1/files/a.txt",
        "/v1/search?q=a",
        "/v1/locate/a.txt",
        "/v1/downloads",
        "/v1/downloads/1",
        "/v1/peers",
        "/metrics",
    ]
    .map(Request::get)
    .into();
    requests.push(Request::new("HEAD", "/v1/files/a.txt"));
    requests.extend(changing_routes());
    requests
}

fn changing_routes() -> Vec<Request> {
    vec![
        Request::new("PUT", "/v1/files/put.txt").body("x"),
        Request::new("DELETE", "/v1/files/deleted.txt"),
        Request::json(route::DOWNLOADS, r#"{"name":"nobody-has-it"}"#),
        Request::new("DELETE", "/v1/downloads/1"),
        Request::json(route::SESSION, r#"{"user":"ana","password":"x"}"#),
        Request::new("DELETE", route::SESSION),
    ]
}

/// An address of this machine that is not loopback. Who comes from it to loopback is not near:
/// that it is this machine shows only where both ends have the same address.
fn outer_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Sends nothing: it only asks the routing table.
    socket.connect("192.0.2.1:9").ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
}

async fn peer(plan: Plan, access: &str, token: bool) -> Peer {
    let mut plan = plan
        .set("CLIENT_ACCESS", access)
        .set("BIND", "0.0.0.0")
        .holding("a.txt", b"a");
    if token {
        let file = plan.home().join("token");
        fs::write(&file, TOKEN).unwrap();
        plan = plan.set("API_TOKEN_FILE", file.display());
    }
    plan.start().await
}

#[tokio::test(flavor = "multi_thread")]
async fn client_access_and_token_decide() {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let outer = outer_address();
    for (number, (access, token)) in [
        ("open", false),
        ("open", true),
        ("loopback", false),
        ("loopback", true),
        ("token", true),
    ]
    .into_iter()
    .enumerate()
    {
        let plan = stage
            .peer(&format!("peer{number}"))
            .neighbour(neighbour.addr);
        let own = peer(plan, access, token).await;
        let addr = SocketAddr::from(([127, 0, 0, 1], own.addr.port()));
        for (from, is_near) in [(None, true), (outer, false)] {
            if from.is_none() && !is_near {
                continue;
            }
            for (request, changes) in client_routes()
                .into_iter()
                .map(|r| (r, false))
                .chain(changing_routes().into_iter().map(|r| (r, true)))
            {
                let request = request.from(from);
                let changes = changes
                    || !(request.bytes(addr).starts_with(b"GET")
                        || request.bytes(addr).starts_with(b"HEAD"));
                let allowed = match access {
                    "open" => is_near || !changes,
                    "loopback" => is_near,
                    _ => false,
                };
                let shown = String::from_utf8(request.bytes(addr)).unwrap();
                let what = format!(
                    "{access} {token} near={is_near} {}",
                    shown.lines().next().unwrap()
                );
                let status = request.send(addr).await.status;
                if allowed {
                    assert!(!matches!(status, 401 | 403), "{what}: {status}");
                } else {
                    assert_eq!(status, if token { 401 } else { 403 }, "{what}");
                }
                if token {
                    let right = request
                        .clone()
                        .with("Authorization", format!("Bearer {TOKEN}"));
                    let status = right.send(addr).await.status;
                    assert!(!matches!(status, 401 | 403), "{what} with token: {status}");
                    for wrong in [
                        "Bearer wrong-token-of-some-length",
                        "bearer x",
                        "Bearer a-token-of-some-lengt",
                    ] {
                        let response = request
                            .clone()
                            .with("Authorization", wrong)
                            .send(addr)
                            .await;
                        assert_eq!(response.status, 401, "{what} with {wrong}");
                        assert_eq!(response.header("www-authenticate"), Some("Bearer"));
                    }
                }
            }
            // What peers ask is for peers.
            for request in [
                Request::get("/healthz"),
                Request::get("/readyz"),
                Request::get("/download/a.txt"),
                Request::get(format!("/v1/blobs/{}", Content::of(*b"a").digest)),
                Request::json("/v1/neighbour/locate", r#"{"name":"b"}"#),
                Request::json("/pedirRecurso", r#"{"body":"b"}"#),
            ] {
                assert_eq!(
                    request.from(from).send(addr).await.status,
                    200,
                    "{access} near={is_near}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_frozen_connect_is_a_lookup_and_refused_to_nobody_who_may_read() {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let Some(outer) = outer_address() else { return };
    for (access, expected) in [("open", 200), ("loopback", 403)] {
        let own = peer(stage.peer(access).neighbour(neighbour.addr), access, false).await;
        let addr = SocketAddr::from(([127, 0, 0, 1], own.addr.port()));
        let far = Request::json("/connect", r#"{"body":["nobody-has-it"]}"#).from(Some(outer));
        let response = far.send(addr).await;
        assert_eq!(response.status, expected, "{access}: {}", response.text());
        if expected == 200 {
            assert_eq!(response.text(), "404");
        }
        let near = Request::json("/connect", r#"{"body":["nobody-has-it"]}"#);
        assert_eq!(near.send(addr).await.status, 200, "{access}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_peers_own_address_is_its_own_machine() {
    let stage = Stage::start().await;
    let Some(outer) = outer_address() else { return };
    for access in ["open", "loopback"] {
        let own = peer(stage.peer(access), access, false).await;
        let addr = SocketAddr::new(outer, own.addr.port());
        let upload = Request::new("PUT", "/v1/files/by-own-address.txt").body("x");
        let response = upload.send(addr).await;
        assert_eq!(response.status, 201, "{access}: {}", response.text());
        // The other way round it cannot be told from another machine.
        let loopback = SocketAddr::from(([127, 0, 0, 1], own.addr.port()));
        let far = Request::new("PUT", "/v1/files/far.txt").body("x");
        assert_eq!(far.from(Some(outer)).send(loopback).await.status, 403);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_by_a_rebound_name_does_not_act_as_a_peer() {
    let stage = Stage::start().await;
    let own = peer(stage.peer("own"), "open", false).await;
    let addr = SocketAddr::from(([127, 0, 0, 1], own.addr.port()));
    let blob = Content::of(*b"a").digest;
    for request in [
        Request::get("/download/a.txt"),
        Request::new("POST", "/download/a.txt"),
        Request::get(format!("/v1/blobs/{blob}")),
        Request::get(format!("/v1/blobs/{blob}/pieces")),
        Request::json("/v1/neighbour/locate", r#"{"name":"b"}"#),
        Request::json("/v1/neighbour/search", r#"{"q":"b"}"#),
        Request::json("/pedirRecurso", r#"{"body":"b"}"#),
    ] {
        let shown = request.bytes(addr).escape_ascii().to_string();
        let rebound = request.clone().host("evil.example");
        for foreign in [
            rebound.clone().with("Origin", "http://evil.example"),
            rebound.clone().with("Sec-Fetch-Site", "same-origin"),
            rebound.clone().with("Sec-Fetch-Site", "none"),
            rebound.clone().with("Sec-Fetch-Mode", "cors"),
            request.clone().with("Origin", "http://evil.example"),
            request.clone().with("Origin", "null"),
            request.clone().with("Sec-Fetch-Site", "cross-site"),
        ] {
            let response = foreign.send(addr).await;
            assert_eq!(
                (response.status, response.kind()),
                (403, Kind::ForeignOrigin),
                "{}",
                foreign.bytes(addr).escape_ascii()
            );
        }
        // A peer, and curl, say neither: whatever the name by which they reach it. Nor is the
        // peer's own page refused.
        for fine in [
            request.clone(),
            rebound,
            request
                .clone()
                .with("Origin", format!("http://{addr}"))
                .with("Sec-Fetch-Site", "same-origin"),
        ] {
            assert_eq!(fine.send(addr).await.status, 200, "{shown}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_upload_makes_nothing() {
    let stage = Stage::start().await;
    let own = peer(stage.peer("own"), "token", true).await;
    assert_eq!(
        own.send(&Request::new("PUT", "/v1/files/x.bin").body("x"))
            .await
            .status,
        401
    );
    assert_eq!(
        own.send(&Request::new("DELETE", "/v1/files/a.txt"))
            .await
            .status,
        401
    );
    assert!(!own.shared("x.bin").exists());
    assert!(own.shared("a.txt").exists());
    assert_eq!(fs::read_dir(own.parts()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_sites_are_refused_on_every_client_route() {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let own = peer(stage.peer("own").neighbour(neighbour.addr), "open", true).await;
    let addr = SocketAddr::from(([127, 0, 0, 1], own.addr.port()));
    let here = format!("http://{addr}");
    let mut requests = client_routes();
    requests.push(Request::json("/connect", r#"{"body":["a.txt"]}"#));
    for request in requests {
        let request = request.with("Authorization", format!("Bearer {TOKEN}"));
        let is_head = request.bytes(addr).starts_with(b"HEAD");
        for foreign in [
            request.clone().host("evil.example"),
            request.clone().host("evil.example:80"),
            request.clone().host(&format!("{addr}.evil.example")),
            request.clone().host("localhost.evil.example"),
            request.clone().host(""),
            request.clone().with("Origin", "http://evil.example"),
            request.clone().with("Origin", "null"),
            request.clone().with("Origin", "http://127.0.0.1:1"),
            request.clone().with("Origin", b"\xff"),
            request.clone().with("Sec-Fetch-Site", "cross-site"),
            request.clone().with("Sec-Fetch-Site", "same-site"),
            request.clone().with("Sec-Fetch-Site", "nonsense"),
        ] {
            let response = foreign.send(addr).await;
            let shown = foreign.bytes(addr).escape_ascii().to_string();
            assert_eq!(response.status, 403, "{shown}");
            if !is_head {
                assert_eq!(response.kind(), Kind::ForeignOrigin, "{shown}");
            }
            assert_eq!(response.header("access-control-allow-origin"), None);
        }
        for own_page in [
            request.clone().host(&format!("localhost:{}", addr.port())),
            request
                .clone()
                .with("Origin", &here)
                .with("Sec-Fetch-Site", "same-origin"),
            request.clone().with("Sec-Fetch-Site", "none"),
        ] {
            assert_ne!(own_page.send(addr).await.status, 403);
        }
    }
    // The target itself may name the host, which then counts.
    let absolute = Request::get(format!("http://evil.example:{}/v1/status", addr.port()));
    assert_eq!(absolute.send(addr).await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_of_the_public_url_is_its_own() {
    let stage = Stage::start().await;
    let plan = stage
        .peer("own")
        .without("URL_Request")
        .set("PUBLIC_URL", "http://peer.example:81");
    let own = plan.start().await;
    for (host, status) in [
        ("peer.example:81", 200),
        ("PEER.example", 200),
        ("other.example:81", 403),
        ("peer.example.evil.example", 403),
    ] {
        assert_eq!(
            own.send(&Request::get("/v1/status").host(host))
                .await
                .status,
            status,
            "{host}"
        );
    }
}
