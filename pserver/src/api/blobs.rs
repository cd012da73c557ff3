//! `/v1/blobs`: content by digest, for other peers and for any HTTP client. What is being fetched
//! is given out as well, as far as it is verified.

use std::{net::IpAddr, ops::Range, time::Duration};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{Method, header},
    web,
};
use serde::Deserialize;
use tokio::time::{Instant, sleep_until, timeout_at};
use vecino_rest::{
    Digest, Kind,
    body::{Have, Pieces},
};

use super::{
    context::Worker,
    error::ApiError,
    request,
    respond::{self, Described, Prepared},
};
use crate::upload::{
    Slot,
    slots::{Busy, What},
};

/// A long poll is held for so long.
const HELD_FOR: Duration = Duration::from_secs(20);
/// And no shorter than this, so that many changes make one answer.
const GATHER: Duration = Duration::from_millis(20);

fn digest(text: &str) -> Result<Digest, ApiError> {
    text.parse()
        .map_err(|error| ApiError::new(Kind::BadRequest, format!("{error}")))
}

fn not_held(digest: &Digest) -> ApiError {
    ApiError::new(Kind::NotFound, format!("this peer does not hold {digest}"))
}

/// Waits for a slot to send `range` of a content in; a `HEAD` needs none.
async fn slot(
    request: &HttpRequest,
    worker: &Worker,
    digest: Digest,
    range: &Range<u64>,
) -> Result<Slot, ApiError> {
    let bytes = if *request.method() == Method::HEAD {
        0
    } else {
        range.end - range.start
    };
    let what = What {
        digest,
        offsets: vec![range.start],
        // Crowds fetch in the other way, by sendfile.
        along: Vec::new(),
    };
    let asker = request
        .peer_addr()
        .map_or(IpAddr::from([0, 0, 0, 0]), |addr| addr.ip());
    let slot = worker.shared.slots.take(asker, what, bytes).await;
    slot.map(|(slot, _)| slot).map_err(|Busy| busy())
}

/// No slot became free in time.
pub fn busy() -> ApiError {
    ApiError::new(
        Kind::Busy,
        "this peer sends to as many as it can: try again in a moment",
    )
}

/// `GET, HEAD /v1/blobs/DIGEST`.
pub async fn get(
    request: HttpRequest,
    path: web::Path<String>,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let digest = digest(&path)?;
    let store = &worker.shared.store;
    if let Some(entry) = store.catalogue().by_digest(&digest)
        && let Some(file) = store.read(entry).await?
    {
        let entry = file.entry().clone();
        let content = Described {
            name: &entry.name,
            digest,
            size: entry.stamp.size,
            source: "local",
        };
        return match respond::prepare(&request, &content)? {
            Prepared::Answered(response) => Ok(response),
            Prepared::Body(builder, range) => {
                let length = range.end - range.start;
                let slot = slot(&request, &worker, digest, &range).await?;
                let (shared, bytes) = (&worker.shared, file.stream(range));
                Ok(respond::body(builder, length, shared, bytes, Some(slot)))
            }
        };
    }
    let job = worker.shared.downloads.job(&digest);
    let job = job.ok_or_else(|| not_held(&digest))?;
    let name = job.name();
    let content = Described {
        name: &name,
        digest,
        size: job.layout.size(),
        source: "local",
    };
    match respond::prepare(&request, &content)? {
        Prepared::Answered(response) => Ok(response),
        Prepared::Body(builder, range) => {
            if !job.holds(&range) {
                return Err(ApiError::new(
                    Kind::NotFound,
                    format!("this peer does not hold these bytes of {digest} yet"),
                ));
            }
            let length = range.end - range.start;
            let slot = slot(&request, &worker, digest, &range).await?;
            let bytes = job.verified_stream(range);
            let shared = &worker.shared;
            Ok(respond::body(builder, length, shared, bytes, Some(slot)))
        }
    }
}

/// `GET /v1/blobs/DIGEST/pieces`.
pub async fn pieces(
    path: web::Path<String>,
    worker: web::Data<Worker>,
) -> Result<web::Json<Pieces>, ApiError> {
    let digest = digest(&path)?;
    if let Some(pieces) = worker.shared.store.pieces(digest).await? {
        return Ok(web::Json(pieces));
    }
    let job = worker.shared.downloads.job(&digest);
    let pieces = job.and_then(|job| {
        Some(Pieces {
            digest,
            size: job.layout.size(),
            piece_size: job.layout.piece_size(),
            pieces: job.pieces()?,
        })
    });
    pieces.map(web::Json).ok_or_else(|| not_held(&digest))
}

#[derive(Debug, Deserialize)]
struct HaveQuery {
    since: Option<u64>,
}

/// `GET /v1/blobs/DIGEST/have`.
pub async fn have(
    request: HttpRequest,
    path: web::Path<String>,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let digest = digest(&path)?;
    let query: HaveQuery = request::query(&request)?;
    let arrived = Instant::now();
    loop {
        if let Some(entry) = worker.shared.store.catalogue().by_digest(&digest) {
            return Ok(told(&Have {
                version: 0,
                size: entry.stamp.size,
                whole: true,
                have: String::new(),
                coming: String::new(),
            }));
        }
        let job = worker.shared.downloads.job(&digest);
        let job = job.ok_or_else(|| not_held(&digest))?;
        if let Some(since) = query.since {
            let held_until = arrived + HELD_FOR;
            let is_late = timeout_at(held_until, job.have_changed(since)).await;
            sleep_until(arrived + GATHER).await;
            // It ended meanwhile: it is held whole now, or not at all.
            if job.outcome().is_some() && is_late.is_ok() {
                drop(job);
                continue;
            }
        }
        return Ok(told(&job.have()));
    }
}

fn told(have: &Have) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .json(have)
}
