//! gRPC on a thread a core, each with a runtime of its own: a call is answered where its connection
//! is, so that nothing goes from core to core and nobody is woken for it.
//!
//! One task accepts and gives each connection to the thread that has the fewest. Whatever is no
//! call (the store's writer, the sweeper, commands, HTTP) is elsewhere, on the runtime that
//! started the server.
//!
//! Invariant: a thread ends when the locator shuts down (or its handle is dropped) and the calls
//! of its connections have ended, at the latest after [`DRAIN`].

use std::{
    io,
    num::NonZero,
    sync::Arc,
    thread::{self, available_parallelism},
    time::Duration,
};

use futures_util::{
    future::join,
    stream::{FuturesUnordered, StreamExt as _},
};
use tokio::{
    net::TcpListener,
    runtime,
    sync::{mpsc, oneshot, watch},
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport;

use crate::{
    connections::{Accepted, Acceptor},
    grpc::Calls,
    metrics::Metrics,
    turns::Turns,
};

/// Longest time for calls to end when the locator shuts down.
pub(crate) const DRAIN: Duration = Duration::from_secs(5);

/// A thread as the one who deals out sees it.
struct Lane {
    /// As many as there are permits for connections at most.
    connections: mpsc::UnboundedSender<Dealt>,
    /// Each open connection of the thread has a clone.
    share: Arc<()>,
}

/// A connection and the share that goes with it.
type Dealt = (Accepted, Arc<()>);

/// How a thread ended.
type Ended = oneshot::Receiver<Result<(), transport::Error>>;

/// The threads, which serve nothing yet.
pub(crate) struct Threads {
    lanes: Vec<Lane>,
    ended: FuturesUnordered<Ended>,
}

impl Threads {
    /// Starts one thread a core.
    pub(crate) fn start(
        transport: &transport::Server,
        calls: &Calls,
        closing: &watch::Receiver<bool>,
    ) -> io::Result<Self> {
        let cores = available_parallelism().map_or(1, NonZero::get);
        let (mut lanes, ended) = (Vec::new(), FuturesUnordered::new());
        for number in 0..cores {
            let (connections, dealt) = mpsc::unbounded_channel();
            let (end, its_end) = oneshot::channel();
            let (transport, calls, closing) = (transport.clone(), calls.clone(), closing.clone());
            let runtime = runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            thread::Builder::new()
                .name(format!("grpc-{number}"))
                .spawn(move || {
                    // Nobody listens any more where the handle is gone.
                    let _ = end.send(runtime.block_on(serve(transport, calls, dealt, closing)));
                    // Work that has begun on other threads is not waited for.
                    runtime.shutdown_background();
                })?;
            let share = Arc::new(());
            lanes.push(Lane { connections, share });
            ended.push(its_end);
        }
        Ok(Self { lanes, ended })
    }

    /// Deals out the connections of `listener` until the locator shuts down; returns when all
    /// threads have ended.
    pub(crate) async fn run(
        self,
        listener: TcpListener,
        metrics: Arc<Metrics>,
        closing: watch::Receiver<bool>,
    ) -> Result<(), transport::Error> {
        let Self { lanes, mut ended } = self;
        tokio::select! {
            () = deal(Acceptor::new(listener, metrics), lanes) => {}
            () = closed(closing) => {}
            // It failed; the others end as well, now that nobody deals out.
            Some(Ok(end)) = ended.next() => end?,
        }
        while let Some(end) = ended.next().await {
            // A thread that said nothing is gone.
            end.unwrap_or(Ok(()))?;
        }
        Ok(())
    }
}

/// Gives each connection to the thread that has the fewest, until one takes none any more.
async fn deal(acceptor: Acceptor, mut lanes: Vec<Lane>) {
    loop {
        let accepted = acceptor.accept().await;
        // Among those that have as many it goes round.
        lanes.rotate_left(1);
        let fewest = lanes
            .iter()
            .min_by_key(|lane| Arc::strong_count(&lane.share));
        let Some(lane) = fewest else { return };
        if lane
            .connections
            .send((accepted, lane.share.clone()))
            .is_err()
        {
            return;
        }
    }
}

/// Serves the connections that are dealt to this thread.
async fn serve(
    transport: transport::Server,
    calls: Calls,
    dealt: mpsc::UnboundedReceiver<Dealt>,
    closing: watch::Receiver<bool>,
) -> Result<(), transport::Error> {
    let turns = Turns::new();
    // Of their own: whoever comes waits for nobody who is there.
    let arrivals = Turns::new();
    let incoming = UnboundedReceiverStream::new(dealt).then(|(accepted, share)| async {
        arrivals.next().await;
        accepted.here(share, turns.clone())
    });
    let end = closed(closing.clone());
    tokio::select! {
        ended = transport.serve_with_incoming_shutdown(calls, incoming, end) => ended,
        () = overdue(closing) => {
            log::warn!("calls did not end within {} seconds", DRAIN.as_secs());
            Ok(())
        }
        // Never.
        _ = join(turns.run(), arrivals.run()) => Ok(()),
    }
}

/// Returns when the locator shuts down.
async fn closed(mut closing: watch::Receiver<bool>) {
    // An error means that the handle is gone, which ends the server, too.
    let _ = closing.wait_for(|closing| *closing).await;
}

async fn overdue(closing: watch::Receiver<bool>) {
    closed(closing).await;
    tokio::time::sleep(DRAIN).await;
}

#[cfg(test)]
mod tests {
    use tokio::{net::TcpStream, time::timeout};

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_connection_goes_to_the_thread_that_has_the_fewest() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("binds");
        let addr = listener.local_addr().expect("is bound");
        let (mut lanes, mut dealt) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let (connections, taken) = mpsc::unbounded_channel();
            let share = Arc::new(());
            lanes.push(Lane { connections, share });
            dealt.push(taken);
        }
        let acceptor = Acceptor::new(listener, Arc::new(Metrics::new()));
        let dealing = tokio::spawn(deal(acceptor, lanes));
        let mut clients = Vec::new();
        let mut connect = async |count: usize| {
            for _ in 0..count {
                clients.push(TcpStream::connect(addr).await.expect("connects"));
            }
        };
        let next = async |taken: &mut mpsc::UnboundedReceiver<Dealt>| {
            let connection = timeout(SOON, taken.recv()).await.expect("in time");
            connection.expect("it is dealt")
        };
        connect(9).await;
        let mut open: Vec<Vec<Dealt>> = Vec::new();
        for taken in &mut dealt {
            open.push(vec![
                next(taken).await,
                next(taken).await,
                next(taken).await,
            ]);
        }
        // What ended makes room there.
        open[1].truncate(1);
        connect(2).await;
        open[1].extend([next(&mut dealt[1]).await, next(&mut dealt[1]).await]);
        assert!(dealt.iter_mut().all(|taken| taken.try_recv().is_err()));
        dealing.abort();
    }
}
