//! Connections to `OVERLAY_PORT`: bounded in all and for each address, with a deadline for the
//! bytes that begin HTTP/2.
//!
//! Invariant: at most [`Bounds::total`] are open, [`Bounds::an_address`] of them from one address;
//! what comes above is closed at once, so that those who wait are never behind those who hold. A
//! connection that has not begun in time is closed; one that has is pinged by the server from then on.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv6Addr},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{Stream, stream};
use rustix::process::{Resource, getrlimit};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    time::{Sleep, sleep},
};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// Open connections at most; never more than half of what the process may have open.
const MAX_CONNECTIONS: usize = 4096;
/// Of these, from one address at most; never more than an eighth.
pub const MAX_FROM_AN_ADDRESS: usize = 128;
/// A connection whose first bytes are not there by then is closed.
pub const FIRST_BYTES_WITHIN: Duration = Duration::from_secs(5);
/// The preface of HTTP/2 (24) and the head of the frame that follows (9); RFC 9113, 3.4.
const FIRST_BYTES: usize = 33;
/// Pause after a failed accept: usually the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How many may be open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    total: usize,
    an_address: usize,
}

impl Bounds {
    /// What this process can bear.
    pub(super) fn of_process() -> Self {
        let files = getrlimit(Resource::Nofile).current;
        Self::with(files.map_or(usize::MAX, |files| {
            usize::try_from(files).unwrap_or(usize::MAX)
        }))
    }

    fn with(open_files: usize) -> Self {
        let total = (open_files / 2).clamp(1, MAX_CONNECTIONS);
        Self {
            total,
            an_address: (total / 8).clamp(1, MAX_FROM_AN_ADDRESS),
        }
    }
}

/// Who counts as one: an address of IPv4, the network of a site (/64) in IPv6.
pub(in crate::locate) fn origin(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let site = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from(site))
        }
        address => address,
    }
}

/// What is open now.
#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_origin: HashMap<IpAddr, usize>,
}

/// A place among them; free again when it is dropped.
#[derive(Debug)]
struct Place {
    open: Arc<Mutex<Open>>,
    origin: IpAddr,
}

fn lock(open: &Mutex<Open>) -> MutexGuard<'_, Open> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Place {
    fn take(open: &Arc<Mutex<Open>>, address: IpAddr, bounds: Bounds) -> Option<Self> {
        let origin = origin(address);
        let mut counts = lock(open);
        let here = counts.by_origin.get(&origin).copied().unwrap_or_default();
        if counts.total >= bounds.total || here >= bounds.an_address {
            return None;
        }
        counts.total += 1;
        counts.by_origin.insert(origin, here + 1);
        Some(Self {
            open: open.clone(),
            origin,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = lock(&self.open);
        counts.total -= 1;
        if let Some(here) = counts.by_origin.get_mut(&self.origin) {
            *here -= 1;
            if *here == 0 {
                counts.by_origin.remove(&self.origin);
            }
        }
    }
}

/// The connections of `listener`, without end.
pub(super) fn accept(
    listener: TcpListener,
    bounds: Bounds,
) -> impl Stream<Item = io::Result<Connection>> + Send {
    let open = Arc::<Mutex<Open>>::default();
    stream::unfold((listener, open), move |(listener, open)| async move {
        let connection = loop {
            match listener.accept().await {
                Ok((socket, from)) => match Place::take(&open, from.ip(), bounds) {
                    Some(place) => break Connection::new(socket, place),
                    None => log::debug!("overlay: {} has too many connections", from.ip()),
                },
                Err(error) => {
                    log::debug!("overlay: a connection could not be accepted: {error}");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        };
        Some((Ok(connection), (listener, open)))
    })
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection {
    socket: TcpStream,
    /// Bytes that are still missing of the first ones, and the time that they have.
    beginning: Option<(usize, Pin<Box<Sleep>>)>,
    _place: Place,
}

impl Connection {
    fn new(socket: TcpStream, place: Place) -> Self {
        if let Err(error) = socket.set_nodelay(true) {
            log::debug!("TCP_NODELAY could not be set: {error}");
        }
        Self {
            socket,
            beginning: Some((FIRST_BYTES, Box::pin(sleep(FIRST_BYTES_WITHIN)))),
            _place: place,
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.socket.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.socket).poll_read(context, buffer);
        let Some((missing, time)) = &mut this.beginning else {
            return read;
        };
        if read.is_pending() {
            ready!(time.as_mut().poll(context));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        *missing = missing.saturating_sub(buffer.filled().len() - before);
        if *missing == 0 {
            this.beginning = None;
        }
        read
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
    use super::*;

    #[test]
    fn places_are_bounded_in_all_and_for_each_address() {
        let bounds = Bounds::with(32);
        assert_eq!((bounds.total, bounds.an_address), (16, 2));
        let open = Arc::default();
        let from = |n: u8| IpAddr::from([10, 0, 0, n]);
        let first = Place::take(&open, from(0), bounds).expect("room");
        let _second = Place::take(&open, from(0), bounds).expect("room");
        assert!(Place::take(&open, from(0), bounds).is_none());
        drop(first);
        let mut taken = Vec::new();
        for n in 0..100 {
            taken.extend(Place::take(&open, from(n), bounds));
            taken.extend(Place::take(&open, from(n), bounds));
        }
        assert_eq!(taken.len(), 15);
        taken.clear();
        assert_eq!(lock(&open).by_origin.len(), 1);
        assert_eq!(Bounds::with(usize::MAX).total, MAX_CONNECTIONS);
    }

    #[test]
    fn a_site_counts_as_one() {
        let parse = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert_eq!(origin(parse("2001:db8::1:2:3:4")), parse("2001:db8::"));
        assert_eq!(origin(parse("::ffff:10.0.0.1")), parse("10.0.0.1"));
    }
}
