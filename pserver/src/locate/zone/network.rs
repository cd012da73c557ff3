//! What is known of the network: its layout, this peer's seat, and who sits in the zones that
//! matter here.
//!
//! Invariant: a list that is known stays known until a newer one is here, whether a locator can
//! be reached or not; `changed` moves whenever a list, the seat or the layout does. Lists that
//! nobody asked for in a while are dropped, this peer's own zone's excepted.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use tokio::{
    sync::{Mutex, watch},
    time::sleep_until,
};
use vecino_rest::{PeerId, zone::ZoneLayout};

use super::{
    registrar::{Lease, Registrar},
    timing::Timing,
};
use crate::locate::overlay::Contact;

/// A list that nobody asked for in so long is dropped.
const UNUSED_FOR: Duration = Duration::from_secs(600);
/// A list that lacks somebody is asked for again no sooner than so long after the last time.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// Lists of zones that are fetched at a time.
const FETCHES: usize = 4;

/// A member of the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    /// Where it sits.
    pub(super) slot: u32,
    /// Who it is.
    pub(super) contact: Contact,
}

#[derive(Debug)]
struct List {
    version: u64,
    members: Arc<[Member]>,
    used: Instant,
    /// When a locator was last asked for it.
    asked: Instant,
}

#[derive(Debug, Default)]
struct State {
    layout: Option<ZoneLayout>,
    timing: Option<Timing>,
    seat: Option<u32>,
    lists: HashMap<u32, List>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Network {
    /// The locators.
    pub(super) registrar: Registrar,
    state: RwLock<State>,
    changed: watch::Sender<u64>,
    /// Fetches of the same zone wait for each other, so that the second finds what it needs.
    fetching: [Mutex<()>; FETCHES],
}

impl Network {
    /// Nothing known yet.
    pub(super) fn new(registrar: Registrar) -> Self {
        Self {
            registrar,
            state: RwLock::default(),
            changed: watch::Sender::new(0),
            fetching: Default::default(),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_changed(&self) {
        self.changed.send_modify(|version| *version += 1);
    }

    /// Moves with every change of what is known.
    pub(super) fn follow(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Slots and zones, once known.
    pub(super) fn layout(&self) -> Option<ZoneLayout> {
        self.read().layout
    }

    /// This peer's slot, while it has one.
    pub(super) fn seat(&self) -> Option<u32> {
        self.read().seat
    }

    /// How long everything takes.
    pub(super) fn timing(&self) -> Timing {
        let usual = || Timing::of(Duration::from_secs(15));
        self.read().timing.unwrap_or_else(usual)
    }

    /// This peer sits, or does no more.
    pub(super) fn sit(&self, lease: Option<&Lease>) {
        let seat = lease.map(|lease| lease.slot);
        if let Some(lease) = lease {
            self.adopt(lease.layout, lease.duration);
        }
        let before = std::mem::replace(&mut self.write().seat, seat);
        if before != seat {
            self.has_changed();
        }
    }

    fn adopt(&self, layout: ZoneLayout, lease: Duration) {
        let mut state = self.write();
        state.timing = Some(Timing::of(lease));
        if state.layout != Some(layout) {
            state.layout = Some(layout);
            state.lists.clear();
            drop(state);
            self.has_changed();
        }
    }

    /// The members of a zone: as known, or asked for now. `None` when that cannot be done.
    pub(super) async fn members(&self, zone: u32) -> Option<Arc<[Member]>> {
        if let Some(known) = self.known(zone) {
            return Some(known);
        }
        let _one = self.fetching[zone as usize % FETCHES].lock().await;
        if let Some(known) = self.known(zone) {
            return Some(known);
        }
        self.fetch(zone).await
    }

    /// The members of a zone as known.
    pub(super) fn known(&self, zone: u32) -> Option<Arc<[Member]>> {
        let mut state = self.write();
        let list = state.lists.get_mut(&zone)?;
        list.used = Instant::now();
        Some(list.members.clone())
    }

    /// Asks a locator who sits in a zone.
    pub(super) async fn fetch(&self, zone: u32) -> Option<Arc<[Member]>> {
        let asked = Instant::now();
        let known = match self.write().lists.get_mut(&zone) {
            Some(list) => {
                list.asked = asked;
                list.version
            }
            None => 0,
        };
        let listing = match self.registrar.members(zone, known).await {
            Ok(listing) => listing,
            Err(status) => {
                log::debug!("zone {zone} is not listed: {}", status.message());
                return self.known(zone);
            }
        };
        self.adopt(listing.layout, listing.lease);
        let Some(members) = listing.members else {
            return self.known(zone);
        };
        let members: Arc<[Member]> = members.into();
        let list = List {
            version: listing.version,
            members: members.clone(),
            used: Instant::now(),
            asked,
        };
        let before = self.write().lists.insert(zone, list);
        if before.is_none_or(|before| *before.members != *members) {
            self.has_changed();
        }
        Some(members)
    }

    /// The members that answer for a slot, and their zone: those of its own, or of the nearest
    /// zone before it that has any. `None` when that is not known and cannot be asked for.
    pub(super) async fn responsible(&self, slot: u32) -> Option<(u32, Arc<[Member]>)> {
        let layout = self.layout()?;
        let mut zone = layout.zone_of(slot);
        for _ in 0..layout.zones() {
            let members = self.members(zone).await?;
            if !members.is_empty() {
                return Some((zone, members));
            }
            zone = layout.before(zone);
        }
        Some((zone, Arc::new([])))
    }

    /// A member by slot and id; a locator is asked when the known list has none such.
    pub(super) async fn member(&self, slot: u32, peer: &PeerId) -> Option<Contact> {
        let zone = self.layout()?.zone_of(slot);
        let of = |members: Arc<[Member]>| {
            members
                .iter()
                .find(|member| member.slot == slot && member.contact.peer == *peer)
                .map(|member| member.contact.clone())
        };
        if let Some(contact) = self.known(zone).and_then(of) {
            return Some(contact);
        }
        // However many strangers knock, the locator is asked only so often: one answer is for
        // all that came before it was asked for.
        let came = Instant::now();
        let _one = self.fetching[zone as usize % FETCHES].lock().await;
        let asked = self.read().lists.get(&zone).map(|list| list.asked);
        match asked {
            Some(asked) if asked >= came => return self.known(zone).and_then(of),
            Some(asked) => sleep_until((asked + ASK_AGAIN_AFTER).into()).await,
            None => {}
        }
        self.fetch(zone).await.and_then(of)
    }

    /// Asks for all known lists again, without a keep-alive that would tell which changed.
    pub(super) async fn catch_up_all(&self) {
        let zones = self.layout().map_or(0, |layout| layout.zones());
        // No list has version 0.
        self.catch_up(&vec![0; zones as usize]).await;
    }

    /// Brings the known lists up to the versions that a keep-alive told; whether all are now.
    pub(super) async fn catch_up(&self, versions: &[u64]) -> bool {
        let own = self
            .seat()
            .zip(self.layout())
            .map(|(slot, layout)| layout.zone_of(slot));
        let stale: Vec<u32> = {
            let mut state = self.write();
            state
                .lists
                .retain(|zone, list| Some(*zone) == own || list.used.elapsed() < UNUSED_FOR);
            let stale = state.lists.iter().filter(|(zone, list)| {
                versions
                    .get(**zone as usize)
                    .is_some_and(|version| *version != list.version)
            });
            let missing = own.filter(|own| !state.lists.contains_key(own));
            stale.map(|(zone, _)| *zone).chain(missing).collect()
        };
        let fetched = stream::iter(stale)
            .map(|zone| async move { self.fetch(zone).await.is_some() })
            .buffer_unordered(FETCHES);
        fetched.all(std::future::ready).await
    }
}
