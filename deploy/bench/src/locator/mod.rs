//! The locator beside others that answer or keep the like: the options, and what they begin.

mod announce;
mod churn;
mod cluster;
mod etcd;
mod filled;
mod grpc;
mod lookups;
mod open_loop;
mod population;
mod records;
mod redis;
mod session;
mod table;
mod tracker;

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
pub(crate) use grpc::{echo, echo_of_cores};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    chain,
    process::{Process, check_installed},
};

pub(crate) const HELP: &str = "\
The locator beside others that answer or keep the like, all on loopback.

Usage: vecino-bench locator [OPTIONS]

  --only A,B     which benchmarks [default: all]
                   A  lookups: Locate, LocateStream, bare echo, Redis, etcd, opentracker
                   B  announcing until it is durable: Vecino, Redis, SQLite; disk and memory
                   C  lookups while thousands of peers are idle, announce, die and come back
                   E  a Redis Cluster with 1, 2 and 4 locators; a primary is killed, seen by
                      those who ask locators and by clients of a peer
                   F  the whole chain beside bare hops and nginx: lookup-chain
  --records N,N  records in the directory of A [default: 10000,1000000,10000000]
  --total N      records that B announces [default: 1000000]
  --peers N,N    peers that announce them at once [default: 1,100,1000]
  --population N peers that keep their leases in C [default: 10000]
  --rate N       lookups a second in C and E [default: 2000]
  --runs N       interleaved runs of which the median counts [default: 5]
  --seconds S    length of one measurement [default: 3]
  --store DIR    where to work, and to keep what A filled for the next time [default: a new
                 directory in TMPDIR, removed at the end]
";

/// What to measure.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    only: Vec<String>,
    records: Vec<u64>,
    total: u64,
    peers: Vec<u64>,
    population: u64,
    rate: u64,
    runs: usize,
    length: Duration,
    store: Option<PathBuf>,
}

/// What there is, and what of others it needs.
const BENCHMARKS: [(&str, &[&str]); 5] = [
    ("A", &["redis-server", "etcd", "opentracker"]),
    ("B", &["redis-server", "python3"]),
    ("C", &[]),
    ("E", &["redis-server", "redis-cli"]),
    ("F", &["nginx"]),
];

impl Plan {
    /// Reads the options.
    pub(crate) fn parse(options: &[&str]) -> anyhow::Result<Self> {
        let mut plan = Self {
            only: BENCHMARKS.map(|(letter, _)| letter.to_owned()).to_vec(),
            records: vec![10_000, 1_000_000, 10_000_000],
            total: 1_000_000,
            peers: vec![1, 100, 1000],
            population: 10_000,
            rate: 2000,
            runs: 5,
            length: Duration::from_secs(3),
            store: None,
        };
        for option in options.chunks(2) {
            match *option {
                ["--only", value] => plan.only = value.split(',').map(str::to_owned).collect(),
                ["--records", value] => plan.records = numbers(value)?,
                ["--total", value] => plan.total = value.parse()?,
                ["--peers", value] => plan.peers = numbers(value)?,
                ["--population", value] => plan.population = value.parse()?,
                ["--rate", value] => plan.rate = value.parse()?,
                ["--runs", value] => plan.runs = value.parse()?,
                ["--seconds", value] => plan.length = Duration::from_secs_f64(value.parse()?),
                ["--store", value] => plan.store = Some(value.into()),
                _ => anyhow::bail!("unknown option {option:?}; see --help"),
            }
        }
        let is_known = |letter: &String| BENCHMARKS.iter().any(|(known, _)| known == letter);
        let unknown = plan.only.iter().find(|letter| !is_known(letter));
        anyhow::ensure!(unknown.is_none(), "--only {unknown:?}: see --help");
        anyhow::ensure!(plan.runs > 0 && plan.total > 0, "at least 1");
        anyhow::ensure!(plan.population >= 10, "--population: at least 10");
        Ok(plan)
    }
}

fn numbers(text: &str) -> anyhow::Result<Vec<u64>> {
    let numbers: Vec<u64> = text.split(',').map(str::parse).collect::<Result<_, _>>()?;
    anyhow::ensure!(!numbers.contains(&0), "{text}: at least 1");
    Ok(numbers)
}

/// Runs the plan, until it is done or a signal ends it; no process that it started outlives it.
#[tokio::main]
pub(crate) async fn run(plan: Plan) -> anyhow::Result<()> {
    let mut terminated = signal(SignalKind::terminate())?;
    let ended = tokio::select! {
        ended = measure(&plan) => return ended,
        interrupted = tokio::signal::ctrl_c() => interrupted.context("no signals"),
        _ = terminated.recv() => Ok(()),
    };
    ended?;
    anyhow::bail!("ended by a signal")
}

async fn measure(plan: &Plan) -> anyhow::Result<()> {
    let chosen = |letter: &str| plan.only.iter().any(|only| only == letter);
    let needed = BENCHMARKS
        .iter()
        .filter(|(letter, _)| chosen(letter))
        .flat_map(|(_, programs)| programs.iter().copied());
    check_installed(&needed.collect::<Vec<_>>())?;
    // Kept or not, what is not to be kept is below a directory that goes.
    let scratch = match &plan.store {
        Some(directory) => {
            std::fs::create_dir_all(directory)?;
            tempfile::tempdir_in(directory)?
        }
        None => tempfile::tempdir()?,
    };
    let place = Place {
        kept: plan.store.clone().unwrap_or(scratch.path().to_owned()),
        scratch: scratch.path().to_owned(),
    };
    if chosen("A") {
        lookups::run(plan, &place).await?;
    }
    if chosen("B") {
        announce::run(plan, &place).await?;
    }
    if chosen("C") {
        open_files()?;
        churn::run(plan, &place).await?;
    }
    if chosen("E") {
        cluster::run(plan, &place).await?;
    }
    if chosen("F") {
        println!("# F: the whole chain\n");
        let plan = chain::Plan {
            rounds: plan.runs,
            length: plan.length,
            ..chain::Plan::default()
        };
        chain::measure(plan).await?;
    }
    Ok(())
}

/// Each peer has a connection.
fn open_files() -> anyhow::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, limit).context("open files cannot be limited otherwise")
}

/// Where things are kept.
struct Place {
    /// Across runs, perhaps.
    kept: PathBuf,
    /// Until the end of this one.
    scratch: PathBuf,
}

impl Place {
    /// A new directory; it is gone when it is dropped. Servers that give up root may read it.
    fn directory(&self) -> anyhow::Result<tempfile::TempDir> {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir_in(&self.scratch)?;
        for path in [&self.scratch, directory.path()] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
        }
        Ok(directory)
    }
}

/// The longest lease: nobody keeps it alive here.
const LEASE: &str = "86400";

/// A locator on the store in `directory`.
async fn locator(directory: &std::path::Path) -> anyhow::Result<Process> {
    let settings = [
        ("HOST", "127.0.0.1:0"),
        ("METRICS_ADDR", "off"),
        ("LEASE_SECONDS", LEASE),
    ];
    Process::start("central-server", &[], &settings, directory.to_owned()).await
}
