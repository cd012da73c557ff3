//! [`Renewed`]: a connection to the cluster that another one replaces when it has gone silent.
//!
//! The client finds its way through a failover by itself, as a rule. Under load it was seen to fall
//! silent for good once a replica had taken over, while every node answered others at once.

use std::{
    ops::ControlFlow,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use redis::cluster_async::ClusterConnection;
use redis::{RedisResult, cluster::ClusterClient, cluster::ClusterConfig};
use tokio::{
    runtime::Handle,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::cluster::{Answer, CONNECT_WITHIN, PAUSE, WITHIN, judge};
use crate::store::StoreError;

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

    /// What a query is answered until `deadline`; it may run twice. Each attempt is on the connection
    /// of then and bounded by what connecting and an answer may take: nobody waits any longer for
    /// one that has gone silent and was replaced.
    pub(super) async fn ask<T, F>(
        &self,
        deadline: Instant,
        query: impl Fn(ClusterConnection) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = RedisResult<T>>,
    {
        loop {
            let until = deadline.min(Instant::now() + CONNECT_WITHIN + self.answers_within);
            let answer = timeout_at(until, query(self.get())).await;
            self.heard(&answer);
            match judge(answer, deadline) {
                ControlFlow::Break(answer) => return answer,
                ControlFlow::Continue(()) => sleep(PAUSE).await,
            }
        }
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

#[cfg(test)]
mod tests {
    use redis::cluster::ClusterClientBuilder;
    use tokio::{
        io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    /// A node that has all slots, says OK to all that makes a connection, and to `GET` what `got` is.
    async fn node(got: &'static str) -> Renewed {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = listener.local_addr().expect("is bound").port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, got, port));
            }
        });
        let client = ClusterClientBuilder::new([format!("redis://127.0.0.1:{port}")])
            .overall_response_timeout(Some(WITHIN))
            .build()
            .expect("a cluster");
        let connected = Renewed::connect(&client, Duration::from_millis(500));
        connected.await.expect("connects")
    }

    async fn serve(stream: TcpStream, got: &str, port: u16) {
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        // A command is the number of its words, then the length of each and the word itself.
        while let Ok(Some(line)) = lines.next_line().await {
            let words: usize = line
                .strip_prefix('*')
                .expect("a command")
                .parse()
                .expect("a number");
            let mut command = Vec::new();
            for _ in 0..words {
                lines.next_line().await.expect("a length");
                command.extend(lines.next_line().await.expect("a word"));
            }
            let slots = format!("*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:{port}\r\n");
            let answer = match command[0].as_str() {
                "CLUSTER" => &slots,
                "GET" => got,
                _ => "+OK\r\n",
            };
            if write.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    #[tokio::test]
    async fn who_waits_on_a_connection_that_is_replaced_is_answered_on_the_new_one() {
        let (silent, other) = (node("").await, node("+here\r\n").await);
        let mut command = redis::cmd("GET");
        let command = &*command.arg("name");
        let query = |mut connection: ClusterConnection| async move {
            command.query_async::<String>(&mut connection).await
        };
        let replace = async {
            sleep(PAUSE).await;
            silent.state().connection = other.get();
        };
        let asked = silent.ask(Instant::now() + WITHIN, query);
        let (answer, ()) = tokio::join!(asked, replace);
        assert_eq!(answer.expect("answers"), "here");
    }
}
