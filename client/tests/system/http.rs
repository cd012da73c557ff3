//! A plain HTTP client that hides nothing: every byte of a response can be looked at, and a
//! connection is opened when a test says so and not otherwise.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
};

use serde::de::DeserializeOwned;

use crate::cluster::DEADLINE;

/// A response, as it came.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Status line and headers.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}\n{}", self.head, self.text()))
    }

    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.status, 200, "{}\n{}", self.head, self.text());
        self
    }
}

/// One connection, kept alive.
pub(crate) struct Connection {
    addr: SocketAddr,
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub(crate) fn open(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            addr,
            stream: BufReader::new(stream),
        }
    }

    pub(crate) fn get(&mut self, path: &str) -> Response {
        self.send("GET", path, &[], b"")
    }

    /// Sends a request and reads the response. `headers` come after `Host`, which they replace
    /// when they have one.
    pub(crate) fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        let mut request = format!("{method} {path} HTTP/1.1\r\n");
        let mut line = |name: &str, value: &str| request += &format!("{name}: {value}\r\n");
        let has = |name: &str| headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
        if !has("host") {
            line("Host", &self.addr.to_string());
        }
        if !body.is_empty() || !matches!(method, "GET" | "HEAD") {
            line("Content-Length", &body.len().to_string());
        }
        for (name, value) in headers {
            line(name, value);
        }
        request += "\r\n";
        let mut bytes = request.into_bytes();
        bytes.extend_from_slice(body);
        self.raw(&bytes, method == "HEAD")
    }

    /// Sends `bytes` and reads a response; `bodiless` when it has no body whatever its headers.
    pub(crate) fn raw(&mut self, bytes: &[u8], bodiless: bool) -> Response {
        // A server may answer, and close, before it has read everything.
        let _ = self.stream.get_mut().write_all(bytes);
        let mut head = String::new();
        loop {
            let before = head.len();
            self.stream.read_line(&mut head).unwrap();
            if matches!(&head[before..], "\r\n" | "") {
                break;
            }
        }
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .unwrap_or(0);
        let mut response = Response {
            status,
            head,
            body: Vec::new(),
        };
        if !bodiless && !matches!(status, 204 | 304) {
            response.body = self.body(&response);
        }
        response
    }

    fn body(&mut self, response: &Response) -> Vec<u8> {
        let mut body = Vec::new();
        if let Some(length) = response.header("content-length") {
            body.resize(length.parse().unwrap(), 0);
            self.stream.read_exact(&mut body).unwrap();
        } else if response.header("transfer-encoding") == Some("chunked") {
            loop {
                let mut line = String::new();
                self.stream.read_line(&mut line).unwrap();
                let size = usize::from_str_radix(line.trim(), 16).unwrap();
                let begin = body.len();
                body.resize(begin + size + 2, 0);
                self.stream.read_exact(&mut body[begin..]).unwrap();
                body.truncate(begin + size);
                if size == 0 {
                    break;
                }
            }
        } else {
            self.stream.read_to_end(&mut body).unwrap();
        }
        body
    }
}

/// `GET` on a connection of its own.
pub(crate) fn get(addr: SocketAddr, path: &str) -> Response {
    Connection::open(addr).get(path)
}

/// `POST` of JSON on a connection of its own.
pub(crate) fn post(addr: SocketAddr, path: &str, body: &str) -> Response {
    let headers = [("Content-Type", "application/json")];
    Connection::open(addr).send("POST", path, &headers, body.as_bytes())
}

/// A metric's value; 0 when it does not show.
pub(crate) fn metric(connection: &mut Connection, name: &str) -> u64 {
    let text = connection.get("/metrics").ok().text();
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map_or(0, |value| value.trim().parse().unwrap())
}
