//! What the parts of the strategy share: the protocol and the links under one lock, and the
//! actions of the former carried out on the latter.
//!
//! Invariant: whatever the protocol says is queued under the same lock under which it said it, so
//! that no answer overtakes another. Nothing blocks or waits under the lock.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicUsize},
    time::Instant,
};

use tokio::sync::{Notify, mpsc, oneshot, watch};
use vecino_grpc::v1::{self, gossip_frame::Frame, gossip_refusal::Reason};
use vecino_rest::{PeerId, PeerUrl};

use super::{
    ask::Asked,
    core::{self, Action, AskId, Core, LinkId},
    discovered::Discovered,
    holdings::Own,
    keep::Book,
    limits::Limits,
    message::{Held, Message},
    meter::{Arrivals, Origin},
    queue::{Queued, queue},
    table::{Installed, Kept, Stream, Table},
    wire::{self, Hello, Token},
};
use crate::locate::overlay::Context;

/// What becomes of an own question.
#[derive(Debug)]
pub(super) enum Event {
    /// Somebody has something.
    Found(Held),
    /// It is over; so many peers were asked.
    Ended(u32),
}

/// What is under the lock.
#[derive(Debug)]
pub(super) struct State {
    pub(super) core: Core,
    pub(super) table: Table,
    arrivals: Arrivals,
    waiters: HashMap<AskId, mpsc::UnboundedSender<Event>>,
    last_link: LinkId,
    closed: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) context: Context,
    pub(super) limits: Limits,
    pub(super) own: Own,
    discovered: Mutex<Discovered>,
    state: Mutex<State>,
    /// The protocol has something due.
    pub(super) timer: Notify,
    /// There may be somebody to call.
    pub(super) dialer: Notify,
    /// The links changed.
    pub(super) keeper: Notify,
    /// Discoveries under way.
    pub(super) discoveries: Arc<AtomicUsize>,
    writing: tokio::sync::Mutex<()>,
}

/// A stream's ends, for who carries it.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) id: LinkId,
    pub(super) frames: Queued,
    /// Ready when the link is over.
    pub(super) over: oneshot::Receiver<()>,
}

