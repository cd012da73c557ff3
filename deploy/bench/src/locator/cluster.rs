//! Benchmark E: one, two and four locators on a Redis Cluster of three primaries and their replicas,
//! and what a primary that is killed under load costs.

#[allow(dead_code, reason = "the locator's tests use the rest")]
#[path = "../../../../central-server/tests/it/redis_cluster.rs"]
mod redis_cluster;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use redis_cluster::RedisCluster;
use tokio::{
    task::{JoinSet, spawn_blocking},
    time::{Instant, sleep, timeout},
};
use vecino_grpc::v1::{
    LocateRequest, LocateResponse, directory_client::DirectoryClient, locate_request::By,
};
use vecino_rest::route;

use super::{
    Place, Plan,
    grpc::{Names, Streamed, Unary},
    open_loop::OpenLoop,
    records,
    session::{Manner, Progress, Session},
    table::Table,
};
use crate::{
    load::{drive, median},
    process::Process,
};

/// Locators that share the cluster.
const LOCATORS: [usize; 3] = [1, 2, 4];
/// Records that are announced in each run, and the peers that do it.
const RECORDS: u64 = 50_000;
const PEERS: u64 = 50;
/// Lookups in flight, and of them on one stream.
const IN_FLIGHT: usize = 64;
const DEPTH: u64 = 16;
/// While a primary is killed, each peer announces so many records so often.
const BATCH: u64 = 10;
const EVERY: Duration = Duration::from_millis(250);
/// The pause after a failure.
const PAUSE: Duration = Duration::from_millis(250);
/// How often a peer tries to announce, as it would for ever.
const TRIES: u64 = 20;
/// Time for the load to settle.
const SETTLES: Duration = Duration::from_secs(1);
/// Load before the kill, and the quiet after the last error that tells that it is over.
const BEFORE: Duration = Duration::from_secs(2);
const QUIET: Duration = Duration::from_secs(4);
/// How long it may take until it is over.
const OVER_WITHIN: Duration = Duration::from_secs(60);
/// After so many failed lookups of its records a peer looks for no more of them.
const FAILED: u64 = 3;
/// Lookups of clients a second while a primary is killed.
const CLIENTS_RATE: u64 = 200;
/// How long a locator may take to acknowledge a batch.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(10);

/// Runs it.
pub(crate) async fn run(plan: &Plan, place: &Place) -> anyhow::Result<()> {
    println!(
        "# E: locators on a Redis Cluster (3 primaries, 3 replicas, nothing on the disk)\n\n\
         Medians of {} interleaved runs: {RECORDS} new records of {PEERS} peers each, then \
         {IN_FLIGHT} lookups in flight over all locators.\n",
        plan.runs
    );
    let cluster = spawn_blocking(RedisCluster::start).await?;
    throughput(plan, place, &cluster).await?;
    drop(cluster);
    let mut table = Table::new(&[
        "run",
        "errors of lookups before",
        "lookups answered",
        "errors of lookups",
        "of announcing, since the beginning",
        "last error",
        "acknowledged",
        "missing then",
        "after peers compared",
        "that was",
    ]);
    let mut of_clients = Table::new(&[
        "run",
        "answered before",
        "errors before",
        "slowest ms before",
        "answered",
        "errors",
        "slowest ms",
        "last error",
    ]);
    for run in 1..=plan.runs {
        let cluster = Arc::new(spawn_blocking(RedisCluster::start).await?);
        let (cells, clients) = failover(plan, place, &cluster).await?;
        table.row([vec![run.to_string()], cells].concat());
        of_clients.row([vec![run.to_string()], clients].concat());
    }
    println!(
        "A primary is killed under load: two locators, {} lookups a second, {PEERS} peers that \
         announce {BATCH} records every {EVERY:?}; times are seconds after the kill\n",
        plan.rate
    );
    table.print();
    println!(
        "Meanwhile, what clients see: {CLIENTS_RATE} times a second GET {}/NAME of what was \
         acknowledged before, at their own peer, whose neighbour asks both locators; an error is \
         any answer but 200\n",
        route::LOCATE
    );
    of_clients.print();
    Ok(())
}

/// So many locators on a directory of their own.
async fn locators(
    place: &Place,
    cluster: &RedisCluster,
    count: usize,
) -> anyhow::Result<Vec<Process>> {
    let url = cluster.url();
    let settings = [
        ("HOST", "127.0.0.1:0"),
        ("METRICS_ADDR", "off"),
        ("LEASE_SECONDS", "3600"),
        ("STORE_URL", url.as_str()),
        ("CONTROL_SOCKET", "off"),
    ];
    let mut locators = Vec::new();
    for _ in 0..count {
        let started = Process::start("central-server", &[], &settings, place.scratch.clone());
        locators.push(started.await?);
    }
    Ok(locators)
}

