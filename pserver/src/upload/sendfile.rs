//! Sends blobs from the page cache to the socket without carrying them through this process
//! (sendfile(2)), on connections of the REST port, before the web server sees them.
//!
//! A connection is peeked at: while its next request is a plain one for a blob that is held here,
//! it is answered here; with the first other request the connection goes to the web server, from
//! that request's first byte on.
//!
//! Invariants: only verified bytes are sent; a file that changed is noticed before and after each
//! chunk, and the connection ends in the middle then. The event loop never waits for the disk:
//! what is not in the page cache is read on the blocking pool first.

use std::{fs::File, io, iter, ops::Range, os::unix::fs::FileExt, sync::Arc, time::Duration};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::sendfile,
    io::{ReadWriteFlags, preadv2},
    net::SendFlags,
};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::TcpStream,
    sync::watch,
    task::spawn_blocking,
    time::timeout,
};
use vecino_rest::{Digest, Name, piece::Layout};

use super::{
    Slots,
    head::{self, BlobRequest, MAX_HEAD},
    slots::{self, What},
};
use crate::{
    api::{
        blobs::busy,
        range::{self, Asked},
        respond::{Described, content_headers},
    },
    content::{Store, read::OpenFile},
    download::{Downloads, job::Job},
    limit::Limiter,
    metrics::Metrics,
};

/// Sent at once.
const CHUNK: u64 = 1 << 20;
/// So few bytes that the network has not taken yet hold up nobody.
const NEARLY_SENT: u32 = 64 << 10;
/// The socket takes what its buffer has room for: the system's default.
const ANY_UNSENT: u32 = 0;

/// What of a content is sent.
enum Body {
    /// A file that is held.
    Held(OpenFile),
    /// What is verified of one that is on its way.
    Coming(Arc<Job>, Arc<File>),
}

/// What sending needs to know; one a worker.
#[derive(Clone)]
pub struct Sender {
    /// What is held.
    pub store: Arc<Store>,
    /// What is on its way.
    pub downloads: Arc<Downloads>,
    /// Who may send when.
    pub slots: Arc<Slots>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// How fast content is sent.
    pub limit: Arc<Limiter>,
    /// How long a client may be silent before its first request, and between two.
    pub silent: (Duration, Duration),
    /// How long it may read nothing.
    pub unread: Duration,
    /// Becomes true when the peer stops.
    pub stopping: watch::Receiver<bool>,
}

/// What becomes of a connection.
pub enum Next {
    /// It is over.
    Closed,
    /// The web server goes on with it.
    Other(TcpStream),
}

impl Sender {
    /// Answers requests for blobs on `stream` as long as there come no others.
    pub async fn serve(&self, mut stream: TcpStream) -> Next {
        self.metrics.http_connections.inc();
        self.set_up(&stream);
        let (mut silent, between) = self.silent;
        let mut stopping = self.stopping.clone();
        loop {
            let mut bytes = [0; MAX_HEAD];
            let peeked = tokio::select! {
                peeked = timeout(silent, stream.peek(&mut bytes)) => peeked,
                _ = stopping.wait_for(|stopping| *stopping) => return Next::Closed,
            };
            let Ok(Ok(length @ 1..)) = peeked else {
                return Next::Closed;
            };
            let bytes = &bytes[..length];
            let Some(request) = head::begins_like_one(bytes)
                .then(|| head::parse(bytes))
                .flatten()
            else {
                return Next::Other(stream);
            };
            let Some((body, name, size)) = self.open(&request.digest).await else {
                return Next::Other(stream);
            };
            let range = match range::asked(request.range.as_deref(), size) {
                Asked::Whole => 0..size,
                Asked::Part(range) => range,
                Asked::NotSatisfiable => return Next::Other(stream),
            };
            if let Body::Coming(job, _) = &body
                && !job.holds(&range)
            {
                return Next::Other(stream);
            }
            let Ok(asker) = stream.peer_addr() else {
                return Next::Closed;
            };
            let others = others(&request, &body, &range, size);
            let what = What {
                digest: request.digest,
                along: slots::along(&range, size),
                offsets: iter::once(&range)
                    .chain(&others)
                    .map(|bytes| bytes.start)
                    .collect(),
            };
            let bytes = range.end - range.start;
            let Ok((slot, offset)) = self.slots.take(asker.ip(), what, bytes).await else {
                match refuse(&mut stream, &request).await {
                    Ok(()) if !request.closes => {
                        silent = between;
                        continue;
                    }
                    _ => return Next::Closed,
                }
            };
            if slot.is_waited_for() && is_gone(&stream) {
                return Next::Closed;
            }
            let mut others = others.into_iter();
            let range = others.find(|other| other.start == offset).unwrap_or(range);
            log::debug!("sends {offset} to {asker}");
            let answered = self
                .answer(&mut stream, &request, &body, &name, range, size)
                .await;
            if answered.is_ok() && slot.is_waited_for() {
                let _ = timeout(self.unread, nearly_sent(&stream)).await;
            }
            drop(slot);
            match answered {
                Ok(()) if !request.closes => silent = between,
                Ok(()) => return Next::Closed,
                Err(error) => {
                    log::debug!("sending {}: {error}", request.digest);
                    return Next::Closed;
                }
            }
        }
    }

