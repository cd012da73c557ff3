//! The stage of these tests: [`Peer`], a real HTTP server whose answers a test writes down, and
//! [`Client`], the real binary in a folder of its own. Everything has a deadline.

use std::{
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use actix_web::{
    App, HttpRequest, HttpResponse, HttpServer,
    body::SizedStream,
    dev::ServerHandle,
    http::{StatusCode, header},
    rt::System,
    web,
};
use futures_util::{StreamExt, stream};
use tempfile::TempDir;
use vecino_rest::{Digest, Kind, Problem, problem, route};

/// Nothing here takes this long.
const DEADLINE: Duration = Duration::from_secs(30);

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) uri: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The other end of the connection that it came over.
    pub(crate) from: Option<SocketAddr>,
}

impl Seen {
    /// A parameter of the query, decoded.
    pub(crate) fn query(&self, name: &str) -> Option<String> {
        let (_, query) = self.uri.split_once('?')?;
        let pairs = web::Query::<Vec<(String, String)>>::from_query(query)
            .unwrap()
            .into_inner();
        let found = pairs.into_iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn path(&self) -> &str {
        self.uri.split('?').next().unwrap()
    }

    /// The offset of `Range: bytes=N-`.
    pub(crate) fn offset(&self) -> Option<usize> {
        let range = self.header("range")?;
        let digits = range.strip_prefix("bytes=")?.strip_suffix('-')?;
        Some(digits.parse().unwrap())
    }
}

/// How a body ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Ending {
    Whole,
    /// The connection closes before the announced end.
    Cut,
    /// Nothing more comes, and the connection stays.
    Hang,
}

/// What to answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    announced: usize,
    ending: Ending,
}

impl Answer {
    pub(crate) fn of(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Self {
            status,
            headers: Vec::new(),
            announced: body.len(),
            body,
            ending: Ending::Whole,
        }
    }

    pub(crate) fn json(status: u16, body: &impl serde::Serialize) -> Self {
        Self::of(status, serde_json::to_vec(body).unwrap()).with("content-type", "application/json")
    }

    pub(crate) fn problem(problem: &Problem) -> Self {
        Self::of(problem.status, serde_json::to_vec(problem).unwrap())
            .with("content-type", problem::MEDIA_TYPE)
    }

    pub(crate) fn kind(kind: Kind, detail: &str) -> Self {
        Self::problem(&Problem::new(kind, detail))
    }

    /// `content`, or the rest of it that `seen` asks for, as the own peer sends it.
    pub(crate) fn content(content: &[u8], seen: &Seen) -> Self {
        let tag = format!("\"{}\"", Digest::of(content));
        let answer = match seen.offset() {
            Some(offset) if seen.header("if-range") == Some(&tag) => {
                let (last, total) = (content.len() - 1, content.len());
                Self::of(206, &content[offset..])
                    .with("content-range", &format!("bytes {offset}-{last}/{total}"))
            }
            _ => Self::of(200, content),
        };
        answer
            .with("etag", &tag)
            .with("accept-ranges", "bytes")
            .with(route::HEADER_VERIFIED, "blake3")
            .with(route::HEADER_SOURCE, "local")
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Only the first `bytes` of the body come.
    pub(crate) fn ending_after(mut self, bytes: usize, ending: Ending) -> Self {
        self.body.truncate(bytes);
        self.ending = ending;
        self
    }

    fn into_response(self) -> HttpResponse {
        let mut response = HttpResponse::build(StatusCode::from_u16(self.status).unwrap());
        for (name, value) in self.headers {
            response.insert_header((name, value));
        }
        let first = stream::iter([Ok::<_, std::io::Error>(web::Bytes::from(self.body))]);
        match self.ending {
            Ending::Whole => response.body(SizedStream::new(self.announced as u64, first)),
            Ending::Hang => {
                let body = first.chain(stream::pending());
                response.body(SizedStream::new(self.announced as u64, body))
            }
            Ending::Cut => {
                // The first bytes reach the socket before the error closes it.
                let cut = stream::once(async {
                    actix_web::rt::task::yield_now().await;
                    Err(std::io::Error::other("cut"))
                });
                response.body(SizedStream::new(self.announced as u64, first.chain(cut)))
            }
        }
    }
}

type Script = Arc<dyn Fn(&Seen) -> Answer + Send + Sync>;

/// A server that stands for the own peer. It ends with the test.
pub(crate) struct Peer {
    addr: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    handle: ServerHandle,
}

impl Peer {
    pub(crate) fn start(script: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (started, starting) = mpsc::channel();
        let script: Script = Arc::new(script);
        let log = seen.clone();
        std::thread::spawn(move || {
            System::new().block_on(async move {
                let server = HttpServer::new(move || {
                    App::new()
                        .app_data(web::Data::from(script.clone()))
                        .app_data(web::Data::from(log.clone()))
                        .app_data(web::PayloadConfig::new(64 << 20))
                        .default_service(web::to(answer))
                })
                .workers(1)
                .disable_signals()
                .shutdown_timeout(0)
                .bind(("127.0.0.1", 0))
                .unwrap();
                let addr = server.addrs()[0];
                let server = server.run();
                started.send((addr, server.handle())).unwrap();
                server.await.unwrap();
            });
        });
        let (addr, handle) = starting.recv_timeout(DEADLINE).unwrap();
        Self { addr, seen, handle }
    }

