//! Benchmark A: lookups of the locator beside a bare echo, Redis, etcd and opentracker.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use prost::Message as _;

use super::{
    Place, Plan, etcd, filled, grpc,
    grpc::{Names, Streamed, Unary},
    locator, redis,
    table::Table,
    tracker,
};
use crate::{
    load::{Seen, drive, median},
    process::{Process, cpu_seconds},
};

/// Lookups in flight.
const IN_FLIGHT: [u64; 4] = [1, 8, 64, 256];
/// Lookups in flight on one connection, where there is more than one.
const DEPTH: u64 = 16;
/// Lookups of a warm-up, as a part of a measurement.
const WARM_UP: u32 = 4;

/// Who asks whom, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Locate {
        hot: bool,
    },
    LocateDeep,
    Stream {
        hot: bool,
    },
    StreamDeep,
    EchoUnary,
    EchoUnaryOfCores,
    EchoUnaryDeep,
    EchoStream,
    EchoStreamDeep,
    Redis,
    RedisDeep,
    /// One in flight on each of as many connections as the deep ways have.
    RedisFew,
    Etcd,
    TrackerHttp,
    TrackerUdp,
}

const WAYS: [Way; 17] = [
    Way::Locate { hot: true },
    Way::Locate { hot: false },
    Way::EchoUnary,
    Way::EchoUnaryOfCores,
    Way::Stream { hot: true },
    Way::Stream { hot: false },
    Way::EchoStream,
    Way::Redis,
    Way::Etcd,
    Way::TrackerHttp,
    Way::TrackerUdp,
    Way::LocateDeep,
    Way::EchoUnaryDeep,
    Way::StreamDeep,
    Way::EchoStreamDeep,
    Way::RedisDeep,
    Way::RedisFew,
];

impl Way {
    fn label(self) -> &'static str {
        match self {
            Self::Locate { hot: true } => "Locate, hot",
            Self::Locate { hot: false } => "Locate, random",
            Self::LocateDeep => "Locate, random, 16 a connection",
            Self::Stream { hot: true } => "LocateStream, hot",
            Self::Stream { hot: false } => "LocateStream, random",
            Self::StreamDeep => "LocateStream, random, 16 a connection",
            Self::EchoUnary => "echo, unary",
            Self::EchoUnaryOfCores => "echo, unary, a runtime a core",
            Self::EchoUnaryDeep => "echo, unary, 16 a connection",
            Self::EchoStream => "echo, stream",
            Self::EchoStreamDeep => "echo, stream, 16 a connection",
            Self::Redis => "Redis GET",
            Self::RedisDeep => "Redis GET, pipelines of 16",
            Self::RedisFew => "Redis GET, a 16th of the connections and in flight",
            Self::Etcd => "etcd Range, serializable",
            Self::TrackerHttp => "opentracker, HTTP, a connection each",
            Self::TrackerUdp => "opentracker, UDP",
        }
    }

    /// Over a 16th of the connections.
    fn is_deep(self) -> bool {
        matches!(
            self,
            Self::LocateDeep
                | Self::EchoUnaryDeep
                | Self::StreamDeep
                | Self::EchoStreamDeep
                | Self::RedisDeep
                | Self::RedisFew
        )
    }
}

/// The servers with the same records.
struct Servers {
    records: u64,
    tracked: u64,
    etcd_keys: u64,
    value_bytes: usize,
    locator: Process,
    echo: Process,
    echo_of_cores: Process,
    redis: Process,
    etcd: Process,
    tracker: Process,
}

/// What one measurement saw, and the CPU microseconds a lookup of the server and of the load.
type Measured = (Seen, f64, f64);

impl Servers {
    fn of(&self, way: Way) -> &Process {
        match way {
            Way::Locate { .. } | Way::LocateDeep | Way::Stream { .. } | Way::StreamDeep => {
                &self.locator
            }
            Way::EchoUnary | Way::EchoUnaryDeep | Way::EchoStream | Way::EchoStreamDeep => {
                &self.echo
            }
            Way::EchoUnaryOfCores => &self.echo_of_cores,
            Way::Redis | Way::RedisDeep | Way::RedisFew => &self.redis,
            Way::Etcd => &self.etcd,
            Way::TrackerHttp | Way::TrackerUdp => &self.tracker,
        }
    }

