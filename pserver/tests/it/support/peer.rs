//! Peers: [`Plan`] says how one is started, [`Peer`] is one in this process, [`Process`] the
//! binary as an operator starts it, and [`Door`] what a client can do with either.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    ops::Deref,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use pserver::{Config, Server};
use vecino_rest::{
    Name, PeerId,
    body::{FileEntry, Page, Status},
    route,
};

use super::{
    content::Content,
    eventually,
    http::{Request, Response},
    soon,
};

/// How a peer is started: its variables, and the directory that its own lie in.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    home: PathBuf,
    variables: BTreeMap<String, String>,
}

impl Plan {
    pub(crate) fn new(home: PathBuf) -> Self {
        fs::create_dir_all(&home).expect("made");
        let mut plan = Self {
            home,
            variables: BTreeMap::new(),
        }
        .set("PORT", "0")
        .set("BIND", "127.0.0.1");
        for (variable, dir) in [
            ("SHARED_DIR", "shared"),
            ("DOWNLOAD_DIR", "downloads"),
            ("DATA_DIR", "data"),
        ] {
            let dir = plan.home.join(dir).display().to_string();
            plan = plan.set(variable, dir);
        }
        plan
    }

    pub(crate) fn set(mut self, variable: &str, value: impl ToString) -> Self {
        self.variables
            .insert(variable.to_owned(), value.to_string());
        self
    }

    pub(crate) fn without(mut self, variable: &str) -> Self {
        self.variables.remove(variable);
        self
    }

    pub(crate) fn neighbour(self, addr: SocketAddr) -> Self {
        self.set("URL_PEERSU", addr)
    }

    /// A file that is there before the start.
    pub(crate) fn holding(self, name: &str, bytes: &[u8]) -> Self {
        write(&self.home.join("shared").join(name), bytes);
        self
    }

    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    /// Its environment.
    pub(crate) fn variables(&self) -> BTreeMap<String, String> {
        self.variables.clone()
    }

    /// A peer in this process; ready.
    pub(crate) async fn start(&self) -> Peer {
        let peer = self.start_unready().await;
        peer.ready().await;
        peer
    }

    /// A peer in this process, as soon as it listens.
    pub(crate) async fn start_unready(&self) -> Peer {
        let config = Config::from_vars(self.variables.clone().into_iter()).expect("valid");
        let mut server = None;
        // The parts of a peer that ran here before let go of its index one after the other; its
        // lock is held by every process that another test is just about to start, too.
        eventually("started", async || {
            match Server::bind(config.clone()).await {
                Ok(started) => server.insert(started).addr().port() != 0,
                Err(error) if is_held(&error.to_string()) => false,
                Err(error) => panic!("{error}"),
            }
        })
        .await;
        let server = server.expect("started");
        Peer {
            door: Door {
                addr: server.addr(),
                home: self.home.clone(),
            },
            server,
        }
    }

    /// A peer in a process of its own; ready.
    pub(crate) async fn spawn(&self) -> Process {
        let command = Command::new(env!("CARGO_BIN_EXE_pserver"));
        self.spawn_by(command).await
    }

    /// As [`Plan::spawn`], with a small disk that only that process sees; `None` where the
    /// system gives nobody such a thing.
    pub(crate) async fn spawn_on_disk_of(&self, mib: u64) -> Option<Process> {
        let unshare = || {
            let mut command = Command::new("unshare");
            command.args(["--user", "--map-root-user", "--mount", "sh", "-c"]);
            command
        };
        let mount = format!("mount -t tmpfs -o size={mib}m none \"$0\"");
        let mut probe = unshare();
        probe.arg(&mount).arg(&self.home).stderr(Stdio::null());
        if !probe.status().is_ok_and(|status| status.success()) {
            return None;
        }
        let mut command = unshare();
        command
            .arg(format!("{mount} && cd \"$0\" && exec \"$1\""))
            .arg(&self.home)
            .arg(env!("CARGO_BIN_EXE_pserver"));
        Some(self.spawn_by(command).await)
    }

    /// As [`Plan::spawn`], by a command that becomes the binary.
    pub(crate) async fn spawn_by(&self, mut command: Command) -> Process {
        let mut child = command
            .current_dir(&self.home)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .envs(&self.variables)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let (mut overlay, mut said) = (None, String::new());
        let addr = lines.by_ref().find_map(|line| {
            let line = line.expect("text");
            said += &format!("{line}\n");
            let (of, addr) = line.rsplit_once("listening on ")?;
            let addr = addr.parse().expect("an address");
            if of.contains("overlay of") {
                overlay = Some(addr);
                return None;
            }
            Some(addr)
        });
        let addr = addr.unwrap_or_else(|| panic!("it does not listen: {said}"));
        // Read on, lest the process blocks on a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let process = Process {
            door: Door {
                addr,
                home: self.home.clone(),
            },
            child,
            overlay,
        };
        process.ready().await;
        process
    }
}

/// A peer in this process.
pub(crate) struct Peer {
    door: Door,
    server: Server,
}

impl Peer {
    pub(crate) fn id(&self) -> PeerId {
        self.server.peer()
    }

    /// Where other peers of its overlay reach it.
    pub(crate) fn overlay(&self) -> SocketAddr {
        self.server.overlay_addr().expect("it has an overlay")
    }