impl Shared {
    pub(super) fn new(context: Context, limits: Limits) -> Self {
        let (kept, ended) = Book::load(&context.data_dir).into_rows();
        Self {
            own: Own::new(&context),
            discovered: Mutex::new(Discovered::new(&limits)),
            state: Mutex::new(State {
                core: Core::new(limits.clone()),
                table: Table::new(kept, ended, Instant::now()),
                arrivals: Arrivals::default(),
                waiters: HashMap::new(),
                last_link: 0,
                closed: false,
            }),
            limits,
            context,
            timer: Notify::new(),
            dialer: Notify::new(),
            keeper: Notify::new(),
            discoveries: Arc::default(),
            writing: tokio::sync::Mutex::default(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn discovered(&self) -> MutexGuard<'_, Discovered> {
        self.discovered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the links down.
    pub(super) async fn keep(&self) {
        let _one_at_a_time = self.writing.lock().await;
        let book = Book::of(&self.state().table);
        let dir = self.context.data_dir.clone();
        let written = tokio::task::spawn_blocking(move || book.store(&dir)).await;
        if let Ok(Err(error)) = written {
            log::error!("the links of the flood overlay cannot be kept: {error}");
        }
    }

    /// Asks an own question; what comes of it comes from the receiver. `None` when too much is
    /// under way.
    pub(super) fn ask(&self, asked: Asked) -> Option<mpsc::UnboundedReceiver<Event>> {
        let (events, receiver) = mpsc::unbounded_channel();
        let mut state = self.state();
        let mut actions = Vec::new();
        let ask = state.core.ask(asked, Instant::now(), &mut actions)?;
        state.waiters.insert(ask, events);
        self.carry_out(&mut state, actions);
        drop(state);
        self.timer.notify_one();
        Some(receiver)
    }

    /// What came over a link.
    pub(super) fn receive(&self, link: LinkId, message: Message) {
        let question = match message {
            Message::Question(question) => question,
            answer => {
                return self.with_core(|core, now, out| {
                    core.receive(link, answer, &self.own, now, out);
                });
            }
        };
        if self.with_core(|core, now, out| core.admits(link, &question, now, out)) {
            // The catalogue is read while others go on: a page of it takes a while.
            let own = core::OwnFiles::of(&self.own, &question.subject);
            self.with_core(|core, now, out| core.take_up(link, question, own, now, out));
        }
    }

    /// Lets the protocol do something, and carries out what it says.
    fn with_core<T>(&self, act: impl FnOnce(&mut Core, Instant, &mut Vec<Action>) -> T) -> T {
        let mut state = self.state();
        let mut actions = Vec::new();
        let done = act(&mut state.core, Instant::now(), &mut actions);
        self.carry_out(&mut state, actions);
        drop(state);
        self.timer.notify_one();
        done
    }

    /// Time passed.
    pub(super) fn tick(&self) {
        let mut state = self.state();
        let mut actions = Vec::new();
        state.core.tick(Instant::now(), &mut actions);
        self.carry_out(&mut state, actions);
    }

    fn carry_out(&self, state: &mut State, mut actions: Vec<Action>) {
        while !actions.is_empty() {
            let mut further = Vec::new();
            for action in actions {
                match action {
                    Action::Send(link, message) => {
                        self.send(state, link, message, &mut further);
                    }
                    Action::Cut(link, why) => {
                        if let Some(peer) = state.table.peer_of(link) {
                            state.table.bar(&peer, Instant::now());
                        }
                        self.end_stream(state, link, why.to_owned(), &mut further);
                    }
                    Action::Found(ask, held) => {
                        if let Some(waiter) = state.waiters.get(&ask) {
                            // Who does not wait any more needs nothing.
                            let _ = waiter.send(Event::Found(held));
                        }
                    }
                    Action::Ended(ask, visited) => {
                        if let Some(waiter) = state.waiters.remove(&ask) {
                            let _ = waiter.send(Event::Ended(visited));
                        }
                    }
                }
            }
            actions = further;
        }
    }

    fn send(&self, state: &mut State, link: LinkId, message: Message, out: &mut Vec<Action>) {
        let asked = match &message {
            Message::Question(question) => Some(question.id),
            Message::Answer(_) => None,
        };
        let stream = state.table.stream(link);
        let sent = stream.is_some_and(|stream| stream.frames.put(wire::message(message)));
        if let (false, Some(id)) = (sent, asked) {
            state.core.not_sent(link, id, Instant::now(), out);
        }
    }

    /// A frame that is not the protocol's.
    pub(super) fn send_frame(&self, link: LinkId, frame: Frame) {
        if let Some(stream) = self.state().table.stream(link) {
            // A link that is so full has other proofs of life.
            stream.frames.put(wire::frame(frame));
        }
    }

    fn end_stream(&self, state: &mut State, link: LinkId, why: String, out: &mut Vec<Action>) {
        let now = Instant::now();
        state.core.link_down(link, now, out);
        if let Some(peer) = state.table.down(link, why.clone(), now, self.limits.redial) {
            log::info!("link to peer {peer} is down: {why:?}");
            self.dialer.notify_one();
        }
    }

    /// A stream ended.
    pub(super) fn ended(&self, link: LinkId, why: String) {
        let mut state = self.state();
        let mut actions = Vec::new();
        self.end_stream(&mut state, link, why, &mut actions);
        self.carry_out(&mut state, actions);
    }

    /// A stream called by `caller`, which is nobody's link yet; its first frame is `first`.
    pub(super) fn stream(&self, caller: PeerId, first: v1::GossipFrame) -> (Stream, Ends) {
        let (frames, queued) = queue();
        // A new queue has room.
        frames.put(first);
        let (open, over) = oneshot::channel();
        let mut state = self.state();
        state.last_link += 1;
        let id = state.last_link;
        let stream = Stream {
            id,
            caller,
            frames,
            _open: open,
        };
        let ends = Ends {
            id,
            frames: queued,
            over,
        };
        (stream, ends)
    }

    /// Makes `stream` the link to `kept`, if it is the better one.
    /// Its call came from `address`; from this peer if there is none.
    pub(super) fn install(
        &self,
        kept: Kept,
        stream: Stream,
        address: Option<IpAddr>,
    ) -> Result<(), Reason> {
        let id = stream.id;
        let peer = kept.contact.peer;
        let now = Instant::now();
        let mut state = self.state();
        if state.closed {
            return Err(Reason::Full);
        }
        let before = match state.table.install(kept, stream, now) {
            Installed::Instead(before) => before,
            Installed::Superfluous => return Err(Reason::Linked),
            Installed::Full => return Err(Reason::Full),
        };
        let mut actions = Vec::new();
        if let Some(before) = before {
            state.core.link_down(before, now, &mut actions);
        }
        state.core.link_up(id, Origin::of(peer, address), now);
        self.carry_out(&mut state, actions);
        drop(state);
        log::info!("link to peer {peer} is up");
        self.keeper.notify_one();
        self.dialer.notify_one();
        Ok(())
    }

    /// What a caller gets: a link, or why not.
    pub(super) fn accept(
        &self,
        hello: Hello,
        address: Option<IpAddr>,
    ) -> Result<Ends, (Reason, Vec<PeerUrl>)> {
        let peer = hello.contact.peer;
        if peer == self.context.me.peer {
            return Err((Reason::Self_, Vec::new()));
        }
        let (token, elsewhere) = {
            let mut state = self.state();
            let elsewhere = state.table.elsewhere(&peer);
            match self.may_link(&state.table, &hello) {
                Ok(token) => {
                    let origins = Origin::of(peer, address);
                    if !state.arrivals.take(&origins, Instant::now()) {
                        return Err((Reason::Full, elsewhere));
                    }
                    (token, elsewhere)
                }
                Err(reason) => return Err((reason, elsewhere)),
            }
        };
        let welcome = wire::welcome(&self.context.me, token, &elsewhere);
        let (stream, ends) = self.stream(peer, welcome);
        let kept = Kept {
            contact: hello.contact,
            token,
            ours: false,
        };
        self.install(kept, stream, address)
            .map_err(|reason| (reason, elsewhere))?;
        Ok(ends)
    }

    /// The token of the link that `hello` may have.
    fn may_link(&self, table: &Table, hello: &Hello) -> Result<Token, Reason> {
        let contact = &hello.contact;
        let link = table.get(&contact.peer);
        if link.is_some_and(|link| link.is_barred(Instant::now())) {
            return Err(Reason::Full);
        }
        if let (Some(link), Some(token)) = (link, hello.token) {
            let same = subtle::ConstantTimeEq::ct_eq(&token[..], &link.kept.token[..]);
            return bool::from(same).then_some(token).ok_or(Reason::NotLinked);
        }
        let was_ended = table.ended().any(|ended| ended.peer == contact.peer);
        match (link, hello.token) {
            _ if was_ended && !hello.on_request => Err(Reason::Ended),
            (None, Some(_)) => Err(Reason::NotLinked),
            // It may be somebody else with its name: the link that is up stays.
            (Some(link), None) if link.stream.is_some() => Err(Reason::Linked),
            _ if !table.has_room_for(&contact.peer, Instant::now()) => Err(Reason::Full),
            _ => Ok(rand::random()),
        }
    }

    /// Ends the link to `peer` for good. Whether there was one.
    pub(super) fn forget(&self, peer: &PeerId, on_purpose: bool, goodbye: bool) -> bool {
        let mut state = self.state();
        let Some(link) = state.table.forget(peer, on_purpose, goodbye) else {
            return false;
        };
        let mut actions = Vec::new();
        if let Some(stream) = link.stream {
            if goodbye {
                let frame = wire::frame(Frame::Goodbye(v1::GossipGoodbye {}));
                // Should it not fit, the other side learns it when it calls.
                stream.frames.put(frame);
            }
            state
                .core
                .link_down(stream.id, Instant::now(), &mut actions);
        }
        self.carry_out(&mut state, actions);
        drop(state);
        log::info!("link to peer {peer} is no more");
        self.keeper.notify_one();
        true
    }

    /// The peer at the other end of `link`.
    pub(super) fn peer_of(&self, link: LinkId) -> Option<PeerId> {
        self.state().table.peer_of(link)
    }

    /// Ends every stream and takes no new one.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.table.close();
    }
}

/// Returns when the peer stops.
pub(super) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error means that the peer is gone, which is the same.
    let _ = stopping.wait_for(|&stopping| stopping).await;
}
