//! Requests to the locators: one is asked at a time, the next one when that fails.
//!
//! What a locator sends is as hostile as anything else from outside: what does not parse is left
//! out, and a list that could not be one is an error. It is asked for zones only, never for what
//! is looked up.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use tokio::time::timeout;
use tonic::{Code, Status, transport::Channel};
use vecino_grpc::v1::{self, zones_client::ZonesClient};
use vecino_rest::{PeerId, PeerKey, PeerUrl, zone::ZoneLayout};

use super::network::Member;
use crate::{download::provider_url, locate::overlay::Contact};

/// How long a locator may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Bytes of a list of members: 1024 of them take a third of it.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// Longest lease that a locator may give.
const MAX_LEASE: Duration = Duration::from_secs(86_400);

/// A seat that a locator gave.
#[derive(Debug, Clone)]
pub(super) struct Lease {
    token: Vec<u8>,
    /// How long it lasts after a keep-alive.
    pub(super) duration: Duration,
    /// Where.
    pub(super) slot: u32,
    /// Of the network.
    pub(super) layout: ZoneLayout,
}

/// Who sits in a zone.
#[derive(Debug)]
pub(super) struct Listing {
    /// Of the list.
    pub(super) version: u64,
    /// By slot; `None` when the version is that of the request.
    pub(super) members: Option<Vec<Member>>,
    /// Of the network.
    pub(super) layout: ZoneLayout,
    /// Leases of the network.
    pub(super) lease: Duration,
}

/// What a keep-alive tells.
#[derive(Debug)]
pub(super) struct Changes {
    /// Of the network.
    pub(super) version: u64,
    /// Of each zone; empty when nothing changed.
    pub(super) zones: Vec<u64>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Registrar {
    locators: Vec<Channel>,
    /// The one that answered last.
    current: AtomicUsize,
}

impl Registrar {
    /// Asks these locators.
    pub(super) fn new(locators: Vec<Channel>) -> Self {
        Self {
            locators,
            current: AtomicUsize::new(0),
        }
    }

    /// Whether there is any to ask.
    pub(super) fn is_there(&self) -> bool {
        !self.locators.is_empty()
    }

    fn client(&self) -> Result<ZonesClient<Channel>, Status> {
        let current = self.current.load(Ordering::Relaxed);
        let channel = self.locators.get(current % self.locators.len().max(1));
        let channel = channel.ok_or_else(|| Status::unavailable("URL_Request is unset"))?;
        Ok(ZonesClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES))
    }

    async fn ask<T>(
        &self,
        answer: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, Status> {
        let answered = timeout(ANSWER_WITHIN, answer)
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
        if let Err(status) = &answered
            && is_failure(status.code())
        {
            self.current.fetch_add(1, Ordering::Relaxed);
        }
        answered.map(tonic::Response::into_inner)
    }

    /// Takes a slot; the one that it had before, where that is free.
    pub(super) async fn join(
        &self,
        key: &PeerKey,
        me: &Contact,
        slot: Option<u32>,
    ) -> Result<Lease, Status> {
        let request = v1::ZoneJoinRequest {
            peer_key: key.as_bytes().to_vec().into(),
            public_url: me.url.to_string(),
            overlay_url: me.overlay.to_string(),
            site: me.site.clone().unwrap_or_default(),
            slot,
        };
        let mut client = self.client()?;
        let joined = self.ask(client.join(request)).await?;
        let layout = layout(joined.slots, joined.zones)?;
        if joined.slot >= layout.slots() {
            return Err(nonsense("a slot that the network does not have"));
        }
        Ok(Lease {
            token: joined.lease_token.to_vec(),
            duration: lease(joined.lease_seconds),
            slot: joined.slot,
            layout,
        })
    }

    /// Prolongs a lease.
    pub(super) async fn keep_alive(
        &self,
        me: &PeerId,
        lease: &Lease,
        version: u64,
    ) -> Result<Changes, Status> {
        let request = v1::ZoneKeepAliveRequest {
            peer_id: me.as_bytes().to_vec().into(),
            lease_token: lease.token.clone().into(),
            version,
        };
        let mut client = self.client()?;
        let kept = self.ask(client.keep_alive(request)).await?;
        let zones = kept.zone_versions;
        if !zones.is_empty() && zones.len() != lease.layout.zones() as usize {
            return Err(nonsense("versions of another number of zones"));
        }
        Ok(Changes {
            version: kept.version,
            zones,
        })
    }

    /// Gives a slot back.
    pub(super) async fn leave(&self, me: &PeerId, lease: &Lease) -> Result<(), Status> {
        let request = v1::ZoneLeaveRequest {
            peer_id: me.as_bytes().to_vec().into(),
            lease_token: lease.token.clone().into(),
        };
        let mut client = self.client()?;
        self.ask(client.leave(request)).await.map(|_| ())
    }

    /// Who sits in a zone, unless that list is the `known` one.
    pub(super) async fn members(&self, zone: u32, known: u64) -> Result<Listing, Status> {
        let request = v1::ZoneMembersRequest {
            zone,
            version: known,
        };
        let mut client = self.client()?;
        let listed = self.ask(client.members(request)).await?;
        let layout = layout(listed.slots, listed.zones)?;
        let unchanged = known != 0 && listed.version == known;
        let members = (!unchanged).then(|| members(listed.members, layout, zone));
        Ok(Listing {
            version: listed.version,
            members: members.transpose()?,
            layout,
            lease: lease(listed.lease_seconds),
        })
    }
}

/// Whether the locator failed, rather than refused.
pub(super) fn is_failure(code: Code) -> bool {
    !matches!(
        code,
        Code::InvalidArgument | Code::Unauthenticated | Code::ResourceExhausted
    )
}

fn nonsense(what: &str) -> Status {
    Status::internal(format!("the locator told of {what}"))
}

fn layout(slots: u32, zones: u32) -> Result<ZoneLayout, Status> {
    ZoneLayout::new(slots, zones).ok_or_else(|| nonsense("a network that cannot be"))
}

fn lease(seconds: u32) -> Duration {
    Duration::from_secs(seconds.max(1).into()).min(MAX_LEASE)
}

fn members(
    listed: Vec<v1::ZoneMember>,
    layout: ZoneLayout,
    zone: u32,
) -> Result<Vec<Member>, Status> {
    let slots = match zone < layout.zones() {
        true => layout.slots_of(zone),
        false => 0..0,
    };
    let mut seen = BTreeSet::new();
    let mut members = Vec::new();
    for member in listed {
        if !slots.contains(&member.slot) || !seen.insert(member.slot) {
            return Err(nonsense("a member in a slot that cannot be its own"));
        }
        members.extend(parse(member));
    }
    members.sort_by_key(|member: &Member| member.slot);
    Ok(members)
}

fn parse(member: v1::ZoneMember) -> Option<Member> {
    let url = |text: &str| -> Option<PeerUrl> { provider_url::parse(text).ok() };
    Some(Member {
        slot: member.slot,
        contact: Contact {
            peer: PeerId::from_slice(&member.peer_id)?,
            overlay: url(&member.overlay_url)?,
            url: url(&member.url)?,
            site: (!member.site.is_empty()).then_some(member.site),
        },
    })
}
