//! Strangers that hold connections to the overlay port.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, TcpStream},
};

use pserver::locate::overlay::MAX_FROM_AN_ADDRESS;
use tonic::transport::{Channel, Endpoint};
use vecino_grpc::v1::{ChordPingRequest, chord_client::ChordClient};

use crate::support::{
    eventually,
    peer::{Peer, Plan},
    soon,
};

/// Connections above the bound.
const ABOVE: usize = 40;

/// Whether the peer closed it; what the peer says before (its SETTINGS) is passed over.
fn is_closed(mut connection: &TcpStream) -> bool {
    loop {
        match connection.read(&mut [0; 1024]) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
}

/// A call over a connection of its own; whether it was answered at all.
async fn is_served(peer: &Peer, from: IpAddr) -> bool {
    let endpoint = Endpoint::from_shared(format!("http://{}", peer.overlay())).unwrap();
    let channel: Channel = match soon(endpoint.local_address(Some(from)).connect()).await {
        Ok(channel) => channel,
        Err(_) => return false,
    };
    let mut client = ChordClient::new(channel);
    soon(client.ping(ChordPingRequest::default())).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_are_bounded_and_closed_and_others_are_served_meanwhile() {
    let home = tempfile::tempdir().unwrap();
    let peer = Plan::new(home.path().join("peer"))
        .set("LOCATE_BY", "chord")
        .set("OVERLAY_PORT", 0)
        .start()
        .await;
    let here = IpAddr::from(Ipv4Addr::LOCALHOST);
    let elsewhere = IpAddr::from([127, 0, 0, 2]);
    let connect = |number: usize| {
        let mut connection = TcpStream::connect(peer.overlay()).unwrap();
        connection.set_nonblocking(true).unwrap();
        if number.is_multiple_of(2) {
            // Begins, and does not go on.
            connection.write_all(b"PRI * HT").unwrap();
        }
        connection
    };
    let silent: Vec<_> = (0..MAX_FROM_AN_ADDRESS + ABOVE).map(connect).collect();
    eventually("those above the bound are closed", async || {
        silent.iter().filter(|one| is_closed(one)).count() >= ABOVE
    })
    .await;
    assert!(
        is_served(&peer, elsewhere).await,
        "another address has its places"
    );
    eventually("those that say nothing are closed", async || {
        silent.iter().all(is_closed)
    })
    .await;
    assert!(is_served(&peer, here).await, "and their places are free");
}
