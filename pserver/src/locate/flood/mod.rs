//! The strategy `flood`: links between peers, and questions that spread over them.
//!
//! `core` is the protocol, pure; `state` carries out what it says; `link`, `service` and `dial`
//! move its messages; `table` and `keep` know the links; `discovered` remembers what a discovery
//! found. PROTOCOL.md beside this file has the states, messages, bounds and sources.
//!
//! Invariant: a question says nothing of who asks, and an answer is believed only as far as bytes
//! can be checked against its digest.

mod answers;
mod ask;
mod bucket;
pub mod core;
mod dial;
mod discover;
mod discovered;
mod holdings;
#[cfg(test)]
mod hostile_tests;
mod keep;
pub mod limits;
mod link;
pub mod message;
mod meter;
mod queue;
mod service;
#[cfg(test)]
mod simulation;
mod state;
mod table;
mod wire;

use std::{sync::Arc, time::Instant};

use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Duration, sleep_until},
};
use tonic::service::RoutesBuilder;
use vecino_rest::{
    PeerUrl,
    body::{LocateQuery, Page, Peer, SearchPage, SearchQuery, Variant},
    overlay::{FloodView, OverlayView},
};

use self::{
    answers::Answers,
    ask::Asked,
    core::Holdings,
    dial::Target,
    limits::{MAX_BUDGET, MAX_HOPS, MAX_LINKS},
    message::{Held, Subject},
    state::{Event, Shared},
};
pub use self::{dial::DialError, discover::Discovery, limits::Limits};
use super::{LocateError, Lookup, Strategy, StrategyKind, overlay::Context};

/// The timer looks at the clock at least so often.
const IDLE: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug, Clone)]
pub struct Flood {
    shared: Arc<Shared>,
}

impl Flood {
    /// Starts it; its work in the background goes into `tasks`.
    pub fn start(context: &Context, limits: Limits, tasks: &mut JoinSet<()>) -> Arc<Self> {
        let shared = Arc::new(Shared::new(context.clone(), limits));
        let stopping = || context.stopping.clone();
        tasks.spawn(timer(shared.clone(), stopping()));
        tasks.spawn(keeper(shared.clone(), stopping()));
        tasks.spawn(dial::run(shared.clone(), stopping()));
        Arc::new(Self { shared })
    }

    /// Its links, as REST shows them.
    pub fn links(&self) -> Vec<Peer> {
        let state = self.shared.state();
        state.table.links().map(table::Link::to_body).collect()
    }

    /// Links this peer with the one whose overlay is at `overlay`; the link as it is then, and
    /// whether it is new.
    pub async fn connect(&self, overlay: &PeerUrl) -> Result<(Peer, bool), DialError> {
        let is_up =
            |link: &&table::Link| link.kept.contact.overlay == *overlay && link.stream.is_some();
        let up = || {
            let state = self.shared.state();
            state.table.links().find(is_up).map(table::Link::to_body)
        };
        if let Some(link) = up() {
            return Ok((link, false));
        }
        let target = Target {
            overlay: overlay.clone(),
            kept: None,
            on_request: true,
        };
        let peer = match dial::call(&self.shared, &target).await {
            Ok((peer, _)) => peer,
            // Both called at once, and the other call won.
            Err((DialError::Linked(_), _)) if up().is_some() => {
                let link = up().ok_or_else(|| DialError::Linked(overlay.clone()))?;
                return Ok((link, true));
            }
            Err((error, _)) => return Err(error),
        };
        self.shared.keep().await;
        let state = self.shared.state();
        let link = state.table.get(&peer).map(table::Link::to_body);
        let link = link.ok_or_else(|| DialError::Ended(overlay.clone()))?;
        Ok((link, true))
    }

    /// Ends the link with `peer` (a peer id, or a URL) for good. Whether there was one.
    pub async fn disconnect(&self, peer: &str) -> bool {
        let named = self.shared.state().table.named(peer);
        let was_there = named.is_some_and(|peer| self.shared.forget(&peer, true, true));
        if was_there {
            self.shared.keep().await;
        }
        was_there
    }

    /// Whether a discovery was made whose time is not over.
    pub fn has_discovered(&self) -> bool {
        self.shared.discovered().is_live(Instant::now())
    }

