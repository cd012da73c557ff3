//! [`Valve`]: a slow way to a peer, so that a transfer is really in its middle when a test acts.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// Bytes that pass at once.
const BLOCK: usize = 64 << 10;
/// The wait after each.
const WAIT: Duration = Duration::from_millis(4);

/// See the module; gone when it is dropped.
pub(crate) struct Valve {
    pub(crate) addr: SocketAddr,
    target: watch::Sender<Option<SocketAddr>>,
    _passing: JoinSet<()>,
}

impl Valve {
    /// Listens; [`Valve::lead_to`] says later where it leads.
    pub(crate) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let addr = listener.local_addr().expect("bound");
        let (target, led) = watch::channel(None);
        let mut passing = JoinSet::new();
        passing.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let target = *led.borrow();
                connections.spawn(async move {
                    if let Some(target) = target {
                        let _ = pass(near, target).await;
                    }
                });
            }
        });
        Self {
            addr,
            target,
            _passing: passing,
        }
    }

    pub(crate) fn lead_to(&self, target: SocketAddr) {
        self.target.send_replace(Some(target));
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

async fn pass(near: TcpStream, target: SocketAddr) -> std::io::Result<()> {
    let far = TcpStream::connect(target).await?;
    let (mut near_in, mut near_out) = near.into_split();
    let (mut far_in, mut far_out) = far.into_split();
    let back = async {
        let mut block = vec![0; BLOCK];
        loop {
            let got = far_in.read(&mut block).await?;
            if got == 0 {
                return Ok(());
            }
            near_out.write_all(&block[..got]).await?;
            tokio::time::sleep(WAIT).await;
        }
    };
    // Either end that closes closes both.
    tokio::select! {
        ended = back => ended,
        forth = copy(&mut near_in, &mut far_out) => forth.map(|_| ()),
    }
}
