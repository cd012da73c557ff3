//! A network without any locator, as people use it: the client links peers, finds out what they
//! share, and downloads it.

use crate::{
    cluster::{Peer, Setup, eventually},
    content::{assert_same, bytes},
};

fn flooding() -> Setup {
    Peer::setup().locating_by("flood")
}

#[test]
fn what_a_peer_two_links_away_shares_is_discovered_searched_and_downloaded() {
    let content = bytes("song", (2 << 20) + 17);
    let far = flooding()
        .file("music/far song.ogg", content.clone())
        .start();
    let near = flooding().file("near.txt", *b"near").start();
    let neighbour = flooding().start();
    let own = flooding().neighbour(neighbour.addr()).start();
    for peer in [&far, &near, &neighbour, &own] {
        peer.await_files();
    }
    let client = own.client();
    assert_eq!(client.run(&["search", "song"]).code, 1, "nothing is known");
    let overlay = |peer: &Peer| peer.overlay_addr().to_string();
    client.run(&["connect", &overlay(&neighbour)]).ok();
    near.client().run(&["connect", &overlay(&neighbour)]).ok();
    let linked = near
        .client()
        .run(&["connect", &overlay(&far), "--json"])
        .ok();
    assert_eq!(linked.json()[0]["peer"], far.id());
    assert_eq!(linked.json()[0]["state"], "up");

    let fetched = client.run(&["fetch", "--json", "--wait", "10"]).ok().json();
    let end = fetched.last().unwrap();
    assert_eq!((&end["event"], &end["files"]), (&"end".into(), &2.into()));
    assert_eq!(end["complete"], true);
    let found = client.run(&["search", "far", "so", "--json"]).ok().json();
    assert_eq!(found[0]["name"], "music/far song.ogg");
    let listed = client.run(&["list", "--network", "--json"]).ok().json();
    assert_eq!(listed.len(), 2);

    // The lookup goes through the neighbour, as any other.
    let downloaded = client.download("music/far song.ogg", &[]);
    assert_same(&downloaded, &content, "the song");
    let peers = client.run(&["peers", "--json"]).ok().json();
    let kinds: Vec<_> = peers.iter().map(|peer| &peer["kind"]).collect();
    assert_eq!(kinds, ["neighbour", "flood"]);
    assert!(!client.run(&["overlay"]).ok().stdout.is_empty());

    near.client().run(&["disconnect", &far.id()]).ok();
    eventually("ended at both ends", || {
        let left = far.client().run(&["peers", "--json"]).ok().json();
        left.is_empty().then_some(())
    });
    assert_eq!(near.client().run(&["disconnect", &far.id()]).code, 3);
}

#[test]
fn what_the_own_peer_discovered_is_downloaded_though_its_neighbour_cannot_look_it_up() {
    let content = bytes("found", (1 << 20) + 3);
    let far = flooding().file("found.bin", content.clone()).start();
    let near = flooding().start();
    // Without any link.
    let neighbour = flooding().start();
    let own = flooding().neighbour(neighbour.addr()).start();
    for peer in [&far, &near, &neighbour, &own] {
        peer.await_files();
    }
    let client = own.client();
    let overlay = |peer: &Peer| peer.overlay_addr().to_string();
    client.run(&["connect", &overlay(&near)]).ok();
    near.client().run(&["connect", &overlay(&far)]).ok();
    assert_eq!(client.run(&["download", "found.bin"]).code, 6);
    client.run(&["fetch", "--wait", "10"]).ok();
    let located = client.run(&["locate", "found.bin", "--json"]).ok().json();
    let providers = &located[0]["variants"][0]["providers"];
    assert_eq!(providers[0]["url"], format!("http://{}", far.addr()));
    let downloaded = client.download("found.bin", &["--direct"]);
    assert_same(&downloaded, &content, "from the provider itself");
    let downloaded = client.download("found.bin", &[]);
    assert_same(&downloaded, &content, "through the own peer");
    assert_eq!(client.run(&["download", "another.bin"]).code, 6);
}
