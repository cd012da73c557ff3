//! `PUT /v1/blobs/DIGEST?name=NAME`: takes a copy from another peer.

use std::net::Ipv4Addr;

use actix_web::{
    HttpRequest, HttpResponse,
    http::{StatusCode, header},
    web,
};
use serde::Deserialize;
use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};
use vecino_rest::{Digest, Kind, Name, body::Stored};

use super::{context::Worker, error::ApiError, request};
use crate::{
    content::{
        catalogue::Entry,
        replica::{Replica, ReplicaError},
    },
    copies::{self, MAX_COPIES},
    limit::Limiter,
};

/// Headers that browsers send with every `PUT`, and peers never.
const OF_BROWSERS: [&str; 2] = ["origin", "sec-fetch-site"];

#[derive(Debug, Deserialize)]
struct PutQuery {
    name: String,
}

/// Handles it. What is held already is answered without reading the body: where that is under
/// another name, after it was copied.
pub async fn put(
    request: HttpRequest,
    path: web::Path<String>,
    mut payload: web::Payload,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let bad = |why: String| ApiError::new(Kind::BadRequest, why);
    if OF_BROWSERS
        .iter()
        .any(|name| request.headers().contains_key(*name))
    {
        let why = "copies come from peers, and never from a page in a browser";
        return Err(ApiError::new(Kind::ForeignOrigin, why));
    }
    let digest: Digest = path.parse().map_err(|error| bad(format!("{error}")))?;
    let query: PutQuery = request::query(&request)?;
    let name = Name::parse(&query.name)?;
    let size = request::content_length(&request)
        .ok_or_else(|| bad("a copy needs Content-Length: its bytes".to_owned()))?;
    let store = &worker.shared.store;
    if let Some(entry) = store.held_as(&name, &digest)
        && let Some(held) = store.read(entry).await?
    {
        return Ok(answer(StatusCode::OK, held.entry(), &worker));
    }
    let held = match store.catalogue().by_digest(&digest) {
        Some(entry) => store.read(entry).await?,
        None => None,
    };
    let size = held.as_ref().map_or(size, |held| held.entry().stamp.size);
    if !store.keeps_size(size) {
        return Err(ApiError::new(Kind::NotKept, store.why_not_kept(size)));
    }
    let from = request.peer_addr().map(|addr| addr.ip());
    let from = from.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    if let Some(held) = held {
        let entry = store.copy_held(held, name, from).await?;
        return Ok(answer(StatusCode::CREATED, &entry, &worker));
    }
    let replica = store.begin_replica(name, digest, size, from).await?;
    let limit = &worker.shared.download_limit;
    let within = copies::time_for(size, MAX_COPIES, limit.rate());
    let received = timeout(within, receive(&mut payload, replica, limit)).await;
    let replica = received.map_err(|_| bad(format!("it took longer than {within:?}")))??;
    let entry = replica.keep().await?;
    worker.shared.metrics.bytes_received.inc_by(size);
    Ok(answer(StatusCode::CREATED, &entry, &worker))
}

fn answer(status: StatusCode, entry: &Entry, worker: &Worker) -> HttpResponse {
    HttpResponse::build(status)
        .insert_header((header::ETAG, format!("\"{}\"", entry.digest)))
        .json(Stored {
            name: entry.name.clone(),
            digest: entry.digest,
            size: entry.stamp.size,
            holders: worker.shared.own_url().into_iter().collect(),
        })
}

/// One block is written and hashed while the next one comes.
async fn receive(
    payload: &mut web::Payload,
    replica: Replica,
    limit: &Limiter,
) -> Result<Replica, ApiError> {
    let done = async |writing: JoinHandle<Result<Replica, ReplicaError>>| {
        let written = writing.await;
        let written = written.map_err(|_| ApiError::new(Kind::Internal, "interrupted"))?;
        written.map_err(ApiError::from)
    };
    let mut writing = spawn_blocking(move || Ok(replica));
    while let Some(block) = request::next_block(payload).await? {
        limit.take(block.len() as u64).await;
        let mut replica = done(writing).await?;
        writing = spawn_blocking(move || replica.write(&block).map(|()| replica));
    }
    done(writing).await
}
