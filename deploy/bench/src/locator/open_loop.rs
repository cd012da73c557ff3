//! Lookups at a fixed rate, whether the last ones were answered or not, and what became of them.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    sync::oneshot,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tonic::transport::Channel;
use vecino_grpc::v1::{LocateRequest, directory_client::DirectoryClient, locate_request::By};

use super::records;
use crate::load::Seen;

/// Connections that the lookups are spread over.
const CONNECTIONS: usize = 16;
/// An answer that comes later is an error.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
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

/// Lookups that go on until it is dropped, on a thread of their own: what else the benchmark does
/// keeps none of them waiting.
pub(crate) struct OpenLoop {
    outcome: Arc<Mutex<Outcome>>,
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
        let outcome = Arc::new(Mutex::new(Outcome::default()));
        let shared = outcome.clone();
        let (running, ended) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let run = move || {
            runtime.block_on(async {
                tokio::select! {
                    () = ask_all(&locators, rate, choose, shared) => {}
                    _ = ended => {}
                }
            });
        };
        let named = thread::Builder::new().name("lookups".to_owned());
        named.spawn(run).context("no thread for the lookups")?;
        Ok(Self {
            outcome,
            _running: running,
        })
    }

    /// What became of the lookups since the last call.
    pub(crate) fn take(&self) -> Outcome {
        let fresh = Outcome {
            began: Some(Instant::now()),
            ..Outcome::default()
        };
        let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut outcome, fresh)
    }

    /// When the last error was, since the last [`Self::take`].
    pub(crate) fn last_error(&self) -> Option<Instant> {
        let outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        outcome.last_error
    }
}

/// Asks for ever.
async fn ask_all(
    locators: &[SocketAddr],
    rate: u64,
    choose: impl Fn() -> u64,
    outcome: Arc<Mutex<Outcome>>,
) {
    let channels: Vec<_> = locators.iter().map(channel).collect();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let began = ticks.tick().await;
    let mut asked = 0_u64;
    loop {
        let now = ticks.tick().await;
        let due = (now - began).as_micros() as u64 * rate / 1_000_000;
        while asked < due {
            let channel = &channels[asked as usize % channels.len()];
            tokio::spawn(ask(channel.clone(), choose(), now, outcome.clone()));
            asked += 1;
        }
    }
}

fn channel(addr: &SocketAddr) -> Channel {
    let uri = format!("http://{addr}")
        .parse()
        .expect("an address makes a URL");
    Channel::builder(uri).tcp_nodelay(true).connect_lazy()
}

async fn ask(channel: Channel, number: u64, due: Instant, outcome: Arc<Mutex<Outcome>>) {
    let request = LocateRequest {
        by: Some(By::Name(records::name(number))),
        ..Default::default()
    };
    let mut client = DirectoryClient::new(channel);
    let answer = timeout(ANSWER_WITHIN, client.locate(request)).await;
    let error = match answer {
        Ok(Ok(response)) if response.get_ref().variants.is_empty() => NOT_FOUND.to_owned(),
        Ok(Ok(_)) => String::new(),
        Ok(Err(status)) => format!("{:?}", status.code()),
        Err(_) => "no answer in 5 s".to_owned(),
    };
    let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
    let now = Instant::now();
    if error.is_empty() {
        outcome.latencies.push(now - due);
        outcome.first_answer.get_or_insert(now);
    } else {
        if error != NOT_FOUND {
            outcome.last_error = Some(now);
        }
        *outcome.errors.entry(error).or_default() += 1;
    }
}
