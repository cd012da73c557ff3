//! `/v1/neighbour`: what this peer does for those whose neighbour it is.

use std::convert::Infallible;

use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use vecino_rest::{
    Kind, PeerId,
    body::{
        LocateMany, LocateQuery, Located, LocatedOne, PlaceQuery, Placed, SearchPage, SearchQuery,
    },
    doctor::{ReachQuery, Reached},
};

use super::{context::Worker, error::ApiError, request};

/// The media type of a line of JSON for each answer.
const JSON_LINES: &str = "application/x-ndjson";
/// Lookups of one request that run, or wait for being read, at once.
const LOOKED_UP_AT_ONCE: usize = 8;
/// Most peers that can be asked for to take a copy.
const MAX_PLACES: u32 = 16;

/// `POST /v1/neighbour/locate`.
pub async fn locate(
    mut payload: web::Payload,
    worker: web::Data<Worker>,
) -> Result<web::Json<Located>, ApiError> {
    let query: LocateQuery =
        request::json(&mut payload, r#"{"name": NAME} or {"digest": DIGEST}"#).await?;
    check(&query)?;
    let variants = worker.shared.inbound.locate(query).await?;
    Ok(web::Json(Located {
        variants: variants.to_vec(),
    }))
}

fn check(query: &LocateQuery) -> Result<(), ApiError> {
    if query.name.is_some() == query.digest.is_some() {
        return Err(ApiError::new(
            Kind::BadRequest,
            "give either name or digest",
        ));
    }
    Ok(())
}

/// `POST /v1/neighbour/locate-many`: what is known at the same time goes out together.
pub async fn locate_many(
    mut payload: web::Payload,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let LocateMany { queries } =
        request::json(&mut payload, r#"{"queries": [{"name": NAME}, ...]}"#).await?;
    let count = queries.len();
    if !(1..=LocateMany::MAX).contains(&count) {
        let detail = format!("{count} queries: expected 1 to {}", LocateMany::MAX);
        return Err(ApiError::new(Kind::BadRequest, detail));
    }
    let shared = worker.shared.clone();
    let answers = (0..).zip(queries).map(move |(number, query)| {
        let shared = shared.clone();
        async move {
            let located = match check(&query) {
                Ok(()) => shared.inbound.locate(query).await.map_err(ApiError::from),
                Err(error) => Err(error),
            };
            let (variants, problem) = match located {
                Ok(variants) => (variants.to_vec(), None),
                Err(error) => (Vec::new(), Some(error.into_problem())),
            };
            LocatedOne {
                query: number,
                variants,
                problem,
            }
        }
    });
    let answers = stream::iter(answers).buffer_unordered(LOOKED_UP_AT_ONCE);
    let mut lines = answers.ready_chunks(LOOKED_UP_AT_ONCE).map(|answers| {
        let mut lines = Vec::new();
        for answer in answers {
            serde_json::to_writer(&mut lines, &answer).expect("an answer is plain data");
            lines.push(b'\n');
        }
        Ok::<_, Infallible>(Bytes::from(lines))
    });
    // The head goes out with the first of them.
    let first = lines.next().await;
    Ok(HttpResponse::Ok()
        .content_type(JSON_LINES)
        .streaming(stream::iter(first).chain(lines)))
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

/// `POST /v1/neighbour/reach`: connects back to whoever asks.
pub async fn reach(
    request: HttpRequest,
    mut payload: web::Payload,
    worker: web::Data<Worker>,
) -> Result<web::Json<Reached>, ApiError> {
    let query: ReachQuery =
        request::json(&mut payload, r#"{"peer": PEER, "url": "http://host:port"}"#).await?;
    let from = request
        .peer_addr()
        .ok_or_else(|| ApiError::new(Kind::BadRequest, "it comes from no address"))?;
    let shared = &worker.shared;
    let on_loopback = shared.presence.on_loopback();
    let answer = shared
        .probes
        .answer(&query, from.ip(), shared.peer, on_loopback);
    Ok(web::Json(answer.await?))
}

/// `GET /v1/neighbour/reach/PEER`: 204 when this is that peer.
pub async fn is_it(
    path: web::Path<String>,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let asked: PeerId = path
        .parse()
        .map_err(|error| ApiError::new(Kind::BadRequest, format!("{error}")))?;
    if asked == worker.shared.peer {
        return Ok(HttpResponse::NoContent().finish());
    }
    Err(ApiError::new(Kind::NotFound, "this is another peer"))
}
