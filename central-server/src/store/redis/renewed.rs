//! [`Renewed`]: a connection to the cluster that another one replaces when it has gone silent.
//!
//! The client finds its way through a failover by itself, as a rule. Under load it was seen to fall
//! silent for good once a replica had taken over, while every node answered others at once.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use redis::cluster_async::ClusterConnection;
use redis::{RedisResult, cluster::ClusterClient, cluster::ClusterConfig};
use tokio::{
    runtime::Handle,
    time::{Instant, timeout},
};

use super::cluster::{Answer, CONNECT_WITHIN, WITHIN};

/// A connection that has not answered for so long, while it was asked, is replaced.
const SILENT_FOR: Duration = Duration::from_secs(2);
/// How often a new one is tried.
const RENEW_EVERY: Duration = Duration::from_secs(1);

struct State {
    connection: ClusterConnection,
    answered: Instant,
    renewed: Instant,
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(super) struct Renewed {
    client: ClusterClient,
    answers_within: Duration,
    /// Where connections live: not with whoever notices that one is silent.
    runtime: Handle,
    state: Arc<Mutex<State>>,
}

impl Renewed {
    /// Connects; each node has to answer within `answers_within`.
    pub(super) async fn connect(
        client: &ClusterClient,
        answers_within: Duration,
    ) -> RedisResult<Self> {
        let state = State {
            connection: open(client, answers_within).await?,
            answered: Instant::now(),
            renewed: Instant::now(),
        };
        Ok(Self {
            client: client.clone(),
            answers_within,
            runtime: Handle::current(),
            state: Arc::new(Mutex::new(state)),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection of now.
    pub(super) fn get(&self) -> ClusterConnection {
        self.state().connection.clone()
    }

    /// Tells it how a call went: one that went silent is replaced in the background.
    pub(super) fn heard<T>(&self, answer: &Answer<T>) {
        let is_silent = match answer {
            Ok(answer) => answer.as_ref().is_err_and(redis::RedisError::is_timeout),
            Err(_) => true,
        };
        let now = Instant::now();
        let mut state = self.state();
        if !is_silent {
            state.answered = now;
            return;
        }
        if now - state.answered < SILENT_FOR || now - state.renewed < RENEW_EVERY {
            return;
        }
        state.renewed = now;
        drop(state);
        self.runtime.spawn(self.clone().renew());
    }

    async fn renew(self) {
        log::warn!("the connection to the cluster is silent: another one is tried");
        match timeout(WITHIN, open(&self.client, self.answers_within)).await {
            Ok(Ok(connection)) => self.state().connection = connection,
            Ok(Err(error)) => log::warn!("no new connection to the cluster: {error}"),
            Err(_) => log::warn!("no new connection to the cluster within {WITHIN:?}"),
        }
    }
}

async fn open(client: &ClusterClient, answers_within: Duration) -> RedisResult<ClusterConnection> {
    let config = ClusterConfig::new()
        .set_connection_timeout(CONNECT_WITHIN)
        .set_response_timeout(answers_within);
    client.get_async_connection_with_config(config).await
}
