//! A member that has a slot, answers at its address, and says what it likes.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{net::TcpListener, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};
use vecino_grpc::v1::{
    self,
    zone_server::{Zone, ZoneServer},
    zones_client::ZonesClient,
};
use vecino_rest::{PeerId, PeerKey};

use crate::support::{soon, stage::Stage};

/// What it says to whoever looks something up.
#[derive(Debug, Clone)]
pub(super) enum Says {
    /// This.
    Variants(Vec<v1::Variant>),
    /// Nothing, ever.
    Nothing,
}

#[derive(Clone)]
struct Mouth {
    says: Arc<Mutex<Says>>,
}

#[tonic::async_trait]
impl Zone for Mouth {
    async fn put(
        &self,
        _: Request<v1::ZonePutRequest>,
    ) -> Result<Response<v1::ZonePutResponse>, Status> {
        Err(Status::resource_exhausted("no room"))
    }

    async fn withdraw(
        &self,
        _: Request<v1::ZoneWithdrawRequest>,
    ) -> Result<Response<v1::ZonePutResponse>, Status> {
        Err(Status::internal("no"))
    }

    async fn refresh(
        &self,
        _: Request<v1::ZoneRefreshRequest>,
    ) -> Result<Response<v1::ZoneRefreshResponse>, Status> {
        Err(Status::internal("no"))
    }

    async fn find(
        &self,
        _: Request<v1::ZoneFindRequest>,
    ) -> Result<Response<v1::ZoneFindResponse>, Status> {
        let says = self.says.lock().expect("whole").clone();
        match says {
            Says::Variants(variants) => Ok(Response::new(v1::ZoneFindResponse { variants })),
            Says::Nothing => {
                tokio::time::sleep(Duration::from_secs(600)).await;
                Err(Status::unavailable("at last"))
            }
        }
    }

    async fn confirm(
        &self,
        _: Request<v1::ZoneConfirmRequest>,
    ) -> Result<Response<v1::ZoneConfirmResponse>, Status> {
        Ok(Response::new(v1::ZoneConfirmResponse { given: true }))
    }
}

/// See the module.
pub(super) struct Liar {
    pub(super) peer: PeerId,
    pub(super) slot: u32,
    pub(super) slots: u32,
    serving: JoinHandle<()>,
}

impl Liar {
    pub(super) async fn join(stage: &Stage, says: Says) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr: SocketAddr = listener.local_addr().expect("bound");
        let says = Arc::new(Mutex::new(says));
        let service = ZoneServer::new(Mouth { says });
        let serving = Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        let serving = tokio::spawn(async move { serving.await.expect("serves") });
        let locator = format!("http://{}", stage.locator_addr);
        let mut zones = ZonesClient::connect(locator).await.expect("connects");
        let key = PeerKey::from_bytes(rand::random());
        let request = v1::ZoneJoinRequest {
            peer_key: key.as_bytes().to_vec().into(),
            public_url: "http://127.0.0.1:9".into(),
            overlay_url: format!("http://{addr}"),
            ..Default::default()
        };
        let joined = soon(zones.join(request)).await.expect("joins").into_inner();
        Self {
            peer: key.peer_id(),
            slot: joined.slot,
            slots: joined.slots,
            serving,
        }
    }

    /// As it names itself to others.
    pub(super) fn sender(&self) -> v1::ZoneSender {
        v1::ZoneSender {
            peer_id: self.peer.as_bytes().to_vec().into(),
            slot: self.slot,
            pass: vec![5; 32].into(),
            slots: self.slots,
        }
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
