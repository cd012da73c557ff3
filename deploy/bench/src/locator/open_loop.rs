//! Lookups at a fixed rate, whether the last ones were answered or not, and what became of them.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::Context as _;
use rustix::{process::setpriority_process, thread::gettid};
use tokio::{
    sync::oneshot,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tonic::transport::Channel;
use vecino_grpc::v1::{LocateRequest, directory_client::DirectoryClient, locate_request::By};
use vecino_rest::route;

use super::records;
use crate::load::{Connection, Seen};

/// Connections that the lookups are spread over.
const CONNECTIONS: usize = 16;
/// An answer of a locator that comes later is an error ...
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// ... and one of a peer, which asks others and may ask them again.
const PEER_WITHIN: Duration = Duration::from_secs(30);
/// How often it is looked whether all are answered.
const LOOKED_EVERY: Duration = Duration::from_millis(20);
/// How nice the thread is: what it is late by is not of who answers.
pub(crate) const FIRST: i32 = -15;
/// Lookups begin in groups of this period.
const TICK: Duration = Duration::from_millis(1);

/// How an answer without variants counts.
const NOT_FOUND: &str = "not found";

/// What became of the lookups since it was last asked.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// From when they were due to the answer.
    latencies: Vec<Duration>,
    /// By what was said.
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) first_answer: Option<Instant>,
    /// A failure: that nothing is found is an answer.
    pub(crate) last_error: Option<Instant>,
    began: Option<Instant>,
    /// Asked and neither answered nor given up, ever.
    pending: u64,
}

impl Outcome {
    /// Answered lookups a second and their latency.
    pub(crate) fn seen(&self) -> Option<Seen> {
        let took = self.began.map(|began| began.elapsed()).unwrap_or_default();
        Seen::of(self.latencies.clone(), self.latencies.len() as u64, took)
    }

    /// How many were answered.
    pub(crate) fn answered(&self) -> usize {
        self.latencies.len()
    }

    /// The longest that an answer took.
    pub(crate) fn slowest(&self) -> Duration {
        self.latencies.iter().copied().max().unwrap_or_default()
    }

    /// In one cell of a table.
    pub(crate) fn errors(&self) -> String {
        let errors = self.errors.iter();
        let errors: Vec<_> = errors
            .map(|(what, times)| format!("{times} {what}"))
            .collect();
        match errors.is_empty() {
            true => "0".to_owned(),
            false => errors.join(", "),
        }
    }
}

/// Whom to ask, and how.
trait Asked: Send + 'static {
    /// Asks once, the `turn`th time; the error says what came instead of an answer.
    fn ask(&self, turn: u64) -> impl Future<Output = Result<(), String>> + Send + 'static;
}

/// Has the thread go before others; whether that is allowed.
pub(crate) fn goes_first() -> bool {
    setpriority_process(Some(gettid()), FIRST).is_ok()
}

/// Lookups that go on until it is dropped, on a thread of their own: what else the benchmark does
/// keeps none of them waiting.
pub(crate) struct OpenLoop {
    outcome: Arc<Mutex<Outcome>>,
    is_over: Arc<AtomicBool>,
    /// Ends the thread when it is dropped.
    _running: oneshot::Sender<()>,
}

impl OpenLoop {
    /// `rate` lookups a second of what `choose` says, over all of `locators`.
    pub(crate) fn start(
        locators: &[SocketAddr],
        rate: u64,
        choose: impl Fn() -> u64 + Send + 'static,
    ) -> anyhow::Result<Self> {
        let count = CONNECTIONS.max(locators.len());
        let locators: Vec<_> = locators.iter().copied().cycle().take(count).collect();
        let asked = move || Locators {
            channels: locators.iter().map(channel).collect(),
            choose,
        };
        Self::of(asked, rate)
    }

    /// `rate` times a second `GET /v1/locate/NAME` of what `choose` says at `peer`, over as many
    /// connections as there are answers to wait for.
    pub(crate) fn of_clients(
        peer: SocketAddr,
        rate: u64,
        choose: impl Fn() -> u64 + Send + 'static,
    ) -> anyhow::Result<Self> {
        let asked = move || Peer {
            addr: peer,
            idle: Arc::default(),
            choose,
        };
        Self::of(asked, rate)
    }

    fn of<A: Asked>(asked: impl FnOnce() -> A + Send + 'static, rate: u64) -> anyhow::Result<Self> {
        let outcome = Arc::new(Mutex::new(Outcome::default()));
        let is_over = Arc::new(AtomicBool::new(false));
        let shared = (outcome.clone(), is_over.clone());
        let (running, ended) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let run = move || {
            goes_first();
            runtime.block_on(async {
                let asked = asked();
                tokio::select! {
                    () = ask_all(asked, rate, shared.0, &shared.1) => {}
                    _ = ended => {}
                }
            });
        };
        let named = thread::Builder::new().name("lookups".to_owned());
        named.spawn(run).context("no thread for the lookups")?;
        Ok(Self {
            outcome,
            is_over,
            _running: running,
        })
    }

