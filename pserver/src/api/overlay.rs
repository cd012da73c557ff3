//! `/v1/overlay`: what this peer knows of its overlays, and bringing them in order.

use actix_web::{HttpResponse, web};
use vecino_rest::overlay::Overlays;

use super::{context::Worker, error::ApiError};

/// `GET /v1/overlay`.
pub async fn view(worker: web::Data<Worker>) -> web::Json<Overlays> {
    let views = worker
        .shared
        .strategies
        .iter()
        .filter_map(|strategy| strategy.view());
    web::Json(Overlays {
        overlays: views.collect(),
    })
}

/// `POST /v1/overlay/repair`: 204 when every overlay was brought in order.
pub async fn repair(worker: web::Data<Worker>) -> Result<HttpResponse, ApiError> {
    for strategy in &worker.shared.strategies {
        strategy.repair().await?;
    }
    Ok(HttpResponse::NoContent().finish())
}
