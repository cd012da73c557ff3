//! `/v1/peers` and `/v1/discover`, as far as they command the flood overlay: links made and ended
//! by a person, and what other peers share.

use std::{convert::Infallible, time::Duration};

use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures_util::StreamExt;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use tokio_stream::wrappers::ReceiverStream;
use vecino_rest::{
    Kind, PeerUrl,
    body::{Page, Variant},
    overlay::{ConnectRequest, DISCOVER_MEDIA_TYPE, DiscoverRequest},
    route,
};

use super::{
    context::Worker,
    error::{ApiError, shown},
    request,
};
use crate::locate::flood::{Discovery, Flood, limits::MAX_HOPS};

/// Longest time that a discovery may be asked to take, in milliseconds.
const MAX_WAIT_MS: u64 = 60_000;

fn flood(worker: &Worker) -> Result<&Flood, ApiError> {
    worker.shared.flood().ok_or_else(|| {
        ApiError::new(
            Kind::NotSupported,
            "this peer is not part of the flood overlay: set LOCATE_BY=flood and OVERLAY_PORT",
        )
    })
}

/// `POST /v1/peers`.
pub async fn connect(
    mut payload: web::Payload,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let flood = flood(&worker)?;
    let body: ConnectRequest = request::json(&mut payload, r#"{"url": URL}"#).await?;
    let url = PeerUrl::parse_endpoint(&body.url, None)
        .map_err(|error| ApiError::new(Kind::BadRequest, error.to_string()))?;
    if url.is_https() {
        return Err(ApiError::new(
            Kind::BadRequest,
            format!("{url} is https: overlays speak http"),
        ));
    }
    let (link, is_new) = flood.connect(&url).await?;
    let mut response = if is_new {
        HttpResponse::Created()
    } else {
        HttpResponse::Ok()
    };
    Ok(response.json(link))
}

/// `DELETE /v1/peers/PEER`.
pub async fn disconnect(
    request: HttpRequest,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let flood = flood(&worker)?;
    let encoded = request
        .uri()
        .path()
        .strip_prefix(route::PEERS)
        .unwrap_or_default();
    let peer = percent_decode_str(encoded.trim_start_matches('/')).decode_utf8_lossy();
    if flood.disconnect(&peer).await {
        return Ok(HttpResponse::NoContent().finish());
    }
    Err(ApiError::new(
        Kind::NotFound,
        format!(
            "there is no link with {:?}: give the peer id or the URL of one that `peers` lists as flood",
            shown(&peer)
        ),
    ))
}

/// `POST /v1/discover`.
pub async fn discover(
    mut payload: web::Payload,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let flood = flood(&worker)?;
    let body: DiscoverRequest =
        request::json(&mut payload, r#"{"ttl"?: 1-5, "wait_ms"?: MILLISECONDS}"#).await?;
    if let Some(ttl) = body.ttl.filter(|ttl| !(1..=MAX_HOPS).contains(ttl)) {
        return Err(ApiError::new(
            Kind::BadRequest,
            format!("ttl={ttl}: expected 1 to {MAX_HOPS}"),
        ));
    }
    if let Some(wait) = body
        .wait_ms
        .filter(|wait| !(1..=MAX_WAIT_MS).contains(wait))
    {
        return Err(ApiError::new(
            Kind::BadRequest,
            format!("wait_ms={wait}: expected 1 to {MAX_WAIT_MS}"),
        ));
    }
    let discovery = Discovery::new(body.ttl, body.wait_ms.map(Duration::from_millis));
    let events = flood.discover(discovery).ok_or_else(|| {
        ApiError::new(
            Kind::Busy,
            "too many discoveries run already: try again later",
        )
    })?;
    let lines = ReceiverStream::new(events).map(|event| {
        let mut line = serde_json::to_vec(&event).expect("an event is plain data");
        line.push(b'\n');
        Ok::<_, Infallible>(Bytes::from(line))
    });
    Ok(HttpResponse::Ok()
        .content_type(DISCOVER_MEDIA_TYPE)
        .streaming(lines))
}

#[derive(Debug, Deserialize)]
struct ListQuery {
    #[serde(default)]
    prefix: String,
    limit: Option<u32>,
    cursor: Option<String>,
}

/// `GET /v1/discover`.
pub async fn discovered(
    request: HttpRequest,
    worker: web::Data<Worker>,
) -> Result<web::Json<Page<Variant>>, ApiError> {
    let flood = flood(&worker)?;
    let query: ListQuery = request::query(&request)?;
    let limit = request::limit(query.limit)?;
    let page = flood.discovered(&query.prefix, limit, query.cursor.as_deref())?;
    Ok(web::Json(page))
}
