//! [`Locator`] and [`Peer`]: the servers of this repository, in this process, on free ports of
//! the loopback address. Nothing here has a fixed port, and readiness is awaited, never slept for.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::LazyLock,
    time::{Duration, Instant},
};

use pserver::server::ServerError;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use vecino_rest::{
    Name,
    body::{Located, Status},
    route,
};

use crate::{
    client::Client,
    http::{self, Response},
};

/// Nothing in these tests takes this long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
/// Between two looks at a condition.
const POLL: Duration = Duration::from_millis(10);
/// A port that was free a moment ago may be taken: then others are tried.
const PORT_TRIES: usize = 10;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

/// Runs `future` on the runtime of the servers.
pub(crate) fn wait<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.block_on(future)
}

/// Runs `future` there in the background.
pub(crate) fn spawn(future: impl Future<Output = ()> + Send + 'static) {
    RUNTIME.spawn(future);
}

/// Waits until `look` sees something.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(begun.elapsed() < DEADLINE, "never: {what}");
        std::thread::sleep(POLL);
    }
}

/// A port on `ip` that nobody listens on.
fn free_port(ip: IpAddr) -> TcpListener {
    TcpListener::bind((ip, 0)).unwrap()
}

/// Our locator.
pub(crate) struct Locator {
    server: central_server::Server,
}

impl Locator {
    pub(crate) fn start() -> Self {
        Self::start_on(Ipv4Addr::LOCALHOST.into())
    }

    pub(crate) fn start_on(ip: IpAddr) -> Self {
        Self::start_with(ip, central_server::Config::ephemeral())
    }

    /// On a free port of `ip`, as `config` says otherwise.
    pub(crate) fn start_with(ip: IpAddr, config: central_server::Config) -> Self {
        let config = central_server::Config {
            host: SocketAddr::new(ip, 0).into(),
            ..config
        };
        Self {
            server: wait(central_server::Server::bind(config)).unwrap(),
        }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.server.addr()
    }

    pub(crate) fn metrics_addr(&self) -> SocketAddr {
        self.server.metrics_addr().unwrap()
    }

    pub(crate) fn stop(self) {
        wait(self.server.shutdown()).unwrap();
    }
}

/// What a peer is to be.
#[derive(Debug, Clone, Default)]
pub(crate) struct Setup {
    variables: Vec<(String, String)>,
    files: Vec<(String, Vec<u8>)>,
}

impl Setup {
    fn variable(mut self, name: &str, value: impl ToString) -> Self {
        self.variables.push((name.to_owned(), value.to_string()));
        self
    }

    pub(crate) fn locator(self, addr: SocketAddr) -> Self {
        self.variable("URL_Request", addr)
    }

    /// Logs in as `user`, with the password in `file`, where that is asked for.
    pub(crate) fn account(self, user: &str, file: &Path) -> Self {
        self.variable("PEER_USER", user)
            .variable("PEER_PASSWORD_FILE", file.display())
    }

    pub(crate) fn neighbour(self, addr: SocketAddr) -> Self {
        self.variable("URL_PEERSU", addr)
    }

    /// Looks up for others by these strategies, an overlay among them.
    pub(crate) fn locating_by(self, strategies: &str) -> Self {
        self.variable("LOCATE_BY", strategies)
            .variable("OVERLAY_PORT", 0)
    }

    /// Joins the overlay through this one.
    pub(crate) fn seed(self, overlay: SocketAddr) -> Self {
        self.variable("OVERLAY_SEEDS", overlay)
    }

    pub(crate) fn site(self, site: &str) -> Self {
        self.variable("SITE", site)
    }

    pub(crate) fn public_addr(self, addr: SocketAddr) -> Self {
        self.variable("PUBLIC_URL", format!("http://{addr}"))
    }

    /// Shares `content` as `name`.
    pub(crate) fn file(mut self, name: &str, content: impl Into<Vec<u8>>) -> Self {
        self.files.push((name.to_owned(), content.into()));
        self
    }

