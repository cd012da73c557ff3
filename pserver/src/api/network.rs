//! `/v1/search`, `/v1/locate`, `/v1/peers`, `/v1/status`, `/v1/doctor`: what the own peer tells of the network
//! and of itself.

use actix_web::{HttpRequest, web};
use vecino_rest::{
    Kind, Name,
    body::{LocateQuery, Located, Page, Peer, SearchPage, SearchQuery, Status, Transfers},
    doctor::Diagnosis,
    route,
};

use super::{context::Worker, error::ApiError, request};
use crate::{
    locate::{StrategyKind, flood::Flood},
    neighbour::outbound::OutboundError,
};

/// `GET /v1/search`.
pub async fn search(
    request: HttpRequest,
    worker: web::Data<Worker>,
) -> Result<web::Json<SearchPage>, ApiError> {
    let query: SearchQuery = request::query(&request)?;
    request::limit(query.limit)?;
    let by_words = !query.q.trim().is_empty() || query.file_type.is_some();
    let by_prefix = query
        .prefix
        .as_ref()
        .is_some_and(|prefix| !prefix.is_empty());
    if by_words == by_prefix {
        return Err(ApiError::new(
            Kind::BadRequest,
            if by_words {
                "prefix is given together with q or type: give one or the other"
            } else {
                "nothing to search for: give q, type, or both, or prefix"
            },
        ));
    }
    let local = worker.shared.flood().filter(|flood| flood.has_discovered());
    let is_first = worker
        .shared
        .strategies
        .first()
        .is_some_and(|strategy| strategy.kind() == StrategyKind::Flood);
    // What this peer itself discovered needs nobody else.
    if let Some(flood) = local.filter(|_| is_first) {
        return Ok(web::Json(flood.search_discovered(&query)?));
    }
    match (worker.fetcher.outbound.search(&query).await, local) {
        (Ok(page), _) => Ok(web::Json(page)),
        (Err(error @ OutboundError::BadQuery(_)), _) | (Err(error), None) => Err(error.into()),
        (Err(_), Some(flood)) => Ok(web::Json(flood.search_discovered(&query)?)),
    }
}

/// `GET /v1/locate/NAME`.
pub async fn locate(
    request: HttpRequest,
    worker: web::Data<Worker>,
) -> Result<web::Json<Located>, ApiError> {
    let name: Name = request::name_after(&request, route::LOCATE)?;
    let query = LocateQuery {
        name: Some(name.clone()),
        digest: None,
        provider: None,
        fresh: false,
    };
    let variants = worker.fetcher.lookup(&query).await?;
    if variants.is_empty() {
        return Err(ApiError::new(
            Kind::NotFound,
            format!("nobody shares {name:?}"),
        ));
    }
    Ok(web::Json(Located { variants }))
}

async fn neighbours(worker: &Worker) -> Vec<Peer> {
    worker
        .fetcher
        .outbound
        .probed()
        .await
        .iter()
        .map(|link| link.to_body())
        .collect()
}

/// `GET /v1/peers`.
pub async fn peers(worker: web::Data<Worker>) -> web::Json<Page<Peer>> {
    let mut items = neighbours(&worker).await;
    items.extend(worker.shared.flood().into_iter().flat_map(Flood::links));
    web::Json(Page {
        items,
        next_cursor: None,
    })
}

/// `GET /v1/status`.
pub async fn status(worker: web::Data<Worker>) -> web::Json<Status> {
    let shared = &worker.shared;
    let mut files = shared.store.counts();
    let is_joined = shared.in_overlay();
    let is_registered = shared.presence.online();
    files.announced = match is_joined && !is_registered {
        true => files.shared + files.fetched,
        false => shared.presence.announced(),
    };
    let is_online = is_registered || is_joined;
    let needs_locator = !shared.has_locator
        && shared
            .strategies
            .iter()
            .all(|strategy| strategy.kind() == StrategyKind::Central);
    web::Json(Status {
        peer: shared.peer,
        url: shared.presence.url().map(|url| url.to_string()),
        site: shared.site.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_seconds: shared.started.elapsed().as_secs(),
        online: is_online,
        offline_reason: match needs_locator {
            _ if is_online => None,
            true => Some("URL_Request is unset".to_owned()),
            false => shared.account.offline_reason(),
        },
        session: shared.account.session(),
        reach: shared.checkup.reach(),
        strategies: shared
            .strategies
            .iter()
            .map(|strategy| strategy.kind().as_str().to_owned())
            .collect(),
        neighbours: neighbours(&worker).await,
        files,
        transfers: Transfers {
            downloads: shared.downloads.running() as u64,
            uploads: u64::try_from(shared.metrics.uploads.get()).unwrap_or_default(),
            bytes_received: shared.metrics.bytes_received.get(),
            bytes_sent: shared.metrics.bytes_sent.get(),
        },
    })
}

/// `GET /v1/doctor`.
pub async fn doctor(worker: web::Data<Worker>) -> web::Json<Diagnosis> {
    let shared = &worker.shared;
    let diagnosis = shared.doctor.diagnose(&worker.fetcher, shared.in_overlay());
    web::Json(diagnosis.await)
}
