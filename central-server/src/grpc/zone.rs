//! `vecino.v1.Zones`: one method a verb.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use vecino_grpc::v1::{self, zones_server::Zones as Service};

use super::{directory::origin, request};
use crate::{
    metrics::{Metrics, count},
    zone::{Zones, table::Seat},
};

/// The service over the zones.
pub(crate) struct ZonesService {
    zones: Arc<Zones>,
    metrics: Arc<Metrics>,
}

impl ZonesService {
    pub(crate) fn new(zones: Arc<Zones>, metrics: Arc<Metrics>) -> Self {
        Self { zones, metrics }
    }

    fn lease_seconds(&self) -> u32 {
        u32::try_from(self.zones.lease().as_secs().max(1)).unwrap_or(u32::MAX)
    }
}

fn member((slot, seat): (u32, Seat)) -> v1::ZoneMember {
    v1::ZoneMember {
        slot,
        peer_id: seat.peer.as_bytes().to_vec().into(),
        url: seat.url,
        overlay_url: seat.overlay,
        site: seat.site,
    }
}

#[tonic::async_trait]
impl Service for ZonesService {
    async fn join(
        &self,
        request: Request<v1::ZoneJoinRequest>,
    ) -> Result<Response<v1::ZoneJoinResponse>, Status> {
        let observed = origin(&request)?.ip()?;
        let joining = request::joining(request.into_inner(), observed);
        let seated = joining
            .map_err(Status::from)
            .and_then(|joining| Ok(self.zones.join(joining)?));
        count(&self.metrics.zone_joins, &seated);
        let (seated, layout) = (seated?, self.zones.layout());
        log::debug!("peer {} sits in slot {}", seated.peer, seated.slot);
        Ok(Response::new(v1::ZoneJoinResponse {
            peer_id: seated.peer.as_bytes().to_vec().into(),
            lease_token: seated.token.to_vec().into(),
            lease_seconds: self.lease_seconds(),
            slot: seated.slot,
            zone: layout.zone_of(seated.slot),
            slots: layout.slots(),
            zones: layout.zones(),
        }))
    }

    async fn keep_alive(
        &self,
        request: Request<v1::ZoneKeepAliveRequest>,
    ) -> Result<Response<v1::ZoneKeepAliveResponse>, Status> {
        let message = request.into_inner();
        let who = request::credentials(&message.peer_id, &message.lease_token)?;
        let kept = self
            .zones
            .keep_alive(&who.peer, &who.token, message.version);
        count(&self.metrics.zone_keepalives, &kept);
        let (version, zone_versions) = kept?;
        Ok(Response::new(v1::ZoneKeepAliveResponse {
            lease_seconds: self.lease_seconds(),
            version,
            zone_versions,
        }))
    }

    async fn leave(
        &self,
        request: Request<v1::ZoneLeaveRequest>,
    ) -> Result<Response<v1::ZoneLeaveResponse>, Status> {
        let message = request.into_inner();
        let who = request::credentials(&message.peer_id, &message.lease_token)?;
        self.zones.leave(&who.peer, &who.token)?;
        Ok(Response::new(v1::ZoneLeaveResponse {}))
    }

    async fn members(
        &self,
        request: Request<v1::ZoneMembersRequest>,
    ) -> Result<Response<v1::ZoneMembersResponse>, Status> {
        let v1::ZoneMembersRequest { zone, version } = request.into_inner();
        let (version, members) = self.zones.members(zone, version)?;
        let layout = self.zones.layout();
        Ok(Response::new(v1::ZoneMembersResponse {
            version,
            members: members.into_iter().map(member).collect(),
            slots: layout.slots(),
            zones: layout.zones(),
            lease_seconds: self.lease_seconds(),
        }))
    }
}
