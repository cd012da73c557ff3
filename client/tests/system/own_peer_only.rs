//! The client connects to its own peer and to nobody else, unless `--direct` says so.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{
    client::{Client, finish},
    cluster::{DEADLINE, Locator, Peer, eventually, ring},
    content::{assert_same, bytes},
    proxy::Proxy,
    sockets::remote_ends,
};

/// Whom the client was seen to be connected to, from its start to its end. The provider's gate is
/// closed until the client waits for the bytes, so that what delivers them to it is there to be
/// seen.
fn talks_to(client: &Client, provider: &Proxy, args: &[&str]) -> BTreeSet<SocketAddr> {
    provider.close_gate();
    let asked = || provider.sent().iter().map(Vec::len).sum::<usize>();
    let asked_before = asked();
    let mut child = client.start(args);
    let id = child.id();
    let seen: Arc<Mutex<BTreeSet<SocketAddr>>> = Arc::default();
    let ended = Arc::new(AtomicBool::new(false));
    let watch = std::thread::spawn({
        let (seen, ended) = (seen.clone(), ended.clone());
        move || {
            let begun = std::time::Instant::now();
            while !ended.load(Ordering::SeqCst) && begun.elapsed() < DEADLINE {
                let ends = remote_ends(id);
                seen.lock().unwrap().extend(ends);
                std::thread::yield_now();
            }
        }
    });
    eventually("the provider is asked", || {
        let ended = child.try_wait().unwrap();
        assert!(ended.is_none(), "{args:?} asked no provider: {ended:?}");
        (asked() > asked_before).then_some(())
    });
    // Whoever asked the provider is connected to it now, and the client to somebody.
    let now = eventually("the client is connected", || {
        let ends = remote_ends(id);
        (!ends.is_empty()).then_some(ends)
    });
    seen.lock().unwrap().extend(now);
    provider.open_gate();
    finish(child).ok();
    ended.store(true, Ordering::SeqCst);
    watch.join().unwrap();
    let seen = seen.lock().unwrap();
    seen.clone()
}

#[test]
fn the_client_connects_to_its_own_peer_only_unless_direct() {
    let locator = Locator::start();
    let content = bytes("content", 5 << 20);
    let mut gate = Proxy::reserve();
    let peer = || Peer::setup().locator(locator.addr());
    let provider = peer().public_addr(gate.addr());
    let provider = provider
        .file("first", content.as_slice())
        .file("second", content.as_slice());
    let peers = ring(&[peer(), peer(), provider]);
    gate.lead_to(peers[2].addr());
    let own = &peers[0];
    eventually("it is announced", || own.locate("second"));

    let client = own.client();
    let args = ["download", "first", "-o", "direct", "--direct"];
    let direct = talks_to(&client, &gate, &args);
    assert_same(&client.read("direct"), &content, "--direct");
    assert_eq!(
        direct,
        BTreeSet::from([own.addr(), gate.addr()]),
        "own peer {}, provider {}: --direct shows that a connection would be seen",
        own.addr(),
        gate.addr()
    );

    let args = ["download", "second", "-o", "through"];
    let through = talks_to(&client, &gate, &args);
    assert_same(&client.read("through"), &content, "through the own peer");
    assert_eq!(through, BTreeSet::from([own.addr()]));

    // It has the own peer measure a provider, and does not go there itself.
    let asked = talks_to(&client, &gate, &["doctor"]);
    assert_eq!(asked, BTreeSet::from([own.addr()]));
}
