//! Calls other peers: those that a person names, those whose links are down, and seeds.
//!
//! A peer that joins through seeds asks on at the peers that they name, until it has
//! [`TARGET_LINKS`]; so a seed is not the middle of a star for long.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use vecino_grpc::v1::{gossip_client::GossipClient, gossip_refusal::Reason};
use vecino_rest::{PeerId, PeerUrl};

use super::{
    limits::{HELLO_WITHIN, MAX_FRAME, TARGET_LINKS},
    link,
    state::{self, Shared},
    table::Kept,
    wire::{self, Incoming},
};

/// How long a call may take from end to end.
pub(super) const CALL_WITHIN: Duration = Duration::from_secs(5);
/// The dialer looks around at least so often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Addresses that seeds named and that are still to be tried.
const MAX_CANDIDATES: usize = 64;

/// Why a call made no link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// No connection, or no sensible answer.
    #[error("{0} cannot be reached: {1}")]
    Unreachable(PeerUrl, String),
    /// It is this peer.
    #[error("{0} is this peer itself")]
    Own(PeerUrl),
    /// The other side has enough.
    #[error("{0} has as many links as it takes")]
    TheyAreFull(PeerUrl),
    /// This side has enough.
    #[error("this peer has as many links as it takes: disconnect one first")]
    Full,
    /// The other side ended the link.
    #[error("{0} ended this link")]
    Ended(PeerUrl),
    /// The other side has no such link.
    #[error("{0} has no such link")]
    NotLinked(PeerUrl),
    /// The other side has another idea of who we are.
    #[error("{0} has a link with this peer already, or one of its name")]
    Linked(PeerUrl),
}

/// What is called.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) overlay: PeerUrl,
    /// The link that is to come back.
    pub(super) kept: Option<Kept>,
    /// Whether a person wants it.
    pub(super) on_request: bool,
}

/// Calls `target`; the peer that is linked then, and others that it names.
pub(super) async fn call(
    shared: &Arc<Shared>,
    target: &Target,
) -> Result<(PeerId, Vec<PeerUrl>), (DialError, Vec<PeerUrl>)> {
    let calling = timeout(CALL_WITHIN, try_call(shared, target));
    calling.await.unwrap_or_else(|_| {
        let why = "it does not answer".to_owned();
        Err((
            DialError::Unreachable(target.overlay.clone(), why),
            Vec::new(),
        ))
    })
}

async fn try_call(
    shared: &Arc<Shared>,
    target: &Target,
) -> Result<(PeerId, Vec<PeerUrl>), (DialError, Vec<PeerUrl>)> {
    let url = || target.overlay.clone();
    let unreachable = |why: String| (DialError::Unreachable(url(), why), Vec::new());
    let me = &shared.context.me;
    if target.overlay == me.overlay {
        return Err((DialError::Own(url()), Vec::new()));
    }
    let channel = shared
        .context
        .channels
        .to(&target.overlay)
        .await
        .map_err(|error| unreachable(error.to_string()))?;
    let token = target.kept.as_ref().map(|kept| kept.token);
    let (stream, ends) = shared.stream(me.peer, wire::call(me, token, target.on_request));
    let mut client = GossipClient::new(channel).max_decoding_message_size(MAX_FRAME);
    let mut incoming = client
        .link(ends.frames)
        .await
        .map_err(|status| unreachable(status.message().to_owned()))?
        .into_inner();
    let first = timeout(HELLO_WITHIN, incoming.message())
        .await
        .map_err(|_| unreachable("it does not say who it is".to_owned()))?
        .map_err(|status| unreachable(status.message().to_owned()))?;
    let hello = match first.and_then(wire::parse) {
        Some(Incoming::Hello(hello)) => hello,
        Some(Incoming::Refusal(reason, elsewhere)) => {
            let error = match reason {
                Reason::Full => DialError::TheyAreFull(url()),
                Reason::Self_ => DialError::Own(url()),
                Reason::Ended => DialError::Ended(url()),
                Reason::NotLinked => DialError::NotLinked(url()),
                Reason::Linked => DialError::Linked(url()),
                Reason::BadHello | Reason::Unspecified => {
                    return Err(unreachable("it does not understand this peer".to_owned()));
                }
            };
            return Err((error, elsewhere));
        }
        _ => return Err(unreachable("it does not say who it is".to_owned())),
    };
    let peer = hello.contact.peer;
    let other = target.kept.as_ref().map(|kept| kept.contact.peer);
    if other.is_some_and(|other| other != peer) {
        return Err(unreachable("another peer answers there".to_owned()));
    }
    let token = hello
        .token
        .ok_or_else(|| unreachable("it gives the link no token".to_owned()))?;
    if target.on_request {
        shared.state().table.pardon(&target.overlay);
    }
    let mut contact = hello.contact;
    // It was reached there, whatever it says of itself.
    contact.overlay = url();
    let kept = Kept {
        contact,
        token,
        ours: true,
    };
    match shared.install(kept, stream, None) {
        Ok(()) => {
            tokio::spawn(link::run(shared.clone(), ends.id, incoming, ends.over));
            Ok((peer, hello.elsewhere))
        }
        // The call of the other side came first.
        Err(Reason::Linked) => Ok((peer, hello.elsewhere)),
        Err(_) => Err((DialError::Full, hello.elsewhere)),
    }
}