    pub(crate) fn files<'a>(self, files: impl IntoIterator<Item = (&'a str, Vec<u8>)>) -> Self {
        let add = |setup: Self, (name, content)| setup.file(name, content);
        files.into_iter().fold(self, add)
    }

    pub(crate) fn start(self) -> Peer {
        self.try_start(0).unwrap()
    }

    fn try_start(&self, port: u16) -> Result<Peer, ServerError> {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in &self.files {
            let path = dir.path().join("shared").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let variables = [
            ("BIND", Ipv4Addr::LOCALHOST.to_string()),
            ("PORT", port.to_string()),
            ("SHARED_DIR", path("shared")),
            ("DOWNLOAD_DIR", path("downloads")),
            ("DATA_DIR", path("data")),
        ]
        .map(|(name, value)| (name.to_owned(), value));
        let variables = variables.into_iter().chain(self.variables.iter().cloned());
        let config = pserver::Config::from_vars(variables).unwrap();
        let server = wait(pserver::Server::bind(config))?;
        Ok(Peer { server, dir })
    }
}

/// Peers in a ring: the neighbour of each is the next one. Ready when this returns.
pub(crate) fn ring(setups: &[Setup]) -> Vec<Peer> {
    let peers = start_ring(setups);
    peers.iter().for_each(Peer::await_ready);
    peers
}

/// The same, not necessarily ready.
pub(crate) fn start_ring(setups: &[Setup]) -> Vec<Peer> {
    for _ in 0..PORT_TRIES {
        let held: Vec<_> = setups
            .iter()
            .map(|_| free_port(Ipv4Addr::LOCALHOST.into()))
            .collect();
        let addrs: Vec<_> = held.iter().map(|l| l.local_addr().unwrap()).collect();
        drop(held);
        let started: Result<Vec<_>, _> = setups
            .iter()
            .enumerate()
            .map(|(index, setup)| {
                let next = addrs[(index + 1) % addrs.len()];
                setup.clone().neighbour(next).try_start(addrs[index].port())
            })
            .collect();
        match started {
            Ok(peers) => return peers,
            Err(ServerError::Listen(..)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    panic!("no free ports in {PORT_TRIES} tries");
}

/// Our peer.
pub(crate) struct Peer {
    server: pserver::Server,
    dir: TempDir,
}

impl Peer {
    pub(crate) fn setup() -> Setup {
        Setup::default()
    }

    /// Leaves the network and ends.
    pub(crate) fn stop(self) {
        wait(self.server.shutdown());
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.server.addr()
    }

    /// Where its overlay listens.
    pub(crate) fn overlay_addr(&self) -> SocketAddr {
        self.server.overlay_addr().unwrap()
    }

    pub(crate) fn id(&self) -> String {
        self.server.peer().to_string()
    }

    /// As other peers reach it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr())
    }

    /// The client of this peer.
    pub(crate) fn client(&self) -> Client {
        Client::of(self.addr())
    }

    pub(crate) fn get(&self, path: &str) -> Response {
        http::get(self.addr(), path)
    }

    pub(crate) fn post(&self, path: &str, body: &str) -> Response {
        http::post(self.addr(), path, body)
    }

    pub(crate) fn status(&self) -> Status {
        self.get(route::STATUS).ok().json()
    }

    /// The transparent download of `name`.
    pub(crate) fn download(&self, name: &str) -> Response {
        self.get(&route::file(&name.parse().unwrap()))
    }

    /// What the network says of `name`; `None` when nobody has it.
    pub(crate) fn locate(&self, name: &str) -> Option<Located> {
        let response = self.get(&route::locate(&name.parse::<Name>().unwrap()));
        (response.status != 404).then(|| response.ok().json())
    }

    pub(crate) fn await_ready(&self) {
        let what = format!("{} is ready", self.addr());
        eventually(&what, || {
            (self.get(route::READYZ).status == 200).then_some(())
        });
    }

    /// Waits until what it shares is hashed, whoever can find it.
    pub(crate) fn await_files(&self) {
        let what = format!("{} has its files", self.addr());
        eventually(&what, || {
            let text = self.get(route::READYZ).text();
            text.contains(r#""files":true"#).then_some(())
        });
    }

    pub(crate) fn download_dir(&self) -> PathBuf {
        self.dir.path().join("downloads")
    }

    /// Everything under its directories, as paths relative to them.
    pub(crate) fn files_on_disk(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut left = vec![self.dir.path().to_owned()];
        while let Some(dir) = left.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    left.push(path);
                } else {
                    found.push(path);
                }
            }
        }
        found
    }

    /// What it keeps of what it fetched.
    pub(crate) fn kept(&self) -> Vec<PathBuf> {
        let dir = self.download_dir();
        let under = |path: &Path| path.strip_prefix(&dir).ok().map(Path::to_owned);
        self.files_on_disk()
            .iter()
            .filter_map(|path| under(path))
            .collect()
    }
}
