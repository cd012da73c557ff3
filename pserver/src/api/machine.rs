//! `/healthz`, `/readyz`, `/metrics`: for machines.

use std::collections::BTreeMap;

use actix_web::{HttpResponse, web};
use serde::Serialize;
use vecino_rest::Kind;

use super::{context::Worker, error::ApiError};

/// `GET /healthz`: alive.
pub async fn healthz() -> HttpResponse {
    HttpResponse::Ok().body("ok\n")
}

#[derive(Debug, Serialize)]
struct Readiness {
    ready: bool,
    parts: BTreeMap<&'static str, bool>,
}

/// `GET /readyz`: 200 when every part is ready, else 503 with the parts.
pub async fn readyz(worker: web::Data<Worker>) -> HttpResponse {
    let shared = &worker.shared;
    let importer = shared.store.importer();
    // What is there was looked at, and hashed.
    let files = importer.scanned() && importer.waiting() == 0;
    let mut parts = BTreeMap::from([("files", files)]);
    if shared.has_locator {
        // Others find what it shares.
        parts.insert("online", shared.presence.settled());
    }
    let ready = parts.values().all(|&ready| ready);
    let mut response = if ready {
        HttpResponse::Ok()
    } else {
        HttpResponse::ServiceUnavailable()
    };
    response.json(Readiness { ready, parts })
}

/// `GET /metrics`.
pub async fn metrics(worker: web::Data<Worker>) -> Result<HttpResponse, ApiError> {
    let shared = &worker.shared;
    let cached = shared.store.catalogue().fetched_bytes();
    let cached = i64::try_from(cached).unwrap_or(i64::MAX);
    shared.metrics.cache_bytes.set(cached);
    let text = shared.metrics.encode();
    let text = text.map_err(|error| ApiError::new(Kind::Internal, error.to_string()))?;
    Ok(HttpResponse::Ok()
        .content_type("application/openmetrics-text; version=1.0.0; charset=utf-8")
        .body(text))
}
