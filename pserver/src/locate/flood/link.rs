//! One link that is up: reads what comes over its stream, measures it, and says when it is over.
//! What is sent goes through the queue that [`super::state`] fills.

use std::{sync::Arc, time::Instant};

use tokio::{
    sync::oneshot,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tonic::Streaming;
use vecino_grpc::v1::{self, gossip_frame::Frame};

use super::{
    bucket::Bucket,
    core::LinkId,
    limits::{FRAMES_A_SECOND, FRAMES_AT_ONCE, GOODBYE_WITHIN, PING_EVERY, PONG_WITHIN},
    state::Shared,
    wire::{self, Incoming},
};

/// Characters of an error of the other side that are kept.
const SHOWN: usize = 200;

/// Reads `incoming` until the link is over, here or there.
pub(super) async fn run(
    shared: Arc<Shared>,
    id: LinkId,
    mut incoming: Streaming<v1::GossipFrame>,
    mut over: oneshot::Receiver<()>,
) {
    let mut bucket = Bucket::new(FRAMES_A_SECOND, FRAMES_AT_ONCE, Instant::now());
    let mut ping = interval(PING_EVERY);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut number = 0;
    let mut pinged: Option<Instant> = None;
    let why = loop {
        tokio::select! {
            _ = &mut over => {
                // What is queued, a goodbye above all, goes out while this side still listens.
                let rest = async { while let Ok(Some(_)) = incoming.message().await {} };
                let _ = timeout(GOODBYE_WITHIN, rest).await;
                return;
            }
            _ = ping.tick() => match pinged {
                Some(at) if at.elapsed() >= PONG_WITHIN => {
                    break "it does not answer any more".to_owned();
                }
                Some(_) => {}
                None => {
                    number += 1;
                    pinged = Some(Instant::now());
                    shared.send_frame(id, Frame::Ping(number));
                }
            },
            frame = incoming.message() => {
                let frame = match frame {
                    Ok(Some(frame)) => frame,
                    Ok(None) => break "it went away".to_owned(),
                    Err(status) => break status.message().chars().take(SHOWN).collect(),
                };
                let wait = bucket.wait(Instant::now());
                if !wait.is_zero() {
                    // Who sends too fast is read later: its own queue fills, not ours.
                    sleep(wait).await;
                }
                match wire::parse(frame) {
                    Some(Incoming::Message(message)) => shared.receive(id, message),
                    Some(Incoming::Ping(number)) => shared.send_frame(id, Frame::Pong(number)),
                    Some(Incoming::Pong(answered)) if answered == number => {
                        if let Some(at) = pinged.take() {
                            shared.state().table.answered(id, at.elapsed());
                        }
                    }
                    Some(Incoming::Goodbye) => {
                        if let Some(peer) = shared.peer_of(id) {
                            shared.forget(&peer, true, false);
                        }
                        return;
                    }
                    // What makes no sense now is left out, as what cannot be parsed.
                    Some(Incoming::Pong(_) | Incoming::Hello(_) | Incoming::Refusal(..))
                    | None => {}
                }
            }
        }
    };
    shared.ended(id, why);
}
