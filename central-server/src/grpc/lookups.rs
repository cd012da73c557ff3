//! The answers of one stream of lookups, in any order.
//!
//! A lookup that has its answer as soon as it is asked, as with a store in this process, is done on
//! the spot; only one that waits (for another machine) is put with the others that do.
//!
//! Invariant: at most [`MAX_LOOKUPS_IN_FLIGHT`] wait, and while so many do, no message is read. Who
//! asks without end leaves the thread to others now and then.

use std::{
    future::Future,
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_util::{
    Stream, StreamExt as _,
    future::OptionFuture,
    stream::{Fuse, FuturesUnordered},
};

use tokio::task::coop;

use super::MAX_LOOKUPS_IN_FLIGHT;

/// See the module.
pub(super) struct Answers<S, L, F> {
    messages: Pin<Box<Fuse<S>>>,
    lookup: L,
    /// Where a lookup begins; the place of one that is done at once is the next one's.
    begun: Pin<Box<OptionFuture<F>>>,
    waiting: FuturesUnordered<Pin<Box<OptionFuture<F>>>>,
}

impl<S: Stream, L: FnMut(S::Item) -> F, F: Future> Answers<S, L, F> {
    /// The answers of `lookup` to each of the messages.
    pub(super) fn to(messages: S, lookup: L) -> Self {
        Self {
            messages: Box::pin(messages.fuse()),
            lookup,
            begun: Box::pin(None.into()),
            waiting: FuturesUnordered::new(),
        }
    }
}

impl<S: Stream, L: FnMut(S::Item) -> F + Unpin, F: Future> Stream for Answers<S, L, F> {
    type Item = F::Output;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<F::Output>> {
        let this = self.get_mut();
        let turn = ready!(coop::poll_proceed(context));
        loop {
            if let Poll::Ready(Some(answer)) = this.waiting.poll_next_unpin(context) {
                turn.made_progress();
                return Poll::Ready(answer);
            }
            if this.waiting.len() >= MAX_LOOKUPS_IN_FLIGHT {
                return Poll::Pending;
            }
            let message = match this.messages.as_mut().poll_next(context) {
                Poll::Ready(Some(message)) => message,
                Poll::Ready(None) if this.waiting.is_empty() => return Poll::Ready(None),
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            };
            let mut begun = this.begun.as_mut();
            begun.set(Some((this.lookup)(message)).into());
            if let Poll::Ready(answer) = begun.as_mut().poll(context) {
                begun.set(None.into());
                turn.made_progress();
                return Poll::Ready(answer);
            }
            let place = Box::pin(None.into());
            this.waiting.push(mem::replace(&mut this.begun, place));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::{FutureExt as _, stream};
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn one_that_waits_holds_up_nobody_and_is_answered_when_it_can_be() {
        let gate = Semaphore::new(0);
        let lookup = |number| {
            let gate = &gate;
            async move {
                if number == 1 {
                    let _passed = gate.acquire().await;
                }
                number
            }
        };
        let messages = stream::iter([1, 2, 3]).chain(stream::pending());
        let mut answers = Answers::to(messages, lookup);
        assert_eq!(answers.next().await, Some(2));
        assert_eq!(answers.next().await, Some(3));
        assert_eq!(answers.next().now_or_never(), None);
        let opened = async { gate.add_permits(1) };
        assert_eq!(tokio::join!(answers.next(), opened).0, Some(1));
    }

    #[tokio::test]
    async fn so_many_wait_and_all_are_answered_before_the_end() {
        let (gate, mut begun) = (Semaphore::new(0), 0);
        let messages = stream::iter(0..MAX_LOOKUPS_IN_FLIGHT + 9);
        let gate = &gate;
        let lookup = |number| {
            begun += 1;
            gate.acquire().map(move |_| number)
        };
        let mut answers = Box::pin(Answers::to(messages, lookup));
        assert_eq!(answers.next().now_or_never(), None);
        assert_eq!(answers.waiting.len(), MAX_LOOKUPS_IN_FLIGHT);
        gate.add_permits(1);
        let mut answered: Vec<_> = answers.by_ref().collect().await;
        answered.sort_unstable();
        assert!(answered.iter().copied().eq(0..MAX_LOOKUPS_IN_FLIGHT + 9));
        drop(answers);
        assert_eq!(begun, MAX_LOOKUPS_IN_FLIGHT + 9);
    }

    #[tokio::test]
    async fn who_asks_without_end_leaves_the_thread_to_others() {
        let mut answers = Answers::to(stream::repeat(1), |number| async move { number });
        let at_once = poll_fn(|context| {
            let is_answered = |_: &usize| answers.poll_next_unpin(context).is_ready();
            Poll::Ready((0..10_000).take_while(is_answered).count())
        });
        let at_once = at_once.await;
        assert!((1..1_000).contains(&at_once), "{at_once}");
    }
}
