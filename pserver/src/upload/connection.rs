//! A connection of the REST port, before the web server sees it.
//!
//! It is peeked at: while its next request is a plain one for content, it is answered here; with
//! the first other request, or one that this part has no answer to, the connection goes to the web
//! server, from that request's first byte on.

use std::{
    fs::File,
    io,
    ops::{ControlFlow, Range},
    sync::Arc,
    time::Duration,
};

use actix_web::{ResponseError, web};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    task::yield_now,
    time::timeout,
};

use super::{
    congestion::SystemChoice,
    head::{self, MAX_HEAD, Request, Sent, Target},
    sendfile,
};
use crate::api::{
    context::Worker,
    error::ApiError,
    respond::{self, Described, content_headers},
};

/// Sent at once.
const CHUNK: u64 = 1 << 20;

/// Answers plain requests for content; one a worker.
#[derive(Clone)]
pub struct Sender {
    /// What there is.
    pub worker: web::Data<Worker>,
    /// How TCP finds its rate beyond the machine.
    pub system_choice: SystemChoice,
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

/// Whether a request was answered here.
pub(super) type Answered = ControlFlow<(), ()>;
/// It was.
pub(super) const HERE: Answered = Answered::Continue(());
/// Nothing was read or written: the web server has to.
pub(super) const ELSEWHERE: Answered = Answered::Break(());

impl Sender {
    /// Answers requests on `stream` as long as there come no others.
    pub async fn serve(&self, mut stream: TcpStream) -> Next {
        self.worker.shared.metrics.http_connections.inc();
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
            let answered = match &request.target {
                Target::Blob(digest, welcome) => {
                    let welcome = welcome.as_ref();
                    self.blob(&mut stream, &request, *digest, welcome).await
                }
                Target::File(wanted) => self.file(&mut stream, &request, wanted).await,
            };
            match answered {
                Ok(ELSEWHERE) => return Next::Other(stream),
                Ok(HERE) if !request.closes => silent = between,
                Ok(HERE) => return Next::Closed,
                Err(error) => {
                    log::debug!("sending {:?}: {error}", request.target);
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
        if let (Ok(asker), Ok(own)) = (stream.peer_addr(), stream.local_addr()) {
            self.system_choice
                .beyond_the_machine(stream, asker.ip(), own.ip());
        }
    }

    /// Begins an answer: takes the request from `stream` and sends the head.
    pub(super) async fn begin(
        &self,
        stream: &mut TcpStream,
        request: &Request,
        content: &Described<'_>,
        sent: &Sent,
    ) -> io::Result<()> {
        take(stream, request).await?;
        let headers = content_headers(content);
        let head = head::answer(sent, content.size, &headers, request.closes);
        sendfile::send_head(stream, head.as_bytes(), !sent.range.is_empty()).await
    }

    /// Sends `range` of `file`. Before and after each chunk `check` says whether it still is what
    /// was hashed; the connection is to end in the middle when it is not.
    pub(super) async fn send_file(
        &self,
        stream: &TcpStream,
        file: &Arc<File>,
        range: Range<u64>,
        check: impl Fn() -> io::Result<bool>,
    ) -> io::Result<()> {
        let check = || match check()? {
            true => Ok(()),
            // What was sent already is not to be taken for all of it.
            false => SockRef::from(stream)
                .set_linger(Some(Duration::ZERO))
                .and_then(|()| Err(io::Error::other("the file changed while it was sent"))),
        };
        let shared = &self.worker.shared;
        let limit = &shared.upload_limit;
        let step = limit.chunk().map_or(CHUNK, |chunk| chunk.min(CHUNK));
        let (mut at, mut allowed, mut cached) = (range.start, range.start, range.start);
        while at < range.end {
            let chunk = at..range.end.min(at + step);
            // The socket may take less than what it was allowed.
            limit.take(chunk.end - allowed).await;
            allowed = chunk.end;
            check()?;
            let late = |_| io::Error::from(io::ErrorKind::TimedOut);
            timeout(self.unread, stream.writable())
                .await
                .map_err(late)??;
            if cached < chunk.end {
                sendfile::read_ahead(file, &(cached..chunk.end)).await?;
                cached = chunk.end;
            }
            let sent = timeout(self.unread, sendfile::send(stream, file, &chunk)).await;
            at += sent.map_err(late)??;
            // Who reads as fast as it is sent is not alone on this thread.
            yield_now().await;
            shared.metrics.bytes_sent.inc_by(at - chunk.start);
        }
        check()
    }

    /// Sends `bytes`, which are read.
    pub(super) async fn send_bytes<E>(
        &self,
        stream: &mut TcpStream,
        bytes: impl Stream<Item = Result<Bytes, E>> + 'static,
    ) -> io::Result<()>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        let mut bytes = respond::sent(&self.worker.shared, bytes);
        while let Some(chunk) = bytes.next().await {
            let mut chunk = chunk.map_err(io::Error::other)?;
            while !chunk.is_empty() {
                let sent = timeout(self.unread, stream.write_buf(&mut chunk)).await;
                sent.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            }
        }
        Ok(())
    }

    /// Says why there is no content; the connection goes on.
    pub(super) async fn refuse(
        &self,
        stream: &mut TcpStream,
        request: &Request,
        error: &ApiError,
    ) -> io::Result<()> {
        take(stream, request).await?;
        let answer = head::refusal(error.error_response(), request.closes);
        stream.write_all(&answer).await
    }
}

/// Takes the head of `request` from `stream`. It was peeked at, so it is there.
async fn take(stream: &mut TcpStream, request: &Request) -> io::Result<()> {
    let mut head = [0; MAX_HEAD];
    stream.read_exact(&mut head[..request.length]).await?;
    Ok(())
}
