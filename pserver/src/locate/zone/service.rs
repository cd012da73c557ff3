//! `vecino.v1.Zone`: what this member does for others. It translates and refuses; [`super::kept`]
//! keeps the records and [`super::trust`] says whose they are.

use std::{sync::Arc, time::Instant};

use tonic::{Request, Response, Status};
use vecino_grpc::v1::{self, zone_server::Zone as Service};
use vecino_rest::{Name, PeerId, zone::ZoneLayout};

use super::{Node, convert, fingerprint::Fingerprint, trust};
use crate::locate::overlay::Contact;

/// Bytes of a message, either way: 1024 records with the longest names, or an answer with as many
/// providers as a name may have.
pub(super) const MAX_MESSAGE_BYTES: usize = 2 << 20;
/// Slots in one refresh: all there may be.
const MAX_REFRESHED: usize = vecino_rest::zone::MAX_SLOTS as usize;

/// The service of a member.
#[derive(Debug)]
pub(super) struct ZoneService(pub(super) Arc<Node>);

impl ZoneService {
    async fn verify(
        &self,
        sender: Option<v1::ZoneSender>,
    ) -> Result<(Contact, ZoneLayout), Status> {
        let node = &self.0;
        let contact = node
            .trust
            .verify(sender, &node.network, &node.peers)
            .await?;
        let layout = node.network.layout();
        Ok((contact, layout.expect("verifying needs a layout")))
    }
}

fn in_network(slot: u32, layout: ZoneLayout) -> Result<(), Status> {
    let slots = layout.slots();
    let wrong = || Status::invalid_argument(format!("slot is {slot}: expected less than {slots}"));
    (slot < slots).then_some(()).ok_or_else(wrong)
}

fn answer(fingerprint: Fingerprint) -> Response<v1::ZonePutResponse> {
    Response::new(v1::ZonePutResponse {
        fingerprint: fingerprint.to_bytes().to_vec().into(),
    })
}

#[tonic::async_trait]
impl Service for ZoneService {
    async fn put(
        &self,
        request: Request<v1::ZonePutRequest>,
    ) -> Result<Response<v1::ZonePutResponse>, Status> {
        let request = request.into_inner();
        let (sender, layout) = self.verify(request.sender).await?;
        in_network(request.slot, layout)?;
        let records = convert::records(request.records, request.slot, layout)?;
        let life = self.0.network.timing().life;
        let mut kept = self.0.kept();
        if request.reset {
            kept.clear(&sender.peer, request.slot);
        }
        let now = Instant::now();
        Ok(answer(kept.put(&sender, request.slot, records, now, life)))
    }

    async fn withdraw(
        &self,
        request: Request<v1::ZoneWithdrawRequest>,
    ) -> Result<Response<v1::ZonePutResponse>, Status> {
        let request = request.into_inner();
        let (sender, layout) = self.verify(request.sender).await?;
        in_network(request.slot, layout)?;
        let records = convert::records(request.records, request.slot, layout)?;
        let mut kept = self.0.kept();
        if request.all {
            kept.clear(&sender.peer, request.slot);
        }
        let gone = records.into_iter().map(|gone| (gone.name, gone.digest));
        Ok(answer(kept.withdraw(&sender.peer, request.slot, gone)))
    }

    async fn refresh(
        &self,
        request: Request<v1::ZoneRefreshRequest>,
    ) -> Result<Response<v1::ZoneRefreshResponse>, Status> {
        let request = request.into_inner();
        let (slots, prints) = (request.slots, request.fingerprints);
        if slots.len() > MAX_REFRESHED || prints.len() != slots.len() * Fingerprint::LEN {
            return Err(Status::invalid_argument(format!(
                "{} slots and {} bytes of fingerprints: expected 16 bytes for each of at most \
                 {MAX_REFRESHED}",
                slots.len(),
                prints.len()
            )));
        }
        let (sender, _) = self.verify(request.sender).await?;
        let prints = prints
            .chunks_exact(Fingerprint::LEN)
            .filter_map(Fingerprint::from_slice);
        let life = self.0.network.timing().life;
        let slots = slots.into_iter().zip(prints);
        let now = Instant::now();
        let differing = self.0.kept().refresh(&sender, slots, now, life);
        Ok(Response::new(v1::ZoneRefreshResponse { differing }))
    }

    async fn find(
        &self,
        request: Request<v1::ZoneFindRequest>,
    ) -> Result<Response<v1::ZoneFindResponse>, Status> {
        self.0.metrics.zone_asked.inc();
        let name = Name::parse(&request.into_inner().name)
            .map_err(|fault| Status::invalid_argument(format!("name: {fault}")))?;
        let variants = self.0.kept().find(&name, Instant::now());
        Ok(Response::new(v1::ZoneFindResponse {
            variants: convert::found(variants),
        }))
    }

    async fn confirm(
        &self,
        request: Request<v1::ZoneConfirmRequest>,
    ) -> Result<Response<v1::ZoneConfirmResponse>, Status> {
        let request = request.into_inner();
        let receiver = PeerId::from_slice(&request.receiver)
            .ok_or_else(|| Status::invalid_argument("receiver: expected 16 bytes"))?;
        let pass = trust::Pass::try_from(&*request.pass)
            .map_err(|_| Status::invalid_argument("pass: expected 32 bytes"))?;
        let given = self.0.peers.gave(&receiver, &pass);
        Ok(Response::new(v1::ZoneConfirmResponse { given }))
    }
}
