//! A peer's session at the locator: registered, and announcing as a peer does.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Streaming,
    transport::{Channel, Endpoint},
};
use vecino_grpc::v1::{
    AnnounceRequest, AnnounceResponse, Record, RegisterRequest, RegisterResponse,
    directory_client::DirectoryClient,
};

use super::records;

/// Batches that may wait for their acknowledgement, as at a peer.
const UNACKNOWLEDGED: usize = 16;
/// Records of a batch that tells of changes, as at a peer.
pub(crate) const CHANGES: usize = 1024;
/// Records that replace a bucket at once, as at a peer.
const REPLACED: usize = 3000;
/// How long the locator may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// A way to `addr` from the address of a peer.
pub(crate) fn endpoint(addr: SocketAddr, peer: u64) -> anyhow::Result<Endpoint> {
    Ok(Endpoint::from_shared(format!("http://{addr}"))?
        .tcp_nodelay(true)
        .local_address(Some(records::address(peer).into()))
        .connect_timeout(ANSWER_WITHIN))
}

/// How a peer tells what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// As changes: as many records in a batch as there may be.
    Changes,
    /// As a peer that comes for the first time: bucket by bucket, by digest.
    Buckets,
}

/// What all sessions have had acknowledged.
pub(crate) struct Progress {
    begun: Instant,
    at_most: Option<Duration>,
    step: u64,
    records: AtomicU64,
    marks: Mutex<Vec<Duration>>,
}

impl Progress {
    /// Notes the time at every `step` records.
    pub(crate) fn begin(step: u64) -> Self {
        Self {
            begun: Instant::now(),
            at_most: None,
            step: step.max(1),
            records: AtomicU64::new(0),
            marks: Mutex::default(),
        }
    }

    /// Nobody begins with further records after so long.
    pub(crate) fn at_most(self, at_most: Option<Duration>) -> Self {
        Self { at_most, ..self }
    }

    /// Whether it has lasted as long as it may.
    pub(crate) fn is_over(&self) -> bool {
        self.at_most
            .is_some_and(|at_most| self.begun.elapsed() >= at_most)
    }

    pub(crate) fn add(&self, records: u64) {
        let before = self.records.fetch_add(records, Ordering::Relaxed);
        let steps = (before + records) / self.step - before / self.step;
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        marks.extend((0..steps).map(|_| self.begun.elapsed()));
    }

    pub(crate) fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }

    /// Records a second: of all, and in each step.
    pub(crate) fn rates(&self) -> (f64, Vec<f64>) {
        let rate = self.records() as f64 / self.begun.elapsed().as_secs_f64();
        let marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        let ends = marks.iter().map(Duration::as_secs_f64);
        let begins = std::iter::once(0.0).chain(ends.clone());
        let steps = begins
            .zip(ends)
            // Marks of one batch are at one time.
            .map(|(begin, end)| self.step as f64 / (end - begin).max(1e-6));
        (rate, steps.collect())
    }
}

/// A registered peer with a connection of its own.
pub(crate) struct Session {
    pub(crate) client: DirectoryClient<Channel>,
    pub(crate) welcome: RegisterResponse,
}

impl Session {
    /// Connects and registers.
    pub(crate) async fn open(addr: SocketAddr, peer: u64) -> anyhow::Result<Self> {
        let channel = endpoint(addr, peer)?.connect().await?;
        Self::over(channel, peer).await
    }

    /// Registers.
    pub(crate) async fn over(channel: Channel, peer: u64) -> anyhow::Result<Self> {
        let mut client = DirectoryClient::new(channel);
        let mut key = [0x42; 32];
        key[..8].copy_from_slice(&peer.to_le_bytes());
        let request = RegisterRequest {
            peer_key: key.to_vec().into(),
            port: 80,
            free_bytes: 1 << 30,
            ..Default::default()
        };
        let answer = timeout(ANSWER_WITHIN, client.register(request)).await;
        let welcome = answer.context("registering takes too long")??.into_inner();
        Ok(Self { client, welcome })
    }

    /// Announces records by their numbers, until that has lasted as long as it may; how many the peer
    /// has then.
    pub(crate) async fn announce(
        &mut self,
        manner: Manner,
        numbers: impl Iterator<Item = u64> + Send,
        progress: &Progress,
    ) -> anyhow::Result<u64> {
        let mut outbox = Outbox::open(self, progress).await?;
        match manner {
            Manner::Changes => {
                let mut numbers = numbers.peekable();
                while numbers.peek().is_some() && !progress.is_over() {
                    let batch = numbers.by_ref().take(CHANGES).map(records::record);
                    outbox.send(batch.collect(), None).await?;
                }
            }
            Manner::Buckets => {
                let mut buckets = vec![Vec::new(); 256];
                for number in numbers {
                    let bucket = records::digest(number).as_bytes()[0];
                    buckets[usize::from(bucket)].push(number);
                }
                for (bucket, numbers) in (0..).zip(buckets) {
                    let mut replaced = Some(bucket);
                    for part in numbers.chunks(REPLACED) {
                        if progress.is_over() {
                            return outbox.end().await;
                        }
                        let batch = part.iter().copied().map(records::record);
                        outbox.send(batch.collect(), replaced.take()).await?;
                    }
                }
            }
        }
        outbox.end().await
    }
}

/// Batches on their way to the locator, and how many records each of them has.
struct Outbox<'a> {
    welcome: &'a RegisterResponse,
    progress: &'a Progress,
    batches: mpsc::Sender<AnnounceRequest>,
    acks: Streaming<AnnounceResponse>,
    sent: u64,
    waiting: VecDeque<u64>,
    records: u64,
}

impl<'a> Outbox<'a> {
    async fn open(session: &'a mut Session, progress: &'a Progress) -> anyhow::Result<Self> {
        let (batches, outbound) = mpsc::channel(UNACKNOWLEDGED);
        let acks = session.client.announce(ReceiverStream::new(outbound));
        let acks = timeout(ANSWER_WITHIN, acks).await;
        Ok(Self {
            welcome: &session.welcome,
            progress,
            batches,
            acks: acks.context("the stream does not begin")??.into_inner(),
            sent: 0,
            waiting: VecDeque::new(),
            records: 0,
        })
    }

    async fn send(&mut self, announce: Vec<Record>, bucket: Option<u32>) -> anyhow::Result<()> {
        while self.waiting.len() >= UNACKNOWLEDGED {
            self.acknowledged().await?;
        }
        self.sent += 1;
        self.waiting.push_back(announce.len() as u64);
        let batch = AnnounceRequest {
            peer_id: self.welcome.peer_id.clone(),
            lease_token: self.welcome.lease_token.clone(),
            batch: self.sent,
            announce,
            withdraw: Vec::new(),
            replace_bucket: bucket,
        };
        let sent = self.batches.send(batch).await;
        sent.map_err(|_| anyhow::anyhow!("the locator ended the stream"))
    }

    async fn acknowledged(&mut self) -> anyhow::Result<()> {
        let ack = timeout(ANSWER_WITHIN, self.acks.message()).await;
        let ack = ack.context("no acknowledgement in time")??;
        let ack = ack.context("the locator ended the stream")?;
        let records = self.waiting.pop_front();
        self.progress.add(records.context("one batch, one answer")?);
        self.records = ack.records;
        Ok(())
    }

    async fn end(mut self) -> anyhow::Result<u64> {
        while !self.waiting.is_empty() {
            self.acknowledged().await?;
        }
        Ok(self.records)
    }
}
