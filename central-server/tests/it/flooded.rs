//! Who sends as much as the contract lets through: memory stays bounded, and others are answered.
//! The locator is a process of its own, so that its memory can be told from the test's.

#![cfg(target_os = "linux")]

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use vecino_grpc::v1;

use crate::{process::Process, support::*};

/// Bytes that the locator may have had at most: the floods below would be several times that if
/// they were kept.
const MEMORY: u64 = 600 << 20;
/// Peers that flood at once.
const FLOODING: u8 = 6;
/// The smallest record takes two bytes of a message, and forty times that once it is read.
const NAMES: usize = 1_000_000;
/// Silent streams, over some connections.
const CONNECTIONS: usize = 40;
const STREAMS: usize = 30;

fn peak_bytes(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id()));
    let status = status.expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kib.expect("Linux tells")
        .trim()
        .parse::<u64>()
        .expect("a number")
        << 10
}

/// Looks up until all of `floods` are done; how often it did.
async fn lookups_during<T>(client: &mut Client, floods: &[tokio::task::JoinHandle<T>]) -> usize {
    let mut lookups = 0;
    while lookups == 0 || !floods.iter().all(tokio::task::JoinHandle::is_finished) {
        let found = tokio::time::timeout(DEADLINE, providers(client, by_name("a")));
        assert_eq!(found.await.expect("answered in time").len(), 1);
        lookups += 1;
    }
    lookups
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_million_names_in_one_announce_cost_bounded_memory_and_harm_no_lookup() {
    let directory = tempfile::tempdir().expect("a directory");
    let process = Process::with_lease(directory.path(), 600);
    let mut client = connect(process.addr()).await;
    let mut peer = Peer::register(client.clone(), registration(1)).await;
    peer.announce(&[record("a", "one")]).await;
    let floods: Vec<_> = (2..2 + FLOODING)
        .map(|number| {
            let addr = process.addr();
            tokio::spawn(async move {
                let mut peer = Peer::register(connect(addr).await, registration(number)).await;
                let names = vec![v1::Record::default(); NAMES];
                let batch = peer.batch(names, Vec::new());
                // Slow as the machine may be: the test itself is not optimised.
                peer.send_within(batch, DEADLINE * 3)
                    .await
                    .expect_err("refused")
            })
        })
        .collect();
    lookups_during(&mut client, &floods).await;
    for flood in floods {
        let refused = flood.await.expect("ends");
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        assert!(refused.message().contains("1000000"), "{refused:?}");
    }
    let peak = peak_bytes(&process);
    assert!(peak < MEMORY, "{} MiB", peak >> 20);
    assert_eq!(peer.announce(&[record("b", "two")]).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn streams_without_end_cost_bounded_memory_and_harm_no_lookup() {
    let directory = tempfile::tempdir().expect("a directory");
    let process = Process::with_lease(directory.path(), 600);
    let mut client = connect(process.addr()).await;
    let mut peer = Peer::register(client.clone(), registration(1)).await;
    peer.announce(&[record("a", "one")]).await;
    let floods: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let addr = process.addr();
            tokio::spawn(async move {
                let channel = channel(addr).await;
                let mut open = Vec::new();
                for _ in 0..STREAMS {
                    let (sender, receiver) = mpsc::channel::<v1::LocateStreamRequest>(1);
                    let mut client = Client::new(channel.clone());
                    let stream = client.locate_stream(ReceiverStream::new(receiver));
                    open.push((sender, soon(stream).await.expect("opens")));
                }
                open
            })
        })
        .collect();
    lookups_during(&mut client, &floods).await;
    let mut open = Vec::new();
    for flood in floods {
        open.extend(flood.await.expect("opens"));
    }
    assert_eq!(open.len(), CONNECTIONS * STREAMS);
    for _ in 0..100 {
        assert_eq!(soon(providers(&mut client, by_name("a"))).await.len(), 1);
    }
    peer.kept_alive().await.expect("kept alive");
    let peak = peak_bytes(&process);
    assert!(peak < MEMORY, "{} MiB", peak >> 20);
}
