//! Work that lookups go before: threads that give way where there are not processors for all, and
//! what is done on them.
//!
//! A batch of records takes a millisecond to be read and checked, and a hundred of them may come
//! at once, as soon as their senders heard of the commit before. On the thread of a connection all
//! lookups would wait behind them; here the system lets whoever answers lookups go first.

use std::{io, num::NonZero, thread::available_parallelism};

use futures_util::{Stream, StreamExt as _, stream};
use rustix::{process::setpriority_process, thread::gettid};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::mpsc,
    task::JoinSet,
};

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
pub(crate) fn there<S>(handle: &Handle, source: S) -> impl Stream<Item = S::Item> + Send + use<S>
where
    S: Stream + Send + 'static,
    S::Item: Send + 'static,
{
    let (sender, receiver) = mpsc::channel(1);
    let mut task = JoinSet::new();
    let forward = async move {
        let mut source = std::pin::pin!(source);
        while let Ok(place) = sender.reserve().await
            && let Some(item) = source.next().await
        {
            place.send(item);
        }
    };
    task.spawn_on(forward, handle);
    stream::unfold((receiver, task), async |(mut receiver, task)| {
        let item = receiver.recv().await?;
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
            (count.fetch_add(1, Ordering::SeqCst), place)
        });
        let mut items = std::pin::pin!(there(&threads.handle(), source));
        for number in 0..100 {
            let item = timeout(SOON, items.next()).await.expect("in time");
            assert_eq!(item, Some((number, Some("behind".to_owned()))));
            // This one was taken, the next may wait to be.
            assert!(asked.load(Ordering::SeqCst) <= number + 2);
        }
    }

    #[tokio::test]
    async fn a_source_that_ends_ends_it_and_one_that_is_dropped_ends() {
        let threads = Threads::start().expect("threads");
        let two = there(&threads.handle(), stream::iter([1, 2]));
        let all = timeout(SOON, two.collect::<Vec<_>>()).await;
        assert_eq!(all.expect("in time"), [1, 2]);

        let (lives, ended) = oneshot::channel::<()>();
        let endless = stream::pending::<()>().map(move |()| {
            let _ = &lives;
        });
        drop(there(&threads.handle(), endless));
        assert!(timeout(SOON, ended).await.expect("in time").is_err());
    }
}
