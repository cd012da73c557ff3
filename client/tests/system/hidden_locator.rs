//! A client never learns the locator: whatever reaches it, with the locator up, down and wrong,
//! tells neither its address nor its port.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    thread,
};

use tonic::{Code, Status};
use vecino_rest::route;

mod overlays;
mod requests;

use self::requests::Request;
use crate::{
    cluster::{Locator, Peer, Setup, eventually, start_ring},
    foreign::refusing::Refusing,
    http::{self, Connection},
    witness::Secret,
};

/// An address that nothing else has.
const HIDDEN: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 83, 61, 47));

/// Own peer, neighbour, and a third peer; two of them share different contents as `both`.
fn peers(locator: SocketAddr) -> Vec<Peer> {
    peers_of(|| Peer::setup().locator(locator))
}

fn peers_of(peer: impl Fn() -> Setup) -> Vec<Peer> {
    let peers = start_ring(&[
        peer().file("held", "held here").file("mine.txt", "mine"),
        peer().file("remote 1", "one").file("both", "this"),
        peer().file("remote 2", "two").file("both", "that"),
    ]);
    peers.iter().for_each(Peer::await_files);
    peers
}

/// What the lookups of a round must come to, lest it prove nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Lookups {
    Work,
    Fail,
}

/// Everything a client can ask for, and what it prints, tells nothing of `secret`.
fn tells_nothing(own: &Peer, secret: &Secret, lookups: Lookups, fresh: &str) {
    over_http(own, secret, lookups, fresh);
    by_the_client(own, secret, lookups, fresh);
}

fn over_http(own: &Peer, secret: &Secret, lookups: Lookups, fresh: &str) {
    let see = |what: &str, response: &http::Response| {
        secret.is_not_in(response.head.as_bytes(), what);
        secret.is_not_in(&response.body, what);
    };
    for Request {
        method,
        path,
        header,
        body,
    } in requests::all(fresh)
    {
        let mut connection = Connection::open(own.addr());
        let headers = [("Content-Type", "application/json"), header];
        let response = connection.send(method, &path, &headers, body.as_bytes());
        see(&format!("{method} {path} {header:?} {body}"), &response);
    }
    let malformed = Connection::open(own.addr()).raw(b"NONSENSE\r\n\r\n", false);
    see("nonsense", &malformed);

    let expected = match lookups {
        Lookups::Work => 200,
        Lookups::Fail => 503,
    };
    let path = route::file(&fresh.parse().unwrap());
    let response = own.get(&path);
    assert_eq!(response.status, expected, "{}", response.text());
    see(&path, &response);
    // How the downloads ended that were begun above.
    eventually("no download runs", || {
        let response = own.get(route::DOWNLOADS).ok();
        see("the downloads", &response);
        let text = response.text();
        (!text.contains("locating") && !text.contains("running")).then_some(())
    });
}

/// Every verb, as text, as JSON and with its log; and the loop.
fn by_every_verb(own: &Peer, secret: &Secret, fresh: &str) {
    let client = own.client();
    let loud = own.client().env("RUST_LOG", "trace");
    client.write("file", fresh.as_bytes());
    loud.write("file", fresh.as_bytes());
    for verb in requests::VERBS {
        let with_json = [*verb, &["--json"]].concat();
        for done in [client.run(verb), client.run(&with_json), loud.run(verb)] {
            secret.is_not_in(&done.stdout, &format!("stdout of {verb:?}"));
            secret.is_not_in(done.stderr.as_bytes(), &format!("stderr of {verb:?}"));
        }
    }
    let done = client.run_with(&[], requests::LOOP);
    secret.is_not_in(&done.stdout, "the loop");
    secret.is_not_in(done.stderr.as_bytes(), "the loop");
}

fn by_the_client(own: &Peer, secret: &Secret, lookups: Lookups, fresh: &str) {
    by_every_verb(own, secret, fresh);
    let client = own.client();
    for (direct, also) in [(false, "remote 1"), (true, "remote 2")] {
        let more: &[&str] = if direct { &["--direct"] } else { &[] };
        let args = [&["download", also, "--if-exists", "overwrite"], more].concat();
        let done = client.run(&args);
        let expected = match lookups {
            Lookups::Work => 0,
            Lookups::Fail => 6,
        };
        assert_eq!(done.code, expected, "{args:?}: {}", done.stderr);
        secret.is_not_in(done.stderr.as_bytes(), &format!("{args:?}"));
    }
}

#[test]
fn neither_up_nor_down_is_the_locator_told_of() {
    let locator = Locator::start_on(HIDDEN);
    let secret = Secret::of(locator.addr());
    let peers = peers(locator.addr());
    peers.iter().for_each(Peer::await_ready);
    let own = &peers[0];
    eventually("everything is announced", || {
        let known = ["remote 1", "remote 2", "mine.txt"];
        let all = known.iter().all(|name| own.locate(name).is_some());
        let both = own.locate("both").is_some_and(|l| l.variants.len() == 2);
        (all && both).then_some(())
    });
    tells_nothing(own, &secret, Lookups::Work, "remote 2");

    locator.stop();
    eventually("the peers know", || (!own.status().online).then_some(()));
    // Neither held nor remembered: the lookup fails.
    let peer = Peer::setup().neighbour(peers[2].addr()).start();
    eventually("nothing is remembered", || {
        (peer.get("/v1/locate/remote%201").status == 503).then_some(())
    });
    tells_nothing(&peer, &secret, Lookups::Fail, "remote 2");
    over_http(own, &secret, Lookups::Fail, "mine no more");
    by_every_verb(own, &secret, "another content");
}

#[test]
fn a_dead_port_is_not_told_of() {
    let held = TcpListener::bind((HIDDEN, 0)).unwrap();
    let dead = held.local_addr().unwrap();
    drop(held);
    let peers = peers(dead);
    tells_nothing(&peers[0], &Secret::of(dead), Lookups::Fail, "remote 2");
}

#[test]
fn a_server_that_answers_garbage_is_not_told_of() {
    let listener = TcpListener::bind((HIDDEN, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            thread::spawn(move || {
                let _ = socket.read(&mut [0; 1024]);
                let garbage = format!("HTTP/1.1 418 I am {addr}\r\nServer: {addr}\r\n\r\n{addr}\n");
                let _ = socket.write_all(garbage.as_bytes());
            });
        }
    });
    let peers = peers(addr);
    tells_nothing(&peers[0], &Secret::of(addr), Lookups::Fail, "remote 2");
}

/// It understands the question, refuses it, and says where it is.
#[test]
fn a_locator_that_tells_of_itself_is_not_repeated() {
    for code in [Code::InvalidArgument, Code::Unavailable, Code::Internal] {
        let locator = Refusing::start_on(HIDDEN, move |addr| {
            Status::new(code, format!("ask {addr}, not {addr}"))
        });
        let secret = Secret::of(locator.addr());
        let peers = peers(locator.addr());
        over_http(&peers[0], &secret, Lookups::Fail, "remote 2");
        let client = peers[0].client();
        for verb in requests::VERBS {
            let done = client.run(verb);
            secret.is_not_in(done.stderr.as_bytes(), &format!("{verb:?}"));
        }
    }
}
