//! [`Renewed`]: a connection to the cluster that another one replaces when it has gone silent.
//!
//! The client finds its way through a failover by itself, as a rule. Under load it falls silent for
//! good soon after a primary is gone, while every node answers others at once. Probably a request of
//! it that has used up tokio's budget for a turn keeps its place at a lock while it is not polled, and
//! what looks for the slots waits for that lock and keeps it from being polled; without the budget
//! there were fewer errors. The next connection may do so as well until a replica has taken over, so
//! that it is replaced again and again.

use std::{
    convert::Infallible,
    ops::ControlFlow,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use redis::cluster_async::ClusterConnection;
use redis::{RedisResult, cluster::ClusterClient, cluster::ClusterConfig};
use tokio::{
    runtime::Handle,
    sync::watch,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::cluster::{Answer, CONNECT_WITHIN, PAUSE, WITHIN, judge};
use crate::store::StoreError;

/// A connection that tells nobody anything, while it was asked, for so much longer than a node may
/// take to answer is replaced: it would tell of a node that does not.
const SILENT_FOR: Duration = Duration::from_millis(200);
/// How often who waits looks whether it is silent.
const LOOKED_EVERY: Duration = Duration::from_millis(200);
/// Pause before another one is tried.
const RENEW_EVERY: Duration = Duration::from_millis(400);

struct State {
    answered: Instant,
    renewed: Instant,
    is_renewing: bool,
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(super) struct Renewed {
    client: ClusterClient,
    answers_within: Duration,
    /// Where connections live: not with whoever notices that one is silent.
    runtime: Handle,
    connection: Arc<watch::Sender<ClusterConnection>>,
    state: Arc<Mutex<State>>,
}

impl Renewed {
    /// Connects; each node has to answer within `answers_within`.
    pub(super) async fn connect(
        client: &ClusterClient,
        answers_within: Duration,
    ) -> RedisResult<Self> {
        let connection = open(client, answers_within).await?;
        let state = State {
            answered: Instant::now(),
            renewed: Instant::now(),
            is_renewing: false,
        };
        Ok(Self {
            client: client.clone(),
            answers_within,
            runtime: Handle::current(),
            connection: Arc::new(watch::Sender::new(connection)),
            state: Arc::new(Mutex::new(state)),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a query is answered until `deadline`; it may run twice. Each attempt is on the connection
    /// of then, is bounded by what connecting and an answer may take, and ends when the connection is
    /// replaced: nobody waits any longer for one that has gone silent.
    pub(super) async fn ask<T, F>(
        &self,
        deadline: Instant,
        query: impl Fn(ClusterConnection) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let began = Instant::now();
        let mut connections = self.connection.subscribe();
        loop {
            let connection = connections.borrow_and_update().clone();
            let until = deadline.min(Instant::now() + CONNECT_WITHIN + self.answers_within);
            let answer = tokio::select! {
                biased;
                answer = timeout_at(until, query(connection)) => answer,
                _ = connections.changed() => continue,
                never = self.look(began) => match never {},
            };
            self.heard(&answer, began);
            match judge(answer, deadline) {
                ControlFlow::Break(answer) => return answer,
                ControlFlow::Continue(()) => sleep(PAUSE).await,
            }
        }
    }

    /// The connection of now.
    pub(super) fn get(&self) -> ClusterConnection {
        self.connection.borrow().clone()
    }

    /// Tells it how a call went that began then.
    pub(super) fn heard<T>(&self, answer: &Answer<T>, began: Instant) {
        let is_silent = match answer {
            Ok(answer) => answer.as_ref().is_err_and(redis::RedisError::is_timeout),
            Err(_) => true,
        };
        if is_silent {
            self.renew_if_silent(began);
        } else {
            self.state().answered = Instant::now();
        }
    }

    /// Looks again and again, for a call that began then, whether the connection is silent.
    async fn look(&self, began: Instant) -> Infallible {
        loop {
            sleep(LOOKED_EVERY).await;
            self.renew_if_silent(began);
        }
    }

    /// Replaces the connection in the background if it has told nobody anything for too long
    /// since a call began.
    fn renew_if_silent(&self, began: Instant) {
        let now = Instant::now();
        let mut state = self.state();
        if now - state.answered.max(began) < self.answers_within + SILENT_FOR
            || now - state.renewed < RENEW_EVERY
            || state.is_renewing
        {
            return;
        }
        state.is_renewing = true;
        drop(state);
        self.runtime.spawn(self.clone().renew());
    }

    async fn renew(self) {
        log::warn!("the connection to the cluster is silent: another one is tried");
        match timeout(WITHIN, open(&self.client, self.answers_within)).await {
            Ok(Ok(connection)) => drop(self.connection.send_replace(connection)),
            Ok(Err(error)) => log::warn!("no new connection to the cluster: {error}"),
            Err(_) => log::warn!("no new connection to the cluster within {WITHIN:?}"),
        }
        let mut state = self.state();
        state.is_renewing = false;
        state.renewed = Instant::now();
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
            silent.connection.send_replace(other.get());
        };
        let asked = silent.ask(Instant::now() + WITHIN, query);
        let (answer, ()) = tokio::join!(asked, replace);
        assert_eq!(answer.expect("answers"), "here");
    }
}