fn addresses(locators: &[Process]) -> Vec<SocketAddr> {
    locators.iter().map(|locator| locator.addr).collect()
}

async fn throughput(plan: &Plan, place: &Place, cluster: &RedisCluster) -> anyhow::Result<()> {
    let mut all = Vec::new();
    for count in LOCATORS {
        all.push((locators(place, cluster, count).await?, Vec::new()));
    }
    for run in 0..plan.runs as u64 {
        for (locators, seen) in &mut all {
            let addrs = addresses(locators);
            let (announced, again) = announce(&addrs, run * RECORDS).await?;
            let names = Names::Any((run + 1) * RECORDS);
            let cpu =
                |locators: &[Process]| -> f64 { locators.iter().map(Process::cpu_seconds).sum() };
            let mut unary = Vec::new();
            for &addr in addrs.iter().cycle().take(IN_FLIGHT) {
                unary.push(Unary::open(addr, names, 1).await?);
            }
            // The others have heard of all peers by their next exchange.
            until_found(&addrs).await?;
            let unary = drive(unary, plan.length).await?;
            let mut streams = Vec::new();
            for &addr in addrs.iter().cycle().take(IN_FLIGHT / DEPTH as usize) {
                streams.push(Streamed::open(addr, names, DEPTH).await?);
            }
            let (before, began) = (cpu(locators), Instant::now());
            let stream = drive(streams, plan.length).await?;
            let lookups = stream.rate * began.elapsed().as_secs_f64();
            seen.push([
                announced,
                again as f64,
                unary.rate,
                unary.p99,
                stream.rate,
                stream.p99,
                (cpu(locators) - before) / lookups * 1e6,
            ]);
        }
    }
    let mut table = Table::new(&[
        "locators",
        "records/s",
        "failed batches",
        "Locate/s",
        "p99 µs",
        "LocateStream/s (16 a stream)",
        "p99 µs",
        "CPU µs/lookup of the locators",
    ]);
    for (locators, seen) in &all {
        let mut cells = vec![locators.len().to_string()];
        cells.extend((0..7).map(|column| {
            let median = median(seen.iter().map(|run| run[column]));
            format!("{median:.0}")
        }));
        table.row(cells);
    }
    table.print();
    Ok(())
}

/// New records over all locators; how many a second, registering included, and how often a peer had
/// to begin again.
async fn announce(addrs: &[SocketAddr], base: u64) -> anyhow::Result<(f64, u64)> {
    let progress = Arc::new(Progress::begin(RECORDS));
    let mut tasks = JoinSet::new();
    for (peer, &addr) in (0..PEERS).zip(addrs.iter().cycle()) {
        let progress = progress.clone();
        tasks.spawn(async move {
            let mut again = 0;
            loop {
                let announced = async {
                    let mut session = Session::open(addr, peer).await?;
                    // One batch: what failed is nowhere counted yet.
                    let numbers = records::of_peer(peer, PEERS, RECORDS);
                    let numbers = numbers.map(|number| base + number);
                    session.announce(Manner::Changes, numbers, &progress).await
                };
                match announced.await {
                    Ok(_) => return anyhow::Ok(again),
                    Err(error) => {
                        again += 1;
                        anyhow::ensure!(again < TRIES, "peer {peer} announces: {error:#}");
                        sleep(PAUSE).await;
                    }
                }
            }
        });
    }
    let mut again = 0;
    while let Some(done) = tasks.join_next().await {
        again += done??;
    }
    Ok((progress.rates().0, again))
}

async fn locate(addr: SocketAddr, number: u64) -> anyhow::Result<LocateResponse> {
    let mut client = DirectoryClient::connect(format!("http://{addr}")).await?;
    let request = LocateRequest {
        by: Some(By::Name(records::name(number))),
        ..Default::default()
    };
    Ok(client.locate(request).await?.into_inner())
}

/// Waits until each locator finds a record of each peer.
async fn until_found(addrs: &[SocketAddr]) -> anyhow::Result<()> {
    let deadline = Instant::now() + OVER_WITHIN;
    for &addr in addrs {
        for peer in 0..PEERS {
            let is_found = async || {
                let located = locate(addr, peer).await;
                located.is_ok_and(|located| !located.variants.is_empty())
            };
            while !is_found().await {
                anyhow::ensure!(
                    Instant::now() < deadline,
                    "{addr} does not know peer {peer}"
                );
                sleep(Duration::from_millis(20)).await;
            }
        }
    }
    Ok(())
}

