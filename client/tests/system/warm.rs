//! A locate through the whole chain costs no new connection once it is warm.

use std::thread::available_parallelism;

use vecino_rest::route;

use crate::{
    cluster::{Locator, Peer, eventually},
    http::{Connection, metric},
};

/// Lookups of different names, so that no answer is remembered.
const LOOKUPS: usize = 200;

/// What counts connections along the way, read over connections that are open already.
struct Counters {
    neighbour: Connection,
    locator: Connection,
}

impl Counters {
    fn read(&mut self) -> (u64, u64) {
        (
            metric(&mut self.neighbour, "vecino_http_connections_total"),
            metric(&mut self.locator, "vecino_grpc_connections_total"),
        )
    }

    /// Lookups that reached the locator.
    fn lookups(&mut self) -> u64 {
        let labels = [
            r#"vecino_lookups_total{kind="stream",outcome="found"}"#,
            r#"vecino_lookups_total{kind="stream",outcome="none"}"#,
        ];
        labels
            .map(|name| metric(&mut self.locator, name))
            .iter()
            .sum()
    }
}

#[test]
fn a_warm_locate_opens_no_connection() {
    let locator = Locator::start();
    let names: Vec<String> = (0..LOOKUPS).map(|index| format!("file {index}")).collect();
    let neighbour = names
        .iter()
        .fold(Peer::setup().locator(locator.addr()), |setup, name| {
            setup.file(name, name.as_str())
        });
    let neighbour = neighbour.start();
    let own = Peer::setup().neighbour(neighbour.addr()).start();
    neighbour.await_ready();
    eventually("all is announced", || {
        (neighbour.status().files.announced == LOOKUPS as u64).then_some(())
    });
    let mut counters = Counters {
        neighbour: Connection::open(neighbour.addr()),
        locator: Connection::open(locator.metrics_addr()),
    };

    // One client that keeps its connection: everything behind it is kept as well.
    let mut client = Connection::open(own.addr());
    let locate = |client: &mut Connection, name: &str| {
        client.get(&route::locate(&name.parse().unwrap())).ok()
    };
    locate(&mut client, &names[0]);
    let (warm, looked_up) = (counters.read(), counters.lookups());
    for name in &names[1..] {
        locate(&mut client, name);
    }
    assert_eq!(
        counters.read(),
        warm,
        "(neighbour, locator) after {LOOKUPS}"
    );
    let answered = counters.lookups() - looked_up;
    assert_eq!(answered, LOOKUPS as u64 - 1, "each went to the locator");

    // Clients that come and go: a connection a worker of the own peer at most.
    let workers = available_parallelism().unwrap().get() as u64;
    for name in &names {
        locate(&mut Connection::open(own.addr()), name);
    }
    let (neighbour_after, locator_after) = counters.read();
    assert!(
        neighbour_after - warm.0 < workers.max(2),
        "{} new connections for {workers} workers",
        neighbour_after - warm.0
    );
    assert_eq!(locator_after, warm.1);
}
