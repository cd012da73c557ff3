//! `/v1/neighbour`: what this peer does for those whose neighbour it is.

use actix_web::web;
use vecino_rest::{
    Kind,
    body::{LocateQuery, Located, PlaceQuery, Placed, SearchPage, SearchQuery},
};

use super::{context::Worker, error::ApiError, request};

/// Most peers that can be asked for to take a copy.
const MAX_PLACES: u32 = 16;

/// `POST /v1/neighbour/locate`.
pub async fn locate(
    mut payload: web::Payload,
    worker: web::Data<Worker>,
) -> Result<web::Json<Located>, ApiError> {
    let query: LocateQuery =
        request::json(&mut payload, r#"{"name": NAME} or {"digest": DIGEST}"#).await?;
    if query.name.is_some() == query.digest.is_some() {
        return Err(ApiError::new(
            Kind::BadRequest,
            "give either name or digest",
        ));
    }
    let variants = worker.shared.inbound.locate(query).await?;
    Ok(web::Json(Located {
        variants: variants.to_vec(),
    }))
}

/// `POST /v1/neighbour/search`.
pub async fn search(
    mut payload: web::Payload,
    worker: web::Data<Worker>,
) -> Result<web::Json<SearchPage>, ApiError> {
    let query: SearchQuery = request::json(&mut payload, r#"{"q": WORDS, "type"?: TYPE}"#).await?;
    request::limit(query.limit)?;
    Ok(web::Json(worker.shared.inbound.search(&query).await?))
}

/// `POST /v1/neighbour/place`.
pub async fn place(
    mut payload: web::Payload,
    worker: web::Data<Worker>,
) -> Result<web::Json<Placed>, ApiError> {
    let query: PlaceQuery =
        request::json(&mut payload, r#"{"size": BYTES, "count": NUMBER}"#).await?;
    if !(1..=MAX_PLACES).contains(&query.count) {
        return Err(ApiError::new(
            Kind::BadRequest,
            format!("count={}: expected 1 to {MAX_PLACES}", query.count),
        ));
    }
    let mut peers = worker.shared.inbound.place(query.size).await?;
    peers.truncate(query.count as usize);
    Ok(web::Json(Placed { peers }))
}