/// What those that announce share.
struct Announcing {
    addrs: Vec<SocketAddr>,
    over: AtomicBool,
    errors: Mutex<(BTreeMap<String, u64>, Option<Instant>)>,
}

impl Announcing {
    fn failed(&self, error: &anyhow::Error) {
        let what = match error.downcast_ref::<tonic::Status>() {
            Some(status) => format!("{:?}", status.code()),
            None => "other".to_owned(),
        };
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        *errors.0.entry(what).or_default() += 1;
        errors.1 = Some(Instant::now());
    }

    /// Announces batch after batch of a peer, each until it is acknowledged; how many records the
    /// peer has then.
    async fn go_on(&self, peer: u64) -> u64 {
        // After those of the beginning.
        let (mut records, mut turn) = (RECORDS / PEERS, peer as usize);
        let progress = Progress::begin(u64::MAX);
        let mut session = None;
        while !self.over.load(Ordering::Relaxed) {
            let batch = async {
                if session.is_none() {
                    turn += 1;
                    let addr = self.addrs[turn % self.addrs.len()];
                    session = Some(Session::open(addr, peer).await?);
                }
                let session = session.as_mut().context("was opened")?;
                let numbers = (records..records + BATCH).map(|record| peer + record * PEERS);
                session.announce(Manner::Changes, numbers, &progress).await
            };
            match timeout(ACKNOWLEDGED_WITHIN, batch).await {
                Ok(Ok(_)) => {
                    records += BATCH;
                    sleep(EVERY).await;
                }
                failed => {
                    let error = match failed {
                        Ok(failed) => failed.err().context("failed"),
                        Err(late) => Ok(late.into()),
                    };
                    self.failed(&error.unwrap_or_else(|error| error));
                    session = None;
                    sleep(PAUSE).await;
                }
            }
        }
        records
    }
}

async fn failover(
    plan: &Plan,
    place: &Place,
    cluster: &Arc<RedisCluster>,
) -> anyhow::Result<(Vec<String>, Vec<String>)> {
    let locators = locators(place, cluster, 2).await?;
    let addrs = addresses(&locators);
    let peers_directory = place.directory()?;
    let [own, _neighbour] = own_and_neighbour(&addrs, peers_directory.path()).await?;
    announce(&addrs, 0).await?;
    until_found(&addrs).await?;
    let lookups = OpenLoop::start(&addrs, plan.rate, || fastrand::u64(..RECORDS))?;
    let announcing = Arc::new(Announcing {
        addrs: addrs.clone(),
        over: AtomicBool::new(false),
        errors: Mutex::default(),
    });
    let mut peers = JoinSet::new();
    for peer in 0..PEERS {
        let announcing = announcing.clone();
        peers.spawn(async move { (peer, announcing.go_on(peer).await) });
    }
    let clients = OpenLoop::of_clients(own.addr, CLIENTS_RATE, || fastrand::u64(..RECORDS))?;
    // Connections come about.
    sleep(SETTLES).await;
    lookups.take();
    clients.take();
    sleep(BEFORE).await;
    let (before, clients_before) = (lookups.take(), clients.take());
    for load in [&before, &clients_before] {
        anyhow::ensure!(load.seen().is_some(), "there was no load before");
    }
    let errors_before = before.errors();
    let killed = Instant::now();
    cluster.nodes[0].kill();
    let last_error = || {
        let errors = announcing
            .errors
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        errors.1.max(lookups.last_error())
    };
    // Errors begin a moment after the kill.
    sleep(QUIET).await;
    // Errors without end show in when the last was.
    let is_quiet = |last: Option<Instant>| last.is_none_or(|last| last.elapsed() >= QUIET);
    while !(is_quiet(last_error()) && is_quiet(clients.last_error()))
        && killed.elapsed() < OVER_WITHIN
    {
        sleep(Duration::from_millis(100)).await;
    }
    let after_kill = |last: Option<Instant>| {
        let last = last.map_or(0.0, |last| last.duration_since(killed).as_secs_f64());
        format!("{last:.1} s")
    };
    let last = after_kill(last_error());
    announcing.over.store(true, Ordering::Relaxed);
    let after = lookups.take();
    drop(lookups);
    let clients_after = clients.finish().await;
    let mut held = BTreeMap::new();
    while let Some(done) = peers.join_next().await {
        let (peer, records) = done?;
        held.insert(peer, records);
    }
    let acknowledged: u64 = held.values().sum();
    let missing = count_missing(addrs[0], &held).await?;
    let mut uncompared = String::new();
    for (&peer, &records) in &held {
        if let Err(error) = compare(addrs[0], peer, records).await {
            uncompared = format!(" (peer {peer} cannot compare: {error:#})");
        }
    }
    let left = count_missing(addrs[0], &held).await? + &uncompared;
    let healed = killed.elapsed().as_secs_f64();
    let errors = announcing
        .errors
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let of_announcing: u64 = errors.0.values().sum();
    let cells = vec![
        errors_before,
        after.answered().to_string(),
        after.errors(),
        format!("{of_announcing} {:?}", errors.0),
        last,
        acknowledged.to_string(),
        missing,
        left,
        format!("{healed:.1} s"),
    ];
    let of_clients = vec![
        clients_before.answered().to_string(),
        clients_before.errors(),
        clients_before.slowest().as_millis().to_string(),
        clients_after.answered().to_string(),
        clients_after.errors(),
        clients_after.slowest().as_millis().to_string(),
        after_kill(clients_after.last_error),
    ];
    Ok((cells, of_clients))
}