    /// A page of what discoveries found.
    pub fn discovered(
        &self,
        prefix: &str,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Page<Variant>, LocateError> {
        let discovered = self.shared.discovered();
        discovered.list(prefix, limit, cursor, Instant::now())
    }

    /// Who holds it, as far as discoveries found out; asks nobody.
    pub fn known(&self, query: &LocateQuery) -> Vec<Variant> {
        self.shared.discovered().find(query, Instant::now())
    }

    /// What discoveries found, by words; [`LocateError::Unsupported`] when none was made.
    pub fn search_discovered(&self, query: &SearchQuery) -> Result<SearchPage, LocateError> {
        let now = Instant::now();
        let discovered = self.shared.discovered();
        if discovered.is_live(now) {
            discovered.search(query, now)
        } else {
            Err(LocateError::Unsupported)
        }
    }

    async fn lookup(&self, query: &LocateQuery) -> Result<Vec<Variant>, LocateError> {
        let subject = Subject::of(query)
            .ok_or_else(|| LocateError::BadQuery("give either name or digest".to_owned()))?;
        let mut answers = Answers::default();
        let (files, more) = self.shared.own.matching(&subject);
        let holder = self.shared.own.holder();
        let provider = query.provider.as_deref();
        let here = !files.is_empty() && provider.is_none_or(|wanted| ask::is(holder, wanted));
        if here {
            answers.add(Held {
                holder: holder.clone(),
                files,
                more,
            });
        }
        let asked = Asked::lookup(
            subject,
            query.provider.clone(),
            &self.shared.limits,
            rand::random(),
        );
        let mut asked_peers = 0;
        if let Some(mut events) = self.shared.ask(asked) {
            while let Some(event) = events.recv().await {
                match event {
                    Event::Found(held) => answers.add(held),
                    Event::Ended(visited) => asked_peers = visited,
                }
            }
        }
        let variants = answers.into_variants(query.name.as_ref());
        if variants.is_empty() && asked_peers == 0 {
            return Err(LocateError::Unavailable);
        }
        Ok(variants)
    }
}

impl Strategy for Flood {
    fn kind(&self) -> StrategyKind {
        StrategyKind::Flood
    }

    fn locate<'a>(&'a self, query: &'a LocateQuery) -> Lookup<'a, Vec<Variant>> {
        Box::pin(self.lookup(query))
    }

    fn search<'a>(&'a self, query: &'a SearchQuery) -> Lookup<'a, SearchPage> {
        Box::pin(async { self.search_discovered(query) })
    }

    fn view(&self) -> Option<OverlayView> {
        let links = self.links();
        let seen = self.shared.state().core.seen() as u64;
        Some(OverlayView::Flood(FloodView {
            overlay: self.shared.context.me.overlay.to_string(),
            links,
            max_links: MAX_LINKS as u64,
            hops: MAX_HOPS,
            budget: MAX_BUDGET,
            seen,
            discovered: self.shared.discovered().held() as u64,
        }))
    }

    fn repair(&self) -> Lookup<'_, ()> {
        Box::pin(async {
            self.shared.state().table.hurry(Instant::now());
            self.shared.dialer.notify_one();
            Ok(())
        })
    }

    fn serve(&self, routes: &mut RoutesBuilder) {
        routes.add_service(service::service(self.shared.clone()));
    }

    fn as_flood(&self) -> Option<&Flood> {
        Some(self)
    }
}

/// Gives the protocol its time; ends the links when the peer stops.
async fn timer(shared: Arc<Shared>, mut stopping: watch::Receiver<bool>) {
    loop {
        let due = shared.state().core.next_due();
        let due = due.unwrap_or_else(|| Instant::now() + IDLE);
        tokio::select! {
            () = state::stopped(&mut stopping) => break,
            () = shared.timer.notified() => {}
            () = sleep_until(due.into()) => shared.tick(),
        }
    }
    shared.close();
}

/// Writes the links down whenever they change.
async fn keeper(shared: Arc<Shared>, mut stopping: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = state::stopped(&mut stopping) => break,
            () = shared.keeper.notified() => shared.keep().await,
        }
    }
    shared.keep().await;
}
