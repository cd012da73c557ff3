//! `ProductService/getResource`: the frozen contract of the first system.
//!
//! It knows found and not found only: a text that is no valid name is a name that nobody holds,
//! so it is answered with 404 like any other, never with a gRPC error.

use std::{sync::Arc, time::Instant};

use tonic::{Request, Response, Status};
use vecino_grpc::product_service::{
    Resource, TransactionResponse, product_service_server::ProductService,
};
use vecino_rest::{Name, frozen};

use crate::{
    directory::{self, Directory},
    metrics::{Lookup, Metrics, Outcome},
    store::Key,
};

const FOUND: i32 = 200;
const NOT_FOUND: i32 = 404;

/// The service over a directory.
pub(crate) struct Products {
    directory: Arc<Directory>,
    metrics: Arc<Metrics>,
}

impl Products {
    pub(crate) fn new(directory: Arc<Directory>, metrics: Arc<Metrics>) -> Self {
        Self { directory, metrics }
    }

    /// The URL of a live provider of any variant, each variant as likely as any other.
    async fn provider(&self, name: &str) -> Result<Option<String>, directory::Error> {
        let Ok(name) = Name::parse(name) else {
            return Ok(None);
        };
        let lookup = directory::Lookup {
            key: Key::Name(name),
            provider: None,
            max_providers: 1,
            // This contract knows whole files only.
            with_partial: false,
        };
        let mut variants = self.directory.locate(&lookup).await?;
        directory::choice::choose(&mut fastrand::Rng::new(), &mut variants, 1);
        let provider = variants
            .first()
            .and_then(|variant| variant.providers.first());
        Ok(provider.map(|provider| provider.url.clone()))
    }
}

#[tonic::async_trait]
impl ProductService for Products {
    async fn get_resource(
        &self,
        request: Request<Resource>,
    ) -> Result<Response<TransactionResponse>, Status> {
        let began = Instant::now();
        let provider = self.provider(&request.into_inner().resource_name).await;
        let outcome = match &provider {
            Ok(Some(_)) => Outcome::found,
            Ok(None) => Outcome::none,
            Err(_) => Outcome::error,
        };
        self.metrics
            .lookup(Lookup::legacy, outcome, began.elapsed());
        let (status_code, response) = match provider? {
            Some(url) => (FOUND, url),
            None => (NOT_FOUND, frozen::NOT_FOUND.to_owned()),
        };
        Ok(Response::new(TransactionResponse {
            status_code,
            response,
        }))
    }
}
