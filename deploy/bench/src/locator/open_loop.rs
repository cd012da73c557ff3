//! Lookups at a fixed rate, whether the last ones were answered or not, and what became of them.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tonic::transport::{Channel, Endpoint};
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

/// Lookups that go on until it is dropped.
pub(crate) struct OpenLoop {
    outcome: Arc<Mutex<Outcome>>,
    task: JoinHandle<()>,
}

impl Drop for OpenLoop {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl OpenLoop {
    /// `rate` lookups a second of what `choose` says, over all of `locators`.
    pub(crate) fn start(
        locators: &[SocketAddr],
        rate: u64,
        choose: impl Fn() -> u64 + Send + 'static,
    ) -> anyhow::Result<Self> {
        let channels = locators
            .iter()
            .cycle()
            .take(CONNECTIONS.max(locators.len()));
        let channels: Vec<_> = channels.map(channel).collect::<Result<_, _>>()?;
        let outcome = Arc::new(Mutex::new(Outcome::default()));
        let shared = outcome.clone();
        let task = tokio::spawn(async move {
            let next = AtomicUsize::new(0);
            let mut ticks = interval(TICK);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let began = ticks.tick().await;
            let mut asked = 0;
            loop {
                let now = ticks.tick().await;
                let due = (now - began).as_micros() as u64 * rate / 1_000_000;
                for _ in asked..due {
                    let channel = next.fetch_add(1, Ordering::Relaxed) % channels.len();
                    let lookup = ask(channels[channel].clone(), choose(), now, shared.clone());
                    tokio::spawn(lookup);
                }
                asked = due;
            }
        });
        Ok(Self { outcome, task })
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

fn channel(addr: &SocketAddr) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{addr}"))?;
    Ok(endpoint.tcp_nodelay(true).connect_lazy())
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
