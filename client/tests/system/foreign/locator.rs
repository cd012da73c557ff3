//! A locator of the first system: `getResource`, and UNIMPLEMENTED for everything else.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};
use vecino_grpc::product_service::{
    Resource, TransactionResponse,
    product_service_server::{ProductService, ProductServiceServer},
};

use crate::cluster::{spawn, wait};

#[derive(Clone, Default)]
struct Table {
    urls: Arc<HashMap<String, String>>,
    asked: Arc<Mutex<Vec<String>>>,
}

/// See the module.
pub(crate) struct ForeignLocator {
    addr: SocketAddr,
    table: Table,
}

impl ForeignLocator {
    /// Knows that `name` is at `http://addr`, for each.
    pub(crate) fn start(known: &[(&str, SocketAddr)]) -> Self {
        let urls = known
            .iter()
            .map(|(name, addr)| ((*name).to_owned(), format!("http://{addr}")));
        let table = Table {
            urls: Arc::new(urls.collect()),
            asked: Arc::default(),
        };
        let bound = wait(async { TcpIncoming::bind(([127, 0, 0, 1], 0).into()) });
        let incoming = bound.unwrap();
        let addr = incoming.local_addr().unwrap();
        let service = ProductServiceServer::new(table.clone());
        spawn(async move {
            let server = Server::builder().add_service(service);
            server.serve_with_incoming(incoming).await.unwrap();
        });
        Self { addr, table }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The names it was asked for.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.table.asked.lock().unwrap().clone()
    }
}

#[tonic::async_trait]
impl ProductService for Table {
    async fn get_resource(
        &self,
        request: Request<Resource>,
    ) -> Result<Response<TransactionResponse>, Status> {
        let name = request.into_inner().resource_name;
        let (status_code, response) = match self.urls.get(&name) {
            Some(url) => (200, url.clone()),
            None => (404, "404".to_owned()),
        };
        self.asked.lock().unwrap().push(name);
        Ok(Response::new(TransactionResponse {
            status_code,
            response,
        }))
    }
}
