//! `vecino.v1.Accounts`: one method a verb.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use vecino_grpc::v1::{self, accounts_server::Accounts as Service};

use super::{directory::origin, request};
use crate::{
    account::Accounts,
    directory::Directory,
    metrics::{Metrics, count},
};

/// The service over the accounts.
pub(crate) struct AccountsService {
    accounts: Arc<Accounts>,
    directory: Arc<Directory>,
    metrics: Arc<Metrics>,
}

impl AccountsService {
    pub(crate) fn new(
        accounts: Arc<Accounts>,
        directory: Arc<Directory>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            accounts,
            directory,
            metrics,
        }
    }
}

#[tonic::async_trait]
impl Service for AccountsService {
    async fn login(
        &self,
        request: Request<v1::LoginRequest>,
    ) -> Result<Response<v1::LoginResponse>, Status> {
        let observed = origin(&request)?.ip()?;
        let token = async {
            let login = request::login(request.into_inner(), observed)?;
            Ok::<_, Status>(self.accounts.login(login).await?)
        };
        let token = token.await;
        count(&self.metrics.logins, &token);
        Ok(Response::new(v1::LoginResponse {
            session_token: token?.to_vec().into(),
            valid_seconds: u32::try_from(self.accounts.life().as_secs()).unwrap_or(u32::MAX),
        }))
    }

    async fn logout(
        &self,
        request: Request<v1::LogoutRequest>,
    ) -> Result<Response<v1::LogoutResponse>, Status> {
        let message = request.into_inner();
        let peer = request::peer_key(&message.peer_key)?.peer_id();
        self.accounts.logout(&peer, &message.session_token).await?;
        self.directory.expel(&peer).await?;
        Ok(Response::new(v1::LogoutResponse {}))
    }
}