/// The own peer of clients, and its neighbour, which looks up at `locators`.
async fn own_and_neighbour(
    locators: &[SocketAddr],
    directory: &Path,
) -> anyhow::Result<[Process; 2]> {
    let start = async |name: &str, setting: (&str, &str)| {
        let settings = [setting, ("BIND", "127.0.0.1"), ("PORT", "0")];
        let directory = directory.join(name);
        std::fs::create_dir(&directory)?;
        Process::start("pserver", &[], &settings, directory).await
    };
    let locators: Vec<_> = locators.iter().map(ToString::to_string).collect();
    let neighbour = start("neighbour", ("URL_Request", &locators.join(","))).await?;
    let addr = neighbour.addr.to_string();
    let own = start("own", ("URL_PEERSU", &addr)).await?;
    Ok([own, neighbour])
}

/// How many of the first so many records of each peer are not located, and how many lookups failed.
async fn count_missing(addr: SocketAddr, held: &BTreeMap<u64, u64>) -> anyhow::Result<String> {
    let mut tasks = JoinSet::new();
    for (&peer, &records) in held {
        tasks.spawn(async move {
            let mut client = DirectoryClient::connect(format!("http://{addr}")).await?;
            let (mut missing, mut failed) = (0, 0_u64);
            for record in 0..records {
                let request = LocateRequest {
                    by: Some(By::Name(records::name(peer + record * PEERS))),
                    ..Default::default()
                };
                match client.locate(request).await {
                    Ok(response) => missing += u64::from(response.get_ref().variants.is_empty()),
                    // Each of them takes its time.
                    Err(_) if failed >= FAILED => break,
                    Err(_) => failed += 1,
                }
            }
            anyhow::Ok((missing, failed))
        });
    }
    let (mut missing, mut failed) = (0, 0);
    while let Some(done) = tasks.join_next().await {
        let (is_missing, has_failed) = done??;
        missing += is_missing;
        failed += has_failed;
    }
    Ok(match failed {
        0 => missing.to_string(),
        _ => format!("{missing}, {failed} lookups failed"),
    })
}

/// What a peer does when it compares: buckets that differ are sent again.
async fn compare(addr: SocketAddr, peer: u64, records: u64) -> anyhow::Result<()> {
    let mut session = Session::open(addr, peer).await?;
    let mut sums = [0_u128; 256];
    let numbers = || (0..records).map(|record| peer + record * PEERS);
    for number in numbers() {
        let record = records::record(number);
        // See `RegisterResponse.fingerprints` in `directory.proto`.
        let mut hasher = blake3::Hasher::new_derive_key("vecino 2026 record");
        hasher.update(&record.digest);
        hasher.update(&record.size.to_le_bytes());
        hasher.update(record.name.as_bytes());
        let mut share = [0; 16];
        hasher.finalize_xof().fill(&mut share);
        let sum = &mut sums[usize::from(record.digest[0])];
        *sum = sum.wrapping_add(u128::from_le_bytes(share));
    }
    let theirs = session.welcome.fingerprints.clone();
    let differs = |bucket: u8| {
        let at = usize::from(bucket) * 16;
        theirs.get(at..at + 16) != Some(&sums[usize::from(bucket)].to_le_bytes()[..])
    };
    let differing = numbers().filter(|&number| differs(records::digest(number).as_bytes()[0]));
    let unmeasured = Progress::begin(u64::MAX);
    session
        .announce(Manner::Buckets, differing, &unmeasured)
        .await?;
    Ok(())
}
