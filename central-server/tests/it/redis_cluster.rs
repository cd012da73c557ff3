//! A real Redis Cluster on loopback: three primaries with a replica each, from the
//! distribution's package. Ended when nobody uses it any more, and with the test's process.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher as _, Hasher as _},
    io::{BufRead as _, BufReader},
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Longest wait for the cluster to be in some state.
const DEADLINE: Duration = Duration::from_secs(30);
/// Longest wait for a node to answer, when nobody else has its port.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Ports that are tried.
const PORTS_TRIED: usize = 5;
/// Primaries; each has a replica.
const PRIMARIES: usize = 3;
/// Slots of a cluster.
const SLOTS: usize = 16_384;

/// Starts a node in the background and ends it when the standard input ends, which is when the
/// test ends, however it does.
const KEEPER: &str =
    r#"redis-server "$@" >/dev/null 2>&1 & echo $!; read -r _; kill -9 $! 2>/dev/null; wait"#;

/// A node, running or killed.
pub(crate) struct Node {
    keeper: Child,
    pid: Pid,
    port: u16,
    _directory: TempDir,
}

impl Node {
    fn start() -> Self {
        for _ in 0..PORTS_TRIED {
            let node = Self::try_start();
            let began = Instant::now();
            // Where the port was taken meanwhile, another process answers, or nobody.
            let pid = format!("process_id:{}", node.pid.as_raw_nonzero());
            while began.elapsed() < ANSWER_WITHIN {
                let info = node.ask(&["info", "server"]);
                if info.is_some_and(|info| info.lines().any(|line| line.trim_end() == pid)) {
                    return node;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        panic!("no redis-server answers after {PORTS_TRIED} tries");
    }

    fn try_start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let (port, bus) = (free_port(), free_port());
        let settings = [
            ("port", port.to_string()),
            ("cluster-port", bus.to_string()),
            ("bind", "127.0.0.1".into()),
            ("dir", directory.path().display().to_string()),
            ("logfile", "log".into()),
            ("save", String::new()),
            ("cluster-enabled", "yes".into()),
            ("cluster-node-timeout", "1000".into()),
            ("cluster-replica-validity-factor", "0".into()),
            ("cluster-require-full-coverage", "no".into()),
            ("repl-diskless-sync-delay", "0".into()),
            // A replica that its primary waits for is asked as often as this.
            ("repl-ping-replica-period", "1".into()),
        ];
        let arguments = settings
            .iter()
            .flat_map(|(name, value)| [format!("--{name}"), value.clone()]);
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "sh"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh runs");
        let mut said = String::new();
        let stdout = keeper.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut said).expect("reads");
        let pid = said.trim().parse().ok().and_then(Pid::from_raw);
        Self {
            keeper,
            pid: pid.expect("the number of a process"),
            port,
            _directory: directory,
        }
    }

    /// What the node says to a command; `None`: nothing.
    pub(crate) fn ask(&self, command: &[&str]) -> Option<String> {
        let output = Command::new("timeout")
            .args([
                "2",
                "redis-cli",
                "-h",
                "127.0.0.1",
                "-p",
                &self.port.to_string(),
            ])
            .args(command)
            .output()
            .expect("redis-cli runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success().then_some(text)
    }

    fn tell(&self, command: &[&str]) {
        let answer = self.ask(command).expect("it answers");
        assert_eq!(answer.trim(), "OK", "{command:?}");
    }

    pub(crate) fn id(&self) -> String {
        self.ask(&["cluster", "myid"])
            .expect("answers")
            .trim()
            .to_owned()
    }

    /// Whether it is a primary now.
    pub(crate) fn is_primary(&self) -> bool {
        self.ask(&["role"])
            .is_some_and(|role| role.starts_with("master"))
    }

    /// How far the stream of its writes is, in bytes.
    pub(crate) fn offset(&self) -> u64 {
        let info = self.ask(&["info", "replication"]).expect("answers");
        let offset = |name: &str| {
            info.lines()
                .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
        };
        let offset = offset("slave_repl_offset:").or_else(|| offset("master_repl_offset:"));
        offset.expect("it says so")
    }

    /// Ends it as a crash does.
    pub(crate) fn kill(&self) {
        kill_process(self.pid, Signal::KILL).expect("is killed");
    }

    /// Halts it, until [`Self::go_on`].
    pub(crate) fn halt(&self) {
        kill_process(self.pid, Signal::STOP).expect("is stopped");
    }

    pub(crate) fn go_on(&self) {
        kill_process(self.pid, Signal::CONT).expect("goes on");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// A free port that the system gives nobody by itself, so that it is free a moment later as well.
fn free_port() -> u16 {
    loop {
        let random = RandomState::new().build_hasher().finish() % 20_000;
        let port = 10_000 + u16::try_from(random).expect("is small");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Waits until `check` holds.
pub(crate) fn until(what: &str, mut check: impl FnMut() -> bool) {
    let began = Instant::now();
    while !check() {
        assert!(began.elapsed() < DEADLINE, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A cluster: nodes 0 to 2 are primaries at first, node N + 3 is the replica of N.
pub(crate) struct RedisCluster {
    pub(crate) nodes: Vec<Node>,
}

impl RedisCluster {
    /// One that the tests of a process share, each in a namespace of its own.
    pub(crate) fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<RedisCluster>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let cluster = Arc::new(Self::start());
            *shared = Arc::downgrade(&cluster);
            cluster
        })
    }

    /// A new one, to be broken.
    pub(crate) fn start() -> Self {
        for program in ["redis-server", "redis-cli"] {
            let runs = Command::new(program).arg("--version").output().is_ok();
            assert!(
                runs,
                "these tests run a Redis Cluster and {program} is not installed: \
                 deploy/local/test-needs installs it, or `apt-get install redis-server`"
            );
        }
        let nodes: Vec<_> = (0..2 * PRIMARIES).map(|_| Node::start()).collect();
        let cluster = Self { nodes };
        cluster.meet();
        cluster
    }

    fn meet(&self) {
        for (number, node) in self.nodes.iter().enumerate() {
            node.tell(&["cluster", "set-config-epoch", &(number + 1).to_string()]);
            if number < PRIMARIES {
                let from = SLOTS * number / PRIMARIES;
                let to = SLOTS * (number + 1) / PRIMARIES - 1;
                node.tell(&[
                    "cluster",
                    "addslotsrange",
                    &from.to_string(),
                    &to.to_string(),
                ]);
            }
        }
        let first = self.nodes[0].port.to_string();
        let bus = self.nodes[0]
            .ask(&["config", "get", "cluster-port"])
            .expect("answers");
        let bus = bus.lines().last().expect("its value").to_owned();
        for node in &self.nodes[1..] {
            node.tell(&["cluster", "meet", "127.0.0.1", &first, &bus]);
        }
        let knows = |node: &Node, what: &str| {
            let info = node.ask(&["cluster", "info"]);
            info.is_some_and(|info| info.lines().any(|line| line.trim() == what))
        };
        let all = format!("cluster_known_nodes:{}", self.nodes.len());
        until("all nodes know each other", || {
            self.nodes.iter().all(|node| knows(node, &all))
        });
        for number in 0..PRIMARIES {
            let primary = self.nodes[number].id();
            until("the replica may follow", || {
                let answer =
                    self.nodes[number + PRIMARIES].ask(&["cluster", "replicate", &primary]);
                answer.is_some_and(|answer| answer.trim() == "OK")
            });
        }
        until("the cluster is ok", || {
            self.nodes
                .iter()
                .all(|node| knows(node, "cluster_state:ok"))
        });
        for number in 0..PRIMARIES {
            self.await_replica(number);
        }
    }

    /// Waits until the replica of a primary has what that has.
    pub(crate) fn await_replica(&self, primary: usize) {
        let replica = &self.nodes[primary + PRIMARIES];
        until("the replica is up to date", || {
            let info = replica.ask(&["info", "replication"]);
            info.is_some_and(|info| info.contains("master_link_status:up"))
        });
    }

    /// `STORE_URL` of a directory that nobody else has.
    pub(crate) fn url(&self) -> String {
        static NAMESPACES: AtomicU32 = AtomicU32::new(0);
        let number = NAMESPACES.fetch_add(1, Ordering::Relaxed);
        let nodes: Vec<_> = self
            .nodes
            .iter()
            .map(|node| format!("127.0.0.1:{}", node.port))
            .collect();
        format!("redis://{}/test-{number}", nodes.join(","))
    }
}
