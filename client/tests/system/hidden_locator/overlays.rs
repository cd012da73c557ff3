//! The same, when lookups go over an overlay: with the locator up, and with it down, of which
//! such lookups take no notice.

use std::net::{SocketAddr, TcpListener};

use tonic::{Code, Status};
use vecino_rest::{body::Located, route, zone::ZoneLayout};

use super::{
    HIDDEN, Lookups, Refusing, by_every_verb, over_http, peers_of, requests, tells_nothing,
};
use crate::{
    cluster::{Locator, Peer, eventually},
    witness::Secret,
};

/// One zone, so that its members know each other.
fn locator() -> Locator {
    let config = central_server::Config {
        zones: ZoneLayout::new(6, 1).unwrap(),
        ..central_server::Config::ephemeral()
    };
    Locator::start_with(HIDDEN, config)
}

/// Peers that look up by `strategies`; the last one is only there to join through.
fn network(strategies: &str, locator: SocketAddr) -> Vec<Peer> {
    let peer = || Peer::setup().locator(locator).locating_by(strategies);
    let door = peer().start();
    let mut peers = peers_of(|| peer().seed(door.overlay_addr()));
    peers.push(door);
    peers
}

/// How many variants of `name` there are for `peer`.
fn variants(peer: &Peer, name: &str) -> usize {
    let response = peer.get(&route::locate(&name.parse().unwrap()));
    match response.status {
        200 => response.json::<Located>().variants.len(),
        _ => 0,
    }
}

fn neither_up_nor_down(strategies: &str) {
    let locator = locator();
    let secret = Secret::of(locator.addr());
    let peers = network(strategies, locator.addr());
    let (own, others) = peers.split_first().unwrap();
    let expected = [
        ("remote 1", 1),
        ("remote 2", 1),
        ("mine.txt", 1),
        ("both", 2),
    ];
    // Its own share is looked up by the neighbour, too.
    eventually("everything is found", || {
        let found = expected
            .iter()
            .all(|(name, count)| variants(own, name) == *count);
        found.then_some(())
    });
    eventually("the overlay is there to be seen", || {
        let view = own.get(route::OVERLAY).ok().text();
        others
            .iter()
            .any(|peer| view.contains(&peer.id()))
            .then_some(())
    });
    tells_nothing(own, &secret, Lookups::Work, "remote 2");

    locator.stop();
    let late = Peer::setup().neighbour(others[1].addr()).start();
    eventually("lookups go on", || {
        (variants(&late, "remote 1") == 1).then_some(())
    });
    tells_nothing(&late, &secret, Lookups::Work, "remote 2");
    over_http(own, &secret, Lookups::Work, "remote 1");
    by_every_verb(own, &secret, "another content");
}

#[test]
fn a_ring_tells_nothing() {
    neither_up_nor_down("chord");
}

#[test]
fn zones_tell_nothing() {
    neither_up_nor_down("zone");
}

#[test]
fn a_flood_tells_nothing() {
    neither_up_nor_down("flood");
}

#[test]
fn a_flood_after_the_locator_tells_nothing() {
    neither_up_nor_down("central,flood");
}

/// Without a locator there are no zones, and each lookup fails.
fn without_zones(locator: SocketAddr) {
    let secret = Secret::of(locator);
    let peers = network("zone", locator);
    over_http(&peers[0], &secret, Lookups::Fail, "remote 2");
    let client = peers[0].client();
    for verb in requests::VERBS {
        let done = client.run(verb);
        secret.is_not_in(&done.stdout, &format!("stdout of {verb:?}"));
        secret.is_not_in(done.stderr.as_bytes(), &format!("stderr of {verb:?}"));
    }
}

#[test]
fn zones_do_not_tell_of_a_dead_port() {
    let held = TcpListener::bind((HIDDEN, 0)).unwrap();
    let dead = held.local_addr().unwrap();
    drop(held);
    without_zones(dead);
}

#[test]
fn zones_do_not_repeat_a_locator_that_tells_of_itself() {
    for code in [Code::ResourceExhausted, Code::Unavailable] {
        let locator = Refusing::start_on(HIDDEN, move |addr| {
            Status::new(code, format!("ask {addr}, not {addr}"))
        });
        without_zones(locator.addr());
        let joins = locator.calls("/vecino.v1.Zones/Join");
        assert!(!joins.is_empty(), "it was asked, and refused");
    }
}
