//! Benchmark B: records until they are durable, beside Redis and SQLite; and D, what a record takes
//! on the disk and in memory.

use std::{
    path::Path,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
    task::JoinSet,
    time::timeout,
};

use super::{
    Place, Plan, locator, records,
    redis::{self, Redis},
    session::{CHANGES, Manner, Progress, Session},
    table::{self, Table, rates},
};
use crate::{
    load::median,
    process::{Memory, Process, disk_bytes},
};

/// How long one of them may take, whatever the number of records.
const AT_LEAST: Duration = Duration::from_secs(120);
/// The slowest rate that is waited for, in records a second.
const SLOWEST: u64 = 1_000;
/// Who stands beside Vecino as it announces changes takes no further batches after so long.
const OTHERS_TAKE_FOR: Duration = Duration::from_secs(180);

const HEAD: [&str; 9] = [
    "keeper",
    "records/s",
    "Vecino / it",
    "CPU µs/record",
    "disk B/record",
    "VmRSS B/record",
    "VmHWM B/record",
    "VmRSS MiB",
    "records/s by steps",
];

/// Who keeps the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keeper {
    Vecino(Manner),
    /// Values under their keys.
    Redis(&'static str),
    /// Found as a directory has to find them; each is synced.
    RedisDirectory,
    Sqlite,
}

const KEEPERS: [Keeper; 6] = [
    Keeper::Vecino(Manner::Changes),
    Keeper::Vecino(Manner::Buckets),
    Keeper::Redis("everysec"),
    Keeper::Redis("always"),
    Keeper::RedisDirectory,
    Keeper::Sqlite,
];

impl Keeper {
    /// It begins to take records, for as long as it may.
    fn begin(self, total: u64) -> Progress {
        let is_main = self == Self::Vecino(Manner::Changes);
        Progress::begin(step(total)).at_most((!is_main).then_some(OTHERS_TAKE_FOR))
    }

    fn label(self) -> &'static str {
        match self {
            Self::Vecino(Manner::Changes) => "Vecino, batches of 1024",
            Self::Vecino(Manner::Buckets) => "Vecino, bucket by bucket",
            Self::Redis("always") => "Redis, appendfsync always",
            Self::Redis(_) => "Redis, appendfsync everysec",
            Self::RedisDirectory => "Redis as a directory, appendfsync always",
            Self::Sqlite => "SQLite, FULL, batches of 1000",
        }
    }
}

/// What came of one run.
struct Kept {
    records: u64,
    rate: f64,
    steps: Vec<f64>,
    cpu: f64,
    disk: u64,
    memory: Memory,
}

/// Runs it for each number of peers.
pub(crate) async fn run(plan: &Plan, place: &Place) -> anyhow::Result<()> {
    let step = step(plan.total);
    // Rows come as they are measured: whoever ends a long run has seen what came before.
    println!(
        "# B: announcing {} records until they are durable\n\n\
         Medians of {} interleaved runs; rates by steps of {step} records and what a record takes \
         (D) are of the last run. Redis and SQLite have a value of 64 bytes under the same key, by \
         which alone it is found; Redis as a directory finds the record by what Vecino finds it by: \
         name, digest, peer, words, type and beginning of the name. What Redis has on the disk is its \
         log, not rewritten. SQLite has one writer: its rows differ in nothing. All but Vecino in batches begin with \
         records for {OTHERS_TAKE_FOR:?} at most, which favours who gets slower the more there are; \
         their rows say how many they were.\n",
        plan.total, plan.runs,
    );
    let within = AT_LEAST + Duration::from_secs(plan.total / SLOWEST);
    for &peers in &plan.peers {
        println!("## {peers} peers at once: each run as it ends\n");
        println!("{}", table::head(&HEAD));
        let mut seen: Vec<Vec<Kept>> = KEEPERS.iter().map(|_| Vec::new()).collect();
        for _ in 0..plan.runs {
            let mut vecino = f64::NAN;
            for (keeper, seen) in KEEPERS.into_iter().zip(&mut seen) {
                let directory = place.directory()?;
                let kept = keep(keeper, directory.path(), peers, plan.total);
                let kept = timeout(within, kept).await;
                let kept = kept.with_context(|| format!("{} takes too long", keeper.label()))?;
                let kept = kept.with_context(|| keeper.label())?;
                if vecino.is_nan() {
                    vecino = kept.rate;
                }
                let run = std::slice::from_ref(&kept);
                println!(
                    "{}",
                    table::row(&cells(keeper, run, &kept, vecino, plan.total))
                );
                seen.push(kept);
            }
        }
        println!("\n## {peers} peers at once\n");
        print(plan.total, &seen);
    }
    Ok(())
}

