//! `/v1/events`: server-sent events (the HTML standard, "Server-sent events"), resumed by
//! `Last-Event-ID`.

use std::{convert::Infallible, time::Duration};

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use bytes::Bytes;
use futures_util::stream;
use serde::Deserialize;
use tokio::time::timeout;
use vecino_rest::{Digest, Kind};

use super::{
    context::Worker,
    error::{ApiError, shown},
    request,
};
use crate::events::Listener;

/// A quiet stream says so often that it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// What it says then: a comment.
const COMMENT: &[u8] = b":\n\n";
/// First of all: how many milliseconds to wait before coming back.
const RETRY: &[u8] = b"retry: 2000\n\n";

#[derive(Debug, Deserialize)]
struct Query {
    last_event_id: Option<String>,
    digest: Option<String>,
}

/// `GET /v1/events[?digest=][&last_event_id=]`.
pub async fn listen(
    request: HttpRequest,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let query: Query = request::query(&request)?;
    let header = request.headers().get("Last-Event-ID");
    let header = header.map(|value| value.to_str().unwrap_or("\u{fffd}").to_owned());
    let after = header
        .or(query.last_event_id)
        .filter(|text| !text.is_empty())
        .map(|text| {
            text.parse::<u64>().map_err(|_| {
                let detail = format!("Last-Event-ID {:?} is not the id of an event", shown(&text));
                ApiError::new(Kind::BadRequest, detail)
            })
        })
        .transpose()?;
    let about = query
        .digest
        .map(|text| text.parse::<Digest>())
        .transpose()
        .map_err(|error| ApiError::new(Kind::BadRequest, error.to_string()))?;
    let listener = worker.shared.events.listen(after, about).ok_or_else(|| {
        ApiError::new(
            Kind::Busy,
            "too many listen to events already: try again later",
        )
    })?;
    Ok(HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .streaming(stream::unfold(Some((listener, true)), next)))
}

type Place = Option<(Listener, bool)>;

async fn next(place: Place) -> Option<(Result<Bytes, Infallible>, Place)> {
    let (mut listener, is_first) = place?;
    if is_first {
        return Some((Ok(Bytes::from_static(RETRY)), Some((listener, false))));
    }
    let events = match timeout(KEEP_ALIVE, listener.next()).await {
        Ok(events) => events?,
        Err(_) => Bytes::from_static(COMMENT),
    };
    Some((Ok(events), Some((listener, false))))
}