/// When to call a seed again.
#[derive(Debug, Clone, Copy)]
struct Retry {
    at: Instant,
    failures: u32,
}

/// Calls whoever is to be called, until `stopping`.
pub(super) async fn run(shared: Arc<Shared>, mut stopping: watch::Receiver<bool>) {
    let now = Instant::now();
    let begin = Retry {
        at: now,
        failures: 0,
    };
    let seeds = shared.context.seeds.iter().cloned();
    let mut seeds: HashMap<PeerUrl, Retry> = seeds.map(|seed| (seed, begin)).collect();
    let mut candidates: VecDeque<PeerUrl> = VecDeque::new();
    let mut calls: JoinSet<(Target, Result<_, _>)> = JoinSet::new();
    loop {
        for target in due(&shared, &mut seeds, &mut candidates) {
            let shared = shared.clone();
            calls.spawn(async move {
                let outcome = call(&shared, &target).await;
                (target, outcome)
            });
        }
        let next = shared.state().table.next_dial();
        let wait = next.map_or(LOOK_EVERY, |at| {
            at.saturating_duration_since(Instant::now()).min(LOOK_EVERY)
        });
        tokio::select! {
            () = state::stopped(&mut stopping) => return,
            () = shared.dialer.notified() => {}
            () = sleep(wait) => {}
            Some(Ok((target, outcome))) = calls.join_next() => {
                let elsewhere = match outcome {
                    Ok((_, elsewhere)) => elsewhere,
                    Err((error, elsewhere)) => {
                        failed(&shared, &target, &error, &mut seeds);
                        elsewhere
                    }
                };
                if !seeds.is_empty() {
                    candidates.extend(elsewhere);
                    candidates.truncate(MAX_CANDIDATES);
                }
            }
        }
    }
}

fn due(
    shared: &Shared,
    seeds: &mut HashMap<PeerUrl, Retry>,
    candidates: &mut VecDeque<PeerUrl>,
) -> Vec<Target> {
    let now = Instant::now();
    let mut state = shared.state();
    let down = state.table.due(now, CALL_WITHIN * 2);
    let mut targets: Vec<_> = down
        .into_iter()
        .map(|kept| Target {
            overlay: kept.contact.overlay.clone(),
            kept: Some(kept),
            on_request: false,
        })
        .collect();
    let new = |overlay: &PeerUrl| Target {
        overlay: overlay.clone(),
        kept: None,
        on_request: false,
    };
    for (seed, retry) in seeds {
        let wanted = *seed != shared.context.me.overlay && !state.table.knows(seed);
        if wanted && retry.at <= now {
            retry.at = now + CALL_WITHIN * 2;
            targets.push(new(seed));
        }
    }
    let mut wanted = TARGET_LINKS.saturating_sub(state.table.links().count());
    while wanted > 0
        && let Some(candidate) = candidates.pop_front()
    {
        if candidate != shared.context.me.overlay && !state.table.knows(&candidate) {
            targets.push(new(&candidate));
            wanted -= 1;
        }
    }
    targets
}

fn failed(
    shared: &Shared,
    target: &Target,
    error: &DialError,
    seeds: &mut HashMap<PeerUrl, Retry>,
) {
    log::debug!("no link: {error}");
    let now = Instant::now();
    let (first, longest) = shared.limits.redial;
    if let Some(kept) = &target.kept {
        match error {
            DialError::Ended(_) | DialError::NotLinked(_) => {
                let for_good = matches!(error, DialError::Ended(_));
                shared.forget(&kept.contact.peer, for_good, false);
            }
            _ => {
                let why = match error {
                    DialError::Unreachable(_, why) => why.clone(),
                    error => error.to_string(),
                };
                let mut state = shared.state();
                let peer = &kept.contact.peer;
                state.table.failed(peer, why, now, shared.limits.redial);
            }
        }
    } else if let Some(retry) = seeds.get_mut(&target.overlay) {
        let wait = first * 2_u32.saturating_pow(retry.failures.min(16));
        retry.failures += 1;
        retry.at = now + wait.min(longest);
    }
}