    /// Always the same answer.
    pub(crate) fn always(answer: Answer) -> Self {
        Self::start(move |_| answer.clone())
    }

    /// An own peer with one file.
    pub(crate) fn with_file(content: Vec<u8>) -> Self {
        Self::start(move |seen| Answer::content(&content, seen))
    }

    pub(crate) fn authority(&self) -> String {
        self.addr.to_string()
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.handle.stop(false));
    }
}

async fn answer(
    request: HttpRequest,
    body: web::Bytes,
    script: web::Data<dyn Fn(&Seen) -> Answer + Send + Sync>,
    log: web::Data<Mutex<Vec<Seen>>>,
) -> HttpResponse {
    let text = |value: &header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let seen = Seen {
        method: request.method().to_string(),
        uri: request.uri().to_string(),
        headers: request
            .headers()
            .iter()
            .map(|(name, value)| (name.to_string(), text(value)))
            .collect(),
        body: body.to_vec(),
        from: request.peer_addr(),
    };
    log.lock().unwrap().push(seen.clone());
    script(&seen).into_response()
}

/// The client, with a folder to work in.
pub(crate) struct Client {
    dir: TempDir,
    peer: String,
    env: Vec<(String, String)>,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Client {
    pub(crate) fn of(peer: &Peer) -> Self {
        Self::at(&peer.authority())
    }

    pub(crate) fn at(authority: &str) -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            peer: authority.to_owned(),
            env: Vec::new(),
        }
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// Names of everything in the folder.
    pub(crate) fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir()).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    pub(crate) fn start(&self, args: &[&str]) -> Child {
        self.start_into(args, Stdio::piped())
    }

    /// With `stdout` as its standard output.
    pub(crate) fn start_into(&self, args: &[&str], stdout: impl Into<Stdio>) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_client"));
        command
            .args(args)
            .current_dir(self.dir())
            .env_clear()
            .env("HOME", self.dir().join("home"))
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(Stdio::piped());
        if !self.peer.is_empty() {
            command.env("URL_PEERAS", &self.peer);
        }
        command.envs(self.env.iter().cloned());
        command.spawn().unwrap()
    }

    pub(crate) fn run(&self, args: &[&str]) -> Done {
        self.run_with(args, "")
    }

    pub(crate) fn run_with(&self, args: &[&str], input: &str) -> Done {
        let mut child = self.start(args);
        let mut stdin = child.stdin.take().unwrap();
        // A client that needs no input may be gone already.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        finish(child)
    }
}

/// Waits for the end of `child`, with all that it printed.
pub(crate) fn finish(child: Child) -> Done {
    let (done, waiting) = mpsc::channel();
    let id = child.id();
    std::thread::spawn(move || done.send(child.wait_with_output()));
    let Output {
        status,
        stdout,
        stderr,
    } = match waiting.recv_timeout(DEADLINE) {
        Ok(output) => output.unwrap(),
        Err(_) => {
            signal(id, rustix::process::Signal::KILL);
            panic!("the client did not end: {:?}", waiting.recv());
        }
    };
    Done {
        code: status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8(stderr).unwrap(),
    }
}

pub(crate) fn signal(process: u32, signal: rustix::process::Signal) {
    let process = rustix::process::Pid::from_raw(process.try_into().unwrap()).unwrap();
    rustix::process::kill_process(process, signal).unwrap();
}

/// Waits until `condition` holds.
pub(crate) fn await_that(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Bytes that are the same in every run, and nowhere the same.
pub(crate) fn bytes(count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    blake3::Hasher::new()
        .update(b"content")
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}