    async fn measure(
        &self,
        way: Way,
        in_flight: u64,
        length: Duration,
    ) -> anyhow::Result<Measured> {
        let server = self.of(way);
        let addr: SocketAddr = server.addr;
        let names = match way {
            Way::Locate { hot: true } | Way::Stream { hot: true } => Names::Hot(self.records),
            Way::TrackerHttp | Way::TrackerUdp => Names::Any(self.tracked),
            Way::Etcd => Names::Any(self.etcd_keys),
            _ => Names::Any(self.records),
        };
        let depth = if way.is_deep() { DEPTH } else { 1 };
        /// As many askers as there are connections, before the clock runs.
        macro_rules! load {
            ($asker:expr) => {{
                let mut askers = Vec::new();
                for _ in 0..in_flight / depth {
                    askers.push($asker);
                }
                let before = (server.cpu_seconds(), cpu_seconds(std::process::id()));
                let begun = Instant::now();
                let seen = drive(askers, length).await?;
                let lookups = seen.rate * begun.elapsed().as_secs_f64();
                let a_lookup = |seconds: f64| seconds / lookups * 1e6;
                let load = cpu_seconds(std::process::id()) - before.1;
                let server = server.cpu_seconds() - before.0;
                (seen, a_lookup(server), a_lookup(load))
            }};
        }
        Ok(match way {
            Way::Locate { .. } | Way::EchoUnary | Way::EchoUnaryOfCores => {
                load!(Unary::open(addr, names, 1).await?)
            }
            Way::LocateDeep | Way::EchoUnaryDeep => {
                load!(Unary::open(addr, names, depth).await?)
            }
            Way::Stream { .. } | Way::StreamDeep | Way::EchoStream | Way::EchoStreamDeep => {
                load!(Streamed::open(addr, names, depth).await?)
            }
            Way::Redis | Way::RedisDeep => {
                load!(redis::Gets::open(addr, names, depth, self.value_bytes).await?)
            }
            Way::RedisFew => load!(redis::Gets::open(addr, names, 1, self.value_bytes).await?),
            Way::Etcd => load!(etcd::Ranges::open(addr, names, self.value_bytes).await?),
            Way::TrackerHttp => load!(tracker::Http::new(addr, names)),
            Way::TrackerUdp => load!(tracker::UdpAsker::open(addr, names).await?),
        })
    }
}

/// The medians of all runs of a way.
#[derive(Debug, Clone, Copy)]
struct Medians {
    way: Way,
    in_flight: u64,
    rate: f64,
    p50: f64,
    p99: f64,
    server: f64,
    load: f64,
}

/// Runs it for each number of records.
pub(crate) async fn run(plan: &Plan, place: &Place) -> anyhow::Result<()> {
    println!("# A: lookups\n");
    let mut of_each = Vec::new();
    for &records in &plan.records {
        let seen = with_records(plan, place, records).await?;
        ratios(records, &seen);
        of_each.push((records, seen));
    }
    if let [(least, of_least), .., (most, of_most)] = &of_each[..] {
        println!("{most} records / {least}: lookups a second, and CPU of the locator a lookup\n");
        let mut table = Table::new(&["way", "in flight", "lookups/s", "CPU"]);
        for (few, many) in of_least.iter().zip(of_most) {
            if matches!(
                few.way,
                Way::Locate { .. } | Way::LocateDeep | Way::Stream { .. } | Way::StreamDeep
            ) {
                table.row([
                    few.way.label().to_owned(),
                    few.in_flight.to_string(),
                    format!("{:.2}", many.rate / few.rate),
                    format!("{:.2}", many.server / few.server),
                ]);
            }
        }
        table.print();
    }
    Ok(())
}

