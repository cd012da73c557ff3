//! A restart costs no hashing: what is unchanged is recognised, and found again within a lease.

use std::{
    fs,
    time::{Duration, Instant},
};

use vecino_rest::{body::Located, route};

use crate::support::{content::Content, eventually, stage::Stage};

const FILES: usize = 20_000;
const LEASE: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_unchanged_files_are_recognised_and_located_again() {
    let stage = Stage::with_lease(LEASE).await;
    let neighbour = stage.peer("neighbour").start().await;
    let plan = stage.peer("own").neighbour(neighbour.addr);
    for number in 0..FILES {
        let dir = plan.home().join(format!("shared/{}", number % 100));
        if number < 100 {
            fs::create_dir_all(&dir).unwrap();
        }
        fs::write(dir.join(format!("file {number}")), number.to_string()).unwrap();
    }
    let own = plan.start().await;
    own.has_announced(FILES as u64).await;
    assert_eq!(own.metric("vecino_files_hashed_total").await, FILES as u64);
    assert_eq!(own.metric("vecino_files_recognised_total").await, 0);
    own.stop().await;

    let restarted = Instant::now();
    let own = plan.start().await;
    assert_eq!(own.metric("vecino_files_hashed_total").await, 0);
    assert_eq!(own.metric("vecino_hashed_bytes_total").await, 0);
    assert_eq!(
        own.metric("vecino_files_recognised_total").await,
        FILES as u64
    );
    let asking = stage.peer("asking").neighbour(neighbour.addr).start().await;
    for number in (0..FILES).step_by(997) {
        let name = format!("{}/file {number}", number % 100);
        let path = route::locate(&name.parse().unwrap());
        eventually("located", async || asking.get(&path).await.status == 200).await;
        let located: Located = asking.get(&path).await.json();
        assert_eq!(located.variants.len(), 1);
        let content = Content::of(number.to_string().into_bytes());
        assert_eq!(located.variants[0].digest, Some(content.digest));
        assert_eq!(located.variants[0].providers[0].peer, Some(own.id()));
    }
    own.has_announced(FILES as u64).await;
    assert!(restarted.elapsed() < LEASE, "{:?}", restarted.elapsed());
    asking.downloads("0/file 0", &Content::of(*b"0")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_kill_9_nothing_that_was_hashed_is_hashed_again() {
    let stage = Stage::start().await;
    let plan = stage.peer("own");
    for number in 0..300 {
        let bytes = Content::new(&format!("{number}"), 2000 + number).bytes;
        fs::create_dir_all(plan.home().join("shared")).unwrap();
        fs::write(plan.home().join(format!("shared/{number}.bin")), bytes).unwrap();
    }
    let big = Content::new("big", 3 << 20);
    let own = plan.clone().holding("big.bin", &big.bytes).spawn().await;
    own.shares("put.bin", &Content::new("put", 100)).await;
    own.kill();
    let own = plan.spawn().await;
    assert_eq!(own.metric("vecino_files_hashed_total").await, 0);
    assert_eq!(own.metric("vecino_files_recognised_total").await, 302);
    // Piece hashes came back, too.
    let pieces = own.get(route::pieces(&big.digest)).await;
    assert_eq!(
        pieces.json::<vecino_rest::body::Pieces>().pieces,
        big.pieces
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_while_the_peer_was_away_is_hashed_and_what_is_gone_is_withdrawn() {
    let stage = Stage::start().await;
    let neighbour = stage.peer("neighbour").start().await;
    let plan = stage.peer("own").neighbour(neighbour.addr);
    let own = plan
        .clone()
        .holding("same.txt", b"same")
        .holding("changed.txt", b"before")
        .holding("gone.txt", b"gone")
        .start()
        .await;
    own.has_announced(3).await;
    own.stop().await;
    let changed = plan.home().join("shared/changed.txt");
    // In place, of the same size, with the time put back.
    let modified = fs::metadata(&changed).unwrap().modified().unwrap();
    fs::write(&changed, b"after!").unwrap();
    fs::File::options()
        .write(true)
        .open(&changed)
        .unwrap()
        .set_modified(modified)
        .unwrap();
    fs::remove_file(plan.home().join("shared/gone.txt")).unwrap();
    let own = plan.start().await;
    assert_eq!(own.metric("vecino_files_hashed_total").await, 1);
    assert_eq!(own.metric("vecino_files_recognised_total").await, 1);
    own.has_announced(2).await;
    eventually("withdrawn", async || {
        own.get("/v1/locate/gone.txt").await.status == 404
    })
    .await;
    let located: Located = own.get("/v1/locate/changed.txt").await.json();
    assert_eq!(
        located.variants[0].digest,
        Some(Content::of(*b"after!").digest)
    );
    own.downloads("changed.txt", &Content::of(*b"after!")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_peer_on_the_same_directory_is_refused() {
    let stage = Stage::start().await;
    let plan = stage.peer("own").holding("a.txt", b"a");
    let own = plan.start().await;
    let id = own.id();
    let variables = plan.variables();
    let config = pserver::Config::from_vars(variables.into_iter()).unwrap();
    let second = pserver::Server::bind(config)
        .await
        .expect_err("it is in use");
    assert!(second.to_string().contains("in use"), "{second}");
    own.stop().await;
    assert_eq!(plan.start().await.id(), id, "another peer after a restart");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_index_costs_hashing_again_and_nothing_else() {
    let stage = Stage::start().await;
    for (number, spoil) in spoils().into_iter().enumerate() {
        let mut plan = stage.peer(&format!("own{number}"));
        for file in 0..40 {
            plan = plan.holding(&format!("{file}.txt"), file.to_string().as_bytes());
        }
        plan.spawn().await.kill();
        let index = plan.home().join("data/index.redb");
        let mut bytes = fs::read(&index).unwrap();
        spoil(&mut bytes);
        fs::write(&index, bytes).unwrap();
        let own = plan.spawn().await;
        assert_eq!(own.files().await.len(), 40, "{number}");
        own.downloads("7.txt", &Content::of(*b"7")).await;
        own.shares("new.txt", &Content::of(*b"new")).await;
        own.kill();
        let own = plan.spawn().await;
        assert_eq!(
            own.metric("vecino_files_recognised_total").await,
            41,
            "{number}"
        );
    }
}

/// Ways in which a disk may spoil a file.
fn spoils() -> Vec<fn(&mut Vec<u8>)> {
    vec![
        |bytes| *bytes = b"this was an index once".to_vec(),
        |bytes| bytes.clear(),
        |bytes| bytes.fill(0),
        |bytes| bytes.truncate(4096),
        |bytes| bytes.truncate(bytes.len() / 2),
        |bytes| bytes[9..].fill(0),
        |bytes| bytes[..4096].fill(0xff),
        |bytes| bytes[4096..].fill(0xff),
        |bytes| bytes[4096..].fill(0),
        |bytes| {
            (0..bytes.len())
                .step_by(100)
                .for_each(|at| bytes[at] ^= 0x10)
        },
        |bytes| {
            (64..bytes.len())
                .step_by(100)
                .for_each(|at| bytes[at] ^= 0x10)
        },
        |bytes| {
            (4096..bytes.len())
                .step_by(700)
                .for_each(|at| bytes[at] ^= 1)
        },
    ]
}
