//! The load: askers that each ask one thing after another, and what they saw.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

/// How much longer than its length a measurement may take.
const OVERTIME: Duration = Duration::from_secs(30);

/// What one measurement saw.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    /// Lookups a second.
    pub(crate) rate: f64,
    /// Median latency in microseconds.
    pub(crate) p50: f64,
    /// 99th percentile of the latency in microseconds.
    pub(crate) p99: f64,
}

impl Seen {
    /// Of latencies and how many lookups each of them was for.
    pub(crate) fn of(mut latencies: Vec<Duration>, lookups: u64, took: Duration) -> Option<Self> {
        latencies.sort_unstable();
        let at = |share: f64| {
            let index = (latencies.len().checked_sub(1)? as f64 * share) as usize;
            Some(latencies[index].as_secs_f64() * 1e6)
        };
        Some(Self {
            rate: lookups as f64 / took.as_secs_f64(),
            p50: at(0.5)?,
            p99: at(0.99)?,
        })
    }
}

/// The middle one of `values`.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Something that asks over a connection of its own.
pub(crate) trait Asker: Send + 'static {
    /// Asks and awaits the answer; how many lookups that was.
    fn ask(&mut self) -> impl Future<Output = anyhow::Result<u64>> + Send;
}

/// All `askers` ask, each one question after another, for `length`.
pub(crate) async fn drive<A: Asker>(askers: Vec<A>, length: Duration) -> anyhow::Result<Seen> {
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for mut asker in askers {
        tasks.spawn(async move {
            let (mut latencies, mut lookups) = (Vec::new(), 0);
            while begun.elapsed() < length {
                let asked = Instant::now();
                lookups += asker.ask().await?;
                latencies.push(asked.elapsed());
            }
            anyhow::Ok((latencies, lookups))
        });
    }
    let all = async {
        let (mut latencies, mut lookups) = (Vec::new(), 0);
        while let Some(done) = tasks.join_next().await {
            let (mut seen, asked) = done??;
            latencies.append(&mut seen);
            lookups += asked;
        }
        Seen::of(latencies, lookups, begun.elapsed()).context("no lookup ended in time")
    };
    timeout(length + OVERTIME, all)
        .await
        .context("an answer takes too long")?
}

/// Asks `paths` in turn, beginning where `next` stands, over `connections` connections.
pub(crate) async fn measure(
    addr: SocketAddr,
    paths: &Arc<Vec<String>>,
    next: &Arc<AtomicUsize>,
    connections: usize,
    length: Duration,
) -> anyhow::Result<Seen> {
    let mut askers = Vec::new();
    for _ in 0..connections {
        askers.push(Paths {
            connection: Connection::open(addr).await?,
            paths: paths.clone(),
            next: next.clone(),
        });
    }
    drive(askers, length).await
}

/// Asks paths in turn.
struct Paths {
    connection: Connection,
    paths: Arc<Vec<String>>,
    next: Arc<AtomicUsize>,
}

impl Asker for Paths {
    async fn ask(&mut self) -> anyhow::Result<u64> {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        self.connection
            .get(&self.paths[next % self.paths.len()])
            .await?;
        Ok(1)
    }
}

/// A connection of HTTP/1.1.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(addr: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::with_capacity(8192),
        })
    }

    /// The body of the answer.
    pub(crate) async fn get(&mut self, path: &str) -> anyhow::Result<&[u8]> {
        let (status, body) = self.answer(path).await?;
        anyhow::ensure!(status == 200, "{path}: {status}");
        Ok(body)
    }

    /// The status and the body of the answer, whatever it says.
    pub(crate) async fn answer(&mut self, path: &str) -> anyhow::Result<(u16, &[u8])> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        self.stream.write_all(request.as_bytes()).await?;
        self.buffer.clear();
        let mut answer = None;
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                anyhow::bail!("the connection ended");
            }
            if answer.is_none()
                && let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n")
            {
                let head = std::str::from_utf8(&self.buffer[..end])?;
                let status = head
                    .strip_prefix("HTTP/1.1 ")
                    .and_then(|rest| rest.get(..3));
                let status = status.with_context(|| format!("{path}: {head}"))?.parse()?;
                let length = head
                    .lines()
                    .filter_map(|line| line.split_once(':'))
                    .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
                    .context("no content-length")?;
                let body = end + 4..end + 4 + length.1.trim().parse::<usize>()?;
                answer = Some((status, body));
            }
            if let Some((status, body)) = &answer
                && self.buffer.len() >= body.end
            {
                return Ok((*status, &self.buffer[body.clone()]));
            }
        }
    }
}
