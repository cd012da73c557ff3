//! Work that lookups go before: threads that give way where there are not processors for all, and
//! what is done on them.
//!
//! A batch of records takes a millisecond to be read and checked, and a hundred of them may come
//! at once, as soon as their senders heard of the commit before. On the thread of a connection all
//! lookups would wait behind them; here the system lets whoever answers lookups go first. Lookups may
//! wait for a lock that is held here: it is to be held shortly.

use std::{io, num::NonZero, pin::pin, thread::available_parallelism};

use futures_util::{Stream, StreamExt as _, stream};
use rustix::{process::setpriority_process, thread::gettid};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::mpsc,
    task::JoinSet,
};
use tonic::Status;

/// How nice the threads are, as in `nice(1)`.
const NICE: i32 = 10;

/// Has the calling thread let those that answer lookups go first. What it has no time for waits,
/// and pushes back.
pub(crate) fn give_way() {
    if let Err(error) = setpriority_process(Some(gettid()), NICE) {
        log::debug!("a thread does not give way: {error}");
    }
}

/// Threads that give way. Dropping it ends what runs on them.
pub(crate) struct Threads {
    runtime: Option<Runtime>,
}

impl Threads {
    /// Starts one thread a core.
    pub(crate) fn start() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(available_parallelism().map_or(1, NonZero::get))
            .thread_name("behind")
            .on_thread_start(give_way)
            .enable_time()
            .build()?;
        Ok(Self {
            runtime: Some(runtime),
        })
    }

    pub(crate) fn handle(&self) -> Handle {
        let runtime = self.runtime.as_ref().expect("is there until it is dropped");
        runtime.handle().clone()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Called by a runtime, which must not wait.
            runtime.shutdown_background();
        }
    }
}

/// The items of `source`, which lives on the threads of `handle`; each is asked for when the one
/// before was taken. What is dropped here ends there.
pub(crate) fn there<T, S>(
    handle: &Handle,
    source: S,
) -> impl Stream<Item = Result<T, Status>> + Send + use<T, S>
where
    T: Send + 'static,
    S: Stream<Item = Result<T, Status>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(1);
    let mut task = JoinSet::new();
    let forward = async move {
        let mut source = pin!(source);
        while let Ok(place) = sender.reserve().await
            && let Some(item) = source.next().await
        {
            place.send(item);
        }
    };
    task.spawn_on(forward, handle);
    stream::unfold((receiver, task), async |(mut receiver, mut task)| {
        let item = match receiver.recv().await {
            Some(item) => item,
            // It panicked, or the locator ends: that is no end of what was asked for.
            None if task.join_next().await?.is_err() => {
                Err(Status::unavailable("the locator was interrupted"))
            }
            None => return None,
        };
        Some((item, (receiver, task)))
    })
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        thread,
        time::Duration,
    };

    use futures_util::TryStreamExt as _;
    use tokio::{sync::oneshot, time::timeout};

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_source_lives_on_the_threads_and_goes_no_further_than_it_is_followed() {
        let threads = Threads::start().expect("threads");
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let source = stream::repeat_with(move || {
            let place = thread::current().name().map(str::to_owned);
            Ok((count.fetch_add(1, Ordering::SeqCst), place))
        });
        let mut items = pin!(there(&threads.handle(), source));
        for number in 0..100 {
            let item = timeout(SOON, items.next()).await.expect("in time");
            let item = item.expect("is endless").expect("is no failure");
            assert_eq!(item, (number, Some("behind".to_owned())));
            // This one was taken, the next may wait to be.
            assert!(asked.load(Ordering::SeqCst) <= number + 2);
        }
    }

    #[tokio::test]
    async fn a_source_that_ends_ends_it_and_one_that_is_dropped_ends() {
        let threads = Threads::start().expect("threads");
        let two = there(&threads.handle(), stream::iter([Ok(1), Ok(2)]));
        let all = timeout(SOON, two.try_collect::<Vec<_>>()).await;
        assert_eq!(all.expect("in time").expect("no failure"), [1, 2]);

        let (lives, ended) = oneshot::channel::<()>();
        let endless = stream::pending::<Result<(), Status>>().inspect(move |_| {
            let _ = &lives;
        });
        drop(there(&threads.handle(), endless));
        assert!(timeout(SOON, ended).await.expect("in time").is_err());
    }

    #[tokio::test]
    async fn a_source_that_panics_fails_once() {
        let threads = Threads::start().expect("threads");
        let broken = stream::iter([1, 0]).map(|number| {
            assert!(number > 0, "a source that panics, on purpose");
            Ok(number)
        });
        let all = there(&threads.handle(), broken).collect::<Vec<_>>();
        let all = timeout(SOON, all).await.expect("in time");
        let codes: Vec<_> = all
            .iter()
            .map(|item| item.as_ref().map_err(Status::code))
            .collect();
        assert_eq!(codes, [Ok(&1), Err(tonic::Code::Unavailable)]);
    }
}
