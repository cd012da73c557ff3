//! From the page cache to the socket without carrying the bytes through this process
//! (sendfile(2)), and what else is asked of a socket.
//!
//! Invariant: the event loop never waits for the disk: what is not in the page cache is read on the
//! blocking pool first.

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt, sync::Arc};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::sendfile,
    io::{ReadWriteFlags, preadv2},
    net::SendFlags,
};
use socket2::SockRef;
use tokio::{io::Interest, net::TcpStream, task::spawn_blocking};

/// So few bytes that the network has not taken yet hold up nobody.
const NEARLY_SENT: u32 = 64 << 10;
/// The socket takes what its buffer has room for: the system's default.
const ANY_UNSENT: u32 = 0;

/// Sends the head of an answer. With content to follow, what is small goes in one packet with it:
/// who receives it is woken once.
pub async fn send_head(stream: &TcpStream, mut head: &[u8], is_followed: bool) -> io::Result<()> {
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
pub async fn send(stream: &TcpStream, file: &File, chunk: &Range<u64>) -> io::Result<u64> {
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

/// Whether the client closed the connection while it waited.
pub fn is_gone(stream: &TcpStream) -> bool {
    let mut socket = [PollFd::new(stream, PollFlags::RDHUP)];
    poll(&mut socket, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// Waits until the network has taken nearly all that the socket holds. A piece fits into the buffer
/// of a socket: whoever gave the slot to the next one when it is in there would send to everybody
/// at once, and all would have their pieces late.
pub async fn nearly_sent(stream: &TcpStream) -> io::Result<()> {
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
pub async fn read_ahead(file: &Arc<File>, chunk: &Range<u64>) -> io::Result<()> {
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
