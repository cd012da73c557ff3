//! [`Proxy`]: a TCP proxy that records what each connection sent to the server behind it, and
//! holds back what the server says until its gate is open.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

#[derive(Default)]
struct Shared {
    /// What each connection sent, in order of connecting.
    sent: Mutex<Vec<Vec<u8>>>,
    closed: Mutex<bool>,
    opened: Condvar,
    ended: AtomicBool,
}

/// See the module.
pub(crate) struct Proxy {
    addr: SocketAddr,
    listener: Option<TcpListener>,
    shared: Arc<Shared>,
}

impl Proxy {
    /// A proxy without a server yet: connections wait until [`Self::lead_to`].
    pub(crate) fn reserve() -> Self {
        Self::reserve_on(Ipv4Addr::LOCALHOST.into())
    }

    pub(crate) fn reserve_on(ip: IpAddr) -> Self {
        let listener = TcpListener::bind((ip, 0)).unwrap();
        Self {
            addr: listener.local_addr().unwrap(),
            listener: Some(listener),
            shared: Arc::default(),
        }
    }

    /// A proxy to `server`.
    pub(crate) fn to(server: SocketAddr) -> Self {
        let mut proxy = Self::reserve();
        proxy.lead_to(server);
        proxy
    }

    pub(crate) fn lead_to(&mut self, server: SocketAddr) {
        let listener = self.listener.take().expect("leads nowhere yet");
        let shared = self.shared.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                if shared.ended.load(Ordering::SeqCst) {
                    return;
                }
                let client = client.unwrap();
                let Ok(server) = TcpStream::connect(server) else {
                    continue;
                };
                carry(&client, &server, &shared);
            }
        });
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on nothing that the server says gets through.
    pub(crate) fn close_gate(&self) {
        *self.shared.closed.lock().unwrap() = true;
    }

    pub(crate) fn open_gate(&self) {
        *self.shared.closed.lock().unwrap() = false;
        self.shared.opened.notify_all();
    }

    /// What each connection sent so far.
    pub(crate) fn sent(&self) -> Vec<Vec<u8>> {
        self.shared.sent.lock().unwrap().clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.open_gate();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.addr);
    }
}

fn carry(client: &TcpStream, server: &TcpStream, shared: &Arc<Shared>) {
    let connection = {
        let mut sent = shared.sent.lock().unwrap();
        sent.push(Vec::new());
        sent.len() - 1
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let both = || (client.try_clone().unwrap(), server.try_clone().unwrap());
    let ((from_client, to_server), (to_client, from_server)) = (both(), both());
    let record = shared.clone();
    thread::spawn(move || {
        copy(from_client, to_server, |bytes| {
            record.sent.lock().unwrap()[connection].extend_from_slice(bytes);
        });
    });
    let gate = shared.clone();
    thread::spawn(move || {
        copy(from_server, to_client, |_| {
            let closed = gate.closed.lock().unwrap();
            drop(gate.opened.wait_while(closed, |closed| *closed).unwrap());
        });
    });
}

fn copy(mut from: TcpStream, mut to: TcpStream, before: impl Fn(&[u8])) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        before(&buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = (to.shutdown(Shutdown::Write), from.shutdown(Shutdown::Read));
}
