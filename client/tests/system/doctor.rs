//! `client doctor` in a real ring: nothing to mend while it is well, and what to mend when not.

use crate::{
    client::Done,
    cluster::{Locator, Peer, eventually, ring},
    content::bytes,
};

/// The states of the checks of that name.
fn states(done: &Done, what: &str) -> Vec<String> {
    let checks = done.json();
    let of_name = checks.iter().filter(|check| check["check"] == what);
    of_name
        .map(|check| check["state"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_ring_is_well_until_a_neighbour_dies() {
    let locator = Locator::start();
    let peer = || Peer::setup().locator(locator.addr());
    let large = peer().file("large.bin", bytes("large", 5 << 20).as_slice());
    let mut peers = ring(&[peer(), peer(), large]);
    eventually("it is announced", || peers[0].locate("large.bin"));
    let client = peers[0].client();
    let done = client.run(&["doctor", "--json"]).ok();
    let checks = done.json();
    assert!(checks.len() >= 10, "{checks:?}");
    for check in &checks {
        assert_eq!(check["state"], "ok", "{check}");
    }

    peers.remove(1).stop();
    // What was found a moment ago may be told again.
    let done = eventually("it is noticed", || {
        let done = client.run(&["doctor", "--json"]);
        (done.code == 1).then_some(done)
    });
    assert_eq!(states(&done, "peer"), ["ok"]);
    assert_eq!(states(&done, "neighbour"), ["fail"]);
    assert_eq!(states(&done, "lookups"), ["fail"]);
}