fn step(total: u64) -> u64 {
    if total > 1_000_000 {
        1_000_000
    } else {
        total.div_ceil(10)
    }
}

fn print(total: u64, seen: &[Vec<Kept>]) {
    let vecino = seen.first().map_or(f64::NAN, |runs| rate(runs));
    let mut table = Table::new(&HEAD);
    for (keeper, runs) in KEEPERS.into_iter().zip(seen) {
        if let Some(last) = runs.last() {
            table.row(cells(keeper, runs, last, vecino, total));
        }
    }
    table.print();
}

fn rate(runs: &[Kept]) -> f64 {
    median(runs.iter().map(|run| run.rate))
}

/// What is told of the runs of a keeper, when Vecino's rate was `vecino`.
fn cells(
    keeper: Keeper,
    runs: &[Kept],
    last: &Kept,
    vecino: f64,
    total: u64,
) -> [String; HEAD.len()] {
    let a_record = |bytes: u64| match bytes {
        0 => "-".to_owned(),
        bytes => format!("{:.0}", bytes as f64 / last.records as f64),
    };
    let label = match last.records {
        records if records < total => format!(
            "{}: {records} records, begun within {OTHERS_TAKE_FOR:?}",
            keeper.label()
        ),
        _ => keeper.label().to_owned(),
    };
    [
        label,
        format!("{:.0}", rate(runs)),
        format!("{:.2}", vecino / rate(runs)),
        format!("{:.1}", median(runs.iter().map(|run| run.cpu))),
        a_record(last.disk),
        a_record(last.memory.resident),
        a_record(last.memory.peak),
        format!("{}", last.memory.resident >> 20),
        rates(&last.steps),
    ]
}

async fn keep(keeper: Keeper, directory: &Path, peers: u64, total: u64) -> anyhow::Result<Kept> {
    match keeper {
        Keeper::Vecino(manner) => {
            let locator = locator(directory).await?;
            let mut sessions = Vec::new();
            for peer in 0..peers {
                sessions.push(Session::open(locator.addr, peer).await?);
            }
            let progress = Arc::new(keeper.begin(total));
            let before = locator.cpu_seconds();
            let mut tasks = JoinSet::new();
            for (peer, mut session) in (0..).zip(sessions) {
                let progress = progress.clone();
                tasks.spawn(async move {
                    let numbers = records::of_peer(peer, peers, total);
                    session.announce(manner, numbers, &progress).await
                });
            }
            let mut held = 0;
            while let Some(done) = tasks.join_next().await {
                held += done??;
            }
            let told = progress.records();
            anyhow::ensure!(held == told, "the locator has {held} of {told}");
            anyhow::ensure!(told == total || progress.is_over(), "told of {told} only");
            Ok(kept(&progress, &locator, before, directory))
        }
        Keeper::Redis(_) | Keeper::RedisDirectory => {
            let appendfsync = match keeper {
                Keeper::Redis(appendfsync) => appendfsync,
                _ => "always",
            };
            let server = redis::start(directory, Some(appendfsync)).await?;
            let mut connections = Vec::new();
            for _ in 0..peers {
                connections.push(Redis::open(server.addr).await?);
            }
            let progress = Arc::new(keeper.begin(total));
            let before = server.cpu_seconds();
            let mut tasks = JoinSet::new();
            for (peer, mut redis) in (0..).zip(connections) {
                let progress = progress.clone();
                tasks.spawn(async move {
                    let mut numbers = records::of_peer(peer, peers, total).peekable();
                    while numbers.peek().is_some() && !progress.is_over() {
                        let batch = numbers.by_ref().take(CHANGES);
                        let values = |n| (records::name(n), records::value(n, peer));
                        progress.add(match keeper {
                            Keeper::RedisDirectory => redis.index(batch, peer).await?,
                            _ => redis.set(batch.map(values)).await?,
                        });
                    }
                    anyhow::Ok(())
                });
            }
            while let Some(done) = tasks.join_next().await {
                done??;
            }
            Ok(kept(&progress, &server, before, directory))
        }
        Keeper::Sqlite => sqlite(directory, peers, total).await,
    }
}

