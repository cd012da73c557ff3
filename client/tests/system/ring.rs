//! Four peers in a ring of neighbours, files on each: every file comes from every peer, byte for
//! byte, through the client and through plain HTTP; then that peer keeps it, lists it, and others
//! find it there.

use std::{collections::BTreeSet, path::PathBuf};

use vecino_rest::route;

use crate::{
    cluster::{Locator, Peer, Setup, eventually, ring},
    content::{assert_same, bytes},
};

const PEERS: usize = 4;
/// One file has this size ...
const LARGE: usize = 48 << 20;
/// ... and the others that take several pieces, this one.
const MEDIUM: usize = (3 << 20) + 4321;

struct Shared {
    by: usize,
    name: String,
    content: Vec<u8>,
}

fn files() -> Vec<Shared> {
    let of = |by: usize| {
        let large = if by == 2 { LARGE } else { MEDIUM };
        [
            (format!("empty {by}"), 0),
            (format!("one/byte-{by}"), 1),
            (format!("large {by}.bin"), large),
            (format!("música {by}/canción de año nuevo ñ.ogg"), 70_000),
            (format!("100%/{by} %41 is not A.txt"), 41),
            (format!("#{by}?q=1&r=2;x+y=z.txt"), 5000),
            (format!("a/b/c/d {by}/e/f.tar.gz"), 1025),
        ]
        .map(|(name, size)| Shared {
            by,
            content: bytes(&name, size),
            name,
        })
    };
    (0..PEERS).flat_map(of).collect()
}

/// Whether `asker` gets it from another peer: the empty content it has under a name of its own.
fn comes_to(file: &Shared, asker: usize) -> bool {
    file.by != asker && !file.content.is_empty()
}

/// Through plain HTTP on `peer`; whether it came from another peer.
fn over_http(peer: &Peer, file: &Shared) -> bool {
    let response = peer.download(&file.name).ok();
    let what = format!("{:?} over HTTP", file.name);
    assert_same(&response.body, &file.content, &what);
    assert_eq!(response.header(route::HEADER_VERIFIED), Some("blake3"));
    response.header(route::HEADER_SOURCE) != Some("local")
}

#[test]
fn every_file_from_every_peer_byte_for_byte() {
    let locator = Locator::start();
    let files = files();
    let setups: Vec<Setup> = (0..PEERS)
        .map(|by| {
            let own = files.iter().filter(|file| file.by == by);
            let own = own.map(|file| (file.name.as_str(), file.content.clone()));
            Peer::setup().locator(locator.addr()).files(own)
        })
        .collect();
    let peers = ring(&setups);

    for (index, file) in files.iter().enumerate() {
        eventually(&format!("{:?} is announced", file.name), || {
            peers[0].locate(&file.name)
        });
        for (asker, peer) in peers.iter().enumerate() {
            let client = || {
                let downloaded = peer.client().download(&file.name, &[]);
                assert_same(&downloaded, &file.content, &format!("{:?}", file.name));
            };
            // Who asks first has it come through the network; both ways do, in turn.
            if (index + asker) % 2 == 0 {
                let came = over_http(peer, file);
                assert_eq!(came, comes_to(file, asker), "{:?} at {asker}", file.name);
                client();
            } else {
                client();
                over_http(peer, file);
            }
        }
    }

    for (asker, peer) in peers.iter().enumerate() {
        // A file is kept a moment after its last byte was sent, and one that was here under another
        // name as well.
        let others = || files.iter().filter(|file| file.by != asker);
        eventually("all is kept", || {
            (peer.status().files.fetched >= others().count() as u64).then_some(())
        });
        let listed: BTreeSet<(String, String)> = peer
            .client()
            .run(&["list", "--json"])
            .ok()
            .json()
            .iter()
            .map(|entry| {
                let text = |field: &str| entry[field].as_str().unwrap().to_owned();
                (text("name"), text("origin"))
            })
            .collect();
        let expected = files.iter().map(|file| {
            let origin = if file.by == asker {
                "shared"
            } else {
                "fetched"
            };
            (file.name.clone(), origin.to_owned())
        });
        assert_eq!(listed, expected.collect(), "what peer {asker} lists");
        let kept: BTreeSet<_> = peer.kept().into_iter().collect();
        let expected = others().map(|file| PathBuf::from(&file.name));
        assert_eq!(kept, expected.collect(), "what peer {asker} keeps");
        for file in others() {
            let path = peer.download_dir().join(&file.name);
            let kept = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            assert_same(&kept, &file.content, &format!("{:?} as kept", file.name));
        }
    }
    for file in files.iter().filter(|file| !file.content.is_empty()) {
        eventually(&format!("four peers are known for {:?}", file.name), || {
            let located = peers[1].locate(&file.name)?;
            let providers = &located.variants[0].providers;
            (located.variants.len() == 1 && providers.len() == PEERS).then_some(())
        });
    }
    let name = &files[3].name;
    let located = peers[2]
        .client()
        .run(&["locate", name, "--json"])
        .ok()
        .json();
    let urls: BTreeSet<_> = located[0]["variants"][0]["providers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|provider| provider["url"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(urls, peers.iter().map(Peer::url).collect());
}
