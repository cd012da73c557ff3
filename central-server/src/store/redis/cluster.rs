//! The connection to the cluster: which nodes, how long a call may take, scripts.
//!
//! Invariant: no call takes longer than [`WITHIN`]; within it the client follows a cluster that
//! moves slots or promotes a replica. Every script may run twice.

use std::{fmt, ops::ControlFlow, path::PathBuf, str::FromStr, sync::OnceLock, time::Duration};

use redis::{
    Cmd, ErrorKind, FromRedisValue, RedisError, RetryMethod, ServerErrorKind, Value,
    cluster::ClusterClientBuilder,
    cluster_async::ClusterConnection,
    cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo},
};
use tokio::time::{Instant, error::Elapsed, sleep, timeout, timeout_at};

use super::renewed::Renewed;
use crate::store::StoreError;

/// Time for a node to answer; the client's own default.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// Time for a replica to have what must not be lost.
const REPLICA_WITHIN: Duration = Duration::from_millis(500);
/// Time for a connection to come about.
pub(super) const CONNECT_WITHIN: Duration = Duration::from_millis(500);
/// Time for a call, retries included: a replica takes over in that time when the cluster's
/// `cluster-node-timeout` is a second.
pub(super) const WITHIN: Duration = Duration::from_millis(2_800);
/// Pause before a call that failed is tried again.
pub(super) const PAUSE: Duration = Duration::from_millis(50);
/// Retries of the client itself, and how many milliseconds lie between them.
const RETRIES: u32 = 8;
const RETRY_WAIT_MS: (u64, u64) = (20, 150);
/// Nodes that may be named.
const MAX_NODES: usize = 64;
/// Bytes of a namespace.
const MAX_NAMESPACE: usize = 32;
/// The namespace when none is named.
const NAMESPACE: &str = "vecino";

/// What is accepted as [`RedisUrl`].
pub const EXPECTED: &str = "redis://host:port, further nodes of the cluster with commas, then perhaps /NAMESPACE \
     (letters, digits, - and _); the password goes to REDIS_PASSWORD_FILE";

/// A Redis or Valkey Cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisUrl {
    /// Some of its nodes, `host:port`; it tells the others.
    pub nodes: Vec<String>,
    /// What all keys begin with, so that a cluster may have several directories.
    pub namespace: String,
    /// Where the password is; never shown.
    pub password_file: Option<PathBuf>,
}

impl FromStr for RedisUrl {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let rest = text.strip_prefix("redis://").ok_or(())?;
        let (nodes, namespace) = match rest.split_once('/') {
            None | Some((_, "")) => (rest.trim_end_matches('/'), NAMESPACE),
            Some((nodes, namespace)) => (nodes, namespace),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if namespace.len() > MAX_NAMESPACE || !namespace.chars().all(plain) {
            return Err(());
        }
        let nodes: Vec<_> = nodes.split(',').map(str::to_owned).collect();
        if nodes.len() > MAX_NODES || !nodes.iter().all(|node| is_node(node)) {
            return Err(());
        }
        Ok(Self {
            nodes,
            namespace: namespace.to_owned(),
            password_file: None,
        })
    }
}

/// Whether it is `host:port`; IPv6 in brackets.
fn is_node(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let bracketed = host.strip_prefix('[').and_then(|ip| ip.strip_suffix(']'));
    let host = match bracketed {
        Some(ip) => ip.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.len() <= 255 && host.chars().all(name),
    };
    let digits = port.bytes().all(|digit| digit.is_ascii_digit());
    host && digits && port.parse().is_ok_and(|port: u16| port > 0)
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "redis://{}", self.nodes.join(","))?;
        if self.namespace != NAMESPACE {
            write!(f, "/{}", self.namespace)?;
        }
        Ok(())
    }
}

/// A script and its hash.
pub(super) struct Script {
    text: &'static str,
    hash: String,
}

impl Script {
    fn new(text: &'static str) -> Self {
        let hash = redis::Script::new(text).get_hash().to_owned();
        Self { text, hash }
    }
}

/// All scripts.
pub(super) struct Scripts {
    pub(super) apply: Script,
    pub(super) end_session: Script,
    pub(super) exchange: Script,
    pub(super) find: Script,
    pub(super) forget: Script,
    pub(super) held: Script,
    pub(super) lapse: Script,
    pub(super) note: Script,
    pub(super) put_account: Script,
    pub(super) register: Script,
    pub(super) unlist: Script,
    pub(super) say_accounts: Script,
    pub(super) walk: Script,
}

/// See [`Scripts`].
pub(super) fn scripts() -> &'static Scripts {
    static SCRIPTS: OnceLock<Scripts> = OnceLock::new();
    SCRIPTS.get_or_init(|| Scripts {
        apply: Script::new(include_str!("apply.lua")),
        end_session: Script::new(include_str!("end_session.lua")),
        exchange: Script::new(include_str!("exchange.lua")),
        find: Script::new(include_str!("find.lua")),
        forget: Script::new(include_str!("forget.lua")),
        held: Script::new(include_str!("held.lua")),
        lapse: Script::new(include_str!("lapse.lua")),
        note: Script::new(include_str!("note.lua")),
        put_account: Script::new(include_str!("put_account.lua")),
        register: Script::new(include_str!("register.lua")),
        unlist: Script::new(include_str!("unlist.lua")),
        say_accounts: Script::new(include_str!("say_accounts.lua")),
        walk: Script::new(include_str!("walk.lua")),
    })
}

