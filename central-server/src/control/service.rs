//! `vecino.v1.Control`: one method a command.

use std::{path::Path, sync::Arc};

use futures_util::{StreamExt as _, stream, stream::BoxStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use vecino_grpc::v1::{self, control_server::Control as Service};
use vecino_rest::{UserName, user::check_password};

use super::Control;
use crate::{
    account::{self, ManageError},
    archive::{ArchiveError, export},
    directory::Clock,
    store::{PeerState, StoreError},
};

/// Chunks of an export that wait for who takes it.
const CHUNKS: usize = 4;

/// The service.
#[derive(Clone)]
pub(super) struct ControlService(pub(super) Arc<Control>);

fn user(text: &str) -> Result<UserName, Status> {
    UserName::parse(text).map_err(|error| Status::invalid_argument(error.to_string()))
}

impl ControlService {
    async fn hash(&self, password: String) -> Result<String, Status> {
        check_password(&password).map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(self.0.accounts.hash(password).await?)
    }

    /// The sessions of a changed account are over: so are the leases that came of them.
    async fn expel(&self, user: &UserName) -> Result<(), Status> {
        let expelled = self.0.directory.expel_user(user).await?;
        if expelled > 0 {
            log::info!("{expelled} peers of user {user:?} are out");
        }
        Ok(())
    }
}

/// Does it to its end, whether or not the command still waits for it.
async fn to_the_end(
    change: impl Future<Output = Result<(), Status>> + Send + 'static,
) -> Result<(), Status> {
    let done = tokio::spawn(change).await;
    done.unwrap_or_else(|_| Err(Status::internal("interrupted")))
}

/// The operator may know what exactly failed.
fn told(error: &StoreError) -> Status {
    Status::unavailable(error.to_string())
}

#[tonic::async_trait]
impl Service for ControlService {
    type PeersStream = BoxStream<'static, Result<v1::PeerInfo, Status>>;
    type ListAccountsStream = BoxStream<'static, Result<v1::AccountInfo, Status>>;
    type ExportStream = BoxStream<'static, Result<v1::ExportChunk, Status>>;

    async fn status(
        &self,
        _: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        let Control {
            store,
            store_url,
            directory,
            accounts,
            metrics,
            started,
        } = &*self.0;
        directory.measure();
        let counts = store.counts();
        let gauge = |value: i64| u64::try_from(value).unwrap_or_default();
        Ok(Response::new(v1::StatusResponse {
            version: env!("CARGO_PKG_VERSION").into(),
            uptime_seconds: started.elapsed().as_secs(),
            store: store_url.to_string(),
            store_bytes: store.size_bytes(),
            store_fault: store.fault().map(|f| f.to_string()).unwrap_or_default(),
            queue: gauge(metrics.store.queue_depth.get()),
            peers: counts.peers,
            leases: gauge(metrics.leases_live.get()),
            resources: counts.resources,
            records: counts.records,
            partial_records: gauge(metrics.partial_records.get()),
            accounts: accounts.policy().to_string(),
        }))
    }

    async fn peers(
        &self,
        _: Request<v1::PeersRequest>,
    ) -> Result<Response<Self::PeersStream>, Status> {
        let peers = self.0.store.peers().await.map_err(|error| told(&error))?;
        let directory = self.0.directory.clone();
        let infos = peers.into_iter().map(move |(_, row)| {
            Ok(v1::PeerInfo {
                live: directory.is_live(&row.id),
                peer_id: row.id.to_string(),
                url: row.url,
                site: row.site,
                user: row.session.map(|s| s.user.to_string()).unwrap_or_default(),
                lapsed_ms: match row.state {
                    PeerState::Present => 0,
                    PeerState::Lapsed(at_ms) => at_ms,
                },
            })
        });
        Ok(Response::new(stream::iter(infos).boxed()))
    }

    async fn add_account(
        &self,
        request: Request<v1::AddAccountRequest>,
    ) -> Result<Response<v1::AddAccountResponse>, Status> {
        let message = request.into_inner();
        let user = user(&message.user)?;
        let hash = self.hash(message.password).await?;
        let now_ms = Clock::default().wall_ms();
        account::add(&*self.0.store, user, hash, now_ms).await?;
        Ok(Response::new(v1::AddAccountResponse {}))
    }

    async fn set_password(
        &self,
        request: Request<v1::SetPasswordRequest>,
    ) -> Result<Response<v1::SetPasswordResponse>, Status> {
        let message = request.into_inner();
        let user = user(&message.user)?;
        let hash = self.hash(message.password).await?;
        let service = self.clone();
        to_the_end(async move {
            account::set_password(&*service.0.store, user.clone(), hash).await?;
            service.expel(&user).await
        })
        .await?;
        Ok(Response::new(v1::SetPasswordResponse {}))
    }

    async fn remove_account(
        &self,
        request: Request<v1::RemoveAccountRequest>,
    ) -> Result<Response<v1::RemoveAccountResponse>, Status> {
        let user = user(&request.into_inner().user)?;
        let service = self.clone();
        to_the_end(async move {
            let removed = account::remove(&*service.0.store, user.clone()).await;
            // Where an earlier removal broke off, some of its peers may still be there.
            if matches!(removed, Ok(()) | Err(ManageError::Unknown(_))) {
                service.expel(&user).await?;
            }
            Ok(removed?)
        })
        .await?;
        Ok(Response::new(v1::RemoveAccountResponse {}))
    }

    async fn list_accounts(
        &self,
        _: Request<v1::ListAccountsRequest>,
    ) -> Result<Response<Self::ListAccountsStream>, Status> {
        let store = self.0.store.clone();
        let pages = stream::try_unfold(None, move |after: Option<UserName>| {
            let store = store.clone();
            async move {
                let page = account::list(&*store, after.as_ref()).await;
                let page = page.map_err(|error| told(&error))?;
                let last = page.last().map(|account| account.user.clone());
                Ok(last.map(|last| (page, Some(last))))
            }
        });
        let accounts = pages.flat_map(|page: Result<_, Status>| {
            let (page, error) = match page {
                Ok(page) => (page, None),
                Err(error) => (Vec::new(), Some(Err(error))),
            };
            let infos = page.into_iter().map(|account: crate::store::Account| {
                Ok(v1::AccountInfo {
                    user: account.user.to_string(),
                    created_ms: account.created_ms,
                })
            });
            stream::iter(infos.chain(error))
        });
        Ok(Response::new(accounts.boxed()))
    }

    async fn export(
        &self,
        _: Request<v1::ExportRequest>,
    ) -> Result<Response<Self::ExportStream>, Status> {
        let (sender, receiver) = mpsc::channel(CHUNKS);
        let store = self.0.store.clone();
        // Ends when the other end is gone.
        tokio::spawn(async move {
            let chunks = Arc::new(sender.clone());
            let exported = export(&*store, move |lines| {
                let chunks = chunks.clone();
                async move { chunks.send(Ok(v1::ExportChunk { lines })).await.is_ok() }
            });
            match exported.await {
                Ok(()) | Err(ArchiveError::Gone) => {}
                Err(error) => {
                    // It is told, unless nobody is there any more.
                    let _ = sender
                        .send(Err(Status::unavailable(error.to_string())))
                        .await;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver).boxed()))
    }

    async fn backup(
        &self,
        request: Request<v1::BackupRequest>,
    ) -> Result<Response<v1::BackupResponse>, Status> {
        let file = request.into_inner().file;
        if !Path::new(&file).is_absolute() {
            return Err(Status::invalid_argument(format!(
                "file {file:?} is not valid: expected an absolute path"
            )));
        }
        let made = self.0.store.backup(Path::new(&file)).await;
        made.map_err(|error| told(&error))?;
        log::info!("a backup was written to {file:?}");
        Ok(Response::new(v1::BackupResponse {}))
    }
}