    fn set_up(&self, stream: &TcpStream) {
        if let Err(error) = stream.set_nodelay(true) {
            log::debug!("TCP_NODELAY: {error}");
        }
        // Who reads nothing for so long holds a connection and its buffers no longer.
        let unread = u32::try_from(self.unread.as_millis()).unwrap_or(u32::MAX);
        if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(stream, unread) {
            log::debug!("TCP_USER_TIMEOUT: {error}");
        }
    }

    /// What there is of a content: its bytes, name and size.
    async fn open(&self, digest: &Digest) -> Option<(Body, Name, u64)> {
        if let Some(entry) = self.store.catalogue().by_digest(digest) {
            let file = self.store.read(entry).await.ok()??;
            let (name, size) = (file.entry().name.clone(), file.entry().stamp.size);
            return Some((Body::Held(file), name, size));
        }
        let job = self.downloads.job(digest)?;
        let file = job.file()?;
        let (name, size) = (job.name(), job.layout.size());
        Some((Body::Coming(job, file), name, size))
    }

    async fn answer(
        &self,
        stream: &mut TcpStream,
        request: &BlobRequest,
        body: &Body,
        name: &Name,
        range: Range<u64>,
        size: u64,
    ) -> io::Result<()> {
        let mut head = [0; MAX_HEAD];
        // It was peeked at, so it is there.
        stream.read_exact(&mut head[..request.length]).await?;
        let content = Described {
            name,
            digest: request.digest,
            size,
            source: "local",
        };
        let headers = content_headers(&content);
        let head = head::answer(&range, size, &headers, request.closes);
        send_head(stream, head.as_bytes(), !range.is_empty()).await?;
        let _running = Metrics::running(&self.metrics.uploads);
        let step = self.limit.chunk().map_or(CHUNK, |chunk| chunk.min(CHUNK));
        let (mut at, mut allowed) = (range.start, range.start);
        while at < range.end {
            let chunk = at..range.end.min(at + step);
            // The socket may take less than what it was allowed.
            self.limit.take(chunk.end - allowed).await;
            allowed = chunk.end;
            body.check()?;
            read_ahead(body.file(), &chunk).await?;
            let sent = timeout(self.unread, send(stream, body.file(), &chunk)).await;
            at += sent.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            self.metrics.bytes_sent.inc_by(at - chunk.start);
        }
        body.check()
    }
}

/// The pieces that are as welcome as the one that is asked for, as far as they are held.
fn others(request: &BlobRequest, body: &Body, range: &Range<u64>, size: u64) -> Vec<Range<u64>> {
    let (Some(welcome), Some(layout)) = (&request.welcome, Layout::of(size)) else {
        return Vec::new();
    };
    let asked = layout.piece_at(range.start);
    if layout.range(asked) != *range {
        return Vec::new();
    }
    let others = welcome.pieces().filter(|&piece| piece != asked);
    others
        .take_while(|&piece| piece < layout.pieces())
        .map(|piece| layout.range(piece))
        .filter(|bytes| match body {
            Body::Held(_) => true,
            Body::Coming(job, _) => job.holds(bytes),
        })
        .collect()
}

