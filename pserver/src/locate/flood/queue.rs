//! What waits to be written to a link: bounded in frames and in bytes, since a question is small
//! and an answer may not be. Who puts something in never waits.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use vecino_grpc::v1::GossipFrame;

use super::limits::{LINK_QUEUE, LINK_QUEUE_BYTES};

/// Where frames are put in.
#[derive(Debug)]
pub(super) struct Queue {
    frames: mpsc::Sender<GossipFrame>,
    bytes: Arc<AtomicUsize>,
}

/// Where they come out, in order; ends when the [`Queue`] is gone.
#[derive(Debug)]
pub(super) struct Queued {
    frames: mpsc::Receiver<GossipFrame>,
    bytes: Arc<AtomicUsize>,
}

/// An empty queue.
pub(super) fn queue() -> (Queue, Queued) {
    let (sender, receiver) = mpsc::channel(LINK_QUEUE);
    let bytes = Arc::new(AtomicUsize::new(0));
    let queue = Queue {
        frames: sender,
        bytes: bytes.clone(),
    };
    let queued = Queued {
        frames: receiver,
        bytes,
    };
    (queue, queued)
}

impl Queue {
    /// Puts it in, if there is room.
    pub(super) fn put(&self, frame: GossipFrame) -> bool {
        let size = frame.encoded_len();
        let before = self.bytes.fetch_add(size, Ordering::Relaxed);
        let put = before + size <= LINK_QUEUE_BYTES && self.frames.try_send(frame).is_ok();
        if !put {
            self.bytes.fetch_sub(size, Ordering::Relaxed);
        }
        put
    }
}

impl Stream for Queued {
    type Item = GossipFrame;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<GossipFrame>> {
        let next = self.frames.poll_recv(context);
        if let Poll::Ready(Some(frame)) = &next {
            self.bytes.fetch_sub(frame.encoded_len(), Ordering::Relaxed);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use vecino_grpc::v1::{GossipAnswer, gossip_frame::Frame};

    use super::*;

    fn frame(size: usize) -> GossipFrame {
        GossipFrame {
            frame: Some(Frame::Answer(GossipAnswer {
                id: vec![0; size].into(),
                ..Default::default()
            })),
        }
    }

    #[tokio::test]
    async fn there_is_room_for_many_small_frames_or_few_large_ones() {
        let put = |size: usize| {
            let (queue, queued) = queue();
            let count = (0..2 * LINK_QUEUE).take_while(|_| queue.put(frame(size)));
            (count.count(), queue, queued)
        };
        assert_eq!(put(16).0, LINK_QUEUE);
        let (count, queue, mut queued) = put(64 << 10);
        assert!(count * (64 << 10) <= LINK_QUEUE_BYTES);
        assert!(queued.next().await.is_some());
        assert!(queue.put(frame(64 << 10)), "what is taken out makes room");
        drop(queue);
        assert_eq!(queued.count().await, count, "and then it ends");
    }
}
