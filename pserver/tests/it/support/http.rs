//! A client that sends exactly the bytes it is told to, and tells a body that broke off from one
//! that is whole.

use std::net::{IpAddr, SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
};
use vecino_rest::{Kind, Problem, problem};

use super::soon;

/// A request, line by line.
#[derive(Clone)]
pub(crate) struct Request {
    method: String,
    target: Vec<u8>,
    host: Option<String>,
    headers: Vec<(String, Vec<u8>)>,
    body: Option<Vec<u8>>,
    from: Option<IpAddr>,
}

impl Request {
    pub(crate) fn new(method: &str, target: impl AsRef<[u8]>) -> Self {
        Self {
            method: method.to_owned(),
            target: target.as_ref().to_vec(),
            host: None,
            headers: Vec::new(),
            body: None,
            from: None,
        }
    }

    pub(crate) fn get(target: impl AsRef<[u8]>) -> Self {
        Self::new("GET", target)
    }

    pub(crate) fn json(target: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::new("POST", target)
            .with("Content-Type", "application/json")
            .body(body)
    }

    pub(crate) fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers
            .push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// Another `Host` than the address that is connected to.
    pub(crate) fn host(mut self, host: &str) -> Self {
        self.host = Some(host.to_owned());
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// It comes from this address of this machine.
    pub(crate) fn from(mut self, from: Option<IpAddr>) -> Self {
        self.from = from;
        self
    }

    /// The request as it goes over the wire.
    pub(crate) fn bytes(&self, addr: SocketAddr) -> Vec<u8> {
        let mut bytes = self.method.clone().into_bytes();
        bytes.push(b' ');
        bytes.extend_from_slice(&self.target);
        let host = self.host.clone().unwrap_or_else(|| addr.to_string());
        bytes.extend_from_slice(
            format!(" HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n").as_bytes(),
        );
        for (name, value) in &self.headers {
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
        }
        if let Some(body) = &self.body {
            bytes.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(self.body.as_deref().unwrap_or_default());
        bytes
    }

    /// Sends it; answers when the head of the response is there.
    pub(crate) async fn open(&self, addr: SocketAddr) -> Answer {
        let socket = match addr {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        };
        let socket = socket.expect("a socket");
        if let Some(from) = self.from {
            socket.bind((from, 0).into()).expect("an own address");
        }
        let socket = socket.connect(addr).await.expect("connects");
        let (read, mut write) = socket.into_split();
        let bytes = self.bytes(addr);
        // A server may answer, and close, before it has read all.
        let writing = tokio::spawn(async move {
            let _ = write.write_all(&bytes).await;
            write
        });
        let mut answer = Answer::read_from(read, self.method == "HEAD").await;
        answer.writing = Some(writing);
        answer
    }

    /// Sends it, and reads the whole response.
    pub(crate) async fn send(&self, addr: SocketAddr) -> Response {
        soon(async { self.open(addr).await.whole().await }).await
    }
}

/// How the end of a body is known.
enum Framing {
    Length(usize),
    Chunked,
    Close,
}

/// A response whose body is still coming.
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    read: tokio::net::tcp::OwnedReadHalf,
    buffer: Vec<u8>,
    framing: Framing,
    writing: Option<tokio::task::JoinHandle<tokio::net::tcp::OwnedWriteHalf>>,
}

impl Answer {
    /// Reads the head of a response.
    pub(crate) async fn read_from(mut read: tokio::net::tcp::OwnedReadHalf, is_head: bool) -> Self {
        let mut buffer = Vec::new();
        let end = loop {
            if let Some(at) = find(&buffer, b"\r\n\r\n") {
                break at;
            }
            let got = soon(read.read_buf(&mut buffer)).await.unwrap_or(0);
            assert!(
                got > 0,
                "no response: {:?}",
                String::from_utf8_lossy(&buffer)
            );
        };
        let head = String::from_utf8(buffer[..end].to_vec()).expect("a head in ASCII");
        buffer.drain(..end + 4);
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1));
        let status = status.and_then(|text| text.parse().ok()).expect("a status");
        let headers: Vec<_> = lines
            .map(|line| {
                let (name, value) = line.split_once(':').expect("a header");
                (name.to_ascii_lowercase(), value.trim().to_owned())
            })
            .collect();
        let header = |name| header(&headers, name);
        let framing = if is_head || matches!(status, 204 | 304) {
            Framing::Length(0)
        } else if header("transfer-encoding") == Some("chunked") {
            Framing::Chunked
        } else if let Some(length) = header("content-length") {
            Framing::Length(length.parse().expect("a length"))
        } else {
            Framing::Close
        };
        Self {
            status,
            headers,
            read,
            buffer,
            framing,
            writing: None,
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// Waits until so many bytes of the body are here; answers how many there are.
    pub(crate) async fn read_up_to(&mut self, bytes: usize) -> usize {
        while self.buffer.len() < bytes {
            match soon(self.read.read_buf(&mut self.buffer)).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        self.buffer.len()
    }

    /// What came of the body so far.
    pub(crate) fn so_far(&self) -> Vec<u8> {
        match self.framing {
            Framing::Chunked => dechunked(&self.buffer).0,
            Framing::Length(_) | Framing::Close => self.buffer.clone(),
        }
    }

    /// Waits until more of the body is here; false at its end.
    pub(crate) async fn read_more(&mut self) -> bool {
        soon(self.read.read_buf(&mut self.buffer))
            .await
            .is_ok_and(|bytes| bytes > 0)
    }

    /// Reads the body to its end, however it ends.
    pub(crate) async fn whole(mut self) -> Response {
        let wanted = match self.framing {
            Framing::Length(length) => length,
            Framing::Chunked | Framing::Close => usize::MAX,
        };
        self.read_up_to(wanted).await;
        let (body, whole) = match self.framing {
            Framing::Length(length) => {
                let whole = self.buffer.len() >= length;
                self.buffer.truncate(length);
                (self.buffer, whole)
            }
            Framing::Chunked => dechunked(&self.buffer),
            Framing::Close => (self.buffer, true),
        };
        if let Some(writing) = self.writing {
            writing.abort();
        }
        Response {
            status: self.status,
            headers: self.headers,
            body,
            whole,
        }
    }
}

/// A response.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Whether the body ended where it should.
    pub(crate) whole: bool,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self) -> T {
        assert!(self.status < 300, "{} {}", self.status, self.text());
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// The problem that it must be.
    #[track_caller]
    pub(crate) fn problem(&self) -> Problem {
        assert_eq!(
            self.header("content-type"),
            Some(problem::MEDIA_TYPE),
            "{} {}",
            self.status,
            self.text()
        );
        let problem: Problem = serde_json::from_slice(&self.body).expect("a problem");
        assert_eq!(problem.status, self.status);
        assert!(!problem.detail.is_empty(), "{problem:?}");
        problem
    }

    /// The kind of the problem that it must be.
    #[track_caller]
    pub(crate) fn kind(&self) -> Kind {
        self.problem().kind().expect("a known kind")
    }
}

fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let found = headers.iter().find(|(found, _)| found == name);
    found.map(|(_, value)| value.as_str())
}

/// Where `needle` begins.
pub(crate) fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes
        .windows(needle.len())
        .position(|window| window == needle)
}

fn dechunked(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    loop {
        let Some(end) = find(rest, b"\r\n") else {
            return (body, false);
        };
        let size = std::str::from_utf8(&rest[..end]).ok();
        let Some(size) = size.and_then(|text| usize::from_str_radix(text, 16).ok()) else {
            return (body, false);
        };
        rest = &rest[end + 2..];
        if size == 0 {
            return (body, true);
        }
        if rest.len() < size + 2 {
            body.extend_from_slice(&rest[..rest.len().min(size)]);
            return (body, false);
        }
        body.extend_from_slice(&rest[..size]);
        rest = &rest[size + 2..];
    }
}