impl Body {
    fn file(&self) -> &Arc<File> {
        match self {
            Self::Held(file) => file.file(),
            Self::Coming(_, file) => file,
        }
    }

    /// Whether it still is what was hashed.
    fn check(&self) -> io::Result<()> {
        let is_same = match self {
            Self::Held(file) => file.may_be_sent()?,
            Self::Coming(job, file) => job.is_unchanged(file)?,
        };
        if is_same {
            Ok(())
        } else {
            Err(io::Error::other("the file changed while it was sent"))
        }
    }
}

/// Sends the head of an answer. With content to follow, what is small goes in one packet with it:
/// who receives it is woken once.
async fn send_head(stream: &TcpStream, mut head: &[u8], is_followed: bool) -> io::Result<()> {
    let mut flags = SendFlags::NOSIGNAL;
    flags.set(SendFlags::MORE, is_followed);
    while !head.is_empty() {
        let sent = stream.async_io(Interest::WRITABLE, || {
            Ok(rustix::net::send(stream, head, flags)?)
        });
        head = &head[sent.await?..];
    }
    Ok(())
}

/// Sends as much of `chunk` as the socket takes; how much that was.
async fn send(stream: &TcpStream, file: &File, chunk: &Range<u64>) -> io::Result<u64> {
    let length = usize::try_from(chunk.end - chunk.start).map_err(io::Error::other)?;
    loop {
        stream.writable().await?;
        let mut offset = chunk.start;
        let sent = stream.try_io(Interest::WRITABLE, || {
            Ok(sendfile(stream, file, Some(&mut offset), length)?)
        });
        match sent {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(sent) => return Ok(sent as u64),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Tells that there is no slot; the connection goes on.
async fn refuse(stream: &mut TcpStream, request: &BlobRequest) -> io::Result<()> {
    let mut head = [0; MAX_HEAD];
    stream.read_exact(&mut head[..request.length]).await?;
    let problem = serde_json::to_string(&busy().into_problem())?;
    let answer = head::busy(&problem, request.closes);
    stream.write_all(answer.as_bytes()).await
}

/// Whether the client closed the connection while it waited.
fn is_gone(stream: &TcpStream) -> bool {
    let mut socket = [PollFd::new(stream, PollFlags::RDHUP)];
    poll(&mut socket, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// Waits until the network has taken nearly all that the socket holds. A piece fits into the buffer
/// of a socket: whoever gave the slot to the next one when it is in there would send to everybody
/// at once, and all would have their pieces late.
async fn nearly_sent(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_notsent_lowat(NEARLY_SENT)?;
    let sent = stream.async_io(Interest::WRITABLE, || {
        let mut socket = [PollFd::new(stream, PollFlags::OUT)];
        match poll(&mut socket, Some(&Timespec::default()))? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(()),
        }
    });
    sent.await?;
    socket.set_tcp_notsent_lowat(ANY_UNSENT)
}

/// Has `chunk` read into the page cache, unless it is there already.
async fn read_ahead(file: &Arc<File>, chunk: &Range<u64>) -> io::Result<()> {
    let is_cached = |offset: u64| {
        let mut byte = [0];
        let mut buffers = [io::IoSliceMut::new(&mut byte)];
        // Where the file system cannot tell, it is read as if it were not there.
        preadv2(file, &mut buffers, offset, ReadWriteFlags::NOWAIT).is_ok()
    };
    if is_cached(chunk.start) && is_cached(chunk.end - 1) {
        return Ok(());
    }
    let (file, chunk) = (file.clone(), chunk.clone());
    let read = spawn_blocking(move || {
        let length = usize::try_from(chunk.end - chunk.start).map_err(io::Error::other)?;
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, chunk.start)
    });
    read.await.map_err(io::Error::other)?
}
