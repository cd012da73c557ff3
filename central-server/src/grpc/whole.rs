//! Messages that have begun must become whole: a sender that stops within one would make the
//! locator keep its beginning for as long as the connection lives.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use hyper::body::Frame;
use tokio::time::{Sleep, sleep};
use tonic::{Status, body::Body};

/// Bytes before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// The body of a call; it fails when the rest of a message takes too long.
pub(super) struct WholeMessages {
    body: Body,
    place: Place,
    within: Duration,
    /// Runs while the locator waits for the rest of a message.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl WholeMessages {
    pub(super) fn new(body: Body, within: Duration) -> Self {
        Self {
            body,
            place: Place::default(),
            within,
            waiting: None,
        }
    }
}

impl hyper::body::Body for WholeMessages {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) {
            if let Some(Ok(frame)) = &frame
                && let Some(data) = frame.data_ref()
                && this.place.advance(data)
            {
                this.waiting = None;
            }
            return Poll::Ready(frame);
        }
        if this.place.is_between_messages() {
            return Poll::Pending;
        }
        let within = this.within;
        let waiting = this.waiting.get_or_insert_with(|| Box::pin(sleep(within)));
        ready!(waiting.as_mut().poll(context));
        let seconds = within.as_secs();
        Poll::Ready(Some(Err(Status::deadline_exceeded(format!(
            "the rest of a message did not come within {seconds} seconds"
        )))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

/// Where in the sequence of messages a body is.
#[derive(Debug, Default)]
struct Place {
    prefix: [u8; PREFIX],
    /// Bytes of the prefix that came.
    had: usize,
    /// Bytes of the message that are to come once the prefix is whole.
    left: u64,
}

impl Place {
    fn is_between_messages(&self) -> bool {
        self.had == 0
    }

    /// Goes on by `data`; whether a message ended in it.
    fn advance(&mut self, mut data: &[u8]) -> bool {
        let mut ended = false;
        while !data.is_empty() {
            if self.had < PREFIX {
                let take = data.len().min(PREFIX - self.had);
                data.copy_to_slice(&mut self.prefix[self.had..self.had + take]);
                self.had += take;
                if self.had < PREFIX {
                    break;
                }
                let [_, length @ ..] = self.prefix;
                self.left = u32::from_be_bytes(length).into();
            } else {
                let take = data
                    .len()
                    .min(usize::try_from(self.left).unwrap_or(usize::MAX));
                data.advance(take);
                self.left -= take as u64;
            }
            if self.left == 0 {
                self.had = 0;
                ended = true;
            }
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt as _, stream};
    use http_body_util::{BodyExt as _, StreamBody};
    use proptest::prelude::*;

    use super::*;

    fn message(length: u32) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend(length.to_be_bytes());
        bytes.resize(PREFIX + length as usize, 7);
        bytes
    }

    /// A body of these frames, and then silence.
    fn body(frames: Vec<Vec<u8>>, within: Duration) -> WholeMessages {
        let frames = frames
            .into_iter()
            .map(|frame| Ok::<_, Status>(Frame::data(Bytes::from(frame))));
        let frames = stream::iter(frames).chain(stream::pending());
        WholeMessages::new(Body::new(StreamBody::new(frames)), within)
    }

    #[tokio::test]
    async fn silence_within_a_message_fails_and_between_messages_does_not() {
        let within = Duration::from_millis(20);
        for (length, cut) in [(4 << 20, 5), (4 << 20, 100), (10, 3)] {
            let mut part = message(length);
            part.truncate(cut);
            let mut body = body(vec![message(3), part], within);
            assert!(body.frame().await.expect("a frame").is_ok());
            assert!(body.frame().await.expect("a frame").is_ok());
            let error = body.frame().await.expect("an end").expect_err("fails");
            assert_eq!(error.code(), tonic::Code::DeadlineExceeded);
        }
        let mut whole = body(vec![message(3), message(0)], within);
        assert!(whole.frame().await.expect("a frame").is_ok());
        assert!(whole.frame().await.expect("a frame").is_ok());
        let silent = tokio::time::timeout(within * 5, whole.frame()).await;
        assert!(silent.is_err(), "it waits");
    }

    proptest! {
        #[test]
        fn the_ends_of_messages_are_found_however_they_are_cut(
            lengths in prop::collection::vec(0..40_u32, 1..6),
            cuts in prop::collection::vec(1..20_usize, 1..8),
        ) {
            let all: Vec<u8> = lengths.iter().copied().flat_map(message).collect();
            let mut ends = Vec::new();
            for length in &lengths {
                ends.push(ends.last().unwrap_or(&0) + PREFIX + *length as usize);
            }
            let (mut place, mut at, mut cut) = (Place::default(), 0, cuts.iter().cycle());
            while at < all.len() {
                let to = all.len().min(at + cut.next().expect("endless"));
                let ended = place.advance(&all[at..to]);
                prop_assert_eq!(ended, ends.iter().any(|end| (at + 1..=to).contains(end)));
                at = to;
                prop_assert_eq!(place.is_between_messages(), ends.contains(&at));
            }
        }
    }
}