    fn outcome(&self) -> MutexGuard<'_, Outcome> {
        lock(&self.outcome)
    }

    /// What became of the lookups since the last call.
    pub(crate) fn take(&self) -> Outcome {
        let mut outcome = self.outcome();
        let fresh = Outcome {
            began: Some(Instant::now()),
            pending: outcome.pending,
            ..Outcome::default()
        };
        std::mem::replace(&mut outcome, fresh)
    }

    /// When the last error was, since the last [`Self::take`].
    pub(crate) fn last_error(&self) -> Option<Instant> {
        self.outcome().last_error
    }

    /// Asks no more, and what became of the lookups since the last [`Self::take`] once none of them
    /// waits for its answer.
    pub(crate) async fn finish(self) -> Outcome {
        self.is_over.store(true, Ordering::Relaxed);
        // Each is bounded, and so is this. A group that begins now is awaited as well.
        sleep(LOOKED_EVERY).await;
        while self.outcome().pending > 0 {
            sleep(LOOKED_EVERY).await;
        }
        self.take()
    }
}

fn lock(outcome: &Mutex<Outcome>) -> MutexGuard<'_, Outcome> {
    outcome.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks until it is over, then waits for ever: some may wait for their answers still.
async fn ask_all(whom: impl Asked, rate: u64, outcome: Arc<Mutex<Outcome>>, is_over: &AtomicBool) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let began = ticks.tick().await;
    let mut asked = 0_u64;
    while !is_over.load(Ordering::Relaxed) {
        let now = ticks.tick().await;
        let due = (now - began).as_micros() as u64 * rate / 1_000_000;
        while asked < due {
            lock(&outcome).pending += 1;
            tokio::spawn(note(whom.ask(asked), now, outcome.clone()));
            asked += 1;
        }
    }
    std::future::pending().await
}

async fn note(
    asked: impl Future<Output = Result<(), String>>,
    due: Instant,
    outcome: Arc<Mutex<Outcome>>,
) {
    let answer = asked.await;
    let mut outcome = lock(&outcome);
    let now = Instant::now();
    outcome.pending -= 1;
    match answer {
        Ok(()) => {
            outcome.latencies.push(now - due);
            outcome.first_answer.get_or_insert(now);
        }
        Err(error) => {
            if error != NOT_FOUND {
                outcome.last_error = Some(now);
            }
            *outcome.errors.entry(error).or_default() += 1;
        }
    }
}

/// Locators, asked in turn over gRPC.
struct Locators<C> {
    channels: Vec<Channel>,
    choose: C,
}

fn channel(addr: &SocketAddr) -> Channel {
    let uri = format!("http://{addr}")
        .parse()
        .expect("an address makes a URL");
    Channel::builder(uri).tcp_nodelay(true).connect_lazy()
}

impl<C: Fn() -> u64 + Send + 'static> Asked for Locators<C> {
    fn ask(&self, turn: u64) -> impl Future<Output = Result<(), String>> + Send + 'static {
        let channel = &self.channels[turn as usize % self.channels.len()];
        let mut client = DirectoryClient::new(channel.clone());
        let request = LocateRequest {
            by: Some(By::Name(records::name((self.choose)()))),
            ..Default::default()
        };
        async move {
            match timeout(ANSWER_WITHIN, client.locate(request)).await {
                Ok(Ok(response)) if response.get_ref().variants.is_empty() => {
                    Err(NOT_FOUND.to_owned())
                }
                Ok(Ok(_)) => Ok(()),
                Ok(Err(status)) => Err(format!("{:?}", status.code())),
                Err(_) => Err(format!("no answer in {ANSWER_WITHIN:?}")),
            }
        }
    }
}

/// A peer, asked as its clients do.
struct Peer<C> {
    addr: SocketAddr,
    /// Connections on which nobody waits.
    idle: Arc<Mutex<Vec<Connection>>>,
    choose: C,
}

impl<C: Fn() -> u64 + Send + 'static> Asked for Peer<C> {
    fn ask(&self, _: u64) -> impl Future<Output = Result<(), String>> + Send + 'static {
        let path = format!("{}/{}", route::LOCATE, records::name((self.choose)()));
        let (addr, idle) = (self.addr, self.idle.clone());
        async move {
            let answer = async {
                let kept = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let mut connection = match kept {
                    Some(connection) => connection,
                    None => Connection::open(addr).await?,
                };
                let (status, _) = connection.answer(&path).await?;
                idle.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(connection);
                anyhow::Ok(status)
            };
            match timeout(PEER_WITHIN, answer).await {
                Ok(Ok(200)) => Ok(()),
                Ok(Ok(404)) => Err(NOT_FOUND.to_owned()),
                Ok(Ok(status)) => Err(format!("{status}")),
                Ok(Err(error)) => Err(format!("no answer: {error:#}")),
                Err(_) => Err(format!("no answer in {PEER_WITHIN:?}")),
            }
        }
    }
}
