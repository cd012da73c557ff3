//! Peers that keep their leases and come back as peers do, each over a connection of its own from
//! an address of its own.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use rustix::thread::gettid;
use tokio::{
    net::{TcpSocket, TcpStream},
    runtime::{Builder, Runtime},
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Status,
    codegen::{BoxFuture, Service, http::Uri},
};
use vecino_grpc::v1::KeepAliveRequest;

use super::{
    records,
    session::{Manner, Progress, Session, endpoint},
};

/// Waits between tries double from the first to the last of these, as at a peer.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// How long the locator may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How their threads compete for the processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Haste {
    /// As everybody.
    AtOnce,
    /// Peers are other machines: what it costs to be them is done when nobody else needs the processors.
    Behind,
}

/// Has the thread run when nobody else needs the processors; whether that is allowed.
pub(super) fn behind() -> bool {
    let thread = gettid().as_raw_nonzero().to_string();
    let chosen = Command::new("chrt")
        .args(["--idle", "--pid", "0", &thread])
        .stderr(Stdio::null())
        .status();
    chosen.is_ok_and(|status| status.success())
}

/// Peers of a runtime of their own, so that they can die at once.
pub(crate) struct Population {
    runtime: Option<Runtime>,
    state: Arc<State>,
    size: u64,
}

#[derive(Default)]
struct State {
    /// Peers that are registered and keep their leases now.
    present: AtomicU64,
    /// Registrations so far.
    registrations: AtomicU64,
    /// Sessions that ended.
    ended: AtomicU64,
}

/// Which peers, and what they hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peers {
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// Peers that there are in all, and the records of all of them.
    pub(crate) of: u64,
    pub(crate) records: u64,
}

impl Population {
    /// Begins the lives of `peers`, all at once.
    pub(crate) fn begin(addr: SocketAddr, peers: Peers, haste: Haste) -> anyhow::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .on_thread_start(move || {
                if haste == Haste::Behind {
                    behind();
                }
            })
            .enable_all()
            .build()?;
        let state = Arc::new(State::default());
        for peer in peers.from..peers.to {
            runtime.spawn(live(addr, peer, peers, state.clone()));
        }
        Ok(Self {
            runtime: Some(runtime),
            state,
            size: peers.to - peers.from,
        })
    }

    pub(crate) fn present(&self) -> u64 {
        self.state.present.load(Ordering::Relaxed)
    }

    pub(crate) fn registrations(&self) -> u64 {
        self.state.registrations.load(Ordering::Relaxed)
    }

    pub(crate) fn ended(&self) -> u64 {
        self.state.ended.load(Ordering::Relaxed)
    }

    /// Waits until each of them has registered `times` times in all since the beginning and is
    /// present.
    pub(crate) async fn all_present(&self, at_least: u64, within: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + within;
        while self.present() < self.size || self.registrations() < at_least {
            anyhow::ensure!(
                Instant::now() < deadline,
                "only {} of {} peers are registered",
                self.present(),
                self.size
            );
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }
}

impl Drop for Population {
    /// All die: their connections are reset.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Connects from an address; what is dropped is reset.
struct Resetting(Ipv4Addr, SocketAddr);

impl Service<Uri> for Resetting {
    type Response = TokioIo<TcpStream>;
    type Error = std::io::Error;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self(from, to) = *self;
        Box::pin(async move {
            let socket = TcpSocket::new_v4()?;
            socket.bind((from, 0).into())?;
            let stream = socket.connect(to).await?;
            stream.set_nodelay(true)?;
            stream.set_zero_linger()?;
            Ok(TokioIo::new(stream))
        })
    }
}

async fn live(addr: SocketAddr, peer: u64, peers: Peers, state: Arc<State>) {
    let mut wait = BACKOFF.0;
    let mut announced = false;
    loop {
        let ended = session(addr, peer, peers, &state, &mut announced, &mut wait).await;
        let is_unknown = ended
            .downcast_ref::<Status>()
            .is_some_and(|status| status.code() == Code::Unauthenticated);
        let pause = if is_unknown {
            Duration::ZERO
        } else {
            let longer = (wait * 2).min(BACKOFF.1);
            std::mem::replace(&mut wait, longer)
        };
        let pause = pause.mul_f64(fastrand::f64().mul_add(0.5, 0.5));
        sleep(pause + Duration::from_millis(20)).await;
    }
}

/// Counts a peer as present until it is dropped.
struct Present<'a>(&'a State);

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.0.present.fetch_sub(1, Ordering::Relaxed);
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// Lives until something fails; returns what.
async fn session(
    addr: SocketAddr,
    peer: u64,
    peers: Peers,
    state: &State,
    announced: &mut bool,
    wait: &mut Duration,
) -> anyhow::Error {
    let lived = async {
        let connector = Resetting(records::address(peer), addr);
        let endpoint = endpoint(addr, peer)?;
        let channel = endpoint.connect_with_connector(connector);
        let channel = timeout(ANSWER_WITHIN, channel)
            .await
            .context("no connection")??;
        let mut session = Session::over(channel, peer).await?;
        *wait = BACKOFF.0;
        if !*announced {
            let numbers = records::of_peer(peer, peers.of, peers.records);
            let unmeasured = Progress::begin(u64::MAX);
            session
                .announce(Manner::Changes, numbers, &unmeasured)
                .await?;
            *announced = true;
        }
        let (keep_alives, outbound) = mpsc::channel(1);
        let answers = session.client.keep_alive(ReceiverStream::new(outbound));
        let mut answers = timeout(ANSWER_WITHIN, answers)
            .await
            .context("no stream")??
            .into_inner();
        state.present.fetch_add(1, Ordering::Relaxed);
        state.registrations.fetch_add(1, Ordering::Relaxed);
        let _present = Present(state);
        let lease = Duration::from_secs(session.welcome.lease_seconds.max(1).into());
        // Not all in step.
        let first = Instant::now() + (lease / 3).mul_f64(fastrand::f64());
        let mut ticks = interval_at(first, lease / 3);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    let request = KeepAliveRequest {
                        peer_id: session.welcome.peer_id.clone(),
                        lease_token: session.welcome.lease_token.clone(),
                        free_bytes: 1 << 30,
                        compare: false,
                    };
                    let _ = keep_alives.try_send(request);
                }
                answer = answers.message() => {
                    answer?.context("the stream ended")?;
                }
            }
        }
    };
    let lived: anyhow::Result<std::convert::Infallible> = lived.await;
    match lived {
        Ok(never) => match never {},
        Err(error) => error,
    }
}
