//! Redis by its own protocol: as little work as can be between the load and the server.

use std::net::SocketAddr;

use anyhow::Context;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use vecino_rest::{
    Name,
    terms::{name_term, terms_of},
};

use super::{Place, grpc::Names, records};
use crate::{load::Asker, process::Process};

/// A server of its own, without snapshots, that keeps its log as `appendfsync` says; `None`: none.
pub(crate) async fn start(
    directory: &std::path::Path,
    appendfsync: Option<&str>,
) -> anyhow::Result<Process> {
    Process::start_foreign("redis-server", directory, |port| {
        let settings = [
            ("port", port.to_string()),
            ("bind", "127.0.0.1".to_owned()),
            ("save", String::new()),
            ("dir", directory.display().to_string()),
            (
                "appendonly",
                if appendfsync.is_some() { "yes" } else { "no" }.to_owned(),
            ),
            ("appendfsync", appendfsync.unwrap_or("no").to_owned()),
            // Only what is measured writes.
            ("auto-aof-rewrite-percentage", "0".to_owned()),
        ];
        let arguments = settings.into_iter();
        arguments
            .flat_map(|(name, value)| [format!("--{name}"), value])
            .collect()
    })
    .await
}

/// A connection.
pub(crate) struct Redis {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Redis {
    pub(crate) async fn open(addr: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::new(),
        })
    }

    /// Sets all keys in one pipeline, and awaits that all are.
    pub(crate) async fn set<V: AsRef<[u8]>>(
        &mut self,
        records: impl Iterator<Item = (String, V)>,
    ) -> anyhow::Result<u64> {
        self.buffer.clear();
        let mut count = 0;
        for (key, value) in records {
            command(&mut self.buffer, &[b"SET", key.as_bytes(), value.as_ref()]);
            count += 1;
        }
        self.answered(count, b"+OK\r\n").await?;
        Ok(count)
    }

    /// Keeps what `peer` holds so that it is found as a directory has to find it: by name, digest and
    /// peer, by words and type in the order of names, and names by their beginning.
    pub(crate) async fn index(
        &mut self,
        records: impl Iterator<Item = u64>,
        peer: u64,
    ) -> anyhow::Result<u64> {
        let holder = format!("p:{peer}");
        self.buffer.clear();
        let (mut count, mut commands) = (0, 0);
        for number in records {
            let name = Name::parse(&records::name(number))?;
            let (digest, value) = (records::digest(number), records::value(number, peer));
            // A content may have several names, and several holders.
            let by_name = format!("n:{name}");
            let by_digest = [b"d:", &digest.as_bytes()[..]].concat();
            let held = [digest.as_bytes(), &peer.to_le_bytes()[..]].concat();
            let text = name.as_str().as_bytes();
            for words in [
                &[b"HSET", by_name.as_bytes(), &held, &value][..],
                &[b"SADD", &by_digest, text],
                &[b"SADD", holder.as_bytes(), text],
            ] {
                command(&mut self.buffer, words);
                commands += 1;
            }
            for term in terms_of(&name) {
                let key = match term.starts_with(&name_term("")) {
                    true => "names".to_owned(),
                    false => format!("t:{term}"),
                };
                command(&mut self.buffer, &[b"ZADD", key.as_bytes(), b"0", text]);
                commands += 1;
            }
            count += 1;
        }
        self.answered(commands, b":1\r\n").await?;
        Ok(count)
    }

    /// Sends what the buffer holds, and awaits so many answers of this kind.
    async fn answered(&mut self, count: u64, answer: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(&self.buffer).await?;
        self.buffer
            .resize(usize::try_from(count)? * answer.len(), 0);
        self.stream.read_exact(&mut self.buffer).await?;
        let mut answers = self.buffer.chunks(answer.len());
        anyhow::ensure!(answers.all(|each| each == answer), "a command failed");
        Ok(())
    }
}

/// Appends a command as it is on the wire.
fn command(buffer: &mut Vec<u8>, words: &[&[u8]]) {
    buffer.extend(format!("*{}\r\n", words.len()).bytes());
    for word in words {
        buffer.extend(format!("${}\r\n", word.len()).bytes());
        buffer.extend_from_slice(word);
        buffer.extend_from_slice(b"\r\n");
    }
}

/// So many GETs in one pipeline, then the next.
pub(crate) struct Gets {
    redis: Redis,
    names: Names,
    depth: u64,
    /// Bytes of one answer.
    answer: usize,
}

impl Gets {
    pub(crate) async fn open(
        addr: SocketAddr,
        names: Names,
        depth: u64,
        value_bytes: usize,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            redis: Redis::open(addr).await?,
            names,
            depth,
            answer: format!("${value_bytes}\r\n").len() + value_bytes + 2,
        })
    }
}

impl Asker for Gets {
    async fn ask(&mut self) -> anyhow::Result<u64> {
        let Redis { stream, buffer } = &mut self.redis;
        buffer.clear();
        for _ in 0..self.depth {
            let key = records::name(self.names.next());
            command(buffer, &[b"GET", key.as_bytes()]);
        }
        stream.write_all(buffer).await?;
        buffer.resize(usize::try_from(self.depth)? * self.answer, 0);
        // A missing value is shorter: then this waits, and the measurement says so.
        stream.read_exact(buffer).await?;
        let mut answers = buffer.chunks(self.answer);
        let is_found = answers.all(|answer| answer.starts_with(b"$") && answer.ends_with(b"\r\n"));
        anyhow::ensure!(is_found, "a GET failed");
        Ok(self.depth)
    }
}

/// A server that has a value of `value_bytes` under the name of each of `total` records.
pub(crate) async fn filled(
    place: &Place,
    total: u64,
    value_bytes: usize,
) -> anyhow::Result<(Process, tempfile::TempDir)> {
    const BATCH: u64 = 1000;
    let directory = place.directory()?;
    let process = start(directory.path(), None).await?;
    let mut redis = Redis::open(process.addr).await.context("redis")?;
    let value = vec![b'x'; value_bytes];
    let mut next = 0;
    while next < total {
        let end = (next + BATCH).min(total);
        let records = (next..end).map(|number| (records::name(number), &value));
        redis.set(records).await?;
        next = end;
    }
    Ok((process, directory))
}
