//! Zones: who sits in which slot, for peers that find files without the directory.
//!
//! It checks what a peer says of itself and keeps time; [`table`] decides. Nothing here knows of
//! any file, and nothing is stored: peers that come back after a restart ask for the slot that
//! they had, and get it (see [`table`]).

pub mod table;

use std::{
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use vecino_rest::{PeerId, PeerKey, peer_url::InvalidPeerUrl, zone::ZoneLayout};

use self::table::{Applicant, Refused, Seat, Table, TokenHash};
use crate::{
    directory::{Clock, MAX_SITE_BYTES, Token, public_url::PublicUrl},
    metrics::Metrics,
};

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A URL cannot be used.
    #[error("{0} {1} that other peers can reach")]
    Url(&'static str, #[source] InvalidPeerUrl),
    /// The site cannot be used.
    #[error(
        "site has {0} bytes or control characters: expected at most {MAX_SITE_BYTES} bytes without them"
    )]
    Site(usize),
    /// No such zone.
    #[error("zone is {0}: expected 0 to {1}")]
    Zone(u32, u32),
    /// Who asks has no slot, or no longer.
    #[error("the lease token is unknown, stale or over: join again")]
    NoLease,
    /// No slot for it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// No randomness for a token.
    #[error("the system has no randomness: {0}")]
    Randomness(getrandom::Error),
}

/// A peer that wants a slot.
#[derive(Debug)]
pub struct Joining {
    /// Proves its id.
    pub key: PeerKey,
    /// Its REST.
    pub public_url: String,
    /// Its gRPC.
    pub overlay_url: String,
    /// Label of its place.
    pub site: String,
    /// The slot that it had.
    pub wanted: Option<u32>,
    /// From where the locator sees it.
    pub observed: IpAddr,
}

/// What a peer learns when it sits down.
#[derive(Debug)]
pub struct Seated {
    /// Its id.
    pub peer: PeerId,
    /// Needed to keep the slot.
    pub token: Token,
    /// Its slot.
    pub slot: u32,
}

/// The zones of a network.
#[derive(Debug)]
pub struct Zones {
    table: Mutex<Table>,
    clock: Clock,
}

impl Zones {
    /// An empty network.
    pub fn new(layout: ZoneLayout, lease: Duration) -> Self {
        let clock = Clock::default();
        // Versions of this start are beyond those of every earlier one, unless the clock of the
        // machine was set back; a list is then fetched once too seldom until the next change.
        let first_version = u64::try_from(clock.wall_ms()).unwrap_or_default() << 16;
        Self {
            table: Mutex::new(Table::new(layout, lease, first_version)),
            clock,
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Slots and zones.
    pub fn layout(&self) -> ZoneLayout {
        self.table().layout()
    }

    /// How long a slot is kept after the last keep-alive.
    pub fn lease(&self) -> Duration {
        self.table().lease()
    }

    /// Gives a peer a slot.
    pub fn join(&self, joining: Joining) -> Result<Seated, Error> {
        let Joining {
            key,
            public_url,
            overlay_url,
            site,
            wanted,
            observed,
        } = joining;
        if site.len() > MAX_SITE_BYTES || site.contains(char::is_control) {
            return Err(Error::Site(site.len()));
        }
        let url = |field, text: &str| {
            PublicUrl::parse(text, observed).map_err(|error| Error::Url(field, error))
        };
        let public = url("public_url", &public_url)?;
        let overlay = url("overlay_url", &overlay_url)?;
        let mut token = Token::default();
        getrandom::fill(&mut token).map_err(Error::Randomness)?;
        let peer = key.peer_id();
        let applicant = Applicant {
            seat: Seat {
                peer,
                url: public.text,
                overlay: overlay.text,
                site,
            },
            is_observed: overlay.is_observed,
            token: hash_of(&token),
            wanted,
        };
        let slot = self.table().join(applicant, self.clock.now())?;
        Ok(Seated { peer, token, slot })
    }

    /// Prolongs the lease of a slot; the version of the network, and those of its zones when
    /// that is not `known`.
    pub fn keep_alive(
        &self,
        peer: &PeerId,
        token: &Token,
        known: u64,
    ) -> Result<(u64, Vec<u64>), Error> {
        let mut table = self.table();
        if !table.keep_alive(peer, &hash_of(token), self.clock.now()) {
            return Err(Error::NoLease);
        }
        let version = table.version();
        let zones = match version == known {
            true => Vec::new(),
            false => table.zone_versions().to_vec(),
        };
        Ok((version, zones))
    }

    /// Frees a slot.
    pub fn leave(&self, peer: &PeerId, token: &Token) -> Result<(), Error> {
        let left = self.table().leave(peer, &hash_of(token), self.clock.now());
        left.then_some(()).ok_or(Error::NoLease)
    }

    /// Who sits in a zone, and the version of that list; nobody when that is `known`.
    pub fn members(&self, zone: u32, known: u64) -> Result<(u64, Vec<(u32, Seat)>), Error> {
        let mut table = self.table();
        let zones = table.layout().zones();
        if zone >= zones {
            return Err(Error::Zone(zone, zones - 1));
        }
        table.expire(self.clock.now());
        let version = table.zone_versions()[zone as usize];
        let members = match version == known {
            true => Vec::new(),
            false => table
                .members(zone)
                .map(|(slot, seat)| (slot, seat.clone()))
                .collect(),
        };
        Ok((version, members))
    }

    /// Brings the gauges up to date.
    pub fn measure(&self, metrics: &Metrics) {
        let mut table = self.table();
        table.expire(self.clock.now());
        metrics
            .zone_members
            .set(i64::try_from(table.taken()).unwrap_or(i64::MAX));
        metrics.zone_slots.set(table.layout().slots().into());
    }
}

fn hash_of(token: &Token) -> TokenHash {
    blake3::hash(token).into()
}
