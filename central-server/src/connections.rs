//! Accepting gRPC connections: counted, bounded, with a deadline for their first bytes.
//!
//! Invariant: at most [`MAX_CONNECTIONS`] are open; while there are so many, new ones wait in the
//! listen queue of the system.

use std::{
    io,
    net::{self, IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Sleep,
};
use tonic::{Status, transport::server::Connected};

use crate::{
    grpc::{ACCEPT_PAUSE, MAX_ANNOUNCES_PER_CONNECTION},
    metrics::{Metrics, Open},
    throttle::Throttle,
    turns::Turns,
};

/// Open connections at most.
const MAX_CONNECTIONS: usize = 16_384;
/// A connection that has sent nothing by then is closed.
const FIRST_BYTES_WITHIN: Duration = Duration::from_secs(10);
/// How often failed accepts are told.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Accepts the connections of a listener.
pub(crate) struct Acceptor {
    listener: TcpListener,
    permits: Arc<Semaphore>,
    metrics: Arc<Metrics>,
    complaints: Throttle,
}

impl Acceptor {
    pub(crate) fn new(listener: TcpListener, metrics: Arc<Metrics>) -> Self {
        Self {
            listener,
            permits: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            metrics,
            complaints: Throttle::new(TELL_EVERY),
        }
    }

    /// The next connection, once there is room for one.
    pub(crate) async fn accept(&self) -> Accepted {
        let permits = self.permits.clone();
        let permit = permits.acquire_owned().await.expect("never closed");
        let socket = loop {
            let socket = match self.listener.accept().await {
                Ok((socket, _)) => socket.into_std(),
                Err(error) => Err(error),
            };
            match socket {
                Ok(socket) => break socket,
                Err(error) => {
                    if let Some(untold) = self.complaints.pass(Instant::now()) {
                        log::warn!("a connection could not be accepted: {error}{untold}");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        };
        if let Err(error) = socket.set_nodelay(true) {
            log::debug!("TCP_NODELAY could not be set: {error}");
        }
        self.metrics.connections.inc();
        Accepted {
            socket,
            open: Open::new(self.metrics.connections_open.clone()),
            permit,
        }
    }
}

/// A connection that no runtime has yet.
pub(crate) struct Accepted {
    socket: net::TcpStream,
    open: Open,
    permit: OwnedSemaphorePermit,
}

impl Accepted {
    /// The connection on the current runtime, whose turns are `turns`; it keeps `share` while it is
    /// open.
    pub(crate) fn here(self, share: Arc<()>, turns: Arc<Turns>) -> io::Result<Connection> {
        Ok(Connection {
            socket: TcpStream::from_std(self.socket)?,
            silence: Some(Box::pin(tokio::time::sleep(FIRST_BYTES_WITHIN))),
            end: None,
            turns,
            _open: self.open,
            _permit: self.permit,
            _share: share,
        })
    }
}

/// An open connection.
pub(crate) struct Connection {
    socket: TcpStream,
    /// Runs until the first bytes come.
    silence: Option<Pin<Box<Sleep>>>,
    end: Option<End>,
    turns: Arc<Turns>,
    _open: Open,
    _permit: OwnedSemaphorePermit,
    /// Counts for the thread that has it.
    _share: Arc<()>,
}

/// That there is nothing more to be read, which is told in its turn.
struct End {
    read: io::Result<()>,
    turn: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// What a call knows of its connection.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    /// The other side.
    pub(crate) addr: Option<SocketAddr>,
    /// Places for Announce streams.
    pub(crate) announces: Arc<Semaphore>,
    /// The turns of the thread that has it.
    pub(crate) turns: Arc<Turns>,
}

impl Origin {
    /// The address of the other side, IPv4 as such.
    pub(crate) fn ip(&self) -> Result<IpAddr, Status> {
        let addr = self
            .addr
            .ok_or_else(|| Status::internal("the connection has no address"))?;
        Ok(addr.ip().to_canonical())
    }
}

impl Connection {
    /// Reads, or ends what stays silent.
    fn poll_socket(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.socket).poll_read(context, buffer);
        match &mut self.silence {
            Some(silence) if read.is_pending() => {
                ready!(silence.as_mut().poll(context));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            Some(_) => {
                self.silence = None;
                read
            }
            None => read,
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Origin;

    fn connect_info(&self) -> Origin {
        Origin {
            addr: self.socket.peer_addr().ok(),
            announces: Arc::new(Semaphore::new(MAX_ANNOUNCES_PER_CONNECTION)),
            turns: self.turns.clone(),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.end.is_none() {
            let room = buffer.remaining();
            match this.poll_socket(context, buffer) {
                Poll::Ready(Ok(())) if buffer.remaining() < room || room == 0 => {
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(read) => {
                    let turns = this.turns.clone();
                    let turn = Box::pin(async move { turns.next().await });
                    this.end = Some(End { read, turn });
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        if let Some(end) = &mut this.end {
            ready!(end.turn.as_mut().poll(context));
        }
        // Who reads on after that asks the socket again.
        Poll::Ready(this.end.take().map_or(Ok(()), |end| end.read))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        time::timeout,
    };

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn bytes_are_told_at_once_and_the_end_in_its_turn() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("binds");
        let addr = listener.local_addr().expect("is bound");
        let acceptor = Acceptor::new(listener, Arc::new(Metrics::new()));
        let mut client = TcpStream::connect(addr).await.expect("connects");
        let accepted = acceptor.accept().await;
        let turns = Turns::new();
        let mut connection = accepted.here(Arc::default(), turns.clone()).expect("is");
        // All of this round: nobody gives new ones.
        while turns.next().now_or_never().is_some() {}

        client.write_all(b"bytes").await.expect("is sent");
        drop(client);
        let mut read = [0; 5];
        connection.read_exact(&mut read).await.expect("is read");
        assert_eq!(&read, b"bytes");
        let ended = timeout(SOON, connection.socket.readable()).await;
        ended.expect("in time").expect("has ended");
        let mut rest = Vec::new();
        let mut end = std::pin::pin!(connection.read_to_end(&mut rest));
        assert!(end.as_mut().now_or_never().is_none());
        let giving = turns.clone();
        tokio::spawn(async move { giving.run().await });
        let end = timeout(SOON, end).await.expect("in time");
        assert_eq!(end.expect("ends"), 0);
    }
}