    /// Leaves the network and ends; its directories stay.
    pub(crate) async fn stop(self) {
        soon(self.server.shutdown()).await;
    }
}

impl Deref for Peer {
    type Target = Door;

    fn deref(&self) -> &Door {
        &self.door
    }
}

/// A peer in a process of its own; killed when it is dropped.
pub(crate) struct Process {
    door: Door,
    child: Child,
    overlay: Option<SocketAddr>,
}

impl Process {
    /// Where other peers of its overlay reach it.
    pub(crate) fn overlay(&self) -> SocketAddr {
        self.overlay.expect("it has an overlay")
    }

    /// From now on it says nothing, but its connections stay.
    pub(crate) fn pause(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("is stopped");
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("is killed");
        self.child.wait().expect("ends");
    }

    /// Bytes free on the disk that it sees.
    pub(crate) fn free_bytes(&self) -> u64 {
        let root = format!("/proc/{}/root", self.child.id());
        let home = self.home.strip_prefix("/").expect("absolute");
        let stat = rustix::fs::statvfs(Path::new(&root).join(home)).expect("it runs");
        stat.f_bavail * stat.f_frsize
    }

    /// Bytes of memory that it has now.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB"));
        kib.and_then(|kib| kib.trim().parse::<u64>().ok())
            .expect("a number")
            * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Deref for Process {
    type Target = Door;

    fn deref(&self) -> &Door {
        &self.door
    }
}

/// A peer as its clients see it, and its directories as its user does.
pub(crate) struct Door {
    pub(crate) addr: SocketAddr,
    home: PathBuf,
}

impl Door {
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub(crate) async fn ready(&self) {
        eventually("ready", async || {
            self.get(route::READYZ).await.status == 200
        })
        .await;
    }

    pub(crate) async fn get(&self, target: impl AsRef<[u8]>) -> Response {
        self.send(&Request::get(target)).await
    }

    pub(crate) async fn send(&self, request: &Request) -> Response {
        request.send(self.addr).await
    }

    /// `GET /v1/files/NAME`.
    pub(crate) async fn download(&self, name: &str) -> Response {
        self.get(path_of(name)).await
    }

    /// Downloads `name`, which must be `content`, whole.
    pub(crate) async fn downloads(&self, name: &str, content: &Content) {
        let response = self.download(name).await;
        assert_eq!(response.status, 200, "{name}: {}", response.text());
        assert!(response.whole, "{name} broke off");
        assert!(
            *response.body == *content.bytes,
            "{name} is not what it was"
        );
        assert_eq!(response.header("etag"), Some(content.tag().as_str()));
    }

    pub(crate) async fn put(&self, name: &str, bytes: &[u8]) -> Response {
        self.send(&Request::new("PUT", path_of(name)).body(bytes))
            .await
    }

    /// Waits until it keeps what it fetched, under its name and whole.
    pub(crate) async fn keeps(&self, name: &str, content: &Content) {
        eventually("kept", async || {
            self.fetched(name).exists() && self.metric("vecino_downloads").await == 0
        })
        .await;
        let kept = fs::read(self.fetched(name)).expect("readable");
        assert!(*kept == *content.bytes, "{name} is kept wrong");
    }

    /// Shares `content` as `name`, at once.
    pub(crate) async fn shares(&self, name: &str, content: &Content) {
        let response = self.put(name, &content.bytes).await;
        assert!(matches!(response.status, 200 | 201), "{}", response.text());
    }

    /// What it holds.
    pub(crate) async fn files(&self) -> Vec<FileEntry> {
        let page: Page<FileEntry> = self.get("/v1/files?limit=1000").await.json();
        page.items
    }

    pub(crate) async fn status(&self) -> Status {
        self.get(route::STATUS).await.json()
    }

    /// Waits until others can find everything that it holds.
    pub(crate) async fn has_announced(&self, records: u64) {
        eventually("announced", async || {
            self.status().await.files.announced == records
        })
        .await;
    }

    /// A metric by its full name with labels; 0 when it does not show.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let text = self.get(route::METRICS).await.text();
        // With labels: all of them together.
        let of_name = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let is_name = rest.starts_with([' ', '{']);
            is_name.then(|| rest.rsplit(' ').next())?
        });
        of_name
            .map(|value| value.parse::<u64>().expect("a number"))
            .sum()
    }

    pub(crate) fn shared(&self, name: &str) -> PathBuf {
        self.home.join("shared").join(name)
    }

    pub(crate) fn fetched(&self, name: &str) -> PathBuf {
        self.home.join("downloads").join(name)
    }

    pub(crate) fn parts(&self) -> PathBuf {
        self.home.join("data").join("parts")
    }

    /// Writes a file into `SHARED_DIR`, as its user would.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        write(&self.shared(name), bytes);
    }

    /// Everything in `DOWNLOAD_DIR`.
    pub(crate) fn fetched_files(&self) -> Vec<PathBuf> {
        files_below(&self.home.join("downloads"))
    }
}

fn is_held(error: &str) -> bool {
    error.contains("already open") || error.contains("in use by another peer")
}

/// `/v1/files/NAME`.
pub(crate) fn path_of(name: &str) -> String {
    route::file(&Name::parse(name).expect("a name"))
}

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("in a directory")).expect("made");
    fs::write(path, bytes).expect("written");
}

/// Every file at or below `dir`, sorted.
pub(crate) fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}