/// A connection to each node of the cluster, as far as they are needed. Cheap to clone.
#[derive(Clone)]
pub(super) struct Cluster {
    connection: Renewed,
    /// For changes that wait for a replica: whatever else is asked does not wait with them.
    waiting: Renewed,
}

impl Cluster {
    /// Connects; the error is a sentence for the operator.
    pub(super) async fn connect(url: &RedisUrl) -> Result<Self, String> {
        let nodes = url.nodes.iter().map(|node| format!("redis://{node}"));
        let mut builder = ClusterClientBuilder::new(nodes.collect::<Vec<_>>())
            .connection_timeout(CONNECT_WITHIN)
            .response_timeout(ANSWER_WITHIN)
            .overall_response_timeout(Some(WITHIN))
            .retries(RETRIES)
            .min_retry_wait(RETRY_WAIT_MS.0)
            .max_retry_wait(RETRY_WAIT_MS.1);
        if let Some(file) = &url.password_file {
            let password = std::fs::read_to_string(file).map_err(|error| {
                format!(
                    "REDIS_PASSWORD_FILE={} cannot be read: {error}",
                    file.display()
                )
            })?;
            builder = builder.password(password.trim_end_matches(['\r', '\n']));
        }
        let reason = |error| format!("no Redis Cluster answers there: {error}");
        let client = builder.build().map_err(reason)?;
        let both = async {
            Ok(Self {
                connection: Renewed::connect(&client, ANSWER_WITHIN).await?,
                waiting: Renewed::connect(&client, REPLICA_WITHIN + ANSWER_WITHIN).await?,
            })
        };
        timeout(WITHIN, both)
            .await
            .map_err(|_| format!("no Redis Cluster answers there within {WITHIN:?}"))?
            .map_err(reason)
    }

    /// Runs a command.
    pub(super) async fn call<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        let query = |mut connection: ClusterConnection| async move {
            command.query_async(&mut connection).await
        };
        self.connection.ask(Instant::now() + WITHIN, query).await
    }

    /// Runs a script on what belongs to `tag`.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        script: &Script,
        tag: &str,
        arguments: &[Vec<u8>],
    ) -> Result<T, StoreError> {
        let mut known = redis::cmd("EVALSHA");
        known.arg(&script.hash).arg(1).arg(tag).arg(arguments);
        let known = &known;
        let query = |mut connection: ClusterConnection| async move {
            let answer = known.query_async(&mut connection).await;
            if !answer.as_ref().is_err_and(is_unknown_script) {
                return answer;
            }
            let mut told = redis::cmd("EVAL");
            told.arg(script.text).arg(1).arg(tag).arg(arguments);
            told.query_async(&mut connection).await
        };
        self.connection.ask(Instant::now() + WITHIN, query).await
    }

    /// Runs a script that must not be lost when another node takes over: where the node has
    /// replicas, one of them has the change as well when this returns.
    pub(super) async fn run_surely(
        &self,
        script: &Script,
        tag: &str,
        arguments: &[Vec<u8>],
    ) -> Result<u64, StoreError> {
        let began = Instant::now();
        let deadline = began + WITHIN;
        let mut pipeline = redis::pipe();
        pipeline.cmd("EVAL").arg(script.text).arg(1).arg(tag);
        pipeline.arg(arguments);
        let replicas = usize::from(self.has_replicas(tag, deadline).await?);
        let within_ms = u64::try_from(REPLICA_WITHIN.as_millis()).unwrap_or(u64::MAX);
        pipeline.cmd("WAIT").arg(replicas).arg(within_ms);
        // In one pipeline, and on one connection however often it is tried: waiting is for what was
        // changed on the same connection, and a script may find nothing to change when it runs again.
        // It is taken last: asking for the replicas may have replaced a silent one.
        let mut connection = self.waiting.get();
        loop {
            let answer = timeout_at(deadline, pipeline.query_async(&mut connection)).await;
            self.waiting.heard(&answer, began);
            let (done, having): (u64, usize) = match judge(answer, deadline) {
                ControlFlow::Break(answer) => answer?,
                ControlFlow::Continue(()) => {
                    sleep(PAUSE).await;
                    continue;
                }
            };
            if having < replicas {
                return Err(StoreError::Engine(format!(
                    "no replica took the change within {REPLICA_WITHIN:?}, so that it might be \
                     lost: see CLUSTER NODES, and try again"
                )));
            }
            return Ok(done);
        }
    }

    /// Whether the node that has `tag` has replicas, be they there or not.
    async fn has_replicas(&self, tag: &str, deadline: Instant) -> Result<bool, StoreError> {
        let mut pipeline = redis::pipe();
        // The key leads to the node.
        pipeline.cmd("EXISTS").arg(tag).ignore();
        pipeline.cmd("CLUSTER").arg("NODES");
        let pipeline = &pipeline;
        let query = |mut connection: ClusterConnection| async move {
            pipeline.query_async(&mut connection).await
        };
        let (nodes,): (String,) = self.waiting.ask(deadline, query).await?;
        Ok(lists_replicas(&nodes))
    }

    /// What each primary says to a command.
    pub(super) async fn of_primaries(&self, command: Cmd) -> Result<Vec<String>, StoreError> {
        let mut connection = self.connection.get();
        let all = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
        let answers = connection.route_command(command, all).await;
        let Value::Map(answers) = answers.map_err(engine)? else {
            return Err(StoreError::Engine("the primaries gave no answers".into()));
        };
        let texts = answers.into_iter().map(|(_, answer)| {
            String::from_redis_value(answer).map_err(|error| engine(error.into()))
        });
        texts.collect()
    }
}

