//! `/healthz`, `/readyz`, `/metrics`: for machines.

use actix_web::{HttpResponse, web};
use vecino_rest::{Kind, body::Origin, doctor::Readiness};

use super::{
    context::{Shared, Worker},
    error::ApiError,
};

/// `GET /healthz`: alive.
pub async fn healthz() -> HttpResponse {
    HttpResponse::Ok().body("ok\n")
}

/// `GET /readyz`: 200 when every part is ready, else 503 with what is not, and why.
pub async fn readyz(worker: web::Data<Worker>) -> HttpResponse {
    let doctor = &worker.shared.doctor;
    let online = doctor.online().map(|online| ("online", online));
    let readiness = Readiness::of([("files", doctor.files())].into_iter().chain(online));
    let mut response = if readiness.ready {
        HttpResponse::Ok()
    } else {
        HttpResponse::ServiceUnavailable()
    };
    response.json(readiness)
}

/// `GET /metrics`.
pub async fn metrics(worker: web::Data<Worker>) -> Result<HttpResponse, ApiError> {
    let shared = &worker.shared;
    measure(shared);
    let text = shared.metrics.encode();
    let text = text.map_err(|error| ApiError::new(Kind::Internal, error.to_string()))?;
    Ok(HttpResponse::Ok()
        .content_type("application/openmetrics-text; version=1.0.0; charset=utf-8")
        .body(text))
}

/// What is looked at only when somebody asks.
fn measure(shared: &Shared) {
    let (store, metrics) = (&shared.store, &shared.metrics);
    let (files, catalogue) = (store.counts(), store.catalogue());
    let unannounced = catalogue.progress().behind(catalogue.changes());
    let level = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    metrics.cache_bytes.set(level(catalogue.fetched_bytes()));
    metrics.online.set(shared.presence.online().into());
    metrics
        .records_announced
        .set(level(shared.presence.announced()));
    metrics.unannounced_changes.set(level(unannounced));
    metrics.files_waiting.set(level(files.hashing));
    metrics.index_failing.set(store.is_index_failing().into());
    for (origin, held) in [
        (Origin::Shared, files.shared),
        (Origin::Fetched, files.fetched),
    ] {
        let directory = origin.into();
        metrics.files.get_or_create(&directory).set(level(held));
        metrics
            .disk_free_bytes
            .get_or_create(&directory)
            .set(level(store.free_bytes(origin)));
    }
}