fn kept(progress: &Progress, server: &Process, before: f64, directory: &Path) -> Kept {
    let (rate, steps) = progress.rates();
    Kept {
        records: progress.records(),
        rate,
        steps,
        cpu: (server.cpu_seconds() - before) / progress.records() as f64 * 1e6,
        disk: disk_bytes(directory),
        memory: server.memory(),
    }
}

/// Reads batches of keys and values from the standard input, commits each, and says so by a byte.
const SQLITE: &str = r#"
import resource, sqlite3, sys, os
path, batch = sys.argv[1], int(sys.argv[2])
db = sqlite3.connect(path, isolation_level=None)
db.execute("PRAGMA journal_mode=WAL")
db.execute("PRAGMA synchronous=FULL")
db.execute("CREATE TABLE records (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")
read = sys.stdin.buffer
os.write(1, b"r")
while True:
    rows = []
    for _ in range(batch):
        line = read.read(87)
        if not line: break
        rows.append((line[1:1 + line[0]], line[23:]))
    if not rows: break
    db.execute("BEGIN")
    db.executemany("INSERT OR REPLACE INTO records VALUES (?, ?)", rows)
    db.execute("COMMIT")
    os.write(1, b".")
usage = resource.getrusage(resource.RUSAGE_SELF)
# Not ru_maxrss, which begins with what the program had that started this one.
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM:")).split()[1]
os.write(1, b"%d %d" % ((usage.ru_utime + usage.ru_stime) * 1e6, int(peak) * 1024))
db.close()
"#;

/// Through Python's own binding: there is one on every machine.
async fn sqlite(directory: &Path, peers: u64, total: u64) -> anyhow::Result<Kept> {
    const BATCH: usize = 1000;
    let mut child = Command::new("python3")
        .args(["-c", SQLITE, "records.sqlite", &BATCH.to_string()])
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut rows = child.stdin.take().context("is piped")?;
    let mut said = child.stdout.take().context("is piped")?;
    anyhow::ensure!(said.read_u8().await? == b'r', "SQLite is not ready");
    let progress = Keeper::Sqlite.begin(total);
    let begun = Instant::now();
    let send = async {
        let mut numbers = (0..peers)
            .flat_map(|peer| records::of_peer(peer, peers, total).map(move |n| (n, peer)))
            .peekable();
        while numbers.peek().is_some() && !progress.is_over() {
            let mut batch = Vec::new();
            for (number, peer) in numbers.by_ref().take(BATCH) {
                let mut row = [0; 87];
                let name = records::name(number);
                row[0] = u8::try_from(name.len())?;
                row.get_mut(1..=name.len())
                    .filter(|_| name.len() <= 22)
                    .context("the name is too long")?
                    .copy_from_slice(name.as_bytes());
                row[23..].copy_from_slice(&records::value(number, peer));
                batch.extend_from_slice(&row);
            }
            rows.write_all(&batch).await?;
        }
        drop(rows);
        anyhow::Ok(())
    };
    let receive = async {
        let mut usage = String::new();
        // A batch is told by a point, the end by a number.
        loop {
            match said.read_u8().await.context("SQLite failed")? {
                b'.' => progress.add((total - progress.records()).min(BATCH as u64)),
                first => {
                    usage.push(char::from(first));
                    break;
                }
            }
        }
        let took = begun.elapsed();
        let disk = disk_bytes(directory);
        said.read_to_string(&mut usage).await?;
        anyhow::Ok((took, disk, usage))
    };
    let (_, (took, disk, usage)) = tokio::try_join!(send, receive)?;
    let (cpu, peak) = usage.split_once(' ').context("it says so")?;
    let (_, steps) = progress.rates();
    let records = progress.records();
    Ok(Kept {
        records,
        rate: records as f64 / took.as_secs_f64(),
        steps,
        cpu: cpu.parse::<f64>()? / records as f64,
        disk,
        memory: Memory {
            resident: 0,
            peak: peak.parse()?,
        },
    })
}
