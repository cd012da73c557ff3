//! Whether others can connect to a peer: its neighbour tries, at the address that asks and nowhere
//! else; and what a peer finds wrong with itself and its neighbours.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use vecino_rest::{
    Kind, PeerId, Problem,
    body::LinkState,
    doctor::{Check, CheckState, Diagnosis, Reach, Reached},
    problem, route,
};

use crate::support::{
    content::Content,
    fixture::{Fixture, Reply, Seen},
    http::{Request, Response},
    peer::Peer,
    stage::Stage,
};

/// An id that none of these peers has.
fn somebody() -> PeerId {
    PeerId::from_bytes([9; 16])
}

/// Has the peer at `addr` connect to `url`, as `peer` who asks from the address `from`.
async fn ask(addr: SocketAddr, peer: PeerId, url: &str, from: &str) -> Response {
    let body = serde_json::json!({ "peer": peer, "url": url }).to_string();
    let from: IpAddr = from.parse().unwrap();
    let request = Request::json(route::NEIGHBOUR_REACH, body).from(Some(from));
    request.send(addr).await
}

async fn outcome(addr: SocketAddr, peer: PeerId, url: &str, from: &str) -> Reach {
    let response = ask(addr, peer, url, from).await;
    let reached: Reached = response.json();
    assert_eq!(reached.seen, from.parse::<IpAddr>().unwrap());
    reached.outcome
}

/// An address that nobody listens on.
fn closed() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

async fn diagnosis(peer: &Peer) -> Vec<Check> {
    peer.get(route::DOCTOR).await.json::<Diagnosis>().checks
}

/// The only check of that name.
#[track_caller]
fn only(checks: &[Check], what: &str) -> Check {
    let mut found = checks.iter().filter(|check| check.check == what);
    let check = found
        .next()
        .unwrap_or_else(|| panic!("{what} in {checks:?}"));
    assert!(found.next().is_none(), "{checks:?}");
    check.clone()
}