async fn with_records(plan: &Plan, place: &Place, records: u64) -> anyhow::Result<Vec<Medians>> {
    let directory = filled::filled(place, records).await?;
    let opening = Instant::now();
    let locator = locator(&directory).await?;
    let opened = opening.elapsed();
    let value_bytes = grpc::response().encoded_len();
    let (redis, _redis_directory) = redis::filled(place, records, value_bytes).await?;
    let (etcd, etcd_keys, _etcd_directory) = etcd::filled(place, records, value_bytes).await?;
    let (tracker, tracked, _tracker_directory) = tracker::filled(place, records).await?;
    let echo = async |program: &str| {
        Process::start("vecino-bench", &[program], &[], place.scratch.clone()).await
    };
    let servers = Servers {
        records,
        tracked,
        etcd_keys,
        value_bytes,
        locator,
        echo: echo("echo-directory").await?,
        echo_of_cores: echo("echo-directory-cores").await?,
        redis,
        etcd,
        tracker,
    };
    let mut all = Vec::new();
    for in_flight in IN_FLIGHT {
        let ways = || {
            WAYS.into_iter()
                .filter(|way| !way.is_deep() || in_flight >= DEPTH)
        };
        let mut seen: Vec<(Way, Vec<Measured>)> = ways().map(|way| (way, Vec::new())).collect();
        for run in 0..=plan.runs {
            for (way, measured) in &mut seen {
                if run == 0 {
                    servers
                        .measure(*way, in_flight, plan.length / WARM_UP)
                        .await?;
                } else {
                    measured.push(servers.measure(*way, in_flight, plan.length).await?);
                }
            }
        }
        all.extend(seen.into_iter().map(|(way, runs)| Medians {
            way,
            in_flight,
            rate: median(runs.iter().map(|run| run.0.rate)),
            p50: median(runs.iter().map(|run| run.0.p50)),
            p99: median(runs.iter().map(|run| run.0.p99)),
            server: median(runs.iter().map(|run| run.1)),
            load: median(runs.iter().map(|run| run.2)),
        }));
    }
    let memory = servers.locator.memory();
    println!(
        "## {records} records ({tracked} contents at opentracker, {etcd_keys} keys in etcd)\n\n\
         Medians of {} interleaved runs of {:?}. The locator opened its store in {:.2} s and has \
         VmRSS {} MiB, VmHWM {} MiB; Redis has {} MiB for values of {value_bytes} bytes, \
         etcd {} MiB, opentracker {} MiB. etcd is a member on its own that gets no more than a \
         hundred thousand keys, which only favours it; its reads are serializable, the faster kind. \
         A lookup in flight has a connection of its own, unless the way says otherwise; of 16 a \
         connection the next are asked when all have their answers, and p50 and p99 are of the 16. The bare \
         echo is tonic as it comes, on one runtime of several threads; beside it stands the same on \
         a runtime a core, as the locator serves. What is aimed at is beside \
         the first.\n",
        plan.runs,
        plan.length,
        opened.as_secs_f64(),
        memory.resident >> 20,
        memory.peak >> 20,
        servers.redis.memory().resident >> 20,
        servers.etcd.memory().resident >> 20,
        servers.tracker.memory().resident >> 20,
    );
    let mut table = Table::new(&[
        "way",
        "in flight",
        "lookups/s",
        "p50 µs",
        "p99 µs",
        "CPU µs/lookup: server",
        "load",
    ]);
    for seen in &all {
        table.row([
            seen.way.label().to_owned(),
            seen.in_flight.to_string(),
            format!("{:.0}", seen.rate),
            format!("{:.0}", seen.p50),
            format!("{:.0}", seen.p99),
            format!("{:.1}", seen.server),
            format!("{:.1}", seen.load),
        ]);
    }
    table.print();
    servers.locator.stop().await?;
    Ok(all)
}

/// Prints what is compared with what.
fn ratios(records: u64, seen: &[Medians]) {
    let pairs = [
        (Way::Locate { hot: true }, Way::EchoUnary),
        (Way::Locate { hot: false }, Way::EchoUnary),
        (Way::Locate { hot: true }, Way::EchoUnaryOfCores),
        (Way::Locate { hot: false }, Way::EchoUnaryOfCores),
        (Way::Locate { hot: false }, Way::Etcd),
        (Way::Stream { hot: false }, Way::EchoUnary),
        (Way::Stream { hot: false }, Way::EchoUnaryOfCores),
        (Way::Stream { hot: false }, Way::EchoStream),
        (Way::Stream { hot: false }, Way::Redis),
        (Way::Stream { hot: false }, Way::TrackerHttp),
        (Way::LocateDeep, Way::EchoUnaryDeep),
        (Way::StreamDeep, Way::EchoUnary),
        (Way::StreamDeep, Way::EchoUnaryDeep),
        (Way::StreamDeep, Way::EchoStreamDeep),
        (Way::StreamDeep, Way::Redis),
        (Way::StreamDeep, Way::RedisDeep),
        (Way::StreamDeep, Way::RedisFew),
    ];
    println!("Ratios with {records} records\n");
    let mut table = Table::new(&[
        "ratio",
        "in flight",
        "lookups/s",
        "p50",
        "p99",
        "CPU of the server",
    ]);
    for (above, below) in pairs {
        for in_flight in IN_FLIGHT {
            let of = |way| {
                seen.iter()
                    .find(|seen| seen.way == way && seen.in_flight == in_flight)
            };
            if let (Some(a), Some(b)) = (of(above), of(below)) {
                table.row([
                    format!("{} / {}", above.label(), below.label()),
                    in_flight.to_string(),
                    format!("{:.2}", a.rate / b.rate),
                    format!("{:.2}", a.p50 / b.p50),
                    format!("{:.2}", a.p99 / b.p99),
                    format!("{:.2}", a.server / b.server),
                ]);
            }
        }
    }
    table.print();
}
