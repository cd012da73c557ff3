//! [`Fixture`]: an HTTP server whose every answer is a value that a test can bend.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use super::http::find;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(found, _)| found == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// What happens after the last byte of a [`Reply`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The connection stays for the next request.
    Whole,
    /// The connection is closed.
    Cut,
    /// Nothing.
    Stall,
}

/// What is sent.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    /// Status line and headers, without the empty line; sent as it is.
    pub(crate) head: Vec<String>,
    pub(crate) body: Vec<u8>,
    /// Where in the content the body begins.
    pub(crate) offset: u64,
    /// So much of the body at a time, and the wait between.
    pub(crate) pace: Option<(usize, Duration)>,
    /// No more waits once this is true.
    pub(crate) hurry: Option<watch::Receiver<bool>>,
    pub(crate) ending: Ending,
}

impl Reply {
    pub(crate) fn new(status: &str, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Self {
            head: vec![
                format!("HTTP/1.1 {status}"),
                format!("Content-Length: {}", body.len()),
            ],
            body,
            offset: 0,
            pace: None,
            hurry: None,
            ending: Ending::Whole,
        }
    }

    pub(crate) fn json(body: &impl serde::Serialize) -> Self {
        Self::new("200 OK", serde_json::to_vec(body).expect("plain data"))
            .with("Content-Type: application/json")
    }

    pub(crate) fn with(mut self, line: impl Into<String>) -> Self {
        self.head.push(line.into());
        self
    }

    /// Says another length than the body has.
    pub(crate) fn saying_length(mut self, length: u64) -> Self {
        self.head
            .retain(|line| !line.starts_with("Content-Length:"));
        self.with(format!("Content-Length: {length}"))
    }

    /// Sends the body in chunks, without saying its length.
    pub(crate) fn chunked(mut self) -> Self {
        self.head
            .retain(|line| !line.starts_with("Content-Length:"));
        let mut body = format!("{:x}\r\n", self.body.len()).into_bytes();
        body.append(&mut self.body);
        body.extend_from_slice(b"\r\n0\r\n\r\n");
        self.body = body;
        self.with("Transfer-Encoding: chunked")
    }

    /// Only so many bytes of the body are sent before it ends like this.
    pub(crate) fn ending_after(mut self, bytes: usize, ending: Ending) -> Self {
        self.body.truncate(bytes);
        self.ending = ending;
        self
    }

    async fn write(&self, socket: &mut TcpStream) -> std::io::Result<()> {
        let head = self.head.join("\r\n") + "\r\n\r\n";
        socket.write_all(head.as_bytes()).await?;
        let (block, wait) = self
            .pace
            .unwrap_or((self.body.len().max(1), Duration::ZERO));
        for (number, block) in self.body.chunks(block).enumerate() {
            if number > 0 {
                let hurried = async {
                    match self.hurry.clone() {
                        Some(mut hurry) => hurry.wait_for(|hurry| *hurry).await.is_ok(),
                        None => std::future::pending().await,
                    }
                };
                // Either is right.
                let _ = tokio::time::timeout(wait, hurried).await;
            }
            socket.write_all(block).await?;
        }
        socket.flush().await
    }
}

/// Says what to answer.
pub(crate) type Conduct = Arc<dyn Fn(&Seen) -> Reply + Send + Sync>;

/// See the module; gone when it is dropped.
pub(crate) struct Fixture {
    pub(crate) addr: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    _serving: JoinSet<()>,
}

impl Fixture {
    /// Answers as `conduct` says.
    pub(crate) async fn start(conduct: Conduct) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let addr = listener.local_addr().expect("bound");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(serve(socket, conduct.clone(), log.clone()));
            }
        });
        Self {
            addr,
            seen,
            _serving: serving,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// What came so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("not poisoned").clone()
    }

    /// Forgets what came so far.
    pub(crate) fn forget(&self) {
        self.seen.lock().expect("not poisoned").clear();
    }
}

async fn serve(mut socket: TcpStream, conduct: Conduct, log: Arc<Mutex<Vec<Seen>>>) {
    let mut buffer = Vec::new();
    while let Some(seen) = read_request(&mut socket, &mut buffer).await {
        log.lock().expect("not poisoned").push(seen.clone());
        let reply = conduct(&seen);
        if reply.write(&mut socket).await.is_err() {
            return;
        }
        match reply.ending {
            Ending::Whole => {}
            Ending::Cut => return,
            Ending::Stall => std::future::pending().await,
        }
    }
}

async fn read_request(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Seen> {
    let end = loop {
        if let Some(end) = find(buffer, b"\r\n\r\n") {
            break end;
        }
        if socket.read_buf(buffer).await.unwrap_or(0) == 0 {
            return None;
        }
    };
    let head = String::from_utf8(buffer[..end].to_vec()).ok()?;
    buffer.drain(..end + 4);
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let path = first.nth(1)?.to_owned();
    let headers: Vec<_> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut seen = Seen {
        path,
        headers,
        body: Vec::new(),
    };
    let length = seen
        .header("content-length")
        .map_or(0, |value| value.parse().expect("a length"));
    while buffer.len() < length {
        if socket.read_buf(buffer).await.unwrap_or(0) == 0 {
            return None;
        }
    }
    seen.body = buffer.drain(..length).collect();
    Some(seen)
}