/// Whether a node that says this of its cluster has replicas.
fn lists_replicas(nodes: &str) -> bool {
    // Id, address, flags, id of the primary, ...
    let lines = nodes.lines().filter_map(|line| {
        let mut words = line.split(' ');
        Some((words.next()?, words.nth(1)?, words.next()?))
    });
    let lines: Vec<_> = lines.collect();
    let is_this = |flags: &str| flags.split(',').any(|flag| flag == "myself");
    let this = lines.iter().find(|(_, flags, _)| is_this(flags));
    this.is_some_and(|(id, ..)| lines.iter().any(|(.., primary)| primary == id))
}

pub(super) type Answer<T> = Result<Result<T, RedisError>, Elapsed>;

fn is_unknown_script(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

/// Whether that is the answer, or there is time to ask again. The client's own retries are used up
/// at once where a dead node refuses connections.
pub(super) fn judge<T>(answer: Answer<T>, deadline: Instant) -> ControlFlow<Result<T, StoreError>> {
    let is_late = Instant::now() + PAUSE >= deadline;
    let error = match answer {
        Ok(Ok(answer)) => return ControlFlow::Break(Ok(answer)),
        Ok(Err(error)) => error,
        Err(_) if !is_late => {
            log::debug!("the cluster is asked again: it is silent");
            return ControlFlow::Continue(());
        }
        Err(_) => {
            let silent = format!("the cluster does not answer within {WITHIN:?}");
            return ControlFlow::Break(Err(StoreError::Engine(silent)));
        }
    };
    let is_final = matches!(error.retry_method(), RetryMethod::NoRetry)
        && error.kind() != ErrorKind::ClusterConnectionNotFound;
    if is_final || is_late {
        return ControlFlow::Break(Err(engine(error)));
    }
    log::debug!("the cluster is asked again: {error}");
    ControlFlow::Continue(())
}

/// An error of the cluster.
pub(super) fn engine(error: RedisError) -> StoreError {
    let text = error.to_string();
    if text.contains("OOM ") {
        return StoreError::DiskFull(text);
    }
    StoreError::Engine(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_those_of_the_node_that_answers() {
        let nodes = |of_a: &str| {
            format!(
                "aa 127.0.0.1:1@2,, myself,master - 0 1 1 connected 0-8191\n\
                 bb 127.0.0.1:2@3,, master - 0 1 2 connected 8192-16383\n\
                 cc 127.0.0.1:3@4,, slave {of_a} 0 1 1 connected\n"
            )
        };
        assert!(lists_replicas(&nodes("aa")));
        assert!(!lists_replicas(&nodes("bb")));
        let failed = nodes("aa").replace("slave", "slave,fail");
        assert!(lists_replicas(&failed), "it may take over yet");
        assert!(!lists_replicas(""));
    }

    #[test]
    fn clusters_are_named_by_some_of_their_nodes() {
        for (text, shown) in [
            ("redis://a:1", "redis://a:1"),
            ("redis://a:1/", "redis://a:1"),
            ("redis://a:1,[::1]:65535/vecino", "redis://a:1,[::1]:65535"),
            (
                "redis://10.0.0.1:7000,b-c.d:2/x_1",
                "redis://10.0.0.1:7000,b-c.d:2/x_1",
            ),
        ] {
            let parsed = text.parse::<RedisUrl>().expect(text);
            assert_eq!(parsed.to_string(), shown);
        }
        let long = format!("redis://a:1/{}", "n".repeat(33));
        let many = format!("redis://{}", vec!["a:1"; 65].join(","));
        for text in [
            "redis://",
            "redis://a",
            "redis://a:0",
            "redis://a:+1",
            "redis://a:1,",
            "redis://:1",
            "redis://user:secret@a:1",
            "redis://a:1/x/y",
            "redis://a:1/{x}",
            "redis://a:70000",
            "redis://[::1:1",
            "rediss://a:1",
            &long,
            &many,
        ] {
            assert_eq!(text.parse::<RedisUrl>(), Err(()), "{text}");
        }
    }
}
