//! `/v1/blobs`: content by digest, for other peers and for any HTTP client.

use actix_web::{HttpRequest, HttpResponse, web};
use vecino_rest::{Digest, Kind, body::Pieces};

use super::{context::Worker, error::ApiError, respond};

fn digest(text: &str) -> Result<Digest, ApiError> {
    text.parse()
        .map_err(|error| ApiError::new(Kind::BadRequest, format!("{error}")))
}

fn not_held(digest: &Digest) -> ApiError {
    ApiError::new(Kind::NotFound, format!("this peer does not hold {digest}"))
}

/// `GET, HEAD /v1/blobs/DIGEST`.
pub async fn get(
    request: HttpRequest,
    path: web::Path<String>,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let digest = digest(&path)?;
    let store = &worker.shared.store;
    let entry = store
        .catalogue()
        .by_digest(&digest)
        .ok_or_else(|| not_held(&digest))?;
    let file = store.read(entry).await?.ok_or_else(|| not_held(&digest))?;
    let name = file.entry().name.clone();
    respond::file(&request, &name, file, &worker.shared.metrics)
}

/// `GET /v1/blobs/DIGEST/pieces`.
pub async fn pieces(
    path: web::Path<String>,
    worker: web::Data<Worker>,
) -> Result<web::Json<Pieces>, ApiError> {
    let digest = digest(&path)?;
    let pieces = worker.shared.store.pieces(digest).await?;
    pieces.map(web::Json).ok_or_else(|| not_held(&digest))
}