/// Somebody who says this to everything.
async fn always(reply: Reply) -> Fixture {
    Fixture::start(Arc::new(move |_: &Seen| reply.clone())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_peer_that_asks_is_connected_to_and_only_by_its_id() {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let own = stage.peer("own").start().await;
    let victim = always(Reply::new("200 OK", "secret")).await;
    let (me, here) = (own.id(), "127.0.0.1");
    let reach = async |peer, url: &str, from| outcome(neighbour.addr, peer, url, from).await;
    assert_eq!(reach(me, &own.url(), here).await, Reach::Reached);
    assert_eq!(
        reach(somebody(), &own.url(), here).await,
        Reach::AnotherPeer
    );
    assert_eq!(
        reach(neighbour.id(), &own.url(), here).await,
        Reach::Yourself
    );
    let nobody = format!("http://{}", closed());
    assert_eq!(reach(me, &nobody, here).await, Reach::Refused);
    // One small question goes to what answers there, and nothing of its answer comes back.
    assert_eq!(reach(me, &victim.url(), here).await, Reach::NotAPeer);
    let seen = victim.seen();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(seen[0].path, route::reach(&me));
    victim.forget();
    // Whoever asks from elsewhere has nobody connected to here.
    assert_eq!(
        reach(me, &victim.url(), "127.0.0.2").await,
        Reach::Elsewhere
    );
    let by_name = format!("http://localhost:{}", victim.addr.port());
    assert_eq!(reach(me, &by_name, "127.0.0.2").await, Reach::Elsewhere);
    let outside = "http://192.0.2.1:80";
    assert_eq!(reach(me, outside, here).await, Reach::Elsewhere);
    assert_eq!(victim.seen().len(), 0, "somebody else was connected to");
    for url in [
        "http://169.254.169.254:80",
        "http://0.0.0.0:80",
        "http://127.0.0.1:80/path",
        "http://u:p@127.0.0.1:80",
        "ftp://127.0.0.1:21",
        "",
    ] {
        let response = ask(neighbour.addr, me, url, here).await;
        assert_eq!(
            (response.status, response.kind()),
            (400, Kind::BadRequest),
            "{url}"
        );
    }
}

/// Behind a proxy on its machine everybody seems to come from loopback.
#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_outside_connects_to_nothing_on_its_own_loopback() {
    let stage = Stage::start().await;
    let neighbour = stage
        .peer("neighbour")
        .set("PUBLIC_URL", "http://192.0.2.10:80")
        .start()
        .await;
    let victim = always(Reply::new("200 OK", "secret")).await;
    for host in ["127.0.0.1", "localhost"] {
        let url = format!("http://{host}:{}", victim.addr.port());
        let outcome = outcome(neighbour.addr, somebody(), &url, "127.0.0.1").await;
        assert_eq!(outcome, Reach::Elsewhere, "{host}");
    }
    assert_eq!(victim.seen().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_too_often_is_not_connected_to() {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let victim = always(Reply::new("200 OK", "")).await;
    let mut busy = 0;
    for _ in 0..50 {
        let response = ask(neighbour.addr, somebody(), &victim.url(), "127.0.0.1").await;
        match response.status {
            200 => {}
            503 => {
                assert_eq!(response.kind(), Kind::Busy);
                assert!(response.header("retry-after").is_some());
                busy += 1;
            }
            other => panic!("{other}: {}", response.text()),
        }
    }
    assert_eq!(victim.seen().len(), 50 - busy);
    assert!(busy >= 10, "{busy} of 50 were refused");
    // That costs others nothing.
    let other = ask(
        neighbour.addr,
        somebody(),
        "http://127.0.0.3:1",
        "127.0.0.3",
    )
    .await;
    assert_eq!(other.status, 200, "{}", other.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_says_whether_it_can_be_reached_and_what_to_do() {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let url = neighbour.url();
    let other = always(Reply::new("200 OK", "hello")).await;
    let nobody = format!("http://{}", closed());
    for (label, public_url, expected) in [
        ("reached", None, None),
        (
            "refused",
            Some(nobody),
            Some("connection refused; open the port or set PUBLIC_URL"),
        ),
        (
            "another",
            Some(url.clone()),
            Some("another peer answers there; set PUBLIC_URL to where this peer is"),
        ),
        (
            "no peer",
            Some(other.url()),
            Some("what answers there is no peer; set PUBLIC_URL to where this peer is"),
        ),
    ] {
        let mut plan = stage.peer(label).neighbour(neighbour.addr);
        if let Some(public_url) = &public_url {
            plan = plan.set("PUBLIC_URL", public_url);
        }
        let own = plan.start().await;
        let check = only(&diagnosis(&own).await, "reach");
        let reach = own.status().await.reach.expect("asked just now");
        assert_eq!(reach.neighbour, url);
        match (expected, public_url) {
            (Some(expected), Some(at)) => {
                let sentence = format!("neighbour {url} cannot reach {at}: {expected}");
                assert_eq!(reach.problem.as_deref(), Some(&*sentence));
                assert_eq!(reach.state, LinkState::Down);
                assert_eq!(check.state, CheckState::Fail);
                let next = check.next.expect("what to do");
                assert_eq!(format!("{}; {next}", check.detail), sentence);
            }
            _ => {
                assert_eq!((reach.state, &*reach.url), (LinkState::Up, &*own.url()));
                assert_eq!(reach.problem, None);
                assert_eq!(check.state, CheckState::Ok, "{check:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_neighbour_is_told_from_the_others() {
    let stage = Stage::start().await;
    let older = Problem::new(Kind::NotFound, "there is no route");
    let older = Reply::new("404 Not Found", serde_json::to_vec(&older).unwrap())
        .with(format!("Content-Type: {}", problem::MEDIA_TYPE));
    let tomorrow = SystemTime::now() + Duration::from_secs(86_400 + 30);
    let tomorrow = format!("Date: {}", httpdate::fmt_http_date(tomorrow));
    let first_system = |seen: &Seen| match seen.path.as_str() {
        "/pedirRecurso" => Reply::new("200 OK", "404"),
        _ => Reply::new("404 Not Found", ""),
    };
    let garbage = Reply {
        head: vec!["SSH-2.0-OpenSSH_9.9".to_owned()],
        ..Reply::new("", "")
    };
    for (what, neighbour, state, said) in [
        (
            "older",
            always(older.clone()).await,
            CheckState::Ok,
            "it did not try",
        ),
        (
            "tomorrow",
            always(older.with(tomorrow)).await,
            CheckState::Warn,
            " s ahead of this machine's",
        ),
        (
            "first system",
            Fixture::start(Arc::new(first_system)).await,
            CheckState::Ok,
            "of the first system",
        ),
        (
            "another server",
            always(Reply::new("404 Not Found", "<html>")).await,
            CheckState::Fail,
            "does not answer as a peer: what answers there is no peer",
        ),
        (
            "no HTTP",
            always(garbage).await,
            CheckState::Fail,
            "does not answer as a peer: what answers there is no peer: it does not speak HTTP/1.1",
        ),
    ] {
        let own = stage.peer(what).neighbour(neighbour.addr).start().await;
        let check = only(&diagnosis(&own).await, "neighbour");
        assert_eq!(check.state, state, "{what}: {check:?}");
        assert!(check.detail.contains(said), "{what}: {check:?}");
    }
    let own = stage.peer("nobody").neighbour(closed()).start().await;
    let checks = diagnosis(&own).await;
    let check = only(&checks, "neighbour");
    assert!(check.detail.ends_with("connection refused"), "{check:?}");
    assert!(check.next.is_some_and(|next| next.contains("URL_PEERSU")));
    let lookups = only(&checks, "lookups");
    assert_eq!(lookups.state, CheckState::Fail);
    assert!(
        lookups.detail.contains("no neighbour answers"),
        "{lookups:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_no_peer_is_said_to_be_none_when_something_is_looked_up() {
    let stage = Stage::start().await;
    let other = always(Reply::new("404 Not Found", "<html>")).await;
    let own = stage.peer("own").neighbour(other.addr).start().await;
    let response = own.get("/v1/files/a.bin").await;
    assert_eq!((response.status, response.kind()), (503, Kind::NoNeighbour));
    let links = own.status().await.neighbours;
    assert_eq!(
        links[0].error.as_deref(),
        Some("what answers there is no peer")
    );
}

/// By another of its addresses, which no look at the settings tells.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_its_own_neighbour_is_told_so() {
    let stage = Stage::start().await;
    let (port, other) = (closed().port(), IpAddr::from([127, 0, 0, 2]));
    let own = stage
        .peer("own")
        .set("BIND", "0.0.0.0")
        .set("PORT", port)
        .set("PUBLIC_URL", format!("http://127.0.0.1:{port}"))
        .neighbour(SocketAddr::new(other, port))
        .start()
        .await;
    let check = only(&diagnosis(&own).await, "neighbour");
    assert_eq!(check.state, CheckState::Fail, "{check:?}");
    assert!(check.detail.contains("is this peer itself"), "{check:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_peer_has_nothing_to_mend_and_measures_a_provider() {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let content = Content::new("large", 6 << 20);
    let plan = stage.peer("provider").holding("large.bin", &content.bytes);
    let provider = plan.neighbour(neighbour.addr).start().await;
    provider.has_announced(1).await;
    let own = stage.peer("own").neighbour(neighbour.addr).start().await;
    let checks = diagnosis(&own).await;
    for check in &checks {
        assert_eq!(check.state, CheckState::Ok, "{check:?}");
    }
    let names: Vec<_> = checks.iter().map(|check| check.check.as_str()).collect();
    let expected = [
        "files",
        "disk",
        "online",
        "neighbour",
        "lookups",
        "reach",
        "speed",
    ];
    assert_eq!(names, expected);
    let speed = only(&checks, "speed");
    assert!(speed.detail.contains("4.00 MiB of"), "{speed:?}");
    assert!(speed.detail.contains(&provider.url()), "{speed:?}");
    assert!(
        own.fetched_files().is_empty(),
        "what was measured is thrown away"
    );
    // Asked again at once, it does not do all that again.
    let sent = provider.metric("vecino_sent_bytes_total").await;
    assert_eq!(diagnosis(&own).await, checks);
    assert_eq!(provider.metric("vecino_sent_bytes_total").await, sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_locator_it_says_what_does_not_work_and_not_where() {
    let mut stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let own = stage.peer("own").neighbour(neighbour.addr).start().await;
    stage.stop_locator().await;
    crate::support::eventually("noticed", async || !own.status().await.online).await;
    let response = own.get(route::DOCTOR).await;
    assert!(!response.text().contains(&stage.locator_addr.to_string()));
    let checks = response.json::<Diagnosis>().checks;
    for (what, said) in [
        ("online", "not registered"),
        ("lookups", "lookups do not work now"),
    ] {
        let check = only(&checks, what);
        assert_eq!(check.state, CheckState::Fail);
        assert!(
            check.detail.contains(said) && check.next.is_some(),
            "{check:?}"
        );
    }
    let unready = own.get(route::READYZ).await;
    assert_eq!(unready.status, 503);
    let unready: serde_json::Value = serde_json::from_slice(&unready.body).unwrap();
    assert_eq!(unready["parts"]["online"], false);
    let reason = unready["reasons"]["online"].as_str().unwrap();
    assert!(reason.contains("not registered"), "{reason}");
}
